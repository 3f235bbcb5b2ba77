/* SPDX-License-Identifier: BSD-3-Clause */
/* What can be asked of a controller while it runs, and what it answers. App thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller.h"
#include "session.h"

/* ---- coalescing, slow requests and size ---- */

static int
adopt_on_thread(struct vhost_thread *thread, void *arg)
{
	struct vhost_queue *queue;

	(void)arg;
	LIST_FOREACH (queue, &thread->queues, link)
		vhost_queue_adopt_parameters(queue);
	return 0;
}

int
vhost_controller_set_coalescing(const char *name, uint32_t delay_base_us, uint32_t iops_threshold,
				struct errmsg *err)
{
	struct vhost_controller *controller;
	int rc;

	if (delay_base_us > VHOST_COALESCING_DELAY_MAX)
		return err_set(err, -EINVAL, "vhost controller %s: delay_base_us is over %d", name,
			       VHOST_COALESCING_DELAY_MAX);
	if (iops_threshold < VHOST_COALESCING_THRESHOLD_MIN)
		return err_set(err, -EINVAL, "vhost controller %s: iops_threshold is below %d",
			       name, VHOST_COALESCING_THRESHOLD_MIN);
	controller = vhost_controller_find(name, &rc, err);
	if (controller == NULL)
		return rc;
	/* A queue that starts meanwhile sees them, or is told. */
	atomic_store(&controller->delay_base_us, delay_base_us);
	atomic_store(&controller->iops_threshold, iops_threshold);
	return vhost_threads_call(controller, adopt_on_thread, NULL);
}

int
vhost_controller_set_slow_threshold(const char *name, uint32_t threshold_us, struct errmsg *err)
{
	struct vhost_controller *controller;
	int rc;

	if (threshold_us > VHOST_SLOW_MAX_US)
		return err_set(err, -EINVAL, "vhost controller %s: threshold_us is over %u", name,
			       VHOST_SLOW_MAX_US);
	controller = vhost_controller_find(name, &rc, err);
	if (controller == NULL)
		return rc;
	atomic_store(&controller->slow_us, threshold_us);
	return vhost_threads_call(controller, adopt_on_thread, NULL);
}

int
vhost_controller_resize(const char *name, struct errmsg *err)
{
	struct vhost_controller *controller;
	int rc;

	controller = vhost_controller_find(name, &rc, err);
	return controller != NULL ? controller->ops->resize(controller->device, err) : rc;
}

/* ---- statistics ---- */

/* Of a front-end that stops queues all the time the numbers may be of different moments. */
#define STATS_TRIES 10

static const char *const counter_names[] = {
	[VHOST_REQUESTS] = "requests",
	[VHOST_BYTES_READ] = "bytes_read",
	[VHOST_BYTES_WRITTEN] = "bytes_written",
	[VHOST_ERRORS] = "errors",
	[VHOST_SLEEPS] = "sleeps",
	[VHOST_KICKS] = "kicks",
	[VHOST_CALLS] = "calls",
	[VHOST_CALLS_SUPPRESSED] = "calls_suppressed",
	[VHOST_CALLS_COALESCED] = "calls_coalesced",
	[VHOST_BREAKS] = "breaks",
};

_Static_assert(sizeof(counter_names) / sizeof(counter_names[0]) == VHOST_COUNTERS,
	       "each counter has a name");

/* A queue, or all of them, over the sessions of a controller. */
struct queue_stats {
	uint64_t counters[VHOST_COUNTERS];
	uint32_t in_flight;
	uint32_t running;
	uint32_t broken;
};

struct stats_call {
	uint64_t stops; /* of the controller's queues, when the main thread was asked */
	uint64_t connections;
	bool connected;
	struct queue_stats queues[VHOST_MAX_RINGS];
};

static void
add_counters(struct queue_stats *stats, const uint64_t counters[VHOST_COUNTERS])
{
	for (int i = 0; i < VHOST_COUNTERS; i++)
		stats->counters[i] += counters[i];
}

static void
add_queue(struct queue_stats *stats, const struct vhost_queue *queue)
{
	add_counters(stats, queue->counters);
	stats->in_flight += virtq_in_flight(queue->setup.vq);
	stats->running++;
	stats->broken += queue->broken;
}

static void
add_controller(struct stats_call *call, const struct vhost_controller *controller)
{
	const struct vhost_session *session;

	call->stops = controller->stops;
	call->connections = controller->connections;
	TAILQ_FOREACH (session, &controller->sessions, link)
		call->connected |= !session->released;
	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++)
		add_counters(&call->queues[i], controller->counters[i]);
}

