/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_fake: NVMe controllers for fuzz targets of methods, without devices: one is there when its
 * address ends with an even byte, and has two namespaces. They have no data path: nobody connects.
 */
#ifndef VHOSTD_FUZZ_NVME_FAKE_H
#define VHOSTD_FUZZ_NVME_FAKE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "coroutine.h"
#include "nvme.h"

struct nvme_ctrlr {
	struct nvme_ctrlr_info info;
	struct nvme_ns namespaces[2];
};

int
nvme_attach(const struct nvme_opts *opts, nvme_event_fn event, void *ctx,
	    struct nvme_ctrlr **result, struct errmsg *err)
{
	size_t length = strlen(opts->traddr);
	struct nvme_ctrlr *ctrlr;

	(void)event;
	(void)ctx;
	if (coroutine_sleep(1000) != 0)
		return -ECANCELED;
	if (opts->traddr[length - 1] & 1)
		return err_set(err, -ENODEV, "there is no device");
	ctrlr = calloc(1, sizeof(*ctrlr));
	if (ctrlr == NULL)
		return -ENOMEM;
	ctrlr->info.max_transfer = 131072;
	ctrlr->info.oncs = NVME_CTRL_ONCS_DSM;
	for (uint32_t i = 0; i < 2; i++)
		ctrlr->namespaces[i] =
			(struct nvme_ns){.nsid = i + 1, .block_size = 512u << i, .blocks = 128};
	/* Each device has names of its own. */
	memcpy(ctrlr->namespaces[0].eui64, opts->traddr + (length > 8 ? length - 8 : 0),
	       length < 8 ? length : 8);
	*result = ctrlr;
	return 0;
}

void
nvme_detach(struct nvme_ctrlr *ctrlr)
{
	coroutine_sleep(1000);
	free(ctrlr);
}

int
nvme_reset(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state == NVME_DISABLED)
		return err_set(err, -EBUSY, "disabled");
	ctrlr->info.resets++;
	return coroutine_sleep(1000);
}

int
nvme_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state == NVME_DISABLED)
		return err_set(err, -EALREADY, "disabled");
	ctrlr->info.state = NVME_DISABLED;
	return 0;
}

int
nvme_enable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state != NVME_DISABLED)
		return err_set(err, -EALREADY, "enabled");
	ctrlr->info.state = NVME_LIVE;
	return 0;
}

void
nvme_tune(struct nvme_ctrlr *ctrlr, const struct nvme_tuning *tuning)
{
	(void)ctrlr;
	(void)tuning;
}

const struct nvme_ctrlr_info *
nvme_get_info(struct nvme_ctrlr *ctrlr)
{
	return &ctrlr->info;
}

struct dma_space *
nvme_dma_space(struct nvme_ctrlr *ctrlr)
{
	(void)ctrlr;
	return NULL;
}

const struct nvme_ns *
nvme_ns_next(struct nvme_ctrlr *ctrlr, uint32_t nsid)
{
	return nsid < 2 ? &ctrlr->namespaces[nsid] : NULL;
}

int
nvme_get_health(struct nvme_ctrlr *ctrlr, struct nvme_smart_log *health)
{
	(void)ctrlr;
	memset(health, 0x5a, sizeof(*health));
	return coroutine_sleep(1000);
}

struct nvme_qpair *
nvme_qpair_get(struct nvme_ctrlr *ctrlr)
{
	(void)ctrlr;
	errno = ENOSPC;
	return NULL;
}

/* Never, without a queue pair. */
void
nvme_qpair_put(struct nvme_qpair *qpair)
{
	(void)qpair;
	abort();
}

void
nvme_qpair_submit(struct nvme_qpair *qpair, struct nvme_request *request)
{
	(void)qpair;
	(void)request;
	abort();
}

void
nvme_qpair_flush(struct nvme_qpair *qpair)
{
	(void)qpair;
	abort();
}

#endif
