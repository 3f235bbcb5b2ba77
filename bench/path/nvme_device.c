/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/bdev_nvme.h"
#include "event.h"
#include "nvme/ctrlr.h"
#include "path.h"

#define ENTRIES   1024u
#define QUEUES    32u
#define MAPPINGS  64
#define DOORBELLS 1024 /* a page */
#define MDTS      5    /* 128 KiB */
#define ADMIN_US  5000

/* CAP: MQES, CQR, TO of 10 s, the NVM command set */
#define CAPABILITIES ((ENTRIES - 1) | 1ull << 16 | 20ull << 24 | 1ull << 37)
#define VERSION_1_4  0x10400u

struct queue {
	bool started; /* atomic: the rest is there; one reactor makes it, another may use it */
	struct nvme_sqe *sqes;
	struct nvme_cqe *cqes;
	uint32_t entries;
	uint32_t sq_head, cq_tail;
	uint16_t phase;
};

static struct {
	struct nvme_transport transport;
	uint32_t doorbells[DOORBELLS];
	uint32_t cc, csts, aqa;
	uint64_t asq, acq;
	struct queue queues[QUEUES]; /* [0]: admin */
	struct poller *admin;
	struct {
		uint8_t *memory;
		uint64_t iova, length; /* 0: free */
	} mappings[MAPPINGS];
} device;

/* ---- memory ---- */

/* NULL: not all of it is mapped. */
static void *
at(uint64_t iova, uint64_t length)
{
	for (uint32_t i = 0; i < MAPPINGS; i++) {
		const uint64_t offset = iova - device.mappings[i].iova;

		if (offset < device.mappings[i].length &&
		    length <= device.mappings[i].length - offset)
			return device.mappings[i].memory + offset;
	}
	return NULL;
}

static void *
need(uint64_t iova, uint64_t length)
{
	void *memory = at(iova, length);

	if (memory == NULL)
		path_fail("the NVMe device is led to memory that is not mapped", -EFAULT);
	return memory;
}

static int
map(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	(void)ctx;
	(void)fd;
	(void)fd_offset;
	for (uint32_t i = 0; i < MAPPINGS; i++) {
		if (device.mappings[i].length != 0)
			continue;
		device.mappings[i].memory = addr;
		device.mappings[i].iova = iova;
		device.mappings[i].length = length;
		return 0;
	}
	return -ENOSPC;
}

static void
unmap(void *ctx, uint64_t iova, uint64_t length)
{
	(void)ctx;
	(void)length;
	for (uint32_t i = 0; i < MAPPINGS; i++) {
		if (device.mappings[i].iova == iova)
			device.mappings[i].length = 0;
	}
}

/* ---- queues ---- */

/* The next entry that the driver has told of, or NULL. */
static const struct nvme_sqe *
take(struct queue *queue, uint32_t id)
{
	const struct nvme_sqe *sqe;
	uint32_t tail;

	if (!__atomic_load_n(&queue->started, __ATOMIC_ACQUIRE))
		return NULL;
	tail = __atomic_load_n(&device.doorbells[2 * id], __ATOMIC_ACQUIRE);
	if (queue->sq_head == tail)
		return NULL;
	sqe = &queue->sqes[queue->sq_head];
	queue->sq_head = queue->sq_head + 1 == queue->entries ? 0 : queue->sq_head + 1;
	return sqe;
}

static void
complete(struct queue *queue, uint16_t cid, uint16_t status, uint32_t dw0)
{
	struct nvme_cqe *cqe = &queue->cqes[queue->cq_tail];

	cqe->dw0 = dw0;
	cqe->sqhd = (uint16_t)queue->sq_head;
	cqe->cid = cid;
	__atomic_store_n(&cqe->status, status << 1 | queue->phase, __ATOMIC_RELEASE);
	if (++queue->cq_tail == queue->entries) {
		queue->cq_tail = 0;
		queue->phase ^= 1;
	}
}

static void
start_queue(uint32_t id, uint64_t sqes, uint64_t cqes, uint32_t entries)
{
	struct queue *queue = &device.queues[id];

	queue->sqes = need(sqes, entries * sizeof(struct nvme_sqe));
	queue->cqes = need(cqes, entries * sizeof(struct nvme_cqe));
	queue->entries = entries;
	queue->sq_head = 0;
	queue->cq_tail = 0;
	queue->phase = 1;
	device.doorbells[2 * id] = 0;
	__atomic_store_n(&queue->started, true, __ATOMIC_RELEASE);
}

