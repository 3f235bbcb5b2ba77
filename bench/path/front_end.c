/* SPDX-License-Identifier: BSD-3-Clause */
#include "path.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#define QUEUE_SIZE   512 /* three descriptors for each of PATH_MAX_DEPTH */
#define QUEUE_MEMORY (2u << 20)
#define TIMEOUT_MS   60000 /* valgrind lets one thread run at a time */
#define IDLE_SIZE    128
#define GUEST_GPA    0x100000000ULL
#define USER_ADDR    0x7f0000000000ULL
#define BIT(n)       (1ULL << (n))

static int
open_device(struct path_front_end *front)
{
	const struct path_shape *shape = front->shape;
	unsigned int queues = (front->queue_count > 0 ? front->queue_count : 1) +
			      (front->scsi ? CLIENT_SCSI_REQUESTS : 0);
	uint64_t inflight = BIT(CLIENT_PROTOCOL_F_INFLIGHT_SHMFD);
	uint64_t wanted = (shape->packed ? BIT(VIRTIO_F_RING_PACKED) : 0) |
			  (shape->event_idx ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0);
	const struct client_region_layout layout = {
		.gpa = GUEST_GPA, .user_addr = USER_ADDR, .size = (uint64_t)queues * QUEUE_MEMORY};
	const struct client_options options = {
		.queues = queues,
		.queue_size = front->queue_count > 0 ? QUEUE_SIZE : IDLE_SIZE,
		.indirect_max = 4,
		.timeout_ms = TIMEOUT_MS,
		.features = CLIENT_DEFAULT_FEATURES | wanted,
		.protocol_features = (CLIENT_DEFAULT_PROTOCOL_FEATURES & ~inflight) |
				     (shape->inflight ? inflight : 0),
		.layout = &layout,
		.layout_count = 1,
	};
	int rc = client_device_open(&front->device, front->path, &options);

	if (rc < 0)
		return rc;
	if ((front->device.features & wanted) != wanted ||
	    (shape->inflight && !(front->device.protocol_features & inflight)))
		rc = -ENOTSUP;
	else
		rc = client_device_start(&front->device);
	if (rc < 0)
		client_device_close(&front->device);
	return rc;
}

static int
open_queue(struct path_front_end *front, unsigned int index)
{
	unsigned int first = front->scsi ? CLIENT_SCSI_REQUESTS : 0;
	struct client_ring *ring = &front->device.rings[first + index];
	struct path_queue *queue = &front->queues[index];
	int rc;

	queue->ring = ring;
	client_ring_suppress_calls(ring, true);
	if (front->scsi)
		rc = client_scsi_create(&queue->scsi, ring, 0, !front->shape->direct);
	else
		rc = client_blk_create(&queue->blk, ring, 0, 0, !front->shape->direct);
	for (unsigned int i = 0; i < PATH_MAX_DEPTH && rc == 0; i++)
		rc = client_memory_alloc(&front->device.memory, PATH_BLOCK, PATH_BLOCK,
					 &queue->buffers[i]);
	return rc;
}

/* A driver that begins finds a unit attention. */
static int
make_ready(struct client_scsi *scsi)
{
	const uint8_t test_unit_ready[6] = {0};
	const struct client_scsi_request request = {
		.lun = {1}, .cdb = test_unit_ready, .cdb_length = sizeof(test_unit_ready)};
	struct client_scsi_completion done = {.response.status = 0xff};
	int rc = 0;

	for (int i = 0; i < 4 && rc == 0 && done.response.status != 0; i++)
		rc = client_scsi_execute(scsi, &request, &done);
	return rc == 0 && done.response.status != 0 ? -EIO : rc;
}

int
path_front_end_open(void *arg)
{
	struct path_front_end *front = arg;
	int rc = open_device(front);

	for (unsigned int i = 0; i < front->queue_count && rc == 0; i++)
		rc = open_queue(front, i);
	if (rc == 0 && front->scsi && front->queue_count > 0)
		rc = make_ready(&front->queues[0].scsi);
	return rc;
}

int
path_front_end_close(void *arg)
{
	struct path_front_end *front = arg;
	int rc;

	for (unsigned int i = 0; i < front->queue_count; i++) {
		client_blk_destroy(&front->queues[i].blk);
		client_scsi_destroy(&front->queues[i].scsi);
	}
	rc = client_device_stop(&front->device);
	client_device_close(&front->device);
	return rc;
}
