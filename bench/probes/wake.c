/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the first request after a sleep cannot go below: a bare thread on one CPU waits for an
 * eventfd in epoll_wait(); from another CPU the eventfd is written, and a cache line watched that
 * the thread stores to as its first thing.
 */
#include "probes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WAKE_RATE 200 /* a second: as the paced load is run for the same figure of a daemon */

struct sleeper {
	/* set once */
	unsigned int cpu;
	int epoll_fd, event_fd;
	pthread_t thread;

	/* both threads: how often it woke, or a negative errno */
	int64_t woken __attribute__((aligned(64)));
};

static int
sleeper_pin(struct sleeper *sleeper)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	if (epoll_ctl(sleeper->epoll_fd, EPOLL_CTL_ADD, sleeper->event_fd, &event) < 0)
		return -errno;
	return load_pin(sleeper->cpu);
}

/* Ends with the process. */
static void *
sleeper_main(void *arg)
{
	struct sleeper *sleeper = arg;
	struct epoll_event event;
	int64_t woken = 0;
	int rc = sleeper_pin(sleeper);

	while (rc >= 0) {
		rc = epoll_wait(sleeper->epoll_fd, &event, 1, -1);
		if (rc > 0)
			__atomic_store_n(&sleeper->woken, ++woken, __ATOMIC_RELEASE);
		else if (errno == EINTR)
			rc = 0;
		else
			rc = -errno;
	}
	__atomic_store_n(&sleeper->woken, rc, __ATOMIC_RELEASE);
	return NULL;
}

static int
sleeper_start(struct sleeper *sleeper)
{
	sleeper->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	sleeper->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sleeper->epoll_fd < 0 || sleeper->event_fd < 0)
		return -errno;
	return -pthread_create(&sleeper->thread, NULL, sleeper_main, sleeper);
}

/* Nanoseconds from the write to the store. */
static int
wake_once(struct sleeper *sleeper, int64_t wanted, uint64_t *ns)
{
	uint64_t start = now_ns();
	int64_t seen;

	if (eventfd_write(sleeper->event_fd, 1) < 0)
		return -errno;
	do {
		seen = __atomic_load_n(&sleeper->woken, __ATOMIC_ACQUIRE);
	} while (seen >= 0 && seen < wanted);
	*ns = now_ns() - start;
	return seen < 0 ? (int)seen : 0;
}

static int
compare(const void *one, const void *other)
{
	uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;

	return (a > b) - (a < b);
}

static int
measure(struct sleeper *sleeper, uint64_t *times, unsigned int count)
{
	struct timespec pause = {.tv_nsec = 1000000000 / WAKE_RATE};
	unsigned int i;
	int rc = 0;

	for (i = 0; i < count && rc == 0; i++) {
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
		rc = wake_once(sleeper, i + 1, &times[i]);
	}
	return rc;
}

int
probe_wake(const struct options *options)
{
	static struct sleeper sleeper;
	unsigned int cpu, count = options->load.seconds * WAKE_RATE;
	uint64_t *times;
	int rc;

	if (sscanf(options->wake, "%u,%u", &sleeper.cpu, &cpu) != 2 || count == 0)
		return -EINVAL;
	times = calloc(count, sizeof(*times));
	if (!times)
		return -ENOMEM;
	rc = load_pin(cpu);
	if (rc == 0)
		rc = sleeper_start(&sleeper);
	if (rc == 0)
		rc = measure(&sleeper, times, count);
	if (rc == 0) {
		qsort(times, count, sizeof(*times), compare);
		printf(options->json ? "{\"wake_us\": %.2f}\n" : "wake-up: %.2f us (median)\n",
		       times[count / 2] / 1e3);
	}
	free(times);
	return rc;
}
