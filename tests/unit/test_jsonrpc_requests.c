/* SPDX-License-Identifier: BSD-3-Clause */
/* links: jsonrpc thread env */
/* What a connection may send and what comes back. */
#include "jsonrpc_rig.h"

#define BATCH_MAX 1024 /* requests */

static int
set_state(void *arg)
{
	jsonrpc_set_state((unsigned int)(uintptr_t)arg);
	return 0;
}

/* An error answer with this code and id null. */
static void
expect_error(struct peer *peer, int code)
{
	json_t *answer = peer_next(peer);

	assert_non_null(answer);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(answer, "error"), "code")),
		code);
	assert_true(json_is_null(json_object_get(answer, "id")));
	assert_null(json_object_get(answer, "result"));
	json_decref(answer);
}

static void
test_requests(void **state)
{
	static const struct {
		const char *request, *answer;
	} cases[] = {
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"value\":[1,{"
		 "\"a\":null}]}}",
		 RESULT("1", "[1,{\"a\":null}]")},
		{"{\"id\":2,\"method\":\"echo\"}", RESULT("2", "null")},
		{"{\"id\":2,\"method\":\"old_echo\",\"params\":{}}", RESULT("2", "null")},
		{"{\"id\":3,\"method\":\"sleep\",\"params\":{\"number\":1}}", RESULT("3", "true")},
		{"{\"id\":\"\",\"method\":\"echo\"}", RESULT("\"\"", "null")},
		{"{\"id\":\"a\\u00e9\\\"\",\"method\":\"echo\"}",
		 RESULT("\"a\\u00e9\\\"\"", "null")},
		{"{\"id\":null,\"method\":\"echo\"}", RESULT("null", "null")},
		{"{\"id\":9223372036854775807,\"method\":\"echo\"}",
		 RESULT("9223372036854775807", "null")},
		{"{\"id\":-9223372036854775808,\"method\":\"echo\"}",
		 RESULT("-9223372036854775808", "null")},
		{"{\"id\":0.1,\"method\":\"echo\"}", RESULT("0.1", "null")},
		{"{\"id\":1e300,\"method\":\"echo\"}", RESULT("1e300", "null")},
		{"{\"id\":4,\"method\":\"none\"}", ERROR("4", "-32601", "Method not found")},
		{"{\"id\":4,\"method\":\"\"}", ERROR("4", "-32601", "Method not found")},
		{"{\"id\":5,\"method\":\"echo\",\"params\":{\"x\":1}}",
		 ERROR("5", "-32602", "echo: unknown parameter 'x'")},
		{"{\"id\":5,\"method\":\"echo\",\"params\":[1]}",
		 ERROR("5", "-32602", "echo: params must be an object")},
		{"{\"id\":5,\"method\":\"echo\",\"params\":\"x\"}",
		 ERROR("5", "-32602", "echo: params must be an object")},
		{"{\"id\":5,\"method\":\"sleep\"}",
		 ERROR("5", "-32602", "sleep: parameter 'number' is required")},
		{"{\"id\":6,\"method\":\"fail\",\"params\":{\"number\":-17}}",
		 ERROR("6", "-17", "disk d1 is there: File exists")},
		{"{\"id\":6,\"method\":\"fail\",\"params\":{\"number\":-19}}",
		 ERROR("6", "-19", "No such device")},
		{"{\"id\":6,\"method\":\"fail\",\"params\":{\"number\":5}}",
		 ERROR("6", "-32603", "Internal error")},
		{"{\"id\":6,\"method\":\"early\"}",
		 ERROR("6", "-1", "early: Method may only be called before framework_start_init")},
		{"{}",
		 ERROR("null", "-32600", "Invalid request: no object with the name of a method")},
		{"{\"id\":8,\"method\":1}",
		 ERROR("8", "-32600", "Invalid request: no object with the name of a method")},
		{"{\"method\":[]}",
		 ERROR("null", "-32600", "Invalid request: no object with the name of a method")},
		{"{\"id\":8,\"jsonrpc\":\"1.0\",\"method\":\"echo\"}",
		 ERROR("8", "-32600", "Invalid request: jsonrpc must be \\\"2.0\\\"")},
		{"{\"id\":8,\"jsonrpc\":2.0,\"method\":\"echo\"}",
		 ERROR("8", "-32600", "Invalid request: jsonrpc must be \\\"2.0\\\"")},
		{"{\"id\":true,\"method\":\"count\"}",
		 ERROR("null", "-32600", "Invalid request: id must be a string, a number or null")},
		{"{\"id\":[1],\"method\":\"count\"}",
		 ERROR("null", "-32600", "Invalid request: id must be a string, a number or null")},
	};
	struct peer peer;
	int before = atomic_load(&runs);

	(void)state;
	peer_open(&peer);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		peer_say(&peer, cases[i].request);
		expect(&peer, cases[i].answer);
	}
	peer_close(&peer);
	assert_int_equal(atomic_load(&runs), before);
}

