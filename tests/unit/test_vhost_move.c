/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queues that are moved between reactors all the time: under load, when their front-end goes, and
 * while their guest breaks them. The main thread runs the reactors, an OS thread beside them is the
 * vhost-events thread.
 */
/* links: vhost virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=log_write,--wrap=completion_wait */
#include "event.h"
#include "vhost_queues_rig.h"

/* ---- the mover ---- */

static struct {
	pthread_t thread;
	atomic_bool stop;
	uint64_t moves;
} mover;

static int
move_on_thread(void *arg)
{
	return thread_move(*(uint32_t *)arg);
}

static void *
mover_main(void *arg)
{
	unsigned int seed = 1;

	(void)arg;
	while (!mover.stop) {
		uint32_t count = atomic_load(&controller->threads.count);
		struct thread *thread = thread_number((uint32_t)rand_r(&seed) % count)->thread;
		uint32_t core = cores[rand_r(&seed) % 2];

		check(thread_call(thread, move_on_thread, &core) == 0);
		mover.moves++;
	}
	return NULL;
}

static void
mover_start(void)
{
	mover.stop = false;
	mover.moves = 0;
	check(pthread_create(&mover.thread, NULL, mover_main, NULL) == 0);
}

static void
mover_stop(void)
{
	mover.stop = true;
	pthread_join(mover.thread, NULL);
	check(mover.moves > 0);
}

/* ---- reactors ---- */

static void *
beside_main(void *arg)
{
	void (*body)(void) = *(void (**)(void))arg;

	rig_start(2);
	mover_start();
	body();
	mover_stop();
	rig_end();
	reactors_stop();
	return NULL;
}

/* body runs as the vhost-events thread, once for each mode of the reactors. */
static void
run(void (*body)(void))
{
	static const enum reactor_mode modes[] = {REACTOR_ADAPTIVE, REACTOR_INTERRUPT,
						  REACTOR_POLL};
	struct errmsg err = {""};
	pthread_t beside;

	failures = 0;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		rig_memory_create();
		assert_int_equal(reactors_init(modes[i], &err), 0);
		assert_int_equal(work_pool_start(NULL), 0);
		assert_int_equal(pthread_create(&beside, NULL, beside_main, &body), 0);
		assert_int_equal(reactors_run(), 0);
		pthread_join(beside, NULL);
		work_pool_stop();
		free(controller);
		reactors_fini();
		rig_memory_destroy();
	}
	assert_int_equal(failures, 0);
}

/* ---- bodies ---- */

static void
change_under_load(void)
{
	start_all();
	check(controller->threads.count == 2);
	drivers_start();
	for (unsigned int i = 0; i < 60; i++) {
		uint32_t base;

		usleep(1000);
		check(vhost_session_get_vring_base(session, i % QUEUES, &base) == 0);
		check(send_kick(i % QUEUES) == 0);
		if (i % 4 == 0)
			check(send_mem_table() == 0);
	}
	drivers_stop();
	stop_all();
}

static void
test_under_load(void **state)
{
	(void)state;
	run(change_under_load);
}

/*
 * The front-end closes its connection while it has requests; its memory is as it was then, until
 * the next one asks for them again.
 */
static void
lose_front_end(void)
{
	for (unsigned int round = 0; round < 60; round++) {
		uint16_t used[QUEUES];

		start_all();
		device.hold = round % 2;
		for (unsigned int i = 0; i < QUEUES; i++)
			driver_fill(&drivers[i]);
		usleep(round * 10);
		vhost_session_release(session);
		session = NULL;
		for (unsigned int i = 0; i < QUEUES; i++)
			used[i] = drivers[i].used->idx;
		let_go();
		new_session();
		for (unsigned int i = 0; i < QUEUES; i++)
			check(drivers[i].used->idx == used[i]);
		start_all();
		for (unsigned int i = 0; i < QUEUES; i++) {
			wait_until(drivers[i].used->idx == drivers[i].avail_index);
			driver_reap(&drivers[i]);
		}
		new_session();
	}
}

static void
test_front_end_goes(void **state)
{
	(void)state;
	run(lose_front_end);
}

static bool
is_signalled(int fd)
{
	uint64_t value;

	return read(fd, &value, sizeof(value)) == sizeof(value);
}

/* One queue is broken, again and again; the others do not notice. */
static void
break_queue(void)
{
	int err_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct driver *bad = &drivers[1];

	start_all();
	check(vhost_session_set_vring_err(session, 1, dup(err_fd)) == 0);
	for (unsigned int round = 0; round < 60; round++) {
		uint32_t base;

		driver_fill(bad);
		for (unsigned int i = 0; i < QUEUES; i++) {
			if (i != 1)
				driver_fill(&drivers[i]);
		}
		/* Outside the descriptor table, or an index that jumps. */
		bad->avail->ring[bad->avail_index % RING_SIZE] = RING_SIZE;
		__atomic_store_n(&bad->avail->idx,
				 (uint16_t)(bad->avail_index + (round % 2 ? 1 : RING_SIZE + 1)),
				 __ATOMIC_SEQ_CST);
		driver_kick(bad);
		wait_until(is_signalled(err_fd));
		for (unsigned int i = 0; i < QUEUES; i++) {
			if (i == 1)
				continue;
			wait_until(drivers[i].used->idx == drivers[i].avail_index);
			driver_reap(&drivers[i]);
		}
		check(vhost_session_get_vring_base(session, 1, &base) == 0);
		driver_reset(bad);
		check(vhost_session_set_vring_base(session, 1, 0) == 0);
		check(send_kick(1) == 0);
		driver_do_one(bad);
	}
	close(err_fd);
	stop_all();
}

static void
test_guest_breaks_it(void **state)
{
	(void)state;
	run(break_queue);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_under_load),
		cmocka_unit_test(test_front_end_goes),
		cmocka_unit_test(test_guest_breaks_it),
	};

	return cmocka_run_group_tests_name("vhost_move", tests, rig_group_setup,
					   rig_group_teardown);
}
