/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtio-scsi controller whose daemon is killed and comes back: targets, requests, reservations.
 */
/* links: client testlib */
#include "vhost_scsi_rig.h"

#define KEY      0x1122334455667788ULL
#define UUID     "00000000-0000-4000-8000-000000000001"
#define CONFLICT 0x18
#define BUSY     0x08

static const char *const cpus[] = {"--cpus", "0-1", NULL};

static int
setup(void **state)
{
	(void)state;
	memset(&rig_guest, 0, sizeof(rig_guest));
	rig_guest.device.client.fd = rig_guest.device.client.backend_fd = -1;
	return daemon_start(&rig_daemon, cpus);
}

static int
teardown(void **state)
{
	(void)state;
	scsi_guest_end(&rig_guest);
	return daemon_end(&rig_daemon);
}

static void
create_disks(void)
{
	assert_int_equal(daemon_create_null(&rig_daemon, "n", 2048, 512), 0);
	assert_int_equal(daemon_create_null(&rig_daemon, "m", 2048, 512), 0);
	assert_int_equal(daemon_call(&rig_daemon, "bdev_delay_create",
				     json_pack("{s:s, s:s, s:i, s:i, s:i, s:i}", "base_bdev_name",
					       "n", "name", "slow", "avg_read_latency", 300000,
					       "p99_read_latency", 300000, "avg_write_latency", 0,
					       "p99_write_latency", 0)),
			 0);
	scsi_rig_create("scsi");
	assert_int_equal(scsi_rig_add_target("scsi", 9, json_pack("[s, s]", "m", "slow")), 9);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_string("m")), 3);
}

static void
restart(void)
{
	daemon_kill(&rig_daemon);
	assert_int_equal(daemon_restart(&rig_daemon, cpus), 0);
}

static json_t *
get_config(const char *subsystem)
{
	json_t *config = daemon_rpc(&rig_daemon, "framework_get_config",
				    json_pack("{s:s}", "name", subsystem), NULL);

	assert_non_null(config);
	return config;
}

/* ---- targets and requests ---- */

static void
submit_slow_read(struct client_scsi *scsi, uint64_t tag)
{
	const uint8_t read[10] = {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0};
	struct client_segment segment = {scsi->bounce_gpa, 512, true};
	struct client_scsi_request request = {.lun = {1, 9, 0, 1},
					      .cdb = read,
					      .cdb_length = sizeof(read),
					      .segments = &segment,
					      .segment_count = 1,
					      .tag = tag};

	assert_int_equal(client_scsi_submit(scsi, &request), 0);
}

/* The guest notices nothing: it finds its disks when the socket is there, and no unit attention. */
static void
test_restart(void **state)
{
	struct client_scsi_completion completion;
	json_t *before, *after;

	(void)state;
	create_disks();
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 4), 0);
	scsi_guest_make_ready(&rig_guest, 9, 0);
	scsi_guest_make_ready(&rig_guest, 9, 1);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	before = get_config("vhost");
	for (unsigned int i = 0; i < 2; i++)
		submit_slow_read(&rig_guest.scsi[i], i);
	restart();
	after = get_config("vhost");
	assert_true(json_equal(before, after));
	json_decref(before);
	json_decref(after);
	assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(client_scsi_wait(&rig_guest.scsi[i], &completion, DEADLINE_MS), 0);
		assert_int_equal(completion.tag, i);
		assert_int_equal(completion.response.response, VIRTIO_OK);
		assert_int_equal(completion.response.status, GOOD);
		assert_int_equal(completion.used_len, 108 + 512);
	}
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 9, 0), 0);
	assert_false(rig_guest.events.ring->ops->pending(rig_guest.events.ring));
	assert_int_equal(scsi_rig_remove_target("scsi", 3), 0);
	scsi_guest_expect_event(&rig_guest, VIRTIO_SCSI_T_TRANSPORT_RESET, 3, 0,
				VIRTIO_SCSI_EVT_RESET_REMOVED);
}

