/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev_filter.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_core.h"
#include "log.h"

/* Memory that the lower one maps for us. */
struct bdev_filter_map {
	void *addr;
	uint64_t length;
	struct bdev_memory *memory;
	LIST_ENTRY(bdev_filter_map) link;
};

/* ---- the data path ---- */

int
bdev_filter_channel_create(struct bdev_filter *filter, struct bdev_filter_channel *channel)
{
	channel->filter = filter;
	channel->lower = bdev_channel_get(filter->desc);
	return channel->lower != NULL ? 0 : -errno;
}

void
bdev_filter_channel_destroy(struct bdev_filter_channel *channel)
{
	bdev_channel_put(channel->lower);
}

void
bdev_filter_flush(void *channel_ctx)
{
	struct bdev_filter_channel *channel = channel_ctx;

	bdev_flush_submissions(channel->lower);
}

void
bdev_filter_submit(struct bdev_filter_channel *channel, const struct bdev_request *upper,
		   struct bdev_request *lower, bdev_done_fn done)
{
	lower->type = upper->type;
	lower->flags = upper->flags;
	lower->iovcnt = upper->iovcnt;
	lower->iov = upper->iov;
	lower->offset = upper->offset;
	lower->length = upper->length;
	lower->done = done;
	bdev_submit(channel->lower, lower);
}

/* In the words of the lower one's users. */
struct lower_release {
	const struct bdev_release *upper;
	size_t offset; /* of lower requests in upper ones */
};

static bool
wants_upper(struct bdev_request *lower, void *ctx)
{
	const struct lower_release *release = ctx;

	return bdev_release_wants(release->upper,
				  (struct bdev_request *)((uint8_t *)lower - release->offset));
}

bool
bdev_filter_release_held(void *channel_ctx, const struct bdev_release *upper)
{
	struct bdev_filter_channel *channel = channel_ctx;
	const struct bdev_filter *filter = channel->filter;
	struct lower_release ctx = {
		.upper = upper,
		.offset = offsetof(struct bdev_request, ctx) + filter->ops.request_ctx_size -
			  bdev_request_size(bdev_desc_bdev(filter->desc)),
	};
	struct bdev_release lower = {
		.channel = channel->lower,
		.wants = wants_upper,
		.ctx = &ctx,
		.aborts = upper->aborts,
	};

	return bdev_release(channel->lower, &lower);
}

/* ---- memory ---- */

static int
filter_memory_map(void *bdev_ctx, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		  struct errmsg *err)
{
	struct bdev_filter *filter = bdev_ctx;
	struct bdev_filter_map *map = malloc(sizeof(*map));
	int rc;

	if (map == NULL)
		return err_set(err, -ENOMEM, "block device %s: no memory to map a guest's",
			       bdev_get_info(filter->bdev)->name);
	*map = (struct bdev_filter_map){.addr = addr, .length = length};
	rc = bdev_memory_map(filter->desc, addr, length, fd, fd_offset, &map->memory, err);
	if (rc != 0) {
		free(map);
		return rc;
	}
	LIST_INSERT_HEAD(&filter->maps, map, link);
	return 0;
}

static void
filter_memory_unmap(void *bdev_ctx, void *addr, uint64_t length)
{
	struct bdev_filter *filter = bdev_ctx;
	struct bdev_filter_map *map;

	LIST_FOREACH (map, &filter->maps, link) {
		if (map->addr == addr && map->length == length)
			break;
	}
	LIST_REMOVE(map, link);
	bdev_memory_unmap(map->memory);
	free(map);
}

/* ---- what happens to the lower one ---- */

static void
filter_put(struct bdev_filter *filter)
{
	if (--filter->refs == 0)
		free(filter);
}

static void
remove_filter(void *arg)
{
	struct bdev_filter *filter = arg;

	if (filter->bdev != NULL)
		bdev_remove(filter->bdev);
	filter_put(filter);
}

