/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * waiting: for what must come. No test depends on how fast something is: machines under test are
 * shared, programs run many times slower for a minute, and virtual CPUs stand still for half a one.
 */
#ifndef VHOSTD_TESTLIB_WAITING_H
#define VHOSTD_TESTLIB_WAITING_H

#include <errno.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE_S  120
#define DEADLINE_MS (DEADLINE_S * 1000)

/* Of the monotonic clock. */
static inline uint64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Looks again and again; whether the condition has become true in time. */
#define COMES_TRUE(condition)                                                                      \
	({                                                                                         \
		uint64_t waiting_end = now_ms() + DEADLINE_MS;                                     \
		bool is_true;                                                                      \
                                                                                                   \
		while (!(is_true = (condition)) && now_ms() < waiting_end)                         \
			usleep(200);                                                               \
		is_true;                                                                           \
	})

/* On the thread of a cmocka test, which fails when it has not. */
#define WAIT_UNTIL(condition) assert_true(COMES_TRUE(condition))

/* Whether the semaphore was posted in time. */
static inline bool
wait_for_post(sem_t *semaphore)
{
	struct timespec end;
	int rc;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += DEADLINE_S;
	do {
		rc = sem_timedwait(semaphore, &end);
	} while (rc < 0 && errno == EINTR);
	return rc == 0;
}

#endif
