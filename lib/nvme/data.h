/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * data: where a command's data is, in words of the controller's: PRPs (NVMe 1.4 §4.3) and SGLs
 * (§4.4), made straight from iovecs. Private to lib/nvme, on the queue pair's thread.
 *
 * What neither can describe is copied through DMA memory of the queue pair's: through the slot's
 * own page, when it is small, or one of a few buffers.
 */
#ifndef VHOSTD_NVME_DATA_H
#define VHOSTD_NVME_DATA_H

#include "qpair.h"

/* Of each slot: a PRP list, the descriptors of an SGL, or data of that size. */
#define NVME_SLOT_PAGE 4096u

/*
 * What can be described, and copied, at once, whatever the iovecs: with pages of 4 KiB PRP1 and a
 * list of one page.
 */
#define NVME_DATA_MAX (NVME_SLOT_PAGE / sizeof(uint64_t) * 4096u)

/*
 * Describes the data of request, which is to be sent by slot index, in *sqe: its pointers, and PSDT,
 * which is 0 before. Data for the device that must be copied is copied. 0; -EAGAIN: it must be
 * copied, and no buffer is free; -EINVAL: no iovecs for so much, or more than can be. Nothing is
 * held then.
 */
int nvme_data_describe(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
		       struct nvme_sqe *sqe);
/*
 * The device is done with the memory. Where it was copied, data from the device goes to the iovecs,
 * if the command was good, and the buffer is free again.
 */
void nvme_data_release(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
		       bool good);

#endif
