/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "coroutine.h"
#include "log.h"
#include "params.h"
#include "rpc.h"

#define STATE_POLL_US 10000

const struct rpc_method *const rpc_all_methods[] = {
	rpc_app_methods,
	rpc_thread_methods,
	rpc_log_methods,
	rpc_bdev_methods,
	rpc_nvme_methods,
	rpc_vhost_methods,
	rpc_vhost_scsi_methods,
	rpc_scsi_methods,
	rpc_system_methods,
	rpc_metrics_methods,
	NULL,
};

static int
get_methods(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_get_methods *params = arg;
	const struct rpc_method *method = NULL;
	json_t *names = json_array();
	int rc = 0;

	(void)err;
	while ((method = jsonrpc_method_next(method)) != NULL) {
		const struct rpc_schema *schema = method->schema;

		if (params->current && !(schema->flags & jsonrpc_get_state()))
			continue;
		rc |= json_array_append_new(names, json_string(schema->name));
		if (params->include_aliases && schema->alias != NULL)
			rc |= json_array_append_new(names, json_string(schema->alias));
	}
	*result = names;
	return rc == 0 ? 0 : -ENOMEM;
}

/* VHOSTD_VERSION is "major.minor.patch", perhaps followed by a suffix. */
static int
get_version(const void *params, json_t **result, struct errmsg *err)
{
	int major = 0, minor = 0, patch = 0;
	char suffix[32] = "";

	(void)params;
	(void)err;
	sscanf(VHOSTD_VERSION, "%d.%d.%d%31s", &major, &minor, &patch, suffix);
	*result = json_pack("{s:s, s:{s:i, s:i, s:i, s:s}}", "version", "vhostd v" VHOSTD_VERSION,
			    "fields", "major", major, "minor", minor, "patch", patch, "suffix",
			    suffix);
	return *result != NULL ? 0 : -ENOMEM;
}

/* Clients send a name, or its number as a text. */
static int
signal_by_name(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} signals[] = {
		{"SIGTERM", SIGTERM},
		{"SIGINT", SIGINT},
		{"SIGQUIT", SIGQUIT},
		{"SIGKILL", SIGKILL},
	};

	for (size_t i = 0; i < RPC_COUNT(signals); i++) {
		char number[8];

		snprintf(number, sizeof(number), "%d", signals[i].number);
		if (strcmp(name, signals[i].name) == 0 || strcmp(name, number) == 0)
			return signals[i].number;
	}
	return 0;
}

static int
kill_instance(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_kill_instance *params = arg;
	int number = signal_by_name(params->sig_name);

	(void)result;
	if (number == 0)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "spdk_kill_instance: sig_name '%.64s' is not SIGTERM, SIGINT, "
			       "SIGQUIT or SIGKILL",
			       params->sig_name);
	log_notice("rpc: a client asks to stop (%s)", params->sig_name);
	if (number == SIGKILL)
		return kill(getpid(), SIGKILL);
	app_stop(0);
	return 0;
}

static int
start_init(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)result;
	return app_start_subsystems(err);
}

/*
 * Looks instead of only waiting: a daemon that is told to stop must not wait for
 * framework_start_init to come.
 */
static int
wait_init(const void *params, json_t **result, struct errmsg *err)
{
	int rc = 0;

	(void)params;
	(void)result;
	while (rc == 0 && jsonrpc_get_state() == RPC_STARTUP)
		rc = coroutine_sleep(STATE_POLL_US);
	if (rc == 0 && jsonrpc_get_state() == 0)
		return err_set(err, -ECANCELED, "framework_wait_init: the daemon is stopping");
	return rc == 0 ? app_wait_subsystems() : rc;
}

static int
get_subsystems(const void *params, json_t **result, struct errmsg *err)
{
	const struct app_subsystem *const *subsystem = app_get_opts()->subsystems;
	int rc = 0;

	(void)params;
	(void)err;
	*result = json_array();
	for (; *subsystem != NULL; subsystem++) {
		const char *const *name = (*subsystem)->depends_on;
		json_t *depends_on = json_array();

		for (; name != NULL && *name != NULL; name++)
			rc |= json_array_append_new(depends_on, json_string(*name));
		rc |= json_array_append_new(*result,
					    json_pack("{s:s, s:o}", "subsystem", (*subsystem)->name,
						      "depends_on", depends_on));
	}
	return rc == 0 ? 0 : -ENOMEM;
}

static int
get_config(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	*result = app_subsystem_config_json(params->name);
	if (*result == NULL)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "framework_get_config: no subsystem is called '%.64s'",
			       params->name);
	return 0;
}

const struct rpc_method rpc_app_methods[RPC_APP_METHODS + 1] = {
	{&rpc_app_schemas[RPC_GET_METHODS], get_methods},
	{&rpc_app_schemas[RPC_SPDK_GET_VERSION], get_version},
	{&rpc_app_schemas[RPC_SPDK_KILL_INSTANCE], kill_instance},
	{&rpc_app_schemas[RPC_FRAMEWORK_START_INIT], start_init},
	{&rpc_app_schemas[RPC_FRAMEWORK_WAIT_INIT], wait_init},
	{&rpc_app_schemas[RPC_FRAMEWORK_GET_SUBSYSTEMS], get_subsystems},
	{&rpc_app_schemas[RPC_FRAMEWORK_GET_CONFIG], get_config},
};
