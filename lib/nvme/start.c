/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From a controller in any state to one that takes commands, and back to one that is off (NVMe 1.4
 * §7.6.1, §7.6.2): registers, then what it says of itself. The same for the first time and for
 * each reset.
 */
#include "start.h"

#include <errno.h>
#include <string.h>

#include "env.h"
#include "log.h"
#include "transport.h"

#define TIMEOUT_UNIT_US       500000u   /* of CAP.TO */
#define FIRST_LOOK_US         100       /* at a register that is to change, ... */
#define LAST_LOOK_US          10000     /* ... less and less often */
#define SHUTDOWN_US           10000000u /* where RTD3E does not say (NVMe 1.4 §7.6.2) */
#define SHUTDOWN_MAX_US       60000000u /* whatever it says */
#define MPSMIN_MAX            4         /* 64 KiB */
#define SQE_SHIFT             6
#define CQE_SHIFT             4
#define MDTS_MAX              16  /* beyond: no limit that we could meet */
#define DSM_RANGES_MAX        256 /* NVMe 1.4 §6.7 */
#define KEEP_ALIVE_PARTS      3   /* one is sent so often in each KATO */
#define CSTS_FATAL            (1u << NVME_CSTS_CFS_SHIFT)
#define VERSION(major, minor) ((major) << 16 | (minor) << 8)

/* ---- registers ---- */

static uint64_t
read_register(struct nvme_ctrlr *ctrlr, uint32_t offset, uint32_t size)
{
	return ctrlr->transport->ops->read(ctrlr->transport, offset, size);
}

static void
write_register(struct nvme_ctrlr *ctrlr, uint32_t offset, uint32_t size, uint64_t value)
{
	ctrlr->transport->ops->write(ctrlr->transport, offset, size, value);
}

static bool
is_gone(const struct nvme_ctrlr *ctrlr)
{
	return atomic_load(&ctrlr->transport->gone);
}

uint64_t
nvme_ctrlr_ready_timeout_us(const struct nvme_ctrlr *ctrlr)
{
	uint64_t units = NVME_CAP_TO(ctrlr->cap);

	return (units > 0 ? units : 1) * TIMEOUT_UNIT_US;
}

/* [waits] until (CSTS & mask) is value. 0, -ETIMEDOUT, -ENODEV, -EIO (fatal), -ECANCELED. */
static int
wait_for_status(struct nvme_ctrlr *ctrlr, uint32_t mask, uint32_t value, bool fatal_ends,
		uint64_t timeout_us)
{
	uint64_t deadline = nvme_deadline(timeout_us), pause = FIRST_LOOK_US;

	for (;;) {
		uint32_t csts = (uint32_t)read_register(ctrlr, NVME_REG_CSTS, 4);

		if (is_gone(ctrlr))
			return -ENODEV;
		if (fatal_ends && (csts & CSTS_FATAL) != 0)
			return -EIO;
		if ((csts & mask) == value)
			return 0;
		if (nvme_ctrlr_is_cancelled(ctrlr))
			return -ECANCELED;
		if (nvme_us_until(deadline) == 0)
			return -ETIMEDOUT;
		coroutine_sleep(pause);
		pause = pause * 2 < LAST_LOOK_US ? pause * 2 : LAST_LOOK_US;
	}
}

static int
wait_ready(struct nvme_ctrlr *ctrlr, bool ready)
{
	return wait_for_status(ctrlr, NVME_CSTS_RDY_MASK, ready, ready,
			       nvme_ctrlr_ready_timeout_us(ctrlr));
}

static int
explain(struct nvme_ctrlr *ctrlr, int rc, const char *what, struct errmsg *err)
{
	switch (rc) {
	case -ETIMEDOUT:
		return ctrlr_err(ctrlr, err, rc, "%s within %u ms (CAP.TO)", what,
				 (unsigned int)(nvme_ctrlr_ready_timeout_us(ctrlr) / 1000));
	case -EIO:
		return ctrlr_err(ctrlr, err, rc, "%s: it reports a fatal error (CSTS.CFS)", what);
	case -ENODEV:
		return ctrlr_err(ctrlr, err, rc, "the device is gone");
	default:
		return ctrlr_err(ctrlr, err, rc, "%s: %s", what, strerror(-rc));
	}
}

