/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "env.h"
#include "internal.h"
#include "log.h"

static pthread_t os_thread;
static _Atomic bool ended;

static void
stop_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGUSR1); /* only wakes */
}

void
signals_block(sigset_t *before)
{
	sigset_t set;

	env_fill_sigset(&set);
	pthread_sigmask(SIG_BLOCK, &set, before);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
}

/* Waits for a signal, without end until stopping has begun. 0: the time is up. */
static int
wait_for_signal(const struct timespec *stop_by)
{
	struct timespec now, timeout = {0};
	sigset_t set;
	int number;

	stop_set(&set);
	do {
		if (stop_by->tv_sec > 0) {
			clock_gettime(CLOCK_MONOTONIC, &now);
			if (now.tv_sec >= stop_by->tv_sec)
				return 0;
			timeout.tv_sec = stop_by->tv_sec - now.tv_sec;
		}
		number = sigtimedwait(&set, NULL, stop_by->tv_sec > 0 ? &timeout : NULL);
	} while (number < 0);
	return number;
}

static void *
signals_main(void *arg)
{
	struct timespec stop_by = {0};
	bool asked = false; /* a signal asked to stop */

	(void)arg;
	pthread_setname_np(pthread_self(), "signal");
	env_pin_to_housekeeping();
	for (;;) {
		int number = wait_for_signal(&stop_by);

		if (atomic_load(&ended))
			return NULL;
		if (number == 0) {
			log_err("cannot stop within %d s: ending as I am", STOP_SECONDS);
			_exit(1);
		}
		if (number != SIGUSR1 && asked) {
			log_err("another SIG%s while stopping: ending at once",
				sigabbrev_np(number));
			_exit(128 + number);
		}
		if (number != SIGUSR1) {
			asked = true;
			log_notice("stopping on SIG%s", sigabbrev_np(number));
			app_stop(0);
		}
		if (stop_by.tv_sec == 0 && app_is_stopping()) {
			clock_gettime(CLOCK_MONOTONIC, &stop_by);
			stop_by.tv_sec += STOP_SECONDS;
		}
	}
}

int
signals_start(void)
{
	atomic_store(&ended, false);
	return -pthread_create(&os_thread, NULL, signals_main, NULL);
}

void
signals_watch_stop(void)
{
	pthread_kill(os_thread, SIGUSR1);
}

void
signals_end(void)
{
	atomic_store(&ended, true);
	pthread_kill(os_thread, SIGUSR1);
	pthread_join(os_thread, NULL);
}
