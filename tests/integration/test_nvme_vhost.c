/* SPDX-License-Identifier: BSD-3-Clause */
/* Guests on NVMe disks: their data, and what they notice of a device in trouble. */
/* links: client testlib */
#include <pthread.h>

#include "nvme_guest_rig.h"

/* ---- data ---- */

static void
check_data(const char *namespace, const char *line, uint32_t block_size)
{
	start_device(namespace, line);
	start_daemon(NULL);
	plug();
	round_trips(block_size);
	unplug();
}

static void
test_data(void **state)
{
	(void)state;
	check_data(NAMESPACE, NULL, 512);
}

static void
test_data_4096(void **state)
{
	(void)state;
	check_data("ns add 1 memory 1024 4096", NULL, 4096);
}

static void
test_data_without_sgls(void **state)
{
	(void)state;
	check_data(NAMESPACE, "set sgl 0", 512);
}

static void
test_data_short_commands(void **state)
{
	(void)state;
	check_data(NAMESPACE, "set mdts 1", 512);
}

/* 24 blocks, so that guests' requests cross many. */
static void
test_data_boundaries(void **state)
{
	(void)state;
	check_data(NAMESPACE, "set noiob 24", 512);
	assert_int_equal(stat_of("crossings"), 0);
}

static void
test_data_without_shadow_doorbells(void **state)
{
	(void)state;
	check_data(NAMESPACE, "set dbbuf 0", 512);
}

/* ---- other requests ---- */

static void
test_requests(void **state)
{
	static uint8_t data[16384], zeroes[16384];
	int64_t flushes;

	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	plug();
	fill(data, sizeof(data), 1);
	assert_int_equal(client_blk_write(&rig.blk, 64, data, sizeof(data)), 0);
	flushes = stat_of("io_0x00");
	assert_int_equal(client_blk_flush(&rig.blk), 0);
	assert_int_equal(stat_of("io_0x00"), flushes + 1);
	control("expect-durable 1 64 32");
	assert_int_equal(client_blk_write_zeroes(&rig.blk, 64, 8, 0), 0);
	assert_int_equal(stat_of("io_0x08"), 1);
	assert_int_equal(
		client_blk_write_zeroes(&rig.blk, 72, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), 0);
	memset(data, 0, 8192);
	assert_int_equal(client_blk_read(&rig.blk, 64, zeroes, sizeof(zeroes)), 0);
	assert_memory_equal(zeroes, data, sizeof(data));
	assert_int_equal(client_blk_discard(&rig.blk, 0, 4096), 0);
	assert_int_equal(stat_of("io_0x09"), 1);
	/* Errors of the device. */
	control("fault status opcode=2 status=0x4281");
	assert_int_equal(client_blk_read(&rig.blk, 0, data, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_read(&rig.blk, 0, data, 512), VIRTIO_BLK_S_OK);
	unplug();
}

/* A device without a cache has nothing to flush. */
static void
test_no_cache(void **state)
{
	static uint8_t data[4096];

	(void)state;
	start_device(NAMESPACE, "set cache 0");
	start_daemon(NULL);
	plug();
	assert_int_equal(client_blk_write(&rig.blk, 0, data, sizeof(data)), 0);
	assert_int_equal(client_blk_flush(&rig.blk), 0);
	assert_int_equal(stat_of("io_0x00"), 0);
	control("expect-durable");
	unplug();
}

/* ---- queues ---- */

static void
test_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon_on_two_cores();
	start_load();
	work(20000);
	end_load();
}

/* The second thread gets no queue pair: the first one serves all of the guest's queues. */
static void
test_device_with_one_queue(void **state)
{
	(void)state;
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		fprintf(stderr, "# skip: one CPU\n");
		skip();
	}
	start_device(NAMESPACE, "set queues 1");
	start_daemon_on_two_cores();
	start_load();
	work(5000);
	assert_int_equal(controller_number("io_queues"), 1);
	assert_int_equal(stat_of("queues"), 1);
	end_load();
}

