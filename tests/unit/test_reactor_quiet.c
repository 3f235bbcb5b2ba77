/* SPDX-License-Identifier: BSD-3-Clause */
/* links: event thread env */
/* What becomes of threads that have nothing to do beside one that is busy, and what wakes them. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <sys/eventfd.h>

#include "reactor_rig.h"

#define QUIET      63
#define BUSY_POLLS 20000 /* of the busy thread, in which others are counted */

/* A thread, mostly on the second core, with one poller. */
struct member {
	struct thread *thread;
	struct poller *poller; /* on the thread, and: */
	uint64_t period_us;
	int fd; /* named by the poller; -1: none */
	bool can_sleep;
	_Atomic bool busy; /* what its polls return */

	_Atomic uint64_t runs;
	_Atomic uint64_t work;     /* for its next poll */
	_Atomic uint64_t found;    /* by its polls */
	_Atomic uint64_t messages; /* run */
	_Atomic uint64_t armed;    /* how often */
	_Atomic uint64_t disarmed;
	_Atomic uint64_t polled_armed; /* must stay 0 */
	bool is_armed;                 /* on the thread */
	sem_t done;
};

static int
member_poll(void *arg)
{
	struct member *member = arg;
	uint64_t work;

	atomic_fetch_add_explicit(&member->runs, 1, memory_order_relaxed);
	if (member->is_armed)
		atomic_fetch_add(&member->polled_armed, 1);
	if (member->busy)
		return POLLER_BUSY;
	work = atomic_exchange(&member->work, 0);
	atomic_fetch_add(&member->found, work);
	return work > 0 ? POLLER_BUSY : POLLER_IDLE;
}

static bool
member_arm(void *arg)
{
	struct member *member = arg;

	if (atomic_load(&member->work) > 0)
		return false;
	member->is_armed = true;
	atomic_fetch_add(&member->armed, 1);
	return true;
}

static void
member_disarm(void *arg)
{
	struct member *member = arg;

	member->is_armed = false;
	atomic_fetch_add(&member->disarmed, 1);
}

static void
member_start(void *ctx)
{
	static const struct poller_sleep_ops ops = {.arm = member_arm, .disarm = member_disarm};
	struct member *member = ctx;

	member->poller = poller_register(member_poll, member, member->period_us, "member");
	if (member->can_sleep)
		poller_set_sleep_ops(member->poller, &ops);
	if (member->fd >= 0)
		poller_add_fd(member->poller, member->fd);
	sem_post(&member->done);
}

static void
member_stop(void *ctx)
{
	struct member *member = ctx;

	poller_unregister(&member->poller);
	thread_exit(thread_current());
	sem_post(&member->done);
}

static void
member_message(void *ctx)
{
	atomic_fetch_add(&((struct member *)ctx)->messages, 1);
}

static void
member_create_on(struct member *member, const struct cpumask *cpumask)
{
	sem_init(&member->done, 0, 0);
	member->thread = thread_create("member", cpumask);
	thread_send_msg(member->thread, member_start, member);
	wait_for_post(&member->done);
}

static void
member_create(struct member *member)
{
	struct cpumask only = {{0}};

	cpumask_set(&only, cores[1]);
	member_create_on(member, &only);
}

static void
member_end(struct member *member)
{
	thread_send_msg(member->thread, member_stop, member);
	wait_for_post(&member->done);
	sem_destroy(&member->done);
}

/* ---- one busy thread and many idle ones ---- */

struct crowd {
	struct member busy;
	struct member quiet[QUIET];
	uint64_t armed_again; /* how often threads were that nothing had woken */
	bool good;
};

