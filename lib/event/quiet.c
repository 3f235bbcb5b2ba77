/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads that have had nothing to do for a while, so that many idle ones cost a busy one little.
 *
 * A thread is hot when it comes and when it finds work. One that has found none for COLD_US becomes
 * quiet: cold in the mode poll, else armed (a thread that cannot be armed stays hot).
 *
 * - Cold threads have their turn one after the other, as often as keeps their part of the time at
 *   1 / COLD_SHARE. When no thread is hot, all of them are polled in every iteration.
 * - Armed threads are not polled at all. What wakes them also wakes a reactor that sleeps: an fd, a
 *   timer, a message. A reactor that does not sleep looks at their fds and timers every FD_US. They
 *   stay armed while others are woken: going to sleep again is cheap, however many there are.
 *
 * A message to a quiet thread makes itself known by reactor->look: placement.c, wake().
 */
#include <sys/epoll.h>
#include <time.h>

#include "env.h"
#include "internal.h"
#include "log.h"

#define COLD_US     200 /* longer than fast devices take: who waits for one of them stays hot */
#define COLD_SHARE  32  /* their pollers take some 20 ns: 64 of them have a turn every 40 µs */
#define COLD_MAX_US 25  /* between two turns, should the one before have taken long */
#define COLD_BATCH  4   /* turns in one iteration */
#define FD_US       25  /* a system call of some 0.3 µs each time: 1 to 2 % */
#define FD_BATCH    32
#define LATE_US     1000000

static uint64_t
ticks_of(uint64_t us)
{
	return env_ticks_hz() * us / 1000000;
}

void
quiet_init(struct reactor *reactor)
{
	reactor->cold_ticks = ticks_of(COLD_US);
	reactor->quiet_due = UINT64_MAX;
	reactor->armed_due = UINT64_MAX;
	for (int warmth = 0; warmth < WARMTHS; warmth++)
		TAILQ_INIT(&reactor->placed[warmth]);
}

