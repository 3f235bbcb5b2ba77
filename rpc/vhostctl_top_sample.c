/* SPDX-License-Identifier: BSD-3-Clause */
/* What happened between two looks at the daemon, which may be older or newer than we are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vhostctl_top.h"

#define P99 0.99

/* Of each request besides its data, virtio 1.2 §5.2.6: the guest reads the status, we the header. */
#define BLK_STATUS_SIZE 1
#define BLK_HEADER_SIZE 16

/* ---- asking ---- */

static double
clock_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void
answers_free(struct top_answers *answers)
{
	for (size_t i = 0; i < TOP_ANSWERS; i++)
		json_decref(answers->of[i]);
	json_decref(answers->histograms);
	*answers = (struct top_answers){0};
}

void
top_forget(struct top_source *source)
{
	answers_free(&source->before);
}

/* Whether the configuration switches on the histogram of some block devices: their names. */
static json_t *
names_with_histogram(json_t *config)
{
	json_t *names = json_array();
	json_t *call;
	size_t i;

	json_array_foreach (config, i, call) {
		const char *method = json_string_value(json_object_get(call, "method"));
		json_t *params = json_object_get(call, "params");
		json_t *name = json_object_get(params, "name");

		if (method != NULL && strcmp(method, "bdev_enable_histogram") == 0 &&
		    json_is_true(json_object_get(params, "enable")) && json_is_string(name))
			json_array_append(names, name);
	}
	return names;
}

/* Only those that are on: asking for others is an error that the daemon logs. */
static void
ask_histograms(const struct vhostctl_opts *opts, struct top_answers *answers)
{
	json_t *names = names_with_histogram(answers->of[TOP_CONFIG]);
	size_t count = json_array_size(names);
	struct ctl_question *questions = calloc(count + 1, sizeof(*questions));
	json_t **results = calloc(count + 1, sizeof(*results));
	struct errmsg err;

	answers->histograms = json_object();
	for (size_t i = 0; questions != NULL && i < count; i++)
		questions[i] = (struct ctl_question){
			"bdev_get_histogram",
			json_pack("{s:O}", "name", json_array_get(names, i)),
		};
	if (count > 0 && questions != NULL && results != NULL &&
	    ctl_call_all(opts, questions, count, results, &err) == STATUS_OK) {
		for (size_t i = 0; i < count; i++)
			json_object_set(answers->histograms,
					json_string_value(json_array_get(names, i)), results[i]);
	}
	for (size_t i = 0; i < count; i++) {
		json_decref(questions != NULL ? questions[i].params : NULL);
		json_decref(results != NULL ? results[i] : NULL);
	}
	free(questions);
	free(results);
	json_decref(names);
}

static enum vhostctl_status
ask(const struct vhostctl_opts *opts, struct top_answers *answers, struct errmsg *err)
{
	json_t *bdev = json_pack("{s:s}", "name", "bdev");
	const struct ctl_question questions[TOP_ANSWERS] = {
		[TOP_VERSION] = {"spdk_get_version", NULL},
		[TOP_REACTORS] = {"framework_get_reactors", NULL},
		[TOP_CONTROLLERS] = {"vhost_get_controllers", NULL},
		[TOP_STATS] = {"vhost_get_stats", NULL},
		[TOP_IOSTAT] = {"bdev_get_iostat", NULL},
		[TOP_CONFIG] = {"framework_get_config", bdev},
	};
	enum vhostctl_status status = ctl_call_all(opts, questions, TOP_ANSWERS, answers->of, err);
	double rate, ticks;

	json_decref(bdev);
	if (status != STATUS_OK)
		return status;
	rate = json_number_value(json_object_get(answers->of[TOP_IOSTAT], "tick_rate"));
	ticks = json_number_value(json_object_get(answers->of[TOP_IOSTAT], "ticks"));
	answers->now = rate > 0 && ticks > 0 ? ticks / rate : clock_seconds();
	answers->there = true;
	ask_histograms(opts, answers);
	return STATUS_OK;
}

/* ---- finding ---- */

/* The item of an array in which the member is that string or number, or NULL. */
static json_t *
find_item(json_t *array, const char *member, json_t *value)
{
	json_t *item;
	size_t i;

	json_array_foreach (array, i, item) {
		if (value != NULL && json_equal(json_object_get(item, member), value))
			return item;
	}
	return NULL;
}

static json_t *
find_bdev(const struct top_answers *answers, json_t *name)
{
	return find_item(json_object_get(answers->of[TOP_IOSTAT], "bdevs"), "name", name);
}

static void
add_name(json_t *names, json_t *name)
{
	json_t *known;
	size_t i;

	json_array_foreach (names, i, known) {
		if (json_equal(known, name))
			return;
	}
	if (json_is_string(name))
		json_array_append(names, name);
}

