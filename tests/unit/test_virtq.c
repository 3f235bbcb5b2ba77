/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/* Good chains of any layout, the rings' ends, slots, and notifications. */
#include "virtq_rig.h"

#include <errno.h>

#define TABLE (A_GPA + 0x8000)

/* ---- making a queue ---- */

static void
test_create_checks(void **state)
{
	static const struct {
		const char *what;
		uint16_t size;
		uint8_t desc, avail, used; /* misalignment */
		uint32_t max_segments;
		int rc;
	} cases[] = {
		{"size 0", 0, 0, 0, 0, 0, -EINVAL},
		{"size 3", 3, 0, 0, 0, 0, -EINVAL},
		{"size 32769", 32769, 0, 0, 0, 0, -EINVAL},
		{"size 65535", 65535, 0, 0, 0, 0, -EINVAL},
		{"size 1", 1, 0, 0, 0, 0, 0},
		{"size 32768", 32768, 0, 0, 0, 0, 0},
		{"desc at 8", 8, 8, 0, 0, 0, -EINVAL},
		{"avail at 1", 8, 0, 1, 0, 0, -EINVAL},
		{"avail at 2", 8, 0, 2, 0, 0, 0},
		{"used at 2", 8, 0, 0, 2, 0, -EINVAL},
		{"used at 4", 8, 0, 0, 4, 0, 0},
		{"most segments", 8, 0, 0, 0, VIRTQ_MAX_SIZE, 0},
		{"too many segments", 8, 0, 0, 0, VIRTQ_MAX_SIZE + 1, -EINVAL},
		{"far too many segments", 8, 0, 0, 0, UINT32_MAX, -EINVAL},
		{"segments that wrap to none with a region each", 8, 0, 0, 0,
		 UINT32_MAX - GUEST_MEM_MAX_REGIONS + 1, -EINVAL},
	};
	static _Alignas(16) uint8_t ring[64]; /* only the used index is read */
	size_t i;
	struct rig rig;

	(void)state;
	rig_open(&rig, 1);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtq_opts opts = {
			.size = cases[i].size,
			.desc = ring + cases[i].desc,
			.avail = ring + cases[i].avail,
			.used = ring + cases[i].used,
			.mem = rig.mem,
			.max_segments = cases[i].max_segments,
		};
		struct virtq *vq = NULL;
		int rc = virtq_create(&opts, &vq);

		if (rc != cases[i].rc)
			fail_msg("%s: %d", cases[i].what, rc);
		assert_true((rc == 0) == (vq != NULL));
		virtq_destroy(vq);
	}
	rig_close(&rig);
}

static void
test_create_needs_everything(void **state)
{
	struct virtq_opts opts;
	struct virtq *vq = NULL;
	struct rig rig;

	(void)state;
	rig_open(&rig, 4);
	opts = rig.opts;
	opts.desc = NULL;
	assert_int_equal(virtq_create(&opts, &vq), -EINVAL);
	opts = rig.opts;
	opts.avail = NULL;
	assert_int_equal(virtq_create(&opts, &vq), -EINVAL);
	opts = rig.opts;
	opts.used = NULL;
	assert_int_equal(virtq_create(&opts, &vq), -EINVAL);
	opts = rig.opts;
	opts.mem = NULL;
	assert_int_equal(virtq_create(&opts, &vq), -EINVAL);
	opts = rig.opts;
	opts.ctx_size = SIZE_MAX - 64;
	assert_int_equal(virtq_create(&opts, &vq), -ENOMEM);
	assert_null(vq);
	rig_close(&rig);
}

static void
test_slots(void **state)
{
	struct virtq_opts opts = {.size = 64, .ctx_size = 100};
	struct rig rig;
	uint32_t i, j;

	(void)state;
	rig_open_with(&rig, &opts, 0);
	for (i = 0; i < opts.size; i++) {
		struct virtq_slot *slot = virtq_slot_at(rig.vq, i);

		assert_int_equal((uintptr_t)slot % 64, 0);
		assert_int_equal((uintptr_t)slot->ctx % 16, 0);
		assert_ptr_equal(virtq_slot_from_ctx(slot->ctx), slot);
		for (j = 0; j < opts.ctx_size; j++)
			assert_int_equal(slot->ctx[j], 0);
		memset(slot->ctx, i, opts.ctx_size);
	}
	/* The user's bytes stay, whatever comes and goes. */
	for (i = 0; i < opts.size; i++) {
		struct virtq_slot *slot;

		rig_offer_small(&rig, i);
		slot = rig_pop(&rig);
		assert_ptr_equal(slot, virtq_slot_at(rig.vq, i));
		assert_int_equal(slot->head, i);
		for (j = 0; j < opts.ctx_size; j++)
			assert_int_equal(slot->ctx[j], i);
		virtq_push(rig.vq, slot, 0);
	}
	rig_close(&rig);
}

