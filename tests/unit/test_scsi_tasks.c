/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Several initiators on one SCSI disk: task management, unit attentions, and persistent
 * reservations in what they do to commands.
 */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include <ctype.h>
#include <stdio.h>

#include "scsi_rig.h"

static uint8_t data[4096];

static struct command *
start_write(int who, uint32_t lba, uint64_t tag)
{
	struct command *command =
		begin(who, scsi_cdb_write10(lba, 512, 512, 0, 0, 0, 0, 0), data, 512, 0);

	command->task->tag = tag;
	command_submit(who, command);
	return command;
}

static void
expect_aborted(struct command *command)
{
	expect_outcome(command, SCSI_ABORTED);
}

/* ---- task management ---- */

static void
test_abort_task(void **state)
{
	struct command *first, *second;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	first = start_write(A, 1, 11);
	second = start_write(A, 2, 12);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK, 12), SCSI_FUNCTION_SUCCEEDED);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK, 13), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(tmf_run(B, SCSI_QUERY_TASK, 12), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(tmf_run(B, SCSI_ABORT_TASK, 12), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(tmf_run(A, SCSI_ABORT_TASK, 13), SCSI_FUNCTION_COMPLETE);
	tmf_start(A, &tmf, SCSI_ABORT_TASK, 12);
	rig_settle();
	assert_false(tmf.finished);
	assert_true(fake_complete_one(rig_io[0]));
	rig_settle();
	assert_false(tmf.finished);
	assert_true(fake_complete_one(rig_io[0]));
	assert_true(second->finished);
	rig_settle();
	assert_true(tmf.finished);
	assert_int_equal(tmf.tmf.response, SCSI_FUNCTION_COMPLETE);
	expect_good(first);
	expect_aborted(second);
	expect_good(run(B, scsi_cdb_inquiry(0, 0, 96), NULL, 0, 96));
	expect_good(run(A, scsi_cdb_testunitready(), NULL, 0, 0));
	expect_good(run(B, scsi_cdb_testunitready(), NULL, 0, 0));
}

static void
test_task_sets(void **state)
{
	struct command *own, *other;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	own = start_write(A, 1, 1);
	other = start_write(B, 2, 1);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK_SET, 0), SCSI_FUNCTION_SUCCEEDED);
	tmf_start(A, &tmf, SCSI_ABORT_TASK_SET, 0);
	assert_true(fake_complete_one(rig_io[0]));
	rig_wait(&tmf.finished);
	expect_status(own, SCSI_GOOD); /* it ended before its thread was visited */
	own = start_write(A, 1, 1);
	tmf_start(A, &tmf, SCSI_CLEAR_TASK_SET, 0);
	rig_settle();
	assert_false(tmf.finished);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_false(tmf.finished);
	assert_true(fake_complete_one(rig_io[0]));
	rig_settle();
	assert_true(tmf.finished);
	expect_aborted(own);
	expect_aborted(other);
	expect_good(run(A, scsi_cdb_testunitready(), NULL, 0, 0));
	expect_attention(B, 0x2f00);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK_SET, 0), SCSI_FUNCTION_COMPLETE);
}

static void
test_resets(void **state)
{
	struct command *own, *other;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	own = start_write(A, 1, 1);
	other = start_write(B, 2, 1);
	tmf_start(A, &tmf, SCSI_I_T_NEXUS_RESET, 0);
	rig_settle();
	assert_false(tmf.finished);
	assert_true(fake_complete_one(rig_io[0]));
	rig_settle();
	assert_true(tmf.finished);
	assert_int_equal(tmf.tmf.response, SCSI_FUNCTION_COMPLETE);
	expect_outcome(own, SCSI_RESET);
	assert_false(other->finished);
	expect_attention(A, SCSI_SENSE_ASCQ_NEXUS_LOSS);
	tmf_start(A, &tmf, SCSI_LOGICAL_UNIT_RESET, 0);
	rig_settle();
	assert_false(tmf.finished);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_true(tmf.finished);
	expect_outcome(other, SCSI_RESET);
	expect_attention(A, SCSI_SENSE_ASCQ_BUS_DEVICE_RESET_FUNCTION_OCCURED);
	expect_attention(B, SCSI_SENSE_ASCQ_BUS_DEVICE_RESET_FUNCTION_OCCURED);
	assert_int_equal(tmf_run(A, SCSI_CLEAR_ACA, 0), SCSI_FUNCTION_REJECTED);
	assert_int_equal(tmf_run(A, SCSI_TMF_FUNCTIONS, 0), SCSI_FUNCTION_REJECTED);
}

