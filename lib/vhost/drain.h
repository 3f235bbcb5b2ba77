/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * drain: vhost-events waits until requests of a session, or of those before it, have ended. Private
 * to lib/vhost.
 */
#ifndef VHOSTD_VHOST_DRAIN_H
#define VHOSTD_VHOST_DRAIN_H

#include "queue_set.h"
#include "thread.h"

struct vhost_session;
struct completion;

/* The main thread's, from begin on: in one of the session's lists. */
struct vhost_drain {
	struct vhost_session *session;
	vhost_queue_set mask; /* queues still running; none: it is for older sessions */
	struct completion *completion;
	struct thread_msg msg;
	struct vhost_drain *next;
};

/*
 * On the vhost-events thread. Sends the main thread a drain, with which it calls begin, and waits
 * until it ends that. 0, -ENOMEM, or -ETIMEDOUT after VHOST_DRAIN_US: then it is in the log, and
 * the drain is to be ended nevertheless.
 */
int vhost_drain_wait(struct vhost_session *session, vhost_queue_set mask, thread_fn begin);

/* On the main thread. Takes the first one out of the list, and frees it. */
void vhost_drain_end(struct vhost_drain **list);

#endif
