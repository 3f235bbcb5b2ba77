/* SPDX-License-Identifier: BSD-3-Clause */
/* What block devices have done: counters and histograms. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "bdev.h"
#include "env.h"
#include "params.h"
#include "rpc_bdev.h"

/* ---- bdev_get_iostat ---- */

#define COUNTER(key, member, type)                                                                 \
	{                                                                                          \
		key, offsetof(struct bdev_io_stat, member[type])                                   \
	}
#define LATENCIES(key, type)                                                                       \
	COUNTER(key "_latency_ticks", latency_ticks, type),                                        \
		COUNTER("max_" key "_latency_ticks", max_latency_ticks, type),                     \
		COUNTER("min_" key "_latency_ticks", min_latency_ticks, type)

static const struct {
	const char *name;
	size_t offset;
} counters[] = {
	COUNTER("bytes_read", bytes, BDEV_READ),
	COUNTER("num_read_ops", ops, BDEV_READ),
	COUNTER("bytes_written", bytes, BDEV_WRITE),
	COUNTER("num_write_ops", ops, BDEV_WRITE),
	COUNTER("bytes_unmapped", bytes, BDEV_DISCARD),
	COUNTER("num_unmap_ops", ops, BDEV_DISCARD),
	COUNTER("bytes_zeroed", bytes, BDEV_WRITE_ZEROES),
	COUNTER("num_write_zeroes_ops", ops, BDEV_WRITE_ZEROES),
	COUNTER("num_flush_ops", ops, BDEV_FLUSH),
	LATENCIES("read", BDEV_READ),
	LATENCIES("write", BDEV_WRITE),
	LATENCIES("unmap", BDEV_DISCARD),
	LATENCIES("flush", BDEV_FLUSH),
	COUNTER("num_read_errors", errors, BDEV_READ),
	COUNTER("num_write_errors", errors, BDEV_WRITE),
	COUNTER("num_unmap_errors", errors, BDEV_DISCARD),
	COUNTER("num_write_zeroes_errors", errors, BDEV_WRITE_ZEROES),
	COUNTER("num_flush_errors", errors, BDEV_FLUSH),
};

static int
add_counters(json_t *entry, const struct bdev_io_stat *stat)
{
	int rc = 0;

	for (size_t i = 0; i < RPC_COUNT(counters); i++) {
		uint64_t value;

		memcpy(&value, (const char *)stat + counters[i].offset, sizeof(value));
		rc |= json_object_set_new(entry, counters[i].name, json_integer((json_int_t)value));
	}
	return rc == 0 ? 0 : -ENOMEM;
}

static const char *const reset_modes[] = {
	[BDEV_STAT_KEEP] = "none",
	[BDEV_STAT_RESET_MAXMIN] = "maxmin",
	[BDEV_STAT_RESET] = "all",
};

/* mode: NULL is preset. False: there is none of that name. */
static bool
find_reset_mode(const char *mode, enum bdev_stat_reset preset, enum bdev_stat_reset *reset)
{
	*reset = preset;
	for (size_t i = 0; mode != NULL && i < RPC_COUNT(reset_modes); i++) {
		if (strcmp(mode, reset_modes[i]) == 0) {
			*reset = (enum bdev_stat_reset)i;
			return true;
		}
	}
	return mode == NULL;
}

/* [waits] */
static int
add_channels(json_t *entry, struct bdev *bdev, enum bdev_stat_reset reset)
{
	json_t *channels = json_array();
	struct bdev_channel_stat *stats;
	uint32_t count;
	int rc = bdev_get_channel_stats(bdev, reset, &stats, &count);

	if (rc != 0) {
		json_decref(channels);
		return rc;
	}
	for (uint32_t i = 0; i < count; i++) {
		json_t *channel = json_pack("{s:I}", "thread_id", (json_int_t)stats[i].thread_id);

		rc |= add_counters(channel, &stats[i].stat);
		rc |= json_array_append_new(channels, channel);
	}
	free(stats);
	rc |= json_object_set_new(entry, "channels", channels);
	return rc == 0 ? 0 : -ENOMEM;
}

