/* SPDX-License-Identifier: BSD-3-Clause */
/* cpumask: a set of CPU numbers, and its two spellings. Part of the room env; pure, any thread. */
#ifndef VHOSTD_CPUMASK_H
#define VHOSTD_CPUMASK_H

#include <stdbool.h>
#include <stdint.h>

#define CPUMASK_CPUS     256
#define CPUMASK_TEXT_MAX (CPUMASK_CPUS / 4 + 3) /* "0x", digits, NUL */

struct cpumask {
	uint64_t bits[CPUMASK_CPUS / 64];
};

static inline void
cpumask_set(struct cpumask *mask, uint32_t cpu)
{
	mask->bits[cpu / 64] |= 1ULL << (cpu % 64);
}

static inline bool
cpumask_test(const struct cpumask *mask, uint32_t cpu)
{
	return cpu < CPUMASK_CPUS && (mask->bits[cpu / 64] >> (cpu % 64) & 1);
}

uint32_t cpumask_count(const struct cpumask *mask);
static inline bool
cpumask_is_empty(const struct cpumask *mask)
{
	return cpumask_count(mask) == 0;
}
bool cpumask_equal(const struct cpumask *a, const struct cpumask *b);
/* dst &= src; returns whether anything is left. */
bool cpumask_and(struct cpumask *dst, const struct cpumask *src);

/*
 * Reads a mask ("0x3") or a list, with or without brackets ("0,2-3", "[0,2-3]"; "3" is CPU 3).
 * Returns 0, or -EINVAL (not a mask, empty set, or a CPU >= CPUMASK_CPUS) and leaves *mask alone.
 */
int cpumask_parse(struct cpumask *mask, const char *text);

/* Writes "0x3". Returns text. */
const char *cpumask_format(const struct cpumask *mask, char text[CPUMASK_TEXT_MAX]);

#endif
