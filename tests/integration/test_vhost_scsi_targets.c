/* SPDX-License-Identifier: BSD-3-Clause */
/* Targets of a virtio-scsi controller come and go, with and without load; events; long requests. */
/* links: client testlib */
#include "vhost_scsi_rig.h"

static int
create_null(const char *name, long blocks)
{
	return daemon_create_null(&rig_daemon, name, blocks, 512);
}

static void
delete_bdev(const char *module, const char *name)
{
	char method[64];

	snprintf(method, sizeof(method), "bdev_%s_delete", module);
	assert_int_equal(daemon_call(&rig_daemon, method, json_pack("{s:s}", "name", name)), 0);
}

/* ---- adding and removing ---- */

static void
test_numbers(void **state)
{
	json_t *controller, *targets, *target;

	(void)state;
	assert_int_equal(create_null("n", 1024), 0);
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("n")), -EEXIST);
	assert_int_equal(scsi_rig_add_target("scsi", 255, json_string("n")), 255);
	assert_int_equal(scsi_rig_add_target("scsi", -1, json_string("n")), 1);
	assert_int_equal(scsi_rig_add_target("scsi", -1, json_pack("[s, s, s]", "n", "disk", "n")),
			 2);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_string("none")), -ENODEV);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_pack("[s, s]", "n", "none")), -ENODEV);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_array()), -EINVAL);
	assert_int_equal(scsi_rig_add_target("none", 3, json_string("n")), -ENODEV);
	assert_int_equal(scsi_rig_add_target("scsi", 256, json_string("n")), -32602);
	assert_int_equal(scsi_rig_add_target("scsi", -2, json_string("n")), -32602);
	assert_int_equal(scsi_rig_add_target("scsi", 3, json_integer(1)), -32602);
	assert_int_equal(scsi_rig_remove_target("scsi", 3), -ENODEV);
	assert_int_equal(scsi_rig_remove_target("none", 0), -ENODEV);

	controller = rig_controller("scsi");
	targets = json_object_get(json_object_get(controller, "backend_specific"), "scsi");
	assert_int_equal(json_array_size(targets), 4);
	target = json_array_get(targets, 2);
	assert_int_equal(json_integer_value(json_object_get(target, "scsi_dev_num")), 2);
	assert_string_equal(json_string_value(json_object_get(target, "target_name")), "Target 2");
	assert_int_equal(json_array_size(json_object_get(target, "luns")), 3);
	target = json_array_get(json_object_get(target, "luns"), 1);
	assert_int_equal(json_integer_value(json_object_get(target, "id")), 1);
	assert_string_equal(json_string_value(json_object_get(target, "bdev_name")), "disk");
	json_decref(controller);

	for (unsigned int lun = 0; lun < 3; lun++)
		scsi_guest_make_ready(&rig_guest, 2, (uint16_t)lun);
	scsi_guest_round_trip(&rig_guest, 1, 2, 1, 0, 8, 1);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 2, 3), NO_DISK);
	assert_int_equal(scsi_rig_remove_target("scsi", 2), 0);
	assert_int_equal(scsi_guest_probe(&rig_guest, 2, 0), VIRTIO_SCSI_S_BAD_TARGET);
	assert_int_equal(scsi_rig_add_target("scsi", 2, json_string("n")), 2);
	scsi_guest_make_ready(&rig_guest, 2, 0);
	assert_int_equal(scsi_rig_remove_target("scsi", 1), 0);
	assert_int_equal(scsi_rig_remove_target("scsi", 2), 0);
	assert_int_equal(scsi_rig_remove_target("scsi", 255), 0);
	delete_bdev("null", "n");
}

static void
test_wrong_kind(void **state)
{
	(void)state;
	assert_int_equal(daemon_create_blk(&rig_daemon, "blk", "disk", true), 0);
	assert_int_equal(scsi_rig_add_target("blk", 0, json_string("disk")), -EINVAL);
	assert_int_equal(scsi_rig_remove_target("blk", 0), -EINVAL);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_start_scsi_controller",
				     json_pack("{s:s}", "ctrlr", "blk")),
			 -EINVAL);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_start_scsi_controller",
				     json_pack("{s:s}", "ctrlr", "scsi")),
			 -EALREADY);
	assert_int_equal(rig_delete_controller("blk"), 0);
}

