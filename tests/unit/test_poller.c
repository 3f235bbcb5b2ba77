/* SPDX-License-Identifier: BSD-3-Clause */
/* links: thread testlib env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "by_hand.h"
#include "env.h"
#include "fault.h"
#include "thread.h"
#include "ticks.h"
#include "waiting.h"

static struct thread *thread;

static int
setup(void **state)
{
	(void)state;
	thread_lib_init(NULL);
	thread = thread_create("t", NULL);
	assert_non_null(thread);
	thread_set_current(thread);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	thread_set_current(NULL);
	thread_finish(thread);
	thread_lib_fini();
	return 0;
}

/* A poller that does as the test says. */
struct probe {
	struct poller *poller;
	unsigned int runs;
	int rc;                  /* to return */
	struct probe *victim;    /* to unregister, when run */
	struct probe *offspring; /* to register, when run */

	/* sleeping */
	bool has_work;
	bool armed;
	unsigned int arms;
	unsigned int disarms;
	void (*in_arm)(struct probe *probe);
};

static int
probe_poll(void *arg)
{
	struct probe *probe = arg;
	int rc = probe->rc;

	probe->runs++;
	if (probe->offspring != NULL) {
		probe->offspring->poller = poller_register(probe_poll, probe->offspring, 0, "born");
		assert_non_null(probe->offspring->poller);
		probe->offspring = NULL;
	}
	if (probe->victim != NULL)
		poller_unregister(&probe->victim->poller);
	return rc;
}

static bool
probe_arm(void *arg)
{
	struct probe *probe = arg;

	assert_ptr_equal(thread_current(), thread);
	assert_false(probe->armed);
	probe->arms++;
	if (probe->in_arm != NULL)
		probe->in_arm(probe);
	probe->armed = !probe->has_work;
	return probe->armed;
}

static void
probe_disarm(void *arg)
{
	struct probe *probe = arg;

	assert_ptr_equal(thread_current(), thread);
	assert_true(probe->armed);
	probe->disarms++;
	probe->armed = false;
}

static const struct poller_sleep_ops sleep_ops = {probe_arm, probe_disarm};
static const struct poller_sleep_ops arm_only = {probe_arm, NULL};

static void
probe_register(struct probe *probe, uint64_t period_us)
{
	probe->poller = poller_register(probe_poll, probe, period_us, "probe");
	assert_non_null(probe->poller);
}

static int
poll_thread(void)
{
	int rc;

	thread_set_current(NULL);
	rc = poll_once(thread);
	assert_null(thread_current());
	thread_set_current(thread);
	return rc;
}

/* ---- active pollers ---- */

static void
test_active(void **state)
{
	struct probe a = {.rc = POLLER_IDLE}, b = {.rc = POLLER_IDLE};
	struct thread_stats stats;

	(void)state;
	probe_register(&a, 0);
	probe_register(&b, 0);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	b.rc = POLLER_BUSY;
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(a.runs, 2);
	assert_int_equal(b.runs, 2);
	thread_get_stats(thread, &stats);
	assert_int_equal(stats.active_pollers, 2);
	assert_int_equal(stats.timed_pollers, 0);
	poller_unregister(&a.poller);
	assert_null(a.poller);
	poller_unregister(&a.poller); /* nothing */
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(a.runs, 2);
	poller_unregister(&b.poller);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	thread_get_stats(thread, &stats);
	assert_int_equal(stats.active_pollers, 0);
}

/* Each of three pollers unregisters each of the three, itself too, from inside. */
static void
test_unregister_from_inside(void **state)
{
	(void)state;
	for (unsigned int killer = 0; killer < 3; killer++) {
		for (unsigned int victim = 0; victim < 3; victim++) {
			struct probe probes[3] = {
				{.rc = POLLER_BUSY}, {.rc = POLLER_BUSY}, {.rc = POLLER_BUSY}};

			for (unsigned int i = 0; i < 3; i++)
				probe_register(&probes[i], 0);
			probes[killer].victim = &probes[victim];
			assert_int_equal(poll_thread(), POLLER_BUSY);
			assert_int_equal(poll_thread(), POLLER_BUSY);
			assert_null(probes[victim].poller);
			for (unsigned int i = 0; i < 3; i++) {
				unsigned int expected = i != victim ? 2 : victim > killer ? 0 : 1;

				assert_int_equal(probes[i].runs, expected);
				poller_unregister(&probes[i].poller);
			}
		}
	}
}

