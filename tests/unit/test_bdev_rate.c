/* SPDX-License-Identifier: BSD-3-Clause */
/* Rate limits: exactness, shares, bursts, changes under load, and what ends while it waits. */
/* links: bdev testlib thread env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <errno.h>

#include "bdev_fake.h"
#include "bdev/bdev_core.h"
#include "fault.h"
#include "ticks.h"

#define STEP_US   100
#define DEPTH_MAX 64
#define LOADS     3
#define KIB       1024ULL
#define MIB       (1024 * KIB)

static uint8_t data[MIB];

/* A user that keeps `depth` requests under way. */
struct load {
	struct bdev_channel *channel;
	struct thread *thread;
	uint8_t type;
	uint64_t length;
	unsigned int depth;
	uint64_t think_us; /* 0: the next one at once */
	/* seen */
	uint64_t done, aborted, failed;
	unsigned int under_way;
	uint64_t idle_until; /* ticks */
	struct load_request {
		struct load *load;
		bool busy;
		struct rig_request *request;
	} requests[DEPTH_MAX];
};

static struct load loads[LOADS];
static bool running;

static void
load_done(struct bdev_request *rq, int status)
{
	struct rig_request *request =
		(struct rig_request *)((uint8_t *)rq - offsetof(struct rig_request, rq));

	for (struct load *load = loads; load < &loads[LOADS]; load++) {
		for (unsigned int i = 0; i < load->depth; i++) {
			if (load->requests[i].request != request)
				continue;
			assert_true(load->requests[i].busy);
			assert_ptr_equal(thread_current(), load->thread);
			load->requests[i].busy = false;
			load->under_way--;
			load->done += status == 0;
			load->aborted += status == -ECANCELED;
			load->failed += status != 0 && status != -ECANCELED;
			load->idle_until = env_ticks() + load->think_us * TICKS_PER_US;
		}
	}
}

static void
load_submit(struct load *load)
{
	for (unsigned int i = 0; i < load->depth; i++) {
		struct load_request *slot = &load->requests[i];

		if (slot->busy || !running || env_ticks() < load->idle_until)
			continue;
		rig_request_set(slot->request, load->type, 0, data, load->length);
		slot->request->rq.done = load_done;
		slot->busy = true;
		load->under_way++;
		rig_submit(load->channel, load->thread, slot->request);
	}
}

static void
load_start(struct load *load, struct thread *thread, uint8_t type, uint64_t length,
	   unsigned int depth)
{
	*load = (struct load){.thread = thread, .type = type, .length = length, .depth = depth};
	load->channel = rig_channel(fake_desc, thread);
	for (unsigned int i = 0; i < depth; i++)
		load->requests[i].request = rig_request_new(fake.bdev);
}

static void
load_end(struct load *load)
{
	if (load->channel == NULL)
		return;
	assert_int_equal(load->under_way, 0);
	rig_channel_put(load->channel, load->thread);
	for (unsigned int i = 0; i < load->depth; i++)
		free(load->requests[i].request);
	load->channel = NULL;
}

/* The device ends what it has. */
static void
serve(void)
{
	while (fake.first_waiting != fake.last_waiting)
		fake_complete_one((struct thread *)fake.waiting[fake.first_waiting % FAKE_LOG]
					  ->channel->thread);
}

static void
step(void)
{
	rig_poll();
	serve();
	for (struct load *load = loads; load < &loads[LOADS]; load++) {
		if (load->channel != NULL)
			load_submit(load);
	}
	ticks_advance_us(STEP_US);
}

static void
run_ms(uint64_t ms)
{
	for (uint64_t i = 0; i < ms * 1000 / STEP_US; i++)
		step();
}

static uint64_t
all_done(void)
{
	uint64_t done = 0;

	for (struct load *load = loads; load < &loads[LOADS]; load++)
		done += load->done;
	return done;
}

static void
forget(void)
{
	for (struct load *load = loads; load < &loads[LOADS]; load++)
		load->done = 0;
}

/* Within 2 %, and one request. */
static void
assert_about(uint64_t count, uint64_t expected)
{
	assert_in_range(count, expected - expected / 50 - 1, expected + expected / 50 + 1);
}

