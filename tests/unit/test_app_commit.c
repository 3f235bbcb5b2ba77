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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_commits_at_the_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
