/* SPDX-License-Identifier: BSD-3-Clause */
#include "session.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controller.h"
#include "coroutine.h"
#include "drain.h"
#include "log.h"
#include "mapping.h"
#include "notifier.h"

#define VHOST_USER_F_PROTOCOL_FEATURES 30

const char *
vhost_session_name(const struct vhost_session *session)
{
	return session->controller->name;
}

static bool
has_feature(const struct vhost_session *session, unsigned int bit)
{
	return session->features >> bit & 1;
}

static void
replace_fd(int *fd, int new_fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = new_fd;
}

/* ---- main thread ---- */

/* What it has counted is not lost; it begins anew. */
static void
take_counters(struct vhost_queue *queue)
{
	struct vhost_controller *controller = queue->session->controller;

	for (int i = 0; i < VHOST_COUNTERS; i++)
		controller->counters[queue->index][i] += queue->counters[i];
	memset(queue->counters, 0, sizeof(queue->counters));
	queue->published = 0;
	controller->stops++;
}

void
vhost_session_queue_stopped(void *arg)
{
	struct vhost_queue *queue = arg;
	struct vhost_session *session = queue->session;
	vhost_queue_set bit = vhost_queue_set_of(queue->index);
	struct vhost_drain **link = &session->drains, *drain;

	take_counters(queue);
	session->busy &= ~bit;
	session->stopping &= ~bit;
	while ((drain = *link) != NULL) {
		drain->mask &= ~bit;
		if (drain->mask != 0) {
			link = &drain->next;
			continue;
		}
		vhost_drain_end(link);
	}
	if (session->released && session->busy == 0)
		vhost_controller_detach(session->controller, session);
}

/* Those of mask that wait for another session are on no thread yet. */
static void
forget_waiting(struct vhost_session *session, vhost_queue_set mask)
{
	mask &= session->waiting;
	session->waiting &= ~mask;
	for (; mask != 0; mask &= mask - 1)
		vhost_session_queue_stopped(&session->queues[vhost_queue_set_first(mask)]);
}

static void
send_start(struct vhost_queue *queue)
{
	thread_send(queue->home->thread, &queue->start_msg, vhost_queue_start, queue);
}

/* Each queue is told once, behind its start and before it can be started again. */
static void
send_stop(struct vhost_session *session, vhost_queue_set mask)
{
	forget_waiting(session, mask);
	mask &= session->busy & ~session->stopping;
	session->stopping |= mask;
	for (; mask != 0; mask &= mask - 1) {
		struct vhost_queue *queue = &session->queues[vhost_queue_set_first(mask)];

		thread_send(queue->home->thread, &queue->stop_msg, vhost_queue_stop, queue);
	}
}

uint32_t
vhost_session_stop_all(struct vhost_session *session)
{
	send_stop(session, VHOST_QUEUE_SET_ALL);
	return vhost_queue_set_count(session->busy);
}

void
vhost_session_start_waiting(struct vhost_session *session)
{
	vhost_queue_set mask = session->waiting;

	while (session->waiters != NULL)
		vhost_drain_end(&session->waiters);
	session->waiting = 0;
	for (; mask != 0; mask &= mask - 1)
		send_start(&session->queues[vhost_queue_set_first(mask)]);
}

static int
attach_on_thread(void *arg)
{
	struct vhost_session *session = *(struct vhost_session **)arg;

	if (session->controller->closing)
		return -ESHUTDOWN;
	session->attached = true;
	vhost_controller_attach(session->controller, session);
	return 0;
}

static int
start_on_thread(void *arg)
{
	struct vhost_queue *queue = *(struct vhost_queue **)arg;
	struct vhost_session *session = queue->session;

	if (session->controller->closing)
		return -ESHUTDOWN;
	session->busy |= vhost_queue_set_of(queue->index);
	if (vhost_controller_must_wait(session->controller, session))
		session->waiting |= vhost_queue_set_of(queue->index);
	else
		send_start(queue);
	return 0;
}

static void
stop_on_thread(void *arg)
{
	struct vhost_drain *drain = arg;
	struct vhost_session *session = drain->session;
	vhost_queue_set mask = drain->mask & session->busy;

	drain->mask = mask;
	drain->next = session->drains;
	session->drains = drain;
	if (mask == 0)
		vhost_drain_end(&session->drains);
	else
		send_stop(session, mask);
}

