/* SPDX-License-Identifier: BSD-3-Clause */
/* links: testlib */
/*
 * The software NVMe device notices what its client must not do: each rule broken once, by the name
 * that it has in `violations`.
 */
#include "nvme_rig.h"

#define NOWHERE 0x7000000000ULL

static void
expect_io(struct nvme_sqe sqe, int status, const char *violation)
{
	assert_int_equal(rig_run(sqe), status);
	rig_expect_violation(violation);
	rig_control("violations clear");
}

static void
expect_admin(struct nvme_sqe sqe, int status, const char *violation)
{
	assert_int_equal(rig_admin(sqe, NULL), status);
	rig_expect_violation(violation);
	rig_control("violations clear");
}

/* Violations are only noticed on the way out: the exit status is theirs. */
static void
leave_one(void)
{
	struct nvme_sqe sqe = rig_io(nvme_cmd_read, 0, 1);

	sqe.cdw2 = 1;
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_violation("reserved");
}

/* ---- PRPs, SGLs, addresses ---- */

static void
test_prps(void **state)
{
	uint64_t list_iova, *list;
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	list = nvme_client_alloc(&rig.client, 2 * RIG_PAGE, &list_iova);
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.prp1 += 2;
	expect_io(sqe, NVME_SC_PRP_INVALID_OFFSET, "prp");
	sqe = rig_io(nvme_cmd_read, 0, 16);
	sqe.prp2 += 512;
	expect_io(sqe, NVME_SC_PRP_INVALID_OFFSET, "prp");
	sqe = rig_io(nvme_cmd_read, 0, 24);
	sqe.prp2 = list_iova + 4;
	expect_io(sqe, NVME_SC_PRP_INVALID_OFFSET, "prp");
	sqe.prp2 = list_iova;
	list[0] = rig.iova + RIG_PAGE;
	list[1] = rig.iova + 2 * RIG_PAGE + 8;
	expect_io(sqe, NVME_SC_PRP_INVALID_OFFSET, "prp");
	/* A list that goes over the end of its page: its third entry is taken for the next list. */
	for (uint32_t i = 0; i < 8; i++)
		list[510 + i] = rig.iova + (i + 1) * RIG_PAGE;
	memset(rig.data + 2 * RIG_PAGE, 0xff, RIG_PAGE);
	sqe = rig_io(nvme_cmd_write, 0, 5 * 8);
	sqe.prp2 = list_iova + 510 * 8;
	expect_io(sqe, NVME_SC_PRP_INVALID_OFFSET, "prp");
	leave_one();
}

static void
test_sgls(void **state)
{
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.flags = 1 << 6;
	sqe.sgl = (struct nvme_sgl){.address = rig.iova, .length = 511};
	expect_io(sqe, NVME_SC_SGL_INVALID_DATA, "sgl");
	sqe.sgl.length = 513;
	expect_io(sqe, NVME_SC_SGL_INVALID_DATA, "sgl");
	sqe.sgl.length = 512;
	sqe.sgl.type = 0x70;
	expect_io(sqe, NVME_SC_SGL_INVALID_TYPE, "sgl");
	sqe.sgl.type = 0x30;
	sqe.sgl.length = 17;
	expect_io(sqe, NVME_SC_SGL_INVALID_LAST, "sgl");
	/* A segment that leads to itself. */
	sqe.sgl.type = 0x20;
	sqe.sgl.length = 16;
	memcpy(rig.data, &sqe.sgl, sizeof(sqe.sgl));
	expect_io(sqe, NVME_SC_SGL_INVALID_TYPE, "sgl");
	sqe.flags = 3 << 6;
	expect_io(sqe, NVME_SC_INVALID_FIELD, "sgl");
	rig_control("set sgl 0");
	sqe.flags = 1 << 6;
	expect_io(sqe, NVME_SC_INVALID_FIELD, "sgl");
	leave_one();
}

