/* SPDX-License-Identifier: BSD-3-Clause */
/* links: thread testlib env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect,--wrap=log_write */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "by_hand.h"
#include "env.h"
#include "fault.h"
#include "log_capture.h"
#include "thread.h"
#include "thread/msg_cache.h"
#include "ticks.h"
#include "waiting.h"

static int
setup(void **state)
{
	(void)state;
	thread_lib_init(NULL);
	log_capture_reset();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	thread_set_current(NULL);
	thread_lib_fini();
	return 0;
}

static struct thread *
make_thread(const char *name)
{
	struct thread *thread = thread_create(name, NULL);

	assert_non_null(thread);
	return thread;
}

/* ---- what ran, in order ---- */

static char trace[256];

static void
trace_reset(void)
{
	trace[0] = '\0';
}

static void
trace_add(void *ctx)
{
	strncat(trace, ctx, sizeof(trace) - strlen(trace) - 1);
}

/* ---- life ---- */

static void
test_create(void **state)
{
	struct cpumask mask = {{0}};
	char long_name[100];
	struct thread *a, *b, *c;

	(void)state;
	memset(long_name, 'x', sizeof(long_name));
	long_name[99] = '\0';
	cpumask_set(&mask, 3);
	a = thread_create("a", &mask);
	b = thread_create(long_name, NULL);
	assert_string_equal(thread_name(a), "a");
	assert_int_equal(strlen(thread_name(b)), 63);
	memcpy(long_name + 61, "\xe2\x82\xac", 3);
	c = make_thread(long_name);
	assert_int_equal(strlen(thread_name(c)), 61);
	assert_true(cpumask_equal(thread_cpumask(a), &mask));
	assert_true(cpumask_is_empty(thread_cpumask(b)));
	assert_true(thread_id(b) > thread_id(a) && thread_id(a) > 0);
	assert_null(thread_current());
	assert_false(thread_is_exiting(a));
	assert_false(thread_is_exited(a));
	thread_finish(a);
	thread_finish(b);
	thread_finish(c);
}

static unsigned int schedule_calls;
static int schedule_rc;

static int
schedule(struct thread *thread)
{
	schedule_calls++;
	assert_non_null(thread_ctx(thread));
	assert_ptr_equal(thread_from_ctx(thread_ctx(thread)), thread);
	assert_int_equal(*(uint64_t *)thread_ctx(thread), 0);
	*(uint64_t *)thread_ctx(thread) = ~0ULL;
	return schedule_rc;
}

static void
test_schedule(void **state)
{
	const struct thread_lib_ops ops = {.schedule = schedule, .ctx_size = sizeof(uint64_t)};
	struct thread *thread;

	(void)state;
	thread_lib_init(&ops);
	schedule_calls = 0;
	schedule_rc = 0;
	thread = make_thread("placed");
	assert_int_equal(schedule_calls, 1);
	schedule_rc = -EINVAL;
	errno = 0;
	assert_null(thread_create("no place", NULL));
	assert_int_equal(errno, EINVAL);
	thread_finish(thread);
}

static void
test_create_without_memory(void **state)
{
	(void)state;
	fault_after(0);
	errno = 0;
	assert_null(thread_create("a", NULL));
	assert_int_equal(errno, ENOMEM);
	assert_true(fault_end());
}