static void
wait_on_thread(void *arg)
{
	struct vhost_drain *drain = arg;
	struct vhost_session *session = drain->session;

	drain->next = session->waiters;
	session->waiters = drain;
	if (!vhost_controller_must_wait(session->controller, session))
		vhost_drain_end(&session->waiters);
}

/* ---- the queue's thread ---- */

/* The queue's start has run before, unless it waits for another session. */
static int
start_result(void *arg)
{
	return (*(struct vhost_queue **)arg)->start_rc;
}

struct fds_call {
	struct vhost_queue *queue;
	int call_fd;
	int err_fd;
	int old; /* not used any more, or -1 */
};

static int
set_fds_on_thread(void *arg)
{
	struct fds_call *call = arg;

	vhost_queue_set_fds(call->queue, call->call_fd, call->err_fd);
	replace_fd(&call->old, -1);
	return 0;
}

/* ---- vhost-events thread: starting and stopping queues ---- */

static int
translate_part(const struct vhost_mem *memory, uint64_t user_addr, struct virtq_part part,
	       void **where)
{
	*where = vhost_mem_from_user(memory, user_addr, part.bytes);
	if (*where == NULL)
		return -EFAULT;
	return (uintptr_t)*where % part.align == 0 ? 0 : -EINVAL;
}

/*
 * Where the three parts of a ring of that size are in memory; -EFAULT or -EINVAL when they cannot
 * be used.
 */
static int
translate(const struct vhost_session *session, const struct vhost_ring_addr *addr, uint32_t size,
	  struct virtq_opts *opts)
{
	struct virtq_layout layout =
		virtq_layout((uint16_t)size, has_feature(session, VIRTIO_F_RING_PACKED),
			     has_feature(session, VIRTIO_RING_F_EVENT_IDX));
	int rc;

	rc = translate_part(session->memory, addr->desc, layout.desc, &opts->desc);
	if (rc == 0)
		rc = translate_part(session->memory, addr->avail, layout.avail, &opts->avail);
	if (rc == 0)
		rc = translate_part(session->memory, addr->used, layout.used, &opts->used);
	return rc;
}

/* Where a queue that the front-end has said nothing about begins. */
static uint32_t
first_base(const struct vhost_session *session)
{
	return has_feature(session, VIRTIO_F_RING_PACKED) ? VIRTQ_PACKED_BASE_NEW : 0;
}

static uint32_t
base_of(const struct vhost_session *session, uint32_t index)
{
	const struct vhost_vring *vring = &session->vrings[index];

	return vring->has_base ? vring->base : first_base(session);
}

static int
create_virtq(struct vhost_session *session, uint32_t index, struct virtq **vq)
{
	const struct vhost_vring *vring = &session->vrings[index];
	const struct vhost_device_ops *ops = session->controller->ops;
	struct virtq_opts opts = {
		.size = (uint16_t)vring->size,
		.packed = has_feature(session, VIRTIO_F_RING_PACKED),
		.event_idx = has_feature(session, VIRTIO_RING_F_EVENT_IDX),
		.mem = session->memory->map,
		.base = base_of(session, index),
		.inflight_reset = vring->base_holds,
		.max_segments = ops->max_segments,
		.ctx_size = ops->request_size(session->controller->device),
		.indirect = has_feature(session, VIRTIO_RING_F_INDIRECT_DESC),
	};
	int rc;

	rc = translate(session, &vring->addr, vring->size, &opts);
	if (rc == 0)
		rc = vhost_inflight_get_part(session->inflight, index, &opts);
	if (rc == 0)
		rc = virtq_create(&opts, vq);
	if (rc != 0)
		return rc;
	for (uint32_t i = 0; i < vring->size; i++)
		ops->request_init(&session->queues[index], virtq_slot_at(*vq, i));
	return 0;
}

/*
 * It does not start. What the front-end did wrong just now is the answer to its message. A region
 * that makes no sense is an old sin: the driver is told by the error eventfd, and the connection
 * goes on.
 */
