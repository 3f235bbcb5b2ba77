/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qpair: an I/O queue pair and its requests, and what the controller needs of it. Private to
 * lib/nvme; the data path's functions are in nvme.h.
 *
 * All queue pairs that the device can have are there, as structs, while the controller is attached.
 * One is made on the device when a thread uses it for the first time, and stays there: what a thread
 * puts the next one gets, at once.
 *
 *   controller's coroutine (app thread)          qpair's thread
 *     nvme_qpair_create()  rings, CQ, SQ
 *     ── for_each_channel ─────────────────────▶ nvme_qpair_start(): what waits is sent
 *     reset: ── for_each_channel ──────────────▶ nvme_qpair_stop(): touches no register or ring
 *       controller off: the device is done with memory
 *       nvme_qpair_create() for all that were there
 *     ── for_each_channel ─────────────────────▶ nvme_qpair_start(): sent ones again, in order
 */
#ifndef VHOSTD_NVME_QPAIR_H
#define VHOSTD_NVME_QPAIR_H

#include "nvme.h"
#include "queue.h"

enum nvme_qpair_state {
	NVME_QPAIR_STOPPED, /* requests wait */
	NVME_QPAIR_LIVE,
	NVME_QPAIR_FAILED, /* requests end with fail_rc */
};

/* A command identifier: its number is the index. */
struct nvme_slot {
	struct nvme_request *request; /* NULL: free */
	void *page;                   /* of DMA memory: PRP list, SGL, or a small bounce buffer */
	uint64_t page_iova;
	/* data.c */
	void *bounce;
	uint32_t bounce_length;
	bool aborting; /* the app thread aborts it: not used again until it says that it is done */
	bool timed_out;
};

struct nvme_qpair {
	/* set once, with the controller */
	struct nvme_ctrlr *ctrlr;
	uint16_t id; /* from 1 */

	/* app thread: whether its memory is there, and the device knows it */
	bool created;
	/* under the controller's lock: whether a thread has it */
	bool used;

	/* its thread; nobody's while it is put */
	struct thread *thread;
	enum nvme_qpair_state state;
	int fail_rc;
	struct nvme_queue queue;
	struct nvme_slot *slots;
	/* … the rest is qpair.c's and data.c's */
	void *memory; /* the slots' pages, and bounce buffers */
	size_t memory_size;
};

/* ---- app thread, in a coroutine [waits] ---- */

/* Makes rings and slots if they are not there, and the queues on the device. Not while it is LIVE. */
int nvme_qpair_create(struct nvme_qpair *qpair, struct errmsg *err);
/* Frees the memory. The device is off, or has no such queues. No thread has it. */
void nvme_qpair_free(struct nvme_qpair *qpair);
/* nvme_ctrlr_abort() is done with it (message to its thread). */
void nvme_qpair_abort_done(struct nvme_qpair *qpair, uint16_t cid);

/* ---- its thread ---- */

void nvme_qpair_stop(struct nvme_qpair *qpair);
/*
 * Created: sends what was sent before the stop (each once more than before; those with no retries
 * left end with -ETIMEDOUT if they had timed out, else -EIO), then what waits.
 */
void nvme_qpair_start(struct nvme_qpair *qpair);
/* The device is off or gone, and will not be back soon: ends all requests, and all to come, with rc. */
void nvme_qpair_fail(struct nvme_qpair *qpair, int rc);

#endif
