/* SPDX-License-Identifier: BSD-3-Clause */
#include "queue.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "controller.h"
#include "env.h"
#include "log.h"
#include "notifier.h"
#include "notify.h"
#include "session.h"
#include "trace.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/*
 * Returns whether to try again: it was not possible now. *eventfd is -1 afterwards if it must not be
 * used any more.
 */
static bool
signal_eventfd(const struct vhost_queue *queue, int *eventfd)
{
	int rc = likely(*eventfd >= 0) ? vhost_notify(*eventfd) : 0;

	if (likely(rc == 0))
		return false;
	if (rc == -EAGAIN)
		return true;
	log_warn("vhost %s: queue %u: the front-end lets an eventfd block; it is not told of "
		 "anything until it sends another",
		 vhost_session_name(queue->session), queue->index);
	*eventfd = -1;
	return false;
}

static void
call(struct vhost_queue *queue)
{
	queue->call_pending = signal_eventfd(queue, &queue->setup.call_fd);
	queue->counters[VHOST_CALLS] += !queue->call_pending;
}

static bool
may_call(struct vhost_queue *queue)
{
	return likely(queue->coalescing.base == 0) ||
	       vhost_coalescing_may_call(&queue->coalescing, thread_now(thread_current()),
					 queue->counters[VHOST_REQUESTS]);
}

/*
 * Shows the driver what was pushed since the last time. Whether it is to be called is the answer
 * for these chains alone: with EVENT_IDX the next ones may well be wanted silently, so a call that
 * is put off is remembered.
 */
static void
publish_pushed(struct vhost_queue *queue)
{
	bool wanted;

	queue->published = queue->counters[VHOST_REQUESTS];
	wanted = virtq_publish(queue->setup.vq);
	if (!wanted)
		queue->counters[VHOST_CALLS_SUPPRESSED]++;
	else if (unlikely(queue->call_pending))
		queue->counters[VHOST_CALLS_COALESCED]++;
	queue->call_pending |= wanted;
}

static void
settle_trace(struct vhost_queue *queue)
{
	if (unlikely(queue->traced) && !queue->call_pending)
		vhost_trace_settle(queue);
}

static void
publish(struct vhost_queue *queue)
{
	if (queue->published != queue->counters[VHOST_REQUESTS])
		publish_pushed(queue);
	if (queue->call_pending && may_call(queue))
		call(queue);
	settle_trace(queue);
}

/* The same, and what was put off goes out now. */
static void
publish_all(struct vhost_queue *queue)
{
	publish(queue);
	if (queue->call_pending)
		call(queue);
	settle_trace(queue);
}

static void
report_broken(struct vhost_queue *queue)
{
	queue->broken = true;
	queue->counters[VHOST_BREAKS]++;
	log_warn("vhost %s: queue %u: broken: %s; it takes no more requests until it is reset",
		 vhost_session_name(queue->session), queue->index, virtq_broken(queue->setup.vq));
	notify_send(NOTIFY_VHOST_QUEUE_BROKEN, "%s: queue %u: %s",
		    vhost_session_name(queue->session), queue->index,
		    virtq_broken(queue->setup.vq));
	signal_eventfd(queue, &queue->setup.err_fd);
}

/* The queue is not this thread's any more. */
static void
report_stopped(struct vhost_queue *queue)
{
	queue->state = VHOST_QUEUE_STOPPED;
	thread_send(vhost_main_thread(queue->session->controller), &queue->stopped_msg,
		    vhost_session_queue_stopped, queue);
}

static void
finish_stop(struct vhost_queue *queue)
{
	poller_unregister(&queue->poller);
	poller_unregister(&queue->call_timer);
	vhost_thread_put_channel(queue->home, &queue->channel);
	if (queue->traced)
		vhost_trace_settle(queue);
	LIST_REMOVE(queue, link);
	report_stopped(queue);
}

/*
 * What is held back goes on now: who stops a queue does not wait for as long as a limit says. It is
 * not ended instead: without in-flight tracking nobody would do it again. Again in each poll, since
 * commands may come in several parts.
 */
static bool
release_held(const struct vhost_queue *queue)
{
	return queue->ops->release_held != NULL && queue->channel != NULL &&
	       virtq_in_flight(queue->setup.vq) > 0 && queue->ops->release_held(queue->channel);
}

