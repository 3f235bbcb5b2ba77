/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev: block devices. The upper half is for those who use one (lib/vhost, lib/scsi, rpc/), the
 * lower half for modules that implement one (lib/bdev/bdev_<module>.c).
 *
 * The control path (create, open, close, delete, resize) runs on the app thread, most of it in a
 * coroutine [waits]. The data path runs on any thread, through that thread's channel, with no lock.
 */
#ifndef VHOSTD_BDEV_H
#define VHOSTD_BDEV_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "errmsg.h"
#include "thread.h"

#define BDEV_NAME_MAX  127 /* bytes, without the NUL */
#define BDEV_UUID_TEXT 37
#define BDEV_LABEL_MAX 31 /* bytes of a channel's label, without the NUL */

struct bdev;
struct bdev_desc;
struct bdev_channel;
struct bdev_request;

/* ---- requests ---- */

enum bdev_io_type {
	BDEV_READ,
	BDEV_WRITE,
	/*
	 * Everything completed before it, on whichever thread, is durable when it completes. Where
	 * a failure means that data may be lost for good (a page cache), each later one fails, too.
	 */
	BDEV_FLUSH,
	BDEV_DISCARD, /* a hint; the range's content is undefined afterwards */
	BDEV_WRITE_ZEROES,
	BDEV_RESET, /* aborts or completes all requests of the device, then itself */
	BDEV_IO_TYPES,
};

enum bdev_request_flags {
	/*
	 * WRITE, WRITE_ZEROES: durable when it completes (the core adds a flush where the module
	 * cannot).
	 */
	BDEV_FUA = 1 << 0,
	BDEV_UNMAP = 1 << 1, /* WRITE_ZEROES: may deallocate */
};

typedef void (*bdev_done_fn)(struct bdev_request *rq, int status);

/*
 * Lives in the submitter's memory (a queue slot) and ends with room for the module:
 * bdev_request_size() bytes in all, so it is the last member of what embeds it, aligned to 16.
 */
struct bdev_request {
	/* Set by the submitter, unchanged by anybody until done. */
	uint8_t type;
	uint8_t flags;
	uint32_t iovcnt;
	/* READ, WRITE: their sum must be `length`; borrowed, and not modified, until done. */
	struct iovec *iov;
	uint64_t offset; /* bytes */
	uint64_t length; /* bytes */
	/*
	 * Called once, on the submitting thread, possibly before bdev_submit() returns. status: 0,
	 * or a negative errno that keeps its meaning up to the guest, as in Linux' block layer:
	 * -EIO, -ENODATA (medium error), -EILSEQ (protection), -EOPNOTSUPP, -ENOSPC, -EROFS,
	 * -EINVAL (range or alignment), -ETIMEDOUT, -ECANCELED (aborted), -ENODEV (device is gone),
	 * -ENOMEM. rq is the submitter's again and may be reused or freed inside.
	 */
	bdev_done_fn done;

	/* The core's. */
	struct bdev_channel *channel;
	uint64_t submit_ticks;
	uint64_t start_ticks;   /* of the last request here that had to wait for the device */
	bdev_done_fn core_next; /* what the core does when the module is done; NULL: call done */
	void *core_ctx;
	struct bdev_request *link; /* for whoever has the request: the core or the module */

	/* The module's: bdev_ops.request_ctx_size bytes, not cleared between requests. */
	_Alignas(16) uint8_t ctx[];
};

/*
 * In done: ticks that the core kept the request before the device's module got it: for a rate limit, a
 * RESET, or others that are done in pieces. For requests whose memory was zeroed at first.
 */
static inline uint64_t
bdev_request_waited(const struct bdev_request *rq)
{
	return rq->start_ticks > rq->submit_ticks ? rq->start_ticks - rq->submit_ticks : 0;
}

/* ---- finding and opening ---- */

