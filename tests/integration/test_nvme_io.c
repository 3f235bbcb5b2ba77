/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests through the NVMe driver to the software device: data is where it belongs, whatever the
 * iovecs, the depth, and the faults of the device; and each request ends once.
 */
/* links: nvme thread env testlib */
#include "nvme_ctrlr_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define BLOCK       512u
#define BLOCKS      16384u /* of namespace 1 */
#define LANES       64u    /* requests at a time, each on blocks of its own */
#define LANE_BLOCKS (BLOCKS / LANES)
#define LANE_BYTES  (LANE_BLOCKS * BLOCK)
#define MAX_BYTES   LANE_BYTES /* 128 KiB: the device's MDTS */
#define MAX_IOVS    8u
#define SPACE       4096u /* around each lane's buffer, for iovecs that are not aligned */
#define BUFFER      (MAX_BYTES + SPACE)

struct lane {
	struct nvme_request request;
	struct iovec iov[MAX_IOVS];
	uint8_t *buffer;
	uint8_t *content; /* what the device has */
	uint32_t first;   /* block in the lane */
	uint32_t blocks;
	bool busy;
	int rc;
};

static struct {
	struct lane lanes[LANES];
	struct nvme_qpair *qpair;
	uint8_t *mapped, *unmapped;
	uint8_t *content;
	uint32_t busy, done, failed;
	uint32_t left; /* requests to begin */
	uint32_t depth;
	uint64_t seed;
} load;

static uint32_t
below(uint32_t end)
{
	load.seed ^= load.seed << 13;
	load.seed ^= load.seed >> 7;
	load.seed ^= load.seed << 17;
	return (uint32_t)(load.seed >> 32) % end;
}

/* ---- memory ---- */

static void
map_memory(void)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	struct errmsg err;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, LANES * BUFFER), 0);
	load.mapped = mmap(NULL, LANES * BUFFER, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(load.mapped != MAP_FAILED);
	assert_int_equal(
		dma_map(nvme_dma_space(rig.ctrlr), load.mapped, LANES * BUFFER, fd, 0, &err), 0);
	close(fd);
	load.unmapped = malloc(LANES * BUFFER);
	load.content = calloc(LANES, LANE_BYTES);
	assert_non_null(load.unmapped);
	assert_non_null(load.content);
	for (uint32_t i = 0; i < LANES; i++)
		load.lanes[i].content = load.content + (size_t)i * LANE_BYTES;
}

static void
unmap_memory(void)
{
	dma_unmap(nvme_dma_space(rig.ctrlr), load.mapped, LANES * BUFFER);
	munmap(load.mapped, LANES * BUFFER);
	free(load.unmapped);
	free(load.content);
}

#define ON_IO(...)                                                                                 \
	do {                                                                                       \
		thread_set_current(rig.io);                                                        \
		__VA_ARGS__;                                                                       \
		thread_set_current(NULL);                                                          \
	} while (0)

static void
begin(void)
{
	memset(&load, 0, sizeof(load));
	load.seed = 0x1234567890abcdef;
	rig_attach();
	map_memory();
	ON_IO(load.qpair = nvme_qpair_get(rig.ctrlr));
	assert_non_null(load.qpair);
}

static void
finish(void)
{
	ON_IO(nvme_qpair_put(load.qpair));
	rig_poll_for_ms(1);
	rig_expect_no_violation();
	unmap_memory();
	rig_detach();
}

/* ---- load ---- */

/* Cuts the data into iovecs, at places that PRPs like, or SGLs, or neither. */
static void
random_iovecs(struct lane *lane, uint32_t length)
{
	static const uint32_t units[] = {4096, 4096, 4096, 512, 4, 1};
	uint32_t unit = units[below(6)], i = (uint32_t)(lane - load.lanes), done = 0;
	uint32_t shift = unit == 4096 && below(2) == 0 ? 0 : below(SPACE / 4) * 4;

	if (unit == 1)
		shift += below(4);
	if (shift > SPACE)
		shift = SPACE;
	lane->buffer = (below(10) == 0 ? load.unmapped : load.mapped) + (size_t)i * BUFFER + shift;
	lane->request.iovcnt = 0;
	while (done < length && lane->request.iovcnt < MAX_IOVS) {
		struct iovec *iov = &lane->iov[lane->request.iovcnt++];
		uint32_t part = unit * (1 + below(length / unit + 1));

		if (part > length - done || lane->request.iovcnt == MAX_IOVS)
			part = length - done;
		*iov = (struct iovec){lane->buffer + done, part};
		done += part;
	}
	/* Some in another order than in memory: pages. */
	if (unit == 4096 && shift == 0 && lane->request.iovcnt > 2 &&
	    lane->iov[0].iov_len == lane->iov[1].iov_len) {
		struct iovec first = lane->iov[0];

		lane->iov[0] = lane->iov[1];
		lane->iov[1] = first;
	}
}

