/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_ctrlr_rig: what the tests of the NVMe driver with the software device share: the device, the
 * app thread and one thread for requests, both polled by hand here, and a work pool. The device
 * must end with status 0: the driver has broken no rule.
 */
#ifndef VHOSTD_NVME_CTRLR_RIG_H
#define VHOSTD_NVME_CTRLR_RIG_H

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "by_hand.h"
#include "coroutine.h"
#include "env.h"
#include "log.h"
#include "nvme.h"
#include "nvme_device.h"
#include "waiting.h"
#include "work.h"

#define RIG_PAUSE 20 /* µs between two looks */

#define rig_control(...) assert_int_equal(nvme_device_control(&rig.device, NULL, __VA_ARGS__), 0)

static struct {
	struct nvme_device device;
	struct thread *app;
	struct thread *io;
	bool io_is_elsewhere; /* polled by an OS thread of its own */
	struct nvme_ctrlr *ctrlr;
	struct nvme_opts opts;
	struct errmsg err;
	unsigned int events[NVME_EVENTS]; /* by enum nvme_event: how often */
	int fds;                          /* before */
} rig;

static inline int
rig_count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(folder);
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static inline int
rig_poll(void)
{
	int rc = poll_once(rig.app);

	return rig.io_is_elsewhere ? rc : rc | poll_once(rig.io);
}

/* Polls until *done. */
static inline void
rig_poll_until(const bool *done)
{
	time_t end = time(NULL) + DEADLINE_S;

	while (!*done) {
		assert_true(time(NULL) < end);
		if (rig_poll() == POLLER_IDLE)
			usleep(RIG_PAUSE);
	}
}

static inline void
rig_poll_for_ms(unsigned int ms)
{
	uint64_t end = env_ticks() + env_ticks_hz() / 1000 * ms;

	while (env_ticks() < end) {
		if (rig_poll() == POLLER_IDLE)
			usleep(RIG_PAUSE);
	}
}

/* Polls until the condition is true. */
#define rig_wait_for(condition)                                                                    \
	do {                                                                                       \
		time_t rig_end = time(NULL) + DEADLINE_S;                                          \
		while (!(condition)) {                                                             \
			assert_true(time(NULL) < rig_end);                                         \
			if (rig_poll() == POLLER_IDLE)                                             \
				usleep(RIG_PAUSE);                                                 \
		}                                                                                  \
	} while (0)

struct rig_run {
	void (*fn)(void *arg);
	void *arg;
	bool done;
};

static inline void
rig_run_main(void *arg)
{
	struct rig_run *run = arg;

	run->fn(run->arg);
	run->done = true;
}

/* Runs fn(arg) in a coroutine on the app thread. */
static inline void
rig_run(void (*fn)(void *arg), void *arg)
{
	struct rig_run run = {.fn = fn, .arg = arg};

	assert_int_equal(coroutine_start(rig.app, "test", rig_run_main, &run), 0);
	rig_poll_until(&run.done);
}

static inline void
rig_on_event(void *ctx, enum nvme_event event)
{
	(void)ctx;
	rig.events[event]++;
}

static inline void
rig_attach_main(void *arg)
{
	*(int *)arg = nvme_attach(&rig.opts, rig_on_event, NULL, &rig.ctrlr, &rig.err);
}

static inline int
rig_try_attach(void)
{
	int rc = 1;

	rig.err.text[0] = '\0';
	rig_run(rig_attach_main, &rc);
	if (rc != 0)
		rig.ctrlr = NULL;
	return rc;
}

static inline void
rig_attach(void)
{
	int rc = rig_try_attach();

	if (rc != 0)
		print_error("attach: %s\n", rig.err.text);
	assert_int_equal(rc, 0);
}

/* It fails, and says why, for the controller of that name. */
static inline void
rig_expect_refused(int rc, const char *text)
{
	assert_int_equal(rig_try_attach(), rc);
	if (strstr(rig.err.text, text) == NULL || strstr(rig.err.text, rig.device.socket) == NULL)
		print_error("not '%s': %s\n", text, rig.err.text);
	assert_non_null(strstr(rig.err.text, text));
	assert_non_null(strstr(rig.err.text, rig.device.socket));
}

static inline void
rig_detach_main(void *arg)
{
	(void)arg;
	nvme_detach(rig.ctrlr);
}

static inline void
rig_detach(void)
{
	rig_run(rig_detach_main, NULL);
	rig.ctrlr = NULL;
}

static inline const struct nvme_ctrlr_info *
rig_info(void)
{
	return nvme_get_info(rig.ctrlr);
}

static inline void
rig_expect_no_violation(void)
{
	assert_int_equal(nvme_device_violations(&rig.device, "total"), 0);
}

/*
 * Before it is attached: what is lost is noticed after a second. Elsewhere nothing is taken for
 * lost because the machine is slow.
 */
static inline void
rig_notice_lost_io(void)
{
	rig.opts.tuning.io_timeout_us = 1000000;
}

static inline void
rig_notice_lost_admin(void)
{
	rig.opts.tuning.admin_timeout_us = 1000000;
}

static inline int
rig_setup(void **state)
{
	static const char *const args[] = {"-c", "ns add 1 memory 16384 512", "-c",
					   "ns add 2 null 1000000 4096", NULL};

	(void)state;
	memset(&rig, 0, sizeof(rig));
	rig.fds = rig_count_fds();
	log_set_print_level(LOG_LEVEL_ERROR);
	thread_lib_init(NULL);
	assert_int_equal(work_pool_start(NULL), 0);
	rig.app = thread_create("app", NULL);
	rig.io = thread_create("io", NULL);
	assert_non_null(rig.app);
	assert_non_null(rig.io);
	assert_int_equal(nvme_device_start(&rig.device, args), 0);
	rig.opts = (struct nvme_opts){.name = "Nvme0",
				      .trtype = "VFIOUSER",
				      .traddr = rig.device.socket,
				      .io_queues = 4,
				      .tuning = {.action = NVME_TIMEOUT_ABORT,
						 .io_timeout_us = DEADLINE_S * 1000000u,
						 .admin_timeout_us = DEADLINE_S * 1000000u,
						 .retries = 4}};
	return 0;
}

static inline int
rig_teardown(void **state)
{
	int status;

	(void)state;
	if (rig.ctrlr != NULL)
		rig_detach();
	status = nvme_device_end(&rig.device);
	if (status != 0)
		fprintf(stderr, "# nvme_device: exit status %d\n", status);
	thread_set_current(NULL);
	thread_finish(rig.io);
	thread_finish(rig.app);
	work_pool_stop();
	thread_lib_fini();
	if (rig_count_fds() != rig.fds) {
		fprintf(stderr, "# %d file descriptors, not %d\n", rig_count_fds(), rig.fds);
		status = -1;
	}
	return status;
}

#define rig_test(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

#endif
