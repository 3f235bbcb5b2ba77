/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_disk_rig: what the tests of NVMe disks share: nvme_fake.h, a clock that can be put forward,
 * calls in coroutines, and a disk that is open.
 */
#ifndef VHOSTD_NVME_DISK_RIG_H
#define VHOSTD_NVME_DISK_RIG_H

#include "notify.h"
#include "nvme_fake.h"

#define LINE 4096

/* Real time, and what a test skips of it. */
static uint64_t skipped_ns;

uint64_t
env_ticks(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + skipped_ns;
}

uint64_t
env_ticks_hz(void)
{
	return 1000000000u;
}

#define UNTIL(condition)                                                                           \
	do {                                                                                       \
		uint64_t deadline = now_ms() + DEADLINE_MS;                                        \
                                                                                                   \
		while (!(condition)) {                                                             \
			if (rig_poll() == POLLER_IDLE)                                             \
				usleep(50);                                                        \
			assert_true(now_ms() < deadline);                                          \
		}                                                                                  \
	} while (0)

/* ---- calls in coroutines ---- */

enum what { ATTACH, DETACH, RESET, ENABLE, DISABLE, HEALTH, FINI };

struct call {
	enum what what;
	struct bdev_nvme_opts opts;
	const char *name;
	int rc;
	json_t *answer;
	bool finished;
};

static inline void
call_run(void *arg)
{
	struct call *call = arg;

	rig_err.text[0] = '\0';
	if (call->what == ATTACH)
		call->rc = bdev_nvme_attach(&call->opts, &rig_err);
	else if (call->what == DETACH)
		call->rc = bdev_nvme_detach(call->name, &rig_err);
	else if (call->what == RESET)
		call->rc = bdev_nvme_reset(call->name, &rig_err);
	else if (call->what == ENABLE)
		call->rc = bdev_nvme_enable(call->name, &rig_err);
	else if (call->what == DISABLE)
		call->rc = bdev_nvme_disable(call->name, &rig_err);
	else if (call->what == HEALTH)
		call->answer = bdev_nvme_health_json(call->name, &call->rc, &rig_err);
	else
		bdev_nvme_fini();
	call->finished = true;
}

static inline void
begin(struct call *call)
{
	call->finished = false;
	assert_int_equal(coroutine_start(rig_app, "test", call_run, call), 0);
}

static inline int
run(struct call *call)
{
	begin(call);
	rig_wait(&call->finished);
	return call->rc;
}

static inline int
attach(const char *name, int which)
{
	struct call call = {
		.what = ATTACH,
		.opts = {.name = name, .trtype = fake[which].trtype, .traddr = fake[which].traddr}};

	return run(&call);
}

static inline int
act(enum what what, const char *name)
{
	struct call call = {.what = what, .name = name};

	return run(&call);
}

static inline struct bdev *
find(const char *name)
{
	struct bdev *bdev;

	thread_set_current(rig_app);
	bdev = bdev_by_name(name);
	thread_set_current(NULL);
	return bdev;
}

static inline const struct bdev_info *
info_of(const char *name)
{
	struct bdev *bdev = find(name);

	assert_non_null(bdev);
	return bdev_get_info(bdev);
}

static inline int
setup(void **state)
{
	skipped_ns = 0;
	fake_reset_all();
	return rig_setup(state);
}

static inline int
teardown(void **state)
{
	struct call call = {.what = FINI};

	run(&call);
	for (int i = 0; i < FAKE_CTRLRS; i++)
		assert_false(fake[i].attached);
	fake_free_all();
	return rig_teardown(state);
}

/* JSON by its text. */
static inline void
assert_json(json_t *value, const char *text)
{
	char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

	assert_string_equal(dump, text);
	free(dump);
	json_decref(value);
}

/* Whether a client was told of it since id. */
static inline bool
was_notified(uint64_t id, enum notify_type type, const char *words)
{
	struct notification notification;

	for (; notify_next(id, &notification); id = notification.id + 1) {
		if (notification.type == type && strstr(notification.ctx, words) != NULL)
			return true;
	}
	return false;
}

static inline uint64_t
next_notification(void)
{
	struct notification notification = {.id = 0};
	uint64_t id = 1;

	for (; notify_next(id, &notification); id = notification.id + 1)
		continue;
	return id;
}

struct null_call {
	const char *name;
	const char *uuid;
	int rc;
};

static inline void
create_null(void *arg)
{
	struct null_call *call = arg;
	struct bdev_null_opts opts = {
		.name = call->name, .uuid = call->uuid, .num_blocks = 8, .block_size = 512};
	struct bdev *bdev;

	call->rc = bdev_null_create(&opts, &bdev, &rig_err);
}

static inline void
make_null(const char *name, const char *uuid)
{
	struct null_call call = {.name = name, .uuid = uuid};

	rig_run(create_null, &call);
	assert_int_equal(call.rc, 0);
}

/* ---- a disk that is open ---- */

static struct bdev_desc *desc;
static struct bdev_channel *channel;
static struct rig_request *request;
static uint8_t data[LINE * 4], back[LINE * 4];

static inline void
open_disk(const char *name)
{
	desc = rig_open(name, true);
	channel = rig_channel(desc, rig_io[0]);
	request = rig_request_new(find(name));
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
}

static inline void
close_disk(void)
{
	free(request);
	rig_channel_put(channel, rig_io[0]);
	rig_close(desc);
	rig_settle();
}

static inline int
transfer(uint8_t type, uint8_t flags, uint64_t offset, void *bytes, uint64_t length)
{
	rig_request_set(request, type, offset, bytes, length);
	request->rq.flags = flags;
	return rig_do(channel, rig_io[0], request);
}

static inline const struct nvme_command *
last_command(void)
{
	return &fake[0].log[fake[0].logged - 1];
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
