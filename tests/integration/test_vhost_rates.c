/* SPDX-License-Identifier: BSD-3-Clause */
/* Guests on disks with rate limits, and on disks that are slower or fail as told. */
/* links: client testlib */
#include "vhost_rig.h"
#include "workload.h"

#define BURST_S 0.02

static struct workload load;

static void
call(const char *method, json_t *params)
{
	assert_int_equal(daemon_call(&rig_daemon, method, params), 0);
}

static void
limit(const char *bdev, const char *rate, int per_second)
{
	call("bdev_set_qos_limit", json_pack("{s:s, s:i}", "name", bdev, rate, per_second));
}

static void
inject(const char *bdev, const char *io_type, const char *error_type, int count)
{
	call("bdev_error_inject_error",
	     json_pack("{s:s, s:s, s:s, s:i, s:i, s:i}", "name", bdev, "io_type", io_type,
		       "error_type", error_type, "num", count, "corrupt_offset", 100,
		       "corrupt_value", 1));
}

/* Two more on top of "disk", the upper one of which has a controller of its own, "top". */
static void
create_top(int delay_us)
{
	call("bdev_error_create", json_pack("{s:s}", "base_name", "disk"));
	call("bdev_delay_create",
	     json_pack("{s:s, s:s, s:i, s:i, s:i, s:i}", "name", "top", "base_bdev_name", "EE_disk",
		       "avg_read_latency", delay_us, "p99_read_latency", delay_us,
		       "avg_write_latency", delay_us, "p99_write_latency", delay_us));
	assert_int_equal(daemon_create_blk(&rig_daemon, "top", "top", false), 0);
}

static void
delete_top(void)
{
	assert_int_equal(rig_delete_controller("top"), 0);
	call("bdev_delay_delete", json_pack("{s:s}", "name", "top"));
	call("bdev_error_delete", json_pack("{s:s}", "name", "EE_disk"));
}

static void
work(uint64_t requests)
{
	assert_int_equal(workload_run(&load, requests, DEADLINE_MS), 0);
}

static void
end_load(void)
{
	assert_int_equal(workload_drain(&load, DEADLINE_MS), 0);
	assert_int_equal(workload_verify(&load), 0);
	workload_close(&load);
}

/* Never faster, however busy the machine is, and no request is lost. */
static void
expect_at_most(uint64_t requests, uint64_t per_second)
{
	uint64_t start = now_ms(), before = load.completed;
	double most, seconds;

	work(requests);
	seconds = (double)(now_ms() - start + 1) / 1000;
	most = (double)per_second * (seconds + BURST_S) * 1.01;
	assert_true((double)(load.completed - before) <= most + WORKLOAD_QUEUES * WORKLOAD_DEPTH);
}

static void
test_limits_under_load(void **state)
{
	(void)state;
	assert_int_equal(workload_open(&load, rig_socket("disk"), 0, 1), 0);
	work(1000);
	limit("disk", "rw_ios_per_sec", 2000);
	expect_at_most(1200, 2000);
	limit("disk", "rw_ios_per_sec", 20000);
	expect_at_most(8000, 20000);
	limit("disk", "r_mbytes_per_sec", 4); /* half of them, of 4 KiB */
	expect_at_most(1500, 20000);
	limit("disk", "rw_mbytes_per_sec", 8);
	limit("disk", "r_mbytes_per_sec", 0);
	expect_at_most(1500, 2048);
	limit("disk", "rw_ios_per_sec", 1);
	limit("disk", "rw_mbytes_per_sec", 0);
	usleep(20000);
	limit("disk", "rw_ios_per_sec", 0); /* they wait, and go on now */
	work(20000);
	end_load();
}

/* Other methods that visit the channels, while requests wait in them. */
static void
test_statistics_under_a_limit(void **state)
{
	(void)state;
	assert_int_equal(workload_open(&load, rig_socket("disk"), 0, 1), 0);
	limit("disk", "rw_ios_per_sec", 500);
	for (int i = 0; i < 10; i++) {
		work(20);
		call("bdev_enable_histogram",
		     json_pack("{s:s, s:b}", "name", "disk", "enable", i % 2 == 0));
		call("bdev_get_iostat", json_pack("{s:s, s:b}", "name", "disk", "per_channel", 1));
	}
	limit("disk", "rw_ios_per_sec", 0);
	end_load();
}

static void
test_data_on_top(void **state)
{
	(void)state;
	create_top(100);
	assert_int_equal(workload_open(&load, rig_socket("top"), 0, 1), 0);
	work(2000);
	limit("top", "rw_ios_per_sec", 3000);
	limit("disk", "w_mbytes_per_sec", 6);
	expect_at_most(1500, 3000);
	limit("top", "rw_ios_per_sec", 0);
	limit("disk", "w_mbytes_per_sec", 0);
	for (int us = 1; us < 2000; us += 400) {
		call("bdev_delay_update_latency",
		     json_pack("{s:s, s:s, s:i}", "delay_bdev_name", "top", "latency_type",
			       us % 800 == 1 ? "avg_read" : "avg_write", "latency_us", us));
		work(500);
	}
	end_load();
	delete_top();
}

