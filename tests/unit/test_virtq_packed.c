/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/* Packed rings: chains of any layout, buffer ids, the ring's end, and what the driver sees when. */
#include "virtq_packed_rig.h"

#include <errno.h>

#define TABLE (A_GPA + 0x8000)

/* ---- making a queue ---- */

static void
test_layout(void **state)
{
	struct virtq_layout layout = virtq_layout(256, true, true);

	(void)state;
	assert_int_equal(layout.desc.bytes, 256 * 16);
	assert_int_equal(layout.desc.align, 16);
	assert_int_equal(layout.avail.bytes, 4);
	assert_int_equal(layout.avail.align, 4);
	assert_int_equal(layout.used.bytes, 4);
	assert_int_equal(layout.used.align, 4);
	layout = virtq_layout(256, false, false);
	assert_int_equal(layout.desc.bytes, 256 * 16);
	assert_int_equal(layout.avail.bytes, 4 + 2 * 256);
	assert_int_equal(layout.avail.align, 2);
	assert_int_equal(layout.used.bytes, 4 + 8 * 256);
	assert_int_equal(layout.used.align, 4);
	layout = virtq_layout(256, false, true);
	assert_int_equal(layout.avail.bytes, 6 + 2 * 256);
	assert_int_equal(layout.used.bytes, 6 + 8 * 256);
	layout = virtq_layout(VIRTQ_MAX_SIZE, false, true);
	assert_int_equal(layout.used.bytes, 6 + 8 * 32768);
}

static void
test_create_checks(void **state)
{
	static const struct {
		const char *what;
		uint16_t size;
		uint32_t base;
		uint8_t desc, avail, used; /* misalignment */
		int rc;
	} cases[] = {
		{"new", 8, VIRTQ_PACKED_BASE_NEW, 0, 0, 0, 0},
		{"size 0", 0, VIRTQ_PACKED_BASE_NEW, 0, 0, 0, -EINVAL},
		{"size 3", 3, VIRTQ_PACKED_BASE_NEW, 0, 0, 0, -EINVAL},
		{"size 1", 1, VIRTQ_PACKED_BASE_NEW, 0, 0, 0, 0},
		{"size 32768", 32768, 0xffffffff, 0, 0, 0, 0},
		{"desc at 8", 8, VIRTQ_PACKED_BASE_NEW, 8, 0, 0, -EINVAL},
		{"driver's event at 2", 8, VIRTQ_PACKED_BASE_NEW, 0, 2, 0, -EINVAL},
		{"device's event at 2", 8, VIRTQ_PACKED_BASE_NEW, 0, 0, 2, -EINVAL},
		{"events at 4", 8, VIRTQ_PACKED_BASE_NEW, 0, 4, 4, 0},
		{"avail outside", 8, 0x80008008, 0, 0, 0, -EINVAL},
		{"used outside", 8, 0x80088000, 0, 0, 0, -EINVAL},
		{"far outside", 8, 0xffffffff, 0, 0, 0, -EINVAL},
		{"last of both", 8, 0x00070007, 0, 0, 0, 0},
		{"three in flight", 8, 0x80028005, 0, 0, 0, 0},
		{"three in flight over the end", 8, 0x80060001, 0, 0, 0, 0},
		{"all in flight", 8, 0x80030003, 0, 0, 0, 0},
		{"one more than all in flight", 8, 0x80030004, 0, 0, 0, -EINVAL},
		{"avail before used", 8, 0x80058004, 0, 0, 0, -EINVAL},
	};
	static _Alignas(16) uint8_t ring[64];
	struct rig rig;
	size_t i;

	(void)state;
	rig_open(&rig, 1);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtq_opts opts = {
			.size = cases[i].size,
			.packed = true,
			.desc = ring + cases[i].desc,
			.avail = ring + cases[i].avail,
			.used = ring + cases[i].used,
			.mem = rig.mem,
			.base = cases[i].base,
		};
		struct virtq *vq = NULL;
		int rc = virtq_create(&opts, &vq);

		if (rc != cases[i].rc)
			fail_msg("%s: %d", cases[i].what, rc);
		assert_true((rc == 0) == (vq != NULL));
		if (vq)
			assert_int_equal(virtq_base(vq), cases[i].base);
		virtq_destroy(vq);
	}
	rig_close(&rig);
}

