/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_user: the sockets and the messages of the vhost-user protocol. Private to lib/vhost.
 *
 * DPDK listens, accepts, reads messages and writes answers; what a message means is ours, all of
 * it. The messages of all sockets are handled on one OS thread of DPDK's, "vhost-events".
 */
#ifndef VHOSTD_VHOST_USER_H
#define VHOSTD_VHOST_USER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "errmsg.h"
#include "vhost.h"

struct vhost_controller;
struct vhost_connection;

/* A socket; part of its controller. */
struct vhost_endpoint {
	/* set once */
	struct vhost_controller *controller;
	char path[VHOST_SOCKET_PATH_MAX + 1];

	/* vhost-events thread only; the app's worker after the socket is unregistered */
	LIST_HEAD(, vhost_connection) connections;
	struct vhost_connection *active; /* the front-end that is served */

	/* vhost_user.c's list of endpoints, under its lock */
	LIST_ENTRY(vhost_endpoint) link;

	/* any thread, under the lock: DPDK's thread takes no messages */
	pthread_mutex_t backend_lock;
	int backend_fd; /* where requests of ours go (SET_BACKEND_REQ_FD), or -1 */
};

/* Once, before everything else: prepares the folder and the poke. May block. */
int vhost_user_init(const char *socket_dir, struct errmsg *err);

/* The path of a controller's socket. -ENAMETOOLONG with the reason in err. Any thread. */
int vhost_user_path(const char *name, char path[VHOST_SOCKET_PATH_MAX + 1], struct errmsg *err);

/*
 * Listens. Blocks: on the work pool. endpoint->path and controller are set. A front-end may be
 * served before it returns. 0, -EADDRINUSE, -ENOENT, -EACCES, -ENOMEM, -EIO.
 */
int vhost_user_listen(struct vhost_endpoint *endpoint, struct errmsg *err);
/*
 * Closes the connections and the socket, and releases what is left of the sessions. Blocks: on the
 * work pool. No handler of this endpoint runs afterwards. Its queues must have been stopped.
 */
void vhost_user_unlisten(struct vhost_endpoint *endpoint);

/* vhost-events thread. The connection is not served any more; its session ends by itself. */
void vhost_user_retire(struct vhost_connection *connection);
/* vhost-events thread. fd becomes the endpoint's; -1: none. */
void vhost_user_set_backend_fd(struct vhost_endpoint *endpoint, int fd);

/* Tells the front-end to read the configuration space again. Any thread, does not block. */
void vhost_user_config_changed(struct vhost_endpoint *endpoint);

#endif
