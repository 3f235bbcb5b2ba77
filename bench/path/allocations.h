/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How often a thread has asked for memory, from all code that is linked statically: all of ours.
 * With the linker's flags --wrap=malloc, calloc, realloc, aligned_alloc and posix_memalign.
 */
#ifndef BENCH_PATH_ALLOCATIONS_H
#define BENCH_PATH_ALLOCATIONS_H

#include <stdbool.h>
#include <stdint.h>

extern _Thread_local uint64_t path_allocations;

/*
 * Whether so many are too many for so many I/Os. What looks after devices and connections once in a
 * while runs on the same threads and allocates sometimes: a few, and one in a hundred I/Os, are not
 * theirs.
 */
static inline bool
path_allocates(uint64_t allocations, uint64_t ios)
{
	return allocations > 10 && allocations > ios / 100;
}

#endif
