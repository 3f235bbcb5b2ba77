/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of a task: checks that all commands share, data buffers, results. */
#include <errno.h>
#include <smmintrin.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

size_t
scsi_task_size(void)
{
	return (offsetof(struct scsi_task, request) + SCSI_REQUEST_ROOM + 63) & ~(size_t)63;
}

/* ---- results ---- */

/* SPC-4 §4.5 */
size_t
scsi_sense_put(const struct scsi_sense *sense, bool descriptor, uint8_t *bytes)
{
	uint8_t *pointer = bytes + 15, *end = bytes + (descriptor ? 8 : 18);

	memset(bytes, 0, SCSI_SENSE_MAX);
	bytes[0] = descriptor ? 0x72 : 0x70;
	bytes[descriptor ? 1 : 2] = sense->key;
	put_be16(bytes + (descriptor ? 2 : 12), sense->code);
	if (sense->has_information && descriptor) {
		put_be16(end, 0x000a);
		end[2] = 0x80;
		put_be64(end + 4, sense->information);
		end += 12;
	} else if (sense->has_information && sense->information <= UINT32_MAX) {
		bytes[0] |= 0x80;
		put_be32(bytes + 3, (uint32_t)sense->information);
	}
	if (sense->has_field && descriptor) {
		put_be16(end, 0x0206);
		pointer = end + 4;
		end += 8;
	}
	/* SPC-4 §4.5.2.4.2: SKSV, C/D, BPV and bit pointer, field pointer. */
	if (sense->has_field) {
		pointer[0] = sense->field_in_cdb ? 0xc0 : 0x80;
		pointer[0] |= sense->field_bit >= 0 ? 0x08 | (uint8_t)sense->field_bit : 0;
		put_be16(pointer + 1, sense->field);
	}
	bytes[7] = (uint8_t)(end - bytes - 8);
	return (size_t)(end - bytes);
}

bool
scsi_check_condition(struct scsi_task *task, const struct scsi_sense *sense)
{
	bool descriptor = task->channel != NULL && load(task->channel->unit->descriptor_sense);

	task->status = SCSI_CHECK_CONDITION;
	task->sense_length = (uint8_t)scsi_sense_put(sense, descriptor, task->sense);
	return true;
}

__attribute__((noinline)) bool
scsi_refuse(struct scsi_task *task, uint8_t key, uint16_t code)
{
	return scsi_check_condition(task, &(struct scsi_sense){.key = key, .code = code});
}

bool
scsi_illegal(struct scsi_task *task, uint16_t code)
{
	return scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, code);
}

static __attribute__((noinline)) bool
refuse_field(struct scsi_task *task, uint16_t code, bool in_cdb, uint16_t byte, int bit)
{
	return scsi_check_condition(task, &(struct scsi_sense){.key = SCSI_KEY_ILLEGAL_REQUEST,
							       .code = code,
							       .has_field = true,
							       .field_in_cdb = in_cdb,
							       .field = byte,
							       .field_bit = (int8_t)bit});
}

bool
scsi_refuse_cdb(struct scsi_task *task, uint16_t byte, int bit)
{
	return refuse_field(task, SCSI_CODE_INVALID_FIELD_IN_CDB, true, byte, bit);
}

bool
scsi_refuse_list(struct scsi_task *task, uint16_t byte, int bit)
{
	return refuse_field(task, SCSI_CODE_INVALID_FIELD_IN_LIST, false, byte, bit);
}

bool
scsi_overrun(struct scsi_task *task)
{
	task->outcome = SCSI_OVERRUN;
	task->transferred_out = 0;
	return true;
}

/* ---- the end ---- */

static void
turn_ended(void *arg)
{
	struct scsi_task *task = arg;

	task->stage = SCSI_STAGE_NONE;
	task->returned = true;
	scsi_unit_wake(task->lun->unit);
}

