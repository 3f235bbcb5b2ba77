/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/* Packed rings: each rule broken once, what looks odd but is allowed, and flags that change. */
#include "virtq_packed_rig.h"

#include <pthread.h>

#define SIZE      8
#define TABLE     (A_GPA + 0x8000)
#define START     65534 /* position */
#define GOOD_ID   7     /* offered before the chain under test */
#define FLIP_POPS 3000

struct rule {
	const char *name;
	const char *reason; /* NULL: allowed */
	void (*offer)(struct packed_rig *packed);
	/* If allowed: */
	uint32_t readable_count, writable_count;
	uint16_t descs;
};

static void
offer_wild_id(struct packed_rig *packed)
{
	packed_put_small(packed, SIZE);
}

static void
offer_wildest_id(struct packed_rig *packed)
{
	packed_put_small(packed, UINT16_MAX);
}

static void
offer_id_in_flight(struct packed_rig *packed)
{
	packed_put_small(packed, GOOD_ID);
}

static void
offer_last_id_in_flight(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 0);
	packed_put(packed, A_GPA, 1, 0, GOOD_ID);
}

static void
offer_wild_last_id(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 0);
	packed_put(packed, A_GPA, 1, 0, SIZE);
}

/* The chain is built elsewhere then: that place has no id. */
static void
offer_wildest_last_id(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, GOOD_ID);
	packed_put(packed, A_GPA, 1, 0, UINT16_MAX);
}

/* One descriptor is in flight: seven are left, and now all eight of the ring have NEXT. */
static void
offer_endless_chain(struct packed_rig *packed)
{
	int i;

	for (i = 0; i < SIZE; i++)
		packed_put(packed, A_GPA, 1, NEXT, 0);
}

/* The eighth is the one in flight, which the driver makes available again. */
static void
offer_chain_into_what_is_in_flight(struct packed_rig *packed)
{
	int i;

	for (i = 0; i < SIZE - 1; i++)
		packed_put(packed, A_GPA, 1, NEXT, 0);
	packed_put(packed, A_GPA, 1, 0, 0);
}

static void
offer_chain_that_fills_the_ring(struct packed_rig *packed)
{
	int i;

	for (i = 0; i < SIZE - 1; i++)
		packed_put(packed, A_GPA, 1, i < SIZE - 2 ? NEXT : 0, 0);
}

static void
offer_chain_cut_short(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 0);
}

static void
offer_chain_with_wrong_wrap(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 0);
	packed_put(packed, A_GPA, 1, PACKED_AVAIL | PACKED_USED, 0);
}

static void
offer_chain_with_used_part(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 0);
	packed_put(packed, A_GPA, 1, packed_avail_flags(packed, packed->next), 0);
}

static void
offer_indirect_and_next(struct packed_rig *packed)
{
	packed_put(packed, TABLE, 16, INDIRECT | NEXT, 0);
	packed_put(packed, A_GPA, 1, 0, 0);
}

static void
offer_empty_table(struct packed_rig *packed)
{
	packed_put(packed, TABLE, 0, INDIRECT, 0);
}

static void
offer_table_of_odd_length(struct packed_rig *packed)
{
	packed_put(packed, TABLE, 33, INDIRECT, 0);
}

static void
offer_long_table(struct packed_rig *packed)
{
	packed_put(packed, TABLE, (SIZE + 1) * 16, INDIRECT, 0);
}

static void
offer_longest_table(struct packed_rig *packed)
{
	packed_put(packed, TABLE, UINT32_MAX - 15, INDIRECT, 0);
}

static void
offer_table_outside(struct packed_rig *packed)
{
	packed_put(packed, C_END, 32, INDIRECT, 0);
}

static void
offer_table_that_wraps(struct packed_rig *packed)
{
	packed_put(packed, UINT64_MAX - 15, 32, INDIRECT, 0);
}

static void
offer_table_after_the_last_that_fits(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 0);
	packed_put(packed, TABLE, SIZE * 16, INDIRECT, 0);
}

static void
offer_readable_after_writable(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT | WRITE, 0);
	packed_put(packed, A_GPA, 1, 0, 0);
}

