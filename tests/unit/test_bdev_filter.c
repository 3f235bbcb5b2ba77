/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block devices on top of others: requests, sizes, memory and ends pass through; error and delay.
 */
/* links: bdev testlib thread env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <errno.h>
#include <sys/mman.h>

#include "bdev_fake.h"
#include "bdev/bdev_core.h"
#include "fault.h"
#include "ticks.h"

#define PAGE     4096
#define REQUESTS 256

static uint8_t data[REQUESTS][PAGE];
static struct bdev *upper;
static struct bdev_desc *upper_desc;
static struct bdev_channel *channel, *other;
static struct rig_request *requests[REQUESTS];

/* ---- making them ---- */

struct create_call {
	struct bdev_delay_opts delay; /* name NULL: an error bdev */
	struct bdev_error_opts error;
	bool faulty;
	unsigned int good;
	struct bdev *bdev;
	int rc;
};

static void
create_run(void *arg)
{
	struct create_call *call = arg;

	rig_err.text[0] = '\0';
	if (call->faulty)
		fault_after(call->good);
	if (call->delay.name != NULL)
		call->rc = bdev_delay_create(&call->delay, &call->bdev, &rig_err);
	else
		call->rc = bdev_error_create(&call->error, &call->bdev, &rig_err);
}

static struct bdev *
create_delay(const char *name, const char *base, uint64_t avg_us, uint64_t p99_us)
{
	struct create_call call = {
		.delay = {.name = name,
			  .base = base,
			  .latency_us = {avg_us, p99_us, 2 * avg_us, 2 * p99_us}}};

	rig_run(create_run, &call);
	assert_int_equal(call.rc, 0);
	return call.bdev;
}

static struct bdev *
create_error(const char *name, const char *base)
{
	struct create_call call = {.error = {.name = name, .base = base}};

	rig_run(create_run, &call);
	assert_int_equal(call.rc, 0);
	return call.bdev;
}

static void
start_lower(void)
{
	struct bdev_info info = fake_info("low");

	assert_int_equal(fake_register(&info), 0);
}

/* Opens it, with a channel on each thread. */
static void
use(struct bdev *bdev)
{
	upper = bdev;
	upper_desc = rig_open(bdev_get_info(bdev)->name, true);
	channel = rig_channel(upper_desc, rig_io[0]);
	other = rig_channel(upper_desc, rig_io[1]);
	for (int i = 0; i < REQUESTS; i++) {
		requests[i] = rig_request_new(bdev);
		requests[i]->finished = true;
	}
}

static void
unuse(void)
{
	for (int i = 0; i < REQUESTS; i++) {
		assert_true(requests[i]->finished);
		free(requests[i]);
	}
	rig_channel_put(channel, rig_io[0]);
	rig_channel_put(other, rig_io[1]);
	rig_close(upper_desc);
}

