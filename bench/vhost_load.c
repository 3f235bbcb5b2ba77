/* SPDX-License-Identifier: BSD-3-Clause */
/* links: load client */
/*
 * vhost_load: drives a vhost-user-blk back-end as a guest would, as fast as its cores can.
 *
 * The library of tests/client sets the device up; the loop (load/loop.c) is its own and does only
 * what a measurement needs. Each queue has qd request slots whose descriptor chains are built
 * once: one indirect table each (as Linux sends them where INDIRECT_DESC is negotiated), or three
 * descriptors. A pass over a queue takes all used entries, writes a new sector into each header,
 * and publishes the slots again with one store, of the avail index or, in a packed ring, of the
 * first descriptor's flags; it kicks only if the device asks for it. Time is read once a pass, so
 * a latency runs from the pass that sent the request to the pass that found it done: average
 * latency times IOPS is the queue depth. With --poll and EVENT_IDX a split ring still gets one
 * call for each 65,536 requests, as it does under Linux: nothing else can be asked for there.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load/load.h"

#define EXIT_NOT_OFFERED 3 /* status: the back-end does not offer what the options ask for */

#define MAX_QUEUE_DEPTH 4096
#define MAX_BLOCK_SIZE  (16u << 20)
#define MAX_IDLE        4096
#define MAX_RATE        1000000 /* a second */

/* ---- the threads ---- */

static void
run_worker(struct worker *worker)
{
	const struct options *options = worker->options;

	worker->rc = 0;
	if (options->cpu_count > 0)
		worker->rc = load_pin(options->cpus[worker->index % options->cpu_count]);
	if (worker->rc == 0)
		load_measure(worker);
}

static void *
worker_main(void *arg)
{
	run_worker(arg);
	return NULL;
}

/* The queues are shared out evenly, neighbours together. */
static void
set_worker(struct load *load, unsigned int index)
{
	const struct options *options = &load->options;
	unsigned int first = options->queues * index / options->threads;
	unsigned int end = options->queues * (index + 1) / options->threads;
	struct worker *worker = &load->workers[index];

	worker->options = options;
	worker->index = index;
	worker->queues = &load->queues[first];
	worker->queue_count = end - first;
	worker->socket = load->device.client.fd;
	worker->tsc_hz = load->tsc_hz;
}

/* The first worker is the main thread. The ramp covers that they do not start at once. */
static int
run_workers(struct load *load)
{
	unsigned int i, started;
	int rc = 0;

	for (i = 0; i < load->options.threads; i++)
		set_worker(load, i);
	for (started = 1; started < load->options.threads && rc == 0; started++)
		rc = -pthread_create(&load->workers[started].thread, NULL, worker_main,
				     &load->workers[started]);
	if (rc < 0)
		started--;
	else
		run_worker(&load->workers[0]);
	for (i = 1; i < started; i++)
		pthread_join(load->workers[i].thread, NULL);
	for (i = 0; i < load->options.threads && rc == 0; i++)
		rc = load->workers[i].rc;
	return rc;
}

/* ---- the report ---- */

struct result {
	struct stats stats;
	double iops;
	double seconds; /* of the longest */
	uint64_t total_ios;
};

static void
add_result(struct result *sum, const struct worker *worker)
{
	unsigned int i;

	sum->stats.ios += worker->stats.ios;
	sum->stats.ticks += worker->stats.ticks;
	sum->stats.errors += worker->stats.errors;
	sum->stats.kicks += worker->stats.kicks;
	for (i = 0; i < BUCKETS; i++)
		sum->stats.buckets[i] += worker->stats.buckets[i];
	sum->iops += worker->stats.ios / worker->seconds;
	sum->total_ios += worker->total_ios;
	if (worker->seconds > sum->seconds)
		sum->seconds = worker->seconds;
}

