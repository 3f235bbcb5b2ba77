/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Logical units: one for each block device that has LUNs, its channels, and the coroutine on the app
 * thread that does, one after another, all that changes it or needs it alone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "errmsg.h"
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
	LIST_INIT(&channel->held);
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

	if (atomic_load(&lun->unit->gone)) {
		errno = ENODEV;
		return NULL;
	}
	io = io_channel_get(lun->unit);
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

/* ---- the coroutine ---- */

void
scsi_unit_wake(struct scsi_unit *unit)
{
	struct completion *idle = unit->idle;

	unit->idle = NULL;
	if (idle != NULL)
		completion_signal(idle, 0);
}

void
scsi_unit_wait(struct scsi_unit *unit, const bool *flag)
{
	while (!*flag) {
		struct completion *idle = completion_create();

		if (idle == NULL) {
			coroutine_sleep(RETRY_US);
			continue;
		}
		unit->idle = idle;
		completion_wait(idle, WAIT_FOREVER);
		completion_put(idle);
	}
}

static void
order_arrived(void *arg)
{
	struct scsi_order *order = arg;
	struct scsi_unit *unit = order->unit;

	if (scsi_order_is_aborted(order)) {
		order->run(order);
		return;
	}
	TAILQ_INSERT_TAIL(&unit->orders, order, link);
	unit->has_order = true;
	scsi_unit_wake(unit);
}

void
scsi_order_send(struct scsi_unit *unit, struct scsi_order *order,
		void (*run)(struct scsi_order *order))
{
	order->origin = thread_current();
	order->unit = unit;
	order->run = run;
	thread_send(unit->app, &order->msg, order_arrived, order);
}

void
scsi_order_back(struct scsi_order *order, void (*fn)(void *arg), void *arg)
{
	thread_send(order->origin, &order->msg, fn, arg);
}

/* The last LUN is gone, and with it all channels soon. */
static void
on_unregistered(void *dev)
{
	struct scsi_unit *unit = dev;

	unit->closed = true;
	scsi_unit_wake(unit);
}

static void
unit_run(void *arg)
{
	struct scsi_unit *unit = arg;
	struct completion *ended;

	while (!TAILQ_EMPTY(&unit->luns)) {
		struct scsi_order *order = TAILQ_FIRST(&unit->orders);

		if (order == NULL) {
			unit->has_order = false;
			scsi_unit_wait(unit, &unit->has_order);
			continue;
		}
		TAILQ_REMOVE(&unit->orders, order, link);
		order->run(order);
	}
	TAILQ_REMOVE(&units, unit, registry_link);
	io_device_unregister(unit, on_unregistered);
	scsi_unit_wait(unit, &unit->closed);
	bdev_close(unit->desc);
	scsi_reservations_park(unit);
	ended = unit->ended;
	free(unit);
	completion_signal(ended, 0);
}

/* ---- walks ---- */

static void
visit(struct io_channel_iter *iter)
{
	struct scsi_channel *channel = io_channel_ctx(io_channel_iter_channel(iter));
	struct scsi_walk *walk = io_channel_iter_ctx(iter);
	struct scsi_task *task;

	if (walk->visit != NULL)
		walk->visit(walk, channel);
	if (walk->waits_for == NULL) {
		for_each_channel_continue(iter, 0);
		return;
	}
	LIST_FOREACH (task, &channel->in_flight, link) {
		if (walk->waits_for(walk, task)) {
			channel->walk = walk;
			channel->iter = iter;
			return;
		}
	}
	for_each_channel_continue(iter, 0);
}

static void
walk_done(void *ctx, int status)
{
	struct scsi_walk *walk = ctx;

	(void)status;
	walk->done = true;
	scsi_unit_wake(walk->unit);
}

void
scsi_unit_walk(struct scsi_unit *unit, struct scsi_walk *walk)
{
	walk->unit = unit;
	walk->done = false;
	while (for_each_channel(unit, visit, walk, walk_done) != 0)
		coroutine_sleep(RETRY_US);
	scsi_unit_wait(unit, &walk->done);
}

/* ---- aborting ---- */

static bool
is_meant(const struct scsi_walk *walk, const struct scsi_task *task)
{
	return task != walk->except && (walk->lun == NULL || task->lun == walk->lun) &&
	       (walk->target == NULL || task->target == walk->target) &&
	       (!walk->by_tag || task->tag == walk->tag);
}

