/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transport to a controller of this machine: registers, interrupts, and how it notices that the
 * device is gone.
 */
/* links: nvme thread testlib env */
/* ldflags: -Wl,--wrap=ioctl,--wrap=log_write */
#include "vfio_rig.h"

#include <stdatomic.h>

#include "by_hand.h"
#include "log_capture.h"
#include "nvme_transport.h"
#include "ticks.h"

static const struct nvme_transport_ops *const ops = &nvme_transport_pcie;
static struct thread *thread;
static struct nvme_transport *transport;
static struct errmsg err;
static int goners, fds_before;

static void
on_gone(void *ctx)
{
	assert_ptr_equal(ctx, &goners);
	goners++;
}

static int
try_open(void)
{
	int rc;

	err.text[0] = '\0';
	thread_set_current(thread);
	rc = ops->open(ADDRESS, on_gone, &goners, &transport, &err);
	thread_set_current(NULL);
	return rc;
}

static void
let_it_look(void)
{
	ticks_advance_us(NVME_GONE_US + 1);
	poll_until_idle(&thread, 1);
}

static int
setup(void **state)
{
	(void)state;
	ticks_set(1);
	thread_lib_init(NULL);
	thread = thread_create("app", NULL);
	assert_non_null(thread);
	log_capture_reset();
	goners = 0;
	transport = NULL;
	fds_before = rig_count_fds();
	rig_start();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	thread_set_current(thread);
	if (transport != NULL)
		ops->close(transport);
	thread_set_current(NULL);
	assert_int_equal(rig.mapped, 0);
	rig_stop();
	assert_int_equal(rig_count_fds(), fds_before);
	thread_finish(thread);
	thread_lib_fini();
	return 0;
}

static void
test_open(void **state)
{
	(void)state;
	assert_int_equal(try_open(), 0);
	assert_int_equal(transport->vectors, VECTORS);
	assert_int_equal(transport->doorbells_size, BAR_SIZE - 0x1000);
	assert_non_null(transport->dma);
	assert_int_equal(rig_command(), 6);
	let_it_look();
	assert_int_equal(goners, 0);
	assert_false(transport->gone);
}

static void
test_registers(void **state)
{
	(void)state;
	assert_int_equal(try_open(), 0);
	rig_set_register(0, 0x03ff00ff);
	rig_set_register(4, 0x20);
	assert_int_equal(ops->read(transport, 0, 8), 0x2003ff00ff);
	assert_int_equal(ops->read(transport, 4, 4), 0x20);
	ops->write(transport, 0x14, 4, 0x460001);
	assert_int_equal(rig_register(0x14), 0x460001);
	assert_int_equal(rig_register(0x18), 0);
	ops->write(transport, 0x28, 8, 0x1122334455667000);
	assert_int_equal(rig_register(0x28), 0x55667000);
	assert_int_equal(rig_register(0x2c), 0x11223344);
	transport->doorbells[3] = 9;
	assert_int_equal(rig_register(0x100c), 9);
	/* All ones in one register mean nothing. */
	rig_set_register(0xc, UINT32_MAX);
	assert_int_equal(ops->read(transport, 0xc, 4), UINT32_MAX);
	assert_false(transport->gone);
}

