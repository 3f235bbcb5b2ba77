/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * EXTENDED COPY(LID1) between disks of one initiator (SPC-4 §5.17.4, §6.4), and what became of it.
 *
 * The parameter list is checked as a whole before anything is copied. Then a coroutine on the app
 * thread copies, by READ(16) and WRITE(16) tasks of its own, so that reservations, write protection,
 * task management and exclusion count for it as for everybody. The initiator sees its other disks,
 * but not those of other initiators.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define HEADER         16
#define CSCD_SIZE      32
#define SEGMENT_SIZE   28
#define IDENTIFICATION 0xe4 /* CSCD descriptor */
#define BLOCK_TO_BLOCK 0x02 /* segment descriptor */
#define NO_LIST_ID     3    /* LIST ID USAGE */
#define COPY_BYTES     (256u << 10)

struct copier {
	struct scsi_task *task;   /* the command; its buffer has the parameter list */
	struct completion *ended; /* of the present task */
	uint8_t *data;            /* behind it all */
	struct iovec iov;
	uint32_t cscd_count;
	uint32_t segments; /* bytes of segment descriptors */
	struct cscd {      /* a copy source or copy destination */
		struct scsi_lun *lun;
		struct scsi_channel *channel;
	} cscds[SCSI_CSCDS_MAX];
	_Alignas(64) struct scsi_task own;
};

struct segment {
	struct cscd *source, *destination;
	uint64_t source_lba, destination_lba; /* each in blocks of its disk */
	uint64_t bytes;
};

/* ---- the parameter list; true: the command has its status ---- */

static bool
refuse_byte(struct copier *copier, const uint8_t *at, int bit)
{
	return scsi_refuse_list(copier->task, (uint16_t)(at - copier->task->buffer), bit);
}

static bool
abort_copy(struct copier *copier, uint16_t code)
{
	return scsi_refuse(copier->task, SCSI_KEY_COPY_ABORTED, code);
}

static bool
refuse_header(struct copier *copier, uint32_t length)
{
	struct scsi_task *task = copier->task;
	const uint8_t *list = task->buffer;
	uint64_t cscds, segments, inline_data;

	if (length < HEADER)
		return scsi_illegal(task, SCSI_CODE_PARAMETER_LIST_LENGTH);
	cscds = get_be16(list + 2);
	segments = get_be32(list + 8);
	inline_data = get_be32(list + 12);
	if (HEADER + cscds + segments + inline_data > length ||
	    cscds + segments > SCSI_COPY_LIST_MAX || cscds % CSCD_SIZE != 0)
		return scsi_illegal(task, SCSI_CODE_PARAMETER_LIST_LENGTH);
	if (cscds > SCSI_CSCDS_MAX * CSCD_SIZE)
		return scsi_illegal(task, SCSI_CODE_TOO_MANY_CSCDS);
	if (segments > SCSI_SEGMENTS_MAX * SEGMENT_SIZE)
		return scsi_illegal(task, SCSI_CODE_TOO_MANY_SEGMENTS);
	if (inline_data != 0)
		return scsi_illegal(task, SCSI_CODE_INLINE_DATA);
	if (list[1] & 0xc0 || (list[1] >> 3 & 3) == 1)
		return refuse_byte(copier, list + 1, list[1] & 0xc0 ? 7 : 4);
	if (list[1] >> 3 == NO_LIST_ID && list[0] != 0)
		return refuse_byte(copier, list, -1);
	copier->cscd_count = (uint32_t)cscds / CSCD_SIZE;
	copier->segments = (uint32_t)segments;
	return false;
}

/* SPC-4 §6.4.5.3: an identification descriptor, whose designator is in the form of VPD page 83h. */
static bool
refuse_cscd(struct copier *copier, const uint8_t *bytes, struct cscd *cscd)
{
	uint32_t block_size = get_be24(bytes + 29);

	if (bytes[0] != IDENTIFICATION)
		return scsi_illegal(copier->task, SCSI_CODE_CSCD_TYPE);
	if (bytes[1] & 0x1f) /* a type that is no disk; LU ID TYPE and NUL are obsolete */
		return refuse_byte(copier, bytes + 1, 4);
	cscd->lun = scsi_lun_designated(copier->task->target, bytes + 4);
	if (cscd->lun != NULL)
		cscd->channel = scsi_channel_get(cscd->lun);
	if (cscd->channel == NULL)
		return abort_copy(copier, SCSI_CODE_COPY_DEVICE_UNREACHABLE);
	cscd->lun->users++;
	return block_size != 0 && block_size != cscd->lun->unit->info.block_size &&
	       refuse_byte(copier, bytes + 29, -1);
}

/* SPC-4 §6.4.6.7, the descriptor that begins with that byte: into *segment. */
static bool
refuse_segment(struct copier *copier, uint32_t at, struct segment *segment)
{
	const uint8_t *bytes = copier->task->buffer + HEADER + copier->cscd_count * CSCD_SIZE + at;
	uint32_t source, destination;
	const struct scsi_unit *from, *to;

	if (bytes[0] != BLOCK_TO_BLOCK)
		return scsi_illegal(copier->task, SCSI_CODE_SEGMENT_TYPE);
	if (copier->segments - at < SEGMENT_SIZE)
		return scsi_illegal(copier->task, SCSI_CODE_PARAMETER_LIST_LENGTH);
	if (get_be16(bytes + 2) != SEGMENT_SIZE - 4)
		return refuse_byte(copier, bytes + 2, -1);
	source = get_be16(bytes + 4);
	destination = get_be16(bytes + 6);
	if (source >= copier->cscd_count || destination >= copier->cscd_count)
		return abort_copy(copier, SCSI_CODE_COPY_TARGET_UNREACHABLE);
	*segment =
		(struct segment){&copier->cscds[source], &copier->cscds[destination],
				 get_be64(bytes + 12), get_be64(bytes + 20), get_be16(bytes + 10)};
	from = segment->source->lun->unit;
	to = segment->destination->lun->unit;
	segment->bytes *= bytes[1] & 0x02 ? to->info.block_size : from->info.block_size; /* DC */
	if (segment->bytes % from->info.block_size != 0 ||
	    segment->bytes % to->info.block_size != 0)
		return abort_copy(copier, SCSI_CODE_INEXACT_SEGMENT);
	if (!scsi_unit_has(from, segment->source_lba, segment->bytes >> from->block_shift) ||
	    !scsi_unit_has(to, segment->destination_lba, segment->bytes >> to->block_shift))
		return abort_copy(copier, SCSI_CODE_NONE);
	return false;
}

/* Nothing is copied unless all of it is right. */
static bool
refuse_list(struct copier *copier)
{
	const uint8_t *cscds = copier->task->buffer + HEADER;
	struct segment segment;
	bool refused = false;

	for (uint32_t i = 0; !refused && i < copier->cscd_count; i++)
		refused = refuse_cscd(copier, cscds + (size_t)i * CSCD_SIZE, &copier->cscds[i]);
	for (uint32_t at = 0; !refused && at < copier->segments; at += SEGMENT_SIZE)
		refused = refuse_segment(copier, at, &segment);
	return refused;
}

/* ---- copying; in a coroutine of its own ---- */

void
scsi_copied(struct scsi_task *own)
{
	struct copier *copier = (struct copier *)((char *)own - offsetof(struct copier, own));

	completion_signal(copier->ended, 0);
}

/* [waits] READ(16) or WRITE(16), so many bytes behind the block. Whether it was good. */
static bool
transfer(struct copier *copier, const struct cscd *cscd, uint8_t opcode, uint64_t lba,
	 uint64_t behind, size_t bytes)
{
	uint8_t shift = cscd->lun->unit->block_shift;
	struct scsi_task *own = &copier->own;

	copier->ended = scsi_completion_create();
	copier->iov = (struct iovec){copier->data, bytes};
	memset(own, 0, sizeof(*own));
	own->target = cscd->lun->target;
	own->lun = cscd->lun;
	own->channel = cscd->channel;
	own->out = own->in = &copier->iov;
	own->out_count = own->in_count = 1;
	own->out_bytes = own->in_bytes = bytes;
	own->cdb_length = 16;
	own->cdb[0] = opcode;
	put_be64(own->cdb + 2, lba + (behind >> shift));
	put_be32(own->cdb + 10, (uint32_t)(bytes >> shift));
	own->done = scsi_copied;
	scsi_submit(own);
	scsi_channel_flush(cscd->channel);
	completion_wait(copier->ended, WAIT_FOREVER);
	completion_put(copier->ended);
	return own->outcome == SCSI_COMPLETE && own->status == SCSI_GOOD;
}

/* [waits] */
static bool
copy_segment(struct copier *copier, const struct segment *segment)
{
	const struct cscd *source = segment->source, *destination = segment->destination;

	for (uint64_t done = 0, bytes; done < segment->bytes; done += bytes) {
		bytes = segment->bytes - done < COPY_BYTES ? segment->bytes - done : COPY_BYTES;
		if (atomic_load(&copier->task->aborted) || source->lun->left != NULL ||
		    destination->lun->left != NULL ||
		    !transfer(copier, source, 0x88, segment->source_lba, done, bytes) ||
		    !transfer(copier, destination, 0x8a, segment->destination_lba, done, bytes))
			return false;
		copier->task->target->copy.bytes += bytes;
	}
	copier->task->target->copy.segments++;
	return true;
}