struct bdev_info {
	char name[BDEV_NAME_MAX + 1];
	char uuid[BDEV_UUID_TEXT];
	const char *product_name; /* "Malloc disk" */
	uint32_t block_size;      /* bytes, a power of two, 512 … 65536 */
	/* bytes, a power of two, >= block_size; 0 in bdev_register(): block_size */
	uint32_t physical_block_size;
	uint64_t num_blocks;
	uint64_t size;     /* bytes: block_size * num_blocks */
	uint32_t io_types; /* bit per enum bdev_io_type */
	bool read_only;
	bool write_cache; /* volatile: a write is durable only after FLUSH or with FUA */
	/* of a DISCARD that the device can do at once; the core splits longer ones. 0: no limit */
	uint32_t max_discard_bytes;
	uint32_t discard_granularity; /* bytes; 0: unknown */
	/*
	 * Of a WRITE that, whatever happens, is there afterwards as a whole or not at all; 0:
	 * unknown. Who reads meanwhile may see a part of it.
	 */
	uint32_t atomic_write_bytes;
};

enum bdev_event {
	/* The device goes away: stop submitting, put the channels, close; the removal waits. */
	BDEV_EVENT_REMOVE,
	BDEV_EVENT_RESIZE,
	BDEV_EVENT_MEDIA_MANAGEMENT,
};
/* On the app thread; must not wait, and may close any desc. */
typedef void (*bdev_event_fn)(void *ctx, enum bdev_event event);

/*
 * App thread. The first bdev, or the one after bdev (creation order); NULL at the end. Valid until
 * the caller waits.
 */
struct bdev *bdev_next(struct bdev *bdev);
/* App thread. NULL: none of that name (or uuid). */
struct bdev *bdev_by_name(const char *name);
/*
 * Any thread while open; app thread otherwise. But num_blocks and size are for the app thread
 * alone, which changes them (the RESIZE event tells of it); other threads get a copy of theirs from
 * there.
 */
const struct bdev_info *bdev_get_info(const struct bdev *bdev);
/* What the module adds, for `driver_specific`: a new object, or NULL. App thread. */
json_t *bdev_driver_specific(const struct bdev *bdev);
/* Array of {method, params} that makes all bdevs again, in order. App thread. */
json_t *bdev_config_json(void);

enum bdev_use {
	BDEV_READS,
	BDEV_WRITES, /* and so may others */
	/*
	 * And nobody else may: neither this bdev nor those that it is made of, nor through others
	 * that are made of it. For who promises something of the order of writes that others would
	 * not know of, as SCSI reservations do.
	 */
	BDEV_WRITES_ALONE,
};
/*
 * App thread. Several may have one bdev open. user names the opener in messages ("vhost controller
 * vm1"), and tells openers apart: one that opens it twice shares it with nobody; copied. event (on
 * the app thread) may be NULL. 0, -ENODEV, -EROFS (it is to be written, and the bdev is read-only),
 * -EBUSY (being deleted; or there is another writer, and one of both writes alone: err names it),
 * -ENOMEM.
 */
int bdev_open(const char *name, enum bdev_use use, const char *user, bdev_event_fn event, void *ctx,
	      struct bdev_desc **desc, struct errmsg *err);
/* App thread, after every channel got through this desc was put. */
void bdev_close(struct bdev_desc *desc);
struct bdev *bdev_desc_bdev(const struct bdev_desc *desc);
bool bdev_is_open(const struct bdev *bdev);

/*
 * App thread, in a coroutine [waits]. Deletes a bdev that nobody has open: -EBUSY names the user
 * otherwise; -ENODEV when there is none of that name or module (the module's name, e.g. "malloc")
 * is not its own.
 */
int bdev_delete(const char *name, const char *module, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]. Looks at the device's size again, where the module knows how
 * to; openers get RESIZE if it has changed. 0, -ENODEV, -EBUSY (being deleted; or smaller, and in
 * use by others), -ENOMEM or what the module failed with.
 */
int bdev_rescan(const char *name, struct errmsg *err);

/* ---- submitting ---- */

