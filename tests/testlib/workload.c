/* SPDX-License-Identifier: BSD-3-Clause */
#include "waiting.h"
#include "workload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define QUEUE_SIZE       128
#define SECTORS_IN_BLOCK (WORKLOAD_BLOCK / CLIENT_SECTOR)
#define POISON           0xee

uint32_t
workload_random(struct workload *load, uint32_t below)
{
	load->random ^= load->random >> 12;
	load->random ^= load->random << 25;
	load->random ^= load->random >> 27;
	return (uint32_t)((load->random * 0x2545f4914f6cdd1dULL) >> 33) % below;
}

/* ---- what a block holds ---- */

static uint64_t
word_of(unsigned int queue, uint32_t block, uint32_t version, uint32_t i)
{
	if (version == 0)
		return 0;
	return (uint64_t)version << 32 | queue << 24 | block << 12 | i;
}

static void
fill(uint8_t *data, unsigned int queue, uint32_t block, uint32_t version)
{
	for (uint32_t i = 0; i < WORKLOAD_BLOCK / sizeof(uint64_t); i++) {
		uint64_t word = word_of(queue, block, version, i);

		memcpy(data + i * sizeof(word), &word, sizeof(word));
	}
}

static int
check(const uint8_t *data, unsigned int queue, uint32_t block, uint32_t version)
{
	for (uint32_t i = 0; i < WORKLOAD_BLOCK / sizeof(uint64_t); i++) {
		uint64_t word, expected = word_of(queue, block, version, i);

		memcpy(&word, data + i * sizeof(word), sizeof(word));
		if (word == expected)
			continue;
		fprintf(stderr,
			"# workload: queue %u, block %u, word %u: %#llx instead of %#llx (version "
			"%u)\n",
			queue, block, i, (unsigned long long)word, (unsigned long long)expected,
			version);
		return -EPROTO;
	}
	return 0;
}

/* ---- requests ---- */

static uint64_t
sector_of(unsigned int queue, uint32_t block)
{
	return (uint64_t)(queue * WORKLOAD_BLOCKS + block) * SECTORS_IN_BLOCK;
}

static int
submit(struct workload *load, unsigned int index, unsigned int tag)
{
	struct workload_queue *queue = &load->queues[index];
	struct workload_slot *slot = &queue->slots[tag];
	struct client_segment segment = {.gpa = slot->gpa, .len = WORKLOAD_BLOCK};
	struct client_blk_request request = {.segments = &segment, .segment_count = 1, .tag = tag};

	do {
		slot->block = workload_random(load, WORKLOAD_BLOCKS);
	} while (queue->locked[slot->block]);
	slot->is_write = workload_random(load, 2) == 0;
	slot->busy = true;
	queue->locked[slot->block] = true;
	segment.device_writes = !slot->is_write;
	if (slot->is_write)
		fill(slot->data, index, slot->block, queue->versions[slot->block] + 1);
	else
		memset(slot->data, POISON, WORKLOAD_BLOCK);
	request.type = slot->is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	request.sector = sector_of(index, slot->block);
	return client_blk_prepare(&queue->blk, &request);
}

static void
end_slot(struct workload *load, struct workload_queue *queue, struct workload_slot *slot)
{
	slot->busy = false;
	queue->locked[slot->block] = false;
	load->completed++;
}

static int
finish(struct workload *load, unsigned int index, const struct client_blk_completion *completion)
{
	struct workload_queue *queue = &load->queues[index];
	struct workload_slot *slot = &queue->slots[completion->tag];
	uint32_t *version = &queue->versions[slot->block];
	uint32_t expected_len = slot->is_write ? 1 : WORKLOAD_BLOCK + 1;

	if (load->may_fail && slot->busy) {
		load->failed += completion->status != VIRTIO_BLK_S_OK;
		end_slot(load, queue, slot);
		return 0;
	}
	if (!slot->busy || completion->status != VIRTIO_BLK_S_OK ||
	    completion->used_len != expected_len) {
		fprintf(stderr, "# workload: queue %u, request %u%s: status %u, %u bytes used\n",
			index, (unsigned int)completion->tag, slot->busy ? "" : " (not under way)",
			completion->status, completion->used_len);
		return -EPROTO;
	}
	end_slot(load, queue, slot);
	if (!slot->is_write)
		return check(slot->data, index, slot->block, *version);
	++*version;
	return 0;
}

static int
reap_queue(struct workload *load, unsigned int index)
{
	struct client_blk *blk = &load->queues[index].blk;
	struct client_blk_completion completion;
	int count = 0, rc;

	while ((rc = client_blk_reap(blk, &completion)) == 1) {
		rc = finish(load, index, &completion);
		if (rc < 0)
			return rc;
		count++;
	}
	if (rc < 0)
		fprintf(stderr,
			"# workload: queue %u: a used entry of a request that is not under way\n",
			index);
	return rc < 0 ? rc : count;
}

