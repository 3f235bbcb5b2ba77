/* SPDX-License-Identifier: BSD-3-Clause */
/* links: event thread env */
/* The scheduler: its decision on made-up loads, and the moves of real threads. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "event/scheduler.h"
#include "reactor_rig.h"

/* ---- the decision: loads in thousandths of the period ---- */

#define PERIOD 1000

struct wanted {
	uint32_t core;
	uint64_t busy;
	uint64_t cpumask; /* 0: anywhere */
	uint32_t target;
};

static void
expect(const struct wanted *wanted, uint32_t count, uint64_t running_cores)
{
	struct cpumask running = {{running_cores}};
	struct scheduler_thread threads[64];
	uint32_t moves = 0, i;

	memset(threads, 0, sizeof(threads));
	for (i = 0; i < count; i++) {
		threads[i].core = wanted[i].core;
		threads[i].busy = wanted[i].busy;
		threads[i].cpumask.bits[0] = wanted[i].cpumask;
		moves += wanted[i].core != wanted[i].target;
	}
	assert_int_equal(scheduler_decide(threads, count, &running, PERIOD), moves);
	for (i = 0; i < count; i++)
		assert_int_equal(threads[i].target, wanted[i].target);
}

#define EXPECT(cores, ...)                                                                         \
	expect((const struct wanted[]){__VA_ARGS__},                                               \
	       sizeof((const struct wanted[]){__VA_ARGS__}) / sizeof(struct wanted), cores)

static void
test_nothing_to_do(void **state)
{
	(void)state;
	expect(NULL, 0, 3);
	EXPECT(3, {0, 0, 0, 0});
	EXPECT(3, {0, 0, 0, 0}, {0, 0, 0, 0}, {1, 1000, 0, 1});
	EXPECT(1, {0, 500, 0, 0}, {0, 500, 0, 0}); /* nowhere to go */
	EXPECT(3, {0, 1000, 0, 0});                /* no better there */
	EXPECT(3, {0, 600, 0, 0}, {1, 600, 0, 1});
	EXPECT(3, {0, 500, 0, 0}, {0, 500, 0, 0}, {1, 600, 0, 1});
}

static void
test_two_on_one_core(void **state)
{
	(void)state;
	EXPECT(3, {0, 500, 0, 1}, {0, 500, 0, 0});
	EXPECT(3, {0, 700, 0, 0}, {0, 300, 0, 1}); /* the lighter one */
	EXPECT(6, {2, 500, 0, 1}, {2, 500, 0, 2});
	/* Idle ones stay where they are. */
	EXPECT(3, {0, 20, 0, 0}, {0, 500, 0, 1}, {0, 480, 0, 0}, {0, 0, 0, 0});
}

static void
test_four_busy_guests(void **state)
{
	(void)state;
	EXPECT(3, {0, 250, 0, 1}, {0, 250, 0, 1}, {0, 250, 0, 0}, {0, 250, 0, 0});
	EXPECT(15, {0, 250, 0, 1}, {0, 250, 0, 2}, {0, 250, 0, 3}, {0, 250, 0, 0});
}

static void
test_hysteresis(void **state)
{
	(void)state;
	/* One moved would make 450 of 500: half of what is worth it. */
	EXPECT(3, {0, 50, 0, 0}, {0, 450, 0, 0}, {1, 400, 0, 1});
	EXPECT(3, {0, 99, 0, 0}, {0, 99, 0, 0});
	EXPECT(3, {0, 100, 0, 1}, {0, 100, 0, 0});
	/* And back: what was moved stays there. */
	EXPECT(3, {1, 100, 0, 1}, {0, 100, 0, 0});
	EXPECT(3, {0, 300, 0, 0}, {0, 300, 0, 0}, {1, 550, 0, 1});
}

