/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control path of the NVMe driver with a controller that the test plays: each step of a start
 * goes wrong in each way, and what is odd, late or missing.
 */
/* links: nvme thread testlib env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include "nvme_ctrlr_rig.h"

#define STEPS_MAX 200

static void
test_attach(void **state)
{
	const struct nvme_ctrlr_info *info;

	(void)state;
	rig.limits = (struct nvme_id_ctrl_nvm){.wzsl = 3, .dmrl = 7, .dmrsl = 99};
	rig_attach();
	info = nvme_get_info(rig.ctrlr);
	assert_int_equal(info->max_write_zeroes, 32768);
	assert_int_equal(info->max_dsm_ranges, 7);
	assert_int_equal(info->max_dsm_blocks, 99);
	assert_true(info->shadow_doorbells);
	assert_true(info->write_cache);
	assert_string_equal(info->model, "");
	assert_int_equal(rig.held_count, 3);
	rig.opts.tuning.retries = UINT32_MAX;
	nvme_tune(rig.ctrlr, &rig.opts.tuning);
	assert_int_equal(rig.ctrlr->retries, UINT8_MAX);
	rig_detach();
	assert_int_equal(rig.shutdowns, 1);
	assert_int_equal(rig.cc & 1, 0);
}

/* Every admin command of a start meets every fault: it is as if it had never been there. */
static void
test_every_command_fails(void **state)
{
	static const int wanted[RIG_FAULTS] = {
		[RIG_STATUS] = -EIO, [RIG_STATUS_FINAL] = 0, [RIG_LOSE] = -ETIMEDOUT,
		[RIG_FATAL] = -EIO,  [RIG_GONE] = -ENODEV,   [RIG_NONSENSE] = -EIO,
		[RIG_TWICE] = -EIO,
	};

	(void)state;
	for (enum rig_fault fault = 0; fault < RIG_FAULTS; fault++) {
		uint32_t step, refused = 0;

		for (step = 0; step < STEPS_MAX; step++) {
			int rc;

			rig_renew();
			rig.fault = fault;
			rig.at = step;
			rig.count = 1;
			rc = rig_try_attach();
			refused += rc != 0;
			/* What it said before is no answer. */
			if (fault == RIG_TWICE && rig.hit)
				assert_int_equal(rc, -EIO);
			/* Without some of what it was asked it does as well. */
			if (rc != 0 && wanted[fault] != 0)
				assert_int_equal(rc, wanted[fault]);
			if (rc == 0)
				rig_detach();
			assert_false(rig.open);
			if (!rig.hit)
				break;
		}
		assert_true(step > 15 && step < STEPS_MAX);
		assert_true(refused > 1);
		rig_renew();
		rig_attach();
		rig_detach();
	}
}

static void
test_every_allocation_fails(void **state)
{
	int rc = 0;

	(void)state;
	for (unsigned int good = 0; good < STEPS_MAX; good++) {
		rig.err.text[0] = '\0';
		rig.ctrlr = NULL;
		rig.enables = 0;
		rc = 1;
		assert_int_equal(coroutine_start(rig.app, "test", rig_attach_main, &rc), 0);
		fault_after(good);
		rig_wait_for(rc != 1);
		if (rc == 0)
			rig_detach();
		if (!fault_end())
			break;
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_false(rig.open);
	}
	assert_int_equal(rc, 0);
}

static void
test_discard_limits(void **state)
{
	static const struct {
		uint8_t dmrl;
		uint32_t dmrsl;
		uint64_t dmsl;
		uint32_t ranges;
		uint64_t blocks;
	} cases[] = {
		{0, 0, 0, 256, UINT32_MAX},   {8, 100, 0, 8, 100},
		{8, 100, 800, 8, 100},        {8, 100, 799, 7, 100},
		{8, 100, 99, 1, 99},          {0, 0, 1, 1, 1},
		{8, 100, UINT64_MAX, 8, 100}, {255, UINT32_MAX, 1ull << 33, 2, UINT32_MAX},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		rig.limits = (struct nvme_id_ctrl_nvm){
			.dmrl = cases[i].dmrl, .dmrsl = cases[i].dmrsl, .dmsl = cases[i].dmsl};
		rig_attach();
		assert_int_equal(nvme_get_info(rig.ctrlr)->max_dsm_ranges, cases[i].ranges);
		assert_int_equal(nvme_get_info(rig.ctrlr)->max_dsm_blocks, cases[i].blocks);
		rig_detach();
	}
}

