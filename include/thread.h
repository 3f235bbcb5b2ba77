/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * thread: lightweight threads, messages, pollers, io_devices and io_channels.
 *
 * A thread belongs to no core by itself: whoever calls thread_poll() on it runs it, one caller at a
 * time. lib/event does that from reactors; unit tests do it by hand. "On its thread" below means:
 * in a function that thread_poll() of that thread called (or, in tests, between
 * thread_set_current() calls). Coroutines and the work pool are in coroutine.h and work.h.
 */
#ifndef VHOSTD_THREAD_H
#define VHOSTD_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpumask.h"
#include "mpsc_queue.h"

struct thread;
struct poller;
struct io_channel;

typedef void (*thread_fn)(void *ctx);

/* ---- library ---- */

struct thread_lib_ops {
	/*
	 * Places a new thread, i.e. sees to it that it will be polled. Runs in the caller of
	 * thread_create(). 0, or a negative errno, which fails thread_create(). May be NULL: the
	 * caller polls by hand.
	 */
	int (*schedule)(struct thread *thread);
	/*
	 * A message was sent from elsewhere: wakes whoever polls the thread, if asleep. Any OS
	 * thread, also under locks of this room: must not block or call back into it. May be NULL.
	 */
	void (*wake)(struct thread *thread);
	size_t ctx_size; /* bytes in each thread for the one who polls it, thread_ctx(), zeroed */
};

/* Call once before anything else here. ops is copied; may be NULL: none of them. */
void thread_lib_init(const struct thread_lib_ops *ops);
/* Every thread must have been destroyed and every io_device unregistered. */
void thread_lib_fini(void);

/* ---- threads ---- */

/*
 * Any OS thread. name is copied (at most 63 bytes are kept, and of UTF-8 whole characters) and need
 * not be unique; cpumask NULL or empty: any core. Returns NULL with errno: ENOMEM, EMFILE (it needs
 * an fd), or what schedule() returned.
 */
struct thread *thread_create(const char *name, const struct cpumask *cpumask);

/* Unique, never used again, from 1. */
uint64_t thread_id(const struct thread *thread);
const char *thread_name(const struct thread *thread);
/* On its thread, and in thread_look_at_each(). */
const struct cpumask *thread_cpumask(const struct thread *thread);
/* On its thread, for whoever places threads: what thread_cpumask() is from now on. NULL: empty. */
void thread_store_cpumask(struct thread *thread, const struct cpumask *cpumask);
/* For whoever polls it. */
void *thread_ctx(struct thread *thread);
struct thread *thread_from_ctx(void *ctx);

/* The thread that the calling OS thread runs now, or NULL. */
struct thread *thread_current(void);
/* For tests and start-up code that have no reactor: pretend to be on thread (NULL: on none). */
void thread_set_current(struct thread *thread);

/*
 * One iteration: up to THREAD_MSG_BATCH messages, then every active poller once, then the timed
 * pollers that are due. `now` is the current env_ticks(). Returns whether anything was done
 * (POLLER_BUSY or POLLER_IDLE). Only the one who polls the thread may call it.
 */
#define THREAD_MSG_BATCH 32
int thread_poll(struct thread *thread, uint64_t now);
/*
 * The `now` of the running or last thread_poll(): time for the data path at no cost. On its thread.
 */
uint64_t thread_now(const struct thread *thread);
/* Where that is, for who needs it at each request: as long as the thread; to be read on it. */
const uint64_t *thread_clock(const struct thread *thread);
/*
 * Adds ticks to the thread's busy or idle time (rc: what thread_poll() returned). For the one who
 * polls.
 */
void thread_account(struct thread *thread, int rc, uint64_t ticks);
/* Any OS thread: a moment's view. */
uint64_t thread_busy_ticks(const struct thread *thread);
uint64_t thread_idle_ticks(const struct thread *thread);

struct thread_stats {
	uint64_t busy_ticks;
	uint64_t idle_ticks;
	uint64_t messages; /* run so far */
	uint32_t active_pollers;
	uint32_t timed_pollers;
	uint32_t channels;
};
/*
 * On its thread, or when it is not polled. Time in which it was not polled at all is not idle time.
 */
