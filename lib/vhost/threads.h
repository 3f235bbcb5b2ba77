/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * threads: the lightweight threads of a controller. The first one, the main thread, has all control
 * state (which queues are busy, who waits for them, the order of sessions) and serves queues, too;
 * the others only serve queues. They come when a front-end starts more queues than there are
 * threads, at most one for each core that the controller may use, and stay until it is deleted.
 * Private to lib/vhost.
 */
#ifndef VHOSTD_VHOST_THREADS_H
#define VHOSTD_VHOST_THREADS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "errmsg.h"
#include "thread.h"
#include "vhost.h"

struct vhost_controller;
struct vhost_queue;
struct vhost_trace;

struct vhost_thread {
	/* set once */
	struct vhost_controller *controller;
	struct thread *thread;

	/* on the thread only */
	void *channel; /* to the device: its queues get theirs at once; NULL: the device is gone */
	LIST_HEAD(, vhost_queue) queues; /* from start to stop */
	struct vhost_trace *trace;
};

struct vhost_threads {
	/* set once */
	uint32_t max;

	/* threads[0 … count) are set once; count is written by whoever makes a thread */
	_Atomic uint32_t count;
	struct vhost_thread threads[VHOST_MAX_QUEUES];

	/* vhost-events thread; any OS thread after the socket is unregistered */
	uint32_t usable; /* the last thread may not have got a channel */

	/* app thread only */
	uint32_t holders; /* while there is one, the threads do not end */
};

/*
 * App thread, in a coroutine [waits]. Makes the main thread; max: how many there may be one day.
 * 0, or a negative errno: there is no thread, or the device gives no channel.
 */
int vhost_threads_start(struct vhost_controller *controller, uint32_t max, struct errmsg *err);
/*
 * App thread, in a coroutine [waits]. Ends them when nobody calls them any more. No session is
 * left, and none comes.
 */
void vhost_threads_end(struct vhost_controller *controller);

/* The main thread. Any OS thread. */
struct thread *vhost_main_thread(struct vhost_controller *controller);
bool vhost_thread_is_main(const struct vhost_thread *thread);

/*
 * vhost-events thread. One more thread, on a core that has none of them. NULL, with a line in the
 * log, when it cannot be had.
 */
struct vhost_thread *vhost_threads_add(struct vhost_controller *controller);

/* A message that goes from thread to thread. */
struct vhost_sync {
	struct vhost_threads *threads;
	uint32_t at, count;
	void (*visit)(struct vhost_thread *thread); /* may be NULL */
	struct thread *origin;
	thread_fn done;
	void *ctx;
	struct thread_msg msg;
};

/*
 * Main thread. done(ctx) runs here when the first count threads have done what the main thread has
 * sent them so far.
 */
void vhost_threads_sync(struct vhost_threads *threads, uint32_t count, struct vhost_sync *sync,
			thread_fn done, void *ctx);
/*
 * Any of the threads. Runs visit on each of them, one after the other, and then done(ctx) here. The
 * threads do not end meanwhile: a request of some queue is in flight.
 */
void vhost_threads_visit(struct vhost_threads *threads, struct vhost_sync *sync,
			 void (*visit)(struct vhost_thread *thread), thread_fn done, void *ctx);

/*
 * App thread, in a coroutine [waits]. Runs fn on each thread, the main thread first, one after the
 * other; the first error is returned. The controller may be gone afterwards, unless it is held.
 */
int vhost_threads_call(struct vhost_controller *controller,
		       int (*fn)(struct vhost_thread *thread, void *arg), void *arg);

/* App thread: the controller, and its threads, stay meanwhile. For a short time. */
void vhost_threads_hold(struct vhost_controller *controller);
void vhost_threads_let_go(struct vhost_controller *controller);

/* On that thread: gives a channel of it or of one of its queues back, if there is one. */
void vhost_thread_put_channel(struct vhost_thread *thread, void **channel);
/*
 * For vhost_threads_call(), when the device gives no channels any more: gives those of the thread
 * and its queues back; -EAGAIN while a queue has requests.
 */
int vhost_thread_put_channels(struct vhost_thread *thread, void *arg);

#endif
