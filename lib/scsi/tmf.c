/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Task management (SAM-5 §7), in the coroutines of the units: a function comes after the commands
 * that were sent there before it, and is complete when what it aborted has been given back.
 */
#include "internal.h"

struct function {
	/* Whether it looks at one task only, or at those of this nexus only. */
	bool by_tag, of_nexus;
	bool query;
	/* Established for this nexus, or for all, unless SCSI_ATTENTIONS. */
	enum scsi_attention attention;
	bool resets;
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

static struct scsi_tmf *
tmf_of_order(struct scsi_order *order)
{
	return (struct scsi_tmf *)((char *)order - offsetof(struct scsi_tmf, order));
}

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
	scsi_order_back(&tmf->order, tmf_back, tmf);
}

/* SAM-5 §7: what the function does to one logical unit. How many tasks it found. */
static uint32_t
manage(const struct scsi_tmf *tmf, struct scsi_lun *lun)
{
	const struct function *function = &functions[tmf->function];
	struct scsi_walk walk = {
		.lun = function->of_nexus ? lun : NULL,
		.by_tag = function->by_tag,
		.tag = tmf->tag,
		.by = function->resets ? NULL : lun->target,
		.reset = function->attention != SCSI_ATTENTIONS,
	};
	uint32_t found;

	if (function->query)
		return scsi_unit_count(lun->unit, &walk);
	found = scsi_unit_abort(lun->unit, &walk);
	if (function->resets) {
		scsi_modes_init(lun->unit);
		scsi_unit_attention(lun->unit, NULL, function->attention);
	} else if (function->attention != SCSI_ATTENTIONS) {
		scsi_attention_set(lun, function->attention);
	}
	return found;
}

static void
run_tmf(struct scsi_order *order)
{
	struct scsi_tmf *tmf = tmf_of_order(order);
	uint32_t found = manage(tmf, tmf->lun);
	bool succeeded = functions[tmf->function].query && found != 0;

	respond(tmf, succeeded ? SCSI_FUNCTION_SUCCEEDED : SCSI_FUNCTION_COMPLETE);
}

/* ---- I_T NEXUS RESET: one LUN after the other, while LUNs come and go ---- */

static void run_nexus_reset(struct scsi_order *order);

/* App thread: on to the first LUN from next_number on. */
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
	scsi_order_send(lun->unit, &tmf->order, run_nexus_reset);
	tmf->order.origin = origin;
}

static void
run_nexus_reset(struct scsi_order *order)
{
	struct scsi_tmf *tmf = tmf_of_order(order);

	manage(tmf, tmf->lun);
	next_lun(tmf);
}

/* ---- */

void
scsi_tmf_submit(struct scsi_tmf *tmf)
{
	struct scsi_order *order = &tmf->order;

	order->origin = thread_current();
	if (tmf->function >= SCSI_TMF_FUNCTIONS || tmf->function == SCSI_CLEAR_ACA) {
		/* There is no ACA: NormACA is 0, and CDBs with NACA are refused. */
		tmf->response = SCSI_FUNCTION_REJECTED;
		thread_send(order->origin, &order->msg, tmf_back, tmf);
	} else if (tmf->function == SCSI_I_T_NEXUS_RESET) {
		tmf->next_number = 0;
		thread_send(tmf->target->app, &order->msg, next_lun, tmf);
	} else if (tmf->lun == NULL || tmf->lun->unit == NULL) {
		/* The well-known logical unit has no task that could be aborted. */
		tmf->response = tmf->lun == NULL ? SCSI_INCORRECT_LUN : SCSI_FUNCTION_COMPLETE;
		thread_send(order->origin, &order->msg, tmf_back, tmf);
	} else {
		scsi_order_send(tmf->lun->unit, order, run_tmf);
	}
}
