/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Controllers of the NVMe driver with the software device, when something goes wrong while requests
 * are under way: time-outs, aborts, resets, failure, removal. Each request must end, once, and as
 * its data says.
 */
/* links: nvme thread env testlib */
#include "nvme_ctrlr_rig.h"

#include <pthread.h>
#include <stdatomic.h>

#include "nvme/ctrlr.h"

#define BLOCK    512u
#define REQUESTS 16
#define PENDING  12345

/* ---- requests ---- */

struct io {
	struct nvme_request request;
	struct iovec iov;
	uint8_t data[BLOCK];
	int rc;
};

static struct nvme_qpair *qpair;

static void
on_done(struct nvme_request *request, int rc)
{
	struct io *io = (struct io *)request;

	assert_int_equal(io->rc, PENDING);
	io->rc = rc;
}

static void
get_qpair(void)
{
	thread_set_current(rig.io);
	qpair = nvme_qpair_get(rig.ctrlr);
	thread_set_current(NULL);
	assert_non_null(qpair);
}

static void
put_qpair(void)
{
	thread_set_current(rig.io);
	nvme_qpair_put(qpair);
	thread_set_current(NULL);
	qpair = NULL;
}

static void
prepare(struct io *io, uint8_t opcode, uint64_t block)
{
	io->rc = PENDING;
	io->iov = (struct iovec){io->data, BLOCK};
	io->request = (struct nvme_request){
		.length = BLOCK, .iovcnt = 1, .iov = &io->iov, .done = on_done};
	nvme_command_range(&io->request.command, opcode, 1, block, 1, 0);
}

static void
submit(struct io *io, uint8_t opcode, uint64_t block)
{
	prepare(io, opcode, block);
	thread_set_current(rig.io);
	nvme_qpair_submit(qpair, &io->request);
	nvme_qpair_flush(qpair);
	thread_set_current(NULL);
}

static int
end_of(const struct io *io)
{
	rig_wait_for(io->rc != PENDING);
	return io->rc;
}

static int
run_io(uint8_t opcode, uint64_t block)
{
	static struct io io;

	submit(&io, opcode, block);
	return end_of(&io);
}

static void
attach(void)
{
	rig_attach();
	get_qpair();
	assert_int_equal(run_io(nvme_cmd_write, 0), 0);
	assert_int_equal(rig_info()->io_queues_used, 1);
}

static void
detach(void)
{
	put_qpair();
	rig_detach();
	rig_expect_no_violation();
}

static void
expect_still_good(void)
{
	assert_int_equal(rig_info()->state, NVME_LIVE);
	assert_int_equal(run_io(nvme_cmd_write, 5), 0);
	assert_int_equal(run_io(nvme_cmd_read, 5), 0);
}

/* ---- orders ---- */

struct order {
	int (*fn)(struct nvme_ctrlr *ctrlr, struct errmsg *err);
	int rc;
	struct errmsg err;
};

static void
order_main(void *arg)
{
	struct order *order = arg;

	order->rc = order->fn(rig.ctrlr, &order->err);
}

static int
order(int (*fn)(struct nvme_ctrlr *ctrlr, struct errmsg *err))
{
	static struct order given;

	given = (struct order){.fn = fn};
	rig_run(order_main, &given);
	assert_true((given.rc != 0) == (given.err.text[0] != '\0'));
	return given.rc;
}

static void
start_order(struct order *given, int (*fn)(struct nvme_ctrlr *ctrlr, struct errmsg *err))
{
	*given = (struct order){.fn = fn, .rc = PENDING};
	assert_int_equal(coroutine_start(rig.app, "test", order_main, given), 0);
}

/* ---- resets ---- */

static void
test_reset(void **state)
{
	struct order orders[4];

	(void)state;
	attach();
	assert_int_equal(order(nvme_reset), 0);
	assert_int_equal(rig_info()->resets, 1);
	expect_still_good();
	assert_true(rig.events[NVME_EVENT_STATE] > 0);
	/* Those that come together are one. */
	for (int i = 0; i < 4; i++)
		start_order(&orders[i], nvme_reset);
	for (int i = 0; i < 4; i++)
		rig_wait_for(orders[i].rc == 0);
	assert_int_equal(rig_info()->resets, 2);
	expect_still_good();
	detach();
}

