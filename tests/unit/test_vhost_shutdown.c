/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of all controllers at once, some of which have requests that take long, or do not end. */
/* links: vhost virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=log_write,--wrap=env_core_first */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "by_hand.h"
#include "env.h"
#include "log_capture.h"
#include "ticks.h"
#include "vhost/controller.h"
#include "vhost/session.h"

#define CONTROLLERS 3
#define STEP_US     100

static struct thread *threads[1 + CONTROLLERS]; /* app, and the main thread of each */
static unsigned int thread_count;

/* No cores were chosen: the threads are polled here. */
uint32_t __wrap_env_core_first(void);

uint32_t
__wrap_env_core_first(void)
{
	return ENV_NO_CORE;
}

static int
schedule(struct thread *thread)
{
	threads[thread_count++] = thread;
	return 0;
}

/* ---- a device whose requests the test ends ---- */

static unsigned int destroyed;

static uint64_t
features(void *device)
{
	(void)device;
	return 0;
}

static int
channel_get(void *device, const char *label, void **channel)
{
	(void)device;
	(void)label;
	*channel = NULL;
	return 0;
}

static void
destroy(void *device)
{
	(void)device;
	destroyed++;
}

static const struct vhost_device_ops device_ops = {
	.name = "test", .features = features, .channel_get = channel_get, .destroy = destroy};

/* ---- controllers, with a queue each that was told to stop and has not ---- */

static struct vhost_controller *controllers[CONTROLLERS];
static struct vhost_session *sessions[CONTROLLERS];
static bool finished;

static void
poll(void)
{
	for (unsigned int i = 0; i < thread_count; i++) {
		if (!thread_is_exited(threads[i]))
			poll_once(threads[i]);
	}
}

static void
create_run(void *arg)
{
	(void)arg;
	for (int i = 0; i < CONTROLLERS; i++) {
		const struct vhost_controller_opts opts = {
			.name = (const char *[]){"a", "b", "c"}[i],
			.ops = &device_ops,
			.delay = true,
		};

		vhost_controller_create(&opts, NULL);
	}
	finished = true;
}

static void
fini_run(void *arg)
{
	(void)arg;
	vhost_lib_fini();
	finished = true;
}

static void
delete_run(void *arg)
{
	*(int *)arg = vhost_controller_delete("a", NULL);
	finished = true;
}

static void
start(void (*fn)(void *arg), void *arg)
{
	finished = false;
	assert_int_equal(coroutine_start(threads[0], "test", fn, arg), 0);
}

/* Time passes only while somebody sleeps. */
static void
run_ms(unsigned int ms)
{
	for (unsigned int i = 0; i < ms * 1000 / STEP_US && !finished; i++) {
		for (int round = 0; round < 10; round++)
			poll();
		ticks_advance_us(STEP_US);
	}
}

static int
setup(void **state)
{
	static const struct thread_lib_ops ops = {.schedule = schedule};
	uint64_t serial = 0;

	(void)state;
	ticks_advance_us(1000);
	thread_count = destroyed = 0;
	thread_lib_init(&ops);
	assert_non_null(thread_create("app", NULL));
	start(create_run, NULL);
	run_ms(100);
	assert_true(finished);
	for (int i = 0; i < CONTROLLERS; i++) {
		controllers[i] = vhost_controller_next(serial);
		assert_non_null(controllers[i]);
		serial = controllers[i]->serial;
		sessions[i] = aligned_alloc(_Alignof(struct vhost_session), sizeof(*sessions[i]));
		memset(sessions[i], 0, sizeof(*sessions[i]));
		sessions[i]->controller = controllers[i];
		sessions[i]->busy = sessions[i]->stopping = 1;
		TAILQ_INSERT_TAIL(&controllers[i]->sessions, sessions[i], link);
	}
	log_capture_reset();
	return 0;
}

/* Its requests end, and its session. */
static void
end_requests(int i)
{
	TAILQ_REMOVE(&controllers[i]->sessions, sessions[i], link);
	free(sessions[i]);
	sessions[i] = NULL;
}

static int
teardown(void **state)
{
	(void)state;
	for (int i = 0; i < CONTROLLERS; i++) {
		if (sessions[i] != NULL)
			end_requests(i);
	}
	start(fini_run, NULL);
	run_ms(100);
	assert_true(finished);
	assert_int_equal(destroyed, CONTROLLERS);
	for (unsigned int i = 1; i < thread_count; i++) {
		assert_true(thread_is_exited(threads[i]));
		thread_destroy(threads[i]);
	}
	thread_finish(threads[0]);
	thread_lib_fini();
	return 0;
}

/* ---- the tests ---- */

/* One that does not end takes nothing from the time of the others. */
static void
test_stuck(void **state)
{
	(void)state;
	start(fini_run, NULL);
	run_ms(10);
	for (int i = 0; i < CONTROLLERS; i++)
		assert_true(controllers[i]->closing);
	run_ms(4000);
	assert_int_equal(destroyed, 0);
	end_requests(2);
	run_ms(2000);
	assert_true(finished);
	assert_int_equal(destroyed, 1);
	assert_int_equal(log_capture_count(),
			 CONTROLLERS); /* one is deleted, of two it tells why not */
	assert_ptr_equal(vhost_controller_next(0), controllers[0]);
}

/* All of them together have the time of one. */
static void
test_deadline(void **state)
{
	(void)state;
	start(fini_run, NULL);
	run_ms(4990);
	assert_false(finished);
	run_ms(50);
	assert_true(finished);
	assert_int_equal(log_capture_count(), CONTROLLERS);
	assert_int_equal(destroyed, 0);
}

static void
test_delete(void **state)
{
	int rc = 1;

	(void)state;
	start(delete_run, &rc);
	run_ms(4990);
	assert_false(finished);
	run_ms(50);
	assert_true(finished);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_false(controllers[1]->closing);
	end_requests(0);
	start(delete_run, &rc);
	run_ms(50);
	assert_true(finished);
	assert_int_equal(rc, 0);
	assert_int_equal(destroyed, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_stuck), TEST(test_deadline),
					   TEST(test_delete)};

	return cmocka_run_group_tests_name("vhost_shutdown", tests, NULL, NULL);
}
