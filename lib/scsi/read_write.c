/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * READ, WRITE and what only moves or hints: straight from and to the initiator's memory, on the
 * task's thread. Nothing is allocated here.
 */
#include "internal.h"

#define FUA 0x08

void
scsi_end_io(struct scsi_task *task, int status)
{
	if (unlikely(status != 0))
		scsi_set_error(task, status);
	scsi_finish(task);
}

static void
on_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (unlikely(status != 0)) {
		task->transferred_in = 0;
		scsi_set_error(task, status);
	}
	scsi_finish(task);
}

void
scsi_submit_io(struct scsi_task *task, enum bdev_io_type type, uint64_t lba, uint64_t blocks,
	       uint8_t flags, struct iovec *iov, uint32_t iovcnt, bdev_done_fn done)
{
	struct bdev_request *rq = (struct bdev_request *)task->request;
	uint8_t shift = task->channel->unit->block_shift;

	rq->type = (uint8_t)type;
	rq->flags = flags;
	rq->iov = iov;
	rq->iovcnt = iovcnt;
	rq->offset = lba << shift;
	rq->length = blocks << shift;
	rq->done = done;
	bdev_submit(task->channel->bdev, rq);
}

uint8_t
scsi_write_flags(const struct scsi_task *task)
{
	bool fua = task->cdb[1] & FUA && task->command->length != 6;

	return fua || load(task->channel->unit->write_through) ? BDEV_FUA : 0;
}

static bool
flush(struct scsi_task *task, bdev_done_fn done)
{
	scsi_submit_io(task, BDEV_FLUSH, 0, 0, 0, NULL, 0, done);
	return false;
}

/* ---- READ, WRITE ---- */

static bool
submit_read(struct scsi_task *task)
{
	uint32_t count = task->in_count;

	if (unlikely(task->transferred_in < task->in_bytes))
		count = iovecs_cut(task->in, task->transferred_in);
	scsi_submit_io(task, BDEV_READ, task->lba, task->blocks, 0, task->in, count, on_done);
	return false;
}

static void
flushed_before_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0) {
		on_done(rq, status);
		return;
	}
	submit_read(task);
	scsi_channel_flush(task->channel);
}

/* SBC-3 §4.15.4: FUA reads from the medium; what is in a volatile cache is written there before. */
bool
scsi_run_read(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->channel->unit;
	uint64_t length = task->blocks << unit->block_shift;

	if (unlikely(length > task->in_bytes))
		return scsi_overrun(task);
	task->transferred_in = length;
	if (unlikely(task->cdb[1] & FUA) && unit->info.write_cache && task->command->length != 6)
		return flush(task, flushed_before_read);
	return submit_read(task);
}

bool
scsi_run_write(struct scsi_task *task)
{
	uint64_t length = task->blocks << task->channel->unit->block_shift;
	uint32_t count = task->out_count;

	if (unlikely(length > task->out_bytes))
		return scsi_overrun(task);
	if (unlikely(length < task->out_bytes))
		count = iovecs_cut(task->out, length);
	task->transferred_out = length;
	scsi_submit_io(task, BDEV_WRITE, task->lba, task->blocks, scsi_write_flags(task), task->out,
		       count, on_done);
	return false;
}

/*
 * SBC-4 §5.48: one request, while nobody else reads or writes there, of at most what the block
 * device writes as a whole or not at all.
 */
bool
scsi_run_write_atomic(struct scsi_task *task)
{
	if (task->blocks > task->channel->unit->atomic_blocks)
		return scsi_refuse_cdb(task, 12, -1);
	return scsi_run_write(task);
}

/* ---- SYNCHRONIZE CACHE, START STOP UNIT, and what has nothing to do ---- */

/* SBC-3 §5.19: the whole cache is written, whatever the range. */
bool
scsi_run_synchronize_cache(struct scsi_task *task)
{
	return !(task->channel->unit->info.io_types & 1u << BDEV_FLUSH) || flush(task, on_done);
}

/*
 * SBC-3 §5.25. The disk has no motor and no power conditions: to stop it is to write its cache,
 * unless NO_FLUSH says otherwise.
 */
bool
scsi_run_start_stop(struct scsi_task *task)
{
	return task->cdb[4] & 0x05 || scsi_run_synchronize_cache(task);
}

/*
 * TEST UNIT READY; PRE-FETCH, since there is no cache here to hold the blocks (SBC-3 §5.10);
 * PREVENT ALLOW MEDIUM REMOVAL, since there is no medium to take out (SPC-4 §6.12).
 */
bool
scsi_run_nothing(struct scsi_task *task)
{
	(void)task;
	return true;
}
