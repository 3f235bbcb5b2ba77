/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A queue pair when the controller goes off and on. What was sent stays in its slot until the
 * device is off: only then can it not touch the memory any more, and the request be sent again, or
 * end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ctrlr.h"
#include "data.h"
#include "log.h"

/* ---- what was sent ---- */

static int
compare_orders(const void *a, const void *b, void *slots)
{
	const struct nvme_slot *first = (struct nvme_slot *)slots + *(const uint16_t *)a;
	const struct nvme_slot *second = (struct nvme_slot *)slots + *(const uint16_t *)b;

	return first->order < second->order ? -1 : first->order > second->order;
}

static struct nvme_request *
empty_slot(struct nvme_qpair *qpair, uint16_t index)
{
	struct nvme_slot *slot = &qpair->slots[index];
	struct nvme_request *request = slot->request;

	nvme_data_release(qpair, index, request, false);
	if ((slot->flags & NVME_SLOT_TIMED_OUT) != 0)
		request->state |= NVME_REQUEST_TIMED_OUT;
	slot->request = NULL;
	slot->flags = 0;
	return request;
}

/*
 * The device is off: takes the requests out of their slots, in the order in which they were sent.
 * start() finds out which slots are free.
 */
static struct nvme_request_list
take_sent(struct nvme_qpair *qpair)
{
	uint16_t *indexes = qpair->free_slots;
	struct nvme_request_list sent = {0};
	uint32_t count = 0;

	for (uint32_t index = 0; index < qpair->slot_count; index++) {
		if (qpair->slots[index].request != NULL)
			indexes[count++] = (uint16_t)index;
	}
	if (count > 0)
		qsort_r(indexes, count, sizeof(indexes[0]), compare_orders, qpair->slots);
	for (uint32_t i = 0; i < count; i++) {
		bool fused = (qpair->slots[indexes[i]].flags & NVME_SLOT_FUSED) != 0;
		struct nvme_request *request = empty_slot(qpair, indexes[i]);
		struct nvme_request *other = fused ? request->next : NULL;

		/* The other half of a pair has ended, and waits for this one in no slot. */
		if (other != NULL && (other->state & NVME_REQUEST_ENDED) != 0)
			nvme_request_list_append(&sent, other);
		nvme_request_list_append(&sent, request);
	}
	qpair->free_count = 0;
	return sent;
}

static void
end_all(struct nvme_request_list *list, int rc)
{
	struct nvme_request *request;

	while ((request = nvme_request_list_pop(list)) != NULL)
		request->done(request, rc);
}

/* Of one that cannot be sent again. */
static int
rc_of_lost(const struct nvme_request *request)
{
	if ((request->state & NVME_REQUEST_ENDED) != 0)
		return nvme_status_errno(request->status);
	return (request->state & NVME_REQUEST_TIMED_OUT) != 0 ? -ETIMEDOUT : -EIO;
}

static void
end_lost(struct nvme_request_list *list)
{
	struct nvme_request *request;

	while ((request = nvme_request_list_pop(list)) != NULL)
		request->done(request, rc_of_lost(request));
}

/* What rests, and then what waits, behind `list`. */
static void
join_others(struct nvme_qpair *qpair, struct nvme_request_list *list)
{
	nvme_request_list_join(list, &qpair->resting);
	nvme_request_list_join(list, &qpair->waiting);
	qpair->resting.first = NULL;
	qpair->waiting.first = NULL;
}

/*
 * What was sent waits, in front. Returns what must not be sent again: that has been, often enough;
 * or half of a pair may have been carried out, and the comparison would fail now.
 */
static struct nvme_request_list
put_back(struct nvme_qpair *qpair)
{
	const uint32_t retries = atomic_load_explicit(&qpair->ctrlr->retries, memory_order_relaxed);
	struct nvme_request_list sent = take_sent(qpair), again = {0}, lost = {0};
	struct nvme_request *request;

	while ((request = nvme_request_list_pop(&sent)) != NULL) {
		if (request->command.fuse != 0 || request->retries >= retries) {
			nvme_request_list_append(&lost, request);
			continue;
		}
		request->retries++;
		request->state = 0;
		request->submit_ticks = thread_now(qpair->thread);
		nvme_request_list_append(&again, request);
	}
	for (request = qpair->resting.first; request != NULL; request = request->next)
		request->submit_ticks = thread_now(qpair->thread);
	join_others(qpair, &again);
	qpair->waiting = again;
	return lost;
}

/* ---- states ---- */

void
nvme_qpair_stop(struct nvme_qpair *qpair)
{
	qpair->state = NVME_QPAIR_STOPPED;
	if (qpair->interrupt_fd >= 0)
		poller_remove_fd(qpair->poller, qpair->interrupt_fd);
	qpair->interrupt_fd = -1;
}

void
nvme_qpair_park(struct nvme_qpair *qpair)
{
	struct nvme_request_list lost;

	nvme_qpair_stop(qpair);
	qpair->state = NVME_QPAIR_PARKED;
	lost = put_back(qpair);
	end_lost(&lost);
}

void
nvme_qpair_fail(struct nvme_qpair *qpair, int rc)
{
	struct nvme_request_list all;

	nvme_qpair_stop(qpair);
	qpair->state = NVME_QPAIR_FAILED;
	qpair->fail_rc = rc;
	all = take_sent(qpair);
	join_others(qpair, &all);
	end_all(&all, rc);
}

/* Which slots are free; the lowest on top. */
static void
find_free_slots(struct nvme_qpair *qpair)
{
	qpair->free_count = 0;
	qpair->held = 0;
	for (uint32_t index = qpair->slot_count; index-- > 0;) {
		struct nvme_slot *slot = &qpair->slots[index];
		bool is_free = atomic_load(&slot->abort) == NVME_ABORT_NONE;

		slot->flags = is_free ? 0 : NVME_SLOT_HELD;
		if (is_free)
			qpair->free_slots[qpair->free_count++] = (uint16_t)index;
		else
			qpair->held++;
	}
}

static void
wait_for_interrupts(struct nvme_qpair *qpair)
{
	int fd = nvme_ctrlr_interrupt(qpair);
	int rc = fd >= 0 ? poller_add_fd(qpair->poller, fd) : 0;

	if (rc != 0)
		log_warn("nvme %s: queue %u: its interrupt wakes nobody: %s", qpair->ctrlr->name,
			 qpair->id, strerror(-rc));
	qpair->interrupt_fd = rc == 0 ? fd : -1;
}

void
nvme_qpair_start(struct nvme_qpair *qpair)
{
	struct nvme_request_list lost;

	if (qpair->state == NVME_QPAIR_LIVE || qpair->broken == qpair->creations)
		return;
	lost = put_back(qpair);
	find_free_slots(qpair);
	wait_for_interrupts(qpair);
	qpair->state = NVME_QPAIR_LIVE;
	nvme_qpair_send_waiting(qpair);
	end_lost(&lost);
}
