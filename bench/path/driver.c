/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The front-end's turn in each iteration of a reactor. What runs on the reactor from the end of one
 * turn to the beginning of the next is the daemon's, and only that is counted.
 */
#include "path.h"

#include <errno.h>
#include <x86intrin.h>

#include "allocations.h"
#include "counting.h"
#include "nvme_device.h"

/* ---- requests ---- */

static int
prepare_blk(const struct path_driver *driver, struct path_queue *queue, uint32_t sector,
	    uint64_t tag)
{
	struct client_segment segment = {queue->buffers[tag], PATH_BLOCK, !driver->write};
	struct client_blk_request request = {
		.type = driver->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.sector = sector,
		.segments = &segment,
		.segment_count = 1,
		.tag = tag,
	};

	return client_blk_prepare(&queue->blk, &request);
}

/* READ(10), WRITE(10) */
static int
prepare_scsi(const struct path_driver *driver, struct path_queue *queue, uint32_t sector,
	     uint64_t tag)
{
	struct client_segment segment = {queue->buffers[tag], PATH_BLOCK, !driver->write};
	const uint8_t cdb[10] = {
		driver->write ? 0x2a : 0x28,   [2] = (uint8_t)(sector >> 24),
		[3] = (uint8_t)(sector >> 16), [4] = (uint8_t)(sector >> 8),
		[5] = (uint8_t)sector,         [8] = PATH_BLOCK / CLIENT_SECTOR,
	};
	struct client_scsi_request request = {
		.lun = {1},
		.cdb = cdb,
		.cdb_length = sizeof(cdb),
		.segments = &segment,
		.segment_count = 1,
		.tag = tag,
	};

	return client_scsi_prepare(&queue->scsi, &request);
}

static void
send_request(struct path_driver *driver, struct path_queue *queue, uint64_t tag)
{
	uint32_t sector;
	int rc;

	driver->random = driver->random * 6364136223846793005ULL + 1442695040888963407ULL;
	sector = (uint32_t)((driver->random >> 32) % (PATH_DISK_BYTES / PATH_BLOCK) *
			    (PATH_BLOCK / CLIENT_SECTOR));
	rc = driver->front->scsi ? prepare_scsi(driver, queue, sector, tag)
				 : prepare_blk(driver, queue, sector, tag);
	if (rc < 0)
		path_fail("request", rc);
	driver->outstanding++;
}

static void
publish(struct path_queue *queue)
{
	client_ring_publish(queue->ring);
	client_ring_kick(queue->ring);
}

/* 1 and *tag, 0, or a negative errno. */
static int
reap_one(const struct path_driver *driver, struct path_queue *queue, uint64_t *tag)
{
	struct client_scsi_completion scsi = {0};
	struct client_blk_completion blk = {0};
	int rc;

	if (driver->front->scsi) {
		rc = client_scsi_reap(&queue->scsi, &scsi);
		*tag = scsi.tag;
		return rc == 1 && (scsi.response.response != VIRTIO_SCSI_S_OK ||
				   scsi.response.status != 0)
			       ? -EIO
			       : rc;
	}
	rc = client_blk_reap(&queue->blk, &blk);
	*tag = blk.tag;
	return rc == 1 && blk.status != VIRTIO_BLK_S_OK ? -EIO : rc;
}

/* Takes what is done and, unless the case is over, sends it again. */
static void
reap(struct path_driver *driver, struct path_queue *queue)
{
	unsigned int count = 0;
	uint64_t tag;
	int rc;

	while ((rc = reap_one(driver, queue, &tag)) > 0) {
		count++;
		driver->outstanding--;
		if (driver->phase != PATH_DRAINED)
			send_request(driver, queue, tag);
	}
	if (rc < 0)
		path_fail("used ring or status", rc);
	if (count > 0 && driver->phase != PATH_DRAINED)
		publish(queue);
	driver->reaped += count;
}

/* ---- the turn ---- */

static void
next_phase(struct path_driver *driver)
{
	switch (driver->phase) {
	case PATH_WARM_UP:
		if (driver->reaped < driver->wanted / 10)
			return;
		CALLGRIND_ZERO_STATS;
		driver->reaped = 0;
		driver->begin = __rdtsc();
		driver->phase = PATH_COUNTED;
		return;
	case PATH_COUNTED:
		if (driver->reaped < driver->wanted)
			return;
		CALLGRIND_DUMP_STATS_AT(driver->name);
		driver->ios = driver->reaped;
		driver->elapsed = __rdtsc() - driver->begin;
		atomic_fetch_sub(driver->counting, 1);
		driver->phase = PATH_GOES_ON;
		return;
	case PATH_GOES_ON:
		if (atomic_load(driver->counting) == 0)
			driver->phase = PATH_DRAINED;
		return;
	case PATH_DRAINED:
		return;
	}
}

static int
take_turn(void *arg)
{
	struct path_driver *driver = arg;

	if (driver->phase == PATH_COUNTED) {
		CALLGRIND_TOGGLE_COLLECT;
		driver->ticks += __rdtsc() - driver->left;
		driver->allocations += path_allocations - driver->left_allocations;
		driver->iterations++;
	}
	/* The daemon's threads come by and by. */
	if (driver->nvme && driver->phase == PATH_WARM_UP)
		driver->nvme_queues = path_nvme_queues_here();
	path_nvme_turn(driver->nvme_queues);
	for (unsigned int i = driver->first; i < driver->front->queue_count; i += driver->stride)
		reap(driver, &driver->front->queues[i]);
	next_phase(driver);
	if (driver->phase == PATH_DRAINED && driver->outstanding == 0) {
		poller_unregister(&driver->poller);
		completion_signal(driver->done, 0); /* the last look at the driver */
	} else if (driver->phase == PATH_COUNTED) {
		driver->left_allocations = path_allocations;
		driver->left = __rdtsc();
		CALLGRIND_TOGGLE_COLLECT;
	}
	return POLLER_BUSY;
}

static void
begin(void *arg)
{
	struct path_driver *driver = arg;

	for (unsigned int i = driver->first; i < driver->front->queue_count; i += driver->stride) {
		struct path_queue *queue = &driver->front->queues[i];

		for (unsigned int tag = 0; tag < driver->depth; tag++)
			send_request(driver, queue, tag);
		publish(queue);
	}
	driver->poller = poller_register(take_turn, driver, 0, "front_end");
	if (driver->poller == NULL)
		path_fail("poller", -ENOMEM);
}

void
path_drive(struct path_driver *drivers, unsigned int count)
{
	atomic_uint counting = count;

	for (unsigned int i = 0; i < count; i++) {
		drivers[i].counting = &counting;
		drivers[i].done = completion_create();
		if (drivers[i].done == NULL)
			path_fail("completion", -ENOMEM);
	}
	for (unsigned int i = 0; i < count; i++)
		if (thread_send_msg(drivers[i].thread, begin, &drivers[i]) != 0)
			path_fail("message", -ENOMEM);
	for (unsigned int i = 0; i < count; i++) {
		completion_wait(drivers[i].done, WAIT_FOREVER);
		completion_put(drivers[i].done);
	}
}
