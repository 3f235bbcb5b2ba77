/* SPDX-License-Identifier: BSD-3-Clause */
/* What no driver should send to a virtio-scsi controller: it costs the queue, and nobody else. */
/* links: client testlib */
#include "vhost_scsi_rig.h"

#define MAX_SEGMENTS 8

/* Puts one chain on a queue whose buffers are in the bounce buffer of request queue 0. */
static void
send_chain(unsigned int queue, const struct client_segment *segments, unsigned int count)
{
	struct client_ring *ring = &rig_guest.device.rings[queue];
	struct client_segment placed[MAX_SEGMENTS];
	uint64_t gpa = rig_guest.scsi[0].bounce_gpa;

	for (unsigned int i = 0; i < count; i++) {
		placed[i] = segments[i];
		placed[i].gpa = gpa;
		gpa += 4096;
	}
	assert_int_equal(client_ring_add(ring, placed, count, false, 0), 0);
	client_ring_publish(ring);
	assert_int_equal(client_ring_kick(ring), 0);
}

static void
put(unsigned int segment, uint32_t offset, const void *bytes, size_t size)
{
	assert_int_equal(client_memory_write(&rig_guest.device.memory,
					     rig_guest.scsi[0].bounce_gpa + segment * 4096 + offset,
					     bytes, size),
			 0);
}

/* The queue is broken; the other request queue, on another thread, is not. */
static void
expect_broken(unsigned int queue)
{
	assert_int_equal(client_ring_wait_error(&rig_guest.device.rings[queue], DEADLINE_MS), 0);
	assert_true(daemon_is_alive(&rig_daemon));
	scsi_guest_round_trip(&rig_guest, 1, 0, 0, 0, 8, queue);
}

static void
restart_guest(void)
{
	scsi_guest_end(&rig_guest);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 0, 0);
}

static void
test_requests(void **state)
{
	static const struct {
		struct client_segment segments[MAX_SEGMENTS];
		unsigned int count;
	} cases[] = {
		{{{0, 50, false}, {0, 108, true}}, 2}, /* a header that is too short */
		{{{0, 51, false}, {0, 107, true}}, 2}, /* ... and a response */
		{{{0, 51, false}}, 1},                 /* no response */
		{{{0, 108, true}}, 1},                 /* no header */
		{{{0, 1, false}, {0, 1, true}}, 2},    /* next to nothing */
		{{{0, 51, false}, {0, 60, true}, {0, 47, true}}, 3}, /* too short in two */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		send_chain(CLIENT_SCSI_REQUESTS, cases[i].segments, cases[i].count);
		expect_broken(CLIENT_SCSI_REQUESTS);
		restart_guest();
	}
}

/* Any layout: header, response and data in pieces that end anywhere. */
static void
test_layouts(void **state)
{
	static const struct client_segment segments[] = {
		{0, 5, false}, {0, 40, false}, {0, 6, false}, {0, 3, true},
		{0, 9, true},  {0, 90, true},  {0, 38, true}, {0, 4096, true},
	};
	/* 38: the last 6 of the response, and 32 of data */
	uint8_t header[51] = {1}, response[108], data[64];
	struct client_used used;

	(void)state;
	header[19] = 0x12;
	header[23] = 64;
	put(0, 0, header, 5);
	put(1, 0, header + 5, 40);
	put(2, 0, header + 45, 6);
	send_chain(CLIENT_SCSI_REQUESTS, segments, 8);
	assert_int_equal(
		client_ring_wait(&rig_guest.device.rings[CLIENT_SCSI_REQUESTS], DEADLINE_MS), 0);
	assert_int_equal(client_ring_pop(&rig_guest.device.rings[CLIENT_SCSI_REQUESTS], &used), 1);
	{
		const uint64_t gpa = rig_guest.scsi[0].bounce_gpa;
		struct client_memory *memory = &rig_guest.device.memory;

		client_memory_read(memory, gpa + 3 * 4096, response, 3);
		client_memory_read(memory, gpa + 4 * 4096, response + 3, 9);
		client_memory_read(memory, gpa + 5 * 4096, response + 12, 90);
		client_memory_read(memory, gpa + 6 * 4096, response + 102, 6);
		client_memory_read(memory, gpa + 6 * 4096 + 6, data, 32);
		client_memory_read(memory, gpa + 7 * 4096, data + 32, 32);
	}
	for (unsigned int i = 0; i < sizeof(response); i++)
		if (i < 4 || i > 7) /* but for the residual count */
			assert_int_equal(response[i], 0);
	assert_int_equal(used.len + (response[4] | response[5] << 8), 108 + 32 + 4096);
	assert_int_equal(data[0], 0);
	assert_int_equal(data[1], 0);
	assert_true(data[4] >= 31);
	assert_memory_not_equal(data + 8, "\0\0\0\0\0\0\0\0", 8); /* the vendor */
}

