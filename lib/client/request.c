/* SPDX-License-Identifier: BSD-3-Clause */
/* Every request that QEMU 7.2 sends, one function each. */
#include "client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

static int
send_request(struct client *c, uint32_t request, const void *payload, uint32_t size, const int *fds,
	     unsigned int fd_count, bool need_reply)
{
	struct client_message message;

	if (size > CLIENT_MAX_PAYLOAD || fd_count > CLIENT_MAX_FDS)
		return -EINVAL;
	message.request = request;
	message.flags = CLIENT_VERSION | (need_reply ? CLIENT_NEED_REPLY : 0);
	message.size = size;
	if (size > 0)
		memcpy(&message.payload, payload, size);
	message.fd_count = fd_count;
	if (fd_count > 0)
		memcpy(message.fds, fds, fd_count * sizeof(int));
	return client_send(c, &message);
}

/* Receives the reply to a request; on an error no descriptor is left open. */
static int
receive_reply(struct client *c, uint32_t request, uint32_t min_size, struct client_message *reply)
{
	int rc;

	rc = client_receive(c, reply, c->timeout_ms);
	if (rc < 0)
		return rc;
	if (reply->request == request && reply->size >= min_size &&
	    (reply->flags & (CLIENT_VERSION_MASK | CLIENT_REPLY)) ==
		    (CLIENT_VERSION | CLIENT_REPLY))
		return 0;
	client_message_close_fds(reply);
	return -EPROTO;
}

static int
receive_ack(struct client *c, uint32_t request)
{
	struct client_message reply;
	int rc;

	rc = receive_reply(c, request, sizeof(uint64_t), &reply);
	if (rc < 0)
		return rc;
	client_message_close_fds(&reply);
	if (reply.size != sizeof(uint64_t))
		return -EPROTO;
	return reply.payload.u64 == 0 ? 0 : -EREMOTEIO;
}

static int
request_with_fds(struct client *c, uint32_t request, const void *payload, uint32_t size,
		 const int *fds, unsigned int fd_count, bool need_reply)
{
	int rc;

	rc = send_request(c, request, payload, size, fds, fd_count, need_reply);
	if (rc < 0 || !need_reply)
		return rc;
	return receive_ack(c, request);
}

int
client_request(struct client *c, uint32_t request, const void *payload, uint32_t size, int fd,
	       bool need_reply)
{
	return request_with_fds(c, request, payload, size, &fd, fd >= 0 ? 1 : 0, need_reply);
}

static int
get_u64(struct client *c, uint32_t request, uint64_t *value)
{
	struct client_message reply;
	int rc;

	rc = send_request(c, request, NULL, 0, NULL, 0, false);
	if (rc < 0)
		return rc;
	rc = receive_reply(c, request, sizeof(uint64_t), &reply);
	if (rc < 0)
		return rc;
	client_message_close_fds(&reply);
	*value = reply.payload.u64;
	return reply.size == sizeof(uint64_t) ? 0 : -EPROTO;
}

static int
set_u64(struct client *c, uint32_t request, uint64_t value, bool need_reply)
{
	return client_request(c, request, &value, sizeof(value), -1, need_reply);
}

static int
set_state(struct client *c, uint32_t request, uint32_t index, uint32_t num, bool need_reply)
{
	struct client_vring_state state = {.index = index, .num = num};

	return client_request(c, request, &state, sizeof(state), -1, need_reply);
}

static int
set_vring_fd(struct client *c, uint32_t request, uint32_t queue, int fd, bool need_reply)
{
	uint64_t value = fd >= 0 ? queue : queue | CLIENT_VRING_NO_FD;

	return client_request(c, request, &value, sizeof(value), fd, need_reply);
}

int
client_get_features(struct client *c, uint64_t *features)
{
	return get_u64(c, CLIENT_GET_FEATURES, features);
}

int
client_set_features(struct client *c, uint64_t features, bool need_reply)
{
	return set_u64(c, CLIENT_SET_FEATURES, features, need_reply);
}

int
client_get_protocol_features(struct client *c, uint64_t *features)
{
	return get_u64(c, CLIENT_GET_PROTOCOL_FEATURES, features);
}

int
client_set_protocol_features(struct client *c, uint64_t features, bool need_reply)
{
	return set_u64(c, CLIENT_SET_PROTOCOL_FEATURES, features, need_reply);
}

