/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The packed virtqueue, device side (virtio 1.2 §2.8).
 *
 * Places are positions (virtq_internal.h); the available and the used one are never further apart
 * than the ring is long.
 */
#include <errno.h>
#include <string.h>

#include "virtq_chain.h"
#include "virtq_inflight.h"

#define AVAIL      (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED       (1u << VRING_PACKED_DESC_F_USED)
#define EVENT_MASK 3u /* virtio 1.2 §2.8.10: the other flags are reserved */

/* How many chains ahead a slot is prefetched. */
#define PREFETCH_AHEAD 4

_Static_assert(sizeof(struct vring_packed_desc) == 16, "virtio 1.2 §2.8.13");
_Static_assert(offsetof(struct vring_packed_desc, id) == 12, "virtio 1.2 §2.8.13");
_Static_assert(offsetof(struct vring_packed_desc, flags) == 14, "virtio 1.2 §2.8.13");
_Static_assert(sizeof(struct vring_packed_desc_event) == 4, "virtio 1.2 §2.8.14");
_Static_assert(offsetof(struct vring_packed_desc_event, flags) == 2, "virtio 1.2 §2.8.14");

/* The words of a descriptor: its address, and length, id and flags together. */
static inline uint64_t *
words_at(const struct virtq *vq, uint16_t position)
{
	return (uint64_t *)&vq->ring[position & vq->mask];
}

/* ---- pop ---- */

static __always_inline bool
is_available(const struct virtq *vq, uint16_t position, uint16_t flags)
{
	return (flags & (AVAIL | USED)) == (virtq_wrap_counter(vq, position) ? AVAIL : USED);
}

/* Where the next descriptor is, while chains are popped. */
struct place {
	const uint64_t *words;
	uint16_t flags; /* AVAIL and USED as they are there when it is available */
};

/* The only look at a descriptor, and on to the next one; false if it is not available. */
static __always_inline bool
take(const struct virtq *vq, struct place *place, uint64_t words[2])
{
	/* The driver writes the flags last (virtio 1.2 §2.8.21.1). */
	words[1] = __atomic_load_n(&place->words[1], __ATOMIC_ACQUIRE);
	if (((words[1] >> 48) ^ place->flags) & (AVAIL | USED))
		return false;
	words[0] = load_u64(&place->words[0]);
	place->words += 2;
	if (unlikely(place->words == (const uint64_t *)vq->ring_end)) {
		place->words = (const uint64_t *)vq->ring;
		place->flags ^= AVAIL | USED;
	}
	return true;
}

static __always_inline uint16_t
id_of(const uint64_t words[2])
{
	return (uint16_t)(words[1] >> 32);
}

/*
 * Adds the table that ends a chain, of which `left` descriptors may follow. They are used in order;
 * of their flags only WRITE has a meaning (virtio 1.2 §2.8.7).
 */
static __always_inline bool
add_table(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
	  const struct virtq_desc *desc, uint32_t left)
{
	struct virtq_table table;
	uint32_t i = 0;

	if (unlikely(!virtq_find_table(vq, desc, &table)))
		return false;
	if (unlikely(table.count > left))
		return virtq_stop(vq, "chain of too many descriptors");
	do {
		struct virtq_desc entry = virtq_load_desc(&table, i, true);

		if (unlikely(!virtq_chain_add(vq, slot, chain, &entry)))
			return false;
	} while (++i < table.count);
	return true;
}

/*
 * Where to build a chain. Its buffer id is in its last descriptor (virtio 1.2 §2.8.6), but drivers
 * write it into all of them: the first one's is a guess that saves a copy. The slot after the last
 * one is the queue's own, with a head that is no valid id.
 */
static __always_inline struct virtq_slot *
guess_slot(const struct virtq *vq, uint16_t id)
{
	struct virtq_slot *slot;

	if (likely(id < vq->size)) {
		slot = virtq_slot_of(vq, id);
		if (likely(slot->state == SLOT_FREE)) {
			slot->head = id;
			return slot;
		}
	}
	slot = virtq_slot_of(vq, vq->size);
	slot->head = UINT16_MAX;
	return slot;
}