static int
refuse_queue(struct vhost_session *session, uint32_t index, int rc)
{
	struct vhost_vring *vring = &session->vrings[index];
	const char *reason = rc == -ERANGE   ? "the in-flight region has no room for it"
			     : rc == -EPROTO ? "its part of the in-flight region makes no sense"
					     : strerror(-rc);

	log_warn("vhost %s: queue %u: cannot be started: %s", vhost_session_name(session), index,
		 reason);
	if (rc != -EPROTO)
		return rc;
	vring->bad_region = true;
	if (vring->err_fd >= 0)
		vhost_notify(vring->err_fd);
	return 0;
}

static uint32_t
count_queues_on(const struct vhost_session *session, const struct vhost_thread *thread)
{
	uint32_t count = 0;

	for (uint32_t i = session->controller->ops->light_queues;
	     i < session->controller->queue_count; i++)
		count += session->vrings[i].running && session->queues[i].home == thread;
	return count;
}

/*
 * The thread for one more queue: one that has none, a new one, or the one with the fewest. With
 * equal numbers the first: n queues are the same on each thread every time.
 */
static struct vhost_thread *
choose_thread(struct vhost_session *session, uint32_t index)
{
	struct vhost_threads *threads = &session->controller->threads;
	struct vhost_thread *best = NULL, *another;
	uint32_t best_count = UINT32_MAX;

	if (index < session->controller->ops->light_queues)
		return &threads->threads[0];
	for (uint32_t i = 0; i < threads->usable; i++) {
		uint32_t count = count_queues_on(session, &threads->threads[i]);

		if (count < best_count) {
			best = &threads->threads[i];
			best_count = count;
		}
	}
	if (best_count == 0 || session->no_more_threads || threads->usable >= threads->max)
		return best;
	another = vhost_threads_add(session->controller);
	session->no_more_threads = another == NULL;
	return another != NULL ? another : best;
}

/* Which of the queues in mask the controller's threads have. */
static vhost_queue_set
running_queues(const struct vhost_session *session, vhost_queue_set mask)
{
	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		if (!session->vrings[i].running)
			mask &= ~vhost_queue_set_of(i);
	}
	return mask;
}

/* Stops those of mask that run, and takes their virtqs back. */
static int
stop_queues(struct vhost_session *session, vhost_queue_set mask)
{
	int rc;

	mask = running_queues(session, mask);
	if (mask == 0)
		return 0;
	rc = vhost_drain_wait(session, mask, stop_on_thread);
	if (rc != 0)
		return rc;
	for (; mask != 0; mask &= mask - 1) {
		uint32_t index = vhost_queue_set_first(mask);
		struct vhost_vring *vring = &session->vrings[index];
		struct virtq *vq = session->queues[index].setup.vq;

		vring->base = virtq_base(vq);
		vring->has_base = true;
		vring->drained = virtq_waiting(vq) == 0;
		virtq_destroy(vq);
		vring->running = false;
	}
	return 0;
}

/*
 * 0 when it runs or waits for another session's requests; it can be stopped in any case. After
 * -ETIMEDOUT it may yet start.
 */
static int
send_to_thread(struct vhost_session *session, struct vhost_queue *queue)
{
	int rc;

	queue->home = choose_thread(session, queue->index);
	queue->start_rc = 0;
	rc = thread_call_within(vhost_main_thread(session->controller), VHOST_ANSWER_US,
				start_on_thread, &queue, sizeof(queue));
	if (rc != 0)
		return rc;
	return thread_call_within(queue->home->thread, VHOST_ANSWER_US, start_result, &queue,
				  sizeof(queue));
}

/*
 * Whether a queue goes on from somewhere, by what the front-end has said and has. Also one that is
 * yet to be kicked: the first one may never have been used (virtio-scsi's control queue). But where
 * a queue stopped is of no interest when it is not said again.
 */
static bool
goes_on(const struct vhost_session *session, uint32_t index)
{
	const struct vhost_vring *vring = &session->vrings[index];
	struct virtq_opts opts = {.packed = has_feature(session, VIRTIO_F_RING_PACKED)};

	if (!vring->base_holds && vhost_inflight_get_part(session->inflight, index, &opts) == 0 &&
	    opts.inflight != NULL && !virtq_inflight_is_new(opts.inflight))
		return true;
	return (vring->kicked || vring->announced) &&
	       base_of(session, index) != first_base(session);
}

