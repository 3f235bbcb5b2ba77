/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_fake: a module whose disk is memory, that keeps a log of what it got, and fails and delays
 * as told. It maps memory as a device with DMA if that is asked for.
 */
#ifndef VHOSTD_BDEV_FAKE_H
#define VHOSTD_BDEV_FAKE_H

#include <errno.h>

#include "bdev_rig.h"

#define FAKE_BLOCK     512
#define FAKE_BLOCKS    16384
#define FAKE_SIZE      ((size_t)FAKE_BLOCK * FAKE_BLOCKS)
#define FAKE_LOG       4096
#define FAKE_ALL_TYPES ((1u << BDEV_IO_TYPES) - 1)
#define FAKE_MAPS      64

struct fake_entry {
	uint8_t type, flags;
	uint64_t offset, length;
	uint32_t iovcnt;
};

struct fake_map {
	void *addr;
	uint64_t length; /* 0: free */
	int fd;
	uint64_t fd_offset;
};

static struct fake {
	struct bdev *bdev;
	struct bdev_ops ops;
	uint8_t *memory;
	/* told by the test */
	bool delayed;         /* requests wait for fake_complete_one() */
	unsigned int fail_at; /* the n-th request from now fails; 0: none */
	int fail_status;
	/* seen */
	struct fake_entry log[FAKE_LOG];
	unsigned int logged;
	unsigned int flushes;
	unsigned int channels;
	unsigned int destroyed;
	unsigned int misaligned;
	struct bdev_request *waiting[FAKE_LOG];
	unsigned int first_waiting, last_waiting;
	/* what is mapped; the core calls from any OS thread, one at a time */
	struct fake_map maps[FAKE_MAPS];
	unsigned int mapped;
	unsigned int map_calls, unmap_calls;
	unsigned int bad_unmaps;  /* of what was not mapped */
	unsigned int left_mapped; /* at the end of the bdev */
	unsigned int map_fail_at; /* the n-th map from now fails; 0: none */
	/* as long as that is set; and how many calls have begun */
	_Atomic bool map_blocks, unmap_blocks;
	_Atomic unsigned int mapping, unmapping;
} fake;

static inline int
fake_memory_map(void *bdev_ctx, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		struct errmsg *err)
{
	unsigned int i = 0;

	(void)bdev_ctx;
	fake.mapping++;
	while (fake.map_blocks)
		usleep(100);
	fake.map_calls++;
	if (fake.map_fail_at > 0 && --fake.map_fail_at == 0)
		return err_set(err, -ENOMEM, "no more memory can be locked");
	while (i < FAKE_MAPS && fake.maps[i].length != 0)
		i++;
	if (i == FAKE_MAPS)
		abort();
	fake.maps[i] = (struct fake_map){addr, length, fd, fd_offset};
	fake.mapped++;
	return 0;
}

static inline void
fake_memory_unmap(void *bdev_ctx, void *addr, uint64_t length)
{
	unsigned int i = 0;

	(void)bdev_ctx;
	fake.unmapping++;
	while (fake.unmap_blocks)
		usleep(100);
	fake.unmap_calls++;
	while (i < FAKE_MAPS && (fake.maps[i].addr != addr || fake.maps[i].length != length))
		i++;
	if (i == FAKE_MAPS) {
		fake.bad_unmaps++;
		return;
	}
	fake.maps[i].length = 0;
	fake.mapped--;
}

/* Before fake_register(): a device with DMA. */
static inline void
fake_use_dma(void)
{
	fake.ops.memory_map = fake_memory_map;
	fake.ops.memory_unmap = fake_memory_unmap;
}

static inline void
fake_copy(struct bdev_request *rq)
{
	uint8_t *disk = fake.memory + rq->offset;

	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		size_t length = rq->iov[i].iov_len;

		if (length == 0)
			continue;
		if (rq->type == BDEV_READ)
			memcpy(rq->iov[i].iov_base, disk, length);
		else
			memcpy(disk, rq->iov[i].iov_base, length);
		disk += length;
	}
}

static inline void
fake_serve(struct bdev_request *rq)
{
	if (fake.fail_at > 0 && --fake.fail_at == 0) {
		bdev_complete(rq, fake.fail_status);
		return;
	}
	if (rq->type <= BDEV_WRITE)
		fake_copy(rq);
	else if (rq->type == BDEV_WRITE_ZEROES)
		memset(fake.memory + rq->offset, 0, rq->length);
	bdev_complete(rq, 0);
}

