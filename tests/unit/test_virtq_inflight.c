/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * The in-flight region, by hand: its contents at each step, what a new queue makes of what it
 * finds, and regions that lie. test_virtq_crash.c walks through all the rest.
 */
#include "virtq_packed_rig.h"

#include <errno.h>
#include <pthread.h>

#define SIZE        8
#define REGION_SIZE 512
#define SCRIBBLED   4000 /* queues */

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

static uint16_t
get16(size_t offset)
{
	return *(uint16_t *)(region + offset);
}

static uint64_t
get64(size_t offset)
{
	return *(uint64_t *)(region + offset);
}

static void
set16(size_t offset, uint16_t value)
{
	*(uint16_t *)(region + offset) = value;
}

static void
set64(size_t offset, uint64_t value)
{
	*(uint64_t *)(region + offset) = value;
}

static struct virtq_opts
tracked_opts(void)
{
	return (struct virtq_opts){
		.size = SIZE,
		.indirect = true,
		.inflight = region,
		.inflight_size = sizeof(region),
	};
}

static void
split_open(struct rig *rig, uint16_t index)
{
	struct virtq_opts opts = tracked_opts();

	memset(region, 0, sizeof(region));
	rig_open_with(rig, &opts, index);
}

static void
open_packed(struct packed_rig *packed, uint16_t position)
{
	struct virtq_opts opts = tracked_opts();

	memset(region, 0, sizeof(region));
	packed_open_with(packed, &opts, position);
}

/* Another process takes over: it knows `base`, which may be wrong. */
static int
take_over(struct rig *rig, uint32_t base)
{
	virtq_destroy(rig->vq);
	rig->vq = NULL;
	rig->opts.base = base;
	return virtq_create(&rig->opts, &rig->vq);
}

static void
pop_expecting(struct rig *rig, const uint16_t *heads, uint32_t count, struct virtq_slot **slots)
{
	uint32_t i;

	assert_int_equal(virtq_pop(rig->vq, slots, SIZE), count);
	for (i = 0; i < count; i++)
		assert_int_equal(slots[i]->head, heads[i]);
}

/* ---- sizes, and a region that is refused by these ---- */

static void
test_sizes(void **state)
{
	(void)state;
	assert_int_equal(virtq_inflight_size(false, 1), 64);
	assert_int_equal(virtq_inflight_size(false, 3), 64);
	assert_int_equal(virtq_inflight_size(false, 4), 128);
	assert_int_equal(virtq_inflight_size(false, 256), 4160);
	assert_int_equal(virtq_inflight_size(false, 32768), 64 + 16 * 32768);
	assert_int_equal(virtq_inflight_size(true, 1), 64);
	assert_int_equal(virtq_inflight_size(true, 256), 64 + 32 * 256);
	assert_int_equal(virtq_inflight_size(true, 32768), 64 + 32 * 32768);
}

static void
test_region_of_a_wrong_size(void **state)
{
	static const struct {
		bool packed;
		size_t size;
		uint8_t misalignment;
		int rc;
	} cases[] = {
		{false, SPLIT_DESC(SIZE), 0, 0},
		{false, SPLIT_DESC(SIZE) - 1, 0, -EINVAL},
		{false, 0, 0, -EINVAL},
		{false, REGION_SIZE - 8, 4, -EINVAL},
		{false, REGION_SIZE - 8, 8, 0},
		{true, PACKED_DESC(SIZE), 0, 0},
		{true, PACKED_DESC(SIZE) - 1, 0, -EINVAL},
		{true, 0, 0, -EINVAL},
		{true, REGION_SIZE - 8, 4, -EINVAL},
		{true, REGION_SIZE - 8, 8, 0},
	};
	static _Alignas(16) uint8_t ring[16 * SIZE], avail[64], used[128];
	struct rig rig;
	size_t i;

	(void)state;
	rig_open(&rig, 1);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtq_opts opts = {
			.size = SIZE,
			.packed = cases[i].packed,
			.desc = ring,
			.avail = avail,
			.used = used,
			.mem = rig.mem,
			.base = cases[i].packed ? VIRTQ_PACKED_BASE_NEW : 0,
			.inflight = region + cases[i].misalignment,
			.inflight_size = cases[i].size,
		};
		struct virtq *vq = NULL;

		memset(region, 0, sizeof(region));
		if (virtq_create(&opts, &vq) != cases[i].rc)
			fail_msg("case %zu", i);
		virtq_destroy(vq);
	}
	rig_close(&rig);
}

/* ---- split: each step ---- */

static void
test_split_new_region(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	split_open(&rig, 500);
	assert_int_equal(get64(0), 0);
	assert_int_equal(get16(VERSION), 1);
	assert_int_equal(get16(DESC_NUM), SIZE);
	assert_int_equal(get16(SPLIT_USED_IDX), 500);
	assert_int_equal(virtq_waiting(rig.vq), 0);
	assert_int_equal(virtq_base(rig.vq), 500);
	/* The used index is not 0, and yet nothing was in flight: nothing is cleared later on. */
	rig_offer_small(&rig, 0);
	slot = rig_pop(&rig);
	assert_int_equal(slot->head, 0);
	assert_int_equal(region[SPLIT_DESC(0)], 1);
	assert_int_equal(take_over(&rig, 500), 0);
	assert_int_equal(region[SPLIT_DESC(0)], 1);
	assert_int_equal(virtq_waiting(rig.vq), 1);
	rig_close(&rig);
}

