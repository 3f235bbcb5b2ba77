/* SPDX-License-Identifier: BSD-3-Clause */
/* links: jsonrpc env */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "jsonrpc.h"

struct example {
	const char *name;
	const char *brief;
	bool flag;
	bool preset_flag;
	int64_t size;
	int64_t preset_size;
	struct cpumask cpumask;
	struct rpc_strings names;
	json_t *any;
};

#define AT(member) offsetof(struct example, member)

static const struct rpc_param params[] = {
	{.name = "name", .type = RPC_STRING, .required = true, .offset = AT(name)},
	{.name = "brief", .type = RPC_STRING, .offset = AT(brief), .max = 4},
	{.name = "flag", .type = RPC_BOOL, .offset = AT(flag)},
	{.name = "preset_flag", .type = RPC_BOOL, .offset = AT(preset_flag), .preset = true},
	{.name = "size", .type = RPC_INT, .offset = AT(size), .min = -5, .max = 65536},
	{.name = "preset_size", .type = RPC_INT, .offset = AT(preset_size), .max = 9, .preset = 7},
	{.name = "cpumask", .type = RPC_CPUMASK, .offset = AT(cpumask)},
	{.name = "names", .type = RPC_STRINGS, .offset = AT(names)},
	{.name = "any", .type = RPC_JSON, .offset = AT(any)},
};

static const struct rpc_schema schema = {
	.name = "example",
	.params = params,
	.param_count = sizeof(params) / sizeof(params[0]),
	.params_size = sizeof(struct example),
};

static int
decode(const char *text, struct example *out, json_t **document, struct errmsg *err)
{
	*document = json_loads(text, JSON_DECODE_ANY, NULL);
	assert_non_null(*document);
	memset(out, 0xa5, sizeof(*out));
	return rpc_params_decode(&schema, *document, out, err);
}

static void
test_absent_and_preset(void **state)
{
	struct example out;
	json_t *document;

	(void)state;
	assert_int_equal(decode("{\"name\":\"x\"}", &out, &document, NULL), 0);
	assert_string_equal(out.name, "x");
	assert_null(out.brief);
	assert_false(out.flag);
	assert_true(out.preset_flag);
	assert_int_equal(out.size, 0);
	assert_int_equal(out.preset_size, 7);
	assert_true(cpumask_is_empty(&out.cpumask));
	assert_int_equal(out.names.count, 0);
	assert_null(out.any);
	json_decref(document);
}

static void
test_every_type(void **state)
{
	struct example out;
	json_t *document;

	(void)state;
	assert_int_equal(decode("{\"name\":\"\",\"brief\":\"1234\",\"flag\":true,\"preset_flag\":"
				"false,\"size\":-5,"
				"\"preset_size\":0,\"cpumask\":\"[0,2-3]\",\"names\":[\"a\",\"b\"],"
				"\"any\":{\"k\":[1]}}",
				&out, &document, NULL),
			 0);
	assert_string_equal(out.name, "");
	assert_string_equal(out.brief, "1234");
	assert_true(out.flag);
	assert_false(out.preset_flag);
	assert_int_equal(out.size, -5);
	assert_int_equal(out.preset_size, 0);
	assert_int_equal(out.cpumask.bits[0], 0xd);
	assert_int_equal(out.names.count, 2);
	assert_string_equal(out.names.items[1], "b");
	assert_ptr_equal(out.any, json_object_get(document, "any"));
	json_decref(document);
}

