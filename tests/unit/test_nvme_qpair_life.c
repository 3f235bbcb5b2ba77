/* SPDX-License-Identifier: BSD-3-Clause */
/* links: nvme thread testlib env */
/* ldflags: -Wl,--wrap=log_write */
/*
 * The life of a queue pair: it is stopped and started with the controller, passed from thread to
 * thread, and sleeps.
 */
#include <poll.h>

#include "nvme_qpair_rig.h"
#include "waiting.h"

/* ---- stop and start ---- */

static void
test_waits_for_creation(void **state)
{
	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < 10; i++) submit(i); nvme_qpair_flush(qpair));
	pass(100ull * RIG_TIMEOUT_US);
	assert_int_equal(rig.timeout_count, 0);
	assert_int_equal(done_count, 0);
	create_and_start();
	for (uint32_t i = 0; i < 10; i++) {
		rig_complete(qpair, take(i), 0);
		run();
	}
	assert_int_equal(done_count, 10);
}

static void
test_reset(void **state)
{
	uint16_t cids[SLOTS];

	(void)state;
	/* Some are done, so that identifiers are not in order. */
	ON_THREAD(for (uint32_t i = 0; i < SLOTS; i++) submit(i));
	run();
	for (uint32_t i = 0; i < SLOTS; i++)
		cids[i] = take(i);
	for (uint32_t i = 0; i < 5; i++)
		rig_complete(qpair, cids[(i * 3) % SLOTS], 0);
	run();
	ON_THREAD(for (uint32_t i = 10; i < 30; i++) submit(i); nvme_qpair_stop(qpair));
	/* What the device says now is not heard, and it is told nothing. */
	rig_complete(qpair, cids[1], 0);
	rig_memory.doorbells[2] = 0;
	ON_THREAD(submit(30); nvme_qpair_flush(qpair));
	pass(10ull * RIG_TIMEOUT_US);
	assert_int_equal(done_count, 5);
	assert_int_equal(rig_memory.doorbells[2], 0);
	assert_int_equal(rig.timeout_count, 0);
	create_and_start();
	/* 0, 3, 6, 2 and 5 are done. */
	rig_complete(qpair, take(1), 0);
	rig_complete(qpair, take(4), 0);
	run();
	for (uint32_t i = 10; i <= 30; i++) {
		rig_complete(qpair, take(i), 0);
		run();
		expect_done(i, 0);
	}
	assert_int_equal(done_count, SLOTS + 21);
	assert_int_equal(ops[10].request.retries, 1);
	assert_int_equal(ops[30].request.retries, 0);
}

/* Not for ever. */
static void
test_resets_use_up_retries(void **state)
{
	(void)state;
	submit_and_take(0);
	submit_and_take(1);
	for (uint32_t i = 0; i < 2; i++) {
		ON_THREAD(nvme_qpair_stop(qpair));
		create_and_start();
		take(0);
		take(1);
		expect_waiting(0);
	}
	submit_and_take(2);
	rig_slot(qpair, ops[1].request.cid)->flags |= NVME_SLOT_TIMED_OUT;
	ON_THREAD(nvme_qpair_stop(qpair));
	run();
	expect_waiting(0);
	create_and_start();
	expect_done(0, -EIO);
	expect_done(1, -ETIMEDOUT);
	expect_waiting(2);
	rig_complete(qpair, take(2), 0);
	run();
	expect_done(2, 0);
}

/* Copies go to the device again, and buffers are not lost. */
static void
test_reset_with_copies(void **state)
{
	static uint8_t buffer[MAX_DATA];
	struct nvme_sqe sqe;

	(void)state;
	ON_THREAD(prepare(0, nvme_cmd_write); ops[0].iov = (struct iovec){buffer, MAX_DATA};
		  ops[0].request.length = MAX_DATA; nvme_qpair_submit(qpair, &ops[0].request));
	run();
	take(0);
	ON_THREAD(nvme_qpair_stop(qpair));
	memset(buffer, 0x77, sizeof(buffer));
	create_and_start();
	sqe = rig_take(qpair);
	assert_int_equal(*(uint8_t *)rig_at(sqe.prp1, 1), 0x77);
	rig_complete(qpair, sqe.cid, 0);
	run();
	expect_done(0, 0);
	assert_int_equal(qpair->free_buffer_count, qpair->buffer_count);
}

