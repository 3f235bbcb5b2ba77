/* SPDX-License-Identifier: BSD-3-Clause */
/* links: event thread env */
/* Reactors: states, events, placement, moving, sleeping, statistics, the end. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "reactor_rig.h"

/* ---- states ---- */

static void
see_running(void *arg)
{
	_Atomic uint64_t *running = arg;
	struct reactor_info info;

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		do {
			nap();
			reactor_get_info(core, &info);
		} while (info.state == REACTOR_INITIALIZED);
		atomic_fetch_add(running, info.state == REACTOR_RUNNING);
	}
}

static void
test_states(void **state)
{
	_Atomic uint64_t running = 0;
	struct reactor_info info;
	struct errmsg err;

	(void)state;
	assert_int_equal(reactor_get_info(cores[0], &info), -EINVAL);
	assert_int_equal(reactors_init(REACTOR_POLL, &err), 0);
	assert_int_equal(reactor_get_info(cores[0], &info), 0);
	assert_int_equal(info.core, cores[0]);
	assert_int_equal(info.state, REACTOR_INITIALIZED);
	assert_int_equal(info.mode, REACTOR_POLL);
	reactors_fini();
	run_reactors(REACTOR_ADAPTIVE, see_running, &running);
	assert_int_equal(running, env_core_count());
}

static void
test_stop_before_run(void **state)
{
	struct errmsg err;

	(void)state;
	assert_int_equal(reactors_init(REACTOR_INTERRUPT, &err), 0);
	reactors_stop();
	assert_int_equal(reactors_run(), 0);
	reactors_fini();
}

static void
test_mode_names(void **state)
{
	enum reactor_mode mode;

	(void)state;
	for (int i = REACTOR_ADAPTIVE; i <= REACTOR_INTERRUPT; i++) {
		assert_int_equal(reactor_mode_parse(reactor_mode_name((enum reactor_mode)i), &mode),
				 0);
		assert_int_equal(mode, i);
	}
	assert_int_equal(reactor_mode_parse("busy", &mode), -EINVAL);
	assert_int_equal(reactor_set_mode(CPUMASK_CPUS, REACTOR_POLL), -EINVAL);
}

/* ---- affinity ---- */

static _Atomic uint64_t pinned;

static void
note_pinned(void *arg1, void *arg2)
{
	cpu_set_t set;
	uint32_t core = (uint32_t)(uintptr_t)arg1;

	(void)arg2;
	pthread_getaffinity_np(pthread_self(), sizeof(set), &set);
	if (CPU_COUNT(&set) == 1 && CPU_ISSET(core, &set) && env_core_current() == core)
		atomic_fetch_add(&pinned, 1);
	else
		atomic_fetch_add(&pinned, 1000);
}

static void
ask_whether_pinned(void *arg)
{
	(void)arg;
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		event_call(core, note_pinned, (void *)(uintptr_t)core, NULL);
	wait_until_at_least(&pinned, env_core_count());
}

static void
test_each_reactor_is_pinned(void **state)
{
	cpu_set_t before, after;

	(void)state;
	pinned = 0;
	pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	run_reactors(REACTOR_ADAPTIVE, ask_whether_pinned, NULL);
	pthread_getaffinity_np(pthread_self(), sizeof(after), &after);
	assert_int_equal(pinned, env_core_count());
	assert_true(CPU_EQUAL(&before, &after));
}

/* ---- events ---- */

#define SENDERS 4
#define EVENTS  20000u

struct sender {
	uint32_t core;
	uintptr_t next; /* reactor only: the number that must come */
	_Atomic uint64_t received;
	_Atomic uint64_t wrong;
};

static void
receive(void *arg1, void *arg2)
{
	struct sender *sender = arg1;

	if ((uintptr_t)arg2 != sender->next++ || env_core_current() != sender->core)
		atomic_fetch_add(&sender->wrong, 1);
	atomic_fetch_add(&sender->received, 1);
}

static void *
send_events(void *arg)
{
	struct sender *sender = arg;

	for (uintptr_t i = 0; i < EVENTS; i++) {
		if (event_call(sender->core, receive, sender, (void *)i) != 0)
			atomic_fetch_add(&sender->wrong, 1);
	}
	return NULL;
}