/* ---- the limits ---- */

struct set_call {
	uint64_t rates[BDEV_RATES];
	bool faulty;
	unsigned int good;
	int rc;
};

static void
set_run(void *arg)
{
	struct set_call *call = arg;

	if (call->faulty)
		fault_after(call->good);
	call->rc = bdev_set_rates(fake.bdev, call->rates);
}

static int
set(enum bdev_rate rate, uint64_t per_second)
{
	struct set_call call = {0};

	bdev_get_rates(fake.bdev, call.rates);
	call.rates[rate] = per_second;
	rig_run(set_run, &call);
	return call.rc;
}

static void
start(void)
{
	struct bdev_info info = fake_info("a");

	memset(loads, 0, sizeof(loads));
	fake_start(&info);
	fake.delayed = true;
	running = true;
	ticks_advance_us(1000000);
	rig_settle();
}

static void
stop(void)
{
	running = false;
	for (int i = 0; i < BDEV_RATES; i++)
		assert_int_equal(set(i, 0), 0);
	rig_settle();
	serve();
	rig_settle();
	assert_int_equal(fake.bdev->rates.waiting, 0);
	for (struct load *load = loads; load < &loads[LOADS]; load++)
		load_end(load);
	fake_stop();
}

/* ---- exactness ---- */

static void
test_ios(void **state)
{
	static const uint64_t rates[] = {1, 10, 777, 20000, 150000};

	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 32);
	load_start(&loads[1], rig_io[1], BDEV_WRITE, 512, 32);
	for (unsigned int i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		assert_int_equal(set(BDEV_RATE_IOS, rates[i]), 0);
		forget();
		run_ms(5000);
		assert_about(all_done(), 5 * rates[i]);
	}
	stop();
}

/* Each rate limits its types only, and the strictest one counts. */
static void
test_bytes(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 64 * KIB, 16);
	load_start(&loads[1], rig_io[1], BDEV_WRITE, 4 * KIB, 16);
	assert_int_equal(set(BDEV_RATE_READ_BYTES, 40 * MIB), 0);
	assert_int_equal(set(BDEV_RATE_WRITE_BYTES, 3 * MIB), 0);
	run_ms(5000);
	assert_about(loads[0].done, 5 * 40 * MIB / (64 * KIB));
	assert_about(loads[1].done, 5 * 3 * MIB / (4 * KIB));
	assert_int_equal(set(BDEV_RATE_BYTES, 10 * MIB), 0);
	forget();
	run_ms(5000);
	assert_about(loads[1].done, 5 * 3 * MIB / (4 * KIB));
	assert_about(loads[0].done, 5 * 7 * MIB / (64 * KIB));
	assert_int_equal(set(BDEV_RATE_IOS, 100), 0);
	forget();
	run_ms(5000);
	assert_about(all_done(), 500);
	stop();
}

/* A request may be longer than what is there for a second. */
static void
test_long_requests(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, MIB, 4);
	load_start(&loads[1], rig_io[1], BDEV_READ, 512, 1);
	assert_int_equal(set(BDEV_RATE_BYTES, 400 * KIB), 0);
	run_ms(60000);
	assert_in_range(loads[0].done, 22, 24);
	assert_in_range(loads[1].done, 40, 30000); /* served in between */
	stop();
}

/* A request that the core splits is one I/O; flushes, and what is refused, know no limit. */
static void
test_what_counts(void **state)
{
	struct rig_request *request;

	(void)state;
	fake.ops.max_transfer = 4096;
	start();
	request = rig_request_new(fake.bdev);
	assert_int_equal(set(BDEV_RATE_IOS, 50), 0);
	load_start(&loads[0], rig_io[0], BDEV_READ, 64 * KIB, 8);
	load_start(&loads[1], rig_io[0], BDEV_DISCARD, 4 * KIB, 4);
	load_start(&loads[2], rig_io[1], BDEV_WRITE_ZEROES, 4 * KIB, 4);
	run_ms(5000);
	assert_about(all_done(), 250);
	assert_true(loads[0].done > 60 && loads[1].done > 60 && loads[2].done > 60);
	fake.delayed = false;
	for (int i = 0; i < 100; i++) {
		rig_request_set(request, BDEV_FLUSH, 0, NULL, 0);
		rig_submit(loads[0].channel, rig_io[0], request);
		assert_true(request->finished && request->status == 0);
		rig_request_set(request, BDEV_READ, FAKE_SIZE, data, 512);
		rig_submit(loads[0].channel, rig_io[0], request);
		assert_true(request->finished && request->status == -EINVAL);
		rig_request_set(request, BDEV_READ, 0, data, 0);
		rig_submit(loads[0].channel, rig_io[0], request);
		assert_true(request->finished && request->status == 0);
	}
	free(request);
	stop();
}

