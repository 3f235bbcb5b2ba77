/* SPDX-License-Identifier: BSD-3-Clause */
/* What the client has mapped, and the memory of a command: PRPs (NVMe 1.4 §4.3) and SGLs (§4.4). */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "device.h"

/* The first map that ends behind iova. */
static uint32_t
map_index(const struct dma *dma, uint64_t iova)
{
	uint32_t low = 0, high = dma->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (dma->maps[middle].iova + (dma->maps[middle].size - 1) < iova)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int
dma_add(struct dma *dma, const struct vfio_user_dma_map *map, int fd)
{
	uint32_t at = map_index(dma, map->address);
	int protection = (map->flags & VFIO_USER_DMA_READABLE ? PROT_READ : 0) |
			 (map->flags & VFIO_USER_DMA_WRITEABLE ? PROT_WRITE : 0);
	void *memory;

	if (map->size == 0 || map->size % PAGE != 0 || map->address % PAGE != 0 ||
	    map->offset % PAGE != 0 || map->address + (map->size - 1) < map->address)
		return EINVAL;
	if (at < dma->count && dma->maps[at].iova <= map->address + (map->size - 1))
		return EEXIST;
	if (dma->count == MAX_MAPS)
		return ENOSPC;
	memory = mmap(NULL, map->size, protection, MAP_SHARED, fd, (off_t)map->offset);
	if (memory == MAP_FAILED)
		return errno;
	memmove(&dma->maps[at + 1], &dma->maps[at], (dma->count - at) * sizeof(*dma->maps));
	dma->maps[at] = (struct dma_map){map->address, map->size, memory, map->flags};
	dma->count++;
	return 0;
}

int
dma_remove(struct dma *dma, uint64_t iova, uint64_t size)
{
	uint32_t at = map_index(dma, iova);

	if (at == dma->count || dma->maps[at].iova != iova || dma->maps[at].size != size)
		return ENOENT;
	munmap(dma->maps[at].memory, size);
	dma->count--;
	memmove(&dma->maps[at], &dma->maps[at + 1], (dma->count - at) * sizeof(*dma->maps));
	return 0;
}

void
dma_clear(struct dma *dma)
{
	for (uint32_t i = 0; i < dma->count; i++)
		munmap(dma->maps[i].memory, dma->maps[i].size);
	dma->count = 0;
}

void *
dma_at(struct dma *dma, uint64_t iova, uint64_t length, uint32_t flags)
{
	const struct dma_map *map = &dma->maps[dma->last];

	if (dma->last >= dma->count || iova - map->iova >= map->size) {
		dma->last = map_index(dma, iova);
		map = &dma->maps[dma->last];
		if (dma->last == dma->count || iova < map->iova)
			return NULL;
	}
	if (length > map->size - (iova - map->iova) || (map->flags & flags) != flags)
		return NULL;
	return map->memory + (iova - map->iova);
}

void *
dma_need(struct device *dev, uint64_t iova, uint64_t length, uint32_t flags, const char *what)
{
	void *memory = dma_at(&dev->dma, iova, length, flags);

	if (memory == NULL)
		violation(dev, V_IOVA, "%s: 0x%llx + 0x%llx is not mapped%s", what,
			  (unsigned long long)iova, (unsigned long long)length,
			  flags & VFIO_USER_DMA_WRITEABLE ? " for writing" : " for reading");
	return memory;
}

/* ---- the memory of a command ---- */

static uint16_t
add_segment(struct device *dev, uint64_t iova, uint64_t length, uint32_t flags, const char *what)
{
	struct transfer *transfer = &dev->transfer;
	void *memory = dma_need(dev, iova, length, flags, what);

	if (memory == NULL)
		return NVME_SC_DATA_XFER_ERROR;
	if (transfer->count == MAX_SEGMENTS)
		return NVME_SC_INVALID_FIELD;
	transfer->segments[transfer->count++] = (struct iovec){memory, length};
	return 0;
}

/*
 * The entries of PRP lists. A list does not cross a page: when more entries are needed than fit,
 * the page's last one is the address of the next list, which begins a page.
 */
static uint16_t
map_prp_list(struct device *dev, uint64_t list, uint64_t left, uint32_t flags)
{
	uint32_t page = dev->controller.page_size;

	if (list % 8 != 0) {
		violation(dev, V_PRP, "PRP2, the address of a list, is 0x%llx: not of 8 bytes",
			  (unsigned long long)list);
		return NVME_SC_PRP_INVALID_OFFSET;
	}
	while (left > 0) {
		uint32_t entries = (page - (uint32_t)(list % page)) / 8;
		uint64_t needed = (left + page - 1) / page;
		bool chained = needed > entries;
		uint32_t used = chained ? entries - 1 : (uint32_t)needed;
		const uint64_t *entry = dma_need(dev, list, (used + chained) * 8ULL,
						 VFIO_USER_DMA_READABLE, "PRP list");

		if (entry == NULL)
			return NVME_SC_DATA_XFER_ERROR;
		for (uint32_t i = 0; i < used; i++) {
			uint64_t address = entry[i];
			uint64_t length = left < page ? left : page;
			uint16_t status;

			if (address % page != 0) {
				violation(dev, V_PRP, "entry %u of a PRP list is 0x%llx: an offset",
					  i, (unsigned long long)address);
				return NVME_SC_PRP_INVALID_OFFSET;
			}
			status = add_segment(dev, address, length, flags, "PRP list entry");
			if (status != 0)
				return status;
			left -= length;
		}
		if (chained)
			list = entry[used];
		if (chained && list % page != 0) {
			violation(dev, V_PRP,
				  "a PRP list goes over the end of its page: 0x%llx is no list",
				  (unsigned long long)list);
			return NVME_SC_PRP_INVALID_OFFSET;
		}
	}
	return 0;
}

static uint16_t
map_prps(struct device *dev, const struct nvme_sqe *sqe, uint64_t length, uint32_t flags)
{
	uint32_t page = dev->controller.page_size;
	uint64_t first = page - sqe->prp1 % page;
	uint16_t status;

	if (sqe->prp1 % 4 != 0) {
		violation(dev, V_PRP, "PRP1 is 0x%llx: not of 4 bytes",
			  (unsigned long long)sqe->prp1);
		return NVME_SC_PRP_INVALID_OFFSET;
	}
	if (length <= first && sqe->prp2 != 0)
		violation(dev, V_RESERVED, "PRP2 is 0x%llx, but one page is enough",
			  (unsigned long long)sqe->prp2);
	status = add_segment(dev, sqe->prp1, length < first ? length : first, flags, "PRP1");
	if (status != 0 || length <= first)
		return status;
	length -= first;
	if (length > page)
		return map_prp_list(dev, sqe->prp2, length, flags);
	if (sqe->prp2 % page != 0) {
		violation(dev, V_PRP, "PRP2 is 0x%llx: an offset", (unsigned long long)sqe->prp2);
		return NVME_SC_PRP_INVALID_OFFSET;
	}
	return add_segment(dev, sqe->prp2, length, flags, "PRP2");
}

static uint16_t
sgl_wrong(struct device *dev, uint16_t status, const char *what)
{
	violation(dev, V_SGL, "%s", what);
	return status;
}

static uint16_t
map_sgl_data(struct device *dev, const struct nvme_sgl *sgl, uint64_t *left, uint32_t flags)
{
	if (sgl->length > *left)
		return sgl_wrong(dev, NVME_SC_SGL_INVALID_DATA, "longer than the data");
	*left -= sgl->length;
	return sgl->length == 0 ? 0 : add_segment(dev, sgl->address, sgl->length, flags, "SGL");
}

/* All of a segment but its last descriptor has to be data. */
static uint16_t
map_sgl_segment(struct device *dev, const struct nvme_sgl *sgl, uint32_t count, uint64_t *left,
		uint32_t flags)
{
	for (uint32_t i = 0; i < count; i++) {
		uint16_t status;

		if (sgl[i].type != NVME_SGL_DATA << 4)
			return sgl_wrong(dev, NVME_SC_SGL_INVALID_TYPE,
					 "a descriptor that is not data");
		status = map_sgl_data(dev, &sgl[i], left, flags);
		if (status != 0)
			return status;
	}
	return 0;
}

static uint16_t
map_sgl(struct device *dev, const struct nvme_sqe *sqe, uint64_t length, uint32_t flags)
{
	struct nvme_sgl sgl = sqe->sgl;
	uint64_t left = length;
	uint32_t segments = 0;
	uint16_t status = 0;

	if (!dev->settings.sgl)
		return sgl_wrong(dev, NVME_SC_INVALID_FIELD, "used, but not offered");
	while (status == 0 && sgl.type >> 4 != NVME_SGL_DATA) {
		bool last = sgl.type >> 4 == NVME_SGL_LAST_SEGMENT;
		uint32_t count = sgl.length / sizeof(sgl);
		const struct nvme_sgl *segment;

		if ((!last && sgl.type >> 4 != NVME_SGL_SEGMENT) || ++segments > MAX_SEGMENTS)
			return sgl_wrong(dev, NVME_SC_SGL_INVALID_TYPE, "a type that there is not");
		if (count == 0 || sgl.length % sizeof(sgl) != 0)
			return sgl_wrong(dev, NVME_SC_SGL_INVALID_LAST, "a segment's length");
		segment = dma_need(dev, sgl.address, sgl.length, VFIO_USER_DMA_READABLE,
				   "SGL segment");
		if (segment == NULL)
			return NVME_SC_DATA_XFER_ERROR;
		status = map_sgl_segment(dev, segment, last ? count : count - 1, &left, flags);
		if (last)
			break;
		sgl = segment[count - 1];
		if (sgl.type >> 4 == NVME_SGL_DATA)
			return sgl_wrong(dev, NVME_SC_SGL_INVALID_LAST,
					 "a segment that leads nowhere");
	}
	if (status == 0 && sgl.type >> 4 == NVME_SGL_DATA)
		status = map_sgl_segment(dev, &sgl, 1, &left, flags);
	if (status == 0 && left > 0)
		return sgl_wrong(dev, NVME_SC_SGL_INVALID_DATA, "shorter than the data");
	return status;
}

uint16_t
transfer_map(struct device *dev, const struct nvme_sqe *sqe, uint64_t length, uint32_t flags)
{
	dev->transfer.count = 0;
	switch (NVME_SQE_PSDT(sqe->flags)) {
	case 0:
		return map_prps(dev, sqe, length, flags);
	case 1:
		return map_sgl(dev, sqe, length, flags);
	default:
		return sgl_wrong(dev, NVME_SC_INVALID_FIELD, "PSDT");
	}
}

uint16_t
transfer_answer(struct device *dev, const struct nvme_sqe *sqe, const void *data, uint64_t length,
		uint64_t size)
{
	uint16_t status = transfer_map(dev, sqe, size, VFIO_USER_DMA_WRITEABLE);
	uint64_t done = 0;

	if (status != 0)
		return status;
	for (uint32_t i = 0; i < dev->transfer.count; i++) {
		const struct iovec *segment = &dev->transfer.segments[i];
		uint64_t copied =
			length - done < segment->iov_len ? length - done : segment->iov_len;

		memcpy(segment->iov_base, (const uint8_t *)data + done, copied);
		memset((uint8_t *)segment->iov_base + copied, 0, segment->iov_len - copied);
		done += copied;
	}
	return 0;
}
