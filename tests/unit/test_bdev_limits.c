/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What devices can do at once: random requests over random limits, several at a time, each piece
 * that the module sees checked, and the disk compared with a model.
 */
/* links: bdev testlib thread env */
#include <errno.h>

#include "bdev_fake.h"

#define SLOTS       20 /* more than the core works on at a time */
#define SLOT_BLOCKS (FAKE_BLOCKS / SLOTS)
#define SLOT_BYTES  (SLOT_BLOCKS * FAKE_BLOCK)
#define MAX_IOVS    32

static uint32_t seed;

static uint32_t
random_below(uint32_t limit)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % limit;
}

static uint64_t
random_of(const uint64_t *values, size_t count)
{
	return values[random_below((uint32_t)count)];
}
#define RANDOM_OF(values) random_of(values, sizeof(values) / sizeof((values)[0]))

static struct bdev_info info;

/* ---- one request, and what the module may see of it; each slot has a part of the disk ---- */

struct slot {
	struct rig_request *request;
	struct iovec iov[MAX_IOVS];
	uint8_t *data;  /* SLOT_BYTES and room for misalignment */
	uint64_t first; /* byte of its part */
	bool direct;    /* it fits as it is */
	/* seen */
	uint64_t next; /* where the next piece must begin */
	uint32_t pieces;
};

static struct slot slots[SLOTS];
static uint8_t *model;

static uint64_t
limit_of(uint8_t type)
{
	if (type == BDEV_DISCARD)
		return info.max_discard_bytes;
	return type == BDEV_WRITE_ZEROES ? fake.ops.max_write_zeroes : fake.ops.max_transfer;
}

/* As the contract says it. */
static bool
is_allowed(uint8_t type, uint64_t offset, uint64_t length)
{
	const uint64_t boundary = type == BDEV_DISCARD ? 0 : fake.ops.boundary;

	if (length == 0 || length % FAKE_BLOCK != 0)
		return false;
	if (limit_of(type) != 0 && length > limit_of(type))
		return false;
	return boundary == 0 || offset / boundary == (offset + length - 1) / boundary;
}

static bool
has_good_iovs(const struct bdev_request *rq)
{
	uintptr_t bits = 0;

	if (rq->type > BDEV_WRITE)
		return true;
	for (uint32_t i = 0; i < rq->iovcnt; i++)
		bits |= (uintptr_t)rq->iov[i].iov_base | rq->iov[i].iov_len;
	return bits % fake.ops.buffer_alignment == 0 &&
	       (fake.ops.max_iovs == 0 || rq->iovcnt <= fake.ops.max_iovs);
}

/* Pieces without data are as long as they may be. */
static void
check_longest(const struct fake_entry *piece, uint64_t end)
{
	if (piece->type <= BDEV_WRITE || piece->offset + piece->length == end)
		return;
	assert_false(is_allowed(piece->type, piece->offset, piece->length + FAKE_BLOCK));
}

static void
check_piece(const struct fake_entry *piece)
{
	struct slot *slot = &slots[piece->offset / SLOT_BYTES];
	const struct bdev_request *rq = &slot->request->rq;

	assert_int_equal(piece->type, rq->type);
	assert_int_equal(piece->flags, rq->flags);
	assert_int_equal(piece->offset, slot->next);
	assert_true(is_allowed(piece->type, piece->offset, piece->length));
	assert_true(piece->offset + piece->length <= rq->offset + rq->length);
	assert_true(fake.ops.max_iovs == 0 || piece->iovcnt <= fake.ops.max_iovs);
	check_longest(piece, rq->offset + rq->length);
	slot->next += piece->length;
	slot->pieces++;
	if (slot->direct)
		assert_int_equal(piece->iovcnt, rq->iovcnt);
}

/* ---- a round ---- */

