/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost: controllers on vhost-user sockets. A controller is made on the app thread and runs on
 * lightweight threads of its own; a front-end that connects gets a session, one at a time.
 */
#ifndef VHOSTD_VHOST_H
#define VHOSTD_VHOST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpumask.h"
#include "errmsg.h"

#define VHOST_NAME_MAX        63  /* bytes of a controller's name */
#define VHOST_SOCKET_PATH_MAX 107 /* sockaddr_un, without the NUL */
#define VHOST_MAX_QUEUES      64  /* of requests, of one controller */

/*
 * App thread, in a coroutine [waits]. Sockets are made in socket_dir (copied; created if its parent
 * exists). Starts the vhost-events thread of DPDK. 0 or a negative errno.
 */
int vhost_lib_init(const char *socket_dir, struct errmsg *err);
/*
 * App thread, in a coroutine [waits]: deletes every controller (guests see their disks stop). Those
 * whose devices do not finish their requests, for which all have 5 s together, are left behind with
 * a line in the log each, and keep their bdevs open.
 */
void vhost_lib_fini(void);

/*
 * Sets what saves vhost_config_json() after a guest has changed something in it; the guest waits
 * for that. It is called on the vhost-events thread: it may block, but not for long. Before
 * vhost_lib_init(); NULL, as at first: nothing is saved.
 */
void vhost_lib_set_save(void (*save)(void));

struct vhost_blk_opts {
	const char *name; /* the socket is <socket dir>/<name>; copied */
	const char *bdev; /* name of the block device */
	bool read_only;   /* the guest may not write, although the bdev could */
	bool packed_ring; /* offer VIRTIO_F_RING_PACKED */
	/*
	 * Of guests that may choose (VIRTIO_BLK_F_CONFIG_WCE) this is the choice that they find:
	 * writes are durable when they complete.
	 */
	bool write_through;
	const struct cpumask *cpumask; /* where its threads may run; NULL: anywhere */
};
/*
 * App thread, in a coroutine [waits]. A stale socket file is replaced, one that somebody listens on
 * is refused. 0, -EEXIST (name), -ENODEV (bdev), -EROFS (bdev is read-only and read_only is not
 * set), -EINVAL (name: empty, too long, '/', '.' in front, not printable UTF-8; no running core in
 * cpumask), -ENAMETOOLONG (socket path over 107 bytes), -EADDRINUSE (a live socket), -ENOENT,
 * -EACCES, -ENOMEM.
 */
int vhost_blk_create(const struct vhost_blk_opts *opts, struct errmsg *err);

/*
 * virtio 1.2 §5.6.4: the sizes that a driver may choose. 256 is more than any CDB or sense data has.
 */
#define VHOST_SCSI_CDB_MAX   256
#define VHOST_SCSI_SENSE_MAX 256
struct vhost_scsi_opts {
	const char *name;              /* the socket is <socket dir>/<name>; copied */
	const struct cpumask *cpumask; /* where its threads may run; NULL: anywhere */
	bool delay;                    /* the socket listens when vhost_scsi_start() is called */
	/* What the driver that may go on has chosen; cdb_size 0: the defaults of both. */
	uint32_t sense_size, cdb_size;
};
/*
 * App thread, in a coroutine [waits]. A virtio-scsi controller without targets. The errors are
 * those of vhost_blk_create() that do not concern a block device.
 */
int vhost_scsi_create(const struct vhost_scsi_opts *opts, struct errmsg *err);
/*
 * App thread, in a coroutine [waits]. Listens on the socket of a controller that was made with
 * delay. 0, -EALREADY (it does so), -ENODEV, -EBUSY (being deleted), -EINVAL (no SCSI controller),
 * or as vhost_scsi_create().
 */
int vhost_scsi_start(const char *name, struct errmsg *err);