static void
test_create_without_fd(void **state)
{
	struct rlimit limit, none;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	errno = 0;
	assert_null(thread_create("a", NULL));
	assert_int_equal(errno, EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* ---- messages ---- */

static void
test_message_order(void **state)
{
	struct thread *thread = make_thread("t");
	struct thread_msg b, d;
	struct thread_stats stats;

	(void)state;
	trace_reset();
	assert_int_equal(poll_once(thread), POLLER_IDLE);
	assert_int_equal(thread_send_msg(thread, trace_add, "a"), 0);
	thread_send(thread, &b, trace_add, "b");
	assert_int_equal(thread_send_msg(thread, trace_add, "c"), 0);
	thread_send(thread, &d, trace_add, "d");
	assert_string_equal(trace, "");
	assert_int_equal(poll_once(thread), POLLER_BUSY);
	assert_int_equal(poll_once(thread), POLLER_IDLE);
	assert_string_equal(trace, "abcd");
	thread_get_stats(thread, &stats);
	assert_int_equal(stats.messages, 4);
	thread_finish(thread);
}

/* Those beyond a batch let the pollers go first. */
static void
test_message_batch(void **state)
{
	struct thread *thread = make_thread("t");
	struct thread_stats stats;

	(void)state;
	trace_reset();
	for (int i = 0; i < THREAD_MSG_BATCH + 1; i++)
		assert_int_equal(thread_send_msg(thread, trace_add, "x"), 0);
	assert_int_equal(poll_once(thread), POLLER_BUSY);
	assert_int_equal(strlen(trace), THREAD_MSG_BATCH);
	assert_int_equal(poll_once(thread), POLLER_BUSY);
	assert_int_equal(poll_once(thread), POLLER_IDLE);
	thread_get_stats(thread, &stats);
	assert_int_equal(stats.messages, THREAD_MSG_BATCH + 1);
	thread_finish(thread);
}

struct resend {
	struct thread_msg msg;
	unsigned int left;
	struct thread *thread;
};

static void
resend(void *ctx)
{
	struct resend *again = ctx;

	assert_ptr_equal(thread_current(), again->thread);
	if (again->left-- > 0)
		thread_send(again->thread, &again->msg, resend, again);
	else
		free(again);
}

/*
 * A message may be sent again and freed by its own function; one that is always there does not stop
 * pollers.
 */
static void
test_message_sent_again(void **state)
{
	struct thread *thread = make_thread("t");
	struct resend *again = malloc(sizeof(*again));

	(void)state;
	again->left = 1000;
	again->thread = thread;
	thread_send(thread, &again->msg, resend, again);
	assert_int_equal(poll_once(thread), POLLER_BUSY);
	assert_true(again->left > 0 && again->left < 1000);
	poll_until_idle(&thread, 1);
	assert_null(thread_current());
	thread_finish(thread);
}

static void
test_stray_messages_are_cached(void **state)
{
	struct thread *thread = make_thread("t");

	(void)state;
	trace_reset();
	for (unsigned int i = 0; i < MSG_CACHE_MAX_CELLS + 10; i++)
		assert_int_equal(thread_send_msg(thread, trace_add, ""), 0);
	assert_int_equal(msg_cache_count(), 0);
	poll_until_idle(&thread, 1);
	assert_int_equal(msg_cache_count(), MSG_CACHE_MAX_CELLS);
	fault_after(0);
	assert_int_equal(thread_send_msg(thread, trace_add, "x"), 0);
	assert_false(fault_end());
	assert_int_equal(msg_cache_count(), MSG_CACHE_MAX_CELLS - 1);
	poll_until_idle(&thread, 1);
	msg_cache_drain();
	fault_after(0);
	assert_int_equal(thread_send_msg(thread, trace_add, "y"), -ENOMEM);
	assert_true(fault_end());
	poll_until_idle(&thread, 1);
	assert_string_equal(trace, "x");
	thread_finish(thread);
}

static void *
poll_here(void *arg)
{
	struct thread *thread = arg;

	poll_until_idle(&thread, 1);
	assert_int_equal(msg_cache_count(), 3);
	return NULL;
}

/* What an OS thread keeps is freed at its end: the leak checker of the sanitizer builds looks. */
static void
test_stray_messages_on_an_os_thread_that_ends(void **state)
{
	struct thread *thread = make_thread("t");
	pthread_t os_thread;

	(void)state;
	trace_reset();
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(thread_send_msg(thread, trace_add, "x"), 0);
	assert_int_equal(pthread_create(&os_thread, NULL, poll_here, thread), 0);
	pthread_join(os_thread, NULL);
	assert_string_equal(trace, "xxx");
	assert_int_equal(msg_cache_count(), 0);
	thread_finish(thread);
}

static atomic_uint wakes;

static void
count_wake(struct thread *thread)
{
	(void)thread;
	atomic_fetch_add(&wakes, 1);
}

static void
send_to_self(void *ctx)
{
	assert_int_equal(thread_send_msg(thread_current(), trace_add, ctx), 0);
}

static void
test_wake_only_from_elsewhere(void **state)
{
	const struct thread_lib_ops ops = {.wake = count_wake};
	struct thread *thread;

	(void)state;
	thread_lib_init(&ops);
	thread = make_thread("t");
	trace_reset();
	atomic_store(&wakes, 0);
	assert_int_equal(thread_send_msg(thread, send_to_self, "x"), 0);
	assert_int_equal(atomic_load(&wakes), 1);
	poll_until_idle(&thread, 1);
	assert_string_equal(trace, "x");
	assert_int_equal(atomic_load(&wakes), 1);
	thread_finish(thread);
}

#define SENDERS  3
#define MESSAGES 5000

struct sender {
	struct thread *thread;
	unsigned int next; /* receiver only */
};

struct numbered {
	struct thread_msg msg;
	struct sender *sender;
	unsigned int number;
};

static void
receive_numbered(void *ctx)
{
	struct numbered *numbered = ctx;

	assert_int_equal(numbered->number, numbered->sender->next++);
	free(numbered);
}

static void *
send_numbered(void *arg)
{
	struct sender *sender = arg;

	for (unsigned int i = 0; i < MESSAGES; i++) {
		struct numbered *numbered = malloc(sizeof(*numbered));

		*numbered = (struct numbered){.sender = sender, .number = i};
		if (i % 2 == 0)
			thread_send(sender->thread, &numbered->msg, receive_numbered, numbered);
		else
			assert_int_equal(
				thread_send_msg(sender->thread, receive_numbered, numbered), 0);
	}
	return NULL;
}

static void
test_many_senders(void **state)
{
	const struct thread_lib_ops ops = {.wake = count_wake};
	struct sender senders[SENDERS];
	pthread_t os_threads[SENDERS];
	struct thread *thread;
	struct thread_stats stats;

	(void)state;
	thread_lib_init(&ops);
	thread = make_thread("t");
	for (unsigned int i = 0; i < SENDERS; i++) {
		senders[i] = (struct sender){.thread = thread};
		assert_int_equal(pthread_create(&os_threads[i], NULL, send_numbered, &senders[i]),
				 0);
	}
	do {
		if (poll_once(thread) == POLLER_IDLE)
			sched_yield();
		thread_get_stats(thread, &stats);
	} while (stats.messages < SENDERS * MESSAGES);
	for (unsigned int i = 0; i < SENDERS; i++) {
		pthread_join(os_threads[i], NULL);
		assert_int_equal(senders[i].next, MESSAGES);
	}
	thread_finish(thread);
}

/* ---- a thread ends by its last message while the sender is still in wake ---- */

static atomic_bool wake_entered, wake_may_leave;

static void
slow_wake(struct thread *thread)
{
	(void)thread;
	atomic_store(&wake_entered, true);
	while (!atomic_load(&wake_may_leave))
		sched_yield();
}

static void
exit_current(void *ctx)
{
	(void)ctx;
	thread_exit(thread_current());
}

static void *
send_exit(void *arg)
{
	thread_send_msg(arg, exit_current, NULL);
	return NULL;
}

static void
test_not_exited_while_a_sender_wakes(void **state)
{
	const struct thread_lib_ops ops = {.wake = slow_wake};
	struct thread *thread;
	pthread_t sender;
	bool exited, armed;

	(void)state;
	thread_lib_init(&ops);
	atomic_store(&wake_entered, false);
	atomic_store(&wake_may_leave, false);
	thread = make_thread("t");
	assert_int_equal(pthread_create(&sender, NULL, send_exit, thread), 0);
	while (!atomic_load(&wake_entered))
		sched_yield();
	poll_until_idle(&thread, 1);
	exited = thread_is_exited(thread);
	armed = thread_arm(thread);
	atomic_store(&wake_may_leave, true);
	pthread_join(sender, NULL);
	assert_true(thread_is_exiting(thread));
	assert_false(exited);
	assert_false(armed); /* or nobody would look again */
	assert_false(thread_arm(thread));
	assert_true(thread_is_exited(thread));
	thread_destroy(thread);
}

/* ---- exit ---- */

static void
test_exit_runs_what_was_sent(void **state)
{
	struct thread *thread = make_thread("t");

	(void)state;
	trace_reset();
	assert_int_equal(thread_send_msg(thread, exit_current, NULL), 0);
	for (int i = 0; i < THREAD_MSG_BATCH; i++)
		assert_int_equal(thread_send_msg(thread, trace_add, "x"), 0);
	assert_int_equal(poll_once(thread), POLLER_BUSY);
	assert_true(thread_is_exiting(thread));
	assert_false(thread_is_exited(thread)); /* one message is left */
	poll_until_idle(&thread, 1);
	assert_int_equal(strlen(trace), THREAD_MSG_BATCH);
	assert_true(thread_is_exited(thread));
	thread_destroy(thread);
}

static int
idle_poller(void *arg)
{
	(void)arg;
	return POLLER_IDLE;
}

static int
channel_create(void *dev, void *ctx)
{
	(void)dev;
	(void)ctx;
	return 0;
}

static void
channel_destroy(void *dev, void *ctx)
{
	(void)dev;
	(void)ctx;
}

static void
test_leftovers_are_named_once(void **state)
{
	struct thread *thread = make_thread("stuck");
	struct io_channel *channel;
	struct poller *poller;
	int dev;

	(void)state;
	assert_int_equal(io_device_register(&dev, channel_create, channel_destroy, 0, "disk"), 0);
	thread_set_current(thread);
	poller = poller_register(idle_poller, NULL, 0, "forgotten");
	channel = io_channel_get(&dev);
	thread_exit(thread);
	thread_exit(thread);
	errno = 0;
	assert_null(poller_register(idle_poller, NULL, 0, "late"));
	assert_int_equal(errno, ECANCELED);
	errno = 0;
	assert_null(io_channel_get(&dev));
	assert_int_equal(errno, ECANCELED);
	assert_int_equal(thread_next_due(thread), env_ticks() + 5000000 * TICKS_PER_US);
	ticks_advance_us(4999999);
	poll_until_idle(&thread, 1);
	assert_int_equal(log_capture_count(), 0);
	ticks_advance_us(1);
	poll_until_idle(&thread, 1);
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), "thread stuck:"));
	assert_non_null(strstr(log_capture_last(), "poller forgotten"));
	assert_non_null(strstr(log_capture_last(), "channel to disk (1 references)"));
	ticks_advance_us(60000000);
	poll_until_idle(&thread, 1);
	assert_int_equal(log_capture_count(), 1);
	assert_false(thread_is_exited(thread));

	thread_set_current(thread);
	poller_unregister(&poller);
	io_channel_put(channel);
	io_device_unregister(&dev, NULL);
	thread_set_current(NULL);
	assert_false(thread_is_exited(thread));
	poll_until_idle(&thread, 1);
	assert_true(thread_is_exited(thread));
	thread_destroy(thread);
}

