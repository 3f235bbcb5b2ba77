/* SPDX-License-Identifier: BSD-3-Clause */
/* links: nvme thread testlib env */
/* ldflags: -Wl,--wrap=log_write */
/*
 * Requests on queue pairs: they are sent, wait, are tried again, time out; and a device that
 * answers what nobody asked.
 */
#include "env.h"
#include "nvme_qpair_rig.h"

#define FAILED  0x2006u /* Internal Error, bits that do not matter set */
#define LOST    (NVME_SCT_MEDIA << NVME_SCT_SHIFT | NVME_SC_READ_ERROR)
#define REST_US 100000u /* before the second retry */

/* ---- sending and completing ---- */

static void
test_one(void **state)
{
	uint64_t length = RIG_PAGE;
	uint32_t hint = 0;
	struct nvme_qpair_stats stats;
	struct nvme_sqe sqe;

	(void)state;
	ON_THREAD(prepare(5, nvme_cmd_write); ops[5].request.command.cdw12 = 0x40000007;
		  ops[5].request.command.cdw13 = 13; ops[5].request.command.cdw15 = 15;
		  nvme_qpair_submit(qpair, &ops[5].request));
	assert_int_equal(rig_told(qpair), 0);
	ON_THREAD(nvme_qpair_flush(qpair));
	assert_int_equal(rig_told(qpair), 1);
	sqe = rig_take(qpair);
	assert_int_equal(sqe.opcode, nvme_cmd_write);
	assert_int_equal(sqe.flags, 0);
	assert_int_equal(sqe.nsid, 1);
	assert_int_equal(sqe.cdw2 | sqe.cdw3 | sqe.mptr | sqe.cdw11 | sqe.cdw14, 0);
	assert_int_equal(sqe.cdw10, 5);
	assert_int_equal(sqe.cdw12, 0x40000007);
	assert_int_equal(sqe.cdw13, 13);
	assert_int_equal(sqe.cdw15, 15);
	assert_int_equal(sqe.prp1,
			 dma_translate(rig_memory.space, ops[5].iov.iov_base, &length, &hint));
	assert_int_equal(sqe.prp2, 0);
	run();
	expect_waiting(5);
	rig_complete(qpair, sqe.cid, 0);
	run();
	expect_done(5, 0);
	assert_int_equal(ops[5].request.status, 0);
	assert_int_equal(rig_memory.doorbells[3], 1);
	nvme_qpair_get_stats(qpair, &stats);
	assert_int_equal(stats.commands, 1);
	assert_int_equal(stats.doorbells, 2);
	assert_int_equal(stats.copied | stats.waited, 0);
}

static void
test_no_data(void **state)
{
	struct nvme_sqe sqe;

	(void)state;
	ON_THREAD(prepare(0, nvme_cmd_flush); ops[0].request.length = 0; ops[0].request.iov = NULL;
		  ops[0].request.iovcnt = 0; nvme_qpair_submit(qpair, &ops[0].request));
	/* The poller rings, too. */
	run();
	sqe = rig_take(qpair);
	assert_int_equal(sqe.prp1 | sqe.prp2, 0);
	rig_complete(qpair, sqe.cid, 0);
	run();
	expect_done(0, 0);
}

/* Out of order, round and round, each identifier in flight once. */
static void
test_many(void **state)
{
	uint16_t cids[SLOTS], count = 0;
	uint32_t sent = 0, random = 12345;

	(void)state;
	for (uint32_t round = 0; round < 3000; round++) {
		random = random * 1664525 + 1013904223;
		if (count < SLOTS && random >> 31 != 0) {
			ON_THREAD(submit(sent % OPS); nvme_qpair_flush(qpair));
			cids[count] = take(sent++ % OPS);
			for (uint16_t i = 0; i < count; i++)
				assert_int_not_equal(cids[i], cids[count]);
			count++;
		} else if (count > 0) {
			uint16_t i = (uint16_t)((random >> 16) % count);

			rig_complete(qpair, cids[i], 0);
			cids[i] = cids[--count];
			run();
			assert_int_equal(done_count, sent - count);
		}
	}
	while (count > 0)
		rig_complete(qpair, cids[--count], 0);
	run();
	assert_int_equal(done_count, sent);
}

