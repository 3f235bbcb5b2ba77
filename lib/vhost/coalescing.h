/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * coalescing: how long a queue may put off a call to its driver. Private to lib/vhost.
 *
 * Up to a rate of `iops_threshold` requests per second of this queue there is no delay. Above it
 * the time from one call to the next is at least delay_base × (rate ÷ threshold − 1), and at most
 * delay_base.
 */
#ifndef VHOSTD_VHOST_COALESCING_H
#define VHOSTD_VHOST_COALESCING_H

#include <stdbool.h>
#include <stdint.h>

#define VHOST_COALESCING_WINDOW_US 10000 /* the rate is measured over that time at least */

/* One queue's; its thread only. */
struct vhost_coalescing {
	uint64_t base;         /* ticks; 0: calls are never put off, and nothing else here counts */
	uint64_t threshold;    /* requests per second */
	uint64_t delay;        /* ticks from one call to the next, 0 … base */
	uint64_t next_call;    /* ticks: not before */
	uint64_t window;       /* ticks: VHOST_COALESCING_WINDOW_US */
	uint64_t window_start; /* ticks */
	uint64_t window_requests; /* of the queue, at window_start */
};

/* From now on. delay_base_us 0 switches it off. requests: of the queue so far. */
void vhost_coalescing_set(struct vhost_coalescing *coalescing, uint32_t delay_base_us,
			  uint32_t iops_threshold, uint64_t now, uint64_t requests);
/*
 * Whether a call that is wanted may go out now; if so, it is taken to go. Only where base is not 0.
 */
bool vhost_coalescing_may_call(struct vhost_coalescing *coalescing, uint64_t now,
			       uint64_t requests);
/* From now until a call may go out, in µs, at least 1. */
uint64_t vhost_coalescing_wait_us(const struct vhost_coalescing *coalescing);

#endif
