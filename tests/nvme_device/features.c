/* SPDX-License-Identifier: BSD-3-Clause */
/* Features (NVMe 1.4 §5.21), and log pages (§5.14). */
#include <string.h>

#include "device.h"

#define DNR(status)          ((uint16_t)((status) | NVME_SC_DNR))
#define COMMAND_SPECIFIC(sc) DNR(STATUS(NVME_SCT_CMD_SPECIFIC, sc))
#define CHANGEABLE           4 /* of the answer to "supported capabilities" */
#define SELECT_CURRENT       0
#define SELECT_CAPABILITIES  3
#define SAVE                 (1U << 31)
#define RETAIN_EVENT         (1U << 15)

static const struct {
	bool exists;

	uint32_t initial;
} known[256] = {
	[NVME_FEAT_FID_ARBITRATION] = {.exists = true},
	[NVME_FEAT_FID_POWER_MGMT] = {.exists = true},
	[NVME_FEAT_FID_TEMP_THRESH] = {.exists = true, .initial = 343},
	[NVME_FEAT_FID_ERR_RECOVERY] = {.exists = true},
	[NVME_FEAT_FID_VOLATILE_WC] = {.exists = true, .initial = 1},
	[NVME_FEAT_FID_NUM_QUEUES] = {.exists = true},
	[NVME_FEAT_FID_IRQ_COALESCE] = {.exists = true},
	[NVME_FEAT_FID_IRQ_CONFIG] = {.exists = true},
	[NVME_FEAT_FID_WRITE_ATOMIC] = {.exists = true},
	[NVME_FEAT_FID_ASYNC_EVENT] = {.exists = true},
	[NVME_FEAT_FID_KATO] = {.exists = true},
};

void
features_reset(struct device *dev)
{
	for (uint32_t i = 0; i < 256; i++)
		dev->controller.features.values[i] = known[i].initial;
	memset(dev->controller.features.coalescing_off, 0,
	       sizeof(dev->controller.features.coalescing_off));
	dev->controller.io_queues = (uint32_t)dev->settings.queues;
}

static uint32_t
granted(const struct device *dev)
{
	uint32_t last = dev->controller.io_queues - 1;

	return last << 16 | last;
}

static uint16_t
set_queues(struct device *dev, uint32_t value, uint32_t *dw0)
{
	uint32_t submission = (value & 0xffff) + 1, completion = (value >> 16) + 1;
	uint32_t wanted = submission > completion ? submission : completion;

	if (wanted > 0xffff)
		return DNR(NVME_SC_INVALID_FIELD);
	if (dev->controller.active_count > 1) {
		violation(dev, V_QUEUE, "the number of queues is set after one was created");
		return DNR(NVME_SC_CMD_SEQ_ERROR);
	}
	dev->controller.io_queues =
		wanted < dev->settings.queues ? wanted : (uint32_t)dev->settings.queues;
	*dw0 = granted(dev);
	return 0;
}

static uint16_t
set_vector(struct device *dev, uint32_t value)
{
	uint32_t vector = value & 0xffff;
	uint32_t *word = &dev->controller.features.coalescing_off[vector / 32 % (MAX_VECTORS / 32)];

	if (vector >= MAX_VECTORS || vector >= dev->settings.vectors)
		return DNR(NVME_SC_INVALID_FIELD);
	*word &= ~(1U << vector % 32);
	*word |= NVME_GET(value, FEAT_ICFG_CD) << vector % 32;
	return 0;
}

uint16_t
set_features(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	uint8_t id = (uint8_t)sqe->cdw10;

	(void)sq;
	if (!known[id].exists || (id == NVME_FEAT_FID_VOLATILE_WC && !dev->settings.cache))
		return DNR(NVME_SC_INVALID_FIELD);
	if ((sqe->cdw10 & SAVE) != 0)
		return COMMAND_SPECIFIC(NVME_SC_FEATURE_NOT_SAVEABLE);
	if (id == NVME_FEAT_FID_NUM_QUEUES)
		return set_queues(dev, sqe->cdw11, dw0);
	if (id == NVME_FEAT_FID_IRQ_CONFIG)
		return set_vector(dev, sqe->cdw11);
	/* Only the temperature's upper threshold of the whole is kept. */
	if (id == NVME_FEAT_FID_TEMP_THRESH && (sqe->cdw11 & 0x3f0000) != 0)
		return 0;
	dev->controller.features.values[id] = sqe->cdw11;
	dev->controller.keep_alive_seen = now_ns();
	/* NVMe 1.4 §5.21.1.6: what is cached is written out before the cache is off. */
	for (uint32_t i = 0; i < MAX_NAMESPACES && id == NVME_FEAT_FID_VOLATILE_WC; i++)
		namespace_flush(&dev->namespaces[i]);
	return 0;
}