static double
percentile_us(const struct stats *stats, double tsc_hz, double percent)
{
	uint64_t wanted = stats->ios * percent / 100;
	uint64_t seen = 0;
	unsigned int i, shift;
	uint64_t middle;

	for (i = 0; i < BUCKETS - 1; i++) {
		seen += stats->buckets[i];
		if (seen > wanted)
			break;
	}
	if (i < 2 << BUCKET_BITS)
		return i * 1e6 / tsc_hz;
	shift = (i >> BUCKET_BITS) - 1;
	middle = ((uint64_t)(i - (shift << BUCKET_BITS)) << shift) + (1ULL << shift) / 2;
	return middle * 1e6 / tsc_hz;
}

static void
print_percentiles(const struct load *load, const struct stats *stats)
{
	static const char *const percents[] = {"1",  "10", "25",   "50",    "75",    "90",
					       "95", "99", "99.9", "99.99", "99.999"};
	unsigned int i, count = sizeof(percents) / sizeof(percents[0]);

	printf("\"percentiles_us\": {");
	for (i = 0; i < count; i++)
		printf("%s\"%s\": %.3f", i > 0 ? ", " : "", percents[i],
		       percentile_us(stats, load->tsc_hz, strtod(percents[i], NULL)));
	printf("}");
}

static void
report_json(const struct load *load, const struct result *result, double average)
{
	const struct options *o = &load->options;
	const struct stats *stats = &result->stats;

	printf("{\"rw\": \"%s\", \"bs\": %u, \"qd\": %u, \"queues\": %u, \"threads\": %u, "
	       "\"packed\": %s, \"event_idx\": %s, \"inflight\": %s, ",
	       o->rw, o->block_size, o->depth, o->queues, o->threads, o->packed ? "true" : "false",
	       o->event_idx ? "true" : "false", o->inflight ? "true" : "false");
	printf("\"iops\": %.0f, \"mb_per_s\": %.1f, \"avg_us\": %.3f, ", result->iops,
	       result->iops * o->block_size / 1e6, average);
	print_percentiles(load, stats);
	printf(", \"errors\": %lu, \"kicks\": %lu, \"ios\": %lu, \"ios_total\": %lu, "
	       "\"seconds\": %.3f, \"tsc_hz\": %.0f}\n",
	       stats->errors, stats->kicks, stats->ios, result->total_ios, result->seconds,
	       load->tsc_hz);
}

static void
report(const struct load *load, const struct result *result)
{
	const struct options *o = &load->options;
	const struct stats *stats = &result->stats;
	double average = stats->ios ? stats->ticks * 1e6 / load->tsc_hz / stats->ios : 0;

	if (o->json) {
		report_json(load, result, average);
		return;
	}
	printf("%s bs %u qd %u queues %u threads %u packed %s event_idx %s inflight %s: "
	       "%.0f IOPS, %.1f MB/s, latency us avg %.2f p50 %.2f p99 %.2f p99.9 %.2f; "
	       "errors %lu, kicks %lu, I/Os %lu of %lu in %.2f s\n",
	       o->rw, o->block_size, o->depth, o->queues, o->threads, o->packed ? "true" : "false",
	       o->event_idx ? "true" : "false", o->inflight ? "true" : "false", result->iops,
	       result->iops * o->block_size / 1e6, average, percentile_us(stats, load->tsc_hz, 50),
	       percentile_us(stats, load->tsc_hz, 99), percentile_us(stats, load->tsc_hz, 99.9),
	       stats->errors, stats->kicks, stats->ios, result->total_ios, result->seconds);
}

/* Returns what went wrong after the measurement or in a request. */
static int
finish(const struct load *load)
{
	static struct result result;
	unsigned int i;
	int rc = 0;

	for (i = 0; i < load->options.threads; i++) {
		add_result(&result, &load->workers[i]);
		if (rc == 0)
			rc = load->workers[i].drain_rc;
	}
	report(load, &result);
	return rc == 0 && result.stats.errors > 0 ? -EIO : rc;
}

/* ---- command line ---- */

