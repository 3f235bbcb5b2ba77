/* SPDX-License-Identifier: BSD-3-Clause */
#include "iova.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/*
 * Free pieces, ascending, disjoint, no two that touch unless a range's border is between them.
 * Inclusive ends: a space may have all 64 bits.
 */
struct iova {
	uint32_t count;
	uint32_t max; /* one more for each allocation than ranges, so that freeing cannot fail */
	struct dma_range free[];
};

/* The pages of IOMMUs, large first. */
static const uint64_t page_sizes[] = {1ull << 30, 1ull << 21, DMA_PAGE_SIZE};

/* Cuts a range down to whole pages without the first of all. False: nothing is left. */
static bool
trim(const struct dma_range *range, struct dma_range *trimmed)
{
	const uint64_t mask = DMA_PAGE_SIZE - 1;

	trimmed->first = range->first > 0 ? range->first : DMA_PAGE_SIZE;
	if (trimmed->first > UINT64_MAX - mask)
		return false;
	trimmed->first = (trimmed->first + mask) & ~mask;
	/* The last byte of a page stays, others go back to the page before. */
	if ((range->last & mask) == mask)
		trimmed->last = range->last;
	else if (range->last < DMA_PAGE_SIZE)
		return false;
	else
		trimmed->last = (range->last & ~mask) - 1;
	return trimmed->first <= trimmed->last;
}

int
iova_create(const struct dma_range *ranges, uint32_t count, uint32_t max_allocations,
	    struct iova **iova)
{
	uint32_t max = count + max_allocations;
	struct iova *made = malloc(sizeof(*made) + max * sizeof(made->free[0]));

	if (made == NULL)
		return -ENOMEM;
	made->count = 0;
	made->max = max;
	for (uint32_t i = 0; i < count; i++) {
		if (ranges[i].first > ranges[i].last ||
		    (i > 0 && ranges[i].first <= ranges[i - 1].last)) {
			free(made);
			return -EINVAL;
		}
		if (trim(&ranges[i], &made->free[made->count]))
			made->count++;
	}
	if (made->count == 0) {
		free(made);
		return -EINVAL;
	}
	*iova = made;
	return 0;
}

void
iova_destroy(struct iova *iova)
{
	free(iova);
}

static void
remove_piece(struct iova *iova, uint32_t at)
{
	iova->count--;
	memmove(&iova->free[at], &iova->free[at + 1], (iova->count - at) * sizeof(iova->free[0]));
}

static void
insert_piece(struct iova *iova, uint32_t at, uint64_t first, uint64_t last)
{
	memmove(&iova->free[at + 1], &iova->free[at], (iova->count - at) * sizeof(iova->free[0]));
	iova->free[at] = (struct dma_range){first, last};
	iova->count++;
}

/*
 * The first address in the piece that lies in a page of that size as `like` does, if size bytes fit
 * behind it.
 */
static bool
fit(const struct dma_range *piece, uint64_t size, uint64_t like, uint64_t page, uint64_t *address)
{
	uint64_t skip = (like - piece->first) & (page - 1);

	if (skip > piece->last - piece->first || size - 1 > piece->last - piece->first - skip)
		return false;
	*address = piece->first + skip;
	return true;
}

static void
take(struct iova *iova, uint32_t at, uint64_t address, uint64_t size)
{
	struct dma_range piece = iova->free[at];
	uint64_t last = address + (size - 1);

	remove_piece(iova, at);
	if (last < piece.last)
		insert_piece(iova, at, last + 1, piece.last);
	if (address > piece.first)
		insert_piece(iova, at, piece.first, address - 1);
}

int
iova_alloc(struct iova *iova, uint64_t size, uint64_t like, uint64_t *address)
{
	for (size_t i = 0; i < sizeof(page_sizes) / sizeof(page_sizes[0]); i++) {
		/* What is smaller than a page is never mapped by one. */
		if (size < page_sizes[i])
			continue;
		for (uint32_t at = 0; at < iova->count; at++) {
			if (fit(&iova->free[at], size, like, page_sizes[i], address)) {
				/* Cutting a piece in two needs room for one more. */
				if (iova->count == iova->max)
					return -ENOSPC;
				take(iova, at, *address, size);
				return 0;
			}
		}
	}
	return -ENOSPC;
}

void
iova_free(struct iova *iova, uint64_t address, uint64_t size)
{
	uint64_t last = address + (size - 1);
	uint32_t at = 0;
	bool joins_before, joins_after;

	while (at < iova->count && iova->free[at].first < address)
		at++;
	joins_before = at > 0 && iova->free[at - 1].last + 1 == address;
	joins_after = at < iova->count && iova->free[at].first == last + 1;
	if (joins_before && joins_after) {
		iova->free[at - 1].last = iova->free[at].last;
		remove_piece(iova, at);
	} else if (joins_before) {
		iova->free[at - 1].last = last;
	} else if (joins_after) {
		iova->free[at].first = address;
	} else {
		insert_piece(iova, at, address, last);
	}
}

int
iova_exclude(struct dma_range *ranges, uint32_t *count, uint32_t max,
	     const struct dma_range *reserved)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < *count; i++) {
		const struct dma_range range = ranges[i];

		if (reserved->first <= range.first || reserved->last >= range.last)
			continue;
		/* In two, and no other is concerned. */
		if (*count == max)
			return -ENOSPC;
		memmove(&ranges[i + 1], &ranges[i], (*count - i) * sizeof(ranges[0]));
		ranges[i].last = reserved->first - 1;
		ranges[i + 1].first = reserved->last + 1;
		(*count)++;
		return 0;
	}
	for (uint32_t i = 0; i < *count; i++) {
		struct dma_range range = ranges[i];
		bool overlaps = reserved->first <= range.last && reserved->last >= range.first;

		if (overlaps && reserved->first <= range.first && reserved->last >= range.last)
			continue;
		if (overlaps && reserved->first <= range.first)
			range.first = reserved->last + 1;
		else if (overlaps)
			range.last = reserved->first - 1;
		ranges[kept++] = range;
	}
	*count = kept;
	return 0;
}

uint64_t
iova_available(const struct iova *iova)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < iova->count; i++)
		bytes += iova->free[i].last - iova->free[i].first + 1;
	return bytes;
}