/* ---- layouts ---- */

static void
test_request_of_three(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	rig_open(&rig, 8);
	rig_desc(&rig, 5, A_GPA, 16, NEXT, 2);
	rig_desc(&rig, 2, C_GPA, 4096, NEXT | WRITE, 7);
	rig_desc(&rig, 7, D_GPA + D_SIZE - 1, 1, WRITE, 0);
	rig_offer(&rig, 5);
	slot = rig_pop(&rig);
	assert_int_equal(slot->head, 5);
	assert_int_equal(slot->readable_count, 1);
	assert_int_equal(slot->writable_count, 2);
	assert_int_equal(slot->readable_bytes, 16);
	assert_int_equal(slot->writable_bytes, 4097);
	assert_ptr_equal(slot->iov, slot->inline_iov);
	rig_expect_iov(&rig, &slot->iov[0], A_GPA, 16);
	rig_expect_iov(&rig, &slot->iov[1], C_GPA, 4096);
	rig_expect_iov(&rig, &slot->iov[2], D_GPA + D_SIZE - 1, 1);
	assert_int_equal(virtq_in_flight(rig.vq), 1);
	virtq_push(rig.vq, slot, 4097);
	assert_int_equal(virtq_in_flight(rig.vq), 0);
	assert_int_equal(rig.used->idx, 0);
	assert_true(virtq_publish(rig.vq));
	rig_expect_used(&rig, 5, 4097);
	rig_close(&rig);
}