/* ---- shares ---- */

/* Who has many requests gets no more than who has one at a time. */
static void
test_equal_shares(void **state)
{
	static const uint64_t rates[] = {20, 2000, 9000};

	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 64);
	load_start(&loads[1], rig_io[0], BDEV_READ, 4096, 8);
	load_start(&loads[2], rig_io[1], BDEV_READ, 4096, 1);
	for (unsigned int i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		assert_int_equal(set(BDEV_RATE_IOS, rates[i]), 0);
		run_ms(200);
		forget();
		run_ms(6000);
		for (int n = 0; n < LOADS; n++)
			assert_in_range(loads[n].done, rates[i] * 19 / 10, rates[i] * 21 / 10);
		assert_about(all_done(), 6 * rates[i]);
	}
	stop();
}

/* Bytes are shared as bytes. */
static void
test_equal_bytes(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 256 * KIB, 16);
	load_start(&loads[1], rig_io[1], BDEV_READ, 4 * KIB, 16);
	assert_int_equal(set(BDEV_RATE_BYTES, 16 * MIB), 0);
	run_ms(5000);
	assert_in_range(loads[0].done * 256 * KIB, 38 * MIB, 42 * MIB);
	assert_in_range(loads[1].done * 4 * KIB, 38 * MIB, 42 * MIB);
	stop();
}

/* What one leaves the others get, and it does not wait for them. */
static void
test_left_over(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 64);
	load_start(&loads[1], rig_io[1], BDEV_READ, 4096, 1);
	loads[1].think_us = 10000; /* it would be 100 in a second */
	assert_int_equal(set(BDEV_RATE_IOS, 5000), 0);
	run_ms(5000);
	assert_about(all_done(), 25000);
	assert_in_range(loads[1].done, 430, 500);
	stop();
}

/* ---- bursts ---- */

static void
test_burst(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 64);
	assert_int_equal(set(BDEV_RATE_IOS, 10000), 0);
	run_ms(10); /* none at the beginning */
	assert_in_range(loads[0].done, 70, 101);
	running = false;
	run_ms(10000);
	assert_int_equal(loads[0].under_way, 0);
	forget();
	running = true;
	run_ms(1);
	assert_in_range(loads[0].done, 64, 220);
	run_ms(99);
	assert_in_range(loads[0].done, 1100, 1210);
	stop();
}

/* Nobody waits: nothing runs, however long. */
static void
test_idle(void **state)
{
	(void)state;
	start();
	assert_false(fake_channel->thread_channel->gated);
	assert_int_equal(set(BDEV_RATE_IOS, 10), 0);
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 2);
	assert_int_equal(thread_next_due(rig_io[0]), UINT64_MAX);
	run_ms(250);
	assert_true(thread_next_due(rig_io[0]) < UINT64_MAX);
	running = false;
	run_ms(1000);
	assert_int_equal(loads[0].under_way, 0);
	assert_int_equal(thread_next_due(rig_io[0]), UINT64_MAX);
	assert_int_equal(set(BDEV_RATE_IOS, 0), 0);
	assert_false(fake_channel->thread_channel->gated);
	assert_null(fake_channel->meter);
	assert_null(loads[0].channel->meter);
	stop();
}

/* ---- changes ---- */

