/* SPDX-License-Identifier: BSD-3-Clause */
/* Asks everybody. App thread, in a coroutine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bdev.h"
#include "bdev_modules.h"
#include "env.h"
#include "event.h"
#include "histogram.h"
#include "metrics.h"
#include "table.h"
#include "thread.h"
#include "vhost.h"

static void
add(json_t *records, const char *group, json_t *record)
{
	json_array_append_new(json_object_get(records, group), record);
}

static double
seconds(uint64_t ticks)
{
	return (double)ticks / (double)env_ticks_hz();
}

/* ---- the process ---- */

/*
 * In seconds since 1970, 0: unknown. /proc/self/stat counts from the machine's start (proc(5),
 * starttime, the 20th field after the name, which may have spaces and brackets).
 */
static double
find_start_time(void)
{
	unsigned long long ticks = 0;
	struct timespec wall, boot;
	char text[1024];
	FILE *file = fopen("/proc/self/stat", "r");
	const char *fields;

	if (file == NULL)
		return 0;
	text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
	fclose(file);
	fields = strrchr(text, ')');
	if (fields == NULL || sscanf(fields,
				     ") %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
				     "%*s %*s %*s %*s %*s %llu",
				     &ticks) != 1)
		return 0;
	clock_gettime(CLOCK_REALTIME, &wall);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	return (double)(wall.tv_sec - boot.tv_sec) + (double)(wall.tv_nsec - boot.tv_nsec) / 1e9 +
	       (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

/* The same at each call: both clocks go on between two readings, and one may be set. */
static void
collect_process(json_t *records)
{
	static double start_time; /* app thread only */

	if (start_time == 0)
		start_time = find_start_time();
	add(records, "build", json_pack("{s:s, s:i}", "version", VHOSTD_VERSION, "info", 1));
	add(records, "process", json_pack("{s:f}", "start_time", start_time));
}

/* ---- reactors and threads ---- */

static void
collect_reactors(json_t *records)
{
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		struct reactor_info info;

		if (reactor_get_info(core, &info) != 0)
			continue;
		add(records, "reactors",
		    json_pack("{s:I, s:f, s:f, s:I, s:I, s:I}", "core", (json_int_t)core, "busy",
			      seconds(info.busy_ticks), "idle", seconds(info.idle_ticks), "sleeps",
			      (json_int_t)info.sleeps, "events", (json_int_t)info.events, "threads",
			      (json_int_t)info.threads));
	}
}

static void
add_thread(void *records, struct thread *thread)
{
	add(records, "threads",
	    json_pack("{s:s, s:I, s:f, s:f}", "name", thread_name(thread), "id",
		      (json_int_t)thread_id(thread), "busy", seconds(thread_busy_ticks(thread)),
		      "idle", seconds(thread_idle_ticks(thread))));
}

/* ---- controllers ---- */

static void
collect_vhost(json_t *records)
{
	struct errmsg err;
	int rc;
	json_t *controllers = vhost_stats_json(NULL, true, &rc, &err);
	json_t *controller, *queue;
	size_t i, j;

	json_array_foreach (controllers, i, controller) {
		json_array_foreach (json_object_get(controller, "queues"), j, queue) {
			json_object_set(queue, "ctrlr", json_object_get(controller, "ctrlr"));
			add(records, "queues", json_incref(queue));
		}
		add(records, "controllers", json_incref(controller));
	}
	json_decref(controllers);
}

/* ---- block devices ---- */

static const char *const operation_names[] = {
	[BDEV_READ] = "read",
	[BDEV_WRITE] = "write",
	[BDEV_FLUSH] = "flush",
	[BDEV_DISCARD] = "discard",
	[BDEV_WRITE_ZEROES] = "write_zeroes",
	[BDEV_RESET] = "reset",
};

static const char *const limit_names[] = {
	[BDEV_RATE_IOS] = "limit_operations",
	[BDEV_RATE_BYTES] = "limit_bytes",
	[BDEV_RATE_READ_BYTES] = "limit_read_bytes",
	[BDEV_RATE_WRITE_BYTES] = "limit_written_bytes",
};

_Static_assert(sizeof(operation_names) / sizeof(operation_names[0]) == BDEV_IO_TYPES &&
		       sizeof(limit_names) / sizeof(limit_names[0]) == BDEV_RATES,
	       "each has a name");

static json_t *
bdev_json(const struct bdev *bdev)
{
	const struct bdev_info *info = bdev_get_info(bdev);
	json_t *record = json_pack("{s:s, s:I, s:b}", "name", info->name, "size",
				   (json_int_t)info->size, "open", bdev_is_open(bdev));
	uint64_t rates[BDEV_RATES];

	bdev_get_rates(bdev, rates);
	for (int i = 0; i < BDEV_RATES; i++) {
		if (rates[i] != 0)
			json_object_set_new(record, limit_names[i],
					    json_integer((json_int_t)rates[i]));
	}
	return record;
}

/* A flush and a reset have no bytes. */
static void
add_operations(json_t *records, const char *name, const struct bdev_io_stat *stat)
{
	for (int type = 0; type < BDEV_IO_TYPES; type++) {
		json_t *record =
			json_pack("{s:s, s:s, s:I, s:I, s:f}", "name", name, "operation",
				  operation_names[type], "operations", (json_int_t)stat->ops[type],
				  "errors", (json_int_t)stat->errors[type], "seconds",
				  seconds(stat->latency_ticks[type]));

		if (type != BDEV_FLUSH && type != BDEV_RESET)
			json_object_set_new(record, "bytes",
					    json_integer((json_int_t)stat->bytes[type]));
		add(records, "operations", record);
	}
}

/* [waits]. NULL: it is off, or the block device is gone. */
static json_t *
latency_json(struct bdev *bdev)
{
	struct bdev_histograms *histograms;
	json_t *latency;

	if (!bdev_has_histogram(bdev) || bdev_get_histograms(bdev, false, &histograms) != 0)
		return NULL;
	latency = metrics_histogram_json(&histograms->sum, env_ticks_hz());
	bdev_histograms_free(histograms);
	return latency;
}

/* [waits]; it may go away, and come back as another one. */
static void
collect_bdev(json_t *records, const char *name)
{
	struct bdev *bdev = bdev_by_name(name);
	struct bdev_io_stat stat;
	json_t *record;

	if (bdev == NULL)
		return;
	record = bdev_json(bdev);
	if (bdev_get_stat(bdev, BDEV_STAT_KEEP, &stat) == 0)
		add_operations(records, name, &stat);
	bdev = bdev_by_name(name);
	if (bdev != NULL)
		json_object_set_new(record, "latency", latency_json(bdev));
	add(records, "bdevs", record);
}

static void
collect_bdevs(json_t *records)
{
	json_t *names = json_array();
	json_t *name;
	size_t i;

	for (struct bdev *bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev))
		json_array_append_new(names, json_string(bdev_get_info(bdev)->name));
	json_array_foreach (names, i, name)
		collect_bdev(records, json_string_value(name));
	json_decref(names);
}

static void
collect_nvme(json_t *records)
{
	json_t *controllers = bdev_nvme_controllers_json(NULL);
	json_t *controller;
	size_t i;

	json_array_foreach (controllers, i, controller) {
		const json_t *path = json_array_get(json_object_get(controller, "ctrlrs"), 0);
		const char *state = json_string_value(json_object_get(path, "state"));

		json_object_set_new(controller, "up",
				    json_boolean(state != NULL && strcmp(state, "enabled") == 0));
		add(records, "nvme", json_incref(controller));
	}
	json_decref(controllers);
}

json_t *
metrics_collect(void)
{
	json_t *records = json_object();

	for (size_t i = 0; i < metrics_count; i++) {
		const char *group = metrics_table[i].group->name;

		if (json_object_get(records, group) == NULL)
			json_object_set_new(records, group, json_array());
	}
	collect_process(records);
	collect_reactors(records);
	thread_look_at_each(add_thread, records);
	collect_vhost(records);
	collect_bdevs(records);
	collect_nvme(records);
	return records;
}
