/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Targets and their LUNs, added and removed while guests run. App thread, in coroutines.
 *
 * A LUN is there for guests between two visits of the controller's threads: after the first each
 * thread has a channel to it; in the second each lets go of it, when its requests are done. Threads
 * that come meanwhile go by what is shown.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller.h"
#include "log.h"
#include "vhost_scsi.h"

#define STEP_US 500

/* ---- what events the LUNs tell of ---- */

/*
 * virtio 1.2 §5.6.6.3.2: additional sense code and qualifier of CAPACITY DATA HAS CHANGED.
 */
#define CAPACITY_CHANGED (0x2a | 0x09 << 8)

static void remove_gone(void *arg);

/* Until there is memory for it. */
static void
start_removal(void *arg)
{
	struct vhost_scsi *scsi = arg;
	int rc = coroutine_start(scsi->app, "vhost_scsi_remove", remove_gone, scsi);

	scsi->removal_starts = rc == -ENOMEM;
	if (scsi->removal_starts)
		thread_send(scsi->app, &scsi->removal, start_removal, scsi);
	else if (rc != 0)
		vhost_scsi_put(scsi);
}

static void
on_lun_event(void *ctx, enum scsi_lun_event event)
{
	struct vhost_scsi_lun *lun = ctx;
	struct vhost_scsi *scsi = lun->target->scsi;

	if (event == SCSI_LUN_CAPACITY_CHANGED) {
		vhost_scsi_event_send(scsi, lun, VIRTIO_SCSI_T_PARAM_CHANGE, CAPACITY_CHANGED);
		return;
	}
	log_warn("vhost %s: target %u: LUN %u: block device %s is gone", scsi->name,
		 lun->target->number, lun->number, lun->bdev_name);
	lun->gone = true;
	if (lun->disk != NULL)
		vhost_scsi_memory_set_gone(lun->disk);
	if (scsi->removal_starts)
		return; /* it finds this one, too */
	scsi->refs++;
	start_removal(scsi);
}

/* ---- visiting the threads ---- */

/* -ESHUTDOWN: the controller is being deleted, and its threads look after themselves. */
static int
visit(struct vhost_scsi *scsi, int (*fn)(struct vhost_thread *thread, void *arg), void *arg)
{
	struct vhost_controller *controller = vhost_controller_of_device(scsi);

	return controller != NULL ? vhost_threads_call(controller, fn, arg) : -ESHUTDOWN;
}

/* Until nothing is in flight there any more. 0, -ETIMEDOUT or -ESHUTDOWN. */
static int
drain(struct vhost_scsi *scsi, int (*fn)(struct vhost_thread *thread, void *arg), void *arg)
{
	uint64_t waited_us = 0;
	int rc;

	while ((rc = visit(scsi, fn, arg)) == -EAGAIN) {
		if (waited_us >= VHOST_DRAIN_US)
			return -ETIMEDOUT;
		coroutine_sleep(STEP_US);
		waited_us += STEP_US;
	}
	return rc;
}

static void
show(struct vhost_scsi_target *target, bool shown)
{
	struct vhost_scsi *scsi = target->scsi;

	pthread_mutex_lock(&scsi->lock);
	scsi->shown[target->number] = shown ? target : NULL;
	pthread_mutex_unlock(&scsi->lock);
}

static void
send_all(struct vhost_scsi_target *target, uint32_t reason)
{
	for (uint32_t i = 0; i < target->lun_count; i++) {
		if (!target->luns[i].removed)
			vhost_scsi_event_send(target->scsi, &target->luns[i],
					      VIRTIO_SCSI_T_TRANSPORT_RESET, reason);
	}
}

/* ---- LUNs ---- */

/* No thread knows it any more. */
static void
remove_lun(struct vhost_scsi_lun *lun)
{
	struct vhost_scsi *scsi = lun->target->scsi;
	struct scsi_lun *removed = lun->lun;

	lun->removed = true;
	if (lun->disk != NULL)
		vhost_scsi_memory_remove(scsi->memory, lun->disk);
	lun->disk = NULL;
	pthread_mutex_lock(&scsi->lock);
	lun->lun = NULL;
	pthread_mutex_unlock(&scsi->lock);
	if (removed != NULL)
		scsi_lun_remove(removed);
}

/*
 * While the socket does not listen there is no driver, but there may have been one before a restart
 * of ours, which goes on and knows the LUN. One that begins finds the unit attentions of that.
 */
static int
add_lun(struct vhost_scsi_lun *lun, bool listening, struct errmsg *err)
{
	struct scsi_lun_opts opts = {
		.number = lun->number,
		.bdev = lun->bdev_name,
		.event = on_lun_event,
		.ctx = lun,
		.quiet = !listening,
	};
	int rc = scsi_lun_add(lun->target->target, &opts, &lun->lun, err);

	lun->removed = rc != 0;
	if (rc == 0)
		rc = vhost_scsi_memory_add(lun->target->scsi->memory, scsi_lun_desc(lun->lun),
					   &lun->disk, err);
	if (rc == 0 && lun->gone)
		vhost_scsi_memory_set_gone(lun->disk);
	return rc;
}

