/* SPDX-License-Identifier: BSD-3-Clause */
#include "vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iova.h"
#include "log.h"
#include "pci.h"

#define REGIONS      (VFIO_PCI_CONFIG_REGION_INDEX + 1)
#define AREAS_MAX    8u /* of one region that can be mapped; VFIO makes two, by the MSI-X table */
#define INFO_MAX     (1u << 20)   /* bytes of an answer of the kernel's */
#define RANGES_MAX   512u         /* of IOVAs */
#define OLD_BITS     39           /* of IOVAs, where the kernel (before 5.4) does not say */
#define RESOURCE_MEM 0x00000200ul /* IORESOURCE_MEM */

struct area {
	uint64_t offset; /* in the region */
	uint64_t size;
	void *memory; /* NULL: not mapped yet */
};

struct region {
	uint64_t size;
	uint64_t offset; /* in the device's file */
	uint32_t area_count;
	struct area areas[AREAS_MAX];
};

/* Set once by vfio_open(), but for the areas' memory and what is below. */
struct vfio_device {
	char address[PCI_ADDRESS_SIZE];
	char group_name[PCI_NAME_MAX];
	int container;
	int group;
	int fd;
	int request; /* eventfd; -1: the kernel does not tell */
	bool has_reset;
	uint32_t vectors;
	struct region regions[REGIONS];
	struct dma_space *space;

	bool msix_on;
	bool is_master; /* as was asked for last */
};

static const char *root = "";

void
vfio_set_root(const char *path)
{
	root = path;
}

const char *
vfio_get_root(void)
{
	return root;
}

/* ---- memory ---- */

static int
map_dma(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	struct vfio_device *device = ctx;
	struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map),
					       .flags = VFIO_DMA_MAP_FLAG_READ |
							VFIO_DMA_MAP_FLAG_WRITE,
					       .vaddr = (uintptr_t)addr,
					       .iova = iova,
					       .size = length};

	(void)fd;
	(void)fd_offset;
	return ioctl(device->container, VFIO_IOMMU_MAP_DMA, &map) == 0 ? 0 : -errno;
}

static void
unmap_dma(void *ctx, uint64_t iova, uint64_t length)
{
	struct vfio_device *device = ctx;
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = iova, .size = length};

	if (ioctl(device->container, VFIO_IOMMU_UNMAP_DMA, &unmap) != 0)
		log_err("vfio %s: cannot unmap %llu bytes: %s", device->address,
			(unsigned long long)length, strerror(errno));
}

static const struct dma_space_ops space_ops = {.map = map_dma, .unmap = unmap_dma};

/* ---- which IOVAs there are ---- */

/* An answer with capabilities, of any length. NULL with errno. */
static void *
get_info(int fd, unsigned long request, const void *wanted, uint32_t size)
{
	uint32_t length = size;

	/* Twice: the first answer says how long it is. */
	for (int attempt = 0; attempt < 2; attempt++) {
		uint32_t *info = calloc(1, length);

		if (info == NULL)
			return NULL;
		memcpy(info, wanted, size);
		info[0] = length; /* argsz, in each of them */
		if (ioctl(fd, request, info) != 0) {
			free(info);
			return NULL;
		}
		if (info[0] <= length)
			return info;
		length = info[0];
		free(info);
		if (length > INFO_MAX)
			break;
	}
	errno = EOVERFLOW;
	return NULL;
}

/*
 * The capability of that id, of at least that size. info: as get_info() gave it; offset: its
 * cap_offset. NULL: it has none.
 */
static const void *
find_capability(const void *info, uint32_t offset, uint16_t id, uint32_t size)
{
	const uint32_t length = *(const uint32_t *)info;

	while (offset != 0 && offset <= length - sizeof(struct vfio_info_cap_header)) {
		const struct vfio_info_cap_header *header =
			(const void *)((const char *)info + offset);

		if (header->id == id)
			return size <= length - offset ? header : NULL;
		offset = header->next > offset ? header->next : 0;
	}
	return NULL;
}

struct ranges {
	uint32_t count;
	struct dma_range of[RANGES_MAX];
};

