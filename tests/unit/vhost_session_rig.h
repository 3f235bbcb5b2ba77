/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_session_rig: a session without a socket. The test is the vhost-events thread, another OS
 * thread polls the controller's, and the device keeps requests for as long as the test wants.
 */
#ifndef VHOSTD_VHOST_SESSION_RIG_H
#define VHOSTD_VHOST_SESSION_RIG_H

#include <errno.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <dirent.h>

#include "env.h"
#include "patience.h"
#include "vhost/controller.h"
#include "vhost/notifier.h"
#include "vhost/session.h"
#include "waiting.h"

#define PROTOCOL_FEATURES (1ULL << 30)
#define FEATURES          (PROTOCOL_FEATURES | 1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define RING_SIZE         16
#define GPA               0x100000000ULL
#define USER              0x7e0000000000ULL
#define MEMORY_SIZE       (1u << 20)
/* Offsets in memory. */
#define DESC   0
#define AVAIL  4096
#define USED   8192
#define BUFFER 16384

/* ---- a device that completes when it is told to ---- */

static struct {
	atomic_bool hold;
	atomic_uint handled;
	struct virtq_slot *held[RING_SIZE]; /* controller's thread */
	unsigned int held_count;
	struct vhost_queue *held_queue;
} device;

static void
device_handle(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (device.hold) {
			device.held_queue = queue;
			device.held[device.held_count++] = slots[i];
		} else {
			vhost_queue_complete(queue, slots[i], 7);
		}
	}
	atomic_fetch_add(&device.handled, count);
}

/* On the controller's thread. */
static int
device_let_go(void *arg)
{
	(void)arg;
	device.hold = false;
	for (unsigned int i = 0; i < device.held_count; i++)
		vhost_queue_complete(device.held_queue, device.held[i], 7);
	device.held_count = 0;
	return 0;
}

static int
device_channel_get(void *ctx, const char *label, void **channel)
{
	(void)ctx;
	(void)label;
	*channel = NULL;
	return 0;
}

static uint64_t
device_features(void *ctx)
{
	(void)ctx;
	return 0;
}

static void
device_set_features(void *ctx, uint64_t features)
{
	(void)ctx;
	(void)features;
}

static size_t
device_request_size(void *ctx)
{
	(void)ctx;
	return 16;
}

static void
device_request_init(struct vhost_queue *queue, struct virtq_slot *slot)
{
	(void)queue;
	(void)slot;
}

static unsigned int beginnings;

static void
device_begin(void *ctx)
{
	(void)ctx;
	beginnings++;
}

static const struct vhost_device_ops device_ops = {
	.name = "test",
	.begin = device_begin,
	.max_segments = 16,
	.features = device_features,
	.set_features = device_set_features,
	.request_size = device_request_size,
	.request_init = device_request_init,
	.channel_get = device_channel_get,
	.handle = device_handle,
};

/* ---- the rig ---- */

static struct vhost_controller *controller;
static struct vhost_session *session;
static atomic_bool poller_stops;
static pthread_t poller_thread;
static int memory_fd;
static uint8_t *memory; /* the driver's view */
static int kick_fd, call_fd, err_fd;
static uint16_t avail_index;

static struct thread *
main_thread(void)
{
	return vhost_main_thread(controller);
}

/* The controller's thread hangs, and those who wait for it lose their patience soon. */
static atomic_bool hang_wanted, hangs;

static void
hang(void)
{
	hang_wanted = true;
	while (!hangs)
		sched_yield();
	impatient = true;
}

static void
go_on(void)
{
	impatient = false;
	hang_wanted = false;
	while (hangs)
		sched_yield();
}

static void *
poll_thread(void *arg)
{
	struct thread *thread = arg;

	while (!poller_stops || !thread_is_exited(thread)) {
		while (hang_wanted) {
			hangs = true;
			sched_yield();
		}
		hangs = false;
		thread_poll(thread, env_ticks());
		sched_yield();
	}
	thread_destroy(thread);
	return NULL;
}

static int
start_poller(struct thread *thread)
{
	return -pthread_create(&poller_thread, NULL, poll_thread, thread);
}

static int
setup(void **state)
{
	static const struct thread_lib_ops ops = {.schedule = start_poller};

	(void)state;
	thread_lib_init(&ops);
	assert_int_equal(work_pool_start(NULL), 0);
	memset(&device, 0, sizeof(device));
	controller = calloc(1, sizeof(*controller));
	assert_non_null(controller);
	strcpy(controller->name, "test");
	controller->ops = &device_ops;
	controller->queue_count = 4;
	controller->features = FEATURES;
	TAILQ_INIT(&controller->sessions);
	poller_stops = false;
	assert_int_equal(vhost_threads_start(controller, 1, NULL), 0);
	memory_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(memory_fd, MEMORY_SIZE), 0);
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	avail_index = 0;
	assert_int_equal(vhost_session_create(controller, 0, &session), 0);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	if (session != NULL)
		vhost_session_release(session);
	session = NULL;
	thread_call(main_thread(), device_let_go, NULL);
	vhost_threads_end(controller);
	poller_stops = true;
	pthread_join(poller_thread, NULL);
	assert_true(TAILQ_EMPTY(&controller->sessions));
	work_pool_stop();
	thread_lib_fini();
	munmap(memory, MEMORY_SIZE);
	close(memory_fd);
	free(controller);
	return 0;
}

#endif