static void
test_no_lun(void **state)
{
	struct scsi_lun *before = nexus[A].lun;

	(void)state;
	nexus[A].lun = NULL;
	assert_int_equal(tmf_run(A, SCSI_ABORT_TASK, 1), SCSI_INCORRECT_LUN);
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 1), SCSI_INCORRECT_LUN);
	assert_int_equal(tmf_run(A, SCSI_I_T_NEXUS_RESET, 1), SCSI_FUNCTION_COMPLETE);
	nexus[A].lun = before;
	clear_attentions(A);
}

/*
 * Commands that stand in the unit's line, in front of the function or behind it, and are aborted,
 * never begin.
 */
static void
test_abort_waiting(void **state)
{
	struct command *under_way, *compare[2], *mode;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	under_way = start_write(B, 0, 1);
	for (int i = 0; i < 2; i++)
		compare[i] = begin(A, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), data,
				   1024, 0);
	mode = begin(A, scsi_cdb_modesense6(0, 0, 0x3f, 0, 255), NULL, 0, 255);
	command_submit(A, compare[0]);
	rig_settle();
	tmf_start(A, &tmf, SCSI_ABORT_TASK_SET, 0);
	command_submit(A, compare[1]);
	command_submit(A, mode);
	rig_settle();
	assert_int_equal(fake.logged, 1);
	expect_aborted(compare[1]);
	expect_aborted(mode);
	assert_false(tmf.finished); /* the first of them waits to be alone */
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_true(tmf.finished);
	assert_int_equal(fake.logged, 1);
	expect_good(under_way);
	expect_aborted(compare[0]);
}

/* One that waits for the range of another one waits for no device, and so the function for nobody. */
static void
test_abort_excluded(void **state)
{
	struct command *compare, *writes[2], *other;

	(void)state;
	fake.delayed = true;
	compare = begin(B, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), data, 1024, 0);
	command_submit(B, compare);
	rig_settle();
	assert_int_equal(fake.logged, 1); /* it reads */
	for (unsigned int i = 0; i < 2; i++)
		writes[i] = start_write(A, 0, i);
	other = start_write(B, 0, 7);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK, 1), SCSI_FUNCTION_SUCCEEDED);
	assert_int_equal(tmf_run(A, SCSI_ABORT_TASK, 1), SCSI_FUNCTION_COMPLETE);
	expect_aborted(writes[1]);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK, 1), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(fake.logged, 1);
	fake.delayed = false;
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	expect_good(compare);
	expect_good(writes[0]);
	expect_good(other);
}

static void
limit_run(void *arg)
{
	bdev_set_rates(fake.bdev, (const uint64_t[BDEV_RATES]){[BDEV_RATE_IOS] = *(uint64_t *)arg});
}

/* I/Os per second; the first one is in time. */
static void
limit(uint64_t per_second)
{
	rig_run(limit_run, &per_second);
}

/* What a rate limit holds back is not waited for: nobody has it. */
static void
test_abort_limited(void **state)
{
	struct command *writes[4], *other, *verify;

	(void)state;
	limit(1);
	for (unsigned int i = 0; i < 4; i++)
		writes[i] = start_write(A, i, i);
	other = start_write(B, 9, 9);
	expect_good(writes[0]);
	assert_int_equal(tmf_run(A, SCSI_ABORT_TASK, 2), SCSI_FUNCTION_COMPLETE);
	expect_aborted(writes[2]);
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK, 1), SCSI_FUNCTION_SUCCEEDED);
	assert_int_equal(tmf_run(A, SCSI_ABORT_TASK_SET, 0), SCSI_FUNCTION_COMPLETE);
	expect_aborted(writes[1]);
	expect_aborted(writes[3]);
	assert_false(other->finished);
	verify = begin(A, scsi_cdb_verify10(0, 512, 0, 0, 1, 512), data, 512, 0);
	command_submit(A, verify);
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
	expect_outcome(other, SCSI_RESET);
	expect_outcome(verify, SCSI_RESET);
	assert_int_equal(fake.logged, 1);
	limit(0);
	clear_attentions(A);
	clear_attentions(B);
}

