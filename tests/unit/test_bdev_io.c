/* SPDX-License-Identifier: BSD-3-Clause */
/* The data path of block devices: checks, FUA, depth of the stack, statistics, reset. */
/* links: bdev testlib thread env */
#include <errno.h>

#include "bdev_fake.h"
#include "ticks.h"

static uint8_t data[64 * 1024] __attribute__((aligned(4096)));

static struct rig_request *
start(const struct bdev_info *info)
{
	fake_start(info);
	return rig_request_new(fake.bdev);
}

static void
stop(struct rig_request *request)
{
	free(request);
	fake_stop();
}

/* ---- checks ---- */

static void
test_checks(void **state)
{
	static const struct {
		uint8_t type;
		uint64_t offset, length;
		int status;
	} rows[] = {
		{BDEV_READ, 0, 512, 0},
		{BDEV_READ, FAKE_SIZE - 512, 512, 0},
		{BDEV_READ, FAKE_SIZE, 0, 0},
		{BDEV_READ, FAKE_SIZE, 512, -EINVAL},
		{BDEV_READ, FAKE_SIZE - 512, 1024, -EINVAL},
		{BDEV_READ, FAKE_SIZE + 512, 0, -EINVAL},
		{BDEV_READ, UINT64_MAX - 511, 1024, -EINVAL}, /* the sum wraps */
		{BDEV_READ, 512, UINT64_MAX - 511, -EINVAL},
		{BDEV_READ, 1, 512, -EINVAL},
		{BDEV_WRITE, 0, 511, -EINVAL},
		{BDEV_WRITE, 256, 512, -EINVAL},
		{BDEV_WRITE, FAKE_SIZE, 512, -EINVAL},
		{BDEV_DISCARD, 0, FAKE_SIZE, 0},
		{BDEV_DISCARD, 0, FAKE_SIZE + 512, -EINVAL},
		{BDEV_DISCARD, 512, 100, -EINVAL},
		{BDEV_WRITE_ZEROES, 512, FAKE_SIZE - 512, 0},
		{BDEV_WRITE_ZEROES, 512, FAKE_SIZE, -EINVAL},
		{BDEV_FLUSH, 12345, 1, 0}, /* no range */
		{BDEV_IO_TYPES, 0, 512, -EOPNOTSUPP},
		{255, 0, 512, -EOPNOTSUPP},
	};
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);
	unsigned int reached = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		rig_request_set(request, rows[i].type, rows[i].offset, data, rows[i].length);
		rig_submit(fake_channel, rig_io[0], request);
		assert_true(request->finished);
		assert_int_equal(request->status, rows[i].status);
		reached += rows[i].status == 0 && rows[i].length != 0;
		assert_int_equal(fake.logged, reached);
	}
	stop(request);
}

static void
test_iov_sum(void **state)
{
	static const struct {
		uint32_t iovcnt;
		size_t lengths[3];
		int status;
	} rows[] = {
		{1, {1024}, 0},
		{2, {512, 512}, 0},
		{3, {1, 1022, 1}, 0},
		{3, {512, 0, 512}, 0},
		{0, {0}, -EINVAL},
		{1, {512}, -EINVAL},
		{1, {2048}, -EINVAL},
		{2, {1024, 1}, -EINVAL},
		{2, {SIZE_MAX, 1025}, -EINVAL}, /* the sum wraps to 1024 */
	};
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);
	struct iovec iov[3];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		rig_request_set(request, BDEV_READ, 0, NULL, 1024);
		for (size_t k = 0; k < 3; k++)
			iov[k] = (struct iovec){.iov_base = data + 4096 * k,
						.iov_len = rows[i].lengths[k]};
		request->rq.iov = iov;
		request->rq.iovcnt = rows[i].iovcnt;
		rig_submit(fake_channel, rig_io[0], request);
		assert_int_equal(request->status, rows[i].status);
	}
	stop(request);
}

