/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Controllers of the NVMe driver with the software device: attaching, what it says, its events,
 * detaching.
 */
/* links: nvme thread env testlib */
#include "nvme_ctrlr_rig.h"

#include <malloc.h>

/* ---- attaching ---- */

static void
test_attach(void **state)
{
	const struct nvme_ctrlr_info *info;
	const struct nvme_ns *ns;

	(void)state;
	rig_attach();
	info = rig_info();
	assert_int_equal(info->state, NVME_LIVE);
	assert_string_equal(info->trtype, "VFIOUSER");
	assert_string_equal(info->traddr, rig.device.socket);
	assert_string_equal(info->model, "vhostd software NVMe device");
	assert_string_equal(info->serial, "SOFTWARE-0001");
	assert_string_equal(info->firmware, "1.0");
	assert_int_equal(info->version, 0x10400);
	assert_int_equal(info->vendor_id, 0x1b36);
	assert_int_equal(info->max_transfer, 128 << 10);
	assert_true(info->write_cache);
	assert_true(info->sgl);
	assert_true(info->shadow_doorbells);
	assert_int_equal(info->io_queues, 4);
	assert_int_equal(info->io_queues_used, 0);
	ns = nvme_ns_next(rig.ctrlr, 0);
	assert_non_null(ns);
	assert_int_equal(ns->nsid, 1);
	assert_int_equal(ns->block_size, 512);
	assert_int_equal(ns->physical_block_size, 512);
	assert_int_equal(ns->blocks, 16384);
	assert_int_equal(ns->boundary, 0);
	assert_true(ns->zeroes_after_discard);
	assert_true(ns->can_write_zeroes_unmap);
	assert_false(ns->read_only);
	assert_int_equal(ns->uuid[15], 1);
	assert_memory_equal(ns->nguid, "vhostd", 6);
	ns = nvme_ns_next(rig.ctrlr, 1);
	assert_non_null(ns);
	assert_int_equal(ns->nsid, 2);
	assert_int_equal(ns->block_size, 4096);
	assert_null(nvme_ns_next(rig.ctrlr, 2));
	rig_detach();
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), 1);
	assert_int_equal(nvme_device_stat(&rig.device, "maps"), 0);
	rig_expect_no_violation();
	/* It told of nothing that its owner knew already. */
	for (int i = 0; i < 4; i++)
		assert_int_equal(rig.events[i], 0);
}

static void
test_attach_refused(void **state)
{
	(void)state;
	rig.opts.trtype = "TCP";
	assert_int_equal(rig_try_attach(), -EINVAL);
	rig.opts.trtype = "vfiouser";
	rig_attach();
	{
		struct nvme_ctrlr *first = rig.ctrlr;

		rig_expect_refused(-EEXIST, "attached already");
		rig.ctrlr = first;
	}
	rig_detach();
	rig.opts.traddr = "/nonexistent";
	assert_int_equal(rig_try_attach(), -ENODEV);
}

/* With less of everything: the driver makes do. */
static void
test_poor_device(void **state)
{
	const struct nvme_ctrlr_info *info;

	(void)state;
	rig_control("set queues 1");
	rig_control("set mdts 1");
	rig_control("set sgl 0");
	rig_control("set cache 0");
	rig_control("set dbbuf 0");
	rig_control("set fused 0");
	rig_control("set cap-mqes 1");
	rig_control("identify ctrl aerl 0");
	rig_control("identify ctrl kas 0");
	rig_attach();
	info = rig_info();
	assert_int_equal(info->io_queues, 1);
	assert_int_equal(info->max_transfer, 8192);
	assert_false(info->sgl);
	assert_false(info->write_cache);
	assert_false(info->shadow_doorbells);
	assert_int_equal(info->fuses, 0);
	rig_control("ns remove 1");
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 1);
	rig_control("ns remove 2");
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 2);
	assert_null(nvme_ns_next(rig.ctrlr, 0));
	rig_detach();
	rig_expect_no_violation();
}

static void
test_interrupts(void **state)
{
	(void)state;
	rig.opts.interrupts = true;
	rig_attach();
	assert_true(nvme_device_stat(&rig.device, "interrupts") > 0);
	rig_control("ns remove 1");
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 1);
	rig_detach();
	/* One vector for all, and none. */
	rig_control("set vectors 1");
	rig_attach();
	rig_detach();
	rig_control("set vectors 0");
	rig_attach();
	rig_detach();
	rig_expect_no_violation();
}

static void
test_larger_pages(void **state)
{
	(void)state;
	rig_control("set cap-mpsmin 4");
	rig_control("set mdts 1");
	rig_attach();
	assert_int_equal(rig_info()->max_transfer, 128 << 10);
	assert_false(rig_info()->shadow_doorbells);
	rig_detach();
	rig_expect_no_violation();
}

/* ---- registers that make no sense ---- */

static void
test_capabilities(void **state)
{
	static const struct {
		const char *line;
		const char *back;
		const char *text;
	} cases[] = {
		{"set cap-mqes 0", "set cap-mqes 1023", "MQES"},
		{"set cap-mpsmin 5", "set cap-mpsmin 0", "MPSMIN"},
		{"set cap-mpsmin 15", "set cap-mpsmin 0", "MPSMIN"},
		{"set cap-dstrd 15", "set cap-dstrd 0", "DSTRD"},
		{"set cap-css 0x80", "set cap-css 1", "CSS"},
		{"set cap-css 0", "set cap-css 1", "CSS"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		rig_control("%s", cases[i].line);
		rig_expect_refused(-EINVAL, cases[i].text);
		rig_control("%s", cases[i].back);
	}
	/* A stride with which one queue pair's doorbells are there, and a second one's are not. */
	rig_control("set cap-dstrd 10");
	rig_attach();
	assert_int_equal(rig_info()->io_queues, 2);
	rig_detach();
	rig_expect_no_violation();
}

static void
test_not_ready(void **state)
{
	(void)state;
	rig_control("set cap-to 1");
	rig_control("set ready 0");
	rig_expect_refused(-ETIMEDOUT, "CAP.TO");
	rig_control("set ready 1");
	rig_control("set ready-ms 300");
	rig_attach();
	rig_detach();
	rig_expect_no_violation();
}

static void
test_gone_in_the_middle(void **state)
{
	static const char *const kinds[] = {"remove", "disconnect"};
	static const int opcodes[] = {0x06, 0x09, 0x7c, 0x0a};

	(void)state;
	for (size_t k = 0; k < 2; k++) {
		for (size_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++) {
			rig_control("fault %s queue=0 opcode=%d", kinds[k], opcodes[i]);
			rig_expect_refused(-ENODEV, "");
			rig_control("fault-clear");
			if (k == 0)
				rig_control("replug");
		}
	}
	rig_attach();
	rig_expect_no_violation();
}

static void
test_fatal_at_start(void **state)
{
	(void)state;
	rig_control("fault fatal queue=0 opcode=6 nth=2");
	rig_expect_refused(-EIO, "");
	rig_attach();
}

/* ---- identify data that makes no sense ---- */

static void
test_identify_controller(void **state)
{
	(void)state;
	rig_control("identify ctrl sqes 0x77");
	rig_expect_refused(-EINVAL, "SQES");
	rig_control("identify ctrl sqes 0x50");
	rig_expect_refused(-EINVAL, "SQES");
	rig_control("identify clear");
	rig_control("identify ctrl cqes 0x55");
	rig_expect_refused(-EINVAL, "CQES");
	rig_control("identify clear");
	rig_control("identify ctrl cntrltype 2");
	rig_expect_refused(-EINVAL, "CNTRLTYPE");
	rig_control("identify clear");
	/* Bytes that are no text, and limits that are none. */
	rig_control("identify ctrl mn 0x0a1b00ff41420a07");
	rig_control("identify ctrl mdts 255");
	rig_control("identify ctrl nn 0xffffffff");
	rig_control("identify ctrl acl 255");
	rig_control("identify ctrl aerl 255");
	rig_attach();
	assert_string_equal(rig_info()->model, "  BA    oftware NVMe device");
	assert_true(rig_info()->max_transfer >= 1 << 20);
	rig_expect_no_violation();
}

static void
test_identify_namespace(void **state)
{
	static const char *const cases[] = {
		"nsze 0",  "nlbaf 255", "flbas 1", "flbas 15",  "lbads 31",
		"lbads 8", "lbads 17",  "ms 8",    "lbads 255", "nsze 0xffffffffffffffff",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct nvme_ns *ns;

		rig_control("identify 1 %s", cases[i]);
		rig_attach();
		ns = nvme_ns_next(rig.ctrlr, 0);
		assert_non_null(ns);
		assert_int_equal(ns->nsid, 2);
		rig_detach();
		rig_control("identify clear");
	}
	/* Odd hints are left alone. */
	rig_control("identify 1 nsfeat 0x12");
	rig_control("identify 1 npwg 6");
	rig_control("identify 1 noiob 3");
	rig_control("identify 1 dlfeat 2");
	rig_attach();
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->nsid, 1);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->physical_block_size, 512);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->boundary, 1536);
	assert_false(nvme_ns_next(rig.ctrlr, 0)->zeroes_after_discard);
	assert_false(nvme_ns_next(rig.ctrlr, 0)->can_write_zeroes_unmap);
	rig_detach();
	/* Blocks that are larger than what can be transferred. */
	rig_control("identify clear");
	rig_control("identify 1 lbads 14");
	rig_control("set mdts 1");
	rig_attach();
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->nsid, 2);
	rig_expect_no_violation();
}

