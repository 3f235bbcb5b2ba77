/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NVMe controller that a unit test plays, for tests of the control path: its registers, and an
 * admin queue that answers when the test lets it. Time is the test's: it jumps to the next moment
 * at which something is due.
 */
#ifndef NVME_CTRLR_RIG_H
#define NVME_CTRLR_RIG_H

#include "nvme_memory_rig.h"

#include "by_hand.h"
#include "coroutine.h"
#include "env.h"
#include "fault.h"
#include "log.h"
#include "nvme/ctrlr.h"
#include "nvme/transport.h"
#include "ticks.h"

#define RIG_CAP        (63ull | 1ull << 16 | 2ull << 24 | 1ull << 37) /* 64 entries, TO 1 s */
#define RIG_COMMANDS   4096
#define RIG_NAMESPACES 3u
#define RIG_ROUNDS     2000000
#define RIG_HELD       8 /* event requests */

enum rig_fault {
	RIG_STATUS,       /* Internal Error */
	RIG_STATUS_FINAL, /* Invalid Field, do not retry */
	RIG_LOSE,
	RIG_FATAL,
	RIG_GONE,
	RIG_NONSENSE,
	RIG_TWICE, /* completes the one before once more */
	RIG_FAULTS,
};

static struct {
	struct thread *app;
	struct nvme_ctrlr *ctrlr;
	struct nvme_opts opts;
	struct errmsg err;
	unsigned int events[NVME_EVENTS]; /* by enum nvme_event */
	void (*in_event)(void);           /* the owner's business when it is told; may be NULL */

	/* the transport */
	bool open;
	nvme_gone_fn gone;
	void *gone_ctx;
	int open_rc, interrupts_rc, reset_rc;
	uint32_t resets, interrupts;
	bool bus_master;
	uint32_t cut_offs;
	uint32_t vectors;

	/* registers */
	uint64_t cap;
	uint32_t vs, cc, csts, aqa;
	uint64_t asq, acq;
	bool never_ready, never_off, never_shut_down;
	uint32_t enables, shutdowns;

	/* the admin queue */
	uint32_t sq_head, cq_tail;
	bool phase;
	uint16_t previous; /* command's identifier */
	uint16_t held[RIG_HELD];
	uint32_t held_count;

	/* what it says */
	struct nvme_id_ctrl id;
	struct nvme_id_ns ns;
	struct nvme_id_ctrl_nvm limits;
	uint32_t nsids[NVME_ID_NS_LIST_MAX * 2]; /* active; 0 ends them */
	uint8_t command_set;
	uint16_t ns_status, descriptor_status; /* of Identify */
	uint32_t kato, queues;
	uint32_t aborted; /* CDW10 of the last Abort */

	/* what goes wrong: command number `at` of those with the opcode, `count` from there on */
	uint32_t commands;
	uint8_t opcode; /* 0: all */
	enum rig_fault fault;
	uint32_t at, count;
	bool hit;
	uint32_t by_opcode[256];
} rig;

/* ---- registers ---- */

static inline uint64_t
rig_read(struct nvme_transport *transport, uint32_t offset, uint32_t size)
{
	if (atomic_load(&transport->gone))
		return size == 8 ? UINT64_MAX : UINT32_MAX;
	switch (offset) {
	case NVME_REG_CAP:
		assert_int_equal(size, 8);
		return rig.cap;
	case NVME_REG_VS:
		return rig.vs;
	case NVME_REG_CC:
		return rig.cc;
	case NVME_REG_CSTS:
		return rig.csts;
	default:
		fail_msg("register 0x%x was read", offset);
		return 0;
	}
}

static inline void
rig_enable(void)
{
	rig.enables++;
	assert_int_equal(rig.csts & NVME_CSTS_RDY_MASK, 0);
	assert_int_equal(NVME_CC_IOSQES(rig.cc), 6);
	assert_int_equal(NVME_CC_IOCQES(rig.cc), 4);
	assert_int_equal(NVME_CC_MPS(rig.cc), NVME_CAP_MPSMIN(rig.cap));
	rig.csts = rig.never_ready ? 0 : NVME_CSTS_RDY_MASK;
	rig.sq_head = 0;
	rig.cq_tail = 0;
	rig.phase = true;
	rig.held_count = 0;
	rig.previous = UINT16_MAX;
	rig_memory.doorbells[0] = 0;
}

static inline void
rig_write(struct nvme_transport *transport, uint32_t offset, uint32_t size, uint64_t value)
{
	uint32_t before = rig.cc;

	(void)size;
	if (atomic_load(&transport->gone))
		return;
	switch (offset) {
	case NVME_REG_AQA:
		rig.aqa = (uint32_t)value;
		break;
	case NVME_REG_ASQ:
		rig.asq = value;
		break;
	case NVME_REG_ACQ:
		rig.acq = value;
		break;
	case NVME_REG_CC:
		rig.cc = (uint32_t)value;
		break;
	default:
		fail_msg("register 0x%x was written", offset);
	}
	if (offset != NVME_REG_CC) {
		assert_false(NVME_CC_EN(rig.cc));
		return;
	}
	if (NVME_CC_EN(rig.cc) && !NVME_CC_EN(before))
		rig_enable();
	else if (!NVME_CC_EN(rig.cc) && !rig.never_off)
		rig.csts = 0;
	if (NVME_CC_SHN(rig.cc) != 0 && NVME_CC_SHN(before) == 0) {
		rig.shutdowns++;
		if (!rig.never_shut_down)
			rig.csts |= NVME_CSTS_SHST_CMPLT << NVME_CSTS_SHST_SHIFT;
	}
}

/* ---- the transport ---- */

static inline int
rig_open(const char *traddr, nvme_gone_fn gone, void *ctx, struct nvme_transport **transport,
	 struct errmsg *err)
{
	if (rig.open_rc != 0)
		return err_set(err, rig.open_rc, "%s: nothing there", traddr);
	assert_false(rig.open);
	rig_memory.transport.gone = false;
	rig_memory.transport.ops = nvme_transports[0];
	rig_memory.transport.vectors = rig.vectors;
	rig.open = true;
	rig.gone = gone;
	rig.gone_ctx = ctx;
	rig.bus_master = true;
	*transport = &rig_memory.transport;
	return 0;
}

static inline void
rig_close(struct nvme_transport *transport)
{
	assert_true(rig.open);
	/* It does not use memory any more, or was never given any. */
	assert_true(atomic_load(&transport->gone) || !rig.bus_master || rig.enables == 0 ||
		    (rig.csts & NVME_CSTS_RDY_MASK) == 0);
	assert_int_equal(rig_memory.mapped, 0);
	rig.open = false;
}

static inline int
rig_set_interrupts(struct nvme_transport *transport, uint32_t count, int *fds)
{
	(void)transport;
	/* Before there are queues. */
	assert_false(NVME_CC_EN(rig.cc));
	assert_int_equal(rig.enables, 0);
	rig.interrupts = count;
	for (uint32_t i = 0; i < count; i++)
		fds[i] = -1;
	return rig.interrupts_rc;
}

static inline int
rig_set_bus_master(struct nvme_transport *transport, bool on)
{
	(void)transport;
	rig.bus_master = on;
	rig.cut_offs += !on;
	return 0;
}

static inline int
rig_reset(struct nvme_transport *transport)
{
	(void)transport;
	rig.resets++;
	if (rig.reset_rc == 0) {
		rig.csts = 0;
		rig.cc = 0;
	}
	return rig.reset_rc;
}

static const struct nvme_transport_ops rig_transport = {
	.name = "RIG",
	.open = rig_open,
	.close = rig_close,
	.read = rig_read,
	.write = rig_write,
	.set_interrupts = rig_set_interrupts,
	.set_bus_master = rig_set_bus_master,
	.reset = rig_reset,
};

