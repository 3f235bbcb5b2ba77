/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests that a module cannot take as they are: split and bounced. */
/* links: bdev testlib thread env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=mprotect */
#include <errno.h>

#include "bdev_fake.h"
#include "fault.h"

#define BUFFER   (3u << 20)
#define MAX_IOVS 64

static uint8_t *buffer; /* aligned to 4096, with room behind BUFFER for misalignment */

static void
start(uint32_t alignment, uint32_t max_iovs, uint64_t max_transfer)
{
	struct bdev_info info = fake_info("a");

	fake.ops.buffer_alignment = alignment;
	fake.ops.max_iovs = max_iovs;
	fake.ops.max_transfer = max_transfer;
	fake_start(&info);
	buffer = aligned_alloc(4096, BUFFER + 8192);
	assert_non_null(buffer);
}

static void
stop(void)
{
	free(buffer);
	fake_stop();
}

static void
fill(uint8_t *bytes, size_t length, uint32_t seed)
{
	for (size_t i = 0; i < length; i++) {
		seed = seed * 1664525 + 1013904223;
		bytes[i] = (uint8_t)(seed >> 24);
	}
}

/* ---- split ---- */

static void
test_max_transfer(void **state)
{
	struct rig_request *request;

	(void)state;
	start(1, 0, 65536);
	request = rig_request_new(fake.bdev);
	fill(buffer, BUFFER, 1);
	rig_request_set(request, BDEV_WRITE, 1024, buffer, 65536 * 2 + 512);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 3);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(fake.log[i].offset, 1024 + 65536 * i);
		assert_int_equal(fake.log[i].length, i < 2 ? 65536 : 512);
	}
	assert_memory_equal(fake.memory + 1024, buffer, 65536 * 2 + 512);
	assert_int_equal(request->rq.length, 65536 * 2 + 512);
	assert_ptr_equal(request->rq.iov->iov_base, buffer);
	free(request);
	stop();
}

/*
 * Each later piece is submitted when its user is not about to flush: a doorbell must ring for it.
 */
static void
test_later_pieces_are_flushed(void **state)
{
	struct rig_request *request;

	(void)state;
	start(1, 0, 4096);
	fake.delayed = true;
	request = rig_request_new(fake.bdev);
	rig_request_set(request, BDEV_WRITE, 0, buffer, 3 * 4096);
	rig_submit(fake_channel, rig_io[0], request);
	for (unsigned int piece = 1; piece <= 3; piece++) {
		unsigned int submitted = fake.last_waiting;
		unsigned int before = fake.flushes;

		assert_int_equal(submitted, piece);
		assert_true(fake_complete_one(rig_io[0]));
		assert_true(fake.last_waiting == submitted || fake.flushes > before);
	}
	rig_wait(&request->finished);
	assert_int_equal(request->status, 0);
	free(request);
	stop();
}

static void
test_max_iovs(void **state)
{
	struct rig_request *request;
	struct iovec iov[9];

	(void)state;
	start(1, 4, 0);
	request = rig_request_new(fake.bdev);
	fill(buffer, BUFFER, 2);
	rig_request_set(request, BDEV_WRITE, 0, NULL, 9 * 1024);
	for (unsigned int i = 0; i < 9; i++)
		iov[i] = (struct iovec){.iov_base = buffer + 4096 * i, .iov_len = 1024};
	request->rq.iov = iov;
	request->rq.iovcnt = 9;
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 3);
	assert_int_equal(fake.log[0].iovcnt, 4);
	assert_int_equal(fake.log[2].iovcnt, 1);
	for (unsigned int i = 0; i < 9; i++)
		assert_memory_equal(fake.memory + 1024 * i, buffer + 4096 * i, 1024);
	free(request);
	stop();
}

/* Four iovecs are less than one block: only a bounce buffer helps. */
static void
test_tiny_iovs(void **state)
{
	struct rig_request *request;
	struct iovec iov[64];

	(void)state;
	start(1, 4, 0);
	request = rig_request_new(fake.bdev);
	fill(fake.memory, FAKE_SIZE, 3);
	rig_request_set(request, BDEV_READ, 512, NULL, 64 * 16);
	for (unsigned int i = 0; i < 64; i++)
		iov[i] = (struct iovec){.iov_base = buffer + 100 * i, .iov_len = 16};
	request->rq.iov = iov;
	request->rq.iovcnt = 64;
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.log[0].iovcnt, 1);
	for (unsigned int i = 0; i < 64; i++)
		assert_memory_equal(buffer + 100 * i, fake.memory + 512 + 16 * i, 16);
	free(request);
	stop();
}

