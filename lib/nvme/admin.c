/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The admin queue (NVMe 1.4 §4.1): commands of coroutines that wait for them, aborts, and the
 * requests for asynchronous events, which the controller keeps until there is something to say.
 */
#include "admin.h"

#include <errno.h>
#include <string.h>

#include "ctrlr.h"
#include "env.h"
#include "log.h"
#include "start.h"
#include "transport.h"

#define FAST_US     100    /* without interrupts: how often it is polled for commands, ... */
#define SLOW_US     100000 /* ... and for events alone */
#define IDLE_POLLS  100    /* after the last command, before it is polled less often */
#define LOOK_US     500000 /* a command that takes longer than that: is the controller alive? */
#define RETRY_US    1000   /* no slot is free */
#define TO_DEVICE   1      /* bits of an opcode (NVMe 1.4 §5) */
#define FROM_DEVICE 2

/* ---- slots ---- */

static void
slot_free(struct nvme_admin_slot *slot)
{
	*slot = (struct nvme_admin_slot){.state = NVME_ADMIN_FREE, .cid = slot->cid};
}

void
nvme_admin_release(struct nvme_admin_slot *slot)
{
	if (slot->state == NVME_ADMIN_SENT)
		slot->abandoned = true;
	else
		slot_free(slot);
}

/* The command is over: with slot->cqe, or by rc. */
static void
slot_end(struct nvme_ctrlr *ctrlr, struct nvme_admin_slot *slot, int rc)
{
	struct completion *completion = slot->completion;

	if (!slot->event)
		ctrlr->admin.sent--;
	slot->state = NVME_ADMIN_ENDED;
	slot->rc = rc;
	slot->completion = NULL;
	if (slot->event || slot->abandoned)
		slot_free(slot);
	else if (completion == NULL)
		nvme_ctrlr_work(ctrlr, NVME_WORK_ABORT);
	if (completion != NULL)
		completion_signal(completion, 0);
}

static struct nvme_admin_slot *
slot_take(struct nvme_admin *admin)
{
	for (uint32_t i = 0; i < NVME_ADMIN_SLOTS && nvme_queue_space(&admin->queue) > 0; i++) {
		if (admin->slots[i].state == NVME_ADMIN_FREE)
			return &admin->slots[i];
	}
	return NULL;
}

static uint64_t
slot_iova(const struct nvme_admin *admin, const struct nvme_admin_slot *slot)
{
	return admin->pages_iova + (uint64_t)(slot - admin->slots) * NVME_ADMIN_DATA_MAX;
}

static uint8_t *
slot_page(const struct nvme_admin *admin, const struct nvme_admin_slot *slot)
{
	return admin->pages + (size_t)(slot - admin->slots) * NVME_ADMIN_DATA_MAX;
}

/* ---- polling ---- */

static void
take_event(struct nvme_ctrlr *ctrlr, const struct nvme_cqe *cqe)
{
	struct nvme_admin *admin = &ctrlr->admin;
	uint16_t status = cqe->status >> 1 & NVME_STATUS_MASK;

	/* It does not want so many (or none): they are not asked for again until the next start. */
	if (status != 0) {
		ctrlr_log(info, ctrlr, "an asynchronous event request failed: %s",
			  nvme_status_name(status));
		if (admin->event_requests > 0)
			admin->event_requests--;
		return;
	}
	if (admin->event_count < NVME_MAX_EVENTS)
		admin->events[admin->event_count++] = cqe->dw0;
	nvme_ctrlr_work(ctrlr, NVME_WORK_EVENTS);
}

/* false: it makes no sense. */
static bool
take_completion(struct nvme_ctrlr *ctrlr, const struct nvme_cqe *cqe)
{
	struct nvme_admin_slot *slot = &ctrlr->admin.slots[cqe->cid % NVME_ADMIN_SLOTS];

	if (cqe->cid != slot->cid || cqe->sqid != 0 || slot->state != NVME_ADMIN_SENT)
		return false;
	slot->cqe = *cqe;
	if (slot->event)
		take_event(ctrlr, cqe);
	slot_end(ctrlr, slot, 0);
	return true;
}

static void
broken(struct nvme_ctrlr *ctrlr)
{
	ctrlr_log(warn, ctrlr, "a completion on the admin queue makes no sense: it is reset");
	nvme_admin_close(ctrlr, -EIO);
	nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
}

static int poller_set(struct nvme_ctrlr *ctrlr);

