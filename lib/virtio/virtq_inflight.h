/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight region (vhost-user specification, "Inflight I/O tracking"): what a process that is
 * killed leaves to the next one. The functions here are the steps of that text, in its order.
 *
 * A process that is killed leaves a prefix of its stores in program order, so that it is the
 * compiler alone that must keep them in order: virtq_inflight_step().
 *
 * The front-end can write the region at any time. So it is written only while the queue runs, and
 * all that is needed again is kept here; it is read, and everything in it checked, at creation
 * (virtq_inflight.c), and once more when the descriptors of a packed chain are popped again.
 */
#ifndef VHOSTD_VIRTQ_INFLIGHT_H
#define VHOSTD_VIRTQ_INFLIGHT_H

#include "virtq_chain.h"

#define INFLIGHT_VERSION 1 /* 0: not initialised */

struct inflight_split_desc {
	uint8_t inflight; /* of heads, as is counter */
	uint8_t padding[5];
	uint16_t next; /* in the list of the last batch */
	uint64_t counter;
};

struct inflight_split {
	uint64_t features; /* 0 */
	uint16_t version;
	uint16_t desc_num; /* the queue's size */
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct inflight_split_desc desc[];
};

struct inflight_packed_desc {
	uint8_t inflight; /* of heads, as are last, num and counter */
	uint8_t padding;
	uint16_t next; /* in the list of free entries, or of the chain */
	uint16_t last;
	uint16_t num; /* of descriptors */
	uint64_t counter;
	uint16_t id; /* these four are the descriptor */
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

/* Two places at a time: where the batch leads, and (old_) where the one before it led. */
struct inflight_used {
	uint16_t idx;
	uint16_t old_idx;
	uint8_t wrap_counter;
	uint8_t old_wrap_counter;
	uint16_t padding;
};

struct inflight_packed {
	uint64_t features; /* 0 */
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	struct inflight_used used;
	uint8_t padding[8];
	struct inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct inflight_split_desc) == 16, "DescStateSplit");
_Static_assert(offsetof(struct inflight_split_desc, next) == 6, "DescStateSplit");
_Static_assert(sizeof(struct inflight_split) == 16, "QueueRegionSplit");
_Static_assert(offsetof(struct inflight_split, used_idx) == 14, "QueueRegionSplit");
_Static_assert(sizeof(struct inflight_packed_desc) == 32, "DescStatePacked");
_Static_assert(offsetof(struct inflight_packed_desc, counter) == 8, "DescStatePacked");
_Static_assert(offsetof(struct inflight_packed_desc, addr) == 24, "DescStatePacked");
_Static_assert(sizeof(struct inflight_packed) == 32, "QueueRegionPacked");
_Static_assert(offsetof(struct inflight_packed, used.old_wrap_counter) == 21, "QueueRegionPacked");
_Static_assert(offsetof(struct inflight_packed, free_head) % sizeof(uint32_t) == 0,
	       "stored at once");
_Static_assert(offsetof(struct inflight_packed_desc, last) % sizeof(uint32_t) == 0,
	       "stored at once");
_Static_assert(offsetof(struct inflight_packed, used) % sizeof(uint64_t) == 0, "stored at once");
_Static_assert(sizeof(struct inflight_used) == sizeof(uint64_t), "stored at once");

struct virtq_inflight {
	/* Set once. */
	union { /* shared with the front-end: the region, and its entries */
		struct {
			struct inflight_split *split;
			struct inflight_split_desc *split_desc;
		};
		struct {
			struct inflight_packed *packed;
			struct inflight_packed_desc *packed_desc;
		};
	};

	/* Queue thread only. */
	uint64_t counter; /* of the next chain */
	uint32_t batch_count;
	uint32_t waiting_count; /* to be popped again: waiting[waiting_next] … */
	uint32_t waiting_next;
	/*
	 * The entries of what was pushed are a list; that of a packed ring is of this batch only.
	 */
	uint16_t batch_head;
	uint32_t free_head; /* packed; outside the ring: there is none */
	/* Packed: the two halves of struct inflight_used, each in its place. */
	uint64_t used;
	uint64_t old_used;
	/* Each has the queue's size; next, last and num for packed rings only. */
	uint16_t *waiting; /* entries, in the order of their counters */
	uint16_t *next;
	uint16_t *last, *num;       /* of what is waiting */
	struct virtq_slot *batch[]; /* what was pushed and is not published yet */
};

/* Where packed chains that are popped are copied to, one after the other. */
struct virtq_inflight_cursor {
	struct inflight_packed_desc *desc;
	const uint16_t *links;
	uint64_t counter; /* of the next chain */
	uint32_t head;    /* of this chain, in the list of free entries */
	uint32_t last;
	uint32_t next;
};