/* ---- bounce ---- */

static void
test_bounce(void **state)
{
	struct rig_request *request;

	(void)state;
	start(512, 0, 0);
	request = rig_request_new(fake.bdev);
	fill(buffer, BUFFER, 4);
	rig_request_set(request, BDEV_WRITE, 512, buffer + 1, 4096);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_memory_equal(fake.memory + 512, buffer + 1, 4096);
	memset(buffer, 0, 8192);
	rig_request_set(request, BDEV_READ, 512, buffer + 16, 4096);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_memory_equal(fake.memory + 512, buffer + 16, 4096);
	assert_int_equal(buffer[15], 0);
	assert_int_equal(buffer[16 + 4096], 0);
	assert_int_equal(fake.misaligned, 0);
	assert_int_equal(fake.logged, 2);
	rig_request_set(request, BDEV_READ, 512, buffer + 512, 4096);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	free(request);
	stop();
}

static void
test_bounce_in_pieces(void **state)
{
	struct rig_request *request;

	(void)state;
	start(512, 0, 0);
	request = rig_request_new(fake.bdev);
	fill(buffer, BUFFER + 8, 5);
	rig_request_set(request, BDEV_WRITE, 512, buffer + 8, BUFFER - 512);
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 3);
	assert_int_equal(fake.log[0].length, 1 << 20);
	assert_memory_equal(fake.memory + 512, buffer + 8, BUFFER - 512);
	free(request);
	stop();
}

/*
 * The error of any piece is the request's; what was read before it has arrived, and nothing else.
 */
static void
test_error_in_piece(void **state)
{
	struct rig_request *request;

	(void)state;
	start(512, 0, 0);
	request = rig_request_new(fake.bdev);
	fill(fake.memory, FAKE_SIZE, 6);
	for (unsigned int at = 1; at <= 3; at++) {
		size_t good = (size_t)(at - 1) << 20;

		memset(buffer, 0xee, BUFFER + 8192);
		fake.fail_at = at;
		fake.fail_status = -ENODATA;
		rig_request_set(request, BDEV_READ, 0, buffer + 3, BUFFER);
		assert_int_equal(rig_do(fake_channel, rig_io[0], request), -ENODATA);
		assert_int_equal(request->finishes, at);
		assert_memory_equal(buffer + 3, fake.memory, good);
		for (size_t i = good; i < BUFFER; i += 4093)
			assert_int_equal(buffer[3 + i], 0xee);
	}
	free(request);
	stop();
}

/* Only some at a time, the others in their order; each exactly once. */
static void
test_many(void **state)
{
	struct rig_request *requests[100];
	unsigned int most = 0;

	(void)state;
	start(512, 0, 0);
	fake.delayed = true;
	fill(buffer, BUFFER, 7);
	for (unsigned int i = 0; i < 100; i++) {
		requests[i] = rig_request_new(fake.bdev);
		rig_request_set(requests[i], BDEV_WRITE, 4096 * i, buffer + 4096 * i + 1, 4096);
		rig_submit(fake_channel, rig_io[0], requests[i]);
	}
	assert_true(fake.logged < 100);
	do {
		unsigned int waiting = fake.last_waiting - fake.first_waiting;

		most = waiting > most ? waiting : most;
		fake.delayed =
			fake.logged % 7 != 0; /* some of those that follow complete at once */
	} while (fake_complete_one(rig_io[0]));
	assert_int_equal(fake.logged, 100);
	assert_true(most > 1 && most <= 16);
	for (unsigned int i = 0; i < 100; i++) {
		assert_int_equal(fake.log[i].offset, 4096 * i);
		assert_int_equal(requests[i]->finishes, 1);
		assert_int_equal(requests[i]->status, 0);
		free(requests[i]);
	}
	assert_memory_equal(fake.memory, buffer + 1, 4096 * 100);
	stop();
}

