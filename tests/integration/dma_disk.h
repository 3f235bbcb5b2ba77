/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dma_disk: a block device that reaches memory only through I/O addresses, as one behind an IOMMU
 * or in another process does: its "hardware" has mapped the files by itself, and knows nothing of
 * ours. What it is told of an address that is not mapped is a fault.
 */
#ifndef VHOSTD_DMA_DISK_H
#define VHOSTD_DMA_DISK_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bdev.h"
#include "dma.h"
#include "thread.h"

#define DMA_DISK_WINDOWS 64
#define DMA_DISK_PARTS   32
#define DMA_DISK_BATCH   8 /* requests done in one poll */

struct dma_window {
	uint64_t iova;
	uint64_t length; /* 0: free */
	uint8_t *data;   /* a mapping of the device's own */
};

struct dma_disk {
	/* set once */
	struct bdev *bdev;
	struct bdev_ops ops;
	struct dma_space *space;
	uint8_t *data;
	uint64_t size;

	/* under lock: the hardware's side */
	pthread_mutex_t lock;
	struct dma_window windows[DMA_DISK_WINDOWS];
	unsigned int fail_at; /* the n-th map from now fails; 0: none */

	/* any thread */
	atomic_uint mapped;       /* windows */
	atomic_uint maps, unmaps; /* calls that the module got */
	atomic_uint faults;       /* of requests under way */
	atomic_uint not_mapped;   /* parts of requests that came without a map */
	atomic_uint requests;     /* done */
	atomic_uint waiting;      /* not done yet */
	atomic_bool hold;         /* requests stay */
	atomic_uint destroyed;
	atomic_uint left_mapped; /* at its end */
};

struct dma_disk_part {
	uint64_t iova;
	uint64_t length;
};

struct dma_disk_request {
	uint32_t count;
	struct dma_disk_part parts[DMA_DISK_PARTS];
};

struct dma_disk_channel {
	struct dma_disk *disk;
	struct poller *poller;
	struct bdev_request *first, **last;
	uint32_t hint;
	unsigned int polls;
};

/* ---- the hardware ---- */

static inline int
dma_disk_window_map(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd,
		    uint64_t fd_offset)
{
	struct dma_disk *disk = ctx;
	unsigned int i = 0;
	int rc = 0;

	(void)addr;
	pthread_mutex_lock(&disk->lock);
	while (i < DMA_DISK_WINDOWS && disk->windows[i].length != 0)
		i++;
	if (i == DMA_DISK_WINDOWS || (disk->fail_at > 0 && --disk->fail_at == 0)) {
		rc = -ENOMEM;
	} else {
		disk->windows[i] = (struct dma_window){.iova = iova, .length = length};
		disk->windows[i].data = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
					     (off_t)fd_offset);
		if (disk->windows[i].data == MAP_FAILED)
			abort();
		disk->mapped++;
	}
	pthread_mutex_unlock(&disk->lock);
	return rc;
}

static inline void
dma_disk_window_unmap(void *ctx, uint64_t iova, uint64_t length)
{
	struct dma_disk *disk = ctx;

	pthread_mutex_lock(&disk->lock);
	for (unsigned int i = 0; i < DMA_DISK_WINDOWS; i++) {
		struct dma_window *window = &disk->windows[i];

		if (window->length != length || window->iova != iova)
			continue;
		munmap(window->data, length);
		window->length = 0;
		disk->mapped--;
	}
	pthread_mutex_unlock(&disk->lock);
}

static const struct dma_space_ops dma_disk_space_ops = {
	.map = dma_disk_window_map,
	.unmap = dma_disk_window_unmap,
	.needs_fd = true,
};

/* Moves a part; false: it is not mapped. */
static inline bool
dma_disk_move(struct dma_disk *disk, const struct dma_disk_part *part, uint8_t *data, bool write)
{
	bool found = false;

	pthread_mutex_lock(&disk->lock);
	for (unsigned int i = 0; i < DMA_DISK_WINDOWS && !found; i++) {
		const struct dma_window *window = &disk->windows[i];
		uint64_t offset = part->iova - window->iova;

		found = offset < window->length && part->length <= window->length - offset;
		if (found && write)
			memcpy(data, window->data + offset, part->length);
		else if (found)
			memcpy(window->data + offset, data, part->length);
	}
	pthread_mutex_unlock(&disk->lock);
	return found;
}

static inline int
dma_disk_transfer(struct dma_disk *disk, const struct bdev_request *rq)
{
	const struct dma_disk_request *request = (const struct dma_disk_request *)rq->ctx;
	uint8_t *data = disk->data + rq->offset;

	for (uint32_t i = 0; i < request->count; i++) {
		if (!dma_disk_move(disk, &request->parts[i], data, rq->type == BDEV_WRITE)) {
			disk->faults++;
			return -EIO;
		}
		data += request->parts[i].length;
	}
	return 0;
}

static inline void
dma_disk_finish(struct dma_disk *disk, struct bdev_request *rq)
{
	int status = 0;

	if (rq->type <= BDEV_WRITE)
		status = dma_disk_transfer(disk, rq);
	else if (rq->type == BDEV_WRITE_ZEROES)
		memset(disk->data + rq->offset, 0, rq->length);
	disk->requests++;
	disk->waiting--;
	bdev_complete(rq, status);
}

/* ---- the driver ---- */