/* ---- virtq_inflight.c ---- */

/*
 * Initialises or repairs the region, and sets the queue's places as it says. The queue is complete
 * otherwise. 0, -EINVAL, -EPROTO or -ENOMEM as virtq_create(). Control thread.
 */
int virtq_inflight_start(struct virtq *vq, const struct virtq_opts *opts);
void virtq_inflight_stop(struct virtq *vq);

/* Pops waiting chains by pop_entry, which returns NULL for one that cannot be popped (now). */
uint32_t virtq_inflight_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max,
			    struct virtq_slot *(*pop_entry)(struct virtq *vq, uint16_t entry));

static inline uint32_t
virtq_inflight_waiting(const struct virtq *vq)
{
	return vq->inflight->waiting_count - vq->inflight->waiting_next;
}

/* ---- both formats ---- */

/* Two fields of 16 bits at once, the first one in the lower half. */
static __always_inline void
store_u32(uint16_t *shared, uint32_t value)
{
	__atomic_store_n((uint32_t *)shared, value, __ATOMIC_RELAXED);
}

static __always_inline void
virtq_inflight_step(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* ---- split ---- */

static __always_inline void
virtq_inflight_split_mark(struct virtq_inflight *inflight, uint16_t head, uint64_t counter)
{
	struct inflight_split_desc *desc = &inflight->split_desc[head];

	store_u64(&desc->counter, counter);
	virtq_inflight_step();
	__atomic_store_n(&desc->inflight, 1, __ATOMIC_RELAXED);
}

static __always_inline void
virtq_inflight_split_push(struct virtq_inflight *inflight, struct virtq_slot *slot)
{
	uint16_t head = slot->head;

	store_u16(&inflight->split_desc[head].next, inflight->batch_head);
	virtq_inflight_step();
	store_u16(&inflight->split->last_batch_head, head);
	inflight->batch_head = head;
	inflight->batch[inflight->batch_count++] = slot;
}

/* After used->idx. */
static __always_inline void
virtq_inflight_split_after(struct virtq *vq)
{
	struct virtq_inflight *inflight = vq->inflight;
	struct inflight_split_desc *desc = inflight->split_desc;
	uint32_t i, count = inflight->batch_count;

	virtq_inflight_step();
	for (i = 0; i < count; i++) {
		struct virtq_slot *slot = inflight->batch[i];

		__atomic_store_n(&desc[slot->head].inflight, 0, __ATOMIC_RELAXED);
		slot->state = SLOT_FREE;
	}
	inflight->batch_count = 0;
	virtq_inflight_step();
	store_u16(&inflight->split->used_idx, vq->used_next);
}

/* ---- packed ---- */

static __always_inline void
virtq_inflight_packed_begin(const struct virtq_inflight *inflight,
			    struct virtq_inflight_cursor *cursor)
{
	*cursor = (struct virtq_inflight_cursor){
		.desc = inflight->packed_desc,
		.links = inflight->next,
		.counter = inflight->counter,
		.head = inflight->free_head,
		.next = inflight->free_head,
	};
}

/*
 * Copies one of a chain's descriptors, two words, to a free entry. There is one: there are as many
 * as the ring has, and no chain is popped that does not fit in the ring.
 */
static __always_inline void
virtq_inflight_packed_add(struct virtq_inflight_cursor *cursor, const uint64_t desc[2])
{
	uint64_t *words = (uint64_t *)&cursor->desc[cursor->next];

	/* The ring has the length before id and flags, and the address before all. */
	store_u64(&words[2], desc[1] >> 32 | desc[1] << 32);
	store_u64(&words[3], desc[0]);
	cursor->last = cursor->next;
	cursor->next = cursor->links[cursor->last];
}

/* Of a chain that cannot be popped: its entries are the next one's. */
static __always_inline void
virtq_inflight_packed_rewind(struct virtq_inflight_cursor *cursor)
{
	cursor->next = cursor->head;
}

/*
 * The chain is valid, and the slot knows how many descriptors it has. Until old_free_head is
 * written all this is in free entries, which are taken for nothing in flight: so the mark itself
 * may come after the copies.
 */
static __always_inline void
virtq_inflight_packed_mark(struct virtq_inflight_cursor *cursor, struct virtq_slot *slot)
{
	struct inflight_packed_desc *entry = &cursor->desc[cursor->head];

	store_u64(&entry->counter, cursor->counter++);
	store_u32(&entry->last, cursor->last | (uint32_t)slot->ring_descs << 16);
	virtq_inflight_step();
	__atomic_store_n(&entry->inflight, 1, __ATOMIC_RELAXED);
	slot->inflight_entry = (uint16_t)cursor->head;
	slot->inflight_last = (uint16_t)cursor->last;
	cursor->head = cursor->next;
}

/* All chains that are popped together are in flight, before any is served. Both heads at once. */
static __always_inline void
virtq_inflight_packed_commit(struct virtq_inflight *inflight,
			     const struct virtq_inflight_cursor *cursor)
{
	virtq_inflight_step();
	store_u32(&inflight->packed->free_head, cursor->head * 0x10001u);
	virtq_inflight_step();
	inflight->free_head = cursor->head;
	inflight->counter = cursor->counter;
}

/* A waiting chain is in its slot again. */
static __always_inline void
virtq_inflight_packed_claim(const struct virtq_inflight *inflight, uint16_t entry,
			    struct virtq_slot *slot)
{
	slot->inflight_entry = entry;
	slot->inflight_last = inflight->last[entry];
}

/*
 * Puts the chain's entries before those of the batch. The list of free entries is left alone until
 * the publish: a pop may come before that.
 */
static __always_inline void
virtq_inflight_packed_push(struct virtq_inflight *inflight, struct virtq_slot *slot)
{
	uint16_t last = slot->inflight_last, next = inflight->batch_head;

	store_u16(&inflight->packed_desc[last].next, next);
	inflight->next[last] = next;
	inflight->batch_head = slot->inflight_entry;
	inflight->batch[inflight->batch_count++] = slot;
}

/* A place as the new one in struct inflight_used. */
static __always_inline uint64_t
virtq_inflight_used(const struct virtq *vq, uint16_t position)
{
	return (position & vq->mask) | (uint64_t)virtq_wrap_counter(vq, position) << 32;
}

/* Index and wrap counter are one step, hence one store. */
static __always_inline void
virtq_inflight_store_used(struct virtq_inflight *inflight)
{
	store_u64((uint64_t *)&inflight->packed->used, inflight->used | inflight->old_used);
}

/* The old place is that of the new one. */
static __always_inline void
virtq_inflight_store_both_used(struct virtq_inflight *inflight)
{
	inflight->old_used = (inflight->used & UINT32_MAX) << 16 | inflight->used >> 32 << 40;
	virtq_inflight_store_used(inflight);
}

/* Before the ring is written: frees the batch's entries. old_free_head does not say so yet. */
static __always_inline void
virtq_inflight_packed_before(struct virtq *vq)
{
	struct virtq_inflight *inflight = vq->inflight;
	struct inflight_packed *region = inflight->packed;
	uint16_t last = inflight->batch[0]->inflight_last;

	inflight->next[last] = (uint16_t)inflight->free_head;
	store_u16(&inflight->packed_desc[last].next, inflight->next[last]);
	inflight->free_head = inflight->batch_head;
	virtq_inflight_step();
	store_u16(&region->free_head, inflight->batch_head);
	virtq_inflight_step();
	inflight->used = virtq_inflight_used(vq, vq->used_next);
	virtq_inflight_store_used(inflight);
	virtq_inflight_step();
}

/* After the ring was written. */
static __always_inline void
virtq_inflight_packed_after(struct virtq *vq)
{
	struct virtq_inflight *inflight = vq->inflight;
	struct inflight_packed_desc *desc = inflight->packed_desc;
	uint32_t i, count = inflight->batch_count;

	virtq_inflight_step();
	for (i = 0; i < count; i++) {
		struct virtq_slot *slot = inflight->batch[i];

		__atomic_store_n(&desc[slot->inflight_entry].inflight, 0, __ATOMIC_RELAXED);
		slot->state = SLOT_FREE;
	}
	inflight->batch_count = 0;
	virtq_inflight_step();
	store_u16(&inflight->packed->old_free_head, (uint16_t)inflight->free_head);
	virtq_inflight_step();
	virtq_inflight_store_both_used(inflight);
}

/* Descriptors of a waiting chain. */
static inline uint16_t
virtq_inflight_packed_length(const struct virtq *vq, uint16_t entry)
{
	return vq->inflight->num[entry];
}

/* The only look at one's copy; *entry goes on to the next one. */
static inline struct virtq_desc
virtq_inflight_packed_load(const struct virtq *vq, uint16_t *entry)
{
	const uint64_t *words = (const uint64_t *)&vq->inflight->packed_desc[*entry];
	uint64_t rest = load_u64(&words[2]);

	*entry = vq->inflight->next[*entry];
	return (struct virtq_desc){
		.addr = load_u64(&words[3]),
		.len = (uint32_t)(rest >> 32),
		.flags = (uint16_t)(rest >> 16),
		.id = (uint16_t)rest,
	};
}

#endif