int
nvme_ctrlr_read_capabilities(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	uint64_t cap = read_register(ctrlr, NVME_REG_CAP, 8);
	uint32_t version = (uint32_t)read_register(ctrlr, NVME_REG_VS, 4);
	uint32_t stride = NVME_CAP_DSTRD(cap);

	if (is_gone(ctrlr))
		return explain(ctrlr, -ENODEV, "", err);
	if (NVME_CAP_MQES(cap) == 0)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "CAP.MQES is 0: a queue has two entries at least");
	if (NVME_CAP_MPSMIN(cap) > MPSMIN_MAX)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "CAP.MPSMIN is %u: pages larger than 64 KiB are not supported",
				 (unsigned int)NVME_CAP_MPSMIN(cap));
	if ((NVME_CAP_CSS(cap) & (NVME_CAP_CSS_NVM | NVME_CAP_CSS_CSI)) == 0)
		return ctrlr_err(ctrlr, err, -EINVAL, "CAP.CSS is 0x%x: it has no NVM command set",
				 (unsigned int)NVME_CAP_CSS(cap));
	/* The admin queue's doorbells, and those of one I/O queue pair. */
	if ((4ull << stride) * 4 > ctrlr->transport->doorbells_size)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "CAP.DSTRD is %u: its doorbells are beyond what is mapped",
				 stride);
	if (ctrlr->cap != 0 && ctrlr->cap != cap)
		return ctrlr_err(ctrlr, err, -EINVAL, "its capabilities have changed");
	ctrlr->cap = cap;
	ctrlr->stride = stride;
	ctrlr->page_size = NVME_PAGE_SIZE << NVME_CAP_MPSMIN(cap);
	ctrlr->info.version = version;
	return 0;
}

/* ---- off ---- */

/* Its last resort: the device's memory accesses end, whatever it does. */
static int
cut_off(struct nvme_ctrlr *ctrlr)
{
	int rc = ctrlr->transport->ops->set_bus_master(ctrlr->transport, false);

	/* If not, the next attempt tries that, too. */
	ctrlr->cut_off = rc == 0;
	ctrlr_log(warn, ctrlr, "it does not stop: it is cut off from memory%s%s",
		  rc != 0 ? ": " : "", rc != 0 ? strerror(-rc) : "");
	return rc;
}

static int
clear_enable(struct nvme_ctrlr *ctrlr)
{
	uint32_t cc = (uint32_t)read_register(ctrlr, NVME_REG_CC, 4);
	uint32_t csts = (uint32_t)read_register(ctrlr, NVME_REG_CSTS, 4);

	if (is_gone(ctrlr))
		return -ENODEV;
	/* Somebody else may have just enabled it: it must not be disabled before it is ready. */
	if (NVME_CC_EN(cc) && !ctrlr->running && (csts & (NVME_CSTS_RDY_MASK | CSTS_FATAL)) == 0) {
		int rc = wait_ready(ctrlr, true);

		if (rc == -ENODEV || rc == -ECANCELED)
			return rc;
	}
	write_register(ctrlr, NVME_REG_CC, 4, cc & ~(1u | NVME_CC_SHN_MASK << NVME_CC_SHN_SHIFT));
	return wait_ready(ctrlr, false);
}

int
nvme_ctrlr_turn_off(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = clear_enable(ctrlr);

	if (rc == -ETIMEDOUT && ctrlr->transport->ops->reset(ctrlr->transport) == 0) {
		ctrlr_log(warn, ctrlr, "it was not off within CAP.TO, and was reset as a function");
		rc = wait_ready(ctrlr, false);
	}
	if (rc == 0)
		ctrlr->running = false;
	else if (ctrlr->running && rc != -ECANCELED && rc != -ENODEV && !ctrlr->cut_off)
		cut_off(ctrlr);
	return rc == 0 ? 0 : explain(ctrlr, rc, "it does not turn off (CSTS.RDY)", err);
}

/* ---- on ---- */

static int
turn_on(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	const struct nvme_queue *queue = &ctrlr->admin.queue;
	uint32_t cc = 1u | NVME_CAP_MPSMIN(ctrlr->cap) << NVME_CC_MPS_SHIFT |
		      SQE_SHIFT << NVME_CC_IOSQES_SHIFT | CQE_SHIFT << NVME_CC_IOCQES_SHIFT;
	int rc;

	if ((NVME_CAP_CSS(ctrlr->cap) & NVME_CAP_CSS_NVM) == 0)
		cc |= NVME_CC_CSS_CSI << NVME_CC_CSS_SHIFT;
	if (ctrlr->cut_off) {
		rc = ctrlr->transport->ops->set_bus_master(ctrlr->transport, true);
		if (rc != 0)
			return explain(ctrlr, rc, "bus mastering", err);
		ctrlr->cut_off = false;
	}
	rc = nvme_admin_open(ctrlr);
	if (rc != 0)
		return explain(ctrlr, rc, "admin queue", err);
	write_register(ctrlr, NVME_REG_AQA, 4, (queue->entries - 1) << 16 | (queue->entries - 1));
	write_register(ctrlr, NVME_REG_ASQ, 8, queue->sq_iova);
	write_register(ctrlr, NVME_REG_ACQ, 8, queue->cq_iova);
	write_register(ctrlr, NVME_REG_CC, 4, cc);
	ctrlr->running = true;
	rc = wait_ready(ctrlr, true);
	return rc == 0 ? 0 : explain(ctrlr, rc, "it does not become ready (CSTS.RDY)", err);
}

/* ---- what it says of itself ---- */

static void
copy_text(char *to, const char *from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : ' ';
	while (size > 0 && to[size - 1] == ' ')
		size--;
	to[size] = '\0';
}

/* A name that ends with its NUL. */
static void
copy_name(char *to, const char *from, size_t size)
{
	copy_text(to, from, strnlen(from, size - 1));
}

/* CC.MPS is not what MDTS counts in, CAP.MPSMIN is (NVMe 1.4, figure 247). */
static uint64_t
in_pages(const struct nvme_ctrlr *ctrlr, uint8_t shift)
{
	return (uint64_t)(NVME_PAGE_SIZE << NVME_CAP_MPSMIN(ctrlr->cap)) << shift;
}

static uint64_t
max_transfer_of(const struct nvme_ctrlr *ctrlr, const struct nvme_id_ctrl *id)
{
	uint64_t max = NVME_MAX_TRANSFER;

	if (id->mdts > 0 && id->mdts <= MDTS_MAX && in_pages(ctrlr, id->mdts) < max)
		max = in_pages(ctrlr, id->mdts);
	return max;
}

/*
 * After a reset it is the device that it was, and as good for the disks that were made of it: they
 * split by MDTS, and do not flush where nothing is cached. New firmware may break that.
 */
static int
check_identity(struct nvme_ctrlr *ctrlr, const struct nvme_id_ctrl *id, struct errmsg *err)
{
	if (memcmp(id->sn, ctrlr->id->sn, sizeof(id->sn)) != 0 ||
	    memcmp(id->mn, ctrlr->id->mn, sizeof(id->mn)) != 0)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "another device is in its place: not serial number %s any more",
				 ctrlr->info.serial);
	if (max_transfer_of(ctrlr, id) < ctrlr->info.max_transfer)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "it takes less data at a time than before (MDTS): detach it, and "
				 "attach it again");
	if ((id->vwc & NVME_CTRL_VWC_PRESENT) != 0 && !ctrlr->info.write_cache)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "it has a volatile write cache, which it had not before (VWC): "
				 "detach it, and attach it again");
	return 0;
}