const struct nvme_transport_ops *const nvme_transports[] = {&rig_transport, NULL};

static inline void
rig_take_away(void)
{
	atomic_store(&rig_memory.transport.gone, true);
	rig.gone(rig.gone_ctx);
}

/* ---- commands ---- */

static inline void
rig_complete(uint16_t cid, uint16_t status, uint32_t dw0)
{
	struct nvme_cqe *cqes = rig_at(rig.acq, ((rig.aqa >> 16) + 1) * sizeof(*cqes));
	struct nvme_cqe *cqe = &cqes[rig.cq_tail];

	*cqe = (struct nvme_cqe){.dw0 = dw0,
				 .sqhd = (uint16_t)rig.sq_head,
				 .cid = cid,
				 .status = (uint16_t)(status << 1 | rig.phase)};
	if (++rig.cq_tail > rig.aqa >> 16) {
		rig.cq_tail = 0;
		rig.phase = !rig.phase;
	}
}

static inline bool
rig_is_active(uint32_t nsid)
{
	for (uint32_t i = 0; rig.nsids[i] != 0; i++) {
		if (rig.nsids[i] == nsid)
			return true;
	}
	return false;
}

static inline uint16_t
rig_identify(const struct nvme_sqe *sqe, void *data)
{
	struct nvme_ns_list *list = data;
	uint8_t *descriptor = data;

	memset(data, 0, NVME_IDENTIFY_DATA_SIZE);
	switch (sqe->cdw10) {
	case NVME_IDENTIFY_CNS_CTRL:
		memcpy(data, &rig.id, sizeof(rig.id));
		return 0;
	case NVME_IDENTIFY_CNS_NS:
		if (rig.ns_status != 0)
			return rig.ns_status;
		if (rig_is_active(sqe->nsid))
			memcpy(data, &rig.ns, sizeof(rig.ns));
		return 0;
	case NVME_IDENTIFY_CNS_NS_ACTIVE_LIST:
		for (uint32_t i = 0, n = 0; rig.nsids[i] != 0 && n < NVME_ID_NS_LIST_MAX; i++) {
			/* A list that does not ascend says what it says. */
			if (rig.nsids[i] > sqe->nsid || sqe->nsid == 0)
				list->ns[n++] = rig.nsids[i];
		}
		return 0;
	case NVME_IDENTIFY_CNS_NS_DESC_LIST:
		if (rig.descriptor_status != 0)
			return rig.descriptor_status;
		descriptor[0] = NVME_NIDT_CSI;
		descriptor[1] = 1;
		descriptor[4] = rig.command_set;
		/* One that would end behind the data. */
		descriptor[5] = NVME_NIDT_UUID;
		descriptor[6] = 255;
		return 0;
	case NVME_IDENTIFY_CNS_CSI_CTRL:
		memcpy(data, &rig.limits, sizeof(rig.limits));
		return 0;
	default:
		return NVME_SC_INVALID_FIELD | NVME_DNR;
	}
}

static inline void
rig_run(const struct nvme_sqe *sqe)
{
	void *data = (sqe->opcode & 2) != 0 && sqe->opcode != nvme_admin_dbbuf && sqe->prp1 != 0
			     ? rig_at(sqe->prp1, NVME_IDENTIFY_DATA_SIZE)
			     : NULL;
	uint16_t status = 0;
	uint32_t dw0 = 0;

	rig.by_opcode[sqe->opcode]++;
	switch (sqe->opcode) {
	case nvme_admin_identify:
		status = rig_identify(sqe, data);
		break;
	case nvme_admin_set_features:
		if (sqe->cdw10 == NVME_FEAT_FID_NUM_QUEUES)
			dw0 = (rig.queues - 1) << 16 | (rig.queues - 1);
		break;
	case nvme_admin_get_features:
		/* The write cache is off just now. */
		dw0 = sqe->cdw10 == NVME_FEAT_FID_KATO ? rig.kato : 0;
		break;
	case nvme_admin_get_log_page:
		memset(data, 0, ((sqe->cdw10 >> 16) + 1) * 4);
		break;
	case nvme_admin_async_event:
		assert_true(rig.held_count < rig.id.aerl + 1u);
		rig.held[rig.held_count++] = sqe->cid;
		return;
	case nvme_admin_abort_cmd:
		dw0 = 1;
		break;
	default:
		break;
	}
	rig_complete(sqe->cid, status, dw0);
}

static inline void
rig_go_wrong(const struct nvme_sqe *sqe)
{
	rig.hit = true;
	switch (rig.fault) {
	case RIG_STATUS:
		rig_complete(sqe->cid, NVME_SC_INTERNAL, 0);
		return;
	case RIG_STATUS_FINAL:
		rig_complete(sqe->cid, NVME_SC_INVALID_FIELD | NVME_DNR, 0);
		return;
	case RIG_FATAL:
		rig.csts |= 1u << NVME_CSTS_CFS_SHIFT;
		return;
	case RIG_GONE:
		rig_take_away();
		return;
	case RIG_NONSENSE:
		rig_complete(sqe->cid ^ 0x100, 0, 0);
		return;
	case RIG_TWICE:
		rig_complete(rig.previous, 0, 0);
		return;
	default:
		return;
	}
}

/* Takes what is in the admin queue. */
static inline bool
rig_device_poll(void)
{
	bool busy = false;

	while (rig.open && rig.csts == NVME_CSTS_RDY_MASK && rig.bus_master &&
	       !rig_memory.transport.gone && rig.sq_head != rig_memory.doorbells[0]) {
		const struct nvme_sqe *sqes =
			rig_at(rig.asq, ((rig.aqa & 0xfff) + 1) * sizeof(*sqes));
		struct nvme_sqe sqe = sqes[rig.sq_head];

		busy = true;
		if (sqe.opcode == nvme_admin_abort_cmd)
			rig.aborted = sqe.cdw10;
		rig.sq_head = (rig.sq_head + 1) % ((rig.aqa & 0xfff) + 1);
		if ((rig.opcode == 0 || rig.opcode == sqe.opcode) &&
		    rig.commands++ - rig.at < rig.count)
			rig_go_wrong(&sqe);
		else
			rig_run(&sqe);
		if (sqe.opcode != nvme_admin_async_event)
			rig.previous = sqe.cid;
	}
	return busy;
}

static inline void
rig_event(uint32_t dw0)
{
	if (rig.held_count > 0)
		rig_complete(rig.held[--rig.held_count], 0, dw0);
}

/* ---- the test ---- */

/* One round; time goes on where there is nothing to do, but not beyond end. */
static inline void
rig_round(uint64_t end)
{
	int rc = poll_once(rig.app);
	uint64_t due;

	if (rig_device_poll() || rc != POLLER_IDLE)
		return;
	due = thread_next_due(rig.app);
	ticks_set(due < end ? due : end);
}

static inline void
rig_poll_for_us(uint64_t us)
{
	uint64_t end = env_ticks() + us * TICKS_PER_US;

	for (int i = 0; env_ticks() < end; i++) {
		assert_true(i < RIG_ROUNDS);
		rig_round(end);
	}
}

#define rig_wait_for(condition)                                                                    \
	do {                                                                                       \
		for (int rig_i = 0; !(condition); rig_i++) {                                       \
			assert_true(rig_i < RIG_ROUNDS);                                           \
			rig_round(UINT64_MAX);                                                     \
		}                                                                                  \
	} while (0)

static inline void
rig_on_event(void *ctx, enum nvme_event event)
{
	(void)ctx;
	rig.events[event]++;
	if (rig.in_event != NULL)
		rig.in_event();
}

