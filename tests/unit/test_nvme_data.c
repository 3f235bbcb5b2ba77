/* SPDX-License-Identifier: BSD-3-Clause */
/* links: nvme thread testlib env */
/*
 * How the data of commands is described: random iovecs against a walker that knows the rules for
 * PRPs (NVMe 1.4 §4.3) and SGLs (§4.4), as a device has to read them.
 */
#include "nvme_rig.h"

#include <sys/mman.h>

#define AREAS        16
#define AREA         (64u << 10) /* each mapped by itself */
#define ROUNDS       20000
#define MAX_IOVS     300
#define MAX_LENGTH   (512u << 10)
#define MAX_SEGMENTS 2048

static struct nvme_qpair *const qpair = &rig.qpairs[0];
static uint8_t *mapped;   /* AREAS * AREA, one behind the other, but not for the device */
static uint8_t *unmapped; /* as much */

/* Random numbers that are the same each time. */
static uint64_t seed;

static uint32_t
below(uint32_t end)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % end;
}

static int
setup(void **state)
{
	struct errmsg err;

	(void)state;
	seed = 0x123456789abcdef;
	rig_setup_ctrlr(8, MAX_LENGTH);
	mapped = mmap(NULL, AREAS * AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	unmapped = malloc(AREAS * AREA);
	assert_true(mapped != MAP_FAILED && unmapped != NULL);
	/* Each second one first: what is together here is apart there, but for a few. */
	for (uint32_t i = 0; i < AREAS; i++) {
		uint32_t area = i < 4 ? i : 4 + (i - 4) * 5 % (AREAS - 4);

		assert_int_equal(dma_map(rig_memory.space, mapped + area * AREA, AREA, -1, 0, &err),
				 0);
	}
	rig_create(qpair);
	qpair->free_count = 0;
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < AREAS; i++)
		dma_unmap(rig_memory.space, mapped + i * AREA, AREA);
	munmap(mapped, AREAS * AREA);
	free(unmapped);
	rig_teardown_ctrlr();
	return 0;
}

/* ---- what a device reads ---- */

struct segments {
	struct {
		uint64_t iova, length;
	} at[MAX_SEGMENTS];
	uint32_t count;
};

static void
append(struct segments *segments, uint64_t iova, uint64_t length)
{
	assert_true(segments->count < MAX_SEGMENTS);
	segments->at[segments->count].iova = iova;
	segments->at[segments->count++].length = length;
}

static uint64_t
least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* In parts that are in one mapping each. */
static void
add(struct segments *segments, uint64_t iova, uint64_t length)
{
	while (length > 0) {
		uint64_t part = least(length, RIG_PAGE - iova % RIG_PAGE);

		append(segments, iova, part);
		iova += part;
		length -= part;
	}
}

static void
walk_prps(const struct nvme_sqe *sqe, uint64_t length, uint64_t page, struct segments *segments)
{
	uint64_t first = least(length, page - sqe->prp1 % page), list = sqe->prp2;

	assert_int_equal(sqe->prp1 % 4, 0);
	add(segments, sqe->prp1, first);
	length -= first;
	if (length == 0) {
		assert_int_equal(sqe->prp2, 0);
		return;
	}
	if (length <= page) {
		assert_int_equal(sqe->prp2 % page, 0);
		add(segments, sqe->prp2, length);
		return;
	}
	assert_int_equal(list % 8, 0);
	while (length > 0) {
		uint64_t entry = *(const uint64_t *)rig_at(list, 8);

		/* The last of its page is the address of another list, if there is more. */
		assert_false((list + 8) % page == 0 && length > page);
		assert_int_equal(entry % page, 0);
		add(segments, entry, least(length, page));
		length -= least(length, page);
		list += 8;
	}
}

