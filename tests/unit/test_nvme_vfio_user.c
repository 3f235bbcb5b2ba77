/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transport to a controller in another process: what it asks the server, and what it does when
 * the server lies or goes away.
 */
/* links: nvme thread testlib env */
/* ldflags: -Wl,--wrap=log_write */
#include "vfio_user_rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "by_hand.h"
#include "coroutine.h"
#include "log_capture.h"
#include "mapping.h"
#include "nvme_transport.h"
#include "ticks.h"
#include "waiting.h"
#include "work.h"

#define PAGE      4096u
#define DEADLINE  100 /* ms: of what never comes */
#define UNLIMITED DEADLINE_MS

static struct thread *thread;
static struct nvme_transport *transport;
static struct errmsg err;
static int goners; /* calls of on_gone() */
static int fds_before;

static int
count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(folder);
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static void
on_gone(void *ctx)
{
	assert_ptr_equal(ctx, &goners);
	goners++;
}

static int
try_open(const char *traddr)
{
	int rc;

	err.text[0] = '\0';
	transport = NULL;
	thread_set_current(thread);
	rc = nvme_transport_vfio_user.open(traddr, on_gone, &goners, &transport, &err);
	thread_set_current(NULL);
	assert_true((rc == 0) == (transport != NULL));
	assert_true((rc != 0) == (err.text[0] != '\0'));
	return rc;
}

static void
close_transport(void)
{
	thread_set_current(thread);
	rig_looked();
	transport->ops->close(transport);
	thread_set_current(NULL);
	transport = NULL;
}

static void
open_transport(void)
{
	vfio_user_reply_ms = UNLIMITED;
	assert_int_equal(try_open(rig.path), 0);
}

static void
expect_refused(int rc, const char *text)
{
	assert_int_equal(try_open(rig.path), rc);
	assert_non_null(strstr(err.text, rig.path));
	assert_non_null(strstr(err.text, text));
}

/* The time of the watch's poller passes. */
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
	fds_before = count_fds();
	rig_start();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	if (transport != NULL)
		close_transport();
	rig_stop();
	assert_int_equal(count_fds(), fds_before);
	thread_finish(thread);
	thread_lib_fini();
	return 0;
}

/* ---- a good server ---- */

static void
test_open(void **state)
{
	uint16_t command;

	(void)state;
	open_transport();
	assert_int_equal(transport->vectors, RIG_VECTORS);
	assert_int_equal(transport->doorbells_size, RIG_BAR_SIZE - RIG_DOORBELLS);
	assert_false(transport->gone);
	assert_non_null(transport->dma);
	/* Memory and bus mastering are on. */
	memcpy(&command, rig.config + 4, sizeof(command));
	assert_int_equal(command, 6);
	let_it_look();
	assert_int_equal(goners, 0);
}

static void
test_folder(void **state)
{
	(void)state;
	assert_int_equal(try_open(rig.folder), 0);
}

static void
test_no_socket(void **state)
{
	char path[4200];

	(void)state;
	assert_int_equal(try_open("/nonexistent/socket"), -ENODEV);
	assert_int_equal(try_open("/"), -ENODEV);
	assert_int_equal(try_open("/dev/null"), -ECONNREFUSED);
	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(try_open(path), -ENAMETOOLONG);
	snprintf(path, sizeof(path), "%s/%080d", rig.folder, 7);
	assert_int_equal(symlink("/", path), 0);
	strcat(path, "/////////////////////////////////////////");
	assert_int_equal(try_open(path), -ENAMETOOLONG);
	*strstr(path, "7/") = '7';
	path[strlen(rig.folder) + 81] = '\0';
	assert_int_equal(unlink(path), 0);
}