/* Header, data and status cut into buffers in every way, as long as a table can say it. */
static void
test_layouts(void **state)
{
	static const struct {
		const char *what;
		uint16_t readable[20], writable[20]; /* lengths, up to the first 0 */
	} layouts[] = {
		{"header, data, status", {16}, {512, 1}},
		{"data and status merged", {16}, {513}},
		{"header in two", {8, 8}, {512, 1}},
		{"header byte by byte", {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {512, 1}},
		{"header and data merged", {528}, {1}},
		{"header cut in the middle of the data", {20, 508}, {1}},
		{"everything byte by byte",
		 {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		 {1, 1, 1, 1, 1, 1, 1, 1, 1}},
		{"readable only", {16, 3}, {0}},
		{"writable only", {0}, {1, 20}},
		{"as many as are inline", {1, 2, 3, 4}, {5, 6, 7, 8}},
		{"one more", {1, 2, 3, 4}, {5, 6, 7, 8, 9}},
	};
	int indirect;
	size_t i;

	(void)state;
	for (i = 0; i < 2 * ARRAY_SIZE(layouts); i++) {
		const uint16_t *readable = layouts[i / 2].readable,
			       *writable = layouts[i / 2].writable;
		struct virtq_slot *slot;
		struct rig rig;
		uint64_t gpa = A_GPA;
		uint32_t count = 0, readable_count, j;

		indirect = i % 2;
		rig_open(&rig, 64);
		for (; readable[count]; count++) {
			rig_table_desc(&rig, TABLE, count, gpa, readable[count], NEXT, count + 1);
			gpa += readable[count];
		}
		readable_count = count;
		for (; writable[count - readable_count]; count++) {
			uint16_t len = writable[count - readable_count];

			rig_table_desc(&rig, TABLE, count, gpa, len, NEXT | WRITE, count + 1);
			gpa += len;
		}
		((struct vring_desc *)rig_pointer(&rig, TABLE))[count - 1].flags &= ~NEXT;
		if (indirect)
			rig_desc(&rig, 0, TABLE, count * 16, INDIRECT, 0);
		else
			memcpy(rig.desc, rig_pointer(&rig, TABLE), count * 16);
		rig_offer(&rig, 0);

		slot = rig_pop(&rig);
		if (slot->readable_count != readable_count ||
		    slot->writable_count != count - readable_count)
			fail_msg("%s: %u %u", layouts[i / 2].what, slot->readable_count,
				 slot->writable_count);
		assert_int_equal(slot->readable_bytes + slot->writable_bytes, gpa - A_GPA);
		gpa = A_GPA;
		for (j = 0; j < count; j++) {
			uint16_t len =
				j < readable_count ? readable[j] : writable[j - readable_count];

			rig_expect_iov(&rig, &slot->iov[j], gpa, len);
			gpa += len;
		}
		assert_true((slot->iov == slot->inline_iov) == (count <= VIRTQ_INLINE_IOVS));
		virtq_push(rig.vq, slot, 0);
		assert_ptr_equal(slot->iov, slot->inline_iov);
		rig_close(&rig);
	}
}

/* A buffer from the last byte of A over the whole of B to the first byte of C. */
static void
test_buffer_over_borders(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	rig_open(&rig, 4);
	rig_desc(&rig, 0, A_GPA, 16, NEXT, 1);
	rig_desc(&rig, 1, B_GPA - 1, B_SIZE + 2, NEXT | WRITE, 2);
	rig_desc(&rig, 2, C_END - 1, 1, WRITE, 0);
	rig_offer(&rig, 0);
	slot = rig_pop(&rig);
	assert_int_equal(slot->readable_count, 1);
	assert_int_equal(slot->writable_count, 4);
	assert_int_equal(slot->writable_bytes, B_SIZE + 3);
	rig_expect_iov(&rig, &slot->iov[1], B_GPA - 1, 1);
	rig_expect_iov(&rig, &slot->iov[2], B_GPA, B_SIZE);
	rig_expect_iov(&rig, &slot->iov[3], C_GPA, 1);
	rig_expect_iov(&rig, &slot->iov[4], C_END - 1, 1);
	rig_close(&rig);
}

/* The border falls on each place of the inline array, its end included. */
static void
test_borders_at_the_end_of_inline_room(void **state)
{
	uint16_t before, j;

	(void)state;
	for (before = 0; before < 2 * VIRTQ_INLINE_IOVS; before++) {
		struct virtq_slot *slot;
		struct rig rig;

		rig_open(&rig, 32);
		for (j = 0; j < before; j++)
			rig_desc(&rig, j, A_GPA + j, 1, NEXT, j + 1);
		rig_desc(&rig, before, B_GPA - 1, B_SIZE + 2, WRITE, 0);
		rig_offer(&rig, 0);
		slot = rig_pop(&rig);
		assert_int_equal(slot->readable_count, before);
		assert_int_equal(slot->writable_count, 3);
		for (j = 0; j < before; j++)
			rig_expect_iov(&rig, &slot->iov[j], A_GPA + j, 1);
		rig_expect_iov(&rig, &slot->iov[before], B_GPA - 1, 1);
		rig_expect_iov(&rig, &slot->iov[before + 1], B_GPA, B_SIZE);
		rig_expect_iov(&rig, &slot->iov[before + 2], C_GPA, 1);
		assert_true((slot->iov == slot->inline_iov) == (before + 3 <= VIRTQ_INLINE_IOVS));
		rig_close(&rig);
	}
}

/* ---- indirect tables ---- */

/*
 * Tables at any alignment, and across borders in the middle of an entry, of a field, and between
 * entries.
 */
static void
test_table_anywhere(void **state)
{
	static const uint32_t counts[] = {1, 3, 8};
	uint64_t table;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		for (table = B_GPA - 8 * 16 - 1; table <= C_GPA + 17; table++) {
			struct virtq_slot *slot;
			struct rig rig;
			uint32_t j;

			rig_open(&rig, 8);
			for (j = 0; j < counts[i]; j++)
				rig_table_desc(&rig, table, j, A_GPA + 100 * j, j + 1,
					       j + 1 < counts[i] ? NEXT | WRITE : WRITE, j + 1);
			rig_desc(&rig, 3, table, counts[i] * 16, INDIRECT, 0);
			rig_offer(&rig, 3);
			slot = rig_pop(&rig);
			assert_int_equal(slot->head, 3);
			assert_int_equal(slot->readable_count, 0);
			assert_int_equal(slot->writable_count, counts[i]);
			for (j = 0; j < counts[i]; j++)
				rig_expect_iov(&rig, &slot->iov[j], A_GPA + 100 * j, j + 1);
			rig_close(&rig);
		}
	}
}

/* The table's last byte is the last one of a region, or of the address space. */
static void
test_table_at_the_end_of_memory(void **state)
{
	static const uint64_t ends[] = {C_END, 0};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(ends); i++) {
		uint64_t table = ends[i] - 48;
		struct virtq_slot *slot;
		struct rig rig;

		rig_open(&rig, 8);
		rig_table_desc(&rig, table, 0, A_GPA, 16, NEXT, 2);
		rig_table_desc(&rig, table, 2, A_GPA, 32, 0, 0);
		rig_desc(&rig, 0, table, 48, INDIRECT, 0);
		rig_offer(&rig, 0);
		slot = rig_pop(&rig);
		assert_int_equal(slot->readable_bytes, 48);
		rig_close(&rig);
	}
}