/* The main thread comes first; what has stopped until then is counted there. */
static int
stats_on_thread(struct vhost_thread *thread, void *arg)
{
	const struct vhost_queue *queue;
	struct stats_call *call = arg;

	if (vhost_thread_is_main(thread))
		add_controller(call, thread->controller);
	LIST_FOREACH (queue, &thread->queues, link)
		add_queue(&call->queues[queue->index], queue);
	return 0;
}

/* -EAGAIN: a queue has stopped since, and was perhaps not seen on its thread any more. */
static int
check_on_thread(struct vhost_thread *thread, void *arg)
{
	const struct stats_call *call = arg;

	if (vhost_thread_is_main(thread) && call->stops != thread->controller->stops)
		return -EAGAIN;
	return 0;
}

/* A queue that stopped told the main thread so before its own thread was asked. */
static void
collect_stats(struct vhost_controller *controller, struct stats_call *call)
{
	int tries = STATS_TRIES;

	do {
		memset(call, 0, sizeof(*call));
		vhost_threads_call(controller, stats_on_thread, call);
	} while (vhost_threads_call(controller, check_on_thread, call) == -EAGAIN && --tries > 0);
}

static void
set_counters(json_t *object, const struct queue_stats *stats)
{
	json_object_set_new(object, "inflight", json_integer(stats->in_flight));
	for (int i = 0; i < VHOST_COUNTERS; i++)
		json_object_set_new(object, counter_names[i],
				    json_integer((json_int_t)stats->counters[i]));
}

/* Those that have ever run. */
static json_t *
queues_json(const struct stats_call *call)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		const struct queue_stats *stats = &call->queues[i];
		json_t *object;

		if (stats->running == 0 && stats->counters[VHOST_REQUESTS] == 0 &&
		    stats->counters[VHOST_BREAKS] == 0)
			continue;
		object = json_pack("{s:I, s:b, s:b}", "queue", (json_int_t)i, "running",
				   stats->running > 0, "broken", stats->broken > 0);
		set_counters(object, stats);
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *
call_json(const char *name, const struct stats_call *call, bool per_queue)
{
	struct queue_stats total = {.in_flight = 0};
	json_t *object;

	for (uint32_t i = 0; i < VHOST_MAX_RINGS; i++) {
		add_counters(&total, call->queues[i].counters);
		total.in_flight += call->queues[i].in_flight;
		total.running += call->queues[i].running;
		total.broken += call->queues[i].broken;
	}
	object = json_pack("{s:s, s:b, s:I, s:I, s:I}", "ctrlr", name, "connected", call->connected,
			   "connections", (json_int_t)call->connections, "running_queues",
			   (json_int_t)total.running, "broken_queues", (json_int_t)total.broken);
	set_counters(object, &total);
	if (per_queue)
		json_object_set_new(object, "queues", queues_json(call));
	return object;
}

/* [waits]; the controller may be gone afterwards. NULL: no memory. */
static json_t *
controller_stats(struct vhost_controller *controller, bool per_queue)
{
	struct stats_call *call = malloc(sizeof(*call));
	char name[VHOST_NAME_MAX + 1];
	json_t *object;

	if (call == NULL)
		return NULL;
	memcpy(name, controller->name, sizeof(name));
	vhost_threads_hold(controller);
	collect_stats(controller, call);
	vhost_threads_let_go(controller);
	object = call_json(name, call, per_queue);
	free(call);
	return object;
}

static json_t *
all_stats(bool per_queue)
{
	struct vhost_controller *controller = vhost_controller_next(0);
	json_t *array = json_array();

	while (controller != NULL) {
		/* They may come and go while one waits. */
		uint64_t serial = controller->serial;

		if (!controller->deleting)
			json_array_append_new(array, controller_stats(controller, per_queue));
		controller = vhost_controller_next(serial);
	}
	return array;
}

json_t *
vhost_stats_json(const char *name, bool per_queue, int *rc, struct errmsg *err)
{
	struct vhost_controller *controller;
	json_t *array;

	*rc = -ENOMEM;
	if (name == NULL)
		return all_stats(per_queue);
	controller = vhost_controller_find(name, rc, err);
	if (controller == NULL)
		return NULL;
	array = json_array();
	json_array_append_new(array, controller_stats(controller, per_queue));
	return array;
}
