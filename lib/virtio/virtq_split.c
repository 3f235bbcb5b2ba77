/* SPDX-License-Identifier: BSD-3-Clause */
/* The split virtqueue, device side (virtio 1.2 §2.7). */
#include "virtq_internal.h"

/* Chains that are prefetched together before they are looked at. */
#define POP_BATCH 32

/* Where a chain's descriptors are: the queue's table or an indirect one. */
struct table {
	const struct vring_desc *entries; /* NULL: they must be read by address */
	uint64_t gpa;
	uint32_t count;
};

/* The only look at a descriptor that the driver may change meanwhile. */
static inline struct vring_desc
load_desc(const struct vring_desc *shared)
{
	const uint64_t *words = (const uint64_t *)shared;
	uint64_t addr = __atomic_load_n(&words[0], __ATOMIC_RELAXED);
	uint64_t rest = __atomic_load_n(&words[1], __ATOMIC_RELAXED);

	return (struct vring_desc){
		.addr = addr,
		.len = (uint32_t)rest,
		.flags = (uint16_t)(rest >> 32),
		.next = (uint16_t)(rest >> 48),
	};
}

/*
 * The same for an entry that is misaligned or crosses region borders. The table was found to be
 * inside memory.
 */
static __attribute__((noinline)) struct vring_desc
load_scattered_desc(struct virtq *vq, uint64_t gpa)
{
	struct iovec parts[sizeof(struct vring_desc)];
	struct vring_desc desc = {0};
	uint8_t *to = (uint8_t *)&desc;
	int count, i;
	size_t j;

	count = guest_mem_map(vq->mem, &vq->table_hint, gpa, sizeof(desc), parts, sizeof(desc));
	for (i = 0; i < count; i++)
		for (j = 0; j < parts[i].iov_len; j++)
			*to++ = __atomic_load_n((const uint8_t *)parts[i].iov_base + j,
						__ATOMIC_RELAXED);
	return desc;
}

enum walk_result {
	WALK_STOP,  /* the queue is broken, or the chain must wait */
	WALK_END,   /* of the chain */
	WALK_TABLE, /* the chain goes on in an indirect table */
};

/* Adds a table's descriptors from index on; the last one looked at is in *desc. */
static __always_inline enum walk_result
walk_table(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
	   const struct table *table, uint32_t index, struct vring_desc *desc)
{
	uint32_t left;

	for (left = table->count; left > 0; left--) {
		if (likely(table->entries))
			*desc = load_desc(&table->entries[index]);
		else
			*desc = load_scattered_desc(vq, table->gpa + index * sizeof(*desc));
		if (desc->flags & VRING_DESC_F_INDIRECT)
			return WALK_TABLE;
		if (unlikely(!virtq_chain_add(vq, slot, chain, desc)))
			return WALK_STOP;
		if (!(desc->flags & VRING_DESC_F_NEXT))
			return WALK_END;
		index = desc->next;
		if (unlikely(index >= table->count)) {
			virtq_break(vq, "next descriptor outside the table");
			return WALK_STOP;
		}
	}
	virtq_break(vq, "descriptor loop");
	return WALK_STOP;
}

/*
 * A table that cannot be read in place, because it is misaligned or crosses region borders; or none
 * at all.
 */
static __attribute__((noinline)) bool
find_scattered_table(struct virtq *vq, const struct vring_desc *desc, struct table *table)
{
	struct iovec parts[GUEST_MEM_MAX_REGIONS];

	if (guest_mem_map(vq->mem, &vq->table_hint, desc->addr, desc->len, parts,
			  GUEST_MEM_MAX_REGIONS) < 0)
		return virtq_stop(vq, "indirect table outside guest memory");
	table->entries = NULL;
	return true;
}

/*
 * Where the table that desc refers to is. VRING_DESC_F_WRITE has no meaning there (virtio 1.2
 * §2.7.5.3.2).
 */
static __always_inline bool
find_table(struct virtq *vq, const struct vring_desc *desc, struct table *table)
{
	struct iovec part;
	int count;

	if (unlikely(!vq->indirect))
		return virtq_stop(vq, "indirect descriptor without VIRTIO_F_INDIRECT_DESC");
	if (unlikely(desc->flags & VRING_DESC_F_NEXT))
		return virtq_stop(vq, "indirect descriptor with a next one");
	if (unlikely(desc->len == 0 || desc->len % sizeof(*desc) != 0))
		return virtq_stop(vq, "indirect table of a wrong length");
	table->gpa = desc->addr;
	table->count = desc->len / sizeof(*desc);
	if (unlikely(table->count > vq->max_chain))
		return virtq_stop(vq, "indirect table of too many descriptors");
	count = guest_mem_map(vq->mem, &vq->table_hint, desc->addr, desc->len, &part, 1);
	if (unlikely(count != 1 || (uintptr_t)part.iov_base % _Alignof(struct vring_desc) != 0))
		return find_scattered_table(vq, desc, table);
	table->entries = part.iov_base;
	return true;
}

static __always_inline bool
walk_chain(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain, uint16_t head)
{
	struct table table = {.entries = vq->desc, .count = vq->size};
	struct vring_desc desc;
	enum walk_result result;

	result = walk_table(vq, slot, chain, &table, head, &desc);
	if (result == WALK_TABLE) {
		if (unlikely(!find_table(vq, &desc, &table)))
			return false;
		result = walk_table(vq, slot, chain, &table, 0, &desc);
		if (unlikely(result == WALK_TABLE))
			return virtq_stop(vq, "indirect descriptor in an indirect table");
	}
	return result == WALK_END;
}

/* NULL: the queue is broken, or the chain must wait. */
static __always_inline struct virtq_slot *
pop_chain(struct virtq *vq, uint16_t head)
{
	struct virtq_slot *slot;
	struct virtq_chain chain;

	if (unlikely(head >= vq->size)) {
		virtq_break(vq, "head outside the descriptor table");
		return NULL;
	}
	slot = virtq_slot_of(vq, head);
	if (unlikely(slot->in_flight)) {
		virtq_break(vq, "head that is in flight already");
		return NULL;
	}
	virtq_chain_begin(&chain, slot);
	if (unlikely(!walk_chain(vq, slot, &chain, head) ||
		     !virtq_chain_end(vq, slot, head, &chain))) {
		virtq_release_part(vq, slot);
		return NULL;
	}
	/* The request's header, most likely: the driver's core wrote it. */
	__builtin_prefetch(slot->iov->iov_base);
	return slot;
}

/* Pops up to POP_BATCH chains that are known to be available. */
static uint32_t
pop_batch(struct virtq *vq, struct virtq_slot **slots, uint32_t count)
{
	uint16_t heads[POP_BATCH];
	uint32_t i;

	for (i = 0; i < count; i++) {
		heads[i] = load_u16(&vq->avail->ring[(vq->last_avail + i) & vq->mask]);
		__builtin_prefetch(&vq->desc[heads[i] & vq->mask]);
		__builtin_prefetch(virtq_slot_of(vq, heads[i] & vq->mask), 1);
	}
	for (i = 0; i < count; i++) {
		slots[i] = pop_chain(vq, heads[i]);
		if (unlikely(!slots[i]))
			break;
	}
	vq->last_avail += i;
	vq->in_flight += i;
	return i;
}

void
virtq_split_init(struct virtq *vq)
{
	vq->used_next = load_u16(&vq->used->idx);
	vq->used_published = vq->used_next;
	vq->kicks_enabled = true;
}

uint32_t
virtq_split_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	uint16_t avail_idx = __atomic_load_n(&vq->avail->idx, __ATOMIC_ACQUIRE);
	uint32_t available = (uint16_t)(avail_idx - vq->last_avail);
	uint32_t popped = 0;

	if (available == 0 || unlikely(vq->broken))
		return 0;
	if (unlikely(available > vq->size)) {
		virtq_break(vq, "avail index jumps");
		return 0;
	}
	if (available > max)
		available = max;
	while (popped < available) {
		uint32_t want = available - popped < POP_BATCH ? available - popped : POP_BATCH;
		uint32_t got = pop_batch(vq, slots + popped, want);

		popped += got;
		if (unlikely(got < want))
			break;
	}
	return popped;
}

void
virtq_split_push(struct virtq *vq, const struct virtq_slot *slot, uint32_t written)
{
	vring_used_elem_t *elem = &vq->used->ring[vq->used_next & vq->mask];

	__atomic_store_n(&elem->id, slot->head, __ATOMIC_RELAXED);
	__atomic_store_n(&elem->len, written, __ATOMIC_RELAXED);
	vq->used_next++;
}

bool
virtq_split_publish(struct virtq *vq)
{
	if (vq->used_next == vq->used_published)
		return false;
	/*
	 * Sequentially consistent with the load below: either the driver, which clears the flag and
	 * then looks at the index, sees the index, or we see the flag cleared (virtio 1.2 §2.7.10).
	 */
	__atomic_store_n(&vq->used->idx, vq->used_next, __ATOMIC_SEQ_CST);
	vq->used_published = vq->used_next;
	return !(__atomic_load_n(&vq->avail->flags, __ATOMIC_SEQ_CST) & VRING_AVAIL_F_NO_INTERRUPT);
}

void
virtq_split_disable_kicks(struct virtq *vq)
{
	/* Written only on a change: the driver reads this line. */
	if (!vq->kicks_enabled)
		return;
	vq->kicks_enabled = false;
	__atomic_store_n(&vq->used->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool
virtq_split_enable_kicks(struct virtq *vq)
{
	vq->kicks_enabled = true;
	/* As in virtq_split_publish(), the other way round. */
	__atomic_store_n(&vq->used->flags, 0, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vq->avail->idx, __ATOMIC_SEQ_CST) == vq->last_avail)
		return true;
	virtq_split_disable_kicks(vq);
	return false;
}
