/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queues over several threads of a controller: where they go, and the order of what concerns all
 * of them. Each thread is polled by an OS thread of its own.
 */
/* links: vhost virtio bdev testlib thread env */
/* ldflags: -Wl,--wrap=log_write,--wrap=completion_wait */
#include "event.h"
#include "log_capture.h"
#include "patience.h"
#include "vhost_queues_rig.h"

/* ---- in place of reactors: each thread has a core of its own ---- */

#define MAX_THREADS 4

static pthread_t pollers[MAX_THREADS];
static unsigned int poller_count;
static unsigned int threads_allowed;
static struct cpumask first_cpumask;    /* that the last thread was made with */
static _Atomic(struct thread *) paused; /* not polled */
static atomic_bool pause_seen;

static void *
poll_thread(void *arg)
{
	struct thread *thread = arg;

	while (!thread_is_exited(thread)) {
		if (paused == thread)
			pause_seen = true;
		else
			thread_poll(thread, env_ticks());
		sched_yield();
	}
	thread_destroy(thread);
	return NULL;
}

static int
schedule(struct thread *thread)
{
	if (poller_count == threads_allowed)
		return -ENOMEM;
	first_cpumask = *thread_cpumask(thread);
	return -pthread_create(&pollers[poller_count++], NULL, poll_thread, thread);
}

static unsigned int cpumasks_set;

uint32_t
thread_core(struct thread *thread)
{
	return thread == vhost_main_thread(controller) ? cores[0] : cores[1];
}

int
thread_set_cpumask(const struct cpumask *cpumask)
{
	check(cpumask == (controller->has_cpumask ? &controller->cpumask : NULL));
	cpumasks_set++;
	return 0;
}

static int
setup_threads(uint32_t max)
{
	static const struct thread_lib_ops ops = {.schedule = schedule};

	failures = 0;
	thread_lib_init(&ops);
	assert_int_equal(work_pool_start(NULL), 0);
	poller_count = 0;
	cpumasks_set = 0;
	threads_allowed = MAX_THREADS;
	rig_memory_create();
	rig_start(max);
	log_capture_reset();
	return 0;
}

static int
setup(void **state)
{
	(void)state;
	return setup_threads(2);
}

/* The controller and its threads. */
static void
end_controller(void)
{
	rig_end();
	for (unsigned int i = 0; i < poller_count; i++)
		pthread_join(pollers[i], NULL);
	poller_count = 0;
	free(controller);
}

static int
teardown(void **state)
{
	(void)state;
	end_controller();
	work_pool_stop();
	thread_lib_fini();
	rig_memory_destroy();
	assert_int_equal(failures, 0);
	return 0;
}

/* ---- where queues go ---- */

static void
expect_homes(unsigned int first, unsigned int second, unsigned int third, unsigned int fourth)
{
	const unsigned int expected[QUEUES] = {first, second, third, fourth};

	for (unsigned int i = 0; i < QUEUES; i++)
		assert_ptr_equal(session->queues[i].home, thread_number(expected[i]));
}

static void
serve_all(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		driver_do_one(&drivers[i]);
}

/* One queue needs one thread; more of them get more, up to the limit, and share them evenly. */
static void
test_placement(void **state)
{
	(void)state;
	assert_int_equal(send_mem_table(), 0);
	assert_int_equal(device.channels, 1);
	assert_int_equal(start_queue(0), 0);
	assert_int_equal(controller->threads.count, 1);
	for (unsigned int i = 1; i < QUEUES; i++)
		assert_int_equal(start_queue(i), 0);
	assert_int_equal(controller->threads.count, 2);
	assert_int_equal(cpumasks_set, 1);
	expect_homes(0, 1, 0, 1);
	assert_string_equal(thread_name(thread_number(0)->thread), "vhost.test");
	assert_string_equal(thread_name(thread_number(1)->thread), "vhost.test.1");
	assert_int_equal(device.channels, 2 + QUEUES);
	serve_all();
	stop_all();
	/* The threads stay, and keep the way to the device open for the next start. */
	assert_int_equal(controller->threads.count, 2);
	assert_int_equal(device.channels, 2);
	/* Whoever has none comes first. */
	assert_int_equal(start_queue(3), 0);
	assert_int_equal(start_queue(2), 0);
	assert_int_equal(start_queue(1), 0);
	assert_int_equal(start_queue(0), 0);
	expect_homes(1, 0, 1, 0);
	serve_all();
	new_session();
	start_all();
	expect_homes(0, 1, 0, 1);
	serve_all();
	assert_int_equal(log_capture_count(), 0);
}

