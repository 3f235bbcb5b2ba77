/* SPDX-License-Identifier: BSD-3-Clause */
/* top: shows what controllers and reactors do, again and again, or once. */
#include "vhostctl_top.h"

#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vhostctl_options.h"

#define INTERVAL_MIN 0.1 /* seconds */
#define INTERVAL_MAX 3600

static void
pause_for(double seconds)
{
	struct timespec time = {.tv_sec = (time_t)seconds};

	time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
	nanosleep(&time, NULL);
}

static void
print_line(void *ctx, enum top_style style, const char *line)
{
	(void)ctx;
	(void)style;
	puts(line);
}

static enum vhostctl_status
show_once(struct top_source *source, struct top_view *view, double interval, struct errmsg *err)
{
	enum vhostctl_status status;
	json_t *sample;

	status = top_take(source, &sample, err);
	json_decref(sample);
	if (status != STATUS_OK)
		return status;
	pause_for(interval);
	status = top_take(source, &sample, err);
	if (status == STATUS_OK && source->opts->json)
		ctl_print_json(sample);
	else if (status == STATUS_OK)
		top_print(view, sample, print_line, NULL);
	json_decref(sample);
	return status;
}

/* A line for each sample, until the output is closed; a daemon that is away may come back. */
static enum vhostctl_status
stream(struct top_source *source, double interval, struct errmsg *err)
{
	while (!ferror(stdout)) {
		json_t *sample;

		if (top_take(source, &sample, err) != STATUS_OK)
			sample = json_pack("{s:s}", "error", err->text);
		json_dumpf(sample, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
		putchar('\n');
		fflush(stdout);
		json_decref(sample);
		pause_for(interval);
	}
	return STATUS_OK;
}

static enum vhostctl_status
set_view(struct top_view *view, const char *sort, const char *filter, struct errmsg *err)
{
	view->sort = top_column_of_name(sort);
	if (view->sort < 0)
		return err_set(err, STATUS_USAGE,
			       "top: --sort must be ctrlr, bdev, queues, iops, read_mb_per_s, "
			       "written_mb_per_s, avg_us, p99_us, inflight or errors");
	if (strlen(filter) >= sizeof(view->filter))
		return err_set(err, STATUS_USAGE, "top: the filter is too long");
	strcpy(view->filter, filter);
	return STATUS_OK;
}

enum vhostctl_status
ctl_top(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	struct top_view view = {
		.width = UINT_MAX,
		.rows = UINT_MAX,
		.reactor_rows = UINT_MAX,
	};
	struct top_source source = {.opts = opts};
	const char *sort = "iops", *filter = "";
	bool once = false, reversed = false;
	double interval = 1;
	const struct ctl_option options[] = {
		{"--once", CTL_FLAG, &once, 0, 0},
		{"--interval", CTL_SECONDS, &interval, INTERVAL_MIN, INTERVAL_MAX},
		{"--sort", CTL_TEXT, &sort, 0, 0},
		{"--reverse", CTL_FLAG, &reversed, 0, 0},
		{"--filter", CTL_TEXT, &filter, 0, 0},
		{NULL, CTL_FLAG, NULL, 0, 0},
	};
	enum vhostctl_status status = ctl_parse_options("top", options, args, NULL, err);

	if (status == STATUS_OK)
		status = set_view(&view, sort, filter, err);
	view.reversed = reversed;
	if (status != STATUS_OK)
		return status;
	if (once)
		status = show_once(&source, &view, interval, err);
	else if (opts->json)
		status = stream(&source, interval, err);
	else if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		status = top_screen(&source, &view, interval, err);
	else
		status = err_set(err, STATUS_USAGE,
				 "top: this is no terminal: add --once or --json");
	top_forget(&source);
	return status;
}
