/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices through VFIO: what is asked of the kernel, and what a person is told when it says no. */
/* links: testlib env */
/* ldflags: -Wl,--wrap=ioctl,--wrap=log_write,--wrap=open */
#include "vfio_rig.h"

#include "log_capture.h"
#include "pci.h"

#define PAGE DMA_PAGE_SIZE

static struct vfio_device *device;
static struct errmsg err;
static int fds_before;

/* open() fails for one path. */
static const char *fail_path;
static int fail_open;

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int
__wrap_open(const char *path, int flags, ...)
{
	if (fail_path != NULL && strstr(path, fail_path) != NULL) {
		errno = fail_open;
		return -1;
	}
	return __real_open(path, flags);
}

static int
setup(void **state)
{
	(void)state;
	log_capture_reset();
	device = NULL;
	fail_path = NULL;
	fds_before = rig_count_fds();
	rig_start();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	vfio_close(device);
	assert_int_equal(rig.mapped, 0);
	rig_stop();
	assert_int_equal(rig_count_fds(), fds_before);
	return 0;
}

static void
open_device(void)
{
	assert_int_equal(vfio_open(ADDRESS, NVME_CLASS, &device, &err), 0);
}

static void
reopen_device(void)
{
	vfio_close(device);
	if (rig.request >= 0)
		close(rig.request);
	rig.request = -1;
	open_device();
}

/* And that the sentence has these words in it. */
static void
expect(int rc, const char *first, const char *second)
{
	struct vfio_device *none = NULL;

	err.text[0] = '\0';
	assert_int_equal(vfio_open(ADDRESS, NVME_CLASS, &none, &err), rc);
	assert_null(none);
	assert_non_null(strstr(err.text, first));
	assert_non_null(strstr(err.text, second));
	if (rig.request >= 0)
		close(rig.request);
	rig.request = -1;
}

/* ---- a good machine ---- */

static void
test_open(void **state)
{
	(void)state;
	assert_int_equal(vfio_open("01:00.0", NVME_CLASS, &device, &err), 0);
	assert_int_equal(rig_command(), 6);
	assert_int_equal(vfio_msix_count(device), VECTORS);
	assert_int_equal(vfio_region_size(device, 0), BAR_SIZE);
	assert_int_equal(vfio_region_size(device, 1), 0);
	assert_int_equal(vfio_region_size(device, 100), 0);
	vfio_close(device);
	device = NULL;
	/* It is no bus master any more. */
	assert_int_equal(rig_command(), 2);
	vfio_close(NULL);
}

static void
test_registers(void **state)
{
	uint32_t value = 0x12345678;
	void *memory;
	uint64_t length;

	(void)state;
	open_device();
	assert_int_equal(vfio_map(device, 0, 0x1000, &memory, &length), 0);
	assert_int_equal(length, BAR_SIZE - 0x1000);
	*(volatile uint32_t *)memory = 7;
	assert_int_equal(rig_register(0x1000), 7);
	assert_int_equal(vfio_map(device, 0, 0, &memory, &length), 0);
	assert_int_equal(((volatile uint32_t *)memory)[0x400], 7);
	assert_int_equal(vfio_map(device, 0, BAR_SIZE, &memory, &length), -EOPNOTSUPP);
	assert_int_equal(vfio_map(device, 1, 0, &memory, &length), -EOPNOTSUPP);
	assert_int_equal(vfio_write(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x40, &value, 4), 0);
	value = 0;
	assert_int_equal(vfio_read(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x40, &value, 4), 0);
	assert_int_equal(value, 0x12345678);
	assert_int_equal(
		vfio_read(device, VFIO_PCI_CONFIG_REGION_INDEX, CONFIG_SIZE - 2, &value, 4),
		-EINVAL);
	assert_int_equal(vfio_read(device, VFIO_PCI_CONFIG_REGION_INDEX, UINT64_MAX, &value, 4),
			 -EINVAL);
	assert_int_equal(vfio_write(device, 1, 0, &value, 1), -EINVAL);
	assert_int_equal(vfio_read(device, 99, 0, &value, 1), -EINVAL);
	assert_int_equal(vfio_read(device, 0, 0x3ffc, &value, 4), 0);
	assert_int_equal(ftruncate(rig.device_fd, 0x3ffe), 0);
	assert_int_equal(vfio_read(device, 0, 0x3ffc, &value, 4), -EIO);
	assert_int_equal(ftruncate(rig.device_fd, CONFIG_AT + 0x1000), 0);
}

