/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fault: lets one allocation fail. A test that uses it has this line, which routes the allocators
 * through here:
 */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#ifndef VHOSTD_TESTLIB_FAULT_H
#define VHOSTD_TESTLIB_FAULT_H

#include <stdbool.h>

/*
 * Of the calls that this OS thread makes from now on, the one after `good` good ones fails with
 * ENOMEM, once. Only calls from objects that are linked statically are counted.
 */
void fault_after(unsigned int good);
/* Nothing fails any more. Returns whether the fault has happened. */
bool fault_end(void);

#endif
