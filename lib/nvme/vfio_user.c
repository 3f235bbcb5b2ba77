/* SPDX-License-Identifier: BSD-3-Clause */
#include "vfio_user.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "dma.h"
#include "log.h"

#define VERSION_MAJOR    0
#define VERSION_MINOR    1
#define VERSION_DATA_MAX 4096
#define CONNECT_RETRY_MS 10

unsigned int vfio_user_reply_ms = 5000;

struct vfio_user {
	/* set once */
	int fd;
	uint32_t max_fds;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];

	/* any thread */
	_Atomic bool gone;

	/*
	 * Under lock: requests come from any thread, but one is on the wire at a time. A mutex and
	 * not messages: who waits for a reply blocks anyhow, and some are no lightweight threads.
	 */
	pthread_mutex_t lock;
	uint16_t last_id;
};

/* ---- waiting ---- */

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* 0, or -ETIMEDOUT. */
static int
wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};

	for (;;) {
		int64_t left = deadline - now_ms();
		int rc = left > 0 ? poll(&poll_fd, 1, (int)left) : 0;

		if (rc > 0)
			return 0;
		if (rc == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* ---- bytes and file descriptors ---- */

/* Sends all of it; the fds go with the first byte. */
static int
send_all(int fd, struct iovec *iov, size_t iov_count, const int *fds, uint32_t fd_count,
	 int64_t deadline)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(VFIO_USER_MAX_FDS * sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = iov_count};
	ssize_t sent;
	int rc;

	if (fd_count > 0) {
		message.msg_control = control.space;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
	}
	while (message.msg_iovlen > 0) {
		sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (sent < 0) {
			rc = wait_for(fd, POLLOUT, deadline);
			if (rc != 0)
				return rc;
			continue;
		}
		message.msg_control = NULL;
		message.msg_controllen = 0;
		while (message.msg_iovlen > 0 && (size_t)sent >= message.msg_iov->iov_len) {
			sent -= (ssize_t)message.msg_iov->iov_len;
			message.msg_iov++;
			message.msg_iovlen--;
		}
		if (message.msg_iovlen > 0) {
			message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
			message.msg_iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

static void
close_fds(struct vfio_user_call *call)
{
	while (call->reply_fd_count > 0)
		close(call->reply_fds[--call->reply_fd_count]);
}

/* Keeps what came along, also when it is too much (-EPROTO), so that nothing leaks. */
static int
keep_fds(struct msghdr *message, struct vfio_user_call *call)
{
	int rc = message->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
	     header = CMSG_NXTHDR(message, header)) {
		uint32_t count = (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (uint32_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
			if (call->reply_fd_count < VFIO_USER_MAX_FDS) {
				call->reply_fds[call->reply_fd_count++] = fd;
			} else {
				close(fd);
				rc = -EPROTO;
			}
		}
	}
	return rc;
}

/* Receives just size bytes, and the fds with them. -ECONNRESET: the other side hung up. */
static int
receive_all(int fd, void *data, size_t size, struct vfio_user_call *call, int64_t deadline)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(VFIO_USER_MAX_FDS * sizeof(int))];
	} control;
	size_t done = 0;
	int rc;

	while (done < size) {
		struct iovec iov = {(char *)data + done, size - done};
		struct msghdr message = {.msg_iov = &iov,
					 .msg_iovlen = 1,
					 .msg_control = control.space,
					 .msg_controllen = sizeof(control.space)};
		ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (got == 0)
			return -ECONNRESET;
		rc = got > 0 ? keep_fds(&message, call) : wait_for(fd, POLLIN, deadline);
		if (rc != 0)
			return rc;
		if (got > 0)
			done += (size_t)got;
	}
	return 0;
}

/* ---- messages ---- */

/*
 * A command of the server's: it may send some, but all our memory can be mapped, and interrupts are
 * eventfds, so that it need not. What it sends is skipped; the deadline bounds how much.
 */
static int
refuse_command(struct vfio_user *connection, const struct vfio_user_header *header,
	       struct vfio_user_call *call, int64_t deadline)
{
	struct vfio_user_header reply = {.id = header->id,
					 .command = header->command,
					 .size = sizeof(reply),
					 .flags = VFIO_USER_REPLY | VFIO_USER_ERROR,
					 .error = EOPNOTSUPP};
	struct iovec iov = {&reply, sizeof(reply)};
	size_t left = header->size - sizeof(*header);
	char skipped[512];
	int rc = 0;

	while (rc == 0 && left > 0) {
		size_t piece = left < sizeof(skipped) ? left : sizeof(skipped);

		rc = receive_all(connection->fd, skipped, piece, call, deadline);
		left -= piece;
		if (now_ms() > deadline)
			rc = -ETIMEDOUT;
	}
	close_fds(call);
	if (rc == 0 && (header->flags & VFIO_USER_NO_REPLY) == 0)
		rc = send_all(connection->fd, &iov, 1, NULL, 0, deadline);
	return rc;
}

/* The reply's header, with what a reply must be checked. */
static int
receive_header(struct vfio_user *connection, struct vfio_user_call *call,
	       struct vfio_user_header *header, int64_t deadline)
{
	int rc;

	for (;;) {
		rc = receive_all(connection->fd, header, sizeof(*header), call, deadline);
		if (rc != 0)
			return rc;
		if (header->size < sizeof(*header))
			return -EPROTO;
		if ((header->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_COMMAND)
			break;
		rc = refuse_command(connection, header, call, deadline);
		if (rc != 0)
			return rc;
		if (now_ms() > deadline)
			return -ETIMEDOUT;
	}
	if ((header->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_REPLY ||
	    header->id != connection->last_id || header->command != call->command)
		return -EPROTO;
	if ((header->flags & VFIO_USER_ERROR) != 0 && header->size != sizeof(*header))
		return -EPROTO;
	if (header->size - sizeof(*header) > call->reply_max)
		return -EMSGSIZE;
	return 0;
}

/* *answer: what the server says. Returns what is wrong with the connection. */
static int
exchange(struct vfio_user *connection, struct vfio_user_call *call, int *answer)
{
	const int64_t deadline = now_ms() + vfio_user_reply_ms;
	struct vfio_user_header header = {.id = ++connection->last_id,
					  .command = call->command,
					  .size = (uint32_t)sizeof(header) + call->request_size,
					  .flags = VFIO_USER_COMMAND};
	struct iovec iov[] = {{&header, sizeof(header)},
			      {(void *)(uintptr_t)call->request, call->request_size}};
	int rc = send_all(connection->fd, iov, call->request_size > 0 ? 2 : 1, call->fds,
			  call->fd_count, deadline);

	*answer = 0;
	if (rc == 0)
		rc = receive_header(connection, call, &header, deadline);
	if (rc != 0)
		return rc;
	if ((header.flags & VFIO_USER_ERROR) != 0)
		*answer = header.error > 0 && header.error < 4096 ? -(int)header.error : -EIO;
	call->reply_size = header.size - (uint32_t)sizeof(header);
	return receive_all(connection->fd, call->reply, call->reply_size, call, deadline);
}

void
vfio_user_give_up(struct vfio_user *connection, const char *reason)
{
	if (atomic_exchange(&connection->gone, true))
		return;
	log_warn("vfio-user %s: the device is gone: %s", connection->path, reason);
	shutdown(connection->fd, SHUT_RDWR);
}

int
vfio_user_call(struct vfio_user *connection, struct vfio_user_call *call)
{
	int answer = 0, rc = -ENODEV;

	call->reply_size = 0;
	call->reply_fd_count = 0;
	pthread_mutex_lock(&connection->lock);
	if (!atomic_load(&connection->gone)) {
		rc = exchange(connection, call, &answer);
		if (rc != 0)
			vfio_user_give_up(connection, rc == -EPROTO     ? "it broke the protocol"
						      : rc == -EMSGSIZE ? "its reply is too long"
									: strerror(-rc));
	}
	pthread_mutex_unlock(&connection->lock);
	if (rc != 0)
		rc = -ENODEV;
	else
		rc = answer;
	if (rc != 0 || !call->wants_fds)
		close_fds(call);
	return rc;
}

bool
vfio_user_is_gone(struct vfio_user *connection)
{
	struct pollfd poll_fd = {.fd = connection->fd, .events = POLLRDHUP};

	if (atomic_load(&connection->gone))
		return true;
	if (poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0)
		vfio_user_give_up(connection, "its process hung up");
	return atomic_load(&connection->gone);
}

uint32_t
vfio_user_max_fds(const struct vfio_user *connection)
{
	return connection->max_fds;
}

/* ---- connecting ---- */

/*
 * What the server can: "capabilities" of its version data. -EPROTO: not as specified; -EOPNOTSUPP:
 * it cannot do with our pages.
 */
static int
read_capabilities(struct vfio_user *connection, const char *data, size_t size)
{
	json_t *root = json_loadb(data, size, JSON_DISABLE_EOF_CHECK, NULL);
	json_t *capabilities = json_object_get(root, "capabilities");
	json_t *max_fds = json_object_get(capabilities, "max_msg_fds");
	json_t *page_sizes = json_object_get(capabilities, "pgsizes");
	int rc = 0;

	if (!json_is_object(root) || (max_fds != NULL && json_integer_value(max_fds) < 1))
		rc = -EPROTO;
	else if (page_sizes != NULL && (json_integer_value(page_sizes) & DMA_PAGE_SIZE) == 0)
		rc = -EOPNOTSUPP;
	connection->max_fds = 1;
	if (rc == 0 && max_fds != NULL)
		connection->max_fds = json_integer_value(max_fds) < VFIO_USER_MAX_FDS
					      ? (uint32_t)json_integer_value(max_fds)
					      : VFIO_USER_MAX_FDS;
	json_decref(root);
	return rc;
}

static int
negotiate(struct vfio_user *connection)
{
	static const char capabilities[] =
		"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}";
	char request[sizeof(struct vfio_user_version) + sizeof(capabilities)];
	char reply[sizeof(struct vfio_user_version) + VERSION_DATA_MAX];
	struct vfio_user_version version = {VERSION_MAJOR, VERSION_MINOR};
	struct vfio_user_call call = {.command = VFIO_USER_VERSION,
				      .request = request,
				      .request_size = sizeof(request),
				      .reply = reply,
				      .reply_max = sizeof(reply)};
	int rc;

	_Static_assert(VFIO_USER_MAX_FDS == 16, "max_msg_fds says so");
	memcpy(request, &version, sizeof(version));
	memcpy(request + sizeof(version), capabilities, sizeof(capabilities));
	rc = vfio_user_call(connection, &call);
	if (rc != 0)
		return rc;
	if (call.reply_size < sizeof(version))
		return -EPROTO;
	memcpy(&version, reply, sizeof(version));
	if (version.major != VERSION_MAJOR || version.minor > VERSION_MINOR)
		return -EPROTO;
	connection->max_fds = 1;
	if (call.reply_size == sizeof(version))
		return 0;
	return read_capabilities(connection, reply + sizeof(version),
				 call.reply_size - sizeof(version));
}

/* A server whose backlog is full gets time. 0 or a negative errno. */
static int
connect_by_deadline(int fd, const struct sockaddr_un *address, int64_t deadline)
{
	while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
		struct timespec pause = {.tv_nsec = CONNECT_RETRY_MS * 1000000};

		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (now_ms() > deadline)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int
vfio_user_connect(const char *path, struct vfio_user **connection, struct errmsg *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct vfio_user *made;
	int rc;

	if (strlen(path) >= sizeof(address.sun_path))
		return err_set(err, -ENAMETOOLONG, "%s: longer than the %zu bytes of a socket",
			       path, sizeof(address.sun_path) - 1);
	made = calloc(1, sizeof(*made));
	if (made == NULL)
		return err_set(err, -ENOMEM, "%s: %s", path, strerror(ENOMEM));
	strcpy(address.sun_path, path);
	strcpy(made->path, path);
	pthread_mutex_init(&made->lock, NULL);
	made->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = made->fd >= 0 ? connect_by_deadline(made->fd, &address, now_ms() + vfio_user_reply_ms)
			   : -errno;
	if (rc == 0)
		rc = negotiate(made);
	if (rc == 0) {
		*connection = made;
		return 0;
	}
	vfio_user_close(made);
	if (rc == -EPROTO)
		return err_set(err, rc, "%s: the server does not speak vfio-user 0.1", path);
	if (rc == -EOPNOTSUPP)
		return err_set(err, rc, "%s: the server cannot map memory of 4 KiB pages", path);
	if (rc == -ENODEV)
		return err_set(err, rc,
			       "%s: the server does not answer as vfio-user asks for; it may be in "
			       "use by another client",
			       path);
	return err_set(err, rc == -ENOENT ? -ENODEV : rc, "%s: %s", path, strerror(-rc));
}

void
vfio_user_close(struct vfio_user *connection)
{
	if (connection == NULL)
		return;
	if (connection->fd >= 0)
		close(connection->fd);
	pthread_mutex_destroy(&connection->lock);
	free(connection);
}
