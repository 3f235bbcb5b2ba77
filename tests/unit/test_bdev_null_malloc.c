/* SPDX-License-Identifier: BSD-3-Clause */
/* links: bdev testlib thread env */
/* Disks without a device: null and malloc. */
#include <errno.h>

#include "bdev_rig.h"

#define BLOCK             512u
#define BLOCKS            2048u
#define DISK_BYTES        ((uint64_t)BLOCK * BLOCKS)
#define PATTERN           0xa5
#define UUID              "01234567-89ab-cdef-0123-456789abcdef"
#define ANOTHER           "fedcba98-7654-3210-fedc-ba9876543210"
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static const char *const modules[] = {"null", "malloc"};

struct create {
	const char *module, *name, *uuid;
	uint64_t num_blocks;
	uint32_t block_size, physical;
	struct bdev *bdev;
	int rc;
};

static void
create_run(void *arg)
{
	struct create *create = arg;
	struct bdev_null_opts null = {create->name, create->uuid, create->num_blocks,
				      create->block_size};
	struct bdev_malloc_opts malloced = {create->name, create->uuid, create->num_blocks,
					    create->block_size, create->physical};

	if (strcmp(create->module, "null") == 0)
		create->rc = bdev_null_create(&null, &create->bdev, &rig_err);
	else
		create->rc = bdev_malloc_create(&malloced, &create->bdev, &rig_err);
}

static int
try_create(const char *module, const char *name, const char *uuid, uint64_t num_blocks,
	   uint32_t block_size)
{
	struct create create = {module, name, uuid, num_blocks, block_size, 0, NULL, 0};

	rig_err.text[0] = '\0';
	rig_run(create_run, &create);
	if (create.rc != 0) {
		assert_null(create.bdev);
		assert_true(rig_err.text[0] != '\0');
	}
	return create.rc;
}

/* ---- a disk that is open ---- */

struct disk {
	struct bdev *bdev;
	struct bdev_desc *desc;
	struct bdev_channel *channel;
	struct rig_request *request;
};

static struct disk
open_disk(const char *module)
{
	struct disk disk;

	assert_int_equal(try_create(module, "disk", UUID, BLOCKS, BLOCK), 0);
	disk.desc = rig_open("disk", true);
	disk.bdev = bdev_desc_bdev(disk.desc);
	disk.channel = rig_channel(disk.desc, rig_io[0]);
	disk.request = rig_request_new(disk.bdev);
	return disk;
}

static void
close_disk(struct disk *disk, const char *module)
{
	free(disk->request);
	rig_channel_put(disk->channel, rig_io[0]);
	rig_close(disk->desc);
	assert_int_equal(rig_delete("disk", module), 0);
	assert_null(bdev_by_name("disk"));
}

static int
io(struct disk *disk, uint8_t type, uint64_t offset, void *data, uint64_t length)
{
	rig_request_set(disk->request, type, offset, data, length);
	return rig_do(disk->channel, rig_io[0], disk->request);
}

static void
expect_bytes(struct disk *disk, uint64_t offset, uint64_t length, uint8_t value)
{
	uint8_t *data = malloc(length);

	assert_non_null(data);
	memset(data, ~value, length);
	assert_int_equal(io(disk, BDEV_READ, offset, data, length), 0);
	for (uint64_t i = 0; i < length; i++) {
		if (data[i] != value)
			fail_msg("byte %lu is 0x%02x, not 0x%02x", offset + i, data[i], value);
	}
	free(data);
}

/* ---- the control path ---- */

static void
test_description(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
		struct disk disk = open_disk(modules[i]);
		const struct bdev_info *info = bdev_get_info(disk.bdev);

		assert_string_equal(info->name, "disk");
		assert_string_equal(info->uuid, UUID);
		assert_string_equal(info->product_name, i == 0 ? "Null disk" : "Malloc disk");
		assert_int_equal(info->block_size, BLOCK);
		assert_int_equal(info->num_blocks, BLOCKS);
		assert_int_equal(info->size, DISK_BYTES);
		assert_int_equal(info->io_types, (1u << BDEV_IO_TYPES) - 1);
		assert_false(info->read_only);
		assert_false(info->write_cache);
		assert_int_equal(info->max_discard_bytes, i == 0 ? 0 : 32 << 20);
		close_disk(&disk, modules[i]);
	}
}

static void
test_bad_parameters(void **state)
{
	static const struct {
		const char *name, *uuid;
		uint64_t num_blocks;
		uint32_t block_size;
		int rc;
	} cases[] = {
		{"", NULL, BLOCKS, BLOCK, -EINVAL},
		{"a/b", NULL, BLOCKS, BLOCK, -EINVAL},
		{"disk", "no uuid", BLOCKS, BLOCK, -EINVAL},
		{"disk", NULL, 0, BLOCK, -EINVAL},
		{"disk", NULL, BLOCKS, 0, -EINVAL},
		{"disk", NULL, BLOCKS, 511, -EINVAL},
		{"disk", NULL, BLOCKS, 256, -EINVAL},
		{"disk", NULL, BLOCKS, 131072, -EINVAL},
		{"disk", NULL, UINT64_MAX, BLOCK, -EINVAL},
		{"disk", NULL, (1ULL << 55) + 1, BLOCK, -EINVAL},
		{"taken", NULL, BLOCKS, BLOCK, -EEXIST},
		{"disk", UUID, BLOCKS, BLOCK, -EEXIST},
	};

	(void)state;
	assert_int_equal(try_create("null", "taken", UUID, 1, 512), 0);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		size_t c = i / 2;
		int rc = try_create(modules[i % 2], cases[c].name, cases[c].uuid,
				    cases[c].num_blocks, cases[c].block_size);

		if (rc != cases[c].rc)
			fail_msg("%s, case %zu: %d", modules[i % 2], c, rc);
		assert_null(bdev_by_name("disk"));
	}
}

/* More than there can be: refused when it is made, and nothing is left of it. */
static void
test_malloc_too_large(void **state)
{
	(void)state;
	assert_int_equal(try_create("malloc", "disk", NULL, 1ULL << 51, 512), -ENOMEM);
	assert_non_null(strstr(rig_err.text, "disk"));
	assert_null(bdev_by_name("disk"));
	assert_int_equal(try_create("null", "disk", NULL, 1ULL << 51, 512), 0);
}

static void
test_malloc_names(void **state)
{
	(void)state;
	assert_int_equal(try_create("malloc", NULL, NULL, 8, 512), 0);
	assert_int_equal(try_create("malloc", NULL, NULL, 8, 4096), 0);
	assert_int_equal(try_create("null", "Malloc2", NULL, 8, 512), 0);
	assert_int_equal(try_create("malloc", NULL, NULL, 8, 65536), 0);
	assert_non_null(bdev_by_name("Malloc3"));
	assert_int_equal(rig_delete("Malloc0", "malloc"), 0);
	assert_null(bdev_by_name("Malloc0"));
	assert_int_equal(try_create("malloc", NULL, NULL, 16, 512), 0);
	assert_int_equal(bdev_get_info(bdev_by_name("Malloc0"))->num_blocks, 16);
	/* A null disk must be named. */
	assert_int_equal(try_create("null", NULL, NULL, 8, 512), -EINVAL);
}

/* Deleting needs the right module. */
static void
test_delete(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
		assert_int_equal(try_create(modules[i], "disk", NULL, 8, 512), 0);
		assert_int_equal(rig_delete("disk", modules[1 - i]), -ENODEV);
		assert_int_equal(rig_delete("disk", modules[i]), 0);
		assert_int_equal(rig_delete("disk", modules[i]), -ENODEV);
	}
}

/* Several blocks in a physical one: guests are told, and the configuration keeps it. */
static void
test_malloc_physical(void **state)
{
	static const uint32_t bad[] = {256, 3072};
	struct create create = {"malloc", "m", UUID, 16, 512, 4096, NULL, 0};
	json_t *config, *params;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct create refused = create;

		refused.physical = bad[i];
		rig_run(create_run, &refused);
		assert_int_equal(refused.rc, -EINVAL);
	}
	rig_run(create_run, &create);
	assert_int_equal(create.rc, 0);
	assert_int_equal(bdev_get_info(create.bdev)->physical_block_size, 4096);
	thread_set_current(rig_app);
	config = bdev_config_json();
	thread_set_current(NULL);
	params = json_object_get(json_array_get(config, 0), "params");
	assert_int_equal(json_integer_value(json_object_get(params, "physical_block_size")), 4096);
	json_decref(config);
}

