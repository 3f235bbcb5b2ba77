/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk in the daemon's memory, which takes memory from the machine as it is written. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bdev_config.h"
#include "bdev_info.h"
#include "bdev_modules.h"
#include "coroutine.h"

/* From so many bytes on giving pages back costs less than writing zeroes. */
#define RELEASE_BYTES (128u * 1024)
/* Of pages in one call: some ms, in which the thread does nothing else. */
#define MAX_DISCARD_BYTES (32u << 20)
#define MAX_ATOMIC_BYTES  (1u << 20)
#define CACHE_LINE        64
#define AHEAD_BYTES       4096 /* the processor itself sees to what follows */
#define PIECE             256

struct malloc_disk {
	struct bdev *bdev;
	uint8_t *data;
	uint64_t size;       /* bytes, at creation */
	uintptr_t page_mask; /* page size - 1 */
};

/* Channel's thread only. */
struct malloc_channel {
	const struct malloc_disk *disk;
	/* Served when the next one comes, whose data then is fetched meanwhile, or at the flush. */
	struct bdev_request *last;
	bool flushing;
};

/* ---- the data path ---- */

/* Memory of the disk that the next request is about, and that no cache holds. */
struct ahead {
	const uint8_t *next;
	size_t bytes;
};

static void
fetch(struct ahead *ahead, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += CACHE_LINE)
		__builtin_prefetch(ahead->next + i);
	ahead->next += bytes;
	ahead->bytes -= bytes;
}

/*
 * A piece is fetched for each piece that is copied, which keeps memory busy all the time. All of it
 * at once is more than a core can have on the way: the copy would wait behind it.
 */
static void
copy(uint8_t *to, const uint8_t *from, size_t bytes, struct ahead *ahead)
{
	while (bytes > PIECE && ahead->bytes >= PIECE) {
		fetch(ahead, PIECE);
		memcpy(to, from, PIECE);
		to += PIECE;
		from += PIECE;
		bytes -= PIECE;
	}
	memcpy(to, from, bytes);
}

static void
read_data(const struct malloc_disk *disk, const struct bdev_request *rq, struct ahead *ahead)
{
	const uint8_t *from = disk->data + rq->offset;

	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		copy(rq->iov[i].iov_base, from, rq->iov[i].iov_len, ahead);
		from += rq->iov[i].iov_len;
	}
}

static void
write_data(const struct malloc_disk *disk, const struct bdev_request *rq, struct ahead *ahead)
{
	uint8_t *to = disk->data + rq->offset;

	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		copy(to, rq->iov[i].iov_base, rq->iov[i].iov_len, ahead);
		to += rq->iov[i].iov_len;
	}
}

/* Whole pages that are given back read as zeroes, too. */
static void
zero_data(const struct malloc_disk *disk, const struct bdev_request *rq, struct ahead *ahead)
{
	uint8_t *start = disk->data + rq->offset;
	uint8_t *end = start + rq->length;
	uint8_t *first_page = disk->data + ((rq->offset + disk->page_mask) & ~disk->page_mask);
	uint8_t *last_page = disk->data + ((rq->offset + rq->length) & ~disk->page_mask);

	(void)ahead;
	if (rq->length < RELEASE_BYTES ||
	    madvise(first_page, (size_t)(last_page - first_page), MADV_DONTNEED) != 0) {
		memset(start, 0, rq->length);
		return;
	}
	memset(start, 0, (size_t)(first_page - start));
	memset(last_page, 0, (size_t)(end - last_page));
}

static void
flush_data(const struct malloc_disk *disk, const struct bdev_request *rq, struct ahead *ahead)
{
	(void)disk;
	(void)rq;
	(void)ahead;
}

static void (*const serve[BDEV_IO_TYPES])(const struct malloc_disk *disk,
					  const struct bdev_request *rq, struct ahead *ahead) = {
	[BDEV_READ] = read_data,    [BDEV_WRITE] = write_data,       [BDEV_FLUSH] = flush_data,
	[BDEV_DISCARD] = zero_data, [BDEV_WRITE_ZEROES] = zero_data,
};

static int
malloc_channel_create(void *bdev_ctx, void *channel_ctx)
{
	struct malloc_channel *channel = channel_ctx;

	channel->disk = bdev_ctx;
	return 0;
}

static struct ahead
look_ahead(const struct malloc_disk *disk, const struct bdev_request *next)
{
	if (next == NULL || (next->type != BDEV_READ && next->type != BDEV_WRITE))
		return (struct ahead){.next = disk->data};
	return (struct ahead){
		.next = disk->data + next->offset,
		.bytes = next->length < AHEAD_BYTES ? next->length : AHEAD_BYTES,
	};
}