/* ---- statistics ---- */

static void
test_account(void **state)
{
	struct thread *thread = make_thread("t");
	struct thread_stats stats;

	(void)state;
	thread_account(thread, POLLER_BUSY, 10);
	thread_account(thread, POLLER_IDLE, 3);
	thread_account(thread, POLLER_BUSY, 5);
	thread_get_stats(thread, &stats);
	assert_int_equal(stats.busy_ticks, 15);
	assert_int_equal(stats.idle_ticks, 3);
	ticks_advance_us(7);
	thread_poll(thread, env_ticks());
	assert_int_equal(thread_now(thread), env_ticks());
	thread_finish(thread);
}

/* ---- for_each_thread ---- */

static struct thread *walk_origin;

static void
walk_visit(void *ctx)
{
	(void)ctx;
	trace_add((void *)thread_name(thread_current()));
}

static void
walk_done(void *ctx)
{
	assert_ptr_equal(thread_current(), walk_origin);
	trace_add(ctx);
}

static void
test_for_each_thread(void **state)
{
	struct thread *threads[4] = {make_thread("a"), make_thread("b"), make_thread("c")};

	(void)state;
	trace_reset();
	walk_origin = threads[1];
	thread_set_current(threads[2]);
	thread_exit(threads[2]);
	thread_set_current(walk_origin);
	fault_after(0);
	assert_int_equal(for_each_thread(walk_visit, "!", walk_done), -ENOMEM);
	assert_true(fault_end());
	assert_int_equal(for_each_thread(walk_visit, "!", walk_done), 0);
	thread_exit(walk_origin); /* the walk is on "a": its origin stays until it comes back */
	threads[3] = make_thread("late");
	assert_false(thread_is_exited(walk_origin));
	poll_until_idle(threads, 4);
	/* "b" began to exit before the walk came to it */
	assert_string_equal(trace, "a!");
	thread_set_current(NULL);
	assert_true(thread_is_exited(walk_origin));

	trace_reset();
	walk_origin = threads[0];
	thread_set_current(walk_origin);
	assert_int_equal(for_each_thread(walk_visit, "!", walk_done), 0);
	assert_int_equal(for_each_thread(walk_visit, NULL, NULL), 0);
	thread_set_current(NULL);
	poll_until_idle(threads, 4);
	assert_string_equal(trace, "aalatelate!");
	for (unsigned int i = 0; i < 4; i++)
		thread_finish(threads[i]);
}