static int
check_controller(struct nvme_ctrlr *ctrlr, const struct nvme_id_ctrl *id, struct errmsg *err)
{
	if ((id->sqes & 15) > SQE_SHIFT || id->sqes >> 4 < SQE_SHIFT)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "identify data: SQES is 0x%02x: no entries of 64 bytes", id->sqes);
	if ((id->cqes & 15) > CQE_SHIFT || id->cqes >> 4 < CQE_SHIFT)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "identify data: CQES is 0x%02x: no entries of 16 bytes", id->cqes);
	/* 0: not reported (before NVMe 1.4). */
	if (id->cntrltype > NVME_CTRL_CNTRLTYPE_IO)
		return ctrlr_err(ctrlr, err, -EINVAL,
				 "identify data: CNTRLTYPE is %u: it is not an I/O controller",
				 id->cntrltype);
	return ctrlr->has_identity ? check_identity(ctrlr, id, err) : 0;
}

static void
note_controller(struct nvme_ctrlr *ctrlr)
{
	const struct nvme_id_ctrl *id = ctrlr->id;
	struct nvme_ctrlr_info *info = &ctrlr->info;

	info->vendor_id = id->vid;
	info->subsystem_vendor_id = id->ssvid;
	info->cntlid = id->cntlid;
	copy_text(info->model, id->mn, sizeof(id->mn));
	copy_text(info->serial, id->sn, sizeof(id->sn));
	copy_text(info->firmware, id->fr, sizeof(id->fr));
	copy_name(info->subnqn, id->subnqn, sizeof(info->subnqn));
	/* More than before is more than there are buffers for. */
	if (!ctrlr->has_identity)
		info->max_transfer = max_transfer_of(ctrlr, id);
	/*
	 * Whether it is on now does not matter: a reset may switch it on again, or another
	 * controller of the subsystem.
	 */
	info->write_cache |= (id->vwc & NVME_CTRL_VWC_PRESENT) != 0;
	info->oncs = id->oncs;
	info->fuses = id->fuses;
	info->sgl = (id->sgls & NVME_CTRL_SGLS_SUPPORTED) != 0;
	ctrlr->sgl_rules = info->sgl ? id->sgls : 0;
	info->max_dsm_ranges = DSM_RANGES_MAX;
	info->max_dsm_blocks = UINT32_MAX;
	info->max_write_zeroes = 0;
}

static int
identify_controller(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	struct nvme_id_ctrl *id = &ctrlr->id[1];
	struct nvme_admin_call call = {
		.command = {.opcode = nvme_admin_identify, .cdw10 = NVME_IDENTIFY_CNS_CTRL},
		.data = id,
		.length = sizeof(*id)};
	int rc = nvme_admin_call_named(ctrlr, &call, "Identify Controller", err);

	if (rc == 0)
		rc = check_controller(ctrlr, id, err);
	if (rc != 0)
		return rc;
	ctrlr->id[0] = *id;
	note_controller(ctrlr);
	ctrlr->has_identity = true;
	return 0;
}

/* How many blocks the ranges of one Dataset Management may have together; 0: any number. */
static void
note_dsm_sum(struct nvme_ctrlr_info *info, uint64_t blocks)
{
	if (blocks == 0)
		return;
	if (info->max_dsm_blocks > blocks)
		info->max_dsm_blocks = blocks;
	if (info->max_dsm_ranges > blocks / info->max_dsm_blocks)
		info->max_dsm_ranges = (uint32_t)(blocks / info->max_dsm_blocks);
}

/* NVM Command Set 1.0 §4.1.5.2. It need not know this one. */
static int
identify_limits(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	struct nvme_ctrlr_info *info = &ctrlr->info;
	struct nvme_id_ctrl_nvm limits;
	_Static_assert(sizeof(limits) == NVME_ADMIN_DATA_MAX, "NVM Command Set 1.0 §4.1.5.2");
	struct nvme_admin_call call = {
		.command = {.opcode = nvme_admin_identify, .cdw10 = NVME_IDENTIFY_CNS_CSI_CTRL},
		.data = &limits,
		.length = sizeof(limits)};
	int rc;

	if (info->version < VERSION(1, 4))
		return 0;
	rc = nvme_admin_call_named(ctrlr, &call, "Identify Controller (NVM)", err);
	if (rc != 0)
		return call.status != 0 ? 0 : rc;
	if (limits.dmrl != 0)
		info->max_dsm_ranges = limits.dmrl;
	if (limits.dmrsl != 0)
		info->max_dsm_blocks = limits.dmrsl;
	note_dsm_sum(info, limits.dmsl);
	if (limits.wzsl != 0 && limits.wzsl <= MDTS_MAX)
		info->max_write_zeroes = in_pages(ctrlr, limits.wzsl);
	return 0;
}

