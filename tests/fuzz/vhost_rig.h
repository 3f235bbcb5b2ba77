/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rooms vhost, bdev and thread in one OS thread, for fuzz targets: lightweight threads are
 * polled in turn, time stands still until somebody waits for it, what may block runs at once, and
 * in place of DPDK's vhost library, below vhost_user.c, the target itself connects and hands over
 * messages. So the same input does the same.
 */
#ifndef VHOSTD_FUZZ_VHOST_RIG_H
#define VHOSTD_FUZZ_VHOST_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_vhost.h>

#include "bdev.h"
#include "bdev_modules.h"
#include "coroutine.h"
#include "env.h"
#include "errmsg.h"
#include "input.h"
#include "log.h"
#include "thread.h"
#include "ticks.h"
#include "vhost.h"
#include "vhost/message.h"
#include "work.h"

#define RIG_THREADS     64
#define RIG_SOCKETS     32
#define RIG_CONNECTIONS 16
#define RIG_WAIT_US     500    /* a step of time when nobody knows what to wait for */
#define RIG_ROUNDS_MAX  100000 /* of polling for one call */

/* What listens, as DPDK's table. */
struct rig_socket {
	char path[VHOST_SOCKET_PATH_MAX + 1]; /* "": free */
	uint64_t flags;
	const struct rte_vhost_device_ops *ops;
	int listener; /* -1: not started */
};

/* A connection; its vid is its index. */
struct rig_connection {
	struct rig_socket *socket; /* NULL: free */
	int fd, peer;              /* ours, and the front-end's end */
	const struct rte_vhost_user_extern_ops *ops;
};

static struct {
	struct thread *threads[RIG_THREADS];
	unsigned int thread_count;
	struct thread *app, *events;
	struct rig_socket sockets[RIG_SOCKETS];
	struct rig_connection connections[RIG_CONNECTIONS];
	unsigned int handling; /* messages: unregistering waits for them */
	void (*on_idle)(void); /* somebody waits and nobody has anything to do; may be NULL */
	char folder[PATH_MAX]; /* of the sockets */
} rig;

/* ---- in place of the work pool: at once ---- */

int
work_submit(struct work *work, void (*fn)(struct work *work))
{
	work->fn = fn;
	fn(work);
	return 0;
}

int
work_pool_start(const struct work_pool_opts *opts)
{
	(void)opts;
	return 0;
}

void
work_pool_stop(void)
{
}

void
work_pool_get_stats(struct work_pool_stats *stats)
{
	*stats = (struct work_pool_stats){0};
}

/* ---- in place of the EAL: one core, on which nothing runs ---- */

uint32_t
env_core_count(void)
{
	return 1;
}

uint32_t
env_core_first(void)
{
	return 0;
}

uint32_t
env_core_next(uint32_t core)
{
	(void)core;
	return ENV_NO_CORE;
}

uint32_t
env_core_main(void)
{
	return 0;
}

uint32_t
env_core_current(void)
{
	return ENV_NO_CORE;
}

int
env_core_launch(uint32_t core, int (*fn)(void *arg), void *arg)
{
	(void)core;
	(void)fn;
	(void)arg;
	return -EBUSY;
}

void
env_core_wait_all(void)
{
}

int
env_core_run_main(int (*fn)(void *arg), void *arg)
{
	return fn(arg);
}

const struct cpumask *
env_housekeeping_cpus(void)
{
	static const struct cpumask all = {{1}};

	return &all;
}

int
env_pin_to_housekeeping(void)
{
	return 0;
}

/* ---- threads ---- */

static inline int
rig_schedule(struct thread *thread)
{
	require(rig.thread_count < RIG_THREADS);
	rig.threads[rig.thread_count++] = thread;
	return 0;
}

