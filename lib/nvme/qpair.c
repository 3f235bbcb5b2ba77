/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data path: requests become submission entries, completions end them. Each command in flight
 * has a slot; there is one less than entries in the ring, so that a free slot means a free entry.
 *
 * A command's identifier is the number of its slot, and above that a count that is another one for
 * each command in the slot: a device that completes a command twice does not end the next one,
 * whose memory it is still to write (Linux: nvme_cid()).
 */
#include "qpair.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "ctrlr.h"
#include "data.h"
#include "env.h"
#include "log.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define REST_US    100000u /* before a request is tried again for the second time, ... */
#define REST_STEPS 4u      /* ... and so often twice as long */
#define REAP_BATCH 128u    /* completions in one poll: others are to have their turn */
#define END_BATCH  64u     /* requests that end without having been sent, the same */

#define FAILURES_TOLD 4u /* in the log, between two looks for time-outs */

/* ---- sending ---- */

static_assert(offsetof(struct nvme_command, cdw15) - offsetof(struct nvme_command, cdw10) ==
		      offsetof(struct nvme_sqe, cdw15) - offsetof(struct nvme_sqe, cdw10),
	      "they are copied in one piece");

/* The identifier of the next command in that slot. */
static inline uint16_t
next_cid(const struct nvme_qpair *qpair, uint16_t index)
{
	return (uint16_t)(qpair->slots[index].cid + qpair->cid_mask + 1u);
}

static inline void
fill_entry(struct nvme_sqe *sqe, const struct nvme_command *command, uint16_t cid)
{
	sqe->opcode = command->opcode;
	sqe->flags = command->fuse;
	sqe->cid = cid;
	sqe->nsid = command->nsid;
	sqe->cdw2 = 0;
	sqe->cdw3 = 0;
	sqe->mptr = 0;
	sqe->prp1 = 0;
	sqe->prp2 = 0;
	memcpy(&sqe->cdw10, &command->cdw10, sizeof(*sqe) - offsetof(struct nvme_sqe, cdw10));
}

/* The entry is filled in: request has the slot that is on top of the stack. */
static inline void
commit(struct nvme_qpair *qpair, struct nvme_request *request)
{
	const uint16_t index = qpair->free_slots[--qpair->free_count];
	struct nvme_slot *slot = &qpair->slots[index];

	slot->request = request;
	slot->order = qpair->commands++;
	slot->cid = next_cid(qpair, index);
	request->cid = slot->cid;
	request->submit_ticks = thread_now(qpair->thread);
	nvme_queue_push(&qpair->queue);
}

/* 0, -EAGAIN (no slot, or no buffer, is free) or -EINVAL. */
static inline int
send(struct nvme_qpair *qpair, struct nvme_request *request)
{
	struct nvme_sqe *sqe = nvme_queue_next(&qpair->queue);
	uint16_t index;

	if (unlikely(qpair->free_count == 0))
		return -EAGAIN;
	index = qpair->free_slots[qpair->free_count - 1];
	fill_entry(sqe, &request->command, next_cid(qpair, index));
	if (request->length != 0) {
		int rc = nvme_data_describe(qpair, index, request, sqe);

		if (unlikely(rc != 0))
			return rc;
	}
	commit(qpair, request);
	return 0;
}

/*
 * A fused pair: both, one behind the other and told by one doorbell, or none (NVMe 1.4 §4.12).
 * Until both have ended they are linked.
 */
static int
send_pair(struct nvme_qpair *qpair, struct nvme_request *first, struct nvme_request *second)
{
	struct nvme_request *const pair[2] = {first, second};
	struct nvme_sqe sqes[2];
	uint16_t indexes[2];

	if (qpair->slot_count < 2)
		return -EINVAL;
	if (qpair->free_count < 2)
		return -EAGAIN;
	for (uint32_t i = 0; i < 2; i++) {
		int rc = 0;

		indexes[i] = qpair->free_slots[qpair->free_count - 1 - i];
		fill_entry(&sqes[i], &pair[i]->command, next_cid(qpair, indexes[i]));
		if (pair[i]->length != 0)
			rc = nvme_data_describe(qpair, indexes[i], pair[i], &sqes[i]);
		if (rc != 0 && i == 1)
			nvme_data_release(qpair, indexes[0], first, false);
		if (rc != 0)
			return rc;
	}
	for (uint32_t i = 0; i < 2; i++) {
		*nvme_queue_next(&qpair->queue) = sqes[i];
		commit(qpair, pair[i]);
		qpair->slots[indexes[i]].flags |= NVME_SLOT_FUSED;
	}
	first->next = second;
	second->next = first;
	return 0;
}

