/* SPDX-License-Identifier: BSD-3-Clause */
/* links: testlib */
/*
 * Each fault that the software NVMe device can have, and each odd thing that it can say of itself.
 */
#include "nvme_rig.h"

static int
wait_completion(struct nvme_cqe *cqe)
{
	return nvme_client_wait(&rig.client, 1, DEADLINE_MS, cqe);
}

static void
expect_nothing(void)
{
	struct nvme_cqe cqe;

	assert_int_equal(nvme_client_wait(&rig.client, 1, RIG_QUIET_MS, &cqe), -ETIMEDOUT);
}

static uint16_t
submit_read(void)
{
	uint16_t cid = nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_read, 0, 1), false);

	nvme_client_ring(&rig.client, 1);
	return cid;
}

/* ---- faults of a command ---- */

static void
test_status(void **state)
{
	char answer[NVME_DEVICE_ANSWER];

	(void)state;
	rig_start();
	/* The third and fourth read. */
	rig_control("fault status opcode=2 nth=3 count=2 status=0x4281");
	assert_int_equal(rig_write(0, 1, 1, 0), 0);
	for (int i = 1; i <= 6; i++)
		assert_int_equal(rig_run(rig_io(nvme_cmd_read, 0, 1)),
				 i == 3 || i == 4 ? (RIG_MEDIA(NVME_SC_READ_ERROR) | RIG_DNR) : 0);
	assert_int_equal(nvme_device_control(&rig.device, answer, "faults"), 0);
	assert_string_equal(answer, "1:status:hits=2:left=0");
	/* A write that fails is not carried out. */
	rig_control("fault status opcode=1 queue=1 nsid=1 status=0x280");
	assert_int_equal(rig_write(0, 1, 2, 0), RIG_MEDIA(NVME_SC_WRITE_FAULT));
	rig_expect_data(0, 1, 1);
	rig_control("fault status queue=0 opcode=6 count=1000");
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_CTRL, 0), NVME_SC_INTERNAL);
	rig_control("fault-clear");
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_CTRL, 0), 0);
	rig_expect_no_violation();
}

static void
test_lost_completion(void **state)
{
	uint32_t not_aborted = 0;
	struct nvme_cqe cqe;
	uint16_t cid;

	(void)state;
	rig_start();
	rig_control("fault lose");
	cid = submit_read();
	rig_wait_for_stat("in_flight", 1);
	expect_nothing();
	assert_int_equal(rig_admin((struct nvme_sqe){.opcode = nvme_admin_abort_cmd,
						     .cdw10 = (uint32_t)cid << 16 | 1},
				   &not_aborted),
			 0);
	assert_int_equal(not_aborted, 1);
	/* The queue goes on, for ever with one entry less. */
	for (int i = 0; i < 3 * RIG_QUEUE; i++)
		assert_int_equal(rig_run(rig_io(nvme_cmd_read, 0, 1)), 0);
	/* A reset ends it. */
	assert_int_equal(nvme_client_disable(&rig.client), 0);
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
	submit_read();
	assert_int_equal(wait_completion(&cqe), 0);
	assert_int_equal(nvme_device_stat(&rig.device, "in_flight"), 0);
	rig_expect_no_violation();
}

/* It overtakes nothing, is overtaken, and is carried out when it is due. */
static void
test_late_completion(void **state)
{
	struct nvme_cqe first, second;
	uint16_t late, other;

	(void)state;
	rig_start();
	rig_control("fault delay ms=600000");
	late = submit_read();
	other = submit_read();
	assert_int_equal(wait_completion(&first), 0);
	assert_int_equal(first.cid, other);
	memset(rig.data, 0xaa, RIG_BLOCK);
	rig_control("release");
	assert_int_equal(wait_completion(&second), 0);
	assert_int_equal(second.cid, late);
	assert_int_equal(second.status >> 1, 0);
	assert_int_equal(rig.data[0], 0);
	rig_expect_no_violation();
}

static void
test_wrong_phase(void **state)
{
	(void)state;
	rig_start();
	rig_control("fault phase");
	submit_read();
	/* The entry is there, all but its phase. */
	WAIT_UNTIL(rig.client.queues[1].completions[0].sqid == 1);
	expect_nothing();
	assert_int_equal(rig.client.queues[1].completions[0].status, 0);
	rig_expect_no_violation();
}

static void
test_wrong_identifier(void **state)
{
	struct nvme_cqe cqe;

	(void)state;
	rig_start();
	rig_control("fault cid cid=0x1234");
	submit_read();
	assert_int_equal(wait_completion(&cqe), 0);
	assert_int_equal(cqe.cid, 0x1234);
	rig_expect_no_violation();
}

static void
expect_fatal(void)
{
	WAIT_UNTIL((nvme_client_read(&rig.client, NVME_REG_CSTS, 4) & 2) != 0);
	submit_read();
	expect_nothing();
	assert_int_equal(nvme_client_disable(&rig.client), 0);
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, 0, 1)), 0);
}

static void
test_fatal(void **state)
{
	(void)state;
	rig_start();
	rig_control("fault fatal nth=2");
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, 0, 1)), 0);
	submit_read();
	expect_fatal();
	rig_control("fatal");
	expect_fatal();
	rig_expect_no_violation();
}

static void
expect_removed(void)
{
	uint32_t word = 0;

	WAIT_UNTIL(nvme_client_read(&rig.client, NVME_REG_CSTS, 4) == UINT32_MAX);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CAP, 8), UINT64_MAX);
	assert_int_equal(
		nvme_client_access(&rig.client, VFIO_PCI_CONFIG_REGION_INDEX, 0, &word, 4, false),
		0);
	assert_int_equal(word, UINT32_MAX);
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0,
					     NULL, 0, NULL),
			 -ENODEV);
	submit_read();
	expect_nothing();
}

static void
test_removal(void **state)
{
	(void)state;
	rig_start();
	rig_control("remove");
	expect_removed();
	nvme_client_close(&rig.client);
	rig_control("replug");
	rig_start();
	rig_control("fault remove opcode=2");
	submit_read();
	expect_removed();
	rig_expect_no_violation();
}

static void
test_removal_that_is_announced(void **state)
{
	struct vfio_irq_set set = {.argsz = sizeof(set),
				   .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
				   .index = VFIO_PCI_REQ_IRQ_INDEX,
				   .count = 1};
	int fd = eventfd(0, EFD_CLOEXEC);
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	(void)state;
	rig_start();
	assert_int_equal(nvme_device_control(&rig.device, NULL, "request-removal"), -EINVAL);
	assert_int_equal(nvme_client_message(&rig.client, VFIO_USER_DEVICE_SET_IRQS, &set,
					     sizeof(set), &fd, 1, NULL, 0, NULL),
			 0);
	rig_control("request-removal");
	assert_int_equal(poll(&poll_fd, 1, DEADLINE_MS), 1);
	close(fd);
	rig_expect_no_violation();
}

static void
expect_disconnected(void)
{
	rig_wait_for_stat("connected", 0);
	assert_int_equal(nvme_client_read(&rig.client, NVME_REG_CSTS, 4), UINT64_MAX);
	expect_nothing();
	nvme_client_close(&rig.client);
}

static void
test_disappearing_socket(void **state)
{
	(void)state;
	rig_start();
	rig_control("disconnect");
	expect_disconnected();
	rig_start();
	rig_control("fault disconnect");
	submit_read();
	expect_disconnected();
	rig_control("set listen 0");
	assert_int_not_equal(nvme_client_open(&rig.client, rig.device.socket), 0);
	nvme_client_close(&rig.client);
	rig_control("set listen 1");
	rig_start();
	rig_expect_no_violation();
}

/* Power is lost at the 20th write: of those before, what was flushed is there, and nothing else. */
static void
test_power_loss_at_a_command(void **state)
{
	(void)state;
	rig_start();
	rig_control("fault power-loss opcode=1 nth=20");
	for (uint64_t i = 0; i < 19; i++) {
		assert_int_equal(rig_write(i, 1, 0x60, 0), 0);
		if (i == 9)
			assert_int_equal(rig_flush(), 0);
	}
	nvme_client_put(&rig.client, 1, rig_io(nvme_cmd_write, 19, 1), false);
	nvme_client_ring(&rig.client, 1);
	expect_disconnected();
	rig_start();
	rig_expect_data(0, 10, 0x60);
	rig_expect_data(10, 10, 0);
	rig_expect_no_violation();
}

/* ---- what the device is ---- */

static void
test_never_ready(void **state)
{
	(void)state;
	rig_connect();
	rig_control("set ready 0");
	assert_int_equal(nvme_client_enable(&rig.client, RIG_QUIET_MS), -ETIMEDOUT);
	assert_int_equal(nvme_client_disable(&rig.client), 0);
	rig_control("set ready 1");
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	rig_control("set shutdown 0");
	nvme_client_write(&rig.client, NVME_REG_CC, 4,
			  nvme_client_read(&rig.client, NVME_REG_CC, 4) | 1 << NVME_CC_SHN_SHIFT);
	assert_int_equal(NVME_CSTS_SHST(nvme_client_read(&rig.client, NVME_REG_CSTS, 4)),
			 NVME_CSTS_SHST_OCCUR);
	rig_expect_no_violation();
}

static void
test_small_device(void **state)
{
	const struct nvme_id_ctrl *controller;
	uint32_t granted = 0;

	(void)state;
	rig_control("set queues 1");
	rig_control("set vectors 1");
	rig_control("set mdts 0");
	rig_control("set sgl 0");
	rig_control("set cache 0");
	rig_control("set fused 0");
	rig_control("set dbbuf 0");
	rig_control("set oncs 0");
	rig_connect();
	controller = (void *)rig.data;
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_NUM_QUEUES, 7 << 16 | 7, &granted), 0);
	assert_int_equal(granted, 0);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_CTRL, 0), 0);
	assert_int_equal(controller->sgls, 0);
	assert_int_equal(controller->vwc & 1, 0);
	assert_int_equal(controller->oncs | controller->fuses | controller->mdts, 0);
	assert_int_equal(controller->oacs, 0);
	assert_int_equal(rig_set_feature(NVME_FEAT_FID_VOLATILE_WC, 1, NULL),
			 NVME_SC_INVALID_FIELD | RIG_DNR);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
	assert_int_equal(rig_write(0, 1, 1, 0), 0);
	rig_control("expect-durable");
	rig_expect_no_violation();
}

static void
test_boundary(void **state)
{
	(void)state;
	rig_start();
	rig_control("set noiob 8");
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 1), 0);
	assert_int_equal(((struct nvme_id_ns *)rig.data)->noiob, 8);
	assert_int_equal(rig_write(8, 8, 1, 0), 0);
	assert_int_equal(nvme_device_stat(&rig.device, "crossings"), 0);
	assert_int_equal(rig_write(9, 8, 1, 0), 0);
	assert_int_equal(nvme_device_stat(&rig.device, "crossings"), 1);
	rig_expect_no_violation();
}

static void
test_absurd_capabilities(void **state)
{
	uint64_t cap;

	(void)state;
	rig_control("set cap-mqes 0");
	rig_control("set cap-mpsmin 5");
	rig_control("set cap-mpsmax 15");
	rig_control("set cap-dstrd 15");
	rig_control("set cap-to 1");
	rig_control("set cap-css 0");
	rig_connect();
	cap = nvme_client_read(&rig.client, NVME_REG_CAP, 8);
	assert_int_equal(NVME_CAP_MQES(cap), 0);
	assert_int_equal(NVME_CAP_MPSMIN(cap), 5);
	assert_int_equal(NVME_CAP_MPSMAX(cap), 15);
	assert_int_equal(NVME_CAP_DSTRD(cap), 15);
	assert_int_equal(NVME_CAP_TO(cap), 1);
	assert_int_equal(NVME_CAP_CSS(cap), 0);
	assert_int_equal(nvme_device_control(&rig.device, NULL, "set cap-dstrd 16"), -EINVAL);
	rig_expect_no_violation();
}

static void
test_absurd_identify_data(void **state)
{
	const struct nvme_id_ns *ns;
	const struct nvme_id_ctrl *controller;

	(void)state;
	rig_start();
	ns = (void *)rig.data;
	controller = (void *)rig.data;
	rig_control("identify 1 nsze 0");
	rig_control("identify 1 lbads 31");
	rig_control("identify 1 nlbaf 255");
	rig_control("identify 1 flbas 15");
	rig_control("identify ctrl nn 0xffffffff");
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 1), 0);
	assert_int_equal(ns->nsze, 0);
	assert_int_equal(ns->lbaf[0].ds, 31);
	assert_int_equal(ns->nlbaf, 255);
	assert_int_equal(ns->flbas, 15);
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_CTRL, 0), 0);
	assert_int_equal(controller->nn, UINT32_MAX);
	rig_control("identify clear");
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS, 1), 0);
	assert_int_equal(ns->nsze, RIG_BLOCKS);
	rig_expect_no_violation();
}

/* The namespace goes while it is used, and comes back larger. */
static void
test_namespaces_under_use(void **state)
{
	(void)state;
	rig_start();
	assert_int_equal(rig_write(0, 1, 1, 0), 0);
	rig_control("ns resize 1 32768");
	assert_int_equal(rig_write(32767, 1, 2, 0), 0);
	rig_expect_data(0, 1, 1);
	rig_control("ns resize 1 100");
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, 100, 1)), NVME_SC_LBA_RANGE | RIG_DNR);
	rig_control("ns remove 1");
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, 0, 1)), NVME_SC_INVALID_NS | RIG_DNR);
	rig_control("ns remove 2");
	assert_int_equal(rig_identify(NVME_IDENTIFY_CNS_NS_ACTIVE_LIST, 0), 0);
	assert_int_equal(*(uint32_t *)rig.data, 0);
	rig_control("ns add 1 memory 1000 512");
	rig_expect_data(0, 1, 0);
	rig_expect_no_violation();
}

static void
test_wrong_lines(void **state)
{
	static const char *const lines[] = {
		"",
		"nonsense",
		"set",
		"set queues 0",
		"set queues 1000",
		"set sgl two",
		"set nothing 1",
		"ns add 0 null 1 512",
		"ns add 99 null 1 512",
		"ns add 1 null 1 512",
		"ns add 3 null 0 512",
		"ns add 3 null 1 513",
		"ns add 3 file 1 512",
		"ns add 3 file 1 512 /does/not/exist",
		"ns resize 1 99999999999",
		"ns remove 3",
		"identify 1 nothing 1",
		"identify 0 nsze 1",
		"fault",
		"fault nothing",
		"fault lose nth=0",
		"fault lose queue=x",
		"fault lose later=1",
		"expect-durable x",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		assert_int_equal(nvme_device_control(&rig.device, NULL, "%s", lines[i]), -EINVAL);
	rig_start();
	assert_int_equal(rig_write(0, 1, 1, 0), 0);
	rig_expect_no_violation();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_status),
		TEST(test_lost_completion),
		TEST(test_late_completion),
		TEST(test_wrong_phase),
		TEST(test_wrong_identifier),
		TEST(test_fatal),
		TEST(test_removal),
		TEST(test_removal_that_is_announced),
		TEST(test_disappearing_socket),
		TEST(test_power_loss_at_a_command),
		TEST(test_never_ready),
		TEST(test_small_device),
		TEST(test_boundary),
		TEST(test_absurd_capabilities),
		TEST(test_absurd_identify_data),
		TEST(test_namespaces_under_use),
		TEST(test_wrong_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