static void
test_transport_refuses(void **state)
{
	(void)state;
	rig.open_rc = -EACCES;
	rig_expect_refused(-EACCES, "nothing there");
	rig.open_rc = 0;
	rig.opts.interrupts = true;
	rig.vectors = 3;
	rig.interrupts_rc = -ENOSPC;
	rig_expect_refused(-ENOSPC, "interrupts");
	assert_int_equal(rig.interrupts, 3);
}

/* ---- registers ---- */

static void
test_registers(void **state)
{
	(void)state;
	rig.cap = RIG_CAP & ~0xffffull;
	rig_expect_refused(-EINVAL, "MQES");
	rig.cap = RIG_CAP | 5ull << NVME_CAP_MPSMIN_SHIFT;
	rig_expect_refused(-EINVAL, "MPSMIN");
	rig.cap = RIG_CAP & ~(1ull << NVME_CAP_CSS_SHIFT);
	rig_expect_refused(-EINVAL, "CSS");
	rig.cap = RIG_CAP | 15ull << NVME_CAP_DSTRD_SHIFT;
	rig_expect_refused(-EINVAL, "DSTRD");
	rig.cap = RIG_CAP | 9ull << NVME_CAP_DSTRD_SHIFT;
	rig_expect_refused(-EINVAL, "DSTRD");
	assert_int_equal(rig.enables, 0);
	rig.cap = RIG_CAP | 3ull << NVME_CAP_DSTRD_SHIFT;
	rig_attach();
	rig_detach();
	/* I/O command sets that are chosen by CC.CSS. */
	rig.cap = (RIG_CAP & ~(1ull << NVME_CAP_CSS_SHIFT)) | (uint64_t)NVME_CAP_CSS_CSI
								      << NVME_CAP_CSS_SHIFT;
	rig_attach();
	assert_int_equal(NVME_CC_CSS(rig.cc), NVME_CC_CSS_CSI);
}

static void
test_never_ready(void **state)
{
	uint64_t before = env_ticks();

	(void)state;
	rig.never_ready = true;
	rig_expect_refused(-ETIMEDOUT, "CAP.TO");
	assert_true(env_ticks() - before >= 1000000 * TICKS_PER_US);
	assert_true(env_ticks() - before < 1500000 * TICKS_PER_US);
}

/* Somebody else has left it on: it is switched off first, in the order that it must be. */
static void
test_left_on(void **state)
{
	(void)state;
	rig.cc = 0x460001;
	rig.csts = 1;
	rig_attach();
	rig_detach();
	/* It does not go off by CC.EN. */
	rig.cc = 0x460001;
	rig.csts = 1;
	rig.never_off = true;
	rig.reset_rc = -EOPNOTSUPP;
	assert_int_equal(rig.resets, 0);
	rig_expect_refused(-ETIMEDOUT, "turn off");
	assert_int_equal(rig.resets, 1);
	assert_int_equal(rig.cut_offs, 0);
	/* But by a reset of the function. */
	rig.cc = 0x460001;
	rig.csts = 1;
	rig.reset_rc = 0;
	rig_attach();
	assert_int_equal(rig.resets, 2);
	rig.never_off = false;
}

/* ---- a controller that does not stop: requests end when it cannot reach memory any more ---- */

static struct nvme_request request;
static int request_rc;
static uint32_t request_life; /* the controller's, when it was submitted */

static void
on_done(struct nvme_request *ended, int rc)
{
	assert_ptr_equal(ended, &request);
	assert_true(rc == 0 || !rig.bus_master || rig.csts == 0 || rig.enables > request_life);
	request_rc = rc;
}

static struct nvme_qpair *
submit_flush(void)
{
	struct nvme_qpair *qpair;

	thread_set_current(rig.app);
	qpair = nvme_qpair_get(rig.ctrlr);
	assert_non_null(qpair);
	thread_set_current(NULL);
	rig_poll_for_us(10000);
	assert_int_equal(qpair->state, NVME_QPAIR_LIVE);
	request_rc = 1;
	request_life = rig.enables;
	request = (struct nvme_request){.command = {.opcode = nvme_cmd_flush, .nsid = 1},
					.done = on_done};
	thread_set_current(rig.app);
	nvme_qpair_submit(qpair, &request);
	nvme_qpair_flush(qpair);
	thread_set_current(NULL);
	return qpair;
}

