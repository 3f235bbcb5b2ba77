/* SPDX-License-Identifier: BSD-3-Clause */
#include "fault.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>

static __thread bool planned;
static __thread unsigned int good_calls;

void
fault_after(unsigned int good)
{
	planned = true;
	good_calls = good;
}

bool
fault_end(void)
{
	bool happened = !planned;

	planned = false;
	return happened;
}

static bool
fault_now(void)
{
	if (!planned || good_calls-- > 0)
		return false;
	planned = false;
	errno = ENOMEM;
	return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *ptr, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__real_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
int __real_mprotect(void *addr, size_t size, int prot);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *ptr, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
int __wrap_mprotect(void *addr, size_t size, int prot);

void *
__wrap_malloc(size_t size)
{
	return fault_now() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
	return fault_now() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *ptr, size_t size)
{
	return fault_now() ? NULL : __real_realloc(ptr, size);
}

void *
__wrap_aligned_alloc(size_t align, size_t size)
{
	return fault_now() ? NULL : __real_aligned_alloc(align, size);
}

void *
__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	return fault_now() ? MAP_FAILED : __real_mmap(addr, size, prot, flags, fd, offset);
}

int
__wrap_mprotect(void *addr, size_t size, int prot)
{
	return fault_now() ? -1 : __real_mprotect(addr, size, prot);
}
