/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asynchronous events (NVMe 1.4 §5.2): what the controller tells us, and what we tell its owner. An
 * event comes again only after its log page was read.
 */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "start.h"

#define HEALTH_US        60000000u /* how often, while there are warnings */
#define EVENT_TYPE(dw0)  ((dw0)&7)
#define EVENT_INFO(dw0)  ((dw0) >> 8 & 0xff)
#define EVENT_LOG(dw0)   ((dw0) >> 16 & 0xff)
#define UNKNOWN_LOG_SIZE 512 /* bytes that are read of it, to see it again */

/* ---- telling the owner ---- */

/* What it does may take its time, and may need the keeper: hence a coroutine of its own. */
static void
teller_run(void *arg)
{
	struct nvme_ctrlr *ctrlr = arg;

	while (ctrlr->events_pending != 0 && ctrlr->detaching == NULL) {
		enum nvme_event event = (enum nvme_event)__builtin_ctz(ctrlr->events_pending);

		ctrlr->events_pending &= ~(1u << event);
		ctrlr->event(ctrlr->event_ctx, event);
	}
	ctrlr->teller_runs = false;
}

void
nvme_ctrlr_tell(struct nvme_ctrlr *ctrlr, enum nvme_event event)
{
	if (ctrlr->event == NULL || ctrlr->attaching != NULL)
		return;
	ctrlr->events_pending |= 1u << event;
	nvme_ctrlr_tell_pending(ctrlr);
}

void
nvme_ctrlr_tell_pending(struct nvme_ctrlr *ctrlr)
{
	if (ctrlr->teller_runs || ctrlr->events_pending == 0 || ctrlr->detaching != NULL)
		return;
	/* When there is no memory the keeper tries again. */
	ctrlr->teller_runs = coroutine_start(ctrlr->app, "nvme.event", teller_run, ctrlr) == 0;
}

/* ---- health ---- */

static void
log_warnings(struct nvme_ctrlr *ctrlr, const struct nvme_smart_log *health)
{
	static const struct {
		uint8_t bit;
		const char *text;
	} warnings[] = {
		{NVME_SMART_CRIT_SPARE, "little spare space is left"},
		{NVME_SMART_CRIT_TEMPERATURE, "its temperature is beyond a threshold"},
		{NVME_SMART_CRIT_DEGRADED, "it is less reliable"},
		{NVME_SMART_CRIT_MEDIA, "its media is read-only"},
		{NVME_SMART_CRIT_VOLATILE_MEMORY, "the backup of its volatile memory has failed"},
		{NVME_SMART_CRIT_PMR_RO, "its persistent memory region is unreliable"},
	};

	for (size_t i = 0; i < sizeof(warnings) / sizeof(warnings[0]); i++) {
		if ((health->critical_warning & ~ctrlr->critical_warning & warnings[i].bit) != 0)
			ctrlr_log(warn, ctrlr, "health: %s", warnings[i].text);
	}
	if (health->critical_warning == 0)
		ctrlr_log(notice, ctrlr, "health: no critical warning any more");
}

void
nvme_health_serve(struct nvme_ctrlr *ctrlr)
{
	struct nvme_smart_log health;

	ctrlr->health_at = nvme_deadline(HEALTH_US);
	if (nvme_get_health(ctrlr, &health) != 0)
		return;
	if (health.critical_warning == 0)
		ctrlr->health_at = 0;
	if (health.critical_warning == ctrlr->critical_warning)
		return;
	log_warnings(ctrlr, &health);
	ctrlr->critical_warning = health.critical_warning;
	nvme_ctrlr_tell(ctrlr, NVME_EVENT_HEALTH);
}

/* ---- what the controller tells ---- */

static void
error_event(struct nvme_ctrlr *ctrlr, uint32_t dw0)
{
	struct nvme_error_log_page error = {0};
	uint32_t count = 1;

	nvme_get_errors(ctrlr, &error, &count);
	ctrlr_log(warn, ctrlr, "it reports an error (0x%x): queue %u, command %u: %s",
		  EVENT_INFO(dw0), error.sqid, error.cmdid,
		  nvme_status_name(error.status_field >> 1 & NVME_STATUS_MASK));
}

void
nvme_namespaces_serve(struct nvme_ctrlr *ctrlr)
{
	bool tells = (ctrlr->id->oaes & NVME_CTRL_OAES_NA) != 0;
	struct nvme_ns_list list;
	struct errmsg err = {""};
	int rc = 0;

	/* All are looked at, whatever it says; reading it is what lets the event come again. */
	if (tells)
		rc = nvme_log_page(ctrlr, NVME_LOG_LID_CHANGED_NS, &list, sizeof(list));
	if (rc != 0)
		err_set(&err, rc, "Get Log Page: %s", strerror(-rc));
	if (nvme_namespaces_scan(ctrlr, &err) == 0 && rc == 0)
		return;
	ctrlr->scan_at = nvme_deadline(nvme_retry_ms * 1000ull);
	ctrlr_log(warn, ctrlr, "its namespaces have changed, and cannot be read: %s",
		  nvme_ctrlr_reason(ctrlr, &err));
}

static void
other_event(struct nvme_ctrlr *ctrlr, uint32_t dw0)
{
	uint8_t data[UNKNOWN_LOG_SIZE];

	ctrlr_log(info, ctrlr, "event of type %u, 0x%x", EVENT_TYPE(dw0), EVENT_INFO(dw0));
	if (EVENT_LOG(dw0) != 0)
		nvme_log_page(ctrlr, (uint8_t)EVENT_LOG(dw0), data, sizeof(data));
}

static void
take_event(struct nvme_ctrlr *ctrlr, uint32_t dw0)
{
	if (EVENT_TYPE(dw0) == NVME_AER_ERROR)
		error_event(ctrlr, dw0);
	else if (EVENT_TYPE(dw0) == NVME_AER_SMART)
		nvme_health_serve(ctrlr);
	else if (EVENT_TYPE(dw0) == NVME_AER_NOTICE &&
		 EVENT_INFO(dw0) == NVME_AER_NOTICE_NS_CHANGED)
		nvme_namespaces_serve(ctrlr);
	else
		other_event(ctrlr, dw0);
}

void
nvme_events_serve(struct nvme_ctrlr *ctrlr)
{
	struct nvme_admin *admin = &ctrlr->admin;
	uint32_t events[NVME_MAX_EVENTS], count = admin->event_count;

	memcpy(events, admin->events, sizeof(events));
	admin->event_count = 0;
	nvme_ctrlr_limit_commands(ctrlr, 1);
	for (uint32_t i = 0; i < count; i++)
		take_event(ctrlr, events[i]);
	nvme_ctrlr_limit_commands(ctrlr, 0);
	/* Not before: a controller that floods us waits for us. */
	nvme_admin_request_events(ctrlr);
}
