/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the room event share. */
#ifndef VHOSTD_LIB_EVENT_INTERNAL_H
#define VHOSTD_LIB_EVENT_INTERNAL_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "event.h"
#include "mpsc_queue.h"

struct event {
	struct mpsc_node node;
	event_fn fn;
	void *arg1;
	void *arg2;
	bool embedded; /* in a struct placed; else it is a cell of the message cache */
};

/* What the reactors keep in each lightweight thread: its thread_ctx(). */
struct placed {
	/*
	 * written by the reactor that the thread is on, or by the placement of a new one; read by
	 * any OS thread
	 */
	_Atomic(struct reactor *) reactor;
	/* the reactor's OS thread only */
	TAILQ_ENTRY(placed) link;
	struct event arrival;    /* takes it to its next reactor */
	struct reactor *move_to; /* asked for by its thread; NULL: stays */
	bool blind;              /* its fds could not be added: the reactor must not sleep */
};

TAILQ_HEAD(placed_list, placed);

struct reactor {
	/* set once */
	uint32_t core;
	int epoll_fd; /* over event_fd and the wait fd of each thread */
	int event_fd; /* edge-triggered: never read */

	/* any OS thread */
	struct mpsc_queue events;
	_Alignas(64) _Atomic bool sleeping; /* see reactor_sleep() */
	_Atomic int mode;                   /* enum reactor_mode */
	_Atomic int state;                  /* enum reactor_state, written by its OS thread */
	_Atomic uint32_t threads;           /* placed here, those on their way included */

	/* its OS thread only; the counters are read by others */
	_Alignas(64) struct placed_list placed;
	uint64_t now; /* env_ticks() at the end of what was done last */
	uint64_t last_busy;
	uint32_t blind_threads;
	_Atomic uint64_t busy_ticks;
	_Atomic uint64_t idle_ticks;
	_Atomic uint64_t sleeps;
	_Atomic uint64_t events_run;
};

/* The reactor of core, or NULL. Any OS thread, between reactors_init() and reactors_fini(). */
struct reactor *reactor_of_core(uint32_t core);

/* Queues event on reactor and wakes it. Any OS thread. */
void reactor_send(struct reactor *reactor, struct event *event, event_fn fn, void *arg1,
		  void *arg2);

/* For counters with one writer. */
static inline void
counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

/* ---- placement.c ---- */

extern const struct thread_lib_ops placement_ops;

/* After each poll of a thread, on its reactor: moves it or buries it if that is due. */
void placement_after_poll(struct reactor *reactor, struct placed *placed);

/* How many threads exist. Any OS thread. */
uint32_t placement_thread_count(void);
/* From now on (or not any more) thread_create() fails. */
void placement_close(bool closed);

/* Wakes reactor if it sleeps or is about to. Any OS thread. */
void reactor_wake(struct reactor *reactor);

#endif