static bool
is_revoked(const struct nvme_request *request)
{
	return request->revoked != NULL && atomic_load(request->revoked);
}

static bool
is_pair(const struct nvme_request *request)
{
	return request->command.fuse == NVME_SQE_FUSED_FIRST;
}

/* What follows, too. */
static void
end_unsent(struct nvme_request *request, int rc)
{
	while (request != NULL) {
		struct nvme_request *next = request->next;

		request->done(request, rc);
		request = next;
	}
}

/*
 * Sends, or ends, the first of those that wait. 0, -EAGAIN: it has to wait on; -EINVAL, -ENODEV:
 * ended.
 */
static int
send_first_waiting(struct nvme_qpair *qpair)
{
	struct nvme_request *first = qpair->waiting.first;
	struct nvme_request *last = is_pair(first) ? first->next : first;
	struct nvme_request *rest = last->next;
	int rc;

	if (is_revoked(first) || is_revoked(last))
		rc = -ENODEV;
	else
		rc = is_pair(first) ? send_pair(qpair, first, last) : send(qpair, first);
	if (rc == -EAGAIN)
		return rc;
	qpair->waiting.first = rest;
	if (rc != 0) {
		last->next = NULL;
		end_unsent(first, rc);
	}
	return rc;
}

void
nvme_qpair_send_waiting(struct nvme_qpair *qpair)
{
	struct nvme_request *first = qpair->waiting.first;
	uint32_t ended = 0;

	qpair->attention = false;
	if (qpair->state == NVME_QPAIR_FAILED) {
		qpair->waiting.first = NULL;
		end_unsent(first, qpair->fail_rc);
		return;
	}
	while (qpair->state == NVME_QPAIR_LIVE && qpair->waiting.first != NULL) {
		int rc = send_first_waiting(qpair);

		if (rc == -EAGAIN)
			break;
		if (rc != 0 && ++ended == END_BATCH) {
			qpair->attention = true;
			break;
		}
	}
	nvme_qpair_flush(qpair);
}

static __attribute__((noinline)) void
wait_for_room(struct nvme_qpair *qpair, struct nvme_request *request, int rc)
{
	request->submit_ticks = thread_now(qpair->thread);
	nvme_request_list_append(&qpair->waiting, request);
	qpair->waited++;
	/* What ends it is not a completion. */
	if (rc == -EINVAL || qpair->state == NVME_QPAIR_FAILED)
		qpair->attention = true;
	nvme_qpair_flush(qpair);
}

static inline void
init_request(struct nvme_request *request)
{
	request->status = 0;
	request->retries = 0;
	request->state = 0;
}

/* Whether the next request need not wait behind others. */
static inline bool
may_send(const struct nvme_qpair *qpair)
{
	return likely(qpair->state == NVME_QPAIR_LIVE && qpair->waiting.first == NULL);
}

void
nvme_qpair_submit(struct nvme_qpair *qpair, struct nvme_request *request)
{
	int rc = -EAGAIN;

	init_request(request);
	if (may_send(qpair))
		rc = send(qpair, request);
	if (unlikely(rc != 0))
		wait_for_room(qpair, request, rc);
}

void
nvme_qpair_submit_fused(struct nvme_qpair *qpair, struct nvme_request *first,
			struct nvme_request *second)
{
	int rc = -EAGAIN;

	init_request(first);
	init_request(second);
	if (may_send(qpair))
		rc = send_pair(qpair, first, second);
	if (rc != 0) {
		wait_for_room(qpair, first, rc);
		wait_for_room(qpair, second, rc);
	}
}

