/* SPDX-License-Identifier: BSD-3-Clause */
/* links: testlib */
/*
 * The software NVMe device does what an NVMe device does: vfio-user, start-up, every command,
 * interrupts, its cache.
 */
#include "nvme_rig.h"

#include <linux/pci_regs.h>

/* ---- vfio-user ---- */

static void
test_device_and_regions(void **state)
{
	struct vfio_user_device_info device = {.argsz = sizeof(device)};
	struct vfio_region_info region = {.argsz = sizeof(region),
					  .index = VFIO_PCI_CONFIG_REGION_INDEX};
	struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = VFIO_PCI_MSIX_IRQ_INDEX};
	uint32_t word = 0;

	(void)state;
	rig_connect();
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DEVICE_GET_INFO, &device,
					     sizeof(device), NULL, 0, &device, sizeof(device),
					     NULL),
			 0);
	assert_int_equal(device.flags, VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI);
	assert_int_equal(device.num_regions, VFIO_PCI_NUM_REGIONS);
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DEVICE_GET_REGION_INFO, &region,
					     sizeof(region), NULL, 0, &region, sizeof(region),
					     NULL),
			 0);
	assert_int_equal(region.size, RIG_PAGE);
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DEVICE_GET_IRQ_INFO, &irq,
					     sizeof(irq), NULL, 0, &irq, sizeof(irq), NULL),
			 0);
	assert_int_equal(irq.count, 128);
	assert_int_equal(nvme_client_access(&rig.client, VFIO_PCI_CONFIG_REGION_INDEX,
					    PCI_CLASS_REVISION, &word, 4, false),
			 0);
	assert_int_equal(word >> 8, 0x010802);
	word = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	assert_int_equal(nvme_client_access(&rig.client, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND,
					    &word, 2, true),
			 0);
	/* Memory without a file descriptor is refused clearly. */
	assert_int_equal(nvme_client_map(&rig.client, 0x1000, RIG_PAGE, -1, 0), -EOPNOTSUPP);
	assert_int_equal(nvme_client_message(&rig.client, 99, NULL, 0, NULL, 0, NULL, 0, NULL),
			 -ENOSYS);
	rig_expect_no_violation();
}

static void
test_registers(void **state)
{
	uint64_t cap;

	(void)state;
	rig_connect();
	cap = nvme_client_read(&rig.client, NVME_REG_CAP, 8);
	assert_int_equal(NVME_CAP_MQES(cap), 1023);
	assert_int_equal(NVME_CAP_DSTRD(cap), 0);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CAP + 4, 4), cap >> 32);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_VS, 4), 0x10400);
	nvme_client_write(&rig.client, NVME_REG_INTMS, 4, 5);
	nvme_client_write(&rig.client, NVME_REG_INTMC, 4, 1);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_INTMS, 4), 4);
	rig_control("set ready-ms 20");
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(nvme_client_disable(&rig.client), 0);
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	/* Shutdown. */
	nvme_client_write(&rig.client, NVME_REG_CC, 4,
			  nvme_client_read(&rig.client, NVME_REG_CC, 4) | 1 << NVME_CC_SHN_SHIFT);
	assert_int_equal(NVME_CSTS_SHST(nvme_client_read(&rig.client, NVME_REG_CSTS, 4)),
			 NVME_CSTS_SHST_CMPLT);
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0,
					     NULL, 0, NULL),
			 0);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CC, 4), 0);
	assert_int_equal(nvme_device_stat(&rig.device, "shutdowns"), 1);
	rig_expect_no_violation();
}

static void
test_clients_come_and_go(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		rig_start();
		assert_int_equal(rig_write((uint64_t)i, 1, 0x40, 0), 0);
		nvme_client_close(&rig.client);
	}
	rig_start();
	rig_expect_data(0, 8, 0x40);
	assert_int_equal(nvme_device_stat(&rig.device, "maps"), 1);
	assert_int_equal(nvme_device_stat(&rig.device, "unsafe_shutdowns"), 20);
	assert_int_equal(nvme_device_stat(&rig.device, "connections"), 21);
	rig_expect_no_violation();
}

/* ---- admin commands ---- */

