/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-blk requests: taking chains of any layout apart, and what reaches the block device. */
/* links: vhost virtio bdev event testlib thread env */
#include "ticks.h"
#include "vhost/iov.h"
#include "vhost_blk_rig.h"

#define WCE_OFFSET 32

static void
negotiate(uint64_t features)
{
	controller.ops->set_features(controller.device, features);
}

static void
set_writeback(uint8_t value, int expected)
{
	assert_int_equal(controller.ops->set_config(controller.device, WCE_OFFSET, 1, &value),
			 expected);
}

/* What the next process is told. */
static bool
kept_writeback(void)
{
	json_t *config = controller.ops->config(controller.device);
	json_t *writeback = json_object_get(json_object_get(config, "params"), "writeback");
	bool value = json_is_true(writeback);

	assert_true(json_is_boolean(writeback));
	json_decref(config);
	return value;
}

static void
fill(uint8_t *data, size_t length, unsigned int seed)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (uint8_t)(i * 7 + i / 256 + seed);
}

/* ---- parsing ---- */

/* A slot whose buffers are the test's. */
static struct virtq_slot *
make_slot(const struct iovec *readable, uint32_t readable_count, const struct iovec *writable,
	  uint32_t writable_count)
{
	struct virtq_slot *slot = calloc(1, sizeof(*slot));

	assert_non_null(slot);
	assert_true(readable_count + writable_count <= VIRTQ_INLINE_IOVS);
	slot->iov = slot->inline_iov;
	slot->readable_count = readable_count;
	slot->writable_count = writable_count;
	for (uint32_t i = 0; i < readable_count; i++) {
		slot->iov[i] = readable[i];
		slot->readable_bytes += readable[i].iov_len;
	}
	for (uint32_t i = 0; i < writable_count; i++) {
		slot->iov[readable_count + i] = writable[i];
		slot->writable_bytes += writable[i].iov_len;
	}
	return slot;
}

static void
test_parse_usual_layout(void **state)
{
	struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = 77};
	uint8_t data[512], status = 0xff;
	struct iovec readable[] = {{&header, sizeof(header)}};
	struct iovec writable[] = {{data, sizeof(data)}, {&status, 1}};
	struct virtq_slot *slot = make_slot(readable, 1, writable, 2);
	struct vhost_blk_command command;

	(void)state;
	assert_int_equal(vhost_blk_parse(slot, &command), VHOST_BLK_PARSED);
	assert_int_equal(command.type, VIRTIO_BLK_T_IN);
	assert_int_equal(command.sector, 77);
	assert_ptr_equal(command.status, &status);
	assert_int_equal(command.in_count, 1);
	assert_int_equal(command.in_bytes, 512);
	assert_ptr_equal(command.in[0].iov_base, data);
	assert_int_equal(command.in[0].iov_len, 512);
	assert_int_equal(command.out_count, 0);
	assert_int_equal(command.out_bytes, 0);
	free(slot);
}

/* Header, data and status in one buffer of each direction. */
static void
test_parse_merged(void **state)
{
	uint8_t out[16 + 100], in[200];
	struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = 5};
	struct iovec readable[] = {{out, sizeof(out)}};
	struct iovec writable[] = {{in, sizeof(in)}};
	struct virtq_slot *slot = make_slot(readable, 1, writable, 1);
	struct vhost_blk_command command;

	(void)state;
	memcpy(out, &header, sizeof(header));
	assert_int_equal(vhost_blk_parse(slot, &command), VHOST_BLK_PARSED);
	assert_int_equal(command.type, VIRTIO_BLK_T_OUT);
	assert_ptr_equal(command.status, in + 199);
	assert_int_equal(command.out_count, 1);
	assert_int_equal(command.out_bytes, 100);
	assert_ptr_equal(command.out[0].iov_base, out + 16);
	assert_int_equal(command.out[0].iov_len, 100);
	assert_int_equal(command.in_bytes, 199);
	assert_int_equal(command.in[0].iov_len, 199);
	free(slot);
}