static void
try_all_types(struct bdev_channel *channel, const int *expected)
{
	struct rig_request *request = rig_request_new(fake.bdev);

	for (uint8_t type = 0; type < BDEV_IO_TYPES; type++) {
		rig_request_set(request, type, 0, data, 512);
		assert_int_equal(rig_do(channel, rig_io[0], request), expected[type]);
	}
	free(request);
}

static void
test_read_only(void **state)
{
	static const int expected[BDEV_IO_TYPES] = {
		[BDEV_WRITE] = -EROFS, [BDEV_DISCARD] = -EROFS, [BDEV_WRITE_ZEROES] = -EROFS};
	struct bdev_info info = fake_info("a");

	(void)state;
	info.read_only = true;
	fake_start(&info);
	try_all_types(fake_channel, expected);
	fake_stop();
}

/* Opened for reading, while another user on the same thread writes. */
static void
test_read_only_desc(void **state)
{
	static const int all_work[BDEV_IO_TYPES] = {0};
	static const int expected[BDEV_IO_TYPES] = {
		[BDEV_WRITE] = -EROFS, [BDEV_DISCARD] = -EROFS, [BDEV_WRITE_ZEROES] = -EROFS};
	struct bdev_info info = fake_info("a");
	struct bdev_desc *desc;
	struct bdev_channel *channel;

	(void)state;
	fake_start(&info);
	desc = rig_open("a", false);
	channel = rig_channel(desc, rig_io[0]);
	assert_int_equal(fake.channels, 1);
	try_all_types(channel, expected);
	try_all_types(fake_channel, all_work);
	rig_channel_put(channel, rig_io[0]);
	rig_close(desc);
	fake_stop();
}

static void
test_unsupported(void **state)
{
	static const int expected[BDEV_IO_TYPES] = {[BDEV_FLUSH] = -EOPNOTSUPP,
						    [BDEV_DISCARD] = -EOPNOTSUPP,
						    [BDEV_WRITE_ZEROES] = -EOPNOTSUPP,
						    [BDEV_RESET] = -EOPNOTSUPP};
	struct bdev_info info = fake_info("a");

	(void)state;
	info.io_types = 1u << BDEV_READ | 1u << BDEV_WRITE;
	fake_start(&info);
	try_all_types(fake_channel, expected);
	assert_int_equal(fake.logged, 2);
	fake_stop();
}

static void
test_resized(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);

	(void)state;
	thread_set_current(rig_app);
	assert_int_equal(bdev_resize(fake.bdev, 10), 0);
	thread_set_current(NULL);
	rig_request_set(request, BDEV_READ, 10 * 512, data, 512);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), -EINVAL);
	rig_request_set(request, BDEV_READ, 9 * 512, data, 512);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	stop(request);
}

/* ---- FLUSH and FUA ---- */

static void
test_flush_without_cache(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request;

	(void)state;
	info.write_cache = false;
	request = start(&info);
	rig_request_set(request, BDEV_FLUSH, 0, NULL, 0);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	rig_request_set(request, BDEV_WRITE, 0, data, 512);
	request->rq.flags = BDEV_FUA;
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 1);
	assert_int_equal(fake.log[0].type, BDEV_WRITE);
	stop(request);
}

static void
fua_request(struct rig_request *request, uint8_t type)
{
	rig_request_set(request, type, 512, data, 512);
	request->rq.flags = BDEV_FUA;
}

static void
test_fua_emulated(void **state)
{
	static const uint8_t types[] = {BDEV_WRITE, BDEV_WRITE_ZEROES};
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);

	(void)state;
	fake.delayed = true;
	for (unsigned int i = 0; i < 2; i++) {
		unsigned int flushes = fake.flushes;

		fua_request(request, types[i]);
		rig_submit(fake_channel, rig_io[0], request);
		assert_int_equal(fake.logged, 2 * i + 1);
		assert_int_equal(fake.log[2 * i].type, types[i]);
		assert_true(fake_complete_one(rig_io[0]));
		assert_false(request->finished);
		assert_int_equal(fake.logged, 2 * i + 2);
		assert_int_equal(fake.log[2 * i + 1].type, BDEV_FLUSH);
		assert_int_equal(fake.flushes, flushes + 2); /* nobody else would */
		assert_true(fake_complete_one(rig_io[0]));
		assert_true(request->finished);
		assert_int_equal(request->status, 0);
		assert_int_equal(request->rq.type, types[i]);
		assert_int_equal(request->rq.flags, BDEV_FUA);
	}
	stop(request);
}