static void
test_identify(void **state)
{
	const struct nvme_id_ctrl *controller;
	const struct nvme_id_ns *ns;
	const uint32_t *list;

	(void)state;
	rig_start();
	controller = (void *)rig.data;
	ns = (void *)rig.data;
	list = (void *)rig.data;
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_CTRL, 0), 0);
	assert_int_equal(controller->mdts, 5);
	assert_int_equal(controller->sgls & 3, 1);
	assert_int_equal(controller->vwc & 1, 1);
	assert_int_equal(controller->sqes, 0x66);
	assert_memory_equal(controller->mn, "vhostd software NVMe device  ", 29);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 1), 0);
	assert_int_equal(ns->nsze, RIG_BLOCKS);
	assert_int_equal(ns->lbaf[0].ds, 9);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 2), 0);
	assert_int_equal(ns->lbaf[0].ds, 12);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 3), 0);
	assert_int_equal(ns->nsze, 0);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS_ACTIVE_LIST, 0), 0);
	assert_int_equal(list[0], 1);
	assert_int_equal(list[1], 2);
	assert_int_equal(list[2], 0);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS_ACTIVE_LIST, 1), 0);
	assert_int_equal(list[0], 2);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS_DESC_LIST, 2), 0);
	assert_int_equal(rig.data[0], NVME_NIDT_UUID);
	assert_int_equal(rig.data[19], 2);
	assert_int_equal(rig.data[20], 0);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS_DESC_LIST, 9),
			 NVME_SC_INVALID_NS | RIG_DNR);
	assert_int_equal(rig_identify(0x77, 0), NVME_SC_INVALID_FIELD | RIG_DNR);
	rig_expect_no_violation();
}

static void
test_features(void **state)
{
	uint32_t value = 0;

	(void)state;
	rig_connect();
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_NUM_QUEUES, 3 << 16 | 3, &value), 0);
	assert_int_equal(value, 3 << 16 | 3);
	assert_int_equal(rig_get_feature(NVME_FEAT_FID_NUM_QUEUES, 0, &value), 0);
	assert_int_equal(value, 3 << 16 | 3);
	assert_int_equal(rig_get_feature(NVME_FEAT_FID_VOLATILE_WC, 0, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_VOLATILE_WC, 0, &value), 0);
	assert_int_equal(rig_get_feature(NVME_FEAT_FID_VOLATILE_WC, 0, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(rig_get_feature(NVME_FEAT_FID_VOLATILE_WC, 1, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(rig_get_feature(NVME_FEAT_FID_VOLATILE_WC, 3, &value), 0);
	assert_int_equal(value, 4);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_IRQ_CONFIG, 1 << 16 | 7, &value), 0);
	assert_int_equal(rig_get_feature(NVME_FEAT_FID_IRQ_CONFIG, 0, &value), 0);
	assert_int_equal(rig_set_feature(0x77, 0, NULL), NVME_SC_INVALID_FIELD | RIG_DNR);
	assert_int_equal(rig_admin((struct nvme_sqe){.opcode = nvme_admin_set_features,
						     .cdw10 = 1u << 31 | NVME_FEAT_FID_VOLATILE_WC},
				   NULL),
			 NVME_SCT_CMD_SPECIFIC << 8 | NVME_SC_FEATURE_NOT_SAVEABLE | RIG_DNR);
	rig_expect_no_violation();
}

static void
test_log_pages(void **state)
{
	const struct nvme_smart_log *smart;
	const struct nvme_error_log_page *errors;

	(void)state;
	rig_start();
	smart = (void *)rig.data;
	errors = (void *)rig.data;
	assert_int_equal(rig_write(0, 1, 1, 0), 0);
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, RIG_BLOCKS, 1)),
			 NVME_SC_LBA_RANGE | RIG_DNR);
	assert_int_equal(rig_log_page(NVME_LOG_LID_ERROR, 128), 0);
	assert_int_equal(errors[0].sqid, 1);
	assert_int_equal(errors[0].status_field >> 1, NVME_SC_LBA_RANGE | RIG_DNR);
	assert_int_equal(errors[1].error_count, 0);
	assert_int_equal(rig_log_page(NVME_LOG_LID_SMART, 512), 0);
	assert_int_equal(smart->temperature[0] | smart->temperature[1] << 8, 300);
	assert_int_equal(smart->host_writes[0], 1);
	assert_int_equal(smart->num_err_log_entries[0], 1);
	assert_int_equal(rig_log_page(NVME_LOG_LID_FW_SLOT, 512), 0);
	assert_memory_equal(rig.data + 8, "1.0     ", 8);
	assert_int_equal(rig_log_page(0x77, 512),
			 NVME_SCT_CMD_SPECIFIC << 8 | NVME_SC_INVALID_LOG_PAGE | RIG_DNR);
	rig_expect_no_violation();
}

