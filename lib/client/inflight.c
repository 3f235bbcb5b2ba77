/* SPDX-License-Identifier: BSD-3-Clause */
/* A look into the in-flight region, and regions made by hand. */
#include "client.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int
client_inflight_create(struct client_inflight *inflight, uint64_t mmap_size, uint16_t num_queues,
		       uint16_t queue_size)
{
	*inflight = (struct client_inflight){
		.mmap_size = mmap_size,
		.num_queues = num_queues,
		.queue_size = queue_size,
		.fd = memfd_create("client-inflight", MFD_CLOEXEC),
	};
	if (inflight->fd < 0)
		return -errno;
	if (ftruncate(inflight->fd, mmap_size) < 0) {
		close(inflight->fd);
		inflight->fd = -1;
		return -EFBIG;
	}
	return 0;
}

int
client_inflight_map(struct client_inflight_map *map, const struct client_inflight *inflight)
{
	uint64_t skip = inflight->mmap_offset & (sysconf(_SC_PAGESIZE) - 1);
	struct stat st;

	memset(map, 0, sizeof(*map));
	if (inflight->fd < 0 || inflight->num_queues == 0)
		return -EINVAL;
	if (fstat(inflight->fd, &st) < 0)
		return -errno;
	if (inflight->mmap_size == 0 || inflight->mmap_offset > (uint64_t)st.st_size ||
	    inflight->mmap_size > st.st_size - inflight->mmap_offset)
		return -EPROTO;
	map->mapping_size = inflight->mmap_size + skip;
	map->mapping = mmap(NULL, map->mapping_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    inflight->fd, inflight->mmap_offset - skip);
	if (map->mapping == MAP_FAILED) {
		map->mapping = NULL;
		return -ENOMEM;
	}
	map->data = (uint8_t *)map->mapping + skip;
	map->size = inflight->mmap_size;
	map->queues = inflight->num_queues;
	map->queue_size = map->size / map->queues;
	return 0;
}

void
client_inflight_unmap(struct client_inflight_map *map)
{
	if (map->mapping)
		munmap(map->mapping, map->mapping_size);
	map->mapping = NULL;
	map->data = NULL;
}

static void *
queue_part(const struct client_inflight_map *map, unsigned int queue, uint64_t needed)
{
	if (queue >= map->queues || needed > map->queue_size)
		return NULL;
	return map->data + queue * map->queue_size;
}

struct client_inflight_split *
client_inflight_split(const struct client_inflight_map *map, unsigned int queue, uint16_t desc_num)
{
	return queue_part(map, queue,
			  sizeof(struct client_inflight_split) +
				  desc_num * sizeof(struct client_inflight_split_desc));
}

struct client_inflight_packed *
client_inflight_packed(const struct client_inflight_map *map, unsigned int queue, uint16_t desc_num)
{
	return queue_part(map, queue,
			  sizeof(struct client_inflight_packed) +
				  desc_num * sizeof(struct client_inflight_packed_desc));
}

unsigned int
client_inflight_count_split(const struct client_inflight_split *queue, uint16_t desc_num)
{
	unsigned int i, count = 0;

	for (i = 0; i < desc_num; i++)
		count += __atomic_load_n(&queue->desc[i].inflight, __ATOMIC_ACQUIRE) != 0;
	return count;
}

unsigned int
client_inflight_count_packed(const struct client_inflight_packed *queue, uint16_t desc_num)
{
	unsigned int i, count = 0;

	for (i = 0; i < desc_num; i++)
		count += __atomic_load_n(&queue->desc[i].inflight, __ATOMIC_ACQUIRE) != 0;
	return count;
}
