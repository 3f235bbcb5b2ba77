/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * admin: the admin queue, and who waits for which of its commands. Private to lib/nvme; app thread.
 */
#ifndef VHOSTD_NVME_ADMIN_H
#define VHOSTD_NVME_ADMIN_H

#include <stdbool.h>
#include <stdint.h>

#include "nvme.h"
#include "queue.h"

#define NVME_ADMIN_ENTRIES 32u
#define NVME_ADMIN_SLOTS   16u /* commands at a time, the asynchronous event requests too */
#define NVME_MAX_EVENTS    4u  /* asynchronous event requests */

enum nvme_admin_slot_state {
	NVME_ADMIN_FREE,
	NVME_ADMIN_SENT,
	NVME_ADMIN_ENDED, /* whoever sent it has not looked yet */
};

/* Room for a command. */
struct nvme_admin_slot {
	enum nvme_admin_slot_state state;
	uint16_t cid;   /* of the command, or of the last one; modulo NVME_ADMIN_SLOTS: which */
	bool event;     /* an asynchronous event request */
	bool abandoned; /* nobody waits for it any more */
	int rc;         /* ENDED: 0, or why there is no completion */
	struct nvme_cqe cqe;
	uint64_t deadline;             /* ticks, of an abandoned one */
	struct completion *completion; /* of who waits; may be NULL */
};

struct nvme_admin {
	struct nvme_queue queue;
	struct nvme_admin_slot slots[NVME_ADMIN_SLOTS];
	uint8_t *pages; /* DMA memory, a page for each slot */
	uint64_t pages_iova;
	bool open;     /* the controller is ready for commands */
	uint32_t sent; /* without the event requests */
	struct poller *poller;
	bool poller_is_fast;
	uint32_t idle_polls;

	uint32_t event_requests;          /* as many as are wanted */
	uint32_t events[NVME_MAX_EVENTS]; /* dword 0 of those that came */
	uint32_t event_count;
};

/* [waits] The queue and its pages. */
int nvme_admin_alloc(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/* The device is off, or gone. */
void nvme_admin_free(struct nvme_ctrlr *ctrlr);
/* The controller is off: the queue is empty again, all commands end with rc. */
void nvme_admin_close(struct nvme_ctrlr *ctrlr, int rc);
/* Before it is enabled. */
int nvme_admin_open(struct nvme_ctrlr *ctrlr);

/* A command, and its data: either memory of the device's, or any (copied). */
struct nvme_admin_call {
	struct nvme_command command;
	uint64_t prp1, prp2;
	void *data; /* or NULL; goes the way that the opcode's last two bits say */
	uint32_t length;
	/* set */
	uint32_t result; /* dword 0 */
	uint16_t status; /* NVME_STATUS_MASK | NVME_DNR */
};
/*
 * [waits] Also while the controller starts. 0; -EAGAIN (no slot becomes free in time); -ENODEV;
 * -ETIMEDOUT; -EBUSY (it is off); -ECANCELED; nvme_status_errno().
 */
int nvme_admin_call(struct nvme_ctrlr *ctrlr, struct nvme_admin_call *call);
/* The same, with the reason in err: "Identify Controller: Invalid Field in Command". */
int nvme_admin_call_named(struct nvme_ctrlr *ctrlr, struct nvme_admin_call *call, const char *what,
			  struct errmsg *err);

/* Sends Abort for that command. NULL: no slot is free. When it has ENDED the keeper is woken. */
struct nvme_admin_slot *nvme_admin_send_abort(struct nvme_ctrlr *ctrlr, uint16_t queue,
					      uint16_t cid);
void nvme_admin_release(struct nvme_admin_slot *slot);
/* Whether a command that nobody waits for any more has no end. */
bool nvme_admin_is_overdue(const struct nvme_ctrlr *ctrlr);
/* Keeps as many event requests outstanding as are wanted. */
void nvme_admin_request_events(struct nvme_ctrlr *ctrlr);

#endif