static void
crowd_create(struct crowd *crowd)
{
	crowd->good = true;
	crowd->busy.fd = -1;
	crowd->busy.busy = true;
	member_create(&crowd->busy);
	for (int i = 0; i < QUIET; i++) {
		crowd->quiet[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		crowd->quiet[i].can_sleep = true;
		member_create(&crowd->quiet[i]);
	}
}

static void
crowd_end(struct crowd *crowd)
{
	member_end(&crowd->busy);
	for (int i = 0; i < QUIET; i++) {
		member_end(&crowd->quiet[i]);
		close(crowd->quiet[i].fd);
		crowd->good &= crowd->quiet[i].polled_armed == 0;
	}
}

static uint64_t
quiet_runs(const struct crowd *crowd)
{
	uint64_t sum = 0;

	for (int i = 0; i < QUIET; i++)
		sum += crowd->quiet[i].runs;
	return sum;
}

/* Counts polls for a while: whether those of the idle threads are few beside the busy one's. */
static bool
is_quiet(struct crowd *crowd)
{
	uint64_t busy_before = crowd->busy.runs;
	uint64_t quiet_before = quiet_runs(crowd);

	crowd->good &= wait_until_at_least(&crowd->busy.runs, busy_before + BUSY_POLLS);
	return quiet_runs(crowd) - quiet_before < (crowd->busy.runs - busy_before) / 2;
}

static void
wait_until_quiet(struct crowd *crowd)
{
	crowd->good &= COMES_TRUE(is_quiet(crowd));
}

static void
wake_each_by_message(struct crowd *crowd)
{
	for (int i = 0; i < QUIET; i++) {
		struct member *member = &crowd->quiet[i];

		thread_send_msg(member->thread, member_message, member);
		crowd->good &= wait_until_at_least(&member->messages, 1);
	}
}

static void
wake_each_by_work(struct crowd *crowd, bool kick)
{
	for (int i = 0; i < QUIET; i++) {
		struct member *member = &crowd->quiet[i];
		uint64_t found = member->found;

		atomic_fetch_add(&member->work, 1);
		if (kick)
			eventfd_write(member->fd, 1);
		crowd->good &= wait_until_at_least(&member->found, found + 1);
	}
}

static void
drive_cold(void *arg)
{
	struct crowd *crowd = arg;

	crowd_create(crowd);
	wait_until_quiet(crowd);
	for (int i = 0; i < QUIET; i++)
		crowd->good &= wait_until_at_least(&crowd->quiet[i].runs, crowd->quiet[i].runs + 1);
	wake_each_by_message(crowd);
	wake_each_by_work(crowd, false);
	crowd_end(crowd);
}

/* Without the turns of cold threads each iteration would poll all. */
static void
test_cold_threads_have_turns(void **state)
{
	static struct crowd crowd;

	(void)state;
	memset(&crowd, 0, sizeof(crowd));
	run_reactors(REACTOR_POLL, drive_cold, &crowd);
	assert_true(crowd.good);
}

static void
drive_all_cold(void *arg)
{
	struct crowd *crowd = arg;

	crowd_create(crowd);
	wait_until_quiet(crowd);
	member_end(&crowd->busy);
	/* Nobody is hot: each iteration polls all of them. */
	for (int i = 0; i < QUIET; i++)
		crowd->good &=
			wait_until_at_least(&crowd->quiet[i].runs, crowd->quiet[i].runs + 100);
	member_create(&crowd->busy);
	crowd_end(crowd);
}

static void
test_all_cold_are_polled(void **state)
{
	static struct crowd crowd;

	(void)state;
	memset(&crowd, 0, sizeof(crowd));
	run_reactors(REACTOR_POLL, drive_all_cold, &crowd);
	assert_true(crowd.good);
}

static void
drive_armed(void *arg)
{
	struct crowd *crowd = arg;

	crowd_create(crowd);
	for (int i = 0; i < QUIET; i++)
		crowd->good &= wait_until_at_least(&crowd->quiet[i].armed, 1);
	wait_until_quiet(crowd);
	wake_each_by_message(crowd);
	wake_each_by_work(crowd, true);
	for (int i = 0; i < QUIET; i++)
		crowd->good &= wait_until_at_least(&crowd->quiet[i].armed, 3);
	/* In the mode poll nobody needs a kick. */
	crowd->good &= reactor_set_mode(cores[1], REACTOR_POLL) == 0;
	for (int i = 0; i < QUIET; i++)
		crowd->good &=
			wait_until_at_least(&crowd->quiet[i].disarmed, crowd->quiet[i].armed);
	wake_each_by_work(crowd, false);
	/* And back, first with a busy thread, then without one. */
	crowd->good &= reactor_set_mode(cores[1], REACTOR_ADAPTIVE) == 0;
	wake_each_by_work(crowd, true);
	crowd->busy.busy = false;
	wake_each_by_work(crowd, true);
	crowd->busy.busy = true;
	crowd_end(crowd);
}

static void
test_armed_threads_are_not_polled(void **state)
{
	static struct crowd crowd;

	(void)state;
	memset(&crowd, 0, sizeof(crowd));
	run_reactors(REACTOR_ADAPTIVE, drive_armed, &crowd);
	assert_true(crowd.good);
}

/* ---- asleep ---- */

static void
drive_one_of_many(void *arg)
{
	struct crowd *crowd = arg;
	struct reactor_info info;
	uint64_t armed[QUIET];

	for (int i = 0; i < QUIET; i++) {
		crowd->quiet[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		crowd->quiet[i].can_sleep = true;
		member_create(&crowd->quiet[i]);
	}
	crowd->good = wait_until_slept(cores[1], 1);
	for (int i = 0; i < QUIET; i++) {
		crowd->good &= wait_until_at_least(&crowd->quiet[i].armed, 1);
		armed[i] = crowd->quiet[i].armed;
	}
	for (int i = 0; i < 100; i++) {
		reactor_get_info(cores[1], &info);
		atomic_fetch_add(&crowd->quiet[0].work, 1);
		eventfd_write(crowd->quiet[0].fd, 1);
		crowd->good &= wait_until_at_least(&crowd->quiet[0].found, (uint64_t)i + 1);
		crowd->good &= wait_until_slept(cores[1], info.sleeps + 1);
	}
	for (int i = 1; i < QUIET; i++)
		crowd->armed_again += crowd->quiet[i].armed - armed[i];
	for (int i = 0; i < QUIET; i++) {
		member_end(&crowd->quiet[i]);
		close(crowd->quiet[i].fd);
		crowd->good &= crowd->quiet[i].polled_armed == 0;
	}
}

/* What wakes one thread leaves the others armed. */
static void
test_only_the_woken_is_armed_again(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_INTERRUPT, REACTOR_ADAPTIVE};
	static struct crowd crowd;

	(void)state;
	for (size_t m = 0; m < 2; m++) {
		memset(&crowd, 0, sizeof(crowd));
		run_reactors(modes[m], drive_one_of_many, &crowd);
		assert_true(crowd.good);
		assert_int_equal(crowd.armed_again, 0);
	}
}

/* ---- how often it sleeps ---- */

#define WAKES 200

struct lone {
	struct member member;
	uint64_t sleeps;
	bool good;
};

static void
drive_lone(void *arg)
{
	struct lone *lone = arg;
	struct member *member = &lone->member;
	struct reactor_info before, after;

	member->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	member->can_sleep = true;
	member_create(member);
	lone->good = wait_until_slept(cores[1], 1);
	reactor_get_info(cores[1], &before);
	for (uint64_t i = 1; i <= WAKES && lone->good; i++) {
		uint64_t armed = member->armed;

		thread_send_msg(member->thread, member_message, member);
		lone->good = wait_until_at_least(&member->messages, i) &&
			     wait_until_at_least(&member->armed, armed + 1);
		nap();
	}
	reactor_get_info(cores[1], &after);
	lone->sleeps = after.sleeps - before.sleeps;
	member_end(member);
	close(member->fd);
}

/* A message leaves what the reactor knows of its timers as it was: each sleep ends with one. */
static void
test_one_wake_up_one_sleep(void **state)
{
	static struct lone lone;

	(void)state;
	memset(&lone, 0, sizeof(lone));
	run_reactors(REACTOR_ADAPTIVE, drive_lone, &lone);
	assert_true(lone.good);
	assert_true(lone.sleeps <= WAKES * 3 / 2);
}

/* ---- timers ---- */

#define PERIODS 4

struct timers {
	struct member busy;
	struct member timed[PERIODS];
	bool with_busy;
	bool good;
};

static void
drive_timers(void *arg)
{
	struct timers *timers = arg;

	timers->good = true;
	timers->busy = (struct member){.busy = true, .fd = -1};
	if (timers->with_busy)
		member_create(&timers->busy);
	for (int i = 0; i < PERIODS; i++) {
		timers->timed[i] =
			(struct member){.fd = -1, .period_us = 300u + 700u * (uint64_t)i};
		member_create(&timers->timed[i]);
	}
	for (int i = 0; i < PERIODS; i++)
		timers->good &= wait_until_at_least(&timers->timed[i].runs, 30);
	for (int i = 0; i < PERIODS; i++)
		member_end(&timers->timed[i]);
	if (timers->with_busy)
		member_end(&timers->busy);
}

static void
test_timers_of_quiet_threads(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_POLL, REACTOR_ADAPTIVE,
						  REACTOR_INTERRUPT};
	static struct timers timers;

	(void)state;
	for (size_t m = 0; m < 3; m++) {
		for (int busy = 0; busy < 2; busy++) {
			timers.with_busy = busy == 1;
			run_reactors(modes[m], drive_timers, &timers);
			assert_true(timers.good);
		}
	}
}

/* ---- a move that nobody asked for by a message ---- */

struct wanderer {
	struct member busy; /* where it goes */
	struct member member;
	_Atomic bool go;
	bool good;
};

/* Idle, whatever it does. */
static int
wander(void *arg)
{
	struct wanderer *wanderer = arg;

	atomic_fetch_add_explicit(&wanderer->member.runs, 1, memory_order_relaxed);
	if (atomic_exchange(&wanderer->go, false))
		thread_move(cores[0]);
	return POLLER_IDLE;
}

static void
wanderer_start(void *ctx)
{
	struct wanderer *wanderer = ctx;

	wanderer->member.poller = poller_register(wander, wanderer, 0, "wanderer");
	sem_post(&wanderer->member.done);
}

static void
drive_wanderer(void *arg)
{
	struct wanderer *wanderer = arg;
	struct member *member = &wanderer->member;
	struct cpumask first = {{0}};

	cpumask_set(&first, cores[0]);
	wanderer->busy = (struct member){.busy = true, .fd = -1};
	member_create_on(&wanderer->busy, &first);
	sem_init(&member->done, 0, 0);
	/* The busy one is on the first already. */
	member->thread = thread_create("wanderer", NULL);
	wanderer->good = thread_core(member->thread) == cores[1];
	thread_send_msg(member->thread, wanderer_start, wanderer);
	wanderer->good &= wait_for_post(&member->done);
	/* Long enough to have become cold. */
	for (int i = 0; i < 50; i++)
		nap();
	atomic_store(&wanderer->go, true);
	wanderer->good &= COMES_TRUE(thread_core(member->thread) == cores[0]);
	wanderer->good &= wait_until_at_least(&member->runs, member->runs + 100);
	member_end(member);
	member_end(&wanderer->busy);
}