void thread_get_stats(const struct thread *thread, struct thread_stats *stats);

/*
 * On its thread. Marks it as exiting: no new pollers, channels or coroutines. It goes on being
 * polled until its messages, pollers, channels and coroutines are gone; then thread_is_exited() is
 * true and the one who polls it calls thread_destroy(). Whoever owns what is left must give it
 * back: an owner who forgets is named in the log once, after 5 s.
 */
void thread_exit(struct thread *thread);
bool thread_is_exiting(const struct thread *thread);
bool thread_is_exited(struct thread *thread);
/* Frees an exited thread. The one who polls it, never from inside thread_poll(). */
void thread_destroy(struct thread *thread);

/* ---- messages ---- */

/* A message that belongs to an operation is embedded in it, so that sending cannot fail. */
struct thread_msg {
	struct mpsc_node node;
	thread_fn fn;
	void *ctx;
};

/*
 * Runs fn(ctx) on thread, after all messages that this sender sent before. Any OS thread. msg must
 * stay alive and unused until fn begins; fn may free or send it again.
 */
void thread_send(struct thread *thread, struct thread_msg *msg, thread_fn fn, void *ctx);

/*
 * The same to the thread with that id. 0, or -ENODEV (there is none, or it is exiting): then msg is
 * the caller's as before.
 */
int thread_send_by_id(uint64_t id, struct thread_msg *msg, thread_fn fn, void *ctx);

/* thread_send() for stray messages: takes one from a cache (or the heap). 0 or -ENOMEM. */
int thread_send_msg(struct thread *thread, thread_fn fn, void *ctx);

/*
 * Calls fn for every thread that exists and is not exiting, in the order of their ids, here and
 * now, under the lock of the register of threads: fn may look at what any OS thread may see, and at
 * thread_cpumask(), and must not call back into this room. Any OS thread.
 */
void thread_look_at_each(void (*fn)(void *ctx, struct thread *thread), void *ctx);

/*
 * Runs fn(ctx) once on every thread that exists now and is not exiting (the calling one too), one
 * after the other, then done(ctx), which may be NULL, on the calling thread. On a thread. 0 or
 * -ENOMEM.
 */
int for_each_thread(thread_fn fn, void *ctx, thread_fn done);

/* ---- pollers ---- */

enum poller_rc {
	POLLER_IDLE = 0,
	POLLER_BUSY = 1,
};
typedef int (*poller_fn)(void *arg);

/*
 * On the thread that shall run it. period_us 0: active, runs in every iteration; else at most once
 * a period, for the first time one period from now. name: a string that lives as long as the
 * poller. Returns NULL with errno: ENOMEM, or ECANCELED (thread exiting).
 */
struct poller *poller_register(poller_fn fn, void *arg, uint64_t period_us, const char *name);
/*
 * On its thread, also from inside itself or another poller; sets *poller to NULL. fn will not run
 * again; if it is armed, disarm is called. Nothing happens when *poller is NULL.
 */
void poller_unregister(struct poller **poller);
/*
 * When a timed poller runs next: at that env_ticks(), but not before the next iteration, and from
 * then on once a period again; UINT64_MAX: not before this is called again. On its thread, also
 * from inside itself. Cheap enough for the data path.
 */
void poller_set_due(struct poller *poller, uint64_t ticks);

/*
 * What lets a reactor sleep although there is an active poller. `arm` is called before sleeping: it
 * asks its source for a wake-up (enables kicks, …) and then looks once more: true means armed and
 * nothing to do; false means there is work (and nothing is armed). `disarm` (may be NULL) is called
 * before the first poll after each successful arm. An active poller without these keeps its reactor
 * awake; a timed poller needs none, and is never armed. On its thread; ops lives as long as the
 * poller.
 */
struct poller_sleep_ops {
	bool (*arm)(void *arg);
	void (*disarm)(void *arg);
};
void poller_set_sleep_ops(struct poller *poller, const struct poller_sleep_ops *ops);

/*
 * Names a file descriptor whose EPOLLIN edge wakes the thread (edge-triggered: nobody needs to read
 * it, and a poller that finds nothing loses nothing). fd stays the caller's, and must be removed
 * before it is closed. The same fd twice on a thread is -EEXIST. Returns 0 or a negative errno
 * (-EPERM: a file that cannot be waited for). On its thread. unregistering removes what is left.
 */
