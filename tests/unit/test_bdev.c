/* SPDX-License-Identifier: BSD-3-Clause */
/* The control path of block devices: names, opening, events, deletion. */
/* links: bdev testlib thread env */
#include <errno.h>

#include "bdev_fake.h"

/* ---- names and uuids ---- */

static int
try_name(const char *name, const char *uuid)
{
	struct bdev_info info;

	rig_err.text[0] = '\0';
	return bdev_info_init(&info, name, uuid, &rig_err);
}

static void
test_names(void **state)
{
	static const char *const bad[] = {
		"",
		"a/b",
		"/",
		"a\nb",
		"tab\t",
		"del\x7f",
		"c1\xc2\x85",
		"\xff",
		"\xc3",
		"\xc0\xaf",
		"\xed\xa0\x80",
		"\xf4\x90\x80\x80",
		"cut\xe2\x82",
	};
	char name[BDEV_NAME_MAX + 2];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(try_name(bad[i], NULL), -EINVAL);
		assert_true(rig_err.text[0] != '\0');
	}
	assert_int_equal(try_name(NULL, NULL), -EINVAL);
	memset(name, 'x', sizeof(name));
	name[BDEV_NAME_MAX + 1] = '\0';
	assert_int_equal(try_name(name, NULL), -EINVAL);
	name[BDEV_NAME_MAX] = '\0';
	assert_int_equal(try_name(name, NULL), 0);
	assert_int_equal(try_name("disk-1 \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", NULL), 0);
}

static void
test_uuids(void **state)
{
	static const char *const bad[] = {
		"1",
		"01234567-89ab-cdef-0123-456789abcde",
		"01234567-89ab-cdef-0123-456789abcdef0",
		"01234567-89ab-cdef-0123-456789abcdeg",
		"0123456789abcdef0123456789abcdef",
		"01234567:89ab-cdef-0123-456789abcdef",
	};
	struct bdev_info info;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(try_name("a", bad[i]), -EINVAL);
	assert_int_equal(bdev_info_init(&info, "a", "01234567-89AB-CDEF-0123-456789ABCDEF", NULL),
			 0);
	assert_string_equal(info.uuid, "01234567-89ab-cdef-0123-456789abcdef");
}

static void
test_random_uuid(void **state)
{
	struct bdev_info info = fake_info("a"), unused;
	const char *uuid;

	(void)state;
	assert_int_equal(fake_register(&info), 0);
	uuid = bdev_get_info(fake.bdev)->uuid;
	assert_int_equal(bdev_info_init(&unused, "x", uuid, NULL), 0);
	assert_int_equal(strlen(uuid), 36);
	assert_int_equal(uuid[14], '4');
	assert_non_null(strchr("89ab", uuid[19]));
	assert_ptr_equal(bdev_by_name(uuid), fake.bdev);
}

static void
test_not_unique(void **state)
{
	struct bdev_info info = fake_info("a"), other = fake_info("b");

	(void)state;
	assert_int_equal(bdev_info_init(&info, "a", "01234567-89ab-cdef-0123-456789abcdef", NULL),
			 0);
	info.block_size = other.block_size;
	info.num_blocks = other.num_blocks;
	assert_int_equal(fake_register(&info), 0);
	assert_int_equal(fake_register(&info), -EEXIST);
	assert_non_null(strstr(rig_err.text, "a"));
	memcpy(other.uuid, info.uuid, sizeof(info.uuid));
	assert_int_equal(fake_register(&other), -EEXIST);
	assert_non_null(strstr(rig_err.text, info.uuid));
	assert_null(bdev_by_name("b"));
}

static void
test_sizes(void **state)
{
	static const struct {
		uint32_t block_size, physical, alignment;
		uint64_t num_blocks;
	} bad[] = {
		{0, 0, 1, 1},
		{256, 0, 1, 1},
		{1000, 0, 1, 1},
		{131072, 0, 1, 1},
		{512, 256, 1, 1},
		{512, 3000, 1, 1},
		{512, 512, 1, 0},
		{512, 512, 1, UINT64_MAX},
		{512, 512, 1, 1ULL << 54},
		{512, 512, 4096, 8},
		{512, 512, 0, 8},
		{512, 512, 24, 8},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct bdev_info info = fake_info("a");

		info.block_size = bad[i].block_size;
		info.physical_block_size = bad[i].physical;
		info.num_blocks = bad[i].num_blocks;
		fake.ops.buffer_alignment = bad[i].alignment;
		assert_int_equal(fake_register(&info), -EINVAL);
	}
	assert_null(bdev_next(NULL));
}

