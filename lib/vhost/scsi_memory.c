/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guests' memory, for LUNs whose devices reach it by themselves: each region that a session has is
 * shown to each block device of the controller, whichever of the two comes first.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "vhost_scsi.h"

struct region {
	struct vhost_scsi_memory *owner;
	LIST_ENTRY(region) link;
	void *addr;
	uint64_t length;
	int fd; /* of our own */
	uint64_t fd_offset;
	LIST_HEAD(, map) maps;
};

/* A block device; several LUNs may be on it. */
struct vhost_scsi_disk {
	LIST_ENTRY(vhost_scsi_disk) link;
	struct bdev_desc *desc;
	uint32_t users;
	_Atomic bool gone;
};

/* What a block device has made of a region. */
struct map {
	LIST_ENTRY(map) link;
	const struct vhost_scsi_disk *disk;
	struct bdev_memory *memory;
};

/*
 * All under the lock, on OS threads that may block. It is held while devices map: who comes with a
 * region must not miss a device that is being added, and a message would have to wait as well.
 */
struct vhost_scsi_memory {
	pthread_mutex_t lock;
	uint32_t users; /* the controller, and each region, which may outlive it */
	LIST_HEAD(, region) regions;
	LIST_HEAD(, vhost_scsi_disk) disks;
};

struct vhost_scsi_memory *
vhost_scsi_memory_create(void)
{
	struct vhost_scsi_memory *memory = calloc(1, sizeof(*memory));

	if (memory == NULL)
		return NULL;
	pthread_mutex_init(&memory->lock, NULL);
	memory->users = 1;
	LIST_INIT(&memory->regions);
	LIST_INIT(&memory->disks);
	return memory;
}

/* Under the lock, which it unlocks. */
static void
unlock_and_put(struct vhost_scsi_memory *memory)
{
	bool last = --memory->users == 0;

	pthread_mutex_unlock(&memory->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&memory->lock);
	free(memory);
}

void
vhost_scsi_memory_put(struct vhost_scsi_memory *memory)
{
	pthread_mutex_lock(&memory->lock);
	unlock_and_put(memory);
}

/* ---- under the lock ---- */

/* A device that is gone says no to everything, which matters to nobody any more. */
static int
map_region(struct region *region, struct vhost_scsi_disk *disk, struct errmsg *err)
{
	struct bdev_memory *memory;
	struct map *map;
	int rc;

	if (atomic_load(&disk->gone))
		return 0;
	map = malloc(sizeof(*map));
	if (map == NULL)
		return err_set(err, -ENOMEM, "no memory to map a guest's");
	rc = bdev_memory_map(disk->desc, region->addr, region->length, region->fd,
			     region->fd_offset, &memory, err);
	if (rc != 0 || memory == NULL) {
		free(map);
		return atomic_load(&disk->gone) ? 0 : rc;
	}
	*map = (struct map){.disk = disk, .memory = memory};
	LIST_INSERT_HEAD(&region->maps, map, link);
	return 0;
}

/* disk NULL: of all of them. */
static void
unmap_region(struct region *region, const struct vhost_scsi_disk *disk)
{
	struct map *map = LIST_FIRST(&region->maps);

	while (map != NULL) {
		struct map *next = LIST_NEXT(map, link);

		if (disk == NULL || map->disk == disk) {
			LIST_REMOVE(map, link);
			bdev_memory_unmap(map->memory);
			free(map);
		}
		map = next;
	}
}

static void
end_disk(struct vhost_scsi_memory *memory, struct vhost_scsi_disk *disk)
{
	struct region *region;

	LIST_FOREACH (region, &memory->regions, link)
		unmap_region(region, disk);
	LIST_REMOVE(disk, link);
	free(disk);
}

static struct vhost_scsi_disk *
find_disk(const struct vhost_scsi_memory *memory, const struct bdev_desc *desc)
{
	struct vhost_scsi_disk *disk;

	LIST_FOREACH (disk, &memory->disks, link) {
		if (disk->desc == desc)
			return disk;
	}
	return NULL;
}

