/* SPDX-License-Identifier: BSD-3-Clause */
/* Small commands that only answer: capacity, LUNs, sense, what is supported, logs. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

void
scsi_run_test_unit_ready(struct scsi_task *task)
{
	scsi_finish(task);
}

/* ---- capacity ---- */

/* SBC-3 §5.12 */
void
scsi_run_read_capacity_10(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint64_t last = atomic_load(&unit->blocks) - 1;
	uint8_t data[8];

	put_be32(data, last < UINT32_MAX ? (uint32_t)last : UINT32_MAX);
	put_be32(data + 4, unit->block_size);
	scsi_data_in(task, data, sizeof(data), sizeof(data));
	scsi_finish(task);
}

/* SBC-3 §5.13 */
void
scsi_run_read_capacity_16(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint8_t data[32] = {0};

	put_be64(data, atomic_load(&unit->blocks) - 1);
	put_be32(data + 8, unit->block_size);
	data[13] = (uint8_t)__builtin_ctz(unit->info.physical_block_size >> unit->block_shift);
	if (unit->can_discard)
		data[14] = 0x80; /* LBPME; what unmapped blocks read as is not known: LBPRZ 0 */
	scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
	scsi_finish(task);
}

/* ---- REPORT LUNS, SPC-4 §6.33: the list is the app thread's ---- */

enum select_report {
	NOT_WELL_KNOWN,
	WELL_KNOWN_ONLY,
	ALL_LUNS,
};

static void
luns_reported(void *arg)
{
	scsi_finish(arg);
}

/* SAM-5 §4.7: peripheral device addressing, and flat space addressing from 256 on. */
static uint16_t
lun_field(uint16_t number)
{
	return number < 256 ? number : 0x4000 | number;
}

static void
report_luns(void *arg)
{
	struct scsi_task *task = arg;
	struct scsi_target *target = task->target;
	bool wanted = task->cdb[2] != WELL_KNOWN_ONLY;
	uint32_t length = 8;
	uint8_t *data = calloc(target->count + 2, 8);
	struct scsi_lun *lun;

	if (data == NULL) {
		task->status = SCSI_BUSY;
		scsi_order_back(&task->order, luns_reported, task);
		return;
	}
	TAILQ_FOREACH (lun, &target->luns, target_link) {
		scsi_attention_clear(lun, SCSI_UA_LUNS_CHANGED);
		if (wanted) {
			put_be16(data + length, lun_field(lun->number));
			length += 8;
		}
	}
	if (task->cdb[2] != NOT_WELL_KNOWN) {
		put_be16(data + length, SCSI_LUN_REPORT_LUNS);
		length += 8;
	}
	put_be32(data, length - 8);
	scsi_data_in(task, data, length, get_be32(task->cdb + 6));
	free(data);
	scsi_order_back(&task->order, luns_reported, task);
}

void
scsi_run_report_luns(struct scsi_task *task)
{
	if (task->cdb[2] > ALL_LUNS) {
		scsi_refuse_cdb(task, 2, -1);
		scsi_finish(task);
	} else if (get_be32(task->cdb + 6) < 16) { /* SPC-4 §6.33: at least 16 */
		scsi_refuse_cdb(task, 6, -1);
		scsi_finish(task);
	} else {
		task->order.origin = thread_current();
		thread_send(task->target->app, &task->order.msg, report_luns, task);
	}
}

/* ---- REQUEST SENSE, SPC-4 §6.39: the unit attention that is pending, as data ---- */

void
scsi_run_request_sense(struct scsi_task *task)
{
	struct scsi_sense sense = {.key = SCSI_KEY_ILLEGAL_REQUEST,
				   .code = SCSI_CODE_LUN_NOT_SUPPORTED};
	uint8_t data[SCSI_SENSE_MAX];
	size_t length;

	if (task->lun != NULL) {
		sense.code = task->channel != NULL ? scsi_attention_take(task->lun) : 0;
		sense.key = sense.code != 0 ? SCSI_KEY_UNIT_ATTENTION : SCSI_KEY_NO_SENSE;
	}
	length = scsi_sense_put(&sense, task->cdb[1] & 0x01, data);
	scsi_data_in(task, data, length, task->cdb[4]);
	scsi_finish(task);
}

/* ---- REPORT SUPPORTED OPERATION CODES, SPC-4 §6.34 ---- */

#define RCTD          0x80
#define TIMEOUTS_SIZE 12
#define ONE_MAX       (4 + 16 + TIMEOUTS_SIZE)

/* A command timeouts descriptor that says nothing: how long things take is the disk's. */
static size_t
put_timeouts(uint8_t *data)
{
	memset(data, 0, TIMEOUTS_SIZE);
	put_be16(data, TIMEOUTS_SIZE - 2);
	return TIMEOUTS_SIZE;
}

