/* SPDX-License-Identifier: BSD-3-Clause */
/* links: nvme thread env */
/* Rings of NVMe queues: wrap-around, phase, doorbells and their shadows, completions that lie. */
#include "nvme_memory_rig.h"

#include "nvme/queue.h"

#define ENTRIES 8

static struct nvme_queue queue;
static struct errmsg err;

/* The device's side of the completion queue. */
static struct {
	uint32_t tail;
	bool phase;
} device;

static int
setup(void **state)
{
	(void)state;
	rig_memory_setup();
	memset(&queue, 0, sizeof(queue));
	assert_int_equal(
		nvme_queue_alloc(&queue, &rig_memory.transport, 3, ENTRIES, RIG_PAGE, &err), 0);
	assert_int_equal(nvme_queue_reset(&queue, 0, NULL, NULL), 0);
	device.tail = 0;
	device.phase = true;
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	nvme_queue_free(&queue);
	rig_memory_teardown();
	return 0;
}

static void
push(uint16_t cid)
{
	struct nvme_sqe *sqe = nvme_queue_next(&queue);

	*sqe = (struct nvme_sqe){.opcode = 2, .cid = cid};
	nvme_queue_push(&queue);
}

static void
complete(uint16_t cid, uint16_t sqhd)
{
	struct nvme_cqe *ring = rig_at(queue.cq_iova, ENTRIES * sizeof(*ring));

	ring[device.tail] = (struct nvme_cqe){
		.dw0 = 0x1000u + cid, .sqhd = sqhd, .sqid = 3, .cid = cid, .status = device.phase};
	if (++device.tail == ENTRIES) {
		device.tail = 0;
		device.phase = !device.phase;
	}
}

static void
test_many_rounds(void **state)
{
	const struct nvme_sqe *ring = rig_at(queue.sq_iova, ENTRIES * sizeof(*ring));
	uint32_t taken = 0;
	uint16_t cid = 0;

	(void)state;
	for (uint32_t round = 0; round < 100; round++) {
		const uint32_t count = 1 + round % (ENTRIES - 1);
		struct nvme_cqe cqe;

		for (uint32_t i = 0; i < count; i++)
			push((uint16_t)(cid + i));
		assert_int_equal(nvme_queue_space(&queue), ENTRIES - 1 - count);
		nvme_queue_ring(&queue);
		assert_int_equal(rig_memory.doorbells[6], (taken + count) % ENTRIES);
		assert_false(nvme_queue_has_completion(&queue));
		assert_int_equal(nvme_queue_pop(&queue, &cqe), 0);
		for (uint32_t i = 0; i < count; i++) {
			assert_int_equal(ring[taken].cid, cid + i);
			taken = (taken + 1) % ENTRIES;
			complete((uint16_t)(cid + i), (uint16_t)taken);
		}
		for (uint32_t i = 0; i < count; i++) {
			assert_true(nvme_queue_has_completion(&queue));
			assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
			assert_int_equal(cqe.cid, cid + i);
			assert_int_equal(cqe.dw0, 0x1000 + cid + i);
		}
		assert_int_equal(nvme_queue_pop(&queue, &cqe), 0);
		assert_int_equal(nvme_queue_space(&queue), ENTRIES - 1);
		nvme_queue_release(&queue);
		assert_int_equal(rig_memory.doorbells[7], taken);
		cid = (uint16_t)(cid + count);
	}
	/* One store of each kind a round. */
	assert_int_equal(queue.doorbells, 200);
}

static void
test_nothing_new_rings_nothing(void **state)
{
	(void)state;
	rig_memory.doorbells[6] = 77;
	rig_memory.doorbells[7] = 78;
	nvme_queue_ring(&queue);
	nvme_queue_release(&queue);
	assert_int_equal(queue.doorbells, 0);
	push(1);
	nvme_queue_ring(&queue);
	nvme_queue_ring(&queue);
	assert_int_equal(queue.doorbells, 1);
	assert_int_equal(rig_memory.doorbells[6], 1);
	assert_int_equal(rig_memory.doorbells[7], 78);
}

/* The phase of the round before is no completion, and neither is zeroed memory. */
static void
test_phase(void **state)
{
	struct nvme_cqe cqe;

	(void)state;
	push(1);
	device.phase = false;
	complete(1, 1);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), 0);
	device.tail = 0;
	device.phase = true;
	complete(1, 1);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
	/* Others of the same round that were never written. */
	assert_int_equal(nvme_queue_pop(&queue, &cqe), 0);
}

static void
test_lies(void **state)
{
	struct nvme_cqe cqe;

	(void)state;
	/* A completion of nothing. */
	complete(1, 0);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), -EPROTO);
	assert_int_equal(nvme_queue_space(&queue), ENTRIES - 1);
	/* Outside of the queue. */
	push(5);
	complete(5, ENTRIES);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), -EPROTO);
	assert_int_equal(cqe.cid, 5);
	complete(5, 0xffff);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), -EPROTO);
	/* The last place is within. */
	complete(5, ENTRIES - 1);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
}

