/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session: what a front-end has set up, and the queues that run from it. Private to lib/vhost.
 *
 * The vhost-events thread keeps the set-up, prepares virtqs and memory maps, and chooses a thread
 * of the controller for each queue. The main thread knows which queues are busy: it sends them to
 * their threads and stops them there, by messages, and says when a stopped queue has no request
 * left. Each wait for that has a deadline.
 */
#ifndef VHOSTD_VHOST_SESSION_H
#define VHOSTD_VHOST_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "inflight.h"
#include "memory.h"
#include "queue.h"
#include "queue_set.h"
#include "thread.h"
#include "threads.h"
#include "vhost.h"
#include "work.h"

/*
 * Ring entries. Drivers have 128 to 256, QEMU's limit is 1024; each entry costs us a slot of
 * half a KiB.
 */
#define VHOST_MAX_RING_SIZE 1024

struct vhost_controller;
struct vhost_drain;

/* User addresses, see vhost_mem_from_user(). */
struct vhost_ring_addr {
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
};

/* What the front-end has said about a queue. */
struct vhost_vring {
	uint32_t size; /* 0: not known yet */
	uint32_t base; /* of a queue that does not run: where to go on, see virtq_base() */
	bool has_base; /* else it is that of a new queue */
	bool has_addr;
	bool announced; /* its base, since GET_VRING_BASE */
	bool kicked;    /* from SET_VRING_KICK to GET_VRING_BASE */
	bool enabled;
	bool running; /* the controller's threads have it */
	/* In-flight tracking. */
	bool drained;    /* it stopped, and left nothing to do again in the region */
	bool base_holds; /* ... and the front-end knows where: base is the truth, no region */
	bool bad_region; /* what the region has for it makes no sense */
	struct vhost_ring_addr addr;
	int kick_fd; /* eventfds of ours, or -1 */
	int call_fd;
	int err_fd;
};

struct vhost_session {
	/* set once */
	struct vhost_controller *controller;
	uint32_t id;
	int vid; /* of DPDK, for people */

	/* vhost-events thread only, until the session is released */
	uint64_t features;
	struct vhost_mem *memory;
	struct vhost_inflight *inflight; /* NULL: no tracking; changes only while no queue runs */
	struct vhost_vring vrings[VHOST_MAX_RINGS];
	vhost_queue_set told; /* whose base the answer under way tells */
	bool no_more_threads; /* there was none to be had for its last queue */

	uint32_t threads;                 /* of the controller, when the session was released */
	struct completion *released_done; /* one share is the main thread's */

	/* queue.h says what is whose */
	struct vhost_queue queues[VHOST_MAX_RINGS];

	/* main thread only */
	vhost_queue_set busy;    /* not stopped */
	vhost_queue_set waiting; /* of these: not started yet, for requests of the session before */
	vhost_queue_set stopping;    /* of these: told to stop */
	struct vhost_drain *drains;  /* who waits for queues to stop */
	struct vhost_drain *waiters; /* who waits for older sessions to end */
	bool attached;
	bool ending;   /* the next one's queues wait for it */
	bool released; /* each thread knows that; it goes with the last request */
	struct vhost_sync sync;
	TAILQ_ENTRY(vhost_session) link;
	struct work free_work;

	/* to the main thread */
	struct thread_msg release_msg;
};

/*
 * ---- vhost-events thread ----
 * Each returns 0 or a negative errno. -ETIMEDOUT: requests do not end, or a thread does not
 * answer; the connection is to be closed and the session released, which waits for them without
 * holding up anybody.
 * index is below the controller's queue_count. fds become the session's, whatever is returned.
 */

int vhost_session_create(struct vhost_controller *controller, int vid,
			 struct vhost_session **session);
/*
 * Also on another OS thread after the socket is unregistered. The rings are not touched any more
 * when it returns, unless a thread of the controller hangs for longer than VHOST_ANSWER_US. The
 * session frees itself when its requests are done.
 */
void vhost_session_release(struct vhost_session *session);

int vhost_session_set_features(struct vhost_session *session, uint64_t features);
/*
 * The queues go on in the new memory; the first error of one that cannot is returned. fds stay the
 * caller's. A table that cannot be mapped, here or for the device, changes nothing.
 */
int vhost_session_set_mem_table(struct vhost_session *session,
				const struct vhost_mem_region *regions, const int *fds,
				uint32_t count);
/*
 * Fills in the rest of *layout. Returns the fd of a new region, the caller's, or a negative errno.
 */
int vhost_session_get_inflight(struct vhost_session *session, struct vhost_inflight_layout *layout);
/* -EBUSY while a queue runs. fd stays the caller's. */
int vhost_session_set_inflight(struct vhost_session *session,
			       const struct vhost_inflight_layout *layout, int fd);
int vhost_session_set_vring_num(struct vhost_session *session, uint32_t index, uint32_t size);
int vhost_session_set_vring_base(struct vhost_session *session, uint32_t index, uint32_t base);
int vhost_session_set_vring_addr(struct vhost_session *session, uint32_t index,
				 const struct vhost_ring_addr *addr);
int vhost_session_set_vring_kick(struct vhost_session *session, uint32_t index, int fd);
int vhost_session_set_vring_call(struct vhost_session *session, uint32_t index, int fd);
int vhost_session_set_vring_err(struct vhost_session *session, uint32_t index, int fd);
int vhost_session_set_vring_enable(struct vhost_session *session, uint32_t index, bool enable);
/*
 * Stops the queue; returns where it stands (virtq_base()) in *base when its requests, and those of
 * an older session, are done.
 */
int vhost_session_get_vring_base(struct vhost_session *session, uint32_t index, uint32_t *base);
/* Stops all queues and forgets about them. */
int vhost_session_reset(struct vhost_session *session);
/*
 * The answer to these two is on its way. From now on the front-end knows better than the in-flight
 * region where the queue is, also if this process dies before the queue starts again.
 */
void vhost_session_answered(struct vhost_session *session);

/* ---- main thread ---- */

/* A message from queue.c; arg is the queue. */
void vhost_session_queue_stopped(void *arg);
/* Takes nothing new in any queue. Returns how many have not stopped yet. */
uint32_t vhost_session_stop_all(struct vhost_session *session);
/* No older session has requests any more: starts the queues that had to wait for that. */
void vhost_session_start_waiting(struct vhost_session *session);
/* From vhost_controller_detach(): a worker frees it. */
void vhost_session_free(struct vhost_session *session);

/* Any thread. */
const char *vhost_session_name(const struct vhost_session *session);

#endif
