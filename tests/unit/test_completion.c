/* SPDX-License-Identifier: BSD-3-Clause */
/* links: thread testlib env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect,--wrap=log_write */
#include "coroutine_rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "env.h"
#include "fault.h"
#include "ticks.h"

/* ---- completions ---- */

struct waiter {
	struct completion *completion;
	struct coroutine *coroutine;
	uint64_t timeout_us;
	unsigned int times;
	int rc;
};

static void
waiter_run(void *arg)
{
	struct waiter *waiter = arg;

	waiter->coroutine = coroutine_current();
	for (unsigned int i = 0; i < waiter->times; i++)
		waiter->rc = completion_wait(waiter->completion, waiter->timeout_us);
	completion_put(waiter->completion);
}

static void
waiter_start(struct waiter *waiter, uint64_t timeout_us, unsigned int times)
{
	*waiter = (struct waiter){.timeout_us = timeout_us, .times = times, .rc = PENDING};
	waiter->completion = completion_create();
	assert_non_null(waiter->completion);
	start(waiter_run, waiter);
	poll_all();
}

static void
test_signal_wakes(void **state)
{
	struct waiter waiter;

	(void)state;
	waiter_start(&waiter, WAIT_FOREVER, 1);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
	completion_signal(waiter.completion, 42);
	assert_int_equal(waiter.rc, PENDING);
	poll_all();
	assert_int_equal(waiter.rc, 42);
}

static void
test_signal_before_wait(void **state)
{
	struct waiter waiter = {.timeout_us = 0, .times = 2, .rc = PENDING};

	(void)state;
	waiter.completion = completion_create();
	completion_signal(waiter.completion, -EIO);
	start(waiter_run, &waiter);
	poll_once(thread);
	assert_int_equal(waiter.rc, -EIO);
}

static void
test_wait_times_out(void **state)
{
	struct waiter waiter;
	struct completion *completion;

	(void)state;
	waiter_start(&waiter, 100, 1);
	completion = waiter.completion;
	ticks_advance_us(99);
	poll_all();
	assert_int_equal(waiter.rc, PENDING);
	ticks_advance_us(1);
	poll_all();
	assert_int_equal(waiter.rc, -ETIMEDOUT);
	completion_signal(completion, 0); /* too late: only ends the signaller's share */
	poll_all();
}

static void
test_wait_again_after_a_timeout(void **state)
{
	struct waiter waiter;

	(void)state;
	waiter_start(&waiter, 100, 2);
	ticks_advance_us(100);
	poll_all();
	assert_int_equal(waiter.rc, -ETIMEDOUT);
	completion_signal(waiter.completion, 7);
	poll_all();
	assert_int_equal(waiter.rc, 7);
}

/* The signal's message is under way when the waiter's time is over. */
static void
test_signal_and_timeout_meet(void **state)
{
	struct waiter waiter;

	(void)state;
	waiter_start(&waiter, 100, 1);
	ticks_advance_us(100);
	completion_signal(waiter.completion, 5);
	poll_all();
	assert_int_equal(waiter.rc, 5);
}

static void
test_cancel_a_wait(void **state)
{
	struct waiter waiter;
	struct completion *completion;

	(void)state;
	waiter_start(&waiter, 1000, 2);
	completion = waiter.completion;
	cancel(waiter.coroutine);
	poll_all();
	assert_int_equal(waiter.rc, -ECANCELED);
	completion_signal(completion, 0);

	/* the signal came first */
	waiter_start(&waiter, 1000, 1);
	completion_signal(waiter.completion, 3);
	cancel(waiter.coroutine);
	poll_all();
	assert_int_equal(waiter.rc, 3);

	/* the cancel came first, but the coroutine has not run since */
	waiter_start(&waiter, 1000, 1);
	cancel(waiter.coroutine);
	completion_signal(waiter.completion, 4);
	poll_all();
	assert_int_equal(waiter.rc, 4);
}

static void
wait_when_cancelled(void *arg)
{
	coroutine_cancel(coroutine_current());
	waiter_run(arg);
}

