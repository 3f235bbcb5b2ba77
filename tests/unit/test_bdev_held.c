/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests that are held back: their end, or their release, before their time. */
/* links: bdev testlib thread env */
#include <errno.h>

#include "bdev_fake.h"
#include "ticks.h"

#define PAGE     4096
#define REQUESTS 24

static uint8_t data[REQUESTS][PAGE];
static struct bdev *upper; /* the disk itself, or one on top of it */
static struct bdev_desc *desc;
static struct bdev_channel *channel, *neighbour, *other; /* two on one thread, one on another */
static struct rig_request *requests[REQUESTS];

/* ---- a disk ---- */

struct rate_call {
	const char *name;
	uint64_t per_second;
};

static void
set_run(void *arg)
{
	const struct rate_call *call = arg;

	bdev_set_rates(bdev_by_name(call->name),
		       (const uint64_t[BDEV_RATES]){[BDEV_RATE_IOS] = call->per_second});
}

static void
set_ios(const char *name, uint64_t per_second)
{
	rig_run(set_run, &(struct rate_call){name, per_second});
}

static void
delay_run(void *arg)
{
	const struct bdev_delay_opts opts = {
		.name = "slow", .base = "low", .latency_us = {1000000, 1000000, 1000000, 1000000}};

	bdev_delay_create(&opts, arg, &rig_err);
}

static void
start(bool delay)
{
	struct bdev_info info = fake_info("low");

	ticks_advance_us(1000000);
	info.max_discard_bytes = 1024;
	fake.ops.max_transfer = 2048;
	assert_int_equal(fake_register(&info), 0);
	upper = fake.bdev;
	if (delay) {
		upper = NULL;
		rig_run(delay_run, &upper);
		assert_non_null(upper);
	}
	desc = rig_open(bdev_get_info(upper)->name, true);
	channel = rig_channel(desc, rig_io[0]);
	neighbour = rig_channel(desc, rig_io[0]);
	other = rig_channel(desc, rig_io[1]);
	for (int i = 0; i < REQUESTS; i++)
		requests[i] = rig_request_new(upper);
}