/* Commands in several parts, of which the limit has the next one by the time of the function. */
static void
test_abort_between_parts(void **state)
{
	struct command *orwrite, *read;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	limit(1);
	orwrite = command_start(A, (const uint8_t[16]){0x8b, [13] = 1}, 16, data, 512, 0);
	command_submit(A, orwrite);
	read = begin(A, scsi_cdb_read10(8, 512, 512, 0, 0, 1, 0, 0), NULL, 0, 512);
	command_submit(A, read); /* with FUA: a flush comes first */
	rig_settle();
	assert_int_equal(fake.logged, 2);
	tmf_start(A, &tmf, SCSI_ABORT_TASK_SET, 0);
	while (fake_complete_one(rig_io[0]))
		rig_settle();
	rig_settle();
	assert_true(tmf.finished);
	expect_aborted(orwrite);
	expect_aborted(read);
	assert_int_equal(fake.logged, 2);
	limit(0);
}

/* A function of another initiator's, which waits for a device, holds up nobody else's. */
static void
test_functions_at_once(void **state)
{
	struct command *stuck, *write;
	struct rig_tmf tmfs[2];

	(void)state;
	fake.delayed = true;
	stuck = start_write(B, 1, 1);
	tmf_start(B, &tmfs[0], SCSI_ABORT_TASK, 1);
	tmf_start(A, &tmfs[1], SCSI_LOGICAL_UNIT_RESET, 0);
	rig_settle();
	assert_int_equal(tmf_run(A, SCSI_QUERY_TASK_SET, 0), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(tmf_run(A, SCSI_ABORT_TASK_SET, 0), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(tmf_run(B, SCSI_QUERY_TASK, 1), SCSI_FUNCTION_SUCCEEDED);
	write = start_write(A, 2, 2);
	assert_false(tmfs[0].finished || tmfs[1].finished);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_true(tmfs[0].finished && tmfs[1].finished);
	assert_int_equal(tmfs[0].tmf.response, SCSI_FUNCTION_COMPLETE);
	assert_int_equal(tmfs[1].tmf.response, SCSI_FUNCTION_COMPLETE);
	expect_aborted(stuck); /* as the first function says */
	assert_false(write->finished);
	assert_true(fake_complete_one(rig_io[0]));
	expect_good(write);
	fake.delayed = false;
	clear_attentions(A);
	clear_attentions(B);
}

/* What was done and cannot be done again says so, whoever aborts it meanwhile. */
static void
test_too_late(void **state)
{
	struct command *compare;
	struct rig_tmf tmf;

	(void)state;
	fake.delayed = true;
	for (int written = 0; written < 2; written++) {
		compare = begin(A, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), data,
				1024, 0);
		command_submit(A, compare);
		rig_settle();
		if (written)
			assert_true(fake_complete_one(rig_io[0]));
		tmf_start(B, &tmf, SCSI_CLEAR_TASK_SET, 0);
		rig_settle();
		assert_true(fake_complete_one(rig_io[0]));
		rig_settle();
		assert_true(tmf.finished);
		assert_false(fake_complete_one(rig_io[0]));
		expect_outcome(compare, written ? SCSI_COMPLETE : SCSI_ABORTED);
		expect_attention(A, 0x2f00);
	}
}

/* One of 0 blocks wants nothing for itself, and so waits for nobody. */
static void
test_exclusive_of_none(void **state)
{
	static const uint8_t orwrite[16] = {0x8b, [9] = 1};
	struct command *under_way, *compare;

	(void)state;
	fake.delayed = true;
	under_way = start_write(A, 1, 1);
	compare = begin(B, scsi_cdb_compareandwrite(1, 0, 512, 0, 0, 0, 0, 0), NULL, 0, 0);
	command_submit(B, compare);
	rig_settle();
	assert_true(compare->finished);
	expect_good(compare);
	compare = command_start(B, orwrite, sizeof(orwrite), NULL, 0, 0);
	command_submit(B, compare);
	rig_settle();
	assert_true(compare->finished);
	expect_good(compare);
	assert_true(fake_complete_one(rig_io[0]));
	expect_good(under_way);
}

/* ---- unit attentions ---- */

static void
test_attentions(void **state)
{
	struct command *command;
	struct scsi_sense sense;

	(void)state;
	thread_set_current(rig_app);
	scsi_target_reset(nexus[A].target);
	assert_int_equal(bdev_resize(fake.bdev, FAKE_BLOCKS - 1), 0);
	thread_set_current(NULL);
	/* REQUEST SENSE has the first one as its data. */
	command = command_run(A, (uint8_t[6]){0x03, 0, 0, 0, 64}, 6, NULL, 0, 64);
	assert_int_equal(command->task->status, SCSI_GOOD);
	scsi_parse_sense_data(&sense, command->in);
	assert_int_equal(sense.key, SCSI_SENSE_UNIT_ATTENTION);
	assert_int_equal(sense.ascq, SCSI_SENSE_ASCQ_BUS_RESET);
	command_free(command);
	expect_attention(A, SCSI_SENSE_ASCQ_CAPACITY_DATA_HAS_CHANGED);
	expect_good(run(A, scsi_cdb_testunitready(), NULL, 0, 0));
	command = command_run(A, (uint8_t[6]){0x03, 1, 0, 0, 64}, 6, NULL, 0, 64);
	assert_int_equal(command->in[0], SCSI_SENSE_DESCRIPTOR_CURRENT);
	assert_int_equal(command->in[1], SCSI_SENSE_NO_SENSE);
	expect_good(command);
	expect_attention(B, SCSI_SENSE_ASCQ_CAPACITY_DATA_HAS_CHANGED);
}

/* ---- reservations ---- */

static void
test_conflicts(void **state)
{
	struct iscsi_task *made;
	struct scsi_persistent_reserve_in_read_keys *keys;

	(void)state;
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 0xa), SCSI_GOOD);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 0xa, 0), SCSI_GOOD);
	expect_good(run(A, write_one_block(), data, 512, 0));
	expect_status(run(B, write_one_block(), data, 512, 0), SCSI_RESERVATION_CONFLICT);
	expect_good(run(B, read_one_block(), NULL, 0, 512));
	expect_good(run(B, scsi_cdb_startstopunit(0, 0, 0, 0, 0, 1), NULL, 0, 0));
	expect_status(run(B, scsi_cdb_startstopunit(0, 0, 0, 0, 0, 0), NULL, 0, 0),
		      SCSI_RESERVATION_CONFLICT);
	expect_good(run(B, scsi_cdb_preventallow(0), NULL, 0, 0));
	expect_status(run(B, scsi_cdb_preventallow(1), NULL, 0, 0), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(reserve(B, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 0, 0),
			 SCSI_RESERVATION_CONFLICT);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RELEASE, 1, 0xa, 0), SCSI_GOOD);
	expect_good(run(B, write_one_block(), data, 512, 0));
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RESERVE, 3, 0xa, 0), SCSI_GOOD);
	expect_status(run(B, read_one_block(), NULL, 0, 512), SCSI_RESERVATION_CONFLICT);
	expect_good(run(B, scsi_cdb_testunitready(), NULL, 0, 0));
	made = scsi_cdb_persistent_reserve_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, 255);
	keys = ask(B, made, 255);
	assert_int_equal(keys->num_keys, 1);
	assert_int_equal(keys->keys[0], 0xa);
	scsi_free_scsi_task(made);
	/* It outlives resets. */
	assert_int_equal(tmf_run(B, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
	clear_attentions(B);
	clear_attentions(A);
	expect_status(run(B, read_one_block(), NULL, 0, 512), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 0xa, 0), SCSI_GOOD);
	expect_good(run(B, read_one_block(), NULL, 0, 512));
}