/*
 * A new thread begins on an allowed core that none of the controller's is on; then it may go
 * anywhere.
 */
static void
test_cores(void **state)
{
	struct cpumask expected = {{0}};

	(void)state;
	if (cores[0] == cores[1])
		skip();
	controller->has_cpumask = true;
	cpumask_set(&controller->cpumask, cores[0]);
	cpumask_set(&controller->cpumask, cores[1]);
	cpumask_set(&controller->cpumask, CPUMASK_CPUS - 1);
	cpumask_set(&expected, cores[1]);
	start_all();
	assert_true(cpumask_equal(&first_cpumask, &expected));
	assert_int_equal(cpumasks_set, 1);
	serve_all();
}

static int
setup_many(void **state)
{
	(void)state;
	return setup_threads(64);
}

/* Never more threads than queues. */
static void
test_more_threads_than_queues(void **state)
{
	(void)state;
	start_all();
	assert_int_equal(controller->threads.count, QUEUES);
	expect_homes(0, 1, 2, 3);
	serve_all();
}

/* No thread: all on the main thread, with one line in the log for each session. */
static void
test_no_thread(void **state)
{
	(void)state;
	threads_allowed = 1;
	start_all();
	assert_int_equal(controller->threads.count, 1);
	expect_homes(0, 0, 0, 0);
	serve_all();
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), "vhost test: no thread beside the first 1"));
	stop_all();
	threads_allowed = MAX_THREADS;
	start_all();
	expect_homes(0, 0, 0, 0);
	new_session();
	start_all();
	expect_homes(0, 1, 0, 1);
	serve_all();
	assert_int_equal(log_capture_count(), 1);
}

/* A device with few hardware queues. The thread is kept for the next attempt. */
static void
test_no_channel(void **state)
{
	(void)state;
	assert_int_equal(send_mem_table(), 0);
	device.refuse_after = 1;
	assert_int_equal(start_queue(0), 0);
	device.refuse_after = 0;
	/* This one gets no channel of its own either. */
	assert_int_equal(start_queue(1), -EMFILE);
	assert_int_equal(controller->threads.count, 2);
	assert_ptr_equal(session->queues[1].home, thread_number(0));
	assert_int_equal(log_capture_count(), 2);
	assert_non_null(strstr(log_capture_last(), "queue 1: cannot be started: Too many open"));
	device.refuse_after = -1;
	assert_int_equal(send_kick(1), 0);
	for (unsigned int i = 2; i < QUEUES; i++)
		assert_int_equal(start_queue(i), 0);
	expect_homes(0, 0, 0, 0);
	serve_all();
	new_session();
	start_all();
	assert_int_equal(controller->threads.count, 2);
	expect_homes(0, 1, 0, 1);
	serve_all();
}

/* A queue that its thread cannot start is stopped like any other, and may try again. */
static void
test_failed_start(void **state)
{
	(void)state;
	start_all();
	stop_all();
	for (unsigned int round = 0; round < 20; round++) {
		device.refuse_after = 1;
		assert_int_equal(start_queue(0), 0);
		assert_int_equal(start_queue(1), -EMFILE);
		assert_false(session->vrings[1].running);
		device.refuse_after = -1;
		assert_int_equal(send_kick(1), 0);
		assert_ptr_equal(session->queues[1].home, thread_number(1));
		driver_do_one(&drivers[1]);
		assert_int_equal(vhost_session_get_vring_base(session, 0, &(uint32_t){0}), 0);
		assert_int_equal(vhost_session_get_vring_base(session, 1, &(uint32_t){0}), 0);
	}
}

/* ---- what concerns all queues, under load ---- */