/* ---- trouble ---- */

static void
test_resets_under_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	start_load();
	for (int i = 0; i < 20; i++) {
		work(500);
		rpc("bdev_nvme_reset_controller", "{s:s}", "name", "nvme0");
	}
	work(500);
	assert_int_equal(controller_number("resets"), 20);
	end_load();
}

static void
test_disable_under_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	start_load();
	for (int i = 0; i < 5; i++) {
		work(500);
		rpc("bdev_nvme_disable_controller", "{s:s}", "name", "nvme0");
		usleep(20000);
		rpc("bdev_nvme_enable_controller", "{s:s}", "name", "nvme0");
	}
	end_load();
}

/* Completions that never come, or are not to be believed: every request ends, and well. */
static void
test_faults_under_load(void **state)
{
	static const char *const faults[] = {
		"fault lose queue=io nth=100",
		"fault status queue=io nth=50 count=3 status=0x6",
		"fault delay queue=io nth=30 ms=600",
		"fault fatal queue=io nth=70",
		"fault cid queue=io nth=20 cid=0x1234",
		"fault phase queue=io nth=20",
	};

	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	notice_lost_io();
	start_load();
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		char answer[NVME_DEVICE_ANSWER];

		control("%s", faults[i]);
		work(3000);
		assert_int_equal(nvme_device_control(&rig.device, answer, "faults"), 0);
		assert_null(strstr(answer, "hits=0"));
		control("fault-clear");
	}
	assert_true(controller_number("timeouts") > 0);
	assert_true(controller_number("resets") > 0);
	end_load();
}

/* ---- going away ---- */

static void
expect_failures(void)
{
	rig.load.may_fail = true;
}

/* Requests fail, those under way too, and the guest is not left without an answer. */
static void
check_failing(void)
{
	uint64_t failed = rig.load.failed;

	UNTIL(workload_run(&rig.load, 200, DEADLINE_MS) == 0 && rig.load.failed > failed + 200);
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	workload_close(&rig.load);
}

static void
test_hot_removal_under_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	start_load();
	work(2000);
	expect_failures();
	control("set listen 0");
	control("disconnect");
	check_failing();
	UNTIL(!is_there("nvme0n1"));
	control("set listen 1");
	UNTIL(is_there("nvme0n1"));
}

static void
test_detach_under_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	start_load();
	work(2000);
	expect_failures();
	rpc("bdev_nvme_detach_controller", "{s:s}", "name", "nvme0");
	check_failing();
	assert_int_equal(stat_of("shutdowns"), 1);
	/* A new controller in its place. */
	rpc("vhost_delete_controller", "{s:s}", "ctrlr", "vm");
	attach();
	create_vm();
	plug();
	round_trips(512);
	unplug();
}

/*
 * Under a delay and injected errors, which pass the guest's memory on to the device. That is
 * removed while requests are held back for ever: by their limit, their delay, an error.
 */
static void
test_on_top(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	assert_int_equal(daemon_start(&rig.daemon, NULL), 0);
	attach();
	rpc("bdev_error_create", "{s:s, s:s}", "base_name", "nvme0n1", "name", "e");
	rpc("bdev_delay_create", "{s:s, s:s, s:i, s:i, s:i, s:i}", "name", "d", "base_bdev_name",
	    "e", "avg_read_latency", 10, "p99_read_latency", 20, "avg_write_latency", 5,
	    "p99_write_latency", 9);
	rpc("vhost_create_blk_controller", "{s:s, s:s}", "ctrlr", "vm", "dev_name", "d");
	start_load();
	work(2000);
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	assert_int_equal(workload_verify(&rig.load), 0);
	work(100);
	expect_failures();
	rpc("bdev_error_inject_error", "{s:s, s:s, s:s, s:i}", "name", "e", "io_type", "all",
	    "error_type", "pending", "num", 4);
	rpc("bdev_delay_update_latency", "{s:s, s:s, s:i}", "delay_bdev_name", "d", "latency_type",
	    "avg_write", "latency_us", 1000000000);
	usleep(20000);
	rpc("bdev_set_qos_limit", "{s:s, s:i}", "name", "d", "rw_ios_per_sec", 1);
	usleep(20000);
	rpc("bdev_nvme_detach_controller", "{s:s}", "name", "nvme0");
	check_failing();
	assert_false(is_there("d"));
	assert_false(is_there("e"));
	assert_int_equal(stat_of("shutdowns"), 1);
}

