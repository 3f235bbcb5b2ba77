/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a device must make of a ring: chains followed byte by byte as virtio 1.2 §2.7 and §2.8 say,
 * slowly and without any state, for whatever a hostile driver writes. The judge of lib/virtio in
 * the fuzz targets.
 */
#ifndef VHOSTD_FUZZ_VIRTQ_MODEL_H
#define VHOSTD_FUZZ_VIRTQ_MODEL_H

#include <linux/virtio_ring.h>
#include <sys/uio.h>

#include "guest_mem.h"
#include "input.h"

#define MODEL_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define MODEL_USED  (1u << VRING_PACKED_DESC_F_USED)
#define MODEL_WRAP  0x8000u
#define MODEL_IOVS  4096

struct model_ring {
	uint16_t size;
	bool indirect;
	uint32_t max_chain;  /* descriptors */
	const uint8_t *desc; /* its table or, packed, the ring */
	const struct guest_mem_region *regions;
	uint32_t region_count;
};

enum model_verdict {
	MODEL_NONE, /* nothing there */
	MODEL_CHAIN,
	MODEL_BROKEN, /* the queue must break */
	MODEL_EITHER, /* in more pieces than a device need have room for */
};

struct model_chain {
	uint16_t id;         /* split: head; packed: buffer id */
	uint16_t ring_descs; /* packed: its length in the ring */
	uint32_t descriptors;
	bool writable; /* a writable buffer was seen */
	bool too_many;
	uint32_t count;          /* of iov */
	uint32_t readable_count; /* of them */
	uint64_t readable_bytes, writable_bytes;
	struct iovec iov[MODEL_IOVS];
};

/* ---- memory ---- */

/* NULL: outside; *left: to the end of the region. */
static inline uint8_t *
model_at(const struct model_ring *ring, uint64_t gpa, uint64_t *left)
{
	for (uint32_t i = 0; i < ring->region_count; i++) {
		const struct guest_mem_region *region = &ring->regions[i];

		if (gpa - region->gpa >= region->size)
			continue;
		*left = region->size - (gpa - region->gpa);
		return region->hva + (gpa - region->gpa);
	}
	return NULL;
}

static inline bool
model_read(const struct model_ring *ring, uint64_t gpa, void *data, uint32_t size)
{
	uint8_t *to = data;
	uint64_t left;

	for (uint32_t i = 0; i < size; i++) {
		const uint8_t *from = model_at(ring, gpa + i, &left);

		if (from == NULL || gpa + i < gpa)
			return false;
		to[i] = *from;
	}
	return true;
}

static inline bool
model_add(const struct model_ring *ring, struct model_chain *chain, uint64_t gpa, uint32_t len,
	  bool writable)
{
	if (!writable && chain->writable)
		return false;
	chain->writable = writable;
	chain->descriptors++;
	while (len > 0) {
		uint64_t left = 0;
		uint8_t *at = model_at(ring, gpa, &left);
		uint32_t part = left < len ? (uint32_t)left : len;

		if (at == NULL)
			return false;
		if (chain->count == MODEL_IOVS) {
			chain->too_many = true;
			return false;
		}
		chain->iov[chain->count++] = (struct iovec){.iov_base = at, .iov_len = part};
		if (writable) {
			chain->writable_bytes += part;
		} else {
			chain->readable_count++;
			chain->readable_bytes += part;
		}
		gpa += part;
		len -= part;
		if (gpa == 0 && len > 0)
			return false;
	}
	return true;
}

static inline enum model_verdict
model_judge(const struct model_ring *ring, const struct model_chain *chain, bool valid)
{
	/* The queue's room for iovecs: one a descriptor, and one for each border. */
	if (chain->too_many || chain->count > ring->max_chain + GUEST_MEM_MAX_REGIONS)
		return MODEL_EITHER;
	if (!valid || chain->descriptors > ring->max_chain ||
	    chain->readable_bytes + chain->writable_bytes > 1ULL << 32)
		return MODEL_BROKEN;
	return MODEL_CHAIN;
}

/* Whether an indirect descriptor's table may be looked at; *count: its entries. */
static inline bool
model_table_is_valid(const struct model_ring *ring, uint64_t gpa, uint32_t len, uint16_t flags,
		     uint32_t *count)
{
	*count = len / sizeof(struct vring_desc);
	if (!ring->indirect || flags & VRING_DESC_F_NEXT || len == 0 ||
	    len % sizeof(struct vring_desc) != 0 || *count > ring->max_chain)
		return false;
	for (uint32_t i = 0; i < *count; i++) {
		struct vring_desc desc;

		if (gpa + i * sizeof(desc) < gpa ||
		    !model_read(ring, gpa + i * sizeof(desc), &desc, sizeof(desc)))
			return false;
	}
	return true;
}

/* ---- split ---- */

