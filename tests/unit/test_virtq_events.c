/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * Event suppression: EVENT_IDX on split rings, the structures of packed rings with and without it.
 * First each rule and each interleaving by hand, then with the driver on another thread.
 */
#include "virtq_packed_rig.h"
#include "waiting.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <time.h>

#define SIZE      8
#define HANDOVERS 150000 /* more than twice round the split ring's indexes */

/* ---- split rings: calls ---- */

static void
split_open(struct rig *rig, uint16_t size, uint16_t index)
{
	struct virtq_opts opts = {.size = size, .event_idx = true};
	uint16_t i;

	rig_open_with(rig, &opts, index);
	for (i = 0; i < size; i++)
		rig_desc(rig, i, A_GPA, 1, 0, 0);
}

/* Offers and completes one chain; what publish says. */
static bool
split_complete(struct rig *rig, uint32_t count)
{
	struct virtq_slot *slots[SIZE];
	uint32_t i;

	for (i = 0; i < count; i++)
		rig_offer(rig, rig->avail->idx % rig->opts.size);
	assert_int_equal(virtq_pop(rig->vq, slots, count), count);
	for (i = 0; i < count; i++)
		virtq_push(rig->vq, slots[i], 0);
	return virtq_publish(rig->vq);
}

/* From every place of the index to every event around it, batches of all sizes. */
static void
test_split_call_when_the_event_is_passed(void **state)
{
	static const uint16_t starts[] = {0, 1, 100, 32767, 65535, 65530};
	uint32_t batch;
	int offset;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		for (batch = 1; batch <= SIZE; batch++) {
			for (offset = -SIZE - 1; offset <= SIZE + 1; offset++) {
				bool passed = offset >= 0 && offset < (int)batch;
				struct rig rig;

				split_open(&rig, SIZE, starts[i]);
				/* The flag means nothing now. */
				rig.avail->flags = offset % 2 ? VRING_AVAIL_F_NO_INTERRUPT : 0;
				rig.avail->ring[SIZE] = starts[i] + offset;
				assert_int_equal(split_complete(&rig, batch), passed);
				assert_false(virtq_publish(rig.vq));
				rig_close(&rig);
			}
		}
	}
}

/* A driver that moves its event on is called each time, one that leaves it where it is once. */
static void
test_split_call_once_per_event(void **state)
{
	struct rig rig;
	int i;

	(void)state;
	split_open(&rig, SIZE, 65000);
	rig.avail->ring[SIZE] = 65000;
	assert_true(split_complete(&rig, 1));
	for (i = 0; i < 1000; i++)
		assert_false(split_complete(&rig, 3));
	for (i = 0; i < 1000; i++) {
		rig.avail->ring[SIZE] = rig.used->idx;
		assert_true(split_complete(&rig, 2));
	}
	rig_close(&rig);
}

/*
 * The driver takes used entries, asks for the next one, and looks again. The device publishes
 * before it asks, between its asking and its look, or after that: each time one of the two knows.
 */
static void
test_split_no_call_is_lost(void **state)
{
	struct rig rig;
	int when;

	(void)state;
	for (when = 0; when < 3; when++) {
		bool called = false, seen;
		uint16_t taken;

		split_open(&rig, SIZE, 65535);
		rig.avail->ring[SIZE] = 65535;
		assert_true(split_complete(&rig, 1));
		taken = rig.used->idx;
		if (when == 0)
			called |= split_complete(&rig, 1);
		rig.avail->ring[SIZE] = taken;
		if (when == 1)
			called |= split_complete(&rig, 1);
		seen = rig.used->idx != taken;
		if (when == 2)
			called |= split_complete(&rig, 1);
		assert_true(called || seen);
		assert_int_equal(seen, when < 2);
		assert_int_equal(called, when > 0);
		rig_close(&rig);
	}
}

/* ---- split rings: kicks ---- */

/* As Linux does it: whether the driver, which has just offered `count` chains, kicks. */
static bool
split_kicks(const struct rig *rig, uint16_t count)
{
	uint16_t event = *(const uint16_t *)&rig->used->ring[rig->opts.size];

	return vring_need_event(event, rig->avail->idx, rig->avail->idx - count);
}

static void
split_offer(struct rig *rig, uint16_t count)
{
	while (count-- > 0)
		rig_offer(rig, rig->avail->idx % rig->opts.size);
}

