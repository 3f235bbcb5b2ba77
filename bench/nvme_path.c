/* SPDX-License-Identifier: BSD-3-Clause */
/* links: nvme thread env */
/*
 * What a request costs in the NVMe driver's queue pair alone: one thread plays the device, which is
 * not measured, and the driver, which submits, rings and takes completions.
 *
 *     nvme_path [BATCHES]
 *
 * Also fit for counting instructions: valgrind --tool=callgrind --toggle-collect=submit_batch
 * --toggle-collect=poll_batch --dump-before=measure nvme_path 1000 leaves a file for each line that
 * is printed; divide the summary in it by batches and depth.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "env.h"
#include "nvme/ctrlr.h"

#define QUEUE_SIZE      256
#define MAX_DEPTH       32
#define PAGE            4096u
#define REQUEST_BYTES   (2 * PAGE)
#define DOORBELLS       16
#define DEFAULT_BATCHES 100000

/* ---- a controller that is only there for its queue pair ---- */

static struct nvme_qpair qpair;

struct nvme_qpair *
nvme_ctrlr_take_qpair(struct nvme_ctrlr *ctrlr)
{
	(void)ctrlr;
	return &qpair;
}

void
nvme_ctrlr_give_qpair(struct nvme_qpair *given)
{
	(void)given;
}

void
nvme_ctrlr_wants_qpair(struct nvme_qpair *wanted)
{
	(void)wanted;
}

void
nvme_ctrlr_timed_out(struct nvme_qpair *late, uint16_t cid)
{
	(void)late;
	fprintf(stderr, "nvme_path: command %u: the device is wrong\n", cid);
	exit(1);
}

int
nvme_ctrlr_interrupt(const struct nvme_qpair *asleep)
{
	(void)asleep;
	return -1;
}

int
nvme_ctrlr_create_queues(struct nvme_qpair *made, struct errmsg *err)
{
	(void)made;
	(void)err;
	return 0;
}

static int
map(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	(void)ctx;
	(void)addr;
	(void)length;
	(void)iova;
	(void)fd;
	(void)fd_offset;
	return 0;
}

static void
unmap(void *ctx, uint64_t iova, uint64_t length)
{
	(void)ctx;
	(void)iova;
	(void)length;
}

/* ---- requests ---- */

static struct nvme_request requests[MAX_DEPTH];
static struct iovec iovs[MAX_DEPTH];
static uint32_t done;

static void
on_done(struct nvme_request *request, int rc)
{
	(void)request;
	done += rc == 0;
}

struct shape {
	const char *name;
	uint32_t offset; /* of the data in its page */
};

static void
prepare(uint8_t *memory, const struct shape *shape)
{
	for (uint32_t i = 0; i < MAX_DEPTH; i++) {
		iovs[i] = (struct iovec){memory + i * REQUEST_BYTES + shape->offset, PAGE};
		requests[i] = (struct nvme_request){
			.length = PAGE, .iovcnt = 1, .iov = &iovs[i], .done = on_done};
		nvme_command_range(&requests[i].command, nvme_cmd_read, 1, i, 8, 0);
	}
}

/* The device takes all that it was told of, and completes it. */
static void
complete_all(void)
{
	static uint32_t sq_head, cq_tail;
	static uint16_t phase = 1;

	while (sq_head != *qpair.queue.sq_doorbell.reg) {
		struct nvme_cqe cqe = {.cid = qpair.queue.sqes[sq_head].cid, .status = phase};

		sq_head = (sq_head + 1) % QUEUE_SIZE;
		cqe.sqhd = (uint16_t)sq_head;
		/* In halves, as they are read. */
		for (uint32_t i = 0; i < 2; i++)
			((volatile uint64_t *)&qpair.queue.cqes[cq_tail])[i] =
				((uint64_t *)&cqe)[i];
		cq_tail = (cq_tail + 1) % QUEUE_SIZE;
		if (cq_tail == 0)
			phase ^= 1;
	}
}

static __attribute__((noinline)) void
submit_batch(uint32_t depth)
{
	for (uint32_t i = 0; i < depth; i++)
		nvme_qpair_submit(&qpair, &requests[i]);
	nvme_qpair_flush(&qpair);
}

static __attribute__((noinline)) void
poll_batch(void)
{
	nvme_qpair_poll(&qpair);
}

static __attribute__((noinline)) void
measure(uint8_t *memory, const struct shape *shape, uint32_t depth, uint32_t batches)
{
	const double count = (double)batches * depth;
	uint64_t submit = 0, poll = 0;

	prepare(memory, shape);
	done = 0;
	for (uint32_t i = 0; i < batches; i++) {
		uint64_t start = env_ticks(), submitted;

		submit_batch(depth);
		submitted = env_ticks();
		submit += submitted - start;
		complete_all();
		start = env_ticks();
		poll_batch();
		poll += env_ticks() - start;
	}
	if (done != batches * depth) {
		fprintf(stderr, "nvme_path: %u of %.0f requests\n", done, count);
		exit(1);
	}
	printf("%-10s %5u %8.1f %8.1f %8.1f\n", shape->name, depth, (double)submit / count,
	       (double)poll / count, (double)(submit + poll) / count);
}

/* ---- */

static int
start(struct nvme_ctrlr *ctrlr, struct nvme_transport *transport, uint8_t *memory,
      struct errmsg *err)
{
	static const struct dma_space_ops ops = {.map = map, .unmap = unmap};
	static const struct dma_range range = {PAGE, UINT32_MAX};
	int rc = dma_space_create(&ops, NULL, &range, 1, &transport->dma);

	if (rc == 0)
		rc = dma_map(transport->dma, memory, MAX_DEPTH * REQUEST_BYTES, -1, 0, err);
	if (rc != 0)
		return rc;
	ctrlr->transport = transport;
	ctrlr->dma = transport->dma;
	ctrlr->page_size = PAGE;
	ctrlr->queue_size = QUEUE_SIZE;
	ctrlr->info.max_transfer = REQUEST_BYTES;
	qpair.ctrlr = ctrlr;
	qpair.id = 1;
	rc = nvme_qpair_create(&qpair, err);
	if (rc == 0)
		rc = nvme_qpair_register(ctrlr);
	if (rc == 0 && nvme_qpair_get(ctrlr) == NULL)
		rc = -errno;
	if (rc == 0)
		nvme_qpair_start(&qpair);
	return rc;
}

int
main(int argc, char **argv)
{
	static const struct shape shapes[] = {{"one page", 0}, {"two pages", 512}};
	static const uint32_t depths[] = {1, MAX_DEPTH};
	static uint32_t doorbells[DOORBELLS];
	static struct nvme_ctrlr ctrlr;
	struct nvme_transport transport = {.doorbells = doorbells,
					   .doorbells_size = sizeof(doorbells)};
	long batches = argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_BATCHES;
	uint8_t *memory = mmap(NULL, MAX_DEPTH * REQUEST_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct thread *thread;
	struct errmsg err = {""};

	if (batches <= 0) {
		fprintf(stderr, "usage: nvme_path [BATCHES]\n");
		return 2;
	}
	pthread_mutex_init(&ctrlr.lock, NULL);
	thread_lib_init(NULL);
	thread = thread_create("nvme_path", NULL);
	thread_set_current(thread);
	if (memory == MAP_FAILED || thread == NULL ||
	    start(&ctrlr, &transport, memory, &err) != 0) {
		fprintf(stderr, "nvme_path: no memory: %s\n", err.text);
		return 1;
	}
	printf("cycles of the time stamp counter per 4 KiB read, %ld batches\n"
	       "%-10s %5s %8s %8s %8s\n",
	       batches, "data", "depth", "submit", "poll", "total");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		for (size_t j = 0; j < sizeof(depths) / sizeof(depths[0]); j++)
			measure(memory, &shapes[i], depths[j], (uint32_t)batches);
	return 0;
}
