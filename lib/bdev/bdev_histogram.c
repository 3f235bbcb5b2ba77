/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev_histogram.h"

void
bdev_histogram_merge(struct bdev_histogram *sum, const struct bdev_histogram *histogram)
{
	for (uint32_t i = 0; i < BDEV_HISTOGRAM_BUCKETS; i++)
		sum->buckets[i] += histogram->buckets[i];
}

uint64_t
bdev_histogram_count(const struct bdev_histogram *histogram)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < BDEV_HISTOGRAM_BUCKETS; i++)
		count += histogram->buckets[i];
	return count;
}

uint64_t
bdev_histogram_last(uint32_t bucket)
{
	uint32_t range = bucket >> BDEV_HISTOGRAM_SHIFT;
	uint64_t index = bucket & ((1u << BDEV_HISTOGRAM_SHIFT) - 1);

	if (range == 0)
		return index;
	/* Of the very last one the end is 2^64, which wraps to 0. */
	return (((1ULL << BDEV_HISTOGRAM_SHIFT) + index + 1) << (range - 1)) - 1;
}

uint64_t
bdev_histogram_quantile(const struct bdev_histogram *histogram, double share)
{
	uint64_t count = bdev_histogram_count(histogram), so_far = 0;
	double wanted = share * (double)count;

	for (uint32_t i = 0; i < BDEV_HISTOGRAM_BUCKETS; i++) {
		so_far += histogram->buckets[i];
		if (histogram->buckets[i] != 0 && ((double)so_far >= wanted || so_far == count))
			return bdev_histogram_last(i);
	}
	return 0;
}