/* ---- targets ---- */

/*
 * No thread knows it any more. for_good: it is not to come back either, with what initiators have
 * made of its disks.
 */
static void
end_target(struct vhost_scsi_target *target, bool for_good)
{
	target->scsi->targets[target->number] = NULL;
	for (uint32_t i = 0; i < target->lun_count; i++) {
		remove_lun(&target->luns[i]);
		if (for_good)
			scsi_kept_release(target->luns[i].bdev_name);
	}
	if (target->target != NULL)
		scsi_target_destroy(target->target);
	free(target);
}

/* Of what is not shown any more. 0, or what drain() returns: then it is to be tried again. */
static int
withdraw(struct vhost_scsi_target *target, bool for_good)
{
	int rc = drain(target->scsi, vhost_scsi_paths_remove, target);

	if (rc == 0)
		end_target(target, for_good);
	return rc;
}

static struct vhost_scsi_target *
create_target(struct vhost_scsi *scsi, uint8_t number, const char *const *bdevs, uint32_t count,
	      struct errmsg *err)
{
	struct vhost_scsi_target *target =
		calloc(1, sizeof(*target) + count * sizeof(target->luns[0]));

	if (target != NULL)
		target->target = scsi_target_create(scsi->name, number + 1);
	if (target == NULL || target->target == NULL) {
		free(target);
		err_set(err, -ENOMEM, "vhost controller %s: no memory", scsi->name);
		return NULL;
	}
	target->scsi = scsi;
	target->number = number;
	target->lun_count = count;
	for (uint32_t i = 0; i < count; i++) {
		struct vhost_scsi_lun *lun = &target->luns[i];

		lun->target = target;
		lun->number = (uint16_t)i;
		lun->removed = true;
		snprintf(lun->bdev_name, sizeof(lun->bdev_name), "%s", bdevs[i]);
	}
	scsi->targets[number] = target;
	return target;
}

static int
start_target(struct vhost_scsi_target *target, struct errmsg *err)
{
	struct vhost_scsi *scsi = target->scsi;
	bool listening = vhost_controller_of_device(scsi)->listening;
	int rc = 0;

	for (uint32_t i = 0; i < target->lun_count && rc == 0; i++)
		rc = add_lun(&target->luns[i], listening, err);
	if (rc != 0)
		return rc;
	show(target, true);
	rc = visit(scsi, vhost_scsi_paths_add, target);
	if (rc == -ESHUTDOWN)
		return err_set(err, -EBUSY, "vhost controller %s: is being deleted", scsi->name);
	if (rc != 0)
		return err_set(
			err, rc,
			"vhost controller %s: target %u: a block device gives no channel: %s",
			scsi->name, target->number, strerror(-rc));
	send_all(target, VIRTIO_SCSI_EVT_RESET_RESCAN);
	log_notice("vhost %s: target %u is there, with %u LUNs", scsi->name, target->number,
		   target->lun_count);
	return 0;
}

static int
choose_number(const struct vhost_scsi *scsi, int number, const bool *reserved, struct errmsg *err)
{
	int free_number = 0;

	if (number < VHOST_SCSI_ANY_NUMBER || number > VHOST_SCSI_MAX_TARGET)
		return err_set(err, -EINVAL, "vhost controller %s: targets go from 0 to %d",
			       scsi->name, VHOST_SCSI_MAX_TARGET);
	if (number != VHOST_SCSI_ANY_NUMBER)
		return scsi->targets[number] == NULL
			       ? number
			       : err_set(err, -EEXIST,
					 "vhost controller %s: target %d: File exists", scsi->name,
					 number);
	while (free_number < VHOST_SCSI_TARGETS &&
	       (scsi->targets[free_number] != NULL || (reserved != NULL && reserved[free_number])))
		free_number++;
	return free_number < VHOST_SCSI_TARGETS
		       ? free_number
		       : err_set(err, -ENOSPC, "vhost controller %s: no target number is free",
				 scsi->name);
}

static int
add_target(struct vhost_scsi *scsi, int number, const bool *reserved, const char *const *bdevs,
	   uint32_t count, struct errmsg *err)
{
	struct vhost_scsi_target *target;
	int rc;

	number = choose_number(scsi, number, reserved, err);
	if (number < 0)
		return number;
	for (uint32_t i = 0; i < count; i++) {
		if (strlen(bdevs[i]) > BDEV_NAME_MAX)
			return err_set(err, -ENODEV, "block device %.64s...: No such device",
				       bdevs[i]);
	}
	target = create_target(scsi, (uint8_t)number, bdevs, count, err);
	if (target == NULL)
		return -ENOMEM;
	rc = start_target(target, err);
	if (rc == 0)
		return number;
	/* One that cannot be withdrawn now is the controller's to end. */
	target->removing = true;
	show(target, false);
	withdraw(target, false);
	return rc;
}

