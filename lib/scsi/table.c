/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of commands. All that is known of a command before it runs is here: dispatch, checks of
 * the CDB and REPORT SUPPORTED OPERATION CODES come from it.
 */
#include "internal.h"

/*
 * Usage bits, of byte 1 on, by the form of the CDB. The last byte is CONTROL (SAM-5 §5.2: no NACA);
 * what follows is not looked at.
 */
/* clang-format off */
#define REST_6  0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
#define REST_10 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
#define REST_12 0xff, 0xff, 0xff, 0xff
#define LBA     0xff, 0xff, 0xff, 0xff
#define CDB_6(b1, b2, b3, b4)        {0xff, b1, b2, b3, b4, 0, REST_6}
#define LIST_10(b1, b2, b3, b5, b6)  {0xff, b1, b2, b3, 0, b5, b6, 0xff, 0xff, 0, REST_10}
#define LIST_12(b1, b2, b345)        {0xff, b1, b2, b345, b345, b345, LBA, 0, 0, REST_12}
#define LIST_16(b1, b2, lba)         {0xff, b1, b2, lba, lba, lba, lba, lba, lba, lba, LBA, 0, 0}
#define BLOCKS_10(b1)                {0xff, b1, LBA, GROUP, 0xff, 0xff, 0, REST_10}
#define BLOCKS_12(b1)                {0xff, b1, LBA, LBA, GROUP, 0, REST_12}
#define BLOCKS_16(b1, high, low)     {0xff, b1, LBA, LBA, high, high, low, 0xff, GROUP, 0}
/* clang-format on */

/* Group numbers are for statistics that there are none of (SBC-3 §4.22): they are ignored. */
#define GROUP 0x1f
#define DPO   0x10
#define FUA   0x08
/* VERIFY: BYTCHK */
#define BYTCHK 0x06
#define IMMED  0x02

#define READ      SCSI_ACCESS_READ
#define WRITE     SCSI_ACCESS_WRITE
#define ALWAYS    SCSI_ACCESS_ALWAYS
#define ACTION    SCSI_CMD_ACTION
#define WRITES    SCSI_CMD_WRITES
#define NO_UA     SCSI_CMD_NO_UA
#define NO_LUN    SCSI_CMD_NO_LUN
#define APP       SCSI_CMD_APP
#define EXCLUSIVE SCSI_CMD_EXCLUSIVE
#define RANGE     SCSI_CMD_RANGE
#define DISCARD   SCSI_CMD_DISCARD
#define ATOMIC    SCSI_CMD_ATOMIC
#define W_LUN     SCSI_CMD_WELL_KNOWN

/* clang-format off */
#define RESERVE_IN(action) \
	{0x5e, action, 10, ALWAYS, ACTION | APP, LIST_10(0x1f, 0, 0, 0, 0), scsi_run_reserve_in}
#define RESERVE_OUT(action) \
	{0x5f, action, 10, ALWAYS, ACTION | APP, LIST_10(0x1f, 0xff, 0, 0xff, 0xff), scsi_run_reserve_out}

