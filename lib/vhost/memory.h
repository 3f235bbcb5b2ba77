/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory: a front-end's memory table, mapped by ourselves. Private to lib/vhost.
 *
 * DPDK could map it too, but it unmaps when the front-end sends a new table, disconnects or its
 * socket is unregistered, whoever still uses the memory. A map of ours lives until its last user is
 * done.
 */
#ifndef VHOSTD_VHOST_MEMORY_H
#define VHOSTD_VHOST_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest_mem.h"
#include "mapping.h"

#define VHOST_MEM_MAX_REGIONS 8 /* of the vhost-user protocol */

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
	struct mapping mapping;
};

/* Immutable but for `lost`. */
struct vhost_mem {
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
/* Any OS thread; nobody may use it any more. NULL is ignored. */
void vhost_mem_destroy(struct vhost_mem *memory);

/*
 * Where [user_addr, user_addr + size) of the front-end is here; NULL unless it is inside one
 * region.
 */
void *vhost_mem_from_user(const struct vhost_mem *memory, uint64_t user_addr, uint64_t size);

#endif