/* The MSI-X table in the third page cannot be mapped; what lies around it can. */
static void
test_sparse(void **state)
{
	void *memory, *behind;
	uint64_t length;

	(void)state;
	rig.area_count = 2;
	rig.areas[0] = (struct vfio_region_sparse_mmap_area){0, 0x2000};
	rig.areas[1] = (struct vfio_region_sparse_mmap_area){0x3000, 0x1000};
	open_device();
	assert_int_equal(vfio_map(device, 0, 0x1000, &memory, &length), 0);
	assert_int_equal(length, 0x1000);
	assert_int_equal(vfio_map(device, 0, 0x2000, &memory, &length), -EOPNOTSUPP);
	assert_int_equal(vfio_map(device, 0, 0x3004, &behind, &length), 0);
	assert_int_equal(length, 0xffc);
	*(volatile uint32_t *)behind = 5;
	assert_int_equal(rig_register(0x3004), 5);
	/* Areas beyond the region, or not of whole pages, are none. */
	rig.area_count = 3;
	rig.areas[0] = (struct vfio_region_sparse_mmap_area){0, 0x8000};
	rig.areas[1] = (struct vfio_region_sparse_mmap_area){UINT64_MAX - 0xfff, 0x2000};
	rig.areas[2] = (struct vfio_region_sparse_mmap_area){0, 0x800};
	reopen_device();
	assert_int_equal(vfio_map(device, 0, 0, &memory, &length), -EOPNOTSUPP);
	rig.area_count = 0;
	rig.region_flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
	reopen_device();
	assert_int_equal(vfio_map(device, 0, 0, &memory, &length), -EOPNOTSUPP);
}

static void
test_memory(void **state)
{
	uint64_t iova;
	void *memory;

	(void)state;
	open_device();
	memory = dma_alloc(vfio_dma_space(device), 100, &iova, &err);
	assert_non_null(memory);
	assert_int_equal(rig.last_map.vaddr, (uintptr_t)memory);
	assert_int_equal(rig.last_map.iova, iova);
	assert_int_equal(rig.last_map.size, PAGE);
	assert_int_equal(rig.last_map.flags, 3);
	dma_free(vfio_dma_space(device), memory, 100);
	assert_int_equal(rig.mapped, 0);
	rig.fail_request = VFIO_IOMMU_MAP_DMA;
	rig.fail_errno = ENOMEM;
	assert_null(dma_alloc(vfio_dma_space(device), 100, &iova, &err));
	assert_non_null(strstr(err.text, "RLIMIT_MEMLOCK"));
	assert_non_null(strstr(err.text, "LimitMEMLOCK="));
}

/* Maps as much as there is, in pieces, and notes where. */
static void
expect_addresses(const struct dma_range *ranges, uint32_t count, uint64_t piece)
{
	uint64_t address = 1ull << 40, number = 0, expected = 0;

	for (uint32_t i = 0; i < count; i++)
		expected += (ranges[i].last - ranges[i].first + 1) / piece;
	for (;; number++, address += 2 * piece) {
		bool inside = false;

		if (dma_map(vfio_dma_space(device), (void *)(uintptr_t)address, piece, -1, 0,
			    NULL) != 0)
			break;
		for (uint32_t i = 0; i < count; i++)
			if (rig.last_map.iova >= ranges[i].first &&
			    rig.last_map.iova + piece - 1 <= ranges[i].last)
				inside = true;
		assert_true(inside);
	}
	assert_int_equal(number, expected);
}

/* Neither what is reserved, nor the device's own BAR, nor what the IOMMU cannot. */
static void
test_addresses(void **state)
{
	static const struct dma_range small[] = {
		{BAR_IOVA - 2 * PAGE, BAR_IOVA - 1},
		{BAR_IOVA + BAR_SIZE, BAR_IOVA + BAR_SIZE + 2 * PAGE - 1},
		{0xfedff000, 0xfedfffff},
		{0xfef00000, 0xfef01fff}};
	static const struct dma_range old[] = {{1ull << 32, (1ull << 39) - 1}};

	(void)state;
	rig.range_count = 3;
	rig.ranges[0] = (struct vfio_iova_range){small[0].first, small[1].last};
	rig.ranges[1] = (struct vfio_iova_range){0xfedff000, 0xfef01fff};
	rig.ranges[2] = (struct vfio_iova_range){0xfd00000000, 0xffffffffff};
	open_device();
	expect_addresses(small, 4, PAGE);
	/* A kernel that does not say: 39 bits. Pieces too large for what is below 4 GiB. */
	rig.range_count = 0;
	reopen_device();
	assert_int_equal(
		dma_map(vfio_dma_space(device), (void *)0x4000000000, 1ull << 39, -1, 0, NULL),
		-ENOSPC);
	expect_addresses(old, 1, 4ull << 30);
}