static void
put(struct nvme_qpair *qpair)
{
	thread_set_current(rig.app);
	nvme_qpair_put(qpair);
	thread_set_current(NULL);
}

static void
test_does_not_stop(void **state)
{
	struct nvme_qpair *qpair;

	(void)state;
	rig_attach();
	qpair = submit_flush();
	rig.never_off = true;
	rig.reset_rc = -EOPNOTSUPP;
	/* It times out; Abort does not find it; CC.EN does nothing; and there is no other reset. */
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, -EIO);
	assert_int_equal(rig.cut_offs, 1);
	assert_false(rig.bus_master);
	assert_int_equal(nvme_get_info(rig.ctrlr)->state, NVME_FAILED);
	/* What it reports now is no reason to try it more often. */
	rig.csts |= 1u << NVME_CSTS_CFS_SHIFT;
	rig_poll_for_us(nvme_retry_ms * 1000 - 100000);
	assert_int_equal(nvme_get_info(rig.ctrlr)->resets, 1);
	/* It comes to its senses. */
	rig.never_off = false;
	rig_wait_for(nvme_get_info(rig.ctrlr)->state == NVME_LIVE);
	assert_true(rig.bus_master);
	put(qpair);
}

/* The queue's first completion. */
static void
complete_request(struct nvme_qpair *qpair)
{
	struct nvme_cqe *cqe = rig_at(qpair->queue.cq_iova, sizeof(*cqe));

	*cqe = (struct nvme_cqe){.cid = request.cid, .sqid = qpair->id, .sqhd = 1, .status = 1};
}

/* A command ends by itself while it is being aborted: the next one must not have its identifier. */
static void
test_late_abort(void **state)
{
	struct nvme_qpair *qpair;
	uint16_t cid;

	(void)state;
	rig_attach();
	qpair = submit_flush();
	cid = request.cid;
	rig.opcode = nvme_admin_abort_cmd;
	rig.fault = RIG_LOSE;
	rig.at = 0;
	rig.commands = 0;
	rig.count = 1;
	rig_wait_for(rig.hit);
	assert_int_equal(rig.aborted, (uint32_t)cid << 16 | qpair->id);
	complete_request(qpair);
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, 0);
	rig_poll_for_us(500000);
	assert_int_equal(atomic_load(&rig_slot(qpair, cid)->abort), NVME_ABORT_ENDED);
	assert_int_equal(qpair->held, 1);
	/* Abort has no end: the reset is one. */
	rig_poll_for_us(2000000);
	assert_int_equal(nvme_get_info(rig.ctrlr)->resets, 1);
	assert_int_equal(nvme_get_info(rig.ctrlr)->state, NVME_LIVE);
	assert_int_equal(atomic_load(&rig_slot(qpair, cid)->abort), NVME_ABORT_NONE);
	assert_int_equal(qpair->held, 0);
	put(qpair);
}

/* It does not answer any more. That does not say that it leaves memory alone. */
static void
test_gone_with_requests(void **state)
{
	struct nvme_qpair *qpair;

	(void)state;
	rig_attach();
	qpair = submit_flush();
	rig_take_away();
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, -ENODEV);
	assert_false(rig.bus_master);
	put(qpair);
	rig_detach();
	/* Gone in the middle of a reset. */
	rig_renew();
	rig_attach();
	qpair = submit_flush();
	rig.never_off = true;
	nvme_ctrlr_work(rig.ctrlr, NVME_WORK_RESET);
	rig_poll_for_us(100000);
	assert_int_equal(request_rc, 1);
	assert_true(rig.bus_master);
	rig_take_away();
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, -ENODEV);
	assert_false(rig.bus_master);
	put(qpair);
	rig_detach();
	/* One that is wanted back was switched off in order. */
	rig.never_off = false;
	rig_renew();
	rig.cut_offs = 0;
	rig_attach();
	rig.gone(rig.gone_ctx);
	rig_wait_for(nvme_get_info(rig.ctrlr)->state == NVME_GONE);
	assert_int_equal(rig.cut_offs, 0);
}

