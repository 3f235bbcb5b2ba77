/* SPDX-License-Identifier: BSD-3-Clause */
/* queue_set: some of a session's queues, a bit for each. Private to lib/vhost. */
#ifndef VHOSTD_VHOST_QUEUE_SET_H
#define VHOSTD_VHOST_QUEUE_SET_H

#include <stdint.h>

#include "device.h"

typedef unsigned __int128 vhost_queue_set;

_Static_assert(VHOST_MAX_RINGS < 128, "a set has a bit for each of them");
#define VHOST_QUEUE_SET_ALL (vhost_queue_set_of(VHOST_MAX_RINGS) - 1)

static inline vhost_queue_set
vhost_queue_set_of(uint32_t index)
{
	return (vhost_queue_set)1 << index;
}

/* Of one that is not empty. */
static inline uint32_t
vhost_queue_set_first(vhost_queue_set set)
{
	uint64_t low = (uint64_t)set;

	return (uint32_t)(low != 0 ? __builtin_ctzll(low)
				   : 64 + __builtin_ctzll((uint64_t)(set >> 64)));
}

static inline uint32_t
vhost_queue_set_count(vhost_queue_set set)
{
	return (uint32_t)(__builtin_popcountll((uint64_t)set) +
			  __builtin_popcountll((uint64_t)(set >> 64)));
}

#endif