/* Each way to cut 16 bytes of header and 8 bytes of data into three buffers. */
static void
test_parse_split_everywhere(void **state)
{
	(void)state;
	for (uint32_t first = 1; first < 23; first++) {
		for (uint32_t second = first + 1; second < 24; second++) {
			struct virtio_blk_outhdr header = {.type = 0xabcd,
							   .sector = 0x1122334455ULL};
			uint8_t bytes[24], status, copy[8];
			struct iovec readable[] = {{bytes, first},
						   {bytes + first, second - first},
						   {bytes + second, 24 - second}};
			struct iovec writable[] = {{&status, 1}};
			struct virtq_slot *slot = make_slot(readable, 3, writable, 1);
			struct vhost_blk_command command;

			memcpy(bytes, &header, sizeof(header));
			fill(bytes + 16, 8, first);
			assert_int_equal(vhost_blk_parse(slot, &command), VHOST_BLK_PARSED);
			assert_int_equal(command.type, 0xabcd);
			assert_int_equal(command.sector, 0x1122334455ULL);
			assert_int_equal(command.out_bytes, 8);
			assert_int_equal(command.in_count, 0);
			assert_true(vhost_iov_take(&command.out, &command.out_count, copy, 8));
			assert_memory_equal(copy, bytes + 16, 8);
			assert_int_equal(command.out_count, 0);
			assert_false(vhost_iov_take(&command.out, &command.out_count, copy, 1));
			free(slot);
		}
	}
}

static void
test_parse_too_little(void **state)
{
	uint8_t bytes[15] = {0}, status;
	struct iovec readable[] = {{bytes, sizeof(bytes)}};
	struct iovec writable[] = {{&status, 1}};
	struct virtq_slot *slot = make_slot(readable, 1, writable, 1);
	struct vhost_blk_command command = {0};

	(void)state;
	assert_int_equal(vhost_blk_parse(slot, &command), VHOST_BLK_NO_HEADER);
	assert_ptr_equal(command.status, &status);
	free(slot);
	slot = make_slot(NULL, 0, writable, 1);
	assert_int_equal(vhost_blk_parse(slot, &command), VHOST_BLK_NO_HEADER);
	free(slot);
	slot = make_slot(readable, 1, NULL, 0);
	assert_int_equal(vhost_blk_parse(slot, &command), VHOST_BLK_NO_STATUS);
	free(slot);
}

