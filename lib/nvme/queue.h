/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * queue: a submission queue and its completion queue in memory, with their doorbells (NVMe 1.4
 * §4.1). It knows entries, phase and wrap-around, and no requests. Private to lib/nvme.
 *
 * One thread at a time uses it. What the device writes is hostile: each completion is copied once.
 */
#ifndef VHOSTD_NVME_QUEUE_H
#define VHOSTD_NVME_QUEUE_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "nvme_spec.h"
#include "nvme_transport.h"

/* A doorbell, and its shadow (NVMe 1.4 §5.7, Doorbell Buffer Config), where there is one. */
struct nvme_doorbell {
	volatile uint32_t *reg;
	volatile uint32_t *shadow; /* NULL: none */
	volatile uint32_t *event;  /* the device wants to hear when the shadow passes this */
};

struct nvme_queue {
	/* set once by alloc */
	struct nvme_sqe *sqes;
	volatile struct nvme_cqe *cqes;
	/* set by reset */
	struct nvme_doorbell sq_doorbell, cq_doorbell;

	uint32_t entries; /* 2 … 65536, set once by alloc; one stays free */
	uint32_t sq_tail; /* where the next entry goes */
	uint32_t sq_rung; /* what the device was told of */
	uint32_t cq_head; /* the next completion */
	uint32_t cq_rung;
	/*
	 * Pushed and not completed, at most entries - 1. An entry that the device has not taken yet
	 * is one of them, so that neither ring can be overrun, wherever the device says it is.
	 */
	uint32_t in_flight;
	bool phase;         /* of the next completion */
	uint64_t doorbells; /* stores to registers */

	/* set once by alloc */
	struct nvme_transport *transport;
	uint64_t sq_iova, cq_iova;
	uint16_t id;
	void *memory; /* of both rings */
	size_t memory_size;
};

/*
 * [waits] or blocks, as transport_dma_alloc(). Both rings, contiguous for the device and aligned
 * to page_size (CC.MPS, a power of two). entries: 2 … 65536. 0, or -ENOMEM with the reason in err.
 */
int nvme_queue_alloc(struct nvme_queue *queue, struct nvme_transport *transport, uint16_t id,
		     uint32_t entries, uint32_t page_size, struct errmsg *err);
/*
 * [waits] or blocks. The device does not use them any more. One that was never allocated (all
 * zeroes) is fine.
 */
void nvme_queue_free(struct nvme_queue *queue);
/*
 * Before it is made on the device, for the first time or after a reset: empty, phase 1.
 * stride: CAP.DSTRD. shadows, events: the pages of DBBUF, or NULL. -ENODEV: its doorbells are
 * beyond what is mapped.
 */
int nvme_queue_reset(struct nvme_queue *queue, uint32_t stride, uint32_t *shadows,
		     uint32_t *events);

/* How many entries can still be pushed. */
static inline uint32_t
nvme_queue_space(const struct nvme_queue *queue)
{
	return queue->entries - 1 - queue->in_flight;
}

/* The next entry, to be filled in whole; there is space. It counts when it is pushed. */
static inline struct nvme_sqe *
nvme_queue_next(const struct nvme_queue *queue)
{
	return &queue->sqes[queue->sq_tail];
}

static inline void
nvme_queue_push(struct nvme_queue *queue)
{
	queue->in_flight++;
	if (++queue->sq_tail == queue->entries)
		queue->sq_tail = 0;
}

/* Tells the device of the entries since the last time; nothing when there are none. */
void nvme_queue_ring(struct nvme_queue *queue);

/*
 * The half of the next completion with the phase, in one piece: what was written before it is seen
 * by whoever has seen it.
 */
static inline uint64_t
nvme_queue_second_half(const struct nvme_queue *queue)
{
	const volatile uint64_t *halves = (const volatile uint64_t *)&queue->cqes[queue->cq_head];

	return __atomic_load_n(&halves[1], __ATOMIC_ACQUIRE);
}

/* Whether there is a completion. */
static inline bool
nvme_queue_has_completion(const struct nvme_queue *queue)
{
	return (nvme_queue_second_half(queue) >> 48 & 1) == queue->phase;
}

/*
 * Copies the next completion and moves on. 1, 0 (there is none), or -EPROTO: it says that the
 * device is somewhere outside of the queue, or that a command is done when none is under way; *cqe
 * is what it was. Where in the queue the device is does not matter (see in_flight), and controllers
 * that complete in parallel may tell an older place after a newer one.
 */
static inline int
nvme_queue_pop(struct nvme_queue *queue, struct nvme_cqe *cqe)
{
	const volatile uint64_t *halves = (const volatile uint64_t *)&queue->cqes[queue->cq_head];
	const uint64_t second = nvme_queue_second_half(queue);

	if ((second >> 48 & 1) != queue->phase)
		return 0;
	((uint64_t *)cqe)[0] = __atomic_load_n(&halves[0], __ATOMIC_RELAXED);
	((uint64_t *)cqe)[1] = second;
	if (++queue->cq_head == queue->entries) {
		queue->cq_head = 0;
		queue->phase = !queue->phase;
	}
	if (cqe->sqhd >= queue->entries || queue->in_flight == 0)
		return -EPROTO;
	queue->in_flight--;
	return 1;
}

/* Tells the device which completions were taken; nothing when there are none. */
void nvme_queue_release(struct nvme_queue *queue);

#endif