/* What was made with delay and not started stays so; what failed can be given up. */
static void
test_entries(void **state)
{
	struct client client = {.fd = -1, .backend_fd = -1};
	char path[DAEMON_PATH];
	json_t *config;

	(void)state;
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_scsi_controller",
				     json_pack("{s:s, s:b, s:s}", "ctrlr", "late", "delay", 1,
					       "cpumask", "0x1")),
			 0);
	assert_int_equal(scsi_rig_add_target("late", 0, json_string("file")), 0);
	restart();
	assert_int_not_equal(client_connect(&client, rig_socket("late"), 50), 0);
	config = get_config("vhost");
	assert_int_equal(json_array_size(config), 2);
	json_decref(config);
	daemon_path(&rig_daemon, "file.img", path);
	assert_int_equal(unlink(path), 0);
	restart();
	/* The number is free, and stays wanted until somebody says otherwise. */
	restart();
	assert_int_equal(scsi_rig_remove_target("late", 1), -ENODEV);
	assert_int_equal(scsi_rig_remove_target("late", 0), 0);
	assert_int_equal(scsi_rig_remove_target("late", 0), -ENODEV);
	assert_int_equal(rig_delete_controller("late"), 0);
}

static void
expect_target(json_t *bdev, int number)
{
	assert_int_equal(scsi_rig_add_target("scsi", -1, bdev), number);
}

/*
 * A guest that goes on waits for all of its disks; nobody else gets their numbers. When the
 * missing one is made again, the controller listens.
 */
static void
test_missing(void **state)
{
	struct client client = {.fd = -1, .backend_fd = -1};
	char path[DAEMON_PATH], away[DAEMON_PATH];

	(void)state;
	create_disks();
	assert_int_equal(daemon_create_null(&rig_daemon, "x", 2048, 512), 0);
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	expect_target(json_string("file"), 0);
	expect_target(json_string("m"), 1);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 0, 0);
	daemon_path(&rig_daemon, "file.img", path);
	daemon_path(&rig_daemon, "away.img", away);
	assert_int_equal(rename(path, away), 0);
	restart();
	assert_int_equal(daemon_log_count(&rig_daemon, "not all of its targets are there"), 1);
	assert_int_not_equal(client_connect(&client, rig_socket("scsi"), 50), 0);
	expect_target(json_string("x"), 2);
	expect_target(json_string("x"), 4);
	assert_int_equal(rename(away, path), 0);
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("file")), 0);
	assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), 0);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 9, 0), 0);
	/* Who asks for the number of a missing one means it. */
	assert_int_equal(rename(path, away), 0);
	restart();
	expect_target(json_string("x"), 5);
	assert_int_not_equal(client_connect(&client, rig_socket("scsi"), 50), 0);
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("x")), 0);
	assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
}

/* ---- configuration space ---- */

static void
expect_sizes(uint32_t sense_size, uint32_t cdb_size)
{
	struct virtio_scsi_config config;

	assert_int_equal(client_get_config(&rig_guest.device.client, 0, sizeof(config), &config),
			 0);
	assert_int_equal(config.sense_size, sense_size);
	assert_int_equal(config.cdb_size, cdb_size);
	rig_guest.scsi[0].sense_size = sense_size;
	rig_guest.scsi[0].cdb_size = cdb_size;
	scsi_guest_round_trip(&rig_guest, 0, 3, 0, 0, 8, sense_size);
}

/* The driver goes on with the sizes that it had chosen; the next one has those that all begin with. */
static void
test_sizes(void **state)
{
	const uint32_t sizes[2] = {8, 16};

	(void)state;
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	scsi_rig_create("scsi");
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_string("file")), 3);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	assert_int_equal(client_set_config(&rig_guest.device.client, 20, 8, sizes, true), 0);
	expect_sizes(8, 16);
	for (int i = 0; i < 2; i++) {
		restart();
		assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
		expect_sizes(8, 16);
	}
	scsi_guest_end(&rig_guest);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	expect_sizes(96, 32);
	restart();
	assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
	expect_sizes(96, 32);
	/* It keeps no disk busy. */
	for (uint32_t i = 0; i < 40; i++) {
		uint32_t size = 96 - i % 2;

		assert_int_equal(client_set_config(&rig_guest.device.client, 20, 4, &size, true),
				 0);
	}
	assert_int_equal(daemon_log_count(&rig_daemon, "they are not saved any more"), 1);
}

/* ---- reservations ---- */

