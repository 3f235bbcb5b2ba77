/* SPDX-License-Identifier: BSD-3-Clause */
/* What initiators make of a SCSI disk, through restarts: reservations and mode pages. */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include "scsi_rig.h"

static const uint8_t data[512];

/* What scsi_kept_config_json() said at the last commit. */
static struct {
	unsigned int commits;
	int rc;
	struct completion *held; /* a commit waits for it; NULL: it does not */
	json_t *saved;
} journal;

static int
commit(void)
{
	journal.commits++;
	if (journal.held != NULL)
		completion_wait(journal.held, WAIT_FOREVER);
	if (journal.rc == 0) {
		json_decref(journal.saved);
		journal.saved = scsi_kept_config_json();
	}
	return journal.rc;
}

static int
kept_setup(void **state)
{
	scsi_kept_start("boot 1", commit, NULL);
	memset(&journal, 0, sizeof(journal));
	return disk_setup(state);
}

static int
kept_teardown(void **state)
{
	int rc = disk_teardown(state);

	scsi_kept_start(NULL, NULL, NULL);
	json_decref(journal.saved);
	return rc;
}

static void
stop_all(void)
{
	nexus_stop(A);
	nexus_stop(B);
}

/* As after a restart of the daemon, in which its guests go on. */
static void
start_all(const char *boot)
{
	json_t *entry;
	size_t i;

	thread_set_current(rig_app);
	scsi_kept_forget(NULL);
	scsi_kept_start(boot, commit, NULL);
	json_array_foreach (journal.saved, i, entry) {
		json_t *params = json_object_get(entry, "params");
		struct scsi_kept_opts opts = {
			.uuid = json_string_value(json_object_get(params, "uuid")),
			.name = json_string_value(json_object_get(params, "name")),
			.boot = json_string_value(json_object_get(params, "boot_id")),
			.modes = json_object_get(params, "modes"),
			.reservations = json_object_get(params, "reservations"),
		};

		assert_int_equal(scsi_kept_restore(&opts, &rig_err), 0);
	}
	thread_set_current(NULL);
	nexus_go_on(A, "a", "disk");
	nexus_go_on(B, "b", "disk");
	fake.logged = 0;
}

static void
restart(void)
{
	stop_all();
	start_all("boot 1");
}

static struct command *
begin_reserve(int who, int action, int type, uint64_t key, bool aptpl)
{
	return start_reserve(who, action, type, action == 0 ? 0 : key, action == 0 ? key : 0,
			     aptpl);
}

static void
make_reservation(bool aptpl)
{
	assert_int_equal(end_reserve(begin_reserve(A, 0, 0, 0xa, aptpl)), SCSI_GOOD);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 0xa, 0), SCSI_GOOD);
}

static void
expect_reservation(void)
{
	expect_status(run(B, write_one_block(), data, 512, 0), SCSI_RESERVATION_CONFLICT);
	expect_good(run(A, write_one_block(), data, 512, 0));
}

static uint32_t
get_generation(int who, uint32_t *keys)
{
	struct iscsi_task *made =
		scsi_cdb_persistent_reserve_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, 255);
	struct scsi_persistent_reserve_in_read_keys *answer = ask(who, made, 255);
	uint32_t generation = answer->prgeneration;

	*keys = (uint32_t)answer->num_keys;
	scsi_free_scsi_task(made);
	return generation;
}

static void
set_write_cache(int who, bool on)
{
	struct iscsi_task *made;
	struct scsi_mode_page *page = get_page(who, SCSI_MODEPAGE_CACHING, &made);

	page->caching.wce = on;
	expect_good(select_page(who, page, true));
	scsi_free_scsi_task(made);
}

static struct command *
set_control(int who, bool protect, bool descriptors)
{
	struct iscsi_task *made;
	struct scsi_mode_page *page = get_page(who, SCSI_MODEPAGE_CONTROL, &made);
	struct command *command;

	page->control.swp = protect;
	page->control.d_sense = descriptors;
	command = select_page(who, page, false);
	scsi_free_scsi_task(made);
	return command;
}

/* ---- restarts of the daemon ---- */