static const struct workload {
	const char *name;
	bool reads, writes, random;
} workloads[] = {
	{"read", true, false, false},    {"write", false, true, false},
	{"randread", true, false, true}, {"randwrite", false, true, true},
	{"randrw", true, true, true},
};

static int
set_workload(struct options *options)
{
	const struct workload *w;

	for (w = workloads; w < workloads + sizeof(workloads) / sizeof(workloads[0]); w++) {
		if (strcmp(options->rw, w->name))
			continue;
		options->reads = w->reads;
		options->writes = w->writes;
		options->random = w->random;
		return 0;
	}
	return -EINVAL;
}

/* The command line: what an option is called, which field it fills, what it means. */
static const struct parameter {
	const char *name;
	enum { TEXT, NUMBER, SECONDS, FLAG } kind;
	size_t offset; /* in struct options */
	const char *help;
} parameters[] = {
#define FIELD(field) offsetof(struct options, field)
	{"socket", TEXT, FIELD(socket), "PATH  vhost-user-blk socket"},
	{"rw", TEXT, FIELD(rw), "KIND  read, write, randread (default), randwrite, randrw"},
	{"bs", NUMBER, FIELD(block_size), "BYTES  block size, a multiple of 512 (4096)"},
	{"qd", NUMBER, FIELD(depth), "N  requests outstanding per queue (32)"},
	{"rate", NUMBER, FIELD(rate), "N  that many requests a second, one at a time"},
	{"idle", NUMBER, FIELD(count), "N  idle guests, connected to PATH0, PATH1, ..."},
	{"queues", NUMBER, FIELD(queues), "N  queues, shared out over the threads (1)"},
	{"threads", NUMBER, FIELD(threads), "N  threads of the front-end (1)"},
	{"seconds", SECONDS, FIELD(seconds), "S  measured time (5)"},
	{"ramp", SECONDS, FIELD(ramp), "S  time before it (0.5)"},
	{"cpu", TEXT, FIELD(cpu_list), "LIST  run on these CPUs: 0,1; one thread each, in turn"},
	{"poll", FLAG, FIELD(poll), " never wait for a call, and ask for none"},
	{"packed", FLAG, FIELD(packed), " packed rings"},
	{"event-idx", FLAG, FIELD(event_idx), " EVENT_IDX: kicks and calls by index"},
	{"inflight", FLAG, FIELD(inflight), " in-flight tracking"},
	{"indirect", TEXT, FIELD(indirect_mode), "MODE  on, off, or auto: where it is offered"},
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

static int
set_cpus(struct options *options)
{
	const char *p = options->cpu_list;
	char *end;

	while (p && options->cpu_count < MAX_THREADS) {
		options->cpus[options->cpu_count++] = strtoul(p, &end, 10);
		if (end == p || (*end && *end != ','))
			return -EINVAL;
		p = *end ? end + 1 : NULL;
	}
	return p ? -EINVAL : 0;
}

static bool
options_valid(const struct options *options)
{
	if (options->pingpong || options->wake || options->copy || options->help)
		return true;
	if (options->rate > 0 && options->queues > 1)
		return false;
	if (strcmp(options->indirect_mode, "auto") && strcmp(options->indirect_mode, "on") &&
	    strcmp(options->indirect_mode, "off"))
		return false;
	return options->socket && options->block_size > 0 &&
	       options->block_size <= MAX_BLOCK_SIZE && options->block_size % CLIENT_SECTOR == 0 &&
	       options->depth > 0 && options->depth <= MAX_QUEUE_DEPTH && options->queues > 0 &&
	       options->queues <= CLIENT_MAX_QUEUES && options->threads > 0 &&
	       options->threads <= MAX_THREADS && options->threads <= options->queues &&
	       options->count <= MAX_IDLE && options->rate <= MAX_RATE && options->seconds > 0 &&
	       options->ramp >= 0;
}

static int
parse_options(struct options *options, int argc, char **argv)
{
	struct option long_options[PARAMETERS + 1] = {0};
	unsigned int i;
	int index, c;

	*options = (struct options){
		.rw = "randread",
		.block_size = 4096,
		.depth = 32,
		.queues = 1,
		.seconds = 5,
		.ramp = 0.5,
		.threads = 1,
		.indirect_mode = "auto",
	};
	for (i = 0; i < PARAMETERS; i++) {
		long_options[i].name = parameters[i].name;
		long_options[i].has_arg =
			parameters[i].kind == FLAG ? no_argument : required_argument;
	}
	while ((c = getopt_long(argc, argv, "", long_options, &index)) == 0)
		if (set_parameter(options, &parameters[index], optarg) < 0)
			return -EINVAL;
	if (options->rate > 0)
		options->depth = 1;
	if (c != -1 || optind < argc || !options_valid(options) || set_cpus(options) < 0)
		return -EINVAL;
	return set_workload(options);
}

/* ---- what is done with a device ---- */

static double
measure_tsc_hz(void)
{
	uint64_t ns = now_ns();
	uint64_t tsc = __rdtsc();
	uint64_t elapsed;

	do {
		elapsed = now_ns() - ns;
	} while (elapsed < 50000000);
	return (double)(__rdtsc() - tsc) * 1e9 / elapsed;
}

/* Between start and stop of the device. */
static int
use_device(struct load *load)
{
	unsigned int i;
	int rc = 0;

	if (load->options.verify)
		return load_verify(load);
	if (load->options.recover)
		return load_recover(load);
	for (i = 0; i < load->options.queues && rc == 0; i++)
		rc = load_prepare_queue(load, i);
	if (rc == 0)
		rc = run_workers(load);
	return rc < 0 ? rc : finish(load);
}

static int
allocate(struct load *load)
{
	size_t queues = load->options.queues * sizeof(*load->queues);
	size_t workers = load->options.threads * sizeof(*load->workers);

	load->queues = aligned_alloc(64, queues);
	load->workers = aligned_alloc(64, workers);
	if (!load->queues || !load->workers)
		return -ENOMEM;
	memset(load->queues, 0, queues);
	memset(load->workers, 0, workers);
	return 0;
}

static void
release(struct load *load)
{
	unsigned int i;

	for (i = 0; load->queues && i < load->options.queues; i++) {
		free(load->queues[i].slots);
		free(load->queues[i].chains);
	}
	free(load->queues);
	free(load->workers);
}

static int
run_device(struct load *load)
{
	int rc;

	load->tsc_hz = measure_tsc_hz();
	rc = allocate(load);
	if (rc == 0)
		rc = load_open(load);
	if (rc == 0)
		rc = client_device_start(&load->device);
	if (rc == 0)
		rc = use_device(load);
	if (rc == 0)
		rc = client_device_stop(&load->device);
	client_device_close(&load->device);
	release(load);
	return rc;
}

static int
run(struct load *load)
{
	const struct options *options = &load->options;

	if (options->pingpong)
		return load_pingpong(options);
	if (options->wake)
		return load_wake(options);
	if (options->copy)
		return load_copy(options);
	return options->count > 0 ? load_idle(options) : run_device(load);
}

int
main(int argc, char **argv)
{
	static struct load load;
	int rc;

	/* Closing a device that was never opened is nothing. */
	load.device.client.fd = load.device.client.backend_fd = load.device.inflight.fd = -1;
	if (parse_options(&load.options, argc, argv) < 0) {
		print_usage(stderr);
		return 2;
	}
	if (load.options.help) {
		print_usage(stdout);
		return 0;
	}
	rc = run(&load);
	if (rc < 0)
		fprintf(stderr, "vhost_load: %s: %s\n",
			load.options.socket ? load.options.socket : "memory", strerror(-rc));
	if (rc == -ENOTSUP)
		return EXIT_NOT_OFFERED;
	return rc < 0;
}