/* On any thread. NULL with errno as io_channel_get(). */
struct bdev_channel *bdev_channel_get(struct bdev_desc *desc);
/* On the channel's thread; all requests must be done. */
void bdev_channel_put(struct bdev_channel *channel);

/*
 * On the channel's thread: what tells this channel from others of the same desc, e.g. "queue 3",
 * where statistics are shown. Copied; at most BDEV_LABEL_MAX bytes are kept. Default: "".
 */
void bdev_channel_set_label(struct bdev_channel *channel, const char *label);

/*
 * Bytes that a request needs, including the module's part; a multiple of 16. Any thread while open.
 */
size_t bdev_request_size(const struct bdev *bdev);

/*
 * On the channel's thread. Checks type, range, alignment and read-only, then hands the request to
 * the module. Every outcome comes through done. What is submitted may wait for
 * bdev_flush_submissions() before the device sees it.
 */
void bdev_submit(struct bdev_channel *channel, struct bdev_request *rq);
/*
 * On the channel's thread, at the end of a poll: one doorbell or one system call for all that was
 * submitted.
 */
void bdev_flush_submissions(struct bdev_channel *channel);

/* ---- what is held back ---- */

/*
 * Requests that are not with the device, but wait here: for a rate limit, for a RESET that drains,
 * for their turn to be split; or that have been there, and are late on purpose (the module delay).
 * The same below a block device that is on top of another one. The channel must stay meanwhile.
 */
/*
 * On the channel's thread. Those of the channel's requests that wants(rq, ctx) end now, with
 * -ECANCELED, and never reach the device; late ones with the status that they have already. What the
 * device has is not touched.
 */
void bdev_abort_held(struct bdev_channel *channel,
		     bool (*wants)(struct bdev_request *rq, void *ctx), void *ctx);
/*
 * On the channel's thread. All of the channel's requests that a rate limit holds back go to the
 * device now, and late ones end; for who stops, and must not wait for as long as the limit says.
 * Nothing is lost or done twice by that. They count for the limit all the same: what comes later
 * waits for longer. Returns whether there was any: the module may yet submit more.
 */
bool bdev_release_held(struct bdev_channel *channel);

/* ---- memory for requests ---- */

/*
 * Some devices read and write the data of requests by themselves (DMA), and know only memory that
 * they were shown. Users show it to them before they submit requests with data in it; other memory
 * works, too, but is copied. Devices without DMA need none of this, and it costs them nothing.
 */
struct bdev_memory;
/*
 * Any OS thread; may block (pages are pinned): not on a lightweight thread. desc must stay open
 * until it returns. addr, length and fd_offset are multiples of 4096; fd (borrowed) is the file
 * that backs the memory from fd_offset on, or -1. The pages that are there now are the device's
 * until they are unmapped, whatever happens to the file meanwhile. *memory: for
 * bdev_memory_unmap(); NULL where the device needs no map. 0, or with the reason and what to do
 * about it in err: -EINVAL (not whole pages, or they overlap what is mapped already), -ENOMEM (also
 * RLIMIT_MEMLOCK), -ENOSPC, or what the device says; *memory is NULL then.
 */
int bdev_memory_map(struct bdev_desc *desc, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		    struct bdev_memory **memory, struct errmsg *err);
/*
 * Any OS thread; may block: not on a lightweight thread. Takes back one bdev_memory_map(), once;
 * NULL is ignored. No request with data there is under way, and the memory must be there still.
 *
 * A map belongs to the bdev, not to the desc: it may be unmapped before or after the desc is
 * closed. Neither does it keep the bdev, which may be deleted or removed first: the device lets go
 * of what is mapped then, as its last users' requests are done, and unmapping comes to freeing
 * memory.
 */
void bdev_memory_unmap(struct bdev_memory *memory);

/* ---- statistics ---- */