/* PREEMPT AND ABORT ends when the writes of the other one have, and none begins after it. */
static void
test_preempt_and_abort(void **state)
{
	struct command *writes[3], *preempt, *late;

	(void)state;
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 0xa), SCSI_GOOD);
	assert_int_equal(reserve(B, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 0xb), SCSI_GOOD);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RESERVE, 5, 0xa, 0), SCSI_GOOD);
	fake.delayed = true;
	for (unsigned int i = 0; i < 3; i++)
		writes[i] = start_write(A, i, i);
	preempt = start_reserve(B, SCSI_PERSISTENT_RESERVE_PREEMPT_AND_ABORT, 5, 0xb, 0xa, false);
	rig_settle();
	assert_false(preempt->finished);
	late = start_write(A, 9, 9);
	assert_true(late->finished);
	expect_status(late, SCSI_RESERVATION_CONFLICT);
	for (int i = 0; i < 3; i++) {
		assert_false(preempt->finished);
		assert_true(fake_complete_one(rig_io[0]));
		expect_aborted(writes[i]);
		rig_settle();
	}
	assert_true(preempt->finished);
	assert_int_equal(end_reserve(preempt), SCSI_GOOD);
	fake.delayed = false;
	expect_attention(A, 0x2a05);
	expect_status(run(A, write_one_block(), data, 512, 0), SCSI_RESERVATION_CONFLICT);
	expect_good(run(B, write_one_block(), data, 512, 0));
	assert_int_equal(reserve(B, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 0xb, 0), SCSI_GOOD);
}

