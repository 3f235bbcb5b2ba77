/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands that read into memory of ours, piece by piece, and look at it there: VERIFY, WRITE AND
 * VERIFY, COMPARE AND WRITE, ORWRITE. On the task's thread; the last two while nobody else writes
 * there (run_exclusive() in task.c).
 */
#include <stdlib.h>
#include <string.h>

#include "data.h"
#include "internal.h"

#define FUA          0x08
#define BYTCHK_SHIFT 1

enum bytchk {
	BYTCHK_NONE, /* only whether it can be read */
	BYTCHK_ALL,  /* the same as data-out */
	BYTCHK_RESERVED,
	BYTCHK_ONE_BLOCK, /* each block the same as the one in data-out */
};

static enum bytchk
get_bytchk(const struct scsi_task *task)
{
	return task->cdb[1] >> BYTCHK_SHIFT & 3;
}

/* ---- pieces ---- */

/* Blocks of the next piece; 0: there is none, or the task has been aborted. */
static uint64_t
next_piece(const struct scsi_task *task, struct scsi_range *piece)
{
	uint64_t most = SCSI_BUFFER_MAX >> task->lun->unit->block_shift;

	scsi_decode_range(task, piece);
	piece->lba += task->position;
	piece->blocks -= task->position;
	if (piece->blocks > most)
		piece->blocks = most;
	return atomic_load_explicit(&task->aborted, memory_order_relaxed) ? 0 : piece->blocks;
}

/* Room for a piece. False: the task has its status. */
static bool
make_buffer(struct scsi_task *task, uint64_t blocks)
{
	uint64_t bytes = blocks << task->lun->unit->block_shift;

	task->buffer = malloc(bytes < SCSI_BUFFER_MAX ? bytes + 1 : SCSI_BUFFER_MAX);
	if (task->buffer == NULL)
		task->status = SCSI_BUSY;
	return task->buffer != NULL;
}

static void
submit_buffer(struct scsi_task *task, enum bdev_io_type type, const struct scsi_range *range,
	      uint8_t *data, uint8_t flags, bdev_done_fn done)
{
	task->bounce.iov_base = data;
	task->bounce.iov_len = range->blocks << task->lun->unit->block_shift;
	scsi_submit_io(task, type, range, flags, &task->bounce, 1, done);
	scsi_channel_flush(task->channel);
}

static void
miscompare(struct scsi_task *task, uint64_t information)
{
	scsi_check_condition(task, &(struct scsi_sense){
					   .key = SCSI_KEY_MISCOMPARE,
					   .code = SCSI_CODE_MISCOMPARE,
					   .has_information = true,
					   .information = information,
				   });
}

/* ---- VERIFY, WRITE AND VERIFY ---- */

/* Bytes of data that are as in the iovecs from offset on: length if all are. */
static size_t
equal_bytes(const struct iovec *iov, uint32_t count, uint64_t offset, const uint8_t *data,
	    size_t length)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count && done < length; i++) {
		const uint8_t *other = iov[i].iov_base;
		size_t part = iov[i].iov_len;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		part -= offset;
		if (part > length - done)
			part = length - done;
		if (memcmp(other + offset, data + done, part) != 0) {
			while (done < length && part > 0 && other[offset] == data[done]) {
				offset++;
				done++;
				part--;
			}
			return done;
		}
		done += part;
		offset = 0;
	}
	return done;
}

/* Bytes of the piece in the buffer that are as they should be. */
static size_t
verified_bytes(const struct scsi_task *task, size_t length)
{
	uint32_t block_size = task->lun->unit->block_size;
	uint64_t offset = task->position << task->lun->unit->block_shift;
	size_t done = 0;

	if (get_bytchk(task) == BYTCHK_NONE)
		return length;
	if (get_bytchk(task) == BYTCHK_ALL)
		return equal_bytes(task->out, task->out_count, offset, task->buffer, length);
	while (done < length) {
		size_t equal =
			equal_bytes(task->out, task->out_count, 0, task->buffer + done, block_size);

		done += equal;
		if (equal < block_size)
			break;
	}
	return done;
}

static void verify_read(struct bdev_request *rq, int status);

static void
verify_next(struct scsi_task *task)
{
	struct scsi_range piece;

	if (next_piece(task, &piece) == 0)
		scsi_finish(task);
	else
		submit_buffer(task, BDEV_READ, &piece, task->buffer, 0, verify_read);
}

static void
verify_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);
	struct scsi_range range;
	size_t equal;

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	equal = verified_bytes(task, rq->length);
	if (equal < rq->length) {
		/* SBC-3 §5.31.1: where the first block is that differs */
		scsi_decode_range(task, &range);
		miscompare(task,
			   range.lba + task->position + (equal >> task->lun->unit->block_shift));
		scsi_finish(task);
		return;
	}
	task->position += rq->length >> task->lun->unit->block_shift;
	verify_next(task);
}

