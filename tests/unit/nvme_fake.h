/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_fake: include/nvme.h without devices. Controllers are where the test puts them; their
 * namespaces are memory; what is submitted is on record, and done by a poller of the thread's after
 * it was flushed.
 */
#ifndef VHOSTD_NVME_FAKE_H
#define VHOSTD_NVME_FAKE_H

#include <errno.h>
#include <stdio.h>

#include "bdev_rig.h"
#include "nvme.h"

#define FAKE_CTRLRS     2
#define FAKE_NAMESPACES 4
#define FAKE_QPAIRS     4
#define FAKE_BYTES      (4u << 20) /* of each namespace */
#define FAKE_LOG        256

struct nvme_qpair {
	struct nvme_ctrlr *ctrlr;
	struct thread *thread; /* NULL: free */
	uint32_t refs;
	struct poller *poller;
	struct nvme_request *first, *last; /* submitted */
	uint32_t unflushed;                /* of these, at the end */
	uint32_t count;
};

struct nvme_ctrlr {
	/* the test's */
	const char *trtype, *traddr;
	bool present;
	int attach_rc;
	bool attach_hangs; /* until it is cancelled */
	int reset_rc;
	uint64_t reset_us;
	bool held; /* requests are not done */
	uint16_t fail_opcode;
	int fail_rc;
	struct nvme_smart_log health;
	struct nvme_ctrlr_info info;
	struct nvme_ns ns[FAKE_NAMESPACES];
	uint32_t ns_count; /* ascending nsid */
	uint32_t max_qpairs;
	/* the driver's */
	bool attached;
	nvme_event_fn event;
	void *event_ctx;
	struct nvme_opts opts;
	struct nvme_tuning tuning;
	struct nvme_qpair qpairs[FAKE_QPAIRS];
	uint8_t *memory[FAKE_NAMESPACES];
	struct dma_space *dma;
	unsigned int attaches, detaches, resets;
	struct nvme_command log[FAKE_LOG];
	unsigned int logged;
	struct nvme_dsm_range ranges[64];
	unsigned int range_count;
};

static struct nvme_ctrlr fake[FAKE_CTRLRS];

/* ---- what a test does ---- */

static inline struct nvme_ns
fake_ns(uint32_t nsid, uint32_t block_size)
{
	struct nvme_ns ns = {.nsid = nsid,
			     .block_size = block_size,
			     .physical_block_size = block_size,
			     .blocks = FAKE_BYTES / block_size,
			     .can_write_zeroes_unmap = true};

	ns.nguid[0] = 0xab;
	ns.nguid[15] = (uint8_t)nsid;
	return ns;
}

static inline int
fake_map(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	(void)ctx;
	(void)addr;
	(void)length;
	(void)iova;
	(void)fd;
	(void)fd_offset;
	return 0;
}

static inline void
fake_unmap(void *ctx, uint64_t iova, uint64_t length)
{
	(void)ctx;
	(void)iova;
	(void)length;
}

static inline struct dma_space *
fake_space(void)
{
	static const struct dma_space_ops ops = {.map = fake_map, .unmap = fake_unmap};
	const struct dma_range range = {.first = 0x1000, .last = 0xffffffff};
	struct dma_space *space;

	assert_int_equal(dma_space_create(&ops, NULL, &range, 1, &space), 0);
	return space;
}

/* A PCIe one with namespaces 1 (512) and 3 (4096), and a vfio-user one with one. */
static inline void
fake_reset_all(void)
{
	memset(fake, 0, sizeof(fake));
	for (int i = 0; i < FAKE_CTRLRS; i++) {
		struct nvme_ctrlr *ctrlr = &fake[i];

		ctrlr->trtype = i == 0 ? "PCIe" : "VFIOUSER";
		ctrlr->traddr = i == 0 ? "0000:01:00.0" : "/nowhere/device";
		ctrlr->present = true;
		ctrlr->max_qpairs = FAKE_QPAIRS;
		ctrlr->dma = fake_space();
		ctrlr->info = (struct nvme_ctrlr_info){
			.trtype = ctrlr->trtype,
			.traddr = ctrlr->traddr,
			.version = 0x10400,
			.vendor_id = 0x1b36,
			.cntlid = (uint16_t)(7 + i),
			.model = "Fake",
			.serial = "F-1",
			.firmware = "1.0",
			.subnqn = "nqn.2014-08.org.nvmexpress:fake",
			.max_transfer = 128 * 1024,
			.write_cache = true,
			.oncs = NVME_CTRL_ONCS_DSM | NVME_CTRL_ONCS_WRITE_ZEROES,
			.max_dsm_ranges = 256,
			.max_dsm_blocks = UINT32_MAX,
			.io_queues = FAKE_QPAIRS,
		};
		ctrlr->ns[0] = fake_ns(1, 512);
		ctrlr->ns[1] = fake_ns(3, 4096);
		ctrlr->ns_count = i == 0 ? 2 : 1;
		if (i == 1)
			ctrlr->ns[0].nguid[1] = 1; /* another one */
		for (int n = 0; n < FAKE_NAMESPACES; n++)
			ctrlr->memory[n] = calloc(1, FAKE_BYTES);
	}
}

