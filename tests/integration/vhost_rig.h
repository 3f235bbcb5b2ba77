/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_rig: what the tests of vhost-user share: a daemon for the group with a disk for each test,
 * and one whose guest runs all the time and must not notice anything.
 */
#ifndef VHOSTD_VHOST_RIG_H
#define VHOSTD_VHOST_RIG_H

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>

#include "client.h"
#include "daemon.h"
#include "waiting.h"

#define RIG_SECTORS 65536u
#define RIG_BOUNCE  (128u * 1024)
#define RIG_BIT(n)  (1ULL << (n))

/* A guest with one driver per queue. */
struct guest {
	struct client_device device;
	struct client_blk blk[CLIENT_MAX_QUEUES];
};

static struct daemon rig_daemon;
static struct guest rig_bystander;
static unsigned int rig_round;
/* What guests negotiate beside the defaults, and what disks offer: EVENT_IDX and packed rings. */
static uint64_t rig_ring_features;

static inline const char *
rig_socket(const char *name)
{
	static char path[DAEMON_PATH];

	daemon_path(&rig_daemon, name, path);
	return path;
}

/* ---- threads of tests ---- */

/*
 * Threads that work while the test goes on, on objects that are static: when an assertion fails,
 * the test's frame is gone, and its threads are there until rig_teardown() stops them. Assertions
 * are for the test's own thread.
 */
#define RIG_THREADS 4

struct rig_thread {
	atomic_bool stop; /* run() is to return */
	void (*run)(struct rig_thread *thread, void *arg);
	void *arg;
	bool running;
	pthread_t id;
};

static struct rig_thread rig_threads[RIG_THREADS];

/*
 * cmocka takes the signals of faults for those of the test, and on a thread that it does not know
 * it ends the process without a word. Blocked, they end it as they would without cmocka.
 */
static inline void *
rig_thread_main(void *arg)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS};
	struct rig_thread *thread = arg;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigaddset(&set, faults[i]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	thread->run(thread, thread->arg);
	return NULL;
}

static inline struct rig_thread *
rig_thread_start(void (*run)(struct rig_thread *thread, void *arg), void *arg)
{
	struct rig_thread *thread = rig_threads;

	while (thread < rig_threads + RIG_THREADS && thread->running)
		thread++;
	assert_true(thread < rig_threads + RIG_THREADS);
	thread->stop = false;
	thread->run = run;
	thread->arg = arg;
	assert_int_equal(pthread_create(&thread->id, NULL, rig_thread_main, thread), 0);
	thread->running = true;
	return thread;
}

/* Waits until it has returned. */
static inline void
rig_thread_stop(struct rig_thread *thread)
{
	thread->stop = true;
	pthread_join(thread->id, NULL);
	thread->running = false;
}

/* Those of a test that failed half-way. */
static inline void
rig_threads_end(void)
{
	bool any = false;

	for (unsigned int i = 0; i < RIG_THREADS; i++) {
		if (!rig_threads[i].running)
			continue;
		rig_thread_stop(&rig_threads[i]);
		any = true;
	}
	if (any)
		daemon_print_log(&rig_daemon);
}

/* ---- guests ---- */

/* Plugs and starts; the number of queues and the rest as in options, which may be NULL. */
static inline int
guest_try_start(struct guest *guest, const char *name, const struct client_options *options)
{
	struct client_options filled = {0};
	int rc;

	memset(guest->blk, 0, sizeof(guest->blk));
	if (options != NULL)
		filled = *options;
	if (filled.features == 0)
		filled.features = CLIENT_DEFAULT_FEATURES | rig_ring_features;
	if (filled.timeout_ms == 0)
		filled.timeout_ms = DEADLINE_MS;
	rc = client_device_open(&guest->device, rig_socket(name), &filled);
	if (rc != 0)
		return rc;
	for (unsigned int i = 0; i < guest->device.options.queues && rc == 0; i++) {
		rc = client_blk_create(&guest->blk[i], &guest->device.rings[i], RIG_BOUNCE, 4096,
				       guest->device.features &
					       RIG_BIT(VIRTIO_RING_F_INDIRECT_DESC));
		guest->blk[i].timeout_ms = DEADLINE_MS;
	}
	return rc == 0 ? client_device_start(&guest->device) : rc;
}

static inline void
guest_start(struct guest *guest, const char *name, const struct client_options *options)
{
	assert_int_equal(guest_try_start(guest, name, options), 0);
}

/* Dies without a word. */
static inline void
guest_end(struct guest *guest)
{
	for (unsigned int i = 0; i < CLIENT_MAX_QUEUES; i++)
		client_blk_destroy(&guest->blk[i]);
	client_device_close(&guest->device);
}

