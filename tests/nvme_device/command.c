/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of one command: its rules, faults, carrying it out, and its completion; and those that
 * wait.
 */
#include <string.h>

#include "device.h"

static const struct command_rule *
rule_of(const struct sq *sq, const struct nvme_sqe *sqe)
{
	return sq->id == 0 ? &admin_commands[sqe->opcode] : &io_commands[sqe->opcode];
}

/* ---- rules ---- */

static void
check_reserved(struct device *dev, const struct sq *sq, const struct nvme_sqe *sqe,
	       const struct command_rule *rule)
{
	const uint32_t *dwords = &sqe->cdw10;

	if ((sqe->flags & NVME_SQE_RESERVED) != 0 || sqe->cdw2 != 0 || sqe->cdw3 != 0 ||
	    sqe->mptr != 0)
		violation(dev, V_RESERVED,
			  "SQ %u: %s: flags 0x%x, CDW2 0x%x, CDW3 0x%x, MPTR 0x%llx", sq->id,
			  rule->name, sqe->flags, sqe->cdw2, sqe->cdw3,
			  (unsigned long long)sqe->mptr);
	if (!rule->has_nsid && sqe->nsid != 0)
		violation(dev, V_RESERVED, "SQ %u: %s: NSID is %u", sq->id, rule->name, sqe->nsid);
	if (!rule->has_data && (sqe->prp1 | sqe->prp2) != 0)
		violation(dev, V_RESERVED, "SQ %u: %s: a data pointer, but no data", sq->id,
			  rule->name);
	for (int i = 0; i < 6; i++) {
		if ((dwords[i] & rule->reserved[i]) != 0)
			violation(dev, V_RESERVED, "SQ %u: %s: CDW%d is 0x%x, reserved: 0x%x",
				  sq->id, rule->name, 10 + i, dwords[i], rule->reserved[i]);
	}
	if (sq->id == 0 && NVME_SQE_PSDT(sqe->flags) != 0)
		violation(dev, V_SGL, "admin queue: %s: PSDT is not 0", rule->name);
}

/* Carries it out, now. STATUS_PENDING: whoever has kept it completes it. */
static uint16_t
carry_out(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	const struct command_rule *rule = rule_of(sq, sqe);

	if (sq->id == 0)
		dev->statistics.admin[sqe->opcode]++;
	else
		dev->statistics.io[sqe->opcode]++;
	if (__builtin_expect(rule->name == NULL, 0))
		return NVME_SC_INVALID_OPCODE | NVME_SC_DNR;
	check_reserved(dev, sq, sqe, rule);
	return rule->run(dev, sq, sqe, dw0);
}

/* ---- faults ---- */

static void
delay(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint64_t ms)
{
	struct delayed *delayed = &dev->delayed[dev->delayed_count];

	if (dev->delayed_count == MAX_DELAYED) {
		queue_complete(dev, sq, sqe->cid, NVME_SC_INTERNAL, 0);
		return;
	}
	*delayed = (struct delayed){now_ns() + ms * 1000000, sq, *sqe};
	dev->delayed_count++;
}

static void
fault_lose(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, const struct fault *fault)
{
	uint32_t dw0 = 0;

	(void)fault;
	carry_out(dev, sq, sqe, &dw0);
}

static void
fault_status(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
	     const struct fault *fault)
{
	queue_complete(dev, sq, sqe->cid, fault->status, 0);
}

static void
fault_delay(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
	    const struct fault *fault)
{
	delay(dev, sq, sqe, fault->ms);
}

/* It stays in flight: the client has not been told. */
static void
fault_wrong_entry(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
		  const struct fault *fault)
{
	uint32_t dw0 = 0;
	uint16_t status = carry_out(dev, sq, sqe, &dw0);

	if (status == STATUS_PENDING)
		return;
	dev->faults.wrong_phase = fault->kind == FAULT_PHASE;
	dev->faults.wrong_cid = fault->kind == FAULT_CID;
	dev->faults.cid = fault->cid;
	queue_complete(dev, sq, sqe->cid, status, dw0);
	dev->faults.wrong_phase = false;
	dev->faults.wrong_cid = false;
	sq->in_flight[sqe->cid / 64] |= 1ULL << sqe->cid % 64;
	sq->cq->reserved++;
}

static void
fault_fatal(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
	    const struct fault *fault)
{
	(void)sq;
	(void)sqe;
	(void)fault;
	controller_fatal(dev);
}

static void
fault_remove(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
	     const struct fault *fault)
{
	(void)sq;
	(void)sqe;
	(void)fault;
	device_remove(dev);
}

static void
fault_disconnect(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
		 const struct fault *fault)
{
	(void)sq;
	(void)sqe;
	(void)fault;
	server_disconnect(dev);
}

/* The device has lost power: it forgets what it cached, and its connection. */
static void
fault_power(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
	    const struct fault *fault)
{
	(void)sq;
	(void)sqe;
	(void)fault;
	device_power_loss(dev);
	server_disconnect(dev);
}

static void (*const fault_actions[FAULT_KINDS])(struct device *, struct sq *,
						const struct nvme_sqe *, const struct fault *) = {
	[FAULT_STATUS] = fault_status,   [FAULT_LOSE] = fault_lose,
	[FAULT_DELAY] = fault_delay,     [FAULT_PHASE] = fault_wrong_entry,
	[FAULT_CID] = fault_wrong_entry, [FAULT_FATAL] = fault_fatal,
	[FAULT_REMOVE] = fault_remove,   [FAULT_DISCONNECT] = fault_disconnect,
	[FAULT_POWER] = fault_power,
};

