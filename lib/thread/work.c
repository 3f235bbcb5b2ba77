/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The work pool. Idle workers form a stack, and work goes to the one that became idle last: so the
 * others get old enough to end. Work waits in the queue only when every worker is busy.
 */
#include "work.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <time.h>

#include "env.h"
#include "log.h"

#define DEFAULT_MAX_WORKERS 64
#define DEFAULT_IDLE_MS     5000

struct worker {
	/* under pool.lock */
	LIST_ENTRY(worker) idle_link;
	pthread_cond_t cond;
	struct work *work; /* handed over while it was idle */
	bool idle;
};

/*
 * Work comes from any OS thread and goes to whichever worker is free; workers have no lightweight
 * thread that could get a message. The lock is held for a few instructions, never while work runs.
 */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t ended; /* the last worker has ended */

	/* set by work_pool_start() */
	unsigned int base_workers;
	unsigned int max_workers;
	unsigned int idle_ms;
	cpu_set_t affinity;

	/* under lock */
	bool running; /* takes work */
	LIST_HEAD(, worker) idle;
	struct work *first, *last;
	unsigned int queued;
	unsigned int workers; /* those being started included */
	unsigned int busy;    /* they have work, or it was handed to them */
	unsigned int peak_workers;
	bool has_zombie; /* the worker that ended last, which nobody has joined yet */
	pthread_t zombie;
} pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.ended = PTHREAD_COND_INITIALIZER,
};

/* ---- workers; all of these under the lock ---- */

static struct work *
take_work(struct worker *worker)
{
	struct work *work = worker->work;

	worker->work = NULL;
	if (work != NULL || pool.first == NULL)
		return work;
	work = pool.first;
	pool.first = work->next;
	pool.queued--;
	pool.busy++;
	return work;
}

static void
set_idle(struct worker *worker, bool idle)
{
	if (idle && !worker->idle)
		LIST_INSERT_HEAD(&pool.idle, worker, idle_link);
	else if (!idle && worker->idle)
		LIST_REMOVE(worker, idle_link);
	worker->idle = idle;
}

static void
give(struct worker *worker, struct work *work)
{
	set_idle(worker, false);
	worker->work = work;
	pool.busy++;
	pthread_cond_signal(&worker->cond);
}

/* Waits for work. Returns NULL when the worker shall end. */
static struct work *
wait_for_work(struct worker *worker)
{
	struct timespec until;
	struct work *work;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += pool.idle_ms / 1000;
	until.tv_nsec += pool.idle_ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while ((work = take_work(worker)) == NULL && pool.running) {
		int rc = 0;

		set_idle(worker, true);
		if (pool.workers > pool.base_workers)
			rc = pthread_cond_timedwait(&worker->cond, &pool.lock, &until);
		else
			pthread_cond_wait(&worker->cond, &pool.lock);
		if (rc == ETIMEDOUT && worker->work == NULL && pool.workers > pool.base_workers)
			break;
	}
	set_idle(worker, false);
	return work;
}

/* At most one ended worker waits to be joined: each joins the one before it. */
static void
worker_end(void)
{
	pthread_t zombie = pool.zombie;
	bool has_zombie = pool.has_zombie;

	pool.zombie = pthread_self();
	pool.has_zombie = true;
	if (--pool.workers == 0)
		pthread_cond_signal(&pool.ended);
	pthread_mutex_unlock(&pool.lock);
	if (has_zombie)
		pthread_join(zombie, NULL);
}

static void *
worker_main(void *arg)
{
	struct worker worker = {.work = NULL};
	pthread_condattr_t attr;
	struct work *work;

	(void)arg;
	pthread_setname_np(pthread_self(), "work");
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&worker.cond, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_lock(&pool.lock);
	while ((work = wait_for_work(&worker)) != NULL) {
		pthread_mutex_unlock(&pool.lock);
		work->fn(work);
		pthread_mutex_lock(&pool.lock);
		pool.busy--;
	}
	pthread_cond_destroy(&worker.cond);
	worker_end();
	return NULL;
}

/* ---- growing ---- */