static bool
is_blk(json_t *controller)
{
	return json_object_get(json_object_get(controller, "backend_specific"), "block") != NULL;
}

/* The names of what a controller of either kind is on. */
static json_t *
bdevs_of(json_t *controller)
{
	json_t *backend = json_object_get(controller, "backend_specific");
	json_t *names = json_array();
	json_t *target, *lun;
	size_t i, j;

	add_name(names, json_object_get(json_object_get(backend, "block"), "bdev"));
	json_array_foreach (json_object_get(backend, "scsi"), i, target) {
		json_array_foreach (json_object_get(target, "luns"), j, lun)
			add_name(names, json_object_get(lun, "bdev_name"));
	}
	return names;
}

/* ---- rates ---- */

/* Two looks and what lies between them. */
struct period {
	const struct top_answers *now,
		*before; /* before: NULL if there is nothing to compare with */
	double seconds;
	double tick_rate;
};

/* How much a counter grew; NAN where either is not known. One that shrank has begun anew. */
static double
growth(json_t *now, json_t *before, const char *member)
{
	json_t *new_value = json_object_get(now, member);
	json_t *old_value = json_object_get(before, member);

	if (!json_is_number(new_value) || !json_is_number(old_value))
		return NAN;
	if (json_number_value(new_value) < json_number_value(old_value))
		return json_number_value(new_value);
	return json_number_value(new_value) - json_number_value(old_value);
}

/* At least 0; NAN stays NAN. */
static double
without(double bytes, double overhead)
{
	return bytes < overhead ? 0 : bytes - overhead;
}

/* How much the sum of some counters grew, over all of a controller's block devices. */
static double
growth_of_bdevs(const struct period *period, json_t *bdevs, const char *const *members)
{
	double sum = 0;
	json_t *name;
	size_t i;

	if (period->before == NULL)
		return NAN;
	json_array_foreach (bdevs, i, name) {
		json_t *now = find_bdev(period->now, name);
		json_t *before = find_bdev(period->before, name);

		for (const char *const *member = members; *member != NULL; member++)
			sum += growth(now, before, *member);
	}
	return json_array_size(bdevs) > 0 ? sum : NAN;
}

static const char *const ops[] = {"num_read_ops", "num_write_ops", "num_unmap_ops", "num_flush_ops",
				  NULL};
static const char *const ticks[] = {"read_latency_ticks", "write_latency_ticks",
				    "unmap_latency_ticks", "flush_latency_ticks", NULL};
static const char *const bytes_read[] = {"bytes_read", NULL};
static const char *const bytes_written[] = {"bytes_written", NULL};

static double
p99_us(const struct period *period, json_t *bdevs)
{
	struct top_histogram sum = {0};
	double quantile, rate = 0, us = NAN;
	bool known = period->before != NULL && json_array_size(bdevs) > 0;
	json_t *name;
	size_t i;

	json_array_foreach (bdevs, i, name) {
		const char *text = json_string_value(name);
		json_t *now = json_object_get(period->now->histograms, text);
		json_t *before = known ? json_object_get(period->before->histograms, text) : NULL;

		known = known && now != NULL && before != NULL &&
			top_histogram_add(&sum, now, before);
		rate = json_number_value(json_object_get(now, "tsc_rate"));
	}
	if (known && rate > 0 && top_histogram_quantile(&sum, P99, &quantile))
		us = quantile * 1e6 / rate;
	free(sum.buckets);
	return us;
}

/* ---- the sample ---- */

/* Rounded to what can be told apart; NAN is null. */
static void
set_number(json_t *object, const char *member, double value, double unit)
{
	json_object_set_new(object, member,
			    isfinite(value) ? json_real(round(value / unit) * unit) : json_null());
}

static void
set_copy(json_t *object, const char *member, json_t *from, const char *source)
{
	json_t *value = json_object_get(from, source);

	json_object_set(object, member, value != NULL ? value : json_null());
}

