/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A controller without a control path, for unit tests of NVMe queue pairs: its queue pairs are
 * there, the test is the device that takes commands and completes them, and the app thread that
 * starts and stops. Names testlib before env: the test owns the time.
 */
#ifndef NVME_RIG_H
#define NVME_RIG_H

#include "nvme_memory_rig.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "by_hand.h"
#include "nvme/ctrlr.h"
#include "nvme/data.h"
#include "ticks.h"

#define RIG_QPAIRS     2
#define RIG_TIMEOUT_US 1000000u
#define RIG_LOOK_US    100001u /* how often time-outs are looked for, and a moment */
#define RIG_TIMEOUTS   64

/* The device's side of a queue pair. */
struct rig_queue {
	uint32_t sq_head;
	uint32_t cq_tail;
	bool phase;
};

static struct {
	struct nvme_ctrlr ctrlr;
	struct nvme_qpair qpairs[RIG_QPAIRS];
	struct rig_queue queues[RIG_QPAIRS];
	struct thread *thread;
	int interrupt; /* what nvme_ctrlr_interrupt() says */
	int create_rc;
	uint32_t wants; /* calls of nvme_ctrlr_wants_qpair() */
	struct {
		uint16_t qpair, cid;
	} timeouts[RIG_TIMEOUTS];
	uint32_t timeout_count;
} rig;

/* ---- what the control path is for queue pairs ---- */

struct nvme_qpair *
nvme_ctrlr_take_qpair(struct nvme_ctrlr *ctrlr)
{
	struct nvme_qpair *qpair = NULL;

	pthread_mutex_lock(&ctrlr->lock);
	for (uint32_t i = 0; i < ctrlr->qpair_count && qpair == NULL; i++) {
		if (!ctrlr->qpairs[i].used)
			qpair = &ctrlr->qpairs[i];
	}
	if (qpair != NULL)
		qpair->used = true;
	pthread_mutex_unlock(&ctrlr->lock);
	if (qpair == NULL)
		errno = ENOSPC;
	return qpair;
}

void
nvme_ctrlr_give_qpair(struct nvme_qpair *qpair)
{
	pthread_mutex_lock(&qpair->ctrlr->lock);
	qpair->used = false;
	pthread_mutex_unlock(&qpair->ctrlr->lock);
}

void
nvme_ctrlr_wants_qpair(struct nvme_qpair *qpair)
{
	(void)qpair;
	rig.wants++;
}

void
nvme_ctrlr_timed_out(struct nvme_qpair *qpair, uint16_t index)
{
	uint16_t cid = index != UINT16_MAX ? qpair->slots[index].cid : UINT16_MAX;

	assert_true(rig.timeout_count < RIG_TIMEOUTS);
	rig.timeouts[rig.timeout_count].qpair = qpair->id;
	rig.timeouts[rig.timeout_count++].cid = cid;
}

int
nvme_ctrlr_interrupt(const struct nvme_qpair *qpair)
{
	(void)qpair;
	return rig.interrupt;
}

int
nvme_ctrlr_create_queues(struct nvme_qpair *qpair, struct errmsg *err)
{
	if (rig.create_rc != 0)
		return err_set(err, rig.create_rc, "the device has no queues");
	rig.queues[qpair->id - 1] = (struct rig_queue){.phase = true};
	return 0;
}

/* ---- the test ---- */

static inline void
rig_setup_ctrlr(uint32_t queue_size, uint64_t max_transfer)
{
	rig_memory_setup();
	memset(&rig, 0, sizeof(rig));
	ticks_set(1);
	rig.interrupt = -1;
	snprintf(rig.ctrlr.name, sizeof(rig.ctrlr.name), "rig");
	rig.ctrlr.transport = &rig_memory.transport;
	rig.ctrlr.dma = rig_memory.space;
	rig.ctrlr.page_size = RIG_PAGE;
	rig.ctrlr.queue_size = queue_size;
	rig.ctrlr.info.max_transfer = max_transfer;
	rig.ctrlr.qpairs = rig.qpairs;
	rig.ctrlr.qpair_count = RIG_QPAIRS;
	rig.ctrlr.io_timeout_ticks = RIG_TIMEOUT_US * TICKS_PER_US;
	rig.ctrlr.retries = 2;
	pthread_mutex_init(&rig.ctrlr.lock, NULL);
	for (uint16_t i = 0; i < RIG_QPAIRS; i++) {
		rig.qpairs[i].ctrlr = &rig.ctrlr;
		rig.qpairs[i].id = i + 1;
	}
}

static inline void
rig_teardown_ctrlr(void)
{
	for (uint32_t i = 0; i < RIG_QPAIRS; i++)
		nvme_qpair_free(&rig.qpairs[i]);
	pthread_mutex_destroy(&rig.ctrlr.lock);
	rig_memory_teardown();
}

static inline void
rig_create(struct nvme_qpair *qpair)
{
	struct errmsg err;

	assert_int_equal(nvme_qpair_create(qpair, &err), 0);
}

/* ---- the device ---- */

static inline struct rig_queue *
rig_queue_of(const struct nvme_qpair *qpair)
{
	return &rig.queues[qpair->id - 1];
}

/* How many commands the device has been told of and has not taken. */
static inline uint32_t
rig_told(const struct nvme_qpair *qpair)
{
	uint32_t tail = rig_memory.doorbells[2 * qpair->id], entries = qpair->queue.entries;

	assert_true(tail < entries);
	return (tail + entries - rig_queue_of(qpair)->sq_head) % entries;
}

static inline struct nvme_sqe
rig_take(const struct nvme_qpair *qpair)
{
	struct rig_queue *queue = rig_queue_of(qpair);
	const struct nvme_sqe *ring =
		rig_at(qpair->queue.sq_iova, qpair->queue.entries * sizeof(*ring));
	struct nvme_sqe sqe = ring[queue->sq_head];

	assert_true(rig_told(qpair) > 0);
	queue->sq_head = (queue->sq_head + 1) % qpair->queue.entries;
	return sqe;
}

static inline void
rig_complete_as(const struct nvme_qpair *qpair, struct nvme_cqe cqe, uint16_t status)
{
	struct rig_queue *queue = rig_queue_of(qpair);
	struct nvme_cqe *ring = rig_at(qpair->queue.cq_iova, qpair->queue.entries * sizeof(*ring));

	cqe.status = (uint16_t)(status << 1 | queue->phase);
	ring[queue->cq_tail] = cqe;
	if (++queue->cq_tail == qpair->queue.entries) {
		queue->cq_tail = 0;
		queue->phase = !queue->phase;
	}
}

static inline void
rig_complete(const struct nvme_qpair *qpair, uint16_t cid, uint16_t status)
{
	rig_complete_as(qpair,
			(struct nvme_cqe){.cid = cid,
					  .sqid = qpair->id,
					  .sqhd = (uint16_t)rig_queue_of(qpair)->sq_head},
			status);
}

#endif