static void
test_namespace_events(void **state)
{
	const uint32_t *list;
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	list = (void *)rig.data;
	assert_int_equal(
		rig_set_feature(NVME_FEAT_FID_ASYNC_EVENT, 1 << NVME_FEAT_AE_NAN_SHIFT, NULL), 0);
	nvme_client_put(&rig.client, 0, (struct nvme_sqe){.opcode = nvme_admin_async_event}, false);
	nvme_client_put(&rig.client, 0, (struct nvme_sqe){.opcode = nvme_admin_async_event}, false);
	nvme_client_ring(&rig.client, 0);
	rig_control("ns add 3 memory 100 4096");
	assert_int_equal(nvme_client_wait(&rig.client, 0, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.dw0, NVME_AER_NOTICE | NVME_LOG_LID_CHANGED_NS << 16);
	/* The second event waits until the log page was read. */
	rig_control("ns resize 3 200");
	rig_control("ns remove 2");
	assert_int_equal(nvme_client_wait(&rig.client, 0, RIG_QUIET_MS, &cqe), -ETIMEDOUT);
	assert_int_equal(rig_log_page(NVME_LOG_LID_CHANGED_NS, 4096), -EBADMSG);
	assert_int_equal(nvme_client_wait(&rig.client, 0, DEADLINE_MS, &cqe), 0);
	assert_int_equal(list[0], 3);
	assert_int_equal(list[1], 2);
	assert_int_equal(list[2], 0);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 3), 0);
	assert_int_equal(((struct nvme_id_ns *)rig.data)->nsze, 200);
	rig_expect_no_violation();
}

static void
test_temperature_event(void **state)
{
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	assert_int_equal(
		rig_set_feature(NVME_FEAT_FID_ASYNC_EVENT, NVME_SMART_CRIT_TEMPERATURE, NULL), 0);
	nvme_client_put(&rig.client, 0, (struct nvme_sqe){.opcode = nvme_admin_async_event}, false);
	nvme_client_ring(&rig.client, 0);
	rig_control("set temperature 400");
	assert_int_equal(nvme_client_wait(&rig.client, 0, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.dw0, NVME_AER_SMART | NVME_AER_SMART_TEMPERATURE_THRESHOLD << 8 |
					  NVME_LOG_LID_SMART << 16);
	rig_expect_no_violation();
}

static void
test_abort(void **state)
{
	uint32_t not_aborted = 0;
	struct nvme_cqe cqe;
	uint16_t cid;

	(void)state;
	rig_start();
	rig_control("fault delay ms=600000 opcode=2");
	cid = nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
	nvme_client_ring(&rig.client, 1);
	rig_wait_for_stat("delayed", 1);
	assert_int_equal(rig_admin((struct nvme_sqe){.opcode = nvme_admin_abort_cmd,
						     .cdw10 = (uint32_t)cid << 16 | 1},
				   &not_aborted),
			 0);
	assert_int_equal(not_aborted, 0);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.cid, cid);
	assert_int_equal(cqe.status >> 1, NVME_SC_ABORT_REQ);
	assert_int_equal(rig_admin((struct nvme_sqe){.opcode = nvme_admin_abort_cmd,
						     .cdw10 = (uint32_t)cid << 16 | 1},
				   &not_aborted),
			 0);
	assert_int_equal(not_aborted, 1);
	rig_expect_no_violation();
}

