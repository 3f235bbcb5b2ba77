/* SPDX-License-Identifier: BSD-3-Clause */
#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 128

/* 0 when nothing is there any more; a socket file that nobody listens on is removed. */
static int
remove_stale(const char *what, const struct sockaddr_un *address, struct errmsg *err)
{
	const char *path = address->sun_path;
	struct stat st;
	int fd, rc;

	if (lstat(path, &st) < 0) {
		rc = -errno;
		return rc == -ENOENT
			       ? 0
			       : err_set(err, rc, "%s socket %s: %s", what, path, strerror(-rc));
	}
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EADDRINUSE, "%s socket %s: a file that is no socket is there",
			       what, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
	close(fd);
	if (rc == 0 || rc == -EAGAIN)
		return err_set(err, -EADDRINUSE, "%s socket %s: another process listens on it",
			       what, path);
	if (rc != -ECONNREFUSED && rc != -ENOENT)
		return err_set(err, rc, "%s socket %s: %s", what, path, strerror(-rc));
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(err, -errno, "%s socket %s: cannot be replaced: %s", what, path,
			       strerror(errno));
	return 0;
}

/*
 * The file gets the mode of the socket's own inode when it is bound, less the umask; hence both
 * fchmod() and chmod().
 */
static int
bind_and_listen(struct listener *listener, mode_t mode)
{
	const char *path = listener->address.sun_path;
	struct stat st;

	if (fchmod(listener->fd, mode) < 0 ||
	    bind(listener->fd, (struct sockaddr *)&listener->address, sizeof(listener->address)) <
		    0)
		return -errno;
	if (chmod(path, mode) < 0 || lstat(path, &st) < 0 || listen(listener->fd, BACKLOG) < 0) {
		int rc = -errno;

		unlink(path);
		return rc;
	}
	listener->device = st.st_dev;
	listener->inode = st.st_ino;
	return 0;
}

int
listener_open(struct listener *listener, const char *what, const char *path, mode_t mode,
	      struct errmsg *err)
{
	size_t len = strlen(path);
	int rc;

	*listener = (struct listener){.address.sun_family = AF_UNIX};
	if (len >= sizeof(listener->address.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s socket %s: the path is longer than %zu bytes", what, path,
			       sizeof(listener->address.sun_path) - 1);
	memcpy(listener->address.sun_path, path, len);
	rc = remove_stale(what, &listener->address, err);
	if (rc != 0)
		return rc;
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		return -errno;
	rc = bind_and_listen(listener, mode);
	if (rc != 0) {
		close(listener->fd);
		return err_set(err, rc, "%s socket %s: %s", what, path, strerror(-rc));
	}
	return 0;
}

int
listener_open_loopback(struct listener *listener, const char *what, uint16_t port,
		       struct errmsg *err)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int rc = 0, on = 1;

	*listener = (struct listener){.address.sun_family = AF_UNIX};
	listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		return -errno;
	/* A port whose last connections linger can be had again; one that somebody has cannot. */
	if (setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener->fd, BACKLOG) < 0)
		rc = -errno;
	if (rc == 0)
		return 0;
	close(listener->fd);
	return err_set(err, rc, "%s port 127.0.0.1:%u: %s", what, port, strerror(-rc));
}

void
listener_close(struct listener *listener)
{
	struct stat st;

	if (listener->address.sun_path[0] != '\0' && lstat(listener->address.sun_path, &st) == 0 &&
	    st.st_dev == listener->device && st.st_ino == listener->inode)
		unlink(listener->address.sun_path);
	close(listener->fd);
}