static void
test_cpumasks(void **state)
{
	(void)state;
	EXPECT(3, {0, 500, 1, 0}, {0, 500, 1, 0});
	EXPECT(3, {0, 400, 0, 1}, {0, 600, 1, 0});
	EXPECT(7, {0, 500, 5, 2}, {0, 500, 1, 0});
	/* A core that is allowed but has no reactor. */
	EXPECT(3, {0, 500, 5, 0}, {0, 500, 1, 0});
	/* The busiest core cannot be helped; the next one is. */
	EXPECT(7, {0, 1000, 0, 0}, {1, 450, 0, 2}, {1, 450, 0, 1});
}

/* Few at a time: the loads are looked at again before the next. */
static void
test_moves_are_bounded(void **state)
{
	struct cpumask running = {{0xffffffff}};
	struct scheduler_thread threads[32] = {0};
	uint32_t total = 0, moves, periods = 0;

	(void)state;
	for (int i = 0; i < 32; i++)
		threads[i].busy = PERIOD / 8;
	do {
		moves = scheduler_decide(threads, 32, &running, PERIOD);
		assert_true(moves <= SCHEDULER_MOVES_MAX);
		for (int i = 0; i < 32; i++)
			threads[i].core = threads[i].target;
		total += moves;
		periods++;
	} while (moves > 0 && periods < 100);
	assert_int_equal(total, 31);
	for (int i = 0; i < 32; i++) {
		for (int j = 0; j < i; j++)
			assert_int_not_equal(threads[i].core, threads[j].core);
	}
}

/* Whatever the loads: it comes to an end, and no core gets busier than the busiest was. */
static void
test_random_loads(void **state)
{
	struct cpumask running = {{0xff}};

	(void)state;
	srandom(1);
	for (int round = 0; round < 500; round++) {
		struct scheduler_thread threads[24] = {0};
		uint64_t most[2] = {0};
		uint32_t moves = 1;

		for (int i = 0; i < 24; i++) {
			threads[i].core = (uint32_t)random() % 8;
			threads[i].busy = (uint64_t)random() % (PERIOD / 3);
			threads[i].cpumask.bits[0] =
				random() % 2 ? 0 : 1u << threads[i].core | (uint64_t)random() % 256;
		}
		for (int periods = 0; moves > 0; periods++) {
			uint64_t loads[8] = {0}, max = 0;

			assert_true(periods < 50);
			for (int i = 0; i < 24; i++) {
				loads[threads[i].core] += threads[i].busy;
				if (loads[threads[i].core] > max)
					max = loads[threads[i].core];
			}
			if (periods == 0)
				most[0] = max;
			most[1] = max;
			assert_true(most[1] <= most[0]);
			moves = scheduler_decide(threads, 24, &running, PERIOD);
			for (int i = 0; i < 24; i++) {
				assert_true(cpumask_is_empty(&threads[i].cpumask) ||
					    cpumask_test(&threads[i].cpumask, threads[i].target));
				threads[i].core = threads[i].target;
			}
		}
	}
}

/* ---- real threads ---- */

struct worker {
	struct thread *thread;
	struct poller *poller; /* on the thread */
	sem_t done;
};

static int
be_busy(void *arg)
{
	(void)arg;
	return POLLER_BUSY;
}

static void
worker_start(void *ctx)
{
	struct worker *worker = ctx;

	worker->poller = poller_register(be_busy, worker, 0, "busy");
	sem_post(&worker->done);
}

static void
worker_stop(void *ctx)
{
	struct worker *worker = ctx;

	poller_unregister(&worker->poller);
	sem_post(&worker->done);
}

static void
start_default(void *ctx)
{
	scheduler_start();
	sem_post(ctx);
}

static void
set_static(void *ctx)
{
	scheduler_set("static");
	sem_post(ctx);
}

static void
stop_scheduler(void *ctx)
{
	scheduler_stop();
	sem_post(ctx);
}

#define WORKERS 4

struct balance {
	struct worker workers[WORKERS];
	struct thread *app;
	uint32_t on_second[2]; /* before, after */
	bool good;
};

