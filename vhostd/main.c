/* SPDX-License-Identifier: BSD-3-Clause */
/* vhostd: options, and the ordered list of what is started. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include "app.h"
#include "bdev.h"
#include "bdev_modules.h"
#include "log.h"
#include "metrics.h"
#include "scsi.h"
#include "vhost.h"

#include "../rpc/rpc.h"

#define EXIT_USAGE 2

/* ---- subsystems, in the order of their start ---- */

static int
start_bdev(const struct app_opts *opts, struct errmsg *err)
{
	(void)opts;
	(void)err;
	/* What could not be made without it may be possible now. */
	bdev_on_arrival(app_retry_failed);
	return bdev_lib_init();
}

static void
stop_bdev(void)
{
	bdev_nvme_fini();
	bdev_lib_fini();
}

/* Histograms come last. */
static json_t *
bdev_subsystem_config(void)
{
	json_t *array = bdev_nvme_config_json();
	json_t *bdevs = bdev_config_json();

	json_array_extend(array, bdevs);
	json_decref(bdevs);
	return array;
}

/* What initiators rely on is as durable as the state that has it. */
static int
commit_kept(void)
{
	struct errmsg err = {""};

	return app_try_commit(&err);
}

static int
start_scsi(const struct app_opts *opts, struct errmsg *err)
{
	char boot[SD_ID128_STRING_MAX];
	sd_id128_t id;
	int rc = sd_id128_get_boot(&id);

	(void)err;
	if (rc != 0)
		log_warn("scsi: a restart of the machine will not be noticed: no boot ID: %s",
			 strerror(-rc));
	scsi_kept_start(rc == 0 ? sd_id128_to_string(id, boot) : NULL,
			opts->state_file != NULL ? commit_kept : NULL, rpc_vhost_scsi_wants);
	return 0;
}

static void
stop_scsi(void)
{
	scsi_kept_forget(NULL);
}

static int
start_vhost(const struct app_opts *opts, struct errmsg *err)
{
	vhost_lib_set_save(app_save);
	return vhost_lib_init(opts->socket_dir, err);
}

static const struct app_subsystem bdev_subsystem = {
	.name = "bdev",
	.start = start_bdev,
	.stop = stop_bdev,
	.config = bdev_subsystem_config,
};

static const struct app_subsystem scsi_subsystem = {
	.name = "scsi",
	.start = start_scsi,
	.stop = stop_scsi,
	.config = scsi_kept_config_json,
	.depends_on = (const char *const[]){"bdev", NULL},
};

static const struct app_subsystem vhost_subsystem = {
	.name = "vhost",
	.start = start_vhost,
	.stop = vhost_lib_fini,
	.config = vhost_config_json,
	.depends_on = (const char *const[]){"bdev", "scsi", NULL},
};

static int
start_scheduler(const struct app_opts *opts, struct errmsg *err)
{
	(void)opts;
	(void)err;
	return scheduler_start();
}

static const struct app_subsystem scheduler_subsystem = {
	.name = "scheduler",
	.start = start_scheduler,
	.stop = scheduler_stop,
	.config = event_config_json,
};

static int
start_metrics(const struct app_opts *opts, struct errmsg *err)
{
	struct metrics_server_opts server = {
		.address = opts->metrics,
		.thread = app_thread(),
		.collect = metrics_collect,
	};

	return opts->metrics != NULL ? metrics_server_start(&server, err) : 0;
}

static const struct app_subsystem metrics_subsystem = {
	.name = "metrics",
	.start = start_metrics,
	.stop = metrics_server_stop,
	.depends_on = (const char *const[]){"bdev", "vhost", NULL},
};

static const struct app_subsystem *const subsystems[] = {
	&bdev_subsystem,      &scsi_subsystem,    &vhost_subsystem,
	&scheduler_subsystem, &metrics_subsystem, NULL,
};

/* ---- options ---- */

