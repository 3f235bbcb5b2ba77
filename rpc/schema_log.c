/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define ROOM   "Log"
#define STATES (RPC_STARTUP | RPC_RUNTIME)

static const struct rpc_param level_params[] = {
	{.name = "level",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_log_level, level),
	 .help = "DISABLED, ERROR, WARNING, NOTICE, INFO or DEBUG"},
};

static const struct rpc_param flag_params[] = {
	{.name = "flag",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_log_flag, flag),
	 .help = "a name of log_get_flags, or \"all\""},
};

#define TAKES_LEVEL                                                                                \
	.params = level_params, .param_count = RPC_COUNT(level_params),                            \
	.params_size = sizeof(struct rpc_log_level)
#define TAKES_FLAG                                                                                 \
	.params = flag_params, .param_count = RPC_COUNT(flag_params),                              \
	.params_size = sizeof(struct rpc_log_flag)

const struct rpc_schema rpc_log_schemas[RPC_LOG_METHODS + 1] = {
	[RPC_LOG_SET_LEVEL] =
		{
			.name = "log_set_level",
			.alias = "set_log_level",
			.room = ROOM,
			.flags = STATES,
			TAKES_LEVEL,
			.help = "Sets from which level on lines go to the journal or syslog. "
				"Answers true.",
		},
	[RPC_LOG_GET_LEVEL] =
		{
			.name = "log_get_level",
			.alias = "get_log_level",
			.room = ROOM,
			.flags = STATES,
			.help = "Answers the level of log_set_level.",
		},
	[RPC_LOG_SET_PRINT_LEVEL] =
		{
			.name = "log_set_print_level",
			.alias = "set_log_print_level",
			.room = ROOM,
			.flags = STATES,
			TAKES_LEVEL,
			.help = "Sets from which level on lines go to stderr. Answers true.",
		},
	[RPC_LOG_GET_PRINT_LEVEL] =
		{
			.name = "log_get_print_level",
			.alias = "get_log_print_level",
			.room = ROOM,
			.flags = STATES,
			.help = "Answers the level of log_set_print_level.",
		},
	[RPC_LOG_SET_FLAG] =
		{
			.name = "log_set_flag",
			.alias = "set_log_flag",
			.room = ROOM,
			.flags = STATES,
			TAKES_FLAG,
			.help = "Switches the debug lines of one part of the daemon on. Answers "
				"true.",
		},
	[RPC_LOG_CLEAR_FLAG] =
		{
			.name = "log_clear_flag",
			.alias = "clear_log_flag",
			.room = ROOM,
			.flags = STATES,
			TAKES_FLAG,
			.help = "Switches them off again. Answers true.",
		},
	[RPC_LOG_GET_FLAGS] =
		{
			.name = "log_get_flags",
			.alias = "get_log_flags",
			.room = ROOM,
			.flags = STATES,
			.help = "Answers an object: each flag and whether it is on.",
		},
};