static void
test_order(void **state)
{
	static const char *const names[] = {"c", "a", "b"};
	struct bdev *bdev = NULL;

	(void)state;
	fake.ops.destroy = NULL;
	for (size_t i = 0; i < 3; i++) {
		struct bdev_info info = fake_info(names[i]);

		assert_int_equal(fake_register(&info), 0);
	}
	for (size_t i = 0; i < 3; i++) {
		bdev = bdev_next(bdev);
		assert_string_equal(bdev_get_info(bdev)->name, names[i]);
		assert_true(bdev_get_info(bdev)->size == FAKE_SIZE);
		assert_int_equal(bdev_get_info(bdev)->physical_block_size, FAKE_BLOCK);
		assert_ptr_equal(bdev_module_ctx(bdev, "fake"), &fake);
		assert_null(bdev_module_ctx(bdev, "malloc"));
	}
	assert_null(bdev_next(bdev));
	assert_int_equal(bdev_request_size(bdev_next(NULL)) % 16, 0);
}

static json_t *
config(void *bdev_ctx)
{
	(void)bdev_ctx;
	return json_pack("{s:s, s:{}}", "method", "bdev_fake_create", "params");
}

static json_t *
no_config(void *bdev_ctx)
{
	(void)bdev_ctx;
	return NULL;
}

static void
test_config(void **state)
{
	struct bdev_info a = fake_info("a"), b = fake_info("b");
	struct bdev_ops ops = fake.ops;
	struct bdev *bdev;
	json_t *array;

	(void)state;
	fake.ops.config = config;
	assert_int_equal(fake_register(&a), 0);
	ops.destroy = NULL;
	ops.config = no_config;
	assert_int_equal(bdev_register(&b, &ops, NULL, &bdev, NULL), 0);
	array = bdev_config_json();
	assert_int_equal(json_array_size(array), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(array, 0), "method")),
			    "bdev_fake_create");
	json_decref(array);
	assert_null(bdev_driver_specific(fake.bdev));
	assert_int_equal(rig_delete("b", "fake"), 0); /* its ops go away with this function */
}

static void
enable_histogram(void *arg)
{
	assert_int_equal(bdev_enable_histogram(arg, true), 0);
}

/* What a controller brings is there before the other disks at the next start, whenever it came. */
static void
test_order_of_settings(void **state)
{
	static const char *const in_order[3] = {"bdev_fake_create", "b", "a"};
	struct bdev_info a = fake_info("a"), b = fake_info("b");
	struct bdev_ops ops = fake.ops;
	struct bdev *bdev;
	json_t *array;

	(void)state;
	fake.ops.config = config;
	assert_int_equal(fake_register(&a), 0);
	ops.destroy = NULL;
	assert_int_equal(bdev_register(&b, &ops, NULL, &bdev, NULL), 0);
	rig_run(enable_histogram, fake.bdev);
	rig_run(enable_histogram, bdev);
	array = bdev_config_json();
	assert_int_equal(json_array_size(array), 3);
	for (size_t i = 0; i < 3; i++) {
		json_t *entry = json_array_get(array, i);
		json_t *name = json_object_get(json_object_get(entry, "params"), "name");

		if (name == NULL)
			name = json_object_get(entry, "method");
		assert_string_equal(json_string_value(name), in_order[i]);
	}
	json_decref(array);
	assert_int_equal(rig_delete("b", "fake"), 0); /* its ops go away with this function */
}

/* ---- opening ---- */

static void
test_open(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_desc *first, *second, *none;

	(void)state;
	assert_int_equal(bdev_open("a", BDEV_WRITES, "me", NULL, NULL, &none, &rig_err), -ENODEV);
	assert_non_null(strstr(rig_err.text, "a"));
	assert_int_equal(fake_register(&info), 0);
	assert_false(bdev_is_open(fake.bdev));
	first = rig_open("a", true);
	second = rig_open("a", true);
	assert_true(bdev_is_open(fake.bdev));
	assert_ptr_equal(bdev_desc_bdev(second), fake.bdev);
	rig_close(first);
	assert_true(bdev_is_open(fake.bdev));
	rig_close(second);
	assert_false(bdev_is_open(fake.bdev));
}

