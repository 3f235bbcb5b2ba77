/* SPDX-License-Identifier: BSD-3-Clause */
/* Where slow virtio-blk requests spent their time, on a clock of the test's. */
/* links: vhost virtio bdev event testlib thread env */
#include "ticks.h"
#include "vhost_blk_rig.h"

#define SLOW_US 10000

static struct vhost_trace *trace;

static int
trace_setup(void **state)
{
	ticks_set(1000000 * TICKS_PER_US);
	return fake_setup(state);
}

static void
start_trace(void)
{
	start();
	/* Writes are one request each, without a flush behind them. */
	controller.ops->set_features(controller.device, 1ULL << VIRTIO_BLK_F_FLUSH);
	trace = controller.threads.threads[1].trace;
	guest.queue.index = 5;
	guest.queue.slow_ticks = SLOW_US * TICKS_PER_US;
	fake.delayed = true;
}

/* One poll, after so much time. */
static void
pass(uint64_t us)
{
	ticks_advance_us(us);
	poll_once(rig_io[1]);
}

static void
submit(uint32_t type, uint64_t sector, uint32_t bytes)
{
	bool in = type == VIRTIO_BLK_T_IN;
	struct segment segments[] = {{make_header(type, sector), 16, false},
				     {guest.memory + GUEST_SIZE / 2, bytes, in},
				     {guest_alloc(1), 1, true}};

	offer(segments, 3);
	serve();
}

static void
complete(void)
{
	assert_true(fake_complete_one(rig_io[1]));
	serve();
}

static void
expect(uint64_t number, uint64_t queue_us, uint64_t device_us)
{
	const struct vhost_trace_record *record = vhost_trace_at(trace, number);

	assert_int_equal(trace->recorded, number + 1);
	assert_int_equal(record->stages[VHOST_STAGE_QUEUE], queue_us * TICKS_PER_US);
	assert_int_equal(record->stages[VHOST_STAGE_DEVICE], device_us * TICKS_PER_US);
	assert_int_equal(record->queue, 5);
	assert_false(record->is_scsi);
}

static void
test_device(void **state)
{
	const struct vhost_trace_record *record;

	(void)state;
	start_trace();
	submit(VIRTIO_BLK_T_IN, 8, 4096);
	pass(SLOW_US - 1);
	complete();
	assert_int_equal(trace->recorded, 0);
	submit(VIRTIO_BLK_T_OUT, 24, 1024);
	pass(SLOW_US);
	complete();
	expect(0, 0, SLOW_US);
	record = &trace->records[0];
	assert_string_equal(record->type, "write");
	assert_string_equal(record->status, "OK");
	assert_int_equal(record->tag, 3); /* the second chain's head */
	assert_int_equal(record->lba, 24);
	assert_int_equal(record->blocks, 2);
	assert_true(guest.queue.traced);
	submit(VIRTIO_BLK_T_IN, 0, 512);
	fake.fail_at = 1;
	fake.fail_status = -ETIMEDOUT;
	pass(30 * SLOW_US);
	complete();
	expect(1, 0, 30 * SLOW_US);
	assert_string_equal(trace->records[1].type, "read");
	assert_string_equal(trace->records[1].status, "ETIMEDOUT");
	stop();
}

/* All of them, those too that take no time. */
static void
test_threshold_of_nothing(void **state)
{
	(void)state;
	start_trace();
	guest.queue.slow_ticks = 0;
	fake.delayed = false;
	submit(VIRTIO_BLK_T_FLUSH, 0, 0);
	expect(0, 0, 0);
	assert_string_equal(trace->records[0].type, "flush");
	stop();
}

/* ---- what waits before the device ---- */

static void
set_rate(void *arg)
{
	uint64_t rates[BDEV_RATES] = {[BDEV_RATE_IOS] = *(uint64_t *)arg};

	if (bdev_set_rates(fake.bdev, rates) != 0)
		abort();
}

static void
test_rate_limit(void **state)
{
	uint64_t rate = 20, waited_us = 0; /* 50 ms each */

	(void)state;
	start_trace();
	rig_run(set_rate, &rate);
	submit(VIRTIO_BLK_T_IN, 0, 512);
	assert_int_equal(fake.logged, 1);
	submit(VIRTIO_BLK_T_IN, 8, 512);
	assert_int_equal(fake.logged, 1);
	while (fake.logged == 1) {
		assert_true(waited_us < 60000);
		waited_us += 1000;
		pass(1000);
	}
	assert_true(waited_us >= 49000);
	complete();
	assert_int_equal(vhost_trace_at(trace, 0)->lba, 0);
	expect(0, 0, waited_us);
	pass(3000);
	complete();
	assert_int_equal(vhost_trace_at(trace, 1)->lba, 8);
	expect(1, waited_us, 3000);
	/* A request in the same slots after it has nothing of theirs. */
	rate = 0;
	rig_run(set_rate, &rate);
	submit(VIRTIO_BLK_T_IN, 8, 512);
	pass(SLOW_US);
	complete();
	expect(2, 0, SLOW_US);
	stop();
}