static __attribute__((noinline)) void
finish_closely(struct scsi_task *task)
{
	struct scsi_channel *channel = task->channel;

	free(task->buffer);
	task->buffer = NULL;
	if (task->stage == SCSI_STAGE_AWAITED) {
		/* It comes back, and ends then. */
		thread_send(channel->unit->app, &task->msg, turn_ended, task);
		return;
	}
	if (channel != NULL)
		LIST_REMOVE(task, link);
	if (load(task->aborted) && task->stage != SCSI_STAGE_DONE) {
		task->outcome = task->reset ? SCSI_RESET : SCSI_ABORTED;
		task->sense_length = 0;
		task->transferred_in = 0;
		task->transferred_out = 0;
	}
	task->done(task);
	if (channel != NULL)
		scsi_walks_continue(channel);
}

/* The short way for tasks that have left nothing and that nobody but their submitter asks for. */
void
scsi_finish(struct scsi_task *task)
{
	struct scsi_channel *channel = task->channel;

	if (unlikely(channel == NULL || !LIST_EMPTY(&channel->walks) || task->buffer != NULL ||
		     task->marks != 0)) {
		finish_closely(task);
		return;
	}
	LIST_REMOVE(task, link);
	task->done(task);
}

/* What block devices fail with (bdev.h), as SPC-4 §4.5 has it; the rest are errors of the medium. */
static const struct {
	int status;
	uint8_t key;
	uint16_t code;
} errors[] = {
	{-EILSEQ, SCSI_KEY_ABORTED_COMMAND, SCSI_CODE_PROTECTION_ERROR},
	{-EOPNOTSUPP, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_INVALID_OPCODE},
	{-ENOSPC, SCSI_KEY_DATA_PROTECT, SCSI_CODE_SPACE_ALLOCATION_FAILED},
	{-EROFS, SCSI_KEY_DATA_PROTECT, SCSI_CODE_WRITE_PROTECTED},
	{-EINVAL, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_LBA_OUT_OF_RANGE},
	{-ETIMEDOUT, SCSI_KEY_ABORTED_COMMAND, SCSI_CODE_COMMAND_TIMEOUT},
	{-ECANCELED, SCSI_KEY_ABORTED_COMMAND, SCSI_CODE_NONE},
	{-ENODEV, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_LUN_NOT_SUPPORTED},
};

/*
 * SBC-3 §4.18.1: where the first block is that it concerns. Of several a device does not say which
 * one, and so nothing is VALID (SPC-4 §4.5.3).
 */
static __attribute__((noinline)) void
fail(struct scsi_task *task, int error)
{
	const struct bdev_request *rq = (const struct bdev_request *)task->request;
	uint8_t shift = task->channel->unit->block_shift;
	struct scsi_sense sense = {
		.key = SCSI_KEY_MEDIUM_ERROR,
		.code = rq->type == BDEV_READ ? SCSI_CODE_UNRECOVERED_READ_ERROR
					      : SCSI_CODE_WRITE_ERROR,
		.information = rq->offset >> shift,
	};

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].status == error)
			sense = (struct scsi_sense){.key = errors[i].key, .code = errors[i].code};
	}
	sense.has_information = sense.key == SCSI_KEY_MEDIUM_ERROR && rq->length == 1ull << shift;
	if (error == -ENOMEM)
		task->status = SCSI_BUSY;
	else
		scsi_check_condition(task, &sense);
	task->transferred_in = 0;
	scsi_finish(task);
}

void
scsi_io_done(struct bdev_request *rq, int status)
{
	struct scsi_task *task = scsi_task_of_request(rq);

	if (likely(status == 0))
		scsi_finish(task);
	else
		fail(task, status);
}

/* ---- commands that run elsewhere, or alone ---- */

static void
finish_back(void *arg)
{
	scsi_finish(arg);
}

void
scsi_task_back(struct scsi_task *task)
{
	thread_send(task->origin, &task->msg, finish_back, task);
}

void
scsi_task_send(struct scsi_task *task, thread_fn fn)
{
	task->origin = thread_current();
	thread_send(task->target->app, &task->msg, fn, task);
}

