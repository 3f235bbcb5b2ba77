/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_histogram: into which bucket a latency belongs. Private to lib/bdev; pure. */
#ifndef VHOSTD_BDEV_HISTOGRAM_H
#define VHOSTD_BDEV_HISTOGRAM_H

#include "bdev.h"

static inline uint32_t
bdev_histogram_bucket(uint64_t ticks)
{
	uint32_t bits = 64 - (uint32_t)__builtin_clzll(ticks | 1);
	uint32_t range = bits > BDEV_HISTOGRAM_SHIFT ? bits - BDEV_HISTOGRAM_SHIFT : 0;
	uint32_t shift = range > 0 ? range - 1 : 0;

	return (range << BDEV_HISTOGRAM_SHIFT) +
	       ((uint32_t)(ticks >> shift) & ((1u << BDEV_HISTOGRAM_SHIFT) - 1));
}

static inline void
bdev_histogram_add(struct bdev_histogram *histogram, uint64_t ticks)
{
	histogram->buckets[bdev_histogram_bucket(ticks)]++;
}

#endif
