/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight regions in sessions without sockets: the test is the vhost-events thread, another OS thread polls the
 * controller's, and the device keeps requests for as long as the test wants. A session that is released with requests in
 * the device leaves what a daemon that is killed would leave.
 */
/* links: vhost virtio bdev event testlib thread env client */
/* ldflags: -Wl,--wrap=log_write */
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

#define PROTOCOL_FEATURES (1ULL << 30)
#define PACKED            (1ULL << VIRTIO_F_RING_PACKED)
#define FEATURES          (PROTOCOL_FEATURES | 1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define DEADLINE_MS       10000
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

static void
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
static int
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

static int
count_held(void *arg)
{
	(void)arg;
	return (int)device.held_count;
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

static int
device_channel_get(void *ctx, void **channel)
{
	(void)ctx;
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

static void *
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

static int
start_poller(struct thread *thread)
{
	return -pthread_create(&poller_thread, NULL, poll_thread, thread);
}

static void
count_message(struct thread *thread)
{
	(void)thread;
	messages_sent++;
}

static void
open_session(void)
{
	assert_int_equal(vhost_session_create(controller, 0, &session), 0);
	assert_int_equal(vhost_session_set_features(session, features), 0);
}

static void
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

static int
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

static int
setup_split(void **state)
{
	(void)state;
	return setup(0);
}

static int
setup_packed(void **state)
{
	(void)state;
	return setup(PACKED);
}

static void
complete(unsigned int count)
{
	thread_call(vhost_main_thread(controller), complete_held, &count);
}

static int
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

static uint64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the front-end ---- */

/* As the daemon makes it, for all queues, packed or not. */
static struct client_inflight
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

static int
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

static int
send_mem_table(void)
{
	const struct client_region *from = &memory.regions[0];
	struct vhost_mem_region region = {
		.gpa = layout.gpa, .size = layout.size, .user_addr = layout.user_addr};

	return vhost_session_set_mem_table(session, &region, &from->fd, 1);
}

static int
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
static int
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

static void
start(void)
{
	assert_int_equal(try_start(0, &ring), 0);
	assert_true(session->vrings[0].running);
}

/* Is killed, and lets its device go on. */
static void
die(void)
{
	vhost_session_release(session);
	session = NULL;
}

static uint32_t
get_base(void)
{
	uint32_t base = 0xdead;

	assert_int_equal(vhost_session_get_vring_base(session, 0, &base), 0);
	assert_false(session->vrings[0].running);
	return base;
}

/* What a front-end says that knows only what it said before. */
static void
repeat_base(void)
{
	uint32_t base = features & PACKED ? VIRTQ_PACKED_BASE_NEW : 0;

	assert_int_equal(vhost_session_set_vring_base(session, 0, base), 0);
}

/* ---- the driver ---- */

static void
offer(unsigned int count)
{
	struct client_segment segments[2] = {{.gpa = GPA + MEMORY_SIZE - 64, .len = 8},
					     {GPA + MEMORY_SIZE - 32, 16, true}};

	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(client_ring_add(&ring, segments, 2, false, next_tag++), 0);
	client_ring_publish(&ring);
}

/* The next count completions; each tag is below *seen's bits, and comes once. */
static void
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

static void
expect_none(void)
{
	assert_int_equal(client_ring_poll(&ring, QUIET_MS), -ETIMEDOUT);
}

/* One after the other. */
static void
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

static void
wait_for_handled(unsigned int count)
{
	uint64_t end = now_ms() + DEADLINE_MS;

	while (device.handled != count) {
		assert_true(now_ms() < end);
		sched_yield();
	}
}

static unsigned int
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

static uint64_t
read_eventfd(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	uint64_t value = 0;

	if (poll(&pollfd, 1, DEADLINE_MS) == 1)
		assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
	return value;
}

/* ---- the region ---- */

static void
test_new_region(void **state)
{
	struct vhost_inflight_layout wanted = {.num_queues = 3, .queue_size = RING_SIZE};
	uint8_t content[4096];
	int fd;

	(void)state;
	fd = vhost_session_get_inflight(session, &wanted);
	assert_true(fd >= 0);
	assert_int_equal(wanted.mmap_size,
			 3 * virtq_inflight_size((features & PACKED) != 0, RING_SIZE));
	assert_int_equal(wanted.mmap_offset, 0);
	assert_int_equal(wanted.num_queues, 3);
	assert_int_equal(wanted.queue_size, RING_SIZE);
	/* Exactly as large, all zero, and it stays as large. */
	assert_int_equal(pread(fd, content, sizeof(content), 0), wanted.mmap_size);
	for (size_t i = 0; i < wanted.mmap_size; i++)
		assert_int_equal(content[i], 0);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
	for (int i = 0; i < 4; i++) {
		static const uint16_t bad[4][2] = {
			{0, RING_SIZE},
			{QUEUES + 1, RING_SIZE},
			{1, 0},
			{1, VHOST_MAX_RING_SIZE + 1},
		};

		wanted.num_queues = bad[i][0];
		wanted.queue_size = bad[i][1];
		assert_int_equal(vhost_session_get_inflight(session, &wanted), -EINVAL);
	}
}

/* QEMU < 5.1: the kind of rings is not known when the region is made. */
static void
test_region_before_features(void **state)
{
	struct vhost_inflight_layout wanted = {.num_queues = 1, .queue_size = RING_SIZE};
	int fd;

	(void)state;
	assert_int_equal(vhost_session_set_features(session, 0), 0);
	fd = vhost_session_get_inflight(session, &wanted);
	assert_true(fd >= 0);
	assert_int_equal(wanted.mmap_size, virtq_inflight_size(true, RING_SIZE));
	assert_int_equal(vhost_session_set_inflight(session, &wanted, fd), 0);
	close(fd);
	assert_int_equal(vhost_session_set_features(session, features), 0);
	start();
	do_some(3);
}

static void
test_bad_regions(void **state)
{
	struct client_inflight good = new_region(), bad;
	const uint64_t size = good.mmap_size;
	int event = eventfd(0, EFD_CLOEXEC), ends[2];

	(void)state;
#define TRY(expected, ...)                                                                         \
	do {                                                                                       \
		bad = good;                                                                        \
		__VA_ARGS__;                                                                       \
		assert_int_equal(give_region(&bad), expected);                                     \
		assert_null(session->inflight);                                                    \
	} while (0)
	TRY(-EINVAL, bad.num_queues = 0);
	TRY(-EINVAL, bad.num_queues = QUEUES + 1);
	TRY(-EINVAL, bad.num_queues = UINT16_MAX);
	TRY(-EINVAL, bad.queue_size = 0);
	TRY(-EINVAL, bad.queue_size = VHOST_MAX_RING_SIZE + 1);
	TRY(-EINVAL, bad.queue_size = VHOST_MAX_RING_SIZE);
	TRY(-EINVAL, bad.mmap_size = 0);
	TRY(-EINVAL, bad.mmap_size = QUEUES * virtq_inflight_size(false, RING_SIZE) - 1);
	TRY(-EINVAL, bad.mmap_size = UINT64_MAX);
	TRY(-EINVAL, bad.mmap_offset = 4);
	TRY(-ERANGE, bad.mmap_size = size + 1);
	TRY(-ERANGE, bad.mmap_offset = 64);
	TRY(-ERANGE, bad.mmap_offset = UINT64_MAX - 63);
	TRY(-EINVAL, bad.fd = event);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	TRY(-EINVAL, bad.fd = ends[0]);
	close(ends[0]);
	close(ends[1]);
	close(event);
	assert_int_equal(give_region(&good), 0);
	start();
	/* Not under a queue's feet. */
	assert_int_equal(give_region(&good), -EBUSY);
	do_some(1);
	close(good.fd);
}

/* What is taken is marked until it is back. */
static void
test_marks(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(5);
	device.hold = true;
	offer(3);
	wait_for_handled(8);
	assert_int_equal(marks(&region, 0), 3);
	assert_int_equal(marks(&region, 1), 0);
	complete(2);
	expect_used(2, &seen);
	complete(1);
	expect_used(1, &seen);
	device.hold = false;
	get_base();
	assert_int_equal(marks(&region, 0), 0);
	close(region.fd);
}

/* ---- another session goes on ---- */

static void
complete_message(void *arg)
{
	complete_held(arg);
}

/* When the poller will find both: that requests complete, and that the front-end is gone. */
static void *
resume_poller(void *arg)
{
	(void)arg;
	while (messages_sent < 2)
		sched_yield();
	poller_paused = false;
	return NULL;
}

/* Completes count requests, and the front-end is gone before the next poll. */
static void
complete_and_die(unsigned int count)
{
	unsigned int rounds = poller_rounds;
	pthread_t thread;

	poller_paused = true;
	while (poller_rounds < rounds + 2)
		sched_yield();
	messages_sent = 0;
	assert_int_equal(thread_send_msg(vhost_main_thread(controller), complete_message, &count),
			 0);
	assert_int_equal(pthread_create(&thread, NULL, resume_poller, NULL), 0);
	die();
	pthread_join(thread, NULL);
}

/*
 * The front-end comes back while its requests are still in the device. Of the seven, one is seen to complete, two complete
 * and are not published any more, two complete when it is gone, and two when the next session is there. The six are done
 * again, when the last of them is over, and each is used once.
 */
static void
test_disconnect(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(5);
	device.hold = true;
	offer(7);
	wait_for_handled(12);
	complete(1);
	expect_used(1, &seen);
	complete_and_die(2);
	complete(2);
	expect_none();
	assert_int_equal(marks(&region, 0), 6);

	open_session();
	assert_int_equal(give_region(&region), 0);
	repeat_base();
	start();
	/* What the driver adds meanwhile waits, too. */
	offer(1);
	expect_none();
	assert_int_equal(device.handled, 12);
	/* The first session's last ones. */
	complete(2);
	wait_for_handled(19);
	expect_none();
	/* Nothing of the first session is behind the one that is used now. */
	complete(1);
	expect_used(1, &seen);
	expect_none();
	complete(6);
	expect_used(6, &seen);
	assert_int_equal(seen, 0xff);
	expect_none();
	device.hold = false;
	do_some(3);
	assert_int_equal(device.handled, 22);
	get_base();
	assert_int_equal(marks(&region, 0), 0);
	close(region.fd);
}

/* Again and again, with whatever is under way. */
static void
test_many_disconnects(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;
	unsigned int used = 0;

	(void)state;
	device.hold = true;
	for (unsigned int i = 0; i < 48; i++) {
		unsigned int held =
			(unsigned int)thread_call(vhost_main_thread(controller), count_held, NULL);
		unsigned int ready = i % 3;

		if (i > 0)
			open_session();
		assert_int_equal(give_region(&region), 0);
		repeat_base();
		device.handled = 0;
		start();
		offer(1);
		/* When those of the last session are over: all that are not used yet, and the new one. */
		complete(held);
		wait_for_handled(next_tag - used);
		if (next_tag - used < 5)
			ready = 0;
		complete(ready);
		expect_used(ready, &seen);
		used += ready;
		complete_and_die(i % 2);
	}
	complete(UINT32_MAX);
	device.hold = false;
	open_session();
	assert_int_equal(give_region(&region), 0);
	repeat_base();
	start();
	expect_used((unsigned int)next_tag - used, &seen);
	assert_int_equal(seen, (1ULL << next_tag) - 1);
	expect_none();
	close(region.fd);
}

/* A session that ends, or whose queue is stopped, before it has done what the one before left: that stays in the region. */
static void
test_waiting_queue_stops(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	device.hold = true;
	offer(3);
	wait_for_handled(3);
	die();
	open_session();
	assert_int_equal(give_region(&region), 0);
	start();
	/* With the region given again, and without. */
	get_base();
	assert_int_equal(give_region(&region), 0);
	start();
	get_base();
	start();
	die();
	open_session();
	assert_int_equal(give_region(&region), 0);
	repeat_base();
	start();
	device.hold = false;
	complete(UINT32_MAX);
	expect_used(3, &seen);
	expect_none();
	do_some(2);
	close(region.fd);
}

/*
 * The place of a packed ring is nowhere but in the region: front-ends repeat the base of the last start, or none at all.
 */
static void
test_place_of_the_region(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (int i = 0; i < 20; i++) {
		if (i % 2 == 1)
			repeat_base();
		start();
		do_some(7);
		die();
		open_session();
		assert_int_equal(give_region(&region), 0);
	}
	close(region.fd);
}

/* A new queue, with and without a region. */
static void
test_no_base(void **state)
{
	(void)state;
	start();
	do_some(RING_SIZE + 1);
	assert_int_equal(get_base(), features & PACKED ? 0x80028002 : RING_SIZE + 1);
}

static void
overwrite(const struct client_inflight *region, off_t offset, uint64_t value, size_t size)
{
	assert_int_equal(pwrite(region->fd, &value, size, offset), size);
}

/* ---- what the front-end says counts, after a stop in order ---- */

static void
test_guest_reset(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (int i = 0; i < 20; i++) {
		start();
		do_some(5);
		get_base();
		/* Go on. */
		start();
		do_some(1);
		get_base();
		/*
		 * Firmware, then a kernel: nobody gives a new region. What is in it does not count, be it from a ring
		 * of another kind.
		 */
		overwrite(&region, 8, 7, 2);
		client_ring_reset(&ring);
		repeat_base();
		if (i % 2 == 1)
			assert_int_equal(give_region(&region), 0);
	}
	start();
	do_some(3);
	/* A table of memory, a new address, and on and off are no reset. */
	assert_int_equal(send_mem_table(), 0);
	do_some(1);
	assert_int_equal(send_ring(0, &ring), 0);
	do_some(1);
	assert_int_equal(vhost_session_set_vring_enable(session, 0, false), 0);
	assert_int_equal(vhost_session_set_vring_enable(session, 0, true), 0);
	do_some(1);
	close(region.fd);
}

/* RESET_OWNER stops in order, too; the driver begins anew, wherever the ring was. */
static void
test_reset_owner(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (unsigned int i = 1; i < 20; i++) {
		start();
		do_some(i);
		assert_int_equal(vhost_session_reset(session), 0);
		client_ring_reset(&ring);
		if (i % 2 == 1)
			assert_int_equal(give_region(&region), 0);
		if (i % 3 == 0)
			repeat_base();
	}
	close(region.fd);
}

/* What a region had from another process counts, although the queue was stopped in order on this one's. */
static void
test_region_of_another(void **state)
{
	struct client_inflight old = new_region(), mine = new_region();
	struct client_ring saved;
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&old), 0);
	start();
	do_some(9);
	device.hold = true;
	offer(4);
	wait_for_handled(13);
	die();
	device.hold = false;
	complete(UINT32_MAX);

	saved = ring;
	assert_int_equal(client_ring_create_with(&ring, &memory, RING_SIZE, 0, features), 0);
	open_session();
	assert_int_equal(give_region(&mine), 0);
	start();
	do_some(2);
	get_base();
	client_ring_destroy(&ring);
	ring = saved;
	assert_int_equal(give_region(&old), 0);
	repeat_base();
	start();
	expect_used(4, &seen);
	expect_none();
	close(old.fd);
	close(mine.fd);
}

