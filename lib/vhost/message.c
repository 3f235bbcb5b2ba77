/* SPDX-License-Identifier: BSD-3-Clause */
#include "message.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "controller.h"
#include "log.h"
#include "session.h"

LOG_FLAG(vhost)

/* Refused messages after which a connection ends. */
#define MAX_FAILURES 16

#define PROTOCOL_FEATURES                                                                          \
	(1ULL << VHOST_PROTOCOL_F_MQ | 1ULL << VHOST_PROTOCOL_F_REPLY_ACK |                        \
	 1ULL << VHOST_PROTOCOL_F_BACKEND_REQ | 1ULL << VHOST_PROTOCOL_F_CONFIG |                  \
	 1ULL << VHOST_PROTOCOL_F_INFLIGHT_SHMFD)

#define VHOST_MSG_VRING_ADDR_LOG 1u

static struct vhost_controller *
controller_of(const struct vhost_connection *connection)
{
	return connection->endpoint->controller;
}

/* ---- payloads ---- */

static uint64_t
get_u64(const struct vhost_message *message)
{
	uint64_t value;

	memcpy(&value, message->payload, sizeof(value));
	return value;
}

static int
reply(struct vhost_message *message, const void *payload, uint32_t size)
{
	if (size > 0)
		memcpy(message->payload, payload, size);
	message->header.size = size;
	return VHOST_REPLY;
}

static int
reply_u64(struct vhost_message *message, uint64_t value)
{
	return reply(message, &value, sizeof(value));
}

/* {index, number}; -EINVAL for a queue that does not exist. */
static int
get_state(const struct vhost_connection *connection, const struct vhost_message *message,
	  struct vhost_msg_state *state)
{
	memcpy(state, message->payload, sizeof(*state));
	return state->index < controller_of(connection)->queue_count ? 0 : -EINVAL;
}

void
vhost_msg_drop_fd(int fd)
{
	static const struct linger never;

	/* Nothing but a socket has that, and then closing it waits for its peer. */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &never, sizeof(never));
	close(fd);
}

static void
close_fds(struct vhost_message *message)
{
	for (int i = 0; i < message->fd_num; i++) {
		if (message->fds[i] >= 0)
			vhost_msg_drop_fd(message->fds[i]);
		message->fds[i] = -1;
	}
	message->fd_num = 0;
}

static bool
is_eventfd(int fd)
{
	static const char wanted[] = "anon_inode:[eventfd]";
	char path[32], target[sizeof(wanted)];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, target, sizeof(target));
	return length == (ssize_t)sizeof(wanted) - 1 && memcmp(target, wanted, (size_t)length) == 0;
}

/*
 * The queue and the eventfd (-1: none) of SET_VRING_KICK, _CALL and _ERR, which is the caller's
 * now. Anything but an eventfd is refused: writing to it, or waiting for it, could take for ever.
 */
static int
take_vring_fd(const struct vhost_connection *connection, struct vhost_message *message,
	      uint32_t *index, int *fd)
{
	uint64_t value = get_u64(message);
	int expected = value & VHOST_MSG_VRING_NO_FD ? 0 : 1;

	*index = value & VHOST_MSG_VRING_INDEX_MASK;
	*fd = -1;
	if (*index >= controller_of(connection)->queue_count || message->fd_num != expected ||
	    (value & ~(uint64_t)(VHOST_MSG_VRING_INDEX_MASK | VHOST_MSG_VRING_NO_FD)) != 0)
		return -EINVAL;
	if (expected == 0)
		return 0;
	if (!is_eventfd(message->fds[0]))
		return -EBADF;
	*fd = message->fds[0];
	message->fds[0] = -1;
	return 0;
}

