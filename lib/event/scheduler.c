/* SPDX-License-Identifier: BSD-3-Clause */
/* The schedulers `static` and `dynamic`: see event.h. */
#include "scheduler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "env.h"
#include "internal.h"
#include "log.h"

LOG_FLAG(scheduler)

/* ---- the decision ---- */

struct choice {
	struct scheduler_thread *thread;
	uint32_t core;
	uint64_t gain;
	uint64_t there; /* the load of that core, with the thread */
};

/* How much less busy the busier of the two cores would be. */
static uint64_t
gain_of(const struct scheduler_thread *thread, uint32_t core, const uint64_t *loads)
{
	uint64_t now = loads[thread->target];
	uint64_t left = now - thread->busy;
	uint64_t there = loads[core] + thread->busy;
	uint64_t after = left > there ? left : there;

	return after < now ? now - after : 0;
}

static void
consider(struct choice *best, struct scheduler_thread *thread, const struct cpumask *cores,
	 const uint64_t *loads)
{
	bool anywhere = cpumask_is_empty(&thread->cpumask);

	for (uint32_t core = 0; core < CPUMASK_CPUS; core++) {
		uint64_t gain, there;

		if (core == thread->target || !cpumask_test(cores, core) ||
		    !(anywhere || cpumask_test(&thread->cpumask, core)))
			continue;
		gain = gain_of(thread, core, loads);
		there = loads[core] + thread->busy;
		if (gain > best->gain || (gain == best->gain && there < best->there))
			*best = (struct choice){thread, core, gain, there};
	}
}

uint32_t
scheduler_decide(struct scheduler_thread *threads, uint32_t count, const struct cpumask *cores,
		 uint64_t period)
{
	uint64_t loads[CPUMASK_CPUS] = {0};
	uint32_t moves;

	for (uint32_t i = 0; i < count; i++) {
		threads[i].target = threads[i].core;
		loads[threads[i].core] += threads[i].busy;
	}
	for (moves = 0; moves < SCHEDULER_MOVES_MAX; moves++) {
		struct choice best = {.gain = 0};

		for (uint32_t i = 0; i < count; i++) {
			/* A small gain is the most that a small load can bring. */
			if (threads[i].busy >= period / 10)
				consider(&best, &threads[i], cores, loads);
		}
		if (best.thread == NULL || best.gain < period / 10)
			break;
		loads[best.thread->target] -= best.thread->busy;
		loads[best.core] += best.thread->busy;
		best.thread->target = best.core;
	}
	return moves;
}

/* ---- the period ---- */

/* App thread only. */
static struct {
	bool dynamic;
	struct poller *poller; /* of dynamic, where there is more than one reactor */
	uint64_t looked;       /* env_ticks() */
} state;

struct look {
	struct scheduler_thread *threads;
	uint32_t count, capacity;
};

static void
look_at(void *ctx, struct thread *thread)
{
	struct look *look = ctx;
	struct placed *placed = thread_ctx(thread);
	uint64_t busy = thread_busy_ticks(thread);
	uint32_t core = thread_core(thread);

	if (look->count < look->capacity && core != ENV_NO_CORE)
		look->threads[look->count++] = (struct scheduler_thread){
			.id = thread_id(thread),
			.busy = busy - placed->busy_before,
			.core = core,
			.cpumask = *thread_cpumask(thread),
		};
	placed->busy_before = busy;
}

struct move {
	struct thread_msg msg;
	uint32_t core;
};

static void
move_on_thread(void *ctx)
{
	struct move *move = ctx;

	/* Refused: its cpumask has changed. */
	thread_move(move->core);
	free(move);
}

static void
start_move(const struct scheduler_thread *thread, uint64_t period)
{
	struct move *move = malloc(sizeof(*move));

	if (move == NULL)
		return;
	log_debug(scheduler,
		  "scheduler: thread %lu, busy for %lu of 1000, moves from core %u to core %u",
		  thread->id, thread->busy * 1000 / period, thread->core, thread->target);
	move->core = thread->target;
	/* It may have ended since. */
	if (thread_send_by_id(thread->id, &move->msg, move_on_thread, move) != 0)
		free(move);
}

static struct cpumask
running_cores(void)
{
	struct cpumask cores = {{0}};

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		cpumask_set(&cores, core);
	return cores;
}

static int
balance(void *arg)
{
	uint32_t capacity = placement_thread_count();
	struct look look = {.threads = calloc(capacity, sizeof(*look.threads)),
			    .capacity = capacity};
	struct cpumask cores = running_cores();
	uint64_t now = env_ticks();
	uint64_t period = now - state.looked;

	(void)arg;
	if (look.threads == NULL)
		return POLLER_IDLE;
	state.looked = now;
	thread_look_at_each(look_at, &look);
	if (scheduler_decide(look.threads, look.count, &cores, period) > 0) {
		for (uint32_t i = 0; i < look.count; i++) {
			if (look.threads[i].target != look.threads[i].core)
				start_move(&look.threads[i], period);
		}
	}
	free(look.threads);
	return POLLER_BUSY;
}

/* ---- the schedulers ---- */

static void
forget(void *ctx, struct thread *thread)
{
	struct placed *placed = thread_ctx(thread);

	(void)ctx;
	placed->busy_before = thread_busy_ticks(thread);
}

static int
start_dynamic(void)
{
	if (env_core_count() < 2)
		return 0;
	state.poller = poller_register(balance, NULL, SCHEDULER_PERIOD_US, "scheduler");
	if (state.poller == NULL)
		return -ENOMEM;
	thread_look_at_each(forget, NULL);
	state.looked = env_ticks();
	return 0;
}

int
scheduler_set(const char *name)
{
	bool dynamic = strcmp(name, "dynamic") == 0;
	int rc = 0;

	if (!dynamic && strcmp(name, "static") != 0)
		return -EINVAL;
	if (!dynamic)
		poller_unregister(&state.poller);
	else if (!state.dynamic)
		rc = start_dynamic();
	if (rc == 0)
		state.dynamic = dynamic;
	return rc;
}

int
scheduler_start(void)
{
	return scheduler_set(SCHEDULER_DEFAULT);
}

void
scheduler_stop(void)
{
	scheduler_set("static");
}

const char *
scheduler_name(void)
{
	return state.dynamic ? "dynamic" : "static";
}
