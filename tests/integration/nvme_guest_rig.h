/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_guest_rig: what the tests of guests on NVMe disks share: a daemon with one controller of the
 * software device, nvme0, whose first namespace is the disk of the vhost controller vm, and a guest
 * on it. At the end neither the daemon nor the device may have something to complain about.
 */
#ifndef VHOSTD_NVME_GUEST_RIG_H
#define VHOSTD_NVME_GUEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <linux/virtio_config.h>

#include "client.h"
#include "daemon.h"
#include "nvme_device.h"
#include "waiting.h"
#include "workload.h"

#define BLOCKS    8192 /* of 512 bytes: WORKLOAD_DISK_BYTES */
#define BOUNCE    (128u * 1024)
#define NAMESPACE "ns add 1 memory 8192 512"

static struct {
	struct daemon daemon;
	struct nvme_device device;
	struct workload load;
	struct client_device guest;
	struct client_blk blk;
} rig;

#define control(...) assert_int_equal(nvme_device_control(&rig.device, NULL, __VA_ARGS__), 0)
#define rpc(method, ...)                                                                           \
	assert_int_equal(daemon_call(&rig.daemon, method, json_pack(__VA_ARGS__)), 0)

/* Fails, when it is later, with what the daemon says. */
#define IN_TIME(deadline)                                                                          \
	do {                                                                                       \
		if (now_ms() >= (deadline)) {                                                      \
			daemon_print_state(&rig.daemon);                                           \
			fail_msg("not in time");                                                   \
		}                                                                                  \
	} while (0)

#define UNTIL(condition)                                                                           \
	do {                                                                                       \
		uint64_t deadline = now_ms() + DEADLINE_MS;                                        \
                                                                                                   \
		while (!(condition)) {                                                             \
			IN_TIME(deadline);                                                         \
			usleep(2000);                                                              \
		}                                                                                  \
	} while (0)

/* ---- the daemon, its controller, the guest ---- */

/*
 * Requests that the device lost end soon; so do, on a slow machine, others, which does not count
 * against them. Admin commands have all the time they need.
 */
static inline void
notice_lost_io(void)
{
	rpc("bdev_nvme_set_options", "{s:s, s:i, s:i, s:i}", "action_on_timeout", "abort",
	    "timeout_us", 300000, "timeout_admin_us", DEADLINE_S * 1000000, "transport_retry_count",
	    255);
}

static inline void
attach(void)
{
	rpc("bdev_nvme_attach_controller", "{s:s, s:s, s:s}", "name", "nvme0", "trtype", "VFIOUSER",
	    "traddr", rig.device.socket);
}

static inline void
create_vm(void)
{
	rpc("vhost_create_blk_controller", "{s:s, s:s, s:b}", "ctrlr", "vm", "dev_name", "nvme0n1",
	    "packed_ring", true);
}

static inline void
start_daemon(const char *const *args)
{
	assert_int_equal(daemon_start(&rig.daemon, args), 0);
	attach();
	create_vm();
}

/* Queues on two threads, where there are so many CPUs. */
static inline void
start_daemon_on_two_cores(void)
{
	static const char *const two_cores[] = {"-l", "0,1", NULL};

	start_daemon(sysconf(_SC_NPROCESSORS_ONLN) > 1 ? two_cores : NULL);
}

/* lines: for the device, after NULL or another one first line; ended by NULL. */
static inline void
start_device(const char *namespace, const char *line)
{
	const char *args[] = {"-c", namespace, line != NULL ? "-c" : NULL, line, NULL};

	assert_int_equal(nvme_device_start(&rig.device, args), 0);
}

static inline int
setup(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	rig.guest.client.fd = -1;
	return 0;
}

/* The device has nothing to complain about, and the daemon has not either. */
static inline int
teardown(void **state)
{
	int daemon = 0, device = 0;

	(void)state;
	if (rig.daemon.folder[0] != '\0')
		daemon = daemon_end(&rig.daemon);
	if (rig.device.folder[0] != '\0')
		device = nvme_device_end(&rig.device);
	if (daemon != 0 || device != 0)
		fprintf(stderr, "# daemon: %d, device: %d\n", daemon, device);
	return daemon == 0 && device == 0 ? 0 : -1;
}

static inline void
plug(void)
{
	struct client_options options = {.features = CLIENT_DEFAULT_FEATURES,
					 .timeout_ms = DEADLINE_MS};
	char path[DAEMON_PATH];

	daemon_path(&rig.daemon, "vm", path);
	assert_int_equal(client_device_open(&rig.guest, path, &options), 0);
	assert_int_equal(client_blk_create(&rig.blk, &rig.guest.rings[0], BOUNCE, 4096, true), 0);
	rig.blk.timeout_ms = DEADLINE_MS;
	assert_int_equal(client_device_start(&rig.guest), 0);
}

static inline void
unplug(void)
{
	client_blk_destroy(&rig.blk);
	client_device_close(&rig.guest);
}

static inline void
start_load_on(bool packed)
{
	const uint64_t features = 1ULL << VIRTIO_RING_F_EVENT_IDX | (uint64_t)packed
									    << VIRTIO_F_RING_PACKED;
	char path[DAEMON_PATH];

	daemon_path(&rig.daemon, "vm", path);
	assert_int_equal(workload_open(&rig.load, path, features, 7), 0);
}

static inline void
start_load(void)
{
	start_load_on(false);
}

static inline void
work(uint64_t requests)
{
	assert_int_equal(workload_run(&rig.load, requests, DEADLINE_MS), 0);
}

/* No lost or wrong block, no stuck request. */
static inline void
end_load(void)
{
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	assert_int_equal(workload_verify(&rig.load), 0);
	workload_close(&rig.load);
}

static inline int64_t
stat_of(const char *key)
{
	return nvme_device_stat(&rig.device, key);
}

static inline json_int_t
controller_number(const char *key)
{
	json_t *array = daemon_rpc(&rig.daemon, "bdev_nvme_get_controllers",
				   json_pack("{s:s}", "name", "nvme0"), NULL);
	json_int_t number = json_integer_value(json_object_get(json_array_get(array, 0), key));

	json_decref(array);
	return number;
}

static inline bool
is_there(const char *bdev)
{
	json_t *array =
		daemon_rpc(&rig.daemon, "bdev_get_bdevs", json_pack("{s:s}", "name", bdev), NULL);

	json_decref(array);
	return array != NULL;
}

/* ---- data ---- */

static inline void
fill(uint8_t *data, size_t size, unsigned int seed)
{
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1103515245 + 12345;
		data[i] = (uint8_t)(seed >> 16);
	}
}

static inline void
round_trips(uint32_t block_size)
{
	static const uint32_t sizes[] = {512, 1024, 4096, 12288, 65536, BOUNCE};
	static uint8_t out[BOUNCE], in[BOUNCE];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (unsigned int round = 0; round < 8 && sizes[i] >= block_size; round++) {
			uint64_t sector = (round * 333 + i) * (block_size / 512) % (BLOCKS - 256);

			sector -= sector % (block_size / 512);
			fill(out, sizes[i], round + (unsigned int)i);
			memset(in, 0, sizes[i]);
			assert_int_equal(client_blk_write(&rig.blk, sector, out, sizes[i]), 0);
			assert_int_equal(client_blk_read(&rig.blk, sector, in, sizes[i]), 0);
			assert_memory_equal(in, out, sizes[i]);
		}
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