static void
test_longest_chains(void **state)
{
	static const struct {
		uint16_t size;
		uint32_t max_segments, descs;
	} cases[] = {{1, 0, 1},     {1, 128, 128},   {4, 130, 130},
		     {256, 0, 256}, {128, 130, 130}, {64, 2048, 2048}};
	size_t i;
	uint32_t j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtq_opts opts = {.size = cases[i].size,
					  .max_segments = cases[i].max_segments,
					  .indirect = true};
		uint32_t descs = cases[i].descs;
		struct virtq_slot *slot;
		struct rig rig;

		rig_open_with(&rig, &opts, 0);
		for (j = 0; j < descs; j++)
			rig_table_desc(&rig, C_GPA, j, A_GPA + j, 2, j + 1 < descs ? NEXT : 0,
				       j + 1);
		rig_desc(&rig, 0, C_GPA, descs * 16, INDIRECT, 0);
		rig_offer(&rig, 0);
		slot = rig_pop(&rig);
		assert_int_equal(slot->readable_count, descs);
		assert_int_equal(slot->readable_bytes, 2 * descs);
		for (j = 0; j < descs; j++)
			rig_expect_iov(&rig, &slot->iov[j], A_GPA + j, 2);
		rig_close(&rig);
	}
}

static void
test_longest_direct_chain(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;
	uint32_t i;

	(void)state;
	rig_open(&rig, VIRTQ_MAX_SIZE);
	for (i = 0; i < VIRTQ_MAX_SIZE; i++)
		rig_desc(&rig, i, A_GPA + i, 1, i > 0 ? NEXT : 0, i - 1);
	rig_offer(&rig, VIRTQ_MAX_SIZE - 1);
	slot = rig_pop(&rig);
	assert_int_equal(slot->readable_count, VIRTQ_MAX_SIZE);
	for (i = 0; i < VIRTQ_MAX_SIZE; i++)
		rig_expect_iov(&rig, &slot->iov[i], A_GPA + VIRTQ_MAX_SIZE - 1 - i, 1);
	rig_close(&rig);
}

/* ---- rings ---- */

/*
 * Many times round rings of all sizes, `depth` chains at a time, pushed in reverse order, from just
 * below the wrap.
 */
static void
go_round_with(struct virtq_opts *opts, uint32_t depth, uint32_t chains)
{
	struct virtq_slot **slots = calloc(depth, sizeof(*slots));
	uint16_t size = opts->size;
	struct rig rig;
	uint32_t done, i;

	assert_non_null(slots);
	rig_open_with(&rig, opts, 65530);
	for (i = 0; i < size; i++)
		rig_desc(&rig, i, A_GPA + i, 1, i % 2 ? WRITE : 0, 0);
	for (done = 0; done < chains; done += depth) {
		for (i = 0; i < depth; i++)
			rig_offer(&rig, (done + i) % size);
		assert_int_equal(virtq_pop(rig.vq, slots, depth), depth);
		assert_int_equal(virtq_in_flight(rig.vq), depth);
		for (i = 0; i < depth; i++)
			assert_int_equal(slots[i]->head, (done + i) % size);
		assert_int_equal(virtq_pop(rig.vq, slots + depth - 1, 1), 0);
		for (i = depth; i-- > 0;)
			virtq_push(rig.vq, slots[i], i);
		virtq_publish(rig.vq);
		for (i = depth; i-- > 0;)
			rig_expect_used(&rig, (done + i) % size, i);
		assert_int_equal(rig.used_seen, rig.used->idx);
		assert_int_equal(virtq_base(rig.vq), rig.avail->idx);
	}
	assert_null(virtq_broken(rig.vq));
	rig_close(&rig);
	free(slots);
}

