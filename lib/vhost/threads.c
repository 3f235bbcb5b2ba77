/* SPDX-License-Identifier: BSD-3-Clause */
#include "threads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller.h"
#include "coroutine.h"
#include "env.h"
#include "event.h"
#include "log.h"
#include "queue.h"
#include "trace.h"

struct thread *
vhost_main_thread(struct vhost_controller *controller)
{
	return controller->threads.threads[0].thread;
}

bool
vhost_thread_is_main(const struct vhost_thread *thread)
{
	return thread == &thread->controller->threads.threads[0];
}

/* It may have one by now: from a call that nobody waited for to its end. */
static int
get_channel(void *arg)
{
	struct vhost_thread *thread = *(struct vhost_thread **)arg;
	struct vhost_controller *controller = thread->controller;

	if (thread->channel != NULL)
		return 0;
	return controller->ops->channel_get(controller->device, "thread", &thread->channel);
}

void
vhost_thread_put_channel(struct vhost_thread *thread, void **channel)
{
	struct vhost_controller *controller = thread->controller;

	if (*channel != NULL)
		controller->ops->channel_put(controller->device, *channel);
	*channel = NULL;
}

/* ---- making ---- */

/*
 * The next thread. The device may be going away meanwhile: it says so first and looks afterwards
 * which threads there are, and here the thread is shown first and asks for its channel afterwards.
 * Both are sequentially consistent, so that one of the two sides sees the other.
 */
static int
create(struct vhost_controller *controller, const struct cpumask *cpumask)
{
	struct vhost_threads *threads = &controller->threads;
	uint32_t count = atomic_load(&threads->count);
	struct vhost_thread *thread = &threads->threads[count];
	char name[sizeof("vhost..4294967295") + VHOST_NAME_MAX];

	if (count == 0)
		snprintf(name, sizeof(name), "vhost.%s", controller->name);
	else
		snprintf(name, sizeof(name), "vhost.%s.%u", controller->name, count);
	thread->controller = controller;
	LIST_INIT(&thread->queues);
	thread->trace = calloc(1, sizeof(*thread->trace));
	if (thread->trace == NULL)
		return -ENOMEM;
	thread->thread = thread_create(name, cpumask);
	if (thread->thread == NULL) {
		int rc = -errno;

		free(thread->trace);
		return rc;
	}
	atomic_store(&threads->count, count + 1);
	return 0;
}

static int
exit_on_thread(void *arg)
{
	struct vhost_thread *thread = arg;

	vhost_thread_put_channel(thread, &thread->channel);
	free(thread->trace);
	thread_exit(thread_current());
	return 0;
}

int
vhost_threads_start(struct vhost_controller *controller, uint32_t max, struct errmsg *err)
{
	struct vhost_thread *main = &controller->threads.threads[0];
	int rc;

	controller->threads.max = max < VHOST_MAX_QUEUES ? max : VHOST_MAX_QUEUES;
	controller->threads.usable = 1;
	rc = create(controller, vhost_controller_cpumask(controller));
	if (rc != 0)
		return err_set(err, rc, "vhost controller %s: no thread: %s", controller->name,
			       strerror(-rc));
	rc = thread_call(main->thread, get_channel, &main);
	if (rc != 0) {
		thread_call(main->thread, exit_on_thread, main);
		err_set(err, rc, "vhost controller %s: the block device gives no channel: %s",
			controller->name, strerror(-rc));
	}
	return rc;
}

/* The allowed cores on which none of the controller's threads is now. */
static struct cpumask
free_cores(struct vhost_controller *controller)
{
	const struct cpumask *allowed = vhost_controller_cpumask(controller);
	uint32_t count = atomic_load(&controller->threads.count);
	struct cpumask cores = {{0}};

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		uint32_t i = 0;

		while (i < count && thread_core(controller->threads.threads[i].thread) != core)
			i++;
		if (i == count && (allowed == NULL || cpumask_test(allowed, core)))
			cpumask_set(&cores, core);
	}
	return cores;
}

/* It has been placed: from now on it may go wherever the controller may. */
static int
widen_cpumask(void *arg)
{
	return thread_set_cpumask(*(const struct cpumask **)arg);
}