/* FUA: one flush after all pieces. */
static void
test_fua(void **state)
{
	struct rig_request *request;

	(void)state;
	start(512, 0, 4096);
	request = rig_request_new(fake.bdev);
	rig_request_set(request, BDEV_WRITE, 0, buffer + 1, 3 * 4096);
	request->rq.flags = BDEV_FUA;
	assert_int_equal(rig_do(fake_channel, rig_io[0], request), 0);
	assert_int_equal(fake.logged, 4);
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(fake.log[i].type, i < 3 ? BDEV_WRITE : BDEV_FLUSH);
	free(request);
	stop();
}

static void
test_no_memory(void **state)
{
	struct rig_request *request;

	(void)state;
	start(512, 0, 0);
	request = rig_request_new(fake.bdev);
	rig_request_set(request, BDEV_WRITE, 0, buffer + 1, 4096);
	for (unsigned int good = 0; good < 3; good++) {
		fault_after(good);
		rig_submit(fake_channel, rig_io[0], request);
		/* There are two allocations: the pieces and their buffer. */
		assert_int_equal(fault_end(), good < 2);
		assert_int_equal(request->status, good < 2 ? -ENOMEM : 0);
		assert_int_equal(request->finishes, good + 1);
	}
	free(request);
	stop();
}

/* ---- any shape ---- */

static uint32_t
random_below(uint32_t *seed, uint32_t limit)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % limit;
}

/* Cuts length bytes into iovecs in the buffer. Returns how many. */
static uint32_t
random_iovs(uint32_t *seed, struct iovec *iov, uint64_t length, uint32_t granularity)
{
	uint8_t *position = buffer;
	uint32_t count = 0;

	while (length > 0) {
		uint64_t n = (uint64_t)granularity * (1 + random_below(seed, 40));

		if (random_below(seed, 8) == 0)
			n = random_below(seed, 3);
		if (n > length || count == MAX_IOVS - 1)
			n = length;
		position += random_below(seed, 3) * granularity;
		iov[count++] = (struct iovec){.iov_base = n == 0 ? NULL : position, .iov_len = n};
		position += n;
		length -= n;
	}
	return count;
}

static void
check_read(const struct iovec *iov, uint32_t count, uint64_t offset)
{
	const uint8_t *expected = fake.memory + offset;

	for (uint32_t i = 0; i < count; i++) {
		if (iov[i].iov_len > 0)
			assert_memory_equal(iov[i].iov_base, expected, iov[i].iov_len);
		expected += iov[i].iov_len;
	}
}

static void
random_round(struct rig_request *request, uint32_t *seed)
{
	static const uint32_t granularities[] = {512, 512, 16, 1, 4096, 100};
	uint64_t length = 512 * (uint64_t)(1 + random_below(seed, 500));
	uint64_t offset = 512 * (uint64_t)random_below(seed, FAKE_BLOCKS - 500);
	bool write = random_below(seed, 2) != 0;
	struct iovec iov[MAX_IOVS];

	rig_request_set(request, write ? BDEV_WRITE : BDEV_READ, offset, NULL, length);
	request->rq.iov = iov;
	request->rq.iovcnt = random_iovs(seed, iov, length, granularities[random_below(seed, 6)]);
	if (write)
		fill(buffer, BUFFER, *seed);
	rig_submit(fake_channel, rig_io[0], request);
	while (fake_complete_one(rig_io[0]))
		;
	assert_true(request->finished);
	assert_int_equal(request->status, 0);
	check_read(iov, request->rq.iovcnt, offset);
}

static void
test_random_shapes(void **state)
{
	static const struct {
		uint32_t alignment, max_iovs;
		uint64_t max_transfer;
	} limits[] = {{1, 0, 0},      {1, 3, 0},      {512, 0, 0},
		      {512, 2, 5000}, {4, 16, 65536}, {64, 1, 512}};
	uint32_t seed = 12345;

	(void)state;
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct rig_request *request;

		free(fake.memory);
		fake_reset();
		start(limits[i].alignment, limits[i].max_iovs, limits[i].max_transfer);
		request = rig_request_new(fake.bdev);
		for (unsigned int round = 0; round < 100; round++) {
			fake.delayed = round % 2 != 0;
			random_round(request, &seed);
		}
		assert_int_equal(fake.misaligned, 0);
		free(request);
		stop();
	}
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_max_transfer),
		test(test_later_pieces_are_flushed),
		test(test_max_iovs),
		test(test_tiny_iovs),
		test(test_bounce),
		test(test_bounce_in_pieces),
		test(test_error_in_piece),
		test(test_many),
		test(test_fua),
		test(test_no_memory),
		test(test_random_shapes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
