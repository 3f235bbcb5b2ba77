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

struct bdev_walk;
struct bdev_memories;
struct bdev_meter;

struct bdev_desc {
	/* Set once. */
	struct bdev *bdev;
	enum bdev_use use;
	char *user;
	bdev_event_fn event;
	void *event_ctx;
	/* App thread only. */
	uint64_t last_event; /* number of the event it was told last */
	/* Who writes alone through it: itself, or users of the bdev on top whose desc it is. */
	uint32_t alone;
	TAILQ_ENTRY(bdev_desc) link;
	/* Any thread. */
	_Atomic uint32_t channels;
};

/* What channels that are gone have counted. App thread only. */
struct bdev_ended {
	struct bdev_io_stat stat;
	struct bdev_tally *tally; /* NULL: none */
};

/* See bdev_rate.c. Times are env_ticks(). */
struct bdev_rates {
	/* Written by the app thread, read by any. */
	_Alignas(64) _Atomic bool on;
	_Atomic uint64_t cost[BDEV_RATES]; /* of one, in fractions of a tick; 0: no limit */
	/* Any thread. */
	_Alignas(64) _Atomic uint64_t next[BDEV_RATES]; /* when the next one is in time */
	_Atomic uint32_t waiting;                       /* channels */
	/* App thread only. */
	_Alignas(64) uint64_t per_second[BDEV_RATES];
	uint32_t changes;
};

struct bdev {
	/* Set once; num_blocks and size: app thread only. */
	struct bdev_info info;
	const struct bdev_ops *ops;
	void *ctx;
	struct bdev_memories *memories; /* NULL: it does no DMA */
	/* Written by the app thread, read by any: info.size for the data path. */
	_Atomic uint64_t size;
	/* Written by the app thread, read by any. Odd: histograms are on; one up at each change. */
	_Atomic uint32_t histogram_era;
	/* App thread only; on lines that the data path does not read. */
	_Alignas(64) bool removing; /* hidden, cannot be opened; the name is still taken */
	uint32_t users;             /* descs, walks under way, and 1 until the end begins */
	uint64_t events;
	struct completion *quiet; /* the end: the channels and their counters are gone */
	struct completion *gone;  /* who waits for the end */
	struct thread_msg quiet_msg;
	TAILQ_HEAD(, bdev_desc) descs;
	struct bdev_desc *lower; /* of the bdev that it is made of; or NULL */
	TAILQ_ENTRY(bdev) link;
	struct bdev_walk *walk, *last_walk; /* the first one is running */
	uint64_t walks;                     /* number of the running one; from 1 */
	struct bdev_ended ended;
	struct bdev_ended ended_later; /* the running walk visited them before they ended */
	struct bdev_rates rates;
};

/* Of one type; on one cache line. */
struct bdev_type_stat {
	uint64_t ops;
	uint64_t bytes;
	uint64_t errors;
	uint64_t latency_ticks;
	uint64_t max_latency_ticks;
	uint64_t min_latency_ticks; /* UINT64_MAX: none yet */
} __attribute__((aligned(64)));

/* Latencies of one channel, or of channels that are gone. */
struct bdev_tally {
	uint32_t era; /* bdev.histogram_era when it began */
	struct bdev_histogram histogram;
};

/*
 * The statistics of one thread's channel. Allocated by themselves, since they outlive it on their
 * way to the app thread.
 */
struct bdev_channel_counters {
	struct bdev_type_stat types[BDEV_IO_TYPES];
	struct bdev_tally *tally; /* of users' channels that are gone; NULL: none */
	uint64_t walk;            /* number of the last walk that saw them */
	struct bdev *bdev;
	struct thread_msg msg;
};