static void begin_requests(void);

static void
copy_content(const struct lane *lane, uint8_t *content, bool compare)
{
	for (uint32_t i = 0; i < lane->request.iovcnt; i++) {
		const struct iovec *iov = &lane->iov[i];

		if (compare)
			assert_memory_equal(iov->iov_base, content, iov->iov_len);
		else
			memcpy(content, iov->iov_base, iov->iov_len);
		content += iov->iov_len;
	}
}

static void
on_done(struct nvme_request *request, int rc)
{
	struct lane *lane = (struct lane *)request;
	uint8_t *content = lane->content + (size_t)lane->first * BLOCK;

	assert_true(lane->busy);
	lane->busy = false;
	lane->rc = rc;
	load.busy--;
	load.done++;
	load.failed += rc != 0;
	if (rc == 0 && request->command.opcode == nvme_cmd_read)
		copy_content(lane, content, true);
	/* Only what succeeded is known to be there; what failed may be (or not). */
	if (rc == 0 && request->command.opcode == nvme_cmd_write)
		copy_content(lane, content, false);
	begin_requests();
}

static void
begin_request(struct lane *lane)
{
	uint32_t i = (uint32_t)(lane - load.lanes);
	uint8_t opcode = below(2) == 0 ? nvme_cmd_read : nvme_cmd_write;

	lane->first = below(LANE_BLOCKS);
	lane->blocks = 1 + below(below(4) == 0 ? LANE_BLOCKS - lane->first : 16);
	if (lane->blocks > LANE_BLOCKS - lane->first)
		lane->blocks = LANE_BLOCKS - lane->first;
	random_iovecs(lane, lane->blocks * BLOCK);
	nvme_command_range(&lane->request.command, opcode, 1, i * LANE_BLOCKS + lane->first,
			   lane->blocks, 0);
	lane->request.length = lane->blocks * BLOCK;
	lane->request.iov = lane->iov;
	lane->request.done = on_done;
	for (uint32_t j = 0; j < lane->request.length; j++)
		lane->buffer[j] = (uint8_t)(load.seed >> (j % 56)) ^ (uint8_t)j;
	lane->busy = true;
	load.busy++;
	load.left--;
	nvme_qpair_submit(load.qpair, &lane->request);
}

static void
begin_requests(void)
{
	for (uint32_t i = 0; i < load.depth && load.left > 0; i++) {
		if (!load.lanes[i].busy)
			begin_request(&load.lanes[i]);
	}
}

static void
run_load(uint32_t depth, uint32_t requests)
{
	load.depth = depth;
	load.left = requests;
	load.failed = 0;
	load.done = 0;
	ON_IO(begin_requests());
	rig_wait_for(load.busy == 0 && load.left == 0);
	assert_int_equal(load.done, requests);
}

/* ---- tests ---- */

static void
test_depths(void **state)
{
	static const uint32_t depths[] = {1, 2, 7, 31, 64};
	struct nvme_qpair_stats stats;

	(void)state;
	begin();
	for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
		run_load(depths[i], 1000);
		assert_int_equal(load.failed, 0);
	}
	nvme_qpair_get_stats(load.qpair, &stats);
	assert_int_equal(stats.commands, 5000);
	assert_true(stats.copied > 0);
	finish();
}

/* A queue that is always full; with neither SGLs nor shadow doorbells. */
static void
test_small_queue(void **state)
{
	struct nvme_qpair_stats stats;

	(void)state;
	rig.opts.queue_size = 4;
	rig_control("set sgl 0");
	rig_control("set dbbuf 0");
	begin();
	run_load(64, 3000);
	assert_int_equal(load.failed, 0);
	nvme_qpair_get_stats(load.qpair, &stats);
	assert_true(stats.waited > 1000);
	finish();
}

