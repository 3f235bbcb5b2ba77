/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * Guest-physical addresses to iovecs: borders, gaps, ends, hints. Nothing is touched, so the memory
 * is made up.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>

#include "guest_mem.h"

#define KIB      1024ULL
#define GIB      (KIB * KIB * KIB)
#define MAX_IOVS 8
#define HVA(n)   ((uint8_t *)(uintptr_t)(n))

/* Not in order. A and B touch each other in the guest, D ends with the address space. */
#define A_GPA  (64 * KIB)
#define B_GPA  (A_GPA + 64 * KIB)
#define B_END  (B_GPA + 16)
#define C_GPA  (4 * GIB)
#define C_SIZE (8 * GIB)
#define D_GPA  (UINT64_MAX - 4 * KIB + 1)
#define A_HVA  HVA(0x7f0000000000)
#define B_HVA  HVA(0x7e0000000000)
#define C_HVA  HVA(0x7d0000000000)
#define D_HVA  HVA(0x7c0000000000)

static const struct guest_mem_region layout[] = {
	{.gpa = C_GPA, .size = C_SIZE, .hva = C_HVA},
	{.gpa = A_GPA, .size = 64 * KIB, .hva = A_HVA},
	{.gpa = D_GPA, .size = 4 * KIB, .hva = D_HVA},
	{.gpa = B_GPA, .size = 16, .hva = B_HVA},
};
#define REGIONS (sizeof(layout) / sizeof(layout[0]))

/* Both halves, as queues use them: first a look at the region of the last buffer. */
static int
map_buffer(const struct guest_mem *mem, uint32_t *hint, uint64_t gpa, uint32_t len,
	   struct iovec *iov, uint32_t max)
{
	if (max != 0 && guest_mem_region_map(&mem->regions[*hint], gpa, len, iov))
		return 1;
	return guest_mem_map_split(mem, hint, gpa, len, iov, max);
}

struct lookup {
	const char *what;
	uint64_t gpa;
	uint32_t len;
	uint32_t max;
	int rc;
	struct iovec iov[MAX_IOVS];
};

static const struct lookup lookups[] = {
	{"inside", A_GPA + 100, 50, 1, 1, {{A_HVA + 100, 50}}},
	{"first byte", A_GPA, 1, 1, 1, {{A_HVA, 1}}},
	{"last byte", B_END - 1, 1, 1, 1, {{B_HVA + 15, 1}}},
	{"a whole region", B_GPA, 16, 1, 1, {{B_HVA, 16}}},
	{"up to the border", B_GPA - 8, 8, 1, 1, {{A_HVA + 64 * KIB - 8, 8}}},
	{"over the border", B_GPA - 8, 12, 2, 2, {{A_HVA + 64 * KIB - 8, 8}, {B_HVA, 4}}},
	{"over the border, no room", B_GPA - 8, 12, 1, -ENOBUFS, {{0}}},
	{"over the border into the gap", B_GPA - 8, 25, 8, -EFAULT, {{0}}},
	{"no room at all", A_GPA, 1, 0, -ENOBUFS, {{0}}},
	{"no length", A_GPA, 0, 1, 0, {{0}}},
	{"no length and no room", A_GPA, 0, 0, 0, {{0}}},
	{"no length, in a gap", B_END, 0, 1, 0, {{0}}},
	{"before all regions", A_GPA - 1, 1, 1, -EFAULT, {{0}}},
	{"from before into a region", A_GPA - 1, 2, 2, -EFAULT, {{0}}},
	{"address 0", 0, 1, 1, -EFAULT, {{0}}},
	{"behind a region", B_END, 1, 1, -EFAULT, {{0}}},
	{"one byte too long", B_GPA, 17, 2, -EFAULT, {{0}}},
	{"before the next region", C_GPA - 1, 1, 1, -EFAULT, {{0}}},
	{"longest", C_GPA, UINT32_MAX, 1, 1, {{C_HVA, UINT32_MAX}}},
	{"longest to the end",
	 C_GPA + C_SIZE - UINT32_MAX,
	 UINT32_MAX,
	 1,
	 1,
	 {{C_HVA + C_SIZE - UINT32_MAX, UINT32_MAX}}},
	{"longest and one", C_GPA + C_SIZE - UINT32_MAX + 1, UINT32_MAX, 2, -EFAULT, {{0}}},
	{"last byte of the address space", UINT64_MAX, 1, 1, 1, {{D_HVA + 4 * KIB - 1, 1}}},
	{"to the end of the address space", D_GPA, 4 * KIB, 1, 1, {{D_HVA, 4 * KIB}}},
	{"wraps", UINT64_MAX, 2, 2, -EFAULT, {{0}}},
	{"wraps far", UINT64_MAX - 8, UINT32_MAX, 8, -EFAULT, {{0}}},
};