static void
test_status(void **state)
{
	(void)state;
	assert_int_equal(vhost_blk_status(0), VIRTIO_BLK_S_OK);
	assert_int_equal(vhost_blk_status(-EOPNOTSUPP), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(vhost_blk_status(-EIO), VIRTIO_BLK_S_IOERR);
	assert_int_equal(vhost_blk_status(-ENOSPC), VIRTIO_BLK_S_IOERR);
	assert_int_equal(vhost_blk_status(-EINVAL), VIRTIO_BLK_S_IOERR);
}

/* ---- requests ---- */

/* A request with data in one buffer; returns the status byte, *used is the used length. */
static uint8_t
request(uint32_t type, uint64_t sector, void *data, uint32_t length, bool data_writable,
	uint32_t *used)
{
	uint8_t *status = guest_alloc(1);
	struct segment segments[3] = {{make_header(type, sector), 16, false}};
	unsigned int count = 1;
	uint32_t used_len;

	*status = 0xff;
	if (length > 0)
		segments[count++] = (struct segment){data, length, data_writable};
	segments[count++] = (struct segment){status, 1, true};
	used_len = execute(segments, count);
	if (used != NULL)
		*used = used_len;
	return *status;
}

static void
test_write_and_read(void **state)
{
	uint8_t *out, *in;
	uint32_t used;

	(void)state;
	start();
	out = guest_alloc(4096);
	in = guest_alloc(4096);
	fill(out, 4096, 1);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 8, out, 4096, false, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	assert_memory_equal(fake.memory + 8 * 512, out, 4096);
	assert_int_equal(request(VIRTIO_BLK_T_IN, 8, in, 4096, true, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 4097);
	assert_memory_equal(in, out, 4096);
	stop();
}

static void
expect_error(uint32_t type, uint64_t sector, uint32_t length, bool data_writable)
{
	uint32_t used;

	assert_int_equal(
		request(type, sector, guest.memory + GUEST_SIZE / 2, length, data_writable, &used),
		VIRTIO_BLK_S_IOERR);
	assert_int_equal(used, 1);
	assert_null(virtq_broken(guest.queue.setup.vq));
}

static void
test_bad_ranges(void **state)
{
	(void)state;
	start();
	expect_error(VIRTIO_BLK_T_IN, FAKE_BLOCKS, 512, true);
	expect_error(VIRTIO_BLK_T_IN, FAKE_BLOCKS - 1, 1024, true);
	expect_error(VIRTIO_BLK_T_OUT, FAKE_BLOCKS, 512, false);
	expect_error(VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false);
	expect_error(VIRTIO_BLK_T_IN, 1ULL << 55, 512, true);
	expect_error(VIRTIO_BLK_T_IN, UINT64_MAX / 512, 1024, true);
	expect_error(VIRTIO_BLK_T_IN, 0, 100, true);
	expect_error(VIRTIO_BLK_T_OUT, 0, 513, false);
	/* Nothing to read or write, or in the wrong direction. */
	expect_error(VIRTIO_BLK_T_IN, 0, 0, true);
	expect_error(VIRTIO_BLK_T_OUT, 0, 0, false);
	expect_error(VIRTIO_BLK_T_IN, 0, 512, false);
	expect_error(VIRTIO_BLK_T_OUT, 0, 512, true);
	assert_int_equal(fake.logged, 0);
	stop();
}

static void
test_unknown_types(void **state)
{
	static const uint32_t types[] = {2, 3, 5, 7, 9, 12, 14, 15, 16, 0x80000001, UINT32_MAX};

	(void)state;
	start();
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		uint32_t used;

		assert_int_equal(request(types[i], 0, guest_alloc(512), 512, true, &used),
				 VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(used, 1);
	}
	assert_int_equal(fake.logged, 0);
	stop();
}

static void
test_get_id(void **state)
{
	uint8_t *id;
	uint32_t used;

	(void)state;
	start();
	id = guest_alloc(64);
	memset(id, 'x', 64);
	assert_int_equal(request(VIRTIO_BLK_T_GET_ID, 0, id, 20, true, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 21);
	assert_memory_equal(id, "disk-with-a-long-namx", 20);
	assert_int_equal(id[20], 'x');
	/* A shorter and a longer buffer. */
	memset(id, 'x', 64);
	assert_int_equal(request(VIRTIO_BLK_T_GET_ID, 0, id, 4, true, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 5);
	assert_memory_equal(id, "diskx", 5);
	assert_int_equal(request(VIRTIO_BLK_T_GET_ID, 0, id, 40, true, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 21);
	stop();
}

/* Errors keep apart what the driver can know. */
static void
test_device_errors(void **state)
{
	uint8_t *data;
	uint32_t used;

	(void)state;
	start();
	data = guest_alloc(512);
	fake.fail_at = 1;
	fake.fail_status = -ENOSPC;
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, data, 512, false, &used), VIRTIO_BLK_S_IOERR);
	assert_int_equal(used, 1);
	fake.fail_at = 1;
	fake.fail_status = -EOPNOTSUPP;
	assert_int_equal(request(VIRTIO_BLK_T_IN, 0, data, 512, true, &used), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(used, 1);
	stop();
}

/*
 * The header is too short: the status byte says so. No status byte: the queue breaks, no slot is
 * lost.
 */
static void
test_broken_requests(void **state)
{
	uint8_t *status;
	struct segment segments[2];

	(void)state;
	start();
	status = guest_alloc(1);
	*status = 0xff;
	segments[0] = (struct segment){make_header(VIRTIO_BLK_T_FLUSH, 0), 12, false};
	segments[1] = (struct segment){status, 1, true};
	assert_int_equal(execute(segments, 2), 1);
	assert_int_equal(*status, VIRTIO_BLK_S_IOERR);
	segments[0].length = 16;
	assert_int_equal(execute(segments, 1), 0);
	assert_string_equal(virtq_broken(guest.queue.setup.vq), "request without a status byte");
	assert_int_equal(virtq_in_flight(guest.queue.setup.vq), 0);
	stop();
}

/* ---- durability ---- */

/* What one write makes the device do. */
static void
expect_write(bool flushed)
{
	fake.logged = 0;
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, guest.memory, 512, false, NULL),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(fake.log[0].type, BDEV_WRITE);
	assert_int_equal(fake.logged, flushed ? 2 : 1);
	if (flushed)
		assert_int_equal(fake.log[1].type, BDEV_FLUSH);
}

static void
test_write_through(void **state)
{
	const uint64_t flush = 1ULL << VIRTIO_BLK_F_FLUSH, wce = 1ULL << VIRTIO_BLK_F_CONFIG_WCE;

	(void)state;
	start();
	/* A driver that knows nothing of caches has none. */
	negotiate(0);
	expect_write(true);
	set_writeback(0, -EINVAL);
	negotiate(flush);
	expect_write(false);
	set_writeback(0, -EINVAL);
	negotiate(flush | wce);
	expect_write(false);
	set_writeback(0, 0);
	expect_write(true);
	set_writeback(2, -EINVAL);
	expect_write(true);
	set_writeback(1, 0);
	expect_write(false);
	/* virtio 1.2 §5.2.5: who cannot flush begins with write-through. */
	negotiate(wce);
	expect_write(true);
	set_writeback(1, 0);
	expect_write(false);
	stop();
}

/* A driver that has chosen write-through sends no flushes, also when its front-end comes back. */
static void
test_write_through_outlives_session(void **state)
{
	const uint64_t flush = 1ULL << VIRTIO_BLK_F_FLUSH, wce = 1ULL << VIRTIO_BLK_F_CONFIG_WCE;

	(void)state;
	start();
	negotiate(flush | wce);
	assert_true(kept_writeback());
	saves = 0;
	set_writeback(0, 0);
	assert_int_equal(saves, 1);
	for (int i = 0; i < 3; i++) {
		negotiate(0);
		negotiate(flush | wce);
		expect_write(true);
		set_writeback(0, 0);
		assert_false(kept_writeback());
	}
	assert_int_equal(saves, 1);
	set_writeback(1, 0);
	assert_int_equal(saves, 2);
	assert_true(kept_writeback());
	negotiate(0);
	negotiate(flush | wce);
	expect_write(false);
	stop();
}

/* Each save is a write to the disk: their number is bounded, and write-through is never forgotten. */
static void
test_changes_of_cache_are_bounded(void **state)
{
	const uint64_t flush = 1ULL << VIRTIO_BLK_F_FLUSH, wce = 1ULL << VIRTIO_BLK_F_CONFIG_WCE;
	unsigned int on = 0;

	(void)state;
	start();
	for (int session = 0; session < 2; session++) {
		negotiate(0);
		negotiate(flush | wce);
		for (int i = 0; i < 1000; i++) {
			saves = 0;
			set_writeback(0, 0);
			assert_int_equal(saves, 1);
			saves = 0;
			set_writeback(1, 0);
			on += saves;
		}
		assert_in_range(on, (session + 1) * 1, (session + 1) * 16);
	}
	expect_write(false);
	stop();
}

/* ... but one that cannot flush has chosen nothing for the next one. */
static void
test_write_through_of_driver_without_flush(void **state)
{
	const uint64_t flush = 1ULL << VIRTIO_BLK_F_FLUSH, wce = 1ULL << VIRTIO_BLK_F_CONFIG_WCE;

	(void)state;
	start();
	for (int i = 0; i < 2; i++) {
		negotiate(wce);
		negotiate(wce);
		expect_write(true);
		assert_true(kept_writeback());
		negotiate(0);
		negotiate(flush | wce);
		expect_write(false);
	}
	set_writeback(0, 0);
	negotiate(wce);
	expect_write(true);
	negotiate(flush | wce);
	expect_write(true);
	negotiate(wce);
	set_writeback(1, 0);
	expect_write(false);
	/* Whether its front-end, or another driver, comes next is not known. */
	negotiate(0);
	negotiate(wce);
	expect_write(true);
	stop();
}

static void
test_flush(void **state)
{
	uint32_t used;

	(void)state;
	start();
	assert_int_equal(request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0, false, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	assert_int_equal(fake.logged, 1);
	assert_int_equal(fake.log[0].type, BDEV_FLUSH);
	stop();
}

/* ---- ranges ---- */

static uint8_t
request_ranges(uint32_t type, const struct virtio_blk_discard_write_zeroes *ranges, uint32_t bytes)
{
	void *copy = guest_alloc(bytes);
	uint32_t used;
	uint8_t status;

	memcpy(copy, ranges, bytes);
	status = request(type, 0, copy, bytes, false, &used);
	assert_int_equal(used, 1);
	return status;
}

static void
test_discard(void **state)
{
	struct virtio_blk_discard_write_zeroes ranges[17] = {{.sector = 8, .num_sectors = 16},
							     {.sector = 100, .num_sectors = 1}};

	(void)state;
	start();
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 32), VIRTIO_BLK_S_OK);
	assert_int_equal(fake.logged, 2);
	assert_int_equal(fake.log[0].type, BDEV_DISCARD);
	assert_int_equal(fake.log[0].offset, 8 * 512);
	assert_int_equal(fake.log[0].length, 16 * 512);
	assert_int_equal(fake.log[1].offset, 100 * 512);
	assert_int_equal(fake.log[1].length, 512);
	fake.logged = 0;
	/* Too many, none, half of one. */
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 17 * 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 8), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 24), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_DISCARD, 0, NULL, 0, false, NULL),
			 VIRTIO_BLK_S_IOERR);
	/* Flags, also of the second. */
	ranges[0].flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 16), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(fake.logged, 0);
	ranges[0].flags = 0;
	ranges[1].flags = 2;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 32), VIRTIO_BLK_S_UNSUPP);
	/* Outside the disk. */
	ranges[0].sector = FAKE_BLOCKS;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 16), VIRTIO_BLK_S_IOERR);
	ranges[0].sector = UINT64_MAX;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 16), VIRTIO_BLK_S_IOERR);
	ranges[0] = (struct virtio_blk_discard_write_zeroes){.num_sectors = UINT32_MAX};
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, ranges, 16), VIRTIO_BLK_S_IOERR);
	stop();
}

/* Ranges are done one after the other, and an error ends the request. */
static void
test_ranges_in_order(void **state)
{
	struct virtio_blk_discard_write_zeroes ranges[3] = {{.num_sectors = 1},
							    {.sector = 1, .num_sectors = 1},
							    {.sector = 2, .num_sectors = 1}};
	uint8_t *status;
	struct segment segments[3];

	(void)state;
	start();
	negotiate(1ULL << VIRTIO_BLK_F_FLUSH);
	fake.delayed = true;
	status = guest_alloc(1);
	*status = 0xff;
	segments[0] = (struct segment){make_header(VIRTIO_BLK_T_WRITE_ZEROES, 0), 16, false};
	segments[1] = (struct segment){guest_alloc(sizeof(ranges)), sizeof(ranges), false};
	segments[2] = (struct segment){status, 1, true};
	memcpy(segments[1].data, ranges, sizeof(ranges));
	offer(segments, 3);
	serve();
	assert_int_equal(fake.logged, 1);
	assert_true(fake_complete_one(rig_io[1]));
	assert_int_equal(fake.logged, 2);
	assert_int_equal(fake.log[1].offset, 512);
	assert_int_equal(*status, 0xff);
	fake.fail_at = 1;
	fake.fail_status = -EIO;
	assert_true(fake_complete_one(rig_io[1]));
	serve();
	assert_int_equal(take_used(), 1);
	assert_int_equal(*status, VIRTIO_BLK_S_IOERR);
	assert_int_equal(fake.logged, 2);
	stop();
}

