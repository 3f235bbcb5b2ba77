/* SPDX-License-Identifier: BSD-3-Clause */
/* links: app jsonrpc event thread env */
/* Entries of the state that fail at the start, and are tried again while the daemon runs. */
#include "app_rig.h"

static size_t
count_failed(void)
{
	json_t *state = app_state_json();
	size_t count = json_array_size(json_object_get(state, "failed"));

	json_decref(state);
	return count;
}

static void
wait_for_none_failed(void)
{
	time_t give_up = time(NULL) + DEADLINE_S;

	while (count_failed() > 0) {
		CHECK(time(NULL) < give_up);
		CHECK(coroutine_sleep(1000) == 0);
	}
}

static void
make_abc(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_create", "c") == 0);
	CHECK(things_replayed == 0);
	app_stop(0);
}

static void
expect_abc(void *arg)
{
	(void)arg;
	CHECK(thing_count == 3 && has_thing("a") && has_thing("b") && has_thing("c"));
	CHECK(count_failed() == 0);
	app_stop(0);
}

/* ---- tests ---- */

static void
let_b_appear(void *arg)
{
	(void)arg;
	CHECK(thing_count == 2 && count_failed() == 1);
	CHECK(things_replayed == 6); /* in and after a wait */
	app_retry_failed();
	app_retry_failed();
	coroutine_sleep(20000);
	CHECK(!has_thing("b"));
	CHECK(count_failed() == 1); /* and no harm done */
	unlink(in_folder("missing-b"));
	app_retry_failed();
	wait_for_none_failed();
	CHECK(has_thing("b"));
	/* It is in the state now as what it is. */
	while (!has("log", "is made now"))
		coroutine_sleep(1000);
	CHECK(call("thing_create", "b") == -EEXIST);
	app_stop(0);
}

static void
test_what_appears_is_made(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	put("missing-b", "");
	assert_int_equal(live(&opts, let_b_appear), 0);
	assert_true(has("log", "state: b (thing_create) is made now"));
	assert_int_equal(live(&opts, expect_abc), 0);
}

/* A client makes what another one needs. */
static void
make_d(void *arg)
{
	unsigned int replayed = things_replayed;

	(void)arg;
	CHECK(count_failed() == 1);
	put("things-help", "");
	unlink(in_folder("missing-b"));
	CHECK(call("thing_create", "d") == 0);
	wait_for_none_failed();
	CHECK(has_thing("b"));
	CHECK(things_replayed == replayed + 2); /* b was, d was not */
	app_stop(0);
}

static void
expect_four(void *arg)
{
	(void)arg;
	CHECK(thing_count == 4 && count_failed() == 0);
	app_stop(0);
}

static void
test_what_helps_is_made(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	put("missing-b", "");
	assert_int_equal(live(&opts, make_d), 0);
	assert_int_equal(live(&opts, expect_four), 0);
}

static void
wait_and_stop(void *arg)
{
	(void)arg;
	wait_for_none_failed();
	CHECK(thing_count == 3);
	app_stop(0);
}

/* What helps comes later in the state itself. */
static void
test_retry_after_the_replay(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	put("after-c-b", "");
	put("things-help", "");
	assert_int_equal(live(&opts, wait_and_stop), 0);
	assert_true(has("log", "state: b (thing_create) is made now"));
}

static void
give_b_up(void *arg)
{
	(void)arg;
	unlink(in_folder("missing-b"));
	CHECK(app_give_up("thing_create", "b"));
	app_retry_failed();
	coroutine_sleep(20000);
	CHECK(!has_thing("b"));
	CHECK(call("thing_create", "d") == 0);
	app_stop(0);
}

static void
test_what_was_given_up_is_not_made(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	put("missing-b", "");
	assert_int_equal(live(&opts, give_b_up), 0);
	assert_false(has("state.json", "\"b\""));
}

static void
retry_and_wait(void *arg)
{
	(void)arg;
	unlink(in_folder("missing-b"));
	put("stop-at-b", "");
	app_retry_failed();
}

/* The daemon stops in the middle; the state is as it was. */
static void
test_stop_while_retrying(void **state)
{
	struct app_opts opts = default_opts();
	static char before[4096];

	(void)state;
	assert_int_equal(live(&opts, make_abc), 0);
	snprintf(before, sizeof(before), "%s", get("state.json"));
	put("missing-b", "");
	assert_int_equal(live(&opts, retry_and_wait), 0);
	assert_string_equal(before, get("state.json"));
	unlink(in_folder("stop-at-b"));
	assert_int_equal(live(&opts, expect_abc), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_appears_is_made),   TEST(test_what_helps_is_made),
		TEST(test_retry_after_the_replay), TEST(test_what_was_given_up_is_not_made),
		TEST(test_stop_while_retrying),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
