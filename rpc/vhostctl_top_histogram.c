/* SPDX-License-Identifier: BSD-3-Clause */
/* The daemon's log-linear histograms: ranges of 2^shift buckets; ranges 0 and 1 are one tick wide. */
#include <stdlib.h>
#include <string.h>

#include "vhostctl_top.h"

#define SHIFT_MAX   16
#define BUCKETS_MAX (1u << 20)

static int
digit_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648 §4. False: it is none, or not of exactly `size` bytes. */
static bool
decode_base64(const char *text, uint8_t *bytes, size_t size)
{
	uint32_t bits = 0;
	size_t done = 0;

	for (size_t i = 0; text[i] != '\0' && text[i] != '='; i++) {
		int value = digit_value(text[i]);

		if (value < 0)
			return false;
		bits = bits << 6 | (uint32_t)value;
		if (i % 4 == 0)
			continue;
		if (done == size)
			return false;
		bytes[done++] = (uint8_t)(bits >> (6 - i % 4 * 2));
	}
	return done == size;
}

/* Little-endian. NULL: it cannot be read. */
static uint64_t *
read_buckets(json_t *histogram, size_t count)
{
	const char *text = json_string_value(json_object_get(histogram, "histogram"));
	uint8_t *bytes = text != NULL ? malloc(count * 8) : NULL;
	uint64_t *buckets = bytes != NULL ? calloc(count, sizeof(*buckets)) : NULL;

	if (buckets != NULL && decode_base64(text, bytes, count * 8)) {
		for (size_t i = 0; i < count * 8; i++)
			buckets[i / 8] |= (uint64_t)bytes[i] << (i % 8 * 8);
	} else {
		free(buckets);
		buckets = NULL;
	}
	free(bytes);
	return buckets;
}

/* Of a shape that can be added to sum. */
static bool
read_shape(const struct top_histogram *sum, json_t *histogram, size_t *count, unsigned int *shift)
{
	json_int_t bucket_shift = json_integer_value(json_object_get(histogram, "bucket_shift"));
	json_int_t last = json_integer_value(json_object_get(histogram, "max_range"));

	if (bucket_shift < 1 || bucket_shift > SHIFT_MAX || last < 0 || last > 64 ||
	    json_integer_value(json_object_get(histogram, "min_range")) != 0)
		return false;
	*shift = (unsigned int)bucket_shift;
	*count = (size_t)(last + 1) << *shift;
	return *count <= BUCKETS_MAX &&
	       (sum->buckets == NULL || (*count == sum->count && *shift == sum->shift));
}

bool
top_histogram_add(struct top_histogram *sum, json_t *after, json_t *before)
{
	uint64_t *new_buckets, *old_buckets = NULL;
	unsigned int shift;
	size_t count;

	if (!read_shape(sum, after, &count, &shift))
		return false;
	new_buckets = read_buckets(after, count);
	if (new_buckets == NULL)
		return false;
	if (before != NULL)
		old_buckets = read_buckets(before, count);
	if (sum->buckets == NULL) {
		sum->buckets = calloc(count, sizeof(*sum->buckets));
		sum->count = count;
		sum->shift = shift;
	}
	for (size_t i = 0; sum->buckets != NULL && i < count; i++) {
		uint64_t old = old_buckets != NULL ? old_buckets[i] : 0;

		/* It was switched off and on in between. */
		sum->buckets[i] += new_buckets[i] >= old ? new_buckets[i] - old : new_buckets[i];
	}
	free(new_buckets);
	free(old_buckets);
	return sum->buckets != NULL;
}

/* The last tick of a bucket. */
static double
end_of_bucket(unsigned int shift, size_t bucket)
{
	size_t range = bucket >> shift;
	size_t index = bucket & ((1u << shift) - 1);

	if (range == 0)
		return (double)index;
	return (double)((1u << shift) + index + 1) * (double)(1ull << (range - 1)) - 1;
}

bool
top_histogram_quantile(const struct top_histogram *sum, double share, double *ticks)
{
	uint64_t total = 0, so_far = 0;

	for (size_t i = 0; i < sum->count; i++)
		total += sum->buckets[i];
	for (size_t i = 0; i < sum->count; i++) {
		so_far += sum->buckets[i];
		if (sum->buckets[i] == 0 ||
		    ((double)so_far < share * (double)total && so_far < total))
			continue;
		*ticks = end_of_bucket(sum->shift, i);
		return true;
	}
	return false;
}
