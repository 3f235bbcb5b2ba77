/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_filter: what block devices on top of another one share. The lower one is opened like any
 * user does: others may write it, too, as long as nobody opens the upper one to write alone. The
 * lower request lives in the upper one. When the lower one is removed, so is the upper one; a new
 * size passes through, and so do maps of memory. Private to lib/bdev.
 */
#ifndef VHOSTD_BDEV_FILTER_H
#define VHOSTD_BDEV_FILTER_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "bdev.h"

struct bdev_filter_map;

/* First member of a module's disk, which is malloc()ed. */
struct bdev_filter {
	/* Set once. */
	struct bdev_desc *desc; /* of the lower one */
	struct bdev_ops ops;
	struct thread *app;
	/*
	 * Written by the app thread, read by any: it is being removed; nothing is held back any
	 * more.
	 */
	_Atomic bool going;
	/* App thread only. */
	struct bdev *bdev; /* NULL: it is gone */
	uint32_t refs;     /* its own, and a removal on its way */
	struct thread_msg msg;
	/* One call at a time: see bdev_ops.memory_map. */
	LIST_HEAD(, bdev_filter_map) maps;
};

/* First member of a module's channel_ctx. Channel's thread only. */
struct bdev_filter_channel {
	struct bdev_filter *filter;
	struct bdev_channel *lower;
};

struct bdev_filter_opts {
	const char *name, *uuid, *base; /* uuid may be NULL: random */
	const char *product_name;
	/*
	 * module, channel_create and _destroy (which call those below), submit, destroy (which ends
	 * with bdev_filter_destroy()), config, describe, channel_ctx_size; request_ctx_size: where
	 * the lower request begins in ctx, a multiple of 16.
	 */
	const struct bdev_ops *ops;
};
/*
 * App thread: filter (zeroed) becomes a bdev, or stays the caller's. 0, -ENODEV, or what
 * bdev_open() and bdev_register() failed with.
 */
int bdev_filter_register(struct bdev_filter *filter, const struct bdev_filter_opts *opts,
			 struct errmsg *err);
/* App thread: closes the lower one and frees the disk. */
void bdev_filter_destroy(struct bdev_filter *filter);
const char *bdev_filter_base(const struct bdev_filter *filter);

int bdev_filter_channel_create(struct bdev_filter *filter, struct bdev_filter_channel *channel);
void bdev_filter_channel_destroy(struct bdev_filter_channel *channel);
/* bdev_ops.flush_submissions, which the filter sets. */
void bdev_filter_flush(void *channel_ctx);

/* On the channel's thread. Sends the upper request on as the lower one in its ctx. */
void bdev_filter_submit(struct bdev_filter_channel *channel, const struct bdev_request *upper,
			struct bdev_request *lower, bdev_done_fn done);
/*
 * bdev_ops.release_held, which the filter sets unless the module has its own, which calls this: what
 * the lower one holds back.
 */
bool bdev_filter_release_held(void *channel_ctx, const struct bdev_release *release);
/* The upper one of a request that is the member `lower` of `type` in its ctx. */
#define bdev_filter_upper(rq, type)                                                                \
	((struct bdev_request *)((uint8_t *)(rq)-offsetof(type, lower) -                           \
				 offsetof(struct bdev_request, ctx)))

#endif