/* The least queue that there can be. */
static void
test_one_at_a_time(void **state)
{
	(void)state;
	rig.opts.queue_size = 2;
	begin();
	run_load(16, 500);
	assert_int_equal(load.failed, 0);
	finish();
}

static void
test_large_pages(void **state)
{
	(void)state;
	rig_control("set cap-mpsmin 2");
	rig_control("set mdts 3");
	begin();
	run_load(32, 2000);
	assert_int_equal(load.failed, 0);
	finish();
}

/* What the device does to one command in so many ends in no error, and no wrong data. */
static void
survive(const char *fault)
{
	(void)nvme_device_control(&rig.device, NULL, "fault-clear");
	rig_control("fault %s", fault);
	run_load(16, 1500);
	assert_int_equal(load.failed, 0);
	rig_expect_no_violation();
}

static void
test_statuses(void **state)
{
	(void)state;
	begin();
	survive("status queue=io nth=100 count=4 status=0x06");
	survive("status queue=io nth=1 count=1 status=0x6");
	/* Not again. */
	rig_control("fault-clear");
	rig_control("fault status queue=io nth=1 status=0x4281");
	run_load(1, 1);
	assert_int_equal(load.failed, 1);
	assert_int_equal(load.lanes[0].rc, -ENODATA);
	assert_int_equal(load.lanes[0].request.status, 0x4281);
	/* Often enough. */
	rig_control("fault status queue=io nth=1 count=5 status=0x06");
	run_load(1, 1);
	assert_int_equal(load.failed, 1);
	assert_int_equal(load.lanes[0].rc, -EIO);
	run_load(16, 100);
	assert_int_equal(load.failed, 0);
	finish();
}

static void
test_lost(void **state)
{
	(void)state;
	rig.opts.tuning.io_timeout_us = 200000;
	rig.opts.tuning.admin_timeout_us = 500000;
	begin();
	survive("lose queue=io nth=500");
	assert_true(rig_info()->timeouts > 0);
	finish();
}

static void
test_late(void **state)
{
	(void)state;
	rig.opts.tuning.io_timeout_us = 200000;
	begin();
	survive("delay queue=io nth=500 count=3 ms=600");
	survive("delay queue=io nth=500 count=3 ms=50");
	assert_true(rig_info()->timeouts > 0);
	finish();
}

static void
test_wrong_phase(void **state)
{
	(void)state;
	rig.opts.tuning.io_timeout_us = 200000;
	rig.opts.tuning.admin_timeout_us = 500000;
	begin();
	survive("phase queue=io nth=700");
	assert_true(rig_info()->resets > 0);
	finish();
}

static void
test_wrong_identifier(void **state)
{
	(void)state;
	begin();
	survive("cid queue=io nth=700 cid=0xfff");
	assert_int_equal(rig_info()->resets, 1);
	survive("cid queue=io nth=300 cid=200");
	assert_int_equal(rig_info()->resets, 2);
	finish();
}

static void
test_fatal(void **state)
{
	(void)state;
	begin();
	survive("fatal queue=io nth=700");
	assert_true(rig_info()->resets > 0);
	finish();
}

static void
reset_main(void *arg)
{
	*(int *)arg = nvme_reset(rig.ctrlr, &rig.err);
}

static void
test_resets_under_load(void **state)
{
	int rc;

	(void)state;
	rig.opts.tuning.retries = 100;
	begin();
	load.depth = 32;
	load.left = UINT32_MAX / 2;
	ON_IO(begin_requests());
	for (int i = 0; i < 20; i++) {
		uint32_t done = load.done;

		rc = 1;
		rig_run(reset_main, &rc);
		assert_int_equal(rc, 0);
		rig_wait_for(load.done > done + 200);
	}
	load.left = 0;
	rig_wait_for(load.busy == 0);
	assert_int_equal(load.failed, 0);
	finish();
}

static void
disable_main(void *arg)
{
	*(int *)arg = nvme_disable(rig.ctrlr, &rig.err);
}

static void
enable_main(void *arg)
{
	*(int *)arg = nvme_enable(rig.ctrlr, &rig.err);
}

