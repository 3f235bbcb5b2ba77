/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio_rig: a machine in a folder (sysfs, /dev/vfio) with one NVMe device, and a VFIO that answers
 * as told. The test has this line:
 */
/* ldflags: -Wl,--wrap=ioctl,--wrap=log_write */
#ifndef VHOSTD_UNIT_VFIO_RIG_H
#define VHOSTD_UNIT_VFIO_RIG_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "vfio.h"

#define ADDRESS     "0000:01:00.0"
#define NVME_CLASS  0x010802u
#define BAR_SIZE    0x4000u
#define CONFIG_AT   0x8000u /* in the device's file, of which BAR 0 is the beginning */
#define CONFIG_SIZE 256u
#define VECTORS     5u
#define BAR_IOVA    0xfebf0000ull /* and as long as BAR_SIZE */

static struct {
	char root[64];

	/* what VFIO says; changed by tests */
	unsigned long fail_request; /* this one fails with … */
	int fail_errno;
	int api_version, extension;
	uint32_t group_flags;
	struct vfio_device_info device;
	uint32_t region_flags; /* of BAR 0 */
	uint64_t bar_size;
	uint32_t area_count; /* sparse areas */
	struct vfio_region_sparse_mmap_area areas[3];
	uint32_t vectors, request_vectors;
	uint64_t page_sizes;
	uint32_t range_count; /* 0: it does not say */
	struct vfio_iova_range ranges[4];
	uint32_t info_argsz; /* not 0: the length it claims for any info */

	/* what it was told */
	int device_fd; /* ours of the device's file */
	uint64_t mapped;
	uint32_t map_count;
	struct vfio_iommu_type1_dma_map last_map;
	int msix[VECTORS];
	uint32_t msix_count;
	int request; /* a dup, or -1 */
	unsigned int resets;
	bool attached;
} rig;

/* ---- the folder ---- */

static inline void
rig_write(const char *file, const char *text)
{
	char path[256];
	FILE *stream;

	snprintf(path, sizeof(path), "%s%s", rig.root, file);
	stream = fopen(path, "we");
	assert_non_null(stream);
	fputs(text, stream);
	assert_int_equal(fclose(stream), 0);
}

/* All folders down to the last part, which is not one. */
static inline void
rig_folders(const char *file)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s", rig.root, file);
	for (char *c = path + strlen(rig.root) + 1; (c = strchr(c, '/')) != NULL; c++) {
		*c = '\0';
		mkdir(path, 0755);
		*c = '/';
	}
}

static inline void
rig_link(const char *file, const char *target)
{
	char path[256];

	rig_folders(file);
	snprintf(path, sizeof(path), "%s%s", rig.root, file);
	unlink(path);
	assert_int_equal(symlink(target, path), 0);
}

static inline void
rig_remove(const char *file)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s", rig.root, file);
	assert_int_equal(unlink(path), 0);
}

/* A device of the group 7. driver NULL: none. */
static inline void
rig_add_device(const char *address, const char *class, const char *driver)
{
	char file[128], target[128];

	snprintf(file, sizeof(file), "/sys/bus/pci/devices/%s/class", address);
	rig_folders(file);
	rig_write(file, class);
	snprintf(file, sizeof(file), "/sys/bus/pci/devices/%s/resource", address);
	rig_write(file, "0x00000000febf0000 0x00000000febf3fff 0x0000000000140204\n"
			"0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
			"0x000000000000c000 0x000000000000c0ff 0x0000000000040101\n");
	snprintf(file, sizeof(file), "/sys/bus/pci/devices/%s/iommu_group", address);
	rig_link(file, "../../../../kernel/iommu_groups/7");
	snprintf(file, sizeof(file), "/sys/kernel/iommu_groups/7/devices/%s", address);
	rig_link(file, "../../../../bus/pci/devices");
	if (driver == NULL)
		return;
	snprintf(file, sizeof(file), "/sys/bus/pci/devices/%s/driver", address);
	snprintf(target, sizeof(target), "../../../../bus/pci/drivers/%s", driver);
	rig_link(file, target);
}

/* ---- VFIO ---- */

int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_ioctl(int fd, unsigned long request, ...);