/* ---- the admin queue ---- */

static uint16_t
identify(const struct nvme_sqe *sqe)
{
	void *data = need(sqe->prp1, NVME_IDENTIFY_DATA_SIZE);
	struct nvme_id_ctrl *controller = data;
	struct nvme_id_ns *ns = data;

	memset(data, 0, NVME_IDENTIFY_DATA_SIZE);
	switch (sqe->cdw10) {
	case NVME_IDENTIFY_CNS_CTRL:
		memset(controller->sn, ' ', sizeof(controller->sn) + sizeof(controller->mn));
		controller->sqes = 0x66;
		controller->cqes = 0x44;
		controller->nn = 1;
		controller->mdts = MDTS;
		return 0;
	case NVME_IDENTIFY_CNS_NS:
		ns->nsze = ns->ncap = PATH_DISK_BYTES / 512;
		ns->lbaf[0].ds = 9;
		return 0;
	case NVME_IDENTIFY_CNS_NS_ACTIVE_LIST:
		((struct nvme_ns_list *)data)->ns[0] = sqe->nsid < 1;
		return 0;
	case NVME_IDENTIFY_CNS_NS_DESC_LIST:
		return 0;
	default:
		return NVME_SC_INVALID_FIELD | NVME_DNR;
	}
}

static void
run_admin(struct queue *admin, const struct nvme_sqe *sqe)
{
	static uint64_t cqes[QUEUES];
	const uint32_t id = sqe->cdw10 & 0xffff;
	uint16_t status = 0;
	uint32_t dw0 = 0;

	switch (sqe->opcode) {
	case nvme_admin_identify:
		status = identify(sqe);
		break;
	case nvme_admin_set_features:
		if (sqe->cdw10 == NVME_FEAT_FID_NUM_QUEUES)
			dw0 = (QUEUES - 2) << 16 | (QUEUES - 2);
		break;
	case nvme_admin_async_event:
		return; /* nothing ever happens */
	case nvme_admin_create_cq:
		cqes[id] = sqe->prp1;
		break;
	case nvme_admin_create_sq:
		start_queue(id, sqe->prp1, cqes[id], (sqe->cdw10 >> 16) + 1);
		break;
	case nvme_admin_delete_sq:
		__atomic_store_n(&device.queues[id].started, false, __ATOMIC_RELEASE);
		break;
	default:
		break;
	}
	complete(admin, sqe->cid, status, dw0);
}

static int
poll_admin(void *arg)
{
	const struct nvme_sqe *sqe;

	(void)arg;
	while ((sqe = take(&device.queues[0], 0)) != NULL)
		run_admin(&device.queues[0], sqe);
	return POLLER_IDLE;
}

/* ---- the transport ---- */

static uint64_t
read_register(struct nvme_transport *transport, uint32_t offset, uint32_t size)
{
	(void)transport;
	(void)size;
	switch (offset) {
	case NVME_REG_CAP:
		return CAPABILITIES;
	case NVME_REG_VS:
		return VERSION_1_4;
	case NVME_REG_CC:
		return device.cc;
	default:
		return device.csts;
	}
}

static void
write_control(uint32_t value)
{
	device.cc = value;
	device.csts = 0;
	if (NVME_CC_EN(value)) {
		start_queue(0, device.asq, device.acq, (device.aqa & 0xfff) + 1);
		device.csts = NVME_CSTS_RDY_MASK;
	} else {
		memset(device.queues, 0, sizeof(device.queues));
	}
	if (NVME_CC_SHN(value) != 0)
		device.csts |= NVME_CSTS_SHST_CMPLT << NVME_CSTS_SHST_SHIFT;
}

static void
write_register(struct nvme_transport *transport, uint32_t offset, uint32_t size, uint64_t value)
{
	(void)transport;
	(void)size;
	if (offset == NVME_REG_AQA)
		device.aqa = (uint32_t)value;
	else if (offset == NVME_REG_ASQ)
		device.asq = value;
	else if (offset == NVME_REG_ACQ)
		device.acq = value;
	else if (offset == NVME_REG_CC)
		write_control((uint32_t)value);
}

