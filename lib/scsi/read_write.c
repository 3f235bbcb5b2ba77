/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * READ, WRITE and what only moves or hints: straight from and to the initiator's memory, on the
 * task's thread. Nothing is allocated here.
 */
#include "internal.h"

#define FUA 0x08

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

static inline bool
submit_read(struct scsi_task *task, uint8_t shift)
{
	scsi_submit_io(task, BDEV_READ, task->lba << shift, task->transferred_in, 0, task->in,
		       task->in_count, scsi_io_done);
	return false;
}

static void
flushed_before_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (status != 0 || load(task->aborted)) {
		scsi_io_done(rq, status);
		return;
	}
	submit_read(task, task->channel->unit->block_shift);
	scsi_channel_flush(task->channel);
}

/* SBC-3 §4.15.4: FUA reads from the medium; what is in a volatile cache is written there before. */
bool
scsi_run_read(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->channel->unit;
	uint8_t shift = unit->block_shift;
	uint64_t length = task->blocks << shift;

	if (unlikely(length != task->in_bytes)) {
		if (length > task->in_bytes)
			return scsi_overrun(task);
		task->in_count = iovecs_cut(task->in, length);
	}
	task->transferred_in = length;
	if (unlikely(task->cdb[1] & FUA) && unit->info.write_cache && task->command->length != 6)
		return flush(task, flushed_before_read);
	return submit_read(task, shift);
}

bool
scsi_run_write(struct scsi_task *task)
{
	uint8_t shift = task->channel->unit->block_shift;
	uint64_t length = task->blocks << shift;

	if (unlikely(length != task->out_bytes)) {
		if (length > task->out_bytes)
			return scsi_overrun(task);
		task->out_count = iovecs_cut(task->out, length);
	}
	task->transferred_out = length;
	scsi_submit_io(task, BDEV_WRITE, task->lba << shift, length, scsi_write_flags(task),
		       task->out, task->out_count, scsi_io_done);
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
	return !(task->channel->unit->info.io_types & 1u << BDEV_FLUSH) ||
	       flush(task, scsi_io_done);
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
