/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guests on an NVMe device that does not answer any more, whose namespaces are all gone, or that
 * holds requests while the guest's memory goes away. Every request ends, and no sooner than the
 * device lets go of its memory. (In what time: test_nvme_ctrlr.c.)
 */
/* links: client testlib */
#include "nvme_guest_rig.h"

#define IO_MS        200
#define ADMIN_MS     300
#define RETRIES      1
#define CAP_TO       1 /* of 500 ms */
#define DELAY_MS     1500
#define REGIONS      3 /* of the guest: 132 MiB; the queues have a few MiB */
#define GUEST_MAPPED (64 << 20)

/* ---- a device that does not answer ---- */

static void
set_patience(const char *action, int io_ms, int admin_ms, int retries)
{
	rpc("bdev_nvme_set_options", "{s:s, s:i, s:i, s:i}", "action_on_timeout", action,
	    "timeout_us", io_ms * 1000, "timeout_admin_us", admin_ms * 1000,
	    "transport_retry_count", retries);
}

static void
start_impatient(const char *action)
{
	char line[32];

	snprintf(line, sizeof(line), "set cap-to %d", CAP_TO);
	start_device(NAMESPACE, line);
	start_daemon_on_two_cores();
	start_load();
	work(500);
	rig.load.may_fail = true;
	set_patience(action, IO_MS, ADMIN_MS, RETRIES);
}

/* What is under way ends, and badly. */
static void
expect_failures(void)
{
	uint64_t failed = rig.load.failed;

	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	assert_true(rig.load.failed > failed);
}

/* The device is well again, and so is the controller, by itself. */
static void
expect_recovery(void)
{
	uint64_t failed;

	control("fault-clear");
	control("set ready 1");
	do {
		failed = rig.load.failed;
		assert_int_equal(workload_run(&rig.load, 500, DEADLINE_MS), 0);
	} while (rig.load.failed > failed);
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	workload_close(&rig.load);
	set_patience("abort", DEADLINE_MS, DEADLINE_MS, RETRIES);
	plug();
	round_trips(512);
	unplug();
}

static void
check_no_answer(const char *action, const char *trouble)
{
	start_impatient(action);
	control("%s", trouble);
	assert_int_equal(workload_run(&rig.load, 0, DEADLINE_MS), 0);
	expect_failures();
	expect_recovery();
}

static void
test_all_io_is_lost(void **state)
{
	(void)state;
	check_no_answer("abort", "fault lose queue=io count=1000000");
}

static void
test_all_io_is_lost_and_reset(void **state)
{
	(void)state;
	check_no_answer("reset", "fault lose queue=io count=1000000");
}

static void
test_everything_is_lost(void **state)
{
	(void)state;
	check_no_answer("abort", "fault lose queue=any count=1000000");
}

static void
test_never_ready_again(void **state)
{
	(void)state;
	start_impatient("abort");
	control("set ready 0");
	assert_int_equal(workload_run(&rig.load, 0, DEADLINE_MS), 0);
	control("fatal");
	/* Whatever comes before the first attempt is over is carried out, or fails. */
	do {
		assert_int_equal(workload_run(&rig.load, 1, DEADLINE_MS), 0);
	} while (rig.load.failed == 0);
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	expect_recovery();
}

/* ---- namespaces ---- */

static void
test_all_namespaces_gone_under_load(void **state)
{
	uint64_t failed;

	(void)state;
	start_device(NAMESPACE, "ns add 2 memory 8192 512");
	start_daemon(NULL);
	start_load();
	work(1000);
	rig.load.may_fail = true;
	control("ns remove 2");
	control("ns remove 1");
	failed = rig.load.failed;
	UNTIL(workload_run(&rig.load, 200, DEADLINE_MS) == 0 && rig.load.failed > failed + 200);
	UNTIL(!is_there("nvme0n1") && !is_there("nvme0n2"));
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	workload_close(&rig.load);
	/* The controller is there, and its next namespace is a disk. */
	rpc("vhost_delete_controller", "{s:s}", "ctrlr", "vm");
	control(NAMESPACE);
	UNTIL(is_there("nvme0n1"));
	create_vm();
	start_load();
	work(1000);
	end_load();
	assert_int_equal(controller_number("resets"), 0);
}

/* ---- memory that goes away while the device works in it ---- */

