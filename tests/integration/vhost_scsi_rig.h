/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_scsi_rig: a daemon for the group, and for each test a virtio-scsi controller "scsi" with a
 * malloc disk as LUN 0 of target 0, and a guest with two request queues.
 */
#ifndef VHOSTD_VHOST_SCSI_RIG_H
#define VHOSTD_VHOST_SCSI_RIG_H

#include "vhost_rig.h"

#define SCSI_RIG_QUEUES 2
#define SCSI_RIG_BLOCKS 65536u

struct scsi_guest {
	struct client_device device;
	struct client_scsi_control control;
	struct client_scsi_events events;
	struct client_scsi scsi[CLIENT_MAX_QUEUES];
	unsigned int queues; /* of requests */
};

static struct scsi_guest rig_guest;

/* ---- guests ---- */

static inline int
scsi_guest_try_start(struct scsi_guest *guest, const char *name,
		     const struct client_options *options)
{
	struct client_options filled = {0};
	int rc;

	memset(guest, 0, sizeof(*guest));
	if (options != NULL)
		filled = *options;
	if (filled.queues == 0)
		filled.queues = CLIENT_SCSI_REQUESTS + SCSI_RIG_QUEUES;
	if (filled.features == 0)
		filled.features = CLIENT_DEFAULT_FEATURES | rig_ring_features;
	if (filled.timeout_ms == 0)
		filled.timeout_ms = DEADLINE_MS;
	filled.config_size = sizeof(struct virtio_scsi_config);
	guest->queues = filled.queues - CLIENT_SCSI_REQUESTS;
	rc = client_device_open(&guest->device, rig_socket(name), &filled);
	if (rc == 0)
		rc = client_scsi_control_create(&guest->control,
						&guest->device.rings[CLIENT_SCSI_CONTROL]);
	if (rc == 0)
		rc = client_scsi_events_create(&guest->events,
					       &guest->device.rings[CLIENT_SCSI_EVENTS]);
	guest->control.timeout_ms = DEADLINE_MS;
	for (unsigned int i = 0; i < guest->queues && rc == 0; i++) {
		rc = client_scsi_create(
			&guest->scsi[i], &guest->device.rings[CLIENT_SCSI_REQUESTS + i], RIG_BOUNCE,
			guest->device.features & RIG_BIT(VIRTIO_RING_F_INDIRECT_DESC));
		guest->scsi[i].timeout_ms = DEADLINE_MS;
	}
	return rc == 0 ? client_device_start(&guest->device) : rc;
}

/* Dies without a word. */
static inline void
scsi_guest_end(struct scsi_guest *guest)
{
	for (unsigned int i = 0; i < guest->queues; i++)
		client_scsi_destroy(&guest->scsi[i]);
	client_device_close(&guest->device);
}

#define VIRTIO_OK  VIRTIO_SCSI_S_OK
#define GOOD       0x00
#define CONDITION  0x02
#define NO_DISK    0x2500 /* LOGICAL UNIT NOT SUPPORTED */
#define POWERED_ON 0x2900

/* A command without data; the additional sense code and qualifier that it ends with, or 0: GOOD. */
static inline unsigned int
scsi_guest_sense(struct scsi_guest *guest, uint8_t target, uint16_t lun, const uint8_t *cdb,
		 uint32_t length)
{
	struct client_scsi_command command = {
		.target = target, .lun = lun, .cdb = cdb, .cdb_length = length};
	struct client_scsi_completion completion;
	const struct virtio_scsi_cmd_resp *response = &completion.response;

	assert_int_equal(client_scsi_command(&guest->scsi[0], &command, &completion), 0);
	assert_int_equal(response->response, VIRTIO_OK);
	if (response->status == GOOD)
		return 0;
	assert_int_equal(response->status, CONDITION);
	assert_true(response->sense_len >= 14);
	assert_int_equal(completion.used_len, 12 + response->sense_len);
	return (unsigned int)response->sense[12] << 8 | response->sense[13];
}

static inline unsigned int
scsi_guest_test_unit(struct scsi_guest *guest, uint8_t target, uint16_t lun)
{
	const uint8_t cdb[6] = {0};

	return scsi_guest_sense(guest, target, lun, cdb, sizeof(cdb));
}

