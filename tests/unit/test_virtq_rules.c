/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/* Each rule for chains broken once, and what looks odd but is allowed. */
#include "virtq_rig.h"

#define SIZE      8
#define TABLE     (A_GPA + 0x8000)
#define GOOD_HEAD 7 /* offered before the chain under test, whose head is 0 */

struct rule {
	const char *name;
	const char *reason; /* NULL: allowed */
	void (*offer)(struct rig *rig);
	bool no_indirect;
	uint32_t max_segments;
	/* If allowed: */
	uint32_t readable_count, writable_count;
	uint64_t readable_bytes, writable_bytes;
};

/* ---- the avail ring ---- */

static void
offer_jump(struct rig *rig)
{
	rig->avail->idx += SIZE + 1;
}

static void
offer_jump_back(struct rig *rig)
{
	rig->avail->idx--;
}

static void
offer_wild_head(struct rig *rig)
{
	rig_offer(rig, SIZE);
}

static void
offer_wildest_head(struct rig *rig)
{
	rig_offer(rig, UINT16_MAX);
}

static void
offer_head_in_flight(struct rig *rig)
{
	rig_offer(rig, GOOD_HEAD);
}

/* ---- chains in the queue's table ---- */

static void
offer_wild_next(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT, SIZE);
	rig_offer(rig, 0);
}

static void
offer_wildest_next(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT, UINT16_MAX);
	rig_offer(rig, 0);
}

static void
offer_loop_to_itself(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT, 0);
	rig_offer(rig, 0);
}

static void
offer_loop_of_two(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT | WRITE, 1);
	rig_desc(rig, 1, A_GPA, 16, NEXT | WRITE, 0);
	rig_offer(rig, 0);
}

static void
offer_loop_of_empty_buffers(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 0, NEXT, 1);
	rig_desc(rig, 1, A_GPA, 0, NEXT, 0);
	rig_offer(rig, 0);
}

static void
offer_whole_table(struct rig *rig)
{
	uint16_t i;

	for (i = 0; i < SIZE; i++)
		rig_desc(rig, i, A_GPA + i, 1, i < SIZE - 1 ? NEXT : 0, i + 1);
	rig_offer(rig, 0);
}

static void
offer_readable_after_writable(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT | WRITE, 1);
	rig_desc(rig, 1, A_GPA, 16, 0, 0);
	rig_offer(rig, 0);
}

static void
offer_empty_readable_after_writable(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT, 1);
	rig_desc(rig, 1, A_GPA, 16, NEXT | WRITE, 2);
	rig_desc(rig, 2, A_GPA, 0, 0, 0);
	rig_offer(rig, 0);
}

static void
offer_buffer_at_0(struct rig *rig)
{
	rig_desc(rig, 0, 0, 16, WRITE, 0);
	rig_offer(rig, 0);
}

static void
offer_buffer_past_end(struct rig *rig)
{
	rig_desc(rig, 0, C_END - 16, 17, WRITE, 0);
	rig_offer(rig, 0);
}

static void
offer_buffer_that_wraps(struct rig *rig)
{
	rig_desc(rig, 0, UINT64_MAX - 15, 17, WRITE, 0);
	rig_offer(rig, 0);
}

static void
offer_huge_buffer(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, UINT32_MAX, WRITE, 0);
	rig_offer(rig, 0);
}

static void
offer_bytes(struct rig *rig, uint64_t bytes)
{
	uint16_t i = 0;

	for (; bytes > 0; i++) {
		uint32_t len = bytes < 1u << 31 ? bytes : 1u << 31;

		bytes -= len;
		rig_desc(rig, i, BIG_GPA, len, WRITE | (bytes > 0 ? NEXT : 0), i + 1);
	}
	rig_offer(rig, 0);
}

static void
offer_more_than_4_gib(struct rig *rig)
{
	offer_bytes(rig, (1ULL << 32) + 1);
}

static void
offer_4_gib(struct rig *rig)
{
	offer_bytes(rig, 1ULL << 32);
}