static void
drive_senders(void *arg)
{
	struct sender *senders = arg;
	pthread_t os_threads[SENDERS];

	for (int i = 0; i < SENDERS; i++)
		pthread_create(&os_threads[i], NULL, send_events, &senders[i]);
	for (int i = 0; i < SENDERS; i++) {
		pthread_join(os_threads[i], NULL);
		wait_until_at_least(&senders[i].received, EVENTS);
	}
}

static void
test_events_keep_their_order(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_ADAPTIVE, REACTOR_POLL,
						  REACTOR_INTERRUPT};

	(void)state;
	assert_int_equal(event_call(cores[0], receive, NULL, NULL), -EINVAL);
	for (size_t m = 0; m < 3; m++) {
		struct sender senders[SENDERS];

		memset(senders, 0, sizeof(senders));
		for (int i = 0; i < SENDERS; i++)
			senders[i].core = cores[i % 2];
		run_reactors(modes[m], drive_senders, senders);
		for (int i = 0; i < SENDERS; i++) {
			assert_int_equal(senders[i].received, EVENTS);
			assert_int_equal(senders[i].wrong, 0);
		}
	}
}

/* ---- placement ---- */

struct placement {
	struct cpumask only; /* the second core */
	uint32_t restricted_core;
	uint32_t on_core[2];
	int impossible_errno;
	bool impossible_made;
};

static void
drive_placement(void *arg)
{
	struct placement *seen = arg;
	struct cpumask nowhere = {{0}};
	struct thread *thread;

	cpumask_set(&nowhere, CPUMASK_CPUS - 1);
	thread = thread_create("impossible", &nowhere);
	seen->impossible_made = thread != NULL;
	seen->impossible_errno = errno;
	for (int i = 0; i < 6; i++) {
		thread = thread_create("anywhere", NULL);
		seen->on_core[thread_core(thread) == cores[0] ? 0 : 1]++;
	}
	seen->restricted_core = thread_core(thread_create("restricted", &seen->only));
}

static void
test_placement(void **state)
{
	struct placement seen = {0};

	(void)state;
	cpumask_set(&seen.only, cores[1]);
	run_reactors(REACTOR_ADAPTIVE, drive_placement, &seen);
	assert_false(seen.impossible_made);
	assert_int_equal(seen.impossible_errno, EINVAL);
	assert_int_equal(seen.restricted_core, cores[1]);
	assert_int_equal(seen.on_core[0], cores[0] == cores[1] ? 6 : 3);
}

static void
test_no_threads_after_the_end(void **state)
{
	struct errmsg err;

	(void)state;
	assert_int_equal(reactors_init(REACTOR_POLL, &err), 0);
	reactors_stop();
	assert_int_equal(reactors_run(), 0);
	assert_null(thread_create("late", NULL));
	assert_int_equal(errno, ECANCELED);
	reactors_fini();
}

/* ---- moving ---- */

#define MOVES 2000u

struct mover {
	struct thread *thread;
	uintptr_t next; /* on the thread */
	_Atomic uint64_t received;
	_Atomic uint64_t wrong;
	_Atomic uint64_t refused;
};
static struct mover mover;

static void
hop(void *ctx)
{
	uintptr_t number = (uintptr_t)ctx;
	struct thread *thread = thread_current();

	if (number != mover.next++ || thread != mover.thread ||
	    thread_core(thread) != env_core_current())
		atomic_fetch_add(&mover.wrong, 1);
	if (thread_move(thread_core(thread) == cores[0] ? cores[1] : cores[0]) != 0)
		atomic_fetch_add(&mover.wrong, 1);
	if (thread_move(CPUMASK_CPUS) == -EINVAL)
		atomic_fetch_add(&mover.refused, 1);
	atomic_fetch_add(&mover.received, 1);
}

static void
drive_mover(void *arg)
{
	(void)arg;
	mover.thread = thread_create("mover", NULL);
	for (uintptr_t i = 0; i < MOVES; i++) {
		/*
		 * Now in bursts, now one by one, so that it is found asleep, awake and on its way.
		 */
		if (i % 7 == 0)
			wait_until_at_least(&mover.received, i);
		if (thread_send_msg(mover.thread, hop, (void *)i) != 0)
			atomic_fetch_add(&mover.wrong, 1);
	}
	wait_until_at_least(&mover.received, MOVES);
}

