/* SPDX-License-Identifier: BSD-3-Clause */
/* SCSI commands that move or compare data, on one initiator and, where it matters, on two. */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include "scsi_rig.h"

#define BLOCKS 16

static uint8_t out[256 * FAKE_BLOCK];

static void
fill(uint8_t *bytes, size_t length, unsigned int seed)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(i * 7 + i / FAKE_BLOCK * 13 + seed);
}

/* ---- READ and WRITE ---- */

static struct iscsi_task *
make_write(int form, uint32_t lba, uint32_t bytes, int fua)
{
	if (form == 10)
		return scsi_cdb_write10(lba, bytes, FAKE_BLOCK, 0, 0, fua, 0, 0);
	if (form == 12)
		return scsi_cdb_write12(lba, bytes, FAKE_BLOCK, 0, 0, fua, 0, 0);
	return scsi_cdb_write16(lba, bytes, FAKE_BLOCK, 0, 0, fua, 0, 0);
}

static struct iscsi_task *
make_read(int form, uint32_t lba, uint32_t bytes)
{
	if (form == 6)
		return scsi_cdb_read6(lba, bytes, FAKE_BLOCK);
	if (form == 10)
		return scsi_cdb_read10(lba, bytes, FAKE_BLOCK, 0, 1, 0, 0, 0);
	if (form == 12)
		return scsi_cdb_read12(lba, bytes, FAKE_BLOCK, 0, 1, 0, 0, 0);
	return scsi_cdb_read16(lba, bytes, FAKE_BLOCK, 0, 1, 0, 0, 0);
}

static void
test_read_write(void **state)
{
	static const int forms[] = {10, 12, 16};
	const uint32_t bytes = BLOCKS * FAKE_BLOCK;

	(void)state;
	for (unsigned int i = 0; i < 3; i++) {
		uint32_t lba = 100 + 1000 * i;
		struct command *read;

		fill(out, bytes, i);
		expect_good(run(A, make_write(forms[i], lba, bytes, 0), out, bytes, 0));
		assert_int_equal(fake.log[fake.logged - 1].flags, 0);
		assert_memory_equal(fake.memory + lba * FAKE_BLOCK, out, bytes);
		read = run(B, make_read(forms[i], lba, bytes), NULL, 0, bytes);
		assert_int_equal(read->task->transferred_in, bytes);
		assert_memory_equal(read->in, out, bytes);
		expect_good(read);
		read = run(B, make_read(6, lba, bytes), NULL, 0, bytes);
		assert_memory_equal(read->in, out, bytes);
		expect_good(read);
	}
}

/* READ(6) and WRITE(6): 0 is 256 blocks. */
static void
test_256_blocks(void **state)
{
	static const uint8_t write_6[6] = {0x0a, 0, 0, 8, 0};
	struct command *read;

	(void)state;
	fill(out, sizeof(out), 3);
	expect_good(command_run(A, write_6, sizeof(write_6), out, sizeof(out), 0));
	assert_memory_equal(fake.memory + 8 * FAKE_BLOCK, out, sizeof(out));
	read = run(A, scsi_cdb_read6(8, 0, FAKE_BLOCK), NULL, 0, sizeof(out));
	assert_int_equal(read->task->transferred_in, sizeof(out));
	expect_good(read);
}

static void
test_fua(void **state)
{
	(void)state;
	expect_good(run(A, make_write(10, 0, FAKE_BLOCK, 1), out, FAKE_BLOCK, 0));
	assert_int_equal(fake.log[0].type, BDEV_WRITE);
	assert_int_equal(fake.log[0].flags, BDEV_FUA);
	assert_int_equal(fake.log[1].type, BDEV_FLUSH);
	fake.logged = 0;
	expect_good(run(A, scsi_cdb_read10(0, FAKE_BLOCK, FAKE_BLOCK, 0, 0, 1, 0, 0), NULL, 0,
			FAKE_BLOCK));
	assert_int_equal(fake.log[0].type, BDEV_FLUSH);
	assert_int_equal(fake.log[1].type, BDEV_READ);
}

