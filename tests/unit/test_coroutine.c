/* SPDX-License-Identifier: BSD-3-Clause */
/* links: thread testlib env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect,--wrap=log_write */
#include "coroutine_rig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "env.h"
#include "fault.h"
#include "ticks.h"

/* ---- what ran, in order ---- */

static char trace[256];

static void
trace_add(const char *text)
{
	strncat(trace, text, sizeof(trace) - strlen(trace) - 1);
}

/* ---- start and end ---- */

static void
remember_current(void *arg)
{
	*(struct coroutine **)arg = coroutine_current();
	assert_ptr_equal(thread_current(), thread);
}

static void
test_start(void **state)
{
	struct coroutine *coroutine = NULL;

	(void)state;
	assert_null(coroutine_current());
	start(remember_current, &coroutine);
	assert_null(coroutine);
	poll_all();
	assert_non_null(coroutine);
	assert_null(coroutine_current());
}

static void
return_at_once(void *arg)
{
	++*(unsigned int *)arg;
}

static void
test_start_errors(void **state)
{
	struct thread *other = thread_create("other", NULL);
	unsigned int runs = 0;

	(void)state;
	/* each step: the mapping and its guard page */
	for (unsigned int good = 0; good < 2; good++) {
		fault_after(good);
		assert_int_equal(coroutine_start(thread, "test", return_at_once, &runs), -ENOMEM);
		assert_true(fault_end());
	}
	start(return_at_once, &runs);
	poll_all();
	assert_int_equal(runs, 1);
	/* the stack is used again */
	fault_after(0);
	start(return_at_once, &runs);
	assert_false(fault_end());
	poll_all();
	assert_int_equal(runs, 2);

	/* one that was accepted before the exit still runs */
	assert_int_equal(coroutine_start(other, "test", return_at_once, &runs), 0);
	thread_set_current(other);
	thread_exit(other);
	thread_set_current(NULL);
	assert_int_equal(coroutine_start(other, "test", return_at_once, &runs), -ECANCELED);
	assert_false(thread_is_exited(other));
	poll_until_idle(&other, 1);
	assert_int_equal(runs, 3);
	assert_true(thread_is_exited(other));
	thread_destroy(other);
}

static void
sleep_a_second(void *arg)
{
	*(int *)arg = coroutine_sleep(1000000);
}

static void
test_thread_waits_for_its_coroutines(void **state)
{
	int rc = PENDING;

	(void)state;
	start(sleep_a_second, &rc);
	poll_all();
	thread_set_current(thread);
	thread_exit(thread);
	thread_set_current(NULL);
	poll_all();
	assert_false(thread_is_exited(thread));
	ticks_advance_us(1000000);
	poll_all();
	assert_int_equal(rc, 0);
	assert_true(thread_is_exited(thread));
}

static void
sleep_long(void *arg)
{
	*(struct coroutine **)arg = coroutine_current();
	assert_int_equal(coroutine_sleep(3600000000), -ECANCELED);
}

static void
test_leftover_coroutine_is_named(void **state)
{
	struct coroutine *coroutine = NULL;

	(void)state;
	assert_int_equal(coroutine_start(thread, "sleepyhead", sleep_long, &coroutine), 0);
	poll_all();
	thread_set_current(thread);
	thread_exit(thread);
	thread_set_current(NULL);
	ticks_advance_us(5000000);
	poll_all();
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), "coroutine sleepyhead"));
	cancel(coroutine);
	poll_all();
	assert_true(thread_is_exited(thread));
}

/* More at once than stacks are kept, with locals that survive. */
#define MANY 50

static void
sum_over_sleeps(void *arg)
{
	unsigned int *result = arg;
	unsigned int sum = 0;
	volatile char page[8192];

	memset((char *)page, 'x', sizeof(page));
	for (unsigned int i = 1; i <= 10; i++) {
		sum += i;
		assert_int_equal(coroutine_sleep(i), 0);
		assert_int_equal(page[i * 100], 'x');
	}
	*result = sum;
}

static void
test_many(void **state)
{
	unsigned int results[MANY] = {0};

	(void)state;
	for (unsigned int round = 0; round < 2; round++) {
		for (unsigned int i = 0; i < MANY; i++)
			start(sum_over_sleeps, &results[i]);
		for (unsigned int i = 0; i < 60; i++) {
			poll_all();
			ticks_advance_us(1);
		}
		for (unsigned int i = 0; i < MANY; i++) {
			assert_int_equal(results[i], 55);
			results[i] = 0;
		}
	}
}