static void
test_memory_changes(void **state)
{
	(void)state;
	start_all();
	drivers_start();
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(send_mem_table(), 0);
	drivers_stop();
	stop_all();
}

static void
test_stop_and_start(void **state)
{
	(void)state;
	start_all();
	drivers_start();
	for (unsigned int i = 0; i < 400; i++) {
		uint32_t base;

		assert_int_equal(vhost_session_get_vring_base(session, i % QUEUES, &base), 0);
		assert_int_equal(send_kick(i % QUEUES), 0);
	}
	drivers_stop();
	stop_all();
}

static void
test_new_eventfds(void **state)
{
	(void)state;
	start_all();
	drivers_start();
	for (unsigned int i = 0; i < 400; i++) {
		int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

		assert_int_equal(vhost_session_set_vring_call(session, i % QUEUES, fd), 0);
	}
	drivers_stop();
	stop_all();
}

/* RESET_OWNER: every queue has stopped when it is answered. */
static void
test_reset(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 50; round++) {
		start_all();
		for (unsigned int i = 0; i < QUEUES; i++)
			driver_fill(&drivers[i]);
		assert_int_equal(vhost_session_reset(session), 0);
		assert_int_equal(device.channels, 2);
		for (unsigned int i = 0; i < QUEUES; i++) {
			/* What it took is done; the rest is for the next start. */
			uint16_t done = drivers[i].used->idx;

			driver_reap(&drivers[i]);
			assert_int_equal(drivers[i].used_index, done);
			driver_reset(&drivers[i]);
		}
	}
}

/* ---- the front-end goes ---- */

/* Nothing in memory changes any more after the release, on whichever thread the queue was. */
static void
test_release_with_requests(void **state)
{
	(void)state;
	start_all();
	device.hold = true;
	for (unsigned int i = 0; i < QUEUES; i++) {
		driver_offer(&drivers[i], 0);
		driver_offer(&drivers[i], 1);
		driver_kick(&drivers[i]);
		wait_until(device.handled[i] == 2);
	}
	vhost_session_release(session);
	session = NULL;
	let_go();
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_int_equal(drivers[i].used->idx, 0);

	/* And the next session serves them again, once the old requests are done. */
	new_session();
	device.hold = true;
	start_all();
	for (unsigned int i = 0; i < QUEUES; i++)
		wait_until(device.handled[i] == 4);
	vhost_session_release(session);
	session = NULL;
	new_session();
	start_all();
	usleep(20000);
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_int_equal(device.handled[i], 4);
	let_go();
	for (unsigned int i = 0; i < QUEUES; i++) {
		wait_until(drivers[i].used->idx == 2);
		assert_int_equal(driver_reap(&drivers[i]), 2);
	}
	stop_all();
}

static void
pause_second_thread(void)
{
	pause_seen = false;
	paused = thread_number(1)->thread;
	wait_until(pause_seen);
}

struct behind_pause {
	void (*fn)(void);
	atomic_bool returned;
};

static void *
call_behind_pause(void *arg)
{
	struct behind_pause *call = arg;

	call->fn();
	call->returned = true;
	return NULL;
}

/*
 * The second thread is busy with something else: fn returns only when it has done what it is told.
 */
static void
expect_to_wait(void (*fn)(void))
{
	struct behind_pause call = {.fn = fn};
	pthread_t os_thread;

	pause_second_thread();
	assert_int_equal(pthread_create(&os_thread, NULL, call_behind_pause, &call), 0);
	usleep(50000);
	check(!call.returned);
	paused = NULL;
	pthread_join(os_thread, NULL);
}

static void
take_call_fd(void)
{
	check(vhost_session_set_vring_call(session, 1, -1) == 0);
}

static void
release_session(void)
{
	vhost_session_release(session);
	session = NULL;
}

/* The old call eventfd may be closed, and the rings may be somebody else's, when it returns. */
static void
test_waits_for_the_queues_thread(void **state)
{
	(void)state;
	start_all();
	expect_to_wait(take_call_fd);
	expect_to_wait(release_session);
	assert_int_equal(device.channels, 2);
}

/*
 * A session whose release nobody could wait for has a queue still that its thread may be in the
 * middle of: the next session's does not run beside it, on another thread.
 */
