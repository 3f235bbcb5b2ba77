/* SPDX-License-Identifier: BSD-3-Clause */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Not in <linux/magic.h>: these come from outside of the kernel, or came later. */
#define BCACHEFS_MAGIC 0xca451a4e
#define ZFS_MAGIC      0x2fc12fc1

/*
 * Mappings that a SIGBUS may come from: all front-ends' files. A static array of atomics,
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
mapping_guard_install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct sigaction previous;

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, &previous) != 0)
		return -errno;
	/* Ours already, unless somebody took it from us. */
	if (previous.sa_sigaction != on_sigbus)
		previous_action = previous;
	return 0;
}

static int
guard_add(const struct mapping *mapping, size_t page, atomic_bool *lost)
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
guard_remove(const struct mapping *mapping)
{
	for (int i = 0; i < GUARD_MAX; i++) {
		if (atomic_load(&guards[i].base) == (uintptr_t)mapping->base) {
			atomic_store(&guards[i].base, 0);
			return;
		}
	}
}

int
mapping_check_file_system(int fd)
{
	static const unsigned long local[] = {
		TMPFS_MAGIC,                                          /* memfd, too */
		HUGETLBFS_MAGIC, RAMFS_MAGIC,       EXT4_SUPER_MAGIC, /* ext2 and ext3, too */
		XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, BCACHEFS_MAGIC, ZFS_MAGIC,
	};
	struct statfs fs;
	struct statx st;

	/* The type is known without asking anybody. */
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) != 0 ||
	    fstatfs(fd, &fs) != 0)
		return -errno;
	if (!S_ISREG(st.stx_mode))
		return -EINVAL;
	for (size_t i = 0; i < sizeof(local) / sizeof(local[0]); i++) {
		if ((uint32_t)fs.f_type == local[i])
			return 0;
	}
	return -EMEDIUMTYPE;
}

/* The page size of the file's mappings, or a negative errno. */
static int
check_file(int fd, uint64_t offset, uint64_t size, size_t *page)
{
	struct stat st;
	struct statfs fs;
	uint64_t end;

	if (fstat(fd, &st) != 0 || fstatfs(fd, &fs) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (__builtin_add_overflow(offset, size, &end) || end > (uint64_t)st.st_size)
		return -ERANGE;
	*page = fs.f_type == HUGETLBFS_MAGIC ? (size_t)fs.f_bsize : (size_t)sysconf(_SC_PAGESIZE);
	return 0;
}

int
mapping_create(struct mapping *mapping, int fd, uint64_t offset, uint64_t size, atomic_bool *lost)
{
	size_t page = 0, head;
	int rc;

	mapping->base = NULL;
	rc = check_file(fd, offset, size, &page);
	if (rc != 0)
		return rc;
	head = offset & (page - 1);
	mapping->length = (head + size + page - 1) & ~(page - 1);
	mapping->base = mmap(NULL, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			     (off_t)(offset - head));
	if (mapping->base == MAP_FAILED) {
		mapping->base = NULL;
		return -errno;
	}
	rc = guard_add(mapping, page, lost);
	if (rc != 0) {
		munmap(mapping->base, mapping->length);
		mapping->base = NULL;
		return rc;
	}
	/* A core dump of ours is no place for the guest's memory. */
	madvise(mapping->base, mapping->length, MADV_DONTDUMP);
	mapping->data = (uint8_t *)mapping->base + head;
	return 0;
}

void
mapping_destroy(struct mapping *mapping)
{
	if (mapping->base == NULL)
		return;
	guard_remove(mapping);
	munmap(mapping->base, mapping->length);
	mapping->base = NULL;
}