static int
remove_target(struct vhost_scsi *scsi, uint32_t number, struct errmsg *err)
{
	struct vhost_scsi_target *target =
		number <= VHOST_SCSI_MAX_TARGET ? scsi->targets[number] : NULL;
	int rc;

	if (target == NULL)
		return err_set(err, -ENODEV, "vhost controller %s: target %u: No such device",
			       scsi->name, number);
	if (!target->removing) {
		target->removing = true;
		show(target, false);
		visit(scsi, vhost_scsi_paths_remove, target);
		send_all(target, VIRTIO_SCSI_EVT_RESET_REMOVED);
	}
	rc = withdraw(target, true);
	if (rc == 0)
		log_notice("vhost %s: target %u is removed", scsi->name, number);
	else if (rc == -ESHUTDOWN)
		return err_set(err, -EBUSY, "vhost controller %s: is being deleted", scsi->name);
	else if (rc != 0)
		err_set(err, rc,
			"vhost controller %s: target %u: its block devices do not finish their "
			"requests; it takes nothing new, remove it again later",
			scsi->name, number);
	return rc;
}

/* ---- disks that go away ---- */

static bool
is_last_lun(const struct vhost_scsi_lun *lun)
{
	for (uint32_t i = 0; i < lun->target->lun_count; i++) {
		if (&lun->target->luns[i] != lun && !lun->target->luns[i].removed)
			return false;
	}
	return true;
}

/*
 * One step: nobody waits for the LUN's requests with the targets locked, and guests hear of it
 * whatever becomes of those. The target stays with what it was made of, for the journal: at the next
 * start the disk may be there. Without LUNs guests do not see it any more. Whether it is done.
 */
static bool
withdraw_lun(struct vhost_scsi_lun *lun)
{
	struct vhost_scsi_target *target = lun->target;
	bool last = is_last_lun(lun);
	int rc;

	if (last)
		show(target, false);
	rc = visit(target->scsi, vhost_scsi_path_remove, lun);
	if (rc == 0 && last)
		rc = visit(target->scsi, vhost_scsi_paths_remove, target);
	if (!lun->told)
		vhost_scsi_event_send(target->scsi, lun, VIRTIO_SCSI_T_TRANSPORT_RESET,
				      VIRTIO_SCSI_EVT_RESET_REMOVED);
	lun->told = true;
	if (rc == 0)
		remove_lun(lun);
	return rc == 0;
}

/* Whether one is left that could not be removed. */
static bool
withdraw_gone(struct vhost_scsi *scsi)
{
	bool left = false;

	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		struct vhost_scsi_target *target = scsi->targets[i];

		for (uint32_t j = 0; target != NULL && j < target->lun_count; j++) {
			struct vhost_scsi_lun *lun = &target->luns[j];

			if (lun->gone && !lun->removed)
				left |= !withdraw_lun(lun);
		}
	}
	return left;
}

static void
remove_gone(void *arg)
{
	struct vhost_scsi *scsi = arg;
	bool left = true;

	while (left && !scsi->ended) {
		coroutine_mutex_lock(&scsi->changing);
		left = !scsi->ended && withdraw_gone(scsi);
		coroutine_mutex_unlock(&scsi->changing);
		if (left && coroutine_sleep(STEP_US) != 0)
			break;
	}
	vhost_scsi_put(scsi);
}

/* ---- what is called from outside ---- */

void
vhost_scsi_power_on(struct vhost_scsi *scsi)
{
	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		if (scsi->targets[i] != NULL)
			scsi_target_reset(scsi->targets[i]->target);
	}
}

void
vhost_scsi_remove_all(struct vhost_scsi *scsi)
{
	coroutine_mutex_lock(&scsi->changing);
	scsi->ended = true;
	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		if (scsi->targets[i] != NULL)
			end_target(scsi->targets[i], true);
	}
	coroutine_mutex_unlock(&scsi->changing);
}

/* The SCSI controller of that name, counted and locked; NULL, and *rc. */
static struct vhost_scsi *
begin(const char *name, int *rc, struct errmsg *err)
{
	struct vhost_controller *controller = vhost_controller_find(name, rc, err);
	struct vhost_scsi *scsi;

	if (controller == NULL)
		return NULL;
	if (controller->ops != &vhost_scsi_ops) {
		*rc = err_set(err, -EINVAL, "vhost controller %s: is no SCSI controller", name);
		return NULL;
	}
	scsi = controller->device;
	scsi->refs++;
	coroutine_mutex_lock(&scsi->changing);
	if (vhost_controller_of_device(scsi) != NULL)
		return scsi;
	coroutine_mutex_unlock(&scsi->changing);
	vhost_scsi_put(scsi);
	*rc = err_set(err, -EBUSY, "vhost controller %s: is being deleted", name);
	return NULL;
}