/* Differences, so that nothing wraps. */
static bool
is_excluded(const struct scsi_unit *unit, const struct scsi_task *task)
{
	uint64_t lba = load(unit->exclusive_lba), blocks = load(unit->exclusive_blocks);

	return blocks != 0 && task->blocks != 0 &&
	       (task->lba - lba < blocks || lba - task->lba < task->blocks);
}

static bool
waits_for_range(const struct scsi_walk *walk, const struct scsi_task *task)
{
	return !task->in_line && is_excluded(walk->unit, task);
}

/* A copy that has begun counts as the reads and writes that it does. */
static bool
waits_for_begun(const struct scsi_walk *walk, const struct scsi_task *task)
{
	(void)walk;
	return !task->in_line && task->command->run != scsi_run_extended_copy;
}

/* ---- data ---- */

bool
scsi_data_in(struct scsi_task *task, const void *data, size_t length, uint64_t allocation)
{
	if (length > allocation)
		length = (size_t)allocation;
	if (length > task->in_bytes)
		return scsi_overrun(task);
	task->transferred_in = iovecs_copy(task->in, task->in_count, 0, (void *)data, length, true);
	return true;
}

bool
scsi_take_data_out(struct scsi_task *task, uint32_t length, uint32_t room)
{
	if (length > task->out_bytes)
		return !scsi_overrun(task);
	task->buffer = calloc(1, (size_t)room + length + 1);
	if (task->buffer == NULL) {
		task->status = SCSI_BUSY;
		return false;
	}
	task->transferred_out =
		iovecs_copy(task->out, task->out_count, 0, task->buffer + room, length, false);
	return true;
}

/* ---- what all commands go through; false: the task has its status ---- */

/* Bits that are set and not looked at: reserved, or for what is not supported here, as ACA is. */
static bool
check_usage(struct scsi_task *task, const struct scsi_command *command)
{
	uint16_t byte = 0;
	uint8_t bits = 0;

	for (; byte < sizeof(command->usage); byte++) {
		bits = task->cdb[byte] & (uint8_t)~command->usage[byte];
		if (bits != 0)
			return !scsi_refuse_cdb(task, byte, 31 - __builtin_clz(bits));
	}
	if (task->cdb_length < command->length)
		return !scsi_refuse_cdb(task, task->cdb_length, -1);
	return task->attribute != SCSI_ACA || !scsi_illegal(task, SCSI_CODE_INVALID_MESSAGE);
}

/* What the CDB says may make it pass (SPC-4 §5.13.1, SBC-3 §4.17). */
static bool
conflicts(const struct scsi_task *task, const struct scsi_command *command)
{
	uint16_t passes = task->cdb[4] & 1 ? SCSI_CMD_PASSES_1 : SCSI_CMD_PASSES_0;

	return load(task->lun->conflicts) >> command->access & 1 && !(command->flags & passes);
}

/*
 * In the order of SAM-5 §5.3.3: conflicts come before all others. Again when a task that was in line
 * begins: what came before it may have reserved or protected the disk.
 */
static bool
check_alerts(struct scsi_task *task, const struct scsi_command *command, bool again)
{
	uint32_t alerts = load(task->lun->alerts);
	uint16_t attention = 0;

	if (alerts & SCSI_ALERT_GONE)
		return !scsi_illegal(task, SCSI_CODE_LUN_NOT_SUPPORTED);
	if (alerts & SCSI_ALERT_CONFLICTS && conflicts(task, command)) {
		task->status = SCSI_RESERVATION_CONFLICT;
		return false;
	}
	if (!again && !(command->flags & SCSI_CMD_NO_UA) && task->done != scsi_copied)
		attention = scsi_attention_take(task->lun);
	if (attention != 0)
		return !scsi_refuse(task, SCSI_KEY_UNIT_ATTENTION, attention);
	if (!check_usage(task, command))
		return false;
	if (alerts & SCSI_ALERT_PROTECTED && command->flags & SCSI_CMD_WRITES)
		return !scsi_refuse(task, SCSI_KEY_DATA_PROTECT, SCSI_CODE_WRITE_PROTECTED);
	return true;
}