/* What waits for a controller that is off ends in time. */
static void
test_disabled(void **state)
{
	int rc = 1;

	(void)state;
	rig.opts.tuning.io_timeout_us = 300000;
	begin();
	rig_run(disable_main, &rc);
	assert_int_equal(rc, 0);
	run_load(8, 8);
	assert_int_equal(load.failed, 8);
	assert_int_equal(load.lanes[0].rc, -ETIMEDOUT);
	load.depth = 8;
	load.left = 8;
	ON_IO(begin_requests());
	rc = 1;
	rig_run(enable_main, &rc);
	assert_int_equal(rc, 0);
	rig_wait_for(load.busy == 0);
	assert_int_equal(load.failed, 8);
	finish();
}

static void
test_removed(void **state)
{
	(void)state;
	begin();
	rig_control("fault remove queue=io nth=300");
	run_load(16, 1000);
	assert_true(load.failed > 0);
	assert_int_equal(load.lanes[0].rc, -ENODEV);
	assert_int_equal(rig.events[NVME_EVENT_GONE], 1);
	finish();
}

/* Commands without data, and with data that no device can reach. */
static void
simple_done(struct nvme_request *request, int rc)
{
	struct lane *lane = (struct lane *)request;

	lane->rc = rc;
	lane->busy = false;
}

static int
run_simple(struct lane *lane, struct nvme_command command, void *data, uint32_t length)
{
	lane->iov[0] = (struct iovec){data, length};
	lane->request = (struct nvme_request){.command = command,
					      .length = length,
					      .iov = lane->iov,
					      .iovcnt = 1,
					      .done = simple_done};
	lane->busy = true;
	ON_IO(nvme_qpair_submit(load.qpair, &lane->request));
	rig_wait_for(!lane->busy);
	return lane->rc;
}

static void
test_other_commands(void **state)
{
	struct nvme_dsm_range *ranges = calloc(3, sizeof(*ranges));
	struct lane *lane = &load.lanes[0];
	struct nvme_command command;
	static uint8_t data[8192], zeroes[8192];

	(void)state;
	begin();
	memset(data, 0x5a, sizeof(data));
	nvme_command_range(&command, nvme_cmd_write, 1, 100, 16, 1u << 14);
	assert_int_equal(run_simple(lane, command, data, sizeof(data)), 0);
	nvme_command_range(&command, nvme_cmd_compare, 1, 100, 16, 0);
	assert_int_equal(run_simple(lane, command, data, sizeof(data)), 0);
	data[8191] ^= 1;
	assert_int_equal(run_simple(lane, command, data, sizeof(data)), -ENODATA);
	assert_int_equal(lane->request.status & NVME_STATUS_MASK, 0x285);
	command = (struct nvme_command){.opcode = nvme_cmd_flush, .nsid = 1};
	assert_int_equal(run_simple(lane, command, NULL, 0), 0);
	for (uint32_t i = 0; i < 3; i++)
		ranges[i] = (struct nvme_dsm_range){.nlb = 4, .slba = 100 + 6 * i};
	command = (struct nvme_command){
		.opcode = nvme_cmd_dsm, .nsid = 1, .cdw10 = 2, .cdw11 = NVME_DSMGMT_AD};
	assert_int_equal(run_simple(lane, command, ranges, 3 * sizeof(*ranges)), 0);
	nvme_command_range(&command, nvme_cmd_read, 1, 100, 16, 0);
	assert_int_equal(run_simple(lane, command, data, sizeof(data)), 0);
	assert_memory_equal(data, zeroes, 4 * BLOCK);
	assert_int_equal(data[4 * BLOCK], 0x5a);
	nvme_command_range(&command, nvme_cmd_write_zeroes, 1, 100, 16, 0);
	assert_int_equal(run_simple(lane, command, NULL, 0), 0);
	nvme_command_range(&command, nvme_cmd_read, 1, 100, 16, 0);
	assert_int_equal(run_simple(lane, command, data, sizeof(data)), 0);
	assert_memory_equal(data, zeroes, sizeof(data));
	nvme_command_range(&command, nvme_cmd_read, 1, BLOCKS - 1, 2, 0);
	assert_int_equal(run_simple(lane, command, data, 2 * BLOCK), -EINVAL);
	nvme_command_range(&command, nvme_cmd_read, 7, 0, 1, 0);
	assert_int_equal(run_simple(lane, command, data, BLOCK), -ENODEV);
	free(ranges);
	finish();
}