static void
random_iovs(struct slot *slot, uint64_t length)
{
	static const uint64_t granularities[] = {512, 512, 512, 4096, 16, 4, 1};
	uint64_t granularity = RANDOM_OF(granularities);
	uint8_t *position = slot->data + random_below(2) * granularity;
	struct bdev_request *rq = &slot->request->rq;

	rq->iov = slot->iov;
	rq->iovcnt = 0;
	while (length > 0) {
		uint64_t n = granularity * random_below(60);

		if (n > length || rq->iovcnt == MAX_IOVS - 1)
			n = length;
		slot->iov[rq->iovcnt++] = (struct iovec){.iov_base = position, .iov_len = n};
		position += n;
		length -= n;
	}
}

static void
random_request(struct slot *slot)
{
	static const uint8_t types[] = {BDEV_READ, BDEV_WRITE, BDEV_WRITE_ZEROES, BDEV_DISCARD};
	struct bdev_request *rq = &slot->request->rq;
	uint64_t block = random_below(SLOT_BLOCKS);
	uint64_t blocks = 1 + random_below(SLOT_BLOCKS - (uint32_t)block);

	if (random_below(3) == 0 && blocks > 16)
		blocks = 1 + random_below(16);
	rig_request_set(slot->request, types[random_below(4)], slot->first + block * FAKE_BLOCK,
			NULL, blocks * FAKE_BLOCK);
	rq->iov = NULL;
	rq->iovcnt = 0;
	if (rq->type == BDEV_WRITE || rq->type == BDEV_WRITE_ZEROES)
		rq->flags = random_below(2) ? BDEV_FUA : 0;
	if (rq->type == BDEV_WRITE_ZEROES && random_below(2))
		rq->flags |= BDEV_UNMAP;
	if (rq->type <= BDEV_WRITE)
		random_iovs(slot, rq->length);
	if (rq->type == BDEV_WRITE)
		for (uint64_t i = 0; i < SLOT_BYTES; i += 8)
			memset(slot->data + i, (int)random_below(256), 8);
	slot->direct = has_good_iovs(rq) && is_allowed(rq->type, rq->offset, rq->length);
	slot->next = rq->offset;
	slot->pieces = 0;
}

/* What the request has to do, done to the model or compared with it. */
static void
check_effect(const struct slot *slot)
{
	const struct bdev_request *rq = &slot->request->rq;
	uint8_t *expected = model + rq->offset;

	if (rq->type == BDEV_WRITE_ZEROES)
		memset(expected, 0, rq->length);
	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		if (rq->type == BDEV_WRITE)
			memcpy(expected, rq->iov[i].iov_base, rq->iov[i].iov_len);
		else
			assert_memory_equal(rq->iov[i].iov_base, expected, rq->iov[i].iov_len);
		expected += rq->iov[i].iov_len;
	}
	assert_memory_equal(fake.memory + slot->first, model + slot->first, SLOT_BYTES);
}

static void
check_slot(const struct slot *slot)
{
	const struct rig_request *request = slot->request;

	assert_true(request->finished);
	assert_int_equal(request->status, 0);
	assert_int_equal(slot->next, request->rq.offset + request->rq.length);
	if (slot->direct)
		assert_int_equal(slot->pieces, 1);
	check_effect(slot);
}

static void
round_of_requests(void)
{
	fake.logged = 0;
	for (unsigned int i = 0; i < SLOTS; i++) {
		fake.delayed = random_below(2) != 0;
		random_request(&slots[i]);
		rig_submit(fake_channel, rig_io[0], slots[i].request);
	}
	do
		fake.delayed = random_below(4) != 0;
	while (fake_complete_one(rig_io[0]));
	assert_true(fake.logged <= FAKE_LOG);
	for (unsigned int i = 0; i < fake.logged; i++)
		check_piece(&fake.log[i]);
	for (unsigned int i = 0; i < SLOTS; i++)
		check_slot(&slots[i]);
}