/*
 * A driver that begins uses its rings from their beginning, and has nothing in flight. One that
 * goes on after a pause, a migration or a lost connection does not: one of its queues at least was
 * in use, and has left a mark.
 */
static bool
is_beginning(const struct vhost_session *session)
{
	if (session->controller->ops->begin == NULL ||
	    running_queues(session, VHOST_QUEUE_SET_ALL) != 0)
		return false;
	for (uint32_t i = 0; i < session->controller->queue_count; i++) {
		if (goes_on(session, i))
			return false;
	}
	return true;
}

static int
start_queue(struct vhost_session *session, uint32_t index)
{
	struct vhost_vring *vring = &session->vrings[index];
	struct vhost_queue *queue = &session->queues[index];
	bool beginning = is_beginning(session);
	int rc;

	queue->setup = (struct vhost_queue_setup){.memory = session->memory,
						  .inflight = session->inflight,
						  .kick_fd = vring->kick_fd,
						  .call_fd = vring->call_fd,
						  .err_fd = vring->err_fd};
	rc = create_virtq(session, index, &queue->setup.vq);
	if (rc != 0)
		return refuse_queue(session, index, rc);
	if (beginning)
		session->controller->ops->begin(session->controller->device);
	rc = send_to_thread(session, queue);
	vring->running = true;
	if (rc == 0)
		vring->base_holds = false;
	else if (rc != -ETIMEDOUT)
		stop_queues(session, vhost_queue_set_of(index));
	return rc;
}

static bool
can_run(const struct vhost_session *session, const struct vhost_vring *vring)
{
	return vring->kicked && vring->size != 0 && vring->has_addr && session->memory != NULL &&
	       !vring->bad_region &&
	       (vring->enabled || !has_feature(session, VHOST_USER_F_PROTOCOL_FEATURES));
}

/* Starts or stops it, as the front-end's words now are. */
static int
update_queue(struct vhost_session *session, uint32_t index)
{
	const struct vhost_vring *vring = &session->vrings[index];
	bool run = can_run(session, vring);

	if (run == vring->running)
		return 0;
	return run ? start_queue(session, index) : stop_queues(session, vhost_queue_set_of(index));
}

/* Every queue; the first error counts. Threads that do not answer are not asked again. */
static int
update_queues(struct vhost_session *session)
{
	int first = 0;

	for (uint32_t i = 0; i < session->controller->queue_count && first != -ETIMEDOUT; i++) {
		int rc = update_queue(session, i);

		if (first == 0 || rc == -ETIMEDOUT)
			first = rc;
	}
	return first;
}

/* ---- vhost-events thread: messages ---- */

/* strerror() says little of the one thing that people can put right. */
static void
explain(const struct vhost_session *session, const char *what, int rc)
{
	if (rc == -EMEDIUMTYPE)
		log_warn("vhost %s: a file of %s is refused: %s", vhost_session_name(session), what,
			 MAPPING_NOT_LOCAL);
}

int
vhost_session_set_features(struct vhost_session *session, uint64_t features)
{
	if (features & ~session->controller->features)
		return -EINVAL;
	if (features != session->features && running_queues(session, VHOST_QUEUE_SET_ALL) != 0)
		return -EBUSY;
	session->features = features;
	session->controller->ops->set_features(session->controller->device, features);
	return update_queues(session);
}

static int
map_for_device(const struct vhost_session *session, struct vhost_mem *memory,
	       const struct vhost_mem_region *regions, const int *fds)
{
	struct vhost_controller *controller = session->controller;
	struct errmsg err = {""};
	uint32_t failed = 0;
	int rc;

	rc = vhost_mem_map_device(memory, controller->ops, controller->device, fds, &failed, &err);
	if (rc != 0)
		log_err("vhost %s: memory region %u, %lu bytes at 0x%lx of the guest, is not taken "
			"by the block device: %s",
			controller->name, failed, regions[failed].size, regions[failed].gpa,
			err.text);
	return rc;
}

