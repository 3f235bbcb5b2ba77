/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two OS threads do I/O against a rate limit that a third one changes, while it resets the disk.
 * For ThreadSanitizer; and what they do together is not more than the limit, whoever wins.
 */
/* links: bdev thread env testlib */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "bdev_rig.h"

#define DEPTH     16
#define PER_S     40000
#define CHANGES   60
#define STEADY_MS 300

static struct bdev *bdev;
static struct bdev_desc *desc;
static _Atomic bool io_stop, io_quit;
static _Atomic uint64_t all_done, all_aborted;
static _Atomic unsigned int under_way;

static void
instant_submit(void *channel_ctx, struct bdev_request *rq)
{
	(void)channel_ctx;
	if (rq->type == BDEV_RESET)
		bdev_drain(rq);
	else
		bdev_complete(rq, 0);
}

static const struct bdev_ops instant_ops = {
	.module = "instant",
	.submit = instant_submit,
	.buffer_alignment = 1,
};

struct worker {
	struct thread *thread;
	pthread_t os_thread;
	struct poller *poller;
	struct bdev_channel *channel;
	struct rig_request *requests[DEPTH];
};

static void
worker_done(struct bdev_request *rq, int status)
{
	rig_request_done(rq, status);
	if (status == 0)
		atomic_fetch_add(&all_done, 1);
	else
		atomic_fetch_add(&all_aborted, 1);
	atomic_fetch_sub(&under_way, 1);
}

static int
worker_poll(void *arg)
{
	struct worker *worker = arg;
	int rc = POLLER_IDLE;

	for (int i = 0; i < DEPTH && !atomic_load(&io_stop); i++) {
		struct rig_request *request = worker->requests[i];

		if (!request->finished)
			continue;
		atomic_fetch_add(&under_way, 1);
		rig_request_set(request, BDEV_DISCARD, 0, NULL, 512);
		request->rq.done = worker_done;
		bdev_submit(worker->channel, &request->rq);
		rc = POLLER_BUSY;
	}
	return rc;
}

static void *
worker_run(void *arg)
{
	struct worker *worker = arg;

	while (!atomic_load(&io_quit))
		poll_once(worker->thread);
	return NULL;
}

static void
worker_start(struct worker *worker, struct thread *thread)
{
	worker->thread = thread;
	for (int i = 0; i < DEPTH; i++) {
		worker->requests[i] = rig_request_new(bdev);
		worker->requests[i]->finished = true;
	}
	worker->channel = rig_channel(desc, thread);
	thread_set_current(thread);
	worker->poller = poller_register(worker_poll, worker, 0, "worker");
	thread_set_current(NULL);
	assert_int_equal(pthread_create(&worker->os_thread, NULL, worker_run, worker), 0);
}

static void
worker_end(struct worker *worker)
{
	thread_set_current(worker->thread);
	poller_unregister(&worker->poller);
	bdev_channel_put(worker->channel);
	thread_set_current(NULL);
	for (int i = 0; i < DEPTH; i++) {
		assert_true(worker->requests[i]->finished);
		free(worker->requests[i]);
	}
}

struct watch {
	uint64_t done, most;
	int bad;
	bool finished;
};

static int
set(uint64_t per_second)
{
	const uint64_t rates[BDEV_RATES] = {[BDEV_RATE_IOS] = per_second};

	return bdev_set_rates(bdev, rates);
}

static void
watch_run(void *arg)
{
	struct watch *watch = arg;
	uint64_t start, before;

	watch->bad += set(PER_S) != 0;
	start = env_ticks();
	before = atomic_load(&all_done);
	do
		coroutine_sleep(STEADY_MS * 1000);
	while (atomic_load(&all_done) == before);
	watch->done = atomic_load(&all_done) - before;
	watch->most = (env_ticks() - start) * PER_S / env_ticks_hz();
	for (int i = 0; i < CHANGES || atomic_load(&all_aborted) == 0; i++) {
		watch->bad += set(i % 3 == 0 ? 0 : (uint64_t)(i % CHANGES) * 1000) != 0;
		coroutine_sleep(i % 5 * 300);
	}
	atomic_store(&io_stop, true);
	watch->bad += set(0) != 0;
	watch->finished = true;
}

static void
register_instant(void)
{
	struct bdev_info info;

	assert_int_equal(bdev_info_init(&info, "a", NULL, NULL), 0);
	info.block_size = 512;
	info.num_blocks = 1024;
	info.io_types = 1u << BDEV_DISCARD | 1u << BDEV_RESET;
	thread_set_current(rig_app);
	assert_int_equal(bdev_register(&info, &instant_ops, NULL, &bdev, NULL), 0);
	thread_set_current(NULL);
}

static void
test_race(void **state)
{
	struct worker workers[2] = {0};
	struct bdev_channel *channel;
	struct rig_request *reset;
	struct watch watch = {0};
	uint64_t deadline = now_ms() + DEADLINE_MS;

	(void)state;
	register_instant();
	desc = rig_open("a", true);
	channel = rig_channel(desc, rig_app);
	reset = rig_request_new(bdev);
	reset->finished = true;
	assert_int_equal(coroutine_start(rig_app, "watch", watch_run, &watch), 0);
	for (int i = 0; i < 2; i++)
		worker_start(&workers[i], rig_io[i]);
	while (!watch.finished || !reset->finished || atomic_load(&under_way) != 0) {
		if (watch.most != 0 && !watch.finished && reset->finished) {
			rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
			rig_submit(channel, rig_app, reset);
		}
		poll_once(rig_app);
		assert_true(now_ms() < deadline);
	}
	atomic_store(&io_quit, true);
	for (int i = 0; i < 2; i++)
		pthread_join(workers[i].os_thread, NULL);
	rig_settle();
	for (int i = 0; i < 2; i++)
		worker_end(&workers[i]);
	assert_int_equal(watch.bad, 0);
	/* What was a moment too early, for each thread. */
	assert_in_range(watch.done, 1,
			watch.most + (uint64_t)PER_S * BDEV_RATE_BURST_US / 1000000 + 2);
	assert_true(atomic_load(&all_aborted) > 0);
	assert_int_equal(reset->status, 0);
	free(reset);
	rig_channel_put(channel, rig_app);
	rig_close(desc);
	assert_int_equal(rig_delete("a", "instant"), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_race, rig_setup, rig_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
