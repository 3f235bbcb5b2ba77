/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests, configuration space and the control queue of a virtio-scsi controller. */
/* links: client testlib */
#include "vhost_scsi_rig.h"

#define RESPONSE 108 /* bytes of a response with 96 of sense data */

static const uint8_t inquiry[6] = {0x12, 0, 0, 0, 96, 0};
static uint8_t data[RIG_BOUNCE];

static struct client_scsi_completion
run(const struct client_scsi_command *command)
{
	struct client_scsi_completion completion;

	assert_int_equal(client_scsi_command(&rig_guest.scsi[0], command, &completion), 0);
	return completion;
}

/* ---- requests ---- */

static void
test_reads_and_writes(void **state)
{
	(void)state;
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 100, 8, 1);
	scsi_guest_round_trip(&rig_guest, 1, 0, 0, 60000, 128, 2);
	/* 256 blocks at once, in as many buffers as a chain may have */
	rig_guest.scsi[0].bounce_size = 126 * 1024;
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 7, 252, 3);
}

static void
test_inquiry(void **state)
{
	struct client_scsi_command command = {
		.cdb = inquiry, .cdb_length = sizeof(inquiry), .in = data, .size = 96};
	struct client_scsi_completion completion = run(&command);

	(void)state;
	assert_int_equal(completion.response.response, VIRTIO_OK);
	assert_int_equal(completion.response.status, GOOD);
	assert_true(completion.response.resid < 60);
	assert_int_equal(completion.used_len, RESPONSE + 96 - completion.response.resid);
	assert_int_equal(data[0], 0); /* a disk */
	/* There is no LUN 1, and no target 1. */
	command.lun = 1;
	run(&command);
	assert_int_equal(data[0], 0x7f);
	command.target = 1;
	completion = run(&command);
	assert_int_equal(completion.response.response, VIRTIO_SCSI_S_BAD_TARGET);
	assert_int_equal(completion.used_len, 12);
}

/* What was written is from the beginning of the response to the last byte of data. */
static void
test_lengths(void **state)
{
	const uint8_t read[10] = {0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0};
	const uint8_t write[10] = {0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0};
	struct client_scsi_command command = {
		.cdb = read, .cdb_length = sizeof(read), .in = data, .size = 4096};
	struct client_scsi_completion completion = run(&command);

	(void)state;
	assert_int_equal(completion.response.status, GOOD);
	assert_int_equal(completion.response.resid, 4096 - 1024);
	assert_int_equal(completion.used_len, RESPONSE + 1024);
	command.size = 1023;
	completion = run(&command);
	assert_int_equal(completion.response.response, VIRTIO_SCSI_S_OVERRUN);
	assert_int_equal(completion.response.resid, 1023);
	assert_int_equal(completion.used_len, 12);
	command = (struct client_scsi_command){
		.cdb = write, .cdb_length = sizeof(write), .out = data, .size = 2048};
	completion = run(&command);
	assert_int_equal(completion.response.status, GOOD);
	assert_int_equal(completion.response.resid, 1024);
	assert_int_equal(completion.used_len, 12);
	command.size = 512;
	assert_int_equal(run(&command).response.response, VIRTIO_SCSI_S_OVERRUN);
	command.size = 0;
	assert_int_equal(run(&command).response.response, VIRTIO_SCSI_S_OVERRUN);
}

