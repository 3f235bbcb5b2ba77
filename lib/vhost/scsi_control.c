/* SPDX-License-Identifier: BSD-3-Clause */
/* The control queue (virtio 1.2 §5.6.6.2): task management, asynchronous notification. */
#include <string.h>

#include "controller.h"
#include "iov.h"
#include "session.h"
#include "vhost_scsi.h"

/* What is in a slot of the control queue. */
struct control_request {
	/* set once */
	struct vhost_queue *queue;

	struct vhost_scsi_path *path;
	struct vhost_scsi_response response;
	struct scsi_tmf tmf;
	struct vhost_sync sync;
};

static void
finish(struct control_request *request, const void *response, uint32_t length)
{
	vhost_scsi_put_response(&request->response, response, length, false);
	vhost_queue_complete(request->queue, virtq_slot_from_ctx(request), length);
}

/* ---- task management functions ---- */

_Static_assert((int)SCSI_ABORT_TASK == VIRTIO_SCSI_T_TMF_ABORT_TASK &&
		       (int)SCSI_ABORT_TASK_SET == VIRTIO_SCSI_T_TMF_ABORT_TASK_SET &&
		       (int)SCSI_CLEAR_ACA == VIRTIO_SCSI_T_TMF_CLEAR_ACA &&
		       (int)SCSI_CLEAR_TASK_SET == VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET &&
		       (int)SCSI_I_T_NEXUS_RESET == VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET &&
		       (int)SCSI_LOGICAL_UNIT_RESET == VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET &&
		       (int)SCSI_QUERY_TASK == VIRTIO_SCSI_T_TMF_QUERY_TASK &&
		       (int)SCSI_QUERY_TASK_SET == VIRTIO_SCSI_T_TMF_QUERY_TASK_SET,
	       "the numbers are the same");

static void
finish_tmf(void *arg)
{
	static const uint8_t codes[] = {
		[SCSI_FUNCTION_COMPLETE] = VIRTIO_SCSI_S_OK,
		[SCSI_FUNCTION_SUCCEEDED] = VIRTIO_SCSI_S_FUNCTION_SUCCEEDED,
		[SCSI_FUNCTION_REJECTED] = VIRTIO_SCSI_S_FUNCTION_REJECTED,
		[SCSI_INCORRECT_LUN] = VIRTIO_SCSI_S_INCORRECT_LUN,
	};
	struct control_request *request = arg;

	request->path->in_flight--;
	finish(request, &codes[request->tmf.response], 1);
}

static void
publish_queues(struct vhost_thread *thread)
{
	struct vhost_queue *queue;

	LIST_FOREACH (queue, &thread->queues, link)
		vhost_queue_publish(queue);
}

/*
 * What was aborted is over, and given back, but perhaps not visible in its used ring: that is on
 * another thread. Drivers look there when they see this response, and take what they do not find
 * then for their own again. So all threads publish first.
 */
static void
on_tmf_done(struct scsi_tmf *tmf)
{
	struct control_request *request =
		(struct control_request *)((char *)tmf - offsetof(struct control_request, tmf));

	vhost_threads_visit(&request->queue->session->controller->threads, &request->sync,
			    publish_queues, finish_tmf, request);
}

/*
 * Requests that the driver put into a ring before this function are received before it, also where
 * no thread has looked there yet (SAM-5 §7: what it manages is what was received by then). So each
 * thread takes what is there now.
 */
static void
take_requests(struct vhost_thread *thread)
{
	struct vhost_queue *queue;

	LIST_FOREACH (queue, &thread->queues, link) {
		if (queue->index >= VHOST_SCSI_REQUEST_QUEUES)
			vhost_queue_take(queue);
	}
}

static void
submit_tmf(void *arg)
{
	struct control_request *request = arg;

	scsi_tmf_submit(&request->tmf);
}

