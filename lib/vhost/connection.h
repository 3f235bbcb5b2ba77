/* SPDX-License-Identifier: BSD-3-Clause */
/* connection: an accepted socket and whether it is the one that is served. Private to lib/vhost. */
#ifndef VHOSTD_VHOST_CONNECTION_H
#define VHOSTD_VHOST_CONNECTION_H

#include <stdbool.h>
#include <sys/queue.h>

struct vhost_endpoint;
struct vhost_session;

/* vhost-events thread only; the app's worker after the socket is unregistered. */
struct vhost_connection {
	struct vhost_endpoint *endpoint;
	int vid;
	int fd;                        /* DPDK's */
	struct vhost_session *session; /* NULL before the first message, and if it is not served */
	bool refused;
	unsigned int failures;
	int reply_fd; /* goes with the answer that is being sent, or -1 */
	LIST_ENTRY(vhost_connection) link;
};

#endif
