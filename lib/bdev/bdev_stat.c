/* SPDX-License-Identifier: BSD-3-Clause */
/* Statistics. Each thread's channel counts for itself; the app thread adds up. */
#include <errno.h>
#include <stdlib.h>

#include "bdev_core.h"

struct stat_walk {
	struct bdev_walk walk;
	enum bdev_stat_reset reset;
	/* Written on one channel's thread after the other. */
	struct bdev_io_stat sum;
	struct bdev_channel_stat *channels; /* NULL until one was visited */
	uint32_t count;
};

/* ---- adding up ---- */

/* In sums, and in what channels count, a shortest latency that is not known is UINT64_MAX. */
static void
stat_init(struct bdev_io_stat *stat)
{
	*stat = (struct bdev_io_stat){0};
	for (int type = 0; type < BDEV_IO_TYPES; type++)
		stat->min_latency_ticks[type] = UINT64_MAX;
}

/* ... but users see 0. */
static void
stat_show(struct bdev_io_stat *stat)
{
	for (int type = 0; type < BDEV_IO_TYPES; type++) {
		if (stat->min_latency_ticks[type] == UINT64_MAX)
			stat->min_latency_ticks[type] = 0;
	}
}

static void
stat_reset(struct bdev_io_stat *stat, enum bdev_stat_reset reset)
{
	if (reset == BDEV_STAT_RESET)
		stat_init(stat);
	for (int type = 0; reset == BDEV_STAT_RESET_MAXMIN && type < BDEV_IO_TYPES; type++) {
		stat->max_latency_ticks[type] = 0;
		stat->min_latency_ticks[type] = UINT64_MAX;
	}
}

static void
stat_add(struct bdev_io_stat *sum, const struct bdev_io_stat *stat)
{
	for (int type = 0; type < BDEV_IO_TYPES; type++) {
		if (stat->min_latency_ticks[type] < sum->min_latency_ticks[type])
			sum->min_latency_ticks[type] = stat->min_latency_ticks[type];
		if (stat->max_latency_ticks[type] > sum->max_latency_ticks[type])
			sum->max_latency_ticks[type] = stat->max_latency_ticks[type];
		sum->ops[type] += stat->ops[type];
		sum->bytes[type] += stat->bytes[type];
		sum->errors[type] += stat->errors[type];
		sum->latency_ticks[type] += stat->latency_ticks[type];
	}
}

/* ---- a channel's counters ---- */

static void
counters_to_stat(const struct bdev_channel_counters *counters, struct bdev_io_stat *stat)
{
	for (int type = 0; type < BDEV_IO_TYPES; type++) {
		const struct bdev_type_stat *counter = &counters->types[type];

		stat->ops[type] = counter->ops;
		stat->bytes[type] = type == BDEV_FLUSH || type == BDEV_RESET ? 0 : counter->bytes;
		stat->errors[type] = counter->errors;
		stat->latency_ticks[type] = counter->latency_ticks;
		stat->max_latency_ticks[type] = counter->max_latency_ticks;
		stat->min_latency_ticks[type] = counter->min_latency_ticks;
	}
}

void
bdev_counters_reset(struct bdev_channel_counters *counters, enum bdev_stat_reset reset)
{
	for (int type = 0; reset != BDEV_STAT_KEEP && type < BDEV_IO_TYPES; type++) {
		struct bdev_type_stat *counter = &counters->types[type];

		if (reset == BDEV_STAT_RESET)
			*counter = (struct bdev_type_stat){0};
		counter->max_latency_ticks = 0;
		counter->min_latency_ticks = UINT64_MAX;
	}
}

/* ---- ended channels ---- */

void
bdev_ended_init(struct bdev_ended *ended)
{
	stat_init(&ended->stat);
	ended->tally = NULL;
}

void
bdev_ended_join(struct bdev *bdev, struct bdev_ended *ended, struct bdev_ended *from)
{
	stat_add(&ended->stat, &from->stat);
	bdev_tally_join(bdev, &ended->tally, from->tally);
	bdev_ended_init(from);
}

static void
fold(void *ctx)
{
	struct bdev_channel_counters *counters = ctx;
	struct bdev *bdev = counters->bdev;
	bool was_visited = bdev->walk != NULL && counters->walk == bdev->walk->number;
	struct bdev_ended ended = {.tally = counters->tally};

	counters_to_stat(counters, &ended.stat);
	bdev_ended_join(bdev, was_visited ? &bdev->ended_later : &bdev->ended, &ended);
	free(counters);
}

void
bdev_counters_end(struct bdev_channel_counters *counters)
{
	thread_send(bdev_app_thread(), &counters->msg, fold, counters);
}

/* ---- collecting ---- */

static int
add_channel(struct stat_walk *walk, const struct bdev_io_stat *stat)
{
	size_t size = (walk->count + 1) * sizeof(*walk->channels);
	struct bdev_channel_stat *channels = realloc(walk->channels, size);

	if (channels == NULL)
		return -ENOMEM;
	walk->channels = channels;
	channels[walk->count].thread_id = thread_id(thread_current());
	channels[walk->count].stat = *stat;
	stat_show(&channels[walk->count].stat);
	walk->count++;
	return 0;
}

static int
stat_visit(struct bdev_walk *base, struct bdev_thread_channel *channel)
{
	struct stat_walk *walk = (struct stat_walk *)base;
	struct bdev_io_stat stat;
	int rc;

	counters_to_stat(channel->counters, &stat);
	rc = add_channel(walk, &stat);
	if (rc != 0)
		return rc;
	stat_add(&walk->sum, &stat);
	bdev_counters_reset(channel->counters, walk->reset);
	return 0;
}

static void
stat_finish(struct bdev_walk *base, int status)
{
	struct stat_walk *walk = (struct stat_walk *)base;
	struct bdev_ended *ended = &base->bdev->ended;

	if (status != 0 && walk->reset == BDEV_STAT_RESET) {
		stat_add(&ended->stat, &walk->sum); /* the visited channels forgot it */
		return;
	}
	stat_add(&walk->sum, &ended->stat);
	stat_reset(&ended->stat, walk->reset);
}

static void
stat_free(struct bdev_walk *base)
{
	struct stat_walk *walk = (struct stat_walk *)base;

	free(walk->channels);
	free(walk);
}

/* [waits] *result is the caller's, to be freed by stat_free(). */
static int
collect(struct bdev *bdev, enum bdev_stat_reset reset, struct stat_walk **result)
{
	static const struct bdev_walk_ops ops = {stat_visit, stat_finish, stat_free};
	struct stat_walk *walk = calloc(1, sizeof(*walk));

	if (walk == NULL)
		return -ENOMEM;
	walk->walk.ops = &ops;
	walk->reset = reset;
	stat_init(&walk->sum);
	*result = walk;
	return bdev_walk_run(bdev, &walk->walk);
}

int
bdev_get_stat(struct bdev *bdev, enum bdev_stat_reset reset, struct bdev_io_stat *stat)
{
	struct stat_walk *walk;
	int rc = collect(bdev, reset, &walk);

	if (rc != 0)
		return rc;
	*stat = walk->sum;
	stat_show(stat);
	stat_free(&walk->walk);
	return 0;
}

int
bdev_get_channel_stats(struct bdev *bdev, enum bdev_stat_reset reset,
		       struct bdev_channel_stat **stats, uint32_t *count)
{
	struct stat_walk *walk;
	int rc = collect(bdev, reset, &walk);

	if (rc != 0)
		return rc;
	*stats = walk->channels;
	*count = walk->count;
	walk->channels = NULL;
	stat_free(&walk->walk);
	return 0;
}
