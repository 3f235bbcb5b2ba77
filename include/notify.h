/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * notify: a bounded record of what clients may want to react to, numbered, the oldest forgotten
 * first. Part of the room env, next to the log: whoever has something to tell sends it, and need
 * not know who reads.
 */
#ifndef VHOSTD_NOTIFY_H
#define VHOSTD_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#define NOTIFY_EVENTS  1024 /* that are kept */
#define NOTIFY_CTX_MAX 191  /* bytes of a context, without the NUL */

enum notify_type {
	NOTIFY_BDEV_REGISTER,           /* context: the bdev's name */
	NOTIFY_BDEV_UNREGISTER,         /* the same */
	NOTIFY_BDEV_RESIZE,             /* the same */
	NOTIFY_VHOST_CONTROLLER_CREATE, /* the controller's name */
	NOTIFY_VHOST_CONTROLLER_DELETE, /* the same */
	NOTIFY_VHOST_QUEUE_BROKEN,      /* "<controller>: queue <number>: <reason>" */
	NOTIFY_STATE_SAVE_FAILED,       /* what cannot be saved, and why */
	/*
	 * "<name>: <state>": enabled, resetting, disabled, failed, gone, or missing: <reason> (it
	 * is tried again)
	 */
	NOTIFY_NVME_CONTROLLER_STATE,
	/* "<name>: critical warning: <which>", or "<name>: no critical warning" */
	NOTIFY_NVME_HEALTH,
	NOTIFY_TYPES,
};

/* What clients call it, e.g. "bdev_register". Any thread. */
const char *notify_type_name(enum notify_type type);

/*
 * Any OS thread; a context that is too long is cut at a character, and control characters and what
 * is not UTF-8 become '?'.
 */
void notify_send(enum notify_type type, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

struct notification {
	uint64_t id; /* ascending from 1, with no gap; never used again */
	enum notify_type type;
	char ctx[NOTIFY_CTX_MAX + 1];
};
/*
 * The first that is still kept and whose id is at least that. False: there is none. Any OS thread.
 */
bool notify_next(uint64_t id, struct notification *notification);

#endif
