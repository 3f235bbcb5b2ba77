/* SPDX-License-Identifier: BSD-3-Clause */
/* Small commands that only answer: capacity, LUNs, sense, what is supported. */
#include <string.h>

#include "internal.h"

/* SBC-3 §5.12 */
bool
scsi_run_read_capacity_10(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->channel->unit;
	uint64_t last = load(unit->blocks) - 1;
	uint8_t data[8];

	put_be32(data, last < UINT32_MAX ? (uint32_t)last : UINT32_MAX);
	put_be32(data + 4, unit->info.block_size);
	return scsi_data_in(task, data, sizeof(data), sizeof(data));
}

/* SBC-3 §5.13 */
bool
scsi_run_read_capacity_16(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->channel->unit;
	uint8_t data[32] = {0};

	put_be64(data, load(unit->blocks) - 1);
	put_be32(data + 8, unit->info.block_size);
	data[13] = (uint8_t)__builtin_ctz(unit->info.physical_block_size >> unit->block_shift);
	if (unit->can_discard)
		data[14] = 0x80; /* LBPME; what unmapped blocks read as is not known: LBPRZ 0 */
	return scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
}

/* SBC-3 §5.4: block devices do not say what they have mapped: one descriptor, all mapped. */
bool
scsi_run_get_lba_status(struct scsi_task *task)
{
	uint64_t lba = get_be64(task->cdb + 2), blocks = load(task->channel->unit->blocks);
	uint8_t data[24] = {0};

	if (lba >= blocks)
		return scsi_illegal(task, SCSI_CODE_LBA_OUT_OF_RANGE);
	put_be32(data, sizeof(data) - 4);
	put_be64(data + 8, lba);
	put_be32(data + 16, blocks - lba < UINT32_MAX ? (uint32_t)(blocks - lba) : UINT32_MAX);
	return scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
}

/* SBC-3 §5.15: the lists are empty. */
bool
scsi_run_read_defect_data(struct scsi_task *task)
{
	bool ten = task->command->length == 10;
	uint8_t data[8] = {0, task->cdb[ten ? 2 : 1] & 0x1f};
	uint32_t allocation = ten ? get_be16(task->cdb + 7) : get_be32(task->cdb + 6);

	return scsi_data_in(task, data, ten ? 4 : 8, allocation);
}

/* ---- REPORT LUNS, SPC-4 §6.33: the list is the app thread's ---- */

enum select_report { NOT_WELL_KNOWN, WELL_KNOWN_ONLY, ALL_LUNS };

static void
report_luns(void *arg)
{
	struct scsi_task *task = arg;
	uint8_t select = task->cdb[2], data[8 * (SCSI_LUNS_PER_TARGET + 2)] = {0};
	uint32_t length = 8;
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &task->target->luns, target_link) {
		scsi_lun_alert(lun, 0, 1u << SCSI_UA_LUNS_CHANGED);
		/* SAM-5 §4.7: peripheral device addressing, from 256 on flat space addressing. */
		put_be16(data + length, lun->number < 256 ? lun->number : 0x4000 | lun->number);
		length += select == WELL_KNOWN_ONLY ? 0 : 8;
	}
	put_be16(data + length, SCSI_LUN_REPORT_LUNS);
	length += select == NOT_WELL_KNOWN ? 0 : 8;
	put_be32(data, length - 8);
	scsi_data_in(task, data, length, get_be32(task->cdb + 6));
	scsi_task_back(task);
}

bool
scsi_run_report_luns(struct scsi_task *task)
{
	if (task->cdb[2] > ALL_LUNS)
		return scsi_refuse_cdb(task, 2, -1);
	if (get_be32(task->cdb + 6) < 16) /* SPC-4 §6.33: at least 16 */
		return scsi_refuse_cdb(task, 6, -1);
	scsi_task_send(task, report_luns);
	return false;
}

/* ---- REQUEST SENSE, SPC-4 §6.39: the unit attention that is pending, as data ---- */

bool
scsi_run_request_sense(struct scsi_task *task)
{
	struct scsi_sense sense = {.key = SCSI_KEY_NO_SENSE};
	uint8_t data[SCSI_SENSE_MAX];

	if (task->channel != NULL)
		sense.code = scsi_attention_take(task->lun);
	if (sense.code != 0)
		sense.key = SCSI_KEY_UNIT_ATTENTION;
	else if (task->lun == NULL)
		sense = (struct scsi_sense){.key = SCSI_KEY_ILLEGAL_REQUEST,
					    .code = SCSI_CODE_LUN_NOT_SUPPORTED};
	return scsi_data_in(task, data, scsi_sense_put(&sense, task->cdb[1] & 0x01, data),
			    task->cdb[4]);
}

