/* SPDX-License-Identifier: BSD-3-Clause */
/* Where the kernel works for rings: its workers, and the thread that submits (sqpoll). */
/* links: bdev thread env testlib */
/* ldflags: -Wl,--wrap=env_housekeeping_cpus,--wrap=env_core_first,--wrap=io_uring_register_iowq_aff,--wrap=io_uring_queue_init_params */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#include "bdev_rig.h"

#define FILE_SIZE (1u << 20)

static char folder[64], path[96];
static struct bdev *disk;
static struct bdev_desc *desc;
static struct bdev_channel *channel;
static struct rig_request *request;
static uint8_t *data;

/* ---- what the tests change in the system ---- */

const struct cpumask *__wrap_env_housekeeping_cpus(void);
uint32_t __wrap_env_core_first(void);
int __wrap_io_uring_register_iowq_aff(struct io_uring *ring, size_t size, const cpu_set_t *cpus);
int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params);

static struct cpumask housekeeping;
static uint32_t first_core;
static _Atomic unsigned int placed;
static cpu_set_t placed_cpus;
static _Atomic bool no_sqpoll;

const struct cpumask *
__wrap_env_housekeeping_cpus(void)
{
	return &housekeeping;
}

uint32_t
__wrap_env_core_first(void)
{
	return first_core;
}

int
__wrap_io_uring_register_iowq_aff(struct io_uring *ring, size_t size, const cpu_set_t *cpus)
{
	(void)ring;
	assert_int_equal(size, sizeof(placed_cpus));
	placed++;
	placed_cpus = *cpus;
	return 0;
}

int
__wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				  struct io_uring_params *params)
{
	if ((params->flags & IORING_SETUP_SQPOLL) && atomic_load(&no_sqpoll))
		return -EPERM;
	return __real_io_uring_queue_init_params(entries, ring, params);
}

/* ---- set-up ---- */

static int
create_disk(bool sqpoll)
{
	struct bdev_uring_opts opts = {.name = "disk",
				       .filename = path,
				       .method = "bdev_uring_create",
				       .sqpoll = sqpoll,
				       .sqpoll_idle_ms = 1};

	return rig_create_uring(&opts, &disk);
}

static void
open_disk(bool sqpoll)
{
	assert_int_equal(create_disk(sqpoll), 0);
	desc = rig_open("disk", true);
	channel = rig_channel(desc, rig_io[0]);
	request = rig_request_new(disk);
}

static void
close_disk(void)
{
	free(request);
	rig_channel_put(channel, rig_io[0]);
	rig_close(desc);
	assert_int_equal(rig_delete("disk", "uring"), 0);
}

static int
setup(void **state)
{
	int fd;

	rig_setup(state);
	memset(&housekeeping, 0, sizeof(housekeeping));
	first_core = 0;
	strcpy(folder, "/var/tmp/test_bdev_cpus_XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/file", folder);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, FILE_SIZE), 0);
	close(fd);
	data = aligned_alloc(4096, FILE_SIZE);
	assert_non_null(data);
	memset(data, 0x5a, FILE_SIZE);
	return 0;
}

static int
teardown(void **state)
{
	rig_teardown(state);
	free(data);
	unlink(path);
	return rmdir(folder);
}

static int
write_some(void)
{
	rig_request_set(request, BDEV_WRITE, 4096, data, 65536);
	return rig_do(channel, rig_io[0], request);
}

/* ---- workers ---- */

/*
 * One that polls the lightweight thread from another OS thread, as a reactor does to which it
 * moved.
 */
static void *
move(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++)
		assert_int_equal(write_some(), 0);
	return NULL;
}

static void
test_workers_follow(void **state)
{
	pthread_t thread;
	unsigned int before;

	(void)state;
	cpumask_set(&housekeeping, 1);
	cpumask_set(&housekeeping, 3);
	open_disk(false);
	assert_int_equal(write_some(), 0);
	before = placed;
	assert_int_equal(write_some(), 0);
	assert_int_equal(placed, before);
	for (unsigned int i = 1; i <= 2; i++) {
		assert_int_equal(pthread_create(&thread, NULL, move, NULL), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_int_equal(placed, before + i);
	}
	assert_int_equal(CPU_COUNT(&placed_cpus), 2);
	assert_true(CPU_ISSET(1, &placed_cpus) && CPU_ISSET(3, &placed_cpus));
	assert_int_equal(write_some(), 0);
	assert_int_equal(placed, before + 2);
	close_disk();
}

/* ---- sqpoll ---- */

/* How many threads of the kernel submit for us, and where one of them may run. */
static unsigned int
polling_threads(cpu_set_t *cpus)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned int count = 0;
	struct dirent *entry;

	assert_non_null(tasks);
	while ((entry = readdir(tasks)) != NULL) {
		char name[300], text[32] = "";
		FILE *stream;

		snprintf(name, sizeof(name), "/proc/self/task/%s/comm", entry->d_name);
		stream = fopen(name, "re");
		if (stream == NULL)
			continue;
		if (fgets(text, sizeof(text), stream) != NULL &&
		    strncmp(text, "iou-sqp-", 8) == 0) {
			count++;
			sched_getaffinity(atoi(entry->d_name), sizeof(*cpus), cpus);
		}
		fclose(stream);
	}
	closedir(tasks);
	return count;
}

/* All channels share one thread, which is woken when it sleeps, and ends with the disk. */
static void
test_sqpoll(void **state)
{
	struct bdev_channel *other;
	struct rig_request *second;
	cpu_set_t cpus;

	(void)state;
	open_disk(true);
	other = rig_channel(desc, rig_io[1]);
	second = rig_request_new(disk);
	for (unsigned int round = 0; round < 20; round++) {
		rig_request_set(request, BDEV_WRITE, 0, data, 4096);
		rig_request_set(second, BDEV_WRITE, 8192, data, 4096);
		rig_submit(channel, rig_io[0], request);
		rig_submit(other, rig_io[1], second);
		rig_wait(&request->finished);
		rig_wait(&second->finished);
		assert_int_equal(request->status, 0);
		assert_int_equal(second->status, 0);
		usleep(round % 2 * 10000); /* longer than it spins */
	}
	assert_int_equal(polling_threads(&cpus), 1);
	free(second);
	rig_channel_put(other, rig_io[1]);
	close_disk();
	WAIT_UNTIL(polling_threads(&cpus) == 0);
}

static void
test_sqpoll_cpu(void **state)
{
	cpu_set_t cpus, allowed;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
	if (!CPU_ISSET(0, &allowed) || !CPU_ISSET(1, &allowed))
		skip();
	cpumask_set(&housekeeping, 1);
	open_disk(true);
	assert_int_equal(write_some(), 0);
	assert_int_equal(polling_threads(&cpus), 1);
	assert_true(CPU_COUNT(&cpus) == 1 && CPU_ISSET(1, &cpus));
	close_disk();
	first_core = 1; /* every CPU has a reactor */
	open_disk(true);
	assert_int_equal(write_some(), 0);
	assert_true(polling_threads(&cpus) >= 1);
	close_disk();
}

static void
test_sqpoll_refused(void **state)
{
	(void)state;
	atomic_store(&no_sqpoll, true);
	assert_int_equal(create_disk(true), -EPERM);
	assert_non_null(strstr(rig_err.text, "sqpoll"));
	atomic_store(&no_sqpoll, false);
	assert_int_equal(create_disk(true), 0); /* nothing was left behind, no lock either */
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_workers_follow),
		test(test_sqpoll),
		test(test_sqpoll_cpu),
		test(test_sqpoll_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