static void
walk_sgl(const struct nvme_sqe *sqe, uint64_t length, uint32_t rules, struct segments *segments)
{
	static const uint8_t zeroes[3];
	const struct nvme_sgl *sgl = &sqe->sgl;
	uint32_t count = 1;

	assert_int_equal(sqe->flags >> 6, 1);
	assert_memory_equal(sgl->reserved, zeroes, sizeof(zeroes));
	if (sgl->type == NVME_SGL_LAST_SEGMENT << 4) {
		assert_int_equal(sgl->length % sizeof(*sgl), 0);
		count = sgl->length / sizeof(*sgl);
		assert_true(count > 1 && count <= 256);
		sgl = rig_at(sgl->address, sgl->length);
	}
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(sgl[i].type, NVME_SGL_DATA << 4);
		assert_memory_equal(sgl[i].reserved, zeroes, sizeof(zeroes));
		assert_true(sgl[i].length > 0 && sgl[i].length <= length);
		if (rules == 2)
			assert_int_equal((sgl[i].address | sgl[i].length) % 4, 0);
		add(segments, sgl[i].address, sgl[i].length);
		length -= sgl[i].length;
	}
	assert_int_equal(length, 0);
}

static void
walk(const struct nvme_sqe *sqe, uint64_t length, struct segments *segments)
{
	segments->count = 0;
	if (sqe->flags >> 6 == 0)
		walk_prps(sqe, length, qpair->page_size, segments);
	else
		walk_sgl(sqe, length, qpair->sgl_rules, segments);
}

/* ---- what there is to describe ---- */

/* The first bytes of the iovecs as the device could see them; none: some are unmapped. */
static void
pieces_of(const struct nvme_request *request, struct segments *pieces)
{
	uint64_t left = request->length;

	pieces->count = 0;
	for (uint32_t i = 0; i < request->iovcnt && left > 0; i++) {
		uint8_t *base = request->iov[i].iov_base;
		uint64_t length = least(request->iov[i].iov_len, left);

		left -= length;
		while (length > 0) {
			uint64_t offset = (uint64_t)(base - mapped), part;
			uint64_t iova = 0;

			if (offset >= AREAS * AREA) {
				pieces->count = 0;
				return;
			}
			part = least(length, AREA - offset % AREA);
			for (uint32_t j = 0; j < RIG_MAPPINGS; j++) {
				const struct rig_mapping *mapping = &rig_memory.mappings[j];

				if (mapping->length == AREA &&
				    mapping->memory == mapped + offset / AREA * AREA)
					iova = mapping->iova + offset % AREA;
			}
			append(pieces, iova, part);
			base += part;
			length -= part;
		}
	}
}

static bool
fits_prps(const struct segments *pieces, uint64_t page)
{
	uint64_t pages = 0, last = 0;

	if (pieces->count == 0 || pieces->at[0].iova % 4 != 0)
		return false;
	for (uint32_t i = 0; i < pieces->count; i++) {
		uint64_t begin = pieces->at[i].iova, end = begin + pieces->at[i].length;
		bool touches = i > 0 && begin == last;

		if (i > 0 && !touches && (begin % page != 0 || last % page != 0))
			return false;
		pages += (end + page - 1) / page - begin / page;
		pages -= touches && begin % page != 0;
		last = end;
	}
	return pages <= 513;
}

static bool
fits_sgl(const struct segments *pieces, uint32_t rules)
{
	if (pieces->count == 0 || pieces->count > 256 || (rules != 1 && rules != 2))
		return false;
	for (uint32_t i = 0; i < pieces->count; i++) {
		if (rules == 2 && (pieces->at[i].iova | pieces->at[i].length) % 4 != 0)
			return false;
	}
	return true;
}

static void
random_iovec(struct iovec *iov, uint32_t style, uint32_t left)
{
	static const uint32_t aligns[] = {4096, 4096, 65536, 512, 4, 1};
	static const uint32_t units[] = {4096, 4096, 512, 512, 4, 1};
	uint8_t *memory = style >= 6 && below(8) == 0 ? unmapped : mapped;
	uint32_t align = aligns[style % 6], length = units[style % 6] * below(24);
	uint32_t offset = below(AREAS * AREA) / align * align;

	if (length > AREAS * AREA - offset)
		length = AREAS * AREA - offset;
	if (below(20) == 0 && length > left)
		length = left;
	iov->iov_base = memory + offset;
	iov->iov_len = length;
}

