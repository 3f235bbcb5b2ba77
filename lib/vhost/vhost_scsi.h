/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_scsi: vhost-user-scsi (virtio 1.2 §5.6): what its files share. Private to lib/vhost.
 *
 *   scsi.c          making and ending, configuration space and features
 *   scsi_targets.c  targets and their LUNs, added and removed while guests run
 *   scsi_path.c     each thread's way to the LUNs
 *   scsi_request.c  the request queues
 *   scsi_control.c  the control queue
 *   scsi_event.c    the event queue
 *   scsi_trace.c    requests that were slow
 *   scsi_memory.c   guests' memory, for LUNs whose devices reach it by themselves
 */
#ifndef VHOSTD_VHOST_SCSI_H
#define VHOSTD_VHOST_SCSI_H

#include <linux/virtio_scsi.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "bdev.h"
#include "coroutine.h"
#include "device.h"
#include "queue.h"
#include "scsi.h"
#include "threads.h"
#include "vhost.h"

#define VHOST_SCSI_TARGETS 256

/* virtio 1.2 §5.6.2 */
#define VHOST_SCSI_CONTROL_QUEUE  0
#define VHOST_SCSI_EVENT_QUEUE    1
#define VHOST_SCSI_REQUEST_QUEUES 2 /* the first of them */

/* Bytes of a request and of a response without CDB and sense. */
#define VHOST_SCSI_REQUEST_HEADER  offsetof(struct virtio_scsi_cmd_req, cdb)
#define VHOST_SCSI_RESPONSE_HEADER offsetof(struct virtio_scsi_cmd_resp, sense)

/* Events that wait for a buffer of the driver's; those that come then are missed. */
#define VHOST_SCSI_EVENTS 64

struct vhost_scsi_target;
struct vhost_scsi_memory;
struct vhost_scsi_disk;

struct vhost_scsi_lun {
	/* set once */
	struct vhost_scsi_target *target;
	uint16_t number; /* its index in the target */
	char bdev_name[BDEV_NAME_MAX + 1];

	/* app thread */
	bool gone; /* the block device goes away: it is being removed */
	bool told; /* guests have been, of that */
	bool removed;
	struct vhost_scsi_disk *disk; /* NULL: its block device is not shown any memory */

	/* under the lock of vhost_scsi; the app thread, which alone writes it, reads it without */
	struct scsi_lun *lun; /* NULL: not there any more */
};

struct vhost_scsi_target {
	/* set once */
	struct vhost_scsi *scsi;
	uint8_t number;
	uint32_t lun_count;
	struct scsi_target *target;

	/* app thread */
	bool removing; /* takes nothing new */

	struct vhost_scsi_lun luns[];
};

struct vhost_scsi {
	/* set once */
	char name[VHOST_NAME_MAX + 1];
	struct vhost_scsi_memory *memory;
	struct thread *app;
	int event_fd; /* eventfd: wakes the thread of the event queue */

	/* app thread only */
	uint32_t refs;
	bool ended;
	bool removal_starts; /* of LUNs that are gone: by the message, when there is memory */
	struct thread_msg removal;
	struct completion *channels_gone;
	struct coroutine_mutex changing;                       /* targets, from begin to end */
	struct vhost_scsi_target *targets[VHOST_SCSI_TARGETS]; /* all of them */

	/*
	 * Under the lock. A thread that makes its channel needs the targets at once, in a callback
	 * that cannot wait for an answer of the app thread; and events come while no thread has the
	 * event queue. So neither can be done by messages.
	 */
	pthread_mutex_t lock;
	struct vhost_scsi_target *shown[VHOST_SCSI_TARGETS]; /* those that guests see */
	struct virtio_scsi_event events[VHOST_SCSI_EVENTS];  /* from the oldest one on */
	uint32_t event_count;
	bool events_missed;

