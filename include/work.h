/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * work: the pool of OS threads for calls that may block (open, fallocate, fsync, …). Part of the
 * room thread. It starts with one worker per CPU, grows while every worker is busy and work waits,
 * up to max_workers, and shrinks back when workers have been idle for a while. Workers run on the
 * CPUs of opts->affinity (the daemon passes env_housekeeping_cpus()), or wherever the caller of
 * work_pool_start() may run if that is NULL. Signals are blocked in them.
 */
#ifndef VHOSTD_WORK_H
#define VHOSTD_WORK_H

#include "cpumask.h"

struct work_pool_opts {
	unsigned int max_workers; /* 0: 64 */
	unsigned int idle_ms;     /* an extra worker ends after this much idleness; 0: 5,000 */
	const struct cpumask *affinity; /* NULL: inherited */
};

/*
 * From any OS thread; again only after work_pool_stop(). opts may be NULL. 0 or a negative errno.
 */
int work_pool_start(const struct work_pool_opts *opts);
/*
 * Waits for the work that is queued or running, then ends the workers. Not from a worker. No new
 * work is taken meanwhile.
 */
void work_pool_stop(void);

/* Embedded in what it works for; must live until fn begins. */
struct work {
	struct work *next;
	void (*fn)(struct work *work);
};
/* Runs work->fn(work) on a worker. Any OS thread. 0, or -EAGAIN when the pool is not running. */
int work_submit(struct work *work, void (*fn)(struct work *work));

struct work_pool_stats {
	unsigned int workers;
	unsigned int busy;   /* have work */
	unsigned int queued; /* work that no worker has taken yet */
	unsigned int peak_workers;
};
void work_pool_get_stats(struct work_pool_stats *stats);

#endif
