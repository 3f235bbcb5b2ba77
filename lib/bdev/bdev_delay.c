/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that is slower than the one below: reads and writes end later by so much, of each hundred
 * on a thread one by more. What is done below waits here in the order in which it was, by kind, so
 * that the first ones of the kinds say when the thread must wake.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_filter.h"
#include "bdev_modules.h"
#include "env.h"
#include "request_fifo.h"

#define MODULE    "delay"
#define NOMINAL   1000 /* us; the poller says itself when it runs */
#define P99_EVERY 100

struct delay_disk {
	struct bdev_filter filter;
	/* Written by the app thread, read by any: ticks. */
	_Atomic uint64_t delay[BDEV_DELAYS];
	/* App thread only. */
	uint64_t latency_us[BDEV_DELAYS];
};

struct delay_channel {
	struct bdev_filter_channel filter;
	const struct thread *thread;
	struct poller *poller;
	LIST_HEAD(, delay_request) below;
	struct request_fifo waiting[BDEV_DELAYS];
	uint32_t count[BDEV_IO_TYPES];
};

struct delay_request {
	struct delay_channel *channel;
	LIST_ENTRY(delay_request) link; /* while it is below */
	bool at_once;                   /* it is not to be late any more */
	uint64_t done_ticks;
	int status;
	_Alignas(16) struct bdev_request lower;
};

/* ---- the data path ---- */

static struct delay_request *
request_of(struct bdev_request *upper)
{
	return (struct delay_request *)upper->ctx;
}

static struct bdev_request *
upper_of(struct delay_request *request)
{
	return (struct bdev_request *)((uint8_t *)request - offsetof(struct bdev_request, ctx));
}

static uint64_t
delay_of(const struct delay_channel *channel, int kind)
{
	const struct delay_disk *disk = (const struct delay_disk *)channel->filter.filter;

	if (atomic_load_explicit(&disk->filter.going, memory_order_relaxed))
		return 0;
	return atomic_load_explicit(&disk->delay[kind], memory_order_relaxed);
}

static uint64_t
due_of(const struct delay_channel *channel, int kind)
{
	uint64_t due;

	if (channel->waiting[kind].first == NULL ||
	    __builtin_add_overflow(request_of(channel->waiting[kind].first)->done_ticks,
				   delay_of(channel, kind), &due))
		return UINT64_MAX;
	return due;
}

static void
set_due(struct delay_channel *channel)
{
	uint64_t first = UINT64_MAX;

	for (int kind = 0; kind < BDEV_DELAYS; kind++) {
		uint64_t due = due_of(channel, kind);

		if (due < first)
			first = due;
	}
	poller_set_due(channel->poller, first);
}

static void
end_first(struct delay_channel *channel, int kind)
{
	struct bdev_request *rq = request_fifo_pop(&channel->waiting[kind]);

	bdev_complete(rq, request_of(rq)->status);
}

static int
delay_poll(void *arg)
{
	struct delay_channel *channel = arg;
	uint64_t now = thread_now(channel->thread);
	int rc = POLLER_IDLE;

	for (int kind = 0; kind < BDEV_DELAYS; kind++) {
		while (due_of(channel, kind) <= now) {
			end_first(channel, kind);
			rc = POLLER_BUSY;
		}
	}
	set_due(channel);
	return rc;
}

static void
delay_end_held(void *channel_ctx)
{
	struct delay_channel *channel = channel_ctx;

	for (int kind = 0; kind < BDEV_DELAYS; kind++) {
		while (channel->waiting[kind].first != NULL)
			end_first(channel, kind);
	}
	set_due(channel);
}

/* Also those that are below still are not to be late then. */
static bool
delay_release_held(void *channel_ctx, const struct bdev_release *release)
{
	struct delay_channel *channel = channel_ctx;
	struct request_fifo picked;
	struct delay_request *request;
	struct bdev_request *rq;
	bool found;

	LIST_FOREACH (request, &channel->below, link)
		request->at_once |= bdev_release_wants(release, upper_of(request));
	found = bdev_filter_release_held(channel, release);
	for (int kind = 0; kind < BDEV_DELAYS; kind++) {
		picked = request_fifo_pick(&channel->waiting[kind], release);
		found |= picked.first != NULL;
		while ((rq = request_fifo_pop(&picked)) != NULL)
			bdev_complete(rq, request_of(rq)->status);
	}
	set_due(channel);
	return found;
}

/* -1: it is not delayed. */
static int
kind_of(struct delay_channel *channel, uint8_t type)
{
	bool is_long;

	if (type != BDEV_READ && type != BDEV_WRITE && type != BDEV_WRITE_ZEROES)
		return -1;
	is_long = ++channel->count[type] % P99_EVERY == 0;
	if (type == BDEV_READ)
		return is_long ? BDEV_DELAY_P99_READ : BDEV_DELAY_AVG_READ;
	return is_long ? BDEV_DELAY_P99_WRITE : BDEV_DELAY_AVG_WRITE;
}

static void
on_lower_done(struct bdev_request *lower, int status)
{
	struct bdev_request *rq = bdev_filter_upper(lower, struct delay_request);
	struct delay_request *request = request_of(rq);
	struct delay_channel *channel = request->channel;
	int kind = kind_of(channel, rq->type);

	LIST_REMOVE(request, link);
	if (kind < 0 || request->at_once || delay_of(channel, kind) == 0) {
		bdev_complete(rq, status);
		return;
	}
	request->done_ticks = thread_now(channel->thread);
	request->status = status;
	request_fifo_push(&channel->waiting[kind], rq);
	if (channel->waiting[kind].first == rq)
		set_due(channel);
}

