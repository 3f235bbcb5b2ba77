/* SPDX-License-Identifier: BSD-3-Clause */
/* What clients change and ask while a guest runs: coalescing, size, statistics. */
/* links: client testlib */
#include "vhost_rig.h"

#define ROUNDS 2000

static int
group_setup(void **state)
{
	/* A reactor that sleeps sends at once what it has put off. */
	static const char *const args[] = {"--mode", "poll", NULL};

	(void)state;
	if (daemon_start(&rig_daemon, args) != 0)
		return -1;
	rig_create_disk("bystander");
	guest_start(&rig_bystander, "bystander", NULL);
	return 0;
}

static uint64_t
take_calls(struct client_ring *ring)
{
	uint64_t count = 0;

	return read(ring->call_fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

/*
 * That many flushes, one after the other, without waiting for calls. Returns how many calls came.
 */
static uint64_t
flush(struct client_blk *blk, unsigned int count)
{
	const struct client_blk_request request = {.type = VIRTIO_BLK_T_FLUSH};
	struct client_blk_completion completion;

	for (unsigned int i = 0; i < count; i++) {
		assert_int_equal(client_blk_submit(blk, &request), 0);
		assert_int_equal(client_ring_poll(blk->ring, DEADLINE_MS), 0);
		assert_int_equal(client_blk_reap(blk, &completion), 1);
	}
	return take_calls(blk->ring);
}

static void
set_coalescing(const char *name, long delay_base_us, long threshold)
{
	assert_int_equal(
		daemon_call(&rig_daemon, "vhost_controller_set_coalescing",
			    json_pack("{s:s, s:i, s:i}", "ctrlr", name, "delay_base_us",
				      (int)delay_base_us, "iops_threshold", (int)threshold)),
		0);
}

/* A counter of the controller, or of one of its queues (queue >= 0). */
static long
stat_of(const char *name, const char *counter, int queue)
{
	json_t *array = daemon_rpc(&rig_daemon, "vhost_get_stats",
				   json_pack("{s:s, s:b}", "ctrlr", name, "per_queue", 1), NULL);
	json_t *object = json_array_get(array, 0);
	long value = -1;

	if (queue >= 0)
		object = json_array_get(json_object_get(object, "queues"), (size_t)queue);
	if (json_is_integer(json_object_get(object, counter)))
		value = (long)json_integer_value(json_object_get(object, counter));
	json_decref(array);
	return value;
}

/* ---- coalescing ---- */

/*
 * Until a round has less calls than half its requests: the daemon has measured the rate, and we
 * were not slow meanwhile.
 */
static void
flush_until_coalesced(struct client_blk *blk)
{
	uint64_t end = now_ms() + DEADLINE_MS;

	while (flush(blk, ROUNDS) >= ROUNDS / 2)
		assert_true(now_ms() < end);
	assert_true(stat_of("disk", "calls_coalesced", -1) > 0);
}

static void
test_coalescing(void **state)
{
	struct client_blk_request request = {.type = VIRTIO_BLK_T_FLUSH};
	struct client_blk_completion completion;
	struct guest guest;
	uint64_t calls;

	(void)state;
	guest_start(&guest, "disk", NULL);
	take_calls(&guest.device.rings[0]);
	assert_true(flush(&guest.blk[0], ROUNDS) >= ROUNDS - 1);
	assert_int_equal(stat_of("disk", "calls_coalesced", -1), 0);

	/* While it runs. A call now and then is what remains. */
	set_coalescing("disk", 20000, 100);
	flush_until_coalesced(&guest.blk[0]);
	/* None is lost: a driver that waits for it goes on. */
	for (int i = 0; i < 10; i++)
		assert_int_equal(client_blk_execute(&guest.blk[0], &request, &completion), 0);

	set_coalescing("disk", 0, 100);
	take_calls(&guest.device.rings[0]);
	calls = flush(&guest.blk[0], ROUNDS);
	/* The last one may come after we have looked. */
	assert_in_range(calls, ROUNDS - 1, ROUNDS + 1);
	guest_end(&guest);
}

/* A queue that starts later has it, too. */
static void
test_coalescing_before_the_start(void **state)
{
	struct guest guest;

	(void)state;
	set_coalescing("disk", 20000, 100);
	guest_start(&guest, "disk", NULL);
	flush_until_coalesced(&guest.blk[0]);
	guest_end(&guest);
}

/* ---- statistics ---- */

static void
test_stats(void **state)
{
	struct client_options options = {.queues = 2};
	const struct client_blk_request nonsense = {.type = 77};
	struct client_blk_completion completion;
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	guest_round_trip(&guest, 0, 0, 8192, 1);
	guest_round_trip(&guest, 1, 0, 4096, 2);
	guest_round_trip(&guest, 1, 0, 4096, 3);
	assert_int_equal(client_blk_execute(&guest.blk[1], &nonsense, &completion),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(stat_of("disk", "running_queues", -1), 2);
	assert_int_equal(stat_of("disk", "inflight", -1), 0);
	assert_int_equal(stat_of("disk", "requests", -1), 7);
	assert_int_equal(stat_of("disk", "requests", 0), 2);
	assert_int_equal(stat_of("disk", "requests", 1), 5);
	assert_int_equal(stat_of("disk", "errors", -1), 1);
	assert_int_equal(stat_of("disk", "errors", 0), 0);
	/* A status byte for each, a header for each. */
	assert_int_equal(stat_of("disk", "bytes_read", 0), 8192 + 2);
	assert_int_equal(stat_of("disk", "bytes_written", 0), 8192 + 2 * 16);
	assert_true(stat_of("disk", "calls", -1) > 0);
	/* What stopped, and whoever is gone, still counts. */
	assert_int_equal(client_device_stop(&guest.device), 0);
	assert_int_equal(stat_of("disk", "running_queues", -1), 0);
	assert_int_equal(stat_of("disk", "requests", -1), 7);
	guest_end(&guest);
	rig_wait_for_sessions("disk", 0);
	assert_int_equal(stat_of("disk", "requests", 1), 5);
	guest_start(&guest, "disk", &options);
	guest_round_trip(&guest, 1, 0, 4096, 4);
	assert_int_equal(stat_of("disk", "requests", 1), 7);
	assert_int_equal(stat_of("disk", "requests", -1), 9);
	guest_end(&guest);
}

static void
test_breaks(void **state)
{
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	client_ring_put_head(&guest.device.rings[0], 0x1234);
	client_ring_publish(&guest.device.rings[0]);
	assert_int_equal(client_ring_kick_always(&guest.device.rings[0]), 0);
	assert_int_equal(client_ring_wait_error(&guest.device.rings[0], DEADLINE_MS), 0);
	assert_int_equal(stat_of("disk", "breaks", -1), 1);
	assert_int_equal(stat_of("disk", "broken_queues", -1), 1);
	guest_end(&guest);
}

/* ---- size ---- */

static void
test_resize(void **state)
{
	char path[DAEMON_PATH];
	struct virtio_blk_config config;
	struct guest guest;

	(void)state;
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 1 << 20), 0);
	assert_int_equal(daemon_create_blk(&rig_daemon, "file.ctrlr", "file", false), 0);
	guest_start(&guest, "file.ctrlr", NULL);
	assert_int_equal(guest.device.config.capacity, 2048);
	daemon_path(&rig_daemon, "file.img", path);
	assert_int_equal(truncate(path, 2 << 20), 0);
	/* The second time nothing is new, and the guest is told all the same. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(daemon_call(&rig_daemon, "vhost_controller_resize",
					     json_pack("{s:s}", "ctrlr", "file.ctrlr")),
				 0);
		assert_int_equal(
			client_backend_wait_config_change(&guest.device.client, DEADLINE_MS), 0);
		assert_int_equal(client_get_config(&guest.device.client, 0, 60, &config), 0);
		assert_int_equal(config.capacity, 4096);
	}
	guest_round_trip(&guest, 0, 4096 - 8, 4096, 1);
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("file.ctrlr"), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_uring_delete", json_pack("{s:s}", "name", "file")),
		0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_coalescing), RIG_TEST(test_coalescing_before_the_start),
		RIG_TEST(test_stats),      RIG_TEST(test_breaks),
		RIG_TEST(test_resize),     cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_control", tests, group_setup, rig_group_teardown);
}
