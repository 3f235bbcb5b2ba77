/* SPDX-License-Identifier: BSD-3-Clause */
/* links: metrics bdev thread testlib env */
/*
 * The metrics server with a collector of the test's: what it answers, when nobody collects, when
 * collecting fails, and what clients may do to it. The server's time passes when a test says so.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "app_thread_rig.h"
#include "coroutine.h"
#include "log.h"
#include "metrics.h"
#include "ticks.h"

#define GET       "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
#define BIG_LINES 20000 /* an answer larger than the buffers of a socket */

static char folder[64], path[80], address[96];

/* ---- the collector: counts how often it was called ---- */

static atomic_uint collections;
static atomic_bool hold, fail, big;

static json_t *
collect(void)
{
	unsigned int number = atomic_fetch_add(&collections, 1) + 1;
	json_t *records, *reactors;

	while (atomic_load(&hold))
		coroutine_sleep(1000);
	if (atomic_load(&fail))
		return NULL;
	records =
		json_pack("{s:[{s:i, s:I}]}", "reactors", "core", 0, "sleeps", (json_int_t)number);
	reactors = json_object_get(records, "reactors");
	for (int i = 1; atomic_load(&big) && i < BIG_LINES; i++)
		json_array_append_new(reactors,
				      json_pack("{s:i, s:i}", "core", i, "sleeps", 123456789));
	return records;
}

/* ---- a process that has no descriptor left ---- */

static atomic_bool no_descriptors;
static atomic_uint refusals;

int
accept4(int fd, struct sockaddr *address_of, socklen_t *size, int flags)
{
	if (!atomic_load(&no_descriptors))
		return (int)syscall(SYS_accept4, fd, address_of, size, flags);
	atomic_fetch_add(&refusals, 1);
	errno = EMFILE;
	return -1;
}

/* ---- the server ---- */

static atomic_bool time_flies;

static void
let_time_fly(void *arg)
{
	(void)arg;
	while (atomic_load(&time_flies)) {
		ticks_advance_us(100000);
		coroutine_sleep(1000);
	}
}

struct start {
	const char *address;
	struct errmsg err;
};

static int
start_server(void *arg)
{
	struct start *start = arg;
	struct metrics_server_opts opts = {start->address, app, collect};

	return metrics_server_start(&opts, &start->err);
}

static int
stop_server(void *arg)
{
	(void)arg;
	metrics_server_stop();
	return 0;
}

static int
setup(void **state)
{
	struct start start = {.address = address};

	(void)state;
	atomic_store(&hold, false);
	atomic_store(&fail, false);
	atomic_store(&big, false);
	if (on_app(start_server, &start) != 0)
		fail_msg("%s", start.err.text);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	atomic_store(&hold, false);
	atomic_store(&no_descriptors, false);
	on_app(stop_server, NULL);
	assert_int_equal(access(path, F_OK), -1);
	return 0;
}