static void
test_queues(void **state)
{
	struct nvme_sqe sqe = {.opcode = nvme_admin_delete_sq, .cdw10 = 1};
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	for (uint16_t id = 2; id < NVME_CLIENT_QUEUES; id++)
		assert_int_equal(nvme_client_create_queue(&rig.client, id, RIG_QUEUE, -1), 0);
	for (uint16_t id = 1; id < NVME_CLIENT_QUEUES; id++)
		assert_int_equal(
			nvme_client_run(&rig.client, id, rig_io(nvme_cmd_read, id, 1), NULL), 0);
	/* Deleting a queue ends what is in it. */
	rig_control("fault delay ms=600000 queue=1");
	nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
	nvme_client_ring(&rig.client, 1);
	rig_wait_for_stat("delayed", 1);
	assert_int_equal(rig_admin(sqe, NULL), 0);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.status >> 1, NVME_SC_ABORT_QUEUE);
	sqe.opcode = nvme_admin_delete_cq;
	assert_int_equal(rig_admin(sqe, NULL), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
	rig_expect_data(0, 1, 0);
	rig_expect_no_violation();
}

static void
test_keep_alive_and_format(void **state)
{
	(void)state;
	rig_start();
	assert_int_equal(rig_admin((struct nvme_sqe){.opcode = nvme_admin_keep_alive}, NULL), 0);
	assert_int_equal(
		rig_admin((struct nvme_sqe){.opcode = nvme_admin_format_nvm, .nsid = 1}, NULL),
		NVME_SC_INVALID_OPCODE | RIG_DNR);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_KATO, 30, NULL), 0);
	rig_wait_for_stat("fatal", 1);
	rig_expect_no_violation();
}

/* ---- I/O commands ---- */

static void
test_read_write(void **state)
{
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	assert_int_equal(rig_write(0, 1, 0x11, 0), 0);
	assert_int_equal(rig_write(1, 16, 0x22, 0), 0);
	assert_int_equal(rig_write(RIG_BLOCKS - 1, 1, 0x33, RIG_FUA), 0);
	rig_expect_data(0, 1, 0x11);
	rig_expect_data(1, 16, 0x22);
	rig_expect_data(RIG_BLOCKS - 1, 1, 0x33);
	rig_expect_data(17, 16, 0);
	assert_int_equal(rig_run(rig_io(nvme_cmd_write, RIG_BLOCKS - 1, 2)),
			 NVME_SC_LBA_RANGE | RIG_DNR);
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, UINT64_MAX, 2)),
			 NVME_SC_LBA_RANGE | RIG_DNR);
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.nsid = 9;
	assert_int_equal(rig_run(sqe), NVME_SC_INVALID_NS | RIG_DNR);
	sqe.opcode = 0x55;
	assert_int_equal(rig_run(sqe), NVME_SC_INVALID_OPCODE | RIG_DNR);
	/* The null namespace has blocks of 4096 bytes. */
	sqe = rig_io(nvme_cmd_write, 999999, 1);
	sqe.nsid = 2;
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_no_violation();
}

static void
test_large_blocks(void **state)
{
	struct nvme_sqe sqe = {.opcode = nvme_cmd_write, .nsid = 3, .cdw10 = 99, .cdw12 = 0};

	(void)state;
	rig_control("ns add 3 memory 100 4096");
	rig_start();
	sqe.prp1 = rig.iova;
	memset(rig.data, 0x4b, RIG_PAGE);
	assert_int_equal(rig_run(sqe), 0);
	memset(rig.data, 0, RIG_PAGE);
	sqe.opcode = nvme_cmd_read;
	assert_int_equal(rig_run(sqe), 0);
	assert_int_equal(rig.data[0], 0x4b);
	assert_int_equal(rig.data[RIG_PAGE - 1], 0x4b);
	assert_int_equal(rig.data[RIG_PAGE], 0);
	sqe.cdw10 = 100;
	assert_int_equal(rig_run(sqe), NVME_SC_LBA_RANGE | RIG_DNR);
	rig_expect_no_violation();
}

/*
 * 128 KiB from an offset, over PRP lists in two pages; the first list begins near the end of its
 * page.
 */
