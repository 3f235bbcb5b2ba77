/* SPDX-License-Identifier: BSD-3-Clause */
/* links: app jsonrpc event thread env */
/* ldflags: -Wl,--wrap=fsync */
/* When the state is written, and when it must not be. */
#include "app_rig.h"

int __real_fsync(int fd);
int __wrap_fsync(int fd);

static unsigned int commits; /* that are under way */

/* On the work pool. */
int
__wrap_fsync(int fd)
{
	struct timespec pause = {.tv_nsec = 100000000};

	if (exists("slow"))
		nanosleep(&pause, NULL);
	return __real_fsync(fd);
}

static int
try_commit(void)
{
	struct errmsg err = {""};

	return app_try_commit(&err);
}

/* ---- subsystems that tell nothing any more once they stop ---- */

static int
start_asking(const struct app_opts *opts, struct errmsg *err)
{
	(void)opts;
	(void)err;
	CHECK(try_commit() == -EAGAIN);
	return 0;
}

static void
stop_forgetting(void)
{
	time_t give_up = time(NULL) + DEADLINE_S;

	thing_count = 0;
	while (commits > 0) {
		CHECK(time(NULL) < give_up);
		coroutine_sleep(1000);
	}
	CHECK(try_commit() == -EAGAIN);
}

static const struct app_subsystem forgetting = {
	.name = "things", .start = start_asking, .stop = stop_forgetting, .config = things_config};
static const struct app_subsystem *const only_forgetting[] = {&forgetting, NULL};

/* ---- tests ---- */

static void
commit(void *arg)
{
	struct errmsg err = {""};

	(void)arg;
	app_commit(&err);
	commits--;
}

static void
commit_twice_and_stop(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(try_commit() == 0);
	put("slow", "");
	for (int i = 0; i < 2; i++) {
		snprintf(things[thing_count++], sizeof(things[0]), "late-%d", i);
		commits++;
		CHECK(coroutine_start(app_thread(), "commit", commit, NULL) == 0);
	}
	coroutine_sleep(1000);
	CHECK(commits == 2);
	app_stop(0);
}

/* One that waits for another while the daemon stops does not write that there is nothing. */
static void
test_commits_at_the_stop(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	opts.subsystems = only_forgetting;
	assert_int_equal(live(&opts, commit_twice_and_stop), 0);
	assert_true(has("state.json", "\"a\""));
	assert_true(has("state.json", "late-0"));
}

/* ---- without memory ---- */

static unsigned int fail_at; /* the n-th allocation from now; 0: none */

static void *
failing_malloc(size_t size)
{
	return fail_at > 0 && --fail_at == 0 ? NULL : malloc(size);
}

/* As a whole, or not at all. */
static void
run_out_of_memory(void *arg)
{
	json_t *whole, *config = NULL;

	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(call("thing_create", "b") == 0);
	whole = app_config_json();
	CHECK(whole != NULL);
	for (unsigned int nth = 1; config == NULL; nth++) {
		struct errmsg err = {""};

		/* So that there is something to write. */
		snprintf(things[1], sizeof(things[1]), "b-%u", nth);
		fail_at = nth;
		CHECK(app_commit(&err) == -ENOMEM || fail_at > 0);
		fail_at = 0;
		strcpy(things[1], "b");
		fail_at = nth;
		config = app_config_json();
		fail_at = 0;
		CHECK(config == NULL || json_equal(config, whole));
	}
	CHECK(has("state.json", "\"b"));
	json_decref(config);
	json_decref(whole);
	app_stop(0);
}

static void
test_without_memory(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	json_set_alloc_funcs(failing_malloc, free);
	assert_int_equal(live(&opts, run_out_of_memory), 0);
	json_set_alloc_funcs(malloc, free);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_commits_at_the_stop),
		TEST(test_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