static void
test_injected_errors(void **state)
{
	static uint8_t out[4096] = {1}, in[4096];
	struct client_blk_completion completion;
	struct client_blk_request request;
	struct client_segment segment;
	struct guest guest;

	(void)state;
	create_top(0);
	guest_start(&guest, "top", NULL);
	inject("EE_disk", "write", "failure", 1);
	assert_int_equal(client_blk_write(&guest.blk[0], 0, out, sizeof(out)), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_write(&guest.blk[0], 0, out, sizeof(out)), VIRTIO_BLK_S_OK);
	inject("EE_disk", "all", "nomem", 1);
	assert_int_equal(client_blk_read(&guest.blk[0], 0, in, sizeof(in)), VIRTIO_BLK_S_IOERR);
	inject("EE_disk", "clear", "failure", 1);
	assert_int_equal(client_blk_write(&guest.blk[0], 0, out, sizeof(out)), VIRTIO_BLK_S_OK);
	inject("EE_disk", "read", "corrupt_data", 1);
	assert_int_equal(client_blk_read(&guest.blk[0], 0, in, sizeof(in)), VIRTIO_BLK_S_OK);
	assert_int_equal(in[100], out[100] ^ 1);
	in[100] ^= 1;
	assert_memory_equal(in, out, sizeof(in));
	/* It does not end, until it is told to; others do. */
	inject("EE_disk", "read", "pending", 1);
	segment = (struct client_segment){guest.blk[0].bounce_gpa, 512, true};
	request = (struct client_blk_request){
		.type = VIRTIO_BLK_T_IN, .segments = &segment, .segment_count = 1, .tag = 1};
	assert_int_equal(client_blk_submit(&guest.blk[0], &request), 0);
	request.tag = 2;
	assert_int_equal(client_blk_submit(&guest.blk[0], &request), 0);
	assert_int_equal(client_blk_wait(&guest.blk[0], &completion, DEADLINE_MS), 0);
	assert_true(completion.tag == 2 && completion.status == VIRTIO_BLK_S_OK);
	inject("EE_disk", "clear", "failure", 1);
	assert_int_equal(client_blk_wait(&guest.blk[0], &completion, DEADLINE_MS), 0);
	assert_true(completion.tag == 1 && completion.status == VIRTIO_BLK_S_IOERR);
	guest_end(&guest);
	delete_top();
}

static void
test_latency(void **state)
{
	uint8_t data[512] = {0};
	struct guest guest;
	uint64_t start;

	(void)state;
	create_top(40000);
	guest_start(&guest, "top", NULL);
	for (int i = 0; i < 4; i++) {
		start = now_ms();
		if (i % 2 == 0)
			assert_int_equal(client_blk_read(&guest.blk[0], 0, data, 512), 0);
		else
			assert_int_equal(client_blk_write(&guest.blk[0], 0, data, 512), 0);
		assert_true(now_ms() - start >= 39);
	}
	guest_end(&guest);
	delete_top();
}

/* ---- who does not wait for that ---- */

#define HELD   32
#define MINUTE 60000000 /* µs */

static void
submit_held(struct client_blk *blk)
{
	struct client_segment segment = {blk->bounce_gpa, 512, false};

	for (uint64_t i = 0; i < HELD; i++) {
		struct client_blk_request request = {.type = VIRTIO_BLK_T_OUT,
						     .sector = i,
						     .segments = &segment,
						     .segment_count = 1,
						     .tag = i};

		assert_int_equal(client_blk_submit(blk, &request), 0);
	}
}

/* Each has ended well, and once. */
static void
expect_all(struct client_blk *blk)
{
	struct client_blk_completion completion;
	uint64_t tags = 0;

	for (int i = 0; i < HELD; i++) {
		assert_int_equal(client_blk_wait(blk, &completion, DEADLINE_MS), 0);
		assert_int_equal(completion.status, VIRTIO_BLK_S_OK);
		tags |= 1ULL << completion.tag;
	}
	assert_int_equal(tags, (1ULL << HELD) - 1);
	assert_int_equal(client_blk_reap(blk, &completion), 0);
}

/* The requests are done when the queue has stopped, as the front-end relies on. */
static void
test_stop(void **state)
{
	const struct client_options options = {.queues = 2};
	struct guest guest;

	(void)state;
	create_top(MINUTE);
	limit("EE_disk", "rw_ios_per_sec", 1);
	for (int i = 0; i < 2; i++) {
		guest_start(&guest, "top", &options);
		submit_held(&guest.blk[0]);
		submit_held(&guest.blk[1]);
		usleep(20000); /* it is asleep */
		assert_int_equal(client_device_stop(&guest.device), 0);
		expect_all(&guest.blk[0]);
		expect_all(&guest.blk[1]);
		guest_end(&guest);
	}
	delete_top();
}

/* What the front-end left behind does not keep the next one's queues from starting. */
static void
test_disconnect(void **state)
{
	struct guest guest;

	(void)state;
	create_top(MINUTE);
	limit("EE_disk", "rw_ios_per_sec", 1);
	for (int i = 0; i < 2; i++) {
		guest_start(&guest, "top", NULL);
		assert_int_equal(client_blk_flush(&guest.blk[0]), VIRTIO_BLK_S_OK);
		submit_held(&guest.blk[0]);
		usleep(20000);
		guest_end(&guest);
	}
	delete_top(); /* neither does the deletion wait */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_limits_under_load), RIG_TEST(test_statistics_under_a_limit),
		RIG_TEST(test_data_on_top),       RIG_TEST(test_injected_errors),
		RIG_TEST(test_latency),           RIG_TEST(test_stop),
		RIG_TEST(test_disconnect),        cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_rates", tests, rig_group_setup,
					   rig_group_teardown);
}
