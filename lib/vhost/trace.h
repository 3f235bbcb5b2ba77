/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * trace: the last slow requests that a controller's thread gave back, and where their time went.
 * Private to lib/vhost.
 *
 * Whether a request was slow is known when its device is done (vhost_queue_is_slow()): it costs the
 * others a subtraction and a comparison. Times are those of polls, as in bdev.h. On the thread only.
 */
#ifndef VHOSTD_VHOST_TRACE_H
#define VHOSTD_VHOST_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "vhost.h"

struct vhost_queue;

#define VHOST_TRACE_RECORDS 256 /* of each thread; the oldest one makes room */

_Static_assert(VHOST_MAX_QUEUES *VHOST_TRACE_RECORDS == VHOST_SLOW_REQUESTS_MAX,
	       "a controller has at most as many threads as queues");

/* Ticks, one after the other. */
enum vhost_stage {
	VHOST_STAGE_QUEUE,      /* from the poll that found it to the block device */
	VHOST_STAGE_DEVICE,     /* until the poll that found it done */
	VHOST_STAGE_COMPLETION, /* until the driver was shown that, and called if it wanted to be */
	VHOST_STAGES,
};

struct vhost_trace_record {
	const struct vhost_queue *unsettled; /* its queue while the last stage lasts; else NULL */
	uint64_t done_ticks;                 /* the end of the second stage */
	uint64_t done_ns;                    /* the same since 1970 */
	uint64_t stages[VHOST_STAGES];
	uint32_t queue;

	/* what the device type knows of it; strings are constant */
	const char *type;
	const char *status;
	uint64_t tag;    /* the driver's, or the chain's head */
	uint64_t lba;    /* in the type's blocks: of 512 bytes, or the LUN's */
	uint64_t blocks; /* 0: none */
	bool is_scsi;    /* with what follows */
	uint8_t opcode;
	uint8_t target;
	uint16_t lun; /* UINT16_MAX: none */
};

struct vhost_trace {
	uint64_t recorded; /* so far: the next one's number */
	uint64_t settled;  /* that many of them, from the first one on, are whole */
	struct vhost_trace_record records[VHOST_TRACE_RECORDS];
};

static inline struct vhost_trace_record *
vhost_trace_at(struct vhost_trace *trace, uint64_t number)
{
	return &trace->records[number % VHOST_TRACE_RECORDS];
}

/* The oldest one that is there still. */
static inline uint64_t
vhost_trace_first(const struct vhost_trace *trace)
{
	return trace->recorded > VHOST_TRACE_RECORDS ? trace->recorded - VHOST_TRACE_RECORDS : 0;
}

/*
 * A request of this queue is about to be given back: found at `seen` (ticks), and the block device's
 * from `started` on. Returns the record, for the device type to complete at once.
 */
struct vhost_trace_record *vhost_trace_add(struct vhost_queue *queue, uint64_t seen,
					   uint64_t started);
/* The driver of a queue that has queue->traced knows now of all that was given back. */
void vhost_trace_settle(struct vhost_queue *queue);

#endif
