/* SPDX-License-Identifier: BSD-3-Clause */
/* The split virtqueue, device side (virtio 1.2 §2.7). */
#include "virtq_chain.h"
#include "virtq_inflight.h"

/* Chains that are prefetched together before they are looked at. */
#define POP_BATCH 32

/* How far avail_event may fall behind while kicks are off: see keep_kicks_off(). */
#define KICK_EVENT_LAG 0x4000

/* The two ends of the rings that EVENT_IDX uses (virtio 1.2 §2.7.7, §2.7.10). */
static inline const uint16_t *
used_event(const struct virtq *vq)
{
	return &vq->avail->ring[vq->size];
}

static inline uint16_t *
avail_event(const struct virtq *vq)
{
	return (uint16_t *)&vq->used->ring[vq->size];
}

/* ---- pop ---- */

static __always_inline bool
walk_chain(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain, uint16_t head)
{
	struct virtq_table table = {.words = (const uint64_t *)vq->desc, .count = vq->size};
	uint32_t index = head, left = vq->max_chain + 1;
	bool indirect = false;
	struct virtq_desc desc;

	for (;;) {
		desc = virtq_load_desc(&table, index, false);
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (unlikely(indirect))
				return virtq_stop(vq, "indirect descriptor in an indirect table");
			if (unlikely(!virtq_find_table(vq, &desc, &table)))
				return false;
			indirect = true;
			index = 0;
			continue;
		}
		if (unlikely(--left == 0))
			return virtq_stop(vq, "descriptor loop, or too many descriptors");
		if (unlikely(!virtq_chain_add(vq, slot, chain, &desc)))
			return false;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return true;
		index = desc.next;
		if (unlikely(index >= table.count))
			return virtq_stop(vq, "next descriptor outside the table");
	}
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
	if (unlikely(slot->state != SLOT_FREE)) {
		virtq_break(vq, "head that is in flight already");
		return NULL;
	}
	virtq_chain_begin(&chain, slot);
	if (unlikely(!walk_chain(vq, slot, &chain, head) || !virtq_chain_end(vq, slot, &chain))) {
		virtq_release_part(vq, slot);
		return NULL;
	}
	slot->head = head;
	/* The request's header, most likely: the driver's core wrote it. */
	__builtin_prefetch(slot->iov->iov_base);
	return slot;
}

/* Pops up to POP_BATCH chains that are known to be available. */
static __always_inline uint32_t
pop_batch(struct virtq *vq, struct virtq_slot **slots, uint32_t count, const bool inflight)
{
	uint64_t counter = inflight ? vq->inflight->counter : 0;
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
		if (inflight)
			virtq_inflight_split_mark(vq->inflight, heads[i], counter + i);
	}
	if (inflight) {
		virtq_inflight_step();
		vq->inflight->counter = counter + i;
	}
	vq->last_avail += i;
	vq->in_flight += i;
	return i;
}

static __always_inline uint32_t
pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max, const bool inflight)
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
		uint32_t got = pop_batch(vq, slots + popped, want, inflight);

		popped += got;
		if (unlikely(got < want))
			break;
	}
	return popped;
}

static uint32_t
pop_plain(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	return pop(vq, slots, max, false);
}

static struct virtq_slot *
pop_waiting(struct virtq *vq, uint16_t entry)
{
	return pop_chain(vq, entry);
}

static uint32_t
pop_tracked(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	uint32_t popped = 0;

	if (unlikely(virtq_inflight_waiting(vq) > 0)) {
		popped = virtq_inflight_pop(vq, slots, max, pop_waiting);
		if (virtq_inflight_waiting(vq) > 0)
			return popped;
	}
	return popped + pop(vq, slots + popped, max - popped, true);
}

/* ---- push ---- */

static __always_inline void
push(struct virtq *vq, struct virtq_slot *slot, uint32_t written, const bool inflight)
{
	vring_used_elem_t *elem;

	assert(slot->state == SLOT_POPPED);
	if (unlikely(slot->iov != slot->inline_iov)) {
		virtq_push_long(vq, slot, written);
		return;
	}
	slot->state = inflight ? SLOT_PUSHED : SLOT_FREE;
	vq->in_flight--;
	elem = &vq->used->ring[vq->used_next & vq->mask];
	__atomic_store_n(&elem->id, slot->head, __ATOMIC_RELAXED);
	__atomic_store_n(&elem->len, written, __ATOMIC_RELAXED);
	vq->used_next++;
	if (inflight)
		virtq_inflight_split_push(vq->inflight, slot);
}

