/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands that go through their range piece by piece, in memory of ours: VERIFY, WRITE AND VERIFY,
 * WRITE SAME, COMPARE AND WRITE, ORWRITE; and UNMAP. On the task's thread, whose other work has its
 * turn between two pieces. COMPARE AND WRITE and ORWRITE run while nobody else reads or writes there
 * (run_exclusive() in task.c).
 */
#include <stdlib.h>
#include <string.h>

#include "data.h"
#include "internal.h"

#define FUA               0x08
#define BYTCHK_SHIFT      1
#define WRITE_SAME_UNMAP  0x08
#define WRITE_SAME_NDOB   0x01
#define UNMAP_HEADER      8
#define UNMAP_DESCRIPTOR  16
#define PIECE_BYTES       (128u << 10)
#define ZEROES_BYTES_ONCE (32u << 20) /* others should not have to wait for long */

static bool
is_aborted(const struct scsi_task *task)
{
	return atomic_load_explicit(&task->aborted, memory_order_relaxed);
}

/* Lets the other work of the thread go first. */
static void
yield_to(struct scsi_task *task, thread_fn next)
{
	thread_send(task->channel->thread, &task->order.msg, next, task);
}

/* ---- pieces ---- */

/* What is done with each piece of the task's lba and blocks. */
struct scsi_plan {
	bool reads; /* first, into task->buffer */
	/* What to write of a piece that was read, or NULL: the task has its status. */
	uint8_t *(*look)(struct scsi_task *task, size_t length);
	enum bdev_io_type write; /* BDEV_READ: nothing */
};

static void
submit_piece(struct scsi_task *task, enum bdev_io_type type, uint8_t *data, bdev_done_fn done)
{
	struct scsi_range piece = {task->lba + task->position, task->blocks - task->position};
	bool has_data = type == BDEV_READ || type == BDEV_WRITE;

	if (piece.blocks > task->piece_blocks)
		piece.blocks = task->piece_blocks;
	task->bounce.iov_base = data;
	task->bounce.iov_len = piece.blocks << task->lun->unit->block_shift;
	scsi_submit_io(task, type, &piece, type == BDEV_READ ? 0 : task->write_flags,
		       has_data ? &task->bounce : NULL, has_data, done);
	scsi_channel_flush(task->channel);
}

static void piece_read(struct bdev_request *rq, int status);
static void piece_done(struct bdev_request *rq, int status);

static void
next_piece(void *arg)
{
	struct scsi_task *task = arg;

	if (task->position == task->blocks || is_aborted(task))
		scsi_finish(task);
	else if (task->plan->reads)
		submit_piece(task, BDEV_READ, task->buffer, piece_read);
	else
		submit_piece(task, task->plan->write, task->buffer, piece_done);
}

static void
piece_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	task->position += rq->length >> task->lun->unit->block_shift;
	yield_to(task, next_piece);
}

static void
piece_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);
	uint8_t *data = status == 0 ? task->plan->look(task, rq->length) : NULL;

	if (status == 0 && data == NULL)
		scsi_finish(task);
	else if (status == 0 && task->plan->write != BDEV_READ)
		submit_piece(task, task->plan->write, data, piece_done);
	else
		piece_done(rq, status);
}

/* task->buffer has room for a piece, or is not needed. */
static void
start(struct scsi_task *task, const struct scsi_plan *plan, uint64_t piece_bytes)
{
	task->plan = plan;
	task->position = 0;
	task->piece_blocks = piece_bytes >> task->lun->unit->block_shift;
	next_piece(task);
}

/* With a buffer for a piece, and for as much of data-out behind it. */
static void
start_buffered(struct scsi_task *task, const struct scsi_plan *plan)
{
	uint64_t bytes = task->blocks << task->lun->unit->block_shift;

	if (bytes > PIECE_BYTES)
		bytes = PIECE_BYTES;
	task->buffer = malloc(2 * bytes + 1);
	if (task->buffer != NULL) {
		start(task, plan, PIECE_BYTES);
		return;
	}
	task->status = SCSI_BUSY;
	scsi_finish(task);
}

/* What data-out has for the piece, behind it: a copy, since the guest may change its own. */
static uint8_t *
take_piece(struct scsi_task *task, size_t length)
{
	scsi_iov_copy(task->out, task->out_count, task->position << task->lun->unit->block_shift,
		      task->buffer + length, length, false);
	return task->buffer + length;
}

static uint8_t *
miscompare(struct scsi_task *task, uint64_t information)
{
	scsi_check_condition(task, &(struct scsi_sense){
					   .key = SCSI_KEY_MISCOMPARE,
					   .code = SCSI_CODE_MISCOMPARE,
					   .has_information = true,
					   .information = information,
				   });
	return NULL;
}

/* ---- VERIFY, WRITE AND VERIFY ---- */

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

static uint8_t *
look_verify(struct scsi_task *task, size_t length)
{
	const struct scsi_unit *unit = task->lun->unit;
	const uint8_t *wanted = task->buffer + length;
	size_t step = 0;

	if (get_bytchk(task) == BYTCHK_ALL) {
		take_piece(task, length);
		step = unit->block_size;
	} else if (get_bytchk(task) == BYTCHK_ONE_BLOCK) {
		scsi_iov_copy(task->out, task->out_count, 0, task->buffer + length,
			      unit->block_size, false);
	} else {
		return task->buffer;
	}
	for (size_t at = 0; at < length; at += unit->block_size, wanted += step) {
		if (memcmp(task->buffer + at, wanted, unit->block_size) != 0)
			/* SBC-3 §5.31.1: where the first block is that differs */
			return miscompare(task,
					  task->lba + task->position + (at >> unit->block_shift));
	}
	return task->buffer;
}

static const struct scsi_plan verify_plan = {.reads = true, .look = look_verify};

/* False: what is wrong with BYTCHK or the range is the task's outcome; or it has to wait. */
static bool
begin_verify(struct scsi_task *task, bool writes, struct scsi_range *range)
{
	enum bytchk bytchk = get_bytchk(task);
	uint64_t out_blocks;

	scsi_decode_range(task, range);
	if (bytchk == BYTCHK_RESERVED || (writes && bytchk == BYTCHK_ONE_BLOCK)) {
		scsi_refuse_cdb(task, 1, 2);
		scsi_finish(task);
		return false;
	}
	out_blocks = bytchk == BYTCHK_ONE_BLOCK && range->blocks > 0;
	if (writes || bytchk == BYTCHK_ALL)
		out_blocks = range->blocks;
	return scsi_begin(task, range, out_blocks);
}

void
scsi_run_verify(struct scsi_task *task)
{
	struct scsi_range range;

	if (begin_verify(task, false, &range))
		start_buffered(task, &verify_plan);
}

static void
verify_written(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0)
		scsi_end_io(task, status);
	else
		start_buffered(task, &verify_plan);
}

void
scsi_run_write_verify(struct scsi_task *task)
{
	struct scsi_range range;

	if (begin_verify(task, true, &range))
		scsi_submit_io(task, BDEV_WRITE, &range, BDEV_FUA, task->out,
			       scsi_cut_iov(task->out, task->transferred_out), verify_written);
}

/* ---- COMPARE AND WRITE ---- */

/* In the buffer: what is there, what is expected, and what is to be written. */
static uint8_t *
look_compare(struct scsi_task *task, size_t length)
{
	const uint8_t *expected = task->buffer + length;
	size_t same = 0;

	if (memcmp(task->buffer, expected, length) == 0)
		return task->buffer + 2 * length;
	while (task->buffer[same] == expected[same])
		same++;
	/* SBC-3 §5.2: the offset of the first byte that differs */
	return miscompare(task, same);
}

void
scsi_run_compare_and_write(struct scsi_task *task)
{
	static const struct scsi_plan plan = {true, look_compare, BDEV_WRITE};
	const struct scsi_unit *unit = task->lun->unit;
	struct scsi_range range;
	uint32_t length;

	scsi_decode_range(task, &range);
	length = (uint32_t)range.blocks << unit->block_shift;
	if (range.blocks > scsi_compare_blocks(unit)) {
		scsi_refuse_cdb(task, 13, -1);
		scsi_finish(task);
	} else if (scsi_begin(task, &range, 2 * range.blocks)) {
		task->write_flags = scsi_write_flags(task, task->cdb[1] & FUA);
		if (length != 0 && scsi_take_data_out(task, 2 * length, length))
			start(task, &plan, length);
		else
			scsi_finish(task);
	}
}

/* ---- ORWRITE ---- */

static uint8_t *
look_orwrite(struct scsi_task *task, size_t length)
{
	const uint8_t *data = take_piece(task, length);

	for (size_t i = 0; i < length; i++)
		task->buffer[i] |= data[i];
	return task->buffer;
}

