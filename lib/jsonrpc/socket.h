/* SPDX-License-Identifier: BSD-3-Clause */
/* socket: the listening socket and its file. Private to the room jsonrpc. */
#ifndef VHOSTD_JSONRPC_SOCKET_H
#define VHOSTD_JSONRPC_SOCKET_H

#include <sys/types.h>
#include <sys/un.h>

#include "errmsg.h"

struct listener {
	int fd;
	struct sockaddr_un address;
	dev_t device; /* of the file, so that only our own is removed */
	ino_t inode;
};

/*
 * Makes a listening, non-blocking socket at path, whose file has the permissions mode from its
 * first moment. 0, -ENAMETOOLONG, -EADDRINUSE (somebody listens there, or it is no socket) or what
 * the system says.
 */
int listener_open(struct listener *listener, const char *path, mode_t mode, struct errmsg *err);
/* Closes it and removes the file. */
void listener_close(struct listener *listener);

#endif
