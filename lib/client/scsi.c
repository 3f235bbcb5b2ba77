/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-scsi (virtio 1.2 §5.6.6): requests on one ring, the control queue, the event queue. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define REQUEST_HEADER  ((uint32_t)offsetof(struct virtio_scsi_cmd_req, cdb))
#define RESPONSE_HEADER ((uint32_t)offsetof(struct virtio_scsi_cmd_resp, sense))
#define NO_RESPONSE     0xff

/* Request and response of a slot, with the longest CDB and sense data. */
#define SLOT_SIZE     1024
#define MAX_SEGMENTS  1024
#define CONTROL_SIZE  128
#define CONTROL_REPLY 64
#define EVENT_SIZE    ((uint32_t)sizeof(struct virtio_scsi_event))

void
client_scsi_lun(uint8_t field[8], uint8_t target, uint16_t lun)
{
	const uint8_t bytes[8] = {1, target, lun < 256 ? 0 : 0x40 | lun >> 8, lun & 0xff};

	memcpy(field, bytes, sizeof(bytes));
}

/* ------------------------------------------------------------------------ requests */

int
client_scsi_create(struct client_scsi *scsi, struct client_ring *ring, uint32_t bounce_size,
		   bool indirect)
{
	int rc;

	memset(scsi, 0, sizeof(*scsi));
	scsi->ring = ring;
	scsi->bounce_size = bounce_size;
	scsi->cdb_size = VIRTIO_SCSI_CDB_DEFAULT_SIZE;
	scsi->sense_size = VIRTIO_SCSI_SENSE_DEFAULT_SIZE;
	scsi->indirect = indirect;
	scsi->timeout_ms = 5000;
	rc = slots_create(&scsi->slots, ring, SLOT_SIZE);
	if (rc == 0 && bounce_size > 0)
		rc = client_memory_alloc(ring->memory, bounce_size, 4096, &scsi->bounce_gpa);
	if (rc < 0)
		client_scsi_destroy(scsi);
	return rc;
}

void
client_scsi_destroy(struct client_scsi *scsi)
{
	free(scsi->slots);
	scsi->slots = NULL;
}

static void
fill_slot(const struct client_scsi *scsi, struct client_slot *slot,
	  const struct client_scsi_request *request)
{
	struct virtio_scsi_cmd_req header = {.tag = request->tag, .task_attr = request->attribute};
	uint32_t length =
		request->cdb_length < scsi->cdb_size ? request->cdb_length : scsi->cdb_size;

	memcpy(header.lun, request->lun, sizeof(header.lun));
	memset(slot->memory, 0, CLIENT_SCSI_RESPONSE_AT);
	memcpy(slot->memory, &header, REQUEST_HEADER);
	memcpy(slot->memory + REQUEST_HEADER, request->cdb, length);
	memset(slot->memory + CLIENT_SCSI_RESPONSE_AT, NO_RESPONSE,
	       SLOT_SIZE - CLIENT_SCSI_RESPONSE_AT);
}

int
client_scsi_prepare(struct client_scsi *scsi, const struct client_scsi_request *request)
{
	struct client_slot *slot = slots_find(scsi->slots, scsi->ring);
	struct client_segment segments[MAX_SEGMENTS + 2];
	unsigned int count = 0, i;
	bool answered = false;
	int rc;

	if (request->segment_count > MAX_SEGMENTS)
		return -EINVAL;
	if (!slot)
		return -ENOSPC;
	fill_slot(scsi, slot, request);
	segments[count++] =
		(struct client_segment){slot->gpa, REQUEST_HEADER + scsi->cdb_size, false};
	for (i = 0; i <= request->segment_count; i++) {
		if (!answered &&
		    (i == request->segment_count || request->segments[i].device_writes)) {
			segments[count++] =
				(struct client_segment){slot->gpa + CLIENT_SCSI_RESPONSE_AT,
							RESPONSE_HEADER + scsi->sense_size, true};
			answered = true;
		}
		if (i < request->segment_count)
			segments[count++] = request->segments[i];
	}
	rc = client_ring_add(scsi->ring, segments, count, scsi->indirect, slot - scsi->slots);
	if (rc < 0)
		return rc;
	slot->tag = request->tag;
	slot->busy = true;
	return 0;
}

int
client_scsi_submit(struct client_scsi *scsi, const struct client_scsi_request *request)
{
	int rc = client_scsi_prepare(scsi, request);

	return rc < 0 ? rc : ring_submit(scsi->ring);
}