/* The last poller is replaced from inside: the new one may well get the old one's memory. */
static void
test_replace_itself(void **state)
{
	struct probe next = {.rc = POLLER_IDLE};
	struct probe probe = {.rc = POLLER_BUSY, .offspring = &next, .victim = &probe};

	(void)state;
	probe_register(&probe, 0);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	assert_int_equal(probe.runs, 1);
	assert_true(next.runs >= 1);
	poller_unregister(&next.poller);
}

static void
kill_probe(void *ctx)
{
	struct probe *probe = ctx;

	poller_unregister(&probe->poller);
}

static void
test_unregister_from_a_message(void **state)
{
	struct probe probe = {.rc = POLLER_BUSY};

	(void)state;
	probe_register(&probe, 0);
	assert_int_equal(thread_send_msg(thread, kill_probe, &probe), 0);
	poll_thread();
	assert_int_equal(probe.runs, 0);
}

static void
test_register_without_memory(void **state)
{
	(void)state;
	fault_after(0);
	errno = 0;
	assert_null(poller_register(probe_poll, NULL, 0, "none"));
	assert_int_equal(errno, ENOMEM);
	assert_true(fault_end());
	assert_int_equal(poll_thread(), POLLER_IDLE);
}

/* ---- timed pollers ---- */

static void
test_timed(void **state)
{
	struct probe slow = {.rc = POLLER_BUSY}, fast = {.rc = POLLER_IDLE};
	uint64_t start = env_ticks();

	(void)state;
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
	probe_register(&slow, 100);
	probe_register(&fast, 30);
	assert_int_equal(thread_next_due(thread), start + 30 * TICKS_PER_US);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	assert_int_equal(fast.runs, 0);
	ticks_advance_us(30);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	assert_int_equal(fast.runs, 1);
	assert_int_equal(thread_next_due(thread), start + 60 * TICKS_PER_US);
	ticks_advance_us(500); /* late: each runs once, and the next period begins now */
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	assert_int_equal(fast.runs, 2);
	assert_int_equal(slow.runs, 1);
	assert_int_equal(thread_next_due(thread), start + 560 * TICKS_PER_US);
	poller_unregister(&fast.poller);
	assert_int_equal(thread_next_due(thread), start + 630 * TICKS_PER_US);
	poller_unregister(&slow.poller);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
}

static void
test_timed_unregister_from_inside(void **state)
{
	(void)state;
	for (unsigned int killer = 0; killer < 2; killer++) {
		for (unsigned int victim = 0; victim < 2; victim++) {
			struct probe probes[2] = {{.rc = POLLER_BUSY}, {.rc = POLLER_BUSY}};

			probe_register(&probes[0], 10);
			probe_register(&probes[1], 10); /* due at the same time: in this order */
			probes[killer].victim = &probes[victim];
			ticks_advance_us(10);
			assert_int_equal(poll_thread(), POLLER_BUSY);
			assert_int_equal(probes[victim].runs, victim > killer ? 0 : 1);
			assert_int_equal(probes[!victim].runs, 1);
			ticks_advance_us(10);
			assert_int_equal(poll_thread(), POLLER_BUSY);
			assert_int_equal(probes[!victim].runs, 2);
			poller_unregister(&probes[!victim].poller);
			assert_int_equal(thread_next_due(thread), UINT64_MAX);
		}
	}
}

/* The longest period is never, and does not wrap around to now. */
static void
test_timed_for_ever(void **state)
{
	struct probe probe = {.rc = POLLER_BUSY};

	(void)state;
	probe_register(&probe, UINT64_MAX);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
	ticks_advance_us(1000000000);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	poller_unregister(&probe.poller);
}

/* ---- timed pollers that say when ---- */

