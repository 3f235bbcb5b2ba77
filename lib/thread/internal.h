/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the room thread share. */
#ifndef VHOSTD_LIB_THREAD_INTERNAL_H
#define VHOSTD_LIB_THREAD_INTERNAL_H

#include <bsd/sys/tree.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/queue.h>

#include "counter.h"
#include "thread.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define THREAD_NAME_MAX 64

/* ---- timers: the time-ordered queue of a thread, for timed pollers and waiting coroutines ---- */

struct thread_timer {
	RB_ENTRY(thread_timer) node;
	uint64_t due;                          /* env_ticks() */
	uint64_t order;                        /* among equals: first started, first run */
	int (*fn)(struct thread_timer *timer); /* returns what a poller returns */
	bool queued;
};
RB_HEAD(timer_tree, thread_timer);

/*
 * All on the thread. A timer runs once, in thread_poll(), never in the iteration that started it.
 */
void timer_start(struct thread *thread, struct thread_timer *timer, uint64_t due);
void timer_stop(struct thread *thread, struct thread_timer *timer);
int timers_run(struct thread *thread);

/* env_ticks() in us microseconds; UINT64_MAX (never) when that is beyond the end of time. */
uint64_t deadline_after(uint64_t us);

/* ---- pollers ---- */

struct poller_fd {
	LIST_ENTRY(poller_fd) link;
	int fd;
};

struct poller {
	/* its thread only, in the order in which a run needs them */
	poller_fn fn;
	void *arg;
	TAILQ_ENTRY(poller) link; /* in thread->active or thread->timed */
	uint64_t runs;
	uint64_t busy_runs;
	struct thread *thread;
	const char *name;
	const struct poller_sleep_ops *sleep_ops;
	bool armed;
	uint64_t period_us;
	uint64_t period_ticks;
	struct thread_timer timer;
	LIST_HEAD(, poller_fd) fds;
};
TAILQ_HEAD(poller_list, poller);

/* ---- threads ---- */

#define CHANNEL_BUCKETS 64

LIST_HEAD(channel_bucket, io_channel);

struct thread {
	/* any OS thread */
	struct mpsc_queue messages;
	_Alignas(64) atomic_uint senders; /* that may still call ops->wake: see thread_send() */
	/*
	 * Set under thread_lib.registry_lock, so that nobody who holds it sends to a thread that is
	 * gone.
	 */
	atomic_bool exiting;

	/* its thread only, in the order in which thread_poll() needs them */
	_Alignas(64) uint64_t now;
	uint64_t next_due; /* of the first timer, or UINT64_MAX */
	struct poller_list active;
	struct poller *next_poller;  /* of the walk over `active` that is under way */
	struct poller *running;      /* set to NULL when it unregisters itself */
	_Atomic uint64_t idle_ticks; /* read by any OS thread */
	_Atomic uint64_t busy_ticks;
	uint64_t messages_run;
	struct coroutine *coroutine; /* running now */

	uint32_t active_pollers;
	uint32_t timed_pollers;
	uint32_t sleepless_pollers; /* active ones without sleep ops */
	uint32_t fds;
	uint32_t channel_count;
	uint32_t returns_due; /* walks and device removals that end with a message to this thread */
	struct poller_list timed;
	struct timer_tree timers;
	uint64_t timer_order;
	LIST_HEAD(, coroutine) coroutines; /* begun and not returned */
	struct thread_timer leftover_timer;
	struct channel_bucket channels[CHANNEL_BUCKETS];

	/* set once */
	uint64_t id;
	int wait_fd; /* epoll over the fds that the pollers named */
	char name[THREAD_NAME_MAX];

	/* under thread_lib.registry_lock */
	RB_ENTRY(thread) registry_node;
	struct cpumask cpumask; /* written by its thread, which may read it without the lock */

	/* whoever polls the thread */
	_Alignas(64) char ctx[];
};

/*
 * Exiting, with nothing left that could still run on it: at most a sender is on its way out of
 * thread_send(). On the thread.
 */
bool thread_is_empty(const struct thread *thread);

static inline int
poller_run(struct thread *thread, struct poller *poller)
{
	int rc;

	thread->running = poller;
	poller->runs++;
	rc = poller->fn(poller->arg);
	if (rc != POLLER_IDLE && thread->running == poller)
		poller->busy_runs++;
	return rc;
}

RB_HEAD(thread_registry, thread);
RB_HEAD(device_registry, io_device);

struct thread_lib {
	/* set once */
	struct thread_lib_ops ops;
	/*
	 * Threads and devices come and go on any OS thread, and a walk over them must find the next
	 * one and send to it before it can go away: a message cannot do that. Control path only;
	 * held for look-ups and sends, never while anyone's callback runs (but ops.wake).
	 */
	pthread_mutex_t registry_lock;
	/* under registry_lock */
	struct thread_registry threads;
	struct device_registry devices;
	uint64_t last_id;
};
extern struct thread_lib thread_lib;

/*
 * The same as thread_send(), unless the thread is exiting: then false. For senders that know no
 * more than that the thread is not destroyed yet. Takes the registry lock.
 */
bool thread_send_unless_exiting(struct thread *thread, struct thread_msg *msg, thread_fn fn,
				void *ctx);

/* ---- coroutines ---- */

/* fn for the name of each coroutine that has begun and not returned. On the thread. */
void thread_for_each_coroutine(struct thread *thread, void (*fn)(void *ctx, const char *name),
			       void *ctx);

/* Frees the stacks that are kept for the next coroutines. */
void coroutine_drain_stacks(void);

#endif
