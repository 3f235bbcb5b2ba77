/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhostctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rpc.h"

#define TIMEOUT_MAX_S (24 * 60 * 60)

const struct rpc_schema *
ctl_find_schema(const char *name)
{
	for (size_t i = 0; rpc_all_schemas[i] != NULL; i++) {
		for (const struct rpc_schema *schema = rpc_all_schemas[i]; schema->name != NULL;
		     schema++) {
			if (ctl_same_name(schema->name, name) ||
			    (schema->alias != NULL && ctl_same_name(schema->alias, name)))
				return schema;
		}
	}
	return NULL;
}

static void
show(const struct vhostctl_opts *opts, const struct rpc_schema *schema, json_t *result)
{
	if (opts->json)
		ctl_print_json(result);
	else
		ctl_print_result(schema, result);
	json_decref(result);
}

/* ---- commands ---- */

/* call METHOD [JSON]: for what the tables do not know. */
static enum vhostctl_status
run_call(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	enum vhostctl_status status;
	json_t *params = NULL;
	json_error_t problem;
	json_t *result;

	if (args[0] == NULL || (args[1] != NULL && args[2] != NULL))
		return err_set(err, STATUS_USAGE, "usage: vhostctl call METHOD [JSON]");
	if (args[1] != NULL) {
		params = json_loads(args[1], JSON_REJECT_DUPLICATES, &problem);
		if (params == NULL)
			return err_set(err, STATUS_USAGE, "call: the parameters are not JSON: %s",
				       problem.text);
	}
	status = ctl_call(opts, args[0], params, &result, err);
	json_decref(params);
	if (status == STATUS_OK)
		show(opts, NULL, result);
	return status;
}

static const struct {
	const char *name;
	enum vhostctl_status (*run)(const struct vhostctl_opts *opts, char **args,
				    struct errmsg *err);
} commands[] = {
	{"save-config", ctl_save_config},
	{"load-config", ctl_load_config},
	{"nvme", ctl_nvme},
	{"libvirt", ctl_libvirt},
	{"provision", ctl_provision},
	{"top", ctl_top},
	{"trace", ctl_trace},
	{"bench", ctl_bench},
	{"doctor", ctl_doctor},
	{"call", run_call},
};

static enum vhostctl_status
run_method(const struct vhostctl_opts *opts, const struct rpc_schema *schema, char **args,
	   struct errmsg *err)
{
	enum vhostctl_status status;
	json_t *params;
	json_t *result;

	status = ctl_parse_args(schema, args, &params, err);
	if (status != STATUS_OK)
		return status;
	status = ctl_call(opts, schema->name, params, &result, err);
	json_decref(params);
	if (status == STATUS_OK)
		show(opts, schema, result);
	return status;
}

/* Takes the first argument equal to flag out of the NULL-terminated list. */
static bool
take_flag(char **args, const char *flag)
{
	for (; *args != NULL; args++) {
		if (strcmp(*args, flag) != 0)
			continue;
		for (; *args != NULL; args++)
			args[0] = args[1];
		return true;
	}
	return false;
}

static enum vhostctl_status
run(struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	const struct rpc_schema *schema;
	bool wants_help;

	if (args[0] == NULL)
		return err_set(err, STATUS_USAGE,
			       "a method or command is missing; see vhostctl --help");
	if (take_flag(args + 1, "--json"))
		opts->json = true;
	wants_help = take_flag(args + 1, "--help") || take_flag(args + 1, "-h");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (!ctl_same_name(args[0], commands[i].name))
			continue;
		if (!wants_help)
			return commands[i].run(opts, args + 1, err);
		ctl_print_help();
		return STATUS_OK;
	}
	schema = ctl_find_schema(args[0]);
	if (schema == NULL)
		return err_set(err, STATUS_USAGE,
			       "no method or command is called '%s'; see vhostctl --help", args[0]);
	if (!wants_help)
		return run_method(opts, schema, args + 1, err);
	ctl_print_method_help(schema);
	return STATUS_OK;
}

/* ---- options ---- */

static void
print_version(void)
{
	puts("vhostctl " VHOSTD_VERSION);
}

