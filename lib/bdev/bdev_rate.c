/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits. Each limit of a bdev has one clock for all threads: the time at which the next
 * request is in time, which each request moves on by what it costs. That makes the sum exact,
 * whoever submits, however long the requests are, and without a period at whose end something would
 * be lost. Each channel has such a clock of its own, which runs for its part of those that wait,
 * and makes the shares equal: a channel that is ahead of its own clock leaves RESERVE_US of what is
 * there to the others.
 *
 * A request that is not in time waits in its channel's meter, whose poller runs only then.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdev_core.h"
#include "env.h"
#include "log.h"

#define FRACTION_BITS 30   /* of bdev_rates.cost */
#define POLL_US       1000 /* at most so often */
#define RESERVE_US    4000
#define COST_MAX_S    3600 /* of one request */

/* Channel's thread only. */
struct bdev_meter {
	struct bdev_channel *channel;
	struct poller *poller; /* due while something waits */
	struct request_fifo waiting;
	uint64_t own[BDEV_RATES]; /* the channel's clocks */
	uint64_t poll_ticks, reserve_ticks, burst_ticks;
};

static uint64_t
ticks_of(uint64_t us)
{
	return us * (env_ticks_hz() / 1000) / 1000;
}

/* ---- clocks ---- */

/* Bit per enum bdev_rate. */
static const uint8_t rates_of[BDEV_IO_TYPES] = {
	[BDEV_READ] = 1 << BDEV_RATE_IOS | 1 << BDEV_RATE_BYTES | 1 << BDEV_RATE_READ_BYTES,
	[BDEV_WRITE] = 1 << BDEV_RATE_IOS | 1 << BDEV_RATE_BYTES | 1 << BDEV_RATE_WRITE_BYTES,
	[BDEV_DISCARD] = 1 << BDEV_RATE_IOS,
	[BDEV_WRITE_ZEROES] = 1 << BDEV_RATE_IOS,
};

/* 0: that rate does not limit this request. */
static uint64_t
cost_of(const struct bdev_rates *rates, int rate, const struct bdev_request *rq)
{
	uint64_t cost = atomic_load_explicit(&rates->cost[rate], memory_order_relaxed);
	uint64_t units = rate == BDEV_RATE_IOS ? 1 : rq->length;
	unsigned __int128 ticks = (unsigned __int128)cost * units >> FRACTION_BITS;
	uint64_t most = COST_MAX_S * env_ticks_hz();

	if (!(rates_of[rq->type] & 1u << rate) || cost == 0)
		return 0;
	if (ticks == 0)
		return 1;
	return ticks < most ? (uint64_t)ticks : most;
}

/* When rq is in time: all its clocks have come so far. */
static uint64_t
due_of(const struct bdev_meter *meter, const struct bdev_request *rq)
{
	const struct bdev_rates *rates = &meter->channel->bdev->rates;
	uint64_t due = 0;

	for (int i = 0; i < BDEV_RATES; i++) {
		uint64_t next = atomic_load_explicit(&rates->next[i], memory_order_relaxed);
		uint64_t own = meter->own[i];

		if (cost_of(rates, i, rq) == 0)
			continue;
		if (own > next + meter->reserve_ticks)
			own = next + meter->reserve_ticks;
		if (own > next)
			next = own;
		if (next > due)
			due = next;
	}
	return due;
}

/*
 * Two threads may find the same clock in time, and both move it on: what is too early now delays
 * those after it.
 */
static void
charge(struct bdev_meter *meter, const struct bdev_request *rq, uint64_t now, bool counted)
{
	struct bdev_rates *rates = &meter->channel->bdev->rates;
	uint64_t shares = atomic_load_explicit(&rates->waiting, memory_order_relaxed) + !counted;
	uint64_t floor = now > meter->burst_ticks ? now - meter->burst_ticks : 0;

	for (int i = 0; i < BDEV_RATES; i++) {
		uint64_t next = atomic_load_explicit(&rates->next[i], memory_order_relaxed);
		uint64_t cost = cost_of(rates, i, rq);

		if (cost == 0)
			continue;
		while (next < floor && !atomic_compare_exchange_weak_explicit(
					       &rates->next[i], &next, floor, memory_order_relaxed,
					       memory_order_relaxed))
			;
		atomic_fetch_add_explicit(&rates->next[i], cost, memory_order_relaxed);
		if (meter->own[i] < floor)
			meter->own[i] = floor;
		meter->own[i] += cost * shares;
	}
}

/* ---- waiting ---- */

static uint64_t
now_of(const struct bdev_meter *meter)
{
	return thread_now(meter->channel->thread);
}

/* Until the first one is in time. */
static void
sleep_on(struct bdev_meter *meter)
{
	uint64_t due = due_of(meter, meter->waiting.first);
	uint64_t soonest = now_of(meter) + meter->poll_ticks;

	poller_set_due(meter->poller, due > soonest ? due : soonest);
}