static void
test_fatal(void **state)
{
	(void)state;
	attach();
	rig_control("fatal");
	rig_wait_for(rig_info()->resets == 1 && rig_info()->state == NVME_LIVE);
	expect_still_good();
	/* In the middle of a reset, too. */
	rig_control("fault fatal queue=0 opcode=6");
	assert_int_equal(order(nvme_reset), 0);
	expect_still_good();
	assert_int_equal(rig_info()->resets, 2);
	detach();
}

/* Requests that are under way while it is reset: all are carried out. */
struct load {
	struct io ios[REQUESTS];
	_Atomic uint64_t done;
	atomic_bool stop;
	_Atomic uint32_t pending;
	_Atomic int rc; /* the first that was not 0 */
};

static struct load load;
static pthread_t io_thread;
static atomic_bool io_thread_stop;

static void
on_load_done(struct nvme_request *request, int rc)
{
	int good = 0;

	if (rc != 0)
		atomic_compare_exchange_strong(&load.rc, &good, rc);
	atomic_fetch_add(&load.done, 1);
	if (rc != 0 || atomic_load(&load.stop)) {
		atomic_fetch_sub(&load.pending, 1);
		return;
	}
	nvme_qpair_submit(qpair, request);
}

static void *
io_thread_main(void *arg)
{
	(void)arg;
	thread_set_current(rig.io);
	qpair = nvme_qpair_get(rig.ctrlr);
	for (int i = 0; i < REQUESTS; i++) {
		prepare(&load.ios[i], i % 2 ? nvme_cmd_read : nvme_cmd_write, (uint64_t)i * 8);
		load.ios[i].request.done = on_load_done;
		nvme_qpair_submit(qpair, &load.ios[i].request);
	}
	thread_set_current(NULL);
	while (!atomic_load(&io_thread_stop)) {
		if (poll_once(rig.io) == POLLER_IDLE)
			sched_yield();
	}
	thread_set_current(rig.io);
	nvme_qpair_put(qpair);
	thread_set_current(NULL);
	poll_until_idle(&rig.io, 1);
	return NULL;
}

static void
start_load(void)
{
	memset(&load, 0, sizeof(load));
	load.pending = REQUESTS;
	io_thread_stop = false;
	rig.io_is_elsewhere = true;
	assert_int_equal(pthread_create(&io_thread, NULL, io_thread_main, NULL), 0);
	rig_wait_for(atomic_load(&load.done) > REQUESTS);
}

/* Returns what went wrong first. */
static int
stop_load(void)
{
	atomic_store(&load.stop, true);
	rig_wait_for(atomic_load(&load.pending) == 0);
	atomic_store(&io_thread_stop, true);
	pthread_join(io_thread, NULL);
	rig.io_is_elsewhere = false;
	return load.rc;
}

static void
test_resets_under_load(void **state)
{
	(void)state;
	/* None ends for having been reset too often. */
	rig.opts.tuning.retries = 1000;
	rig_attach();
	start_load();
	for (int i = 0; i < 20; i++) {
		uint64_t before = atomic_load(&load.done);

		assert_int_equal(order(nvme_reset), 0);
		rig_wait_for(atomic_load(&load.done) > before + REQUESTS);
	}
	assert_int_equal(stop_load(), 0);
	assert_int_equal(rig_info()->resets, 20);
	rig_detach();
	rig_expect_no_violation();
}

static void
test_gone_under_load(void **state)
{
	static const struct {
		const char *line;
		int64_t shutdowns;
	} cases[] = {{"remove", 0}, {"request-removal", 1}, {"disconnect", 1}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(rig.events, 0, sizeof(rig.events));
		rig_attach();
		start_load();
		rig_control("%s", cases[i].line);
		rig_wait_for(atomic_load(&load.pending) == 0);
		assert_int_equal(stop_load(), -ENODEV);
		rig_wait_for(rig.events[NVME_EVENT_GONE] == 1);
		/* And so do new ones. */
		get_qpair();
		assert_int_equal(run_io(nvme_cmd_read, 0), -ENODEV);
		put_qpair();
		assert_int_equal(order(nvme_reset), -ENODEV);
		assert_int_equal(order(nvme_disable), -ENODEV);
		assert_int_equal(order(nvme_enable), -ENODEV);
		rig_detach();
		assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), cases[i].shutdowns);
		if (i == 0)
			rig_control("replug");
	}
	rig_expect_no_violation();
}

