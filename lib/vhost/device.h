/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device: what a kind of controller (vhost-user-blk, …) implements. Private to lib/vhost.
 */
#ifndef VHOSTD_VHOST_DEVICE_H
#define VHOSTD_VHOST_DEVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errmsg.h"
#include "vhost.h"
#include "virtq.h"

#define VHOST_MAX_LIGHT_QUEUES 2 /* see light_queues */
#define VHOST_MAX_RINGS        (VHOST_MAX_LIGHT_QUEUES + VHOST_MAX_QUEUES)

struct vhost_queue;

/* device is the controller's, as given to vhost_controller_create(). */
struct vhost_device_ops {
	const char *name;      /* of the kind, for messages */
	uint32_t max_segments; /* longest descriptor chain that its limits allow */
	/* How many queues, from the first on, carry next to nothing: the main thread has them. They are besides VHOST_MAX_QUEUES. */
	uint32_t light_queues;

	/*
	 * Any OS thread: the device's own feature bits (not those of rings and transport),
	 * constant.
	 */
	uint64_t (*features)(void *device);

	/* ---- vhost-events thread ---- */

	/* A front-end takes over, or has negotiated features. */
	void (*set_features)(void *device, uint64_t features);
	/* Fills the beginning of config, which has VHOST_MSG_CONFIG_SPACE bytes, all zero. */
	void (*get_config)(void *device, uint8_t *config);
	/* 0, or -EINVAL for what the driver may not write. */
	int (*set_config)(void *device, uint32_t offset, uint32_t size, const uint8_t *data);
	/*
	 * A driver begins: before its first queue runs, and not when it goes on after a pause or a
	 * lost connection. May be NULL. Must not wait for long.
	 */
	void (*begin)(void *device);
	/* Bytes that a request needs in its slot, and how to prepare them once. */
	size_t (*request_size)(void *device);
	void (*request_init)(struct vhost_queue *queue, struct virtq_slot *slot);

	/* ---- memory ---- */

	/*
	 * vhost-events thread. Shows a region of the front-end's memory to what is behind the device, before requests
	 * use it. May block. Both or neither; neither: nothing needs to be shown. addr is where it
	 * is mapped here, fd (borrowed) and fd_offset what it is a part of; any alignment. 0 and
	 * what memory_unmap() needs (NULL: nothing), also when the device is gone; or a negative
	 * errno, with the reason in err, and *memory is NULL.
	 *
	 * A front-end may truncate its file: then there are other pages at addr (mapping.h), and
	 * the device has those of before. Neither is anybody else's, and the queues break.
	 */
	int (*memory_map)(void *device, void *addr, uint64_t length, int fd, uint64_t fd_offset,
			  void **memory, struct errmsg *err);
	/*
	 * Any OS thread that may block: no request uses it any more. The device may have been
	 * destroyed already.
	 */
	void (*memory_unmap)(void *memory);

	/* ---- any of the controller's threads ---- */

	/*
	 * A way of this thread's to the device; each queue has one while it runs. 0 with *channel
	 * NULL: the device is gone, and requests fail. Or a negative errno, and *channel is NULL.
	 * label: what uses it ("queue 3"), for statistics; copied.
	 */
	int (*channel_get)(void *device, const char *label, void **channel);
	/* None of its requests is in flight. */
	void (*channel_put)(void *device, void *channel);

	/* ---- the queue's thread ---- */

	/*
	 * Each chain ends, now or later, with vhost_queue_complete(). At most VHOST_QUEUE_BATCH of
	 * them.
	 */
	void (*handle)(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count);
	/*
	 * A queue that uses this channel stops: requests of it that are with no device, but held back
	 * here (a rate limit), go on at once. Returns whether there were any, perhaps of another
	 * queue. They are as good as any: nothing is lost, done twice, or told to the driver that is
	 * not so. See bdev_release_held(). May be NULL: it holds back nothing.
	 */
	bool (*release_held)(void *channel);

	/*
	 * ---- the event queue, if fill is not NULL: of that index ----
	 * Its chains are buffers for what the device says by itself. They stay in the ring until
	 * fill() pops them, and ends them at once.
	 */
	uint32_t event_queue;
	/* Any thread. An eventfd of the device's, constant, signalled when it has something to say. */
	int (*event_fd)(void *device);
	/* On the queue's thread: whether it has. */
	bool (*wants_buffers)(void *device);
	/* On the queue's thread: says it, as far as there are buffers. */
	void (*fill)(struct vhost_queue *queue);

	/* ---- app thread ---- */

	/*
	 * [waits] Looks at the size of what is behind it again. 0 or a negative errno; a driver that
	 * knows of one size only is told in any case.
	 */
	int (*resize)(void *device, struct errmsg *err);
	/* [waits] After the threads are gone: closes and frees device. */
	void (*destroy)(void *device);
	/* The value of backend_specific; a new object or NULL. */
	json_t *(*describe)(void *device);
	/*
	 * {method, params} that makes the controller again, without ctrlr and cpumask. New object
	 * or NULL.
	 */
	json_t *(*config)(void *device);
	/* Appends what comes after it, with ctrlr. May be NULL. */
	void (*config_more)(void *device, json_t *array);
};

#endif
