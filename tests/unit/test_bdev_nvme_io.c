/* SPDX-License-Identifier: BSD-3-Clause */
/* links: bdev thread env testlib */
/* What the requests of NVMe disks become, and their channels. */
#include "nvme_disk_rig.h"

/* ---- requests ---- */

static void
test_transfers(void **state)
{
	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an3");
	assert_int_equal(transfer(BDEV_WRITE, 0, 5 * 4096, data, 8192), 0);
	assert_int_equal(last_command()->opcode, nvme_cmd_write);
	assert_int_equal(last_command()->nsid, 3);
	assert_int_equal(last_command()->cdw10, 5);
	assert_int_equal(last_command()->cdw12, 1);
	assert_int_equal(transfer(BDEV_READ, BDEV_FUA, 5 * 4096, back, 8192), 0);
	assert_memory_equal(back, data, 8192);
	assert_int_equal(last_command()->cdw12, 1);
	assert_int_equal(transfer(BDEV_WRITE, BDEV_FUA, 0, data, 4096), 0);
	assert_int_equal(last_command()->cdw12, 1u << 30);
	assert_int_equal(transfer(BDEV_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(last_command()->opcode, nvme_cmd_flush);
	assert_int_equal(last_command()->nsid, 3);
	/* Longer than a command may be. */
	fake[0].logged = 0;
	close_disk();
	act(DETACH, "a");
	fake[0].info.max_transfer = 4096;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an3");
	assert_int_equal(transfer(BDEV_WRITE, 0, 0, data, 16384), 0);
	assert_int_equal(fake_count(&fake[0], nvme_cmd_write), 4);
	assert_int_equal(transfer(BDEV_READ, 0, 0, back, 16384), 0);
	assert_memory_equal(back, data, 16384);
	close_disk();
}

static void
test_errors_keep_their_meaning(void **state)
{
	static const int errors[] = {-EIO,    -ENODATA, -EILSEQ,   -EOPNOTSUPP,
				     -ENOSPC, -EROFS,   -ETIMEDOUT};

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	fake[0].fail_opcode = nvme_cmd_read;
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		fake[0].fail_rc = errors[i];
		assert_int_equal(transfer(BDEV_READ, 0, 0, back, 512), errors[i]);
	}
	assert_int_equal(transfer(BDEV_WRITE, 0, 0, data, 512), 0);
	close_disk();
}

static void
test_write_zeroes(void **state)
{
	(void)state;
	fake[0].ns[1].can_write_zeroes_unmap = false;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	memset(fake[0].memory[0], 0xee, 65536);
	assert_int_equal(transfer(BDEV_WRITE_ZEROES, 0, 512, NULL, 1024), 0);
	assert_int_equal(last_command()->opcode, nvme_cmd_write_zeroes);
	assert_int_equal(last_command()->cdw10, 1);
	assert_int_equal(last_command()->cdw12, 1);
	assert_int_equal(fake[0].memory[0][511], 0xee);
	assert_int_equal(fake[0].memory[0][512], 0);
	assert_int_equal(fake[0].memory[0][1535], 0);
	assert_int_equal(fake[0].memory[0][1536], 0xee);
	assert_int_equal(transfer(BDEV_WRITE_ZEROES, BDEV_UNMAP | BDEV_FUA, 0, NULL, 512), 0);
	assert_int_equal(last_command()->cdw12, 1u << 30 | 1u << 25);
	close_disk();
	/* Deallocated blocks of that one need not read as zeroes. */
	open_disk("an3");
	assert_int_equal(transfer(BDEV_WRITE_ZEROES, BDEV_UNMAP, 0, NULL, 4096), 0);
	assert_int_equal(last_command()->cdw12, 0);
	close_disk();
}

/* Nothing is sent to another namespace that has the number now. */
static void
test_replaced(void **state)
{
	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	assert_int_equal(transfer(BDEV_READ, 0, 0, data, 512), 0);
	fake[0].ns[0].nguid[3] ^= 1;
	fake_tell(&fake[0], NVME_EVENT_CHANGING);
	fake[0].logged = 0;
	assert_int_equal(transfer(BDEV_READ, 0, 0, data, 512), -ENODEV);
	assert_int_equal(transfer(BDEV_DISCARD, 0, 0, NULL, 4096), -ENODEV);
	assert_int_equal(transfer(BDEV_FLUSH, 0, 0, NULL, 0), -ENODEV);
	assert_int_equal(fake[0].logged, 0);
	/* It is another disk then, also when it is the old one again. */
	fake[0].ns[0].nguid[3] ^= 1;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	assert_int_equal(transfer(BDEV_READ, 0, 0, data, 512), -ENODEV);
	close_disk();
	UNTIL(find("an1") != NULL);
	open_disk("an1");
	assert_int_equal(transfer(BDEV_READ, 0, 0, data, 512), 0);
	close_disk();
}

/* What has been handed over, and waits for the device, neither. */
static void
test_replaced_while_it_waits(void **state)
{
	static const uint8_t types[] = {BDEV_READ, BDEV_WRITE, BDEV_FLUSH, BDEV_DISCARD,
					BDEV_WRITE_ZEROES};

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	for (size_t i = 0; i < sizeof(types); i++) {
		open_disk("an1");
		fake[0].held = true;
		rig_request_set(request, types[i], 0, data, types[i] == BDEV_FLUSH ? 0 : 512);
		rig_submit(channel, rig_io[0], request);
		rig_settle();
		assert_false(request->finished);
		fake[0].ns[0].nguid[3] ^= 1;
		fake_tell(&fake[0], NVME_EVENT_CHANGING);
		fake[0].logged = 0;
		fake[0].held = false;
		rig_wait(&request->finished);
		assert_int_equal(request->status, -ENODEV);
		assert_int_equal(fake[0].logged, 0);
		fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
		close_disk();
		UNTIL(find("an1") != NULL);
	}
}

static void
test_discard(void **state)
{
	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	assert_int_equal(transfer(BDEV_DISCARD, 0, 512, NULL, FAKE_BYTES - 512), 0);
	assert_int_equal(fake[0].range_count, 1);
	assert_int_equal(fake[0].ranges[0].slba, 1);
	assert_int_equal(fake[0].ranges[0].nlb, FAKE_BYTES / 512 - 1);
	close_disk();
}

/* Ranges of 100 blocks, at most 3 in a command. */
static void
test_discard_in_ranges(void **state)
{
	uint64_t next = 7, total = 0;

	(void)state;
	fake[0].info.max_dsm_blocks = 100;
	fake[0].info.max_dsm_ranges = 3;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	assert_int_equal(transfer(BDEV_DISCARD, 0, 7 * 512, NULL, 1010 * 512), 0);
	assert_int_equal(fake_count(&fake[0], nvme_cmd_dsm), 4);
	assert_int_equal(fake[0].range_count, 11);
	for (unsigned int i = 0; i < fake[0].range_count; i++) {
		assert_int_equal(fake[0].ranges[i].slba, next);
		next += fake[0].ranges[i].nlb;
		total += fake[0].ranges[i].nlb;
		assert_true(fake[0].ranges[i].nlb <= 100);
	}
	assert_int_equal(total, 1010);
	/* The first failure ends it. */
	fake[0].logged = 0;
	fake[0].fail_opcode = nvme_cmd_dsm;
	fake[0].fail_rc = -EIO;
	assert_int_equal(transfer(BDEV_DISCARD, 0, 0, NULL, 1010 * 512), -EIO);
	assert_int_equal(fake[0].logged, 1);
	close_disk();
}

static void
test_nothing_is_sent_before_the_flush(void **state)
{
	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	rig_request_set(request, BDEV_READ, 0, back, 512);
	thread_set_current(rig_io[0]);
	bdev_submit(channel, &request->rq);
	thread_set_current(NULL);
	rig_settle();
	assert_false(request->finished);
	thread_set_current(rig_io[0]);
	bdev_flush_submissions(channel);
	thread_set_current(NULL);
	rig_wait(&request->finished);
	close_disk();
}

/* ---- memory ---- */

struct mapping_call {
	bool unmap;
	void *addr;
	struct bdev_memory *memory;
	int rc;
};

static int
map_on_worker(void *arg)
{
	struct mapping_call *call = arg;

	if (call->unmap)
		bdev_memory_unmap(call->memory);
	else
		call->rc = bdev_memory_map(desc, call->addr, 4096, -1, 0, &call->memory, &rig_err);
	return 0;
}

static void
map_run(void *arg)
{
	coroutine_blocking(map_on_worker, arg);
}

static void
test_memory(void **state)
{
	struct mapping_call call = {.addr = aligned_alloc(4096, 4096)};
	struct dma_stats stats;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	rig_run(map_run, &call);
	assert_int_equal(call.rc, 0);
	dma_space_stats(fake[0].dma, &stats);
	assert_int_equal(stats.bytes, 4096);
	call.unmap = true;
	rig_run(map_run, &call);
	dma_space_stats(fake[0].dma, &stats);
	assert_int_equal(stats.bytes, 0);
	free(call.addr);
	close_disk();
}

/* ---- channels ---- */

static void
test_one_queue_pair_for_all_namespaces(void **state)
{
	struct bdev_desc *other;
	struct bdev_channel *other_channel;

	(void)state;
	fake[0].max_qpairs = 1;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	other = rig_open("an3", true);
	other_channel = rig_channel(other, rig_io[0]);
	assert_int_equal(fake[0].qpairs[0].refs, 2);
	/* The second thread gets none. */
	thread_set_current(rig_io[1]);
	assert_null(bdev_channel_get(other));
	assert_int_equal(errno, ENOSPC);
	thread_set_current(NULL);
	rig_channel_put(other_channel, rig_io[0]);
	rig_close(other);
	close_disk();
	/* Now it does. */
	desc = rig_open("an1", true);
	channel = rig_channel(desc, rig_io[1]);
	rig_channel_put(channel, rig_io[1]);
	rig_close(desc);
	rig_settle();
}

/* ---- RESET ---- */

static void
test_reset(void **state)
{
	struct rig_request *reset;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	reset = rig_request_new(find("an1"));
	fake[0].held = true;
	rig_request_set(request, BDEV_READ, 0, back, 512);
	rig_submit(channel, rig_io[0], request);
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	rig_submit(channel, rig_io[0], reset);
	UNTIL(fake[0].resets == 1);
	rig_settle();
	/* What was sent again has not ended. */
	assert_false(reset->finished);
	fake[0].held = false;
	rig_wait(&reset->finished);
	assert_true(request->finished);
	assert_int_equal(reset->status, 0);
	fake[0].reset_rc = -ETIMEDOUT;
	rig_request_set(reset, BDEV_RESET, 0, NULL, 0);
	assert_int_equal(rig_do(channel, rig_io[0], reset), -EIO);
	free(reset);
	close_disk();
}

static void
test_two_resets_at_once(void **state)
{
	struct rig_request *resets[2];
	struct bdev_channel *other;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	other = rig_channel(desc, rig_io[1]);
	fake[0].reset_us = 1000;
	for (int i = 0; i < 2; i++) {
		resets[i] = rig_request_new(find("an1"));
		rig_request_set(resets[i], BDEV_RESET, 0, NULL, 0);
	}
	rig_submit(channel, rig_io[0], resets[0]);
	rig_submit(other, rig_io[1], resets[1]);
	for (int i = 0; i < 2; i++) {
		rig_wait(&resets[i]->finished);
		assert_int_equal(resets[i]->status, 0);
		free(resets[i]);
	}
	rig_channel_put(other, rig_io[1]);
	close_disk();
}

/* Its users are told at once; the controller stays until the reset has an end. */
static void
test_detach_during_reset(void **state)
{
	struct call detach = {.what = DETACH, .name = "a"};
	struct call reset = {.what = RESET, .name = "a"};

	(void)state;
	fake[0].reset_us = 20000;
	assert_int_equal(attach("a", 0), 0);
	begin(&reset);
	UNTIL(fake[0].resets == 1);
	begin(&detach);
	UNTIL(find("an1") == NULL);
	rig_wait(&detach.finished);
	assert_int_equal(detach.rc, 0);
	assert_true(reset.finished);
	assert_int_equal(reset.rc, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_transfers),
		TEST(test_errors_keep_their_meaning),
		TEST(test_write_zeroes),
		TEST(test_replaced),
		TEST(test_replaced_while_it_waits),
		TEST(test_discard),
		TEST(test_discard_in_ranges),
		TEST(test_nothing_is_sent_before_the_flush),
		TEST(test_memory),
		TEST(test_one_queue_pair_for_all_namespaces),
		TEST(test_reset),
		TEST(test_two_resets_at_once),
		TEST(test_detach_during_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
