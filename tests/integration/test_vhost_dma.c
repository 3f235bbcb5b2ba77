/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest on a block device with DMA: its memory is the device's exactly as long as requests may
 * be in it, while memory tables change, front-ends come and go, and the device is taken away, all
 * under load. The daemon's rooms run in this process, with a block device of the test's; the tests
 * are on an OS thread beside them, and are front-ends.
 */
/* links: client testlib app jsonrpc vhost bdev event thread virtio env */
/* ldflags: -Xlinker --wrap=accept -Xlinker --wrap=recvmsg */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "app.h"
#include "coroutine.h"
#include "dma_disk.h"
#include "log.h"
#include "vhost.h"
#include "waiting.h"
#include "workload.h"

#define DISK    "disk"
#define MIB     (1ULL << 20)
#define REGIONS client_default_layout_count

static char folder[128], socket_dir[160], socket_path[200];
static struct dma_disk disk;
static struct workload load;
static uint64_t random_state = 88172645463325252ULL;

static uint32_t
random_below(uint32_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % limit;
}

/* ---- calls on the app thread ---- */

struct control {
	int (*fn)(void);
	int rc;
	sem_t done;
};

static void
control_main(void *arg)
{
	struct control *control = arg;

	control->rc = control->fn();
	sem_post(&control->done);
}

static void
control_begin(struct control *control, int (*fn)(void))
{
	control->fn = fn;
	sem_init(&control->done, 0, 0);
	assert_int_equal(coroutine_start(app_thread(), "test", control_main, control), 0);
}

static int
control_end(struct control *control)
{
	assert_true(wait_for_post(&control->done));
	return control->rc;
}

static int
call(int (*fn)(void))
{
	struct control control;

	control_begin(&control, fn);
	return control_end(&control);
}

static int
create_disk(void)
{
	const struct vhost_blk_opts opts = {.name = DISK, .bdev = DISK};
	int rc = dma_disk_create(&disk, DISK, WORKLOAD_DISK_BYTES);

	return rc == 0 ? vhost_blk_create(&opts, NULL) : rc;
}

static int
delete_controller(void)
{
	return vhost_controller_delete(DISK, NULL);
}

static int
delete_disk(void)
{
	return bdev_delete(DISK, "dma", NULL);
}

static int
remove_disk(void)
{
	bdev_remove(disk.bdev);
	return 0;
}

static int
setup(void **state)
{
	(void)state;
	return call(create_disk);
}

/* Nothing that was mapped is left, and each map was taken back once. */
static void
check_end(void)
{
	assert_int_equal(disk.destroyed, 1);
	assert_int_equal(disk.left_mapped, 0);
	assert_int_equal(disk.mapped, 0);
	assert_int_equal(disk.unmaps, disk.maps);
	assert_int_equal(disk.faults, 0);
	assert_int_equal(disk.not_mapped, 0);
}

static int
teardown(void **state)
{
	(void)state;
	assert_int_equal(call(delete_controller), 0);
	if (disk.destroyed == 0)
		assert_int_equal(call(delete_disk), 0);
	check_end();
	return 0;
}

/* ---- the guest ---- */

static void
start_guest(void)
{
	assert_int_equal(workload_open(&load, socket_path, 0, random_below(1000)), 0);
	assert_int_equal(disk.mapped, REGIONS);
}

static void
run_guest(void)
{
	assert_int_equal(workload_run(&load, 1 + random_below(300), DEADLINE_MS), 0);
}

/* All data is what it must be. */
static void
end_guest(void)
{
	assert_int_equal(workload_drain(&load, DEADLINE_MS), 0);
	assert_int_equal(workload_verify(&load), 0);
	workload_close(&load);
	WAIT_UNTIL(disk.mapped == 0);
}

static int
send_table(void)
{
	return client_set_mem_table(&load.device.client, &load.device.memory, true);
}

/* Memory is plugged or unplugged; the queues go on. */
static void
change_memory(void)
{
	static const struct client_region_layout more = {
		.gpa = 20ULL << 30, .user_addr = 0x7d0000000000, .size = MIB, .file = 9};
	struct client_memory *memory = &load.device.memory;

	if (memory->count == REGIONS)
		assert_int_equal(client_memory_add(memory, &more), 0);
	else
		assert_int_equal(client_memory_remove(memory), 0);
}

/* ---- tests ---- */

static void
test_tables_under_load(void **state)
{
	(void)state;
	start_guest();
	for (unsigned int round = 0; round < 60; round++) {
		run_guest();
		change_memory();
		assert_int_equal(send_table(), 0);
		assert_int_equal(disk.mapped, load.device.memory.count);
	}
	end_guest();
}

/* A region that the device does not take changes nothing, and requests go on meanwhile. */
static void
test_refused_under_load(void **state)
{
	(void)state;
	start_guest();
	for (unsigned int round = 0; round < 9; round++) {
		run_guest();
		pthread_mutex_lock(&disk.lock);
		disk.fail_at = 1 + round % REGIONS;
		pthread_mutex_unlock(&disk.lock);
		assert_int_equal(send_table(), -EREMOTEIO);
		assert_int_equal(disk.mapped, REGIONS);
	}
	run_guest();
	end_guest();
}

/* Front-ends go with requests in the device, whose memory is unmapped when those are done. */
static void
test_disconnects_under_load(void **state)
{
	(void)state;
	start_guest();
	for (unsigned int round = 0; round < 30; round++) {
		run_guest();
		assert_int_equal(client_device_reconnect(&load.device), 0);
	}
	run_guest();
	WAIT_UNTIL(disk.mapped == REGIONS);
	end_guest();
}

/* The device holds on to requests: so it does to their memory. */
static void
test_memory_of_stuck_requests(void **state)
{
	(void)state;
	start_guest();
	run_guest();
	disk.hold = true;
	/* What was under way may all have been done just before that. */
	WAIT_UNTIL(workload_run(&load, 0, DEADLINE_MS) == 0 && disk.waiting > 0);
	client_close(&load.device.client);
	usleep(50000);
	assert_int_equal(disk.mapped, REGIONS);
	disk.hold = false;
	WAIT_UNTIL(disk.mapped == 0);
	workload_close(&load);
}

/* Memory that is not whole pages is no use for such a device. */
static void
test_odd_region(void **state)
{
	static const struct client_region_layout odd = {
		.gpa = 20ULL << 30, .user_addr = 0x7d0000000000, .size = MIB, .file = 9};
	struct client_memory *memory = &load.device.memory;

	(void)state;
	start_guest();
	assert_int_equal(client_memory_add(memory, &odd), 0);
	memory->regions[REGIONS].layout.size = MIB - 512;
	assert_int_equal(send_table(), -EREMOTEIO);
	assert_int_equal(disk.mapped, REGIONS);
	run_guest();
	memory->regions[REGIONS].layout.size = MIB;
	assert_int_equal(send_table(), 0);
	end_guest();
}

static void
expect_errors(struct client_device *device)
{
	struct client_blk blk;
	uint8_t data[512];

	assert_int_equal(client_blk_create(&blk, &device->rings[0], 4096, 4096, false), 0);
	blk.timeout_ms = DEADLINE_MS;
	assert_int_equal(client_blk_read(&blk, 0, data, sizeof(data)), VIRTIO_BLK_S_IOERR);
	client_blk_destroy(&blk);
}

/*
 * The device is taken away from a busy guest: it is gone although sessions have memory mapped in
 * it; tables and sessions come and go afterwards, and all requests fail.
 */
static void
test_removed_under_load(void **state)
{
	const struct client_options options = {.timeout_ms = DEADLINE_MS};
	struct client_device device;
	struct control removal;

	(void)state;
	start_guest();
	run_guest();
	control_begin(&removal, remove_disk);
	while (workload_run(&load, 50, DEADLINE_MS) == 0)
		;
	control_end(&removal);
	check_end();
	change_memory();
	assert_int_equal(send_table(), 0);
	workload_close(&load);
	assert_int_equal(client_device_open(&device, socket_path, &options), 0);
	assert_int_equal(client_device_start(&device), 0);
	expect_errors(&device);
	client_device_close(&device);
}

