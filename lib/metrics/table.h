/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * table: what metrics there are, and where in the records of metrics_collect() they stand. Private
 * to the room metrics; constant.
 *
 * Records are {group: [record …]}, and a record is an object. The members that a group's labels
 * name are strings or integers, and tell its records apart. A metric is another member: an integer,
 * a real or a boolean, or for a histogram {count, sum, buckets: [cumulative counts]}. One that is
 * not there has no sample.
 */
#ifndef VHOSTD_METRICS_TABLE_H
#define VHOSTD_METRICS_TABLE_H

#include <stddef.h>

#define METRIC_LABELS_MAX 2

enum metric_type {
	METRIC_COUNTER,
	METRIC_GAUGE,
	METRIC_HISTOGRAM,
};

struct metric_group {
	const char *name;
	struct {
		const char *name; /* NULL after the last */
		const char *member;
	} labels[METRIC_LABELS_MAX + 1];
};

struct metric {
	const char *name;
	enum metric_type type;
	const struct metric_group *group;
	const char *member;
	const char *help; /* without backslashes and line ends */
};

extern const struct metric metrics_table[];
extern const size_t metrics_count;

/* By enum metric_type, as Prometheus calls them. */
extern const char *const metric_type_names[];

#endif
