/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Namespaces. A null one has no data. The others have two images: stable is a shared mapping of the
 * file (a memfd for memory) and is what a power loss leaves; current is a private mapping of the
 * same file, so what has not been written since it was mapped is read from stable. A flush copies
 * dirty blocks to stable; a power loss maps current anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

#define GROWTH       4 /* times the size at first: address space only */
#define CAPACITY_MIN (64ULL << 20)

struct nvme_ns *
namespace_find(struct device *dev, uint32_t nsid)
{
	struct nvme_ns *ns = &dev->namespaces[nsid - 1];

	return nsid - 1 < MAX_NAMESPACES && ns->kind != NAMESPACE_NONE ? ns : NULL;
}

/* ---- images ---- */

static void *
map_current(struct nvme_ns *ns, void *where)
{
	return mmap(where, ns->capacity << ns->shift, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_NORESERVE | (where != NULL ? MAP_FIXED : 0), ns->fd, 0);
}

static bool
map_images(struct nvme_ns *ns)
{
	ns->stable = mmap(NULL, ns->capacity << ns->shift, PROT_READ | PROT_WRITE, MAP_SHARED,
			  ns->fd, 0);
	ns->current = map_current(ns, NULL);
	ns->dirty = calloc((ns->capacity + 63) / 64, sizeof(*ns->dirty));
	return ns->stable != MAP_FAILED && ns->current != MAP_FAILED && ns->dirty != NULL;
}

static void
unmap_images(struct nvme_ns *ns)
{
	if (ns->stable != NULL && ns->stable != MAP_FAILED)
		munmap(ns->stable, ns->capacity << ns->shift);
	if (ns->current != NULL && ns->current != MAP_FAILED)
		munmap(ns->current, ns->capacity << ns->shift);
	free(ns->dirty);
	if (ns->fd >= 0)
		close(ns->fd);
	*ns = (struct nvme_ns){.fd = -1};
}

/* The file is as large as the namespace, or larger. */
static bool
grow_file(struct nvme_ns *ns, uint64_t blocks)
{
	struct stat stat;

	if (fstat(ns->fd, &stat) != 0)
		return false;
	return (uint64_t)stat.st_size >= blocks << ns->shift ||
	       ftruncate(ns->fd, (off_t)(blocks << ns->shift)) == 0;
}

static bool
open_images(struct nvme_ns *ns, const char *path)
{
	ns->fd = ns->kind == NAMESPACE_FILE ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644)
					    : memfd_create("namespace", MFD_CLOEXEC);
	ns->capacity = ns->blocks * GROWTH;
	if (ns->capacity < CAPACITY_MIN >> ns->shift)
		ns->capacity = CAPACITY_MIN >> ns->shift;
	return ns->fd >= 0 && grow_file(ns, ns->blocks) && map_images(ns);
}

/* ---- adding and removing ---- */

bool
namespace_add(struct device *dev, uint32_t nsid, const char *kind, uint64_t blocks,
	      uint32_t block_size, const char *path, char *error, size_t size)
{
	static const char *const kinds[] = {[NAMESPACE_NONE] = "",
					    [NAMESPACE_NULL] = "null",
					    [NAMESPACE_MEMORY] = "memory",
					    [NAMESPACE_FILE] = "file"};
	struct nvme_ns ns = {
		.fd = -1, .nsid = nsid, .blocks = blocks, .capacity = UINT64_MAX >> 16};
	uint32_t number = NAMESPACE_FILE;

	while (number > NAMESPACE_NONE && strcmp(kinds[number], kind) != 0)
		number--;
	ns.kind = number;
	while (ns.shift < 16 && 1U << ns.shift != block_size)
		ns.shift++;
	if (ns.kind == NAMESPACE_NONE || nsid - 1 >= MAX_NAMESPACES || blocks == 0 ||
	    blocks > UINT64_MAX >> 24 || ns.shift < 9 || ns.shift > 12 ||
	    (ns.kind == NAMESPACE_FILE) != (path != NULL)) {
		snprintf(error, size,
			 "nsid 1 to %u, null|memory|file, blocks, 512 to 4096 [, path]",
			 MAX_NAMESPACES);
		return false;
	}
	if (dev->namespaces[nsid - 1].kind != NAMESPACE_NONE) {
		snprintf(error, size, "namespace %u exists", nsid);
		return false;
	}
	if (ns.kind != NAMESPACE_NULL && !open_images(&ns, path)) {
		snprintf(error, size, "%s: %s", path != NULL ? path : kind, strerror(errno));
		unmap_images(&ns);
		return false;
	}
	dev->namespaces[nsid - 1] = ns;
	return true;
}

bool
namespace_resize(struct device *dev, struct nvme_ns *ns, uint64_t blocks)
{
	if (blocks == 0 || blocks > ns->capacity ||
	    (ns->kind != NAMESPACE_NULL && !grow_file(ns, blocks)))
		return false;
	ns->blocks = blocks;
	device_namespace_changed(dev, ns->nsid);
	return true;
}

void
namespace_remove(struct device *dev, struct nvme_ns *ns)
{
	uint32_t nsid = ns->nsid;

	unmap_images(ns);
	device_namespace_changed(dev, nsid);
}

/* ---- the volatile write cache ---- */

static void
make_stable(struct nvme_ns *ns, uint64_t block)
{
	ns->dirty[block / 64] &= ~(1ULL << block % 64);
	ns->dirty_count--;
	memcpy(ns->stable + (block << ns->shift), ns->current + (block << ns->shift),
	       1U << ns->shift);
}

static bool
is_dirty(const struct nvme_ns *ns, uint64_t block)
{
	return (ns->dirty[block / 64] >> block % 64 & 1) != 0;
}

void
namespace_written(struct device *dev, struct nvme_ns *ns, uint64_t block, uint64_t count, bool fua)
{
	bool cached = dev->settings.cache &&
		      dev->controller.features.values[NVME_FEAT_FID_VOLATILE_WC] != 0;

	for (; count > 0; block++, count--) {
		if (!is_dirty(ns, block)) {
			ns->dirty[block / 64] |= 1ULL << block % 64;
			ns->dirty_count++;
		}
		if (fua || !cached)
			make_stable(ns, block);
	}
}

void
namespace_flush(struct nvme_ns *ns)
{
	for (uint64_t word = 0; ns->dirty_count > 0; word++) {
		while (ns->dirty[word] != 0)
			make_stable(ns, word * 64 + (uint64_t)__builtin_ctzll(ns->dirty[word]));
	}
}

uint64_t
namespace_power_loss(struct nvme_ns *ns)
{
	uint64_t lost = ns->dirty_count;

	if (lost == 0)
		return 0;
	if (map_current(ns, ns->current) == MAP_FAILED)
		abort();
	memset(ns->dirty, 0, (ns->capacity + 63) / 64 * sizeof(*ns->dirty));
	ns->dirty_count = 0;
	return lost;
}

uint64_t
namespace_dirty(const struct nvme_ns *ns, uint64_t block, uint64_t count)
{
	uint64_t dirty = 0;

	if (ns->dirty_count == 0)
		return 0;
	for (; count > 0; block++, count--)
		dirty += is_dirty(ns, block);
	return dirty;
}