static void
test_open_read_only(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_desc *desc;

	(void)state;
	info.read_only = true;
	assert_int_equal(fake_register(&info), 0);
	assert_int_equal(bdev_open("a", BDEV_WRITES, "me", NULL, NULL, &desc, &rig_err), -EROFS);
	assert_int_equal(bdev_get_info(fake.bdev)->io_types,
			 1u << BDEV_READ | 1u << BDEV_FLUSH | 1u << BDEV_RESET);
	desc = rig_open("a", false);
	rig_close(desc);
}

static struct bdev_desc *
open_as(const char *user, enum bdev_use use, int expected)
{
	struct bdev_desc *desc = NULL;

	thread_set_current(rig_app);
	assert_int_equal(bdev_open("a", use, user, NULL, NULL, &desc, &rig_err), expected);
	thread_set_current(NULL);
	if (expected == -EBUSY)
		assert_non_null(strstr(rig_err.text, user));
	return desc;
}

/* Who writes alone shares with readers only, whoever comes first; the error names bdev and holder. */
static void
test_open_alone(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_desc *reader, *alone, *writers[2];

	(void)state;
	assert_int_equal(fake_register(&info), 0);
	reader = open_as("a reader", BDEV_READS, 0);
	alone = open_as("scsi", BDEV_WRITES_ALONE, 0);
	open_as("blk", BDEV_WRITES, -EBUSY);
	assert_non_null(strstr(rig_err.text, "block device a is in use by scsi"));
	open_as("other", BDEV_WRITES_ALONE, -EBUSY);
	rig_close(open_as("another reader", BDEV_READS, 0));
	rig_close(alone);
	rig_close(reader);
	writers[0] = open_as("blk", BDEV_WRITES, 0);
	writers[1] = open_as("more blk", BDEV_WRITES, 0);
	open_as("scsi", BDEV_WRITES_ALONE, -EBUSY);
	assert_non_null(strstr(rig_err.text, "blk"));
	rig_close(writers[0]);
	open_as("scsi", BDEV_WRITES_ALONE, -EBUSY);
	rig_close(writers[1]);
	rig_close(open_as("scsi", BDEV_WRITES_ALONE, 0));
}

/* One of the same name, which is about to come or to go, is no other. */
static void
test_open_alone_again(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_desc *old, *new;

	(void)state;
	assert_int_equal(fake_register(&info), 0);
	old = open_as("scsi", BDEV_WRITES_ALONE, 0);
	new = open_as("scsi", BDEV_WRITES_ALONE, 0);
	rig_close(old);
	open_as("blk", BDEV_WRITES, -EBUSY);
	rig_close(new);
	rig_close(open_as("blk", BDEV_WRITES, 0));
}

/* ---- the end ---- */

static void
test_delete(void **state)
{
	struct bdev_info info = fake_info("a");
	struct bdev_desc *desc;

	(void)state;
	assert_int_equal(rig_delete("a", "fake"), -ENODEV);
	assert_int_equal(fake_register(&info), 0);
	assert_int_equal(rig_delete("a", "malloc"), -ENODEV);
	desc = rig_open("a", false);
	assert_int_equal(rig_delete("a", "fake"), -EBUSY);
	assert_non_null(strstr(rig_err.text, "the test"));
	rig_close(desc);
	assert_int_equal(rig_delete("a", "fake"), 0);
	assert_int_equal(fake.destroyed, 1);
	assert_null(bdev_by_name("a"));
}

/* The last channel's end is a message on its thread: the deletion waits for it. */
static void
test_delete_waits_for_channels(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_delete delete = {.name = "a", .module = "fake"};
	struct bdev_desc *desc;

	(void)state;
	fake_start(&info);
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	assert_int_equal(coroutine_start(rig_app, "test", rig_delete_run, &delete), 0);
	for (int i = 0; i < 10; i++)
		poll_once(rig_app);
	assert_false(delete.finished);
	assert_null(bdev_by_name("a"));
	assert_null(bdev_next(NULL));
	assert_int_equal(bdev_open("a", BDEV_READS, "me", NULL, NULL, &desc, NULL), -EBUSY);
	assert_int_equal(fake_register(&info), -EEXIST);
	assert_int_equal(rig_delete("a", "fake"), -EBUSY);
	rig_wait(&delete.finished);
	assert_int_equal(delete.rc, 0);
	assert_int_equal(fake.destroyed, 1);
}

