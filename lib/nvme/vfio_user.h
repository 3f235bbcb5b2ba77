/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio_user: the client's side of a vfio-user connection (vfio-user protocol 0.9.2, "Protocol
 * Specification"): one request at a time, and a deadline for each. A server that breaks the
 * protocol, is late or hangs up is gone for good. Private to lib/nvme.
 *
 * All may be called on any OS thread that may block, several at once, unless said otherwise.
 */
#ifndef VHOSTD_NVME_VFIO_USER_H
#define VHOSTD_NVME_VFIO_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "errmsg.h"

/* ---- on the wire, in the host's byte order ---- */

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP = 2,
	VFIO_USER_DMA_UNMAP = 3,
	VFIO_USER_DEVICE_GET_INFO = 4,
	VFIO_USER_DEVICE_GET_REGION_INFO = 5,
	VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
	VFIO_USER_DEVICE_SET_IRQS = 8,
	VFIO_USER_REGION_READ = 9,
	VFIO_USER_REGION_WRITE = 10,
	VFIO_USER_DMA_READ = 11,
	VFIO_USER_DMA_WRITE = 12,
	VFIO_USER_DEVICE_RESET = 13,
};

struct vfio_user_header {
	uint16_t id;
	uint16_t command;
	uint32_t size; /* bytes of the message, with this header */
	uint32_t flags;
#define VFIO_USER_TYPE_MASK 0xfu
#define VFIO_USER_COMMAND   0x0u
#define VFIO_USER_REPLY     0x1u
#define VFIO_USER_NO_REPLY  0x10u
#define VFIO_USER_ERROR     0x20u
	uint32_t error; /* an errno, or 0 */
};
_Static_assert(sizeof(struct vfio_user_header) == 16, "as specified");

struct vfio_user_version {
	uint16_t major;
	uint16_t minor;
	char data[]; /* JSON, with its NUL */
};

struct vfio_user_dma_map {
	uint32_t argsz;
	uint32_t flags;  /* 1: readable, 2: writeable */
	uint64_t offset; /* in the file */
	uint64_t address;
	uint64_t size;
};
_Static_assert(sizeof(struct vfio_user_dma_map) == 32, "as specified");

struct vfio_user_dma_unmap {
	uint32_t argsz;
	uint32_t flags;
	uint64_t address;
	uint64_t size;
};
_Static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "as specified");

struct vfio_user_device_info {
	uint32_t argsz;
	uint32_t flags; /* VFIO_DEVICE_FLAGS_ */
	uint32_t num_regions;
	uint32_t num_irqs;
};
_Static_assert(sizeof(struct vfio_user_device_info) == 16, "as specified");

struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
	uint8_t data[]; /* in a reply to a read, and in a write */
};
_Static_assert(sizeof(struct vfio_user_region_access) == 16, "as specified");

/* Region info, IRQ info and IRQ sets are those of <linux/vfio.h>. */

/* ---- a connection ---- */

#define VFIO_USER_MAX_FDS 16 /* with one message, either way */

struct vfio_user;

/* How long a server may take for a reply. Tests make it shorter. */
extern unsigned int vfio_user_reply_ms;

/*
 * To the Unix socket at path; agrees on the version. 0 or a negative errno with the reason in err.
 */
int vfio_user_connect(const char *path, struct vfio_user **connection, struct errmsg *err);
/* Nobody may use it any more. NULL: nothing happens. */
void vfio_user_close(struct vfio_user *connection);

/* One request and its reply. */
struct vfio_user_call {
	uint16_t command;
	uint32_t request_size; /* of the payloads, without header */
	uint32_t reply_max;
	uint32_t reply_size; /* set */
	const void *request;
	void *reply;
	const int *fds; /* sent along, the caller's */
	uint32_t fd_count;
	bool wants_fds; /* else those that come along are closed */
	/* set, with the fds that came along: the caller's from now on, if the call succeeded */
	uint32_t reply_fd_count;
	int reply_fds[VFIO_USER_MAX_FDS];
};

/*
 * 0; the negative errno that the server answered with (-EIO: it gave none); -ENODEV: it is gone,
 * now or since before. Bounded by vfio_user_reply_ms, for this call and for each that waits before
 * it.
 */
int vfio_user_call(struct vfio_user *connection, struct vfio_user_call *call);

/* Ends the connection, and says why in the log if that is new. Any thread. */
void vfio_user_give_up(struct vfio_user *connection, const char *reason);
/* Whether the server is gone; looks at the socket. Never blocks; any thread. */
bool vfio_user_is_gone(struct vfio_user *connection);
/* File descriptors that the server takes with one message, 1 … VFIO_USER_MAX_FDS. */
uint32_t vfio_user_max_fds(const struct vfio_user *connection);

#endif