static struct poller *chooser;
static uint64_t choice; /* 0: none */

static int
choose(void *arg)
{
	++*(unsigned int *)arg;
	if (choice != 0)
		poller_set_due(chooser, choice);
	return POLLER_BUSY;
}

static void
test_set_due(void **state)
{
	uint64_t start = env_ticks();
	unsigned int runs = 0;

	(void)state;
	chooser = poller_register(choose, &runs, 10, "chooser");
	assert_non_null(chooser);
	poller_set_due(chooser, start + 5 * TICKS_PER_US);
	poller_set_due(chooser, start + 2 * TICKS_PER_US); /* the last word counts */
	assert_int_equal(thread_next_due(thread), start + 2 * TICKS_PER_US);
	ticks_advance_us(2);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(thread_next_due(thread), start + 12 * TICKS_PER_US);
	choice = start; /* in the past: not before the next iteration */
	ticks_advance_us(10);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(runs, 2);
	choice = UINT64_MAX;
	ticks_advance_us(1);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(runs, 3);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
	ticks_advance_us(1000000);
	assert_int_equal(poll_thread(), POLLER_IDLE);
	choice = 0;
	poller_set_due(chooser, 0);
	ticks_advance_us(1);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_int_equal(thread_next_due(thread), env_ticks() + 10 * TICKS_PER_US);
	poller_unregister(&chooser);
	assert_int_equal(thread_next_due(thread), UINT64_MAX);
}

/* Many of them, in a mixed order, run in the order of their times. */
#define MANY 200
static uint64_t last_period;

static int
check_order(void *arg)
{
	uint64_t period = (uintptr_t)arg;

	assert_true(period >= last_period);
	last_period = period;
	return POLLER_BUSY;
}

static void
test_many_timed(void **state)
{
	struct poller *pollers[MANY];

	(void)state;
	last_period = 0;
	for (unsigned int i = 0; i < MANY; i++) {
		uint64_t period = 1 + i * 7919 % 1000;

		pollers[i] =
			poller_register(check_order, (void *)(uintptr_t)period, period, "timed");
		assert_non_null(pollers[i]);
	}
	ticks_advance_us(1000);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	assert_true(last_period > 900);
	for (unsigned int i = 0; i < MANY; i++)
		poller_unregister(&pollers[i]);
}

/* ---- what RPC shows ---- */

static void
collect_info(void *ctx, const struct poller_info *info)
{
	struct poller_info *infos = ctx;

	infos[info->period_us > 0] = *info;
}

static void
test_info(void **state)
{
	struct probe active = {.rc = POLLER_IDLE}, timed = {.rc = POLLER_BUSY};
	struct poller_info infos[2] = {{.name = NULL}};

	(void)state;
	probe_register(&active, 0);
	probe_register(&timed, 50);
	poll_thread();
	active.rc = POLLER_BUSY;
	ticks_advance_us(50);
	poll_thread();
	thread_for_each_poller(thread, collect_info, infos);
	assert_string_equal(infos[0].name, "probe");
	assert_int_equal(infos[0].runs, 2);
	assert_int_equal(infos[0].busy_runs, 1);
	assert_false(infos[0].can_sleep);
	assert_int_equal(infos[1].period_us, 50);
	assert_int_equal(infos[1].runs, 1);
	assert_int_equal(infos[1].busy_runs, 1);
	poller_set_sleep_ops(active.poller, &sleep_ops);
	thread_for_each_poller(thread, collect_info, infos);
	assert_true(infos[0].can_sleep);
	poller_unregister(&active.poller);
	poller_unregister(&timed.poller);
}

/* ---- arm and disarm ---- */

static void
test_arm_nothing(void **state)
{
	struct probe timed = {.rc = POLLER_IDLE};

	(void)state;
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	probe_register(&timed, 10);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	poller_unregister(&timed.poller);
}

