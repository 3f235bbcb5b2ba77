/* SPDX-License-Identifier: BSD-3-Clause */
/* perf: what event_perf and reactor_perf share: options, a run of some seconds, the report. */
#ifndef VHOSTD_BENCH_PERF_H
#define VHOSTD_BENCH_PERF_H

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "env.h"
#include "event.h"

struct perf {
	/* set by the program */
	const char *name;
	const char *unit;       /* what is counted */
	const char *count_help; /* what -n means */
	void (*start)(
		struct perf
			*perf); /* begins the work; on an OS thread beside the running reactors */
	uint64_t (*counted)(uint32_t core);
	void (*stop)(struct perf *perf); /* ends it; may be NULL */

	/* options */
	struct cpumask cpus;
	unsigned int seconds;
	unsigned int count;
	bool json;

	/* results */
	uint64_t per_core[CPUMASK_CPUS];
	double elapsed;
};

static inline void
perf_usage(const struct perf *perf, FILE *to)
{
	fprintf(to,
		"usage: %s [-l CPUS] [-t SECONDS] [-n COUNT] [-j]\n"
		"  -l CPUS     cores, as a list (0,2-3) or a mask (0xd); default: the first one\n"
		"  -t SECONDS  how long to measure; default: %u\n"
		"  -n COUNT    %s; default: %u\n"
		"  -j          print JSON\n",
		perf->name, perf->seconds, perf->count_help, perf->count);
}

static inline bool
perf_number(const char *text, unsigned int max, unsigned int *value)
{
	char *end;
	unsigned long number;

	errno = 0;
	number = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || number == 0 || number > max)
		return false;
	*value = (unsigned int)number;
	return true;
}

/* Ends the program where the options ask for it. */
static inline void
perf_options(struct perf *perf, int argc, char **argv)
{
	bool good = true;
	int option;

	while (good && (option = getopt(argc, argv, "l:t:n:jh")) >= 0) {
		if (option == 'l')
			good = cpumask_parse(&perf->cpus, optarg) == 0;
		else if (option == 't')
			good = perf_number(optarg, 3600, &perf->seconds);
		else if (option == 'n')
			good = perf_number(optarg, 1 << 20, &perf->count);
		else if (option == 'j')
			perf->json = true;
		else if (option == 'h') {
			perf_usage(perf, stdout);
			exit(0);
		} else
			good = false;
	}
	if (!good || optind < argc) {
		perf_usage(perf, stderr);
		exit(2);
	}
}

static inline void
perf_pause(double seconds)
{
	struct timespec pause = {.tv_sec = (time_t)seconds};

	pause.tv_nsec = (long)((seconds - (double)pause.tv_sec) * 1e9);
	nanosleep(&pause, NULL);
}

static inline void *
perf_measure(void *arg)
{
	struct perf *perf = arg;
	uint64_t begin;

	env_pin_to_housekeeping();
	perf->start(perf);
	perf_pause(0.2); /* to get warm */
	begin = env_ticks();
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		perf->per_core[core] = perf->counted(core);
	perf_pause(perf->seconds);
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		perf->per_core[core] = perf->counted(core) - perf->per_core[core];
	perf->elapsed = (double)(env_ticks() - begin) / (double)env_ticks_hz();
	if (perf->stop != NULL)
		perf->stop(perf);
	reactors_stop();
	return NULL;
}

static inline void
perf_report(const struct perf *perf)
{
	double total = 0;

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		double rate = (double)perf->per_core[core] / perf->elapsed;

		total += rate;
		if (!perf->json)
			printf("core %3u: %14.0f %s/s\n", core, rate, perf->unit);
	}
	if (perf->json)
		printf("{\"program\": \"%s\", \"cores\": %u, \"count\": %u, \"seconds\": %.3f, "
		       "\"%s_per_second\": %.0f}\n",
		       perf->name, env_core_count(), perf->count, perf->elapsed, perf->unit, total);
	else
		printf("total   : %14.0f %s/s\n", total, perf->unit);
}

static inline int
perf_main(struct perf *perf, int argc, char **argv)
{
	struct env_opts opts = {.name = perf->name, .memory_mb = 16};
	struct errmsg err = {""};
	pthread_t os_thread;
	int rc;

	perf_options(perf, argc, argv);
	opts.cpus = perf->cpus;
	rc = env_init(&opts, &err);
	if (rc == 0)
		rc = reactors_init(REACTOR_POLL, &err);
	if (rc != 0) {
		fprintf(stderr, "%s: %s\n", perf->name, err.text);
		return 1;
	}
	rc = pthread_create(&os_thread, NULL, perf_measure, perf);
	if (rc != 0) {
		fprintf(stderr, "%s: %s\n", perf->name, strerror(rc));
		return 1;
	}
	rc = reactors_run();
	pthread_join(os_thread, NULL);
	reactors_fini();
	if (rc == 0)
		perf_report(perf);
	env_fini();
	return rc == 0 ? 0 : 1;
}

#endif
