/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_blk_rig: a virtio-blk controller on a fake disk, and a guest with one queue, which is popped
 * and published by hand.
 */
#ifndef VHOSTD_VHOST_BLK_RIG_H
#define VHOSTD_VHOST_BLK_RIG_H

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

#include "bdev_fake.h"
#include "vhost/blk.h"
#include "vhost/queue.h"
#include "vhost/session.h"
#include "vhost/trace.h"
#include "vhost_controller_fake.h"

/* ---- a guest: one region, one queue, on the controller's second thread ---- */

#define RING_SIZE  64
#define GUEST_GPA  0x40000000ULL
#define GUEST_SIZE (1u << 20)

static struct guest {
	uint8_t *memory;
	uint32_t allocated;
	struct guest_mem *map;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_desc, used_seen;
	struct vhost_queue queue;
} guest;

struct segment {
	void *data; /* in guest.memory */
	uint32_t length;
	bool writable;
};

static inline void *
guest_alloc(uint32_t size)
{
	void *data = guest.memory + guest.allocated;

	guest.allocated += (size + 15) & ~15u;
	assert_true(guest.allocated <= GUEST_SIZE);
	return data;
}

static inline void
guest_start(void)
{
	struct guest_mem_region region = {.gpa = GUEST_GPA, .size = GUEST_SIZE};
	struct virtq_opts opts = {.size = RING_SIZE, .indirect = true};

	memset(&guest, 0, sizeof(guest));
	guest.memory = aligned_alloc(4096, GUEST_SIZE);
	assert_non_null(guest.memory);
	memset(guest.memory, 0, GUEST_SIZE);
	region.hva = guest.memory;
	assert_int_equal(guest_mem_create(&region, 1, &guest.map), 0);
	guest.desc = guest_alloc(RING_SIZE * sizeof(*guest.desc));
	guest.avail = guest_alloc(6 + 2 * RING_SIZE);
	guest.used = guest_alloc(6 + 8 * RING_SIZE);
	opts.desc = guest.desc;
	opts.avail = guest.avail;
	opts.used = guest.used;
	opts.mem = guest.map;
	opts.ctx_size = controller.ops->request_size(controller.device);
	guest.queue.ops = controller.ops;
	guest.queue.device = controller.device;
	guest.queue.home = &controller.threads.threads[1];
	guest.queue.clock = thread_clock(rig_io[1]);
	guest.queue.slow_ticks = INT64_MAX;
	thread_set_current(rig_io[1]);
	assert_int_equal(controller.ops->channel_get(controller.device, "", &guest.queue.channel),
			 0);
	thread_set_current(NULL);
	LIST_INSERT_HEAD(&controller.threads.threads[1].queues, &guest.queue, link);
	assert_int_equal(virtq_create(&opts, &guest.queue.setup.vq), 0);
	for (uint32_t i = 0; i < RING_SIZE; i++)
		controller.ops->request_init(&guest.queue, virtq_slot_at(guest.queue.setup.vq, i));
}

static inline void
guest_stop(void)
{
	thread_set_current(rig_io[1]);
	vhost_thread_put_channel(&controller.threads.threads[1], &guest.queue.channel);
	thread_set_current(NULL);
	virtq_destroy(guest.queue.setup.vq);
	guest_mem_destroy(guest.map);
	free(guest.memory);
}

static inline void
offer(const struct segment *segments, unsigned int count)
{
	uint16_t head = guest.next_desc;

	for (unsigned int i = 0; i < count; i++) {
		struct vring_desc *desc = &guest.desc[guest.next_desc];

		desc->addr = GUEST_GPA + (uint64_t)((uint8_t *)segments[i].data - guest.memory);
		desc->len = segments[i].length;
		desc->flags = segments[i].writable ? VRING_DESC_F_WRITE : 0;
		guest.next_desc = (guest.next_desc + 1) % RING_SIZE;
		if (i + 1 < count)
			desc->flags |= VRING_DESC_F_NEXT;
		desc->next = guest.next_desc;
	}
	guest.avail->ring[guest.avail->idx % RING_SIZE] = head;
	guest.avail->idx++;
}

/* One poll of the queue. */
static inline void
serve(void)
{
	struct virtq_slot *slots[VHOST_QUEUE_BATCH];
	uint32_t count;

	thread_set_current(rig_io[1]);
	count = virtq_pop(guest.queue.setup.vq, slots, VHOST_QUEUE_BATCH);
	if (count > 0)
		controller.ops->handle(&guest.queue, slots, count);
	virtq_publish(guest.queue.setup.vq);
	thread_set_current(NULL);
	rig_settle();
	virtq_publish(guest.queue.setup.vq);
}

/* The used length of the one request that has completed. */
static inline uint32_t
take_used(void)
{
	assert_int_equal((uint16_t)(guest.used->idx - guest.used_seen), 1);
	return guest.used->ring[guest.used_seen++ % RING_SIZE].len;
}

/* Offers and serves one; returns the used length. */
static inline uint32_t
execute(const struct segment *segments, unsigned int count)
{
	offer(segments, count);
	serve();
	return take_used();
}

/* ---- the device ---- */

static inline void
create_device(bool read_only)
{
	struct vhost_blk_opts opts = {
		.name = "vm", .bdev = "disk-with-a-long-name", .read_only = read_only};

	thread_set_current(rig_app);
	assert_int_equal(vhost_blk_create(&opts, &rig_err), 0);
	for (unsigned int i = 0; i < 2; i++) {
		struct vhost_thread *thread = &controller.threads.threads[i];

		thread->controller = &controller;
		thread->thread = rig_io[i];
		thread->trace = calloc(1, sizeof(*thread->trace));
		assert_non_null(thread->trace);
		LIST_INIT(&thread->queues);
		thread_set_current(rig_io[i]);
		assert_int_equal(
			controller.ops->channel_get(controller.device, "", &thread->channel), 0);
	}
	controller.threads.count = 2;
	thread_set_current(NULL);
	TAILQ_INIT(&controller.sessions);
}

static inline void
destroy_device(void)
{
	for (unsigned int i = 0; i < 2; i++) {
		void *channel = controller.threads.threads[i].channel;

		thread_set_current(rig_io[i]);
		if (channel != NULL)
			controller.ops->channel_put(controller.device, channel);
		free(controller.threads.threads[i].trace);
	}
	thread_set_current(rig_app);
	controller.ops->destroy(controller.device);
	thread_set_current(NULL);
	rig_settle();
}

static inline void
start_as(const struct bdev_info *info, bool read_only)
{
	config_changes = 0;
	assert_int_equal(fake_register(info), 0);
	create_device(read_only);
	guest_start();
}

static inline void
start(void)
{
	struct bdev_info info = fake_info("disk-with-a-long-name");

	start_as(&info, false);
}

static inline void
stop(void)
{
	guest_stop();
	destroy_device();
	assert_int_equal(rig_delete("disk-with-a-long-name", "fake"), 0);
	memset(&controller, 0, sizeof(controller));
}

static inline struct virtio_blk_outhdr *
make_header(uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr *header = guest_alloc(sizeof(*header));

	*header = (struct virtio_blk_outhdr){.type = type, .sector = sector};
	return header;
}

#endif
