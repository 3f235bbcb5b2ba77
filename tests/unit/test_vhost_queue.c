/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A queue polled by hand on a clock of the test's: when its driver is called, and what it counts.
 */
/* links: vhost virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=vhost_notify */
#include "virtq_rig.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "by_hand.h"
#include "env.h"
#include "ticks.h"
#include "vhost/controller.h"
#include "vhost/notifier.h"
#include "vhost/session.h"
#include "vhost/trace.h"

#define RING       256
#define BASE_US    100
#define THRESHOLD  10000 /* requests per second: 100 in a window */
#define MAX_HELD   8
#define GOOD_STEPS 1000

static struct rig rig;
static struct vhost_controller controller;
static struct vhost_session *session;
static struct vhost_queue *queue;
static struct vhost_mem memory;
static struct thread *thread;
static int kick_fd, call_fd, err_fd;
static bool hold;
static struct virtq_slot *held[MAX_HELD];
static struct vhost_trace *trace;
static unsigned int held_count;

/* ---- a device that completes when it is told to ---- */

static void
handle(struct vhost_queue *q, struct virtq_slot **slots, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (hold)
			held[held_count++] = slots[i];
		else
			vhost_queue_complete(q, slots[i], 3);
	}
}

static void
let_go(void)
{
	for (unsigned int i = 0; i < held_count; i++)
		vhost_queue_complete(queue, held[i], 3);
	held_count = 0;
	hold = false;
}

static int channel_rc;

static int
channel_get(void *device, const char *label, void **channel)
{
	(void)device;
	(void)label;
	*channel = NULL;
	return channel_rc;
}

static const struct vhost_device_ops device_ops = {
	.name = "test", .channel_get = channel_get, .handle = handle};

/* ---- a machine that cannot signal eventfds ---- */

static bool notifier_fails;

int __real_vhost_notify(int eventfd);
int __wrap_vhost_notify(int eventfd);

int
__wrap_vhost_notify(int eventfd)
{
	return notifier_fails ? -EAGAIN : __real_vhost_notify(eventfd);
}

/* ---- the rig ---- */

static void
set_coalescing(uint32_t delay_base_us, uint32_t threshold)
{
	atomic_store(&controller.delay_base_us, delay_base_us);
	atomic_store(&controller.iops_threshold, threshold);
}

static void
start(bool event_idx)
{
	struct virtq_opts opts = {.size = RING, .ctx_size = 16, .event_idx = event_idx};

	rig_open_with(&rig, &opts, 0);
	queue->setup = (struct vhost_queue_setup){.vq = rig.vq,
						  .memory = &memory,
						  .kick_fd = kick_fd,
						  .call_fd = call_fd,
						  .err_fd = err_fd};
	thread_set_current(thread);
	vhost_queue_start(queue);
	thread_set_current(NULL);
	assert_int_equal(queue->start_rc, channel_rc);
	session->busy = 1;
}

static int
setup(void **state)
{
	struct vhost_thread *main_thread;

	(void)state;
	ticks_set(1000000 * TICKS_PER_US);
	thread_lib_init(NULL);
	thread = thread_create("queue", NULL);
	assert_non_null(thread);
	poll_once(thread);
	memset(&controller, 0, sizeof(controller));
	strcpy(controller.name, "test");
	main_thread = &controller.threads.threads[0];
	main_thread->controller = &controller;
	main_thread->thread = thread;
	LIST_INIT(&main_thread->queues);
	trace = calloc(1, sizeof(*trace));
	assert_non_null(trace);
	main_thread->trace = trace;
	controller.queue_count = 1;
	TAILQ_INIT(&controller.sessions);
	session = aligned_alloc(_Alignof(struct vhost_session), sizeof(*session));
	assert_non_null(session);
	memset(session, 0, sizeof(*session));
	session->controller = &controller;
	queue = &session->queues[0];
	queue->session = session;
	queue->home = main_thread;
	queue->ops = &device_ops;
	set_coalescing(0, 60000);
	atomic_store(&memory.lost, false);
	channel_rc = 0;
	notifier_fails = false;
	hold = false;
	held_count = 0;
	kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	err_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	thread_set_current(thread);
	vhost_queue_stop(queue);
	thread_set_current(NULL);
	thread_finish(thread);
	rig_close(&rig);
	free(session);
	free(trace);
	close(kick_fd);
	close(call_fd);
	close(err_fd);
	thread_lib_fini();
	return 0;
}

