/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * queue: one virtqueue of a session on its controller's thread: the hot path. Private to lib/vhost.
 */
#ifndef VHOSTD_VHOST_QUEUE_H
#define VHOSTD_VHOST_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "coalescing.h"
#include "inflight.h"
#include "memory.h"
#include "thread.h"
#include "virtq.h"

#define VHOST_QUEUE_BATCH 32

struct vhost_session;
struct vhost_device_ops;

enum vhost_queue_state {
	VHOST_QUEUE_STOPPED, /* the control path may touch everything */
	VHOST_QUEUE_WAITING, /* started, but requests of the session before are still running */
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
	VHOST_CALLS,            /* sent */
	VHOST_CALLS_SUPPRESSED, /* the driver did not want to be told of what was published */
	VHOST_CALLS_COALESCED,  /* went into a later one */
	VHOST_BREAKS,           /* the driver or front-end broke a rule */
	VHOST_COUNTERS,
};

/* What the control path prepares and the controller's thread adopts. The fds are -1 where there is none. */
struct vhost_queue_setup {
	struct virtq *vq;
	const struct vhost_mem *memory;
	const struct vhost_inflight *inflight; /* NULL: no tracking */
	int kick_fd;                           /* eventfds; they stay the session's */
	int call_fd;
	int err_fd;
};

struct vhost_queue {
	/* set once */
	struct vhost_session *session;
	const struct vhost_device_ops *ops;
	void *device; /* what ops work on */
	uint32_t index;

	/* controller's thread, from start to stop; the control path while the queue is stopped */
	struct vhost_queue_setup setup;
	struct poller *poller;
	enum vhost_queue_state state;
	bool broken;       /* reported */
	bool call_pending; /* the driver wants to be told of what was published */
	struct vhost_coalescing coalescing;
	uint64_t published; /* of counters[VHOST_REQUESTS] */
	/* Also the controller's thread while the queue is stopped; never set back. */
	uint64_t counters[VHOST_COUNTERS];
};

/* ---- all on the controller's thread ---- */

/* Adopts setup and polls. 0, or a negative errno when the kick fd cannot be waited for. */
int vhost_queue_start(struct vhost_queue *queue, const struct vhost_queue_setup *setup);
/* Adopts it without polling yet; vhost_queue_start() with queue->setup comes later. */
void vhost_queue_wait(struct vhost_queue *queue, const struct vhost_queue_setup *setup);
/*
 * Takes nothing new from now on. vhost_session_queue_stopped() is called when the requests are done,
 * at once if there are none; not for a queue that is stopped already.
 */
void vhost_queue_stop(struct vhost_queue *queue);
/*
 * The same without touching the ring or the in-flight region from now on: the front-end is gone, and may hand them to
 * somebody else as they are now. See vhost_session_release().
 */
void vhost_queue_abandon(struct vhost_queue *queue);
/* Swaps the eventfds and tells the driver once, since a completion may have gone to the old one. */
void vhost_queue_set_fds(struct vhost_queue *queue, int call_fd, int err_fd);

/* The controller's parameters for coalescing have changed. */
void vhost_queue_adopt_coalescing(struct vhost_queue *queue);

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
