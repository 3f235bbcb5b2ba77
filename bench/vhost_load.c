/* SPDX-License-Identifier: BSD-3-Clause */
/* links: probes load client */
/* vhost_load: the load generator of the benchmarks, and what else they ask of a front-end. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes/probes.h"

#define EXIT_NOT_OFFERED 3 /* status: the back-end does not offer what the options ask for */

#define MAX_IDLE 4096

/* ---- the report ---- */

static void
print_percentiles(const struct load_result *result)
{
	static const char *const percents[] = {"1",  "10", "25",   "50",    "75",    "90",
					       "95", "99", "99.9", "99.99", "99.999"};
	unsigned int i, count = sizeof(percents) / sizeof(percents[0]);

	printf("\"percentiles_us\": {");
	for (i = 0; i < count; i++)
		printf("%s\"%s\": %.3f", i > 0 ? ", " : "", percents[i],
		       load_percentile_us(result, strtod(percents[i], NULL)));
	printf("}");
}

static void
report_json(const struct load_options *o, const struct load_result *result)
{
	const struct load_stats *stats = &result->stats;

	printf("{\"rw\": \"%s\", \"bs\": %u, \"qd\": %u, \"queues\": %u, \"threads\": %u, "
	       "\"packed\": %s, \"event_idx\": %s, \"inflight\": %s, ",
	       o->rw, o->block_size, o->depth, o->queues, o->threads, o->packed ? "true" : "false",
	       o->event_idx ? "true" : "false", o->inflight ? "true" : "false");
	printf("\"iops\": %.0f, \"mb_per_s\": %.1f, \"avg_us\": %.3f, ", result->iops,
	       result->iops * o->block_size / 1e6, result->average_us);
	print_percentiles(result);
	printf(", \"errors\": %lu, \"kicks\": %lu, \"ios\": %lu, \"ios_total\": %lu, "
	       "\"seconds\": %.3f, \"tsc_hz\": %.0f}\n",
	       stats->errors, stats->kicks, stats->ios, result->total_ios, result->seconds,
	       result->tsc_hz);
}

static void
report(const struct load_options *o, const struct load_result *result)
{
	const struct load_stats *stats = &result->stats;

	printf("%s bs %u qd %u queues %u threads %u packed %s event_idx %s inflight %s: "
	       "%.0f IOPS, %.1f MB/s, latency us avg %.2f p50 %.2f p99 %.2f p99.9 %.2f; "
	       "errors %lu, kicks %lu, I/Os %lu of %lu in %.2f s\n",
	       o->rw, o->block_size, o->depth, o->queues, o->threads, o->packed ? "true" : "false",
	       o->event_idx ? "true" : "false", o->inflight ? "true" : "false", result->iops,
	       result->iops * o->block_size / 1e6, result->average_us,
	       load_percentile_us(result, 50), load_percentile_us(result, 99),
	       load_percentile_us(result, 99.9), stats->errors, stats->kicks, stats->ios,
	       result->total_ios, result->seconds);
}

/* ---- command line ---- */

/* The command line: what an option is called, which field it fills, what it means. */
static const struct parameter {
	const char *name;
	enum { TEXT, NUMBER, SECONDS, FLAG } kind;
	size_t offset; /* in struct options */
	const char *help;
} parameters[] = {
#define FIELD(field) offsetof(struct options, field)
	{"socket", TEXT, FIELD(load.socket), "PATH  vhost-user-blk socket"},
	{"rw", TEXT, FIELD(load.rw), "KIND  read, write, randread (default), randwrite, randrw"},
	{"bs", NUMBER, FIELD(load.block_size), "BYTES  block size, a multiple of 512 (4096)"},
	{"qd", NUMBER, FIELD(load.depth), "N  requests outstanding per queue (32)"},
	{"rate", NUMBER, FIELD(load.rate), "N  that many requests a second, one at a time"},
	{"idle", NUMBER, FIELD(count), "N  idle guests, connected to PATH0, PATH1, ..."},
	{"queues", NUMBER, FIELD(load.queues), "N  queues, shared out over the threads (1)"},
	{"threads", NUMBER, FIELD(load.threads), "N  threads of the front-end (1)"},
	{"seconds", SECONDS, FIELD(load.seconds), "S  measured time (5)"},
	{"ramp", SECONDS, FIELD(load.ramp), "S  time before it (0.5)"},
	{"cpu", TEXT, FIELD(load.cpu_list),
	 "LIST  run on these CPUs: 0,1; one thread each, in turn"},
	{"poll", FLAG, FIELD(load.poll), " never wait for a call, and ask for none"},
	{"packed", FLAG, FIELD(load.packed), " packed rings"},
	{"event-idx", FLAG, FIELD(load.event_idx), " EVENT_IDX: kicks and calls by index"},
	{"inflight", FLAG, FIELD(load.inflight), " in-flight tracking"},
	{"scsi", FLAG, FIELD(load.scsi), " PATH is a vhost-user-scsi socket: LUN 0 of target 0"},
	{"indirect", TEXT, FIELD(load.indirect_mode),
	 "MODE  on, off, or auto: where it is offered"},
	{"recover", FLAG, FIELD(recover), " say when I/O goes on after the back-end was killed"},
	{"verify", FLAG, FIELD(verify), " write the whole disk, read it back and compare"},
	{"json", FLAG, FIELD(json), " one line of JSON"},
	{"help", FLAG, FIELD(help), " this"},
	{"pingpong", TEXT, FIELD(pingpong), "A,B  only measure a cache line's way between CPUs"},
	{"wake", TEXT, FIELD(wake), "A,B  only measure how long B takes to wake a thread on A"},
	{"copy", FLAG, FIELD(copy), " only measure copies of 4 KiB from and to much memory"},
#undef FIELD
};
#define PARAMETERS (sizeof(parameters) / sizeof(parameters[0]))