static void
test_reset(void **state)
{
	struct nvme_cqe cqe;

	(void)state;
	for (uint16_t i = 0; i < ENTRIES - 1; i++)
		push(i);
	assert_int_equal(nvme_queue_space(&queue), 0);
	nvme_queue_ring(&queue);
	for (uint16_t i = 0; i < ENTRIES - 1; i++)
		complete(i, 1);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
	assert_int_equal(nvme_queue_reset(&queue, 0, NULL, NULL), 0);
	assert_false(nvme_queue_has_completion(&queue));
	assert_int_equal(nvme_queue_space(&queue), ENTRIES - 1);
	device.tail = 0;
	device.phase = true;
	push(9);
	nvme_queue_ring(&queue);
	assert_int_equal(rig_memory.doorbells[6], 1);
	complete(9, 1);
	assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
	assert_int_equal(cqe.cid, 9);
}

static void
test_places_of_doorbells(void **state)
{
	(void)state;
	assert_int_equal(nvme_queue_reset(&queue, 2, NULL, NULL), 0);
	push(1);
	nvme_queue_ring(&queue);
	assert_int_equal(rig_memory.doorbells[6 * 4], 1);
	/* Up to the last one that is mapped, and not beyond. */
	rig_memory.transport.doorbells_size = 8 * sizeof(uint32_t);
	assert_int_equal(nvme_queue_reset(&queue, 0, NULL, NULL), 0);
	rig_memory.transport.doorbells_size = 8 * sizeof(uint32_t) - 1;
	assert_int_equal(nvme_queue_reset(&queue, 0, NULL, NULL), -ENODEV);
	assert_int_equal(nvme_queue_reset(&queue, 15, NULL, NULL), -ENODEV);
}

static void
test_large_pages(void **state)
{
	(void)state;
	for (uint32_t page = RIG_PAGE; page <= 65536; page *= 2) {
		struct nvme_queue aligned;

		assert_int_equal(
			nvme_queue_alloc(&aligned, &rig_memory.transport, 1, 2, page, &err), 0);
		assert_int_equal(aligned.sq_iova % page, 0);
		assert_int_equal(aligned.cq_iova % page, 0);
		assert_ptr_equal(rig_at(aligned.sq_iova, page), aligned.sqes);
		assert_ptr_equal(rig_at(aligned.cq_iova, page), aligned.cqes);
		nvme_queue_free(&aligned);
	}
}

/* ---- shadow doorbells ---- */

static uint32_t shadows[1024], events[1024];

static void
test_shadows(void **state)
{
	uint32_t stores = 0;

	(void)state;
	memset(shadows, 0xff, sizeof(shadows));
	memset(events, 0xff, sizeof(events));
	assert_int_equal(nvme_queue_reset(&queue, 0, shadows, events), 0);
	assert_int_equal(shadows[6] | shadows[7] | events[6] | events[7], 0);
	assert_int_equal(shadows[5] & shadows[8] & events[5] & events[8], UINT32_MAX);
	/*
	 * The device, which waits at each place in turn, hears of the entry that is put there, and
	 * of no other; round and round.
	 */
	for (uint32_t i = 0; i < 5 * ENTRIES; i++) {
		struct nvme_cqe cqe;

		events[6] = i % 3 == 0 ? i % ENTRIES : (i + ENTRIES - 1) % ENTRIES;
		push((uint16_t)i);
		nvme_queue_ring(&queue);
		stores += i % 3 == 0;
		assert_int_equal(shadows[6], (i + 1) % ENTRIES);
		assert_int_equal(queue.doorbells, stores);
		if (i % 3 == 0)
			assert_int_equal(rig_memory.doorbells[6], (i + 1) % ENTRIES);
		complete((uint16_t)i, 0);
		assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
		/* Of completions it never hears. */
		events[7] = (i + ENTRIES - 1) % ENTRIES;
		nvme_queue_release(&queue);
		assert_int_equal(shadows[7], (i + 1) % ENTRIES);
	}
	assert_int_equal(rig_memory.doorbells[7], 0);
}

/* Several entries at once, over the end of the ring. */
static void
test_shadows_of_several(void **state)
{
	(void)state;
	for (uint32_t event = 0; event < ENTRIES; event++) {
		struct nvme_cqe cqe;

		assert_int_equal(nvme_queue_reset(&queue, 0, shadows, events), 0);
		device.tail = 0;
		device.phase = true;
		for (uint16_t i = 0; i < ENTRIES - 2; i++) {
			push(i);
			complete(i, 0);
			assert_int_equal(nvme_queue_pop(&queue, &cqe), 1);
		}
		nvme_queue_ring(&queue);
		queue.doorbells = 0;
		events[6] = event;
		/* 6, 7, 0, 1 */
		for (uint16_t i = 0; i < 4; i++)
			push(i);
		nvme_queue_ring(&queue);
		assert_int_equal(shadows[6], 2);
		assert_int_equal(queue.doorbells, event >= 6 || event < 2);
	}
}

/* A queue whose shadow is not in the page has none. */
static void
test_shadows_beyond_the_page(void **state)
{
	(void)state;
	rig_memory.transport.doorbells_size = 1u << 20;
	assert_int_equal(nvme_queue_reset(&queue, 8, shadows, events), 0);
	assert_null(queue.sq_doorbell.shadow);
	assert_null(queue.cq_doorbell.shadow);
	assert_int_equal(nvme_queue_reset(&queue, 7, shadows, events), 0);
	assert_non_null(queue.sq_doorbell.shadow);
	assert_non_null(queue.cq_doorbell.shadow);
	rig_memory.transport.doorbells_size = sizeof(rig_memory.doorbells);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_many_rounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_new_rings_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_phase, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_places_of_doorbells, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shadows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shadows_of_several, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shadows_beyond_the_page, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