static void
test_arm_each_in_turn(void **state)
{
	struct probe a = {.rc = POLLER_IDLE}, b = {.rc = POLLER_IDLE}, c = {.rc = POLLER_IDLE};

	(void)state;
	probe_register(&a, 0);
	probe_register(&b, 0);
	probe_register(&c, 0);
	poller_set_sleep_ops(a.poller, &sleep_ops);
	poller_set_sleep_ops(c.poller, &arm_only);
	assert_false(thread_arm(thread)); /* b cannot sleep */
	assert_int_equal(a.arms + c.arms, 0);
	poller_set_sleep_ops(b.poller, &sleep_ops);
	b.has_work = true;
	assert_false(thread_arm(thread));
	assert_int_equal(a.arms, 1);
	assert_int_equal(a.disarms, 1);
	assert_int_equal(b.disarms, 0);
	assert_int_equal(c.arms, 0);
	b.has_work = false;
	assert_true(thread_arm(thread));
	assert_true(a.armed && b.armed && c.armed);
	thread_disarm(thread);
	assert_false(a.armed || b.armed);
	c.armed = false;       /* it has no disarm */
	thread_disarm(thread); /* once is enough */
	assert_int_equal(a.disarms, 2);
	poller_set_sleep_ops(b.poller, NULL);
	assert_false(thread_arm(thread));
	poller_unregister(&b.poller);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	poller_unregister(&a.poller);
	poller_unregister(&c.poller);
}

static void
nothing(void *ctx)
{
	(void)ctx;
}

static void
send_from_arm(struct probe *probe)
{
	(void)probe;
	assert_int_equal(thread_send_msg(thread, nothing, NULL), 0);
}

/*
 * Neither a message from before nor one that an arm callback sent (which wakes nobody) is slept on.
 */
static void
test_arm_with_messages(void **state)
{
	struct probe probe = {.rc = POLLER_IDLE};

	(void)state;
	probe_register(&probe, 0);
	poller_set_sleep_ops(probe.poller, &sleep_ops);
	assert_int_equal(thread_send_msg(thread, nothing, NULL), 0);
	assert_false(thread_arm(thread));
	assert_int_equal(probe.arms, 0);
	assert_int_equal(poll_thread(), POLLER_BUSY);
	probe.in_arm = send_from_arm;
	assert_false(thread_arm(thread));
	assert_false(probe.armed);
	assert_int_equal(probe.disarms, 1);
	poll_thread();
	probe.in_arm = NULL;
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	poller_unregister(&probe.poller);
}

static void
test_unregister_while_armed(void **state)
{
	struct probe a = {.rc = POLLER_IDLE}, b = {.rc = POLLER_IDLE};

	(void)state;
	probe_register(&a, 0);
	probe_register(&b, 0);
	poller_set_sleep_ops(a.poller, &sleep_ops);
	poller_set_sleep_ops(b.poller, &sleep_ops);
	assert_true(thread_arm(thread));
	poller_unregister(&a.poller);
	assert_false(a.armed);
	poller_set_sleep_ops(b.poller, NULL);
	assert_false(b.armed);
	thread_disarm(thread);
	assert_int_equal(a.disarms, 1);
	assert_int_equal(b.disarms, 1);
	poller_unregister(&b.poller);
}

static void
unregister_from_arm(struct probe *probe)
{
	if (probe->victim != NULL)
		poller_unregister(&probe->victim->poller);
}

static void
test_unregister_from_arm(void **state)
{
	struct probe a = {.rc = POLLER_IDLE}, b = {.rc = POLLER_IDLE}, c = {.rc = POLLER_IDLE};

	(void)state;
	probe_register(&a, 0);
	probe_register(&b, 0);
	probe_register(&c, 0);
	poller_set_sleep_ops(a.poller, &sleep_ops);
	poller_set_sleep_ops(b.poller, &sleep_ops);
	poller_set_sleep_ops(c.poller, &sleep_ops);
	b.in_arm = unregister_from_arm;
	b.victim = &a;
	assert_true(thread_arm(thread)); /* a is armed already, and is disarmed by that */
	assert_int_equal(a.disarms, 1);
	assert_true(b.armed && c.armed);
	thread_disarm(thread);
	b.victim = &c;
	assert_true(thread_arm(thread)); /* c is next */
	assert_int_equal(c.arms, 1);
	thread_disarm(thread);
	poller_unregister(&b.poller);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
}

