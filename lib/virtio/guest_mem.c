/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest_mem.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int
compare_regions(const void *a, const void *b)
{
	const struct guest_mem_region *left = a, *right = b;

	return (left->gpa > right->gpa) - (left->gpa < right->gpa);
}

/* A range may end at the very end of the address space. */
static bool
wraps(uint64_t start, uint64_t size)
{
	return start + (size - 1) < start;
}

static bool
regions_are_valid(const struct guest_mem_region *regions, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		const struct guest_mem_region *region = &regions[i];

		if (region->size == 0 || wraps(region->gpa, region->size) ||
		    wraps((uintptr_t)region->hva, region->size))
			return false;
		if (i > 0 && region->gpa - region[-1].gpa < region[-1].size)
			return false;
	}
	return true;
}

int
guest_mem_create(const struct guest_mem_region *regions, uint32_t count, struct guest_mem **mem)
{
	struct guest_mem *new_mem;

	if (count == 0 || count > GUEST_MEM_MAX_REGIONS)
		return -EINVAL;
	new_mem = malloc(sizeof(*new_mem) + count * sizeof(*regions));
	if (!new_mem)
		return -ENOMEM;
	new_mem->count = count;
	memcpy(new_mem->regions, regions, count * sizeof(*regions));
	qsort(new_mem->regions, count, sizeof(*regions), compare_regions);
	if (!regions_are_valid(new_mem->regions, count)) {
		free(new_mem);
		return -EINVAL;
	}
	*mem = new_mem;
	return 0;
}

void
guest_mem_destroy(struct guest_mem *mem)
{
	free(mem);
}

/* The last region that begins at or below gpa; the first one when there is none. */
static uint32_t
find_region(const struct guest_mem *mem, uint64_t gpa)
{
	uint32_t low = 0, high = mem->count;

	while (high - low > 1) {
		uint32_t middle = (low + high) / 2;

		if (mem->regions[middle].gpa <= gpa)
			low = middle;
		else
			high = middle;
	}
	return low;
}

int
guest_mem_map_split(const struct guest_mem *mem, uint32_t *last, uint64_t gpa, uint32_t len,
		    struct iovec *iov, uint32_t max)
{
	uint32_t index = find_region(mem, gpa);
	uint32_t count = 0;

	/*
	 * A range that wraps runs out of regions: only the last one can end with the address space.
	 */
	while (len > 0) {
		const struct guest_mem_region *region = &mem->regions[index];
		uint64_t offset, part;

		if (index == mem->count)
			return -EFAULT;
		offset = gpa - region->gpa;
		if (offset >= region->size)
			return -EFAULT;
		if (count == max)
			return -ENOBUFS;
		part = region->size - offset < len ? region->size - offset : len;
		iov[count].iov_base = region->hva + offset;
		iov[count].iov_len = part;
		*last = index;
		count++;
		index++;
		gpa += part;
		len -= part;
	}
	return (int)count;
}