struct bdev_io_stat {
	uint64_t ops[BDEV_IO_TYPES]; /* those that succeeded, bytes and latencies too */
	uint64_t bytes[BDEV_IO_TYPES];
	uint64_t errors[BDEV_IO_TYPES];
	/*
	 * Latencies are counted from poll to poll (thread_now()): what is done within one poll took
	 * 0 ticks. While histograms are on they are exact.
	 */
	uint64_t latency_ticks[BDEV_IO_TYPES]; /* sum */
	uint64_t max_latency_ticks[BDEV_IO_TYPES];
	uint64_t min_latency_ticks[BDEV_IO_TYPES]; /* 0, too, when there was none since the reset */
};
enum bdev_stat_reset {
	BDEV_STAT_KEEP,
	BDEV_STAT_RESET,
	BDEV_STAT_RESET_MAXMIN, /* the longest and the shortest latencies only */
};
/*
 * App thread, in a coroutine [waits]: adds up the bdev's channels, present and past, and resets
 * what was read. 0, -ENOMEM or -ENODEV.
 */
int bdev_get_stat(struct bdev *bdev, enum bdev_stat_reset reset, struct bdev_io_stat *stat);
struct bdev_channel_stat {
	uint64_t thread_id;
	struct bdev_io_stat stat;
};
/*
 * The same, one entry for each thread that has a channel; *stats is malloc()ed, the caller frees
 * it.
 */
int bdev_get_channel_stats(struct bdev *bdev, enum bdev_stat_reset reset,
			   struct bdev_channel_stat **stats, uint32_t *count);

/*
 * How many requests took how many ticks, from bdev_submit() to done; those that succeeded.
 * Log-linear: ranges of 2^BDEV_HISTOGRAM_SHIFT buckets each. The buckets of ranges 0 and 1 are one
 * tick wide, those of each later range twice as wide as those of the one before, so that a bucket
 * is at most 1 % of its ticks wide.
 */
#define BDEV_HISTOGRAM_SHIFT   7
#define BDEV_HISTOGRAM_RANGES  (64 - BDEV_HISTOGRAM_SHIFT + 1)
#define BDEV_HISTOGRAM_BUCKETS (BDEV_HISTOGRAM_RANGES << BDEV_HISTOGRAM_SHIFT)
struct bdev_histogram {
	uint64_t buckets[BDEV_HISTOGRAM_BUCKETS];
};
/* Pure. */
void bdev_histogram_merge(struct bdev_histogram *sum, const struct bdev_histogram *histogram);
uint64_t bdev_histogram_count(const struct bdev_histogram *histogram);
/* Pure. The most ticks that this bucket counts; those of the one before it are less. */
uint64_t bdev_histogram_last(uint32_t bucket);
/*
 * Pure. Ticks that the share (0 … 1) of requests did not exceed: the last of their bucket. 0 when
 * there are none.
 */
uint64_t bdev_histogram_quantile(const struct bdev_histogram *histogram, double share);

/*
 * App thread, in a coroutine [waits]: each channel, present and future, keeps a histogram, or none.
 * One that is on stays as it is; off and on again starts from 0. Costs two readings of the clock
 * per request, and nothing while off. 0, -ENODEV or -ENOMEM (and they are off).
 */
int bdev_enable_histogram(struct bdev *bdev, bool enable);
/* App thread. */
bool bdev_has_histogram(const struct bdev *bdev);
struct bdev_channel_histogram {
	uint64_t thread_id;
	char *user; /* who opened the bdev */
	char label[BDEV_LABEL_MAX + 1];
	struct bdev_histogram histogram;
};
struct bdev_histograms {
	struct bdev_histogram sum; /* of all channels, present and past */
	uint32_t count;
	struct bdev_channel_histogram **channels; /* those that are there */
};
/*
 * App thread, in a coroutine [waits]. per_channel: also the channels one by one. *histograms is the
 * caller's until bdev_histograms_free(). 0, -ENODEV, -EINVAL (they are off) or -ENOMEM.
 */
int bdev_get_histograms(struct bdev *bdev, bool per_channel, struct bdev_histograms **histograms);
void bdev_histograms_free(struct bdev_histograms *histograms);

/* ---- rate limits ---- */

