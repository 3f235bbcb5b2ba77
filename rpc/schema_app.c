/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define ROOM "General"

static const struct rpc_param get_methods_params[] = {
	{.name = "current",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct rpc_get_methods, current),
	 .help = "only what may be called in the present state"},
	{.name = "include_aliases",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct rpc_get_methods, include_aliases),
	 .help = "old names of methods as well"},
};

static const struct rpc_param kill_instance_params[] = {
	{.name = "sig_name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_kill_instance, sig_name),
	 .help = "SIGTERM, SIGINT or SIGQUIT stop the daemon in order; SIGKILL ends it at once"},
};

static const struct rpc_param get_config_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "a subsystem, as framework_get_subsystems lists it"},
};

const struct rpc_schema rpc_app_schemas[RPC_APP_METHODS + 1] = {
	[RPC_GET_METHODS] =
		{
			.name = "rpc_get_methods",
			.alias = "get_rpc_methods",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.params = get_methods_params,
			.param_count = RPC_COUNT(get_methods_params),
			.params_size = sizeof(struct rpc_get_methods),
			.help = "Lists the methods. Answers an array of names.",
		},
	[RPC_SPDK_GET_VERSION] =
		{
			.name = "spdk_get_version",
			.alias = "get_spdk_version",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers the version of the daemon, as a text and in its fields "
				"(major, minor, patch, suffix).",
		},
	[RPC_SPDK_KILL_INSTANCE] =
		{
			.name = "spdk_kill_instance",
			.alias = "kill_instance",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.params = kill_instance_params,
			.param_count = RPC_COUNT(kill_instance_params),
			.params_size = sizeof(struct rpc_kill_instance),
			.help = "Stops the daemon. Answers true before it does.",
		},
	[RPC_FRAMEWORK_START_INIT] =
		{
			.name = "framework_start_init",
			.alias = "start_subsystem_init",
			.room = ROOM,
			.flags = RPC_STARTUP,
			.help = "Starts the subsystems of a daemon that was started with "
				"--wait-for-rpc, and brings its saved state "
				"back. Answers true when they run.",
		},
	[RPC_FRAMEWORK_WAIT_INIT] =
		{
			.name = "framework_wait_init",
			.alias = "wait_subsystem_init",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers true as soon as the subsystems run.",
		},
	[RPC_FRAMEWORK_GET_SUBSYSTEMS] =
		{
			.name = "framework_get_subsystems",
			.alias = "get_subsystems",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Lists the subsystems in the order in which they start. Answers an "
				"array of {subsystem, depends_on}.",
			.columns = "subsystem,depends_on",
		},
	[RPC_FRAMEWORK_GET_CONFIG] =
		{
			.name = "framework_get_config",
			.alias = "get_subsystem_config",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = get_config_params,
			.param_count = RPC_COUNT(get_config_params),
			.params_size = sizeof(struct rpc_name),
			.help = "Answers the calls that make a subsystem's configuration again: an "
				"array of {method, params}.",
		},
};

const struct rpc_schema *const rpc_all_schemas[] = {
	rpc_app_schemas,
	rpc_thread_schemas,
	rpc_log_schemas,
	rpc_bdev_schemas,
	rpc_nvme_schemas,
	rpc_vhost_schemas,
	rpc_vhost_scsi_schemas,
	rpc_scsi_schemas,
	rpc_system_schemas,
	rpc_metrics_schemas,
	NULL,
};