static void
test_split_steps(void **state)
{
	struct virtq_slot *slots[SIZE];
	struct rig rig;

	(void)state;
	split_open(&rig, 65535);
	rig_offer_small(&rig, 3);
	rig_offer_small(&rig, 5);
	rig_offer_small(&rig, 1);
	assert_int_equal(virtq_pop(rig.vq, slots, SIZE), 3);
	assert_int_equal(region[SPLIT_DESC(3)], 1);
	assert_int_equal(region[SPLIT_DESC(5)], 1);
	assert_int_equal(region[SPLIT_DESC(1)], 1);
	assert_true(get64(SPLIT_COUNTER(3)) < get64(SPLIT_COUNTER(5)));
	assert_true(get64(SPLIT_COUNTER(5)) < get64(SPLIT_COUNTER(1)));

	virtq_push(rig.vq, slots[1], 0);
	assert_int_equal(get16(SPLIT_BATCH_HEAD), 5);
	virtq_push(rig.vq, slots[0], 0);
	assert_int_equal(get16(SPLIT_BATCH_HEAD), 3);
	assert_int_equal(get16(SPLIT_NEXT(3)), 5);
	assert_int_equal(region[SPLIT_DESC(3)], 1);
	assert_int_equal(region[SPLIT_DESC(5)], 1);
	assert_int_equal(get16(SPLIT_USED_IDX), 65535);

	virtq_publish(rig.vq);
	assert_int_equal(region[SPLIT_DESC(3)], 0);
	assert_int_equal(region[SPLIT_DESC(5)], 0);
	assert_int_equal(region[SPLIT_DESC(1)], 1);
	assert_int_equal(get16(SPLIT_USED_IDX), 1);
	rig_close(&rig);
}

/* ---- split: what is found ---- */

/* Marks heads as in flight, in this order. */
static void
split_mark(const uint16_t *heads, size_t count, uint64_t counter)
{
	size_t i;

	for (i = 0; i < count; i++) {
		region[SPLIT_DESC(heads[i])] = 1;
		set64(SPLIT_COUNTER(heads[i]), counter + 10 * i);
	}
}

/* All heads were offered, `used` of them are used. */
static void
split_everything_offered(struct rig *rig, uint16_t index, uint16_t used)
{
	uint16_t i;

	split_open(rig, index);
	for (i = 0; i < SIZE; i++)
		rig_offer_small(rig, i);
	rig->used->idx = index + used;
}

/* Published, and none, one, some or all of its marks cleared; used_idx comes last. */
static void
test_split_whole_batch_is_cleared(void **state)
{
	static const uint16_t batch[] = {2, 4, 0, 7}, rest[] = {6, 1, 5, 3};
	struct virtq_slot *slots[SIZE];
	size_t cleared, i;

	(void)state;
	for (cleared = 0; cleared <= ARRAY_SIZE(batch); cleared++) {
		struct rig rig;

		split_everything_offered(&rig, 65533, ARRAY_SIZE(batch));
		split_mark(rest, ARRAY_SIZE(rest), 100);
		split_mark(batch, ARRAY_SIZE(batch), 5);
		for (i = 0; i < ARRAY_SIZE(batch); i++)
			set16(SPLIT_NEXT(batch[i]), i > 0 ? batch[i - 1] : 0);
		set16(SPLIT_BATCH_HEAD, 7);
		for (i = 0; i < cleared; i++)
			region[SPLIT_DESC(batch[i])] = 0;
		assert_int_equal(take_over(&rig, 65533), 0);
		for (i = 0; i < ARRAY_SIZE(batch); i++)
			assert_int_equal(region[SPLIT_DESC(batch[i])], 0);
		assert_int_equal(get16(SPLIT_USED_IDX), (uint16_t)(65533 + 4));
		assert_int_equal(virtq_waiting(rig.vq), ARRAY_SIZE(rest));
		pop_expecting(&rig, rest, ARRAY_SIZE(rest), slots);
		rig_close(&rig);
	}
}

