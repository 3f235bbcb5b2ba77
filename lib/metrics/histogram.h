/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * histogram: latencies in buckets that are the same on every machine, so that they can be added up
 * over disks and hosts. Private to the room metrics; pure.
 *
 * Log-linear: bounds at 1 µs and, of each doubling, at four equal steps: 1.25, 1.5, 1.75, 2, 2.5 …
 * up to 8.4 s.
 */
#ifndef VHOSTD_METRICS_HISTOGRAM_H
#define VHOSTD_METRICS_HISTOGRAM_H

#include <jansson.h>
#include <stdint.h>

#include "bdev.h"

#define METRICS_BOUNDS_DOUBLINGS 23
#define METRICS_BOUNDS           (1 + 4 * METRICS_BOUNDS_DOUBLINGS)

/* Seconds, ascending; index < METRICS_BOUNDS. */
double metrics_bound(uint32_t index);

/*
 * New: {count, sum (seconds), buckets: how many were at most the bound, for each bound}. Latencies
 * count as the last of their bucket of the block device's histogram, and in the sum as its middle:
 * both are within 1 %.
 */
json_t *metrics_histogram_json(const struct bdev_histogram *histogram, uint64_t ticks_hz);

#endif