/*
 * Its last poller goes while it is being armed: nothing would wake the one who has to destroy it.
 */
static void
test_thread_ends_from_arm(void **state)
{
	struct probe last = {.rc = POLLER_IDLE, .in_arm = unregister_from_arm};

	(void)state;
	probe_register(&last, 0);
	poller_set_sleep_ops(last.poller, &sleep_ops);
	thread_exit(thread);
	assert_true(thread_arm(thread));
	thread_disarm(thread);
	last.victim = &last;
	assert_false(thread_arm(thread));
	assert_true(thread_is_exited(thread));
}

/* ---- file descriptors ---- */

static bool
is_readable(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	return poll(&pollfd, 1, 0) == 1;
}

static int
make_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

static void
signal_fd(int fd)
{
	assert_int_equal(eventfd_write(fd, 1), 0);
}

/* An edge wakes; nobody reads the fd, and the next sleep is quiet until there is another. */
static void
test_fd_wakes_by_edges(void **state)
{
	struct probe probe = {.rc = POLLER_IDLE};
	int wait_fd = thread_wait_fd(thread);
	int fd = make_eventfd();

	(void)state;
	probe_register(&probe, 0);
	poller_set_sleep_ops(probe.poller, &sleep_ops);
	assert_int_equal(poller_add_fd(probe.poller, fd), 0);
	for (unsigned int i = 0; i < 3; i++) {
		assert_true(thread_arm(thread));
		assert_false(is_readable(wait_fd));
		signal_fd(fd);
		assert_true(is_readable(wait_fd));
		thread_disarm(thread);
		signal_fd(fd); /* awake */
		assert_int_equal(thread_wait_fd(thread), wait_fd);
	}
	poller_unregister(&probe.poller);
	close(fd);
}

/* An edge at each point of the way to sleep: it is seen by arm(), or it wakes. */
static int edge_fd;

static void
signal_then_look(struct probe *probe)
{
	signal_fd(edge_fd);
	probe->has_work = true; /* as one who looks after that */
}

static void
look_then_signal(struct probe *probe)
{
	(void)probe;
	signal_fd(edge_fd);
}

static void
test_no_edge_is_lost(void **state)
{
	struct probe probe = {.rc = POLLER_IDLE};

	(void)state;
	edge_fd = make_eventfd();
	probe_register(&probe, 0);
	poller_set_sleep_ops(probe.poller, &sleep_ops);
	assert_int_equal(poller_add_fd(probe.poller, edge_fd), 0);
	/* before thread_arm(): the poller's own look finds the work */
	signal_fd(edge_fd);
	probe.has_work = true;
	assert_false(thread_arm(thread));
	/* in arm(), before the look */
	probe.has_work = false;
	probe.in_arm = signal_then_look;
	assert_false(thread_arm(thread));
	/* in arm(), after the look */
	probe.has_work = false;
	probe.in_arm = look_then_signal;
	assert_true(thread_arm(thread));
	assert_true(is_readable(thread_wait_fd(thread)));
	thread_disarm(thread);
	poller_unregister(&probe.poller);
	close(edge_fd);
}

static void
test_fd_ready_when_added(void **state)
{
	struct probe probe = {.rc = POLLER_IDLE};
	int fd = make_eventfd();

	(void)state;
	probe_register(&probe, 1000);
	signal_fd(fd);
	assert_int_equal(poller_add_fd(probe.poller, fd), 0);
	assert_true(is_readable(thread_wait_fd(thread)));
	assert_true(thread_arm(thread));
	assert_false(is_readable(thread_wait_fd(thread)));
	thread_disarm(thread);
	poller_unregister(&probe.poller);
	close(fd);
}