/* ---- events ---- */

struct listener {
	struct bdev_desc *desc, *other;
	struct bdev_channel *channel;
	unsigned int removes, resizes;
	bool close_other;
};

static void
heard(void *ctx, enum bdev_event event)
{
	struct listener *listener = ctx;

	listener->resizes += event == BDEV_EVENT_RESIZE;
	listener->removes += event == BDEV_EVENT_REMOVE;
	if (listener->close_other) {
		bdev_close(listener->other);
		listener->close_other = false;
	}
}

static void
listen_to(struct listener *listener, const char *name)
{
	thread_set_current(rig_app);
	assert_int_equal(
		bdev_open(name, BDEV_READS, "listener", heard, listener, &listener->desc, NULL), 0);
	thread_set_current(NULL);
}

static int
resize(uint64_t num_blocks)
{
	int rc;

	thread_set_current(rig_app);
	rc = bdev_resize(fake.bdev, num_blocks);
	thread_set_current(NULL);
	return rc;
}

static void
test_resize(void **state)
{
	struct bdev_info info = fake_info("a");
	struct listener one = {0}, two = {0};

	(void)state;
	assert_int_equal(fake_register(&info), 0);
	listen_to(&one, "a");
	listen_to(&two, "a");
	assert_int_equal(resize(100), 0);
	assert_int_equal(resize(100), 0); /* no change */
	assert_int_equal(resize(0), -EINVAL);
	assert_int_equal(resize(UINT64_MAX / 4), -EINVAL);
	assert_true(bdev_get_info(fake.bdev)->size == 100 * FAKE_BLOCK);
	assert_true(bdev_get_info(fake.bdev)->num_blocks == 100);
	assert_int_equal(one.resizes, 1);
	assert_int_equal(two.resizes, 1);
	one.close_other = true; /* a listener that is yet to be told is closed by another one */
	one.other = two.desc;
	assert_int_equal(resize(200), 0);
	assert_int_equal(one.resizes, 2);
	assert_int_equal(two.resizes, 1);
	rig_close(one.desc);
}

static void
remove_run(void *arg)
{
	bdev_remove(fake.bdev);
	*(bool *)arg = true;
}

static void
test_remove(void **state)
{
	struct bdev_info info = fake_info("a");
	struct listener one = {0}, two = {0};
	bool removed = false;

	(void)state;
	assert_int_equal(fake_register(&info), 0);
	listen_to(&one, "a");
	listen_to(&two, "a");
	two.channel = rig_channel(two.desc, rig_io[1]);
	assert_int_equal(coroutine_start(rig_app, "test", remove_run, &removed), 0);
	rig_settle();
	assert_int_equal(one.removes, 1);
	assert_int_equal(two.removes, 1);
	rig_close(one.desc);
	rig_channel_put(two.channel, rig_io[1]);
	rig_settle();
	assert_false(removed);
	assert_int_equal(fake.destroyed, 0);
	rig_close(two.desc);
	rig_wait(&removed);
	assert_int_equal(fake.destroyed, 1);
}

/* The device goes away while it is being deleted: that is its end, and there is only one. */
static void
test_remove_while_deleting(void **state)
{
	struct bdev_info info = fake_info("a");
	struct rig_delete delete = {.name = "a", .module = "fake"};
	bool removed = false;

	(void)state;
	fake_start(&info);
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	assert_int_equal(coroutine_start(rig_app, "test", rig_delete_run, &delete), 0);
	poll_once(rig_app);
	assert_false(delete.finished);
	assert_int_equal(coroutine_start(rig_app, "test", remove_run, &removed), 0);
	rig_wait(&removed);
	rig_wait(&delete.finished);
	assert_int_equal(delete.rc, 0);
	assert_int_equal(fake.destroyed, 1);
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_uuids),
		test(test_random_uuid),
		test(test_not_unique),
		test(test_sizes),
		test(test_order),
		test(test_config),
		test(test_order_of_settings),
		test(test_open),
		test(test_open_read_only),
		test(test_open_alone),
		test(test_open_alone_again),
		test(test_delete),
		test(test_delete_waits_for_channels),
		test(test_resize),
		test(test_remove),
		test(test_remove_while_deleting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
