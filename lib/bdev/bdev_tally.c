/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Histograms: each user's channel keeps one while they are on. Each time that they are switched
 * makes a new era; what was counted in an earlier one, and is still on its way, is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_core.h"

static bool
is_on(uint32_t era)
{
	return era & 1;
}

static uint32_t
current_era(struct bdev *bdev)
{
	return atomic_load(&bdev->histogram_era);
}

/* ---- tallies ---- */

int
bdev_tally_start(struct bdev_channel *channel)
{
	uint32_t era = current_era(channel->bdev);

	if (!is_on(era))
		return 0;
	channel->tally = calloc(1, sizeof(*channel->tally));
	if (channel->tally == NULL)
		return -ENOMEM;
	channel->tally->era = era;
	return 0;
}

void
bdev_tally_join(struct bdev *bdev, struct bdev_tally **sum, struct bdev_tally *tally)
{
	uint32_t era = current_era(bdev);

	if (*sum != NULL && (*sum)->era != era) {
		free(*sum);
		*sum = NULL;
	}
	if (tally == NULL)
		return;
	if (tally->era == era && *sum == NULL) {
		*sum = tally;
		return;
	}
	if (tally->era == era)
		bdev_histogram_merge(&(*sum)->histogram, &tally->histogram);
	free(tally);
}

void
bdev_tally_end(struct bdev_channel *channel)
{
	bdev_tally_join(channel->bdev, &channel->thread_channel->counters->tally, channel->tally);
	channel->tally = NULL;
}

/* ---- on and off ---- */

static int
switch_visit(struct bdev_walk *walk, struct bdev_thread_channel *thread_channel)
{
	struct bdev_channel *channel;
	int rc = 0;

	(void)walk;
	LIST_FOREACH (channel, &thread_channel->channels, link) {
		if (channel->tally != NULL && channel->tally->era == current_era(channel->bdev))
			continue; /* it is younger than the switch */
		free(channel->tally);
		channel->tally = NULL;
		rc |= bdev_tally_start(channel);
	}
	bdev_tally_join(thread_channel->bdev, &thread_channel->counters->tally, NULL);
	return rc;
}

static void
switch_finish(struct bdev_walk *walk, int status)
{
	(void)status;
	bdev_tally_join(walk->bdev, &walk->bdev->ended.tally, NULL);
}

static void
switch_free(struct bdev_walk *walk)
{
	free(walk);
}

/* [waits] */
static int
switch_channels(struct bdev *bdev)
{
	static const struct bdev_walk_ops ops = {switch_visit, switch_finish, switch_free};
	struct bdev_walk *walk = calloc(1, sizeof(*walk));
	int rc;

	if (walk == NULL)
		return -ENOMEM;
	walk->ops = &ops;
	rc = bdev_walk_run(bdev, walk);
	if (rc == 0)
		free(walk);
	return rc;
}

bool
bdev_has_histogram(const struct bdev *bdev)
{
	return is_on(atomic_load(&bdev->histogram_era));
}

int
bdev_enable_histogram(struct bdev *bdev, bool enable)
{
	uint32_t era = current_era(bdev);
	int rc;

	if (bdev->removing)
		return -ENODEV;
	if (enable == is_on(era))
		return 0;
	bdev_get(bdev);
	atomic_store(&bdev->histogram_era, era + 1);
	rc = switch_channels(bdev);
	if (rc != 0 && enable && current_era(bdev) == era + 1) {
		atomic_store(&bdev->histogram_era, era + 2);
		switch_channels(bdev); /* a channel that keeps its tally only wastes time */
	}
	bdev_put(bdev);
	return rc;
}

/* ---- reading ---- */

struct read_walk {
	struct bdev_walk walk;
	bool per_channel;
	uint32_t era;
	/* Written on one channel's thread after the other. */
	struct bdev_histograms *histograms;
};

static int
add_channel(struct bdev_histograms *histograms, const struct bdev_channel *channel)
{
	size_t size = (histograms->count + 1) * sizeof(*histograms->channels);
	struct bdev_channel_histogram **channels = realloc(histograms->channels, size);
	struct bdev_channel_histogram *copy;

	if (channels == NULL)
		return -ENOMEM;
	histograms->channels = channels;
	copy = calloc(1, sizeof(*copy));
	if (copy == NULL || (copy->user = strdup(channel->desc->user)) == NULL) {
		free(copy);
		return -ENOMEM;
	}
	copy->thread_id = thread_id(channel->thread);
	memcpy(copy->label, channel->label, sizeof(copy->label));
	copy->histogram = channel->tally->histogram;
	channels[histograms->count++] = copy;
	return 0;
}

static int
read_visit(struct bdev_walk *base, struct bdev_thread_channel *thread_channel)
{
	struct read_walk *walk = (struct read_walk *)base;
	struct bdev_tally *ended = thread_channel->counters->tally;
	struct bdev_channel *channel;
	int rc = 0;

	if (ended != NULL && ended->era == walk->era)
		bdev_histogram_merge(&walk->histograms->sum, &ended->histogram);
	LIST_FOREACH (channel, &thread_channel->channels, link) {
		if (channel->tally == NULL || channel->tally->era != walk->era)
			continue;
		bdev_histogram_merge(&walk->histograms->sum, &channel->tally->histogram);
		if (rc == 0 && walk->per_channel)
			rc = add_channel(walk->histograms, channel);
	}
	return rc;
}

static void
read_finish(struct bdev_walk *base, int status)
{
	struct read_walk *walk = (struct read_walk *)base;
	const struct bdev_tally *ended = base->bdev->ended.tally;

	if (status == 0 && ended != NULL && ended->era == walk->era)
		bdev_histogram_merge(&walk->histograms->sum, &ended->histogram);
}

void
bdev_histograms_free(struct bdev_histograms *histograms)
{
	if (histograms == NULL)
		return;
	for (uint32_t i = 0; i < histograms->count; i++) {
		free(histograms->channels[i]->user);
		free(histograms->channels[i]);
	}
	free(histograms->channels);
	free(histograms);
}

static void
read_free(struct bdev_walk *base)
{
	struct read_walk *walk = (struct read_walk *)base;

	bdev_histograms_free(walk->histograms);
	free(walk);
}

int
bdev_get_histograms(struct bdev *bdev, bool per_channel, struct bdev_histograms **histograms)
{
	static const struct bdev_walk_ops ops = {read_visit, read_finish, read_free};
	struct read_walk *walk;
	int rc;

	if (!bdev->removing && !bdev_has_histogram(bdev))
		return -EINVAL;
	walk = calloc(1, sizeof(*walk));
	if (walk == NULL || (walk->histograms = calloc(1, sizeof(*walk->histograms))) == NULL) {
		free(walk);
		return -ENOMEM;
	}
	walk->walk.ops = &ops;
	walk->per_channel = per_channel;
	walk->era = current_era(bdev);
	rc = bdev_walk_run(bdev, &walk->walk);
	if (rc != 0)
		return rc;
	*histograms = walk->histograms;
	walk->histograms = NULL;
	read_free(&walk->walk);
	return 0;
}
