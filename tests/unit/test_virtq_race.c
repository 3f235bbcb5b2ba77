/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * The driver on another thread: rings that change while we look at them (each answer is about one
 * of the values, and inside memory), and notifications that must not get lost.
 */
#include "virtq_rig.h"
#include "waiting.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <time.h>

#define SIZE      8
#define TABLE     (A_GPA + 0x8000)
#define FLIP_POPS 2000
#define HANDOVERS 60000

/* ---- values that flip ---- */

/* The second half of a descriptor: read and written as one word. */
#define DESC_REST(len, flags, next)                                                                \
	((uint64_t)(len) | (uint64_t)(flags) << 32 | (uint64_t)(next) << 48)

struct outcome {
	const char *reason; /* NULL: a chain of so many bytes */
	uint64_t readable_bytes, writable_bytes;
};

struct flip {
	const char *name;
	uint64_t table;                   /* of the entries; 0: the queue's */
	void *(*target)(struct rig *rig); /* what flips: `bytes` bytes, aligned to their number */
	uint8_t bytes;
	uint64_t values[2];
	struct outcome outcomes[2];
};

struct flipper {
	const struct flip *flip;
	void *target;
	bool stop;
};

static void *
desc_addr(struct rig *rig)
{
	return &rig->desc[0].addr;
}

static void *
desc_rest(struct rig *rig)
{
	return &rig->desc[0].len;
}

static void *
table_rest(struct rig *rig)
{
	return rig_pointer(rig, TABLE + 8);
}

/* A byte of the length, in a table that cannot be read by words. */
static void *
odd_table_len(struct rig *rig)
{
	return rig_pointer(rig, TABLE + 1 + 8);
}

static void *
avail_head(struct rig *rig)
{
	return &rig->avail->ring[0];
}

#define OUTSIDE                                                                                    \
	{                                                                                          \
		"buffer outside guest memory", 0, 0                                                \
	}
#define NO_NEXT                                                                                    \
	{                                                                                          \
		"next descriptor outside the table", 0, 0                                          \
	}
#define LENGTH                                                                                     \
	{                                                                                          \
		"indirect table of a wrong length", 0, 0                                           \
	}
#define NO_ROOM                                                                                    \
	{                                                                                          \
		"indirect table of too many descriptors", 0, 0                                     \
	}
#define NO_HEAD                                                                                    \
	{                                                                                          \
		"head outside the descriptor table", 0, 0                                          \
	}

/* Without the flip each is a chain of 16 readable and 32 writable bytes. */
static const struct flip flips[] = {
	{"address", 0, desc_addr, 8, {A_GPA, C_END - 15}, {{NULL, 16, 32}, OUTSIDE}},
	{"length",
	 0,
	 desc_rest,
	 8,
	 {DESC_REST(16, NEXT, 1), DESC_REST(UINT32_MAX, NEXT, 1)},
	 {{NULL, 16, 32}, OUTSIDE}},
	{"next",
	 0,
	 desc_rest,
	 8,
	 {DESC_REST(16, NEXT, 1), DESC_REST(16, NEXT, 60000)},
	 {{NULL, 16, 32}, NO_NEXT}},
	{"end of chain and direction",
	 0,
	 desc_rest,
	 8,
	 {DESC_REST(16, NEXT, 1), DESC_REST(4096, WRITE, 60000)},
	 {{NULL, 16, 32}, {NULL, 0, 4096}}},
	{"indirect or not",
	 TABLE,
	 desc_rest,
	 8,
	 {DESC_REST(32, INDIRECT, 0), DESC_REST(33, WRITE, 0)},
	 {{NULL, 16, 32}, {NULL, 0, 33}}},
	{"table length",
	 TABLE,
	 desc_rest,
	 8,
	 {DESC_REST(32, INDIRECT, 0), DESC_REST(47, INDIRECT, 0)},
	 {{NULL, 16, 32}, LENGTH}},
	{"huge table",
	 TABLE,
	 desc_rest,
	 8,
	 {DESC_REST(32, INDIRECT, 0), DESC_REST(0x100000, INDIRECT, 0)},
	 {{NULL, 16, 32}, NO_ROOM}},
	{"next in a table",
	 TABLE,
	 table_rest,
	 8,
	 {DESC_REST(16, NEXT, 1), DESC_REST(16, NEXT, 2)},
	 {{NULL, 16, 32}, NO_NEXT}},
	{"length in an odd table",
	 TABLE + 1,
	 odd_table_len,
	 1,
	 {16, 255},
	 {{NULL, 16, 32}, {NULL, 255, 32}}},
	{"head", 0, avail_head, 2, {0, 60000}, {{NULL, 16, 32}, NO_HEAD}},
};