static void
test_full(void **state)
{
	struct nvme_qpair_stats stats;

	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < 20; i++) submit(i));
	/* The device hears of them at once, since it is full. */
	assert_int_equal(rig_told(qpair), SLOTS);
	nvme_qpair_get_stats(qpair, &stats);
	assert_int_equal(stats.waited, 20 - SLOTS);
	assert_int_equal(stats.doorbells, 1);
	for (uint32_t i = 0; i < 20; i++) {
		rig_complete(qpair, take(i), 0);
		run();
		expect_done(i, 0);
		assert_int_equal(ops[i].order, i);
	}
}

/* done() may submit: what waits goes first. */
static void
test_submit_in_done(void **state)
{
	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < SLOTS + 1; i++) submit(i));
	for (uint32_t i = 0; i < SLOTS + 1; i++)
		ops[i].next = prepare(20 + i, nvme_cmd_read);
	for (uint32_t i = 0; i < SLOTS + 1; i++) {
		rig_complete(qpair, take(i), 0);
		run();
	}
	for (uint32_t i = 0; i < SLOTS + 1; i++) {
		rig_complete(qpair, take(20 + i), 0);
		run();
		expect_done(20 + i, 0);
	}
}

/* The completions of one poll are bounded. */
static void
test_batch(void **state)
{
	(void)state;
	ON_THREAD(submit(0));
	ops[0].next = &ops[0];
	poll_once(rig.thread);
	/* A device that completes each at once, as fast as it is asked. */
	for (uint32_t i = 0; i < 1000; i++) {
		poll_once(rig.thread);
		rig_complete(qpair, rig_take(qpair).cid, 0);
		poll_once(rig.thread);
	}
	ops[0].next = NULL;
	rig_complete(qpair, rig_take(qpair).cid, 0);
	run();
	assert_int_equal(ops[0].done, 1001);
	ops[0].done = 1;
}

static void
test_copies(void **state)
{
	static uint8_t buffer[3 * MAX_DATA + 1];
	struct nvme_sqe sqe;

	(void)state;
	/* Not aligned: through DMA memory. 32 of these buffers would be allowed. */
	assert_int_equal(qpair->buffer_count, NVME_MAX_BUFFERS);
	ON_THREAD(prepare(0, nvme_cmd_read); prepare(1, nvme_cmd_write));
	ops[0].iov = (struct iovec){buffer + 1, MAX_DATA};
	ops[1].iov = (struct iovec){buffer + 1 + MAX_DATA, MAX_DATA};
	ops[0].request.length = MAX_DATA;
	ops[1].request.length = MAX_DATA;
	memset(buffer, 0x11, sizeof(buffer));
	ON_THREAD(nvme_qpair_submit(qpair, &ops[0].request);
		  nvme_qpair_submit(qpair, &ops[1].request));
	run();
	sqe = rig_take(qpair);
	memset(rig_at(sqe.prp1, RIG_PAGE), 0x22, RIG_PAGE);
	rig_complete(qpair, sqe.cid, 0);
	sqe = rig_take(qpair);
	assert_int_equal(*(uint8_t *)rig_at(sqe.prp1, MAX_DATA), 0x11);
	rig_complete(qpair, sqe.cid, 0);
	run();
	expect_done(0, 0);
	expect_done(1, 0);
	assert_int_equal(buffer[0], 0x11);
	assert_int_equal(buffer[1], 0x22);
	assert_int_equal(buffer[RIG_PAGE], 0x22);
	assert_int_equal(qpair->free_buffer_count, qpair->buffer_count);
}

/* No buffer: the next ones wait, in order, also those that need none. */
static void
test_wait_for_buffer(void **state)
{
	static uint8_t buffer[MAX_DATA];

	(void)state;
	qpair->free_buffer_count = 1;
	ON_THREAD(for (uint32_t i = 0; i < 3; i++) prepare(i, nvme_cmd_write));
	for (uint32_t i = 0; i < 2; i++) {
		ops[i].iov = (struct iovec){buffer, MAX_DATA};
		ops[i].request.length = MAX_DATA;
	}
	ON_THREAD(for (uint32_t i = 0; i < 3; i++) nvme_qpair_submit(qpair, &ops[i].request));
	run();
	assert_int_equal(rig_told(qpair), 1);
	rig_complete(qpair, take(0), 0);
	run();
	rig_complete(qpair, take(1), 0);
	rig_complete(qpair, take(2), 0);
	run();
	for (uint32_t i = 0; i < 3; i++)
		expect_done(i, 0);
	qpair->free_buffer_count = qpair->buffer_count;
}

