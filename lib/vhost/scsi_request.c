/* SPDX-License-Identifier: BSD-3-Clause */
/* The request queues: a chain is taken apart, becomes a SCSI task, and its outcome the response. */
#include <endian.h>
#include <string.h>

#include "iov.h"
#include "vhost_scsi.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define RESPONSE_MAX (VHOST_SCSI_RESPONSE_HEADER + VHOST_SCSI_SENSE_MAX)

_Static_assert(VIRTIO_SCSI_CDB_DEFAULT_SIZE == SCSI_CDB_MAX, "no CDB is cut by default");
_Static_assert(VHOST_SCSI_SENSE_MAX >= SCSI_SENSE_MAX, "sense data has room");

/* ---- responses ---- */

bool
vhost_scsi_take_response(struct iovec **iov, uint32_t *count, uint32_t size,
			 struct vhost_scsi_response *response)
{
	struct iovec *first = *iov;
	uint32_t left = size;

	response->whole = first;
	response->size = size;
	while (*count > 0 && first->iov_len < left) {
		left -= (uint32_t)first->iov_len;
		first++;
		(*count)--;
	}
	if (unlikely(*count == 0))
		return false;
	response->whole_count = (uint32_t)(first - response->whole);
	response->rest = first->iov_base;
	/* What is behind it in the same buffer is data. */
	first->iov_base = response->rest + left;
	first->iov_len -= left;
	if (first->iov_len == 0) {
		first++;
		(*count)--;
	}
	*iov = first;
	return true;
}

/* A response in several buffers. */
static __attribute__((noinline)) void
scatter_response(const struct vhost_scsi_response *response, const void *data, uint32_t length,
		 bool fill)
{
	uint8_t bytes[RESPONSE_MAX], *from = bytes;
	uint32_t left = fill ? response->size : length;

	memcpy(bytes, data, length);
	memset(bytes + length, 0, response->size - length);
	for (uint32_t i = 0; i < response->whole_count && left > 0; i++) {
		const struct iovec *iov = &response->whole[i];
		uint32_t part = iov->iov_len < left ? (uint32_t)iov->iov_len : left;

		memcpy(iov->iov_base, from, part);
		from += part;
		left -= part;
	}
	memcpy(response->rest, from, left);
}

void
vhost_scsi_put_response(const struct vhost_scsi_response *response, const void *data,
			uint32_t length, bool fill)
{
	if (unlikely(response->whole_count != 0)) {
		scatter_response(response, data, length, fill);
		return;
	}
	memcpy(response->rest, data, length);
	if (fill)
		memset(response->rest + length, 0, response->size - length);
}

/* GOOD, in the buffer of nearly every driver. */
static inline void
put_good(struct virtio_scsi_cmd_resp *good, uint32_t resid, bool fill)
{
	/* The driver aligns it as it likes. */
	_Static_assert(_Alignof(struct virtio_scsi_cmd_resp) == 1, "it is packed");
	good->sense_len = 0;
	good->resid = resid;
	good->status_qualifier = 0;
	good->status = SCSI_GOOD;
	good->response = VIRTIO_SCSI_S_OK;
	/* In halves: of more the compiler makes a `rep stos`, which takes longer. */
	if (fill) {
		memset(good->sense, 0, sizeof(good->sense) / 2);
		memset(good->sense + sizeof(good->sense) / 2, 0, sizeof(good->sense) / 2);
	}
}

/* ---- parsing ---- */

static inline uint64_t
adopt_header(struct scsi_task *task, const struct virtio_scsi_cmd_req *header, uint32_t cdb_size)
{
	uint64_t lun;

	memcpy(&lun, header->lun, sizeof(lun));
	task->tag = header->tag;
	task->attribute = header->task_attr;
	memcpy(task->cdb, header->cdb, sizeof(task->cdb));
	/* The compiler must not look at the driver's memory again instead of at the copy. */
	atomic_signal_fence(memory_order_seq_cst);
	task->cdb_length = (uint8_t)(cdb_size < SCSI_CDB_MAX ? cdb_size : SCSI_CDB_MAX);
	return lun;
}