static uint64_t
min_ticks(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void
update_quiet_due(struct reactor *reactor)
{
	reactor->quiet_due = min_ticks(
		TAILQ_EMPTY(&reactor->placed[WARMTH_COLD]) ? UINT64_MAX : reactor->cold_due,
		TAILQ_EMPTY(&reactor->placed[WARMTH_ARMED]) ? UINT64_MAX : reactor->fd_due);
}

static void
set_warmth(struct reactor *reactor, struct placed *placed, enum warmth warmth)
{
	TAILQ_REMOVE(&reactor->placed[placed->warmth], placed, link);
	placed->warmth = warmth;
	TAILQ_INSERT_TAIL(&reactor->placed[warmth], placed, link);
}

/* ---- becoming hot ---- */

void
quiet_warm(struct reactor *reactor, struct placed *placed)
{
	struct thread *thread = thread_from_ctx(placed);

	if (placed->warmth == WARMTH_ARMED) {
		if (thread_next_due(thread) == reactor->armed_due)
			reactor->armed_due = 0; /* not known any more */
		thread_disarm(thread);
	}
	atomic_store_explicit(&placed->quiet, false, memory_order_relaxed);
	placed->last_busy = reactor->now;
	set_warmth(reactor, placed, WARMTH_HOT);
}

void
quiet_warm_all(struct reactor *reactor)
{
	for (enum warmth warmth = WARMTH_COLD; warmth < WARMTHS; warmth++) {
		while (!TAILQ_EMPTY(&reactor->placed[warmth]))
			quiet_warm(reactor, TAILQ_FIRST(&reactor->placed[warmth]));
	}
	update_quiet_due(reactor);
}

static void
warm_if_sent_to(struct reactor *reactor)
{
	struct placed *placed, *next;

	/* First: a message sent after the look at its thread asks for another look. */
	atomic_store(&reactor->look, false);
	for (enum warmth warmth = WARMTH_COLD; warmth < WARMTHS; warmth++) {
		for (placed = TAILQ_FIRST(&reactor->placed[warmth]); placed != NULL;
		     placed = next) {
			next = TAILQ_NEXT(placed, link);
			if (thread_has_messages(thread_from_ctx(placed)))
				quiet_warm(reactor, placed);
		}
	}
}

/* Those whose timers are due; and finds out anew when the first one of the others is. */
static void
warm_if_timer_due(struct reactor *reactor)
{
	struct placed *placed, *next;

	if (reactor->armed_due > reactor->now)
		return;
	reactor->armed_due = UINT64_MAX;
	for (placed = TAILQ_FIRST(&reactor->placed[WARMTH_ARMED]); placed != NULL; placed = next) {
		uint64_t due = thread_next_due(thread_from_ctx(placed));

		next = TAILQ_NEXT(placed, link);
		if (due <= reactor->now)
			quiet_warm(reactor, placed);
		else
			reactor->armed_due = min_ticks(reactor->armed_due, due);
	}
}

/*
 * After a sleep until due. A reactor that nobody ran for seconds looks as if it hung: guests and
 * front-ends wait, and give up. This says that it is not ours to mend.
 */
static void
report_late(const struct reactor *reactor, uint64_t due)
{
	if (reactor->now > due && reactor->now - due >= ticks_of(LATE_US))
		log_warn("reactor %u: woke %lu ms too late: its CPU was not given to it, and stood "
			 "still or served others",
			 reactor->core, env_ticks_to_us(reactor->now - due) / 1000);
}

/* Waits for fds until `due` (0: does not wait) and warms the threads that they belong to. */
static void
warm_if_fd_ready(struct reactor *reactor, uint64_t due)
{
	struct epoll_event events[FD_BATCH];
	uint64_t now = env_ticks();
	uint64_t ticks = due > now ? due - now : 0;
	uint64_t hz = env_ticks_hz();
	struct timespec timeout = {
		.tv_sec = (time_t)(ticks / hz),
		.tv_nsec = (long)((unsigned __int128)(ticks % hz) * 1000000000u / hz),
	};
	int count = epoll_pwait2(reactor->epoll_fd, events, FD_BATCH,
				 due == UINT64_MAX ? NULL : &timeout, NULL);

	reactor_account(reactor, false);
	if (ticks > 0)
		report_late(reactor, due);
	for (int i = 0; i < count; i++) {
		struct placed *placed = events[i].data.ptr; /* NULL: event_fd */

		if (placed != NULL && placed->warmth == WARMTH_ARMED)
			quiet_warm(reactor, placed);
	}
	/* More than fit: the others at once. */
	reactor->fd_due = reactor->now + (count < FD_BATCH ? ticks_of(FD_US) : 0);
}

/* ---- becoming quiet ---- */

/*
 * `quiet` is stored, sequentially consistent, before thread_arm() looks at the messages: a sender
 * pushes first and looks at it afterwards, so either the message is found here, or the sender sees
 * that the thread is quiet and sets reactor->look.
 */
static bool
arm(struct reactor *reactor, struct placed *placed)
{
	struct thread *thread = thread_from_ctx(placed);

	atomic_store(&placed->quiet, true);
	if (placed->blind || !thread_arm(thread)) {
		quiet_warm(reactor, placed);
		return false;
	}
	set_warmth(reactor, placed, WARMTH_ARMED);
	reactor->armed_due = min_ticks(reactor->armed_due, thread_next_due(thread));
	return true;
}

/* A message that a sender pushes just now may have to wait for the thread's turn. */
static void
make_cold(struct reactor *reactor, struct placed *placed)
{
	atomic_store(&placed->quiet, true);
	set_warmth(reactor, placed, WARMTH_COLD);
}

void
quiet_cool(struct reactor *reactor, struct placed *placed)
{
	if (atomic_load_explicit(&reactor->mode, memory_order_relaxed) == REACTOR_POLL)
		make_cold(reactor, placed);
	else
		arm(reactor, placed);
	update_quiet_due(reactor);
}

/* Arms until one cannot be; the reactor then goes on, and those that are armed stay so. */
bool
quiet_arm_all(struct reactor *reactor)
{
	bool armed = true;

	for (enum warmth warmth = WARMTH_HOT; warmth < WARMTH_ARMED && armed; warmth++) {
		while (armed && !TAILQ_EMPTY(&reactor->placed[warmth]))
			armed = arm(reactor, TAILQ_FIRST(&reactor->placed[warmth]));
	}
	update_quiet_due(reactor);
	return armed;
}

/* ---- what the loop calls ---- */

void
quiet_sleep(struct reactor *reactor)
{
	/* If the first timer is not known, finds it out, or the sleep would end at once. */
	warm_if_timer_due(reactor);
	warm_if_fd_ready(reactor,
			 TAILQ_EMPTY(&reactor->placed[WARMTH_HOT]) ? reactor->armed_due : 0);
	warm_if_timer_due(reactor);
	update_quiet_due(reactor);
}

/* Those whose turn it is, at most COLD_BATCH. */
static bool
poll_some_cold(struct reactor *reactor)
{
	bool busy = false;

	for (int turn = 0; turn < COLD_BATCH && reactor->cold_due <= reactor->now; turn++) {
		struct placed *placed = TAILQ_FIRST(&reactor->placed[WARMTH_COLD]);
		uint64_t begin = reactor->now;

		if (placed == NULL)
			break;
		set_warmth(reactor, placed, WARMTH_COLD); /* to the end of the queue */
		busy |= reactor_poll_thread(reactor, placed);
		reactor->cold_due +=
			min_ticks((reactor->now - begin) * COLD_SHARE, ticks_of(COLD_MAX_US));
	}
	/* Turns that were missed are not made up for. */
	if (reactor->cold_due < reactor->now)
		reactor->cold_due = reactor->now;
	return busy;
}

bool
quiet_look(struct reactor *reactor)
{
	bool busy = false;

	if (atomic_load_explicit(&reactor->look, memory_order_relaxed))
		warm_if_sent_to(reactor);
	if (atomic_load_explicit(&reactor->mode, memory_order_relaxed) == REACTOR_POLL &&
	    !TAILQ_EMPTY(&reactor->placed[WARMTH_ARMED]))
		quiet_warm_all(reactor);
	if (!TAILQ_EMPTY(&reactor->placed[WARMTH_ARMED]) && reactor->fd_due <= reactor->now) {
		warm_if_fd_ready(reactor, 0);
		warm_if_timer_due(reactor);
	}
	if (!TAILQ_EMPTY(&reactor->placed[WARMTH_HOT]))
		busy = poll_some_cold(reactor);
	else /* every iteration polls all of them */
		reactor->cold_due = reactor->now + ticks_of(COLD_MAX_US);
	update_quiet_due(reactor);
	return busy;
}