static void
test_addresses_that_are_not_mapped(void **state)
{
	uint64_t list_iova, *list;
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	list = nvme_client_alloc(&rig.client, RIG_PAGE, &list_iova);
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.prp1 = NOWHERE;
	expect_io(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	sqe = rig_io(nvme_cmd_read, 0, 16);
	sqe.prp2 = NOWHERE;
	expect_io(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	sqe = rig_io(nvme_cmd_read, 0, 24);
	sqe.prp2 = NOWHERE;
	expect_io(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	sqe.prp2 = list_iova;
	list[0] = rig.iova;
	list[1] = NOWHERE;
	expect_io(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.prp1 = NVME_CLIENT_IOVA + NVME_CLIENT_MEMORY;
	expect_io(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	sqe.flags = 1 << 6;
	sqe.sgl = (struct nvme_sgl){.address = NOWHERE, .length = 512};
	expect_io(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	leave_one();
}

static void
test_memory_that_is_only_read(void **state)
{
	struct vfio_user_dma_map map = {.argsz = sizeof(map),
					.flags = VFIO_USER_DMA_READABLE,
					.address = NOWHERE,
					.size = RIG_PAGE};
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DMA_MAP, &map, sizeof(map),
					     &rig.client.memory_fd, 1, NULL, 0, NULL),
			 0);
	sqe = rig_io(nvme_cmd_write, 0, 1);
	sqe.prp1 = NOWHERE;
	assert_int_equal(rig_run(sqe), 0);
	rig_expect_no_violation();
	sqe.opcode = nvme_cmd_read;
	assert_int_equal(rig_run(sqe), NVME_SC_DATA_XFER_ERROR);
	rig_expect_violation("iova");
}

/* Memory is unmapped while a command that is late still needs it. */
static void
test_unmap_under_a_command(void **state)
{
	struct nvme_sqe sqe;
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	assert_int_equal(nvme_client_map(&rig.client, NOWHERE, RIG_PAGE, rig.client.memory_fd, 0),
			 0);
	rig_control("fault delay ms=600000");
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.prp1 = NOWHERE;
	nvme_client_put(&rig.client, 1, sqe, false);
	nvme_client_ring(&rig.client, 1);
	rig_wait_for_stat("delayed", 1);
	assert_int_equal(nvme_client_unmap(&rig.client, NOWHERE, RIG_PAGE), 0);
	rig_control("release");
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.status >> 1, NVME_SC_DATA_XFER_ERROR);
	rig_expect_violation("iova");
}

static void
test_unmap_under_a_queue(void **state)
{
	(void)state;
	rig_start();
	assert_int_equal(nvme_client_unmap(&rig.client, NVME_CLIENT_IOVA, NVME_CLIENT_MEMORY), 0);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CSTS, 4) & 2, 2);
	rig_expect_violation("unmap");
}

/* ---- identifiers and doorbells ---- */

static void
test_identifier_in_flight(void **state)
{
	struct nvme_sqe sqe;
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	/* In one batch. */
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.cid = 7;
	nvme_client_put(&rig.client, 1, sqe, true);
	nvme_client_put(&rig.client, 1, sqe, true);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	rig_expect_violation("cid");
	rig_control("violations clear");
	/* One that was lost is in flight for ever. */
	rig_control("fault lose");
	nvme_client_put(&rig.client, 1, sqe, true);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(nvme_client_wait(&rig.client, 1, RIG_QUIET_MS, &cqe), -ETIMEDOUT);
	nvme_client_put(&rig.client, 1, sqe, true);
	nvme_client_ring(&rig.client, 1);
	assert_int_equal(nvme_client_wait(&rig.client, 1, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.status >> 1, NVME_SC_CMDID_CONFLICT);
	rig_expect_violation("cid");
}

static void
expect_doorbell(uint16_t queue, bool completion, uint32_t value, const char *violation)
{
	nvme_client_set_doorbell(&rig.client, queue, completion, value);
	WAIT_UNTIL(nvme_device_violations(&rig.device, "total") != 0);
	rig_expect_violation(violation);
}

static void
test_doorbells(void **state)
{
	(void)state;
	rig_start();
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, 0, 1)), 0);
	expect_doorbell(1, false, RIG_QUEUE, "doorbell");
	rig_control("violations clear");
	expect_doorbell(1, false, UINT32_MAX, "doorbell");
	rig_control("violations clear");
	expect_doorbell(1, true, RIG_QUEUE, "doorbell");
	rig_control("violations clear");
	expect_doorbell(1, true, 2, "doorbell");
	rig_control("violations clear");
	expect_doorbell(2, false, 1, "no-queue");
	rig_control("violations clear");
	expect_doorbell(2, true, 1, "no-queue");
	rig_control("violations clear");
	expect_doorbell(127, false, 1, "no-queue");
	rig_control("violations clear");
	/* 15 entries of 16 are used, the next would be one that was not fetched. */
	rig_control("fault lose count=15");
	for (int i = 0; i < RIG_QUEUE - 1; i++)
		nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);
	nvme_client_ring(&rig.client, 1);
	rig_wait_for_stat("in_flight", RIG_QUEUE - 1);
	expect_doorbell(1, false, (rig.client.queues[1].tail + 1) % RIG_QUEUE, "doorbell");
}

