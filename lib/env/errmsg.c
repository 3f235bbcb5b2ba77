/* SPDX-License-Identifier: BSD-3-Clause */
#include "errmsg.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

/*
 * File names and the like may hold any byte, but a JSON answer takes UTF-8 only: what is not
 * becomes '?'. A character that the end of the buffer cut in two goes as well.
 */
static void
make_text(struct errmsg *err, const char *in)
{
	char *out = err->text;

	while (*in != '\0') {
		size_t length = utf8_length(in);

		if (length == 0) {
			*out++ = '?';
			in++;
			continue;
		}
		memcpy(out, in, length);
		out += length;
		in += length;
	}
	while (out > err->text && out[-1] == '\n')
		out--;
	*out = '\0';
}

int
err_set(struct errmsg *err, int rc, const char *format, ...)
{
	char text[ERRMSG_MAX]; /* apart, because err->text may be among the arguments */
	va_list args;

	if (err == NULL)
		return rc;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	make_text(err, text);
	return rc;
}
