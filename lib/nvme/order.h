/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * order: what another coroutine wants of a controller's keeper, and waits for. Private to lib/nvme;
 * app thread.
 */
#ifndef VHOSTD_NVME_ORDER_H
#define VHOSTD_NVME_ORDER_H

#include "ctrlr.h"

typedef int (*nvme_order_fn)(struct nvme_ctrlr *ctrlr, struct errmsg *err);

/* run: what the keeper calls; NULL: it knows. NULL when there is no memory. */
struct nvme_order *nvme_order_create(nvme_order_fn run);
/* One that nobody waits for, and the keeper does not know. NULL: nothing happens. */
void nvme_order_drop(struct nvme_order *order);
/*
 * [waits] until it is finished, and frees it. What the keeper said; or -ECANCELED: this coroutine
 * is cancelled, and the keeper carries the order out nevertheless.
 */
int nvme_order_wait(struct nvme_order *order, struct errmsg *err);

/* ---- the keeper ---- */

/* Who gave it does not wait for it any more. */
bool nvme_order_is_abandoned(const struct nvme_order *order);
/* It is not the keeper's any more. err: where rc is not 0. */
void nvme_order_finish(struct nvme_order *order, int rc, const struct errmsg *err);
/* Carries out the first of ctrlr->orders; all that want the same get it at once. */
void nvme_orders_serve(struct nvme_ctrlr *ctrlr);
/* It is being detached: all of them fail. */
void nvme_orders_refuse(struct nvme_ctrlr *ctrlr);

#endif
