/* SPDX-License-Identifier: BSD-3-Clause */
/* The split virtqueue, driver side (virtio 1.2 §2.7). */
#include <errno.h>
#include <stddef.h>

#include "internal.h"

/*
 * Sequentially consistent where it follows a store of ours that the device waits for: after the
 * event index is set we look once more, before we wait for a call.
 */
static uint16_t
load_ordered(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

/* The areas hold the two event indices too, also where EVENT_IDX is not negotiated. */
static void
split_area_sizes(uint16_t size, uint64_t sizes[3])
{
	sizes[0] = sizeof(struct vring_desc) * size;
	sizes[1] = sizeof(struct vring_avail) + sizeof(uint16_t) * size + sizeof(uint16_t);
	sizes[2] = sizeof(struct vring_used) + sizeof(struct vring_used_elem) * size +
		   sizeof(uint16_t);
}

static void
split_attach(struct client_ring *ring, void *areas[3])
{
	ring->desc = areas[0];
	ring->avail = areas[1];
	ring->used = areas[2];
}

static uint16_t
segment_flags(const struct client_segment *segment, bool last)
{
	return (segment->device_writes ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT);
}

static void
fill_table(struct client_ring *ring, uint16_t head, const struct client_segment *segments,
	   unsigned int count)
{
	uint64_t gpa = ring->slots[head].table_gpa;
	struct vring_desc *table = client_memory_ptr(ring->memory, gpa, count * sizeof(*table));
	unsigned int i;

	for (i = 0; i < count; i++) {
		table[i].addr = segments[i].gpa;
		table[i].len = segments[i].len;
		table[i].flags = segment_flags(&segments[i], i + 1 == count);
		table[i].next = i + 1;
	}
	ring->desc[head].addr = gpa;
	ring->desc[head].len = count * sizeof(*table);
	ring->desc[head].flags = VRING_DESC_F_INDIRECT;
	ring->desc[head].next = 0;
}

/* The free descriptors are linked in slots, which the device cannot see. */
static void
fill_chain(struct client_ring *ring, const struct client_segment *segments, unsigned int count)
{
	uint16_t index = ring->free_head;
	unsigned int i;

	for (i = 0; i < count; i++) {
		ring->desc[index].addr = segments[i].gpa;
		ring->desc[index].len = segments[i].len;
		ring->desc[index].flags = segment_flags(&segments[i], i + 1 == count);
		ring->desc[index].next = i + 1 == count ? 0 : ring->slots[index].next_free;
		index = ring->slots[index].next_free;
	}
}

static int
split_add(struct client_ring *ring, const struct client_segment *segments, unsigned int count,
	  bool indirect, uint64_t tag)
{
	uint16_t head = ring->free_head;
	unsigned int descriptors = indirect ? 1 : count;
	unsigned int i;

	if (count == 0 || (indirect && count > ring->indirect_max))
		return -EINVAL;
	if (descriptors > ring->free_count)
		return -ENOSPC;
	if (indirect)
		fill_table(ring, head, segments, count);
	else
		fill_chain(ring, segments, count);
	for (i = 0; i < descriptors; i++)
		ring->free_head = ring->slots[ring->free_head].next_free;
	ring->free_count -= descriptors;
	ring->slots[head].tag = tag;
	ring->slots[head].descriptors = descriptors;
	ring->outstanding++;
	client_ring_put_head(ring, head);
	return 0;
}

void
client_ring_put_head(struct client_ring *ring, uint16_t head)
{
	ring->avail->ring[ring->avail_index++ & (ring->size - 1)] = head;
	ring->unkicked++;
}

/*
 * Sequentially consistent, as the load of used->flags after it: the device must see the index
 * before we look whether it sleeps (virtio 1.2 §2.7.13.4).
 */
static void
split_publish(struct client_ring *ring)
{
	__atomic_store_n(&ring->avail->idx, ring->avail_index, __ATOMIC_SEQ_CST);
}

void
client_ring_set_avail_index(struct client_ring *ring, uint16_t index)
{
	ring->unkicked += index - ring->avail_index;
	ring->avail_index = index;
	split_publish(ring);
}

static bool
split_pending(const struct client_ring *ring)
{
	return load_ordered(&ring->used->idx) != ring->used_index;
}

/* A chain's descriptors go back to the front of the free list in their old order. */
static void
free_chain(struct client_ring *ring, uint16_t head)
{
	uint16_t count = ring->slots[head].descriptors;
	uint16_t last = head;
	uint16_t i;

	for (i = 1; i < count; i++)
		last = ring->slots[last].next_free;
	ring->slots[last].next_free = ring->free_head;
	ring->slots[head].descriptors = 0;
	ring->free_head = head;
	ring->free_count += count;
	ring->outstanding--;
}

/* used_event and avail_event are the word behind the entries of a ring (§2.7.7, §2.7.10). */
static void
split_set_calls(struct client_ring *ring)
{
	uint16_t flags = ring->calls_suppressed ? VRING_AVAIL_F_NO_INTERRUPT : 0;
	uint16_t event = ring->calls_suppressed ? ring->used_index - 1 : ring->used_index;

	if (ring->event_idx)
		__atomic_store_n(&ring->avail->ring[ring->size], event, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&ring->avail->flags, flags, __ATOMIC_SEQ_CST);
}

static int
split_pop(struct client_ring *ring, struct client_used *used)
{
	uint16_t published = load_ordered(&ring->used->idx) - ring->used_index;
	const struct vring_used_elem *elem;

	if (published == 0)
		return 0;
	if (published > ring->outstanding)
		return -EPROTO;
	elem = &ring->used->ring[ring->used_index & (ring->size - 1)];
	if (elem->id >= ring->size || ring->slots[elem->id].descriptors == 0)
		return -EPROTO;
	used->head = elem->id;
	used->len = elem->len;
	used->tag = ring->slots[used->head].tag;
	free_chain(ring, used->head);
	ring->used_index++;
	if (ring->event_idx)
		split_set_calls(ring);
	return 1;
}

static bool
split_wants_kick(struct client_ring *ring)
{
	const uint16_t *avail_event = (const uint16_t *)&ring->used->ring[ring->size];
	uint16_t old = ring->avail_index - ring->unkicked;

	ring->unkicked = 0;
	if (ring->event_idx)
		return vring_need_event(load_ordered(avail_event), ring->avail_index, old);
	return !(load_ordered(&ring->used->flags) & VRING_USED_F_NO_NOTIFY);
}

static uint32_t
split_resume_base(const struct client_ring *ring)
{
	return load_ordered(&ring->used->idx);
}

const struct client_ring_ops split_ring_ops = {
	.area_sizes = split_area_sizes,
	.attach = split_attach,
	.add = split_add,
	.publish = split_publish,
	.pending = split_pending,
	.pop = split_pop,
	.wants_kick = split_wants_kick,
	.set_calls = split_set_calls,
	.resume_base = split_resume_base,
};
