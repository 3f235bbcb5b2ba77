/* SPDX-License-Identifier: BSD-3-Clause */
/* Log pages (NVMe 1.4 §5.14). */
#include <errno.h>
#include <string.h>

#include "start.h"

#define ERRORS_MAX (NVME_ADMIN_DATA_MAX / sizeof(struct nvme_error_log_page))

int
nvme_log_page(struct nvme_ctrlr *ctrlr, uint8_t id, void *data, uint32_t length)
{
	/* Its length in double words, from 0 on. Bit 15 is 0: the event may come again. */
	struct nvme_admin_call call = {.command = {.opcode = nvme_admin_get_log_page,
						   .nsid = NVME_NSID_ALL,
						   .cdw10 = (length / 4 - 1) << 16 | id},
				       .data = data,
				       .length = length};

	return nvme_admin_call(ctrlr, &call);
}

int
nvme_get_health(struct nvme_ctrlr *ctrlr, struct nvme_smart_log *health)
{
	return nvme_log_page(ctrlr, NVME_LOG_LID_SMART, health, sizeof(*health));
}

int
nvme_get_errors(struct nvme_ctrlr *ctrlr, struct nvme_error_log_page *errors, uint32_t *count)
{
	uint32_t max = ctrlr->id->elpe + 1u, used = 0;
	int rc;

	if (max > *count)
		max = *count;
	if (max > ERRORS_MAX)
		max = ERRORS_MAX;
	*count = 0;
	if (max == 0)
		return 0;
	rc = nvme_log_page(ctrlr, NVME_LOG_LID_ERROR, errors,
			   max * (uint32_t)sizeof(struct nvme_error_log_page));
	if (rc != 0)
		return rc;
	/* An entry without a number was never used, nor are those behind it. */
	while (used < max && errors[used].error_count != 0)
		used++;
	*count = used;
	return 0;
}
