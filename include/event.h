/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * event: reactors (one OS thread pinned to each core of env.h), events sent to them, and the
 * placement of lightweight threads on them.
 *
 * One iteration of a reactor: run the events that are queued (first in, first out, in batches),
 * then poll each thread placed on it. In mode `poll` it spins for ever; in `adaptive` it spins
 * while there was work within the last REACTOR_SPIN_US (or less, see there), then arms its threads'
 * pollers and sleeps in epoll_wait() until an fd named by a poller, a message, an event or the next
 * timed poller wakes it; in `interrupt` it does so as soon as an iteration was idle.
 */
#ifndef VHOSTD_EVENT_H
#define VHOSTD_EVENT_H

#include <jansson.h>
#include <stdint.h>

#include "errmsg.h"
#include "thread.h"

/*
 * How long the mode adaptive spins without work before it sleeps, in µs: the first after a sleep
 * that was shorter than that, and half as long after each longer one, down to the second.
 *
 * Measured with requests at equal intervals, one at a time, null device (a file on tmpfs by
 * io_uring: the same), in a VM on AMD EPYC; CPU time for each request, and its median latency:
 *
 *   interval        5 µs    20 µs    50 µs   100 µs   200 µs   500 µs     1 ms
 *   spin 5 µs    5 / 0.9  14 / 17  18 / 15  19 / 14  19 / 18  27 / 26  27 / 28
 *   spin 20 µs   5 / 0.9  21 / 1   37 / 23  42 / 21  48 / 26  41 / 34  70 / 29
 *   spin 50 µs   5 / 0.3  21 / 0.3 52 / 1   62 / 20  64 / 17  60 / 23  69 / 37
 *   spin 100 µs  6 / 0.9  22 / 1   54 / 0.9 110 / 1 125 / 28 122 / 35 119 / 32
 *   50, halved   5 / 0.3  21 / 0.3 46 / 0.3  23 / 15  25 / 27  29 / 22  25 / 18
 *
 * To sleep and to be woken costs some 15 µs of CPU, and the request 15 to 20 µs. So spinning longer
 * than a few times that does not pay: 50 µs covers NVMe devices and guests that answer at once, and
 * has the latency of the mode poll there. Where requests are rarer it only burns CPU (6 % of a core
 * at 1,000 requests a second, which is 2.5 % with halving) and spares nobody a wake-up.
 */
#define REACTOR_SPIN_US     50
#define REACTOR_SPIN_MIN_US 5

enum reactor_state {
	REACTOR_INVALID,
	REACTOR_INITIALIZED,
	REACTOR_RUNNING,
	REACTOR_EXITING,
	REACTOR_SHUTDOWN,
};

enum reactor_mode {
	REACTOR_ADAPTIVE,
	REACTOR_POLL,
	REACTOR_INTERRUPT,
};
const char *reactor_mode_name(enum reactor_mode mode);
int reactor_mode_parse(const char *name, enum reactor_mode *mode); /* 0 or -EINVAL */

/*
 * Makes a reactor for each core. After env_init(), on the main thread; calls thread_lib_init(). 0
 * or a negative errno.
 */
int reactors_init(enum reactor_mode mode, struct errmsg *err);
/*
 * Runs all reactors: the calling thread becomes the main core's. Returns after reactors_stop() when
 * every reactor is down. Threads that are left then are told to exit and polled until they have (at
 * most 5 s; then named in the log). 0, -ETIMEDOUT (threads did not end: they and what they use must
 * be left alone), or the negative errno of a failed start.
 */
int reactors_run(void);
/* Any OS thread, also before reactors_run() (which then returns soon). */
void reactors_stop(void);
/* After reactors_run() returned. */
void reactors_fini(void);

typedef void (*event_fn)(void *arg1, void *arg2);
/*
 * Runs fn(arg1, arg2) on the reactor of core. Any OS thread, never blocks; events of one sender
 * keep their order. 0, -EINVAL (no reactor there), -ENOMEM.
 */
int event_call(uint32_t core, event_fn fn, void *arg1, void *arg2);

/* Takes effect in the reactor's next iteration. Any OS thread. 0 or -EINVAL (no such core). */
int reactor_set_mode(uint32_t core, enum reactor_mode mode);

struct reactor_info {
	uint32_t core;
	enum reactor_state state;
	enum reactor_mode mode;
	uint64_t busy_ticks; /* in polls that found work */
	uint64_t idle_ticks; /* in polls that found none; time asleep counts as idle */
	uint64_t sleeps;     /* how often it slept */
	uint64_t events;     /* run so far */
	uint32_t threads;    /* placed on it */
};
/* Any OS thread; the counters are a moment's view. 0 or -EINVAL (no such core). */
int reactor_get_info(uint32_t core, struct reactor_info *info);
/* The core that thread is placed on, or ENV_NO_CORE. Any OS thread. */
uint32_t thread_core(struct thread *thread);

/*
 * Moves the calling thread to another core allowed by its cpumask, between two iterations. On that
 * thread. 0 or -EINVAL.
 */
int thread_move(uint32_t core);

/*
 * Changes where the calling thread may run (NULL or empty: on any reactor) and moves it, between
 * two iterations, when its core is not allowed any more. On that thread. 0, or -EINVAL (no running
 * core is in it: nothing changes).
 */
int thread_set_cpumask(const struct cpumask *cpumask);

/*
 * ---- the scheduler: where threads are, once they have been placed ----
 *
 * `static` leaves them there (but for thread_move() and thread_set_cpumask()). `dynamic` looks at
 * them once every SCHEDULER_PERIOD_US and moves some of them to other reactors, within their
 * cpumasks, when that evens the load. All on the app thread.
 *
 * The default is dynamic: new threads go where the fewest are, and which of them will be busy
 * nobody knows then. A user with 2 reactors and 4 busy guests must not find them all on one core;
 * who wants a guest to stay has cpumasks.
 */
#define SCHEDULER_PERIOD_US 1000000
#define SCHEDULER_DEFAULT   "dynamic"

/* Begins with the default, before anything else here; stop ends it. 0 or -ENOMEM. */
int scheduler_start(void);
void scheduler_stop(void);
/* 0, -EINVAL (no scheduler of that name) or -ENOMEM: then all is as before. */
int scheduler_set(const char *name);
const char *scheduler_name(void);

/* ---- what an administrator chose: the subsystem "scheduler". All on the app thread. ---- */

#define EVENT_ALL_CORES -1
/* reactor_set_mode() of one core, or of all; remembered. 0 or -EINVAL (no such core). */
int event_choose_mode(int64_t core, enum reactor_mode mode);
/* scheduler_set(); remembered. */
int event_choose_scheduler(const char *name);
/* Array of {method, params} that choose the same again; empty: nothing was chosen. */
json_t *event_config_json(void);

#endif
