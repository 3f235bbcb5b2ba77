/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Building a chain: every check of what a driver says about buffers and indirect tables, for both
 * ring formats. All inline: `packed` is a constant where it is used.
 */
#ifndef VHOSTD_VIRTQ_CHAIN_H
#define VHOSTD_VIRTQ_CHAIN_H

#include "virtq_internal.h"

/* A descriptor's copy. The formats differ in the order of the last two fields only. */
struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	union {
		uint16_t next; /* split */
		uint16_t id;   /* packed */
	};
};

/*
 * A chain while its descriptors are looked at one by one: in registers, hence __always_inline
 * below.
 */
struct virtq_chain {
	struct iovec *next; /* of the next buffer */
	struct iovec *end;  /* of the room for them */
	uint64_t bytes;
	uint16_t direction; /* VRING_DESC_F_WRITE once a writable buffer was seen, or else 0 */
};

/*
 * What virtq_chain_add() does about a buffer that is not in one piece in the same region as the
 * last one, or has no room left: adds it, or else ends the chain. False without `broken` means that
 * the pool has no part left: the chain must wait for a push.
 */
bool virtq_chain_add_slowly(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
			    uint64_t gpa, uint32_t len);

static __always_inline void
virtq_chain_begin(struct virtq_chain *chain, struct virtq_slot *slot)
{
	*chain = (struct virtq_chain){
		.next = slot->inline_iov,
		.end = slot->inline_iov + VIRTQ_INLINE_IOVS,
	};
	slot->iov = slot->inline_iov;
}

/* The readable buffers are those until here. */
static __always_inline void
virtq_chain_turn(struct virtq_slot *slot, struct virtq_chain *chain)
{
	chain->direction = VRING_DESC_F_WRITE;
	slot->readable_count = (uint32_t)(chain->next - slot->iov);
	slot->readable_bytes = chain->bytes;
}

/* Checks one descriptor's copy and adds its buffer. Returns whether to go on. */
static __always_inline bool
virtq_chain_add(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
		const struct virtq_desc *desc)
{
	if ((desc->flags ^ chain->direction) & VRING_DESC_F_WRITE) {
		if (unlikely(chain->direction))
			return virtq_stop(vq, "readable buffer after a writable one");
		virtq_chain_turn(slot, chain);
	}
	/* Cannot overflow: 32 bits each, and the number of descriptors is bounded. */
	chain->bytes += desc->len;
	if (unlikely(chain->next == chain->end ||
		     !guest_mem_region_map(&vq->buffer_region, desc->addr, desc->len,
					   chain->next))) {
		/* A copy, so that the chain itself can stay in registers. */
		struct virtq_chain copy = *chain;
		bool added = virtq_chain_add_slowly(vq, slot, &copy, desc->addr, desc->len);

		*chain = copy;
		return added;
	}
	chain->next++;
	return true;
}

/* Checks the chain as a whole and hands it to the slot. */
static __always_inline bool
virtq_chain_end(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain)
{
	/* virtio 1.2 §2.7.5 */
	if (unlikely(chain->bytes > 1ULL << 32))
		return virtq_stop(vq, "chain longer than 4 GiB");
	if (!chain->direction)
		virtq_chain_turn(slot, chain);
	slot->state = SLOT_POPPED;
	slot->writable_count = (uint32_t)(chain->next - slot->iov) - slot->readable_count;
	slot->writable_bytes = chain->bytes - slot->readable_bytes;
	return true;
}

/* ---- descriptors and tables ---- */

/*
 * Where descriptors are that the driver may change meanwhile: the table of a split ring, or an
 * indirect one.
 */
struct virtq_table {
	const uint64_t *words; /* two for each descriptor */
	uint32_t count;        /* of descriptors */
};

static __always_inline struct virtq_desc
virtq_decode_desc(uint64_t addr, uint64_t rest, const bool packed)
{
	return (struct virtq_desc){
		.addr = addr,
		.len = (uint32_t)rest,
		.flags = (uint16_t)(rest >> (packed ? 48 : 32)),
		.next = (uint16_t)(rest >> (packed ? 32 : 48)),
	};
}

/* The only look at a descriptor of a split ring, or at an entry of an indirect table. */
static __always_inline struct virtq_desc
virtq_load_desc(const struct virtq_table *table, uint32_t index, const bool packed)
{
	const uint64_t *words = table->words + 2 * (size_t)index;

	return virtq_decode_desc(load_u64(&words[0]), load_u64(&words[1]), packed);
}

/*
 * What virtq_find_table() does about a table that is in another region than the last one, or is
 * misaligned, or crosses region borders: the last two are read from a copy.
 */
bool virtq_find_table_slowly(struct virtq *vq, uint64_t gpa, struct virtq_table *table);

/*
 * Where the table that desc refers to is. VRING_DESC_F_WRITE has no meaning there (virtio 1.2
 * §2.7.5.3.2).
 */
static __always_inline bool
virtq_find_table(struct virtq *vq, const struct virtq_desc *desc, struct virtq_table *table)
{
	struct iovec part;

	if (unlikely(!vq->indirect))
		return virtq_stop(vq, "indirect descriptor without VIRTIO_F_INDIRECT_DESC");
	if (unlikely(desc->flags & VRING_DESC_F_NEXT))
		return virtq_stop(vq, "indirect descriptor with a next one");
	if (unlikely(desc->len == 0 || desc->len % sizeof(struct vring_desc) != 0))
		return virtq_stop(vq, "indirect table of a wrong length");
	table->count = desc->len / sizeof(struct vring_desc);
	if (unlikely(table->count > vq->max_chain))
		return virtq_stop(vq, "indirect table of too many descriptors");
	if (unlikely(!guest_mem_region_map(&vq->table_region, desc->addr, desc->len, &part) ||
		     (uintptr_t)part.iov_base % sizeof(uint64_t) != 0)) {
		struct virtq_table copy = *table;
		bool found = virtq_find_table_slowly(vq, desc->addr, &copy);

		*table = copy;
		return found;
	}
	table->words = part.iov_base;
	return true;
}

#endif