int
vhost_session_set_mem_table(struct vhost_session *session, const struct vhost_mem_region *regions,
			    const int *fds, uint32_t count)
{
	struct vhost_mem *old = session->memory, *memory;
	int rc;

	rc = vhost_mem_create(regions, fds, count, &memory);
	explain(session, "guest memory", rc);
	if (rc != 0)
		return rc;
	/* While the old one is there still: for a short time a device has both. */
	rc = map_for_device(session, memory, regions, fds);
	if (rc == 0)
		rc = stop_queues(session, VHOST_QUEUE_SET_ALL);
	if (rc != 0) {
		vhost_mem_destroy(memory);
		return rc;
	}
	session->memory = memory;
	vhost_mem_destroy(old);
	return update_queues(session);
}

int
vhost_session_get_inflight(struct vhost_session *session, struct vhost_inflight_layout *layout)
{
	/* QEMU < 5.1 asks before it has negotiated features: room for both kinds of rings. */
	uint64_t features =
		session->features != 0 ? session->features : session->controller->features;

	return vhost_inflight_new_file(layout, session->controller->queue_count,
				       features >> VIRTIO_F_RING_PACKED & 1);
}

int
vhost_session_set_inflight(struct vhost_session *session,
			   const struct vhost_inflight_layout *layout, int fd)
{
	struct vhost_inflight *inflight;
	bool same;
	int rc;

	if (running_queues(session, VHOST_QUEUE_SET_ALL) != 0)
		return -EBUSY;
	rc = vhost_inflight_create(layout, session->controller->queue_count, fd, &inflight);
	explain(session, "an in-flight region", rc);
	if (rc != 0)
		return rc;
	/*
	 * A region may come from another process: then what it says is the truth. Some front-ends
	 * give the same one again at each start, also after a reset of the guest; nobody else has
	 * had it meanwhile.
	 */
	same = vhost_inflight_is_same(inflight, session->inflight);
	vhost_inflight_destroy(session->inflight);
	session->inflight = inflight;
	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		session->vrings[i].bad_region = false;
		if (same)
			continue;
		session->vrings[i].drained = false;
		session->vrings[i].base_holds = false;
	}
	return update_queues(session);
}

int
vhost_session_set_vring_num(struct vhost_session *session, uint32_t index, uint32_t size)
{
	struct vhost_vring *vring = &session->vrings[index];

	if (size == 0 || size > VHOST_MAX_RING_SIZE || (size & (size - 1)) != 0)
		return -EINVAL;
	if (vring->running)
		return size == vring->size ? 0 : -EBUSY;
	vring->size = size;
	return update_queue(session, index);
}

int
vhost_session_set_vring_base(struct vhost_session *session, uint32_t index, uint32_t base)
{
	if (base > UINT16_MAX && !has_feature(session, VIRTIO_F_RING_PACKED))
		return -EINVAL;
	if (session->vrings[index].running)
		return -EBUSY;
	session->vrings[index].base = base;
	session->vrings[index].has_base = true;
	session->vrings[index].announced = true;
	return 0;
}

int
vhost_session_set_vring_addr(struct vhost_session *session, uint32_t index,
			     const struct vhost_ring_addr *addr)
{
	struct vhost_vring *vring = &session->vrings[index];
	struct virtq_opts opts;
	int rc;

	if (session->memory != NULL && vring->size != 0) {
		rc = translate(session, addr, vring->size, &opts);
		if (rc != 0)
			return rc;
	}
	/* QEMU repeats it on running queues when a migration begins. */
	rc = stop_queues(session, vhost_queue_set_of(index));
	if (rc != 0)
		return rc;
	vring->addr = *addr;
	vring->has_addr = true;
	return update_queue(session, index);
}

int
vhost_session_set_vring_kick(struct vhost_session *session, uint32_t index, int fd)
{
	struct vhost_vring *vring = &session->vrings[index];
	int rc;

	rc = stop_queues(session, vhost_queue_set_of(index));
	if (rc != 0) {
		replace_fd(&fd, -1);
		return rc;
	}
	replace_fd(&vring->kick_fd, fd);
	vring->kicked = true;
	return update_queue(session, index);
}