static void
put_table_desc(struct packed_rig *packed, uint32_t i, uint64_t addr, uint32_t len, uint16_t flags)
{
	struct vring_packed_desc desc = {.addr = addr, .len = len, .flags = flags};

	rig_write(&packed->rig, TABLE + i * sizeof(desc), &desc, sizeof(desc));
}

static void
offer_readable_after_writable_in_a_table(struct packed_rig *packed)
{
	put_table_desc(packed, 0, A_GPA, 1, WRITE);
	put_table_desc(packed, 1, A_GPA, 1, 0);
	packed_put(packed, TABLE, 32, INDIRECT, 0);
}

static void
offer_bad_buffer_in_a_table(struct packed_rig *packed)
{
	put_table_desc(packed, 0, C_END, 1, 0);
	packed_put(packed, TABLE, 16, INDIRECT, 0);
}

static void
offer_buffer_outside(struct packed_rig *packed)
{
	packed_put(packed, C_END, 1, 0, 0);
}

static void
offer_buffer_that_wraps(struct packed_rig *packed)
{
	packed_put(packed, UINT64_MAX - 15, 17, WRITE, 0);
}

static void
offer_more_than_4_gib(struct packed_rig *packed)
{
	packed_put(packed, BIG_GPA, 1u << 31, NEXT | WRITE, 0);
	packed_put(packed, BIG_GPA, 1u << 31, NEXT | WRITE, 0);
	packed_put(packed, BIG_GPA, 1, WRITE, 0);
}

static void
offer_table(struct packed_rig *packed)
{
	put_table_desc(packed, 0, A_GPA, 16, 0);
	put_table_desc(packed, 1, A_GPA, 16, WRITE);
	put_table_desc(packed, 2, A_GPA, 1, WRITE);
	packed_put(packed, TABLE, 48, INDIRECT, 0);
}

static void
offer_table_after_direct(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 16, NEXT, 3);
	put_table_desc(packed, 0, A_GPA, 16, WRITE);
	packed_put(packed, TABLE, 16, INDIRECT, 0);
}

static void
offer_unknown_flags(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 16, NEXT | 0x7f78, 0);
	packed_put(packed, A_GPA, 32, WRITE | 0x7f78, 0);
}

static void
offer_empty_buffers(struct packed_rig *packed)
{
	packed_put(packed, 0, 0, NEXT, 0);
	packed_put(packed, UINT64_MAX, 0, WRITE, 0);
}

#define LONG    "descriptor list longer than the ring"
#define PART    "descriptor list that is not available as a whole"
#define TWICE   "buffer id that is in flight already"
#define NO_ID   "buffer id outside the ring"
#define LENGTH  "indirect table of a wrong length"
#define NO_ROOM "indirect table of too many descriptors"
#define NOWHERE "indirect table outside guest memory"
#define OUTSIDE "buffer outside guest memory"
#define ORDER   "readable buffer after a writable one"

#define RULE(offer, reason)                                                                        \
	{                                                                                          \
#offer, reason, offer_##offer, 0, 0, 0                                             \
	}
#define ALLOWED(offer, readable, writable, descs)                                                  \
	{                                                                                          \
#offer, NULL, offer_##offer, readable, writable, descs                             \
	}

static const struct rule rules[] = {
	RULE(wild_id, NO_ID),
	RULE(wildest_id, NO_ID),
	RULE(wild_last_id, NO_ID),
	RULE(wildest_last_id, NO_ID),
	RULE(id_in_flight, TWICE),
	RULE(last_id_in_flight, TWICE),
	RULE(endless_chain, LONG),
	RULE(chain_into_what_is_in_flight, LONG),
	RULE(chain_cut_short, PART),
	RULE(chain_with_wrong_wrap, PART),
	RULE(chain_with_used_part, PART),
	RULE(indirect_and_next, "indirect descriptor with a next one"),
	RULE(empty_table, LENGTH),
	RULE(table_of_odd_length, LENGTH),
	RULE(long_table, NO_ROOM),
	RULE(longest_table, NO_ROOM),
	RULE(table_outside, NOWHERE),
	RULE(table_that_wraps, NOWHERE),
	RULE(table_after_the_last_that_fits, "chain of too many descriptors"),
	RULE(readable_after_writable, ORDER),
	RULE(readable_after_writable_in_a_table, ORDER),
	RULE(bad_buffer_in_a_table, OUTSIDE),
	RULE(buffer_outside, OUTSIDE),
	RULE(buffer_that_wraps, OUTSIDE),
	RULE(more_than_4_gib, "chain longer than 4 GiB"),
	ALLOWED(chain_that_fills_the_ring, 7, 0, 7),
	ALLOWED(table, 1, 2, 1),
	ALLOWED(table_after_direct, 1, 1, 2),
	ALLOWED(unknown_flags, 1, 1, 2),
	ALLOWED(empty_buffers, 0, 0, 2),
};