static int
add_disk(struct vhost_scsi_memory *memory, struct bdev_desc *desc, struct vhost_scsi_disk **added,
	 struct errmsg *err)
{
	struct vhost_scsi_disk *disk = find_disk(memory, desc);
	struct region *region;
	int rc = 0;

	if (disk != NULL) {
		disk->users++;
		*added = disk;
		return 0;
	}
	disk = calloc(1, sizeof(*disk));
	if (disk == NULL)
		return err_set(err, -ENOMEM, "no memory");
	disk->desc = desc;
	disk->users = 1;
	LIST_INSERT_HEAD(&memory->disks, disk, link);
	LIST_FOREACH (region, &memory->regions, link) {
		rc = map_region(region, disk, err);
		if (rc != 0)
			break;
	}
	if (rc != 0)
		end_disk(memory, disk);
	else
		*added = disk;
	return rc;
}

/* ---- block devices: from the app thread, on a worker ---- */

struct disk_call {
	struct vhost_scsi_memory *memory;
	struct bdev_desc *desc;
	struct vhost_scsi_disk *disk;
	struct errmsg *err;
};

static int
add_on_worker(void *arg)
{
	struct disk_call *call = arg;
	int rc;

	pthread_mutex_lock(&call->memory->lock);
	rc = add_disk(call->memory, call->desc, &call->disk, call->err);
	pthread_mutex_unlock(&call->memory->lock);
	return rc;
}

static int
remove_on_worker(void *arg)
{
	struct disk_call *call = arg;

	pthread_mutex_lock(&call->memory->lock);
	if (--call->disk->users == 0)
		end_disk(call->memory, call->disk);
	pthread_mutex_unlock(&call->memory->lock);
	return 0;
}

int
vhost_scsi_memory_add(struct vhost_scsi_memory *memory, struct bdev_desc *desc,
		      struct vhost_scsi_disk **disk, struct errmsg *err)
{
	struct disk_call call = {.memory = memory, .desc = desc, .err = err};
	int rc = coroutine_blocking(add_on_worker, &call);

	*disk = call.disk;
	return call.disk != NULL ? 0 : rc;
}

void
vhost_scsi_memory_set_gone(struct vhost_scsi_disk *disk)
{
	atomic_store(&disk->gone, true);
}

void
vhost_scsi_memory_remove(struct vhost_scsi_memory *memory, struct vhost_scsi_disk *disk)
{
	struct disk_call call = {.memory = memory, .disk = disk};

	if (coroutine_blocking(remove_on_worker, &call) == -EAGAIN)
		remove_on_worker(&call); /* there is no pool */
}

/* ---- regions: vhost-events thread; their end on any that may block ---- */

static void
end_region(struct region *region)
{
	struct vhost_scsi_memory *memory = region->owner;

	unmap_region(region, NULL);
	LIST_REMOVE(region, link);
	close(region->fd);
	free(region);
	unlock_and_put(memory);
}

int
vhost_scsi_memory_map(void *device, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		      void **result, struct errmsg *err)
{
	struct vhost_scsi_memory *memory = ((struct vhost_scsi *)device)->memory;
	struct region *region = malloc(sizeof(*region));
	struct vhost_scsi_disk *disk;
	int rc = 0;

	*result = NULL;
	if (region == NULL)
		return err_set(err, -ENOMEM, "no memory");
	*region = (struct region){
		.owner = memory,
		.addr = addr,
		.length = length,
		.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
		.fd_offset = fd_offset,
	};
	if (region->fd < 0) {
		rc = -errno;
		free(region);
		return err_set(err, rc, "no file descriptor is left");
	}
	LIST_INIT(&region->maps);
	pthread_mutex_lock(&memory->lock);
	memory->users++;
	LIST_INSERT_HEAD(&memory->regions, region, link);
	LIST_FOREACH (disk, &memory->disks, link) {
		rc = map_region(region, disk, err);
		if (rc != 0)
			break;
	}
	if (rc != 0) {
		end_region(region);
		return rc;
	}
	pthread_mutex_unlock(&memory->lock);
	*result = region;
	return 0;
}

void
vhost_scsi_memory_unmap(void *memory)
{
	struct region *region = memory;

	pthread_mutex_lock(&region->owner->lock);
	end_region(region);
}