/* ---- layouts ---- */

static void
test_request_of_three(void **state)
{
	struct virtq_slot *slot;
	struct packed_rig packed;

	(void)state;
	packed_open(&packed, 8);
	packed_put(&packed, A_GPA, 16, NEXT, 5);
	packed_put(&packed, C_GPA, 4096, NEXT | WRITE, 5);
	packed_put(&packed, D_GPA + D_SIZE - 1, 1, WRITE, 5);
	slot = packed_pop(&packed);
	assert_ptr_equal(slot, virtq_slot_at(packed.rig.vq, 5));
	assert_int_equal(slot->head, 5);
	assert_int_equal(slot->readable_count, 1);
	assert_int_equal(slot->writable_count, 2);
	assert_int_equal(slot->readable_bytes, 16);
	assert_int_equal(slot->writable_bytes, 4097);
	assert_ptr_equal(slot->iov, slot->inline_iov);
	rig_expect_iov(&packed.rig, &slot->iov[0], A_GPA, 16);
	rig_expect_iov(&packed.rig, &slot->iov[1], C_GPA, 4096);
	rig_expect_iov(&packed.rig, &slot->iov[2], D_GPA + D_SIZE - 1, 1);
	assert_int_equal(virtq_in_flight(packed.rig.vq), 1);
	assert_int_equal(virtq_base(packed.rig.vq), 0x80008003);
	virtq_push(packed.rig.vq, slot, 4097);
	assert_false(packed_is_used(&packed, 0));
	assert_int_equal(virtq_base(packed.rig.vq), 0x80008003);
	assert_true(virtq_publish(packed.rig.vq));
	packed_expect_used(&packed, 5, 4097, 3);
	assert_false(packed_is_used(&packed, 3));
	assert_int_equal(virtq_base(packed.rig.vq), 0x80038003);
	packed_close(&packed);
}

/*
 * The buffer id counts in the last descriptor only (virtio 1.2 §2.8.6): the first one's may be
 * anything, also an id that is in flight, with few or many buffers.
 */
static void
test_id_of_the_last_descriptor(void **state)
{
	static const uint16_t counts[] = {2, VIRTQ_INLINE_IOVS, VIRTQ_INLINE_IOVS + 1, 60};
	static const uint16_t first_ids[] = {9, 3, 64, UINT16_MAX};
	size_t i, j;
	uint16_t n;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		for (j = 0; j < ARRAY_SIZE(first_ids); j++) {
			struct virtq_slot *other, *slot;
			struct packed_rig packed;

			packed_open(&packed, 64);
			packed_put_small(&packed, 3);
			other = packed_pop(&packed);
			for (n = 0; n < counts[i]; n++)
				packed_put(&packed, A_GPA + n, n + 1,
					   n < counts[i] - 1 ? NEXT | WRITE : WRITE,
					   n < counts[i] - 1 ? first_ids[j] : 20);
			slot = packed_pop(&packed);
			assert_ptr_equal(slot, virtq_slot_at(packed.rig.vq, 20));
			assert_int_equal(slot->head, 20);
			assert_int_equal(slot->writable_count, counts[i]);
			for (n = 0; n < counts[i]; n++)
				rig_expect_iov(&packed.rig, &slot->iov[n], A_GPA + n, n + 1);
			rig_expect_iov(&packed.rig, &other->iov[0], A_GPA, 1);
			virtq_push(packed.rig.vq, slot, 7);
			virtq_push(packed.rig.vq, other, 0);
			virtq_publish(packed.rig.vq);
			packed_expect_used(&packed, 20, 7, counts[i]);
			packed_expect_used(&packed, 3, 0, 1);
			packed_close(&packed);
		}
	}
}

