/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random CDBs with random buffers, from two initiators, made from what the disk says that it
 * supports: each ends once, with a status, and writes nothing behind what it produced.
 */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include <stdio.h>

#include "scsi_rig.h"

#define ROUNDS    20000
#define OUT_SIZE  131072
#define SHIFT_MAX 256

struct row {
	uint8_t opcode, action, length;
	bool has_action;
	uint8_t usage[16];
};

static struct row rows[128];
static int row_count;
static uint64_t seed = 0x5c51;

static uint32_t
next(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33);
}

static void
learn_rows(void)
{
	struct iscsi_task *all_made = scsi_cdb_report_supported_opcodes(
		0, SCSI_REPORT_SUPPORTING_OPS_ALL, SCSI_OPCODE_TESTUNITREADY, 0, 65535);
	struct scsi_report_supported_op_codes *all = ask(A, all_made, 65535);

	for (row_count = 0; row_count < all->num_descriptors; row_count++) {
		struct scsi_command_descriptor *from = &all->descriptors[row_count];
		struct row *row = &rows[row_count];
		struct iscsi_task *made = scsi_cdb_report_supported_opcodes(
			0, from->servactv ? 2 : 1, (enum scsi_opcode)from->opcode, from->sa, 65535);
		struct scsi_report_supported_op_codes_one_command *one = ask(A, made, 65535);

		*row = (struct row){.opcode = from->opcode,
				    .action = (uint8_t)from->sa,
				    .length = (uint8_t)from->cdb_len,
				    .has_action = from->servactv};
		memcpy(row->usage, one->cdb_usage_data, sizeof(row->usage));
		scsi_free_scsi_task(made);
	}
	scsi_free_scsi_task(all_made);
}

/* Most bytes are small, so that ranges fit; few CDBs have bits that they should not have. */
static void
make_cdb(uint8_t cdb[16])
{
	const struct row *row = &rows[next() % (uint32_t)row_count];
	bool wild = next() % 16 == 0;

	memset(cdb, 0, 16);
	for (int i = 1; i < row->length; i++) {
		uint8_t value = next() % 4 == 0 ? (uint8_t)next() : 0;

		cdb[i] = wild ? value : value & row->usage[i];
	}
	cdb[0] = row->opcode;
	if (row->has_action)
		cdb[1] = row->action;
}

static void
test_random(void **state)
{
	uint8_t *data = malloc(OUT_SIZE + SHIFT_MAX), cdb[16];
	unsigned int good = 0, refused = 0, overrun = 0;

	(void)state;
	for (uint32_t i = 0; i < OUT_SIZE + SHIFT_MAX; i++)
		data[i] = next() % 4 == 0 ? (uint8_t)next() : 0;
	learn_rows();
	for (unsigned int i = 0; i < ROUNDS; i++) {
		int who = (int)(next() % 2);
		uint32_t out_size = next() % 4 == 0 ? next() % 64 : OUT_SIZE;
		uint32_t in_size = next() % 4 == 0 ? next() % 64 : 2048;
		struct command *command;

		make_cdb(cdb);
		command = command_start(who, cdb, sizeof(cdb), data + next() % SHIFT_MAX, out_size,
					in_size);
		command->task->cdb_length = (uint8_t)(next() % 64 == 0 ? next() % 17 : 16);
		command_submit(who, command);
		command_wait(command);
		assert_true(command->task->sense_length <= SCSI_SENSE_MAX);
		assert_true(command->task->transferred_in <= in_size);
		assert_true(command->task->transferred_out <= out_size);
		if (command->task->outcome == SCSI_OVERRUN)
			overrun++;
		else if (command->task->status == SCSI_GOOD)
			good++;
		else
			refused++;
		if (command->task->outcome == SCSI_COMPLETE)
			assert_int_equal(command->task->status == SCSI_CHECK_CONDITION,
					 command->task->sense_length != 0);
		command_free(command);
	}
	/* All kinds were there. */
	assert_true(good > ROUNDS / 20);
	assert_true(refused > ROUNDS / 20);
	assert_true(overrun > ROUNDS / 200);
	free(data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {disk_test(test_random)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
