/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory that devices with DMA are shown: who takes it back, in whatever order things end. */
/* links: bdev testlib thread env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <errno.h>
#include <pthread.h>

#include "bdev_fake.h"
#include "fault.h"
#include "log.h"

#define PAGE 4096u

static uint8_t pages[16 * PAGE] __attribute__((aligned(PAGE)));

static void
start(void)
{
	struct bdev_info info = fake_info("a");

	fake_use_dma();
	fake_start(&info);
}

/* Page i, as a whole. */
static struct bdev_memory *
map(unsigned int i)
{
	struct bdev_memory *memory = NULL;

	assert_int_equal(
		bdev_memory_map(fake_desc, pages + i * PAGE, PAGE, 7, 3 * PAGE, &memory, &rig_err),
		0);
	assert_non_null(memory);
	return memory;
}

static void
check_counts(unsigned int maps, unsigned int unmaps)
{
	assert_int_equal(fake.map_calls, maps);
	assert_int_equal(fake.unmap_calls, unmaps);
	assert_int_equal(fake.mapped, maps - unmaps);
	assert_int_equal(fake.bad_unmaps, 0);
}

/* ---- mapping ---- */

static void
test_map(void **state)
{
	struct bdev_memory *memory, *other;

	(void)state;
	start();
	memory = map(2);
	check_counts(1, 0);
	assert_ptr_equal(fake.maps[0].addr, pages + 2 * PAGE);
	assert_int_equal(fake.maps[0].length, PAGE);
	assert_int_equal(fake.maps[0].fd, 7);
	assert_int_equal(fake.maps[0].fd_offset, 3 * PAGE);
	/* The same once more is another map. */
	other = map(2);
	check_counts(2, 0);
	bdev_memory_unmap(memory);
	check_counts(2, 1);
	bdev_memory_unmap(other);
	check_counts(2, 2);
	fake_stop();
	check_counts(2, 2);
}

/* It costs nothing, and any memory is good. */
static void
test_no_dma(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_memory *memory = (struct bdev_memory *)pages;

	(void)state;
	fake_start(&info);
	fault_after(0);
	assert_int_equal(bdev_memory_map(fake_desc, pages + 1, 100, -1, 5, &memory, NULL), 0);
	assert_false(fault_end());
	assert_null(memory);
	bdev_memory_unmap(NULL);
	fake_stop();
}

static void
test_whole_pages(void **state)
{
	static const struct {
		size_t start;
		uint64_t length, fd_offset;
	} bad[] = {{512, PAGE, 0}, {0, PAGE + 512, 0}, {0, PAGE, 512}, {0, 0, 0}, {1, 1, 1}};

	(void)state;
	start();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct bdev_memory *memory = (struct bdev_memory *)pages;

		rig_err.text[0] = '\0';
		assert_int_equal(bdev_memory_map(fake_desc, pages + bad[i].start, bad[i].length, 7,
						 bad[i].fd_offset, &memory, &rig_err),
				 -EINVAL);
		assert_null(memory);
		assert_non_null(strstr(rig_err.text, "block device a"));
	}
	check_counts(0, 0);
	fake_stop();
}

/* The module's error and its reason; others are not touched. */
static void
test_module_fails(void **state)
{
	struct bdev_memory *memory, *failed;

	(void)state;
	start();
	memory = map(0);
	fake.map_fail_at = 1;
	assert_int_equal(bdev_memory_map(fake_desc, pages + PAGE, PAGE, 7, 0, &failed, &rig_err),
			 -ENOMEM);
	assert_null(failed);
	assert_string_equal(rig_err.text, "no more memory can be locked");
	assert_int_equal(fake.mapped, 1);
	bdev_memory_unmap(memory);
	assert_int_equal(fake.mapped, 0);
	fake_stop();
}

/* Each allocation fails once, of making the bdev and of mapping. */
static void
test_no_memory(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_memory *memory;
	unsigned int good = 0;
	int rc;

	(void)state;
	fake_use_dma();
	do {
		fault_after(good++);
		rc = fake_register(&info);
		assert_int_equal(rc, fault_end() ? -ENOMEM : 0);
	} while (rc != 0);
	assert_true(good > 2);
	fake_desc = rig_open("a", true);
	fake_channel = rig_channel(fake_desc, rig_io[0]);
	fault_after(0);
	assert_int_equal(bdev_memory_map(fake_desc, pages, PAGE, 7, 0, &memory, &rig_err), -ENOMEM);
	assert_true(fault_end());
	check_counts(0, 0);
	bdev_memory_unmap(map(0));
	check_counts(1, 1);
	fake_stop();
}

/* ---- ends ---- */

/* The desc goes first, and another one serves as well. */
static void
test_closed_before_unmapped(void **state)
{
	struct bdev_memory *memory;

	(void)state;
	start();
	memory = map(0);
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	check_counts(1, 0);
	bdev_memory_unmap(memory);
	check_counts(1, 1);
	assert_int_equal(rig_delete("a", "fake"), 0);
	check_counts(1, 1);
}

