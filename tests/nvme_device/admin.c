/* SPDX-License-Identifier: BSD-3-Clause */
/* Admin commands (NVMe 1.4 §5), and asynchronous events. */
#include <string.h>

#include "device.h"

#define DNR(status)           ((uint16_t)((status) | NVME_SC_DNR))
#define COMMAND_SPECIFIC(sc)  DNR(STATUS(NVME_SCT_CMD_SPECIFIC, sc))
#define QUEUE_CONTIGUOUS      1U
#define QUEUE_INTERRUPTS      2U
#define GENERIC_INVALID_FIELD DNR(NVME_SC_INVALID_FIELD)

/* ---- queues ---- */

static uint16_t
wrong_queue(struct device *dev, const struct nvme_sqe *sqe, uint16_t status, const char *problem)
{
	violation(dev, V_QUEUE, "%s: queue %u: %s", admin_commands[sqe->opcode].name,
		  sqe->cdw10 & 0xffff, problem);
	return status;
}

/* What creating an SQ and a CQ have in common. 0 or a status. */
static uint16_t
check_create(struct device *dev, const struct nvme_sqe *sqe, bool exists)
{
	const struct controller *controller = &dev->controller;
	uint32_t id = sqe->cdw10 & 0xffff, size = (sqe->cdw10 >> 16) + 1;

	if (NVME_CC_IOSQES(controller->cc) != 6 || NVME_CC_IOCQES(controller->cc) != 4)
		violation(dev, V_REGISTER, "CC is 0x%x: the sizes of queue entries are not set",
			  controller->cc);
	if (id == 0 || id > controller->io_queues || id >= MAX_QUEUES || exists)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_QID_INVALID),
				   exists ? "exists" : "more than were granted");
	if (size < 2 || size > NVME_CAP_MQES(controller->cap) + 1)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_QUEUE_SIZE), "its size");
	if ((sqe->cdw11 & QUEUE_CONTIGUOUS) == 0)
		return wrong_queue(dev, sqe, GENERIC_INVALID_FIELD, "not contiguous");
	if (sqe->prp1 % controller->page_size != 0 || sqe->prp2 != 0)
		return wrong_queue(dev, sqe, DNR(NVME_SC_PRP_INVALID_OFFSET), "its address");
	return 0;
}

static uint16_t
create_cq(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	uint16_t id = (uint16_t)sqe->cdw10, vector = (uint16_t)(sqe->cdw11 >> 16);
	uint16_t status = check_create(dev, sqe, id < MAX_QUEUES && dev->controller.cqs[id].exists);

	(void)sq;
	(void)dw0;
	if (status != 0)
		return status;
	if (vector != 0 && vector >= dev->settings.vectors)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_INVALID_VECTOR),
				   "its vector");
	return cq_start(dev, id, sqe->prp1, (sqe->cdw10 >> 16) + 1,
			(sqe->cdw11 & QUEUE_INTERRUPTS) != 0, vector)
		       ? 0
		       : NVME_SC_DATA_XFER_ERROR;
}

static uint16_t
create_sq(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	uint16_t id = (uint16_t)sqe->cdw10, cq = (uint16_t)(sqe->cdw11 >> 16);
	uint16_t status = check_create(dev, sqe, id < MAX_QUEUES && dev->controller.sqs[id].exists);

	(void)sq;
	(void)dw0;
	if (status != 0)
		return status;
	if (cq == 0 || cq >= MAX_QUEUES || !dev->controller.cqs[cq].exists)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_CQ_INVALID), "its CQ");
	return sq_start(dev, id, sqe->prp1, (sqe->cdw10 >> 16) + 1, &dev->controller.cqs[cq])
		       ? 0
		       : NVME_SC_DATA_XFER_ERROR;
}

static uint16_t
delete_sq(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	uint32_t id = sqe->cdw10 & 0xffff;
	struct sq *queue = &dev->controller.sqs[id % MAX_QUEUES];

	(void)sq;
	(void)dw0;
	if (id == 0 || id >= MAX_QUEUES || !queue->exists)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_QID_INVALID),
				   "no such queue");
	commands_drop_delayed(dev, queue, true);
	queue_signal(dev, queue->cq);
	sq_stop(dev, queue);
	return 0;
}

static uint16_t
delete_cq(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	uint32_t id = sqe->cdw10 & 0xffff;
	struct cq *queue = &dev->controller.cqs[id % MAX_QUEUES];

	(void)sq;
	(void)dw0;
	if (id == 0 || id >= MAX_QUEUES || !queue->exists)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_QID_INVALID),
				   "no such queue");
	if (queue->users > 0)
		return wrong_queue(dev, sqe, COMMAND_SPECIFIC(NVME_SC_INVALID_QUEUE),
				   "submission queues use it");
	cq_stop(dev, queue);
	return 0;
}

