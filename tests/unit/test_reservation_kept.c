/* SPDX-License-Identifier: BSD-3-Clause */
/* links: reservation env */
/* What is kept of all disks: in the state and back, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reservation.h"

#define ONE "00000000-0000-4000-8000-000000000001"
#define TWO "00000000-0000-4000-8000-000000000002"

static int
no_commit(void)
{
	return 0;
}

static int
setup(void **unused)
{
	(void)unused;
	scsi_kept_start("here", no_commit, NULL);
	return 0;
}

static int
teardown(void **unused)
{
	(void)unused;
	scsi_kept_forget(NULL);
	return 0;
}

/* A disk with a reservation, and without its write cache. */
static void
make(const char *uuid, const char *name)
{
	struct scsi_kept *kept = scsi_kept_open(uuid, name);
	struct scsi_kept next;

	assert_non_null(kept);
	assert_true(kept->reservations.can_persist);
	next = *kept;
	next.modes = SCSI_MODE_WRITE_THROUGH | SCSI_MODE_WRITE_PROTECTED;
	next.reservations.type = RESERVATION_WRITE_EXCLUSIVE;
	next.reservations.count = 1;
	next.reservations.generation = 7;
	next.reservations.registrations[0] =
		(struct scsi_registration){.key = 5, .nexus = {1ULL << 60, 3}, .holder = true};
	assert_int_equal(scsi_kept_change(kept, &next), 0);
	scsi_kept_close(kept);
}

static unsigned int fail_at; /* the n-th allocation from now; 0: none */

static void *
failing_malloc(size_t size)
{
	return fail_at > 0 && --fail_at == 0 ? NULL : malloc(size);
}

/* Without memory there is no list of all disks, rather than one that lacks some. */
static void
test_without_memory(void **unused)
{
	json_t *whole, *config = NULL;

	(void)unused;
	make(ONE, "one");
	make(TWO, "two");
	whole = scsi_kept_config_json();
	assert_int_equal(json_array_size(whole), 2);
	for (unsigned int nth = 1; config == NULL; nth++) {
		fail_at = nth;
		json_set_alloc_funcs(failing_malloc, free);
		config = scsi_kept_config_json();
		json_set_alloc_funcs(malloc, free);
	}
	assert_true(json_equal(whole, config));
	json_decref(config);
	json_decref(whole);
}

static int
restore(json_t *params, struct errmsg *err)
{
	const struct scsi_kept_opts opts = {
		.uuid = json_string_value(json_object_get(params, "uuid")),
		.name = json_string_value(json_object_get(params, "name")),
		.boot = json_string_value(json_object_get(params, "boot_id")),
		.modes = json_object_get(params, "modes"),
		.reservations = json_object_get(params, "reservations"),
	};

	return scsi_kept_restore(&opts, err);
}

static void
test_round_trip(void **unused)
{
	struct scsi_kept *kept;
	json_t *before, *after;
	struct errmsg err;

	(void)unused;
	make(ONE, "one");
	make(TWO, "two");
	before = scsi_kept_config_json();
	scsi_kept_forget(NULL);
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(
			restore(json_object_get(json_array_get(before, i), "params"), &err), 0);
	after = scsi_kept_config_json();
	assert_true(json_equal(before, after));
	kept = scsi_kept_open(TWO, "two");
	assert_int_equal(kept->modes, SCSI_MODE_WRITE_THROUGH | SCSI_MODE_WRITE_PROTECTED);
	assert_int_equal(kept->reservations.registrations[0].key, 5);
	assert_int_equal(kept->reservations.generation, 7);
	assert_false(kept->power_lost);
	assert_int_equal(restore(json_object_get(json_array_get(before, 1), "params"), &err),
			 -EBUSY);
	scsi_kept_close(kept);
	json_decref(before);
	json_decref(after);
}

/* A disk that is missing when the machine has been restarted hears of that when it comes. */
static void
test_late_disk(void **unused)
{
	struct scsi_kept *kept;
	json_t *before, *after;

	(void)unused;
	make(ONE, "one");
	before = scsi_kept_config_json();
	scsi_kept_start("there", no_commit, NULL);
	after = scsi_kept_config_json();
	assert_true(json_equal(before, after));
	kept = scsi_kept_open(ONE, "one");
	assert_true(kept->power_lost);
	assert_int_equal(kept->modes, 0);
	assert_int_equal(kept->reservations.count, 0);
	/* Its LUN could not be made, after all. */
	scsi_kept_close(kept);
	kept = scsi_kept_open(ONE, "one");
	assert_true(kept->power_lost);
	scsi_kept_close(kept);
	json_decref(before);
	json_decref(after);
}

/* Nobody knows when the machine was started: the power is never lost. */
static void
test_no_boot(void **unused)
{
	struct scsi_kept *kept;

	(void)unused;
	make(ONE, "one");
	scsi_kept_start(NULL, no_commit, NULL);
	kept = scsi_kept_open(ONE, "one");
	assert_false(kept->power_lost);
	assert_int_equal(kept->reservations.count, 1);
	scsi_kept_close(kept);
}

#define LONG  "0123456789abcdef0123456789abcdef"
#define FOUR  LONG LONG LONG LONG
#define ENTRY "{\"uuid\": \"" ONE "\", \"name\": "

static void
test_hostile(void **unused)
{
	static const char *const bad[] = {
		ENTRY "\"" FOUR "\"}",
		"{\"uuid\": \"" ONE "0\", \"name\": \"one\"}",
		ENTRY "\"one\", \"boot_id\": \"" LONG "01234\"}",
		ENTRY "\"one\", \"modes\": {}}",
		ENTRY "\"one\", \"modes\": \"write_through\"}",
		ENTRY "\"one\", \"modes\": [3]}",
		ENTRY "\"one\", \"modes\": [\"\"]}",
		ENTRY "\"one\", \"modes\": [\"write_through\", \"write_back\"]}",
		ENTRY "\"one\", \"reservations\": []}",
		ENTRY "\"one\", \"reservations\": null}",
	};
	json_t *before, *after, *params;
	struct errmsg err;

	(void)unused;
	make(ONE, "one");
	before = scsi_kept_config_json();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		params = json_loads(bad[i], 0, NULL);
		assert_non_null(params);
		err.text[0] = '\0';
		if (restore(params, &err) != -EINVAL)
			fail_msg("taken: %s", bad[i]);
		assert_string_not_equal(err.text, "");
		json_decref(params);
	}
	after = scsi_kept_config_json();
	assert_true(json_equal(before, after));
	json_decref(before);
	json_decref(after);
	/* Nothing is what a disk has of which nothing is known. */
	params = json_loads(ENTRY "\"one\", \"modes\": []}", 0, NULL);
	assert_int_equal(restore(params, &err), 0);
	json_decref(params);
	after = scsi_kept_config_json();
	assert_int_equal(json_array_size(after), 0);
	json_decref(after);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_without_memory), TEST(test_round_trip), TEST(test_late_disk),
		TEST(test_no_boot),        TEST(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
