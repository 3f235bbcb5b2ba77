/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PERSISTENT RESERVE IN and OUT: what they mean is in reservation.c; here is what they do to LUNs,
 * to tasks in flight and to the state journal. In the unit's coroutine on the app thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "log.h"

static int (*commit)(void);

void
scsi_on_commit(int (*fn)(void))
{
	commit = fn;
}

/* ---- through restarts, and while there is no LUN ---- */

int
scsi_reservations_adopt(struct scsi_unit *unit)
{
	unit->reservations = malloc(sizeof(*unit->reservations));
	if (unit->reservations == NULL)
		return -ENOMEM;
	scsi_reservations_init(unit->reservations, commit != NULL);
	scsi_reservations_take(unit->name, unit->reservations);
	return 0;
}

void
scsi_reservations_park(struct scsi_unit *unit)
{
	if (unit->reservations->aptpl &&
	    scsi_reservations_keep(unit->name, unit->reservations) != 0)
		log_err("scsi %s: no memory to keep its reservations in", unit->name);
	free(unit->reservations);
	unit->reservations = NULL;
}

void
scsi_reservations_forget(void)
{
	scsi_reservations_drop_kept();
}

json_t *
scsi_reservations_json(void)
{
	json_t *all = json_object();
	struct scsi_unit *unit = NULL;
	int rc = all != NULL ? scsi_reservations_add_kept(all) : -ENOMEM;

	while (rc == 0 && (unit = scsi_unit_next(unit)) != NULL)
		rc = scsi_reservations_add(all, unit->name,
					   unit->changing != NULL ? unit->changing
								  : unit->reservations);
	if (rc == 0)
		return all;
	json_decref(all);
	return NULL;
}

int
scsi_reservations_restore(const char *bdev, const json_t *state, struct errmsg *err)
{
	struct scsi_reservations *reservations;
	int rc;

	if (strlen(bdev) > BDEV_NAME_MAX)
		return err_set(err, -EINVAL, "no block device has so long a name");
	if (scsi_unit_find(bdev) != NULL)
		return err_set(err, -EBUSY, "block device %s is a SCSI disk already", bdev);
	reservations = malloc(sizeof(*reservations));
	if (reservations == NULL)
		return err_set(err, -ENOMEM, "SCSI disk %s: no memory", bdev);
	scsi_reservations_init(reservations, commit != NULL);
	rc = scsi_reservations_from_json(reservations, state, err);
	if (rc == 0 && scsi_reservations_keep(bdev, reservations) != 0)
		rc = err_set(err, -ENOMEM, "SCSI disk %s: no memory", bdev);
	free(reservations);
	return rc;
}

/* ---- the commands ---- */

static bool
refuse(struct scsi_task *task, const struct scsi_reserve_result *result)
{
	if (result->status != SCSI_RESERVE_CONFLICT)
		return scsi_check_condition(task, &(struct scsi_sense){
							  .key = SCSI_KEY_ILLEGAL_REQUEST,
							  .code = result->code,
							  .has_field = result->field_valid,
							  .field_in_cdb = result->field_in_cdb,
							  .field = result->field,
							  .field_bit = result->field_bit,
						  });
	task->status = SCSI_RESERVATION_CONFLICT;
	return true;
}

bool
scsi_run_reserve_in(struct scsi_task *task)
{
	struct scsi_reserve_result *result = malloc(sizeof(*result));
	size_t length;

	task->buffer = malloc(SCSI_RESERVE_IN_MAX);
	if (result == NULL || task->buffer == NULL) {
		task->status = SCSI_BUSY;
	} else {
		length = scsi_reserve_in(task->channel->unit->reservations, task->cdb, task->buffer,
					 SCSI_RESERVE_IN_MAX, result);
		if (result->status == SCSI_RESERVE_GOOD)
			scsi_data_in(task, task->buffer, length, length);
		else
			refuse(task, result);
	}
	free(result);
	return true;
}

/*
 * Unit attentions, and the end of tasks. What they may do from now on is in force already, so that
 * none begins behind our back.
 */
static void
take_effect(struct scsi_task *task, const struct scsi_reserve_effect *effect)
{
	struct scsi_unit *unit = task->channel->unit;
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		const struct scsi_nexus_id *nexus = &lun->target->nexus;
		struct scsi_walk walk = {.lun = lun, .except = task};

		if (nexus->initiator != effect->nexus.initiator ||
		    nexus->target_port != effect->nexus.target_port)
			continue;
		if (effect->attention != SCSI_RESERVE_NO_ATTENTION)
			scsi_attention_set_code(lun, effect->attention);
		if (effect->abort)
			scsi_unit_abort(unit, &walk);
	}
}

/* False: it could not be made durable, and does not count. */
static bool
make_durable(struct scsi_unit *unit, struct scsi_reservations *changed)
{
	int rc;

	unit->changing = changed;
	rc = commit != NULL ? commit() : 0;
	unit->changing = NULL;
	if (rc != 0)
		log_err("scsi %s: reservations cannot be saved: %s", unit->name, strerror(-rc));
	return rc == 0;
}

static bool
reserve_out(struct scsi_task *task, struct scsi_reservations *changed,
	    struct scsi_reserve_result *result)
{
	struct scsi_unit *unit = task->channel->unit;
	uint32_t length = get_be32(task->cdb + 5);

	if (length > SCSI_LIST_MAX)
		return scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_PARAMETER_LIST_LENGTH);
	if (!scsi_take_data_out(task, length, 0))
		return true;
	*changed = *unit->reservations;
	scsi_reserve_out(changed, task->target->nexus, task->cdb, task->buffer, length, result);
	if (result->status != SCSI_RESERVE_GOOD)
		return refuse(task, result);
	if (result->save && !make_durable(unit, changed))
		return scsi_refuse(task, SCSI_KEY_HARDWARE_ERROR,
				   SCSI_CODE_INTERNAL_TARGET_FAILURE);
	*unit->reservations = *changed;
	if (result->changed)
		scsi_unit_update_conflicts(unit);
	for (uint32_t i = 0; i < result->effect_count; i++)
		take_effect(task, &result->effects[i]);
	return true;
}

bool
scsi_run_reserve_out(struct scsi_task *task)
{
	struct scsi_reserve_result *result = malloc(sizeof(*result));
	struct scsi_reservations *changed = malloc(sizeof(*changed));

	if (result == NULL || changed == NULL)
		task->status = SCSI_BUSY;
	else
		reserve_out(task, changed, result);
	free(changed);
	free(result);
	return true;
}