/*
 * The guess was wrong: moves the chain to its slot. False: the queue is broken, and the chain still
 * is where it was.
 */
static __attribute__((noinline)) bool
move_chain(struct virtq *vq, struct virtq_slot *from, uint16_t id, struct virtq_chain *chain)
{
	uint32_t count = (uint32_t)(chain->next - from->iov);
	struct virtq_slot *to;

	if (id >= vq->size)
		return virtq_stop(vq, "buffer id outside the ring");
	to = virtq_slot_of(vq, id);
	if (to->state != SLOT_FREE)
		return virtq_stop(vq, "buffer id that is in flight already");
	to->readable_count = from->readable_count;
	to->readable_bytes = from->readable_bytes;
	to->iov = to->inline_iov;
	if (from->iov == from->inline_iov) {
		memcpy(to->iov, from->iov, count * sizeof(*to->iov));
	} else {
		to->iov = from->iov;
		from->iov = from->inline_iov;
	}
	to->head = id;
	chain->next = to->iov + count;
	return true;
}

/* Ends a chain that takes so many descriptors of the ring. NULL: the queue is broken. */
static __always_inline struct virtq_slot *
claim_slot(struct virtq *vq, struct virtq_slot *built, uint16_t id, struct virtq_chain *chain,
	   uint16_t ring_descs)
{
	struct virtq_slot *slot = built;

	if (unlikely(built->head != id || id >= vq->size)) {
		struct virtq_chain copy = *chain;

		if (!move_chain(vq, built, id, &copy))
			return NULL;
		*chain = copy;
		slot = virtq_slot_of(vq, id);
	}
	if (unlikely(!virtq_chain_end(vq, slot, chain))) {
		virtq_release_part(vq, slot);
		return NULL;
	}
	slot->ring_descs = ring_descs;
	/* The request's header, most likely: the driver's core wrote it. */
	__builtin_prefetch(slot->iov->iov_base);
	return slot;
}

/*
 * Pops the chain at that place, of at most `room` descriptors, and moves on to the next one. NULL:
 * there is none, the queue is broken, or the chain must wait.
 */
static __always_inline struct virtq_slot *
pop_chain(struct virtq *vq, struct place *next, uint16_t room, struct virtq_inflight_cursor *cursor,
	  const bool inflight)
{
	struct virtq_slot *built, *slot;
	struct place place = *next;
	struct virtq_chain chain;
	struct virtq_desc desc;
	uint64_t words[2];
	uint32_t count;

	if (!take(vq, &place, words))
		return NULL;
	built = guess_slot(vq, id_of(words));
	virtq_chain_begin(&chain, built);
	for (count = 1;; count++) {
		if (unlikely(count > room)) {
			virtq_break(vq, "descriptor list longer than the ring");
			goto fail;
		}
		if (inflight)
			virtq_inflight_packed_add(cursor, words);
		desc = virtq_decode_desc(words[0], words[1], true);
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (unlikely(!add_table(vq, built, &chain, &desc,
						vq->max_chain + 1 - count)))
				goto fail;
			break;
		}
		if (unlikely(!virtq_chain_add(vq, built, &chain, &desc)))
			goto fail;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			break;
		if (unlikely(!take(vq, &place, words))) {
			virtq_break(vq, "descriptor list that is not available as a whole");
			goto fail;
		}
	}
	slot = claim_slot(vq, built, id_of(words), &chain, (uint16_t)count);
	if (unlikely(!slot))
		goto fail;
	if (inflight)
		virtq_inflight_packed_mark(cursor, slot);
	*next = place;
	return slot;
fail:
	if (inflight)
		virtq_inflight_packed_rewind(cursor);
	virtq_release_part(vq, built);
	return NULL;
}