static uint32_t
count_on_second(const struct balance *balance)
{
	uint32_t count = 0;

	for (int i = 0; i < WORKERS; i++)
		count += thread_core(balance->workers[i].thread) == cores[1];
	return count;
}

/* All of them are placed on the second core, then let go. */
static void
allow_anywhere(void *ctx)
{
	thread_set_cpumask(NULL);
	sem_post(ctx);
}

static void
on(struct thread *thread, thread_fn fn, void *ctx, sem_t *done)
{
	thread_send_msg(thread, fn, ctx);
	wait_for_post(done);
}

static void
drive_balance(void *arg)
{
	struct balance *balance = arg;
	struct cpumask only = {{0}};
	sem_t done;

	sem_init(&done, 0, 0);
	cpumask_set(&only, cores[1]);
	balance->app = thread_create("app", &only);
	for (int i = 0; i < WORKERS; i++) {
		struct worker *worker = &balance->workers[i];

		sem_init(&worker->done, 0, 0);
		worker->thread = thread_create("worker", &only);
		on(worker->thread, worker_start, worker, &worker->done);
		on(worker->thread, allow_anywhere, &worker->done, &worker->done);
	}
	balance->on_second[0] = count_on_second(balance);
	on(balance->app, start_default, &done, &done);
	COMES_TRUE(count_on_second(balance) < WORKERS);
	balance->on_second[1] = count_on_second(balance);
	on(balance->app, set_static, &done, &done);
	on(balance->app, stop_scheduler, &done, &done);
	for (int i = 0; i < WORKERS; i++) {
		on(balance->workers[i].thread, worker_stop, &balance->workers[i],
		   &balance->workers[i].done);
		sem_destroy(&balance->workers[i].done);
	}
	sem_destroy(&done);
}

static void
test_dynamic_moves_busy_threads(void **state)
{
	static struct balance balance;

	(void)state;
	if (cores[0] == cores[1])
		skip();
	run_reactors(REACTOR_ADAPTIVE, drive_balance, &balance);
	assert_int_equal(balance.on_second[0], WORKERS);
	/* How even it gets is up to how much of their time the machine really gave them. */
	assert_in_range(balance.on_second[1], 1, WORKERS - 1);
}

static void
choose_schedulers(void *ctx)
{
	static bool *good;
	struct balance *balance = ctx;

	good = &balance->good;
	*good = strcmp(scheduler_name(), "static") == 0;
	*good &= scheduler_start() == 0 && strcmp(scheduler_name(), SCHEDULER_DEFAULT) == 0;
	*good &= scheduler_set("gscheduler") == -EINVAL;
	*good &= strcmp(scheduler_name(), SCHEDULER_DEFAULT) == 0;
	*good &= scheduler_set("static") == 0 && scheduler_set("static") == 0;
	*good &= strcmp(scheduler_name(), "static") == 0;
	*good &= scheduler_set("dynamic") == 0 && scheduler_set("dynamic") == 0;
	*good &= strcmp(scheduler_name(), "dynamic") == 0;
	scheduler_stop();
	sem_post(&balance->workers[0].done);
}

static void
drive_choices(void *arg)
{
	struct balance *balance = arg;

	sem_init(&balance->workers[0].done, 0, 0);
	on(thread_create("app", NULL), choose_schedulers, balance, &balance->workers[0].done);
	sem_destroy(&balance->workers[0].done);
}

static void
test_names(void **state)
{
	static struct balance balance;

	(void)state;
	run_reactors(REACTOR_ADAPTIVE, drive_choices, &balance);
	assert_true(balance.good);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_to_do),
		cmocka_unit_test(test_two_on_one_core),
		cmocka_unit_test(test_four_busy_guests),
		cmocka_unit_test(test_hysteresis),
		cmocka_unit_test(test_cpumasks),
		cmocka_unit_test(test_moves_are_bounded),
		cmocka_unit_test(test_random_loads),
		cmocka_unit_test(test_dynamic_moves_busy_threads),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
