/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blk: vhost-user-blk (virtio 1.2 §5.2). Private to lib/vhost; here for the unit tests of its
 * parser.
 */
#ifndef VHOSTD_VHOST_BLK_H
#define VHOSTD_VHOST_BLK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "virtq.h"

/* A chain taken apart: any layout of header, data and status over its buffers. */
struct vhost_blk_command {
	uint32_t type; /* VIRTIO_BLK_T_… */
	uint64_t sector;
	uint8_t *status;   /* the last writable byte */
	struct iovec *out; /* what the driver sent after the header */
	uint32_t out_count;
	uint64_t out_bytes;
	struct iovec *in; /* what it wants to get before the status byte */
	uint32_t in_count;
	uint64_t in_bytes;
};

enum vhost_blk_parsed {
	VHOST_BLK_PARSED,
	VHOST_BLK_NO_HEADER, /* too short, but there is a status byte to say so: only that is set */
	VHOST_BLK_NO_STATUS, /* nowhere to answer to */
};

/* The iovecs of *command are the slot's, which is changed. */
enum vhost_blk_parsed vhost_blk_parse(struct virtq_slot *slot, struct vhost_blk_command *command);

/* The status byte for a bdev request's end. */
uint8_t vhost_blk_status(int status);

#endif
