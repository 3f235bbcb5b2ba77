/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_queues_rig: a controller with several threads and a session of several queues, without
 * sockets: the test is the vhost-events thread, drivers on OS threads of their own keep the queues
 * busy, and the device answers each request with its number, when it may. Who polls the threads is
 * the test's business.
 */
#ifndef VHOSTD_VHOST_QUEUES_RIG_H
#define VHOSTD_VHOST_QUEUES_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "env.h"
#include "vhost/controller.h"
#include "vhost/session.h"
#include "waiting.h"

#define QUEUES      4
#define RING_SIZE   16
#define CHAINS      (RING_SIZE / 2) /* of a readable and a writable descriptor each */
#define GPA         0x100000000ULL
#define USER        0x7e0000000000ULL
#define QUEUE_BYTES (64u << 10)
#define MEMORY_SIZE (QUEUES * QUEUE_BYTES)
/* Offsets in a queue's part of memory. */
#define DESC  0
#define AVAIL 4096
#define USED  8192
#define OUT   16384
#define IN    20480

/* cmocka's assertions are for its own OS thread; these are for any. */
static atomic_uint failures;

static inline bool
check_at(bool condition, const char *text, int line)
{
	if (!condition && atomic_fetch_add(&failures, 1) < 10)
		fprintf(stderr, "line %d: %s\n", line, text);
	return condition;
}
#define check(condition) check_at(condition, #condition, __LINE__)

