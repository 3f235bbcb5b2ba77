/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * workload: a guest that keeps some queues full of reads and writes, and knows what each read must
 * see. It goes on over the death of the daemon. Functions return 0 or a negative errno; -EPROTO: a
 * request was completed twice, or not at all, or a block is not what it must be, and the reason is
 * on stderr.
 */
#ifndef TESTLIB_WORKLOAD_H
#define TESTLIB_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "client.h"

#define WORKLOAD_QUEUES     4
#define WORKLOAD_DEPTH      32
#define WORKLOAD_BLOCK      4096 /* bytes */
#define WORKLOAD_BLOCKS     256  /* of each queue */
#define WORKLOAD_DISK_BYTES (WORKLOAD_QUEUES * WORKLOAD_BLOCKS * WORKLOAD_BLOCK)

struct workload_slot {
	uint8_t *data;
	uint64_t gpa;
	uint32_t block;
	bool busy;
	bool is_write;
};

struct workload_queue {
	struct client_blk blk;
	struct workload_slot slots[WORKLOAD_DEPTH];
	uint32_t versions
		[WORKLOAD_BLOCKS];    /* how often it was written; the disk begins with zeroes */
	bool locked[WORKLOAD_BLOCKS]; /* a request is under way */
};

struct workload {
	struct client_device device;
	struct workload_queue queues[WORKLOAD_QUEUES];
	uint64_t completed;
	uint64_t random;
	/*
	 * The test's: requests may fail, after which nobody knows what a block must be; and how
	 * many did.
	 */
	bool may_fail;
	uint64_t failed;
};

/*
 * Plugs and starts; ring_features beside the usual ones. The controller's disk has
 * WORKLOAD_DISK_BYTES, all zero.
 */
int workload_open(struct workload *load, const char *socket, uint64_t ring_features, uint64_t seed);
void workload_close(struct workload *load);

/* Keeps the queues full until count more requests have completed; they are full when it returns. */
int workload_run(struct workload *load, uint64_t count, int timeout_ms);
/* Takes what has completed, and adds nothing. Returns how many, or a negative errno. */
int workload_reap(struct workload *load);
/* Until nothing is under way any more. */
int workload_drain(struct workload *load, int timeout_ms);
/* Reads every block. Nothing may be under way. */
int workload_verify(struct workload *load);

/* A number from 0 to below - 1. */
uint32_t workload_random(struct workload *load, uint32_t below);

#endif