/* A thread's part of a bdev: what its io_channel holds. Channel's thread only. */
struct bdev_thread_channel {
	struct bdev *bdev;
	struct bdev_channel_counters *counters;
	uint32_t depth;     /* bdev_submit() calls on the stack */
	uint32_t in_flight; /* requests, without those that wait in `held` or for a rate */
	bool gated;         /* drains wait, or channels have meters: see bdev_submit() */
	bool metered;       /* channels have meters */
	/* Done, with their status in core_ctx, by calls too deep on the stack to say so. */
	struct request_fifo deferred;
	struct request_fifo drains; /* RESETs waiting for in_flight to be 0 */
	struct request_fifo held;   /* submitted while drains wait */
	uint32_t pieces_running;
	struct request_fifo pieces_waiting;
	bool pieces_starting;
	LIST_HEAD(, bdev_channel) channels;
	_Alignas(16) uint8_t module_ctx[];
};

/*
 * One user's view of it. What each request needs is on the first cache line. Channel's thread only.
 */
struct bdev_channel {
	/* Set once. */
	void (*submit)(void *channel_ctx, struct bdev_request *rq);
	struct bdev_thread_channel *thread_channel;
	const struct thread *thread;
	struct bdev *bdev;
	/* NULL: histograms are off. */
	struct bdev_tally *tally;
	/* Set once. */
	uint64_t max_direct; /* bytes; a longer READ or WRITE may have to be split */
	uint32_t max_iovs;
	uint32_t block_mask;     /* block size - 1 */
	uint32_t alignment_mask; /* of iovecs */
	uint32_t io_types;       /* that this user may submit */
	bool core_fua;           /* the core adds the flush */
	bool write_cache;
	bool read_only; /* the bdev, or opened so */
	/* Bytes of a request that the module can take, by type; UINT64_MAX: no limit. */
	uint64_t max_length[BDEV_IO_TYPES];
	uint64_t boundary;      /* see bdev_ops */
	uint64_t boundary_mask; /* boundary - 1 where that is a power of two, else 0 */
	struct bdev_desc *desc;
	struct io_channel *io_channel;
	struct bdev_meter *meter; /* NULL: no rate is limited */
	char label[BDEV_LABEL_MAX + 1];
	LIST_ENTRY(bdev_channel) link; /* in thread_channel->channels */
};

/* ---- bdev_channel.c ---- */

int bdev_thread_channel_create(void *dev, void *channel_ctx);
void bdev_thread_channel_destroy(void *dev, void *channel_ctx);

/* ---- bdev_io.c ---- */

/* For what the core submits when the user is not about to flush. */
void bdev_thread_channel_flush(struct bdev_thread_channel *thread_channel);
/* Drains or meters have come or gone. */
void bdev_thread_channel_gate(struct bdev_thread_channel *thread_channel);
/*
 * What a user has submitted, and that waited in a meter: on its way, or straight to its end. No
 * drain waits on this thread.
 */
void bdev_io_resume(struct bdev_request *rq);
void bdev_io_abort(struct bdev_request *rq);

/* ---- bdev_held.c ---- */

/* On the channel's thread: what bdev_abort_held() and bdev_release_held() do. */
bool bdev_release(struct bdev_channel *channel, const struct bdev_release *release);

/* ---- bdev_pieces.c ---- */

/* Bytes from offset to the next boundary. */
static inline uint64_t
bdev_boundary_room(const struct bdev_channel *channel, uint64_t offset)
{
	if (channel->boundary == 0)
		return UINT64_MAX;
	if (likely(channel->boundary_mask != 0))
		return channel->boundary - (offset & channel->boundary_mask);
	return channel->boundary - offset % channel->boundary;
}

/*
 * A READ or WRITE that the module cannot take as it is (misaligned, too many iovecs or bytes, over
 * a boundary), or a WRITE_ZEROES or DISCARD that is too long for it.
 */
void bdev_pieces_submit(struct bdev_request *rq);
/* What a user submitted, of which the module may have a piece. */
struct bdev_request *bdev_pieces_parent(struct bdev_request *rq);

/* ---- bdev.c: app thread ---- */

struct thread *bdev_app_thread(void);
/* Keeps the bdev from being freed. */
void bdev_get(struct bdev *bdev);
void bdev_put(struct bdev *bdev);

/* ---- bdev_memory.c ---- */

