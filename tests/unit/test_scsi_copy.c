/* SPDX-License-Identifier: BSD-3-Clause */
/* EXTENDED COPY and RECEIVE COPY RESULTS. */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include "scsi_rig.h"

#define LIST_MAX   2048
#define CSCD_SIZE  32
#define BLOCKS     3000 /* more than a piece */
#define DISK_BYTES (8u << 20)

struct list {
	uint8_t bytes[LIST_MAX];
	uint32_t length, cscds, segments;
};

/* The parameter list, as SPC-4 §6.4.2 has it. */
static void
list_begin(struct list *list, uint8_t id, enum list_id_usage usage)
{
	*list = (struct list){.length = XCOPY_DESC_OFFSET};
	list->bytes[0] = id;
	list->bytes[1] = (uint8_t)(usage << 3);
}

/* The designator of that type, from VPD page 83h. */
static void
add_cscd(struct list *list, int who, int type)
{
	struct iscsi_task *made =
		scsi_cdb_inquiry(1, SCSI_INQUIRY_PAGECODE_DEVICE_IDENTIFICATION, 255);
	struct scsi_inquiry_device_identification *page = ask(who, made, 255);
	const struct scsi_inquiry_device_designator *from = page->designators;
	uint8_t *bytes = list->bytes + list->length;

	while ((int)from->designator_type != type)
		from = from->next;
	bytes[0] = IDENT_DESCR_TGT_DESCR;
	bytes[4] = (uint8_t)from->code_set;
	bytes[5] = (uint8_t)(from->association << 4 | (unsigned int)from->designator_type);
	bytes[7] = (uint8_t)from->designator_length;
	memcpy(bytes + 8, from->designator, (size_t)from->designator_length);
	scsi_set_uint32(bytes + 28, FAKE_BLOCK);
	scsi_free_scsi_task(made);
	list->length += CSCD_SIZE;
	scsi_set_uint16(list->bytes + 2, (uint16_t)(CSCD_SIZE * ++list->cscds));
}

static uint8_t *
add_segment(struct list *list, uint16_t source, uint16_t destination, uint16_t blocks,
	    uint32_t source_lba, uint32_t destination_lba)
{
	uint8_t *bytes = list->bytes + list->length;

	bytes[0] = BLK_TO_BLK_SEG_DESCR;
	scsi_set_uint16(bytes + 2, 24);
	scsi_set_uint16(bytes + 4, source);
	scsi_set_uint16(bytes + 6, destination);
	scsi_set_uint16(bytes + 10, blocks);
	scsi_set_uint32(bytes + 16, source_lba);
	scsi_set_uint32(bytes + 24, destination_lba);
	list->length += 28;
	scsi_set_uint32(list->bytes + 8, 28 * ++list->segments);
	return bytes;
}

static struct command *
copy_start(int who, const struct list *list, uint32_t length)
{
	struct iscsi_task *made = scsi_cdb_extended_copy((int)length);

	return begin(who, made, list->bytes, length, 0);
}

static struct command *
copy(int who, const struct list *list)
{
	struct command *command = copy_start(who, list, list->length);

	command_submit(who, command);
	command_wait(command);
	return command;
}

/* COPY MANAGER STATUS, or -1: nothing is known of it. */
static int
copy_status(int who, uint8_t id, uint16_t segments, uint32_t kibibytes)
{
	struct iscsi_task *made =
		scsi_cdb_receive_copy_results(SCSI_COPY_RESULTS_COPY_STATUS, id, 64);
	struct command *command = command_run(who, made->cdb, (size_t)made->cdb_size, NULL, 0, 64);
	struct scsi_copy_results_copy_status *status;
	int result;

	if (command->task->status != SCSI_GOOD) {
		expect_field(command, true, 2, -1);
		scsi_free_scsi_task(made);
		return -1;
	}
	made->datain.size = (int)command->task->transferred_in;
	made->datain.data = command->in;
	command->in = calloc(1, 1);
	command_free(command);
	status = scsi_datain_unmarshall(made);
	assert_int_equal(status->segments_processed, segments);
	assert_int_equal(status->transfer_count_units, 1);
	assert_int_equal(status->transfer_count, kibibytes);
	result = status->copy_manager_status;
	scsi_free_scsi_task(made);
	return result;
}

static void
fill_disk(void)
{
	for (size_t i = 0; i < FAKE_SIZE; i++)
		fake.memory[i] = (uint8_t)(i * 7 + i / FAKE_BLOCK * 13);
}

/* ---- one disk ---- */

static void
test_copy(void **state)
{
	uint8_t *before = malloc(FAKE_SIZE);
	struct list list;

	(void)state;
	fill_disk();
	memcpy(before, fake.memory, FAKE_SIZE);
	list_begin(&list, 7, LIST_ID_USAGE_HOLD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_cscd(&list, A, 0x0a); /* UUID */
	add_segment(&list, 0, 1, BLOCKS, 1, 5000);
	add_segment(&list, 1, 0, 5, 100, 8);
	add_segment(&list, 0, 0, 0, 0, 0);
	assert_int_equal(copy_status(A, 7, 0, 0), -1);
	expect_good(copy(A, &list));
	memcpy(before + 5000 * FAKE_BLOCK, before + FAKE_BLOCK, BLOCKS * FAKE_BLOCK);
	memcpy(before + 8 * FAKE_BLOCK, before + 100 * FAKE_BLOCK, 5 * FAKE_BLOCK);
	assert_memory_equal(fake.memory, before, FAKE_SIZE);
	/* To who asked for it, once. */
	assert_int_equal(copy_status(B, 7, 0, 0), -1);
	assert_int_equal(copy_status(A, 8, 0, 0), -1);
	assert_int_equal(copy_status(A, 7, 3, (BLOCKS + 5) * FAKE_BLOCK >> 10), 1);
	assert_int_equal(copy_status(A, 7, 0, 0), -1);
	list_begin(&list, 7, LIST_ID_USAGE_DISCARD);
	expect_good(copy(A, &list));
	assert_int_equal(copy_status(A, 7, 0, 0), -1);
	list.length = 0;
	expect_good(copy(A, &list));
	free(before);
}

/* Nothing is copied when anything is wrong. */
static void
test_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
		int key, ascq;
	} rows[] = {
		{1, 0x80, SCSI_SENSE_ILLEGAL_REQUEST, 0x2600},
		{1, 0x08, SCSI_SENSE_ILLEGAL_REQUEST, 0x2600},
		{1, 0x18, SCSI_SENSE_ILLEGAL_REQUEST, 0x2600}, /* no list identifier, but one */
		{15, 1, SCSI_SENSE_ILLEGAL_REQUEST, 0x1a00},   /* inline data */
		{16, 0xe0, SCSI_SENSE_ILLEGAL_REQUEST, 0x2607},
		{17, 0x05, SCSI_SENSE_ILLEGAL_REQUEST, 0x2600}, /* a CD */
		{20, 0x02, SCSI_SENSE_COPY_ABORTED, 0x0d02},    /* designates nothing */
		{24, 0x55, SCSI_SENSE_COPY_ABORTED, 0x0d02}, /* no NAA of ours, whatever the UUID */
		{46, 0x10, SCSI_SENSE_ILLEGAL_REQUEST, 0x2600}, /* another block size */
		{48, 0x03, SCSI_SENSE_ILLEGAL_REQUEST, 0x2609},
		{51, 0x14, SCSI_SENSE_ILLEGAL_REQUEST, 0x2600},
		{53, 1, SCSI_SENSE_COPY_ABORTED, 0x0804},
		{55, 1, SCSI_SENSE_COPY_ABORTED, 0x0804},
		{60, 0xff, SCSI_SENSE_COPY_ABORTED, 0x0000}, /* behind the end */
		{68, 0xff, SCSI_SENSE_COPY_ABORTED, 0x0000},
	};
	struct list list, wrong;

	(void)state;
	list_begin(&list, 1, LIST_ID_USAGE_HOLD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, 8, 0, 8);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		wrong = list;
		wrong.bytes[rows[i].at] = rows[i].value;
		expect_sense(copy(A, &wrong), rows[i].key, rows[i].ascq);
	}
	for (uint32_t length = 1; length < list.length; length++) {
		wrong = list;
		wrong.length = length;
		expect_sense(copy(A, &wrong), SCSI_SENSE_ILLEGAL_REQUEST, 0x1a00);
	}
	wrong = list;
	scsi_set_uint32(wrong.bytes + 8, 27);
	expect_sense(copy(A, &wrong), SCSI_SENSE_ILLEGAL_REQUEST, 0x1a00);
	for (int i = 0; i < 33; i++)
		add_segment(&wrong, 0, 0, 8, 0, 8);
	expect_sense(copy(A, &wrong), SCSI_SENSE_ILLEGAL_REQUEST, 0x2608);
	list_begin(&wrong, 1, LIST_ID_USAGE_HOLD);
	for (int i = 0; i < 17; i++)
		add_cscd(&wrong, A, SCSI_DESIGNATOR_TYPE_NAA);
	expect_sense(copy(A, &wrong), SCSI_SENSE_ILLEGAL_REQUEST, 0x2606);
	assert_int_equal(fake.logged, 0);
	assert_int_equal(copy_status(A, 1, 0, 0), -1);
}