static void
test_write_zeroes(void **state)
{
	struct virtio_blk_discard_write_zeroes range = {.sector = 3, .num_sectors = 2};

	(void)state;
	start();
	negotiate(1ULL << VIRTIO_BLK_F_FLUSH);
	memset(fake.memory, 0xff, 16 * 512);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(fake.memory[3 * 512 - 1], 0xff);
	assert_int_equal(fake.memory[3 * 512], 0);
	assert_int_equal(fake.memory[5 * 512 - 1], 0);
	assert_int_equal(fake.memory[5 * 512], 0xff);
	assert_int_equal(fake.log[0].flags & BDEV_UNMAP, 0);
	range.flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	fake.logged = 0;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_OK);
	assert_true(fake.log[0].flags & BDEV_UNMAP);
	range.flags = 2;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16),
			 VIRTIO_BLK_S_UNSUPP);
	/* Durable for a driver without a cache. */
	negotiate(0);
	range.flags = 0;
	fake.logged = 0;
	assert_int_equal(request_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(fake.log[fake.logged - 1].type, BDEV_FLUSH);
	stop();
}

/* ---- kinds of disks ---- */

static void
test_read_only(void **state)
{
	struct bdev_info info = fake_info("disk-with-a-long-name");
	struct virtio_blk_discard_write_zeroes range = {.num_sectors = 1};

	(void)state;
	info.read_only = true;
	start_as(&info, true);
	assert_int_equal(controller.ops->features(controller.device) &
				 (1ULL << VIRTIO_BLK_F_RO | 1ULL << VIRTIO_BLK_F_DISCARD |
				  1ULL << VIRTIO_BLK_F_WRITE_ZEROES),
			 1ULL << VIRTIO_BLK_F_RO);
	expect_error(VIRTIO_BLK_T_OUT, 0, 512, false);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, &range, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(
		request(VIRTIO_BLK_T_IN, 0, guest.memory + GUEST_SIZE / 2, 512, true, NULL),
		VIRTIO_BLK_S_OK);
	stop();
}

