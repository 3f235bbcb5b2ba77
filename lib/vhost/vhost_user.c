/* SPDX-License-Identifier: BSD-3-Clause */
/* The only file that calls DPDK's vhost library. */
#include "vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_vhost.h>

#include "connection.h"
#include "controller.h"
#include "log.h"
#include "message.h"
#include "session.h"

_Static_assert(VHOST_SOCKET_PATH_MAX + 1 == sizeof(((struct sockaddr_un *)0)->sun_path),
	       "DPDK cuts longer paths silently");

/*
 * How long a front-end may take between a message's header and its payload (all that are known send
 * both in one call), and to make room for an answer. vhost-events serves nobody else meanwhile.
 */
#define SOCKET_TIMEOUT_MS 100
/* The kernel's SCM_MAX_FD: what comes with one message, wanted or not, is closed by us. */
#define MAX_DESCRIPTORS 253
/* Accepted connections of one socket; those that say nothing count too. */
#define MAX_CONNECTIONS 8

static char socket_folder[VHOST_SOCKET_PATH_MAX + 1];

/* A lock, because DPDK calls back on a thread of its own that takes no messages. */
static pthread_mutex_t endpoints_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, vhost_endpoint) endpoints = LIST_HEAD_INITIALIZER(endpoints);

/* By vid. Written by vhost-events, and by a worker after unregistering. */
static _Atomic(struct vhost_connection *) connections[RTE_MAX_VHOST_DEVICE];

/* ---- sockets ---- */

static void
set_address(struct sockaddr_un *address, const char *path)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof(address->sun_path), "%s", path);
}

/* What DPDK has accepted last; it does not tell its descriptors. vhost-events thread only. */
static int accepted_fd = -1;
/* Whether this OS thread is vhost-events: the one that accepts. */
static _Thread_local bool takes_messages;

/*
 * DPDK's accept(): the linker puts this in its place (--wrap=accept), so that nobody has to look
 * for the descriptor among those of the process, which are other threads' to close.
 */
int __wrap_accept(int listener, struct sockaddr *address, socklen_t *length);

int
__wrap_accept(int listener, struct sockaddr *address, socklen_t *length)
{
	/* DPDK may call it although nobody connects (a stale result of its poll()). */
	fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
	fcntl(listener, F_SETFD, FD_CLOEXEC);
	accepted_fd = accept4(listener, address, length, SOCK_CLOEXEC);
	takes_messages = true;
	return accepted_fd;
}

/* Descriptors that came with the message which is being received. vhost-events thread only. */
static struct {
	int fds[VHOST_MSG_MAX_FDS];
	int count;
} received;

static void
close_received(void)
{
	while (received.count > 0)
		vhost_msg_drop_fd(received.fds[--received.count]);
}

static void
take_fd(int fd, struct msghdr *header)
{
	if (received.count < VHOST_MSG_MAX_FDS) {
		received.fds[received.count++] = fd;
		return;
	}
	vhost_msg_drop_fd(fd);
	header->msg_flags |= MSG_CTRUNC; /* as if there had been no room: DPDK refuses it */
}

static void
take_fds(struct msghdr *header)
{
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(header); control != NULL;
	     control = CMSG_NXTHDR(header, control)) {
		size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(control) + i * sizeof(fd), sizeof(fd));
			take_fd(fd, header);
		}
	}
}

/*
 * DPDK's recvmsg(), put in its place as accept() is (EAL has one too, for secondary processes,
 * which there are none of). The descriptors stay with us: DPDK leaks those of messages that it
 * refuses before it asks (a queue beyond its own, SET_INFLIGHT_FD for no queue), and leaves them
 * open on exec.
 */
ssize_t __wrap_recvmsg(int fd, struct msghdr *header, int flags);

ssize_t
__wrap_recvmsg(int fd, struct msghdr *header, int flags)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	ssize_t length;

	/* A program may have sockets of its own. */
	if (takes_messages) {
		header->msg_control = control;
		header->msg_controllen = sizeof(control);
	}
	/* The bare system call: recvmsg() is this function. */
	length = syscall(SYS_recvmsg, fd, header, flags | MSG_CMSG_CLOEXEC);
	if (!takes_messages)
		return length;
	close_received();
	if (length >= 0)
		take_fds(header);
	header->msg_control = NULL;
	header->msg_controllen = 0;
	return length;
}

/* ---- callbacks; vhost-events thread ---- */

