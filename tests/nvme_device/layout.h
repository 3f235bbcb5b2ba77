/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is on the wire between the software NVMe device and its clients: NVMe's commands and
 * completions, and the messages of vfio-user (QEMU, docs/interop/vfio-user.rst).
 */
#ifndef NVME_DEVICE_LAYOUT_H
#define NVME_DEVICE_LAYOUT_H

#include <assert.h>
#include <linux/vfio.h>
#include <stdint.h>

#include "nvme_spec.h"

#define NVME_DOORBELLS 0x1000u /* in BAR 0 */

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP,
	VFIO_USER_DMA_UNMAP,
	VFIO_USER_DEVICE_GET_INFO,
	VFIO_USER_DEVICE_GET_REGION_INFO,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS,
	VFIO_USER_DEVICE_GET_IRQ_INFO,
	VFIO_USER_DEVICE_SET_IRQS,
	VFIO_USER_REGION_READ,
	VFIO_USER_REGION_WRITE,
	VFIO_USER_DMA_READ,
	VFIO_USER_DMA_WRITE,
	VFIO_USER_DEVICE_RESET,
};

#define VFIO_USER_TYPE     0xfu /* of flags */
#define VFIO_USER_REPLY    0x1u
#define VFIO_USER_NO_REPLY 0x10u
#define VFIO_USER_ERROR    0x20u

struct vfio_user_header {
	uint16_t id;
	uint16_t command;
	uint32_t size; /* with the header */
	uint32_t flags;
	uint32_t error; /* errno */
};

struct vfio_user_version {
	uint16_t major;
	uint16_t minor;
	char json[]; /* ends with NUL */
};

struct vfio_user_device_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t num_regions;
	uint32_t num_irqs;
};

#define VFIO_USER_DMA_READABLE  1u
#define VFIO_USER_DMA_WRITEABLE 2u

struct vfio_user_dma_map {
	uint32_t argsz;
	uint32_t flags;
	uint64_t offset;
	uint64_t address;
	uint64_t size;
};

struct vfio_user_dma_unmap {
	uint32_t argsz;
	uint32_t flags;
	uint64_t address;
	uint64_t size;
};

struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
	uint8_t data[];
};

static_assert(sizeof(struct vfio_user_header) == 16, "vfio-user, Header");
static_assert(sizeof(struct vfio_user_version) == 4, "vfio-user, VERSION");
static_assert(sizeof(struct vfio_user_device_info) == 16, "vfio-user, DEVICE_GET_INFO");
static_assert(sizeof(struct vfio_user_dma_map) == 32, "vfio-user, DMA_MAP");
static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "vfio-user, DMA_UNMAP");
static_assert(sizeof(struct vfio_user_region_access) == 16, "vfio-user, REGION_READ");

#endif