static void
poll_stopping(struct vhost_queue *queue)
{
	release_held(queue);
	publish(queue);
	if (virtq_in_flight(queue->setup.vq) > 0)
		return;
	publish_all(queue);
	finish_stop(queue);
}

/* Whether the front-end has truncated a file that the queue works in. */
static bool
lost_memory(const struct vhost_queue *queue)
{
	const struct vhost_queue_setup *setup = &queue->setup;

	return atomic_load_explicit(&setup->memory->lost, memory_order_relaxed) ||
	       (setup->inflight != NULL &&
		atomic_load_explicit(&setup->inflight->lost, memory_order_relaxed));
}

static int
queue_poll(void *arg)
{
	struct vhost_queue *queue = arg;
	struct virtq_slot *slots[VHOST_QUEUE_BATCH];
	struct virtq *vq = queue->setup.vq;
	uint32_t count;

	if (unlikely(queue->state != VHOST_QUEUE_RUNNING)) {
		poll_stopping(queue);
		return POLLER_IDLE;
	}
	if (unlikely(lost_memory(queue)) && virtq_broken(vq) == NULL)
		virtq_break(vq, "the front-end truncated its memory");

	count = virtq_pop(vq, slots, VHOST_QUEUE_BATCH);
	if (count > 0)
		queue->ops->handle(queue, slots, count);
	if (unlikely(!queue->broken && virtq_broken(vq) != NULL))
		report_broken(queue);
	/* Also what completed since the last poll. */
	publish(queue);
	return count > 0 ? POLLER_BUSY : POLLER_IDLE;
}

static int
call_now(void *arg)
{
	struct vhost_queue *queue = arg;

	poller_unregister(&queue->call_timer);
	publish_all(queue);
	return POLLER_BUSY;
}

/* While nobody polls the queue. */
static void
call_later(struct vhost_queue *queue)
{
	uint64_t us = vhost_coalescing_wait_us(&queue->coalescing);

	if (queue->call_timer == NULL)
		queue->call_timer = poller_register(call_now, queue, us, "vhost_call");
	if (queue->call_timer == NULL)
		publish_all(queue);
}

static bool
queue_arm(void *arg)
{
	struct vhost_queue *queue = arg;

	/* A completion may have come after this iteration's poll. */
	publish(queue);
	if (queue->call_pending)
		call_later(queue);
	if (queue->state != VHOST_QUEUE_RUNNING)
		return !release_held(queue) && virtq_in_flight(queue->setup.vq) > 0;
	/* A driver without a kick fd asked us to poll (vhost-user: bit 8 of SET_VRING_KICK). */
	if (queue->setup.kick_fd < 0 || !virtq_enable_kicks(queue->setup.vq))
		return false;
	queue->counters[VHOST_SLEEPS]++;
	return true;
}

static void
queue_disarm(void *arg)
{
	struct vhost_queue *queue = arg;

	queue->counters[VHOST_KICKS] += virtq_disable_kicks(queue->setup.vq);
}

static const struct poller_sleep_ops sleep_ops = {.arm = queue_arm, .disarm = queue_disarm};

/* ---- the event queue: its chains are left in the ring until there is something to say ---- */

static int
event_poll(void *arg)
{
	struct vhost_queue *queue = arg;

	if (queue->state != VHOST_QUEUE_RUNNING) {
		poll_stopping(queue);
		return POLLER_IDLE;
	}
	if (lost_memory(queue) && virtq_broken(queue->setup.vq) == NULL)
		virtq_break(queue->setup.vq, "the front-end truncated its memory");
	queue->ops->fill(queue);
	if (!queue->broken && virtq_broken(queue->setup.vq) != NULL)
		report_broken(queue);
	publish(queue);
	return POLLER_IDLE;
}

static bool
event_arm(void *arg)
{
	struct vhost_queue *queue = arg;

	publish_all(queue);
	if (queue->state != VHOST_QUEUE_RUNNING)
		return false;
	if (!queue->ops->wants_buffers(queue->device))
		return true;
	return queue->setup.kick_fd >= 0 && virtq_enable_kicks(queue->setup.vq);
}

static const struct poller_sleep_ops event_sleep_ops = {.arm = event_arm, .disarm = queue_disarm};