/* First those in flight, by their counters, then what is new; kicks stay off for them. */
static void
test_split_old_before_new(void **state)
{
	static const uint16_t order[] = {6, 1, 5}, fresh[] = {0, 1, 2, 3, 4};
	struct virtq_slot *slots[SIZE];
	uint64_t counter;
	struct rig rig;
	uint16_t i;

	(void)state;
	split_open(&rig, 20);
	for (i = 0; i < 3; i++)
		rig_offer_small(&rig, order[i]);
	split_mark(order, 3, UINT64_MAX / 2);
	/* A front-end that does not know what was popped says 20. */
	assert_int_equal(take_over(&rig, 20), 0);
	assert_int_equal(virtq_base(rig.vq), 23);
	assert_int_equal(virtq_in_flight(rig.vq), 0);
	assert_false(virtq_enable_kicks(rig.vq));
	assert_int_equal(rig.used->flags, VRING_USED_F_NO_NOTIFY);
	rig_offer_small(&rig, fresh[0]);

	assert_int_equal(virtq_pop(rig.vq, slots, 2), 2);
	assert_int_equal(slots[0]->head, 6);
	assert_int_equal(slots[1]->head, 1);
	assert_int_equal(virtq_waiting(rig.vq), 1);
	assert_false(virtq_enable_kicks(rig.vq));
	assert_int_equal(virtq_pop(rig.vq, slots + 2, SIZE), 2);
	assert_int_equal(slots[2]->head, 5);
	assert_int_equal(slots[3]->head, 0);
	assert_int_equal(virtq_in_flight(rig.vq), 4);
	assert_true(virtq_enable_kicks(rig.vq));
	/* The new one is younger, also for the next process. */
	counter = get64(SPLIT_COUNTER(5));
	assert_true(get64(SPLIT_COUNTER(0)) > counter);
	for (i = 0; i < 4; i++)
		virtq_push(rig.vq, slots[i], i);
	virtq_publish(rig.vq);
	rig_expect_used(&rig, 6, 0);
	rig_expect_used(&rig, 1, 1);
	rig_expect_used(&rig, 5, 2);
	rig_expect_used(&rig, 0, 3);
	rig_close(&rig);
}

static void
test_split_waiting_chain_that_is_bad_now(void **state)
{
	static const uint16_t heads[] = {1, 2};
	struct virtq_slot *slots[SIZE];
	struct rig rig;

	(void)state;
	split_open(&rig, 0);
	rig_offer_small(&rig, 1);
	rig_offer_small(&rig, 2);
	split_mark(heads, 2, 1);
	rig_desc(&rig, 2, C_END, 1, 0, 0);
	assert_int_equal(take_over(&rig, 0), 0);
	assert_int_equal(virtq_pop(rig.vq, slots, SIZE), 1);
	assert_string_equal(virtq_broken(rig.vq), "buffer outside guest memory");
	assert_int_equal(virtq_waiting(rig.vq), 1);
	assert_int_equal(virtq_pop(rig.vq, slots + 1, SIZE), 0);
	assert_true(virtq_enable_kicks(rig.vq));
	/* It stays in flight for whoever comes next. */
	virtq_push(rig.vq, slots[0], 0);
	virtq_publish(rig.vq);
	rig_desc(&rig, 2, A_GPA, 1, 0, 0);
	assert_int_equal(take_over(&rig, 0), 0);
	pop_expecting(&rig, heads + 1, 1, slots);
	rig_close(&rig);
}

/*
 * After a reset of the guest the ring begins anew: the region's old used index must not be taken
 * for a batch that was not cleared, nor its marks for requests of the new driver's.
 */
static void
test_split_after_a_reset(void **state)
{
	static const uint16_t heads[] = {0, 1};
	struct virtq_slot *slots[SIZE];
	struct rig rig;
	int marks, told;

	(void)state;
	for (marks = 0; marks < 2; marks++) {
		for (told = 0; told < 2; told++) {
			/* Old used index 1000 leads too far, 65532 does not. */
			split_open(&rig, told ? 65532 : 1000);
			set16(SPLIT_BATCH_HEAD, 60000);
			if (marks)
				split_mark(heads, 2, 0);
			rig.opts.inflight_reset = told;
			rig.avail->idx = 0;
			rig.used->idx = 0;
			rig.used_seen = 0;
			assert_int_equal(take_over(&rig, 0), 0);
			assert_int_equal(virtq_waiting(rig.vq), 0);
			assert_int_equal(virtq_base(rig.vq), 0);
			assert_int_equal(get16(SPLIT_USED_IDX), 0);
			rig_offer_small(&rig, 0);
			rig_offer_small(&rig, 1);
			pop_expecting(&rig, heads, 2, slots);
			rig_close(&rig);
		}
	}
}

/* More is in flight than the driver has offered: it must be another driver. */
static void
test_split_marks_of_another_driver(void **state)
{
	static const uint16_t heads[] = {3, 4};
	struct rig rig;

	(void)state;
	split_open(&rig, 0);
	split_mark(heads, 2, 0);
	rig_offer_small(&rig, 0);
	assert_int_equal(take_over(&rig, 0), 0);
	assert_int_equal(virtq_waiting(rig.vq), 0);
	assert_int_equal(region[SPLIT_DESC(3)], 0);
	assert_int_equal(virtq_base(rig.vq), 0);
	assert_int_equal(rig_pop(&rig)->head, 0);
	rig_close(&rig);
}