static void
test_released_while_a_thread_hangs(void **state)
{
	(void)state;
	start_all();
	assert_ptr_equal(session->queues[1].home, thread_number(1));
	pause_second_thread();
	impatient = true;
	vhost_session_release(session);
	impatient = false;
	session = NULL;
	new_session();
	check(send_mem_table() == 0);
	check(start_queue(1) == 0);
	check(session->queues[1].home == thread_number(0));
	check(session->queues[1].state == VHOST_QUEUE_STOPPED);
	paused = NULL;
	start_all();
	serve_all();
}

/*
 * Queues that wait for the requests of another session are started by the main thread, when those
 * are done: meanwhile they get new eventfds, new memory, and lose their session.
 */
static void
test_waiting_queues(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 30; round++) {
		unsigned int before = device.handled[1];

		start_all();
		device.hold = true;
		driver_offer(&drivers[1], 0);
		driver_kick(&drivers[1]);
		wait_until(device.handled[1] == before + 1);
		new_session();
		start_all();
		assert_int_equal(session->queues[1].state, VHOST_QUEUE_STOPPED);
		if (round % 3 == 0)
			new_session();
		if (round % 3 == 0)
			start_all();
		let_go();
		/* Now they start, and at the same time this happens to them: */
		if (round % 2 == 0)
			assert_int_equal(vhost_session_set_vring_call(session, 1, -1), 0);
		else
			assert_int_equal(send_mem_table(), 0);
		wait_until(driver_reap(&drivers[1]) == 1);
		assert_int_equal(send_kick(0), 0);
		serve_all();
		new_session();
	}
}

/*
 * A late failure: nobody waits for that start any more, and the queue can be stopped all the same.
 */
static void
test_waiting_queue_fails(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 20; round++) {
		unsigned int before = device.handled[0];

		start_all();
		device.hold = true;
		driver_offer(&drivers[0], 0);
		driver_kick(&drivers[0]);
		wait_until(device.handled[0] == before + 1);
		new_session();
		device.refuse_after = 0;
		start_all();
		let_go();
		if (round % 2 == 0)
			for (unsigned int i = 0; i < QUEUES; i++)
				assert_int_equal(
					vhost_session_get_vring_base(session, i, &(uint32_t){0}),
					0);
		device.refuse_after = -1;
		new_session();
		start_all();
		wait_until(driver_reap(&drivers[0]) == 1);
		new_session();
	}
}

/* ---- anything, in any order ---- */

#define RANDOM_STEPS 3000

static struct vhost_inflight_layout region = {.num_queues = QUEUES, .queue_size = RING_SIZE};
static int region_fd;

/* Kept until the next one is let go; so nothing that waits for requests comes before that. */
static void
hold_and_leave(void)
{
	device.hold = true;
	for (long i = random() % 4; i >= 0; i--) {
		usleep((useconds_t)(random() % 200));
		new_session();
		check(vhost_session_set_inflight(session, &region, region_fd) == 0);
		start_all();
	}
	if (random() % 2 == 0)
		check(vhost_session_set_vring_call(session, 1, -1) == 0);
	let_go();
}

static void
random_step(void)
{
	unsigned int queue = (unsigned int)random() % QUEUES;
	uint32_t base;

	switch (random() % 8) {
	case 0:
		hold_and_leave();
		return;
	case 1:
		new_session();
		check(vhost_session_set_inflight(session, &region, region_fd) == 0);
		start_all();
		return;
	case 2:
		check(send_mem_table() == 0);
		return;
	case 3:
		check(vhost_session_set_vring_call(session, queue,
						   eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) == 0);
		return;
	case 4:
		device.refuse_after = (int)(random() % 3);
		for (unsigned int i = 0; i < QUEUES; i++)
			send_kick(i);
		device.refuse_after = -1;
		for (unsigned int i = 0; i < QUEUES; i++)
			check(send_kick(i) == 0);
		return;
	default:
		check(vhost_session_get_vring_base(session, queue, &base) == 0);
		check(send_kick(queue) == 0);
	}
}