/* The socket is not there before the controller is started; its targets may be. */
static void
test_delay(void **state)
{
	struct client client = {.fd = -1, .backend_fd = -1};

	(void)state;
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_scsi_controller",
				     json_pack("{s:s, s:b}", "ctrlr", "late", "delay", 1)),
			 0);
	assert_int_not_equal(client_connect(&client, rig_socket("late"), 50), 0);
	assert_int_equal(scsi_rig_add_target("late", 5, json_string("disk")), 5);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_start_scsi_controller",
				     json_pack("{s:s}", "ctrlr", "late")),
			 0);
	scsi_guest_end(&rig_guest);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "late", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 5, 0);
	assert_int_equal(rig_delete_controller("late"), 0);
	/* ... and one that never was */
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_scsi_controller",
				     json_pack("{s:s, s:b}", "ctrlr", "late", "delay", 1)),
			 0);
	assert_int_equal(rig_delete_controller("late"), 0);
}

/* ---- events ---- */

#define PLUG  VIRTIO_SCSI_T_TRANSPORT_RESET, 7, 0, VIRTIO_SCSI_EVT_RESET_RESCAN
#define CLEAR VIRTIO_SCSI_T_TRANSPORT_RESET, 7, 0, VIRTIO_SCSI_EVT_RESET_REMOVED

static void
plug_and_clear(void)
{
	assert_int_equal(scsi_rig_add_target("scsi", 7, json_string("n")), 7);
	assert_int_equal(scsi_rig_remove_target("scsi", 7), 0);
}

static void
test_events(void **state)
{
	(void)state;
	assert_int_equal(create_null("n", 2048), 0);
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 8), 0);
	plug_and_clear();
	scsi_guest_expect_event(&rig_guest, PLUG);
	scsi_guest_expect_event(&rig_guest, CLEAR);
	assert_int_equal(scsi_rig_add_target("scsi", 8, json_pack("[s, s]", "n", "disk")), 8);
	scsi_guest_expect_event(&rig_guest, VIRTIO_SCSI_T_TRANSPORT_RESET, 8, 0,
				VIRTIO_SCSI_EVT_RESET_RESCAN);
	scsi_guest_expect_event(&rig_guest, VIRTIO_SCSI_T_TRANSPORT_RESET, 8, 1,
				VIRTIO_SCSI_EVT_RESET_RESCAN);
	scsi_guest_make_ready(&rig_guest, 8, 0);
	/* In MiB. */
	assert_int_equal(daemon_call(&rig_daemon, "bdev_null_resize",
				     json_pack("{s:s, s:i}", "name", "n", "new_size", 8)),
			 0);
	scsi_guest_expect_event(&rig_guest, VIRTIO_SCSI_T_PARAM_CHANGE, 8, 0, 0x092a);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 8, 0), 0x2a09);
	assert_int_equal(scsi_rig_remove_target("scsi", 8), 0);
	delete_bdev("null", "n");
}

/* Events wait for buffers, and for a queue that is stopped. Too many are missed. */
static void
test_events_wait(void **state)
{
	struct virtio_scsi_event event;

	(void)state;
	assert_int_equal(create_null("n", 2048), 0);
	plug_and_clear();
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 1), 0);
	scsi_guest_expect_event(&rig_guest, PLUG);
	assert_int_equal(client_device_stop(&rig_guest.device), 0);
	plug_and_clear();
	assert_int_equal(client_device_start(&rig_guest.device), 0);
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 3), 0);
	scsi_guest_expect_event(&rig_guest, CLEAR);
	scsi_guest_expect_event(&rig_guest, PLUG);
	scsi_guest_expect_event(&rig_guest, CLEAR);
	for (unsigned int i = 0; i < 33; i++)
		plug_and_clear();
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 66), 0);
	for (unsigned int i = 0; i < 63; i++)
		assert_int_equal(client_scsi_events_wait(&rig_guest.events, &event, DEADLINE_MS),
				 0);
	assert_int_equal(event.event, VIRTIO_SCSI_T_TRANSPORT_RESET);
	assert_int_equal(client_scsi_events_wait(&rig_guest.events, &event, DEADLINE_MS), 0);
	assert_int_equal(event.event, VIRTIO_SCSI_T_TRANSPORT_RESET | VIRTIO_SCSI_T_EVENTS_MISSED);
	plug_and_clear();
	scsi_guest_expect_event(&rig_guest, PLUG);
	scsi_guest_expect_event(&rig_guest, CLEAR);
	delete_bdev("null", "n");
}

/* A guest without the feature hears nothing. */
static void
test_no_hotplug(void **state)
{
	const struct client_options options = {
		.features = CLIENT_DEFAULT_FEATURES &
			    ~(RIG_BIT(VIRTIO_SCSI_F_HOTPLUG) | RIG_BIT(VIRTIO_SCSI_F_CHANGE)),
	};

	(void)state;
	scsi_guest_end(&rig_guest);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", &options), 0);
	assert_int_equal(create_null("n", 2048), 0);
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 4), 0);
	plug_and_clear();
	scsi_guest_make_ready(&rig_guest, 0, 0);
	assert_false(rig_guest.events.ring->ops->pending(rig_guest.events.ring));
	delete_bdev("null", "n");
}

