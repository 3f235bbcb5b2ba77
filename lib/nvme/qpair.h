/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qpair: an I/O queue pair and its requests, and what the controller needs of it. Private to
 * lib/nvme; the data path's functions are in nvme.h.
 *
 * All queue pairs that the device can have are there, as structs, while the controller is attached.
 * One is made on the device when a thread uses it for the first time, and stays there: what a
 * thread puts the next one gets, at once.
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
#include "work.h"

#define NVME_MAX_BUFFERS 16u /* of a queue pair, for data that must be copied */

enum nvme_qpair_state {
	NVME_QPAIR_STOPPED, /* requests wait */
	NVME_QPAIR_PARKED,  /* they wait until they time out */
	NVME_QPAIR_LIVE,
	NVME_QPAIR_FAILED, /* they end with fail_rc */
};

/*
 * Who does what with a command that has timed out. It may end at any time meanwhile; its identifier
 * is used again only when this is NONE.
 */
enum nvme_abort_state {
	NVME_ABORT_NONE,
	NVME_ABORT_WANTED, /* nvme_ctrlr_timed_out(), on the qpair's thread */
	NVME_ABORT_ACTIVE, /* the app thread took it, from WANTED (or has to give it back) */
	/*
	 * Its thread: the command has ended, in WANTED or ACTIVE (atomic_exchange()). The app
	 * thread makes it NONE when it needs the identifier no more, without a word: the slot is
	 * found when the qpair's thread next looks for time-outs.
	 */
	NVME_ABORT_ENDED,
};

/* nvme_slot.flags: what makes a completion other than most. */
#define NVME_SLOT_COPIED    1u /* the data is in the slot's page, or in a buffer */
#define NVME_SLOT_TIMED_OUT 2u
#define NVME_SLOT_FUSED     4u
#define NVME_SLOT_HELD      8u /* without a request: its abort is not over */

/* nvme_request.state */
#define NVME_REQUEST_TIMED_OUT 1u
#define NVME_REQUEST_ENDED     2u /* of a fused pair, whose other half has not */

#define NVME_NO_BUFFER 0xff

/* Room for a command: its number is the index. */
struct nvme_slot {
	struct nvme_request *request; /* NULL: free, if abort is NONE */
	uint64_t order;               /* of sending */
	uint16_t cid;                 /* of the command, or of the last one */
	uint8_t flags;
	uint8_t buffer;        /* COPIED: which one, or NVME_NO_BUFFER: the slot's page */
	_Atomic uint8_t abort; /* enum nvme_abort_state; nvme_qpair_create() makes it NONE */
};

/* Linked by their next. */
struct nvme_request_list {
	struct nvme_request *first;
	struct nvme_request *last; /* meaningful when first is not NULL */
};

/* Whether the queue pair's vector signals; see interrupt.c. */
enum nvme_interrupt_state {
	NVME_INTERRUPT_ON,
	NVME_INTERRUPT_OFF,
	NVME_INTERRUPT_SWITCHING, /* a worker has it */
};

struct nvme_interrupt {
	/* set by create */
	uint32_t vector;
	bool own; /* no other queue's, too, and the transport can switch it */

	/* its thread, and the app thread before it is created again */
	_Atomic uint8_t state;
	/* set by whoever switches, before */
	bool on;
	struct work work;
	/* whoever switches: it cannot, and is not to be tried again */
	_Atomic bool stays;

	/* its thread, since the last look */
	uint64_t needed;   /* how often it would have slept with requests under way */
	uint64_t commands; /* nvme_qpair.commands then */
	/* its thread: the same when it last would have slept, and how often since then */
	uint64_t stuck_at;
	uint32_t stuck;
};

struct nvme_qpair {
	/* its thread, for each request; nobody's while it is put */
	enum nvme_qpair_state state;
	uint32_t free_count;
	uint16_t *free_slots; /* those that can be used now */
	struct nvme_slot *slots;
	uint32_t slot_count;
	uint16_t cid_mask; /* the bits of an identifier that are its slot's number */
	uint32_t dma_hint;
	struct nvme_request_list waiting; /* in order; those of a pair one behind the other */
	struct nvme_request_list resting; /* to be tried again, not before their submit_ticks */
	struct thread *thread;
	uint64_t commands; /* sent so far */
	struct nvme_queue queue;

