/* SPDX-License-Identifier: BSD-3-Clause */
/* Spaces of devices: what is mapped, how often, what translates, and what is refused. */
/* links: env testlib */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "dma.h"
#include "fault.h"

#define PAGE DMA_PAGE_SIZE

/* ---- a device ---- */

static struct {
	int fail; /* what map() returns */
	unsigned int maps, unmaps;
	uint64_t mapped; /* bytes */
	struct {
		void *addr;
		uint64_t length, iova, fd_offset;
		int fd;
		off_t fd_size;
	} last;
} device;

static int
device_map(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	assert_ptr_equal(ctx, &device);
	if (device.fail != 0)
		return device.fail;
	device.maps++;
	device.mapped += length;
	device.last.addr = addr;
	device.last.length = length;
	device.last.iova = iova;
	device.last.fd = fd;
	device.last.fd_offset = fd_offset;
	device.last.fd_size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	if (fd >= 0)
		assert_int_equal(ftruncate(fd, 0), -1);
	return 0;
}

static void
device_unmap(void *ctx, uint64_t iova, uint64_t length)
{
	assert_ptr_equal(ctx, &device);
	device.last.iova = iova;
	device.unmaps++;
	device.mapped -= length;
}

static const struct dma_space_ops pinning = {.map = device_map, .unmap = device_unmap};
static const struct dma_space_ops by_file = {
	.map = device_map, .unmap = device_unmap, .needs_fd = true};

static const struct dma_range range = {0x10000, 0xffffffff};

static struct dma_space *
create(const struct dma_space_ops *ops)
{
	struct dma_space *space;

	memset(&device, 0, sizeof(device));
	assert_int_equal(dma_space_create(ops, &device, &range, 1, &space), 0);
	return space;
}

/* An address that nothing is at: a space never looks there. */
static void *
at(uint64_t pages)
{
	return (void *)(uintptr_t)(0x700000000000 + pages * PAGE);
}

static void
map(struct dma_space *space, void *addr, uint64_t pages)
{
	assert_int_equal(dma_map(space, addr, pages * PAGE, -1, 0, NULL), 0);
}

static uint64_t
translate(struct dma_space *space, const void *addr, uint64_t wanted, uint64_t *got)
{
	uint32_t hint = 0;

	*got = wanted;
	return dma_translate(space, addr, got, &hint);
}

static bool
is_mapped(struct dma_space *space, const void *addr)
{
	uint64_t length;

	return translate(space, addr, 1, &length) != DMA_UNMAPPED;
}

/* ---- tests ---- */

static void
test_translate(void **state)
{
	struct dma_space *space = create(&pinning);
	uint64_t iova, length;

	(void)state;
	assert_false(is_mapped(space, at(0)));
	map(space, at(10), 4);
	iova = device.last.iova;
	assert_in_range(iova, range.first, range.last);
	assert_int_equal(translate(space, at(10), 100, &length), iova);
	assert_int_equal(length, 100);
	assert_int_equal(translate(space, (char *)at(13) + 5, PAGE, &length), iova + 3 * PAGE + 5);
	assert_int_equal(length, PAGE - 5);
	assert_int_equal(translate(space, (char *)at(14) - 1, 2, &length), iova + 4 * PAGE - 1);
	assert_int_equal(length, 1);
	assert_false(is_mapped(space, (char *)at(10) - 1));
	assert_false(is_mapped(space, at(14)));
	assert_false(is_mapped(space, NULL));
	assert_false(is_mapped(space, (void *)UINTPTR_MAX));
	dma_unmap(space, at(10), 4 * PAGE);
	assert_false(is_mapped(space, at(10)));
	assert_int_equal(device.unmaps, 1);
	dma_space_destroy(space);
}

static void
test_counted(void **state)
{
	struct dma_space *space = create(&pinning);
	struct dma_stats stats;

	(void)state;
	map(space, at(0), 2);
	map(space, at(0), 2);
	assert_int_equal(device.maps, 1);
	dma_unmap(space, at(0), 2 * PAGE);
	assert_int_equal(device.unmaps, 0);
	assert_true(is_mapped(space, at(1)));
	/* What was never mapped like that is left alone. */
	dma_unmap(space, at(0), PAGE);
	dma_unmap(space, at(5), PAGE);
	dma_space_stats(space, &stats);
	assert_int_equal(stats.mappings, 1);
	assert_int_equal(stats.bytes, 2 * PAGE);
	dma_unmap(space, at(0), 2 * PAGE);
	assert_int_equal(device.unmaps, 1);
	dma_unmap(space, at(0), 2 * PAGE);
	assert_int_equal(device.unmaps, 1);
	dma_space_stats(space, &stats);
	assert_int_equal(stats.mappings, 0);
	dma_space_destroy(space);
}