static void
start_tmf(struct control_request *request, const void *bytes)
{
	struct virtio_scsi_ctrl_tmf_req header;
	struct scsi_tmf *tmf = &request->tmf;
	struct vhost_scsi_path *path;

	memcpy(&header, bytes, sizeof(header));
	path = vhost_scsi_find_path(request->queue->channel, header.lun);
	if (path == NULL) {
		finish(request, &(uint8_t){VIRTIO_SCSI_S_BAD_TARGET}, 1);
		return;
	}
	request->path = path;
	path->in_flight++;
	tmf->function =
		header.subtype < SCSI_TMF_FUNCTIONS ? (uint8_t)header.subtype : SCSI_TMF_FUNCTIONS;
	tmf->target = path->target;
	tmf->lun = path->lun;
	tmf->tag = header.tag;
	vhost_threads_visit(&request->queue->session->controller->threads, &request->sync,
			    take_requests, submit_tmf, request);
}

/* ---- asynchronous notification: of nothing that SCSI has (virtio 1.2 §5.6.6.2) ---- */

static void
start_notification(struct control_request *request, const void *bytes)
{
	struct virtio_scsi_ctrl_an_resp response = {.response = VIRTIO_SCSI_S_OK};
	struct virtio_scsi_ctrl_an_req header;
	const struct vhost_scsi_path *path;

	memcpy(&header, bytes, sizeof(header));
	path = vhost_scsi_find_path(request->queue->channel, header.lun);
	if (path == NULL)
		response.response = VIRTIO_SCSI_S_BAD_TARGET;
	else if (path->lun == NULL)
		response.response = VIRTIO_SCSI_S_INCORRECT_LUN;
	finish(request, &response, sizeof(response));
}

/* ---- all of them ---- */

static const struct control_type {
	uint32_t size, response_size; /* bytes */
	void (*start)(struct control_request *request, const void *bytes);
} types[] = {
	[VIRTIO_SCSI_T_TMF] = {sizeof(struct virtio_scsi_ctrl_tmf_req),
			       sizeof(struct virtio_scsi_ctrl_tmf_resp), start_tmf},
	[VIRTIO_SCSI_T_AN_QUERY] = {sizeof(struct virtio_scsi_ctrl_an_req),
				    sizeof(struct virtio_scsi_ctrl_an_resp), start_notification},
	[VIRTIO_SCSI_T_AN_SUBSCRIBE] = {sizeof(struct virtio_scsi_ctrl_an_req),
					sizeof(struct virtio_scsi_ctrl_an_resp),
					start_notification},
};
#define TYPES        (sizeof(types) / sizeof(types[0]))
#define REQUEST_MAX  sizeof(struct virtio_scsi_ctrl_tmf_req)
#define REQUEST_TYPE sizeof(uint32_t)

/* NULL, or why the chain is none that can be answered. */
static const char *
start(struct control_request *request, struct virtq_slot *slot)
{
	struct iovec *out = slot->iov, *in = slot->iov + slot->readable_count;
	uint32_t out_count = slot->readable_count, in_count = slot->writable_count;
	const struct control_type *type;
	uint8_t bytes[REQUEST_MAX];
	uint32_t number;

	if (!vhost_iov_take(&out, &out_count, &number, REQUEST_TYPE))
		return "control request without a type";
	type = number < TYPES ? &types[number] : NULL;
	if (type == NULL)
		return "control request of an unknown type";
	memcpy(bytes, &number, REQUEST_TYPE);
	if (!vhost_iov_take(&out, &out_count, bytes + REQUEST_TYPE, type->size - REQUEST_TYPE) ||
	    !vhost_scsi_take_response(&in, &in_count, type->response_size, &request->response))
		return "control request without a whole header or response";
	type->start(request, bytes);
	return NULL;
}

size_t
vhost_scsi_control_size(void)
{
	return sizeof(struct control_request);
}

void
vhost_scsi_control_init(struct vhost_queue *queue, struct virtq_slot *slot)
{
	struct control_request *request = (struct control_request *)slot->ctx;

	request->queue = queue;
	request->tmf.done = on_tmf_done;
}

void
vhost_scsi_handle_control(struct vhost_queue *queue, struct virtq_slot *slot)
{
	const char *reason = start((struct control_request *)slot->ctx, slot);

	if (reason == NULL)
		return;
	vhost_queue_complete(queue, slot, 0);
	virtq_break(queue->setup.vq, reason);
}
