/* SPDX-License-Identifier: BSD-3-Clause */
/* links: thread testlib env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "by_hand.h"
#include "env.h"
#include "fault.h"
#include "thread.h"
#include "waiting.h"

#define THREADS 3

static struct thread *threads[THREADS];

/* A device that counts. */
struct device {
	int create_rc;
	unsigned int created;
	unsigned int destroyed;
	unsigned int removed;
	struct thread *removed_on;
};

struct channel {
	unsigned int magic;
	struct thread *thread;
};

static int
device_create(void *dev, void *ctx)
{
	struct device *device = dev;
	struct channel *channel = ctx;

	assert_int_equal(channel->magic, 0);
	if (device->create_rc != 0)
		return device->create_rc;
	device->created++;
	channel->magic = 4711;
	channel->thread = thread_current();
	return 0;
}

static void
device_destroy(void *dev, void *ctx)
{
	struct device *device = dev;
	struct channel *channel = ctx;

	assert_int_equal(channel->magic, 4711);
	assert_ptr_equal(channel->thread, thread_current());
	channel->magic = 0;
	device->destroyed++;
}

static void
device_removed(void *dev)
{
	struct device *device = dev;

	device->removed++;
	device->removed_on = thread_current();
}

static void
device_register(struct device *device)
{
	assert_int_equal(io_device_register(device, device_create, device_destroy,
					    sizeof(struct channel), "device"),
			 0);
}

static int
setup(void **state)
{
	(void)state;
	thread_lib_init(NULL);
	for (unsigned int i = 0; i < THREADS; i++) {
		threads[i] = thread_create("t", NULL);
		assert_non_null(threads[i]);
	}
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	thread_set_current(NULL);
	for (unsigned int i = 0; i < THREADS; i++)
		thread_finish(threads[i]);
	thread_lib_fini();
	return 0;
}

static void
poll_all(void)
{
	struct thread *previous = thread_current();

	thread_set_current(NULL);
	poll_until_idle(threads, THREADS);
	thread_set_current(previous);
}

static struct io_channel *
get_on(unsigned int index, void *dev)
{
	struct io_channel *channel;

	thread_set_current(threads[index]);
	channel = io_channel_get(dev);
	thread_set_current(NULL);
	return channel;
}

static void
put_on(unsigned int index, struct io_channel *channel)
{
	thread_set_current(threads[index]);
	io_channel_put(channel);
	thread_set_current(NULL);
}

static void
unregister_on(unsigned int index, struct device *device)
{
	thread_set_current(threads[index]);
	io_device_unregister(device, device_removed);
	thread_set_current(NULL);
}

/* ---- references ---- */

static void
test_one_channel_per_thread(void **state)
{
	struct device device = {0};
	struct io_channel *a, *b;
	struct thread_stats stats;

	(void)state;
	device_register(&device);
	a = get_on(0, &device);
	b = get_on(1, &device);
	assert_non_null(a);
	assert_non_null(b);
	assert_ptr_not_equal(a, b);
	assert_ptr_equal(get_on(0, &device), a);
	assert_int_equal(device.created, 2);
	assert_ptr_equal(io_channel_thread(a), threads[0]);
	assert_int_equal((uintptr_t)io_channel_ctx(a) % 64, 0);
	thread_get_stats(threads[0], &stats);
	assert_int_equal(stats.channels, 1);
	put_on(0, a);
	poll_all();
	assert_int_equal(device.destroyed, 0);
	put_on(0, a);
	assert_int_equal(device.destroyed, 0); /* not from inside */
	poll_all();
	assert_int_equal(device.destroyed, 1);
	thread_get_stats(threads[0], &stats);
	assert_int_equal(stats.channels, 0);
	put_on(1, b);
	unregister_on(0, &device);
	poll_all();
	assert_int_equal(device.removed, 1);
}

/* put, get and put again before the first put's message has run. */
static void
test_get_after_put_uses_it_again(void **state)
{
	struct device device = {0};
	struct io_channel *channel;

	(void)state;
	device_register(&device);
	thread_set_current(threads[0]);
	channel = io_channel_get(&device);
	io_channel_put(channel);
	assert_ptr_equal(io_channel_get(&device), channel);
	poll_all();
	assert_int_equal(device.destroyed, 0);
	io_channel_put(channel);
	assert_ptr_equal(io_channel_get(&device), channel);
	io_channel_put(channel);
	poll_all();
	assert_int_equal(device.created, 1);
	assert_int_equal(device.destroyed, 1);
	unregister_on(0, &device);
	poll_all();
}

