/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bench: loads a virtio-blk controller as a guest would, and says how fast it is. The load runs on
 * threads of its own; the first thread shows how far it is.
 */
#include "vhostctl_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load/load.h"
#include "vhost.h"
#include "vhostctl_options.h"

#define USAGE                                                                                      \
	"usage: vhostctl bench CONTROLLER|SOCKET [--rw read|write|randread|randwrite|randrw] "     \
	"[--bs BYTES] [--qd N] [--queues N] [--threads N] [--cpu LIST] [--seconds S] [--ramp S] "  \
	"[--packed] [--event-idx] [--poll] [--write] [--svg FILE]"

#define SECONDS_MAX (24 * 60 * 60)
#define SAMPLES     240 /* of a run, but not more than STEP_MIN apart */
#define STEP_MIN    0.2 /* seconds */

struct bench {
	struct load load;
	const char *controller; /* as the user named it: a controller or a socket */
	const char *svg;
	bool may_write;

	pthread_t thread;
	struct load_result result; /* the thread's, until it has ended */
	int rc;

	struct chart over_time;
};

static const char *const percents[] = {"50", "90", "99", "99.9", "99.99", "100"};
#define PERCENTS (sizeof(percents) / sizeof(percents[0]))

/* ---- which controller ---- */

static enum vhostctl_status
check_controller(const char *name, json_t *controller, json_t **socket, struct errmsg *err)
{
	json_t *backend = json_object_get(controller, "backend_specific");

	*socket = json_object_get(controller, "socket");
	if (json_object_get(backend, "block") == NULL)
		return err_set(err, STATUS_FAILED,
			       "bench: %s is no virtio-blk controller, and others cannot be "
			       "measured",
			       name);
	if (json_array_size(json_object_get(controller, "sessions")) > 0)
		return err_set(err, STATUS_FAILED,
			       "bench: %s is in use: measure a controller that no guest has", name);
	if (!json_is_string(*socket))
		return err_set(err, STATUS_FAILED, "bench: the daemon does not say where %s is",
			       name);
	return STATUS_OK;
}

/* *path is a new string. */
static enum vhostctl_status
find_socket(const struct vhostctl_opts *opts, const char *name, char **path, struct errmsg *err)
{
	json_t *params, *controllers, *socket;
	enum vhostctl_status status;

	if (strchr(name, '/') != NULL) {
		*path = strdup(name);
		return *path != NULL ? STATUS_OK
				     : err_set(err, STATUS_FAILED, "%s", strerror(ENOMEM));
	}
	params = json_pack("{s:s}", "name", name);
	if (params == NULL)
		return err_set(err, STATUS_USAGE, "bench: the controller's name is not UTF-8");
	status = ctl_call(opts, "vhost_get_controllers", params, &controllers, err);
	json_decref(params);
	if (status != STATUS_OK)
		return status;
	status = check_controller(name, json_array_get(controllers, 0), &socket, err);
	*path = status == STATUS_OK ? strdup(json_string_value(socket)) : NULL;
	json_decref(controllers);
	return status;
}

/* ---- the run ---- */

static atomic_bool *stop_flag;

static void
on_signal(int signal)
{
	(void)signal;
	atomic_store_explicit(stop_flag, true, memory_order_relaxed);
}

/* The first SIGINT ends the run in order; the second one ends the process. */
static void
catch_signals(struct load *load)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND | SA_RESTART};

	stop_flag = &load->stop;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void *
measure(void *arg)
{
	struct bench *bench = arg;

	bench->rc = load_measure(&bench->load, &bench->result);
	return NULL;
}

static void
show_progress(double done, double seconds, double iops)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%3.0f %%  %12.0f IOPS", 100 * done / seconds, iops);
}

