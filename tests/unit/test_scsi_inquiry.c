/* SPDX-License-Identifier: BSD-3-Clause */
/* What a SCSI disk says of itself: INQUIRY, VPD pages, capacity, LUNs, supported commands. */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include <stdio.h>

#include "scsi_rig.h"

static void
test_standard(void **state)
{
	struct iscsi_task *made = scsi_cdb_inquiry(0, 0, 255);
	struct scsi_inquiry_standard *inquiry = ask(A, made, 255);

	(void)state;
	assert_int_equal(inquiry->qualifier, SCSI_INQUIRY_PERIPHERAL_QUALIFIER_CONNECTED);
	assert_int_equal(inquiry->device_type, SCSI_INQUIRY_PERIPHERAL_DEVICE_TYPE_DIRECT_ACCESS);
	assert_int_equal(inquiry->version, 6);
	assert_int_equal(inquiry->response_data_format, 2);
	assert_int_equal(inquiry->cmdque, 1);
	assert_int_equal(inquiry->protect, 0);
	assert_string_equal(inquiry->vendor_identification, "VHOSTD  ");
	assert_string_equal(inquiry->product_identification, "Fake disk       ");
	assert_int_equal(made->datain.size, 96);
	assert_int_equal(made->datain.size, made->datain.data[4] + 5);
	assert_int_equal(inquiry->version_descriptor[2], SCSI_VERSION_DESCRIPTOR_SBC_3);
	scsi_free_scsi_task(made);
}

/* Each page, at each allocation length: what was asked for, and not a byte more. */
static void
test_allocation_lengths(void **state)
{
	static const uint8_t pages[] = {0x00, 0x80, 0x83, 0x85, 0x86, 0x87,
					0x88, 0x8f, 0xb0, 0xb1, 0xb2};

	(void)state;
	for (size_t i = 0; i < sizeof(pages); i++) {
		struct command *whole = run(A, scsi_cdb_inquiry(1, pages[i], 255), NULL, 0, 255);
		size_t length = whole->task->transferred_in;

		assert_int_equal(whole->task->status, SCSI_GOOD);
		assert_int_equal(length, 4 + (whole->in[2] << 8 | whole->in[3]));
		assert_int_equal(whole->in[1], pages[i]);
		for (size_t part = 0; part <= length; part++) {
			struct command *cut =
				run(A, scsi_cdb_inquiry(1, pages[i], (int)part), NULL, 0, 255);

			assert_int_equal(cut->task->transferred_in, part);
			assert_memory_equal(cut->in, whole->in, part);
			expect_good(cut);
			if (part < length)
				expect_overrun(
					run(A, scsi_cdb_inquiry(1, pages[i], 255), NULL, 0, part));
		}
		command_free(whole);
	}
}

static void
test_vpd_lists(void **state)
{
	struct iscsi_task *made =
		scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_SUPPORTED_VPD_PAGES, 255);
	struct scsi_inquiry_supported_pages *list = ask(A, made, 255);

	(void)state;
	assert_int_equal(list->num_pages, 11);
	for (int i = 0; i < list->num_pages; i++)
		expect_good(run(A, scsi_cdb_inquiry(1, list->pages[i], 255), NULL, 0, 255));
	scsi_free_scsi_task(made);
	expect_field(run(A, scsi_cdb_inquiry(1, 0x81, 255), NULL, 0, 255), true, 2, -1);
	expect_field(run(A, scsi_cdb_inquiry(0, 0x80, 255), NULL, 0, 255), true, 2, -1);
}

static const struct scsi_inquiry_device_designator *
find_designator(const struct scsi_inquiry_device_identification *page, int type)
{
	const struct scsi_inquiry_device_designator *designator = page->designators;

	while (designator != NULL && (int)designator->designator_type != type)
		designator = designator->next;
	assert_non_null(designator);
	return designator;
}

static void
test_identification(void **state)
{
	struct iscsi_task *made =
		scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_DEVICE_IDENTIFICATION, 255);
	struct scsi_inquiry_device_identification *page = ask(A, made, 255);
	const struct scsi_inquiry_device_designator *designator;
	struct iscsi_task *serial_made =
		scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_UNIT_SERIAL_NUMBER, 255);
	struct scsi_inquiry_unit_serial_number *serial = ask(A, serial_made, 255);

	(void)state;
	assert_string_equal(serial->usn, bdev_get_info(fake.bdev)->uuid);
	designator = find_designator(page, SCSI_DESIGNATOR_TYPE_NAA);
	assert_int_equal(designator->designator_length, 8);
	assert_int_equal((uint8_t)designator->designator[0] >> 4, 3);
	assert_int_equal(designator->association, SCSI_ASSOCIATION_LOGICAL_UNIT);
	designator = find_designator(page, SCSI_DESIGNATOR_TYPE_T10_VENDORT_ID);
	assert_int_equal(designator->code_set, SCSI_CODESET_ASCII);
	assert_memory_equal(designator->designator, "VHOSTD  ", 8);
	assert_memory_equal(designator->designator + 8, serial->usn, 36);
	designator = find_designator(page, SCSI_DESIGNATOR_TYPE_RELATIVE_TARGET_PORT);
	assert_int_equal(designator->association, SCSI_ASSOCIATION_TARGET_PORT);
	assert_int_equal(designator->designator[3], 1);
	find_designator(page, 0x0a);
	scsi_free_scsi_task(made);
	scsi_free_scsi_task(serial_made);
}

