/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listener: a listening stream socket, and its file if it has one. Part of the room env; any OS
 * thread. Nothing here blocks.
 */
#ifndef VHOSTD_LISTENER_H
#define VHOSTD_LISTENER_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "errmsg.h"

struct listener {
	int fd;
	struct sockaddr_un address; /* no path: TCP */
	dev_t device;               /* of the file, so that only our own is removed */
	ino_t inode;
};

/*
 * Makes a listening, non-blocking socket at path, whose file has the permissions mode from its
 * first moment. A stale file is replaced. what: whose it is, in messages ("rpc"). 0, -ENAMETOOLONG,
 * -EADDRINUSE (somebody listens there, or it is no socket) or what the system says.
 */
int listener_open(struct listener *listener, const char *what, const char *path, mode_t mode,
		  struct errmsg *err);
/* The same for a TCP port of 127.0.0.1. 0, -EADDRINUSE or what the system says. */
int listener_open_loopback(struct listener *listener, const char *what, uint16_t port,
			   struct errmsg *err);
/* Closes it and removes the file. */
void listener_close(struct listener *listener);

#endif