static void
check_allowed(struct packed_rig *packed, const struct rule *rule)
{
	struct virtq_slot *slot = NULL;

	rule->offer(packed);
	if (virtq_pop(packed->rig.vq, &slot, 1) != 1)
		fail_msg("%s: %s", rule->name, virtq_broken(packed->rig.vq));
	if (slot->readable_count != rule->readable_count ||
	    slot->writable_count != rule->writable_count)
		fail_msg("%s: %u %u", rule->name, slot->readable_count, slot->writable_count);
	virtq_push(packed->rig.vq, slot, 1);
	virtq_publish(packed->rig.vq);
	packed_expect_used(packed, 0, 1, rule->descs);
}

static void
check_broken(struct packed_rig *packed, const struct rule *rule, struct virtq_slot *good)
{
	uint32_t base = virtq_base(packed->rig.vq);
	struct virtq_slot *slots[SIZE];

	rule->offer(packed);
	assert_int_equal(virtq_pop(packed->rig.vq, slots, SIZE), 0);
	if (!virtq_broken(packed->rig.vq) ||
	    strcmp(virtq_broken(packed->rig.vq), rule->reason) != 0)
		fail_msg("%s: %s", rule->name, virtq_broken(packed->rig.vq));
	/* It stays there, for good, */
	assert_int_equal(virtq_pop(packed->rig.vq, slots, SIZE), 0);
	assert_int_equal(virtq_base(packed->rig.vq), base);
	assert_true(virtq_enable_kicks(packed->rig.vq));
	/* and what was in flight still ends. */
	assert_int_equal(virtq_in_flight(packed->rig.vq), 1);
	rig_expect_iov(&packed->rig, &good->iov[0], A_GPA, 1);
	virtq_push(packed->rig.vq, good, 3);
	virtq_publish(packed->rig.vq);
	packed_expect_used(packed, GOOD_ID, 3, 1);
	assert_int_equal(virtq_in_flight(packed->rig.vq), 0);
}

static void
open_rule(struct packed_rig *packed)
{
	struct virtq_opts opts = {.size = SIZE, .indirect = true, .ctx_size = 8};

	packed_open_with(packed, &opts, START);
}

static void
test_rules(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rules); i++) {
		struct virtq_slot *good;
		struct packed_rig packed;

		open_rule(&packed);
		packed_put_small(&packed, GOOD_ID);
		good = packed_pop(&packed);
		if (rules[i].reason) {
			check_broken(&packed, &rules[i], good);
		} else {
			virtq_push(packed.rig.vq, good, 0);
			virtq_publish(packed.rig.vq);
			packed_expect_used(&packed, GOOD_ID, 0, 1);
			check_allowed(&packed, &rules[i]);
		}
		packed_close(&packed);
	}
}

static void
test_indirect_not_negotiated(void **state)
{
	struct virtq_opts opts = {.size = SIZE};
	struct virtq_slot *slot;
	struct packed_rig packed;

	(void)state;
	packed_open_with(&packed, &opts, START);
	offer_table(&packed);
	assert_int_equal(virtq_pop(packed.rig.vq, &slot, 1), 0);
	assert_string_equal(virtq_broken(packed.rig.vq),
			    "indirect descriptor without VIRTIO_F_INDIRECT_DESC");
	packed_close(&packed);
}

/* What was pushed and is not published is still the device's: it cannot be offered again. */
static void
test_ring_full_of_what_is_not_published(void **state)
{
	struct virtq_opts opts = {.size = SIZE};
	struct virtq_slot *slots[SIZE];
	struct packed_rig packed;
	int i;

	(void)state;
	packed_open_with(&packed, &opts, START);
	for (i = 0; i < SIZE; i++)
		packed_put_small(&packed, i);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), SIZE);
	for (i = 0; i < SIZE; i++)
		virtq_push(packed.rig.vq, slots[i], 0);
	packed_put_small(&packed, 0);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), 0);
	assert_string_equal(virtq_broken(packed.rig.vq), LONG);
	packed_close(&packed);
}

