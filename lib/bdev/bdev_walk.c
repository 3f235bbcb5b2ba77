/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Walks: the app thread visits the channels of a bdev one by one. A channel that ends sends its
 * counters to the app thread, before or after the visit of a running walk.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdev_core.h"

static void
visit(struct io_channel_iter *iter)
{
	struct bdev_thread_channel *channel = io_channel_ctx(io_channel_iter_channel(iter));
	struct bdev_walk *walk = io_channel_iter_ctx(iter);
	int rc = walk->ops->visit(walk, channel);

	if (rc == 0)
		channel->counters->walk = walk->number;
	for_each_channel_continue(iter, rc);
}

static void start_first(struct bdev *bdev);

/* Walks belong to this, not to who asked for them, who may be cancelled. */
static void
finish(void *ctx, int status)
{
	struct bdev_walk *walk = ctx;
	struct bdev *bdev = walk->bdev;

	walk->ops->finish(walk, status);
	bdev_ended_join(bdev, &bdev->ended, &bdev->ended_later);
	bdev->walk = walk->next;
	walk->finished = true;
	if (walk->done != NULL)
		completion_signal(walk->done, status);
	if (walk->abandoned)
		walk->ops->free(walk);
	start_first(bdev);
	bdev_put(bdev);
}

static void
start_first(struct bdev *bdev)
{
	struct bdev_walk *walk = bdev->walk;

	if (walk == NULL)
		return;
	walk->number = ++bdev->walks;
	if (for_each_channel(bdev, visit, walk, finish) != 0)
		finish(walk, -ENOMEM);
}

static void
enqueue(struct bdev *bdev, struct bdev_walk *walk)
{
	walk->bdev = bdev;
	walk->next = NULL;
	bdev_get(bdev);
	if (bdev->walk == NULL) {
		bdev->walk = bdev->last_walk = walk;
		start_first(bdev);
	} else {
		bdev->last_walk->next = walk;
		bdev->last_walk = walk;
	}
}

void
bdev_walk_start(struct bdev *bdev, struct bdev_walk *walk)
{
	walk->finished = false;
	walk->abandoned = true;
	walk->done = NULL;
	enqueue(bdev, walk);
}

int
bdev_walk_run(struct bdev *bdev, struct bdev_walk *walk)
{
	int rc = bdev->removing ? -ENODEV : 0;

	walk->finished = walk->abandoned = false;
	if (rc == 0 && (walk->done = completion_create()) == NULL)
		rc = -ENOMEM;
	if (rc != 0) {
		walk->ops->free(walk);
		return rc;
	}
	enqueue(bdev, walk);
	rc = completion_wait(walk->done, WAIT_FOREVER);
	completion_put(walk->done);
	if (rc == 0)
		return 0;
	if (walk->finished)
		walk->ops->free(walk);
	else
		walk->abandoned = true;
	return rc;
}

/* ---- for modules ---- */

struct module_walk {
	struct bdev_walk walk;
	void (*visit)(void *channel_ctx);
};

static int
module_visit(struct bdev_walk *base, struct bdev_thread_channel *channel)
{
	struct module_walk *walk = (struct module_walk *)base;

	walk->visit(channel->module_ctx);
	return 0;
}

static void
module_finish(struct bdev_walk *walk, int status)
{
	(void)walk;
	(void)status;
}

static void
module_free(struct bdev_walk *walk)
{
	free(walk);
}

int
bdev_visit_channels(struct bdev *bdev, void (*visit_channel)(void *channel_ctx))
{
	static const struct bdev_walk_ops ops = {module_visit, module_finish, module_free};
	struct module_walk *walk = calloc(1, sizeof(*walk));
	int rc;

	if (walk == NULL)
		return -ENOMEM;
	walk->walk.ops = &ops;
	walk->visit = visit_channel;
	rc = bdev_walk_run(bdev, &walk->walk);
	if (rc == 0)
		free(walk);
	return rc;
}