static void
test_interrupts(void **state)
{
	int fds[VECTORS] = {10, 11, 12, 13, 14};

	(void)state;
	open_device();
	assert_int_equal(vfio_set_msix(device, NULL, 0), 0);
	assert_int_equal(vfio_set_msix(device, fds, VECTORS), 0);
	assert_memory_equal(rig.msix, fds, sizeof(fds));
	assert_int_equal(vfio_switch_msix(device, 2, -1), 0);
	assert_int_equal(rig.msix[2], -1);
	assert_int_equal(rig.msix[1], 11);
	assert_int_equal(vfio_switch_msix(device, 2, 12), 0);
	assert_memory_equal(rig.msix, fds, sizeof(fds));
	assert_int_equal(vfio_set_msix(device, fds + 2, 1), 0);
	assert_int_equal(rig.msix_count, 1);
	assert_int_equal(rig.msix[0], 12);
	assert_int_equal(vfio_set_msix(device, NULL, 0), 0);
	assert_int_equal(rig.msix_count, 0);
	rig.fail_request = VFIO_DEVICE_SET_IRQS;
	rig.fail_errno = ENOSPC;
	assert_int_equal(vfio_set_msix(device, fds, 1), -ENOSPC);
}

static void
test_request(void **state)
{
	(void)state;
	open_device();
	assert_false(vfio_is_wanted_back(device));
	assert_int_equal(eventfd_write(rig.request, 1), 0);
	assert_true(vfio_is_wanted_back(device));
	/* Kernels that cannot ask. */
	rig.request_vectors = 0;
	reopen_device();
	assert_false(vfio_is_wanted_back(device));
	rig.request_vectors = 1;
	rig.fail_request = VFIO_DEVICE_SET_IRQS;
	rig.fail_errno = EINVAL;
	reopen_device();
	assert_false(vfio_is_wanted_back(device));
}

static void
test_reset(void **state)
{
	(void)state;
	open_device();
	/* What a reset leaves is no bus master. */
	assert_int_equal(pwrite(rig.device_fd, "\0\0", 2, CONFIG_AT + 4), 2);
	assert_int_equal(vfio_reset(device), 0);
	assert_int_equal(rig.resets, 1);
	assert_int_equal(rig_command(), 6);
	/* But one that was cut off from memory does not get it back by that. */
	assert_int_equal(vfio_set_bus_master(device, false), 0);
	assert_int_equal(rig_command(), 2);
	assert_int_equal(vfio_reset(device), 0);
	assert_int_equal(rig_command(), 2);
	assert_int_equal(vfio_set_bus_master(device, true), 0);
	assert_int_equal(rig_command(), 6);
	rig.fail_request = VFIO_DEVICE_RESET;
	rig.fail_errno = EAGAIN;
	assert_int_equal(vfio_reset(device), -EAGAIN);
	rig.fail_request = 0;
	rig.device.flags = VFIO_DEVICE_FLAGS_PCI;
	reopen_device();
	assert_int_equal(vfio_reset(device), -EOPNOTSUPP);
	assert_int_equal(rig.resets, 2);
}

/* ---- and others ---- */

static void
test_addresses_of_devices(void **state)
{
	static const char *const bad[] = {"",
					  "nvme0",
					  "0000:01:00",
					  "0000:01:00.8",
					  "0000:01:00.00",
					  "0000:01:00.0 ",
					  "0000-01-00.0",
					  "1:00.0",
					  "../../../../etc",
					  "0000:01:0g.0"};
	char address[PCI_ADDRESS_SIZE];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(pci_parse_address(bad[i], address), -EINVAL);
		assert_int_equal(vfio_open(bad[i], NVME_CLASS, &device, &err), -EINVAL);
		assert_non_null(strstr(err.text, "no PCI address"));
	}
	assert_int_equal(pci_parse_address("AB:cD.7", address), 0);
	assert_string_equal(address, "0000:ab:cd.7");
	assert_int_equal(vfio_open("0000:02:00.0", NVME_CLASS, &device, &err), -ENODEV);
	assert_non_null(strstr(err.text, "no such PCI device"));
}

static void
test_sysfs_says_no(void **state)
{
	(void)state;
	rig_write("/sys/bus/pci/devices/" ADDRESS "/class", "0x020000\n");
	expect(-EINVAL, "class is 0x020000", "0x010802");
	rig_write("/sys/bus/pci/devices/" ADDRESS "/class", "0x010802\n");
	rig_link("/sys/bus/pci/devices/" ADDRESS "/driver", "../../../../bus/pci/drivers/nvme");
	expect(-EBUSY, "bound to nvme", "vhostctl nvme bind " ADDRESS);
	rig_remove("/sys/bus/pci/devices/" ADDRESS "/driver");
	expect(-EBUSY, "no driver", "vhostctl nvme bind");
	rig_remove("/sys/bus/pci/devices/" ADDRESS "/iommu_group");
	expect(-EOPNOTSUPP, "no IOMMU", "intel_iommu=on");
}

