/* SPDX-License-Identifier: BSD-3-Clause */
#include "controller.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "env.h"
#include "log.h"
#include "mapping.h"
#include "notify.h"
#include "session.h"
#include "utf8.h"

#define VHOST_USER_F_PROTOCOL_FEATURES 30

/*
 * What rings and transport can do. Any layout is understood in any case, but it can be negotiated
 * only by those who know the bit.
 */
#define TRANSPORT_FEATURES                                                                         \
	(1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ANY_LAYOUT |                                \
	 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX |                   \
	 1ULL << VHOST_USER_F_PROTOCOL_FEATURES)

/* Of other targets: what their clients expect to see before they set it. */
#define IOPS_THRESHOLD 60000

/* In creation order. App thread only. */
static TAILQ_HEAD(, vhost_controller) controllers = TAILQ_HEAD_INITIALIZER(controllers);

static struct vhost_controller *
find_controller(const char *name)
{
	struct vhost_controller *controller;

	TAILQ_FOREACH (controller, &controllers, link) {
		if (strcmp(controller->name, name) == 0)
			return controller;
	}
	return NULL;
}

static struct vhost_controller *
find_ready(const char *name)
{
	struct vhost_controller *controller = find_controller(name);

	return controller != NULL && controller->ready ? controller : NULL;
}

struct vhost_controller *
vhost_controller_of_device(const void *device)
{
	struct vhost_controller *controller;

	TAILQ_FOREACH (controller, &controllers, link) {
		if (controller->device == device && controller->ready && !controller->deleting)
			return controller;
	}
	return NULL;
}

struct vhost_controller *
vhost_controller_find(const char *name, int *rc, struct errmsg *err)
{
	struct vhost_controller *controller = find_ready(name);

	if (controller == NULL)
		*rc = err_set(err, -ENODEV, "vhost controller %s: No such device", name);
	else if (controller->deleting)
		*rc = err_set(err, -EBUSY, "vhost controller %s: is being deleted", name);
	else
		return controller;
	return NULL;
}

struct vhost_controller *
vhost_controller_next(uint64_t serial)
{
	struct vhost_controller *controller;

	TAILQ_FOREACH (controller, &controllers, link) {
		if (controller->ready && controller->serial > serial)
			return controller;
	}
	return NULL;
}

/* ---- main thread ---- */

void
vhost_controller_attach(struct vhost_controller *controller, struct vhost_session *session)
{
	TAILQ_INSERT_TAIL(&controller->sessions, session, link);
	controller->connections++;
}

bool
vhost_controller_must_wait(const struct vhost_controller *controller,
			   const struct vhost_session *session)
{
	const struct vhost_session *other;

	TAILQ_FOREACH (other, &controller->sessions, link) {
		if (other != session && other->ending)
			return true;
	}
	return false;
}

void
vhost_controller_detach(struct vhost_controller *controller, struct vhost_session *session)
{
	struct vhost_session *other;

	TAILQ_REMOVE(&controller->sessions, session, link);
	vhost_session_free(session);
	if (vhost_controller_must_wait(controller, NULL))
		return;
	TAILQ_FOREACH (other, &controller->sessions, link)
		vhost_session_start_waiting(other);
}

/* Returns how many queues have not stopped yet. */
static int
close_on_thread(void *arg)
{
	struct vhost_controller *controller = arg;
	struct vhost_session *session;
	uint32_t count = 0;

	controller->closing = true;
	TAILQ_FOREACH (session, &controller->sessions, link)
		count += vhost_session_stop_all(session);
	return (int)count;
}

/* ---- creating ---- */