static void
test_overlaps(void **state)
{
	static const struct {
		uint64_t first, pages;
	} overlapping[] = {{10, 3}, {10, 5}, {11, 3}, {9, 2}, {13, 1}, {13, 9}, {9, 6}, {8, 100}};
	struct dma_space *space = create(&pinning);
	struct errmsg err;

	(void)state;
	map(space, at(10), 4);
	for (size_t i = 0; i < sizeof(overlapping) / sizeof(overlapping[0]); i++) {
		err.text[0] = '\0';
		assert_int_equal(dma_map(space, at(overlapping[i].first),
					 overlapping[i].pages * PAGE, -1, 0, &err),
				 -EINVAL);
		assert_non_null(strstr(err.text, "overlaps"));
	}
	map(space, at(14), 1);
	map(space, at(9), 1);
	dma_space_destroy(space);
	assert_int_equal(device.unmaps, 3);
	assert_int_equal(device.mapped, 0);
}

static void
test_bad_arguments(void **state)
{
	struct dma_space *space = create(&pinning);
	struct dma_space *other;

	(void)state;
	assert_int_equal(dma_map(space, at(0), 0, -1, 0, NULL), -EINVAL);
	assert_int_equal(dma_map(space, at(0), PAGE - 1, -1, 0, NULL), -EINVAL);
	assert_int_equal(dma_map(space, (char *)at(0) + 8, PAGE, -1, 0, NULL), -EINVAL);
	assert_int_equal(dma_map(space, at(0), PAGE, 0, 100, NULL), -EINVAL);
	assert_int_equal(dma_map(space, (void *)(UINTPTR_MAX - PAGE + 1), 2 * PAGE, -1, 0, NULL),
			 -EINVAL);
	assert_int_equal(device.maps, 0);
	assert_int_equal(dma_space_create(&pinning, &device, &range, 0, &other), -EINVAL);
	dma_space_destroy(space);
	dma_space_destroy(NULL);
}

static void
test_file_needed(void **state)
{
	struct dma_space *space = create(&by_file);
	struct errmsg err;

	(void)state;
	assert_int_equal(dma_map(space, at(0), PAGE, -1, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "has no file"));
	device.fail = -ENOMEM;
	assert_int_equal(dma_map(space, at(0), PAGE, 0, 2 * PAGE, &err), -ENOMEM);
	assert_null(strstr(err.text, "MEMLOCK"));
	dma_space_destroy(space);
}

static void
test_mapping_fails(void **state)
{
	struct dma_space *space = create(&pinning);
	struct rlimit limit;
	struct errmsg err;
	char expected[64];

	(void)state;
	device.fail = -ENOMEM;
	assert_int_equal(dma_map(space, at(0), 3 * PAGE, -1, 0, &err), -ENOMEM);
	getrlimit(RLIMIT_MEMLOCK, &limit);
	snprintf(expected, sizeof(expected), "RLIMIT_MEMLOCK is %llu KiB",
		 (unsigned long long)limit.rlim_cur >> 10);
	assert_non_null(strstr(err.text, expected));
	assert_non_null(strstr(err.text, "another 12 KiB"));
	assert_non_null(strstr(err.text, "LimitMEMLOCK=infinity"));
	device.fail = -EFAULT;
	assert_int_equal(dma_map(space, at(0), PAGE, -1, 0, &err), -EFAULT);
	assert_non_null(strstr(err.text, "Bad address"));
	assert_false(is_mapped(space, at(0)));
	/* No address was lost. */
	device.fail = 0;
	map(space, at(0), (range.last - range.first + 1) / PAGE);
	dma_space_destroy(space);
}

static void
test_no_room(void **state)
{
	struct dma_space *space = create(&pinning);
	struct errmsg err;

	(void)state;
	assert_int_equal(dma_map(space, at(0), 1ull << 32, -1, 0, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "no room"));
	for (uint64_t i = 0; i < DMA_MAX_MAPPINGS; i++)
		map(space, at(2 * i), 1);
	assert_int_equal(dma_map(space, at(1), PAGE, -1, 0, &err), -ENOSPC);
	dma_unmap(space, at(100), PAGE);
	map(space, at(1), 1);
	dma_space_destroy(space);
	assert_int_equal(device.mapped, 0);
}

/* Every mapping is found whatever the hint says, and a hint that was right stays right. */
static void
test_hints(void **state)
{
	struct dma_space *space = create(&pinning);
	uint64_t iovas[8], length = 1;
	uint32_t hint;

	(void)state;
	for (uint64_t i = 0; i < 8; i++) {
		map(space, at(2 * i), 1);
		iovas[i] = device.last.iova;
	}
	for (uint64_t seed = 0; seed < 1000; seed++) {
		hint = (uint32_t)(seed * 2654435761u);
		for (int again = 0; again < 2; again++)
			for (uint64_t i = seed % 8, n = 0; n < 2; n++, i = (i + 3) % 8)
				assert_int_equal(dma_translate(space, at(2 * i), &length, &hint),
						 iovas[i]);
	}
	/* Two mappings in turns: the hint keeps both. */
	hint = 0;
	dma_translate(space, at(6), &length, &hint);
	dma_translate(space, at(10), &length, &hint);
	assert_int_equal(hint, 3u << 16 | 5);
	dma_translate(space, at(6), &length, &hint);
	assert_int_equal(hint, 5u << 16 | 3);
	dma_space_destroy(space);
}