static bool
matches(const struct fault *fault, const struct sq *sq, const struct nvme_sqe *sqe)
{
	return fault->id != 0 && fault->left > 0 &&
	       (fault->queue == sq->id || fault->queue == -1 ||
		(fault->queue == -2 && sq->id != 0)) &&
	       (fault->opcode == sqe->opcode || fault->opcode == -1) &&
	       (fault->nsid == sqe->nsid || fault->nsid == 0);
}

/* The fault that this command meets, or NULL. It is counted. */
static const struct fault *
fault_find(struct device *dev, const struct sq *sq, const struct nvme_sqe *sqe)
{
	for (uint32_t i = 0; i < MAX_FAULTS; i++) {
		struct fault *fault = &dev->faults.list[i];

		if (!matches(fault, sq, sqe))
			continue;
		if (fault->skip > 0) {
			fault->skip--;
			continue;
		}
		fault->left--;
		fault->hits++;
		return fault;
	}
	return NULL;
}

/* Whether a fault took it. */
static bool
run_into_fault(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe)
{
	const struct fault *fault = fault_find(dev, sq, sqe);

	if (fault == NULL)
		return false;
	fault_actions[fault->kind](dev, sq, sqe, fault);
	return true;
}

/* ---- one, or two together ---- */

static void
finish(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe)
{
	uint32_t dw0 = 0;
	uint16_t status = carry_out(dev, sq, sqe, &dw0);

	if (status != STATUS_PENDING)
		queue_complete(dev, sq, sqe->cid, status, dw0);
}

static void
run_one(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe)
{
	if (__builtin_expect(dev->faults.armed != 0, 0) && run_into_fault(dev, sq, sqe))
		return;
	finish(dev, sq, sqe);
}

/* NVMe 1.4 §6.2: compare and write. When the first fails, the second is aborted. */
static void
run_fused(struct device *dev, struct sq *sq, const struct nvme_sqe *first,
	  const struct nvme_sqe *second)
{
	uint32_t dw0 = 0;
	const struct fault *fault = dev->faults.armed != 0 ? fault_find(dev, sq, first) : NULL;
	uint16_t status;

	if (fault != NULL && fault->kind == FAULT_STATUS)
		status = fault->status;
	else if (first->opcode != nvme_cmd_compare || second->opcode != nvme_cmd_write ||
		 !dev->settings.fused)
		status = NVME_SC_INVALID_FIELD | NVME_SC_DNR;
	else
		status = carry_out(dev, sq, first, &dw0);
	queue_complete(dev, sq, first->cid, status, 0);
	if (status != 0)
		queue_complete(dev, sq, second->cid, NVME_SC_FUSED_FAIL, 0);
	else
		run_one(dev, sq, second);
}

static void
refuse_half(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe)
{
	violation(dev, V_FUSED, "SQ %u: command identifier 0x%x is half a fused command", sq->id,
		  sqe->cid);
	queue_complete(dev, sq, sqe->cid, NVME_SC_FUSED_MISSING, 0);
}

void
commands_run(struct device *dev, struct sq *sq, const struct nvme_sqe *sqes, uint32_t count)
{
	for (uint32_t i = 0; i < count && sq->exists && controller_runs(dev); i++) {
		uint32_t fused = NVME_SQE_FUSED(sqes[i].flags);

		if (__builtin_expect(fused == 0, 1)) {
			run_one(dev, sq, &sqes[i]);
		} else if (fused == NVME_SQE_FUSED_FIRST && i + 1 < count &&
			   NVME_SQE_FUSED(sqes[i + 1].flags) == NVME_SQE_FUSED_SECOND) {
			run_fused(dev, sq, &sqes[i], &sqes[i + 1]);
			i++;
		} else {
			refuse_half(dev, sq, &sqes[i]);
		}
	}
}

/* ---- those that wait ---- */

static struct delayed
take_delayed(struct device *dev, uint32_t index)
{
	struct delayed delayed = dev->delayed[index];

	dev->delayed[index] = dev->delayed[--dev->delayed_count];
	return delayed;
}

void
commands_run_delayed(struct device *dev, uint64_t now)
{
	for (uint32_t i = 0; i < dev->delayed_count;) {
		struct delayed delayed;

		if (dev->delayed[i].due > now) {
			i++;
			continue;
		}
		delayed = take_delayed(dev, i);
		finish(dev, delayed.sq, &delayed.sqe);
		queue_signal(dev, delayed.sq->cq);
	}
}

void
commands_drop_delayed(struct device *dev, const struct sq *sq, bool complete)
{
	for (uint32_t i = 0; i < dev->delayed_count;) {
		struct delayed delayed;

		if (sq != NULL && dev->delayed[i].sq != sq) {
			i++;
			continue;
		}
		delayed = take_delayed(dev, i);
		if (complete)
			queue_complete(dev, delayed.sq, delayed.sqe.cid, NVME_SC_ABORT_QUEUE, 0);
	}
}

bool
command_abort(struct device *dev, struct sq *sq, uint16_t cid)
{
	for (uint32_t i = 0; i < dev->delayed_count; i++) {
		if (dev->delayed[i].sq != sq || dev->delayed[i].sqe.cid != cid)
			continue;
		take_delayed(dev, i);
		queue_complete(dev, sq, cid, NVME_SC_ABORT_REQ, 0);
		queue_signal(dev, sq->cq);
		return true;
	}
	return false;
}
