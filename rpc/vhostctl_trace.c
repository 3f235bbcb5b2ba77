/* SPDX-License-Identifier: BSD-3-Clause */
/* trace: a controller's last slow requests, and where their time went; once, or as they come. */
#include <string.h>
#include <unistd.h>

#include "vhostctl_options.h"

#define METHOD    "vhost_get_slow_requests"
#define THRESHOLD "vhost_controller_set_slow_threshold"
#define COUNT     20
#define COUNT_MAX 16384 /* more than a daemon keeps */
#define PAUSE_US  500000
#define SLOWEST   3600000000u /* us */

struct trace {
	const struct vhostctl_opts *opts;
	const char *ctrlr;
	unsigned int count;
	unsigned int slower_than; /* us */
	/* object: the last request of each thread that was seen: {number, time} */
	json_t *last;
};

/* ---- what is new ---- */

static long long
integer_of(json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static const char *
text_of(json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : "-";
}

/*
 * Whether it was not there the last time. A daemon or controller that was made anew numbers its
 * requests from 0 again, but they are younger.
 */
static bool
is_new(const struct trace *trace, json_t *request)
{
	json_t *last = json_object_get(trace->last, text_of(request, "thread"));

	return last == NULL || integer_of(request, "number") > integer_of(last, "number") ||
	       strcmp(text_of(request, "time"), text_of(last, "time")) > 0;
}

/* How many of its thread came and went between it and the last one. */
static long long
missed_before(const struct trace *trace, json_t *request)
{
	json_t *last = json_object_get(trace->last, text_of(request, "thread"));
	long long between = integer_of(request, "number") - integer_of(last, "number") - 1;

	return last != NULL && between > 0 ? between : 0;
}

/* The new ones that are slow enough, as a new array, and how many nobody has seen. */
static json_t *
take_new(struct trace *trace, json_t *answer, long long *missed)
{
	json_t *fresh = json_array(), *request;
	size_t i;

	*missed = 0;
	json_array_foreach (json_object_get(answer, "requests"), i, request) {
		if (!is_new(trace, request))
			continue;
		*missed += missed_before(trace, request);
		json_object_set(trace->last, text_of(request, "thread"), request);
		if (integer_of(request, "total_us") >= trace->slower_than)
			json_array_append(fresh, request);
	}
	return fresh;
}

static void
keep_newest(json_t *requests, unsigned int count)
{
	while (json_array_size(requests) > count)
		json_array_remove(requests, 0);
}

/* ---- tables ---- */

static void
print_heading(void)
{
	printf("%-27s  %5s  %-17s  %5s  %11s  %6s  %9s  %9s  %9s  %13s  %s\n", "time", "queue",
	       "type", "lun", "lba", "blocks", "total_us", "queue_us", "device_us", "completion_us",
	       "status");
}

/* "target:lun", of a SCSI controller's. */
static void
format_lun(json_t *request, char *text, size_t size)
{
	json_t *lun = json_object_get(request, "lun");

	if (json_is_integer(lun))
		snprintf(text, size, "%lld:%lld", integer_of(request, "target"),
			 (long long)json_integer_value(lun));
	else
		snprintf(text, size, "-");
}

static void
print_row(json_t *request)
{
	char lun[64];

	format_lun(request, lun, sizeof(lun));
	printf("%-27s  %5lld  %-17s  %5s  %11lld  %6lld  %9lld  %9lld  %9lld  %13lld  %s\n",
	       text_of(request, "time"), integer_of(request, "queue"), text_of(request, "type"),
	       lun, integer_of(request, "lba"), integer_of(request, "blocks"),
	       integer_of(request, "total_us"), integer_of(request, "queue_us"),
	       integer_of(request, "device_us"), integer_of(request, "completion_us"),
	       text_of(request, "status"));
}

static void
print_rows(const struct trace *trace, json_t *requests)
{
	json_t *request;
	size_t i;

	json_array_foreach (requests, i, request) {
		if (!trace->opts->json) {
			print_row(request);
			continue;
		}
		json_dumpf(request, stdout, JSON_COMPACT);
		putchar('\n');
	}
	fflush(stdout);
}

/* ---- once ---- */

/* What people do not see here, and how to see it. Not among the rows: of these programs may count. */
static void
print_hint(const struct trace *trace, json_t *answer, bool empty)
{
	long long kept = integer_of(answer, "threshold_us");
	long long wanted = empty && trace->slower_than == 0 ? kept / 10 : trace->slower_than;

	if (empty)
		fprintf(stderr, "%s: no request took %lld us or longer\n", trace->ctrlr,
			trace->slower_than > kept ? trace->slower_than : kept);
	if (wanted < kept && (empty || trace->slower_than > 0))
		fprintf(stderr,
			"Of those below %lld us no record is kept; to change "
			"that:\n  vhostctl " THRESHOLD " --ctrlr '%s' --threshold_us "
			"%lld\n",
			kept, trace->ctrlr, wanted);
}

static void
show_once(struct trace *trace, json_t *answer)
{
	long long missed;
	json_t *requests = take_new(trace, answer, &missed);
	bool empty = json_array_size(requests) == 0;

	keep_newest(requests, trace->count);
	if (trace->opts->json) {
		json_object_set(answer, "requests", requests);
		ctl_print_json(answer);
	} else {
		if (!empty)
			print_heading();
		print_rows(trace, requests);
		print_hint(trace, answer, empty);
	}
	json_decref(requests);
}

/* ---- as they come ---- */

static enum vhostctl_status
ask(const struct trace *trace, json_t **answer, struct errmsg *err)
{
	json_t *params = json_pack("{s:s, s:i}", "ctrlr", trace->ctrlr, "count", COUNT_MAX);
	enum vhostctl_status status = ctl_call(trace->opts, METHOD, params, answer, err);

	json_decref(params);
	return status;
}

static void
show_new(struct trace *trace, json_t *answer)
{
	long long missed;
	json_t *requests = take_new(trace, answer, &missed);

	keep_newest(requests, trace->count);
	if (missed > 0)
		fprintf(stderr,
			"%lld more came and went between two looks: the daemon "
			"keeps the last ones of each thread\n",
			missed);
	print_rows(trace, requests);
	json_decref(requests);
}

/* Until the output is closed, or a signal comes; a daemon or controller that is away may come back. */
static void
follow(struct trace *trace, json_t *first)
{
	bool away = false;
	json_t *answer;

	if (!trace->opts->json)
		print_heading();
	show_new(trace, first);
	trace->count = COUNT_MAX;
	while (!ferror(stdout)) {
		struct errmsg err = {0};

		usleep(PAUSE_US);
		if (ask(trace, &answer, &err) == STATUS_OK) {
			show_new(trace, answer);
			json_decref(answer);
			away = false;
		} else if (!away) {
			fprintf(stderr, "vhostctl: %s; waiting for it to come back\n",
				ctl_make_printable(err.text));
			away = true;
		}
	}
}

enum vhostctl_status
ctl_trace(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	struct trace trace = {.opts = opts, .count = COUNT};
	bool follows = false;
	const struct ctl_option options[] = {
		{"--slower-than", CTL_NUMBER, &trace.slower_than, 0, SLOWEST},
		{"--count", CTL_NUMBER, &trace.count, 1, COUNT_MAX},
		{"--follow", CTL_FLAG, &follows, 0, 0},
		{NULL, CTL_FLAG, NULL, 0, 0},
	};
	enum vhostctl_status status = ctl_parse_options("trace", options, args, &trace.ctrlr, err);
	json_t *answer;

	if (status == STATUS_OK && trace.ctrlr == NULL)
		status = err_set(err, STATUS_USAGE, "trace: the name of a controller is missing");
	if (status == STATUS_OK)
		status = ask(&trace, &answer, err);
	if (status != STATUS_OK)
		return status;
	trace.last = json_object();
	if (follows)
		follow(&trace, answer);
	else
		show_once(&trace, answer);
	json_decref(answer);
	json_decref(trace.last);
	return STATUS_OK;
}
