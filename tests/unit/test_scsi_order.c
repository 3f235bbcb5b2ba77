/* SPDX-License-Identifier: BSD-3-Clause */
/* Task attributes (SAM-5 §8.6), and what waits for what in a logical unit's line. */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include "scsi_rig.h"

static uint8_t data[4096];

/* Does not wait. */
static struct command *
start(int who, struct iscsi_task *made, size_t out_size, size_t in_size,
      enum scsi_attribute attribute)
{
	struct command *command = begin(who, made, data, out_size, in_size);

	command->task->attribute = (uint8_t)attribute;
	command_submit(who, command);
	rig_settle();
	return command;
}

static struct command *
start_write(int who, uint32_t lba, enum scsi_attribute attribute)
{
	return start(who, scsi_cdb_write10(lba, 512, 512, 0, 0, 0, 0, 0), 512, 0, attribute);
}

/* How many requests the disk got, and where the last one was. */
static void
expect_begun(unsigned int requests, uint64_t lba)
{
	assert_int_equal(fake.logged, requests);
	assert_int_equal(fake.log[requests - 1].offset, lba * FAKE_BLOCK);
}

/* All goes its straight way again: what waited or was alone has left nothing behind. */
static void
expect_straight_way(void)
{
	struct command *command =
		begin(A, scsi_cdb_write10(5, 512, 512, 0, 0, 0, 0, 0), data, 512, 0);

	fake.delayed = false;
	command_submit(A, command);
	assert_true(command->finished);
	expect_good(command);
}

/* The disk has done what it got first, which was that thread's. */
static void
complete(int who)
{
	assert_true(fake_complete_one(rig_io[who]));
	rig_settle();
}

/* ---- ORDERED ---- */

static void
test_ordered(void **state)
{
	struct command *before[2], *ordered, *behind[2];

	(void)state;
	fake.delayed = true;
	before[0] = start_write(A, 0, SCSI_SIMPLE);
	before[1] = start_write(B, 1, SCSI_SIMPLE);
	ordered = start_write(A, 2, SCSI_ORDERED);
	behind[0] = start_write(A, 3, SCSI_SIMPLE);
	behind[1] = start_write(B, 4, SCSI_SIMPLE);
	expect_begun(2, 1);
	complete(A);
	expect_begun(2, 1);
	complete(B);
	expect_begun(3, 2);
	complete(A);
	assert_true(ordered->finished);
	assert_int_equal(fake.logged, 5);
	complete(A);
	complete(B);
	for (int i = 0; i < 2; i++) {
		expect_good(before[i]);
		expect_good(behind[i]);
	}
	expect_good(ordered);
	expect_straight_way();
}

/* One that is read behind it gets what it wrote, also when all come at once. */
static void
test_at_once(void **state)
{
	struct command *ordered[2], *behind[2];

	(void)state;
	fake.delayed = true;
	for (int i = 0; i < 2; i++) {
		ordered[i] = begin(A, scsi_cdb_write10(2 * (uint32_t)i, 512, 512, 0, 0, 0, 0, 0),
				   data, 512, 0);
		ordered[i]->task->attribute = SCSI_ORDERED;
		behind[i] = begin(A, scsi_cdb_write10(2 * (uint32_t)i + 1, 512, 512, 0, 0, 0, 0, 0),
				  data, 512, 0);
		command_submit(A, ordered[i]);
		command_submit(A, behind[i]);
	}
	for (unsigned int i = 0; i < 4; i++) {
		rig_settle();
		expect_begun(i + 1, i);
		complete(A);
	}
	for (int i = 0; i < 2; i++) {
		expect_good(ordered[i]);
		expect_good(behind[i]);
	}
}

