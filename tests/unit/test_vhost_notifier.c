/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls through eventfds whose other owner is hostile: with AIO, and where the kernel has none. */
/* links: vhost env */
/* ldflags: -Wl,--wrap=syscall -Wl,--wrap=timer_create */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "vhost/notifier.h"
#include "waiting.h"

#define NEARLY (UINT64_MAX - 1) /* what write(2) can fill a counter with */

/* ---- system calls that fail; set while no other OS thread runs ---- */

static long failing_call; /* -1: none */
static atomic_long submits;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

long
__wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number == failing_call) {
		errno = number == SYS_io_setup ? ENOSYS : EAGAIN;
		return -1;
	}
	if (number == SYS_io_submit)
		submits++;
	return __real_syscall(number, a, b, c, d, e, f);
}

static bool no_timers;

int __real_timer_create(clockid_t clock, struct sigevent *event, timer_t *timer);
int __wrap_timer_create(clockid_t clock, struct sigevent *event, timer_t *timer);

int
__wrap_timer_create(clockid_t clock, struct sigevent *event, timer_t *timer)
{
	if (!no_timers)
		return __real_timer_create(clock, event, timer);
	errno = EAGAIN;
	return -1;
}

/* ---- each test notifies from an OS thread of its own, which has to come back ---- */

struct job {
	int fd;
	unsigned int times;
	int rc; /* the last one's */
};

static void *
notify_thread(void *arg)
{
	struct job *job = arg;

	for (unsigned int i = 0; i < job->times; i++)
		job->rc = vhost_notify(job->fd);
	return NULL;
}

static int
notify(int fd, unsigned int times)
{
	struct job job = {.fd = fd, .times = times, .rc = 1};
	struct timespec end;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, notify_thread, &job), 0);
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += DEADLINE_S;
	assert_int_equal(pthread_timedjoin_np(thread, NULL, &end), 0);
	return job.rc;
}

static int
open_eventfd(uint64_t count, bool blocks)
{
	int fd = eventfd(0, EFD_CLOEXEC | (blocks ? 0 : EFD_NONBLOCK));

	assert_true(fd >= 0);
	if (count > 0)
		assert_int_equal(write(fd, &count, sizeof(count)), sizeof(count));
	return fd;
}

static uint64_t
take(int fd)
{
	uint64_t count = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	return count;
}

static int
setup(void **state)
{
	(void)state;
	failing_call = -1;
	no_timers = false;
	submits = 0;
	return 0;
}

/* ---- tests ---- */

/* More than the context has room for: what has ended is taken. */
static void
test_each_adds_one(void **state)
{
	int fd = open_eventfd(0, false);

	(void)state;
	assert_int_equal(notify(fd, 1000), 0);
	assert_int_equal(take(fd), 1000);
	assert_int_equal(submits, 1000);
	close(fd);
}

static void
test_wakes_who_waits(void **state)
{
	int fd = open_eventfd(0, false);
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	struct job job = {.fd = fd, .times = 1};
	pthread_t thread;

	(void)state;
	assert_int_equal(poll(&wait, 1, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, notify_thread, &job), 0);
	assert_int_equal(poll(&wait, 1, DEADLINE_S * 1000), 1);
	pthread_join(thread, NULL);
	close(fd);
}

/* What a hostile front-end does to us; a write(2) would never return. */
static void
test_full_and_blocking(void **state)
{
	int fd = open_eventfd(NEARLY, true);

	(void)state;
	assert_int_equal(notify(fd, 1000), 0);
	assert_int_equal(take(fd), UINT64_MAX);
	close(fd);
}

static void
test_full(void **state)
{
	int fd = open_eventfd(NEARLY, false);

	(void)state;
	assert_int_equal(notify(fd, 3), 0);
	close(fd);
}

static void
test_no_eventfd(void **state)
{
	int pipe_fds[2];

	(void)state;
	assert_int_equal(notify(-1, 1), 0);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	assert_int_equal(notify(pipe_fds[0], 1), 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void
test_many_threads(void **state)
{
	int fd = open_eventfd(0, false);
	struct job jobs[8];
	pthread_t threads[8];

	(void)state;
	for (int i = 0; i < 8; i++) {
		jobs[i] = (struct job){.fd = fd, .times = 500};
		assert_int_equal(pthread_create(&threads[i], NULL, notify_thread, &jobs[i]), 0);
	}
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(take(fd), 4000);
	close(fd);
}

/*
 * A kernel without AIO, one whose contexts are all taken, and one that has no memory for a request.
 */
static void
test_without_aio(void **state)
{
	static const long calls[] = {SYS_io_setup, SYS_io_submit};

	(void)state;
	for (int i = 0; i < 2; i++) {
		int fd = open_eventfd(0, true);

		failing_call = calls[i];
		assert_int_equal(notify(fd, 100), 0);
		assert_int_equal(take(fd), 100);
		assert_int_equal(submits, 0);
		close(fd);
	}
}

static void
test_without_aio_full(void **state)
{
	int blocking = open_eventfd(NEARLY, true);
	int polite = open_eventfd(NEARLY, false);

	(void)state;
	failing_call = SYS_io_setup;
	assert_int_equal(notify(blocking, 1), -ETIMEDOUT);
	assert_int_equal(take(blocking), NEARLY);
	assert_int_equal(notify(polite, 3), 0);
	assert_int_equal(take(polite), NEARLY);
	close(blocking);
	close(polite);
}

/* Nothing is wrong with the eventfd, which is good when there is a timer again. */
static void
test_without_anything(void **state)
{
	int fd = open_eventfd(0, true);

	(void)state;
	failing_call = SYS_io_submit;
	no_timers = true;
	assert_int_equal(notify(fd, 3), -EAGAIN);
	no_timers = false;
	assert_int_equal(notify(fd, 3), 0);
	assert_int_equal(take(fd), 3);
	close(fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_each_adds_one, setup),
		cmocka_unit_test_setup(test_wakes_who_waits, setup),
		cmocka_unit_test_setup(test_full_and_blocking, setup),
		cmocka_unit_test_setup(test_full, setup),
		cmocka_unit_test_setup(test_no_eventfd, setup),
		cmocka_unit_test_setup(test_many_threads, setup),
		cmocka_unit_test_setup(test_without_aio, setup),
		cmocka_unit_test_setup(test_without_aio_full, setup),
		cmocka_unit_test_setup(test_without_anything, setup),
	};

	return cmocka_run_group_tests_name("vhost_notifier", tests, NULL, NULL);
}