static void
end(struct vhost_scsi *scsi)
{
	coroutine_mutex_unlock(&scsi->changing);
	vhost_scsi_put(scsi);
}

int
vhost_scsi_add_target(const char *name, int number, const bool *reserved, const char *const *bdevs,
		      uint32_t count, struct errmsg *err)
{
	struct vhost_scsi *scsi;
	int rc;

	if (count == 0 || count > VHOST_SCSI_MAX_LUNS)
		return err_set(err, -EINVAL,
			       "vhost controller %s: a target has 1 to %d LUNs, not %u", name,
			       VHOST_SCSI_MAX_LUNS, count);
	scsi = begin(name, &rc, err);
	if (scsi == NULL)
		return rc;
	rc = add_target(scsi, number, reserved, bdevs, count, err);
	end(scsi);
	return rc;
}

int
vhost_scsi_remove_target(const char *name, uint32_t number, struct errmsg *err)
{
	struct vhost_scsi *scsi;
	int rc;

	scsi = begin(name, &rc, err);
	if (scsi == NULL)
		return rc;
	rc = remove_target(scsi, number, err);
	end(scsi);
	return rc;
}

int
vhost_scsi_start(const char *name, struct errmsg *err)
{
	struct vhost_scsi *scsi;
	int rc;

	scsi = begin(name, &rc, err);
	if (scsi == NULL)
		return rc;
	rc = vhost_controller_listen(vhost_controller_of_device(scsi), err);
	end(scsi);
	return rc;
}

/* Guests are told of each disk whose size has changed, as always. */
int
vhost_scsi_resize(void *device, struct errmsg *err)
{
	struct vhost_scsi *scsi = device;
	int first = 0;

	scsi->refs++;
	coroutine_mutex_lock(&scsi->changing);
	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS && !scsi->ended; i++) {
		struct vhost_scsi_target *target = scsi->targets[i];

		for (uint32_t j = 0; target != NULL && j < target->lun_count; j++) {
			int rc = 0;

			if (!target->luns[j].removed && !target->luns[j].gone)
				rc = bdev_rescan(target->luns[j].bdev_name,
						 first == 0 ? err : NULL);
			if (first == 0)
				first = rc;
		}
	}
	end(scsi);
	return first;
}

/* ---- JSON ---- */

static json_t *
luns_json(const struct vhost_scsi_target *target)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < target->lun_count; i++) {
		const struct vhost_scsi_lun *lun = &target->luns[i];

		if (!lun->removed)
			json_array_append_new(array, json_pack("{s:i, s:s}", "id", lun->number,
							       "bdev_name", lun->bdev_name));
	}
	return array;
}

json_t *
vhost_scsi_describe(void *device)
{
	const struct vhost_scsi *scsi = device;
	json_t *array = json_array();

	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		char name[sizeof("Target 4294967295")];

		if (scsi->targets[i] == NULL)
			continue;
		snprintf(name, sizeof(name), "Target %u", i);
		json_array_append_new(array,
				      json_pack("{s:I, s:I, s:s, s:o}", "scsi_dev_num",
						(json_int_t)i, "id", (json_int_t)i, "target_name",
						name, "luns", luns_json(scsi->targets[i])));
	}
	return json_pack("{s:o}", "scsi", array);
}

/* One is a string, several are a list. */
static json_t *
bdevs_json(const struct vhost_scsi_target *target)
{
	json_t *array;

	if (target->lun_count == 1)
		return json_string(target->luns[0].bdev_name);
	array = json_array();
	for (uint32_t i = 0; i < target->lun_count; i++)
		json_array_append_new(array, json_string(target->luns[i].bdev_name));
	return array;
}

void
vhost_scsi_config_more(void *device, json_t *array)
{
	const struct vhost_scsi *scsi = device;
	const struct vhost_controller *controller = vhost_controller_of_device(scsi);

	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		const struct vhost_scsi_target *target = scsi->targets[i];

		if (target != NULL && !target->removing)
			json_array_append_new(array, json_pack("{s:s, s:{s:s, s:I, s:o}}", "method",
							       "vhost_scsi_controller_add_target",
							       "params", "ctrlr", scsi->name,
							       "scsi_target_num", (json_int_t)i,
							       "bdev_name", bdevs_json(target)));
	}
	if (controller == NULL || controller->listening)
		json_array_append_new(array, json_pack("{s:s, s:{s:s}}", "method",
						       "vhost_start_scsi_controller", "params",
						       "ctrlr", scsi->name));
}
