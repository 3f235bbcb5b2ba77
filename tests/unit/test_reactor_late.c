/* SPDX-License-Identifier: BSD-3-Clause */
/* A reactor that sleeps for longer than it asked for says so: whoever reads the log can tell. */
/* links: event thread env testlib */
/* ldflags: -Wl,--wrap=epoll_pwait2,--wrap=log_write */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <sys/epoll.h>

#include "log_capture.h"
#include "reactor_rig.h"

#define PERIOD_US 1000
#define STALL_MS  1100

static atomic_bool stalls;
static _Atomic uint64_t runs, stalled;

/* Sleeps until a timer are so much longer while the CPU "stalls". */
int __real_epoll_pwait2(int fd, struct epoll_event *events, int count,
			const struct timespec *timeout, const sigset_t *mask);
int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int count,
			const struct timespec *timeout, const sigset_t *mask);

int
__wrap_epoll_pwait2(int fd, struct epoll_event *events, int count, const struct timespec *timeout,
		    const sigset_t *mask)
{
	int rc = __real_epoll_pwait2(fd, events, count, timeout, mask);

	if (timeout != NULL && timeout->tv_nsec > 0 && atomic_exchange(&stalls, false)) {
		struct timespec stall = {.tv_sec = STALL_MS / 1000,
					 .tv_nsec = STALL_MS % 1000 * 1000000L};

		nanosleep(&stall, NULL);
		stalled++;
	}
	return rc;
}

static int
run(void *arg)
{
	(void)arg;
	runs++;
	return POLLER_IDLE;
}

static struct poller *poller;

static void
start(void *arg)
{
	(void)arg;
	poller = poller_register(run, NULL, PERIOD_US, "timer");
}

static void
stop(void *arg)
{
	(void)arg;
	poller_unregister(&poller);
	thread_exit(thread_current());
}

static void
drive(void *arg)
{
	struct cpumask only = {{0}};
	struct thread *thread;

	(void)arg;
	cpumask_set(&only, cores[0]);
	thread = thread_create("late", &only);
	thread_send_msg(thread, start, NULL);
	wait_until_at_least(&runs, 3);
	stalls = true;
	wait_until_at_least(&stalled, 1);
	wait_until_at_least(&runs, runs + 3);
	thread_send_msg(thread, stop, NULL);
}

static void
test_late(void **state)
{
	(void)state;
	log_capture_reset();
	run_reactors(REACTOR_INTERRUPT, drive, NULL);
	assert_int_equal(stalled, 1);
	assert_true(log_capture_count() >= 1);
	assert_non_null(strstr(log_capture_last(), "too late"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_late)};

	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