static void
test_split_kicks_on_and_off(void **state)
{
	static const uint16_t starts[] = {0, 5, 65535, 65530, 32768};
	struct virtq_slot *slots[SIZE];
	uint16_t count;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		for (count = 1; count <= SIZE; count++) {
			struct rig rig;

			split_open(&rig, SIZE, starts[i]);
			assert_true(virtq_enable_kicks(rig.vq));
			split_offer(&rig, count);
			assert_true(split_kicks(&rig, count));
			assert_int_equal(virtq_pop(rig.vq, slots, SIZE), count);
			rig_close(&rig);

			split_open(&rig, SIZE, starts[i]);
			virtq_disable_kicks(rig.vq);
			split_offer(&rig, count);
			assert_false(split_kicks(&rig, count));
			/* Too late: the driver saw no reason to kick, so we are told. */
			assert_false(virtq_enable_kicks(rig.vq));
			rig_close(&rig);

			/* On, and off again before anything came. */
			split_open(&rig, SIZE, starts[i]);
			assert_true(virtq_enable_kicks(rig.vq));
			virtq_disable_kicks(rig.vq);
			split_offer(&rig, count);
			assert_false(split_kicks(&rig, count));
			assert_int_equal(rig.used->flags, 0);
			rig_close(&rig);
		}
	}
}

/*
 * The device looks, finds nothing, asks for kicks and looks again; the driver offers a chain and
 * then looks whether to kick. All places where the driver's two steps may fall.
 */
static void
test_split_no_kick_is_lost(void **state)
{
	int offered, looked;

	(void)state;
	/*
	 * 0: before the device's first look; 1: before it asks; 2: before its last look; 3: after.
	 */
	for (offered = 1; offered <= 3; offered++) {
		for (looked = offered; looked <= 3; looked++) {
			bool kicked = false, sleeps;
			struct virtq_slot *slot;
			struct rig rig;

			split_open(&rig, SIZE, 65535);
			virtq_disable_kicks(rig.vq);
			assert_int_equal(virtq_pop(rig.vq, &slot, 1), 0);
			if (offered == 1)
				split_offer(&rig, 1);
			if (looked == 1)
				kicked = split_kicks(&rig, 1);
			/* The steps of virtq_enable_kicks() by hand: no driver can come between. */
			if (offered == 2 || looked == 2) {
				*(uint16_t *)&rig.used->ring[SIZE] = 65535;
				if (offered == 2)
					split_offer(&rig, 1);
				if (looked == 2)
					kicked = split_kicks(&rig, 1);
			}
			sleeps = virtq_enable_kicks(rig.vq);
			if (offered == 3)
				split_offer(&rig, 1);
			if (looked == 3)
				kicked = split_kicks(&rig, 1);
			assert_true(kicked || !sleeps);
			assert_int_equal(sleeps, offered == 3);
			rig_close(&rig);
		}
	}
}

/* While the device polls, the index goes round many times and never meets the event. */
static void
test_split_no_kick_while_polling(void **state)
{
	static const uint16_t sizes[] = {1, SIZE, 32768};
	struct virtq_slot **slots = calloc(32768, sizeof(*slots));
	size_t i;

	(void)state;
	assert_non_null(slots);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct rig rig;
		uint32_t done, n;

		split_open(&rig, sizes[i], 1234);
		assert_true(virtq_enable_kicks(rig.vq));
		virtq_disable_kicks(rig.vq);
		for (done = 0; done < 200000; done += sizes[i]) {
			split_offer(&rig, sizes[i]);
			assert_false(split_kicks(&rig, sizes[i]));
			assert_int_equal(virtq_pop(rig.vq, slots, sizes[i]), sizes[i]);
			for (n = 0; n < sizes[i]; n++)
				virtq_push(rig.vq, slots[n], 0);
			virtq_publish(rig.vq);
		}
		rig_close(&rig);
	}
	free(slots);
}

/* ---- packed rings: calls ---- */

static bool
packed_complete(struct packed_rig *packed, uint32_t count)
{
	struct virtq_slot *slots[SIZE];
	uint32_t i;

	for (i = 0; i < count; i++)
		packed_put_small(packed, i);
	assert_int_equal(virtq_pop(packed->rig.vq, slots, count), count);
	for (i = 0; i < count; i++)
		virtq_push(packed->rig.vq, slots[i], 0);
	packed->used += count;
	return virtq_publish(packed->rig.vq);
}

