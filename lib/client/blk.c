/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-blk requests on one ring (virtio 1.2 §5.2.6). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define HEADER_SIZE ((uint32_t)sizeof(struct virtio_blk_outhdr))
#define NO_STATUS   0xff

/* Header and status share a slot, as they share a cache line in Linux's struct virtblk_req. */
#define SLOT_SIZE 64

/* Data segments of one request, with room for header and status. */
#define MAX_SEGMENTS 1024

int
client_blk_create(struct client_blk *blk, struct client_ring *ring, uint32_t bounce_size,
		  uint32_t segment_size, bool indirect)
{
	int rc;

	memset(blk, 0, sizeof(*blk));
	blk->ring = ring;
	blk->bounce_size = bounce_size;
	blk->segment_size = segment_size > 0 ? segment_size : bounce_size;
	blk->indirect = indirect;
	blk->timeout_ms = 5000;
	rc = slots_create(&blk->slots, ring, SLOT_SIZE);
	if (rc == 0 && bounce_size > 0)
		rc = client_memory_alloc(ring->memory, bounce_size, 4096, &blk->bounce_gpa);
	if (rc < 0)
		client_blk_destroy(blk);
	return rc;
}

void
client_blk_destroy(struct client_blk *blk)
{
	free(blk->slots);
	blk->slots = NULL;
}

int
client_blk_prepare(struct client_blk *blk, const struct client_blk_request *request)
{
	const struct virtio_blk_outhdr header = {.type = request->type, .sector = request->sector};
	struct client_slot *slot = slots_find(blk->slots, blk->ring);
	struct client_segment segments[MAX_SEGMENTS + 2];
	unsigned int count = request->segment_count;
	int rc;

	if (count > MAX_SEGMENTS)
		return -EINVAL;
	if (!slot)
		return -ENOSPC;
	memcpy(slot->memory, &header, HEADER_SIZE);
	slot->memory[HEADER_SIZE] = NO_STATUS;
	segments[0] = (struct client_segment){slot->gpa, HEADER_SIZE, false};
	if (count > 0)
		memcpy(&segments[1], request->segments, count * sizeof(segments[0]));
	segments[count + 1] = (struct client_segment){slot->gpa + HEADER_SIZE, 1, true};
	rc = client_ring_add(blk->ring, segments, count + 2, blk->indirect, slot - blk->slots);
	if (rc < 0)
		return rc;
	slot->tag = request->tag;
	slot->busy = true;
	return 0;
}

int
client_blk_submit(struct client_blk *blk, const struct client_blk_request *request)
{
	int rc = client_blk_prepare(blk, request);

	return rc < 0 ? rc : ring_submit(blk->ring);
}

int
client_blk_reap(struct client_blk *blk, struct client_blk_completion *completion)
{
	struct client_slot *slot;
	int rc = slots_reap(blk->slots, blk->ring, &slot, &completion->used_len);

	if (rc <= 0)
		return rc;
	completion->tag = slot->tag;
	completion->status = ((const volatile uint8_t *)slot->memory)[HEADER_SIZE];
	return 1;
}

int
client_blk_wait(struct client_blk *blk, struct client_blk_completion *completion, int timeout_ms)
{
	int rc;

	rc = client_ring_wait(blk->ring, timeout_ms);
	if (rc < 0)
		return rc;
	rc = client_blk_reap(blk, completion);
	/* 0: the device took its used index back. */
	return rc > 0 ? 0 : rc < 0 ? rc : -EPROTO;
}

int
client_blk_execute(struct client_blk *blk, const struct client_blk_request *request,
		   struct client_blk_completion *completion)
{
	struct client_blk_completion own;
	int rc;

	if (blk->ring->outstanding > 0)
		return -EBUSY;
	rc = client_blk_submit(blk, request);
	if (rc < 0)
		return rc;
	rc = client_blk_wait(blk, &own, blk->timeout_ms);
	if (rc < 0)
		return rc;
	if (completion)
		*completion = own;
	return own.status;
}

/* A request whose data is in the bounce buffer. */
static int
execute_bounced(struct client_blk *blk, uint32_t type, uint64_t sector, uint32_t size,
		bool device_writes, struct client_blk_completion *completion)
{
	struct client_segment segments[MAX_SEGMENTS];
	struct client_blk_request request = {
		.type = type,
		.sector = sector,
		.segments = segments,
	};
	uint32_t done = 0;
	uint32_t n;

	if (size > blk->bounce_size)
		return -EINVAL;
	while (done < size) {
		if (request.segment_count == MAX_SEGMENTS)
			return -EINVAL;
		n = size - done < blk->segment_size ? size - done : blk->segment_size;
		segments[request.segment_count++] =
			(struct client_segment){blk->bounce_gpa + done, n, device_writes};
		done += n;
	}
	return client_blk_execute(blk, &request, completion);
}

int
client_blk_read(struct client_blk *blk, uint64_t sector, void *data, uint32_t size)
{
	struct client_blk_completion completion;
	int status;

	status = execute_bounced(blk, VIRTIO_BLK_T_IN, sector, size, true, &completion);
	if (status != VIRTIO_BLK_S_OK)
		return status;
	if (completion.used_len != size + 1)
		return -EPROTO;
	client_memory_read(blk->ring->memory, blk->bounce_gpa, data, size);
	return status;
}

int
client_blk_write(struct client_blk *blk, uint64_t sector, const void *data, uint32_t size)
{
	if (size > blk->bounce_size)
		return -EINVAL;
	client_memory_write(blk->ring->memory, blk->bounce_gpa, data, size);
	return execute_bounced(blk, VIRTIO_BLK_T_OUT, sector, size, false, NULL);
}

int
client_blk_flush(struct client_blk *blk)
{
	struct client_blk_request request = {.type = VIRTIO_BLK_T_FLUSH};

	return client_blk_execute(blk, &request, NULL);
}

int
client_blk_get_id(struct client_blk *blk, char id[VIRTIO_BLK_ID_BYTES + 1])
{
	int status;

	memset(id, 0, VIRTIO_BLK_ID_BYTES + 1);
	status = execute_bounced(blk, VIRTIO_BLK_T_GET_ID, 0, VIRTIO_BLK_ID_BYTES, true, NULL);
	if (status == VIRTIO_BLK_S_OK)
		client_memory_read(blk->ring->memory, blk->bounce_gpa, id, VIRTIO_BLK_ID_BYTES);
	return status;
}

static int
execute_range(struct client_blk *blk, uint32_t type, uint64_t sector, uint32_t sectors,
	      uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = {
		.sector = sector,
		.num_sectors = sectors,
		.flags = flags,
	};

	if (sizeof(range) > blk->bounce_size)
		return -EINVAL;
	client_memory_write(blk->ring->memory, blk->bounce_gpa, &range, sizeof(range));
	return execute_bounced(blk, type, 0, sizeof(range), false, NULL);
}

int
client_blk_discard(struct client_blk *blk, uint64_t sector, uint32_t sectors)
{
	return execute_range(blk, VIRTIO_BLK_T_DISCARD, sector, sectors, 0);
}

int
client_blk_write_zeroes(struct client_blk *blk, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	return execute_range(blk, VIRTIO_BLK_T_WRITE_ZEROES, sector, sectors, flags);
}