/* What cannot be sent ends, and not inside of submit(). */
static void
test_impossible(void **state)
{
	(void)state;
	ON_THREAD(prepare(0, nvme_cmd_read); ops[0].iov.iov_len = 512;
		  nvme_qpair_submit(qpair, &ops[0].request); submit(1));
	expect_waiting(0);
	assert_false(nvme_qpair_arm(qpair));
	run();
	expect_done(0, -EINVAL);
	rig_complete(qpair, take(1), 0);
	run();
	expect_done(1, 0);
}

/* ---- errors ---- */

/* The first time at once, then later and later. */
static void
test_retries(void **state)
{
	(void)state;
	ON_THREAD(submit(0); submit(1));
	run();
	take(0);
	rig_complete(qpair, take(1), 0);
	rig_complete(qpair, ops[0].request.cid, FAILED);
	run();
	rig_complete(qpair, take(0), FAILED);
	run();
	/* It has no slot, and the thread may sleep. */
	assert_int_equal(qpair->free_count, SLOTS);
	assert_true(nvme_qpair_arm(qpair));
	pass(REST_US - RIG_LOOK_US / 2);
	assert_int_equal(rig_told(qpair), 0);
	expect_waiting(0);
	pass(RIG_LOOK_US);
	rig_complete(qpair, take(0), 0);
	run();
	expect_done(0, 0);
	assert_int_equal(ops[0].request.status, 0);
	expect_done(1, 0);
	assert_int_equal(log_capture_count(), 0);

	/* The device has it for the third time, and that is the last. */
	ON_THREAD(submit(2));
	for (uint32_t i = 0; i < 3; i++) {
		pass(REST_US + RIG_LOOK_US);
		rig_complete(qpair, take(2), FAILED);
		run();
	}
	expect_done(2, -EIO);
	assert_int_equal(ops[2].request.status, NVME_SC_INTERNAL);
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), "Internal Error"));
}

/* What is not ready for a second gets one. */
static void
test_long_rests(void **state)
{
	uint64_t begin = env_ticks();

	(void)state;
	rig.ctrlr.retries = NVME_RETRIES_MAX;
	ON_THREAD(submit(0));
	run();
	for (uint32_t i = 0; i < 12; i++) {
		rig_complete(qpair, take(0), NVME_SC_NS_NOT_READY);
		run();
		while (rig_told(qpair) == 0)
			pass(RIG_LOOK_US);
	}
	/* 0.1 + 0.2 + 0.4 + 0.8 + 7 * 1.6 s, each up to 0.2 s more. */
	assert_true(env_ticks() - begin > 12700000 * TICKS_PER_US);
	assert_true(env_ticks() - begin < 15000000 * TICKS_PER_US);
	rig_complete(qpair, take(0), 0);
	run();
	expect_done(0, 0);
}

/* Those that rest, and what comes of them when the controller stops. */
static void
test_stop_resting(void **state)
{
	(void)state;
	ON_THREAD(submit(0); submit(1));
	for (uint32_t i = 0; i < 2; i++) {
		run();
		rig_complete(qpair, take(0), FAILED);
		rig_complete(qpair, take(1), FAILED);
	}
	run();
	assert_int_equal(rig_told(qpair), 0);
	ON_THREAD(nvme_qpair_stop(qpair));
	pass(REST_US + RIG_LOOK_US);
	create_and_start();
	rig_complete(qpair, take(0), FAILED);
	take(1);
	run();
	expect_done(0, -EIO);
	expect_waiting(1);

	ON_THREAD(submit(2));
	for (uint32_t i = 0; i < 2; i++) {
		run();
		rig_complete(qpair, take(2), FAILED);
	}
	run();
	ON_THREAD(nvme_qpair_fail(qpair, -ENODEV));
	expect_done(1, -ENODEV);
	expect_done(2, -ENODEV);
}