static void
test_parameters(void **state)
{
	struct iscsi_task *made =
		scsi_cdb_receive_copy_results(SCSI_COPY_RESULTS_OP_PARAMS, 0, 255);
	struct scsi_copy_results_op_params *parameters = ask(A, made, 255);

	(void)state;
	assert_int_equal(parameters->max_target_desc_count, 16);
	assert_int_equal(parameters->max_segment_desc_count, 32);
	assert_int_equal(parameters->max_desc_list_length, 16 * 32 + 32 * 28);
	assert_int_equal(parameters->max_inline_data_length, 0);
	assert_int_equal(parameters->max_concurrent_copies, 1);
	assert_int_equal(parameters->impl_desc_list_length, 2);
	assert_int_equal(parameters->imp_desc_type_codes[0], BLK_TO_BLK_SEG_DESCR);
	assert_int_equal(parameters->imp_desc_type_codes[1], IDENT_DESCR_TGT_DESCR);
	scsi_free_scsi_task(made);
}

/* A pending unit attention stays for the initiator. */
static void
test_attention(void **state)
{
	struct list list;

	(void)state;
	list_begin(&list, 0, LIST_ID_USAGE_DISABLE);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, 8, 0, 8);
	fake.delayed = true;
	struct command *command = copy_start(A, &list, list.length);

	command_submit(A, command);
	rig_settle();
	assert_int_equal(tmf_run(B, SCSI_ABORT_TASK_SET, 0), SCSI_FUNCTION_COMPLETE);
	thread_set_current(rig_app);
	scsi_target_reset(nexus[A].target);
	thread_set_current(NULL);
	assert_true(fake_complete_one(rig_app));
	rig_settle();
	assert_true(fake_complete_one(rig_app));
	rig_settle();
	expect_good(command);
	expect_attention(A, 0x2900);
}

/* One at a time. */
static void
test_busy(void **state)
{
	struct command *command;
	struct list list;

	(void)state;
	fake.delayed = true;
	list_begin(&list, 4, LIST_ID_USAGE_HOLD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, 8, 0, 8);
	command = copy_start(A, &list, list.length);
	command_submit(A, command);
	rig_settle();
	assert_int_equal(copy_status(A, 4, 0, 0), 0);
	assert_int_equal(copy_status(A, 4, 0, 0), 0);
	expect_status(copy(A, &list), SCSI_BUSY);
	list.bytes[0] = 9;
	expect_status(copy(A, &list), SCSI_BUSY);
	fake.delayed = false;
	while (fake_complete_one(rig_app))
		rig_settle();
	expect_good(command);
	/* A new one takes the place of what is held. */
	expect_good(copy(A, &list));
	assert_int_equal(copy_status(A, 4, 0, 0), -1);
	assert_int_equal(copy_status(A, 9, 1, 4), 1);
}

/*
 * What a copy reads and writes waits for no ORDERED command, be it itself; but for one that wants the
 * same blocks alone.
 */
static void
test_ordered(void **state)
{
	struct command *copies[2], *compare, *ordered;
	struct list list;
	static uint8_t blocks[1024];

	(void)state;
	fill_disk();
	memcpy(blocks, fake.memory, 512);
	memset(blocks + 512, 0x11, 512);
	list_begin(&list, 4, LIST_ID_USAGE_HOLD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, BLOCKS, 0, 5000);
	fake.delayed = true;
	copies[0] = copy_start(A, &list, list.length);
	command_submit(A, copies[0]);
	rig_settle();
	compare = begin(B, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), blocks, 1024, 0);
	compare->task->attribute = SCSI_ORDERED;
	command_submit(B, compare);
	ordered = begin(A, scsi_cdb_synchronizecache10(0, 0, 0, 0), NULL, 0, 0);
	ordered->task->attribute = SCSI_ORDERED;
	command_submit(A, ordered);
	rig_settle();
	fake.delayed = false;
	while (fake_complete_one(rig_app))
		rig_settle();
	rig_wait(&copies[0]->finished);
	rig_wait(&compare->finished);
	rig_wait(&ordered->finished);
	expect_good(copies[0]);
	expect_good(compare);
	expect_good(ordered);
	copies[1] = copy_start(A, &list, list.length);
	copies[1]->task->attribute = SCSI_ORDERED;
	command_submit(A, copies[1]);
	rig_wait(&copies[1]->finished);
	expect_good(copies[1]);
	assert_memory_equal(fake.memory, fake.memory + 5000 * FAKE_BLOCK, BLOCKS * FAKE_BLOCK);
}