static void
report_all(struct scsi_task *task, bool timeouts)
{
	const struct scsi_command *command = NULL;
	uint8_t data[4 + SCSI_COMMANDS_MAX * (8 + TIMEOUTS_SIZE)];
	size_t at = 4;

	while ((command = scsi_command_next(command)) != NULL) {
		uint8_t *descriptor = data + at;

		if (!scsi_command_supported(task->lun->unit, command))
			continue;
		memset(descriptor, 0, 8);
		descriptor[0] = command->opcode;
		put_be16(descriptor + 2, command->action);
		descriptor[5] = (timeouts ? 0x02 : 0) | (command->flags & SCSI_CMD_ACTION ? 1 : 0);
		put_be16(descriptor + 6, command->length);
		at += 8;
		if (timeouts)
			at += put_timeouts(data + at);
	}
	put_be32(data, (uint32_t)(at - 4));
	scsi_data_in(task, data, at, get_be32(task->cdb + 6));
}

/*
 * Its row, or NULL: it is not supported, or the CDB is wrong (*refused): the reporting options 1 and
 * 2 are for those without and with service actions, 3 is for both.
 */
static const struct scsi_command *
find_reported(struct scsi_task *task, uint8_t options, bool *refused)
{
	const uint8_t *cdb = task->cdb;
	uint16_t action = options == 1 ? 0 : get_be16(cdb + 4);
	uint8_t wanted[2] = {cdb[3], (uint8_t)action};
	const struct scsi_command *command;
	bool known, has_action;

	command = scsi_command_find(wanted, &known);
	has_action = known && (command == NULL || command->flags & SCSI_CMD_ACTION);
	*refused = known && options != 3 && has_action != (options == 2);
	if (*refused || command == NULL || command->action != action ||
	    !scsi_command_supported(task->lun->unit, command))
		return NULL;
	return command;
}

static void
report_one(struct scsi_task *task, uint8_t options, bool timeouts)
{
	const struct scsi_command *command;
	uint8_t data[ONE_MAX] = {0};
	size_t length = 4;
	bool refused;

	command = find_reported(task, options, &refused);
	if (refused) {
		scsi_refuse_cdb(task, 2, 2);
		return;
	}
	data[1] = command != NULL ? 0x03 : 0x01; /* as the standard has it, or not at all */
	if (command != NULL) {
		put_be16(data + 2, command->length);
		memcpy(data + 4, command->usage, command->length);
		data[4] = command->opcode;
		if (command->flags & SCSI_CMD_ACTION)
			data[5] = (uint8_t)((data[5] & 0xe0) | command->action);
		length += command->length;
		if (timeouts) {
			data[1] |= 0x80;
			length += put_timeouts(data + length);
		}
	}
	scsi_data_in(task, data, length, get_be32(task->cdb + 6));
}

void
scsi_run_report_opcodes(struct scsi_task *task)
{
	uint8_t options = task->cdb[2] & 0x07;
	bool timeouts = task->cdb[2] & RCTD;

	if (options == 0)
		report_all(task, timeouts);
	else if (options <= 3)
		report_one(task, options, timeouts);
	else
		scsi_refuse_cdb(task, 2, 2);
	scsi_finish(task);
}

/* SPC-4 §6.35: all but CLEAR ACA, TARGET RESET and WAKEUP. */
void
scsi_run_report_tmfs(struct scsi_task *task)
{
	/* ATS, ATSS, CTSS, LURS, QTS; QTSS, ITNRS */
	uint8_t data[16] = {0x80 | 0x40 | 0x10 | 0x08 | 0x04, 0x02 | 0x01};
	size_t length = task->cdb[2] & 0x80 ? 16 : 4;

	data[3] = (uint8_t)(length - 4);
	scsi_data_in(task, data, length, get_be32(task->cdb + 6));
	scsi_finish(task);
}

/* ---- READ DEFECT DATA, SBC-3 §5.15: the lists are empty ---- */

void
scsi_run_read_defect_data(struct scsi_task *task)
{
	bool ten = task->command->length == 10;
	uint8_t lists = ten ? task->cdb[2] : task->cdb[1];
	uint8_t data[8] = {0};

	data[1] = lists & 0x1f;
	if (ten)
		scsi_data_in(task, data, 4, get_be16(task->cdb + 7));
	else
		scsi_data_in(task, data, 8, get_be32(task->cdb + 6));
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
	} else {
		blocks -= lba;
		put_be32(data, sizeof(data) - 4);
		put_be64(data + 8, lba);
		put_be32(data + 16, blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX);
		scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
	}
	scsi_finish(task);
}
