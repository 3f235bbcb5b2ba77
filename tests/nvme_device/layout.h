/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is on the wire between the software NVMe device and its clients: NVMe's commands and
 * completions (NVMe 1.4 §4.2, §4.4, §4.6), as libnvme's types.h has none, and the messages of
 * vfio-user (QEMU, docs/interop/vfio-user.rst). All of it little-endian.
 */
#ifndef NVME_DEVICE_LAYOUT_H
#define NVME_DEVICE_LAYOUT_H

#include <assert.h>
#include <linux/vfio.h>
#include <nvme/types.h>
#include <stdint.h>

#define NVME_DOORBELLS 0x1000u /* in BAR 0 */

struct nvme_sgl {
	uint64_t address;
	uint32_t length;
	uint8_t reserved[3];
	uint8_t type; /* 7:4 type, 3:0 sub type */
};

#define NVME_SGL_DATA         0x0
#define NVME_SGL_SEGMENT      0x2
#define NVME_SGL_LAST_SEGMENT 0x3

struct nvme_sqe {
	uint8_t opcode;
	uint8_t flags; /* 1:0 fused, 7:6 PSDT */
	uint16_t cid;
	uint32_t nsid;
	uint32_t cdw2;
	uint32_t cdw3;
	uint64_t mptr;
	union {
		struct {
			uint64_t prp1;
			uint64_t prp2;
		};
		struct nvme_sgl sgl;
	};
	uint32_t cdw10;
	uint32_t cdw11;
	uint32_t cdw12;
	uint32_t cdw13;
	uint32_t cdw14;
	uint32_t cdw15;
};

#define NVME_SQE_FUSED(flags) ((flags)&3)
#define NVME_SQE_FUSED_FIRST  1
#define NVME_SQE_FUSED_SECOND 2
#define NVME_SQE_PSDT(flags)  ((flags) >> 6)
#define NVME_SQE_RESERVED     0x3c

struct nvme_cqe {
	uint32_t dw0;
	uint32_t dw1;
	uint16_t sqhd;
	uint16_t sqid;
	uint16_t cid;
	uint16_t status; /* 0 phase, 15:1 status */
};

static_assert(sizeof(struct nvme_sgl) == 16, "NVMe 1.4 §4.4");
static_assert(sizeof(struct nvme_sqe) == 64, "NVMe 1.4 §4.2");
static_assert(sizeof(struct nvme_cqe) == 16, "NVMe 1.4 §4.6");
static_assert(sizeof(struct nvme_id_ctrl) == 4096, "NVMe 1.4 §5.15.2.2");
static_assert(sizeof(struct nvme_id_ns) == 4096, "NVMe 1.4 §5.15.2.1");
static_assert(sizeof(struct nvme_dsm_range) == 16, "NVMe 1.4 §6.7");
static_assert(sizeof(struct nvme_smart_log) == 512, "NVMe 1.4 §5.14.1.2");
static_assert(sizeof(struct nvme_error_log_page) == 64, "NVMe 1.4 §5.14.1.1");
static_assert(sizeof(struct nvme_firmware_slot) == 512, "NVMe 1.4 §5.14.1.3");

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
