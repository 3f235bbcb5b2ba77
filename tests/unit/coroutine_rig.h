/* SPDX-License-Identifier: BSD-3-Clause */
/* What the tests of coroutines share: one thread, polled by hand, and a work pool. */
#ifndef VHOSTD_UNIT_COROUTINE_RIG_H
#define VHOSTD_UNIT_COROUTINE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <time.h>

#include "by_hand.h"
#include "coroutine.h"
#include "log_capture.h"
#include "waiting.h"
#include "work.h"

#define PENDING 12345 /* no result yet */

static struct thread *thread;

static inline int
setup(void **state)
{
	(void)state;
	thread_lib_init(NULL);
	assert_int_equal(work_pool_start(NULL), 0);
	thread = thread_create("t", NULL);
	assert_non_null(thread);
	log_capture_reset();
	return 0;
}

static inline int
teardown(void **state)
{
	(void)state;
	thread_set_current(NULL);
	thread_finish(thread);
	work_pool_stop();
	thread_lib_fini();
	return 0;
}

static inline void
poll_all(void)
{
	poll_until_idle(&thread, 1);
}

static inline void
start(void (*fn)(void *arg), void *arg)
{
	assert_int_equal(coroutine_start(thread, "test", fn, arg), 0);
}

/* Polls until *result is there: for what needs another OS thread. */
static inline void
poll_for(const int *result)
{
	time_t end = time(NULL) + DEADLINE_S;

	while (*result == PENDING) {
		assert_true(time(NULL) < end);
		poll_all();
		sched_yield();
	}
}

static inline void
cancel(struct coroutine *coroutine)
{
	thread_set_current(thread);
	coroutine_cancel(coroutine);
	thread_set_current(NULL);
}

#define coroutine_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif
