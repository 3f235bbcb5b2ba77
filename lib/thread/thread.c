/* SPDX-License-Identifier: BSD-3-Clause */
/* Lightweight threads: their life, one iteration, statistics. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "env.h"
#include "internal.h"
#include "log.h"
#include "msg_cache.h"
#include "thread.h"
#include "utf8.h"

#define LEFTOVER_REPORT_US 5000000

struct thread_lib thread_lib;

static __thread struct thread *current;

static int
compare_threads(const struct thread *a, const struct thread *b)
{
	return a->id < b->id ? -1 : a->id > b->id;
}
RB_PROTOTYPE(thread_registry, thread, registry_node, compare_threads)
RB_GENERATE(thread_registry, thread, registry_node, compare_threads)

/* ---- library ---- */

void
thread_lib_init(const struct thread_lib_ops *ops)
{
	thread_lib = (struct thread_lib){
		.registry_lock = PTHREAD_MUTEX_INITIALIZER,
		.threads = RB_INITIALIZER(&thread_lib.threads),
		.devices = RB_INITIALIZER(&thread_lib.devices),
	};
	if (ops != NULL)
		thread_lib.ops = *ops;
}

void
thread_lib_fini(void)
{
	assert(RB_EMPTY(&thread_lib.threads));
	assert(RB_EMPTY(&thread_lib.devices));
	coroutine_drain_stacks();
	msg_cache_drain();
	pthread_mutex_destroy(&thread_lib.registry_lock);
}

/* ---- the current thread ---- */

/*
 * Never inlined, and opaque to the optimiser: a coroutine may go on on another OS thread after it
 * gave way, so nobody may keep the address of `current` or fold two calls into one.
 */
__attribute__((noinline)) struct thread *
thread_current(void)
{
	__asm__ volatile("");
	return current;
}

__attribute__((noinline)) void
thread_set_current(struct thread *thread)
{
	__asm__ volatile("");
	current = thread;
}

/* ---- life ---- */

/* Of a character that does not fit, no part is kept: the name goes into JSON. */
static void
set_name(struct thread *thread, const char *name)
{
	size_t length = 0, next;

	while (name[length] != '\0') {
		next = utf8_length(name + length);
		next = next > 0 ? next : 1;
		if (length + next >= sizeof(thread->name))
			break;
		length += next;
	}
	memcpy(thread->name, name, length); /* it is zeroed */
}

static struct thread *
thread_alloc(const char *name, const struct cpumask *cpumask)
{
	size_t align = alignof(struct thread);
	size_t size = (sizeof(struct thread) + thread_lib.ops.ctx_size + align - 1) & ~(align - 1);
	struct thread *thread = aligned_alloc(align, size);

	if (thread == NULL)
		return NULL;
	memset(thread, 0, size);
	mpsc_queue_init(&thread->messages);
	TAILQ_INIT(&thread->active);
	TAILQ_INIT(&thread->timed);
	RB_INIT(&thread->timers);
	thread->next_due = UINT64_MAX;
	thread->now = env_ticks();
	if (cpumask != NULL)
		thread->cpumask = *cpumask;
	set_name(thread, name);
	return thread;
}

static void
thread_free(struct thread *thread)
{
	close(thread->wait_fd);
	free(thread);
}

/*
 * Nobody polls a thread that could not be placed; a for_each_thread() may have found it
 * nevertheless.
 */
static void
thread_discard(struct thread *thread)
{
	thread_exit(thread);
	while (!thread_is_exited(thread))
		thread_poll(thread, env_ticks());
	thread_destroy(thread);
}

