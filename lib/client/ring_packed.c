/* SPDX-License-Identifier: BSD-3-Clause */
/* The packed virtqueue, driver side (virtio 1.2 §2.8). */
#include <errno.h>
#include <stddef.h>

#include "internal.h"

#define AVAIL          (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED           (1u << VRING_PACKED_DESC_F_USED)
#define WRAP           (1u << VRING_PACKED_EVENT_F_WRAP_CTR)
#define BASE_USED_BITS 16

/* Sequentially consistent for the same reason as in the split ring. */
static uint16_t
load_ordered(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void
store_ordered(uint16_t *p, uint16_t value)
{
	__atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

static void
packed_area_sizes(uint16_t size, uint64_t sizes[3])
{
	sizes[0] = sizeof(struct vring_packed_desc) * size;
	sizes[1] = sizeof(struct vring_packed_desc_event);
	sizes[2] = sizeof(struct vring_packed_desc_event);
}

static void
packed_attach(struct client_ring *ring, void *areas[3])
{
	ring->packed = areas[0];
	ring->driver_event = areas[1];
	ring->device_event = areas[2];
}

/* Moves a position on; the wrap counter turns over at the end of the ring. */
static void
advance(const struct client_ring *ring, uint16_t *index, bool *wrap, uint16_t count)
{
	uint32_t next = *index + count;

	if (next >= ring->size) {
		next -= ring->size;
		*wrap = !*wrap;
	}
	*index = next;
}

/*
 * The first descriptor since the last publish keeps its old flags: the device stops there and so
 * does not see the ones after it, which are complete (§2.8.21: the head's flags are written last).
 */
void
client_ring_put_descriptor(struct client_ring *ring, const struct vring_packed_desc *desc)
{
	struct vring_packed_desc *place = &ring->packed[ring->avail_index];
	uint16_t flags = desc->flags ^ (ring->avail_wrap ? AVAIL : USED);

	place->addr = desc->addr;
	place->len = desc->len;
	place->id = desc->id;
	if (ring->withheld) {
		__atomic_store_n(&place->flags, flags, __ATOMIC_RELEASE);
	} else {
		ring->withheld = place;
		ring->withheld_flags = flags;
	}
	advance(ring, &ring->avail_index, &ring->avail_wrap, 1);
	ring->unkicked++;
}

/* In a table the order is that of the descriptors: no NEXT (§2.8.7). */
static void
put_table(struct client_ring *ring, uint16_t id, const struct client_segment *segments,
	  unsigned int count)
{
	uint64_t gpa = ring->slots[id].table_gpa;
	struct vring_packed_desc *table =
		client_memory_ptr(ring->memory, gpa, count * sizeof(*table));
	struct vring_packed_desc desc = {
		.addr = gpa,
		.len = count * sizeof(*table),
		.id = id,
		.flags = VRING_DESC_F_INDIRECT,
	};
	unsigned int i;

	for (i = 0; i < count; i++) {
		table[i].addr = segments[i].gpa;
		table[i].len = segments[i].len;
		table[i].id = 0;
		table[i].flags = segments[i].device_writes ? VRING_DESC_F_WRITE : 0;
	}
	client_ring_put_descriptor(ring, &desc);
}

/* Only the last descriptor's buffer id counts (§2.8.6); Linux writes it into all, and so do we. */
static void
put_chain(struct client_ring *ring, uint16_t id, const struct client_segment *segments,
	  unsigned int count)
{
	struct vring_packed_desc desc;
	unsigned int i;

	for (i = 0; i < count; i++) {
		desc.addr = segments[i].gpa;
		desc.len = segments[i].len;
		desc.id = id;
		desc.flags = (segments[i].device_writes ? VRING_DESC_F_WRITE : 0) |
			     (i + 1 < count ? VRING_DESC_F_NEXT : 0);
		client_ring_put_descriptor(ring, &desc);
	}
}

static int
packed_add(struct client_ring *ring, const struct client_segment *segments, unsigned int count,
	   bool indirect, uint64_t tag)
{
	uint16_t id = ring->free_head;
	unsigned int descriptors = indirect ? 1 : count;

	if (count == 0 || (indirect && count > ring->indirect_max))
		return -EINVAL;
	if (descriptors > ring->free_count)
		return -ENOSPC;
	ring->free_head = ring->slots[id].next_free;
	ring->free_count -= descriptors;
	ring->slots[id].tag = tag;
	ring->slots[id].descriptors = descriptors;
	ring->outstanding++;
	if (indirect)
		put_table(ring, id, segments, count);
	else
		put_chain(ring, id, segments, count);
	return 0;
}

static void
packed_publish(struct client_ring *ring)
{
	if (!ring->withheld)
		return;
	store_ordered(&ring->withheld->flags, ring->withheld_flags);
	ring->withheld = NULL;
}

static bool
is_used(const struct client_ring *ring, uint16_t index, bool wrap)
{
	uint16_t flags = load_ordered(&ring->packed[index].flags);

	return (flags & (AVAIL | USED)) == (wrap ? AVAIL | USED : 0);
}

static bool
packed_pending(const struct client_ring *ring)
{
	return is_used(ring, ring->used_index, ring->used_wrap);
}

static int
packed_pop(struct client_ring *ring, struct client_used *used)
{
	const struct vring_packed_desc *desc = &ring->packed[ring->used_index];
	struct client_ring_slot *slot;

	if (!packed_pending(ring))
		return 0;
	if (desc->id >= ring->size || ring->slots[desc->id].descriptors == 0)
		return -EPROTO;
	slot = &ring->slots[desc->id];
	used->head = desc->id;
	/* Without WRITE the length means nothing (§2.8.4). */
	used->len = desc->flags & VRING_DESC_F_WRITE ? desc->len : 0;
	used->tag = slot->tag;
	advance(ring, &ring->used_index, &ring->used_wrap, slot->descriptors);
	ring->free_count += slot->descriptors;
	slot->descriptors = 0;
	slot->next_free = ring->free_head;
	ring->free_head = used->head;
	ring->outstanding--;
	if (ring->event_idx)
		ring->ops->set_calls(ring);
	return 1;
}

/* The offset is in place before the flags that give it a meaning. */
static void
packed_set_calls(struct client_ring *ring)
{
	uint16_t flags = VRING_PACKED_EVENT_FLAG_ENABLE;

	if (ring->calls_suppressed) {
		flags = VRING_PACKED_EVENT_FLAG_DISABLE;
	} else if (ring->event_idx) {
		store_ordered(&ring->driver_event->off_wrap,
			      ring->used_index | (ring->used_wrap ? WRAP : 0));
		flags = VRING_PACKED_EVENT_FLAG_DESC;
	}
	store_ordered(&ring->driver_event->flags, flags);
}

static bool
packed_wants_kick(struct client_ring *ring)
{
	uint16_t old = ring->avail_index - ring->unkicked;
	uint16_t flags = load_ordered(&ring->device_event->flags);
	uint16_t off_wrap = load_ordered(&ring->device_event->off_wrap);
	uint16_t event = off_wrap & (WRAP - 1);

	ring->unkicked = 0;
	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !ring->event_idx)
		return true;
	if (!!(off_wrap & WRAP) != ring->avail_wrap)
		event -= ring->size;
	return vring_need_event(event, ring->avail_index, old);
}

uint32_t
client_packed_base(uint16_t avail, bool avail_wrap, uint16_t used, bool used_wrap)
{
	return avail | (avail_wrap ? WRAP : 0) |
	       (uint32_t)(used | (used_wrap ? WRAP : 0)) << BASE_USED_BITS;
}

/* Walks over the used descriptors that were not popped yet, without touching them. */
static uint32_t
packed_resume_base(const struct client_ring *ring)
{
	uint16_t index = ring->used_index;
	bool wrap = ring->used_wrap;
	uint16_t chains, id;

	for (chains = 0; chains < ring->outstanding && is_used(ring, index, wrap); chains++) {
		id = ring->packed[index].id;
		if (id >= ring->size || ring->slots[id].descriptors == 0)
			break;
		advance(ring, &index, &wrap, ring->slots[id].descriptors);
	}
	return client_packed_base(index, wrap, index, wrap);
}

const struct client_ring_ops packed_ring_ops = {
	.area_sizes = packed_area_sizes,
	.attach = packed_attach,
	.add = packed_add,
	.publish = packed_publish,
	.pending = packed_pending,
	.pop = packed_pop,
	.wants_kick = packed_wants_kick,
	.set_calls = packed_set_calls,
	.resume_base = packed_resume_base,
};