/* A cold thread goes where nobody is cold. */
static void
test_cold_thread_moves(void **state)
{
	static struct wanderer wanderer;

	(void)state;
	if (cores[0] == cores[1])
		skip();
	memset(&wanderer, 0, sizeof(wanderer));
	run_reactors(REACTOR_POLL, drive_wanderer, &wanderer);
	assert_true(wanderer.good);
}

/* ---- everything at once ---- */

#define HAMMERS 4
#define ROUNDS  1500

struct hammer {
	struct member member;
	unsigned int seed;
	bool good;
};

/* With work waiting all the while: it must not get lost on the way. */
static void
move_over(void *ctx)
{
	thread_move(thread_core(thread_current()) == cores[0] ? cores[1] : cores[0]);
	member_message(ctx);
}

static void
strike(struct hammer *hammer)
{
	struct member *member = &hammer->member;
	int what = rand_r(&hammer->seed) % 4;

	if (what != 0)
		thread_send_msg(member->thread, what == 1 ? move_over : member_message, member);
	else
		atomic_fetch_add(&member->messages, 1);
	if (what != 2) {
		atomic_fetch_add(&member->work, 1);
		eventfd_write(member->fd, 1);
	} else {
		atomic_fetch_add(&member->found, 1);
	}
}

static bool
is_at_least(_Atomic uint64_t *value, uint64_t wanted)
{
	/* Without a nap at first: most of the time it sleeps for less. */
	for (int i = 0; i < 1000; i++) {
		if (atomic_load(value) >= wanted)
			return true;
	}
	return wait_until_at_least(value, wanted);
}

