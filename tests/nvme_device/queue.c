/* SPDX-License-Identifier: BSD-3-Clause */
/* Submission and completion queues, their doorbells, and interrupts. */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

/* NVMe 1.4 §5.21.1.8: the aggregation time's unit */
#define COALESCING_UNIT_NS 100000ULL

/* ---- doorbells ---- */

uint32_t
doorbell_offset(const struct device *dev, uint16_t queue, bool completion)
{
	return (2U * queue + completion) * (4U << dev->settings.stride);
}

/* Where the value of a doorbell is: in BAR 0, or in the client's buffer. */
static volatile uint32_t *
doorbell_at(struct device *dev, uint16_t queue, bool completion, volatile uint32_t **event_index)
{
	struct controller *controller = &dev->controller;
	uint32_t offset = doorbell_offset(dev, queue, completion);
	static uint32_t nowhere;

	*event_index = NULL;
	if (queue != 0 && controller->shadow) {
		*event_index = (volatile uint32_t *)(controller->event_indexes + offset);
		return (volatile uint32_t *)(controller->shadow_doorbells + offset);
	}
	/* An absurd stride leads out of the BAR: nothing is ever rung there. */
	if (NVME_DOORBELLS + offset + 4 > BAR0_SIZE)
		return &nowhere;
	return (volatile uint32_t *)(dev->bar0 + NVME_DOORBELLS + offset);
}

void
queues_place_doorbells(struct device *dev)
{
	for (uint16_t i = 0; i < MAX_QUEUES; i++) {
		struct sq *sq = &dev->controller.sqs[i];
		struct cq *cq = &dev->controller.cqs[i];

		if (sq->exists)
			sq->doorbell = doorbell_at(dev, i, false, &sq->event_index);
		if (cq->exists)
			cq->doorbell = doorbell_at(dev, i, true, &cq->event_index);
	}
}

/*
 * A doorbell that is behind every value that it may pass: the client need not write the register,
 * since the buffer is polled anyway (NVMe 1.4 §7.13).
 */
static void
set_event_index(volatile uint32_t *event_index, uint32_t value)
{
	if (event_index != NULL)
		*event_index = (value - 1) & 0xffff;
}

static void
wrong_doorbell(struct device *dev, const char *queue, uint16_t id, uint32_t value,
	       const char *problem)
{
	violation(dev, V_DOORBELL, "%s %u: doorbell set to %u: %s", queue, id, value, problem);
	event_raise(dev, NVME_AER_ERROR, NVME_AER_ERROR_INVALID_DB_VAL, NVME_LOG_LID_ERROR);
}

static uint32_t
distance(uint32_t from, uint32_t to, uint32_t size)
{
	return to >= from ? to - from : to + size - from;
}

static void
read_tail(struct device *dev, struct sq *sq)
{
	uint32_t value = __atomic_load_n(sq->doorbell, __ATOMIC_ACQUIRE);

	if (value == sq->tail_seen)
		return;
	sq->tail_seen = value;
	if (value >= sq->size) {
		wrong_doorbell(dev, "SQ", sq->id, value, "behind the end of the queue");
		return;
	}
	if (distance(sq->tail, value, sq->size) + distance(sq->told, sq->tail, sq->size) >=
	    sq->size) {
		wrong_doorbell(dev, "SQ", sq->id, value, "past the head of the queue");
		return;
	}
	sq->tail = value;
	set_event_index(sq->event_index, value);
}

static void
read_head(struct device *dev, struct cq *cq)
{
	uint32_t value = __atomic_load_n(cq->doorbell, __ATOMIC_ACQUIRE);

	if (value == cq->head_seen)
		return;
	cq->head_seen = value;
	if (value >= cq->size) {
		wrong_doorbell(dev, "CQ", cq->id, value, "behind the end of the queue");
		return;
	}
	if (distance(cq->head, value, cq->size) > distance(cq->head, cq->tail, cq->size)) {
		wrong_doorbell(dev, "CQ", cq->id, value, "past what was completed");
		return;
	}
	cq->head = value;
	set_event_index(cq->event_index, value);
}

static void
check_doorbell(struct device *dev, uint16_t queue, bool completion, bool exists)
{
	uint32_t offset = NVME_DOORBELLS + doorbell_offset(dev, queue, completion);
	volatile uint32_t *doorbell = (volatile uint32_t *)(dev->bar0 + offset);

	if (exists || offset + 4 > BAR0_SIZE || *doorbell == 0)
		return;
	violation(dev, V_NO_QUEUE, "the doorbell of %s %u, which does not exist, was set to %u",
		  completion ? "CQ" : "SQ", queue, *doorbell);
	event_raise(dev, NVME_AER_ERROR, NVME_AER_ERROR_INVALID_DB_REG, NVME_LOG_LID_ERROR);
	*doorbell = 0;
}

void
queues_check_doorbells(struct device *dev)
{
	if (dev->removed || dev->client.socket < 0)
		return;
	for (uint16_t i = 0; i < MAX_QUEUES; i++) {
		struct cq *cq = &dev->controller.cqs[i];

		check_doorbell(dev, i, false, dev->controller.sqs[i].exists);
		check_doorbell(dev, i, true, cq->exists);
		if (cq->exists)
			read_head(dev, cq);
	}
}