static void
test_config(void **state)
{
	json_t *config, *expected;

	(void)state;
	assert_int_equal(try_create("malloc", "m", UUID, 16, 4096), 0);
	assert_int_equal(try_create("null", "n", ANOTHER, 1ULL << 50, 512), 0);
	thread_set_current(rig_app);
	assert_int_equal(bdev_resize(bdev_by_name("n"), 1ULL << 51), 0);
	config = bdev_config_json();
	thread_set_current(NULL);
	expected = json_pack("[{s:s, s:{s:s, s:i, s:i, s:s}}, {s:s, s:{s:s, s:I, s:i, s:s}}]",
			     "method", "bdev_malloc_create", "params", "name", "m", "num_blocks",
			     16, "block_size", 4096, "uuid", UUID, "method", "bdev_null_create",
			     "params", "name", "n", "num_blocks", (json_int_t)1 << 51, "block_size",
			     512, "uuid", ANOTHER);
	assert_non_null(expected);
	assert_true(json_equal(config, expected));
	json_decref(expected);
	json_decref(config);
}

/* ---- the data path ---- */

static void
test_null_forgets(void **state)
{
	struct disk disk = open_disk("null");
	uint8_t data[BLOCK];

	(void)state;
	memset(data, PATTERN, sizeof(data));
	assert_int_equal(io(&disk, BDEV_WRITE, 0, data, sizeof(data)), 0);
	memset(data, 1, sizeof(data));
	assert_int_equal(io(&disk, BDEV_READ, 0, data, sizeof(data)), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		assert_int_equal(data[i], 1);
	close_disk(&disk, "null");
}

static void
test_every_type(void **state)
{
	uint8_t data[BLOCK] = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
		struct disk disk = open_disk(modules[i]);

		for (uint8_t type = 0; type < BDEV_IO_TYPES; type++) {
			assert_int_equal(io(&disk, type, BLOCK, data, BLOCK), 0);
			assert_int_equal(disk.request->finishes, type + 1);
		}
		assert_int_equal(io(&disk, BDEV_IO_TYPES, 0, data, BLOCK), -EOPNOTSUPP);
		assert_int_equal(io(&disk, BDEV_READ, DISK_BYTES, data, BLOCK), -EINVAL);
		close_disk(&disk, modules[i]);
	}
}

static void
test_malloc_begins_with_zeroes(void **state)
{
	struct disk disk = open_disk("malloc");

	(void)state;
	expect_bytes(&disk, 0, DISK_BYTES, 0);
	close_disk(&disk, "malloc");
}

/* Scattered over buffers of odd lengths at odd addresses, and back, at both ends of the disk. */
static void
test_malloc_reads_what_was_written(void **state)
{
	static const uint64_t offsets[] = {0, BLOCK, DISK_BYTES / 2, DISK_BYTES - 4 * BLOCK};
	static const size_t lengths[] = {1, 510, 0, 1000, 7, 530};
	uint8_t data[4 * BLOCK + 8], back[4 * BLOCK + 8];
	struct iovec iov[ARRAY_SIZE(lengths)];
	struct disk disk = open_disk("malloc");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		size_t at = 1;

		for (size_t j = 0; j < sizeof(data); j++)
			data[j] = (uint8_t)(31 * j + i);
		for (size_t j = 0; j < ARRAY_SIZE(lengths); j++) {
			iov[j] = (struct iovec){data + at, lengths[j]};
			at += lengths[j];
		}
		assert_int_equal(at - 1, 4 * BLOCK);
		rig_request_set(disk.request, BDEV_WRITE, offsets[i], NULL, 4 * BLOCK);
		disk.request->rq.iov = iov;
		disk.request->rq.iovcnt = ARRAY_SIZE(lengths);
		assert_int_equal(rig_do(disk.channel, rig_io[0], disk.request), 0);

		memset(back, 0, sizeof(back));
		assert_int_equal(io(&disk, BDEV_READ, offsets[i], back, 4 * BLOCK), 0);
		assert_memory_equal(back, data + 1, 4 * BLOCK);
		/* The same the other way round. */
		memset(data, 0, sizeof(data));
		rig_request_set(disk.request, BDEV_READ, offsets[i], NULL, 4 * BLOCK);
		disk.request->rq.iov = iov;
		disk.request->rq.iovcnt = ARRAY_SIZE(lengths);
		assert_int_equal(rig_do(disk.channel, rig_io[0], disk.request), 0);
		assert_memory_equal(back, data + 1, 4 * BLOCK);
		assert_int_equal(data[0], 0);
		assert_int_equal(data[4 * BLOCK + 1], 0);
	}
	close_disk(&disk, "malloc");
}

/*
 * Ranges of all kinds: short ones, long ones whose pages are given back, with and without odd ends.
 */
static void
test_malloc_zeroes_just_the_range(void **state)
{
	static const struct {
		uint64_t offset, length;
	} ranges[] = {
		{0, BLOCK},
		{BLOCK, 4096},
		{0, 128 * 1024 - BLOCK},
		{0, 128 * 1024},
		{3 * BLOCK, 128 * 1024},
		{4096, 128 * 1024 + BLOCK},
		{5 * BLOCK, 512 * 1024 + 3 * BLOCK},
		{DISK_BYTES - 256 * 1024 - BLOCK, 256 * 1024 + BLOCK},
		{0, DISK_BYTES},
	};
	struct disk disk = open_disk("malloc");
	uint8_t *pattern = malloc(DISK_BYTES);

	(void)state;
	assert_non_null(pattern);
	memset(pattern, PATTERN, DISK_BYTES);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(ranges); i++) {
		uint64_t offset = ranges[i / 2].offset, length = ranges[i / 2].length;
		uint64_t end = offset + length;

		assert_int_equal(io(&disk, BDEV_WRITE, 0, pattern, DISK_BYTES), 0);
		assert_int_equal(
			io(&disk, i % 2 ? BDEV_DISCARD : BDEV_WRITE_ZEROES, offset, NULL, length),
			0);
		if (offset > 0)
			expect_bytes(&disk, 0, offset, PATTERN);
		expect_bytes(&disk, offset, length, 0);
		if (end < DISK_BYTES)
			expect_bytes(&disk, end, DISK_BYTES - end, PATTERN);
	}
	free(pattern);
	close_disk(&disk, "malloc");
}

/* One memory behind all channels, and a disk of its own for each. */
static void
test_malloc_is_shared_between_threads(void **state)
{
	struct disk disk = open_disk("malloc");
	struct bdev_channel *other = rig_channel(disk.desc, rig_io[1]);
	uint8_t data[BLOCK], back[BLOCK] = {0};
	struct bdev_desc *second_desc;
	struct bdev_channel *second;

	(void)state;
	memset(data, PATTERN, sizeof(data));
	assert_int_equal(io(&disk, BDEV_WRITE, 0, data, BLOCK), 0);
	rig_request_set(disk.request, BDEV_READ, 0, back, BLOCK);
	assert_int_equal(rig_do(other, rig_io[1], disk.request), 0);
	assert_memory_equal(back, data, BLOCK);

	assert_int_equal(try_create("malloc", "second", NULL, BLOCKS, BLOCK), 0);
	second_desc = rig_open("second", false);
	second = rig_channel(second_desc, rig_io[0]);
	rig_request_set(disk.request, BDEV_READ, 0, back, BLOCK);
	assert_int_equal(rig_do(second, rig_io[0], disk.request), 0);
	for (size_t i = 0; i < BLOCK; i++)
		assert_int_equal(back[i], 0);
	rig_channel_put(second, rig_io[0]);
	rig_close(second_desc);
	rig_channel_put(other, rig_io[1]);
	close_disk(&disk, "malloc");
}

/* ---- requests that follow each other ---- */

static struct {
	struct bdev_channel *channel;
	unsigned int left, done;
	bool flush;
} chain;

