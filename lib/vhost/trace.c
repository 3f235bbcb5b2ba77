/* SPDX-License-Identifier: BSD-3-Clause */
#include "trace.h"

#include <time.h>

#include "env.h"
#include "queue.h"
#include "threads.h"

static uint64_t
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Histograms that are on have times within polls, so that the end may be before the beginning. */
static uint64_t
span(uint64_t from, uint64_t to)
{
	return (int64_t)(to - from) > 0 ? to - from : 0;
}

struct vhost_trace_record *
vhost_trace_add(struct vhost_queue *queue, uint64_t seen, uint64_t started)
{
	struct vhost_trace *trace = queue->home->trace;
	struct vhost_trace_record *record = vhost_trace_at(trace, trace->recorded++);
	uint64_t now = *queue->clock;

	*record = (struct vhost_trace_record){
		.unsettled = queue,
		.done_ticks = now,
		.done_ns = now_ns(),
		.stages = {[VHOST_STAGE_QUEUE] = span(seen, started),
			   [VHOST_STAGE_DEVICE] = span(started, now)},
		.queue = queue->index,
	};
	queue->traced = true;
	return record;
}

void
vhost_trace_settle(struct vhost_queue *queue)
{
	struct vhost_trace *trace = queue->home->trace;
	uint64_t first = vhost_trace_first(trace), now = env_ticks();

	if (trace->settled < first)
		trace->settled = first;
	for (uint64_t i = trace->settled; i < trace->recorded; i++) {
		struct vhost_trace_record *record = vhost_trace_at(trace, i);

		if (record->unsettled != queue)
			continue;
		record->stages[VHOST_STAGE_COMPLETION] = span(record->done_ticks, now);
		record->unsettled = NULL;
	}
	while (trace->settled < trace->recorded &&
	       vhost_trace_at(trace, trace->settled)->unsettled == NULL)
		trace->settled++;
	queue->traced = false;
}
