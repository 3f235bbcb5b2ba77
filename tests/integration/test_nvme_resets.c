/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guests keep four queues of an NVMe disk full while its controller is reset every second, for each
 * reason that there is: no block is lost or wrong, and no request is stuck. $VHOSTD_RESET_SECONDS
 * says how long, for each kind of rings; `make test` asks for 5.
 */
/* links: client testlib */
#include <pthread.h>
#include <stdatomic.h>

#include "nvme_guest_rig.h"

#define SECONDS  3
#define PERIOD_S 1

static unsigned int
seconds(void)
{
	const char *text = getenv("VHOSTD_RESET_SECONDS");

	return text != NULL ? (unsigned int)strtoul(text, NULL, 10) : SECONDS;
}

/* ---- trouble; on a thread of its own, so that the queues stay full ---- */

static bool
call(const char *method)
{
	return daemon_call(&rig.daemon, method, json_pack("{s:s}", "name", "nvme0")) == 0;
}

static bool
reset(void)
{
	return call("bdev_nvme_reset_controller");
}

static bool
fatal(void)
{
	return nvme_device_control(&rig.device, NULL, "fatal") == 0;
}

static bool
lose_completions(void)
{
	return nvme_device_control(&rig.device, NULL, "fault lose queue=io nth=20 count=3") == 0;
}

static bool
disable(void)
{
	bool done = call("bdev_nvme_disable_controller");

	usleep(20000);
	return call("bdev_nvme_enable_controller") && done;
}

static bool
many_at_once(void)
{
	bool done = fatal();

	for (int i = 0; i < 2; i++)
		done &= reset();
	return done;
}

static bool (*const troubles[])(void) = {reset, fatal, lose_completions, disable, many_at_once};

/* Static: when an assertion fails, the test's frame is gone before the thread is. */
static struct injector {
	pthread_t thread;
	bool runs;
	atomic_bool stop;
	unsigned int made;
	unsigned int failed;
} injector;

static void *
run_injector(void *arg)
{
	uint64_t next = now_ms();

	(void)arg;
	while (!atomic_load(&injector.stop)) {
		if (now_ms() < next) {
			usleep(5000);
			continue;
		}
		if (!troubles[injector.made++ % (sizeof(troubles) / sizeof(troubles[0]))]())
			injector.failed++;
		next += PERIOD_S * 1000;
	}
	return NULL;
}

static void
start_injector(void)
{
	memset(&injector, 0, sizeof(injector));
	assert_int_equal(pthread_create(&injector.thread, NULL, run_injector, NULL), 0);
	injector.runs = true;
}

static void
stop_injector(void)
{
	atomic_store(&injector.stop, true);
	if (injector.runs)
		pthread_join(injector.thread, NULL);
	injector.runs = false;
}

static int
end(void **state)
{
	stop_injector();
	return teardown(state);
}

/* ---- the test ---- */

static void
check_resets(bool packed)
{
	uint64_t until;

	start_device(NAMESPACE, NULL);
	start_daemon_on_two_cores();
	notice_lost_io();
	start_load_on(packed);
	until = now_ms() + seconds() * 1000;
	start_injector();
	while (now_ms() < until)
		work(200);
	stop_injector();
	assert_int_equal(injector.failed, 0);
	assert_true(controller_number("resets") >= injector.made / 2);
	control("fault-clear");
	work(1000);
	fprintf(stderr, "# %lu requests, %u troubles, %lld resets, %lld time-outs\n",
		rig.load.completed, injector.made, controller_number("resets"),
		controller_number("timeouts"));
	end_load();
}

static void
test_split(void **state)
{
	(void)state;
	check_resets(false);
}

static void
test_packed(void **state)
{
	(void)state;
	check_resets(true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_split, setup, end),
		cmocka_unit_test_setup_teardown(test_packed, setup, end),
	};

	return cmocka_run_group_tests_name("nvme_resets", tests, NULL, NULL);
}
