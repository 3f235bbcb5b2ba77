/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of virtq share. What is known of the ring's format only is in virtq_split.c. */
#ifndef VHOSTD_VIRTQ_INTERNAL_H
#define VHOSTD_VIRTQ_INTERNAL_H

#include <linux/virtio_ring.h>
#include <sys/cdefs.h>

#include "virtq.h"

/* Slots are as far apart as a multiple of this, so that none shares a cache line with another. */
#define CACHE_LINE 64

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

struct virtq {
	/* Set once. */
	const struct guest_mem *mem;
	const struct vring_desc *desc; /* shared with the driver, as are avail and used */
	const struct vring_avail *avail;
	struct vring_used *used;
	uint8_t *slots;
	size_t slot_stride;      /* bytes */
	uint32_t size;           /* entries */
	uint32_t mask;           /* size - 1 */
	uint32_t max_chain;      /* descriptors */
	uint32_t part_iovs;      /* iovecs in each of the pool's parts */
	struct iovec *part_pool; /* for chains of more than VIRTQ_INLINE_IOVS buffers */
	uint32_t part_count;
	bool indirect;

	/* Queue thread only. */
	_Alignas(CACHE_LINE) const char *broken;
	uint16_t last_avail; /* free-running, as are the two below */
	uint16_t used_next;
	uint16_t used_published;
	bool kicks_enabled;
	uint32_t in_flight;
	uint32_t buffer_hint; /* region of the last buffer */
	uint32_t table_hint;  /* region of the last indirect table */
	uint32_t free_count;
	struct iovec *free_parts[]; /* a stack: what was touched last is taken first */
};

/*
 * A chain while its descriptors are looked at one by one: in registers, hence __always_inline
 * below.
 */
struct virtq_chain {
	struct iovec *iov;
	uint32_t max;   /* iovecs that fit in there */
	uint32_t count; /* iovecs */
	uint32_t readable_count;
	uint32_t descriptors;
	uint64_t bytes;
	uint64_t readable_bytes;
	bool writable; /* a writable buffer was seen */
};

static inline struct virtq_slot *
virtq_slot_of(const struct virtq *vq, uint32_t head)
{
	return (struct virtq_slot *)(vq->slots + head * vq->slot_stride);
}

/* virtq_break() for the conditions of functions that return whether to go on. */
bool virtq_stop(struct virtq *vq, const char *reason);

/*
 * What virtq_chain_add() does about an error of guest_mem_map(): more room for iovecs, or the end.
 * False without `broken` means that the pool has no part left: the chain must wait for a push.
 */
bool virtq_chain_recover(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
			 uint64_t gpa, uint32_t len, int rc);
/* Gives back the slot's part of the pool. */
void virtq_release_part(struct virtq *vq, struct virtq_slot *slot);

static __always_inline void
virtq_chain_begin(struct virtq_chain *chain, struct virtq_slot *slot)
{
	*chain = (struct virtq_chain){.iov = slot->inline_iov, .max = VIRTQ_INLINE_IOVS};
	slot->iov = slot->inline_iov;
}

/* Checks one descriptor's copy and adds its buffer. Returns whether to go on. */
static __always_inline bool
virtq_chain_add(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
		const struct vring_desc *desc)
{
	int count;

	if (desc->flags & VRING_DESC_F_WRITE) {
		if (!chain->writable) {
			chain->writable = true;
			chain->readable_count = chain->count;
			chain->readable_bytes = chain->bytes;
		}
	} else if (unlikely(chain->writable)) {
		return virtq_stop(vq, "readable buffer after a writable one");
	}
	count = guest_mem_map(vq->mem, &vq->buffer_hint, desc->addr, desc->len,
			      chain->iov + chain->count, chain->max - chain->count);
	if (unlikely(count < 0)) {
		/* A copy, so that the chain itself can stay in registers. */
		struct virtq_chain copy = *chain;
		bool recovered = virtq_chain_recover(vq, slot, &copy, desc->addr, desc->len, count);

		*chain = copy;
		if (!recovered)
			return false;
		count = 0;
	}
	chain->count += count;
	chain->descriptors++;
	/* Cannot overflow: 32 bits each, and the number of descriptors is bounded. */
	chain->bytes += desc->len;
	return true;
}

/* Checks the chain as a whole and hands it to the slot. */
static __always_inline bool
virtq_chain_end(struct virtq *vq, struct virtq_slot *slot, uint16_t head,
		const struct virtq_chain *chain)
{
	uint32_t readable_count = chain->writable ? chain->readable_count : chain->count;
	uint64_t readable_bytes = chain->writable ? chain->readable_bytes : chain->bytes;

	if (unlikely(chain->descriptors > vq->max_chain))
		return virtq_stop(vq, "chain of too many descriptors");
	/* virtio 1.2 §2.7.5 */
	if (unlikely(chain->bytes > 1ULL << 32))
		return virtq_stop(vq, "chain longer than 4 GiB");
	slot->head = head;
	slot->in_flight = true;
	slot->readable_count = readable_count;
	slot->writable_count = chain->count - readable_count;
	slot->readable_bytes = readable_bytes;
	slot->writable_bytes = chain->bytes - readable_bytes;
	return true;
}

/* Shared memory: each of these is one access that the compiler neither repeats nor splits. */

static inline uint16_t
load_u16(const uint16_t *shared)
{
	return __atomic_load_n(shared, __ATOMIC_RELAXED);
}

/* ---- virtq_split.c: the contracts are those of the functions of virtq.h ---- */

/* Reads where the used ring stands. */
void virtq_split_init(struct virtq *vq);
uint32_t virtq_split_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max);
void virtq_split_push(struct virtq *vq, const struct virtq_slot *slot, uint32_t written);
bool virtq_split_publish(struct virtq *vq);
void virtq_split_disable_kicks(struct virtq *vq);
bool virtq_split_enable_kicks(struct virtq *vq);

#endif