/* Until there is memory for it. */
static void
start_removal(void *arg)
{
	struct bdev_filter *filter = arg;

	if (coroutine_start(filter->app, "bdev_filter_remove", remove_filter, filter) != 0)
		thread_send(filter->app, &filter->msg, start_removal, filter);
}

static void
on_lower_event(void *ctx, enum bdev_event event)
{
	struct bdev_filter *filter = ctx;

	switch (event) {
	case BDEV_EVENT_RESIZE:
		bdev_resize(filter->bdev, bdev_get_info(bdev_desc_bdev(filter->desc))->num_blocks);
		return;
	case BDEV_EVENT_REMOVE:
		atomic_store(&filter->going, true);
		filter->refs++;
		start_removal(filter);
		return;
	case BDEV_EVENT_MEDIA_MANAGEMENT:
		return;
	}
}

/* The lower one tells us of its new size before this returns. */
static int
filter_rescan(void *bdev_ctx, uint64_t *num_blocks, struct errmsg *err)
{
	struct bdev_filter *filter = bdev_ctx;
	int rc = bdev_rescan(bdev_filter_base(filter), err);

	*num_blocks = bdev_get_info(bdev_desc_bdev(filter->desc))->num_blocks;
	return rc;
}

/* ---- beginning and end ---- */

const char *
bdev_filter_base(const struct bdev_filter *filter)
{
	return bdev_get_info(bdev_desc_bdev(filter->desc))->name;
}

static int
open_lower(struct bdev_filter *filter, const struct bdev_filter_opts *opts, struct errmsg *err)
{
	struct bdev *lower = bdev_by_name(opts->base);
	bool writes = lower != NULL && !bdev_get_info(lower)->read_only;
	char user[BDEV_NAME_MAX + 32];

	snprintf(user, sizeof(user), "block device %s", opts->name);
	return bdev_open(opts->base, writes ? BDEV_WRITES : BDEV_READS, user, on_lower_event,
			 filter, &filter->desc, err);
}

/* The lower one's core sees to limits, boundaries and alignment. */
static void
set_ops(struct bdev_filter *filter, const struct bdev_ops *ops)
{
	struct bdev *lower = bdev_desc_bdev(filter->desc);

	filter->ops = *ops;
	filter->ops.flush_submissions = bdev_filter_flush;
	if (filter->ops.release_held == NULL)
		filter->ops.release_held = bdev_filter_release_held;
	filter->ops.rescan = filter_rescan;
	filter->ops.request_ctx_size += (uint32_t)bdev_request_size(lower);
	filter->ops.buffer_alignment = 1;
	filter->ops.fua = true;
	if (lower->memories != NULL) {
		filter->ops.memory_map = filter_memory_map;
		filter->ops.memory_unmap = filter_memory_unmap;
	}
}

int
bdev_filter_register(struct bdev_filter *filter, const struct bdev_filter_opts *opts,
		     struct errmsg *err)
{
	struct bdev_info info, named;
	int rc = bdev_info_init(&named, opts->name, opts->uuid, err);

	if (rc == 0)
		rc = open_lower(filter, opts, err);
	if (rc != 0)
		return rc;
	info = *bdev_get_info(bdev_desc_bdev(filter->desc));
	memcpy(info.name, named.name, sizeof(info.name));
	memcpy(info.uuid, named.uuid, sizeof(info.uuid));
	info.product_name = opts->product_name;
	set_ops(filter, opts->ops);
	filter->app = thread_current();
	filter->refs = 1;
	LIST_INIT(&filter->maps);
	rc = bdev_register(&info, &filter->ops, filter, &filter->bdev, err);
	if (rc != 0)
		bdev_close(filter->desc);
	else
		filter->bdev->lower = filter->desc;
	return rc;
}

void
bdev_filter_destroy(struct bdev_filter *filter)
{
	filter->bdev = NULL;
	bdev_close(filter->desc);
	filter_put(filter);
}
