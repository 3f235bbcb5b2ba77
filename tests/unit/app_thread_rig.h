/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * app_thread_rig: a lightweight thread that an OS thread of the test polls, and calls in coroutines
 * on it. Its time is the clock's, whatever env_ticks() says. Included once by each test program.
 */
#ifndef VHOSTD_APP_THREAD_RIG_H
#define VHOSTD_APP_THREAD_RIG_H

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "coroutine.h"
#include "env.h"
#include "thread.h"
#include "waiting.h"
#include "work.h"

static struct thread *app;
static pthread_t poller;
static atomic_bool poller_stop;

static inline int
app_poll(void)
{
	return thread_poll(app, now_ms() * (env_ticks_hz() / 1000));
}

static void *
poll_app(void *arg)
{
	(void)arg;
	while (!atomic_load(&poller_stop)) {
		if (app_poll() == POLLER_IDLE)
			usleep(50);
	}
	return NULL;
}

struct job {
	int (*fn)(void *arg);
	void *arg;
	struct completion *done;
};

static void
run_job(void *arg)
{
	struct job *job = arg;

	completion_signal(job->done, job->fn(job->arg));
}

/* Runs fn(arg) in a coroutine on the app thread. */
static inline int
on_app(int (*fn)(void *arg), void *arg)
{
	struct job job = {fn, arg, completion_create()};
	int rc;

	assert_int_equal(coroutine_start(app, "test", run_job, &job), 0);
	rc = completion_wait(job.done, WAIT_FOREVER);
	completion_put(job.done);
	return rc;
}

/* With a work pool. */
static inline int
app_begin(void)
{
	thread_lib_init(NULL);
	assert_int_equal(work_pool_start(NULL), 0);
	app = thread_create("app", NULL);
	assert_non_null(app);
	return pthread_create(&poller, NULL, poll_app, NULL);
}

static inline void
app_end(void)
{
	atomic_store(&poller_stop, true);
	pthread_join(poller, NULL);
	thread_set_current(app);
	thread_exit(app);
	while (!thread_is_exited(app))
		app_poll();
	thread_set_current(NULL);
	thread_destroy(app);
	work_pool_stop();
	thread_lib_fini();
}

#endif