static void
test_registers(void **state)
{
	const struct nvme_transport_ops *ops = &nvme_transport_vfio_user;

	(void)state;
	open_transport();
	memcpy(rig.bar, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
	assert_int_equal(ops->read(transport, 0, 8), 0x0807060504030201);
	assert_int_equal(ops->read(transport, 4, 4), 0x08070605);
	ops->write(transport, 0x14, 4, 0x460001);
	assert_memory_equal(rig.bar + 0x14, "\x01\x00\x46\x00\x00", 5);
	ops->write(transport, 0x28, 8, 0x1122334455667788);
	assert_memory_equal(rig.bar + 0x28, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
}

static void
test_doorbells(void **state)
{
	uint32_t value;

	(void)state;
	open_transport();
	transport->doorbells[3] = 0xabcd;
	assert_int_equal(pread(rig.bar_fd, &value, 4, RIG_BAR_AT + RIG_DOORBELLS + 12), 4);
	assert_int_equal(value, 0xabcd);
	transport->doorbells[transport->doorbells_size / 4 - 1] = 7;
	assert_int_equal(pread(rig.bar_fd, &value, 4, RIG_BAR_AT + RIG_BAR_SIZE - 4), 4);
	assert_int_equal(value, 7);
}

/* The server sees the same memory. */
static void
test_memory(void **state)
{
	uint64_t iova = 0;
	uint8_t *memory, *theirs;

	(void)state;
	open_transport();
	memory = dma_alloc(transport->dma, 5000, &iova, NULL);
	assert_non_null(memory);
	assert_int_equal(rig.map_count, 1);
	assert_int_equal(rig.maps[0].map.address, iova);
	assert_int_equal(rig.maps[0].map.size, 2 * PAGE);
	assert_int_equal(rig.maps[0].map.argsz, 32);
	assert_int_equal(rig.maps[0].map.flags, 3);
	theirs = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, rig.maps[0].fd,
		      (off_t)rig.maps[0].map.offset);
	assert_ptr_not_equal(theirs, MAP_FAILED);
	strcpy((char *)theirs + PAGE, "written by the device");
	assert_string_equal((char *)memory + PAGE, "written by the device");
	assert_int_equal(ftruncate(rig.maps[0].fd, 0), -1);
	munmap(theirs, 2 * PAGE);
	dma_free(transport->dma, memory, 5000);
	assert_int_equal(rig.map_count, 0);
	assert_int_equal(rig.calls[VFIO_USER_DMA_UNMAP], 1);
}

static void
test_memory_refused(void **state)
{
	void *kept[RIG_MAPS], *memory;
	uint64_t iova;

	(void)state;
	open_transport();
	for (int i = 0; i < RIG_MAPS; i++) {
		kept[i] = dma_alloc(transport->dma, PAGE, &iova, NULL);
		assert_non_null(kept[i]);
	}
	memory = dma_alloc(transport->dma, PAGE, &iova, &err);
	assert_null(memory);
	assert_non_null(strstr(err.text, strerror(EINVAL)));
	assert_false(transport->gone);
	/* An end without a message for each. */
	for (int i = 1; i < RIG_MAPS; i++)
		dma_unmap(transport->dma, kept[i], PAGE);
	close_transport();
	assert_int_equal(rig.calls[VFIO_USER_DMA_UNMAP], RIG_MAPS - 1);
	for (int i = 0; i < RIG_MAPS; i++)
		munmap(kept[i], PAGE);
}

/* File descriptors that nobody asked for are closed, whatever they come with. */
static void
test_fds_with_each_reply(void **state)
{
	static const uint16_t commands[] = {VFIO_USER_DMA_MAP,      VFIO_USER_DMA_UNMAP,
					    VFIO_USER_DEVICE_RESET, VFIO_USER_REGION_READ,
					    VFIO_USER_REGION_WRITE, VFIO_USER_DEVICE_SET_IRQS};
	int before;

	(void)state;
	open_transport();
	before = count_fds();
	rig.lie = LIE_FDS;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		uint64_t iova;
		void *memory;

		rig.lie_to = commands[i];
		memory = dma_alloc(transport->dma, PAGE, &iova, NULL);
		assert_non_null(memory);
		dma_free(transport->dma, memory, PAGE);
		assert_int_equal(transport->ops->reset(transport), 0);
		transport->ops->write(transport, 0x14, 4, transport->ops->read(transport, 0x14, 4));
		assert_int_equal(transport->ops->set_interrupts(transport, 0, NULL), 0);
		assert_false(transport->gone);
		/* What is the server's own may come and go. */
		WAIT_UNTIL(count_fds() == before);
	}
	rig.lie = LIE_NONE;
}