/* Once cancelled, even a result that is there already is not waited for. */
static void
test_wait_when_cancelled(void **state)
{
	struct waiter waiter = {.timeout_us = 1000, .times = 1, .rc = PENDING};

	(void)state;
	waiter.completion = completion_create();
	completion_signal(waiter.completion, 6);
	start(wait_when_cancelled, &waiter);
	poll_all();
	assert_int_equal(waiter.rc, -ECANCELED);
}

static void
sleep_a_second(void *arg)
{
	*(int *)arg = coroutine_sleep(1000000);
}

static void
do_nothing(void *ctx)
{
	(void)ctx;
}

/* The coroutine has returned, and its stack has the next one, when the signal's message comes. */
static void
test_late_signal_message(void **state)
{
	struct waiter waiter;
	int rc = PENDING;

	(void)state;
	waiter_start(&waiter, 1000, 1);
	/* The cancellation's message is the last one of a batch, the signal's that of the next. */
	for (int i = 0; i < THREAD_MSG_BATCH - 1; i++)
		assert_int_equal(thread_send_msg(thread, do_nothing, NULL), 0);
	cancel(waiter.coroutine);
	completion_signal(waiter.completion, 9);
	poll_once(thread);
	assert_int_equal(waiter.rc, 9);
	start(sleep_a_second, &rc);
	poll_all();
	assert_int_equal(rc, PENDING);
	ticks_advance_us(1000000);
	poll_all();
	assert_int_equal(rc, 0);
}

static void
test_completion_without_memory(void **state)
{
	(void)state;
	fault_after(0);
	assert_null(completion_create());
	assert_true(fault_end());
}

static void *
signal_soon(void *arg)
{
	completion_signal(arg, 77);
	return NULL;
}

/* On an OS thread that runs no lightweight thread. */
static void
test_wait_on_os_thread(void **state)
{
	struct completion *completion = completion_create();
	pthread_t signaller;

	(void)state;
	assert_int_equal(completion_wait(completion, 0), -ETIMEDOUT);
	assert_int_equal(completion_wait(completion, 1500), -ETIMEDOUT);
	assert_int_equal(pthread_create(&signaller, NULL, signal_soon, completion), 0);
	assert_int_equal(completion_wait(completion, DEADLINE_S * 1000000ULL), 77);
	assert_int_equal(completion_wait(completion, WAIT_FOREVER), 77);
	completion_put(completion);
	pthread_join(signaller, NULL);
}

/*
 * Signals from other OS threads meet timeouts: each round ends with one or the other, and leaves
 * nothing.
 */
struct race {
	unsigned int rounds;
	unsigned int timeouts;
	int rc;
};

static int
signal_on_worker(void *arg)
{
	completion_signal(arg, 0);
	return 0;
}

struct worker_signal {
	struct work work;
	struct completion *completion;
};

static void
run_worker_signal(struct work *work)
{
	struct worker_signal *signal_work = (struct worker_signal *)work;
	struct completion *completion = signal_work->completion;

	free(signal_work);
	signal_on_worker(completion);
}

static void
race_run(void *arg)
{
	struct race *race = arg;

	for (unsigned int i = 0; i < race->rounds; i++) {
		struct worker_signal *signal_work = malloc(sizeof(*signal_work));
		struct completion *completion = completion_create();
		int rc;

		signal_work->completion = completion;
		assert_int_equal(work_submit(&signal_work->work, run_worker_signal), 0);
		rc = completion_wait(completion, i % 3 * 5);
		assert_true(rc == 0 || rc == -ETIMEDOUT);
		race->timeouts += rc == -ETIMEDOUT;
		completion_put(completion);
	}
	race->rc = 0;
}

static void
test_signals_race_with_timeouts(void **state)
{
	struct race race = {.rounds = 2000, .rc = PENDING};

	(void)state;
	start(race_run, &race);
	while (race.rc == PENDING) {
		poll_once(thread);
		ticks_advance_us(1);
	}
	assert_true(race.timeouts > 0);
}

/* ---- blocking calls ---- */

struct blocking {
	struct coroutine *coroutine;
	struct completion *gate; /* the worker waits for it; NULL: it doesn't */
	pthread_t ran_on;
	int rc;
};

