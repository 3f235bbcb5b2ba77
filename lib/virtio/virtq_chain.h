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
	struct iovec *iov;                     /* of the first buffer */
	struct iovec *next;                    /* of the next one */
	struct iovec *end;                     /* of the room for them */
	struct iovec *writable;                /* of the first writable one; NULL: none was seen */
	const struct guest_mem_region *region; /* of the last buffer: the next one's, most likely */
	uint32_t descriptors;
	uint64_t bytes;
	uint64_t readable_bytes;
};

/* Where descriptors are that the driver may change meanwhile: the queue's table or an indirect one. */
struct virtq_table {
	const void *entries; /* NULL: they must be read by address */
	uint64_t gpa;
	uint32_t count;
};

/*
 * What virtq_chain_add() does about a buffer that is not in one piece in the same region as the last
 * one, or has no room left: adds it, or else ends the chain. False without `broken` means that the
 * pool has no part left: the chain must wait for a push.
 */
bool virtq_chain_add_slowly(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
			    uint64_t gpa, uint32_t len);

static __always_inline void
virtq_chain_begin(const struct virtq *vq, struct virtq_chain *chain, struct virtq_slot *slot)
{
	*chain = (struct virtq_chain){
		.iov = slot->inline_iov,
		.next = slot->inline_iov,
		.end = slot->inline_iov + VIRTQ_INLINE_IOVS,
		.region = &vq->mem->regions[vq->buffer_hint],
	};
	slot->iov = slot->inline_iov;
}

/* Checks one descriptor's copy and adds its buffer. Returns whether to go on. */
static __always_inline bool
virtq_chain_add(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
		const struct virtq_desc *desc)
{
	uint64_t offset = desc->addr - chain->region->gpa;

	if (desc->flags & VRING_DESC_F_WRITE) {
		if (!chain->writable) {
			chain->writable = chain->next;
			chain->readable_bytes = chain->bytes;
		}
	} else if (unlikely(chain->writable)) {
		return virtq_stop(vq, "readable buffer after a writable one");
	}
	/* Cannot overflow: 32 bits each, and the number of descriptors is bounded. */
	chain->bytes += desc->len;
	/* An empty buffer is not in here: its last byte would be far away. */
	if (likely(offset < chain->region->size &&
		   (uint64_t)desc->len - 1 < chain->region->size - offset &&
		   chain->next != chain->end)) {
		chain->next->iov_base = chain->region->hva + offset;
		chain->next->iov_len = desc->len;
		chain->next++;
	} else {
		/* A copy, so that the chain itself can stay in registers. */
		struct virtq_chain copy = *chain;
		bool added = virtq_chain_add_slowly(vq, slot, &copy, desc->addr, desc->len);

		*chain = copy;
		return added;
	}
	return true;
}

/* Checks the chain as a whole and hands it to the slot. */
static __always_inline bool
virtq_chain_end(struct virtq *vq, struct virtq_slot *slot, uint16_t head,
		const struct virtq_chain *chain)
{
	uint32_t count = (uint32_t)(chain->next - chain->iov);
	uint32_t readable_count =
		chain->writable ? (uint32_t)(chain->writable - chain->iov) : count;
	uint64_t readable_bytes = chain->writable ? chain->readable_bytes : chain->bytes;

	if (unlikely(chain->descriptors > vq->max_chain))
		return virtq_stop(vq, "chain of too many descriptors");
	/* virtio 1.2 §2.7.5 */
	if (unlikely(chain->bytes > 1ULL << 32))
		return virtq_stop(vq, "chain longer than 4 GiB");
	slot->head = head;
	slot->state = SLOT_POPPED;
	slot->readable_count = readable_count;
	slot->writable_count = count - readable_count;
	slot->readable_bytes = readable_bytes;
	slot->writable_bytes = chain->bytes - readable_bytes;
	return true;
}

/* ---- descriptors and tables ---- */

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

/* An entry that is misaligned or crosses region borders; its table was found to be in memory. */
void virtq_load_scattered(struct virtq *vq, uint64_t gpa, uint64_t words[2]);

/* The only look at an entry. */
static __always_inline struct virtq_desc
virtq_load_desc(struct virtq *vq, const struct virtq_table *table, uint32_t index,
		const bool packed)
{
	uint64_t words[2];

	if (likely(table->entries)) {
		const uint64_t *entry = (const uint64_t *)table->entries + 2 * (size_t)index;

		return virtq_decode_desc(load_u64(&entry[0]), load_u64(&entry[1]), packed);
	}
	virtq_load_scattered(vq, table->gpa + index * sizeof(struct vring_desc), words);
	return virtq_decode_desc(words[0], words[1], packed);
}

/* Whether a table that cannot be read in place (see virtq_load_scattered()) is in memory at all. */
bool virtq_find_scattered_table(struct virtq *vq, uint64_t gpa, uint32_t len);

/*
 * Where the table that desc refers to is. VRING_DESC_F_WRITE has no meaning there (virtio 1.2
 * §2.7.5.3.2).
 */
static __always_inline bool
virtq_find_table(struct virtq *vq, const struct virtq_desc *desc, struct virtq_table *table)
{
	struct iovec part;
	int count;

	if (unlikely(!vq->indirect))
		return virtq_stop(vq, "indirect descriptor without VIRTIO_F_INDIRECT_DESC");
	if (unlikely(desc->flags & VRING_DESC_F_NEXT))
		return virtq_stop(vq, "indirect descriptor with a next one");
	if (unlikely(desc->len == 0 || desc->len % sizeof(struct vring_desc) != 0))
		return virtq_stop(vq, "indirect table of a wrong length");
	table->gpa = desc->addr;
	table->count = desc->len / sizeof(struct vring_desc);
	if (unlikely(table->count > vq->max_chain))
		return virtq_stop(vq, "indirect table of too many descriptors");
	count = guest_mem_map(vq->mem, &vq->table_hint, desc->addr, desc->len, &part, 1);
	if (unlikely(count != 1 || (uintptr_t)part.iov_base % sizeof(uint64_t) != 0)) {
		table->entries = NULL;
		return virtq_find_scattered_table(vq, desc->addr, desc->len);
	}
	table->entries = part.iov_base;
	return true;
}

#endif
