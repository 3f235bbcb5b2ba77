/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ticks: a clock that stands still until a test moves it, in place of env.h's. A test owns the time
 * when it names testlib before env in its `links:` line and calls one of these; any OS thread.
 */
#ifndef VHOSTD_TESTLIB_TICKS_H
#define VHOSTD_TESTLIB_TICKS_H

#include <stdint.h>

#define TICKS_PER_US 1000ULL /* what env_ticks_hz() says, too */

void ticks_set(uint64_t ticks);
void ticks_advance_us(uint64_t us);

#endif
