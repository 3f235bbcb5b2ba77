/* SPDX-License-Identifier: BSD-3-Clause */
/* links: metrics bdev thread env */
/* From records to the text that Prometheus reads, and to JSON; latencies in buckets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/bdev_histogram.h"
#include "metrics.h"
#include "metrics/histogram.h"
#include "metrics/table.h"

#define HZ 2500000000ull /* of the clock of these histograms */

/* ---- help ---- */

/* The text of records, which are given up. */
static char *
text_of(json_t *records)
{
	size_t length;
	char *text;

	assert_non_null(records);
	text = metrics_text(records, &length);
	json_decref(records);
	assert_non_null(text);
	assert_int_equal(strlen(text), length);
	return text;
}

/* A number of metrics_text()'s, of the line that begins so. */
static double
value_of(const char *text, const char *begin)
{
	const char *line = strstr(text, begin);
	char *end;
	double value;

	if (line == NULL)
		fail_msg("no line begins with '%s' in:\n%s", begin, text);
	value = strtod(line + strlen(begin), &end);
	assert_int_equal(*end, '\n');
	return value;
}

/* Records with one block device that has this histogram; it is given up. */
static json_t *
records_with(json_t *latency)
{
	return json_pack("{s:[{s:s, s:o}]}", "bdevs", "name", "d", "latency", latency);
}

static struct bdev_histogram *
new_histogram(void)
{
	struct bdev_histogram *histogram = calloc(1, sizeof(*histogram));

	assert_non_null(histogram);
	return histogram;
}

/* ---- the table ---- */

static bool
is_name(const char *text)
{
	return text[0] != '\0' && strspn(text, "abcdefghijklmnopqrstuvwxyz_") == strlen(text);
}

static bool
ends_with(const char *text, const char *end)
{
	return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

static void
test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < metrics_count; i++) {
		const struct metric *metric = &metrics_table[i];

		assert_true(is_name(metric->name));
		assert_int_equal(metric->type == METRIC_COUNTER, ends_with(metric->name, "_total"));
		assert_null(strpbrk(metric->help, "\\\n"));
		assert_true(ends_with(metric->help, ".") || strchr(metric->help, ';') != NULL);
		for (int j = 0; metric->group->labels[j].name != NULL; j++)
			assert_true(is_name(metric->group->labels[j].name));
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(metric->name, metrics_table[j].name);
	}
}

/* ---- text ---- */

static void
test_lines(void **state)
{
	char *text = text_of(json_pack(
		"{s:[{s:s, s:i}], s:[{s:i, s:f, s:I}, {s:i, s:f}], s:[{s:s, s:b}, {s:s, s:b}]}",
		"build", "version", "0.1", "info", 1, "reactors", "core", 0, "busy", 0.25, "sleeps",
		(json_int_t)INT64_MAX, "core", 13, "busy", 1e9, "controllers", "ctrlr", "a",
		"connected", 1, "ctrlr", "b", "connected", 0));

	(void)state;
	assert_string_equal(
		text,
		"# HELP vhostd_build_info Always 1; the label is the version.\n"
		"# TYPE vhostd_build_info gauge\n"
		"vhostd_build_info{version=\"0.1\"} 1\n"
		"# HELP vhostd_reactor_busy_seconds_total Time in polls that found work.\n"
		"# TYPE vhostd_reactor_busy_seconds_total counter\n"
		"vhostd_reactor_busy_seconds_total{core=\"0\"} 0.25\n"
		"vhostd_reactor_busy_seconds_total{core=\"13\"} 1000000000\n"
		"# HELP vhostd_reactor_sleeps_total Times that the reactor slept.\n"
		"# TYPE vhostd_reactor_sleeps_total counter\n"
		"vhostd_reactor_sleeps_total{core=\"0\"} 9223372036854775807\n"
		"# HELP vhostd_controller_connected 1 while a front-end is connected, else 0.\n"
		"# TYPE vhostd_controller_connected gauge\n"
		"vhostd_controller_connected{controller=\"a\"} 1\n"
		"vhostd_controller_connected{controller=\"b\"} 0\n");
	free(text);
}

static void
test_no_labels(void **state)
{
	char *text = text_of(json_pack("{s:[{s:f}]}", "process", "start_time", 1.5));

	(void)state;
	assert_non_null(strstr(text, "\nprocess_start_time_seconds 1.5\n"));
	free(text);
}

/* A name of a disk's can be anything printable, and others' more. */
static void
test_label_values_are_escaped(void **state)
{
	char *text = text_of(json_pack("{s:[{s:s, s:i, s:i}]}", "queues", "ctrlr",
				       "a\"b\\c\nd{}=,\xc3\xbc", "queue", 7, "requests", 3));

	(void)state;
	assert_non_null(strstr(text, "\nvhostd_queue_requests_total{controller=\"a\\\"b\\\\c\\nd{}="
				     ",\xc3\xbc\",queue=\"7\"} 3\n"));
	free(text);
}

static void
test_nothing(void **state)
{
	char *text = text_of(json_object());
	json_t *json = metrics_json(NULL);

	(void)state;
	assert_string_equal(text, "");
	free(text);
	assert_int_equal(json_array_size(json), metrics_count);
	json_decref(json);
}

/* ---- JSON ---- */

static const json_t *
json_metric(const json_t *metrics, const char *name)
{
	const json_t *metric;
	size_t i;

	json_array_foreach (metrics, i, metric) {
		if (strcmp(json_string_value(json_object_get(metric, "name")), name) == 0)
			return metric;
	}
	fail_msg("no metric %s", name);
	return NULL;
}

static void
test_json_has_the_same(void **state)
{
	json_t *records = json_pack("{s:[{s:s, s:i, s:i}]}", "queues", "ctrlr", "a\n", "queue", 7,
				    "requests", 3);
	json_t *metrics = metrics_json(records);
	json_t *expected = json_pack("{s:s, s:s, s:s, s:[{s:{s:s, s:i}, s:i}]}", "name",
				     "vhostd_queue_requests_total", "type", "counter", "help",
				     "Requests given back to the guest.", "samples", "labels",
				     "controller", "a\n", "queue", 7, "value", 3);

	(void)state;
	assert_true(json_equal(json_metric(metrics, "vhostd_queue_requests_total"), expected));
	json_decref(expected);
	json_decref(metrics);
	json_decref(records);
}

/* ---- histograms ---- */

static void
test_bounds_ascend(void **state)
{
	(void)state;
	assert_true(metrics_bound(0) == 1e-6);
	assert_true(metrics_bound(1) == 1.25e-6);
	assert_true(metrics_bound(4) == 2e-6);
	assert_true(metrics_bound(METRICS_BOUNDS - 1) == 8.388608);
	for (uint32_t i = 1; i < METRICS_BOUNDS; i++) {
		assert_true(metrics_bound(i) > metrics_bound(i - 1));
		assert_true(metrics_bound(i) <= 1.26 * metrics_bound(i - 1));
	}
}

/* What any line of a histogram says of the others. */
static void
check_histogram(const char *text, uint64_t count)
{
	double before = 0;
	char begin[128];

	for (uint32_t i = 0; i < METRICS_BOUNDS; i++) {
		double now;

		snprintf(begin, sizeof(begin),
			 "vhostd_bdev_latency_seconds_bucket{bdev=\"d\",le=\"%.9g\"} ",
			 metrics_bound(i));
		now = value_of(text, begin);
		assert_true(now >= before);
		before = now;
	}
	assert_true(before <= (double)count);
	assert_true(value_of(text, "vhostd_bdev_latency_seconds_bucket{bdev=\"d\",le=\"+Inf\"} ") ==
		    (double)count);
	assert_true(value_of(text, "vhostd_bdev_latency_seconds_count{bdev=\"d\"} ") ==
		    (double)count);
}