static void
test_packed_call_when_the_event_is_passed(void **state)
{
	uint16_t start;
	uint32_t batch;
	int offset;

	(void)state;
	for (start = 0; start < 2 * SIZE; start++) {
		for (batch = 1; batch <= SIZE; batch++) {
			for (offset = -SIZE + 1; offset < SIZE + (int)batch; offset++) {
				bool passed = offset >= 0 && offset < (int)batch;
				struct virtq_opts opts = {.size = SIZE, .event_idx = true};
				struct packed_rig packed;

				packed_open_with(&packed, &opts, start);
				packed.driver_event->flags = VRING_PACKED_EVENT_FLAG_DESC;
				packed.driver_event->off_wrap =
					packed_place(&packed, start + offset);
				assert_int_equal(packed_complete(&packed, batch), passed);
				assert_false(virtq_publish(packed.rig.vq));
				packed_close(&packed);
			}
		}
	}
}

static void
test_packed_call_by_flags(void **state)
{
	static const struct {
		const char *what;
		bool event_idx;
		uint16_t flags, off_wrap;
		bool called;
	} cases[] = {
		{"on", false, VRING_PACKED_EVENT_FLAG_ENABLE, 0, true},
		{"off", false, VRING_PACKED_EVENT_FLAG_DISABLE, PACKED_WRAP, false},
		{"on, with EVENT_IDX", true, VRING_PACKED_EVENT_FLAG_ENABLE, 5, true},
		{"off, with EVENT_IDX", true, VRING_PACKED_EVENT_FLAG_DISABLE, PACKED_WRAP, false},
		{"reserved bits", true, 0xfffc, 5, true},
		{"off and reserved bits", true, 0xfffd, PACKED_WRAP, false},
		{"event, and not reached", true, VRING_PACKED_EVENT_FLAG_DESC, PACKED_WRAP | 1,
		 false},
		{"event, reserved bits", true, 0xfffe, PACKED_WRAP | 1, false},
		{"event that was not negotiated", false, VRING_PACKED_EVENT_FLAG_DESC,
		 PACKED_WRAP | 1, true},
		{"no such flags", true, 3, PACKED_WRAP | 1, true},
		{"no such flags, without EVENT_IDX", false, 3, PACKED_WRAP | 1, true},
		{"event outside the ring", true, VRING_PACKED_EVENT_FLAG_DESC, PACKED_WRAP | SIZE,
		 true},
		{"event far outside", true, VRING_PACKED_EVENT_FLAG_DESC, 0xffff, true},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtq_opts opts = {.size = SIZE, .event_idx = cases[i].event_idx};
		struct packed_rig packed;

		packed_open_with(&packed, &opts, 0);
		packed.driver_event->flags = cases[i].flags;
		packed.driver_event->off_wrap = cases[i].off_wrap;
		if (packed_complete(&packed, 1) != cases[i].called)
			fail_msg("%s", cases[i].what);
		assert_true(packed_is_used(&packed, 0));
		packed_close(&packed);
	}
}

/* A chain takes several places: an event in the middle of it is passed, too. */
static void
test_packed_event_inside_a_chain(void **state)
{
	uint16_t event;

	(void)state;
	for (event = 0; event < 6; event++) {
		struct virtq_opts opts = {.size = SIZE, .event_idx = true};
		struct packed_rig packed;

		packed_open_with(&packed, &opts, SIZE - 2);
		packed.driver_event->flags = VRING_PACKED_EVENT_FLAG_DESC;
		packed.driver_event->off_wrap = packed_place(&packed, SIZE - 2 + event);
		packed_put(&packed, A_GPA, 1, NEXT, 0);
		packed_put(&packed, A_GPA, 1, NEXT, 0);
		packed_put(&packed, A_GPA, 1, 0, 0);
		virtq_push(packed.rig.vq, packed_pop(&packed), 0);
		assert_int_equal(virtq_publish(packed.rig.vq), event < 3);
		packed_close(&packed);
	}
}

/* ---- packed rings: kicks ---- */