static void
count_meant(struct scsi_walk *walk, struct scsi_channel *channel)
{
	struct scsi_task *task;

	LIST_FOREACH (task, &channel->in_flight, link)
		walk->found += is_meant(walk, task);
}

static void
mark_meant(struct scsi_walk *walk, struct scsi_channel *channel)
{
	struct scsi_task *task;

	LIST_FOREACH (task, &channel->in_flight, link) {
		if (!is_meant(walk, task))
			continue;
		walk->found++;
		if (walk->by != NULL && walk->by != task->target)
			scsi_attention_set(task->lun, SCSI_UA_COMMANDS_CLEARED);
		task->reset = walk->reset;
		atomic_store(&task->aborted, true);
	}
}

static bool
waits_for_aborted(const struct scsi_walk *walk, const struct scsi_task *task)
{
	return is_meant(walk, task) && atomic_load(&task->aborted);
}

uint32_t
scsi_unit_count(struct scsi_unit *unit, struct scsi_walk *walk)
{
	walk->visit = count_meant;
	walk->waits_for = NULL;
	scsi_unit_walk(unit, walk);
	return walk->found;
}

/*
 * Tasks that stand in the coroutine's own line would wait for it, and it for them. So those that
 * are marked go back first. Ones whose message is still under way find the mark when they arrive.
 */
static void
send_back_aborted(struct scsi_unit *unit)
{
	struct scsi_order *order = TAILQ_FIRST(&unit->orders);

	while (order != NULL) {
		struct scsi_order *next = TAILQ_NEXT(order, link);

		if (scsi_order_is_aborted(order)) {
			TAILQ_REMOVE(&unit->orders, order, link);
			order->run(order);
		}
		order = next;
	}
}

uint32_t
scsi_unit_abort(struct scsi_unit *unit, struct scsi_walk *walk)
{
	walk->visit = mark_meant;
	walk->waits_for = NULL;
	scsi_unit_walk(unit, walk);
	send_back_aborted(unit);
	walk->visit = NULL;
	walk->waits_for = waits_for_aborted;
	scsi_unit_walk(unit, walk);
	return walk->found;
}

/* ---- making and ending; app thread ---- */

static void
on_bdev_event(void *ctx, enum bdev_event event)
{
	static const enum scsi_lun_event lun_events[] = {
		[BDEV_EVENT_REMOVE] = SCSI_LUN_GONE,
		[BDEV_EVENT_RESIZE] = SCSI_LUN_CAPACITY_CHANGED,
	};
	struct scsi_unit *unit = ctx;
	struct scsi_lun *lun;

	if (event == BDEV_EVENT_MEDIA_MANAGEMENT)
		return;
	if (event == BDEV_EVENT_RESIZE) {
		atomic_store(&unit->blocks, bdev_get_info(bdev_desc_bdev(unit->desc))->num_blocks);
		scsi_unit_attention(unit, NULL, SCSI_UA_CAPACITY_CHANGED);
	} else {
		log_warn("scsi %s: block device is gone: commands fail", unit->name);
		atomic_store(&unit->gone, true);
		scsi_unit_alert(unit, SCSI_ALERT_GONE, true);
	}
	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		if (lun->event != NULL)
			lun->event(lun->ctx, lun_events[event]);
	}
}

static int
open_bdev(struct scsi_unit *unit, const char *bdev, struct errmsg *err)
{
	char user[BDEV_NAME_MAX + sizeof("SCSI disk ")];
	int rc;

	snprintf(user, sizeof(user), "SCSI disk %s", bdev);
	rc = bdev_open(bdev, true, user, on_bdev_event, unit, &unit->desc, err);
	if (rc != -EROFS)
		return rc;
	unit->read_only = true;
	return bdev_open(bdev, false, user, on_bdev_event, unit, &unit->desc, err);
}

