/* SPDX-License-Identifier: BSD-3-Clause */
/* The driver side of a virtqueue: what the formats in ring_split.c and ring_packed.c share. */
#include "client.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "deadline.h"
#include "internal.h"

#define AREA_ALIGNMENT 4096

static int
alloc_areas(struct client_ring *ring, void *areas[3])
{
	uint64_t sizes[3];
	int i, rc;

	ring->ops->area_sizes(ring->size, sizes);
	for (i = 0; i < 3; i++) {
		rc = client_memory_alloc(ring->memory, sizes[i], AREA_ALIGNMENT,
					 &ring->area_gpas[i]);
		if (rc < 0)
			return rc;
		areas[i] = client_memory_ptr(ring->memory, ring->area_gpas[i], sizes[i]);
	}
	return 0;
}

static int
alloc_tables(struct client_ring *ring)
{
	uint16_t i;
	int rc;

	for (i = 0; ring->indirect_max > 0 && i < ring->size; i++) {
		rc = client_memory_alloc(ring->memory,
					 ring->indirect_max * sizeof(struct vring_desc), 16,
					 &ring->slots[i].table_gpa);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int
open_eventfds(struct client_ring *ring)
{
	ring->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return ring->kick_fd < 0 || ring->call_fd < 0 || ring->err_fd < 0 ? -EMFILE : 0;
}

int
client_ring_create_with(struct client_ring *ring, struct client_memory *memory, uint16_t size,
			uint16_t indirect_max, uint64_t features)
{
	bool packed = features & (1ULL << VIRTIO_F_RING_PACKED);
	void *areas[3];
	int rc;

	memset(ring, 0, sizeof(*ring));
	ring->ops = packed ? &packed_ring_ops : &split_ring_ops;
	ring->event_idx = features & (1ULL << VIRTIO_RING_F_EVENT_IDX);
	ring->memory = memory;
	ring->size = size;
	ring->indirect_max = indirect_max;
	ring->kick_fd = ring->call_fd = ring->err_fd = -1;
	if (size == 0 || size > 32768 || (!packed && (size & (size - 1))))
		return -EINVAL;
	ring->slots = calloc(size, sizeof(*ring->slots));
	if (!ring->slots)
		return -ENOMEM;
	rc = alloc_areas(ring, areas);
	if (rc == 0)
		rc = alloc_tables(ring);
	if (rc == 0)
		rc = open_eventfds(ring);
	if (rc < 0) {
		client_ring_destroy(ring);
		return rc;
	}
	ring->ops->attach(ring, areas);
	client_ring_reset(ring);
	return 0;
}

int
client_ring_create(struct client_ring *ring, struct client_memory *memory, uint16_t size,
		   uint16_t indirect_max)
{
	return client_ring_create_with(ring, memory, size, indirect_max, 0);
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
client_ring_destroy(struct client_ring *ring)
{
	close_fd(&ring->kick_fd);
	close_fd(&ring->call_fd);
	close_fd(&ring->err_fd);
	free(ring->slots);
	ring->slots = NULL;
}

static void
drain(int fd)
{
	uint64_t count;

	/* Not blocking: an eventfd that was not written says EAGAIN. */
	if (read(fd, &count, sizeof(count)) < 0)
		return;
}

void
client_ring_reset(struct client_ring *ring)
{
	uint64_t sizes[3];
	uint16_t i;
	int area;

	ring->ops->area_sizes(ring->size, sizes);
	for (area = 0; area < 3; area++)
		memset(client_memory_ptr(ring->memory, ring->area_gpas[area], sizes[area]), 0,
		       sizes[area]);
	for (i = 0; i < ring->size; i++) {
		ring->slots[i].descriptors = 0;
		ring->slots[i].next_free = i + 1;
	}
	ring->free_head = 0;
	ring->free_count = ring->size;
	ring->avail_index = 0;
	ring->used_index = 0;
	ring->outstanding = 0;
	ring->unkicked = 0;
	ring->avail_wrap = true;
	ring->used_wrap = true;
	ring->withheld = NULL;
	client_ring_suppress_calls(ring, false);
	drain(ring->kick_fd);
	drain(ring->call_fd);
	drain(ring->err_fd);
}

void
client_ring_addr(const struct client_ring *ring, uint32_t queue, struct client_vring_addr *addr)
{
	*addr = (struct client_vring_addr){
		.index = queue,
		.desc_addr = client_memory_user_addr(ring->memory, ring->area_gpas[0]),
		.avail_addr = client_memory_user_addr(ring->memory, ring->area_gpas[1]),
		.used_addr = client_memory_user_addr(ring->memory, ring->area_gpas[2]),
		/* The dirty log is kept by guest-physical address. */
		.log_addr = ring->area_gpas[2],
	};
}

int
client_ring_add(struct client_ring *ring, const struct client_segment *segments, unsigned int count,
		bool indirect, uint64_t tag)
{
	return ring->ops->add(ring, segments, count, indirect, tag);
}

void
client_ring_publish(struct client_ring *ring)
{
	ring->ops->publish(ring);
}

int
client_ring_kick_always(struct client_ring *ring)
{
	const uint64_t one = 1;

	return write(ring->kick_fd, &one, sizeof(one)) < 0 ? -errno : 0;
}

int
client_ring_kick(struct client_ring *ring)
{
	return ring->ops->wants_kick(ring) ? client_ring_kick_always(ring) : 0;
}

int
client_ring_pop(struct client_ring *ring, struct client_used *used)
{
	return ring->ops->pop(ring, used);
}

static int
wait_eventfd(int fd, int64_t deadline)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	int rc;

	do {
		rc = poll(&pfd, 1, deadline_left(deadline));
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	if (rc == 0)
		return -ETIMEDOUT;
	drain(fd);
	return 0;
}

int
client_ring_wait(struct client_ring *ring, int timeout_ms)
{
	int64_t deadline = deadline_after(timeout_ms);
	int rc;

	if (ring->calls_suppressed)
		return client_ring_poll(ring, timeout_ms);
	while (!ring->ops->pending(ring)) {
		rc = wait_eventfd(ring->call_fd, deadline);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int
client_ring_poll(struct client_ring *ring, int timeout_ms)
{
	int64_t deadline = deadline_after(timeout_ms);

	while (!ring->ops->pending(ring)) {
		if (deadline_left(deadline) == 0)
			return -ETIMEDOUT;
		sched_yield();
	}
	return 0;
}

void
client_ring_suppress_calls(struct client_ring *ring, bool suppress)
{
	ring->calls_suppressed = suppress;
	ring->ops->set_calls(ring);
}

uint32_t
client_ring_resume_base(const struct client_ring *ring)
{
	return ring->ops->resume_base(ring);
}

int
client_ring_wait_error(struct client_ring *ring, int timeout_ms)
{
	return wait_eventfd(ring->err_fd, deadline_after(timeout_ms));
}
