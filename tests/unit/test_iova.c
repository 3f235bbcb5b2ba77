/* SPDX-License-Identifier: BSD-3-Clause */
/* Which I/O addresses are given out: within the ranges, none twice, and all come back. */
/* links: env */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "env/iova.h"

#define PAGE  ((uint64_t)DMA_PAGE_SIZE)
#define MIB   (1ull << 20)
#define GIB   (1ull << 30)
#define WIDE  (39)
#define SLOTS 64

static struct iova *
create(const struct dma_range *ranges, uint32_t count)
{
	struct iova *iova;

	assert_int_equal(iova_create(ranges, count, SLOTS, &iova), 0);
	return iova;
}

static uint64_t
alloc(struct iova *iova, uint64_t size, uint64_t like)
{
	uint64_t address;

	assert_int_equal(iova_alloc(iova, size, like, &address), 0);
	return address;
}

static void
test_trimmed(void **state)
{
	/* Not even a page; the first page; a page and two bits; the last page of all. */
	const struct dma_range ranges[] = {
		{0x10, 0x900}, {0x3001, 0x5ffe}, {UINT64_MAX - 2 * PAGE, UINT64_MAX}};
	struct iova *iova = create(ranges, 3);

	(void)state;
	assert_int_equal(iova_available(iova), 3 * PAGE);
	assert_int_equal(alloc(iova, PAGE, 0), 0x4000);
	assert_int_equal(alloc(iova, 2 * PAGE, 0), UINT64_MAX - 2 * PAGE + 1);
	iova_free(iova, UINT64_MAX - 2 * PAGE + 1, 2 * PAGE);
	iova_free(iova, 0x4000, PAGE);
	assert_int_equal(iova_available(iova), 3 * PAGE);
	iova_destroy(iova);
}

static void
test_address_0_is_never_given(void **state)
{
	const struct dma_range all = {0, UINT64_MAX};
	struct iova *iova = create(&all, 1);

	(void)state;
	assert_int_equal(iova_available(iova), 0 - PAGE);
	assert_int_equal(alloc(iova, PAGE, 0), PAGE);
	iova_destroy(iova);
}

static void
test_no_ranges(void **state)
{
	const struct dma_range bad[][2] = {
		{{5 * PAGE, 4 * PAGE}, {6 * PAGE, 9 * PAGE}}, /* ends before it begins */
		{{4 * PAGE, 8 * PAGE}, {8 * PAGE, 9 * PAGE}}, /* overlap */
		{{4 * PAGE, 8 * PAGE}, {2 * PAGE, 3 * PAGE}}, /* descend */
		{{0, 10}, {PAGE + 1, 2 * PAGE}},              /* no whole page */
	};
	struct iova *iova;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(iova_create(bad[i], 2, SLOTS, &iova), -EINVAL);
	assert_int_equal(iova_create(bad[0], 0, SLOTS, &iova), -EINVAL);
	iova_destroy(NULL);
}

static void
test_width(void **state)
{
	const struct dma_range range = {0, (1ull << WIDE) - 1};
	struct iova *iova = create(&range, 1);
	uint64_t address, last = 0;

	(void)state;
	assert_int_equal(iova_alloc(iova, (1ull << WIDE), 0, &address), -ENOSPC);
	/* 512 GiB less the first page: 511 pages of 1 GiB that lie well, and the rest. */
	for (int i = 0; i < 15; i++)
		last = alloc(iova, 32 * GIB, 0);
	assert_int_equal(last, 449 * GIB);
	assert_int_equal(iova_alloc(iova, 32 * GIB, 0, &address), -ENOSPC);
	assert_int_equal(alloc(iova, 31 * GIB, 0), 481 * GIB);
	iova_destroy(iova);
}

static void
test_large_pages(void **state)
{
	const struct dma_range range = {0, 16 * GIB - 1};
	struct iova *iova = create(&range, 1);
	uint64_t address;

	(void)state;
	assert_int_equal(alloc(iova, PAGE, 0), PAGE);
	/* Like the address of the memory, in a page as large as the memory can have. */
	assert_int_equal(alloc(iova, 4 * MIB, 0x7f0000345000), 0x145000);
	address = alloc(iova, 2 * GIB, 0x7f0052340000);
	assert_int_equal(address % GIB, 0x7f0052340000 % GIB);
	address = alloc(iova, 2 * MIB, 0x5000);
	assert_int_equal(address % (2 * MIB), 0x5000);
	iova_destroy(iova);
}

/* Where no large page has room, small ones do. */
static void
test_small_pages_rather_than_none(void **state)
{
	const struct dma_range range = {MIB, 3 * MIB + PAGE - 1};
	struct iova *iova = create(&range, 1);

	(void)state;
	assert_int_equal(alloc(iova, 2 * MIB, 0), MIB);
	iova_free(iova, MIB, 2 * MIB);
	assert_int_equal(alloc(iova, 2 * MIB, 0x1000 + MIB), MIB + PAGE);
	iova_destroy(iova);
}