/* As Linux does it, for `count` descriptors that were just made available. */
static bool
packed_kicks(const struct packed_rig *packed, uint16_t count)
{
	uint16_t size = packed->rig.opts.size;
	uint16_t off_wrap = packed->device_event->off_wrap;
	uint16_t next = packed->next % size;
	uint16_t event = off_wrap & (PACKED_WRAP - 1);

	if (packed->device_event->flags != VRING_PACKED_EVENT_FLAG_DESC)
		return packed->device_event->flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if ((off_wrap & PACKED_WRAP) != (packed_place(packed, packed->next) & PACKED_WRAP))
		event -= size;
	return vring_need_event(event, next, next - count);
}

static void
test_packed_kicks_on_and_off(void **state)
{
	struct virtq_slot *slots[SIZE];
	uint16_t start, count, i;
	int event_idx;

	(void)state;
	for (event_idx = 0; event_idx < 2; event_idx++) {
		for (start = 0; start < 2 * SIZE; start++) {
			for (count = 1; count <= SIZE; count++) {
				struct virtq_opts opts = {.size = SIZE, .event_idx = event_idx};
				struct packed_rig packed;

				packed_open_with(&packed, &opts, start);
				virtq_disable_kicks(packed.rig.vq);
				packed_put_small(&packed, 0);
				assert_false(packed_kicks(&packed, 1));
				assert_false(virtq_enable_kicks(packed.rig.vq));
				assert_int_equal(packed.device_event->flags,
						 VRING_PACKED_EVENT_FLAG_DISABLE);
				virtq_push(packed.rig.vq, packed_pop(&packed), 0);
				virtq_publish(packed.rig.vq);

				assert_true(virtq_enable_kicks(packed.rig.vq));
				assert_int_equal(packed.device_event->flags,
						 event_idx ? VRING_PACKED_EVENT_FLAG_DESC
							   : VRING_PACKED_EVENT_FLAG_ENABLE);
				for (i = 0; i < count; i++)
					packed_put_small(&packed, i);
				assert_true(packed_kicks(&packed, count));
				assert_true(virtq_disable_kicks(packed.rig.vq));
				assert_int_equal(virtq_pop(packed.rig.vq, slots, SIZE), count);
				/* Chains in flight do not keep anybody awake. */
				assert_true(virtq_enable_kicks(packed.rig.vq));
				assert_false(virtq_disable_kicks(packed.rig.vq));
				packed_close(&packed);
			}
		}
	}
}

/* Off already: the driver's line is left alone. */
static void
test_packed_off_is_written_once(void **state)
{
	struct packed_rig packed;

	(void)state;
	packed_open(&packed, SIZE);
	virtq_disable_kicks(packed.rig.vq);
	assert_int_equal(packed.device_event->flags, VRING_PACKED_EVENT_FLAG_DISABLE);
	packed.device_event->flags = 0x1234;
	virtq_disable_kicks(packed.rig.vq);
	assert_int_equal(packed.device_event->flags, 0x1234);
	packed_close(&packed);
}

/* ---- the driver on another thread ---- */

struct handover {
	struct packed_rig packed; /* or its rig alone */
	bool is_packed;
	bool event_idx;
	sem_t kick; /* the driver wakes the device */
	sem_t call; /* the device wakes the driver */
	bool lost;
};

static uint32_t
load_event(const struct vring_packed_desc_event *event)
{
	return __atomic_load_n((const uint32_t *)event, __ATOMIC_SEQ_CST);
}

static void
drive_packed(struct handover *handover, uint32_t i)
{
	struct packed_rig *packed = &handover->packed;
	struct vring_packed_desc *desc = &packed->ring[packed->next % SIZE];
	uint16_t flags = packed_avail_flags(packed, packed->next);
	struct vring_packed_desc_event event;
	uint32_t word;

	(void)i;
	desc->addr = A_GPA;
	/* All in one word, as the device reads it. */
	__atomic_store_n((uint64_t *)&desc->len, 1 | (uint64_t)flags << 48, __ATOMIC_SEQ_CST);
	word = load_event(packed->device_event);
	memcpy(&event, &word, sizeof(event));
	if (event.flags == VRING_PACKED_EVENT_FLAG_ENABLE ||
	    (event.flags == VRING_PACKED_EVENT_FLAG_DESC &&
	     event.off_wrap == packed_place(packed, packed->next)))
		sem_post(&handover->kick);
	packed->next++;
	event.off_wrap = packed_place(packed, packed->used);
	event.flags =
		handover->event_idx ? VRING_PACKED_EVENT_FLAG_DESC : VRING_PACKED_EVENT_FLAG_ENABLE;
	memcpy(&word, &event, sizeof(word));
	__atomic_store_n((uint32_t *)packed->driver_event, word, __ATOMIC_SEQ_CST);
}

