/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory on its way from a vhost-user-blk controller to its block device, while the device
 * goes away and afterwards. The test is the app thread; OS threads beside it are vhost-events.
 */
/* links: vhost virtio bdev event thread env testlib */
#include <errno.h>
#include <pthread.h>

#include "bdev_fake.h"
#include "vhost_controller_fake.h"

#define PAGE 4096u
#define DISK "disk"

static uint8_t pages[4 * PAGE] __attribute__((aligned(PAGE)));

static void
start(void)
{
	struct vhost_blk_opts opts = {.name = "vm", .bdev = DISK};
	struct bdev_info info = fake_info(DISK);

	memset(&controller, 0, sizeof(controller));
	assert_int_equal(fake_register(&info), 0);
	thread_set_current(rig_app);
	assert_int_equal(vhost_blk_create(&opts, &rig_err), 0);
	thread_set_current(NULL);
}

static void
destroy_run(void *arg)
{
	(void)arg;
	controller.ops->destroy(controller.device);
	controller.device = NULL;
}

static void
stop(void)
{
	rig_run(destroy_run, NULL);
	assert_int_equal(rig_delete(DISK, "fake"), 0);
}

/* Page i. */
static int
map(unsigned int i, void **memory)
{
	*memory = pages;
	return controller.ops->memory_map(controller.device, pages + i * PAGE, PAGE, 5, 2 * PAGE,
					  memory, &rig_err);
}

static void
check_counts(unsigned int maps, unsigned int unmaps)
{
	assert_int_equal(fake.map_calls, maps);
	assert_int_equal(fake.unmap_calls, unmaps);
	assert_int_equal(fake.bad_unmaps, 0);
	assert_int_equal(fake.left_mapped, 0);
}

/* ---- tests ---- */

static void
test_map(void **state)
{
	void *memory;

	(void)state;
	fake_use_dma();
	start();
	assert_int_equal(map(1, &memory), 0);
	assert_non_null(memory);
	assert_ptr_equal(fake.maps[0].addr, pages + PAGE);
	assert_int_equal(fake.maps[0].length, PAGE);
	assert_int_equal(fake.maps[0].fd, 5);
	assert_int_equal(fake.maps[0].fd_offset, 2 * PAGE);
	controller.ops->memory_unmap(memory);
	check_counts(1, 1);
	stop();
}

static void
test_no_dma(void **state)
{
	void *memory = pages;

	(void)state;
	start();
	assert_int_equal(controller.ops->memory_map(controller.device, pages + 1, 3, 5, 0, &memory,
						    &rig_err),
			 0);
	assert_null(memory);
	stop();
}

/* The reason is the block device's. */
static void
test_refused(void **state)
{
	void *memory;

	(void)state;
	fake_use_dma();
	start();
	fake.map_fail_at = 1;
	assert_int_equal(map(0, &memory), -ENOMEM);
	assert_null(memory);
	assert_string_equal(rig_err.text, "no more memory can be locked");
	assert_int_equal(controller.ops->memory_map(controller.device, pages + 512, PAGE, 5, 0,
						    &memory, &rig_err),
			 -EINVAL);
	assert_null(memory);
	stop();
	assert_int_equal(fake.unmap_calls, 0);
}

/* A worker frees the last session when the controller is gone, and perhaps its disk, too. */
static void
test_unmapped_late(void **state)
{
	void *memory[2];

	(void)state;
	fake_use_dma();
	start();
	assert_int_equal(map(0, &memory[0]), 0);
	assert_int_equal(map(1, &memory[1]), 0);
	rig_run(destroy_run, NULL);
	controller.ops->memory_unmap(memory[0]);
	check_counts(2, 1);
	assert_int_equal(rig_delete(DISK, "fake"), 0);
	check_counts(2, 2);
	controller.ops->memory_unmap(memory[1]);
	check_counts(2, 2);
}

/* ---- removal ---- */

static void
remove_run(void *arg)
{
	(void)arg;
	bdev_remove(fake.bdev);
}

static void
start_removal(struct rig_call *call)
{
	*call = (struct rig_call){.fn = remove_run};
	assert_int_equal(coroutine_start(rig_app, "remove", rig_call_run, call), 0);
}

static void
test_removed(void **state)
{
	struct rig_call call;
	void *memory, *late;

	(void)state;
	fake_use_dma();
	start();
	assert_int_equal(map(0, &memory), 0);
	start_removal(&call);
	rig_wait(&call.finished);
	assert_int_equal(fake.destroyed, 1);
	check_counts(1, 1);
	/* A new session of the guest: the controller is there, and its requests fail. */
	assert_int_equal(map(1, &late), 0);
	assert_null(late);
	check_counts(1, 1);
	controller.ops->memory_unmap(memory);
	check_counts(1, 1);
	rig_run(destroy_run, NULL);
}

struct mapper {
	pthread_t thread;
	void *memory;
	int rc;
};

static void *
mapper_main(void *arg)
{
	struct mapper *mapper = arg;

	mapper->rc = map(0, &mapper->memory);
	return NULL;
}

/* The device is there until the map is made, or has failed, which is no error then. */
static void
remove_while_mapping(bool fails)
{
	struct rig_call call;
	struct mapper mapper;

	fake_use_dma();
	start();
	fake.map_blocks = true;
	fake.map_fail_at = fails ? 1 : 0;
	assert_int_equal(pthread_create(&mapper.thread, NULL, mapper_main, &mapper), 0);
	while (fake.mapping == 0)
		usleep(100);
	start_removal(&call);
	for (unsigned int i = 0; i < 100; i++) {
		rig_poll(); /* comes back */
		usleep(100);
	}
	assert_true(bdev_is_open(fake.bdev));
	fake.map_blocks = false;
	pthread_join(mapper.thread, NULL);
	rig_wait(&call.finished);
	assert_int_equal(mapper.rc, 0);
	assert_int_equal(mapper.memory == NULL, fails);
	check_counts(1, fails ? 0 : 1);
	if (mapper.memory != NULL)
		controller.ops->memory_unmap(mapper.memory);
	check_counts(1, fails ? 0 : 1);
	rig_run(destroy_run, NULL);
}

static void
test_removed_while_mapping(void **state)
{
	(void)state;
	remove_while_mapping(false);
}

static void
test_removed_while_mapping_fails(void **state)
{
	(void)state;
	remove_while_mapping(true);
}

static void *
session_main(void *arg)
{
	struct mapper *mapper = arg;

	for (unsigned int i = 0; i < 200; i++) {
		mapper->rc = map(0, &mapper->memory);
		if (mapper->rc != 0)
			return NULL;
		if (mapper->memory != NULL)
			controller.ops->memory_unmap(mapper->memory);
	}
	return NULL;
}

/* Memory tables come and go all the time, and so does the device. */
static void
test_removed_among_changes(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 20; round++) {
		struct rig_call call;
		struct mapper mapper;

		free(fake.memory);
		fake_reset();
		fake_use_dma();
		start();
		assert_int_equal(pthread_create(&mapper.thread, NULL, session_main, &mapper), 0);
		usleep(round * 5);
		start_removal(&call);
		rig_wait(&call.finished);
		pthread_join(mapper.thread, NULL);
		assert_int_equal(mapper.rc, 0);
		check_counts(fake.map_calls, fake.map_calls);
		rig_run(destroy_run, NULL);
	}
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_map),
		test(test_no_dma),
		test(test_refused),
		test(test_unmapped_late),
		test(test_removed),
		test(test_removed_while_mapping),
		test(test_removed_while_mapping_fails),
		test(test_removed_among_changes),
	};

	return cmocka_run_group_tests_name("vhost_blk_dma", tests, NULL, NULL);
}