static void
test_reservations(void **state)
{
	(void)state;
	for (int aptpl = 0; aptpl < 2; aptpl++) {
		uint32_t generation, keys;

		make_reservation(aptpl);
		generation = get_generation(A, &keys);
		restart();
		expect_reservation();
		assert_int_equal(get_generation(A, &keys), generation);
		assert_int_equal(keys, 1);
		assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 0xa, 0), SCSI_GOOD);
		restart();
		assert_int_equal(get_generation(A, &keys), generation + 1);
		assert_int_equal(keys, 0);
		expect_good(run(B, write_one_block(), data, 512, 0));
	}
}

/* Who has turned the write cache off does not flush any more. */
static void
test_modes(void **state)
{
	struct command *command;

	(void)state;
	set_write_cache(A, false);
	clear_attentions(B);
	restart();
	expect_good(run(B, write_one_block(), data, 512, 0));
	assert_int_equal(fake.log[0].flags, BDEV_FUA);
	expect_good(set_control(B, true, true));
	clear_attentions(A);
	restart();
	command = run(A, write_one_block(), data, 512, 0);
	assert_int_equal(command->task->sense[0], SCSI_SENSE_DESCRIPTOR_CURRENT);
	expect_sense(command, SCSI_SENSE_DATA_PROTECTION, SCSI_SENSE_ASCQ_WRITE_PROTECTED);
	expect_good(set_control(A, false, false));
	set_write_cache(A, true);
	/* As at first: there is nothing to keep. */
	assert_int_equal(json_array_size(journal.saved), 0);
	expect_good(set_control(A, true, false));
	assert_int_equal(json_array_size(journal.saved), 1);
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
	assert_int_equal(json_array_size(journal.saved), 0);
	clear_attentions(A);
	clear_attentions(B);
}

/* ---- the commit ---- */

static void
hold(void)
{
	thread_set_current(rig_app);
	journal.held = completion_create();
	thread_set_current(NULL);
	assert_non_null(journal.held);
}

static void
let_go(void)
{
	struct completion *held = journal.held;

	journal.held = NULL;
	completion_signal(held, 0);
	rig_settle();
	completion_put(held);
}

/* Neither is good before it is durable; writes do not wait for that. */
static void
test_waits(void **state)
{
	struct command *reserving, *selecting;
	struct iscsi_task *made;
	struct scsi_mode_page *page = get_page(B, SCSI_MODEPAGE_CACHING, &made);

	(void)state;
	hold();
	reserving = begin_reserve(A, 0, 0, 0xa, false);
	for (int i = 0; i < 5; i++) {
		rig_settle();
		assert_false(reserving->finished);
		expect_good(run(A, write_one_block(), data, 512, 0));
	}
	let_go();
	assert_int_equal(end_reserve(reserving), SCSI_GOOD);
	page->caching.wce = 0;
	hold();
	selecting = select_page_start(B, page, true);
	for (int i = 0; i < 5; i++) {
		rig_settle();
		assert_false(selecting->finished);
		expect_good(run(A, write_one_block(), data, 512, 0));
	}
	let_go();
	command_wait(selecting);
	free(selecting->out_iov.iov_base);
	expect_good(selecting);
	scsi_free_scsi_task(made);
	clear_attentions(A);
}

/* What cannot be saved does not happen. */
static void
test_fails(void **state)
{
	uint32_t keys;

	(void)state;
	make_reservation(false);
	journal.rc = -EIO;
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RELEASE, 1, 0xa, 0),
			 SCSI_CHECK_CONDITION);
	expect_sense(set_control(A, true, false), SCSI_SENSE_HARDWARE_ERROR,
		     SCSI_SENSE_ASCQ_INTERNAL_TARGET_FAILURE);
	journal.rc = -EAGAIN;
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_RELEASE, 1, 0xa, 0), SCSI_BUSY);
	expect_status(set_control(A, true, false), SCSI_BUSY);
	journal.rc = 0;
	expect_reservation();
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 0xa, 0), SCSI_GOOD);
	expect_good(set_control(A, true, false));
	clear_attentions(B);
	/* A reset cannot fail. */
	journal.rc = -EIO;
	assert_int_equal(tmf_run(A, SCSI_LOGICAL_UNIT_RESET, 0), SCSI_FUNCTION_COMPLETE);
	clear_attentions(A);
	expect_good(run(A, write_one_block(), data, 512, 0));
	get_generation(A, &keys);
	assert_int_equal(keys, 0);
}

