/* SPDX-License-Identifier: BSD-3-Clause */
/* Channels: a thread's way to a bdev. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bdev_core.h"

int
bdev_thread_channel_create(void *dev, void *channel_ctx)
{
	struct bdev_thread_channel *thread_channel = channel_ctx;
	struct bdev *bdev = dev;
	int rc;

	thread_channel->bdev = bdev;
	thread_channel->counters = aligned_alloc(_Alignof(struct bdev_channel_counters),
						 sizeof(struct bdev_channel_counters));
	if (thread_channel->counters == NULL)
		return -ENOMEM;
	*thread_channel->counters = (struct bdev_channel_counters){.bdev = bdev};
	bdev_counters_reset(thread_channel->counters, BDEV_STAT_RESET);
	LIST_INIT(&thread_channel->channels);
	if (bdev->ops->channel_create == NULL)
		return 0;
	rc = bdev->ops->channel_create(bdev->ctx, thread_channel->module_ctx);
	if (rc != 0)
		free(thread_channel->counters);
	return rc;
}

void
bdev_thread_channel_destroy(void *dev, void *channel_ctx)
{
	struct bdev_thread_channel *thread_channel = channel_ctx;
	struct bdev *bdev = dev;

	if (bdev->ops->channel_destroy != NULL)
		bdev->ops->channel_destroy(bdev->ctx, thread_channel->module_ctx);
	bdev_counters_end(thread_channel->counters);
}

static void
init_limits(struct bdev_channel *channel, const struct bdev_ops *ops, const struct bdev_info *info)
{
	const uint64_t limits[BDEV_IO_TYPES] = {
		[BDEV_READ] = ops->max_transfer,
		[BDEV_WRITE] = ops->max_transfer,
		[BDEV_DISCARD] = info->max_discard_bytes,
		[BDEV_WRITE_ZEROES] = ops->max_write_zeroes,
	};

	for (int i = 0; i < BDEV_IO_TYPES; i++)
		channel->max_length[i] = limits[i] != 0 ? limits[i] : UINT64_MAX;
	channel->boundary = ops->boundary;
	if ((ops->boundary & (ops->boundary - 1)) == 0)
		channel->boundary_mask = ops->boundary - 1;
	/* Where there is a boundary, the offset decides. */
	channel->max_direct = ops->boundary != 0 ? 0 : channel->max_length[BDEV_READ];
}

static void
channel_init(struct bdev_channel *channel, struct bdev_desc *desc, struct io_channel *io_channel)
{
	const struct bdev_ops *ops = desc->bdev->ops;
	const struct bdev_info *info = &desc->bdev->info;

	*channel = (struct bdev_channel){.bdev = desc->bdev};
	channel->desc = desc;
	channel->io_channel = io_channel;
	channel->thread_channel = io_channel_ctx(io_channel);
	channel->thread = io_channel_thread(io_channel);
	channel->submit = ops->submit;
	init_limits(channel, ops, info);
	channel->max_iovs = ops->max_iovs != 0 ? ops->max_iovs : UINT32_MAX;
	channel->block_mask = info->block_size - 1;
	channel->alignment_mask = ops->buffer_alignment - 1;
	channel->read_only = info->read_only || desc->use == BDEV_READS;
	channel->io_types =
		desc->use == BDEV_READS ? info->io_types & ~BDEV_WRITE_TYPES : info->io_types;
	channel->core_fua = info->write_cache && !ops->fua;
	channel->write_cache = info->write_cache;
}

struct bdev_channel *
bdev_channel_get(struct bdev_desc *desc)
{
	struct bdev_channel *channel = aligned_alloc(64, (sizeof(*channel) + 63) & ~(size_t)63);
	struct io_channel *io_channel;
	int rc;

	if (channel == NULL)
		return NULL;
	io_channel = io_channel_get(desc->bdev);
	if (io_channel == NULL) {
		int error = errno;

		free(channel);
		errno = error;
		return NULL;
	}
	channel_init(channel, desc, io_channel);
	rc = bdev_tally_start(channel);
	if (rc == 0)
		rc = bdev_meter_start(channel);
	if (rc != 0) {
		free(channel->tally);
		io_channel_put(io_channel);
		free(channel);
		errno = -rc;
		return NULL;
	}
	LIST_INSERT_HEAD(&channel->thread_channel->channels, channel, link);
	atomic_fetch_add(&desc->channels, 1);
	return channel;
}

void
bdev_channel_put(struct bdev_channel *channel)
{
	bdev_meter_end(channel);
	bdev_tally_end(channel);
	LIST_REMOVE(channel, link);
	io_channel_put(channel->io_channel);
	atomic_fetch_sub(&channel->desc->channels, 1);
	free(channel);
}

void
bdev_channel_set_label(struct bdev_channel *channel, const char *label)
{
	snprintf(channel->label, sizeof(channel->label), "%s", label);
}
