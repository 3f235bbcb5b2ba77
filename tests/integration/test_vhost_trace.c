/* SPDX-License-Identifier: BSD-3-Clause */
/* What a daemon says of slow requests: of guests on slow disks, on limited ones, and while they run. */
/* links: client testlib */
#include "vhost_scsi_rig.h"
#include "workload.h"

#define DELAY_US 20000
/* As a client sees it: ticks and back. */
#define DELAYED_US (DELAY_US - 1)

static uint8_t data[4096];

/*
 * ---- disks: "disk", which is fast, and "slow" on top of another one, each with a controller; two like
 * them of a SCSI controller, which shares its disks with nobody ----
 */

static void
call(const char *method, json_t *params)
{
	assert_int_equal(daemon_call(&rig_daemon, method, params), 0);
}

static const char *const fast_disks[] = {"disk", "below", "scsi_disk", "scsi_below"};

static void
create_slow(const char *name, const char *below)
{
	call("bdev_delay_create",
	     json_pack("{s:s, s:s, s:i, s:i, s:i, s:i}", "name", name, "base_bdev_name", below,
		       "avg_read_latency", DELAY_US, "p99_read_latency", DELAY_US,
		       "avg_write_latency", DELAY_US, "p99_write_latency", DELAY_US));
}

static int
setup(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(fast_disks) / sizeof(fast_disks[0]); i++)
		assert_int_equal(daemon_create_malloc(&rig_daemon, fast_disks[i], RIG_SECTORS, 512),
				 0);
	create_slow("slow", "below");
	create_slow("scsi_slow", "scsi_below");
	assert_int_equal(daemon_create_blk(&rig_daemon, "slow", "slow", false), 0);
	assert_int_equal(daemon_create_blk(&rig_daemon, "fast", "disk", false), 0);
	scsi_rig_create("scsi");
	assert_int_equal(
		scsi_rig_add_target("scsi", 3, json_pack("[s, s]", "scsi_disk", "scsi_slow")), 3);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	rig_threads_end();
	assert_true(daemon_is_alive(&rig_daemon));
	assert_int_equal(rig_delete_controller("scsi"), 0);
	assert_int_equal(rig_delete_controller("slow"), 0);
	assert_int_equal(rig_delete_controller("fast"), 0);
	call("bdev_delay_delete", json_pack("{s:s}", "name", "slow"));
	call("bdev_delay_delete", json_pack("{s:s}", "name", "scsi_slow"));
	for (size_t i = 0; i < sizeof(fast_disks) / sizeof(fast_disks[0]); i++)
		call("bdev_malloc_delete", json_pack("{s:s}", "name", fast_disks[i]));
	return 0;
}

/* ---- what the daemon says ---- */

static json_t *
ask(const char *ctrlr)
{
	return daemon_rpc(&rig_daemon, "vhost_get_slow_requests",
			  json_pack("{s:s}", "ctrlr", ctrlr), NULL);
}

static long
number(json_t *object, const char *name)
{
	json_t *value = json_object_get(object, name);

	assert_true(json_is_integer(value));
	return (long)json_integer_value(value);
}

static void
expect_text(json_t *object, const char *name, const char *text)
{
	assert_string_equal(json_string_value(json_object_get(object, name)), text);
}

/* The requests, a new reference; there must be so many. */
static json_t *
requests_of(const char *ctrlr, size_t count)
{
	json_t *answer = ask(ctrlr), *requests;

	assert_non_null(answer);
	expect_text(answer, "ctrlr", ctrlr);
	assert_int_equal(number(answer, "recorded"), count);
	requests = json_incref(json_object_get(answer, "requests"));
	assert_int_equal(json_array_size(requests), count);
	json_decref(answer);
	return requests;
}

static void
set_threshold(const char *ctrlr, int us)
{
	call("vhost_controller_set_slow_threshold",
	     json_pack("{s:s, s:i}", "ctrlr", ctrlr, "threshold_us", us));
}

static void
read_once(struct guest *guest, uint64_t sector)
{
	assert_int_equal(client_blk_read(&guest->blk[0], sector, data, sizeof(data)), 0);
}

/* ---- tests ---- */

