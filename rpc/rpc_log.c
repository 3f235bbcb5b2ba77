/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "log.h"
#include "params.h"
#include "rpc.h"

static int
parse_level(const struct rpc_log_level *params, enum log_level *level, struct errmsg *err)
{
	if (log_level_parse(params->level, level) != 0)
		return err_set(
			err, JSONRPC_INVALID_PARAMS,
			"log level '%.64s' is not DISABLED, ERROR, WARNING, NOTICE, INFO or DEBUG",
			params->level);
	return 0;
}

static int
set_level(const void *params, json_t **result, struct errmsg *err)
{
	enum log_level level;
	int rc = parse_level(params, &level, err);

	(void)result;
	if (rc == 0)
		log_set_level(level);
	return rc;
}

static int
set_print_level(const void *params, json_t **result, struct errmsg *err)
{
	enum log_level level;
	int rc = parse_level(params, &level, err);

	(void)result;
	if (rc == 0)
		log_set_print_level(level);
	return rc;
}

static int
get_level(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)err;
	*result = json_string(log_level_name(log_get_level()));
	return *result != NULL ? 0 : -ENOMEM;
}

static int
get_print_level(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)err;
	*result = json_string(log_level_name(log_get_print_level()));
	return *result != NULL ? 0 : -ENOMEM;
}

static int
switch_flag(const struct rpc_log_flag *params, bool enabled, struct errmsg *err)
{
	if (log_flag_set(params->flag, enabled) != 0)
		return err_set(err, JSONRPC_INVALID_PARAMS, "no log flag is called '%.64s'",
			       params->flag);
	return 0;
}

static int
set_flag(const void *params, json_t **result, struct errmsg *err)
{
	(void)result;
	return switch_flag(params, true, err);
}

static int
clear_flag(const void *params, json_t **result, struct errmsg *err)
{
	(void)result;
	return switch_flag(params, false, err);
}

static int
get_flags(const void *params, json_t **result, struct errmsg *err)
{
	const struct log_flag *flag = NULL;
	int rc = 0;

	(void)params;
	(void)err;
	*result = json_object();
	while ((flag = log_flag_next(flag)) != NULL) {
		bool enabled = __atomic_load_n(&flag->enabled, __ATOMIC_RELAXED);

		rc |= json_object_set_new(*result, flag->name, json_boolean(enabled));
	}
	return rc == 0 ? 0 : -ENOMEM;
}

const struct rpc_method rpc_log_methods[RPC_LOG_METHODS + 1] = {
	{&rpc_log_schemas[RPC_LOG_SET_LEVEL], set_level},
	{&rpc_log_schemas[RPC_LOG_GET_LEVEL], get_level},
	{&rpc_log_schemas[RPC_LOG_SET_PRINT_LEVEL], set_print_level},
	{&rpc_log_schemas[RPC_LOG_GET_PRINT_LEVEL], get_print_level},
	{&rpc_log_schemas[RPC_LOG_SET_FLAG], set_flag},
	{&rpc_log_schemas[RPC_LOG_CLEAR_FLAG], clear_flag},
	{&rpc_log_schemas[RPC_LOG_GET_FLAGS], get_flags},
};