/* ---- regions that lie ---- */

static void
check_refused(const struct client_inflight *region, unsigned int lines)
{
	assert_int_equal(give_region(region), 0);
	assert_int_equal(try_start(0, &ring), 0);
	assert_false(session->vrings[0].running);
	assert_int_equal(read_eventfd(ring.err_fd), 1);
	assert_int_equal(log_capture_count(), lines + 1);
	assert_non_null(strstr(log_capture_last(), "vhost test: queue 0: "));
	/* Told once. */
	assert_int_equal(vhost_session_set_vring_enable(session, 0, false), 0);
	assert_int_equal(vhost_session_set_vring_enable(session, 0, true), 0);
	assert_int_equal(log_capture_count(), lines + 1);
	get_base();
}

/* Sense or nonsense: the queue runs or is refused, and a region that is all right serves it. */
static void
test_hostile_content(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	log_capture_reset();
	/* A version of the future; that of today with another one's features; a size that is too large. */
	overwrite(&region, 8, 2, 2);
	check_refused(&region, 0);
	overwrite(&region, 8, 1, 2);
	overwrite(&region, 0, 1, 8);
	check_refused(&region, 1);
	overwrite(&region, 0, 0, 8);
	overwrite(&region, 10, UINT16_MAX, 2);
	check_refused(&region, 2);
	/* Right but for a mark that is none. */
	overwrite(&region, 10, RING_SIZE, 2);
	overwrite(&region, features & PACKED ? 32 : 16, 2, 1);
	check_refused(&region, 3);
	/* Random, all over. */
	srandom(1);
	for (int i = 0; i < 2000; i++) {
		for (off_t at = 0; at < (off_t)region.mmap_size; at += 8)
			overwrite(&region, at, (uint64_t)(random() % 4 ? random() % 17 : random()),
				  8);
		overwrite(&region, 0, 0, 8);
		overwrite(&region, 8, 1 | RING_SIZE << 16, 4);
		assert_int_equal(try_start(0, &ring), 0);
		get_base();
		client_ring_reset(&ring);
		assert_int_equal(give_region(&region), 0);
	}
	close(region.fd);

	region = new_region();
	client_ring_reset(&ring);
	repeat_base();
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(4);
	close(region.fd);
}

/* The same chain twice: a descriptor that is in flight two times over, or in two chains. */
static void
test_marked_twice(void **state)
{
	struct client_inflight region = new_region();
	struct client_inflight_map map;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	device.hold = true;
	offer(4);
	wait_for_handled(4);
	die();
	device.hold = false;
	complete(UINT32_MAX);
	open_session();
	assert_int_equal(client_inflight_map(&map, &region), 0);
	if (features & PACKED) {
		/* The second chain's first entry is the first one's last. */
		struct client_inflight_packed *queue = client_inflight_packed(&map, 0, RING_SIZE);

		queue->desc[0].next = 2;
		queue->desc[0].last = 2;
	} else {
		/* The list of the last batch goes round. */
		struct client_inflight_split *queue = client_inflight_split(&map, 0, RING_SIZE);

		queue->used_idx -= 2;
		queue->last_batch_head = 3;
		queue->desc[3].next = 3;
	}
	client_inflight_unmap(&map);
	log_capture_reset();
	check_refused(&region, 0);
	close(region.fd);
}

/* A queue that the region has no room for. */
static void
test_no_room(void **state)
{
	struct vhost_inflight_layout small = {.num_queues = 2, .queue_size = RING_SIZE / 2};
	struct client_inflight region = {.fd = -1};

	(void)state;
	region.fd = vhost_session_get_inflight(session, &small);
	region.mmap_size = small.mmap_size;
	region.num_queues = 2;
	region.queue_size = RING_SIZE / 2;
	assert_int_equal(give_region(&region), 0);
	log_capture_reset();
	assert_int_equal(try_start(0, &ring), -ERANGE);
	assert_false(session->vrings[0].running);
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), "has no room"));
	close(region.fd);
	/* The right size, but too few of them. */
	assert_int_equal(vhost_session_reset(session), 0);
	small = (struct vhost_inflight_layout){.num_queues = 2, .queue_size = RING_SIZE};
	region.fd = vhost_session_get_inflight(session, &small);
	region.mmap_size = small.mmap_size;
	region.queue_size = RING_SIZE;
	assert_int_equal(give_region(&region), 0);
	assert_int_equal(try_start(2, &ring), -ERANGE);
	assert_int_equal(try_start(3, &ring), -ERANGE);
	assert_int_equal(vhost_session_reset(session), 0);
	start();
	do_some(2);
	close(region.fd);
}

/* A region of somebody else's making can shrink at any time: its queue breaks, and nothing else. */
static void
test_truncated_region(void **state)
{
	struct client_inflight region;

	(void)state;
	assert_int_equal(vhost_mapping_guard_install(), 0);
	assert_int_equal(client_inflight_create(&region, 65536, QUEUES, RING_SIZE), 0);
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(3);
	log_capture_reset();
	assert_int_equal(ftruncate(region.fd, 0), 0);
	offer(1);
	assert_int_equal(read_eventfd(ring.err_fd), 1);
	get_base();
	assert_non_null(strstr(log_capture_last(), "truncated"));
	/* It does not start again, and cannot be given again. */
	assert_int_equal(try_start(0, &ring), 0);
	assert_false(session->vrings[0].running);
	assert_int_equal(read_eventfd(ring.err_fd), 1);
	assert_int_equal(log_capture_count(), 2);
	get_base();
	assert_int_equal(give_region(&region), -ERANGE);
	close(region.fd);

	region = new_region();
	client_ring_reset(&ring);
	repeat_base();
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(3);
	close(region.fd);
}

int
main(void)
{
#define TEST(name)                                                                                 \
	{#name " (split)", name, setup_split, teardown, NULL},                                     \
	{                                                                                          \
#name " (packed)", name, setup_packed, teardown, NULL                              \
	}
	const struct CMUnitTest tests[] = {
		TEST(test_new_region),
		TEST(test_region_before_features),
		TEST(test_bad_regions),
		TEST(test_marks),
		TEST(test_disconnect),
		TEST(test_many_disconnects),
		TEST(test_waiting_queue_stops),
		TEST(test_place_of_the_region),
		TEST(test_no_base),
		TEST(test_guest_reset),
		TEST(test_reset_owner),
		TEST(test_region_of_another),
		TEST(test_hostile_content),
		TEST(test_marked_twice),
		TEST(test_no_room),
		TEST(test_truncated_region),
	};

	return cmocka_run_group_tests_name("vhost_inflight", tests, NULL, NULL);
}
