/* SPDX-License-Identifier: BSD-3-Clause */
/* Instead of the C library's, in programs that are linked with the flags of allocations.h. */
#include "allocations.h"

#include <stdlib.h>

_Thread_local uint64_t path_allocations;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);

void *
__wrap_malloc(size_t size)
{
	path_allocations++;
	return __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
	path_allocations++;
	return __real_calloc(count, size);
}

void *
__wrap_realloc(void *memory, size_t size)
{
	path_allocations++;
	return __real_realloc(memory, size);
}

void *
__wrap_aligned_alloc(size_t alignment, size_t size)
{
	path_allocations++;
	return __real_aligned_alloc(alignment, size);
}

int
__wrap_posix_memalign(void **memory, size_t alignment, size_t size)
{
	path_allocations++;
	return __real_posix_memalign(memory, alignment, size);
}
