/* SPDX-License-Identifier: BSD-3-Clause */
/* The device and the requests, built once. */
#include "load.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_SIZE      ((uint32_t)sizeof(struct virtio_blk_outhdr))
#define SLOT_SIZE        64 /* header and status in one cache line, as in Linux */
#define CHAIN_LENGTH     3  /* header, data, status */
#define TABLE_SIZE       (CHAIN_LENGTH * 16u)
#define MEMORY_GPA       0x100000000ULL
#define MEMORY_USER_ADDR 0x7f0000000000ULL
#define FEATURE(bit)     (1ULL << (bit))

/* At least 128, as QEMU's default is. */
static uint16_t
ring_size(const struct load *load)
{
	unsigned int needed = load->options.depth * CHAIN_LENGTH;
	uint16_t size = 128;

	while (size < needed)
		size *= 2;
	return size;
}

int
load_connect(struct load *load)
{
	const struct load_options *options = &load->options;
	uint64_t slot = SLOT_SIZE * 2 + ((options->block_size + 4095ULL) & ~4095ULL) + 4096;
	uint64_t ring = 64ULL * ring_size(load) + 65536;
	struct client_region_layout layout = {
		.gpa = MEMORY_GPA,
		.user_addr = MEMORY_USER_ADDR,
		.size = (options->queues * (slot * options->depth + ring) + 4095) & ~4095ULL,
	};
	uint64_t wanted = (options->packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0) |
			  (options->event_idx ? FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0);
	uint64_t inflight = FEATURE(CLIENT_PROTOCOL_F_INFLIGHT_SHMFD);
	struct client_options client_options = {
		.queues = options->queues,
		.queue_size = ring_size(load),
		.indirect_max = 1, /* the tables are ours */
		.features = CLIENT_DEFAULT_FEATURES | wanted,
		.protocol_features = (CLIENT_DEFAULT_PROTOCOL_FEATURES & ~inflight) |
				     (options->inflight ? inflight : 0),
		.layout = &layout,
		.layout_count = 1,
	};
	int rc;

	if (!strcmp(options->indirect_mode, "on"))
		wanted |= FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
	rc = client_device_open(&load->device, options->socket, &client_options);
	if (rc < 0)
		return rc;
	load->indirect = (load->device.features & FEATURE(VIRTIO_RING_F_INDIRECT_DESC)) &&
			 strcmp(options->indirect_mode, "off");
	if ((load->device.features & wanted) == wanted &&
	    (!options->inflight || (load->device.protocol_features & inflight)))
		return 0;
	client_device_close(&load->device);
	return -ENOTSUP;
}

struct buffers {
	uint64_t header, data, table;
};

static int
alloc_buffers(struct load *load, struct buffers *buffers)
{
	struct client_memory *memory = &load->device.memory;
	int rc;

	rc = client_memory_alloc(memory, SLOT_SIZE, SLOT_SIZE, &buffers->header);
	if (rc == 0)
		rc = client_memory_alloc(memory, load->options.block_size, 4096, &buffers->data);
	if (rc == 0 && load->indirect)
		rc = client_memory_alloc(memory, TABLE_SIZE, SLOT_SIZE, &buffers->table);
	if (rc == 0)
		memset(client_memory_ptr(memory, buffers->data, load->options.block_size), 0x5a,
		       load->options.block_size);
	return rc;
}

/* NEXT as a chain needs it; in a packed ring's table it has no meaning and must be 0. */
static uint16_t
data_flags(const struct load *load, bool is_write)
{
	bool next = !load->options.packed || !load->indirect;

	return (next ? VRING_DESC_F_NEXT : 0) | (is_write ? 0 : VRING_DESC_F_WRITE);
}

static void
build_split(struct load *load, struct client_ring *ring, struct slot *slot, uint16_t head,
	    const struct buffers *buffers)
{
	struct vring_desc *desc = &ring->desc[head];
	uint16_t first = head;

	if (load->indirect) {
		*desc = (struct vring_desc){buffers->table, TABLE_SIZE, VRING_DESC_F_INDIRECT, 0};
		desc = client_memory_ptr(&load->device.memory, buffers->table, TABLE_SIZE);
		first = 0;
	}
	desc[0] = (struct vring_desc){buffers->header, HEADER_SIZE, VRING_DESC_F_NEXT, first + 1};
	desc[1] = (struct vring_desc){buffers->data, load->options.block_size,
				      data_flags(load, !load->options.reads), first + 2};
	desc[2] = (struct vring_desc){buffers->header + HEADER_SIZE, 1, VRING_DESC_F_WRITE, 0};
	slot->data_flags = &desc[1].flags;
}