static void
random_limits(void)
{
	static const uint64_t alignments[] = {1, 4, 512};
	static const uint64_t iovs[] = {0, 0, 1, 3, 32};
	static const uint64_t lengths[] = {0, 0, 4096, 5000, 65536, 131072};
	static const uint64_t boundaries[] = {0,       4096,  131072,  131072,
					      3 * 512, 40960, 7 << 20, UINT64_MAX - 511};

	fake.ops.fua = true;
	fake.ops.buffer_alignment = (uint32_t)RANDOM_OF(alignments);
	fake.ops.max_iovs = (uint32_t)RANDOM_OF(iovs);
	fake.ops.max_transfer = RANDOM_OF(lengths);
	fake.ops.max_write_zeroes = RANDOM_OF(lengths);
	fake.ops.boundary = RANDOM_OF(boundaries);
	info = fake_info("a");
	info.max_discard_bytes = (uint32_t)RANDOM_OF(lengths);
}

static void
start_slots(void)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		slots[i] = (struct slot){.first = (uint64_t)i * SLOT_BYTES};
		slots[i].request = rig_request_new(fake.bdev);
		slots[i].data = aligned_alloc(4096, (SLOT_BYTES + 4096 + 4095) & ~4095);
		assert_non_null(slots[i].data);
	}
	model = calloc(1, FAKE_SIZE);
	assert_non_null(model);
}

static void
stop_slots(void)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		free(slots[i].request);
		free(slots[i].data);
	}
	free(model);
}

static void
test_random(void **state)
{
	(void)state;
	seed = 4711;
	for (unsigned int i = 0; i < 60; i++) {
		free(fake.memory);
		fake_reset();
		random_limits();
		fake_start(&info);
		start_slots();
		for (unsigned int round = 0; round < 8; round++)
			round_of_requests();
		assert_int_equal(fake.misaligned, 0);
		stop_slots();
		fake_stop();
	}
}

/* ---- one by one ---- */

static void
start(uint64_t boundary, uint64_t max_write_zeroes, uint32_t max_discard)
{
	info = fake_info("a");
	info.max_discard_bytes = max_discard;
	fake.ops.boundary = boundary;
	fake.ops.max_write_zeroes = max_write_zeroes;
	fake_start(&info);
}

static void
check_pieces(uint8_t type, uint64_t offset, const uint64_t *lengths, unsigned int count)
{
	assert_int_equal(fake.logged, count);
	for (unsigned int i = 0; i < count; i++) {
		assert_int_equal(fake.log[i].type, type);
		assert_int_equal(fake.log[i].offset, offset);
		assert_int_equal(fake.log[i].length, lengths[i]);
		offset += lengths[i];
	}
	fake.logged = 0;
}
#define CHECK_PIECES(type, offset, ...)                                                            \
	do {                                                                                       \
		const uint64_t lengths_[] = {__VA_ARGS__};                                         \
		check_pieces(type, offset, lengths_, sizeof(lengths_) / sizeof(lengths_[0]));      \
	} while (0)

static int
run(struct rig_request *request, uint8_t type, uint64_t offset, void *data, uint64_t length)
{
	rig_request_set(request, type, offset, data, length);
	return rig_do(fake_channel, rig_io[0], request);
}

static void
test_boundary(void **state)
{
	static const uint64_t boundaries[] = {8192, 3 * 4096};
	uint8_t *data = aligned_alloc(4096, 65536);

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		const uint64_t b = boundaries[i];
		struct rig_request *request;

		free(fake.memory);
		fake_reset();
		start(b, 0, 0);
		request = rig_request_new(fake.bdev);
		/* Up to it, from it, over it, over several. */
		assert_int_equal(run(request, BDEV_WRITE, b - 4096, data, 4096), 0);
		CHECK_PIECES(BDEV_WRITE, b - 4096, 4096);
		assert_int_equal(run(request, BDEV_WRITE, b, data, b), 0);
		CHECK_PIECES(BDEV_WRITE, b, b);
		assert_int_equal(run(request, BDEV_READ, b - 512, data, 1024), 0);
		CHECK_PIECES(BDEV_READ, b - 512, 512, 512);
		assert_int_equal(run(request, BDEV_WRITE_ZEROES, b - 1024, NULL, b + 2048), 0);
		CHECK_PIECES(BDEV_WRITE_ZEROES, b - 1024, 1024, b, 1024);
		/* A hint is not cut there. */
		assert_int_equal(run(request, BDEV_DISCARD, b - 1024, NULL, b + 2048), 0);
		CHECK_PIECES(BDEV_DISCARD, b - 1024, b + 2048);
		free(request);
		fake_stop();
	}
	free(data);
}