/* Without a range, of the app thread's, answering elsewhere, wanting to be alone. */
static struct command *
start_ordered(unsigned int kind)
{
	switch (kind) {
	case 0:
		return start(B, scsi_cdb_testunitready(), 0, 0, SCSI_ORDERED);
	case 1:
		return start(B, scsi_cdb_synchronizecache10(0, 0, 0, 0), 0, 0, SCSI_ORDERED);
	case 2:
		return start(B, scsi_cdb_modesense6(0, 0, 0x3f, 0, 255), 0, 255, SCSI_ORDERED);
	case 3:
		return start(B, scsi_reportluns_cdb(0, 4096), 0, 4096, SCSI_ORDERED);
	case 4:
		return start(B, scsi_cdb_compareandwrite(9, 1024, 512, 0, 0, 0, 0, 0), 1024, 0,
			     SCSI_ORDERED);
	default:
		return NULL;
	}
}

static void
test_ordered_of_all_kinds(void **state)
{
	struct command *before, *ordered, *behind;

	(void)state;
	fake.delayed = true;
	for (unsigned int kind = 0; kind < 5; kind++) {
		fake.logged = 0;
		before = start_write(A, 0, SCSI_SIMPLE);
		ordered = start_ordered(kind);
		behind = start_write(A, 1, SCSI_SIMPLE);
		assert_false(ordered->finished);
		expect_begun(1, 0);
		complete(A);
		while (!ordered->finished) {
			assert_true(fake.log[fake.logged - 1].offset != FAKE_BLOCK);
			complete(B);
		}
		expect_begun(fake.logged, 1);
		complete(A);
		expect_good(before);
		expect_good(ordered);
		expect_good(behind);
	}
}

/* Which is aborted: in line it ends at once, at its turn without a beginning; and lets go all others. */
static void
test_aborted(void **state)
{
	struct command *under_way, *turn, *waiting[3], *behind;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	under_way = start_write(B, 0, SCSI_SIMPLE);
	turn = start_write(A, 1, SCSI_ORDERED);
	waiting[0] = start_write(A, 2, SCSI_ORDERED);
	waiting[1] = start_write(A, 3, SCSI_SIMPLE);
	waiting[2] = start(A, scsi_cdb_modesense6(0, 0, 0x3f, 0, 255), 0, 255, SCSI_ORDERED);
	behind = start_write(B, 4, SCSI_SIMPLE);
	tmf_start(A, &tmf, SCSI_ABORT_TASK_SET, 0);
	rig_settle();
	for (int i = 0; i < 3; i++)
		expect_outcome(waiting[i], SCSI_ABORTED);
	assert_false(turn->finished || tmf.finished);
	expect_begun(1, 0);
	complete(B);
	expect_outcome(turn, SCSI_ABORTED);
	assert_true(tmf.finished);
	expect_begun(2, 4);
	complete(B);
	expect_good(under_way);
	expect_good(behind);
	expect_straight_way();
}

/* The same of one that has begun: it is not over until the disk has done it. */
static void
test_aborted_under_way(void **state)
{
	struct command *ordered, *behind;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	ordered = start_write(A, 1, SCSI_ORDERED);
	behind = start_write(B, 2, SCSI_SIMPLE);
	tmf_start(A, &tmf, SCSI_ABORT_TASK_SET, 0);
	rig_settle();
	assert_false(ordered->finished || tmf.finished);
	expect_begun(1, 1);
	complete(A);
	assert_true(tmf.finished);
	expect_outcome(ordered, SCSI_ABORTED);
	expect_begun(2, 2);
	complete(B);
	expect_good(behind);
}

/* ---- the others ---- */

static void
test_head_of_queue(void **state)
{
	struct command *before, *ordered, *head[2];

	(void)state;
	fake.delayed = true;
	before = start_write(A, 0, SCSI_SIMPLE);
	ordered = start_write(A, 1, SCSI_ORDERED);
	head[0] = start_write(A, 2, SCSI_HEAD_OF_QUEUE);
	expect_begun(2, 2);
	complete(A);
	expect_begun(2, 2);
	complete(A);
	expect_begun(3, 1);
	head[1] = start_write(A, 3, SCSI_HEAD_OF_QUEUE);
	expect_begun(4, 3);
	complete(A);
	complete(A);
	expect_good(before);
	expect_good(ordered);
	expect_good(head[0]);
	expect_good(head[1]);
}