#define BATCH                                                                                      \
	"[{\"id\":1,\"method\":\"echo\",\"params\":{\"value\":\"}]\\\"\"}},{\"method\":\"count\"}" \
	", 7,"                                                                                     \
	" {\"id\":2,\"method\":\"none\"}]"
#define BATCH_ANSWER                                                                               \
	"[" RESULT("1", "\"}]\\\"\"") "," ERROR("null", "-32600",                                  \
						"Invalid request: no object with the name of a "   \
						"method") "," ERROR("2", "-32601",                 \
								    "Method not found") "]"

static void
test_batches(void **state)
{
	int before = atomic_load(&runs);
	struct peer peer;
	char *text;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, BATCH);
	expect(&peer, BATCH_ANSWER);
	assert_int_equal(atomic_load(&runs), before + 1);
	peer_say(&peer, "[]");
	expect_error(&peer, JSONRPC_INVALID_REQUEST);
	peer_say(&peer, "[[]]");
	expect(&peer, "[" ERROR("null", "-32600",
				"Invalid request: no object with the name of a method") "]");
	/* Notifications only: nothing but the next request is answered. */
	peer_say(&peer,
		 "[{\"method\":\"count\"},{\"method\":\"none\"}] {\"id\":1,\"method\":\"echo\"}");
	expect(&peer, RESULT("1", "null"));
	assert_int_equal(atomic_load(&runs), before + 2);
	/* One more than a batch may have. */
	text = calloc(1, 2 * BATCH_MAX + 8);
	strcpy(text, "[0");
	for (int i = 0; i < BATCH_MAX; i++)
		strcpy(text + 2 + 2 * i, ",0");
	strcpy(text + 2 + 2 * BATCH_MAX, "]");
	peer_say(&peer, text);
	expect_error(&peer, JSONRPC_INVALID_REQUEST);
	free(text);
	peer_close(&peer);
}

static void
test_split_at_every_byte(void **state)
{
	static const char text[] = BATCH "\n{\"id\":3,\"method\":\"echo\"}";
	struct peer peer;

	(void)state;
	peer_open(&peer);
	for (size_t split = 0; split <= strlen(text); split++) {
		peer_send(&peer, text, split);
		if (split % 8 == 0)
			usleep(500); /* the server may read the first piece alone */
		peer_send(&peer, text + split, strlen(text) - split);
		expect(&peer, BATCH_ANSWER);
		expect(&peer, RESULT("3", "null"));
	}
	for (size_t i = 0; i < strlen(text); i++)
		peer_send(&peer, text + i, 1);
	expect(&peer, BATCH_ANSWER);
	expect(&peer, RESULT("3", "null"));
	peer_close(&peer);
}

static void
test_notifications(void **state)
{
	int before = atomic_load(&runs);
	struct peer peer;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"method\":\"count\"}{\"method\":\"none\"}{\"method\":\"count\","
			"\"params\":{\"x\":1}}"
			"{\"id\":1,\"method\":\"echo\"}");
	expect(&peer, RESULT("1", "null"));
	assert_int_equal(atomic_load(&runs), before + 1);
	/* A client that says what it wants and leaves is served all the same. */
	peer_say(&peer, "{\"method\":\"count\"} {\"method\":\"count\"}\n{\"method\":\"count\"}");
	peer_close(&peer);
	wait_until(&runs, before + 4);
}

static void
test_malformed(void **state)
{
	static const struct {
		const char *text;
		size_t size;
	} cases[] = {
#define TEXT(text) {text, sizeof(text) - 1}
		TEXT("hello"),
		TEXT("\"text\""),
		TEXT("1"),
		TEXT("}"),
		TEXT("{\"id\":1,\"method\":\"echo\"]"),
		TEXT("{\"id\":1 \"method\":\"echo\"}"),
		TEXT("{\"id\":1,}"),
		TEXT("{\"id\":01}"),
		TEXT("{\"id\":tru}"),
		TEXT("{\"id\":1,\"id\":2,\"method\":\"echo\"}"),
		TEXT("{\"id\":1,\"method\":\"ec\xff\xfeho\"}"),
		TEXT("{\"id\":1,\"method\":\"\xc3\"}"),
		TEXT("{\"id\":1,\"method\":\"\\ud800\"}"),
		TEXT("{\"id\":1,\"method\":\"\\u0000\"}"),
		TEXT("{\"id\":1,\"method\":\"a\0b\"}"),
		TEXT("\0"),
		TEXT("{\"id\":18446744073709551616,\"method\":\"echo\"}"),
		TEXT("{\"id\":1e999,\"method\":\"echo\"}"),
		TEXT("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		TEXT("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
	};
	struct peer peer;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		peer_open(&peer);
		peer_say(&peer, "{\"id\":1,\"method\":\"echo\"}");
		peer_send(&peer, cases[i].text, cases[i].size);
		peer_say(&peer, "{\"id\":2,\"method\":\"echo\"}");
		expect(&peer, RESULT("1", "null"));
		expect_error(&peer, JSONRPC_PARSE_ERROR);
		assert_null(peer_next(&peer));
		peer_close(&peer);
	}
	expect_alive();
}