/* [waits]. The bdev may go away meanwhile: -ENODEV. */
static int
add_iostat(json_t *entry, const char *name, bool per_channel, enum bdev_stat_reset reset)
{
	struct bdev *bdev = bdev_by_name(name);
	struct bdev_io_stat stat;
	int rc;

	if (bdev == NULL)
		return -ENODEV;
	if (json_object_set_new(entry, "name", json_string(bdev_get_info(bdev)->name)) != 0)
		return -ENOMEM;
	if (per_channel)
		return add_channels(entry, bdev, reset);
	rc = bdev_get_stat(bdev, reset, &stat);
	return rc == 0 ? add_counters(entry, &stat) : rc;
}

/* The names that are asked for, for the list of bdevs may change while the call waits. */
static json_t *
wanted_names(const struct rpc_bdev_get_iostat *params)
{
	json_t *names = json_array();

	for (uint32_t i = 0; i < params->names.count; i++)
		json_array_append_new(names, json_string(params->names.items[i]));
	if (params->name != NULL)
		json_array_append_new(names, json_string(params->name));
	if (params->name != NULL || params->names.count > 0)
		return names;
	for (struct bdev *bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev))
		json_array_append_new(names, json_string(bdev_get_info(bdev)->name));
	return names;
}

/* [waits]. Without names, a block device that goes away meanwhile is left out. */
static int
list_iostat(json_t *bdevs, const struct rpc_bdev_get_iostat *params, enum bdev_stat_reset reset,
	    struct errmsg *err)
{
	bool asked = params->name != NULL || params->names.count > 0;
	json_t *names = wanted_names(params);
	json_t *name;
	size_t i;
	int rc = 0;

	json_array_foreach (names, i, name) {
		json_t *entry = json_object();

		rc = add_iostat(entry, json_string_value(name), false, reset);
		if (rc == 0 && json_array_append(bdevs, entry) != 0)
			rc = -ENOMEM;
		json_decref(entry);
		if (rc == -ENODEV && asked)
			rc = rpc_no_such_bdev(json_string_value(name), err);
		else if (rc == -ENODEV)
			rc = 0;
		if (rc != 0)
			break;
	}
	json_decref(names);
	return rc;
}

/*
 * Clients expect the channels of one block device beside tick_rate, and the list "bdevs" otherwise.
 */
int
rpc_bdev_get_iostat(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_get_iostat *params = arg;
	const char *name = params->name != NULL ? params->name : params->names.items[0];
	json_t *bdevs = json_array();
	enum bdev_stat_reset reset;
	int rc;

	*result = json_pack("{s:I, s:I, s:o}", "tick_rate", (json_int_t)env_ticks_hz(), "ticks",
			    (json_int_t)env_ticks(), "bdevs", bdevs);
	if (*result == NULL)
		return -ENOMEM;
	if (!find_reset_mode(params->reset_mode, BDEV_STAT_KEEP, &reset))
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "bdev_get_iostat: parameter 'reset_mode' must be \"none\", "
			       "\"maxmin\" or \"all\"");
	if (!params->per_channel)
		return list_iostat(bdevs, params, reset, err);
	if ((params->name != NULL) + params->names.count != 1)
		return err_set(err, -EINVAL,
			       "bdev_get_iostat: per_channel goes with the name of one block "
			       "device");
	json_object_del(*result, "bdevs");
	rc = add_iostat(*result, name, true, reset);
	return rc == -ENODEV ? rpc_no_such_bdev(name, err) : rc;
}

int
rpc_bdev_reset_iostat(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_reset_iostat *params = arg;
	const struct rpc_bdev_get_iostat bdevs = {.name = params->name};
	json_t *ignored = json_array();
	enum bdev_stat_reset reset;
	int rc;

	(void)result;
	if (find_reset_mode(params->mode, BDEV_STAT_RESET, &reset))
		rc = list_iostat(ignored, &bdevs, reset, err);
	else
		rc = err_set(err, JSONRPC_INVALID_PARAMS,
			     "bdev_reset_iostat: parameter 'mode' must be \"all\", \"maxmin\" or "
			     "\"none\"");
	json_decref(ignored);
	return rc;
}

/* ---- histograms ---- */