static void
test_no_vfio(void **state)
{
	(void)state;
	fail_path = "/dev/vfio/vfio";
	fail_open = ENODEV;
	expect(-EOPNOTSUPP, "not in the kernel", "modprobe vfio-pci");
	fail_open = EACCES;
	expect(-EACCES, "/dev/vfio/vfio", strerror(EACCES));
	fail_path = NULL;
	rig_remove("/dev/vfio/vfio");
	expect(-EOPNOTSUPP, "not in the kernel", "modprobe vfio-pci");
	rig_write("/dev/vfio/vfio", "");
	rig.api_version = 1;
	expect(-EOPNOTSUPP, "another version", "VFIO");
	rig.api_version = 0;
	rig.extension = 0;
	expect(-EOPNOTSUPP, "no driver for the IOMMU", "modprobe vfio_iommu_type1");
}

static void
test_group(void **state)
{
	char owner[128];

	(void)state;
	snprintf(owner, sizeof(owner), "chown %u %s/dev/vfio/7", geteuid(), rig.root);
	fail_path = "/dev/vfio/7";
	fail_open = EACCES;
	expect(-EACCES, "no permission", owner);
	expect(-EACCES, "udev", "SUBSYSTEM==\"vfio\"");
	fail_open = EBUSY;
	expect(-EBUSY, "another process", "/dev/vfio/7");
	fail_open = ENOENT;
	expect(-ENOENT, "/dev/vfio/7", strerror(ENOENT));
	fail_path = NULL;
	rig_add_device("0000:01:00.1", "0x010802\n", "nvme");
	rig_add_device("0000:01:00.2", "0x0c0330\n", "xhci_hcd");
	rig_add_device("0000:01:00.3", "0x0c0330\n", NULL);
	rig_add_device("0000:00:01.0", "0x060400\n", "pcieport");
	rig.group_flags = 0;
	expect(-EBUSY, "0000:01:00.1 (nvme)", "0000:01:00.2 (xhci_hcd)");
	assert_null(strstr(err.text, "01:00.3"));
	assert_null(strstr(err.text, "pcieport"));
}

/* Each system call of the rest fails: a sentence, and nothing stays open or mapped. */
static void
test_calls_fail(void **state)
{
	static const unsigned long requests[] = {VFIO_GROUP_GET_STATUS, VFIO_GROUP_SET_CONTAINER,
						 VFIO_SET_IOMMU,        VFIO_GROUP_GET_DEVICE_FD,
						 VFIO_DEVICE_GET_INFO,  VFIO_DEVICE_GET_REGION_INFO,
						 VFIO_IOMMU_GET_INFO};

	(void)state;
	rig.fail_errno = EIO;
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		rig.fail_request = requests[i];
		expect(-EIO, i == 0 ? "/dev/vfio/7" : ADDRESS, strerror(EIO));
	}
	rig.fail_request = VFIO_SET_IOMMU;
	rig.fail_errno = EPERM;
	expect(-EPERM, "does not remap interrupts", "firmware");
	/* Not vital: a device without interrupts can be polled. */
	rig.fail_request = VFIO_DEVICE_GET_IRQ_INFO;
	open_device();
	assert_int_equal(vfio_msix_count(device), 0);
}

static void
test_odd_answers(void **state)
{
	(void)state;
	rig.device.flags = VFIO_DEVICE_FLAGS_PLATFORM;
	expect(-EINVAL, "cannot use the device", ADDRESS);
	rig.device.flags = VFIO_DEVICE_FLAGS_PCI;
	rig.device.num_regions = 3;
	expect(-EINVAL, "cannot use the device", ADDRESS);
	rig.device.num_regions = 9;
	rig.info_argsz = UINT32_MAX;
	expect(-EOVERFLOW, "cannot use the device", ADDRESS);
	rig.info_argsz = 0;
	rig.page_sizes = 1ull << 16;
	expect(-EOPNOTSUPP, "cannot use the device", ADDRESS);
	rig.page_sizes = PAGE;
	rig.range_count = 1;
	rig.ranges[0] = (struct vfio_iova_range){0xfee00000, 0xfee10000};
	expect(-EINVAL, "cannot use the device", ADDRESS);
	rig.range_count = 0;
	rig_remove("/sys/kernel/iommu_groups/7/reserved_regions");
	expect(-ENOENT, "cannot use the device", ADDRESS);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_open),          TEST(test_registers),
		TEST(test_sparse),        TEST(test_memory),
		TEST(test_addresses),     TEST(test_interrupts),
		TEST(test_request),       TEST(test_reset),
		TEST(test_sysfs_says_no), TEST(test_addresses_of_devices),
		TEST(test_no_vfio),       TEST(test_group),
		TEST(test_calls_fail),    TEST(test_odd_answers),
	};

	return cmocka_run_group_tests_name("vfio", tests, NULL, NULL);
}