static void
test_fua_errors(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);

	(void)state;
	fake.fail_status = -ENOSPC;
	fake.fail_at = 1; /* the write: no flush follows */
	fua_request(request, BDEV_WRITE);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), -ENOSPC);
	assert_int_equal(fake.logged, 1);
	fake.fail_status = -EIO;
	fake.fail_at = 2; /* the flush */
	fua_request(request, BDEV_WRITE);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), -EIO);
	assert_int_equal(request->rq.type, BDEV_WRITE);
	assert_int_equal(request->finishes, 2);
	stop(request);
}

static void
put_channel_done(struct bdev_request *rq, int status)
{
	rig_request_done(rq, status);
	bdev_channel_put(rq->channel);
}

static void
test_fua_done_puts_channel(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);
	unsigned int flushes = fake.flushes;

	(void)state;
	fua_request(request, BDEV_WRITE);
	request->rq.done = put_channel_done;
	thread_set_current(rig_io[0]);
	bdev_submit(bdev_channel_get(fake_desc), &request->rq);
	thread_set_current(NULL);
	assert_true(request->finished);
	assert_int_equal(request->status, 0);
	assert_int_equal(fake.flushes, flushes + 1);
	stop(request);
}

static void
test_fua_native(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request;

	(void)state;
	fake.ops.fua = true;
	request = start(&info);
	fua_request(request, BDEV_WRITE);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 1);
	assert_int_equal(fake.log[0].flags, BDEV_FUA);
	rig_request_set(request, BDEV_READ, 0, data, 512);
	request->rq.flags = BDEV_FUA;
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 2);
	stop(request);
}

/* ---- depth ---- */

static struct {
	unsigned int left;
	uintptr_t top, deepest;
} chain;

/* Submits the same request again, as users that chain requests do. */
static void
chain_done(struct bdev_request *rq, int status)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	assert_int_equal(status, 0);
	if (chain.top - here > chain.deepest)
		chain.deepest = chain.top - here;
	if (chain.left-- > 1)
		bdev_submit(rq->channel, rq);
}

static void
run_chain(struct rig_request *request, unsigned int length)
{
	chain.left = length;
	chain.deepest = 0;
	chain.top = (uintptr_t)__builtin_frame_address(0);
	request->rq.done = chain_done;
	rig_submit(fake_channel, rig_io[0], request);
	assert_int_equal(chain.left, 0);
}

static void
test_depth(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);
	uintptr_t deepest;

	(void)state;
	rig_request_set(request, BDEV_READ, 0, data, 512);
	run_chain(request, 100);
	deepest = chain.deepest;
	run_chain(request, 100000);
	assert_int_equal(chain.deepest, deepest);
	rig_request_set(request, BDEV_READ, 0, data, 0); /* what the core completes itself */
	run_chain(request, 100000);
	stop(request);
}

/* ---- statistics ---- */

struct stat_call {
	enum bdev_stat_reset reset;
	struct bdev_io_stat stat;
	struct bdev_channel_stat *channels;
	uint32_t count;
	int rc;
};

static void
stat_run(void *arg)
{
	struct stat_call *call = arg;

	call->rc = bdev_get_stat(fake.bdev, call->reset, &call->stat);
}

static void
channel_stat_run(void *arg)
{
	struct stat_call *call = arg;

	call->rc = bdev_get_channel_stats(fake.bdev, call->reset, &call->channels, &call->count);
}

