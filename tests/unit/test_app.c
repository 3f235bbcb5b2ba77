/* SPDX-License-Identifier: BSD-3-Clause */
/* links: app jsonrpc event thread env testlib */
/* ldflags: -Wl,--wrap=completion_wait,--wrap=signals_watch_stop */
/* Start and stop of a daemon: order, failures, signals, framework_start_init, change of user. */
#include "app_rig.h"
#include "patience.h"

/* ---- start and stop ---- */

static void
stop_with_7(void *arg)
{
	(void)arg;
	CHECK(app_thread() == thread_current());
	CHECK(app_get_opts()->wait_for_rpc == false);
	CHECK(exists("rpc.sock"));
	app_stop(7);
	app_stop(8);
}

static bool
comes_before(const char *text, const char *first, const char *second)
{
	const char *found = strstr(text, first);

	return found != NULL && strstr(found, second) != NULL;
}

static void
test_start_and_stop(void **state)
{
	struct app_opts opts = default_opts();
	const char *log;

	(void)state;
	assert_int_equal(live(&opts, stop_with_7), 7);
	log = get("log");
	assert_true(comes_before(log, "base starts", "things start"));
	assert_true(comes_before(log, "things start", "ready: "));
	assert_true(comes_before(log, "ready: ", "things stop"));
	assert_true(comes_before(log, "things stop", "base stops"));
	assert_false(exists("rpc.sock"));
	assert_true(exists("sockets"));
	assert_false(exists("state.json")); /* the first change makes it */
}

static void
test_subsystem_fails(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	put("fail-start", "");
	assert_int_equal(live(&opts, stop), EXIT_RC(-ENXIO));
	assert_true(has("err", "things do not work here"));
	assert_false(has("log", "things stop"));
	assert_true(has("log", "base stops"));
	assert_false(has("log", "ready"));
}

static void
test_no_such_cpu(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	cpumask_set(&opts.cpus, 99);
	assert_int_equal(live(&opts, stop), EXIT_RC(-EINVAL));
	assert_true(has("err", "CPU 99"));
}

static void
test_rpc_socket_in_no_folder(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	opts.rpc_socket = "/proc/no/such/folder/rpc.sock";
	assert_int_equal(live(&opts, stop), EXIT_RC(-ENOENT));
	assert_true(has("err", "/proc/no/such/folder"));
}

/* ---- signals ---- */

static void
test_sigterm(void **state)
{
	static const int numbers[] = {SIGTERM, SIGINT};
	struct app_opts opts = default_opts();

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		pid_t pid = begin(&opts, NULL);

		assert_true(wait_for_log("ready: "));
		kill(pid, SIGHUP);
		kill(pid, SIGPIPE);
		kill(pid, SIGUSR1);
		kill(pid, numbers[i]);
		assert_int_equal(end(pid), 0);
		assert_true(has("log", i == 0 ? "stopping on SIGTERM" : "stopping on SIGINT"));
		assert_true(has("log", "base stops"));
	}
}

static void
test_second_sigint_ends_at_once(void **state)
{
	struct app_opts opts = default_opts();
	pid_t pid;

	(void)state;
	put("hang-stop", "");
	pid = begin(&opts, NULL);
	assert_true(wait_for_log("ready: "));
	kill(pid, SIGINT);
	assert_true(wait_for_log("things stop"));
	kill(pid, SIGINT);
	assert_int_equal(end(pid), 128 + SIGINT);
	assert_true(has("log", "another SIGINT while stopping"));
}

/* Nobody tells the thread that would end the process after a while. */
static bool unwatched;

void __real_signals_watch_stop(void);
void __wrap_signals_watch_stop(void);

void
__wrap_signals_watch_stop(void)
{
	if (!unwatched)
		__real_signals_watch_stop();
}

static void
test_hanging_subsystem_is_left_behind(void **state)
{
	struct app_opts opts = default_opts();
	int status;

	(void)state;
	put("hang-stop", "");
	unwatched = true;
	impatient = true;
	status = live(&opts, stop);
	unwatched = false;
	impatient = false;
	assert_int_equal(status, EXIT_RC(-ETIMEDOUT));
	assert_true(has("log", "subsystem things does not stop"));
	assert_false(has("log", "base stops"));
}

static void *
stop_from_afar(void *arg)
{
	(void)arg;
	app_stop(3);
	return NULL;
}

static void
stop_on_os_thread(void *arg)
{
	pthread_t os_thread;

	(void)arg;
	CHECK(pthread_create(&os_thread, NULL, stop_from_afar, NULL) == 0);
	pthread_detach(os_thread);
}

static void
test_stop_from_another_os_thread(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, stop_on_os_thread), 3);
}

/* ---- framework_start_init ---- */