static int
group_setup(void **state)
{
	const char *parent = getenv("TMPDIR");

	(void)state;
	log_set_print_level(LOG_LEVEL_DISABLED);
	snprintf(folder, sizeof(folder), "%s/test.XXXXXX", parent != NULL ? parent : "/tmp");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/m", folder);
	snprintf(address, sizeof(address), "unix:%s", path);
	ticks_set(1);
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

static int
client_open(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct timeval deadline = {.tv_sec = DEADLINE_MS / 1000};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(to.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
	return fd;
}

static void
client_say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* All until the server closes, which it must. Closes it as well. */
static const char *
client_hear(int fd)
{
	static char text[BIG_LINES * 100];
	size_t size = 0;
	ssize_t n;

	while ((n = recv(fd, text + size, sizeof(text) - 1 - size, 0)) > 0)
		size += (size_t)n;
	if (n < 0 && errno != ECONNRESET)
		fail_msg("recv: %s", strerror(errno));
	text[size] = '\0';
	close(fd);
	return text;
}

/* Whether the server has read all that was said. */
static bool
is_heard(int fd)
{
	int left = -1;

	assert_int_equal(ioctl(fd, SIOCOUTQ, &left), 0);
	return left == 0;
}

static const char *
ask(const char *request)
{
	int fd = client_open();

	client_say(fd, request);
	return client_hear(fd);
}

static void
expect_status(const char *answer, int status)
{
	char begin[32];

	snprintf(begin, sizeof(begin), "HTTP/1.1 %d ", status);
	if (strncmp(answer, begin, strlen(begin)) != 0)
		fail_msg("not %s: %s", begin, answer);
}

/* The collection that an answer is of. */
static unsigned int
number_of(const char *answer)
{
	const char *line = strstr(answer, "\nvhostd_reactor_sleeps_total{core=\"0\"} ");

	expect_status(answer, 200);
	assert_non_null(line);
	return (unsigned int)strtoul(strchr(line, ' '), NULL, 10);
}

static void
wait_for_collections(unsigned int number)
{
	WAIT_UNTIL(atomic_load(&collections) >= number);
}

/* ---- answers ---- */

static void
test_get(void **state)
{
	const char *answer = ask(GET);

	(void)state;
	assert_int_equal(number_of(answer), atomic_load(&collections));
	assert_non_null(strstr(answer, "\r\nContent-Type: " METRICS_CONTENT_TYPE "\r\n"));
	assert_non_null(strstr(answer, "\r\nConnection: close\r\n"));
}

static void
test_head(void **state)
{
	const char *answer = ask("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");

	(void)state;
	expect_status(answer, 200);
	assert_true(strcmp(answer + strlen(answer) - 4, "\r\n\r\n") == 0);
}

static void
test_others_are_refused(void **state)
{
	(void)state;
	expect_status(ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 404);
	expect_status(ask("GET /metrics/../etc HTTP/1.1\r\nHost: a\r\n\r\n"), 404);
	expect_status(ask("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
		      405);
	expect_status(ask("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
	assert_non_null(strstr(ask("PUT /metrics HTTP/1.0\r\n\r\n"), "\r\nAllow: GET, HEAD\r\n"));
	expect_status(ask("GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"), 200);
}

/* However many ask at once, one collection serves all who wait for it. */
static void
test_collections_are_shared(void **state)
{
	unsigned int before = atomic_load(&collections);
	int fds[20];

	(void)state;
	atomic_store(&hold, true);
	for (int i = 0; i < 20; i++) {
		fds[i] = client_open();
		client_say(fds[i], GET);
	}
	for (int i = 0; i < 20; i++)
		WAIT_UNTIL(is_heard(fds[i]));
	atomic_store(&hold, false);
	for (int i = 0; i < 20; i++)
		assert_int_equal(number_of(client_hear(fds[i])), before + 1);
	/* And it serves those who come soon afterwards. */
	ticks_advance_us((METRICS_FRESH_MS - 1) * 1000);
	assert_int_equal(number_of(ask(GET)), before + 1);
	ticks_advance_us(1000);
	assert_int_equal(number_of(ask(GET)), before + 2);
}

static void
test_failed_collection(void **state)
{
	(void)state;
	atomic_store(&fail, true);
	expect_status(ask(GET), 503);
	atomic_store(&fail, false);
	expect_status(ask(GET), 200);
}

/* Collecting hangs: clients hear so, then and at once afterwards, and all is well when it ends. */
static void
test_hanging_collection(void **state)
{
	unsigned int before = atomic_load(&collections);
	int fd = client_open();

	(void)state;
	atomic_store(&hold, true);
	client_say(fd, GET);
	wait_for_collections(before + 1);
	ticks_advance_us(METRICS_COLLECT_MS * 1000);
	expect_status(client_hear(fd), 503);
	expect_status(ask(GET), 503);
	expect_status(ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 404);
	assert_int_equal(atomic_load(&collections), before + 1);
	atomic_store(&hold, false);
	WAIT_UNTIL(strncmp(ask(GET), "HTTP/1.1 503 ", 13) != 0);
	expect_status(ask(GET), 200);
}

/* The teardown ends while one collects, and the collection's end finds nobody. */
static void
test_stop_while_collecting(void **state)
{
	unsigned int before = atomic_load(&collections);
	int fd = client_open();
	const char *answer;

	(void)state;
	atomic_store(&hold, true);
	client_say(fd, GET);
	wait_for_collections(before + 1);
	atomic_store(&time_flies, true);
	assert_int_equal(coroutine_start(app, "time", let_time_fly, NULL), 0);
	on_app(stop_server, NULL);
	atomic_store(&time_flies, false);
	answer = client_hear(fd);
	if (answer[0] != '\0')
		expect_status(answer, 503);
}

/* ---- hostile clients ---- */

static void
test_garbage(void **state)
{
	static const char *const texts[] = {
		"\r\n\r\n\r\n",
		"GET\r\n\r\n",
		"GET /metrics HTTP/9.9\r\n\r\n",
		"GET /metrics HTTP/1.1\r\n: \r\n\r\n",
		"{\"method\": \"metrics_get\"}\n\n\n",
		"\x16\x03\x01\x02\x01\x01\xfc\x03\x03\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		int fd = client_open();

		client_say(fd, texts[i]);
		shutdown(fd, SHUT_WR);
		WAIT_UNTIL(is_heard(fd));
		ticks_advance_us(METRICS_CONNECTION_MS * 1000);
		client_hear(fd);
		expect_status(ask(GET), 200);
	}
}

/* A head without an end: it has REQUEST_BYTES. */
static void
test_endless_head(void **state)
{
	int fd = client_open();
	char line[1024];
	int sent = 0;

	(void)state;
	memset(line, 'a', sizeof(line));
	memcpy(line, "X: ", 3);
	memcpy(line + sizeof(line) - 2, "\r\n", 2);
	client_say(fd, "GET /metrics HTTP/1.1\r\n");
	while (sent < 1000 && send(fd, line, sizeof(line), MSG_NOSIGNAL) > 0)
		sent++;
	assert_true(sent < 1000);
	client_hear(fd);
	expect_status(ask(GET), 200);
}

/* Those that say nothing more, or do not read, are cut off; others get their answer meanwhile. */
static void
test_late_clients(void **state)
{
	int slow = client_open(), half = client_open(), quiet = client_open(), gone = client_open();
	const char *answer;

	(void)state;
	client_say(half, "GET /metrics HTTP/1.1\r\nHo");
	atomic_store(&big, true);
	client_say(slow, GET);
	client_say(gone, GET);
	close(gone);
	answer = ask(GET);
	number_of(answer);
	assert_true(strlen(answer) > BIG_LINES * 40);
	/* The others came first. */
	ticks_advance_us(METRICS_CONNECTION_MS * 1000);
	assert_true(strlen(client_hear(slow)) < BIG_LINES * 40);
	assert_int_equal(client_hear(quiet)[0], '\0');
	assert_int_equal(client_hear(half)[0], '\0');
}

static void
test_pipelining(void **state)
{
	const char *answer = ask(GET GET GET);

	(void)state;
	number_of(answer);
	assert_null(strstr(answer + 1, "HTTP/1.1"));
}

/* More than there is room for, none of which asks: one that does gets its answer after them. */
static void
test_many_connections(void **state)
{
	int fds[METRICS_CONNECTIONS_MAX + 20];
	const int count = sizeof(fds) / sizeof(fds[0]);
	int fd;

	(void)state;
	for (int i = 0; i < count; i++) {
		fds[i] = client_open();
		client_say(fds[i], "G");
	}
	for (int i = 0; i < METRICS_CONNECTIONS_MAX; i++)
		WAIT_UNTIL(is_heard(fds[i]));
	fd = client_open();
	client_say(fd, GET);
	ticks_advance_us(METRICS_CONNECTION_MS * 1000);
	expect_status(client_hear(fd), 200);
	for (int i = 0; i < count; i++)
		close(fds[i]);
	expect_status(ask(GET), 200);
}

/* Who cannot accept tries it now and then, not as often as it can. */
static void
test_without_descriptors(void **state)
{
	uint64_t begin = now_ms();
	unsigned int count;
	int fd;

	(void)state;
	atomic_store(&refusals, 0);
	atomic_store(&no_descriptors, true);
	fd = client_open();
	client_say(fd, GET);
	WAIT_UNTIL(atomic_load(&refusals) > 0);
	usleep(300000);
	count = atomic_load(&refusals);
	assert_true(count < 50 + (now_ms() - begin) / 100);
	atomic_store(&no_descriptors, false);
	number_of(client_hear(fd));
}

/* ---- addresses ---- */

static void
test_addresses(void **state)
{
	static const char *const wrong[] = {
		"",
		"unix:",
		"/run/m.sock",
		"127.0.0.1",
		"127.0.0.1:",
		"127.0.0.1:0",
		"127.0.0.1:65536",
		"127.0.0.1:99999999999999999999",
		"127.0.0.1:-1",
		"127.0.0.1: 80",
		"127.0.0.1:80x",
		"0.0.0.0:80",
		"localhost:80",
		"10.0.0.1:80",
		"[::1]:80",
		":80",
		"80",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct start start = {.address = wrong[i]};

		assert_int_equal(metrics_address_check(wrong[i]), -EINVAL);
		assert_int_equal(on_app(start_server, &start), -EINVAL);
	}
	assert_int_equal(metrics_address_check("unix:a"), 0);
	assert_int_equal(metrics_address_check("127.0.0.1:1"), 0);
	assert_int_equal(metrics_address_check("127.0.0.1:65535"), 0);
}

/* A port that somebody has is refused; the same one is free again after the server's end. */
static void
test_port(void **state)
{
	struct sockaddr_in name = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(name);
	int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct start start;
	char text[32];

	(void)state;
	assert_int_equal(bind(taken, (struct sockaddr *)&name, sizeof(name)), 0);
	assert_int_equal(listen(taken, 1), 0);
	assert_int_equal(getsockname(taken, (struct sockaddr *)&name, &length), 0);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(name.sin_port));
	start.address = text;
	assert_int_equal(on_app(start_server, &start), -EADDRINUSE);
	assert_non_null(strstr(start.err.text, text));
	close(taken);
	for (int i = 0; i < 2; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_int_equal(on_app(start_server, &start), 0);
		assert_int_equal(on_app(start_server, &start), -EALREADY);
		assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
		client_say(fd, GET);
		number_of(client_hear(fd));
		on_app(stop_server, NULL);
	}
}

static void
test_socket_file(void **state)
{
	struct start start = {.address = address};
	struct stat st;
	FILE *file;

	(void)state;
	assert_int_equal(on_app(start_server, &start), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0660);
	on_app(stop_server, NULL);
	file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	assert_int_equal(on_app(start_server, &start), -EADDRINUSE);
	assert_int_equal(unlink(path), 0);
}

int
main(void)
{
#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_SERVER(test_get),
		WITH_SERVER(test_head),
		WITH_SERVER(test_others_are_refused),
		WITH_SERVER(test_collections_are_shared),
		WITH_SERVER(test_failed_collection),
		WITH_SERVER(test_hanging_collection),
		WITH_SERVER(test_stop_while_collecting),
		WITH_SERVER(test_garbage),
		WITH_SERVER(test_endless_head),
		WITH_SERVER(test_late_clients),
		WITH_SERVER(test_pipelining),
		WITH_SERVER(test_many_connections),
		WITH_SERVER(test_without_descriptors),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_port),
		cmocka_unit_test(test_socket_file),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