/* VIRTIO_SCSI_F_INOUT is not offered. */
static void
test_both_ways(void **state)
{
	struct client_scsi *scsi = &rig_guest.scsi[0];
	const struct client_segment segments[] = {{scsi->bounce_gpa, 512, false},
						  {scsi->bounce_gpa + 4096, 512, true}};
	struct client_scsi_request request = {.lun = {1},
					      .cdb = inquiry,
					      .cdb_length = sizeof(inquiry),
					      .segments = segments,
					      .segment_count = 2};
	struct client_scsi_completion completion;

	(void)state;
	assert_false(rig_guest.device.offered_features & RIG_BIT(VIRTIO_SCSI_F_INOUT));
	assert_int_equal(client_scsi_execute(scsi, &request, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_SCSI_S_FAILURE);
}

static void
test_addresses(void **state)
{
	const uint8_t report_luns[12] = {0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0};
	static const struct {
		uint8_t lun[8];
		int response;
		bool found;
	} cases[] = {
		{{1, 0, 0, 0}, VIRTIO_OK, true},
		{{1, 0, 0x40, 0}, VIRTIO_OK, true},
		{{1, 0, 0, 1}, VIRTIO_OK, false},
		{{1, 0, 0x7f, 0xff}, VIRTIO_OK, false},
		{{1, 0, 0x01, 0}, VIRTIO_OK, false}, /* bus 1 */
		{{1, 0, 0x80, 0}, VIRTIO_OK, false},
		{{1, 0, 0, 0, 0, 0, 0, 1}, VIRTIO_OK, false}, /* a second level */
		{{0, 0, 0, 0}, VIRTIO_SCSI_S_BAD_TARGET, false},
		{{2, 0, 0, 0}, VIRTIO_SCSI_S_BAD_TARGET, false},
		{{1, 255, 0, 0}, VIRTIO_SCSI_S_BAD_TARGET, false},
		{{0xc1, 0x02}, VIRTIO_SCSI_S_BAD_TARGET, false},
		{{0xc1, 0x01, 0, 1}, VIRTIO_SCSI_S_BAD_TARGET, false},
	};
	struct client_scsi *scsi = &rig_guest.scsi[0];
	struct client_segment segment = {scsi->bounce_gpa, 96, true};
	struct client_scsi_request request = {.cdb = inquiry,
					      .cdb_length = sizeof(inquiry),
					      .segments = &segment,
					      .segment_count = 1};
	struct client_scsi_completion completion;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(request.lun, cases[i].lun, sizeof(request.lun));
		assert_int_equal(client_scsi_execute(scsi, &request, &completion), 0);
		assert_int_equal(completion.response.response, cases[i].response);
		if (cases[i].response != VIRTIO_OK)
			continue;
		client_memory_read(scsi->ring->memory, segment.gpa, data, 96);
		assert_int_equal(data[0], cases[i].found ? 0x00 : 0x7f);
	}
	/* virtio 1.2 §5.6.6.1: the well-known LUN of REPORT LUNS, and that of a target */
	for (int of_target = 0; of_target < 2; of_target++) {
		const uint8_t luns[2][8] = {{0xc1, 0x01}, {1, 0, 0xc1, 0x01}};

		memcpy(request.lun, luns[of_target], sizeof(request.lun));
		request.cdb = report_luns;
		request.cdb_length = sizeof(report_luns);
		assert_int_equal(client_scsi_execute(scsi, &request, &completion), 0);
		assert_int_equal(completion.response.response, VIRTIO_OK);
		assert_int_equal(completion.response.status, GOOD);
		/* It is a well-known logical unit to itself. */
		request.cdb = inquiry;
		request.cdb_length = sizeof(inquiry);
		assert_int_equal(client_scsi_execute(scsi, &request, &completion), 0);
		client_memory_read(scsi->ring->memory, segment.gpa, data, 96);
		assert_int_equal(data[0], 0x1e);
	}
}

/* ---- configuration space ---- */

static void
test_config(void **state)
{
	struct client *client = &rig_guest.device.client;
	struct virtio_scsi_config config;
	uint32_t sizes[2] = {8, 16};
	uint8_t bad[6] = {0xff}; /* no such command */

	(void)state;
	assert_int_equal(client_get_config(client, 0, sizeof(config), &config), 0);
	assert_true(config.num_queues == 64);
	assert_int_equal(config.seg_max, 126);
	assert_int_equal(config.event_info_size, 16);
	assert_int_equal(config.sense_size, 96);
	assert_int_equal(config.cdb_size, 32);
	assert_int_equal(config.max_channel, 0);
	assert_int_equal(config.max_target, 255);
	assert_int_equal(config.max_lun, 16383);

	assert_int_equal(client_set_config(client, 20, 8, sizes, true), 0);
	assert_int_equal(client_get_config(client, 0, sizeof(config), &config), 0);
	assert_int_equal(config.sense_size, 8);
	assert_int_equal(config.cdb_size, 16);
	rig_guest.scsi[0].sense_size = 8;
	rig_guest.scsi[0].cdb_size = 16;
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 0, 8, 1);
	{
		struct client_scsi_command command = {.cdb = bad, .cdb_length = sizeof(bad)};
		struct client_scsi_completion completion = run(&command);

		assert_int_equal(completion.response.status, CONDITION);
		assert_int_equal(completion.response.sense_len, 8);
		assert_int_equal(completion.used_len, 20);
		assert_int_equal(completion.response.sense[8], 0xff); /* not written */
	}
	/* No sense data at all, and CDBs that are longer than any. */
	sizes[0] = rig_guest.scsi[0].sense_size = 0;
	sizes[1] = rig_guest.scsi[0].cdb_size = 255;
	assert_int_equal(client_set_config(client, 20, 4, &sizes[0], true), 0);
	assert_int_equal(client_set_config(client, 24, 4, &sizes[1], true), 0);
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 0, 8, 2);
	assert_int_equal(rig_guest.scsi[0].slots[0].memory[CLIENT_SCSI_RESPONSE_AT], 0);
}

