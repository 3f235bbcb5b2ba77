/* SPDX-License-Identifier: BSD-3-Clause */
/* links: app jsonrpc event thread env */
/* What comes back when a daemon is started again, and what does not. */
#include "app_rig.h"

/* ---- the state ---- */

static void
make_a_and_b(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(exists("state.json"));
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_create", "b") == -EEXIST);
	app_stop(0);
}

static void
expect_a_and_b(void *arg)
{
	(void)arg;
	CHECK(thing_count == 2 && has_thing("a") && has_thing("b"));
	app_stop(0);
}

static void
test_state_comes_back(void **state)
{
	struct app_opts opts = default_opts();
	static char before[4096];

	(void)state;
	assert_int_equal(live(&opts, make_a_and_b), 0);
	snprintf(before, sizeof(before), "%s", get("state.json"));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(live(&opts, expect_a_and_b), 0);
		assert_string_equal(before, get("state.json"));
	}
}

static void
make_and_die(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(call("thing_create", "x") == 0);
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_delete", "x") == 0);
	kill(getpid(), SIGKILL);
}

static void
test_sigkill_loses_nothing(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_and_die), 1000 + SIGKILL);
	assert_int_equal(live(&opts, expect_a_and_b), 0);
}

static void
make_abc(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_create", "c") == 0);
	app_stop(0);
}

static void
expect_ac_make_d(void *arg)
{
	(void)arg;
	CHECK(thing_count == 2 && has_thing("a") && has_thing("c"));
	CHECK(call("thing_create", "d") == 0);
	app_stop(0);
}

static void
expect_abcd(void *arg)
{
	(void)arg;
	CHECK(thing_count == 4);
	CHECK(find_thing("a") == 0 && find_thing("b") == 1 && find_thing("c") == 2 &&
	      find_thing("d") == 3);
	app_stop(0);
}

static void
test_entry_that_fails_is_kept(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	put("missing-b", "");
	assert_int_equal(live(&opts, expect_ac_make_d), 0);
	assert_true(has(
		"log", "state: b (thing_create): thing b: its file is missing; the entry is kept"));
	assert_true(has("log", "1 entries could not be replayed"));
	assert_true(has("state.json", "\"b\""));
	unlink(in_folder("missing-b"));
	assert_int_equal(live(&opts, expect_abcd), 0);
	assert_false(has("log", "could not be replayed"));
}

static void
never(void *arg)
{
	(void)arg;
	CHECK(false);
}

static void
expect_abc(void *arg)
{
	(void)arg;
	CHECK(thing_count == 3 && has_thing("a") && has_thing("b") && has_thing("c"));
	app_stop(0);
}

static void
test_stop_while_replaying(void **state)
{
	struct app_opts opts = default_opts();
	static char before[4096];

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	snprintf(before, sizeof(before), "%s", get("state.json"));
	put("stop-at-b", "");
	assert_int_equal(live(&opts, never), 0);
	assert_false(has("log", "ready: "));
	assert_string_equal(before, get("state.json"));
	unlink(in_folder("stop-at-b"));
	assert_int_equal(live(&opts, expect_abc), 0);
}

static void
make_b_again_and_delete_it(void *arg)
{
	(void)arg;
	CHECK(!has_thing("b"));
	unlink(in_folder("missing-b"));
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_delete", "b") == 0);
	app_stop(0);
}

static void
test_entry_that_is_made_again_is_given_up(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_a_and_b), 0);
	put("missing-b", "");
	assert_int_equal(live(&opts, make_b_again_and_delete_it), 0);
	assert_true(has("log", "b exists again"));
	assert_false(has("state.json", "\"b\""));
	assert_true(has("state.json", "\"a\""));
}

static void
delete_a(void *arg)
{
	(void)arg;
	CHECK(call("thing_delete", "a") == 0);
	app_stop(0);
}

static void
test_unknown_entries_are_kept(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	put("state.json", "{\"subsystems\": [{\"subsystem\": \"future\", \"config\": [{\"method\": "
			  "\"time_travel\", "
			  "\"params\": {\"year\": 1}}]}, {\"subsystem\": \"things\", \"config\": ["
			  "{\"method\": \"thing_create\", \"params\": {\"name\": \"a\"}},"
			  "{\"method\": \"thing_create\", \"params\": {\"nam\": \"b\"}}]}]}");
	assert_int_equal(live(&opts, delete_a), 0);
	assert_true(has("log", "time_travel"));
	assert_true(has("state.json", "time_travel"));
	assert_true(has("state.json", "\"year\": 1"));
	assert_true(has("state.json", "\"nam\": \"b\""));
	assert_false(has("state.json", "\"a\""));
}

/*
 * Two that failed do not make up for each other, although they have a name in common: whether
 * either of them is there is not known.
 */
