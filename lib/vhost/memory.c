/* SPDX-License-Identifier: BSD-3-Clause */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>

#include "device.h"

static int
map_region(struct vhost_mem *memory, const struct vhost_mem_region *region, int fd)
{
	struct vhost_mem_part *part = &memory->parts[memory->count];
	uint64_t last;
	int rc;

	if (region->size == 0 || __builtin_add_overflow(region->user_addr, region->size - 1, &last))
		return -EINVAL;
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct vhost_mem_part *other = &memory->parts[i];

		if (region->user_addr <= other->user_addr + (other->size - 1) &&
		    other->user_addr <= last)
			return -EINVAL;
	}
	rc = mapping_check_file_system(fd);
	if (rc == 0)
		rc = mapping_create(&part->mapping, fd, region->mmap_offset, region->size,
				    &memory->lost);
	if (rc != 0)
		return rc;
	part->user_addr = region->user_addr;
	part->size = region->size;
	part->file_offset = region->mmap_offset;
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
		map[i].hva = memory->parts[i].mapping.data;
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

int
vhost_mem_map_device(struct vhost_mem *memory, const struct vhost_device_ops *ops, void *device,
		     const int *fds, uint32_t *failed, struct errmsg *err)
{
	int rc = 0;

	if (ops->memory_map == NULL)
		return 0;
	memory->device_ops = ops;
	for (uint32_t i = 0; i < memory->count && rc == 0; i++) {
		struct vhost_mem_part *part = &memory->parts[i];

		*failed = i;
		rc = ops->memory_map(device, part->mapping.data, part->size, fds[i],
				     part->file_offset, &part->device_memory, err);
	}
	return rc;
}

static void
unmap_device(struct vhost_mem *memory)
{
	for (uint32_t i = 0; i < memory->count; i++) {
		if (memory->parts[i].device_memory != NULL)
			memory->device_ops->memory_unmap(memory->parts[i].device_memory);
	}
}

void
vhost_mem_destroy(struct vhost_mem *memory)
{
	if (memory == NULL)
		return;
	unmap_device(memory);
	if (memory->map != NULL)
		guest_mem_destroy(memory->map);
	for (uint32_t i = 0; i < memory->count; i++)
		mapping_destroy(&memory->parts[i].mapping);
	free(memory);
}

void *
vhost_mem_from_user(const struct vhost_mem *memory, uint64_t user_addr, uint64_t size)
{
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct vhost_mem_part *part = &memory->parts[i];
		uint64_t offset = user_addr - part->user_addr;

		if (offset < part->size && size <= part->size - offset)
			return part->mapping.data + offset;
	}
	return NULL;
}