static int
read_iommu_ranges(const struct vfio_device *device, struct ranges *ranges)
{
	const struct vfio_iommu_type1_info wanted = {0};
	const struct vfio_iommu_type1_info_cap_iova_range *found = NULL;
	struct vfio_iommu_type1_info *info =
		get_info(device->container, VFIO_IOMMU_GET_INFO, &wanted, sizeof(wanted));
	int rc = 0;

	if (info == NULL)
		return -errno;
	if ((info->flags & VFIO_IOMMU_INFO_CAPS) != 0)
		found = find_capability(info, info->cap_offset,
					VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, sizeof(*found));
	ranges->count = 1;
	ranges->of[0] = (struct dma_range){0, (1ull << OLD_BITS) - 1};
	if ((info->flags & VFIO_IOMMU_INFO_PGSIZES) != 0 &&
	    (info->iova_pgsizes & DMA_PAGE_SIZE) == 0) {
		rc = -EOPNOTSUPP;
	} else if (found != NULL) {
		ranges->count = found->nr_iovas < RANGES_MAX ? found->nr_iovas : RANGES_MAX;
		for (uint32_t i = 0; i < ranges->count; i++)
			ranges->of[i] = (struct dma_range){found->iova_ranges[i].start,
							   found->iova_ranges[i].end};
	}
	free(info);
	return rc;
}

/*
 * Takes the ranges out that are listed in a file, each line "0x<first> 0x<last> …". accept: which
 * lines count, by what follows.
 */
static int
exclude_listed(struct ranges *ranges, const char *path, bool (*accept)(const char *rest))
{
	FILE *stream = fopen(path, "re");
	char line[256];
	int rc = 0;

	if (stream == NULL)
		return -errno;
	while (rc == 0 && fgets(line, sizeof(line), stream) != NULL) {
		struct dma_range reserved;
		char *rest;

		reserved.first = strtoull(line, &rest, 16);
		reserved.last = strtoull(rest, &rest, 16);
		if (reserved.last > reserved.first && accept(rest))
			rc = iova_exclude(ranges->of, &ranges->count, RANGES_MAX, &reserved);
	}
	fclose(stream);
	return rc;
}

static bool
accept_all(const char *rest)
{
	(void)rest;
	return true;
}

static bool
accept_memory(const char *rest)
{
	return (strtoull(rest, NULL, 16) & RESOURCE_MEM) != 0;
}

static int
create_space(struct vfio_device *device)
{
	struct ranges *ranges = malloc(sizeof(*ranges));
	char path[PATH_MAX];
	int rc = ranges != NULL ? read_iommu_ranges(device, ranges) : -ENOMEM;

	/* Kernels that say their ranges have taken these out; older ones have not. */
	snprintf(path, sizeof(path), "%s/sys/kernel/iommu_groups/%s/reserved_regions", root,
		 device->group_name);
	if (rc == 0)
		rc = exclude_listed(ranges, path, accept_all);
	/*
	 * A device may take the address of a BAR of its own for that, and not for an IOVA: QEMU's
	 * NVMe model (7.2) refuses DMA there, IOMMU or not, and bridges may keep such requests from
	 * the IOMMU.
	 */
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/resource", root, device->address);
	if (rc == 0)
		rc = exclude_listed(ranges, path, accept_memory);
	if (rc == 0)
		rc = dma_space_create(&space_ops, device, ranges->of, ranges->count,
				      &device->space);
	free(ranges);
	return rc;
}

/* ---- regions ---- */

static void
add_area(struct region *region, uint64_t offset, uint64_t size)
{
	const uint64_t mask = DMA_PAGE_SIZE - 1;

	if (size == 0 || ((offset | size) & mask) != 0 || offset > region->size ||
	    size > region->size - offset || region->area_count == AREAS_MAX)
		return;
	region->areas[region->area_count++] = (struct area){offset, size, NULL};
}

static int
read_region(struct vfio_device *device, uint32_t index)
{
	const struct vfio_region_info wanted = {.index = index};
	const struct vfio_region_info_cap_sparse_mmap *sparse = NULL;
	struct region *region = &device->regions[index];
	struct vfio_region_info *info =
		get_info(device->fd, VFIO_DEVICE_GET_REGION_INFO, &wanted, sizeof(wanted));
	uint32_t length;

	if (info == NULL)
		return -errno;
	length = info->argsz;
	region->size = info->size;
	region->offset = info->offset;
	if ((info->flags & VFIO_REGION_INFO_FLAG_CAPS) != 0)
		sparse = find_capability(info, info->cap_offset, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
					 sizeof(*sparse));
	if ((info->flags & VFIO_REGION_INFO_FLAG_MMAP) == 0) {
		free(info);
		return 0;
	}
	if (sparse == NULL)
		add_area(region, 0, info->size);
	for (uint32_t i = 0; sparse != NULL && i < sparse->nr_areas; i++) {
		if ((const char *)&sparse->areas[i + 1] - (const char *)info > length)
			break;
		add_area(region, sparse->areas[i].offset, sparse->areas[i].size);
	}
	free(info);
	return 0;
}

