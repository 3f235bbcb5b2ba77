/* SPDX-License-Identifier: BSD-3-Clause */
/* Guest memory: regions of memfds, a bump allocator, address lookups. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1024ULL * 1024)
#define GIB (1024 * MIB)

/* The first two share a file, as the parts of a guest below and above 4 GiB do in QEMU. */
const struct client_region_layout client_default_layout[] = {
	{.gpa = 1 * MIB,
	 .user_addr = 0x7f1200100000,
	 .size = 4 * MIB,
	 .mmap_offset = 1 * MIB,
	 .file = 0},
	{.gpa = 4 * GIB,
	 .user_addr = 0x7f1200800000,
	 .size = 64 * MIB,
	 .mmap_offset = 8 * MIB,
	 .file = 0},
	{.gpa = 9 * GIB,
	 .user_addr = 0x7e0000000000,
	 .size = 64 * MIB,
	 .mmap_offset = 0x5000,
	 .file = 1},
};
const unsigned int client_default_layout_count =
	sizeof(client_default_layout) / sizeof(client_default_layout[0]);

/* Opens the region's file, grown to hold it; a file that regions share is opened for each. */
static int
open_file(const struct client_memory *memory, const struct client_region_layout *layout)
{
	const struct client_region *other = NULL;
	off_t end = layout->mmap_offset + layout->size;
	unsigned int i;
	int fd;

	for (i = 0; i < memory->count && !other; i++)
		if (memory->regions[i].layout.file == layout->file)
			other = &memory->regions[i];
	if (other)
		fd = fcntl(other->fd, F_DUPFD_CLOEXEC, 0);
	else
		fd = memfd_create("client-memory", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (lseek(fd, 0, SEEK_END) < end && ftruncate(fd, end) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

int
client_memory_add(struct client_memory *memory, const struct client_region_layout *layout)
{
	struct client_region *region;
	void *data;
	int fd;

	if (memory->count == CLIENT_MAX_REGIONS)
		return -ENOSPC;
	fd = open_file(memory, layout);
	if (fd < 0)
		return fd;
	data = mmap(NULL, layout->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    layout->mmap_offset);
	if (data == MAP_FAILED) {
		close(fd);
		return -ENOMEM;
	}
	region = &memory->regions[memory->count++];
	*region = (struct client_region){.layout = *layout, .fd = fd, .data = data};
	return 0;
}

int
client_memory_remove(struct client_memory *memory)
{
	struct client_region *region;

	if (memory->count == 0)
		return -ENOENT;
	region = &memory->regions[--memory->count];
	munmap(region->data, region->layout.size);
	close(region->fd);
	return 0;
}

int
client_memory_create(struct client_memory *memory, const struct client_region_layout *layout,
		     unsigned int count)
{
	unsigned int i;
	int rc;

	memset(memory, 0, sizeof(*memory));
	for (i = 0; i < count; i++) {
		rc = client_memory_add(memory, &layout[i]);
		if (rc < 0) {
			client_memory_destroy(memory);
			return rc;
		}
	}
	return 0;
}

void
client_memory_destroy(struct client_memory *memory)
{
	while (client_memory_remove(memory) == 0)
		;
}

int
client_memory_alloc_in(struct client_memory *memory, unsigned int index, uint64_t size,
		       uint64_t alignment, uint64_t *gpa)
{
	struct client_region *region;
	uint64_t start;

	if (index >= memory->count)
		return -EINVAL;
	region = &memory->regions[index];
	start = region->layout.gpa + region->allocated;
	start = (start + alignment - 1) & ~(alignment - 1);
	start -= region->layout.gpa;
	if (start > region->layout.size || size > region->layout.size - start)
		return -ENOMEM;
	region->allocated = start + size;
	*gpa = region->layout.gpa + start;
	return 0;
}

int
client_memory_alloc(struct client_memory *memory, uint64_t size, uint64_t alignment, uint64_t *gpa)
{
	unsigned int i, index;

	for (i = 0; i < memory->count; i++) {
		index = (memory->next + i) % memory->count;
		if (client_memory_alloc_in(memory, index, size, alignment, gpa) == 0) {
			memory->next = index + 1;
			return 0;
		}
	}
	return -ENOMEM;
}

static const struct client_region *
find_region(const struct client_memory *memory, uint64_t gpa)
{
	const struct client_region *region;
	unsigned int i;

	for (i = 0; i < memory->count; i++) {
		region = &memory->regions[i];
		if (gpa - region->layout.gpa < region->layout.size)
			return region;
	}
	return NULL;
}

void *
client_memory_ptr(const struct client_memory *memory, uint64_t gpa, uint64_t size)
{
	const struct client_region *region = find_region(memory, gpa);

	if (!region || size > region->layout.size - (gpa - region->layout.gpa))
		return NULL;
	return region->data + (gpa - region->layout.gpa);
}

uint64_t
client_memory_user_addr(const struct client_memory *memory, uint64_t gpa)
{
	const struct client_region *region = find_region(memory, gpa);

	return region ? region->layout.user_addr + (gpa - region->layout.gpa) : 0;
}

/* The bytes from gpa to the end of its region, at most size; 0 outside of memory. */
static size_t
contiguous(const struct client_memory *memory, uint64_t gpa, size_t size)
{
	const struct client_region *region = find_region(memory, gpa);
	uint64_t left;

	if (!region)
		return 0;
	left = region->layout.size - (gpa - region->layout.gpa);
	return left < size ? left : size;
}

int
client_memory_write(struct client_memory *memory, uint64_t gpa, const void *data, size_t size)
{
	size_t n;

	for (; size > 0; size -= n, gpa += n, data = (const char *)data + n) {
		n = contiguous(memory, gpa, size);
		if (n == 0)
			return -EFAULT;
		memcpy(client_memory_ptr(memory, gpa, n), data, n);
	}
	return 0;
}

int
client_memory_read(const struct client_memory *memory, uint64_t gpa, void *data, size_t size)
{
	size_t n;

	for (; size > 0; size -= n, gpa += n, data = (char *)data + n) {
		n = contiguous(memory, gpa, size);
		if (n == 0)
			return -EFAULT;
		memcpy(data, client_memory_ptr(memory, gpa, n), n);
	}
	return 0;
}