static void
test_messages_follow_a_moving_thread(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_INTERRUPT, REACTOR_ADAPTIVE};

	(void)state;
	if (cores[0] == cores[1])
		skip();
	for (size_t m = 0; m < 2; m++) {
		memset(&mover, 0, sizeof(mover));
		run_reactors(modes[m], drive_mover, NULL);
		assert_int_equal(mover.received, MOVES);
		assert_int_equal(mover.refused, MOVES);
		assert_int_equal(mover.wrong, 0);
	}
}

static int move_rc;

static void
move_where_it_must_not_go(void *ctx)
{
	move_rc = thread_move(cores[0]);
	sem_post(ctx);
}

static void
drive_forbidden_move(void *arg)
{
	struct cpumask only = {{0}};
	sem_t done;

	(void)arg;
	sem_init(&done, 0, 0);
	cpumask_set(&only, cores[1]);
	thread_send_msg(thread_create("restricted", &only), move_where_it_must_not_go, &done);
	wait_for_post(&done);
	sem_destroy(&done);
}

static void
test_move_respects_the_cpumask(void **state)
{
	(void)state;
	if (cores[0] == cores[1])
		skip();
	move_rc = 0;
	run_reactors(REACTOR_ADAPTIVE, drive_forbidden_move, NULL);
	assert_int_equal(move_rc, -EINVAL);
	assert_int_equal(thread_move(cores[0]), -EINVAL); /* not on a thread */
}

/* ---- cpumasks ---- */

struct mask_change {
	struct thread *thread;
	struct cpumask mask; /* empty: passed as NULL */
	int rc;
	bool stored;
	sem_t done;
};

static void
change_mask(void *ctx)
{
	struct mask_change *change = ctx;

	change->rc = thread_set_cpumask(cpumask_is_empty(&change->mask) ? NULL : &change->mask);
	change->stored = cpumask_equal(thread_cpumask(thread_current()), &change->mask);
	sem_post(&change->done);
}

/*
 * Lets the thread run on `to` only (CPUMASK_CPUS: anywhere) and waits until it is on core. Whether
 * that came to be, with that result.
 */
static bool
change_mask_of(struct mask_change *change, uint32_t to, int rc, uint32_t core)
{
	memset(&change->mask, 0, sizeof(change->mask));
	if (to < CPUMASK_CPUS)
		cpumask_set(&change->mask, to);
	thread_send_msg(change->thread, change_mask, change);
	wait_for_post(&change->done);
	return COMES_TRUE(thread_core(change->thread) == core) && change->rc == rc &&
	       change->stored == (rc == 0);
}

static void
drive_cpumask(void *arg)
{
	struct mask_change change = {0};
	bool *good = arg;

	sem_init(&change.done, 0, 0);
	change.thread = thread_create("masked", NULL);
	for (int i = 0; i < 100; i++) {
		uint32_t core = cores[i % 2];

		*good &= change_mask_of(&change, core, 0, core);
		/* One that allows where it is moves nothing, a bad one changes nothing. */
		*good &= change_mask_of(&change, CPUMASK_CPUS, 0, core);
		*good &= change_mask_of(&change, CPUMASK_CPUS - 1, -EINVAL, core);
	}
	sem_destroy(&change.done);
}

static void
test_cpumask_of_a_running_thread(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_INTERRUPT, REACTOR_POLL};
	bool good = true;

	(void)state;
	for (size_t m = 0; m < 2; m++) {
		run_reactors(modes[m], drive_cpumask, &good);
		assert_true(good);
	}
	assert_int_equal(thread_set_cpumask(NULL), -EINVAL); /* not on a thread */
}

static void
take_back_the_move(void *ctx)
{
	struct mask_change *change = ctx;
	bool on_first = thread_core(thread_current()) == cores[0];

	/* A move that the new cpumask forbids does not take place. */
	change->rc = thread_move(on_first ? cores[1] : cores[0]);
	change->rc |= thread_set_cpumask(&change->mask);
	sem_post(&change->done);
}

static void
answer_core(void *ctx)
{
	struct mask_change *change = ctx;

	change->stored = cpumask_test(&change->mask, env_core_current());
	sem_post(&change->done);
}

static void
drive_move_and_cpumask(void *arg)
{
	struct mask_change *change = arg;

	sem_init(&change->done, 0, 0);
	change->thread = thread_create("masked", NULL);
	cpumask_set(&change->mask, thread_core(change->thread));
	thread_send_msg(change->thread, take_back_the_move, change);
	wait_for_post(&change->done);
	thread_send_msg(change->thread, answer_core, change);
	wait_for_post(&change->done);
}