/* The longest that a request may take: docs/nvme.md has the formula. */
static void
test_bound(void **state)
{
	const uint64_t io_us = 1000000, admin_us = 1000000, cap_to_us = 1000000;
	uint64_t start, bound_us = io_us + 100000 + admin_us + 500000;
	struct nvme_qpair *qpair;

	(void)state;
	rig_attach();
	qpair = submit_flush();
	start = env_ticks();
	/* From now on no command is answered, and it is as slow as it may be. */
	rig.fault = RIG_LOSE;
	rig.at = rig.commands;
	rig.count = RIG_COMMANDS;
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, -EIO);
	bound_us += 3 * (2 * cap_to_us + NVME_START_TIMEOUTS * admin_us + 100000) + 2 * cap_to_us;
	assert_true(env_ticks() - start <= bound_us * TICKS_PER_US);
	rig.count = 0;
	rig_wait_for(nvme_get_info(rig.ctrlr)->state == NVME_LIVE);
	put(qpair);
}

/* ---- namespaces ---- */

static void
test_no_list(void **state)
{
	const struct nvme_ns *ns;

	(void)state;
	/* NVMe 1.0: numbers, and neither descriptors nor limits. */
	rig.vs = 0x10000;
	rig.nsids[0] = 2;
	rig.nsids[1] = 3;
	rig.nsids[2] = 0;
	rig_attach();
	ns = nvme_ns_next(rig.ctrlr, 0);
	assert_int_equal(ns->nsid, 2);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 2)->nsid, 3);
	assert_null(nvme_ns_next(rig.ctrlr, 3));
	assert_int_equal(rig.by_opcode[nvme_admin_identify], 1 + RIG_NAMESPACES);
	rig_detach();
	/* As many as it says, but not for ever. */
	rig.id.nn = UINT32_MAX;
	rig_attach();
	assert_true(rig.by_opcode[nvme_admin_identify] < 2100);
}

static void
test_list_makes_no_sense(void **state)
{
	(void)state;
	rig.nsids[1] = 1;
	rig_expect_refused(-EINVAL, "makes no sense");
	rig.nsids[1] = UINT32_MAX;
	rig_expect_refused(-EINVAL, "makes no sense");
}

static void
test_many_namespaces(void **state)
{
	uint32_t count = 0, nsid = 0;

	(void)state;
	for (uint32_t i = 0; i < 2 * NVME_ID_NS_LIST_MAX - 1; i++)
		rig.nsids[i] = 2 * i + 1;
	rig_attach();
	for (const struct nvme_ns *ns; (ns = nvme_ns_next(rig.ctrlr, nsid)) != NULL; count++)
		nsid = ns->nsid;
	assert_int_equal(count, 1024);
	assert_int_equal(nsid, 2047);
}

static void
test_other_command_set(void **state)
{
	(void)state;
	rig.command_set = NVME_CSI_ZNS;
	rig_attach();
	assert_null(nvme_ns_next(rig.ctrlr, 0));
}

static void
test_formats(void **state)
{
	(void)state;
	rig.ns.lbaf[20].ds = 12;
	rig.ns.nlbaf = 20;
	rig.ns.flbas = 4 | 1 << 5;
	rig.ns.nsattr = 1;
	rig.ns.nsfeat = NVME_NS_FEAT_IO_OPT;
	rig.id.awupf = 7;
	rig.ns.npwg = 3;
	rig.ns.npdg = 7;
	rig_attach();
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->block_size, 4096);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->physical_block_size, 16384);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->discard_granularity, 32768);
	assert_true(nvme_ns_next(rig.ctrlr, 0)->read_only);
	rig_detach();
	/* The high bits count only where there are so many formats. */
	rig.ns.nlbaf = 15;
	rig.ns.lbaf[4].ds = 9;
	rig_attach();
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->block_size, 512);
	rig_detach();
	rig.ns.nlbaf = 64;
	rig_attach();
	assert_null(nvme_ns_next(rig.ctrlr, 0));
}

/* ---- while it is attached ---- */