/*
 * Memory that the server does not let go of cannot be used for anything else: it is not trusted any
 * more.
 */
static void
test_unmap_refused(void **state)
{
	void *memory;
	uint64_t iova;

	(void)state;
	open_transport();
	memory = dma_alloc(transport->dma, PAGE, &iova, NULL);
	rig.lie = LIE_ERROR;
	rig.lie_to = VFIO_USER_DMA_UNMAP;
	dma_free(transport->dma, memory, PAGE);
	assert_true(transport->gone);
	let_it_look();
	assert_int_equal(goners, 1);
}

static void
test_interrupts(void **state)
{
	int fds[RIG_VECTORS + 1];
	uint64_t count = 5;

	(void)state;
	open_transport();
	assert_int_equal(transport->ops->set_interrupts(transport, RIG_VECTORS + 1, fds), -ENOSPC);
	assert_int_equal(transport->ops->set_interrupts(transport, RIG_VECTORS, fds), 0);
	/* No more file descriptors in a message than the server takes. */
	assert_int_equal(rig.largest_irq_batch, 8);
	for (uint32_t i = 0; i < RIG_VECTORS; i++) {
		assert_int_equal(read(fds[i], &count, sizeof(count)), -1);
		assert_int_equal(errno, EAGAIN);
		assert_int_equal(eventfd_write(rig.irqs[i], i + 1), 0);
		assert_int_equal(read(fds[i], &count, sizeof(count)), 8);
		assert_int_equal(count, i + 1);
	}
	assert_int_equal(transport->ops->set_interrupts(transport, 2, fds), 0);
	assert_true(rig.irqs[1] >= 0);
	assert_int_equal(rig.irqs[2], -1);
	assert_int_equal(transport->ops->set_interrupts(transport, 0, NULL), 0);
	assert_int_equal(rig.irqs[0], -1);
	rig.lie = LIE_ERROR;
	rig.lie_to = VFIO_USER_DEVICE_SET_IRQS;
	assert_int_equal(transport->ops->set_interrupts(transport, 2, fds), -EACCES);
	assert_false(transport->gone);
}

static void
test_interrupts_one_by_one(void **state)
{
	int fds[3];

	(void)state;
	/* What is not said is 1. */
	rig_set_version(0, 0, "{}");
	open_transport();
	assert_int_equal(transport->ops->set_interrupts(transport, 3, fds), 0);
	assert_int_equal(rig.largest_irq_batch, 1);
}

static void
test_interrupt_switched(void **state)
{
	eventfd_t count;
	int fds[2];

	(void)state;
	open_transport();
	assert_int_equal(transport->ops->set_interrupts(transport, 2, fds), 0);
	/* A server that does not know that leaves it as it is. */
	assert_int_equal(transport->ops->switch_interrupt(transport, 1, false), -EINVAL);
	assert_true(rig.irqs[1] >= 0);
	rig.vectors_go_off = true;
	assert_int_equal(transport->ops->switch_interrupt(transport, 1, false), 0);
	assert_int_equal(rig.irqs[1], -1);
	assert_true(rig.irqs[0] >= 0);
	assert_int_equal(transport->ops->switch_interrupt(transport, 1, true), 0);
	assert_int_equal(eventfd_write(rig.irqs[1], 1), 0);
	assert_int_equal(eventfd_read(fds[1], &count), 0);
}

static void
test_reset(void **state)
{
	(void)state;
	open_transport();
	assert_int_equal(transport->ops->reset(transport), 0);
	assert_int_equal(rig.resets, 1);
	close_transport();
	rig.device.flags &= ~(uint32_t)VFIO_DEVICE_FLAGS_RESET;
	open_transport();
	assert_int_equal(transport->ops->reset(transport), -EOPNOTSUPP);
	assert_int_equal(rig.resets, 1);
}

