/* SPDX-License-Identifier: BSD-3-Clause */
/* vhostctl_bench: the figures of a run as a picture. Private to rpc/. */
#ifndef VHOSTD_VHOSTCTL_BENCH_H
#define VHOSTD_VHOSTCTL_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define CHART_POINTS_MAX 512

struct chart {
	const char *title, *y_title;
	double y[CHART_POINTS_MAX];
	size_t count;
	const char *const *labels; /* count of them, below the points, or NULL: seconds */
	double seconds;            /* that the points cover, without labels */
	double reference;          /* a line across, as an average; 0: none */
	bool logarithmic;          /* whole powers of ten around what is above 0 */
};

/* Writes charts, one below the other, as one SVG. heading is escaped. */
void svg_write(FILE *file, const char *heading, const struct chart *charts, size_t count);

#endif