static void
test_create_fails(void **state)
{
	struct device device = {.create_rc = -EIO};

	(void)state;
	device_register(&device);
	errno = 0;
	assert_null(get_on(0, &device));
	assert_int_equal(errno, EIO);
	fault_after(0);
	assert_null(get_on(0, &device));
	assert_int_equal(errno, ENOMEM);
	assert_true(fault_end());
	unregister_on(0, &device); /* nothing holds it */
	poll_all();
	assert_int_equal(device.removed, 1);
	assert_int_equal(device.destroyed, 0);
}

static void
test_many_devices(void **state)
{
	static struct device devices[300];
	struct io_channel *channels[300];

	(void)state;
	memset(devices, 0, sizeof(devices));
	for (unsigned int i = 0; i < 300; i++) {
		device_register(&devices[i]);
		channels[i] = get_on(0, &devices[i]);
	}
	for (unsigned int i = 0; i < 300; i++) {
		assert_ptr_equal(get_on(0, &devices[i]), channels[i]);
		put_on(0, channels[i]);
		put_on(0, channels[i]);
		unregister_on(1, &devices[i]);
	}
	poll_all();
	for (unsigned int i = 0; i < 300; i++) {
		assert_int_equal(devices[i].destroyed, 1);
		assert_int_equal(devices[i].removed, 1);
	}
}

/* ---- devices ---- */

static void
test_register_errors(void **state)
{
	struct device device = {0};

	(void)state;
	fault_after(0);
	assert_int_equal(io_device_register(&device, device_create, device_destroy, 0, "x"),
			 -ENOMEM);
	assert_true(fault_end());
	errno = 0;
	assert_null(get_on(0, &device));
	assert_int_equal(errno, ENODEV);
	device_register(&device);
	assert_int_equal(io_device_register(&device, device_create, device_destroy, 0, "x"),
			 -EEXIST);
	thread_set_current(threads[0]);
	io_device_unregister(&device, NULL);
	poll_all();
	device_register(&device);
	io_device_unregister(&device, NULL);
	poll_all();
}

static void
test_unregister_waits_for_the_last_channel(void **state)
{
	struct device device = {0};
	struct io_channel *a, *b;

	(void)state;
	device_register(&device);
	a = get_on(0, &device);
	b = get_on(1, &device);
	unregister_on(2, &device);
	poll_all();
	assert_int_equal(device.removed, 0);
	/*
	 * going away: not for those who have one, and not for others; and not to be registered
	 * again
	 */
	for (unsigned int i = 0; i < THREADS; i++) {
		errno = 0;
		assert_null(get_on(i, &device));
		assert_int_equal(errno, ENODEV);
	}
	assert_int_equal(io_device_register(&device, device_create, device_destroy, 0, "x"),
			 -EEXIST);
	put_on(0, a);
	poll_all();
	assert_int_equal(device.removed, 0);
	put_on(1, b);
	assert_int_equal(device.removed, 0);
	/* the thread that waits for it stays until then */
	thread_set_current(threads[2]);
	thread_exit(threads[2]);
	thread_set_current(NULL);
	assert_false(thread_is_exited(threads[2]));
	poll_all();
	assert_int_equal(device.removed, 1);
	assert_int_equal(device.destroyed, 2);
	assert_ptr_equal(device.removed_on, threads[2]);
	assert_true(thread_is_exited(threads[2]));
}

static void
register_again(void *dev)
{
	device_removed(dev);
	device_register(dev);
}

static void
test_register_again_when_done(void **state)
{
	struct device device = {0};

	(void)state;
	device_register(&device);
	thread_set_current(threads[0]);
	io_device_unregister(&device, register_again);
	assert_int_equal(device.removed, 0);
	poll_all();
	assert_int_equal(device.removed, 1);
	unregister_on(0, &device);
	poll_all();
	assert_int_equal(device.removed, 2);
}

static struct device *device_to_unregister;

static int
create_while_unregistered(void *dev, void *ctx)
{
	struct thread *thread = thread_current();

	unregister_on(1, device_to_unregister);
	thread_set_current(thread);
	return device_create(dev, ctx);
}