static struct bdev_io_stat
get_stat(enum bdev_stat_reset reset)
{
	struct stat_call call = {.reset = reset};

	rig_run(stat_run, &call);
	assert_int_equal(call.rc, 0);
	return call.stat;
}

static void
do_reads(struct bdev_channel *channel, struct thread *thread, unsigned int count)
{
	struct rig_request *request = rig_request_new(fake.bdev);

	while (count-- > 0) {
		rig_request_set(request, BDEV_READ, 0, data, 1024);
		assert_int_equal(rig_do(channel, thread, request), 0);
	}
	free(request);
}

static void
test_stat_counts(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);
	struct bdev_io_stat stat;

	(void)state;
	do_reads(fake_channel, rig_io[0], 3);
	rig_request_set(request, BDEV_WRITE, 0, data, 4096);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	rig_request_set(request, BDEV_WRITE, FAKE_SIZE, data, 4096);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), -EINVAL);
	rig_request_set(request, BDEV_FLUSH, 0, data, 4096);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	stat = get_stat(false);
	assert_int_equal(stat.ops[BDEV_READ], 3);
	assert_int_equal(stat.bytes[BDEV_READ], 3 * 1024);
	assert_int_equal(stat.ops[BDEV_WRITE], 1);
	assert_int_equal(stat.bytes[BDEV_WRITE], 4096);
	assert_int_equal(stat.errors[BDEV_WRITE], 1);
	assert_int_equal(stat.errors[BDEV_READ], 0);
	assert_int_equal(stat.ops[BDEV_FLUSH], 1);
	assert_int_equal(stat.bytes[BDEV_FLUSH], 0);
	stop(request);
}

static void
do_delayed(struct rig_request *request, uint64_t us)
{
	rig_settle();
	rig_request_set(request, BDEV_READ, 0, data, 512);
	rig_submit(fake_channel, rig_io[0], request);
	ticks_advance_us(us);
	rig_settle();
	assert_true(fake_complete_one(rig_io[0]));
}

static void
test_stat_latency(void **state)
{
	static const unsigned int latencies[] = {20, 50, 10};
	struct bdev_info info = fake_info("a");
	struct rig_request *request = start(&info);
	struct bdev_io_stat stat;

	(void)state;
	fake.delayed = true;
	for (size_t i = 0; i < 3; i++)
		do_delayed(request, latencies[i]);
	stat = get_stat(BDEV_STAT_RESET_MAXMIN);
	assert_int_equal(stat.latency_ticks[BDEV_READ], 80 * TICKS_PER_US);
	assert_int_equal(stat.max_latency_ticks[BDEV_READ], 50 * TICKS_PER_US);
	assert_int_equal(stat.min_latency_ticks[BDEV_READ], 10 * TICKS_PER_US);
	stat = get_stat(BDEV_STAT_KEEP);
	assert_int_equal(stat.ops[BDEV_READ], 3);
	assert_int_equal(stat.latency_ticks[BDEV_READ], 80 * TICKS_PER_US);
	assert_int_equal(stat.max_latency_ticks[BDEV_READ], 0);
	assert_int_equal(stat.min_latency_ticks[BDEV_READ], 0);
	do_delayed(request, 30);
	do_delayed(request, 40);
	stat = get_stat(BDEV_STAT_KEEP);
	assert_int_equal(stat.latency_ticks[BDEV_READ], 150 * TICKS_PER_US);
	assert_int_equal(stat.max_latency_ticks[BDEV_READ], 40 * TICKS_PER_US);
	assert_int_equal(stat.min_latency_ticks[BDEV_READ], 30 * TICKS_PER_US);
	stop(request);
}

