/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inflight: the region in which queues keep a record of the requests that they have taken
 * (vhost-user specification, "Inflight I/O tracking"). The front-end keeps the region's file; where
 * this process dies, it gives the file to the next one. Private to lib/vhost. What is in the region
 * is lib/virtio's business.
 */
#ifndef VHOSTD_VHOST_INFLIGHT_H
#define VHOSTD_VHOST_INFLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "mapping.h"
#include "virtq.h"

/* What GET_INFLIGHT_FD and SET_INFLIGHT_FD say. */
struct vhost_inflight_layout {
	uint64_t mmap_size; /* bytes, for all queues */
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size; /* entries of the largest queue */
};

/* Immutable but for `lost`. */
struct vhost_inflight {
	struct vhost_inflight_layout layout;
	dev_t device; /* these two say which file it is */
	ino_t inode;
	struct mapping mapping;
	/* The front-end has truncated the file, see mapping.h. The queues look at it. */
	atomic_bool lost;
};

/*
 * Makes the file of a new region for layout->num_queues (1 … max_queues) of layout->queue_size
 * entries, and fills in the rest of *layout. packed: so large that the queues may be packed.
 * Returns the fd, the caller's, or a negative errno.
 */
int vhost_inflight_new_file(struct vhost_inflight_layout *layout, uint32_t max_queues, bool packed);

/*
 * Maps a region that the front-end brings; fd stays the caller's. 0, -EINVAL (numbers that make no
 * sense, not a regular file), -ERANGE (larger than its file), -ENOMEM, -ENOSPC (too many are mapped
 * by all).
 */
int vhost_inflight_create(const struct vhost_inflight_layout *layout, uint32_t max_queues, int fd,
			  struct vhost_inflight **inflight);
/* Whether both are the same part of the same file; not if one is NULL. */
bool vhost_inflight_is_same(const struct vhost_inflight *a, const struct vhost_inflight *b);
/* No queue may use it any more. NULL is ignored. */
void vhost_inflight_destroy(struct vhost_inflight *inflight);

/*
 * Sets opts->inflight and inflight_size to what the region has for a queue; nothing to do if there
 * is none (NULL). opts->packed and size are set. 0, -ERANGE (the region has no room for such a
 * queue), -EPROTO (it is lost).
 */
int vhost_inflight_get_part(struct vhost_inflight *inflight, uint32_t index,
			    struct virtq_opts *opts);

#endif
