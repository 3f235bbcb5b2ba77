/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight region at the start of a queue: initialising a new one, and finding out what a
 * process that was killed left in flight. The region is not trusted: see virtq_inflight.h.
 */
#include "virtq_inflight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REGION_ALIGN 64 /* bytes, of each queue's part: as other back-ends have it */

/* A chain in flight. */
struct found {
	uint64_t counter;
	uint16_t entry;
};

/* What a look at the region brings to light. */
struct recovery {
	struct virtq *vq;
	struct virtq_inflight *inflight;
	bool *seen; /* entries that are accounted for */
	struct found *found;
	uint32_t count;
	uint32_t seen_count;
};

static size_t
region_bytes(bool packed, uint32_t size)
{
	if (packed)
		return sizeof(struct inflight_packed) + size * sizeof(struct inflight_packed_desc);
	return sizeof(struct inflight_split) + size * sizeof(struct inflight_split_desc);
}

size_t
virtq_inflight_size(bool packed, uint16_t size)
{
	return (region_bytes(packed, size) + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN;
}

static uint8_t
load_u8(const uint8_t *shared)
{
	return __atomic_load_n(shared, __ATOMIC_RELAXED);
}

static void
store_u8(uint8_t *shared, uint8_t value)
{
	__atomic_store_n(shared, value, __ATOMIC_RELAXED);
}

static void
clear_words(void *shared, size_t bytes)
{
	uint64_t *words = shared;
	size_t i;

	for (i = 0; i < bytes / sizeof(*words); i++)
		store_u64(&words[i], 0);
}

static int
compare_found(const void *a, const void *b)
{
	const struct found *left = a, *right = b;

	if (left->counter != right->counter)
		return left->counter < right->counter ? -1 : 1;
	return (left->entry > right->entry) - (left->entry < right->entry);
}

/* Counts an entry once; false if that was done before, or there is no such entry. */
static bool
see(struct recovery *recovery, uint16_t entry)
{
	if (entry >= recovery->vq->size || recovery->seen[entry])
		return false;
	recovery->seen[entry] = true;
	recovery->seen_count++;
	return true;
}

/* What was found is popped first, in the order in which it once came. */
static void
queue_found(struct recovery *recovery)
{
	struct virtq_inflight *inflight = recovery->inflight;
	uint32_t i;

	qsort(recovery->found, recovery->count, sizeof(*recovery->found), compare_found);
	for (i = 0; i < recovery->count; i++)
		inflight->waiting[i] = recovery->found[i].entry;
	inflight->waiting_count = recovery->count;
	if (recovery->count > 0)
		inflight->counter = recovery->found[recovery->count - 1].counter + 1;
}

/* ---- split ---- */

/* The version comes last: a region that is half initialised still is a new one. */
static void
init_split(struct virtq *vq)
{
	struct inflight_split *region = vq->inflight->split;

	store_u16(&region->version, 0);
	virtq_inflight_step();
	clear_words(region->desc, vq->size * sizeof(region->desc[0]));
	store_u64(&region->features, 0);
	store_u16(&region->desc_num, (uint16_t)vq->size);
	store_u16(&region->last_batch_head, 0);
	store_u16(&region->used_idx, vq->used_next);
	virtq_inflight_step();
	store_u16(&region->version, INFLIGHT_VERSION);
}

/* The last batch was published, and perhaps not all of its marks were cleared. */
static int
clear_batch(struct recovery *recovery, uint16_t count)
{
	struct inflight_split *region = recovery->inflight->split;
	uint16_t head = load_u16(&region->last_batch_head);

	for (; count > 0; count--) {
		if (!see(recovery, head))
			return -EPROTO;
		store_u8(&region->desc[head].inflight, 0);
		head = load_u16(&region->desc[head].next);
	}
	virtq_inflight_step();
	store_u16(&region->used_idx, recovery->vq->used_next);
	return 0;
}

static int
find_split(struct recovery *recovery)
{
	struct inflight_split *region = recovery->inflight->split;
	uint32_t i;

	for (i = 0; i < recovery->vq->size; i++) {
		uint8_t mark = load_u8(&region->desc[i].inflight);

		if (mark > 1)
			return -EPROTO;
		if (mark == 0)
			continue;
		recovery->found[recovery->count].entry = (uint16_t)i;
		recovery->found[recovery->count++].counter = load_u64(&region->desc[i].counter);
	}
	return 0;
}

/*
 * The region may be that of an earlier life of the ring, from before the guest was reset. Then its
 * used index leads further than a batch can, or it has more in flight than the driver has offered.
 */
static int
recover_split(struct recovery *recovery)
{
	struct virtq *vq = recovery->vq;
	struct inflight_split *region = recovery->inflight->split;
	uint16_t batch = vq->used_next - load_u16(&region->used_idx);
	uint16_t offered = __atomic_load_n(&vq->avail->idx, __ATOMIC_ACQUIRE) - vq->used_next;
	uint16_t head = load_u16(&region->last_batch_head);
	int rc;

	if (batch > vq->size) {
		init_split(vq);
		return 0;
	}
	rc = clear_batch(recovery, batch);
	if (rc == 0)
		rc = find_split(recovery);
	if (rc < 0)
		return rc;
	if (recovery->count > offered) {
		init_split(vq);
		return 0;
	}
	queue_found(recovery);
	recovery->inflight->batch_head = head < vq->size ? head : 0;
	/* Whatever was popped is either used or marked. */
	vq->last_avail = vq->used_next + (uint16_t)recovery->count;
	return 0;
}

/* ---- packed ---- */

static void
init_packed(struct virtq *vq)
{
	struct virtq_inflight *inflight = vq->inflight;
	struct inflight_packed *region = inflight->packed;
	uint32_t i;

	store_u16(&region->version, 0);
	virtq_inflight_step();
	clear_words(region->desc, vq->size * sizeof(region->desc[0]));
	for (i = 0; i < vq->size; i++) {
		inflight->next[i] = (uint16_t)(i + 1);
		store_u16(&region->desc[i].next, inflight->next[i]);
	}
	store_u64(&region->features, 0);
	store_u16(&region->desc_num, (uint16_t)vq->size);
	store_u16(&region->free_head, 0);
	store_u16(&region->old_free_head, 0);
	inflight->used = virtq_inflight_used(vq, vq->used_next);
	virtq_inflight_store_both_used(inflight);
	virtq_inflight_step();
	store_u16(&region->version, INFLIGHT_VERSION);
}

static bool
used_is_valid(const struct virtq *vq, const struct inflight_used *used)
{
	return used->idx < vq->size && used->old_idx < vq->size && used->wrap_counter <= 1 &&
	       used->old_wrap_counter <= 1;
}

/* Ends a publish that was under way if the driver can see it, or else undoes it. */
static int
settle_batch(struct recovery *recovery)
{
	struct virtq *vq = recovery->vq;
	struct virtq_inflight *inflight = recovery->inflight;
	struct inflight_packed *region = inflight->packed;
	uint64_t word = load_u64((const uint64_t *)&region->used);
	struct inflight_used used;
	uint16_t old, new;

	memcpy(&used, &word, sizeof(used));
	if (!used_is_valid(vq, &used))
		return -EPROTO;
	new = (uint16_t)(used.idx | (used.wrap_counter ? VIRTQ_WRAP : 0));
	old = (uint16_t)(used.old_idx | (used.old_wrap_counter ? VIRTQ_WRAP : 0));
	/* A batch as long as the ring moves nothing but the wrap counter. */
	if (new != old && !virtq_packed_is_available(vq, virtq_position_of(vq, old))) {
		if (virtq_distance(vq, virtq_position_of(vq, old), virtq_position_of(vq, new)) >
		    vq->size)
			return -EPROTO;
		store_u16(&region->old_free_head, load_u16(&region->free_head));
		virtq_inflight_step();
		old = new;
	}
	inflight->free_head = load_u16(&region->old_free_head);
	store_u16(&region->free_head, (uint16_t)inflight->free_head);
	virtq_inflight_step();
	vq->used_next = virtq_position_of(vq, old);
	vq->used_published = vq->used_next;
	inflight->used = virtq_inflight_used(vq, vq->used_next);
	virtq_inflight_store_both_used(inflight);
	return 0;
}

/* Nothing in the list of free entries is in flight; it ends outside the ring. */
static int
walk_free_list(struct recovery *recovery)
{
	struct virtq_inflight *inflight = recovery->inflight;
	struct inflight_packed *region = inflight->packed;
	uint32_t entry;

	for (entry = inflight->free_head; entry < recovery->vq->size;
	     entry = inflight->next[entry]) {
		if (!see(recovery, (uint16_t)entry))
			return -EPROTO;
		store_u8(&region->desc[entry].inflight, 0);
		inflight->next[entry] = load_u16(&region->desc[entry].next);
	}
	return 0;
}

static int
find_packed_chain(struct recovery *recovery, uint16_t head)
{
	struct virtq_inflight *inflight = recovery->inflight;
	struct inflight_packed *region = inflight->packed;
	uint16_t num = load_u16(&region->desc[head].num), entry = head, last = head, i;

	if (num == 0)
		return -EPROTO;
	for (i = 0; i < num; i++) {
		if (!see(recovery, entry))
			return -EPROTO;
		last = entry;
		inflight->next[entry] = load_u16(&region->desc[entry].next);
		entry = inflight->next[entry];
	}
	if (load_u16(&region->desc[head].last) != last)
		return -EPROTO;
	inflight->last[head] = last;
	inflight->num[head] = num;
	recovery->found[recovery->count].entry = head;
	recovery->found[recovery->count++].counter = load_u64(&region->desc[head].counter);
	return 0;
}

/* Each entry is free or in one chain. */
static int
find_packed(struct recovery *recovery)
{
	struct inflight_packed *region = recovery->inflight->packed;
	uint32_t i;

	for (i = 0; i < recovery->vq->size; i++) {
		uint8_t mark = load_u8(&region->desc[i].inflight);

		if (mark > 1 || (mark == 1 && find_packed_chain(recovery, (uint16_t)i) < 0))
			return -EPROTO;
	}
	return recovery->seen_count == recovery->vq->size ? 0 : -EPROTO;
}

static int
recover_packed(struct recovery *recovery)
{
	struct virtq *vq = recovery->vq;
	uint32_t i;
	int rc;

	rc = settle_batch(recovery);
	if (rc == 0)
		rc = walk_free_list(recovery);
	if (rc == 0)
		rc = find_packed(recovery);
	if (rc < 0)
		return rc;
	queue_found(recovery);
	vq->last_avail = vq->used_next;
	for (i = 0; i < recovery->count; i++)
		vq->last_avail += recovery->inflight->num[recovery->found[i].entry];
	/*
	 * Used descriptors of a batch that was never published are in the ring already, behind its
	 * first one. When another one is published in its place the driver must not find them.
	 */
	virtq_packed_take_back(vq);
	return 0;
}

/* ---- start and stop ---- */

void
virtq_inflight_forget(void *inflight)
{
	/* The headers begin alike. */
	struct inflight_split *header = inflight;

	store_u16(&header->version, 0);
}

bool
virtq_inflight_is_new(const void *inflight)
{
	const struct inflight_split *header = inflight;

	return *(const volatile uint16_t *)&header->version == 0;
}

static int
recover(struct virtq *vq)
{
	struct recovery recovery = {.vq = vq, .inflight = vq->inflight};
	int rc = -ENOMEM;

	recovery.seen = calloc(vq->size, sizeof(*recovery.seen));
	recovery.found = calloc(vq->size, sizeof(*recovery.found));
	if (recovery.seen && recovery.found)
		rc = vq->packed ? recover_packed(&recovery) : recover_split(&recovery);
	free(recovery.found);
	free(recovery.seen);
	return rc;
}

static int
start_region(struct virtq *vq, const struct virtq_opts *opts)
{
	/* The headers begin alike. */
	const struct inflight_split *header = opts->inflight;
	uint16_t version = load_u16(&header->version);
	uint16_t desc_num = load_u16(&header->desc_num);

	if (version > INFLIGHT_VERSION && !opts->inflight_reset)
		return -EPROTO;
	if (version == INFLIGHT_VERSION && !opts->inflight_reset &&
	    (load_u64(&header->features) != 0 ||
	     region_bytes(opts->packed, desc_num) > opts->inflight_size))
		return -EPROTO;
	/* A ring gets another size by a reset only: firmware may have had a smaller one. */
	if (version == INFLIGHT_VERSION && desc_num == vq->size && !opts->inflight_reset)
		return recover(vq);
	if (opts->packed)
		init_packed(vq);
	else
		init_split(vq);
	return 0;
}

int
virtq_inflight_start(struct virtq *vq, const struct virtq_opts *opts)
{
	struct virtq_inflight *inflight;
	uint32_t arrays = opts->packed ? 4 : 1;
	size_t bytes = sizeof(*inflight) + vq->size * sizeof(inflight->batch[0]) +
		       (size_t)arrays * vq->size * sizeof(uint16_t);
	int rc;

	if (!opts->inflight)
		return 0;
	if (opts->inflight_size < region_bytes(opts->packed, opts->size) ||
	    (uintptr_t)opts->inflight % sizeof(uint64_t) != 0)
		return -EINVAL;
	inflight = calloc(1, bytes);
	if (!inflight)
		return -ENOMEM;
	if (opts->packed) {
		inflight->packed = opts->inflight;
		inflight->packed_desc = inflight->packed->desc;
	} else {
		inflight->split = opts->inflight;
		inflight->split_desc = inflight->split->desc;
	}
	inflight->waiting = (uint16_t *)&inflight->batch[vq->size];
	inflight->next = inflight->waiting + vq->size;
	inflight->last = inflight->next + vq->size;
	inflight->num = inflight->last + vq->size;
	vq->inflight = inflight;
	rc = start_region(vq, opts);
	if (rc < 0)
		virtq_inflight_stop(vq);
	return rc;
}

void
virtq_inflight_stop(struct virtq *vq)
{
	free(vq->inflight);
	vq->inflight = NULL;
}

uint32_t
virtq_inflight_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max,
		   struct virtq_slot *(*pop_entry)(struct virtq *vq, uint16_t entry))
{
	struct virtq_inflight *inflight = vq->inflight;
	uint32_t popped = 0;

	while (popped < max && virtq_inflight_waiting(vq) > 0 && !vq->broken) {
		struct virtq_slot *slot;

		slot = pop_entry(vq, inflight->waiting[inflight->waiting_next]);
		if (!slot)
			break;
		inflight->waiting_next++;
		slots[popped++] = slot;
	}
	vq->in_flight += popped;
	return popped;
}
