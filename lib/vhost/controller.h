/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * controller: what a socket serves, and the lightweight threads it is served on. Private to
 * lib/vhost.
 */
#ifndef VHOSTD_VHOST_CONTROLLER_H
#define VHOSTD_VHOST_CONTROLLER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "coroutine.h"
#include "cpumask.h"
#include "device.h"
#include "errmsg.h"
#include "queue.h"
#include "threads.h"
#include "vhost.h"
#include "vhost_user.h"

struct vhost_session;

/* Longest time that stopping queues waits for their requests: those of a device that hangs. */
#define VHOST_DRAIN_US (5 * 1000 * 1000ULL)
/*
 * Longest wait for a thread to do what needs no waiting. One that takes longer than a device may is
 * mostly without a CPU, on a host that has promised too many, and a guest whose connection is closed
 * for that may lose its disk; but all sockets' messages wait meanwhile.
 */
#define VHOST_ANSWER_US (30 * 1000 * 1000ULL)

struct vhost_controller {
	/* set once */
	uint64_t serial; /* ascending in creation order, never used again */
	char name[VHOST_NAME_MAX + 1];
	const struct vhost_device_ops *ops;
	void *device;
	uint32_t queue_count;
	uint64_t features; /* all that a front-end may negotiate */
	bool has_cpumask;
	struct cpumask cpumask;
	struct vhost_endpoint endpoint; /* set once, with parts of vhost_user.c's */

	/* app thread only */
	bool ready; /* listed; else it is being made or deleted */
	bool listening;
	bool starting; /* to listen */
	bool deleting;
	TAILQ_ENTRY(vhost_controller) link;

	/*
	 * written by the app thread; a queue reads them when it starts and when it is told of a
	 * change
	 */
	_Atomic uint32_t delay_base_us;
	_Atomic uint32_t iops_threshold;
	_Atomic uint32_t slow_us; /* requests that take so long are traced */

	struct vhost_threads threads; /* threads.h says what is whose */

	/* main thread only */
	bool closing; /* starts no queue any more */
	/* what queues counted until they stopped, and how often that was */
	uint64_t counters[VHOST_MAX_RINGS][VHOST_COUNTERS];
	uint64_t stops;
	uint64_t connections; /* sessions so far */
	TAILQ_HEAD(vhost_session_list, vhost_session) sessions;
};

/* What kinds of controllers have in common. cpumask NULL: anywhere. */
struct vhost_controller_opts {
	const char *name;
	const struct cpumask *cpumask;
	const struct vhost_device_ops *ops;
	void *device;
	bool delay; /* listen when vhost_controller_listen() says so */
};

/*
 * App thread, in a coroutine [waits]. Starts the main thread and listens. device becomes the
 * controller's on success (ops->destroy frees it) and stays the caller's otherwise. Errors as
 * vhost_blk_create().
 */
int vhost_controller_create(const struct vhost_controller_opts *opts, struct errmsg *err);
/* The same. -EALREADY: it does so already. */
int vhost_controller_listen(struct vhost_controller *controller, struct errmsg *err);

/*
 * App thread. Whether the name may be used: 0, -EINVAL, -EEXIST, -ENAMETOOLONG, with the reason in
 * err.
 */
int vhost_controller_check_name(const char *name, struct errmsg *err);

/* Where its threads may run; NULL: anywhere. Any OS thread. */
static inline const struct cpumask *
vhost_controller_cpumask(const struct vhost_controller *controller)
{
	return controller->has_cpumask ? &controller->cpumask : NULL;
}

/* Any OS thread: the device's configuration space has changed, the driver should know. */
void vhost_controller_config_changed(struct vhost_controller *controller);

/* vhost-events thread; may block. What ops->config() says has changed, by a guest. */
void vhost_controllers_save(void);

/* App thread. The one that has this device; NULL while it is being made. */
struct vhost_controller *vhost_controller_of_device(const void *device);

/*
 * App thread. The one of that name that is listed and not being deleted; NULL, -ENODEV or -EBUSY
 * and why.
 */
struct vhost_controller *vhost_controller_find(const char *name, int *rc, struct errmsg *err);
/*
 * App thread. The first that is listed and was created after the one of that serial number; NULL at
 * the end.
 */
struct vhost_controller *vhost_controller_next(uint64_t serial);

/* ---- main thread, for lib/vhost/session.c ---- */

void vhost_controller_attach(struct vhost_controller *controller, struct vhost_session *session);
/* A session is gone with all its requests: others that waited for it may run. */
void vhost_controller_detach(struct vhost_controller *controller, struct vhost_session *session);
/* Whether requests of another session than this one are still running. */
bool vhost_controller_must_wait(const struct vhost_controller *controller,
				const struct vhost_session *session);

#endif
