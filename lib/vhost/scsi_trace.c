/* SPDX-License-Identifier: BSD-3-Clause */
/* SCSI commands that were slow: names for people, and what a task says of its time. */
#include "trace.h"
#include "vhost_scsi.h"

/* SPC-4 and SBC-4; the service action says more, and is in none of them. */
static const char *const names[256] = {
	[0x00] = "TEST UNIT READY",
	[0x03] = "REQUEST SENSE",
	[0x08] = "READ(6)",
	[0x0a] = "WRITE(6)",
	[0x12] = "INQUIRY",
	[0x15] = "MODE SELECT(6)",
	[0x1a] = "MODE SENSE(6)",
	[0x1b] = "START STOP UNIT",
	[0x25] = "READ CAPACITY(10)",
	[0x28] = "READ(10)",
	[0x2a] = "WRITE(10)",
	[0x2e] = "WRITE VERIFY(10)",
	[0x2f] = "VERIFY(10)",
	[0x35] = "SYNC CACHE(10)",
	[0x41] = "WRITE SAME(10)",
	[0x42] = "UNMAP",
	[0x55] = "MODE SELECT(10)",
	[0x5a] = "MODE SENSE(10)",
	[0x5e] = "PR IN",
	[0x5f] = "PR OUT",
	[0x83] = "EXTENDED COPY",
	[0x84] = "COPY RESULTS",
	[0x88] = "READ(16)",
	[0x89] = "COMPARE WRITE",
	[0x8a] = "WRITE(16)",
	[0x8b] = "ORWRITE(16)",
	[0x8e] = "WRITE VERIFY(16)",
	[0x8f] = "VERIFY(16)",
	[0x91] = "SYNC CACHE(16)",
	[0x93] = "WRITE SAME(16)",
	[0x9c] = "WRITE ATOMIC(16)",
	[0x9e] = "SERVICE IN(16)",
	[0xa0] = "REPORT LUNS",
	[0xa3] = "MAINTENANCE IN",
	[0xa8] = "READ(12)",
	[0xaa] = "WRITE(12)",
	[0xae] = "WRITE VERIFY(12)",
	[0xaf] = "VERIFY(12)",
};

static const char *
status_name(const struct scsi_task *task)
{
	static const char *const outcomes[] = {
		[SCSI_OVERRUN] = "OVERRUN",
		[SCSI_ABORTED] = "ABORTED",
		[SCSI_RESET] = "RESET",
	};
	static const struct {
		uint8_t status;
		const char *name;
	} statuses[] = {
		{SCSI_GOOD, "GOOD"},
		{SCSI_CHECK_CONDITION, "CHECK CONDITION"},
		{SCSI_BUSY, "BUSY"},
		{SCSI_RESERVATION_CONFLICT, "RESERVATION CONFLICT"},
	};

	if (task->outcome != SCSI_COMPLETE)
		return outcomes[task->outcome];
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
		if (statuses[i].status == task->status)
			return statuses[i].name;
	}
	return NULL;
}

/*
 * What needed no device was waiting all the time: for the app thread, or for a copy. What goes piece
 * by piece is with the device from its first piece on; of its waiting that of the last one is known.
 */
static uint64_t
started(const struct vhost_scsi_request *request, uint64_t now)
{
	const struct scsi_task *task = &request->task;
	/* Of the task before, if this one has sent none. */
	const struct bdev_request *rq = (const struct bdev_request *)task->request;

	if (rq->submit_ticks < request->seen)
		return now;
	return (task->late_ticks > request->seen ? task->late_ticks : request->seen) +
	       bdev_request_waited(rq);
}

void
vhost_scsi_trace(const struct vhost_scsi_request *request)
{
	const struct scsi_task *task = &request->task;
	struct vhost_queue *queue = request->queue;
	struct vhost_trace_record *record =
		vhost_trace_add(queue, request->seen, started(request, *queue->clock));

	record->is_scsi = true;
	record->type = names[task->cdb[0]];
	record->opcode = task->cdb[0];
	record->target = request->path->target_number;
	record->lun = request->path->lun_number;
	record->tag = task->tag;
	record->lba = task->lba;
	/* UNMAP's are in its list. */
	record->blocks = task->blocks != UINT64_MAX ? task->blocks : 0;
	record->status = status_name(task);
}
