/* SPDX-License-Identifier: BSD-3-Clause */
/* The device and the requests, built once. */
#include "load.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT        64 /* of requests and tables: a cache line */
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

static uint32_t
request_size(const struct load *load)
{
	return load->options.scsi ? sizeof(struct scsi_request) : ALIGNMENT;
}

int
load_connect(struct load *load)
{
	const struct load_options *options = &load->options;
	uint64_t slot = request_size(load) + ALIGNMENT + 4096 +
			((options->block_size + 4095ULL) & ~4095ULL);
	/* lib/client has room for a request of its own for each entry, too. */
	uint64_t ring = (options->scsi ? 1088ULL : 64ULL) * ring_size(load) + 65536;
	unsigned int queues = options->queues + (options->scsi ? CLIENT_SCSI_REQUESTS : 0);
	struct client_region_layout layout = {
		.gpa = MEMORY_GPA,
		.user_addr = MEMORY_USER_ADDR,
		.size = (queues * (slot * options->depth + ring) + 4095) & ~4095ULL,
	};
	uint64_t wanted = (options->packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0) |
			  (options->event_idx ? FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0);
	uint64_t inflight = FEATURE(CLIENT_PROTOCOL_F_INFLIGHT_SHMFD);
	struct client_options client_options = {
		.queues = queues,
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

static int
alloc_data(struct load *load, uint64_t *data)
{
	struct client_memory *memory = &load->device.memory;
	int rc = client_memory_alloc(memory, load->options.block_size, 4096, data);

	if (rc == 0)
		memset(client_memory_ptr(memory, *data, load->options.block_size), 0x5a,
		       load->options.block_size);
	return rc;
}

/* NEXT as a chain needs it; in a packed ring's table it has no meaning and must be 0. */
static uint16_t
flags_of(const struct load *load, bool device_writes, bool is_last)
{
	bool next = !is_last && (!load->options.packed || !load->indirect);

	return (next ? VRING_DESC_F_NEXT : 0) | (device_writes ? VRING_DESC_F_WRITE : 0);
}

static void
build_blk(const struct load *load, struct blk_request *request, uint64_t gpa, uint64_t data,
	  struct client_segment chain[CHAIN_LENGTH])
{
	request->header.type = load->options.reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	chain[0] = (struct client_segment){gpa, sizeof(request->header), false};
	chain[1] = (struct client_segment){data, load->options.block_size, load->options.reads};
	chain[2] = (struct client_segment){gpa + offsetof(struct blk_request, status), 1, true};
}

/* virtio 1.2 §5.6.6.1: the response is before what is read, and behind what is written. */
static void
build_scsi(const struct load *load, struct scsi_request *request, uint64_t gpa, uint64_t data,
	   struct client_segment chain[CHAIN_LENGTH])
{
	const struct load_options *options = &load->options;
	unsigned int response = options->reads ? 1 : 2;

	load_scsi_fill(request, options->writes, options->block_size / CLIENT_SECTOR);
	chain[0] = (struct client_segment){gpa, sizeof(request->command), false};
	chain[response] = (struct client_segment){gpa + offsetof(struct scsi_request, response),
						  sizeof(request->response), true};
	chain[3 - response] = (struct client_segment){data, options->block_size, options->reads};
}

static void
put_split(struct load *load, struct client_ring *ring, struct slot *slot, uint16_t head,
	  const struct client_segment *chain, uint64_t table)
{
	struct vring_desc *desc = &ring->desc[head];
	uint16_t first = head;

	if (load->indirect) {
		*desc = (struct vring_desc){table, TABLE_SIZE, VRING_DESC_F_INDIRECT, 0};
		desc = client_memory_ptr(&load->device.memory, table, TABLE_SIZE);
		first = 0;
	}
	for (uint16_t i = 0; i < CHAIN_LENGTH; i++)
		desc[i] = (struct vring_desc){
			chain[i].gpa, chain[i].len,
			flags_of(load, chain[i].device_writes, i == CHAIN_LENGTH - 1),
			i < CHAIN_LENGTH - 1 ? first + i + 1 : 0};
	slot->data_flags = &desc[1].flags;
}

static void
put_packed(struct load *load, struct slot *slot, uint16_t id, const struct client_segment *chain,
	   uint64_t table)
{
	struct vring_packed_desc *desc = (struct vring_packed_desc *)slot->chain;

	if (load->indirect) {
		*desc = (struct vring_packed_desc){table, TABLE_SIZE, id, VRING_DESC_F_INDIRECT};
		desc = client_memory_ptr(&load->device.memory, table, TABLE_SIZE);
	}
	for (unsigned int i = 0; i < CHAIN_LENGTH; i++)
		desc[i] = (struct vring_packed_desc){
			chain[i].gpa, chain[i].len, id,
			flags_of(load, chain[i].device_writes, i == CHAIN_LENGTH - 1)};
	slot->data_flags = &desc[1].flags;
}

static int
prepare_slot(struct load *load, struct client_ring *ring, struct queue *q, unsigned int index)
{
	struct client_memory *memory = &load->device.memory;
	uint16_t id = load->options.packed ? index : index * q->descriptors;
	struct client_segment chain[CHAIN_LENGTH];
	struct slot *slot = &q->slots[id];
	uint64_t request, data, table = 0;
	int rc;

	rc = client_memory_alloc(memory, request_size(load), ALIGNMENT, &request);
	if (rc == 0)
		rc = alloc_data(load, &data);
	if (rc == 0 && load->indirect)
		rc = client_memory_alloc(memory, TABLE_SIZE, ALIGNMENT, &table);
	if (rc < 0)
		return rc;
	slot->request = client_memory_ptr(memory, request, request_size(load));
	if (q->scsi)
		build_scsi(load, slot->request, request, data, chain);
	else
		build_blk(load, slot->request, request, data, chain);
	slot->chain = &q->chains[index * q->descriptors];
	if (load->options.packed)
		put_packed(load, slot, id, chain, table);
	else
		put_split(load, ring, slot, id, chain, table);
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
	/* After the commands of the beginning, which do not reach a ring's end. */
	q->avail_index = ring->avail_index;
	q->used_index = ring->used_index;
}

static int
set_range(struct queue *q, const struct load *load, unsigned int index)
{
	const struct load_options *options = &load->options;

	q->scsi = options->scsi;
	q->random = options->random;
	q->mixed = options->reads && options->writes;
	q->sectors_per_block = options->block_size / CLIENT_SECTOR;
	q->blocks = load->sectors / q->sectors_per_block;
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
	const struct load_options *options = &load->options;
	unsigned int first = options->scsi ? CLIENT_SCSI_REQUESTS : 0;
	struct client_ring *ring = &load->device.rings[first + index];
	struct queue *q = &load->queues[index];
	unsigned int i;
	int rc;

	take_ring(q, ring);
	rc = set_range(q, load, index);
	if (rc < 0)
		return rc;
	q->descriptors = load->indirect ? 1 : CHAIN_LENGTH;
	q->data_flags[0] = flags_of(load, true, false);
	q->data_flags[1] = flags_of(load, false, false);
	q->slots = calloc(ring->size, sizeof(*q->slots));
	q->chains = calloc(options->depth * q->descriptors, sizeof(*q->chains));
	if (!q->slots || !q->chains)
		return -ENOMEM;
	client_ring_suppress_calls(ring, options->poll);
	for (i = 0; i < options->depth && rc == 0; i++)
		rc = prepare_slot(load, ring, q, i);
	return rc;
}