/* ---- interrupts ---- */

void
interrupt(struct device *dev, uint16_t vector)
{
	static const uint64_t one = 1;

	if (vector >= MAX_VECTORS || dev->client.vectors[vector] < 0)
		return;
	dev->statistics.interrupts++;
	/* One that is full has been signalled. */
	(void)!write(dev->client.vectors[vector], &one, sizeof(one));
}

static bool
may_wait(const struct device *dev, const struct cq *cq)
{
	const struct features *features = &dev->controller.features;
	uint32_t coalescing = features->values[NVME_FEAT_FID_IRQ_COALESCE];

	if (cq->id == 0 || NVME_GET(coalescing, FEAT_IRQC_TIME) == 0 ||
	    (features->coalescing_off[cq->vector / 32] >> cq->vector % 32 & 1) != 0)
		return false;
	return cq->unsignalled <= NVME_GET(coalescing, FEAT_IRQC_THR) &&
	       dev->now - cq->unsignalled_since <
		       NVME_GET(coalescing, FEAT_IRQC_TIME) * COALESCING_UNIT_NS;
}

void
queue_signal(struct device *dev, struct cq *cq)
{
	if (!cq->exists || !cq->interrupts || cq->unsignalled == 0 || may_wait(dev, cq))
		return;
	cq->unsignalled = 0;
	interrupt(dev, cq->vector);
}

/* ---- completions ---- */

bool
cq_has_room(struct device *dev, struct cq *cq, uint32_t entries)
{
	read_head(dev, cq);
	return distance(cq->head, cq->tail, cq->size) + cq->reserved + entries < cq->size;
}

static void
put_entry(struct cq *cq, const struct nvme_cqe *entry)
{
	struct nvme_cqe *slot = &cq->entries[cq->tail];
	uint64_t halves[2];

	memcpy(halves, entry, sizeof(halves));
	((volatile uint64_t *)slot)[0] = halves[0];
	/* The half with the phase last: with it the entry is valid. */
	atomic_store_explicit((_Atomic uint64_t *)slot + 1, halves[1], memory_order_release);
	if (++cq->tail == cq->size) {
		cq->tail = 0;
		cq->phase = !cq->phase;
	}
	cq->unsignalled++;
}

static void
post(struct device *dev, struct sq *sq, uint16_t cid, uint16_t status, uint32_t dw0)
{
	struct cq *cq = sq->cq;
	struct nvme_cqe entry = {
		.dw0 = dw0,
		.sqhd = (uint16_t)sq->head,
		.sqid = sq->id,
		.cid = cid,
		.status = (uint16_t)(status << 1 | cq->phase),
	};

	sq->told = sq->head;
	if (cq->unsignalled == 0)
		cq->unsignalled_since = dev->now;
	if (__builtin_expect(status != 0, 0))
		log_error(dev, sq, cid, status);
	if (__builtin_expect(dev->faults.wrong_phase, 0))
		entry.status ^= 1;
	if (__builtin_expect(dev->faults.wrong_cid, 0))
		entry.cid = dev->faults.cid;
	put_entry(cq, &entry);
}

void
queue_complete(struct device *dev, struct sq *sq, uint16_t cid, uint16_t status, uint32_t dw0)
{
	sq->in_flight[cid / 64] &= ~(1ULL << cid % 64);
	sq->cq->reserved--;
	post(dev, sq, cid, status, dw0);
}

/* ---- submissions ---- */

/* Whether cid is free; it is in flight now. */
static bool
mark_in_flight(struct sq *sq, uint16_t cid)
{
	uint64_t bit = 1ULL << cid % 64;
	bool is_free = (sq->in_flight[cid / 64] & bit) == 0;

	sq->in_flight[cid / 64] |= bit;
	return is_free;
}

static void
refuse_cid(struct device *dev, struct sq *sq, uint16_t cid)
{
	violation(dev, V_CID, "SQ %u: command identifier 0x%x is in flight already", sq->id, cid);
	sq->cq->reserved--;
	post(dev, sq, cid, NVME_SC_CMDID_CONFLICT, 0);
}

/* How many commands can be taken now. */
static uint32_t
fetchable(struct device *dev, struct sq *sq)
{
	struct cq *cq = sq->cq;
	uint32_t count = distance(sq->head, sq->tail, sq->size);
	uint32_t available = count, room, last;

	read_head(dev, cq);
	room = cq->size - 1 - distance(cq->head, cq->tail, cq->size) - cq->reserved;
	if (count > room)
		count = room;
	if (count > BATCH)
		count = BATCH;
	if (count == 0 || count == available)
		return count;
	/* Its second half comes with it. */
	last = (sq->head + count - 1) % sq->size;
	return count - (NVME_SQE_FUSED(sq->entries[last].flags) == NVME_SQE_FUSED_FIRST);
}

