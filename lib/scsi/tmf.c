/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Task management (SAM-5 §7), on the app thread. A function does not wait for its turn among the
 * commands that run there, which it may have to abort. It is complete when what it aborted has been
 * given back.
 */
#include "internal.h"

struct function {
	bool by_tag, of_nexus; /* looks at one task only, at those of this nexus only */
	bool query;
	enum scsi_attention attention; /* established, unless SCSI_ATTENTIONS, … */
	bool resets;                   /* … for all, not for this nexus only */
};

static const struct function functions[SCSI_TMF_FUNCTIONS] = {
	[SCSI_ABORT_TASK] = {true, true, false, SCSI_ATTENTIONS, false},
	[SCSI_ABORT_TASK_SET] = {false, true, false, SCSI_ATTENTIONS, false},
	[SCSI_CLEAR_TASK_SET] = {false, false, false, SCSI_ATTENTIONS, false},
	[SCSI_I_T_NEXUS_RESET] = {false, true, false, SCSI_UA_NEXUS_LOSS, false},
	[SCSI_LOGICAL_UNIT_RESET] = {false, false, false, SCSI_UA_LUN_RESET, true},
	[SCSI_QUERY_TASK] = {true, true, true, SCSI_ATTENTIONS, false},
	[SCSI_QUERY_TASK_SET] = {false, true, true, SCSI_ATTENTIONS, false},
};

static void
tmf_back(void *arg)
{
	struct scsi_tmf *tmf = arg;

	tmf->done(tmf);
}

static void
respond(struct scsi_tmf *tmf, enum scsi_tmf_response response)
{
	tmf->response = response;
	thread_send(tmf->origin, &tmf->msg, tmf_back, tmf);
}

static void next_lun(void *arg);

static void
end_lun(struct scsi_walk *walk)
{
	struct scsi_tmf *tmf = (struct scsi_tmf *)((char *)walk - offsetof(struct scsi_tmf, walk));
	const struct function *function = &functions[tmf->function];

	if (function->resets && walk->unit->kept->modes != 0) {
		scsi_unit_reset_modes(walk);
		return;
	}
	if (function->resets) {
		scsi_unit_alert(walk->unit, NULL, 1u << function->attention, 0);
	} else if (function->attention != SCSI_ATTENTIONS) {
		scsi_lun_alert(tmf->lun, 1u << function->attention, 0);
	}
	scsi_lun_leave(tmf->lun);
	if (tmf->function == SCSI_I_T_NEXUS_RESET)
		next_lun(tmf);
	else
		respond(tmf, function->query && walk->found != 0 ? SCSI_FUNCTION_SUCCEEDED
								 : SCSI_FUNCTION_COMPLETE);
}

/* SAM-5 §7: what the function does to one logical unit. */
static void
start_lun(void *arg)
{
	struct scsi_tmf *tmf = arg;
	const struct function *function = &functions[tmf->function];

	tmf->walk = (struct scsi_walk){.lun = function->of_nexus ? tmf->lun : NULL,
				       .by_tag = function->by_tag,
				       .tag = tmf->tag,
				       .by = function->resets ? NULL : tmf->target,
				       .aborts = !function->query,
				       .resets = function->attention != SCSI_ATTENTIONS,
				       .over = end_lun};
	tmf->lun->users++;
	scsi_unit_find_tasks(tmf->lun->unit, &tmf->walk);
}

/* I_T NEXUS RESET: on to the first LUN from next_number on, while LUNs come and go. */
static void
next_lun(void *arg)
{
	struct scsi_tmf *tmf = arg;
	struct scsi_lun *lun = scsi_lun_next(tmf->target, NULL);

	while (lun != NULL && lun->number < tmf->next_number)
		lun = scsi_lun_next(tmf->target, lun);
	if (lun == NULL) {
		respond(tmf, SCSI_FUNCTION_COMPLETE);
		return;
	}
	tmf->lun = lun;
	tmf->next_number = lun->number + 1u;
	start_lun(tmf);
}

void
scsi_tmf_submit(struct scsi_tmf *tmf)
{
	tmf->origin = thread_current();
	tmf->next_number = 0;
	if (tmf->function >= SCSI_TMF_FUNCTIONS || tmf->function == SCSI_CLEAR_ACA) {
		/* There is no ACA: NormACA is 0, and CDBs with NACA are refused. */
		respond(tmf, SCSI_FUNCTION_REJECTED);
	} else if (tmf->function == SCSI_I_T_NEXUS_RESET) {
		thread_send(tmf->target->app, &tmf->msg, next_lun, tmf);
	} else if (tmf->lun == NULL || tmf->lun->unit == NULL) {
		/* The well-known logical unit has no task that could be aborted. */
		respond(tmf, tmf->lun == NULL ? SCSI_INCORRECT_LUN : SCSI_FUNCTION_COMPLETE);
	} else {
		thread_send(tmf->target->app, &tmf->msg, start_lun, tmf);
	}
}
