/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reset: the queue pairs stop, the controller goes off and on, and the queue pairs send again what
 * had no answer.
 *
 * A request must not end while the device may still write to its memory: its owner would use it for
 * something else. So requests end only after nvme_ctrlr_turn_off(), which sees to that in one way
 * or another, and a queue pair that is stopped ends none by itself.
 */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "start.h"

#define ATTEMPTS        3
#define PAUSE_US        100000  /* between attempts */
#define QPAIR_RETRY_US  1000000 /* of a queue pair that could not be made */
#define NO_MEMORY_US    10000
#define CQ_INTERRUPTS   2u /* CDW11 of Create CQ (NVMe 1.4 §5.3); 1: contiguous */
#define CONTIGUOUS      1u
#define FAILED_REQUESTS (-EIO)

unsigned int nvme_retry_ms = 5000;

/* ---- queue pairs, on their threads ---- */

static void
settle_one(struct nvme_ctrlr *ctrlr, struct nvme_qpair *qpair)
{
	switch (ctrlr->info.state) {
	case NVME_LIVE:
		/* One that came after those that were made is told of by its thread. */
		if (qpair->created)
			nvme_qpair_start(qpair);
		else if (qpair->refused)
			nvme_qpair_fail(qpair, FAILED_REQUESTS);
		return;
	case NVME_RESETTING:
		nvme_qpair_stop(qpair);
		return;
	case NVME_DISABLED:
		nvme_qpair_park(qpair);
		return;
	case NVME_FAILED:
		nvme_qpair_fail(qpair, FAILED_REQUESTS);
		return;
	case NVME_GONE:
		nvme_qpair_fail(qpair, -ENODEV);
		return;
	}
}

/* The keeper waits meanwhile: what it owns can be read here. */
static void
visit(struct io_channel_iter *iter)
{
	struct nvme_channel *channel = io_channel_ctx(io_channel_iter_channel(iter));

	settle_one(channel->qpair->ctrlr, channel->qpair);
	for_each_channel_continue(iter, 0);
}

static void
visited(void *ctx, int status)
{
	completion_signal(ctx, status);
}

void
nvme_qpairs_settle(struct nvme_ctrlr *ctrlr)
{
	struct completion *completion;

	/* It cannot be left undone: memory comes back some time. */
	while ((completion = completion_create()) == NULL ||
	       for_each_channel(ctrlr, visit, completion, visited) != 0) {
		completion_drop(completion);
		coroutine_sleep(NO_MEMORY_US);
	}
	completion_wait(completion, WAIT_FOREVER);
	completion_put(completion);
}

/* ---- queue pairs, on the device ---- */

static uint16_t
vector_of(const struct nvme_qpair *qpair)
{
	const struct nvme_ctrlr *ctrlr = qpair->ctrlr;

	/* The first is the admin queue's; shared where there is no other. */
	return ctrlr->vector_count > 1 ? (uint16_t)(1 + (qpair->id - 1) % (ctrlr->vector_count - 1))
				       : 0;
}

int
nvme_ctrlr_interrupt(const struct nvme_qpair *qpair)
{
	return qpair->ctrlr->interrupts ? qpair->ctrlr->vectors[vector_of(qpair)] : -1;
}

