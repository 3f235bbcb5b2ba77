/* SPDX-License-Identifier: BSD-3-Clause */
/* counter: a counter with one writer and many readers. */
#ifndef VHOSTD_COUNTER_H
#define VHOSTD_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

/* Its writer only: without a locked instruction. Others load it, relaxed: a moment's view. */
static inline void
counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

#endif