static void
start_verify(struct scsi_task *task, uint64_t blocks)
{
	task->position = 0;
	if (make_buffer(task, blocks))
		verify_next(task);
	else
		scsi_finish(task);
}

static bool
has_data_out(struct scsi_task *task, uint64_t blocks)
{
	uint64_t bytes = blocks << task->lun->unit->block_shift;

	if (bytes > task->out_bytes) {
		task->outcome = SCSI_OVERRUN;
		return false;
	}
	task->transferred_out = bytes;
	return true;
}

void
scsi_run_verify(struct scsi_task *task)
{
	enum bytchk bytchk = get_bytchk(task);
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (bytchk == BYTCHK_RESERVED)
		scsi_refuse_cdb(task, 1, 2);
	if (bytchk == BYTCHK_RESERVED || !scsi_check_range(task, &range) ||
	    !has_data_out(task, bytchk == BYTCHK_ALL                             ? range.blocks
				: bytchk == BYTCHK_ONE_BLOCK && range.blocks > 0 ? 1
										 : 0))
		scsi_finish(task);
	else
		start_verify(task, range.blocks);
}

static void
verify_written(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0)
		scsi_end_io(task, status);
	else
		start_verify(task, task->blocks);
}

void
scsi_run_write_verify(struct scsi_task *task)
{
	struct scsi_range range;
	uint32_t count;

	scsi_decode_range(task, &range);
	if (get_bytchk(task) >= BYTCHK_RESERVED)
		scsi_refuse_cdb(task, 1, 2);
	if (get_bytchk(task) >= BYTCHK_RESERVED || !scsi_check_range(task, &range) ||
	    !has_data_out(task, range.blocks)) {
		scsi_finish(task);
		return;
	}
	if (!scsi_may_write(task, range.lba, range.blocks))
		return;
	count = scsi_cut_iov(task->out, task->transferred_out);
	scsi_submit_io(task, BDEV_WRITE, &range, BDEV_FUA, task->out, count, verify_written);
}

/* ---- COMPARE AND WRITE ---- */

static void
last_done(struct bdev_request *rq, int status)
{
	scsi_end_io(scsi_task_of_request(rq), status);
}

/* In the buffer: what is expected, what is to be written, and what is there. */
static void
compare_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);
	size_t length = rq->length, equal = 0;
	const uint8_t *there = task->buffer + 2 * length;
	struct scsi_range range;

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	if (memcmp(task->buffer, there, length) != 0) {
		while (task->buffer[equal] == there[equal])
			equal++;
		/* SBC-3 §5.2: the offset of the first byte that differs */
		miscompare(task, equal);
		scsi_finish(task);
		return;
	}
	scsi_decode_range(task, &range);
	submit_buffer(task, BDEV_WRITE, &range, task->buffer + length,
		      scsi_write_flags(task, task->cdb[1] & FUA), last_done);
}

void
scsi_run_compare_and_write(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->lun->unit;
	struct scsi_range range;
	uint32_t length;

	scsi_decode_range(task, &range);
	if (range.blocks > scsi_compare_blocks(unit))
		scsi_refuse_cdb(task, 13, -1);
	length = (uint32_t)range.blocks << unit->block_shift;
	if (task->status != SCSI_GOOD || !scsi_check_range(task, &range) || length == 0 ||
	    !scsi_take_data_out(task, 2 * length, length))
		scsi_finish(task);
	else
		submit_buffer(task, BDEV_READ, &range, task->buffer + 2 * (size_t)length, 0,
			      compare_read);
}

/* ---- ORWRITE ---- */

static void orwrite_read(struct bdev_request *rq, int status);

static void
orwrite_next(struct scsi_task *task)
{
	struct scsi_range piece;

	if (next_piece(task, &piece) == 0)
		scsi_finish(task);
	else
		submit_buffer(task, BDEV_READ, &piece, task->buffer, 0, orwrite_read);
}

static void
orwrite_written(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	task->position += rq->length >> task->lun->unit->block_shift;
	orwrite_next(task);
}

static void
or_data_out(struct scsi_task *task, size_t length)
{
	uint64_t offset = task->position << task->lun->unit->block_shift;
	uint8_t part[512];

	for (size_t i = 0; i < length; i += sizeof(part)) {
		scsi_iov_read(task->out, task->out_count, offset + i, part, sizeof(part));
		for (size_t j = 0; j < sizeof(part); j++)
			task->buffer[i + j] |= part[j];
	}
}

static void
orwrite_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);
	struct scsi_range piece;

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	or_data_out(task, rq->length);
	next_piece(task, &piece);
	piece.blocks = rq->length >> task->lun->unit->block_shift;
	submit_buffer(task, BDEV_WRITE, &piece, task->buffer,
		      scsi_write_flags(task, task->cdb[1] & FUA), orwrite_written);
}

void
scsi_run_orwrite(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	task->position = 0;
	if (scsi_check_range(task, &range) && has_data_out(task, range.blocks) &&
	    make_buffer(task, range.blocks))
		orwrite_next(task);
	else
		scsi_finish(task);
}
