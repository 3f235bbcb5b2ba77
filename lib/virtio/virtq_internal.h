/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of virtq share. What is known of a ring's format only is in virtq_split.c and
 * virtq_packed.c, which are alike: chains are built and checked by virtq_chain.h in both.
 */
#ifndef VHOSTD_VIRTQ_INTERNAL_H
#define VHOSTD_VIRTQ_INTERNAL_H

#include <assert.h>
#include <linux/virtio_ring.h>
#include <sys/cdefs.h>

#include "virtq.h"

/* Slots are as far apart as a multiple of this, so that none shares a cache line with another. */
#define CACHE_LINE 64

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Of a slot. It stays SLOT_PUSHED until the publish where in-flight requests are tracked. */
enum slot_state {
	SLOT_FREE,
	SLOT_POPPED,
	SLOT_PUSHED,
};

/* The contracts are those of the functions of virtq.h. */
struct virtq_ops {
	uint32_t (*pop)(struct virtq *vq, struct virtq_slot **slots, uint32_t max);
	void (*push)(struct virtq *vq, struct virtq_slot *slot, uint32_t written);
	bool (*publish)(struct virtq *vq);
	bool (*disable_kicks)(struct virtq *vq);
	bool (*enable_kicks)(struct virtq *vq);
};

struct virtq_inflight;

struct virtq {
	/* Set once. */
	struct virtq_ops ops; /* a copy: one load less on the way */
	const struct guest_mem *mem;
	union { /* shared with the driver */
		struct {
			const struct vring_desc *desc;
			struct vring_avail *avail;
			struct vring_used *used;
		};
		struct {
			struct vring_packed_desc *ring, *ring_end;
			const struct vring_packed_desc_event *driver_event;
			struct vring_packed_desc_event *device_event;
		};
	};
	uint8_t *slots;
	size_t slot_stride;      /* bytes */
	uint32_t size;           /* entries */
	uint32_t mask;           /* size - 1 */
	uint32_t max_chain;      /* descriptors */
	uint32_t part_iovs;      /* iovecs in each of the pool's parts */
	struct iovec *part_pool; /* for chains of more than VIRTQ_INLINE_IOVS buffers */
	uint64_t *scratch;       /* a copy of an indirect table that cannot be read in place */
	uint32_t part_count;
	bool packed;
	bool event_idx;
	bool indirect;
	struct virtq_inflight *inflight; /* NULL: no tracking */

	/* Queue thread only. */
	_Alignas(CACHE_LINE) const char *broken;
	/*
	 * Places in the rings. Split: free-running indexes. Packed: free-running positions; bit
	 * `size` of one is the inverse of its wrap counter, so that the same arithmetic is right.
	 */
	uint16_t last_avail;
	uint16_t used_next;
	uint16_t used_published;
	uint16_t kick_event; /* the avail_event that the driver was told last */
	bool kicks_enabled;
	uint32_t in_flight;
	struct guest_mem_region buffer_region; /* of the last buffer: the next one's, most likely */
	struct guest_mem_region table_region;  /* of the last indirect table */
	uint64_t used_first; /* packed: the batch's first used descriptor, held back */
	uint32_t free_count;
	struct iovec *free_parts[]; /* a stack: what was touched last is taken first */
};

static inline struct virtq_slot *
virtq_slot_of(const struct virtq *vq, uint32_t head)
{
	return (struct virtq_slot *)(vq->slots + head * vq->slot_stride);
}

/* virtq_break() for the conditions of functions that return whether to go on. */
bool virtq_stop(struct virtq *vq, const char *reason);

/* Gives back the slot's part of the pool. */
void virtq_release_part(struct virtq *vq, struct virtq_slot *slot);

/* The push of a slot that has a part of the pool. */
void virtq_push_long(struct virtq *vq, struct virtq_slot *slot, uint32_t written);

/* Shared memory: each of these is one access that the compiler neither repeats nor splits. */

static inline uint16_t
load_u16(const uint16_t *shared)
{
	return __atomic_load_n(shared, __ATOMIC_RELAXED);
}

static inline void
store_u16(uint16_t *shared, uint16_t value)
{
	__atomic_store_n(shared, value, __ATOMIC_RELAXED);
}

static inline uint64_t
load_u64(const uint64_t *shared)
{
	return __atomic_load_n(shared, __ATOMIC_RELAXED);
}

static inline void
store_u64(uint64_t *shared, uint64_t value)
{
	__atomic_store_n(shared, value, __ATOMIC_RELAXED);
}

/*
 * ---- places in a packed ring ----
 *
 * A position counts descriptors and runs freely; its place in the ring is `position & mask`, and
 * the wrap counter there is 1 where bit `size` of the position is 0. To others a place is its index
 * with the wrap counter in bit 15.
 */

#define VIRTQ_WRAP (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

static inline bool
virtq_wrap_counter(const struct virtq *vq, uint16_t position)
{
	return !(position & vq->size);
}

static inline uint16_t
virtq_off_wrap(const struct virtq *vq, uint16_t position)
{
	return (uint16_t)((position & vq->mask) |
			  (virtq_wrap_counter(vq, position) ? VIRTQ_WRAP : 0));
}

/* One of the positions of a place whose index is in the ring. */
static inline uint16_t
virtq_position_of(const struct virtq *vq, uint16_t off_wrap)
{
	return (uint16_t)((off_wrap & (VIRTQ_WRAP - 1)) | (off_wrap & VIRTQ_WRAP ? 0 : vq->size));
}

/* From one position to another, where only their places are known. */
static inline uint16_t
virtq_distance(const struct virtq *vq, uint16_t from, uint16_t to)
{
	return (uint16_t)((to - from) & (2 * vq->size - 1));
}

/* ---- virtq_split.c, virtq_packed.c ---- */

/* By [event_idx][inflight]. */
extern const struct virtq_ops virtq_split_ops[2][2];
extern const struct virtq_ops virtq_packed_ops[2][2];

/* Set the places in the rings. 0, or -EINVAL: no base of this ring. */
int virtq_split_init(struct virtq *vq, uint32_t base);
int virtq_packed_init(struct virtq *vq, uint32_t base);

bool virtq_packed_is_available(const struct virtq *vq, uint16_t position);
/* Takes back what was written between the used and the available position and never published. */
void virtq_packed_take_back(struct virtq *vq);

#endif