static struct guest_mem *
create(const struct guest_mem_region *regions, uint32_t count)
{
	struct guest_mem *mem = NULL;

	assert_int_equal(guest_mem_create(regions, count, &mem), 0);
	assert_non_null(mem);
	return mem;
}

static void
check(const struct guest_mem *mem, const struct lookup *lookup, uint32_t hint, int rc,
      const struct iovec *iov)
{
	int i;

	if (rc != lookup->rc)
		fail_msg("%s, hint %u: %d, not %d", lookup->what, hint, rc, lookup->rc);
	for (i = 0; i < rc; i++)
		if (iov[i].iov_base != lookup->iov[i].iov_base ||
		    iov[i].iov_len != lookup->iov[i].iov_len)
			fail_msg("%s, hint %u: iovec %d: %p+%zu", lookup->what, hint, i,
				 iov[i].iov_base, iov[i].iov_len);
	assert_true(hint < mem->count);
}

/* The answer does not depend on where the last hit was, and never writes more than max iovecs. */
static void
test_lookups(void **state)
{
	struct guest_mem *mem = create(layout, REGIONS);
	uint32_t hint, start;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lookups) / sizeof(lookups[0]); i++) {
		for (start = 0; start < mem->count; start++) {
			struct iovec iov[MAX_IOVS + 1] = {0};
			int rc;

			hint = start;
			rc = map_buffer(mem, &hint, lookups[i].gpa, lookups[i].len, iov,
					lookups[i].max);
			check(mem, &lookups[i], hint, rc, iov);
			assert_null(iov[lookups[i].max].iov_base);
			assert_int_equal(iov[lookups[i].max].iov_len, 0);
		}
	}
	guest_mem_destroy(mem);
}

static void
test_slow_half_alone(void **state)
{
	struct guest_mem *mem = create(layout, REGIONS);
	struct iovec iov[MAX_IOVS];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lookups) / sizeof(lookups[0]); i++) {
		uint32_t hint = 0;
		int rc = guest_mem_map_split(mem, &hint, lookups[i].gpa, lookups[i].len, iov,
					     lookups[i].max);

		check(mem, &lookups[i], hint, rc, iov);
	}
	guest_mem_destroy(mem);
}

static void
test_hint_is_the_last_hit(void **state)
{
	struct guest_mem *mem = create(layout, REGIONS);
	struct iovec iov[2];
	uint32_t hint = 0;

	(void)state;
	assert_int_equal(map_buffer(mem, &hint, C_GPA, 1, iov, 2), 1);
	assert_int_equal(mem->regions[hint].gpa, C_GPA);
	assert_int_equal(map_buffer(mem, &hint, B_GPA - 1, 2, iov, 2), 2);
	assert_int_equal(mem->regions[hint].gpa, B_GPA);
	assert_int_equal(map_buffer(mem, &hint, 0, 1, iov, 2), -EFAULT);
	assert_int_equal(mem->regions[hint].gpa, B_GPA);
	guest_mem_destroy(mem);
}

