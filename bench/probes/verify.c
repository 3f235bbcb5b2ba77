/* SPDX-License-Identifier: BSD-3-Clause */
/* Verification: each block gets a pattern of its own, which is compared when it is read back. */
#include "probes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct verify {
	struct load *load;
	struct client_blk *blks;         /* by queue */
	struct client_segment *segments; /* by queue and slot */
	uint64_t *blocks;                /* which block a slot holds */
	uint64_t seed;
	uint64_t wrong;
};

static uint64_t
pattern(const struct verify *v, uint64_t block, uint32_t word)
{
	return (block * (v->load->options.block_size / 8) + word) * 0x9e3779b97f4a7c15ULL ^ v->seed;
}

static void
fill_pattern(struct verify *v, unsigned int slot)
{
	uint32_t size = v->load->options.block_size;
	uint64_t *data = client_memory_ptr(&v->load->device.memory, v->segments[slot].gpa, size);
	uint32_t i;

	for (i = 0; i < size / 8; i++)
		data[i] = pattern(v, v->blocks[slot], i);
}

static void
compare_pattern(struct verify *v, unsigned int slot)
{
	uint32_t size = v->load->options.block_size;
	uint64_t *data = client_memory_ptr(&v->load->device.memory, v->segments[slot].gpa, size);
	uint32_t i;

	for (i = 0; i < size / 8; i++) {
		if (data[i] == pattern(v, v->blocks[slot], i))
			continue;
		fprintf(stderr, "vhost_load: block %lu differs at byte %u\n", v->blocks[slot],
			i * 8);
		v->wrong++;
		return;
	}
}

static int
verify_submit(struct verify *v, unsigned int slot, uint64_t block, bool write)
{
	const struct load_options *options = &v->load->options;
	struct client_blk_request request = {
		.type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.sector = block * (options->block_size / CLIENT_SECTOR),
		.segments = &v->segments[slot],
		.segment_count = 1,
		.tag = slot,
	};

	v->blocks[slot] = block;
	v->segments[slot].device_writes = !write;
	if (write)
		fill_pattern(v, slot);
	return client_blk_submit(&v->blks[slot / options->depth], &request);
}

/* Writes, or reads and compares, the whole disk; each queue at its depth. */
static int
verify_pass(struct verify *v, uint64_t blocks, bool write)
{
	const struct load_options *options = &v->load->options;
	unsigned int slots = options->queues * options->depth;
	struct client_blk_completion completion;
	uint64_t issued = 0, done = 0;
	uint64_t deadline = now_ns() + LOAD_STALL_SECONDS * 1000000000ULL;
	unsigned int i;
	int rc = 0;

	while (issued < slots && issued < blocks && rc == 0) {
		rc = verify_submit(v, issued, issued, write);
		issued++;
	}
	for (i = 0; done < blocks && rc >= 0; i = (i + 1) % options->queues) {
		rc = client_blk_reap(&v->blks[i], &completion);
		if (rc == 0 && now_ns() > deadline)
			return -ETIMEDOUT;
		if (rc <= 0)
			continue;
		deadline = now_ns() + LOAD_STALL_SECONDS * 1000000000ULL;
		done++;
		if (completion.status != VIRTIO_BLK_S_OK)
			v->wrong++;
		else if (!write)
			compare_pattern(v, completion.tag);
		if (issued < blocks)
			rc = verify_submit(v, completion.tag, issued++, write);
	}
	return rc < 0 ? rc : 0;
}

int
probe_verify(struct load *load, bool json)
{
	const struct load_options *options = &load->options;
	unsigned int slots = options->queues * options->depth;
	uint64_t blocks = load->device.config.capacity / (options->block_size / CLIENT_SECTOR);
	struct verify v = {.load = load, .seed = now_ns()};
	unsigned int i;
	int rc = 0;

	v.blks = calloc(options->queues, sizeof(*v.blks));
	v.segments = calloc(slots, sizeof(*v.segments));
	v.blocks = calloc(slots, sizeof(*v.blocks));
	if (!v.blks || !v.segments || !v.blocks)
		rc = -ENOMEM;
	for (i = 0; i < options->queues && rc == 0; i++)
		rc = client_blk_create(&v.blks[i], &load->device.rings[i], 0, 0, false);
	for (i = 0; i < slots && rc == 0; i++) {
		v.segments[i].len = options->block_size;
		rc = client_memory_alloc(&load->device.memory, options->block_size, 4096,
					 &v.segments[i].gpa);
	}
	if (rc == 0)
		rc = verify_pass(&v, blocks, true);
	if (rc == 0)
		rc = verify_pass(&v, blocks, false);
	if (rc == 0)
		printf(json ? "{\"blocks\": %lu, \"wrong\": %lu}\n"
			    : "verified %lu blocks, %lu wrong\n",
		       blocks, v.wrong);
	for (i = 0; v.blks && i < options->queues; i++)
		client_blk_destroy(&v.blks[i]);
	free(v.blks);
	free(v.segments);
	free(v.blocks);
	return rc == 0 && v.wrong > 0 ? -EIO : rc;
}