/*
 * What a bdev does per second at most, for all users on all threads together. READ, WRITE, DISCARD
 * and WRITE_ZEROES are I/Os, however the core splits them; only READ and WRITE have bytes. The rest
 * knows no limit.
 */
enum bdev_rate {
	BDEV_RATE_IOS,
	BDEV_RATE_BYTES,
	BDEV_RATE_READ_BYTES,
	BDEV_RATE_WRITE_BYTES,
	BDEV_RATES,
};
/*
 * App thread, in a coroutine [waits]: from now on, also for what waits already; 0: no limit. Costs
 * nothing while there is none. Requests over a limit wait in their channel, in order; channels that
 * wait get the same share. A device that was not used to its limits may do up to BDEV_RATE_BURST_US
 * of them at once. RESET aborts what waits (-ECANCELED), bdev_release_held() lets it go. 0, -ENODEV
 * or -ENOMEM (and all is as it was).
 */
#define BDEV_RATE_BURST_US 20000u
int bdev_set_rates(struct bdev *bdev, const uint64_t rates[BDEV_RATES]);
/* App thread. */
void bdev_get_rates(const struct bdev *bdev, uint64_t rates[BDEV_RATES]);

/* ---- start and stop ---- */

int bdev_lib_init(void);
/*
 * App thread: fn is called when bdevs have come to be by themselves, and not because somebody asked
 * for them now: a device was plugged in, or is there at last. It must not wait. NULL: nobody wants
 * to know.
 */
void bdev_on_arrival(void (*fn)(void));
/* App thread, in a coroutine [waits]. Every desc must have been closed; deletes every bdev. */
void bdev_lib_fini(void);

/* ---- for modules ---- */

/* What bdev_abort_held() or bdev_release_held() is to do. */
struct bdev_release {
	const struct bdev_channel *channel;
	bool (*wants)(struct bdev_request *rq, void *ctx); /* NULL: all of the channel's */
	void *ctx;
	bool aborts;
};
/* On the channel's thread. Whether that is meant for rq, which the module has. */
bool bdev_release_wants(const struct bdev_release *release, struct bdev_request *rq);

struct bdev_ops {
	const char *module; /* "malloc" */
	/* On any thread: this thread's state, ctx zeroed. 0 or a negative errno. */
	int (*channel_create)(void *bdev_ctx, void *channel_ctx);
	/* No request is in flight. */
	void (*channel_destroy)(void *bdev_ctx, void *channel_ctx);
	/*
	 * The request is checked. Ends, now or later, on this thread, with bdev_complete(). This
	 * and flush_submissions are also called from inside bdev_complete().
	 */
	void (*submit)(void *channel_ctx, struct bdev_request *rq);
	void (*flush_submissions)(void *channel_ctx); /* may be NULL */
	/*
	 * On the channel's thread; may be NULL. A RESET or the removal of the bdev waits for the
	 * channel's requests: those that the module holds back by itself end now.
	 */
	void (*end_held)(void *channel_ctx);
	/*
	 * On the channel's thread; may be NULL. Those of them that are wanted end now, or go on to
	 * what is below. Returns whether there was any.
	 */
	bool (*release_held)(void *channel_ctx, const struct bdev_release *release);
	/* App thread, in a coroutine: the last user is gone; frees ctx. */
	void (*destroy)(void *bdev_ctx);
	/*
	 * App thread, in a coroutine [waits]; the bdev stays: how many blocks there are now. May be
	 * NULL. 0 or a negative errno.
	 */
	int (*rescan)(void *bdev_ctx, uint64_t *num_blocks, struct errmsg *err);
	/*
	 * Both, or neither: then the device does no DMA. Any OS thread but those of lightweight
	 * threads, may block; one call at a time for each bdev. Maps [addr, addr + length), whole
	 * pages (DMA_PAGE_SIZE), for DMA until memory_unmap() of just that range, which cannot
	 * fail; fd (borrowed) backs it from fd_offset on, or is -1. dma_map() and dma_unmap() do
	 * it. 0 or a negative errno, with the reason in err.
	 *
	 * Requests have their data there, but not only: what lies elsewhere (buffers of the core's
	 * or of a user that maps nothing) the module copies. A request that is done is one whose
	 * memory the device does not touch any more: it may be unmapped at once. What is still
	 * mapped at the end of the bdev is unmapped before destroy.
	 */
	int (*memory_map)(void *bdev_ctx, void *addr, uint64_t length, int fd, uint64_t fd_offset,
			  struct errmsg *err);
	void (*memory_unmap)(void *bdev_ctx, void *addr, uint64_t length);
	json_t *(*describe)(void *bdev_ctx); /* driver_specific; may be NULL */
	/* {method, params} that makes it again; may return NULL (part of another object). */
	json_t *(*config)(void *bdev_ctx);
	size_t channel_ctx_size;
	uint32_t request_ctx_size;
	/*
	 * Of iovec addresses and lengths, a power of two; 1: any. The core bounces what is not.
	 */
	uint32_t buffer_alignment;
	uint32_t max_iovs;         /* in one request; the core splits. 0: no limit */
	uint64_t max_transfer;     /* bytes of a READ or WRITE; the core splits. 0: no limit */
	uint64_t max_write_zeroes; /* bytes of a WRITE_ZEROES; the core splits. 0: no limit */
	/*
	 * Bytes, a multiple of the block size: no READ, WRITE or WRITE_ZEROES crosses a multiple of
	 * it; the core splits there. 0: none. One that is no power of two costs a division per
	 * request.
	 */
	uint64_t boundary;
	bool fua; /* WRITE and WRITE_ZEROES honour BDEV_FUA; else they ignore it */
};

