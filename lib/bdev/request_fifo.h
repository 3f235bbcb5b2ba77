/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request_fifo: requests that wait for their turn, linked by rq->link. Private to lib/bdev; pure,
 * one thread.
 */
#ifndef VHOSTD_REQUEST_FIFO_H
#define VHOSTD_REQUEST_FIFO_H

#include "bdev.h"

struct request_fifo {
	struct bdev_request *first;
	struct bdev_request *last; /* meaningful when first is not NULL */
};

static inline void
request_fifo_push(struct request_fifo *fifo, struct bdev_request *rq)
{
	rq->link = NULL;
	if (fifo->first == NULL)
		fifo->first = rq;
	else
		fifo->last->link = rq;
	fifo->last = rq;
}

static inline struct bdev_request *
request_fifo_pop(struct request_fifo *fifo)
{
	struct bdev_request *rq = fifo->first;

	if (rq != NULL)
		fifo->first = rq->link;
	return rq;
}

/* Takes those that are wanted out of it, in their order. */
static inline struct request_fifo
request_fifo_pick(struct request_fifo *fifo, const struct bdev_release *release)
{
	struct request_fifo all = *fifo, picked = {0};
	struct bdev_request *rq;

	fifo->first = NULL;
	while ((rq = request_fifo_pop(&all)) != NULL)
		request_fifo_push(bdev_release_wants(release, rq) ? &picked : fifo, rq);
	return picked;
}

#endif