/* Each thread once. Whether anything was done. */
static inline bool
rig_poll(void)
{
	bool busy = false;

	for (unsigned int i = 0; i < rig.thread_count; i++) {
		struct thread *thread = rig.threads[i];

		busy |= thread_poll(thread, env_ticks()) == POLLER_BUSY;
		if (!thread_is_exited(thread))
			continue;
		rig.threads[i--] = rig.threads[--rig.thread_count];
		thread_destroy(thread);
	}
	return busy;
}

/* As a reactor that wants to sleep does. */
static inline void
rig_arm_and_disarm(void)
{
	for (unsigned int i = 0; i < rig.thread_count; i++) {
		if (thread_arm(rig.threads[i]))
			thread_disarm(rig.threads[i]);
	}
}

/* Time goes on to what comes next. */
static inline void
rig_wait(void)
{
	uint64_t now = env_ticks(), due = UINT64_MAX;

	if (rig.on_idle != NULL)
		rig.on_idle();
	rig_arm_and_disarm();
	for (unsigned int i = 0; i < rig.thread_count; i++) {
		uint64_t next = thread_next_due(rig.threads[i]);

		due = next < due ? next : due;
	}
	if (due == UINT64_MAX)
		ticks_advance_us(RIG_WAIT_US);
	else if (due > now)
		ticks_set(due);
}

/* Until nobody has anything to do. */
static inline void
rig_settle(void)
{
	for (unsigned int rounds = 0; rig_poll(); rounds++)
		require(rounds < RIG_ROUNDS_MAX);
}

struct rig_call {
	void (*fn)(void *arg);
	void *arg;
	bool done;
};

static inline void
rig_call_run(void *arg)
{
	struct rig_call *call = arg;

	call->fn(call->arg);
	call->done = true;
}

/* Runs fn(arg) in a coroutine on thread to its end. */
static inline void
rig_run(struct thread *thread, void (*fn)(void *arg), void *arg)
{
	struct rig_call call = {.fn = fn, .arg = arg};
	unsigned int rounds = 0;

	require(coroutine_start(thread, "fuzz", rig_call_run, &call) == 0);
	while (!call.done) {
		require(rounds++ < RIG_ROUNDS_MAX);
		if (!rig_poll() && !call.done)
			rig_wait();
	}
}

/* ---- in place of DPDK ---- */

static inline struct rig_socket *
rig_socket_find(const char *path)
{
	for (int i = 0; i < RIG_SOCKETS; i++) {
		if (strcmp(rig.sockets[i].path, path) == 0)
			return &rig.sockets[i];
	}
	return NULL;
}

int
rte_vhost_driver_register(const char *path, uint64_t flags)
{
	struct rig_socket *socket = rig_socket_find("");

	require(path[0] != '\0' && rig_socket_find(path) == NULL);
	if (socket == NULL)
		return -1;
	snprintf(socket->path, sizeof(socket->path), "%s", path);
	socket->flags = flags;
	socket->ops = NULL;
	socket->listener = -1;
	return 0;
}

int
rte_vhost_driver_callback_register(const char *path, struct rte_vhost_device_ops const *const ops)
{
	rig_socket_find(path)->ops = ops;
	return 0;
}

int
rte_vhost_driver_set_features(const char *path, uint64_t features)
{
	(void)features;
	return rig_socket_find(path) != NULL ? 0 : -1;
}

int
rte_vhost_driver_start(const char *path)
{
	struct rig_socket *listening = rig_socket_find(path);
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	/* The poke: nobody sleeps here. */
	if (listening->flags & RTE_VHOST_USER_CLIENT)
		return 0;
	memcpy(address.sun_path, path, strlen(path) + 1);
	listening->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listening->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    listen(listening->listener, RIG_CONNECTIONS) != 0) {
		close(listening->listener);
		listening->listener = -1;
		return -1;
	}
	return 0;
}

static inline void
rig_connection_free(struct rig_connection *connection)
{
	close(connection->fd);
	if (connection->peer >= 0)
		close(connection->peer);
	memset(connection, 0, sizeof(*connection));
}