static struct vhost_endpoint *
find_endpoint(int vid)
{
	char path[VHOST_SOCKET_PATH_MAX + 1];
	struct vhost_endpoint *endpoint;

	if (rte_vhost_get_ifname(vid, path, sizeof(path)) != 0)
		return NULL;
	pthread_mutex_lock(&endpoints_lock);
	LIST_FOREACH (endpoint, &endpoints, link) {
		if (strcmp(endpoint->path, path) == 0)
			break;
	}
	pthread_mutex_unlock(&endpoints_lock);
	return endpoint;
}

static enum rte_vhost_msg_result
handle_message(struct vhost_connection *connection, struct vhost_message *message)
{
	bool close_it = false;
	int rc;

	memcpy(message->fds, received.fds, (size_t)received.count * sizeof(int));
	message->fd_num = received.count;
	received.count = 0;
	rc = vhost_msg_handle(connection, message, &close_it);
	if (rc == VHOST_REPLY)
		return RTE_VHOST_MSG_RESULT_REPLY;
	if (rc == VHOST_HANDLED)
		return RTE_VHOST_MSG_RESULT_OK;
	if (close_it) {
		/*
		 * Before the front-end sees the end: the used indices that it sees then are final.
		 */
		vhost_user_retire(connection);
		/* DPDK closes the connection of a failure that nobody wants to be told. */
		message->header.flags &= ~VHOST_MSG_NEED_REPLY;
	}
	return RTE_VHOST_MSG_RESULT_ERR;
}

/*
 * rte_vhost_driver_unregister() waits for the handler's end, but does not order its memory accesses
 * before what comes then: the store does, and vhost_user_unlisten()'s load.
 */
static atomic_bool handled;

static enum rte_vhost_msg_result
on_message(int vid, void *context)
{
	enum rte_vhost_msg_result result = handle_message(atomic_load(&connections[vid]), context);

	atomic_store_explicit(&handled, true, memory_order_release);
	return result;
}

/* After the answer to a message that was handled. */
static enum rte_vhost_msg_result
on_message_sent(int vid, void *context)
{
	(void)context;
	vhost_msg_sent(atomic_load(&connections[vid]));
	atomic_store_explicit(&handled, true, memory_order_release);
	return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
}

static const struct rte_vhost_user_extern_ops message_ops = {
	.pre_msg_handle = on_message,
	.post_msg_handle = on_message_sent,
};

