/* SPDX-License-Identifier: BSD-3-Clause */
#include "inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session.h"

/* Of mmap_offset: the parts of queues have 64-bit words. */
#define OFFSET_ALIGN sizeof(uint64_t)
/* The most that is mapped; all queues, of the largest kind, need an eighth of it. */
#define MAX_SIZE (16u << 20)

static uint64_t
region_size(const struct vhost_inflight_layout *layout, bool packed)
{
	return layout->num_queues * virtq_inflight_size(packed, layout->queue_size);
}

static bool
numbers_are_valid(const struct vhost_inflight_layout *layout, uint32_t max_queues)
{
	return layout->num_queues > 0 && layout->num_queues <= max_queues &&
	       layout->queue_size > 0 && layout->queue_size <= VHOST_MAX_RING_SIZE;
}

int
vhost_inflight_new_file(struct vhost_inflight_layout *layout, uint32_t max_queues, bool packed)
{
	int fd, rc;

	if (!numbers_are_valid(layout, max_queues))
		return -EINVAL;
	layout->mmap_size = region_size(layout, packed);
	layout->mmap_offset = 0;
	fd = memfd_create("vhost-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	/* A region of ours keeps its size; writing is what it is for. */
	if (ftruncate(fd, (off_t)layout->mmap_size) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

int
vhost_inflight_create(const struct vhost_inflight_layout *layout, uint32_t max_queues, int fd,
		      struct vhost_inflight **inflight)
{
	struct vhost_inflight *region;
	struct stat st;
	int rc;

	if (!numbers_are_valid(layout, max_queues) || layout->mmap_offset % OFFSET_ALIGN != 0 ||
	    layout->mmap_size < region_size(layout, false) || layout->mmap_size > MAX_SIZE)
		return -EINVAL;
	/* Before anything else that could ask a server of the file system. */
	rc = mapping_check_file_system(fd);
	if (rc != 0)
		return rc;
	if (fstat(fd, &st) != 0)
		return -errno;
	region = calloc(1, sizeof(*region));
	if (region == NULL)
		return -ENOMEM;
	region->layout = *layout;
	region->device = st.st_dev;
	region->inode = st.st_ino;
	rc = mapping_create(&region->mapping, fd, layout->mmap_offset, layout->mmap_size,
			    &region->lost);
	if (rc != 0) {
		free(region);
		return rc;
	}
	*inflight = region;
	return 0;
}

bool
vhost_inflight_is_same(const struct vhost_inflight *a, const struct vhost_inflight *b)
{
	return a != NULL && b != NULL && a->device == b->device && a->inode == b->inode &&
	       a->layout.mmap_offset == b->layout.mmap_offset &&
	       a->layout.queue_size == b->layout.queue_size;
}

void
vhost_inflight_destroy(struct vhost_inflight *inflight)
{
	if (inflight == NULL)
		return;
	mapping_destroy(&inflight->mapping);
	free(inflight);
}

int
vhost_inflight_get_part(struct vhost_inflight *inflight, uint32_t index, struct virtq_opts *opts)
{
	size_t part;

	if (inflight == NULL)
		return 0;
	if (atomic_load(&inflight->lost))
		return -EPROTO;
	part = virtq_inflight_size(opts->packed, inflight->layout.queue_size);
	if (index >= inflight->layout.num_queues || opts->size > inflight->layout.queue_size ||
	    (index + 1) * part > inflight->layout.mmap_size)
		return -ERANGE;
	opts->inflight = inflight->mapping.data + index * part;
	opts->inflight_size = part;
	return 0;
}