static void
test_fused(void **state)
{
	struct lane *first = &load.lanes[0], *second = &load.lanes[1];
	static uint8_t old[BLOCK], new[BLOCK];

	(void)state;
	begin();
	assert_int_equal(rig_info()->fuses & 1, 1);
	memset(new, 0x77, sizeof(new));
	for (int round = 0; round < 2; round++) {
		first->iov[0] = (struct iovec){old, BLOCK};
		second->iov[0] = (struct iovec){new, BLOCK};
		for (int i = 0; i < 2; i++)
			load.lanes[i].request = (struct nvme_request){.length = BLOCK,
								      .iov = load.lanes[i].iov,
								      .iovcnt = 1,
								      .done = simple_done};
		nvme_command_range(&first->request.command, nvme_cmd_compare, 1, 9, 1, 0);
		nvme_command_range(&second->request.command, nvme_cmd_write, 1, 9, 1, 0);
		first->request.command.fuse = NVME_SQE_FUSED_FIRST;
		second->request.command.fuse = NVME_SQE_FUSED_SECOND;
		first->busy = true;
		second->busy = true;
		ON_IO(nvme_qpair_submit_fused(load.qpair, &first->request, &second->request));
		rig_wait_for(!first->busy && !second->busy);
		/* The second time it is another. */
		assert_int_equal(first->rc, round == 0 ? 0 : -ENODATA);
		assert_int_equal(second->rc, round == 0 ? 0 : -ECANCELED);
	}
	finish();
}

/* ---- sleeping ---- */

/* Each thread as a reactor does: sleeps when both agree. */
static void
sleep_or_poll(uint32_t *naps)
{
	struct pollfd fds[] = {{.fd = thread_wait_fd(rig.io), .events = POLLIN}};

	rig_poll();
	if (!thread_arm(rig.io))
		return;
	(*naps)++;
	/* What wakes is an interrupt; the app thread's messages, and time, need a look. */
	assert_true(poll(fds, 1, 20) >= 0);
	thread_disarm(rig.io);
}

static void
test_interrupts(void **state)
{
	uint32_t naps = 0;

	(void)state;
	rig.opts.interrupts = true;
	begin();
	run_load(8, 200);
	load.depth = 2;
	load.left = 300;
	load.done = 0;
	ON_IO(begin_requests());
	while (load.busy > 0 || load.left > 0)
		sleep_or_poll(&naps);
	assert_int_equal(load.done, 300);
	assert_int_equal(load.failed, 0);
	assert_true(naps > 0);
	assert_true(nvme_device_stat(&rig.device, "interrupts") > 0);
	finish();
}

/* ---- more threads than queue pairs ---- */

static void
test_threads(void **state)
{
	struct thread *others[5];
	struct nvme_qpair *qpairs[5];

	(void)state;
	begin();
	run_load(4, 100);
	for (uint32_t i = 0; i < 5; i++)
		others[i] = thread_create("other", NULL);
	for (uint32_t round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < 5; i++) {
			thread_set_current(others[(i + round) % 5]);
			errno = 0;
			qpairs[i] = nvme_qpair_get(rig.ctrlr);
			assert_true((qpairs[i] == NULL) == (i >= 3));
			if (i >= 3)
				assert_int_equal(errno, ENOSPC);
		}
		for (uint32_t i = 0; i < 3; i++) {
			struct lane *lane = &load.lanes[i];
			static uint8_t data[3][BLOCK];

			lane->iov[0] = (struct iovec){data[i], BLOCK};
			lane->request = (struct nvme_request){.length = BLOCK,
							      .iov = lane->iov,
							      .iovcnt = 1,
							      .done = simple_done};
			nvme_command_range(&lane->request.command, nvme_cmd_read, 1, i, 1, 0);
			lane->busy = true;
			thread_set_current(others[(i + round) % 5]);
			nvme_qpair_submit(qpairs[i], &lane->request);
		}
		thread_set_current(NULL);
		while (load.lanes[0].busy || load.lanes[1].busy || load.lanes[2].busy) {
			rig_poll();
			for (uint32_t i = 0; i < 5; i++)
				poll_once(others[i]);
		}
		for (uint32_t i = 0; i < 3; i++) {
			assert_int_equal(load.lanes[i].rc, 0);
			thread_set_current(others[(i + round) % 5]);
			nvme_qpair_put(qpairs[i]);
		}
		thread_set_current(NULL);
		for (uint32_t i = 0; i < 5; i++)
			poll_once(others[i]);
	}
	for (uint32_t i = 0; i < 5; i++)
		thread_finish(others[i]);
	finish();
}

