/* SPDX-License-Identifier: BSD-3-Clause */
/* links: jsonrpc thread env */
/* Connections: many, slow, gone; the socket's file; stopping. */
#include "jsonrpc_rig.h"

static void
test_pipelining(void **state)
{
	enum { REQUESTS = 30000 };
	char *text = malloc(REQUESTS * 64), *end = text;
	struct peer peer;

	(void)state;
	for (int i = 0; i < REQUESTS; i++)
		end += sprintf(end, "{\"id\":%d,\"method\":\"echo\",\"params\":{}}", i);
	assert_true(end - text > 1 << 20);
	peer_open(&peer);
	peer_send(&peer, text, end - text);
	shutdown(peer.fd, SHUT_WR);
	while (peer_fill(&peer))
		;
	free(text);
	text = peer.data;
	for (int i = 0; i < REQUESTS; i++) {
		char expected[64];
		int len = sprintf(expected, "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":null}\n", i);

		assert_memory_equal(text, expected, len);
		text += len;
	}
	assert_ptr_equal(text, peer.data + peer.size);
	peer_close(&peer);
}

static void
test_half_close(void **state)
{
	struct peer peer;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"sleep\",\"params\":{\"number\":30}}{\"id\":2,"
			"\"method\":\"echo\"}");
	shutdown(peer.fd, SHUT_WR);
	expect(&peer, RESULT("1", "true"));
	expect(&peer, RESULT("2", "null"));
	assert_null(peer_next(&peer));
	peer_close(&peer);
}

static void
test_connections_do_not_wait(void **state)
{
	struct peer waiting;

	(void)state;
	peer_open(&waiting);
	peer_say(&waiting, "{\"id\":1,\"method\":\"block\"}{\"id\":2,\"method\":\"echo\"}");
	wait_until(&blocked, 1);
	expect_alive();
	atomic_store(&released, true);
	expect(&waiting, RESULT("1", "true"));
	expect(&waiting, RESULT("2", "null"));
	peer_close(&waiting);
}

static void
test_client_gone_during_call(void **state)
{
	struct peer peers[8];

	(void)state;
	for (int i = 0; i < 8; i++) {
		peer_open(&peers[i]);
		peer_say(&peers[i],
			 "{\"id\":1,\"method\":\"block\"}{\"id\":2,\"method\":\"echo\"}");
	}
	wait_until(&blocked, 8);
	for (int i = 0; i < 8; i++)
		peer_close(&peers[i]);
	expect_alive();
	atomic_store(&released, true);
	wait_until(&blocked, 0);
	expect_alive();
}

/* Of the only connection; the server is in this process. */
static int
server_descriptor(void)
{
	for (int fd = 0; fd < 1024; fd++) {
		struct sockaddr_un address = {0}, other;
		socklen_t len = sizeof(address), other_len = sizeof(other);

		if (getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
		    strcmp(address.sun_path, path) == 0 &&
		    getpeername(fd, (struct sockaddr *)&other, &other_len) == 0)
			return fd;
	}
	fail_msg("the server has no connection");
	return -1;
}

/*
 * While another OS thread looks at a descriptor, closing it does not end its socket in the kernel,
 * which then goes on to have events.
 */
static void
test_descriptor_is_held_elsewhere(void **state)
{
	struct peer peer;
	int fd, held;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"echo\"}");
	expect(&peer, RESULT("1", "null"));
	fd = server_descriptor();
	held = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* TSan takes dup() for a race */
	shutdown(peer.fd, SHUT_WR);
	WAIT_UNTIL(fcntl(fd, F_GETFD) == -1);
	peer_close(&peer);
	expect_alive();
	close(held);
}

static void
test_many_clients(void **state)
{
	struct peer peers[JSONRPC_MAX_CLIENTS], extra;

	(void)state;
	for (int i = 0; i < JSONRPC_MAX_CLIENTS; i++) {
		peer_open(&peers[i]);
		peer_say(&peers[i], "{\"id\":1,\"method\":\"echo\"}");
		expect(&peers[i], RESULT("1", "null"));
	}
	peer_open(&extra);
	assert_null(peer_next(&extra));
	peer_close(&extra);
	for (int i = 0; i < JSONRPC_MAX_CLIENTS; i++)
		peer_say(&peers[i], "{\"id\":2,\"method\":\"sleep\",\"params\":{\"number\":2}}");
	for (int i = 0; i < JSONRPC_MAX_CLIENTS; i++)
		expect(&peers[i], RESULT("2", "true"));
	/* The answer tells that the server has read the end of peers[0]. */
	shutdown(peers[0].fd, SHUT_WR);
	assert_null(peer_next(&peers[0]));
	expect_alive();
	for (int i = 0; i < JSONRPC_MAX_CLIENTS; i++)
		peer_close(&peers[i]);
	expect_alive();
}