static void
test_slow_disk(void **state)
{
	json_t *requests, *request;
	struct guest guest;

	(void)state;
	guest_start(&guest, "slow", NULL);
	read_once(&guest, 16);
	assert_int_equal(client_blk_write(&guest.blk[0], 64, data, 512), 0);
	requests = requests_of("slow", 2);
	request = json_array_get(requests, 0);
	expect_text(request, "type", "read");
	expect_text(request, "status", "OK");
	expect_text(request, "thread", "vhost.slow");
	assert_int_equal(number(request, "number"), 0);
	assert_int_equal(number(request, "queue"), 0);
	assert_int_equal(number(request, "lba"), 16);
	assert_int_equal(number(request, "blocks"), 8);
	assert_int_equal(number(request, "queue_us"), 0);
	assert_true(number(request, "device_us") >= DELAYED_US);
	assert_true(number(request, "total_us") >=
		    number(request, "device_us") + number(request, "completion_us"));
	assert_int_equal(json_string_length(json_object_get(request, "time")),
			 strlen("2026-01-01T00:00:00.000000Z"));
	assert_null(json_object_get(request, "opcode"));
	request = json_array_get(requests, 1);
	expect_text(request, "type", "write");
	assert_int_equal(number(request, "number"), 1);
	assert_int_equal(number(request, "blocks"), 1);
	json_decref(requests);
	guest_end(&guest);
}