static void
test_unregister_while_a_channel_is_made(void **state)
{
	struct device device = {0};
	struct io_channel *channel;

	(void)state;
	device_to_unregister = &device;
	assert_int_equal(io_device_register(&device, create_while_unregistered, device_destroy,
					    sizeof(struct channel), "device"),
			 0);
	thread_set_current(threads[0]);
	channel = io_channel_get(&device);
	assert_non_null(channel);
	poll_all();
	assert_int_equal(device.removed, 0);
	io_channel_put(channel);
	poll_all();
	assert_int_equal(device.removed, 1);

	device = (struct device){.create_rc = -EBUSY};
	assert_int_equal(io_device_register(&device, create_while_unregistered, device_destroy,
					    sizeof(struct channel), "device"),
			 0);
	assert_null(io_channel_get(&device));
	assert_int_equal(errno, EBUSY);
	poll_all();
	assert_int_equal(device.removed, 1);
}

static void
count_info(void *ctx, const struct io_channel_info *info)
{
	assert_string_equal(info->name, "device");
	*(uint32_t *)ctx += info->refs;
}

static void
test_info(void **state)
{
	struct device devices[2] = {{0}};
	struct io_channel *a, *b;
	uint32_t refs = 0;

	(void)state;
	device_register(&devices[0]);
	device_register(&devices[1]);
	a = get_on(0, &devices[0]);
	assert_ptr_equal(get_on(0, &devices[0]), a);
	b = get_on(0, &devices[1]);
	thread_for_each_channel(threads[0], count_info, &refs);
	assert_int_equal(refs, 3);
	put_on(0, a);
	put_on(0, a);
	put_on(0, b);
	unregister_on(0, &devices[0]);
	unregister_on(0, &devices[1]);
	poll_all();
}

/* ---- for_each_channel ---- */

struct walk {
	unsigned int visited[THREADS];
	unsigned int visits;
	unsigned int stop_after; /* visits; 0: never */
	bool hold;               /* the visitor goes on later */
	struct io_channel_iter *held;
	unsigned int done;
	int status;
	struct thread *done_on;
};

static void
visit(struct io_channel_iter *iter)
{
	struct walk *walk = io_channel_iter_ctx(iter);
	struct io_channel *channel = io_channel_iter_channel(iter);

	assert_ptr_equal(io_channel_thread(channel), thread_current());
	for (unsigned int i = 0; i < THREADS; i++)
		walk->visited[i] += threads[i] == thread_current();
	walk->visits++;
	if (walk->hold)
		walk->held = iter;
	else
		for_each_channel_continue(iter, walk->visits == walk->stop_after ? -EINTR : 0);
}

static void
walk_done(void *ctx, int status)
{
	struct walk *walk = ctx;

	walk->done++;
	walk->status = status;
	walk->done_on = thread_current();
}

static void
start_walk(unsigned int index, struct device *device, struct walk *walk)
{
	thread_set_current(threads[index]);
	assert_int_equal(for_each_channel(device, visit, walk, walk_done), 0);
	thread_set_current(NULL);
}

static void
test_walk(void **state)
{
	struct device device = {0};
	struct io_channel *channels[THREADS];
	struct walk walk = {.done = 0};

	(void)state;
	device_register(&device);
	start_walk(1, &device, &walk); /* over nothing */
	assert_int_equal(walk.done, 0);
	poll_all();
	assert_int_equal(walk.done, 1);
	assert_int_equal(walk.visits, 0);

	channels[0] = get_on(0, &device);
	channels[2] = get_on(2, &device);
	walk = (struct walk){.done = 0};
	start_walk(1, &device, &walk);
	poll_all();
	assert_int_equal(walk.visited[0], 1);
	assert_int_equal(walk.visited[1], 0);
	assert_int_equal(walk.visited[2], 1);
	assert_int_equal(walk.done, 1);
	assert_int_equal(walk.status, 0);
	assert_ptr_equal(walk.done_on, threads[1]);

	walk = (struct walk){.stop_after = 1};
	start_walk(0, &device, &walk);
	poll_all();
	assert_int_equal(walk.visits, 1);
	assert_int_equal(walk.done, 1);
	assert_int_equal(walk.status, -EINTR);

	put_on(0, channels[0]);
	put_on(2, channels[2]);
	unregister_on(0, &device);
	poll_all();
	thread_set_current(threads[0]);
	assert_int_equal(for_each_channel(&device, visit, &walk, walk_done), -ENODEV);
	fault_after(0);
	assert_int_equal(for_each_channel(&device, visit, &walk, walk_done), -ENOMEM);
	assert_true(fault_end());
}