static int
admin_poll(void *arg)
{
	struct nvme_ctrlr *ctrlr = arg;
	struct nvme_admin *admin = &ctrlr->admin;
	struct nvme_cqe cqe;
	int rc = 0;
	uint32_t taken;

	for (taken = 0; taken < NVME_ADMIN_ENTRIES && admin->open; taken++) {
		rc = nvme_queue_pop(&admin->queue, &cqe);
		if (rc <= 0)
			break;
		if (!take_completion(ctrlr, &cqe))
			rc = -EPROTO;
		if (rc < 0)
			break;
	}
	if (rc < 0)
		broken(ctrlr);
	else if (taken > 0)
		nvme_queue_release(&admin->queue);
	if (admin->sent == 0 && ++admin->idle_polls > IDLE_POLLS)
		poller_set(ctrlr);
	return taken > 0 ? POLLER_BUSY : POLLER_IDLE;
}

static bool
admin_arm(void *arg)
{
	struct nvme_ctrlr *ctrlr = arg;

	return !ctrlr->admin.open || !nvme_queue_has_completion(&ctrlr->admin.queue);
}

static const struct poller_sleep_ops sleep_ops = {.arm = admin_arm};

/* By interrupt; else by time: often while somebody waits, now and then for events. */
static int
poller_set(struct nvme_ctrlr *ctrlr)
{
	struct nvme_admin *admin = &ctrlr->admin;
	bool fast = admin->sent > 0 || admin->idle_polls < IDLE_POLLS;
	uint64_t period_us = fast ? FAST_US : SLOW_US;
	struct poller *poller;
	int rc = 0;

	if (admin->poller != NULL && (ctrlr->interrupts || admin->poller_is_fast == fast))
		return 0;
	poller =
		poller_register(admin_poll, ctrlr, ctrlr->interrupts ? 0 : period_us, "nvme_admin");
	if (poller == NULL)
		return -ENOMEM;
	if (ctrlr->interrupts) {
		poller_set_sleep_ops(poller, &sleep_ops);
		rc = poller_add_fd(poller, ctrlr->vectors[0]);
	}
	poller_unregister(&admin->poller);
	if (rc != 0)
		poller_unregister(&poller);
	admin->poller = poller;
	admin->poller_is_fast = fast;
	return rc;
}

/* ---- life ---- */

int
nvme_admin_alloc(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	struct nvme_admin *admin = &ctrlr->admin;
	int rc = nvme_queue_alloc(&admin->queue, ctrlr->transport, 0, NVME_ADMIN_ENTRIES,
				  ctrlr->page_size, err);

	if (rc != 0)
		return rc;
	for (uint16_t i = 0; i < NVME_ADMIN_SLOTS; i++)
		admin->slots[i].cid = i;
	admin->pages = transport_dma_alloc(ctrlr->transport, NVME_ADMIN_SLOTS * NVME_ADMIN_DATA_MAX,
					   &admin->pages_iova, err);
	return admin->pages != NULL ? 0 : -ENOMEM;
}

void
nvme_admin_free(struct nvme_ctrlr *ctrlr)
{
	struct nvme_admin *admin = &ctrlr->admin;

	nvme_admin_close(ctrlr, -ENODEV);
	poller_unregister(&admin->poller);
	transport_dma_free(ctrlr->transport, admin->pages, NVME_ADMIN_SLOTS * NVME_ADMIN_DATA_MAX);
	admin->pages = NULL;
	if (admin->queue.sqes != NULL)
		nvme_queue_free(&admin->queue);
}

void
nvme_admin_close(struct nvme_ctrlr *ctrlr, int rc)
{
	struct nvme_admin *admin = &ctrlr->admin;

	admin->open = false;
	admin->event_count = 0;
	admin->event_requests = 0;
	for (uint32_t i = 0; i < NVME_ADMIN_SLOTS; i++) {
		if (admin->slots[i].state == NVME_ADMIN_SENT)
			slot_end(ctrlr, &admin->slots[i], rc);
	}
}

int
nvme_admin_open(struct nvme_ctrlr *ctrlr)
{
	struct nvme_admin *admin = &ctrlr->admin;
	/* By the registers alone: not every device looks for the shadows of this queue. */
	int rc = nvme_queue_reset(&admin->queue, ctrlr->stride, NULL, NULL);

	if (rc == 0)
		rc = poller_set(ctrlr);
	admin->open = rc == 0;
	return rc;
}

/* ---- commands ---- */