/* What a loss of power leaves whole, as far as it can be written well. */
static void
test_physical_blocks(void **state)
{
	static const struct {
		uint16_t awupf, nawupf, npwg, nabo;
		uint8_t nsfeat;
		uint32_t size;
	} cases[] = {
		{0, 7, 7, 0, 0, 512},      {7, 0, 0, 0, 0, 4096},     {7, 15, 0, 0, 2, 8192},
		{0, 0, 7, 0, 0x10, 512},   {31, 0, 7, 0, 0x10, 4096}, {7, 0, 31, 0, 0x10, 4096},
		{15, 15, 7, 3, 0x12, 512}, {6, 0, 0, 0, 0, 512},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		rig.id.awupf = cases[i].awupf;
		rig.ns.nawupf = cases[i].nawupf;
		rig.ns.npwg = cases[i].npwg;
		rig.ns.nabo = cases[i].nabo;
		rig.ns.nsfeat = cases[i].nsfeat;
		rig_attach();
		assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->physical_block_size, cases[i].size);
		rig_detach();
	}
}

/* A status that may be another in a moment takes no namespace away; one that may not does. */
static void
test_namespaces_not_ready(void **state)
{
	const uint32_t changed = NVME_AER_NOTICE | NVME_AER_NOTICE_NS_CHANGED << 8 |
				 (uint32_t)NVME_LOG_LID_CHANGED_NS << 16;

	(void)state;
	rig_attach();
	rig.ns_status = NVME_SC_NS_NOT_READY;
	rig_event(changed);
	rig_poll_for_us(1000000);
	assert_non_null(nvme_ns_next(rig.ctrlr, 0));
	assert_int_equal(rig.events[NVME_EVENT_NAMESPACES], 0);
	rig.ns_status = NVME_SC_INVALID_NS | NVME_DNR;
	rig_event(changed);
	rig_poll_for_us(1000000);
	assert_null(nvme_ns_next(rig.ctrlr, 0));
	assert_int_equal(rig.events[NVME_EVENT_NAMESPACES], 1);
}

/* What could not be read is not forgotten: the device tells of it once. */
static void
test_namespaces_later(void **state)
{
	(void)state;
	rig.ns_status = NVME_SC_NS_NOT_READY;
	rig_attach();
	assert_null(nvme_ns_next(rig.ctrlr, 0));
	rig_poll_for_us(nvme_retry_ms * 1500);
	rig.ns_status = 0;
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 1);
	assert_non_null(nvme_ns_next(rig.ctrlr, 0));
	/* Nor is a change whose log page cannot be read: there would be no other event. */
	rig.ns.nsze = 2000;
	rig.opcode = nvme_admin_get_log_page;
	rig.fault = RIG_STATUS;
	rig.commands = 0;
	rig.at = 0;
	rig.count = 2;
	rig.by_opcode[nvme_admin_get_log_page] = 0;
	rig_event(NVME_AER_NOTICE | NVME_AER_NOTICE_NS_CHANGED << 8 |
		  (uint32_t)NVME_LOG_LID_CHANGED_NS << 16);
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 2);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->blocks, 2000);
	rig_wait_for(rig.by_opcode[nvme_admin_get_log_page] == 1);
	/* That was all. */
	rig_poll_for_us(nvme_retry_ms * 3000);
	assert_int_equal(rig.by_opcode[nvme_admin_get_log_page], 1);
	assert_int_equal(rig.events[NVME_EVENT_NAMESPACES], 2);
}

static enum nvme_qpair_state state_at_change;
static _Atomic bool revoked;

static void
note_state(void)
{
	if (rig.events[NVME_EVENT_NAMESPACES] == 0 && rig.events[NVME_EVENT_CHANGING] == 1) {
		state_at_change = rig.ctrlr->qpairs[0].state;
		revoked = true;
	}
}