/* ---- time-outs of requests ---- */

static void
test_abort(void **state)
{
	static struct io ios[3];

	(void)state;
	rig_notice_lost_io();
	rig.opts.tuning.retries = 0;
	attach();
	rig_control("fault delay queue=io count=3 ms=60000");
	for (int i = 0; i < 3; i++)
		submit(&ios[i], nvme_cmd_read, 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(end_of(&ios[i]), -ETIMEDOUT);
	assert_int_equal(rig_info()->timeouts, 3);
	assert_int_equal(rig_info()->aborts, 3);
	/* It is sent again where that is allowed. */
	rig.opts.tuning.retries = 1;
	nvme_tune(rig.ctrlr, &rig.opts.tuning);
	rig_control("fault delay queue=io ms=60000");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->aborts, 4);
	assert_int_equal(rig_info()->resets, 0);
	expect_still_good();
	detach();
}

/* More than there can be aborts at a time. */
static void
test_many_aborts(void **state)
{
	static struct io ios[REQUESTS];

	(void)state;
	rig_notice_lost_io();
	rig_control("identify ctrl acl 1");
	rig.opts.tuning.retries = 0;
	attach();
	rig_control("fault delay queue=io count=%d ms=60000", REQUESTS);
	for (int i = 0; i < REQUESTS; i++)
		submit(&ios[i], nvme_cmd_read, 0);
	for (int i = 0; i < REQUESTS; i++)
		assert_int_equal(end_of(&ios[i]), -ETIMEDOUT);
	assert_int_equal(rig_info()->aborts, REQUESTS);
	assert_int_equal(rig_info()->resets, 0);
	expect_still_good();
	detach();
}

/* Abort does not find it: reset, and the request is sent again. */
static void
test_abort_in_vain(void **state)
{
	(void)state;
	rig_notice_lost_io();
	rig_notice_lost_admin();
	attach();
	rig_control("fault lose queue=io");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->timeouts, 1);
	assert_int_equal(rig_info()->aborts, 1);
	assert_int_equal(rig_info()->resets, 1);
	expect_still_good();
	/* Abort itself gets no answer. */
	rig_control("fault lose queue=io");
	rig_control("fault lose queue=0 opcode=8");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->resets, 2);
	expect_still_good();
	detach();
}

static void
test_timeout_actions(void **state)
{
	(void)state;
	rig.opts.tuning.action = NVME_TIMEOUT_NONE;
	rig.opts.tuning.io_timeout_us = 200000;
	attach();
	rig_control("fault delay queue=io ms=700");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->timeouts, 1);
	assert_int_equal(rig_info()->aborts, 0);
	assert_int_equal(rig_info()->resets, 0);
	rig.opts.tuning.action = NVME_TIMEOUT_RESET;
	nvme_tune(rig.ctrlr, &rig.opts.tuning);
	rig_control("fault lose queue=io");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->aborts, 0);
	assert_int_equal(rig_info()->resets, 1);
	/* As often as it is sent again. */
	rig.opts.tuning.retries = 2;
	nvme_tune(rig.ctrlr, &rig.opts.tuning);
	rig_control("fault lose queue=io count=3");
	assert_int_equal(run_io(nvme_cmd_read, 0), -ETIMEDOUT);
	assert_int_equal(rig_info()->resets, 4);
	expect_still_good();
	detach();
}

static void
test_wrong_completions(void **state)
{
	(void)state;
	rig_notice_lost_io();
	attach();
	rig_control("fault cid queue=io cid=5000");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->resets, 1);
	rig_control("fault phase queue=io");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	assert_int_equal(rig_info()->resets, 2);
	expect_still_good();
	detach();
}

/* ---- admin commands ---- */

static void
ask_for_temperature(void *arg)
{
	const struct nvme_command command = {.opcode = nvme_admin_get_features,
					     .cdw10 = NVME_FEAT_FID_TEMP_THRESH};
	uint32_t threshold = 0;
	int *rc = arg;

	*rc = nvme_admin(rig.ctrlr, &command, NULL, 0, &threshold, NULL);
	assert_true(*rc != 0 || threshold == 343);
}