static void
stop(void)
{
	for (int i = 0; i < REQUESTS; i++) {
		assert_true(requests[i]->finishes == 0 || requests[i]->finished);
		free(requests[i]);
	}
	rig_channel_put(channel, rig_io[0]);
	rig_channel_put(neighbour, rig_io[0]);
	rig_channel_put(other, rig_io[1]);
	rig_close(desc);
	if (upper != fake.bdev)
		assert_int_equal(rig_delete("slow", "delay"), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
	assert_int_equal(fake.channels, 0);
}

static void
submit_to(struct bdev_channel *to, struct thread *thread, unsigned int i, uint8_t type,
	  uint64_t length)
{
	rig_request_set(requests[i], type, i * PAGE, data[i], length);
	if (type > BDEV_WRITE)
		requests[i]->rq.iovcnt = 0;
	rig_submit(to, thread, requests[i]);
}

static void
submit(unsigned int i, uint8_t type)
{
	submit_to(channel, rig_io[0], i, type, 512);
}

/* Limits give nothing for time in which nobody looked. */
static void
pass_ms(unsigned int ms)
{
	for (; ms > 0; ms -= 10) {
		ticks_advance_us(10000);
		rig_settle();
	}
}

/* ---- ending them ---- */

static bool
is_odd(struct bdev_request *rq, void *ctx)
{
	assert_ptr_equal(ctx, data);
	return rq->offset / PAGE % 2 == 1;
}

static void
abort_odd(void)
{
	thread_set_current(rig_io[0]);
	bdev_abort_held(channel, is_odd, data);
	thread_set_current(NULL);
}

static bool
release(void)
{
	bool found;

	thread_set_current(rig_io[0]);
	found = bdev_release_held(channel);
	thread_set_current(NULL);
	return found;
}

static void
expect_over(unsigned int i, int status)
{
	assert_true(requests[i]->finished);
	assert_int_equal(requests[i]->finishes, 1);
	assert_int_equal(requests[i]->status, status);
	requests[i]->finishes = 0;
}

static unsigned int
count_finished(unsigned int first, unsigned int end)
{
	unsigned int count = 0;

	for (; first < end; first++)
		count += requests[first]->finished;
	return count;
}

/* ---- rate limits ---- */

/* Only those that are meant end; they cost nothing, and the rest keep their turns. */
static void
test_abort_limited(void **state)
{
	(void)state;
	start(false);
	set_ios("low", 1);
	for (unsigned int i = 0; i < 6; i++)
		submit(i, BDEV_WRITE);
	submit_to(neighbour, rig_io[0], 7, BDEV_WRITE, 512);
	submit_to(other, rig_io[1], 9, BDEV_WRITE, 512);
	assert_int_equal(fake.logged, 1); /* the first one was in time */
	expect_over(0, 0);
	abort_odd();
	expect_over(1, -ECANCELED);
	expect_over(3, -ECANCELED);
	expect_over(5, -ECANCELED);
	assert_int_equal(count_finished(0, 10), 4);
	assert_int_equal(fake.logged, 1);
	pass_ms(4100);
	expect_over(2, 0);
	expect_over(4, 0);
	expect_over(7, 0);
	expect_over(9, 0);
	assert_int_equal(fake.logged, 5);
	stop();
}

static unsigned int again;

static void
submit_again(struct bdev_request *rq, int status)
{
	rig_request_done(rq, status);
	submit(again++, BDEV_WRITE);
	thread_set_current(rig_io[0]);
}

/* Who is told may submit the next one at once, which is held back as any. */
static void
test_abort_and_submit(void **state)
{
	(void)state;
	start(false);
	set_ios("low", 1);
	again = 11;
	for (unsigned int i = 0; i < 6; i++) {
		rig_request_set(requests[i], BDEV_WRITE, i * PAGE, data[i], 512);
		requests[i]->rq.done = i == 0 ? rig_request_done : submit_again;
		rig_submit(channel, rig_io[0], requests[i]);
	}
	abort_odd();
	assert_int_equal(again, 14);
	assert_int_equal(count_finished(11, 14), 0);
	abort_odd();
	expect_over(11, -ECANCELED);
	expect_over(13, -ECANCELED);
	assert_false(requests[12]->finished);
	set_ios("low", 0);
	assert_int_equal(again, 16);
	expect_over(12, 0);
	stop();
}

/* All go to the device, and count: the limit holds for both together. */
static void
test_release_limited(void **state)
{
	(void)state;
	start(false);
	assert_false(release());
	set_ios("low", 1);
	for (unsigned int i = 0; i < 6; i++)
		submit(i, BDEV_WRITE);
	submit_to(neighbour, rig_io[0], 7, BDEV_WRITE, 512);
	fake.flushes = 0;
	assert_true(release());
	assert_false(release());
	assert_true(fake.flushes > 0);
	assert_int_equal(count_finished(0, 6), 6);
	for (unsigned int i = 0; i < 6; i++)
		expect_over(i, 0);
	assert_false(requests[7]->finished);
	submit(8, BDEV_WRITE);
	pass_ms(5900);
	assert_int_equal(count_finished(6, 9), 0);
	pass_ms(2200);
	expect_over(7, 0);
	expect_over(8, 0);
	stop();
}

/* ---- what waits for the device ---- */

/* The drain goes on waiting for the device; those that wait for the drain need not. */
static void
test_abort_behind_reset(void **state)
{
	(void)state;
	start(false);
	fake.delayed = true;
	submit(0, BDEV_WRITE);
	submit_to(channel, rig_io[0], 2, BDEV_RESET, 0);
	rig_settle();
	submit(1, BDEV_WRITE);
	submit(3, BDEV_IO_TYPES); /* nothing was checked yet */
	submit(4, BDEV_WRITE);
	submit_to(neighbour, rig_io[0], 5, BDEV_WRITE, 512);
	assert_false(release());
	abort_odd();
	expect_over(1, -ECANCELED);
	expect_over(3, -ECANCELED);
	assert_int_equal(count_finished(0, 6), 2);
	assert_int_equal(fake.logged, 2);
	assert_true(fake_complete_one(rig_io[0]));
	rig_settle();
	expect_over(0, 0);
	expect_over(2, 0);
	assert_true(fake_complete_one(rig_io[0]) && fake_complete_one(rig_io[0]));
	expect_over(4, 0);
	expect_over(5, 0);
	stop();
}

/* Of those that are split only so many are begun. */
static void
test_abort_before_pieces(void **state)
{
	(void)state;
	start(false);
	fake.delayed = true;
	for (unsigned int i = 0; i < 20; i++) {
		rig_request_set(requests[i], BDEV_WRITE, i * PAGE, data[i], PAGE);
		requests[i]->rq.flags = BDEV_FUA;
		rig_submit(channel, rig_io[0], requests[i]);
	}
	assert_int_equal(fake.logged, 16);
	abort_odd();
	expect_over(17, -ECANCELED);
	expect_over(19, -ECANCELED);
	assert_int_equal(count_finished(0, 20), 2);
	fake.delayed = false;
	while (fake_complete_one(rig_io[0]))
		;
	assert_int_equal(count_finished(0, 20), 20);
	assert_int_equal(requests[1]->status, 0);
	assert_int_equal(requests[18]->status, 0);
	assert_int_equal(fake.logged, 18 * 3); /* two pieces and a flush each */
	stop();
}

/* ---- delays ---- */

/* What is done below ends as it did there. */
static void
test_late(void **state)
{
	(void)state;
	start(true);
	submit(0, BDEV_WRITE);
	fake.fail_at = 1;
	fake.fail_status = -EIO;
	submit(1, BDEV_WRITE);
	submit_to(neighbour, rig_io[0], 3, BDEV_READ, 512);
	submit(5, BDEV_READ);
	abort_odd();
	expect_over(1, -EIO);
	expect_over(5, 0);
	assert_int_equal(count_finished(0, 6), 2);
	submit(2, BDEV_READ);
	assert_true(release());
	assert_false(release());
	expect_over(0, 0);
	expect_over(2, 0);
	assert_false(requests[3]->finished);
	pass_ms(1100);
	expect_over(3, 0);
	assert_int_equal(thread_next_due(rig_io[0]), UINT64_MAX);
	stop();
}

/* What the device has still is not late afterwards. */
static void
test_not_late_any_more(void **state)
{
	(void)state;
	start(true);
	fake.delayed = true;
	for (unsigned int i = 0; i < 3; i++)
		submit(i, BDEV_WRITE);
	abort_odd();
	fake.delayed = false;
	while (fake_complete_one(rig_io[0]))
		;
	assert_int_equal(count_finished(0, 3), 1);
	expect_over(1, 0);
	/* The next time it is. */
	submit(1, BDEV_WRITE);
	assert_false(requests[1]->finished);
	assert_true(release());
	expect_over(0, 0);
	expect_over(1, 0);
	expect_over(2, 0);
	stop();
}

/* A limit below: also of a piece, which is nobody's but its parent's. */
static void
test_limited_below(void **state)
{
	(void)state;
	start(true);
	set_ios("low", 1);
	submit(0, BDEV_DISCARD);
	expect_over(0, 0);
	submit_to(channel, rig_io[0], 1, BDEV_DISCARD, PAGE);
	submit(2, BDEV_WRITE);
	submit(3, BDEV_WRITE);
	submit_to(neighbour, rig_io[0], 5, BDEV_WRITE, 512);
	assert_int_equal(fake.logged, 1);
	abort_odd();
	expect_over(1, -ECANCELED);
	expect_over(3, -ECANCELED);
	assert_int_equal(count_finished(1, 6), 2);
	assert_int_equal(fake.logged, 1);
	assert_true(release());
	expect_over(2, 0);
	assert_false(requests[5]->finished);
	assert_int_equal(fake.logged, 2);
	submit_to(channel, rig_io[0], 4, BDEV_DISCARD, PAGE);
	for (int i = 0; i < 4; i++)
		assert_true(release()); /* piece by piece */
	assert_false(release());
	expect_over(4, 0);
	set_ios("low", 0);
	pass_ms(1100);
	expect_over(5, 0);
	stop();
}

#define held_test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		held_test(test_abort_limited),       held_test(test_abort_and_submit),
		held_test(test_release_limited),     held_test(test_abort_behind_reset),
		held_test(test_abort_before_pieces), held_test(test_late),
		held_test(test_not_late_any_more),   held_test(test_limited_below),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