int
client_scsi_reap(struct client_scsi *scsi, struct client_scsi_completion *completion)
{
	uint32_t size = RESPONSE_HEADER + scsi->sense_size;
	struct client_slot *slot;
	int rc = slots_reap(scsi->slots, scsi->ring, &slot, &completion->used_len);

	if (rc <= 0)
		return rc;
	completion->tag = slot->tag;
	memset(&completion->response, NO_RESPONSE, sizeof(completion->response));
	if (size > sizeof(completion->response))
		size = sizeof(completion->response);
	memcpy(&completion->response, slot->memory + CLIENT_SCSI_RESPONSE_AT, size);
	return 1;
}

int
client_scsi_wait(struct client_scsi *scsi, struct client_scsi_completion *completion,
		 int timeout_ms)
{
	int rc;

	rc = client_ring_wait(scsi->ring, timeout_ms);
	if (rc < 0)
		return rc;
	rc = client_scsi_reap(scsi, completion);
	/* 0: the device took its used index back. */
	return rc > 0 ? 0 : rc < 0 ? rc : -EPROTO;
}

int
client_scsi_execute(struct client_scsi *scsi, const struct client_scsi_request *request,
		    struct client_scsi_completion *completion)
{
	int rc;

	if (scsi->ring->outstanding > 0)
		return -EBUSY;
	rc = client_scsi_submit(scsi, request);
	if (rc < 0)
		return rc;
	return client_scsi_wait(scsi, completion, scsi->timeout_ms);
}

/* ------------------------------------------------------------------------ commands */

int
client_scsi_command(struct client_scsi *scsi, const struct client_scsi_command *command,
		    struct client_scsi_completion *completion)
{
	struct client_segment segment = {scsi->bounce_gpa, command->size, command->in != NULL};
	struct client_scsi_request request = {
		.cdb = command->cdb,
		.cdb_length = command->cdb_length,
		.segments = &segment,
		.segment_count = command->size > 0,
	};
	uint32_t got;
	int rc;

	if (command->size > scsi->bounce_size)
		return -EINVAL;
	client_scsi_lun(request.lun, command->target, command->lun);
	if (command->out)
		client_memory_write(scsi->ring->memory, scsi->bounce_gpa, command->out,
				    command->size);
	rc = client_scsi_execute(scsi, &request, completion);
	if (rc < 0 || !command->in)
		return rc;
	if (completion->response.resid > command->size)
		return -EPROTO;
	got = command->size - completion->response.resid;
	return client_memory_read(scsi->ring->memory, scsi->bounce_gpa, command->in, got);
}

/* What READ and WRITE end with. expected: the used length when all is well. */
static int
result_of(const struct client_scsi_completion *completion, uint32_t expected)
{
	const struct virtio_scsi_cmd_resp *response = &completion->response;

	if (response->response != VIRTIO_SCSI_S_OK || response->status != 0)
		return response->response << 8 | response->status;
	return response->resid == 0 && response->sense_len == 0 && completion->used_len == expected
		       ? 0
		       : -EPROTO;
}

static void
fill_cdb10(uint8_t cdb[10], uint8_t opcode, uint32_t lba, uint16_t blocks)
{
	const uint8_t bytes[10] = {
		opcode,     0, lba >> 24,          lba >> 16 & 0xff, lba >> 8 & 0xff,
		lba & 0xff, 0, blocks >> 8 & 0xff, blocks & 0xff,
	};

	memcpy(cdb, bytes, sizeof(bytes));
}

int
client_scsi_read(struct client_scsi *scsi, uint8_t target, uint16_t lun, uint32_t lba,
		 uint16_t blocks, void *data, uint32_t size)
{
	struct client_scsi_completion completion;
	uint8_t cdb[10];
	struct client_scsi_command command = {.target = target,
					      .lun = lun,
					      .cdb = cdb,
					      .cdb_length = sizeof(cdb),
					      .in = data,
					      .size = size};
	int rc;

	fill_cdb10(cdb, 0x28, lba, blocks);
	rc = client_scsi_command(scsi, &command, &completion);
	return rc < 0 ? rc : result_of(&completion, RESPONSE_HEADER + scsi->sense_size + size);
}

