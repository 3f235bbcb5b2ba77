/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * queue: a submission queue and its completion queue in memory, with their doorbells (NVMe 1.4 §4.1).
 * It knows entries, phase and wrap-around, and no requests. Private to lib/nvme.
 *
 * One thread at a time uses it. What the device writes is hostile: each completion is copied once.
 */
#ifndef VHOSTD_NVME_QUEUE_H
#define VHOSTD_NVME_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "nvme_spec.h"
#include "nvme_transport.h"

/* A doorbell, and its shadow (NVMe 1.4 §5.7, Doorbell Buffer Config), where the device has those. */
struct nvme_doorbell {
	volatile uint32_t *reg;
	volatile uint32_t *shadow; /* NULL: none */
	volatile uint32_t *event;  /* the device wants to hear when the shadow passes this */
};

struct nvme_queue {
	/* set once by alloc */
	struct nvme_transport *transport;
	struct nvme_sqe *sqes;
	volatile struct nvme_cqe *cqes;
	uint64_t sq_iova, cq_iova;
	uint16_t id;
	uint32_t entries; /* 2 … 65536, a power of two; one stays free */

	/* set by reset */
	struct nvme_doorbell sq_doorbell, cq_doorbell;
	uint32_t sq_tail; /* where the next entry goes */
	uint32_t sq_rung; /* what the device was told of */
	uint32_t sq_head; /* what the device says that it has taken */
	uint32_t cq_head; /* the next completion */
	uint32_t cq_rung;
	bool phase;         /* of the next completion */
	uint64_t doorbells; /* stores to registers */
};

/*
 * [waits] or blocks, as dma_alloc(). Both rings, contiguous for the device, at multiples of
 * alignment (CC.MPS: 4096 … 65536).
 */
int nvme_queue_alloc(struct nvme_queue *queue, struct nvme_transport *transport, uint16_t id,
		     uint32_t entries, uint32_t alignment, struct errmsg *err);
void nvme_queue_free(struct nvme_queue *queue);
/*
 * Before it is made on the device, for the first time or after a reset: empty, phase 1.
 * stride: CAP.DSTRD. shadows, events: the pages of DBBUF, or NULL. -ENODEV: its doorbells are beyond
 * what is mapped.
 */
int nvme_queue_reset(struct nvme_queue *queue, uint32_t stride, uint32_t *shadows,
		     uint32_t *events);

/* How many entries nvme_queue_next() can still give. */
uint32_t nvme_queue_space(const struct nvme_queue *queue);
/* The next entry, to be filled in whole; there is space. */
struct nvme_sqe *nvme_queue_next(struct nvme_queue *queue);
/* Tells the device of the entries since the last time; nothing when there are none. */
void nvme_queue_ring(struct nvme_queue *queue);

/* Copies the next completion, if there is one, and moves on; updates sq_head (checked: -EPROTO). */
int nvme_queue_pop(struct nvme_queue *queue, struct nvme_cqe *cqe);
/* Whether there is one. */
bool nvme_queue_has_completion(const struct nvme_queue *queue);
/* Tells the device which completions were taken. */
void nvme_queue_release(struct nvme_queue *queue);

#endif
