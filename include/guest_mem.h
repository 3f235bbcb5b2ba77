/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guest_mem: where guest-physical addresses are in our memory. Part of the room virtio: pure, knows
 * no socket and no DPDK. A map is immutable once made; whoever made it frees it when no queue uses
 * it.
 */
#ifndef VHOSTD_GUEST_MEM_H
#define VHOSTD_GUEST_MEM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define GUEST_MEM_MAX_REGIONS 64

struct guest_mem_region {
	uint64_t gpa;  /* first guest-physical address */
	uint64_t size; /* bytes, not 0 */
	uint8_t *hva;  /* where it is mapped here */
};

struct guest_mem {
	uint32_t count;
	struct guest_mem_region regions[]; /* ascending, disjoint */
};

/*
 * Copies and sorts the regions. Returns 0, -EINVAL (none, too many, empty, wrapping, overlapping)
 * or -ENOMEM.
 */
int guest_mem_create(const struct guest_mem_region *regions, uint32_t count,
		     struct guest_mem **mem);
void guest_mem_destroy(struct guest_mem *mem);

/*
 * Whether the guest's buffer [gpa, gpa + len) is in one piece in that region, and then where. An
 * empty one is not: what this does not find is for guest_mem_map_split().
 */
static inline bool
guest_mem_region_map(const struct guest_mem_region *region, uint64_t gpa, uint32_t len,
		     struct iovec *iov)
{
	uint64_t offset = gpa - region->gpa;
	uint64_t end = offset + len;

	/* Not above offset: it is empty, or so far below the region that the sum wraps. */
	if (__builtin_expect(end <= offset || end > region->size, 0))
		return false;
	iov->iov_base = region->hva + offset;
	iov->iov_len = len;
	return true;
}

/*
 * Searches for the buffer, and splits it where it crosses into the next region: at most max iovecs,
 * none for len 0. Returns their number, with the region of the last one in *last (unchanged if
 * there is none); -EFAULT (some byte is outside memory, or the range wraps) or -ENOBUFS (more than
 * max).
 */
int guest_mem_map_split(const struct guest_mem *mem, uint32_t *last, uint64_t gpa, uint32_t len,
			struct iovec *iov, uint32_t max);

#endif