/* What has run on the app thread comes here to have the cache written. */
static void
start_here(void *arg)
{
	struct scsi_task *task = arg;
	struct scsi_channel *channel = task->channel;
	bool runs = !(task->command->flags & SCSI_CMD_APP);

	task->in_line = false;
	task->late_ticks = thread_now(channel->thread);
	if (runs && load(task->aborted))
		scsi_io_done((struct bdev_request *)task->request, -ECANCELED);
	else if (runs ? !check_alerts(task, task->command, true) || task->command->run(task)
		      : scsi_run_synchronize_cache(task))
		scsi_finish(task);
	bdev_flush_submissions(channel->bdev);
}

void
scsi_run_to_its_end(struct scsi_task *task)
{
	task->stage = SCSI_STAGE_AWAITED;
	task->returned = false;
	thread_send(task->origin, &task->msg, start_here, task);
	scsi_unit_wait(task->lun->unit, &task->returned);
}

/*
 * [waits] Nobody else touches the range of one that is EXCLUSIVE, and an ORDERED one (SAM-5 §8.6)
 * begins when all that began before it has ended; what comes meanwhile is in line behind it.
 */
static void
take_turn(struct scsi_task *task, bool ordered)
{
	uint16_t flags = task->command->flags & (SCSI_CMD_APP | SCSI_CMD_EXCLUSIVE);
	struct scsi_walk walk = {.waits_for = ordered ? waits_for_begun : waits_for_range};
	struct scsi_unit *unit = task->lun->unit;

	if (flags & SCSI_CMD_EXCLUSIVE) {
		atomic_store(&unit->exclusive_lba, task->lba);
		atomic_store(&unit->exclusive_blocks, task->blocks);
	}
	if (ordered || flags & SCSI_CMD_EXCLUSIVE)
		scsi_unit_walk(unit, &walk);
	if (!load(task->aborted)) {
		if (!(flags & SCSI_CMD_APP))
			scsi_run_to_its_end(task);
		else if (check_alerts(task, task->command, true))
			task->command->run(task);
		if (flags != 0 && task->status == SCSI_GOOD)
			task->stage = SCSI_STAGE_DONE;
	}
	atomic_store(&unit->exclusive_blocks, 0);
}

/* One that is aborted before its turn counts as over. */
void
scsi_task_run(struct scsi_task *task)
{
	bool ordered = task->attribute == SCSI_ORDERED;
	bool waits = ordered || task->command->flags & (SCSI_CMD_APP | SCSI_CMD_EXCLUSIVE);

	if (waits && !load(task->aborted))
		take_turn(task, ordered);
	if (ordered)
		atomic_fetch_sub(&task->lun->unit->ordered, 1);
	thread_send(task->origin, &task->msg, waits ? finish_back : start_here, task);
}

/* Where the range is, by the length of the CDB; SBC-3 §4.1: within the disk. */
static inline bool
parse_range(struct scsi_task *task, const struct scsi_command *command)
{
	const struct scsi_unit *unit = task->channel->unit;
	const uint8_t *cdb = task->cdb;

	if (likely(command->length == 10)) {
		task->lba = get_be32(cdb + 2);
		task->blocks = get_be16(cdb + 7);
	} else if (command->length == 16) {
		task->lba = get_be64(cdb + 2);
		task->blocks = get_be32(cdb + 10);
	} else if (command->length == 12) {
		task->lba = get_be32(cdb + 2);
		task->blocks = get_be32(cdb + 6);
	} else {
		task->lba = get_be24(cdb + 1) & 0x1fffff;
		task->blocks = cdb[4] != 0 ? cdb[4] : 256;
	}
	return likely(scsi_unit_has(unit, task->lba, task->blocks)) ||
	       !scsi_illegal(task, SCSI_CODE_LBA_OUT_OF_RANGE);
}