static void
stop(const char *module)
{
	unuse();
	assert_int_equal(rig_delete("low", "fake"), -EBUSY);
	assert_non_null(strstr(rig_err.text, bdev_get_info(upper)->name));
	assert_int_equal(rig_delete(bdev_get_info(upper)->name, module), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
	assert_int_equal(fake.destroyed, 1);
	assert_int_equal(fake.channels, 0);
	assert_int_equal(fake.left_mapped, 0);
}

static void
submit(unsigned int i, uint8_t type)
{
	rig_request_set(requests[i], type, i * PAGE, data[i], PAGE);
	rig_submit(i % 2 ? other : channel, rig_io[i % 2], requests[i]);
}

static unsigned int
finished(unsigned int count)
{
	unsigned int done = 0;

	for (unsigned int i = 0; i < count; i++)
		done += requests[i]->finished;
	return done;
}

static void
advance_us(uint64_t us)
{
	ticks_advance_us(us);
	rig_poll();
	rig_poll();
}

/* ---- passing through ---- */

static void
test_same_device(void **state)
{
	const struct bdev_info *low, *high;

	(void)state;
	start_lower();
	use(create_error(NULL, "low"));
	low = bdev_get_info(fake.bdev);
	high = bdev_get_info(upper);
	assert_string_equal(high->name, "EE_low");
	assert_string_not_equal(high->uuid, low->uuid);
	assert_int_equal(high->num_blocks, low->num_blocks);
	assert_int_equal(high->block_size, low->block_size);
	assert_int_equal(high->io_types, low->io_types);
	assert_true(high->write_cache);
	memset(data[0], 7, PAGE);
	for (uint8_t type = BDEV_READ; type < BDEV_RESET; type++) {
		unsigned int before = fake.logged;
		bool ranged = type != BDEV_FLUSH;

		rig_request_set(requests[0], type, ranged ? PAGE : 0, data[0], ranged ? PAGE : 0);
		requests[0]->rq.flags = type == BDEV_WRITE_ZEROES ? BDEV_UNMAP : 0;
		rig_submit(channel, rig_io[0], requests[0]);
		assert_true(requests[0]->finished && requests[0]->status == 0);
		assert_int_equal(fake.logged, before + 1);
		assert_int_equal(fake.log[before].type, type);
		assert_int_equal(fake.log[before].flags, requests[0]->rq.flags);
		assert_int_equal(fake.log[before].length, ranged ? PAGE : 0);
	}
	/* Errors of the lower one, and its own. */
	fake.fail_at = 1;
	fake.fail_status = -ENODATA;
	submit(0, BDEV_READ);
	assert_int_equal(requests[0]->status, -ENODATA);
	rig_request_set(requests[0], BDEV_READ, FAKE_SIZE, data[0], PAGE);
	rig_submit(channel, rig_io[0], requests[0]);
	assert_int_equal(requests[0]->status, -EINVAL);
	stop("error");
}

/* The flush that FUA needs is added once, by the core of the one that needs it. */
static void
test_fua(void **state)
{
	(void)state;
	start_lower();
	use(create_delay("d", "low", 0, 0));
	rig_request_set(requests[0], BDEV_WRITE, 0, data[0], PAGE);
	requests[0]->rq.flags = BDEV_FUA;
	rig_submit(channel, rig_io[0], requests[0]);
	assert_int_equal(requests[0]->status, 0);
	assert_int_equal(fake.logged, 2);
	assert_int_equal(fake.log[1].type, BDEV_FLUSH);
	stop("delay");
}

static void
test_read_only(void **state)
{
	struct bdev_info info = fake_info("low");
	struct bdev_desc *desc = NULL;

	(void)state;
	info.read_only = true;
	assert_int_equal(fake_register(&info), 0);
	upper = create_delay("d", "low", 0, 0);
	assert_true(bdev_get_info(upper)->read_only);
	thread_set_current(rig_app);
	assert_int_equal(bdev_open("d", BDEV_WRITES, "t", NULL, NULL, &desc, &rig_err), -EROFS);
	thread_set_current(NULL);
	assert_int_equal(rig_delete("d", "error"), -ENODEV);
	assert_int_equal(rig_delete("d", "delay"), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
}

static struct bdev_desc *
open_as(const char *name, enum bdev_use how, int expected)
{
	struct bdev_desc *desc = NULL;

	thread_set_current(rig_app);
	assert_int_equal(bdev_open(name, how, how == BDEV_WRITES_ALONE ? "scsi" : "blk", NULL, NULL,
				   &desc, &rig_err),
			 expected);
	thread_set_current(NULL);
	return desc;
}

static void
expect_create_error(const char *base, int rc)
{
	struct create_call call = {.error = {.name = "another", .base = base}};

	rig_run(create_run, &call);
	assert_int_equal(call.rc, rc);
}

/* Who writes the upper one alone is alone all the way down. */
static void
test_alone(void **state)
{
	struct bdev_desc *alone, *desc;

	(void)state;
	start_lower();
	create_error("e", "low");
	create_delay("d", "e", 0, 0);
	alone = open_as("d", BDEV_WRITES_ALONE, 0);
	open_as("low", BDEV_WRITES, -EBUSY);
	assert_non_null(strstr(rig_err.text, "block device low is in use by block device e"));
	open_as("e", BDEV_WRITES, -EBUSY);
	open_as("low", BDEV_WRITES_ALONE, -EBUSY);
	expect_create_error("low", -EBUSY);
	expect_create_error("d", -EBUSY);
	rig_close(open_as("low", BDEV_READS, 0));
	rig_close(alone);
	desc = open_as("low", BDEV_WRITES, 0);
	open_as("d", BDEV_WRITES_ALONE, -EBUSY);
	assert_non_null(strstr(rig_err.text, "block device low is in use by blk"));
	rig_close(open_as("d", BDEV_WRITES, 0));
	rig_close(desc);
	/* The one on top may write it. */
	open_as("e", BDEV_WRITES_ALONE, -EBUSY);
	assert_int_equal(rig_delete("d", "delay"), 0);
	rig_close(open_as("e", BDEV_WRITES_ALONE, 0));
	assert_int_equal(rig_delete("e", "error"), 0);
	rig_close(open_as("low", BDEV_WRITES_ALONE, 0));
	assert_int_equal(rig_delete("low", "fake"), 0);
}

static unsigned int resizes;
static bool removed;

static void
on_event(void *ctx, enum bdev_event event)
{
	(void)ctx;
	resizes += event == BDEV_EVENT_RESIZE;
	removed |= event == BDEV_EVENT_REMOVE;
}

static void
test_resize(void **state)
{
	struct bdev_desc *desc;

	(void)state;
	start_lower();
	create_error("e", "low");
	use(create_delay("d", "e", 0, 0));
	resizes = 0;
	thread_set_current(rig_app);
	assert_int_equal(bdev_open("d", BDEV_READS, "t", on_event, NULL, &desc, &rig_err), 0);
	assert_int_equal(bdev_resize(fake.bdev, FAKE_BLOCKS / 2), 0);
	thread_set_current(NULL);
	assert_int_equal(resizes, 1);
	assert_int_equal(bdev_get_info(upper)->num_blocks, FAKE_BLOCKS / 2);
	rig_request_set(requests[0], BDEV_READ, FAKE_SIZE / 2, data[0], PAGE);
	rig_submit(channel, rig_io[0], requests[0]);
	assert_int_equal(requests[0]->status, -EINVAL);
	rig_close(desc);
	unuse();
	assert_int_equal(rig_delete("d", "delay"), 0);
	assert_int_equal(rig_delete("e", "error"), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
}

static int
grow(void *bdev_ctx, uint64_t *num_blocks, struct errmsg *err)
{
	(void)bdev_ctx;
	(void)err;
	*num_blocks = FAKE_BLOCKS * 2;
	return 0;
}

static void
rescan_run(void *arg)
{
	*(int *)arg = bdev_rescan("d", &rig_err);
}

static void
test_rescan(void **state)
{
	int rc = 1;

	(void)state;
	fake.ops.rescan = grow;
	start_lower();
	use(create_delay("d", "low", 0, 0));
	rig_run(rescan_run, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(bdev_get_info(upper)->num_blocks, FAKE_BLOCKS * 2);
	assert_int_equal(bdev_get_info(fake.bdev)->num_blocks, FAKE_BLOCKS * 2);
	stop("delay");
}

/* On an OS thread of its own, as it must be. */
struct map_call {
	struct bdev_memory *memory;
	void *addr;
	int rc;
	bool finished;
};

static int
map_blocking(void *arg)
{
	struct map_call *call = arg;

	return bdev_memory_map(upper_desc, call->addr, PAGE, -1, 0, &call->memory, &rig_err);
}

static void
map_run(void *arg)
{
	struct map_call *call = arg;

	call->rc = coroutine_blocking(map_blocking, call);
}

static void
test_memory(void **state)
{
	struct map_call calls[3] = {0};
	uint8_t *pages =
		mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	fake_use_dma();
	start_lower();
	create_error("e", "low");
	use(create_delay("d", "e", 0, 0));
	for (int i = 0; i < 3; i++) {
		calls[i].addr = pages + i * PAGE;
		if (i == 2)
			fake.map_fail_at = 1;
		rig_run(map_run, &calls[i]);
		assert_int_equal(calls[i].rc, i == 2 ? -ENOMEM : 0);
	}
	assert_int_equal(fake.mapped, 2);
	assert_ptr_equal(fake.maps[0].addr, pages);
	bdev_memory_unmap(calls[0].memory);
	assert_int_equal(fake.mapped, 1);
	assert_int_equal(fake.bad_unmaps, 0);
	unuse();
	/* One is left, and unmapped with the device, before its handle comes back. */
	assert_int_equal(rig_delete("d", "delay"), 0);
	assert_int_equal(fake.mapped, 0);
	assert_int_equal(rig_delete("e", "error"), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
	bdev_memory_unmap(calls[1].memory);
	assert_int_equal(fake.bad_unmaps, 0);
	munmap(pages, 3 * PAGE);
}

/* A device without DMA needs no whole pages, on top neither. */
static void
test_no_memory_map(void **state)
{
	struct map_call call = {.addr = data[0] + 1};

	(void)state;
	start_lower();
	use(create_delay("d", "low", 0, 0));
	rig_run(map_run, &call);
	assert_int_equal(call.rc, 0);
	assert_null(call.memory);
	stop("delay");
}

static void
test_create_errors(void **state)
{
	struct create_call call = {.delay = {.name = "d", .base = "none"}};
	bool happened = true;

	(void)state;
	start_lower();
	rig_run(create_run, &call);
	assert_int_equal(call.rc, -ENODEV);
	assert_non_null(strstr(rig_err.text, "none"));
	call = (struct create_call){.delay = {.name = "low", .base = "low"}};
	rig_run(create_run, &call);
	assert_int_equal(call.rc, -EEXIST);
	call = (struct create_call){.delay = {.name = "a/b", .base = "low"}};
	rig_run(create_run, &call);
	assert_int_equal(call.rc, -EINVAL);
	call = (struct create_call){.delay = {.name = "d", .base = "low", .uuid = "1"}};
	rig_run(create_run, &call);
	assert_int_equal(call.rc, -EINVAL);
	for (int kind = 0; kind < 2; kind++) {
		happened = true;
		for (unsigned int good = 0; happened; good++) {
			call = (struct create_call){.error = {.base = "low"}};
			if (kind == 0)
				call.delay = (struct bdev_delay_opts){.name = "d", .base = "low"};
			call.faulty = true;
			call.good = good;
			rig_run(create_run, &call);
			happened = fault_end();
			assert_int_equal(call.rc, happened ? -ENOMEM : 0);
		}
	}
	assert_int_equal(rig_delete("d", "delay"), 0);
	assert_int_equal(rig_delete("EE_low", "error"), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
}

static void
test_channel_errors(void **state)
{
	unsigned int failed = 0;
	bool happened = true;

	(void)state;
	start_lower();
	use(create_delay("d", "low", 1, 1));
	rig_channel_put(other, rig_io[1]);
	rig_settle();
	for (unsigned int good = 0; happened; good++) {
		thread_set_current(rig_io[1]);
		fault_after(good);
		other = bdev_channel_get(upper_desc);
		happened = fault_end();
		if (happened) {
			assert_null(other);
			assert_int_equal(errno, ENOMEM);
			failed++;
		}
		thread_set_current(NULL);
		rig_settle();
	}
	assert_true(failed > 4);
	stop("delay");
}

static void
test_config(void **state)
{
	json_t *array, *entry;

	(void)state;
	start_lower();
	create_error("e", "low");
	upper = create_delay("d", bdev_get_info(bdev_by_name("e"))->uuid, 5, 6);
	array = bdev_config_json();
	assert_int_equal(json_array_size(array), 2);
	entry = json_pack("{s:s, s:{s:s, s:s, s:s}}", "method", "bdev_error_create", "params",
			  "base_name", "low", "name", "e", "uuid",
			  bdev_get_info(bdev_by_name("e"))->uuid);
	assert_true(json_equal(json_array_get(array, 0), entry));
	json_decref(entry);
	entry = json_pack("{s:s, s:{s:s, s:s, s:s, s:i, s:i, s:i, s:i}}", "method",
			  "bdev_delay_create", "params", "name", "d", "base_bdev_name", "e", "uuid",
			  bdev_get_info(upper)->uuid, "avg_read_latency", 5, "p99_read_latency", 6,
			  "avg_write_latency", 10, "p99_write_latency", 12);
	assert_true(json_equal(json_array_get(array, 1), entry));
	json_decref(entry);
	json_decref(array);
	entry = bdev_driver_specific(upper);
	assert_non_null(json_object_get(entry, "delay"));
	json_decref(entry);
	assert_int_equal(rig_delete("d", "delay"), 0);
	assert_int_equal(rig_delete("e", "error"), 0);
	assert_int_equal(rig_delete("low", "fake"), 0);
}

/* ---- the lower one goes ---- */

static void
remove_run(void *arg)
{
	bdev_remove(fake.bdev);
	*(bool *)arg = true;
}

/* Each one that is removed takes the one on top of it along; requests that are held back end. */
static void
test_removal(void **state)
{
	struct bdev_error_injection pending = {
		.io_type = "write", .error_type = "pending", .count = 2};
	struct bdev_desc *desc;
	bool gone = false;

	(void)state;
	start_lower();
	create_error("e", "low");
	use(create_delay("d", "e", 1000000, 1000000));
	thread_set_current(rig_app);
	assert_int_equal(bdev_error_inject("e", &pending, &rig_err), 0);
	assert_int_equal(bdev_open("d", BDEV_WRITES, "t", on_event, NULL, &desc, &rig_err), 0);
	thread_set_current(NULL);
	submit(0, BDEV_READ); /* delayed */
	submit(1, BDEV_READ);
	submit(2, BDEV_WRITE); /* pending */
	submit(3, BDEV_WRITE);
	rig_poll();
	assert_int_equal(finished(4), 0);
	removed = false;
	assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &gone), 0);
	rig_settle();
	assert_true(removed);
	assert_int_equal(finished(4), 4);
	assert_int_equal(requests[0]->status, 0);
	assert_int_equal(requests[2]->status, -ECANCELED);
	submit(4, BDEV_WRITE); /* nothing is held back any more */
	assert_true(requests[4]->finished);
	assert_false(gone);
	unuse();
	rig_close(desc);
	rig_wait(&gone);
	assert_null(bdev_next(NULL));
	assert_int_equal(fake.destroyed, 1);
}

/* Who deletes the upper one meanwhile is no problem, nor is no memory. */
static void
test_removal_races(void **state)
{
	(void)state;
	for (unsigned int good = 0; good < 6; good++) {
		struct rig_delete delete = {.name = "d", .module = "delay"};
		bool gone = false;

		fake.destroyed = 0;
		if (fake.memory == NULL)
			fake_reset();
		start_lower();
		create_delay("d", "low", 0, 0);
		assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &gone), 0);
		if (good > 0)
			fault_after(good - 1);
		rig_poll();
		fault_end();
		assert_int_equal(coroutine_start(rig_app, "delete", rig_delete_run, &delete), 0);
		for (int i = 0; i < 1000 && !(gone && delete.finished); i++) {
			rig_settle();
			ticks_advance_us(1000); /* without memory it is tried again */
		}
		assert_true(gone && delete.finished);
		assert_null(bdev_next(NULL));
	}
}

/* ---- errors ---- */

static struct bdev_error_injection injection;

static void
inject_run(void *arg)
{
	*(int *)arg = bdev_error_inject(bdev_get_info(upper)->name, &injection, &rig_err);
}

static int
inject(const char *io_type, const char *error_type, uint32_t count)
{
	int rc = 1;

	injection.io_type = io_type;
	injection.error_type = error_type;
	injection.count = count;
	rig_run(inject_run, &rc);
	return rc;
}

static void
start_error(void)
{
	injection = (struct bdev_error_injection){0};
	start_lower();
	use(create_error(NULL, "low"));
}

static void
test_failures(void **state)
{
	static const struct {
		const char *name;
		int status;
	} kinds[] = {{"failure", -EIO}, {"nomem", -ENOMEM}};

	(void)state;
	start_error();
	for (int i = 0; i < 2; i++) {
		assert_int_equal(inject("write", kinds[i].name, 2), 0);
		submit(0, BDEV_READ);
		assert_int_equal(requests[0]->status, 0);
		/* Of all threads together. */
		for (unsigned int n = 1; n < 4; n++) {
			submit(n, BDEV_WRITE);
			assert_int_equal(requests[n]->status, n < 3 ? kinds[i].status : 0);
		}
		assert_int_equal(inject("all", kinds[i].name, 1), 0);
		for (uint8_t type = BDEV_READ; type < BDEV_RESET; type++) {
			unsigned int before = fake.logged;

			submit(type, type);
			assert_int_equal(requests[type]->status, kinds[i].status);
			assert_int_equal(fake.logged, before);
			submit(type, type);
			assert_int_equal(requests[type]->status, 0);
		}
	}
	assert_int_equal(inject("read", "failure", 5), 0);
	assert_int_equal(inject("read", "failure", 0), 0);
	submit(0, BDEV_READ);
	assert_int_equal(requests[0]->status, 0);
	stop("error");
}

static void
test_pending(void **state)
{
	(void)state;
	start_error();
	assert_int_equal(inject("read", "pending", 3), 0);
	for (unsigned int i = 0; i < 4; i++)
		submit(i, BDEV_READ);
	advance_us(100000000);
	assert_int_equal(finished(4), 1);
	assert_true(requests[3]->finished);
	assert_int_equal(inject("write", "failure", 10), 0);
	assert_int_equal(inject("clear", "failure", 1), 0);
	assert_int_equal(finished(4), 4);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(requests[i]->status, -EIO);
	submit(0, BDEV_WRITE);
	assert_int_equal(requests[0]->status, 0);
	/* A reset ends them, too, on each thread, and what comes after it is not pending. */
	assert_int_equal(inject("all", "pending", 1), 0);
	submit(0, BDEV_READ);
	submit(1, BDEV_WRITE);
	rig_request_set(requests[2], BDEV_RESET, 0, NULL, 0);
	rig_submit(channel, rig_io[0], requests[2]);
	rig_settle();
	assert_int_equal(finished(3), 3);
	assert_int_equal(requests[0]->status, -ECANCELED);
	assert_int_equal(requests[1]->status, -ECANCELED);
	assert_int_equal(requests[2]->status, 0);
	stop("error");
}

static void
test_queue_depth(void **state)
{
	(void)state;
	start_error();
	injection.queue_depth = 2;
	assert_int_equal(inject("read", "failure", 1), 0);
	submit(0, BDEV_READ);
	assert_int_equal(requests[0]->status, 0); /* alone */
	fake.delayed = true;
	submit(0, BDEV_READ);
	submit(2, BDEV_READ);
	submit(1, BDEV_READ); /* of the other thread */
	assert_int_equal(finished(3), 0);
	submit(4, BDEV_READ);
	assert_true(requests[4]->finished && requests[4]->status == -EIO);
	assert_true(fake_complete_one(rig_io[0]) && fake_complete_one(rig_io[0]) &&
		    fake_complete_one(rig_io[1]));
	fake.delayed = false;
	stop("error");
}

static void
test_corrupt(void **state)
{
	struct iovec iov[3] = {{data[10], 512}, {data[11], 1536}, {data[12], 2048}};

	(void)state;
	start_error();
	for (int i = 0; i < REQUESTS; i++)
		memset(data[i], i, PAGE);
	injection.corrupt_value = 0x81;
	injection.corrupt_offset = 700;
	assert_int_equal(inject("write", "corrupt_data", 1), 0);
	rig_request_set(requests[10], BDEV_WRITE, 10 * PAGE, NULL, PAGE);
	requests[10]->rq.iov = iov;
	requests[10]->rq.iovcnt = 3;
	rig_submit(channel, rig_io[0], requests[10]);
	assert_int_equal(requests[10]->status, 0);
	assert_int_equal(data[11][188], 11); /* the guest's own stays */
	for (int i = 0; i < PAGE; i++)
		assert_int_equal(fake.memory[10 * PAGE + i], i == 700   ? 11 ^ 0x81
							     : i < 512  ? 10
							     : i < 2048 ? 11
									: 12);
	assert_int_equal(inject("all", "corrupt_data", 1), 0);
	submit(10, BDEV_READ);
	assert_int_equal(data[10][700], 11);
	assert_int_equal(data[10][701], 11);
	assert_int_equal(data[10][699], 11);
	submit(10, BDEV_FLUSH); /* has no data */
	assert_int_equal(requests[10]->status, 0);
	/* What is shorter, and what fails below, stays as it is. */
	injection.corrupt_offset = PAGE;
	assert_int_equal(inject("read", "corrupt_data", 1), 0);
	submit(10, BDEV_READ);
	assert_memory_equal(data[10], fake.memory + 10 * PAGE, PAGE);
	injection.corrupt_offset = 0;
	assert_int_equal(inject("read", "corrupt_data", 1), 0);
	fake.fail_at = 1;
	fake.fail_status = -EIO;
	submit(10, BDEV_READ);
	assert_int_equal(requests[10]->status, -EIO);
	assert_memory_equal(data[10], fake.memory + 10 * PAGE, PAGE);
	/* First and last byte; no memory. */
	memset(data[10], 1, PAGE);
	for (int end = 0; end < 2; end++) {
		injection.corrupt_offset = end ? PAGE - 1 : 0;
		assert_int_equal(inject("write", "corrupt_data", 1), 0);
		submit(10, BDEV_WRITE);
		assert_int_equal(fake.memory[10 * PAGE + (end ? PAGE - 1 : 0)], 0x80);
		assert_int_equal(fake.memory[10 * PAGE + (end ? 0 : PAGE - 1)], 1);
	}
	assert_int_equal(inject("write", "corrupt_data", 1), 0);
	fault_after(0);
	submit(10, BDEV_WRITE);
	assert_true(fault_end());
	assert_int_equal(requests[10]->status, -ENOMEM);
	stop("error");
}

static void
test_bad_injections(void **state)
{
	(void)state;
	start_error();
	assert_int_equal(inject("reset", "failure", 1), -EINVAL);
	assert_int_equal(inject("read", "timeout", 1), -EINVAL);
	assert_int_equal(inject("read", "corrupt_data", 1), -EINVAL);
	injection.corrupt_value = 1;
	assert_int_equal(inject("unmap", "corrupt_data", 1), -EINVAL);
	upper = fake.bdev;
	assert_int_equal(inject("read", "failure", 1), -ENODEV);
	upper = bdev_by_name("EE_low");
	stop("error");
}

/* ---- delays ---- */

static void
test_latencies(void **state)
{
	(void)state;
	start_lower();
	use(create_delay("d", "low", 50, 700));
	/* One thread's, the hundredth of which is slower. */
	for (unsigned int i = 0; i < 200; i += 2)
		submit(i, BDEV_READ);
	assert_int_equal(finished(200), 100); /* the odd ones, which are not used */
	advance_us(49);
	assert_int_equal(finished(200), 100);
	advance_us(1);
	assert_int_equal(finished(200), 199);
	advance_us(648);
	assert_int_equal(finished(200), 199);
	advance_us(2);
	assert_int_equal(finished(200), 200);
	assert_int_equal(thread_next_due(rig_io[0]), UINT64_MAX);
	submit(1, BDEV_WRITE);
	submit(3, BDEV_WRITE_ZEROES);
	submit(5, BDEV_READ);
	advance_us(50);
	assert_false(requests[1]->finished || requests[3]->finished);
	assert_true(requests[5]->finished);
	advance_us(50);
	assert_true(requests[1]->finished && requests[3]->finished);
	submit(0, BDEV_FLUSH);
	submit(2, BDEV_DISCARD);
	assert_true(requests[0]->finished && requests[2]->finished);
	/* On top of the lower one's own; its failures, too. */
	fake.delayed = true;
	submit(0, BDEV_READ);
	advance_us(1000);
	fake.fail_at = 1;
	fake.fail_status = -EIO;
	assert_true(fake_complete_one(rig_io[0]));
	fake.delayed = false;
	advance_us(49);
	assert_false(requests[0]->finished);
	advance_us(1);
	assert_true(requests[0]->finished);
	assert_int_equal(requests[0]->status, -EIO);
	stop("delay");
}

struct update_call {
	const char *name, *kind;
	uint64_t us;
	int rc;
};

static void
update_run(void *arg)
{
	struct update_call *call = arg;

	call->rc = bdev_delay_update(call->name, call->kind, call->us, &rig_err);
}

static int
update(const char *name, const char *kind, uint64_t us)
{
	struct update_call call = {name, kind, us, 1};

	rig_run(update_run, &call);
	return call.rc;
}

static void
test_update(void **state)
{
	(void)state;
	start_lower();
	use(create_delay("d", "low", 3600000000, 3600000000));
	submit(0, BDEV_READ);
	submit(1, BDEV_READ);
	submit(3, BDEV_WRITE);
	rig_poll();
	assert_int_equal(update("d", "avg_read", 100), 0);
	advance_us(99);
	assert_int_equal(finished(4), 1);
	advance_us(1);
	assert_int_equal(finished(4), 3);
	assert_int_equal(update("d", "avg_write", 0), 0);
	advance_us(1);
	assert_int_equal(finished(4), 4);
	submit(3, BDEV_WRITE);
	assert_true(requests[3]->finished);
	assert_int_equal(update("d", "p99_read", INT64_MAX), 0);
	assert_int_equal(update("d", "p99_write", 0), 0);
	assert_int_equal(update("d", "p50_read", 1), -EINVAL);
	assert_int_equal(update("low", "avg_read", 1), -ENODEV);
	assert_int_equal(update("none", "avg_read", 1), -ENODEV);
	stop("delay");
}

static void
test_delay_reset(void **state)
{
	(void)state;
	start_lower();
	use(create_delay("d", "low", UINT64_MAX, UINT64_MAX));
	for (unsigned int i = 0; i < 8; i++)
		submit(i, BDEV_READ);
	rig_request_set(requests[8], BDEV_RESET, 0, NULL, 0);
	rig_submit(channel, rig_io[0], requests[8]);
	rig_settle();
	assert_int_equal(finished(9), 9);
	for (unsigned int i = 0; i < 9; i++)
		assert_int_equal(requests[i]->status, 0);
	assert_int_equal(thread_next_due(rig_io[1]), UINT64_MAX);
	stop("delay");
}

/* Limits of the upper one, of the lower one, and a delay between them. */
static void
set_run(void *arg)
{
	static const uint64_t rates[BDEV_RATES] = {[BDEV_RATE_IOS] = 1000};

	assert_int_equal(bdev_set_rates(arg, rates), 0);
}

static void
test_rates_on_both(void **state)
{
	unsigned int done = 0;

	(void)state;
	start_lower();
	use(create_delay("d", "low", 300, 300));
	rig_run(set_run, fake.bdev);
	rig_run(set_run, upper);
	for (unsigned int us = 0; us < 1000000; us += 100) {
		for (unsigned int i = 0; i < 16; i++) {
			if (requests[i]->finished)
				submit(i, BDEV_READ);
		}
		advance_us(100);
		for (unsigned int i = 0; i < 16; i++)
			done += requests[i]->finished;
	}
	assert_in_range(done, 970, 1010);
	for (unsigned int i = 0; i < 100 && finished(16) < 16; i++)
		advance_us(1000);
	stop("delay");
}

#define filter_test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		filter_test(test_same_device),   filter_test(test_fua),
		filter_test(test_read_only),     filter_test(test_alone),
		filter_test(test_resize),        filter_test(test_rescan),
		filter_test(test_memory),        filter_test(test_no_memory_map),
		filter_test(test_create_errors), filter_test(test_channel_errors),
		filter_test(test_config),        filter_test(test_removal),
		filter_test(test_removal_races), filter_test(test_failures),
		filter_test(test_pending),       filter_test(test_queue_depth),
		filter_test(test_corrupt),       filter_test(test_bad_injections),
		filter_test(test_latencies),     filter_test(test_update),
		filter_test(test_delay_reset),   filter_test(test_rates_on_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
