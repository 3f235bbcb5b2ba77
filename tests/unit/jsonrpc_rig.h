/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the tests of the JSON-RPC server share: example methods, an app thread that an OS thread of
 * the test polls, the server on a socket in a temporary folder, and a client. Included once by each
 * test program.
 */
#ifndef VHOSTD_TEST_JSONRPC_RIG_H
#define VHOSTD_TEST_JSONRPC_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "app_thread_rig.h"
#include "coroutine.h"
#include "jsonrpc.h"
#include "log.h"

/* ---- methods ---- */

static atomic_int runs;    /* of "count" */
static atomic_int blocked; /* calls of "block" that wait */
static atomic_bool released;
static atomic_int commits;
static atomic_int commit_rc;

struct example_params {
	json_t *value;
	int64_t number;
};

static int
run_echo(const void *arg, json_t **result, struct errmsg *err)
{
	const struct example_params *params = arg;

	(void)err;
	*result = params->value != NULL ? json_deep_copy(params->value) : json_null();
	return 0;
}

static int
run_sleep(const void *arg, json_t **result, struct errmsg *err)
{
	const struct example_params *params = arg;

	(void)result;
	(void)err;
	return coroutine_sleep(params->number * 1000);
}

static int
run_fail(const void *arg, json_t **result, struct errmsg *err)
{
	const struct example_params *params = arg;

	*result = json_string("half done");
	return params->number == -EEXIST ? err_set(err, -EEXIST, "disk %s is there", "d1")
					 : (int)params->number;
}

static int
run_block(const void *arg, json_t **result, struct errmsg *err)
{
	(void)arg;
	(void)result;
	(void)err;
	atomic_fetch_add(&blocked, 1);
	while (!atomic_load(&released))
		coroutine_sleep(1000);
	atomic_fetch_sub(&blocked, 1);
	return 0;
}

static int
run_count(const void *arg, json_t **result, struct errmsg *err)
{
	(void)arg;
	(void)err;
	*result = json_integer(atomic_fetch_add(&runs, 1) + 1);
	return 0;
}

static int
run_big(const void *arg, json_t **result, struct errmsg *err)
{
	const struct example_params *params = arg;
	char *text = malloc(params->number + 1);

	(void)err;
	memset(text, 'b', params->number);
	text[params->number] = '\0';
	*result = json_string(text);
	free(text);
	return 0;
}

static const struct rpc_param value_params[] = {
	{.name = "value", .type = RPC_JSON, .offset = offsetof(struct example_params, value)},
};
static const struct rpc_param number_params[] = {
	{.name = "number",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct example_params, number),
	 .min = INT64_MIN,
	 .max = INT64_MAX},
};

#define BOTH (RPC_STARTUP | RPC_RUNTIME)
static const struct rpc_schema schemas[] = {
	{.name = "echo",
	 .alias = "old_echo",
	 .flags = BOTH,
	 .params = value_params,
	 .param_count = 1,
	 .params_size = sizeof(struct example_params)},
	{.name = "sleep",
	 .flags = BOTH,
	 .params = number_params,
	 .param_count = 1,
	 .params_size = sizeof(struct example_params)},
	{.name = "fail",
	 .flags = BOTH,
	 .params = number_params,
	 .param_count = 1,
	 .params_size = sizeof(struct example_params)},
	{.name = "block", .flags = BOTH},
	{.name = "count", .flags = BOTH},
	{.name = "big",
	 .flags = BOTH,
	 .params = number_params,
	 .param_count = 1,
	 .params_size = sizeof(struct example_params)},
	{.name = "early", .flags = RPC_STARTUP},
	{.name = "late", .flags = RPC_RUNTIME},
	{.name = "change", .flags = BOTH | RPC_CHANGES},
	{.name = "fail_to_change",
	 .flags = BOTH | RPC_CHANGES,
	 .params = number_params,
	 .param_count = 1,
	 .params_size = sizeof(struct example_params)},
};
static const struct rpc_method example_methods[] = {
	{&schemas[0], run_echo},  {&schemas[1], run_sleep}, {&schemas[2], run_fail},
	{&schemas[3], run_block}, {&schemas[4], run_count}, {&schemas[5], run_big},
	{&schemas[6], run_count}, {&schemas[7], run_count}, {&schemas[8], run_count},
	{&schemas[9], run_fail},
};

static int
commit(struct errmsg *err)
{
	int rc = atomic_load(&commit_rc);

	atomic_fetch_add(&commits, 1);
	return rc == 0 ? 0 : err_set(err, rc, "state file /x: disk is full");
}