/*
 * Any sizes and buffers. A CDB that is longer than any that is known here loses its end, which
 * nobody looks at.
 */
static __attribute__((noinline)) uint64_t
gather_header(struct scsi_task *task, uint32_t cdb_size)
{
	uint32_t kept = cdb_size < SCSI_CDB_MAX ? cdb_size : SCSI_CDB_MAX;
	struct virtio_scsi_cmd_req header = {0};
	uint8_t rest[VHOST_SCSI_CDB_MAX];

	vhost_iov_take(&task->out, &task->out_count, &header, VHOST_SCSI_REQUEST_HEADER);
	vhost_iov_take(&task->out, &task->out_count, header.cdb, kept);
	vhost_iov_take(&task->out, &task->out_count, rest, cdb_size - kept);
	return adopt_header(task, &header, cdb_size);
}

/*
 * The first buffer of nearly every driver is the header and nothing else: it is copied once.
 * Returns the LUN field.
 */
static inline uint64_t
take_header(struct scsi_task *task, const struct virtq_slot *slot, uint32_t cdb_size)
{
	const struct virtio_scsi_cmd_req *header = slot->iov->iov_base;

	if (likely(slot->iov->iov_len == sizeof(*header) && cdb_size == sizeof(header->cdb))) {
		task->out = slot->iov + 1;
		task->out_count = slot->readable_count - 1;
		return adopt_header(task, header, cdb_size);
	}
	task->out = slot->iov;
	task->out_count = slot->readable_count;
	return gather_header(task, cdb_size);
}

/* So is the first one that is to be filled with the response. */
static inline bool
take_response(struct scsi_task *task, const struct virtq_slot *slot, uint32_t size,
	      struct vhost_scsi_response *response)
{
	struct iovec *first = slot->iov + slot->readable_count;

	if (likely(first->iov_len == size)) {
		response->whole_count = 0;
		response->rest = first->iov_base;
		response->size = size;
		task->in = first + 1;
		task->in_count = slot->writable_count - 1;
		return true;
	}
	task->in = first;
	task->in_count = slot->writable_count;
	return vhost_scsi_take_response(&task->in, &task->in_count, size, response);
}

static inline __attribute__((always_inline)) bool
parse(struct virtq_slot *slot, uint32_t cdb_size, uint32_t sense_size,
      struct vhost_scsi_request *request, uint64_t *lun)
{
	uint32_t header_size = VHOST_SCSI_REQUEST_HEADER + cdb_size;
	uint32_t response_size = VHOST_SCSI_RESPONSE_HEADER + sense_size;
	struct scsi_task *task = &request->task;

	if (unlikely(slot->readable_bytes < header_size || slot->writable_bytes < response_size))
		return false;
	task->in_bytes = slot->writable_bytes - response_size;
	task->out_bytes = slot->readable_bytes - header_size;
	if (unlikely(!take_response(task, slot, response_size, &request->response)))
		return false;
	*lun = take_header(task, slot, cdb_size);
	return true;
}

bool
vhost_scsi_parse(struct virtq_slot *slot, uint32_t cdb_size, uint32_t sense_size,
		 struct vhost_scsi_request *request, uint64_t *lun)
{
	return parse(slot, cdb_size, sense_size, request, lun);
}

/* ---- the end ---- */

/* A request that never became a task. */
static __attribute__((noinline)) void
refuse(struct vhost_scsi_request *request, uint8_t code)
{
	const struct virtio_scsi_cmd_resp response = {.response = code};

	vhost_scsi_put_response(&request->response, &response, VHOST_SCSI_RESPONSE_HEADER, false);
	request->queue->counters[VHOST_ERRORS]++;
	vhost_queue_complete(request->queue, virtq_slot_from_ctx(request),
			     VHOST_SCSI_RESPONSE_HEADER);
}

/* virtio 1.2 §5.6.6.1.1 */
static const uint8_t codes[] = {
	[SCSI_COMPLETE] = VIRTIO_SCSI_S_OK,
	[SCSI_OVERRUN] = VIRTIO_SCSI_S_OVERRUN,
	[SCSI_ABORTED] = VIRTIO_SCSI_S_ABORTED,
	[SCSI_RESET] = VIRTIO_SCSI_S_RESET,
};

