/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Task management (SAM-5 §7), in the coroutines of the units: a function comes after the commands
 * that were sent there before it, and is complete when what it aborted has been given back.
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
	thread_send(tmf->order.origin, &tmf->order.msg, tmf_back, tmf);
}

/* SAM-5 §7: what the function does to one logical unit. How many tasks it found. */
static uint32_t
manage(const struct scsi_tmf *tmf, struct scsi_lun *lun)
{
	const struct function *function = &functions[tmf->function];
	struct scsi_walk walk = {.lun = function->of_nexus ? lun : NULL,
				 .by_tag = function->by_tag,
				 .tag = tmf->tag,
				 .by = function->resets ? NULL : lun->target,
				 .aborts = !function->query,
				 .resets = function->attention != SCSI_ATTENTIONS};
	uint32_t found = scsi_unit_find_tasks(lun->unit, &walk);

	if (function->resets) {
		scsi_kept_reset_modes(lun->unit->kept);
		scsi_modes_apply(lun->unit);
		scsi_unit_alert(lun->unit, NULL, 1u << function->attention, 0);
	} else if (function->attention != SCSI_ATTENTIONS) {
		scsi_lun_alert(lun, 1u << function->attention, 0);
	}
	return found;
}

static void next_lun(void *arg);

static void
run_tmf(struct scsi_order *order)
{
	struct scsi_tmf *tmf =
		(struct scsi_tmf *)((char *)order - offsetof(struct scsi_tmf, order));
	uint32_t found = manage(tmf, tmf->lun);

	if (tmf->function == SCSI_I_T_NEXUS_RESET)
		next_lun(tmf);
	else if (functions[tmf->function].query && found != 0)
		respond(tmf, SCSI_FUNCTION_SUCCEEDED);
	else
		respond(tmf, SCSI_FUNCTION_COMPLETE);
}

/* I_T NEXUS RESET, app thread: on to the first LUN from next_number on, while LUNs come and go. */
static void
next_lun(void *arg)
{
	struct scsi_tmf *tmf = arg;
	struct scsi_lun *lun = scsi_lun_next(tmf->target, NULL);
	struct thread *origin = tmf->order.origin;

	while (lun != NULL && lun->number < tmf->next_number)
		lun = scsi_lun_next(tmf->target, lun);
	if (lun == NULL) {
		respond(tmf, SCSI_FUNCTION_COMPLETE);
		return;
	}
	tmf->lun = lun;
	tmf->next_number = lun->number + 1u;
	scsi_order_send(lun->unit, &tmf->order, run_tmf);
	tmf->order.origin = origin;
}

void
scsi_tmf_submit(struct scsi_tmf *tmf)
{
	struct scsi_order *order = &tmf->order;

	order->origin = thread_current();
	if (tmf->function >= SCSI_TMF_FUNCTIONS || tmf->function == SCSI_CLEAR_ACA) {
		/* There is no ACA: NormACA is 0, and CDBs with NACA are refused. */
		respond(tmf, SCSI_FUNCTION_REJECTED);
	} else if (tmf->function == SCSI_I_T_NEXUS_RESET) {
		tmf->next_number = 0;
		thread_send(tmf->target->app, &order->msg, next_lun, tmf);
	} else if (tmf->lun == NULL || tmf->lun->unit == NULL) {
		/* The well-known logical unit has no task that could be aborted. */
		respond(tmf, tmf->lun == NULL ? SCSI_INCORRECT_LUN : SCSI_FUNCTION_COMPLETE);
	} else {
		scsi_order_send(tmf->lun->unit, order, run_tmf);
	}
}