/* There is no ACA: neither the attribute nor the bit in CONTROL that asks for one. */
static void
test_aca(void **state)
{
	static const uint8_t naca[][16] = {
		{0x00, [5] = 0x04}, {0x28, [9] = 0x04}, {0xa8, [11] = 0x04}, {0x88, [15] = 0x04}};
	static const int control[] = {5, 9, 11, 15};
	struct scsi_lun *lun = nexus[A].lun;
	struct scsi_channel *channel = nexus[A].channel;
	struct command *command;

	(void)state;
	for (int i = 0; i < 4; i++)
		expect_field(command_run(A, naca[i], 16, NULL, 0, 0), true, control[i], 2);
	for (int i = 0; i < 3; i++) {
		command = i == 0 ? begin(A, scsi_cdb_inquiry(0, 0, 96), NULL, 0, 96)
				 : begin(A, scsi_cdb_read10(0, 512, 512, 0, 0, 0, 0, 0), NULL, 0,
					 512);
		command->task->attribute = SCSI_ACA;
		command_submit(A, command);
		command_wait(command);
		expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST, 0x4900);
	}
	nexus[A].lun = NULL;
	nexus[A].channel = NULL;
	command = begin(A, scsi_cdb_inquiry(0, 0, 96), NULL, 0, 96);
	command->task->attribute = SCSI_ACA;
	command_submit(A, command);
	command_wait(command);
	expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST, 0x4900);
	nexus[A].lun = lun;
	nexus[A].channel = channel;
	assert_int_equal(fake.logged, 0);
}

static void
test_unknown(void **state)
{
	struct command *command;

	(void)state;
	for (int attribute = SCSI_ACA + 1; attribute <= UINT8_MAX; attribute++) {
		command = begin(A, scsi_cdb_write10(1, 512, 512, 0, 0, 0, 0, 0), data, 512, 0);
		command->task->attribute = (uint8_t)attribute;
		command_submit(A, command);
		assert_true(command->finished);
		expect_good(command);
	}
}

/* ---- the line ---- */

/* WCE goes off, while one that wants to be alone is in line behind it. */
static void
test_exclusive_behind_write_through(void **state)
{
	static const uint8_t no_cache[24] = {[4] = 0x08, 18};
	struct command *mode, *compare;

	(void)state;
	mode = begin(A, scsi_cdb_modeselect6(1, 0, sizeof(no_cache)), no_cache, sizeof(no_cache),
		     0);
	compare = begin(A, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), data, 1024, 0);
	command_submit(A, mode);
	command_submit(A, compare);
	command_wait(mode);
	command_wait(compare);
	expect_good(mode);
	expect_good(compare);
	assert_int_equal(fake.log[0].type, BDEV_FLUSH);
}

/* What waits for its turn begins when it comes, and goes by what holds then. */
static void
test_reserved_meanwhile(void **state)
{
	struct command *before, *ordered, *reservation, *write, *protect;

	(void)state;
	assert_int_equal(reserve(B, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 7), SCSI_GOOD);
	fake.delayed = true;
	before = start_write(A, 0, SCSI_SIMPLE);
	ordered = start_write(A, 1, SCSI_ORDERED);
	reservation = start_reserve(B, SCSI_PERSISTENT_RESERVE_RESERVE,
				    SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE, 7, 0, false);
	rig_settle();
	write = start_write(A, 2, SCSI_SIMPLE);
	protect = start(A, scsi_cdb_modeselect10(1, 0, 0), 0, 0, SCSI_SIMPLE);
	complete(A);
	expect_good(before);
	complete(A);
	expect_good(ordered);
	assert_int_equal(end_reserve(reservation), SCSI_GOOD);
	rig_settle();
	assert_int_equal(fake.logged, 2);
	expect_status(write, SCSI_RESERVATION_CONFLICT);
	expect_status(protect, SCSI_RESERVATION_CONFLICT);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(test_ordered),
		disk_test(test_at_once),
		disk_test(test_ordered_of_all_kinds),
		disk_test(test_aborted),
		disk_test(test_aborted_under_way),
		disk_test(test_head_of_queue),
		disk_test(test_aca),
		disk_test(test_unknown),
		disk_test(test_exclusive_behind_write_through),
		disk_test(test_reserved_meanwhile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