static void
test_fail(void **state)
{
	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < SLOTS + 5; i++) submit(i); nvme_qpair_stop(qpair));
	ops[0].next = prepare(20, nvme_cmd_read);
	ON_THREAD(nvme_qpair_fail(qpair, -ENODEV));
	for (uint32_t i = 0; i < SLOTS + 5; i++) {
		expect_done(i, -ENODEV);
		assert_int_equal(ops[i].order, i);
	}
	/* Also what comes later, but not inside of submit(). */
	expect_waiting(20);
	assert_false(nvme_qpair_arm(qpair));
	run();
	expect_done(20, -ENODEV);
	assert_true(nvme_qpair_arm(qpair));
	ON_THREAD(nvme_qpair_fail(qpair, -EIO); submit(21));
	expect_waiting(21);
	run();
	expect_done(21, -EIO);
	/* And it may come back. */
	create_and_start();
	submit_and_take(22);
	rig_complete(qpair, ops[22].request.cid, 0);
	run();
	expect_done(22, 0);
}

/* A controller that is off for longer: time goes on. */
static void
test_park(void **state)
{
	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < SLOTS + 2; i++) submit(i));
	pass(RIG_TIMEOUT_US / 2);
	ON_THREAD(nvme_qpair_stop(qpair); nvme_qpair_park(qpair));
	pass(RIG_TIMEOUT_US / 2 + RIG_LOOK_US);
	/* Those that had not been sent are older. */
	assert_int_equal(done_count, 2);
	expect_done(SLOTS, -ETIMEDOUT);
	expect_done(SLOTS + 1, -ETIMEDOUT);
	ON_THREAD(submit(30));
	pass(RIG_TIMEOUT_US / 2);
	assert_int_equal(done_count, 2 + SLOTS);
	for (uint32_t i = 0; i < SLOTS; i++)
		expect_done(i, -ETIMEDOUT);
	ON_THREAD(nvme_qpair_park(qpair));
	create_and_start();
	rig_complete(qpair, take(30), 0);
	run();
	expect_done(30, 0);
	assert_int_equal(rig.timeout_count, 0);
}

static void
test_creation_fails(void **state)
{
	struct errmsg err;

	(void)state;
	rig.create_rc = -EIO;
	assert_int_equal(nvme_qpair_create(qpair, &err), -EIO);
	assert_false(qpair->created);
	rig.create_rc = 0;
	rig_memory.transport.doorbells_size = 8;
	assert_int_equal(nvme_qpair_create(qpair, &err), -ENODEV);
	rig_memory.transport.doorbells_size = sizeof(rig_memory.doorbells);
	create_and_start();
	submit_and_take(0);
	rig_complete(qpair, ops[0].request.cid, 0);
	run();
	expect_done(0, 0);
}
/* ---- threads that come and go ---- */

static void
test_handover(void **state)
{
	struct thread *other = thread_create("other", NULL);
	struct nvme_qpair *second, *third;
	uint16_t cid;

	(void)state;
	assert_non_null(other);
	submit_and_take(0);
	cid = ops[0].request.cid;
	pass(RIG_TIMEOUT_US + RIG_LOOK_US);
	atomic_store(&rig_slot(qpair, cid)->abort, NVME_ABORT_ACTIVE);
	rig_complete(qpair, cid, 0);
	run();
	expect_done(0, 0);
	thread_set_current(other);
	second = nvme_qpair_get(&rig.ctrlr);
	assert_ptr_equal(second, &rig.qpairs[1]);
	assert_ptr_equal(nvme_qpair_get(&rig.ctrlr), second);
	nvme_qpair_put(second);
	nvme_qpair_put(second);
	thread_set_current(NULL);
	poll_until_idle(&other, 1);
	ON_THREAD(nvme_qpair_put(qpair));
	run();
	/* The first one is free again, and goes on where it was: the device knows it. */
	thread_set_current(other);
	qpair = nvme_qpair_get(&rig.ctrlr);
	assert_ptr_equal(qpair, &rig.qpairs[0]);
	assert_int_equal(rig.wants, 3);
	submit(1);
	nvme_qpair_start(qpair);
	thread_set_current(NULL);
	poll_until_idle(&other, 1);
	rig_complete(qpair, take(1), 0);
	poll_until_idle(&other, 1);
	expect_done(1, 0);
	/* The slot that is being aborted is still not free. */
	assert_int_equal(qpair->held, 1);
	assert_int_equal(qpair->free_count, SLOTS - 1);
	atomic_store(&rig_slot(qpair, cid)->abort, NVME_ABORT_NONE);
	ticks_advance_us(RIG_LOOK_US);
	poll_until_idle(&other, 1);
	assert_int_equal(qpair->free_count, SLOTS);
	/* There are two of them. */
	ON_THREAD(second = nvme_qpair_get(&rig.ctrlr));
	assert_non_null(second);
	third = qpair;
	thread_set_current(other);
	nvme_qpair_put(third);
	thread_set_current(NULL);
	thread_finish(other);
	qpair = second;
}