/*
 * The first piece of a bounced request may be shorter than those behind it: the buffer is for all.
 */
static void
test_bounce_behind_boundary(void **state)
{
	uint8_t *data = aligned_alloc(4096, 65536);
	struct rig_request *request;

	(void)state;
	fake.ops.buffer_alignment = 512;
	start(16384, 0, 0);
	request = rig_request_new(fake.bdev);
	for (int i = 0; i < 65536; i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(run(request, BDEV_WRITE, 16384 - 512, data + 1, 40960), 0);
	CHECK_PIECES(BDEV_WRITE, 16384 - 512, 512, 16384, 16384, 7680);
	assert_memory_equal(fake.memory + 16384 - 512, data + 1, 40960);
	assert_int_equal(fake.misaligned, 0);
	free(request);
	free(data);
	fake_stop();
}

static void
test_long_zeroes_and_discards(void **state)
{
	struct rig_request *request;

	(void)state;
	start(0, 65536, 100000);
	request = rig_request_new(fake.bdev);
	memset(fake.memory, 0xee, FAKE_SIZE);
	assert_int_equal(run(request, BDEV_WRITE_ZEROES, 512, NULL, 2 * 65536 + 512), 0);
	CHECK_PIECES(BDEV_WRITE_ZEROES, 512, 65536, 65536, 512);
	assert_int_equal(fake.memory[511], 0xee);
	for (size_t i = 512; i < 1024 + 2 * 65536; i++)
		assert_int_equal(fake.memory[i], 0);
	assert_int_equal(fake.memory[1024 + 2 * 65536], 0xee);
	/* In whole blocks: 195 of them are 99,840 bytes. */
	assert_int_equal(run(request, BDEV_DISCARD, 0, NULL, 200 * 512), 0);
	CHECK_PIECES(BDEV_DISCARD, 0, 195 * 512, 5 * 512);
	/* Durable after the last one. */
	rig_request_set(request, BDEV_WRITE_ZEROES, 0, NULL, 65536 + 512);
	request->rq.flags = BDEV_FUA;
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 3);
	assert_int_equal(fake.log[2].type, BDEV_FLUSH);
	free(request);
	fake_stop();
}

/* The error of any piece is the request's, and none comes after it. */
static void
test_errors(void **state)
{
	struct rig_request *request;

	(void)state;
	start(4096, 0, 4096);
	request = rig_request_new(fake.bdev);
	for (unsigned int at = 1; at <= 4; at++) {
		fake.logged = 0;
		fake.fail_at = at;
		fake.fail_status = -ENOSPC;
		assert_int_equal(
			run(request, at % 2 ? BDEV_DISCARD : BDEV_WRITE_ZEROES, 0, NULL, 5 * 4096),
			-ENOSPC);
		assert_int_equal(fake.logged, at);
		assert_int_equal(request->finishes, at);
	}
	free(request);
	fake_stop();
}

/* Limits with which not even one block would go through, and a boundary inside of blocks. */
static void
test_bad_limits(void **state)
{
	const struct bdev_ops good = fake.ops;

	(void)state;
	info = fake_info("a");
	fake.ops.boundary = 4096 + 256;
	assert_int_equal(fake_register(&info), -EINVAL);
	fake.ops.boundary = 256;
	assert_int_equal(fake_register(&info), -EINVAL);
	fake.ops = good;
	fake.ops.max_write_zeroes = 511;
	assert_int_equal(fake_register(&info), -EINVAL);
	fake.ops = good;
	info.max_discard_bytes = 511;
	assert_int_equal(fake_register(&info), -EINVAL);
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_random),
		test(test_boundary),
		test(test_bounce_behind_boundary),
		test(test_long_zeroes_and_discards),
		test(test_errors),
		test(test_bad_limits),
	};

	return cmocka_run_group_tests_name("bdev_limits", tests, NULL, NULL);
}
