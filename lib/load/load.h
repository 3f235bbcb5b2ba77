/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load: drives a vhost-user-blk back-end as a guest would, as fast as its cores can, or a
 * vhost-user-scsi one, with READ(10) and WRITE(10) to LUN 0 of target 0. vhost_load and `vhostctl
 * bench` are made of it.
 *
 * The library lib/client sets the device up; the loop (loop.c) is its own and does only what a
 * measurement needs. Each queue has qd request slots whose descriptor chains are built once: one
 * indirect table each (as Linux sends them where INDIRECT_DESC is negotiated), or three
 * descriptors. A pass over a queue takes all used entries, writes a new sector into each request,
 * and publishes the slots again with one store, of the avail index or, in a packed ring, of the
 * first descriptor's flags; it kicks only if the device asks for it. Time is read once a pass, so
 * a latency runs from the pass that sent the request to the pass that found it done: average
 * latency times IOPS is the queue depth. With poll and EVENT_IDX a split ring still gets one
 * call for each 65,536 requests, as it does under Linux: nothing else can be asked for there.
 *
 * Functions return 0 or a negative errno. A load belongs to one thread, but for what is said below.
 */
#ifndef VHOSTD_LOAD_H
#define VHOSTD_LOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

#include "client/client.h"

#define LOAD_STALL_SECONDS  10 /* without any completion: give up */
#define LOAD_MAX_THREADS    64
#define LOAD_MAX_DEPTH      4096
#define LOAD_MAX_BLOCK_SIZE (16u << 20)
#define LOAD_SLICE_MS       20 /* so often a worker says how far it is */

/* Log-linear: 32 buckets for each power of two, 3 % wide. */
#define BUCKET_BITS 5
#define BUCKETS     (((64 - BUCKET_BITS) << BUCKET_BITS) + (1 << BUCKET_BITS))

struct load_options {
	const char *socket;
	const char *rw;            /* of load_set_workload() */
	const char *indirect_mode; /* "on", "off", or "auto": where it is offered */
	const char *cpu_list;      /* of load_set_cpus(); NULL: any */
	unsigned int block_size;   /* bytes, a multiple of 512 */
	unsigned int depth;        /* of each queue */
	unsigned int queues;
	unsigned int threads; /* at most as many as queues */
	unsigned int rate;    /* requests a second, one at a time; 0: as many as can be */
	double seconds;
	double ramp; /* seconds before the measured ones */
	bool packed;
	bool event_idx;
	bool inflight;
	bool poll; /* never wait for a call */
	bool scsi; /* not with both reads and writes */

	/* of rw */
	bool reads;
	bool writes;
	bool random;

	/* of cpu_list; 0: any */
	unsigned int cpu_count;
	unsigned int cpus[LOAD_MAX_THREADS];
};

/* A descriptor of a packed ring as two words: the second is length, buffer id and flags. */
struct packed_words {
	uint64_t addr;
	uint64_t rest;
};

#define PACKED_ID_SHIFT    32
#define PACKED_FLAGS_SHIFT 48
#define PACKED_AVAIL       (1ULL << (PACKED_FLAGS_SHIFT + VRING_PACKED_DESC_F_AVAIL))
#define PACKED_USED        (1ULL << (PACKED_FLAGS_SHIFT + VRING_PACKED_DESC_F_USED))
#define PACKED_WRAP        (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

/* A block request and its status, in one cache line as in Linux. */
struct blk_request {
	struct virtio_blk_outhdr header;
	uint8_t status;
};

/* A SCSI request and its response. */
struct scsi_request {
	struct virtio_scsi_cmd_req command;
	_Alignas(64) struct virtio_scsi_cmd_resp response;
};

struct slot {
	void *request;              /* of either kind; NULL: no chain starts here */
	uint16_t *data_flags;       /* of the descriptor of the data */
	struct packed_words *chain; /* packed: what is copied to the ring, without wrap */
	uint64_t started;           /* TSC */
};

struct queue {
	/* set once */
	struct vring_used *used;
	struct vring_avail *avail;
	struct packed_words *ring;
	struct vring_packed_desc_event *driver_event, *device_event;
	struct slot *slots;               /* by head descriptor; packed: by buffer id */
	struct packed_words *chains;      /* of all slots */
	uint64_t blocks;                  /* of the disk, below 2^32 */
	uint64_t first_block, last_block; /* of this queue's part, for sequential work */
	uint32_t sectors_per_block;
	uint16_t size;          /* a power of two */
	uint16_t descriptors;   /* of the ring, per request */
	uint16_t data_flags[2]; /* of a read, of a write */
	bool scsi;
	bool random;
	bool mixed;
	bool event_idx;
	int kick_fd, call_fd;