static void
test_no_more(void **state)
{
	struct thread *others[RIG_QPAIRS];
	struct nvme_qpair *last = NULL;

	(void)state;
	for (uint32_t i = 0; i < RIG_QPAIRS; i++) {
		others[i] = thread_create("other", NULL);
		thread_set_current(others[i]);
		errno = 0;
		if (i < RIG_QPAIRS - 1)
			last = nvme_qpair_get(&rig.ctrlr);
		else
			assert_null(nvme_qpair_get(&rig.ctrlr));
	}
	assert_int_equal(errno, ENOSPC);
	thread_set_current(others[0]);
	nvme_qpair_put(last);
	thread_set_current(NULL);
	for (uint32_t i = 0; i < RIG_QPAIRS; i++)
		thread_finish(others[i]);
}

/* ---- sleeping ---- */

static bool
arms(void)
{
	bool armed = thread_arm(rig.thread);

	if (armed)
		thread_disarm(rig.thread);
	return armed;
}

static void
test_sleep_without_interrupts(void **state)
{
	(void)state;
	assert_true(arms());
	ON_THREAD(submit(0));
	assert_false(arms());
	run();
	/* Nobody would wake it. */
	assert_false(arms());
	rig_complete(qpair, take(0), 0);
	run();
	assert_true(arms());
	ON_THREAD(submit(1); nvme_qpair_stop(qpair));
	assert_true(arms());
	create_and_start();
	rig_complete(qpair, take(1), 0);
	run();
	expect_done(1, 0);
}

static bool
is_awake(void)
{
	struct pollfd fd = {.fd = thread_wait_fd(rig.thread), .events = POLLIN};

	return poll(&fd, 1, 0) == 1;
}

static void
test_sleep_with_interrupts(void **state)
{
	static const uint64_t one = 1;

	(void)state;
	rig.interrupt = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	create_and_start();
	ON_THREAD(submit(0));
	assert_false(arms());
	run();
	assert_true(thread_arm(rig.thread));
	assert_false(is_awake());
	rig_complete(qpair, take(0), 0);
	assert_int_equal(write(rig.interrupt, &one, sizeof(one)), sizeof(one));
	assert_true(is_awake());
	thread_disarm(rig.thread);
	/* A completion that is there is not slept on. */
	assert_false(arms());
	run();
	expect_done(0, 0);
	assert_true(arms());
	/* Eventfds may be others after a reset. */
	ON_THREAD(nvme_qpair_stop(qpair));
	close(rig.interrupt);
	rig.interrupt = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	create_and_start();
	submit_and_take(1);
	assert_true(thread_arm(rig.thread));
	rig_complete(qpair, ops[1].request.cid, 0);
	assert_int_equal(write(rig.interrupt, &one, sizeof(one)), sizeof(one));
	assert_true(is_awake());
	thread_disarm(rig.thread);
	run();
	expect_done(1, 0);
}

/* ---- interrupts of who polls anyway ---- */

static struct {
	_Atomic uint32_t switches;
	_Atomic bool on;
	int rc;
} vector = {.on = true};

