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

/*
 * Who does what with a command that has timed out. It may end at any time meanwhile; its identifier
 * is used again only when this is NONE.
 */
enum nvme_abort_state {
	NVME_ABORT_NONE,
	NVME_ABORT_WANTED, /* nvme_ctrlr_timed_out(), on the qpair's thread */
	NVME_ABORT_ACTIVE, /* the app thread took it, from WANTED */
	/*
	 * Its thread: the command has ended, in WANTED or ACTIVE (atomic_exchange()). The app thread
	 * makes it NONE when it needs the identifier no more, without a word: the slot is found
	 * when the qpair's thread next looks for time-outs, or for a free slot.
	 */
	NVME_ABORT_ENDED,
};

/* A command identifier: its number is the index. */
struct nvme_slot {
	struct nvme_request *request; /* NULL: free, if abort is NONE */
	void *page;                   /* of DMA memory: PRP list, SGL, or a small bounce buffer */
	uint64_t page_iova;
	/* data.c */
	void *bounce;
	uint32_t bounce_length;
	bool timed_out;
	_Atomic uint8_t abort; /* enum nvme_abort_state; nvme_qpair_create() makes it NONE */
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
	enum nvme_qpair_state state;
	int fail_rc;
	struct nvme_queue queue;
	struct nvme_slot *slots;
	/* … the rest is qpair.c's and data.c's */
	void *memory; /* the slots' pages, and bounce buffers */
	size_t memory_size;
};

/* ---- app thread, in a coroutine [waits] ---- */

/*
 * Makes rings and slots if they are not there, resets them, and makes the queues on the device
 * (nvme_ctrlr_create_queues()). Its thread, if it has one, has it STOPPED or FAILED, and touches
 * neither queue nor slots then.
 */
int nvme_qpair_create(struct nvme_qpair *qpair, struct errmsg *err);
/* Frees the memory. The device is off, or has no such queues. No thread has it. */
void nvme_qpair_free(struct nvme_qpair *qpair);
/*
 * The io_device is the controller (its address), a channel's context a struct nvme_channel. create
 * takes a queue pair (nvme_ctrlr_take_qpair()), destroy gives it back. App thread; 0 or a negative
 * errno.
 */
struct nvme_channel {
	struct nvme_qpair *qpair;
};
int nvme_qpair_register(struct nvme_ctrlr *ctrlr);

/* ---- its thread ---- */

/* Until started, parked or failed no request ends: the device may still use their memory. */
void nvme_qpair_stop(struct nvme_qpair *qpair);
/* STOPPED, and the device is off, for longer: requests may time out again, sent ones too. */
void nvme_qpair_park(struct nvme_qpair *qpair);
/*
 * Nothing when it is LIVE. Created: sends what was sent before the stop (each once more than before; those with no retries
 * left end with -ETIMEDOUT if they had timed out, else -EIO), then what waits.
 */
void nvme_qpair_start(struct nvme_qpair *qpair);
/* The device is off or gone, and will not be back soon: ends all requests, and all to come, with rc. */
void nvme_qpair_fail(struct nvme_qpair *qpair, int rc);

#endif