/* The data path gets the new eventfds before the old one is closed. */
static int
swap_fd(struct vhost_session *session, uint32_t index, int *where, int fd)
{
	struct vhost_vring *vring = &session->vrings[index];
	struct fds_call call = {.queue = &session->queues[index], .old = *where};
	int rc;

	if (!vring->running) {
		replace_fd(where, fd);
		return 0;
	}
	*where = fd;
	call.call_fd = vring->call_fd;
	call.err_fd = vring->err_fd;
	rc = thread_call_within(call.queue->home->thread, VHOST_ANSWER_US, set_fds_on_thread, &call,
				sizeof(call));
	if (rc == -ENOMEM) {
		*where = call.old;
		replace_fd(&fd, -1);
	}
	return rc;
}

int
vhost_session_set_vring_call(struct vhost_session *session, uint32_t index, int fd)
{
	return swap_fd(session, index, &session->vrings[index].call_fd, fd);
}

int
vhost_session_set_vring_err(struct vhost_session *session, uint32_t index, int fd)
{
	return swap_fd(session, index, &session->vrings[index].err_fd, fd);
}

int
vhost_session_set_vring_enable(struct vhost_session *session, uint32_t index, bool enable)
{
	session->vrings[index].enabled = enable;
	return update_queue(session, index);
}

/*
 * A queue that stopped with requests of the region still to be done leaves them there for its next
 * start, which goes by the region. Else a guest that was reset may begin anew with whatever base it
 * likes.
 */
static void
end_in_order(struct vhost_session *session, uint32_t index)
{
	struct vhost_vring *vring = &session->vrings[index];

	vring->base_holds = vring->drained;
	if (vring->drained)
		session->told |= vhost_queue_set_of(index);
}

/*
 * Stops the queues in mask; then the device is done with all that they were ever given. Where one
 * waits for an older session, requests of that one are in the guest's memory.
 */
static int
finish_queues(struct vhost_session *session, vhost_queue_set mask)
{
	int rc = stop_queues(session, mask);

	return rc == 0 ? vhost_drain_wait(session, 0, wait_on_thread) : rc;
}

/*
 * Requests that do not end are not handed back with an answer, although the in-flight region would
 * allow it: the answer says that the device is done with the guest's memory and with the disk.
 * After it a guest that is reset uses the memory anew, under a read that is still under way, and a
 * request that is done again here or elsewhere can be overtaken by its own first try. So the
 * connection ends instead (-ETIMEDOUT). That does hand them back, safely: they are marked in the
 * region, and the session that comes with it waits for what is under way.
 */
int
vhost_session_get_vring_base(struct vhost_session *session, uint32_t index, uint32_t *base)
{
	struct vhost_vring *vring = &session->vrings[index];
	int rc;

	rc = finish_queues(session, vhost_queue_set_of(index));
	if (rc != 0)
		return rc;
	vring->kicked = false;
	vring->announced = false;
	end_in_order(session, index);
	replace_fd(&vring->kick_fd, -1);
	*base = base_of(session, index);
	return 0;
}

static void
init_vring(struct vhost_vring *vring)
{
	*vring = (struct vhost_vring){.kick_fd = -1, .call_fd = -1, .err_fd = -1};
}

static void
clear_vring(struct vhost_vring *vring)
{
	replace_fd(&vring->kick_fd, -1);
	replace_fd(&vring->call_fd, -1);
	replace_fd(&vring->err_fd, -1);
	init_vring(vring);
}

int
vhost_session_reset(struct vhost_session *session)
{
	int rc = finish_queues(session, VHOST_QUEUE_SET_ALL);

	if (rc != 0)
		return rc;
	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		bool drained = session->vrings[i].drained;

		clear_vring(&session->vrings[i]);
		session->vrings[i].drained = drained;
		end_in_order(session, i);
	}
	return 0;
}

void
vhost_session_answered(struct vhost_session *session)
{
	for (; session->told != 0; session->told &= session->told - 1) {
		uint32_t index = vhost_queue_set_first(session->told);
		struct virtq_opts opts = {.packed = has_feature(session, VIRTIO_F_RING_PACKED)};

		if (vhost_inflight_get_part(session->inflight, index, &opts) == 0 &&
		    opts.inflight != NULL)
			virtq_inflight_forget(opts.inflight);
	}
}

/* ---- beginning and end ---- */