/* Tables at any alignment, and over borders. Flags but WRITE mean nothing in there. */
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
			struct packed_rig packed;
			uint32_t j;

			packed_open(&packed, 8);
			for (j = 0; j < counts[i]; j++) {
				struct vring_packed_desc desc = {
					.addr = A_GPA + 100 * j,
					.len = j + 1,
					.id = 0xffff - j,
					.flags = WRITE | (j % 2 ? 0xfffd : 0),
				};

				rig_write(&packed.rig, table + j * 16, &desc, sizeof(desc));
			}
			packed_put(&packed, table, counts[i] * 16, INDIRECT, 3);
			slot = packed_pop(&packed);
			assert_int_equal(slot->head, 3);
			assert_int_equal(slot->readable_count, 0);
			assert_int_equal(slot->writable_count, counts[i]);
			for (j = 0; j < counts[i]; j++)
				rig_expect_iov(&packed.rig, &slot->iov[j], A_GPA + 100 * j, j + 1);
			virtq_push(packed.rig.vq, slot, 1);
			virtq_publish(packed.rig.vq);
			packed_expect_used(&packed, 3, 1, 1);
			packed_close(&packed);
		}
	}
}

/* ---- rings ---- */

/*
 * Many times round rings of all sizes: `depth` chains of `descs` descriptors at a time, pushed in
 * reverse order.
 */
static void
go_round_with(struct virtq_opts *opts, uint16_t depth, uint16_t descs, uint32_t chains)
{
	struct virtq_slot **slots = calloc(depth + 1, sizeof(*slots));
	uint16_t size = opts->size;
	struct packed_rig packed;
	uint32_t done;
	uint16_t i, n;

	assert_non_null(slots);
	packed_open_with(&packed, opts, 65530);
	for (done = 0; done < chains; done += depth) {
		uint32_t place;

		for (i = 0; i < depth; i++)
			for (n = 0; n < descs; n++)
				packed_put(&packed, A_GPA + i % 1000, 1, n < descs - 1 ? NEXT : 0,
					   (done + i) % size);
		assert_int_equal(virtq_pop(packed.rig.vq, slots, depth + 1), depth);
		assert_int_equal(virtq_in_flight(packed.rig.vq), depth);
		for (i = 0; i < depth; i++)
			assert_int_equal(slots[i]->head, (done + i) % size);
		for (i = depth; i-- > 0;)
			virtq_push(packed.rig.vq, slots[i], i);
		assert_false(packed_is_used(&packed, packed.used));
		virtq_publish(packed.rig.vq);
		for (i = depth; i-- > 0;)
			packed_expect_used(&packed, (done + i) % size, i, descs);
		assert_false(packed_is_used(&packed, packed.used));
		assert_int_equal(packed.used, packed.next);
		place = packed_place(&packed, packed.next);
		assert_int_equal(virtq_base(packed.rig.vq), place | place << 16);
	}
	assert_null(virtq_broken(packed.rig.vq));
	packed_close(&packed);
	free(slots);
}

static void
go_round(uint16_t size, uint16_t depth, uint16_t descs, uint32_t chains)
{
	struct virtq_opts opts = {.size = size, .packed = true};

	go_round_with(&opts, depth, descs, chains);
	rig_track(&opts);
	go_round_with(&opts, depth, descs, chains);
	free(opts.inflight);
}

static void
test_round_and_round(void **state)
{
	(void)state;
	go_round(1, 1, 1, 66000);
	go_round(2, 1, 1, 66000);
	go_round(2, 2, 1, 66000);
	go_round(2, 1, 2, 66000);
	go_round(256, 1, 3, 66000);
	go_round(256, 85, 3, 66000);
	go_round(256, 256, 1, 66000);
	go_round(256, 1, 256, 2000);
	go_round(32768, 32768, 1, 3 * 32768);
	go_round(32768, 10922, 3, 3 * 32768);
	go_round(32768, 1, 32768, 5);
}