static int
switch_interrupt(struct nvme_transport *transport, uint32_t number, bool on)
{
	(void)transport;
	assert_int_equal(number, 7);
	if (vector.rc == 0)
		atomic_store(&vector.on, on);
	atomic_fetch_add(&vector.switches, 1);
	return vector.rc;
}

static void
start_with_vector(int rc)
{
	static const struct nvme_transport_ops switching = {.switch_interrupt = switch_interrupt};

	rig.interrupt = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rig.ctrlr.ops = &switching;
	qpair->interrupt.vector = 7;
	qpair->interrupt.own = true;
	vector.rc = rc;
	atomic_store(&vector.switches, 0);
	assert_int_equal(work_pool_start(NULL), 0);
	create_and_start();
}

/* Until a worker has done what was asked for. */
static void
expect_switches(uint32_t count, bool on)
{
	WAIT_UNTIL(atomic_load(&qpair->interrupt.state) != NVME_INTERRUPT_SWITCHING);
	assert_int_equal(atomic_load(&vector.switches), count);
	assert_int_equal(atomic_load(&vector.on), on);
	assert_int_equal(atomic_load(&qpair->interrupt.state),
			 on ? NVME_INTERRUPT_ON : NVME_INTERRUPT_OFF);
}

static void
be_busy(uint32_t op)
{
	submit_and_take(op);
	rig_complete(qpair, ops[op].request.cid, 0);
	run();
	expect_done(op, 0);
	ticks_advance_us(RIG_LOOK_US);
	run();
}

static void
test_busy_threads_need_no_interrupts(void **state)
{
	(void)state;
	start_with_vector(0);
	be_busy(0);
	expect_switches(1, false);
	/* Who is busy leaves it as it is, and so does who sleeps with nothing under way. */
	be_busy(1);
	assert_true(arms());
	expect_switches(1, false);
	/* It is on before the thread sleeps, but not at once. */
	submit_and_take(2);
	assert_false(arms());
	expect_switches(1, false);
	for (int i = 1; i < 8; i++)
		assert_false(arms());
	expect_switches(2, true);
	assert_true(arms());
	rig_complete(qpair, ops[2].request.cid, 0);
	assert_false(arms());
	run();
	/* Who has slept may sleep again. */
	ticks_advance_us(RIG_LOOK_US);
	run();
	expect_switches(2, true);
	/* Nothing to do is no reason, either. */
	ticks_advance_us(RIG_LOOK_US);
	run();
	expect_switches(2, true);
	be_busy(3);
	expect_switches(3, false);
	/* Who would sleep again and again gets it, too. */
	submit_and_take(4);
	assert_false(arms());
	rig_complete(qpair, ops[4].request.cid, 0);
	run();
	ticks_advance_us(RIG_LOOK_US);
	run();
	expect_switches(4, true);
	be_busy(5);
	expect_switches(5, false);
	/* The device may count on it where the queues are made. */
	ON_THREAD(nvme_qpair_stop(qpair));
	nvme_interrupt_restore(qpair);
	expect_switches(6, true);
	create_and_start();
	work_pool_stop();
}

static void
test_interrupts_that_cannot_be_switched(void **state)
{
	(void)state;
	start_with_vector(-EINVAL);
	be_busy(0);
	expect_switches(1, true);
	be_busy(1);
	expect_switches(1, true);
	submit_and_take(2);
	assert_true(arms());
	rig_complete(qpair, ops[2].request.cid, 0);
	run();
	work_pool_stop();
}

static void
test_shared_interrupts_stay_on(void **state)
{
	(void)state;
	start_with_vector(0);
	qpair->interrupt.own = false;
	be_busy(0);
	be_busy(1);
	expect_switches(0, true);
	work_pool_stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		NEW(test_waits_for_creation),
		LIVE(test_reset),
		LIVE(test_resets_use_up_retries),
		LIVE(test_reset_with_copies),
		LIVE(test_fail),
		LIVE(test_park),
		NEW(test_creation_fails),
		LIVE(test_handover),
		LIVE(test_no_more),
		LIVE(test_sleep_without_interrupts),
		NEW(test_sleep_with_interrupts),
		NEW(test_busy_threads_need_no_interrupts),
		NEW(test_interrupts_that_cannot_be_switched),
		NEW(test_shared_interrupts_stay_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
