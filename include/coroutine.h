/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * coroutine: the control path in a synchronous style. Part of the room thread.
 *
 * A coroutine runs on one lightweight thread, on a stack of its own, and gives way only in the
 * calls marked [waits]. Between them nothing else runs on that thread. The data path never uses
 * coroutines. The lightweight thread may be on another OS thread after a [waits] call. So a
 * function that waits keeps no pointer to thread-local data over it; errno is such data, and
 * compilers keep its address: use it in functions that don't wait. A stack has some 250 KiB.
 */
#ifndef VHOSTD_COROUTINE_H
#define VHOSTD_COROUTINE_H

#include <stdbool.h>
#include <stdint.h>

#include "thread.h"

struct coroutine;

#define WAIT_FOREVER UINT64_MAX

/*
 * Starts fn(arg) on thread: at the latest when that thread is polled next (it never runs inside
 * this call). Any OS thread. name: a string that outlives it. 0 or -ENOMEM (no memory for the
 * stack), -ECANCELED (the thread is exiting). A thread does not exit before its coroutines have
 * returned.
 */
int coroutine_start(struct thread *thread, const char *name, void (*fn)(void *arg), void *arg);

/* The running coroutine, or NULL. */
struct coroutine *coroutine_current(void);

/*
 * Asks a coroutine to stop: its present or next [waits] call, and all later ones, return -ECANCELED
 * at once (coroutine_blocking() and thread_call(): when what they run has returned). On its thread;
 * the coroutine must not have returned.
 */
void coroutine_cancel(struct coroutine *coroutine);

/* [waits] 0, or -ECANCELED. In a coroutine. 0 us lets the other work of the thread go first. */
int coroutine_sleep(uint64_t us);

/*
 * [waits] Runs fn(arg) on the work pool (work.h), where it may block, and returns its result here,
 * on the same lightweight thread. In a coroutine. arg is safe on the coroutine's stack: the call
 * returns only after fn did, also when cancelled. -EAGAIN when the pool is not running.
 */
int coroutine_blocking(int (*fn)(void *arg), void *arg);

/*
 * A completion: one side signals a result once, the other waits for it with a deadline. It has two
 * owners, so that a waiter who gave up leaves nothing dangling: the signaller's share ends with
 * completion_signal() and the waiter's with completion_put().
 */
struct completion;
struct completion *completion_create(void); /* NULL: no memory. Any OS thread. */
/* Any OS thread, exactly once. rc is handed to the waiter. */
void completion_signal(struct completion *completion, int rc);
/*
 * [waits] until signalled: the rc signalled; -ETIMEDOUT after timeout_us (WAIT_FOREVER: never);
 * -ECANCELED. May be called again after a timeout. In a coroutine it gives way; on an OS thread
 * that runs no lightweight thread (thread_current() is NULL) it blocks the OS thread. Never
 * elsewhere (asserted). One waiter.
 */
int completion_wait(struct completion *completion, uint64_t timeout_us);
void completion_put(struct completion *completion);
/*
 * Both shares at once: nobody will signal it or wait for it. Any OS thread. NULL: nothing happens.
 */
void completion_drop(struct completion *completion);

/*
 * [waits] Runs fn(arg) on thread and returns its result; in a coroutine or on a plain OS thread, as
 * above. It has no deadline and arg may be on the caller's stack; use a completion where the thread
 * may be slow. fn runs as a message: it cannot wait. The thread may be the caller's own.
 */
int thread_call(struct thread *thread, int (*fn)(void *arg), void *arg);
/* The same on the thread with that id; -ENODEV when there is none, or it is exiting. */
int thread_call_by_id(uint64_t id, int (*fn)(void *arg), void *arg);

/*
 * [waits] The same with a deadline: -ETIMEDOUT after timeout_us (then fn runs later, or is running,
 * with nobody to hear of it), -ENOMEM (it never runs). fn gets a copy of the size bytes at arg;
 * what these point to must live until it has run.
 */
int thread_call_within(struct thread *thread, uint64_t timeout_us, int (*fn)(void *arg),
		       const void *arg, size_t size);

/*
 * A lock between coroutines of one thread, first come first served. No OS thread ever blocks on it.
 */
struct coroutine_mutex {
	struct coroutine *owner;
	struct coroutine *first_waiter;
	struct coroutine *last_waiter;
};
/* [waits] not ended by cancelling. */
void coroutine_mutex_lock(struct coroutine_mutex *mutex);
void coroutine_mutex_unlock(struct coroutine_mutex *mutex);

#endif