static void
test_cpumask_takes_a_move_back(void **state)
{
	struct mask_change change = {0};

	(void)state;
	if (cores[0] == cores[1])
		skip();
	run_reactors(REACTOR_ADAPTIVE, drive_move_and_cpumask, &change);
	assert_int_equal(change.rc, 0);
	assert_true(change.stored);
	sem_destroy(&change.done);
}

/* ---- sleeping: no wake-up is lost ---- */

#define ROUNDS  3000u
#define HAMMERS 6

enum hammer_kind { HAMMER_EVENT, HAMMER_MESSAGE, HAMMER_FD };

struct hammer {
	enum hammer_kind kind;
	uint32_t core;
	struct thread *thread;
	int fd;                /* HAMMER_FD: what the poller waits for */
	struct poller *poller; /* on the thread */
	_Atomic bool posted;   /* HAMMER_FD: what the poller looks for */
	struct thread_msg msg;
	sem_t answered;
	_Atomic uint64_t rounds;
};

static void
answer(void *ctx)
{
	sem_post(&((struct hammer *)ctx)->answered);
}

static void
answer_event(void *arg1, void *arg2)
{
	(void)arg2;
	answer(arg1);
}

static int
poll_posted(void *arg)
{
	struct hammer *hammer = arg;

	if (!atomic_exchange(&hammer->posted, false))
		return POLLER_IDLE;
	answer(hammer);
	return POLLER_BUSY;
}

static bool
arm_posted(void *arg)
{
	struct hammer *hammer = arg;

	return !atomic_load(&hammer->posted);
}

static void
start_poller(void *ctx)
{
	static const struct poller_sleep_ops ops = {.arm = arm_posted};
	struct hammer *hammer = ctx;

	hammer->poller = poller_register(poll_posted, hammer, 0, "posted");
	poller_set_sleep_ops(hammer->poller, &ops);
	if (poller_add_fd(hammer->poller, hammer->fd) == 0)
		answer(hammer);
}

static void
stop_poller(void *ctx)
{
	struct hammer *hammer = ctx;

	poller_unregister(&hammer->poller);
	answer(hammer);
}

static void
strike(struct hammer *hammer)
{
	switch (hammer->kind) {
	case HAMMER_EVENT:
		event_call(hammer->core, answer_event, hammer, NULL);
		return;
	case HAMMER_MESSAGE:
		thread_send(hammer->thread, &hammer->msg, answer, hammer);
		return;
	case HAMMER_FD:
		atomic_store(&hammer->posted, true);
		eventfd_write(hammer->fd, 1);
		return;
	}
}

static void *
hammer_main(void *arg)
{
	struct hammer *hammer = arg;

	for (uint64_t i = 0; i < ROUNDS; i++) {
		strike(hammer);
		if (!wait_for_post(&hammer->answered))
			return NULL;
		atomic_fetch_add(&hammer->rounds, 1);
		if (i % 16 == 0)
			nap();
	}
	return NULL;
}

static void
drive_hammers(void *arg)
{
	struct hammer *hammers = arg;
	pthread_t os_threads[HAMMERS];
	bool ready = true;

	for (int i = 0; i < HAMMERS; i++) {
		struct cpumask only = {{0}};

		cpumask_set(&only, hammers[i].core);
		hammers[i].thread = thread_create("nail", &only);
		thread_send(hammers[i].thread, &hammers[i].msg, start_poller, &hammers[i]);
		ready &= wait_for_post(&hammers[i].answered);
	}
	if (!ready)
		return;
	for (int i = 0; i < HAMMERS; i++)
		pthread_create(&os_threads[i], NULL, hammer_main, &hammers[i]);
	for (int i = 0; i < HAMMERS; i++)
		pthread_join(os_threads[i], NULL);
	for (int i = 0; i < HAMMERS; i++) {
		if (hammers[i].rounds != ROUNDS)
			continue;
		thread_send(hammers[i].thread, &hammers[i].msg, stop_poller, &hammers[i]);
		wait_for_post(&hammers[i].answered);
	}
}