static void
test_slow_reader(void **state)
{
	struct pollfd hung_up = {0};
	struct peer slow;
	size_t read = 0;

	(void)state;
	peer_open(&slow);
	for (int i = 0; i < 64; i++)
		peer_say(&slow, "{\"id\":1,\"method\":\"big\",\"params\":{\"number\":1048576}}");
	for (int i = 0; i < 10; i++)
		expect_alive();
	/* Is cut off after the backlog and what the socket held, without the rest. */
	hung_up.fd = slow.fd;
	assert_int_equal(poll(&hung_up, 1, DEADLINE_MS), 1);
	while (peer_fill(&slow)) {
		read += slow.size;
		slow.size = 0;
	}
	assert_true(read < 64u << 20);
	peer_close(&slow);
	expect_alive();
}

static void
test_large_answer_is_read_slowly(void **state)
{
	struct peer peer;
	json_t *answer;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"big\",\"params\":{\"number\":20000000}}");
	usleep(20000);
	answer = peer_next(&peer);
	assert_int_equal(json_string_length(json_object_get(answer, "result")), 20000000);
	json_decref(answer);
	peer_close(&peer);
}

static void
test_socket_file(void **state)
{
	struct errmsg err = {0};
	struct stat st;
	char saved[64];

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(on_app(start_server, &err), -EALREADY);
	/* A live one, of another server. */
	on_app(stop_server, NULL);
	assert_int_equal(access(path, F_OK), -1);
	strcpy(saved, path);
	{
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		int other = socket(AF_UNIX, SOCK_STREAM, 0);

		strcpy(address.sun_path, path);
		assert_int_equal(bind(other, (struct sockaddr *)&address, sizeof(address)), 0);
		assert_int_equal(listen(other, 1), 0);
		assert_int_equal(on_app(start_server, &err), -EADDRINUSE);
		assert_non_null(strstr(err.text, path));
		assert_int_equal(access(path, F_OK), 0);
		close(other);
	}
	/* Which is stale now. */
	assert_int_equal(on_app(start_server, &err), 0);
	expect_alive();
	on_app(stop_server, NULL);
	/* Not a socket. */
	assert_int_equal(close(creat(path, 0600)), 0);
	assert_int_equal(on_app(start_server, &err), -EADDRINUSE);
	assert_int_equal(unlink(path), 0);
	/* No such folder. */
	snprintf(path, sizeof(path), "%s/none/rpc.sock", folder);
	assert_int_equal(on_app(start_server, &err), -ENOENT);
	strcpy(path, saved);
	/* Not ours any more: somebody has put another file there. */
	assert_int_equal(on_app(start_server, &err), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(close(creat(path, 0600)), 0);
	on_app(stop_server, NULL);
	assert_int_equal(unlink(path), 0);
}

static int
start_at_long_path(void *arg)
{
	char *longest = calloc(1, 128);
	struct jsonrpc_server_opts opts = {.path = longest, .mode = 0600, .thread = app};
	int rc;

	memset(longest, 'p', 108);
	rc = jsonrpc_server_start(&opts, arg);
	free(longest);
	return rc;
}

static void
test_long_path(void **state)
{
	struct errmsg err = {0};

	(void)state;
	on_app(stop_server, NULL);
	assert_int_equal(on_app(start_at_long_path, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "107 bytes"));
}

static int
release_soon(void *arg)
{
	(void)arg;
	coroutine_sleep(50000);
	atomic_store(&released, true);
	return 0;
}

static void *
release_from_elsewhere(void *arg)
{
	(void)arg;
	on_app(release_soon, NULL);
	return NULL;
}

/*
 * A call that runs when the server stops is answered; a request behind it and new connections are
 * not.
 */
static void
test_stop_waits_for_calls(void **state)
{
	struct peer peer;
	pthread_t helper;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"block\"}{\"id\":2,\"method\":\"echo\"}");
	wait_until(&blocked, 1);
	assert_int_equal(pthread_create(&helper, NULL, release_from_elsewhere, NULL), 0);
	on_app(stop_server, NULL);
	pthread_join(helper, NULL);
	expect(&peer, RESULT("1", "true"));
	assert_null(peer_next(&peer));
	peer_close(&peer);
	assert_int_equal(access(path, F_OK), -1);
}

/* One that does not end is left behind; it finds nothing of the server when it ends. */
static void
test_stop_leaves_a_stuck_call(void **state)
{
	struct peer peer;

	(void)state;
	peer_open(&peer);
	peer_say(&peer, "{\"id\":1,\"method\":\"block\"}");
	wait_until(&blocked, 1);
	on_app(stop_server, NULL);
	assert_null(peer_next(&peer));
	peer_close(&peer);
	atomic_store(&released, true);
	wait_until(&blocked, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(test_pipelining),
		SERVER_TEST(test_half_close),
		SERVER_TEST(test_connections_do_not_wait),
		SERVER_TEST(test_client_gone_during_call),
		SERVER_TEST(test_descriptor_is_held_elsewhere),
		SERVER_TEST(test_many_clients),
		SERVER_TEST(test_slow_reader),
		SERVER_TEST(test_large_answer_is_read_slowly),
		SERVER_TEST(test_socket_file),
		SERVER_TEST(test_long_path),
		SERVER_TEST(test_stop_waits_for_calls),
		SERVER_TEST(test_stop_leaves_a_stuck_call),
	};

	return cmocka_run_group_tests_name("jsonrpc server", tests, group_setup, group_teardown);
}
