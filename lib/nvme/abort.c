/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands of queue pairs that have timed out: each is aborted (NVMe 1.4 §5.1), a few at a time.
 * When that does not end it the controller is reset.
 */
#include "env.h"
#include "log.h"
#include "start.h"

#define NOT_ABORTED_US 1000000 /* for the end of a command that Abort did not find */
#define NOT_ABORTED    1u      /* dword 0 of Abort's completion */

static _Atomic uint8_t *
state_of(const struct nvme_abort *abort)
{
	return &abort->qpair->slots[abort->index].abort;
}

static void
finish(struct nvme_abort *abort)
{
	if (abort->command != NULL)
		nvme_admin_release(abort->command);
	*abort = (struct nvme_abort){0};
}

static void
check_command(struct nvme_abort *abort)
{
	struct nvme_admin_slot *command = abort->command;
	uint64_t soon = nvme_deadline(NOT_ABORTED_US);

	if (command == NULL || command->state != NVME_ADMIN_ENDED)
		return;
	if ((command->rc != 0 || command->cqe.status >> 1 != 0 ||
	     (command->cqe.dw0 & NOT_ABORTED) != 0) &&
	    soon < abort->deadline)
		abort->deadline = soon;
	nvme_admin_release(command);
	abort->command = NULL;
}

/* Whether it goes on: until both commands have ended, or Abort would find the identifier's next. */
static bool
check(struct nvme_ctrlr *ctrlr, struct nvme_abort *abort)
{
	check_command(abort);
	if (abort->command == NULL && atomic_load(state_of(abort)) == NVME_ABORT_ENDED) {
		atomic_store(state_of(abort), NVME_ABORT_NONE);
		finish(abort);
		return false;
	}
	if (nvme_us_until(abort->deadline) == 0) {
		ctrlr_log(warn, ctrlr, "queue %u: command %u could not be aborted%s",
			  abort->qpair->id, abort->qpair->slots[abort->index].cid,
			  abort->command != NULL ? ": Abort has no end" : "");
		nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
		finish(abort);
		return false;
	}
	return true;
}

/* From one state to the next; false: it ended by itself. */
static bool
move(struct nvme_qpair *qpair, uint16_t index, uint8_t from, uint8_t to)
{
	_Atomic uint8_t *state = &qpair->slots[index].abort;

	if (atomic_compare_exchange_strong(state, &from, to))
		return true;
	atomic_store(state, NVME_ABORT_NONE);
	return false;
}

/* false: no more can be aborted now. */
static bool
begin(struct nvme_ctrlr *ctrlr, struct nvme_qpair *qpair, uint16_t index)
{
	uint32_t max = ctrlr->id->acl + 1u;
	struct nvme_abort *abort = NULL;

	for (uint32_t i = 0; i < NVME_MAX_ABORTS && i < max && abort == NULL; i++) {
		if (ctrlr->aborts[i].qpair == NULL)
			abort = &ctrlr->aborts[i];
	}
	if (abort == NULL)
		return false;
	/* Before Abort is sent: after that the identifier must not be used again. */
	if (!move(qpair, index, NVME_ABORT_WANTED, NVME_ABORT_ACTIVE))
		return true;
	abort->command = nvme_admin_send_abort(ctrlr, qpair->id, qpair->slots[index].cid);
	if (abort->command == NULL)
		return !move(qpair, index, NVME_ABORT_ACTIVE, NVME_ABORT_WANTED);
	abort->qpair = qpair;
	abort->index = index;
	abort->deadline = nvme_deadline(nvme_ctrlr_admin_timeout_us(ctrlr));
	return true;
}

/* false: there are more than can be aborted now. */
static bool
begin_all(struct nvme_ctrlr *ctrlr)
{
	for (uint32_t i = 0; i < ctrlr->qpair_count; i++) {
		struct nvme_qpair *qpair = &ctrlr->qpairs[i];

		for (uint32_t index = 0; qpair->created && index < qpair->slot_count; index++) {
			uint8_t state = atomic_load(&qpair->slots[index].abort);

			if (state == NVME_ABORT_WANTED && !begin(ctrlr, qpair, (uint16_t)index))
				return false;
		}
	}
	return true;
}

bool
nvme_aborts_serve(struct nvme_ctrlr *ctrlr)
{
	bool active = false;

	for (uint32_t i = 0; i < NVME_MAX_ABORTS; i++) {
		if (ctrlr->aborts[i].qpair != NULL)
			active |= check(ctrlr, &ctrlr->aborts[i]);
	}
	if (begin_all(ctrlr)) {
		ctrlr->aborts_wait_until = 0;
	} else if (ctrlr->aborts_wait_until == 0) {
		ctrlr->aborts_wait_until = nvme_deadline(nvme_ctrlr_admin_timeout_us(ctrlr));
	} else if (nvme_us_until(ctrlr->aborts_wait_until) == 0) {
		ctrlr_log(warn, ctrlr, "more commands time out than can be aborted");
		nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
	}
	for (uint32_t i = 0; i < NVME_MAX_ABORTS; i++)
		active |= ctrlr->aborts[i].qpair != NULL;
	return active || ctrlr->aborts_wait_until != 0;
}

void
nvme_aborts_forget(struct nvme_ctrlr *ctrlr)
{
	for (uint32_t i = 0; i < NVME_MAX_ABORTS; i++)
		finish(&ctrlr->aborts[i]);
	ctrlr->aborts_wait_until = 0;
}

void
nvme_ctrlr_timed_out(struct nvme_qpair *qpair, uint16_t index)
{
	struct nvme_ctrlr *ctrlr = qpair->ctrlr;

	if (index == UINT16_MAX) {
		ctrlr_log(warn, ctrlr, "queue %u: a completion makes no sense: it is reset",
			  qpair->id);
		nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
		return;
	}
	ctrlr_log(warn, ctrlr, "queue %u: command %u has timed out", qpair->id,
		  qpair->slots[index].cid);
	atomic_fetch_add(&ctrlr->timeouts, 1);
	switch (atomic_load(&ctrlr->action)) {
	case NVME_TIMEOUT_NONE:
		return;
	case NVME_TIMEOUT_ABORT:
		atomic_store(&qpair->slots[index].abort, NVME_ABORT_WANTED);
		nvme_ctrlr_work(ctrlr, NVME_WORK_ABORT);
		return;
	case NVME_TIMEOUT_RESET:
		nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
		return;
	}
}