static void
go_round(uint16_t size, uint32_t depth, uint32_t chains)
{
	struct virtq_opts opts = {.size = size};

	go_round_with(&opts, depth, chains);
	rig_track(&opts);
	go_round_with(&opts, depth, chains);
	free(opts.inflight);
}

static void
test_round_and_round(void **state)
{
	(void)state;
	go_round(1, 1, 66000);
	go_round(2, 1, 66000);
	go_round(2, 2, 66000);
	go_round(256, 1, 66000);
	go_round(256, 100, 66000);
	go_round(256, 256, 66000);
	go_round(32768, 32768, 3 * 32768);
	go_round(32768, 33, 66000);
}

static void
test_pop_takes_at_most_max(void **state)
{
	struct virtq_slot *slots[64];
	struct rig rig;
	uint16_t i;

	(void)state;
	rig_open(&rig, 64);
	for (i = 0; i < 64; i++)
		rig_offer_small(&rig, i);
	assert_int_equal(virtq_pop(rig.vq, slots, 0), 0);
	assert_int_equal(virtq_pop(rig.vq, slots, 1), 1);
	assert_int_equal(virtq_pop(rig.vq, slots + 1, 40), 40);
	assert_int_equal(virtq_base(rig.vq), 41);
	assert_int_equal(virtq_pop(rig.vq, slots + 41, 40), 23);
	for (i = 0; i < 64; i++)
		assert_int_equal(slots[i]->head, i);
	assert_int_equal(virtq_in_flight(rig.vq), 64);
	assert_int_equal(virtq_pop(rig.vq, slots, 64), 0);
	rig_close(&rig);
}

/*
 * A device that goes on: its place in the avail ring is given, the one in the used ring is found
 * there.
 */
static void
test_start_in_the_middle(void **state)
{
	struct virtq_opts opts = {.size = 4};
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	rig_open_with(&rig, &opts, 65535);
	virtq_destroy(rig.vq);
	rig.avail->idx = 100;
	rig.opts.last_avail = 99;
	rig.used->idx = 97;
	rig.used_seen = 97;
	assert_int_equal(virtq_create(&rig.opts, &rig.vq), 0);
	assert_int_equal(rig.used->idx, 97);
	rig.avail->ring[99 % 4] = 2;
	rig_desc(&rig, 2, A_GPA, 1, 0, 0);
	slot = rig_pop(&rig);
	/* What the driver writes there later is nothing to us. */
	rig.used->idx = 5;
	virtq_push(rig.vq, slot, 11);
	assert_true(virtq_publish(rig.vq));
	assert_int_equal(rig.used->idx, 98);
	rig_expect_used(&rig, 2, 11);
	rig_close(&rig);
}

static void
test_same_head_twice(void **state)
{
	struct virtq_slot *slots[4];
	struct rig rig;

	(void)state;
	/* In one batch, */
	rig_open(&rig, 4);
	rig_offer_small(&rig, 1);
	rig_offer(&rig, 1);
	assert_int_equal(virtq_pop(rig.vq, slots, 4), 1);
	assert_string_equal(virtq_broken(rig.vq), "head that is in flight already");
	rig_close(&rig);
	/*
	 * and one that was pushed, but not yet published: it is not the driver's, but does no harm.
	 */
	rig_open(&rig, 4);
	rig_offer_small(&rig, 1);
	virtq_push(rig.vq, rig_pop(&rig), 0);
	rig_offer(&rig, 1);
	assert_int_equal(rig_pop(&rig)->head, 1);
	rig_close(&rig);
}

/* ---- room for long chains ---- */