/* ---- OS threads that take queue pairs from each other, while the controller is reset ---- */

#define WORKERS      5 /* more than queue pairs */
#define WORKER_TURNS 40
#define WORKER_DEPTH 8

struct worker {
	pthread_t os_thread;
	struct thread *thread;
	struct nvme_qpair *qpair;
	struct lane lanes[WORKER_DEPTH];
	uint8_t data[WORKER_DEPTH][BLOCK];
	uint32_t busy, turns, failed;
	atomic_bool finished;
};

static void
worker_done(struct nvme_request *request, int rc)
{
	struct worker *worker = (struct worker *)((struct lane *)request)->content;

	worker->busy--;
	worker->failed += rc != 0;
}

static void
worker_turn(struct worker *worker)
{
	thread_set_current(worker->thread);
	worker->qpair = nvme_qpair_get(rig.ctrlr);
	for (uint32_t i = 0; worker->qpair != NULL && i < WORKER_DEPTH; i++) {
		struct lane *lane = &worker->lanes[i];

		lane->content = (uint8_t *)worker; /* nothing that is compared */
		lane->iov[0] = (struct iovec){worker->data[i], BLOCK};
		lane->request = (struct nvme_request){
			.length = BLOCK, .iov = lane->iov, .iovcnt = 1, .done = worker_done};
		nvme_command_range(&lane->request.command, nvme_cmd_read, 1, i, 1, 0);
		worker->busy++;
		nvme_qpair_submit(worker->qpair, &lane->request);
	}
	thread_set_current(NULL);
	while (worker->busy > 0)
		poll_once(worker->thread);
	thread_set_current(worker->thread);
	worker->turns += worker->qpair != NULL;
	if (worker->qpair != NULL)
		nvme_qpair_put(worker->qpair);
	thread_set_current(NULL);
	for (int i = 0; i < 3; i++)
		poll_once(worker->thread);
	sched_yield();
}

static void *
worker_main(void *arg)
{
	struct worker *worker = arg;

	while (worker->turns < WORKER_TURNS)
		worker_turn(worker);
	thread_finish(worker->thread);
	atomic_store(&worker->finished, true);
	return NULL;
}

static void
test_taking_over(void **state)
{
	static struct worker workers[WORKERS];
	uint32_t finished = 0;

	(void)state;
	memset(workers, 0, sizeof(workers));
	rig.opts.tuning.retries = 200;
	rig.opts.tuning.io_timeout_us = 0;
	begin();
	for (uint32_t i = 0; i < WORKERS; i++) {
		workers[i].thread = thread_create("worker", NULL);
		assert_non_null(workers[i].thread);
		assert_int_equal(
			pthread_create(&workers[i].os_thread, NULL, worker_main, &workers[i]), 0);
	}
	while (finished < WORKERS) {
		int rc = 1;

		rig_run(reset_main, &rc);
		assert_int_equal(rc, 0);
		rig_poll_for_ms(2);
		finished = 0;
		for (uint32_t i = 0; i < WORKERS; i++)
			finished += atomic_load(&workers[i].finished);
	}
	for (uint32_t i = 0; i < WORKERS; i++) {
		pthread_join(workers[i].os_thread, NULL);
		assert_int_equal(workers[i].failed, 0);
	}
	run_load(8, 100);
	assert_int_equal(load.failed, 0);
	finish();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(test_depths),
		rig_test(test_small_queue),
		rig_test(test_one_at_a_time),
		rig_test(test_large_pages),
		rig_test(test_statuses),
		rig_test(test_lost),
		rig_test(test_late),
		rig_test(test_wrong_phase),
		rig_test(test_wrong_identifier),
		rig_test(test_fatal),
		rig_test(test_resets_under_load),
		rig_test(test_disabled),
		rig_test(test_removed),
		rig_test(test_other_commands),
		rig_test(test_fused),
		rig_test(test_interrupts),
		rig_test(test_threads),
		rig_test(test_taking_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