/* Until the unit attentions that are pending have been told. */
static inline void
scsi_guest_make_ready(struct scsi_guest *guest, uint8_t target, uint16_t lun)
{
	unsigned int tries = 8;

	while (scsi_guest_test_unit(guest, target, lun) != 0)
		assert_true(--tries > 0);
}

/* The response's code to TEST UNIT READY. */
static inline int
scsi_guest_probe(struct scsi_guest *guest, uint8_t target, uint16_t lun)
{
	const uint8_t cdb[6] = {0};
	struct client_scsi_command command = {
		.target = target, .lun = lun, .cdb = cdb, .cdb_length = sizeof(cdb)};
	struct client_scsi_completion completion;

	assert_int_equal(client_scsi_command(&guest->scsi[0], &command, &completion), 0);
	return completion.response.response;
}

static inline void
scsi_guest_expect_event(struct scsi_guest *guest, uint32_t type, uint8_t target, uint16_t lun,
			uint32_t reason)
{
	struct virtio_scsi_event event;
	uint8_t field[8];

	client_scsi_lun(field, target, lun);
	assert_int_equal(client_scsi_events_wait(&guest->events, &event, DEADLINE_MS), 0);
	assert_int_equal(event.event, type);
	assert_memory_equal(event.lun, field, sizeof(field));
	assert_int_equal(event.reason, reason);
}

static inline void
scsi_guest_round_trip(struct scsi_guest *guest, unsigned int queue, uint8_t target, uint16_t lun,
		      uint32_t lba, uint16_t blocks, unsigned int seed)
{
	static uint8_t out[RIG_BOUNCE], in[RIG_BOUNCE];
	uint32_t size = blocks * 512u;

	rig_fill(out, size, seed);
	memset(in, 0, size);
	assert_int_equal(
		client_scsi_write(&guest->scsi[queue], target, lun, lba, blocks, out, size), 0);
	assert_int_equal(client_scsi_read(&guest->scsi[queue], target, lun, lba, blocks, in, size),
			 0);
	assert_memory_equal(in, out, size);
}

/* ---- controllers ---- */

/* The target's number, or an error's code. bdevs is taken. */
static inline int
scsi_rig_add_target(const char *name, int number, json_t *bdevs)
{
	int code = 0;
	json_t *result = daemon_rpc(&rig_daemon, "vhost_scsi_controller_add_target",
				    json_pack("{s:s, s:i, s:o}", "ctrlr", name, "scsi_target_num",
					      number, "bdev_name", bdevs),
				    &code);

	if (result != NULL)
		code = (int)json_integer_value(result);
	json_decref(result);
	return code;
}

static inline int
scsi_rig_remove_target(const char *name, int number)
{
	return daemon_call(&rig_daemon, "vhost_scsi_controller_remove_target",
			   json_pack("{s:s, s:i}", "ctrlr", name, "scsi_target_num", number));
}

static inline void
scsi_rig_create(const char *name)
{
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_scsi_controller",
				     json_pack("{s:s}", "ctrlr", name)),
			 0);
}

/* ---- fixtures ---- */

static inline int
scsi_rig_group_setup(void **state)
{
	(void)state;
	return daemon_start(&rig_daemon, (const char *const[]){"--cpus", "0-1", NULL});
}

static inline void
scsi_rig_test_end(void **state)
{
	(void)state;
	assert_int_equal(daemon_stop(&rig_daemon), 0);
}

static inline int
scsi_rig_setup(void **state)
{
	(void)state;
	assert_int_equal(daemon_create_malloc(&rig_daemon, "disk", SCSI_RIG_BLOCKS, 512), 0);
	scsi_rig_create("scsi");
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("disk")), 0);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 0, 0);
	return 0;
}

static inline int
scsi_rig_teardown(void **state)
{
	(void)state;
	rig_threads_end();
	scsi_guest_end(&rig_guest);
	assert_true(daemon_is_alive(&rig_daemon));
	assert_int_equal(rig_delete_controller("scsi"), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_malloc_delete", json_pack("{s:s}", "name", "disk")),
		0);
	return 0;
}

#define SCSI_RIG_TEST(name) cmocka_unit_test_setup_teardown(name, scsi_rig_setup, scsi_rig_teardown)

#endif