static void
test_alloc(void **state)
{
	struct dma_space *space = create(&by_file);
	uint64_t iova = 0, length;
	uint8_t *memory = dma_alloc(space, PAGE + 1, &iova, NULL);

	(void)state;
	assert_non_null(memory);
	assert_int_equal(device.last.length, 2 * PAGE);
	assert_int_equal(device.last.fd_size, 2 * PAGE);
	assert_int_equal(device.last.fd_offset, 0);
	assert_int_equal(iova, device.last.iova);
	assert_int_equal(fcntl(device.last.fd, F_GETFD), -1);
	for (unsigned int i = 0; i < 2 * PAGE; i++)
		assert_int_equal(memory[i], 0);
	memory[2 * PAGE - 1] = 1;
	assert_int_equal(translate(space, memory + PAGE, PAGE, &length), iova + PAGE);
	dma_free(space, memory, PAGE + 1);
	dma_free(space, NULL, 5);
	assert_int_equal(device.mapped, 0);
	dma_space_destroy(space);
}

static void
test_alloc_fails(void **state)
{
	struct dma_space *space = create(&by_file);
	struct errmsg err;
	uint64_t iova;
	unsigned int good = 0;
	void *memory;

	(void)state;
	device.fail = -EIO;
	assert_null(dma_alloc(space, 1, &iova, &err));
	assert_non_null(strstr(err.text, strerror(EIO)));
	device.fail = 0;
	do {
		err.text[0] = '\0';
		fault_after(good++);
		memory = dma_alloc(space, 1, &iova, &err);
		assert_true(memory != NULL || err.text[0] != '\0');
		dma_free(space, memory, 1);
	} while (fault_end());
	assert_true(good > 1);
	assert_int_equal(device.mapped, 0);
	dma_space_destroy(space);
	fault_after(0);
	assert_int_equal(dma_space_create(&pinning, &device, &range, 1, &space), -ENOMEM);
	assert_true(fault_end());
	fault_after(1);
	assert_int_equal(dma_space_create(&pinning, &device, &range, 1, &space), -ENOMEM);
	assert_true(fault_end());
}

/* ---- while others map and unmap ---- */

#define READERS 4
#define ROUNDS  200000

static struct dma_space *shared;
static atomic_uint finished; /* readers */
static uint64_t kept_iova[2];

/* Two mappings stay while others come and go, and none of those is ever taken for one of these. */
static void *
reader(void *arg)
{
	uint32_t hint = (uint32_t)(uintptr_t)arg;
	uint64_t *wrong = calloc(1, sizeof(*wrong));

	for (uint64_t i = 0; i < ROUNDS; i++) {
		const uint64_t which = i & 1;
		uint64_t length = 64;

		if (dma_translate(shared, (char *)at(1000 + 8 * which) + 17, &length, &hint) !=
			    kept_iova[which] + 17 ||
		    length != 64)
			(*wrong)++;
		if (i % 2 == 0)
			hint = (uint32_t)(i * 2654435761u);
	}
	atomic_fetch_add(&finished, 1);
	return wrong;
}

static void
test_others_map(void **state)
{
	pthread_t readers[READERS];

	(void)state;
	shared = create(&pinning);
	for (uint64_t i = 0; i < 8; i++)
		map(shared, at(i * 8), i + 1);
	for (uint64_t i = 0; i < 2; i++) {
		map(shared, at(1000 + 8 * i), 1);
		kept_iova[i] = device.last.iova;
	}
	/* The low numbers are free again: reused, they come before the two. */
	for (uint64_t i = 0; i < 8; i++)
		dma_unmap(shared, at(i * 8), (i + 1) * PAGE);
	for (uintptr_t i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, reader, (void *)i), 0);
	/*
	 * By turns in one slot: a small one just below, a large one elsewhere. The address of one
	 * with the length of the other has both.
	 */
	for (unsigned int i = 0; atomic_load(&finished) < READERS; i++) {
		void *addr = i % 2 == 0 ? at(998) : at(5000);
		uint64_t pages = i % 2 == 0 ? 1 : 64;

		map(shared, addr, pages);
		dma_unmap(shared, addr, pages * PAGE);
	}
	for (int i = 0; i < READERS; i++) {
		void *wrong;

		assert_int_equal(pthread_join(readers[i], &wrong), 0);
		assert_int_equal(*(uint64_t *)wrong, 0);
		free(wrong);
	}
	dma_space_destroy(shared);
	assert_int_equal(device.mapped, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_translate),   cmocka_unit_test(test_counted),
		cmocka_unit_test(test_overlaps),    cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_file_needed), cmocka_unit_test(test_mapping_fails),
		cmocka_unit_test(test_no_room),     cmocka_unit_test(test_hints),
		cmocka_unit_test(test_alloc),       cmocka_unit_test(test_alloc_fails),
		cmocka_unit_test(test_others_map),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