int
workload_reap(struct workload *load)
{
	int count = 0;

	for (unsigned int i = 0; i < WORKLOAD_QUEUES; i++) {
		int rc = reap_queue(load, i);

		if (rc < 0)
			return rc;
		count += rc;
	}
	return count;
}

static int
fill_queue(struct workload *load, unsigned int index)
{
	struct workload_queue *queue = &load->queues[index];
	bool added = false;

	for (unsigned int tag = 0; tag < WORKLOAD_DEPTH; tag++) {
		int rc;

		if (queue->slots[tag].busy)
			continue;
		rc = submit(load, index, tag);
		if (rc < 0)
			return rc;
		added = true;
	}
	if (!added)
		return 0;
	client_ring_publish(queue->blk.ring);
	return client_ring_kick(queue->blk.ring);
}

int
workload_run(struct workload *load, uint64_t count, int timeout_ms)
{
	const uint64_t target = load->completed + count;
	const uint64_t end = now_ms() + (uint64_t)timeout_ms;

	for (;;) {
		int rc = workload_reap(load);

		for (unsigned int i = 0; i < WORKLOAD_QUEUES && rc >= 0; i++)
			rc = fill_queue(load, i);
		if (rc < 0)
			return rc;
		if (load->completed >= target)
			return 0;
		if (now_ms() > end)
			return -ETIMEDOUT;
	}
}

static unsigned int
outstanding(const struct workload *load)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < WORKLOAD_QUEUES; i++)
		count += load->device.rings[i].outstanding;
	return count;
}

int
workload_drain(struct workload *load, int timeout_ms)
{
	const uint64_t end = now_ms() + (uint64_t)timeout_ms;

	while (outstanding(load) > 0) {
		int rc = workload_reap(load);

		if (rc < 0)
			return rc;
		if (now_ms() > end) {
			fprintf(stderr, "# workload: %u requests are not completed\n",
				outstanding(load));
			return -EPROTO;
		}
	}
	return 0;
}

int
workload_verify(struct workload *load)
{
	uint8_t data[WORKLOAD_BLOCK];

	for (unsigned int i = 0; i < WORKLOAD_QUEUES; i++) {
		for (uint32_t block = 0; block < WORKLOAD_BLOCKS; block++) {
			int rc = client_blk_read(&load->queues[i].blk, sector_of(i, block), data,
						 sizeof(data));

			if (rc == 0)
				rc = check(data, i, block, load->queues[i].versions[block]);
			if (rc != 0)
				return rc < 0 ? rc : -EIO;
		}
	}
	return 0;
}

/* ---- beginning and end ---- */

static int
open_queue(struct workload *load, unsigned int index)
{
	struct workload_queue *queue = &load->queues[index];
	struct client_memory *memory = &load->device.memory;
	int rc;

	rc = client_blk_create(&queue->blk, &load->device.rings[index], WORKLOAD_BLOCK, 0,
			       index % 2 == 0);
	for (unsigned int i = 0; i < WORKLOAD_DEPTH && rc == 0; i++) {
		struct workload_slot *slot = &queue->slots[i];

		rc = client_memory_alloc(memory, WORKLOAD_BLOCK, WORKLOAD_BLOCK, &slot->gpa);
		if (rc == 0)
			slot->data = client_memory_ptr(memory, slot->gpa, WORKLOAD_BLOCK);
	}
	queue->blk.timeout_ms = DEADLINE_MS;
	return rc;
}

int
workload_open(struct workload *load, const char *socket, uint64_t ring_features, uint64_t seed)
{
	struct client_options options = {
		.queues = WORKLOAD_QUEUES,
		.queue_size = QUEUE_SIZE,
		.features = CLIENT_DEFAULT_FEATURES | ring_features,
		.timeout_ms = DEADLINE_MS,
	};
	int rc;

	memset(load, 0, sizeof(*load));
	load->random = seed * 2 + 1;
	rc = client_device_open(&load->device, socket, &options);
	if (rc < 0)
		return rc;
	for (unsigned int i = 0; i < WORKLOAD_QUEUES && rc == 0; i++)
		rc = open_queue(load, i);
	if (rc == 0)
		rc = client_device_start(&load->device);
	if (rc < 0)
		workload_close(load);
	return rc;
}

void
workload_close(struct workload *load)
{
	for (unsigned int i = 0; i < WORKLOAD_QUEUES; i++)
		client_blk_destroy(&load->queues[i].blk);
	client_device_close(&load->device);
}