/* An info structure of `fixed` bytes and one capability behind it. */
static inline void
rig_answer(void *arg, const void *info, uint32_t fixed, const void *capability, uint32_t size)
{
	uint32_t *argsz = arg;
	uint32_t room = *argsz, length = fixed + size;

	memcpy(arg, info, room < fixed ? room : fixed);
	if (room >= length && size > 0)
		memcpy((char *)arg + fixed, capability, size);
	*argsz = rig.info_argsz != 0 ? rig.info_argsz : length;
}

static inline int
rig_iommu_info(void *arg)
{
	struct {
		struct vfio_iommu_type1_info_cap_iova_range header;
		struct vfio_iova_range ranges[4];
	} capability = {.header = {.header = {VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0},
				   .nr_iovas = rig.range_count}};
	struct vfio_iommu_type1_info info = {.flags = VFIO_IOMMU_INFO_PGSIZES,
					     .iova_pgsizes = rig.page_sizes};

	memcpy(capability.ranges, rig.ranges, sizeof(rig.ranges));
	if (rig.range_count > 0) {
		info.flags |= VFIO_IOMMU_INFO_CAPS;
		info.cap_offset = sizeof(info);
	}
	rig_answer(arg, &info, sizeof(info), &capability,
		   rig.range_count > 0 ? (uint32_t)(sizeof(capability.header) + sizeof(rig.ranges))
				       : 0);
	return 0;
}

static inline int
rig_region_info(struct vfio_region_info *arg)
{
	struct {
		struct vfio_info_cap_header header;
		uint32_t nr_areas, reserved;
		struct vfio_region_sparse_mmap_area areas[3];
	} capability = {.header = {VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0},
			.nr_areas = rig.area_count};
	struct vfio_region_info info = {.index = arg->index};
	bool sparse = arg->index == VFIO_PCI_BAR0_REGION_INDEX && rig.area_count > 0;

	memcpy(capability.areas, rig.areas, sizeof(rig.areas));
	if (arg->index == VFIO_PCI_BAR0_REGION_INDEX) {
		info.size = rig.bar_size;
		info.flags = rig.region_flags | (sparse ? VFIO_REGION_INFO_FLAG_CAPS : 0);
		info.cap_offset = sparse ? sizeof(info) : 0;
	} else if (arg->index == VFIO_PCI_CONFIG_REGION_INDEX) {
		info.size = CONFIG_SIZE;
		info.offset = CONFIG_AT;
	}
	rig_answer(arg, &info, sizeof(info), &capability, sparse ? sizeof(capability) : 0);
	return 0;
}

static inline int
rig_set_irqs(struct vfio_irq_set *set)
{
	bool on = (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0;

	if (set->index == VFIO_PCI_REQ_IRQ_INDEX) {
		rig.request = dup(*(int *)(void *)set->data);
		return 0;
	}
	/* Some of those that are on. */
	if (on && set->count < rig.msix_count && set->start < rig.msix_count) {
		memcpy(&rig.msix[set->start], set->data, set->count * sizeof(int));
		return 0;
	}
	/*
	 * The kernel's rules: from one number to another only by way of none, and from none to none
	 * not at all.
	 */
	if (set->index != VFIO_PCI_MSIX_IRQ_INDEX || set->count > VECTORS ||
	    on == (rig.msix_count > 0)) {
		errno = EINVAL;
		return -1;
	}
	rig.msix_count = set->count;
	if (on)
		memcpy(rig.msix, set->data, set->count * sizeof(int));
	return 0;
}

static inline int
rig_map(struct vfio_iommu_type1_dma_map *map)
{
	rig.last_map = *map;
	rig.mapped += map->size;
	rig.map_count++;
	return 0;
}

static inline int
rig_unmap(struct vfio_iommu_type1_dma_unmap *unmap)
{
	rig.mapped -= unmap->size;
	rig.map_count--;
	return 0;
}

static inline int
rig_irq_info(struct vfio_irq_info *info)
{
	info->flags = VFIO_IRQ_INFO_EVENTFD;
	info->count = info->index == VFIO_PCI_MSIX_IRQ_INDEX  ? rig.vectors
		      : info->index == VFIO_PCI_REQ_IRQ_INDEX ? rig.request_vectors
							      : 0;
	return 0;
}

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (((request >> 8) & 0xff) != VFIO_TYPE)
		return __real_ioctl(fd, request, arg);
	if (request == rig.fail_request) {
		errno = rig.fail_errno;
		return -1;
	}
	switch (request) {
	case VFIO_GET_API_VERSION:
		return rig.api_version;
	case VFIO_CHECK_EXTENSION:
		return (uintptr_t)arg == VFIO_TYPE1v2_IOMMU ? rig.extension : 0;
	case VFIO_GROUP_GET_STATUS:
		((struct vfio_group_status *)arg)->flags = rig.group_flags;
		return 0;
	case VFIO_GROUP_SET_CONTAINER:
		rig.attached = true;
		return 0;
	case VFIO_SET_IOMMU:
		return rig.attached && (uintptr_t)arg == VFIO_TYPE1v2_IOMMU ? 0 : -1;
	case VFIO_GROUP_GET_DEVICE_FD:
		assert_string_equal(arg, ADDRESS);
		return dup(rig.device_fd);
	case VFIO_DEVICE_GET_INFO:
		*(struct vfio_device_info *)arg = rig.device;
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		return rig_region_info(arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return rig_irq_info(arg);
	case VFIO_DEVICE_SET_IRQS:
		return rig_set_irqs(arg);
	case VFIO_DEVICE_RESET:
		rig.resets++;
		return 0;
	case VFIO_IOMMU_GET_INFO:
		return rig_iommu_info(arg);
	case VFIO_IOMMU_MAP_DMA:
		return rig_map(arg);
	case VFIO_IOMMU_UNMAP_DMA:
		return rig_unmap(arg);
	default:
		errno = ENOTTY;
		return -1;
	}
}

/* ---- for tests ---- */

static inline uint16_t
rig_command(void)
{
	uint16_t command;

	assert_int_equal(pread(rig.device_fd, &command, 2, CONFIG_AT + 4), 2);
	return command;
}

static inline void
rig_set_register(uint32_t offset, uint32_t value)
{
	assert_int_equal(pwrite(rig.device_fd, &value, 4, offset), 4);
}

static inline uint32_t
rig_register(uint32_t offset)
{
	uint32_t value;

	assert_int_equal(pread(rig.device_fd, &value, 4, offset), 4);
	return value;
}

static inline int
rig_count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(folder);
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

/* A machine where all is well. */
static inline void
rig_start(void)
{
	const char *folder = getenv("TMPDIR");

	memset(&rig, 0, sizeof(rig));
	snprintf(rig.root, sizeof(rig.root), "%s/vfio-XXXXXX",
		 folder != NULL && strlen(folder) < 40 ? folder : "/tmp");
	assert_non_null(mkdtemp(rig.root));
	rig_add_device(ADDRESS, "0x010802\n", "vfio-pci");
	rig_write("/sys/kernel/iommu_groups/7/reserved_regions",
		  "0x00000000fee00000 0x00000000feefffff msi\n"
		  "0x000000fd00000000 0x000000ffffffffff reserved\n");
	rig_folders("/dev/vfio/7");
	rig_write("/dev/vfio/vfio", "");
	rig_write("/dev/vfio/7", "");
	rig.extension = 1;
	rig.group_flags = VFIO_GROUP_FLAGS_VIABLE;
	rig.device = (struct vfio_device_info){
		.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET, .num_regions = 9};
	rig.region_flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
			   VFIO_REGION_INFO_FLAG_MMAP;
	rig.bar_size = BAR_SIZE;
	rig.vectors = VECTORS;
	rig.request_vectors = 1;
	rig.page_sizes = ~0xfffull;
	rig.range_count = 2;
	rig.ranges[0] = (struct vfio_iova_range){0, 0xfedfffff};
	rig.ranges[1] = (struct vfio_iova_range){0xfef00000, (1ull << 48) - 1};
	rig.request = -1;
	rig.device_fd = memfd_create("device", MFD_CLOEXEC);
	assert_int_equal(ftruncate(rig.device_fd, CONFIG_AT + 0x1000), 0);
	rig_set_register(8, 0x00010400);
	vfio_set_root(rig.root);
}

static inline int
rig_delete(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline void
rig_stop(void)
{
	if (rig.request >= 0)
		close(rig.request);
	close(rig.device_fd);
	assert_int_equal(nftw(rig.root, rig_delete, 16, FTW_DEPTH | FTW_PHYS), 0);
	vfio_set_root("");
}

#endif
