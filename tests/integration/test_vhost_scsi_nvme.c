/* SPDX-License-Identifier: BSD-3-Clause */
/* LUNs on NVMe disks: devices that reach a guest's memory by themselves, and that go away. */
/* links: client testlib */
#include "nvme_device.h"
#include "vhost_scsi_rig.h"

static struct nvme_device device;

static int
setup(void **state)
{
	static const char *const args[] = {"-c", "ns add 1 memory 8192 512", "-c",
					   "ns add 2 memory 8192 512", NULL};

	(void)state;
	memset(&rig_guest, 0, sizeof(rig_guest));
	rig_guest.device.client.fd = rig_guest.device.client.backend_fd = -1;
	if (nvme_device_start(&device, args) != 0)
		return -1;
	return daemon_start(&rig_daemon, (const char *const[]){"--cpus", "0-1", NULL});
}

static int
teardown(void **state)
{
	int daemon, nvme;

	(void)state;
	rig_threads_end();
	scsi_guest_end(&rig_guest);
	daemon = daemon_end(&rig_daemon);
	nvme = nvme_device_end(&device);
	return daemon == 0 && nvme == 0 ? 0 : -1;
}

static void
attach(void)
{
	assert_int_equal(daemon_call(&rig_daemon, "bdev_nvme_attach_controller",
				     json_pack("{s:s, s:s, s:s}", "name", "nvme0", "trtype",
					       "VFIOUSER", "traddr", device.socket)),
			 0);
}

static size_t
count_luns(void)
{
	json_t *controller = rig_controller("scsi");
	json_t *targets = json_object_get(json_object_get(controller, "backend_specific"), "scsi");
	size_t count = 0, i;
	json_t *target;

	json_array_foreach (targets, i, target)
		count += json_array_size(json_object_get(target, "luns"));
	json_decref(controller);
	return count;
}

struct load {
	struct client_scsi *scsi;
	uint16_t lun;
	atomic_uint reads, errors, missing;
};

/* Reads until the LUN is gone; the only failure is that. */
static void
run_load(struct rig_thread *thread, void *arg)
{
	struct load *load = arg;
	uint8_t data[4096];

	while (!thread->stop) {
		int rc = client_scsi_read(load->scsi, 0, load->lun, 0, 8, data, sizeof(data));

		load->reads += rc == 0;
		load->missing += rc == CONDITION || rc == VIRTIO_SCSI_S_BAD_TARGET << 8;
		load->errors += rc != 0 && rc != CONDITION && rc != VIRTIO_SCSI_S_BAD_TARGET << 8;
	}
}

static void
wait_for(atomic_uint *counter, unsigned int before)
{
	WAIT_UNTIL(*counter != before);
}

/*
 * Memory is there before the disks and behind them: in both cases data goes straight to the device.
 * Then the device is taken away under load, from two LUNs on two queues, and comes back.
 */
static void
test_comes_and_goes(void **state)
{
	static struct load loads[SCSI_RIG_QUEUES];
	struct rig_thread *threads[SCSI_RIG_QUEUES];

	(void)state;
	attach();
	scsi_rig_create("scsi");
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("nvme0n1")), 0);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	assert_int_equal(client_scsi_events_offer(&rig_guest.events, 16), 0);
	scsi_guest_make_ready(&rig_guest, 0, 0);
	scsi_guest_round_trip(&rig_guest, 0, 0, 0, 0, 256, 1);
	assert_int_equal(scsi_rig_remove_target("scsi", 0), 0);
	scsi_guest_expect_event(&rig_guest, VIRTIO_SCSI_T_TRANSPORT_RESET, 0, 0,
				VIRTIO_SCSI_EVT_RESET_REMOVED);
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_pack("[s, s]", "nvme0n1", "nvme0n2")),
			 0);
	for (uint16_t lun = 0; lun < 2; lun++) {
		scsi_guest_expect_event(&rig_guest, VIRTIO_SCSI_T_TRANSPORT_RESET, 0, lun,
					VIRTIO_SCSI_EVT_RESET_RESCAN);
		scsi_guest_make_ready(&rig_guest, 0, lun);
		scsi_guest_round_trip(&rig_guest, lun, 0, lun, 8, 256, 2);
	}
	for (uint16_t i = 0; i < SCSI_RIG_QUEUES; i++) {
		loads[i] = (struct load){.scsi = &rig_guest.scsi[i], .lun = i};
		threads[i] = rig_thread_start(run_load, &loads[i]);
	}
	for (unsigned int i = 0; i < SCSI_RIG_QUEUES; i++)
		wait_for(&loads[i].reads, 0);
	assert_int_equal(daemon_call(&rig_daemon, "bdev_nvme_detach_controller",
				     json_pack("{s:s}", "name", "nvme0")),
			 0);
	assert_int_equal(count_luns(), 0);
	for (unsigned int i = 0; i < SCSI_RIG_QUEUES; i++) {
		wait_for(&loads[i].missing, loads[i].missing);
		rig_thread_stop(threads[i]);
		assert_int_equal(loads[i].errors, 0);
	}
	for (unsigned int i = 0; i < 2; i++) {
		struct virtio_scsi_event event;

		assert_int_equal(client_scsi_events_wait(&rig_guest.events, &event, DEADLINE_MS),
				 0);
		assert_int_equal(event.event, VIRTIO_SCSI_T_TRANSPORT_RESET);
		assert_int_equal(event.reason, VIRTIO_SCSI_EVT_RESET_REMOVED);
	}
	assert_int_equal(scsi_guest_probe(&rig_guest, 0, 0), VIRTIO_SCSI_S_BAD_TARGET);
	/* The number is taken until somebody says otherwise. */
	attach();
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("nvme0n1")), -EEXIST);
	assert_int_equal(scsi_rig_remove_target("scsi", 0), 0);
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_string("nvme0n1")), 0);
	scsi_guest_make_ready(&rig_guest, 0, 0);
	scsi_guest_round_trip(&rig_guest, 1, 0, 0, 0, 256, 3);
}

/* A disk of two goes: the target stays, with the other one. */
static void
test_one_of_two(void **state)
{
	(void)state;
	attach();
	assert_int_equal(daemon_create_malloc(&rig_daemon, "disk", SCSI_RIG_BLOCKS, 512), 0);
	scsi_rig_create("scsi");
	assert_int_equal(scsi_rig_add_target("scsi", 0, json_pack("[s, s]", "nvme0n1", "disk")), 0);
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 0, 0);
	scsi_guest_make_ready(&rig_guest, 0, 1);
	assert_int_equal(daemon_call(&rig_daemon, "bdev_nvme_detach_controller",
				     json_pack("{s:s}", "name", "nvme0")),
			 0);
	assert_int_equal(count_luns(), 1);
	assert_int_equal(scsi_guest_test_unit(&rig_guest, 0, 0), NO_DISK);
	scsi_guest_make_ready(&rig_guest, 0, 1);
	scsi_guest_round_trip(&rig_guest, 0, 0, 1, 0, 8, 1);
	assert_int_equal(scsi_rig_remove_target("scsi", 0), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_comes_and_goes),
		TEST(test_one_of_two),
	};

	return cmocka_run_group_tests_name("vhost_scsi_nvme", tests, NULL, NULL);
}
