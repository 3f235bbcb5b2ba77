/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The parts of path_bench: its front-end (front_end.c), which takes turns with the daemon
 * (driver.c), and an NVMe device that does, too (nvme_device.c).
 */
#ifndef BENCH_PATH_H
#define BENCH_PATH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client.h"
#include "coroutine.h"
#include "thread.h"
#include "vhost.h"

#define PATH_BLOCK      4096u
#define PATH_DISK_BYTES (64u << 20)
#define PATH_MAX_DEPTH  128
#define PATH_MAX_QUEUES 16

/* What a front-end negotiates, and how it builds its requests. */
struct path_shape {
	bool packed;
	bool event_idx;
	bool inflight;
	bool direct; /* three descriptors in the ring; else one, of an indirect table */
};

/* One thread's, as is its ring. */
struct path_queue {
	struct client_ring *ring;
	struct client_blk blk; /* one or the other */
	struct client_scsi scsi;
	uint64_t buffers[PATH_MAX_DEPTH]; /* guest-physical */
} __attribute__((aligned(64)));

struct path_front_end {
	/* set by the caller */
	char path[VHOST_SOCKET_PATH_MAX + 1];
	const struct path_shape *shape;
	bool scsi;                /* the disk is LUN 0 of target 0 of a SCSI controller */
	unsigned int queue_count; /* of requests; 0: it only is there, with one queue */

	struct client_device device;
	struct path_queue queues[PATH_MAX_QUEUES];
};

/*
 * On a worker, since they wait for the daemon's answers; arg is the front-end. 0 or a negative
 * errno; -ENOTSUP: the daemon does not offer the shape; -ERANGE: nor so many queues.
 */
int path_front_end_open(void *arg);
int path_front_end_close(void *arg);

/* Ends the program where the bench itself is at fault. */
void path_fail(const char *what, int rc) __attribute__((noreturn));

enum path_phase {
	PATH_WARM_UP,
	PATH_COUNTED,
	PATH_GOES_ON, /* until the other drivers are done with counting */
	PATH_DRAINED,
};

/* Keeps some queues of the front-end busy, in turn with the daemon on the same reactor. */
struct path_driver {
	/* set once */
	struct path_front_end *front;
	struct thread *thread;
	unsigned int first, stride; /* queues first, first + stride, ... */
	unsigned int depth;
	bool write;
	uint64_t wanted;  /* I/Os to be counted */
	const char *name; /* of the case */
	bool nvme;        /* the device has its turn, too */
	struct completion *done;
	atomic_uint *counting; /* drivers that are not done with it */

	/* its thread only; whoever waited for `done` after that */
	struct poller *poller;
	enum path_phase phase;
	unsigned int outstanding;
	uint64_t random;
	uint64_t reaped;           /* in this phase */
	uint32_t nvme_queues;      /* those of the device that are on this reactor */
	uint64_t left;             /* when the last turn ended, ... */
	uint64_t left_allocations; /* ... and the thread's allocations until then */
	uint64_t begin;            /* of the counting */

	/*
	 * results: I/Os, iterations of the reactor, ticks and allocations of the daemon's turns,
	 * ticks of all turns
	 */
	uint64_t ios;
	uint64_t iterations;
	uint64_t ticks;
	uint64_t allocations;
	uint64_t elapsed;
} __attribute__((aligned(64)));

/* [waits] In a coroutine: runs the drivers at the same time, each on its thread, to their end. */
void path_drive(struct path_driver *drivers, unsigned int count);

#endif