static void
store(void *target, uint8_t bytes, uint64_t value)
{
	if (bytes == 8)
		__atomic_store_n((uint64_t *)target, value, __ATOMIC_RELAXED);
	else if (bytes == 2)
		__atomic_store_n((uint16_t *)target, (uint16_t)value, __ATOMIC_RELAXED);
	else
		__atomic_store_n((uint8_t *)target, (uint8_t)value, __ATOMIC_RELAXED);
}

static void *
flip_values(void *arg)
{
	struct flipper *flipper = arg;
	const struct flip *flip = flipper->flip;
	uint64_t i;

	for (i = 0; !__atomic_load_n(&flipper->stop, __ATOMIC_RELAXED); i++)
		store(flipper->target, flip->bytes, flip->values[i % 2]);
	return NULL;
}

static void
write_chain(struct rig *rig, const struct flip *flip)
{
	if (flip->table) {
		rig_table_desc(rig, flip->table, 0, A_GPA, 16, NEXT, 1);
		rig_table_desc(rig, flip->table, 1, A_GPA, 32, WRITE, 0);
		rig_desc(rig, 0, flip->table, 32, INDIRECT, 0);
	} else {
		rig_desc(rig, 0, A_GPA, 16, NEXT, 1);
		rig_desc(rig, 1, A_GPA, 32, WRITE, 0);
	}
	memset(rig->avail->ring, 0, SIZE * sizeof(uint16_t));
}

static bool
is_outcome(const struct outcome *outcome, const struct virtq_slot *slot, const char *broken)
{
	if (broken || outcome->reason)
		return broken && outcome->reason && strcmp(broken, outcome->reason) == 0;
	return slot->readable_bytes == outcome->readable_bytes &&
	       slot->writable_bytes == outcome->writable_bytes;
}

static bool
is_inside(const struct rig *rig, const struct virtq_slot *slot)
{
	const struct guest_mem_region *a = &rig->regions[0];
	uint64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < slot->readable_count + slot->writable_count; i++) {
		uint8_t *base = slot->iov[i].iov_base;

		if (base < a->hva || base + slot->iov[i].iov_len > a->hva + a->size)
			return false;
		bytes += slot->iov[i].iov_len;
	}
	return bytes == slot->readable_bytes + slot->writable_bytes;
}

/*
 * Does not assert before the flipper has ended. Returns the number of the pop that was wrong, or
 * -1.
 */