static int
admin(void)
{
	int rc = PENDING;

	rig_run(ask_for_temperature, &rc);
	return rc;
}

static void
test_admin(void **state)
{
	(void)state;
	rig_notice_lost_admin();
	attach();
	assert_int_equal(admin(), 0);
	rig_control("fault status queue=0 opcode=10 status=0x4002");
	assert_int_equal(admin(), nvme_status_errno(NVME_SC_INVALID_FIELD));
	/* Aborted. */
	rig_control("fault delay queue=0 opcode=10 ms=60000");
	assert_int_equal(admin(), -ETIMEDOUT);
	assert_int_equal(rig_info()->resets, 0);
	assert_int_equal(admin(), 0);
	/* It cannot be. */
	rig_control("fault lose queue=0 opcode=10");
	assert_int_equal(admin(), -ETIMEDOUT);
	rig_wait_for(rig_info()->resets == 1 && rig_info()->state == NVME_LIVE);
	/* Answers that make no sense: another command's, one that is not in flight, none. */
	rig_control("fault cid queue=0 opcode=10 cid=999");
	assert_int_equal(admin(), -EIO);
	rig_wait_for(rig_info()->resets == 2 && rig_info()->state == NVME_LIVE);
	rig_control("fault cid queue=0 opcode=10 cid=15");
	assert_int_equal(admin(), -EIO);
	rig_wait_for(rig_info()->resets == 3 && rig_info()->state == NVME_LIVE);
	rig_control("fault phase queue=0 opcode=10");
	assert_int_equal(admin(), -ETIMEDOUT);
	rig_wait_for(rig_info()->resets == 4 && rig_info()->state == NVME_LIVE);
	assert_int_equal(admin(), 0);
	expect_still_good();
	detach();
}

static void
test_admin_lost_at_start(void **state)
{
	(void)state;
	rig_notice_lost_admin();
	rig_control("fault lose queue=0 opcode=6 nth=2");
	rig_expect_refused(-ETIMEDOUT, "Identify");
	rig_control("fault phase queue=0 opcode=9");
	rig_expect_refused(-ETIMEDOUT, "Number of Queues");
	rig_control("fault cid queue=0 opcode=6 cid=7");
	rig_expect_refused(-EIO, "Identify");
	rig_control("fault status queue=0 opcode=6 status=6");
	rig_expect_refused(-EIO, "Identify Controller: Internal Error");
	rig_attach();
	rig_expect_no_violation();
}

/* A queue that cannot be made: its requests end, and it is tried again. */
static void
test_queue_refused(void **state)
{
	(void)state;
	rig_control("fault status queue=0 opcode=5 status=6");
	rig_attach();
	get_qpair();
	assert_int_equal(run_io(nvme_cmd_read, 0), -EIO);
	rig_wait_for(run_io(nvme_cmd_read, 0) == 0);
	assert_int_equal(rig_info()->resets, 0);
	/* The other half. */
	put_qpair();
	rig_detach();
	rig_control("fault status queue=0 opcode=1 status=6");
	rig_attach();
	get_qpair();
	assert_int_equal(run_io(nvme_cmd_read, 0), -EIO);
	rig_wait_for(run_io(nvme_cmd_read, 0) == 0);
	detach();
}

static void
test_too_few_queues(void **state)
{
	struct thread *other = thread_create("other", NULL);
	struct nvme_qpair *none;

	(void)state;
	rig.opts.io_queues = 1;
	attach();
	thread_set_current(other);
	none = nvme_qpair_get(rig.ctrlr);
	assert_null(none);
	assert_int_equal(errno, ENOSPC);
	thread_set_current(NULL);
	put_qpair();
	poll_until_idle(&rig.io, 1);
	/* The next one gets it, and it works at once. */
	get_qpair();
	expect_still_good();
	detach();
	thread_finish(other);
}

/* ---- off, and failed ---- */