static void
print_usage(FILE *stream)
{
	const struct parameter *p;

	fputs("usage: vhost_load --socket PATH [options]\n", stream);
	for (p = parameters; p < parameters + PARAMETERS; p++)
		fprintf(stream, "  --%s %s\n", p->name, p->help);
}

static int
set_parameter(struct options *options, const struct parameter *p, const char *value)
{
	void *field = (char *)options + p->offset;
	char *end = "";

	switch (p->kind) {
	case TEXT:
		*(const char **)field = value;
		break;
	case NUMBER:
		*(unsigned int *)field = strtoul(value, &end, 0);
		break;
	case SECONDS:
		*(double *)field = strtod(value, &end);
		break;
	case FLAG:
		*(bool *)field = true;
		break;
	}
	return *end ? -EINVAL : 0;
}

static bool
options_valid(const struct options *options)
{
	if (options->pingpong || options->wake || options->copy || options->help)
		return true;
	if (options->load.scsi && (options->verify || options->recover))
		return false;
	return options->count <= MAX_IDLE && load_options_valid(&options->load);
}

static int
parse_options(struct options *options, int argc, char **argv)
{
	struct option long_options[PARAMETERS + 1] = {0};
	unsigned int i;
	int index, c;

	*options = (struct options){.load = load_default_options};
	for (i = 0; i < PARAMETERS; i++) {
		long_options[i].name = parameters[i].name;
		long_options[i].has_arg =
			parameters[i].kind == FLAG ? no_argument : required_argument;
	}
	while ((c = getopt_long(argc, argv, "", long_options, &index)) == 0)
		if (set_parameter(options, &parameters[index], optarg) < 0)
			return -EINVAL;
	if (options->load.rate > 0)
		options->load.depth = 1;
	if (c != -1 || optind < argc || !options_valid(options) ||
	    load_set_cpus(&options->load) < 0)
		return -EINVAL;
	return load_set_workload(&options->load);
}

/* ---- what is done with a device ---- */

static int
measure(const struct options *options, struct load *load)
{
	static struct load_result result;
	int rc = load_measure(load, &result);

	if (rc < 0 && result.stats.ios == 0)
		return rc;
	if (options->json)
		report_json(&options->load, &result);
	else
		report(&options->load, &result);
	return rc;
}

/* Between start and stop of the device. */
static int
use_device(const struct options *options, struct load *load)
{
	if (options->verify)
		return probe_verify(load, options->json);
	if (options->recover)
		return probe_recover(load);
	return measure(options, load);
}

static int
run_device(const struct options *options)
{
	static struct load load;
	int rc;

	load.options = options->load;
	rc = load_open(&load);
	if (rc == 0)
		rc = client_device_start(&load.device);
	if (rc == 0)
		rc = use_device(options, &load);
	if (rc == 0)
		rc = client_device_stop(&load.device);
	load_close(&load);
	return rc;
}

static int
run(const struct options *options)
{
	if (options->pingpong)
		return probe_pingpong(options);
	if (options->wake)
		return probe_wake(options);
	if (options->copy)
		return probe_copy(options);
	return options->count > 0 ? probe_idle(options) : run_device(options);
}

int
main(int argc, char **argv)
{
	struct options options;
	int rc;

	if (parse_options(&options, argc, argv) < 0) {
		print_usage(stderr);
		return 2;
	}
	if (options.help) {
		print_usage(stdout);
		return 0;
	}
	rc = run(&options);
	if (rc < 0)
		fprintf(stderr, "vhost_load: %s: %s\n",
			options.load.socket ? options.load.socket : "memory", strerror(-rc));
	if (rc == -ENOTSUP)
		return EXIT_NOT_OFFERED;
	return rc < 0;
}
