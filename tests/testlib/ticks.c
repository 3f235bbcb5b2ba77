/* SPDX-License-Identifier: BSD-3-Clause */
#include "ticks.h"

#include <stdatomic.h>

#include "env.h"

static _Atomic uint64_t now = TICKS_PER_US;

uint64_t
env_ticks(void)
{
	return atomic_load_explicit(&now, memory_order_relaxed);
}

uint64_t
env_ticks_hz(void)
{
	return TICKS_PER_US * 1000000;
}

void
ticks_set(uint64_t ticks)
{
	atomic_store(&now, ticks);
}

void
ticks_advance_us(uint64_t us)
{
	atomic_fetch_add(&now, us * TICKS_PER_US);
}
