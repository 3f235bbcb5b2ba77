/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two initiators on OS threads of their own count up one number on one disk with COMPARE AND WRITE,
 * write, with all task attributes, reset the disk, and open and close their channels, while the app
 * thread resizes. For ThreadSanitizer, and for the sum.
 */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "log.h"
#include "scsi_rig.h"

#define BLOCKS     64
#define COUNTED    3000 /* by each */
#define WORDS      (FAKE_BLOCK / 8)
#define PER_OPENED 64
#define PER_RESET  100

static _Atomic uint64_t disk[BLOCKS * WORDS];
static _Atomic bool workers_stop;
static _Atomic unsigned int workers_done;

/* Word by word and in no order, so that what orders commands is not hidden from the sanitizer. */
static void
words_submit(void *channel_ctx, struct bdev_request *rq)
{
	uint64_t at = rq->offset / 8;

	(void)channel_ctx;
	for (uint32_t i = 0; rq->type <= BDEV_WRITE && i < rq->iovcnt; i++) {
		uint64_t *words = rq->iov[i].iov_base;

		for (size_t j = 0; j < rq->iov[i].iov_len / 8; j++, at++) {
			if (rq->type == BDEV_READ)
				words[j] = atomic_load_explicit(&disk[at], memory_order_relaxed);
			else
				atomic_store_explicit(&disk[at], words[j], memory_order_relaxed);
		}
	}
	if (rq->type == BDEV_READ)
		sched_yield(); /* whoever may come in between shall */
	bdev_complete(rq, 0);
}

static const struct bdev_ops words_ops = {
	.module = "words",
	.submit = words_submit,
	.buffer_alignment = 8,
};

enum step { READ, COMPARE, ORDINARY, RESET };

struct worker {
	struct rig_nexus *at;
	pthread_t os_thread;
	struct poller *poller;
	struct command *command;
	struct scsi_tmf tmf;
	enum step step;
	bool waiting;
	uint64_t counted, rounds, resets;
	_Alignas(16) uint64_t block[WORDS];
	_Alignas(16) uint64_t pair[2 * WORDS];
};

static void
worker_command_done(struct scsi_task *task)
{
	struct command *command = *(struct command **)((uint8_t *)task - 64);
	struct worker *worker = command->out_iov.iov_base;
	bool good = task->outcome == SCSI_COMPLETE && task->status == SCSI_GOOD;

	worker->waiting = false;
	if (worker->step == COMPARE && good)
		worker->counted++;
	worker->rounds += worker->step == COMPARE;
	if (worker->step == READ)
		worker->step = good ? COMPARE : READ;
	else if (worker->step == COMPARE)
		worker->step = worker->rounds % PER_RESET == 0 ? RESET : ORDINARY;
	else
		worker->step = READ;
}

static void
worker_reset_done(struct scsi_tmf *tmf)
{
	struct worker *worker = (struct worker *)((uint8_t *)tmf - offsetof(struct worker, tmf));

	worker->resets += tmf->response == SCSI_FUNCTION_COMPLETE;
	worker->waiting = false;
	worker->step = READ;
}

/* The command's own iovecs are elsewhere: out_iov says whose it is. */
static void
worker_send(struct worker *worker, struct iscsi_task *made, void *out, size_t out_size, void *in,
	    size_t in_size)
{
	static _Thread_local struct iovec iov[2];
	struct scsi_task *task = worker->command->task;

	iov[0] = (struct iovec){out, out_size};
	iov[1] = (struct iovec){in, in_size};
	worker->command->out_iov.iov_base = worker;
	task->target = worker->at->target;
	task->lun = worker->at->lun;
	task->channel = worker->at->channel;
	task->tag = 1;
	task->attribute = worker->rounds % SCSI_ACA; /* each of the others */
	task->out = &iov[0];
	task->in = &iov[1];
	task->out_count = out_size != 0;
	task->in_count = in_size != 0;
	task->out_bytes = out_size;
	task->in_bytes = in_size;
	memset(task->cdb, 0, sizeof(task->cdb));
	memcpy(task->cdb, made->cdb, (size_t)made->cdb_size);
	task->cdb_length = SCSI_CDB_MAX;
	task->done = worker_command_done;
	scsi_free_scsi_task(made);
	scsi_submit(task);
	scsi_channel_flush(worker->at->channel);
}

static void
worker_compare(struct worker *worker)
{
	memcpy(worker->pair, worker->block, FAKE_BLOCK);
	memcpy(worker->pair + WORDS, worker->block, FAKE_BLOCK);
	for (int i = 0; i < WORDS; i++)
		worker->pair[WORDS + i] = worker->block[0] + 1;
	worker_send(worker, scsi_cdb_compareandwrite(7, 1024, 512, 0, 0, 0, 0, 0), worker->pair,
		    1024, NULL, 0);
}

static int
worker_poll(void *arg)
{
	struct worker *worker = arg;

	if (worker->waiting || worker->counted == COUNTED)
		return POLLER_IDLE;
	if (worker->rounds % PER_OPENED == 0 && worker->step == READ) {
		scsi_channel_put(worker->at->channel);
		worker->at->channel = scsi_channel_get(worker->at->lun);
	}
	worker->waiting = true;
	if (worker->step == READ) {
		worker_send(worker, scsi_cdb_read10(7, 512, 512, 0, 0, 0, 0, 0), NULL, 0,
			    worker->block, 512);
	} else if (worker->step == COMPARE) {
		worker_compare(worker);
	} else if (worker->step == ORDINARY) {
		worker_send(
			worker,
			scsi_cdb_write10((uint32_t)(worker->rounds % 7), 512, 512, 0, 0, 0, 0, 0),
			worker->block, 512, NULL, 0);
	} else {
		worker->tmf = (struct scsi_tmf){.function = SCSI_LOGICAL_UNIT_RESET,
						.target = worker->at->target,
						.lun = worker->at->lun,
						.done = worker_reset_done};
		scsi_tmf_submit(&worker->tmf);
	}
	return POLLER_BUSY;
}

static void *
worker_run(void *arg)
{
	struct worker *worker = arg;
	bool said = false;

	while (!atomic_load(&workers_stop)) {
		if (poll_once(worker->at->thread) == POLLER_IDLE)
			sched_yield(); /* there may be fewer cores than threads */
		if (!said && worker->counted == COUNTED && !worker->waiting) {
			said = true;
			atomic_fetch_add(&workers_done, 1);
		}
	}
	return NULL;
}

static void
register_words(void)
{
	struct bdev_info info;

	assert_int_equal(bdev_info_init(&info, "disk", NULL, NULL), 0);
	info.product_name = "Words";
	info.block_size = FAKE_BLOCK;
	info.num_blocks = BLOCKS;
	info.io_types = 1u << BDEV_READ | 1u << BDEV_WRITE;
	thread_set_current(rig_app);
	assert_int_equal(bdev_register(&info, &words_ops, NULL, &fake.bdev, NULL), 0);
	thread_set_current(NULL);
}

static void
test_race(void **state)
{
	struct worker workers[2] = {0};
	uint64_t deadline = now_ms() + DEADLINE_MS;
	unsigned int rounds = 0;

	(void)state;
	log_set_print_level(LOG_LEVEL_WARNING); /* there are many resizes */
	register_words();
	nexus_start(A, "a", "disk");
	nexus_start(B, "b", "disk");
	for (int i = 0; i < 2; i++) {
		workers[i].at = &nexus[i];
		workers[i].command = command_new();
		thread_set_current(rig_io[i]);
		workers[i].poller = poller_register(worker_poll, &workers[i], 0, "worker");
		thread_set_current(NULL);
		assert_int_equal(
			pthread_create(&workers[i].os_thread, NULL, worker_run, &workers[i]), 0);
	}
	while (atomic_load(&workers_done) < 2) {
		if (poll_once(rig_app) == POLLER_IDLE)
			sched_yield();
		if (++rounds % 4096 == 0) {
			thread_set_current(rig_app);
			bdev_resize(fake.bdev, rounds / 4096 % 2 ? BLOCKS / 2 : BLOCKS);
			thread_set_current(NULL);
		}
		assert_true(now_ms() < deadline);
	}
	atomic_store(&workers_stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(workers[i].os_thread, NULL);
	for (int i = 0; i < 2; i++) {
		assert_true(workers[i].resets > 0);
		assert_int_equal(workers[i].counted, COUNTED);
		thread_set_current(rig_io[i]);
		poller_unregister(&workers[i].poller);
		thread_set_current(NULL);
		workers[i].command->finished = true;
		workers[i].command->finishes = 1;
		command_free(workers[i].command);
		nexus_stop(i);
	}
	assert_int_equal(disk[7 * WORDS], 2 * COUNTED);
	assert_int_equal(disk[8 * WORDS - 1], 2 * COUNTED);
	assert_int_equal(rig_delete("disk", "words"), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_race, rig_setup, rig_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
