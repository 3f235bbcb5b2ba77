/* SPDX-License-Identifier: BSD-3-Clause */
#include "order.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "start.h"

/* Freed by the second of the two who need it: the keeper, and who gave it. */
struct nvme_order {
	TAILQ_ENTRY(nvme_order) link;
	nvme_order_fn run;
	struct completion *completion;
	bool finished;
	bool abandoned; /* who gave it was cancelled */
	int rc;
	struct errmsg err;
};

struct nvme_order *
nvme_order_create(nvme_order_fn run)
{
	struct nvme_order *order = calloc(1, sizeof(*order));

	if (order == NULL)
		return NULL;
	order->run = run;
	order->completion = completion_create();
	if (order->completion == NULL) {
		free(order);
		return NULL;
	}
	return order;
}

void
nvme_order_drop(struct nvme_order *order)
{
	if (order != NULL)
		completion_drop(order->completion);
	free(order);
}

bool
nvme_order_is_abandoned(const struct nvme_order *order)
{
	return order->abandoned;
}

void
nvme_order_finish(struct nvme_order *order, int rc, const struct errmsg *err)
{
	if (rc != 0)
		order->err = *err;
	order->finished = true;
	order->rc = rc;
	completion_signal(order->completion, rc);
	if (order->abandoned)
		free(order);
}

int
nvme_order_wait(struct nvme_order *order, struct errmsg *err)
{
	int rc;

	completion_wait(order->completion, WAIT_FOREVER);
	completion_put(order->completion);
	if (!order->finished) {
		order->abandoned = true;
		return err_set(err, -ECANCELED, "%s", strerror(ECANCELED));
	}
	rc = order->rc;
	if (rc != 0)
		err_set(err, rc, "%s", order->err.text);
	free(order);
	return rc;
}

static int
give_order(struct nvme_ctrlr *ctrlr, nvme_order_fn run, struct errmsg *err)
{
	struct nvme_order *order;

	/* Nobody carries orders out any more. */
	if (ctrlr->parting)
		return ctrlr_err(ctrlr, err, -ENODEV, "it is being detached");
	order = nvme_order_create(run);
	if (order == NULL)
		return err_set(err, -ENOMEM, "%s", strerror(ENOMEM));
	TAILQ_INSERT_TAIL(&ctrlr->orders, order, link);
	nvme_ctrlr_work(ctrlr, NVME_WORK_ORDERS);
	return nvme_order_wait(order, err);
}

void
nvme_orders_serve(struct nvme_ctrlr *ctrlr)
{
	TAILQ_HEAD(, nvme_order) same = TAILQ_HEAD_INITIALIZER(same);
	struct nvme_order *order = TAILQ_FIRST(&ctrlr->orders), *next;
	struct errmsg err = {""};
	nvme_order_fn run;
	int rc;

	if (order == NULL)
		return;
	run = order->run;
	for (; order != NULL && order->run == run; order = next) {
		next = TAILQ_NEXT(order, link);
		TAILQ_REMOVE(&ctrlr->orders, order, link);
		TAILQ_INSERT_TAIL(&same, order, link);
	}
	rc = run(ctrlr, &err);
	while ((order = TAILQ_FIRST(&same)) != NULL) {
		TAILQ_REMOVE(&same, order, link);
		nvme_order_finish(order, rc, &err);
	}
	if (!TAILQ_EMPTY(&ctrlr->orders))
		nvme_ctrlr_work(ctrlr, NVME_WORK_ORDERS);
}

static int
order_reset(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state == NVME_GONE)
		return ctrlr_err(ctrlr, err, -ENODEV, "the device is gone");
	if (ctrlr->info.state == NVME_DISABLED)
		return ctrlr_err(ctrlr, err, -EBUSY, "it is disabled");
	return nvme_ctrlr_recover(ctrlr, err);
}

static int
order_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state == NVME_GONE)
		return ctrlr_err(ctrlr, err, -ENODEV, "the device is gone");
	if (ctrlr->info.state == NVME_DISABLED)
		return ctrlr_err(ctrlr, err, -EALREADY, "it is disabled already");
	return nvme_ctrlr_disable(ctrlr, err);
}

static int
order_enable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	if (ctrlr->info.state == NVME_GONE)
		return ctrlr_err(ctrlr, err, -ENODEV, "the device is gone");
	if (ctrlr->info.state != NVME_DISABLED)
		return ctrlr_err(ctrlr, err, -EALREADY, "it is enabled already");
	return nvme_ctrlr_recover(ctrlr, err);
}

int
nvme_reset(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	return give_order(ctrlr, order_reset, err);
}

int
nvme_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	return give_order(ctrlr, order_disable, err);
}

int
nvme_enable(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	return give_order(ctrlr, order_enable, err);
}

void
nvme_orders_refuse(struct nvme_ctrlr *ctrlr)
{
	struct nvme_order *order;
	struct errmsg err;

	while ((order = TAILQ_FIRST(&ctrlr->orders)) != NULL) {
		TAILQ_REMOVE(&ctrlr->orders, order, link);
		ctrlr_err(ctrlr, &err, -ENODEV, "it is being detached");
		nvme_order_finish(order, -ENODEV, &err);
	}
}
