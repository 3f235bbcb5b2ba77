/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * READ, WRITE and what only moves or hints: straight from and to the initiator's memory, on the
 * task's thread. Nothing is allocated here.
 */
#include "data.h"
#include "internal.h"

#define load(variable) atomic_load_explicit(&(variable), memory_order_relaxed)

#define FUA 0x08

/* ---- ranges ---- */

void
scsi_decode_range(const struct scsi_task *task, struct scsi_range *range)
{
	const uint8_t *cdb = task->cdb;

	if (likely(task->command->length == 10)) {
		range->lba = get_be32(cdb + 2);
		range->blocks = get_be16(cdb + 7);
	} else if (task->command->length == 16) {
		range->lba = get_be64(cdb + 2);
		range->blocks = get_be32(cdb + 10);
	} else if (task->command->length == 12) {
		range->lba = get_be32(cdb + 2);
		range->blocks = get_be32(cdb + 6);
	} else {
		range->lba = get_be24(cdb + 1) & 0x1fffff;
		range->blocks = cdb[4] != 0 ? cdb[4] : 256;
	}
}

/* SBC-3 §4.1: the same answer whether it begins or ends behind the last block. */
bool
scsi_check_range(struct scsi_task *task, const struct scsi_range *range)
{
	uint64_t blocks = load(task->lun->unit->blocks);

	if (likely(range->lba <= blocks && range->blocks <= blocks - range->lba))
		return true;
	scsi_check_condition(task, &(struct scsi_sense){
					   .key = SCSI_KEY_ILLEGAL_REQUEST,
					   .code = SCSI_CODE_LBA_OUT_OF_RANGE,
				   });
	return false;
}

static inline bool
begin(struct scsi_task *task, const struct scsi_range *range, uint64_t out_blocks)
{
	uint64_t length = out_blocks << task->lun->unit->block_shift;

	if (unlikely(!scsi_check_range(task, range))) {
		scsi_finish(task);
		return false;
	}
	if (unlikely(length > task->out_bytes)) {
		task->outcome = SCSI_OVERRUN;
		scsi_finish(task);
		return false;
	}
	task->transferred_out = length;
	return scsi_may_touch(task, range->lba, range->blocks);
}

bool
scsi_begin(struct scsi_task *task, const struct scsi_range *range, uint64_t out_blocks)
{
	return begin(task, range, out_blocks);
}

/* ---- one request ---- */

void
scsi_end_io(struct scsi_task *task, int status)
{
	scsi_set_status(task, status);
	scsi_finish(task);
}

static void
on_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (unlikely(status != 0))
		task->transferred_in = 0;
	scsi_end_io(task, status);
}

void
scsi_submit_io(struct scsi_task *task, enum bdev_io_type type, const struct scsi_range *range,
	       uint8_t flags, struct iovec *iov, uint32_t iovcnt, bdev_done_fn done)
{
	struct bdev_request *rq = scsi_task_request(task);
	uint8_t shift = task->lun->unit->block_shift;

	rq->type = (uint8_t)type;
	rq->flags = flags;
	rq->iov = iov;
	rq->iovcnt = iovcnt;
	rq->offset = range->lba << shift;
	rq->length = range->blocks << shift;
	rq->done = done;
	bdev_submit(task->channel->bdev, rq);
}

uint32_t
scsi_cut_iov(struct iovec *iov, uint64_t length)
{
	uint32_t count = 0;

	while (length > 0) {
		if (iov[count].iov_len > length)
			iov[count].iov_len = length;
		length -= iov[count++].iov_len;
	}
	return count;
}

uint8_t
scsi_write_flags(const struct scsi_task *task, bool fua)
{
	return fua || load(task->lun->unit->write_through) ? BDEV_FUA : 0;
}

static bool
has_fua(const struct scsi_task *task)
{
	return task->command->length != 6 && task->cdb[1] & FUA;
}

/* ---- READ ---- */