int
nvme_ctrlr_create_queues(struct nvme_qpair *qpair, struct errmsg *err)
{
	struct nvme_ctrlr *ctrlr = qpair->ctrlr;
	const struct nvme_queue *queue = &qpair->queue;
	uint32_t id_and_size = (queue->entries - 1) << 16 | qpair->id;
	uint32_t interrupt =
		ctrlr->interrupts ? (uint32_t)vector_of(qpair) << 16 | CQ_INTERRUPTS : 0;
	struct nvme_admin_call cq = {.command = {.opcode = nvme_admin_create_cq,
						 .cdw10 = id_and_size,
						 .cdw11 = interrupt | CONTIGUOUS},
				     .prp1 = queue->cq_iova};
	struct nvme_admin_call sq = {.command = {.opcode = nvme_admin_create_sq,
						 .cdw10 = id_and_size,
						 .cdw11 = (uint32_t)qpair->id << 16 | CONTIGUOUS},
				     .prp1 = queue->sq_iova};
	struct nvme_admin_call delete_cq = {
		.command = {.opcode = nvme_admin_delete_cq, .cdw10 = qpair->id}};
	int rc;

	/* Its vector has to be on: see nvme_transport_ops.set_interrupts. */
	qpair->interrupt.vector = vector_of(qpair);
	qpair->interrupt.own =
		ctrlr->vector_count > ctrlr->info.io_queues && ctrlr->ops->switch_interrupt != NULL;
	nvme_interrupt_restore(qpair);
	rc = nvme_admin_call_named(ctrlr, &cq, "Create I/O Completion Queue", err);
	if (rc != 0)
		return rc;
	rc = nvme_admin_call_named(ctrlr, &sq, "Create I/O Submission Queue", err);
	/* What is left over is in the way of the next try. */
	if (rc != 0 && sq.status != 0)
		nvme_admin_call(ctrlr, &delete_cq);
	return rc;
}

static bool
is_wanted(struct nvme_qpair *qpair)
{
	bool wanted;

	pthread_mutex_lock(&qpair->ctrlr->lock);
	wanted = qpair->used && !qpair->created;
	pthread_mutex_unlock(&qpair->ctrlr->lock);
	return wanted;
}

int
nvme_qpairs_make(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = 0;

	for (uint32_t i = 0; i < ctrlr->qpair_count && rc == 0; i++) {
		if (is_wanted(&ctrlr->qpairs[i]))
			rc = nvme_qpair_create(&ctrlr->qpairs[i], err);
	}
	return rc;
}

void
nvme_qpairs_serve(struct nvme_ctrlr *ctrlr)
{
	nvme_ctrlr_limit_commands(ctrlr, 1);
	for (uint32_t i = 0; i < ctrlr->qpair_count && ctrlr->info.state == NVME_LIVE; i++) {
		struct nvme_qpair *qpair = &ctrlr->qpairs[i];
		struct errmsg err = {""};

		if (!is_wanted(qpair) || nvme_qpair_create(qpair, &err) == 0)
			continue;
		ctrlr_log(warn, ctrlr, "queue %u cannot be used: %s", qpair->id,
			  nvme_ctrlr_reason(ctrlr, &err));
		ctrlr->retry_at = nvme_deadline(QPAIR_RETRY_US);
	}
	nvme_ctrlr_limit_commands(ctrlr, 0);
	nvme_qpairs_settle(ctrlr);
}

static void
unmake_qpairs(struct nvme_ctrlr *ctrlr)
{
	for (uint32_t i = 0; i < ctrlr->qpair_count; i++)
		ctrlr->qpairs[i].created = false;
}

/* ---- reset ---- */

/* All queue pairs stop, the admin queue too. The device may go on. */
static void
halt(struct nvme_ctrlr *ctrlr)
{
	nvme_ctrlr_set_state(ctrlr, NVME_RESETTING);
	nvme_qpairs_settle(ctrlr);
	nvme_admin_close(ctrlr, -ETIMEDOUT);
	nvme_aborts_forget(ctrlr);
}

static int
turn_off(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = nvme_ctrlr_turn_off(ctrlr, err);

	unmake_qpairs(ctrlr);
	return rc;
}

static int
restart(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = turn_off(ctrlr, err);

	if (rc == 0)
		rc = nvme_ctrlr_read_capabilities(ctrlr, err);
	if (rc == 0)
		rc = nvme_ctrlr_start(ctrlr, err);
	return rc;
}

static void
fail(struct nvme_ctrlr *ctrlr, const struct errmsg *reason)
{
	struct errmsg err;

	/* Also one that was started and then failed: see above. */
	if (ctrlr->running && !ctrlr->cut_off)
		turn_off(ctrlr, &err);
	if (ctrlr->has_failed)
		ctrlr_log(info, ctrlr, "it is still failed: %s", nvme_ctrlr_reason(ctrlr, reason));
	else
		ctrlr_log(err, ctrlr, "it has failed, and is tried again every %u ms: %s",
			  nvme_retry_ms, nvme_ctrlr_reason(ctrlr, reason));
	ctrlr->has_failed = true;
	ctrlr->retry_at = nvme_deadline(nvme_retry_ms * 1000ull);
	nvme_ctrlr_set_state(ctrlr, NVME_FAILED);
	nvme_qpairs_settle(ctrlr);
}