static void
prepare_socket(int fd)
{
	struct timeval timeout = {.tv_usec = SOCKET_TIMEOUT_MS * 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

static int
on_new_connection(int vid)
{
	struct vhost_endpoint *endpoint = find_endpoint(vid);
	struct vhost_connection *connection;
	unsigned int count = 0;

	/* The vid may be that of a connection which vhost_user_unlisten() has yet to end. */
	atomic_store(&connections[vid], NULL);
	/* The poke has none. */
	if (endpoint == NULL)
		return 0;
	LIST_FOREACH (connection, &endpoint->connections, link)
		count++;
	connection = count < MAX_CONNECTIONS ? calloc(1, sizeof(*connection)) : NULL;
	if (connection == NULL ||
	    rte_vhost_extern_callback_register(vid, &message_ops, NULL) != 0) {
		log_warn("vhost %s: a connection is refused: %s", endpoint->controller->name,
			 count < MAX_CONNECTIONS ? "no memory" : "there are too many");
		free(connection);
		return -1;
	}
	connection->endpoint = endpoint;
	connection->vid = vid;
	connection->fd = accepted_fd;
	connection->reply_fd = -1;
	prepare_socket(connection->fd);
	LIST_INSERT_HEAD(&endpoint->connections, connection, link);
	atomic_store(&connections[vid], connection);
	return 0;
}

void
vhost_user_retire(struct vhost_connection *connection)
{
	struct vhost_endpoint *endpoint = connection->endpoint;

	if (connection->session == NULL)
		return;
	vhost_session_release(connection->session);
	connection->session = NULL;
	connection->refused = true;
	vhost_user_set_backend_fd(endpoint, -1);
	endpoint->active = NULL;
}

static void
end_connection(struct vhost_connection *connection)
{
	vhost_user_retire(connection);
	vhost_msg_sent(connection);
	LIST_REMOVE(connection, link);
	free(connection);
}

static void
on_destroy_connection(int vid)
{
	struct vhost_connection *connection = atomic_exchange(&connections[vid], NULL);

	close_received();
	if (connection != NULL)
		end_connection(connection);
}

static const struct rte_vhost_device_ops device_ops = {
	.new_connection = on_new_connection,
	.destroy_connection = on_destroy_connection,
};

/* ---- the poke ---- */

/*
 * vhost-events sleeps in poll() for up to a second and does not see a socket that begins to
 * listen meanwhile. It wakes up for a connection that DPDK makes as a client: one to ourselves.
 */
static pthread_mutex_t poke_lock =
	PTHREAD_MUTEX_INITIALIZER; /* workers may poke at the same time */
static char poke_path[VHOST_SOCKET_PATH_MAX + 1];

/* The socket is there for the moment of a poke only: a process that is killed leaves none. */
static int
open_poke(void)
{
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	set_address(&address, poke_path);
	unlink(poke_path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 1) != 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

/* [DPDK connects] True: vhost-events has been woken up. */
static bool
connect_poke(int listening)
{
	bool started = rte_vhost_driver_callback_register(poke_path, &device_ops) == 0 &&
		       rte_vhost_driver_start(poke_path) == 0;
	int fd = started ? accept4(listening, NULL, NULL, SOCK_CLOEXEC) : -1;

	if (fd >= 0)
		close(fd);
	return started;
}

static int
poke(void)
{
	int listening, rc = -EIO;

	pthread_mutex_lock(&poke_lock);
	listening = open_poke();
	if (listening >= 0) {
		if (rte_vhost_driver_register(
			    poke_path, RTE_VHOST_USER_CLIENT | RTE_VHOST_USER_NO_RECONNECT) == 0) {
			rc = connect_poke(listening) ? 0 : -EIO;
			rte_vhost_driver_unregister(poke_path);
		}
		close(listening);
		unlink(poke_path);
	} else {
		rc = listening;
	}
	pthread_mutex_unlock(&poke_lock);
	return rc;
}

/* ---- beginning and end ---- */

int
vhost_user_path(const char *name, char path[VHOST_SOCKET_PATH_MAX + 1], struct errmsg *err)
{
	int length = snprintf(path, VHOST_SOCKET_PATH_MAX + 1, "%s/%s", socket_folder, name);

	if (length > VHOST_SOCKET_PATH_MAX)
		return err_set(err, -ENAMETOOLONG,
			       "socket path %s/%s has %d bytes, at most %d are possible: choose a "
			       "shorter name or socket folder",
			       socket_folder, name, length, VHOST_SOCKET_PATH_MAX);
	return 0;
}

static int
check_folder(struct errmsg *err)
{
	struct stat st;

	if (stat(socket_folder, &st) != 0)
		return err_set(err, -errno, "socket folder %s: %s", socket_folder, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "socket folder %s: is not a folder", socket_folder);
	if (access(socket_folder, W_OK | X_OK) != 0)
		return err_set(err, -errno, "socket folder %s: %s", socket_folder, strerror(errno));
	return 0;
}

int
vhost_user_init(const char *socket_dir, struct errmsg *err)
{
	size_t length = strlen(socket_dir);
	int rc;

	while (length > 1 && socket_dir[length - 1] == '/')
		length--;
	if (length >= sizeof(socket_folder))
		return err_set(err, -ENAMETOOLONG, "socket folder %s: the path is too long",
			       socket_dir);
	memcpy(socket_folder, socket_dir, length);
	socket_folder[length] = '\0';
	if (mkdir(socket_folder, 0755) != 0 && errno != EEXIST)
		return err_set(err, -errno, "socket folder %s: cannot be made: %s", socket_folder,
			       strerror(errno));
	rc = check_folder(err);
	if (rc == 0) {
		char name[32];

		snprintf(name, sizeof(name), ".vhostd-%d", (int)getpid());
		rc = vhost_user_path(name, poke_path, err);
	}
	if (rc != 0)
		return rc;
	/* The first poke starts vhost-events. */
	rc = poke();
	if (rc != 0)
		return err_set(err, rc, "socket folder %s: DPDK's vhost library does not start: %s",
			       socket_folder, strerror(-rc));
	return 0;
}

/* Makes way for our socket: removes a stale one, and leaves alone what somebody uses. */
static int
clear_path(const char *path, struct errmsg *err)
{
	struct sockaddr_un address;
	struct stat st;
	int fd, rc;

	if (lstat(path, &st) != 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EADDRINUSE, "%s: exists and is not a socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	set_address(&address, path);
	rc = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : -errno;
	close(fd);
	if (rc != -ECONNREFUSED)
		return err_set(err, -EADDRINUSE, "%s: another process listens on it", path);
	if (unlink(path) != 0 && errno != ENOENT)
		return err_set(err, -errno, "%s: a stale socket that cannot be removed: %s", path,
			       strerror(errno));
	return 0;
}

static int
start_driver(struct vhost_endpoint *endpoint)
{
	const char *path = endpoint->path;

	/* Features are answered by us; DPDK learns by them that this is no network device. */
	if (rte_vhost_driver_set_features(path, endpoint->controller->features) != 0 ||
	    rte_vhost_driver_callback_register(path, &device_ops) != 0 ||
	    rte_vhost_driver_start(path) != 0)
		return -EIO;
	/* No reason to go back: a front-end may be served already. */
	if (poke() != 0)
		log_warn("vhost %s: the first front-end may have to wait for a second",
			 endpoint->controller->name);
	return 0;
}

static void
forget(struct vhost_endpoint *endpoint)
{
	pthread_mutex_lock(&endpoints_lock);
	LIST_REMOVE(endpoint, link);
	pthread_mutex_unlock(&endpoints_lock);
	pthread_mutex_destroy(&endpoint->backend_lock);
}

int
vhost_user_listen(struct vhost_endpoint *endpoint, struct errmsg *err)
{
	int rc;

	rc = check_folder(err);
	if (rc == 0)
		rc = clear_path(endpoint->path, err);
	if (rc != 0)
		return rc;
	if (rte_vhost_driver_register(endpoint->path, 0) != 0)
		return err_set(err, -ENOMEM, "%s: DPDK takes no more sockets", endpoint->path);
	LIST_INIT(&endpoint->connections);
	pthread_mutex_init(&endpoint->backend_lock, NULL);
	endpoint->backend_fd = -1;
	pthread_mutex_lock(&endpoints_lock);
	LIST_INSERT_HEAD(&endpoints, endpoint, link);
	pthread_mutex_unlock(&endpoints_lock);

	rc = start_driver(endpoint);
	if (rc != 0) {
		rte_vhost_driver_unregister(endpoint->path);
		forget(endpoint);
		return err_set(err, rc, "%s: cannot listen there; DPDK's reason is in the log",
			       endpoint->path);
	}
	return 0;
}

void
vhost_user_unlisten(struct vhost_endpoint *endpoint)
{
	struct vhost_connection *connection;

	rte_vhost_driver_unregister(endpoint->path);
	atomic_load_explicit(&handled, memory_order_acquire);
	/* The kernel closes what vhost-events waits for only when that wait ends. */
	poke();
	/* DPDK has ended these without a word; a vid may be somebody else's by now. */
	while ((connection = LIST_FIRST(&endpoint->connections)) != NULL) {
		struct vhost_connection *expected = connection;

		atomic_compare_exchange_strong(&connections[connection->vid], &expected, NULL);
		end_connection(connection);
	}
	forget(endpoint);
}

/* ---- requests of ours ---- */

void
vhost_user_set_backend_fd(struct vhost_endpoint *endpoint, int fd)
{
	int old;

	pthread_mutex_lock(&endpoint->backend_lock);
	old = endpoint->backend_fd;
	endpoint->backend_fd = fd;
	pthread_mutex_unlock(&endpoint->backend_lock);
	/* Not under the lock, which the app thread takes, too. */
	if (old >= 0)
		close(old);
}

/* rte_vhost_slave_config_change() would block where the front-end does not read. */
void
vhost_user_config_changed(struct vhost_endpoint *endpoint)
{
	const struct vhost_msg_header header = {.request = VHOST_BACKEND_CONFIG_CHANGE,
						.flags = 1 /* protocol version */};
	ssize_t sent = sizeof(header);

	pthread_mutex_lock(&endpoint->backend_lock);
	if (endpoint->backend_fd >= 0)
		sent = send(endpoint->backend_fd, &header, sizeof(header),
			    MSG_DONTWAIT | MSG_NOSIGNAL);
	pthread_mutex_unlock(&endpoint->backend_lock);
	if (sent != (ssize_t)sizeof(header))
		log_warn("vhost %s: the front-end cannot be told of a new configuration",
			 endpoint->controller->name);
}