void
nvme_qpair_flush(struct nvme_qpair *qpair)
{
	if (qpair->state == NVME_QPAIR_LIVE)
		nvme_queue_ring(&qpair->queue);
}

/* ---- completions ---- */

/* Whether the slot of a command that had timed out, and has ended, can be used again. */
static bool
abort_is_over(struct nvme_slot *slot)
{
	if (atomic_exchange(&slot->abort, NVME_ABORT_ENDED) != NVME_ABORT_NONE)
		return false;
	atomic_store(&slot->abort, NVME_ABORT_NONE);
	return true;
}

static void
free_slot(struct nvme_qpair *qpair, uint16_t index)
{
	struct nvme_slot *slot = &qpair->slots[index];
	bool held = (slot->flags & NVME_SLOT_TIMED_OUT) != 0 && !abort_is_over(slot);

	slot->request = NULL;
	slot->flags = held ? NVME_SLOT_HELD : 0;
	if (held)
		qpair->held++;
	else
		qpair->free_slots[qpair->free_count++] = index;
}

static void
collect_slots(struct nvme_qpair *qpair)
{
	for (uint32_t index = 0; qpair->held > 0 && index < qpair->slot_count; index++) {
		struct nvme_slot *slot = &qpair->slots[index];

		if ((slot->flags & NVME_SLOT_HELD) == 0 ||
		    atomic_load(&slot->abort) != NVME_ABORT_NONE)
			continue;
		slot->flags = 0;
		qpair->held--;
		qpair->free_slots[qpair->free_count++] = (uint16_t)index;
		qpair->attention = true;
	}
}

static bool
may_retry(const struct nvme_qpair *qpair, const struct nvme_request *request)
{
	return request->status != 0 && !nvme_status_is_final(request->status) &&
	       !is_revoked(request) &&
	       request->retries <
		       atomic_load_explicit(&qpair->ctrlr->retries, memory_order_relaxed);
}

/* What a guest can bring about as often as it likes is said a few times, and then counted. */
static void
tell_failure(struct nvme_qpair *qpair, const struct nvme_request *request)
{
	const uint16_t code = request->status & NVME_STATUS_MASK;

	/* That blocks differ is no surprise to those who compare them. */
	if (code == 0 || code == NVME_SC_FUSED_FAIL ||
	    code == (NVME_SCT_MEDIA << NVME_SCT_SHIFT | NVME_SC_COMPARE_FAILED))
		return;
	if (qpair->failures++ < FAILURES_TOLD)
		log_warn("nvme %s: queue %u: command 0x%02x to namespace %u: %s",
			 qpair->ctrlr->name, qpair->id, request->command.opcode,
			 request->command.nsid, nvme_status_name(request->status));
}

static void
tell_failures(struct nvme_qpair *qpair)
{
	if (qpair->failures > FAILURES_TOLD)
		log_warn("nvme %s: queue %u: %lu more commands have failed", qpair->ctrlr->name,
			 qpair->id, qpair->failures - FAILURES_TOLD);
	qpair->failures = 0;
}

static void
end(struct nvme_qpair *qpair, struct nvme_request *request)
{
	const uint16_t code = request->status & NVME_STATUS_MASK;
	int rc = nvme_status_errno(request->status);

	if (code == NVME_SC_ABORT_REQ && (request->state & NVME_REQUEST_TIMED_OUT) != 0)
		rc = -ETIMEDOUT;
	tell_failure(qpair, request);
	request->done(request, rc);
}

static void
wait_in_front(struct nvme_qpair *qpair, struct nvme_request *request)
{
	struct nvme_request_list list = {0};

	nvme_request_list_append(&list, request);
	nvme_request_list_join(&list, &qpair->waiting);
	qpair->waiting = list;
}

static void
again(struct nvme_request *request)
{
	request->retries++;
	request->state = 0;
}

/*
 * The first time at once, then later and later: what a device is not ready for it answers within
 * microseconds. (Its own retry delays, CRD, are 0 as long as the host does not enable them.)
 * Returns whether it rests: until the time-outs are looked at.
 */
