/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A transport without a device, for unit tests of lib/nvme: a DMA space whose IOVAs are no
 * addresses, and doorbells in memory.
 */
#ifndef NVME_MEMORY_RIG_H
#define NVME_MEMORY_RIG_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dma.h"
#include "nvme/qpair.h"
#include "nvme_transport.h"

#define RIG_PAGE      4096u
#define RIG_MAPPINGS  256
#define RIG_DOORBELLS 1024

static struct {
	struct nvme_transport transport;
	struct dma_space *space;
	struct rig_mapping {
		uint8_t *memory;
		uint64_t length; /* 0: free */
		uint64_t iova;
	} mappings[RIG_MAPPINGS];
	uint32_t mapped;
	uint32_t doorbells[RIG_DOORBELLS];
} rig_memory;

static inline int
rig_map(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	(void)ctx;
	(void)fd;
	(void)fd_offset;
	for (uint32_t i = 0; i < RIG_MAPPINGS; i++) {
		if (rig_memory.mappings[i].length != 0)
			continue;
		rig_memory.mappings[i] = (struct rig_mapping){addr, length, iova};
		rig_memory.mapped++;
		return 0;
	}
	return -ENOSPC;
}

static inline void
rig_unmap(void *ctx, uint64_t iova, uint64_t length)
{
	(void)ctx;
	for (uint32_t i = 0; i < RIG_MAPPINGS; i++) {
		struct rig_mapping *mapping = &rig_memory.mappings[i];

		if (mapping->length != length || mapping->iova != iova)
			continue;
		mapping->length = 0;
		rig_memory.mapped--;
		return;
	}
	fail_msg("0x%llx was not mapped", (unsigned long long)iova);
}

static inline void
rig_memory_setup(void)
{
	static const struct dma_space_ops ops = {.map = rig_map, .unmap = rig_unmap};
	static const struct dma_range range = {0x7000000000, 0x7fffffffff};

	memset(&rig_memory, 0, sizeof(rig_memory));
	assert_int_equal(dma_space_create(&ops, NULL, &range, 1, &rig_memory.space), 0);
	rig_memory.transport.dma = rig_memory.space;
	rig_memory.transport.doorbells = rig_memory.doorbells;
	rig_memory.transport.doorbells_size = sizeof(rig_memory.doorbells);
}

/* Nothing of the tested code's is mapped any more. */
static inline void
rig_memory_teardown(void)
{
	assert_int_equal(rig_memory.mapped, 0);
	dma_space_destroy(rig_memory.space);
}

/* What the device finds at iova; all of it is mapped (asserted). */
static inline void *
rig_at(uint64_t iova, uint64_t length)
{
	for (uint32_t i = 0; i < RIG_MAPPINGS; i++) {
		const struct rig_mapping *mapping = &rig_memory.mappings[i];

		if (iova - mapping->iova < mapping->length &&
		    length <= mapping->length - (iova - mapping->iova))
			return mapping->memory + (iova - mapping->iova);
	}
	fail_msg("0x%llx + 0x%llx is not mapped", (unsigned long long)iova,
		 (unsigned long long)length);
	return NULL;
}

/* That of the command with this identifier. */
static inline struct nvme_slot *
rig_slot(const struct nvme_qpair *qpair, uint16_t cid)
{
	return &qpair->slots[cid & qpair->cid_mask];
}

#endif