/* Requests of before a reset do not go to another namespace that has the number now. */
static void
test_replaced_namespace(void **state)
{
	struct nvme_qpair *qpair;

	(void)state;
	state_at_change = NVME_QPAIR_LIVE;
	revoked = false;
	rig.in_event = note_state;
	rig.ns.eui64[0] = 1;
	rig_attach();
	qpair = submit_flush();
	request.revoked = &revoked;
	assert_int_equal(rig_memory.doorbells[2 * qpair->id], 1);
	rig.ns.eui64[0] = 2;
	nvme_ctrlr_work(rig.ctrlr, NVME_WORK_RESET);
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, -ENODEV);
	assert_int_equal(nvme_get_info(rig.ctrlr)->state, NVME_LIVE);
	assert_int_equal(qpair->queue.in_flight, 0);
	assert_int_equal(rig.events[NVME_EVENT_NAMESPACES], 1);
	/* The owner heard of it before the queue pairs went on. */
	assert_int_equal(rig.events[NVME_EVENT_CHANGING], 1);
	assert_int_equal(state_at_change, NVME_QPAIR_STOPPED);
	put(qpair);
	rig_poll_for_us(10000);
	/* New ones do. Descriptors that cannot be read now say nothing. */
	qpair = submit_flush();
	rig.descriptor_status = NVME_SC_INTERNAL;
	nvme_ctrlr_work(rig.ctrlr, NVME_WORK_RESET);
	rig_poll_for_us(100000);
	assert_int_equal(nvme_get_info(rig.ctrlr)->resets, 2);
	assert_int_equal(qpair->queue.in_flight, 1);
	complete_request(qpair);
	rig_wait_for(request_rc != 1);
	assert_int_equal(request_rc, 0);
	put(qpair);
}

/* Nor when it took a second attempt, which finds the new one as the first one left it. */
static void
test_replaced_in_two_attempts(void **state)
{
	struct nvme_qpair *qpair;

	(void)state;
	revoked = false;
	rig.in_event = note_state;
	rig.ns.eui64[0] = 1;
	rig_attach();
	qpair = submit_flush();
	request.revoked = &revoked;
	rig.ns.eui64[0] = 2;
	rig.opcode = nvme_admin_create_cq;
	rig.fault = RIG_STATUS;
	rig.commands = 0;
	rig.at = 0;
	rig.count = 1;
	nvme_ctrlr_work(rig.ctrlr, NVME_WORK_RESET);
	rig_wait_for(rig.hit && nvme_get_info(rig.ctrlr)->state == NVME_LIVE);
	rig_poll_for_us(10000);
	assert_int_equal(qpair->queue.in_flight, 0);
	assert_int_equal(request_rc, -ENODEV);
	put(qpair);
}

static void
reset_main(void *arg)
{
	*(int *)arg = nvme_reset(rig.ctrlr, &rig.err);
}

static int
reset(void)
{
	int rc = 1;

	assert_int_equal(coroutine_start(rig.app, "test", reset_main, &rc), 0);
	rig_wait_for(rc != 1);
	return rc;
}

/* What its disks count on does not change in a reset (of a controller with new firmware, say). */
static void
test_other_properties_after_reset(void **state)
{
	const struct nvme_ctrlr_info *info;

	(void)state;
	rig.id.vwc = 0;
	rig.id.mdts = 4;
	rig_attach();
	info = nvme_get_info(rig.ctrlr);
	assert_false(info->write_cache);
	assert_int_equal(info->max_transfer, 65536);
	/* More than there is room for. */
	rig.id.mdts = 6;
	assert_int_equal(reset(), 0);
	assert_int_equal(info->max_transfer, 65536);
	rig.id.mdts = 3;
	assert_int_equal(reset(), -EINVAL);
	assert_non_null(strstr(rig.err.text, "MDTS"));
	rig.id.mdts = 0;
	assert_int_equal(reset(), 0);
	/* Nobody would flush that. */
	rig.id.vwc = NVME_CTRL_VWC_PRESENT;
	assert_int_equal(reset(), -EINVAL);
	assert_non_null(strstr(rig.err.text, "VWC"));
	assert_int_equal(info->state, NVME_FAILED);
	assert_false(info->write_cache);
	rig.id.vwc = 0;
	rig_wait_for(info->state == NVME_LIVE);
}

static void
test_keep_alive(void **state)
{
	(void)state;
	rig.kato = 3000;
	rig_attach();
	rig_poll_for_us(30000000);
	assert_in_range(rig.by_opcode[nvme_admin_keep_alive], 28, 31);
	rig_detach();
	rig.kato = 0;
	rig.by_opcode[nvme_admin_keep_alive] = 0;
	rig_attach();
	rig_poll_for_us(30000000);
	assert_int_equal(rig.by_opcode[nvme_admin_keep_alive], 0);
}