static bool
rest(struct nvme_qpair *qpair, struct nvme_request *request)
{
	uint32_t step = request->retries - 2u;

	if (request->retries < 2)
		return false;
	if (step > REST_STEPS)
		step = REST_STEPS;
	request->submit_ticks =
		thread_now(qpair->thread) + (uint64_t)(REST_US << step) * env_ticks_hz() / 1000000;
	nvme_request_list_append(&qpair->resting, request);
	return true;
}

static void
retry(struct nvme_qpair *qpair, struct nvme_request *request)
{
	again(request);
	if (!rest(qpair, request) && send(qpair, request) != 0)
		wait_in_front(qpair, request);
}

/* The status that says why a pair failed is not the one that its other half failed. */
static void
complete_fused(struct nvme_qpair *qpair, struct nvme_request *request)
{
	struct nvme_request *first = is_pair(request) ? request : request->next;
	struct nvme_request *second = first->next;
	bool first_failed =
		first->status != 0 && (first->status & NVME_STATUS_MASK) != NVME_SC_FUSED_FAIL;

	request->state |= NVME_REQUEST_ENDED;
	if ((first->state & second->state & NVME_REQUEST_ENDED) == 0)
		return;
	if (!may_retry(qpair, first_failed ? first : second)) {
		end(qpair, first);
		end(qpair, second);
		return;
	}
	again(first);
	again(second);
	if (rest(qpair, first)) {
		rest(qpair, second);
		return;
	}
	if (send_pair(qpair, first, second) != 0) {
		wait_in_front(qpair, second);
		wait_in_front(qpair, first);
	}
}

static __attribute__((noinline)) void
complete_other(struct nvme_qpair *qpair, uint16_t index, uint16_t status)
{
	struct nvme_slot *slot = &qpair->slots[index];
	struct nvme_request *request = slot->request;
	const uint8_t flags = slot->flags;

	nvme_data_release(qpair, index, request, status == 0);
	free_slot(qpair, index);
	request->status = status;
	if ((flags & NVME_SLOT_TIMED_OUT) != 0)
		request->state |= NVME_REQUEST_TIMED_OUT;
	if ((flags & NVME_SLOT_FUSED) != 0)
		complete_fused(qpair, request);
	else if (may_retry(qpair, request))
		retry(qpair, request);
	else
		end(qpair, request);
}

/* false: there is no such command. */
static inline bool
complete(struct nvme_qpair *qpair, const struct nvme_cqe *cqe)
{
	const uint16_t status = cqe->status >> 1 & (NVME_STATUS_MASK | NVME_DNR);
	const uint16_t index = cqe->cid & qpair->cid_mask;
	struct nvme_slot *slot = &qpair->slots[index];
	struct nvme_request *request;

	if (unlikely(index >= qpair->slot_count || slot->cid != cqe->cid || slot->request == NULL))
		return false;
	if (unlikely((status | slot->flags) != 0)) {
		complete_other(qpair, index, status);
		return true;
	}
	request = slot->request;
	slot->request = NULL;
	qpair->free_slots[qpair->free_count++] = index;
	request->status = 0;
	request->done(request, 0);
	return true;
}

/* The device answers what nobody asked: nothing that it says about this queue is to be believed. */
static void
distrust(struct nvme_qpair *qpair, const struct nvme_cqe *cqe)
{
	log_info("nvme %s: queue %u: a completion of command %u, with queue head %u",
		 qpair->ctrlr->name, qpair->id, cqe->cid, cqe->sqhd);
	nvme_qpair_stop(qpair);
	qpair->broken = qpair->creations;
	nvme_ctrlr_timed_out(qpair, UINT16_MAX);
}

/* LIVE. */
static inline uint32_t
reap(struct nvme_qpair *qpair, uint32_t max)
{
	uint32_t count;

	for (count = 0; count < max; count++) {
		struct nvme_cqe cqe;
		int rc = nvme_queue_pop(&qpair->queue, &cqe);

		if (rc == 0)
			break;
		if (unlikely(rc < 0 || !complete(qpair, &cqe))) {
			distrust(qpair, &cqe);
			return count;
		}
	}
	if (count > 0)
		nvme_queue_release(&qpair->queue);
	return count;
}