/* Each truncation of the parameter list. */
static void
test_reserve_truncated(void **state)
{
	uint8_t cdb[10] = {0x5f, SCSI_PERSISTENT_RESERVE_REGISTER}, list[24] = {0};

	(void)state;
	list[15] = 1;
	for (uint8_t part = 0; part < sizeof(list); part++) {
		cdb[8] = part;
		expect_sense(command_run(A, cdb, sizeof(cdb), list, part, 0),
			     SCSI_SENSE_ILLEGAL_REQUEST,
			     SCSI_SENSE_ASCQ_PARAMETER_LIST_LENGTH_ERROR);
		cdb[8] = sizeof(list);
		expect_overrun(command_run(A, cdb, sizeof(cdb), list, part, 0));
	}
	memset(cdb + 5, 0xff, 4);
	expect_sense(command_run(A, cdb, sizeof(cdb), list, sizeof(list), 0),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_PARAMETER_LIST_LENGTH_ERROR);
}

/* One disk by its name and by its UUID is one logical unit, with the reservations of all. */
static void
test_one_unit(void **state)
{
	char uuid[BDEV_UUID_TEXT];

	(void)state;
	snprintf(uuid, sizeof(uuid), "%s", bdev_get_info(fake.bdev)->uuid);
	for (size_t i = 0; uuid[i] != '\0'; i++)
		uuid[i] = (char)toupper((unsigned char)uuid[i]);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 0xa), SCSI_GOOD);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 0xa, 0), SCSI_GOOD);
	nexus_stop(B);
	nexus_start(B, "b", uuid);
	clear_attentions(B);
	assert_ptr_equal(bdev_desc_bdev(scsi_lun_desc(nexus[B].lun)), fake.bdev);
	expect_status(run(B, write_one_block(), data, 512, 0), SCSI_RESERVATION_CONFLICT);
	/* And so it is when the UUID came first. */
	nexus_stop(A);
	nexus_start(A, "a", "disk");
	clear_attentions(A);
	expect_good(run(A, write_one_block(), data, 512, 0));
	expect_status(run(B, write_one_block(), data, 512, 0), SCSI_RESERVATION_CONFLICT);
}