static void
test_no_wake_up_is_lost(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_INTERRUPT, REACTOR_ADAPTIVE};

	(void)state;
	for (size_t m = 0; m < 2; m++) {
		struct hammer hammers[HAMMERS];

		memset(hammers, 0, sizeof(hammers));
		for (int i = 0; i < HAMMERS; i++) {
			hammers[i].kind = (enum hammer_kind)(i / 2);
			hammers[i].core = cores[i % 2];
			hammers[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
			sem_init(&hammers[i].answered, 0, 0);
		}
		run_reactors(modes[m], drive_hammers, hammers);
		for (int i = 0; i < HAMMERS; i++) {
			assert_int_equal(hammers[i].rounds, ROUNDS);
			close(hammers[i].fd);
			sem_destroy(&hammers[i].answered);
		}
	}
}

/* ---- sleeping: modes and timers ---- */

struct counter {
	struct thread *thread;
	struct poller *poller; /* on the thread */
	uint64_t period_us;
	_Atomic uint64_t runs;
	_Atomic uint64_t sleeps[2]; /* at two moments of mode poll */
	_Atomic bool good;
	sem_t done;
};

static int
count_runs(void *arg)
{
	atomic_fetch_add(&((struct counter *)arg)->runs, 1);
	return POLLER_IDLE;
}

static bool
arm_always(void *arg)
{
	(void)arg;
	return true;
}

static void
start_counter(void *ctx)
{
	static const struct poller_sleep_ops ops = {.arm = arm_always};
	struct counter *counter = ctx;

	counter->poller = poller_register(count_runs, counter, counter->period_us, "count");
	if (counter->period_us == 0)
		poller_set_sleep_ops(counter->poller, &ops);
	sem_post(&counter->done);
}

static void
stop_counter(void *ctx)
{
	struct counter *counter = ctx;

	poller_unregister(&counter->poller);
	sem_post(&counter->done);
}

static struct counter *
counter_create(struct counter *counter, uint64_t period_us)
{
	struct cpumask only = {{0}};

	cpumask_set(&only, cores[1]);
	memset(counter, 0, sizeof(*counter));
	counter->period_us = period_us;
	sem_init(&counter->done, 0, 0);
	counter->thread = thread_create("counter", &only);
	thread_send_msg(counter->thread, start_counter, counter);
	wait_for_post(&counter->done);
	return counter;
}

static void
counter_end(struct counter *counter)
{
	thread_send_msg(counter->thread, stop_counter, counter);
	wait_for_post(&counter->done);
	sem_destroy(&counter->done);
}

static void
drive_modes(void *arg)
{
	struct counter *counter = counter_create(arg, 0);
	uint32_t core = cores[1];
	struct reactor_info info;
	bool good;

	/* Asleep, with an active poller that can sleep: it sleeps again after each wake-up. */
	good = wait_until_slept(core, 3);
	/* Set to spin while asleep. */
	good &= reactor_set_mode(core, REACTOR_POLL) == 0;
	good &= wait_until_at_least(&counter->runs, counter->runs + 1000);
	for (int i = 0; i < 2; i++) {
		good &= wait_until_at_least(&counter->runs, counter->runs + 10000);
		reactor_get_info(core, &info);
		counter->sleeps[i] = info.sleeps;
	}
	good &= info.mode == REACTOR_POLL;
	good &= reactor_set_mode(core, REACTOR_INTERRUPT) == 0;
	good &= wait_until_slept(core, info.sleeps + 1);
	counter->good = good;
	counter_end(counter);
}

static void
do_nothing(void *arg1, void *arg2)
{
	(void)arg1;
	(void)arg2;
}

static void *
disturb(void *arg)
{
	_Atomic bool *end = arg;

	while (!atomic_load(end)) {
		event_call(cores[1], do_nothing, NULL, NULL);
		nap();
	}
	return NULL;
}

static void
drive_modes_disturbed(void *arg)
{
	_Atomic bool end = false;
	pthread_t os_thread;

	pthread_create(&os_thread, NULL, disturb, &end);
	drive_modes(arg);
	atomic_store(&end, true);
	pthread_join(os_thread, NULL);
}

static void
test_modes(void **state)
{
	struct counter counter;

	(void)state;
	run_reactors(REACTOR_ADAPTIVE, drive_modes_disturbed, &counter);
	assert_true(counter.good);
	assert_int_equal(counter.sleeps[0], counter.sleeps[1]);
}

static void
drive_timed(void *arg)
{
	struct counter *counter = counter_create(arg, 300);

	counter->good = wait_until_at_least(&counter->runs, 30) && wait_until_slept(cores[1], 10);
	counter_end(counter);
}