int
nvme_qpair_poll(void *arg)
{
	struct nvme_qpair *qpair = arg;
	uint32_t count = 0;
	bool look;

	if (likely(qpair->state == NVME_QPAIR_LIVE))
		count = reap(qpair, REAP_BATCH);
	look = qpair->attention || (count > 0 && qpair->waiting.first != NULL);
	if (unlikely(look))
		nvme_qpair_send_waiting(qpair);
	nvme_qpair_flush(qpair);
	return count > 0 || look ? POLLER_BUSY : POLLER_IDLE;
}

bool
nvme_qpair_arm(void *arg)
{
	struct nvme_qpair *qpair = arg;
	const struct nvme_queue *queue = &qpair->queue;
	bool woken;

	if (qpair->attention)
		return false;
	/* What ends that is a message. */
	if (qpair->state != NVME_QPAIR_LIVE)
		return true;
	/* First: what is completed before that is found below. */
	woken = queue->in_flight == 0 || nvme_interrupt_wakes(qpair);
	return woken && queue->sq_tail == queue->sq_rung && !nvme_queue_has_completion(queue);
}

/* ---- time-outs ---- */

static void
look_at_sent(struct nvme_qpair *qpair, uint64_t now, uint64_t timeout)
{
	for (uint32_t index = 0; index < qpair->slot_count; index++) {
		struct nvme_slot *slot = &qpair->slots[index];

		if (slot->request == NULL || (slot->flags & NVME_SLOT_TIMED_OUT) != 0 ||
		    now - slot->request->submit_ticks <= timeout)
			continue;
		slot->flags |= NVME_SLOT_TIMED_OUT;
		nvme_ctrlr_timed_out(qpair, (uint16_t)index);
	}
}

/* Those that have rested long enough wait, in front; the halves of a pair do so together. */
static void
look_at_resting(struct nvme_qpair *qpair, uint64_t now)
{
	struct nvme_request_list kept = {0}, due = {0};
	struct nvme_request *request;

	while ((request = nvme_request_list_pop(&qpair->resting)) != NULL)
		nvme_request_list_append(now < request->submit_ticks ? &kept : &due, request);
	qpair->resting = kept;
	if (due.first == NULL)
		return;
	nvme_request_list_join(&due, &qpair->waiting);
	qpair->waiting = due;
	qpair->attention = true;
}

/* Of those that wait while the device is off. */
static void
look_at_parked(struct nvme_qpair *qpair, uint64_t now, uint64_t timeout)
{
	struct nvme_request_list kept = {0}, late = {0};
	struct nvme_request *request;

	while ((request = nvme_request_list_pop(&qpair->waiting)) != NULL) {
		bool is_late = now - request->submit_ticks > timeout;

		nvme_request_list_append(is_late ? &late : &kept, request);
	}
	qpair->waiting = kept;
	end_unsent(late.first, -ETIMEDOUT);
}

int
nvme_qpair_look_for_timeouts(void *arg)
{
	struct nvme_qpair *qpair = arg;
	const uint64_t timeout =
		atomic_load_explicit(&qpair->ctrlr->io_timeout_ticks, memory_order_relaxed);
	const uint64_t now = thread_now(qpair->thread);

	tell_failures(qpair);
	/* What has been completed is not late: it is this thread that is. */
	if (qpair->state == NVME_QPAIR_LIVE) {
		nvme_interrupt_look(qpair);
		collect_slots(qpair);
		if (reap(qpair, qpair->slot_count) > 0)
			qpair->attention = true;
		look_at_resting(qpair, now);
	}
	if (timeout != 0 && qpair->state == NVME_QPAIR_LIVE && qpair->queue.in_flight > 0)
		look_at_sent(qpair, now, timeout);
	else if (timeout != 0 && qpair->state == NVME_QPAIR_PARKED)
		look_at_parked(qpair, now, timeout);
	return qpair->attention ? POLLER_BUSY : POLLER_IDLE;
}