int
client_get_queue_num(struct client *c, uint64_t *queues)
{
	return get_u64(c, CLIENT_GET_QUEUE_NUM, queues);
}

int
client_set_owner(struct client *c, bool need_reply)
{
	return client_request(c, CLIENT_SET_OWNER, NULL, 0, -1, need_reply);
}

int
client_reset_owner(struct client *c, bool need_reply)
{
	return client_request(c, CLIENT_RESET_OWNER, NULL, 0, -1, need_reply);
}

int
client_set_mem_table(struct client *c, const struct client_memory *memory, bool need_reply)
{
	struct client_wire_memory wire = {.count = memory->count};
	const struct client_region_layout *layout;
	int fds[CLIENT_MAX_REGIONS];
	unsigned int i;

	for (i = 0; i < memory->count; i++) {
		layout = &memory->regions[i].layout;
		wire.regions[i].gpa = layout->gpa;
		wire.regions[i].size = layout->size;
		wire.regions[i].user_addr = layout->user_addr;
		wire.regions[i].mmap_offset = layout->mmap_offset;
		fds[i] = memory->regions[i].fd;
	}
	return request_with_fds(c, CLIENT_SET_MEM_TABLE, &wire,
				8 + memory->count * sizeof(wire.regions[0]), fds, memory->count,
				need_reply);
}

int
client_set_vring_num(struct client *c, uint32_t queue, uint32_t size, bool need_reply)
{
	return set_state(c, CLIENT_SET_VRING_NUM, queue, size, need_reply);
}

int
client_set_vring_base(struct client *c, uint32_t queue, uint32_t base, bool need_reply)
{
	return set_state(c, CLIENT_SET_VRING_BASE, queue, base, need_reply);
}

int
client_set_vring_addr(struct client *c, const struct client_vring_addr *addr, bool need_reply)
{
	return client_request(c, CLIENT_SET_VRING_ADDR, addr, sizeof(*addr), -1, need_reply);
}

int
client_set_vring_kick(struct client *c, uint32_t queue, int fd, bool need_reply)
{
	return set_vring_fd(c, CLIENT_SET_VRING_KICK, queue, fd, need_reply);
}

int
client_set_vring_call(struct client *c, uint32_t queue, int fd, bool need_reply)
{
	return set_vring_fd(c, CLIENT_SET_VRING_CALL, queue, fd, need_reply);
}

int
client_set_vring_err(struct client *c, uint32_t queue, int fd, bool need_reply)
{
	return set_vring_fd(c, CLIENT_SET_VRING_ERR, queue, fd, need_reply);
}

int
client_set_vring_enable(struct client *c, uint32_t queue, bool enable, bool need_reply)
{
	return set_state(c, CLIENT_SET_VRING_ENABLE, queue, enable, need_reply);
}

int
client_get_vring_base(struct client *c, uint32_t queue, uint32_t *base)
{
	struct client_vring_state state = {.index = queue};
	struct client_message reply;
	int rc;

	rc = send_request(c, CLIENT_GET_VRING_BASE, &state, sizeof(state), NULL, 0, false);
	if (rc < 0)
		return rc;
	rc = receive_reply(c, CLIENT_GET_VRING_BASE, sizeof(state), &reply);
	if (rc < 0)
		return rc;
	client_message_close_fds(&reply);
	if (reply.size != sizeof(state) || reply.payload.state.index != queue)
		return -EPROTO;
	*base = reply.payload.state.num;
	return 0;
}

static uint32_t
fill_config(struct client_wire_config *config, uint32_t offset, uint32_t size)
{
	memset(config, 0, sizeof(*config));
	config->offset = offset;
	config->size = size;
	return offsetof(struct client_wire_config, data) + size;
}

int
client_get_config(struct client *c, uint32_t offset, uint32_t size, void *data)
{
	struct client_wire_config config;
	struct client_message reply;
	uint32_t length;
	int rc;

	if (size > CLIENT_CONFIG_SPACE)
		return -EINVAL;
	length = fill_config(&config, offset, size);
	rc = send_request(c, CLIENT_GET_CONFIG, &config, length, NULL, 0, false);
	if (rc < 0)
		return rc;
	rc = receive_reply(c, CLIENT_GET_CONFIG, 0, &reply);
	if (rc < 0)
		return rc;
	client_message_close_fds(&reply);
	if (reply.size == 0)
		return -EREMOTEIO;
	if (reply.size != length || reply.payload.config.offset != offset ||
	    reply.payload.config.size != size)
		return -EPROTO;
	memcpy(data, reply.payload.config.data, size);
	return 0;
}

