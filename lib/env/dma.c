/* SPDX-License-Identifier: BSD-3-Clause */
#include "dma.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "iova.h"

/*
 * What translations read. A writer makes `changes` odd, changes the rest, and makes it even again:
 * a reader that saw it odd, or changed, has met a mapping that is not the one it asked for, since
 * that one stays while it asks.
 */
struct slot {
	_Atomic uint32_t changes;
	_Atomic uintptr_t start;
	_Atomic uint64_t length; /* bytes; 0: free */
	_Atomic uint64_t iova;
};

struct dma_space {
	/* set once */
	const struct dma_space_ops *ops;
	void *ctx;

	/* written under lock, read by all */
	struct slot slots[DMA_MAX_MAPPINGS];
	_Atomic uint32_t slots_end; /* behind the last in use */

	/*
	 * Under lock. A mutex and not messages: those who map are OS threads of the work pool and
	 * of DPDK, which wait for the result, and pinning pages blocks them anyhow.
	 */
	pthread_mutex_t lock;
	struct iova *iova;
	uint32_t users[DMA_MAX_MAPPINGS]; /* of each slot: how often it was mapped */
};

int
dma_space_create(const struct dma_space_ops *ops, void *ctx, const struct dma_range *ranges,
		 uint32_t count, struct dma_space **space)
{
	struct dma_space *made = calloc(1, sizeof(*made));
	int rc;

	if (made == NULL)
		return -ENOMEM;
	rc = iova_create(ranges, count, DMA_MAX_MAPPINGS, &made->iova);
	if (rc != 0) {
		free(made);
		return rc;
	}
	made->ops = ops;
	made->ctx = ctx;
	pthread_mutex_init(&made->lock, NULL);
	*space = made;
	return 0;
}

/* ---- what readers see ---- */

static void
slot_set(struct slot *slot, uintptr_t start, uint64_t length, uint64_t iova)
{
	uint32_t changes = atomic_load_explicit(&slot->changes, memory_order_relaxed);

	/* Release: whoever sees one of the new values sees that they are changing. */
	atomic_store_explicit(&slot->changes, changes + 1, memory_order_relaxed);
	atomic_store_explicit(&slot->start, start, memory_order_release);
	atomic_store_explicit(&slot->length, length, memory_order_release);
	atomic_store_explicit(&slot->iova, iova, memory_order_release);
	atomic_store_explicit(&slot->changes, changes + 2, memory_order_release);
}

/* The IOVA of address, or DMA_UNMAPPED: not in this slot. */
static uint64_t
slot_translate(const struct slot *slot, uintptr_t address, uint64_t *length)
{
	uint32_t changes = atomic_load_explicit(&slot->changes, memory_order_acquire);
	uintptr_t start = atomic_load_explicit(&slot->start, memory_order_acquire);
	uint64_t size = atomic_load_explicit(&slot->length, memory_order_acquire);
	uint64_t iova = atomic_load_explicit(&slot->iova, memory_order_acquire);
	uint64_t offset = address - start;

	if (offset >= size || (changes & 1) != 0 ||
	    atomic_load_explicit(&slot->changes, memory_order_relaxed) != changes)
		return DMA_UNMAPPED;
	if (*length > size - offset)
		*length = size - offset;
	return iova + offset;
}

/*
 * A hint is the numbers of the last two slots that were found: a guest's memory below and above 4
 * GiB.
 */
#define HINT_BITS 16

_Static_assert(DMA_MAX_MAPPINGS <= 1u << HINT_BITS, "a hint has room for two slot numbers");

static uint64_t
translate_by_search(const struct dma_space *space, uintptr_t address, uint64_t *length,
		    uint32_t *hint)
{
	uint32_t end = atomic_load_explicit(&space->slots_end, memory_order_acquire);

	for (uint32_t i = 0; i < end; i++) {
		uint64_t iova = slot_translate(&space->slots[i], address, length);

		if (iova != DMA_UNMAPPED) {
			*hint = *hint << HINT_BITS | i;
			return iova;
		}
	}
	return DMA_UNMAPPED;
}

