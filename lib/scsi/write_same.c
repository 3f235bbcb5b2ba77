/* SPDX-License-Identifier: BSD-3-Clause */
/* WRITE SAME, UNMAP, GET LBA STATUS. */
#include <stdlib.h>
#include <string.h>

#include "data.h"
#include "internal.h"

#define UNMAP             0x08 /* WRITE SAME, byte 1 */
#define NDOB              0x01 /* WRITE SAME(16), byte 1 */
#define UNMAP_HEADER      8
#define UNMAP_DESCRIPTOR  16
#define ZEROES_BYTES_ONCE (32u << 20) /* others should not have to wait for long */

static bool
is_aborted(const struct scsi_task *task)
{
	return atomic_load_explicit(&task->aborted, memory_order_relaxed);
}

/* ---- WRITE SAME ---- */

static void write_same_done(struct bdev_request *rq, int status);

/* The next piece: the pattern in the buffer, as often as it is there, or zeroes. */
static void
write_same_next(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->lun->unit;
	bool zeroes = task->buffer == NULL;
	uint64_t most = (zeroes ? ZEROES_BYTES_ONCE : task->buffer_size) >> unit->block_shift;
	uint8_t flags = scsi_write_flags(task, false);
	struct scsi_range piece;

	scsi_decode_range(task, &piece);
	piece.lba += task->position;
	piece.blocks -= task->position;
	if (piece.blocks == 0 || is_aborted(task)) {
		scsi_finish(task);
		return;
	}
	if (piece.blocks > most)
		piece.blocks = most;
	if (zeroes) {
		if (task->cdb[1] & UNMAP)
			flags |= BDEV_UNMAP;
		scsi_submit_io(task, BDEV_WRITE_ZEROES, &piece, flags, NULL, 0, write_same_done);
	} else {
		task->bounce.iov_base = task->buffer;
		task->bounce.iov_len = piece.blocks << unit->block_shift;
		scsi_submit_io(task, BDEV_WRITE, &piece, flags, &task->bounce, 1, write_same_done);
	}
	scsi_channel_flush(task->channel);
}

static void
write_same_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	task->position += rq->length >> task->lun->unit->block_shift;
	write_same_next(task);
}

/* Takes the block, and repeats it unless it is zeroes. False: the task has its outcome. */
static bool
take_pattern(struct scsi_task *task, uint64_t blocks)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint32_t size = unit->block_size;
	bool none = task->command->length == 16 && task->cdb[1] & NDOB;

	task->buffer_size = SCSI_BUFFER_MAX;
	if (blocks < SCSI_BUFFER_MAX >> unit->block_shift)
		task->buffer_size = (uint32_t)blocks << unit->block_shift;
	if (!scsi_take_data_out(task, none ? 0 : size, task->buffer_size))
		return false;
	if (none)
		memset(task->buffer, 0, size);
	if (unit->can_zero && task->buffer[0] == 0 &&
	    memcmp(task->buffer, task->buffer + 1, size - 1) == 0) {
		free(task->buffer);
		task->buffer = NULL;
		return true;
	}
	for (uint32_t i = size; i < task->buffer_size; i += size)
		memcpy(task->buffer + i, task->buffer, size);
	return true;
}

/* SBC-3 §5.45: WSNZ is 1, so that 0 blocks are refused. False: the task has its status. */
static bool
check_write_same(struct scsi_task *task, const struct scsi_range *range)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint16_t count_byte = task->command->length == 16 ? 10 : 7;

	if (task->cdb[1] & UNMAP && !(unit->can_discard && unit->can_zero)) {
		scsi_refuse_cdb(task, 1, 3);
		return false;
	}
	if (!scsi_check_range(task, range))
		return false;
	if (range->blocks == 0 || range->blocks > SCSI_WRITE_SAME_MAX_BYTES >> unit->block_shift) {
		scsi_refuse_cdb(task, count_byte, -1);
		return false;
	}
	return true;
}

void
scsi_run_write_same(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (!check_write_same(task, &range)) {
		scsi_finish(task);
		return;
	}
	if (!scsi_may_write(task, range.lba, range.blocks))
		return;
	task->position = 0;
	if (take_pattern(task, range.blocks))
		write_same_next(task);
	else
		scsi_finish(task);
}

/* ---- UNMAP ---- */

static void
unmap_range(const struct scsi_task *task, uint64_t index, struct scsi_range *range)
{
	const uint8_t *descriptor = task->buffer + UNMAP_HEADER + index * UNMAP_DESCRIPTOR;

	range->lba = get_be64(descriptor);
	range->blocks = get_be32(descriptor + 8);
}

static uint32_t
unmap_count(const struct scsi_task *task)
{
	return get_be16(task->buffer + 2) / UNMAP_DESCRIPTOR;
}

static void unmap_done(struct bdev_request *rq, int status);

static void
unmap_next(struct scsi_task *task)
{
	struct scsi_range range = {0};

	while (task->position < unmap_count(task)) {
		unmap_range(task, task->position++, &range);
		if (range.blocks != 0)
			break;
	}
	if (range.blocks == 0 || is_aborted(task)) {
		scsi_finish(task);
		return;
	}
	scsi_submit_io(task, BDEV_DISCARD, &range, 0, NULL, 0, unmap_done);
	scsi_channel_flush(task->channel);
}

static void
unmap_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	unmap_next(task);
}

/* SBC-3 §5.28.2: all descriptors, before the first one counts. False: the task has its status. */
static bool
check_unmap_list(struct scsi_task *task, uint32_t length)
{
	uint32_t bytes;

	if (length < UNMAP_HEADER) {
		scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_PARAMETER_LIST_LENGTH);
		return false;
	}
	bytes = get_be16(task->buffer + 2);
	if (bytes > length - UNMAP_HEADER) {
		scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_PARAMETER_LIST_LENGTH);
		return false;
	}
	if (bytes / UNMAP_DESCRIPTOR > SCSI_UNMAP_DESCRIPTORS) {
		scsi_refuse_list(task, 2, -1);
		return false;
	}
	for (uint32_t i = 0; i < unmap_count(task); i++) {
		struct scsi_range range;

		unmap_range(task, i, &range);
		if (!scsi_check_range(task, &range))
			return false;
	}
	return true;
}

void
scsi_run_unmap(struct scsi_task *task)
{
	uint32_t length = get_be16(task->cdb + 7);

	if (length == 0) {
		scsi_finish(task);
		return;
	}
	if (!scsi_may_write(task, 0, UINT64_MAX))
		return;
	task->position = 0;
	if (scsi_take_data_out(task, length, 0) && check_unmap_list(task, length))
		unmap_next(task);
	else
		scsi_finish(task);
}

/* ---- GET LBA STATUS ---- */

/* SBC-3 §5.4: block devices do not say what they have mapped: one descriptor, all mapped. */
void
scsi_run_get_lba_status(struct scsi_task *task)
{
	uint64_t lba = get_be64(task->cdb + 2);
	uint64_t blocks = atomic_load(&task->lun->unit->blocks);
	uint8_t data[24] = {0};

	if (lba >= blocks) {
		scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_LBA_OUT_OF_RANGE);
		scsi_finish(task);
		return;
	}
	blocks -= lba;
	put_be32(data, sizeof(data) - 4);
	put_be64(data + 8, lba);
	put_be32(data + 16, blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX);
	scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
	scsi_finish(task);
}