/* *memories is NULL for a module that maps none. Any OS thread. 0 or -ENOMEM. */
int bdev_memories_create(const struct bdev_ops *ops, void *ctx, struct bdev_memories **memories);
/* Any OS thread. Nothing is mapped any more; or NULL. */
void bdev_memories_put(struct bdev_memories *memories);
/* App thread, in a coroutine [waits]: unmaps what is left, and puts them. NULL is ignored. */
void bdev_memories_end(struct bdev_memories *memories);

/* ---- bdev_walk.c ---- */

struct bdev_walk_ops {
	/* On the channel's thread. A negative errno ends the walk. */
	int (*visit)(struct bdev_walk *walk, struct bdev_thread_channel *channel);
	/* App thread, after the last visit; status: 0 or what a visit returned. */
	void (*finish)(struct bdev_walk *walk, int status);
	void (*free)(struct bdev_walk *walk);
};

/*
 * Visits the channels of a bdev. Walks of one bdev run one after the other, so that what a channel
 * has counted when it ends meanwhile is counted once. First member of what embeds it.
 */
struct bdev_walk {
	const struct bdev_walk_ops *ops;
	/* bdev_walk.c's. */
	struct bdev *bdev;
	struct bdev_walk *next;
	struct completion *done;
	uint64_t number;
	bool abandoned; /* nobody waits any more: it is freed at its end */
	bool finished;
};

/*
 * App thread, in a coroutine [waits]. walk is freed unless this returns 0: then its work is done,
 * and it is the caller's, to be freed by ops->free. -ENODEV, -ENOMEM, -ECANCELED, or what a visit
 * returned.
 */
int bdev_walk_run(struct bdev *bdev, struct bdev_walk *walk);
/*
 * App thread: the same of nobody who waits, also while the bdev is being removed. walk is freed at
 * its end.
 */
void bdev_walk_start(struct bdev *bdev, struct bdev_walk *walk);

/* ---- bdev_stat.c ---- */

void bdev_counters_reset(struct bdev_channel_counters *counters, enum bdev_stat_reset reset);
/*
 * On the channel's thread, which is done with the counters: adds them up on the app thread and
 * frees them.
 */
void bdev_counters_end(struct bdev_channel_counters *counters);
/* App thread: what it starts with. */
void bdev_ended_init(struct bdev_ended *ended);
/* App thread: adds `from` to `ended` and starts `from` anew. */
void bdev_ended_join(struct bdev *bdev, struct bdev_ended *ended, struct bdev_ended *from);

/* ---- bdev_tally.c ---- */

/* On the channel's thread: a tally for a new channel, if histograms are on. 0 or -ENOMEM. */
int bdev_tally_start(struct bdev_channel *channel);
/* On the channel's thread: the channel goes; its thread keeps what it counted. */
void bdev_tally_end(struct bdev_channel *channel);
/*
 * Adds tally (NULL: nothing) to *sum and frees it, or moves it there. What is of an earlier era is
 * dropped.
 */
void bdev_tally_join(struct bdev *bdev, struct bdev_tally **sum, struct bdev_tally *tally);

/* ---- bdev_rate.c ---- */

/* On the channel's thread: a meter for a new channel, if a rate is limited. 0 or -errno. */
int bdev_meter_start(struct bdev_channel *channel);
/* On the channel's thread: the channel goes; nothing waits. */
void bdev_meter_end(struct bdev_channel *channel);
/* On the channel's thread. Whether rq, which is checked, is in time; else the meter has it now. */
bool bdev_meter_pass(struct bdev_meter *meter, struct bdev_request *rq);
/* On the channel's thread: aborts what waits. */
void bdev_meters_abort(struct bdev_thread_channel *thread_channel);
/* On the channel's thread: aborts what is wanted of what waits, or lets it go. Whether there was any. */
bool bdev_meter_release(struct bdev_meter *meter, const struct bdev_release *release);
/* App thread: lets go what waits, and what the module holds back. For a bdev that goes away. */
void bdev_rates_end(struct bdev *bdev);

#endif
