/* SPDX-License-Identifier: BSD-3-Clause */
#include "memory.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/*
 * Mappings that a SIGBUS may come from: all front-ends' regions. A static array of atomics,
 * because a signal handler reads it while others add and remove.
 */
#define GUARD_MAX 4096

static struct guard {
	_Atomic uintptr_t base; /* 0: free; GUARD_RESERVED: being filled in */
	_Atomic size_t length;
	_Atomic size_t page;
	_Atomic(atomic_bool *) lost;
} guards[GUARD_MAX];

#define GUARD_RESERVED 1

static struct sigaction previous_action;

/* Returns whether address was in a mapping, and is backed by memory of ours now. */
static bool
guard_cover(uintptr_t address)
{
	for (int i = 0; i < GUARD_MAX; i++) {
		uintptr_t base = atomic_load(&guards[i].base);
		size_t length = atomic_load(&guards[i].length);
		size_t page = atomic_load(&guards[i].page);
		atomic_bool *lost = atomic_load(&guards[i].lost);

		/* Another one's by now: not the mapping that is in use here. */
		if (atomic_load(&guards[i].base) != base)
			continue;
		if (base <= GUARD_RESERVED || address < base || address - base >= length)
			continue;
		address &= ~(page - 1);
		/* The bare system call is safe in a signal handler; sanitizers wrap mmap(). */
		if (syscall(SYS_mmap, address, page, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == -1)
			return false;
		atomic_store(lost, true);
		return true;
	}
	return false;
}

static void
on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	int saved = errno;
	bool covered = info->si_code > 0 && guard_cover((uintptr_t)info->si_addr);

	errno = saved;
	if (covered)
		return;
	if (previous_action.sa_flags & SA_SIGINFO) {
		previous_action.sa_sigaction(signal_number, info, context);
		return;
	}
	/* The instruction runs again, and this time it ends the process. */
	signal(SIGBUS, SIG_DFL);
}

int
vhost_mem_guard_install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigemptyset(&action.sa_mask);
	return sigaction(SIGBUS, &action, &previous_action) == 0 ? 0 : -errno;
}

static int
guard_add(const struct vhost_mapping *mapping, size_t page, atomic_bool *lost)
{
	for (int i = 0; i < GUARD_MAX; i++) {
		uintptr_t expected = 0;

		if (!atomic_compare_exchange_strong(&guards[i].base, &expected, GUARD_RESERVED))
			continue;
		atomic_store(&guards[i].length, mapping->length);
		atomic_store(&guards[i].page, page);
		atomic_store(&guards[i].lost, lost);
		atomic_store(&guards[i].base, (uintptr_t)mapping->base);
		return 0;
	}
	return -ENOSPC;
}

static void
guard_remove(const struct vhost_mapping *mapping)
{
	for (int i = 0; i < GUARD_MAX; i++) {
		if (atomic_load(&guards[i].base) == (uintptr_t)mapping->base) {
			atomic_store(&guards[i].base, 0);
			return;
		}
	}
}

/* The page size of the file's mappings, or a negative errno. */
static int
check_file(int fd, const struct vhost_mem_region *region, size_t *page)
{
	struct stat st;
	struct statfs fs;
	uint64_t end;

	if (fstat(fd, &st) != 0 || fstatfs(fd, &fs) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (__builtin_add_overflow(region->mmap_offset, region->size, &end) ||
	    end > (uint64_t)st.st_size)
		return -ERANGE;
	*page = fs.f_type == HUGETLBFS_MAGIC ? (size_t)fs.f_bsize : (size_t)sysconf(_SC_PAGESIZE);
	return 0;
}

static int
map_region(struct vhost_mem *memory, const struct vhost_mem_region *region, int fd)
{
	struct vhost_mapping *mapping = &memory->mappings[memory->count];
	uint64_t last, offset;
	size_t page = 0, head;
	int rc;

	if (region->size == 0 || __builtin_add_overflow(region->user_addr, region->size - 1, &last))
		return -EINVAL;
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct vhost_mapping *other = &memory->mappings[i];

		if (region->user_addr <= other->user_addr + (other->size - 1) &&
		    other->user_addr <= last)
			return -EINVAL;
	}
	rc = check_file(fd, region, &page);
	if (rc != 0)
		return rc;

	offset = region->mmap_offset & ~(uint64_t)(page - 1);
	head = region->mmap_offset - offset;
	mapping->user_addr = region->user_addr;
	mapping->size = region->size;
	mapping->length = (head + region->size + page - 1) & ~(page - 1);
	mapping->base =
		mmap(NULL, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	if (mapping->base == MAP_FAILED)
		return -errno;
	rc = guard_add(mapping, page, &memory->lost);
	if (rc != 0) {
		munmap(mapping->base, mapping->length);
		return rc;
	}
	/* A core dump of ours is no place for the guest's memory. */
	madvise(mapping->base, mapping->length, MADV_DONTDUMP);
	mapping->hva = (uint8_t *)mapping->base + head;
	memory->count++;
	return 0;
}

int
vhost_mem_create(const struct vhost_mem_region *regions, const int *fds, uint32_t count,
		 struct vhost_mem **memory_out)
{
	struct guest_mem_region map[VHOST_MEM_MAX_REGIONS];
	struct vhost_mem *memory;
	int rc = 0;

	if (count == 0 || count > VHOST_MEM_MAX_REGIONS)
		return -EINVAL;
	memory = calloc(1, sizeof(*memory));
	if (memory == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < count && rc == 0; i++) {
		rc = map_region(memory, &regions[i], fds[i]);
		map[i] = (struct guest_mem_region){.gpa = regions[i].gpa, .size = regions[i].size};
		map[i].hva = memory->mappings[i].hva;
	}
	if (rc == 0)
		rc = guest_mem_create(map, count, &memory->map);
	if (rc != 0) {
		vhost_mem_destroy(memory);
		return rc;
	}
	*memory_out = memory;
	return 0;
}

void
vhost_mem_destroy(struct vhost_mem *memory)
{
	if (memory == NULL)
		return;
	if (memory->map != NULL)
		guest_mem_destroy(memory->map);
	for (uint32_t i = 0; i < memory->count; i++) {
		guard_remove(&memory->mappings[i]);
		munmap(memory->mappings[i].base, memory->mappings[i].length);
	}
	free(memory);
}

void *
vhost_mem_from_user(const struct vhost_mem *memory, uint64_t user_addr, uint64_t size)
{
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct vhost_mapping *mapping = &memory->mappings[i];
		uint64_t offset = user_addr - mapping->user_addr;

		if (offset < mapping->size && size <= mapping->size - offset)
			return mapping->hva + offset;
	}
	return NULL;
}
