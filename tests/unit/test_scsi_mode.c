/* SPDX-License-Identifier: BSD-3-Clause */
/* Mode pages of a SCSI disk: what they say, what may be changed, and what a change does. */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include "scsi_rig.h"

static void
test_pages(void **state)
{
	struct iscsi_task *made = scsi_cdb_modesense10(1, 0, SCSI_MODESENSE_PC_CURRENT,
						       SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255);
	struct scsi_mode_sense *sense = ask(A, made, 255);
	struct scsi_mode_page *page;

	(void)state;
	assert_int_equal(sense->longlba, 1);
	assert_int_equal(sense->block_descriptor_length, 16);
	assert_int_equal(sense->mode_data_length, made->datain.size - 2);
	assert_int_equal(scsi_get_uint64(made->datain.data + 8), FAKE_BLOCKS);
	assert_int_equal(scsi_get_uint32(made->datain.data + 20), FAKE_BLOCK);
	assert_int_equal(sense->device_specific_parameter, 0x10);
	scsi_free_scsi_task(made);

	page = get_page(A, SCSI_MODEPAGE_CACHING, &made);
	assert_int_equal(page->caching.wce, 1);
	assert_int_equal(page->caching.rcd, 0);
	scsi_free_scsi_task(made);
	page = get_page(A, SCSI_MODEPAGE_CONTROL, &made);
	assert_int_equal(page->control.swp, 0);
	assert_int_equal(page->control.d_sense, 0);
	assert_int_equal(page->control.gltsd, 1);
	assert_int_equal(page->control.tst, 0);
	assert_int_equal(page->control.qerr, 0);
	assert_int_equal(page->control.busy_timeout_period, 0xffff);
	scsi_free_scsi_task(made);
	page = get_page(A, SCSI_MODEPAGE_INFORMATIONAL_EXCEPTIONS_CONTROL, &made);
	assert_int_equal(page->iec.dexcpt, 1);
	scsi_free_scsi_task(made);

	expect_sense(
		run(A,
		    scsi_cdb_modesense6(0, SCSI_MODESENSE_PC_SAVED, SCSI_MODEPAGE_CACHING, 0, 255),
		    NULL, 0, 255),
		SCSI_SENSE_ILLEGAL_REQUEST, 0x3900);
	expect_field(run(A,
			 scsi_cdb_modesense6(0, SCSI_MODESENSE_PC_CURRENT,
					     (enum scsi_modesense_page_code)0x19, 0, 255),
			 NULL, 0, 255),
		     true, 2, 5);
}

static void
test_allocation_lengths(void **state)
{
	struct command *whole = run(A,
				    scsi_cdb_modesense6(0, SCSI_MODESENSE_PC_DEFAULT,
							SCSI_MODEPAGE_RETURN_ALL_PAGES, 0xff, 255),
				    NULL, 0, 255);
	size_t length = whole->task->transferred_in;

	(void)state;
	assert_int_equal(length, 4 + 8 + 12 + 20 + 12 + 12);
	for (size_t part = 0; part <= length; part++) {
		struct command *cut = run(A,
					  scsi_cdb_modesense6(0, SCSI_MODESENSE_PC_DEFAULT,
							      SCSI_MODEPAGE_RETURN_ALL_PAGES, 0xff,
							      (unsigned char)part),
					  NULL, 0, 255);

		assert_int_equal(cut->task->transferred_in, part);
		assert_memory_equal(cut->in, whole->in, part);
		expect_good(cut);
	}
	command_free(whole);
}