struct thread *
thread_create(const char *name, const struct cpumask *cpumask)
{
	struct thread *thread = thread_alloc(name, cpumask);
	int rc;

	if (thread == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	thread->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (thread->wait_fd < 0) {
		rc = errno;
		free(thread);
		errno = rc;
		return NULL;
	}
	pthread_mutex_lock(&thread_lib.registry_lock);
	thread->id = ++thread_lib.last_id;
	RB_INSERT(thread_registry, &thread_lib.threads, thread);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	rc = thread_lib.ops.schedule != NULL ? thread_lib.ops.schedule(thread) : 0;
	if (rc != 0) {
		thread_discard(thread);
		errno = -rc;
		return NULL;
	}
	return thread;
}

static void
name_poller(void *ctx, const struct poller_info *info)
{
	fprintf(ctx, ", poller %s", info->name);
}

static void
name_channel(void *ctx, const struct io_channel_info *info)
{
	fprintf(ctx, ", channel to %s (%u references)", info->name, info->refs);
}

static void
name_coroutine(void *ctx, const char *name)
{
	fprintf(ctx, ", coroutine %s", name);
}

static int
report_leftovers(struct thread_timer *timer)
{
	struct thread *thread = container_of(timer, struct thread, leftover_timer);
	char text[512] = "";
	FILE *names = fmemopen(text, sizeof(text), "w");

	if (names == NULL)
		return POLLER_IDLE;
	thread_for_each_poller(thread, name_poller, names);
	thread_for_each_channel(thread, name_channel, names);
	thread_for_each_coroutine(thread, name_coroutine, names);
	if (thread->returns_due > 0)
		fprintf(names, ", %u walks or device removals", thread->returns_due);
	fclose(names);
	text[sizeof(text) - 1] = '\0';
	if (text[0] != '\0')
		log_warn("thread %s: cannot end, it still has%s", thread->name, text + strlen(","));
	return POLLER_BUSY;
}

void
thread_exit(struct thread *thread)
{
	bool was_exiting;

	pthread_mutex_lock(&thread_lib.registry_lock);
	was_exiting = atomic_exchange(&thread->exiting, true);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	if (was_exiting)
		return;
	thread->leftover_timer.fn = report_leftovers;
	timer_start(thread, &thread->leftover_timer, deadline_after(LEFTOVER_REPORT_US));
}

bool
thread_is_exiting(const struct thread *thread)
{
	return atomic_load_explicit(&thread->exiting, memory_order_relaxed);
}

bool
thread_is_empty(const struct thread *thread)
{
	return thread_is_exiting(thread) && mpsc_queue_is_empty(&thread->messages) &&
	       thread->active_pollers == 0 && thread->timed_pollers == 0 &&
	       thread->channel_count == 0 && thread->returns_due == 0 &&
	       LIST_EMPTY(&thread->coroutines);
}

bool
thread_is_exited(struct thread *thread)
{
	return thread_is_empty(thread) && atomic_load(&thread->senders) == 0;
}

void
thread_destroy(struct thread *thread)
{
	assert(thread_is_exited(thread));
	assert(thread_current() != thread);
	pthread_mutex_lock(&thread_lib.registry_lock);
	RB_REMOVE(thread_registry, &thread_lib.threads, thread);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	thread_free(thread);
}

/* ---- one iteration ---- */

static __attribute__((noinline)) void
run_messages(struct thread *thread)
{
	uint32_t count;

	for (count = 0; count < THREAD_MSG_BATCH; count++) {
		struct mpsc_node *node = mpsc_queue_pop(&thread->messages);
		struct thread_msg *msg;

		if (node == NULL)
			break;
		msg = container_of(node, struct thread_msg, node);
		msg->fn(msg->ctx);
	}
	thread->messages_run += count;
}

int
thread_poll(struct thread *thread, uint64_t now)
{
	struct thread *previous = current;
	struct poller *poller;
	int rc = POLLER_IDLE;

	current = thread;
	thread->now = now;
	if (!mpsc_queue_is_empty(&thread->messages)) {
		run_messages(thread);
		rc = POLLER_BUSY;
	}
	for (poller = TAILQ_FIRST(&thread->active); poller != NULL; poller = thread->next_poller) {
		thread->next_poller = TAILQ_NEXT(poller, link);
		rc |= poller_run(thread, poller);
	}
	if (thread->next_due <= now)
		rc |= timers_run(thread);
	current = previous;
	return rc != POLLER_IDLE ? POLLER_BUSY : POLLER_IDLE;
}

bool
thread_has_messages(const struct thread *thread)
{
	return !mpsc_queue_is_empty(&thread->messages);
}

uint64_t
thread_now(const struct thread *thread)
{
	return thread->now;
}

const uint64_t *
thread_clock(const struct thread *thread)
{
	return &thread->now;
}

/* ---- what others may know ---- */

uint64_t
thread_id(const struct thread *thread)
{
	return thread->id;
}

const char *
thread_name(const struct thread *thread)
{
	return thread->name;
}

const struct cpumask *
thread_cpumask(const struct thread *thread)
{
	return &thread->cpumask;
}

void
thread_store_cpumask(struct thread *thread, const struct cpumask *cpumask)
{
	pthread_mutex_lock(&thread_lib.registry_lock);
	thread->cpumask = cpumask != NULL ? *cpumask : (struct cpumask){{0}};
	pthread_mutex_unlock(&thread_lib.registry_lock);
}

void *
thread_ctx(struct thread *thread)
{
	return thread->ctx;
}

struct thread *
thread_from_ctx(void *ctx)
{
	return container_of(ctx, struct thread, ctx);
}

void
thread_account(struct thread *thread, int rc, uint64_t ticks)
{
	counter_add(rc == POLLER_IDLE ? &thread->idle_ticks : &thread->busy_ticks, ticks);
}

uint64_t
thread_busy_ticks(const struct thread *thread)
{
	return atomic_load_explicit(&thread->busy_ticks, memory_order_relaxed);
}

uint64_t
thread_idle_ticks(const struct thread *thread)
{
	return atomic_load_explicit(&thread->idle_ticks, memory_order_relaxed);
}

void
thread_get_stats(const struct thread *thread, struct thread_stats *stats)
{
	*stats = (struct thread_stats){
		.busy_ticks = thread_busy_ticks(thread),
		.idle_ticks = thread_idle_ticks(thread),
		.messages = thread->messages_run,
		.active_pollers = thread->active_pollers,
		.timed_pollers = thread->timed_pollers,
		.channels = thread->channel_count,
	};
}