static void
test_disable(void **state)
{
	static struct io io;

	(void)state;
	rig.opts.tuning.io_timeout_us = 10000000;
	attach();
	assert_int_equal(order(nvme_enable), -EALREADY);
	assert_int_equal(order(nvme_disable), 0);
	assert_int_equal(rig_info()->state, NVME_DISABLED);
	assert_int_equal(order(nvme_disable), -EALREADY);
	assert_int_equal(order(nvme_reset), -EBUSY);
	assert_int_equal(admin(), -EBUSY);
	submit(&io, nvme_cmd_read, 0);
	rig_poll_for_ms(50);
	assert_int_equal(io.rc, PENDING);
	assert_int_equal(order(nvme_enable), 0);
	assert_int_equal(end_of(&io), 0);
	expect_still_good();
	/* It does not wait for ever; and it can be detached like that. */
	rig.opts.tuning.io_timeout_us = 300000;
	nvme_tune(rig.ctrlr, &rig.opts.tuning);
	assert_int_equal(order(nvme_disable), 0);
	assert_int_equal(run_io(nvme_cmd_read, 0), -ETIMEDOUT);
	detach();
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), 1);
}

static void
test_failed(void **state)
{
	(void)state;
	nvme_retry_ms = 200;
	rig_control("set cap-to 1");
	attach();
	rig_control("set ready 0");
	assert_int_equal(order(nvme_reset), -ETIMEDOUT);
	assert_int_equal(rig_info()->state, NVME_FAILED);
	assert_int_equal(run_io(nvme_cmd_read, 0), -EIO);
	rig_control("set ready 1");
	rig_wait_for(rig_info()->state == NVME_LIVE);
	expect_still_good();
	/* Another device in its place. */
	rig_control("identify ctrl sn 0x3031323334353637");
	assert_int_equal(order(nvme_reset), -EINVAL);
	assert_int_equal(rig_info()->state, NVME_FAILED);
	rig_control("identify clear");
	rig_wait_for(rig_info()->state == NVME_LIVE);
	expect_still_good();
	/* It can be detached like that. */
	rig_control("set ready 0");
	assert_int_equal(order(nvme_reset), -ETIMEDOUT);
	detach();
	nvme_retry_ms = 5000;
}

/* ---- detaching ---- */

struct detaching {
	bool done;
};

static void
detach_main(void *arg)
{
	nvme_detach(rig.ctrlr);
	((struct detaching *)arg)->done = true;
}

static void
test_detach_waits(void **state)
{
	struct detaching detaching = {0};
	struct thread *other = thread_create("other", NULL);

	(void)state;
	rig_notice_lost_io();
	attach();
	assert_int_equal(coroutine_start(rig.app, "test", detach_main, &detaching), 0);
	rig_poll_for_ms(50);
	assert_false(detaching.done);
	/* Its requests are served, and no new users. */
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	thread_set_current(other);
	assert_null(nvme_qpair_get(rig.ctrlr));
	assert_int_equal(errno, ENODEV);
	thread_set_current(NULL);
	/* What does not end by itself neither. */
	rig_control("fault lose queue=io");
	assert_int_equal(run_io(nvme_cmd_read, 0), 0);
	put_qpair();
	rig_poll_until(&detaching.done);
	rig.ctrlr = NULL;
	thread_finish(other);
	rig_expect_no_violation();
}

/* A reset that would take its time ends when nobody needs it. */
static void
test_detach_during_reset(void **state)
{
	struct order reset;

	(void)state;
	rig_control("set cap-to 200");
	attach();
	rig_control("set ready 0");
	start_order(&reset, nvme_reset);
	rig_poll_for_ms(50);
	assert_int_equal(reset.rc, PENDING);
	assert_int_equal(rig_info()->state, NVME_RESETTING);
	rig_control("set ready 1");
	rig_control("set ready-ms 60000");
	detach();
	assert_int_equal(reset.rc, -ECANCELED);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(test_reset),
		rig_test(test_fatal),
		rig_test(test_resets_under_load),
		rig_test(test_gone_under_load),
		rig_test(test_abort),
		rig_test(test_many_aborts),
		rig_test(test_abort_in_vain),
		rig_test(test_timeout_actions),
		rig_test(test_wrong_completions),
		rig_test(test_admin),
		rig_test(test_admin_lost_at_start),
		rig_test(test_queue_refused),
		rig_test(test_too_few_queues),
		rig_test(test_disable),
		rig_test(test_failed),
		rig_test(test_detach_waits),
		rig_test(test_detach_during_reset),
	};

	return cmocka_run_group_tests_name("nvme_recover", tests, NULL, NULL);
}