/* The end of the command, with the outcome that it has. */
static void
copier_end(struct copier *copier)
{
	struct scsi_task *task = copier->task;

	for (uint32_t i = 0; i < SCSI_CSCDS_MAX && copier->cscds[i].channel != NULL; i++) {
		scsi_channel_put(copier->cscds[i].channel);
		scsi_lun_leave(copier->cscds[i].lun);
	}
	free(copier);
	scsi_task_back(task);
}

static void
run_copy(void *arg)
{
	struct copier *copier = arg;
	struct scsi_copy *copy = &copier->task->target->copy;
	struct segment segment;
	bool good = true;

	for (uint32_t at = 0; good && at < copier->segments; at += SEGMENT_SIZE)
		good = !refuse_segment(copier, at, &segment) && copy_segment(copier, &segment);
	if (!good && copier->task->status == SCSI_GOOD)
		abort_copy(copier, SCSI_CODE_THIRD_PARTY_FAILURE);
	copy->failed = !good;
	copy->running = false;
	copier_end(copier);
}

/* False: the command has its status. */
static bool
prepare(struct copier *copier, uint32_t length)
{
	struct scsi_copy *copy = &copier->task->target->copy;
	const uint8_t *list;
	bool has_id;

	if (!scsi_take_data_out(copier->task, length, 0) || refuse_header(copier, length))
		return false;
	list = copier->task->buffer;
	has_id = (list[1] >> 3 & 3) != NO_LIST_ID;
	/* What is held under the identifier goes, whatever becomes of the command. */
	copy->held = copy->held && (copy->running || !has_id || copy->list_id != list[0]);
	if (refuse_list(copier))
		return false;
	if (copy->running ||
	    coroutine_start(copier->task->target->app, "scsi_copy", run_copy, copier) != 0) {
		copier->task->status = SCSI_BUSY;
		return false;
	}
	*copy = (struct scsi_copy){
		.running = true, .held = (list[1] >> 3 & 3) == 0, .list_id = has_id ? list[0] : -1};
	return true;
}

/* App thread. */
static void
start_copy(void *arg)
{
	struct scsi_task *task = arg;
	uint32_t length = get_be32(task->cdb + 10);
	size_t size = (offsetof(struct copier, own) + scsi_task_size() + 63) & ~(size_t)63;
	struct copier *copier = aligned_alloc(64, size + COPY_BYTES);

	if (copier == NULL) {
		task->status = SCSI_BUSY;
		scsi_task_back(task);
		return;
	}
	memset(copier, 0, size + COPY_BYTES); /* null block devices read nothing */
	copier->task = task;
	copier->data = (uint8_t *)copier + size;
	if (length > SCSI_LIST_MAX)
		scsi_illegal(task, SCSI_CODE_PARAMETER_LIST_LENGTH);
	else if (length != 0 && prepare(copier, length))
		return;
	copier_end(copier);
}

bool
scsi_run_extended_copy(struct scsi_task *task)
{
	scsi_task_send(task, start_copy);
	return false;
}

/* ---- RECEIVE COPY STATUS(LID1) and OPERATING PARAMETERS, SPC-4 §6.22, §6.24 ---- */

bool
scsi_run_copy_status(struct scsi_task *task)
{
	struct scsi_copy *copy = &task->target->copy;
	uint8_t data[12] = {0};

	if (copy->list_id != task->cdb[2] || !(copy->running || copy->held))
		return scsi_refuse_cdb(task, 2, -1);
	put_be32(data, sizeof(data) - 4);
	data[4] = copy->running ? 0 : copy->failed ? 2 : 1;
	put_be16(data + 5, copy->segments);
	data[7] = 1; /* kibibytes */
	put_be32(data + 8, (uint32_t)(copy->bytes >> 10));
	copy->held = copy->held && copy->running;
	return scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
}

bool
scsi_run_copy_parameters(struct scsi_task *task)
{
	/* SNLID; one copy at a time, in multiples of 2^9 bytes; the descriptors' types. */
	/* clang-format off */
	static const uint8_t data[46] = {
		[3] = sizeof(data) - 4, 0x01, [9] = SCSI_CSCDS_MAX, 0, SCSI_SEGMENTS_MAX, 0, 0,
		SCSI_COPY_LIST_MAX >> 8, SCSI_COPY_LIST_MAX & 0xff, [35] = 1, 1, 9,
		[43] = 2, BLOCK_TO_BLOCK, IDENTIFICATION,
	};
	/* clang-format on */

	return scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
}
