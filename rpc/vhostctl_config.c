/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * save-config and load-config: {"subsystems": [{"subsystem": name, "config": [{method, params} …]}
 * …]}.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhostctl.h"

#define START_INIT "framework_start_init"

/* ---- save ---- */

/*
 * All subsystems' parts at once: a controller must not be there without its block device because
 * others go on.
 */
static enum vhostctl_status
fetch_config(const struct vhostctl_opts *opts, json_t *document, struct errmsg *err)
{
	json_t *subsystems, *configs, *entry;
	json_t *names = json_array();
	enum vhostctl_status status =
		ctl_call(opts, "framework_get_subsystems", NULL, &subsystems, err);
	size_t i;

	json_array_foreach (subsystems, i, entry)
		json_array_append_new(
			names, json_pack("{s:O*}", "name", json_object_get(entry, "subsystem")));
	if (status == STATUS_OK && json_array_size(names) > 0) {
		status = ctl_call_each(opts, "framework_get_config", names, &configs, err);
		json_array_foreach (configs, i, entry)
			json_array_append_new(
				json_object_get(document, "subsystems"),
				json_pack("{s:O, s:O}", "subsystem",
					  json_object_get(json_array_get(names, i), "name"),
					  "config", entry));
		json_decref(configs);
	}
	json_decref(names);
	json_decref(subsystems);
	return status;
}

/* The file is there whole or not at all. */
static int
write_file(const char *path, json_t *document)
{
	char *temporary;
	FILE *file;
	int rc, fd;

	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return -ENOMEM;
	fd = mkstemp(temporary);
	file = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (file == NULL) {
		rc = -errno;
		free(temporary);
		return rc;
	}
	rc = json_dumpf(document, file, JSON_INDENT(2)) == 0 && fputc('\n', file) != EOF &&
			     fflush(file) == 0 && fsync(fd) == 0
		     ? 0
		     : -errno;
	if (fclose(file) != 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && rename(temporary, path) < 0)
		rc = -errno;
	if (rc != 0)
		unlink(temporary);
	free(temporary);
	return rc;
}

enum vhostctl_status
ctl_save_config(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	json_t *document = json_pack("{s:[]}", "subsystems");
	const char *path = NULL;
	enum vhostctl_status status;
	int rc;

	if (args[0] != NULL && (strcmp(args[0], "-o") == 0 || strcmp(args[0], "--output") == 0)) {
		path = args[1];
		args += path != NULL ? 2 : 0;
	}
	if (args[0] != NULL || document == NULL) {
		json_decref(document);
		return err_set(err, STATUS_USAGE, "usage: vhostctl save-config [-o FILE]");
	}
	status = fetch_config(opts, document, err);
	if (status == STATUS_OK && path == NULL)
		ctl_print_json(document);
	if (status == STATUS_OK && path != NULL) {
		rc = write_file(path, document);
		if (rc != 0)
			status = err_set(err, STATUS_FAILED, "%s: %s", path, strerror(-rc));
	}
	json_decref(document);
	return status;
}

/* ---- load ---- */

struct load {
	const struct vhostctl_opts *opts;
	const char *file;
	/* methods that were called, or could have been, before the subsystems were started */
	json_t *startup;
	struct errmsg *err;
};

/* What load_config does with one {method, params}; where: "FILE: subsystem bdev, entry 2". */
typedef enum vhostctl_status (*entry_fn)(struct load *load, json_t *entry, const char *where);

static bool
is_startup_method(const struct load *load, json_t *entry)
{
	const char *method = json_string_value(json_object_get(entry, "method"));
	json_t *name;
	size_t i;

	json_array_foreach (load->startup, i, name) {
		if (json_is_string(name) && strcmp(json_string_value(name), method) == 0)
			return true;
	}
	return false;
}

static enum vhostctl_status
check_entry(struct load *load, json_t *entry, const char *where)
{
	json_t *params = json_object_get(entry, "params");

	if (!json_is_string(json_object_get(entry, "method")) ||
	    (params != NULL && !json_is_null(params) && !json_is_object(params)))
		return err_set(load->err, STATUS_FAILED, "%s: is not {\"method\", \"params\"}",
			       where);
	return STATUS_OK;
}