/* What is JSON, and still cannot be taken, is named. */
static void
test_parse_errors_say_why(void **state)
{
	static const struct {
		const char *text, *named;
	} cases[] = {
		{"{\"id\":1,\"id\":2,\"method\":\"echo\"}", "duplicate"},
		{"{\"id\":18446744073709551616,\"method\":\"echo\"}", "18446744073709551616"},
		{"{\"id\":1,\"method\":\"\xff\"}", "0xff"},
		{"{\"id\":1 \"method\":\"echo\"}", "expected"},
		{"hello", "this is not JSON"},
	};
	struct peer peer;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *message;
		json_t *answer;

		peer_open(&peer);
		peer_say(&peer, cases[i].text);
		answer = peer_next(&peer);
		message = json_string_value(
			json_object_get(json_object_get(answer, "error"), "message"));
		assert_non_null(message);
		assert_ptr_equal(strstr(message, "Parse error: "), message);
		if (strstr(message, cases[i].named) == NULL)
			fail_msg("\"%s\" does not say \"%s\"", message, cases[i].named);
		json_decref(answer);
		peer_close(&peer);
	}
}

static void
test_truncated(void **state)
{
	static const char text[] = "{\"id\":1,\"method\":\"count\"}";
	int before = atomic_load(&runs);
	struct peer peer;

	(void)state;
	for (size_t len = 0; len < strlen(text); len++) {
		peer_open(&peer);
		peer_send(&peer, text, len);
		shutdown(peer.fd, SHUT_WR);
		assert_null(peer_next(&peer));
		peer_close(&peer);
	}
	assert_int_equal(atomic_load(&runs), before);
	expect_alive();
}

static void
test_oversized(void **state)
{
	size_t size = JSONRPC_MAX_REQUEST + (1u << 20);
	char *text = malloc(size);
	struct peer peer;

	(void)state;
	memset(text, 'x', size);
	memcpy(text, "{\"method\":\"", 11);
	peer_open(&peer);
	peer_send(&peer, text, size);
	expect_error(&peer, JSONRPC_PARSE_ERROR);
	assert_null(peer_next(&peer));
	peer_close(&peer);
	/* As large as it may be. */
	memcpy(text, "{\"id\":1,\"method\":\"", 18);
	memcpy(text + JSONRPC_MAX_REQUEST - 2, "\"}", 2);
	peer_open(&peer);
	peer_send(&peer, text, JSONRPC_MAX_REQUEST);
	expect(&peer, ERROR("1", "-32601", "Method not found"));
	/* White space is no request. */
	memset(text, '\n', size);
	peer_send(&peer, text, size);
	peer_say(&peer, "{\"id\":2,\"method\":\"echo\"}");
	expect(&peer, RESULT("2", "null"));
	peer_close(&peer);
	free(text);
}

static void
test_commit(void **state)
{
	int before = atomic_load(&commits);
	struct peer peer;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"echo\"}{\"id\":2,\"method\":\"none\"}");
	expect(&peer, RESULT("1", "null"));
	expect(&peer, ERROR("2", "-32601", "Method not found"));
	assert_int_equal(atomic_load(&commits), before);
	atomic_store(&runs, 0);
	peer_say(&peer, "{\"id\":1,\"method\":\"change\"}");
	expect(&peer, RESULT("1", "1"));
	assert_int_equal(atomic_load(&commits), before + 1);
	peer_say(&peer, "{\"id\":1,\"method\":\"change\",\"params\":{\"x\":1}}");
	expect(&peer, ERROR("1", "-32602", "change: unknown parameter 'x'"));
	assert_int_equal(atomic_load(&commits), before + 1);
	atomic_store(&commit_rc, -ENOSPC);
	peer_say(&peer, "{\"id\":1,\"method\":\"change\"}");
	expect(&peer, ERROR("1", "-28", "state file /x: disk is full: No space left on device"));
	peer_close(&peer);
}

/*
 * One commit for all of a batch, before it is answered; who changed nothing does not fail with it.
 */