static int
reserve_out(struct scsi_guest *guest, uint8_t target, uint8_t action, uint64_t key,
	    uint64_t new_key, bool persist)
{
	const uint8_t cdb[10] = {0x5f, action, 0x05, 0, 0, 0, 0, 0, 24};
	uint8_t list[24] = {0};
	struct client_scsi_command command = {.target = target,
					      .cdb = cdb,
					      .cdb_length = sizeof(cdb),
					      .out = list,
					      .size = sizeof(list)};
	struct client_scsi_completion completion;

	for (int i = 0; i < 8; i++) {
		list[i] = (uint8_t)(key >> (56 - 8 * i));
		list[8 + i] = (uint8_t)(new_key >> (56 - 8 * i));
	}
	list[20] = persist;
	assert_int_equal(client_scsi_command(&guest->scsi[0], &command, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_OK);
	return completion.response.status;
}

/* How many keys are registered. */
static unsigned int
count_keys(struct scsi_guest *guest, uint8_t target)
{
	const uint8_t cdb[10] = {0x5e, 0, 0, 0, 0, 0, 0, 0, 64};
	uint8_t data[64] = {0};
	struct client_scsi_command command = {
		.target = target, .cdb = cdb, .cdb_length = sizeof(cdb), .in = data, .size = 64};
	struct client_scsi_completion completion;

	assert_int_equal(client_scsi_command(&guest->scsi[0], &command, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_OK);
	assert_int_equal(completion.response.status, GOOD);
	return data[7] / 8u;
}

/* Of target 9, for target 3: with or without APTPL. */
static void
make_reservation(bool persist)
{
	static uint8_t data[512];

	scsi_guest_make_ready(&rig_guest, 9, 0);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	assert_int_equal(reserve_out(&rig_guest, 9, 0, 0, KEY, persist), GOOD);
	assert_int_equal(reserve_out(&rig_guest, 9, 1, KEY, 0, false), GOOD);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), CONFLICT);
}

static void
go_on(void)
{
	assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
}

/*
 * Two targets on one disk are two initiators; who holds the reservation keeps it over a kill, with
 * APTPL or without, and nobody is told anything.
 */
static void
test_reservations(void **state)
{
	static uint8_t data[512];
	json_t *before, *after;

	(void)state;
	create_disks();
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	make_reservation(false);
	for (int persist = 0; persist < 2; persist++) {
		before = get_config("scsi");
		assert_int_equal(json_array_size(before), 1);
		restart();
		after = get_config("scsi");
		assert_true(json_equal(before, after));
		json_decref(before);
		json_decref(after);
		go_on();
		assert_int_equal(scsi_guest_test_unit(&rig_guest, 9, 0), 0);
		assert_int_equal(count_keys(&rig_guest, 3), 1);
		assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512),
				 CONFLICT);
		assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 9, 0, 0, 1, data, 512), 0);
		assert_int_equal(reserve_out(&rig_guest, 9, 0, KEY, KEY, true), GOOD);
	}
	/* Of a disk that is one: refused. */
	assert_int_equal(daemon_call(&rig_daemon, "scsi_set_disk_state",
				     json_pack("{s:s, s:{s:i, s:[]}}", "name", "m", "reservations",
					       "type", 0, "registrations")),
			 -EBUSY);
	assert_int_equal(daemon_call(&rig_daemon, "scsi_set_disk_state",
				     json_pack("{s:s, s:s, s:i}", "name", "x", "uuid", UUID,
					       "reservations", 1)),
			 -EINVAL);
	assert_int_equal(
		daemon_call(&rig_daemon, "scsi_set_disk_state", json_pack("{s:s}", "name", "x")),
		-ENODEV);
}

/* MODE SELECT(10) of the control page: SWP. */
static unsigned int
protect(struct scsi_guest *guest, uint8_t target, bool on)
{
	const uint8_t cdb[10] = {0x55, 0x10, 0, 0, 0, 0, 0, 0, 20};
	uint8_t list[20] = {[8] = 0x0a, 10, 0x02, 0x10, on ? 8 : 0, [16] = 0xff, 0xff};
	struct client_scsi_command command = {.target = target,
					      .cdb = cdb,
					      .cdb_length = sizeof(cdb),
					      .out = list,
					      .size = sizeof(list)};
	struct client_scsi_completion completion;

	assert_int_equal(client_scsi_command(&guest->scsi[0], &command, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_OK);
	return completion.response.status;
}

static void
test_modes(void **state)
{
	static uint8_t data[512];

	(void)state;
	create_disks();
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 9, 0);
	assert_int_equal(protect(&rig_guest, 9, true), GOOD);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	restart();
	go_on();
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), CONDITION);
	assert_int_equal(protect(&rig_guest, 3, false), GOOD);
	restart();
	go_on();
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), 0);
}