/* In one pop: what came before the bad chain is popped, what comes after is not. */
static void
test_valid_chain_before_a_bad_one(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rules); i++) {
		struct virtq_slot *slots[SIZE];
		struct packed_rig packed;

		/* Those too long for the ring write over the valid one. */
		if (!rules[i].reason || strcmp(rules[i].reason, LONG) == 0)
			continue;
		open_rule(&packed);
		packed_put_small(&packed, GOOD_ID);
		rules[i].offer(&packed);
		assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), 1);
		assert_int_equal(slots[0]->head, GOOD_ID);
		assert_string_equal(virtq_broken(packed.rig.vq), rules[i].reason);
		assert_int_equal(virtq_in_flight(packed.rig.vq), 1);
		packed_close(&packed);
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
		struct vring_packed_desc ring[SIZE];
		struct virtq_slot *slots[SIZE];
		struct packed_rig packed;

		open_rule(&packed);
		rules[i].offer(&packed);
		memcpy(before, rig_pointer(&packed.rig, A_GPA), A_SIZE);
		memcpy(ring, packed.ring, sizeof(ring));
		virtq_pop(packed.rig.vq, slots, SIZE);
		assert_memory_equal(before, rig_pointer(&packed.rig, A_GPA), A_SIZE);
		assert_memory_equal(ring, packed.ring, sizeof(ring));
		packed_close(&packed);
	}
	free(before);
}

/* Descriptors that are available by the wrong wrap counter are nothing yet. */
static void
test_wrap_counters_that_lie(void **state)
{
	static const uint16_t flags[] = {0, PACKED_AVAIL | PACKED_USED};
	struct virtq_slot *slot;
	struct packed_rig packed;
	uint16_t position;
	size_t i;

	(void)state;
	for (position = 0; position < 2 * SIZE; position++) {
		for (i = 0; i <= ARRAY_SIZE(flags); i++) {
			struct virtq_opts opts = {.size = SIZE};

			packed_open_with(&packed, &opts, position);
			packed_put_small(&packed, 0);
			packed.ring[position % SIZE].flags =
				i < ARRAY_SIZE(flags)
					? flags[i]
					: packed_avail_flags(&packed, position + SIZE);
			assert_int_equal(virtq_pop(packed.rig.vq, &slot, 1), 0);
			assert_null(virtq_broken(packed.rig.vq));
			assert_true(virtq_enable_kicks(packed.rig.vq));
			packed_close(&packed);
		}
	}
}

/* ---- flags that change under our eyes ---- */

#define REST(len, id, flags) ((uint64_t)(len) | (uint64_t)(id) << 32 | (uint64_t)(flags) << 48)

struct outcome {
	const char *reason;     /* NULL: */
	int32_t readable_count; /* a chain of so many; -1: none */
};

struct flip {
	const char *name;
	uint16_t index; /* of the descriptor whose length, id and flags change at once */
	uint64_t values[2];
	struct outcome outcomes[2];
};

/* Without the flip: two readable buffers, id 3. */
static const struct flip flips[] = {
	{"available or not",
	 0,
	 {REST(1, 3, NEXT | PACKED_AVAIL), REST(1, 3, NEXT | PACKED_USED)},
	 {{NULL, 2}, {NULL, -1}}},
	{"end of the chain",
	 0,
	 {REST(1, 3, NEXT | PACKED_AVAIL), REST(1, 3, PACKED_AVAIL)},
	 {{NULL, 2}, {NULL, 1}}},
	{"the second available or not",
	 1,
	 {REST(1, 3, PACKED_AVAIL), REST(1, 3, PACKED_USED)},
	 {{NULL, 2}, {PART, 0}}},
	{"id",
	 1,
	 {REST(1, 3, PACKED_AVAIL), REST(1, 60000, PACKED_AVAIL)},
	 {{NULL, 2}, {NO_ID, 0}}},
	{"direction",
	 0,
	 {REST(1, 3, NEXT | PACKED_AVAIL), REST(1, 3, NEXT | WRITE | PACKED_AVAIL)},
	 {{NULL, 2}, {ORDER, 0}}},
	{"indirect or not",
	 1,
	 {REST(1, 3, PACKED_AVAIL), REST(1, 3, INDIRECT | PACKED_AVAIL)},
	 {{NULL, 2}, {LENGTH, 0}}},
	{"length",
	 1,
	 {REST(1, 3, PACKED_AVAIL), REST(UINT32_MAX, 3, PACKED_AVAIL)},
	 {{NULL, 2}, {OUTSIDE, 0}}},
};