uint64_t
vfio_region_size(struct vfio_device *device, uint32_t index)
{
	return index < REGIONS ? device->regions[index].size : 0;
}

int
vfio_map(struct vfio_device *device, uint32_t index, uint64_t offset, void **memory,
	 uint64_t *length)
{
	struct region *region = &device->regions[index];

	for (uint32_t i = 0; i < region->area_count; i++) {
		struct area *area = &region->areas[i];

		if (offset < area->offset || offset - area->offset >= area->size)
			continue;
		if (area->memory == NULL) {
			void *mapped = mmap(NULL, area->size, PROT_READ | PROT_WRITE, MAP_SHARED,
					    device->fd, (off_t)(region->offset + area->offset));

			if (mapped == MAP_FAILED)
				return -errno;
			area->memory = mapped;
		}
		*memory = (char *)area->memory + (offset - area->offset);
		*length = area->size - (offset - area->offset);
		return 0;
	}
	return -EOPNOTSUPP;
}

static void
unmap_regions(struct vfio_device *device)
{
	for (uint32_t i = 0; i < REGIONS; i++)
		for (uint32_t j = 0; j < device->regions[i].area_count; j++)
			if (device->regions[i].areas[j].memory != NULL)
				munmap(device->regions[i].areas[j].memory,
				       device->regions[i].areas[j].size);
}

static bool
is_inside(const struct vfio_device *device, uint32_t index, uint64_t offset, uint32_t size)
{
	return index < REGIONS && offset <= device->regions[index].size &&
	       size <= device->regions[index].size - offset;
}

int
vfio_read(struct vfio_device *device, uint32_t index, uint64_t offset, void *data, uint32_t size)
{
	ssize_t done;

	if (!is_inside(device, index, offset, size))
		return -EINVAL;
	done = pread(device->fd, data, size, (off_t)(device->regions[index].offset + offset));
	if (done < 0)
		return -errno;
	return done == (ssize_t)size ? 0 : -EIO;
}

int
vfio_write(struct vfio_device *device, uint32_t index, uint64_t offset, const void *data,
	   uint32_t size)
{
	ssize_t done;

	if (!is_inside(device, index, offset, size))
		return -EINVAL;
	done = pwrite(device->fd, data, size, (off_t)(device->regions[index].offset + offset));
	if (done < 0)
		return -errno;
	return done == (ssize_t)size ? 0 : -EIO;
}

int
vfio_set_bus_master(struct vfio_device *device, bool on)
{
	uint16_t command;
	int rc = vfio_read(device, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
			   sizeof(command));

	device->is_master = on;
	if (rc != 0)
		return rc;
	command |= PCI_COMMAND_MEMORY;
	command = (uint16_t)(on ? command | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER);
	return vfio_write(device, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
			  sizeof(command));
}

/* ---- interrupts ---- */

static int
set_irqs(struct vfio_device *device, uint32_t index, uint32_t start, const int *fds, uint32_t count)
{
	struct vfio_irq_set *set = calloc(1, sizeof(*set) + count * sizeof(fds[0]));
	int rc;

	if (set == NULL)
		return -ENOMEM;
	set->argsz = (uint32_t)(sizeof(*set) + count * sizeof(fds[0]));
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER |
		     (count > 0 ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE);
	set->index = index;
	set->start = start;
	set->count = count;
	if (count > 0)
		memcpy(set->data, fds, count * sizeof(fds[0]));
	rc = ioctl(device->fd, VFIO_DEVICE_SET_IRQS, set) == 0 ? 0 : -errno;
	free(set);
	return rc;
}

uint32_t
vfio_msix_count(const struct vfio_device *device)
{
	return device->vectors;
}

int
vfio_set_msix(struct vfio_device *device, const int *fds, uint32_t count)
{
	int rc = 0;

	/*
	 * VFIO_IRQ_INFO_NORESIZE: other vectors only after none. To switch off what is off is an
	 * error, though.
	 */
	if (device->msix_on)
		rc = set_irqs(device, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL, 0);
	if (rc != 0)
		return rc;
	device->msix_on = false;
	if (count > 0)
		rc = set_irqs(device, VFIO_PCI_MSIX_IRQ_INDEX, 0, fds, count);
	device->msix_on = rc == 0 && count > 0;
	return rc;
}

int
vfio_switch_msix(struct vfio_device *device, uint32_t vector, int fd)
{
	return set_irqs(device, VFIO_PCI_MSIX_IRQ_INDEX, vector, &fd, 1);
}

static uint32_t
count_irqs(struct vfio_device *device, uint32_t index)
{
	struct vfio_irq_info info = {.argsz = sizeof(info), .index = index};

	if (ioctl(device->fd, VFIO_DEVICE_GET_IRQ_INFO, &info) != 0 ||
	    (info.flags & VFIO_IRQ_INFO_EVENTFD) == 0)
		return 0;
	return info.count;
}

/* Where the kernel cannot ask for the device back, removing it waits until we close it. */
static void
listen_for_request(struct vfio_device *device)
{
	if (count_irqs(device, VFIO_PCI_REQ_IRQ_INDEX) == 0)
		return;
	device->request = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (device->request < 0 ||
	    set_irqs(device, VFIO_PCI_REQ_IRQ_INDEX, 0, &device->request, 1) == 0)
		return;
	close(device->request);
	device->request = -1;
}

bool
vfio_is_wanted_back(struct vfio_device *device)
{
	eventfd_t count;

	return device->request >= 0 && eventfd_read(device->request, &count) == 0;
}

int
vfio_reset(struct vfio_device *device)
{
	if (!device->has_reset)
		return -EOPNOTSUPP;
	if (ioctl(device->fd, VFIO_DEVICE_RESET) != 0)
		return -errno;
	/*
	 * A reset may have restored what was there before us. Who was cut off stays so: a device
	 * that is still on after it may not be trusted with memory.
	 */
	return vfio_set_bus_master(device, device->is_master);
}

/* ---- opening ---- */

static int
check_sysfs(struct vfio_device *device, uint32_t class, struct errmsg *err)
{
	char text[32], driver[PCI_NAME_MAX];

	if (pci_read(root, device->address, "class", text, sizeof(text)) != 0)
		return err_set(err, -ENODEV, "%s: there is no such PCI device", device->address);
	if (strtoul(text, NULL, 16) != class)
		return err_set(err, -EINVAL, "%s: its PCI class is %s, not 0x%06x", device->address,
			       text, class);
	if (pci_link(root, device->address, "iommu_group", device->group_name) != 0)
		return err_set(err, -EOPNOTSUPP,
			       "%s: the machine has no IOMMU, or it is off: enable VT-d or AMD-Vi "
			       "in the firmware, and intel_iommu=on among the kernel's parameters",
			       device->address);
	if (pci_link(root, device->address, "driver", driver) != 0)
		strcpy(driver, "no driver");
	if (strcmp(driver, "vfio-pci") != 0)
		return err_set(err, -EBUSY,
			       "%s: is bound to %s, not to vfio-pci: vhostctl nvme bind %s",
			       device->address, driver, device->address);
	return 0;
}

static int
open_container(struct vfio_device *device, struct errmsg *err)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/dev/vfio/vfio", root);
	device->container = open(path, O_RDWR | O_CLOEXEC);
	if (device->container < 0 && (errno == ENOENT || errno == ENODEV))
		return err_set(err, -EOPNOTSUPP, "%s: VFIO is not in the kernel: modprobe vfio-pci",
			       path);
	if (device->container < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (ioctl(device->container, VFIO_GET_API_VERSION) != VFIO_API_VERSION)
		return err_set(err, -EOPNOTSUPP, "%s: another version of VFIO than %d", path,
			       VFIO_API_VERSION);
	if (ioctl(device->container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0)
		return err_set(err, -EOPNOTSUPP,
			       "%s: no driver for the IOMMU: modprobe vfio_iommu_type1", path);
	return 0;
}

static int
open_group(struct vfio_device *device, struct errmsg *err)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	char path[PATH_MAX], others[ERRMSG_MAX / 2];

	snprintf(path, sizeof(path), "%s/dev/vfio/%s", root, device->group_name);
	device->group = open(path, O_RDWR | O_CLOEXEC);
	if (device->group < 0 && (errno == EACCES || errno == EPERM))
		return err_set(err, -EACCES,
			       "%s: no permission: as root, chown %u %s, or for good a udev rule: "
			       "SUBSYSTEM==\"vfio\", OWNER=\"<user>\"",
			       path, geteuid(), path);
	if (device->group < 0 && errno == EBUSY)
		return err_set(
			err, -EBUSY,
			"%s: used by another process, or through another device of the group",
			path);
	if (device->group < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (ioctl(device->group, VFIO_GROUP_GET_STATUS, &status) != 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) != 0)
		return 0;
	pci_group_busy(root, device->address, device->group_name, others, sizeof(others));
	return err_set(
		err, -EBUSY,
		"%s: other devices of its IOMMU group %s belong to other drivers, and must be "
		"unbound or bound to vfio-pci, too: %s",
		device->address, device->group_name, others);
}

