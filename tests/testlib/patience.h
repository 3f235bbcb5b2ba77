/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * patience: code that gives up after some seconds waits for as long as tests do (waiting.h), so
 * that no machine is too slow for it; or gives up at once. A test that uses it has this line:
 */
/* ldflags: -Wl,--wrap=completion_wait */
#ifndef VHOSTD_TESTLIB_PATIENCE_H
#define VHOSTD_TESTLIB_PATIENCE_H

#include <stdatomic.h>

/* Set by the test while what is waited for does not come. Any OS thread. */
extern atomic_bool impatient;

#endif