static inline void
fake_free_all(void)
{
	for (int i = 0; i < FAKE_CTRLRS; i++) {
		dma_space_destroy(fake[i].dma);
		for (int n = 0; n < FAKE_NAMESPACES; n++)
			free(fake[i].memory[n]);
	}
}

struct fake_tell {
	struct nvme_ctrlr *ctrlr;
	enum nvme_event event;
};

static inline void
fake_tell_run(void *arg)
{
	struct fake_tell *tell = arg;

	tell->ctrlr->event(tell->ctrlr->event_ctx, tell->event);
}

static inline void
fake_tell(struct nvme_ctrlr *ctrlr, enum nvme_event event)
{
	struct fake_tell tell = {ctrlr, event};

	rig_run(fake_tell_run, &tell);
	rig_settle();
}

/* Pulled out: what it has and gets fails. */
static inline void
fake_pull(struct nvme_ctrlr *ctrlr)
{
	ctrlr->present = false;
	ctrlr->info.state = NVME_GONE;
	fake_tell(ctrlr, NVME_EVENT_GONE);
}

static inline unsigned int
fake_count(const struct nvme_ctrlr *ctrlr, uint8_t opcode)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < ctrlr->logged && i < FAKE_LOG; i++)
		count += ctrlr->log[i].opcode == opcode;
	return count;
}

/* ---- the driver's control path ---- */

int
nvme_attach(const struct nvme_opts *opts, nvme_event_fn event, void *ctx,
	    struct nvme_ctrlr **result, struct errmsg *err)
{
	struct nvme_ctrlr *ctrlr = NULL;

	for (int i = 0; i < FAKE_CTRLRS; i++) {
		if (strcmp(fake[i].trtype, opts->trtype) == 0 &&
		    strcmp(fake[i].traddr, opts->traddr) == 0)
			ctrlr = &fake[i];
	}
	if (coroutine_sleep(10) != 0)
		return -ECANCELED;
	if (ctrlr != NULL)
		ctrlr->attaches++;
	while (ctrlr != NULL && ctrlr->attach_hangs) {
		if (coroutine_sleep(WAIT_FOREVER) != 0)
			return -ECANCELED;
	}
	if (ctrlr == NULL || !ctrlr->present)
		return err_set(err, -ENODEV, "there is no device");
	if (ctrlr->attach_rc != 0)
		return ctrlr->attach_rc;
	if (ctrlr->attached)
		abort();
	ctrlr->attached = true;
	ctrlr->event = event;
	ctrlr->event_ctx = ctx;
	ctrlr->opts = *opts;
	ctrlr->tuning = opts->tuning;
	ctrlr->info.state = NVME_LIVE;
	*result = ctrlr;
	return 0;
}

void
nvme_detach(struct nvme_ctrlr *ctrlr)
{
	bool used = true;

	/* Puts are by message. */
	while (used && coroutine_sleep(10) == 0) {
		used = false;
		for (int i = 0; i < FAKE_QPAIRS; i++)
			used |= ctrlr->qpairs[i].thread != NULL;
	}
	ctrlr->attached = false;
	ctrlr->detaches++;
}

int
nvme_reset(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state == NVME_DISABLED)
		return err_set(err, -EBUSY, "it is disabled");
	ctrlr->resets++;
	coroutine_sleep(ctrlr->reset_us);
	return ctrlr->reset_rc;
}

int
nvme_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	(void)err;
	if (ctrlr->info.state == NVME_DISABLED)
		return -EALREADY;
	ctrlr->info.state = NVME_DISABLED;
	ctrlr->held = true;
	return 0;
}

int
nvme_enable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	(void)err;
	if (ctrlr->info.state != NVME_DISABLED)
		return -EALREADY;
	ctrlr->info.state = NVME_LIVE;
	ctrlr->held = false;
	return 0;
}

void
nvme_tune(struct nvme_ctrlr *ctrlr, const struct nvme_tuning *tuning)
{
	ctrlr->tuning = *tuning;
}

const struct nvme_ctrlr_info *
nvme_get_info(struct nvme_ctrlr *ctrlr)
{
	return &ctrlr->info;
}

struct dma_space *
nvme_dma_space(struct nvme_ctrlr *ctrlr)
{
	return ctrlr->dma;
}

const struct nvme_ns *
nvme_ns_next(struct nvme_ctrlr *ctrlr, uint32_t nsid)
{
	for (uint32_t i = 0; i < ctrlr->ns_count; i++) {
		if (ctrlr->ns[i].nsid > nsid)
			return &ctrlr->ns[i];
	}
	return NULL;
}

int
nvme_get_health(struct nvme_ctrlr *ctrlr, struct nvme_smart_log *health)
{
	coroutine_sleep(10);
	*health = ctrlr->health;
	return ctrlr->attached ? 0 : -ENODEV;
}

/* ---- the driver's data path ---- */

