/* SPDX-License-Identifier: BSD-3-Clause */
/* Cache-line round trip between two cores. */
#include "probes.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>

#define PINGPONG_NS     50000000ULL
#define PINGPONG_ROUNDS 100

/* Answers each odd number with the next even one, until 0 comes. */
static void *
pong(void *arg)
{
	uint64_t *line = arg;
	uint64_t seen = 2;
	uint64_t now;

	while ((now = __atomic_load_n(line, __ATOMIC_ACQUIRE)) != 0)
		if (now != seen)
			__atomic_store_n(line, seen = now + 1, __ATOMIC_RELEASE);
	return NULL;
}

static int
start_pong(pthread_t *thread, unsigned int cpu, uint64_t *line)
{
	pthread_attr_t attr;
	cpu_set_t set;
	int rc;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	rc = -pthread_create(thread, &attr, pong, line);
	pthread_attr_destroy(&attr);
	return rc;
}

static uint64_t
measure_round_trips(uint64_t *line, uint64_t first)
{
	uint64_t start = now_ns();
	uint64_t i;

	for (i = first; i < first + 2 * PINGPONG_ROUNDS; i += 2) {
		__atomic_store_n(line, i, __ATOMIC_RELEASE);
		while (__atomic_load_n(line, __ATOMIC_ACQUIRE) != i + 1)
			;
	}
	return now_ns() - start;
}

/* The best of many short runs: other programs on the two CPUs can only make it slower. */
int
probe_pingpong(const struct options *options)
{
	static uint64_t line __attribute__((aligned(64))) = 2;
	uint64_t end, elapsed, i, best = UINT64_MAX;
	unsigned int cpus[2];
	pthread_t thread;
	int rc;

	if (sscanf(options->pingpong, "%u,%u", &cpus[0], &cpus[1]) != 2 || cpus[0] == cpus[1])
		return -EINVAL;
	rc = load_pin(cpus[0]);
	if (rc == 0)
		rc = start_pong(&thread, cpus[1], &line);
	if (rc != 0)
		return rc;
	end = now_ns() + PINGPONG_NS;
	for (i = 3; now_ns() < end; i += 2 * PINGPONG_ROUNDS) {
		elapsed = measure_round_trips(&line, i);
		if (elapsed < best)
			best = elapsed;
	}
	printf(options->json ? "{\"round_trip_ns\": %.1f}\n" : "cache line round trip: %.1f ns\n",
	       (double)best / PINGPONG_ROUNDS);
	__atomic_store_n(&line, 0, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	return 0;
}