/* What is aborted while it waits never was with the device. */
static void
test_reset_of_what_waits(void **state)
{
	uint64_t rate = 1;
	struct bdev_desc *desc;
	struct bdev_channel *channel;
	struct rig_request *reset;

	(void)state;
	start_trace();
	desc = rig_open("disk-with-a-long-name", true);
	channel = rig_channel(desc, rig_io[1]);
	reset = rig_request_new(fake.bdev);
	fake.delayed = false;
	rig_run(set_rate, &rate);
	submit(VIRTIO_BLK_T_IN, 0, 512);
	submit(VIRTIO_BLK_T_IN, 8, 512);
	pass(20000);
	assert_int_equal(trace->recorded, 0);
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	rig_submit(channel, rig_io[1], reset);
	rig_settle();
	expect(0, 20000, 0);
	assert_string_equal(trace->records[0].status, "ECANCELED");
	serve();
	free(reset);
	rig_channel_put(channel, rig_io[1]);
	rig_close(desc);
	stop();
}

/* Sixteen that are done in pieces are under way; the next one waits for the end of one. */
static void
test_pieces(void **state)
{
	(void)state;
	fake.ops.max_transfer = 512;
	start_trace();
	for (uint64_t i = 0; i < 17; i++)
		submit(VIRTIO_BLK_T_IN, i * 8, 1024);
	assert_int_equal(fake.logged, 16);
	pass(SLOW_US);
	for (int i = 0; i < 16; i++)
		assert_true(fake_complete_one(rig_io[1])); /* first pieces */
	pass(1000);
	assert_true(fake_complete_one(rig_io[1]));
	expect(0, 0, SLOW_US + 1000);
	for (int i = 0; i < 15; i++)
		assert_true(fake_complete_one(rig_io[1]));
	assert_int_equal(trace->recorded, 16);
	pass(500);
	assert_true(fake_complete_one(rig_io[1]));
	pass(500);
	complete();
	expect(16, SLOW_US + 1000, 1000);
	assert_int_equal(vhost_trace_at(trace, 16)->lba, 16 * 8);
	assert_int_equal(vhost_trace_at(trace, 16)->blocks, 2);
	stop();
}

/* The one that waits is aborted: it never was with the device. */
static void
test_abort_before_the_pieces(void **state)
{
	(void)state;
	fake.ops.max_transfer = 512;
	start_trace();
	for (uint64_t i = 0; i < 17; i++)
		submit(VIRTIO_BLK_T_IN, i * 8, 1024);
	pass(SLOW_US);
	thread_set_current(rig_io[1]);
	bdev_abort_held(guest.queue.channel, NULL, NULL);
	thread_set_current(NULL);
	expect(0, SLOW_US, 0);
	assert_int_equal(trace->records[0].lba, 16 * 8);
	assert_string_equal(trace->records[0].status, "ECANCELED");
	while (fake_complete_one(rig_io[1]))
		;
	serve();
	stop();
}

/* ---- requests of several ranges ---- */

static void
test_ranges(void **state)
{
	struct virtio_blk_discard_write_zeroes *ranges;
	struct segment segments[3];

	(void)state;
	start_trace();
	ranges = guest_alloc(2 * sizeof(*ranges));
	ranges[0] = (struct virtio_blk_discard_write_zeroes){.sector = 8, .num_sectors = 8};
	ranges[1] = (struct virtio_blk_discard_write_zeroes){.sector = 80, .num_sectors = 4};
	segments[0] = (struct segment){make_header(VIRTIO_BLK_T_DISCARD, 0), 16, false};
	segments[1] = (struct segment){ranges, 2 * sizeof(*ranges), false};
	segments[2] = (struct segment){guest_alloc(1), 1, true};
	offer(segments, 3);
	serve();
	pass(SLOW_US / 2);
	assert_true(fake_complete_one(rig_io[1]));
	assert_int_equal(trace->recorded, 0);
	pass(SLOW_US / 2);
	complete();
	expect(0, 0, SLOW_US);
	assert_string_equal(trace->records[0].type, "discard");
	assert_int_equal(trace->records[0].lba, 80);
	/* Both together are less than that. */
	offer(segments, 3);
	serve();
	pass(SLOW_US / 2);
	assert_true(fake_complete_one(rig_io[1]));
	pass(SLOW_US / 2 - 1);
	complete();
	assert_int_equal(trace->recorded, 1);
	stop();
}

/* ---- the ring ---- */

static void
test_oldest_make_room(void **state)
{
	(void)state;
	start_trace();
	for (uint64_t i = 0; i < VHOST_TRACE_RECORDS + 44; i++) {
		guest.allocated = GUEST_SIZE / 4;
		submit(VIRTIO_BLK_T_IN, i, 512);
		pass(SLOW_US + i);
		complete();
		expect(i, 0, SLOW_US + i);
	}
	assert_int_equal(vhost_trace_first(trace), 44);
	for (uint64_t i = 44; i < VHOST_TRACE_RECORDS + 44; i++)
		assert_int_equal(vhost_trace_at(trace, i)->lba, i);
	/* None of them was whole until now; those that are gone do not matter. */
	assert_int_equal(trace->settled, 0);
	vhost_trace_settle(&guest.queue);
	assert_int_equal(trace->settled, trace->recorded);
	for (uint64_t i = 44; i < VHOST_TRACE_RECORDS + 44; i++)
		assert_null(vhost_trace_at(trace, i)->unsettled);
	stop();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, trace_setup, fake_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_device),     TEST(test_threshold_of_nothing),
		TEST(test_rate_limit), TEST(test_reset_of_what_waits),
		TEST(test_pieces),     TEST(test_abort_before_the_pieces),
		TEST(test_ranges),     TEST(test_oldest_make_room),
	};

	return cmocka_run_group_tests_name("vhost_trace", tests, NULL, NULL);
}
