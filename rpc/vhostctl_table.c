/* SPDX-License-Identifier: BSD-3-Clause */
/* Answers for people: tables, lists, "name: value" lines. */
#include <stdlib.h>
#include <string.h>

#include "utf8.h"
#include "vhostctl.h"

#define COLUMNS_MAX    16
#define PATH_MAX_BYTES 128

struct column {
	char heading[PATH_MAX_BYTES];
	char path[PATH_MAX_BYTES];
	int width;
	bool is_number; /* aligned to the right */
};

void
ctl_print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
	putchar('\n');
}

char *
ctl_make_printable(char *text)
{
	const char *in = text;
	char *out = text;

	while (text != NULL && *in != '\0') {
		size_t len = utf8_length(in);
		bool is_c1 =
			len == 2 && (unsigned char)in[0] == 0xc2 && (unsigned char)in[1] < 0xa0;

		if (len == 0 || is_c1 || (unsigned char)*in < ' ' || *in == 0x7f)
			*out++ = '?';
		else
			out = (char *)memmove(out, in, len) + len;
		in += len > 0 ? len : 1;
	}
	if (text != NULL)
		*out = '\0';
	return text;
}

static int
text_width(const char *text)
{
	int width = 0;

	for (; *text != '\0'; text++)
		width += (*text & 0xc0) != 0x80;
	return width;
}

/* ---- cells ---- */

static char *format_value(json_t *value);

static char *
format_array(json_t *array)
{
	char *joined = strdup("");
	json_t *item;
	size_t i;

	json_array_foreach (array, i, item) {
		char *text = format_value(item);
		char *longer = NULL;

		if (joined == NULL || text == NULL ||
		    asprintf(&longer, "%s%s%s", joined, i > 0 ? "," : "", text) < 0)
			longer = NULL;
		free(joined);
		free(text);
		joined = longer;
	}
	if (joined != NULL && *joined == '\0') {
		free(joined);
		return strdup("-");
	}
	return joined;
}

/* A new string, or NULL: no memory. */
static char *
format_value(json_t *value)
{
	if (value == NULL || json_is_null(value))
		return strdup("-");
	if (json_is_boolean(value))
		return strdup(json_is_true(value) ? "yes" : "no");
	if (json_is_string(value))
		return ctl_make_printable(
			strdup(*json_string_value(value) ? json_string_value(value) : "-"));
	if (json_is_array(value))
		return format_array(value);
	return ctl_make_printable(json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY));
}

/*
 * A new reference to what is at path in value; of an array, to an array of what each item has
 * there.
 */
static json_t *
follow_path(json_t *value, const char *path)
{
	size_t len = strcspn(path, ".");
	json_t *found;
	json_t *item;
	size_t i;

	if (*path == '\0' || value == NULL)
		return json_incref(value);
	if (!json_is_array(value))
		return follow_path(json_object_getn(value, path, len),
				   path + len + (path[len] == '.'));
	found = json_array();
	json_array_foreach (value, i, item)
		json_array_append_new(found, follow_path(item, path));
	return found;
}

static char *
format_cell(json_t *row, const char *path)
{
	json_t *value = follow_path(row, path);
	char *text = format_value(value);

	json_decref(value);
	return text;
}

/* ---- tables ---- */

/* Reads "HEADING=PATH,PATH,…". */
static size_t
parse_columns(const char *text, struct column columns[COLUMNS_MAX])
{
	size_t count = 0;

	while (*text != '\0' && count < COLUMNS_MAX) {
		struct column *column = &columns[count++];
		int len = strcspn(text, ",");
		int heading_len = strcspn(text, ",=");
		const char *path = text[heading_len] == '=' ? text + heading_len + 1 : text;

		snprintf(column->heading, sizeof(column->heading), "%.*s", heading_len, text);
		snprintf(column->path, sizeof(column->path), "%.*s", (int)(text + len - path),
			 path);
		column->width = text_width(column->heading);
		column->is_number = false;
		text += len + (text[len] == ',');
	}
	return count;
}

static void
measure(json_t *rows, struct column *column)
{
	json_t *row;
	size_t i;

	json_array_foreach (rows, i, row) {
		json_t *value = follow_path(row, column->path);
		char *text = format_value(value);

		column->is_number = json_is_number(value);
		if (text != NULL && text_width(text) > column->width)
			column->width = text_width(text);
		free(text);
		json_decref(value);
	}
}

static void
print_cell(const struct column *column, const char *text, bool last)
{
	int padding = column->width - text_width(text);

	if (column->is_number)
		printf("%*s%s", padding, "", text);
	else
		printf("%s%*s", text, last ? 0 : padding, "");
	fputs(last ? "\n" : "  ", stdout);
}

static void
print_table(json_t *rows, const char *description)
{
	struct column columns[COLUMNS_MAX];
	size_t count = parse_columns(description, columns);
	json_t *row;
	size_t r;

	for (size_t i = 0; i < count; i++)
		measure(rows, &columns[i]);
	for (size_t i = 0; i < count; i++)
		print_cell(&columns[i], columns[i].heading, i + 1 == count);
	json_array_foreach (rows, r, row) {
		for (size_t i = 0; i < count; i++) {
			char *text = format_cell(row, columns[i].path);

			print_cell(&columns[i], text != NULL ? text : "", i + 1 == count);
			free(text);
		}
	}
}

/* ---- other answers ---- */

static void
print_value(const char *name, json_t *value)
{
	char *text = format_value(value);

	if (name != NULL)
		printf("%s: ", name);
	puts(text != NULL ? text : "");
	free(text);
}

static bool
is_list_of_scalars(json_t *value)
{
	json_t *item;
	size_t i;

	json_array_foreach (value, i, item) {
		if (json_is_array(item) || json_is_object(item))
			return false;
	}
	return json_is_array(value);
}

static void
print_plain(json_t *result)
{
	const char *name;
	json_t *value;
	size_t i;

	if (is_list_of_scalars(result)) {
		json_array_foreach (result, i, value)
			print_value(NULL, value);
	} else if (json_is_object(result)) {
		json_object_foreach (result, name, value)
			print_value(name, value);
	} else if (json_is_array(result)) {
		ctl_print_json(result);
	} else if (!json_is_true(result)) { /* true: done, and nothing to say */
		print_value(NULL, result);
	}
}

void
ctl_print_result(const struct rpc_schema *schema, json_t *result)
{
	const char *columns = schema != NULL ? schema->columns : NULL;
	const char *colon = columns != NULL ? strchr(columns, ':') : NULL;
	json_t *rows = result;

	if (colon != NULL)
		rows = json_object_getn(result, columns, colon - columns);
	if (columns != NULL && json_is_array(rows))
		print_table(rows, colon != NULL ? colon + 1 : columns);
	else
		print_plain(result);
}
