/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages to threads, and the walk over all threads that is made of them. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "internal.h"
#include "msg_cache.h"
#include "thread.h"

RB_PROTOTYPE(thread_registry, thread, registry_node, compare_threads)

void
thread_send(struct thread *thread, struct thread_msg *msg, thread_fn fn, void *ctx)
{
	msg->fn = fn;
	msg->ctx = ctx;
	if (thread_lib.ops.wake == NULL || thread_current() == thread) {
		mpsc_queue_push(&thread->messages, &msg->node);
		return;
	}
	/*
	 * What the message does may end the thread: it is not destroyed while somebody is in here.
	 */
	atomic_fetch_add(&thread->senders, 1);
	mpsc_queue_push(&thread->messages, &msg->node);
	thread_lib.ops.wake(thread);
	atomic_fetch_sub(&thread->senders, 1);
}

bool
thread_send_unless_exiting(struct thread *thread, struct thread_msg *msg, thread_fn fn, void *ctx)
{
	bool exiting;

	pthread_mutex_lock(&thread_lib.registry_lock);
	exiting = thread_is_exiting(thread);
	if (!exiting)
		thread_send(thread, msg, fn, ctx);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	return !exiting;
}

int
thread_send_by_id(uint64_t id, struct thread_msg *msg, thread_fn fn, void *ctx)
{
	struct thread *thread;

	pthread_mutex_lock(&thread_lib.registry_lock);
	thread = RB_FIND(thread_registry, &thread_lib.threads, &(struct thread){.id = id});
	if (thread != NULL && thread_is_exiting(thread))
		thread = NULL;
	if (thread != NULL)
		thread_send(thread, msg, fn, ctx);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	return thread != NULL ? 0 : -ENODEV;
}

struct stray_msg {
	struct thread_msg msg;
	thread_fn fn;
	void *ctx;
};
static_assert(sizeof(struct stray_msg) <= MSG_CACHE_CELL_SIZE, "a stray message fits a cell");

static void
run_stray(void *arg)
{
	struct stray_msg *stray = arg;
	thread_fn fn = stray->fn;
	void *ctx = stray->ctx;

	msg_cache_put(stray);
	fn(ctx);
}

int
thread_send_msg(struct thread *thread, thread_fn fn, void *ctx)
{
	struct stray_msg *stray = msg_cache_get();

	if (stray == NULL)
		return -ENOMEM;
	stray->fn = fn;
	stray->ctx = ctx;
	thread_send(thread, &stray->msg, run_stray, stray);
	return 0;
}

/* ---- for_each_thread ---- */

struct thread_walk {
	/* set once */
	struct thread *origin;
	thread_fn fn;
	void *ctx;
	thread_fn done;
	uint64_t last_id; /* of the threads that there were at the start */

	/* the thread that the walk is on */
	struct thread_msg msg;
};

static void walk_send_from(struct thread_walk *walk, uint64_t id);

static void
walk_visit(void *arg)
{
	struct thread_walk *walk = arg;

	walk->fn(walk->ctx);
	walk_send_from(walk, thread_current()->id + 1);
}

static void
walk_done(void *arg)
{
	struct thread_walk *walk = arg;

	walk->origin->returns_due--;
	if (walk->done != NULL)
		walk->done(walk->ctx);
	free(walk);
}

/* Sends the walk to the first thread from id on, or back to where it began. */
static void
walk_send_from(struct thread_walk *walk, uint64_t id)
{
	struct thread *thread;

	pthread_mutex_lock(&thread_lib.registry_lock);
	thread = RB_NFIND(thread_registry, &thread_lib.threads, &(struct thread){.id = id});
	while (thread != NULL && thread_is_exiting(thread))
		thread = RB_NEXT(thread_registry, &thread_lib.threads, thread);
	if (thread != NULL && thread->id <= walk->last_id)
		thread_send(thread, &walk->msg, walk_visit, walk);
	else
		thread = NULL;
	pthread_mutex_unlock(&thread_lib.registry_lock);
	if (thread == NULL)
		thread_send(walk->origin, &walk->msg, walk_done, walk);
}

void
thread_look_at_each(void (*fn)(void *ctx, struct thread *thread), void *ctx)
{
	struct thread *thread;

	pthread_mutex_lock(&thread_lib.registry_lock);
	RB_FOREACH(thread, thread_registry, &thread_lib.threads)
	{
		if (!thread_is_exiting(thread))
			fn(ctx, thread);
	}
	pthread_mutex_unlock(&thread_lib.registry_lock);
}

int
for_each_thread(thread_fn fn, void *ctx, thread_fn done)
{
	struct thread *origin = thread_current();
	struct thread_walk *walk = malloc(sizeof(*walk));

	assert(origin != NULL);
	if (walk == NULL)
		return -ENOMEM;
	*walk = (struct thread_walk){.origin = origin, .fn = fn, .ctx = ctx, .done = done};
	pthread_mutex_lock(&thread_lib.registry_lock);
	walk->last_id = thread_lib.last_id;
	pthread_mutex_unlock(&thread_lib.registry_lock);
	origin->returns_due++;
	walk_send_from(walk, 1);
	return 0;
}