static void
test_protection(void **state)
{
	(void)state;
	for (int bits = 1; bits < 8; bits++) {
		int bit = 5 + (bits > 1) + (bits > 3);

		expect_field(run(A, scsi_cdb_read10(0, 512, 512, bits, 0, 0, 0, 0), NULL, 0, 512),
			     true, 1, bit);
		expect_field(run(A, scsi_cdb_write16(0, 512, 512, bits, 0, 0, 0, 0), out, 512, 0),
			     true, 1, bit);
	}
	assert_int_equal(fake.logged, 0);
}

static void
test_ranges(void **state)
{
	static const struct {
		uint64_t lba;
		uint32_t blocks;
		bool good;
	} rows[] = {
		{0, 0, true},
		{FAKE_BLOCKS, 0, true},
		{FAKE_BLOCKS - 1, 1, true},
		{FAKE_BLOCKS, 1, false},
		{FAKE_BLOCKS - 1, 2, false},
		{FAKE_BLOCKS + 1, 0, false},
		{UINT64_MAX, 1, false},
		{UINT64_MAX, 0, false},
		{UINT64_MAX - 1, 4, false},
		{1, UINT32_MAX, false},
	};
	static const uint8_t opcodes[] = {0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (size_t j = 0; j < sizeof(opcodes); j++) {
			uint8_t cdb[16] = {opcodes[j]};
			struct command *command;
			unsigned int before = fake.logged;

			scsi_set_uint32(cdb + 2, (uint32_t)(rows[i].lba >> 32));
			scsi_set_uint32(cdb + 6, (uint32_t)rows[i].lba);
			scsi_set_uint32(cdb + 10, rows[i].blocks);
			command = command_run(A, cdb, sizeof(cdb), out, FAKE_BLOCK, FAKE_BLOCK);
			if (rows[i].good) {
				expect_good(command);
				continue;
			}
			expect_sense(command, SCSI_SENSE_ILLEGAL_REQUEST,
				     SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
			assert_int_equal(fake.logged, before);
		}
	}
}

/* Buffers that are too short: nothing is done; longer ones: what the CDB says. */
static void
test_lengths(void **state)
{
	struct command *command;

	(void)state;
	for (uint32_t length = 0; length < 1024; length += 73) {
		expect_overrun(run(A, make_write(10, 0, 1024, 0), out, length, 0));
		expect_overrun(run(A, make_read(10, 0, 1024), NULL, 0, length));
		expect_overrun(run(A, scsi_cdb_verify10(0, 1024, 0, 0, 1, 512), out, length, 0));
		expect_overrun(
			run(A, scsi_cdb_writeverify10(0, 1024, 512, 0, 0, 1, 0), out, length, 0));
		expect_overrun(
			run(A, scsi_cdb_orwrite(0, 1024, 512, 0, 0, 0, 0, 0), out, length, 0));
		expect_overrun(run(A, scsi_cdb_compareandwrite(0, 1024, 512, 0, 0, 0, 0, 0), out,
				   length, 0));
	}
	assert_int_equal(fake.logged, 0);
	fill(out, 2048, 1);
	command = run(A, make_write(10, 0, 1024, 0), out, 2048, 2048);
	assert_int_equal(command->task->transferred_out, 1024);
	expect_good(command);
	assert_memory_equal(fake.memory, out, 1024);
	assert_int_equal(fake.memory[1024], 0);
	command = run(A, make_read(16, 0, 1024), out, 2048, 2048);
	assert_int_equal(command->task->transferred_in, 1024);
	expect_good(command);
}

static void
test_errors(void **state)
{
	static const struct {
		int status, key, ascq;
	} rows[] = {
		{-EIO, SCSI_SENSE_MEDIUM_ERROR, 0x1100},
		{-ENODATA, SCSI_SENSE_MEDIUM_ERROR, 0x1100},
		{-EROFS, SCSI_SENSE_DATA_PROTECTION, 0x2700},
		{-ENOSPC, SCSI_SENSE_DATA_PROTECTION, 0x2707},
		{-ETIMEDOUT, SCSI_SENSE_COMMAND_ABORTED, 0x2e02},
		{-ENODEV, SCSI_SENSE_ILLEGAL_REQUEST, 0x2500},
	};
	struct command *command;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fake.fail_at = 1;
		fake.fail_status = rows[i].status;
		command = run(A, make_read(10, 0, 512), NULL, 0, 512);
		assert_int_equal(command->task->transferred_in, 0);
		expect_sense(command, rows[i].key, rows[i].ascq);
	}
	fake.fail_at = 1;
	fake.fail_status = -EIO;
	expect_sense(run(A, make_write(10, 0, 512, 0), out, 512, 0), SCSI_SENSE_MEDIUM_ERROR,
		     0x0c00);
	/* What could not be written of a cache was not read. */
	fake.fail_at = 1;
	expect_sense(run(A, scsi_cdb_synchronizecache10(0, 0, 0, 0), NULL, 0, 0),
		     SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
	fake.fail_at = 1;
	fake.fail_status = -ENOMEM;
	expect_status(run(A, make_read(10, 0, 512), NULL, 0, 512), SCSI_BUSY);
}

/* Where that block is; INT64_MIN: sense data that does not say. */
static void
expect_bad_block(struct command *command, int code, int64_t lba)
{
	const uint8_t *sense = command->task->sense;

	check_sense(command, SCSI_SENSE_MEDIUM_ERROR, code);
	assert_int_equal(sense[0], lba == INT64_MIN ? 0x70 : 0xf0);
	if (lba != INT64_MIN)
		assert_int_equal(scsi_get_uint32(sense + 3), lba);
	command_free(command);
}

/* SBC-3 §4.18.1: INFORMATION. Of several blocks a device does not say which one is bad. */
static void
test_bad_block(void **state)
{
	(void)state;
	fake.fail_status = -ENODATA;
	fake.fail_at = 1;
	expect_bad_block(run(A, make_read(10, 77, 512), NULL, 0, 512), 0x1100, 77);
	fake.fail_at = 1;
	expect_bad_block(run(A, make_read(16, 77, 1024), NULL, 0, 1024), 0x1100, INT64_MIN);
	fake.fail_at = 1;
	expect_bad_block(run(A, make_write(16, 78, 512, 0), out, 512, 0), 0x0c00, 78);
	fake.fail_at = 1;
	expect_bad_block(run(A, make_write(16, 78, 1024, 0), out, 1024, 0), 0x0c00, INT64_MIN);
	/* Of COMPARE AND WRITE both. */
	memset(fake.memory + 77 * FAKE_BLOCK, 0, FAKE_BLOCK);
	memset(out, 0, 1024);
	for (unsigned int i = 1; i <= 2; i++) {
		fake.fail_at = i;
		expect_bad_block(run(A, scsi_cdb_compareandwrite(77, 1024, 512, 0, 0, 0, 0, 0), out,
				     1024, 0),
				 i == 1 ? 0x1100 : 0x0c00, 77);
	}
	fake.fail_status = -ETIMEDOUT;
	fake.fail_at = 1;
	expect_sense(run(A, make_read(10, 77, 512), NULL, 0, 512), SCSI_SENSE_COMMAND_ABORTED,
		     0x2e02);
}

static void
test_caches(void **state)
{
	(void)state;
	expect_good(run(A, scsi_cdb_synchronizecache10(0, 0, 0, 1), NULL, 0, 0));
	expect_good(run(A, scsi_cdb_synchronizecache16(0, 0, 0, 0), NULL, 0, 0));
	assert_int_equal(fake.logged, 2);
	assert_int_equal(fake.log[1].type, BDEV_FLUSH);
	expect_good(run(A, scsi_cdb_prefetch10(0, 8, 0, 0), NULL, 0, 0));
	expect_good(run(A, scsi_cdb_prefetch16(0, 8, 1, 0), NULL, 0, 0));
	expect_good(run(A, scsi_cdb_preventallow(1), NULL, 0, 0));
	expect_good(run(A, scsi_cdb_startstopunit(0, 0, 0, 0, 0, 1), NULL, 0, 0));
	assert_int_equal(fake.logged, 2);
	expect_good(run(A, scsi_cdb_startstopunit(0, 0, 0, 0, 0, 0), NULL, 0, 0));
	assert_int_equal(fake.log[2].type, BDEV_FLUSH);
	expect_field(run(A, scsi_cdb_startstopunit(0, 0, 0, 0, 1, 0), NULL, 0, 0), true, 4, 1);
}

/* ---- VERIFY, WRITE AND VERIFY ---- */

/* libiscsi knows one bit of BYTCHK. */
static struct iscsi_task *
make_verify(uint32_t lba, uint32_t bytes, uint8_t bytchk)
{
	struct iscsi_task *made = scsi_cdb_verify10(lba, bytes, 0, 0, 0, FAKE_BLOCK);

	made->cdb[1] = (uint8_t)(bytchk << 1);
	return made;
}

static void
test_verify(void **state)
{
	const uint32_t bytes = BLOCKS * FAKE_BLOCK;
	struct command *command;

	(void)state;
	fill(out, bytes, 5);
	memcpy(fake.memory + 40 * FAKE_BLOCK, out, bytes);
	expect_good(run(A, scsi_cdb_verify10(40, bytes, 0, 0, 1, 512), out, bytes, 0));
	expect_good(run(A, scsi_cdb_verify12(40, bytes, 0, 0, 1, 512), out, bytes, 0));
	expect_good(run(A, scsi_cdb_verify16(40, bytes, 0, 0, 0, 512), NULL, 0, 0));
	out[9 * FAKE_BLOCK + 17] ^= 1;
	command = run(A, scsi_cdb_verify16(40, bytes, 0, 0, 1, 512), out, bytes, 0);
	assert_int_equal(command->task->sense[0], 0xf0); /* information is valid */
	assert_int_equal(command->task->sense[6], 49);
	expect_sense(command, SCSI_SENSE_MISCOMPARE, SCSI_SENSE_ASCQ_MISCOMPARE_DURING_VERIFY);
	expect_field(run(A, make_verify(40, bytes, 2), out, bytes, 0), true, 1, 2);
	/* One block for all. */
	for (int i = 1; i < BLOCKS; i++)
		memcpy(fake.memory + (40 + i) * FAKE_BLOCK, out, FAKE_BLOCK);
	expect_good(run(A, make_verify(40, bytes, 3), out, FAKE_BLOCK, 0));
	fake.memory[45 * FAKE_BLOCK] ^= 1;
	expect_sense(run(A, make_verify(40, bytes, 3), out, FAKE_BLOCK, 0), SCSI_SENSE_MISCOMPARE,
		     SCSI_SENSE_ASCQ_MISCOMPARE_DURING_VERIFY);
	fake.fail_at = 1;
	fake.fail_status = -ENODATA;
	expect_sense(run(A, scsi_cdb_verify10(0, bytes, 0, 0, 0, 512), NULL, 0, 0),
		     SCSI_SENSE_MEDIUM_ERROR, 0x1100);
}

/* More than one piece of memory. */
static void
test_verify_long(void **state)
{
	const uint32_t bytes = 2000 * FAKE_BLOCK;
	uint8_t *data = malloc(bytes);

	(void)state;
	fill(data, bytes, 9);
	memcpy(fake.memory, data, bytes);
	expect_good(run(A, scsi_cdb_verify10(0, bytes, 0, 0, 1, 512), data, bytes, 0));
	fake.memory[bytes - 1] ^= 1;
	expect_sense(run(A, scsi_cdb_verify10(0, bytes, 0, 0, 1, 512), data, bytes, 0),
		     SCSI_SENSE_MISCOMPARE, SCSI_SENSE_ASCQ_MISCOMPARE_DURING_VERIFY);
	expect_good(run(A, scsi_cdb_writeverify16(0, bytes, 512, 0, 0, 1, 0), data, bytes, 0));
	assert_memory_equal(fake.memory, data, bytes);
	free(data);
}

/* ---- WRITE SAME ---- */

static void
test_write_same(void **state)
{
	uint32_t many = 3000;

	(void)state;
	memset(fake.memory, 0xee, FAKE_SIZE);
	fill(out, FAKE_BLOCK, 2);
	expect_good(run(A, scsi_cdb_writesame10(0, 0, 0, 10, 0, (uint16_t)many, 512), out, 512, 0));
	for (uint32_t i = 0; i < many; i++)
		assert_memory_equal(fake.memory + (10 + i) * FAKE_BLOCK, out, FAKE_BLOCK);
	assert_int_equal(fake.memory[10 * FAKE_BLOCK - 1], 0xee);
	assert_int_equal(fake.memory[(10 + many) * FAKE_BLOCK], 0xee);
	memset(out, 0, FAKE_BLOCK);
	fake.logged = 0;
	expect_good(run(A, scsi_cdb_writesame16(0, 0, 1, 10, 0, many, 512), out, 512, 0));
	assert_int_equal(fake.logged, 1);
	assert_int_equal(fake.log[0].type, BDEV_WRITE_ZEROES);
	assert_int_equal(fake.log[0].flags, BDEV_UNMAP);
	/* 0 blocks are all up to the end. */
	fake.logged = 0;
	expect_good(run(A, scsi_cdb_writesame10(0, 0, 0, FAKE_BLOCKS - 3, 0, 0, 512), out, 512, 0));
	assert_int_equal(fake.log[0].offset, (FAKE_BLOCKS - 3) * FAKE_BLOCK);
	assert_int_equal(fake.log[0].length, 3 * FAKE_BLOCK);
	/* No data-out: NDOB. */
	fake.logged = 0;
	expect_good(run(A, scsi_cdb_writesame16(0, 0, 0, 10, 0, 5, 0), NULL, 0, 0));
	assert_int_equal(fake.log[0].type, BDEV_WRITE_ZEROES);
	assert_int_equal(fake.log[0].flags, 0);
}

static void
test_write_same_refused(void **state)
{
	uint32_t too_many = (256u << 20) / FAKE_BLOCK + 1;

	(void)state;
	expect_sense(run(A, scsi_cdb_writesame16(0, 0, 0, 0, 0, too_many, 512), out, 512, 0),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
	expect_field(run(A, scsi_cdb_writesame10(0, 1, 1, 0, 0, 1, 512), out, 512, 0), true, 1, 4);
	expect_sense(run(A, scsi_cdb_writesame16(0, 0, 0, FAKE_BLOCKS + 1, 0, 0, 512), out, 512, 0),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
	/* Data-out is one block, not less and not more. */
	for (uint32_t length = 0; length <= 2 * FAKE_BLOCK; length += 7)
		expect_field(run(A, scsi_cdb_writesame10(0, 0, 0, 0, 0, 1, 512), out, length, 0),
			     true, 7, -1);
	expect_field(run(A, scsi_cdb_writesame16(0, 0, 0, 0, 0, 1, 512), out, 1024, 0), true, 10,
		     -1);
	assert_int_equal(fake.logged, 0);
}

/* ---- UNMAP ---- */

static size_t
unmap_list(uint8_t *list, unsigned int count)
{
	size_t bytes = 16 * count;

	memset(list, 0, 8 + bytes);
	scsi_set_uint16(list, (uint16_t)(bytes + 6));
	scsi_set_uint16(list + 2, (uint16_t)bytes);
	for (unsigned int i = 0; i < count; i++) {
		scsi_set_uint32(list + 8 + 16 * i + 4, 10 * i);
		scsi_set_uint32(list + 8 + 16 * i + 8, 1 + i);
	}
	return 8 + bytes;
}

static void
test_unmap(void **state)
{
	static uint8_t list[65536];
	size_t length = unmap_list(list, 3);

	(void)state;
	expect_good(run(A, scsi_cdb_unmap(0, 0, (uint16_t)length), list, length, 0));
	assert_int_equal(fake.logged, 3);
	assert_int_equal(fake.log[2].type, BDEV_DISCARD);
	assert_int_equal(fake.log[2].offset, 20 * FAKE_BLOCK);
	assert_int_equal(fake.log[2].length, 3 * FAKE_BLOCK);
	expect_good(run(A, scsi_cdb_unmap(0, 0, 0), NULL, 0, 0));
	/* Each truncation: of the list, and of the buffer. */
	fake.logged = 0;
	for (size_t part = 1; part < length; part++) {
		expect_sense(run(A, scsi_cdb_unmap(0, 0, (uint16_t)part), list, part, 0),
			     SCSI_SENSE_ILLEGAL_REQUEST,
			     SCSI_SENSE_ASCQ_PARAMETER_LIST_LENGTH_ERROR);
		expect_overrun(run(A, scsi_cdb_unmap(0, 0, (uint16_t)length), list, part, 0));
	}
	/* The last of many is out of range: none counts. */
	length = unmap_list(list, 256);
	scsi_set_uint32(list + 8 + 16 * 255 + 4, FAKE_BLOCKS);
	expect_sense(run(A, scsi_cdb_unmap(0, 0, (uint16_t)length), list, length, 0),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
	length = unmap_list(list, 4095);
	expect_field(run(A, scsi_cdb_unmap(0, 0, (uint16_t)length), list, length, 0), false, 2, -1);
	expect_field(run(A, scsi_cdb_unmap(1, 0, 24), list, 24, 0), true, 1, 0);
	assert_int_equal(fake.logged, 0);
}

static void
test_lba_status(void **state)
{
	struct iscsi_task *made = scsi_cdb_get_lba_status(100, 64);
	struct scsi_get_lba_status *status = ask(A, made, 64);

	(void)state;
	assert_int_equal(status->num_descriptors, 1);
	assert_int_equal(status->descriptors[0].lba, 100);
	assert_int_equal(status->descriptors[0].num_blocks, FAKE_BLOCKS - 100);
	assert_int_equal(status->descriptors[0].provisioning, SCSI_PROVISIONING_TYPE_MAPPED);
	scsi_free_scsi_task(made);
	expect_sense(run(A, scsi_cdb_get_lba_status(FAKE_BLOCKS, 64), NULL, 0, 64),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
}

/* ---- COMPARE AND WRITE, ORWRITE ---- */

static void
test_compare_and_write(void **state)
{
	const uint32_t half = 4 * FAKE_BLOCK;
	struct command *command;

	(void)state;
	fill(out, 2 * half, 1);
	memcpy(fake.memory + 8 * FAKE_BLOCK, out, half);
	expect_good(run(A, scsi_cdb_compareandwrite(8, 2 * half, 512, 0, 0, 1, 0, 0), out, 2 * half,
			0));
	assert_memory_equal(fake.memory + 8 * FAKE_BLOCK, out + half, half);
	command =
		run(A, scsi_cdb_compareandwrite(8, 2 * half, 512, 0, 0, 0, 0, 0), out, 2 * half, 0);
	expect_sense(command, SCSI_SENSE_MISCOMPARE, SCSI_SENSE_ASCQ_MISCOMPARE_DURING_VERIFY);
	memcpy(fake.memory + 8 * FAKE_BLOCK, out, half);
	fake.memory[9 * FAKE_BLOCK + 3] ^= 0x80;
	fake.logged = 0;
	command =
		run(A, scsi_cdb_compareandwrite(8, 2 * half, 512, 0, 0, 0, 0, 0), out, 2 * half, 0);
	assert_int_equal(command->task->sense[5] << 8 | command->task->sense[6], FAKE_BLOCK + 3);
	expect_sense(command, SCSI_SENSE_MISCOMPARE, SCSI_SENSE_ASCQ_MISCOMPARE_DURING_VERIFY);
	assert_int_equal(fake.logged, 1); /* the read */
}

static void
test_orwrite(void **state)
{
	const uint32_t bytes = 600 * FAKE_BLOCK;
	uint8_t *data = malloc(bytes);

	(void)state;
	fill(data, bytes, 4);
	memset(fake.memory, 0x11, FAKE_SIZE);
	expect_good(run(A, scsi_cdb_orwrite(3, bytes, 512, 0, 0, 0, 0, 0), data, bytes, 0));
	for (uint32_t i = 0; i < bytes; i++)
		assert_int_equal(fake.memory[3 * FAKE_BLOCK + i], data[i] | 0x11);
	assert_int_equal(fake.memory[3 * FAKE_BLOCK + bytes], 0x11);
	free(data);
}

/*
 * While one compares and writes, writes of others to these blocks wait, those to other blocks do
 * not; and one that was under way is waited for.
 */
static void
test_exclusion(void **state)
{
	struct command *under_way, *compare, *inside, *elsewhere;

	(void)state;
	memset(out, 1, 2 * FAKE_BLOCK);
	fake.delayed = true;
	under_way = begin(B, make_write(10, 50, 512, 0), out, 512, 0);
	command_submit(B, under_way);
	memset(out + 4096, 1, FAKE_BLOCK);
	memset(out + 4096 + FAKE_BLOCK, 2, FAKE_BLOCK);
	compare = begin(A, scsi_cdb_compareandwrite(50, 1024, 512, 0, 0, 0, 0, 0), out + 4096, 1024,
			0);
	command_submit(A, compare);
	rig_settle();
	assert_int_equal(fake.logged, 1);
	inside = begin(B, make_write(10, 49, 1024, 0), out, 1024, 0);
	command_submit(B, inside);
	elsewhere = begin(B, make_write(10, 51, 512, 0), out, 512, 0);
	command_submit(B, elsewhere);
	rig_settle();
	assert_int_equal(fake.logged, 2);
	assert_int_equal(fake.log[1].offset, 51 * FAKE_BLOCK);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_true(under_way->finished);
	assert_int_equal(fake.logged, 3);
	assert_int_equal(fake.log[2].type, BDEV_READ);
	assert_true(fake_complete_one(rig_io[1])); /* elsewhere */
	assert_true(fake_complete_one(rig_io[0])); /* the read */
	rig_settle();
	assert_false(compare->finished);
	assert_int_equal(fake.logged, 4);
	assert_int_equal(fake.log[3].type, BDEV_WRITE);
	assert_true(fake_complete_one(rig_io[0]));
	assert_int_equal(fake.memory[50 * FAKE_BLOCK], 2);
	rig_settle();
	assert_int_equal(fake.logged, 5);
	assert_int_equal(fake.log[4].offset, 49 * FAKE_BLOCK);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	expect_good(compare);
	expect_good(inside);
	expect_good(under_way);
	expect_good(elsewhere);
	assert_int_equal(fake.memory[50 * FAKE_BLOCK], 1);
}

/* ---- WRITE ATOMIC ---- */

static struct iscsi_task *
make_atomic(uint64_t lba, uint32_t blocks)
{
	return scsi_cdb_writeatomic16(lba, blocks * FAKE_BLOCK, FAKE_BLOCK, 0, 0, 0, 0);
}

/* One request, which no reader sees a part of. */
static void
test_write_atomic(void **state)
{
	const uint32_t bytes = 200 * FAKE_BLOCK;
	struct command *under_way, *atomic, *inside, *elsewhere;

	(void)state;
	fill(out, bytes, 6);
	fake.delayed = true;
	under_way = begin(B, make_read(10, 10, 512), NULL, 0, 512);
	command_submit(B, under_way);
	atomic = begin(A, make_atomic(0, 200), out, bytes, 0);
	command_submit(A, atomic);
	rig_settle();
	assert_int_equal(fake.logged, 1);
	inside = begin(B, make_read(16, 199, 1024), NULL, 0, 1024);
	command_submit(B, inside);
	elsewhere = begin(B, make_read(12, 200, 512), NULL, 0, 512);
	command_submit(B, elsewhere);
	assert_int_equal(fake.logged, 2);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_int_equal(fake.logged, 3);
	assert_int_equal(fake.log[2].type, BDEV_WRITE);
	assert_int_equal(fake.log[2].length, bytes);
	assert_true(fake_complete_one(rig_io[1]));
	assert_true(fake_complete_one(rig_io[0]));
	rig_settle();
	assert_int_equal(fake.logged, 4);
	assert_true(fake_complete_one(rig_io[1]));
	rig_settle();
	assert_memory_equal(inside->in, out + 199 * FAKE_BLOCK, FAKE_BLOCK);
	expect_good(under_way);
	expect_good(atomic);
	expect_good(inside);
	expect_good(elsewhere);
}

static void
test_write_atomic_refused(void **state)
{
	uint32_t most = (1u << 20) / FAKE_BLOCK;
	struct iscsi_task *made = make_atomic(0, 8);

	(void)state;
	expect_field(run(A, make_atomic(0, most + 1), out, 0, 0), true, 12, -1);
	expect_overrun(run(A, make_atomic(0, most), out, 0, 0));
	expect_sense(run(A, make_atomic(FAKE_BLOCKS - 1, 2), out, 1024, 0),
		     SCSI_SENSE_ILLEGAL_REQUEST, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE);
	made->cdb[11] = 4; /* a boundary within */
	expect_field(run(A, made, out, 4096, 0), true, 11, 2);
	assert_int_equal(fake.logged, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(test_read_write),
		disk_test(test_256_blocks),
		disk_test(test_fua),
		disk_test(test_protection),
		disk_test(test_ranges),
		disk_test(test_lengths),
		disk_test(test_errors),
		disk_test(test_bad_block),
		disk_test(test_caches),
		disk_test(test_verify),
		disk_test(test_verify_long),
		disk_test(test_write_same),
		disk_test(test_write_same_refused),
		disk_test(test_unmap),
		disk_test(test_lba_status),
		disk_test(test_compare_and_write),
		disk_test(test_orwrite),
		disk_test(test_exclusion),
		disk_test(test_write_atomic),
		disk_test(test_write_atomic_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
