/* SPDX-License-Identifier: BSD-3-Clause */
/* What does not depend on the ring's format: making a queue, slots, room for long chains. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "virtq_internal.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian");
_Static_assert(sizeof(struct vring_desc) == 16, "virtio 1.2 §2.7.5");
_Static_assert(offsetof(struct vring_desc, next) == 14, "virtio 1.2 §2.7.5");
_Static_assert(offsetof(struct vring_avail, ring) == 4, "virtio 1.2 §2.7.6");
_Static_assert(offsetof(struct vring_used, ring) == 4, "virtio 1.2 §2.7.8");
_Static_assert(sizeof(struct vring_used_elem) == 8, "virtio 1.2 §2.7.8");

/*
 * Iovecs for long chains, in all slots together: 8 MiB of address space a queue. With any sane
 * queue this is enough for every slot; else chains wait for each other (VIRTQ_MAX_SIZE of the
 * longest would be 16 GiB).
 */
#define POOL_IOVS (512u * 1024)

static bool
opts_are_valid(const struct virtq_opts *opts)
{
	return opts->size != 0 && opts->size <= VIRTQ_MAX_SIZE &&
	       (opts->size & (opts->size - 1)) == 0 && opts->max_segments <= VIRTQ_MAX_SIZE &&
	       opts->mem && opts->desc && opts->avail && opts->used &&
	       (uintptr_t)opts->desc % VRING_DESC_ALIGN_SIZE == 0 &&
	       (uintptr_t)opts->avail % VRING_AVAIL_ALIGN_SIZE == 0 &&
	       (uintptr_t)opts->used % VRING_USED_ALIGN_SIZE == 0;
}

/* Zeroed, and taken from the machine page by page when touched; NULL: no memory. */
static void *
map_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static size_t
slots_bytes(const struct virtq *vq)
{
	return vq->size * vq->slot_stride;
}

static size_t
pool_bytes(const struct virtq *vq)
{
	return (size_t)vq->part_count * vq->part_iovs * sizeof(struct iovec);
}

static int
alloc_slots(struct virtq *vq)
{
	uint32_t i;

	vq->slots = map_memory(slots_bytes(vq));
	if (!vq->slots)
		return -ENOMEM;
	vq->part_pool = map_memory(pool_bytes(vq));
	if (!vq->part_pool) {
		munmap(vq->slots, slots_bytes(vq));
		return -ENOMEM;
	}
	for (i = 0; i < vq->part_count; i++)
		vq->free_parts[i] =
			vq->part_pool + (size_t)(vq->part_count - 1 - i) * vq->part_iovs;
	vq->free_count = vq->part_count;
	return 0;
}

int
virtq_create(const struct virtq_opts *opts, struct virtq **vq)
{
	uint32_t max_chain, part_iovs, part_count;
	struct virtq *new_vq;
	size_t bytes;
	int rc;

	if (!opts_are_valid(opts))
		return -EINVAL;
	if (opts->ctx_size > SIZE_MAX / 2 / VIRTQ_MAX_SIZE)
		return -ENOMEM;
	max_chain = opts->max_segments > opts->size ? opts->max_segments : opts->size;
	/* Buffers may cross region borders; those that do not overlap cross each only once. */
	part_iovs = max_chain + GUEST_MEM_MAX_REGIONS;
	part_count = POOL_IOVS / part_iovs;
	if (part_count > opts->size)
		part_count = opts->size;
	bytes = sizeof(*new_vq) + part_count * sizeof(new_vq->free_parts[0]);
	bytes = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	new_vq = aligned_alloc(CACHE_LINE, bytes);
	if (!new_vq)
		return -ENOMEM;
	memset(new_vq, 0, bytes);
	new_vq->mem = opts->mem;
	new_vq->desc = opts->desc;
	new_vq->avail = opts->avail;
	new_vq->used = opts->used;
	new_vq->size = opts->size;
	new_vq->mask = opts->size - 1;
	new_vq->max_chain = max_chain;
	new_vq->part_iovs = part_iovs;
	new_vq->part_count = part_count;
	new_vq->indirect = opts->indirect;
	new_vq->last_avail = opts->last_avail;
	new_vq->slot_stride = sizeof(struct virtq_slot) + opts->ctx_size;
	new_vq->slot_stride = (new_vq->slot_stride + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	rc = alloc_slots(new_vq);
	if (rc < 0) {
		free(new_vq);
		return rc;
	}
	virtq_split_init(new_vq);
	*vq = new_vq;
	return 0;
}

void
virtq_destroy(struct virtq *vq)
{
	if (!vq)
		return;
	munmap(vq->part_pool, pool_bytes(vq));
	munmap(vq->slots, slots_bytes(vq));
	free(vq);
}

/* ---- chains ---- */

bool
virtq_stop(struct virtq *vq, const char *reason)
{
	virtq_break(vq, reason);
	return false;
}

/* Moves the chain's iovecs to a part of the pool. */
static bool
take_part(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain)
{
	if (slot->iov != slot->inline_iov)
		return virtq_stop(vq, "chain of too many buffers");
	if (vq->free_count == 0)
		return false;
	slot->iov = vq->free_parts[--vq->free_count];
	memcpy(slot->iov, chain->iov, chain->count * sizeof(*chain->iov));
	chain->iov = slot->iov;
	chain->max = vq->part_iovs;
	return true;
}

void
virtq_release_part(struct virtq *vq, struct virtq_slot *slot)
{
	if (slot->iov == slot->inline_iov)
		return;
	vq->free_parts[vq->free_count++] = slot->iov;
	slot->iov = slot->inline_iov;
}

bool
virtq_chain_recover(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
		    uint64_t gpa, uint32_t len, int rc)
{
	while (rc == -ENOBUFS) {
		if (!take_part(vq, slot, chain))
			return false;
		rc = guest_mem_map(vq->mem, &vq->buffer_hint, gpa, len, chain->iov + chain->count,
				   chain->max - chain->count);
	}
	if (rc < 0)
		return virtq_stop(vq, "buffer outside guest memory");
	chain->count += rc;
	return true;
}

/* ---- the public functions ---- */

uint32_t
virtq_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	return virtq_split_pop(vq, slots, max);
}

void
virtq_push(struct virtq *vq, struct virtq_slot *slot, uint32_t written)
{
	assert(slot->in_flight);
	slot->in_flight = false;
	vq->in_flight--;
	if (unlikely(slot->iov != slot->inline_iov))
		virtq_release_part(vq, slot);
	virtq_split_push(vq, slot, written);
}

bool
virtq_publish(struct virtq *vq)
{
	return virtq_split_publish(vq);
}

const char *
virtq_broken(const struct virtq *vq)
{
	return vq->broken;
}

void
virtq_break(struct virtq *vq, const char *reason)
{
	if (!vq->broken)
		vq->broken = reason;
}

void
virtq_disable_kicks(struct virtq *vq)
{
	virtq_split_disable_kicks(vq);
}

bool
virtq_enable_kicks(struct virtq *vq)
{
	if (vq->broken)
		return true;
	return virtq_split_enable_kicks(vq);
}

uint32_t
virtq_in_flight(const struct virtq *vq)
{
	return vq->in_flight;
}

uint16_t
virtq_last_avail(const struct virtq *vq)
{
	return vq->last_avail;
}

struct virtq_slot *
virtq_slot_at(struct virtq *vq, uint32_t i)
{
	assert(i < vq->size);
	return virtq_slot_of(vq, i);
}
