/* SPDX-License-Identifier: BSD-3-Clause */
/* Which thread is on which reactor. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>

#include "env.h"
#include "internal.h"
#include "log.h"

/*
 * Threads that exist, and whether there may be more. Sequentially consistent: see place() and
 * reactor.c, everyone_left().
 */
static _Atomic uint32_t thread_count;
static _Atomic bool closed;

uint32_t
placement_thread_count(void)
{
	return atomic_load(&thread_count);
}

void
placement_close(bool close)
{
	atomic_store(&closed, close);
}

/* An event, on the reactor that the thread comes to. */
static void
arrive(void *arg1, void *arg2)
{
	struct reactor *reactor = arg1;
	struct placed *placed = arg2;
	struct thread *thread = thread_from_ctx(placed);
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = placed};

	placed->last_busy = reactor->now;
	TAILQ_INSERT_TAIL(&reactor->placed[WARMTH_HOT], placed, link);
	placed->blind =
		epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, thread_wait_fd(thread), &event) < 0;
	if (placed->blind) {
		log_warn("reactor %u: thread %s: waiting for its fds: %s; the reactor will not "
			 "sleep",
			 reactor->core, thread_name(thread), strerror(errno));
		reactor->blind_threads++;
	}
}

static void
leave(struct reactor *reactor, struct placed *placed)
{
	TAILQ_REMOVE(&reactor->placed[placed->warmth], placed, link);
	if (placed->blind)
		reactor->blind_threads--;
	else
		epoll_ctl(reactor->epoll_fd, EPOLL_CTL_DEL, thread_wait_fd(thread_from_ctx(placed)),
			  NULL);
	atomic_fetch_sub_explicit(&reactor->threads, 1, memory_order_relaxed);
}

/*
 * The store is sequentially consistent for the sake of those who wake the thread: a sender pushes
 * its message and then looks where the thread is. If it sees the old reactor, its push came before
 * this store, and the new reactor, which looks at the thread's messages after this store and before
 * it sleeps, finds the message.
 */
static void
send_to(struct reactor *reactor, struct placed *placed)
{
	atomic_fetch_add_explicit(&reactor->threads, 1, memory_order_relaxed);
	atomic_store(&placed->reactor, reactor);
	placed->arrival.embedded = true;
	reactor_send(reactor, &placed->arrival, arrive, reactor, placed);
}

static bool
is_allowed(const struct cpumask *cpumask, uint32_t core)
{
	return cpumask_is_empty(cpumask) || cpumask_test(cpumask, core);
}

/* Among the reactors that the thread may be on the one with the fewest threads. */
static struct reactor *
choose(const struct cpumask *cpumask)
{
	struct reactor *best = NULL;
	uint32_t best_threads = UINT32_MAX;

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		struct reactor *reactor = reactor_of_core(core);
		uint32_t threads;

		if (reactor == NULL || !is_allowed(cpumask, core))
			continue;
		threads = atomic_load_explicit(&reactor->threads, memory_order_relaxed);
		if (threads < best_threads) {
			best = reactor;
			best_threads = threads;
		}
	}
	return best;
}

static int
place(struct thread *thread)
{
	struct reactor *reactor = choose(thread_cpumask(thread));

	if (reactor == NULL)
		return -EINVAL;
	/*
	 * Count first, look afterwards; the reactors close first and count afterwards: one of the
	 * two sees the other.
	 */
	atomic_fetch_add(&thread_count, 1);
	if (atomic_load(&closed)) {
		atomic_fetch_sub(&thread_count, 1);
		return -ECANCELED;
	}
	send_to(reactor, thread_ctx(thread));
	return 0;
}

static void
wake(struct thread *thread)
{
	struct placed *placed = thread_ctx(thread);
	struct reactor *reactor = atomic_load(&placed->reactor);

	/* NULL: it is being placed, and will be polled when it arrives. */
	if (reactor == NULL)
		return;
	if (atomic_load(&placed->quiet))
		atomic_store(&reactor->look, true);
	reactor_wake(reactor);
}

const struct thread_lib_ops placement_ops = {
	.schedule = place,
	.wake = wake,
	.ctx_size = sizeof(struct placed),
};

void
placement_after_poll(struct reactor *reactor, struct placed *placed)
{
	struct thread *thread = thread_from_ctx(placed);
	struct reactor *target = placed->move_to;

	if (thread_is_exiting(thread) && thread_is_exited(thread)) {
		leave(reactor, placed);
		thread_destroy(thread);
		atomic_fetch_sub(&thread_count, 1);
		return;
	}
	if (target != NULL) {
		placed->move_to = NULL;
		/*
		 * It arrives hot: its timers are among those that this reactor keeps in mind, and
		 * the other may look at its quiet threads, for a message, before it is one of them.
		 */
		if (placed->warmth != WARMTH_HOT)
			quiet_warm(reactor, placed);
		leave(reactor, placed);
		send_to(target, placed);
	}
}

uint32_t
thread_core(struct thread *thread)
{
	struct placed *placed = thread_ctx(thread);
	struct reactor *reactor = atomic_load_explicit(&placed->reactor, memory_order_relaxed);

	return reactor != NULL ? reactor->core : ENV_NO_CORE;
}

int
thread_move(uint32_t core)
{
	struct thread *thread = thread_current();
	struct reactor *target = reactor_of_core(core);
	struct placed *placed;

	if (thread == NULL || target == NULL || !is_allowed(thread_cpumask(thread), core))
		return -EINVAL;
	placed = thread_ctx(thread);
	placed->move_to = core == thread_core(thread) ? NULL : target;
	return 0;
}

int
thread_set_cpumask(const struct cpumask *cpumask)
{
	static const struct cpumask anywhere;
	struct thread *thread = thread_current();
	struct reactor *target;
	struct placed *placed;

	if (cpumask == NULL)
		cpumask = &anywhere;
	target = choose(cpumask);
	if (thread == NULL || target == NULL)
		return -EINVAL;
	thread_store_cpumask(thread, cpumask);
	placed = thread_ctx(thread);
	if (placed->move_to != NULL && is_allowed(cpumask, placed->move_to->core))
		return 0;
	placed->move_to = is_allowed(cpumask, thread_core(thread)) ? NULL : target;
	return 0;
}
