/* SPDX-License-Identifier: BSD-3-Clause */
/* Latency histograms: buckets, and what channels count while they are switched on and off. */
/* links: bdev testlib thread env */
/* ldflags: -Wl,--wrap=env_ticks,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <errno.h>
#include <stdatomic.h>

#include "bdev_fake.h"
#include "bdev/bdev_core.h"
#include "bdev/bdev_histogram.h"
#include "fault.h"
#include "ticks.h"

#define RANGE (1u << BDEV_HISTOGRAM_SHIFT)

uint64_t __real_env_ticks(void);
uint64_t __wrap_env_ticks(void);

static _Atomic uint64_t clock_reads;

uint64_t
__wrap_env_ticks(void)
{
	clock_reads++;
	return __real_env_ticks();
}

static uint8_t data[4096];

/* ---- buckets ---- */

/* What clients take for the first tick behind a bucket. */
static uint64_t
end_of_bucket(uint32_t bucket)
{
	uint64_t range = bucket / RANGE, index = bucket % RANGE + 1;

	return range == 0 ? index
			  : (1ULL << (range + BDEV_HISTOGRAM_SHIFT - 1)) + (index << (range - 1));
}

static void
test_buckets(void **state)
{
	(void)state;
	assert_int_equal(BDEV_HISTOGRAM_BUCKETS, 58 * 128);
	assert_int_equal(bdev_histogram_bucket(0), 0);
	assert_int_equal(bdev_histogram_bucket(UINT64_MAX), BDEV_HISTOGRAM_BUCKETS - 1);
	for (uint32_t bucket = 0; bucket < BDEV_HISTOGRAM_BUCKETS - 1; bucket++) {
		uint64_t end = end_of_bucket(bucket);

		assert_int_equal(bdev_histogram_bucket(end - 1), bucket);
		assert_int_equal(bdev_histogram_bucket(end), bucket + 1);
	}
}

static void
test_quantiles(void **state)
{
	static struct bdev_histogram histogram, other;

	(void)state;
	memset(&histogram, 0, sizeof(histogram));
	memset(&other, 0, sizeof(other));
	assert_int_equal(bdev_histogram_quantile(&histogram, 0.5), 0);
	for (uint64_t ticks = 1; ticks <= 100; ticks++)
		bdev_histogram_add(&histogram, ticks);
	assert_int_equal(bdev_histogram_count(&histogram), 100);
	assert_int_equal(bdev_histogram_quantile(&histogram, 0), 1);
	assert_int_equal(bdev_histogram_quantile(&histogram, 0.5), 50);
	assert_int_equal(bdev_histogram_quantile(&histogram, 0.99), 99);
	assert_int_equal(bdev_histogram_quantile(&histogram, 1), 100);
	bdev_histogram_add(&other, 256); /* two ticks wide */
	bdev_histogram_add(&other, UINT64_MAX);
	bdev_histogram_merge(&histogram, &other);
	assert_int_equal(bdev_histogram_count(&histogram), 102);
	assert_int_equal(bdev_histogram_quantile(&histogram, 0.985), 257);
	assert_int_equal(bdev_histogram_quantile(&histogram, 1), UINT64_MAX);
}

/* ---- a disk ---- */

static struct rig_request *request;
static struct bdev_channel *other;

static void
start(void)
{
	struct bdev_info info = fake_info("a");

	fake_start(&info);
	other = rig_channel(fake_desc, rig_io[1]);
	request = rig_request_new(fake.bdev);
}

static void
stop(void)
{
	free(request);
	if (other != NULL)
		rig_channel_put(other, rig_io[1]);
	fake_stop();
}

struct call {
	bool enable, per_channel, faulty;
	unsigned int good; /* allocations before the fault */
	struct bdev_histograms *histograms;
	int rc;
};

static void
enable_run(void *arg)
{
	struct call *call = arg;

	if (call->faulty)
		fault_after(call->good);
	call->rc = bdev_enable_histogram(fake.bdev, call->enable);
}

static int
enable(bool on)
{
	struct call call = {.enable = on};

	rig_run(enable_run, &call);
	return call.rc;
}

static void
get_run(void *arg)
{
	struct call *call = arg;

	if (call->faulty)
		fault_after(call->good);
	call->rc = bdev_get_histograms(fake.bdev, call->per_channel, &call->histograms);
}

static struct bdev_histograms *
get(bool per_channel)
{
	struct call call = {.per_channel = per_channel};

	rig_run(get_run, &call);
	assert_int_equal(call.rc, 0);
	return call.histograms;
}

static uint64_t
counted(void)
{
	struct bdev_histograms *histograms = get(false);
	uint64_t count = bdev_histogram_count(&histograms->sum);

	assert_int_equal(histograms->count, 0);
	bdev_histograms_free(histograms);
	return count;
}

