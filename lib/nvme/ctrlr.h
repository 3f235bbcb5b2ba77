/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ctrlr: a controller, as the files of the room share it. Private to lib/nvme.
 */
#ifndef VHOSTD_NVME_CTRLR_H
#define VHOSTD_NVME_CTRLR_H

#include <pthread.h>
#include <stdatomic.h>

#include "coroutine.h"
#include "nvme.h"
#include "qpair.h"

#define NVME_PAGE_SIZE  4096u /* CC.MPS is 0 where the device can do it, else as small as it can */
#define NVME_MAX_QUEUES 128u  /* I/O queue pairs that we would use */

struct nvme_ctrlr {
	/* set once by attach */
	char name[NVME_NAME_MAX + 1];
	struct nvme_transport *transport;
	struct dma_space *dma;
	struct thread *app;
	uint32_t stride;            /* CAP.DSTRD */
	uint32_t page_size;         /* CC.MPS, bytes */
	uint32_t queue_size;        /* entries of an I/O queue */
	uint32_t sgl_rules;         /* SGLS of the identify data: 0 none */
	uint32_t *shadows, *events; /* DBBUF; NULL: none */
	struct nvme_qpair *qpairs;  /* [i] has the id i + 1 */
	uint32_t qpair_count;

	/* any thread; written by the app thread */
	_Atomic uint64_t io_timeout_ticks; /* 0: none */
	_Atomic uint32_t retries;

	/* under lock, for a moment: which queue pairs are free */
	pthread_mutex_t lock;

	/* app thread */
	struct nvme_ctrlr_info info;
	/* … the rest is ctrlr.c's, admin.c's, namespace.c's */
};

/* ---- for qpair.c ---- */

/* Any thread: that queue pair has a thread and is not there yet: make it and start it. Never blocks. */
void nvme_ctrlr_wants_qpair(struct nvme_qpair *qpair);
/*
 * Its thread: command cid has timed out (once for each time it is sent), or the queue is of no use
 * (a completion that makes no sense: cid UINT16_MAX). What to do is the controller's choice: nothing;
 * an abort, which ends in nvme_qpair_abort_done(); a reset. Never blocks.
 */
void nvme_ctrlr_timed_out(struct nvme_qpair *qpair, uint16_t cid);
/* The eventfd that tells of completions of that queue pair, or -1. Its thread. */
int nvme_ctrlr_interrupt(const struct nvme_qpair *qpair);
/* App thread: the MSI-X vector of it, and whether there are interrupts (CDW11 of Create CQ). */
bool nvme_ctrlr_vector(const struct nvme_qpair *qpair, uint16_t *vector);

#endif