/* ---- requests that take as long as the test wants ---- */

#define HELD 3600000000LL /* us */

static void
create_slow(void)
{
	assert_int_equal(create_null("n", 2048), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_delay_create",
			    json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "base_bdev_name", "n",
				      "name", "slow", "avg_read_latency", HELD, "p99_read_latency",
				      HELD, "avg_write_latency", HELD, "p99_write_latency", HELD)),
		0);
	assert_int_equal(scsi_rig_add_target("scsi", 1, json_string("slow")), 1);
	scsi_guest_make_ready(&rig_guest, 1, 0);
}

static void
delete_slow(void)
{
	assert_int_equal(scsi_rig_remove_target("scsi", 1), 0);
	delete_bdev("delay", "slow");
	delete_bdev("null", "n");
}

static void
offer_read(struct client_scsi *scsi, uint64_t tag)
{
	const uint8_t read[10] = {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0};
	struct client_segment segment = {scsi->bounce_gpa, 512, true};
	struct client_scsi_request request = {.lun = {1, 1},
					      .cdb = read,
					      .cdb_length = sizeof(read),
					      .segments = &segment,
					      .segment_count = 1,
					      .tag = tag};

	assert_int_equal(client_scsi_prepare(scsi, &request), 0);
	client_ring_publish(scsi->ring);
}

static void
submit_read(struct client_scsi *scsi, uint64_t tag)
{
	offer_read(scsi, tag);
	assert_int_equal(client_ring_kick(scsi->ring), 0);
}

/* What a driver sees when the function is answered: the request has been, too. */
static void
expect_over(struct client_scsi *scsi, uint64_t tag, int response)
{
	struct client_scsi_completion completion;

	assert_int_equal(client_scsi_reap(scsi, &completion), 1);
	assert_int_equal(completion.tag, tag);
	assert_int_equal(completion.response.response, response);
	assert_int_equal(completion.response.status, 0);
	assert_int_equal(completion.response.sense_len, 0);
	assert_int_equal(completion.response.resid, 512);
	assert_int_equal(completion.used_len, 12);
}

static const uint8_t slow_lun[8] = {1, 1};

/* Of a function for the slow disk. */
static void
expect_response(uint32_t function, uint64_t tag, int response)
{
	assert_int_equal(client_scsi_tmf(&rig_guest.control, function, slow_lun, tag), response);
}

static void
test_functions_with_effect(void **state)
{
	static const struct {
		uint32_t function;
		int response;
	} cases[] = {
		{VIRTIO_SCSI_T_TMF_ABORT_TASK, VIRTIO_SCSI_S_ABORTED},
		{VIRTIO_SCSI_T_TMF_ABORT_TASK_SET, VIRTIO_SCSI_S_ABORTED},
		{VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET, VIRTIO_SCSI_S_ABORTED},
		{VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, VIRTIO_SCSI_S_RESET},
		{VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET, VIRTIO_SCSI_S_RESET},
	};

	(void)state;
	create_slow();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_int_t before = rig_reads("n");

		/* Of two queues, which are on two threads. */
		submit_read(&rig_guest.scsi[0], 5);
		submit_read(&rig_guest.scsi[1], 5);
		WAIT_UNTIL(rig_reads("n") == before + 2);
		expect_response(VIRTIO_SCSI_T_TMF_QUERY_TASK, 5, VIRTIO_SCSI_S_FUNCTION_SUCCEEDED);
		expect_response(VIRTIO_SCSI_T_TMF_QUERY_TASK, 6, VIRTIO_OK);
		expect_response(VIRTIO_SCSI_T_TMF_QUERY_TASK_SET, 0,
				VIRTIO_SCSI_S_FUNCTION_SUCCEEDED);
		expect_response(cases[i].function, 5, VIRTIO_OK);
		expect_over(&rig_guest.scsi[0], 5, cases[i].response);
		expect_over(&rig_guest.scsi[1], 5, cases[i].response);
		expect_response(VIRTIO_SCSI_T_TMF_QUERY_TASK_SET, 0, VIRTIO_OK);
		scsi_guest_make_ready(&rig_guest, 1, 0);
	}
	delete_slow();
}

/* What is in a ring before the function is, whoever has looked there by then, it finds. */
static void
test_functions_find_what_is_offered(void **state)
{
	(void)state;
	create_slow();
	for (unsigned int i = 0; i < SCSI_RIG_QUEUES; i++) {
		usleep(20000); /* it is asleep */
		offer_read(&rig_guest.scsi[i], 5);
		expect_response(VIRTIO_SCSI_T_TMF_QUERY_TASK, 5, VIRTIO_SCSI_S_FUNCTION_SUCCEEDED);
		expect_response(VIRTIO_SCSI_T_TMF_ABORT_TASK, 5, VIRTIO_OK);
		expect_over(&rig_guest.scsi[i], 5, VIRTIO_SCSI_S_ABORTED);
		usleep(20000); /* it is asleep */
		offer_read(&rig_guest.scsi[i], 6);
		expect_response(VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, 0, VIRTIO_OK);
		expect_over(&rig_guest.scsi[i], 6, VIRTIO_SCSI_S_RESET);
		scsi_guest_make_ready(&rig_guest, 1, 0);
	}
	delete_slow();
}

