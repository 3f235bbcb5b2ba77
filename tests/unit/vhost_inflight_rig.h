/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_inflight_rig: a session with an in-flight region and a driver of its first queue, without
 * sockets: the test is the vhost-events thread, another OS thread polls the controller's, and the
 * device keeps requests for as long as the test wants. A session that is released with requests in
 * the device leaves what a daemon that is killed would leave.
 */
#ifndef VHOSTD_VHOST_INFLIGHT_RIG_H
#define VHOSTD_VHOST_INFLIGHT_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
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

#include "client.h"
#include "env.h"
#include "log_capture.h"
#include "vhost/controller.h"
#include "vhost/session.h"
#include "waiting.h"

#define PROTOCOL_FEATURES (1ULL << 30)
#define PACKED            (1ULL << VIRTIO_F_RING_PACKED)
#define FEATURES          (PROTOCOL_FEATURES | 1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define QUIET_MS          20
#define RING_SIZE         16
#define QUEUES            4
#define GPA               0x100000000ULL
#define MEMORY_SIZE       (4u << 20)
#define WRITTEN           7 /* bytes, by each request */

/* ---- a device that completes when it is told to ---- */

static struct {
	atomic_bool hold;
	atomic_uint handled;
	struct virtq_slot *held[4 * RING_SIZE]; /* controller's thread */
	struct vhost_queue *queue[4 * RING_SIZE];
	unsigned int held_count;
} device;

static inline void
device_handle(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (!device.hold) {
			vhost_queue_complete(queue, slots[i], WRITTEN);
			continue;
		}
		device.queue[device.held_count] = queue;
		device.held[device.held_count++] = slots[i];
	}
	atomic_fetch_add(&device.handled, count);
}

/* On the controller's thread: the first ones, at most *arg of them. */
static inline int
complete_held(void *arg)
{
	unsigned int count = *(unsigned int *)arg;

	if (count > device.held_count)
		count = device.held_count;
	for (unsigned int i = 0; i < count; i++)
		vhost_queue_complete(device.queue[i], device.held[i], WRITTEN);
	device.held_count -= count;
	memmove(device.queue, device.queue + count, device.held_count * sizeof(device.queue[0]));
	memmove(device.held, device.held + count, device.held_count * sizeof(device.held[0]));
	return 0;
}

static inline int
count_held(void *arg)
{
	(void)arg;
	return (int)device.held_count;
}

static inline uint64_t
device_features(void *ctx)
{
	(void)ctx;
	return 0;
}

static inline void
device_set_features(void *ctx, uint64_t features)
{
	(void)ctx;
	(void)features;
}

static inline size_t
device_request_size(void *ctx)
{
	(void)ctx;
	return 16;
}

static inline void
device_request_init(struct vhost_queue *queue, struct virtq_slot *slot)
{
	(void)queue;
	(void)slot;
}

static inline int
device_channel_get(void *ctx, const char *label, void **channel)
{
	(void)ctx;
	(void)label;
	*channel = NULL;
	return 0;
}

static const struct vhost_device_ops device_ops = {
	.name = "test",
	.max_segments = 16,
	.features = device_features,
	.set_features = device_set_features,
	.request_size = device_request_size,
	.request_init = device_request_init,
	.channel_get = device_channel_get,
	.handle = device_handle,
};

/* ---- the rig ---- */

static const struct client_region_layout layout = {
	.gpa = GPA, .user_addr = 0x7e0000000000ULL, .size = MEMORY_SIZE};

static struct vhost_controller *controller;
static struct vhost_session *session;
static atomic_bool poller_stops, poller_paused;
static atomic_uint poller_rounds;
static atomic_uint messages_sent; /* to the controller's thread */
static pthread_t poller_thread;
static struct client_memory memory;
static struct client_ring ring;
static uint64_t features;
static uint64_t next_tag;

static inline void *
poll_thread(void *arg)
{
	struct thread *thread = arg;

	while (!poller_stops || !thread_is_exited(thread)) {
		if (!poller_paused)
			thread_poll(thread, env_ticks());
		poller_rounds++;
		sched_yield();
	}
	thread_destroy(thread);
	return NULL;
}

