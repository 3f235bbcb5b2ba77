/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands that go through their range piece by piece, in memory of ours: VERIFY, WRITE AND VERIFY,
 * WRITE SAME, COMPARE AND WRITE, ORWRITE (these two alone: take_turn() in task.c); and UNMAP. On
 * the task's thread, whose other work has its turn between two pieces.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define UNMAP             0x08 /* WRITE SAME, byte 1 */
#define NDOB              0x01 /* WRITE SAME(16), byte 1 */
#define UNMAP_HEADER      8
#define UNMAP_DESCRIPTOR  16
#define PIECE_BYTES       (128u << 10)
#define ZEROES_BYTES_ONCE (32u << 20) /* others should not have to wait for long */

/* ---- pieces ---- */

/* What is done with each piece of the task's range. */
struct scsi_plan {
	bool reads; /* first, into task->buffer */
	/* What to write of a piece that was read, or NULL: the task has its status. */
	uint8_t *(*look)(struct scsi_task *task, size_t length);
	enum bdev_io_type write; /* BDEV_READ: nothing */
};

static void
submit_piece(struct scsi_task *task, enum bdev_io_type type, uint8_t *data, bdev_done_fn done)
{
	uint64_t blocks = task->blocks - task->position;
	uint8_t shift = task->channel->unit->block_shift;
	bool has_data = type == BDEV_READ || type == BDEV_WRITE;

	if (blocks > task->piece_blocks)
		blocks = task->piece_blocks;
	task->bounce = (struct iovec){data, blocks << shift};
	scsi_submit_io(task, type, (task->lba + task->position) << shift, blocks << shift,
		       type == BDEV_READ ? 0 : task->write_flags, has_data ? &task->bounce : NULL,
		       has_data, done);
	scsi_channel_flush(task->channel);
}

static void piece_read(struct bdev_request *rq, int status);
static void piece_done(struct bdev_request *rq, int status);

static void
next_piece(void *arg)
{
	struct scsi_task *task = arg;

	if (task->position == task->blocks)
		scsi_finish(task);
	else if (load(task->aborted))
		scsi_io_done((struct bdev_request *)task->request, -ECANCELED);
	else if (task->plan->reads)
		submit_piece(task, BDEV_READ, task->buffer, piece_read);
	else
		submit_piece(task, task->plan->write, task->buffer, piece_done);
}

static void
piece_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	task->position += rq->length >> task->channel->unit->block_shift;
	if (status != 0)
		scsi_io_done(rq, status);
	else
		thread_send(task->channel->thread, &task->msg, next_piece, task);
}

static void
piece_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);
	uint8_t *data = status == 0 ? task->plan->look(task, rq->length) : NULL;

	if (status == 0 && data == NULL)
		scsi_finish(task);
	else if (status == 0 && load(task->aborted))
		scsi_io_done(rq, -ECANCELED);
	else if (status == 0 && task->plan->write != BDEV_READ)
		submit_piece(task, task->plan->write, data, piece_done);
	else
		piece_done(rq, status);
}

/* task->buffer has room for a piece, or is not needed. */
static bool
start(struct scsi_task *task, const struct scsi_plan *plan, uint64_t piece_bytes)
{
	task->plan = plan;
	task->position = 0;
	task->piece_blocks = piece_bytes >> task->channel->unit->block_shift;
	next_piece(task);
	return false;
}

/* Of the first piece, and of all others at most. */
static uint64_t
piece_bytes(const struct scsi_task *task)
{
	uint64_t bytes = task->blocks << task->channel->unit->block_shift;

	return bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
}

/*
 * With a buffer for a piece, and for as much of data-out behind it. It is zeroed: null block devices
 * read nothing.
 */
static bool
start_buffered(struct scsi_task *task, const struct scsi_plan *plan)
{
	task->buffer = calloc(2, piece_bytes(task) + 1);
	if (task->buffer != NULL)
		return start(task, plan, PIECE_BYTES);
	task->status = SCSI_BUSY;
	return true;
}