/* ---- events ---- */

static void
test_namespaces_change(void **state)
{
	(void)state;
	rig_attach();
	rig_control("ns add 7 null 1000 4096");
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 1);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 2)->nsid, 7);
	rig_control("ns resize 1 8192");
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 2);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->blocks, 8192);
	rig_control("ns remove 1");
	rig_wait_for(rig.events[NVME_EVENT_NAMESPACES] == 3);
	assert_int_equal(nvme_ns_next(rig.ctrlr, 0)->nsid, 2);
	rig_control("ns remove 2");
	rig_control("ns remove 7");
	rig_wait_for(nvme_ns_next(rig.ctrlr, 0) == NULL);
	rig_detach();
	rig_expect_no_violation();
}

struct health {
	struct nvme_smart_log log;
	struct nvme_error_log_page errors[4];
	uint32_t count;
	int rc;
};

static void
get_health(void *arg)
{
	struct health *health = arg;

	health->rc = nvme_get_health(rig.ctrlr, &health->log);
	assert_int_equal(health->rc, 0);
	health->count = 4;
	health->rc = nvme_get_errors(rig.ctrlr, health->errors, &health->count);
}

static void
test_health(void **state)
{
	struct health health = {0};

	(void)state;
	rig_attach();
	rig_run(get_health, &health);
	assert_int_equal(health.rc, 0);
	assert_int_equal(health.log.temperature[0] | health.log.temperature[1] << 8, 300);
	assert_int_equal(health.log.critical_warning, 0);
	rig_control("set temperature 350");
	rig_wait_for(rig.events[NVME_EVENT_HEALTH] == 1);
	rig_run(get_health, &health);
	assert_int_equal(health.log.critical_warning, NVME_SMART_CRIT_TEMPERATURE);
	rig_expect_no_violation();
}

/* ---- removal ---- */

