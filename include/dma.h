/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dma: memory that devices reach by themselves. Part of the room env.
 *
 * A dma_space is the I/O address space that a device sees behind its IOMMU (VFIO) or on the other
 * side of a socket (vfio-user). Memory is mapped into it at an I/O virtual address (IOVA) of our
 * choice; host addresses are no IOVAs, since an IOMMU may have as few as 39 bits.
 *
 * Mapping may block (pages are pinned), so it is done where that is allowed. Translating is for the
 * data path: any thread, no lock; what is being mapped or unmapped meanwhile disturbs nobody, as
 * long as a mapping is not unmapped while somebody may still ask for it or a device may still use
 * it.
 */
#ifndef VHOSTD_DMA_H
#define VHOSTD_DMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errmsg.h"

#define DMA_PAGE_SIZE    4096u
#define DMA_MAX_MAPPINGS 1024 /* in one space */

struct dma_space;

/* How a kind of space maps. May block; called by one thread at a time for each space. */
struct dma_space_ops {
	/*
	 * addr, length, iova: multiples of DMA_PAGE_SIZE. fd (borrowed): what backs it from
	 * fd_offset on, or -1. 0 or a negative errno.
	 */
	int (*map)(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd,
		   uint64_t fd_offset);
	/* What map() mapped, whole. It cannot fail: a device that is gone has no mappings. */
	void (*unmap)(void *ctx, uint64_t iova, uint64_t length);
	bool needs_fd; /* memory without an fd cannot be mapped */
};

/* [first, last]: bytes */
struct dma_range {
	uint64_t first;
	uint64_t last;
};

/*
 * ranges[0 … count): the IOVAs that may be used (ascending, at least one), without what is
 * reserved. The page at 0 is never used. ops and ctx outlive the space. 0, -EINVAL, -ENOMEM. Any OS
 * thread.
 */
int dma_space_create(const struct dma_space_ops *ops, void *ctx, const struct dma_range *ranges,
		     uint32_t count, struct dma_space **space);
/* Unmaps what is left. Nobody may use the space any more. NULL: nothing happens. */
void dma_space_destroy(struct dma_space *space);

/*
 * May block; any OS thread. Maps [addr, addr + length), both multiples of DMA_PAGE_SIZE, at an IOVA
 * that the space chooses. The same range twice is counted and mapped once. 0, -EINVAL (alignment;
 * overlaps another one partly; no fd where one is needed), -ENOSPC (no IOVAs or DMA_MAX_MAPPINGS),
 * -ENOMEM (RLIMIT_MEMLOCK: err says what to do), or what ops->map returned.
 */
int dma_map(struct dma_space *space, void *addr, uint64_t length, int fd, uint64_t fd_offset,
	    struct errmsg *err);
/*
 * Takes back one dma_map() of just that range; what is not mapped is ignored. May block; any OS
 * thread. When it was the last, no device and no dma_translate() may use it any more.
 */
void dma_unmap(struct dma_space *space, void *addr, uint64_t length);

/*
 * The IOVA of addr, and in *length (set to the bytes wanted by the caller) how many bytes from
 * there on are mapped in one piece, at most what was wanted. DMA_UNMAPPED when addr is not mapped.
 * *hint: the caller's, zero at first; makes it cheap to look addresses up that are in the same two
 * mappings as those before. Any thread, never blocks, no loop but one over the mappings.
 */
#define DMA_UNMAPPED UINT64_MAX
uint64_t dma_translate(const struct dma_space *space, const void *addr, uint64_t *length,
		       uint32_t *hint);

/*
 * Memory for queues and lists: zeroed, of whole pages, backed by a memfd, and mapped in space. NULL
 * with the reason in err. May block; any OS thread.
 */
void *dma_alloc(struct dma_space *space, size_t size, uint64_t *iova, struct errmsg *err);
void dma_free(struct dma_space *space, void *memory, size_t size);

struct dma_stats {
	uint32_t mappings;
	uint64_t bytes;
};
/* Any OS thread. */
void dma_space_stats(struct dma_space *space, struct dma_stats *stats);

#endif
