/* SPDX-License-Identifier: BSD-3-Clause */
/* A sample as lines of text, for a terminal or a file. */
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "vhostctl_top.h"

#define REACTOR_WIDTH 46

static const struct column {
	int key; /* that sorts by it */
	const char *heading;
	const char *member;
	bool is_text;
	int width;
	int decimals;
} columns[] = {
	{'n', "CONTROLLER", "ctrlr", true, 20, 0},
	{'b', "BDEV", "bdev", true, 16, 0},
	{'u', "QUEUES", "queues", false, 6, 0},
	{'i', "IOPS", "iops", false, 9, 0},
	{'r', "READ MB/s", "read_mb_per_s", false, 9, 1},
	{'w', "WRITE MB/s", "written_mb_per_s", false, 10, 1},
	{'a', "AVG us", "avg_us", false, 9, 1},
	{'p', "P99 us", "p99_us", false, 9, 1},
	{'d', "DEPTH", "inflight", false, 6, 0},
	{'e', "ERRORS", "errors", false, 7, 0},
};
#define COLUMNS ((int)(sizeof(columns) / sizeof(columns[0])))

int
top_column_of_key(int key)
{
	for (int i = 0; i < COLUMNS; i++) {
		if (columns[i].key == key)
			return i;
	}
	return -1;
}

int
top_column_of_name(const char *name)
{
	for (int i = 0; i < COLUMNS; i++) {
		if (ctl_same_name(columns[i].member, name))
			return i;
	}
	return -1;
}

/* ---- lines ---- */

struct line {
	char text[TOP_LINE_MAX];
	size_t len;   /* bytes */
	size_t width; /* characters */
};

/* Adds text in a field of width characters, cut or filled up. UTF-8. */
static void
add_field(struct line *line, const char *text, size_t width, bool to_the_right)
{
	size_t chars = 0, bytes = 0;

	for (; text[bytes] != '\0'; bytes++) {
		bool begins = ((unsigned char)text[bytes] & 0xc0) != 0x80;

		if (begins && chars == width)
			break;
		chars += begins;
	}
	if (line->len + bytes + (width - chars) + 1 > sizeof(line->text))
		return;
	for (size_t i = chars; i < width && to_the_right; i++)
		line->text[line->len++] = ' ';
	memcpy(line->text + line->len, text, bytes);
	line->len += bytes;
	for (size_t i = chars; i < width && !to_the_right; i++)
		line->text[line->len++] = ' ';
	line->width += width;
	line->text[line->len] = '\0';
}

static void
format_number(json_t *value, int decimals, char *text, size_t size)
{
	double number = json_number_value(value);

	if (!json_is_number(value))
		snprintf(text, size, "-");
	else if (number >= 1e7)
		snprintf(text, size, "%.2fM", number / 1e6);
	else
		snprintf(text, size, "%.*f", decimals, number);
}

static const char *
text_of(json_t *object, const char *member)
{
	const char *text = json_string_value(json_object_get(object, member));

	return text != NULL ? text : "-";
}

/* ---- which controllers, in which order ---- */

static bool
passes(const struct top_view *view, json_t *controller)
{
	return strcasestr(text_of(controller, "ctrlr"), view->filter) != NULL ||
	       strcasestr(text_of(controller, "bdev"), view->filter) != NULL;
}

/* Texts rise, numbers fall; what is not known comes last either way. */
static int
compare(const void *a, const void *b, void *arg)
{
	json_t *one = *(json_t *const *)a, *other = *(json_t *const *)b;
	const struct top_view *view = arg;
	const struct column *column = &columns[view->sort];
	json_t *x = json_object_get(one, column->member);
	json_t *y = json_object_get(other, column->member);
	int order;

	if (json_is_null(x) != json_is_null(y))
		return json_is_null(x) ? 1 : -1;
	if (column->is_text)
		order = strcmp(text_of(one, column->member), text_of(other, column->member));
	else
		order = (json_number_value(x) < json_number_value(y)) -
			(json_number_value(x) > json_number_value(y));
	if (order == 0)
		return strcmp(text_of(one, "ctrlr"), text_of(other, "ctrlr"));
	return view->reversed ? -order : order;
}

/* An array of borrowed references, or NULL. */
static json_t **
choose(const struct top_view *view, json_t *sample, size_t *count)
{
	json_t *controllers = json_object_get(sample, "controllers");
	json_t **chosen = calloc(json_array_size(controllers) + 1, sizeof(*chosen));
	json_t *controller;
	size_t i;

	*count = 0;
	json_array_foreach (controllers, i, controller) {
		if (chosen != NULL && passes(view, controller))
			chosen[(*count)++] = controller;
	}
	if (*count > 0)
		qsort_r(chosen, *count, sizeof(*chosen), compare, (void *)view);
	return chosen;
}

size_t
top_count(const struct top_view *view, json_t *sample)
{
	size_t count;

	free(choose(view, sample, &count));
	return count;
}

/* ---- tables ---- */

static void
emit_line(const struct top_view *view, struct line *line, enum top_style style, top_emit_fn emit,
	  void *ctx)
{
	struct line cut = {0};

	if (line->width > view->width)
		add_field(&cut, line->text, view->width, false);
	emit(ctx, style, ctl_make_printable(line->width > view->width ? cut.text : line->text));
	*line = (struct line){0};
}

static void emit_format(const struct top_view *view, enum top_style style, top_emit_fn emit,
			void *ctx, const char *format, ...) __attribute__((format(printf, 5, 6)));