uint16_t
get_features(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	const struct features *features = &dev->controller.features;
	uint8_t id = (uint8_t)sqe->cdw10;
	uint32_t select = sqe->cdw10 >> 8 & 7, vector = sqe->cdw11 & 0xffff;

	(void)sq;
	if (!known[id].exists || (id == NVME_FEAT_FID_VOLATILE_WC && !dev->settings.cache))
		return DNR(NVME_SC_INVALID_FIELD);
	if (select == SELECT_CAPABILITIES)
		*dw0 = CHANGEABLE;
	else if (id == NVME_FEAT_FID_NUM_QUEUES)
		*dw0 = granted(dev);
	else if (select != SELECT_CURRENT)
		*dw0 = known[id].initial;
	else if (id == NVME_FEAT_FID_IRQ_CONFIG)
		*dw0 = vector >= MAX_VECTORS
			       ? vector
			       : vector | (features->coalescing_off[vector / 32] >> vector % 32 & 1)
						  << NVME_FEAT_ICFG_CD_SHIFT;
	else
		*dw0 = features->values[id];
	return 0;
}

/* ---- log pages ---- */

void
log_error(struct device *dev, const struct sq *sq, uint16_t cid, uint16_t status)
{
	memmove(&dev->error_log[1], &dev->error_log[0],
		(ERROR_ENTRIES - 1) * sizeof(*dev->error_log));
	dev->error_log[0] = (struct nvme_error_log_page){
		.error_count = ++dev->statistics.errors,
		.sqid = sq->id,
		.cmdid = cid,
		.status_field = (uint16_t)(status << 1),
		.parm_error_location = 0xffff,
	};
}

struct log_page {
	uint8_t data[NVME_IDENTIFY_DATA_SIZE];
	uint32_t size;
};

static void
count_in(uint8_t field[16], uint64_t value)
{
	memcpy(field, &value, sizeof(value));
}

static void
log_errors(struct device *dev, struct log_page *page)
{
	page->size = sizeof(dev->error_log);
	memcpy(page->data, dev->error_log, page->size);
}

static void
log_smart(struct device *dev, struct log_page *page)
{
	const struct statistics *statistics = &dev->statistics;
	struct nvme_smart_log smart = {
		.avail_spare = 100,
		.spare_thresh = 10,
		.percent_used = 1,
	};
	uint16_t kelvin = (uint16_t)dev->settings.temperature;

	if (kelvin >= dev->controller.features.values[NVME_FEAT_FID_TEMP_THRESH])
		smart.critical_warning |= NVME_SMART_CRIT_TEMPERATURE;
	memcpy(smart.temperature, &kelvin, sizeof(kelvin));
	/* In thousands of 512 bytes, rounded up. */
	count_in(smart.data_units_read, (statistics->blocks_read + 999) / 1000);
	count_in(smart.data_units_written, (statistics->blocks_written + 999) / 1000);
	count_in(smart.host_reads,
		 statistics->io[nvme_cmd_read] + statistics->io[nvme_cmd_compare]);
	count_in(smart.host_writes, statistics->io[nvme_cmd_write]);
	count_in(smart.power_cycles, 1);
	count_in(smart.unsafe_shutdowns, statistics->unsafe_shutdowns);
	count_in(smart.num_err_log_entries, statistics->errors);
	page->size = sizeof(smart);
	memcpy(page->data, &smart, sizeof(smart));
}

static void
log_firmware(struct device *dev, struct log_page *page)
{
	struct nvme_firmware_slot slots = {.afi = 1};

	(void)dev;
	memcpy(slots.frs[0], "1.0     ", sizeof(slots.frs[0]));
	page->size = sizeof(slots);
	memcpy(page->data, &slots, sizeof(slots));
}

/* More than fit: the first says all (NVMe 1.4 §5.14.1.4). There are fewer namespaces than that. */
static void
log_changed_namespaces(struct device *dev, struct log_page *page)
{
	struct controller *controller = &dev->controller;

	page->size = sizeof(controller->changed_namespaces);
	memcpy(page->data, controller->changed_namespaces,
	       controller->changed_count * sizeof(uint32_t));
	controller->changed_count = 0;
}

uint16_t
get_log_page(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	static void (*const pages[256])(struct device *, struct log_page *) = {
		[NVME_LOG_LID_ERROR] = log_errors,
		[NVME_LOG_LID_SMART] = log_smart,
		[NVME_LOG_LID_FW_SLOT] = log_firmware,
		[NVME_LOG_LID_CHANGED_NS] = log_changed_namespaces,
	};
	static struct log_page page;
	uint8_t id = (uint8_t)sqe->cdw10;
	uint64_t length = ((uint64_t)(sqe->cdw11 & 0xffff) << 16 | sqe->cdw10 >> 16) * 4 + 4;
	uint64_t offset = (uint64_t)sqe->cdw13 << 32 | sqe->cdw12;
	uint16_t status;

	(void)sq;
	(void)dw0;
	if (pages[id] == NULL)
		return COMMAND_SPECIFIC(NVME_SC_INVALID_LOG_PAGE);
	memset(&page, 0, sizeof(page));
	pages[id](dev, &page);
	if (offset % 4 != 0 || offset > page.size || length > 1 << 20)
		return DNR(NVME_SC_INVALID_FIELD);
	page.size -= (uint32_t)offset;
	status = transfer_answer(dev, sqe, page.data + offset,
				 length < page.size ? length : page.size, length);
	if (status == 0 && (sqe->cdw10 & RETAIN_EVENT) == 0)
		events_log_was_read(dev, id);
	return status;
}
