/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of guests that a device reaches by itself. Who maps it has a handle, and unmaps it when
 * the last request in it is done, which may be long after its desc was closed and the bdev is gone.
 * So what is mapped is kept in an object that lives as long as the bdev and each handle do.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "bdev_core.h"
#include "dma.h"

struct bdev_memories {
	/* Set once; the module's are valid until the end of the bdev. */
	const struct bdev_ops *ops;
	void *ctx;
	/* Any OS thread: the bdev and the handles. */
	_Atomic uint32_t users;
	/*
	 * Held while the module maps and unmaps. A mutex and not messages: those who map are OS
	 * threads that may block and wait for the result; no lightweight thread waits for it.
	 */
	pthread_mutex_t lock;
	/* Under lock. */
	LIST_HEAD(, bdev_memory) mapped;
};

struct bdev_memory {
	/* Set once. */
	struct bdev_memories *memories;
	void *addr;
	uint64_t length;
	/* Under the lock. */
	bool mapped; /* and in the list */
	LIST_ENTRY(bdev_memory) link;
};

int
bdev_memories_create(const struct bdev_ops *ops, void *ctx, struct bdev_memories **result)
{
	struct bdev_memories *memories;

	*result = NULL;
	if (ops->memory_map == NULL)
		return 0;
	memories = calloc(1, sizeof(*memories));
	if (memories == NULL)
		return -ENOMEM;
	memories->ops = ops;
	memories->ctx = ctx;
	atomic_init(&memories->users, 1);
	pthread_mutex_init(&memories->lock, NULL);
	LIST_INIT(&memories->mapped);
	*result = memories;
	return 0;
}

void
bdev_memories_put(struct bdev_memories *memories)
{
	if (memories == NULL || atomic_fetch_sub(&memories->users, 1) > 1)
		return;
	pthread_mutex_destroy(&memories->lock);
	free(memories);
}

/* Under the lock. */
static void
unmap(struct bdev_memory *memory)
{
	struct bdev_memories *memories = memory->memories;

	memories->ops->memory_unmap(memories->ctx, memory->addr, memory->length);
	memory->mapped = false;
	LIST_REMOVE(memory, link);
}

static int
unmap_all(void *arg)
{
	struct bdev_memories *memories = arg;
	struct bdev_memory *memory;

	pthread_mutex_lock(&memories->lock);
	while ((memory = LIST_FIRST(&memories->mapped)) != NULL)
		unmap(memory);
	pthread_mutex_unlock(&memories->lock);
	return 0;
}

void
bdev_memories_end(struct bdev_memories *memories)
{
	if (memories == NULL)
		return;
	if (coroutine_blocking(unmap_all, memories) != 0)
		unmap_all(memories); /* there is no pool, or this is cancelled */
	bdev_memories_put(memories);
}

static int
check_pages(const struct bdev *bdev, const void *addr, uint64_t length, uint64_t fd_offset,
	    struct errmsg *err)
{
	if (length != 0 && (((uintptr_t)addr | length | fd_offset) & (DMA_PAGE_SIZE - 1)) == 0)
		return 0;
	return err_set(err, -EINVAL,
		       "block device %s reads and writes memory by itself, which must be whole "
		       "pages of %u bytes: %lu bytes at offset %lu of a file are not",
		       bdev->info.name, DMA_PAGE_SIZE, length, fd_offset);
}

int
bdev_memory_map(struct bdev_desc *desc, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		struct bdev_memory **result, struct errmsg *err)
{
	struct bdev_memories *memories = desc->bdev->memories;
	struct bdev_memory *memory;
	int rc;

	*result = NULL;
	if (memories == NULL)
		return 0;
	rc = check_pages(desc->bdev, addr, length, fd_offset, err);
	if (rc != 0)
		return rc;
	memory = malloc(sizeof(*memory));
	if (memory == NULL)
		return err_set(err, -ENOMEM, "block device %s: no memory to map a guest's",
			       desc->bdev->info.name);
	*memory = (struct bdev_memory){.memories = memories, .addr = addr, .length = length};
	pthread_mutex_lock(&memories->lock);
	rc = memories->ops->memory_map(memories->ctx, addr, length, fd, fd_offset, err);
	if (rc == 0) {
		memory->mapped = true;
		LIST_INSERT_HEAD(&memories->mapped, memory, link);
	}
	pthread_mutex_unlock(&memories->lock);
	if (rc != 0) {
		free(memory);
		return rc;
	}
	atomic_fetch_add(&memories->users, 1);
	*result = memory;
	return 0;
}

void
bdev_memory_unmap(struct bdev_memory *memory)
{
	struct bdev_memories *memories;

	if (memory == NULL)
		return;
	memories = memory->memories;
	pthread_mutex_lock(&memories->lock);
	if (memory->mapped)
		unmap(memory);
	pthread_mutex_unlock(&memories->lock);
	free(memory);
	bdev_memories_put(memories);
}
