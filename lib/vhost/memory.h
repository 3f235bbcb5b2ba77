/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory: a front-end's memory table, mapped by ourselves. Private to lib/vhost.
 *
 * DPDK could map it too, but it unmaps when the front-end sends a new table, disconnects or its
 * socket is unregistered, whoever still uses the memory. A map of ours lives until its last user is
 * done. So does what devices with DMA have of it.
 */
#ifndef VHOSTD_VHOST_MEMORY_H
#define VHOSTD_VHOST_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "errmsg.h"
#include "guest_mem.h"
#include "mapping.h"

#define VHOST_MEM_MAX_REGIONS 8 /* of the vhost-user protocol */

struct vhost_device_ops;

/* A region as SET_MEM_TABLE describes it. */
struct vhost_mem_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t user_addr;   /* in the front-end's address space */
	uint64_t mmap_offset; /* where it begins in its file */
};

/* One as it is here. */
struct vhost_mem_part {
	uint64_t user_addr;
	uint64_t size;
	uint64_t file_offset;
	struct mapping mapping;
	void *device_memory; /* for memory_unmap(); NULL: nothing to take back */
};

/* Immutable but for `lost` once it is in use. */
struct vhost_mem {
	const struct vhost_device_ops *device_ops; /* NULL: no device knows of it */
	struct guest_mem *map;
	uint32_t count;
	struct vhost_mem_part parts[VHOST_MEM_MAX_REGIONS];
	/* The front-end has truncated a file, see mapping.h. The queues look at it. */
	atomic_bool lost;
};

/*
 * Maps the regions of fds[0 … count), which stay the caller's. Any OS thread. 0, -EINVAL (none, too
 * many, empty, wrapping, overlapping, not a regular file), -ERANGE (larger than its file), -ENOSPC
 * (too many regions mapped by all), or what mmap() said.
 */
int vhost_mem_create(const struct vhost_mem_region *regions, const int *fds, uint32_t count,
		     struct vhost_mem **memory);
/*
 * Shows all regions to the device, once, before anybody uses the memory; fds as in
 * vhost_mem_create(). 0, or a negative errno with the reason in err: *failed is the region that the
 * device does not take, and the memory can only be destroyed. vhost-events thread.
 */
int vhost_mem_map_device(struct vhost_mem *memory, const struct vhost_device_ops *ops, void *device,
			 const int *fds, uint32_t *failed, struct errmsg *err);
/*
 * Any OS thread that may block; nobody may use it any more. Devices let go of it first. NULL is
 * ignored.
 */
void vhost_mem_destroy(struct vhost_mem *memory);

/*
 * Where [user_addr, user_addr + size) of the front-end is here; NULL unless it is inside one
 * region.
 */
void *vhost_mem_from_user(const struct vhost_mem *memory, uint64_t user_addr, uint64_t size);

#endif
