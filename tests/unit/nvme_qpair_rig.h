/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_qpair_rig: a queue pair, and operations on it, each with a page of memory. Included once by
 * each test program.
 */
#ifndef VHOSTD_NVME_QPAIR_RIG_H
#define VHOSTD_NVME_QPAIR_RIG_H

#include "nvme_rig.h"

#include <sys/mman.h>

#include "log_capture.h"

#define QUEUE_SIZE 8 /* entries: one less can be in flight */
#define SLOTS      (QUEUE_SIZE - 1)
#define OPS        300
#define MAX_DATA   32768u

struct op {
	struct nvme_request request;
	struct iovec iov;
	int rc;
	uint32_t done; /* calls */
	uint32_t order;
	struct op *next; /* submitted when this one is done */
};

static struct nvme_qpair *qpair;
static struct op ops[OPS];
static uint32_t done_count;
static uint8_t *memory; /* that the device can use: a page for each op */

static inline void
on_done(struct nvme_request *request, int rc)
{
	struct op *op = (struct op *)request;

	op->rc = rc;
	op->done++;
	op->order = done_count++;
	if (op->next != NULL)
		nvme_qpair_submit(qpair, &op->next->request);
}

static inline struct op *
prepare(uint32_t i, uint8_t opcode)
{
	struct op *op = &ops[i];

	*op = (struct op){.iov = {memory + i * RIG_PAGE, RIG_PAGE}, .rc = 1};
	nvme_command_range(&op->request.command, opcode, 1, i, 8, 0);
	op->request.iov = &op->iov;
	op->request.iovcnt = 1;
	op->request.length = RIG_PAGE;
	op->request.done = on_done;
	return op;
}

static inline struct op *
submit(uint32_t i)
{
	struct op *op = prepare(i, nvme_cmd_read);

	nvme_qpair_submit(qpair, &op->request);
	return op;
}

/* What runs in the queue pair's thread. */
#define ON_THREAD(...)                                                                             \
	do {                                                                                       \
		thread_set_current(rig.thread);                                                    \
		__VA_ARGS__;                                                                       \
		thread_set_current(NULL);                                                          \
	} while (0)

static inline void
run(void)
{
	poll_until_idle(&rig.thread, 1);
}

/* Time passes, and is looked at. */
static inline void
pass(uint64_t us)
{
	ticks_advance_us(us);
	run();
}

/* The device takes the next command, which is that of op i. */
static inline uint16_t
take(uint32_t i)
{
	struct nvme_sqe sqe = rig_take(qpair);

	assert_int_equal(sqe.cdw10, i);
	return sqe.cid;
}

static inline void
expect_done(uint32_t i, int rc)
{
	assert_int_equal(ops[i].done, 1);
	assert_int_equal(ops[i].rc, rc);
}

static inline void
expect_waiting(uint32_t i)
{
	assert_int_equal(ops[i].done, 0);
}

static inline int
setup_size(uint32_t queue_size)
{
	struct errmsg err;

	log_capture_reset();
	rig_setup_ctrlr(queue_size, MAX_DATA);
	memset(ops, 0, sizeof(ops));
	done_count = 0;
	memory = mmap(NULL, OPS * RIG_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	assert_true(memory != MAP_FAILED);
	assert_int_equal(dma_map(rig_memory.space, memory, OPS * RIG_PAGE, -1, 0, &err), 0);
	thread_lib_init(NULL);
	rig.thread = thread_create("queue", NULL);
	assert_non_null(rig.thread);
	ON_THREAD(assert_int_equal(nvme_qpair_register(&rig.ctrlr), 0);
		  qpair = nvme_qpair_get(&rig.ctrlr));
	assert_ptr_equal(qpair, &rig.qpairs[0]);
	assert_int_equal(rig.wants, 1);
	return 0;
}

static inline int
setup(void **state)
{
	(void)state;
	return setup_size(QUEUE_SIZE);
}

static inline void
create_and_start(void)
{
	rig_create(qpair);
	ON_THREAD(nvme_qpair_start(qpair));
}

static inline int
setup_live(void **state)
{
	setup(state);
	create_and_start();
	return 0;
}

static inline int
setup_large(void **state)
{
	(void)state;
	setup_size(512);
	create_and_start();
	return 0;
}

static inline int
teardown(void **state)
{
	(void)state;
	ON_THREAD(nvme_qpair_fail(qpair, -ECANCELED); nvme_qpair_put(qpair);
		  io_device_unregister(&rig.ctrlr, NULL));
	thread_finish(rig.thread);
	thread_lib_fini();
	dma_unmap(rig_memory.space, memory, OPS * RIG_PAGE);
	munmap(memory, OPS * RIG_PAGE);
	if (rig.interrupt >= 0)
		close(rig.interrupt);
	rig_teardown_ctrlr();
	return 0;
}

static inline void
submit_and_take(uint32_t i)
{
	ON_THREAD(submit(i));
	run();
	take(i);
}

#define LIVE(test) cmocka_unit_test_setup_teardown(test, setup_live, teardown)
#define NEW(test)  cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif
