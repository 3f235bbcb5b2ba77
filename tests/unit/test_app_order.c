/* SPDX-License-Identifier: BSD-3-Clause */
/* links: app jsonrpc event thread env */
/*
 * Where entries that failed are kept: among what they met when they failed, whatever happens to it.
 */
#include "app_rig.h"

/* The names in the state; options: those of the things. */
static const char *
saved_order(void)
{
	static char order[128];
	json_t *document = json_loads(get("state.json"), 0, NULL);
	json_t *config = json_object_get(json_array_get(json_object_get(document, "subsystems"), 1),
					 "config");
	json_t *entry;
	size_t i;

	assert_non_null(config);
	order[0] = '\0';
	json_array_foreach (config, i, entry) {
		const char *name = json_string_value(
			json_object_get(json_object_get(entry, "params"), "name"));

		strcat(strcat(order, i == 0 ? "" : " "), name != NULL ? name : "options");
	}
	json_decref(document);
	return order;
}

static void
make_abcd(void *arg)
{
	(void)arg;
	CHECK(call("thing_create", "a") == 0);
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_create", "c") == 0);
	CHECK(call("thing_create", "d") == 0);
	app_stop(0);
}

static void
set_options(void *arg)
{
	(void)arg;
	CHECK(call("things_set_options", NULL) == 0);
	app_stop(0);
}

/* ---- tests ---- */

/* What is saved before all things moves none of them past what failed. */
static void
test_options_change_no_order(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abcd), 0);
	put("missing-b", "");
	put("missing-c", "");
	assert_int_equal(live(&opts, set_options), 0);
	assert_string_equal(saved_order(), "options a b c d");
	assert_int_equal(live(&opts, stop), 0);
	assert_string_equal(saved_order(), "options a b c d");
}

/* So it is when they were not in their place in the document. */
static void
test_options_in_the_wrong_place(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	put("state.json",
	    "{\"subsystems\": [{\"subsystem\": \"base\", \"config\": []}, "
	    "{\"subsystem\": \"things\", \"config\": ["
	    "{\"method\": \"thing_create\", \"params\": {\"name\": \"a\"}},"
	    "{\"method\": \"thing_create\", \"params\": {\"name\": \"b\"}},"
	    "{\"method\": \"thing_create\", \"params\": {\"name\": \"c\"}}]},"
	    "{\"subsystem\": \"base\", \"config\": [{\"method\": \"things_set_options\"}]}]}");
	put("missing-b", "");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(live(&opts, stop), 0);
		assert_string_equal(saved_order(), "options a b c");
	}
}

static void
delete_a_and_b(void *arg)
{
	(void)arg;
	CHECK(call("thing_delete", "a") == 0);
	CHECK(call("thing_delete", "b") == 0);
	CHECK(call("thing_create", "e") == 0);
	app_stop(0);
}

/* What is before it may go, and come back after it. */
static void
test_deletion_changes_no_order(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abcd), 0);
	put("missing-c", "");
	assert_int_equal(live(&opts, delete_a_and_b), 0);
	assert_string_equal(saved_order(), "c d e");
	assert_int_equal(live(&opts, stop), 0);
	assert_string_equal(saved_order(), "c d e");
}

static void
delete_b_and_make_it_again(void *arg)
{
	(void)arg;
	CHECK(call("thing_delete", "b") == 0);
	CHECK(call("thing_create", "b") == 0);
	app_stop(0);
}

static void
test_what_comes_back_is_new(void **state)
{
	struct app_opts opts = default_opts();

	(void)state;
	assert_int_equal(live(&opts, make_abcd), 0);
	put("missing-c", "");
	assert_int_equal(live(&opts, delete_b_and_make_it_again), 0);
	assert_string_equal(saved_order(), "a c d b");
}

static void
make_b(void *arg)
{
	(void)arg;
	unlink(in_folder("missing-b"));
	CHECK(call("thing_create", "b") == 0);
	CHECK(call("thing_create", "e") == 0);
	app_stop(0);
}

static void
retry_b(void *arg)
{
	(void)arg;
	unlink(in_folder("missing-b"));
	app_retry_failed();
	while (!has("log", "b (thing_create) is made now"))
		coroutine_sleep(1000);
	CHECK(call("thing_create", "e") == 0);
	app_stop(0);
}

/* What failed after b may need it: it comes after b, however b is made at last. */
static void
test_what_needs_it_comes_after_it(void **state)
{
	static void (*const makers[])(void *) = {make_b, retry_b};
	struct app_opts opts = default_opts();

	(void)state;
	for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++) {
		unlink(in_folder("state.json"));
		unlink(in_folder("missing-c"));
		assert_int_equal(live(&opts, make_abcd), 0);
		put("missing-b", "");
		put("missing-c", "");
		assert_int_equal(live(&opts, makers[i]), 0);
		assert_string_equal(saved_order(), "a d b c e");
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_options_change_no_order),      TEST(test_options_in_the_wrong_place),
		TEST(test_deletion_changes_no_order),    TEST(test_what_comes_back_is_new),
		TEST(test_what_needs_it_comes_after_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