static void
send(struct nvme_ctrlr *ctrlr, struct nvme_admin_slot *slot, const struct nvme_admin_call *call)
{
	struct nvme_admin *admin = &ctrlr->admin;
	struct nvme_sqe *sqe = nvme_queue_next(&admin->queue);
	const struct nvme_command *command = &call->command;

	/* Another one than the last, see qpair.c; never FFFFh. */
	slot->cid = (slot->cid + NVME_ADMIN_SLOTS) & INT16_MAX;
	*sqe = (struct nvme_sqe){
		.opcode = command->opcode,
		.cid = slot->cid,
		.nsid = command->nsid,
		.prp1 = call->data != NULL ? slot_iova(admin, slot) : call->prp1,
		.prp2 = call->prp2,
		.cdw10 = command->cdw10,
		.cdw11 = command->cdw11,
		.cdw12 = command->cdw12,
		.cdw13 = command->cdw13,
		.cdw14 = command->cdw14,
		.cdw15 = command->cdw15,
	};
	nvme_queue_push(&admin->queue);
	slot->state = NVME_ADMIN_SENT;
	if (!slot->event)
		admin->sent++;
	admin->idle_polls = 0;
	nvme_queue_ring(&admin->queue);
	/* When there is no memory for another poller the present one goes on. */
	poller_set(ctrlr);
}

static int
why_closed(const struct nvme_ctrlr *ctrlr)
{
	return atomic_load(&ctrlr->transport->gone) || ctrlr->info.state == NVME_GONE ? -ENODEV
										      : -EBUSY;
}

/* [waits] */
static int
wait_for_slot(struct nvme_ctrlr *ctrlr, uint64_t deadline, struct nvme_admin_slot **slot)
{
	while (ctrlr->admin.open) {
		int rc;

		*slot = slot_take(&ctrlr->admin);
		if (*slot != NULL)
			return 0;
		if (env_ticks() >= deadline)
			return -EAGAIN;
		rc = coroutine_sleep(RETRY_US);
		if (rc != 0)
			return rc;
	}
	return why_closed(ctrlr);
}

/* [waits] until it has ended: 0, -ETIMEDOUT, -ECANCELED. */
static int
wait_for_end(struct nvme_ctrlr *ctrlr, struct nvme_admin_slot *slot, struct completion *completion,
	     uint64_t deadline)
{
	while (slot->state == NVME_ADMIN_SENT) {
		uint64_t left = nvme_us_until(deadline);
		int rc;

		if (left == 0)
			return -ETIMEDOUT;
		rc = completion_wait(completion, left < LOOK_US ? left : LOOK_US);
		if (rc == -ECANCELED)
			return rc;
		/* An interrupt that was lost must not cost more than this. */
		if (rc == -ETIMEDOUT)
			admin_poll(ctrlr);
		if (slot->state != NVME_ADMIN_SENT || coroutine_current() != ctrlr->keeper)
			continue;
		nvme_ctrlr_look(ctrlr);
		if (nvme_ctrlr_is_cancelled(ctrlr))
			return -ECANCELED;
	}
	return 0;
}

/* It has run out of time: aborted once, then the controller is reset. [waits] */
static int
give_up(struct nvme_ctrlr *ctrlr, struct nvme_admin_slot *slot, struct completion *completion)
{
	struct nvme_admin_slot *abort = nvme_admin_send_abort(ctrlr, 0, slot->cid);
	uint64_t deadline = nvme_deadline(nvme_ctrlr_admin_timeout_us(ctrlr));
	int rc = -ETIMEDOUT;

	if (abort != NULL) {
		rc = wait_for_end(ctrlr, slot, completion, deadline);
		/* The slot stays ours meanwhile: Abort must not find another command in it. */
		while (rc == 0 && abort->state == NVME_ADMIN_SENT)
			rc = nvme_us_until(deadline) > 0 ? coroutine_sleep(RETRY_US) : -ETIMEDOUT;
		nvme_admin_release(abort);
	}
	if (rc == -ETIMEDOUT)
		nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
	return rc;
}

static int
collect(struct nvme_ctrlr *ctrlr, struct nvme_admin_slot *slot, struct nvme_admin_call *call)
{
	int rc = slot->rc;

	if (rc != 0)
		return rc;
	call->result = slot->cqe.dw0;
	call->status = slot->cqe.status >> 1 & (NVME_STATUS_MASK | NVME_DNR);
	if (call->status == 0 && call->data != NULL && (call->command.opcode & FROM_DEVICE) != 0)
		memcpy(call->data, slot_page(&ctrlr->admin, slot), call->length);
	return nvme_status_errno(call->status);
}

/* Sent, and waited for. [waits] */
static int
run(struct nvme_ctrlr *ctrlr, struct nvme_admin_slot *slot, struct nvme_admin_call *call,
    struct completion *completion, uint64_t deadline)
{
	int rc;