/* ---- who does not wait for a slow disk ---- */

static void
expect_good(struct client_scsi *scsi)
{
	struct client_scsi_completion completion;

	assert_int_equal(client_scsi_wait(scsi, &completion, DEADLINE_MS), 0);
	assert_int_equal(completion.response.response, VIRTIO_OK);
	assert_int_equal(completion.response.status, GOOD);
	assert_int_equal(completion.used_len, 108 + 512);
}

/* Which are late, and wait for nothing else. */
static void
submit_two_reads(void)
{
	json_int_t before = rig_reads("n");

	submit_read(&rig_guest.scsi[0], 5);
	submit_read(&rig_guest.scsi[1], 6);
	WAIT_UNTIL(rig_reads("n") == before + 2);
}

static void
test_stop(void **state)
{
	(void)state;
	create_slow();
	submit_two_reads();
	assert_int_equal(client_device_stop(&rig_guest.device), 0);
	expect_good(&rig_guest.scsi[0]);
	expect_good(&rig_guest.scsi[1]);
	assert_int_equal(client_device_start(&rig_guest.device), 0);
	delete_slow();
}

/* Requests that are in flight when their target is removed end as they would. */
static void
test_remove(void **state)
{
	(void)state;
	create_slow();
	submit_two_reads();
	delete_slow();
	expect_good(&rig_guest.scsi[0]);
	expect_good(&rig_guest.scsi[1]);
}

/* ---- load ---- */

/*
 * Reads from target 0, where nothing may fail, and from the one that comes and goes, where the only
 * failures are that it is not there, or came anew. stop is set by the test.
 */
struct load {
	struct client_scsi *scsi;
	atomic_uint errors;
	atomic_uint reads;
};

static void
run_load(struct rig_thread *thread, void *arg)
{
	uint8_t data[4096];
	struct load *load = arg;

	while (!thread->stop) {
		int rc = client_scsi_read(load->scsi, 0, 0, 0, 8, data, sizeof(data));

		load->errors += rc != 0;
		rc = client_scsi_read(load->scsi, 3, 0, 0, 8, data, sizeof(data));
		load->reads += rc == 0;
		load->errors += rc < 0 ||
				(rc != 0 && rc != CONDITION && rc != VIRTIO_SCSI_S_BAD_TARGET << 8);
	}
}

static void
test_under_load(void **state)
{
	static struct load loads[SCSI_RIG_QUEUES];
	struct rig_thread *threads[SCSI_RIG_QUEUES];

	(void)state;
	assert_int_equal(create_null("n", 2048), 0);
	for (unsigned int i = 0; i < SCSI_RIG_QUEUES; i++) {
		loads[i].scsi = &rig_guest.scsi[i];
		loads[i].errors = loads[i].reads = 0;
		threads[i] = rig_thread_start(run_load, &loads[i]);
	}
	for (unsigned int i = 0; i < 30; i++) {
		unsigned int before = loads[i % SCSI_RIG_QUEUES].reads;

		assert_int_equal(scsi_rig_add_target("scsi", 3, json_string("n")), 3);
		WAIT_UNTIL(loads[i % SCSI_RIG_QUEUES].reads != before);
		assert_int_equal(scsi_rig_remove_target("scsi", 3), 0);
	}
	for (unsigned int i = 0; i < SCSI_RIG_QUEUES; i++) {
		rig_thread_stop(threads[i]);
		assert_int_equal(loads[i].errors, 0);
	}
	delete_bdev("null", "n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCSI_RIG_TEST(test_numbers),
		SCSI_RIG_TEST(test_wrong_kind),
		SCSI_RIG_TEST(test_delay),
		SCSI_RIG_TEST(test_events),
		SCSI_RIG_TEST(test_events_wait),
		SCSI_RIG_TEST(test_no_hotplug),
		SCSI_RIG_TEST(test_functions_with_effect),
		SCSI_RIG_TEST(test_functions_find_what_is_offered),
		SCSI_RIG_TEST(test_stop),
		SCSI_RIG_TEST(test_remove),
		SCSI_RIG_TEST(test_under_load),
		cmocka_unit_test(scsi_rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_scsi_targets", tests, scsi_rig_group_setup,
					   rig_group_teardown);
}