	/* any thread */
	_Atomic bool has_events; /* or has missed some */
	_Atomic uint64_t negotiated;
	_Atomic uint32_t cdb_size, sense_size;
	_Atomic bool sizes_chosen; /* by the driver that is about to begin */

	/* vhost-events thread only */
	uint32_t saves; /* of sizes, in this session */
};

/* ---- scsi_path.c: on the controller's threads ---- */

/* A thread's way to a LUN; or to none, for what the target itself answers. */
struct vhost_scsi_path {
	struct scsi_target *target;
	struct scsi_lun *lun;         /* NULL: there is none, or not any more */
	struct scsi_channel *channel; /* put when nothing is in flight */
	uint32_t in_flight;           /* tasks and task management functions of this thread */
	bool submitted;               /* in the list of those to be flushed */
	uint8_t target_number;        /* set once, as is the next one */
	uint16_t lun_number;          /* UINT16_MAX: none */
	struct vhost_scsi_path *next_submitted;
};

/* A thread's ways to the LUNs of a target. */
struct vhost_scsi_paths {
	struct vhost_scsi_target *owner;
	LIST_ENTRY(vhost_scsi_paths) link; /* of those that are leaving */
	uint32_t lun_count;
	struct vhost_scsi_path none;
	struct vhost_scsi_path report_luns; /* the well-known LUN */
	struct vhost_scsi_path luns[];
};

/* What a thread has of a controller: the ctx of an io_channel to the struct vhost_scsi. */
struct vhost_scsi_channel {
	struct io_channel *io;
	struct vhost_scsi_paths *targets[VHOST_SCSI_TARGETS];
	LIST_HEAD(, vhost_scsi_paths) leaving; /* taken away, with something in flight */
	struct vhost_scsi_path *submitted;
};

/*
 * Where a LUN field of virtio 1.2 §5.6.6.1 leads, in a request or a task management function. NULL:
 * there is no such target. A path without a LUN: the target is there, but not that LUN.
 */
struct vhost_scsi_path *vhost_scsi_find_path(const struct vhost_scsi_channel *channel,
					     const uint8_t field[8]);

#define VHOST_SCSI_ANY_TARGET UINT32_MAX /* the one LUN that is not a target's: REPORT LUNS */
#define VHOST_SCSI_NO_LUN     UINT32_MAX /* none that there can be */
struct vhost_scsi_address {
	uint32_t target;
	uint32_t lun;
};
/* Pure. False: not even a target is named. */
bool vhost_scsi_decode_lun(const uint8_t field[8], struct vhost_scsi_address *address);

/* For io_device_register(). */
int vhost_scsi_channel_create(void *dev, void *channel_ctx);
void vhost_scsi_channel_destroy(void *dev, void *channel_ctx);

/* For struct vhost_device_ops. */
bool vhost_scsi_release_held(void *channel);

/* For vhost_threads_call(). arg is the target, of which each LUN that is not removed is shown. */
int vhost_scsi_paths_add(struct vhost_thread *thread, void *arg);
/* arg is the target. Nothing new goes there; -EAGAIN while something is in flight. */
int vhost_scsi_paths_remove(struct vhost_thread *thread, void *arg);
/* The same for one LUN; arg is it. */
int vhost_scsi_path_remove(struct vhost_thread *thread, void *arg);

/* ---- scsi_request.c and scsi_control.c: on the queue's thread ---- */

/* Where a response goes: buffers of the driver's as they were, and a part of one. */
struct vhost_scsi_response {
	const struct iovec *whole;
	uint32_t whole_count;
	uint8_t *rest;
	uint32_t size; /* of all */
};

/* What is in a slot of a request queue. */
struct vhost_scsi_request {
	/* set once */
	struct vhost_queue *queue;

	struct vhost_scsi_path *path;
	uint64_t seen; /* ticks */
	struct vhost_scsi_response response;
	struct scsi_task task; /* last: the block device's part follows */
};

