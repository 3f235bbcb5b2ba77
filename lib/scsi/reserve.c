/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PERSISTENT RESERVE IN and OUT: what they mean is in lib/reservation; here is what they do to
 * LUNs and to tasks in flight. In the unit's coroutine, whose stack has room for all that.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

static bool
refuse(struct scsi_task *task, const struct scsi_reserve_result *result)
{
	if (result->status != SCSI_RESERVE_CONFLICT)
		return scsi_check_condition(
			task, &(struct scsi_sense){.key = SCSI_KEY_ILLEGAL_REQUEST,
						   .code = result->code,
						   .has_field = result->field_valid,
						   .field_in_cdb = result->field_in_cdb,
						   .field = result->field,
						   .field_bit = result->field_bit});
	task->status = SCSI_RESERVATION_CONFLICT;
	return true;
}

bool
scsi_run_reserve_in(struct scsi_task *task)
{
	struct scsi_reserve_result result;
	uint8_t data[SCSI_RESERVE_IN_MAX];
	size_t length = scsi_reserve_in(&task->channel->unit->kept->reservations, task->cdb, data,
					sizeof(data), &result);

	return result.status == SCSI_RESERVE_GOOD ? scsi_data_in(task, data, length, length)
						  : refuse(task, &result);
}

/*
 * Unit attentions, and the end of tasks. What they may do from now on is in force already, so that
 * none begins behind our back.
 */
static void
take_effect(struct scsi_task *task, const struct scsi_reserve_effect *effect)
{
	struct scsi_walk walk = {
		.nexus = &effect->nexus, .except = task, .aborts = true, .over = scsi_walk_done};
	struct scsi_unit *unit = task->channel->unit;
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &unit->luns, unit_link) {
		if (effect->attention != SCSI_RESERVE_NO_ATTENTION &&
		    scsi_nexus_is_same(lun->target->nexus, effect->nexus))
			scsi_lun_alert(lun, scsi_attention_of(effect->attention), 0);
	}
	if (!effect->abort)
		return;
	scsi_unit_find_tasks(unit, &walk);
	scsi_unit_wait(unit, &walk.done);
}

bool
scsi_keep(struct scsi_task *task, const struct scsi_kept *next)
{
	int rc = scsi_kept_change(task->channel->unit->kept, next);

	if (rc == -EAGAIN)
		task->status = SCSI_BUSY;
	else if (rc != 0)
		scsi_refuse(task, SCSI_KEY_HARDWARE_ERROR, SCSI_CODE_INTERNAL_TARGET_FAILURE);
	return rc == 0;
}

bool
scsi_run_reserve_out(struct scsi_task *task)
{
	struct scsi_unit *unit = task->channel->unit;
	uint32_t length = get_be32(task->cdb + 5);
	struct scsi_kept next = *unit->kept;
	struct scsi_reserve_result result;

	if (length > SCSI_LIST_MAX)
		return scsi_illegal(task, SCSI_CODE_PARAMETER_LIST_LENGTH);
	if (!scsi_take_data_out(task, length, 0))
		return true;
	scsi_reserve_out(&next.reservations, task->target->nexus, task->cdb, task->buffer, length,
			 &result);
	if (result.status != SCSI_RESERVE_GOOD)
		return refuse(task, &result);
	if (!scsi_keep(task, &next))
		return true;
	if (result.changed)
		scsi_unit_update_conflicts(unit);
	for (uint32_t i = 0; i < result.effect_count; i++)
		take_effect(task, &result.effects[i]);
	return true;
}