static int
pop_while_flipping(struct rig *rig, const struct flip *flip, struct virtq_slot **last)
{
	int i;

	for (i = 0; i < FLIP_POPS; i++) {
		const char *broken;
		uint32_t count;

		/* Slot 0 of the avail ring is always the one that is popped. */
		rig_restart(rig, 0);
		__atomic_store_n(&rig->avail->idx, 1, __ATOMIC_RELEASE);
		count = virtq_pop(rig->vq, last, 1);
		broken = virtq_broken(rig->vq);
		if (count != (broken ? 0 : 1) || (!is_outcome(&flip->outcomes[0], *last, broken) &&
						  !is_outcome(&flip->outcomes[1], *last, broken)))
			return i;
		if (broken)
			continue;
		if (!is_inside(rig, *last))
			return i;
		virtq_push(rig->vq, *last, 0);
		virtq_publish(rig->vq);
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
		struct virtq_slot *slot = NULL;
		pthread_t thread;
		struct rig rig;
		int wrong;

		rig_open(&rig, SIZE);
		write_chain(&rig, &flips[i]);
		flipper.target = flips[i].target(&rig);
		assert_int_equal(pthread_create(&thread, NULL, flip_values, &flipper), 0);
		wrong = pop_while_flipping(&rig, &flips[i], &slot);
		__atomic_store_n(&flipper.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		if (wrong >= 0)
			fail_msg("%s: pop %d: %s", flips[i].name, wrong, virtq_broken(rig.vq));
		rig_close(&rig);
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
		struct rig rig;

		rig_open(&rig, SIZE);
		write_chain(&rig, flip);
		store(flip->target(&rig), flip->bytes, flip->values[i % 2]);
		rig.avail->idx = 1;
		virtq_pop(rig.vq, &slot, 1);
		if (!is_outcome(&flip->outcomes[i % 2], slot, virtq_broken(rig.vq)))
			fail_msg("%s: value %zu: %s", flip->name, i % 2, virtq_broken(rig.vq));
		rig_close(&rig);
	}
}

/* ---- notifications ---- */

struct handover {
	struct rig rig;
	sem_t kick; /* the driver wakes the device */
	sem_t call; /* the device wakes the driver */
	bool lost;
};

/* The driver of a guest: sleeps whenever a chain is out, and kicks only if asked to. */
static void *
drive(void *arg)
{
	struct handover *handover = arg;
	struct rig *rig = &handover->rig;
	uint16_t i;

	for (i = 0; i < HANDOVERS; i++) {
		rig->avail->ring[i % SIZE] = i % SIZE;
		__atomic_store_n(&rig->avail->idx, i + 1, __ATOMIC_SEQ_CST);
		if (!(__atomic_load_n(&rig->used->flags, __ATOMIC_SEQ_CST) &
		      VRING_USED_F_NO_NOTIFY))
			sem_post(&handover->kick);
		__atomic_store_n(&rig->avail->flags, 0, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&rig->used->idx, __ATOMIC_SEQ_CST) == i) {
			if (!wait_for_post(&handover->call)) {
				handover->lost = true;
				return NULL;
			}
		}
		__atomic_store_n(&rig->avail->flags, VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* Returns how many chains came. */
static uint32_t
serve(struct handover *handover)
{
	struct virtq *vq = handover->rig.vq;
	struct virtq_slot *slot;
	uint32_t served = 0;

	virtq_disable_kicks(vq);
	while (served < HANDOVERS) {
		if (virtq_pop(vq, &slot, 1) == 0) {
			if (!virtq_enable_kicks(vq))
				continue;
			if (!wait_for_post(&handover->kick))
				return served;
			virtq_disable_kicks(vq);
			continue;
		}
		served++;
		virtq_push(vq, slot, 0);
		if (virtq_publish(vq))
			sem_post(&handover->call);
	}
	return served;
}

static void
test_no_wake_up_is_lost(void **state)
{
	struct handover handover = {0};
	pthread_t driver;
	uint16_t i;

	(void)state;
	rig_open(&handover.rig, SIZE);
	for (i = 0; i < SIZE; i++)
		rig_desc(&handover.rig, i, A_GPA, 1, 0, 0);
	sem_init(&handover.kick, 0, 0);
	sem_init(&handover.call, 0, 0);
	assert_int_equal(pthread_create(&driver, NULL, drive, &handover), 0);
	assert_int_equal(serve(&handover), HANDOVERS);
	pthread_join(driver, NULL);
	assert_false(handover.lost);
	sem_destroy(&handover.kick);
	sem_destroy(&handover.call);
	rig_close(&handover.rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values_that_do_not_flip),
		cmocka_unit_test(test_values_that_flip),
		cmocka_unit_test(test_no_wake_up_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