int poller_add_fd(struct poller *poller, int fd);
void poller_remove_fd(struct poller *poller, int fd);

struct poller_info {
	const char *name;
	uint64_t period_us;
	uint64_t runs;
	uint64_t busy_runs;
	bool can_sleep; /* active: has sleep ops */
};
/* On its thread: fn for each poller; it must not register or unregister. */
void thread_for_each_poller(struct thread *thread,
			    void (*fn)(void *ctx, const struct poller_info *info), void *ctx);

/* ---- sleeping: for whoever polls the thread ---- */

/*
 * An fd that is readable when an fd named by a poller of this thread is ready. Level-triggered;
 * constant for its life.
 */
int thread_wait_fd(const struct thread *thread);
/* Whether a message waits that thread_poll() would run. For the one who polls it. */
bool thread_has_messages(const struct thread *thread);
/*
 * Tries to prepare for sleep: false when a message waits, a poller has work or cannot be armed, or
 * an exiting thread has nothing left (then everything is as before). After true, call
 * thread_disarm() before the next thread_poll(). From before this call on ops->wake must find out
 * that the caller is about to sleep (a sequentially consistent store here, a load there): a message
 * is then either seen here or wakes.
 * Edges of fds named by pollers that came before this call are taken away, so that the wait fd is
 * quiet until there is a new one; after a wake-up it stays readable until the next thread_arm().
 */
bool thread_arm(struct thread *thread);
void thread_disarm(struct thread *thread);
/* env_ticks() at which the next timed poller is due, or UINT64_MAX. */
uint64_t thread_next_due(const struct thread *thread);

/* ---- io_devices and io_channels ---- */

/*
 * dev is any unique address. A thread that uses dev has one channel to it: ctx_size zeroed bytes
 * made by create (0 or a negative errno) on first use and ended by destroy after the last put, both
 * on that thread; neither may give way to other coroutines. name is copied (63 bytes). Any OS
 * thread. 0, -EEXIST or -ENOMEM.
 */
int io_device_register(void *dev, int (*create)(void *dev, void *channel_ctx),
		       void (*destroy)(void *dev, void *channel_ctx), size_t ctx_size,
		       const char *name);
/*
 * On a thread. No new channels from now on; done(dev) runs on the calling thread after the last
 * channel is gone (by message, never inside this call) and dev can be registered again. done may be
 * NULL. dev must be registered.
 */
void io_device_unregister(void *dev, void (*done)(void *dev));

/*
 * This thread's channel to dev, counted. On a thread. NULL with errno: ENODEV (dev is not
 * registered or is going away), ENOMEM, ECANCELED (thread exiting), or what create returned.
 */
struct io_channel *io_channel_get(void *dev);
/* On the channel's thread. destroy is called from a message, never from inside this call. */
void io_channel_put(struct io_channel *channel);
void *io_channel_ctx(struct io_channel *channel);
struct thread *io_channel_thread(const struct io_channel *channel);

struct io_channel_iter;
typedef void (*io_channel_visit_fn)(struct io_channel_iter *iter);
/*
 * Visits each thread's channel to dev, on that thread, one after the other: visit must call (now or
 * later, on that thread) for_each_channel_continue(iter, status). A negative status ends the walk.
 * Then done(ctx, status), which may be NULL, runs on the calling thread. The channel visited is
 * held until the continue. Channels made during the walk may be missed. On a thread. 0, -ENOMEM, or
 * -ENODEV (not registered).
 */
int for_each_channel(void *dev, io_channel_visit_fn visit, void *ctx,
		     void (*done)(void *ctx, int status));
void for_each_channel_continue(struct io_channel_iter *iter, int status);
struct io_channel *io_channel_iter_channel(const struct io_channel_iter *iter);
void *io_channel_iter_ctx(const struct io_channel_iter *iter);

struct io_channel_info {
	const char *name; /* of the device */
	uint32_t refs;
};
/* On its thread. */
void thread_for_each_channel(struct thread *thread,
			     void (*fn)(void *ctx, const struct io_channel_info *info), void *ctx);

#endif