/* The event that says so. */
static void
test_doorbell_event(void **state)
{
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	nvme_client_put(&rig.client, 0, (struct nvme_sqe){.opcode = nvme_admin_async_event}, false);
	nvme_client_ring(&rig.client, 0);
	nvme_client_set_doorbell(&rig.client, 1, false, 100);
	assert_int_equal(nvme_client_wait(&rig.client, 0, DEADLINE_MS, &cqe), 0);
	assert_int_equal(cqe.dw0, NVME_AER_ERROR | NVME_AER_ERROR_INVALID_DB_VAL << 8 |
					  NVME_LOG_LID_ERROR << 16);
	rig_expect_violation("doorbell");
}

/* ---- queues, fields, commands, registers ---- */

#define SPECIFIC(sc) (NVME_SCT_CMD_SPECIFIC << 8 | (sc) | RIG_DNR)

static void
test_queues(void **state)
{
	struct nvme_sqe cq = {.opcode = nvme_admin_create_cq, .cdw10 = 15 << 16 | 2, .cdw11 = 1};
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	cq.prp1 = rig.iova;
	sqe = cq;
	sqe.cdw10 = 15 << 16 | 1;
	expect_admin(sqe, SPECIFIC(NVME_SC_QID_INVALID), "queue");
	sqe.cdw10 = 15 << 16;
	expect_admin(sqe, SPECIFIC(NVME_SC_QID_INVALID), "queue");
	sqe.cdw10 = 15 << 16 | 200;
	expect_admin(sqe, SPECIFIC(NVME_SC_QID_INVALID), "queue");
	sqe.cdw10 = 2;
	expect_admin(sqe, SPECIFIC(NVME_SC_QUEUE_SIZE), "queue");
	sqe.cdw10 = 1024 << 16 | 2;
	expect_admin(sqe, SPECIFIC(NVME_SC_QUEUE_SIZE), "queue");
	sqe = cq;
	sqe.cdw11 = 0;
	expect_admin(sqe, NVME_SC_INVALID_FIELD | RIG_DNR, "queue");
	sqe = cq;
	sqe.prp1 += 64;
	expect_admin(sqe, NVME_SC_PRP_INVALID_OFFSET | RIG_DNR, "queue");
	sqe = cq;
	sqe.cdw11 = 500 << 16 | 3;
	expect_admin(sqe, SPECIFIC(NVME_SC_INVALID_VECTOR), "queue");
	sqe = cq;
	sqe.prp1 = NOWHERE;
	expect_admin(sqe, NVME_SC_DATA_XFER_ERROR, "iova");
	sqe = cq;
	sqe.opcode = nvme_admin_create_sq;
	sqe.cdw11 = 5 << 16 | 1;
	expect_admin(sqe, SPECIFIC(NVME_SC_CQ_INVALID), "queue");
	sqe = (struct nvme_sqe){.opcode = nvme_admin_delete_cq, .cdw10 = 1};
	expect_admin(sqe, SPECIFIC(NVME_SC_INVALID_QUEUE), "queue");
	sqe.cdw10 = 0;
	expect_admin(sqe, SPECIFIC(NVME_SC_QID_INVALID), "queue");
	sqe.opcode = nvme_admin_delete_sq;
	sqe.cdw10 = 3;
	expect_admin(sqe, SPECIFIC(NVME_SC_QID_INVALID), "queue");
	sqe = (struct nvme_sqe){.opcode = nvme_admin_set_features,
				.cdw10 = NVME_FEAT_FID_NUM_QUEUES};
	expect_admin(sqe, NVME_SC_CMD_SEQ_ERROR | RIG_DNR, "queue");
	leave_one();
}

static void
test_reserved_fields(void **state)
{
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.flags = 4;
	expect_io(sqe, 0, "reserved");
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.cdw3 = 1;
	expect_io(sqe, 0, "reserved");
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.mptr = 8;
	expect_io(sqe, 0, "reserved");
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.cdw12 |= 1 << 16;
	expect_io(sqe, 0, "reserved");
	sqe = rig_io(nvme_cmd_read, 0, 1);
	sqe.prp2 = rig.iova;
	expect_io(sqe, 0, "reserved");
	sqe = (struct nvme_sqe){.opcode = nvme_cmd_flush, .nsid = 1, .prp1 = rig.iova};
	expect_io(sqe, 0, "reserved");
	sqe = (struct nvme_sqe){.opcode = nvme_cmd_flush, .nsid = 1, .cdw10 = 1};
	expect_io(sqe, 0, "reserved");
	sqe = (struct nvme_sqe){.opcode = nvme_admin_keep_alive, .nsid = 1};
	expect_admin(sqe, 0, "reserved");
	sqe = (struct nvme_sqe){.opcode = nvme_admin_keep_alive, .flags = 1 << 6};
	expect_admin(sqe, 0, "sgl");
	leave_one();
}

static void
test_commands_that_are_not_offered(void **state)
{
	struct nvme_sqe sqe;

	(void)state;
	rig_control("set oncs 0");
	rig_control("set dbbuf 0");
	rig_control("set mdts 1");
	rig_start();
	sqe = rig_io(nvme_cmd_compare, 0, 1);
	expect_io(sqe, NVME_SC_INVALID_OPCODE | RIG_DNR, "command");
	sqe = rig_io(nvme_cmd_write_zeroes, 0, 1);
	sqe.prp1 = 0;
	expect_io(sqe, NVME_SC_INVALID_OPCODE | RIG_DNR, "command");
	sqe.opcode = nvme_cmd_verify;
	expect_io(sqe, NVME_SC_INVALID_OPCODE | RIG_DNR, "command");
	sqe = (struct nvme_sqe){.opcode = nvme_cmd_dsm, .nsid = 1, .prp1 = rig.iova};
	expect_io(sqe, NVME_SC_INVALID_OPCODE | RIG_DNR, "command");
	sqe = rig_io(nvme_cmd_read, 0, 17);
	expect_io(sqe, NVME_SC_INVALID_FIELD | RIG_DNR, "command");
	sqe = (struct nvme_sqe){
		.opcode = nvme_admin_dbbuf, .prp1 = rig.iova, .prp2 = rig.iova + RIG_PAGE};
	expect_admin(sqe, NVME_SC_INVALID_OPCODE | RIG_DNR, "command");
	leave_one();
}

static void
test_half_a_fused_command(void **state)
{
	struct nvme_sqe sqe;

	(void)state;
	rig_start();
	sqe = rig_io(nvme_cmd_compare, 0, 1);
	sqe.flags = NVME_SQE_FUSED_FIRST;
	expect_io(sqe, NVME_SC_FUSED_MISSING, "fused");
	sqe = rig_io(nvme_cmd_write, 0, 1);
	sqe.flags = NVME_SQE_FUSED_SECOND;
	expect_io(sqe, NVME_SC_FUSED_MISSING, "fused");
	leave_one();
}

static void
expect_register_violation(void)
{
	rig_expect_violation("register");
	rig_control("violations clear");
}

static void
test_registers(void **state)
{
	(void)state;
	rig_start();
	nvme_client_write(&rig.client, NVME_REG_CAP, 4, 1);
	expect_register_violation();
	nvme_client_write(&rig.client, NVME_REG_AQA, 4, 1);
	expect_register_violation();
	nvme_client_read(&rig.client, NVME_REG_CSTS, 2);
	expect_register_violation();
	nvme_client_read(&rig.client, NVME_REG_CSTS + 2, 4);
	expect_register_violation();
	assert_int_equal(nvme_client_disable(&rig.client), 0);
	/* Page size 2^20, and then an admin queue that is not of whole pages. */
	nvme_client_write(&rig.client, NVME_REG_CC, 4, 8 << NVME_CC_MPS_SHIFT | 1);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CSTS, 4), 2);
	expect_register_violation();
	nvme_client_disable(&rig.client);
	nvme_client_write(&rig.client, NVME_REG_AQA, 4, 15 << 16 | 15);
	nvme_client_write(&rig.client, NVME_REG_ASQ, 8, rig.iova + 64);
	nvme_client_write(&rig.client, NVME_REG_CC, 4, 1);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CSTS, 4), 2);
	expect_register_violation();
	nvme_client_disable(&rig.client);
	/* The sizes of queue entries have to be set before I/O queues are made. */
	nvme_client_write(&rig.client, NVME_REG_ASQ, 8, rig.iova);
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	nvme_client_write(&rig.client, NVME_REG_CC, 4, 1);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
	rig_expect_violation("register");
}

/* ---- durability, and messages ---- */

static void
test_flush_is_missing(void **state)
{
	char answer[NVME_DEVICE_ANSWER];

	(void)state;
	rig_start();
	assert_int_equal(rig_write(10, 4, 1, 0), 0);
	rig_control("expect-durable 2");
	rig_control("expect-durable 1 0 10");
	rig_control("expect-durable 1 14 100000");
	rig_expect_no_violation();
	assert_int_equal(nvme_device_control(&rig.device, answer, "expect-durable 1 12 1"), 0);
	assert_string_equal(answer, "1");
	assert_int_equal(nvme_device_control(&rig.device, answer, "expect-durable"), 0);
	assert_string_equal(answer, "4");
	rig_expect_violation("not-durable");
	rig_control("violations clear");
	assert_int_equal(rig_flush(), 0);
	rig_control("expect-durable");
	assert_int_equal(nvme_device_violations(&rig.device, "total"), 0);
	leave_one();
}

static void
expect_message(uint16_t command, const void *payload, size_t size, int rc)
{
	assert_int_equal(
		nvme_client_message(&rig.client, command, payload, size, NULL, 0, NULL, 0, NULL),
		rc);
	rig_expect_violation("protocol");
	rig_control("violations clear");
}

static void
test_messages(void **state)
{
	struct vfio_user_version version = {0};
	struct vfio_region_info region = {.argsz = sizeof(region), .index = 77};
	struct vfio_user_region_access access = {.offset = 0x7ffe, .count = 4};
	struct vfio_irq_set irqs = {.argsz = sizeof(irqs),
				    .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
				    .index = VFIO_PCI_MSIX_IRQ_INDEX,
				    .start = 127,
				    .count = 2};

	(void)state;
	rig_start();
	expect_message(VFIO_USER_DEVICE_GET_INFO, NULL, 0, -EINVAL);
	expect_message(VFIO_USER_DEVICE_GET_REGION_INFO, &region, sizeof(region), -EINVAL);
	expect_message(VFIO_USER_REGION_READ, &access, sizeof(access), -EINVAL);
	expect_message(VFIO_USER_DEVICE_SET_IRQS, &irqs, sizeof(irqs), -EINVAL);
	assert_int_equal(nvme_client_map(&rig.client, NVME_CLIENT_IOVA + RIG_PAGE, RIG_PAGE,
					 rig.client.memory_fd, 0),
			 -EEXIST);
	rig_expect_violation("protocol");
	rig_control("violations clear");
	assert_int_equal(
		nvme_client_map(&rig.client, NOWHERE + 1, RIG_PAGE, rig.client.memory_fd, 0),
		-EINVAL);
	rig_expect_violation("protocol");
	rig_control("violations clear");
	assert_int_equal(nvme_client_unmap(&rig.client, NOWHERE, RIG_PAGE), -ENOENT);
	rig_expect_violation("protocol");
	rig_control("violations clear");
	/* It ends the connection. */
	expect_message(VFIO_USER_VERSION, &version, sizeof(version), -EINVAL);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CSTS, 4), UINT64_MAX);
	nvme_client_close(&rig.client);
	rig_start();
	leave_one();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_prps),
		TEST(test_sgls),
		TEST(test_addresses_that_are_not_mapped),
		TEST(test_memory_that_is_only_read),
		TEST(test_unmap_under_a_command),
		TEST(test_unmap_under_a_queue),
		TEST(test_identifier_in_flight),
		TEST(test_doorbells),
		TEST(test_doorbell_event),
		TEST(test_queues),
		TEST(test_reserved_fields),
		TEST(test_commands_that_are_not_offered),
		TEST(test_half_a_fused_command),
		TEST(test_registers),
		TEST(test_flush_is_missing),
		TEST(test_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