/* Looks once a step how far the run is, until it is over. */
static void
follow(struct bench *bench)
{
	double seconds = bench->load.options.seconds;
	double step = seconds / SAMPLES > STEP_MIN ? seconds / SAMPLES : STEP_MIN;
	struct chart *chart = &bench->over_time;
	uint64_t begin = 0, before = now_ns(), ios = 0;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	for (;;) {
		uint64_t now, count;

		until.tv_nsec += (long)((step - (double)(long)step) * 1e9);
		until.tv_sec += (long)step + until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_timedjoin_np(bench->thread, NULL, &until) == 0)
			break;
		now = now_ns();
		count = load_progress(&bench->load);
		if (begin == 0 && count > 0) {
			begin = before = now;
		} else if (begin > 0 && chart->count < CHART_POINTS_MAX) {
			double iops = (double)(count - ios) * 1e9 / (double)(now - before);

			chart->seconds = (double)(now - begin) / 1e9;
			chart->y[chart->count++] = iops;
			show_progress(chart->seconds, seconds, iops);
		}
		before = now;
		ios = count;
	}
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

/* What a user can do about it. */
static enum vhostctl_status
explain(const struct bench *bench, int rc, struct errmsg *err)
{
	static const struct {
		int rc;
		const char *text;
	} reasons[] = {
		{-ENOTSUP, "it does not offer the rings that the options ask for"},
		{-ERANGE, "it has fewer queues than --queues"},
		{-ECONNRESET,
		 "it closed the connection: another front-end has it, or the daemon ended"},
		{-ENOSPC, "the disk has fewer blocks than there are queues"},
		{-EROFS, "the disk is read-only"},
		{-EIO, "requests failed"},
		{-ETIMEDOUT, "it does not answer, or requests do not complete"},
		{-EPROTO, "it broke the rules of vhost-user or virtio"},
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		if (reasons[i].rc == rc)
			return err_set(err, STATUS_FAILED, "bench: %s: %s", bench->controller,
				       reasons[i].text);
	}
	return err_set(err, STATUS_FAILED, "bench: %s: %s", bench->controller, strerror(-rc));
}

/* A part of a block cannot be read or written. */
static enum vhostctl_status
check_blocks(const struct bench *bench, struct errmsg *err)
{
	uint32_t block = bench->load.device.config.blk_size;

	if (!(bench->load.device.features & 1ull << VIRTIO_BLK_F_BLK_SIZE) || block == 0 ||
	    bench->load.options.block_size % block == 0)
		return STATUS_OK;
	return err_set(err, STATUS_FAILED,
		       "bench: %s has blocks of %u bytes: --bs must be a multiple",
		       bench->controller, block);
}

/* Also a run that ends early has a result, where requests were done. */
static enum vhostctl_status
run(struct bench *bench, struct errmsg *err)
{
	enum vhostctl_status status;
	int rc = load_open(&bench->load);

	if (rc == 0)
		rc = client_device_start(&bench->load.device);
	if (rc != 0)
		return explain(bench, rc, err);
	status = check_blocks(bench, err);
	if (status != STATUS_OK)
		return status;
	if (bench->load.options.writes)
		fprintf(stderr, "vhostctl: bench: overwriting the %.0f MiB of %s\n",
			(double)bench->load.device.config.capacity * CLIENT_SECTOR / (1 << 20),
			bench->controller);
	catch_signals(&bench->load);
	rc = pthread_create(&bench->thread, NULL, measure, bench);
	if (rc != 0)
		return explain(bench, -rc, err);
	follow(bench);
	rc = bench->rc;
	if (rc == 0 && bench->result.stats.ios == 0)
		return err_set(err, STATUS_FAILED, "bench: %s: stopped before the measurement",
			       bench->controller);
	if (rc == 0)
		rc = client_device_stop(&bench->load.device);
	return rc == 0 ? STATUS_OK : explain(bench, rc, err);
}

/* ---- the report ---- */

static void
format_load(const struct load_options *o, char *text, size_t size)
{
	snprintf(text, size, "%s, %u bytes, queue depth %u, %u queue%s on %u thread%s, %s ring%s",
		 o->rw, o->block_size, o->depth, o->queues, o->queues == 1 ? "" : "s", o->threads,
		 o->threads == 1 ? "" : "s", o->packed ? "packed" : "split",
		 o->poll ? ", polling" : "");
}

static void
report_json(const struct bench *bench)
{
	const struct load_options *o = &bench->load.options;
	const struct load_result *result = &bench->result;
	json_t *percentiles = json_object();
	json_t *report;

	for (size_t i = 0; i < PERCENTS; i++)
		json_object_set_new(
			percentiles, percents[i],
			json_real(load_percentile_us(result, strtod(percents[i], NULL))));
	report = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:b, s:b, s:b}", "controller",
			   bench->controller, "rw", o->rw, "bs", (int)o->block_size, "qd",
			   (int)o->depth, "queues", (int)o->queues, "threads", (int)o->threads,
			   "packed", o->packed, "event_idx", o->event_idx, "poll", o->poll);
	json_object_update_new(
		report,
		json_pack("{s:f, s:f, s:f, s:o, s:I, s:I, s:I, s:f}", "iops", result->iops,
			  "mb_per_s", result->iops * o->block_size / 1e6, "avg_us",
			  result->average_us, "percentiles_us", percentiles, "ios",
			  (json_int_t)result->stats.ios, "errors", (json_int_t)result->stats.errors,
			  "kicks", (json_int_t)result->stats.kicks, "seconds", result->seconds));
	ctl_print_json(report);
	json_decref(report);
}

static void
report_text(const struct bench *bench)
{
	const struct load_options *o = &bench->load.options;
	const struct load_result *result = &bench->result;
	char text[128];

	format_load(o, text, sizeof(text));
	printf("%s: %s, %.1f s\n\n", bench->controller, text, result->seconds);
	printf("IOPS      %12.0f\n", result->iops);
	printf("MB/s      %12.1f\n", result->iops * o->block_size / 1e6);
	printf("errors    %12lu\n", result->stats.errors);
	printf("kicks     %12lu\n\n", result->stats.kicks);
	printf("latency, us\naverage   %12.1f\n", result->average_us);
	for (size_t i = 0; i < PERCENTS; i++)
		printf("%-6s %%  %12.1f\n", percents[i],
		       load_percentile_us(result, strtod(percents[i], NULL)));
}

/* Of an existing file nothing is lost until there is a picture for it. */
static FILE *
open_svg(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

	return fd >= 0 ? fdopen(fd, "w") : NULL;
}

/* file: NULL is nothing to do. Takes it. */
static enum vhostctl_status
write_svg(const struct bench *bench, FILE *file, struct errmsg *err)
{
	const struct load_result *result = &bench->result;
	struct chart charts[] = {
		bench->over_time,
		{.title = "Latency",
		 .y_title = "us, by percentile",
		 .labels = percents,
		 .logarithmic = true},
	};
	char load[128], heading[256];
	struct stat stat;
	bool failed;

	if (file == NULL)
		return STATUS_OK;
	if (result->stats.ios == 0) {
		if (fstat(fileno(file), &stat) == 0 && S_ISREG(stat.st_mode) && stat.st_size == 0)
			unlink(bench->svg);
		fclose(file);
		return STATUS_OK;
	}
	charts[0].title = "Requests";
	charts[0].y_title = "IOPS, and their average";
	charts[0].reference = result->iops;
	for (size_t i = 0; i + 1 < PERCENTS; i++)
		charts[1].y[charts[1].count++] =
			load_percentile_us(result, strtod(percents[i], NULL));
	format_load(&bench->load.options, load, sizeof(load));
	snprintf(heading, sizeof(heading), "%.64s: %s", bench->controller, load);
	failed = ftruncate(fileno(file), 0) != 0 && errno != EINVAL;
	svg_write(file, heading, charts, sizeof(charts) / sizeof(charts[0]));
	failed |= ferror(file) != 0;
	failed |= fclose(file) != 0;
	return failed ? err_set(err, STATUS_FAILED, "bench: cannot write %s", bench->svg)
		      : STATUS_OK;
}

/* ---- arguments ---- */

static enum vhostctl_status
check_options(const struct bench *bench, struct errmsg *err)
{
	const struct load_options *o = &bench->load.options;

	if (o->writes && !bench->may_write)
		return err_set(err, STATUS_FAILED,
			       "bench: %s would overwrite what is on the disk of %s: add --write "
			       "if nobody needs it",
			       o->rw, bench->controller);
	if (o->threads > o->queues)
		return err_set(err, STATUS_USAGE, "bench: there are more threads than queues");
	return load_options_valid(o)
		       ? STATUS_OK
		       : err_set(err, STATUS_USAGE, "bench: --bs must be a multiple of %u",
				 CLIENT_SECTOR);
}

static enum vhostctl_status
parse(struct bench *bench, char **args, struct errmsg *err)
{
	struct load_options *o = &bench->load.options;
	const struct ctl_option options[] = {
		{"--rw", CTL_TEXT, &o->rw, 0, 0},
		{"--bs", CTL_BYTES, &o->block_size, CLIENT_SECTOR, LOAD_MAX_BLOCK_SIZE},
		{"--qd", CTL_NUMBER, &o->depth, 1, LOAD_MAX_DEPTH},
		{"--queues", CTL_NUMBER, &o->queues, 1, VHOST_MAX_QUEUES},
		{"--threads", CTL_NUMBER, &o->threads, 1, LOAD_MAX_THREADS},
		{"--cpu", CTL_TEXT, &o->cpu_list, 0, 0},
		{"--seconds", CTL_SECONDS, &o->seconds, 0.1, SECONDS_MAX},
		{"--ramp", CTL_SECONDS, &o->ramp, 0, SECONDS_MAX},
		{"--packed", CTL_FLAG, &o->packed, 0, 0},
		{"--event-idx", CTL_FLAG, &o->event_idx, 0, 0},
		{"--poll", CTL_FLAG, &o->poll, 0, 0},
		{"--write", CTL_FLAG, &bench->may_write, 0, 0},
		{"--svg", CTL_TEXT, &bench->svg, 0, 0},
		{NULL, CTL_FLAG, NULL, 0, 0},
	};
	enum vhostctl_status status =
		ctl_parse_options("bench", options, args, &bench->controller, err);

	if (status != STATUS_OK)
		return status;
	if (bench->controller == NULL)
		return err_set(err, STATUS_USAGE, USAGE);
	if (load_set_workload(o) != 0)
		return err_set(err, STATUS_USAGE,
			       "bench: --rw must be read, write, randread, randwrite or randrw");
	if (load_set_cpus(o) != 0)
		return err_set(err, STATUS_USAGE, "bench: --cpu must be a list like 0,1");
	o->socket = bench->controller;
	return check_options(bench, err);
}

static enum vhostctl_status
run_and_report(const struct vhostctl_opts *opts, struct bench *bench, struct errmsg *err)
{
	FILE *svg = bench->svg != NULL ? open_svg(bench->svg) : NULL;
	enum vhostctl_status status, written;

	if (bench->svg != NULL && svg == NULL)
		return err_set(err, STATUS_FAILED, "bench: %s: %s", bench->svg, strerror(errno));
	status = run(bench, err);
	load_close(&bench->load);
	if (bench->result.stats.ios > 0) {
		if (opts->json)
			report_json(bench);
		else
			report_text(bench);
	}
	written = write_svg(bench, svg, status == STATUS_OK ? err : NULL);
	return status == STATUS_OK ? written : status;
}

enum vhostctl_status
ctl_bench(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	static struct bench bench;
	enum vhostctl_status status;
	char *path = NULL;

	bench.load.options = load_default_options;
	status = parse(&bench, args, err);
	if (status == STATUS_OK)
		status = find_socket(opts, bench.controller, &path, err);
	bench.load.options.socket = path;
	if (status == STATUS_OK)
		status = run_and_report(opts, &bench, err);
	free(path);
	return status;
}