/* A disk that gets its next LUN while the last one still goes has what was there. */
static void
test_add_while_last_goes(void **state)
{
	struct iscsi_task *made =
		scsi_cdb_persistent_reserve_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, 255);
	struct scsi_persistent_reserve_in_read_keys *keys;
	struct rig_nexus last = nexus[A];

	(void)state;
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 0xa), SCSI_GOOD);
	nexus_stop(B);
	thread_set_current(rig_io[A]);
	scsi_channel_put(last.channel);
	thread_set_current(NULL);
	assert_int_equal(coroutine_start(rig_app, "remove", lun_remove_run, last.lun), 0);
	poll_until_idle(&rig_app, 1); /* the channel's thread does not take part yet */
	nexus_start(B, "b", "disk");
	rig_settle();
	thread_set_current(rig_app);
	scsi_target_destroy(last.target);
	thread_set_current(NULL);
	nexus_start(A, "a", "disk");
	clear_attentions(A);
	clear_attentions(B);
	keys = ask(B, made, 255);
	assert_int_equal(keys->num_keys, 1);
	scsi_free_scsi_task(made);
}

/* A LUN does not wait for what other initiators have in the device, or wait for there. */
static void
test_remove_beside_stuck(void **state)
{
	struct command *stuck, *compare;
	struct rig_tmf tmf;
	int rc;

	(void)state;
	fake.delayed = true;
	stuck = start_write(B, 0, 1);
	compare = begin(B, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), data, 1024, 0);
	command_submit(B, compare);
	rig_settle();
	tmf_start(B, &tmf, SCSI_LOGICAL_UNIT_RESET, 0);
	rig_settle();
	nexus_stop(A);
	assert_false(stuck->finished || compare->finished || tmf.finished);
	nexus_start(A, "a", "disk");
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_true(tmf.finished);
	expect_outcome(stuck, SCSI_RESET);
	expect_outcome(compare, SCSI_RESET);
	clear_attentions(A);
	clear_attentions(B);
	/* A reset of its nexus that was sent to another LUN goes on to those that are left. */
	lun_add(A, 1, "disk", &rc);
	assert_int_equal(rc, 0);
	stuck = start_write(B, 0, 1);
	tmf_start(A, &tmf, SCSI_I_T_NEXUS_RESET, 0);
	poll_until_idle(&rig_app, 1);
	rig_run(lun_remove_run, scsi_lun_find(nexus[A].target, 1));
	rig_settle();
	assert_true(tmf.finished);
	assert_int_equal(tmf.tmf.response, SCSI_FUNCTION_COMPLETE);
	assert_true(fake_complete_one(rig_io[1]));
	expect_good(stuck);
	clear_attentions(A);
}

/* ---- a block device that goes away ---- */

static void
remove_run(void *arg)
{
	bdev_remove(fake.bdev);
	*(bool *)arg = true;
}

static void
test_removal(void **state)
{
	struct bdev_info info = fake_info("disk");
	struct command *write;
	bool removed = false;

	(void)state;
	fake.delayed = true;
	write = start_write(A, 1, 1);
	assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &removed), 0);
	rig_settle();
	assert_int_equal(nexus[A].gone, 1);
	assert_int_equal(nexus[B].gone, 1);
	expect_sense(run(B, scsi_cdb_testunitready(), NULL, 0, 0), SCSI_SENSE_ILLEGAL_REQUEST,
		     SCSI_SENSE_ASCQ_LOGICAL_UNIT_NOT_SUPPORTED);
	assert_true(fake_complete_one(rig_io[0]));
	expect_good(write);
	nexus_stop(A);
	assert_false(removed);
	nexus_stop(B);
	rig_wait(&removed);
	/* For the teardown. */
	fake_reset();
	disk_start(&info);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(test_abort_task),
		disk_test(test_task_sets),
		disk_test(test_resets),
		disk_test(test_no_lun),
		disk_test(test_abort_waiting),
		disk_test(test_abort_excluded),
		disk_test(test_functions_at_once),
		disk_test(test_remove_beside_stuck),
		disk_test(test_too_late),
		disk_test(test_abort_limited),
		disk_test(test_abort_between_parts),
		disk_test(test_exclusive_of_none),
		disk_test(test_attentions),
		disk_test(test_conflicts),
		disk_test(test_preempt_and_abort),
		disk_test(test_reserve_truncated),
		disk_test(test_one_unit),
		disk_test(test_add_while_last_goes),
		disk_test(test_removal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