/* Takes so many microseconds, none of which end a poll. */
static void
read_for(struct bdev_channel *channel, struct thread *thread, uint64_t us)
{
	fake.delayed = true;
	rig_request_set(request, BDEV_READ, 0, data, 512);
	rig_submit(channel, thread, request);
	ticks_advance_us(us);
	assert_true(fake_complete_one(thread));
	assert_true(request->finished);
}

static void
test_exact(void **state)
{
	struct bdev_histograms *histograms;

	(void)state;
	start();
	assert_false(bdev_has_histogram(fake.bdev));
	read_for(fake_channel, rig_io[0], 7);
	assert_int_equal(enable(true), 0);
	assert_true(bdev_has_histogram(fake.bdev));
	read_for(fake_channel, rig_io[0], 3);
	read_for(fake_channel, rig_io[0], 3);
	read_for(other, rig_io[1], 70);
	fake.fail_at = 1;
	fake.fail_status = -EIO;
	read_for(other, rig_io[1], 900);
	histograms = get(false);
	assert_int_equal(bdev_histogram_count(&histograms->sum), 3);
	assert_int_equal(histograms->sum.buckets[bdev_histogram_bucket(3 * TICKS_PER_US)], 2);
	assert_int_equal(histograms->sum.buckets[bdev_histogram_bucket(70 * TICKS_PER_US)], 1);
	bdev_histograms_free(histograms);
	assert_int_equal(enable(true), 0); /* as it is already */
	assert_int_equal(counted(), 3);
	stop();
}

/* The data path looks at the clock only while it must. */
static void
test_off_costs_nothing(void **state)
{
	uint64_t before;

	(void)state;
	start();
	for (int round = 0; round < 2; round++) {
		before = clock_reads;
		read_for(fake_channel, rig_io[0], 1);
		assert_int_equal(clock_reads - before, 0);
		assert_int_equal(enable(true), 0);
		before = clock_reads;
		read_for(fake_channel, rig_io[0], 1);
		assert_int_equal(clock_reads - before, 2);
		assert_int_equal(enable(false), 0);
	}
	stop();
}

static void
get_stat_run(void *arg)
{
	struct bdev_io_stat *stat = arg;

	if (bdev_get_stat(fake.bdev, BDEV_STAT_KEEP, stat) != 0)
		stat->ops[0] = UINT64_MAX;
}

/*
 * Switched between submission and completion, in one poll and in two: each request is counted, and
 * none took a negative time.
 */
static void
test_switched_under_way(void **state)
{
	struct bdev_io_stat stat;

	(void)state;
	start();
	fake.delayed = true;
	for (unsigned int step = 0; step < 4; step++) {
		assert_int_equal(enable(step % 2 == 0), 0);
		rig_settle();
		ticks_advance_us(5); /* the poll began so long ago */
		rig_request_set(request, BDEV_READ, 0, data, 512);
		rig_submit(fake_channel, rig_io[0], request);
		if (step < 2) {
			assert_int_equal(enable(step % 2 != 0), 0);
		} else {
			struct bdev_tally *tally = fake_channel->tally;

			/* As if the message came in this very poll. */
			fake_channel->tally = NULL;
			free(tally);
		}
		assert_true(fake_complete_one(rig_io[0]));
	}
	rig_run(get_stat_run, &stat);
	assert_int_equal(stat.ops[BDEV_READ], 4);
	assert_true(stat.max_latency_ticks[BDEV_READ] <= 10 * TICKS_PER_US);
	assert_true(stat.latency_ticks[BDEV_READ] <= 40 * TICKS_PER_US);
	stop();
}

/* Off and on again starts from 0, also for channels that have ended, and for those to come. */
static void
test_channels_come_and_go(void **state)
{
	(void)state;
	start();
	assert_int_equal(enable(true), 0);
	read_for(fake_channel, rig_io[0], 1);
	read_for(other, rig_io[1], 1);
	rig_channel_put(other, rig_io[1]);
	assert_int_equal(counted(), 2);
	rig_settle(); /* its thread has none any more */
	assert_int_equal(counted(), 2);
	other = rig_channel(fake_desc, rig_io[1]);
	read_for(other, rig_io[1], 1);
	assert_int_equal(counted(), 3);
	assert_int_equal(enable(false), 0);
	read_for(other, rig_io[1], 1);
	rig_channel_put(other, rig_io[1]);
	other = rig_channel(fake_desc, rig_io[1]);
	assert_int_equal(enable(true), 0);
	assert_int_equal(counted(), 0);
	read_for(other, rig_io[1], 1);
	assert_int_equal(counted(), 1);
	stop();
}

