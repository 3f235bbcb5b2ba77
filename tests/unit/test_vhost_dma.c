/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory that the device reaches by itself: it knows all of it before a queue uses it, and
 * until the last request in it is done. The test is the vhost-events thread, another OS thread
 * polls the controller's.
 */
/* links: vhost virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=log_write,--wrap=completion_wait */
#include "log_capture.h"
#include "patience.h"
#include "vhost_queues_rig.h"

#define MAX_REGIONS 8

static pthread_t poller;

static void *
poll_thread(void *arg)
{
	struct thread *thread = arg;

	while (!thread_is_exited(thread)) {
		thread_poll(thread, env_ticks());
		sched_yield();
	}
	thread_destroy(thread);
	return NULL;
}

static int
schedule(struct thread *thread)
{
	return -pthread_create(&poller, NULL, poll_thread, thread);
}

static int
setup(void **state)
{
	static const struct thread_lib_ops ops = {.schedule = schedule};

	(void)state;
	failures = 0;
	thread_lib_init(&ops);
	assert_int_equal(work_pool_start(NULL), 0);
	rig_memory_create();
	rig_start(1);
	log_capture_reset();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	rig_end();
	pthread_join(poller, NULL);
	free(controller);
	work_pool_stop();
	thread_lib_fini();
	rig_memory_destroy();
	assert_int_equal(failures, 0);
	return 0;
}

/* All memory in so many regions of equal size. */
static int
send_regions(uint32_t count)
{
	struct vhost_mem_region regions[MAX_REGIONS];
	int fds[MAX_REGIONS];

	for (uint32_t i = 0; i < count; i++) {
		const uint64_t size = MEMORY_SIZE / count;

		fds[i] = memory_fd;
		regions[i] = (struct vhost_mem_region){
			.gpa = GPA + i * size,
			.size = size,
			.user_addr = USER + i * size,
			.mmap_offset = i * size,
		};
	}
	return vhost_session_set_mem_table(session, regions, fds, count);
}