/* What its submitter has revoked is not sent again: not what rests, waits, or fails then. */
static void
test_revoked(void **state)
{
	static _Atomic bool revoked;

	(void)state;
	revoked = false;
	ON_THREAD(for (uint32_t i = 0; i < SLOTS + 1; i++) submit(i)->request.revoked = &revoked);
	for (uint32_t i = 0; i < 2; i++) {
		run();
		rig_complete(qpair, take(0), FAILED);
		if (i == 0) {
			for (uint32_t other = 1; other < SLOTS; other++)
				take(other);
		}
	}
	run();
	/* The last one has got the place of the first one, which rests. */
	take(SLOTS);
	ON_THREAD(submit(SLOTS + 1)->request.revoked = &revoked; submit(SLOTS + 2));
	revoked = true;
	rig_complete(qpair, ops[1].request.cid, FAILED);
	rig_complete(qpair, ops[2].request.cid, 0);
	run();
	expect_done(1, -EIO);
	expect_done(2, 0);
	expect_done(SLOTS + 1, -ENODEV);
	pass(REST_US + RIG_LOOK_US);
	expect_done(0, -ENODEV);
	/* Nothing of that is in the way of others. */
	rig_complete(qpair, take(SLOTS + 2), 0);
	run();
	expect_done(SLOTS + 2, 0);
	/* After a reset neither. */
	ON_THREAD(nvme_qpair_stop(qpair));
	create_and_start();
	for (uint32_t i = 3; i <= SLOTS; i++)
		expect_done(i, -ENODEV);
	assert_int_equal(qpair->queue.in_flight, 0);
}

static void
test_final(void **state)
{
	static const struct {
		uint16_t status;
		int rc;
	} cases[] = {
		{NVME_DNR | NVME_SC_INTERNAL, -EIO},
		{LOST, -ENODATA},
		{0x280, -ENODATA},
		{0x2ff, -EIO},
		{NVME_SC_LBA_RANGE, -EINVAL},
		{NVME_SC_CAP_EXCEEDED, -ENOSPC},
		{NVME_SC_NS_WRITE_PROTECTED, -EROFS},
		{NVME_SC_INVALID_OPCODE, -EOPNOTSUPP},
		{0x285, -ENODATA},
		{NVME_DNR | 0x7c5, -EIO},
		{NVME_DNR | 0x282, -EILSEQ},
		{NVME_DNR | NVME_SC_ABORT_REQ, -ECANCELED},
	};

	(void)state;
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ON_THREAD(submit(i));
		run();
		rig_complete(qpair, take(i), cases[i].status);
		run();
		expect_done(i, cases[i].rc);
		assert_int_equal(ops[i].request.status, cases[i].status);
	}
	assert_string_equal(nvme_status_name(0x285), "Compare Failure");
	assert_string_equal(nvme_status_name(0x7c5 | NVME_DNR), "status 0x7c5");
	assert_string_equal(nvme_status_name(0), "Successful Completion");
	assert_int_equal(nvme_status_errno(0), 0);
}

/* A guest that reads a bad block again and again does not fill the log. */
static void
test_failures_in_the_log(void **state)
{
	const uint32_t failures = 200;
	size_t lines;

	(void)state;
	for (uint32_t i = 0; i < failures; i++) {
		ON_THREAD(submit(i));
		run();
		rig_complete(qpair, take(i), LOST);
		run();
		expect_done(i, -ENODATA);
	}
	lines = log_capture_count();
	assert_in_range(lines, 1, 10);
	pass(RIG_LOOK_US);
	assert_int_equal(log_capture_count(), lines + 1);
	assert_non_null(strstr(log_capture_last(), "more commands have failed"));
	pass(RIG_LOOK_US);
	assert_int_equal(log_capture_count(), lines + 1);
	/* The next one is said again. */
	ON_THREAD(submit(0));
	run();
	rig_complete(qpair, take(0), LOST);
	run();
	assert_int_equal(log_capture_count(), lines + 2);
}

