/* SPDX-License-Identifier: BSD-3-Clause */
/* Coroutines: their stacks, switching, sleep, cancel and the mutex between them. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "coroutine.h"
#include "coroutine_internal.h"

/*
 * Stacks of returned coroutines, kept for the next ones. Coroutines start on any OS thread: hence
 * the lock, which is held for the few instructions of taking one off or putting one on.
 */
#define STACKS_KEPT 16
static pthread_mutex_t stacks_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, coroutine) stacks = LIST_HEAD_INITIALIZER(stacks);
static unsigned int stack_count;

/* ---- stacks: a guard page, the stack that grows down to it, struct coroutine on top ---- */

static size_t
page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

static struct coroutine *
coroutine_map(void)
{
	char *base = mmap(NULL, COROUTINE_STACK_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
	struct coroutine *coroutine;

	if (base == MAP_FAILED)
		return NULL;
	if (mprotect(base, page_size(), PROT_NONE) != 0) {
		munmap(base, COROUTINE_STACK_SIZE);
		return NULL;
	}
	coroutine = (struct coroutine *)(base + COROUTINE_STACK_SIZE) - 1;
	coroutine->base = base;
	return coroutine;
}

static struct coroutine *
coroutine_alloc(void)
{
	struct coroutine *coroutine;

	pthread_mutex_lock(&stacks_lock);
	coroutine = LIST_FIRST(&stacks);
	if (coroutine != NULL) {
		LIST_REMOVE(coroutine, link);
		stack_count--;
	}
	pthread_mutex_unlock(&stacks_lock);
	return coroutine != NULL ? coroutine : coroutine_map();
}

static void
coroutine_free(struct coroutine *coroutine)
{
	bool keep;

	pthread_mutex_lock(&stacks_lock);
	keep = stack_count < STACKS_KEPT;
	if (keep) {
		LIST_INSERT_HEAD(&stacks, coroutine, link);
		stack_count++;
	}
	pthread_mutex_unlock(&stacks_lock);
	if (!keep)
		munmap(coroutine->base, COROUTINE_STACK_SIZE);
}

void
coroutine_drain_stacks(void)
{
	pthread_mutex_lock(&stacks_lock);
	while (!LIST_EMPTY(&stacks)) {
		struct coroutine *coroutine = LIST_FIRST(&stacks);

		LIST_REMOVE(coroutine, link);
		munmap(coroutine->base, COROUTINE_STACK_SIZE);
	}
	stack_count = 0;
	pthread_mutex_unlock(&stacks_lock);
}

/* ---- switching ---- */

struct coroutine *
coroutine_current(void)
{
	struct thread *thread = thread_current();

	return thread != NULL ? thread->coroutine : NULL;
}

/* The first function on each coroutine's stack. */
static void
coroutine_main(void)
{
	struct coroutine *coroutine = coroutine_current();

	fiber_begin(&coroutine->caller);
	coroutine->fn(coroutine->arg);
	coroutine->returned = true;
	fiber_switch(&coroutine->self, &coroutine->caller, true);
	__builtin_unreachable();
}

/* On its thread's own stack, where no other coroutine runs. */
static void
coroutine_resume(struct coroutine *coroutine)
{
	struct thread *thread = coroutine->thread;

	assert(thread->coroutine == NULL);
	coroutine->parked = false;
	thread->coroutine = coroutine;
	fiber_enter(&coroutine->caller, &coroutine->self);
	thread->coroutine = NULL;
	if (!coroutine->returned)
		return;
	fiber_fini(&coroutine->self);
	LIST_REMOVE(coroutine, link);
	coroutine_free(coroutine);
}

void
coroutine_ready(struct coroutine *coroutine)
{
	if (!coroutine->wake_sent)
		coroutine_resume(coroutine);
}

static void
wake_received(void *ctx)
{
	struct coroutine *coroutine = ctx;

	coroutine->wake_sent = false;
	coroutine_resume(coroutine);
}

/* Another coroutine may be running now: lets it go on, and resumes this one by a message. */
static void
coroutine_wake(struct coroutine *coroutine)
{
	if (!coroutine->parked || coroutine->wake_sent)
		return;
	coroutine->wake_sent = true;
	thread_send(coroutine->thread, &coroutine->msg, wake_received, coroutine);
}

static int
coroutine_timer_due(struct thread_timer *timer)
{
	struct coroutine *coroutine = container_of(timer, struct coroutine, timer);

	coroutine->timed_out = true;
	coroutine_ready(coroutine);
	return POLLER_BUSY;
}

bool
coroutine_park(struct coroutine *coroutine, uint64_t deadline)
{
	assert(coroutine == coroutine_current());
	coroutine->timed_out = false;
	coroutine->parked = true;
	if (deadline != UINT64_MAX)
		timer_start(coroutine->thread, &coroutine->timer, deadline);
	fiber_switch(&coroutine->self, &coroutine->caller, false);
	timer_stop(coroutine->thread, &coroutine->timer);
	return coroutine->timed_out;
}

/* ---- life ---- */

static void
coroutine_begin(void *ctx)
{
	struct coroutine *coroutine = ctx;
	char *stack = coroutine->base + page_size();

	fiber_init(&coroutine->self, stack, (char *)coroutine - stack, coroutine_main);
	LIST_INSERT_HEAD(&coroutine->thread->coroutines, coroutine, link);
	coroutine_resume(coroutine);
}

int
coroutine_start(struct thread *thread, const char *name, void (*fn)(void *arg), void *arg)
{
	struct coroutine *coroutine = coroutine_alloc();
	char *base;

	if (coroutine == NULL)
		return -ENOMEM;
	base = coroutine->base;
	memset(coroutine, 0, sizeof(*coroutine));
	coroutine->base = base;
	coroutine->thread = thread;
	coroutine->name = name;
	coroutine->fn = fn;
	coroutine->arg = arg;
	coroutine->timer.fn = coroutine_timer_due;
	if (!thread_send_unless_exiting(thread, &coroutine->msg, coroutine_begin, coroutine)) {
		coroutine_free(coroutine);
		return -ECANCELED;
	}
	return 0;
}

void
thread_for_each_coroutine(struct thread *thread, void (*fn)(void *ctx, const char *name), void *ctx)
{
	struct coroutine *coroutine;

	LIST_FOREACH (coroutine, &thread->coroutines, link)
		fn(ctx, coroutine->name);
}

void
coroutine_cancel(struct coroutine *coroutine)
{
	assert(coroutine->thread == thread_current());
	coroutine->cancelled = true;
	coroutine_wake(coroutine);
}

int
coroutine_sleep(uint64_t us)
{
	struct coroutine *coroutine = coroutine_current();
	uint64_t deadline = deadline_after(us);

	assert(coroutine != NULL);
	while (!coroutine->cancelled) {
		if (coroutine_park(coroutine, deadline))
			return 0;
	}
	return -ECANCELED;
}

/* ---- mutex ---- */

void
coroutine_mutex_lock(struct coroutine_mutex *mutex)
{
	struct coroutine *coroutine = coroutine_current();

	assert(coroutine != NULL && mutex->owner != coroutine);
	if (mutex->owner == NULL) {
		mutex->owner = coroutine;
		return;
	}
	assert(mutex->owner->thread == coroutine->thread);
	coroutine->next_waiter = NULL;
	if (mutex->first_waiter == NULL)
		mutex->first_waiter = coroutine;
	else
		mutex->last_waiter->next_waiter = coroutine;
	mutex->last_waiter = coroutine;
	while (mutex->owner != coroutine)
		coroutine_park(coroutine, UINT64_MAX);
}

void
coroutine_mutex_unlock(struct coroutine_mutex *mutex)
{
	struct coroutine *next = mutex->first_waiter;

	assert(mutex->owner != NULL && mutex->owner == coroutine_current());
	mutex->owner = next;
	if (next == NULL)
		return;
	mutex->first_waiter = next->next_waiter;
	coroutine_wake(next);
}