/* ---- tests ---- */

static uint8_t content[MAX_LENGTH], before[AREAS * AREA];

static void
gather(const struct nvme_request *request, uint8_t *to)
{
	uint64_t left = request->length;

	for (uint32_t i = 0; left > 0; i++) {
		uint64_t length = least(request->iov[i].iov_len, left);

		memcpy(to, request->iov[i].iov_base, length);
		to += length;
		left -= length;
	}
}

/* All that the device sees is what the iovecs have. */
static void
expect_content(const struct nvme_request *request, const struct segments *segments)
{
	uint64_t done = 0;

	gather(request, content);
	for (uint32_t i = 0; i < segments->count; i++) {
		uint64_t length = segments->at[i].length;

		assert_memory_equal(rig_at(segments->at[i].iova, length), content + done, length);
		done += length;
	}
	assert_int_equal(done, request->length);
}

/* The device writes, and that is where the iovecs are, and nothing else. */
static void
expect_read(uint16_t cid, const struct nvme_request *request, const struct segments *segments)
{
	uint64_t done = 0;

	for (uint32_t i = 0; i < segments->count; i++) {
		uint8_t *memory = rig_at(segments->at[i].iova, segments->at[i].length);

		for (uint64_t j = 0; j < segments->at[i].length; j++, done++)
			memory[j] = (uint8_t)(done * 7 + done / 251 + cid);
	}
	nvme_data_release(qpair, cid, request, true);
	gather(request, content);
	for (uint64_t i = 0; i < request->length; i++) {
		if (content[i] != (uint8_t)(i * 7 + i / 251 + cid))
			fail_msg("byte %llu of %u is wrong", (unsigned long long)i,
				 request->length);
	}
}

static struct {
	uint32_t prps, sgls, copies;
} counts;

static void
one_round(uint16_t cid)
{
	static struct segments segments, pieces;
	static struct iovec iov[MAX_IOVS];
	bool read = below(2) == 0;
	struct nvme_request request = {.iov = iov};
	struct nvme_sqe sqe = {.opcode = read ? nvme_cmd_read : nvme_cmd_write};
	uint32_t style = below(12), sum = 0, iovs = below(8) == 0 ? MAX_IOVS : 1 + below(8);
	bool copied, prps;

	request.command.opcode = sqe.opcode;
	qpair->page_size = RIG_PAGE << below(5);
	qpair->sgl_rules = below(4);
	while (request.iovcnt < iovs && sum < MAX_LENGTH) {
		random_iovec(&iov[request.iovcnt], style, MAX_LENGTH - sum);
		sum += (uint32_t)iov[request.iovcnt++].iov_len;
	}
	request.length = sum > MAX_LENGTH ? MAX_LENGTH : sum;
	if (request.length == 0)
		return;
	pieces_of(&request, &pieces);
	assert_int_equal(nvme_data_describe(qpair, cid, &request, &sqe), 0);
	copied = (qpair->slots[cid].flags & NVME_SLOT_COPIED) != 0;
	walk(&sqe, request.length, &segments);
	prps = fits_prps(&pieces, qpair->page_size);
	/* It is copied only where nothing else is possible, and PRPs are preferred. */
	assert_int_equal(copied, !prps && !fits_sgl(&pieces, qpair->sgl_rules));
	assert_int_equal(sqe.flags >> 6, !copied && !prps);
	counts.prps += !copied && prps;
	counts.sgls += !copied && !prps;
	counts.copies += copied;
	/* Iovecs that overlap have no content of their own after a read. */
	if (!read)
		expect_content(&request, &segments);
	else if (request.iovcnt == 1)
		expect_read(cid, &request, &segments);
	nvme_data_release(qpair, cid, &request, false);
	assert_int_equal(qpair->slots[cid].flags, 0);
	assert_int_equal(qpair->free_buffer_count, qpair->buffer_count);
}