static void
test_write_protect(void **state)
{
	static const uint8_t data[1024];
	struct iscsi_task *made;
	struct scsi_mode_page *page = get_page(A, SCSI_MODEPAGE_CONTROL, &made);

	(void)state;
	page->control.swp = 1;
	expect_good(select_page(A, page, true));
	/* The others hear of it; who did it does not. */
	expect_good(run(A, scsi_cdb_testunitready(), NULL, 0, 0));
	expect_attention(B, SCSI_SENSE_ASCQ_MODE_PARAMETERS_CHANGED);
	expect_sense(run(B, scsi_cdb_write10(0, 512, 512, 0, 0, 0, 0, 0), data, 512, 0),
		     SCSI_SENSE_DATA_PROTECTION, SCSI_SENSE_ASCQ_WRITE_PROTECTED);
	expect_sense(run(A, scsi_cdb_unmap(0, 0, 24), data, 24, 0), SCSI_SENSE_DATA_PROTECTION,
		     SCSI_SENSE_ASCQ_WRITE_PROTECTED);
	expect_sense(run(A, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), data, 1024, 0),
		     SCSI_SENSE_DATA_PROTECTION, SCSI_SENSE_ASCQ_WRITE_PROTECTED);
	assert_int_equal(fake.logged, 0);
	expect_good(run(A, scsi_cdb_read10(0, 512, 512, 0, 0, 0, 0, 0), NULL, 0, 512));
	page->control.swp = 0;
	expect_good(select_page(A, page, false));
	clear_attentions(B);
	expect_good(run(B, scsi_cdb_write10(0, 512, 512, 0, 0, 0, 0, 0), data, 512, 0));
	scsi_free_scsi_task(made);
}

static void
test_write_cache(void **state)
{
	static const uint8_t data[512];
	struct iscsi_task *made;
	struct scsi_mode_page *page = get_page(A, SCSI_MODEPAGE_CACHING, &made);

	(void)state;
	page->caching.wce = 0;
	expect_good(select_page(A, page, true));
	/* What was in the cache is durable with that. */
	assert_int_equal(fake.logged, 1);
	assert_int_equal(fake.log[0].type, BDEV_FLUSH);
	expect_good(run(A, scsi_cdb_write10(0, 512, 512, 0, 0, 0, 0, 0), data, 512, 0));
	assert_int_equal(fake.log[1].flags, BDEV_FUA);
	fake.logged = 0;
	expect_good(select_page(A, page, true));
	assert_int_equal(fake.logged, 0);
	scsi_free_scsi_task(made);
	/* A reset brings back what was at the beginning. */
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
	clear_attentions(B);
	page = get_page(B, SCSI_MODEPAGE_CACHING, &made);
	assert_int_equal(page->caching.wce, 1);
	scsi_free_scsi_task(made);
}

static void
test_descriptor_sense(void **state)
{
	static const uint8_t unknown[6] = {0xc1};
	struct iscsi_task *made;
	struct scsi_mode_page *page = get_page(A, SCSI_MODEPAGE_CONTROL, &made);
	struct command *command;

	(void)state;
	page->control.d_sense = 1;
	expect_good(select_page(A, page, true));
	scsi_free_scsi_task(made);
	command = command_run(A, unknown, sizeof(unknown), NULL, 0, 0);
	assert_int_equal(command->task->sense[0], SCSI_SENSE_DESCRIPTOR_CURRENT);
	assert_int_equal(command->task->sense_length, 8 + command->task->sense[7]);
	expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_INVALID_OPERATION_CODE);
	/* libiscsi looks for a VALID bit, which only the descriptor of the information has. */
	command = run(A, scsi_cdb_inquiry(1, 0x82, 255), NULL, 0, 255);
	assert_int_equal(command->task->sense_length, 16);
	assert_memory_equal(command->task->sense + 8, "\x02\x06\0\0\xc0\0\x02\0", 8);
	expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_INVALID_FIELD_IN_CDB);
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
}