static uint64_t
take(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

/* One request from offer to used entry. Returns the calls for it. */
static uint64_t
do_one(void)
{
	rig_offer_small(&rig, (uint16_t)(rig.avail->idx % RING));
	poll_once(thread);
	return take(call_fd);
}

/* At that rate until a window has passed; the calls of that time are forgotten. */
static void
run_at(unsigned int rate)
{
	uint64_t end = env_ticks() + 2 * VHOST_COALESCING_WINDOW_US * TICKS_PER_US;

	while (env_ticks() < end) {
		ticks_advance_us(1000000 / rate);
		do_one();
	}
}

/* Requests 10 µs apart until the next call. Returns the time since the last one. */
static uint64_t
us_between_calls(void)
{
	uint64_t begin;
	unsigned int step = 0;

	while (do_one() == 0) {
		assert_true(++step < GOOD_STEPS);
		ticks_advance_us(1);
	}
	begin = env_ticks();
	do {
		assert_true(++step < GOOD_STEPS);
		ticks_advance_us(1);
	} while (do_one() == 0);
	return (env_ticks() - begin) / TICKS_PER_US;
}

/* ---- tests: without coalescing ---- */

static void
test_off(void **state)
{
	(void)state;
	start(false);
	assert_int_equal(take(call_fd), 1);
	for (int i = 0; i < 100; i++)
		assert_int_equal(do_one(), 1);
	assert_int_equal(queue->counters[VHOST_CALLS], 100);
	assert_int_equal(queue->counters[VHOST_REQUESTS], 100);
	/* Nothing is new: no call. */
	poll_once(thread);
	assert_int_equal(take(call_fd), 0);
}

static void
test_counters(void **state)
{
	(void)state;
	start(false);
	do_one();
	rig.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	assert_int_equal(do_one(), 0);
	rig.avail->flags = 0;
	assert_int_equal(queue->counters[VHOST_REQUESTS], 2);
	assert_int_equal(queue->counters[VHOST_BYTES_READ], 6);
	assert_int_equal(queue->counters[VHOST_BYTES_WRITTEN], 2);
	assert_int_equal(queue->counters[VHOST_CALLS], 1);
	assert_int_equal(queue->counters[VHOST_CALLS_SUPPRESSED], 1);
	assert_int_equal(queue->counters[VHOST_SLEEPS], 0);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	assert_int_equal(queue->counters[VHOST_SLEEPS], 1);
	/* A head that is outside. */
	rig_offer(&rig, RING);
	poll_once(thread);
	poll_once(thread);
	assert_int_equal(queue->counters[VHOST_BREAKS], 1);
	assert_int_equal(take(err_fd), 1);
}

/*
 * A device's poller may run after the queue's: what it completes is seen before the thread sleeps.
 */
static void
test_completion_before_sleep(void **state)
{
	uint16_t used;

	(void)state;
	start(false);
	take(call_fd);
	hold = true;
	used = rig.used->idx;
	assert_int_equal(do_one(), 0);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	assert_int_equal(rig.used->idx, used);
	let_go();
	assert_true(thread_arm(thread));
	assert_int_equal(rig.used->idx, (uint16_t)(used + 1));
	assert_int_equal(take(call_fd), 1);
	thread_disarm(thread);
}

/* ... and a queue that only waits for that does not sleep over its end. */
static void
test_last_completion_before_sleep(void **state)
{
	(void)state;
	start(false);
	hold = true;
	do_one();
	thread_set_current(thread);
	vhost_queue_stop(queue);
	thread_set_current(NULL);
	assert_int_equal(queue->state, VHOST_QUEUE_STOPPING);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	let_go();
	assert_false(thread_arm(thread));
	poll_once(thread);
	assert_int_equal(queue->state, VHOST_QUEUE_STOPPED);
}

/* A request may be what the driver wrote, or zeroes in its place. */
static void
test_lost_memory_breaks_the_queue(void **state)
{
	uint16_t used;

	(void)state;
	start(false);
	used = rig.used->idx;
	atomic_store(&memory.lost, true);
	do_one();
	assert_int_equal(rig.used->idx, used);
	assert_int_equal(take(err_fd), 1);
	assert_int_equal(queue->counters[VHOST_BREAKS], 1);
	do_one();
	assert_int_equal(take(err_fd), 0);
}

/* Its session may have waited for another one, long after the front-end's message was answered. */
static void
test_failed_start_is_told(void **state)
{
	(void)state;
	channel_rc = -ENOMEM;
	start(false);
	assert_int_equal(queue->state, VHOST_QUEUE_FAILED);
	assert_int_equal(take(err_fd), 1);
	assert_int_equal(take(call_fd), 0);
}

/* Who wakes the thread while nobody has kicked is not the driver. */
static void
test_kicks_are_counted(void **state)
{
	(void)state;
	start(false);
	for (uint64_t i = 0; i < 3; i++) {
		assert_true(thread_arm(thread));
		thread_disarm(thread);
		assert_int_equal(queue->counters[VHOST_KICKS], i);
		assert_true(thread_arm(thread));
		rig_offer_small(&rig, 0);
		thread_disarm(thread);
		poll_once(thread);
		assert_int_equal(queue->counters[VHOST_SLEEPS], 2 * (i + 1));
		assert_int_equal(queue->counters[VHOST_KICKS], i + 1);
	}
	/* None is asked for while the queue is polled. */
	assert_true(do_one() > 0);
	assert_int_equal(queue->counters[VHOST_KICKS], 3);
}

/* For a moment the machine has no way to do it: the call is late, and not lost, also in sleep. */
static void
test_call_is_tried_again(void **state)
{
	uint64_t calls;

	(void)state;
	start(false);
	assert_int_equal(take(call_fd), 1);
	calls = queue->counters[VHOST_CALLS];
	notifier_fails = true;
	assert_int_equal(do_one(), 0);
	poll_once(thread);
	assert_true(thread_arm(thread));
	assert_true(thread_next_due(thread) != UINT64_MAX);
	thread_disarm(thread);
	assert_int_equal(queue->counters[VHOST_CALLS], calls);
	notifier_fails = false;
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
	assert_int_equal(queue->counters[VHOST_CALLS], calls + 1);
	assert_int_equal(do_one(), 1);
}

static void
test_first_call_is_tried_again(void **state)
{
	(void)state;
	notifier_fails = true;
	start(false);
	notifier_fails = false;
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
	poll_once(thread);
	assert_int_equal(take(call_fd), 0);
}

/* ---- coalescing ---- */

static void
test_slow_queue_is_not_delayed(void **state)
{
	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	run_at(THRESHOLD / 2);
	for (int i = 0; i < 200; i++) {
		ticks_advance_us(2 * 1000000 / THRESHOLD);
		assert_int_equal(do_one(), 1);
	}
	assert_int_equal(queue->counters[VHOST_CALLS_COALESCED], 0);
}

/* Twice the threshold and more: the whole delay, and not more. */
static void
test_fast_queue(void **state)
{
	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	run_at(10 * THRESHOLD);
	assert_int_equal(us_between_calls(), BASE_US);
	assert_true(queue->counters[VHOST_CALLS_COALESCED] >= BASE_US - 1);
}

/* Half over the threshold: half the delay. */
static void
test_delay_grows_with_the_rate(void **state)
{
	uint64_t delay;

	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	run_at(THRESHOLD * 3 / 2);
	delay = us_between_calls();
	assert_in_range(delay, BASE_US * 4 / 10, BASE_US * 6 / 10);
}

static void
test_first_calls_after_a_pause(void **state)
{
	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	run_at(10 * THRESHOLD);
	ticks_advance_us(1000000);
	assert_int_equal(do_one(), 1);
	ticks_advance_us(1);
	assert_int_equal(do_one(), 1);
}

/* A fast queue with a call that is put off. */
static void
put_off(void)
{
	set_coalescing(BASE_US, THRESHOLD);
	run_at(10 * THRESHOLD);
	us_between_calls();
	ticks_advance_us(1);
	assert_int_equal(do_one(), 0);
	assert_true(queue->call_pending);
}

/* Nothing comes any more: the last call goes out when it is due. */
static void
test_not_lost(void **state)
{
	uint64_t waited = 0;

	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	put_off();
	do {
		assert_true(waited < BASE_US);
		ticks_advance_us(1);
		waited++;
		poll_once(thread);
	} while (take(call_fd) == 0);
	poll_once(thread);
	ticks_advance_us(10 * BASE_US);
	poll_once(thread);
	assert_int_equal(take(call_fd), 0);
}

/*
 * The driver wants to be told of one entry and of none after it, until it has been: only one answer
 * of virtq_publish() says so.
 */
static void
test_event_idx(void **state)
{
	uint16_t *used_event;

	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(true);
	used_event = (uint16_t *)&rig.avail->ring[RING];
	/* Every entry is wanted. */
	for (int i = 0; i < 4000; i++) {
		*used_event = rig.used->idx;
		ticks_advance_us(10);
		do_one();
	}
	ticks_advance_us(BASE_US);
	poll_once(thread);
	take(call_fd);
	*used_event = rig.used->idx;
	assert_int_equal(do_one() + (uint64_t)queue->call_pending, 1);
	*used_event = rig.used->idx;
	ticks_advance_us(1);
	assert_int_equal(do_one(), 0);
	/* No more is asked for. */
	for (int i = 0; i < 5; i++) {
		ticks_advance_us(1);
		assert_int_equal(do_one(), 0);
	}
	ticks_advance_us(BASE_US);
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
}

/* Nobody polls the queue then: a timer ends the sleep when the call is due. */
static void
test_goes_out_during_sleep(void **state)
{
	uint64_t due;

	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	put_off();
	assert_true(thread_next_due(thread) == UINT64_MAX);
	for (int i = 0; i < 2; i++) { /* woken by something else meanwhile */
		assert_true(thread_arm(thread));
		assert_int_equal(take(call_fd), 0);
		thread_disarm(thread);
	}
	due = thread_next_due(thread);
	assert_true(due >= queue->coalescing.next_call);
	assert_true(due <= queue->coalescing.next_call + 2 * env_ticks_hz() / 1000000);
	ticks_advance_us(BASE_US);
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
	assert_true(thread_next_due(thread) == UINT64_MAX);
	poll_once(thread);
	assert_int_equal(take(call_fd), 0);
}

static void
test_goes_out_on_stop(void **state)
{
	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	put_off();
	hold = true;
	do_one();
	thread_set_current(thread);
	vhost_queue_stop(queue);
	thread_set_current(NULL);
	assert_int_equal(queue->state, VHOST_QUEUE_STOPPING);
	let_go();
	poll_once(thread);
	assert_int_equal(queue->state, VHOST_QUEUE_STOPPED);
	assert_int_equal(take(call_fd), 1);
}

static void
test_abandoned_queue_is_silent(void **state)
{
	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	put_off();
	hold = true;
	do_one();
	thread_set_current(thread);
	vhost_queue_abandon(queue);
	thread_set_current(NULL);
	let_go();
	poll_once(thread);
	assert_int_equal(queue->state, VHOST_QUEUE_STOPPED);
	assert_int_equal(take(call_fd), 0);
}

static void
test_switched_off_meanwhile(void **state)
{
	(void)state;
	start(false);
	set_coalescing(BASE_US, THRESHOLD);
	thread_set_current(thread);
	vhost_queue_adopt_parameters(queue);
	thread_set_current(NULL);
	put_off();
	set_coalescing(0, THRESHOLD);
	thread_set_current(thread);
	vhost_queue_adopt_parameters(queue);
	thread_set_current(NULL);
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
	for (int i = 0; i < 100; i++)
		assert_int_equal(do_one(), 1);
}

static void
test_new_eventfd_is_told_once(void **state)
{
	int old = call_fd;

	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	put_off();
	call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	thread_set_current(thread);
	vhost_queue_set_fds(queue, call_fd, err_fd);
	thread_set_current(NULL);
	ticks_advance_us(2 * BASE_US);
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
	assert_int_equal(take(old), 0);
	close(old);
}

/* The largest values: nothing wraps, and the bound holds. */
static void
test_extremes(void **state)
{
	struct vhost_coalescing coalescing;
	uint64_t now = UINT64_MAX / 4;

	(void)state;
	vhost_coalescing_set(&coalescing, VHOST_COALESCING_DELAY_MAX, 1, now, 0);
	assert_true(vhost_coalescing_may_call(&coalescing, now, 0));
	now += UINT64_MAX / 4;
	assert_true(vhost_coalescing_may_call(&coalescing, now, UINT64_MAX));
	assert_int_equal(coalescing.delay, coalescing.base);
	assert_false(vhost_coalescing_may_call(&coalescing, now + coalescing.base - 1, UINT64_MAX));
	assert_true(vhost_coalescing_may_call(&coalescing, now + coalescing.base, UINT64_MAX));
	vhost_coalescing_set(&coalescing, 1, UINT32_MAX, now, 0);
	assert_true(vhost_coalescing_may_call(&coalescing, now + 20000000000, 1000000));
	assert_int_equal(coalescing.delay, 0);
	start(false);
}

/* ---- tests: the trace ---- */

/* One that the device has for so long; it is given back in this poll. */
static void
do_slow_one(uint64_t us)
{
	uint64_t seen;

	hold = true;
	do_one();
	seen = thread_now(thread);
	ticks_advance_us(us);
	poll_once(thread);
	assert_int_equal(trace->recorded, 0);
	assert_int_equal(vhost_queue_is_slow(queue, seen), us >= 10000);
	vhost_trace_add(queue, seen, seen);
	let_go();
}

static void
expect_completion(uint64_t us)
{
	assert_int_equal(trace->settled, 1);
	assert_null(trace->records[0].unsettled);
	assert_int_equal(trace->records[0].stages[VHOST_STAGE_COMPLETION], us * TICKS_PER_US);
	assert_false(queue->traced);
}

static void
test_slow_is_what_the_controller_says(void **state)
{
	(void)state;
	atomic_store(&controller.slow_us, 5000);
	start(false);
	poll_once(thread);
	assert_false(vhost_queue_is_slow(queue, env_ticks() - 5000 * TICKS_PER_US + 1));
	assert_true(vhost_queue_is_slow(queue, env_ticks() - 5000 * TICKS_PER_US));
	atomic_store(&controller.slow_us, VHOST_SLOW_MAX_US);
	thread_set_current(thread);
	vhost_queue_adopt_parameters(queue);
	assert_false(vhost_queue_is_slow(queue, env_ticks() - 5000 * TICKS_PER_US));
	atomic_store(&controller.slow_us, 0);
	vhost_queue_adopt_parameters(queue);
	thread_set_current(NULL);
	assert_true(vhost_queue_is_slow(queue, env_ticks()));
	/* Within the poll, of a disk with a histogram. */
	assert_false(vhost_queue_is_slow(queue, env_ticks() + 1));
}

static void
test_completion_until_the_driver_sees_it(void **state)
{
	(void)state;
	atomic_store(&controller.slow_us, 10000);
	start(false);
	do_slow_one(10000);
	assert_int_equal(trace->settled, 0);
	ticks_advance_us(7);
	poll_once(thread);
	expect_completion(7);
	assert_int_equal(trace->records[0].stages[VHOST_STAGE_DEVICE], 10000 * TICKS_PER_US);
}

/* A second queue on the thread: its record waits for its own driver. */
static void
test_completion_of_each_queue(void **state)
{
	struct vhost_queue other = {.home = queue->home, .index = 9};

	(void)state;
	atomic_store(&controller.slow_us, 10000);
	start(false);
	other.clock = queue->clock;
	do_slow_one(10000);
	vhost_trace_add(&other, 0, 0);
	vhost_trace_add(queue, 0, 0);
	poll_once(thread);
	assert_int_equal(trace->settled, 1);
	assert_ptr_equal(trace->records[1].unsettled, &other);
	assert_null(trace->records[2].unsettled);
	vhost_trace_settle(&other);
	assert_int_equal(trace->settled, 3);
	assert_int_equal(trace->records[1].queue, 9);
}

static void
test_completion_until_the_call(void **state)
{
	uint64_t waited = 0;

	(void)state;
	atomic_store(&controller.slow_us, 10000);
	start(false);
	set_coalescing(BASE_US, THRESHOLD);
	thread_set_current(thread);
	vhost_queue_adopt_parameters(queue);
	thread_set_current(NULL);
	run_at(10 * THRESHOLD);
	us_between_calls();
	do_slow_one(1);
	do {
		assert_true(waited < BASE_US);
		assert_int_equal(trace->settled, 0);
		ticks_advance_us(1);
		waited++;
		poll_once(thread);
	} while (take(call_fd) == 0);
	assert_true(waited > 1);
	expect_completion(waited);
}

/* Nobody polls the queue then. */
static void
test_completion_during_sleep(void **state)
{
	(void)state;
	set_coalescing(BASE_US, THRESHOLD);
	start(false);
	put_off();
	take(call_fd);
	hold = true;
	do_one();
	vhost_trace_add(queue, 0, 0);
	let_go();
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	assert_int_equal(trace->settled, 0);
	ticks_advance_us(BASE_US);
	poll_once(thread);
	assert_int_equal(take(call_fd), 1);
	expect_completion(BASE_US);
}

static void
test_completion_ends_with_the_queue(void **state)
{
	(void)state;
	start(false);
	hold = true;
	do_one();
	thread_set_current(thread);
	vhost_queue_abandon(queue);
	thread_set_current(NULL);
	vhost_trace_add(queue, 0, 0);
	notifier_fails = true;
	let_go();
	ticks_advance_us(3);
	poll_once(thread);
	assert_int_equal(queue->state, VHOST_QUEUE_STOPPED);
	expect_completion(3);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_off),
		TEST(test_counters),
		TEST(test_completion_before_sleep),
		TEST(test_last_completion_before_sleep),
		TEST(test_lost_memory_breaks_the_queue),
		TEST(test_failed_start_is_told),
		TEST(test_call_is_tried_again),
		TEST(test_first_call_is_tried_again),
		TEST(test_slow_queue_is_not_delayed),
		TEST(test_fast_queue),
		TEST(test_delay_grows_with_the_rate),
		TEST(test_first_calls_after_a_pause),
		TEST(test_kicks_are_counted),
		TEST(test_not_lost),
		TEST(test_event_idx),
		TEST(test_goes_out_during_sleep),
		TEST(test_goes_out_on_stop),
		TEST(test_abandoned_queue_is_silent),
		TEST(test_switched_off_meanwhile),
		TEST(test_new_eventfd_is_told_once),
		TEST(test_slow_is_what_the_controller_says),
		TEST(test_completion_until_the_driver_sees_it),
		TEST(test_completion_of_each_queue),
		TEST(test_completion_until_the_call),
		TEST(test_completion_during_sleep),
		TEST(test_completion_ends_with_the_queue),
		TEST(test_extremes),
	};

	return cmocka_run_group_tests_name("vhost_queue", tests, NULL, NULL);
}