static void
test_limits(void **state)
{
	struct iscsi_task *made = scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_BLOCK_LIMITS, 255);
	struct scsi_inquiry_block_limits *limits = ask(A, made, 255);
	struct iscsi_task *lbp_made =
		scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_LOGICAL_BLOCK_PROVISIONING, 255);
	struct scsi_inquiry_logical_block_provisioning *lbp = ask(A, lbp_made, 255);
	struct iscsi_task *rotation_made =
		scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_BLOCK_DEVICE_CHARACTERISTICS, 255);
	struct scsi_inquiry_block_device_characteristics *rotation = ask(A, rotation_made, 255);

	(void)state;
	assert_int_equal(made->datain.size, 64);
	assert_int_equal(limits->wsnz, 0);
	assert_int_equal(limits->max_cmp, 255);
	assert_int_equal(limits->opt_gran, 8);
	assert_int_equal(limits->max_unmap, UINT32_MAX);
	assert_int_equal(limits->max_unmap_bdc, 256);
	assert_int_equal(limits->opt_unmap_gran, 8);
	assert_int_equal(limits->ugavalid, 1);
	assert_int_equal(limits->max_ws_len, (256u << 20) / FAKE_BLOCK);
	assert_int_equal(limits->max_atomic_xfer_len, (1u << 20) / FAKE_BLOCK);
	assert_int_equal(limits->atomic_align, 0);
	assert_int_equal(limits->atomic_gran, 0);
	assert_true(limits->max_xfer_len >= limits->max_atomic_xfer_len);
	assert_int_equal(lbp->lbpu, 1);
	assert_int_equal(lbp->lbpws, 1);
	assert_int_equal(lbp->lbpws10, 1);
	assert_int_equal(lbp->lbprz, 0);
	assert_int_equal(lbp->provisioning_type, PROVISIONING_TYPE_THIN);
	assert_int_equal(rotation->medium_rotation_rate, 1);
	scsi_free_scsi_task(made);
	scsi_free_scsi_task(lbp_made);
	scsi_free_scsi_task(rotation_made);
}

static void
test_capacity(void **state)
{
	struct iscsi_task *made = scsi_cdb_readcapacity10(0, 0);
	struct scsi_readcapacity10 *ten = ask(A, made, 8);
	struct iscsi_task *long_made = scsi_cdb_readcapacity16();
	struct scsi_readcapacity16 *sixteen = ask(A, long_made, 96);

	(void)state;
	assert_int_equal(ten->lba, FAKE_BLOCKS - 1);
	assert_int_equal(ten->block_size, FAKE_BLOCK);
	assert_int_equal(sixteen->returned_lba, FAKE_BLOCKS - 1);
	assert_int_equal(sixteen->block_length, FAKE_BLOCK);
	assert_int_equal(sixteen->lbppbe, 3);
	assert_int_equal(sixteen->lbpme, 1);
	assert_int_equal(sixteen->prot_en, 0);
	scsi_free_scsi_task(made);
	scsi_free_scsi_task(long_made);
	expect_overrun(run(A, scsi_cdb_readcapacity10(0, 0), NULL, 0, 7));
}