int
client_scsi_write(struct client_scsi *scsi, uint8_t target, uint16_t lun, uint32_t lba,
		  uint16_t blocks, const void *data, uint32_t size)
{
	struct client_scsi_completion completion;
	uint8_t cdb[10];
	struct client_scsi_command command = {.target = target,
					      .lun = lun,
					      .cdb = cdb,
					      .cdb_length = sizeof(cdb),
					      .out = data,
					      .size = size};
	int rc;

	fill_cdb10(cdb, 0x2a, lba, blocks);
	rc = client_scsi_command(scsi, &command, &completion);
	return rc < 0 ? rc : result_of(&completion, RESPONSE_HEADER);
}

/* ------------------------------------------------------------------------ control queue */

int
client_scsi_control_create(struct client_scsi_control *control, struct client_ring *ring)
{
	int rc;

	memset(control, 0, sizeof(*control));
	control->ring = ring;
	control->timeout_ms = 5000;
	rc = client_memory_alloc(ring->memory, CONTROL_SIZE, 64, &control->gpa);
	if (rc < 0)
		return rc;
	control->request = client_memory_ptr(ring->memory, control->gpa, CONTROL_SIZE);
	control->response = control->request + CONTROL_REPLY;
	return 0;
}

int
client_scsi_control_submit(struct client_scsi_control *control, const void *request, uint32_t size,
			   uint32_t response_size)
{
	struct client_segment segments[2] = {
		{control->gpa, size, false},
		{control->gpa + CONTROL_REPLY, response_size, true},
	};
	int rc;

	if (size > CONTROL_REPLY || response_size > CONTROL_SIZE - CONTROL_REPLY)
		return -EINVAL;
	memcpy(control->request, request, size);
	memset((uint8_t *)control->response, NO_RESPONSE, CONTROL_SIZE - CONTROL_REPLY);
	rc = client_ring_add(control->ring, segments, response_size > 0 ? 2 : 1, false, 0);
	if (rc < 0)
		return rc;
	return ring_submit(control->ring);
}

int
client_scsi_control_wait(struct client_scsi_control *control, uint32_t *used_len)
{
	struct client_used used;
	int rc;

	rc = client_ring_wait(control->ring, control->timeout_ms);
	if (rc < 0)
		return rc;
	rc = client_ring_pop(control->ring, &used);
	if (rc <= 0)
		return rc < 0 ? rc : -EPROTO;
	*used_len = used.len;
	return 0;
}

int
client_scsi_tmf(struct client_scsi_control *control, uint32_t function, const uint8_t lun[8],
		uint64_t tag)
{
	struct virtio_scsi_ctrl_tmf_req request = {
		.type = VIRTIO_SCSI_T_TMF, .subtype = function, .tag = tag};
	uint32_t used_len = 0;
	int rc;

	memcpy(request.lun, lun, sizeof(request.lun));
	rc = client_scsi_control_submit(control, &request, sizeof(request), 1);
	if (rc == 0)
		rc = client_scsi_control_wait(control, &used_len);
	if (rc < 0)
		return rc;
	return used_len == 1 ? control->response[0] : -EPROTO;
}

/* ------------------------------------------------------------------------ event queue */

int
client_scsi_events_create(struct client_scsi_events *events, struct client_ring *ring)
{
	memset(events, 0, sizeof(*events));
	events->ring = ring;
	return client_memory_alloc(ring->memory, (uint64_t)ring->size * EVENT_SIZE, 64,
				   &events->gpa);
}

int
client_scsi_events_offer(struct client_scsi_events *events, uint16_t count)
{
	struct client_segment segment = {0, EVENT_SIZE, true};
	int rc = 0;

	for (; count > 0 && rc == 0; count--) {
		uint16_t index = events->next++ % events->ring->size;

		segment.gpa = events->gpa + (uint64_t)index * EVENT_SIZE;
		rc = client_ring_add(events->ring, &segment, 1, false, index);
	}
	if (rc < 0)
		return rc;
	return ring_submit(events->ring);
}

int
client_scsi_events_wait(struct client_scsi_events *events, struct virtio_scsi_event *event,
			int timeout_ms)
{
	struct client_used used;
	int rc;

	rc = client_ring_wait(events->ring, timeout_ms);
	if (rc < 0)
		return rc;
	rc = client_ring_pop(events->ring, &used);
	if (rc <= 0)
		return rc < 0 ? rc : -EPROTO;
	if (used.len != EVENT_SIZE)
		return -EPROTO;
	return client_memory_read(events->ring->memory, events->gpa + used.tag * EVENT_SIZE, event,
				  sizeof(*event));
}