/* Firmware has a ring of another size than the kernel. */
static void
test_ring_of_another_size(void **state)
{
	static const uint16_t sizes[] = {4, SIZE, 2, SIZE};
	struct virtq_opts opts = tracked_opts();
	uint32_t i, n;
	int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		memset(region, 0, sizeof(region));
		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			struct packed_rig rig;

			memset(&rig, 0, sizeof(rig));
			opts.size = sizes[i];
			if (packed)
				packed_open_with(&rig, &opts, 0);
			else
				rig_open_with(&rig.rig, &opts, 0);
			assert_int_equal(virtq_waiting(rig.rig.vq), 0);
			assert_int_equal(get16(DESC_NUM), sizes[i]);
			for (n = 0; n < sizes[i]; n++) {
				if (packed)
					packed_put_small(&rig, n);
				else
					rig_offer_small(&rig.rig, n);
				/* The last ones are never completed: the guest is reset. */
				assert_int_equal(rig_pop(&rig.rig)->head, n);
			}
			packed_close(&rig);
		}
	}
}

/* A head that was pushed and not yet published would be in the batch twice. */
static void
test_head_before_it_is_published(void **state)
{
	struct virtq_slot *slot;
	struct packed_rig packed;
	struct rig rig;

	(void)state;
	split_open(&rig, 0);
	rig_offer_small(&rig, 1);
	virtq_push(rig.vq, rig_pop(&rig), 0);
	rig_offer(&rig, 1);
	assert_int_equal(virtq_pop(rig.vq, &slot, 1), 0);
	assert_string_equal(virtq_broken(rig.vq), "head that is in flight already");
	virtq_publish(rig.vq);
	rig_expect_used(&rig, 1, 0);
	rig_close(&rig);

	open_packed(&packed, 0);
	packed_put_small(&packed, 1);
	virtq_push(packed.rig.vq, packed_pop(&packed), 0);
	packed_put_small(&packed, 1);
	assert_int_equal(virtq_pop(packed.rig.vq, &slot, 1), 0);
	assert_string_equal(virtq_broken(packed.rig.vq), "buffer id that is in flight already");
	virtq_publish(packed.rig.vq);
	packed_expect_used(&packed, 1, 0, 1);
	packed_close(&packed);
}

/* ---- packed: each step ---- */

static void
test_packed_new_region(void **state)
{
	struct packed_rig packed;
	uint16_t i;

	(void)state;
	open_packed(&packed, SIZE + 3);
	assert_int_equal(get64(0), 0);
	assert_int_equal(get16(VERSION), 1);
	assert_int_equal(get16(DESC_NUM), SIZE);
	assert_int_equal(get16(PACKED_FREE_HEAD), 0);
	assert_int_equal(get16(PACKED_OLD_FREE_HEAD), 0);
	assert_int_equal(get16(PACKED_USED_IDX), 3);
	assert_int_equal(get16(PACKED_OLD_USED_IDX), 3);
	assert_int_equal(region[PACKED_WRAP_COUNTER], 0);
	assert_int_equal(region[PACKED_OLD_WRAP], 0);
	for (i = 0; i < SIZE; i++)
		assert_int_equal(get16(PACKED_NEXT(i)), i + 1);
	assert_int_equal(virtq_waiting(packed.rig.vq), 0);
	assert_int_equal(virtq_base(packed.rig.vq), 0x00030003);
	packed_close(&packed);
}

static void
test_packed_steps(void **state)
{
	struct virtq_slot *slots[SIZE];
	struct packed_rig packed;

	(void)state;
	open_packed(&packed, SIZE - 2);
	packed_put(&packed, A_GPA, 16, NEXT, 5);
	packed_put(&packed, A_GPA + 100, 17, NEXT | WRITE, 5);
	packed_put(&packed, A_GPA + 200, 18, WRITE, 5);
	packed_put_small(&packed, 2);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), 2);
	assert_int_equal(region[PACKED_DESC(0)], 1);
	assert_int_equal(get16(PACKED_NUM(0)), 3);
	assert_int_equal(get16(PACKED_LAST(0)), 2);
	assert_int_equal(get16(PACKED_ID(2)), 5);
	assert_int_equal(get16(PACKED_FLAGS(1)), NEXT | WRITE | PACKED_AVAIL);
	assert_int_equal(get16(PACKED_FLAGS(2)), WRITE | PACKED_USED);
	assert_int_equal(*(uint32_t *)(region + PACKED_LEN(1)), 17);
	assert_int_equal(get64(PACKED_ADDR(2)), A_GPA + 200);
	assert_int_equal(region[PACKED_DESC(1)], 0);
	assert_int_equal(region[PACKED_DESC(3)], 1);
	assert_int_equal(get16(PACKED_NUM(3)), 1);
	assert_int_equal(get16(PACKED_LAST(3)), 3);
	assert_int_equal(get16(PACKED_ID(3)), 2);
	assert_true(get64(PACKED_COUNTER(0)) < get64(PACKED_COUNTER(3)));
	assert_int_equal(get16(PACKED_FREE_HEAD), 4);
	assert_int_equal(get16(PACKED_OLD_FREE_HEAD), 4);

	/* Nothing is freed before the batch is published. */
	virtq_push(packed.rig.vq, slots[0], 0);
	assert_int_equal(get16(PACKED_FREE_HEAD), 4);
	packed_put_small(&packed, 3);
	assert_int_equal(virtq_pop(packed.rig.vq, &slots[2], 1), 1);
	assert_int_equal(region[PACKED_DESC(4)], 1);
	virtq_publish(packed.rig.vq);
	assert_int_equal(region[PACKED_DESC(0)], 0);
	assert_int_equal(region[PACKED_DESC(3)], 1);
	assert_int_equal(region[PACKED_DESC(4)], 1);
	assert_int_equal(get16(PACKED_NEXT(2)), 5);
	assert_int_equal(get16(PACKED_FREE_HEAD), 0);
	assert_int_equal(get16(PACKED_OLD_FREE_HEAD), 0);
	assert_int_equal(get16(PACKED_USED_IDX), 1);
	assert_int_equal(get16(PACKED_OLD_USED_IDX), 1);
	assert_int_equal(region[PACKED_WRAP_COUNTER], 0);
	assert_int_equal(region[PACKED_OLD_WRAP], 0);
	packed_close(&packed);
}

