/* SPDX-License-Identifier: BSD-3-Clause */
/* Controllers of the NVMe driver with the software device: attaching, what it says, detaching. */
/* links: nvme thread env testlib */
#include "nvme_ctrlr_rig.h"

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
	assert_int_equal(ns->blocks, 16384);
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
	rig_expect_no_violation();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {rig_test(test_attach)};

	return cmocka_run_group_tests_name("nvme_ctrlr", tests, NULL, NULL);
}