static void
start_waiting(struct bdev_meter *meter, struct bdev_request *rq)
{
	atomic_fetch_add_explicit(&meter->channel->bdev->rates.waiting, 1, memory_order_relaxed);
	request_fifo_push(&meter->waiting, rq);
	sleep_on(meter);
}

static void
stop_waiting(struct bdev_meter *meter)
{
	atomic_fetch_sub_explicit(&meter->channel->bdev->rates.waiting, 1, memory_order_relaxed);
	poller_set_due(meter->poller, UINT64_MAX);
}

bool
bdev_meter_pass(struct bdev_meter *meter, struct bdev_request *rq)
{
	uint64_t now = now_of(meter);

	if (rates_of[rq->type] == 0)
		return true;
	if (meter->waiting.first != NULL) {
		request_fifo_push(&meter->waiting, rq);
		return false;
	}
	if (due_of(meter, rq) > now) {
		start_waiting(meter, rq);
		return false;
	}
	charge(meter, rq, now, false);
	return true;
}

/* With the last one's end the channel may go, and the meter with it. */
static int
meter_poll(void *arg)
{
	struct bdev_meter *meter = arg;
	struct bdev_thread_channel *thread_channel = meter->channel->thread_channel;
	uint64_t now = now_of(meter);
	struct bdev_request *rq = meter->waiting.first;
	bool more = rq != NULL, busy = false;

	while (more && due_of(meter, rq) <= now) {
		request_fifo_pop(&meter->waiting);
		charge(meter, rq, now, true);
		more = meter->waiting.first != NULL;
		if (!more)
			stop_waiting(meter);
		bdev_io_resume(rq);
		busy = true;
		if (more)
			rq = meter->waiting.first;
	}
	if (more)
		sleep_on(meter);
	if (busy)
		bdev_thread_channel_flush(thread_channel);
	return busy ? POLLER_BUSY : POLLER_IDLE;
}

/* With the last one's end the channel may go, and the meter with it. */
bool
bdev_meter_release(struct bdev_meter *meter, const struct bdev_release *release)
{
	struct bdev_thread_channel *thread_channel = meter->channel->thread_channel;
	struct request_fifo picked = request_fifo_pick(&meter->waiting, release);
	uint64_t now = now_of(meter);
	struct bdev_request *rq;

	if (picked.first == NULL)
		return false;
	for (rq = picked.first; rq != NULL && !release->aborts; rq = rq->link)
		charge(meter, rq, now, true);
	if (meter->waiting.first == NULL)
		stop_waiting(meter);
	else
		sleep_on(meter);
	while ((rq = request_fifo_pop(&picked)) != NULL) {
		if (release->aborts)
			bdev_io_abort(rq);
		else
			bdev_io_resume(rq);
	}
	bdev_thread_channel_flush(thread_channel);
	return true;
}

/* Adds what waits to `all`. */
static void
take_waiting(struct bdev_meter *meter, struct request_fifo *all)
{
	struct bdev_request *rq;

	if (meter->waiting.first == NULL)
		return;
	while ((rq = request_fifo_pop(&meter->waiting)) != NULL)
		request_fifo_push(all, rq);
	stop_waiting(meter);
}

void
bdev_meters_abort(struct bdev_thread_channel *thread_channel)
{
	struct request_fifo all = {0};
	struct bdev_channel *channel;
	struct bdev_request *rq;

	LIST_FOREACH (channel, &thread_channel->channels, link) {
		if (channel->meter != NULL)
			take_waiting(channel->meter, &all);
	}
	while ((rq = request_fifo_pop(&all)) != NULL)
		bdev_io_abort(rq);
}

/* ---- meters ---- */

static int
meter_create(struct bdev_channel *channel)
{
	struct bdev_meter *meter = calloc(1, sizeof(*meter));

	if (meter == NULL)
		return -ENOMEM;
	meter->channel = channel;
	meter->poll_ticks = ticks_of(POLL_US);
	meter->reserve_ticks = ticks_of(RESERVE_US);
	meter->burst_ticks = ticks_of(BDEV_RATE_BURST_US);
	meter->poller = poller_register(meter_poll, meter, POLL_US, "bdev_rate");
	if (meter->poller == NULL) {
		int rc = -errno;

		free(meter);
		return rc;
	}
	poller_set_due(meter->poller, UINT64_MAX);
	channel->meter = meter;
	channel->thread_channel->metered = true;
	bdev_thread_channel_gate(channel->thread_channel);
	return 0;
}

int
bdev_meter_start(struct bdev_channel *channel)
{
	return atomic_load(&channel->bdev->rates.on) ? meter_create(channel) : 0;
}

void
bdev_meter_end(struct bdev_channel *channel)
{
	if (channel->meter == NULL)
		return;
	poller_unregister(&channel->meter->poller);
	free(channel->meter);
	channel->meter = NULL;
}

/* ---- changes ---- */