/* ---- packed: what is found ---- */

/* Two chains in flight, of three and one descriptors, ids 5 and 2; the ring has forgotten them. */
static void
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

static void
test_packed_old_before_new(void **state)
{
	static const uint16_t ids[] = {5, 2, 0};
	struct virtq_slot *slots[SIZE];
	struct packed_rig packed;
	uint64_t counter;

	(void)state;
	packed_two_in_flight(&packed);
	/* A front-end that knows nothing of what was popped since the start. */
	assert_int_equal(take_over(&packed.rig, VIRTQ_PACKED_BASE_NEW), 0);
	assert_int_equal(virtq_base(packed.rig.vq), 0x80060002);
	assert_int_equal(virtq_waiting(packed.rig.vq), 2);
	assert_int_equal(virtq_in_flight(packed.rig.vq), 0);
	assert_false(virtq_enable_kicks(packed.rig.vq));
	packed_put_small(&packed, 0);
	pop_expecting(&packed.rig, ids, 3, slots);
	assert_int_equal(slots[0]->readable_count, 1);
	assert_int_equal(slots[0]->writable_count, 2);
	rig_expect_iov(&packed.rig, &slots[0]->iov[0], A_GPA, 16);
	rig_expect_iov(&packed.rig, &slots[0]->iov[2], A_GPA + 200, 18);
	counter = get64(PACKED_COUNTER(3));
	assert_true(get64(PACKED_COUNTER(4)) > counter);
	virtq_push(packed.rig.vq, slots[1], 1);
	virtq_push(packed.rig.vq, slots[0], 2);
	virtq_push(packed.rig.vq, slots[2], 0);
	virtq_publish(packed.rig.vq);
	packed_expect_used(&packed, 2, 1, 1);
	packed_expect_used(&packed, 5, 2, 3);
	packed_expect_used(&packed, 0, 0, 1);
	packed_close(&packed);
}

/*
 * A batch of two was pushed and not published: the second used descriptor is in the ring. When the
 * first chain alone is published again, the driver must not find it.
 */
static void
test_packed_unpublished_batch_is_taken_back(void **state)
{
	struct virtq_slot *slots[SIZE];
	struct packed_rig packed;

	(void)state;
	open_packed(&packed, SIZE - 1);
	packed_put_small(&packed, 0);
	packed_put_small(&packed, 1);
	packed_put_small(&packed, 2);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), 3);
	virtq_push(packed.rig.vq, slots[2], 0);
	virtq_push(packed.rig.vq, slots[1], 0);
	assert_true(packed_is_used(&packed, SIZE));
	assert_int_equal(take_over(&packed.rig, VIRTQ_PACKED_BASE_NEW), 0);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), 3);
	virtq_push(packed.rig.vq, slots[0], 7);
	virtq_publish(packed.rig.vq);
	packed_expect_used(&packed, 0, 7, 1);
	assert_false(packed_is_used(&packed, packed.used));
	packed_close(&packed);
}

/* The batch fills the ring: only the wrap counter tells it from none. */
static void
test_packed_batch_as_long_as_the_ring(void **state)
{
	struct virtq_slot *slots[SIZE];
	struct packed_rig packed;
	int published;
	uint16_t i;

	(void)state;
	for (published = 0; published < 2; published++) {
		open_packed(&packed, 0);
		for (i = 0; i < SIZE; i++)
			packed_put_small(&packed, i);
		assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), SIZE);
		for (i = 0; i < SIZE; i++)
			virtq_push(packed.rig.vq, slots[i], 0);
		virtq_publish(packed.rig.vq);
		/* All but what comes after the ring is written, or also without that. */
		for (i = 0; i < SIZE; i++)
			region[PACKED_DESC(i)] = 1;
		set16(PACKED_OLD_FREE_HEAD, SIZE);
		region[PACKED_OLD_WRAP] = 1;
		if (!published)
			packed.ring[0].flags = PACKED_AVAIL;
		assert_int_equal(take_over(&packed.rig, VIRTQ_PACKED_BASE_NEW), 0);
		assert_int_equal(virtq_waiting(packed.rig.vq), published ? 0 : SIZE);
		assert_int_equal(virtq_base(packed.rig.vq), published ? 0x00000000 : 0x80000000);
		packed_close(&packed);
	}
}