static void
test_fd_removed_while_ready(void **state)
{
	struct probe a = {.rc = POLLER_IDLE}, b = {.rc = POLLER_IDLE};
	int fds[3] = {make_eventfd(), make_eventfd(), make_eventfd()};

	(void)state;
	probe_register(&a, 0);
	probe_register(&b, 0);
	poller_set_sleep_ops(a.poller, &sleep_ops);
	poller_set_sleep_ops(b.poller, &sleep_ops);
	assert_int_equal(poller_add_fd(a.poller, fds[0]), 0);
	assert_int_equal(poller_add_fd(b.poller, fds[1]), 0);
	assert_int_equal(poller_add_fd(b.poller, fds[2]), 0);
	assert_true(thread_arm(thread));
	for (unsigned int i = 0; i < 3; i++)
		signal_fd(fds[i]);
	assert_true(is_readable(thread_wait_fd(thread)));
	poller_remove_fd(a.poller, fds[1]); /* not a's: nothing */
	poller_remove_fd(a.poller, fds[0]);
	assert_true(is_readable(thread_wait_fd(thread)));
	poller_unregister(&b.poller); /* with its fds */
	assert_false(is_readable(thread_wait_fd(thread)));
	thread_disarm(thread);
	/* all may be added again */
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(poller_add_fd(a.poller, fds[i]), 0);
	poller_unregister(&a.poller);
	for (unsigned int i = 0; i < 3; i++) {
		signal_fd(fds[i]);
		close(fds[i]);
	}
	assert_false(is_readable(thread_wait_fd(thread)));
}

#define MANY_FDS 40

static void
test_many_fds_get_quiet(void **state)
{
	struct probe probe = {.rc = POLLER_IDLE};
	int fds[MANY_FDS];

	(void)state;
	probe_register(&probe, 0);
	poller_set_sleep_ops(probe.poller, &sleep_ops);
	for (unsigned int i = 0; i < MANY_FDS; i++) {
		fds[i] = make_eventfd();
		assert_int_equal(poller_add_fd(probe.poller, fds[i]), 0);
		signal_fd(fds[i]);
	}
	assert_true(thread_arm(thread));
	assert_false(is_readable(thread_wait_fd(thread)));
	thread_disarm(thread);
	poller_unregister(&probe.poller);
	for (unsigned int i = 0; i < MANY_FDS; i++)
		close(fds[i]);
}

static void
test_fd_errors(void **state)
{
	struct probe a = {.rc = POLLER_IDLE}, b = {.rc = POLLER_IDLE};
	int fd = make_eventfd();
	int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)state;
	probe_register(&a, 0);
	probe_register(&b, 0);
	assert_int_equal(poller_add_fd(a.poller, fd), 0);
	assert_int_equal(poller_add_fd(a.poller, fd), -EEXIST);
	assert_int_equal(poller_add_fd(b.poller, fd), -EEXIST);
	assert_int_equal(poller_add_fd(b.poller, folder), -EPERM);
	assert_int_equal(poller_add_fd(b.poller, -1), -EBADF);
	poller_remove_fd(a.poller, fd);
	fault_after(0);
	assert_int_equal(poller_add_fd(b.poller, fd), -ENOMEM);
	assert_true(fault_end());
	assert_int_equal(poller_add_fd(b.poller, fd), 0);
	poller_unregister(&a.poller);
	poller_unregister(&b.poller);
	close(folder);
	close(fd);
}

#define poller_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		poller_test(test_active),
		poller_test(test_unregister_from_inside),
		poller_test(test_replace_itself),
		poller_test(test_unregister_from_a_message),
		poller_test(test_register_without_memory),
		poller_test(test_timed),
		poller_test(test_timed_unregister_from_inside),
		poller_test(test_timed_for_ever),
		poller_test(test_set_due),
		poller_test(test_many_timed),
		poller_test(test_info),
		poller_test(test_arm_nothing),
		poller_test(test_arm_each_in_turn),
		poller_test(test_arm_with_messages),
		poller_test(test_unregister_while_armed),
		poller_test(test_unregister_from_arm),
		poller_test(test_thread_ends_from_arm),
		poller_test(test_fd_wakes_by_edges),
		poller_test(test_no_edge_is_lost),
		poller_test(test_fd_ready_when_added),
		poller_test(test_fd_removed_while_ready),
		poller_test(test_many_fds_get_quiet),
		poller_test(test_fd_errors),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