/* What MODE SENSE gave, sent back, with each byte wrong in turn; and each truncation. */
static void
test_refused(void **state)
{
	static const uint8_t sense_10[10] = {0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0, 255};
	static const uint8_t changeable_10[10] = {0x5a, 0, 0x7f, 0xff, 0, 0, 0, 0, 255};
	struct command *now = command_run(A, sense_10, sizeof(sense_10), NULL, 0, 255);
	struct command *changeable =
		command_run(A, changeable_10, sizeof(changeable_10), NULL, 0, 255);
	uint8_t select[10] = {0x55, 0x10};
	size_t length = now->task->transferred_in;
	uint8_t list[256];

	(void)state;
	memcpy(list, now->in, length);
	list[0] = list[1] = list[3] = 0;
	for (size_t part = 0; part <= length; part++) {
		struct command *command;

		select[8] = (uint8_t)part;
		command = command_run(A, select, sizeof(select), list, part, 0);
		if (part == 0 || part == 16 || part == 28 || part == 48 || part == 60 ||
		    part == length)
			expect_good(command);
		else
			expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST,
				     SCSI_SENSE_ASCQ_PARAMETER_LIST_LENGTH_ERROR);
		if (part < length) {
			select[8] = (uint8_t)length;
			expect_overrun(command_run(A, select, sizeof(select), list, part, 0));
		}
	}
	for (size_t i = 16; i < length; i++) {
		for (int bit = 0; bit < 8; bit++) {
			struct command *command;

			/* PS is reserved here, and codes are other pages' perhaps. */
			if (i == 16 || i == 28 || i == 48 || i == 60 ||
			    changeable->in[i] >> bit & 1)
				continue;
			list[i] ^= (uint8_t)(1 << bit);
			command = command_run(A, select, sizeof(select), list, length, 0);
			check_sense(command, SCSI_SENSE_ILLEGAL_REQUEST,
				    SCSI_SENSE_ASCQ_INVALID_FIELD_IN_PARAMETER_LIST);
			command_free(command);
			list[i] ^= (uint8_t)(1 << bit);
		}
	}
	select[1] = 0x11;
	expect_field(command_run(A, select, sizeof(select), list, length, 0), true, 1, 0);
	select[1] = 0;
	expect_field(command_run(A, select, sizeof(select), list, length, 0), true, 1, 4);
	/* Nothing has changed, and so nobody is told. */
	expect_good(run(B, scsi_cdb_testunitready(), NULL, 0, 0));
	command_free(now);
	now = command_run(A, sense_10, sizeof(sense_10), NULL, 0, 255);
	assert_memory_equal(now->in + 16, list + 16, length - 16);
	command_free(now);
	command_free(changeable);
}

/* A block descriptor's number of blocks is the disk's or 0 as a whole. */
static void
test_block_descriptor(void **state)
{
	static const struct {
		uint64_t blocks;
		bool good;
	} rows[] = {
		{0, true},       {FAKE_BLOCKS, true},
		{0x0155, true}, /* the size that the disk is given below */
		{0x0100, false}, {0x0055, false},
		{1, false},
	};

	(void)state;
	for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
		bool is_long = i % 2;
		uint8_t select[10] = {0x55, 0x10, [8] = is_long ? 24 : 16};
		uint8_t list[24] = {[4] = is_long, [7] = is_long ? 16 : 8};
		uint64_t blocks = rows[i / 2].blocks;
		struct command *command;

		if (blocks == 0x0155) {
			thread_set_current(rig_app);
			assert_int_equal(bdev_resize(fake.bdev, blocks), 0);
			thread_set_current(NULL);
			clear_attentions(A);
		}
		scsi_set_uint32(list + (is_long ? 12 : 8), (uint32_t)blocks);
		scsi_set_uint32(list + (is_long ? 20 : 12), FAKE_BLOCK);
		command = command_run(A, select, sizeof(select), list, select[8], 0);
		if (rows[i / 2].good)
			expect_good(command);
		else
			expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST,
				     SCSI_SENSE_ASCQ_INVALID_FIELD_IN_PARAMETER_LIST);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(test_pages),
		disk_test(test_allocation_lengths),
		disk_test(test_write_protect),
		disk_test(test_write_cache),
		disk_test(test_descriptor_sense),
		disk_test(test_refused),
		disk_test(test_block_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