static void
submit_read(struct scsi_task *task, const struct scsi_range *range)
{
	uint64_t length = range->blocks << task->lun->unit->block_shift;
	uint32_t count = task->in_count;

	if (unlikely(length < task->in_bytes))
		count = scsi_cut_iov(task->in, length);
	task->transferred_in = length;
	scsi_submit_io(task, BDEV_READ, range, 0, task->in, count, on_done);
}

static void
flushed_before_read(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);
	struct scsi_range range;

	if (status != 0) {
		scsi_end_io(task, status);
		return;
	}
	scsi_decode_range(task, &range);
	submit_read(task, &range);
	scsi_channel_flush(task->channel);
}

/* SBC-3 §4.15.4: FUA reads from the medium; what is in a volatile cache is written there before. */
void
scsi_run_read(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (unlikely(!scsi_check_range(task, &range))) {
		scsi_finish(task);
	} else if (unlikely(range.blocks << task->lun->unit->block_shift > task->in_bytes)) {
		task->outcome = SCSI_OVERRUN;
		scsi_finish(task);
	} else if (unlikely(!scsi_may_touch(task, range.lba, range.blocks))) {
		return;
	} else if (unlikely(has_fua(task) && task->lun->unit->info.write_cache)) {
		scsi_submit_io(task, BDEV_FLUSH, &(struct scsi_range){0}, 0, NULL, 0,
			       flushed_before_read);
	} else {
		submit_read(task, &range);
	}
}

/* ---- WRITE ---- */

static inline void
write_range(struct scsi_task *task, const struct scsi_range *range)
{
	uint32_t count = task->out_count;

	if (unlikely(!begin(task, range, range->blocks)))
		return;
	if (unlikely(task->transferred_out < task->out_bytes))
		count = scsi_cut_iov(task->out, task->transferred_out);
	scsi_submit_io(task, BDEV_WRITE, range, scsi_write_flags(task, has_fua(task)), task->out,
		       count, on_done);
}

void
scsi_run_write(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	write_range(task, &range);
}

/*
 * SBC-4 §5.48: one request, while nobody else reads or writes there, of at most what the block
 * device writes as a whole or not at all.
 */
void
scsi_run_write_atomic(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (scsi_check_range(task, &range) && range.blocks > scsi_atomic_blocks(task->lun->unit))
		scsi_refuse_cdb(task, 12, -1);
	if (task->status == SCSI_GOOD)
		write_range(task, &range);
	else
		scsi_finish(task);
}

/* ---- SYNCHRONIZE CACHE, PRE-FETCH, START STOP UNIT ---- */

/* SBC-3 §5.19: 0 blocks are all up to the end. The whole cache is written in any case. */
void
scsi_run_synchronize_cache(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	if (!scsi_check_range(task, &range))
		scsi_finish(task);
	else if (!(task->lun->unit->info.io_types & 1u << BDEV_FLUSH))
		scsi_finish(task);
	else
		scsi_submit_io(task, BDEV_FLUSH, &(struct scsi_range){0}, 0, NULL, 0, on_done);
}

/* SBC-3 §5.10: GOOD, since there is no cache here to hold the blocks, with or without IMMED. */
void
scsi_run_prefetch(struct scsi_task *task)
{
	struct scsi_range range;

	scsi_decode_range(task, &range);
	scsi_check_range(task, &range);
	scsi_finish(task);
}

/*
 * SBC-3 §5.25. The disk has no motor and no power conditions: to stop it is to write its cache,
 * unless NO_FLUSH says otherwise.
 */
void
scsi_run_start_stop(struct scsi_task *task)
{
	if (task->cdb[4] & 0x05 || !(task->lun->unit->info.io_types & 1u << BDEV_FLUSH))
		scsi_finish(task);
	else
		scsi_submit_io(task, BDEV_FLUSH, &(struct scsi_range){0}, 0, NULL, 0, on_done);
}

/* SPC-4 §6.12: there is no medium to take out. */
void
scsi_run_prevent_allow(struct scsi_task *task)
{
	scsi_finish(task);
}