struct settings {
	struct app_opts app;
	bool no_state;
	bool syslog;
	/* where the defaults are kept */
	char socket_dir[PATH_MAX], rpc_socket[PATH_MAX], state_file[PATH_MAX];
};

struct option_row {
	const char *name;
	char letter;          /* 0: none */
	const char *argument; /* NULL: takes none */
	const char *help;
	/* Returns NULL, or what is wrong with the argument. NULL: see main(). */
	const char *(*apply)(struct settings *settings, const char *argument);
};

static const char *
set_cpus(struct settings *settings, const char *argument)
{
	return cpumask_parse(&settings->app.cpus, argument) == 0
		       ? NULL
		       : "is not a list of CPUs such as 0,2-3";
}

/* Plain digits are a mask here. */
static const char *
set_cpu_mask(struct settings *settings, const char *argument)
{
	char mask[CPUMASK_TEXT_MAX];

	if (strncasecmp(argument, "0x", 2) == 0)
		argument += 2;
	if (snprintf(mask, sizeof(mask), "0x%s", argument) < (int)sizeof(mask) &&
	    cpumask_parse(&settings->app.cpus, mask) == 0)
		return NULL;
	return "is not a mask of CPUs such as 0xd";
}

static const char *
set_memory(struct settings *settings, const char *argument)
{
	char *end;
	unsigned long mib = strtoul(argument, &end, 10);

	if (*argument < '0' || *argument > '9' || *end != '\0' || mib < 16 || mib > 1 << 20)
		return "is not a number of MiB from 16 to 1048576";
	settings->app.memory_mb = (unsigned int)mib;
	return NULL;
}

static const char *
set_hugepages(struct settings *settings, const char *argument)
{
	(void)argument;
	settings->app.hugepages = true;
	return NULL;
}

static const char *
set_mode(struct settings *settings, const char *argument)
{
	return reactor_mode_parse(argument, &settings->app.mode) == 0
		       ? NULL
		       : "is not poll, adaptive or interrupt";
}

static const char *
set_path(const char **path, const char *argument)
{
	*path = argument;
	return argument[0] != '\0' ? NULL : "is not a path";
}

static const char *
set_socket_dir(struct settings *settings, const char *argument)
{
	return set_path(&settings->app.socket_dir, argument);
}

static const char *
set_rpc_socket(struct settings *settings, const char *argument)
{
	return set_path(&settings->app.rpc_socket, argument);
}

static const char *
set_config(struct settings *settings, const char *argument)
{
	return set_path(&settings->app.config_file, argument);
}

static const char *
set_state(struct settings *settings, const char *argument)
{
	settings->no_state = false;
	return set_path(&settings->app.state_file, argument);
}

static const char *
set_no_state(struct settings *settings, const char *argument)
{
	(void)argument;
	settings->no_state = true;
	return NULL;
}

static const char *
set_metrics(struct settings *settings, const char *argument)
{
	settings->app.metrics = argument;
	return metrics_address_check(argument) == 0 ? NULL : "is not unix:PATH or 127.0.0.1:PORT";
}

static const char *
set_log_level(struct settings *settings, const char *argument)
{
	enum log_level level;

	(void)settings;
	if (log_level_parse(argument, &level) != 0)
		return "is not ERROR, WARNING, NOTICE, INFO, DEBUG or DISABLED";
	log_set_level(level);
	log_set_print_level(level);
	return NULL;
}

static const char *
set_syslog(struct settings *settings, const char *argument)
{
	(void)argument;
	settings->syslog = true;
	return NULL;
}

static const char *
set_wait_for_rpc(struct settings *settings, const char *argument)
{
	(void)argument;
	settings->app.wait_for_rpc = true;
	return NULL;
}

static const char *
set_user(struct settings *settings, const char *argument)
{
	settings->app.user = argument;
	return NULL;
}

static const char *
set_group(struct settings *settings, const char *argument)
{
	settings->app.group = argument;
	return NULL;
}