static enum vhostctl_status
call_entry(struct load *load, json_t *entry, const char *where)
{
	json_t *params = json_object_get(entry, "params");
	struct errmsg problem;
	json_t *result;

	if (ctl_call(load->opts, json_string_value(json_object_get(entry, "method")),
		     json_is_object(params) ? params : NULL, &result, &problem) != STATUS_OK)
		return err_set(load->err, STATUS_FAILED, "%s: %s", where, problem.text);
	json_decref(result);
	return STATUS_OK;
}

static enum vhostctl_status
call_startup_entry(struct load *load, json_t *entry, const char *where)
{
	return is_startup_method(load, entry) ? call_entry(load, entry, where) : STATUS_OK;
}

static enum vhostctl_status
call_runtime_entry(struct load *load, json_t *entry, const char *where)
{
	return is_startup_method(load, entry) ? STATUS_OK : call_entry(load, entry, where);
}

static enum vhostctl_status
each_entry_of(struct load *load, json_t *subsystem, entry_fn fn)
{
	const char *name = json_string_value(json_object_get(subsystem, "subsystem"));
	json_t *config = json_object_get(subsystem, "config");
	enum vhostctl_status status = STATUS_OK;
	json_t *entry;
	size_t i;

	if (name == NULL || (!json_is_array(config) && !json_is_null(config)))
		return err_set(load->err, STATUS_FAILED,
			       "%s: a subsystem is not {\"subsystem\", \"config\"}", load->file);
	json_array_foreach (config, i, entry) {
		char where[ERRMSG_MAX];

		snprintf(where, sizeof(where), "%s: subsystem %s, entry %zu", load->file, name,
			 i + 1);
		status = fn(load, entry, where);
		if (status != STATUS_OK)
			break;
	}
	return status;
}

/* In the order of the file, up to the first that fails. */
static enum vhostctl_status
each_entry(struct load *load, json_t *document, entry_fn fn)
{
	json_t *subsystems = json_object_get(document, "subsystems");
	enum vhostctl_status status = STATUS_OK;
	json_t *subsystem;
	size_t i;

	if (!json_is_array(subsystems))
		return err_set(load->err, STATUS_FAILED, "%s: has no array \"subsystems\"",
			       load->file);
	json_array_foreach (subsystems, i, subsystem) {
		status = each_entry_of(load, subsystem, fn);
		if (status != STATUS_OK)
			break;
	}
	return status;
}

/* When the daemon waits for its start: what must come before that, and then the start. */
static enum vhostctl_status
start_up(struct load *load, json_t *document)
{
	json_t *params = json_pack("{s:b, s:b}", "current", true, "include_aliases", true);
	json_t *start = json_pack("{s:s}", "method", START_INIT);
	enum vhostctl_status status =
		ctl_call(load->opts, "rpc_get_methods", params, &load->startup, load->err);

	json_decref(params);
	if (status == STATUS_OK && is_startup_method(load, start)) {
		status = each_entry(load, document, call_startup_entry);
		if (status == STATUS_OK)
			status = call_entry(load, start, load->file);
	} else {
		json_decref(load->startup);
		load->startup = NULL;
	}
	json_decref(start);
	return status;
}

enum vhostctl_status
ctl_load_config(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	struct load load = {.opts = opts, .file = args[0], .err = err};
	enum vhostctl_status status;
	json_error_t problem;
	json_t *document;

	if (args[0] == NULL || args[1] != NULL)
		return err_set(err, STATUS_USAGE, "usage: vhostctl load-config FILE");
	document = strcmp(args[0], "-") == 0
			   ? json_loadf(stdin, JSON_REJECT_DUPLICATES, &problem)
			   : json_load_file(args[0], JSON_REJECT_DUPLICATES, &problem);
	if (document == NULL)
		return err_set(err, STATUS_FAILED, "%s: line %d: %s", args[0], problem.line,
			       problem.text);
	status = each_entry(&load, document, check_entry);
	if (status == STATUS_OK)
		status = start_up(&load, document);
	if (status == STATUS_OK)
		status = each_entry(&load, document, call_runtime_entry);
	json_decref(load.startup);
	json_decref(document);
	return status;
}