static void
test_batch_commit(void **state)
{
	static const char batch[] =
		"[{\"id\":1,\"method\":\"change\"},{\"id\":2,\"method\":\"echo\"},"
		"{\"id\":3,\"method\":\"change\"}]";
	int before = atomic_load(&commits);
	struct peer peer;

	(void)state;
	peer_open(&peer);
	atomic_store(&runs, 0);
	peer_say(&peer, batch);
	expect(&peer, "[" RESULT("1", "1") "," RESULT("2", "null") "," RESULT("3", "2") "]");
	assert_int_equal(atomic_load(&commits), before + 1);
	atomic_store(&commit_rc, -ENOSPC);
	peer_say(&peer, batch);
	expect(&peer,
	       "[" ERROR("1", "-28", "state file /x: disk is full: No space left on device") "," RESULT(
		       "2", "null") "," ERROR("3", "-28",
					      "state file /x: disk is full: No space left on "
					      "device") "]");
	assert_int_equal(atomic_load(&commits), before + 2);
	peer_close(&peer);
}

/* "File exists" and "No such device" are as good as success to a client, and must last as well. */
static void
test_commit_after_errors(void **state)
{
	static const struct {
		int rc, commits;
	} cases[] = {{-EEXIST, 1}, {-ENODEV, 1}, {-EBUSY, 0}, {JSONRPC_INVALID_PARAMS, 0}};
	struct peer peer;

	(void)state;
	peer_open(&peer);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int before = atomic_load(&commits);
		json_t *answer;
		char text[96];

		snprintf(text, sizeof(text),
			 "{\"id\":1,\"method\":\"fail_to_change\",\"params\":{\"number\":%d}}",
			 cases[i].rc);
		peer_say(&peer, text);
		answer = peer_next(&peer);
		assert_int_equal(json_integer_value(
					 json_object_get(json_object_get(answer, "error"), "code")),
				 cases[i].rc);
		json_decref(answer);
		assert_int_equal(atomic_load(&commits), before + cases[i].commits);
	}
	atomic_store(&commit_rc, -ENOSPC);
	peer_say(&peer, "{\"id\":1,\"method\":\"fail_to_change\",\"params\":{\"number\":-17}}");
	expect(&peer, ERROR("1", "-28", "state file /x: disk is full: No space left on device"));
	peer_close(&peer);
}

static int
call_change(void *arg)
{
	json_t *request = json_pack("{s:s}", "method", "change");
	json_t *result;
	int rc = jsonrpc_call(request, false, &result, arg);

	json_decref(request);
	json_decref(result);
	return rc;
}

static void
test_call_without_commit(void **state)
{
	int before = atomic_load(&commits);
	struct errmsg err = {.text = "old"};

	(void)state;
	assert_int_equal(on_app(call_change, &err), 0);
	assert_string_equal(err.text, "");
	assert_int_equal(atomic_load(&commits), before);
}

static void
test_states(void **state)
{
	struct peer peer;

	(void)state;
	on_app(set_state, (void *)(uintptr_t)RPC_STARTUP);
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"late\"}");
	expect(&peer,
	       ERROR("1", "-1", "late: Method may only be called after framework_start_init"));
	peer_say(&peer, "{\"id\":1,\"method\":\"change\"}");
	json_decref(peer_next(&peer));
	on_app(set_state, NULL);
	peer_say(&peer, "{\"id\":1,\"method\":\"echo\"}");
	expect(&peer, ERROR("1", "-1", "echo: the daemon is stopping"));
	peer_close(&peer);
}

static int
list_methods(void *arg)
{
	const struct rpc_method *method = NULL;
	char *names = arg;

	while ((method = jsonrpc_method_next(method)) != NULL)
		strcat(strcat(names, method->schema->name), " ");
	return 0;
}

static void
test_method_list(void **state)
{
	char names[256] = "";

	(void)state;
	on_app(list_methods, names);
	assert_string_equal(names,
			    "big block change count early echo fail fail_to_change late sleep ");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(test_requests),
		SERVER_TEST(test_batches),
		SERVER_TEST(test_split_at_every_byte),
		SERVER_TEST(test_notifications),
		SERVER_TEST(test_malformed),
		SERVER_TEST(test_parse_errors_say_why),
		SERVER_TEST(test_truncated),
		SERVER_TEST(test_oversized),
		SERVER_TEST(test_commit),
		SERVER_TEST(test_batch_commit),
		SERVER_TEST(test_commit_after_errors),
		SERVER_TEST(test_call_without_commit),
		SERVER_TEST(test_states),
		SERVER_TEST(test_method_list),
	};

	return cmocka_run_group_tests_name("jsonrpc requests", tests, group_setup, group_teardown);
}