#define VHOST_SCSI_MAX_TARGET 255
#define VHOST_SCSI_ANY_NUMBER (-1) /* the first that is free and not reserved */
/*
 * App thread, in a coroutine [waits]. Adds a target with a LUN on each of the block devices, LUN 0
 * on the first one, while guests run, which are told of it. reserved: VHOST_SCSI_MAX_TARGET + 1 of
 * them, whether that number is not to be chosen; NULL: none. Returns its number, -EEXIST (number),
 * -ENOSPC (none is free), -EINVAL (number; count is not 1 … VHOST_SCSI_MAX_LUNS; no SCSI
 * controller), -ENODEV (controller or block device), -EBUSY (one is being deleted), -ENOTSUP,
 * -ENOMEM, or why a block device gives no channel.
 */
#define VHOST_SCSI_MAX_LUNS 64
int vhost_scsi_add_target(const char *name, int number, const bool *reserved,
			  const char *const *bdevs, uint32_t count, struct errmsg *err);
/*
 * App thread, in a coroutine [waits]. Guests are told, and requests in flight waited for. 0,
 * -ENODEV (controller or target), -EBUSY (being deleted or removed), -EINVAL (no SCSI controller),
 * -ETIMEDOUT (a device does not finish its requests: the target takes nothing new; remove it again
 * later).
 */
int vhost_scsi_remove_target(const char *name, uint32_t number, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]. Stops the queues, waits for their requests, closes the
 * front-end's connection and removes the socket. 0, -ENODEV, -EBUSY (being deleted already),
 * -ETIMEDOUT (a device does not finish its requests: the controller stays, with its queues stopped;
 * delete it again later).
 */
int vhost_controller_delete(const char *name, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]; holds for running queues when it returns. Of a queue that
 * does more than iops_threshold requests per second the calls (interrupts) are at least
 * delay_base_us × (rate ÷ iops_threshold − 1), at most delay_base_us apart; one that is put off
 * goes out within that time, and before the queue sleeps or stops. delay_base_us 0: none is put
 * off. 0, -ENODEV, -EBUSY (being deleted), -EINVAL.
 */
#define VHOST_COALESCING_DELAY_MAX     1000000 /* us */
#define VHOST_COALESCING_THRESHOLD_MIN 100     /* requests per second */
int vhost_controller_set_coalescing(const char *name, uint32_t delay_base_us,
				    uint32_t iops_threshold, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]. From now on requests that take threshold_us or longer, of running
 * queues and others, are kept for vhost_slow_requests_json(); 0: all of them. 0, -ENODEV, -EBUSY
 * (being deleted), -EINVAL.
 */
#define VHOST_SLOW_US     10000u
#define VHOST_SLOW_MAX_US 3600000000u
int vhost_controller_set_slow_threshold(const char *name, uint32_t threshold_us,
					struct errmsg *err);
/*
 * App thread, in a coroutine [waits]. New object: what vhost_get_slow_requests answers, with the
 * newest count requests. NULL and *rc: -ENODEV, -EBUSY (being deleted), -ENOMEM.
 */
#define VHOST_SLOW_REQUESTS_MAX (VHOST_MAX_QUEUES * 256)
json_t *vhost_slow_requests_json(const char *name, uint32_t count, int *rc, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]. Looks at the block device's size again and tells the driver
 * to do so. 0, -ENODEV, -EBUSY (being deleted), or what reading the size failed with.
 */
int vhost_controller_resize(const char *name, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]. New array of what vhost_get_stats answers: the controller of
 * that name, or all (NULL). NULL and *rc: -ENODEV, -EBUSY (being deleted), -ENOMEM.
 */
json_t *vhost_stats_json(const char *name, bool per_queue, int *rc, struct errmsg *err);

/*
 * App thread, in a coroutine [waits]. New array of what vhost_get_controllers answers; name NULL:
 * all of them, else that one (NULL is returned when there is none).
 */
json_t *vhost_controllers_json(const char *name);
/* Array of {method, params} that makes all controllers again. App thread. */
json_t *vhost_config_json(void);

#endif