#define wait_until(condition)                                                                      \
	do {                                                                                       \
		uint64_t end_ms = now_ms() + DEADLINE_MS;                                          \
		while (!(condition) && check_at(now_ms() < end_ms, #condition, __LINE__))          \
			sched_yield();                                                             \
	} while (0)

/* ---- cores ---- */

static uint32_t cores[2]; /* the first two; equal where there is one */

static inline int
rig_group_setup(void **state)
{
	struct env_opts opts = {.name = "test_vhost_queues"};
	struct errmsg err = {""};
	cpu_set_t set;
	int found = 0;

	(void)state;
	pthread_getaffinity_np(pthread_self(), sizeof(set), &set);
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS && found < 2; cpu++) {
		if (!CPU_ISSET(cpu, &set))
			continue;
		cpumask_set(&opts.cpus, cpu);
		cores[found++] = cpu;
	}
	if (found == 1)
		cores[1] = cores[0];
	return env_init(&opts, &err);
}

static inline int
rig_group_teardown(void **state)
{
	(void)state;
	env_fini();
	return 0;
}

/* ---- the device ---- */

#define DEVICE_MAPS 1024 /* sessions may be freed slowly */

struct device_map {
	void *addr;
	uint64_t length; /* 0: free */
	int fd;
	uint64_t fd_offset;
};

static struct {
	atomic_bool hold;        /* requests stay with it */
	atomic_bool gone;        /* it gives no channels any more */
	atomic_int refuse_after; /* so many more channels, then -EMFILE; negative: no limit */
	atomic_int channels;
	atomic_uint handled[QUEUES];

	/* the queue's thread */
	struct virtq_slot *held[QUEUES][CHAINS];
	unsigned int held_count[QUEUES];

	/* any thread, under device_lock: memory that it was shown */
	struct device_map maps[DEVICE_MAPS];
	atomic_uint mapped;
	unsigned int map_calls;
	unsigned int map_fail_at; /* the n-th region from now is not taken; 0: all are */
} device;

static pthread_mutex_t device_lock = PTHREAD_MUTEX_INITIALIZER;

static inline int
device_memory_map(void *ctx, void *addr, uint64_t length, int fd, uint64_t fd_offset, void **handle,
		  struct errmsg *err)
{
	unsigned int i = 0;

	(void)ctx;
	*handle = NULL;
	if (device.gone)
		return 0;
	pthread_mutex_lock(&device_lock);
	device.map_calls++;
	if (device.map_fail_at > 0 && --device.map_fail_at == 0) {
		pthread_mutex_unlock(&device_lock);
		return err_set(err, -ENOMEM, "the limit is reached");
	}
	while (i < DEVICE_MAPS && device.maps[i].length != 0)
		i++;
	if (check(i < DEVICE_MAPS)) {
		device.maps[i] = (struct device_map){addr, length, fd, fd_offset};
		device.mapped++;
		*handle = &device.maps[i];
	}
	pthread_mutex_unlock(&device_lock);
	return 0;
}

/* Once for each that was mapped, and while the memory is there. */
static inline void
device_memory_unmap(void *handle)
{
	struct device_map *map = handle;
	uint8_t page;

	pthread_mutex_lock(&device_lock);
	check(map->length != 0);
	check(madvise(map->addr, map->length, MADV_NORMAL) == 0);
	check(mincore(map->addr, 1, &page) == 0);
	map->length = 0;
	device.mapped--;
	pthread_mutex_unlock(&device_lock);
}

static inline bool
device_knows(const struct iovec *iov)
{
	bool found = false;

	pthread_mutex_lock(&device_lock);
	for (unsigned int i = 0; i < DEVICE_MAPS && !found; i++) {
		uint64_t offset = (uintptr_t)iov->iov_base - (uintptr_t)device.maps[i].addr;

		found = offset < device.maps[i].length &&
			iov->iov_len <= device.maps[i].length - offset;
	}
	pthread_mutex_unlock(&device_lock);
	return found;
}

static inline void
device_finish(struct vhost_queue *queue, struct virtq_slot *slot)
{
	check(device.gone || (device_knows(&slot->iov[0]) && device_knows(&slot->iov[1])));
	memcpy(slot->iov[1].iov_base, slot->iov[0].iov_base, sizeof(uint64_t));
	vhost_queue_complete(queue, slot, sizeof(uint64_t));
}

static inline void
device_handle(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count)
{
	uint32_t i = queue->index;

	check(thread_current() == queue->home->thread);
	check(queue->channel == thread_current() || (device.gone && queue->channel == NULL));
	for (uint32_t s = 0; s < count; s++) {
		if (device.hold && !device.gone)
			device.held[i][device.held_count[i]++] = slots[s];
		else
			device_finish(queue, slots[s]);
	}
	atomic_fetch_add(&device.handled[i], count);
}

/* For vhost_threads_call(), after hold was taken back. */
static inline int
device_let_go(struct vhost_thread *thread, void *arg)
{
	struct vhost_queue *queue;

	(void)arg;
	LIST_FOREACH (queue, &thread->queues, link) {
		uint32_t i = queue->index;

		while (device.held_count[i] > 0)
			device_finish(queue, device.held[i][--device.held_count[i]]);
	}
	return 0;
}

static inline int
device_channel_get(void *ctx, const char *label, void **channel)
{
	(void)ctx;
	(void)label;
	*channel = NULL;
	if (device.gone)
		return 0;
	if (device.refuse_after == 0)
		return -EMFILE;
	device.refuse_after--;
	device.channels++;
	*channel = thread_current();
	return 0;
}

static inline void
device_channel_put(void *ctx, void *channel)
{
	(void)ctx;
	check(channel == thread_current());
	device.channels--;
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

static const struct vhost_device_ops device_ops = {
	.name = "test",
	.max_segments = 16,
	.features = device_features,
	.set_features = device_set_features,
	.request_size = device_request_size,
	.request_init = device_request_init,
	.memory_map = device_memory_map,
	.memory_unmap = device_memory_unmap,
	.channel_get = device_channel_get,
	.channel_put = device_channel_put,
	.handle = device_handle,
};

/* ---- drivers ---- */

struct driver {
	/* set once */
	unsigned int queue;
	uint8_t *memory; /* the queue's part */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	int kick_fd;

	/* whoever drives it */
	uint16_t avail_index, used_index;
	uint64_t sent[CHAINS]; /* 0: free */
	uint64_t last;         /* number of the last request */

	/* its OS thread */
	pthread_t thread;
	atomic_bool stop;
	_Atomic uint64_t completed;
};

static struct driver drivers[QUEUES];
static int memory_fd;
static uint8_t *memory;

static inline uint64_t *
chain_data(const struct driver *driver, size_t offset, unsigned int chain)
{
	return (uint64_t *)(driver->memory + offset + chain * sizeof(uint64_t));
}

static inline void
driver_reset(struct driver *driver)
{
	memset(driver->memory, 0, OUT);
	driver->avail_index = driver->used_index = 0;
	memset(driver->sent, 0, sizeof(driver->sent));
}

/* Offers one request on a chain that is free. */
static inline void
driver_offer(struct driver *driver, unsigned int chain)
{
	uint64_t gpa = GPA + (uint64_t)(driver->memory - memory);
	struct vring_desc *desc = &driver->desc[2 * chain];

	driver->sent[chain] = ++driver->last;
	*chain_data(driver, OUT, chain) = driver->last;
	*chain_data(driver, IN, chain) = 0;
	desc[0] = (struct vring_desc){.addr = gpa + OUT + 8 * chain,
				      .len = 8,
				      .flags = VRING_DESC_F_NEXT,
				      .next = (uint16_t)(2 * chain + 1)};
	desc[1] = (struct vring_desc){
		.addr = gpa + IN + 8 * chain, .len = 8, .flags = VRING_DESC_F_WRITE};
	driver->avail->ring[driver->avail_index % RING_SIZE] = (uint16_t)(2 * chain);
	__atomic_store_n(&driver->avail->idx, ++driver->avail_index, __ATOMIC_SEQ_CST);
}

/* Publishes first and looks afterwards: both are sequentially consistent. */
static inline void
driver_kick(struct driver *driver)
{
	if (!(__atomic_load_n(&driver->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY))
		eventfd_write(driver->kick_fd, 1);
}

/* Takes what is done: each request once, and with its own number. Returns how many. */
static inline unsigned int
driver_reap(struct driver *driver)
{
	uint16_t end = __atomic_load_n(&driver->used->idx, __ATOMIC_ACQUIRE);
	unsigned int count = 0;

	for (; driver->used_index != end; driver->used_index++, count++) {
		uint32_t chain = driver->used->ring[driver->used_index % RING_SIZE].id / 2;

		if (!check(chain < CHAINS && driver->sent[chain] != 0))
			continue;
		check(*chain_data(driver, IN, chain) == driver->sent[chain]);
		driver->sent[chain] = 0;
	}
	driver->completed += count;
	return count;
}

static inline unsigned int
driver_outstanding(const struct driver *driver)
{
	return (uint16_t)(driver->avail_index - driver->used_index);
}

/* One request to its end. */
static inline void
driver_do_one(struct driver *driver)
{
	uint64_t wanted = driver->completed + 1;

	driver_offer(driver, 0);
	driver_kick(driver);
	wait_until(driver_reap(driver) > 0 || driver->completed >= wanted);
}

static inline void
driver_fill(struct driver *driver)
{
	bool offered = false;

	for (unsigned int chain = 0; chain < CHAINS; chain++) {
		if (driver->sent[chain] == 0) {
			driver_offer(driver, chain);
			offered = true;
		}
	}
	if (offered)
		driver_kick(driver);
}

/* All chains, again and again; at the end until the last one is back. */
static inline void *
driver_main(void *arg)
{
	struct driver *driver = arg;
	uint64_t end = now_ms() + DEADLINE_MS;

	while (!driver->stop) {
		driver_fill(driver);
		if (driver_reap(driver) > 0)
			end = now_ms() + DEADLINE_MS;
		else
			sched_yield();
		if (!check(now_ms() < end))
			return NULL;
	}
	while (driver_outstanding(driver) > 0 && check(now_ms() < end)) {
		driver_reap(driver);
		sched_yield();
	}
	return NULL;
}

static inline void
drivers_start(void)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		drivers[i].stop = false;
		check(pthread_create(&drivers[i].thread, NULL, driver_main, &drivers[i]) == 0);
	}
}

/* Every queue has made some progress since. */
static inline void
drivers_stop(void)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		uint64_t before = drivers[i].completed;

		wait_until(drivers[i].completed > before + CHAINS);
	}
	for (unsigned int i = 0; i < QUEUES; i++)
		drivers[i].stop = true;
	for (unsigned int i = 0; i < QUEUES; i++)
		pthread_join(drivers[i].thread, NULL);
}