static int
start_event_poller(struct vhost_queue *queue)
{
	queue->poller = poller_register(event_poll, queue, 0, "vhost_event_queue");
	if (queue->poller == NULL)
		return -ENOMEM;
	poller_set_sleep_ops(queue->poller, &event_sleep_ops);
	return poller_add_fd(queue->poller, queue->ops->event_fd(queue->device));
}

/* ---- starting ---- */

static int
start_request_poller(struct vhost_queue *queue)
{
	queue->poller = poller_register(queue_poll, queue, 0, "vhost_queue");
	if (queue->poller == NULL)
		return -ENOMEM;
	poller_set_sleep_ops(queue->poller, &sleep_ops);
	return 0;
}

static int
start_poller(struct vhost_queue *queue)
{
	bool events = queue->ops->fill != NULL && queue->index == queue->ops->event_queue;
	int rc = events ? start_event_poller(queue) : start_request_poller(queue);

	if (rc == 0 && queue->setup.kick_fd >= 0)
		rc = poller_add_fd(queue->poller, queue->setup.kick_fd);
	if (rc != 0)
		poller_unregister(&queue->poller);
	return rc;
}

void
vhost_queue_start(void *arg)
{
	struct vhost_queue *queue = arg;
	char label[sizeof("queue 4294967295")];

	snprintf(label, sizeof(label), "queue %u", queue->index);
	queue->broken = false;
	queue->call_pending = false;
	queue->clock = thread_clock(thread_current());
	vhost_queue_adopt_parameters(queue);
	queue->start_rc = queue->ops->channel_get(queue->device, label, &queue->channel);
	if (queue->start_rc == 0)
		queue->start_rc = start_poller(queue);
	if (queue->start_rc != 0) {
		log_err("vhost %s: queue %u: cannot be started: %s",
			vhost_session_name(queue->session), queue->index,
			strerror(-queue->start_rc));
		vhost_thread_put_channel(queue->home, &queue->channel);
		queue->state = VHOST_QUEUE_FAILED;
		/* Nobody waits for start_rc where an older session had to end first. */
		signal_eventfd(queue, &queue->setup.err_fd);
		return;
	}
	LIST_INSERT_HEAD(&queue->home->queues, queue, link);
	queue->state = VHOST_QUEUE_RUNNING;
	virtq_disable_kicks(queue->setup.vq);
	/* The driver may wait for a call that went to an earlier eventfd. */
	queue->call_pending = signal_eventfd(queue, &queue->setup.call_fd);
}

void
vhost_queue_stop(void *arg)
{
	struct vhost_queue *queue = arg;

	switch (queue->state) {
	case VHOST_QUEUE_RUNNING:
		queue->state = VHOST_QUEUE_STOPPING;
		poll_stopping(queue);
		return;
	case VHOST_QUEUE_FAILED:
		report_stopped(queue);
		return;
	case VHOST_QUEUE_STOPPING:
	case VHOST_QUEUE_STOPPED:
		return;
	}
}

void
vhost_queue_abandon(void *arg)
{
	struct vhost_queue *queue = arg;

	queue->call_pending = false;
	virtq_abandon(queue->setup.vq);
	vhost_queue_stop(queue);
}

void
vhost_queue_set_fds(struct vhost_queue *queue, int call_fd, int err_fd)
{
	queue->setup.call_fd = call_fd;
	queue->setup.err_fd = err_fd;
	queue->call_pending = signal_eventfd(queue, &queue->setup.call_fd);
	if (queue->broken)
		signal_eventfd(queue, &queue->setup.err_fd);
}

void
vhost_queue_take(struct vhost_queue *queue)
{
	uint32_t rounds = virtq_size(queue->setup.vq) / VHOST_QUEUE_BATCH + 1;

	while (rounds-- > 0 && queue->state == VHOST_QUEUE_RUNNING &&
	       queue_poll(queue) == POLLER_BUSY)
		;
}

void
vhost_queue_publish(struct vhost_queue *queue)
{
	publish(queue);
}

void
vhost_queue_adopt_parameters(struct vhost_queue *queue)
{
	struct vhost_controller *controller = queue->session->controller;
	uint64_t slow_us = atomic_load(&controller->slow_us);

	queue->slow_ticks = (int64_t)env_us_to_ticks(slow_us);

	vhost_coalescing_set(&queue->coalescing, atomic_load(&controller->delay_base_us),
			     atomic_load(&controller->iops_threshold), thread_now(thread_current()),
			     queue->counters[VHOST_REQUESTS]);
}
