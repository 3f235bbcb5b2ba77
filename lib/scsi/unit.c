/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Logical units: one for each block device that has LUNs, its channels, and the coroutine on the app
 * thread that does, one after another, all that changes it or needs it alone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "log.h"

#define RETRY_US 1000

static TAILQ_HEAD(, scsi_unit) units = TAILQ_HEAD_INITIALIZER(units);

/* ---- channels; any thread ---- */

static int
channel_create(void *dev, void *channel_ctx)
{
	struct scsi_channel *channel = channel_ctx;

	channel->unit = dev;
	channel->thread = thread_current();
	LIST_INIT(&channel->in_flight);
	LIST_INIT(&channel->walks);
	channel->bdev = bdev_channel_get(channel->unit->desc);
	if (channel->bdev == NULL)
		return -errno;
	bdev_channel_set_label(channel->bdev, "scsi");
	return 0;
}

static void
channel_destroy(void *dev, void *channel_ctx)
{
	struct scsi_channel *channel = channel_ctx;

	(void)dev;
	bdev_channel_put(channel->bdev);
}

struct scsi_channel *
scsi_channel_get(struct scsi_lun *lun)
{
	struct scsi_channel *channel;
	struct io_channel *io;

	errno = ENODEV;
	io = load(lun->alerts) & SCSI_ALERT_GONE ? NULL : io_channel_get(lun->unit);
	if (io == NULL)
		return NULL;
	channel = io_channel_ctx(io);
	channel->io = io;
	return channel;
}

void
scsi_channel_put(struct scsi_channel *channel)
{
	io_channel_put(channel->io);
}

void
scsi_channel_flush(struct scsi_channel *channel)
{
	bdev_flush_submissions(channel->bdev);
}

bool
scsi_channel_release_held(struct scsi_channel *channel)
{
	return bdev_release_held(channel->bdev);
}

/* ---- the coroutine ---- */

void
scsi_unit_wake(struct scsi_unit *unit)
{
	struct completion *idle = unit->idle;

	unit->idle = NULL;
	if (idle != NULL)
		completion_signal(idle, 0);
}

struct completion *
scsi_completion_create(void)
{
	struct completion *completion;

	while ((completion = completion_create()) == NULL)
		coroutine_sleep(RETRY_US);
	return completion;
}

void
scsi_unit_wait(struct scsi_unit *unit, const bool *flag)
{
	while (!*flag) {
		struct completion *idle = unit->idle = scsi_completion_create();

		if (*flag) /* that may have waited, too */
			scsi_unit_wake(unit);
		completion_wait(idle, WAIT_FOREVER);
		completion_put(idle);
	}
}

void
scsi_unit_line_up(void *arg)
{
	struct scsi_task *task = arg;
	struct scsi_unit *unit = task->lun->unit;

	if (load(task->aborted)) {
		scsi_task_run(task);
		return;
	}
	TAILQ_INSERT_TAIL(&unit->line, task, line_link);
	unit->has_work = true;
	scsi_unit_wake(unit);
}

/* With the last channel. */
static void
on_unregistered(void *dev)
{
	struct scsi_unit *unit = dev;
	struct completion *ended = unit->ended;

	bdev_close(unit->desc);
	free(unit);
	completion_signal(ended, 0);
}

static void
unit_run(void *arg)
{
	struct scsi_unit *unit = arg;

	while (!TAILQ_EMPTY(&unit->luns)) {
		struct scsi_task *task = TAILQ_FIRST(&unit->line);
		struct scsi_walk *reset = LIST_FIRST(&unit->resets);

		unit->has_work = task != NULL || reset != NULL;
		if (reset != NULL) {
			LIST_REMOVE(reset, link);
			scsi_kept_reset_modes(unit->kept);
			scsi_modes_apply(unit);
			reset->over(reset);
		} else if (task != NULL) {
			TAILQ_REMOVE(&unit->line, task, line_link);
			scsi_task_run(task);
		}
		scsi_unit_wait(unit, &unit->has_work);
	}
	io_device_unregister(unit, on_unregistered);
}