uint64_t
dma_translate(const struct dma_space *space, const void *addr, uint64_t *length, uint32_t *hint)
{
	const uint32_t last = (*hint & ((1u << HINT_BITS) - 1)) % DMA_MAX_MAPPINGS;
	const uint32_t other = (*hint >> HINT_BITS) % DMA_MAX_MAPPINGS;
	uint64_t iova = slot_translate(&space->slots[last], (uintptr_t)addr, length);

	if (__builtin_expect(iova != DMA_UNMAPPED, 1))
		return iova;
	iova = slot_translate(&space->slots[other], (uintptr_t)addr, length);
	if (iova != DMA_UNMAPPED) {
		*hint = last << HINT_BITS | other;
		return iova;
	}
	return translate_by_search(space, (uintptr_t)addr, length, hint);
}

/* ---- mapping ---- */

/* Plain reads: the caller holds the lock. */
static uintptr_t
slot_start(const struct slot *slot)
{
	return atomic_load_explicit(&slot->start, memory_order_relaxed);
}

static uint64_t
slot_length(const struct slot *slot)
{
	return atomic_load_explicit(&slot->length, memory_order_relaxed);
}

static uint64_t
slot_iova(const struct slot *slot)
{
	return atomic_load_explicit(&slot->iova, memory_order_relaxed);
}

/*
 * *same: the slot that has just that range, *free_slot: the first without one; both
 * DMA_MAX_MAPPINGS: none. -EINVAL: it overlaps another.
 */
static int
find_slots(const struct dma_space *space, uintptr_t start, uint64_t length, uint32_t *same,
	   uint32_t *free_slot)
{
	*same = DMA_MAX_MAPPINGS;
	*free_slot = DMA_MAX_MAPPINGS;
	for (uint32_t i = 0; i < DMA_MAX_MAPPINGS; i++) {
		uintptr_t other = slot_start(&space->slots[i]);
		uint64_t size = slot_length(&space->slots[i]);

		if (size == 0) {
			if (*free_slot == DMA_MAX_MAPPINGS)
				*free_slot = i;
		} else if (other == start && size == length) {
			*same = i;
		} else if (start - other < size || other - start < length) {
			return -EINVAL;
		}
	}
	return 0;
}

static int
explain(const struct dma_space *space, int rc, uint64_t length, struct errmsg *err)
{
	struct rlimit limit = {0};

	if (rc != -ENOMEM || space->ops->needs_fd)
		return err_set(err, rc, "cannot map %llu KiB of memory for the device: %s",
			       (unsigned long long)length >> 10, strerror(-rc));
	getrlimit(RLIMIT_MEMLOCK, &limit);
	return err_set(err, rc,
		       "cannot lock another %llu KiB of memory for the device: RLIMIT_MEMLOCK is "
		       "%llu KiB, and each device needs all memory of the guests that use it: set "
		       "LimitMEMLOCK=infinity in vhostd.service, or ulimit -l unlimited",
		       (unsigned long long)length >> 10, (unsigned long long)limit.rlim_cur >> 10);
}

/* Under lock. */
static int
map_new(struct dma_space *space, uint32_t slot, void *addr, uint64_t length, int fd,
	uint64_t fd_offset, struct errmsg *err)
{
	uint64_t iova;
	int rc;

	if (slot == DMA_MAX_MAPPINGS ||
	    iova_alloc(space->iova, length, (uintptr_t)addr, &iova) != 0)
		return err_set(err, -ENOSPC,
			       "the device's I/O address space has no room for %llu KiB more",
			       (unsigned long long)length >> 10);
	rc = space->ops->map(space->ctx, addr, length, iova, fd, fd_offset);
	if (rc != 0) {
		iova_free(space->iova, iova, length);
		return explain(space, rc, length, err);
	}
	space->users[slot] = 1;
	slot_set(&space->slots[slot], (uintptr_t)addr, length, iova);
	if (slot >= atomic_load_explicit(&space->slots_end, memory_order_relaxed))
		atomic_store_explicit(&space->slots_end, slot + 1, memory_order_release);
	return 0;
}

int
dma_map(struct dma_space *space, void *addr, uint64_t length, int fd, uint64_t fd_offset,
	struct errmsg *err)
{
	const uint64_t all = (uintptr_t)addr | length | (fd >= 0 ? fd_offset : 0);
	uint32_t same, free_slot;
	int rc;