static void
test_change_under_load(void **state)
{
	static const uint64_t rates[] = {1, 50000, 100, 20000, 3};

	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 32);
	load_start(&loads[1], rig_io[1], BDEV_WRITE, 4096, 32);
	for (unsigned int i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		forget();
		assert_int_equal(set(BDEV_RATE_IOS, rates[i]), 0);
		run_ms(2000);
		/* What was under way in the device is there, too. */
		assert_in_range(all_done(), 2 * rates[i] - 2 * rates[i] / 50 - 1,
				2 * rates[i] + 2 * rates[i] / 50 + 64);
	}
	assert_int_equal(set(BDEV_RATE_IOS, 0), 0);
	forget();
	run_ms(10);
	assert_in_range(all_done(), 64 * 90, 64 * 110);
	stop();
}

/* The last limit goes while requests wait: they go on at once. */
static void
test_off_while_waiting(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 32);
	assert_int_equal(set(BDEV_RATE_IOS, 1), 0);
	run_ms(10);
	assert_true(loads[0].under_way >= 31);
	running = false;
	assert_int_equal(set(BDEV_RATE_IOS, 0), 0);
	serve();
	assert_int_equal(loads[0].under_way, 0);
	assert_int_equal(loads[0].aborted, 0);
	stop();
}

/* Channels come and go while others wait. */
static void
test_channels_come_and_go(void **state)
{
	uint64_t others = 0, start_ticks;

	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 8);
	assert_int_equal(set(BDEV_RATE_IOS, 1000), 0);
	start_ticks = env_ticks();
	for (int i = 0; i < 40; i++) {
		load_start(&loads[1], rig_io[i % 2], BDEV_READ, 4096, 1);
		run_ms(50);
		loads[1].think_us = 1000000; /* no more */
		loads[1].idle_until = UINT64_MAX;
		while (loads[1].under_way > 0)
			step();
		others += loads[1].done;
		load_end(&loads[1]);
	}
	assert_about(loads[0].done + others, (env_ticks() - start_ticks) / TICKS_PER_US / 1000);
	assert_in_range(others, loads[0].done * 9 / 10, loads[0].done * 11 / 10);
	stop();
}

static void
test_without_memory(void **state)
{
	unsigned int good = 0;
	bool happened = true;

	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 1);
	for (; happened; good++) {
		struct set_call call = {.rates = {100}, .faulty = true, .good = good};
		uint64_t rates[BDEV_RATES];

		rig_run(set_run, &call);
		happened = fault_end();
		bdev_get_rates(fake.bdev, rates);
		if (!happened)
			break;
		assert_int_equal(call.rc, -ENOMEM);
		assert_int_equal(rates[BDEV_RATE_IOS], 0);
		assert_false(fake.bdev->rates.on);
		assert_false(fake_channel->thread_channel->gated);
		assert_null(fake_channel->meter);
	}
	assert_true(good > 4);
	/* A new channel. */
	for (good = 0, happened = true; happened; good++) {
		struct bdev_channel *channel;

		thread_set_current(rig_io[1]);
		fault_after(good);
		channel = bdev_channel_get(fake_desc);
		happened = fault_end();
		if (channel != NULL) {
			assert_non_null(channel->meter);
			bdev_channel_put(channel);
		} else {
			assert_int_equal(errno, ENOMEM);
		}
		thread_set_current(NULL);
		rig_settle();
	}
	stop();
}

/* ---- ends ---- */

static void
test_reset(void **state)
{
	struct rig_request *reset;

	(void)state;
	start();
	reset = rig_request_new(fake.bdev);
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 8);
	load_start(&loads[1], rig_io[1], BDEV_READ, 4096, 8);
	assert_int_equal(set(BDEV_RATE_IOS, 1), 0);
	rig_poll();
	load_submit(&loads[0]);
	load_submit(&loads[1]);
	assert_int_equal(loads[0].under_way + loads[1].under_way, 16);
	assert_int_equal(fake.last_waiting - fake.first_waiting, 1);
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	rig_submit(fake_channel, rig_io[0], reset);
	rig_settle();
	assert_int_equal(loads[0].aborted, 7);
	assert_false(reset->finished); /* one is in the device */
	load_submit(&loads[0]);
	serve();
	rig_settle();
	assert_true(reset->finished && reset->status == 0);
	assert_int_equal(loads[0].done, 1);
	assert_int_equal(loads[0].aborted, 7);
	assert_int_equal(loads[0].under_way, 7); /* those after it wait again */
	assert_int_equal(loads[1].aborted, 8);
	assert_int_equal(thread_next_due(rig_io[1]), UINT64_MAX);
	assert_true(thread_next_due(rig_io[0]) < UINT64_MAX);
	assert_int_equal(loads[0].failed + loads[1].failed, 0);
	free(reset);
	stop();
}