static bool
is_printable_utf8(const char *text)
{
	while (*text != '\0') {
		size_t length = utf8_length(text);

		if (length == 0 || (unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
		text += length;
	}
	return true;
}

int
vhost_controller_check_name(const char *name, struct errmsg *err)
{
	char path[VHOST_SOCKET_PATH_MAX + 1];
	size_t length = strlen(name);

	if (length == 0 || length > VHOST_NAME_MAX)
		return err_set(err, -EINVAL, "vhost controller: a name has 1 to %d bytes, not %zu",
			       VHOST_NAME_MAX, length);
	if (!is_printable_utf8(name))
		return err_set(err, -EINVAL, "vhost controller: the name is not printable UTF-8");
	if (strchr(name, '/') != NULL || name[0] == '.')
		return err_set(
			err, -EINVAL,
			"vhost controller %s: the name is that of a file: no '/', no '.' in front",
			name);
	if (find_controller(name) != NULL)
		return err_set(err, -EEXIST, "vhost controller %s: exists already", name);
	return vhost_user_path(name, path, err);
}

/* How many cores that run may serve it. */
static uint32_t
count_cores(const struct cpumask *cpumask)
{
	uint32_t count = 0;

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		count += cpumask == NULL || cpumask_test(cpumask, core);
	return count;
}

static int
check_cpumask(const char *name, const struct cpumask *cpumask, struct errmsg *err)
{
	char text[CPUMASK_TEXT_MAX];

	if (cpumask == NULL || count_cores(cpumask) > 0)
		return 0;
	return err_set(err, -EINVAL, "vhost controller %s: no running core is in cpumask %s", name,
		       cpumask_format(cpumask, text));
}

struct endpoint_call {
	struct vhost_endpoint *endpoint;
	struct errmsg *err;
};

static int
listen_on_worker(void *arg)
{
	struct endpoint_call *call = arg;

	return vhost_user_listen(call->endpoint, call->err);
}

static int
unlisten_on_worker(void *arg)
{
	vhost_user_unlisten(arg);
	return 0;
}

int
vhost_controller_listen(struct vhost_controller *controller, struct errmsg *err)
{
	struct endpoint_call call = {.endpoint = &controller->endpoint, .err = err};
	int rc;

	if (controller->listening || controller->starting)
		return err_set(err, -EALREADY, "vhost controller %s: is started already",
			       controller->name);
	controller->starting = true;
	rc = coroutine_blocking(listen_on_worker, &call);
	controller->starting = false;
	controller->listening = rc == 0;
	if (rc == 0)
		log_notice("vhost %s: %s controller listens on %s", controller->name,
			   controller->ops->name, controller->endpoint.path);
	return rc;
}

static int
start_controller(struct vhost_controller *controller, bool delay, struct errmsg *err)
{
	int rc;

	rc = vhost_threads_start(controller, count_cores(vhost_controller_cpumask(controller)),
				 err);
	if (rc != 0 || delay)
		return rc;
	rc = vhost_controller_listen(controller, err);
	if (rc != 0)
		vhost_threads_end(controller);
	return rc;
}

int
vhost_controller_create(const struct vhost_controller_opts *opts, struct errmsg *err)
{
	static uint64_t last_serial;
	struct vhost_controller *controller;
	int rc;

	rc = vhost_controller_check_name(opts->name, err);
	if (rc == 0)
		rc = check_cpumask(opts->name, opts->cpumask, err);
	if (rc != 0)
		return rc;
	controller = calloc(1, sizeof(*controller));
	if (controller == NULL)
		return err_set(err, -ENOMEM, "vhost controller %s: no memory", opts->name);
	controller->serial = ++last_serial;
	snprintf(controller->name, sizeof(controller->name), "%s", opts->name);
	vhost_user_path(opts->name, controller->endpoint.path, NULL);
	controller->ops = opts->ops;
	controller->device = opts->device;
	controller->queue_count = VHOST_MAX_QUEUES + opts->ops->light_queues;
	atomic_init(&controller->iops_threshold, IOPS_THRESHOLD);
	atomic_init(&controller->slow_us, VHOST_SLOW_US);
	controller->features = TRANSPORT_FEATURES | opts->ops->features(opts->device);
	controller->has_cpumask = opts->cpumask != NULL;
	if (opts->cpumask != NULL)
		controller->cpumask = *opts->cpumask;
	controller->endpoint.controller = controller;
	TAILQ_INIT(&controller->sessions);
	/* The name is taken from now on. */
	TAILQ_INSERT_TAIL(&controllers, controller, link);

	rc = start_controller(controller, opts->delay, err);
	if (rc != 0) {
		TAILQ_REMOVE(&controllers, controller, link);
		free(controller);
		return rc;
	}
	controller->ready = true;
	notify_send(NOTIFY_VHOST_CONTROLLER_CREATE, "%s", controller->name);
	return 0;
}

void
vhost_controller_config_changed(struct vhost_controller *controller)
{
	vhost_user_config_changed(&controller->endpoint);
}

/* ---- deleting ---- */

/* env_ticks() by which requests must have ended, from now on. */
static uint64_t
drain_deadline(void)
{
	return env_ticks() + env_us_to_ticks(VHOST_DRAIN_US);
}

/* [waits] until no queue runs, at most until deadline, but looks once in any case. 0 or -ETIMEDOUT. */
static int
stop_queues(struct vhost_controller *controller, uint64_t deadline)
{
	while (thread_call(vhost_main_thread(controller), close_on_thread, controller) > 0) {
		if (env_ticks() >= deadline)
			return -ETIMEDOUT;
		coroutine_sleep(500);
	}
	return 0;
}

/* [waits] So that all have the same time to stop, however long one of them takes. */
static void
close_all(void)
{
	struct vhost_controller *controller;
	uint64_t serial = 0;

	while ((controller = vhost_controller_next(serial)) != NULL) {
		serial = controller->serial;
		if (controller->deleting)
			continue;
		vhost_threads_hold(controller);
		thread_call(vhost_main_thread(controller), close_on_thread, controller);
		vhost_threads_let_go(controller);
	}
}

static int
has_sessions(void *arg)
{
	struct vhost_controller *controller = arg;

	return !TAILQ_EMPTY(&controller->sessions);
}

/* [waits] for sessions whose release nobody waited for to its end: they need the threads. */
static void
wait_for_sessions(struct vhost_controller *controller)
{
	while (thread_call(vhost_main_thread(controller), has_sessions, controller) > 0)
		coroutine_sleep(500);
}

static int
delete_controller(struct vhost_controller *controller, uint64_t deadline, struct errmsg *err)
{
	int rc;

	if (controller->deleting)
		return err_set(err, -EBUSY, "vhost controller %s: is being deleted",
			       controller->name);
	controller->deleting = true;
	while (controller->starting)
		coroutine_sleep(500);
	rc = stop_queues(controller, deadline);
	if (rc != 0) {
		controller->deleting = false;
		return err_set(
			err, rc,
			"vhost controller %s: its block device does not finish its requests; "
			"its queues are stopped, delete it again later",
			controller->name);
	}
	if (controller->listening)
		coroutine_blocking(unlisten_on_worker, &controller->endpoint);
	wait_for_sessions(controller);
	vhost_threads_end(controller);
	TAILQ_REMOVE(&controllers, controller, link);
	controller->ops->destroy(controller->device);
	notify_send(NOTIFY_VHOST_CONTROLLER_DELETE, "%s", controller->name);
	log_notice("vhost %s: deleted", controller->name);
	free(controller);
	return 0;
}

int
vhost_controller_delete(const char *name, struct errmsg *err)
{
	struct vhost_controller *controller = find_ready(name);

	if (controller == NULL)
		return err_set(err, -ENODEV, "vhost controller %s: No such device", name);
	return delete_controller(controller, drain_deadline(), err);
}

/* ---- what there is ---- */

static json_t *
session_json(const struct vhost_session *session)
{
	char name[VHOST_NAME_MAX + 16];

	snprintf(name, sizeof(name), "%ss%u", session->controller->name, session->id);
	return json_pack("{s:i, s:I, s:s, s:b, s:I, s:I}", "vid", session->vid, "id",
			 (json_int_t)session->id, "name", name, "started", session->busy != 0,
			 "max_queues", (json_int_t)session->controller->queue_count,
			 "inflight_task_cnt", (json_int_t)0);
}

/* Adds what this queue has in flight to its session's number. */
static void
add_in_flight(json_t *sessions, const struct vhost_queue *queue)
{
	json_t *session;
	size_t i;

	json_array_foreach (sessions, i, session) {
		json_t *count = json_object_get(session, "inflight_task_cnt");

		if (json_integer_value(json_object_get(session, "id")) == queue->session->id)
			json_integer_set(count, json_integer_value(count) +
							virtq_in_flight(queue->setup.vq));
	}
}

/* The main thread comes first. */
static int
sessions_on_thread(struct vhost_thread *thread, void *arg)
{
	const struct vhost_session *session;
	const struct vhost_queue *queue;
	json_t *sessions = arg;

	if (vhost_thread_is_main(thread)) {
		TAILQ_FOREACH (session, &thread->controller->sessions, link)
			json_array_append_new(sessions, session_json(session));
	}
	LIST_FOREACH (queue, &thread->queues, link)
		add_in_flight(sessions, queue);
	return 0;
}

static const char *
format_cpumask(const struct vhost_controller *controller, char text[CPUMASK_TEXT_MAX])
{
	struct cpumask all = {{0}};

	if (controller->has_cpumask)
		return cpumask_format(&controller->cpumask, text);
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		cpumask_set(&all, core);
	return cpumask_format(&all, text);
}

/* [waits]; the controller may be gone afterwards. */
static json_t *
controller_json(struct vhost_controller *controller)
{
	json_t *sessions = json_array();
	char cpumask[CPUMASK_TEXT_MAX];
	json_t *object;

	object = json_pack("{s:s, s:s, s:I, s:I, s:s, s:O, s:o}", "ctrlr", controller->name,
			   "cpumask", format_cpumask(controller, cpumask), "delay_base_us",
			   (json_int_t)atomic_load(&controller->delay_base_us), "iops_threshold",
			   (json_int_t)atomic_load(&controller->iops_threshold), "socket",
			   controller->endpoint.path, "sessions", sessions, "backend_specific",
			   controller->ops->describe(controller->device));
	if (object != NULL && !controller->deleting)
		vhost_threads_call(controller, sessions_on_thread, sessions);
	json_decref(sessions);
	return object;
}

json_t *
vhost_controllers_json(const char *name)
{
	struct vhost_controller *controller =
		name != NULL ? find_ready(name) : vhost_controller_next(0);
	json_t *array;

	if (name != NULL && controller == NULL)
		return NULL;
	array = json_array();
	while (controller != NULL) {
		/* They may come and go while one waits. */
		uint64_t serial = controller->serial;

		json_array_append_new(array, controller_json(controller));
		controller = name == NULL ? vhost_controller_next(serial) : NULL;
	}
	return array;
}

/* NULL: calls are not coalesced, as with every new controller. */
static json_t *
coalescing_config(const struct vhost_controller *controller)
{
	json_int_t delay_base_us = atomic_load(&controller->delay_base_us);
	json_int_t iops_threshold = atomic_load(&controller->iops_threshold);

	if (delay_base_us == 0 && iops_threshold == IOPS_THRESHOLD)
		return NULL;
	return json_pack("{s:s, s:{s:s, s:I, s:I}}", "method", "vhost_controller_set_coalescing",
			 "params", "ctrlr", controller->name, "delay_base_us", delay_base_us,
			 "iops_threshold", iops_threshold);
}

/* NULL: as with every new controller. */
static json_t *
slow_threshold_config(const struct vhost_controller *controller)
{
	json_int_t slow_us = atomic_load(&controller->slow_us);

	if (slow_us == VHOST_SLOW_US)
		return NULL;
	return json_pack("{s:s, s:{s:s, s:I}}", "method", "vhost_controller_set_slow_threshold",
			 "params", "ctrlr", controller->name, "threshold_us", slow_us);
}

json_t *
vhost_config_json(void)
{
	struct vhost_controller *controller;
	json_t *array = json_array();

	TAILQ_FOREACH (controller, &controllers, link) {
		json_t *object =
			controller->ready ? controller->ops->config(controller->device) : NULL;
		json_t *params = json_object_get(object, "params");
		char text[CPUMASK_TEXT_MAX];

		if (params == NULL) {
			json_decref(object);
			continue;
		}
		json_object_set_new(params, "ctrlr", json_string(controller->name));
		if (controller->has_cpumask)
			json_object_set_new(
				params, "cpumask",
				json_string(cpumask_format(&controller->cpumask, text)));
		json_array_append_new(array, object);
		json_array_append_new(array, coalescing_config(controller));
		json_array_append_new(array, slow_threshold_config(controller));
		if (controller->ops->config_more != NULL)
			controller->ops->config_more(controller->device, array);
	}
	return array;
}

/* ---- the library ---- */

static void (*save_config)(void); /* set once */

void
vhost_lib_set_save(void (*save)(void))
{
	save_config = save;
}

void
vhost_controllers_save(void)
{
	if (save_config != NULL)
		save_config();
}

struct init_call {
	const char *socket_dir;
	struct errmsg *err;
};

static int
init_on_worker(void *arg)
{
	struct init_call *call = arg;

	return vhost_user_init(call->socket_dir, call->err);
}

int
vhost_lib_init(const char *socket_dir, struct errmsg *err)
{
	struct init_call call = {.socket_dir = socket_dir, .err = err};
	int rc;

	rc = mapping_guard_install();
	if (rc != 0)
		return err_set(err, rc, "vhost: no handler for SIGBUS: %s", strerror(-rc));
	return coroutine_blocking(init_on_worker, &call);
}

void
vhost_lib_fini(void)
{
	struct vhost_controller *controller;
	uint64_t deadline, serial = 0;
	struct errmsg err;

	close_all();
	deadline = drain_deadline();
	while ((controller = vhost_controller_next(serial)) != NULL) {
		/* By a client whose call has not ended. */
		if (controller->deleting) {
			if (coroutine_sleep(1000) != 0)
				break;
			continue;
		}
		serial = controller->serial;
		if (delete_controller(controller, deadline, &err) != 0)
			log_err("%s", err.text);
	}
}