static void
test_without_discard(void **state)
{
	struct bdev_info info = fake_info("disk-with-a-long-name");
	struct virtio_blk_discard_write_zeroes range = {.num_sectors = 1};
	struct virtio_blk_config config;

	(void)state;
	info.io_types &= ~(1u << BDEV_DISCARD | 1u << BDEV_WRITE_ZEROES);
	start_as(&info, false);
	assert_int_equal(controller.ops->features(controller.device) &
				 (1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES),
			 0);
	controller.ops->get_config(controller.device, (uint8_t *)&config);
	assert_int_equal(config.max_discard_sectors, 0);
	assert_int_equal(config.max_write_zeroes_sectors, 0);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_DISCARD, &range, 16), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16),
			 VIRTIO_BLK_S_UNSUPP);
	stop();
}

static void
test_config(void **state)
{
	struct bdev_info info = fake_info("disk-with-a-long-name");
	struct virtio_blk_config config;

	(void)state;
	info.physical_block_size = 4096;
	info.discard_granularity = 8192;
	info.max_discard_bytes = 65536;
	start_as(&info, false);
	controller.ops->get_config(controller.device, (uint8_t *)&config);
	assert_int_equal(config.capacity, FAKE_BLOCKS);
	assert_int_equal(config.blk_size, 512);
	assert_int_equal(config.physical_block_exp, 3);
	assert_int_equal(config.min_io_size, 8);
	assert_int_equal(config.seg_max, 126);
	assert_int_equal(config.wce, 1);
	assert_int_equal(config.num_queues, VHOST_MAX_QUEUES);
	assert_int_equal(config.max_discard_sectors, 128);
	assert_int_equal(config.discard_sector_alignment, 16);
	assert_true(config.max_discard_seg >= 1);
	assert_true(config.max_write_zeroes_sectors > 0);
	assert_int_equal(config.write_zeroes_may_unmap, 1);
	stop();
}

