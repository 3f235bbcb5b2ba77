/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk that grows: its guest is told, reads the new size, and uses it. */
/* links: client testlib */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>

#include "vhost_rig.h"

#define MIB        (1u << 20)
#define SECTOR     512u
#define FULL_WRITE 4096u

static uint64_t
read_capacity(struct guest *guest)
{
	struct virtio_blk_config config;

	assert_int_equal(client_get_config(&guest->device.client, 0, sizeof(config), &config), 0);
	return config.capacity;
}

static int
write_at(struct guest *guest, uint64_t sector)
{
	static uint8_t data[FULL_WRITE];

	return client_blk_write(&guest->blk[0], sector, data, sizeof(data));
}

static void
create_controller(const char *bdev)
{
	assert_int_equal(daemon_create_blk(&rig_daemon, "grows", bdev, false), 0);
}

/* A request behind the end fails until the guest was told of the new one, and works then. */
static void
expect_growth(struct guest *guest, uint64_t from, uint64_t to, const char *method, json_t *params)
{
	assert_int_equal(read_capacity(guest), from / SECTOR);
	assert_int_not_equal(write_at(guest, from / SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(daemon_call(&rig_daemon, method, params), 0);
	assert_int_equal(client_backend_wait_config_change(&guest->device.client, DEADLINE_MS), 0);
	assert_int_equal(read_capacity(guest), to / SECTOR);
	assert_int_equal(write_at(guest, from / SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(write_at(guest, (to - FULL_WRITE) / SECTOR), VIRTIO_BLK_S_OK);
	assert_int_not_equal(write_at(guest, to / SECTOR), VIRTIO_BLK_S_OK);
}

static void
test_null_resize(void **state)
{
	struct guest guest;

	(void)state;
	assert_int_equal(daemon_create_null(&rig_daemon, "null", MIB / SECTOR, SECTOR), 0);
	create_controller("null");
	guest_start(&guest, "grows", NULL);
	expect_growth(&guest, MIB, 4 * MIB, "bdev_null_resize",
		      json_pack("{s:s, s:i}", "name", "null", "new_size", 4));
	expect_growth(&guest, 4 * MIB, 5 * MIB, "bdev_null_resize",
		      json_pack("{s:s, s:i}", "name", "null", "new_size", 5));
	guest_end(&guest);
	rig_delete_controller("grows");
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_null_delete", json_pack("{s:s}", "name", "null")),
		0);
}

static void
test_rescan(void **state)
{
	static const char *const rescans[] = {"bdev_uring_rescan", "bdev_aio_rescan"};
	struct guest guest;
	char path[DAEMON_PATH];

	(void)state;
	assert_int_equal(daemon_create_file(&rig_daemon, "file", MIB), 0);
	daemon_path(&rig_daemon, "file.img", path);
	create_controller("file");
	guest_start(&guest, "grows", NULL);
	for (unsigned int i = 1; i <= 2; i++) {
		assert_int_equal(truncate(path, (i + 1) * MIB), 0);
		expect_growth(&guest, i * MIB, (i + 1) * MIB, rescans[i - 1],
			      json_pack("{s:s}", "name", "file"));
	}
	/* A file that became smaller is not the guest's fault. */
	assert_int_equal(truncate(path, MIB), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_uring_rescan", json_pack("{s:s}", "name", "file")),
		-EBUSY);
	assert_int_equal(read_capacity(&guest), 3 * MIB / SECTOR);
	guest_end(&guest);
	rig_delete_controller("grows");
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_uring_delete", json_pack("{s:s}", "name", "file")),
		0);
}

/* How many requests the disk's channel of that name has counted; there is just one of them. */
static json_int_t
count_of(const json_t *answer, const char *label)
{
	const json_t *channel;
	json_int_t count = -1;
	size_t i;

	json_array_foreach (json_object_get(answer, "channels"), i, channel) {
		if (strcmp(json_string_value(json_object_get(channel, "label")), label) != 0)
			continue;
		assert_int_equal(count, -1);
		assert_non_null(
			strstr(json_string_value(json_object_get(channel, "user")), "disk"));
		count = json_integer_value(json_object_get(channel, "count"));
	}
	return count;
}

/* Latencies of a guest's requests, as clients of the histogram see them: of each queue. */
static void
test_histogram(void **state)
{
	json_t *params = json_pack("{s:s, s:b}", "name", "disk", "enable", true), *answer;
	struct client_options options = {.queues = 3, .start_mask = 5};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	assert_int_equal(daemon_call(&rig_daemon, "bdev_enable_histogram", params), 0);
	for (unsigned int i = 0; i < 20; i++)
		guest_round_trip(&guest, i < 5 ? 2 : 0, 8 * i, 4096, i);
	params = json_pack("{s:s, s:b}", "name", "disk", "per_channel", true);
	answer = daemon_rpc(&rig_daemon, "bdev_get_histogram", params, NULL);
	assert_int_equal(json_integer_value(json_object_get(answer, "count")), 40);
	assert_int_equal(count_of(answer, "queue 0"), 30);
	assert_int_equal(count_of(answer, "queue 1"), -1);
	assert_int_equal(count_of(answer, "queue 2"), 10);
	/* What keeps the device for the thread, whatever queues it has. */
	assert_int_equal(count_of(answer, "thread"), 0);
	json_decref(answer);
	guest_end(&guest);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_null_resize),
		RIG_TEST(test_rescan),
		RIG_TEST(test_histogram),
		cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_resize", tests, rig_group_setup,
					   rig_group_teardown);
}
