/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * The in-flight region, by hand: its contents at each step, and what a new queue makes of what it
 * finds. test_virtq_inflight_lies.c has regions that lie; test_virtq_crash.c walks through all the
 * rest.
 */
#include "virtq_inflight_rig.h"

#include <errno.h>

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
