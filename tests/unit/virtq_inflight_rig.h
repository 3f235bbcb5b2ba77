/* SPDX-License-Identifier: BSD-3-Clause */
/* The guests of virtq_rig.h and virtq_packed_rig.h with an in-flight region. */
#ifndef VHOSTD_VIRTQ_INFLIGHT_RIG_H
#define VHOSTD_VIRTQ_INFLIGHT_RIG_H

#include "virtq_packed_rig.h"

#define SIZE        8
#define REGION_SIZE 512

/* The layouts, once more and independent of the code under test. */
#define SPLIT_BATCH_HEAD 12
#define SPLIT_USED_IDX   14
#define SPLIT_DESC(i)    (16 + 16 * (i))
#define SPLIT_NEXT(i)    (SPLIT_DESC(i) + 6)
#define SPLIT_COUNTER(i) (SPLIT_DESC(i) + 8)

#define VERSION              8 /* in both, as is the next one */
#define DESC_NUM             10
#define PACKED_FREE_HEAD     12
#define PACKED_OLD_FREE_HEAD 14
#define PACKED_USED_IDX      16
#define PACKED_OLD_USED_IDX  18
#define PACKED_WRAP_COUNTER  20
#define PACKED_OLD_WRAP      21
#define PACKED_DESC(i)       (32 + 32 * (i))
#define PACKED_NEXT(i)       (PACKED_DESC(i) + 2)
#define PACKED_LAST(i)       (PACKED_DESC(i) + 4)
#define PACKED_NUM(i)        (PACKED_DESC(i) + 6)
#define PACKED_COUNTER(i)    (PACKED_DESC(i) + 8)
#define PACKED_ID(i)         (PACKED_DESC(i) + 16)
#define PACKED_FLAGS(i)      (PACKED_DESC(i) + 18)
#define PACKED_LEN(i)        (PACKED_DESC(i) + 20)
#define PACKED_ADDR(i)       (PACKED_DESC(i) + 24)

static _Alignas(64) uint8_t region[REGION_SIZE];

static inline uint16_t
get16(size_t offset)
{
	return *(uint16_t *)(region + offset);
}

static inline uint64_t
get64(size_t offset)
{
	return *(uint64_t *)(region + offset);
}

static inline void
set16(size_t offset, uint16_t value)
{
	*(uint16_t *)(region + offset) = value;
}

static inline void
set64(size_t offset, uint64_t value)
{
	*(uint64_t *)(region + offset) = value;
}

static inline struct virtq_opts
tracked_opts(void)
{
	return (struct virtq_opts){
		.size = SIZE,
		.indirect = true,
		.inflight = region,
		.inflight_size = sizeof(region),
	};
}

static inline void
split_open(struct rig *rig, uint16_t index)
{
	struct virtq_opts opts = tracked_opts();

	memset(region, 0, sizeof(region));
	rig_open_with(rig, &opts, index);
}

static inline void
open_packed(struct packed_rig *packed, uint16_t position)
{
	struct virtq_opts opts = tracked_opts();

	memset(region, 0, sizeof(region));
	packed_open_with(packed, &opts, position);
}

/* Another process takes over: it knows `base`, which may be wrong. */
static inline int
take_over(struct rig *rig, uint32_t base)
{
	virtq_destroy(rig->vq);
	rig->vq = NULL;
	rig->opts.base = base;
	return virtq_create(&rig->opts, &rig->vq);
}

static inline void
pop_expecting(struct rig *rig, const uint16_t *heads, uint32_t count, struct virtq_slot **slots)
{
	uint32_t i;

	assert_int_equal(virtq_pop(rig->vq, slots, SIZE), count);
	for (i = 0; i < count; i++)
		assert_int_equal(slots[i]->head, heads[i]);
}

/* Marks heads as in flight, in this order. */
static inline void
split_mark(const uint16_t *heads, size_t count, uint64_t counter)
{
	size_t i;

	for (i = 0; i < count; i++) {
		region[SPLIT_DESC(heads[i])] = 1;
		set64(SPLIT_COUNTER(heads[i]), counter + 10 * i);
	}
}

/* All heads were offered, `used` of them are used. */
static inline void
split_everything_offered(struct rig *rig, uint16_t index, uint16_t used)
{
	uint16_t i;

	split_open(rig, index);
	for (i = 0; i < SIZE; i++)
		rig_offer_small(rig, i);
	rig->used->idx = index + used;
}

/* Two chains in flight, of three and one descriptors, ids 5 and 2; the ring has forgotten them. */
static inline void
packed_two_in_flight(struct packed_rig *packed)
{
	struct virtq_slot *slots[SIZE];

	open_packed(packed, SIZE - 2);
	packed_put(packed, A_GPA, 16, NEXT, 5);
	packed_put(packed, A_GPA + 100, 17, NEXT | WRITE, 5);
	packed_put(packed, A_GPA + 200, 18, WRITE, 5);
	packed_put_small(packed, 2);
	assert_int_equal(virtq_pop(packed->rig.vq, slots, SIZE), 2);
	packed->ring[SIZE - 2].addr = 0;
	packed->ring[SIZE - 1].len = 0;
	packed->ring[0].id = 60000;
}

#endif