/* Starts a worker that is counted in pool.workers already. Without the lock. */
static int
start_worker(void)
{
	pthread_attr_t attr;
	sigset_t signals;
	pthread_t thread;
	int rc;

	env_fill_sigset(&signals); /* they are for the daemon's own threads */
	pthread_attr_init(&attr);
	rc = pthread_attr_setsigmask_np(&attr, &signals);
	if (rc == 0)
		rc = pthread_attr_setaffinity_np(&attr, sizeof(pool.affinity), &pool.affinity);
	if (rc == 0)
		rc = pthread_create(&thread, &attr, worker_main, NULL);
	pthread_attr_destroy(&attr);
	if (rc == 0)
		return 0;
	pthread_mutex_lock(&pool.lock);
	if (--pool.workers == 0)
		pthread_cond_signal(&pool.ended);
	pthread_mutex_unlock(&pool.lock);
	return -rc;
}

static void
count_new_worker(void)
{
	if (++pool.workers > pool.peak_workers)
		pool.peak_workers = pool.workers;
}

int
work_submit(struct work *work, void (*fn)(struct work *work))
{
	bool grow = false;

	work->fn = fn;
	work->next = NULL;
	pthread_mutex_lock(&pool.lock);
	if (!pool.running) {
		pthread_mutex_unlock(&pool.lock);
		return -EAGAIN;
	}
	if (!LIST_EMPTY(&pool.idle)) {
		give(LIST_FIRST(&pool.idle), work);
	} else {
		if (pool.first == NULL)
			pool.first = work;
		else
			pool.last->next = work;
		pool.last = work;
		pool.queued++;
		/* Workers that are being started are neither idle nor busy: each will take one. */
		grow = pool.queued > pool.workers - pool.busy && pool.workers < pool.max_workers;
		if (grow)
			count_new_worker();
	}
	pthread_mutex_unlock(&pool.lock);
	/* Not being able to grow is no failure: the work waits for one of those that there are. */
	if (grow && start_worker() != 0)
		log_warn("work pool: cannot start another worker");
	return 0;
}

/* ---- start and stop ---- */

static int
set_affinity(const struct cpumask *mask)
{
	CPU_ZERO(&pool.affinity);
	if (mask == NULL && sched_getaffinity(0, sizeof(pool.affinity), &pool.affinity) != 0)
		return -errno;
	for (unsigned int cpu = 0; mask != NULL && cpu < CPUMASK_CPUS; cpu++) {
		if (cpumask_test(mask, cpu))
			CPU_SET(cpu, &pool.affinity);
	}
	return CPU_COUNT(&pool.affinity) > 0 ? 0 : -EINVAL;
}

static unsigned int
min_uint(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

int
work_pool_start(const struct work_pool_opts *opts)
{
	const struct work_pool_opts defaults = {0};
	unsigned int base;
	int rc;

	if (opts == NULL)
		opts = &defaults;
	rc = set_affinity(opts->affinity);
	if (rc != 0)
		return rc;
	pthread_mutex_lock(&pool.lock);
	assert(!pool.running);
	pool.max_workers = opts->max_workers != 0 ? opts->max_workers : DEFAULT_MAX_WORKERS;
	pool.idle_ms = opts->idle_ms != 0 ? opts->idle_ms : DEFAULT_IDLE_MS;
	base = min_uint(CPU_COUNT(&pool.affinity), pool.max_workers);
	pool.base_workers = base;
	pool.peak_workers = 0;
	pool.running = true;
	pthread_mutex_unlock(&pool.lock);
	for (unsigned int i = 0; i < base; i++) {
		pthread_mutex_lock(&pool.lock);
		count_new_worker();
		pthread_mutex_unlock(&pool.lock);
		rc = start_worker();
		if (rc != 0) {
			work_pool_stop();
			return rc;
		}
	}
	return 0;
}

void
work_pool_stop(void)
{
	struct worker *worker;

	pthread_mutex_lock(&pool.lock);
	pool.running = false;
	LIST_FOREACH (worker, &pool.idle, idle_link)
		pthread_cond_signal(&worker->cond);
	while (pool.workers > 0)
		pthread_cond_wait(&pool.ended, &pool.lock);
	pthread_mutex_unlock(&pool.lock);
	if (pool.has_zombie)
		pthread_join(pool.zombie, NULL);
	pool.has_zombie = false;
}

void
work_pool_get_stats(struct work_pool_stats *stats)
{
	pthread_mutex_lock(&pool.lock);
	*stats = (struct work_pool_stats){
		.workers = pool.workers,
		.busy = pool.busy,
		.queued = pool.queued,
		.peak_workers = pool.peak_workers,
	};
	pthread_mutex_unlock(&pool.lock);
}