/*
 * Takes a chain apart: fills the task but for its LUN and done, the response and *lun, a LUN field as it came. The iovecs are
 * the slot's, which is changed. False: there is no whole request, or no room for a response.
 */
bool vhost_scsi_parse(struct virtq_slot *slot, uint32_t cdb_size, uint32_t sense_size,
		      struct vhost_scsi_request *request, uint64_t *lun);

/*
 * The first size bytes that the driver wants to get are the response; the rest is left in iov[0 …
 * *count). False: there are fewer.
 */
bool vhost_scsi_take_response(struct iovec **iov, uint32_t *count, uint32_t size,
			      struct vhost_scsi_response *response);
/* Writes the first length bytes of it; fill: and zeroes into the rest. */
void vhost_scsi_put_response(const struct vhost_scsi_response *response, const void *data,
			     uint32_t length, bool fill);

/* For struct vhost_device_ops. */
void vhost_scsi_request_init(struct vhost_queue *queue, struct virtq_slot *slot);
void vhost_scsi_handle(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count);

/* scsi_trace.c: its task, which is done, was slow. */
void vhost_scsi_trace(const struct vhost_scsi_request *request);

size_t vhost_scsi_control_size(void);
void vhost_scsi_control_init(struct vhost_queue *queue, struct virtq_slot *slot);
void vhost_scsi_handle_control(struct vhost_queue *queue, struct virtq_slot *slot);

/* ---- scsi_event.c ---- */

/* App thread. As virtio 1.2 §5.6.6.3 has them. */
void vhost_scsi_event_send(struct vhost_scsi *scsi, const struct vhost_scsi_lun *lun,
			   uint32_t event, uint32_t reason);
/* Any thread: what an earlier driver has not heard of is of no interest to the next one. */
void vhost_scsi_events_forget(struct vhost_scsi *scsi);
/* For struct vhost_device_ops. */
int vhost_scsi_event_fd(void *device);
bool vhost_scsi_wants_buffers(void *device);
void vhost_scsi_fill(struct vhost_queue *queue);

/* ---- scsi_memory.c ---- */

/* NULL: no memory. */
struct vhost_scsi_memory *vhost_scsi_memory_create(void);
/* App thread. No disk is left; sessions may still have regions. */
void vhost_scsi_memory_put(struct vhost_scsi_memory *memory);
/*
 * App thread, in a coroutine [waits]. Shows the block device all regions, present and future; desc
 * stays open until the disk is removed. 0, or as bdev_memory_map().
 */
int vhost_scsi_memory_add(struct vhost_scsi_memory *memory, struct bdev_desc *desc,
			  struct vhost_scsi_disk **disk, struct errmsg *err);
/* App thread. The block device goes away: what it fails with is no error any more. */
void vhost_scsi_memory_set_gone(struct vhost_scsi_disk *disk);
/* App thread, in a coroutine [waits]. Its requests are done. */
void vhost_scsi_memory_remove(struct vhost_scsi_memory *memory, struct vhost_scsi_disk *disk);
/* For struct vhost_device_ops. */
int vhost_scsi_memory_map(void *device, void *addr, uint64_t length, int fd, uint64_t fd_offset,
			  void **memory, struct errmsg *err);
void vhost_scsi_memory_unmap(void *memory);

/* ---- scsi_targets.c: app thread ---- */

json_t *vhost_scsi_describe(void *device);
/* Appends what adds the targets, and starts the controller. */
void vhost_scsi_config_more(void *device, json_t *array);
/* [waits] The threads and their channels are gone. */
void vhost_scsi_remove_all(struct vhost_scsi *scsi);
int vhost_scsi_resize(void *device, struct errmsg *err);
/* Each LUN gets the unit attention of a power-on. */
void vhost_scsi_power_on(struct vhost_scsi *scsi);

/* scsi.c; app thread */
extern const struct vhost_device_ops vhost_scsi_ops;
void vhost_scsi_put(struct vhost_scsi *scsi);

#endif