int
client_set_config(struct client *c, uint32_t offset, uint32_t size, const void *data,
		  bool need_reply)
{
	struct client_wire_config config;
	uint32_t length;

	if (size > CLIENT_CONFIG_SPACE)
		return -EINVAL;
	length = fill_config(&config, offset, size);
	memcpy(config.data, data, size);
	return client_request(c, CLIENT_SET_CONFIG, &config, length, -1, need_reply);
}

static struct client_wire_inflight
wire_inflight(const struct client_inflight *inflight)
{
	return (struct client_wire_inflight){
		.mmap_size = inflight->mmap_size,
		.mmap_offset = inflight->mmap_offset,
		.num_queues = inflight->num_queues,
		.queue_size = inflight->queue_size,
	};
}

int
client_get_inflight_fd(struct client *c, struct client_inflight *inflight)
{
	struct client_wire_inflight wire = {
		.num_queues = inflight->num_queues,
		.queue_size = inflight->queue_size,
	};
	struct client_message reply;
	int rc;

	inflight->fd = -1;
	rc = send_request(c, CLIENT_GET_INFLIGHT_FD, &wire, sizeof(wire), NULL, 0, false);
	if (rc < 0)
		return rc;
	rc = receive_reply(c, CLIENT_GET_INFLIGHT_FD, sizeof(wire), &reply);
	if (rc < 0)
		return rc;
	if (reply.fd_count != 1 || reply.size != sizeof(wire)) {
		client_message_close_fds(&reply);
		return -EPROTO;
	}
	inflight->mmap_size = reply.payload.inflight.mmap_size;
	inflight->mmap_offset = reply.payload.inflight.mmap_offset;
	inflight->fd = reply.fds[0];
	return 0;
}

int
client_set_inflight_fd(struct client *c, const struct client_inflight *inflight, bool need_reply)
{
	struct client_wire_inflight wire = wire_inflight(inflight);

	return client_request(c, CLIENT_SET_INFLIGHT_FD, &wire, sizeof(wire), inflight->fd,
			      need_reply);
}

int
client_set_log_base(struct client *c, int fd, uint64_t size, uint64_t offset)
{
	struct client_wire_log log = {.mmap_size = size, .mmap_offset = offset};
	struct client_message reply;
	int rc;

	rc = send_request(c, CLIENT_SET_LOG_BASE, &log, sizeof(log), &fd, fd >= 0 ? 1 : 0, false);
	if (rc < 0)
		return rc;
	/* The specification names no payload for this reply, and back-ends differ. */
	rc = receive_reply(c, CLIENT_SET_LOG_BASE, 0, &reply);
	if (rc < 0)
		return rc;
	client_message_close_fds(&reply);
	return 0;
}

int
client_set_backend_fd(struct client *c, bool need_reply)
{
	int pair[2];
	int rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	rc = client_request(c, CLIENT_SET_BACKEND_REQ_FD, NULL, 0, pair[1], need_reply);
	close(pair[1]);
	if (rc < 0) {
		close(pair[0]);
		return rc;
	}
	if (c->backend_fd >= 0)
		close(c->backend_fd);
	c->backend_fd = pair[0];
	return 0;
}

int
client_backend_receive(struct client *c, struct client_message *message, int timeout_ms)
{
	return message_receive(c->backend_fd, message, timeout_ms);
}

int
client_backend_answer(struct client *c, const struct client_message *message, uint64_t result)
{
	struct client_message reply = {
		.request = message->request,
		.flags = CLIENT_VERSION | CLIENT_REPLY,
		.size = sizeof(result),
		.payload.u64 = result,
	};

	if (!(message->flags & CLIENT_NEED_REPLY))
		return 0;
	return message_send(c->backend_fd, &reply, c->timeout_ms);
}

int
client_backend_wait_config_change(struct client *c, int timeout_ms)
{
	struct client_message message;
	int rc;

	rc = client_backend_receive(c, &message, timeout_ms);
	if (rc < 0)
		return rc;
	client_message_close_fds(&message);
	if (message.request != CLIENT_BACKEND_CONFIG_CHANGE)
		return -EPROTO;
	return client_backend_answer(c, &message, 0);
}