static __always_inline uint32_t
pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max, const bool inflight)
{
	struct place place = {
		.words = words_at(vq, vq->last_avail),
		.flags = virtq_wrap_counter(vq, vq->last_avail) ? AVAIL : USED,
	};
	uint16_t room = (uint16_t)(vq->size - (uint16_t)(vq->last_avail - vq->used_published));
	struct virtq_inflight_cursor cursor;
	struct virtq_slot *slot;
	uint32_t popped;

	if (unlikely(vq->broken))
		return 0;
	if (inflight)
		virtq_inflight_packed_begin(vq->inflight, &cursor);
	for (popped = 0; popped < max; popped++) {
		const uint64_t *ahead = place.words + 2 * PREFETCH_AHEAD;

		/* Only a hint: nothing is checked, and nothing depends on it. */
		if (likely(ahead < (const uint64_t *)vq->ring_end))
			__builtin_prefetch(virtq_slot_of(vq, load_u64(&ahead[1]) >> 32 & vq->mask),
					   1);
		slot = pop_chain(vq, &place, room, &cursor, inflight);
		if (!slot)
			break;
		slots[popped] = slot;
		room -= slot->ring_descs;
		vq->last_avail += slot->ring_descs;
	}
	vq->in_flight += popped;
	if (inflight && popped > 0)
		virtq_inflight_packed_commit(vq->inflight, &cursor);
	return popped;
}

static uint32_t
pop_plain(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	return pop(vq, slots, max, false);
}

/* Adds a descriptor of the in-flight region; a table of at most so many. */
static bool
add_copy(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
	 const struct virtq_desc *desc, uint32_t left)
{
	if (desc->flags & VRING_DESC_F_INDIRECT)
		return add_table(vq, slot, chain, desc, left);
	return virtq_chain_add(vq, slot, chain, desc);
}