	if (call->data != NULL && (call->command.opcode & TO_DEVICE) != 0)
		memcpy(slot_page(&ctrlr->admin, slot), call->data, call->length);
	slot->completion = completion;
	send(ctrlr, slot, call);
	rc = wait_for_end(ctrlr, slot, completion, deadline);
	if (rc == -ETIMEDOUT) {
		ctrlr_log(warn, ctrlr, "admin command 0x%02x has timed out", call->command.opcode);
		atomic_fetch_add(&ctrlr->timeouts, 1);
		if (!ctrlr->starting && !ctrlr->parting &&
		    give_up(ctrlr, slot, completion) == -ECANCELED)
			rc = -ECANCELED;
	}
	slot->deadline = nvme_deadline(nvme_ctrlr_admin_timeout_us(ctrlr));
	if (rc == 0)
		rc = collect(ctrlr, slot, call);
	nvme_admin_release(slot);
	return rc;
}

int
nvme_admin_call(struct nvme_ctrlr *ctrlr, struct nvme_admin_call *call)
{
	uint64_t deadline = nvme_deadline(nvme_ctrlr_admin_timeout_us(ctrlr));
	struct completion *completion = completion_create();
	struct nvme_admin_slot *slot;
	int rc;

	call->result = 0;
	call->status = 0;
	if (completion == NULL)
		return -ENOMEM;
	if (coroutine_current() == ctrlr->keeper && ctrlr->commands_until != 0 &&
	    ctrlr->commands_until < deadline)
		deadline = ctrlr->commands_until;
	rc = wait_for_slot(ctrlr, deadline, &slot);
	if (rc != 0) {
		completion_drop(completion);
		return rc;
	}
	rc = run(ctrlr, slot, call, completion, deadline);
	completion_put(completion);
	return rc;
}

int
nvme_admin_call_named(struct nvme_ctrlr *ctrlr, struct nvme_admin_call *call, const char *what,
		      struct errmsg *err)
{
	int rc = nvme_admin_call(ctrlr, call);

	if (rc != 0 && call->status != 0)
		ctrlr_err(ctrlr, err, rc, "%s: %s", what,
			  nvme_status_name(call->status & NVME_STATUS_MASK));
	else if (rc != 0)
		ctrlr_err(ctrlr, err, rc, "%s: %s", what, strerror(-rc));
	return rc;
}

struct nvme_admin_slot *
nvme_admin_send_abort(struct nvme_ctrlr *ctrlr, uint16_t queue, uint16_t cid)
{
	const struct nvme_admin_call call = {
		.command = {.opcode = nvme_admin_abort_cmd, .cdw10 = (uint32_t)cid << 16 | queue}};
	struct nvme_admin_slot *slot = ctrlr->admin.open ? slot_take(&ctrlr->admin) : NULL;

	if (slot == NULL)
		return NULL;
	slot->deadline = nvme_deadline(nvme_ctrlr_admin_timeout_us(ctrlr));
	send(ctrlr, slot, &call);
	ctrlr->info.aborts++;
	return slot;
}

void
nvme_admin_request_events(struct nvme_ctrlr *ctrlr)
{
	const struct nvme_admin_call call = {.command = {.opcode = nvme_admin_async_event}};
	struct nvme_admin *admin = &ctrlr->admin;
	uint32_t outstanding = 0;

	for (uint32_t i = 0; i < NVME_ADMIN_SLOTS; i++)
		outstanding += admin->slots[i].event;
	while (admin->open && outstanding < admin->event_requests) {
		struct nvme_admin_slot *slot = slot_take(admin);

		if (slot == NULL)
			return;
		slot->event = true;
		send(ctrlr, slot, &call);
		outstanding++;
	}
}

bool
nvme_admin_is_overdue(const struct nvme_ctrlr *ctrlr)
{
	for (uint32_t i = 0; i < NVME_ADMIN_SLOTS; i++) {
		const struct nvme_admin_slot *slot = &ctrlr->admin.slots[i];

		if (slot->state == NVME_ADMIN_SENT && slot->abandoned &&
		    nvme_us_until(slot->deadline) == 0)
			return true;
	}
	return false;
}

int
nvme_admin(struct nvme_ctrlr *ctrlr, const struct nvme_command *command, void *data,
	   uint32_t length, uint32_t *result, uint16_t *status)
{
	struct nvme_admin_call call = {.command = *command, .data = data, .length = length};
	int rc;

	if (length > NVME_ADMIN_DATA_MAX || (length > 0) != (data != NULL))
		return -EINVAL;
	rc = nvme_admin_call(ctrlr, &call);
	if (result != NULL)
		*result = call.result;
	if (status != NULL)
		*status = call.status;
	return rc;
}
