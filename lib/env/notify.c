/* SPDX-License-Identifier: BSD-3-Clause */
#include "notify.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

static const char *const names[] = {
	[NOTIFY_BDEV_REGISTER] = "bdev_register",
	[NOTIFY_BDEV_UNREGISTER] = "bdev_unregister",
	[NOTIFY_BDEV_RESIZE] = "bdev_resize",
	[NOTIFY_VHOST_CONTROLLER_CREATE] = "vhost_controller_create",
	[NOTIFY_VHOST_CONTROLLER_DELETE] = "vhost_controller_delete",
	[NOTIFY_VHOST_QUEUE_BROKEN] = "vhost_queue_broken",
	[NOTIFY_STATE_SAVE_FAILED] = "state_save_failed",
	[NOTIFY_NVME_CONTROLLER_STATE] = "nvme_controller_state",
	[NOTIFY_NVME_HEALTH] = "nvme_health",
};

_Static_assert(sizeof(names) / sizeof(names[0]) == NOTIFY_TYPES, "each type has a name");

/*
 * Senders are any threads, of which some have no reactor, and ids must ascend over all of them:
 * hence a mutex and no message. It is held while one event is copied.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct notification ring[NOTIFY_EVENTS]; /* id is at id % NOTIFY_EVENTS */
static uint64_t last_id;

const char *
notify_type_name(enum notify_type type)
{
	return names[type];
}

/* Both ends: what a guest or a front-end named goes to clients as JSON. */
static void
sanitize(char *text)
{
	while (*text != '\0') {
		size_t length = utf8_length(text);

		if (length == 0 || (unsigned char)*text < 0x20 || *text == 0x7f) {
			*text = '?';
			length = 1;
		}
		text += length;
	}
}

/* Cuts a character that snprintf() has cut in the middle. */
static void
trim(char ctx[NOTIFY_CTX_MAX + 1])
{
	size_t end = NOTIFY_CTX_MAX;

	while (end > 0 && ((unsigned char)ctx[end - 1] & 0xc0) == 0x80)
		end--;
	if (end > 0 && utf8_length(ctx + end - 1) == 0)
		ctx[end - 1] = '\0';
}

void
notify_send(enum notify_type type, const char *format, ...)
{
	struct notification event = {.type = type};
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(event.ctx, sizeof(event.ctx), format, args);
	va_end(args);
	if (length > NOTIFY_CTX_MAX)
		trim(event.ctx);
	sanitize(event.ctx);
	pthread_mutex_lock(&lock);
	event.id = ++last_id;
	ring[event.id % NOTIFY_EVENTS] = event;
	pthread_mutex_unlock(&lock);
}

bool
notify_next(uint64_t id, struct notification *notification)
{
	uint64_t first;
	bool found;

	pthread_mutex_lock(&lock);
	first = last_id < NOTIFY_EVENTS ? 1 : last_id - NOTIFY_EVENTS + 1;
	if (id < first)
		id = first;
	found = id <= last_id;
	if (found)
		*notification = ring[id % NOTIFY_EVENTS];
	pthread_mutex_unlock(&lock);
	return found;
}