/* ---- in a coroutine ---- */

static int result;

static void
open_and_use(void *arg)
{
	int rc = nvme_transport_vfio_user.open(arg, on_gone, &goners, &transport, &err);

	if (rc == 0 && transport->ops->read(transport, 0, 4) != 0x12345678)
		rc = -EIO;
	if (rc == 0)
		transport->ops->close(transport);
	transport = NULL;
	result = rc;
}

static void
test_coroutine(void **state)
{
	const struct work_pool_opts opts = {.max_workers = 2};
	time_t end = time(NULL) + DEADLINE_S;

	(void)state;
	memcpy(rig.bar, "\x78\x56\x34\x12", 4);
	assert_int_equal(work_pool_start(&opts), 0);
	result = 1;
	assert_int_equal(coroutine_start(thread, "test", open_and_use, rig.path), 0);
	while (result == 1 && time(NULL) < end) {
		poll_until_idle(&thread, 1);
		sched_yield();
	}
	assert_int_equal(result, 0);
	poll_until_idle(&thread, 1);
	work_pool_stop();
}

/* ---- lies ---- */

static bool
is_honest(enum lie lie)
{
	return lie == LIE_NONE || lie >= LIE_IN_BYTES;
}

static bool
comes_never(enum lie lie)
{
	return lie == LIE_HANG || lie == LIE_HUGE || lie == LIE_ENDLESS;
}

/* Each lie in each reply of the start: an error, in time, and nothing is left behind. */
static void
test_lies(void **state)
{
	static const uint16_t commands[] = {
		VFIO_USER_VERSION,      VFIO_USER_DEVICE_GET_INFO,
		VFIO_USER_REGION_READ,  VFIO_USER_DEVICE_GET_REGION_INFO,
		VFIO_USER_REGION_WRITE, VFIO_USER_DEVICE_GET_IRQ_INFO,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		for (enum lie lie = LIE_NONE; lie < LIES; lie++) {
			int rc;

			/* It says nothing but that it is done; and capabilities may be missing. */
			if (lie == LIE_SHORT && (commands[i] == VFIO_USER_REGION_WRITE ||
						 commands[i] == VFIO_USER_DEVICE_SET_IRQS ||
						 commands[i] == VFIO_USER_DEVICE_GET_REGION_INFO))
				continue;
			rig.lie = lie;
			rig.lie_to = commands[i];
			vfio_user_reply_ms = comes_never(lie) ? DEADLINE : UNLIMITED;
			rc = try_open(rig.path);
			if (is_honest(lie))
				assert_int_equal(rc, 0);
			else
				assert_in_range(-rc, 1, 4095);
			if (rc == 0)
				close_transport();
		}
	}
	assert_true(rig.refused >= sizeof(commands) / sizeof(commands[0]));
}

static void
test_versions(void **state)
{
	static const struct {
		uint16_t major, minor;
		const char *json;
		int rc;
	} versions[] = {
		{0, 1, "{\"capabilities\":{\"max_msg_fds\":1000000000000}}", 0},
		{0, 1, "{\"capabilities\":{\"pgsizes\":6144}}", 0},
		{1, 0, "{}", -EPROTO},
		{0, 2, "{}", -EPROTO},
		{0, 1, "", -EPROTO},
		{0, 1, "[]", -EPROTO},
		{0, 1, "{\"capabilities\":", -EPROTO},
		{0, 1, "{\"capabilities\":{\"max_msg_fds\":0}}", -EPROTO},
		{0, 1, "{\"capabilities\":{\"max_msg_fds\":-3}}", -EPROTO},
		{0, 1, "{\"capabilities\":{\"max_msg_fds\":\"8\"}}", -EPROTO},
		{0, 1, "{\"capabilities\":{\"pgsizes\":65536}}", -EOPNOTSUPP},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
		rig_set_version(versions[i].major, versions[i].minor, versions[i].json);
		assert_int_equal(try_open(rig.path), versions[i].rc);
		if (versions[i].rc == 0)
			close_transport();
	}
	/* No version data at all is allowed; not even a version is not. */
	rig.version_size = 4;
	memcpy(rig.version, "\0\0\1\0", 4);
	open_transport();
	close_transport();
	rig.version_size = 3;
	expect_refused(-EPROTO, "does not speak vfio-user");
}

static void
test_other_devices(void **state)
{
	(void)state;
	rig.device.flags = VFIO_DEVICE_FLAGS_RESET;
	expect_refused(-EINVAL, "not an NVMe controller");
	rig.device.flags = VFIO_DEVICE_FLAGS_PCI;
	rig.device.num_regions = 7;
	expect_refused(-EINVAL, "not an NVMe controller");
	rig.device.num_regions = 9;
	memcpy(rig.config + 8, &(uint32_t){0x01060102}, 4);
	expect_refused(-EINVAL, "not an NVMe controller");
}

static void
test_vectors(void **state)
{
	(void)state;
	rig.irq.count = 2049;
	expect_refused(-EPROTO, "contradicts");
	rig.irq.count = 1;
	rig.irq.index = 0;
	expect_refused(-EPROTO, "contradicts");
	rig.irq.index = VFIO_PCI_MSIX_IRQ_INDEX;
	rig.request_irq.count = 2;
	expect_refused(-EPROTO, "contradicts");
	rig.irq.flags = 0;
	rig.request_irq.count = 0;
	open_transport();
	assert_int_equal(transport->vectors, 0);
	close_transport();
	/* Kinds that there are not are not asked for. */
	rig.device.num_irqs = 4;
	rig.request_irq.count = 2;
	open_transport();
}

/* ---- the region of the registers ---- */

struct sparse {
	struct vfio_info_cap_header header;
	uint32_t nr_areas, reserved;
	struct vfio_region_sparse_mmap_area areas[3];
};

static struct vfio_region_info *
info(void)
{
	return (struct vfio_region_info *)(void *)rig.region;
}

static struct sparse *
sparse(void)
{
	return (struct sparse *)(void *)(rig.region + sizeof(struct vfio_region_info));
}

static void
set_areas(uint32_t count, const struct vfio_region_sparse_mmap_area *areas)
{
	sparse()->nr_areas = count;
	for (uint32_t i = 0; i < count; i++)
		sparse()->areas[i] = areas[i];
	rig.region_size = (uint32_t)(sizeof(struct vfio_region_info) +
				     offsetof(struct sparse, areas) + count * sizeof(areas[0]));
}

static void
test_whole_region(void **state)
{
	(void)state;
	info()->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_CAPS;
	open_transport();
	assert_int_equal(transport->doorbells_size, RIG_BAR_SIZE - RIG_DOORBELLS);
}

static void
test_areas(void **state)
{
	const struct vfio_region_sparse_mmap_area areas[] = {
		{0x3000, 0x1000}, {0, 0x2000}, {0x1000, 0x1000}};
	int other = memfd_create("other", MFD_CLOEXEC);
	uint32_t value;

	(void)state;
	/* The second one has the first doorbell, and the second fd is its. */
	set_areas(3, areas);
	open_transport();
	assert_int_equal(transport->doorbells_size, 0x1000);
	close_transport();
	assert_int_equal(ftruncate(other, RIG_FILE_SIZE), 0);
	rig.region_fds[1] = other;
	rig.region_fds[2] = rig.bar_fd;
	rig.region_fd_count = 3;
	open_transport();
	transport->doorbells[0] = 99;
	assert_int_equal(pread(other, &value, 4, RIG_BAR_AT + RIG_DOORBELLS), 4);
	assert_int_equal(value, 99);
	close_transport();
	set_areas(3, (const struct vfio_region_sparse_mmap_area[]){
			     {0x3000, 0x1000}, {0x2000, 0x1000}, {0x1000, 0x2000}});
	rig.region_fd_count = 2;
	expect_refused(-EPROTO, "contradicts");
	close(other);
}