bool
queue_poll(struct device *dev, struct sq *sq)
{
	static struct nvme_sqe batch[BATCH];
	struct cq *cq = sq->cq;
	uint32_t count, fresh = 0;

	read_tail(dev, sq);
	if (sq->head == sq->tail)
		return false;
	count = fetchable(dev, sq);
	cq->reserved += count;
	for (uint32_t i = 0; i < count; i++) {
		/*
		 * All of them are in flight together: none is completed before all are looked at.
		 */
		batch[fresh] = *(const struct nvme_sqe *)&sq->entries[sq->head];
		sq->head = sq->head + 1 == sq->size ? 0 : sq->head + 1;
		if (mark_in_flight(sq, batch[fresh].cid))
			fresh++;
		else
			refuse_cid(dev, sq, batch[fresh].cid);
	}
	commands_run(dev, sq, batch, fresh);
	queue_signal(dev, cq);
	return count > 0;
}

/* ---- making and deleting ---- */

static void
clear_doorbell(struct device *dev, uint16_t id, bool completion)
{
	uint32_t offset = NVME_DOORBELLS + doorbell_offset(dev, id, completion);

	if (offset + 4 <= BAR0_SIZE)
		*(volatile uint32_t *)(dev->bar0 + offset) = 0;
}

bool
cq_start(struct device *dev, uint16_t id, uint64_t base, uint32_t size, bool interrupts,
	 uint16_t vector)
{
	struct cq *cq = &dev->controller.cqs[id];
	void *entries = dma_need(dev, base, size * sizeof(struct nvme_cqe),
				 VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE, "CQ");

	if (entries == NULL)
		return false;
	*cq = (struct cq){.id = id,
			  .exists = true,
			  .interrupts = interrupts,
			  .phase = true,
			  .vector = vector,
			  .size = size,
			  .iova = base,
			  .entries = entries};
	clear_doorbell(dev, id, true);
	cq->doorbell = doorbell_at(dev, id, true, &cq->event_index);
	cq->head_seen = *cq->doorbell;
	set_event_index(cq->event_index, 0);
	return true;
}

bool
sq_start(struct device *dev, uint16_t id, uint64_t base, uint32_t size, struct cq *cq)
{
	struct controller *controller = &dev->controller;
	struct sq *sq = &controller->sqs[id];
	const void *entries =
		dma_need(dev, base, size * sizeof(struct nvme_sqe), VFIO_USER_DMA_READABLE, "SQ");

	if (entries == NULL)
		return false;
	memset(sq, 0, sizeof(*sq));
	sq->id = id;
	sq->exists = true;
	sq->size = size;
	sq->iova = base;
	sq->cq = cq;
	sq->entries = entries;
	clear_doorbell(dev, id, false);
	sq->doorbell = doorbell_at(dev, id, false, &sq->event_index);
	sq->tail_seen = *sq->doorbell;
	set_event_index(sq->event_index, 0);
	cq->users++;
	controller->active[controller->active_count++] = sq;
	return true;
}

void
sq_stop(struct device *dev, struct sq *sq)
{
	struct controller *controller = &dev->controller;
	uint32_t i = 0;

	while (controller->active[i] != sq)
		i++;
	controller->active[i] = controller->active[--controller->active_count];
	sq->cq->users--;
	/* Commands that will never be completed need no entries any more. */
	for (i = 0; sq->id != 0 && i < 65536 / 64; i++)
		sq->cq->reserved -= (uint32_t)__builtin_popcountll(sq->in_flight[i]);
	sq->exists = false;
	clear_doorbell(dev, sq->id, false);
}

void
cq_stop(struct device *dev, struct cq *cq)
{
	cq->exists = false;
	clear_doorbell(dev, cq->id, true);
}

void
queues_stop(struct device *dev)
{
	struct controller *controller = &dev->controller;

	commands_drop_delayed(dev, NULL, false);
	while (controller->active_count > 0)
		sq_stop(dev, controller->active[0]);
	for (uint32_t i = 0; i < MAX_QUEUES; i++) {
		if (controller->cqs[i].exists)
			cq_stop(dev, &controller->cqs[i]);
	}
}

static bool
is_in(uint64_t address, uint64_t iova, uint64_t size)
{
	return address - iova < size;
}

void
queues_check_unmap(struct device *dev, uint64_t iova, uint64_t size)
{
	struct controller *controller = &dev->controller;
	bool used = controller->shadow && (is_in(controller->shadow_iova, iova, size) ||
					   is_in(controller->event_iova, iova, size));

	for (uint32_t i = 0; i < MAX_QUEUES; i++) {
		const struct sq *sq = &controller->sqs[i];
		const struct cq *cq = &controller->cqs[i];

		used |= sq->exists && is_in(sq->iova, iova, size);
		used |= cq->exists && is_in(cq->iova, iova, size);
	}
	if (!used)
		return;
	violation(dev, V_UNMAP,
		  "0x%llx + 0x%llx is unmapped, but a queue or doorbell buffer is there",
		  (unsigned long long)iova, (unsigned long long)size);
	controller_fatal(dev);
	queues_stop(dev);
}