/*
 * The device says at its end whether memory was unmapped under a command, or a command was for
 * memory that is not mapped.
 */

static bool
is_fault_hit(void)
{
	char answer[NVME_DEVICE_ANSWER];

	assert_int_equal(nvme_device_control(&rig.device, answer, "faults"), 0);
	return strstr(answer, "hits=0") == NULL;
}

/* Those that come now stay in the device for DELAY_MS. */
static void
delay_requests(void)
{
	control("fault delay queue=io count=1000000 ms=%d", DELAY_MS);
	assert_int_equal(workload_run(&rig.load, 0, DEADLINE_MS), 0);
	UNTIL(is_fault_hit());
	control("fault-clear");
}

static void
hold_requests(void)
{
	start_load();
	work(500);
	delay_requests();
}

static void
expect_unmapped(void)
{
	UNTIL(stat_of("delayed") == 0 && stat_of("map_bytes") < GUEST_MAPPED);
}

static void
test_disconnect_during_dma(void **state)
{
	int64_t held;

	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon_on_two_cores();
	hold_requests();
	client_close(&rig.load.device.client);
	usleep(DELAY_MS * 1000 / 4);
	held = stat_of("map_bytes");
	if (stat_of("delayed") > 0)
		assert_true(held > GUEST_MAPPED);
	expect_unmapped();
	workload_close(&rig.load);
	plug();
	round_trips(512);
	unplug();
}

/* The next session's requests come behind those of the last one. */
static void
test_reconnect_during_dma(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon_on_two_cores();
	for (int i = 0; i < 2; i++) {
		hold_requests();
		assert_int_equal(client_device_reconnect(&rig.load.device), 0);
		work(500);
		end_load();
		control("ns remove 1");
		UNTIL(!is_there("nvme0n1"));
		rpc("vhost_delete_controller", "{s:s}", "ctrlr", "vm");
		control(NAMESPACE);
		UNTIL(is_there("nvme0n1"));
		create_vm();
	}
}

static void
test_deletion_during_dma(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon_on_two_cores();
	hold_requests();
	rpc("vhost_delete_controller", "{s:s}", "ctrlr", "vm");
	expect_unmapped();
	workload_close(&rig.load);
}

/*
 * The pages are gone: rings, too. A device in another process that has no data finds none missing.
 */
static void
test_truncation_during_dma(void **state)
{
	struct client_memory *memory = &rig.load.device.memory;
	(void)state;
	start_device("ns add 1 null 8192 512", NULL);
	start_daemon_on_two_cores();
	start_load();
	rig.load.may_fail = true;
	work(500);
	delay_requests();
	for (unsigned int i = 0; i < memory->count; i++)
		assert_int_equal(ftruncate(memory->regions[i].fd, 0), 0);
	UNTIL(stat_of("delayed") == 0);
	client_close(&rig.load.device.client);
	expect_unmapped();
	workload_close(&rig.load);
	plug();
	unplug();
}

static void
change_memory(void)
{
	static const struct client_region_layout more = {
		.gpa = 20ULL << 30, .user_addr = 0x7d0000000000, .size = 1 << 20, .file = 9};
	struct client_memory *memory = &rig.load.device.memory;

	if (memory->count > REGIONS)
		assert_int_equal(client_memory_remove(memory), 0);
	else
		assert_int_equal(client_memory_add(memory, &more), 0);
	assert_int_equal(client_set_mem_table(&rig.load.device.client, memory, true), 0);
}

static void
test_tables_during_dma(void **state)
{
	(void)state;
	start_device(NAMESPACE, NULL);
	start_daemon_on_two_cores();
	start_load();
	for (int i = 0; i < 50; i++) {
		work(100);
		change_memory();
	}
	assert_true(stat_of("map_bytes") > GUEST_MAPPED);
	end_load();
	expect_unmapped();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_all_io_is_lost),
		TEST(test_all_io_is_lost_and_reset),
		TEST(test_everything_is_lost),
		TEST(test_never_ready_again),
		TEST(test_all_namespaces_gone_under_load),
		TEST(test_disconnect_during_dma),
		TEST(test_reconnect_during_dma),
		TEST(test_deletion_during_dma),
		TEST(test_truncation_during_dma),
		TEST(test_tables_during_dma),
	};

	return cmocka_run_group_tests_name("nvme_trouble", tests, NULL, NULL);
}
