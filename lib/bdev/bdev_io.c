/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data path: checks, hands over, counts. Channel's thread only; no allocation, no lock, and no
 * division but for devices with an odd boundary.
 */
#include <errno.h>

#include "bdev_core.h"
#include "bdev_histogram.h"
#include "env.h"

/*
 * A user whose done submits the next request to a device that completes at once would go deeper
 * into the stack with each request. From this depth on, done is called when the stack has come
 * back.
 */
#define MAX_DEPTH 8

static void enter(struct bdev_channel *channel, struct bdev_request *rq);

void
bdev_thread_channel_flush(struct bdev_thread_channel *thread_channel)
{
	const struct bdev_ops *ops = thread_channel->bdev->ops;

	if (ops->flush_submissions != NULL)
		ops->flush_submissions(thread_channel->module_ctx);
}

void
bdev_thread_channel_gate(struct bdev_thread_channel *thread_channel)
{
	thread_channel->gated = thread_channel->drains.first != NULL || thread_channel->metered;
}

/* ---- completion ---- */

static uint64_t
now(const struct bdev_channel *channel)
{
	return likely(channel->tally == NULL) ? thread_now(channel->thread) : env_ticks();
}

static void
count(struct bdev_channel *channel, const struct bdev_request *rq, int status)
{
	struct bdev_type_stat *stat;
	uint64_t latency = now(channel) - rq->submit_ticks;

	if (unlikely(rq->type >= BDEV_IO_TYPES)) /* refused */
		return;
	stat = &channel->thread_channel->counters->types[rq->type];
	if (unlikely(status != 0)) {
		stat->errors++;
		return;
	}
	if (unlikely(latency > stat->max_latency_ticks)) {
		/*
		 * Histograms were switched off meanwhile: it was submitted "after" this poll's
		 * time.
		 */
		if ((int64_t)latency < 0)
			latency = 0;
		else
			stat->max_latency_ticks = latency;
	}
	if (latency < stat->min_latency_ticks)
		stat->min_latency_ticks = latency;
	stat->latency_ticks += latency;
	stat->ops++;
	stat->bytes += rq->length;
	if (unlikely(channel->tally != NULL))
		bdev_histogram_add(&channel->tally->histogram, latency);
}

/* Nothing is in flight: lets the drains go on, and then what waited for them. */
static void
drained(struct bdev_thread_channel *thread_channel)
{
	struct bdev_request *rq;

	while ((rq = request_fifo_pop(&thread_channel->drains)) != NULL)
		for_each_channel_continue(rq->core_ctx, 0);
	bdev_thread_channel_gate(thread_channel);
	while ((rq = request_fifo_pop(&thread_channel->held)) != NULL)
		enter(rq->channel, rq);
	bdev_thread_channel_flush(thread_channel);
}

static void
finish_now(struct bdev_request *rq, int status)
{
	struct bdev_thread_channel *thread_channel = rq->channel->thread_channel;

	count(rq->channel, rq, status);
	thread_channel->in_flight--;
	rq->done(rq, status); /* may free the request and put the channel */
	if (unlikely(thread_channel->drains.first != NULL) && thread_channel->in_flight == 0)
		drained(thread_channel);
}

static void
finish(struct bdev_request *rq, int status)
{
	struct bdev_thread_channel *thread_channel = rq->channel->thread_channel;

	if (likely(thread_channel->depth <= MAX_DEPTH)) {
		finish_now(rq, status);
		return;
	}
	rq->core_ctx = (void *)(intptr_t)status;
	request_fifo_push(&thread_channel->deferred, rq);
}

static void
finish_deferred(struct bdev_thread_channel *thread_channel)
{
	struct bdev_request *rq;

	while ((rq = request_fifo_pop(&thread_channel->deferred)) != NULL)
		finish_now(rq, (int)(intptr_t)rq->core_ctx);
}

void
bdev_complete(struct bdev_request *rq, int status)
{
	bdev_done_fn next = rq->core_next;

	if (likely(next == NULL)) {
		finish(rq, status);
		return;
	}
	rq->core_next = NULL;
	next(rq, status);
}

/* ---- FUA for modules without it: a flush after the write ---- */

