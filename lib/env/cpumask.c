/* SPDX-License-Identifier: BSD-3-Clause */
#include "cpumask.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define WORDS (CPUMASK_CPUS / 64)

uint32_t
cpumask_count(const struct cpumask *mask)
{
	uint32_t count = 0;

	for (int i = 0; i < WORDS; i++)
		count += (uint32_t)__builtin_popcountll(mask->bits[i]);
	return count;
}

bool
cpumask_equal(const struct cpumask *a, const struct cpumask *b)
{
	return memcmp(a->bits, b->bits, sizeof(a->bits)) == 0;
}

bool
cpumask_and(struct cpumask *dst, const struct cpumask *src)
{
	uint64_t left = 0;

	for (int i = 0; i < WORDS; i++) {
		dst->bits[i] &= src->bits[i];
		left |= dst->bits[i];
	}
	return left != 0;
}

/* digits: what follows "0x". */
static bool
parse_mask(struct cpumask *mask, const char *digits)
{
	size_t length = strlen(digits);

	for (size_t i = 0; i < length; i++) {
		char c = (char)tolower((unsigned char)digits[length - 1 - i]);
		uint32_t value;

		if (!isxdigit((unsigned char)c))
			return false;
		value = (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
		if (value == 0)
			continue;
		if (i * 4 + (31 - (unsigned int)__builtin_clz(value)) >= CPUMASK_CPUS)
			return false;
		mask->bits[i / 16] |= (uint64_t)value << (i % 16 * 4);
	}
	return true;
}

static bool
parse_cpu(const char **text, uint32_t *cpu)
{
	if (!isdigit((unsigned char)**text))
		return false;
	*cpu = 0;
	for (; isdigit((unsigned char)**text); (*text)++) {
		*cpu = *cpu * 10 + (uint32_t)(**text - '0');
		if (*cpu >= CPUMASK_CPUS)
			return false;
	}
	return true;
}

static bool
parse_list(struct cpumask *mask, const char *text)
{
	bool bracket = *text == '[';
	uint32_t first, last;

	text += bracket;
	for (;; text++) {
		if (!parse_cpu(&text, &first))
			return false;
		last = first;
		if (*text == '-') {
			text++;
			if (!parse_cpu(&text, &last) || last < first)
				return false;
		}
		for (uint32_t cpu = first; cpu <= last; cpu++)
			cpumask_set(mask, cpu);
		if (*text != ',')
			break;
	}
	return strcmp(text, bracket ? "]" : "") == 0;
}

int
cpumask_parse(struct cpumask *mask, const char *text)
{
	struct cpumask parsed = {{0}};
	bool good;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		good = parse_mask(&parsed, text + 2);
	else
		good = parse_list(&parsed, text);
	if (!good || cpumask_is_empty(&parsed))
		return -EINVAL;
	*mask = parsed;
	return 0;
}

const char *
cpumask_format(const struct cpumask *mask, char text[CPUMASK_TEXT_MAX])
{
	char *out = text;

	*out++ = '0';
	*out++ = 'x';
	for (int digit = CPUMASK_CPUS / 4 - 1; digit >= 0; digit--) {
		unsigned int value = mask->bits[digit / 16] >> (digit % 16 * 4) & 0xf;

		if (value == 0 && out == text + 2 && digit > 0)
			continue;
		*out++ = "0123456789abcdef"[value];
	}
	*out = '\0';
	return text;
}