static inline int
dma_disk_poll(void *arg)
{
	struct dma_disk_channel *channel = arg;
	unsigned int count = 0;

	/* Every other poll nothing happens: requests take a while. */
	if (channel->first == NULL || channel->disk->hold || channel->polls++ % 2 == 0)
		return channel->first != NULL ? POLLER_BUSY : POLLER_IDLE;
	for (; channel->first != NULL && count < DMA_DISK_BATCH; count++) {
		struct bdev_request *rq = channel->first;

		channel->first = rq->link;
		if (channel->first == NULL)
			channel->last = &channel->first;
		dma_disk_finish(channel->disk, rq);
	}
	return POLLER_BUSY;
}

static inline bool
dma_disk_arm(void *arg)
{
	return ((struct dma_disk_channel *)arg)->first == NULL;
}

static inline int
dma_disk_channel_create(void *bdev_ctx, void *channel_ctx)
{
	static const struct poller_sleep_ops sleep_ops = {.arm = dma_disk_arm};
	struct dma_disk_channel *channel = channel_ctx;

	channel->disk = bdev_ctx;
	channel->last = &channel->first;
	channel->poller = poller_register(dma_disk_poll, channel, 0, "dma_disk");
	if (channel->poller == NULL)
		return -errno;
	poller_set_sleep_ops(channel->poller, &sleep_ops);
	return 0;
}

static inline void
dma_disk_channel_destroy(void *bdev_ctx, void *channel_ctx)
{
	struct dma_disk_channel *channel = channel_ctx;

	(void)bdev_ctx;
	poller_unregister(&channel->poller);
}

/* False: some of it is not mapped. */
static inline bool
dma_disk_translate(struct dma_disk_channel *channel, struct bdev_request *rq)
{
	struct dma_disk_request *request = (struct dma_disk_request *)rq->ctx;

	request->count = 0;
	for (uint32_t i = 0; rq->type <= BDEV_WRITE && i < rq->iovcnt; i++) {
		uint8_t *data = rq->iov[i].iov_base;

		for (size_t left = rq->iov[i].iov_len; left > 0;) {
			uint64_t length = left;
			uint64_t iova =
				dma_translate(channel->disk->space, data, &length, &channel->hint);

			if (iova == DMA_UNMAPPED || request->count == DMA_DISK_PARTS)
				return false;
			request->parts[request->count++] = (struct dma_disk_part){iova, length};
			data += length;
			left -= length;
		}
	}
	return true;
}

static inline void
dma_disk_submit(void *channel_ctx, struct bdev_request *rq)
{
	struct dma_disk_channel *channel = channel_ctx;

	if (rq->type == BDEV_RESET) {
		bdev_drain(rq);
		return;
	}
	if (!dma_disk_translate(channel, rq)) {
		channel->disk->not_mapped++;
		bdev_complete(rq, -EIO);
		return;
	}
	channel->disk->waiting++;
	rq->link = NULL;
	*channel->last = rq;
	channel->last = &rq->link;
}

static inline int
dma_disk_memory_map(void *bdev_ctx, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		    struct errmsg *err)
{
	struct dma_disk *disk = bdev_ctx;
	int rc = dma_map(disk->space, addr, length, fd, fd_offset, err);

	disk->maps += rc == 0;
	return rc;
}

static inline void
dma_disk_memory_unmap(void *bdev_ctx, void *addr, uint64_t length)
{
	struct dma_disk *disk = bdev_ctx;

	dma_unmap(disk->space, addr, length);
	disk->unmaps++;
}

static inline void
dma_disk_destroy(void *bdev_ctx)
{
	struct dma_disk *disk = bdev_ctx;

	disk->left_mapped = disk->mapped;
	dma_space_destroy(disk->space);
	free(disk->data);
	disk->destroyed++;
}

/*
 * App thread. With boundaries in odd places, so that also pieces of requests are met. 0 or a
 * negative errno, and nothing is left.
 */
static inline int
dma_disk_create(struct dma_disk *disk, const char *name, uint64_t size)
{
	static const struct dma_range range = {.first = 0, .last = (1ULL << 39) - 1};
	struct bdev_info info;
	int rc;

	memset(disk, 0, sizeof(*disk));
	pthread_mutex_init(&disk->lock, NULL);
	disk->size = size;
	disk->ops = (struct bdev_ops){
		.module = "dma",
		.channel_create = dma_disk_channel_create,
		.channel_destroy = dma_disk_channel_destroy,
		.submit = dma_disk_submit,
		.destroy = dma_disk_destroy,
		.memory_map = dma_disk_memory_map,
		.memory_unmap = dma_disk_memory_unmap,
		.channel_ctx_size = sizeof(struct dma_disk_channel),
		.request_ctx_size = sizeof(struct dma_disk_request),
		.buffer_alignment = 4,
		.max_iovs = DMA_DISK_PARTS / 2,
		.max_transfer = 128 << 10,
		.boundary = 11 * 512,
	};
	rc = bdev_info_init(&info, name, NULL, NULL);
	if (rc != 0)
		return rc;
	info.product_name = "DMA disk";
	info.block_size = 512;
	info.num_blocks = size / 512;
	info.io_types = (1u << BDEV_IO_TYPES) - 1;
	disk->data = calloc(1, size);
	if (disk->data == NULL)
		return -ENOMEM;
	rc = dma_space_create(&dma_disk_space_ops, disk, &range, 1, &disk->space);
	if (rc == 0)
		rc = bdev_register(&info, &disk->ops, disk, &disk->bdev, NULL);
	if (rc != 0) {
		dma_space_destroy(disk->space);
		free(disk->data);
	}
	return rc;
}

#endif
