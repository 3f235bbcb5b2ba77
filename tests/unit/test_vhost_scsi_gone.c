/* SPDX-License-Identifier: BSD-3-Clause */
/* Block devices under a virtio-scsi controller that go away: with requests in flight, without memory. */
/* links: vhost scsi reservation virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=coroutine_start */
#include <errno.h>
#include <limits.h>

#include "bdev_fake.h"
#include "ticks.h"
#include "vhost/session.h"
#include "vhost/vhost_scsi.h"
#include "vhost_controller_fake.h"

/* ---- the controller has no threads ---- */

struct vhost_controller *
vhost_controller_find(const char *name, int *rc, struct errmsg *err)
{
	(void)name;
	(void)rc;
	(void)err;
	return &controller;
}

int
vhost_controller_listen(struct vhost_controller *listening, struct errmsg *err)
{
	(void)listening;
	(void)err;
	return 0;
}

/* It has no queues either. */
const char *
vhost_session_name(const struct vhost_session *session)
{
	(void)session;
	return "";
}

void
vhost_session_queue_stopped(void *arg)
{
	(void)arg;
}

/* ---- no memory for the removal of LUNs, so many times ---- */

static unsigned int failures_left;

int __real_coroutine_start(struct thread *thread, const char *name, void (*fn)(void *arg),
			   void *arg);
int __wrap_coroutine_start(struct thread *thread, const char *name, void (*fn)(void *arg),
			   void *arg);

int
__wrap_coroutine_start(struct thread *thread, const char *name, void (*fn)(void *arg), void *arg)
{
	if (strcmp(name, "vhost_scsi_remove") == 0 && failures_left > 0) {
		failures_left--;
		return -ENOMEM;
	}
	return __real_coroutine_start(thread, name, fn, arg);
}

/* ---- a controller with two LUNs on the disk, each of a target of its own ---- */

static int rc;

static void
start_run(void *arg)
{
	const struct vhost_scsi_opts opts = {.name = "scsi", .delay = true};
	const char *const bdevs[] = {"disk"};

	(void)arg;
	rc = vhost_scsi_create(&opts, &rig_err);
	for (int number = 0; number < 2 && rc == number; number++)
		rc = vhost_scsi_add_target("scsi", number, NULL, bdevs, 1, &rig_err) + 1;
}

static void
stop_run(void *arg)
{
	(void)arg;
	controller.ops->destroy(controller.device);
}

static void
remove_run(void *arg)
{
	bdev_remove(fake.bdev);
	*(bool *)arg = true;
}

static int
setup(void **state)
{
	struct bdev_info info;

	fake_setup(state);
	info = fake_info("disk");
	assert_int_equal(fake_register(&info), 0);
	rig_run(start_run, NULL);
	assert_int_equal(rc, 2);
	return 0;
}

/* The removal of the disk waits for its LUNs, which go as soon as there is memory. */
static void
test_later(void **state)
{
	bool removed = false;

	(void)state;
	failures_left = 5;
	assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &removed), 0);
	rig_wait(&removed);
	assert_int_equal(failures_left, 0);
	assert_int_equal(fake.destroyed, 1);
	rig_run(stop_run, NULL);
}

/* The controller goes before there is memory, and its LUNs with it. */
static void
test_end(void **state)
{
	bool removed = false;

	(void)state;
	failures_left = UINT_MAX;
	assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &removed), 0);
	for (int i = 0; i < 10; i++)
		rig_poll();
	assert_false(removed);
	rig_run(stop_run, NULL);
	rig_wait(&removed);
	failures_left = 0;
	rig_settle();
}

/* ---- a thread of the controller's, with something in flight ---- */

static struct vhost_thread *const main_thread = &controller.threads.threads[0];

static void
start_thread(void)
{
	main_thread->controller = &controller;
	main_thread->thread = rig_io[0];
	thread_set_current(rig_io[0]);
	assert_int_equal(controller.ops->channel_get(controller.device, "t", &main_thread->channel),
			 0);
	thread_set_current(NULL);
	controller.threads.count = 1;
}

static void
stop_thread(void)
{
	controller.threads.count = 0;
	thread_set_current(rig_io[0]);
	controller.ops->channel_put(controller.device, main_thread->channel);
	thread_set_current(NULL);
}

static void
pass(void)
{
	ticks_advance_us(1000);
	rig_poll();
}

/* Workers take part, so real time has to pass, too. */
#define PASS_UNTIL(condition) WAIT_UNTIL((pass(), (condition)))

static void
add_run(void *arg)
{
	const char *const bdevs[] = {"none"};

	*(int *)arg = vhost_scsi_add_target("scsi", 7, NULL, bdevs, 1, &rig_err);
}

/* Guests hear of it at once, and others may change targets, however long a request takes. */
static void
test_in_flight(void **state)
{
	struct vhost_scsi *scsi = controller.device;
	struct vhost_scsi_channel *channel;
	struct vhost_scsi_path *path;
	bool removed = false;
	int added = 0;

	(void)state;
	start_thread();
	channel = main_thread->channel;
	path = &channel->targets[0]->luns[0];
	path->in_flight = 1;
	scsi->event_count = 0;
	atomic_store(&scsi->negotiated, UINT64_MAX);
	assert_int_equal(coroutine_start(rig_app, "remove", remove_run, &removed), 0);
	PASS_UNTIL(scsi->event_count == 2); /* for each LUN one */
	assert_false(removed);
	assert_int_equal(scsi->events[0].event, VIRTIO_SCSI_T_TRANSPORT_RESET);
	assert_int_equal(scsi->events[0].reason, VIRTIO_SCSI_EVT_RESET_REMOVED);
	assert_null(path->lun);
	assert_int_equal(coroutine_start(rig_app, "add", add_run, &added), 0);
	PASS_UNTIL(added == -ENODEV);
	assert_false(removed);
	path->in_flight = 0;
	PASS_UNTIL(removed);
	assert_int_equal(scsi->event_count, 2);
	stop_thread();
	rig_run(stop_run, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_later, setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_end, setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_in_flight, setup, fake_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
