/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_restart: how long a guest waits when the daemon dies. Kills it with four queues full of
 * reads and writes, starts it again at once, and takes the time from the kill to the first request
 * that is completed; N times.
 *
 *   vhost_restart [--packed] [--json] [N]
 */
/* links: client testlib */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

#define MAX_ROUNDS 1000

static struct crash crash;
static uint64_t times[MAX_ROUNDS];

static int
compare(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

static int
measure(bool packed, unsigned int rounds)
{
	int rc = crash_open(&crash, packed, 1), end;

	if (rc != 0)
		return rc;
	for (unsigned int i = 0; i < rounds && rc == 0; i++)
		rc = crash_round(&crash, &times[i]);
	end = crash_close(&crash);
	return rc != 0 ? rc : end;
}

int
main(int argc, char **argv)
{
	unsigned int rounds = 50;
	bool packed = false, json = false;
	int rc;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--packed") == 0)
			packed = true;
		else if (strcmp(argv[i], "--json") == 0)
			json = true;
		else
			rounds = (unsigned int)strtoul(argv[i], NULL, 10);
	}
	if (rounds == 0 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: vhost_restart [--packed] [--json] [1 … %d]\n", MAX_ROUNDS);
		return 2;
	}
	rc = measure(packed, rounds);
	if (rc != 0) {
		fprintf(stderr, "vhost_restart: %s\n", strerror(-rc));
		return 1;
	}
	qsort(times, rounds, sizeof(times[0]), compare);
	printf(json ? "{\"rounds\": %u, \"packed\": %s, \"min_ms\": %.1f, \"median_ms\": %.1f, "
		      "\"max_ms\": %.1f}\n"
		    : "rounds %u, packed %s: kill to first completion: min %.1f ms, median %.1f "
		      "ms, max %.1f ms\n",
	       rounds, packed ? "true" : "false", (double)times[0] / 1000,
	       (double)times[rounds / 2] / 1000, (double)times[rounds - 1] / 1000);
	return 0;
}