static void
test_packed_after_a_reset(void **state)
{
	struct virtq_slot *slots[SIZE];
	struct packed_rig packed;

	(void)state;
	packed_two_in_flight(&packed);
	memset(packed.ring, 0, SIZE * sizeof(*packed.ring));
	packed.rig.opts.inflight_reset = true;
	packed_restart(&packed, 0);
	assert_int_equal(virtq_waiting(packed.rig.vq), 0);
	assert_int_equal(virtq_base(packed.rig.vq), VIRTQ_PACKED_BASE_NEW);
	packed_put_small(&packed, 6);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), 1);
	assert_int_equal(slots[0]->head, 6);
	packed_close(&packed);
}

/* What the region says of a chain is checked like what a ring says. */
static void
test_packed_waiting_chain_that_lies(void **state)
{
	static const struct {
		size_t offset;
		uint16_t value;
		const char *reason;
	} lies[] = {
		{PACKED_ID(2), SIZE, "buffer id outside the ring"},
		{PACKED_ID(2), 60000, "buffer id outside the ring"},
		{PACKED_ID(3), 5, "buffer id that is in flight already"},
		{PACKED_ADDR(0) + 4, 7, "buffer outside guest memory"},
		{PACKED_LEN(2) + 2, 0xffff, "buffer outside guest memory"},
		{PACKED_FLAGS(2), 0, "readable buffer after a writable one"},
		{PACKED_FLAGS(0), INDIRECT, "chain of too many descriptors"},
		{PACKED_FLAGS(3), INDIRECT | NEXT, "indirect descriptor with a next one"},
		{PACKED_FLAGS(3), INDIRECT, "indirect table of a wrong length"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lies); i++) {
		struct virtq_slot *slots[SIZE];
		struct packed_rig packed;

		packed_two_in_flight(&packed);
		set16(lies[i].offset, lies[i].value);
		assert_int_equal(take_over(&packed.rig, VIRTQ_PACKED_BASE_NEW), 0);
		virtq_pop(packed.rig.vq, slots, SIZE);
		if (!virtq_broken(packed.rig.vq) ||
		    strcmp(virtq_broken(packed.rig.vq), lies[i].reason) != 0)
			fail_msg("lie %zu: %s", i, virtq_broken(packed.rig.vq));
		packed_close(&packed);
	}
}

/* ---- regions that contradict themselves ---- */

struct lie {
	const char *name;
	size_t offset;
	uint16_t value;
	int rc;
};

static const struct lie split_lies[] = {
	{"none", VERSION, 1, 0},
	{"a later version", VERSION, 2, -EPROTO},
	{"no such version", VERSION, 0xffff, -EPROTO},
	{"features", 0, 1, -EPROTO},
	{"features, upper bits", 6, 0x8000, -EPROTO},
	{"more descriptors than there is room for", DESC_NUM, 0xffff, -EPROTO},
	{"one more than there is room for", DESC_NUM, (REGION_SIZE - 16) / 16 + 1, -EPROTO},
	{"a ring of no descriptors: another one", DESC_NUM, 0, 0},
	{"batch outside the ring", SPLIT_BATCH_HEAD, SIZE, -EPROTO},
	{"batch far outside", SPLIT_BATCH_HEAD, 0xffff, -EPROTO},
	{"batch goes on outside the ring", SPLIT_NEXT(2), SIZE, -EPROTO},
	{"batch goes on far outside", SPLIT_NEXT(2), 0xffff, -EPROTO},
	{"batch that is a loop", SPLIT_NEXT(4), 2, -EPROTO},
	{"batch of one that is a loop", SPLIT_NEXT(2), 2, -EPROTO},
	{"a mark that is none", SPLIT_DESC(6), 2, -EPROTO},
	{"a mark that is none, in the batch", SPLIT_DESC(0), 0xff, 0},
	{"padding", SPLIT_DESC(6) + 2, 0xffff, 0},
	{"counters all alike", SPLIT_COUNTER(6), 110, 0},
	{"the greatest counter", SPLIT_COUNTER(6) + 6, 0xffff, 0},
};

/* A batch of three (2, 4, 0) that was published and not cleared, and three in flight. */
static void
test_split_lies(void **state)
{
	static const uint16_t batch[] = {0, 4, 2}, rest[] = {6, 1, 5};
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(split_lies); i++) {
		struct virtq_slot *slots[SIZE];
		struct rig rig;
		int rc;

		split_everything_offered(&rig, 65533, ARRAY_SIZE(batch));
		split_mark(rest, ARRAY_SIZE(rest), 100);
		split_mark(batch, ARRAY_SIZE(batch), 5);
		for (j = 1; j < ARRAY_SIZE(batch); j++)
			set16(SPLIT_NEXT(batch[j]), batch[j - 1]);
		set16(SPLIT_BATCH_HEAD, 2);
		set16(split_lies[i].offset, split_lies[i].value);
		rc = take_over(&rig, 65533);
		if (rc != split_lies[i].rc)
			fail_msg("%s: %d", split_lies[i].name, rc);
		assert_true((rc == 0) == (rig.vq != NULL));
		if (rig.vq)
			virtq_pop(rig.vq, slots, SIZE);
		rig_close(&rig);
	}
}

