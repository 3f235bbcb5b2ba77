/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhostctl_top: what controllers and reactors do. Private to rpc/.
 *
 * A sample is a JSON object; what is not known is null:
 *   {daemon: {version, pid, socket}, seconds,
 *    controllers: [{ctrlr, bdev, queues, iops, read_mb_per_s, written_mb_per_s, avg_us, p99_us,
 *                   inflight, errors, breaks}],
 *    reactors: [{core, mode, busy, threads}]}
 * Rates are those of the last `seconds`.
 */
#ifndef VHOSTD_VHOSTCTL_TOP_H
#define VHOSTD_VHOSTCTL_TOP_H

#include "vhostctl.h"

/* ---- samples (vhostctl_top_sample.c) ---- */

/* What the daemon answers. */
enum { TOP_VERSION, TOP_REACTORS, TOP_CONTROLLERS, TOP_STATS, TOP_IOSTAT, TOP_CONFIG, TOP_ANSWERS };

struct top_answers {
	json_t *of[TOP_ANSWERS];
	json_t *histograms; /* object: what bdev_get_histogram says, by the bdev's name */
	double now;         /* seconds, of any clock that the daemon or we have */
	bool there;
};

struct top_source {
	const struct vhostctl_opts *opts;
	struct top_answers before;
};

/*
 * Asks the daemon, and sets *sample (a new reference) to what happened since the last time; without
 * one, or after a restart of the daemon, there are no rates.
 */
enum vhostctl_status top_take(struct top_source *source, json_t **sample, struct errmsg *err);
void top_forget(struct top_source *source);

/*
 * The latency in ticks that a share of the requests was below, of base64 histograms of which each
 * "before" (NULL: zeroes) is taken from its "after". Sets false in what cannot be read or is empty.
 */
struct top_histogram {
	uint64_t *buckets;
	size_t count;
	unsigned int shift; /* 2^shift buckets in each range */
};
bool top_histogram_add(struct top_histogram *sum, json_t *after, json_t *before);
bool top_histogram_quantile(const struct top_histogram *sum, double share, double *ticks);

/* ---- tables (vhostctl_top_view.c) ---- */

#define TOP_FILTER_MAX 64
#define TOP_LINE_MAX   512

enum top_style { TOP_PLAIN, TOP_TITLE, TOP_HEADING };

struct top_view {
	int sort; /* column */
	bool reversed;
	char filter[TOP_FILTER_MAX]; /* part of a controller's or block device's name */
	unsigned int width;          /* columns of the terminal; UINT_MAX: it is none */
	unsigned int first;          /* controller to begin with */
	unsigned int rows;           /* of controllers, at most */
	unsigned int reactor_rows;   /* at most; others are summed up in the last one */
};

typedef void (*top_emit_fn)(void *ctx, enum top_style style, const char *line);

/* The column whose key or name that is, or -1. */
int top_column_of_key(int key);
int top_column_of_name(const char *name);

/* Controllers that the filter lets through. */
size_t top_count(const struct top_view *view, json_t *sample);

/* Gives each line of the tables to emit. */
void top_print(const struct top_view *view, json_t *sample, top_emit_fn emit, void *ctx);

/* ---- the screen (vhostctl_top_screen.c) ---- */

/* Until the user quits, or a signal does. */
enum vhostctl_status top_screen(struct top_source *source, struct top_view *view, double interval,
				struct errmsg *err);

#endif