/*
 * Any thread. Zeroes info and sets its name and uuid (NULL or "": bdev_register() makes a random
 * one). 0, or -EINVAL: the name is empty, too long, not UTF-8, has a '/' or control characters, or
 * the uuid is none.
 */
int bdev_info_init(struct bdev_info *info, const char *name, const char *uuid, struct errmsg *err);
/*
 * App thread. Makes a bdev known under info->name. A module whose limits differ per device passes
 * ops of its own for each (they must outlive it). info is copied; an empty uuid gets a random one.
 * 0, -EEXIST (name or uuid), -EINVAL (name and uuid as above; sizes; a buffer_alignment over the
 * block size), -ENOMEM; ctx stays the caller's then.
 */
int bdev_register(const struct bdev_info *info, const struct bdev_ops *ops, void *ctx,
		  struct bdev **bdev, struct errmsg *err);
/*
 * App thread: the device has a new size; openers get RESIZE. -EINVAL (zero blocks, or too many
 * bytes for 64 bits).
 */
int bdev_resize(struct bdev *bdev, uint64_t num_blocks);
/* App thread: bdevs were registered without anybody asking for them now, see bdev_on_arrival(). */
void bdev_arrived(void);
/*
 * App thread, in a coroutine [waits]: the device is gone: openers get REMOVE; returns when the bdev
 * is freed. If it is being deleted already, returns at once; ops->destroy tells the end.
 */
void bdev_remove(struct bdev *bdev);
/* The ctx given to bdev_register(), or NULL when the bdev is another module's. App thread. */
void *bdev_module_ctx(const struct bdev *bdev, const char *module);
/*
 * App thread, in a coroutine [waits]: visit on each thread that has a channel, with its
 * channel_ctx. It must not wait. 0, -ENODEV, -ENOMEM or -ECANCELED.
 */
int bdev_visit_channels(struct bdev *bdev, void (*visit)(void *channel_ctx));
/* On the channel's thread, once per submitted request. */
void bdev_complete(struct bdev_request *rq, int status);
/*
 * On the channel's thread: how a module that can abort nothing serves RESET: completes rq when
 * every request that was submitted to the bdev before, on any thread, is done. What is submitted
 * meanwhile waits.
 */
void bdev_drain(struct bdev_request *rq);

#endif