static int
create_apart(struct vhost_controller *controller, const struct vhost_thread *thread)
{
	const struct cpumask *allowed = vhost_controller_cpumask(controller);
	struct cpumask cores = free_cores(controller);
	int rc = create(controller, &cores);

	if (rc == 0)
		rc = thread_call_within(thread->thread, VHOST_ANSWER_US, widen_cpumask, &allowed,
					sizeof(allowed));
	return rc;
}

struct vhost_thread *
vhost_threads_add(struct vhost_controller *controller)
{
	struct vhost_threads *threads = &controller->threads;
	struct vhost_thread *thread = &threads->threads[threads->usable];
	int rc = 0;

	if (threads->usable == atomic_load(&threads->count))
		rc = create_apart(controller, thread);
	if (rc == 0)
		rc = thread_call_within(thread->thread, VHOST_ANSWER_US, get_channel, &thread,
					sizeof(thread));
	if (rc != 0) {
		log_warn("vhost %s: no thread beside the first %u: %s; they serve all queues",
			 controller->name, threads->usable, strerror(-rc));
		return NULL;
	}
	threads->usable++;
	return thread;
}

/* ---- using ---- */

void
vhost_threads_hold(struct vhost_controller *controller)
{
	controller->threads.holders++;
}

void
vhost_threads_let_go(struct vhost_controller *controller)
{
	controller->threads.holders--;
}

static void sync_visit(void *arg);

/* On to the next thread, or back to the one where it began. */
static void
sync_next(struct vhost_sync *sync)
{
	if (sync->at < sync->count)
		thread_send(sync->threads->threads[sync->at].thread, &sync->msg, sync_visit, sync);
	else
		thread_send(sync->origin, &sync->msg, sync->done, sync->ctx);
}

static void
sync_visit(void *arg)
{
	struct vhost_sync *sync = arg;

	if (sync->visit != NULL)
		sync->visit(&sync->threads->threads[sync->at]);
	sync->at++;
	sync_next(sync);
}

/* A thread runs its messages in the order in which they were sent. */
void
vhost_threads_sync(struct vhost_threads *threads, uint32_t count, struct vhost_sync *sync,
		   thread_fn done, void *ctx)
{
	*sync = (struct vhost_sync){
		.threads = threads,
		.at = 1, /* this one is here */
		.count = count,
		.origin = thread_current(),
		.done = done,
		.ctx = ctx,
	};
	sync_next(sync);
}

void
vhost_threads_visit(struct vhost_threads *threads, struct vhost_sync *sync,
		    void (*visit)(struct vhost_thread *thread), thread_fn done, void *ctx)
{
	*sync = (struct vhost_sync){
		.threads = threads,
		.count = atomic_load(&threads->count),
		.visit = visit,
		.origin = thread_current(),
		.done = done,
		.ctx = ctx,
	};
	sync_next(sync);
}

struct thread_visit {
	struct vhost_thread *thread;
	int (*fn)(struct vhost_thread *thread, void *arg);
	void *arg;
};

static int
visit_thread(void *arg)
{
	struct thread_visit *visit = arg;

	return visit->fn(visit->thread, visit->arg);
}

int
vhost_threads_call(struct vhost_controller *controller,
		   int (*fn)(struct vhost_thread *thread, void *arg), void *arg)
{
	struct vhost_threads *threads = &controller->threads;
	int first = 0;

	vhost_threads_hold(controller);
	for (uint32_t i = 0; i < atomic_load(&threads->count); i++) {
		struct thread_visit visit = {&threads->threads[i], fn, arg};
		int rc = thread_call(visit.thread->thread, visit_thread, &visit);

		if (first == 0)
			first = rc;
	}
	vhost_threads_let_go(controller);
	return first;
}

int
vhost_thread_put_channels(struct vhost_thread *thread, void *arg)
{
	struct vhost_queue *queue;

	(void)arg;
	LIST_FOREACH (queue, &thread->queues, link) {
		if (virtq_in_flight(queue->setup.vq) > 0)
			return -EAGAIN;
	}
	LIST_FOREACH (queue, &thread->queues, link)
		vhost_thread_put_channel(thread, &queue->channel);
	vhost_thread_put_channel(thread, &thread->channel);
	return 0;
}

void
vhost_threads_end(struct vhost_controller *controller)
{
	struct vhost_threads *threads = &controller->threads;

	while (threads->holders > 0 && coroutine_sleep(100) == 0)
		;
	for (uint32_t i = atomic_load(&threads->count); i-- > 0;)
		thread_call(threads->threads[i].thread, exit_on_thread, &threads->threads[i]);
}
