/* SPDX-License-Identifier: BSD-3-Clause */
#include "framing.h"

#include <errno.h>
#include <string.h>

#include "jsonrpc.h"

_Static_assert(JSONRPC_MAX_DEPTH < 64, "a bit per level");

static bool
is_space(unsigned char c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/*
 * Everything that JSON has outside of strings, brackets and quotes aside: numbers, true, false,
 * null.
 */
static bool
is_plain(unsigned char c)
{
	return is_space(c) || (c >= '0' && c <= '9') || (c != '\0' && strchr(",:+-.Etruefalsn", c));
}

static int
open_bracket(struct framing *framing, bool is_object)
{
	if (framing->depth == JSONRPC_MAX_DEPTH)
		return -ELOOP;
	framing->depth++;
	framing->objects &= ~(1ULL << framing->depth);
	framing->objects |= (uint64_t)is_object << framing->depth;
	return 0;
}

/* 1: the document ends here. */
static int
close_bracket(struct framing *framing, bool is_object)
{
	if ((framing->objects >> framing->depth & 1) != is_object)
		return -EINVAL;
	framing->depth--;
	return framing->depth == 0;
}

static int
scan_in_string(struct framing *framing, unsigned char c)
{
	if (c < ' ')
		return -EINVAL;
	if (framing->escaped) {
		framing->escaped = false;
		return 0;
	}
	if (c == '\\')
		framing->escaped = true;
	else if (c == '"')
		framing->in_string = false;
	return 0;
}

static int
scan_outside(struct framing *framing, unsigned char c)
{
	if (c == '{' || c == '[')
		return open_bracket(framing, c == '{');
	if (framing->depth == 0)
		return is_space(c) ? 0 : -EINVAL;
	if (c == '}' || c == ']')
		return close_bracket(framing, c == '}');
	if (c == '"') {
		framing->in_string = true;
		return 0;
	}
	return is_plain(c) ? 0 : -EINVAL;
}

int
framing_scan(struct framing *framing, const char *data, size_t len, size_t *used)
{
	int rc;

	for (*used = 0; *used < len;) {
		unsigned char c = data[(*used)++];

		rc = framing->in_string ? scan_in_string(framing, c) : scan_outside(framing, c);
		if (rc < 0)
			return rc;
		if (rc == 0 && framing->depth == 0)
			continue;
		if (++framing->size > JSONRPC_MAX_REQUEST)
			return -EMSGSIZE;
		if (rc > 0) {
			*framing = (struct framing){0};
			return 1;
		}
	}
	return 0;
}