/* A walk may find a thread that its scheduler is about to refuse. */
static struct thread *refused_walk_origin;

static int
walk_then_refuse(struct thread *thread)
{
	struct thread *previous = thread_current();

	if (refused_walk_origin == NULL)
		return 0;
	thread_set_current(refused_walk_origin);
	assert_int_equal(for_each_thread(walk_visit, "!", walk_done), 0);
	thread_set_current(previous);
	poll_until_idle(&refused_walk_origin, 1);
	assert_ptr_not_equal(thread, refused_walk_origin);
	return -ENOSPC;
}

static void
test_walk_meets_a_refused_thread(void **state)
{
	const struct thread_lib_ops ops = {.schedule = walk_then_refuse};
	struct thread *thread;

	(void)state;
	thread_lib_init(&ops);
	refused_walk_origin = NULL;
	thread = make_thread("a");
	walk_origin = refused_walk_origin = thread;
	trace_reset();
	assert_null(thread_create("refused", NULL));
	assert_int_equal(errno, ENOSPC);
	poll_until_idle(&thread, 1);
	assert_string_equal(trace, "arefused!");
	thread_finish(thread);
}

#define thread_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		thread_test(test_create),
		thread_test(test_schedule),
		thread_test(test_create_without_memory),
		thread_test(test_create_without_fd),
		thread_test(test_message_order),
		thread_test(test_message_batch),
		thread_test(test_message_sent_again),
		thread_test(test_stray_messages_are_cached),
		thread_test(test_stray_messages_on_an_os_thread_that_ends),
		thread_test(test_wake_only_from_elsewhere),
		thread_test(test_many_senders),
		thread_test(test_not_exited_while_a_sender_wakes),
		thread_test(test_exit_runs_what_was_sent),
		thread_test(test_leftovers_are_named_once),
		thread_test(test_account),
		thread_test(test_for_each_thread),
		thread_test(test_walk_meets_a_refused_thread),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
