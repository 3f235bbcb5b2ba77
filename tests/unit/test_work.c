/* SPDX-License-Identifier: BSD-3-Clause */
/* links: thread testlib env */
/* ldflags: -Wl,--wrap=pthread_create,--wrap=log_write */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "log_capture.h"
#include "waiting.h"
#include "work.h"

/* pthread_create() fails after that many good calls; UINT_MAX: never. */
static atomic_uint creates_left = UINT32_MAX;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	if (atomic_load(&creates_left) == 0)
		return EAGAIN;
	atomic_fetch_sub(&creates_left, 1);
	return __real_pthread_create(thread, attr, fn, arg);
}

static int
setup(void **state)
{
	(void)state;
	atomic_store(&creates_left, UINT32_MAX);
	log_capture_reset();
	return 0;
}

static void
start(unsigned int max_workers, unsigned int idle_ms)
{
	const struct work_pool_opts opts = {.max_workers = max_workers, .idle_ms = idle_ms};

	assert_int_equal(work_pool_start(&opts), 0);
}

static struct work_pool_stats
stats(void)
{
	struct work_pool_stats now;

	work_pool_get_stats(&now);
	return now;
}

/*
 * Waits until the pool has as many workers as that, and as many of them have work; 0: and no work
 * waits.
 */
static void
wait_for(unsigned int workers, unsigned int busy)
{
	WAIT_UNTIL(stats().workers == workers && stats().busy == busy &&
		   (busy > 0 || stats().queued == 0));
}

static unsigned int
base_workers(void)
{
	cpu_set_t cpus;

	assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	return CPU_COUNT(&cpus);
}

/* ---- work that blocks until the gate opens ---- */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_cond = PTHREAD_COND_INITIALIZER;
static bool gate_open;
static atomic_uint ran;

static void
set_gate(bool open)
{
	pthread_mutex_lock(&gate_lock);
	gate_open = open;
	pthread_cond_broadcast(&gate_cond);
	pthread_mutex_unlock(&gate_lock);
}

