/* SPDX-License-Identifier: BSD-3-Clause */
/* data: what the commands that move data share. On the task's thread. Private to the room scsi. */
#ifndef VHOSTD_SCSI_DATA_H
#define VHOSTD_SCSI_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "bdev.h"
#include "scsi.h"

/* In logical blocks. */
struct scsi_range {
	uint64_t lba;
	uint64_t blocks;
};

/* From the CDB, by its length. */
void scsi_decode_range(const struct scsi_task *task, struct scsi_range *range);
/* False: it is not within the disk, and the task has its status. */
bool scsi_check_range(struct scsi_task *task, const struct scsi_range *range);
/*
 * What commands begin with that go through a range: it is within the disk, data-out has out_blocks,
 * and nobody needs the range alone. False: the task is over, or its command runs again later.
 */
bool scsi_begin(struct scsi_task *task, const struct scsi_range *range, uint64_t out_blocks);

/* Of a write, by the CDB and by WCE. */
uint8_t scsi_write_flags(const struct scsi_task *task, bool fua);
/* The task's request. The range is checked. */
void scsi_submit_io(struct scsi_task *task, enum bdev_io_type type, const struct scsi_range *range,
		    uint8_t flags, struct iovec *iov, uint32_t iovcnt, bdev_done_fn done);
/* Finishes the task with what a request ended with. */
void scsi_end_io(struct scsi_task *task, int status);
/* Cuts iovecs to length bytes, of which they have at least as many; how many are left. */
uint32_t scsi_cut_iov(struct iovec *iov, uint64_t length);

#endif
