/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_rig: what the tests of the software NVMe device share: a device and a client for each test,
 * with one I/O queue (of RIG_QUEUE entries) and memory for data. A test that breaks rules says so
 * by rig_expect_violation(); the device's exit status is checked at the end.
 */
#ifndef VHOSTD_NVME_RIG_H
#define VHOSTD_NVME_RIG_H

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "nvme_client.h"
#include "nvme_device.h"
#include "waiting.h"

#define RIG_QUEUE     16
#define RIG_PAGE      4096u
#define RIG_BLOCK     512u
#define RIG_BLOCKS    16384u
#define RIG_DATA      (1u << 20)
#define RIG_QUIET_MS  50 /* nothing comes: how long that is watched */
#define RIG_FUA       (1u << 30)
#define RIG_DNR       NVME_SC_DNR
#define RIG_MEDIA(sc) (NVME_SCT_MEDIA << 8 | (sc))

#define rig_control(...) assert_int_equal(nvme_device_control(&rig.device, NULL, __VA_ARGS__), 0)

static struct {
	struct nvme_device device;
	struct nvme_client client;
	uint8_t *data; /* RIG_DATA bytes of pages in a row */
	uint64_t iova;
	int exit_status; /* that the device has to end with */
} rig;

static inline void
rig_connect(void)
{
	assert_int_equal(nvme_client_open(&rig.client, rig.device.socket), 0);
	rig.data = nvme_client_alloc(&rig.client, RIG_DATA, &rig.iova);
}

/* Connects, and starts the controller with queue 1. */
static inline void
rig_start(void)
{
	rig_connect();
	assert_int_equal(nvme_client_enable(&rig.client, DEADLINE_MS), 0);
	assert_int_equal(nvme_client_create_queue(&rig.client, 1, RIG_QUEUE, -1), 0);
}

static inline int
rig_setup(void **state)
{
	static const char *const args[] = {"-c", "ns add 1 memory 16384 512", "-c",
					   "ns add 2 null 1000000 4096", NULL};

	(void)state;
	memset(&rig, 0, sizeof(rig));
	return nvme_device_start(&rig.device, args);
}

static inline int
rig_teardown(void **state)
{
	int status;

	(void)state;
	if (rig.client.memory != NULL)
		nvme_client_close(&rig.client);
	status = nvme_device_end(&rig.device);
	if (status != rig.exit_status)
		fprintf(stderr, "# nvme_device: exit status %d, not %d\n", status, rig.exit_status);
	return status == rig.exit_status ? 0 : -1;
}

/* Until a number of `stats` is that. */
static inline void
rig_wait_for_stat(const char *key, int64_t value)
{
	WAIT_UNTIL(nvme_device_stat(&rig.device, key) == value);
}

/* At least one, of this name and no other. */
static inline void
rig_expect_violation(const char *name)
{
	int64_t count = nvme_device_violations(&rig.device, name);

	if (count <= 0)
		print_error("no violation: %s\n", name);
	assert_true(count > 0);
	assert_int_equal(nvme_device_violations(&rig.device, "total"), count);
	rig.exit_status = NVME_DEVICE_VIOLATIONS;
}

static inline void
rig_expect_no_violation(void)
{
	assert_int_equal(nvme_device_violations(&rig.device, "total"), 0);
}

/* Memory in a row from iova on, as at most two PRPs. */
static inline struct nvme_sqe
rig_io(uint8_t opcode, uint64_t block, uint32_t count)
{
	return (struct nvme_sqe){.opcode = opcode,
				 .nsid = 1,
				 .prp1 = rig.iova,
				 .prp2 = count * RIG_BLOCK > RIG_PAGE ? rig.iova + RIG_PAGE : 0,
				 .cdw10 = (uint32_t)block,
				 .cdw11 = (uint32_t)(block >> 32),
				 .cdw12 = count - 1};
}

static inline int
rig_run(struct nvme_sqe sqe)
{
	return nvme_client_run(&rig.client, 1, sqe, NULL);
}

static inline int
rig_admin(struct nvme_sqe sqe, uint32_t *dw0)
{
	return nvme_client_run(&rig.client, 0, sqe, dw0);
}

static inline int
rig_write(uint64_t block, uint32_t count, uint8_t pattern, uint32_t flags)
{
	struct nvme_sqe sqe = rig_io(nvme_cmd_write, block, count);

	memset(rig.data, pattern, count * RIG_BLOCK);
	sqe.cdw12 |= flags;
	return rig_run(sqe);
}

static inline void
rig_expect_data(uint64_t block, uint32_t count, uint8_t pattern)
{
	memset(rig.data, ~pattern, count * RIG_BLOCK);
	assert_int_equal(rig_run(rig_io(nvme_cmd_read, block, count)), 0);
	for (uint32_t i = 0; i < count * RIG_BLOCK; i++)
		assert_int_equal(rig.data[i], pattern);
}

static inline int
rig_flush(void)
{
	return rig_run((struct nvme_sqe){.opcode = nvme_cmd_flush, .nsid = 1});
}

static inline int
rig_identify(uint32_t cns, uint32_t nsid)
{
	memset(rig.data, 0xee, RIG_PAGE);
	return rig_admin((struct nvme_sqe){.opcode = nvme_admin_identify,
					   .nsid = nsid,
					   .prp1 = rig.iova,
					   .cdw10 = cns},
			 NULL);
}

static inline int
rig_log_page(uint8_t id, uint32_t size)
{
	memset(rig.data, 0xee, RIG_PAGE);
	return rig_admin((struct nvme_sqe){.opcode = nvme_admin_get_log_page,
					   .nsid = NVME_NSID_ALL,
					   .prp1 = rig.iova,
					   .cdw10 = (size / 4 - 1) << 16 | id},
			 NULL);
}

static inline int
rig_set_feature(uint8_t id, uint32_t value, uint32_t *dw0)
{
	return rig_admin(
		(struct nvme_sqe){.opcode = nvme_admin_set_features, .cdw10 = id, .cdw11 = value},
		dw0);
}

static inline int
rig_get_feature(uint8_t id, uint32_t select, uint32_t *dw0)
{
	return rig_admin(
		(struct nvme_sqe){.opcode = nvme_admin_get_features, .cdw10 = id | select << 8},
		dw0);
}

#endif
