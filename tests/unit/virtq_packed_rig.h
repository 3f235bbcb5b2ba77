/* SPDX-License-Identifier: BSD-3-Clause */
/* The guest of virtq_rig.h with a packed ring. Positions are as in lib/virtio/virtq_internal.h. */
#ifndef VHOSTD_VIRTQ_PACKED_RIG_H
#define VHOSTD_VIRTQ_PACKED_RIG_H

#include "virtq_rig.h"

#define PACKED_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED  (1u << VRING_PACKED_DESC_F_USED)
#define PACKED_WRAP  (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

struct packed_rig {
	struct rig rig; /* memory, options and queue; it has no rings */
	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver_event, *device_event;
	uint16_t next; /* position of the next descriptor to offer */
	uint16_t used; /* ... and to be used */
};

/* Index and wrap counter of a position. */
static inline uint16_t
packed_place(const struct packed_rig *packed, uint16_t position)
{
	uint16_t size = packed->rig.opts.size;

	return (position % size) | (position / size % 2 ? 0 : PACKED_WRAP);
}

/* Makes another queue on the same ring; both sides are at `position`. */
static inline void
packed_restart(struct packed_rig *packed, uint16_t position)
{
	uint32_t place = packed_place(packed, position);

	virtq_destroy(packed->rig.vq);
	packed->rig.vq = NULL;
	packed->next = position;
	packed->used = position;
	packed->rig.opts.base = place | place << 16;
	assert_int_equal(virtq_create(&packed->rig.opts, &packed->rig.vq), 0);
}

/* The flags that descriptors have from the last time round, in a ring that is as it should be. */
static inline void
packed_age(struct packed_rig *packed, uint16_t position)
{
	uint16_t size = packed->rig.opts.size, i;

	for (i = 0; i < size; i++) {
		uint16_t last = position + i - size;

		packed->ring[last % size].flags =
			packed_place(packed, last) & PACKED_WRAP ? PACKED_AVAIL | PACKED_USED : 0;
	}
}

static inline void
packed_open_with(struct packed_rig *packed, const struct virtq_opts *opts, uint16_t position)
{
	memset(packed, 0, sizeof(*packed));
	rig_make_memory(&packed->rig);
	packed->ring = aligned_alloc(16, opts->size * sizeof(*packed->ring));
	packed->driver_event = calloc(1, sizeof(*packed->driver_event));
	packed->device_event = calloc(1, sizeof(*packed->device_event));
	assert_true(packed->ring && packed->driver_event && packed->device_event);
	memset(packed->ring, 0, opts->size * sizeof(*packed->ring));
	packed->rig.opts = *opts;
	packed->rig.opts.packed = true;
	packed->rig.opts.desc = packed->ring;
	packed->rig.opts.avail = packed->driver_event;
	packed->rig.opts.used = packed->device_event;
	packed->rig.opts.mem = packed->rig.mem;
	packed_age(packed, position);
	packed_restart(packed, position);
}

static inline void
packed_open(struct packed_rig *packed, uint16_t size)
{
	struct virtq_opts opts = {.size = size, .indirect = true, .ctx_size = 64};

	packed_open_with(packed, &opts, 0);
}

static inline void
packed_close(struct packed_rig *packed)
{
	rig_close(&packed->rig);
	free(packed->ring);
	free(packed->driver_event);
	free(packed->device_event);
}

static inline uint16_t
packed_avail_flags(const struct packed_rig *packed, uint16_t position)
{
	return packed_place(packed, position) & PACKED_WRAP ? PACKED_AVAIL : PACKED_USED;
}

/* Makes the next descriptor available; those of a chain one after the other. */
static inline void
packed_put(struct packed_rig *packed, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
	struct vring_packed_desc *desc = &packed->ring[packed->next % packed->rig.opts.size];

	*desc = (struct vring_packed_desc){
		.addr = addr,
		.len = len,
		.id = id,
		.flags = flags ^ packed_avail_flags(packed, packed->next),
	};
	packed->next++;
}

/* One readable byte at A_GPA, the smallest chain there is. */
static inline void
packed_put_small(struct packed_rig *packed, uint16_t id)
{
	packed_put(packed, A_GPA, 1, 0, id);
}

static inline struct virtq_slot *
packed_pop(struct packed_rig *packed)
{
	return rig_pop(&packed->rig);
}

static inline bool
packed_is_used(const struct packed_rig *packed, uint16_t position)
{
	uint16_t flags = __atomic_load_n(&packed->ring[position % packed->rig.opts.size].flags,
					 __ATOMIC_ACQUIRE);

	return (flags & (PACKED_AVAIL | PACKED_USED)) ==
	       (packed_place(packed, position) & PACKED_WRAP ? PACKED_AVAIL | PACKED_USED : 0);
}

/* The driver takes the next used descriptor, which must be this, of a chain of so many. */
static inline void
packed_expect_used(struct packed_rig *packed, uint16_t id, uint32_t len, uint16_t descs)
{
	const struct vring_packed_desc *desc = &packed->ring[packed->used % packed->rig.opts.size];

	assert_true(packed_is_used(packed, packed->used));
	assert_int_equal(desc->id, id);
	assert_int_equal(desc->len, len);
	assert_int_equal(!!(desc->flags & WRITE), len > 0);
	packed->used += descs;
}

#endif