/* Ends the connections without a word, as DPDK does. */
int
rte_vhost_driver_unregister(const char *path)
{
	struct rig_socket *socket = rig_socket_find(path);

	if (socket == NULL)
		return -1;
	while (rig.handling > 0)
		coroutine_sleep(RIG_WAIT_US);
	for (int i = 0; i < RIG_CONNECTIONS; i++) {
		if (rig.connections[i].socket == socket)
			rig_connection_free(&rig.connections[i]);
	}
	if (socket->listener >= 0) {
		close(socket->listener);
		unlink(path);
	}
	socket->path[0] = '\0';
	return 0;
}

int
rte_vhost_get_ifname(int vid, char *buf, size_t len)
{
	if (rig.connections[vid].socket == NULL)
		return -1;
	snprintf(buf, len, "%s", rig.connections[vid].socket->path);
	return 0;
}

int
rte_vhost_extern_callback_register(int vid, struct rte_vhost_user_extern_ops const *const ops,
				   void *ctx)
{
	(void)ctx;
	rig.connections[vid].ops = ops;
	return 0;
}

/*
 * ---- connections; all of these in a coroutine of rig.events, which is the vhost-events thread
 * ----
 */

/* vhost_user.c's. */
int __wrap_accept(int listener, struct sockaddr *address, socklen_t *length);
ssize_t __wrap_recvmsg(int fd, struct msghdr *header, int flags);

/* Its vid, or -1: refused. */
static inline int
rig_connect(const char *path)
{
	struct rig_socket *listening = rig_socket_find(path);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct rig_connection *connection;
	int vid = 0;

	while (vid < RIG_CONNECTIONS && rig.connections[vid].socket != NULL)
		vid++;
	if (listening == NULL || listening->listener < 0 || vid == RIG_CONNECTIONS)
		return -1;
	connection = &rig.connections[vid];
	memcpy(address.sun_path, path, strlen(path) + 1);
	connection->socket = listening;
	connection->peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	require(connect(connection->peer, (struct sockaddr *)&address, sizeof(address)) == 0);
	connection->fd = __wrap_accept(listening->listener, NULL, NULL);
	require(connection->fd >= 0);
	if (listening->ops->new_connection(vid) == 0)
		return vid;
	rig_connection_free(connection);
	return -1;
}

static inline void
rig_disconnect(int vid)
{
	struct rig_connection *connection = &rig.connections[vid];

	/* Unregistering waits for vhost-events to be done with a connection. */
	rig.handling++;
	connection->socket->ops->destroy_connection(vid);
	rig_connection_free(connection);
	rig.handling--;
}

/* Closes what is attached to an answer, or to a message that is not sent. */
static inline void
rig_close_answer_fds(struct vhost_message *message)
{
	for (int i = 0; i < message->fd_num; i++)
		close(message->fds[i]);
	message->fd_num = 0;
}

/* The front-end sends it, with the fds in it. */
static inline void
rig_post(int peer, struct vhost_message *message)
{
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(message->fds))];
	} control = {0};
	struct iovec iov = {.iov_base = message,
			    .iov_len = sizeof(message->header) + message->header.size};
	struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
	size_t fd_bytes = (size_t)message->fd_num * sizeof(int);

	if (fd_bytes > 0) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(fd_bytes);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fd_bytes);
		memcpy(CMSG_DATA(&control.header), message->fds, fd_bytes);
	}
	require(sendmsg(peer, &header, MSG_NOSIGNAL) == (ssize_t)iov.iov_len);
	for (int i = 0; i < message->fd_num; i++)
		close(message->fds[i]);
}