/* One that the data path writes to must not block it. */
static void
set_nonblocking(int fd)
{
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* ---- handlers ---- */

static int
get_features(struct vhost_connection *connection, struct vhost_message *message)
{
	return reply_u64(message, controller_of(connection)->features);
}

static int
set_features(struct vhost_connection *connection, struct vhost_message *message)
{
	return vhost_session_set_features(connection->session, get_u64(message));
}

static int
get_protocol_features(struct vhost_connection *connection, struct vhost_message *message)
{
	(void)connection;
	return reply_u64(message, PROTOCOL_FEATURES);
}

static int
set_protocol_features(struct vhost_connection *connection, struct vhost_message *message)
{
	(void)connection;
	return get_u64(message) & ~PROTOCOL_FEATURES ? -EINVAL : 0;
}

static int
get_queue_num(struct vhost_connection *connection, struct vhost_message *message)
{
	return reply_u64(message, controller_of(connection)->queue_count);
}

static int
set_owner(struct vhost_connection *connection, struct vhost_message *message)
{
	(void)connection;
	(void)message;
	return 0;
}

static int
reset_owner(struct vhost_connection *connection, struct vhost_message *message)
{
	(void)message;
	return vhost_session_reset(connection->session);
}

static int
set_mem_table(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_msg_memory table;
	size_t size;

	memcpy(&table, message->payload, sizeof(table));
	if (table.count == 0 || table.count > VHOST_MEM_MAX_REGIONS ||
	    message->fd_num != (int)table.count)
		return -EINVAL;
	size = offsetof(struct vhost_msg_memory, regions) + table.count * sizeof(table.regions[0]);
	if (message->header.size < size)
		return -EINVAL;
	return vhost_session_set_mem_table(connection->session, table.regions, message->fds,
					   table.count);
}

static int
set_vring_num(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_msg_state state;
	int rc = get_state(connection, message, &state);

	if (rc != 0)
		return rc;
	return vhost_session_set_vring_num(connection->session, state.index, state.num);
}

static int
set_vring_base(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_msg_state state;
	int rc = get_state(connection, message, &state);

	if (rc != 0)
		return rc;
	return vhost_session_set_vring_base(connection->session, state.index, state.num);
}

static int
get_vring_base(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_msg_state state;
	int rc = get_state(connection, message, &state);

	if (rc == 0)
		rc = vhost_session_get_vring_base(connection->session, state.index, &state.num);
	if (rc != 0)
		return rc;
	return reply(message, &state, sizeof(state));
}

static int
set_vring_enable(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_msg_state state;
	int rc = get_state(connection, message, &state);

	if (rc != 0 || state.num > 1)
		return -EINVAL;
	return vhost_session_set_vring_enable(connection->session, state.index, state.num == 1);
}

static int
set_vring_addr(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_msg_addr payload;
	struct vhost_ring_addr addr;

	memcpy(&payload, message->payload, sizeof(payload));
	/* Writes to the used ring are not logged: LOG_ALL is not offered. */
	if (payload.index >= controller_of(connection)->queue_count ||
	    payload.flags & VHOST_MSG_VRING_ADDR_LOG)
		return -EINVAL;
	addr = (struct vhost_ring_addr){
		.desc = payload.desc, .used = payload.used, .avail = payload.avail};
	return vhost_session_set_vring_addr(connection->session, payload.index, &addr);
}

static int
set_vring_kick(struct vhost_connection *connection, struct vhost_message *message)
{
	uint32_t index;
	int fd, rc;

	rc = take_vring_fd(connection, message, &index, &fd);
	if (rc != 0)
		return rc;
	return vhost_session_set_vring_kick(connection->session, index, fd);
}

/* Of the eventfds that we write: a full one must not hold us up. */
static int
set_signal_fd(struct vhost_connection *connection, struct vhost_message *message,
	      int (*set)(struct vhost_session *session, uint32_t index, int fd))
{
	uint32_t index;
	int fd, rc;

	rc = take_vring_fd(connection, message, &index, &fd);
	if (rc != 0)
		return rc;
	set_nonblocking(fd);
	return set(connection->session, index, fd);
}

static int
set_vring_call(struct vhost_connection *connection, struct vhost_message *message)
{
	return set_signal_fd(connection, message, vhost_session_set_vring_call);
}

static int
set_vring_err(struct vhost_connection *connection, struct vhost_message *message)
{
	return set_signal_fd(connection, message, vhost_session_set_vring_err);
}

static bool
has_socket_option(int fd, int option, int wanted)
{
	int value;
	socklen_t length = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 && value == wanted;
}

/* Others than those of this machine may linger when they are closed, which is not done here. */
static int
set_backend_req_fd(struct vhost_connection *connection, struct vhost_message *message)
{
	if (!has_socket_option(message->fds[0], SO_DOMAIN, AF_UNIX) ||
	    !has_socket_option(message->fds[0], SO_TYPE, SOCK_STREAM))
		return -ENOTSOCK;
	vhost_user_set_backend_fd(connection->endpoint, message->fds[0]);
	message->fds[0] = -1;
	return 0;
}

/*
 * Front-ends ask for 57 to 256 bytes and expect just as many; what the device does not have is
 * zero. A payload of no bytes tells them of an error.
 */
static int
get_config(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_controller *controller = controller_of(connection);
	uint8_t space[VHOST_MSG_CONFIG_SPACE] = {0};
	struct vhost_msg_config config;

	memcpy(&config, message->payload, sizeof(config));
	if (config.size > VHOST_MSG_CONFIG_SPACE ||
	    config.offset > VHOST_MSG_CONFIG_SPACE - config.size ||
	    message->header.size != VHOST_MSG_CONFIG_HEADER + config.size)
		return reply(message, NULL, 0);
	controller->ops->get_config(controller->device, space);
	memcpy(config.data, space + config.offset, config.size);
	return reply(message, &config, message->header.size);
}

static int
set_config(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_controller *controller = controller_of(connection);
	struct vhost_msg_config config;

	memcpy(&config, message->payload, sizeof(config));
	if (config.size > VHOST_MSG_CONFIG_SPACE ||
	    config.offset > VHOST_MSG_CONFIG_SPACE - config.size ||
	    message->header.size != VHOST_MSG_CONFIG_HEADER + config.size)
		return -EINVAL;
	return controller->ops->set_config(controller->device, config.offset, config.size,
					   config.data);
}

static struct vhost_inflight_layout
get_inflight_layout(const struct vhost_message *message)
{
	struct vhost_inflight_layout layout = {0};

	memcpy(&layout, message->payload, VHOST_MSG_INFLIGHT_MIN);
	return layout;
}

static int
get_inflight_fd(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_inflight_layout layout = get_inflight_layout(message);
	int fd = vhost_session_get_inflight(connection->session, &layout);

	if (fd < 0)
		return fd;
	connection->reply_fd = fd;
	/* As long as the question: front-ends insist on it. */
	return reply(message, &layout, message->header.size);
}

static int
set_inflight_fd(struct vhost_connection *connection, struct vhost_message *message)
{
	struct vhost_inflight_layout layout = get_inflight_layout(message);

	return vhost_session_set_inflight(connection->session, &layout, message->fds[0]);
}

/* ---- the table ---- */

static const struct rule {
	const char *name;            /* NULL: not a message that we take */
	uint32_t min_size, max_size; /* of the payload */
	int min_fds, max_fds;
	int (*handle)(struct vhost_connection *connection, struct vhost_message *message);
} rules[VHOST_MSG_COUNT] = {
#define MEMORY_MAX   sizeof(struct vhost_msg_memory)
#define CONFIG_MAX   sizeof(struct vhost_msg_config)
#define INFLIGHT_MAX sizeof(struct vhost_inflight_layout)
	[VHOST_MSG_GET_FEATURES] = {"GET_FEATURES", 0, 8, 0, 0, get_features},
	[VHOST_MSG_SET_FEATURES] = {"SET_FEATURES", 8, 8, 0, 0, set_features},
	[VHOST_MSG_SET_OWNER] = {"SET_OWNER", 0, 8, 0, 0, set_owner},
	[VHOST_MSG_RESET_OWNER] = {"RESET_OWNER", 0, 8, 0, 0, reset_owner},
	[VHOST_MSG_SET_MEM_TABLE] = {"SET_MEM_TABLE", 40, MEMORY_MAX, 1, 8, set_mem_table},
	[VHOST_MSG_SET_VRING_NUM] = {"SET_VRING_NUM", 8, 8, 0, 0, set_vring_num},
	[VHOST_MSG_SET_VRING_ADDR] = {"SET_VRING_ADDR", 40, 40, 0, 0, set_vring_addr},
	[VHOST_MSG_SET_VRING_BASE] = {"SET_VRING_BASE", 8, 8, 0, 0, set_vring_base},
	[VHOST_MSG_GET_VRING_BASE] = {"GET_VRING_BASE", 8, 8, 0, 0, get_vring_base},
	[VHOST_MSG_SET_VRING_KICK] = {"SET_VRING_KICK", 8, 8, 0, 1, set_vring_kick},
	[VHOST_MSG_SET_VRING_CALL] = {"SET_VRING_CALL", 8, 8, 0, 1, set_vring_call},
	[VHOST_MSG_SET_VRING_ERR] = {"SET_VRING_ERR", 8, 8, 0, 1, set_vring_err},
	[VHOST_MSG_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", 0, 8, 0, 0,
					     get_protocol_features},
	[VHOST_MSG_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", 8, 8, 0, 0,
					     set_protocol_features},
	[VHOST_MSG_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", 0, 8, 0, 0, get_queue_num},
	[VHOST_MSG_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", 8, 8, 0, 0, set_vring_enable},
	[VHOST_MSG_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", 0, 8, 1, 1, set_backend_req_fd},
	[VHOST_MSG_GET_CONFIG] = {"GET_CONFIG", VHOST_MSG_CONFIG_HEADER, CONFIG_MAX, 0, 0,
				  get_config},
	[VHOST_MSG_SET_CONFIG] = {"SET_CONFIG", VHOST_MSG_CONFIG_HEADER, CONFIG_MAX, 0, 0,
				  set_config},
	[VHOST_MSG_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", VHOST_MSG_INFLIGHT_MIN, INFLIGHT_MAX, 0,
				       0, get_inflight_fd},
	[VHOST_MSG_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", VHOST_MSG_INFLIGHT_MIN, INFLIGHT_MAX, 1,
				       1, set_inflight_fd},
};

/* ---- who is served ---- */

static bool
peer_is_gone(const struct vhost_connection *connection)
{
	struct pollfd pollfd = {.fd = connection->fd, .events = POLLRDHUP};

	return poll(&pollfd, 1, 0) == 1 && (pollfd.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/*
 * At the first message, not at accept: a front-end that closes and connects again at once is
 * accepted before the end of its first connection is seen.
 */
static int
begin_session(struct vhost_connection *connection)
{
	struct vhost_endpoint *endpoint = connection->endpoint;
	int rc;

	if (endpoint->active != NULL && peer_is_gone(endpoint->active))
		vhost_user_retire(endpoint->active);
	if (endpoint->active != NULL) {
		connection->refused = true;
		return -EBUSY;
	}
	rc = vhost_session_create(endpoint->controller, connection->vid, &connection->session);
	if (rc == 0)
		endpoint->active = connection;
	return rc;
}

/* DPDK would wait for room for each answer, and forget that there was none. */
static bool
reads_answers(const struct vhost_connection *connection)
{
	struct pollfd pollfd = {.fd = connection->fd, .events = POLLOUT};

	return poll(&pollfd, 1, 0) == 1;
}

static int
apply_rule(struct vhost_connection *connection, const struct rule *rule,
	   struct vhost_message *message)
{
	if (rule->name == NULL)
		return -EOPNOTSUPP;
	if (message->header.size < rule->min_size || message->header.size > rule->max_size ||
	    message->fd_num < rule->min_fds || message->fd_num > rule->max_fds)
		return -EBADMSG;
	return rule->handle(connection, message);
}

static void
attach_reply_fd(const struct vhost_connection *connection, struct vhost_message *message)
{
	if (connection->reply_fd < 0)
		return;
	message->fds[0] = connection->reply_fd;
	message->fd_num = 1;
}

void
vhost_msg_sent(struct vhost_connection *connection)
{
	if (connection->reply_fd >= 0)
		close(connection->reply_fd);
	connection->reply_fd = -1;
	if (connection->session != NULL)
		vhost_session_answered(connection->session);
}

int
vhost_msg_handle(struct vhost_connection *connection, struct vhost_message *message, bool *close)
{
	static const struct rule unknown;
	uint32_t request = message->header.request;
	const struct rule *rule = request < VHOST_MSG_COUNT ? &rules[request] : &unknown;
	int rc = 0;

	if (!reads_answers(connection))
		rc = -ENOBUFS;
	else if (connection->session == NULL)
		rc = connection->refused ? -EBUSY : begin_session(connection);
	*close = rc != 0;
	if (rc == 0)
		rc = apply_rule(connection, rule, message);
	close_fds(message);
	attach_reply_fd(connection, message);
	log_debug(vhost, "vhost %s: message %s (%u, %u bytes) of connection %d: %d",
		  controller_of(connection)->name, rule->name != NULL ? rule->name : "unknown",
		  request, message->header.size, connection->vid, rc);
	if (rc >= 0)
		return rc;

	connection->failures++;
	*close = *close || rc == -ETIMEDOUT || connection->failures >= MAX_FAILURES;
	log_warn("vhost %s: message %s (%u, %u bytes) of connection %d refused: %s%s",
		 controller_of(connection)->name, rule->name != NULL ? rule->name : "unknown",
		 request, message->header.size, connection->vid, strerror(-rc),
		 *close ? "; the connection is closed" : "");
	return rc;
}
