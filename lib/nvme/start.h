/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * start: the steps of a controller's start, reset and end. Private to lib/nvme. All of them run in
 * the keeper, and wait.
 */
#ifndef VHOSTD_NVME_START_H
#define VHOSTD_NVME_START_H

#include "ctrlr.h"

/* ---- start.c ---- */

/* CAP and VS, checked. 0, -ENODEV, -EINVAL. */
int nvme_ctrlr_read_capabilities(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/* CAP.TO. */
uint64_t nvme_ctrlr_ready_timeout_us(const struct nvme_ctrlr *ctrlr);
/*
 * After this, with success or not, it uses no memory of ours (unless it is -ECANCELED, or -ENODEV:
 * see nvme_ctrlr_lose()): it is off; or was reset as a function; or must not master the bus any
 * more.
 */
int nvme_ctrlr_turn_off(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/*
 * It is off: on, identified, with its namespaces, its events, and the queue pairs that there
 * were.
 */
int nvme_ctrlr_start(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/* It is told that the end is near, and may write what it caches. */
void nvme_ctrlr_shut_down(struct nvme_ctrlr *ctrlr);
/* Whether it is still there, and well: leaves work if not. */
void nvme_ctrlr_look(struct nvme_ctrlr *ctrlr);

/* ---- recover.c ---- */

/* On the device, those that have memory. */
int nvme_qpairs_make(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/* Makes those that threads have got, and then settles. */
void nvme_qpairs_serve(struct nvme_ctrlr *ctrlr);
/* Visits all queue pairs that threads have: each becomes what the controller's state asks for. */
void nvme_qpairs_settle(struct nvme_ctrlr *ctrlr);
/* Reset, until it is live again, failed or gone. 0 when it is live. */
int nvme_ctrlr_recover(struct nvme_ctrlr *ctrlr, struct errmsg *err);
int nvme_ctrlr_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/* It is gone, or seems to be: it is now, and does not master the bus any more. */
void nvme_ctrlr_lose(struct nvme_ctrlr *ctrlr);
/* It is wanted back: shut down, and gone for its users. */
void nvme_ctrlr_leave(struct nvme_ctrlr *ctrlr);

/* ---- abort.c ---- */

/* Starts aborts that are wanted, ends those that are done; returns whether some are under way. */
bool nvme_aborts_serve(struct nvme_ctrlr *ctrlr);
/* The controller was reset: there are none. */
void nvme_aborts_forget(struct nvme_ctrlr *ctrlr);

/* ---- namespace.c, event.c ---- */

/* All namespaces anew. Tells when something has changed. */
int nvme_namespaces_scan(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/* The same while it is live, and when they have changed. Tries again later if need be. */
void nvme_namespaces_serve(struct nvme_ctrlr *ctrlr);
/* What came by asynchronous events. */
void nvme_events_serve(struct nvme_ctrlr *ctrlr);
/* Looks at its health; tells when the critical warnings have changed. */
void nvme_health_serve(struct nvme_ctrlr *ctrlr);

/* ---- log_page.c ---- */

/* The first length bytes, at most NVME_ADMIN_DATA_MAX. */
int nvme_log_page(struct nvme_ctrlr *ctrlr, uint8_t id, void *data, uint32_t length);

#endif
