/* SPDX-License-Identifier: BSD-3-Clause */
#include "notifier.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define likely(condition) __builtin_expect(!!(condition), 1)

/*
 * Requests whose ends nobody has taken yet: what the context must have room for, and when they are
 * taken.
 */
#define CONTEXT_EVENTS 128
#define REAP_EVENTS    64

/* Of one OS thread. */
struct notifier {
	bool started;
	/* AIO; idle_fd is -1 where there is none */
	aio_context_t context;
	int idle_fd; /* nothing is read from it, at once; ours: its counter is not shared */
	uint32_t ended;
	/* the timer of the way without AIO */
	bool has_timer;
	timer_t timer;
};

static _Thread_local struct notifier notifier;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_thread_end;

/* ---- without AIO ---- */

static void
interrupt_write(int number)
{
	(void)number;
}

/* Not one of those that people send, and unlikely to be anybody else's. */
static int
signal_number(void)
{
	return SIGRTMAX - 3;
}

static bool
start_timer(struct notifier *n)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signal_number()};
	sigset_t set;

	event.sigev_notify_thread_id = gettid();
	if (timer_create(CLOCK_MONOTONIC, &event, &n->timer) != 0)
		return false;
	sigemptyset(&set);
	sigaddset(&set, signal_number());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	n->has_timer = true;
	return true;
}

/*
 * The timer goes on firing: a signal that comes just before the write begins does not interrupt it.
 */
static int
write_in_time(struct notifier *n, int eventfd)
{
	static const uint64_t one = 1;
	static const struct itimerspec armed = {.it_interval.tv_nsec = NOTIFIER_BOUND_US * 1000L,
						.it_value.tv_nsec = NOTIFIER_BOUND_US * 1000L};
	static const struct itimerspec disarmed;
	ssize_t written;

	if (!n->has_timer && !start_timer(n))
		return -EAGAIN;
	if (timer_settime(n->timer, 0, &armed, NULL) != 0)
		return -EAGAIN;
	written = write(eventfd, &one, sizeof(one));
	if (written < 0 && errno != EINTR)
		written = 0; /* full, or no eventfd: nothing can be done */
	timer_settime(n->timer, 0, &disarmed, NULL);
	return written < 0 ? -ETIMEDOUT : 0;
}

/* ---- start and end ---- */

static void
end(void *arg)
{
	struct notifier *n = arg;

	if (n->idle_fd >= 0) {
		syscall(SYS_io_destroy, n->context);
		close(n->idle_fd);
	}
	if (n->has_timer)
		timer_delete(n->timer);
}

/* No SA_RESTART: the write is to fail. */
static void
start_once(void)
{
	struct sigaction action = {.sa_handler = interrupt_write};

	sigaction(signal_number(), &action, NULL);
	pthread_key_create(&at_thread_end, end);
}

static void
start(struct notifier *n)
{
	pthread_once(&once, start_once);
	n->started = true;
	n->idle_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (n->idle_fd >= 0 && syscall(SYS_io_setup, CONTEXT_EVENTS, &n->context) != 0) {
		close(n->idle_fd);
		n->idle_fd = -1;
	}
	pthread_setspecific(at_thread_end, n);
}

/* ---- AIO ---- */

static void
reap(struct notifier *n)
{
	struct io_event events[CONTEXT_EVENTS];

	syscall(SYS_io_getevents, n->context, 0, CONTEXT_EVENTS, events, NULL);
	n->ended = 0;
}

static bool
submit(struct notifier *n, int eventfd)
{
	struct iocb request = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)n->idle_fd,
		.aio_buf = (uintptr_t)n,
		.aio_nbytes = 0,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)eventfd,
	};
	struct iocb *requests[] = {&request};

	return syscall(SYS_io_submit, n->context, 1, requests) == 1;
}

int
vhost_notify(int eventfd)
{
	struct notifier *n = &notifier;

	if (!n->started)
		start(n);
	if (likely(n->idle_fd >= 0 && submit(n, eventfd))) {
		if (++n->ended >= REAP_EVENTS)
			reap(n);
		return 0;
	}
	return write_in_time(n, eventfd);
}