static inline int
start_poller(struct thread *thread)
{
	return -pthread_create(&poller_thread, NULL, poll_thread, thread);
}

static inline void
count_message(struct thread *thread)
{
	(void)thread;
	messages_sent++;
}

static inline void
open_session(void)
{
	assert_int_equal(vhost_session_create(controller, 0, &session), 0);
	assert_int_equal(vhost_session_set_features(session, features), 0);
}

static inline void
setup_controller(void)
{
	controller = calloc(1, sizeof(*controller));
	assert_non_null(controller);
	strcpy(controller->name, "test");
	controller->ops = &device_ops;
	controller->queue_count = QUEUES;
	controller->features = FEATURES | PACKED;
	TAILQ_INIT(&controller->sessions);
	assert_int_equal(vhost_threads_start(controller, 1, NULL), 0);
}

static inline int
setup(uint64_t ring_features)
{
	static const struct thread_lib_ops ops = {.schedule = start_poller, .wake = count_message};

	thread_lib_init(&ops);
	assert_int_equal(work_pool_start(NULL), 0);
	memset(&device, 0, sizeof(device));
	poller_stops = false;
	poller_paused = false;
	setup_controller();
	features = FEATURES | ring_features;
	next_tag = 0;
	assert_int_equal(client_memory_create(&memory, &layout, 1), 0);
	assert_int_equal(client_ring_create_with(&ring, &memory, RING_SIZE, 0, features), 0);
	open_session();
	return 0;
}

static inline int
setup_split(void **state)
{
	(void)state;
	return setup(0);
}

static inline int
setup_packed(void **state)
{
	(void)state;
	return setup(PACKED);
}

static inline void
complete(unsigned int count)
{
	thread_call(vhost_main_thread(controller), complete_held, &count);
}

static inline int
teardown(void **state)
{
	(void)state;
	if (session != NULL)
		vhost_session_release(session);
	session = NULL;
	device.hold = false;
	complete(UINT32_MAX);
	vhost_threads_end(controller);
	poller_stops = true;
	pthread_join(poller_thread, NULL);
	assert_true(TAILQ_EMPTY(&controller->sessions));
	work_pool_stop();
	thread_lib_fini();
	client_ring_destroy(&ring);
	client_memory_destroy(&memory);
	free(controller);
	return 0;
}

/* ---- the front-end ---- */

/* As the daemon makes it, for all queues, packed or not. */
static inline struct client_inflight
new_region(void)
{
	struct vhost_inflight_layout wanted = {.num_queues = QUEUES, .queue_size = RING_SIZE};
	int fd = vhost_session_get_inflight(session, &wanted);

	assert_true(fd >= 0);
	return (struct client_inflight){
		.mmap_size = wanted.mmap_size,
		.mmap_offset = wanted.mmap_offset,
		.num_queues = wanted.num_queues,
		.queue_size = wanted.queue_size,
		.fd = fd,
	};
}

static inline int
give_region(const struct client_inflight *region)
{
	struct vhost_inflight_layout given = {
		.mmap_size = region->mmap_size,
		.mmap_offset = region->mmap_offset,
		.num_queues = region->num_queues,
		.queue_size = region->queue_size,
	};

	return vhost_session_set_inflight(session, &given, region->fd);
}

static inline int
send_mem_table(void)
{
	const struct client_region *from = &memory.regions[0];
	struct vhost_mem_region region = {
		.gpa = layout.gpa, .size = layout.size, .user_addr = layout.user_addr};

	return vhost_session_set_mem_table(session, &region, &from->fd, 1);
}

static inline int
send_ring(uint32_t index, const struct client_ring *from)
{
	struct client_vring_addr wire;
	struct vhost_ring_addr addr;
	int rc;

	client_ring_addr(from, index, &wire);
	addr = (struct vhost_ring_addr){
		.desc = wire.desc_addr, .used = wire.used_addr, .avail = wire.avail_addr};
	rc = vhost_session_set_vring_num(session, index, from->size);
	if (rc == 0)
		rc = vhost_session_set_vring_addr(session, index, &addr);
	return rc;
}

