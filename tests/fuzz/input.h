/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What fuzz targets share: reading decisions from the input, and ending with a word when a rule is
 * broken. A target is deterministic: the same input does the same, on any machine. An input that
 * has come to its end reads as zeroes.
 */
#ifndef VHOSTD_FUZZ_INPUT_H
#define VHOSTD_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What libFuzzer and driver.c call, once per input. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Called once, before. May be missing in a target. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* For a rule of ours, not of the program's: ends the process as a finding. */
#define require(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__,   \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

struct input {
	const uint8_t *data;
	size_t size; /* bytes left */
};

static inline void
input_bytes(struct input *input, void *to, size_t size)
{
	size_t part = size < input->size ? size : input->size;

	memset(to, 0, size);
	if (part > 0)
		memcpy(to, input->data, part);
	input->data += part;
	input->size -= part;
}

static inline uint8_t
input_u8(struct input *input)
{
	uint8_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint16_t
input_u16(struct input *input)
{
	uint16_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint32_t
input_u32(struct input *input)
{
	uint32_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint64_t
input_u64(struct input *input)
{
	uint64_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

/* The next bytes where they are, at most size; *got says how many. */
static inline const uint8_t *
input_take(struct input *input, size_t size, size_t *got)
{
	const uint8_t *from = input->data;

	*got = size < input->size ? size : input->size;
	input->data += *got;
	input->size -= *got;
	return from;
}

#endif