/* It is sent again with a slot of its own though the queue was full. */
static void
test_retry_when_full(void **state)
{
	uint16_t cids[SLOTS];

	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < SLOTS + 3; i++) submit(i));
	for (uint32_t i = 0; i < SLOTS; i++)
		cids[i] = take(i);
	rig_complete(qpair, cids[3], FAILED);
	run();
	rig_complete(qpair, take(3), 0);
	run();
	expect_done(3, 0);
	assert_ptr_equal(rig_slot(qpair, cids[3]), rig_slot(qpair, ops[3].request.cid));
	cids[3] = take(SLOTS);
	for (uint32_t i = 0; i < SLOTS; i++)
		rig_complete(qpair, cids[i], 0);
	run();
	rig_complete(qpair, take(SLOTS + 1), 0);
	rig_complete(qpair, take(SLOTS + 2), 0);
	run();
	assert_int_equal(done_count, SLOTS + 3);
}

static void
expect_distrust(void)
{
	run();
	assert_int_equal(qpair->state, NVME_QPAIR_STOPPED);
	assert_int_equal(rig.timeout_count, 1);
	assert_int_equal(rig.timeouts[0].qpair, 1);
	assert_int_equal(rig.timeouts[0].cid, UINT16_MAX);
	/* It stays so, until it is made again. */
	rig_complete(qpair, ops[0].request.cid, 0);
	ON_THREAD(nvme_qpair_start(qpair));
	run();
	expect_waiting(0);
	assert_int_equal(rig.timeout_count, 1);
	create_and_start();
	rig_complete(qpair, take(0), 0);
	run();
	expect_done(0, 0);
}

static void
test_unknown_cid(void **state)
{
	(void)state;
	submit_and_take(0);
	rig_complete(qpair, ops[0].request.cid ^ 1, 0);
	expect_distrust();
}

static void
test_large_cid(void **state)
{
	(void)state;
	submit_and_take(0);
	rig_complete(qpair, SLOTS, 0);
	expect_distrust();
}

static void
test_largest_cid(void **state)
{
	(void)state;
	submit_and_take(0);
	rig_complete(qpair, 0xffff, 0);
	expect_distrust();
}

static void
test_twice(void **state)
{
	uint16_t cid;

	(void)state;
	submit_and_take(1);
	cid = ops[1].request.cid;
	submit_and_take(0);
	rig_complete(qpair, cid, 0);
	rig_complete(qpair, cid, 0);
	expect_distrust();
	expect_done(1, 0);
}

/* The second time is not taken for the end of what has its slot now. */
static void
test_twice_and_used_again(void **state)
{
	(void)state;
	submit_and_take(1);
	rig_complete(qpair, ops[1].request.cid, 0);
	run();
	expect_done(1, 0);
	submit_and_take(0);
	rig_complete(qpair, ops[1].request.cid, 0);
	expect_distrust();
}

static void
test_wrong_head(void **state)
{
	(void)state;
	submit_and_take(0);
	rig_complete_as(qpair,
			(struct nvme_cqe){.cid = ops[0].request.cid, .sqid = 1, .sqhd = QUEUE_SIZE},
			0);
	expect_distrust();
}

/* ---- time-outs ---- */

static void
test_timeout_and_abort(void **state)
{
	uint16_t cid;

	(void)state;
	ON_THREAD(submit(0));
	run();
	cid = take(0);
	pass(RIG_TIMEOUT_US);
	assert_int_equal(rig.timeout_count, 0);
	pass(RIG_LOOK_US);
	assert_int_equal(rig.timeout_count, 1);
	assert_int_equal(rig.timeouts[0].cid, cid);
	/* Once. */
	pass(RIG_TIMEOUT_US);
	assert_int_equal(rig.timeout_count, 1);
	expect_waiting(0);
	/* The control path aborts it: it ends, and is tried again, by another identifier. */
	atomic_store(&rig_slot(qpair, cid)->abort, NVME_ABORT_ACTIVE);
	rig_complete(qpair, cid, NVME_SC_ABORT_REQ);
	run();
	assert_int_equal(atomic_load(&rig_slot(qpair, cid)->abort), NVME_ABORT_ENDED);
	expect_waiting(0);
	assert_ptr_not_equal(rig_slot(qpair, take(0)), rig_slot(qpair, cid));
	/* All but that one. */
	ON_THREAD(for (uint32_t i = 1; i < SLOTS + 1; i++) submit(i));
	for (uint32_t i = 1; i < SLOTS - 1; i++)
		assert_ptr_not_equal(rig_slot(qpair, take(i)), rig_slot(qpair, cid));
	pass(RIG_LOOK_US);
	assert_int_equal(rig_told(qpair), 0);
	atomic_store(&rig_slot(qpair, cid)->abort, NVME_ABORT_NONE);
	pass(RIG_LOOK_US);
	assert_ptr_equal(rig_slot(qpair, take(SLOTS - 1)), rig_slot(qpair, cid));
	cid = ops[SLOTS - 1].request.cid;
	/* It was sent again a while ago, the last one now. */
	pass(RIG_TIMEOUT_US);
	assert_int_equal(rig.timeout_count, SLOTS);
	for (uint16_t i = 0; i < SLOTS; i++) {
		if (qpair->slots[i].cid != cid)
			rig_complete(qpair, qpair->slots[i].cid, NVME_DNR | NVME_SC_ABORT_REQ);
	}
	run();
	expect_done(0, -ETIMEDOUT);
	rig_complete(qpair, cid, 0);
	rig_complete(qpair, take(SLOTS), 0);
	run();
	expect_done(SLOTS, 0);
}