static void
test_control(void **state)
{
	static const struct {
		uint32_t type, size, response;
	} cases[] = {
		{VIRTIO_SCSI_T_TMF, 23, 1},
		{VIRTIO_SCSI_T_TMF, 24, 0},
		{VIRTIO_SCSI_T_TMF, 3, 1},
		{VIRTIO_SCSI_T_AN_QUERY, 15, 5},
		{VIRTIO_SCSI_T_AN_QUERY, 16, 4},
		{VIRTIO_SCSI_T_AN_SUBSCRIBE, 16, 0},
		{3, 24, 5},
		{0xffffffff, 24, 5},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t bytes[24] = {0};

		memcpy(bytes, &cases[i].type, 4);
		assert_int_equal(client_scsi_control_submit(&rig_guest.control, bytes,
							    cases[i].size, cases[i].response),
				 0);
		expect_broken(CLIENT_SCSI_CONTROL);
		restart_guest();
	}
}

/* A buffer that is too short, or to be read, is found out when there is an event. */
static void
test_event_buffers(void **state)
{
	static const struct client_segment segments[] = {{0, 15, true}, {0, 16, false}};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		send_chain(CLIENT_SCSI_EVENTS, &segments[i], 1);
		scsi_guest_round_trip(&rig_guest, 0, 0, 0, 0, 8, i);
		assert_int_equal(scsi_rig_add_target("scsi", 5, json_string("disk")), 5);
		expect_broken(CLIENT_SCSI_EVENTS);
		assert_int_equal(scsi_rig_remove_target("scsi", 5), 0);
		restart_guest();
	}
}

/* More data buffers than a request has data for. */
static void
test_large_buffers(void **state)
{
	const uint8_t inquiry[6] = {0x12, 0, 0, 0, 96, 0};
	struct client_scsi *scsi = &rig_guest.scsi[0];
	struct client_segment segments[512];
	struct client_scsi_request request = {.lun = {1},
					      .cdb = inquiry,
					      .cdb_length = sizeof(inquiry),
					      .segments = segments,
					      .segment_count = 100};
	struct client_scsi_completion completion;

	(void)state;
	/* The same 64 KiB, again and again. */
	for (unsigned int i = 0; i < 100; i++)
		segments[i] = (struct client_segment){scsi->bounce_gpa, 65536, true};
	assert_int_equal(client_scsi_execute(scsi, &request, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_OK);
	assert_int_equal(completion.response.status, GOOD);
	assert_int_equal(completion.used_len, 108 + 6553600 - completion.response.resid);
}

/* Every attribute, priority and tag is taken. */
static void
test_attributes(void **state)
{
	const uint8_t test_unit_ready[6] = {0};
	struct client_scsi_request request = {
		.lun = {1}, .cdb = test_unit_ready, .cdb_length = sizeof(test_unit_ready)};
	struct client_scsi_completion completion;

	(void)state;
	for (unsigned int attribute = 0; attribute < 256; attribute += 5) {
		request.attribute = (uint8_t)attribute;
		request.tag = UINT64_MAX - attribute;
		assert_int_equal(client_scsi_execute(&rig_guest.scsi[0], &request, &completion), 0);
		assert_int_equal(completion.response.response, VIRTIO_OK);
		assert_int_equal(completion.response.status, GOOD);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCSI_RIG_TEST(test_requests),        SCSI_RIG_TEST(test_layouts),
		SCSI_RIG_TEST(test_control),         SCSI_RIG_TEST(test_event_buffers),
		SCSI_RIG_TEST(test_large_buffers),   SCSI_RIG_TEST(test_attributes),
		cmocka_unit_test(scsi_rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_scsi_hostile", tests, scsi_rig_group_setup,
					   rig_group_teardown);
}