static void
test_stat_over_channels(void **state)
{
	struct bdev_info info = fake_info("a");
	struct stat_call call = {0};
	struct bdev_channel *other;
	struct bdev_io_stat stat;

	(void)state;
	fake_start(&info);
	other = rig_channel(fake_desc, rig_io[1]);
	do_reads(fake_channel, rig_io[0], 2);
	do_reads(other, rig_io[1], 5);
	assert_int_equal(get_stat(false).ops[BDEV_READ], 7);
	rig_run(channel_stat_run, &call);
	assert_int_equal(call.rc, 0);
	assert_int_equal(call.count, 2);
	for (uint32_t i = 0; i < 2; i++) {
		bool first = call.channels[i].thread_id == thread_id(rig_io[0]);

		assert_int_equal(call.channels[i].stat.ops[BDEV_READ], first ? 2 : 5);
	}
	free(call.channels);
	call.reset = BDEV_STAT_RESET; /* what is told is what is reset */
	rig_run(channel_stat_run, &call);
	assert_int_equal(call.count, 2);
	free(call.channels);
	assert_int_equal(get_stat(false).ops[BDEV_READ], 0);
	do_reads(fake_channel, rig_io[0], 2);
	do_reads(other, rig_io[1], 5);
	rig_channel_put(other, rig_io[1]);
	rig_settle();
	assert_int_equal(get_stat(false).ops[BDEV_READ], 7); /* an ended channel counts on */
	stat = get_stat(true);
	assert_int_equal(stat.ops[BDEV_READ], 7);
	assert_int_equal(stat.min_latency_ticks[BDEV_READ], 0);
	assert_int_equal(get_stat(false).ops[BDEV_READ], 0);
	do_reads(fake_channel, rig_io[0], 1);
	assert_int_equal(get_stat(false).ops[BDEV_READ], 1);
	fake_stop();
}

struct stat_loop {
	struct stat_call call;
	bool finished;
};

static void
stat_loop_run(void *arg)
{
	struct stat_loop *loop = arg;

	stat_run(&loop->call);
	loop->finished = true;
}

/* A channel ends after n polls of a collection: whenever that is, it is counted once. */
static void
collect_while_channel_ends(unsigned int polls, bool reset)
{
	struct stat_loop loop = {.call.reset = reset}, second = {0};
	struct bdev_channel *other = rig_channel(fake_desc, rig_io[1]);
	struct thread *const threads[] = {rig_app, rig_io[0], rig_io[1]};

	get_stat(true);
	do_reads(fake_channel, rig_io[0], 2);
	do_reads(other, rig_io[1], 5);
	assert_int_equal(coroutine_start(rig_app, "test", stat_loop_run, &loop), 0);
	assert_int_equal(coroutine_start(rig_app, "test", stat_loop_run, &second), 0);
	for (unsigned int i = 0; i < polls; i++)
		poll_once(threads[i % 3]);
	rig_channel_put(other, rig_io[1]);
	rig_wait(&loop.finished);
	rig_wait(&second.finished);
	assert_int_equal(loop.call.stat.ops[BDEV_READ], 7);
	assert_int_equal(second.call.stat.ops[BDEV_READ], reset ? 0 : 7);
	assert_int_equal(get_stat(false).ops[BDEV_READ], reset ? 0 : 7);
}

static void
test_stat_while_channel_ends(void **state)
{
	struct bdev_info info = fake_info("a");

	(void)state;
	fake_start(&info);
	for (unsigned int polls = 0; polls < 20; polls++) {
		collect_while_channel_ends(polls, false);
		collect_while_channel_ends(polls, true);
	}
	fake_stop();
}

static struct coroutine *stat_coroutine;

static void
stat_cancelled_run(void *arg)
{
	stat_coroutine = coroutine_current();
	stat_loop_run(arg);
}

/* Who asked is gone before the visits have ended; the bdev outlives them. */
static void
test_stat_cancelled(void **state)
{
	struct bdev_info info = fake_info("a");
	struct stat_loop loop = {0};

	(void)state;
	fake_start(&info);
	assert_int_equal(coroutine_start(rig_app, "test", stat_cancelled_run, &loop), 0);
	poll_once(rig_app);
	assert_false(loop.finished);
	thread_set_current(rig_app);
	coroutine_cancel(stat_coroutine);
	thread_set_current(NULL);
	for (int i = 0; i < 10 && !loop.finished; i++)
		poll_once(rig_app);
	assert_true(loop.finished);
	assert_int_equal(loop.call.rc, -ECANCELED);
	fake_stop();
}