static void
block(struct work *work)
{
	(void)work;
	pthread_mutex_lock(&gate_lock);
	while (!gate_open)
		pthread_cond_wait(&gate_cond, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
	atomic_fetch_add(&ran, 1);
}

static void
count(struct work *work)
{
	(void)work;
	atomic_fetch_add(&ran, 1);
}

/* ---- tests ---- */

static void
test_not_running(void **state)
{
	struct work work;

	(void)state;
	assert_int_equal(work_submit(&work, count), -EAGAIN);
	start(0, 0);
	work_pool_stop();
	assert_int_equal(work_submit(&work, count), -EAGAIN);
	work_pool_stop(); /* nothing to stop */
}

static void
test_starts_with_one_per_cpu(void **state)
{
	struct cpumask mask = {{0}};
	struct work_pool_opts opts = {.affinity = &mask};

	(void)state;
	assert_int_equal(work_pool_start(NULL), 0);
	assert_int_equal(stats().workers, base_workers());
	assert_int_equal(stats().busy, 0);
	work_pool_stop();
	assert_int_equal(stats().workers, 0);
	start(1, 0);
	assert_int_equal(stats().workers, 1);
	work_pool_stop();
	assert_int_equal(work_pool_start(&opts), -EINVAL); /* no CPU at all */
	cpumask_set(&mask, 255);
	assert_true(work_pool_start(&opts) < 0 || base_workers() == 256);
	work_pool_stop();
	assert_int_equal(stats().workers, 0);
}

#define MANY 500

static void
test_runs_everything_before_stop(void **state)
{
	static struct work works[MANY];

	(void)state;
	atomic_store(&ran, 0);
	start(4, 0);
	for (unsigned int i = 0; i < MANY; i++)
		assert_int_equal(work_submit(&works[i], count), 0);
	work_pool_stop();
	assert_int_equal(atomic_load(&ran), MANY);
}

struct where {
	struct work work;
	cpu_set_t cpus;
	sigset_t signals;
	atomic_bool done;
};

static void
look_around(struct work *work)
{
	struct where *where = (struct where *)work;

	sched_getaffinity(0, sizeof(where->cpus), &where->cpus);
	pthread_sigmask(SIG_SETMASK, NULL, &where->signals);
	atomic_store(&where->done, true);
}

static void
test_affinity_and_signals(void **state)
{
	struct where where = {.done = false};
	struct cpumask mask = {{0}};
	struct work_pool_opts opts = {.affinity = &mask};
	cpu_set_t cpus;
	unsigned int cpu = 0;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	while (!CPU_ISSET(cpu, &cpus))
		cpu++;
	cpumask_set(&mask, cpu);
	assert_int_equal(work_pool_start(&opts), 0);
	assert_int_equal(stats().workers, 1);
	assert_int_equal(work_submit(&where.work, look_around), 0);
	work_pool_stop();
	assert_true(atomic_load(&where.done));
	assert_int_equal(CPU_COUNT(&where.cpus), 1);
	assert_true(CPU_ISSET(cpu, &where.cpus));
	assert_int_equal(sigismember(&where.signals, SIGTERM), 1);
}

/*
 * Every worker is blocked: the next work gets a new one, up to the limit; from there on work waits.
 */
static void
test_grows_when_all_are_blocked(void **state)
{
	unsigned int base = base_workers();
	unsigned int limit = base + 2;
	struct work works[limit + 3];

	(void)state;
	atomic_store(&ran, 0);
	set_gate(false);
	start(limit, 0);
	for (unsigned int i = 0; i < base; i++)
		assert_int_equal(work_submit(&works[i], block), 0);
	wait_for(base, base);
	assert_int_equal(stats().peak_workers, base);
	for (unsigned int i = base; i < limit; i++)
		assert_int_equal(work_submit(&works[i], block), 0);
	wait_for(limit, limit);
	assert_int_equal(stats().queued, 0);
	for (unsigned int i = limit; i < limit + 3; i++)
		assert_int_equal(work_submit(&works[i], block), 0);
	assert_int_equal(stats().workers, limit);
	assert_int_equal(stats().queued, 3);
	set_gate(true);
	work_pool_stop();
	assert_int_equal(atomic_load(&ran), limit + 3);
	assert_int_equal(stats().peak_workers, limit);
}

static void
test_does_not_grow_while_one_is_free(void **state)
{
	struct work work;

	(void)state;
	atomic_store(&ran, 0);
	start(base_workers() + 4, 0);
	for (unsigned int i = 0; i < 200; i++) {
		assert_int_equal(work_submit(&work, count), 0);
		wait_for(base_workers(), 0);
	}
	assert_int_equal(stats().peak_workers, base_workers());
	work_pool_stop();
	assert_int_equal(atomic_load(&ran), 200);
}

/*
 * Extra workers end after idle_ms, also while the pool goes on having a little work; then it grows
 * again.
 */
static void
test_shrinks_and_grows_again(void **state)
{
	unsigned int base = base_workers();
	struct work works[base + 4], one;
	time_t end = time(NULL) + DEADLINE_S;

	(void)state;
	start(base + 4, 20);
	for (unsigned int round = 0; round < 2; round++) {
		set_gate(false);
		for (unsigned int i = 0; i < base + 4; i++)
			assert_int_equal(work_submit(&works[i], block), 0);
		wait_for(base + 4, base + 4);
		set_gate(true);
		/* one worker at a time is busy: all the others that are too many end */
		while (stats().workers > base + 1) {
			unsigned int before = atomic_load(&ran);

			assert_true(time(NULL) < end);
			assert_int_equal(work_submit(&one, count), 0);
			while (atomic_load(&ran) == before)
				usleep(1000);
		}
		wait_for(base, 0);
	}
	work_pool_stop();
}

/* Not being able to grow is not an error; not being able to start is. */
static void
test_no_more_os_threads(void **state)
{
	unsigned int base = base_workers();
	struct work works[base + 1];

	(void)state;
	atomic_store(&ran, 0);
	set_gate(false);
	start(base + 1, 0);
	for (unsigned int i = 0; i < base; i++)
		assert_int_equal(work_submit(&works[i], block), 0);
	wait_for(base, base);
	atomic_store(&creates_left, 0);
	assert_int_equal(work_submit(&works[base], block), 0);
	assert_int_equal(log_capture_count(), 1);
	assert_int_equal(stats().workers, base);
	assert_int_equal(stats().queued, 1);
	set_gate(true);
	work_pool_stop();
	assert_int_equal(atomic_load(&ran), base + 1);

	for (unsigned int good = 0; good < base; good++) {
		atomic_store(&creates_left, good);
		assert_int_equal(work_pool_start(NULL), -EAGAIN);
		assert_int_equal(stats().workers, 0);
		assert_int_equal(work_submit(&works[0], count), -EAGAIN);
	}
}

/* ---- many OS threads submit ---- */

#define SUBMITTERS 3

struct submitter {
	struct work works[MANY];
};

static void *
submit_many(void *arg)
{
	struct submitter *submitter = arg;

	for (unsigned int i = 0; i < MANY; i++)
		assert_int_equal(work_submit(&submitter->works[i], count), 0);
	return NULL;
}

static void
test_many_submitters(void **state)
{
	static struct submitter submitters[SUBMITTERS];
	pthread_t threads[SUBMITTERS];

	(void)state;
	atomic_store(&ran, 0);
	start(8, 1);
	for (unsigned int i = 0; i < SUBMITTERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, submit_many, &submitters[i]), 0);
	for (unsigned int i = 0; i < SUBMITTERS; i++)
		pthread_join(threads[i], NULL);
	work_pool_stop();
	assert_int_equal(atomic_load(&ran), SUBMITTERS * MANY);
	assert_true(stats().peak_workers <= 8 || base_workers() > 8);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_not_running, setup),
		cmocka_unit_test_setup(test_starts_with_one_per_cpu, setup),
		cmocka_unit_test_setup(test_runs_everything_before_stop, setup),
		cmocka_unit_test_setup(test_affinity_and_signals, setup),
		cmocka_unit_test_setup(test_grows_when_all_are_blocked, setup),
		cmocka_unit_test_setup(test_does_not_grow_while_one_is_free, setup),
		cmocka_unit_test_setup(test_shrinks_and_grows_again, setup),
		cmocka_unit_test_setup(test_no_more_os_threads, setup),
		cmocka_unit_test_setup(test_many_submitters, setup),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