static void
refuse_config(uint32_t offset, uint32_t size, uint32_t first, uint32_t second)
{
	const uint32_t bytes[2] = {first, second};

	assert_int_equal(client_set_config(&rig_guest.device.client, offset, size, bytes, true),
			 -EREMOTEIO);
}

static void
test_config_refused(void **state)
{
	(void)state;
	refuse_config(0, 4, 1, 0);
	refuse_config(16, 8, 16, 96);
	refuse_config(20, 4, 257, 0);
	refuse_config(20, 8, 96, 257);
	refuse_config(24, 4, 0, 0);
	refuse_config(24, 8, 32, 0);
	refuse_config(22, 4, 0, 0);
	refuse_config(20, 2, 0, 0);
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 0, 8, 1);
}

/* ---- the control queue ---- */

static const uint8_t lun0[8] = {1};

static void
test_functions(void **state)
{
	struct client_scsi_control *control = &rig_guest.control;
	const uint8_t no_lun[8] = {1, 0, 0, 5}, no_target[8] = {1, 9}, report_luns[8] = {0xc1, 1};

	(void)state;
	for (uint32_t function = 0; function <= VIRTIO_SCSI_T_TMF_QUERY_TASK_SET; function++) {
		bool rejected = function == VIRTIO_SCSI_T_TMF_CLEAR_ACA;

		assert_int_equal(client_scsi_tmf(control, function, lun0, 77),
				 rejected ? VIRTIO_SCSI_S_FUNCTION_REJECTED : VIRTIO_OK);
		assert_int_equal(client_scsi_tmf(control, function, no_target, 77),
				 VIRTIO_SCSI_S_BAD_TARGET);
	}
	assert_int_equal(client_scsi_tmf(control, VIRTIO_SCSI_T_TMF_ABORT_TASK, no_lun, 77),
			 VIRTIO_SCSI_S_INCORRECT_LUN);
	assert_int_equal(client_scsi_tmf(control, VIRTIO_SCSI_T_TMF_ABORT_TASK, report_luns, 77),
			 VIRTIO_OK);
	assert_int_equal(client_scsi_tmf(control, VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET, no_lun, 77),
			 VIRTIO_OK);
	assert_int_equal(client_scsi_tmf(control, 8, lun0, 77), VIRTIO_SCSI_S_FUNCTION_REJECTED);
	assert_int_equal(client_scsi_tmf(control, 0x100, lun0, 77),
			 VIRTIO_SCSI_S_FUNCTION_REJECTED);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), 0x2903); /* the resets */
}

static void
test_notifications(void **state)
{
	struct client_scsi_control *control = &rig_guest.control;
	struct virtio_scsi_ctrl_an_req request = {.event_requested = 0x7e, .lun = {1}};
	struct virtio_scsi_ctrl_an_resp response;
	uint32_t used_len;

	(void)state;
	for (uint32_t type = VIRTIO_SCSI_T_AN_QUERY; type <= VIRTIO_SCSI_T_AN_SUBSCRIBE; type++) {
		request.type = type;
		assert_int_equal(client_scsi_control_submit(control, &request, sizeof(request), 5),
				 0);
		assert_int_equal(client_scsi_control_wait(control, &used_len), 0);
		assert_int_equal(used_len, 5);
		memcpy(&response, (const void *)control->response, sizeof(response));
		assert_int_equal(response.event_actual, 0);
		assert_int_equal(response.response, VIRTIO_OK);
	}
	request.lun[1] = 3;
	assert_int_equal(client_scsi_control_submit(control, &request, sizeof(request), 5), 0);
	assert_int_equal(client_scsi_control_wait(control, &used_len), 0);
	assert_int_equal(control->response[4], VIRTIO_SCSI_S_BAD_TARGET);
}

