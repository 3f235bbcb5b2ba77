/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reactors on real cores. The main thread runs them; a "driver" OS thread does what the test is
 * about, writes down what it saw, and stops them. With one CPU the tests that need two cores are
 * skipped. Included by the tests of lib/event after cmocka.h.
 */
#ifndef VHOSTD_TESTS_REACTOR_RIG_H
#define VHOSTD_TESTS_REACTOR_RIG_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "env.h"
#include "event.h"
#include "log.h"
#include "waiting.h"

static uint32_t cores[2]; /* the first two; equal where there is one */

/* ---- waiting ---- */

static inline void
nap(void)
{
	struct timespec pause = {.tv_nsec = 200000};

	nanosleep(&pause, NULL);
}

/* Whether *value became that in time. */
static inline bool
wait_until_at_least(_Atomic uint64_t *value, uint64_t wanted)
{
	return COMES_TRUE(atomic_load(value) >= wanted);
}

static inline bool
wait_until_slept(uint32_t core, uint64_t sleeps)
{
	struct reactor_info info;

	return COMES_TRUE(reactor_get_info(core, &info) == 0 && info.sleeps >= sleeps);
}

/* ---- the driver ---- */

struct driver {
	void (*fn)(void *arg);
	void *arg;
};

static inline void *
driver_main(void *arg)
{
	struct driver *driver = arg;

	driver->fn(driver->arg);
	reactors_stop();
	return NULL;
}

/* Runs reactors while fn(arg) runs beside them. */
static inline void
run_reactors(enum reactor_mode mode, void (*fn)(void *arg), void *arg)
{
	struct driver driver = {fn, arg};
	struct errmsg err = {""};
	pthread_t os_thread;

	assert_int_equal(reactors_init(mode, &err), 0);
	assert_int_equal(pthread_create(&os_thread, NULL, driver_main, &driver), 0);
	assert_int_equal(reactors_run(), 0);
	pthread_join(os_thread, NULL);
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		struct reactor_info info;

		assert_int_equal(reactor_get_info(core, &info), 0);
		assert_int_equal(info.state, REACTOR_SHUTDOWN);
		assert_int_equal(info.threads, 0);
	}
	reactors_fini();
}

/* ---- set-up ---- */

static inline int
rig_setup(void **state)
{
	struct env_opts opts = {.name = "reactor_rig"};
	struct errmsg err = {""};
	cpu_set_t set;
	int found = 0;

	(void)state;
	pthread_getaffinity_np(pthread_self(), sizeof(set), &set);
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS && found < 2; cpu++) {
		if (!CPU_ISSET(cpu, &set))
			continue;
		cpumask_set(&opts.cpus, cpu);
		cores[found++] = cpu;
	}
	if (found == 1)
		cores[1] = cores[0];
	if (env_init(&opts, &err) != 0)
		return -1;
	return 0;
}

static inline int
rig_teardown(void **state)
{
	(void)state;
	env_fini();
	return 0;
}

#endif