static void
test_pop_takes_at_most_max(void **state)
{
	struct virtq_slot *slots[64];
	struct packed_rig packed;
	uint16_t i;

	(void)state;
	packed_open(&packed, 64);
	for (i = 0; i < 64; i++)
		packed_put_small(&packed, i);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, 0), 0);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, 1), 1);
	assert_int_equal(virtq_pop(packed.rig.vq, slots + 1, 40), 40);
	assert_int_equal(virtq_base(packed.rig.vq), 0x80008029);
	assert_int_equal(virtq_pop(packed.rig.vq, slots + 41, 40), 23);
	for (i = 0; i < 64; i++)
		assert_int_equal(slots[i]->head, i);
	assert_int_equal(virtq_in_flight(packed.rig.vq), 64);
	/* The ring is full: its first descriptor is not taken for one of the next time round. */
	assert_int_equal(virtq_pop(packed.rig.vq, slots, 64), 0);
	assert_null(virtq_broken(packed.rig.vq));
	assert_int_equal(virtq_base(packed.rig.vq), 0x80000000);
	packed_close(&packed);
}

/* A queue that is stopped and made anew where it was, at every place of the ring. */
static void
test_go_on_at_the_base(void **state)
{
	struct packed_rig packed;
	int i;

	(void)state;
	packed_open(&packed, 8);
	for (i = 0; i < 100; i++) {
		struct virtq_slot *slot;

		packed_put(&packed, A_GPA, 1, NEXT, 1);
		packed_put(&packed, A_GPA, 1, NEXT, 1);
		packed_put(&packed, A_GPA, 1, 0, 1);
		slot = packed_pop(&packed);
		virtq_push(packed.rig.vq, slot, i);
		virtq_publish(packed.rig.vq);
		packed_expect_used(&packed, 1, i, 3);
		packed.rig.opts.base = virtq_base(packed.rig.vq);
		virtq_destroy(packed.rig.vq);
		packed.rig.vq = NULL;
		assert_int_equal(virtq_create(&packed.rig.opts, &packed.rig.vq), 0);
		assert_int_equal(virtq_base(packed.rig.vq), packed.rig.opts.base);
	}
	packed_close(&packed);
}

/* The driver stops at the first used descriptor, so all others may be there before it. */
static void
test_first_used_is_written_last(void **state)
{
	struct virtq_slot *slots[4];
	struct packed_rig packed;
	uint16_t i;

	(void)state;
	packed_open(&packed, 8);
	for (i = 0; i < 4; i++) {
		packed_put(&packed, A_GPA, 1, NEXT, i);
		packed_put(&packed, A_GPA, 1, 0, i);
	}
	assert_int_equal(virtq_pop(packed.rig.vq, slots, 4), 4);
	for (i = 0; i < 4; i++) {
		struct vring_packed_desc first = packed.ring[0];

		virtq_push(packed.rig.vq, slots[3 - i], 10 + i);
		assert_memory_equal(&first, &packed.ring[0], sizeof(first));
	}
	assert_true(virtq_publish(packed.rig.vq));
	for (i = 0; i < 4; i++)
		packed_expect_used(&packed, 3 - i, 10 + i, 2);
	/* What is in the middle of chains stays as it was. */
	assert_int_equal(packed.ring[1].flags, PACKED_AVAIL);
	assert_false(virtq_publish(packed.rig.vq));
	packed_close(&packed);
}