static const struct lie packed_lies[] = {
	{"none", VERSION, 1, 0},
	{"a later version", VERSION, 2, -EPROTO},
	{"features", 2, 1, -EPROTO},
	{"more descriptors than there is room for", DESC_NUM, 0xffff, -EPROTO},
	{"free list outside the ring: it is empty", PACKED_OLD_FREE_HEAD, SIZE, -EPROTO},
	{"free list far outside", PACKED_OLD_FREE_HEAD, 0xffff, -EPROTO},
	{"free list that misses some", PACKED_OLD_FREE_HEAD, 6, -EPROTO},
	{"free list that runs into a chain", PACKED_NEXT(6), 1, -EPROTO},
	{"free list that is a loop", PACKED_NEXT(7), 4, -EPROTO},
	{"free list of one that is a loop", PACKED_NEXT(4), 4, -EPROTO},
	{"used index outside the ring", PACKED_OLD_USED_IDX, SIZE, -EPROTO},
	{"used index far outside", PACKED_OLD_USED_IDX, 0xffff, -EPROTO},
	{"new used index outside the ring", PACKED_USED_IDX, SIZE, -EPROTO},
	{"wrap counters that are none", PACKED_WRAP_COUNTER, 0x0202, -EPROTO},
	{"old wrap counter that is none", PACKED_WRAP_COUNTER, 0xff01, -EPROTO},
	{"a new free list that was never published", PACKED_FREE_HEAD, 0xffff, 0},
	{"a mark that is none", PACKED_DESC(0), 0xff, -EPROTO},
	{"a chain marked twice", PACKED_DESC(1), 1, -EPROTO},
	{"a chain not marked", PACKED_DESC(0), 0, -EPROTO},
	{"a mark in the free list", PACKED_DESC(6), 1, 0},
	{"a chain of none", PACKED_NUM(0), 0, -EPROTO},
	{"a chain longer than it is", PACKED_NUM(0), 4, -EPROTO},
	{"a chain shorter than it is", PACKED_NUM(0), 2, -EPROTO},
	{"a chain of too many", PACKED_NUM(0), 0xffff, -EPROTO},
	{"a chain with another end", PACKED_LAST(0), 1, -EPROTO},
	{"a chain that leaves the ring", PACKED_NEXT(1), 0xffff, -EPROTO},
	{"a chain that is a loop", PACKED_NEXT(1), 0, -EPROTO},
	{"chains that share an entry", PACKED_NEXT(1), 3, -EPROTO},
	{"counters all alike", PACKED_COUNTER(0), 1, 0},
	{"padding", PACKED_USED_IDX + 8, 0xffff, 0},
};

static void
test_packed_lies(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(packed_lies); i++) {
		struct virtq_slot *slots[SIZE];
		struct packed_rig packed;
		int rc;

		packed_two_in_flight(&packed);
		set16(packed_lies[i].offset, packed_lies[i].value);
		rc = take_over(&packed.rig, VIRTQ_PACKED_BASE_NEW);
		if (rc != packed_lies[i].rc)
			fail_msg("%s: %d", packed_lies[i].name, rc);
		if (packed.rig.vq)
			virtq_pop(packed.rig.vq, slots, SIZE);
		packed_close(&packed);
	}
}

/* Whatever is written there while the queue runs, it goes on as if nothing were. */
static void
test_scribbling_while_it_runs(void **state)
{
	struct packed_rig packed;
	struct rig rig;
	uint32_t i, n;

	(void)state;
	open_packed(&packed, 0);
	for (i = 0; i < 2000; i++) {
		struct virtq_slot *slots[2];

		for (n = 0; n < sizeof(region); n++)
			region[n] = (uint8_t)(i * 2654435761u >> n % 24);
		packed_put(&packed, A_GPA, 1, NEXT, i % SIZE);
		packed_put(&packed, A_GPA, 1, 0, i % SIZE);
		packed_put_small(&packed, (i + 1) % SIZE);
		assert_int_equal(virtq_pop(packed.rig.vq, slots, 2), 2);
		memset(region, 0xff, sizeof(region));
		virtq_push(packed.rig.vq, slots[1], 1);
		virtq_push(packed.rig.vq, slots[0], 2);
		memset(region, 0x55, sizeof(region));
		virtq_publish(packed.rig.vq);
		packed_expect_used(&packed, (i + 1) % SIZE, 1, 1);
		packed_expect_used(&packed, i % SIZE, 2, 2);
	}
	packed_close(&packed);

	split_open(&rig, 0);
	for (i = 0; i < 2000; i++) {
		struct virtq_slot *slot;

		for (n = 0; n < sizeof(region); n++)
			region[n] = (uint8_t)(i * 2654435761u >> n % 24);
		rig_offer_small(&rig, i % SIZE);
		slot = rig_pop(&rig);
		memset(region, 0xff, sizeof(region));
		virtq_push(rig.vq, slot, 2);
		memset(region, 0x55, sizeof(region));
		virtq_publish(rig.vq);
		rig_expect_used(&rig, i % SIZE, 2);
	}
	rig_close(&rig);
}