/* ---- ends before its time ---- */

static void
test_reset(void **state)
{
	struct command *command;
	struct rig_tmf reset;
	struct list list;

	(void)state;
	list_begin(&list, 3, LIST_ID_USAGE_HOLD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, BLOCKS, 0, 5000);
	fake.delayed = true;
	command = copy_start(A, &list, list.length);
	command_submit(A, command);
	rig_settle();
	tmf_start(B, &reset, SCSI_LOGICAL_UNIT_RESET, 0);
	rig_settle();
	assert_false(reset.finished);
	assert_true(fake_complete_one(rig_app)); /* the first read */
	rig_settle();
	assert_true(reset.finished);
	assert_true(command->finished);
	assert_int_equal(command->task->outcome, SCSI_RESET);
	assert_int_equal(fake.logged, 1);
	command_free(command);
	clear_attentions(A);
	clear_attentions(B);
	assert_int_equal(copy_status(A, 3, 0, 0), 2);
}

static void
test_failure(void **state)
{
	struct list list;

	(void)state;
	list_begin(&list, 3, LIST_ID_USAGE_HOLD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, BLOCKS, 0, 5000);
	fake.fail_at = 4;
	fake.fail_status = -EIO;
	expect_sense(copy(A, &list), SCSI_SENSE_COPY_ABORTED, 0x0d01);
	assert_int_equal(copy_status(A, 3, 0, 256), 2);
}

/* ---- two disks ---- */

static struct scsi_lun *other_lun;

static const char *other_module;

static void
make_other(void *arg)
{
	const struct bdev_malloc_opts opts = {
		.name = "other", .block_size = 4096, .num_blocks = DISK_BYTES / 4096};
	const struct bdev_null_opts null_opts = {
		.name = "other", .block_size = 4096, .num_blocks = DISK_BYTES / 4096};
	struct bdev *bdev;

	if (strcmp(other_module, "null") == 0)
		*(int *)arg = bdev_null_create(&null_opts, &bdev, &rig_err);
	else
		*(int *)arg = bdev_malloc_create(&opts, &bdev, &rig_err);
}

static int
other_setup(void **state, const char *module)
{
	int rc;

	other_module = module;
	disk_setup(state);
	rig_run(make_other, &rc);
	assert_int_equal(rc, 0);
	other_lun = lun_add(A, 1, "other", &rc);
	assert_int_equal(rc, 0);
	clear_attentions(A);
	return 0;
}

static int
two_setup(void **state)
{
	return other_setup(state, "malloc");
}

static int
null_setup(void **state)
{
	return other_setup(state, "null");
}

static int
two_teardown(void **state)
{
	if (other_lun != NULL)
		rig_run(lun_remove_run, other_lun);
	assert_int_equal(rig_delete("other", other_module), 0);
	return disk_teardown(state);
}

/* To the other disk, sent to that one. */
static void
list_between(struct list *list, uint16_t blocks)
{
	struct rig_nexus before = nexus[A];

	list_begin(list, 1, LIST_ID_USAGE_HOLD);
	add_cscd(list, A, SCSI_DESIGNATOR_TYPE_NAA);
	nexus[A].lun = other_lun;
	thread_set_current(rig_io[A]);
	nexus[A].channel = scsi_channel_get(other_lun);
	thread_set_current(NULL);
	clear_attentions(A);
	add_cscd(list, A, SCSI_DESIGNATOR_TYPE_NAA);
	thread_set_current(rig_io[A]);
	scsi_channel_put(nexus[A].channel);
	thread_set_current(NULL);
	nexus[A] = before;
	scsi_set_uint32(list->bytes + 16 + CSCD_SIZE + 28, 4096);
	add_segment(list, 0, 1, blocks, 16, 3);
}