static void
test_prp_lists(void **state)
{
	uint64_t first_iova, second_iova, *first, *second;
	struct nvme_sqe sqe;
	uint32_t count = 128 * 1024 / RIG_BLOCK;
	uint8_t *memory;

	(void)state;
	rig_start();
	first = nvme_client_alloc(&rig.client, RIG_PAGE, &first_iova);
	second = nvme_client_alloc(&rig.client, RIG_PAGE, &second_iova);
	memory = rig.data + 512;
	/* 33 pages: PRP1, three in the first list, and 29. In reverse, so that the order shows. */
	for (uint32_t i = 1; i <= 32; i++) {
		uint64_t page = rig.iova + (100 - i) * RIG_PAGE;

		if (i <= 3)
			first[508 + i - 1] = page;
		else
			second[i - 4] = page;
		memset(rig.data + (100 - i) * RIG_PAGE, (int)i, RIG_PAGE);
	}
	first[511] = second_iova;
	memset(memory, 0x77, RIG_PAGE - 512);
	sqe = rig_io(nvme_cmd_write, 0, count);
	sqe.prp1 = rig.iova + 512;
	sqe.prp2 = first_iova + 508 * 8;
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_data(0, 7, 0x77);
	rig_expect_data(7, 8, 1);
	rig_expect_data(7 + 8 * 2, 8, 3);
	rig_expect_data(7 + 8 * 3, 8, 4);
	rig_expect_data(7 + 8 * 30, 8, 31);
	rig_expect_data(7 + 8 * 31, 1, 32);
	rig_expect_no_violation();
}

static void
test_sgl(void **state)
{
	struct nvme_sgl *segment, *last;
	uint64_t segment_iova, last_iova;
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	segment = nvme_client_alloc(&rig.client, RIG_PAGE, &segment_iova);
	last = nvme_client_alloc(&rig.client, RIG_PAGE, &last_iova);
	memset(rig.data, 1, 100);
	memset(rig.data + 5000, 2, 412);
	memset(rig.data + 9001, 3, 512);
	segment[0] = (struct nvme_sgl){.address = rig.iova, .length = 100};
	segment[1] = (struct nvme_sgl){.address = last_iova, .length = 32, .type = 3 << 4};
	last[0] = (struct nvme_sgl){.address = rig.iova + 5000, .length = 412};
	last[1] = (struct nvme_sgl){.address = rig.iova + 9001, .length = 512};
	sqe = rig_io(nvme_cmd_write, 0, 2);
	sqe.flags = 1 << 6;
	sqe.sgl = (struct nvme_sgl){.address = segment_iova, .length = 32, .type = 2 << 4};
	assert_int_equal(rig_run(sqe), 0);
	sqe = rig_io(nvme_cmd_read, 0, 2);
	sqe.flags = 1 << 6;
	sqe.sgl = (struct nvme_sgl){.address = rig.iova, .length = 1024};
	assert_int_equal(rig_run(sqe), 0);
	assert_int_equal(rig.data[99], 1);
	assert_int_equal(rig.data[100], 2);
	assert_int_equal(rig.data[511], 2);
	rig_expect_data(1, 1, 3);
	rig_expect_no_violation();
}

static void
test_zeroes_and_ranges(void **state)
{
	struct nvme_dsm_range *ranges;
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	ranges = (void *)rig.data;
	assert_int_equal(rig_write(0, 16, 0x55, 0), 0);
	sqe = rig_io(nvme_cmd_write_zeroes, 2, 2);
	sqe.prp1 = 0;
	sqe.cdw12 |= 1 << 25;
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_data(0, 2, 0x55);
	rig_expect_data(2, 2, 0);
	ranges[0] = (struct nvme_dsm_range){.slba = 8, .nlb = 1};
	ranges[1] = (struct nvme_dsm_range){.slba = 10, .nlb = 2};
	sqe = (struct nvme_sqe){.opcode = nvme_cmd_dsm,
				.nsid = 1,
				.prp1 = rig.iova,
				.cdw10 = 1,
				.cdw11 = NVME_DSMGMT_AD};
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_data(8, 1, 0);
	rig_expect_data(9, 1, 0x55);
	rig_expect_data(10, 2, 0);
	rig_expect_data(12, 1, 0x55);
	ranges[0] = (struct nvme_dsm_range){.slba = RIG_BLOCKS, .nlb = 1};
	assert_int_equal(rig_run(sqe), NVME_SC_LBA_RANGE | RIG_DNR);
	sqe = rig_io(nvme_cmd_verify, 0, 8);
	sqe.prp1 = 0;
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_no_violation();
}

