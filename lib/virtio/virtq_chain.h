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
	struct iovec *iov;
	uint32_t max;   /* iovecs that fit in there */
	uint32_t count; /* iovecs */
	uint32_t readable_count;
	uint32_t descriptors;
	uint64_t bytes;
	uint64_t readable_bytes;
	bool writable; /* a writable buffer was seen */
};

/* Where descriptors are that the driver may change meanwhile: the queue's table or an indirect one. */
struct virtq_table {
	const void *entries; /* NULL: they must be read by address */
	uint64_t gpa;
	uint32_t count;
};

/*
 * What virtq_chain_add() does about an error of guest_mem_map(): more room for iovecs, or the end.
 * False without `broken` means that the pool has no part left: the chain must wait for a push.
 */
bool virtq_chain_recover(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
			 uint64_t gpa, uint32_t len, int rc);

static __always_inline void
virtq_chain_begin(struct virtq_chain *chain, struct virtq_slot *slot)
{
	*chain = (struct virtq_chain){.iov = slot->inline_iov, .max = VIRTQ_INLINE_IOVS};
	slot->iov = slot->inline_iov;
}

/* Checks one descriptor's copy and adds its buffer. Returns whether to go on. */
static __always_inline bool
virtq_chain_add(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
		const struct virtq_desc *desc)
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