/* A chain of the in-flight region: its descriptors are in the ring no more. */
static struct virtq_slot *
pop_waiting(struct virtq *vq, uint16_t entry)
{
	struct virtq_slot *built = virtq_slot_of(vq, vq->size), *slot;
	struct virtq_chain chain;
	struct virtq_desc desc;
	uint16_t count, at = entry;

	built->head = UINT16_MAX;
	virtq_chain_begin(&chain, built);
	for (count = 1;; count++) {
		bool is_last = count == virtq_inflight_packed_length(vq, entry);

		desc = virtq_inflight_packed_load(vq, &at);
		if (!add_copy(vq, built, &chain, &desc, is_last ? vq->max_chain + 1 - count : 0))
			goto fail;
		if (is_last)
			break;
	}
	slot = claim_slot(vq, built, desc.id, &chain, count);
	if (!slot)
		goto fail;
	virtq_inflight_packed_claim(vq->inflight, entry, slot);
	return slot;
fail:
	virtq_release_part(vq, built);
	return NULL;
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

/* All but the batch's first used descriptor are written at once; the driver stops at that one. */
static __always_inline void
push(struct virtq *vq, struct virtq_slot *slot, uint32_t written, const bool inflight)
{
	uint16_t position = vq->used_next;
	uint64_t flags, used;

	assert(slot->state == SLOT_POPPED);
	if (unlikely(slot->iov != slot->inline_iov)) {
		virtq_push_long(vq, slot, written);
		return;
	}
	slot->state = inflight ? SLOT_PUSHED : SLOT_FREE;
	vq->in_flight--;
	vq->used_next = position + slot->ring_descs;
	/* virtio 1.2 §2.8.5: in a used descriptor WRITE says that the length means something. */
	flags = (virtq_wrap_counter(vq, position) ? AVAIL | USED : 0) |
		(written ? VRING_DESC_F_WRITE : 0);
	used = written | (uint64_t)slot->head << 32 | flags << 48;
	if (position == vq->used_published)
		vq->used_first = used;
	else
		store_u64(&words_at(vq, position)[1], used);
	if (inflight)
		virtq_inflight_packed_push(vq->inflight, slot);
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

/* A structure that makes no sense asks for a notification: one too many does no harm. */
static __always_inline bool
wants_call(const struct virtq *vq, uint16_t old, const bool event_idx)
{
	uint32_t event = __atomic_load_n((const uint32_t *)vq->driver_event, __ATOMIC_SEQ_CST);
	uint32_t flags = event >> 16 & EVENT_MASK;

	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (!event_idx || flags != VRING_PACKED_EVENT_FLAG_DESC ||
	    unlikely((event & (VIRTQ_WRAP - 1)) >= vq->size))
		return true;
	/* As vring_need_event(): whether the position is one of those that were just used. */
	return virtq_distance(vq, old, virtq_position_of(vq, (uint16_t)event)) <
	       (uint16_t)(vq->used_published - old);
}

static __always_inline bool
publish(struct virtq *vq, const bool event_idx, const bool inflight)
{
	uint16_t old = vq->used_published;

	if (vq->used_next == old)
		return false;
	if (inflight)
		virtq_inflight_packed_before(vq);
	/*
	 * Sequentially consistent with the load in wants_call(): either the driver, which asks for
	 * a notification and then looks at the ring, sees this, or we see that it asks.
	 */
	__atomic_store_n(&words_at(vq, old)[1], vq->used_first, __ATOMIC_SEQ_CST);
	vq->used_published = vq->used_next;
	if (inflight)
		virtq_inflight_packed_after(vq);
	return wants_call(vq, old, event_idx);
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

static void
store_device_event(struct virtq *vq, uint16_t position, uint32_t flags, int order)
{
	uint32_t event = virtq_off_wrap(vq, position) | flags << 16;

	__atomic_store_n((uint32_t *)vq->device_event, event, order);
}

static bool
disable_kicks(struct virtq *vq)
{
	/* Written only on a change: the driver reads this line. */
	if (!vq->kicks_enabled)
		return false;
	vq->kicks_enabled = false;
	store_device_event(vq, 0, VRING_PACKED_EVENT_FLAG_DISABLE, __ATOMIC_RELAXED);
	return virtq_packed_is_available(vq, vq->last_avail);
}

static bool
enable_kicks(struct virtq *vq)
{
	uint64_t rest;

	vq->kicks_enabled = true;
	/* As in publish(), the other way round. */
	store_device_event(vq, vq->last_avail,
			   vq->event_idx ? VRING_PACKED_EVENT_FLAG_DESC
					 : VRING_PACKED_EVENT_FLAG_ENABLE,
			   __ATOMIC_SEQ_CST);
	rest = __atomic_load_n(&words_at(vq, vq->last_avail)[1], __ATOMIC_SEQ_CST);
	if (!is_available(vq, vq->last_avail, (uint16_t)(rest >> 48)))
		return true;
	disable_kicks(vq);
	return false;
}

const struct virtq_ops virtq_packed_ops[2][2] = {
	{
		{pop_plain, push_plain, publish_plain, disable_kicks, enable_kicks},
		{pop_tracked, push_tracked, publish_tracked, disable_kicks, enable_kicks},
	},
	{
		{pop_plain, push_plain, publish_event_idx, disable_kicks, enable_kicks},
		{pop_tracked, push_tracked, publish_tracked_event_idx, disable_kicks, enable_kicks},
	},
};

/* ---- where the queue stands ---- */

bool
virtq_packed_is_available(const struct virtq *vq, uint16_t position)
{
	return is_available(vq, position, load_u16(&vq->ring[position & vq->mask].flags));
}

void
virtq_packed_take_back(struct virtq *vq)
{
	uint16_t position;

	for (position = vq->used_next; position != vq->last_avail; position++)
		store_u16(&vq->ring[position & vq->mask].flags,
			  virtq_wrap_counter(vq, position) ? AVAIL : USED);
}

int
virtq_packed_init(struct virtq *vq, uint32_t base)
{
	uint16_t avail = (uint16_t)base, used = (uint16_t)(base >> 16);
	uint16_t taken;

	if ((avail & (VIRTQ_WRAP - 1)) >= vq->size || (used & (VIRTQ_WRAP - 1)) >= vq->size)
		return -EINVAL;
	used = virtq_position_of(vq, used);
	taken = virtq_distance(vq, used, virtq_position_of(vq, avail));
	if (taken > vq->size)
		return -EINVAL;
	vq->used_next = used;
	vq->used_published = used;
	vq->last_avail = used + taken;
	return 0;
}
