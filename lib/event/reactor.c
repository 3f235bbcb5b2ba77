/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../thread/msg_cache.h"
#include "env.h"
#include "internal.h"
#include "log.h"

#define EVENT_BATCH    32   /* events run before threads are polled again */
#define EXIT_SECONDS   5    /* in which threads have to end when the reactors stop */
#define TIMER_SLACK_NS 1000 /* the kernel's default of 50 µs is longer than some periods */

_Static_assert(sizeof(struct event) <= MSG_CACHE_CELL_SIZE,
	       "an event is a cell of the message cache");

static const char *const mode_names[] = {
	[REACTOR_ADAPTIVE] = "adaptive",
	[REACTOR_POLL] = "poll",
	[REACTOR_INTERRUPT] = "interrupt",
};

/* Set once, by reactors_init(). */
static struct reactor *reactors[CPUMASK_CPUS];
static uint64_t spin_max, spin_min;

static _Atomic bool stopping;

struct reactor *
reactor_of_core(uint32_t core)
{
	return core < CPUMASK_CPUS ? reactors[core] : NULL;
}

const char *
reactor_mode_name(enum reactor_mode mode)
{
	return mode_names[mode];
}

int
reactor_mode_parse(const char *name, enum reactor_mode *mode)
{
	for (size_t i = 0; i < sizeof(mode_names) / sizeof(mode_names[0]); i++) {
		if (strcasecmp(name, mode_names[i]) == 0) {
			*mode = (enum reactor_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* ---- events ---- */

void
reactor_wake(struct reactor *reactor)
{
	if (atomic_load(&reactor->sleeping) && atomic_exchange(&reactor->sleeping, false))
		eventfd_write(reactor->event_fd, 1);
}

void
reactor_send(struct reactor *reactor, struct event *event, event_fn fn, void *arg1, void *arg2)
{
	event->fn = fn;
	event->arg1 = arg1;
	event->arg2 = arg2;
	mpsc_queue_push(&reactor->events, &event->node);
	reactor_wake(reactor);
}

int
event_call(uint32_t core, event_fn fn, void *arg1, void *arg2)
{
	struct reactor *reactor = reactor_of_core(core);
	struct event *event;

	if (reactor == NULL)
		return -EINVAL;
	event = msg_cache_get();
	if (event == NULL)
		return -ENOMEM;
	event->embedded = false;
	reactor_send(reactor, event, fn, arg1, arg2);
	return 0;
}

static uint32_t
run_events(struct reactor *reactor)
{
	uint32_t ran;

	for (ran = 0; ran < EVENT_BATCH; ran++) {
		struct event *event = (struct event *)mpsc_queue_pop(&reactor->events);
		event_fn fn;
		void *arg1, *arg2;

		if (event == NULL)
			break;
		fn = event->fn;
		arg1 = event->arg1;
		arg2 = event->arg2;
		if (!event->embedded)
			msg_cache_put(event);
		fn(arg1, arg2);
	}
	return ran;
}

/* ---- the loop ---- */

uint64_t
reactor_account(struct reactor *reactor, bool busy)
{
	uint64_t now = env_ticks();
	uint64_t ticks = now - reactor->now;

	counter_add(busy ? &reactor->busy_ticks : &reactor->idle_ticks, ticks);
	reactor->now = now;
	if (busy)
		reactor->last_busy = now;
	return ticks;
}

static inline bool
poll_thread(struct reactor *reactor, struct placed *placed)
{
	struct thread *thread = thread_from_ctx(placed);
	int rc = thread_poll(thread, reactor->now);
	bool busy = rc != POLLER_IDLE;

	thread_account(thread, rc, reactor_account(reactor, busy));
	if (busy) {
		placed->last_busy = reactor->now;
		if (placed->warmth != WARMTH_HOT)
			quiet_warm(reactor, placed);
	} else if (reactor->now - placed->last_busy >= reactor->cold_ticks &&
		   placed->warmth == WARMTH_HOT) {
		quiet_cool(reactor, placed);
	}
	placement_after_poll(reactor, placed);
	return busy;
}

bool
reactor_poll_thread(struct reactor *reactor, struct placed *placed)
{
	return poll_thread(reactor, placed);
}

/* Polls all hot threads; if there are none, all cold ones. Returns whether anything was done. */
static bool
iterate(struct reactor *reactor)
{
	uint32_t ran = run_events(reactor);
	struct placed *placed, *next;
	bool busy = ran > 0;

	if (ran > 0) {
		counter_add(&reactor->events_run, ran);
		reactor_account(reactor, true);
	}
	if (quiet_is_due(reactor))
		busy |= quiet_look(reactor);
	placed = TAILQ_FIRST(&reactor->placed[WARMTH_HOT]);
	if (placed == NULL)
		placed = TAILQ_FIRST(&reactor->placed[WARMTH_COLD]);
	if (placed == NULL && !busy)
		reactor_account(reactor, false);
	for (; placed != NULL; placed = next) {
		next = TAILQ_NEXT(placed, link);
		busy |= poll_thread(reactor, placed);
	}
	return busy;
}

static bool
has_reason_to_stay_awake(struct reactor *reactor)
{
	return !mpsc_queue_is_empty(&reactor->events) || atomic_load(&reactor->look) ||
	       atomic_load(&stopping) || atomic_load(&reactor->mode) == REACTOR_POLL ||
	       reactor->blind_threads > 0;
}

/* A sleep that was shorter than the longest spin would have been spared by that; see event.h. */
static void
adapt_spin(struct reactor *reactor, uint64_t slept)
{
	if (slept < spin_max)
		reactor->spin = spin_max;
	else if (reactor->spin > spin_min)
		reactor->spin = reactor->spin / 2 > spin_min ? reactor->spin / 2 : spin_min;
}

/*
 * Sleeps, unless there is work. Why no wake-up is lost:
 *
 * - The reactor stores sleeping = true, looks at all that could be work, and waits for event_fd.
 * - A sender (of an event, a message to a quiet thread, a mode, the stop) pushes, or stores what it
 *   wants to be seen, looks at `sleeping`, and if that is set writes event_fd.
 *
 * All four accesses are sequentially consistent, so in their one order either the push comes before
 * the reactor's look, which finds it, or the sender's look comes after the reactor's store: it sees
 * `sleeping` and writes event_fd. That is the case too when the write comes before the wait: an
 * edge that nobody has waited for yet is kept by the kernel. The exchange in reactor_wake() lets
 * one of several senders write; the others rely on its write, which wakes the reactor for all of
 * their pushes.
 *
 * The reactor looks at a thread's messages when it arms it, and that may have been before an
 * earlier sleep. So there is the same pair once more: it stores `quiet` and then looks at the
 * messages; a sender pushes, looks at `quiet`, and if that is set stores `look`, which is among all
 * that could be work. What is not sent but found on a file descriptor has the same order in each
 * poller's `arm`: ask for the wake-up, then look once more; the edges from before are taken away
 * before that.
 *
 * A left-over edge (the reactor was awake already) makes one sleep end early, which is harmless. So
 * is an edge of event_fd that a reactor takes which is awake and looks at its fds: it was for a
 * sleep that is over. tests/model walks through all of this, step by step in every order.
 */
static void
reactor_sleep(struct reactor *reactor)
{
	uint64_t begin;
	bool armed;

	atomic_store(&reactor->sleeping, true);
	if (has_reason_to_stay_awake(reactor)) {
		atomic_store(&reactor->sleeping, false);
		return;
	}
	armed = quiet_arm_all(reactor);
	if (armed) {
		counter_add(&reactor->sleeps, 1);
		begin = env_ticks();
		quiet_sleep(reactor);
		adapt_spin(reactor, reactor->now - begin);
	}
	atomic_store(&reactor->sleeping, false);
	if (!armed) { /* look busy: do not try again in every iteration */
		reactor_account(reactor, false);
		reactor->last_busy = reactor->now;
	}
}

static bool
may_sleep(const struct reactor *reactor)
{
	switch (atomic_load_explicit(&reactor->mode, memory_order_relaxed)) {
	case REACTOR_POLL:
		return false;
	case REACTOR_INTERRUPT:
		return true;
	default:
		return reactor->now - reactor->last_busy >= reactor->spin;
	}
}

static void
set_state(struct reactor *reactor, enum reactor_state state)
{
	atomic_store_explicit(&reactor->state, (int)state, memory_order_release);
}

/* ---- the end ---- */

static bool
everyone_left(void)
{
	if (placement_thread_count() > 0)
		return false;
	placement_close(true);
	return placement_thread_count() == 0;
}

static void
tell_to_exit(struct reactor *reactor)
{
	struct placed *placed;

	quiet_warm_all(reactor);
	TAILQ_FOREACH (placed, &reactor->placed[WARMTH_HOT], link) {
		struct thread *thread = thread_from_ctx(placed);

		if (thread_is_exiting(thread))
			continue;
		thread_set_current(thread);
		thread_exit(thread);
		thread_set_current(NULL);
	}
}

/*
 * All reactors go on until the last thread of any of them is gone: threads may need each other to
 * end.
 */
static void
wind_down(struct reactor *reactor)
{
	uint64_t deadline = reactor->now + EXIT_SECONDS * env_ticks_hz();
	struct placed *placed;

	while (!everyone_left() && reactor->now < deadline) {
		tell_to_exit(reactor);
		if (!iterate(reactor))
			sched_yield();
	}
	placement_close(true);
	quiet_warm_all(reactor);
	TAILQ_FOREACH (placed, &reactor->placed[WARMTH_HOT], link)
		log_err("reactor %u: thread %s did not end within %d s", reactor->core,
			thread_name(thread_from_ctx(placed)), EXIT_SECONDS);
}

static int
reactor_run(void *arg)
{
	struct reactor *reactor = arg;
	char name[16];

	/* The main thread's name is the program's. */
	if (reactor->core != env_core_main()) {
		snprintf(name, sizeof(name), "reactor-%u", reactor->core);
		pthread_setname_np(pthread_self(), name);
	}
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
	reactor->now = reactor->last_busy = env_ticks();
	reactor->spin = spin_max;
	set_state(reactor, REACTOR_RUNNING);
	while (!atomic_load_explicit(&stopping, memory_order_acquire)) {
		if (!iterate(reactor) && may_sleep(reactor))
			reactor_sleep(reactor);
	}
	set_state(reactor, REACTOR_EXITING);
	wind_down(reactor);
	set_state(reactor, REACTOR_SHUTDOWN);
	msg_cache_drain();
	return 0;
}

/* ---- start and stop ---- */

static void
reactor_free(struct reactor *reactor)
{
	struct mpsc_node *node;

	if (reactor == NULL)
		return;
	while ((node = mpsc_queue_pop(&reactor->events)) != NULL) {
		if (!((struct event *)node)->embedded)
			msg_cache_put(node);
	}
	close(reactor->event_fd);
	close(reactor->epoll_fd);
	free(reactor);
}

static struct reactor *
reactor_create(uint32_t core, enum reactor_mode mode)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	struct reactor *reactor = aligned_alloc(_Alignof(struct reactor), sizeof(*reactor));

	if (reactor == NULL)
		return NULL;
	memset(reactor, 0, sizeof(*reactor));
	reactor->core = core;
	atomic_init(&reactor->mode, (int)mode);
	atomic_init(&reactor->state, REACTOR_INITIALIZED);
	mpsc_queue_init(&reactor->events);
	quiet_init(reactor);
	reactor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	reactor->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (reactor->epoll_fd < 0 || reactor->event_fd < 0 ||
	    epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, reactor->event_fd, &event) < 0) {
		int saved_errno = errno;

		reactor_free(reactor);
		errno = saved_errno;
		return NULL;
	}
	return reactor;
}

int
reactors_init(enum reactor_mode mode, struct errmsg *err)
{
	thread_lib_init(&placement_ops);
	spin_max = env_ticks_hz() * REACTOR_SPIN_US / 1000000;
	spin_min = env_ticks_hz() * REACTOR_SPIN_MIN_US / 1000000;
	atomic_store(&stopping, false);
	placement_close(false);
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		reactors[core] = reactor_create(core, mode);
		if (reactors[core] == NULL) {
			int rc = -errno;

			reactors_fini();
			return err_set(err, rc, "reactor %u: %s", core, strerror(-rc));
		}
	}
	return 0;
}

int
reactors_run(void)
{
	int rc = 0;

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE && rc == 0;
	     core = env_core_next(core)) {
		if (core != env_core_main())
			rc = env_core_launch(core, reactor_run, reactors[core]);
	}
	if (rc != 0)
		reactors_stop();
	else
		rc = env_core_run_main(reactor_run, reactors[env_core_main()]);
	env_core_wait_all();
	return rc == 0 && placement_thread_count() > 0 ? -ETIMEDOUT : rc;
}

