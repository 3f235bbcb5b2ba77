/* SPDX-License-Identifier: BSD-3-Clause */
/* What waits in a channel and not with the device: its end, or its release, before its time. */
#include <errno.h>

#include "bdev_core.h"

bool
bdev_release_wants(const struct bdev_release *release, struct bdev_request *rq)
{
	return rq->channel == release->channel &&
	       (release->wants == NULL || release->wants(bdev_pieces_parent(rq), release->ctx));
}

/* Of those that wait for what only the device can give: the end of a drain, or of others' pieces. */
static bool
abort_waiting(struct bdev_thread_channel *thread_channel, const struct bdev_release *release)
{
	struct request_fifo held = request_fifo_pick(&thread_channel->held, release);
	struct request_fifo pieces = request_fifo_pick(&thread_channel->pieces_waiting, release);
	bool found = held.first != NULL || pieces.first != NULL;
	struct bdev_request *rq;

	while ((rq = request_fifo_pop(&held)) != NULL)
		bdev_io_abort(rq);
	while ((rq = request_fifo_pop(&pieces)) != NULL) {
		rq->start_ticks = thread_now(rq->channel->thread);
		bdev_complete(rq, -ECANCELED);
	}
	return found;
}

bool
bdev_release(struct bdev_channel *channel, const struct bdev_release *release)
{
	struct bdev_thread_channel *thread_channel = channel->thread_channel;
	const struct bdev_ops *ops = channel->bdev->ops;
	bool found = false;

	if (channel->meter != NULL)
		found = bdev_meter_release(channel->meter, release);
	if (release->aborts)
		found |= abort_waiting(thread_channel, release);
	if (ops->release_held != NULL)
		found |= ops->release_held(thread_channel->module_ctx, release);
	return found;
}

void
bdev_abort_held(struct bdev_channel *channel, bool (*wants)(struct bdev_request *rq, void *ctx),
		void *ctx)
{
	bdev_release(channel, &(struct bdev_release){channel, wants, ctx, true});
}

bool
bdev_release_held(struct bdev_channel *channel)
{
	return bdev_release(channel, &(struct bdev_release){.channel = channel});
}