static void
test_random(void **state)
{
	(void)state;
	memset(&counts, 0, sizeof(counts));
	for (uint32_t i = 0; i < AREAS * AREA; i++) {
		mapped[i] = (uint8_t)(i * 31 + i / 4096);
		unmapped[i] = (uint8_t)(i * 17 + i / 4096);
	}
	for (uint32_t i = 0; i < ROUNDS; i++)
		one_round((uint16_t)(i % qpair->slot_count));
	/* All ways were gone, often. */
	assert_true(counts.prps > ROUNDS / 10);
	assert_true(counts.sgls > ROUNDS / 10);
	assert_true(counts.copies > ROUNDS / 10);
}

static struct nvme_request
request_of(uint8_t opcode, const struct iovec *iov, uint32_t iovcnt, uint32_t length)
{
	return (struct nvme_request){
		.command = {.opcode = opcode}, .iov = iov, .iovcnt = iovcnt, .length = length};
}

/* Several iovecs of a read that must be copied, with space between them that nobody writes to. */
static void
test_scattered_copies(void **state)
{
	static struct segments segments;
	struct iovec iov[] = {{unmapped + 1, 511},
			      {unmapped + 3000, 0},
			      {unmapped + 5001, 9000},
			      {unmapped + 40000, 100000}};
	uint32_t length = 511 + 9000 + 1000;
	struct nvme_request request = request_of(nvme_cmd_read, iov, 4, length);
	struct nvme_sqe sqe = {0};

	(void)state;
	memset(unmapped, 0xaa, AREAS * AREA);
	assert_int_equal(nvme_data_describe(qpair, 3, &request, &sqe), 0);
	walk(&sqe, length, &segments);
	expect_read(3, &request, &segments);
	memset(before, 0xaa, sizeof(before));
	memcpy(before + 1, unmapped + 1, 511);
	memcpy(before + 5001, unmapped + 5001, 9000);
	memcpy(before + 40000, unmapped + 40000, 1000);
	assert_memory_equal(unmapped, before, AREAS * AREA);
	/* A read that failed changes nothing. */
	assert_int_equal(nvme_data_describe(qpair, 3, &request, &sqe), 0);
	memset(qpair->buffers, 0x55, (size_t)qpair->buffer_size * qpair->buffer_count);
	nvme_data_release(qpair, 3, &request, false);
	assert_memory_equal(unmapped, before, AREAS * AREA);
}

/* Small ones need no buffer; large ones are told to wait. */
static void
test_buffers(void **state)
{
	struct iovec iov = {unmapped, MAX_LENGTH};
	struct nvme_request small = request_of(nvme_cmd_write, &iov, 1, 4096);
	struct nvme_request large = request_of(nvme_cmd_write, &iov, 1, 4097);
	struct nvme_request largest = request_of(nvme_cmd_write, &iov, 1, MAX_LENGTH);
	struct nvme_sqe sqe = {0};

	(void)state;
	assert_int_equal(qpair->buffer_count, 2);
	assert_int_equal(nvme_data_describe(qpair, 0, &large, &sqe), 0);
	assert_int_equal(nvme_data_describe(qpair, 1, &largest, &sqe), 0);
	assert_int_equal(nvme_data_describe(qpair, 2, &large, &sqe), -EAGAIN);
	assert_int_equal(nvme_data_describe(qpair, 2, &small, &sqe), 0);
	assert_int_equal(nvme_data_describe(qpair, 3, &small, &sqe), 0);
	nvme_data_release(qpair, 0, &large, true);
	assert_int_equal(nvme_data_describe(qpair, 4, &largest, &sqe), 0);
	nvme_data_release(qpair, 1, &largest, true);
	nvme_data_release(qpair, 2, &small, true);
	nvme_data_release(qpair, 3, &small, true);
	nvme_data_release(qpair, 4, &largest, true);
	assert_int_equal(qpair->free_buffer_count, 2);
	assert_int_equal(qpair->copied, 5);
}

