/* SPDX-License-Identifier: BSD-3-Clause */
/* links: client testlib */
/* A daemon with virtio-scsi controllers, and guests that use them, through RPC and vhost-user. */
#include "vhost_scsi_rig.h"

static void
test_reads_and_writes(void **state)
{
	(void)state;
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 100, 8, 1);
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 60000, 128, 2);
}

/* One string names a target's only disk; the guest asks for INQUIRY data. */
static void
test_inquiry(void **state)
{
	const uint8_t cdb[6] = {0x12, 0, 0, 0, 96, 0};
	struct client_scsi_completion completion;
	uint8_t data[96];
	struct client_scsi_command command = {
		.cdb = cdb, .cdb_length = sizeof(cdb), .in = data, .size = sizeof(data)};

	(void)state;
	assert_int_equal(client_scsi_command(&rig_guest.scsi[0], &command, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_SCSI_S_OK);
	assert_int_equal(completion.response.status, 0);
	assert_true(completion.response.resid < 60);
	assert_int_equal(completion.used_len, 108 + 96 - completion.response.resid);
	assert_int_equal(data[0], 0);     /* a disk */
	assert_int_equal(data[2], 6);     /* SPC-4 */
	assert_int_equal(data[7] & 2, 2); /* command queueing */
	/* There is no LUN 1, and no target 1. */
	command.lun = 1;
	assert_int_equal(client_scsi_command(&rig_guest.scsi[0], &command, &completion), 0);
	assert_int_equal(data[0], 0x7f);
	command.target = 1;
	assert_int_equal(client_scsi_command(&rig_guest.scsi[0], &command, &completion), 0);
	assert_int_equal(completion.response.response, VIRTIO_SCSI_S_BAD_TARGET);
	assert_int_equal(completion.used_len, 12);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCSI_RIG_TEST(test_reads_and_writes),
		SCSI_RIG_TEST(test_inquiry),
		cmocka_unit_test(scsi_rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_scsi", tests, scsi_rig_group_setup,
					   rig_group_teardown);
}