static void
test_wrong_params(void **state)
{
	static const struct {
		const char *text;
		const char *named; /* in the message */
	} bad[] = {
		{"{}", "'name' is required"},
		{"{\"flag\":true}", "'name' is required"},
		{"{\"name\":1}", "'name' must be a string"},
		{"{\"name\":null}", "'name' must be a string"},
		{"{\"name\":[\"x\"]}", "'name' must be a string"},
		{"{\"name\":\"x\",\"brief\":\"12345\"}", "'brief' is too long"},
		{"{\"name\":\"x\",\"flag\":1}", "'flag' must be true or false"},
		{"{\"name\":\"x\",\"flag\":\"true\"}", "'flag' must be true or false"},
		{"{\"name\":\"x\",\"size\":\"1\"}", "'size' must be an integer"},
		{"{\"name\":\"x\",\"size\":1.0}", "'size' must be an integer"},
		{"{\"name\":\"x\",\"size\":1e3}", "'size' must be an integer"},
		{"{\"name\":\"x\",\"size\":true}", "'size' must be an integer"},
		{"{\"name\":\"x\",\"size\":-6}", "'size' is out of range (-5 to 65536)"},
		{"{\"name\":\"x\",\"size\":65537}", "'size' is out of range"},
		{"{\"name\":\"x\",\"size\":9223372036854775807}", "'size' is out of range"},
		{"{\"name\":\"x\",\"cpumask\":\"zz\"}", "'cpumask' must be a CPU mask"},
		{"{\"name\":\"x\",\"cpumask\":\"\"}", "'cpumask' must be a CPU mask"},
		{"{\"name\":\"x\",\"cpumask\":3}", "'cpumask' must be a CPU mask"},
		{"{\"name\":\"x\",\"names\":\"a\"}", "'names' must be an array of strings"},
		{"{\"name\":\"x\",\"names\":[1]}", "'names' must be an array of strings"},
		{"{\"name\":\"x\",\"other\":1}", "unknown parameter 'other'"},
		{"{\"name\":\"x\",\"\":1}", "unknown parameter ''"},
		{"{\"name\":\"x\",\"Name\":\"x\"}", "unknown parameter 'Name'"},
		{"[\"x\"]", "must be an object"},
		{"\"x\"", "must be an object"},
		{"null", "must be an object"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct errmsg err = {0};
		struct example out;
		json_t *document;

		assert_int_equal(decode(bad[i].text, &out, &document, &err),
				 JSONRPC_INVALID_PARAMS);
		if (strstr(err.text, bad[i].named) == NULL ||
		    strstr(err.text, "example: ") != err.text)
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, err.text,
				 bad[i].named);
		json_decref(document);
	}
}

static void
test_no_params(void **state)
{
	static const struct rpc_schema none = {.name = "none"};
	json_t *empty = json_object();
	json_t *some = json_pack("{s:i}", "a", 1);
	struct errmsg err = {0};
	struct example out;

	(void)state;
	assert_int_equal(rpc_params_decode(&none, NULL, NULL, NULL), 0);
	assert_int_equal(rpc_params_decode(&none, empty, NULL, NULL), 0);
	assert_int_equal(rpc_params_decode(&none, some, NULL, NULL), JSONRPC_INVALID_PARAMS);
	assert_int_equal(rpc_params_decode(&schema, NULL, &out, &err), JSONRPC_INVALID_PARAMS);
	json_decref(empty);
	json_decref(some);
}

/* A name as long as a request may be, of characters that a cut would split. */
static void
test_long_names(void **state)
{
	size_t len = 1u << 20;
	char *name = malloc(len + 1);
	json_t *document = json_object();
	struct errmsg err = {0};
	struct example out;

	(void)state;
	for (size_t i = 0; i < len; i += 2)
		memcpy(name + i, "\xc3\xa9", 2);
	name[len] = '\0';
	json_object_set_new(document, name + 2, json_null());
	assert_int_equal(rpc_params_decode(&schema, document, &out, &err), JSONRPC_INVALID_PARAMS);
	assert_true(strlen(err.text) < 200);
	json_object_clear(document);
	json_object_set_new(document, "name", json_string(name));
	assert_int_equal(rpc_params_decode(&schema, document, &out, &err), JSONRPC_INVALID_PARAMS);
	assert_non_null(strstr(err.text, "is too long"));
	json_decref(document);
	free(name);
}

static void
test_string_lists(void **state)
{
	json_t *names = json_array();
	json_t *document = json_pack("{s:s, s:o}", "name", "x", "names", names);
	struct example out;

	(void)state;
	for (int i = 0; i < RPC_STRINGS_MAX; i++)
		json_array_append_new(names, json_string("n"));
	assert_int_equal(rpc_params_decode(&schema, document, &out, NULL), 0);
	assert_int_equal(out.names.count, RPC_STRINGS_MAX);
	json_array_append_new(names, json_string("n"));
	assert_int_equal(rpc_params_decode(&schema, document, &out, NULL), JSONRPC_INVALID_PARAMS);
	json_decref(document);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_absent_and_preset), cmocka_unit_test(test_every_type),
		cmocka_unit_test(test_wrong_params),      cmocka_unit_test(test_no_params),
		cmocka_unit_test(test_long_names),        cmocka_unit_test(test_string_lists),
	};

	return cmocka_run_group_tests_name("rpc params", tests, NULL, NULL);
}