static void
test_too_little_memory(void **state)
{
	struct iovec iov[] = {{unmapped, 512}, {mapped, 511}};
	struct nvme_request request = request_of(nvme_cmd_read, iov, 2, 1024);
	struct nvme_request none = request_of(nvme_cmd_read, iov, 0, 512);
	struct nvme_sqe sqe = {0};

	(void)state;
	assert_int_equal(nvme_data_describe(qpair, 0, &request, &sqe), -EINVAL);
	assert_int_equal(nvme_data_describe(qpair, 0, &none, &sqe), -EINVAL);
	iov[0].iov_len = MAX_LENGTH + 1;
	request.length = MAX_LENGTH + 1;
	assert_int_equal(nvme_data_describe(qpair, 0, &request, &sqe), -EINVAL);
	assert_int_equal(qpair->slots[0].flags, 0);
}

/* As many descriptors as a page has, and one more: that is copied. */
static void
test_longest_sgl(void **state)
{
	static struct segments segments;
	static struct iovec iov[257];
	struct nvme_request request = request_of(nvme_cmd_read, iov, 257, 256 * 512);
	struct nvme_sqe sqe = {0};

	(void)state;
	qpair->sgl_rules = 2;
	for (uint32_t i = 0; i < 257; i++)
		iov[i] = (struct iovec){mapped + i * 1024, 512};
	assert_int_equal(nvme_data_describe(qpair, 0, &request, &sqe), 0);
	assert_int_equal(qpair->slots[0].flags, 0);
	walk(&sqe, request.length, &segments);
	assert_int_equal(segments.count, 256);
	request.length += 512;
	sqe.flags = 0;
	assert_int_equal(nvme_data_describe(qpair, 0, &request, &sqe), 0);
	assert_int_equal(qpair->slots[0].flags, NVME_SLOT_COPIED);
	assert_int_equal(sqe.flags, 0);
	nvme_data_release(qpair, 0, &request, false);
}

/* The longest list there is: 2 MiB that begin within a page. */
static void
test_largest(void **state)
{
	static struct segments segments;
	uint8_t *memory =
		mmap(NULL, 4u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = {memory + 512, NVME_DATA_MAX};
	struct nvme_request request = request_of(nvme_cmd_read, &iov, 1, NVME_DATA_MAX);
	struct nvme_sqe sqe = {0};
	struct errmsg err;

	(void)state;
	assert_true(memory != MAP_FAILED);
	assert_int_equal(dma_map(rig_memory.space, memory, 4u << 20, -1, 0, &err), 0);
	qpair->page_size = RIG_PAGE;
	assert_int_equal(NVME_DATA_MAX, 2u << 20);
	assert_int_equal(nvme_data_describe(qpair, 0, &request, &sqe), 0);
	segments.count = 0;
	walk_prps(&sqe, NVME_DATA_MAX, RIG_PAGE, &segments);
	assert_int_equal(segments.count, 513);
	assert_ptr_equal(rig_at(segments.at[0].iova, 3584), memory + 512);
	assert_ptr_equal(rig_at(segments.at[512].iova, 512), memory + (2u << 20));
	/* One page more is too much, for SGLs and copies, too. */
	iov.iov_len += 4096;
	request.length += 4096;
	assert_int_equal(nvme_data_describe(qpair, 0, &request, &sqe), -EINVAL);
	dma_unmap(rig_memory.space, memory, 4u << 20);
	munmap(memory, 4u << 20);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_random, setup, teardown),
		cmocka_unit_test_setup_teardown(test_scattered_copies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_buffers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_little_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_longest_sgl, setup, teardown),
		cmocka_unit_test_setup_teardown(test_largest, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