static const struct option_row options[] = {
	{"cpus", 'l', "LIST", "CPUs that get a reactor, such as 0,2-3 (default: the first one)",
	 set_cpus},
	{"cpumask", 'm', "MASK", "the same as a hexadecimal mask, such as 0xd", set_cpu_mask},
	{"mode", 0, "MODE",
	 "poll: spin; adaptive: spin while busy (default); interrupt: sleep; what RPC chose wins",
	 set_mode},
	{"socket-dir", 'S', "DIR", "where the controllers' sockets are made", set_socket_dir},
	{"rpc-socket", 'r', "PATH", "the JSON-RPC socket", set_rpc_socket},
	{"config", 'c', "FILE", "configuration to load when there is no state yet", set_config},
	{"state", 0, "FILE", "journal of what RPC made, replayed at start", set_state},
	{"no-state", 0, NULL, "keep no journal", set_no_state},
	{"metrics", 0, "ADDRESS", "serve metrics over HTTP: unix:PATH or 127.0.0.1:PORT",
	 set_metrics},
	{"wait-for-rpc", 0, NULL, "start no subsystem before framework_start_init",
	 set_wait_for_rpc},
	{"user", 0, "NAME", "user to become", set_user},
	{"group", 0, "NAME", "group to become; its members may attach the disks", set_group},
	{"memory", 0, "MIB", "heap of the vhost library (default: 256)", set_memory},
	{"hugepages", 0, NULL, "take it from reserved hugepages", set_hugepages},
	{"log-level", 0, "LEVEL", "ERROR, WARNING, NOTICE (default), INFO, DEBUG or DISABLED",
	 set_log_level},
	{"syslog", 0, NULL, "log to the journal or syslog as well", set_syslog},
	{"version", 'V', NULL, "print the version", NULL},
	{"help", 'h', NULL, "print this", NULL},
};

#define OPTIONS (sizeof(options) / sizeof(options[0]))

static void
print_help(void)
{
	printf("Usage: vhostd [OPTION]...\nServes block devices to virtual machines over "
	       "vhost-user sockets.\n\n");
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option_row *row = &options[i];
		char letter[8] = "", name[40];

		if (row->letter != 0)
			snprintf(letter, sizeof(letter), "-%c,", row->letter);
		snprintf(name, sizeof(name), "--%s%s%s", row->name,
			 row->argument != NULL ? " " : "",
			 row->argument != NULL ? row->argument : "");
		printf("  %-3s %-20s  %s\n", letter, name, row->help);
	}
	printf("\nDefaults: sockets in /run/vhostd, RPC on /run/vhostd/rpc.sock, state in "
	       "/var/lib/vhostd/state.json; for\n"
	       "users other than root $XDG_RUNTIME_DIR/vhostd and $XDG_STATE_HOME/vhostd "
	       "instead.\n");
}