static inline void
rig_fill(uint8_t *data, size_t size, unsigned int seed)
{
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1103515245 + 12345;
		data[i] = (uint8_t)(seed >> 16);
	}
}

/* Writes and reads back; the seed says what. */
static inline void
guest_round_trip(struct guest *guest, unsigned int queue, uint64_t sector, uint32_t size,
		 unsigned int seed)
{
	static uint8_t out[RIG_BOUNCE], in[RIG_BOUNCE];

	rig_fill(out, size, seed);
	memset(in, 0, size);
	assert_int_equal(client_blk_write(&guest->blk[queue], sector, out, size), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_read(&guest->blk[queue], sector, in, size), VIRTIO_BLK_S_OK);
	assert_memory_equal(in, out, size);
}

/* ---- disks ---- */

/* A malloc disk and its controller, both of that name. */
static inline void
rig_create_disk(const char *name)
{
	assert_int_equal(daemon_create_malloc(&rig_daemon, name, RIG_SECTORS, 512), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "vhost_create_blk_controller",
			    json_pack("{s:s, s:s, s:b}", "ctrlr", name, "dev_name", name,
				      "packed_ring",
				      (rig_ring_features & RIG_BIT(VIRTIO_F_RING_PACKED)) != 0)),
		0);
}

static inline int
rig_delete_controller(const char *name)
{
	return daemon_call(&rig_daemon, "vhost_delete_controller",
			   json_pack("{s:s}", "ctrlr", name));
}

static inline void
rig_delete_disk(const char *name)
{
	assert_int_equal(rig_delete_controller(name), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_malloc_delete", json_pack("{s:s}", "name", name)),
		0);
}

/* The daemon lives, and the guest that has nothing to do with it is served. */
static inline void
rig_check(void)
{
	assert_true(daemon_is_alive(&rig_daemon));
	rig_round++;
	guest_round_trip(&rig_bystander, 0, rig_round % 1000 * 8, 4096, rig_round);
}

/* Waits until the daemon's log has text more than `before` times. */
static inline void
rig_wait_for_log(const char *text, unsigned int before)
{
	WAIT_UNTIL(daemon_log_count(&rig_daemon, text) > before);
}

/* Reads that a block device has done. */
static inline json_int_t
rig_reads(const char *name)
{
	json_t *result =
		daemon_rpc(&rig_daemon, "bdev_get_iostat", json_pack("{s:s}", "name", name), NULL);
	json_t *bdev = json_array_get(json_object_get(result, "bdevs"), 0);
	json_int_t reads = json_integer_value(json_object_get(bdev, "num_read_ops"));

	assert_non_null(bdev);
	json_decref(result);
	return reads;
}

/* ---- sessions of a controller, as RPC tells ---- */

static inline json_t *
rig_controller(const char *name)
{
	json_t *array, *controller;

	array = daemon_rpc(&rig_daemon, "vhost_get_controllers", json_pack("{s:s}", "name", name),
			   NULL);
	controller = json_incref(json_array_get(array, 0));
	json_decref(array);
	return controller;
}

static inline size_t
rig_sessions(const char *name)
{
	json_t *controller = rig_controller(name);
	size_t count = json_array_size(json_object_get(controller, "sessions"));

	json_decref(controller);
	return count;
}

static inline void
rig_wait_for_sessions(const char *name, size_t count)
{
	WAIT_UNTIL(rig_sessions(name) == count);
}

/* ---- group and test fixtures ---- */

static inline int
rig_group_setup(void **state)
{
	(void)state;
	if (daemon_start(&rig_daemon, NULL) != 0)
		return -1;
	rig_create_disk("bystander");
	guest_start(&rig_bystander, "bystander", NULL);
	return 0;
}

/*
 * The last test of a group: the daemon has nothing to complain about at its end (a sanitizer's
 * findings, for one).
 */
static inline void
rig_test_end(void **state)
{
	(void)state;
	rig_check();
	guest_end(&rig_bystander);
	assert_int_equal(daemon_stop(&rig_daemon), 0);
}

static inline int
rig_group_teardown(void **state)
{
	(void)state;
	return daemon_end(&rig_daemon);
}

/* Each test has the disk "disk". */
static inline int
rig_setup(void **state)
{
	(void)state;
	rig_create_disk("disk");
	return 0;
}

static inline int
rig_teardown(void **state)
{
	(void)state;
	rig_threads_end();
	rig_check();
	rig_delete_disk("disk");
	rig_check();
	return 0;
}

#define RIG_TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

#endif
