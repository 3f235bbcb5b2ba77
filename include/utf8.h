/* SPDX-License-Identifier: BSD-3-Clause */
/* utf8: what of a string of unknown origin is text. Part of the room env; pure, any thread. */
#ifndef VHOSTD_UTF8_H
#define VHOSTD_UTF8_H

#include <stddef.h>
#include <stdint.h>

/*
 * The length of the UTF-8 character that text (NUL-terminated, not empty) begins with, or 0 when it
 * is not one: a stray or missing continuation byte, an overlong form, a surrogate (RFC 3629 §3).
 */
static inline size_t
utf8_length(const char *text)
{
	static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *bytes = (const unsigned char *)text;
	size_t length;
	uint32_t code;

	if (bytes[0] < 0x80)
		return 1;
	if (bytes[0] < 0xc0 || bytes[0] > 0xf4)
		return 0;
	length = bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
	code = bytes[0] & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (bytes[i] & 0x3f);
	}
	if (code < smallest[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		return 0;
	return length;
}

#endif
