/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * message: the vhost-user messages as DPDK hands them to its external handlers. Private to
 * lib/vhost.
 */
#ifndef VHOSTD_VHOST_MESSAGE_H
#define VHOSTD_VHOST_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "inflight.h"
#include "memory.h"

#define VHOST_MSG_NEED_REPLY 0x8u
#define VHOST_MSG_MAX_FDS    8
#define VHOST_MSG_PAYLOAD    632 /* DPDK's largest, that of a crypto session */

/* SET_VRING_KICK, _CALL, _ERR */
#define VHOST_MSG_VRING_INDEX_MASK 0xffu
#define VHOST_MSG_VRING_NO_FD      0x100u

enum vhost_msg_request {
	VHOST_MSG_GET_FEATURES = 1,
	VHOST_MSG_SET_FEATURES = 2,
	VHOST_MSG_SET_OWNER = 3,
	VHOST_MSG_RESET_OWNER = 4,
	VHOST_MSG_SET_MEM_TABLE = 5,
	VHOST_MSG_SET_VRING_NUM = 8,
	VHOST_MSG_SET_VRING_ADDR = 9,
	VHOST_MSG_SET_VRING_BASE = 10,
	VHOST_MSG_GET_VRING_BASE = 11,
	VHOST_MSG_SET_VRING_KICK = 12,
	VHOST_MSG_SET_VRING_CALL = 13,
	VHOST_MSG_SET_VRING_ERR = 14,
	VHOST_MSG_GET_PROTOCOL_FEATURES = 15,
	VHOST_MSG_SET_PROTOCOL_FEATURES = 16,
	VHOST_MSG_GET_QUEUE_NUM = 17,
	VHOST_MSG_SET_VRING_ENABLE = 18,
	VHOST_MSG_SET_BACKEND_REQ_FD = 21,
	VHOST_MSG_GET_CONFIG = 24,
	VHOST_MSG_SET_CONFIG = 25,
	VHOST_MSG_GET_INFLIGHT_FD = 31,
	VHOST_MSG_SET_INFLIGHT_FD = 32,
	VHOST_MSG_COUNT,
};

enum vhost_protocol_feature {
	VHOST_PROTOCOL_F_MQ = 0,
	VHOST_PROTOCOL_F_REPLY_ACK = 3,
	VHOST_PROTOCOL_F_BACKEND_REQ = 5,
	VHOST_PROTOCOL_F_CONFIG = 9,
	VHOST_PROTOCOL_F_INFLIGHT_SHMFD = 12,
};

/* What the back-end asks on the channel of SET_BACKEND_REQ_FD. */
enum vhost_msg_backend_request {
	VHOST_BACKEND_CONFIG_CHANGE = 2,
};

struct vhost_msg_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
};

struct vhost_msg_state {
	uint32_t index;
	uint32_t num;
};

struct vhost_msg_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc, used, avail; /* user addresses */
	uint64_t log;
};

struct vhost_msg_memory {
	uint32_t count;
	uint32_t padding;
	struct vhost_mem_region regions[VHOST_MEM_MAX_REGIONS];
};

#define VHOST_MSG_CONFIG_SPACE 256

struct vhost_msg_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[VHOST_MSG_CONFIG_SPACE];
};
#define VHOST_MSG_CONFIG_HEADER offsetof(struct vhost_msg_config, data)

/* Some send the padding at its end, some do not. */
#define VHOST_MSG_INFLIGHT_MIN 20

struct vhost_message {
	struct vhost_msg_header header;
	uint8_t payload[VHOST_MSG_PAYLOAD]; /* at 12, of no alignment: copied in and out */
	int fds[VHOST_MSG_MAX_FDS];
	int fd_num;
};

_Static_assert(sizeof(struct vhost_msg_header) == 12, "vhost-user header");
_Static_assert(sizeof(struct vhost_msg_state) == 8, "vring state");
_Static_assert(sizeof(struct vhost_msg_addr) == 40, "vring address");
_Static_assert(sizeof(struct vhost_mem_region) == 32, "memory region");
_Static_assert(offsetof(struct vhost_msg_memory, regions) == 8, "memory table");
_Static_assert(sizeof(struct vhost_msg_config) == 12 + 256, "configuration space");
_Static_assert(sizeof(struct vhost_inflight_layout) == 24, "in-flight region");
_Static_assert(offsetof(struct vhost_inflight_layout, queue_size) == 18, "in-flight region");
_Static_assert(offsetof(struct vhost_message, fds) == 644, "DPDK 22.11, struct vhu_msg_context");
_Static_assert(offsetof(struct vhost_message, fd_num) == 676, "DPDK 22.11, struct vhu_msg_context");

struct vhost_connection;

/* What a handler made of a message; or a negative errno. */
enum vhost_handled {
	VHOST_HANDLED = 0, /* acknowledged where NEED_REPLY asks for it */
	VHOST_REPLY = 1,   /* payload and header.size are the answer */
};

/*
 * Handles one message, whole: DPDK has nothing to add. Takes from fds what it keeps and closes the
 * rest. On the vhost-events thread. Sets *close when the connection is to end. After VHOST_REPLY
 * the fds of the message are those of the answer; they stay open until vhost_msg_sent().
 */
int vhost_msg_handle(struct vhost_connection *connection, struct vhost_message *message,
		     bool *close);
/* Any thread. Closes a descriptor that a front-end sent and that is not wanted. */
void vhost_msg_drop_fd(int fd);
/* On the vhost-events thread: the answer is gone, or there will be none. */
void vhost_msg_sent(struct vhost_connection *connection);

#endif