static void
test_timed_poller_wakes(void **state)
{
	static const enum reactor_mode modes[] = {REACTOR_INTERRUPT, REACTOR_ADAPTIVE};
	struct counter counter;

	(void)state;
	for (size_t m = 0; m < 2; m++) {
		run_reactors(modes[m], drive_timed, &counter);
		assert_true(counter.good);
	}
}

/* ---- statistics ---- */

static void
burn(void *arg1, void *arg2)
{
	uint64_t end = env_ticks() + env_ticks_hz() / 200;

	(void)arg2;
	while (env_ticks() < end)
		;
	sem_post(arg1);
}

static struct reactor_info accounted;

static void
drive_statistics(void *arg)
{
	sem_t done;

	(void)arg;
	sem_init(&done, 0, 0);
	wait_until_slept(cores[1], 1);
	for (int i = 0; i < 3; i++) {
		event_call(cores[1], burn, &done, NULL);
		wait_for_post(&done);
	}
	/* Events and their time are counted in batches. */
	COMES_TRUE(reactor_get_info(cores[1], &accounted) == 0 && accounted.events == 3 &&
		   accounted.busy_ticks >= 3 * env_ticks_hz() / 200);
	sem_destroy(&done);
}

static void
test_statistics(void **state)
{
	uint64_t begin = env_ticks();

	(void)state;
	run_reactors(REACTOR_INTERRUPT, drive_statistics, NULL);
	assert_int_equal(accounted.events, 3);
	assert_true(accounted.sleeps >= 1);
	assert_true(accounted.busy_ticks >= 3 * env_ticks_hz() / 200);
	assert_true(accounted.idle_ticks > 0);
	assert_true(accounted.busy_ticks + accounted.idle_ticks <= env_ticks() - begin);
}

/* ---- the end ---- */

static struct poller *stubborn_poller;

static void
be_stubborn(void *ctx)
{
	stubborn_poller = poller_register(count_runs, ctx, 0, "stubborn");
	sem_post(&((struct counter *)ctx)->done);
}

static void
drive_stubborn(void *arg)
{
	struct counter *counter = arg;

	counter->thread = thread_create("stubborn", NULL);
	thread_send_msg(counter->thread, be_stubborn, counter);
	wait_for_post(&counter->done);
}

/* The last test: what it leaves behind is still there. */
static void
test_the_end_is_bounded(void **state)
{
	struct counter counter = {0};
	struct driver driver = {drive_stubborn, &counter};
	struct errmsg err = {""};
	pthread_t os_thread;

	(void)state;
	sem_init(&counter.done, 0, 0);
	assert_int_equal(reactors_init(REACTOR_ADAPTIVE, &err), 0);
	assert_int_equal(pthread_create(&os_thread, NULL, driver_main, &driver), 0);
	log_set_print_level(LOG_LEVEL_DISABLED);
	assert_int_equal(reactors_run(), -ETIMEDOUT);
	log_set_print_level(LOG_LEVEL_NOTICE);
	pthread_join(os_thread, NULL);
	assert_true(thread_is_exiting(counter.thread));
	assert_false(thread_is_exited(counter.thread));
	reactors_fini();
	thread_set_current(counter.thread);
	poller_unregister(&stubborn_poller);
	thread_set_current(NULL);
	assert_true(thread_is_exited(counter.thread));
	thread_destroy(counter.thread);
	thread_lib_fini();
	sem_destroy(&counter.done);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_states),
		cmocka_unit_test(test_stop_before_run),
		cmocka_unit_test(test_mode_names),
		cmocka_unit_test(test_each_reactor_is_pinned),
		cmocka_unit_test(test_events_keep_their_order),
		cmocka_unit_test(test_placement),
		cmocka_unit_test(test_no_threads_after_the_end),
		cmocka_unit_test(test_messages_follow_a_moving_thread),
		cmocka_unit_test(test_move_respects_the_cpumask),
		cmocka_unit_test(test_cpumask_of_a_running_thread),
		cmocka_unit_test(test_cpumask_takes_a_move_back),
		cmocka_unit_test(test_no_wake_up_is_lost),
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_timed_poller_wakes),
		cmocka_unit_test(test_statistics),
		cmocka_unit_test(test_the_end_is_bounded),
	};

	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