static inline void
fake_check(const struct bdev_request *rq)
{
	uint64_t sum = 0;

	if (rq->type > BDEV_WRITE)
		return;
	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		uintptr_t bits = (uintptr_t)rq->iov[i].iov_base | rq->iov[i].iov_len;

		if (bits & (fake.ops.buffer_alignment - 1))
			fake.misaligned++;
		sum += rq->iov[i].iov_len;
	}
	if (sum != rq->length || sum % FAKE_BLOCK != 0 || sum == 0)
		abort();
}

static inline void
fake_submit(void *channel_ctx, struct bdev_request *rq)
{
	(void)channel_ctx;
	if (fake.logged < FAKE_LOG)
		fake.log[fake.logged] = (struct fake_entry){rq->type, rq->flags, rq->offset,
							    rq->length, rq->iovcnt};
	fake.logged++;
	fake_check(rq);
	memset(rq->ctx, 0xa5, fake.ops.request_ctx_size);
	if (rq->type == BDEV_RESET)
		bdev_drain(rq);
	else if (fake.delayed)
		fake.waiting[fake.last_waiting++ % FAKE_LOG] = rq;
	else
		fake_serve(rq);
}

/* Completes the oldest one that waits, on that thread. False: none. */
static inline bool
fake_complete_one(struct thread *thread)
{
	if (fake.first_waiting == fake.last_waiting)
		return false;
	thread_set_current(thread);
	fake_serve(fake.waiting[fake.first_waiting++ % FAKE_LOG]);
	thread_set_current(NULL);
	return true;
}

static inline void
fake_flush(void *channel_ctx)
{
	(void)channel_ctx;
	fake.flushes++;
}

static inline int
fake_channel_create(void *bdev_ctx, void *channel_ctx)
{
	(void)bdev_ctx;
	(void)channel_ctx;
	fake.channels++;
	return 0;
}

static inline void
fake_channel_destroy(void *bdev_ctx, void *channel_ctx)
{
	(void)bdev_ctx;
	(void)channel_ctx;
	fake.channels--;
}

static inline void
fake_destroy(void *bdev_ctx)
{
	struct fake *disk = bdev_ctx;

	disk->destroyed++;
	disk->left_mapped += disk->mapped;
	free(disk->memory);
	disk->memory = NULL;
}

static inline void
fake_reset(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.ops = (struct bdev_ops){
		.module = "fake",
		.channel_create = fake_channel_create,
		.channel_destroy = fake_channel_destroy,
		.submit = fake_submit,
		.flush_submissions = fake_flush,
		.destroy = fake_destroy,
		.channel_ctx_size = 16,
		.request_ctx_size = 40,
		.buffer_alignment = 1,
	};
	fake.memory = calloc(1, FAKE_SIZE);
	assert_non_null(fake.memory);
}

static inline struct bdev_info
fake_info(const char *name)
{
	struct bdev_info info;

	assert_int_equal(bdev_info_init(&info, name, NULL, &rig_err), 0);
	info.product_name = "Fake disk";
	info.block_size = FAKE_BLOCK;
	info.num_blocks = FAKE_BLOCKS;
	info.io_types = FAKE_ALL_TYPES;
	info.write_cache = true;
	return info;
}

static inline int
fake_register(const struct bdev_info *info)
{
	int rc;

	thread_set_current(rig_app);
	rc = bdev_register(info, &fake.ops, &fake, &fake.bdev, &rig_err);
	thread_set_current(NULL);
	return rc;
}

/* A fake disk, opened for writing, with a channel on rig_io[0]. */
static struct bdev_desc *fake_desc;
static struct bdev_channel *fake_channel;

static inline void
fake_start(const struct bdev_info *info)
{
	assert_int_equal(fake_register(info), 0);
	fake_desc = rig_open(info->name, !info->read_only);
	fake_channel = rig_channel(fake_desc, rig_io[0]);
}

static inline void
fake_stop(void)
{
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	assert_int_equal(rig_delete(bdev_get_info(fake.bdev)->name, "fake"), 0);
	assert_int_equal(fake.destroyed, 1);
	assert_int_equal(fake.channels, 0);
}

static inline int
fake_setup(void **state)
{
	rig_setup(state);
	fake_reset();
	return 0;
}

static inline int
fake_teardown(void **state)
{
	rig_teardown(state);
	free(fake.memory);
	fake.memory = NULL;
	return 0;
}

#endif
