/* SPDX-License-Identifier: BSD-3-Clause */
/* Pollers, and what lets a reactor sleep in spite of them. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "env.h"
#include "internal.h"
#include "thread.h"

static bool
poller_is_timed(const struct poller *poller)
{
	return poller->period_us > 0;
}

static bool
poller_keeps_awake(const struct poller *poller)
{
	return !poller_is_timed(poller) && poller->sleep_ops == NULL;
}

static int
poller_timer_due(struct thread_timer *timer)
{
	struct poller *poller = container_of(timer, struct poller, timer);
	struct thread *thread = poller->thread;
	uint64_t due;
	int rc = poller_run(thread, poller);

	/* It has unregistered itself, or said when it runs next. */
	if (thread->running != poller || timer->queued)
		return rc;
	if (__builtin_add_overflow(thread->now, poller->period_ticks, &due))
		due = UINT64_MAX;
	timer_start(thread, timer, due);
	return rc;
}

struct poller *
poller_register(poller_fn fn, void *arg, uint64_t period_us, const char *name)
{
	struct thread *thread = thread_current();
	struct poller *poller;

	assert(thread != NULL);
	if (thread_is_exiting(thread)) {
		errno = ECANCELED;
		return NULL;
	}
	poller = calloc(1, sizeof(*poller));
	if (poller == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	poller->thread = thread;
	poller->fn = fn;
	poller->arg = arg;
	poller->name = name;
	poller->period_us = period_us;
	LIST_INIT(&poller->fds);
	if (poller_is_timed(poller)) {
		poller->period_ticks = env_us_to_ticks(period_us);
		poller->timer.fn = poller_timer_due;
		TAILQ_INSERT_TAIL(&thread->timed, poller, link);
		thread->timed_pollers++;
		timer_start(thread, &poller->timer, deadline_after(period_us));
	} else {
		TAILQ_INSERT_TAIL(&thread->active, poller, link);
		thread->active_pollers++;
		thread->sleepless_pollers++;
	}
	return poller;
}

static void
poller_disarm(struct poller *poller)
{
	if (!poller->armed)
		return;
	poller->armed = false;
	if (poller->sleep_ops->disarm != NULL)
		poller->sleep_ops->disarm(poller->arg);
}

static void
poller_free_fd(struct poller *poller, struct poller_fd *entry)
{
	epoll_ctl(poller->thread->wait_fd, EPOLL_CTL_DEL, entry->fd, NULL);
	poller->thread->fds--;
	LIST_REMOVE(entry, link);
	free(entry);
}

void
poller_unregister(struct poller **ptr)
{
	struct poller *poller = *ptr;
	struct thread *thread;

	if (poller == NULL)
		return;
	*ptr = NULL;
	thread = poller->thread;
	assert(thread == thread_current());
	poller_disarm(poller);
	while (!LIST_EMPTY(&poller->fds))
		poller_free_fd(poller, LIST_FIRST(&poller->fds));
	if (thread->running == poller)
		thread->running = NULL;
	if (poller_is_timed(poller)) {
		timer_stop(thread, &poller->timer);
		TAILQ_REMOVE(&thread->timed, poller, link);
		thread->timed_pollers--;
	} else {
		if (thread->next_poller == poller)
			thread->next_poller = TAILQ_NEXT(poller, link);
		TAILQ_REMOVE(&thread->active, poller, link);
		thread->active_pollers--;
		thread->sleepless_pollers -= poller_keeps_awake(poller);
	}
	free(poller);
}

void
poller_set_due(struct poller *poller, uint64_t ticks)
{
	struct thread *thread = poller->thread;

	assert(thread == thread_current());
	assert(poller_is_timed(poller));
	timer_stop(thread, &poller->timer);
	timer_start(thread, &poller->timer, ticks);
}

void
poller_set_sleep_ops(struct poller *poller, const struct poller_sleep_ops *ops)
{
	struct thread *thread = poller->thread;

	assert(thread == thread_current());
	poller_disarm(poller);
	thread->sleepless_pollers -= poller_keeps_awake(poller);
	poller->sleep_ops = ops;
	thread->sleepless_pollers += poller_keeps_awake(poller);
}

int
poller_add_fd(struct poller *poller, int fd)
{
	struct thread *thread = poller->thread;
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	struct poller_fd *entry = malloc(sizeof(*entry));

	assert(thread == thread_current());
	if (entry == NULL)
		return -ENOMEM;
	if (epoll_ctl(thread->wait_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
		int rc = -errno;

		free(entry);
		return rc;
	}
	entry->fd = fd;
	LIST_INSERT_HEAD(&poller->fds, entry, link);
	thread->fds++;
	return 0;
}

void
poller_remove_fd(struct poller *poller, int fd)
{
	struct poller_fd *entry;

	assert(poller->thread == thread_current());
	LIST_FOREACH (entry, &poller->fds, link) {
		if (entry->fd == fd) {
			poller_free_fd(poller, entry);
			return;
		}
	}
}

void
thread_for_each_poller(struct thread *thread, void (*fn)(void *ctx, const struct poller_info *info),
		       void *ctx)
{
	struct poller_list *const lists[] = {&thread->active, &thread->timed};

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		struct poller *poller;

		TAILQ_FOREACH (poller, lists[i], link) {
			fn(ctx, &(struct poller_info){
					.name = poller->name,
					.period_us = poller->period_us,
					.runs = poller->runs,
					.busy_runs = poller->busy_runs,
					.can_sleep = !poller_is_timed(poller) &&
						     poller->sleep_ops != NULL,
				});
		}
	}
}

/* ---- sleeping ---- */

int
thread_wait_fd(const struct thread *thread)
{
	return thread->wait_fd;
}

uint64_t
thread_next_due(const struct thread *thread)
{
	return thread->next_due;
}

/*
 * Takes the edges of the time awake, so that only new ones wake. Before the pollers are armed: each
 * looks at its source after that, so an edge taken here is seen there.
 */
static void
drain_edges(struct thread *thread)
{
	struct epoll_event events[16];
	uint32_t batch = sizeof(events) / sizeof(events[0]);

	for (uint32_t seen = 0; seen < thread->fds; seen += batch) {
		if (epoll_wait(thread->wait_fd, events, batch, 0) < (int)batch)
			return;
	}
}

static void
disarm_pollers(struct thread *thread)
{
	struct poller *poller;

	for (poller = TAILQ_FIRST(&thread->active); poller != NULL; poller = thread->next_poller) {
		thread->next_poller = TAILQ_NEXT(poller, link);
		poller_disarm(poller);
	}
}

/* Asks each poller in turn. Its arm() may unregister any poller, itself too. */
static bool
arm_pollers(struct thread *thread)
{
	struct poller *poller;

	for (poller = TAILQ_FIRST(&thread->active); poller != NULL; poller = thread->next_poller) {
		thread->next_poller = TAILQ_NEXT(poller, link);
		if (poller_keeps_awake(poller))
			return false;
		thread->running = poller;
		if (!poller->sleep_ops->arm(poller->arg))
			return false;
		if (thread->running == poller)
			poller->armed = true;
	}
	return true;
}

bool
thread_arm(struct thread *thread)
{
	struct thread *previous = thread_current();
	bool armed;

	if (!mpsc_queue_is_empty(&thread->messages) || thread->sleepless_pollers > 0)
		return false;
	thread_set_current(thread);
	drain_edges(thread);
	/*
	 * A message that an arm() sent to its own thread woke nobody: look again. Nor does what an
	 * empty thread waits for, the last sender's way out of thread_send().
	 */
	armed = arm_pollers(thread) && mpsc_queue_is_empty(&thread->messages) &&
		!thread_is_empty(thread);
	if (!armed)
		disarm_pollers(thread);
	thread_set_current(previous);
	return armed;
}

void
thread_disarm(struct thread *thread)
{
	struct thread *previous = thread_current();

	thread_set_current(thread);
	disarm_pollers(thread);
	thread_set_current(previous);
}