static void
test_two_disks(void **state)
{
	uint8_t *before = malloc(FAKE_SIZE);
	struct list list;
	uint8_t *segment;

	(void)state;
	fill_disk();
	memcpy(before, fake.memory, FAKE_SIZE);
	list_between(&list, BLOCKS);
	/* And back, in blocks of the destination (DC). */
	segment = add_segment(&list, 1, 0, BLOCKS, 3, 8000);
	segment[1] = 0x02;
	expect_good(copy(A, &list));
	memcpy(before + 8000 * FAKE_BLOCK, before + 16 * FAKE_BLOCK, BLOCKS * FAKE_BLOCK);
	assert_memory_equal(fake.memory, before, FAKE_SIZE);
	/* Not a whole number of the other's blocks. */
	for (uint16_t blocks = 1; blocks < 24; blocks += 1 + (blocks % 8 == 7)) {
		list_between(&list, blocks);
		expect_sense(copy(A, &list), SCSI_SENSE_COPY_ABORTED, 0x260a);
	}
	free(before);
}

/* What a null disk reads is nothing, and so it is not memory of the daemon's that is copied. */
static void
test_null(void **state)
{
	struct list list;

	(void)state;
	fill_disk();
	list_between(&list, 0);
	add_segment(&list, 1, 0, 600, 3, 0);
	expect_good(copy(A, &list));
	for (uint32_t i = 0; i < 600 * 4096; i++)
		assert_int_equal(fake.memory[i], 0);
}

/* The disk has a LUN of another target of the same initiator's, which a reservation keeps out. */
static void
test_own_target(void **state)
{
	struct scsi_target *own = nexus[A].target, *other;
	struct scsi_lun *lun;
	struct list list;
	int rc;

	(void)state;
	fill_disk();
	thread_set_current(rig_app);
	other = nexus[A].target = scsi_target_create("a", 2);
	thread_set_current(NULL);
	lun = lun_add(A, 0, "disk", &rc);
	nexus[A].target = own;
	assert_int_equal(rc, 0);
	list_begin(&list, 1, LIST_ID_USAGE_HOLD);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 7), SCSI_GOOD);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RESERVE,
				 SCSI_PERSISTENT_RESERVE_TYPE_EXCLUSIVE_ACCESS, 7, 0),
			 SCSI_GOOD);
	add_cscd(&list, A, SCSI_DESIGNATOR_TYPE_NAA);
	add_segment(&list, 0, 0, 8, 0, 8);
	expect_good(copy(A, &list));
	assert_memory_equal(fake.memory, fake.memory + 8 * FAKE_BLOCK, 8 * FAKE_BLOCK);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 7, 0), SCSI_GOOD);
	rig_run(lun_remove_run, lun);
	scsi_target_destroy(other);
}

/* Of another initiator: B has not that disk. */
static void
test_foreign(void **state)
{
	struct list list;

	(void)state;
	list_between(&list, 8);
	expect_sense(copy(B, &list), SCSI_SENSE_COPY_ABORTED, 0x0d02);
	assert_int_equal(fake.logged, 0);
}

struct removal {
	struct scsi_lun *lun;
	bool finished;
};

static void
remove_run(void *arg)
{
	struct removal *removal = arg;

	scsi_lun_remove(removal->lun);
	removal->finished = true;
}

/* A LUN that goes takes the copy with it. */
static void
test_removal(void **state)
{
	struct removal removal = {.lun = other_lun};
	struct command *command;
	struct list list;

	(void)state;
	list_between(&list, BLOCKS);
	fake.delayed = true;
	command = copy_start(A, &list, list.length);
	command_submit(A, command);
	rig_settle();
	assert_int_equal(coroutine_start(rig_app, "test", remove_run, &removal), 0);
	rig_settle();
	assert_false(removal.finished);
	assert_true(fake_complete_one(rig_app));
	rig_wait(&removal.finished);
	command_wait(command);
	expect_sense(command, SCSI_SENSE_COPY_ABORTED, 0x0d01);
	other_lun = NULL;
}

#define null_test(fn) cmocka_unit_test_setup_teardown(fn, null_setup, two_teardown)
#define two_test(fn)  cmocka_unit_test_setup_teardown(fn, two_setup, two_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(test_copy),      disk_test(test_refused),  disk_test(test_parameters),
		disk_test(test_attention), disk_test(test_busy),     disk_test(test_reset),
		disk_test(test_failure),   two_test(test_two_disks), two_test(test_foreign),
		two_test(test_removal),    null_test(test_null),     disk_test(test_own_target),
		disk_test(test_ordered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