static void
test_namespace_removed_under_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, "ns add 2 memory 64 512");
	start_daemon(NULL);
	start_load();
	work(2000);
	expect_failures();
	control("ns remove 1");
	check_failing();
	UNTIL(!is_there("nvme0n1"));
	assert_true(is_there("nvme0n2"));
}

static void
test_namespace_resized(void **state)
{
	struct virtio_blk_config config;
	uint8_t data[4096] = {1};

	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	plug();
	assert_int_not_equal(client_blk_write(&rig.blk, BLOCKS, data, sizeof(data)), 0);
	control("ns resize 1 %d", 2 * BLOCKS);
	assert_int_equal(client_backend_wait_config_change(&rig.guest.client, DEADLINE_MS), 0);
	assert_int_equal(client_get_config(&rig.guest.client, 0, sizeof(config), &config), 0);
	assert_int_equal(config.capacity, 2 * BLOCKS);
	assert_int_equal(client_blk_write(&rig.blk, BLOCKS, data, sizeof(data)), 0);
	unplug();
}

static void *
reset_controller(void *arg)
{
	(void)arg;
	daemon_call(&rig.daemon, "bdev_nvme_reset_controller", json_pack("{s:s}", "name", "nvme0"));
	return NULL;
}

/* Queues that stop wait for requests, which wait for the controller. */
static void
test_deletion_during_reset(void **state)
{
	pthread_t thread;

	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	start_load();
	work(2000);
	control("set ready-ms 500");
	assert_int_equal(pthread_create(&thread, NULL, reset_controller, NULL), 0);
	UNTIL(controller_number("resets") > 0 || stat_of("enables") > 1 || stat_of("enabled") == 0);
	rpc("vhost_delete_controller", "{s:s}", "ctrlr", "vm");
	pthread_join(thread, NULL);
	workload_close(&rig.load);
	create_vm();
	plug();
	round_trips(512);
	unplug();
}

/* ---- the daemon's own end ---- */

/* The journal has it all; requests that were under way are done again. */
static void
test_daemon_is_killed_under_load(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon(NULL);
	start_load();
	for (int i = 0; i < 3; i++) {
		work(1000);
		daemon_kill(&rig.daemon);
		assert_true(workload_reap(&rig.load) >= 0);
		daemon_launch(&rig.daemon, NULL);
		assert_int_equal(client_device_reconnect(&rig.load.device), 0);
	}
	work(1000);
	end_load();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_data),
		TEST(test_data_4096),
		TEST(test_data_without_sgls),
		TEST(test_data_short_commands),
		TEST(test_data_boundaries),
		TEST(test_data_without_shadow_doorbells),
		TEST(test_requests),
		TEST(test_no_cache),
		TEST(test_load),
		TEST(test_device_with_one_queue),
		TEST(test_resets_under_load),
		TEST(test_disable_under_load),
		TEST(test_faults_under_load),
		TEST(test_hot_removal_under_load),
		TEST(test_detach_under_load),
		TEST(test_on_top),
		TEST(test_namespace_removed_under_load),
		TEST(test_namespace_resized),
		TEST(test_deletion_during_reset),
		TEST(test_daemon_is_killed_under_load),
	};

	return cmocka_run_group_tests_name("nvme_vhost", tests, NULL, NULL);
}