/* What a channel counted before the switch, and what arrives after it, is dropped. */
static void
test_late_counters(void **state)
{
	(void)state;
	start();
	assert_int_equal(enable(true), 0);
	read_for(other, rig_io[1], 1);
	rig_channel_put(other, rig_io[1]);
	other = NULL;
	poll_once(rig_io[1]); /* the counters are on their way */
	atomic_fetch_add(&fake.bdev->histogram_era, 2);
	rig_settle();
	assert_int_equal(counted(), 0);
	stop();
}

/* Two users on one thread have one entry each. */
static void
test_per_channel(void **state)
{
	struct bdev_channel *second;
	struct bdev_histograms *histograms;
	bool seen = false;

	(void)state;
	start();
	second = rig_channel(fake_desc, rig_io[0]);
	bdev_channel_set_label(fake_channel, "queue 0");
	bdev_channel_set_label(second, "a label that is longer than a label may be");
	assert_int_equal(enable(true), 0);
	read_for(fake_channel, rig_io[0], 1);
	read_for(second, rig_io[0], 1);
	read_for(second, rig_io[0], 1);
	histograms = get(true);
	assert_int_equal(histograms->count, 3);
	for (uint32_t i = 0; i < 3; i++) {
		const struct bdev_channel_histogram *channel = histograms->channels[i];
		uint64_t count = bdev_histogram_count(&channel->histogram);

		assert_string_equal(channel->user, "the test");
		if (channel->thread_id == thread_id(rig_io[1])) {
			assert_string_equal(channel->label, "");
			assert_int_equal(count, 0);
			continue;
		}
		assert_int_equal(channel->thread_id, thread_id(rig_io[0]));
		seen |= strcmp(channel->label, "queue 0") == 0;
		assert_int_equal(count, strcmp(channel->label, "queue 0") == 0 ? 1 : 2);
		assert_true(strlen(channel->label) <= BDEV_LABEL_MAX);
	}
	assert_true(seen);
	bdev_histograms_free(histograms);
	rig_channel_put(second, rig_io[0]);
	assert_int_equal(counted(), 3);
	stop();
}

/* ---- what goes wrong ---- */

static void
test_off(void **state)
{
	struct call call = {0};

	(void)state;
	start();
	rig_run(get_run, &call);
	assert_int_equal(call.rc, -EINVAL);
	assert_int_equal(enable(false), 0);
	stop();
}

/* Without memory for all channels there is no histogram, and I/O goes on. */
static void
test_no_memory(void **state)
{
	bool failed = true;

	(void)state;
	start();
	for (unsigned int good = 0; failed; good++) {
		struct call call = {
			.enable = true, .per_channel = true, .faulty = true, .good = good};

		rig_run(enable_run, &call);
		failed = fault_end();
		if (failed && call.rc != 0) {
			assert_int_equal(call.rc, -ENOMEM);
			assert_false(bdev_has_histogram(fake.bdev));
			assert_null(fake_channel->tally);
			assert_null(other->tally);
		}
		read_for(fake_channel, rig_io[0], 1);
		assert_int_equal(enable(true), 0);
		rig_run(get_run, &call);
		failed |= fault_end();
		if (call.rc == 0)
			bdev_histograms_free(call.histograms);
		else
			assert_int_equal(call.rc, -ENOMEM);
		assert_int_equal(enable(false), 0);
	}
	stop();
}

static void
test_channel_without_memory(void **state)
{
	struct bdev_channel *channel = NULL;
	unsigned int failures = 0;

	(void)state;
	start();
	assert_int_equal(enable(true), 0);
	for (unsigned int good = 0; channel == NULL; good++) {
		thread_set_current(rig_io[0]);
		fault_after(good);
		channel = bdev_channel_get(fake_desc);
		failures += fault_end();
		if (channel == NULL)
			assert_int_equal(errno, ENOMEM);
		thread_set_current(NULL);
	}
	assert_true(failures >= 2);
	rig_channel_put(channel, rig_io[0]);
	stop();
}

/* ---- configuration ---- */

static void
test_config(void **state)
{
	json_t *config;

	(void)state;
	start();
	config = bdev_config_json();
	assert_int_equal(json_array_size(config), 0); /* a fake disk has none */
	json_decref(config);
	assert_int_equal(enable(true), 0);
	config = bdev_config_json();
	assert_int_equal(json_array_size(config), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(config, 0), "method")),
			    "bdev_enable_histogram");
	json_decref(config);
	stop();
}

static int
histogram_setup(void **state)
{
	other = NULL;
	return fake_setup(state);
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, histogram_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buckets),
		cmocka_unit_test(test_quantiles),
		test(test_exact),
		test(test_off_costs_nothing),
		test(test_switched_under_way),
		test(test_channels_come_and_go),
		test(test_late_counters),
		test(test_per_channel),
		test(test_off),
		test(test_no_memory),
		test(test_channel_without_memory),
		test(test_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