/* Everything but base and region. The last message decides. */
static inline int
try_start(uint32_t index, const struct client_ring *from)
{
	int rc;

	rc = send_mem_table();
	if (rc == 0)
		rc = send_ring(index, from);
	if (rc == 0)
		rc = vhost_session_set_vring_call(session, index, dup(from->call_fd));
	if (rc == 0)
		rc = vhost_session_set_vring_err(session, index, dup(from->err_fd));
	if (rc == 0)
		rc = vhost_session_set_vring_enable(session, index, true);
	if (rc == 0)
		rc = vhost_session_set_vring_kick(session, index,
						  eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	return rc;
}

static inline void
start(void)
{
	assert_int_equal(try_start(0, &ring), 0);
	assert_true(session->vrings[0].running);
}

/* Is killed, and lets its device go on. */
static inline void
die(void)
{
	vhost_session_release(session);
	session = NULL;
}

static inline uint32_t
get_base(void)
{
	uint32_t base = 0xdead;

	assert_int_equal(vhost_session_get_vring_base(session, 0, &base), 0);
	vhost_session_answered(session);
	assert_false(session->vrings[0].running);
	return base;
}

/* What a front-end says that knows only what it said before. */
static inline void
repeat_base(void)
{
	uint32_t base = features & PACKED ? VIRTQ_PACKED_BASE_NEW : 0;

	assert_int_equal(vhost_session_set_vring_base(session, 0, base), 0);
}

/* ---- the driver ---- */

static inline void
offer(unsigned int count)
{
	struct client_segment segments[2] = {{.gpa = GPA + MEMORY_SIZE - 64, .len = 8},
					     {GPA + MEMORY_SIZE - 32, 16, true}};

	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(client_ring_add(&ring, segments, 2, false, next_tag++), 0);
	client_ring_publish(&ring);
}

/* The next count completions; each tag is below *seen's bits, and comes once. */
static inline void
expect_used(unsigned int count, uint64_t *seen)
{
	struct client_used used;

	for (unsigned int i = 0; i < count; i++) {
		assert_int_equal(client_ring_poll(&ring, DEADLINE_MS), 0);
		assert_int_equal(client_ring_pop(&ring, &used), 1);
		assert_int_equal(used.len, WRITTEN);
		assert_false(*seen >> used.tag & 1);
		*seen |= 1ULL << used.tag;
	}
}

static inline void
expect_none(void)
{
	assert_int_equal(client_ring_poll(&ring, QUIET_MS), -ETIMEDOUT);
}

/* One after the other. */
static inline void
do_some(unsigned int count)
{
	const uint64_t tag = next_tag;

	for (; count > 0; count--) {
		uint64_t seen = 0;

		next_tag = 0;
		offer(1);
		expect_used(1, &seen);
	}
	next_tag = tag;
}

static inline void
wait_for_handled(unsigned int count)
{
	uint64_t end = now_ms() + DEADLINE_MS;

	while (device.handled != count) {
		assert_true(now_ms() < end);
		sched_yield();
	}
}

static inline unsigned int
marks(const struct client_inflight *region, unsigned int queue)
{
	struct client_inflight_map map;
	unsigned int count;

	assert_int_equal(client_inflight_map(&map, region), 0);
	if (features & PACKED)
		count = client_inflight_count_packed(client_inflight_packed(&map, queue, RING_SIZE),
						     RING_SIZE);
	else
		count = client_inflight_count_split(client_inflight_split(&map, queue, RING_SIZE),
						    RING_SIZE);
	client_inflight_unmap(&map);
	return count;
}

static inline uint64_t
read_eventfd(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	uint64_t value = 0;

	if (poll(&pollfd, 1, DEADLINE_MS) == 1)
		assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
	return value;
}

#endif