/* Options that print something and end. */
static const struct {
	const char *name;
	void (*print)(void);
} prints[] = {
	{"--help", ctl_print_help},
	{"-h", ctl_print_help},
	{"--version", print_version},
	{"--markdown", ctl_print_markdown},
};

static bool
print_and_end(const char *option)
{
	for (size_t i = 0; i < sizeof(prints) / sizeof(prints[0]); i++) {
		if (strcmp(option, prints[i].name) == 0) {
			prints[i].print();
			return true;
		}
	}
	return false;
}

static int
parse_timeout(const char *text, long *seconds)
{
	char *end;

	errno = 0;
	*seconds = strtol(text, &end, 10);
	return errno == 0 && *end == '\0' && end != text && *seconds >= 1 &&
			       *seconds <= TIMEOUT_MAX_S
		       ? 0
		       : -EINVAL;
}

/*
 * The value of "-s VALUE", "--socket VALUE" or "--socket=VALUE"; NULL when **args is another
 * option.
 */
static const char *
option_value(char ***args, const char *brief, const char *full)
{
	const char *arg = **args;
	size_t len = strlen(full);

	if (strncmp(arg, full, len) == 0 && arg[len] == '=')
		return arg + len + 1;
	if (strcmp(arg, full) != 0 && strcmp(arg, brief) != 0)
		return NULL;
	if ((*args)[1] == NULL)
		return NULL;
	(*args)++;
	return **args;
}

/* Leaves *args at the method. Sets *done when an option printed all there is to say. */
static enum vhostctl_status
parse_options(struct vhostctl_opts *opts, char ***args, bool *done, struct errmsg *err)
{
	const char *value;

	for (; **args != NULL && ***args == '-'; (*args)++) {
		*done = print_and_end(**args);
		if (*done)
			return STATUS_OK;
		if (strcmp(**args, "--json") == 0) {
			opts->json = true;
		} else if ((value = option_value(args, "-s", "--socket")) != NULL) {
			opts->socket = value;
		} else if ((value = option_value(args, "-t", "--timeout")) != NULL) {
			if (parse_timeout(value, &opts->timeout_s) != 0)
				return err_set(err, STATUS_USAGE,
					       "--timeout must be 1 to %d seconds", TIMEOUT_MAX_S);
		} else {
			return err_set(err, STATUS_USAGE, "option '%s' is unknown or has no value",
				       **args);
		}
	}
	return STATUS_OK;
}

/*
 * Where vhostd listens by default: a user's own daemon in $XDG_RUNTIME_DIR, root's in /run. NULL:
 * no memory.
 */
static char *
default_socket(void)
{
	const char *given = getenv(SOCKET_ENV);
	const char *folder = getenv("XDG_RUNTIME_DIR");
	char *own;

	if (given != NULL)
		return strdup(given);
	if (folder == NULL || asprintf(&own, "%s/vhostd/rpc.sock", folder) < 0)
		return strdup(DEFAULT_SOCKET);
	if (access(own, F_OK) == 0)
		return own;
	free(own);
	return strdup(DEFAULT_SOCKET);
}

/* name: a method's, or anything else that the command line has in its place. */
static void
print_usage_of(const char *name)
{
	const struct rpc_schema *schema = name != NULL ? ctl_find_schema(name) : NULL;

	if (schema != NULL)
		ctl_print_method_usage(stderr, schema);
	else
		ctl_print_usage(stderr);
}

int
main(int argc, char **argv)
{
	char *socket = default_socket();
	struct vhostctl_opts opts = {.socket = socket, .timeout_s = DEFAULT_TIMEOUT_S};
	enum vhostctl_status status;
	struct errmsg err = {0};
	char **args = argv + 1;
	bool done = false;

	(void)argc;
	if (socket != NULL)
		status = parse_options(&opts, &args, &done, &err);
	else
		status = err_set(&err, STATUS_FAILED, "%s", strerror(ENOMEM));
	if (status == STATUS_OK && !done)
		status = run(&opts, args, &err);
	if (status != STATUS_OK)
		fprintf(stderr, "vhostctl: %s\n", ctl_make_printable(err.text));
	if (status == STATUS_USAGE)
		print_usage_of(args[0]);
	free(socket);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "vhostctl: cannot write the output: %s\n", strerror(errno));
		return STATUS_FAILED;
	}
	return status;
}