/* ---- a loss of power ---- */

static void
test_power_loss(void **state)
{
	uint32_t keys;

	(void)state;
	make_reservation(false);
	set_write_cache(A, false);
	stop_all();
	start_all("boot 2");
	/* Once for each initiator. */
	expect_attention(A, 0x2900);
	expect_attention(B, 0x2900);
	assert_int_equal(get_generation(A, &keys), 0);
	assert_int_equal(keys, 0);
	expect_good(run(B, write_one_block(), data, 512, 0));
	assert_int_equal(fake.log[0].flags, 0);
	/* And with APTPL. */
	make_reservation(true);
	set_write_cache(A, false);
	stop_all();
	start_all("boot 3");
	expect_attention(B, 0x2900);
	expect_attention(A, 0x2900);
	assert_int_equal(get_generation(B, &keys), 0);
	assert_int_equal(keys, 1);
	expect_reservation();
	assert_int_equal(fake.log[0].flags, 0);
	assert_int_equal(reserve(A, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 0xa, 0), SCSI_GOOD);
	/* Of the same boot there is nothing to hear. */
	stop_all();
	start_all("boot 3");
	expect_good(run(A, write_one_block(), data, 512, 0));
	expect_good(run(B, write_one_block(), data, 512, 0));
}

/* ---- whose it is ---- */

static void
replace_disk(const char *before, const char *name, const char *uuid)
{
	struct bdev_info info;

	stop_all();
	assert_int_equal(rig_delete(before, "fake"), 0);
	fake_reset();
	info = fake_info(name);
	if (uuid != NULL)
		memcpy(info.uuid, uuid, sizeof(info.uuid));
	disk_start(&info);
}

/* Another disk of the same name has none of it. */
static void
test_same_name(void **state)
{
	char uuid[BDEV_UUID_TEXT];

	(void)state;
	make_reservation(true);
	expect_good(set_control(A, true, false));
	memcpy(uuid, bdev_get_info(fake.bdev)->uuid, sizeof(uuid));
	replace_disk("disk", "disk", NULL);
	expect_good(run(B, write_one_block(), data, 512, 0));
	/* The first one by another name. */
	replace_disk("disk", "other", uuid);
	expect_sense(run(A, write_one_block(), data, 512, 0), SCSI_SENSE_DATA_PROTECTION,
		     SCSI_SENSE_ASCQ_WRITE_PROTECTED);
	expect_good(set_control(A, false, false));
	clear_attentions(B);
	expect_reservation();
	replace_disk("other", "disk", NULL);
}

/* Without LUNs only what came with APTPL stays; of a deleted disk nothing. */
static void
test_release(void **state)
{
	(void)state;
	make_reservation(false);
	expect_good(set_control(A, true, false));
	thread_set_current(rig_app);
	scsi_kept_release("disk"); /* it has LUNs */
	thread_set_current(NULL);
	expect_sense(run(A, write_one_block(), data, 512, 0), SCSI_SENSE_DATA_PROTECTION,
		     SCSI_SENSE_ASCQ_WRITE_PROTECTED);
	stop_all();
	scsi_kept_release("disk");
	nexus_go_on(A, "a", "disk");
	nexus_go_on(B, "b", "disk");
	expect_good(run(B, write_one_block(), data, 512, 0));
	make_reservation(true);
	expect_good(set_control(A, true, false));
	stop_all();
	scsi_kept_release(bdev_get_info(fake.bdev)->uuid);
	nexus_go_on(A, "a", "disk");
	nexus_go_on(B, "b", "disk");
	expect_reservation();
	stop_all();
	scsi_kept_forget("disk");
	nexus_go_on(A, "a", "disk");
	nexus_go_on(B, "b", "disk");
	expect_good(run(B, write_one_block(), data, 512, 0));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kept_setup, kept_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reservations), TEST(test_modes),     TEST(test_waits),   TEST(test_fails),
		TEST(test_power_loss),   TEST(test_same_name), TEST(test_release),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