/* ---- a region that changes at any time ---- */

struct scribbler {
	uint64_t random;
	bool stop;
};

/* Values that are nearly right, all over the region but for version and number of descriptors. */
static void *
scribble(void *arg)
{
	struct scribbler *scribbler = arg;
	uint16_t *words = (uint16_t *)(region + PACKED_FREE_HEAD);

	while (!__atomic_load_n(&scribbler->stop, __ATOMIC_RELAXED)) {
		uint64_t r = scribbler->random * 6364136223846793005ULL + 1442695040888963407ULL;
		uint16_t value = r >> 40;

		scribbler->random = r;
		if (r >> 61)
			value %= SIZE + 2;
		__atomic_store_n(&words[(r >> 20) % ((REGION_SIZE - PACKED_FREE_HEAD) / 2)], value,
				 __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Pops what there is, and completes it. */
static bool
complete_all(struct virtq *vq)
{
	struct virtq_slot *slots[SIZE];
	uint32_t count = virtq_pop(vq, slots, SIZE);

	if (count > SIZE)
		return false;
	while (count > 0)
		virtq_push(vq, slots[--count], 1);
	virtq_publish(vq);
	return virtq_in_flight(vq) == 0;
}

static void
offer_the_ring(struct packed_rig *packed)
{
	struct rig *rig = &packed->rig;
	uint16_t i;

	if (!rig->opts.packed) {
		rig->avail->idx = 0;
		rig->used->idx = 0;
		for (i = 0; i < SIZE; i++)
			rig_offer_small(rig, i);
		return;
	}
	packed_age(packed, 0);
	packed->next = 0;
	for (i = 0; i < SIZE; i++)
		packed_put_small(packed, i);
}

/* Does not assert before the scribbler has ended. Returns how many queues were made, or -1. */
static int
take_over_while_scribbling(struct packed_rig *packed)
{
	struct rig *rig = &packed->rig;
	int i, made = 0;

	for (i = 0; i < SCRIBBLED; i++) {
		offer_the_ring(packed);
		/* A new region now and then. */
		__atomic_store_n((uint16_t *)(region + VERSION), i % 4 != 0, __ATOMIC_RELAXED);
		if (take_over(rig, rig->opts.packed ? VIRTQ_PACKED_BASE_NEW : 0) < 0)
			continue;
		made++;
		if (!complete_all(rig->vq) || !complete_all(rig->vq))
			return -1;
	}
	return made;
}

/* Some are refused, others go on with chains that make no sense; nothing else is touched. */
static void
test_scribbling_at_any_time(void **state)
{
	struct virtq_opts opts = tracked_opts();
	int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct scribbler scribbler = {.random = packed};
		struct packed_rig rig;
		pthread_t thread;
		int made;

		memset(&rig, 0, sizeof(rig));
		memset(region, 0, sizeof(region));
		if (packed)
			packed_open_with(&rig, &opts, 0);
		else
			rig_open_with(&rig.rig, &opts, 0);
		assert_int_equal(pthread_create(&thread, NULL, scribble, &scribbler), 0);
		made = take_over_while_scribbling(&rig);
		__atomic_store_n(&scribbler.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		assert_in_range(made, SCRIBBLED / 4, SCRIBBLED);
		packed_close(&rig);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_region_of_a_wrong_size),
		cmocka_unit_test(test_split_new_region),
		cmocka_unit_test(test_split_steps),
		cmocka_unit_test(test_split_whole_batch_is_cleared),
		cmocka_unit_test(test_split_old_before_new),
		cmocka_unit_test(test_split_waiting_chain_that_is_bad_now),
		cmocka_unit_test(test_split_after_a_reset),
		cmocka_unit_test(test_split_marks_of_another_driver),
		cmocka_unit_test(test_ring_of_another_size),
		cmocka_unit_test(test_head_before_it_is_published),
		cmocka_unit_test(test_packed_new_region),
		cmocka_unit_test(test_packed_steps),
		cmocka_unit_test(test_packed_old_before_new),
		cmocka_unit_test(test_packed_unpublished_batch_is_taken_back),
		cmocka_unit_test(test_packed_batch_as_long_as_the_ring),
		cmocka_unit_test(test_packed_after_a_reset),
		cmocka_unit_test(test_packed_waiting_chain_that_lies),
		cmocka_unit_test(test_split_lies),
		cmocka_unit_test(test_packed_lies),
		cmocka_unit_test(test_scribbling_while_it_runs),
		cmocka_unit_test(test_scribbling_at_any_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