static int
client_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/rpc.sock", folder);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void
client_send(int fd, const char *request)
{
	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
}

/* One answer, which is expected to be small. */
static void
client_expect(int fd, const char *words)
{
	struct timeval deadline = {.tv_sec = DEADLINE_S};
	char text[1024];
	ssize_t length;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
	length = recv(fd, text, sizeof(text) - 1, 0);
	assert_true(length > 0);
	text[length] = '\0';
	if (strstr(text, words) == NULL)
		fail_msg("%s is not in %s", words, text);
}

static void
test_wait_for_rpc(void **state)
{
	struct app_opts opts = default_opts();
	pid_t pid;
	int fd, waiting;

	(void)state;
	put("state.json", config_a_and_b);
	put("fail-start", "");
	opts.wait_for_rpc = true;
	pid = begin(&opts, NULL);
	assert_true(wait_for_log("waiting for framework_start_init"));
	assert_false(has("log", "base starts"));
	fd = client_connect();
	waiting = client_connect();
	client_send(waiting, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"wait_init\"}");
	client_send(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"thing_create\",\"params\":{"
			"\"name\":\"c\"}}");
	client_expect(fd, "may only be called after");
	client_send(fd, "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"start_init\"}");
	client_expect(fd, "things do not work here");
	unlink(in_folder("fail-start"));
	client_send(fd, "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"start_init\"}");
	client_expect(fd, "\"result\":true");
	client_expect(waiting, "\"result\":true");
	client_send(fd, "{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"start_init\"}");
	client_expect(fd, "error");
	client_send(fd, "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"thing_create\",\"params\":{"
			"\"name\":\"b\"}}");
	client_expect(fd, "-17");
	assert_true(has("log", "ready: "));
	kill(pid, SIGTERM);
	assert_int_equal(end(pid), 0);
	close(fd);
	close(waiting);
}

static void
test_stop_while_waiting_for_rpc(void **state)
{
	struct app_opts opts = default_opts();
	pid_t pid;
	int fd;

	(void)state;
	opts.wait_for_rpc = true;
	pid = begin(&opts, NULL);
	assert_true(wait_for_log("waiting for framework_start_init"));
	fd = client_connect();
	client_send(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"wait_init\"}");
	kill(pid, SIGTERM);
	assert_int_equal(end(pid), 0);
	assert_false(has("log", "base st"));
	close(fd);
}

/* ---- --user ---- */

static void
expect_nobody(void *arg)
{
	struct passwd *nobody = getpwnam("nobody");
	struct stat st;
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];

	(void)arg;
	CHECK(geteuid() == nobody->pw_uid && getegid() == nobody->pw_gid);
	CHECK(setuid(0) < 0);
	while (fgets(line, sizeof(line), status) != NULL) {
		if (strncmp(line, "CapEff:", 7) == 0)
			CHECK(strtoull(line + 7, NULL, 16) == 0);
	}
	fclose(status);
	CHECK(call("thing_create", "a") == 0);
	CHECK(stat(in_folder("state/state.json"), &st) == 0 && st.st_uid == nobody->pw_uid);
	CHECK(stat(in_folder("sockets"), &st) == 0 && st.st_uid == nobody->pw_uid);
	app_stop(0);
}

static void
test_user(void **state)
{
	struct app_opts opts = default_opts();
	char state_path[PATH_MAX], rpc_path[PATH_MAX];

	(void)state;
	if (geteuid() != 0)
		skip();
	put("err", "");
	assert_int_equal(chmod(in_folder("err"), 0666), 0);
	strcpy(state_path, in_folder("state/state.json"));
	strcpy(rpc_path, in_folder("sockets/rpc.sock"));
	opts.state_file = state_path;
	opts.rpc_socket = rpc_path;
	opts.user = "nobody";
	assert_int_equal(live(&opts, expect_nobody), 0);
}

static void
test_user_unknown(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	opts.user = "no-such-user";
	assert_int_equal(live(&opts, stop), EXIT_RC(-ENOENT));
	assert_true(has("err", "no-such-user"));
	opts.user = NULL;
	opts.group = "no-such-group";
	assert_int_equal(live(&opts, stop), EXIT_RC(-ENOENT));
	assert_true(has("err", "no-such-group"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_start_and_stop),
		TEST(test_subsystem_fails),
		TEST(test_no_such_cpu),
		TEST(test_rpc_socket_in_no_folder),
		TEST(test_sigterm),
		TEST(test_second_sigint_ends_at_once),
		TEST(test_hanging_subsystem_is_left_behind),
		TEST(test_stop_from_another_os_thread),
		TEST(test_wait_for_rpc),
		TEST(test_stop_while_waiting_for_rpc),
		cmocka_unit_test_setup_teardown(test_user, setup_for_all_users, teardown),
		TEST(test_user_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