static int
attach_iommu(struct vfio_device *device, struct errmsg *err)
{
	if (ioctl(device->group, VFIO_GROUP_SET_CONTAINER, &device->container) != 0)
		return err_set(err, -errno, "%s: cannot attach IOMMU group %s: %s", device->address,
			       device->group_name, strerror(errno));
	if (ioctl(device->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0)
		return 0;
	if (errno == EPERM)
		return err_set(err, -EPERM,
			       "%s: the IOMMU does not remap interrupts, so that the device could "
			       "forge them: enable that in the firmware",
			       device->address);
	return err_set(err, -errno, "%s: cannot use the IOMMU: %s", device->address,
		       strerror(errno));
}

static int
open_device(struct vfio_device *device, struct errmsg *err)
{
	struct vfio_device_info info = {.argsz = sizeof(info)};
	int rc = 0;

	device->fd = ioctl(device->group, VFIO_GROUP_GET_DEVICE_FD, device->address);
	if (device->fd < 0)
		return err_set(err, -errno, "%s: cannot open the device: %s", device->address,
			       strerror(errno));
	fcntl(device->fd, F_SETFD, FD_CLOEXEC);
	if (ioctl(device->fd, VFIO_DEVICE_GET_INFO, &info) != 0)
		rc = -errno;
	else if ((info.flags & VFIO_DEVICE_FLAGS_PCI) == 0 || info.num_regions < REGIONS)
		rc = -EINVAL;
	for (uint32_t i = 0; rc == 0 && i < REGIONS; i++)
		if (i != VFIO_PCI_ROM_REGION_INDEX)
			rc = read_region(device, i);
	if (rc == 0)
		rc = create_space(device);
	if (rc == 0)
		rc = vfio_set_bus_master(device, true);
	if (rc != 0)
		return err_set(err, rc, "%s: cannot use the device: %s", device->address,
			       strerror(-rc));
	device->has_reset = (info.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
	device->vectors = count_irqs(device, VFIO_PCI_MSIX_IRQ_INDEX);
	listen_for_request(device);
	return 0;
}

int
vfio_open(const char *address, uint32_t class, struct vfio_device **device, struct errmsg *err)
{
	struct vfio_device *made = calloc(1, sizeof(*made));
	int rc;

	if (made == NULL)
		return err_set(err, -ENOMEM, "%s: %s", address, strerror(ENOMEM));
	made->container = made->group = made->fd = made->request = -1;
	rc = pci_parse_address(address, made->address);
	if (rc != 0)
		err_set(err, rc, "'%s' is no PCI address like 0000:01:00.0", address);
	if (rc == 0)
		rc = check_sysfs(made, class, err);
	if (rc == 0)
		rc = open_container(made, err);
	if (rc == 0)
		rc = open_group(made, err);
	if (rc == 0)
		rc = attach_iommu(made, err);
	if (rc == 0)
		rc = open_device(made, err);
	if (rc != 0)
		vfio_close(made);
	else
		*device = made;
	return rc;
}

static void
close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void
vfio_close(struct vfio_device *device)
{
	if (device == NULL)
		return;
	if (device->fd >= 0)
		vfio_set_bus_master(device, false);
	dma_space_destroy(device->space);
	unmap_regions(device);
	close_fd(device->fd);
	close_fd(device->request);
	close_fd(device->group);
	close_fd(device->container);
	free(device);
}

struct dma_space *
vfio_dma_space(struct vfio_device *device)
{
	return device->space;
}