static inline uint8_t *
fake_memory(struct nvme_ctrlr *ctrlr, uint32_t nsid, uint32_t *shift)
{
	for (uint32_t i = 0; i < ctrlr->ns_count; i++) {
		if (ctrlr->ns[i].nsid != nsid)
			continue;
		*shift = (uint32_t)__builtin_ctz(ctrlr->ns[i].block_size);
		return ctrlr->memory[i];
	}
	return NULL;
}

static inline void
fake_transfer(struct nvme_request *request, uint8_t *disk)
{
	uint32_t left = request->length;

	for (uint32_t i = 0; left > 0; i++) {
		const struct iovec *iov = &request->iov[i];
		uint32_t length = iov->iov_len < left ? (uint32_t)iov->iov_len : left;

		if (i >= request->iovcnt)
			abort();
		if (length > 0 && request->command.opcode == nvme_cmd_read)
			memcpy(iov->iov_base, disk, length);
		else if (length > 0)
			memcpy(disk, iov->iov_base, length);
		disk += length;
		left -= length;
	}
}

static inline void
fake_keep_ranges(struct nvme_ctrlr *ctrlr, const struct nvme_request *request)
{
	uint32_t count = request->command.cdw10 + 1;

	if (request->length != count * sizeof(struct nvme_dsm_range) || request->iovcnt != 1 ||
	    request->command.cdw11 != NVME_DSMGMT_AD || ctrlr->range_count + count > 64)
		abort();
	memcpy(&ctrlr->ranges[ctrlr->range_count], request->iov[0].iov_base, request->length);
	ctrlr->range_count += count;
}

static inline int
fake_carry_out(struct nvme_ctrlr *ctrlr, struct nvme_request *request)
{
	const struct nvme_command *command = &request->command;
	uint64_t slba = (uint64_t)command->cdw11 << 32 | command->cdw10;
	uint64_t blocks = (command->cdw12 & 0xffff) + 1;
	uint32_t shift = 0;
	uint8_t *memory = fake_memory(ctrlr, command->nsid, &shift);

	if (ctrlr->logged < FAKE_LOG)
		ctrlr->log[ctrlr->logged] = *command;
	ctrlr->logged++;
	if (!ctrlr->present)
		return -ENODEV;
	if (memory == NULL)
		return -EINVAL;
	if (ctrlr->fail_rc != 0 && ctrlr->fail_opcode == command->opcode)
		return ctrlr->fail_rc;
	if (command->opcode == nvme_cmd_flush)
		return 0;
	if (command->opcode == nvme_cmd_dsm) {
		fake_keep_ranges(ctrlr, request);
		return 0;
	}
	if ((slba + blocks) << shift > FAKE_BYTES)
		abort();
	if (command->opcode == nvme_cmd_write_zeroes) {
		memset(memory + (slba << shift), 0, blocks << shift);
		return 0;
	}
	if (request->length != blocks << shift)
		abort();
	fake_transfer(request, memory + (slba << shift));
	return 0;
}

static inline int
fake_poll(void *arg)
{
	struct nvme_qpair *qpair = arg;
	int rc = POLLER_IDLE;

	while (qpair->count > qpair->unflushed && (!qpair->ctrlr->held || !qpair->ctrlr->present)) {
		struct nvme_request *request = qpair->first;

		qpair->first = request->next;
		qpair->count--;
		rc = POLLER_BUSY;
		request->done(request,
			      *request->revoked ? -ENODEV : fake_carry_out(qpair->ctrlr, request));
	}
	return rc;
}

struct nvme_qpair *
nvme_qpair_get(struct nvme_ctrlr *ctrlr)
{
	struct nvme_qpair *qpair = NULL;

	if (!ctrlr->attached)
		abort();
	for (uint32_t i = 0; i < ctrlr->max_qpairs; i++) {
		if (ctrlr->qpairs[i].thread == thread_current()) {
			ctrlr->qpairs[i].refs++;
			return &ctrlr->qpairs[i];
		}
		if (ctrlr->qpairs[i].thread == NULL && qpair == NULL)
			qpair = &ctrlr->qpairs[i];
	}
	if (qpair == NULL) {
		errno = ENOSPC;
		return NULL;
	}
	*qpair = (struct nvme_qpair){.ctrlr = ctrlr, .thread = thread_current(), .refs = 1};
	qpair->poller = poller_register(fake_poll, qpair, 0, "fake");
	return qpair;
}

void
nvme_qpair_put(struct nvme_qpair *qpair)
{
	if (qpair->thread != thread_current() || qpair->count != 0)
		abort();
	if (--qpair->refs > 0)
		return;
	poller_unregister(&qpair->poller);
	qpair->thread = NULL;
}

void
nvme_qpair_submit(struct nvme_qpair *qpair, struct nvme_request *request)
{
	if (qpair->thread != thread_current() || request->done == NULL || request->revoked == NULL)
		abort();
	request->next = NULL;
	if (qpair->count == 0)
		qpair->first = request;
	else
		qpair->last->next = request;
	qpair->last = request;
	qpair->count++;
	qpair->unflushed++;
}

void
nvme_qpair_flush(struct nvme_qpair *qpair)
{
	if (qpair->thread != thread_current())
		abort();
	qpair->unflushed = 0;
}

#endif