static void
start_queues(uint32_t regions)
{
	assert_int_equal(send_regions(regions), 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_int_equal(start_queue(i), 0);
}

static void
serve_all(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		driver_do_one(&drivers[i]);
}

/* Each queue has one request in the device. */
static void
hold_one_each(void)
{
	device.hold = true;
	for (unsigned int i = 0; i < QUEUES; i++) {
		unsigned int before = device.handled[i];

		driver_offer(&drivers[i], 0);
		driver_kick(&drivers[i]);
		wait_until(device.handled[i] > before);
	}
}

static void *
let_go_later(void *arg)
{
	unsigned int expected = *(unsigned int *)arg;

	wait_until(device.mapped == expected);
	usleep(20000);
	check(device.mapped == expected);
	let_go();
	return NULL;
}

/* ---- tests ---- */

/* What the device is told is what is here; the old goes with the next table. */
static void
test_regions(void **state)
{
	(void)state;
	assert_int_equal(send_regions(4), 0);
	assert_int_equal(device.mapped, 4);
	for (unsigned int i = 0; i < 4; i++) {
		const struct device_map *map = &device.maps[i];

		assert_ptr_equal(map->addr,
				 vhost_mem_from_user(session->memory, USER + i * QUEUE_BYTES, 1));
		assert_int_equal(map->length, QUEUE_BYTES);
		assert_int_equal(map->fd, memory_fd);
		assert_int_equal(map->fd_offset, i * QUEUE_BYTES);
	}
	start_queues(2);
	assert_int_equal(device.mapped, 2);
	serve_all();
	stop_all();
	new_session();
	wait_until(device.mapped == 0);
}

/*
 * A region that the device does not take changes nothing: neither the first table nor a later one.
 */
static void
test_refused(void **state)
{
	char expected[128];

	(void)state;
	for (unsigned int regions = 1; regions <= MAX_REGIONS; regions *= 2) {
		for (unsigned int at = 1; at <= regions; at++) {
			device.map_fail_at = at;
			assert_int_equal(send_regions(regions), -ENOMEM);
			assert_null(session->memory);
			assert_int_equal(device.mapped, 0);
			snprintf(
				expected, sizeof(expected),
				"vhost test: memory region %u, %u bytes at 0x%llx of the guest, is "
				"not taken by the block device: the limit is reached",
				at - 1, MEMORY_SIZE / regions,
				GPA + (unsigned long long)(at - 1) * (MEMORY_SIZE / regions));
			assert_non_null(strstr(log_capture_last(), expected));
		}
	}
	start_queues(2);
	serve_all();
	for (unsigned int at = 1; at <= MAX_REGIONS; at++) {
		struct vhost_mem *before = session->memory;

		device.map_fail_at = at;
		assert_int_equal(send_regions(MAX_REGIONS), -ENOMEM);
		assert_ptr_equal(session->memory, before);
		assert_int_equal(device.mapped, 2);
		serve_all();
	}
	stop_all();
}

/* Larger than its file: the device never hears of it. */
static void
test_bad_table(void **state)
{
	struct vhost_mem_region region = {.gpa = GPA, .size = 2 * MEMORY_SIZE, .user_addr = USER};

	(void)state;
	assert_int_equal(vhost_session_set_mem_table(session, &region, &memory_fd, 1), -ERANGE);
	assert_int_equal(device.map_calls, 0);
}

/* The old memory is the device's until its requests are done, and the new is before. */
static void
test_change_waits(void **state)
{
	unsigned int expected = 4 + 2;
	pthread_t thread;

	(void)state;
	start_queues(4);
	hold_one_each();
	assert_int_equal(pthread_create(&thread, NULL, let_go_later, &expected), 0);
	assert_int_equal(send_regions(2), 0);
	pthread_join(thread, NULL);
	assert_int_equal(device.mapped, 2);
	for (unsigned int i = 0; i < QUEUES; i++)
		wait_until(driver_reap(&drivers[i]) == 1);
	serve_all();
	stop_all();
}

/* Requests that do not end keep the old memory, and the new one is given back. */
static void
test_change_gives_up(void **state)
{
	(void)state;
	start_queues(4);
	hold_one_each();
	impatient = true;
	assert_int_equal(send_regions(2), -ETIMEDOUT);
	impatient = false;
	assert_int_equal(device.mapped, 4);
	vhost_session_release(session);
	session = NULL;
	assert_int_equal(device.mapped, 4);
	let_go();
	wait_until(device.mapped == 0);
}

/* The front-end goes with requests in the device, and another one comes. */
static void
test_release(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < QUEUES; i++)
			driver_reset(&drivers[i]);
		start_queues(2);
		hold_one_each();
		new_session();
		assert_int_equal(device.mapped, 2);
		assert_int_equal(send_regions(4), 0);
		assert_int_equal(device.mapped, 2 + 4);
		let_go();
		wait_until(device.mapped == 4);
		new_session();
		wait_until(device.mapped == 0);
	}
}

/* A device that is gone needs no memory. What it had is taken back. */
static void
test_gone(void **state)
{
	(void)state;
	start_queues(4);
	serve_all();
	device.gone = true;
	assert_int_equal(vhost_threads_call(controller, vhost_thread_put_channels, NULL), 0);
	serve_all();
	assert_int_equal(send_regions(2), 0);
	assert_int_equal(device.mapped, 0);
	serve_all();
	stop_all();
	new_session();
	start_queues(1);
	serve_all();
	stop_all();
}

/* The file is cut short: what was mapped is taken back as it was. */
static void
test_truncated(void **state)
{
	(void)state;
	assert_int_equal(mapping_guard_install(), 0);
	start_queues(2);
	serve_all();
	log_capture_reset();
	assert_int_equal(ftruncate(memory_fd, 0), 0);
	wait_until(log_capture_count() == QUEUES); /* each is broken */
	assert_int_equal(device.mapped, 2);
	new_session();
	wait_until(device.mapped == 0);
	assert_int_equal(send_regions(2), -ERANGE);
	assert_int_equal(device.mapped, 0);
}

static void
test_changes_under_load(void **state)
{
	(void)state;
	start_queues(1);
	drivers_start();
	for (unsigned int round = 0; round < 100; round++) {
		uint32_t regions = 1u << round % 4;

		usleep(500);
		if (round % 5 == 4) {
			device.map_fail_at = 1 + round % regions;
			check(send_regions(regions) == -ENOMEM);
		} else {
			check(send_regions(regions) == 0);
			check(device.mapped == regions);
		}
	}
	drivers_stop();
	stop_all();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_regions),      TEST(test_refused),         TEST(test_bad_table),
		TEST(test_change_waits), TEST(test_change_gives_up), TEST(test_release),
		TEST(test_gone),         TEST(test_truncated),       TEST(test_changes_under_load),
	};

	return cmocka_run_group_tests_name("vhost_dma", tests, NULL, NULL);
}