/* next: NULL, or what is served after it. */
static void
finish(const struct malloc_channel *channel, struct bdev_request *rq,
       const struct bdev_request *next)
{
	struct ahead ahead = look_ahead(channel->disk, next);

	serve[rq->type](channel->disk, rq, &ahead);
	fetch(&ahead, ahead.bytes); /* what it was too short for */
	bdev_complete(rq, 0);
}

static void
malloc_submit(void *channel_ctx, struct bdev_request *rq)
{
	struct malloc_channel *channel = channel_ctx;
	struct bdev_request *before = channel->last;

	if (rq->type == BDEV_RESET) {
		bdev_drain(rq);
		return;
	}
	channel->last = rq;
	if (before != NULL)
		finish(channel, before, rq);
}

/*
 * What is submitted and flushed by those who are told of an end is served here, not deeper in the
 * stack.
 */
static void
malloc_flush_submissions(void *channel_ctx)
{
	struct malloc_channel *channel = channel_ctx;
	struct bdev_request *rq;

	if (channel->flushing)
		return;
	channel->flushing = true;
	while ((rq = channel->last) != NULL) {
		channel->last = NULL;
		finish(channel, rq, NULL);
	}
	channel->flushing = false;
}

/* ---- the control path ---- */

static json_t *
malloc_config(void *bdev_ctx)
{
	const struct malloc_disk *disk = bdev_ctx;
	const struct bdev_info *info = bdev_get_info(disk->bdev);
	json_t *config = bdev_config_of_size(disk->bdev, "bdev_malloc_create");

	if (info->physical_block_size != info->block_size)
		json_object_set_new(json_object_get(config, "params"), "physical_block_size",
				    json_integer(info->physical_block_size));
	return config;
}

static int
release_data(void *arg)
{
	struct malloc_disk *disk = arg;

	if (disk->data != NULL)
		munmap(disk->data, disk->size);
	disk->data = NULL;
	return 0;
}

/* Giving back gigabytes takes long enough to be done elsewhere. */
static void
malloc_destroy(void *bdev_ctx)
{
	coroutine_blocking(release_data, bdev_ctx);
	release_data(bdev_ctx);
	free(bdev_ctx);
}

static const struct bdev_ops malloc_ops = {
	.module = "malloc",
	.channel_create = malloc_channel_create,
	.submit = malloc_submit,
	.flush_submissions = malloc_flush_submissions,
	.destroy = malloc_destroy,
	.config = malloc_config,
	.channel_ctx_size = sizeof(struct malloc_channel),
	.buffer_alignment = 1,
};

/* Memory that the machine could never have is refused here, not when it is touched. */
static struct malloc_disk *
disk_new(uint64_t size)
{
	struct malloc_disk *disk = calloc(1, sizeof(*disk));

	if (disk == NULL)
		return NULL;
	disk->size = size;
	disk->page_mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
	disk->data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (disk->data == MAP_FAILED) {
		free(disk);
		return NULL;
	}
	return disk;
}

static void
pick_name(char name[BDEV_NAME_MAX + 1])
{
	unsigned int n = 0;

	do {
		snprintf(name, BDEV_NAME_MAX + 1, "Malloc%u", n++);
	} while (bdev_by_name(name) != NULL);
}

int
bdev_malloc_create(const struct bdev_malloc_opts *opts, struct bdev **bdev, struct errmsg *err)
{
	char free_name[BDEV_NAME_MAX + 1];
	struct bdev_info given, info;
	struct malloc_disk *disk;
	int rc;

	pick_name(free_name);
	rc = bdev_info_init(&given, opts->name != NULL ? opts->name : free_name, opts->uuid, err);
	if (rc != 0)
		return rc;
	given.product_name = "Malloc disk";
	given.block_size = opts->block_size;
	given.physical_block_size = opts->physical_block_size;
	given.num_blocks = opts->num_blocks;
	given.io_types = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH |
			 1u << BDEV_DISCARD | 1u << BDEV_WRITE_ZEROES | 1u << BDEV_RESET;
	given.max_discard_bytes = MAX_DISCARD_BYTES;
	given.atomic_write_bytes =
		MAX_ATOMIC_BYTES; /* what ends in between takes the disk with it */
	rc = bdev_info_complete(&info, &given, err);
	if (rc != 0)
		return rc;
	disk = disk_new(info.size);
	if (disk == NULL)
		return err_set(err, -ENOMEM, "block device %s: no memory for %lu bytes", info.name,
			       info.size);
	rc = bdev_register(&info, &malloc_ops, disk, &disk->bdev, err);
	if (rc != 0) {
		release_data(disk);
		free(disk);
		return rc;
	}
	*bdev = disk->bdev;
	return 0;
}