static void
revive(struct nvme_ctrlr *ctrlr)
{
	ctrlr->has_failed = false;
	ctrlr->retry_at = 0;
	nvme_ctrlr_set_state(ctrlr, NVME_LIVE);
	nvme_qpairs_serve(ctrlr);
}

int
nvme_ctrlr_recover(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = 0;

	ctrlr->info.resets++;
	halt(ctrlr);
	for (int attempt = 1; attempt <= ATTEMPTS && !nvme_ctrlr_is_cancelled(ctrlr); attempt++) {
		/* What was asked for until now is done with this attempt. */
		atomic_fetch_and(&ctrlr->work, ~(uint32_t)(NVME_WORK_RESET | NVME_WORK_ABORT));
		rc = restart(ctrlr, err);
		if (rc == 0 || rc == -ENODEV || atomic_load(&ctrlr->transport->gone))
			break;
		ctrlr_log(notice, ctrlr, "reset, attempt %d of %d: %s", attempt, ATTEMPTS,
			  nvme_ctrlr_reason(ctrlr, err));
		if (attempt < ATTEMPTS)
			coroutine_sleep(PAUSE_US);
	}
	if (nvme_ctrlr_is_cancelled(ctrlr))
		return ctrlr_err(ctrlr, err, -ECANCELED, "it is being detached");
	if (atomic_load(&ctrlr->transport->gone)) {
		nvme_ctrlr_lose(ctrlr);
		return ctrlr_err(ctrlr, err, -ENODEV, "the device is gone");
	}
	if (rc != 0) {
		fail(ctrlr, err);
		return rc;
	}
	ctrlr_log(notice, ctrlr, "it was reset");
	revive(ctrlr);
	return 0;
}

int
nvme_ctrlr_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc;

	halt(ctrlr);
	rc = turn_off(ctrlr, err);
	if (atomic_load(&ctrlr->transport->gone)) {
		nvme_ctrlr_lose(ctrlr);
		return ctrlr_err(ctrlr, err, -ENODEV, "the device is gone");
	}
	if (rc != 0) {
		fail(ctrlr, err);
		return rc;
	}
	ctrlr->retry_at = 0;
	nvme_ctrlr_set_state(ctrlr, NVME_DISABLED);
	nvme_qpairs_settle(ctrlr);
	ctrlr_log(notice, ctrlr, "it was disabled");
	return 0;
}

void
nvme_ctrlr_lose(struct nvme_ctrlr *ctrlr)
{
	if (ctrlr->info.state == NVME_GONE)
		return;
	ctrlr_log(warn, ctrlr, "the device is gone");
	/* Before a request ends: it may only seem to be gone, see nvme_transport_ops. */
	if (ctrlr->running)
		ctrlr->ops->set_bus_master(ctrlr->transport, false);
	nvme_ctrlr_set_state(ctrlr, NVME_GONE);
	nvme_admin_close(ctrlr, -ENODEV);
	nvme_aborts_forget(ctrlr);
	unmake_qpairs(ctrlr);
	ctrlr->running = false;
	nvme_qpairs_settle(ctrlr);
	nvme_ctrlr_tell(ctrlr, NVME_EVENT_GONE);
}

void
nvme_ctrlr_leave(struct nvme_ctrlr *ctrlr)
{
	struct errmsg err;

	if (ctrlr->info.state == NVME_GONE)
		return;
	ctrlr_log(warn, ctrlr, "somebody wants the device back");
	halt(ctrlr);
	nvme_ctrlr_shut_down(ctrlr);
	turn_off(ctrlr, &err);
	nvme_ctrlr_lose(ctrlr);
}