/* Whatever the front-end does while the device goes. */
static void
disturb(unsigned int round)
{
	switch (round % 3) {
	case 0:
		client_close(&load.device.client);
		return;
	case 1:
		for (unsigned int i = 0; i < 4; i++) {
			change_memory();
			assert_int_equal(send_table(), 0);
		}
		return;
	default:
		for (unsigned int i = 0; i < 4; i++)
			assert_int_equal(client_device_reconnect(&load.device), 0);
		return;
	}
}

static void
test_removed_in_between(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 24; round++) {
		struct control removal;

		start_guest();
		run_guest();
		control_begin(&removal, remove_disk);
		usleep(random_below(1500));
		disturb(round);
		control_end(&removal);
		check_end();
		workload_close(&load);
		assert_int_equal(call(delete_controller), 0);
		check_end();
		assert_int_equal(call(create_disk), 0);
	}
}

/* The controller is deleted under a guest that works, and the disk right behind it. */
static void
test_deleted_under_load(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 10; round++) {
		start_guest();
		run_guest();
		assert_int_equal(call(delete_controller), 0);
		assert_int_equal(call(delete_disk), 0);
		check_end();
		workload_close(&load);
		assert_int_equal(call(create_disk), 0);
	}
}

/* ---- the daemon around them ---- */

static int
start_bdev(const struct app_opts *opts, struct errmsg *err)
{
	(void)opts;
	(void)err;
	return bdev_lib_init();
}

static int
start_vhost(const struct app_opts *opts, struct errmsg *err)
{
	return vhost_lib_init(opts->socket_dir, err);
}

static const struct app_subsystem bdev_subsystem = {
	.name = "bdev",
	.start = start_bdev,
	.stop = bdev_lib_fini,
};
static const struct app_subsystem vhost_subsystem = {
	.name = "vhost",
	.start = start_vhost,
	.stop = vhost_lib_fini,
};
static const struct app_subsystem *const subsystems[] = {&bdev_subsystem, &vhost_subsystem, NULL};

static int
run_group(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_tables_under_load),
		TEST(test_refused_under_load),
		TEST(test_disconnects_under_load),
		TEST(test_memory_of_stuck_requests),
		TEST(test_odd_region),
		TEST(test_removed_under_load),
		TEST(test_removed_in_between),
		TEST(test_deleted_under_load),
	};

	return cmocka_run_group_tests_name("vhost_dma", tests, NULL, NULL);
}

static sem_t ready;

static void *
tests_main(void *arg)
{
	(void)arg;
	sem_wait(&ready);
	app_stop(run_group());
	return NULL;
}

static void
on_ready(void *arg)
{
	(void)arg;
	sem_post(&ready);
}

/* The first two CPUs that this process may use. */
static void
choose_cpus(struct cpumask *cpus)
{
	unsigned int found = 0;
	cpu_set_t set;

	pthread_getaffinity_np(pthread_self(), sizeof(set), &set);
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS && found < 2; cpu++) {
		if (!CPU_ISSET(cpu, &set))
			continue;
		cpumask_set(cpus, cpu);
		found++;
	}
}

int
main(void)
{
	struct app_opts opts = {
		.name = "test_vhost_dma",
		.memory_mb = 64,
		.socket_dir = socket_dir,
		.subsystems = subsystems,
	};
	const char *tmp = getenv("TMPDIR");
	struct errmsg err = {""};
	pthread_t tests;
	int rc;

	log_set_print_level(LOG_LEVEL_ERROR);
	snprintf(folder, sizeof(folder), "%s/dma-XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(folder) == NULL)
		return 1;
	snprintf(socket_dir, sizeof(socket_dir), "%s/sockets", folder);
	snprintf(socket_path, sizeof(socket_path), "%s/" DISK, socket_dir);
	choose_cpus(&opts.cpus);
	sem_init(&ready, 0, 0);
	if (pthread_create(&tests, NULL, tests_main, NULL) != 0)
		return 1;
	rc = app_start(&opts, on_ready, NULL, &err);
	if (rc < 0) {
		fprintf(stderr, "# %s\n", err.text);
		_exit(1);
	}
	pthread_join(tests, NULL);
	rmdir(socket_dir);
	rmdir(folder);
	return rc;
}