struct flipper {
	const struct flip *flip;
	uint64_t *target;
	bool stop;
};

static void *
flip_values(void *arg)
{
	struct flipper *flipper = arg;
	uint64_t i;

	for (i = 0; !__atomic_load_n(&flipper->stop, __ATOMIC_RELAXED); i++)
		__atomic_store_n(flipper->target, flipper->flip->values[i % 2], __ATOMIC_RELEASE);
	return NULL;
}

static bool
is_outcome(const struct outcome *outcome, uint32_t count, const struct virtq_slot *slot,
	   const char *broken)
{
	if (broken || outcome->reason)
		return broken && outcome->reason && strcmp(broken, outcome->reason) == 0;
	if (outcome->readable_count < 0)
		return count == 0;
	return count == 1 && slot->readable_count == (uint32_t)outcome->readable_count &&
	       slot->head == 3;
}

static void
write_chain(struct packed_rig *packed)
{
	packed_put(packed, A_GPA, 1, NEXT, 3);
	packed_put(packed, A_GPA, 1, 0, 3);
}

/* Does not assert before the flipper has ended. Returns the number of a wrong pop, or -1. */
static int
pop_while_flipping(struct packed_rig *packed, const struct flip *flip)
{
	int i;

	for (i = 0; i < FLIP_POPS; i++) {
		struct virtq_slot *slot = NULL;
		const char *broken;
		uint32_t count;

		packed_restart(packed, 0);
		count = virtq_pop(packed->rig.vq, &slot, 1);
		broken = virtq_broken(packed->rig.vq);
		if (!is_outcome(&flip->outcomes[0], count, slot, broken) &&
		    !is_outcome(&flip->outcomes[1], count, slot, broken))
			return i;
	}
	return -1;
}

static void
test_values_that_flip(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(flips); i++) {
		struct flipper flipper = {.flip = &flips[i]};
		struct packed_rig packed;
		pthread_t thread;
		int wrong;

		packed_open(&packed, SIZE);
		write_chain(&packed);
		flipper.target = (uint64_t *)&packed.ring[flips[i].index].len;
		assert_int_equal(pthread_create(&thread, NULL, flip_values, &flipper), 0);
		wrong = pop_while_flipping(&packed, &flips[i]);
		__atomic_store_n(&flipper.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		if (wrong >= 0)
			fail_msg("%s: pop %d: %s", flips[i].name, wrong,
				 virtq_broken(packed.rig.vq));
		packed_close(&packed);
	}
}

/* Each value by itself gives its own outcome: the table above says what it means to say. */
static void
test_values_that_do_not_flip(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < 2 * ARRAY_SIZE(flips); i++) {
		const struct flip *flip = &flips[i / 2];
		struct virtq_slot *slot = NULL;
		struct packed_rig packed;
		uint32_t count;

		packed_open(&packed, SIZE);
		write_chain(&packed);
		*(uint64_t *)&packed.ring[flip->index].len = flip->values[i % 2];
		count = virtq_pop(packed.rig.vq, &slot, 1);
		if (!is_outcome(&flip->outcomes[i % 2], count, slot, virtq_broken(packed.rig.vq)))
			fail_msg("%s: value %zu: %s", flip->name, i % 2,
				 virtq_broken(packed.rig.vq));
		packed_close(&packed);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_indirect_not_negotiated),
		cmocka_unit_test(test_ring_full_of_what_is_not_published),
		cmocka_unit_test(test_valid_chain_before_a_bad_one),
		cmocka_unit_test(test_pop_writes_nothing),
		cmocka_unit_test(test_wrap_counters_that_lie),
		cmocka_unit_test(test_values_that_do_not_flip),
		cmocka_unit_test(test_values_that_flip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
