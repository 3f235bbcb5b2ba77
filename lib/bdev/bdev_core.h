/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_core: what the files of the core share. Private to lib/bdev. */
#ifndef VHOSTD_BDEV_CORE_H
#define VHOSTD_BDEV_CORE_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "bdev.h"
#include "bdev_info.h"
#include "coroutine.h"
#include "request_fifo.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

struct bdev_collect;

struct bdev_desc {
	/* Set once. */
	struct bdev *bdev;
	bool write;
	char *user;
	bdev_event_fn event;
	void *event_ctx;
	/* App thread only. */
	uint64_t last_event; /* number of the event it was told last */
	TAILQ_ENTRY(bdev_desc) link;
	/* Any thread. */
	_Atomic uint32_t channels;
};

struct bdev {
	/* Set once; num_blocks and size: app thread only. */
	struct bdev_info info;
	const struct bdev_ops *ops;
	void *ctx;
	/* Written by the app thread, read by any: info.size for the data path. */
	_Atomic uint64_t size;
	/* App thread only. */
	bool removing;  /* hidden, cannot be opened; the name is still taken */
	uint32_t users; /* descs, statistics under way, and 1 until the end begins */
	uint64_t events;
	struct completion *quiet; /* the end: the channels and their counters are gone */
	struct completion *gone;  /* who waits for the end */
	struct thread_msg quiet_msg;
	TAILQ_HEAD(, bdev_desc) descs;
	TAILQ_ENTRY(bdev) link;
	struct bdev_io_stat ended;                   /* of channels that are gone */
	struct bdev_collect *collect, *last_collect; /* the first one is running */
	uint64_t collects;                           /* number of the running one; from 1 */
};

/* Of one type; on one cache line. */
struct bdev_type_stat {
	uint64_t ops;
	uint64_t bytes;
	uint64_t errors;
	uint64_t latency_ticks;
	uint64_t max_latency_ticks;
	uint64_t min_latency_ticks;
} __attribute__((aligned(64)));

/*
 * The statistics of one thread's channel. Allocated by themselves, since they outlive it on their
 * way to the app thread.
 */
struct bdev_channel_counters {
	struct bdev_type_stat types[BDEV_IO_TYPES];
	uint64_t collected; /* number of the last collection that saw them */
	struct bdev *bdev;
	struct thread_msg msg;
};

/* A thread's part of a bdev: what its io_channel holds. Channel's thread only. */
struct bdev_thread_channel {
	struct bdev *bdev;
	struct bdev_channel_counters *counters;
	uint32_t depth;     /* bdev_submit() calls on the stack */
	uint32_t in_flight; /* requests, without those that wait in `held` */
	/* Done, with their status in core_ctx, by calls too deep on the stack to say so. */
	struct request_fifo deferred;
	struct request_fifo drains; /* RESETs waiting for in_flight to be 0 */
	struct request_fifo held;   /* submitted while drains wait */
	uint32_t pieces_running;
	struct request_fifo pieces_waiting;
	bool pieces_starting;
	_Alignas(16) uint8_t module_ctx[];
};

/*
 * One user's view of it, with all that the data path needs beside each other. Channel's thread
 * only.
 */
struct bdev_channel {
	/* Set once. */
	void (*submit)(void *channel_ctx, struct bdev_request *rq);
	void *module_ctx;
	struct bdev_thread_channel *thread_channel;
	const struct thread *thread;
	struct bdev *bdev;
	uint64_t max_transfer;
	uint32_t max_iovs;
	uint32_t block_mask;     /* block size - 1 */
	uint32_t alignment_mask; /* of iovecs */
	uint32_t io_types;       /* that this user may submit */
	bool core_fua;           /* the core adds the flush */
	bool write_cache;
	bool read_only; /* the bdev, or opened so */
	struct bdev_desc *desc;
	struct io_channel *io_channel;
};

/* ---- bdev_channel.c ---- */

int bdev_thread_channel_create(void *dev, void *channel_ctx);
void bdev_thread_channel_destroy(void *dev, void *channel_ctx);

/* ---- bdev_io.c ---- */

/* For what the core submits when the user is not about to flush. */
void bdev_thread_channel_flush(struct bdev_thread_channel *thread_channel);

/* ---- bdev_pieces.c ---- */

/* A READ or WRITE that the module cannot take as it is: misaligned, too many iovecs or bytes. */
void bdev_pieces_submit(struct bdev_request *rq);

/* ---- bdev.c: app thread ---- */

struct thread *bdev_app_thread(void);
/* Keeps the bdev from being freed. */
void bdev_get(struct bdev *bdev);
void bdev_put(struct bdev *bdev);

/* ---- bdev_stat.c ---- */

/*
 * On the channel's thread, which is done with the counters: adds them up on the app thread and
 * frees them.
 */
void bdev_counters_end(struct bdev_channel_counters *counters);

#endif