static void
test_histogram_lines(void **state)
{
	struct bdev_histogram *histogram = new_histogram();
	uint64_t random = 1;
	double sum = 0;
	char *text;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint64_t ticks;

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		ticks = (random >> 20) >> (random % 40);
		bdev_histogram_add(histogram, ticks);
		sum += (double)ticks / HZ;
	}
	text = text_of(records_with(metrics_histogram_json(histogram, HZ)));
	assert_non_null(strstr(text, "# TYPE vhostd_bdev_latency_seconds histogram\n"));
	check_histogram(text, 100000);
	assert_true(value_of(text, "vhostd_bdev_latency_seconds_sum{bdev=\"d\"} ") < sum * 1.01);
	assert_true(value_of(text, "vhostd_bdev_latency_seconds_sum{bdev=\"d\"} ") > sum * 0.99);
	free(text);
	free(histogram);
}

/* Those of one latency: none before it, all at most 1 % after it. */
static void
test_each_latency_is_in_its_bucket(void **state)
{
	(void)state;
	for (double latency = 3e-7; latency < 20; latency *= 1.37) {
		struct bdev_histogram *histogram = new_histogram();
		json_t *json, *count;
		size_t i;

		bdev_histogram_add(histogram, (uint64_t)(latency * HZ));
		json = metrics_histogram_json(histogram, HZ);
		json_array_foreach (json_object_get(json, "buckets"), i, count) {
			if (metrics_bound((uint32_t)i) < latency * 0.999)
				assert_int_equal(json_integer_value(count), 0);
			if (metrics_bound((uint32_t)i) > latency * 1.01)
				assert_int_equal(json_integer_value(count), 1);
		}
		assert_int_equal(i, METRICS_BOUNDS);
		assert_int_equal(json_integer_value(json_object_get(json, "count")), 1);
		json_decref(json);
		free(histogram);
	}
}

static void
test_histogram_extremes(void **state)
{
	struct bdev_histogram *histogram = new_histogram();
	char *text;

	(void)state;
	text = text_of(records_with(metrics_histogram_json(histogram, HZ)));
	check_histogram(text, 0);
	assert_true(value_of(text, "vhostd_bdev_latency_seconds_sum{bdev=\"d\"} ") == 0);
	free(text);
	bdev_histogram_add(histogram, 0);
	bdev_histogram_add(histogram, UINT64_MAX);
	text = text_of(records_with(metrics_histogram_json(histogram, HZ)));
	check_histogram(text, 2);
	assert_true(value_of(text,
			     "vhostd_bdev_latency_seconds_bucket{bdev=\"d\",le=\"1e-06\"} ") == 1);
	assert_true(
		value_of(text, "vhostd_bdev_latency_seconds_bucket{bdev=\"d\",le=\"8.388608\"} ") ==
		1);
	free(text);
	free(histogram);
}

/* The histogram of two disks is the sum of theirs, whatever clocks they were measured with. */
static void
test_histograms_add_up(void **state)
{
	struct bdev_histogram *slow = new_histogram(), *fast = new_histogram();
	json_t *a, *b, *count;
	size_t i;

	(void)state;
	for (uint64_t us = 1; us < 100000; us += 7) {
		bdev_histogram_add(slow, us * 1000);
		bdev_histogram_add(fast, us * 4000);
	}
	a = metrics_histogram_json(slow, 1000000000);
	b = metrics_histogram_json(fast, 4000000000);
	json_array_foreach (json_object_get(a, "buckets"), i, count) {
		json_int_t other =
			json_integer_value(json_array_get(json_object_get(b, "buckets"), i));

		/* but for what is within 1 % of a bound */
		assert_true(labs(json_integer_value(count) - other) <=
			    1 + json_integer_value(count) / 50);
	}
	json_decref(a);
	json_decref(b);
	free(slow);
	free(fast);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_no_labels),
		cmocka_unit_test(test_label_values_are_escaped),
		cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_json_has_the_same),
		cmocka_unit_test(test_bounds_ascend),
		cmocka_unit_test(test_histogram_lines),
		cmocka_unit_test(test_each_latency_is_in_its_bucket),
		cmocka_unit_test(test_histogram_extremes),
		cmocka_unit_test(test_histograms_add_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