static void
test_resize(void **state)
{
	struct virtio_blk_config config;

	(void)state;
	start();
	thread_set_current(rig_app);
	assert_int_equal(bdev_resize(fake.bdev, FAKE_BLOCKS / 2), 0);
	thread_set_current(NULL);
	rig_settle();
	assert_int_equal(config_changes, 1);
	controller.ops->get_config(controller.device, (uint8_t *)&config);
	assert_int_equal(config.capacity, FAKE_BLOCKS / 2);
	expect_error(VIRTIO_BLK_T_IN, FAKE_BLOCKS / 2, 512, true);
	stop();
}

static void
run_remove(void *arg)
{
	bdev_remove(arg);
}

/* A request that stays with the device. */
static uint8_t *
submit_delayed(void)
{
	struct segment segments[3] = {{make_header(VIRTIO_BLK_T_IN, 0), 16, false}};

	segments[1] = (struct segment){guest_alloc(512), 512, true};
	segments[2] = (struct segment){guest_alloc(1), 1, true};
	*(uint8_t *)segments[2].data = 0xff;
	fake.delayed = true;
	offer(segments, 3);
	serve();
	return segments[2].data;
}

/*
 * The device is pulled: requests fail from then on, also while another is still with the device, so
 * that a busy guest does not hold it up. When that one is done, every thread gives its channels
 * back, and the device can go.
 */
static void
test_remove(void **state)
{
	struct rig_call call = {.fn = run_remove};
	uint8_t *status;
	void *channel;

	(void)state;
	start();
	status = submit_delayed();
	call.arg = fake.bdev;
	assert_int_equal(coroutine_start(rig_app, "remove", rig_call_run, &call), 0);
	rig_settle();
	expect_error(VIRTIO_BLK_T_IN, 0, 512, true);
	assert_false(call.finished);
	/* The main thread's only one is back, the other's three are not. */
	assert_null(controller.threads.threads[0].channel);
	assert_non_null(controller.threads.threads[1].channel);
	assert_non_null(guest.queue.channel);
	assert_int_equal(fake.channels, 1);
	assert_true(fake_complete_one(rig_io[1]));
	ticks_advance_us(1000);
	rig_wait(&call.finished);
	assert_int_equal(*status, VIRTIO_BLK_S_OK);
	assert_null(guest.queue.channel);
	assert_int_equal(fake.destroyed, 1);
	serve();
	assert_int_equal(take_used(), 513);
	expect_error(VIRTIO_BLK_T_IN, 0, 512, true);
	assert_int_equal(request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0, false, NULL), VIRTIO_BLK_S_IOERR);
	/* A queue that starts now has no channel, and that is no error. */
	thread_set_current(rig_io[0]);
	assert_int_equal(controller.ops->channel_get(controller.device, "", &channel), 0);
	thread_set_current(NULL);
	assert_null(channel);
	guest_stop();
	destroy_device();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_usual_layout),
		cmocka_unit_test(test_parse_merged),
		cmocka_unit_test(test_parse_split_everywhere),
		cmocka_unit_test(test_parse_too_little),
		cmocka_unit_test(test_status),
		TEST(test_write_and_read),
		TEST(test_bad_ranges),
		TEST(test_unknown_types),
		TEST(test_get_id),
		TEST(test_device_errors),
		TEST(test_broken_requests),
		TEST(test_write_through),
		TEST(test_write_through_outlives_session),
		TEST(test_changes_of_cache_are_bounded),
		TEST(test_write_through_of_driver_without_flush),
		TEST(test_flush),
		TEST(test_discard),
		TEST(test_ranges_in_order),
		TEST(test_write_zeroes),
		TEST(test_read_only),
		TEST(test_without_discard),
		TEST(test_config),
		TEST(test_resize),
		TEST(test_remove),
	};

	return cmocka_run_group_tests_name("vhost_blk", tests, NULL, NULL);
}
