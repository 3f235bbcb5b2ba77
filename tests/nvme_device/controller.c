/* SPDX-License-Identifier: BSD-3-Clause */
/* The controller's registers (NVMe 1.4 §3.1), and what happens by itself. */
#include <string.h>

#include "device.h"

#define VERSION_1_4        0x10400u
#define MS                 1000000ULL /* ns */
#define SHUTDOWN_OCCURRING (NVME_CSTS_SHST_OCCUR << NVME_CSTS_SHST_SHIFT)
#define SHUTDOWN_COMPLETE  (NVME_CSTS_SHST_CMPLT << NVME_CSTS_SHST_SHIFT)
#define SHUTDOWN_MASK      (NVME_CSTS_SHST_MASK << NVME_CSTS_SHST_SHIFT)
#define RESERVED_CC        0xff00000eu

uint64_t
controller_cap(const struct device *dev)
{
	const struct settings *settings = &dev->settings;

	return settings->mqes | 1ULL << NVME_CAP_CQR_SHIFT |
	       settings->timeout << NVME_CAP_TO_SHIFT | settings->stride << NVME_CAP_DSTRD_SHIFT |
	       settings->css << NVME_CAP_CSS_SHIFT | settings->mpsmin << NVME_CAP_MPSMIN_SHIFT |
	       settings->mpsmax << NVME_CAP_MPSMAX_SHIFT;
}

/* ---- reset and enable ---- */

void
controller_reset(struct device *dev, bool hard)
{
	struct controller *controller = &dev->controller;

	queues_stop(dev);
	controller->cc &= hard ? 0 : ~1U;
	controller->csts = 0;
	controller->intm = 0;
	controller->shadow = false;
	controller->shut_down = false;
	controller->ready_at = 0;
	controller->changed_count = 0;
	memset(&controller->events, 0, sizeof(controller->events));
	features_reset(dev);
	if (hard) {
		controller->aqa = 0;
		controller->asq = 0;
		controller->acq = 0;
		memset(dev->bar0, 0, BAR0_SIZE);
	}
}

void
controller_fatal(struct device *dev)
{
	dev->controller.csts |= CSTS_FATAL;
}

static const char *
problem_of_configuration(const struct controller *controller)
{
	uint32_t cc = controller->cc, aqa = controller->aqa;
	uint64_t page = 1ULL << (12 + NVME_CC_MPS(cc));

	if (NVME_CC_MPS(cc) < NVME_CAP_MPSMIN(controller->cap) ||
	    NVME_CC_MPS(cc) > NVME_CAP_MPSMAX(controller->cap))
		return "CC.MPS";
	if (NVME_CC_CSS(cc) != 0 || NVME_CC_AMS(cc) != 0 || (cc & RESERVED_CC) != 0)
		return "CC";
	if (NVME_AQA_ASQS(aqa) == 0 || NVME_AQA_ACQS(aqa) == 0 || (aqa & 0xf000f000) != 0)
		return "AQA";
	if (controller->asq % page != 0)
		return "ASQ";
	if (controller->acq % page != 0)
		return "ACQ";
	return NULL;
}

static void
enable(struct device *dev)
{
	struct controller *controller = &dev->controller;
	const char *problem;

	dev->statistics.enables++;
	controller->cap = controller_cap(dev);
	controller->io_queues = (uint32_t)dev->settings.queues;
	problem = problem_of_configuration(controller);
	if (problem != NULL) {
		violation(dev, V_REGISTER,
			  "enabled with CC 0x%x, AQA 0x%x, ASQ 0x%llx, ACQ 0x%llx: %s",
			  controller->cc, controller->aqa, (unsigned long long)controller->asq,
			  (unsigned long long)controller->acq, problem);
		controller_fatal(dev);
		return;
	}
	controller->page_size = 1U << (12 + NVME_CC_MPS(controller->cc));
	if (!cq_start(dev, 0, controller->acq, NVME_AQA_ACQS(controller->aqa) + 1, true, 0) ||
	    !sq_start(dev, 0, controller->asq, NVME_AQA_ASQS(controller->aqa) + 1,
		      &controller->cqs[0])) {
		controller_fatal(dev);
		return;
	}
	controller->keep_alive_seen = now_ns();
	controller->ready_at = now_ns() + dev->settings.ready_ms * MS;
	controller_tick(dev, now_ns());
}

/* NVMe 1.4 §7.6.2: what is cached is written out. */
static void
shut_down(struct device *dev)
{
	struct controller *controller = &dev->controller;

	dev->statistics.shutdowns++;
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++)
		namespace_flush(&dev->namespaces[i]);
	controller->shut_down = true;
	controller->csts &= ~SHUTDOWN_MASK;
	controller->csts |= dev->settings.shutdown ? SHUTDOWN_COMPLETE : SHUTDOWN_OCCURRING;
}

