/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two OS threads do I/O, opening and closing their channels, while a third one collects statistics,
 * resizes and resets. For ThreadSanitizer, and for the sums.
 */
/* links: bdev thread env testlib */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "bdev_rig.h"
#include "log.h"

#define BLOCKS     1024
#define REQUESTS   100000
#define PER_OPENED 100 /* requests before the channel is put and got anew */

static struct bdev *bdev;
static struct bdev_desc *desc;
static _Atomic bool io_stop;
static _Atomic unsigned int workers_done;

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
	struct rig_request *request;
	uint64_t good, refused, sent;
	bool waiting;
};

static void
worker_done(struct bdev_request *rq, int status)
{
	struct rig_request *request =
		(struct rig_request *)((uint8_t *)rq - offsetof(struct rig_request, rq));
	struct worker *worker = request->iov.iov_base;

	worker->waiting = false;
	worker->good += status == 0;
	worker->refused += status == -EINVAL;
}

/* The upper half of the bdev is there only sometimes. */
static int
worker_poll(void *arg)
{
	struct worker *worker = arg;

	if (worker->waiting || worker->sent == REQUESTS)
		return POLLER_IDLE;
	if (worker->sent % PER_OPENED == 0) {
		bdev_channel_put(worker->channel);
		worker->channel = bdev_channel_get(desc);
	}
	worker->waiting = true;
	rig_request_set(worker->request, BDEV_DISCARD, 512 * (worker->sent % BLOCKS), worker, 512);
	worker->request->rq.done = worker_done;
	bdev_submit(worker->channel, &worker->request->rq);
	if (++worker->sent == REQUESTS)
		atomic_fetch_add(&workers_done, 1);
	return POLLER_BUSY;
}

static void *
worker_run(void *arg)
{
	struct worker *worker = arg;

	while (!atomic_load(&io_stop))
		poll_once(worker->thread);
	return NULL;
}

static void
worker_start(struct worker *worker, struct thread *thread)
{
	worker->thread = thread;
	worker->request = rig_request_new(bdev);
	worker->channel = rig_channel(desc, thread);
	thread_set_current(thread);
	worker->poller = poller_register(worker_poll, worker, 0, "worker");
	thread_set_current(NULL);
	assert_int_equal(pthread_create(&worker->os_thread, NULL, worker_run, worker), 0);
}

static void
worker_end(struct worker *worker)
{
	assert_false(worker->waiting);
	thread_set_current(worker->thread);
	poller_unregister(&worker->poller);
	bdev_channel_put(worker->channel);
	thread_set_current(NULL);
	free(worker->request);
	assert_int_equal(worker->good + worker->refused, REQUESTS);
}

struct watch {
	struct bdev_io_stat stat;
	uint64_t good, last;
	unsigned int resets, bad_histograms;
	bool backwards, finished;
};

/* On, read, off. */
static bool
switch_histogram(unsigned int round)
{
	struct bdev_histograms *histograms;

	if (round % 3 != 1)
		return bdev_enable_histogram(bdev, round % 3 == 0) == 0;
	if (bdev_get_histograms(bdev, true, &histograms) != 0)
		return false;
	bdev_histograms_free(histograms);
	return true;
}

static void
watch_run(void *arg)
{
	struct watch *watch = arg;
	bool last = false;

	for (unsigned int round = 0; !last; round++) {
		bool reset = round % 8 == 7;

		last = round >= 16 && atomic_load(&workers_done) == 2;
		watch->resets += reset;
		if (bdev_get_stat(bdev, reset, &watch->stat) != 0)
			break;
		watch->backwards |= watch->stat.ops[BDEV_DISCARD] < watch->last;
		watch->last = reset ? 0 : watch->stat.ops[BDEV_DISCARD];
		watch->good += reset ? watch->stat.ops[BDEV_DISCARD] : 0;
		bdev_resize(bdev, round % 2 ? BLOCKS : BLOCKS / 2);
		watch->bad_histograms += !switch_histogram(round);
	}
	watch->good += watch->last;
	watch->finished = true;
}

static void
register_instant(void)
{
	struct bdev_info info;

	assert_int_equal(bdev_info_init(&info, "a", NULL, NULL), 0);
	info.block_size = 512;
	info.num_blocks = BLOCKS;
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
	unsigned int resets = 0;
	uint64_t deadline = now_ms() + DEADLINE_MS;

	(void)state;
	log_set_print_level(LOG_LEVEL_WARNING); /* there are many resizes */
	register_instant();
	desc = rig_open("a", true);
	channel = rig_channel(desc, rig_app);
	reset = rig_request_new(bdev);
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	reset->finished = true;
	for (int i = 0; i < 2; i++)
		worker_start(&workers[i], rig_io[i]);
	assert_int_equal(coroutine_start(rig_app, "watch", watch_run, &watch), 0);
	while (!watch.finished || !reset->finished) {
		if (reset->finished && !watch.finished) {
			resets++;
			reset->finished = false;
			rig_submit(channel, rig_app, reset);
		}
		poll_once(rig_app);
		assert_true(now_ms() < deadline);
	}
	assert_true(watch.resets > 0 && resets > 0);
	atomic_store(&io_stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(workers[i].os_thread, NULL);
	rig_settle();
	for (int i = 0; i < 2; i++)
		worker_end(&workers[i]);
	assert_false(watch.backwards);
	assert_int_equal(watch.bad_histograms, 0);
	assert_int_equal(watch.good, workers[0].good + workers[1].good);
	assert_int_equal(reset->status, 0);
	assert_int_equal(reset->finishes, resets);
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
