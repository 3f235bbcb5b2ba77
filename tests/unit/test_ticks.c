/* SPDX-License-Identifier: BSD-3-Clause */
/* links: env */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <time.h>

#include "env.h"

static uint64_t
clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void
test_go_forward(void **state)
{
	uint64_t last = env_ticks();

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint64_t now = env_ticks();

		assert_true(now >= last);
		last = now;
	}
}

/*
 * However long the scheduler leaves us out, the time between the inner readings is within that of
 * the outer ones.
 */
static void
test_rate_is_that_of_the_clock(void **state)
{
	struct timespec pause = {.tv_nsec = 50000000};
	uint64_t hz = env_ticks_hz();
	uint64_t outer, inner, ns;
	double seconds;

	(void)state;
	outer = env_ticks();
	ns = clock_ns();
	inner = env_ticks();
	nanosleep(&pause, NULL);
	inner = env_ticks() - inner;
	ns = clock_ns() - ns;
	outer = env_ticks() - outer;
	seconds = (double)ns / 1e9;
	assert_true((double)inner / (double)hz < seconds * 1.02);
	assert_true((double)outer / (double)hz > seconds * 0.98);
	assert_int_equal(env_ticks_hz(), hz);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_go_forward),
		cmocka_unit_test(test_rate_is_that_of_the_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