static void
write_cc(struct device *dev, uint32_t value)
{
	struct controller *controller = &dev->controller;
	uint32_t before = controller->cc;

	controller->cc = value;
	if (NVME_CC_EN(before) && !NVME_CC_EN(value)) {
		controller_reset(dev, false);
		return;
	}
	if (NVME_CC_SHN(value) != 0 && NVME_CC_SHN(before) == 0)
		shut_down(dev);
	if (!NVME_CC_EN(before) && NVME_CC_EN(value))
		enable(dev);
}

/* ---- registers ---- */

static uint32_t
read_word(const struct device *dev, uint32_t offset)
{
	const struct controller *controller = &dev->controller;
	uint64_t cap = controller_cap(dev);

	switch (offset) {
	case NVME_REG_CAP:
		return (uint32_t)cap;
	case NVME_REG_CAP + 4:
		return (uint32_t)(cap >> 32);
	case NVME_REG_VS:
		return VERSION_1_4;
	case NVME_REG_INTMS:
	case NVME_REG_INTMC:
		return controller->intm;
	case NVME_REG_CC:
		return controller->cc;
	case NVME_REG_CSTS:
		return controller->csts;
	case NVME_REG_AQA:
		return controller->aqa;
	case NVME_REG_ASQ:
		return (uint32_t)controller->asq;
	case NVME_REG_ASQ + 4:
		return (uint32_t)(controller->asq >> 32);
	case NVME_REG_ACQ:
		return (uint32_t)controller->acq;
	case NVME_REG_ACQ + 4:
		return (uint32_t)(controller->acq >> 32);
	default:
		return 0;
	}
}

static void
set_half(uint64_t *value, bool high, uint32_t half)
{
	uint64_t mask = high ? 0xffffffffULL << 32 : 0xffffffffULL;

	*value = (*value & ~mask) | (uint64_t)half << (high ? 32 : 0);
}

/* Those that are set while the controller is off. */
static bool
write_queue_register(struct controller *controller, uint32_t offset, uint32_t value)
{
	switch (offset) {
	case NVME_REG_AQA:
		controller->aqa = value;
		return true;
	case NVME_REG_ASQ:
	case NVME_REG_ASQ + 4:
		set_half(&controller->asq, offset != NVME_REG_ASQ, value);
		return true;
	case NVME_REG_ACQ:
	case NVME_REG_ACQ + 4:
		set_half(&controller->acq, offset != NVME_REG_ACQ, value);
		return true;
	default:
		return false;
	}
}

static void
write_word(struct device *dev, uint32_t offset, uint32_t value)
{
	struct controller *controller = &dev->controller;

	switch (offset) {
	case NVME_REG_INTMS:
		controller->intm |= value;
		return;
	case NVME_REG_INTMC:
		controller->intm &= ~value;
		return;
	case NVME_REG_CC:
		write_cc(dev, value);
		return;
	case NVME_REG_NSSR:
		return;
	}
	if (!write_queue_register(controller, offset, value))
		violation(dev, V_REGISTER, "0x%x written to 0x%x: not a register to write", value,
			  offset);
	else if (NVME_CC_EN(controller->cc))
		violation(dev, V_REGISTER, "0x%x written to 0x%x while enabled", value, offset);
}

static bool
is_access(struct device *dev, uint32_t offset, uint32_t size)
{
	if ((size == 4 || size == 8) && offset % size == 0)
		return true;
	violation(dev, V_REGISTER, "%u bytes accessed at 0x%x", size, offset);
	return false;
}

uint64_t
controller_read(struct device *dev, uint32_t offset, uint32_t size)
{
	uint64_t value;

	if (!is_access(dev, offset, size))
		return 0;
	value = read_word(dev, offset);
	return size == 8 ? value | (uint64_t)read_word(dev, offset + 4) << 32 : value;
}

void
controller_write(struct device *dev, uint32_t offset, uint32_t size, uint64_t value)
{
	if (!is_access(dev, offset, size))
		return;
	write_word(dev, offset, (uint32_t)value);
	if (size == 8)
		write_word(dev, offset + 4, (uint32_t)(value >> 32));
}

/* ---- time ---- */

static void
check_keep_alive(struct device *dev, uint64_t now)
{
	struct controller *controller = &dev->controller;
	uint64_t timeout = controller->features.values[NVME_FEAT_FID_KATO] * MS;

	if (timeout != 0 && controller_runs(dev) && now > controller->keep_alive_seen + timeout)
		controller_fatal(dev);
}

void
controller_tick(struct device *dev, uint64_t now)
{
	struct controller *controller = &dev->controller;

	if (controller->ready_at != 0 && now >= controller->ready_at && dev->settings.ready) {
		controller->ready_at = 0;
		controller->csts |= NVME_CSTS_RDY_MASK;
	}
	check_keep_alive(dev, now);
	commands_run_delayed(dev, now);
	events_deliver(dev);
	for (uint32_t i = 0; i < MAX_QUEUES; i++)
		queue_signal(dev, &controller->cqs[i]);
}