static void
submit_next(struct bdev_request *rq, int status)
{
	assert_int_equal(status, 0);
	chain.done++;
	if (chain.left == 0)
		return;
	chain.left--;
	bdev_submit(chain.channel, rq);
	if (chain.flush)
		bdev_flush_submissions(chain.channel);
}

/*
 * Those who are told of an end go on at once, with a flush or without: none is lost, and the stack
 * stays flat.
 */
static void
test_malloc_goes_on(void **state)
{
	enum { BATCH = 8, COUNT = 300000 };
	static uint8_t data[BLOCK];
	struct rig_request *requests[BATCH];
	struct disk disk = open_disk("malloc");

	(void)state;
	for (int flush = 0; flush < 2; flush++) {
		chain.channel = disk.channel;
		chain.left = COUNT;
		chain.done = 0;
		chain.flush = flush != 0;
		thread_set_current(rig_io[0]);
		for (unsigned int i = 0; i < BATCH; i++) {
			requests[i] = rig_request_new(disk.bdev);
			rig_request_set(requests[i], i % 2 ? BDEV_READ : BDEV_WRITE, BLOCK * i,
					data, BLOCK);
			requests[i]->rq.done = submit_next;
			bdev_submit(disk.channel, &requests[i]->rq);
		}
		bdev_flush_submissions(disk.channel);
		thread_set_current(NULL);
		assert_int_equal(chain.done, COUNT + BATCH);
		for (unsigned int i = 0; i < BATCH; i++)
			free(requests[i]);
	}
	close_disk(&disk, "malloc");
}

/* ---- growing ---- */

static unsigned int resizes;

static void
on_event(void *ctx, enum bdev_event event)
{
	(void)ctx;
	assert_int_equal(event, BDEV_EVENT_RESIZE);
	resizes++;
}

static void
test_null_resize(void **state)
{
	struct bdev_desc *desc = NULL;
	const struct bdev_info *info;

	(void)state;
	resizes = 0;
	assert_int_equal(try_create("null", "disk", UUID, BLOCKS, BLOCK), 0);
	assert_int_equal(try_create("malloc", "other", NULL, BLOCKS, BLOCK), 0);
	thread_set_current(rig_app);
	assert_int_equal(
		bdev_open("disk", BDEV_WRITES, "the test", on_event, NULL, &desc, &rig_err), 0);
	info = bdev_get_info(bdev_desc_bdev(desc));
	assert_int_equal(bdev_null_resize("disk", 3, &rig_err), 0);
	assert_int_equal(info->size, 3u << 20);
	assert_int_equal(info->num_blocks, (3u << 20) / BLOCK);
	assert_int_equal(bdev_null_resize(UUID, 3, &rig_err), 0);
	assert_int_equal(resizes, 1);
	assert_int_equal(bdev_null_resize("disk", 2, &rig_err), -EINVAL);
	assert_int_equal(bdev_null_resize("disk", 0, &rig_err), -EINVAL);
	assert_int_equal(bdev_null_resize("disk", 1ULL << 43, &rig_err), -EINVAL);
	assert_int_equal(bdev_null_resize("disk", 1ULL << 44, &rig_err), -EINVAL);
	assert_int_equal(bdev_null_resize("disk", (1ULL << 44) + 4, &rig_err), -EINVAL);
	assert_int_equal(bdev_null_resize("disk", UINT64_MAX, &rig_err), -EINVAL);
	assert_int_equal(bdev_null_resize("other", 3, &rig_err), -ENODEV);
	assert_int_equal(bdev_null_resize("none", 3, &rig_err), -ENODEV);
	assert_int_equal(info->size, 3u << 20);
	assert_int_equal(resizes, 1);
	bdev_close(desc);
	thread_set_current(NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_description, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_bad_parameters, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_too_large, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_names, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_delete, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_physical, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_config, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_null_forgets, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_every_type, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_begins_with_zeroes, rig_setup,
						rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_reads_what_was_written, rig_setup,
						rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_zeroes_just_the_range, rig_setup,
						rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_is_shared_between_threads, rig_setup,
						rig_teardown),
		cmocka_unit_test_setup_teardown(test_malloc_goes_on, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_null_resize, rig_setup, rig_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