/* ---- REPORT SUPPORTED OPERATION CODES, SPC-4 §6.34 ---- */

#define RCTD          0x80
#define DESCRIPTOR    8
#define TIMEOUTS_SIZE 12

/* Of a command without service actions, of one with them, of either. */
enum reporting_options { REPORT_ALL, REPORT_OPCODE, REPORT_ACTION, REPORT_EITHER };

/* A command timeouts descriptor, in zeroes, that says nothing: how long things take is the disk's. */
static size_t
put_timeouts(const struct scsi_task *task, uint8_t *data)
{
	if (!(task->cdb[2] & RCTD))
		return 0;
	put_be16(data, TIMEOUTS_SIZE - 2);
	return TIMEOUTS_SIZE;
}

static bool
report_all(struct scsi_task *task)
{
	const struct scsi_command *command = NULL;
	uint8_t data[4 + SCSI_COMMANDS_MAX * (DESCRIPTOR + TIMEOUTS_SIZE)] = {0};
	uint8_t has_timeouts = task->cdb[2] & RCTD ? 0x02 : 0;
	size_t at = 4;

	while ((command = scsi_command_next(command)) != NULL) {
		if (command->flags & task->channel->unit->lacks)
			continue;
		data[at] = command->opcode;
		put_be16(data + at + 2, command->action);
		data[at + 5] = has_timeouts | (command->flags & SCSI_CMD_ACTION ? 1 : 0);
		put_be16(data + at + 6, command->length);
		at += DESCRIPTOR + put_timeouts(task, data + at + DESCRIPTOR);
	}
	put_be32(data, (uint32_t)(at - 4));
	return scsi_data_in(task, data, at, get_be32(task->cdb + 6));
}

static bool
report_one(struct scsi_task *task, enum reporting_options options)
{
	uint16_t action = options == REPORT_OPCODE ? 0 : get_be16(task->cdb + 4);
	uint8_t data[4 + 16 + TIMEOUTS_SIZE] = {0, 0x01 /* it is not supported */};
	const struct scsi_command *command =
		scsi_command_find((uint8_t[]){task->cdb[3], (uint8_t)action});
	bool known = scsi_commands[task->cdb[3]] != NULL;
	bool has_action = known && (command == NULL || command->flags & SCSI_CMD_ACTION);
	size_t length = 4;

	if (known && options != REPORT_EITHER && has_action != (options == REPORT_ACTION))
		return scsi_refuse_cdb(task, 2, 2);
	if (command != NULL && command->action == action &&
	    !(command->flags & task->channel->unit->lacks)) {
		data[1] = 0x03; /* as the standard has it */
		put_be16(data + 2, command->length);
		memcpy(data + 4, command->usage, command->length);
		data[4] = command->opcode;
		if (has_action)
			data[5] = (uint8_t)((data[5] & 0xe0) | command->action);
		length += command->length;
		data[1] |= task->cdb[2] & RCTD;
		length += put_timeouts(task, data + length);
	}
	return scsi_data_in(task, data, length, get_be32(task->cdb + 6));
}

bool
scsi_run_report_opcodes(struct scsi_task *task)
{
	uint8_t options = task->cdb[2] & 0x07;

	if (options > REPORT_EITHER)
		return scsi_refuse_cdb(task, 2, 2);
	return options == REPORT_ALL ? report_all(task) : report_one(task, options);
}

/* SPC-4 §6.35: all but CLEAR ACA, TARGET RESET and WAKEUP. */
bool
scsi_run_report_tmfs(struct scsi_task *task)
{
	/* ATS, ATSS, CTSS, LURS, QTS; QTSS, ITNRS */
	uint8_t data[16] = {0x80 | 0x40 | 0x10 | 0x08 | 0x04, 0x02 | 0x01};
	size_t length = task->cdb[2] & 0x80 ? 16 : 4;

	data[3] = (uint8_t)(length - 4);
	return scsi_data_in(task, data, length, get_be32(task->cdb + 6));
}
