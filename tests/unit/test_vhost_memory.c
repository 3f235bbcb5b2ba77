/* SPDX-License-Identifier: BSD-3-Clause */
/* A front-end's memory table: what is mapped where, what is refused, and files that shrink. */
/* links: vhost virtio env */
/* ldflags: -Wl,--wrap=fstatfs */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <cmocka.h>

#include "vhost/inflight.h"
#include "vhost/memory.h"

#define PAGE      4096ULL
#define FILE_SIZE (64 * PAGE)
#define GPA       0x80000000ULL
#define USER      0x7f0000000000ULL

static unsigned long pretended_type; /* 0: what it is */
static int statfs_error;

int __real_fstatfs(int fd, struct statfs *fs);
int __wrap_fstatfs(int fd, struct statfs *fs);

int
__wrap_fstatfs(int fd, struct statfs *fs)
{
	int rc = __real_fstatfs(fd, fs);

	if (pretended_type != 0)
		fs->f_type = (__fsword_t)pretended_type;
	if (statfs_error == 0)
		return rc;
	errno = statfs_error;
	return -1;
}

static int
make_file(uint64_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static struct vhost_mem_region
make_region(uint64_t size, uint64_t offset)
{
	return (struct vhost_mem_region){
		.gpa = GPA, .size = size, .user_addr = USER, .mmap_offset = offset};
}

static void
write_file(int fd, uint64_t offset, const char *text)
{
	assert_int_equal(pwrite(fd, text, strlen(text), (off_t)offset), strlen(text));
}

static int
try_one(struct vhost_mem_region region, int fd)
{
	struct vhost_mem *memory = NULL;
	int rc = vhost_mem_create(&region, &fd, 1, &memory);

	if (rc == 0)
		vhost_mem_destroy(memory);
	return rc;
}

/* Two regions of one file, one of another; each is found under its addresses. */
static void
test_mapping(void **state)
{
	int files[2] = {make_file(FILE_SIZE), make_file(FILE_SIZE)};
	struct vhost_mem_region regions[3] = {
		{.gpa = 0, .size = 16 * PAGE, .user_addr = USER, .mmap_offset = 0},
		{.gpa = GPA,
		 .size = 8 * PAGE,
		 .user_addr = USER + (1 << 30),
		 .mmap_offset = 32 * PAGE},
		{.gpa = 16 * PAGE,
		 .size = 64 * PAGE,
		 .user_addr = USER + 16 * PAGE,
		 .mmap_offset = 0},
	};
	int fds[3] = {files[0], files[0], files[1]};
	struct vhost_mem *memory;
	struct iovec iov[2];
	uint32_t hint = 0;

	(void)state;
	write_file(files[0], 32 * PAGE + 5, "second");
	write_file(files[1], 0, "third");
	assert_int_equal(vhost_mem_create(regions, fds, 3, &memory), 0);
	assert_memory_equal(vhost_mem_from_user(memory, USER + (1 << 30) + 5, 6), "second", 6);
	assert_memory_equal(vhost_mem_from_user(memory, USER + 16 * PAGE, 5), "third", 5);
	assert_int_equal(guest_mem_map_split(memory->map, &hint, GPA + 5, 6, iov, 2), 1);
	assert_ptr_equal(iov[0].iov_base, vhost_mem_from_user(memory, USER + (1 << 30) + 5, 6));
	/* A buffer over the border of two regions that touch in the guest. */
	assert_int_equal(guest_mem_map_split(memory->map, &hint, 16 * PAGE - 2, 7, iov, 2), 2);
	assert_memory_equal(iov[1].iov_base, "third", 5);
	/* Rings lie in one region. */
	assert_non_null(vhost_mem_from_user(memory, USER + 15 * PAGE, PAGE));
	assert_null(vhost_mem_from_user(memory, USER + 15 * PAGE, PAGE + 1));
	assert_null(vhost_mem_from_user(memory, USER - 1, 1));
	assert_null(vhost_mem_from_user(memory, USER + 80 * PAGE, 1));
	assert_null(vhost_mem_from_user(memory, UINT64_MAX - 3, 8));
	assert_null(vhost_mem_from_user(memory, USER, UINT64_MAX));
	/* What is written here is in the file. */
	memcpy(vhost_mem_from_user(memory, USER + 3, 4), "mine", 4);
	vhost_mem_destroy(memory);
	{
		char text[4];

		assert_int_equal(pread(files[0], text, 4, 3), 4);
		assert_memory_equal(text, "mine", 4);
	}
	close(files[0]);
	close(files[1]);
}

/* QEMU cuts regions at 4 KiB borders, also where the file has larger pages. */
static void
test_offset_inside_a_page(void **state)
{
	int fd = make_file(FILE_SIZE);
	struct vhost_mem_region region = make_region(2 * PAGE, 3 * PAGE + 512);
	struct vhost_mem *memory;

	(void)state;
	write_file(fd, 3 * PAGE + 512, "here");
	assert_int_equal(vhost_mem_create(&region, &fd, 1, &memory), 0);
	assert_memory_equal(vhost_mem_from_user(memory, USER, 4), "here", 4);
	vhost_mem_destroy(memory);
	close(fd);
}

static void
test_file_too_small(void **state)
{
	int fd = make_file(FILE_SIZE);

	(void)state;
	assert_int_equal(try_one(make_region(FILE_SIZE, 0), fd), 0);
	assert_int_equal(try_one(make_region(FILE_SIZE + 1, 0), fd), -ERANGE);
	assert_int_equal(try_one(make_region(FILE_SIZE, PAGE), fd), -ERANGE);
	assert_int_equal(try_one(make_region(PAGE, FILE_SIZE), fd), -ERANGE);
	assert_int_equal(try_one(make_region(PAGE, UINT64_MAX - 100), fd), -ERANGE);
	assert_int_equal(try_one(make_region(1ULL << 62, 1ULL << 63), fd), -ERANGE);
	close(fd);
}

static void
test_not_a_file(void **state)
{
	int fds[2], event = eventfd(0, 0), folder = open("/", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(try_one(make_region(PAGE, 0), fds[0]), -EINVAL);
	assert_int_equal(try_one(make_region(PAGE, 0), event), -EINVAL);
	assert_int_equal(try_one(make_region(PAGE, 0), folder), -EINVAL);
	assert_int_equal(try_one(make_region(PAGE, 0), -1), -EBADF);
	close(fds[0]);
	close(fds[1]);
	close(event);
	close(folder);
}

static void
test_bad_tables(void **state)
{
	int fd = make_file(FILE_SIZE);
	int fds[9] = {fd, fd, fd, fd, fd, fd, fd, fd, fd};
	struct vhost_mem_region regions[9];
	struct vhost_mem *memory;

	(void)state;
	for (int i = 0; i < 9; i++)
		regions[i] = (struct vhost_mem_region){
			.gpa = GPA + i * PAGE, .size = PAGE, .user_addr = USER + i * PAGE};
	assert_int_equal(vhost_mem_create(regions, fds, 0, &memory), -EINVAL);
	assert_int_equal(vhost_mem_create(regions, fds, 9, &memory), -EINVAL);
	/* Overlaps, in the guest and in the front-end. */
	regions[1].gpa = GPA + PAGE / 2;
	assert_int_equal(vhost_mem_create(regions, fds, 2, &memory), -EINVAL);
	regions[1].gpa = GPA + PAGE;
	regions[1].user_addr = USER + PAGE - 1;
	assert_int_equal(vhost_mem_create(regions, fds, 2, &memory), -EINVAL);
	regions[1].user_addr = USER - PAGE + 1;
	assert_int_equal(vhost_mem_create(regions, fds, 2, &memory), -EINVAL);
	/* Empty, and wrapping. */
	assert_int_equal(try_one(make_region(0, 0), fd), -EINVAL);
	regions[0].user_addr = UINT64_MAX - PAGE + 2;
	assert_int_equal(vhost_mem_create(regions, fds, 1, &memory), -EINVAL);
	regions[0].user_addr = UINT64_MAX - PAGE + 1;
	assert_int_equal(vhost_mem_create(regions, fds, 1, &memory), 0);
	vhost_mem_destroy(memory);
	regions[0].gpa = UINT64_MAX - PAGE + 2;
	assert_int_equal(vhost_mem_create(regions, fds, 1, &memory), -EINVAL);
	close(fd);
}

/* Touching what a front-end has cut off is no end of the process; and it is noticed. */
static void
test_truncated(void **state)
{
	int fd = make_file(FILE_SIZE), other = make_file(FILE_SIZE);
	struct vhost_mem_region region = make_region(FILE_SIZE, 0);
	struct vhost_mem *memory, *untouched;
	volatile uint8_t *data;

	(void)state;
	/* Here, because cmocka has a handler of its own in each test. */
	assert_int_equal(mapping_guard_install(), 0);
	assert_int_equal(vhost_mem_create(&region, &fd, 1, &memory), 0);
	assert_int_equal(vhost_mem_create(&region, &other, 1, &untouched), 0);
	data = vhost_mem_from_user(memory, USER, FILE_SIZE);
	data[0] = 1;
	data[FILE_SIZE - 1] = 2;
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_int_equal(data[0], 1);
	assert_false(memory->lost);
	assert_int_equal(data[FILE_SIZE - 1], 0);
	assert_true(memory->lost);
	data[FILE_SIZE - 1] = 3;
	assert_int_equal(data[FILE_SIZE - 1], 3);
	data[PAGE] = 4;
	assert_int_equal(data[PAGE], 4);
	assert_int_equal(data[0], 1);
	assert_false(untouched->lost);
	vhost_mem_destroy(memory);
	vhost_mem_destroy(untouched);
	close(fd);
	close(other);
}

/* ---- file systems ---- */

static int
try_inflight(int fd)
{
	struct vhost_inflight_layout layout = {
		.mmap_size = FILE_SIZE, .num_queues = 1, .queue_size = 16};
	struct vhost_inflight *inflight = NULL;
	int rc = vhost_inflight_create(&layout, 1, fd, &inflight);

	if (rc == 0)
		vhost_inflight_destroy(inflight);
	return rc;
}

/* What another process can hold back is refused: a reactor would wait for it in a page fault. */
static void
test_file_systems(void **state)
{
	static const struct {
		unsigned long type;
		int rc;
	} types[] = {
		{0, 0},
		{TMPFS_MAGIC, 0},
		{HUGETLBFS_MAGIC, 0},
		{EXT4_SUPER_MAGIC, 0},
		{XFS_SUPER_MAGIC, 0},
		{BTRFS_SUPER_MAGIC, 0},
		{FUSE_SUPER_MAGIC, -EMEDIUMTYPE},
		{NFS_SUPER_MAGIC, -EMEDIUMTYPE},
		{CIFS_SUPER_MAGIC, -EMEDIUMTYPE},
		{V9FS_MAGIC, -EMEDIUMTYPE},
		{OVERLAYFS_SUPER_MAGIC, -EMEDIUMTYPE},
		{0x12345678, -EMEDIUMTYPE},
	};
	int fd = make_file(FILE_SIZE);

	(void)state;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		pretended_type = types[i].type;
		assert_int_equal(try_one(make_region(PAGE, 0), fd), types[i].rc);
		assert_int_equal(try_inflight(fd), types[i].rc);
	}
	pretended_type = 0;
	statfs_error = EIO;
	assert_int_equal(try_one(make_region(PAGE, 0), fd), -EIO);
	assert_int_equal(try_inflight(fd), -EIO);
	statfs_error = 0;
	close(fd);
}

/* The table of mappings does not fill up with what is gone. */
static void
test_many_times(void **state)
{
	int fd = make_file(FILE_SIZE);

	(void)state;
	for (int i = 0; i < 10000; i++)
		assert_int_equal(try_one(make_region(PAGE, 0), fd), 0);
	close(fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mapping),        cmocka_unit_test(test_offset_inside_a_page),
		cmocka_unit_test(test_file_too_small), cmocka_unit_test(test_not_a_file),
		cmocka_unit_test(test_bad_tables),     cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_many_times),     cmocka_unit_test(test_file_systems),
	};

	return cmocka_run_group_tests_name("vhost_memory", tests, NULL, NULL);
}
