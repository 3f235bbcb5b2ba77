/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhostctl.h"

bool
ctl_same_name(const char *a, const char *b)
{
	for (; *a != '\0' && *b != '\0'; a++, b++) {
		if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
			return false;
	}
	return *a == *b;
}

static json_t *
make_int(const char *text)
{
	char *end;
	long long value;

	errno = 0;
	value = strtoll(text, &end, 0);
	return errno == 0 && end != text && *end == '\0' ? json_integer(value) : NULL;
}

static json_t *
make_bool(const char *text)
{
	if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
		return json_boolean(text[0] == 't');
	return NULL;
}

/* "a,b,c". NULL: one of them is not UTF-8. */
static json_t *
make_strings(const char *text)
{
	json_t *strings = json_array();

	for (;;) {
		size_t len = strcspn(text, ",");

		if (json_array_append_new(strings, json_stringn(text, len)) != 0) {
			json_decref(strings);
			return NULL;
		}
		if (text[len] == '\0')
			return strings;
		text += len + 1;
	}
}

/* "a", or "a,b,c" for several */
static json_t *
make_names(const char *text)
{
	return strchr(text, ',') == NULL ? json_string(text) : make_strings(text);
}

static json_t *
make_json(const char *text)
{
	return json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
}

static const struct {
	json_t *(*make)(const char *text);
	const char *what;
} types[] = {
	[RPC_STRING] = {json_string, "text in UTF-8"},
	[RPC_BOOL] = {make_bool, "true or false"},
	[RPC_INT] = {make_int, "an integer"},
	[RPC_CPUMASK] = {json_string, "a CPU mask"},
	[RPC_STRINGS] = {make_strings, "names in UTF-8 with commas between them"},
	[RPC_NAMES] = {make_names, "a name, or names with commas between them"},
	[RPC_JSON] = {make_json, "JSON"},
};

/* name need not end where the parameter's name does: "name=value". */
static const struct rpc_param *
find_param(const struct rpc_schema *schema, const char *name, size_t len)
{
	char *copy = strndup(name, len);
	const struct rpc_param *found = NULL;

	for (size_t i = 0; copy != NULL && found == NULL && i < schema->param_count; i++) {
		if (ctl_same_name(schema->params[i].name, copy))
			found = &schema->params[i];
	}
	free(copy);
	return found;
}

/* Reads one parameter at *args and leaves *args behind it. */
static enum vhostctl_status
parse_param(const struct rpc_schema *schema, char ***args, json_t *params, struct errmsg *err)
{
	const char *name = *(*args)++;
	const struct rpc_param *param;
	const char *text;
	json_t *value;
	size_t len;

	if (strncmp(name, "--", 2) != 0)
		return err_set(err, STATUS_USAGE, "%s: '%s' is no parameter: write --name value",
			       schema->name, name);
	name += 2;
	len = strcspn(name, "=");
	param = find_param(schema, name, len);
	if (param == NULL)
		return err_set(err, STATUS_USAGE,
			       "%s: no parameter is called '--%.*s'; see vhostctl %s --help",
			       schema->name, (int)len, name, schema->name);
	text = name[len] == '=' ? name + len + 1 : **args;
	if (param->type == RPC_BOOL && name[len] != '=' &&
	    (text == NULL || make_bool(text) == NULL))
		return json_object_set_new(params, param->name, json_true()) == 0 ? STATUS_OK
										  : STATUS_FAILED;
	if (text == NULL)
		return err_set(err, STATUS_USAGE, "%s: --%s needs a value", schema->name,
			       param->name);
	if (name[len] != '=')
		(*args)++;
	value = types[param->type].make(text);
	if (value == NULL)
		return err_set(err, STATUS_USAGE, "%s: --%s: '%s' is not %s", schema->name,
			       param->name, text, types[param->type].what);
	if (json_object_get(params, param->name) != NULL) {
		json_decref(value);
		return err_set(err, STATUS_USAGE, "%s: --%s is given twice", schema->name,
			       param->name);
	}
	json_object_set_new(params, param->name, value);
	return STATUS_OK;
}

enum vhostctl_status
ctl_parse_args(const struct rpc_schema *schema, char **args, json_t **params, struct errmsg *err)
{
	void *decoded = malloc(schema->params_size + 1);
	enum vhostctl_status status = STATUS_OK;
	json_t *object = json_object();

	*params = NULL;
	while (*args != NULL && status == STATUS_OK)
		status = parse_param(schema, &args, object, err);
	if (status == STATUS_OK && decoded != NULL &&
	    rpc_params_decode(schema, object, decoded, err) != 0)
		status = STATUS_USAGE;
	free(decoded);
	if (status == STATUS_OK && json_object_size(object) > 0)
		*params = json_incref(object);
	json_decref(object);
	return status;
}