/* A guest that floods the queue with functions has each answered. */
static void
test_flood(void **state)
{
	const struct virtio_scsi_ctrl_tmf_req request = {
		.type = VIRTIO_SCSI_T_TMF, .subtype = VIRTIO_SCSI_T_TMF_ABORT_TASK_SET, .lun = {1}};
	struct client_ring *ring = rig_guest.control.ring;
	struct client_segment segments[2] = {{rig_guest.control.gpa, sizeof(request), false},
					     {rig_guest.control.gpa + 64, 1, true}};
	struct client_used used;
	unsigned int sent = 0, answered = 0;

	(void)state;
	memcpy(rig_guest.control.request, &request, sizeof(request));
	client_ring_suppress_calls(ring, true);
	while (answered < 2000) {
		while (sent < 2000 && client_ring_add(ring, segments, 2, false, 0) == 0)
			sent++;
		client_ring_publish(ring);
		assert_int_equal(client_ring_kick(ring), 0);
		assert_int_equal(client_ring_wait(ring, DEADLINE_MS), 0);
		while (client_ring_pop(ring, &used) == 1)
			answered++;
	}
	assert_int_equal(sent, 2000);
}

/* ---- sessions ---- */

/* As many queues of requests as there can be: also the last one serves, stops, and goes on. */
static void
test_64_queues(void **state)
{
	struct client_options options = {
		.queues = CLIENT_SCSI_REQUESTS + 64, .queue_size = 16, .indirect_max = 34};

	(void)state;
	scsi_guest_end(&rig_guest);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", &options), 0);
	assert_int_equal(rig_guest.device.max_queues, CLIENT_SCSI_REQUESTS + 64);
	scsi_guest_make_ready(&rig_guest, 0, 0);
	for (unsigned int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i < 64; i++)
			scsi_guest_round_trip(&rig_guest, i, 0, 0, i * 8, 8, i + round);
		if (round == 0) {
			assert_int_equal(client_device_stop(&rig_guest.device), 0);
			assert_int_equal(client_device_start(&rig_guest.device), 0);
		} else {
			assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
		}
	}
}

/* A driver that begins finds a power-on; one that goes on does not. */
static void
test_beginnings(void **state)
{
	(void)state;
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), 0);
	assert_int_equal(client_device_reconnect(&rig_guest.device), 0);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), 0);
	assert_int_equal(client_device_stop(&rig_guest.device), 0);
	assert_int_equal(client_device_start(&rig_guest.device), 0);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), 0);
	assert_int_equal(client_device_stop(&rig_guest.device), 0);
	client_device_reset(&rig_guest.device);
	assert_int_equal(client_device_start(&rig_guest.device), 0);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), POWERED_ON);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), 0);
	scsi_guest_end(&rig_guest);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), POWERED_ON);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCSI_RIG_TEST(test_reads_and_writes), SCSI_RIG_TEST(test_inquiry),
		SCSI_RIG_TEST(test_lengths),          SCSI_RIG_TEST(test_both_ways),
		SCSI_RIG_TEST(test_addresses),        SCSI_RIG_TEST(test_config),
		SCSI_RIG_TEST(test_config_refused),   SCSI_RIG_TEST(test_functions),
		SCSI_RIG_TEST(test_notifications),    SCSI_RIG_TEST(test_flood),
		SCSI_RIG_TEST(test_64_queues),        SCSI_RIG_TEST(test_beginnings),
	};
	const struct CMUnitTest end[] = {cmocka_unit_test(scsi_rig_test_end)};
	int failed = 0;

	for (int i = 0; i < 2; i++) {
		rig_ring_features =
			i == 0 ? 0
			       : RIG_BIT(VIRTIO_F_RING_PACKED) | RIG_BIT(VIRTIO_RING_F_EVENT_IDX);
		failed += cmocka_run_group_tests_name(i == 0 ? "split" : "packed", tests,
						      scsi_rig_group_setup, NULL);
		failed += cmocka_run_group_tests_name("end", end, NULL, rig_group_teardown);
	}
	return failed;
}
