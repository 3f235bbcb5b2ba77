/* SPDX-License-Identifier: BSD-3-Clause */
/* From records to text and to JSON. */
#include <stdio.h>
#include <stdlib.h>

#include "histogram.h"
#include "metrics.h"
#include "table.h"

/* ---- text ---- */

static void
write_label_value(FILE *out, const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '\n')
			fputs("\\n", out);
		else if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else
			fputc(*text, out);
	}
}

/* bound NULL: not of a histogram's bucket. */
static void
write_labels(FILE *out, const struct metric_group *group, const json_t *record, const char *bound)
{
	char separator = '{';

	for (int i = 0; group->labels[i].name != NULL; i++) {
		const json_t *value = json_object_get(record, group->labels[i].member);

		fprintf(out, "%c%s=\"", separator, group->labels[i].name);
		if (json_is_integer(value))
			fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		else if (json_is_string(value))
			write_label_value(out, json_string_value(value));
		fputc('"', out);
		separator = ',';
	}
	if (bound != NULL) {
		fprintf(out, "%cle=\"%s\"", separator, bound);
		separator = ',';
	}
	if (separator == ',')
		fputc('}', out);
}

static void
write_sample(FILE *out, const struct metric *metric, const char *suffix, const json_t *record,
	     const char *bound, const json_t *value)
{
	fprintf(out, "%s%s", metric->name, suffix);
	write_labels(out, metric->group, record, bound);
	if (json_is_real(value))
		fprintf(out, " %.15g\n", json_real_value(value));
	else if (json_is_integer(value))
		fprintf(out, " %" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
	else
		fprintf(out, " %d\n", json_is_true(value));
}

static void
write_histogram(FILE *out, const struct metric *metric, const json_t *record,
		const json_t *histogram)
{
	const json_t *buckets = json_object_get(histogram, "buckets");
	const json_t *count = json_object_get(histogram, "count");

	for (uint32_t i = 0; i < METRICS_BOUNDS; i++) {
		char bound[32];

		snprintf(bound, sizeof(bound), "%.9g", metrics_bound(i));
		write_sample(out, metric, "_bucket", record, bound, json_array_get(buckets, i));
	}
	write_sample(out, metric, "_bucket", record, "+Inf", count);
	write_sample(out, metric, "_sum", record, NULL, json_object_get(histogram, "sum"));
	write_sample(out, metric, "_count", record, NULL, count);
}

/* One without samples is left out. */
static void
write_metric(FILE *out, const struct metric *metric, const json_t *records)
{
	const json_t *record;
	bool begun = false;
	size_t i;

	json_array_foreach (json_object_get(records, metric->group->name), i, record) {
		const json_t *value = json_object_get(record, metric->member);

		if (value == NULL)
			continue;
		if (!begun)
			fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help,
				metric->name, metric_type_names[metric->type]);
		begun = true;
		if (metric->type == METRIC_HISTOGRAM)
			write_histogram(out, metric, record, value);
		else
			write_sample(out, metric, "", record, NULL, value);
	}
}

char *
metrics_text(const json_t *records, size_t *length)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, length);
	bool failed;

	if (out == NULL)
		return NULL;
	for (size_t i = 0; i < metrics_count; i++)
		write_metric(out, &metrics_table[i], records);
	failed = ferror(out) != 0;
	if (fclose(out) == 0 && !failed)
		return text;
	free(text);
	return NULL;
}

/* ---- JSON ---- */

static json_t *
labels_json(const struct metric_group *group, const json_t *record)
{
	json_t *labels = json_object();

	for (int i = 0; group->labels[i].name != NULL; i++)
		json_object_set(labels, group->labels[i].name,
				json_object_get(record, group->labels[i].member));
	return labels;
}

static json_t *
buckets_json(const json_t *counts)
{
	json_t *buckets = json_array();
	json_t *count;
	size_t i;

	json_array_foreach (counts, i, count)
		json_array_append_new(
			buckets,
			json_pack("{s:f, s:O}", "le", metrics_bound((uint32_t)i), "count", count));
	return buckets;
}

static json_t *
sample_json(const struct metric *metric, const json_t *record, json_t *value)
{
	json_t *labels = labels_json(metric->group, record);

	if (metric->type != METRIC_HISTOGRAM)
		return json_pack("{s:o, s:O}", "labels", labels, "value", value);
	return json_pack("{s:o, s:O, s:O, s:o}", "labels", labels, "count",
			 json_object_get(value, "count"), "sum", json_object_get(value, "sum"),
			 "buckets", buckets_json(json_object_get(value, "buckets")));
}

static json_t *
metric_json(const struct metric *metric, const json_t *records)
{
	json_t *samples = json_array();
	const json_t *record;
	size_t i;

	json_array_foreach (json_object_get(records, metric->group->name), i, record) {
		json_t *value = json_object_get(record, metric->member);

		if (value != NULL)
			json_array_append_new(samples, sample_json(metric, record, value));
	}
	return json_pack("{s:s, s:s, s:s, s:o}", "name", metric->name, "type",
			 metric_type_names[metric->type], "help", metric->help, "samples", samples);
}

json_t *
metrics_json(const json_t *records)
{
	json_t *array = json_array();

	for (size_t i = 0; i < metrics_count; i++)
		json_array_append_new(array, metric_json(&metrics_table[i], records));
	return array;
}
