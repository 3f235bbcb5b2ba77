/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * iova: which parts of a device's I/O address space are free. Pure: maps nothing. One caller at a
 * time. Private to lib/env.
 */
#ifndef VHOSTD_IOVA_H
#define VHOSTD_IOVA_H

#include <stdint.h>

#include "dma.h"

struct iova;

/*
 * ranges: as dma_space_create() takes them; what is not made of whole pages is cut off, and so is
 * the page at address 0, which devices may take for "none". At most max_allocations at a time. 0,
 * -EINVAL (none, not ascending, no page in them), -ENOMEM.
 */
int iova_create(const struct dma_range *ranges, uint32_t count, uint32_t max_allocations,
		struct iova **iova);
/* NULL: nothing happens. */
void iova_destroy(struct iova *iova);

/*
 * size bytes (whole pages, not 0) at *address, the lowest that lies like `like` in a large page of
 * the IOMMU, where there is one: then both are mapped by large pages. 0 or -ENOSPC.
 */
int iova_alloc(struct iova *iova, uint64_t size, uint64_t like, uint64_t *address);
/* Just what iova_alloc() gave. */
void iova_free(struct iova *iova, uint64_t address, uint64_t size);
/*
 * Takes [reserved->first, reserved->last] out of ascending ranges, of which there is room for max.
 * 0, or -ENOSPC (cut in two, no room; they are as before).
 */
int iova_exclude(struct dma_range *ranges, uint32_t *count, uint32_t max,
		 const struct dma_range *reserved);

/* Bytes. */
uint64_t iova_available(const struct iova *iova);

#endif