static void
test_exhaustion(void **state)
{
	const struct dma_range range = {PAGE, 5 * PAGE - 1};
	struct iova *iova = create(&range, 1);
	uint64_t address;

	(void)state;
	for (uint64_t i = 1; i <= 4; i++)
		assert_int_equal(alloc(iova, PAGE, 0), i * PAGE);
	assert_int_equal(iova_available(iova), 0);
	assert_int_equal(iova_alloc(iova, PAGE, 0, &address), -ENOSPC);
	iova_free(iova, 3 * PAGE, PAGE);
	assert_int_equal(iova_alloc(iova, 2 * PAGE, 0, &address), -ENOSPC);
	assert_int_equal(alloc(iova, PAGE, 0), 3 * PAGE);
	iova_destroy(iova);
}

static void
test_too_many(void **state)
{
	const struct dma_range range = {0, GIB};
	struct iova *iova = create(&range, 1);
	uint64_t address, rest;

	(void)state;
	/* Every other page free: as many pieces as there can be. */
	for (uint64_t i = 1; i <= SLOTS; i++)
		assert_int_equal(alloc(iova, PAGE, 0), i * PAGE);
	for (uint64_t i = 1; i <= SLOTS; i += 2)
		iova_free(iova, i * PAGE, PAGE);
	rest = iova_available(iova);
	for (uint64_t i = 1; i <= SLOTS; i += 2)
		assert_int_equal(alloc(iova, PAGE, 0), i * PAGE);
	assert_int_equal(iova_available(iova), rest - SLOTS / 2 * PAGE);
	for (int i = 0; i < 4 && iova_alloc(iova, PAGE, 0, &address) == 0; i++)
		;
	for (uint64_t i = 1; i <= SLOTS; i++)
		iova_free(iova, i * PAGE, PAGE);
	iova_destroy(iova);
}

/* Random allocations: disjoint, inside; and at the end one piece again. */
static void
test_fragmentation(void **state)
{
	const struct dma_range range = {16 * PAGE, 80 * PAGE - 1};
	struct iova *iova = create(&range, 1);
	struct {
		uint64_t address, size;
	} held[SLOTS] = {0};
	bool used[80] = {false};
	unsigned int seed = 7, failed = 0;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		int i = rand_r(&seed) % SLOTS;

		if (held[i].size != 0) {
			iova_free(iova, held[i].address, held[i].size);
			for (uint64_t at = 0; at < held[i].size; at += PAGE)
				used[(held[i].address + at) / PAGE] = false;
			held[i].size = 0;
			continue;
		}
		held[i].size = (uint64_t)(rand_r(&seed) % 6 + 1) * PAGE;
		if (iova_alloc(iova, held[i].size, 0, &held[i].address) != 0) {
			held[i].size = 0;
			failed++;
			continue;
		}
		assert_in_range(held[i].address, 16 * PAGE, 80 * PAGE - held[i].size);
		for (uint64_t at = 0; at < held[i].size; at += PAGE) {
			assert_false(used[(held[i].address + at) / PAGE]);
			used[(held[i].address + at) / PAGE] = true;
		}
	}
	assert_int_not_equal(failed, 0);
	for (int i = 0; i < SLOTS; i++)
		if (held[i].size != 0)
			iova_free(iova, held[i].address, held[i].size);
	assert_int_equal(alloc(iova, 64 * PAGE, 0), 16 * PAGE);
	iova_destroy(iova);
}

/* ---- taking reserved ranges out ---- */

struct exclusion {
	struct dma_range reserved;
	uint32_t count;
	struct dma_range left[3];
};

static void
test_exclude(void **state)
{
	static const struct exclusion cases[] = {
		{{0, 99}, 2, {{100, 199}, {300, 399}}},
		{{200, 299}, 2, {{100, 199}, {300, 399}}},
		{{400, UINT64_MAX}, 2, {{100, 199}, {300, 399}}},
		{{0, 100}, 2, {{101, 199}, {300, 399}}},
		{{199, 300}, 2, {{100, 198}, {301, 399}}},
		{{150, 160}, 3, {{100, 149}, {161, 199}, {300, 399}}},
		{{350, 350}, 3, {{100, 199}, {300, 349}, {351, 399}}},
		{{100, 199}, 1, {{300, 399}}},
		{{50, 350}, 1, {{351, 399}}},
		{{150, 500}, 1, {{100, 149}}},
		{{0, UINT64_MAX}, 0, {{0, 0}}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct dma_range ranges[3] = {{100, 199}, {300, 399}};
		uint32_t count = 2;

		assert_int_equal(iova_exclude(ranges, &count, 3, &cases[i].reserved), 0);
		assert_int_equal(count, cases[i].count);
		assert_memory_equal(ranges, cases[i].left, count * sizeof(ranges[0]));
	}
}

static void
test_exclude_no_room(void **state)
{
	struct dma_range ranges[2] = {{100, 199}, {300, 399}};
	const struct dma_range reserved = {120, 130};
	uint32_t count = 2;

	(void)state;
	assert_int_equal(iova_exclude(ranges, &count, 2, &reserved), -ENOSPC);
	assert_int_equal(count, 2);
	assert_int_equal(ranges[0].last, 199);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trimmed),
		cmocka_unit_test(test_address_0_is_never_given),
		cmocka_unit_test(test_no_ranges),
		cmocka_unit_test(test_width),
		cmocka_unit_test(test_large_pages),
		cmocka_unit_test(test_small_pages_rather_than_none),
		cmocka_unit_test(test_exhaustion),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_fragmentation),
		cmocka_unit_test(test_exclude),
		cmocka_unit_test(test_exclude_no_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