static void
test_failed_entries_of_one_name(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	put("state.json", "{\"subsystems\": [{\"subsystem\": \"things\", \"config\": ["
			  "{\"method\": \"thing_create\", \"params\": {\"name\": \"a\"}},"
			  "{\"method\": \"thing_create\", \"params\": {\"name\": \"b\"}},"
			  "{\"method\": \"thing_set_color\", \"params\": {\"name\": \"b\", "
			  "\"color\": \"red\"}},"
			  "{\"method\": \"thing_set_color\", \"params\": {\"name\": \"b\", "
			  "\"color\": \"blue\"}},"
			  "{\"method\": \"other_create\", \"params\": {\"name\": \"b\"}}]}]}");
	put("missing-b", "");
	assert_int_equal(live(&opts, delete_a), 0);
	assert_false(has("log", "exists again"));
	assert_false(has("state.json", "\"a\""));
	assert_true(has("state.json", "thing_create"));
	assert_true(has("state.json", "red"));
	assert_true(has("state.json", "blue"));
	assert_true(has("state.json", "other_create"));
}

static void
test_damaged_state(void **state)
{
	struct app_opts opts = default_opts();
	static char good[4096];

	(void)state;
	assert_int_equal(live(&opts, make_a_and_b), 0);
	snprintf(good, sizeof(good), "%s", get("state.json"));
	put("state.json", "{\"version\": 1, \"subsys");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(live(&opts, stop), EXIT_RC(-EBADMSG));
		assert_true(has("err", "state.json.damaged-1"));
		assert_false(exists("state.json"));
		assert_false(has("log", "base starts"));
	}
	put("state.json", good);
	assert_int_equal(live(&opts, expect_a_and_b), 0);
}

static void
test_two_daemons(void **state)
{
	struct app_opts opts = default_opts(), other = default_opts();
	pid_t pid = begin(&opts, NULL);

	(void)state;
	assert_true(wait_for_log("ready: "));
	other.rpc_socket = NULL;
	assert_int_equal(live(&other, stop), EXIT_RC(-EBUSY));
	assert_true(has("err", "another vhostd uses it"));
	kill(pid, SIGTERM);
	assert_int_equal(end(pid), 0);
}

static void
lose_the_folder(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(rename(in_folder("state"), in_folder("elsewhere")) == 0);
	CHECK(call("thing_create", "b") == -ENOENT);
	CHECK(rename(in_folder("elsewhere"), in_folder("state")) == 0);
	CHECK(call("thing_delete", "b") == 0);
	CHECK(call("thing_create", "b") == 0);
	app_stop(0);
}

static void
test_state_cannot_be_written(void **state)
{
	struct app_opts opts = default_opts();
	char path[PATH_MAX];

	(void)state;
	strcpy(path, in_folder("state/deep/state.json"));
	opts.state_file = path;
	assert_int_equal(live(&opts, lose_the_folder), 0);
	assert_true(has("log", "cannot be written"));
	assert_int_equal(live(&opts, expect_a_and_b), 0);
}

/* ---- --config ---- */

static void
expect_none(void *arg)
{
	(void)arg;
	CHECK(thing_count == 0);
	app_stop(0);
}

static void
delete_both(void *arg)
{
	(void)arg;
	CHECK(call("thing_delete", "a") == 0);
	CHECK(call("thing_delete", "b") == 0);
	app_stop(0);
}

static void
test_config_is_for_the_first_start(void **state)
{
	struct app_opts opts = default_opts(), with_config;
	char path[PATH_MAX];

	(void)state;
	strcpy(path, in_folder("config.json"));
	put("config.json", config_a_and_b);
	with_config = opts;
	with_config.config_file = path;
	assert_int_equal(live(&opts, expect_none), 0);
	assert_int_equal(live(&with_config, expect_a_and_b), 0);
	assert_int_equal(live(&opts, expect_a_and_b), 0); /* from the state now */
	assert_int_equal(live(&with_config, delete_both), 0);
	assert_true(has("log", "config.json is not loaded"));
	assert_int_equal(live(&with_config, expect_none), 0);

	with_config.state_file = NULL;
	assert_int_equal(live(&with_config, expect_a_and_b), 0);
	assert_int_equal(live(&with_config, expect_a_and_b), 0);
}

static void
test_bad_config(void **state)
{
	struct app_opts opts = default_opts();
	char path[PATH_MAX];

	(void)state;
	strcpy(path, in_folder("config.json"));
	opts.config_file = path;
	assert_int_equal(live(&opts, stop), EXIT_RC(-ENOENT));
	assert_true(has("err", "config.json"));
	put("config.json", "{");
	assert_int_equal(live(&opts, stop), EXIT_RC(-EBADMSG));
	assert_true(has("err", "config.json: line 1"));
	assert_true(exists("config.json")); /* not ours to move */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_state_comes_back),
		TEST(test_sigkill_loses_nothing),
		TEST(test_entry_that_fails_is_kept),
		TEST(test_stop_while_replaying),
		TEST(test_entry_that_is_made_again_is_given_up),
		TEST(test_unknown_entries_are_kept),
		TEST(test_failed_entries_of_one_name),
		TEST(test_damaged_state),
		TEST(test_two_daemons),
		TEST(test_state_cannot_be_written),
		TEST(test_config_is_for_the_first_start),
		TEST(test_bad_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