/* Copies data-out from there on to behind the piece: the guest may change its own meanwhile. */
static const uint8_t *
take_out(struct scsi_task *task, uint64_t block, size_t piece, size_t length)
{
	iovecs_copy(task->out, task->out_count, block << task->channel->unit->block_shift,
		    task->buffer + piece, length, false);
	return task->buffer + piece;
}

static uint8_t *
miscompare(struct scsi_task *task, uint64_t information)
{
	scsi_check_condition(task, &(struct scsi_sense){.key = SCSI_KEY_MISCOMPARE,
							.code = SCSI_CODE_MISCOMPARE,
							.has_information = true,
							.information = information});
	return NULL;
}

/* False: it is shorter, which is the task's outcome. */
static bool
has_out(struct scsi_task *task, uint64_t blocks)
{
	task->transferred_out = blocks << task->channel->unit->block_shift;
	return task->transferred_out <= task->out_bytes || !scsi_overrun(task);
}

/* ---- VERIFY, WRITE AND VERIFY ---- */

/* BYTCHK: nothing but that it can be read; each block of data-out; one block for all. */
enum { VERIFY_MEDIUM, VERIFY_ALL, VERIFY_RESERVED, VERIFY_ONE_BLOCK };

static uint8_t
get_bytchk(const struct scsi_task *task)
{
	return task->cdb[1] >> 1 & 3;
}

static uint8_t *
look_verify(struct scsi_task *task, size_t length)
{
	size_t size = task->channel->unit->info.block_size;
	bool all = get_bytchk(task) == VERIFY_ALL;
	const uint8_t *wanted;

	if (get_bytchk(task) == VERIFY_MEDIUM)
		return task->buffer;
	wanted = take_out(task, all ? task->position : 0, length, all ? length : size);
	for (size_t i = 0; i < length / size; i++) {
		/* SBC-3 §5.31.1: where the first block is that differs */
		if (memcmp(task->buffer + i * size, wanted + (all ? i * size : 0), size) != 0)
			return miscompare(task, task->lba + task->position + i);
	}
	return task->buffer;
}

static const struct scsi_plan verify_plan = {.reads = true, .look = look_verify};

bool
scsi_run_verify(struct scsi_task *task)
{
	uint8_t bytchk = get_bytchk(task);
	uint64_t out_blocks = bytchk == VERIFY_ALL ? task->blocks : task->blocks != 0;

	if (bytchk == VERIFY_RESERVED)
		return scsi_refuse_cdb(task, 1, 2);
	if (!has_out(task, bytchk == VERIFY_MEDIUM ? 0 : out_blocks))
		return true;
	return start_buffered(task, &verify_plan);
}

static void
verify_written(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0 || start_buffered(task, &verify_plan))
		scsi_io_done(rq, status);
}

bool
scsi_run_write_verify(struct scsi_task *task)
{
	if (get_bytchk(task) >= VERIFY_RESERVED)
		return scsi_refuse_cdb(task, 1, 2);
	if (!has_out(task, task->blocks))
		return true;
	scsi_submit_io(task, BDEV_WRITE, task->lba << task->channel->unit->block_shift,
		       task->transferred_out, BDEV_FUA, task->out,
		       iovecs_cut(task->out, task->transferred_out), verify_written);
	return false;
}

/* ---- COMPARE AND WRITE, ORWRITE ---- */

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

bool
scsi_run_compare_and_write(struct scsi_task *task)
{
	static const struct scsi_plan plan = {true, look_compare, BDEV_WRITE};
	const struct scsi_unit *unit = task->channel->unit;
	uint32_t length;

	if (task->blocks > unit->compare_blocks)
		return scsi_refuse_cdb(task, 13, -1);
	length = (uint32_t)task->blocks << unit->block_shift;
	task->write_flags = scsi_write_flags(task);
	if (length == 0 || !scsi_take_data_out(task, 2 * length, length))
		return true;
	return start(task, &plan, length);
}

static uint8_t *
look_orwrite(struct scsi_task *task, size_t length)
{
	const uint8_t *data = take_out(task, task->position, length, length);

	for (size_t i = 0; i < length; i++)
		task->buffer[i] |= data[i];
	return task->buffer;
}

