/* SPDX-License-Identifier: BSD-3-Clause */
/* Line charts that are legible on light and on dark pages. Lengths are in SVG's user units. */
#include "vhostctl_bench.h"

#include <math.h>

#define WIDTH    720
#define HEADING  40 /* above the charts */
#define HEIGHT   300
#define LEFT     76 /* around the plot itself, with the three below */
#define RIGHT    24
#define TOP      48
#define BOTTOM   36
#define MAX_TICK 8

static const char style[] =
	"text { font: 13px system-ui, sans-serif; fill: #59636e; }\n"
	".title { font-size: 15px; font-weight: 600; fill: #1f2328; }\n"
	".page { fill: #ffffff; }\n"
	".grid { stroke: #d8dee4; }\n"
	".line { fill: none; stroke: #0969da; stroke-width: 2; stroke-linejoin: round; }\n"
	".mark { fill: #0969da; }\n"
	".reference { stroke: #bc4c00; stroke-dasharray: 5 4; }\n"
	"@media (prefers-color-scheme: dark) {\n"
	"text { fill: #9198a1; } .title { fill: #f0f6fc; } .page { fill: #0d1117; }\n"
	".grid { stroke: #30363d; } .line { stroke: #4493f8; } .mark { fill: #4493f8; }\n"
	".reference { stroke: #f0883e; }\n}\n";

static void
print_escaped(FILE *file, const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '<')
			fputs("&lt;", file);
		else if (*text == '&')
			fputs("&amp;", file);
		else
			fputc((unsigned char)*text < ' ' ? '?' : *text, file);
	}
}

/* The distance of grid lines: 1, 2 or 5 times a power of ten, so that at most MAX_TICK cover top. */
static double
grid_step(double top)
{
	static const double factors[] = {1, 2, 5};
	double power = 1e-6;

	for (;; power *= 10) {
		for (size_t i = 0; i < sizeof(factors) / sizeof(factors[0]); i++) {
			if (top / (power * factors[i]) <= MAX_TICK)
				return power * factors[i];
		}
	}
}

static void
print_tick(FILE *file, double value, double y)
{
	static const struct {
		double unit;
		const char *suffix;
	} units[] = {{1e9, " G"}, {1e6, " M"}, {1e3, " k"}, {0, ""}};
	size_t i = 0;

	while (value < units[i].unit)
		i++;
	fprintf(file, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, y, WIDTH - RIGHT);
	fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g%s</text>\n", LEFT - 10,
		y + 4, units[i].unit > 0 ? value / units[i].unit : value, units[i].suffix);
}

static double
place_x(const struct chart *chart, size_t i)
{
	return LEFT + (WIDTH - LEFT - RIGHT) * ((double)i + 0.5) / (double)chart->count;
}

/* Labels of points, or where the time begins and ends. */
static void
print_labels(FILE *file, const struct chart *chart, double y)
{
	for (size_t i = 0; chart->labels != NULL && i < chart->count; i++)
		fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
			place_x(chart, i), y, chart->labels[i]);
	if (chart->labels != NULL)
		return;
	fprintf(file, "<text x=\"%d\" y=\"%.1f\">0 s</text>\n", LEFT, y);
	fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g s</text>\n",
		WIDTH - RIGHT, y, chart->seconds);
}

/* ---- the y axis ---- */

struct scale {
	bool logarithmic;
	double low, high; /* logarithmic: of the powers of ten */
	double step;
	double floor, height; /* where it is */
};

static double
place_y(const struct scale *scale, double y)
{
	if (scale->logarithmic)
		y = y > 0 ? fmax(log10(y), scale->low) : scale->low;
	return scale->floor - (y - scale->low) / (scale->high - scale->low) * scale->height;
}

/* It ends at the first grid line that nothing is above. */
static void
choose_scale(const struct chart *chart, struct scale *scale)
{
	double least = INFINITY, most = chart->reference;

	for (size_t i = 0; i < chart->count; i++) {
		most = fmax(most, chart->y[i]);
		if (chart->y[i] > 0)
			least = fmin(least, chart->y[i]);
	}
	if (most <= 0)
		least = most = 1;
	scale->logarithmic = chart->logarithmic;
	scale->step = chart->logarithmic ? 1 : grid_step(most);
	scale->low = chart->logarithmic ? floor(log10(least)) : 0;
	scale->high = chart->logarithmic ? fmax(ceil(log10(most)), scale->low + 1)
					 : ceil(most / scale->step - 1e-9) * scale->step;
}

/* ---- a chart ---- */

static void
print_chart(FILE *file, const struct chart *chart, double top)
{
	struct scale scale = {.floor = top + HEIGHT - BOTTOM, .height = HEIGHT - TOP - BOTTOM};

	choose_scale(chart, &scale);
	fprintf(file, "<text class=\"title\" x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT, top + 16,
		chart->title);
	fprintf(file, "<text x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT, top + 34, chart->y_title);
	for (int i = 0; scale.low + scale.step * i <= scale.high * 1.000001; i++) {
		double at = scale.low + scale.step * i;
		double value = chart->logarithmic ? pow(10, at) : at;

		print_tick(file, value, place_y(&scale, value));
	}
	print_labels(file, chart, scale.floor + 22);
	if (chart->reference > 0)
		fprintf(file, "<path class=\"reference\" d=\"M%d %.1fH%d\"/>\n", LEFT,
			place_y(&scale, chart->reference), WIDTH - RIGHT);
	fputs("<path class=\"line\" d=\"", file);
	for (size_t i = 0; i < chart->count; i++)
		fprintf(file, "%c%.1f %.1f", i == 0 ? 'M' : 'L', place_x(chart, i),
			place_y(&scale, chart->y[i]));
	fputs("\"/>\n", file);
	for (size_t i = 0; chart->labels != NULL && i < chart->count; i++)
		fprintf(file, "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>\n",
			place_x(chart, i), place_y(&scale, chart->y[i]));
}

void
svg_write(FILE *file, const char *heading, const struct chart *charts, size_t count)
{
	int height = HEADING + HEIGHT * (int)count;

	fprintf(file,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">\n"
		"<style>\n%s</style>\n"
		"<rect class=\"page\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n"
		"<text x=\"%d\" y=\"24\">",
		WIDTH, height, style, WIDTH, height, LEFT);
	print_escaped(file, heading);
	fputs("</text>\n", file);
	for (size_t i = 0; i < count; i++)
		print_chart(file, &charts[i], HEADING + HEIGHT * (double)i);
	fputs("</svg>\n", file);
}
