/* SPDX-License-Identifier: BSD-3-Clause */
/* The connection: whole messages and raw bytes, with descriptors and deadlines. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "deadline.h"
#include "internal.h"

/* A restarting daemon's socket is looked for this often. */
#define CONNECT_RETRY_MS 5

static int
wait_fd(int fd, short events, int64_t deadline)
{
	struct pollfd pfd = {.fd = fd, .events = events};
	int rc;

	do {
		rc = poll(&pfd, 1, deadline_left(deadline));
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	return rc == 0 ? -ETIMEDOUT : 0;
}

static int
connection_error(int error)
{
	return error == EPIPE || error == ECONNRESET ? -ECONNRESET : -error;
}

static bool
worth_retrying(int error)
{
	/* EAGAIN: the listener's backlog is full. */
	return error == ENOENT || error == ECONNREFUSED || error == EAGAIN;
}

int
client_connect(struct client *c, const char *path, int timeout_ms)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int64_t deadline = deadline_after(timeout_ms);
	int fd, rc;

	client_attach(c, -1, timeout_ms);
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	for (;;) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			return -errno;
		if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
			break;
		rc = -errno;
		close(fd);
		if (!worth_retrying(-rc) || deadline_left(deadline) == 0)
			return rc;
		poll(NULL, 0, CONNECT_RETRY_MS);
	}
	client_attach(c, fd, timeout_ms);
	return 0;
}

void
client_attach(struct client *c, int fd, int timeout_ms)
{
	c->fd = fd;
	c->backend_fd = -1;
	c->timeout_ms = timeout_ms;
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void
client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	if (c->backend_fd >= 0)
		close(c->backend_fd);
	c->fd = -1;
	c->backend_fd = -1;
}

/* Sends everything; the descriptors go with the first byte. */
static int
send_all(int fd, const void *data, size_t size, const int *fds, unsigned int fd_count,
	 int64_t deadline)
{
	char control[CMSG_SPACE(sizeof(int) * 64)] = {0};
	struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cmsg;
	ssize_t n;
	int rc;

	if (fd_count > 64)
		return -EINVAL;
	if (fd_count > 0) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * fd_count);
	}
	while (iov.iov_len > 0) {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
		if (n >= 0) {
			iov.iov_base = (char *)iov.iov_base + n;
			iov.iov_len -= n;
			msg.msg_control = NULL;
			msg.msg_controllen = 0;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return connection_error(errno);
		rc = wait_fd(fd, POLLOUT, deadline);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void
take_fds(struct msghdr *msg, int *fds, unsigned int *fd_count)
{
	struct cmsghdr *cmsg;
	unsigned int count, i;
	int fd;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++) {
			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
			if (*fd_count < CLIENT_MAX_FDS)
				fds[(*fd_count)++] = fd;
			else
				close(fd);
		}
	}
}

/* Receives exactly size bytes, and the descriptors that come with them. */
static int
receive_all(int fd, void *data, size_t size, int *fds, unsigned int *fd_count, int64_t deadline)
{
	char control[CMSG_SPACE(sizeof(int) * 64)];
	struct iovec iov = {.iov_base = data, .iov_len = size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;
	int rc;

	while (iov.iov_len > 0) {
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
		if (n > 0) {
			take_fds(&msg, fds, fd_count);
			iov.iov_base = (char *)iov.iov_base + n;
			iov.iov_len -= n;
			continue;
		}
		if (n == 0)
			return -ECONNRESET;
		if (errno != EAGAIN && errno != EINTR)
			return connection_error(errno);
		rc = wait_fd(fd, POLLIN, deadline);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int
message_send(int fd, const struct client_message *message, int timeout_ms)
{
	struct {
		struct client_header header;
		uint8_t payload[CLIENT_MAX_PAYLOAD];
	} __attribute__((packed)) wire;

	if (message->size > CLIENT_MAX_PAYLOAD)
		return -EINVAL;
	wire.header.request = message->request;
	wire.header.flags = message->flags;
	wire.header.size = message->size;
	memcpy(wire.payload, &message->payload, message->size);
	return send_all(fd, &wire, sizeof(wire.header) + message->size, message->fds,
			message->fd_count, deadline_after(timeout_ms));
}

int
message_receive(int fd, struct client_message *message, int timeout_ms)
{
	int64_t deadline = deadline_after(timeout_ms);
	struct client_header header;
	int rc;

	memset(message, 0, sizeof(*message));
	rc = receive_all(fd, &header, sizeof(header), message->fds, &message->fd_count, deadline);
	if (rc < 0)
		goto close_fds;
	message->request = header.request;
	message->flags = header.flags;
	message->size = header.size;
	if (header.size > CLIENT_MAX_PAYLOAD) {
		rc = -EPROTO;
		goto close_fds;
	}
	rc = receive_all(fd, &message->payload, header.size, message->fds, &message->fd_count,
			 deadline);
	if (rc == 0)
		return 0;
close_fds:
	client_message_close_fds(message);
	return rc;
}

int
client_send(struct client *c, const struct client_message *message)
{
	return message_send(c->fd, message, c->timeout_ms);
}

int
client_send_raw(struct client *c, const void *data, size_t size, const int *fds,
		unsigned int fd_count)
{
	return send_all(c->fd, data, size, fds, fd_count, deadline_after(c->timeout_ms));
}

int
client_receive(struct client *c, struct client_message *message, int timeout_ms)
{
	return message_receive(c->fd, message, timeout_ms);
}

int
client_wait_closed(struct client *c, int timeout_ms)
{
	int64_t deadline = deadline_after(timeout_ms);
	unsigned int fd_count = 0;
	int fds[CLIENT_MAX_FDS];
	char byte;
	int rc;

	do {
		rc = receive_all(c->fd, &byte, 1, fds, &fd_count, deadline);
		while (fd_count > 0)
			close(fds[--fd_count]);
	} while (rc == 0 && deadline_left(deadline) > 0);
	if (rc == -ECONNRESET)
		return 0;
	return rc < 0 ? rc : -ETIMEDOUT;
}

void
client_message_close_fds(struct client_message *message)
{
	while (message->fd_count > 0)
		close(message->fds[--message->fd_count]);
}