static void
test_bad_areas(void **state)
{
	static const struct {
		struct vfio_region_sparse_mmap_area area;
		int rc;
	} bad[] = {
		{{0, 0}, -EOPNOTSUPP},
		{{0, 0x1000}, -EOPNOTSUPP},
		{{0x2000, 0x1000}, -EOPNOTSUPP},
		{{UINT64_MAX - 0xfff, 0x2000}, -EOPNOTSUPP},
		{{0x1000, 0x800}, -EPROTO}, /* not a page */
		{{0x1000, 0x3001}, -EPROTO},
		{{0x1000, UINT64_MAX}, -EPROTO},
		{{0x1000, UINT64_MAX - 0xfff}, -EPROTO},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_areas(1, &bad[i].area);
		assert_int_equal(try_open(rig.path), bad[i].rc);
	}
	set_areas(0, NULL);
	expect_refused(-EOPNOTSUPP, "does not share its doorbells");
	sparse()->nr_areas = 1; /* of which there is nothing */
	expect_refused(-EPROTO, "contradicts");
	sparse()->nr_areas = UINT32_MAX;
	expect_refused(-EPROTO, "contradicts");
}

/* Lists of capabilities that go nowhere: as if there were none. */
static void
test_bad_capabilities(void **state)
{
	static const uint32_t offsets[] = {0, 8, 31, 33, 64, 4096, UINT32_MAX, UINT32_MAX - 7};
	static const uint32_t nexts[] = {0, 8, 32, 33, 1000, UINT32_MAX - 7};

	(void)state;
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		rig_set_region();
		info()->cap_offset = offsets[i];
		open_transport();
		close_transport();
	}
	for (size_t i = 0; i < sizeof(nexts) / sizeof(nexts[0]); i++) {
		rig_set_region();
		sparse()->header.id = 77;
		sparse()->header.next = nexts[i];
		open_transport();
		close_transport();
	}
	/* A capability that ends before its structure does. */
	rig_set_region();
	rig.region_size = sizeof(struct vfio_region_info) + 8;
	open_transport();
}

static void
test_bad_regions(void **state)
{
	int pipes[2];

	(void)state;
	info()->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
	expect_refused(-EOPNOTSUPP, "does not share its doorbells");
	rig_set_region();
	rig.region_fd_count = 0;
	expect_refused(-EOPNOTSUPP, "does not share its doorbells");
	rig_set_region();
	info()->index = 1;
	expect_refused(-EPROTO, "contradicts");
	rig_set_region();
	info()->size = 0x1fff;
	expect_refused(-EPROTO, "contradicts");
	rig_set_region();
	rig.region_size = 24;
	expect_refused(-EPROTO, "contradicts");
	/* Files that the region does not fit in, and what is no file. */
	rig_set_region();
	info()->offset = RIG_FILE_SIZE - RIG_BAR_SIZE + PAGE;
	expect_refused(-EPROTO, "contradicts");
	info()->offset = 100;
	expect_refused(-EPROTO, "contradicts");
	info()->offset = UINT64_MAX - 0xfff;
	assert_int_equal(try_open(rig.path), -EPROTO);
	info()->offset = (1ull << 63) - 0x1000;
	assert_int_equal(try_open(rig.path), -EPROTO);
	rig_set_region();
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	rig.region_fds[0] = pipes[0];
	assert_int_not_equal(try_open(rig.path), 0);
	close(pipes[0]);
	close(pipes[1]);
}

/* ---- going away ---- */