static void
test_compare(void **state)
{
	(void)state;
	rig_start();
	assert_int_equal(rig_write(5, 2, 0x5a, 0), 0);
	assert_int_equal(rig_run(rig_io(nvme_cmd_compare, 5, 2)), 0);
	assert_int_equal(rig_run(rig_io(nvme_cmd_compare, 6, 2)),
			 RIG_MEDIA(NVME_SC_COMPARE_FAILED) | RIG_DNR);
	rig_expect_no_violation();
}

/* Two commands, and what they end with. */
static void
compare_and_write(uint8_t old, uint8_t fresh, int first, int second)
{
	struct nvme_sqe compare = rig_io(nvme_cmd_compare, 3, 1);
	struct nvme_sqe write = rig_io(nvme_cmd_write, 3, 1);
	struct nvme_cqe cqe;

	compare.flags = NVME_SQE_FUSED_FIRST;
	write.flags = NVME_SQE_FUSED_SECOND;
	write.prp1 += RIG_PAGE;
	memset(rig.data, old, RIG_BLOCK);
	memset(rig.data + RIG_PAGE, fresh, RIG_BLOCK);
	nvme_client_put(&rig.client, 1, compare, false);
	nvme_client_put(&rig.client, 1, write, false);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.status >> 1, first);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.status >> 1, second);
}

static void
test_fused(void **state)
{
	(void)state;
	rig_start();
	compare_and_write(0, 7, 0, 0);
	compare_and_write(0, 8, RIG_MEDIA(NVME_SC_COMPARE_FAILED) | RIG_DNR, NVME_SC_FUSED_FAIL);
	rig_expect_data(3, 1, 7);
	rig_expect_no_violation();
}

/* ---- the cache ---- */

static void
test_power_loss(void **state)
{
	char answer[NVME_DEVICE_ANSWER];

	(void)state;
	rig_start();
	assert_int_equal(rig_write(0, 8, 1, 0), 0);
	assert_int_equal(rig_flush(), 0);
	assert_int_equal(rig_write(4, 2, 2, 0), 0);
	assert_int_equal(rig_write(6, 1, 3, RIG_FUA), 0);
	assert_int_equal(nvme_device_stat(&rig.device, "dirty"), 2);
	rig_expect_data(4, 2, 2);
	assert_int_equal(nvme_device_control(&rig.device, answer, "power-loss"), 0);
	assert_string_equal(answer, "2");
	nvme_client_close(&rig.client);
	rig_start();
	rig_expect_data(0, 6, 1);
	rig_expect_data(6, 1, 3);
	/* Without a cache all is stable at once. */
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_VOLATILE_WC, 0, NULL), 0);
	assert_int_equal(rig_write(0, 1, 9, 0), 0);
	rig_control("power-loss connected");
	rig_expect_data(0, 1, 9);
	rig_expect_no_violation();
}

/* A file has what was flushed, and nothing else, also when the device is killed. */
static void
test_file(void **state)
{
	char path[NVME_DEVICE_PATH + 16], line[NVME_DEVICE_PATH + 64];
	const char *const args[] = {"-c", line, NULL};

	(void)state;
	snprintf(path, sizeof(path), "%s/image", rig.device.folder);
	snprintf(line, sizeof(line), "ns add 1 file %u 512 %s", RIG_BLOCKS, path);
	assert_int_equal(nvme_device_stop(&rig.device), 0);
	assert_int_equal(nvme_device_restart(&rig.device, args), 0);
	rig_start();
	assert_int_equal(rig_write(0, 2, 1, 0), 0);
	assert_int_equal(rig_flush(), 0);
	assert_int_equal(rig_write(1, 2, 2, 0), 0);
	nvme_device_kill(&rig.device);
	nvme_client_close(&rig.client);
	assert_int_equal(nvme_device_restart(&rig.device, args), 0);
	rig_start();
	rig_expect_data(0, 2, 1);
	rig_expect_data(2, 1, 0);
	rig_expect_no_violation();
}

/* ---- interrupts, doorbell buffers, full queues ---- */

static void
test_interrupts(void **state)
{
	int eventfds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
	struct pollfd poll_fd = {.fd = eventfds[1], .events = POLLIN};
	uint64_t count;

	(void)state;
	rig_connect();
	assert_int_equal(nvme_client_set_interrupt(&rig.client, 0, eventfds[0]), 0);
	assert_int_equal(nvme_client_set_interrupt(&rig.client, 3, eventfds[1]), 0);
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, 3), 0);
	assert_int_equal(read(eventfds[0], &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 2);
	nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(poll(&poll_fd, 1, DEADLINE_MS), 1);
	assert_int_equal(nvme_device_stat(&rig.device, "interrupts"), 3);
	/* Without its eventfd there is none. */
	assert_int_equal(nvme_client_set_interrupt(&rig.client, 3, -1), 0);
	close(eventfds[0]);
	close(eventfds[1]);
	rig_expect_no_violation();
}

