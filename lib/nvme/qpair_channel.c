/* SPDX-License-Identifier: BSD-3-Clause */
/* How queue pairs come and go: their memory, and whose they are. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "ctrlr.h"
#include "data.h"
#include "transport.h"

#define TIMEOUT_LOOK_US 100000u
#define BUFFER_BYTES    (1u << 20) /* of a queue pair, if that is enough for MIN_BUFFERS */
#define MIN_BUFFERS     2u         /* for a fused pair */

/* ---- memory; app thread ---- */

static void
size_buffers(struct nvme_qpair *qpair, uint64_t max_transfer)
{
	uint64_t size = max_transfer < NVME_DATA_MAX ? max_transfer : NVME_DATA_MAX;

	size = (size + DMA_PAGE_SIZE - 1) & ~(uint64_t)(DMA_PAGE_SIZE - 1);
	qpair->buffer_size = (uint32_t)size;
	for (qpair->buffer_count = MIN_BUFFERS; qpair->buffer_count < NVME_MAX_BUFFERS &&
						(qpair->buffer_count + 1) * size <= BUFFER_BYTES;)
		qpair->buffer_count++;
}

static int
alloc_memory(struct nvme_qpair *qpair, struct errmsg *err)
{
	const struct nvme_ctrlr *ctrlr = qpair->ctrlr;
	const uint32_t slots = ctrlr->queue_size - 1;

	size_buffers(qpair, ctrlr->info.max_transfer);
	qpair->memory_size =
		(size_t)slots * NVME_SLOT_PAGE + (size_t)qpair->buffer_count * qpair->buffer_size;
	qpair->slots = calloc(slots, sizeof(qpair->slots[0]));
	qpair->free_slots = calloc(slots, sizeof(qpair->free_slots[0]));
	if (qpair->slots == NULL || qpair->free_slots == NULL)
		return err_set(err, -ENOMEM, "no memory for a queue of %u requests", slots);
	qpair->memory =
		transport_dma_alloc(ctrlr->transport, qpair->memory_size, &qpair->memory_iova, err);
	if (qpair->memory == NULL)
		return -ENOMEM;
	qpair->buffers = qpair->memory + (size_t)slots * NVME_SLOT_PAGE;
	for (uint32_t i = 0; i < qpair->buffer_count; i++)
		qpair->free_buffers[i] = (uint8_t)i;
	qpair->free_buffer_count = qpair->buffer_count;
	qpair->slot_count = slots;
	/* So many bits that no identifier has them all: FFFFh stands for none (NVMe 1.4 §5.14). */
	qpair->cid_mask = (uint16_t)((2u << (31 - __builtin_clz(slots))) - 1);
	for (uint32_t i = 0; i < slots; i++)
		qpair->slots[i].cid = (uint16_t)i;
	return nvme_queue_alloc(&qpair->queue, ctrlr->transport, qpair->id, ctrlr->queue_size,
				ctrlr->page_size, err);
}

void
nvme_qpair_free(struct nvme_qpair *qpair)
{
	nvme_queue_free(&qpair->queue);
	transport_dma_free(qpair->ctrlr->transport, qpair->memory, qpair->memory_size);
	qpair->memory = NULL;
	free(qpair->slots);
	qpair->slots = NULL;
	free(qpair->free_slots);
	qpair->free_slots = NULL;
	qpair->slot_count = 0;
	qpair->created = false;
}