static uint16_t
set_doorbell_buffers(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct controller *controller = &dev->controller;
	uint32_t page = controller->page_size;
	uint32_t both = VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE;

	(void)sq;
	(void)dw0;
	if (!dev->settings.dbbuf) {
		violation(dev, V_COMMAND, "doorbell buffers are used, but not offered");
		return DNR(NVME_SC_INVALID_OPCODE);
	}
	if (sqe->prp1 % page != 0 || sqe->prp2 % page != 0) {
		violation(dev, V_PRP, "doorbell buffers at 0x%llx and 0x%llx: offsets",
			  (unsigned long long)sqe->prp1, (unsigned long long)sqe->prp2);
		return GENERIC_INVALID_FIELD;
	}
	controller->shadow_doorbells = dma_need(dev, sqe->prp1, page, both, "shadow doorbells");
	controller->event_indexes = dma_need(dev, sqe->prp2, page, both, "event indexes");
	if (controller->shadow_doorbells == NULL || controller->event_indexes == NULL ||
	    doorbell_offset(dev, MAX_QUEUES - 1, true) >= page)
		return GENERIC_INVALID_FIELD;
	controller->shadow_iova = sqe->prp1;
	controller->event_iova = sqe->prp2;
	controller->shadow = true;
	queues_place_doorbells(dev);
	return 0;
}

/* ---- other commands ---- */

static uint16_t
abort_command(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	uint32_t id = sqe->cdw10 & 0xffff;
	struct sq *queue = &dev->controller.sqs[id % MAX_QUEUES];

	(void)sq;
	/* Bit 0: not aborted. It is lost, or was completed already. */
	*dw0 = 1;
	if (id < MAX_QUEUES && queue->exists)
		*dw0 = !command_abort(dev, queue, (uint16_t)(sqe->cdw10 >> 16));
	return 0;
}

static uint16_t
keep_alive(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	(void)sq;
	(void)sqe;
	(void)dw0;
	dev->controller.keep_alive_seen = now_ns();
	return 0;
}

static uint16_t
request_event(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct events *events = &dev->controller.events;

	(void)dw0;
	if (events->request_count == EVENT_REQUESTS)
		return COMMAND_SPECIFIC(NVME_SC_ASYNC_LIMIT);
	events->requests[events->request_count++] = sqe->cid;
	/* It may wait for ever: the entry is found when there is an event. */
	sq->cq->reserved--;
	return STATUS_PENDING;
}

/* ---- asynchronous events ---- */

void
event_raise(struct device *dev, uint32_t type, uint32_t info, uint32_t log_page)
{
	struct events *events = &dev->controller.events;

	events->pending[type] = true;
	events->info[type] = type | info << 8 | log_page << 16;
	events_deliver(dev);
}

void
events_deliver(struct device *dev)
{
	struct events *events = &dev->controller.events;
	struct sq *admin = &dev->controller.sqs[0];

	for (uint32_t i = 0; i < MAX_EVENTS; i++) {
		if (!events->pending[i] || events->masked[i] || events->request_count == 0 ||
		    !admin->exists || !controller_runs(dev) || !cq_has_room(dev, admin->cq, 1))
			continue;
		events->pending[i] = false;
		events->masked[i] = true;
		admin->cq->reserved++;
		queue_complete(dev, admin, events->requests[--events->request_count], 0,
			       events->info[i]);
		queue_signal(dev, admin->cq);
	}
}

void
events_log_was_read(struct device *dev, uint32_t log_page)
{
	struct events *events = &dev->controller.events;

	for (uint32_t i = 0; i < MAX_EVENTS; i++) {
		if (events->masked[i] && events->info[i] >> 16 == log_page)
			events->masked[i] = false;
	}
	events_deliver(dev);
}

#define ALL (~0u)
#define NO_DATA                                                                                    \
	{                                                                                          \
		ALL, ALL, ALL, ALL, ALL, ALL                                                       \
	}

const struct command_rule admin_commands[256] = {
	[nvme_admin_delete_sq] =
		{"delete I/O SQ", delete_sq, false, false, {0xffff0000, ALL, ALL, ALL, ALL, ALL}},
	[nvme_admin_create_sq] =
		{"create I/O SQ", create_sq, true, false, {0, 0xfff8, 0xffff0000, ALL, ALL, ALL}},
	[nvme_admin_get_log_page] =
		{"get log page", get_log_page, true, true, {0x7000, 0, 0, 0, 0x007fff80, ALL}},
	[nvme_admin_delete_cq] =
		{"delete I/O CQ", delete_cq, false, false, {0xffff0000, ALL, ALL, ALL, ALL, ALL}},
	[nvme_admin_create_cq] =
		{"create I/O CQ", create_cq, true, false, {0, 0xfffc, ALL, ALL, ALL, ALL}},
	[nvme_admin_identify] =
		{"identify", identify, true, true, {0xff00, 0x00ff0000, ALL, ALL, 0xffffff80, ALL}},
	[nvme_admin_abort_cmd] =
		{"abort", abort_command, false, false, {0, ALL, ALL, ALL, ALL, ALL}},
	[nvme_admin_set_features] =
		{"set features", set_features, false, true, {0x7fffff00, 0, 0, 0, 0xffffff80, 0}},
	[nvme_admin_get_features] = {"get features",
				     get_features,
				     false,
				     true,
				     {0xfffff800, 0, ALL, ALL, 0xffffff80, ALL}},
	[nvme_admin_async_event] = {"asynchronous event request", request_event, false, false,
				    NO_DATA},
	[nvme_admin_keep_alive] = {"keep alive", keep_alive, false, false, NO_DATA},
	[nvme_admin_dbbuf] = {"doorbell buffer config", set_doorbell_buffers, true, false, NO_DATA},
};