	/* changing */
	uint64_t rng;
	uint64_t next_block;
	uint64_t avail_bits,
		used_bits;   /* packed: what the AVAIL and USED bits are this time round */
	uint16_t used_index; /* packed: positions */
	uint16_t avail_index;
	uint16_t outstanding;
} __attribute__((aligned(64)));

struct load_stats {
	uint64_t ios;
	uint64_t ticks; /* sum of latencies */
	uint64_t errors;
	uint64_t kicks;
	uint64_t buckets[BUCKETS];
};

/* One thread of the front-end, with queues that no other thread touches. */
struct worker {
	/* set once */
	const struct load_options *options;
	const atomic_bool *stop; /* of the load */
	struct queue *queues;
	unsigned int queue_count;
	unsigned int index;
	int socket; /* of the connection, to see whether it is there */
	double tsc_hz;
	pthread_t thread;

	/* written by its thread once a slice (with a rate: not at all); any thread may read */
	_Atomic uint64_t progress; /* requests done in the measured time */

	/* its thread only, until that has ended */
	struct load_stats stats;
	uint64_t last_completion; /* TSC */
	uint64_t total_ios;       /* ramp and drain included */
	double seconds;
	int rc;       /* of the measurement */
	int drain_rc; /* of what came after it */
} __attribute__((aligned(64)));

struct load {
	struct load_options options; /* set by the user, checked by load_options_valid() */
	atomic_bool stop;            /* any thread or signal handler: the measurement ends early */

	/* set by load_open() */
	struct client_device device;
	struct queue *queues;
	struct worker *workers;
	bool indirect;

	/* set by load_measure() */
	double tsc_hz;
	uint64_t sectors; /* of the disk */
};

/* All threads together. */
struct load_result {
	struct load_stats stats; /* of the measured time; the errors also of what came after it */
	double iops;
	double average_us;
	double seconds; /* of the longest */
	uint64_t total_ios;
	double tsc_hz;
};

static inline uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* ---- options (options.c) ---- */

/* What vhost_load does when nothing is said; no socket. */
extern const struct load_options load_default_options;

/* Fills what follows from rw: -EINVAL if there is no such workload, or not with scsi. */
int load_set_workload(struct load_options *options);

/* Fills what follows from cpu_list: -EINVAL if it is no list of CPUs. */
int load_set_cpus(struct load_options *options);

bool load_options_valid(const struct load_options *options);

/* Restricts the calling thread to one CPU. */
int load_pin(unsigned int cpu);

/* ---- a run (run.c) ---- */

/*
 * Connects to options.socket; -ENOTSUP where the back-end does not offer what the options ask for,
 * -ERANGE where it has fewer queues. load_close() afterwards, also when this fails.
 */
int load_open(struct load *load);
void load_close(struct load *load);

/*
 * Of the started device (client_device_start()): builds the requests, runs for the ramp and the
 * measured time on threads of its own and the calling one, and drains. -EROFS: writes to a disk
 * that takes none. *result is filled in also for -EIO, some requests failed.
 */
int load_measure(struct load *load, struct load_result *result);

/*
 * Requests done in the measured time up to the last slice. Any thread, while load_measure() runs.
 */
uint64_t load_progress(const struct load *load);

/* 0 if there were no requests. */
double load_percentile_us(const struct load_result *result, double percent);

/* ---- private to lib/load ---- */

/* Connects and negotiates. */
int load_connect(struct load *load);

/* Builds the requests of one queue of the started device. */
int load_prepare_queue(struct load *load, unsigned int index);

/*
 * Of the started device: finds out how big the LUN is, when it has reported its unit attentions.
 * -EIO: a command fails; -ENOTSUP: its blocks are not those of the options.
 */
int load_scsi_begin(struct load *load);

/* The queue's request that reads or writes count blocks; its place comes later. */
void load_scsi_fill(struct scsi_request *request, bool writes, uint16_t count);

/* Submits, runs for the ramp and the measured time, and drains. The worker's own thread. */
void load_run_worker(struct worker *worker);

#endif