static void
test_random(void **state)
{
	(void)state;
	srandom(1);
	region_fd = vhost_session_get_inflight(session, &region);
	assert_true(region_fd >= 0);
	check(vhost_session_set_inflight(session, &region, region_fd) == 0);
	start_all();
	drivers_start();
	for (unsigned int i = 0; i < RANDOM_STEPS && failures == 0; i++)
		random_step();
	drivers_stop();
	stop_all();
	close(region_fd);
}

/* ---- the controller and its device go ---- */

static int
close_on_thread(void *arg)
{
	(void)arg;
	controller->closing = true;
	return session != NULL ? (int)vhost_session_stop_all(session) : 0;
}

static void *
close_main(void *arg)
{
	(void)arg;
	wait_until(thread_call(vhost_main_thread(controller), close_on_thread, NULL) == 0);
	return NULL;
}

/* The controller is deleted while queues start: what has started is stopped, and no more starts. */
static void
test_closed_while_starting(void **state)
{
	pthread_t closer;

	(void)state;
	for (unsigned int round = 0; round < 50; round++) {
		unsigned int queue = 0;
		int rc = 0;

		assert_int_equal(pthread_create(&closer, NULL, close_main, NULL), 0);
		while (rc == 0) {
			if (queue == 0)
				rc = vhost_session_reset(session);
			if (queue == 0 && rc == 0)
				rc = send_mem_table();
			if (rc == 0)
				rc = start_queue(queue);
			queue = (queue + 1) % QUEUES;
		}
		assert_int_equal(rc, -ESHUTDOWN);
		pthread_join(closer, NULL);
		assert_true(device.channels <= 2);
		end_controller();
		rig_start(2);
	}
}

static void
close_and_stop_one(void)
{
	thread_call(vhost_main_thread(controller), close_on_thread, NULL);
	check(vhost_session_get_vring_base(session, 1, &(uint32_t){0}) == 0);
}

/*
 * Asked again before its thread has come to it, a queue is told once; and the message to the other
 * arrives.
 */
static void
test_stopped_twice(void **state)
{
	(void)state;
	start_all();
	expect_to_wait(close_and_stop_one);
	close_main(NULL);
	assert_int_equal(device.channels, 2);
}

static void *
remove_main(void *arg)
{
	(void)arg;
	device.gone = true;
	wait_until(vhost_threads_call(controller, vhost_thread_put_channels, NULL) == 0);
	check(device.channels == 0);
	return NULL;
}

/* The device goes while queues, and threads, start: no channel is left, and all is served on. */
static void
test_removed_while_starting(void **state)
{
	pthread_t remover;

	(void)state;
	for (unsigned int round = 0; round < 50; round++) {
		assert_int_equal(send_mem_table(), 0);
		if (round % 2 == 0)
			assert_int_equal(start_queue(0), 0);
		assert_int_equal(pthread_create(&remover, NULL, remove_main, NULL), 0);
		start_all();
		serve_all();
		pthread_join(remover, NULL);
		assert_int_equal(device.channels, 0);
		serve_all();
		stop_all();
		end_controller();
		rig_start(2);
	}
}

static void
test_removed_under_load(void **state)
{
	(void)state;
	start_all();
	drivers_start();
	remove_main(NULL);
	drivers_stop();
	assert_int_equal(device.channels, 0);
	stop_all();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_placement),
		TEST(test_cores),
		cmocka_unit_test_setup_teardown(test_more_threads_than_queues, setup_many,
						teardown),
		TEST(test_no_thread),
		TEST(test_no_channel),
		TEST(test_failed_start),
		TEST(test_memory_changes),
		TEST(test_stop_and_start),
		TEST(test_new_eventfds),
		TEST(test_reset),
		TEST(test_release_with_requests),
		TEST(test_waits_for_the_queues_thread),
		TEST(test_released_while_a_thread_hangs),
		TEST(test_waiting_queues),
		TEST(test_waiting_queue_fails),
		TEST(test_random),
		TEST(test_closed_while_starting),
		TEST(test_stopped_twice),
		TEST(test_removed_while_starting),
		TEST(test_removed_under_load),
	};

	return cmocka_run_group_tests_name("vhost_queues", tests, rig_group_setup,
					   rig_group_teardown);
}
