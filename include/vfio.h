/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio: PCI devices in the hands of this process, behind an IOMMU, by the kernel's VFIO (Linux,
 * Documentation/driver-api/vfio.rst). Part of the room env. Each device has a container, and so an
 * I/O address space, of its own.
 *
 * All of it may block, and is called on one OS thread at a time for each device, unless said
 * otherwise.
 */
#ifndef VHOSTD_VFIO_H
#define VHOSTD_VFIO_H

#include <stdbool.h>
#include <stdint.h>

#include "dma.h"
#include "errmsg.h"

struct vfio_device;

/* Put in front of /sys and /dev, for tests; a string that stays. */
void vfio_set_root(const char *root);
/* The same, for who looks at sysfs as well. Any OS thread. */
const char *vfio_get_root(void);

/*
 * Takes the device at a PCI address (pci.h) whose class code is `class` (24 bits), makes it a bus
 * master, and makes its space: what the IOMMU can, less what is reserved, less the device's own
 * BARs. err says what to do: -EINVAL (no address, or another kind of device), -ENODEV (no such
 * device), -EBUSY (not bound to vfio-pci, used by another process, or its group is in use),
 * -EACCES, -EOPNOTSUPP (no IOMMU, no VFIO, too old), or what a system call said.
 */
int vfio_open(const char *address, uint32_t class, struct vfio_device **device, struct errmsg *err);
/* Unmaps all, stops bus mastering and gives the device back. NULL: nothing happens. */
void vfio_close(struct vfio_device *device);

/* The device's, until it is closed. Any OS thread. */
struct dma_space *vfio_dma_space(struct vfio_device *device);

/* index: a VFIO_PCI_…_REGION_INDEX. Bytes; 0: there is no such region. */
uint64_t vfio_region_size(struct vfio_device *device, uint32_t index);
/*
 * Where the region's byte `offset` is in our memory, until the device is closed, and in *length how
 * many bytes from there on. 0, -EOPNOTSUPP (that place cannot be mapped, e.g. because the MSI-X
 * table is there), or what mmap() said.
 */
int vfio_map(struct vfio_device *device, uint32_t index, uint64_t offset, void **memory,
	     uint64_t *length);
/* Just size bytes. Any OS thread. 0 or a negative errno. */
int vfio_read(struct vfio_device *device, uint32_t index, uint64_t offset, void *data,
	      uint32_t size);
int vfio_write(struct vfio_device *device, uint32_t index, uint64_t offset, const void *data,
	       uint32_t size);

/* How many MSI-X vectors it has. */
uint32_t vfio_msix_count(const struct vfio_device *device);
/*
 * Vectors 0 … count - 1 signal these eventfds (borrowed), the others nothing. 0 or a negative
 * errno: then none does.
 */
int vfio_set_msix(struct vfio_device *device, const int *fds, uint32_t count);
/*
 * One of those vectors signals this eventfd (borrowed) from now on, or with -1 nothing. Any OS
 * thread; blocks until an interrupt that is under way has been signalled. 0 or a negative errno: it
 * is as before.
 */
int vfio_switch_msix(struct vfio_device *device, uint32_t vector, int fd);

/*
 * Whether it may read and write memory; vfio_open() lets it. Also for a device whose registers do
 * not answer any more. 0 or a negative errno.
 */
int vfio_set_bus_master(struct vfio_device *device, bool on);
/* Function-level reset; it masters the bus as before. 0, -EOPNOTSUPP, or a negative errno. */
int vfio_reset(struct vfio_device *device);
/*
 * Whether the kernel has asked for it (unbind, hot removal) and waits until it is closed. Never
 * blocks; any OS thread.
 */
bool vfio_is_wanted_back(struct vfio_device *device);

#endif