static int
open_device(const char *traddr, nvme_gone_fn gone, void *ctx, struct nvme_transport **transport,
	    struct errmsg *err)
{
	static const struct dma_space_ops ops = {.map = map, .unmap = unmap};
	static const struct dma_range range = {0, UINT32_MAX * 1024ull};
	int rc = dma_space_create(&ops, NULL, &range, 1, &device.transport.dma);

	(void)traddr;
	(void)gone;
	(void)ctx;
	(void)err;
	if (rc != 0)
		return rc;
	device.transport.ops = &path_nvme_transport;
	device.transport.doorbells = device.doorbells;
	device.transport.doorbells_size = sizeof(device.doorbells);
	device.admin = poller_register(poll_admin, NULL, ADMIN_US, "nvme_device");
	if (device.admin == NULL)
		return -ENOMEM;
	*transport = &device.transport;
	return 0;
}

static void
close_device(struct nvme_transport *transport)
{
	poller_unregister(&device.admin);
	dma_space_destroy(transport->dma);
}

static int
set_interrupts(struct nvme_transport *transport, uint32_t count, int *fds)
{
	(void)transport;
	(void)fds;
	return count == 0 ? 0 : -ENOSPC;
}

static int
set_bus_master(struct nvme_transport *transport, bool on)
{
	(void)transport;
	(void)on;
	return 0;
}

static int
reset(struct nvme_transport *transport)
{
	(void)transport;
	return -EOPNOTSUPP;
}

const struct nvme_transport_ops path_nvme_transport = {
	.name = "PCIe",
	.open = open_device,
	.close = close_device,
	.read = read_register,
	.write = write_register,
	.set_interrupts = set_interrupts,
	.set_bus_master = set_bus_master,
	.reset = reset,
};

/* ---- for the bench ---- */

void
path_nvme_attach(const struct bdev_nvme_opts *opts)
{
	struct errmsg err = {""};
	int rc = bdev_nvme_attach(opts, &err);

	if (rc != 0)
		path_fail(err.text, rc);
}

static const struct nvme_ctrlr *
controller(void)
{
	return TAILQ_FIRST(&bdev_nvme_controllers)->ctrlr;
}

struct view {
	const struct nvme_ctrlr *ctrlr;
	uint32_t core;
	uint32_t queues;
};

/*
 * A moment's view, asked for again until the load begins: another reactor's thread may take a queue
 * pair meanwhile, which is none of ours.
 */
static __attribute__((no_sanitize("thread"), noinline)) uint32_t
queues_of(const struct nvme_ctrlr *ctrlr, const struct thread *thread)
{
	uint32_t queues = 0;

	for (uint32_t id = 1; id < QUEUES && id <= ctrlr->qpair_count; id++) {
		if (ctrlr->qpairs[id - 1].thread == thread)
			queues |= 1u << id;
	}
	return queues;
}

static void
look_at_thread(void *ctx, struct thread *thread)
{
	struct view *view = ctx;

	if (thread_core(thread) == view->core)
		view->queues |= queues_of(view->ctrlr, thread);
}

uint32_t
path_nvme_queues_here(void)
{
	struct view view = {.ctrlr = controller(), .core = thread_core(thread_current())};

	thread_look_at_each(look_at_thread, &view);
	return view.queues;
}

void
path_nvme_turn(uint32_t queues)
{
	for (; queues != 0; queues &= queues - 1) {
		const uint32_t id = (uint32_t)__builtin_ctz(queues);
		struct queue *queue = &device.queues[id];
		const struct nvme_sqe *sqe;

		while ((sqe = take(queue, id)) != NULL) {
			need(sqe->prp1, PATH_BLOCK);
			complete(queue, sqe->cid, 0, 0);
		}
	}
}

uint64_t
path_nvme_copied(void)
{
	const struct nvme_ctrlr *ctrlr = controller();
	uint64_t copied = 0;

	for (uint32_t i = 0; i < ctrlr->qpair_count; i++) {
		struct nvme_qpair_stats stats;

		nvme_qpair_get_stats(&ctrlr->qpairs[i], &stats);
		copied += stats.copied;
	}
	return copied;
}