static void
set_rates(json_t *entry, const struct period *period, json_t *name, bool is_blk, json_t *bdevs)
{
	json_t *stats = find_item(period->now->of[TOP_STATS], "ctrlr", name);
	json_t *before = period->before == NULL
				 ? NULL
				 : find_item(period->before->of[TOP_STATS], "ctrlr", name);
	double requests = growth(stats, before, "requests");
	double read = growth(stats, before, "bytes_read");
	double written = growth(stats, before, "bytes_written");
	double of_bdevs = growth_of_bdevs(period, bdevs, ops);
	double latency = growth_of_bdevs(period, bdevs, ticks) / of_bdevs;

	if (is_blk) {
		read = without(read, requests * BLK_STATUS_SIZE);
		written = without(written, requests * BLK_HEADER_SIZE);
	}
	/* A daemon without the controllers' own counters. */
	if (stats == NULL) {
		requests = of_bdevs;
		read = growth_of_bdevs(period, bdevs, bytes_read);
		written = growth_of_bdevs(period, bdevs, bytes_written);
	}
	set_copy(entry, "queues", stats, "running_queues");
	set_number(entry, "iops", requests / period->seconds, 1);
	set_number(entry, "read_mb_per_s", read / period->seconds / 1e6, 0.001);
	set_number(entry, "written_mb_per_s", written / period->seconds / 1e6, 0.001);
	set_number(entry, "avg_us", latency * 1e6 / period->tick_rate, 0.01);
	set_number(entry, "p99_us", p99_us(period, bdevs), 0.01);
	set_copy(entry, "inflight", stats, "inflight");
	set_copy(entry, "errors", stats, "errors");
	set_copy(entry, "breaks", stats, "breaks");
}

static json_t *
describe_bdevs(json_t *bdevs)
{
	size_t count = json_array_size(bdevs);

	if (count == 0)
		return json_null();
	if (count == 1)
		return json_incref(json_array_get(bdevs, 0));
	return json_sprintf("%s and %zu more", json_string_value(json_array_get(bdevs, 0)),
			    count - 1);
}

static json_t *
describe_controllers(const struct period *period)
{
	json_t *controllers = json_array();
	json_t *controller;
	size_t i;

	json_array_foreach (period->now->of[TOP_CONTROLLERS], i, controller) {
		json_t *name = json_object_get(controller, "ctrlr");
		json_t *bdevs = bdevs_of(controller);
		json_t *entry = json_object();

		if (json_is_string(name)) {
			json_object_set(entry, "ctrlr", name);
			json_object_set_new(entry, "bdev", describe_bdevs(bdevs));
			set_rates(entry, period, name, is_blk(controller), bdevs);
			json_array_append(controllers, entry);
		}
		json_decref(entry);
		json_decref(bdevs);
	}
	return controllers;
}

static json_t *
describe_reactors(const struct period *period)
{
	json_t *of_before = period->before != NULL
				    ? json_object_get(period->before->of[TOP_REACTORS], "reactors")
				    : NULL;
	json_t *reactors = json_array();
	json_t *reactor;
	size_t i;

	json_array_foreach (json_object_get(period->now->of[TOP_REACTORS], "reactors"), i,
			    reactor) {
		json_t *core = json_object_get(reactor, "lcore");
		json_t *before = find_item(of_before, "lcore", core);
		double busy = growth(reactor, before, "busy");
		double idle = growth(reactor, before, "idle");
		json_t *entry = json_object();

		set_copy(entry, "core", reactor, "lcore");
		set_copy(entry, "mode", reactor, "mode");
		set_number(entry, "busy", busy / (busy + idle), 0.001);
		json_object_set_new(entry, "threads",
				    json_integer((json_int_t)json_array_size(
					    json_object_get(reactor, "lw_threads"))));
		json_array_append_new(reactors, entry);
	}
	return reactors;
}

static json_t *
describe(const struct top_source *source, const struct period *period)
{
	json_t *daemon = json_object();
	json_t *sample = json_object();

	set_copy(daemon, "version", period->now->of[TOP_VERSION], "version");
	set_copy(daemon, "pid", period->now->of[TOP_REACTORS], "pid");
	json_object_set_new(daemon, "socket", json_string(source->opts->socket));
	json_object_set_new(sample, "daemon", daemon);
	set_number(sample, "seconds", period->seconds, 0.001);
	json_object_set_new(sample, "controllers", describe_controllers(period));
	json_object_set_new(sample, "reactors", describe_reactors(period));
	return sample;
}

/* The counters of another process are no beginning for ours. */
static bool
is_same_daemon(const struct top_answers *a, const struct top_answers *b)
{
	json_t *pid = json_object_get(a->of[TOP_REACTORS], "pid");

	return a->there && b->there && a->now < b->now &&
	       (pid == NULL || json_equal(pid, json_object_get(b->of[TOP_REACTORS], "pid")));
}

enum vhostctl_status
top_take(struct top_source *source, json_t **sample, struct errmsg *err)
{
	struct top_answers now = {0};
	enum vhostctl_status status = ask(source->opts, &now, err);
	struct period period = {.now = &now, .seconds = NAN};

	*sample = NULL;
	if (status == STATUS_OK) {
		period.tick_rate =
			json_number_value(json_object_get(now.of[TOP_IOSTAT], "tick_rate"));
		if (is_same_daemon(&source->before, &now)) {
			period.before = &source->before;
			period.seconds = now.now - source->before.now;
		}
		*sample = describe(source, &period);
	}
	answers_free(&source->before);
	source->before = now;
	return status;
}