static void
emit_format(const struct top_view *view, enum top_style style, top_emit_fn emit, void *ctx,
	    const char *format, ...)
{
	struct line line = {0};
	char text[TOP_LINE_MAX / 2];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	add_field(&line, text, strnlen(text, view->width), false);
	emit_line(view, &line, style, emit, ctx);
}

static double
sum_of(json_t **controllers, size_t count, const char *member)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += json_number_value(json_object_get(controllers[i], member));
	return sum;
}

static void
print_title(const struct top_view *view, json_t *sample, json_t **controllers, size_t count,
	    top_emit_fn emit, void *ctx)
{
	json_t *daemon = json_object_get(sample, "daemon");
	size_t all = json_array_size(json_object_get(sample, "controllers"));

	emit_format(view, TOP_TITLE, emit, ctx, "%s  pid %" JSON_INTEGER_FORMAT "  %s",
		    text_of(daemon, "version"), json_integer_value(json_object_get(daemon, "pid")),
		    text_of(daemon, "socket"));
	emit_format(
		view, TOP_PLAIN, emit, ctx,
		"%zu controllers, %zu shown: %.0f IOPS, %.1f MB/s read, %.1f MB/s written; by %s%s",
		all, count, sum_of(controllers, count, "iops"),
		sum_of(controllers, count, "read_mb_per_s"),
		sum_of(controllers, count, "written_mb_per_s"), columns[view->sort].heading,
		view->reversed ? ", reversed" : "");
}

static void
format_reactor(json_t *reactor, char *text, size_t size)
{
	json_t *busy = json_object_get(reactor, "busy");
	char percent[32] = "    -";

	if (json_is_number(busy))
		snprintf(percent, sizeof(percent), "%5.1f", 100 * json_number_value(busy));
	snprintf(text, size,
		 "core %-3" JSON_INTEGER_FORMAT " %-9.9s %s %% busy %3" JSON_INTEGER_FORMAT
		 " threads",
		 json_integer_value(json_object_get(reactor, "core")), text_of(reactor, "mode"),
		 percent, json_integer_value(json_object_get(reactor, "threads")));
}

/* Of those that there is no room for: how many, and how busy one of them is. */
static void
format_other_reactors(json_t *reactors, size_t first, char *text, size_t size)
{
	size_t count = json_array_size(reactors);
	double most = -1;

	for (size_t i = first; i < count; i++) {
		json_t *busy = json_object_get(json_array_get(reactors, i), "busy");

		if (json_is_number(busy) && json_number_value(busy) > most)
			most = json_number_value(busy);
	}
	if (most < 0)
		snprintf(text, size, "%zu more cores", count - first);
	else
		snprintf(text, size, "%zu more cores, up to %.1f %% busy", count - first,
			 100 * most);
}

static unsigned int
table_width(void)
{
	unsigned int width = COLUMNS - 1;

	for (int i = 0; i < COLUMNS; i++)
		width += (unsigned int)columns[i].width;
	return width;
}

/* As many beside one another as there is room for. */
static void
print_reactors(const struct top_view *view, json_t *sample, top_emit_fn emit, void *ctx)
{
	json_t *reactors = json_object_get(sample, "reactors");
	unsigned int wanted = view->width == UINT_MAX ? table_width() : view->width;
	unsigned int width = wanted < TOP_LINE_MAX ? wanted : TOP_LINE_MAX - 1;
	size_t per_row = width > REACTOR_WIDTH ? width / REACTOR_WIDTH : 1;
	size_t room = per_row * view->reactor_rows;
	size_t count = json_array_size(reactors);
	struct line line = {0};

	for (size_t i = 0; i < count && i < room; i++) {
		char text[128];

		if (i + 1 == room && count > room)
			format_other_reactors(reactors, i, text, sizeof(text));
		else
			format_reactor(json_array_get(reactors, i), text, sizeof(text));
		if (i > 0 && i % per_row == 0)
			emit_line(view, &line, TOP_PLAIN, emit, ctx);
		add_field(&line, text, REACTOR_WIDTH, false);
	}
	if (line.width > 0)
		emit_line(view, &line, TOP_PLAIN, emit, ctx);
}

static void
print_controller(const struct top_view *view, json_t *controller, top_emit_fn emit, void *ctx)
{
	struct line line = {0};

	for (int i = 0; i < COLUMNS; i++) {
		const struct column *column = &columns[i];
		char number[32];

		format_number(json_object_get(controller, column->member), column->decimals, number,
			      sizeof(number));
		add_field(&line, column->is_text ? text_of(controller, column->member) : number,
			  (size_t)column->width, !column->is_text);
		add_field(&line, "", i + 1 < COLUMNS, false);
	}
	emit_line(view, &line, TOP_PLAIN, emit, ctx);
}

void
top_print(const struct top_view *view, json_t *sample, top_emit_fn emit, void *ctx)
{
	struct line heading = {0};
	size_t count;
	json_t **controllers = choose(view, sample, &count);

	print_title(view, sample, controllers, count, emit, ctx);
	print_reactors(view, sample, emit, ctx);
	for (int i = 0; i < COLUMNS; i++) {
		add_field(&heading, columns[i].heading, (size_t)columns[i].width,
			  !columns[i].is_text);
		add_field(&heading, "", i + 1 < COLUMNS, false);
	}
	emit_line(view, &heading, TOP_HEADING, emit, ctx);
	for (size_t i = view->first; i < count && i - view->first < view->rows; i++)
		print_controller(view, controllers[i], emit, ctx);
	free(controllers);
}