static __attribute__((noinline)) int
dig(unsigned int depth)
{
	volatile char frame[4096];

	memset((char *)frame, 1, sizeof(frame));
	return depth == 0 ? frame[0] : dig(depth - 1) + frame[1];
}

static void
overflow(void *arg)
{
	(void)arg;
	dig(1000);
}

/* Beyond the end of a stack there is a guard page, not somebody's memory. */
static void
test_stack_overflow_hits_the_guard(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		start(overflow, NULL);
		poll_once(thread);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* ---- sleep and cancel ---- */

static void
test_sleep(void **state)
{
	int rc = PENDING;

	(void)state;
	start(sleep_a_second, &rc);
	poll_all();
	assert_int_equal(thread_next_due(thread), env_ticks() + 1000000 * TICKS_PER_US);
	ticks_advance_us(999999);
	poll_all();
	assert_int_equal(rc, PENDING);
	ticks_advance_us(1);
	poll_all();
	assert_int_equal(rc, 0);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
}

static bool stop_yielding;

static void
yield_until_told(void *arg)
{
	unsigned int *turns = arg;

	while (!stop_yielding) {
		++*turns;
		assert_int_equal(coroutine_sleep(0), 0);
	}
}

/* Sleeping for no time lets the iteration end. */
static void
test_sleep_zero_gives_way(void **state)
{
	unsigned int turns = 0;

	(void)state;
	stop_yielding = false;
	start(yield_until_told, &turns);
	for (unsigned int i = 1; i <= 5; i++) {
		poll_once(thread);
		ticks_advance_us(1);
		assert_int_equal(turns, i);
	}
	stop_yielding = true;
	poll_all();
}

struct cancelled {
	struct coroutine *coroutine;
	int first, second, third;
};

static void
be_cancelled(void *arg)
{
	struct cancelled *self = arg;

	self->coroutine = coroutine_current();
	self->first = coroutine_sleep(1000);
	self->second = coroutine_sleep(1000);
	self->third = coroutine_blocking(NULL, NULL); /* not run */
}

static void
test_cancel_a_sleep(void **state)
{
	struct cancelled self = {.first = PENDING};

	(void)state;
	start(be_cancelled, &self);
	poll_all();
	cancel(self.coroutine);
	cancel(self.coroutine);
	assert_int_equal(self.first, PENDING); /* not from inside the call */
	poll_all();
	assert_int_equal(self.first, -ECANCELED);
	assert_int_equal(self.second, -ECANCELED);
	assert_int_equal(self.third, -ECANCELED);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
}

/* The timer and the cancel in one iteration, in both orders: the coroutine is resumed once. */
static void
test_cancel_when_the_sleep_is_over(void **state)
{
	(void)state;
	for (unsigned int timer_first = 0; timer_first < 2; timer_first++) {
		struct cancelled self = {.first = PENDING};

		start(be_cancelled, &self);
		poll_all();
		ticks_advance_us(1000);
		if (timer_first)
			poll_once(thread);
		cancel(self.coroutine);
		poll_all();
		assert_int_equal(self.third, -ECANCELED);
	}
}

static int
cancel_once(void *arg)
{
	struct cancelled *self = arg;

	if (self->first == PENDING)
		coroutine_cancel(self->coroutine);
	return POLLER_IDLE;
}

/* A poller cancels after the messages of the iteration in which the timer is due. */
static void
test_cancel_just_before_the_timer(void **state)
{
	struct cancelled self = {.first = PENDING};
	struct poller *poller;

	(void)state;
	start(be_cancelled, &self);
	poll_all();
	thread_set_current(thread);
	poller = poller_register(cancel_once, &self, 0, "cancel");
	thread_set_current(NULL);
	ticks_advance_us(1000);
	poll_all();
	assert_int_equal(self.first, 0);
	assert_int_equal(self.third, -ECANCELED);
	thread_set_current(thread);
	poller_unregister(&poller);
}

static void
cancel_itself(void *arg)
{
	coroutine_cancel(coroutine_current());
	*(int *)arg = coroutine_sleep(1000);
}

static void
test_cancel_itself(void **state)
{
	int rc = PENDING;

	(void)state;
	start(cancel_itself, &rc);
	poll_all();
	assert_int_equal(rc, -ECANCELED);
}

static void
cancel_other(void *arg)
{
	struct cancelled *other = arg;

	coroutine_cancel(other->coroutine);
	assert_int_equal(other->first, PENDING); /* nothing else runs while we do */
}

static void
test_cancel_from_another_coroutine(void **state)
{
	struct cancelled self = {.first = PENDING};

	(void)state;
	start(be_cancelled, &self);
	start(cancel_other, &self);
	poll_all();
	assert_int_equal(self.third, -ECANCELED);
}

/* ---- mutex ---- */

static struct coroutine_mutex mutex;
static struct coroutine *waiting;

static void
hold_mutex(void *arg)
{
	coroutine_mutex_lock(&mutex);
	trace_add(arg);
	assert_int_equal(coroutine_sleep(10), 0);
	trace_add(arg);
	coroutine_mutex_unlock(&mutex);
	trace_add("."); /* unlocking does not give way */
}

static void
hold_mutex_cancelled(void *arg)
{
	waiting = coroutine_current();
	coroutine_mutex_lock(&mutex);
	trace_add(arg);
	assert_int_equal(coroutine_sleep(10), -ECANCELED);
	coroutine_mutex_unlock(&mutex);
}

static void
test_mutex(void **state)
{
	(void)state;
	trace[0] = '\0';
	start(hold_mutex, "a");
	start(hold_mutex, "b");
	start(hold_mutex_cancelled, "c");
	start(hold_mutex, "d");
	poll_all();
	assert_string_equal(trace, "a");
	cancel(waiting); /* does not end its wait for the mutex */
	poll_all();
	assert_string_equal(trace, "a");
	ticks_advance_us(10);
	poll_all();
	assert_string_equal(trace, "aa.b");
	ticks_advance_us(10);
	poll_all();
	assert_string_equal(trace, "aa.bb.cd");
	ticks_advance_us(10);
	poll_all();
	assert_string_equal(trace, "aa.bb.cdd.");
	assert_null(mutex.owner);
	assert_null(mutex.first_waiter);
}

/* ---- a lightweight thread that moves between OS threads ---- */

static atomic_uint turn;
static struct thread *moving;

struct mover {
	pthread_t seen[2];
	unsigned int rounds;
	bool done;
};

static void
move_run(void *arg)
{
	struct mover *mover = arg;

	for (unsigned int i = 0; i < mover->rounds; i++) {
		assert_ptr_equal(thread_current(), moving);
		assert_non_null(coroutine_current());
		mover->seen[i % 2] = pthread_self();
		assert_int_equal(coroutine_sleep(1), 0);
	}
	mover->done = true;
}

struct carrier {
	unsigned int index;
	unsigned int rounds;
};

/* Polls the thread in its turns: each iteration of the coroutine is on the other OS thread. */
static void *
carry(void *arg)
{
	struct carrier *carrier = arg;

	for (unsigned int i = 0; i < carrier->rounds; i++) {
		while (atomic_load(&turn) % 2 != carrier->index)
			sched_yield();
		assert_null(thread_current());
		ticks_advance_us(1);
		poll_once(moving);
		assert_null(thread_current());
		atomic_fetch_add(&turn, 1);
	}
	return NULL;
}

static void
test_moves_between_os_threads(void **state)
{
	struct mover mover = {.rounds = 100};
	struct carrier carriers[2] = {{.index = 0, .rounds = 60}, {.index = 1, .rounds = 60}};
	pthread_t os_threads[2];

	(void)state;
	moving = thread;
	atomic_store(&turn, 0);
	start(move_run, &mover);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&os_threads[i], NULL, carry, &carriers[i]), 0);
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(os_threads[i], NULL);
	assert_true(mover.done);
	assert_false(pthread_equal(mover.seen[0], mover.seen[1]));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		coroutine_test(test_start),
		coroutine_test(test_start_errors),
		coroutine_test(test_thread_waits_for_its_coroutines),
		coroutine_test(test_leftover_coroutine_is_named),
		coroutine_test(test_many),
		coroutine_test(test_stack_overflow_hits_the_guard),
		coroutine_test(test_sleep),
		coroutine_test(test_sleep_zero_gives_way),
		coroutine_test(test_cancel_a_sleep),
		coroutine_test(test_cancel_when_the_sleep_is_over),
		coroutine_test(test_cancel_just_before_the_timer),
		coroutine_test(test_cancel_itself),
		coroutine_test(test_cancel_from_another_coroutine),
		coroutine_test(test_mutex),
		coroutine_test(test_moves_between_os_threads),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
