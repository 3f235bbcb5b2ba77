/* SPDX-License-Identifier: BSD-3-Clause */
/* Waiting for others: completions, calls to another thread and to the work pool. */
#include <assert.h>
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "coroutine.h"
#include "coroutine_internal.h"
#include "work.h"

/* ---- completions ---- */

struct completion {
	atomic_uint shares; /* the signaller's, the waiter's, that of a message under way */
	struct thread_msg msg;

	/*
	 * The signaller may be any OS thread, and must not meet a waiter that is just giving up:
	 * between its look for a waiter and its message the waiting thread could end. Held for a
	 * few instructions.
	 */
	pthread_mutex_t lock;
	pthread_cond_t signalled_cond; /* for an OS thread that waits */
	/* under lock */
	bool signalled;
	int rc;
	struct coroutine *waiter;
};

struct completion *
completion_create(void)
{
	struct completion *completion = calloc(1, sizeof(*completion));
	pthread_condattr_t attr;

	if (completion == NULL)
		return NULL;
	atomic_init(&completion->shares, 2);
	pthread_mutex_init(&completion->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&completion->signalled_cond, &attr);
	pthread_condattr_destroy(&attr);
	return completion;
}

void
completion_put(struct completion *completion)
{
	if (atomic_fetch_sub(&completion->shares, 1) > 1)
		return;
	pthread_cond_destroy(&completion->signalled_cond);
	pthread_mutex_destroy(&completion->lock);
	free(completion);
}

void
completion_drop(struct completion *completion)
{
	if (completion == NULL)
		return;
	completion_put(completion);
	completion_put(completion);
}

/* On the thread that the waiter was on when it was signalled. */
static void
completion_received(void *ctx)
{
	struct completion *completion = ctx;
	struct coroutine *waiter;

	pthread_mutex_lock(&completion->lock);
	waiter = completion->waiter;
	pthread_mutex_unlock(&completion->lock);
	if (waiter != NULL) /* it has not given up meanwhile */
		coroutine_ready(waiter);
	completion_put(completion);
}

void
completion_signal(struct completion *completion, int rc)
{
	pthread_mutex_lock(&completion->lock);
	assert(!completion->signalled);
	completion->signalled = true;
	completion->rc = rc;
	if (completion->waiter != NULL) {
		atomic_fetch_add(&completion->shares, 1);
		thread_send(completion->waiter->thread, &completion->msg, completion_received,
			    completion);
	}
	pthread_cond_signal(&completion->signalled_cond);
	pthread_mutex_unlock(&completion->lock);
	completion_put(completion);
}

/* Under the lock, which it gives up while it waits. */
static int
wait_in_coroutine(struct completion *completion, struct coroutine *coroutine, uint64_t timeout_us)
{
	uint64_t deadline = timeout_us == WAIT_FOREVER ? UINT64_MAX : deadline_after(timeout_us);
	bool timed_out = timeout_us == 0;

	if (coroutine->cancelled)
		return -ECANCELED;
	while (!completion->signalled) {
		if (coroutine->cancelled)
			return -ECANCELED;
		if (timed_out)
			return -ETIMEDOUT;
		completion->waiter = coroutine;
		pthread_mutex_unlock(&completion->lock);
		timed_out = coroutine_park(coroutine, deadline);
		pthread_mutex_lock(&completion->lock);
		completion->waiter = NULL;
	}
	return completion->rc;
}

/* Under the lock, which it gives up while it waits. */
static int
wait_on_os_thread(struct completion *completion, uint64_t timeout_us)
{
	uint64_t timeout_s = timeout_us / 1000000;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += timeout_us % 1000000 * 1000;
	until.tv_sec += timeout_s < INT32_MAX ? timeout_s : INT32_MAX;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while (!completion->signalled) {
		if (timeout_us == WAIT_FOREVER)
			pthread_cond_wait(&completion->signalled_cond, &completion->lock);
		else if (pthread_cond_timedwait(&completion->signalled_cond, &completion->lock,
						&until) == ETIMEDOUT &&
			 !completion->signalled)
			return -ETIMEDOUT;
	}
	return completion->rc;
}

int
completion_wait(struct completion *completion, uint64_t timeout_us)
{
	struct coroutine *coroutine = coroutine_current();
	int rc;

	assert(coroutine != NULL || thread_current() == NULL);
	pthread_mutex_lock(&completion->lock);
	if (coroutine != NULL)
		rc = wait_in_coroutine(completion, coroutine, timeout_us);
	else
		rc = wait_on_os_thread(completion, timeout_us);
	pthread_mutex_unlock(&completion->lock);
	return rc;
}

/* ---- calls: on the stack of the caller, who waits until fn has returned, come what may ---- */

struct call {
	/* set once */
	int (*fn)(void *arg);
	void *arg;
	struct coroutine *coroutine; /* that waits; NULL: an OS thread, on `returned` */
	sem_t returned;

	/* who runs fn, then the caller */
	int rc;
	bool done;
	struct thread_msg msg;
	struct work work;
};

static void
call_done(void *ctx)
{
	struct call *call = ctx;

	call->done = true;
	coroutine_ready(call->coroutine);
}

static void
call_run(void *ctx)
{
	struct call *call = ctx;

	call->rc = call->fn(call->arg);
	if (call->coroutine != NULL)
		thread_send(call->coroutine->thread, &call->msg, call_done, call);
	else
		sem_post(&call->returned);
}

static void
call_run_on_worker(struct work *work)
{
	call_run(container_of(work, struct call, work));
}

static int
call_wait_in_coroutine(struct call *call)
{
	while (!call->done)
		coroutine_park(call->coroutine, UINT64_MAX);
	return call->coroutine->cancelled ? -ECANCELED : call->rc;
}

int
coroutine_blocking(int (*fn)(void *arg), void *arg)
{
	struct call call = {.fn = fn, .arg = arg, .coroutine = coroutine_current()};
	int rc;

	assert(call.coroutine != NULL);
	if (call.coroutine->cancelled)
		return -ECANCELED;
	rc = work_submit(&call.work, call_run_on_worker);
	if (rc != 0)
		return rc;
	return call_wait_in_coroutine(&call);
}

/* thread NULL: the one with that id. */
static int
call_send(struct call *call, struct thread *thread, uint64_t id)
{
	if (thread == NULL)
		return thread_send_by_id(id, &call->msg, call_run, call);
	thread_send(thread, &call->msg, call_run, call);
	return 0;
}

static int
call_from_os_thread(struct call *call, struct thread *thread, uint64_t id)
{
	int rc;

	sem_init(&call->returned, 0, 0);
	rc = call_send(call, thread, id);
	while (rc == 0 && sem_wait(&call->returned) != 0) /* a signal handler ran */
		;
	sem_destroy(&call->returned);
	return rc == 0 ? call->rc : rc;
}

static int
call_on(struct thread *thread, uint64_t id, int (*fn)(void *arg), void *arg)
{
	struct call call = {.fn = fn, .arg = arg, .coroutine = coroutine_current()};
	int rc;

	if (call.coroutine == NULL) {
		assert(thread_current() == NULL);
		return call_from_os_thread(&call, thread, id);
	}
	if (call.coroutine->cancelled)
		return -ECANCELED;
	rc = call_send(&call, thread, id);
	return rc == 0 ? call_wait_in_coroutine(&call) : rc;
}

int
thread_call(struct thread *thread, int (*fn)(void *arg), void *arg)
{
	return call_on(thread, 0, fn, arg);
}

int
thread_call_by_id(uint64_t id, int (*fn)(void *arg), void *arg)
{
	return call_on(NULL, id, fn, arg);
}