static void
test_rate_limit(void **state)
{
	struct client_blk_completion completion;
	struct client_blk_request request = {.type = VIRTIO_BLK_T_IN, .segment_count = 1};
	struct client_segment segment;
	json_t *requests;
	struct guest guest;

	(void)state;
	guest_start(&guest, "fast", NULL);
	call("bdev_set_qos_limit", json_pack("{s:s, s:i}", "name", "disk", "rw_ios_per_sec", 20));
	segment = (struct client_segment){guest.blk[0].bounce_gpa, 512, true};
	request.segments = &segment;
	for (request.tag = 1; request.tag <= 3; request.tag++)
		assert_int_equal(client_blk_prepare(&guest.blk[0], &request), 0);
	client_ring_publish(guest.blk[0].ring);
	assert_int_equal(client_ring_kick(guest.blk[0].ring), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(client_blk_wait(&guest.blk[0], &completion, DEADLINE_MS), 0);
	call("bdev_set_qos_limit", json_pack("{s:s, s:i}", "name", "disk", "rw_ios_per_sec", 0));
	requests = daemon_rpc(&rig_daemon, "vhost_get_slow_requests",
			      json_pack("{s:s, s:i}", "ctrlr", "fast", "count", 1), NULL);
	assert_true(number(requests, "recorded") >= 2);
	assert_int_equal(json_array_size(json_object_get(requests, "requests")), 1);
	json_decref(requests);
	requests = requests_of("fast", 2);
	for (size_t i = 0; i < 2; i++) {
		json_t *slow = json_array_get(requests, i);

		/* Of a disk in memory: at once, when it was its turn. */
		assert_true(number(slow, "queue_us") >= 10000);
		assert_int_equal(number(slow, "device_us"), 0);
	}
	json_decref(requests);
	guest_end(&guest);
}

static void
test_threshold(void **state)
{
	json_t *answer;
	struct guest guest;

	(void)state;
	guest_start(&guest, "fast", NULL);
	read_once(&guest, 0);
	set_threshold("fast", 0);
	read_once(&guest, 0);
	json_decref(requests_of("fast", 1));
	set_threshold("slow", 300 * DELAY_US);
	guest_end(&guest);
	guest_start(&guest, "slow", NULL); /* a queue that starts after it */
	read_once(&guest, 0);
	json_decref(requests_of("slow", 0));
	set_threshold("slow", DELAY_US / 2);
	read_once(&guest, 0);
	answer = ask("slow");
	assert_int_equal(number(answer, "threshold_us"), DELAY_US / 2);
	assert_int_equal(number(answer, "recorded"), 1);
	json_decref(answer);
	guest_end(&guest);
}

static int
error_of(const char *method, json_t *params)
{
	int code = 0;

	json_decref(daemon_rpc(&rig_daemon, method, params, &code));
	return code;
}

static void
test_errors(void **state)
{
	(void)state;
	assert_int_equal(error_of("vhost_get_slow_requests", json_pack("{s:s}", "ctrlr", "no")),
			 -ENODEV);
	assert_int_equal(error_of("vhost_get_slow_requests",
				  json_pack("{s:s, s:i}", "ctrlr", "slow", "count", 0)),
			 -32602);
	assert_int_equal(error_of("vhost_controller_set_slow_threshold",
				  json_pack("{s:s, s:i}", "ctrlr", "no", "threshold_us", 1)),
			 -ENODEV);
	assert_int_equal(error_of("vhost_controller_set_slow_threshold",
				  json_pack("{s:s, s:i}", "ctrlr", "slow", "threshold_us", -1)),
			 -32602);
	assert_int_equal(
		error_of("vhost_controller_set_slow_threshold",
			 json_pack("{s:s, s:I}", "ctrlr", "slow", "threshold_us", 3600000001ll)),
		-32602);
}

/* What a controller knows goes with it. */
static void
test_controller_made_anew(void **state)
{
	struct guest guest;
	json_t *answer;

	(void)state;
	set_threshold("slow", DELAY_US);
	guest_start(&guest, "slow", NULL);
	read_once(&guest, 0);
	guest_end(&guest);
	json_decref(requests_of("slow", 1));
	assert_int_equal(rig_delete_controller("slow"), 0);
	assert_int_equal(error_of("vhost_get_slow_requests", json_pack("{s:s}", "ctrlr", "slow")),
			 -ENODEV);
	assert_int_equal(daemon_create_blk(&rig_daemon, "slow", "slow", false), 0);
	answer = ask("slow");
	assert_int_equal(number(answer, "threshold_us"), 10000);
	assert_int_equal(number(answer, "recorded"), 0);
	json_decref(answer);
}

/* A front-end that dies: its request ends later, and nobody is told of it. */
static void
test_front_end_that_dies(void **state)
{
	uint64_t end = now_ms() + DEADLINE_MS;
	json_int_t before = rig_reads("below");
	struct client_blk_request request = {.type = VIRTIO_BLK_T_IN, .segment_count = 1};
	struct client_segment segment;
	struct guest guest;
	size_t count = 0;

	(void)state;
	set_threshold("slow", 0); /* what was late ends as soon as nobody waits for it */
	guest_start(&guest, "slow", NULL);
	segment = (struct client_segment){guest.blk[0].bounce_gpa, 512, true};
	request.segments = &segment;
	assert_int_equal(client_blk_submit(&guest.blk[0], &request), 0);
	WAIT_UNTIL(rig_reads("below") > before);
	guest_end(&guest);
	while (count == 0) {
		json_t *answer = ask("slow");

		count = json_array_size(json_object_get(answer, "requests"));
		json_decref(answer);
		assert_true(now_ms() < end);
	}
	assert_int_equal(count, 1);
}

/* ---- virtio-scsi ---- */

static void
test_scsi(void **state)
{
	static const uint8_t same[16] = {0x93, [9] = 8, [13] = 8};
	struct client_scsi_command command = {.target = 3,
					      .lun = 1,
					      .cdb = same,
					      .cdb_length = sizeof(same),
					      .out = data,
					      .size = 512};
	struct client_scsi_completion completion;
	json_t *requests, *request;

	(void)state;
	memset(data, 0, sizeof(data));
	assert_int_equal(scsi_guest_try_start(&rig_guest, "scsi", NULL), 0);
	scsi_guest_make_ready(&rig_guest, 3, 0);
	scsi_guest_make_ready(&rig_guest, 3, 1);
	assert_int_equal(client_scsi_read(&rig_guest.scsi[0], 3, 0, 8, 1, data, 512), 0);
	assert_int_equal(client_scsi_read(&rig_guest.scsi[1], 3, 1, 24, 2, data, 1024), 0);
	assert_int_equal(client_scsi_command(&rig_guest.scsi[0], &command, &completion), 0);
	assert_int_equal(completion.response.status, GOOD);
	assert_true(client_scsi_read(&rig_guest.scsi[0], 3, 1, RIG_SECTORS, 1, data, 512) != 0);
	requests = requests_of("scsi", 2);
	request = json_array_get(requests, 0);
	expect_text(request, "type", "READ(10)");
	expect_text(request, "status", "GOOD");
	assert_int_equal(number(request, "opcode"), 0x28);
	assert_int_equal(number(request, "queue"), 3);
	assert_int_equal(number(request, "target"), 3);
	assert_int_equal(number(request, "lun"), 1);
	assert_int_equal(number(request, "lba"), 24);
	assert_int_equal(number(request, "blocks"), 2);
	assert_int_equal(number(request, "queue_us"), 0);
	assert_true(number(request, "device_us") >= DELAYED_US);
	request = json_array_get(requests, 1);
	expect_text(request, "type", "WRITE SAME(16)");
	assert_int_equal(number(request, "lba"), 8);
	assert_int_equal(number(request, "queue_us"), 0);
	assert_true(number(request, "device_us") >= DELAYED_US);
	json_decref(requests);
	scsi_guest_end(&rig_guest);
}

/* The longest time that a READ(10) was kept from the device; -1: there is no record of one. */
static long
longest_wait(void)
{
	json_t *answer = ask("scsi"), *request;
	long longest = -1;
	size_t i;

	json_array_foreach (json_object_get(answer, "requests"), i, request) {
		if (number(request, "opcode") == 0x28 && number(request, "queue_us") > longest)
			longest = number(request, "queue_us");
	}
	json_decref(answer);
	return longest;
}

/*
 * COMPARE AND WRITE has its blocks alone, for the time of a read and a write. Whether a READ that
 * comes meanwhile finds that out depends on who was first.
 */
static void
test_scsi_exclusion(void **state)
{
	static const uint8_t compare[16] = {0x89, [13] = 1}, read[10] = {0x28, [8] = 1};
	struct scsi_guest *guest = &rig_guest;
	struct client_segment out, in;
	struct client_scsi_request first = {.cdb = compare, .cdb_length = 16, .segment_count = 1},
				   second = {.cdb = read, .cdb_length = 10, .segment_count = 1};
	struct client_scsi_completion completion;
	uint64_t end = now_ms() + DEADLINE_MS;

	(void)state;
	assert_int_equal(scsi_guest_try_start(guest, "scsi", NULL), 0);
	scsi_guest_make_ready(guest, 3, 1);
	out = (struct client_segment){guest->scsi[0].bounce_gpa, 1024, false};
	in = (struct client_segment){guest->scsi[1].bounce_gpa, 512, true};
	first.segments = &out;
	second.segments = &in;
	client_scsi_lun(first.lun, 3, 1);
	client_scsi_lun(second.lun, 3, 1);
	while (longest_wait() < 10000) {
		assert_true(now_ms() < end);
		assert_int_equal(client_scsi_submit(&guest->scsi[0], &first), 0);
		usleep(10000);
		assert_int_equal(client_scsi_submit(&guest->scsi[1], &second), 0);
		assert_int_equal(client_scsi_wait(&guest->scsi[0], &completion, DEADLINE_MS), 0);
		assert_int_equal(completion.response.status, GOOD);
		assert_int_equal(client_scsi_wait(&guest->scsi[1], &completion, DEADLINE_MS), 0);
		assert_int_equal(completion.response.status, GOOD);
	}
	scsi_guest_end(guest);
}

/* ---- while guests run ---- */

static struct workload load;
static atomic_uint answers, wrong;

/* Those of a thread come in order, without gaps. */
static bool
is_in_order(json_t *requests)
{
	json_t *last = json_object(), *request;
	bool good = true;
	size_t i;

	json_array_foreach (requests, i, request) {
		const char *thread = json_string_value(json_object_get(request, "thread"));
		json_t *before = json_object_get(last, thread), *now;

		now = json_object_get(request, "number");
		good &= before == NULL || json_integer_value(now) == json_integer_value(before) + 1;
		good &= json_integer_value(json_object_get(request, "completion_us")) >= 0;
		json_object_set(last, thread, now);
	}
	json_decref(last);
	return good;
}

static void
ask_again_and_again(struct rig_thread *thread, void *arg)
{
	(void)arg;
	while (!thread->stop) {
		json_t *answer = ask("fast");
		json_t *threshold = json_pack("{s:s, s:i}", "ctrlr", "fast", "threshold_us",
					      answers % 16 == 0 ? 1000000 : 0);

		wrong += answer == NULL || !is_in_order(json_object_get(answer, "requests"));
		wrong += daemon_call(&rig_daemon, "vhost_controller_set_slow_threshold",
				     threshold) != 0;
		answers++;
		json_decref(answer);
	}
}

static void
test_while_guests_run(void **state)
{
	struct rig_thread *thread;
	uint64_t end = now_ms() + DEADLINE_MS;
	json_t *answer;

	(void)state;
	answers = wrong = 0;
	set_threshold("fast", 0);
	assert_int_equal(workload_open(&load, rig_socket("fast"), 0, 1), 0);
	thread = rig_thread_start(ask_again_and_again, NULL);
	do
		assert_int_equal(workload_run(&load, 1000, DEADLINE_MS), 0);
	while (answers < 20 && now_ms() < end);
	rig_thread_stop(thread);
	assert_int_equal(workload_drain(&load, DEADLINE_MS), 0);
	assert_int_equal(workload_verify(&load), 0);
	workload_close(&load);
	assert_int_equal(wrong, 0);
	answer = ask("fast");
	assert_true(number(answer, "recorded") > 256);
	json_decref(answer);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_slow_disk),
		TEST(test_rate_limit),
		TEST(test_threshold),
		TEST(test_errors),
		TEST(test_controller_made_anew),
		TEST(test_front_end_that_dies),
		TEST(test_scsi),
		TEST(test_scsi_exclusion),
		TEST(test_while_guests_run),
		cmocka_unit_test(scsi_rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_trace", tests, scsi_rig_group_setup,
					   rig_group_teardown);
}