/* Longer chains than the pool has room for wait until others are pushed, and nothing breaks. */
static void
test_long_chains_wait_for_room(void **state)
{
	struct virtq_opts opts = {.size = 32768, .max_segments = VIRTQ_MAX_SIZE};
	struct virtq_slot **slots = calloc(64, sizeof(*slots));
	struct rig rig;
	uint32_t i, popped;

	(void)state;
	assert_non_null(slots);
	rig_open_with(&rig, &opts, 0);
	for (i = 0; i < 9; i++)
		rig_desc(&rig, 1000 + i, A_GPA, 1, i < 8 ? NEXT : 0, 1000 + i + 1);
	for (i = 0; i < 64; i++) {
		rig_desc(&rig, i, A_GPA + i, 1, NEXT, 1000);
		rig_offer(&rig, i);
	}
	popped = virtq_pop(rig.vq, slots, 64);
	assert_in_range(popped, 1, 63);
	assert_null(virtq_broken(rig.vq));
	assert_int_equal(virtq_base(rig.vq), popped);
	assert_int_equal(virtq_in_flight(rig.vq), popped);
	assert_int_equal(virtq_pop(rig.vq, slots + popped, 64 - popped), 0);
	assert_false(virtq_enable_kicks(rig.vq));
	for (i = 0; i < 64; i++) {
		assert_int_equal(slots[i]->head, i);
		assert_int_equal(slots[i]->readable_count, 10);
		rig_expect_iov(&rig, &slots[i]->iov[0], A_GPA + i, 1);
		virtq_push(rig.vq, slots[i], 0);
		if (popped < 64) {
			assert_int_equal(virtq_pop(rig.vq, slots + popped, 64 - popped), 1);
			popped++;
		}
	}
	assert_int_equal(virtq_in_flight(rig.vq), 0);
	assert_null(virtq_broken(rig.vq));
	rig_close(&rig);
	free(slots);
}

/* Every slot of a usual queue can hold a longest chain at once. */
static void
test_all_slots_long(void **state)
{
	struct virtq_opts opts = {.size = 128, .max_segments = 130, .indirect = true};
	struct virtq_slot *slots[128];
	struct rig rig;
	uint32_t i, j;

	(void)state;
	rig_open_with(&rig, &opts, 0);
	for (i = 0; i < 130; i++)
		rig_table_desc(&rig, TABLE, i, A_GPA + i, 1, i < 129 ? NEXT : 0, i + 1);
	for (i = 0; i < 128; i++) {
		rig_desc(&rig, i, TABLE, 130 * 16, INDIRECT, 0);
		rig_offer(&rig, i);
	}
	assert_int_equal(virtq_pop(rig.vq, slots, 128), 128);
	for (i = 0; i < 128; i++)
		for (j = 0; j < 130; j++)
			rig_expect_iov(&rig, &slots[i]->iov[j], A_GPA + j, 1);
	rig_close(&rig);
}

/* ---- notifications ---- */

static void
test_publish_asks_the_driver(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 4);
	assert_false(virtq_publish(rig.vq));
	rig_offer_small(&rig, 0);
	virtq_push(rig.vq, rig_pop(&rig), 0);
	assert_true(virtq_publish(rig.vq));
	assert_false(virtq_publish(rig.vq));

	rig.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	rig_offer_small(&rig, 0);
	virtq_push(rig.vq, rig_pop(&rig), 0);
	assert_false(virtq_publish(rig.vq));
	assert_int_equal(rig.used->idx, 2);

	rig.avail->flags = (uint16_t)~VRING_AVAIL_F_NO_INTERRUPT;
	rig_offer_small(&rig, 0);
	virtq_push(rig.vq, rig_pop(&rig), 0);
	assert_true(virtq_publish(rig.vq));
	rig_close(&rig);
}