/* The visitor goes on later, while everybody puts what they have and the device is unregistered. */
static void
test_walk_holds_channel_and_device(void **state)
{
	struct device device = {0};
	struct io_channel *a, *b;
	struct walk walk = {.hold = true};

	(void)state;
	device_register(&device);
	a = get_on(0, &device);
	b = get_on(1, &device);
	start_walk(2, &device, &walk);
	poll_all();
	assert_int_equal(walk.visits, 1);
	put_on(0, a);
	put_on(1, b);
	unregister_on(2, &device);
	poll_all();
	assert_int_equal(device.destroyed, 1); /* b; a is being visited */
	assert_int_equal(device.removed, 0);
	thread_set_current(threads[0]);
	for_each_channel_continue(walk.held, 0);
	poll_all();
	assert_int_equal(walk.visits, 1);
	assert_int_equal(walk.done, 1);
	assert_int_equal(device.destroyed, 2);
	assert_int_equal(device.removed, 1);
}

/* The channel goes while the walk's message to its thread is under way. */
static void
test_walk_comes_too_late(void **state)
{
	struct device device = {0};
	struct io_channel *channel;
	struct walk walk = {.done = 0};

	(void)state;
	device_register(&device);
	channel = get_on(0, &device);
	put_on(0, channel); /* its end is queued before the walk */
	start_walk(1, &device, &walk);
	poll_all();
	assert_int_equal(walk.visits, 0);
	assert_int_equal(walk.done, 1);
	unregister_on(0, &device);
	poll_all();
	assert_int_equal(device.removed, 1);
}

/* ---- on real OS threads: each gets, puts and walks while the others do ---- */

#define ROUNDS 300

static struct device shared;
static atomic_uint finished;

static int
shared_create(void *dev, void *ctx)
{
	(void)dev;
	*(struct thread **)ctx = thread_current();
	return 0;
}

static void
shared_destroy(void *dev, void *ctx)
{
	(void)dev;
	assert_ptr_equal(*(struct thread **)ctx, thread_current());
}

static void
shared_visit(struct io_channel_iter *iter)
{
	struct thread **ctx = io_channel_ctx(io_channel_iter_channel(iter));

	assert_ptr_equal(*ctx, thread_current());
	for_each_channel_continue(iter, 0);
}

static void
shared_done(void *ctx, int status)
{
	assert_int_equal(status, 0);
	(*(unsigned int *)ctx)--;
}

static void *
run_thread(void *arg)
{
	struct thread *thread = arg;
	unsigned int walks = 0;

	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct io_channel *channel;

		thread_set_current(thread);
		channel = io_channel_get(&shared);
		assert_non_null(channel);
		if (round % 4 == 0) {
			walks++;
			assert_int_equal(
				for_each_channel(&shared, shared_visit, &walks, shared_done), 0);
		}
		thread_set_current(NULL);
		poll_once(thread);
		thread_set_current(thread);
		io_channel_put(channel);
		thread_set_current(NULL);
		poll_once(thread);
	}
	while (walks > 0)
		poll_once(thread);
	/*
	 * others may still send walks to this thread: they have no channel of it any more when all
	 * are here
	 */
	atomic_fetch_add(&finished, 1);
	while (atomic_load(&finished) < THREADS) {
		poll_once(thread);
		sched_yield();
	}
	return NULL;
}

static void
test_on_os_threads(void **state)
{
	pthread_t os_threads[THREADS];

	(void)state;
	atomic_store(&finished, 0);
	assert_int_equal(io_device_register(&shared, shared_create, shared_destroy,
					    sizeof(struct thread *), "shared"),
			 0);
	for (unsigned int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&os_threads[i], NULL, run_thread, threads[i]), 0);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(os_threads[i], NULL);
	thread_set_current(threads[0]);
	io_device_unregister(&shared, device_removed);
	poll_all();
	assert_int_equal(shared.removed, 1);
}

#define channel_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		channel_test(test_one_channel_per_thread),
		channel_test(test_get_after_put_uses_it_again),
		channel_test(test_create_fails),
		channel_test(test_many_devices),
		channel_test(test_register_errors),
		channel_test(test_unregister_waits_for_the_last_channel),
		channel_test(test_register_again_when_done),
		channel_test(test_unregister_while_a_channel_is_made),
		channel_test(test_info),
		channel_test(test_walk),
		channel_test(test_walk_holds_channel_and_device),
		channel_test(test_walk_comes_too_late),
		channel_test(test_on_os_threads),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
