/* SPDX-License-Identifier: BSD-3-Clause */
/* links: event thread env */
/*
 * Poller iterations per second: one lightweight thread on each core, with pollers that do nothing
 * but count.
 */
#include <semaphore.h>
#include <stdatomic.h>

#include "perf.h"

struct worker {
	_Alignas(64) _Atomic uint64_t runs; /* written by the thread, read by anyone */
	struct thread *thread;
	struct poller **pollers; /* on the thread */
	struct perf *perf;
	sem_t done;
};

static struct worker workers[CPUMASK_CPUS];

static int
count(void *arg)
{
	struct worker *worker = arg;

	atomic_store_explicit(&worker->runs,
			      atomic_load_explicit(&worker->runs, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	return POLLER_IDLE;
}

static void
register_pollers(void *ctx)
{
	struct worker *worker = ctx;

	worker->pollers = calloc(worker->perf->count, sizeof(*worker->pollers));
	for (unsigned int i = 0; worker->pollers != NULL && i < worker->perf->count; i++)
		worker->pollers[i] = poller_register(count, worker, 0, "count");
}

static void
unregister_pollers(void *ctx)
{
	struct worker *worker = ctx;

	for (unsigned int i = 0; worker->pollers != NULL && i < worker->perf->count; i++)
		poller_unregister(&worker->pollers[i]);
	free(worker->pollers);
	sem_post(&worker->done);
}

static void
start(struct perf *perf)
{
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		struct worker *worker = &workers[core];
		struct cpumask only = {{0}};

		cpumask_set(&only, core);
		worker->perf = perf;
		sem_init(&worker->done, 0, 0);
		worker->thread = thread_create("worker", &only);
		if (worker->thread == NULL ||
		    thread_send_msg(worker->thread, register_pollers, worker) != 0) {
			fprintf(stderr, "%s: out of memory\n", perf->name);
			exit(1);
		}
	}
}

static void
stop(struct perf *perf)
{
	(void)perf;
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		if (thread_send_msg(workers[core].thread, unregister_pollers, &workers[core]) == 0)
			sem_wait(&workers[core].done);
	}
}

static uint64_t
counted(uint32_t core)
{
	return atomic_load_explicit(&workers[core].runs, memory_order_relaxed);
}

int
main(int argc, char **argv)
{
	struct perf perf = {
		.name = "reactor_perf",
		.unit = "polls",
		.count_help = "pollers on each core",
		.start = start,
		.counted = counted,
		.stop = stop,
		.seconds = 3,
		.count = 1,
	};

	return perf_main(&perf, argc, argv);
}