/* ---- features ---- */

static int
feature(struct nvme_ctrlr *ctrlr, uint8_t opcode, uint8_t id, uint32_t value, uint32_t *result,
	const char *what, struct errmsg *err)
{
	struct nvme_admin_call call = {.command = {.opcode = opcode, .cdw10 = id, .cdw11 = value}};
	int rc = nvme_admin_call_named(ctrlr, &call, what, err);

	*result = call.result;
	/* A device that does not know it: > 0. */
	return rc != 0 && call.status != 0 ? 1 : rc;
}

static int
set_queue_count(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	uint32_t last = ctrlr->qpair_count - 1, result = 0, granted;
	int rc = feature(ctrlr, nvme_admin_set_features, NVME_FEAT_FID_NUM_QUEUES,
			 last << 16 | last, &result, "Number of Queues", err);

	if (rc != 0)
		return rc > 0 ? -EIO : rc;
	granted = NVME_GET(result, FEAT_NRQS_NSQR);
	if (NVME_GET(result, FEAT_NRQS_NCQR) < granted)
		granted = NVME_GET(result, FEAT_NRQS_NCQR);
	ctrlr->info.io_queues = (granted < last ? granted : last) + 1;
	pthread_mutex_lock(&ctrlr->lock);
	ctrlr->qpairs_granted = ctrlr->info.io_queues;
	pthread_mutex_unlock(&ctrlr->lock);
	return 0;
}

static int
configure_doorbell_buffers(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	struct nvme_admin_call call = {.command = {.opcode = nvme_admin_dbbuf},
				       .prp1 = ctrlr->dbbuf_iova,
				       .prp2 = ctrlr->dbbuf_iova + NVME_PAGE_SIZE};
	int rc;

	ctrlr->shadows = NULL;
	ctrlr->events = NULL;
	ctrlr->info.shadow_doorbells = false;
	if ((ctrlr->id->oacs & NVME_CTRL_OACS_DBBUF_CFG) == 0 ||
	    ctrlr->page_size != NVME_PAGE_SIZE ||
	    (2ull * ctrlr->qpair_count + 2) * (4ull << ctrlr->stride) > NVME_PAGE_SIZE)
		return 0;
	memset(ctrlr->dbbuf, 0, 2 * NVME_PAGE_SIZE);
	rc = nvme_admin_call_named(ctrlr, &call, "Doorbell Buffer Config", err);
	if (rc != 0)
		return call.status != 0 ? 0 : rc;
	ctrlr->shadows = ctrlr->dbbuf;
	ctrlr->events = (uint32_t *)(void *)((uint8_t *)ctrlr->dbbuf + NVME_PAGE_SIZE);
	ctrlr->info.shadow_doorbells = true;
	return 0;
}

/* Controllers behind PCIe need none, unless somebody has switched it on. */
static int
ask_for_keep_alive(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	uint32_t timeout_ms = 0;
	int rc;

	ctrlr->keep_alive_us = 0;
	if (ctrlr->id->kas == 0)
		return 0;
	rc = feature(ctrlr, nvme_admin_get_features, NVME_FEAT_FID_KATO, 0, &timeout_ms,
		     "Keep Alive Timer", err);
	if (rc == 0 && timeout_ms != 0) {
		ctrlr->keep_alive_us = (uint64_t)timeout_ms * 1000 / KEEP_ALIVE_PARTS;
		ctrlr->keep_alive_at = nvme_deadline(ctrlr->keep_alive_us);
	}
	return rc > 0 ? 0 : rc;
}