/* Everything of the unit that comes from the block device, which is open. */
static int
adopt_bdev(struct scsi_unit *unit, struct errmsg *err)
{
	struct bdev *bdev = bdev_desc_bdev(unit->desc);

	if (bdev_request_size(bdev) > SCSI_REQUEST_ROOM)
		return err_set(err, -ENOTSUP,
			       "block device %s cannot be a SCSI disk: its requests need %zu bytes",
			       unit->name, bdev_request_size(bdev));
	unit->info = *bdev_get_info(bdev);
	unit->block_size = unit->info.block_size;
	unit->block_shift = (uint8_t)__builtin_ctz(unit->block_size);
	unit->can_discard = unit->info.io_types & 1u << BDEV_DISCARD;
	unit->can_zero = unit->info.io_types & 1u << BDEV_WRITE_ZEROES;
	unit->lacks = (unit->can_discard ? 0 : SCSI_CMD_DISCARD) |
		      (scsi_atomic_blocks(unit) != 0 ? 0 : SCSI_CMD_ATOMIC);
	atomic_init(&unit->blocks, unit->info.num_blocks);
	scsi_modes_init(unit);
	return 0;
}

static void
unit_free(struct scsi_unit *unit)
{
	if (unit->desc != NULL)
		bdev_close(unit->desc);
	free(unit->reservations);
	free(unit);
}

static int
unit_start(struct scsi_unit *unit, struct errmsg *err)
{
	int rc = io_device_register(unit, channel_create, channel_destroy,
				    sizeof(struct scsi_channel), unit->name);

	if (rc != 0)
		return err_set(err, rc, "SCSI disk %s: no memory", unit->name);
	rc = coroutine_start(unit->app, "scsi_unit", unit_run, unit);
	if (rc != 0) {
		io_device_unregister(unit, NULL);
		return err_set(err, rc, "SCSI disk %s: no memory", unit->name);
	}
	TAILQ_INSERT_TAIL(&units, unit, registry_link);
	return 0;
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
	TAILQ_INIT(&unit->orders);
	rc = open_bdev(unit, bdev, err);
	if (rc == 0)
		rc = adopt_bdev(unit, err);
	if (rc == 0 && scsi_reservations_adopt(unit) != 0)
		rc = err_set(err, -ENOMEM, "SCSI disk %s: no memory", bdev);
	if (rc == 0)
		rc = unit_start(unit, err);
	if (rc != 0) {
		unit_free(unit);
		return rc;
	}
	*created = unit;
	return 0;
}

struct scsi_unit *
scsi_unit_find(const char *bdev)
{
	struct scsi_unit *unit;

	TAILQ_FOREACH (unit, &units, registry_link) {
		if (strcmp(unit->name, bdev) == 0)
			return unit;
	}
	return NULL;
}

struct scsi_unit *
scsi_unit_next(struct scsi_unit *unit)
{
	return unit == NULL ? TAILQ_FIRST(&units) : TAILQ_NEXT(unit, registry_link);
}

int
scsi_unit_attach(const char *bdev, struct scsi_lun *lun, struct errmsg *err)
{
	struct scsi_unit *unit = scsi_unit_find(bdev);
	int rc;

	if (unit != NULL && atomic_load(&unit->gone))
		return err_set(err, -EBUSY, "block device %s is being removed", bdev);
	if (unit == NULL) {
		rc = unit_create(bdev, &unit, err);
		if (rc != 0)
			return rc;
	}
	lun->unit = unit;
	TAILQ_INSERT_TAIL(&unit->luns, lun, unit_link);
	scsi_unit_update_conflicts(unit);
	scsi_unit_alert(unit, SCSI_ALERT_PROTECTED, atomic_load(&unit->write_protected));
	return 0;
}

void
scsi_unit_attention(struct scsi_unit *unit, const struct scsi_lun *except,
		    enum scsi_attention attention)
{
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		if (lun != except)
			scsi_attention_set(lun, attention);
	}
}

static void
set_alert(struct scsi_lun *lun, uint32_t alert, bool on)
{
	if (on)
		atomic_fetch_or(&lun->alerts, alert);
	else
		atomic_fetch_and(&lun->alerts, ~alert);
}

void
scsi_unit_alert(struct scsi_unit *unit, uint32_t alert, bool on)
{
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link)
		set_alert(lun, alert, on);
}

void
scsi_unit_update_conflicts(struct scsi_unit *unit)
{
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		uint8_t conflicts =
			scsi_reservation_view(unit->reservations, lun->target->nexus).conflicts;

		atomic_store(&lun->conflicts, conflicts);
		set_alert(lun, SCSI_ALERT_CONFLICTS, conflicts != 0);
	}
}
