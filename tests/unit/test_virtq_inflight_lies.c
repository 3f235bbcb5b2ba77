/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/* In-flight regions that lie: from the beginning, and while the queue runs. */
#include "virtq_inflight_rig.h"

#include <errno.h>
#include <pthread.h>

#define SCRIBBLED 4000 /* queues */

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
		cmocka_unit_test(test_packed_waiting_chain_that_lies),
		cmocka_unit_test(test_split_lies),
		cmocka_unit_test(test_packed_lies),
		cmocka_unit_test(test_scribbling_while_it_runs),
		cmocka_unit_test(test_scribbling_at_any_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