/* ---- reset ---- */

static void
test_reset(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_channel *other;
	struct rig_request *rows[4], *reset, *second_reset;

	(void)state;
	fake_start(&info);
	other = rig_channel(fake_desc, rig_io[1]);
	for (int i = 0; i < 4; i++)
		rows[i] = rig_request_new(fake.bdev);
	reset = rig_request_new(fake.bdev);
	second_reset = rig_request_new(fake.bdev);
	fake.delayed = true;
	for (int i = 0; i < 4; i++)
		rig_request_set(rows[i], BDEV_WRITE, 512, data, 512);
	rig_submit(fake_channel, rig_io[0], rows[0]);
	rig_submit(other, rig_io[1], rows[1]);
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	rig_request_set(second_reset, BDEV_RESET, 0, NULL, 0);
	rig_submit(fake_channel, rig_io[0], reset);
	rig_submit(other, rig_io[1], second_reset);
	rig_settle();
	rig_submit(fake_channel, rig_io[0], rows[2]);
	rig_submit(other, rig_io[1], rows[3]);
	rig_settle();
	assert_false(reset->finished);
	assert_true(fake_complete_one(rig_io[0])); /* rows[0] */
	rig_settle();
	assert_true(rows[0]->finished);
	assert_false(reset->finished);
	assert_true(fake_complete_one(rig_io[1])); /* rows[1] */
	rig_settle();
	/* What came after the resets is with the module now, on whichever thread. */
	while (fake.first_waiting != fake.last_waiting) {
		struct bdev_request *rq = fake.waiting[fake.first_waiting % FAKE_LOG];

		fake_complete_one(rq == &rows[2]->rq ? rig_io[0] : rig_io[1]);
		rig_settle();
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(rows[i]->finishes, 1);
		assert_int_equal(rows[i]->status, 0);
		free(rows[i]);
	}
	assert_int_equal(reset->finishes, 1);
	assert_int_equal(second_reset->finishes, 1);
	free(reset);
	free(second_reset);
	rig_channel_put(other, rig_io[1]);
	fake_stop();
}

/* Requests that wait for a reset go on in their order, and only after it. */
static void
test_reset_holds(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_request *before, *reset, *after[3];

	(void)state;
	fake_start(&info);
	before = rig_request_new(fake.bdev);
	reset = rig_request_new(fake.bdev);
	fake.delayed = true;
	rig_request_set(before, BDEV_WRITE, 0, data, 512);
	rig_submit(fake_channel, rig_io[0], before);
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	rig_submit(fake_channel, rig_io[0], reset);
	rig_settle();
	for (int i = 0; i < 3; i++) {
		after[i] = rig_request_new(fake.bdev);
		rig_request_set(after[i], BDEV_WRITE, 512 * (i + 1), data, 512);
		rig_submit(fake_channel, rig_io[0], after[i]);
	}
	assert_int_equal(fake.logged, 2);
	fake.delayed = false;
	fake_complete_one(rig_io[0]);
	rig_settle();
	assert_true(reset->finished);
	assert_int_equal(fake.logged, 5);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(fake.log[2 + i].offset, 512 * (i + 1));
		assert_true(after[i]->finished);
		free(after[i]);
	}
	free(before);
	free(reset);
	fake_stop();
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_checks),
		test(test_iov_sum),
		test(test_read_only),
		test(test_read_only_desc),
		test(test_unsupported),
		test(test_resized),
		test(test_flush_without_cache),
		test(test_fua_emulated),
		test(test_fua_errors),
		test(test_fua_done_puts_channel),
		test(test_fua_native),
		test(test_depth),
		test(test_stat_counts),
		test(test_stat_latency),
		test(test_stat_over_channels),
		test(test_stat_while_channel_ends),
		test(test_stat_cancelled),
		test(test_reset),
		test(test_reset_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