static void
push_plain(struct virtq *vq, struct virtq_slot *slot, uint32_t written)
{
	push(vq, slot, written, false);
}

static void
push_tracked(struct virtq *vq, struct virtq_slot *slot, uint32_t written)
{
	push(vq, slot, written, true);
}

/* The place before the next chain: the driver's next 65,535 ones do not pass it. */
static __always_inline void
store_quiet_event(struct virtq *vq)
{
	vq->kick_event = vq->last_avail - 1;
	store_u16(avail_event(vq), vq->kick_event);
}

/*
 * With EVENT_IDX there is no flag that turns kicks off: the driver kicks when it passes
 * avail_event, so that must not be met again when the index has gone round.
 */
static __always_inline void
keep_kicks_off(struct virtq *vq)
{
	if (unlikely((uint16_t)(vq->last_avail - vq->kick_event) > KICK_EVENT_LAG) &&
	    !vq->kicks_enabled)
		store_quiet_event(vq);
}

static __always_inline bool
publish(struct virtq *vq, const bool event_idx, const bool inflight)
{
	uint16_t old = vq->used_published;

	if (vq->used_next == old)
		return false;
	/*
	 * Sequentially consistent with the loads below: either the driver, which asks for a
	 * notification and then looks at the index, sees the index, or we see that it asks (virtio
	 * 1.2 §2.7.10).
	 */
	__atomic_store_n(&vq->used->idx, vq->used_next, __ATOMIC_SEQ_CST);
	vq->used_published = vq->used_next;
	if (inflight)
		virtq_inflight_split_after(vq);
	if (!event_idx)
		return !(__atomic_load_n(&vq->avail->flags, __ATOMIC_SEQ_CST) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	keep_kicks_off(vq);
	return vring_need_event(__atomic_load_n(used_event(vq), __ATOMIC_SEQ_CST),
				vq->used_published, old);
}

static bool
publish_plain(struct virtq *vq)
{
	return publish(vq, false, false);
}

static bool
publish_event_idx(struct virtq *vq)
{
	return publish(vq, true, false);
}

static bool
publish_tracked(struct virtq *vq)
{
	return publish(vq, false, true);
}

static bool
publish_tracked_event_idx(struct virtq *vq)
{
	return publish(vq, true, true);
}

/* ---- kicks ---- */

static bool
disable_kicks(struct virtq *vq)
{
	/* Written only on a change: the driver reads this line. */
	if (!vq->kicks_enabled)
		return false;
	vq->kicks_enabled = false;
	if (vq->event_idx)
		store_quiet_event(vq);
	else
		store_u16(&vq->used->flags, VRING_USED_F_NO_NOTIFY);
	return load_u16(&vq->avail->idx) != vq->last_avail;
}

static bool
enable_kicks(struct virtq *vq)
{
	vq->kicks_enabled = true;
	/* As in publish(), the other way round. */
	if (vq->event_idx) {
		vq->kick_event = vq->last_avail;
		__atomic_store_n(avail_event(vq), vq->kick_event, __ATOMIC_SEQ_CST);
	} else {
		__atomic_store_n(&vq->used->flags, 0, __ATOMIC_SEQ_CST);
	}
	if (__atomic_load_n(&vq->avail->idx, __ATOMIC_SEQ_CST) == vq->last_avail)
		return true;
	disable_kicks(vq);
	return false;
}

const struct virtq_ops virtq_split_ops[2][2] = {
	{
		{pop_plain, push_plain, publish_plain, disable_kicks, enable_kicks},
		{pop_tracked, push_tracked, publish_tracked, disable_kicks, enable_kicks},
	},
	{
		{pop_plain, push_plain, publish_event_idx, disable_kicks, enable_kicks},
		{pop_tracked, push_tracked, publish_tracked_event_idx, disable_kicks, enable_kicks},
	},
};

int
virtq_split_init(struct virtq *vq, uint32_t base)
{
	vq->last_avail = (uint16_t)base;
	vq->kick_event = vq->last_avail;
	vq->used_next = load_u16(&vq->used->idx);
	vq->used_published = vq->used_next;
	return 0;
}