static uint32_t
residual(const struct scsi_task *task)
{
	uint64_t bytes =
		task->in_bytes + task->out_bytes - task->transferred_in - task->transferred_out;

	return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
}

/* Out of line, so that the others do without its registers. */
static __attribute__((noinline)) void
complete_slow(struct vhost_scsi_request *request, uint32_t length)
{
	vhost_scsi_trace(request);
	vhost_queue_complete(request->queue, virtq_slot_from_ctx(request), length);
}

static void
complete(struct vhost_scsi_request *request, uint32_t length)
{
	request->path->in_flight--;
	if (unlikely(vhost_queue_is_slow(request->queue, request->seen)))
		complete_slow(request, length);
	else
		vhost_queue_complete(request->queue, virtq_slot_from_ctx(request), length);
}

/*
 * The used length says that all up to there was written. So a response with data behind it is
 * written to its end.
 */
static __attribute__((noinline)) void
respond(struct vhost_scsi_request *request)
{
	const struct scsi_task *task = &request->task;
	uint32_t sense_size = request->response.size - VHOST_SCSI_RESPONSE_HEADER;
	struct virtio_scsi_cmd_resp response = {
		.sense_len = task->sense_length < sense_size ? task->sense_length : sense_size,
		.resid = residual(task),
		.status = task->outcome == SCSI_COMPLETE ? task->status : 0,
		.response = codes[task->outcome],
	};
	uint32_t length = VHOST_SCSI_RESPONSE_HEADER + response.sense_len;
	bool has_data = task->transferred_in > 0;

	memcpy(response.sense, task->sense, response.sense_len);
	vhost_scsi_put_response(&request->response, &response, length, has_data);
	if (task->outcome != SCSI_COMPLETE || task->status != SCSI_GOOD)
		request->queue->counters[VHOST_ERRORS]++;
	if (has_data)
		length = request->response.size + (uint32_t)task->transferred_in;
	complete(request, length);
}

/* What nearly every request ends with comes to the same without a copy. */
static void
on_done(struct scsi_task *task)
{
	struct vhost_scsi_request *request =
		(struct vhost_scsi_request *)((char *)task -
					      offsetof(struct vhost_scsi_request, task));
	const struct vhost_scsi_response *response = &request->response;
	uint32_t length = VHOST_SCSI_RESPONSE_HEADER;

	if (unlikely((task->outcome | task->status) != 0 || /* SCSI_COMPLETE, SCSI_GOOD */
		     response->whole_count != 0 ||
		     response->size != sizeof(struct virtio_scsi_cmd_resp))) {
		respond(request);
		return;
	}
	if (task->transferred_in > 0)
		length = sizeof(struct virtio_scsi_cmd_resp) + (uint32_t)task->transferred_in;
	put_good((struct virtio_scsi_cmd_resp *)response->rest, residual(task),
		 task->transferred_in > 0);
	complete(request, length);
}

/* ---- the beginning ---- */

void
vhost_scsi_request_init(struct vhost_queue *queue, struct virtq_slot *slot)
{
	struct vhost_scsi_request *request = (struct vhost_scsi_request *)slot->ctx;

	if (queue->index == VHOST_SCSI_CONTROL_QUEUE) {
		vhost_scsi_control_init(queue, slot);
		return;
	}
	request->queue = queue;
	request->task.done = on_done;
}

static inline void
start(struct vhost_scsi_request *request, struct vhost_scsi_channel *channel,
      struct vhost_scsi_path *path)
{
	struct scsi_task *task = &request->task;

	request->path = path;
	path->in_flight++;
	if (!path->submitted) {
		path->submitted = true;
		path->next_submitted = channel->submitted;
		channel->submitted = path;
	}
	task->target = path->target;
	task->lun = path->lun;
	task->channel = path->channel;
	scsi_submit(task);
}