	/* set by create */
	struct dma_space *dma;
	uint32_t page_size;
	uint32_t sgl_rules;

	/* its thread, else */
	bool attention;   /* those that wait are to be looked at, though no command has ended */
	int interrupt_fd; /* that the poller sleeps on, or -1 */
	struct nvme_interrupt interrupt;
	int fail_rc;
	uint32_t held;           /* slots that are free but for their abort */
	uint64_t failures;       /* commands that failed since time-outs were looked for */
	uint64_t broken;         /* the creation that is not to be trusted; 0: none */
	uint64_t copied, waited; /* see nvme_qpair_stats */
	struct poller *poller, *timeout_poller;
	struct io_channel *channel;
	uint32_t free_buffer_count;
	uint8_t free_buffers[NVME_MAX_BUFFERS];

	/* set once, by the first create: DMA memory, a page of each slot and then the buffers */
	uint8_t *memory;
	uint64_t memory_iova;
	size_t memory_size;
	uint8_t *buffers;
	uint32_t buffer_size, buffer_count;

	/* set once, with the controller */
	struct nvme_ctrlr *ctrlr;
	uint16_t id; /* from 1 */

	/* app thread */
	bool created;       /* its memory is there, and the device knows it */
	bool refused;       /* the last create failed */
	uint64_t creations; /* so far; also read by its thread where that starts */

	/* under the controller's lock: whether a thread has it */
	bool used;
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
/*
 * The device is off, for longer: what was sent waits, as if by start(), and what waits ends with
 * -ETIMEDOUT when its time is over.
 */
void nvme_qpair_park(struct nvme_qpair *qpair);
/*
 * Created. Nothing when it is LIVE, or broken (see nvme_ctrlr_timed_out()) since it was created.
 * Sends what was sent before the stop, in order (each once more than before; those with no retries
 * left end with -ETIMEDOUT if they had timed out, else -EIO; so do fused pairs, of which one
 * command may have been carried out), then what waits; but nothing that was revoked.
 */
void nvme_qpair_start(struct nvme_qpair *qpair);
/* The device is off or gone, for longer: ends all requests, and all to come, with rc. */
void nvme_qpair_fail(struct nvme_qpair *qpair, int rc);

/* ---- between qpair*.c, its thread ---- */

/* Pollers, and the first one's sleep ops. */
int nvme_qpair_poll(void *arg);
bool nvme_qpair_arm(void *arg);
int nvme_qpair_look_for_timeouts(void *arg);
/* LIVE: sends what waits, as far as there is room. FAILED: ends it. */
void nvme_qpair_send_waiting(struct nvme_qpair *qpair);

/* ---- interrupt.c ---- */

/* Its thread: whether it is woken by completions from now on; look for some afterwards. */
bool nvme_interrupt_wakes(struct nvme_qpair *qpair);
/* Its thread, now and then. */
void nvme_interrupt_look(struct nvme_qpair *qpair);
/* App thread [waits]: no worker has it any more, and its thread does not switch it. */
void nvme_interrupt_settle(struct nvme_qpair *qpair);
/* The same; it is on, then. */
void nvme_interrupt_restore(struct nvme_qpair *qpair);

static inline void
nvme_request_list_append(struct nvme_request_list *list, struct nvme_request *request)
{
	request->next = NULL;
	if (list->first == NULL)
		list->first = request;
	else
		list->last->next = request;
	list->last = request;
}

static inline struct nvme_request *
nvme_request_list_pop(struct nvme_request_list *list)
{
	struct nvme_request *request = list->first;

	if (request != NULL)
		list->first = request->next;
	return request;
}

/* list and then rest, in list. */
static inline void
nvme_request_list_join(struct nvme_request_list *list, const struct nvme_request_list *rest)
{
	if (list->first == NULL)
		*list = *rest;
	else if (rest->first != NULL) {
		list->last->next = rest->first;
		list->last = rest->last;
	}
}

/* ---- status.c ---- */

/* Pure. To send the same command again makes no sense. */
bool nvme_status_is_final(uint16_t status);

#endif
