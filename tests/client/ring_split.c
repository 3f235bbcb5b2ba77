/* SPDX-License-Identifier: BSD-3-Clause */
/* The split virtqueue, driver side (virtio 1.2 §2.7). */
#include <errno.h>
#include <stddef.h>

#include "internal.h"

static uint16_t
load_acquire(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* The areas hold the two event indices too, as they do for every virtio 1.x driver. */
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
	ring->avail_index = index;
	split_publish(ring);
}

static bool
split_pending(const struct client_ring *ring)
{
	return load_acquire(&ring->used->idx) != ring->used_index;
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

static int
split_pop(struct client_ring *ring, struct client_used *used)
{
	uint16_t published = load_acquire(&ring->used->idx) - ring->used_index;
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
	return 1;
}

static bool
split_wants_kick(const struct client_ring *ring)
{
	return !(__atomic_load_n(&ring->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY);
}

static void
split_suppress_calls(struct client_ring *ring, bool suppress)
{
	uint16_t flags = suppress ? VRING_AVAIL_F_NO_INTERRUPT : 0;

	__atomic_store_n(&ring->avail->flags, flags, __ATOMIC_SEQ_CST);
}

static uint16_t
split_device_index(const struct client_ring *ring)
{
	return load_acquire(&ring->used->idx);
}

const struct client_ring_ops split_ring_ops = {
	.area_sizes = split_area_sizes,
	.attach = split_attach,
	.add = split_add,
	.publish = split_publish,
	.pending = split_pending,
	.pop = split_pop,
	.wants_kick = split_wants_kick,
	.suppress_calls = split_suppress_calls,
	.device_index = split_device_index,
};
