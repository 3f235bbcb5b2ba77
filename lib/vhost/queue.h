/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * queue: one virtqueue of a session on one of its controller's threads: the hot path. Private to
 * lib/vhost.
 */
#ifndef VHOSTD_VHOST_QUEUE_H
#define VHOSTD_VHOST_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "coalescing.h"
#include "inflight.h"
#include "memory.h"
#include "thread.h"
#include "virtq.h"

#define VHOST_QUEUE_BATCH 32

struct vhost_session;
struct vhost_thread;
struct vhost_device_ops;

enum vhost_queue_state {
	VHOST_QUEUE_STOPPED,
	VHOST_QUEUE_FAILED, /* could not be started, and was not stopped yet */
	VHOST_QUEUE_RUNNING,
	VHOST_QUEUE_STOPPING, /* takes nothing new; its requests finish */
};

/* What a queue counts, over all its starts. */
enum vhost_counter {
	VHOST_REQUESTS,         /* given back to the driver */
	VHOST_BYTES_READ,       /* written for the driver, status bytes included */
	VHOST_BYTES_WRITTEN,    /* of the driver's, headers included */
	VHOST_ERRORS,           /* requests that the device answered with an error */
	VHOST_SLEEPS,           /* times that the queue began to wait for a kick */
	VHOST_KICKS,            /* that ended such a wait */
	VHOST_CALLS,            /* sent */
	VHOST_CALLS_SUPPRESSED, /* the driver did not want to be told of what was published */
	VHOST_CALLS_COALESCED,  /* went into a later one */
	VHOST_BREAKS,           /* the driver or front-end broke a rule */
	VHOST_COUNTERS,
};

/*
 * What the control path prepares and the queue's thread adopts. The fds are -1 where there is none.
 */
struct vhost_queue_setup {
	struct virtq *vq;
	const struct vhost_mem *memory;
	const struct vhost_inflight *inflight; /* NULL: no tracking */
	int kick_fd;                           /* eventfds; they stay the session's */
	int call_fd;
	int err_fd;
};

/* Each on cache lines of its own: neighbours are on other threads. */
struct vhost_queue {
	/* set once, in the order in which a request needs them */
	_Alignas(64) const struct vhost_device_ops *ops;
	void *device; /* what ops work on */

	/* its thread, from start to stop; vhost-events while the queue is stopped */
	void *channel; /* from ops->channel_get(); NULL: the device is gone */
	struct vhost_queue_setup setup;
	enum vhost_queue_state state;
	bool broken;           /* reported */
	bool call_pending;     /* the driver wants to be told of what was published */
	bool traced;           /* its driver was not told of all that the trace has of it */
	uint64_t published;    /* of counters[VHOST_REQUESTS] */
	const uint64_t *clock; /* thread_clock() */
	int64_t slow_ticks;    /* a request that took so long is for the trace */
	/*
	 * Since the start; the main thread's when the queue has stopped, see
	 * vhost_session_queue_stopped().
	 */
	uint64_t counters[VHOST_COUNTERS];
	struct vhost_coalescing coalescing;
	struct poller *poller;
	struct poller *call_timer;    /* NULL, or for a call that is put off while nobody polls */
	LIST_ENTRY(vhost_queue) link; /* in its thread's */
	int start_rc;                 /* how the last start ended */

	/* set once */
	struct vhost_session *session;
	uint32_t index;

	/*
	 * vhost-events thread only, which sets it while the queue is stopped; any thread until the
	 * next stop
	 */
	struct vhost_thread *home;

	/* to its thread, and from there */
	struct thread_msg start_msg, stop_msg, abandon_msg, stopped_msg;
};

/* ---- messages to the queue's thread from the main thread; arg is the queue ---- */

/*
 * Adopts setup and polls. When it cannot, start_rc is the reason, there is a line in the log, and
 * the error eventfd is signalled.
 */
void vhost_queue_start(void *arg);
/*
 * Takes nothing new from now on, and has what is held back go on (device.h, release_held). When the
 * requests are done, vhost_session_queue_stopped() runs on
 * the main thread: once for each start, whether that succeeded or not.
 */
void vhost_queue_stop(void *arg);
/*
 * The same without touching the ring or the in-flight region from now on: the front-end is gone,
 * and may hand them to somebody else as they are now. See vhost_session_release().
 */
void vhost_queue_abandon(void *arg);

/* ---- on the queue's thread ---- */

/* Swaps the eventfds and tells the driver once, since a completion may have gone to the old one. */
void vhost_queue_set_fds(struct vhost_queue *queue, int call_fd, int err_fd);

/*
 * Takes what the driver has put into the ring by now, at once: at most as many chains as it has
 * room for, however fast the driver is. Of a queue that stops, or is broken, nothing.
 */
void vhost_queue_take(struct vhost_queue *queue);

/* Shows the driver what was given back so far, and calls it as always. */
void vhost_queue_publish(struct vhost_queue *queue);

/* The controller's parameters have changed. */
void vhost_queue_adopt_parameters(struct vhost_queue *queue);

/*
 * Whether a request that was found at `seen` (ticks), and whose device is done, is one for
 * vhost_trace_add(). Never one of this poll, unless all are.
 */
static inline bool
vhost_queue_is_slow(const struct vhost_queue *queue, uint64_t seen)
{
	return (int64_t)(*queue->clock - seen) >= queue->slow_ticks;
}

/*
 * Gives a chain back. The driver sees it at the end of this or the next poll, with all others.
 */
static inline void
vhost_queue_complete(struct vhost_queue *queue, struct virtq_slot *slot, uint32_t written)
{
	queue->counters[VHOST_REQUESTS]++;
	queue->counters[VHOST_BYTES_READ] += written;
	queue->counters[VHOST_BYTES_WRITTEN] += slot->readable_bytes;
	virtq_push(queue->setup.vq, slot, written);
}

#endif