static inline void
rig_attach_main(void *arg)
{
	*(int *)arg = nvme_attach(&rig.opts, rig_on_event, NULL, &rig.ctrlr, &rig.err);
}

static inline int
rig_try_attach(void)
{
	int rc = 1;

	rig.err.text[0] = '\0';
	rig.commands = 0;
	rig.enables = 0;
	rig.ctrlr = NULL;
	assert_int_equal(coroutine_start(rig.app, "test", rig_attach_main, &rc), 0);
	rig_wait_for(rc != 1);
	assert_true((rc == 0) == (rig.ctrlr != NULL));
	if (rc != 0)
		assert_true(strlen(rig.err.text) > 0);
	return rc;
}

static inline void
rig_attach(void)
{
	int rc = rig_try_attach();

	if (rc != 0)
		print_error("attach: %s\n", rig.err.text);
	assert_int_equal(rc, 0);
}

static inline void
rig_expect_refused(int rc, const char *text)
{
	assert_int_equal(rig_try_attach(), rc);
	if (strstr(rig.err.text, text) == NULL)
		print_error("not '%s': %s\n", text, rig.err.text);
	assert_non_null(strstr(rig.err.text, text));
	assert_false(rig.open);
}

static inline void
rig_detach_main(void *arg)
{
	nvme_detach(rig.ctrlr);
	*(int *)arg = 0;
}

static inline void
rig_detach(void)
{
	int rc = 1;

	assert_int_equal(coroutine_start(rig.app, "test", rig_detach_main, &rc), 0);
	rig_wait_for(rc == 0);
	rig.ctrlr = NULL;
	assert_false(rig.open);
}

/* A controller as it came from the factory. */
static inline void
rig_renew(void)
{
	rig.cc = 0;
	rig.csts = 0;
	rig.count = 0;
	rig.hit = false;
}

static inline int
rig_setup(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	rig_memory_setup();
	log_set_print_level(LOG_LEVEL_DISABLED);
	ticks_set(1);
	thread_lib_init(NULL);
	rig.app = thread_create("app", NULL);
	assert_non_null(rig.app);
	rig.cap = RIG_CAP;
	rig.vs = 0x20000;
	rig.queues = 4;
	rig.id = (struct nvme_id_ctrl){.vid = 0x1234,
				       .mdts = 5,
				       .oacs = NVME_CTRL_OACS_DBBUF_CFG,
				       .oaes = NVME_CTRL_OAES_NA,
				       .aerl = 2,
				       .acl = 3,
				       .kas = 1,
				       .sqes = 0x66,
				       .cqes = 0x44,
				       .nn = RIG_NAMESPACES,
				       .vwc = NVME_CTRL_VWC_PRESENT};
	memset(rig.id.sn, ' ', sizeof(rig.id.sn));
	memset(rig.id.mn, ' ', sizeof(rig.id.mn));
	memset(rig.id.fr, ' ', sizeof(rig.id.fr));
	rig.ns = (struct nvme_id_ns){.nsze = 1000, .ncap = 1000, .lbaf[0].ds = 9};
	for (uint32_t i = 0; i < RIG_NAMESPACES; i++)
		rig.nsids[i] = i + 1;
	rig.opts = (struct nvme_opts){.name = "Nvme0",
				      .trtype = "RIG",
				      .traddr = "somewhere",
				      .io_queues = 4,
				      .tuning = {.action = NVME_TIMEOUT_ABORT,
						 .io_timeout_us = 1000000,
						 .admin_timeout_us = 1000000,
						 .retries = 4}};
	return 0;
}

static inline int
rig_teardown(void **state)
{
	(void)state;
	if (rig.ctrlr != NULL)
		rig_detach();
	thread_finish(rig.app);
	thread_lib_fini();
	rig_memory_teardown();
	return 0;
}

#define rig_test(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

#endif