static void
test_sorted(void **state)
{
	struct guest_mem *mem = create(layout, REGIONS);
	static const uint64_t expected[] = {A_GPA, B_GPA, C_GPA, D_GPA};
	uint32_t i;

	(void)state;
	assert_int_equal(mem->count, REGIONS);
	for (i = 0; i < mem->count; i++)
		assert_int_equal(mem->regions[i].gpa, expected[i]);
	guest_mem_destroy(mem);
}

/* As many regions as there may be, of one byte each, all touching. */
static void
test_most_regions(void **state)
{
	struct guest_mem_region regions[GUEST_MEM_MAX_REGIONS + 1];
	struct iovec iov[GUEST_MEM_MAX_REGIONS];
	struct guest_mem *mem;
	uint32_t hint = 0, i;

	(void)state;
	for (i = 0; i <= GUEST_MEM_MAX_REGIONS; i++)
		regions[i] = (struct guest_mem_region){
			.gpa = 7 + i, .size = 1, .hva = HVA(0x10000 * (i + 1))};
	assert_int_equal(guest_mem_create(regions, GUEST_MEM_MAX_REGIONS + 1, &mem), -EINVAL);

	mem = create(regions, GUEST_MEM_MAX_REGIONS);
	assert_int_equal(
		map_buffer(mem, &hint, 7, GUEST_MEM_MAX_REGIONS, iov, GUEST_MEM_MAX_REGIONS),
		GUEST_MEM_MAX_REGIONS);
	for (i = 0; i < GUEST_MEM_MAX_REGIONS; i++) {
		assert_ptr_equal(iov[i].iov_base, HVA(0x10000 * (i + 1)));
		assert_int_equal(iov[i].iov_len, 1);
	}
	assert_int_equal(
		map_buffer(mem, &hint, 7, GUEST_MEM_MAX_REGIONS, iov, GUEST_MEM_MAX_REGIONS - 1),
		-ENOBUFS);
	assert_int_equal(
		map_buffer(mem, &hint, 8, GUEST_MEM_MAX_REGIONS, iov, GUEST_MEM_MAX_REGIONS),
		-EFAULT);
	guest_mem_destroy(mem);
}

static void
test_bad_regions(void **state)
{
	static const struct {
		const char *what;
		uint32_t count;
		struct guest_mem_region regions[2];
	} cases[] = {
		{"none", 0, {{0}}},
		{"empty", 1, {{4096, 0, HVA(4096)}}},
		{"second empty", 2, {{0, 4096, HVA(4096)}, {4096, 0, HVA(8192)}}},
		{"wraps", 1, {{UINT64_MAX, 2, HVA(4096)}}},
		{"wraps our addresses", 1, {{0, 8192, HVA(UINTPTR_MAX - 4095)}}},
		{"same", 2, {{0, 4096, HVA(4096)}, {0, 4096, HVA(8192)}}},
		{"overlap", 2, {{4096, 4097, HVA(4096)}, {8192, 1, HVA(65536)}}},
		{"overlap in the other order", 2, {{8192, 1, HVA(65536)}, {4096, 4097, HVA(4096)}}},
		{"one inside the other", 2, {{0, GIB, HVA(4096)}, {4096, 1, HVA(4096)}}},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct guest_mem *mem = NULL;
		int rc = guest_mem_create(cases[i].regions, cases[i].count, &mem);

		if (rc != -EINVAL || mem)
			fail_msg("%s: %d", cases[i].what, rc);
	}
}

static void
test_destroy_nothing(void **state)
{
	(void)state;
	guest_mem_destroy(NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lookups),
		cmocka_unit_test(test_slow_half_alone),
		cmocka_unit_test(test_hint_is_the_last_hit),
		cmocka_unit_test(test_sorted),
		cmocka_unit_test(test_most_regions),
		cmocka_unit_test(test_bad_regions),
		cmocka_unit_test(test_destroy_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