/* There is no logical unit but, perhaps, the well-known one: SPC-4 §6.6.1, §6.33, §6.39, §8.2. */
static void
submit_without_unit(struct scsi_task *task, const struct scsi_command *command)
{
	bool known = task->lun != NULL;
	uint16_t needed = SCSI_CMD_NO_LUN | (known ? SCSI_CMD_WELL_KNOWN : 0);

	if (command == NULL || !(command->flags & needed))
		scsi_illegal(task, known ? SCSI_CODE_INVALID_OPCODE : SCSI_CODE_LUN_NOT_SUPPORTED);
	else if (check_usage(task, command) && !command->run(task))
		return;
	scsi_finish(task);
}

/*
 * While another task needs the range alone, this one gets in line, and so it does behind an ORDERED
 * one, but for HEAD OF QUEUE and what a copy does.
 */
static void
dispatch(struct scsi_task *task, const struct scsi_command *command)
{
	struct scsi_unit *unit = task->channel->unit;
	bool waits = task->attribute != SCSI_HEAD_OF_QUEUE && task->done != scsi_copied;

	if (task->attribute == SCSI_ORDERED)
		atomic_fetch_add(&unit->ordered, 1);
	task->in_line = command->flags & (SCSI_CMD_APP | SCSI_CMD_EXCLUSIVE) ||
			(waits && load(unit->ordered) != 0) || is_excluded(unit, task);
	if (task->in_line)
		scsi_task_send(task, scsi_unit_line_up);
	else if (command->run(task))
		scsi_finish(task);
}

/* False: the task has its status. */
static bool
check(struct scsi_task *task, const struct scsi_command *command)
{
	if (command == NULL && scsi_commands[task->cdb[0]] != NULL)
		return !scsi_refuse_cdb(task, 1, 4);
	if (command == NULL || command->flags & task->channel->unit->lacks)
		return !refuse_field(task, SCSI_CODE_INVALID_OPCODE, true, 0, -1);
	if (!check_alerts(task, command, false))
		return false;
	/* UNMAP's ranges are in its list. */
	if (command->flags & SCSI_CMD_DISCARD)
		task->blocks = UINT64_MAX;
	if (command->flags & SCSI_CMD_RANGE && !parse_range(task, command))
		return false;
	if (command->flags & SCSI_CMD_TO_END && task->blocks == 0)
		task->blocks = load(task->channel->unit->blocks) - task->lba;
	return true;
}

static __attribute__((noinline)) void
submit_closely(struct scsi_task *task)
{
	task->command = scsi_command_find(task->cdb);
	if (task->channel == NULL)
		submit_without_unit(task, task->command);
	else if (check(task, task->command))
		dispatch(task, task->command);
	else
		scsi_finish(task);
}

/*
 * Whether only its range is left to be looked at, as of nearly each READ and WRITE, since nothing is
 * pending for the LUN and nobody has others wait. The long way would come to the same.
 */
static inline bool
is_plain(const struct scsi_task *task, const struct scsi_command *command)
{
	return command != NULL && (command->flags & ~SCSI_CMD_WRITES) == SCSI_CMD_RANGE &&
	       !(load(task->channel->unit->exclusive_blocks) |
		 load(task->channel->unit->ordered)) &&
	       load(task->lun->alerts) == 0 && task->attribute == SCSI_SIMPLE &&
	       /* No bit of the CDB is out of those in usage; SSE4.1 is what DPDK needs, too. */
	       _mm_testc_si128(_mm_loadu_si128((const __m128i *)command->usage),
			       _mm_loadu_si128((const __m128i *)task->cdb)) &&
	       task->cdb_length >= command->length;
}

void
scsi_submit(struct scsi_task *task)
{
	const struct scsi_command *command = scsi_commands[task->cdb[0]];
	struct scsi_channel *channel = task->channel;

	/* All that is to be zeroes is there, and so takes four stores. */
	memset((char *)task + offsetof(struct scsi_task, transferred_in), 0,
	       offsetof(struct scsi_task, command) - offsetof(struct scsi_task, transferred_in));
	if (likely(channel != NULL))
		LIST_INSERT_HEAD(&channel->in_flight, task, link);
	if (unlikely(channel == NULL || !is_plain(task, command))) {
		submit_closely(task);
	} else {
		task->command = command;
		if (!parse_range(task, command) || command->run(task))
			scsi_finish(task);
	}
}
