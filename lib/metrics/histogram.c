/* SPDX-License-Identifier: BSD-3-Clause */
#include "histogram.h"

double
metrics_bound(uint32_t index)
{
	uint64_t quarters = (uint64_t)(4 + index % 4) << (index / 4); /* of a µs */

	return (double)quarters / 4e6;
}

json_t *
metrics_histogram_json(const struct bdev_histogram *histogram, uint64_t ticks_hz)
{
	json_t *buckets = json_array();
	uint32_t bound = 0;
	uint64_t count = 0;
	double sum = 0;

	for (uint32_t i = 0; i < BDEV_HISTOGRAM_BUCKETS; i++) {
		uint64_t first, last;

		if (histogram->buckets[i] == 0)
			continue;
		first = i > 0 ? bdev_histogram_last(i - 1) + 1 : 0;
		last = bdev_histogram_last(i);
		for (; bound < METRICS_BOUNDS && (double)last / ticks_hz > metrics_bound(bound);
		     bound++)
			json_array_append_new(buckets, json_integer((json_int_t)count));
		count += histogram->buckets[i];
		sum += (double)histogram->buckets[i] * ((double)first + (double)last) / 2;
	}
	for (; bound < METRICS_BOUNDS; bound++)
		json_array_append_new(buckets, json_integer((json_int_t)count));
	return json_pack("{s:I, s:f, s:o}", "count", (json_int_t)count, "sum",
			 sum / (double)ticks_hz, "buckets", buckets);
}