/* Sorted by operation code, and then by service action. */
static const struct scsi_command commands[] = {
	{0x00, 0, 6, ALWAYS, W_LUN, CDB_6(0, 0, 0, 0), scsi_run_nothing},
	{0x03, 0, 6, ALWAYS, NO_UA | NO_LUN, CDB_6(0x01, 0, 0, 0xff), scsi_run_request_sense},
	{0x08, 0, 6, READ, RANGE, CDB_6(0x1f, 0xff, 0xff, 0xff), scsi_run_read},
	{0x0a, 0, 6, WRITE, RANGE | WRITES, CDB_6(0x1f, 0xff, 0xff, 0xff), scsi_run_write},
	{0x12, 0, 6, ALWAYS, NO_UA | NO_LUN, CDB_6(0x01, 0xff, 0xff, 0xff), scsi_run_inquiry},
	{0x15, 0, 6, WRITE, APP, CDB_6(0x11, 0, 0, 0xff), scsi_run_mode_select},
	{0x1a, 0, 6, READ, APP, CDB_6(0x08, 0xff, 0xff, 0xff), scsi_run_mode_sense},
	{0x1b, 0, 6, WRITE, SCSI_CMD_PASSES_1, CDB_6(0x01, 0, 0, 0x05), scsi_run_start_stop},
	{0x1e, 0, 6, WRITE, SCSI_CMD_PASSES_0, CDB_6(0, 0, 0, 0x01), scsi_run_nothing},
	{0x25, 0, 10, ALWAYS, 0, {0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, REST_10}, scsi_run_read_capacity_10},
	{0x28, 0, 10, READ, RANGE, BLOCKS_10(DPO | FUA), scsi_run_read},
	{0x2a, 0, 10, WRITE, RANGE | WRITES, BLOCKS_10(DPO | FUA), scsi_run_write},
	{0x2e, 0, 10, WRITE, RANGE | WRITES, BLOCKS_10(DPO | BYTCHK), scsi_run_write_verify},
	{0x2f, 0, 10, READ, RANGE, BLOCKS_10(DPO | BYTCHK), scsi_run_verify},
	{0x34, 0, 10, READ, RANGE, BLOCKS_10(IMMED), scsi_run_nothing},
	{0x35, 0, 10, WRITE, RANGE, BLOCKS_10(IMMED), scsi_run_synchronize_cache},
	{0x37, 0, 10, READ, 0, LIST_10(0, 0x1f, 0, 0, 0), scsi_run_read_defect_data},
	{0x41, 0, 10, WRITE, RANGE | SCSI_CMD_TO_END | WRITES, BLOCKS_10(0x08), scsi_run_write_same},
	{0x42, 0, 10, WRITE, WRITES | DISCARD, LIST_10(0, 0, 0, 0, GROUP), scsi_run_unmap},
	{0x55, 0, 10, WRITE, APP, LIST_10(0x11, 0, 0, 0, 0), scsi_run_mode_select},
	{0x5a, 0, 10, READ, APP, LIST_10(0x18, 0xff, 0xff, 0, 0), scsi_run_mode_sense},
	RESERVE_IN(0), RESERVE_IN(1), RESERVE_IN(2), RESERVE_IN(3),
	RESERVE_OUT(0), RESERVE_OUT(1), RESERVE_OUT(2), RESERVE_OUT(3),
	RESERVE_OUT(4), RESERVE_OUT(5), RESERVE_OUT(6), RESERVE_OUT(7),
	{0x83, 0, 16, WRITE, ACTION, LIST_16(0x1f, 0, 0), scsi_run_extended_copy},
	{0x84, 0, 16, ALWAYS, ACTION | APP, LIST_16(0x1f, 0xff, 0), scsi_run_copy_status},
	{0x84, 3, 16, ALWAYS, ACTION, LIST_16(0x1f, 0, 0), scsi_run_copy_parameters},
	{0x88, 0, 16, READ, RANGE, BLOCKS_16(DPO | FUA, 0xff, 0xff), scsi_run_read},
	{0x89, 0, 16, WRITE, RANGE | WRITES | EXCLUSIVE, BLOCKS_16(DPO | FUA, 0, 0), scsi_run_compare_and_write},
	{0x8a, 0, 16, WRITE, RANGE | WRITES, BLOCKS_16(DPO | FUA, 0xff, 0xff), scsi_run_write},
	{0x8b, 0, 16, WRITE, RANGE | WRITES | EXCLUSIVE, BLOCKS_16(DPO | FUA, 0xff, 0xff), scsi_run_orwrite},
	{0x8e, 0, 16, WRITE, RANGE | WRITES, BLOCKS_16(DPO | BYTCHK, 0xff, 0xff), scsi_run_write_verify},
	{0x8f, 0, 16, READ, RANGE, BLOCKS_16(DPO | BYTCHK, 0xff, 0xff), scsi_run_verify},
	{0x90, 0, 16, READ, RANGE, BLOCKS_16(IMMED, 0xff, 0xff), scsi_run_nothing},
	{0x91, 0, 16, WRITE, RANGE, BLOCKS_16(IMMED, 0xff, 0xff), scsi_run_synchronize_cache},
	{0x93, 0, 16, WRITE, RANGE | SCSI_CMD_TO_END | WRITES, BLOCKS_16(0x09, 0xff, 0xff), scsi_run_write_same},
	{0x9c, 0, 16, WRITE, RANGE | WRITES | EXCLUSIVE | ATOMIC, BLOCKS_16(DPO | FUA, 0, 0xff), scsi_run_write_atomic},
	{0x9e, 0x10, 16, ALWAYS, ACTION, LIST_16(0x1f, 0, 0), scsi_run_read_capacity_16},
	{0x9e, 0x12, 16, READ, ACTION, LIST_16(0x1f, 0xff, 0xff), scsi_run_get_lba_status},
	{0xa0, 0, 12, ALWAYS, NO_UA | NO_LUN, LIST_12(0, 0xff, 0), scsi_run_report_luns},
	{0xa3, 0x0c, 12, READ, ACTION, LIST_12(0x1f, 0x87, 0xff), scsi_run_report_opcodes},
	{0xa3, 0x0d, 12, READ, ACTION, LIST_12(0x1f, 0x80, 0), scsi_run_report_tmfs},
	{0xa8, 0, 12, READ, RANGE, BLOCKS_12(DPO | FUA), scsi_run_read},
	{0xaa, 0, 12, WRITE, RANGE | WRITES, BLOCKS_12(DPO | FUA), scsi_run_write},
	{0xae, 0, 12, WRITE, RANGE | WRITES, BLOCKS_12(DPO | BYTCHK), scsi_run_write_verify},
	{0xaf, 0, 12, READ, RANGE, BLOCKS_12(DPO | BYTCHK), scsi_run_verify},
	{0xb7, 0, 12, READ, 0, LIST_12(0x1f, 0xff, 0xff), scsi_run_read_defect_data},
};
/* clang-format on */
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))
_Static_assert(COMMANDS <= SCSI_COMMANDS_MAX, "REPORT SUPPORTED OPERATION CODES has room");

const struct scsi_command *scsi_commands[256];

void
scsi_table_init(void)
{
	if (scsi_commands[commands[0].opcode] != NULL)
		return;
	for (size_t i = COMMANDS; i > 0; i--)
		scsi_commands[commands[i - 1].opcode] = &commands[i - 1];
}

const struct scsi_command *
scsi_command_find(const uint8_t *cdb)
{
	const struct scsi_command *command = scsi_commands[cdb[0]];

	if (command == NULL || !(command->flags & SCSI_CMD_ACTION))
		return command;
	for (; command < commands + COMMANDS && command->opcode == cdb[0]; command++) {
		if (command->action == (cdb[1] & 0x1f))
			return command;
	}
	return NULL;
}

const struct scsi_command *
scsi_command_next(const struct scsi_command *command)
{
	command = command == NULL ? commands : command + 1;
	return command < commands + COMMANDS ? command : NULL;
}