static void
expect_gone(void)
{
	int fds[1];
	uint64_t iova;

	assert_true(transport->gone);
	assert_true(transport->ops->read(transport, 0x1c, 4) == UINT32_MAX);
	assert_true(transport->ops->read(transport, 0, 8) == UINT64_MAX);
	transport->ops->write(transport, 0x14, 4, 0);
	assert_int_equal(transport->ops->set_interrupts(transport, 1, fds), -ENODEV);
	assert_int_equal(transport->ops->reset(transport), -ENODEV);
	assert_null(dma_alloc(transport->dma, PAGE, &iova, &err));
	transport->doorbells[0] = 1;
	let_it_look();
	assert_int_equal(goners, 1);
	let_it_look();
	assert_int_equal(goners, 1);
	assert_true(log_capture_count() >= 1);
	assert_non_null(strstr(log_capture_last(), "gone"));
}

/* Each lie after the start: the device is gone, in time. */
static void
test_lies_in_registers(void **state)
{
	(void)state;
	for (enum lie lie = LIE_HANG; lie < LIE_IN_BYTES; lie++) {
		open_transport();
		goners = 0;
		rig.lie = lie;
		rig.lie_to = VFIO_USER_REGION_READ;
		vfio_user_reply_ms = comes_never(lie) ? DEADLINE : UNLIMITED;
		assert_true(transport->ops->read(transport, 0x1c, 4) == UINT32_MAX);
		expect_gone();
		close_transport();
		rig.lie = LIE_NONE;
	}
	open_transport();
	goners = 0;
	rig.access_offset = 4;
	assert_true(transport->ops->read(transport, 0x1c, 4) == UINT32_MAX);
	expect_gone();
}

static void
test_hang_up(void **state)
{
	time_t end = time(NULL) + DEADLINE_S;

	(void)state;
	open_transport();
	shutdown(rig.connection, SHUT_RDWR);
	while (goners == 0 && time(NULL) < end)
		let_it_look();
	expect_gone();
}

static void
test_wanted_back(void **state)
{
	(void)state;
	open_transport();
	assert_int_equal(eventfd_write(rig.request, 1), 0);
	let_it_look();
	assert_int_equal(goners, 1);
	assert_true(transport->wanted_back);
	/* So that it can be switched off in order. */
	assert_false(transport->gone);
	let_it_look();
	assert_int_equal(goners, 1);
}

/* A device that was taken away while its server lives. */
static void
test_all_ones(void **state)
{
	(void)state;
	open_transport();
	memset(rig.bar + 0xc, 0xff, 4);
	assert_true(transport->ops->read(transport, 0xc, 4) == UINT32_MAX);
	assert_false(transport->gone);
	memset(rig.bar, 0xff, sizeof(rig.bar));
	assert_true(transport->ops->read(transport, 0x1c, 4) == UINT32_MAX);
	expect_gone();
}

/*
 * A server that shortens the file under the doorbells: a store does no harm, and the device is
 * gone.
 */
static void
test_doorbells_cut_off(void **state)
{
	(void)state;
	open_transport();
	assert_int_equal(ftruncate(rig.bar_fd, 0), 0);
	transport->doorbells[5] = 1;
	assert_int_equal(transport->doorbells[5], 1);
	let_it_look();
	expect_gone();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_open),
		TEST(test_folder),
		TEST(test_no_socket),
		TEST(test_registers),
		TEST(test_fds_with_each_reply),
		TEST(test_doorbells),
		TEST(test_memory),
		TEST(test_memory_refused),
		TEST(test_unmap_refused),
		TEST(test_interrupts),
		TEST(test_interrupts_one_by_one),
		TEST(test_interrupt_switched),
		TEST(test_reset),
		TEST(test_coroutine),
		TEST(test_lies),
		TEST(test_versions),
		TEST(test_other_devices),
		TEST(test_vectors),
		TEST(test_whole_region),
		TEST(test_areas),
		TEST(test_bad_areas),
		TEST(test_bad_capabilities),
		TEST(test_bad_regions),
		TEST(test_lies_in_registers),
		TEST(test_hang_up),
		TEST(test_wanted_back),
		TEST(test_all_ones),
		TEST(test_doorbells_cut_off),
	};

	return cmocka_run_group_tests_name("nvme_vfio_user", tests, NULL, NULL);
}