/* ---- the state's file, between two lives ---- */

static json_t *
load_state(void)
{
	char path[DAEMON_PATH];
	json_t *state;

	daemon_path(&rig_daemon, "state.json", path);
	state = json_load_file(path, 0, NULL);
	assert_non_null(state);
	return state;
}

static void
store_state(json_t *state)
{
	char path[DAEMON_PATH];

	daemon_path(&rig_daemon, "state.json", path);
	assert_int_equal(json_dump_file(state, path, 0), 0);
	json_decref(state);
}

/* Borrowed. */
static json_t *
entries_of(json_t *state, const char *name)
{
	json_t *subsystem;
	size_t i;

	json_array_foreach (json_object_get(state, "subsystems"), i, subsystem) {
		if (strcmp(json_string_value(json_object_get(subsystem, "subsystem")), name) == 0)
			return json_object_get(subsystem, "config");
	}
	fail();
	return NULL;
}

/* As if the machine had been restarted, and the guest gone on from where it was saved. */
static void
lose_power(void)
{
	json_t *state, *entry;
	size_t i;

	daemon_kill(&rig_daemon);
	state = load_state();
	json_array_foreach (entries_of(state, "scsi"), i, entry)
		json_object_set_new(json_object_get(entry, "params"), "boot_id", json_string("x"));
	store_state(state);
	assert_int_equal(daemon_restart(&rig_daemon, cpus), 0);
	go_on();
}

/* Only what came with APTPL is there again, and each initiator hears of it. */
static void
test_power_loss(void **state)
{
	static uint8_t data[512];

	(void)state;
	create_disks();
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	make_reservation(false);
	lose_power();
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 9, 0), POWERED_ON);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 3, 0), POWERED_ON);
	assert_int_equal(count_keys(&rig_guest, 3), 0);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), 0);
	make_reservation(true);
	lose_power();
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 3, 0), POWERED_ON);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 9, 0), POWERED_ON);
	assert_int_equal(count_keys(&rig_guest, 3), 1);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), CONFLICT);
	/* Once. */
	restart();
	go_on();
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 9, 0), 0);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), CONFLICT);
}

/* How many disks the state has something of. */
static void
expect_kept(size_t disks)
{
	json_t *config = get_config("scsi");

	assert_int_equal(json_array_size(config), disks);
	json_decref(config);
}

/*
 * Target 9 on disks "m" and "file", and target 3 on those; a reservation; and a restart without the
 * file, which has gone from path to away.
 */
static void
reserve_and_lose_file(json_t *disks, char path[DAEMON_PATH], char away[DAEMON_PATH])
{
	assert_int_equal(daemon_create_null(&rig_daemon, "m", 2048, 512), 0);
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	scsi_rig_create("scsi");
	assert_int_equal(scsi_rig_add_target("scsi", 9, json_pack("[s, s]", "m", "file")), 9);
	assert_int_equal(scsi_rig_add_target("scsi", 3, disks), 3);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	make_reservation(false);
	daemon_path(&rig_daemon, "file.img", path);
	daemon_path(&rig_daemon, "away.img", away);
	assert_int_equal(rename(path, away), 0);
	restart();
}

