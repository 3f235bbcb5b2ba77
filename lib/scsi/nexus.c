/* SPDX-License-Identifier: BSD-3-Clause */
/* Targets, each an I_T nexus, their LUNs, and the unit attentions that are pending for these. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* ---- unit attentions; any thread ---- */

static const uint16_t attention_codes[SCSI_ATTENTIONS] = {
	[SCSI_UA_POWER_ON] = 0x2900,
	[SCSI_UA_LUN_RESET] = 0x2903,
	[SCSI_UA_NEXUS_LOSS] = 0x2907,
	[SCSI_UA_COMMANDS_CLEARED] = 0x2f00,
	[SCSI_UA_RESERVATIONS_PREEMPTED] = RESERVATIONS_PREEMPTED,
	[SCSI_UA_RESERVATIONS_RELEASED] = RESERVATIONS_RELEASED,
	[SCSI_UA_REGISTRATIONS_PREEMPTED] = REGISTRATIONS_PREEMPTED,
	[SCSI_UA_MODE_CHANGED] = 0x2a01,
	[SCSI_UA_CAPACITY_CHANGED] = SCSI_CODE_CAPACITY_CHANGED,
	[SCSI_UA_LUNS_CHANGED] = 0x3f0e,
};

uint16_t
scsi_attention_take(struct scsi_lun *lun)
{
	uint32_t alerts = atomic_load(&lun->alerts), first;

	while ((first = alerts & -alerts) != 0 && first < 1u << SCSI_ATTENTIONS) {
		if (atomic_compare_exchange_weak(&lun->alerts, &alerts, alerts & ~first))
			return attention_codes[__builtin_ctz(first)];
	}
	return 0;
}

uint32_t
scsi_attention_of(uint16_t code)
{
	uint32_t attention = 0;

	while (attention_codes[attention] != code)
		attention++;
	return 1u << attention;
}

/* ---- targets; app thread ---- */

static LIST_HEAD(, scsi_target) targets = LIST_HEAD_INITIALIZER(targets);

struct scsi_target *
scsi_target_create(const char *initiator, uint16_t port)
{
	struct scsi_target *target = calloc(1, sizeof(*target));
	uint64_t hash = 0xcbf29ce484222325;

	if (target == NULL)
		return NULL;
	scsi_table_init();
	snprintf(target->initiator, sizeof(target->initiator), "%s", initiator);
	/*
	 * A SAS address of its own, locally assigned (SPC-4 §7.8.6.6.4, NAA 3h): the name's hash
	 * (FNV-1a, 64 bits).
	 */
	for (const char *c = target->initiator; *c != '\0'; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
	target->nexus = (struct scsi_nexus_id){3ULL << 60 | hash >> 4, port};
	target->app = thread_current();
	TAILQ_INIT(&target->luns);
	LIST_INSERT_HEAD(&targets, target, link);
	return target;
}

void
scsi_target_destroy(struct scsi_target *target)
{
	LIST_REMOVE(target, link);
	free(target);
}

struct scsi_lun *
scsi_lun_designated(const struct scsi_target *target, const uint8_t *designator)
{
	struct scsi_lun *lun, *found = NULL;
	const struct scsi_target *other;

	LIST_FOREACH (other, &targets, link) {
		TAILQ_FOREACH (lun, &other->luns, target_link) {
			if (other->nexus.initiator == target->nexus.initiator &&
			    (found == NULL || other == target) &&
			    scsi_unit_is_designated(lun->unit, designator))
				found = lun;
		}
	}
	return found;
}

struct scsi_lun *
scsi_lun_well_known(void)
{
	static struct scsi_lun lun = {.number = SCSI_LUN_REPORT_LUNS};

	return &lun;
}

static void
alert_luns(struct scsi_target *target, enum scsi_attention attention)
{
	struct scsi_lun *lun;

	TAILQ_FOREACH (lun, &target->luns, target_link)
		scsi_lun_alert(lun, 1u << attention, 0);
}

void
scsi_target_reset(struct scsi_target *target)
{
	alert_luns(target, SCSI_UA_POWER_ON);
}

struct scsi_lun *
scsi_lun_find(const struct scsi_target *target, uint16_t number)
{
	struct scsi_lun *lun = TAILQ_FIRST(&target->luns);

	while (lun != NULL && lun->number != number)
		lun = TAILQ_NEXT(lun, target_link);
	return lun;
}

struct scsi_lun *
scsi_lun_next(const struct scsi_target *target, const struct scsi_lun *lun)
{
	return lun == NULL ? TAILQ_FIRST(&target->luns) : TAILQ_NEXT(lun, target_link);
}

struct bdev_desc *
scsi_lun_desc(const struct scsi_lun *lun)
{
	return lun->unit->desc;
}

/* ---- LUNs; app thread ---- */

static void
insert_sorted(struct scsi_target *target, struct scsi_lun *lun)
{
	struct scsi_lun *next = TAILQ_FIRST(&target->luns);

	while (next != NULL && next->number < lun->number)
		next = TAILQ_NEXT(next, target_link);
	if (next != NULL)
		TAILQ_INSERT_BEFORE(next, lun, target_link);
	else
		TAILQ_INSERT_TAIL(&target->luns, lun, target_link);
	target->count++;
}

int
scsi_lun_add(struct scsi_target *target, const struct scsi_lun_opts *opts, struct scsi_lun **added,
	     struct errmsg *err)
{
	uint16_t number = opts->number;
	struct scsi_lun *lun;
	int rc;

	if (number >= SCSI_LUN_NUMBERS)
		return err_set(err, -EINVAL, "LUN %u: numbers go up to %u", number,
			       SCSI_LUN_NUMBERS - 1);
	if (scsi_lun_find(target, number) != NULL)
		return err_set(err, -EEXIST, "LUN %u is there already", number);
	if (target->count == SCSI_LUNS_PER_TARGET)
		return err_set(err, -ENOSPC, "the target has %u LUNs, and may have no more",
			       target->count);
	lun = calloc(1, sizeof(*lun));
	if (lun == NULL)
		return err_set(err, -ENOMEM, "LUN %u: no memory", number);
	lun->target = target;
	lun->number = number;
	lun->users = 1;
	lun->event = opts->event;
	lun->ctx = opts->ctx;
	atomic_init(&lun->alerts, opts->quiet ? 0 : 1u << SCSI_UA_POWER_ON);
	rc = scsi_unit_attach(opts->bdev, lun, err);
	if (rc != 0) {
		free(lun);
		return rc;
	}
	if (!opts->quiet)
		alert_luns(target, SCSI_UA_LUNS_CHANGED);
	insert_sorted(target, lun);
	*added = lun;
	return 0;
}

void
scsi_lun_leave(struct scsi_lun *lun)
{
	if (--lun->users == 0)
		completion_signal(lun->left, 0);
}

void
scsi_lun_remove(struct scsi_lun *lun)
{
	struct scsi_target *target = lun->target;

	TAILQ_REMOVE(&target->luns, lun, target_link);
	target->count--;
	alert_luns(target, SCSI_UA_LUNS_CHANGED);
	lun->left = scsi_completion_create();
	scsi_lun_leave(lun);
	completion_wait(lun->left, WAIT_FOREVER);
	completion_put(lun->left);
	scsi_unit_detach(lun);
	free(lun);
}
