/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_spec: NVMe's commands and completions (NVMe 1.4 §4.2, §4.4, §4.6), as libnvme's types.h has
 * none; registers, identify data, log pages, opcodes and status codes are in that. All of it is
 * little-endian.
 */
#ifndef VHOSTD_NVME_SPEC_H
#define VHOSTD_NVME_SPEC_H

#include <assert.h>
#include <nvme/types.h>
#include <stdint.h>

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

#endif