/* What is left at the end is taken back before the module is destroyed, and not again later. */
static void
test_deleted_before_unmapped(void **state)
{
	struct bdev_memory *memory[3];

	(void)state;
	start();
	for (unsigned int i = 0; i < 3; i++)
		memory[i] = map(i);
	bdev_memory_unmap(memory[1]);
	fake_stop();
	check_counts(3, 3);
	assert_int_equal(fake.left_mapped, 0);
	bdev_memory_unmap(memory[2]);
	bdev_memory_unmap(memory[0]);
	check_counts(3, 3);
}

static void
remove_run(void *arg)
{
	(void)arg;
	bdev_remove(fake.bdev);
}

/* A bdev that is being removed maps for those who have it open still. */
static void
test_removed(void **state)
{
	struct rig_call call = {.fn = remove_run};
	struct bdev_memory *memory[2];

	(void)state;
	start();
	memory[0] = map(0);
	assert_int_equal(coroutine_start(rig_app, "remove", rig_call_run, &call), 0);
	rig_settle();
	memory[1] = map(1);
	check_counts(2, 0);
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	rig_wait(&call.finished);
	assert_int_equal(fake.destroyed, 1);
	assert_int_equal(fake.left_mapped, 0);
	check_counts(2, 2);
	bdev_memory_unmap(memory[0]);
	bdev_memory_unmap(memory[1]);
	check_counts(2, 2);
}

static void *
unmap_main(void *arg)
{
	bdev_memory_unmap(arg);
	return NULL;
}

/* Unmapping blocks: the end waits for it, and the app thread does not. */
static void
test_end_waits(void **state)
{
	struct rig_call call = {.fn = remove_run};
	struct bdev_memory *memory[2];
	pthread_t thread;

	(void)state;
	start();
	memory[0] = map(0);
	memory[1] = map(1);
	fake.unmap_blocks = true;
	assert_int_equal(pthread_create(&thread, NULL, unmap_main, memory[0]), 0);
	while (fake.unmapping == 0)
		usleep(100);
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	assert_int_equal(coroutine_start(rig_app, "remove", rig_call_run, &call), 0);
	for (unsigned int i = 0; i < 200; i++) {
		rig_poll(); /* comes back */
		usleep(100);
	}
	assert_int_equal(fake.destroyed, 0);
	fake.unmap_blocks = false;
	rig_wait(&call.finished);
	pthread_join(thread, NULL);
	check_counts(2, 2);
	assert_int_equal(fake.left_mapped, 0);
	bdev_memory_unmap(memory[1]);
	check_counts(2, 2);
}

/* ---- several OS threads ---- */

#define MAPPERS 3
#define ROUNDS  40

struct mapper {
	unsigned int number;
	_Atomic bool *stop;
	pthread_t thread;
	unsigned int failures;
	struct bdev_memory *held;
};

/* Maps and unmaps until it is told to stop; one stays. */
static void *
mapper_main(void *arg)
{
	struct mapper *mapper = arg;
	uint8_t *page = pages + mapper->number * 2 * PAGE;

	mapper->held = NULL;
	do {
		struct bdev_memory *memory;

		if (mapper->held != NULL)
			bdev_memory_unmap(mapper->held);
		mapper->failures +=
			bdev_memory_map(fake_desc, page, PAGE, -1, 0, &memory, NULL) != 0;
		mapper->failures += bdev_memory_map(fake_desc, page + PAGE, PAGE, -1, 0,
						    &mapper->held, NULL) != 0;
		bdev_memory_unmap(memory);
	} while (!*mapper->stop);
	return NULL;
}

/* All map and unmap; then the bdev goes while each unmaps its last one. */
static void
test_race(void **state)
{
	struct mapper mappers[MAPPERS] = {0};
	_Atomic bool stop;

	(void)state;
	log_set_print_level(LOG_LEVEL_WARNING); /* there are many removals */
	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct rig_call call = {.fn = remove_run};

		free(fake.memory);
		fake_reset();
		start();
		stop = false;
		for (unsigned int i = 0; i < MAPPERS; i++) {
			mappers[i] = (struct mapper){.number = i, .stop = &stop};
			assert_int_equal(
				pthread_create(&mappers[i].thread, NULL, mapper_main, &mappers[i]),
				0);
		}
		usleep(500);
		stop = true;
		for (unsigned int i = 0; i < MAPPERS; i++)
			pthread_join(mappers[i].thread, NULL);
		assert_int_equal(fake.mapped, MAPPERS);
		rig_channel_put(fake_channel, rig_io[0]);
		rig_close(fake_desc);
		assert_int_equal(coroutine_start(rig_app, "remove", rig_call_run, &call), 0);
		for (unsigned int i = 0; i < MAPPERS; i++)
			assert_int_equal(pthread_create(&mappers[i].thread, NULL, unmap_main,
							mappers[i].held),
					 0);
		rig_wait(&call.finished);
		for (unsigned int i = 0; i < MAPPERS; i++) {
			pthread_join(mappers[i].thread, NULL);
			assert_int_equal(mappers[i].failures, 0);
		}
		check_counts(fake.map_calls, fake.map_calls);
		assert_int_equal(fake.left_mapped, 0);
	}
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_map),
		test(test_no_dma),
		test(test_whole_pages),
		test(test_module_fails),
		test(test_no_memory),
		test(test_closed_before_unmapped),
		test(test_deleted_before_unmapped),
		test(test_removed),
		test(test_end_waits),
		test(test_race),
	};

	return cmocka_run_group_tests_name("bdev_memory", tests, NULL, NULL);
}