/* DPDK receives it: the header with the fds, then the payload. */
static inline void
rig_receive(int fd, struct vhost_message *message)
{
	uint8_t control[CMSG_SPACE(sizeof(message->fds))];
	struct iovec iov = {.iov_base = &message->header, .iov_len = sizeof(message->header)};
	struct msghdr header = {.msg_iov = &iov,
				.msg_iovlen = 1,
				.msg_control = control,
				.msg_controllen = sizeof(control)};

	message->fd_num = 0;
	memset(message->fds, -1, sizeof(message->fds));
	require(__wrap_recvmsg(fd, &header, 0) == (ssize_t)iov.iov_len);
	require(read(fd, message->payload, message->header.size) == (ssize_t)message->header.size);
}

/*
 * Sends a message with the fds in it, which become the other side's, and handles it as DPDK does:
 * an error that nobody is told of ends the connection. Returns what the handler did; an answer is
 * in *message, with an fd of the caller's. A front-end that has hung up says nothing more: that is
 * an error, too.
 */
static inline enum rte_vhost_msg_result
rig_send(int vid, struct vhost_message *message)
{
	struct rig_connection *connection = &rig.connections[vid];
	enum rte_vhost_msg_result result;

	if (connection->peer < 0) {
		rig_close_answer_fds(message);
		return RTE_VHOST_MSG_RESULT_ERR;
	}
	rig_post(connection->peer, message);
	rig.handling++;
	rig_receive(connection->fd, message);
	result = connection->ops->pre_msg_handle(vid, message);
	require(result == RTE_VHOST_MSG_RESULT_OK || result == RTE_VHOST_MSG_RESULT_ERR ||
		result == RTE_VHOST_MSG_RESULT_REPLY);
	if (result == RTE_VHOST_MSG_RESULT_REPLY) {
		require(message->header.size <= VHOST_MSG_PAYLOAD);
		for (int i = 0; i < message->fd_num; i++)
			message->fds[i] = fcntl(message->fds[i], F_DUPFD_CLOEXEC, 0);
	} else {
		require(message->fd_num == 0);
	}
	if (result != RTE_VHOST_MSG_RESULT_ERR && connection->ops->post_msg_handle != NULL)
		connection->ops->post_msg_handle(vid, message);
	rig.handling--;
	if (result == RTE_VHOST_MSG_RESULT_ERR && !(message->header.flags & VHOST_MSG_NEED_REPLY))
		rig_disconnect(vid);
	return result;
}
/* ---- beginning and end ---- */

static inline void
rig_init_vhost(void *arg)
{
	struct errmsg err = {""};

	(void)arg;
	require(bdev_lib_init() == 0);
	require(vhost_lib_init(rig.folder, &err) == 0);
}

static inline void
rig_fini_vhost(void *arg)
{
	(void)arg;
	vhost_lib_fini();
	bdev_lib_fini();
}

/* At the process's end: only the folder would be left behind. */
static inline void
rig_remove_folder(void)
{
	char path[PATH_MAX + 32];

	for (int i = 0; i < RIG_SOCKETS; i++) {
		if (rig.sockets[i].path[0] != '\0')
			unlink(rig.sockets[i].path);
	}
	snprintf(path, sizeof(path), "%s/.vhostd-%d", rig.folder, (int)getpid());
	unlink(path);
	rmdir(rig.folder);
}

static inline void
rig_start(void)
{
	/* Zeroes there say that a thread is on no reactor. */
	const struct thread_lib_ops ops = {.schedule = rig_schedule, .ctx_size = 512};
	const char *tmp = getenv("TMPDIR");

	log_set_print_level(LOG_LEVEL_DISABLED);
	snprintf(rig.folder, sizeof(rig.folder), "%s/fuzz-XXXXXX", tmp != NULL ? tmp : "/tmp");
	require(mkdtemp(rig.folder) != NULL);
	atexit(rig_remove_folder);
	thread_lib_init(&ops);
	rig.app = thread_create("app", NULL);
	rig.events = thread_create("vhost-events", NULL);
	rig_run(rig.app, rig_init_vhost, NULL);
}

#endif