static void
offer_more_regions_than_fit(struct rig *rig)
{
	uint16_t i;

	/* 40 of them cross two borders each: 120 iovecs, and 40 + GUEST_MEM_MAX_REGIONS fit. */
	for (i = 0; i < 40; i++)
		rig_table_desc(rig, TABLE, i, B_GPA - 1, B_SIZE + 2, i < 39 ? NEXT : 0, i + 1);
	rig_desc(rig, 0, TABLE, 40 * 16, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_many_regions(struct rig *rig)
{
	uint16_t i;

	for (i = 0; i < 30; i++)
		rig_table_desc(rig, TABLE, i, B_GPA - 1, B_SIZE + 2, i < 29 ? NEXT : 0, i + 1);
	rig_desc(rig, 0, TABLE, 30 * 16, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_unknown_flags(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 16, NEXT | 0xfff8, 1);
	rig_desc(rig, 1, A_GPA, 32, WRITE | 0xfff8, 0);
	rig_offer(rig, 0);
}

static void
offer_empty_buffers(struct rig *rig)
{
	rig_desc(rig, 0, A_GPA, 0, NEXT, 1);
	rig_desc(rig, 1, 0, 0, NEXT, 2); /* nothing is there */
	rig_desc(rig, 2, A_GPA, 5, NEXT, 3);
	rig_desc(rig, 3, UINT64_MAX, 0, NEXT | WRITE, 4);
	rig_desc(rig, 4, A_GPA, 7, WRITE, 0);
	rig_offer(rig, 0);
}

static void
offer_only_empty_buffer(struct rig *rig)
{
	rig_desc(rig, 0, 0, 0, 0, 0);
	rig_offer(rig, 0);
}

/* ---- indirect tables ---- */

/* A readable and a writable buffer in a table of two. */
static void
offer_table(struct rig *rig, uint64_t table, uint32_t len, uint16_t flags)
{
	rig_table_desc(rig, table, 0, A_GPA, 16, NEXT, 1);
	rig_table_desc(rig, table, 1, A_GPA, 32, WRITE, 0);
	rig_desc(rig, 0, table, len, flags, 1);
	rig_offer(rig, 0);
}

static void
offer_indirect(struct rig *rig)
{
	offer_table(rig, TABLE, 32, INDIRECT);
}

static void
offer_indirect_and_write(struct rig *rig)
{
	offer_table(rig, TABLE, 32, INDIRECT | WRITE);
}

static void
offer_indirect_and_next(struct rig *rig)
{
	rig_desc(rig, 1, A_GPA, 16, 0, 0);
	offer_table(rig, TABLE, 32, INDIRECT | NEXT);
}

static void
offer_empty_table(struct rig *rig)
{
	offer_table(rig, TABLE, 0, INDIRECT);
}

static void
offer_table_of_odd_length(struct rig *rig)
{
	offer_table(rig, TABLE, 33, INDIRECT);
}

static void
offer_table_of_less_than_one(struct rig *rig)
{
	offer_table(rig, TABLE, 15, INDIRECT);
}

static void
offer_table_at_the_bound(struct rig *rig)
{
	offer_table(rig, TABLE, SIZE * 16, INDIRECT);
}

static void
offer_table_over_the_bound(struct rig *rig)
{
	offer_table(rig, TABLE, (SIZE + 1) * 16, INDIRECT);
}

static void
offer_longest_table(struct rig *rig)
{
	offer_table(rig, TABLE, UINT32_MAX - 15, INDIRECT);
}

static void
offer_table_outside(struct rig *rig)
{
	rig_desc(rig, 0, C_END, 32, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_table_over_the_end(struct rig *rig)
{
	rig_desc(rig, 0, C_END - 16, 32, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_table_that_wraps(struct rig *rig)
{
	rig_desc(rig, 0, UINT64_MAX - 15, 32, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_table_in_a_table(struct rig *rig)
{
	rig_table_desc(rig, TABLE, 0, TABLE + 64, 16, INDIRECT, 0);
	rig_table_desc(rig, TABLE + 64, 0, A_GPA, 16, 0, 0);
	rig_desc(rig, 0, TABLE, 16, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_table_in_a_scattered_table(struct rig *rig)
{
	rig_table_desc(rig, TABLE + 1, 0, TABLE + 64, 16, INDIRECT, 0);
	rig_desc(rig, 0, TABLE + 1, 16, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_wild_next_in_a_table(struct rig *rig)
{
	rig_table_desc(rig, TABLE, 0, A_GPA, 16, NEXT, 2);
	rig_table_desc(rig, TABLE, 1, A_GPA, 16, 0, 0);
	rig_table_desc(rig, TABLE, 2, A_GPA, 16, 0, 0);
	rig_desc(rig, 0, TABLE, 32, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_loop_in_a_table(struct rig *rig)
{
	rig_table_desc(rig, TABLE, 0, A_GPA, 16, NEXT, 1);
	rig_table_desc(rig, TABLE, 1, A_GPA, 16, NEXT, 0);
	rig_desc(rig, 0, TABLE, 32, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_readable_table_after_writable(struct rig *rig)
{
	rig_table_desc(rig, TABLE, 0, A_GPA, 16, 0, 0);
	rig_desc(rig, 0, A_GPA, 16, NEXT | WRITE, 1);
	rig_desc(rig, 1, TABLE, 16, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_bad_buffer_in_a_table(struct rig *rig)
{
	rig_table_desc(rig, TABLE, 0, C_END, 1, 0, 0);
	rig_desc(rig, 0, TABLE, 16, INDIRECT, 0);
	rig_offer(rig, 0);
}

static void
offer_table_after_direct(struct rig *rig)
{
	rig_table_desc(rig, TABLE, 0, A_GPA, 8, 0, 0);
	rig_table_desc(rig, TABLE, 0, A_GPA + 100, 200, NEXT | WRITE, 2);
	rig_table_desc(rig, TABLE, 2, A_GPA, 1, WRITE, 0);
	rig_desc(rig, 0, A_GPA, 16, NEXT, 5);
	rig_desc(rig, 5, TABLE, 48, INDIRECT, 0);
	rig_offer(rig, 0);
}

/* 7 direct ones, one that refers to the table, and `count` in there. */
static void
offer_table_at_the_end(struct rig *rig, uint16_t count)
{
	uint16_t i;

	for (i = 0; i < SIZE - 1; i++)
		rig_desc(rig, i, A_GPA, 1, NEXT, i + 1);
	rig_desc(rig, SIZE - 1, TABLE, count * 16, INDIRECT, 0);
	for (i = 0; i < count; i++)
		rig_table_desc(rig, TABLE, i, A_GPA, 1, i < count - 1 ? NEXT : 0, i + 1);
	rig_offer(rig, 0);
}

static void
offer_just_enough_after_direct(struct rig *rig)
{
	offer_table_at_the_end(rig, 1);
}

static void
offer_too_many_after_direct(struct rig *rig)
{
	offer_table_at_the_end(rig, 2);
}

#define OUTSIDE "buffer outside guest memory"
#define LOOP    "descriptor loop, or too many descriptors"
#define ORDER   "readable buffer after a writable one"
#define NESTED  "indirect descriptor in an indirect table"
#define LENGTH  "indirect table of a wrong length"
#define NO_HEAD "head outside the descriptor table"
#define NO_NEXT "next descriptor outside the table"
#define NO_ROOM "indirect table of too many descriptors"
#define NOWHERE "indirect table outside guest memory"

#define RULE(offer, reason)                                                                        \
	{                                                                                          \
#offer, reason, offer_##offer, false, 0, 0, 0, 0, 0                                \
	}

static const struct rule rules[] = {
	RULE(jump, "avail index jumps"),
	RULE(jump_back, "avail index jumps"),
	RULE(wild_head, NO_HEAD),
	RULE(wildest_head, NO_HEAD),
	RULE(head_in_flight, "head that is in flight already"),
	RULE(wild_next, NO_NEXT),
	RULE(wildest_next, NO_NEXT),
	RULE(loop_to_itself, LOOP),
	RULE(loop_of_two, LOOP),
	RULE(loop_of_empty_buffers, LOOP),
	RULE(readable_after_writable, ORDER),
	RULE(empty_readable_after_writable, ORDER),
	RULE(buffer_at_0, OUTSIDE),
	RULE(buffer_past_end, OUTSIDE),
	RULE(buffer_that_wraps, OUTSIDE),
	RULE(huge_buffer, OUTSIDE),
	RULE(more_than_4_gib, "chain longer than 4 GiB"),
	{"more regions than fit", "chain of too many buffers", offer_more_regions_than_fit, false,
	 40, 0, 0, 0, 0},
	{"indirect not negotiated", "indirect descriptor without VIRTIO_F_INDIRECT_DESC",
	 offer_indirect, true, 0, 0, 0, 0, 0},
	RULE(indirect_and_next, "indirect descriptor with a next one"),
	RULE(empty_table, LENGTH),
	RULE(table_of_odd_length, LENGTH),
	RULE(table_of_less_than_one, LENGTH),
	RULE(table_over_the_bound, NO_ROOM),
	RULE(longest_table, NO_ROOM),
	RULE(table_outside, NOWHERE),
	RULE(table_over_the_end, NOWHERE),
	RULE(table_that_wraps, NOWHERE),
	RULE(table_in_a_table, NESTED),
	RULE(table_in_a_scattered_table, NESTED),
	RULE(wild_next_in_a_table, NO_NEXT),
	RULE(loop_in_a_table, LOOP),
	RULE(readable_table_after_writable, ORDER),
	RULE(bad_buffer_in_a_table, OUTSIDE),
	RULE(too_many_after_direct, LOOP),
	/* Allowed. */
	{"the whole table", NULL, offer_whole_table, false, 0, 8, 0, 8, 0},
	{"4 GiB", NULL, offer_4_gib, false, 0, 0, 2, 0, 1ULL << 32},
	{"many regions", NULL, offer_many_regions, false, 40, 90, 0, 30 * (B_SIZE + 2), 0},
	{"unknown flags", NULL, offer_unknown_flags, false, 0, 1, 1, 16, 32},
	{"empty buffers", NULL, offer_empty_buffers, false, 0, 1, 1, 5, 7},
	{"only an empty buffer", NULL, offer_only_empty_buffer, false, 0, 0, 0, 0, 0},
	{"indirect", NULL, offer_indirect, false, 0, 1, 1, 16, 32},
	{"indirect and write", NULL, offer_indirect_and_write, false, 0, 1, 1, 16, 32},
	{"table at the bound", NULL, offer_table_at_the_bound, false, 0, 1, 1, 16, 32},
	{"table over the size", NULL, offer_table_over_the_bound, false, SIZE + 1, 1, 1, 16, 32},
	{"table after direct", NULL, offer_table_after_direct, false, 0, 1, 2, 16, 201},
	{"enough after direct", NULL, offer_just_enough_after_direct, false, 0, 8, 0, 8, 0},
	{"more after direct", NULL, offer_too_many_after_direct, false, 9, 9, 0, 9, 0},
};

static void
open_rule(struct rig *rig, const struct rule *rule)
{
	struct virtq_opts opts = {
		.size = SIZE,
		.indirect = !rule->no_indirect,
		.max_segments = rule->max_segments,
		.ctx_size = 8,
	};

	/* Wherever the indexes are, it is the same. */
	rig_open_with(rig, &opts, 65534);
}

static void
check_allowed(struct rig *rig, const struct rule *rule)
{
	struct virtq_slot *slot = NULL;

	rule->offer(rig);
	if (virtq_pop(rig->vq, &slot, 1) != 1)
		fail_msg("%s: %s", rule->name, virtq_broken(rig->vq));
	if (slot->readable_count != rule->readable_count ||
	    slot->writable_count != rule->writable_count ||
	    slot->readable_bytes != rule->readable_bytes ||
	    slot->writable_bytes != rule->writable_bytes)
		fail_msg("%s: %u %u %lu %lu", rule->name, slot->readable_count,
			 slot->writable_count, slot->readable_bytes, slot->writable_bytes);
	assert_int_equal(slot->head, 0);
	assert_null(virtq_broken(rig->vq));
}

static void
check_broken(struct rig *rig, const struct rule *rule)
{
	struct virtq_slot *slots[SIZE];
	struct virtq_slot *good;
	uint32_t at;

	rig_offer_small(rig, GOOD_HEAD);
	good = rig_pop(rig);
	at = virtq_base(rig->vq);
	rule->offer(rig);
	assert_int_equal(virtq_pop(rig->vq, slots, SIZE), 0);
	if (!virtq_broken(rig->vq) || strcmp(virtq_broken(rig->vq), rule->reason) != 0)
		fail_msg("%s: %s", rule->name, virtq_broken(rig->vq));

	/* It stays there, for good, */
	rig_offer_small(rig, 1);
	assert_int_equal(virtq_pop(rig->vq, slots, SIZE), 0);
	assert_string_equal(virtq_broken(rig->vq), rule->reason);
	assert_int_equal(virtq_base(rig->vq), at);
	assert_true(virtq_enable_kicks(rig->vq));
	/* and what was in flight still ends. */
	assert_int_equal(virtq_in_flight(rig->vq), 1);
	virtq_push(rig->vq, good, 0);
	virtq_publish(rig->vq);
	rig_expect_used(rig, GOOD_HEAD, 0);
	assert_int_equal(rig->used_seen, rig->used->idx);
	assert_int_equal(virtq_in_flight(rig->vq), 0);
}

static void
test_rules(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rules); i++) {
		struct rig rig;

		open_rule(&rig, &rules[i]);
		if (rules[i].reason)
			check_broken(&rig, &rules[i]);
		else
			check_allowed(&rig, &rules[i]);
		rig_close(&rig);
	}
}

/* In one pop: what came before the bad chain is popped, what comes after is not. */
static void
test_valid_chain_before_a_bad_one(void **state)
{
	static void (*const offers[])(struct rig * rig) = {
		offer_wild_head,       offer_wild_next,
		offer_loop_of_two,     offer_readable_after_writable,
		offer_buffer_past_end, offer_indirect_and_next,
		offer_table_outside,   offer_table_in_a_table,
		offer_loop_in_a_table,
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(offers); i++) {
		struct virtq_slot *slots[SIZE];
		struct rig rig;

		rig_open(&rig, SIZE);
		rig_offer_small(&rig, GOOD_HEAD - 1);
		rig_offer_small(&rig, GOOD_HEAD);
		offers[i](&rig);
		rig_offer_small(&rig, GOOD_HEAD - 2);
		assert_int_equal(virtq_pop(rig.vq, slots, SIZE), 2);
		assert_int_equal(slots[0]->head, GOOD_HEAD - 1);
		assert_int_equal(slots[1]->head, GOOD_HEAD);
		assert_int_equal(virtq_base(rig.vq), 2);
		assert_int_equal(virtq_in_flight(rig.vq), 2);
		assert_non_null(virtq_broken(rig.vq));
		rig_close(&rig);
	}
}

/* Nothing of the guest's is written by looking at chains, whatever they are. */
static void
test_pop_writes_nothing(void **state)
{
	uint8_t *before = malloc(A_SIZE);
	size_t i;

	(void)state;
	assert_non_null(before);
	for (i = 0; i < ARRAY_SIZE(rules); i++) {
		struct virtq_slot *slots[SIZE];
		struct vring_desc desc[SIZE];
		struct rig rig;

		open_rule(&rig, &rules[i]);
		rules[i].offer(&rig);
		memcpy(before, rig_pointer(&rig, A_GPA), A_SIZE);
		memcpy(desc, rig.desc, sizeof(desc));
		virtq_pop(rig.vq, slots, SIZE);
		assert_memory_equal(before, rig_pointer(&rig, A_GPA), A_SIZE);
		assert_memory_equal(desc, rig.desc, sizeof(desc));
		assert_int_equal(rig.used->flags, 0);
		assert_int_equal(rig.used->idx, 65534);
		rig_close(&rig);
	}
	free(before);
}

/* A long chain that breaks the queue leaves its room to others. */
static void
test_bad_long_chain_leaks_no_room(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;
	int i;

	(void)state;
	rig_open(&rig, 16);
	for (i = 0; i < 15; i++)
		rig_desc(&rig, i, A_GPA, 1, NEXT, i + 1);
	rig_desc(&rig, 15, C_END, 1, 0, 0);
	rig_offer(&rig, 0);
	assert_int_equal(virtq_pop(rig.vq, &slot, 1), 0);
	assert_string_equal(virtq_broken(rig.vq), OUTSIDE);
	assert_ptr_equal(virtq_slot_at(rig.vq, 0)->iov, virtq_slot_at(rig.vq, 0)->inline_iov);
	assert_int_equal(virtq_slot_at(rig.vq, 0)->state, 0);
	rig_close(&rig);
}

static void
test_break_by_hand(void **state)
{
	struct virtq_slot *slot;
	struct rig rig;

	(void)state;
	rig_open(&rig, 4);
	rig_offer_small(&rig, 0);
	assert_null(virtq_broken(rig.vq));
	virtq_break(rig.vq, "no header");
	assert_string_equal(virtq_broken(rig.vq), "no header");
	virtq_break(rig.vq, "second reason");
	assert_string_equal(virtq_broken(rig.vq), "no header");
	assert_int_equal(virtq_pop(rig.vq, &slot, 1), 0);
	assert_true(virtq_enable_kicks(rig.vq));
	rig_close(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_valid_chain_before_a_bad_one),
		cmocka_unit_test(test_pop_writes_nothing),
		cmocka_unit_test(test_bad_long_chain_leaks_no_room),
		cmocka_unit_test(test_break_by_hand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