static void
build_packed(struct load *load, struct slot *slot, uint16_t id, const struct buffers *buffers)
{
	struct vring_packed_desc *desc = (struct vring_packed_desc *)slot->chain;
	uint16_t next = data_flags(load, true);

	if (load->indirect) {
		*desc = (struct vring_packed_desc){buffers->table, TABLE_SIZE, id,
						   VRING_DESC_F_INDIRECT};
		desc = client_memory_ptr(&load->device.memory, buffers->table, TABLE_SIZE);
	}
	desc[0] = (struct vring_packed_desc){buffers->header, HEADER_SIZE, id, next};
	desc[1] = (struct vring_packed_desc){buffers->data, load->options.block_size, id,
					     data_flags(load, !load->options.reads)};
	desc[2] = (struct vring_packed_desc){buffers->header + HEADER_SIZE, 1, id,
					     VRING_DESC_F_WRITE};
	slot->data_flags = &desc[1].flags;
}

static int
prepare_slot(struct load *load, struct client_ring *ring, struct queue *q, unsigned int index)
{
	uint16_t id = load->options.packed ? index : index * q->descriptors;
	struct slot *slot = &q->slots[id];
	struct buffers buffers = {0};
	int rc;

	rc = alloc_buffers(load, &buffers);
	if (rc < 0)
		return rc;
	slot->chain = &q->chains[index * q->descriptors];
	if (load->options.packed)
		build_packed(load, slot, id, &buffers);
	else
		build_split(load, ring, slot, id, &buffers);
	slot->header = client_memory_ptr(&load->device.memory, buffers.header, SLOT_SIZE);
	slot->header->type = load->options.reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	return 0;
}

static void
take_ring(struct queue *q, const struct client_ring *ring)
{
	q->used = ring->used;
	q->avail = ring->avail;
	q->ring = (struct packed_words *)ring->packed;
	q->driver_event = ring->driver_event;
	q->device_event = ring->device_event;
	q->size = ring->size;
	q->event_idx = ring->event_idx;
	q->kick_fd = ring->kick_fd;
	q->call_fd = ring->call_fd;
	q->avail_bits = PACKED_AVAIL;
	q->used_bits = PACKED_AVAIL | PACKED_USED;
}

static int
set_range(struct queue *q, const struct load *load, unsigned int index)
{
	const struct load_options *options = &load->options;

	q->random = options->random;
	q->mixed = options->reads && options->writes;
	q->sectors_per_block = options->block_size / CLIENT_SECTOR;
	q->blocks = load->device.config.capacity / q->sectors_per_block;
	if (q->blocks > UINT32_MAX)
		q->blocks = UINT32_MAX;
	if (q->blocks < options->queues)
		return -ENOSPC;
	q->first_block = q->blocks * index / options->queues;
	q->last_block = q->blocks * (index + 1) / options->queues - 1;
	q->next_block = q->first_block;
	q->rng = 0x9e3779b97f4a7c15ULL * (index + 1);
	return 0;
}

int
load_prepare_queue(struct load *load, unsigned int index)
{
	struct client_ring *ring = &load->device.rings[index];
	const struct load_options *options = &load->options;
	struct queue *q = &load->queues[index];
	unsigned int i;
	int rc;

	take_ring(q, ring);
	rc = set_range(q, load, index);
	if (rc < 0)
		return rc;
	q->descriptors = load->indirect ? 1 : CHAIN_LENGTH;
	q->data_flags[0] = data_flags(load, false);
	q->data_flags[1] = data_flags(load, true);
	q->slots = calloc(ring->size, sizeof(*q->slots));
	q->chains = calloc(options->depth * q->descriptors, sizeof(*q->chains));
	if (!q->slots || !q->chains)
		return -ENOMEM;
	client_ring_suppress_calls(ring, options->poll);
	for (i = 0; i < options->depth && rc == 0; i++)
		rc = prepare_slot(load, ring, q, i);
	return rc;
}