/* RFC 4648 §4. A new string, or NULL: no memory. */
static char *
base64(const uint8_t *bytes, size_t size)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *text = malloc((size + 2) / 3 * 4 + 1), *end = text;

	for (size_t i = 0; text != NULL && i < size; i += 3) {
		uint32_t bits = (uint32_t)bytes[i] << 16;

		if (i + 1 < size)
			bits |= (uint32_t)bytes[i + 1] << 8;
		if (i + 2 < size)
			bits |= bytes[i + 2];
		*end++ = digits[bits >> 18];
		*end++ = digits[bits >> 12 & 63];
		*end++ = i + 1 < size ? digits[bits >> 6 & 63] : '=';
		*end++ = i + 2 < size ? digits[bits & 63] : '=';
	}
	if (text != NULL)
		*end = '\0';
	return text;
}

static json_t *
describe_percentiles(const struct bdev_histogram *histogram)
{
	static const struct {
		const char *name;
		double share;
	} percentiles[] = {
		{"50", 0.5},     {"90", 0.9},       {"99", 0.99},
		{"99.9", 0.999}, {"99.99", 0.9999}, {"100", 1},
	};
	json_t *array = json_array();

	for (size_t i = 0; i < RPC_COUNT(percentiles); i++) {
		uint64_t ticks = bdev_histogram_quantile(histogram, percentiles[i].share);
		double ns = (double)ticks * 1e9 / (double)env_ticks_hz();

		json_array_append_new(array,
				      json_pack("{s:s, s:I}", "percentile", percentiles[i].name,
						"latency_ns", (json_int_t)ns));
	}
	return array;
}

/* Buckets as clients decode them: uint64, little-endian, all of them. */
static int
add_histogram(json_t *entry, const struct bdev_histogram *histogram)
{
	char *text = base64((const uint8_t *)histogram->buckets, sizeof(histogram->buckets));
	int rc = json_object_set_new(entry, "histogram", json_string(text));

	free(text);
	rc |= json_object_set_new(entry, "count",
				  json_integer((json_int_t)bdev_histogram_count(histogram)));
	rc |= json_object_set_new(entry, "percentiles", describe_percentiles(histogram));
	return rc == 0 ? 0 : -ENOMEM;
}

static int
add_channel_histograms(json_t *answer, const struct bdev_histograms *histograms)
{
	json_t *channels = json_array();
	int rc = json_object_set_new(answer, "channels", channels);

	for (uint32_t i = 0; i < histograms->count; i++) {
		const struct bdev_channel_histogram *channel = histograms->channels[i];
		json_t *entry =
			json_pack("{s:I, s:s, s:s}", "thread_id", (json_int_t)channel->thread_id,
				  "user", channel->user, "label", channel->label);

		rc |= add_histogram(entry, &channel->histogram);
		rc |= json_array_append_new(channels, entry);
	}
	return rc == 0 ? 0 : -ENOMEM;
}

int
rpc_bdev_enable_histogram(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_enable_histogram *params = arg;
	struct bdev *bdev = bdev_by_name(params->name);

	(void)result;
	/* What the state names, and could not be done. */
	if ((bdev != NULL || !params->enable) &&
	    app_give_up("bdev_enable_histogram", params->name) && bdev == NULL)
		return 0;
	return bdev != NULL ? bdev_enable_histogram(bdev, params->enable)
			    : rpc_no_such_bdev(params->name, err);
}

/* Older clients look at bucket_shift, newer ones at granularity and the ranges. [waits] */
int
rpc_bdev_get_histogram(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_get_histogram *params = arg;
	struct bdev *bdev = bdev_by_name(params->name);
	struct bdev_histograms *histograms;
	int rc;

	if (bdev == NULL)
		return rpc_no_such_bdev(params->name, err);
	rc = bdev_get_histograms(bdev, params->per_channel, &histograms);
	if (rc == -EINVAL)
		return err_set(err, rc,
			       "bdev %s: its histogram is off; switch it on with "
			       "bdev_enable_histogram",
			       params->name);
	if (rc != 0)
		return rc == -ENODEV ? rpc_no_such_bdev(params->name, err) : rc;
	*result = json_pack("{s:i, s:i, s:i, s:i, s:I}", "bucket_shift", BDEV_HISTOGRAM_SHIFT,
			    "granularity", BDEV_HISTOGRAM_SHIFT, "min_range", 0, "max_range",
			    BDEV_HISTOGRAM_RANGES - 1, "tsc_rate", (json_int_t)env_ticks_hz());
	rc = add_histogram(*result, &histograms->sum);
	if (rc == 0 && params->per_channel)
		rc = add_channel_histograms(*result, histograms);
	bdev_histograms_free(histograms);
	return rc;
}