/* ---- the session ---- */

static struct vhost_controller *controller;
static struct vhost_session *session;

static inline struct vhost_thread *
thread_number(uint32_t i)
{
	return &controller->threads.threads[i];
}

static inline int
send_mem_table(void)
{
	struct vhost_mem_region region = {.gpa = GPA, .size = MEMORY_SIZE, .user_addr = USER};

	return vhost_session_set_mem_table(session, &region, &memory_fd, 1);
}

static inline int
send_kick(unsigned int i)
{
	return vhost_session_set_vring_kick(session, i, dup(drivers[i].kick_fd));
}

/* Everything about a queue that does not run; it starts with the last message. */
static inline int
start_queue(unsigned int i)
{
	uint64_t part = USER + i * QUEUE_BYTES;
	struct vhost_ring_addr addr = {
		.desc = part + DESC, .avail = part + AVAIL, .used = part + USED};

	if (session->vrings[i].running)
		return 0;
	check(vhost_session_set_vring_num(session, i, RING_SIZE) == 0);
	check(vhost_session_set_vring_base(session, i, drivers[i].used->idx) == 0);
	check(vhost_session_set_vring_addr(session, i, &addr) == 0);
	return send_kick(i);
}

static inline void
start_all(void)
{
	check(send_mem_table() == 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		check(start_queue(i) == 0);
}

/* Each queue stands behind all that was asked of it. */
static inline void
stop_all(void)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		uint32_t base = 0xdead;

		check(vhost_session_get_vring_base(session, i, &base) == 0);
		check(base == drivers[i].avail_index);
		check(drivers[i].used->idx == drivers[i].avail_index);
		driver_reap(&drivers[i]);
	}
}