/* ---- the server ---- */

static char folder[] = "/tmp/test_jsonrpc.XXXXXX";
static char path[64];

static int
start_server(void *arg)
{
	struct jsonrpc_server_opts opts = {
		.path = path, .mode = 0600, .thread = app, .commit = commit};

	jsonrpc_set_state(RPC_RUNTIME);
	return jsonrpc_server_start(&opts, arg);
}

static int
stop_server(void *arg)
{
	(void)arg;
	jsonrpc_server_stop();
	return 0;
}

static int
setup(void **state)
{
	struct errmsg err = {0};

	(void)state;
	atomic_store(&released, false);
	atomic_store(&commit_rc, 0);
	if (on_app(start_server, &err) != 0)
		fail_msg("%s", err.text);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	atomic_store(&released, true);
	on_app(stop_server, NULL);
	assert_int_equal(access(path, F_OK), -1);
	return 0;
}

static int
group_setup(void **state)
{
	(void)state;
	log_set_print_level(LOG_LEVEL_DISABLED);
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/rpc.sock", folder);
	assert_int_equal(jsonrpc_register(example_methods, 10), 0);
	assert_int_equal(jsonrpc_register(example_methods, 1), -EEXIST);
	return app_begin();
}

static int
group_teardown(void **state)
{
	(void)state;
	app_end();
	return rmdir(folder);
}

/* ---- a client ---- */

struct peer {
	int fd;
	char *data;
	size_t size, capacity;
};

static void
peer_open(struct peer *peer)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	*peer = (struct peer){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	strcpy(address.sun_path, path);
	assert_int_equal(connect(peer->fd, (struct sockaddr *)&address, sizeof(address)), 0);
}

static void
peer_close(struct peer *peer)
{
	close(peer->fd);
	free(peer->data);
}

/* A server that closes before it has read all is no failure of the sender's. */
static void
peer_send(struct peer *peer, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = send(peer->fd, data, size, MSG_NOSIGNAL);

		if (n < 0)
			return;
		data += n;
		size -= n;
	}
}

static void
peer_say(struct peer *peer, const char *text)
{
	peer_send(peer, text, strlen(text));
}

/* Reads more; false at the end of the stream. */
static bool
peer_fill(struct peer *peer)
{
	struct pollfd pollfd = {.fd = peer->fd, .events = POLLIN};
	ssize_t n;

	if (peer->capacity - peer->size < 65536) {
		peer->capacity = peer->capacity * 2 + 65536;
		peer->data = realloc(peer->data, peer->capacity);
	}
	if (poll(&pollfd, 1, DEADLINE_MS) != 1)
		fail_msg("no answer within %d ms", DEADLINE_MS);
	n = recv(peer->fd, peer->data + peer->size, 65536, 0);
	if (n > 0)
		peer->size += n;
	return n > 0;
}

/* The next answer (they end with a newline), or NULL at the end of the stream. */
static json_t *
peer_next(struct peer *peer)
{
	json_t *answer;
	char *end;

	while (peer->size == 0 || (end = memchr(peer->data, '\n', peer->size)) == NULL) {
		if (!peer_fill(peer))
			return NULL;
	}
	answer = json_loadb(peer->data, end - peer->data, 0, NULL);
	assert_non_null(answer);
	peer->size -= end + 1 - peer->data;
	memmove(peer->data, end + 1, peer->size);
	return answer;
}

static void
expect(struct peer *peer, const char *text)
{
	json_t *expected = json_loads(text, 0, NULL);
	json_t *answer = peer_next(peer);

	assert_non_null(expected);
	assert_non_null(answer);
	if (!json_equal(answer, expected)) {
		char *got = json_dumps(answer, JSON_COMPACT);

		fail_msg("got %s instead of %s", got, text);
	}
	json_decref(answer);
	json_decref(expected);
}

static void
expect_alive(void)
{
	struct peer peer;

	peer_open(&peer);
	peer_say(&peer, "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"echo\",\"params\":{\"value\":"
			"\"alive\"}}");
	expect(&peer, "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"alive\"}");
	peer_close(&peer);
}

static void
wait_until(atomic_int *value, int wanted)
{
	WAIT_UNTIL(atomic_load(value) == wanted);
}

#define ERROR(id, code, message)                                                                   \
	"{\"jsonrpc\":\"2.0\",\"id\":" id ",\"error\":{\"code\":" code ",\"message\":\"" message   \
	"\"}}"
#define RESULT(id, result) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"result\":" result "}"

#define SERVER_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif
