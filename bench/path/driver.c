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

static void
send_request(struct path_driver *driver, struct path_queue *queue, uint64_t tag)
{
	struct client_segment segment = {queue->buffers[tag], PATH_BLOCK, !driver->write};
	struct client_blk_request request = {
		.type = driver->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.segments = &segment,
		.segment_count = 1,
		.tag = tag,
	};
	uint64_t block;
	int rc;

	driver->random = driver->random * 6364136223846793005ULL + 1442695040888963407ULL;
	block = (driver->random >> 32) % (PATH_DISK_BYTES / PATH_BLOCK);
	request.sector = block * (PATH_BLOCK / CLIENT_SECTOR);
	rc = client_blk_prepare(&queue->blk, &request);
	if (rc < 0)
		path_fail("request", rc);
	driver->outstanding++;
}

static void
publish(struct path_queue *queue)
{
	client_ring_publish(queue->blk.ring);
	client_ring_kick(queue->blk.ring);
}

/* Takes what is done and, unless the case is over, sends it again. */
static void
reap(struct path_driver *driver, struct path_queue *queue)
{
	struct client_blk_completion done;
	unsigned int count = 0;
	int rc;

	while ((rc = client_blk_reap(&queue->blk, &done)) > 0) {
		if (done.status != VIRTIO_BLK_S_OK)
			path_fail("status", -EIO);
		count++;
		driver->outstanding--;
		if (driver->phase != PATH_DRAINED)
			send_request(driver, queue, done.tag);
	}
	if (rc < 0)
		path_fail("used ring", rc);
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
