/* SPDX-License-Identifier: BSD-3-Clause */
/* Private: points in time on the monotonic clock. */
#ifndef CLIENT_DEADLINE_H
#define CLIENT_DEADLINE_H

#include <stdint.h>
#include <time.h>

static inline int64_t
deadline_after(int timeout_ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec + timeout_ms * 1000000LL;
}

/* Milliseconds left, rounded up, for poll(); 0 when it has passed. */
static inline int
deadline_left(int64_t deadline)
{
	int64_t left = deadline - deadline_after(0);

	return left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

#endif
