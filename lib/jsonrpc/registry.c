/* SPDX-License-Identifier: BSD-3-Clause */
#include "registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "jsonrpc.h"

#define METHODS_MAX 256

/* App thread only. */
static const struct rpc_method *methods[METHODS_MAX]; /* by name */
static size_t method_count;
static unsigned int current_state = RPC_STARTUP;
static int (*commit_changes)(struct errmsg *err);

static bool
is_called(const struct rpc_schema *schema, const char *name)
{
	return strcmp(schema->name, name) == 0 ||
	       (schema->alias != NULL && strcmp(schema->alias, name) == 0);
}

static const struct rpc_method *
find_method(const char *name)
{
	for (size_t i = 0; i < method_count; i++) {
		if (is_called(methods[i]->schema, name))
			return methods[i];
	}
	return NULL;
}

static void
insert_method(const struct rpc_method *method)
{
	size_t i = method_count++;

	for (; i > 0 && strcmp(methods[i - 1]->schema->name, method->schema->name) > 0; i--)
		methods[i] = methods[i - 1];
	methods[i] = method;
}

int
jsonrpc_register(const struct rpc_method *table, size_t count)
{
	if (count > METHODS_MAX - method_count)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		const struct rpc_schema *schema = table[i].schema;

		if (find_method(schema->name) != NULL ||
		    (schema->alias != NULL && find_method(schema->alias) != NULL))
			return -EEXIST;
	}
	for (size_t i = 0; i < count; i++)
		insert_method(&table[i]);
	return 0;
}

const struct rpc_method *
jsonrpc_method_next(const struct rpc_method *method)
{
	size_t i = 0;

	while (method != NULL && i < method_count && methods[i++] != method)
		;
	return i < method_count ? methods[i] : NULL;
}

void
jsonrpc_set_state(unsigned int state)
{
	current_state = state;
}

unsigned int
jsonrpc_get_state(void)
{
	return current_state;
}

void
registry_set_commit(int (*commit)(struct errmsg *err))
{
	commit_changes = commit;
}

static int
check_state(const struct rpc_schema *schema, struct errmsg *err)
{
	if (schema->flags & current_state)
		return 0;
	if (current_state == 0)
		return err_set(err, JSONRPC_INVALID_STATE, "%s: the daemon is stopping",
			       schema->name);
	return err_set(err, JSONRPC_INVALID_STATE,
		       "%s: Method may only be called %s framework_start_init", schema->name,
		       schema->flags & RPC_STARTUP ? "before" : "after");
}

static int
run_method(const struct rpc_method *method, json_t *params, json_t **result, struct errmsg *err)
{
	void *decoded = malloc(method->schema->params_size + 1);
	int rc;

	if (decoded == NULL)
		return -ENOMEM;
	rc = rpc_params_decode(method->schema, params, decoded, err);
	if (rc == 0)
		rc = method->handler(decoded, result, err);
	free(decoded);
	return rc;
}

/*
 * "File exists" and "No such device" tell a client that it has what it wants: somebody made or
 * deleted it, perhaps just now, or in a call whose commit failed. That must last as well as what
 * this call did.
 */
static bool
needs_commit(const struct rpc_schema *schema, int rc)
{
	return (schema->flags & RPC_CHANGES) && (rc == 0 || rc == -EEXIST || rc == -ENODEV);
}

int
registry_commit(struct errmsg *err)
{
	return commit_changes != NULL ? commit_changes(err) : 0;
}

int
registry_call(json_t *request, bool *changed, json_t **result, struct errmsg *err)
{
	const char *name = json_string_value(json_object_get(request, "method"));
	json_t *version = json_object_get(request, "jsonrpc");
	const struct rpc_method *method;
	int rc;

	*changed = false;
	*result = NULL;
	err_set(err, 0, "%s", "");
	if (name == NULL)
		return err_set(err, JSONRPC_INVALID_REQUEST,
			       "Invalid request: no object with the name of a method");
	if (version != NULL &&
	    (!json_is_string(version) || strcmp(json_string_value(version), "2.0") != 0))
		return err_set(err, JSONRPC_INVALID_REQUEST,
			       "Invalid request: jsonrpc must be \"2.0\"");
	method = find_method(name);
	if (method == NULL)
		return err_set(err, JSONRPC_METHOD_NOT_FOUND, "Method not found");
	rc = check_state(method->schema, err);
	if (rc == 0)
		rc = run_method(method, json_object_get(request, "params"), result, err);
	*changed = needs_commit(method->schema, rc);
	if (rc != 0) {
		json_decref(*result);
		*result = NULL;
	} else if (*result == NULL) {
		*result = json_true();
	}
	return rc;
}

int
jsonrpc_call(json_t *request, bool commit, json_t **result, struct errmsg *err)
{
	struct errmsg problem = {0};
	bool changed;
	int rc = registry_call(request, &changed, result, err);
	int commit_rc = commit && changed ? registry_commit(&problem) : 0;

	if (commit_rc == 0)
		return rc;
	json_decref(*result);
	*result = NULL;
	*err = problem;
	return commit_rc;
}