/* It has always something to say: others get their turn, and it can be detached. */
static void
test_flood_of_events(void **state)
{
	static const uint32_t events[] = {
		NVME_AER_NOTICE | NVME_AER_NOTICE_NS_CHANGED << 8 | NVME_LOG_LID_CHANGED_NS << 16,
		NVME_AER_SMART | NVME_LOG_LID_SMART << 16,
		NVME_AER_ERROR | NVME_LOG_LID_ERROR << 16,
		NVME_AER_VS | 0xc0 << 16,
		0xffffffff,
	};

	(void)state;
	rig_attach();
	for (uint32_t i = 0; i < 5000; i++) {
		rig_event(events[i % 5]);
		rig_round(env_ticks() + TICKS_PER_US);
	}
	rig_poll_for_us(1000000);
	assert_int_equal(nvme_get_info(rig.ctrlr)->state, NVME_LIVE);
	assert_int_equal(nvme_get_info(rig.ctrlr)->resets, 0);
	assert_int_equal(rig.held_count, 3);
	rig_detach();
}

/* Fewer requests than it said. */
static void
test_event_requests_refused(void **state)
{
	(void)state;
	rig.opcode = nvme_admin_async_event;
	rig.fault = RIG_STATUS_FINAL;
	rig.count = 1;
	rig_attach();
	rig_poll_for_us(1000000);
	assert_true(rig.hit);
	assert_int_equal(rig.held_count, 2);
	assert_int_equal(nvme_get_info(rig.ctrlr)->state, NVME_LIVE);
}

static struct nvme_ctrlr *told_of;
static unsigned int refusals;

/* Uses it for as long as it can, and longer. */
static void
use_while_detached(void)
{
	struct nvme_smart_log health;
	struct errmsg err;

	told_of = rig.ctrlr;
	for (int i = 0; i < 300; i++) {
		refusals += nvme_get_health(told_of, &health) != 0;
		if (refusals > 0)
			assert_int_equal(nvme_reset(told_of, &err), -ENODEV);
		coroutine_sleep(1000);
	}
	told_of = NULL;
}

/* Its owner is being told something meanwhile, and takes its time. */
static void
test_detach_while_told(void **state)
{
	(void)state;
	for (int gone = 0; gone < 2; gone++) {
		rig_attach();
		refusals = 0;
		rig.in_event = use_while_detached;
		nvme_ctrlr_tell(rig.ctrlr, NVME_EVENT_HEALTH);
		rig_wait_for(told_of != NULL);
		if (gone)
			atomic_store(&rig_memory.transport.gone, true);
		rig_detach();
		assert_null(told_of);
		assert_true(refusals > 100);
		rig.in_event = NULL;
		rig_renew();
	}
}

static void
test_shutdown(void **state)
{
	uint64_t before;

	(void)state;
	rig.never_shut_down = true;
	rig_attach();
	before = env_ticks();
	rig_detach();
	assert_in_range((env_ticks() - before) / TICKS_PER_US, 10000000, 11000000);
	/* What it says itself, within reason. */
	rig.id.rtd3e = 2000000;
	rig_attach();
	before = env_ticks();
	rig_detach();
	assert_in_range((env_ticks() - before) / TICKS_PER_US, 2000000, 3000000);
	rig.id.rtd3e = UINT32_MAX;
	rig_attach();
	before = env_ticks();
	rig_detach();
	assert_in_range((env_ticks() - before) / TICKS_PER_US, 60000000, 61000000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(test_attach),
		rig_test(test_every_command_fails),
		rig_test(test_every_allocation_fails),
		rig_test(test_discard_limits),
		rig_test(test_transport_refuses),
		rig_test(test_registers),
		rig_test(test_never_ready),
		rig_test(test_left_on),
		rig_test(test_does_not_stop),
		rig_test(test_late_abort),
		rig_test(test_gone_with_requests),
		rig_test(test_bound),
		rig_test(test_no_list),
		rig_test(test_list_makes_no_sense),
		rig_test(test_many_namespaces),
		rig_test(test_other_command_set),
		rig_test(test_formats),
		rig_test(test_physical_blocks),
		rig_test(test_namespaces_not_ready),
		rig_test(test_namespaces_later),
		rig_test(test_replaced_namespace),
		rig_test(test_replaced_in_two_attempts),
		rig_test(test_other_properties_after_reset),
		rig_test(test_keep_alive),
		rig_test(test_flood_of_events),
		rig_test(test_event_requests_refused),
		rig_test(test_detach_while_told),
		rig_test(test_shutdown),
	};

	return cmocka_run_group_tests_name("nvme_ctrlr", tests, NULL, NULL);
}
