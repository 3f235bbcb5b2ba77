/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <string.h>

#include "jsonrpc.h"

#define STRING_MAX 4096 /* bytes of a string whose row sets no other limit */

/* How one value gets into the parameter struct: 0, or what it must be ("must be a string"). */
typedef const char *(*decode_fn)(const struct rpc_param *param, json_t *value, void *member);

static const char *
decode_string(const struct rpc_param *param, json_t *value, void *member)
{
	size_t max = param->max != 0 ? (size_t)param->max : STRING_MAX;

	if (!json_is_string(value))
		return "must be a string";
	if (json_string_length(value) > max)
		return "is too long";
	*(const char **)member = json_string_value(value);
	return NULL;
}

static const char *
decode_bool(const struct rpc_param *param, json_t *value, void *member)
{
	(void)param;
	if (!json_is_boolean(value))
		return "must be true or false";
	*(bool *)member = json_is_true(value);
	return NULL;
}

static const char *
decode_int(const struct rpc_param *param, json_t *value, void *member)
{
	int64_t number;

	if (!json_is_integer(value))
		return "must be an integer";
	number = json_integer_value(value);
	if (number < param->min || number > param->max)
		return "is out of range";
	*(int64_t *)member = number;
	return NULL;
}

static const char *
decode_cpumask(const struct rpc_param *param, json_t *value, void *member)
{
	(void)param;
	if (!json_is_string(value) || cpumask_parse(member, json_string_value(value)) != 0)
		return "must be a CPU mask such as \"0x3\" or \"[0,2-3]\"";
	return NULL;
}

static const char *
decode_strings(const struct rpc_param *param, json_t *value, void *member)
{
	struct rpc_strings *strings = member;
	json_t *item;
	size_t i;

	if (!json_is_array(value))
		return "must be an array of strings";
	if (json_array_size(value) > RPC_STRINGS_MAX)
		return "has too many items";
	json_array_foreach (value, i, item) {
		const char *problem = decode_string(param, item, &strings->items[i]);

		if (problem != NULL)
			return json_is_string(item) ? problem : "must be an array of strings";
	}
	strings->count = json_array_size(value);
	return NULL;
}

static const char *
decode_names(const struct rpc_param *param, json_t *value, void *member)
{
	struct rpc_strings *strings = member;

	if (json_is_array(value))
		return decode_strings(param, value, member);
	strings->count = 1;
	return json_is_string(value) ? decode_string(param, value, &strings->items[0])
				     : "must be a string or an array of strings";
}

static const char *
decode_json(const struct rpc_param *param, json_t *value, void *member)
{
	(void)param;
	*(json_t **)member = value;
	return NULL;
}

static const decode_fn decoders[] = {
	[RPC_STRING] = decode_string,   [RPC_BOOL] = decode_bool,       [RPC_INT] = decode_int,
	[RPC_CPUMASK] = decode_cpumask, [RPC_STRINGS] = decode_strings, [RPC_NAMES] = decode_names,
	[RPC_JSON] = decode_json,
};

static void
preset(const struct rpc_param *param, void *member)
{
	if (param->type == RPC_INT)
		*(int64_t *)member = param->preset;
	else if (param->type == RPC_BOOL)
		*(bool *)member = param->preset != 0;
}

static bool
is_known(const struct rpc_schema *schema, const char *name)
{
	for (size_t i = 0; i < schema->param_count; i++) {
		if (strcmp(schema->params[i].name, name) == 0)
			return true;
	}
	return false;
}

static int
check_names(const struct rpc_schema *schema, json_t *params, struct errmsg *err)
{
	const char *name;
	json_t *value;

	json_object_foreach (params, name, value) {
		if (!is_known(schema, name))
			return err_set(err, JSONRPC_INVALID_PARAMS, "%s: unknown parameter '%.64s'",
				       schema->name, name);
	}
	return 0;
}

static int
decode_param(const struct rpc_schema *schema, const struct rpc_param *param, json_t *value,
	     void *member, struct errmsg *err)
{
	const char *problem;

	if (value == NULL) {
		if (param->required)
			return err_set(err, JSONRPC_INVALID_PARAMS,
				       "%s: parameter '%s' is required", schema->name, param->name);
		preset(param, member);
		return 0;
	}
	problem = decoders[param->type](param, value, member);
	if (problem == NULL)
		return 0;
	if (param->type == RPC_INT && json_is_integer(value))
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "%s: parameter '%s' %s (%" PRId64 " to %" PRId64 ")", schema->name,
			       param->name, problem, param->min, param->max);
	return err_set(err, JSONRPC_INVALID_PARAMS, "%s: parameter '%s' %s", schema->name,
		       param->name, problem);
}

int
rpc_params_decode(const struct rpc_schema *schema, json_t *params, void *out, struct errmsg *err)
{
	int rc;

	if (schema->params_size > 0)
		memset(out, 0, schema->params_size);
	if (params != NULL && !json_is_object(params))
		return err_set(err, JSONRPC_INVALID_PARAMS, "%s: params must be an object",
			       schema->name);
	rc = check_names(schema, params, err);
	for (size_t i = 0; rc == 0 && i < schema->param_count; i++) {
		const struct rpc_param *param = &schema->params[i];

		rc = decode_param(schema, param, json_object_get(params, param->name),
				  (char *)out + param->offset, err);
	}
	return rc;
}