static void
drive_split(struct handover *handover, uint32_t i)
{
	struct rig *rig = &handover->packed.rig;
	uint16_t *event = (uint16_t *)&rig->used->ring[SIZE];

	__atomic_store_n(&rig->avail->ring[i % SIZE], i % SIZE, __ATOMIC_RELAXED);
	__atomic_store_n(&rig->avail->idx, i + 1, __ATOMIC_SEQ_CST);
	if (vring_need_event(__atomic_load_n(event, __ATOMIC_SEQ_CST), i + 1, i))
		sem_post(&handover->kick);
	__atomic_store_n(&rig->avail->ring[SIZE], i, __ATOMIC_SEQ_CST);
}

static bool
driver_sees_it(const struct handover *handover, uint32_t i)
{
	const struct packed_rig *packed = &handover->packed;

	if (handover->is_packed)
		return packed_is_used(packed, packed->used);
	return __atomic_load_n(&packed->rig.used->idx, __ATOMIC_SEQ_CST) == (uint16_t)(i + 1);
}

/* Sleeps whenever a chain is out, and kicks only if asked to. */
static void *
drive(void *arg)
{
	struct handover *handover = arg;
	uint32_t i;

	for (i = 0; i < HANDOVERS; i++) {
		if (handover->is_packed)
			drive_packed(handover, i);
		else
			drive_split(handover, i);
		while (!driver_sees_it(handover, i)) {
			if (!wait_for_post(&handover->call)) {
				handover->lost = true;
				return NULL;
			}
		}
		handover->packed.used++;
	}
	return NULL;
}

/* Returns how many chains came. */
static uint32_t
serve(struct handover *handover)
{
	struct virtq *vq = handover->packed.rig.vq;
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
run_handover(bool is_packed, bool event_idx)
{
	struct virtq_opts opts = {.size = SIZE, .event_idx = event_idx};
	struct handover handover = {.is_packed = is_packed, .event_idx = event_idx};
	pthread_t driver;

	if (is_packed)
		packed_open_with(&handover.packed, &opts, 0);
	else
		split_open(&handover.packed.rig, SIZE, 0);
	sem_init(&handover.kick, 0, 0);
	sem_init(&handover.call, 0, 0);
	assert_int_equal(pthread_create(&driver, NULL, drive, &handover), 0);
	assert_int_equal(serve(&handover), HANDOVERS);
	pthread_join(driver, NULL);
	assert_false(handover.lost);
	sem_destroy(&handover.kick);
	sem_destroy(&handover.call);
	packed_close(&handover.packed);
}

static void
test_no_wake_up_is_lost_split_event_idx(void **state)
{
	(void)state;
	run_handover(false, true);
}

static void
test_no_wake_up_is_lost_packed(void **state)
{
	(void)state;
	run_handover(true, false);
}

static void
test_no_wake_up_is_lost_packed_event_idx(void **state)
{
	(void)state;
	run_handover(true, true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_call_when_the_event_is_passed),
		cmocka_unit_test(test_split_call_once_per_event),
		cmocka_unit_test(test_split_no_call_is_lost),
		cmocka_unit_test(test_split_kicks_on_and_off),
		cmocka_unit_test(test_split_no_kick_is_lost),
		cmocka_unit_test(test_split_no_kick_while_polling),
		cmocka_unit_test(test_packed_call_when_the_event_is_passed),
		cmocka_unit_test(test_packed_call_by_flags),
		cmocka_unit_test(test_packed_event_inside_a_chain),
		cmocka_unit_test(test_packed_kicks_on_and_off),
		cmocka_unit_test(test_packed_off_is_written_once),
		cmocka_unit_test(test_no_wake_up_is_lost_split_event_idx),
		cmocka_unit_test(test_no_wake_up_is_lost_packed),
		cmocka_unit_test(test_no_wake_up_is_lost_packed_event_idx),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