void
reactors_stop(void)
{
	atomic_store(&stopping, true);
	for (uint32_t core = 0; core < CPUMASK_CPUS; core++) {
		if (reactors[core] != NULL)
			reactor_wake(reactors[core]);
	}
}

void
reactors_fini(void)
{
	for (uint32_t core = 0; core < CPUMASK_CPUS; core++) {
		reactor_free(reactors[core]);
		reactors[core] = NULL;
	}
	/* Threads that did not end keep what belongs to them. */
	if (placement_thread_count() == 0)
		thread_lib_fini();
}

/* ---- control ---- */

int
reactor_set_mode(uint32_t core, enum reactor_mode mode)
{
	struct reactor *reactor = reactor_of_core(core);

	if (reactor == NULL)
		return -EINVAL;
	atomic_store(&reactor->mode, (int)mode);
	reactor_wake(reactor);
	return 0;
}

int
reactor_get_info(uint32_t core, struct reactor_info *info)
{
	struct reactor *reactor = reactor_of_core(core);

	if (reactor == NULL)
		return -EINVAL;
	*info = (struct reactor_info){
		.core = core,
		.state = (enum reactor_state)atomic_load_explicit(&reactor->state,
								  memory_order_acquire),
		.mode = (enum reactor_mode)atomic_load_explicit(&reactor->mode,
								memory_order_relaxed),
		.busy_ticks = atomic_load_explicit(&reactor->busy_ticks, memory_order_relaxed),
		.idle_ticks = atomic_load_explicit(&reactor->idle_ticks, memory_order_relaxed),
		.sleeps = atomic_load_explicit(&reactor->sleeps, memory_order_relaxed),
		.events = atomic_load_explicit(&reactor->events_run, memory_order_relaxed),
		.threads = atomic_load_explicit(&reactor->threads, memory_order_relaxed),
	};
	return 0;
}