static void
test_resize(void **state)
{
	struct iscsi_task *made;
	struct scsi_readcapacity16 *capacity;

	(void)state;
	thread_set_current(rig_app);
	assert_int_equal(bdev_resize(fake.bdev, FAKE_BLOCKS - 8), 0);
	thread_set_current(NULL);
	assert_int_equal(nexus[A].resized, 1);
	assert_int_equal(nexus[B].resized, 1);
	/* INQUIRY neither reports nor clears it. */
	expect_good(run(A, scsi_cdb_inquiry(0, 0, 96), NULL, 0, 96));
	expect_attention(A, 0x2a09);
	expect_attention(B, 0x2a09);
	made = scsi_cdb_readcapacity16();
	capacity = ask(A, made, 32);
	assert_int_equal(capacity->returned_lba, FAKE_BLOCKS - 9);
	scsi_free_scsi_task(made);
	expect_sense(
		run(A, scsi_cdb_read10(FAKE_BLOCKS - 8, 512, 512, 0, 0, 0, 0, 0), NULL, 0, 512),
		SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
}

/* ---- LUNs ---- */

static void
test_report_luns(void **state)
{
	struct iscsi_task *made = scsi_reportluns_cdb(0, 1024);
	struct scsi_reportluns_list *list;
	struct scsi_lun *lun[2];
	int rc;

	(void)state;
	lun[0] = lun_add(A, 300, "disk", &rc);
	assert_int_equal(rc, 0);
	lun[1] = lun_add(A, 5, "disk", &rc);
	assert_int_equal(rc, 0);
	assert_null(lun_add(A, 5, "disk", &rc));
	assert_int_equal(rc, -EEXIST);
	assert_null(lun_add(A, SCSI_LUN_NUMBERS, "disk", &rc));
	assert_int_equal(rc, -EINVAL);
	assert_null(lun_add(A, 6, "none", &rc));
	assert_int_equal(rc, -ENODEV);
	/* REPORT LUNS runs in spite of the unit attention, and clears it (SPC-4 §5.14). */
	list = ask(A, made, 1024);
	assert_int_equal(list->num, 3);
	assert_int_equal(list->luns[0], 0);
	assert_int_equal(list->luns[1], 5);
	assert_int_equal(list->luns[2], 0x4000 | 300);
	scsi_free_scsi_task(made);
	expect_good(run(A, scsi_cdb_testunitready(), NULL, 0, 0));
	expect_field(run(A, scsi_reportluns_cdb(0, 15), NULL, 0, 15), true, 6, -1);
	rig_run(lun_remove_run, lun[0]);
	expect_attention(A, 0x3f0e);
	expect_good(run(B, scsi_cdb_testunitready(), NULL, 0, 0));
	rig_run(lun_remove_run, lun[1]);
	clear_attentions(A);
}

static void
test_no_lun(void **state)
{
	struct rig_nexus before = nexus[A];
	struct command *command;

	(void)state;
	nexus[A].lun = NULL;
	nexus[A].channel = NULL;
	command = run(A, scsi_cdb_inquiry(0, 0, 96), NULL, 0, 96);
	assert_int_equal(command->in[0], 0x7f);
	expect_good(command);
	expect_sense(run(A, scsi_cdb_testunitready(), NULL, 0, 0), SCSI_SENSE_ILLEGAL_REQUEST,
		     SCSI_SENSE_ASCQ_LOGICAL_UNIT_NOT_SUPPORTED);
	expect_sense(run(A, scsi_cdb_read10(0, 512, 512, 0, 0, 0, 0, 0), NULL, 0, 512),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LOGICAL_UNIT_NOT_SUPPORTED);
	command = run(A, scsi_reportluns_cdb(0, 64), NULL, 0, 64);
	assert_int_equal(command->in[3], 8);
	expect_good(command);
	nexus[A] = before;
}

/* The well-known logical unit: INQUIRY, REPORT LUNS, TEST UNIT READY, REQUEST SENSE, no more. */
static void
test_well_known(void **state)
{
	struct rig_nexus before = nexus[A];
	struct scsi_reportluns_list *list;
	struct command *command;
	struct iscsi_task *made;

	(void)state;
	made = scsi_reportluns_cdb(2, 64);
	list = ask(A, made, 64);
	assert_int_equal(list->num, 2);
	assert_int_equal(list->luns[0], 0);
	assert_int_equal(list->luns[1], SCSI_LUN_REPORT_LUNS);
	scsi_free_scsi_task(made);
	nexus[A].lun = scsi_lun_well_known();
	nexus[A].channel = NULL;
	made = scsi_reportluns_cdb(1, 64);
	list = ask(A, made, 64);
	assert_int_equal(list->num, 1);
	assert_int_equal(list->luns[0], SCSI_LUN_REPORT_LUNS);
	scsi_free_scsi_task(made);
	command = run(A, scsi_cdb_inquiry(0, 0, 96), NULL, 0, 96);
	assert_int_equal(command->in[0], 0x1e);
	expect_good(command);
	command = run(A, scsi_cdb_inquiry(1, 0, 96), NULL, 0, 96);
	assert_memory_equal(command->in, "\x1e\x00\x00\x02\x00\x83", 6);
	expect_good(command);
	command = run(A, scsi_cdb_inquiry(1, 0x83, 96), NULL, 0, 96);
	assert_memory_equal(command->in, "\x1e\x83\x00\x08\x01\x14\x00\x04", 8);
	expect_good(command);
	expect_field(run(A, scsi_cdb_inquiry(1, 0x80, 96), NULL, 0, 96), true, 2, -1);
	expect_good(run(A, scsi_cdb_testunitready(), NULL, 0, 0));
	command = command_run(A, (uint8_t[]){0x03, 0, 0, 0, 18, 0}, 6, NULL, 0, 18);
	assert_int_equal(command->in[2], 0);
	expect_good(command);
	expect_sense(run(A, scsi_cdb_read10(0, 512, 512, 0, 0, 0, 0, 0), NULL, 0, 512),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_INVALID_OPERATION_CODE);
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
	nexus[A] = before;
}

/* ---- what is supported ---- */

static struct scsi_report_supported_op_codes *
all_commands(struct iscsi_task **made)
{
	*made = scsi_cdb_report_supported_opcodes(0, SCSI_REPORT_SUPPORTING_OPS_ALL, 0, 0, 65535);
	return ask(A, *made, 65535);
}

/*
 * Each command of the table: each bit that its usage data has not is refused, with a pointer to it,
 * and nothing is sent to the block device.
 */
static void
test_reserved_bits(void **state)
{
	struct iscsi_task *all_made, *made;
	struct scsi_report_supported_op_codes *all = all_commands(&all_made);

	(void)state;
	assert_true(all->num_descriptors > 45);
	for (int i = 0; i < all->num_descriptors; i++) {
		struct scsi_command_descriptor *row = &all->descriptors[i];
		struct scsi_report_supported_op_codes_one_command *one;

		made = scsi_cdb_report_supported_opcodes(
			0,
			row->servactv ? SCSI_REPORT_SUPPORTING_SERVICEACTION
				      : SCSI_REPORT_SUPPORTING_OPCODE,
			(enum scsi_opcode)row->opcode, row->sa, 65535);
		one = ask(A, made, 65535);
		assert_int_equal(one->support, 3);
		assert_int_equal(one->cdb_length, row->cdb_len);
		assert_int_equal(one->cdb_usage_data[0], row->opcode);
		for (int bit = 8; bit < one->cdb_length * 8; bit++) {
			uint8_t cdb[16] = {(uint8_t)row->opcode};

			if (row->servactv) {
				cdb[1] = (uint8_t)row->sa;
				if (bit < 13)
					continue;
			}
			if (one->cdb_usage_data[bit / 8] >> bit % 8 & 1)
				continue;
			cdb[bit / 8] |= (uint8_t)(1 << bit % 8);
			expect_field(command_run(A, cdb, sizeof(cdb), NULL, 0, 0), true, bit / 8,
				     bit % 8);
		}
		scsi_free_scsi_task(made);
	}
	assert_int_equal(fake.logged, 0);
	scsi_free_scsi_task(all_made);
}

static void
test_cdb_lengths(void **state)
{
	struct iscsi_task *all_made;
	struct scsi_report_supported_op_codes *all = all_commands(&all_made);

	(void)state;
	for (int i = 0; i < all->num_descriptors; i++) {
		struct scsi_command_descriptor *row = &all->descriptors[i];
		uint8_t cdb[16] = {(uint8_t)row->opcode, row->servactv ? (uint8_t)row->sa : 0};
		struct command *command = command_start(A, cdb, sizeof(cdb), NULL, 0, 0);

		command->task->cdb_length = (uint8_t)(row->cdb_len - 1);
		command_submit(A, command);
		command_wait(command);
		expect_field(command, true, row->cdb_len - 1, -1);
	}
	scsi_free_scsi_task(all_made);
	assert_int_equal(fake.logged, 0);
}

static void
test_unknown(void **state)
{
	static const uint8_t reserve_6[6] = {0x16}, action[16] = {0x9e, 0x1f};

	(void)state;
	expect_sense(command_run(A, reserve_6, sizeof(reserve_6), NULL, 0, 0),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_INVALID_OPERATION_CODE);
	expect_field(command_run(A, action, sizeof(action), NULL, 0, 0), true, 1, 4);
}

static void
test_tmfs(void **state)
{
	static const uint8_t cdb[12] = {0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 64};
	struct command *command = command_run(A, cdb, sizeof(cdb), NULL, 0, 64);

	(void)state;
	assert_int_equal(command->task->transferred_in, 16);
	assert_int_equal(command->in[0], 0xdc);
	assert_int_equal(command->in[1], 0x03);
	expect_good(command);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(test_standard),      disk_test(test_allocation_lengths),
		disk_test(test_vpd_lists),     disk_test(test_identification),
		disk_test(test_limits),        disk_test(test_capacity),
		disk_test(test_resize),        disk_test(test_report_luns),
		disk_test(test_no_lun),        disk_test(test_well_known),
		disk_test(test_reserved_bits), disk_test(test_cdb_lengths),
		disk_test(test_unknown),       disk_test(test_tmfs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