static int
block(void *arg)
{
	struct blocking *blocking = arg;

	assert_null(thread_current());
	assert_null(coroutine_current());
	blocking->ran_on = pthread_self();
	return blocking->gate != NULL ? completion_wait(blocking->gate, WAIT_FOREVER) : 11;
}

static void
run_blocking(void *arg)
{
	struct blocking *blocking = arg;
	int rc;

	blocking->coroutine = coroutine_current();
	rc = coroutine_blocking(block, blocking);
	assert_ptr_equal(thread_current(), thread);
	blocking->rc = rc;
}

static void
test_blocking(void **state)
{
	struct blocking blocking = {.rc = PENDING};

	(void)state;
	start(run_blocking, &blocking);
	poll_for(&blocking.rc);
	assert_int_equal(blocking.rc, 11);
	assert_false(pthread_equal(blocking.ran_on, pthread_self()));
}

static void
test_cancel_a_blocking_call(void **state)
{
	struct blocking blocking = {.rc = PENDING, .gate = completion_create()};

	(void)state;
	start(run_blocking, &blocking);
	poll_all();
	cancel(blocking.coroutine);
	poll_all();
	cancel(blocking.coroutine);
	poll_all();
	/* fn has not returned: it may use the coroutine's stack */
	assert_int_equal(blocking.rc, PENDING);
	completion_signal(blocking.gate, 0);
	poll_for(&blocking.rc);
	assert_int_equal(blocking.rc, -ECANCELED);
	completion_put(blocking.gate);
}

static void
test_blocking_without_pool(void **state)
{
	struct blocking blocking = {.rc = PENDING};

	(void)state;
	work_pool_stop();
	start(run_blocking, &blocking);
	poll_all();
	assert_int_equal(blocking.rc, -EAGAIN);
	assert_int_equal(work_pool_start(NULL), 0);
}

/* ---- thread_call ---- */

struct call {
	struct thread *target;
	uint64_t id;
	struct coroutine *coroutine;
	unsigned int runs;
	int rc;
};

static int
called(void *arg)
{
	struct call *call = arg;

	assert_ptr_equal(thread_current(), call->target);
	call->runs++;
	return 21;
}

static void
run_call(void *arg)
{
	struct call *call = arg;
	int rc;

	call->coroutine = coroutine_current();
	rc = thread_call(call->target, called, call);
	assert_ptr_equal(thread_current(), thread);
	call->rc = rc;
}

static void
test_call_from_a_coroutine(void **state)
{
	struct thread *threads[2] = {thread, thread_create("other", NULL)};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		struct call call = {.target = threads[i], .rc = PENDING};

		start(run_call, &call);
		poll_until_idle(threads, 2);
		assert_int_equal(call.rc, 21);
		assert_int_equal(call.runs, 1);
	}
	thread_finish(threads[1]);
}

static void
run_call_by_id(void *arg)
{
	struct call *call = arg;
	int rc;

	rc = thread_call_by_id(call->id, called, call);
	assert_ptr_equal(thread_current(), thread);
	call->rc = rc;
}

static void
test_call_by_id(void **state)
{
	struct thread *other = thread_create("other", NULL);
	struct call call = {.target = other, .id = thread_id(other), .rc = PENDING};

	(void)state;
	start(run_call_by_id, &call);
	poll_until_idle((struct thread *[]){thread, other}, 2);
	assert_int_equal(call.rc, 21);
	assert_int_equal(call.runs, 1);
	/* A message that is under way is run by a thread that is told to exit ... */
	start(run_call_by_id, &call);
	poll_all();
	thread_set_current(other);
	thread_exit(other);
	thread_set_current(NULL);
	assert_false(thread_is_exited(other));
	poll_until_idle((struct thread *[]){other, thread}, 2);
	assert_int_equal(call.rc, 21);
	assert_int_equal(call.runs, 2);
	/* ... and then it takes no more, whether or not it is there still. */
	for (unsigned int i = 0; i < 2; i++) {
		call.rc = PENDING;
		start(run_call_by_id, &call);
		poll_all();
		assert_int_equal(call.rc, -ENODEV);
		if (i == 0)
			thread_destroy(other);
	}
	call.id = 0;
	assert_int_equal(thread_call_by_id(call.id, called, &call), -ENODEV); /* no coroutine */
	assert_int_equal(call.runs, 2);
}