/* Eight completions or 25.5 ms: one interrupt for the eight. */
static void
test_coalescing(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	uint64_t count;

	(void)state;
	rig_connect();
	assert_int_equal(nvme_client_set_interrupt(&rig.client, 1, fd), 0);
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_IRQ_COALESCE, 255 << 8 | 7, NULL), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, 1), 0);
	for (int i = 0; i < 8; i++)
		nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(poll(&poll_fd, 1, DEADLINE_MS), 1);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	/* A single one comes after the time. */
	nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(poll(&poll_fd, 1, DEADLINE_MS), 1);
	close(fd);
	rig_expect_no_violation();
}

static void
test_doorbell_buffers(void **state)
{
	struct nvme_sqe sqe = {.opcode = nvme_admin_dbbuf};
	volatile uint32_t *doorbells, *events;
	struct nvme_cqe cqe;

	(void)state;
	rig_connect();
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	doorbells = nvme_client_alloc(&rig.client, RIG_PAGE, &sqe.prp1);
	events = nvme_client_alloc(&rig.client, RIG_PAGE, &sqe.prp2);
	assert_int_equal(rig_admin(sqe, NULL), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
	for (uint32_t i = 0; i < 3 * RIG_QUEUE; i++) {
		uint32_t before = rig.client.queues[1].tail, after, event = events[2];

		nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
		after = rig.client.queues[1].tail;
		__atomic_store_n(&doorbells[2], after, __ATOMIC_RELEASE);
		/* No write of the register is asked for. */
		assert_false((uint16_t)(after - event - 1) < (uint16_t)(after - before));
		assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
		__atomic_store_n(&doorbells[3], rig.client.queues[1].head, __ATOMIC_RELEASE);
	}
	assert_int_equal(nvme_device_stat(&rig.device, "shadow"), 1);
	rig_expect_no_violation();
}

/* Commands wait for room in the completion queue, which two submission queues share. */
static void
test_full_completion_queue(void **state)
{
	struct nvme_sqe sqe = {.opcode = nvme_admin_delete_sq, .cdw10 = 2};
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	assert_int_equal(nvme_client_create_queue(&rig.client, 2, RIG_QUEUE, -1), 0);
	assert_int_equal(rig_admin(sqe, NULL), 0);
	sqe = (struct nvme_sqe){.opcode = nvme_admin_create_sq,
				.prp1 = rig.client.queues[2].submissions_iova,
				.cdw10 = (RIG_QUEUE - 1) << 16 | 2,
				.cdw11 = 1 << 16 | 1};
	assert_int_equal(rig_admin(sqe, NULL), 0);
	for (int i = 0; i < RIG_QUEUE - 1; i++) {
		nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
		nvme_client_put(&rig.client, 2, rig_io(nvme_cmd_read, 0, 1), false);
	}
	nvme_client_ring(&rig.client, 1);
	nvme_client_ring(&rig.client, 2);
	for (int i = 0; i < 2 * (RIG_QUEUE - 1); i++)
		assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	rig_expect_no_violation();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_device_and_regions),
		TEST(test_registers),
		TEST(test_clients_come_and_go),
		TEST(test_identify),
		TEST(test_features),
		TEST(test_log_pages),
		TEST(test_namespace_events),
		TEST(test_temperature_event),
		TEST(test_abort),
		TEST(test_queues),
		TEST(test_keep_alive_and_format),
		TEST(test_read_write),
		TEST(test_large_blocks),
		TEST(test_prp_lists),
		TEST(test_sgl),
		TEST(test_zeroes_and_ranges),
		TEST(test_compare),
		TEST(test_fused),
		TEST(test_power_loss),
		TEST(test_file),
		TEST(test_interrupts),
		TEST(test_coalescing),
		TEST(test_doorbell_buffers),
		TEST(test_full_completion_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
