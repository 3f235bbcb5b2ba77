/* SPDX-License-Identifier: BSD-3-Clause */
#include "queue.h"

#include <string.h>

#include "dma.h"
#include "transport.h"

/* Doorbell buffers are one page, whose size is 4 KiB at least (NVMe 1.4 §5.7). */
#define SHADOW_BYTES 4096u

static uint64_t
round_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

int
nvme_queue_alloc(struct nvme_queue *queue, struct nvme_transport *transport, uint16_t id,
		 uint32_t entries, uint32_t page_size, struct errmsg *err)
{
	const uint64_t sq_bytes = round_up(entries * sizeof(struct nvme_sqe), page_size);
	const uint64_t cq_bytes = round_up(entries * sizeof(struct nvme_cqe), page_size);
	/* Memory is aligned to pages of 4 KiB, those of the controller may be larger. */
	const size_t size = sq_bytes + cq_bytes + page_size - DMA_PAGE_SIZE;
	uint64_t iova, skip;
	uint8_t *memory = transport_dma_alloc(transport, size, &iova, err);

	if (memory == NULL)
		return -ENOMEM;
	skip = round_up(iova, page_size) - iova;
	*queue = (struct nvme_queue){
		.sqes = (struct nvme_sqe *)(memory + skip),
		.cqes = (volatile struct nvme_cqe *)(memory + skip + sq_bytes),
		.entries = entries,
		.transport = transport,
		.sq_iova = iova + skip,
		.cq_iova = iova + skip + sq_bytes,
		.id = id,
		.memory = memory,
		.memory_size = size,
	};
	return 0;
}

void
nvme_queue_free(struct nvme_queue *queue)
{
	if (queue->memory != NULL)
		transport_dma_free(queue->transport, queue->memory, queue->memory_size);
	memset(queue, 0, sizeof(*queue));
}

/* offset: bytes from the first doorbell on, in the registers and in the buffers alike. */
static struct nvme_doorbell
doorbell_at(const struct nvme_queue *queue, uint64_t offset, uint32_t *shadows, uint32_t *events)
{
	struct nvme_doorbell doorbell = {.reg = queue->transport->doorbells + offset / 4};

	if (shadows != NULL && offset + sizeof(uint32_t) <= SHADOW_BYTES) {
		doorbell.shadow = shadows + offset / 4;
		doorbell.event = events + offset / 4;
		*doorbell.shadow = 0;
		*doorbell.event = 0;
	}
	return doorbell;
}

int
nvme_queue_reset(struct nvme_queue *queue, uint32_t stride, uint32_t *shadows, uint32_t *events)
{
	const uint64_t distance = 4ull << stride;
	const uint64_t sq_offset = 2 * queue->id * distance;

	if (sq_offset + distance + sizeof(uint32_t) > queue->transport->doorbells_size)
		return -ENODEV;
	queue->sq_doorbell = doorbell_at(queue, sq_offset, shadows, events);
	queue->cq_doorbell = doorbell_at(queue, sq_offset + distance, shadows, events);
	memset((void *)queue->cqes, 0, queue->entries * sizeof(queue->cqes[0]));
	queue->sq_tail = 0;
	queue->sq_rung = 0;
	queue->cq_head = 0;
	queue->cq_rung = 0;
	queue->in_flight = 0;
	queue->phase = true;
	return 0;
}

/*
 * Whether value, coming from old, has passed event: all three of 16 bits, as the device counts
 * (NVMe 1.4 §7.13; Linux' nvme_dbbuf_need_event()).
 */
static bool
has_passed(uint32_t event, uint32_t value, uint32_t old)
{
	return (uint16_t)(value - event - 1) < (uint16_t)(value - old);
}

static void
set_doorbell(struct nvme_queue *queue, const struct nvme_doorbell *doorbell, uint32_t value,
	     uint32_t old)
{
	if (doorbell->shadow != NULL) {
		/*
		 * The exchange is a full barrier: the device either sees the new value when it
		 * looks for the last time before it waits, or the event that it has set before that
		 * look is seen here.
		 */
		__atomic_exchange_n(doorbell->shadow, value, __ATOMIC_SEQ_CST);
		if (!has_passed(__atomic_load_n(doorbell->event, __ATOMIC_SEQ_CST), value, old))
			return;
	}
	/*
	 * Release: entries are in memory before the device hears of them. On x86 that is enough for
	 * registers, too: stores to uncached memory do not pass others.
	 */
	__atomic_store_n(doorbell->reg, value, __ATOMIC_RELEASE);
	queue->doorbells++;
}

void
nvme_queue_ring(struct nvme_queue *queue)
{
	if (queue->sq_tail == queue->sq_rung)
		return;
	set_doorbell(queue, &queue->sq_doorbell, queue->sq_tail, queue->sq_rung);
	queue->sq_rung = queue->sq_tail;
}

void
nvme_queue_release(struct nvme_queue *queue)
{
	if (queue->cq_head == queue->cq_rung)
		return;
	set_doorbell(queue, &queue->cq_doorbell, queue->cq_head, queue->cq_rung);
	queue->cq_rung = queue->cq_head;
}