static void
test_interrupts(void **state)
{
	int fds[VECTORS + 1];
	uint64_t count;

	(void)state;
	assert_int_equal(try_open(), 0);
	assert_int_equal(ops->set_interrupts(transport, VECTORS + 1, fds), -ENOSPC);
	assert_int_equal(ops->set_interrupts(transport, 2, fds), 0);
	assert_memory_equal(rig.msix, fds, 2 * sizeof(int));
	assert_int_equal(read(fds[1], &count, sizeof(count)), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(eventfd_write(rig.msix[1], 3), 0);
	assert_int_equal(read(fds[1], &count, sizeof(count)), 8);
	assert_int_equal(ops->set_interrupts(transport, VECTORS, fds), 0);
	assert_int_equal(rig.msix_count, VECTORS);
	assert_int_equal(ops->set_interrupts(transport, 0, NULL), 0);
	assert_int_equal(rig.msix_count, 0);
	rig.fail_request = VFIO_DEVICE_SET_IRQS;
	rig.fail_errno = ENOSPC;
	assert_int_equal(ops->set_interrupts(transport, 1, fds), -ENOSPC);
}

static void
test_reset(void **state)
{
	(void)state;
	assert_int_equal(try_open(), 0);
	assert_int_equal(ops->reset(transport), 0);
	assert_int_equal(rig.resets, 1);
}

static void
test_refused(void **state)
{
	(void)state;
	rig_write("/sys/bus/pci/devices/" ADDRESS "/class", "0x010601\n");
	assert_int_equal(try_open(), -EINVAL);
	rig_write("/sys/bus/pci/devices/" ADDRESS "/class", "0x010802\n");
	rig.bar_size = 0x1000;
	assert_int_equal(try_open(), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "registers"));
	rig.bar_size = BAR_SIZE;
	close(rig.request);
	rig.request = -1;
	/* The doorbells' page has the MSI-X table in it. */
	rig.area_count = 1;
	rig.areas[0] = (struct vfio_region_sparse_mmap_area){0, 0x1000};
	assert_int_equal(try_open(), -EOPNOTSUPP);
	close(rig.request);
	rig.request = -1;
	rig.area_count = 0;
	rig_set_register(8, UINT32_MAX);
	assert_int_equal(try_open(), -ENODEV);
	assert_non_null(strstr(err.text, "all ones"));
	assert_null(transport);
}

static void
expect_gone(const char *reason)
{
	int fds[1];

	assert_true(transport->gone);
	assert_int_equal(goners, 1);
	let_it_look();
	assert_int_equal(goners, 1);
	assert_true(ops->read(transport, 0x1c, 4) == UINT32_MAX);
	assert_true(ops->read(transport, 0, 8) == UINT64_MAX);
	assert_int_equal(ops->set_interrupts(transport, 1, fds), -ENODEV);
	assert_int_equal(ops->reset(transport), -ENODEV);
	/* Its registers do not answer. Its DMA may go on: it can be cut off, and stays so. */
	assert_int_equal(rig_command(), 6);
	assert_int_equal(ops->set_bus_master(transport, false), 0);
	assert_int_equal(rig_command(), 2);
	assert_int_equal(ops->set_bus_master(transport, true), -ENODEV);
	assert_int_equal(rig_command(), 2);
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), reason));
}

static void
test_all_ones_in_a_read(void **state)
{
	(void)state;
	assert_int_equal(try_open(), 0);
	rig_set_register(8, UINT32_MAX);
	rig_set_register(0x1c, UINT32_MAX);
	assert_true(ops->read(transport, 0x1c, 4) == UINT32_MAX);
	assert_true(transport->gone);
	assert_int_equal(goners, 0);
	let_it_look();
	expect_gone("all ones");
	/* Nothing is written any more. */
	ops->write(transport, 0x14, 4, 5);
	assert_int_equal(rig_register(0x14), 0);
}

static void
test_all_ones_unseen(void **state)
{
	(void)state;
	assert_int_equal(try_open(), 0);
	rig_set_register(8, UINT32_MAX);
	let_it_look();
	expect_gone("all ones");
}

static void
test_wanted_back(void **state)
{
	(void)state;
	assert_int_equal(try_open(), 0);
	assert_int_equal(eventfd_write(rig.request, 1), 0);
	let_it_look();
	assert_int_equal(goners, 1);
	assert_true(transport->wanted_back);
	/* So that it can be switched off in order. */
	assert_false(transport->gone);
	let_it_look();
	assert_int_equal(goners, 1);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_open),        TEST(test_registers),       TEST(test_interrupts),
		TEST(test_reset),       TEST(test_refused),         TEST(test_all_ones_in_a_read),
		TEST(test_wanted_back), TEST(test_all_ones_unseen),
	};

	return cmocka_run_group_tests_name("nvme_pcie", tests, NULL, NULL);
}