void
scsi_unit_reset_modes(struct scsi_walk *walk)
{
	LIST_INSERT_HEAD(&walk->unit->resets, walk, link);
	walk->unit->has_work = true;
	scsi_unit_wake(walk->unit);
}

void
scsi_unit_detach(struct scsi_lun *lun)
{
	struct scsi_unit *unit = lun->unit;
	struct completion *ended;

	TAILQ_REMOVE(&unit->luns, lun, unit_link);
	if (!TAILQ_EMPTY(&unit->luns))
		return;
	/* From here on the disk's next LUN makes another unit, which has what is kept then. */
	TAILQ_REMOVE(&units, unit, registry_link);
	scsi_kept_close(unit->kept);
	ended = unit->ended = scsi_completion_create();
	unit->has_work = true;
	scsi_unit_wake(unit);
	completion_wait(ended, WAIT_FOREVER);
	completion_put(ended);
}

/* ---- finding and aborting tasks ---- */

static bool
is_meant(const struct scsi_walk *walk, const struct scsi_task *task)
{
	return task != walk->except && (walk->lun == NULL || task->lun == walk->lun) &&
	       (walk->nexus == NULL || scsi_nexus_is_same(task->target->nexus, *walk->nexus)) &&
	       (!walk->by_tag || task->tag == walk->tag);
}

static bool
is_aborted(struct bdev_request *rq, void *ctx)
{
	(void)ctx;
	return load(scsi_task_of_request(rq)->aborted);
}

/* What waits here, and not for a device, is over at once. */
static void
find_meant(struct scsi_walk *walk, struct scsi_channel *channel)
{
	struct scsi_task *task;

	LIST_FOREACH (task, &channel->in_flight, link) {
		if (!is_meant(walk, task))
			continue;
		walk->found++;
		if (!walk->aborts || load(task->aborted))
			continue;
		if (walk->by != NULL && walk->by != task->target)
			scsi_lun_alert(task->lun, 1u << SCSI_UA_COMMANDS_CLEARED, 0);
		task->reset = walk->resets;
		atomic_store(&task->aborted, true);
	}
	if (walk->aborts)
		bdev_abort_held(channel->bdev, is_aborted, NULL);
}

static bool
waits_for_aborted(const struct scsi_walk *walk, const struct scsi_task *task)
{
	return is_meant(walk, task) && atomic_load(&task->aborted);
}

/* Their turn may be far, or behind who waits for them. Who is on the way finds the mark there. */
static void
send_back_aborted(struct scsi_unit *unit)
{
	struct scsi_task *task = TAILQ_FIRST(&unit->line), *next;

	for (; task != NULL; task = next) {
		next = TAILQ_NEXT(task, line_link);
		if (load(task->aborted)) {
			TAILQ_REMOVE(&unit->line, task, line_link);
			scsi_task_run(task);
		}
	}
}

/* ---- walks ---- */

void
scsi_walks_continue(struct scsi_channel *channel)
{
	struct scsi_walk *walk = LIST_FIRST(&channel->walks), *next;

	for (; walk != NULL; walk = next) {
		struct scsi_task *task = LIST_FIRST(&channel->in_flight);

		next = LIST_NEXT(walk, link);
		while (task != NULL && !(walk->waits_for != NULL && walk->waits_for(walk, task)))
			task = LIST_NEXT(task, link);
		if (task != NULL)
			continue;
		LIST_REMOVE(walk, link);
		for_each_channel_continue(walk->iter, 0);
	}
}

static void
visit(struct io_channel_iter *iter)
{
	struct scsi_channel *channel = io_channel_ctx(io_channel_iter_channel(iter));
	struct scsi_walk *walk = io_channel_iter_ctx(iter);

	if (walk->waits_for == NULL)
		find_meant(walk, channel);
	walk->iter = iter;
	LIST_INSERT_HEAD(&channel->walks, walk, link);
	scsi_walks_continue(channel);
}

static void start_walk(void *arg);

static void
visited(void *ctx, int status)
{
	struct scsi_walk *walk = ctx;

	(void)status;
	if (walk->waits_for != NULL || !walk->aborts) {
		walk->over(walk);
		return;
	}
	send_back_aborted(walk->unit);
	walk->waits_for = waits_for_aborted;
	start_walk(walk);
}

/* Until there is memory for it. */
static void
start_walk(void *arg)
{
	struct scsi_walk *walk = arg;

	if (for_each_channel(walk->unit, visit, walk, visited) != 0)
		thread_send(walk->unit->app, &walk->msg, start_walk, walk);
}

void
scsi_unit_find_tasks(struct scsi_unit *unit, struct scsi_walk *walk)
{
	walk->unit = unit;
	start_walk(walk);
}

void
scsi_walk_done(struct scsi_walk *walk)
{
	walk->done = true;
	scsi_unit_wake(walk->unit);
}

void
scsi_unit_walk(struct scsi_unit *unit, struct scsi_walk *walk)
{
	walk->unit = unit;
	walk->over = scsi_walk_done;
	start_walk(walk);
	scsi_unit_wait(unit, &walk->done);
}

/* ---- making and ending; app thread ---- */

static void
on_bdev_event(void *ctx, enum bdev_event event)
{
	bool gone = event == BDEV_EVENT_REMOVE;
	struct scsi_unit *unit = ctx;
	struct scsi_lun *lun;

	if (event == BDEV_EVENT_MEDIA_MANAGEMENT)
		return;
	if (gone)
		log_warn("scsi %s: block device is gone: commands fail", unit->name);
	else
		atomic_store(&unit->blocks, bdev_get_info(bdev_desc_bdev(unit->desc))->num_blocks);
	scsi_unit_alert(unit, NULL, gone ? SCSI_ALERT_GONE : 1u << SCSI_UA_CAPACITY_CHANGED, 0);
	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		if (lun->event != NULL)
			lun->event(lun->ctx, gone ? SCSI_LUN_GONE : SCSI_LUN_CAPACITY_CHANGED);
	}
}

/* And all of the unit that comes from the block device. */
static int
open_bdev(struct scsi_unit *unit, struct errmsg *err)
{
	char user[BDEV_NAME_MAX + sizeof("SCSI disk ")];
	struct bdev *bdev;
	uint32_t compare;
	int rc;

	snprintf(user, sizeof(user), "SCSI disk %s", unit->name);
	rc = bdev_open(unit->name, BDEV_WRITES_ALONE, user, on_bdev_event, unit, &unit->desc, err);
	unit->read_only = rc == -EROFS;
	if (unit->read_only)
		rc = bdev_open(unit->name, BDEV_READS, user, on_bdev_event, unit, &unit->desc, err);
	if (rc != 0)
		return rc;
	bdev = bdev_desc_bdev(unit->desc);
	if (bdev_request_size(bdev) > SCSI_REQUEST_ROOM)
		return err_set(err, -ENOTSUP,
			       "block device %s cannot be a SCSI disk: its requests need %zu bytes",
			       unit->name, bdev_request_size(bdev));
	unit->info = *bdev_get_info(bdev);
	unit->block_shift = (uint8_t)__builtin_ctz(unit->info.block_size);
	compare = SCSI_COMPARE_MAX_BYTES >> unit->block_shift;
	unit->can_discard = unit->info.io_types & 1u << BDEV_DISCARD;
	unit->can_zero = unit->info.io_types & 1u << BDEV_WRITE_ZEROES;
	unit->compare_blocks = (uint8_t)(compare < UINT8_MAX ? compare : UINT8_MAX);
	unit->atomic_blocks = unit->info.atomic_write_bytes >> unit->block_shift;
	unit->lacks = (unit->can_discard ? 0 : SCSI_CMD_DISCARD) |
		      (unit->atomic_blocks != 0 ? 0 : SCSI_CMD_ATOMIC);
	atomic_init(&unit->blocks, unit->info.num_blocks);
	return 0;
}