static inline void
new_session(void)
{
	if (session != NULL)
		vhost_session_release(session);
	session = NULL;
	check(vhost_session_create(controller, 0, &session) == 0);
}

static inline void
let_go(void)
{
	device.hold = false;
	vhost_threads_call(controller, device_let_go, NULL);
}

static inline void
rig_memory_create(void)
{
	memory_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(memory_fd, MEMORY_SIZE), 0);
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	memset(drivers, 0, sizeof(drivers));
	for (unsigned int i = 0; i < QUEUES; i++) {
		struct driver *driver = &drivers[i];

		driver->queue = i;
		driver->memory = memory + i * QUEUE_BYTES;
		driver->desc = (struct vring_desc *)(driver->memory + DESC);
		driver->avail = (struct vring_avail *)(driver->memory + AVAIL);
		driver->used = (struct vring_used *)(driver->memory + USED);
		driver->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
}

static inline void
rig_memory_destroy(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		close(drivers[i].kick_fd);
	munmap(memory, MEMORY_SIZE);
	close(memory_fd);
}

/* On a plain OS thread. The controller may have that many threads. */
static inline void
rig_start(uint32_t max_threads)
{
	memset(&device, 0, sizeof(device));
	device.refuse_after = -1;
	session = NULL;
	controller = calloc(1, sizeof(*controller));
	strcpy(controller->name, "test");
	controller->ops = &device_ops;
	controller->queue_count = QUEUES;
	TAILQ_INIT(&controller->sessions);
	check(vhost_threads_start(controller, max_threads, NULL) == 0);
	new_session();
}

static inline int
no_sessions(void *arg)
{
	(void)arg;
	return TAILQ_EMPTY(&controller->sessions);
}

static inline void
rig_end(void)
{
	if (session != NULL)
		vhost_session_release(session);
	session = NULL;
	let_go();
	wait_until(thread_call(vhost_main_thread(controller), no_sessions, NULL));
	wait_until(device.mapped == 0); /* workers free sessions */
	vhost_threads_end(controller);
	check(device.channels == 0);
}

#endif
