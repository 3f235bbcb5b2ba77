/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user messages on the wire, as QEMU 7.2 sends them (docs/interop/vhost-user.rst).
 * Written anew here, from the specification, so that a test can find a mistake in the daemon
 * or in the library that it uses.
 */
#ifndef CLIENT_PROTOCOL_H
#define CLIENT_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

/* Requests of the front-end. */
enum {
	CLIENT_GET_FEATURES = 1,
	CLIENT_SET_FEATURES = 2,
	CLIENT_SET_OWNER = 3,
	CLIENT_RESET_OWNER = 4,
	CLIENT_SET_MEM_TABLE = 5,
	CLIENT_SET_LOG_BASE = 6,
	CLIENT_SET_VRING_NUM = 8,
	CLIENT_SET_VRING_ADDR = 9,
	CLIENT_SET_VRING_BASE = 10,
	CLIENT_GET_VRING_BASE = 11,
	CLIENT_SET_VRING_KICK = 12,
	CLIENT_SET_VRING_CALL = 13,
	CLIENT_SET_VRING_ERR = 14,
	CLIENT_GET_PROTOCOL_FEATURES = 15,
	CLIENT_SET_PROTOCOL_FEATURES = 16,
	CLIENT_GET_QUEUE_NUM = 17,
	CLIENT_SET_VRING_ENABLE = 18,
	CLIENT_SET_BACKEND_REQ_FD = 21,
	CLIENT_GET_CONFIG = 24,
	CLIENT_SET_CONFIG = 25,
	CLIENT_GET_INFLIGHT_FD = 31,
	CLIENT_SET_INFLIGHT_FD = 32,
};

/* Requests of the back-end, on the channel given by SET_BACKEND_REQ_FD. */
enum {
	CLIENT_BACKEND_CONFIG_CHANGE = 2,
};

/* Protocol features (bit numbers). */
enum {
	CLIENT_PROTOCOL_F_MQ = 0,
	CLIENT_PROTOCOL_F_LOG_SHMFD = 1,
	CLIENT_PROTOCOL_F_REPLY_ACK = 3,
	CLIENT_PROTOCOL_F_BACKEND_REQ = 5,
	CLIENT_PROTOCOL_F_CONFIG = 9,
	CLIENT_PROTOCOL_F_INFLIGHT_SHMFD = 12,
};

/* Device feature bits that vhost-user adds to the ones of virtio. */
#define CLIENT_F_LOG_ALL           26
#define CLIENT_F_PROTOCOL_FEATURES 30

/* Header flags. */
#define CLIENT_VERSION      0x1u
#define CLIENT_VERSION_MASK 0x3u
#define CLIENT_REPLY        0x4u
#define CLIENT_NEED_REPLY   0x8u

#define CLIENT_VRING_INDEX_MASK 0xffu
#define CLIENT_VRING_NO_FD      0x100u
#define CLIENT_VRING_ADDR_LOG   0x1u

#define CLIENT_MAX_REGIONS  8
#define CLIENT_MAX_FDS      8
#define CLIENT_CONFIG_SPACE 256
#define CLIENT_MAX_PAYLOAD  4096

struct client_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload, bytes */
};
static_assert(sizeof(struct client_header) == 12, "vhost-user header");

struct client_vring_state {
	uint32_t index;
	uint32_t num;
};
static_assert(sizeof(struct client_vring_state) == 8, "vring state");

/* Addresses are user addresses (of the region table), except log_addr, a guest-physical one. */
struct client_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc_addr;
	uint64_t used_addr;
	uint64_t avail_addr;
	uint64_t log_addr;
};
static_assert(sizeof(struct client_vring_addr) == 40, "vring address");

struct client_wire_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t user_addr;
	uint64_t mmap_offset;
};

struct client_wire_memory {
	uint32_t count;
	uint32_t padding;
	struct client_wire_region regions[CLIENT_MAX_REGIONS];
};
static_assert(sizeof(struct client_wire_memory) == 8 + 8 * 32, "memory table");

struct client_wire_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[CLIENT_CONFIG_SPACE];
};
static_assert(sizeof(struct client_wire_config) == 12 + 256, "configuration space");

struct client_wire_log {
	uint64_t mmap_size;
	uint64_t mmap_offset;
};

/* QEMU's structure is not packed, so that 24 bytes go over the wire. */
struct client_wire_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	uint32_t padding;
};
static_assert(sizeof(struct client_wire_inflight) == 24, "in-flight region");

union client_payload {
	uint64_t u64;
	struct client_vring_state state;
	struct client_vring_addr addr;
	struct client_wire_memory memory;
	struct client_wire_config config;
	struct client_wire_log log;
	struct client_wire_inflight inflight;
	uint8_t bytes[CLIENT_MAX_PAYLOAD];
};

#endif