static void
test_cancel_a_call(void **state)
{
	struct thread *other = thread_create("other", NULL);
	struct call call = {.target = other, .rc = PENDING};

	(void)state;
	start(run_call, &call);
	poll_all();
	cancel(call.coroutine);
	poll_all();
	assert_int_equal(call.rc, PENDING); /* its message is still with the other thread */
	poll_until_idle(&other, 1);
	poll_all();
	assert_int_equal(call.runs, 1);
	assert_int_equal(call.rc, -ECANCELED);
	thread_finish(other);
}

static void *
call_from_here(void *arg)
{
	struct call *call = arg;

	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(thread_call(call->target, called, call), 21);
	return NULL;
}

static void
test_call_from_an_os_thread(void **state)
{
	struct call call = {.target = thread};
	pthread_t caller;

	(void)state;
	assert_int_equal(pthread_create(&caller, NULL, call_from_here, &call), 0);
	while (call.runs < 100) {
		poll_once(thread);
		sched_yield();
	}
	pthread_join(caller, NULL);
	assert_int_equal(call.runs, 100);
}

struct note {
	unsigned int *sum;
	unsigned int number;
};

static int
add_number(void *arg)
{
	const struct note *note = arg;

	*note->sum += note->number;
	return (int)*note->sum;
}

/*
 * Nobody polls the thread: the caller gives up, and the call is made later with what it was given.
 */
static void
test_call_that_nobody_waits_for(void **state)
{
	unsigned int sum = 0;
	struct note note = {.sum = &sum, .number = 5};

	(void)state;
	assert_int_equal(thread_call_within(thread, 1000, add_number, &note, sizeof(note)),
			 -ETIMEDOUT);
	memset(&note, 0xff, sizeof(note));
	assert_int_equal(sum, 0);
	poll_all();
	assert_int_equal(sum, 5);
}

static void
call_within_run(void *arg)
{
	unsigned int sum = 7;
	struct note note = {.sum = &sum, .number = 1};

	*(int *)arg = thread_call_within(thread, WAIT_FOREVER, add_number, &note, sizeof(note));
}

static void
test_call_in_time(void **state)
{
	int rc = PENDING;

	(void)state;
	start(call_within_run, &rc);
	poll_all();
	assert_int_equal(rc, 8);
}

static void
test_call_in_time_without_memory(void **state)
{
	unsigned int sum = 0;
	struct note note = {.sum = &sum, .number = 5};

	(void)state;
	for (unsigned int good = 0; good < 2; good++) {
		fault_after(good);
		assert_int_equal(thread_call_within(thread, 1000, add_number, &note, sizeof(note)),
				 -ENOMEM);
		assert_true(fault_end());
	}
	poll_all();
	assert_int_equal(sum, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		coroutine_test(test_signal_wakes),
		coroutine_test(test_signal_before_wait),
		coroutine_test(test_wait_times_out),
		coroutine_test(test_wait_again_after_a_timeout),
		coroutine_test(test_signal_and_timeout_meet),
		coroutine_test(test_cancel_a_wait),
		coroutine_test(test_wait_when_cancelled),
		coroutine_test(test_late_signal_message),
		coroutine_test(test_completion_without_memory),
		coroutine_test(test_wait_on_os_thread),
		coroutine_test(test_signals_race_with_timeouts),
		coroutine_test(test_blocking),
		coroutine_test(test_cancel_a_blocking_call),
		coroutine_test(test_blocking_without_pool),
		coroutine_test(test_call_from_a_coroutine),
		coroutine_test(test_call_by_id),
		coroutine_test(test_cancel_a_call),
		coroutine_test(test_call_from_an_os_thread),
		coroutine_test(test_call_that_nobody_waits_for),
		coroutine_test(test_call_in_time),
		coroutine_test(test_call_in_time_without_memory),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