static int
unit_start(struct scsi_unit *unit, struct errmsg *err)
{
	int rc = -ENOMEM;

	unit->kept = scsi_kept_open(unit->info.uuid, unit->name);
	if (unit->kept != NULL)
		rc = io_device_register(unit, channel_create, channel_destroy,
					sizeof(struct scsi_channel), unit->name);
	if (rc == 0) {
		scsi_modes_apply(unit);
		rc = coroutine_start(unit->app, "scsi_unit", unit_run, unit);
		if (rc == 0)
			return 0;
		io_device_unregister(unit, NULL);
	}
	return err_set(err, rc, "SCSI disk %s: no memory", unit->name);
}

static int
unit_create(const char *bdev, struct scsi_unit **created, struct errmsg *err)
{
	struct scsi_unit *unit = aligned_alloc(64, (sizeof(*unit) + 63) & ~(size_t)63);
	int rc;

	if (unit == NULL)
		return err_set(err, -ENOMEM, "SCSI disk %s: no memory", bdev);
	memset(unit, 0, sizeof(*unit));
	snprintf(unit->name, sizeof(unit->name), "%s", bdev);
	unit->app = thread_current();
	TAILQ_INIT(&unit->luns);
	TAILQ_INIT(&unit->line);
	LIST_INIT(&unit->resets);
	rc = open_bdev(unit, err);
	if (rc == 0)
		rc = unit_start(unit, err);
	if (rc == 0) {
		TAILQ_INSERT_TAIL(&units, unit, registry_link);
		*created = unit;
		return 0;
	}
	if (unit->desc != NULL)
		bdev_close(unit->desc);
	scsi_kept_close(unit->kept);
	free(unit);
	return rc;
}

int
scsi_unit_attach(const char *name, struct scsi_lun *lun, struct errmsg *err)
{
	/* NULL also while it is being removed; opening it says so. */
	const struct bdev *bdev = bdev_by_name(name);
	struct scsi_unit *unit = TAILQ_FIRST(&units);
	int rc = 0;

	while (unit != NULL && bdev_desc_bdev(unit->desc) != bdev)
		unit = TAILQ_NEXT(unit, registry_link);
	if (unit == NULL)
		rc = unit_create(bdev != NULL ? bdev_get_info(bdev)->name : name, &unit, err);
	if (rc != 0)
		return rc;
	lun->unit = unit;
	TAILQ_INSERT_TAIL(&unit->luns, lun, unit_link);
	scsi_unit_update_conflicts(unit);
	scsi_lun_alert(lun, unit->write_protected ? SCSI_ALERT_PROTECTED : 0, 0);
	scsi_lun_alert(lun, unit->kept->power_lost ? 1u << SCSI_UA_POWER_ON : 0, 0);
	return 0;
}

void
scsi_unit_alert(struct scsi_unit *unit, const struct scsi_lun *except, uint32_t set, uint32_t clear)
{
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		if (lun != except)
			scsi_lun_alert(lun, set, clear);
	}
}

void
scsi_unit_update_conflicts(struct scsi_unit *unit)
{
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		uint8_t conflicts =
			scsi_reservation_view(&unit->kept->reservations, lun->target->nexus)
				.conflicts;

		atomic_store(&lun->conflicts, conflicts);
		scsi_lun_alert(lun, conflicts != 0 ? SCSI_ALERT_CONFLICTS : 0,
			       conflicts != 0 ? 0 : SCSI_ALERT_CONFLICTS);
	}
}