	if (length == 0 || all % DMA_PAGE_SIZE != 0 || (uintptr_t)addr + length < length)
		return err_set(err, -EINVAL, "memory for a device is not made of whole pages");
	if (space->ops->needs_fd && fd < 0)
		return err_set(err, -EINVAL, "memory for a device in another process has no file");
	pthread_mutex_lock(&space->lock);
	rc = find_slots(space, (uintptr_t)addr, length, &same, &free_slot);
	if (rc != 0)
		err_set(err, rc, "memory for a device overlaps other memory that it has already");
	else if (same != DMA_MAX_MAPPINGS)
		space->users[same]++;
	else
		rc = map_new(space, free_slot, addr, length, fd, fd_offset, err);
	pthread_mutex_unlock(&space->lock);
	return rc;
}

/* Under lock. */
static void
unmap_slot(struct dma_space *space, uint32_t slot)
{
	uint64_t length = slot_length(&space->slots[slot]);
	uint64_t iova = slot_iova(&space->slots[slot]);
	uint32_t end = atomic_load_explicit(&space->slots_end, memory_order_relaxed);

	slot_set(&space->slots[slot], 0, 0, 0);
	space->users[slot] = 0;
	while (end > 0 && space->users[end - 1] == 0)
		end--;
	atomic_store_explicit(&space->slots_end, end, memory_order_release);
	space->ops->unmap(space->ctx, iova, length);
	iova_free(space->iova, iova, length);
}

void
dma_unmap(struct dma_space *space, void *addr, uint64_t length)
{
	uint32_t slot, free_slot;

	pthread_mutex_lock(&space->lock);
	find_slots(space, (uintptr_t)addr, length, &slot, &free_slot);
	if (slot != DMA_MAX_MAPPINGS && --space->users[slot] == 0)
		unmap_slot(space, slot);
	pthread_mutex_unlock(&space->lock);
}

void
dma_space_destroy(struct dma_space *space)
{
	if (space == NULL)
		return;
	for (uint32_t i = 0; i < DMA_MAX_MAPPINGS; i++)
		if (space->users[i] != 0)
			unmap_slot(space, i);
	iova_destroy(space->iova);
	pthread_mutex_destroy(&space->lock);
	free(space);
}

/* ---- memory of ours ---- */

static size_t
whole_pages(size_t size)
{
	return (size + DMA_PAGE_SIZE - 1) / DMA_PAGE_SIZE * DMA_PAGE_SIZE;
}

/*
 * A file of that size that nobody who gets it can shorten: what is cut off a mapping is a SIGBUS.
 * -1 with errno.
 */
static int
create_file(size_t size)
{
	int fd = memfd_create("vhostd-dma", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int saved;

	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	saved = errno;
	if (fd >= 0)
		close(fd);
	errno = saved;
	return -1;
}

void *
dma_alloc(struct dma_space *space, size_t size, uint64_t *iova, struct errmsg *err)
{
	size_t length = whole_pages(size);
	uint64_t mapped = length;
	uint32_t hint = 0;
	void *memory = MAP_FAILED;
	int rc, fd = create_file(length);

	if (fd >= 0)
		memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
			      0);
	if (memory == MAP_FAILED) {
		err_set(err, -errno, "no memory for %zu bytes of a device's queues: %s", size,
			strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	rc = dma_map(space, memory, length, fd, 0, err);
	close(fd);
	if (rc != 0) {
		munmap(memory, length);
		return NULL;
	}
	*iova = dma_translate(space, memory, &mapped, &hint);
	return memory;
}

void
dma_free(struct dma_space *space, void *memory, size_t size)
{
	if (memory == NULL)
		return;
	dma_unmap(space, memory, whole_pages(size));
	munmap(memory, whole_pages(size));
}

void
dma_space_stats(struct dma_space *space, struct dma_stats *stats)
{
	*stats = (struct dma_stats){0};
	pthread_mutex_lock(&space->lock);
	for (uint32_t i = 0; i < DMA_MAX_MAPPINGS; i++) {
		if (space->users[i] == 0)
			continue;
		stats->mappings++;
		stats->bytes += slot_length(&space->slots[i]);
	}
	pthread_mutex_unlock(&space->lock);
}