/* It ends by itself, whoever wanted to abort it or not. */
static void
test_late(void **state)
{
	(void)state;
	submit_and_take(0);
	submit_and_take(1);
	pass(RIG_TIMEOUT_US + RIG_LOOK_US);
	assert_int_equal(rig.timeout_count, 2);
	atomic_store(&rig_slot(qpair, ops[0].request.cid)->abort, NVME_ABORT_WANTED);
	rig_complete(qpair, ops[0].request.cid, 0);
	rig_complete(qpair, ops[1].request.cid, 0);
	run();
	expect_done(0, 0);
	expect_done(1, 0);
	assert_int_equal(qpair->free_count, SLOTS - 1);
	assert_int_equal(qpair->held, 1);
	assert_int_equal(atomic_load(&rig_slot(qpair, ops[1].request.cid)->abort), NVME_ABORT_NONE);
}

/* What was completed while the thread slept is not late; also what it would look at later. */
static void
test_late_thread(void **state)
{
	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < OPS; i++) submit(i));
	run();
	for (uint32_t i = 0; i < OPS; i++)
		rig_complete(qpair, take(i), 0);
	ticks_advance_us(10 * RIG_TIMEOUT_US);
	run();
	assert_int_equal(done_count, OPS);
	assert_int_equal(rig.timeout_count, 0);
}

static void
test_no_timeout(void **state)
{
	(void)state;
	atomic_store(&rig.ctrlr.io_timeout_ticks, 0);
	submit_and_take(0);
	pass(1000ull * RIG_TIMEOUT_US);
	assert_int_equal(rig.timeout_count, 0);
	rig_complete(qpair, ops[0].request.cid, 0);
	run();
	expect_done(0, 0);
}
/* ---- fused pairs ---- */

static void
submit_pair(uint32_t i)
{
	prepare(i, nvme_cmd_compare)->request.command.fuse = NVME_SQE_FUSED_FIRST;
	prepare(i + 1, nvme_cmd_write)->request.command.fuse = NVME_SQE_FUSED_SECOND;
	nvme_qpair_submit_fused(qpair, &ops[i].request, &ops[i + 1].request);
}

static void
take_pair(uint32_t i, uint16_t cids[2])
{
	struct nvme_sqe first = rig_take(qpair), second = rig_take(qpair);

	assert_int_equal(first.flags, NVME_SQE_FUSED_FIRST);
	assert_int_equal(second.flags, NVME_SQE_FUSED_SECOND);
	assert_int_equal(first.cdw10, i);
	assert_int_equal(second.cdw10, i + 1);
	cids[0] = first.cid;
	cids[1] = second.cid;
}

