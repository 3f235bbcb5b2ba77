/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the room event share. */
#ifndef VHOSTD_LIB_EVENT_INTERNAL_H
#define VHOSTD_LIB_EVENT_INTERNAL_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "counter.h"
#include "event.h"
#include "mpsc_queue.h"

struct event {
	struct mpsc_node node;
	event_fn fn;
	void *arg1;
	void *arg2;
	bool embedded; /* in a struct placed; else it is a cell of the message cache */
};

/* How a reactor looks after a thread: see quiet.c. */
enum warmth {
	WARMTH_HOT,   /* polled in every iteration */
	WARMTH_COLD,  /* polled now and then */
	WARMTH_ARMED, /* not polled: thread_arm() was true, something will wake it */
	WARMTHS,
};

/* What the reactors keep in each lightweight thread: its thread_ctx(). */
struct placed {
	/*
	 * written by the reactor that the thread is on, or by the placement of a new one; read by
	 * any OS thread
	 */
	_Atomic(struct reactor *) reactor;
	_Atomic bool quiet; /* not hot: who sends it a message sets reactor->look */
	/* the reactor's OS thread only */
	TAILQ_ENTRY(placed) link; /* in reactor->placed[warmth] */
	enum warmth warmth;
	uint64_t last_busy;
	struct event arrival;    /* takes it to its next reactor */
	struct reactor *move_to; /* asked for by its thread; NULL: stays */
	bool blind;              /* its fds could not be added: the reactor must not sleep */
	/* the scheduler only */
	uint64_t busy_before; /* thread_busy_ticks() when it last looked */
};

TAILQ_HEAD(placed_list, placed);

struct reactor {
	/* set once */
	uint32_t core;
	uint64_t cold_ticks; /* without work, after which a thread becomes quiet */
	int epoll_fd;        /* over event_fd and the wait fd of each thread */
	int event_fd;        /* edge-triggered: never read */

	/* any OS thread */
	struct mpsc_queue events;
	_Alignas(64) _Atomic bool sleeping; /* see reactor_sleep() */
	_Atomic bool look;                  /* a quiet thread has a message */
	_Atomic int mode;                   /* enum reactor_mode */
	_Atomic int state;                  /* enum reactor_state, written by its OS thread */
	_Atomic uint32_t threads;           /* placed here, those on their way included */

	/* its OS thread only; the counters are read by others */
	_Alignas(64) uint64_t now; /* env_ticks() at the end of what was done last */
	uint64_t last_busy;
	uint64_t spin;      /* ticks without work before it sleeps, in the mode adaptive */
	uint64_t quiet_due; /* when to look after the quiet threads next: the first of ... */
	uint64_t cold_due;  /* ... the next cold one's turn */
	uint64_t fd_due;    /* ... and the next look at what may have woken armed ones */
	uint64_t armed_due; /* the first timer of an armed one, or earlier */
	struct placed_list placed[WARMTHS];
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

/* Charges the time since the last call to busy or idle. On the reactor. Returns it. */
uint64_t reactor_account(struct reactor *reactor, bool busy);
/* Polls it once, and moves or buries it if that is due. On its reactor. Returns whether busy. */
bool reactor_poll_thread(struct reactor *reactor, struct placed *placed);

/* ---- quiet.c: all on the reactor ---- */

void quiet_init(struct reactor *reactor);

/* Takes a thread that has come or had work into the hot ones; disarms it. */
void quiet_warm(struct reactor *reactor, struct placed *placed);
/* Makes a hot thread quiet, if it can be. */
void quiet_cool(struct reactor *reactor, struct placed *placed);

/* Whether quiet_look() is due. */
static inline bool
quiet_is_due(struct reactor *reactor)
{
	return reactor->now >= reactor->quiet_due ||
	       atomic_load_explicit(&reactor->look, memory_order_relaxed);
}
/*
 * Polls some cold threads if it is their turn, and warms those that have a message, a timer that is
 * due, or an fd that is ready. Returns whether a poll was busy.
 */
bool quiet_look(struct reactor *reactor);

/* Arms all threads, to sleep. False: one of them has work; it is hot now. */
bool quiet_arm_all(struct reactor *reactor);
/* Sleeps until an fd is ready or a timer due, and warms the threads that this is for. */
void quiet_sleep(struct reactor *reactor);
void quiet_warm_all(struct reactor *reactor);

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