/* On a worker: unmapping much memory takes time. */
static void
free_session(struct work *work)
{
	struct vhost_session *session =
		(struct vhost_session *)((char *)work - offsetof(struct vhost_session, free_work));

	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		if (session->vrings[i].running)
			virtq_destroy(session->queues[i].setup.vq);
		clear_vring(&session->vrings[i]);
	}
	vhost_mem_destroy(session->memory);
	vhost_inflight_destroy(session->inflight);
	free(session);
}

/*
 * The front-end is gone, perhaps with requests still under way in the device. It may come back at
 * once, with the same ring and in-flight region, and it goes by what it sees in them now: so both
 * are left as they are, and nothing of this session is published any more. To the driver, and in
 * the region, those requests are in flight still, also the ones that have completed and were not
 * published. The next session does all of them again, which is harmless as long as the driver has
 * not seen any of them complete, and gives each its one used entry. Its queues start when the last
 * request here is done: a late write of ours would overtake newer ones of the driver.
 */
static void
abandon_queues(struct vhost_session *session)
{
	vhost_queue_set mask;

	forget_waiting(session, VHOST_QUEUE_SET_ALL);
	while (session->waiters != NULL)
		vhost_drain_end(&session->waiters);
	session->stopping = session->busy;
	for (mask = session->busy; mask != 0; mask &= mask - 1) {
		struct vhost_queue *queue = &session->queues[vhost_queue_set_first(mask)];

		thread_send(queue->home->thread, &queue->abandon_msg, vhost_queue_abandon, queue);
	}
}

static void
finish_release(void *arg)
{
	struct vhost_session *session = arg;
	struct completion *done = session->released_done;

	session->released = session->busy != 0;
	if (!session->attached)
		vhost_session_free(session);
	else if (!session->released)
		vhost_controller_detach(session->controller, session);
	completion_signal(done, 0);
}

/* In two steps: only when every queue's thread has done with its messages may the session go. */
static void
release_on_thread(void *arg)
{
	struct vhost_session *session = arg;

	session->ending = true;
	abandon_queues(session);
	vhost_threads_sync(&session->controller->threads, session->threads, &session->sync,
			   finish_release, session);
}

static void
send_release(struct vhost_session *session)
{
	session->threads = session->controller->threads.usable;
	thread_send(vhost_main_thread(session->controller), &session->release_msg,
		    release_on_thread, session);
}

/* From here on the session is the main thread's. */
void
vhost_session_release(struct vhost_session *session)
{
	struct vhost_controller *controller = session->controller;
	struct completion *done = session->released_done;

	send_release(session);
	if (completion_wait(done, VHOST_ANSWER_US) != 0)
		log_err("vhost %s: a thread does not answer within %llu s; what the connection had "
			"stays until it does",
			controller->name, VHOST_ANSWER_US / 1000000);
	completion_put(done);
}

void
vhost_session_free(struct vhost_session *session)
{
	if (work_submit(&session->free_work, free_session) != 0)
		free_session(&session->free_work);
}

/* On an error the session is gone, or goes when the main thread answers. */
static int
attach(struct vhost_session *session)
{
	struct completion *done = session->released_done;
	int rc = thread_call_within(vhost_main_thread(session->controller), VHOST_ANSWER_US,
				    attach_on_thread, &session, sizeof(session));

	if (rc == -ETIMEDOUT) {
		send_release(session);
		completion_put(done);
	} else if (rc != 0) {
		completion_drop(done);
		free(session);
	}
	return rc;
}

int
vhost_session_create(struct vhost_controller *controller, int vid,
		     struct vhost_session **session_out)
{
	static atomic_uint next_id;
	struct vhost_session *session =
		aligned_alloc(_Alignof(struct vhost_session), sizeof(*session));
	int rc;

	if (session == NULL)
		return -ENOMEM;
	memset(session, 0, sizeof(*session));
	session->released_done = completion_create();
	if (session->released_done == NULL) {
		free(session);
		return -ENOMEM;
	}
	session->controller = controller;
	session->vid = vid;
	session->id = atomic_fetch_add(&next_id, 1);
	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		init_vring(&session->vrings[i]);
		session->queues[i].session = session;
		session->queues[i].ops = controller->ops;
		session->queues[i].device = controller->device;
		session->queues[i].index = i;
	}
	rc = attach(session);
	if (rc != 0)
		return rc;
	controller->ops->set_features(controller->device, 0);
	*session_out = session;
	return 0;
}