static void *
hammer_main(void *arg)
{
	struct hammer *hammer = arg;

	hammer->good = true;
	for (uint64_t i = 1; i <= ROUNDS && hammer->good; i++) {
		strike(hammer);
		hammer->good = is_at_least(&hammer->member.messages, i) &&
			       is_at_least(&hammer->member.found, i);
	}
	return NULL;
}

static void *
switch_modes(void *arg)
{
	unsigned int seed = 1;

	while (!atomic_load((_Atomic bool *)arg)) {
		static const enum reactor_mode modes[] = {REACTOR_ADAPTIVE, REACTOR_INTERRUPT,
							  REACTOR_POLL};

		reactor_set_mode(cores[rand_r(&seed) % 2], modes[rand_r(&seed) % 3]);
		nap();
	}
	return NULL;
}

static void
drive_stress(void *arg)
{
	struct hammer *hammers = arg;
	pthread_t os_threads[HAMMERS], switcher;
	_Atomic bool end = false;

	for (int i = 0; i < HAMMERS; i++) {
		hammers[i].seed = (unsigned int)i;
		hammers[i].member.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		hammers[i].member.can_sleep = true;
		member_create_on(&hammers[i].member, NULL);
	}
	pthread_create(&switcher, NULL, switch_modes, &end);
	for (int i = 0; i < HAMMERS; i++)
		pthread_create(&os_threads[i], NULL, hammer_main, &hammers[i]);
	for (int i = 0; i < HAMMERS; i++)
		pthread_join(os_threads[i], NULL);
	atomic_store(&end, true);
	pthread_join(switcher, NULL);
	for (int i = 0; i < HAMMERS; i++) {
		member_end(&hammers[i].member);
		close(hammers[i].member.fd);
		hammers[i].good &= hammers[i].member.polled_armed == 0;
	}
}

static void
test_nothing_is_lost(void **state)
{
	static struct hammer hammers[HAMMERS];

	(void)state;
	run_reactors(REACTOR_ADAPTIVE, drive_stress, hammers);
	for (int i = 0; i < HAMMERS; i++)
		assert_true(hammers[i].good);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cold_threads_have_turns),
		cmocka_unit_test(test_all_cold_are_polled),
		cmocka_unit_test(test_armed_threads_are_not_polled),
		cmocka_unit_test(test_only_the_woken_is_armed_again),
		cmocka_unit_test(test_one_wake_up_one_sleep),
		cmocka_unit_test(test_timers_of_quiet_threads),
		cmocka_unit_test(test_cold_thread_moves),
		cmocka_unit_test(test_nothing_is_lost),
	};

	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