static void
test_kicks_on_and_off(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	rig_open(&rig, 4);
	/* Found as another device left it. */
	rig.used->flags = VRING_USED_F_NO_NOTIFY;
	assert_true(virtq_enable_kicks(rig.vq));
	assert_int_equal(rig.used->flags, 0);
	assert_false(virtq_disable_kicks(rig.vq));
	assert_int_equal(rig.used->flags, VRING_USED_F_NO_NOTIFY);
	/* Off already: the driver's line is left alone. */
	rig.used->flags = 0x1234;
	virtq_disable_kicks(rig.vq);
	assert_int_equal(rig.used->flags, 0x1234);
	rig.used->flags = VRING_USED_F_NO_NOTIFY;

	/*
	 * The driver offers a chain after our last look and before kicks are on: it saw no reason
	 * to kick.
	 */
	assert_int_equal(virtq_pop(rig.vq, &slot, 1), 0);
	rig_offer_small(&rig, 0);
	assert_int_equal(rig.used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(virtq_enable_kicks(rig.vq));
	assert_int_equal(rig.used->flags, VRING_USED_F_NO_NOTIFY);
	virtq_push(rig.vq, rig_pop(&rig), 0);

	/* After kicks are on: it does. */
	assert_true(virtq_enable_kicks(rig.vq));
	rig_offer_small(&rig, 1);
	assert_int_equal(rig.used->flags, 0);
	assert_true(virtq_disable_kicks(rig.vq));
	assert_false(virtq_disable_kicks(rig.vq)); /* that kick is known */
	/* Chains in flight do not keep anybody awake. */
	assert_int_equal(virtq_pop(rig.vq, &slot, 1), 1);
	assert_true(virtq_enable_kicks(rig.vq));
	rig_close(&rig);
}

/* What a wild index means is found out by the next pop, not by going to sleep. */
static void
test_jump_keeps_awake(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	rig_open(&rig, 4);
	rig.avail->idx = 5;
	assert_false(virtq_enable_kicks(rig.vq));
	assert_null(virtq_broken(rig.vq));
	assert_int_equal(virtq_pop(rig.vq, &slot, 1), 0);
	assert_non_null(virtq_broken(rig.vq));
	assert_true(virtq_enable_kicks(rig.vq));
	rig_close(&rig);
}

/* A queue that is given up leaves its rings alone, and its slots are freed as ever. */
static void
test_abandon(void **state)
{
	struct virtq_slot *slots[4];
	struct vring_used *before;
	struct virtq_layout layout;
	struct rig rig;
	uint16_t i;

	(void)state;
	rig_open(&rig, 4);
	layout = virtq_layout(4, false, false);
	before = calloc(1, layout.used.bytes);
	assert_non_null(before);
	for (i = 0; i < 4; i++)
		rig_offer_small(&rig, i);
	assert_int_equal(virtq_pop(rig.vq, slots, 3), 3);
	virtq_push(rig.vq, slots[0], 5);
	memcpy(before, rig.used, layout.used.bytes);
	virtq_abandon(rig.vq);
	virtq_push(rig.vq, slots[2], 5);
	assert_int_equal(virtq_in_flight(rig.vq), 1);
	assert_false(virtq_publish(rig.vq));
	virtq_push(rig.vq, slots[1], 5);
	assert_int_equal(virtq_in_flight(rig.vq), 0);
	assert_int_equal(virtq_pop(rig.vq, slots, 1), 0);
	assert_null(virtq_broken(rig.vq));
	virtq_disable_kicks(rig.vq);
	assert_true(virtq_enable_kicks(rig.vq));
	assert_memory_equal(before, rig.used, layout.used.bytes);
	free(before);
	rig_close(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_checks),
		cmocka_unit_test(test_create_needs_everything),
		cmocka_unit_test(test_slots),
		cmocka_unit_test(test_request_of_three),
		cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_buffer_over_borders),
		cmocka_unit_test(test_borders_at_the_end_of_inline_room),
		cmocka_unit_test(test_table_anywhere),
		cmocka_unit_test(test_table_at_the_end_of_memory),
		cmocka_unit_test(test_longest_chains),
		cmocka_unit_test(test_longest_direct_chain),
		cmocka_unit_test(test_round_and_round),
		cmocka_unit_test(test_pop_takes_at_most_max),
		cmocka_unit_test(test_start_in_the_middle),
		cmocka_unit_test(test_same_head_twice),
		cmocka_unit_test(test_long_chains_wait_for_room),
		cmocka_unit_test(test_all_slots_long),
		cmocka_unit_test(test_publish_asks_the_driver),
		cmocka_unit_test(test_kicks_on_and_off),
		cmocka_unit_test(test_jump_keeps_awake),
		cmocka_unit_test(test_abandon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
