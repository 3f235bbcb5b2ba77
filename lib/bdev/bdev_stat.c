/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics. Each channel counts for itself; the app thread collects by visiting the channels one
 * by one. A channel that ends sends its counters to the app thread, before or after the visit of a
 * running collection.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_core.h"

/*
 * Collections of one bdev run one after the other, so that the counters of a channel that ends
 * meanwhile are counted once. They belong to `finish`, not to who asked, who may be cancelled.
 */
struct bdev_collect {
	struct bdev *bdev;
	bool reset;
	bool abandoned; /* nobody waits any more: `finish` frees it */
	bool finished;
	struct bdev_collect *next;
	struct completion *done;
	uint64_t number;
	/* Written on one channel's thread after the other. */
	struct bdev_io_stat sum;
	struct bdev_channel_stat *channels; /* NULL until one was visited */
	uint32_t count;
	/* App thread: of channels that ended after their visit; they are in the sum already. */
	struct bdev_io_stat ended_later;
};

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
		stat->min_latency_ticks[type] = counter->ops == 0 ? 0 : counter->min_latency_ticks;
	}
}

static void
stat_add(struct bdev_io_stat *sum, const struct bdev_io_stat *stat)
{
	for (int type = 0; type < BDEV_IO_TYPES; type++) {
		if (stat->ops[type] != 0 &&
		    (sum->ops[type] == 0 ||
		     stat->min_latency_ticks[type] < sum->min_latency_ticks[type]))
			sum->min_latency_ticks[type] = stat->min_latency_ticks[type];
		if (stat->max_latency_ticks[type] > sum->max_latency_ticks[type])
			sum->max_latency_ticks[type] = stat->max_latency_ticks[type];
		sum->ops[type] += stat->ops[type];
		sum->bytes[type] += stat->bytes[type];
		sum->errors[type] += stat->errors[type];
		sum->latency_ticks[type] += stat->latency_ticks[type];
	}
}

/* ---- ended channels ---- */

static void
fold(void *ctx)
{
	struct bdev_channel_counters *counters = ctx;
	struct bdev *bdev = counters->bdev;
	struct bdev_io_stat stat = {0};

	counters_to_stat(counters, &stat);
	if (bdev->collect != NULL && counters->collected == bdev->collect->number)
		stat_add(&bdev->collect->ended_later, &stat);
	else
		stat_add(&bdev->ended, &stat);
	free(counters);
}

void
bdev_counters_end(struct bdev_channel_counters *counters)
{
	thread_send(bdev_app_thread(), &counters->msg, fold, counters);
}

/* ---- collecting ---- */

static int
add_channel(struct bdev_collect *collect, const struct bdev_io_stat *stat)
{
	size_t size = (collect->count + 1) * sizeof(*collect->channels);
	struct bdev_channel_stat *channels = realloc(collect->channels, size);

	if (channels == NULL)
		return -ENOMEM;
	collect->channels = channels;
	channels[collect->count].thread_id = thread_id(thread_current());
	channels[collect->count].stat = *stat;
	collect->count++;
	return 0;
}

static void
visit(struct io_channel_iter *iter)
{
	struct bdev_thread_channel *channel = io_channel_ctx(io_channel_iter_channel(iter));
	struct bdev_collect *collect = io_channel_iter_ctx(iter);
	struct bdev_io_stat stat = {0};
	int rc;

	counters_to_stat(channel->counters, &stat);
	rc = add_channel(collect, &stat);
	if (rc == 0) {
		stat_add(&collect->sum, &stat);
		channel->counters->collected = collect->number;
		if (collect->reset)
			memset(channel->counters->types, 0, sizeof(channel->counters->types));
	}
	for_each_channel_continue(iter, rc);
}

static void
collect_free(struct bdev_collect *collect)
{
	free(collect->channels);
	free(collect);
}

static void start_first(struct bdev *bdev);

static void
finish(void *ctx, int status)
{
	struct bdev_collect *collect = ctx;
	struct bdev *bdev = collect->bdev;

	if (status != 0 && collect->reset) {
		stat_add(&bdev->ended, &collect->sum); /* the visited channels forgot it */
	} else {
		stat_add(&collect->sum, &bdev->ended);
		if (collect->reset)
			memset(&bdev->ended, 0, sizeof(bdev->ended));
	}
	stat_add(&bdev->ended, &collect->ended_later);
	bdev->collect = collect->next;
	collect->finished = true;
	completion_signal(collect->done, status);
	if (collect->abandoned)
		collect_free(collect);
	start_first(bdev);
	bdev_put(bdev);
}

static void
start_first(struct bdev *bdev)
{
	struct bdev_collect *collect = bdev->collect;

	if (collect == NULL)
		return;
	collect->number = ++bdev->collects;
	if (for_each_channel(bdev, visit, collect, finish) != 0)
		finish(collect, -ENOMEM);
}

/* [waits] *result is the caller's, to be freed by collect_free(). */
static int
run_collect(struct bdev *bdev, bool reset, struct bdev_collect **result)
{
	struct bdev_collect *collect;
	int rc;

	if (bdev->removing)
		return -ENODEV;
	collect = calloc(1, sizeof(*collect));
	if (collect == NULL || (collect->done = completion_create()) == NULL) {
		free(collect);
		return -ENOMEM;
	}
	collect->bdev = bdev;
	collect->reset = reset;
	bdev_get(bdev);
	if (bdev->collect == NULL) {
		bdev->collect = bdev->last_collect = collect;
		start_first(bdev);
	} else {
		bdev->last_collect->next = collect;
		bdev->last_collect = collect;
	}
	rc = completion_wait(collect->done, WAIT_FOREVER);
	completion_put(collect->done);
	if (rc == 0)
		*result = collect;
	else if (collect->finished)
		collect_free(collect);
	else
		collect->abandoned = true;
	return rc;
}

int
bdev_get_stat(struct bdev *bdev, bool reset, struct bdev_io_stat *stat)
{
	struct bdev_collect *collect;
	int rc = run_collect(bdev, reset, &collect);

	if (rc != 0)
		return rc;
	*stat = collect->sum;
	collect_free(collect);
	return 0;
}

int
bdev_get_channel_stats(struct bdev *bdev, struct bdev_channel_stat **stats, uint32_t *count)
{
	struct bdev_collect *collect;
	int rc = run_collect(bdev, false, &collect);

	if (rc != 0)
		return rc;
	*stats = collect->channels;
	*count = collect->count;
	collect->channels = NULL;
	collect_free(collect);
	return 0;
}