/* Whatever the limits are now: what waits is looked at in the next iteration. */
static int
start_meters(struct bdev_thread_channel *thread_channel)
{
	struct bdev_channel *channel;
	int rc = 0;

	LIST_FOREACH (channel, &thread_channel->channels, link) {
		struct bdev_meter *meter = channel->meter;

		if (meter == NULL) {
			int error = meter_create(channel);

			rc = rc == 0 ? error : rc;
			continue;
		}
		for (int i = 0; i < BDEV_RATES; i++)
			meter->own[i] = 0;
		if (meter->waiting.first != NULL)
			poller_set_due(meter->poller, 0);
	}
	return rc;
}

static void
end_meters(struct bdev_thread_channel *thread_channel)
{
	struct request_fifo all = {0};
	struct bdev_channel *channel;
	struct bdev_request *rq;

	LIST_FOREACH (channel, &thread_channel->channels, link) {
		if (channel->meter != NULL)
			take_waiting(channel->meter, &all);
		bdev_meter_end(channel);
	}
	thread_channel->metered = false;
	bdev_thread_channel_gate(thread_channel);
	if (all.first == NULL)
		return;
	while ((rq = request_fifo_pop(&all)) != NULL)
		bdev_io_resume(rq);
	bdev_thread_channel_flush(thread_channel);
}

static int
change_visit(struct bdev_walk *walk, struct bdev_thread_channel *thread_channel)
{
	if (atomic_load(&walk->bdev->rates.on))
		return start_meters(thread_channel);
	end_meters(thread_channel);
	return 0;
}

static int
end_visit(struct bdev_walk *walk, struct bdev_thread_channel *thread_channel)
{
	const struct bdev_ops *ops = walk->bdev->ops;

	end_meters(thread_channel);
	if (ops->end_held != NULL)
		ops->end_held(thread_channel->module_ctx);
	return 0;
}

static void
walk_finish(struct bdev_walk *walk, int status)
{
	(void)walk;
	(void)status;
}

static void
walk_free(struct bdev_walk *walk)
{
	free(walk);
}

/* NULL: no memory. */
static struct bdev_walk *
walk_new(const struct bdev_walk_ops *ops)
{
	struct bdev_walk *walk = calloc(1, sizeof(*walk));

	if (walk != NULL)
		walk->ops = ops;
	return walk;
}

/* [waits] */
static int
change_channels(struct bdev *bdev)
{
	static const struct bdev_walk_ops ops = {change_visit, walk_finish, walk_free};
	struct bdev_walk *walk = walk_new(&ops);
	int rc = -ENOMEM;

	if (walk != NULL)
		rc = bdev_walk_run(bdev, walk);
	if (rc == 0)
		free(walk);
	return rc;
}

void
bdev_rates_end(struct bdev *bdev)
{
	static const struct bdev_walk_ops ops = {end_visit, walk_finish, walk_free};
	struct bdev_walk *walk = walk_new(&ops);

	atomic_store(&bdev->rates.on, false);
	if (walk != NULL)
		bdev_walk_start(bdev, walk);
	else
		log_err("bdev %s: no memory to end what is held back", bdev->info.name);
}

static void
store(struct bdev_rates *rates, const uint64_t per_second[BDEV_RATES])
{
	uint64_t now = env_ticks();
	bool on = false;

	for (int i = 0; i < BDEV_RATES; i++) {
		unsigned __int128 cost = 0;

		on |= per_second[i] != 0;
		if (rates->per_second[i] == per_second[i])
			continue;
		if (per_second[i] != 0)
			cost = ((unsigned __int128)env_ticks_hz() << FRACTION_BITS) / per_second[i];
		rates->per_second[i] = per_second[i];
		atomic_store(&rates->next[i], now);
		atomic_store(&rates->cost[i], cost == 0 && per_second[i] != 0 ? 1 : (uint64_t)cost);
	}
	rates->changes++;
	atomic_store(&rates->on, on);
}

void
bdev_get_rates(const struct bdev *bdev, uint64_t per_second[BDEV_RATES])
{
	for (int i = 0; i < BDEV_RATES; i++)
		per_second[i] = bdev->rates.per_second[i];
}

int
bdev_set_rates(struct bdev *bdev, const uint64_t per_second[BDEV_RATES])
{
	struct bdev_rates *rates = &bdev->rates;
	uint64_t before[BDEV_RATES];
	uint32_t change;
	bool was_on;
	int rc;

	if (bdev->removing)
		return -ENODEV;
	bdev_get(bdev);
	bdev_get_rates(bdev, before);
	was_on = atomic_load(&rates->on);
	store(rates, per_second);
	change = rates->changes;
	rc = was_on || atomic_load(&rates->on) ? change_channels(bdev) : 0;
	if (rc != 0 && !bdev->removing && rates->changes == change) {
		store(rates, before);
		change_channels(bdev); /* a channel that keeps its meter is only slower */
	}
	bdev_put(bdev);
	return rc;
}