/* Ends the program. */
static void
print_and_exit(const struct option_row *row)
{
	if (row->letter == 'V')
		printf("vhostd " VHOSTD_VERSION "\n");
	else
		print_help();
	exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Fills what getopt_long() wants; a long option's value is its row. */
static void
fill_getopt(struct option longs[OPTIONS + 1], char shorts[OPTIONS * 2 + 1])
{
	memset(longs, 0, (OPTIONS + 1) * sizeof(longs[0]));
	for (size_t i = 0; i < OPTIONS; i++) {
		longs[i].name = options[i].name;
		longs[i].has_arg = options[i].argument != NULL ? required_argument : no_argument;
		longs[i].val = CHAR_MAX + 1 + (int)i;
		if (options[i].letter == 0)
			continue;
		*shorts++ = options[i].letter;
		if (options[i].argument != NULL)
			*shorts++ = ':';
	}
	*shorts = '\0';
}

static const struct option_row *
row_of(int value)
{
	if (value > CHAR_MAX)
		return &options[value - CHAR_MAX - 1];
	for (size_t i = 0; i < OPTIONS; i++) {
		if (options[i].letter == value)
			return &options[i];
	}
	return NULL;
}

/* 0, or EXIT_USAGE after one line on stderr. */
static int
read_options(int argc, char **argv, struct settings *settings)
{
	struct option longs[OPTIONS + 1];
	char shorts[OPTIONS * 2 + 1];
	int value;

	fill_getopt(longs, shorts);
	while ((value = getopt_long(argc, argv, shorts, longs, NULL)) >= 0) {
		const struct option_row *row = row_of(value);
		const char *fault;

		if (row == NULL)
			return EXIT_USAGE; /* getopt_long() has said why */
		if (row->apply == NULL)
			print_and_exit(row);
		fault = row->apply(settings, optarg);
		if (fault != NULL) {
			fprintf(stderr, "vhostd: --%s: '%s' %s\n", row->name, optarg, fault);
			return EXIT_USAGE;
		}
	}
	if (optind == argc)
		return 0;
	fprintf(stderr, "vhostd: unexpected argument '%s'\n", argv[optind]);
	return EXIT_USAGE;
}

/* ---- defaults ---- */

static bool
join(char path[PATH_MAX], const char *folder, const char *rest)
{
	return folder != NULL && folder[0] == '/' &&
	       snprintf(path, PATH_MAX, "%s%s", folder, rest) < PATH_MAX;
}

/* Folders for sockets and for the state. False: this user has none. */
static bool
default_folders(char run[PATH_MAX], char state[PATH_MAX])
{
	if (geteuid() == 0)
		return join(run, "/run", "/vhostd") && join(state, "/var/lib", "/vhostd");
	return join(run, getenv("XDG_RUNTIME_DIR"), "/vhostd") &&
	       (join(state, getenv("XDG_STATE_HOME"), "/vhostd") ||
		join(state, getenv("HOME"), "/.local/state/vhostd"));
}

/* Fills in what the options left out. 0, or EXIT_USAGE after one line on stderr. */
static int
add_defaults(struct settings *settings)
{
	struct app_opts *app = &settings->app;
	char run[PATH_MAX], state[PATH_MAX];
	bool complete = app->socket_dir != NULL && app->rpc_socket != NULL &&
			(settings->no_state || app->state_file != NULL);

	if (!complete) {
		if (!default_folders(run, state) || !join(settings->socket_dir, run, "") ||
		    !join(settings->rpc_socket, run, "/rpc.sock") ||
		    !join(settings->state_file, state, "/state.json")) {
			fprintf(stderr, "vhostd: without XDG_RUNTIME_DIR and HOME, --socket-dir, "
					"--rpc-socket and --state "
					"(or --no-state) are needed\n");
			return EXIT_USAGE;
		}
		if (app->socket_dir == NULL)
			app->socket_dir = settings->socket_dir;
		if (app->rpc_socket == NULL)
			app->rpc_socket = settings->rpc_socket;
		if (app->state_file == NULL)
			app->state_file = settings->state_file;
	}
	if (settings->no_state)
		app->state_file = NULL;
	return 0;
}

int
main(int argc, char **argv)
{
	static struct settings settings = {
		.app = {.name = "vhostd", .subsystems = subsystems, .methods = rpc_all_methods},
	};
	struct errmsg err = {""};
	int rc;

	rc = read_options(argc, argv, &settings);
	if (rc == 0)
		rc = add_defaults(&settings);
	if (rc != 0)
		return rc;
	if (settings.syslog)
		log_open_syslog("vhostd");
	rc = app_start(&settings.app, NULL, NULL, &err);
	if (rc == 0)
		return EXIT_SUCCESS;
	log_err("%s", err.text[0] != '\0' ? err.text : strerror(-rc));
	if (rc == -ETIMEDOUT)
		_exit(EXIT_FAILURE); /* what hangs still runs */
	return EXIT_FAILURE;
}