static void
test_fused(void **state)
{
	uint16_t cids[2];

	(void)state;
	ON_THREAD(submit_pair(0));
	run();
	take_pair(0, cids);
	rig_complete(qpair, cids[1], 0);
	run();
	expect_waiting(0);
	expect_waiting(1);
	rig_complete(qpair, cids[0], 0);
	run();
	expect_done(0, 0);
	expect_done(1, 0);
	assert_true(ops[0].order < ops[1].order);
	/* Blocks that differ. */
	ON_THREAD(submit_pair(2));
	run();
	take_pair(2, cids);
	rig_complete(qpair, cids[0], 0x285);
	rig_complete(qpair, cids[1], NVME_SC_FUSED_FAIL);
	run();
	expect_done(2, -ENODATA);
	expect_done(3, -ECANCELED);
	assert_int_equal(log_capture_count(), 0);
	/* Both are sent again, because of either. */
	ON_THREAD(submit_pair(4));
	for (uint32_t i = 0; i < 3; i++) {
		pass(REST_US + RIG_LOOK_US);
		take_pair(4, cids);
		rig_complete(qpair, cids[0], i == 0 ? NVME_SC_INTERNAL : 0);
		rig_complete(qpair, cids[1], i == 0 ? NVME_SC_FUSED_FAIL : i == 1 ? FAILED : 0);
		run();
	}
	expect_done(4, 0);
	expect_done(5, 0);
}

/* Both or none, and nothing between them. */
static void
test_fused_when_full(void **state)
{
	uint16_t cids[2], taken[SLOTS];

	(void)state;
	ON_THREAD(for (uint32_t i = 0; i < SLOTS - 1; i++) submit(i); submit_pair(20); submit(30);
		  submit_pair(22));
	for (uint32_t i = 0; i < SLOTS - 1; i++)
		taken[i] = take(i);
	assert_int_equal(rig_told(qpair), 0);
	rig_complete(qpair, taken[0], 0);
	run();
	take_pair(20, cids);
	assert_int_equal(rig_told(qpair), 0);
	rig_complete(qpair, cids[0], FAILED);
	rig_complete(qpair, cids[1], NVME_SC_FUSED_FAIL);
	run();
	take_pair(20, cids);
	rig_complete(qpair, cids[0], 0);
	rig_complete(qpair, cids[1], 0);
	for (uint32_t i = 1; i < SLOTS - 1; i++)
		rig_complete(qpair, taken[i], 0);
	run();
	rig_complete(qpair, take(30), 0);
	take_pair(22, cids);
	rig_complete(qpair, cids[0], 0);
	rig_complete(qpair, cids[1], 0);
	run();
	assert_int_equal(done_count, SLOTS - 1 + 5);
}

/* A pair of which half may have been carried out is not sent again. */
static void
test_fused_reset(void **state)
{
	uint16_t cids[2];

	(void)state;
	ON_THREAD(submit_pair(0); submit_pair(2));
	run();
	take_pair(0, cids);
	rig_complete(qpair, cids[0], 0);
	run();
	ON_THREAD(nvme_qpair_stop(qpair); submit_pair(4));
	run();
	assert_int_equal(done_count, 0);
	create_and_start();
	expect_done(0, 0);
	expect_done(1, -EIO);
	expect_done(2, -EIO);
	expect_done(3, -EIO);
	take_pair(4, cids);
	rig_complete(qpair, cids[1], 0);
	run();
	ON_THREAD(nvme_qpair_fail(qpair, -ENODEV));
	expect_done(4, -ENODEV);
	expect_done(5, -ENODEV);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		LIVE(test_one),
		LIVE(test_no_data),
		LIVE(test_many),
		LIVE(test_full),
		LIVE(test_submit_in_done),
		LIVE(test_batch),
		LIVE(test_copies),
		LIVE(test_wait_for_buffer),
		LIVE(test_impossible),
		LIVE(test_retries),
		LIVE(test_long_rests),
		LIVE(test_stop_resting),
		LIVE(test_revoked),
		LIVE(test_final),
		LIVE(test_failures_in_the_log),
		LIVE(test_retry_when_full),
		LIVE(test_unknown_cid),
		LIVE(test_large_cid),
		LIVE(test_largest_cid),
		LIVE(test_twice),
		LIVE(test_twice_and_used_again),
		LIVE(test_wrong_head),
		LIVE(test_timeout_and_abort),
		LIVE(test_late),
		cmocka_unit_test_setup_teardown(test_late_thread, setup_large, teardown),
		LIVE(test_no_timeout),
		LIVE(test_fused),
		LIVE(test_fused_when_full),
		LIVE(test_fused_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