static bool removed;

static void
on_event(void *ctx, enum bdev_event event)
{
	(void)ctx;
	removed |= event == BDEV_EVENT_REMOVE;
}

static void
remove_run(void *arg)
{
	bdev_remove(fake.bdev);
	*(bool *)arg = true;
}

static void
test_removal(void **state)
{
	bool gone = false;

	(void)state;
	start();
	rig_channel_put(fake_channel, rig_io[0]);
	rig_close(fake_desc);
	thread_set_current(rig_app);
	assert_int_equal(bdev_open("a", BDEV_WRITES, "t", on_event, NULL, &fake_desc, &rig_err), 0);
	thread_set_current(NULL);
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 8);
	load_start(&loads[1], rig_io[1], BDEV_READ, 4096, 8);
	assert_int_equal(set(BDEV_RATE_IOS, 1), 0);
	run_ms(1);
	running = false;
	removed = false;
	assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &gone), 0);
	rig_settle();
	serve();
	rig_settle();
	assert_true(removed);
	assert_false(gone);
	load_end(&loads[0]); /* nothing is under way */
	load_end(&loads[1]);
	rig_close(fake_desc);
	rig_wait(&gone);
	assert_int_equal(fake.destroyed, 1);
}

/* ---- the configuration ---- */

static void
test_config(void **state)
{
	json_t *array, *entry;

	(void)state;
	start();
	assert_int_equal(set(BDEV_RATE_IOS, 12), 0);
	assert_int_equal(set(BDEV_RATE_WRITE_BYTES, 7 * MIB), 0);
	array = bdev_config_json();
	assert_int_equal(json_array_size(array), 1);
	entry = json_pack("{s:s, s:{s:s, s:i, s:i, s:i, s:i}}", "method", "bdev_set_qos_limit",
			  "params", "name", "a", "rw_ios_per_sec", 12, "rw_mbytes_per_sec", 0,
			  "r_mbytes_per_sec", 0, "w_mbytes_per_sec", 7);
	assert_true(json_equal(json_array_get(array, 0), entry));
	json_decref(entry);
	json_decref(array);
	assert_int_equal(set(BDEV_RATE_IOS, 0), 0);
	assert_int_equal(set(BDEV_RATE_WRITE_BYTES, 0), 0);
	array = bdev_config_json();
	assert_int_equal(json_array_size(array), 0);
	json_decref(array);
	stop();
}

/* The highest rate is not none at all, and the lowest one ends. */
static void
test_extremes(void **state)
{
	(void)state;
	start();
	load_start(&loads[0], rig_io[0], BDEV_READ, 4096, 4);
	assert_int_equal(set(BDEV_RATE_IOS, INT64_MAX), 0);
	assert_int_equal(set(BDEV_RATE_BYTES, INT64_MAX), 0);
	run_ms(100);
	assert_in_range(loads[0].done, 4 * 990, 4 * 1000);
	assert_int_equal(set(BDEV_RATE_BYTES, 1), 0); /* an hour each */
	run_ms(100);
	forget();
	run_ms(1000);
	assert_int_equal(loads[0].done, 0);
	ticks_advance_us(3600 * 1000000ULL);
	run_ms(100);
	assert_int_equal(loads[0].done, 1);
	stop();
}

#define rate_test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		rate_test(test_ios),
		rate_test(test_bytes),
		rate_test(test_long_requests),
		rate_test(test_what_counts),
		rate_test(test_equal_shares),
		rate_test(test_equal_bytes),
		rate_test(test_left_over),
		rate_test(test_burst),
		rate_test(test_idle),
		rate_test(test_change_under_load),
		rate_test(test_off_while_waiting),
		rate_test(test_channels_come_and_go),
		rate_test(test_without_memory),
		rate_test(test_reset),
		rate_test(test_removal),
		rate_test(test_config),
		rate_test(test_extremes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