void
scsi_run_orwrite(struct scsi_task *task)
{
	static const struct scsi_plan plan = {true, look_orwrite, BDEV_WRITE};
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (scsi_begin(task, &range, range.blocks)) {
		task->write_flags = scsi_write_flags(task, task->cdb[1] & FUA);
		start_buffered(task, &plan);
	}
}

/* ---- WRITE SAME ---- */

/* The block of data-out as often as a piece has room for it, or NULL: zeroes. False: no memory. */
static bool
take_pattern(struct scsi_task *task, bool has_data)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint32_t size = unit->block_size;
	uint64_t bytes = task->blocks << unit->block_shift;

	if (bytes > PIECE_BYTES)
		bytes = PIECE_BYTES;
	if (!scsi_take_data_out(task, has_data ? size : 0, (uint32_t)bytes + size))
		return false;
	if (has_data)
		memmove(task->buffer, task->buffer + bytes + size, size);
	else
		memset(task->buffer, 0, size);
	if (unit->can_zero && task->buffer[0] == 0 &&
	    memcmp(task->buffer, task->buffer + 1, size - 1) == 0) {
		free(task->buffer);
		task->buffer = NULL;
		return true;
	}
	for (uint32_t i = size; i < bytes; i += size)
		memcpy(task->buffer + i, task->buffer, size);
	return true;
}

/*
 * SBC-3 §5.45: 0 blocks are all up to the end (WSNZ is 0). Data-out has to be one block: with more
 * or less the initiator means something else than this does.
 */
static bool
check_write_same(struct scsi_task *task, struct scsi_range *range, bool has_data)
{
	const struct scsi_unit *unit = task->lun->unit;

	if (task->cdb[1] & WRITE_SAME_UNMAP && !(unit->can_discard && unit->can_zero)) {
		scsi_refuse_cdb(task, 1, 3);
		return false;
	}
	if (!scsi_check_range(task, range))
		return false;
	if (range->blocks == 0)
		range->blocks = atomic_load(&unit->blocks) - range->lba;
	if (range->blocks > SCSI_WRITE_SAME_MAX_BYTES >> unit->block_shift ||
	    (has_data && task->out_bytes != unit->block_size)) {
		scsi_refuse_cdb(task, task->command->length == 16 ? 10 : 7, -1);
		return false;
	}
	return true;
}

void
scsi_run_write_same(struct scsi_task *task)
{
	static const struct scsi_plan pattern = {.write = BDEV_WRITE};
	static const struct scsi_plan zeroes = {.write = BDEV_WRITE_ZEROES};
	bool has_data = task->command->length != 16 || !(task->cdb[1] & WRITE_SAME_NDOB);
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (!check_write_same(task, &range, has_data)) {
		scsi_finish(task);
	} else if (scsi_begin(task, &range, has_data)) {
		task->write_flags = scsi_write_flags(task, false);
		if (!take_pattern(task, has_data)) {
			scsi_finish(task);
		} else if (task->buffer != NULL) {
			start(task, &pattern, PIECE_BYTES);
		} else {
			if (task->cdb[1] & WRITE_SAME_UNMAP)
				task->write_flags |= BDEV_UNMAP;
			start(task, &zeroes, ZEROES_BYTES_ONCE);
		}
	}
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
unmap_next(void *arg)
{
	struct scsi_task *task = arg;
	struct scsi_range range = {0};

	while (range.blocks == 0 && task->position < unmap_count(task))
		unmap_range(task, task->position++, &range);
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

	if (status != 0)
		scsi_end_io(task, status);
	else
		yield_to(task, unmap_next);
}

/* SBC-3 §5.28.2: all descriptors, before the first one counts. False: the task has its status. */
static bool
check_unmap_list(struct scsi_task *task, uint32_t length)
{
	if (length < UNMAP_HEADER || get_be16(task->buffer + 2) > length - UNMAP_HEADER) {
		scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_PARAMETER_LIST_LENGTH);
		return false;
	}
	if (unmap_count(task) > SCSI_UNMAP_DESCRIPTORS) {
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

	/* Of the whole disk, as far as those are concerned who need a range for themselves. */
	if (length != 0 && !scsi_may_touch(task, 0, UINT64_MAX))
		return;
	task->position = 0;
	if (length != 0 && scsi_take_data_out(task, length, 0) && check_unmap_list(task, length))
		unmap_next(task);
	else
		scsi_finish(task);
}