static void
delay_submit(void *channel_ctx, struct bdev_request *rq)
{
	struct delay_channel *channel = channel_ctx;
	struct delay_request *request = request_of(rq);

	if (rq->type == BDEV_RESET) {
		bdev_drain(rq);
		return;
	}
	request->channel = channel;
	request->at_once = false;
	LIST_INSERT_HEAD(&channel->below, request, link);
	bdev_filter_submit(&channel->filter, rq, &request->lower, on_lower_done);
}

static int
delay_channel_create(void *bdev_ctx, void *channel_ctx)
{
	struct delay_channel *channel = channel_ctx;
	int rc = bdev_filter_channel_create(bdev_ctx, &channel->filter);

	if (rc != 0)
		return rc;
	LIST_INIT(&channel->below);
	channel->thread = thread_current();
	channel->poller = poller_register(delay_poll, channel, NOMINAL, "bdev_delay");
	if (channel->poller == NULL) {
		rc = -errno;
		bdev_filter_channel_destroy(&channel->filter);
		return rc;
	}
	poller_set_due(channel->poller, UINT64_MAX);
	return 0;
}

static void
delay_channel_destroy(void *bdev_ctx, void *channel_ctx)
{
	struct delay_channel *channel = channel_ctx;

	(void)bdev_ctx;
	poller_unregister(&channel->poller);
	bdev_filter_channel_destroy(&channel->filter);
}

/* ---- the control path ---- */

static const char *const kind_names[BDEV_DELAYS] = {
	[BDEV_DELAY_AVG_READ] = "avg_read",
	[BDEV_DELAY_P99_READ] = "p99_read",
	[BDEV_DELAY_AVG_WRITE] = "avg_write",
	[BDEV_DELAY_P99_WRITE] = "p99_write",
};

static void
set_latency(struct delay_disk *disk, int kind, uint64_t us)
{
	disk->latency_us[kind] = us;
	atomic_store(&disk->delay[kind], env_us_to_ticks(us));
}

static void
add_latencies(const struct delay_disk *disk, json_t *object)
{
	for (int kind = 0; kind < BDEV_DELAYS; kind++) {
		char name[32];

		snprintf(name, sizeof(name), "%s_latency", kind_names[kind]);
		json_object_set_new(object, name, json_integer((json_int_t)disk->latency_us[kind]));
	}
}

static json_t *
delay_describe(void *bdev_ctx)
{
	const struct delay_disk *disk = bdev_ctx;
	json_t *object = json_pack("{s:s, s:s}", "name", bdev_get_info(disk->filter.bdev)->name,
				   "base_bdev_name", bdev_filter_base(&disk->filter));

	add_latencies(disk, object);
	return json_pack("{s:o}", "delay", object);
}

static json_t *
delay_config(void *bdev_ctx)
{
	const struct delay_disk *disk = bdev_ctx;
	const struct bdev_info *info = bdev_get_info(disk->filter.bdev);
	json_t *params = json_pack("{s:s, s:s, s:s}", "name", info->name, "base_bdev_name",
				   bdev_filter_base(&disk->filter), "uuid", info->uuid);

	add_latencies(disk, params);
	return json_pack("{s:s, s:o}", "method", "bdev_delay_create", "params", params);
}

static void
delay_destroy(void *bdev_ctx)
{
	bdev_filter_destroy(bdev_ctx);
}

static const struct bdev_ops delay_ops = {
	.module = MODULE,
	.channel_create = delay_channel_create,
	.channel_destroy = delay_channel_destroy,
	.submit = delay_submit,
	.end_held = delay_end_held,
	.release_held = delay_release_held,
	.destroy = delay_destroy,
	.describe = delay_describe,
	.config = delay_config,
	.channel_ctx_size = sizeof(struct delay_channel),
	.request_ctx_size = offsetof(struct delay_request, lower),
};

int
bdev_delay_create(const struct bdev_delay_opts *opts, struct bdev **bdev, struct errmsg *err)
{
	const struct bdev_filter_opts filter = {
		.name = opts->name,
		.uuid = opts->uuid,
		.base = opts->base,
		.product_name = "Delay disk",
		.ops = &delay_ops,
	};
	struct delay_disk *disk = calloc(1, sizeof(*disk));
	int rc;

	if (disk == NULL)
		return err_set(err, -ENOMEM, "no memory for block device %s", opts->name);
	for (int kind = 0; kind < BDEV_DELAYS; kind++)
		set_latency(disk, kind, opts->latency_us[kind]);
	rc = bdev_filter_register(&disk->filter, &filter, err);
	if (rc != 0) {
		free(disk);
		return rc;
	}
	*bdev = disk->filter.bdev;
	return 0;
}

static void
visit_set_due(void *channel_ctx)
{
	set_due(channel_ctx);
}

int
bdev_delay_update(const char *name, const char *kind_name, uint64_t latency_us, struct errmsg *err)
{
	struct bdev *bdev = bdev_by_name(name);
	struct delay_disk *disk = bdev == NULL ? NULL : bdev_module_ctx(bdev, MODULE);
	int kind = 0;

	while (kind < BDEV_DELAYS && strcmp(kind_name, kind_names[kind]) != 0)
		kind++;
	if (kind == BDEV_DELAYS)
		return err_set(err, -EINVAL,
			       "block device %s: a latency is avg_read, p99_read, avg_write or "
			       "p99_write",
			       name);
	if (disk == NULL)
		return err_set(err, -ENODEV, "there is no " MODULE " block device %s", name);
	set_latency(disk, kind, latency_us);
	return bdev_visit_channels(bdev, visit_set_due);
}