/* A target that cannot be made loses nothing; one that is removed does, and so does a disk. */
static void
test_whose(void **state)
{
	static uint8_t data[512];
	char path[DAEMON_PATH], away[DAEMON_PATH];

	(void)state;
	reserve_and_lose_file(json_pack("[s, s]", "m", "file"), path, away);
	assert_int_equal(rename(away, path), 0);
	restart();
	go_on();
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), CONFLICT);
	/* The last LUN on it goes, and comes back. */
	assert_int_equal(scsi_rig_remove_target("scsi", 3), 0);
	assert_int_equal(scsi_rig_remove_target("scsi", 9), 0);
	expect_kept(0);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_string("m")), 3);
	assert_int_equal(scsi_rig_add_target("scsi", 9, json_string("m")), 9);
	make_reservation(true);
	assert_int_equal(scsi_rig_remove_target("scsi", 3), 0);
	assert_int_equal(scsi_rig_remove_target("scsi", 9), 0);
	expect_kept(1);
	/* Another disk of that name. */
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_null_delete", json_pack("{s:s}", "name", "m")), 0);
	expect_kept(0);
	assert_int_equal(daemon_create_null(&rig_daemon, "m", 2048, 512), 0);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_string("m")), 3);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 3, 0, 0, 1, data, 512), 0);
}

/* A disk is not given up with its last LUN while the state names another one that waits for it. */
static void
test_still_wanted(void **state)
{
	static uint8_t data[512];
	char path[DAEMON_PATH], away[DAEMON_PATH];

	(void)state;
	reserve_and_lose_file(json_string("m"), path, away);
	assert_int_equal(scsi_rig_remove_target("scsi", 3), 0);
	assert_int_equal(scsi_rig_add_target("scsi", 4, json_string("m")), 4);
	assert_int_equal(rename(away, path), 0);
	restart();
	go_on();
	scsi_guest_make_ready(&rig_guest, 4, 0);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 4, 0, 0, 1, data, 512), CONFLICT);
	assert_int_equal(client_scsi_write(&rig_guest.scsi[0], 9, 0, 0, 1, data, 512), 0);
	/* Nor does anything stay of it when nobody waits any more. */
	assert_int_equal(rename(path, away), 0);
	restart();
	assert_int_equal(scsi_rig_remove_target("scsi", 4), 0);
	assert_int_equal(scsi_rig_remove_target("scsi", 9), 0);
	expect_kept(0);
}

/* Before the entry that adds a target to that controller there is one that takes its time. */
static void
slow_replay_down(const char *ctrlr)
{
	json_t *state = load_state();
	json_t *entries = entries_of(state, "vhost"), *entry;
	size_t i;

	json_array_foreach (entries, i, entry) {
		json_t *params = json_object_get(entry, "params");

		if (strcmp(json_string_value(json_object_get(params, "ctrlr")), ctrlr) == 0 &&
		    json_object_get(params, "bdev_name") != NULL)
			break;
	}
	assert_true(i < json_array_size(entries));
	json_array_insert_new(entries, i,
			      json_pack("{s:s, s:{s:s, s:i}}", "method", "bdev_get_bdevs", "params",
					"name", "nobody", "timeout", 3000));
	store_state(state);
}

/*
 * The guest of one controller goes on while the state is still being replayed, and reserves a disk
 * of which another controller's LUN cannot stay: neither waits for the other.
 */
static void
test_reserve_while_replaying(void **state)
{
	char path[DAEMON_PATH];
	int status;

	(void)state;
	create_disks();
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	scsi_rig_create("late");
	assert_int_equal(scsi_rig_add_target("late", 0, json_pack("[s, s]", "m", "file")), 0);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 9, 0);
	daemon_kill(&rig_daemon);
	daemon_path(&rig_daemon, "file.img", path);
	assert_int_equal(unlink(path), 0);
	slow_replay_down("late");
	daemon_launch(&rig_daemon, cpus);
	go_on();
	WAIT_UNTIL((status = reserve_out(&rig_guest, 9, 0, 0, KEY, true)) != BUSY);
	assert_int_equal(status, GOOD);
	assert_int_equal(count_keys(&rig_guest, 9), 1);
	assert_int_equal(daemon_call(&rig_daemon, "framework_wait_init", NULL), 0);
	restart();
	go_on();
	assert_int_equal(count_keys(&rig_guest, 9), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_restart),      TEST(test_entries),
		TEST(test_missing),      TEST(test_sizes),
		TEST(test_reservations), TEST(test_modes),
		TEST(test_power_loss),   TEST(test_whose),
		TEST(test_still_wanted), TEST(test_reserve_while_replaying),
	};

	return cmocka_run_group_tests_name("vhost_scsi_restart", tests, NULL, NULL);
}