static int
ask_for_events(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	uint32_t wanted = NVME_SMART_CRIT_SPARE | NVME_SMART_CRIT_TEMPERATURE |
			  NVME_SMART_CRIT_DEGRADED | NVME_SMART_CRIT_MEDIA |
			  NVME_SMART_CRIT_VOLATILE_MEMORY;
	uint32_t max = ctrlr->id->aerl + 1u, result;
	int rc;

	if ((ctrlr->id->oaes & NVME_CTRL_OAES_NA) != 0)
		wanted |= NVME_FEAT_AE_NAN_MASK << NVME_FEAT_AE_NAN_SHIFT;
	rc = feature(ctrlr, nvme_admin_set_features, NVME_FEAT_FID_ASYNC_EVENT, wanted, &result,
		     "Asynchronous Event Configuration", err);
	if (rc > 0)
		ctrlr_log(notice, ctrlr, "it tells of no events: %s",
			  nvme_ctrlr_reason(ctrlr, err));
	if (rc < 0)
		return rc;
	ctrlr->admin.event_requests = max < NVME_MAX_EVENTS ? max : NVME_MAX_EVENTS;
	nvme_admin_request_events(ctrlr);
	return 0;
}

/* ---- all of it ---- */

static int (*const steps[])(struct nvme_ctrlr *ctrlr, struct errmsg *err) = {
	identify_controller, set_queue_count, configure_doorbell_buffers, ask_for_keep_alive,
	ask_for_events,      identify_limits, nvme_namespaces_scan,       nvme_qpairs_make,
};

int
nvme_ctrlr_start(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = turn_on(ctrlr, err);

	ctrlr->starting = true;
	nvme_ctrlr_limit_commands(ctrlr, NVME_START_TIMEOUTS);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && rc == 0; i++)
		rc = nvme_ctrlr_is_cancelled(ctrlr) ? -ECANCELED : steps[i](ctrlr, err);
	ctrlr->starting = false;
	nvme_ctrlr_limit_commands(ctrlr, 0);
	if (rc != 0)
		nvme_admin_close(ctrlr, -EIO);
	return rc;
}

void
nvme_ctrlr_shut_down(struct nvme_ctrlr *ctrlr)
{
	uint64_t timeout_us = ctrlr->id->rtd3e;
	struct errmsg err;
	uint32_t cc;
	int rc = 0;

	if (is_gone(ctrlr))
		return;
	if (!ctrlr->running)
		rc = turn_on(ctrlr, &err);
	if (timeout_us == 0)
		timeout_us = SHUTDOWN_US;
	cc = (uint32_t)read_register(ctrlr, NVME_REG_CC, 4);
	if (rc == 0 && !is_gone(ctrlr)) {
		write_register(ctrlr, NVME_REG_CC, 4,
			       (cc & ~(NVME_CC_SHN_MASK << NVME_CC_SHN_SHIFT)) |
				       NVME_CC_SHN_NORMAL << NVME_CC_SHN_SHIFT);
		rc = wait_for_status(ctrlr, NVME_CSTS_SHST_MASK << NVME_CSTS_SHST_SHIFT,
				     NVME_CSTS_SHST_CMPLT << NVME_CSTS_SHST_SHIFT, true,
				     timeout_us < SHUTDOWN_MAX_US ? timeout_us : SHUTDOWN_MAX_US);
	}
	if (rc != 0)
		ctrlr_log(warn, ctrlr, "it may not have written what it caches: %s",
			  rc == -ETIMEDOUT ? "the shutdown does not end" : strerror(-rc));
}

void
nvme_ctrlr_look(struct nvme_ctrlr *ctrlr)
{
	uint32_t csts;

	/* One that is cut off is tried again when it is time to. */
	if (!ctrlr->running || ctrlr->cut_off)
		return;
	csts = (uint32_t)read_register(ctrlr, NVME_REG_CSTS, 4);
	if (is_gone(ctrlr)) {
		nvme_admin_close(ctrlr, -ENODEV);
		nvme_ctrlr_work(ctrlr, NVME_WORK_GONE);
	} else if ((csts & CSTS_FATAL) != 0) {
		ctrlr_log(warn, ctrlr, "it reports a fatal error (CSTS 0x%x)", csts);
		nvme_admin_close(ctrlr, -EIO);
		nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
	}
}