static void
fua_flushed(struct bdev_request *rq, int status)
{
	rq->type = (uint8_t)(uintptr_t)rq->core_ctx;
	finish(rq, status);
}

static void
fua_written(struct bdev_request *rq, int status)
{
	struct bdev_channel *channel = rq->channel;
	struct bdev_thread_channel *thread_channel = channel->thread_channel;

	if (status != 0) {
		finish(rq, status);
		return;
	}
	rq->core_ctx = (void *)(uintptr_t)rq->type;
	rq->core_next = fua_flushed;
	rq->type = BDEV_FLUSH;
	channel->submit(thread_channel->module_ctx, rq);
	bdev_thread_channel_flush(thread_channel); /* the channel may be gone */
}

/* ---- RESET by draining ---- */

/* What is held back ends; those who are told so may submit again, which waits for the drain. */
static void
end_held(struct bdev_thread_channel *thread_channel)
{
	const struct bdev_ops *ops = thread_channel->bdev->ops;

	thread_channel->in_flight++; /* the drain is not to be done inside */
	bdev_meters_abort(thread_channel);
	if (ops->end_held != NULL)
		ops->end_held(thread_channel->module_ctx);
	thread_channel->in_flight--;
}

static void
drain_visit(struct io_channel_iter *iter)
{
	struct bdev_thread_channel *thread_channel = io_channel_ctx(io_channel_iter_channel(iter));
	struct bdev_request *rq = io_channel_iter_ctx(iter);

	rq->core_ctx = iter;
	request_fifo_push(&thread_channel->drains, rq);
	bdev_thread_channel_gate(thread_channel);
	end_held(thread_channel);
	if (thread_channel->in_flight == 0)
		drained(thread_channel);
}

static void
drain_done(void *ctx, int status)
{
	struct bdev_request *rq = ctx;

	rq->channel->thread_channel->in_flight++;
	bdev_complete(rq, status);
}

void
bdev_drain(struct bdev_request *rq)
{
	rq->channel->thread_channel->in_flight--; /* it does not wait for itself */
	if (for_each_channel(rq->channel->bdev, drain_visit, rq, drain_done) != 0)
		drain_done(rq, -ENOMEM);
}

/* ---- submission ---- */

/*
 * Each request goes through these, and some are used twice: the compiler would make calls of them.
 */

static int
check_range(const struct bdev_channel *channel, const struct bdev_request *rq)
{
	uint64_t size = atomic_load_explicit(&channel->bdev->size, memory_order_relaxed);

	if (unlikely(((rq->offset | rq->length) & channel->block_mask) != 0))
		return -EINVAL;
	if (unlikely(rq->offset > size || rq->length > size - rq->offset))
		return -EINVAL;
	return 0;
}

/* Whether the module can take a request as it is. */
enum fit {
	FITS,
	FITS_UNLESS_LONG, /* its place and length are to be looked at */
	FITS_NOT,
};

static __always_inline int
check_iovs(const struct bdev_channel *channel, const struct bdev_request *rq, enum fit *fit)
{
	uint64_t left = rq->length;
	uintptr_t bits = 0;

	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		if (unlikely(rq->iov[i].iov_len > left))
			return -EINVAL;
		left -= rq->iov[i].iov_len;
		bits |= (uintptr_t)rq->iov[i].iov_base | rq->iov[i].iov_len;
	}
	if (unlikely(rq->length > channel->max_direct))
		*fit = FITS_UNLESS_LONG;
	if (unlikely((bits & channel->alignment_mask) != 0 || rq->iovcnt > channel->max_iovs))
		*fit = FITS_NOT;
	return unlikely(left != 0) ? -EINVAL : 0;
}

static int
not_allowed(const struct bdev_channel *channel, const struct bdev_request *rq)
{
	if (rq->type < BDEV_IO_TYPES && (BDEV_WRITE_TYPES & 1u << rq->type) && channel->read_only)
		return -EROFS;
	return -EOPNOTSUPP;
}