bool
scsi_run_orwrite(struct scsi_task *task)
{
	static const struct scsi_plan plan = {true, look_orwrite, BDEV_WRITE};

	if (!has_out(task, task->blocks))
		return true;
	task->write_flags = scsi_write_flags(task);
	return start_buffered(task, &plan);
}

/* ---- WRITE SAME ---- */

/*
 * SBC-3 §5.45: 0 blocks are all up to the end (WSNZ is 0). Data-out has to be one block: with more
 * or less the initiator means something else than this does.
 */
bool
scsi_run_write_same(struct scsi_task *task)
{
	static const struct scsi_plan pattern = {.write = BDEV_WRITE};
	static const struct scsi_plan zeroes = {.write = BDEV_WRITE_ZEROES};
	const struct scsi_unit *unit = task->channel->unit;
	bool sixteen = task->command->length == 16, has_data = !(sixteen && task->cdb[1] & NDOB);
	uint32_t size = unit->info.block_size, room = (uint32_t)piece_bytes(task) + size;

	if (task->cdb[1] & UNMAP && !(unit->can_discard && unit->can_zero))
		return scsi_refuse_cdb(task, 1, 3);
	if (task->blocks > SCSI_WRITE_SAME_MAX_BYTES >> unit->block_shift ||
	    (has_data && task->out_bytes != size))
		return scsi_refuse_cdb(task, sixteen ? 10 : 7, -1);
	if (!scsi_take_data_out(task, has_data ? size : 0, room))
		return true;
	task->write_flags = load(unit->write_through) ? BDEV_FUA : 0;
	memset(task->buffer, 0, room);
	if (unit->can_zero && (!has_data || memcmp(task->buffer, task->buffer + room, size) == 0)) {
		task->write_flags |= task->cdb[1] & UNMAP ? BDEV_UNMAP : 0;
		return start(task, &zeroes, ZEROES_BYTES_ONCE);
	}
	for (uint32_t at = 0; has_data && at < room; at += size)
		memcpy(task->buffer + at, task->buffer + room, size);
	return start(task, &pattern, PIECE_BYTES);
}

/* ---- UNMAP ---- */

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
	uint8_t shift = task->channel->unit->block_shift;
	const uint8_t *descriptor = NULL;
	uint64_t blocks = 0;

	while (blocks == 0 && task->position < unmap_count(task)) {
		descriptor = task->buffer + UNMAP_HEADER + task->position++ * UNMAP_DESCRIPTOR;
		blocks = get_be32(descriptor + 8);
	}
	if (blocks == 0 || load(task->aborted)) {
		scsi_finish(task);
		return;
	}
	scsi_submit_io(task, BDEV_DISCARD, get_be64(descriptor) << shift, blocks << shift, 0, NULL,
		       0, unmap_done);
	scsi_channel_flush(task->channel);
}

static void
unmap_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0)
		scsi_io_done(rq, status);
	else
		thread_send(task->channel->thread, &task->msg, unmap_next, task);
}

/* SBC-3 §5.28: all descriptors are checked before the first one counts. */
bool
scsi_run_unmap(struct scsi_task *task)
{
	uint32_t length = get_be16(task->cdb + 7);
	const uint8_t *descriptor;

	if (length == 0 || !scsi_take_data_out(task, length, 0))
		return true;
	if (length < UNMAP_HEADER || get_be16(task->buffer + 2) > length - UNMAP_HEADER)
		return scsi_illegal(task, SCSI_CODE_PARAMETER_LIST_LENGTH);
	if (unmap_count(task) > SCSI_UNMAP_DESCRIPTORS)
		return scsi_refuse_list(task, 2, -1);
	descriptor = task->buffer + UNMAP_HEADER;
	for (uint32_t i = 0; i < unmap_count(task); i++, descriptor += UNMAP_DESCRIPTOR) {
		if (!scsi_unit_has(task->channel->unit, get_be64(descriptor),
				   get_be32(descriptor + 8)))
			return scsi_illegal(task, SCSI_CODE_LBA_OUT_OF_RANGE);
	}
	task->position = 0;
	unmap_next(task);
	return false;
}
