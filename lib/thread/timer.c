/* SPDX-License-Identifier: BSD-3-Clause */
#include "env.h"
#include "internal.h"

static int
compare_timers(const struct thread_timer *a, const struct thread_timer *b)
{
	if (a->due != b->due)
		return a->due < b->due ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}
RB_PROTOTYPE(timer_tree, thread_timer, node, compare_timers)
RB_GENERATE(timer_tree, thread_timer, node, compare_timers)

uint64_t
deadline_after(uint64_t us)
{
	uint64_t deadline;

	if (__builtin_add_overflow(env_ticks(), env_us_to_ticks(us), &deadline))
		return UINT64_MAX;
	return deadline;
}

static void
update_next_due(struct thread *thread)
{
	struct thread_timer *first = RB_MIN(timer_tree, &thread->timers);

	thread->next_due = first != NULL ? first->due : UINT64_MAX;
}

void
timer_start(struct thread *thread, struct thread_timer *timer, uint64_t due)
{
	/*
	 * Later than this iteration, or a timer that starts itself again would keep it from ending.
	 */
	timer->due = due > thread->now ? due : thread->now + 1;
	timer->order = thread->timer_order++;
	timer->queued = true;
	RB_INSERT(timer_tree, &thread->timers, timer);
	if (timer->due < thread->next_due)
		thread->next_due = timer->due;
}

void
timer_stop(struct thread *thread, struct thread_timer *timer)
{
	if (!timer->queued)
		return;
	timer->queued = false;
	RB_REMOVE(timer_tree, &thread->timers, timer);
	update_next_due(thread);
}

int
timers_run(struct thread *thread)
{
	struct thread_timer *timer;
	int rc = POLLER_IDLE;

	while ((timer = RB_MIN(timer_tree, &thread->timers)) != NULL && timer->due <= thread->now) {
		timer_stop(thread, timer);
		rc |= timer->fn(timer);
	}
	return rc;
}