static __always_inline int
check(const struct bdev_channel *channel, const struct bdev_request *rq, enum fit *fit)
{
	int rc;

	if (unlikely(rq->type >= BDEV_IO_TYPES || !(channel->io_types & 1u << rq->type)))
		return not_allowed(channel, rq);
	if (rq->type == BDEV_FLUSH || rq->type == BDEV_RESET)
		return 0;
	rc = check_range(channel, rq);
	if (rc != 0)
		return rc;
	if (likely(rq->type <= BDEV_WRITE))
		return check_iovs(channel, rq, fit);
	*fit = FITS_UNLESS_LONG;
	return 0;
}

/* What needs no device: nothing to do, or a flush where nothing is volatile. */
static bool
is_trivial(const struct bdev_channel *channel, const struct bdev_request *rq)
{
	if (rq->type == BDEV_FLUSH)
		return !channel->write_cache;
	return rq->length == 0 && rq->type != BDEV_RESET;
}

/* The device cannot do it at once. */
static bool
is_long(const struct bdev_channel *channel, const struct bdev_request *rq)
{
	if (rq->length > channel->max_length[rq->type])
		return true;
	return rq->type != BDEV_DISCARD && rq->length > bdev_boundary_room(channel, rq->offset);
}

/* Out of line, so that what fits at once does without its registers. */
static __attribute__((noinline)) void
submit_unfit(struct bdev_channel *channel, struct bdev_request *rq, enum fit fit)
{
	if (fit == FITS_UNLESS_LONG && !is_long(channel, rq))
		channel->submit(channel->thread_channel->module_ctx, rq);
	else
		bdev_pieces_submit(rq);
}

static __always_inline void
dispatch(struct bdev_channel *channel, struct bdev_request *rq, enum fit fit)
{
	if (unlikely(is_trivial(channel, rq))) {
		finish(rq, 0);
		return;
	}
	if (unlikely(rq->flags & BDEV_FUA) && channel->core_fua &&
	    (rq->type == BDEV_WRITE || rq->type == BDEV_WRITE_ZEROES))
		rq->core_next = fua_written;
	if (unlikely(fit != FITS))
		submit_unfit(channel, rq, fit);
	else
		channel->submit(channel->thread_channel->module_ctx, rq);
}

static __always_inline void
submit(struct bdev_channel *channel, struct bdev_request *rq)
{
	struct bdev_thread_channel *thread_channel = channel->thread_channel;
	enum fit fit = FITS;
	int rc;

	thread_channel->in_flight++;
	thread_channel->depth++;
	rq->core_next = NULL;
	rc = check(channel, rq, &fit);
	if (likely(rc == 0))
		dispatch(channel, rq, fit);
	else
		finish(rq, rc);
	/* The channel may be gone, but not its thread's part. */
	if (unlikely(thread_channel->deferred.first != NULL) && thread_channel->depth == 1)
		finish_deferred(thread_channel);
	thread_channel->depth--;
}

/* Whether it comes to something that a rate could limit. */
static bool
is_metered(const struct bdev_channel *channel, const struct bdev_request *rq)
{
	enum fit fit;

	return channel->meter != NULL && check(channel, rq, &fit) == 0 && !is_trivial(channel, rq);
}

void
bdev_io_resume(struct bdev_request *rq)
{
	rq->start_ticks = now(rq->channel);
	submit(rq->channel, rq);
}

/* Out of line, as above. */
static __attribute__((noinline)) void
enter(struct bdev_channel *channel, struct bdev_request *rq)
{
	if (channel->thread_channel->drains.first != NULL)
		request_fifo_push(&channel->thread_channel->held, rq);
	else if (!is_metered(channel, rq) || bdev_meter_pass(channel->meter, rq))
		bdev_io_resume(rq);
}

void
bdev_io_abort(struct bdev_request *rq)
{
	rq->start_ticks = now(rq->channel);
	rq->channel->thread_channel->in_flight++;
	finish(rq, -ECANCELED);
}

void
bdev_submit(struct bdev_channel *channel, struct bdev_request *rq)
{
	rq->channel = channel;
	rq->submit_ticks = now(channel);
	if (unlikely(channel->thread_channel->gated))
		enter(channel, rq);
	else
		submit(channel, rq);
}

void
bdev_flush_submissions(struct bdev_channel *channel)
{
	bdev_thread_channel_flush(channel->thread_channel);
}