/* What the request before was for: the next one nearly always is for the same. */
struct recent {
	uint64_t lun;
	struct vhost_scsi_path *path; /* NULL: there was none */
};

static __attribute__((noinline)) struct vhost_scsi_path *
find_any_path(const struct vhost_scsi_channel *channel, uint64_t lun)
{
	return vhost_scsi_find_path(channel, (const uint8_t *)&lun);
}

/* LUNs below 256 in peripheral device addressing, where there are any, without a call. */
static inline struct vhost_scsi_path *
find_path(const struct vhost_scsi_channel *channel, uint64_t lun)
{
	uint64_t number = le64toh(lun);
	struct vhost_scsi_paths *paths = channel->targets[number >> 8 & 0xff];

	if (likely((number & ~0xff00ff00ull) == 1 && paths != NULL &&
		   number >> 24 < paths->lun_count && paths->luns[number >> 24].lun != NULL))
		return &paths->luns[number >> 24];
	return find_any_path(channel, lun);
}

static inline __attribute__((always_inline)) void
handle_request(struct vhost_queue *queue, struct virtq_slot *slot, uint32_t cdb_size,
	       uint32_t sense_size, struct recent *recent)
{
	struct vhost_scsi_request *request = (struct vhost_scsi_request *)slot->ctx;
	const struct scsi_task *task = &request->task;
	uint64_t lun;

	if (unlikely(!parse(slot, cdb_size, sense_size, request, &lun))) {
		vhost_queue_complete(queue, slot, 0);
		virtq_break(queue->setup.vq, "request without a whole header or response");
		return;
	}
	request->seen = *queue->clock;
	if (unlikely(recent->lun != lun || recent->path == NULL))
		*recent = (struct recent){lun, find_path(queue->channel, lun)};
	if (unlikely(recent->path == NULL))
		refuse(request, VIRTIO_SCSI_S_BAD_TARGET);
	else if (unlikely((task->in_bytes != 0 && task->out_bytes != 0) ||
			  /* The used ring has 32 bits for the length. */
			  task->in_bytes > UINT32_MAX - RESPONSE_MAX))
		/* VIRTIO_SCSI_F_INOUT is not offered: no command here has data in both ways. */
		refuse(request, VIRTIO_SCSI_S_FAILURE);
	else
		start(request, queue->channel, recent->path);
}

static inline __attribute__((always_inline)) void
handle_all(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count, uint32_t cdb_size,
	   uint32_t sense_size)
{
	struct recent recent = {0}; /* only here: paths come and go between two calls */

	for (uint32_t i = 0; i < count; i++)
		handle_request(queue, slots[i], cdb_size, sense_size, &recent);
}

static void
flush(struct vhost_scsi_channel *channel)
{
	struct vhost_scsi_path *path;

	while ((path = channel->submitted) != NULL) {
		channel->submitted = path->next_submitted;
		path->submitted = false;
		if (path->channel != NULL)
			scsi_channel_flush(path->channel);
	}
}

void
vhost_scsi_handle(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count)
{
	struct vhost_scsi *scsi = queue->device;
	uint32_t cdb_size, sense_size;

	if (unlikely(queue->index == VHOST_SCSI_CONTROL_QUEUE)) {
		for (uint32_t i = 0; i < count; i++)
			vhost_scsi_handle_control(queue, slots[i]);
		return;
	}
	cdb_size = atomic_load_explicit(&scsi->cdb_size, memory_order_relaxed);
	sense_size = atomic_load_explicit(&scsi->sense_size, memory_order_relaxed);
	/* No driver is known that chooses others: for these the compiler knows them. */
	if (likely(cdb_size == VIRTIO_SCSI_CDB_DEFAULT_SIZE &&
		   sense_size == VIRTIO_SCSI_SENSE_DEFAULT_SIZE))
		handle_all(queue, slots, count, VIRTIO_SCSI_CDB_DEFAULT_SIZE,
			   VIRTIO_SCSI_SENSE_DEFAULT_SIZE);
	else
		handle_all(queue, slots, count, cdb_size, sense_size);
	flush(queue->channel);
}
