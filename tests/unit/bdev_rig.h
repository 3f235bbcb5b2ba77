/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_rig: what the tests of block devices share: an app thread and two others, polled by hand. */
#ifndef VHOSTD_BDEV_RIG_H
#define VHOSTD_BDEV_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "bdev.h"
#include "bdev_modules.h"
#include "by_hand.h"
#include "coroutine.h"
#include "env.h"
#include "errmsg.h"
#include "thread.h"
#include "waiting.h"
#include "work.h"

static struct thread *rig_app, *rig_io[2];
static struct errmsg rig_err;

static inline int
rig_setup(void **state)
{
	struct thread_lib_ops ops = {0};

	(void)state;
	thread_lib_init(&ops);
	assert_int_equal(work_pool_start(NULL), 0);
	rig_app = thread_create("app", NULL);
	rig_io[0] = thread_create("io0", NULL);
	rig_io[1] = thread_create("io1", NULL);
	thread_set_current(rig_app);
	assert_int_equal(bdev_lib_init(), 0);
	thread_set_current(NULL);
	rig_err.text[0] = '\0';
	return 0;
}

static inline int
rig_poll(void)
{
	return poll_once(rig_app) | poll_once(rig_io[0]) | poll_once(rig_io[1]);
}

/* Polls until *flag or the deadline, which fails the test. */
static inline void
rig_wait(const bool *flag)
{
	uint64_t deadline = now_ms() + DEADLINE_MS;

	while (!*flag) {
		if (rig_poll() == POLLER_IDLE)
			usleep(50);
		assert_true(now_ms() < deadline);
	}
}

/* Polls until nothing is left to do. */
static inline void
rig_settle(void)
{
	struct thread *const threads[] = {rig_app, rig_io[0], rig_io[1]};

	poll_until_idle(threads, 3);
}

struct rig_call {
	void (*fn)(void *arg);
	void *arg;
	bool finished;
};

static inline void
rig_call_run(void *arg)
{
	struct rig_call *call = arg;

	call->fn(call->arg);
	call->finished = true;
}

/* Runs fn in a coroutine on the app thread to its end. cmocka's assertions must not be in it. */
static inline void
rig_run(void (*fn)(void *arg), void *arg)
{
	struct rig_call call = {.fn = fn, .arg = arg};

	assert_int_equal(coroutine_start(rig_app, "test", rig_call_run, &call), 0);
	rig_wait(&call.finished);
}

struct rig_uring {
	const struct bdev_uring_opts *opts;
	struct bdev *bdev;
	int rc;
};

static inline void
rig_uring_run(void *arg)
{
	struct rig_uring *uring = arg;

	uring->rc = bdev_uring_create(uring->opts, &uring->bdev, &rig_err);
}

/* *bdev only on success; may be NULL. */
static inline int
rig_create_uring(const struct bdev_uring_opts *opts, struct bdev **bdev)
{
	struct rig_uring uring = {.opts = opts};

	rig_err.text[0] = '\0';
	rig_run(rig_uring_run, &uring);
	if (uring.rc == 0 && bdev != NULL)
		*bdev = uring.bdev;
	return uring.rc;
}

struct rig_delete {
	const char *name, *module;
	int rc;
	bool finished;
};

static inline void
rig_delete_run(void *arg)
{
	struct rig_delete *delete = arg;

	delete->rc = bdev_delete(delete->name, delete->module, &rig_err);
	delete->finished = true;
}

static inline int
rig_delete(const char *name, const char *module)
{
	struct rig_delete delete = {.name = name, .module = module};

	rig_run(rig_delete_run, &delete);
	return delete.rc;
}

static inline void
rig_fini_run(void *arg)
{
	(void)arg;
	bdev_lib_fini();
}

static inline int
rig_teardown(void **state)
{
	(void)state;
	rig_run(rig_fini_run, NULL);
	thread_finish(rig_io[0]);
	thread_finish(rig_io[1]);
	thread_finish(rig_app);
	work_pool_stop();
	thread_lib_fini();
	return 0;
}

static inline struct bdev_desc *
rig_open(const char *name, bool write)
{
	struct bdev_desc *desc = NULL;

	thread_set_current(rig_app);
	assert_int_equal(bdev_open(name, write ? BDEV_WRITES : BDEV_READS, "the test", NULL, NULL,
				   &desc, &rig_err),
			 0);
	thread_set_current(NULL);
	return desc;
}

static inline void
rig_close(struct bdev_desc *desc)
{
	thread_set_current(rig_app);
	bdev_close(desc);
	thread_set_current(NULL);
}

static inline struct bdev_channel *
rig_channel(struct bdev_desc *desc, struct thread *thread)
{
	struct bdev_channel *channel;

	thread_set_current(thread);
	channel = bdev_channel_get(desc);
	thread_set_current(NULL);
	assert_non_null(channel);
	return channel;
}

static inline void
rig_channel_put(struct bdev_channel *channel, struct thread *thread)
{
	thread_set_current(thread);
	bdev_channel_put(channel);
	thread_set_current(NULL);
}

/* A request of the test, with an iovec of its own. */
struct rig_request {
	bool finished;
	int status;
	int finishes;
	struct iovec iov;
	_Alignas(16) struct bdev_request rq;
};

static inline void
rig_request_done(struct bdev_request *rq, int status)
{
	struct rig_request *request =
		(struct rig_request *)((uint8_t *)rq - offsetof(struct rig_request, rq));

	request->status = status;
	request->finished = true;
	request->finishes++;
}

static inline struct rig_request *
rig_request_new(const struct bdev *bdev)
{
	struct rig_request *request =
		calloc(1, sizeof(*request) - sizeof(struct bdev_request) + bdev_request_size(bdev));

	assert_non_null(request);
	return request;
}

static inline void
rig_request_set(struct rig_request *request, uint8_t type, uint64_t offset, void *data,
		uint64_t length)
{
	request->finished = false;
	request->iov = (struct iovec){.iov_base = data, .iov_len = length};
	request->rq.type = type;
	request->rq.flags = 0;
	request->rq.offset = offset;
	request->rq.length = length;
	request->rq.iov = &request->iov;
	request->rq.iovcnt = 1;
	request->rq.done = rig_request_done;
}

static inline void
rig_submit(struct bdev_channel *channel, struct thread *thread, struct rig_request *request)
{
	thread_set_current(thread);
	bdev_submit(channel, &request->rq);
	bdev_flush_submissions(channel);
	thread_set_current(NULL);
}

/* One request from beginning to end. */
static inline int
rig_do(struct bdev_channel *channel, struct thread *thread, struct rig_request *request)
{
	rig_submit(channel, thread, request);
	rig_wait(&request->finished);
	return request->status;
}

#endif