static int
create(struct nvme_qpair *qpair, struct errmsg *err)
{
	struct nvme_ctrlr *ctrlr = qpair->ctrlr;
	int rc;

	if (qpair->queue.memory == NULL) {
		rc = alloc_memory(qpair, err);
		if (rc != 0) {
			nvme_qpair_free(qpair);
			return rc;
		}
	}
	qpair->dma = ctrlr->dma;
	qpair->page_size = ctrlr->page_size;
	qpair->sgl_rules = ctrlr->sgl_rules;
	for (uint32_t i = 0; i < qpair->slot_count; i++)
		atomic_store(&qpair->slots[i].abort, NVME_ABORT_NONE);
	rc = nvme_queue_reset(&qpair->queue, ctrlr->stride, ctrlr->shadows, ctrlr->events);
	if (rc != 0)
		return err_set(err, rc, "the doorbells of queue %u cannot be mapped", qpair->id);
	return nvme_ctrlr_create_queues(qpair, err);
}

int
nvme_qpair_create(struct nvme_qpair *qpair, struct errmsg *err)
{
	int rc = create(qpair, err);

	qpair->created = rc == 0;
	qpair->refused = rc != 0;
	qpair->creations += rc == 0;
	return rc;
}

/* ---- threads ---- */

static int
register_pollers(struct nvme_qpair *qpair)
{
	static const struct poller_sleep_ops sleep_ops = {.arm = nvme_qpair_arm};
	int rc;

	qpair->poller = poller_register(nvme_qpair_poll, qpair, 0, "nvme_qpair");
	if (qpair->poller == NULL)
		return -errno;
	qpair->timeout_poller = poller_register(nvme_qpair_look_for_timeouts, qpair,
						TIMEOUT_LOOK_US, "nvme_timeouts");
	if (qpair->timeout_poller == NULL) {
		rc = -errno;
		poller_unregister(&qpair->poller);
		return rc;
	}
	poller_set_sleep_ops(qpair->poller, &sleep_ops);
	return 0;
}

static int
channel_create(void *dev, void *channel_ctx)
{
	struct nvme_channel *channel = channel_ctx;
	struct nvme_qpair *qpair = nvme_ctrlr_take_qpair(dev);
	int rc;

	if (qpair == NULL)
		return -errno;
	qpair->thread = thread_current();
	qpair->interrupt_fd = -1;
	qpair->attention = false;
	rc = register_pollers(qpair);
	if (rc != 0) {
		nvme_ctrlr_give_qpair(qpair);
		return rc;
	}
	channel->qpair = qpair;
	return 0;
}

static void
channel_destroy(void *dev, void *channel_ctx)
{
	struct nvme_qpair *qpair = ((struct nvme_channel *)channel_ctx)->qpair;

	(void)dev;
	assert(qpair->waiting.first == NULL && qpair->resting.first == NULL);
	nvme_qpair_stop(qpair);
	poller_unregister(&qpair->poller);
	poller_unregister(&qpair->timeout_poller);
	qpair->channel = NULL;
	qpair->thread = NULL;
	nvme_ctrlr_give_qpair(qpair);
}

int
nvme_qpair_register(struct nvme_ctrlr *ctrlr)
{
	return io_device_register(ctrlr, channel_create, channel_destroy,
				  sizeof(struct nvme_channel), ctrlr->name);
}

struct nvme_qpair *
nvme_qpair_get(struct nvme_ctrlr *ctrlr)
{
	struct io_channel *channel = io_channel_get(ctrlr);
	struct nvme_qpair *qpair;

	if (channel == NULL)
		return NULL;
	qpair = ((struct nvme_channel *)io_channel_ctx(channel))->qpair;
	/* Not earlier: only now is the channel one of those that are visited. */
	if (qpair->channel == NULL) {
		qpair->channel = channel;
		nvme_ctrlr_wants_qpair(qpair);
	}
	return qpair;
}

void
nvme_qpair_put(struct nvme_qpair *qpair)
{
	io_channel_put(qpair->channel);
}

void
nvme_qpair_get_stats(const struct nvme_qpair *qpair, struct nvme_qpair_stats *stats)
{
	*stats = (struct nvme_qpair_stats){
		.commands = qpair->commands,
		.doorbells = qpair->queue.doorbells,
		.copied = qpair->copied,
		.waited = qpair->waited,
	};
}