static inline bool
model_follow_split(const struct model_ring *ring, struct model_chain *chain, uint16_t head)
{
	uint32_t count = ring->size, index = head, seen = 0;
	uint64_t table = 0;
	bool in_table = false;

	for (;;) {
		struct vring_desc desc;

		if (index >= count || seen++ == count)
			return false;
		if (in_table)
			model_read(ring, table + index * sizeof(desc), &desc, sizeof(desc));
		else
			memcpy(&desc, ring->desc + index * sizeof(desc), sizeof(desc));
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (in_table ||
			    !model_table_is_valid(ring, desc.addr, desc.len, desc.flags, &count))
				return false;
			in_table = true;
			table = desc.addr;
			index = 0;
			seen = 0;
			continue;
		}
		if (!model_add(ring, chain, desc.addr, desc.len, desc.flags & VRING_DESC_F_WRITE))
			return false;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return true;
		index = desc.next;
	}
}

static inline enum model_verdict
model_split(const struct model_ring *ring, uint16_t head, struct model_chain *chain)
{
	bool valid;

	memset(chain, 0, offsetof(struct model_chain, iov));
	chain->id = head;
	valid = head < ring->size && model_follow_split(ring, chain, head);
	return model_judge(ring, chain, valid);
}

/* ---- packed; places as in virtq_base(): the wrap counter in bit 15 ---- */

static inline uint16_t
model_next_place(const struct model_ring *ring, uint16_t place, uint16_t count)
{
	uint16_t index = place & (MODEL_WRAP - 1), wrap = place & MODEL_WRAP;

	for (; count > 0; count--) {
		if (++index < ring->size)
			continue;
		index = 0;
		wrap ^= MODEL_WRAP;
	}
	return index | wrap;
}

/* From one place to a later one. */
static inline uint16_t
model_distance(const struct model_ring *ring, uint16_t from, uint16_t to)
{
	uint16_t distance = 0;

	for (; from != to; from = model_next_place(ring, from, 1)) {
		distance++;
		require(distance <= ring->size);
	}
	return distance;
}

/* Whether it is available. */
static inline bool
model_load_packed(const struct model_ring *ring, uint16_t place, struct vring_packed_desc *desc)
{
	memcpy(desc, ring->desc + (place & (MODEL_WRAP - 1)) * sizeof(*desc), sizeof(*desc));
	return (desc->flags & (MODEL_AVAIL | MODEL_USED)) ==
	       (place & MODEL_WRAP ? MODEL_AVAIL : MODEL_USED);
}

static inline bool
model_add_packed(const struct model_ring *ring, struct model_chain *chain,
		 const struct vring_packed_desc *desc)
{
	uint32_t count;

	if (!(desc->flags & VRING_DESC_F_INDIRECT))
		return model_add(ring, chain, desc->addr, desc->len,
				 desc->flags & VRING_DESC_F_WRITE);
	if (!model_table_is_valid(ring, desc->addr, desc->len, desc->flags, &count))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		struct vring_packed_desc entry;

		model_read(ring, desc->addr + i * sizeof(entry), &entry, sizeof(entry));
		if (!model_add(ring, chain, entry.addr, entry.len,
			       entry.flags & VRING_DESC_F_WRITE))
			return false;
	}
	return true;
}

/* room: descriptors between the place and what is in use. */
static inline enum model_verdict
model_packed(const struct model_ring *ring, uint16_t place, uint32_t room,
	     struct model_chain *chain)
{
	struct vring_packed_desc desc;
	bool valid = true;

	memset(chain, 0, offsetof(struct model_chain, iov));
	if (!model_load_packed(ring, place, &desc))
		return MODEL_NONE;
	for (;;) {
		valid = chain->ring_descs < room && model_add_packed(ring, chain, &desc);
		chain->ring_descs++;
		if (!valid || !(desc.flags & VRING_DESC_F_NEXT))
			break;
		place = model_next_place(ring, place, 1);
		/* That the list is too long counts before the next one is looked at. */
		if (chain->ring_descs < room && !model_load_packed(ring, place, &desc)) {
			valid = false;
			break;
		}
	}
	chain->id = desc.id;
	return model_judge(ring, chain, valid && desc.id < ring->size);
}

/* ---- comparing ---- */

/* Whether two lists mean the same bytes in the same order, however they are cut. */
static inline bool
model_same_bytes(const struct iovec *a, uint32_t a_count, const struct iovec *b, uint32_t b_count)
{
	size_t a_done = 0, b_done = 0;

	for (;;) {
		size_t part;

		for (; a_count > 0 && a->iov_len == a_done; a_count--, a++)
			a_done = 0;
		for (; b_count > 0 && b->iov_len == b_done; b_count--, b++)
			b_done = 0;
		if (a_count == 0 || b_count == 0)
			return a_count == b_count;
		if ((uint8_t *)a->iov_base + a_done != (uint8_t *)b->iov_base + b_done)
			return false;
		part = a->iov_len - a_done;
		if (part > b->iov_len - b_done)
			part = b->iov_len - b_done;
		a_done += part;
		b_done += part;
	}
}

#endif