/* An id that was pushed, but not yet published: it is not the driver's, but does no harm. */
static void
test_id_before_it_is_published(void **state)
{
	struct virtq_slot *slot;
	struct packed_rig packed;

	(void)state;
	packed_open(&packed, 4);
	packed_put_small(&packed, 1);
	virtq_push(packed.rig.vq, packed_pop(&packed), 0);
	packed_put_small(&packed, 1);
	slot = packed_pop(&packed);
	assert_int_equal(slot->head, 1);
	virtq_push(packed.rig.vq, slot, 0);
	virtq_publish(packed.rig.vq);
	packed_expect_used(&packed, 1, 0, 1);
	packed_expect_used(&packed, 1, 0, 1);
	packed_close(&packed);
}

/* Longer chains than the pool has room for wait, also where the first id is misleading. */
static void
test_long_chains_wait_for_room(void **state)
{
	struct virtq_opts opts = {.size = 32768, .max_segments = VIRTQ_MAX_SIZE};
	struct virtq_slot *slots[64];
	struct packed_rig packed;
	uint32_t popped, i, n;

	(void)state;
	packed_open_with(&packed, &opts, 0);
	for (i = 0; i < 64; i++)
		for (n = 0; n < 10; n++)
			packed_put(&packed, A_GPA + i, 1, n < 9 ? NEXT : 0, n < 9 ? 1000 : i);
	popped = virtq_pop(packed.rig.vq, slots, 64);
	assert_in_range(popped, 1, 63);
	assert_null(virtq_broken(packed.rig.vq));
	assert_int_equal(virtq_base(packed.rig.vq), VIRTQ_PACKED_BASE_NEW + 10 * popped);
	assert_int_equal(virtq_pop(packed.rig.vq, slots + popped, 1), 0);
	assert_false(virtq_enable_kicks(packed.rig.vq));
	for (i = 0; i < 64; i++) {
		assert_int_equal(slots[i]->head, i);
		assert_int_equal(slots[i]->readable_count, 10);
		rig_expect_iov(&packed.rig, &slots[i]->iov[9], A_GPA + i, 1);
		virtq_push(packed.rig.vq, slots[i], 0);
		virtq_publish(packed.rig.vq);
		if (popped < 64) {
			assert_int_equal(virtq_pop(packed.rig.vq, slots + popped, 64), 1);
			popped++;
		}
	}
	assert_int_equal(virtq_in_flight(packed.rig.vq), 0);
	packed_close(&packed);
}

/* The first used descriptor of a batch is held back, the others would be in the ring at once. */
static void
test_abandon(void **state)
{
	struct vring_packed_desc before[4];
	struct vring_packed_desc_event event;
	struct virtq_slot *slots[3];
	struct packed_rig packed;
	uint16_t i;

	(void)state;
	packed_open(&packed, 4);
	for (i = 0; i < 4; i++)
		packed_put_small(&packed, i);
	assert_int_equal(virtq_pop(packed.rig.vq, slots, 3), 3);
	virtq_push(packed.rig.vq, slots[0], 5);
	memcpy(before, packed.ring, sizeof(before));
	event = *packed.device_event;
	virtq_abandon(packed.rig.vq);
	virtq_push(packed.rig.vq, slots[1], 5);
	virtq_push(packed.rig.vq, slots[2], 5);
	assert_false(virtq_publish(packed.rig.vq));
	virtq_disable_kicks(packed.rig.vq);
	assert_int_equal(virtq_in_flight(packed.rig.vq), 0);
	assert_memory_equal(before, packed.ring, sizeof(before));
	assert_memory_equal(&event, packed.device_event, sizeof(event));
	packed_close(&packed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_create_checks),
		cmocka_unit_test(test_request_of_three),
		cmocka_unit_test(test_id_of_the_last_descriptor),
		cmocka_unit_test(test_table_anywhere),
		cmocka_unit_test(test_round_and_round),
		cmocka_unit_test(test_pop_takes_at_most_max),
		cmocka_unit_test(test_go_on_at_the_base),
		cmocka_unit_test(test_first_used_is_written_last),
		cmocka_unit_test(test_id_before_it_is_published),
		cmocka_unit_test(test_long_chains_wait_for_room),
		cmocka_unit_test(test_abandon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