static void
test_removed(void **state)
{
	static const char *const lines[] = {"remove", "disconnect", "power-loss"};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		memset(rig.events, 0, sizeof(rig.events));
		rig_attach();
		rig_control("%s", lines[i]);
		rig_wait_for(rig.events[NVME_EVENT_GONE] == 1);
		assert_int_equal(rig_info()->state, NVME_GONE);
		rig_poll_for_ms(20);
		assert_int_equal(rig.events[NVME_EVENT_GONE], 1);
		rig_detach();
		if (i == 0)
			rig_control("replug");
	}
	rig_attach();
	rig_expect_no_violation();
}

/* It is shut down in order before its users hear of it. */
static void
test_wanted_back(void **state)
{
	(void)state;
	rig_attach();
	rig_control("request-removal");
	rig_wait_for(rig.events[NVME_EVENT_GONE] == 1);
	assert_int_equal(rig_info()->state, NVME_GONE);
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), 1);
	rig_detach();
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), 1);
	rig_expect_no_violation();
}

/* ---- detaching ---- */

static void
test_shutdown_never_ends(void **state)
{
	(void)state;
	rig_control("set shutdown 0");
	rig_control("identify ctrl rtd3e 200000");
	rig_attach();
	rig_detach();
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), 1);
	rig_expect_no_violation();
}

/* The coroutine that attaches is cancelled, at different moments. */
static struct coroutine *attaching;

static void
attach_noted(void *arg)
{
	attaching = coroutine_current();
	rig_attach_main(arg);
	attaching = NULL;
}

static void
test_attach_cancelled(void **state)
{
	(void)state;
	for (unsigned int us = 0; us < 6000; us += 300) {
		uint64_t end = env_ticks() + env_ticks_hz() / 1000000 * us;
		int rc = 1;

		rig.ctrlr = NULL;
		assert_int_equal(coroutine_start(rig.app, "test", attach_noted, &rc), 0);
		while (rc == 1 && env_ticks() < end)
			rig_poll();
		if (attaching != NULL) {
			thread_set_current(rig.app);
			coroutine_cancel(attaching);
			thread_set_current(NULL);
		}
		rig_wait_for(rc != 1);
		assert_true(rc == 0 || rc == -ECANCELED);
		if (rc == 0)
			rig_detach();
		rig.ctrlr = NULL;
		/* What was begun ends by itself; it is not attached any more. */
		rig_wait_for(nvme_device_stat(&rig.device, "maps") == 0);
		do
			rc = rig_try_attach();
		while (rc == -EEXIST || rc == -EBUSY || rc == -ENODEV);
		assert_int_equal(rc, 0);
		rig_detach();
	}
	rig_expect_no_violation();
}

#define CYCLES 1000

static void
test_no_leak(void **state)
{
	struct mallinfo2 before = {0}, after;
	int fds = 0;

	(void)state;
	for (int i = 0; i < CYCLES; i++) {
		rig_attach();
		rig_detach();
		/* Caches are full by then. */
		if (i == CYCLES / 10) {
			before = mallinfo2();
			fds = rig_count_fds();
		}
	}
	after = mallinfo2();
	assert_int_equal(rig_count_fds(), fds);
	assert_true(after.uordblks < before.uordblks + (64 << 10));
	assert_int_equal(nvme_device_stat(&rig.device, "maps"), 0);
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), CYCLES);
	rig_expect_no_violation();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(test_attach),
		rig_test(test_attach_refused),
		rig_test(test_poor_device),
		rig_test(test_interrupts),
		rig_test(test_larger_pages),
		rig_test(test_capabilities),
		rig_test(test_not_ready),
		rig_test(test_gone_in_the_middle),
		rig_test(test_fatal_at_start),
		rig_test(test_identify_controller),
		rig_test(test_identify_namespace),
		rig_test(test_namespaces_change),
		rig_test(test_health),
		rig_test(test_removed),
		rig_test(test_wanted_back),
		rig_test(test_shutdown_never_ends),
		rig_test(test_attach_cancelled),
		rig_test(test_no_leak),
	};

	return cmocka_run_group_tests_name("nvme_ctrlr", tests, NULL, NULL);
}
