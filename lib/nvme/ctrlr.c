/* SPDX-License-Identifier: BSD-3-Clause */
/* A controller's life: attached, kept and detached by one coroutine, the keeper. */
#include "ctrlr.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "env.h"
#include "log.h"
#include "order.h"
#include "start.h"
#include "transport.h"

#define LOOK_US        500000 /* how often CSTS is looked at */
#define ABORT_LOOK_US  2000   /* how often, whether an aborted command has ended */
#define NO_MEMORY_US   1000
#define QUEUE_SIZE_MIN 2

static TAILQ_HEAD(, nvme_ctrlr) ctrlrs = TAILQ_HEAD_INITIALIZER(ctrlrs); /* app thread */

/* ---- time ---- */

uint64_t
nvme_deadline(uint64_t us)
{
	uint64_t hz = env_ticks_hz(), ticks;

	if (__builtin_mul_overflow(us / 1000000, hz, &ticks) ||
	    __builtin_add_overflow(ticks, us % 1000000 * hz / 1000000, &ticks) ||
	    __builtin_add_overflow(ticks, env_ticks(), &ticks))
		return UINT64_MAX;
	return ticks;
}

uint64_t
nvme_us_until(uint64_t deadline)
{
	uint64_t now = env_ticks(), hz = env_ticks_hz(), left;

	if (deadline <= now)
		return 0;
	left = deadline - now;
	return left / hz * 1000000 + left % hz * 1000000 / hz + 1;
}

uint64_t
nvme_ctrlr_admin_timeout_us(const struct nvme_ctrlr *ctrlr)
{
	return ctrlr->tuning.admin_timeout_us != 0 ? ctrlr->tuning.admin_timeout_us
						   : NVME_ADMIN_TIMEOUT_US;
}

void
nvme_ctrlr_limit_commands(struct nvme_ctrlr *ctrlr, uint32_t timeouts)
{
	ctrlr->commands_until =
		timeouts > 0 ? nvme_deadline(timeouts * nvme_ctrlr_admin_timeout_us(ctrlr)) : 0;
}

const char *
nvme_ctrlr_reason(const struct nvme_ctrlr *ctrlr, const struct errmsg *err)
{
	struct errmsg prefix;
	size_t length;

	ctrlr_err(ctrlr, &prefix, 0, "%s", "");
	length = strlen(prefix.text);
	return strncmp(err->text, prefix.text, length) == 0 ? err->text + length : err->text;
}

/* ---- waking the keeper ---- */

static void
wake_received(void *arg)
{
	struct nvme_ctrlr *ctrlr = arg;
	struct completion *wake = ctrlr->wake;

	atomic_store(&ctrlr->wake_sent, false);
	ctrlr->wake = NULL;
	if (wake != NULL)
		completion_signal(wake, 0);
}

void
nvme_ctrlr_work(struct nvme_ctrlr *ctrlr, uint32_t work)
{
	atomic_fetch_or(&ctrlr->work, work);
	if (!atomic_exchange(&ctrlr->wake_sent, true))
		thread_send(ctrlr->app, &ctrlr->wake_msg, wake_received, ctrlr);
}

static void
wait_for_work(struct nvme_ctrlr *ctrlr, uint64_t us)
{
	struct completion *wake = completion_create();

	if (wake == NULL) {
		coroutine_sleep(NO_MEMORY_US);
		return;
	}
	ctrlr->wake = wake;
	/* What came before is seen here, what comes from now on wakes. */
	if (atomic_load(&ctrlr->work) == 0)
		completion_wait(wake, us);
	if (ctrlr->wake == wake) {
		ctrlr->wake = NULL;
		completion_drop(wake);
	} else {
		completion_put(wake);
	}
}

/* ---- going ---- */

static uint32_t count_used(struct nvme_ctrlr *ctrlr);

/* It shall go, and nobody needs it any more. */
static bool
is_to_go(struct nvme_ctrlr *ctrlr)
{
	return ctrlr->detaching != NULL && count_used(ctrlr) == 0;
}

bool
nvme_ctrlr_is_cancelled(struct nvme_ctrlr *ctrlr)
{
	if (ctrlr->parting)
		return false;
	return (ctrlr->attaching != NULL && nvme_order_is_abandoned(ctrlr->attaching)) ||
	       is_to_go(ctrlr);
}

/* ---- queue pairs: who has which ---- */

struct nvme_qpair *
nvme_ctrlr_take_qpair(struct nvme_ctrlr *ctrlr)
{
	struct nvme_qpair *qpair = NULL;

	pthread_mutex_lock(&ctrlr->lock);
	for (uint32_t i = 0; i < ctrlr->qpairs_granted && !ctrlr->closing && qpair == NULL; i++) {
		if (!ctrlr->qpairs[i].used)
			qpair = &ctrlr->qpairs[i];
	}
	if (qpair != NULL) {
		qpair->used = true;
		ctrlr->qpairs_used++;
	} else {
		errno = ctrlr->closing ? ENODEV : ENOSPC;
	}
	pthread_mutex_unlock(&ctrlr->lock);
	return qpair;
}

void
nvme_ctrlr_give_qpair(struct nvme_qpair *qpair)
{
	struct nvme_ctrlr *ctrlr = qpair->ctrlr;

	pthread_mutex_lock(&ctrlr->lock);
	qpair->used = false;
	ctrlr->qpairs_used--;
	pthread_mutex_unlock(&ctrlr->lock);
	/* It may be the last one that nvme_detach() waits for. */
	nvme_ctrlr_work(ctrlr, NVME_WORK_ORDERS);
}

void
nvme_ctrlr_wants_qpair(struct nvme_qpair *qpair)
{
	nvme_ctrlr_work(qpair->ctrlr, NVME_WORK_QPAIRS);
}

static uint32_t
count_used(struct nvme_ctrlr *ctrlr)
{
	uint32_t used;

	pthread_mutex_lock(&ctrlr->lock);
	used = ctrlr->qpairs_used;
	pthread_mutex_unlock(&ctrlr->lock);
	return used;
}

/* ---- attaching ---- */

static void
on_gone(void *ctx)
{
	struct nvme_ctrlr *ctrlr = ctx;

	if (!atomic_load(&ctrlr->transport->gone)) {
		nvme_ctrlr_work(ctrlr, NVME_WORK_LEAVE);
		return;
	}
	/* What waits for it need not wait any longer. */
	nvme_admin_close(ctrlr, -ENODEV);
	nvme_ctrlr_work(ctrlr, NVME_WORK_GONE);
}

static int
open_transport(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = ctrlr->ops->open(ctrlr->traddr, on_gone, ctrlr, &ctrlr->transport, err);

	if (rc != 0) {
		struct errmsg reason = *err;

		return err_set(err, rc, "nvme %s: %s", ctrlr->name, reason.text);
	}
	ctrlr->dma = ctrlr->transport->dma;
	return 0;
}

/* How many queue pairs there could be, and their size: by the registers. */
static int
plan_queues(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	uint32_t entries = NVME_CAP_MQES(ctrlr->cap) + 1u;
	/* Of a queue pair's two doorbells; those of the admin queue are the first. */
	uint32_t doorbells = ctrlr->transport->doorbells_size / (8u << ctrlr->stride) - 1;

	if (ctrlr->queue_size > entries)
		ctrlr->queue_size = entries;
	if (ctrlr->qpair_count > doorbells)
		ctrlr->qpair_count = doorbells;
	(void)err;
	return 0;
}

/* Before any queue is made: see nvme_transport_ops.set_interrupts. */
static int
set_interrupts(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	uint32_t count = ctrlr->qpair_count + 1;
	int rc;

	if (!ctrlr->interrupts)
		return 0;
	ctrlr->interrupts = ctrlr->transport->vectors > 0;
	if (!ctrlr->interrupts) {
		ctrlr_log(notice, ctrlr, "it has no MSI-X interrupts, and is polled");
		return 0;
	}
	ctrlr->vector_count = count < ctrlr->transport->vectors ? count : ctrlr->transport->vectors;
	ctrlr->vectors = calloc(ctrlr->vector_count, sizeof(ctrlr->vectors[0]));
	rc = ctrlr->vectors == NULL
		     ? -ENOMEM
		     : ctrlr->ops->set_interrupts(ctrlr->transport, ctrlr->vector_count,
						  ctrlr->vectors);
	return rc == 0 ? 0 : ctrlr_err(ctrlr, err, rc, "interrupts: %s", strerror(-rc));
}

static int
allocate(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = nvme_admin_alloc(ctrlr, err);

	if (rc != 0)
		return rc;
	ctrlr->dbbuf =
		transport_dma_alloc(ctrlr->transport, 2 * NVME_PAGE_SIZE, &ctrlr->dbbuf_iova, err);
	ctrlr->qpairs = calloc(ctrlr->qpair_count, sizeof(ctrlr->qpairs[0]));
	if (ctrlr->dbbuf == NULL || ctrlr->qpairs == NULL)
		return ctrlr_err(ctrlr, err, -ENOMEM, "%s", strerror(ENOMEM));
	for (uint32_t i = 0; i < ctrlr->qpair_count; i++) {
		ctrlr->qpairs[i].ctrlr = ctrlr;
		ctrlr->qpairs[i].id = (uint16_t)(i + 1);
	}
	return 0;
}

static int
offer(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	int rc = nvme_qpair_register(ctrlr);

	if (rc != 0)
		return ctrlr_err(ctrlr, err, rc, "%s", strerror(-rc));
	ctrlr->registered = true;
	return 0;
}

/* [waits] */
static int
attach(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	static int (*const steps[])(struct nvme_ctrlr * ctrlr, struct errmsg * err) = {
		open_transport,      nvme_ctrlr_read_capabilities,
		nvme_ctrlr_turn_off, plan_queues,
		set_interrupts,      allocate,
		nvme_ctrlr_start,    offer,
	};
	int rc = 0;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && rc == 0; i++)
		rc = nvme_ctrlr_is_cancelled(ctrlr) ? -ECANCELED : steps[i](ctrlr, err);
	return rc;
}

/* ---- detaching ---- */

static void
delete_queues(struct nvme_ctrlr *ctrlr)
{
	nvme_ctrlr_limit_commands(ctrlr, 1);
	for (uint32_t i = 0; i < ctrlr->qpair_count; i++) {
		struct nvme_qpair *qpair = &ctrlr->qpairs[i];
		struct nvme_admin_call call = {
			.command = {.opcode = nvme_admin_delete_sq, .cdw10 = qpair->id}};

		/* Whatever it answers: it is switched off soon. */
		if (!qpair->created || nvme_admin_call(ctrlr, &call) != 0)
			continue;
		call.command.opcode = nvme_admin_delete_cq;
		nvme_admin_call(ctrlr, &call);
	}
}

/* What was registered goes, when its channels have gone. */
static void
unregistered(void *dev)
{
	struct nvme_ctrlr *ctrlr = dev;

	completion_signal(ctrlr->unregistered, 0);
}

static void
unregister(struct nvme_ctrlr *ctrlr)
{
	while ((ctrlr->unregistered = completion_create()) == NULL)
		coroutine_sleep(NO_MEMORY_US);
	io_device_unregister(ctrlr, unregistered);
	completion_wait(ctrlr->unregistered, WAIT_FOREVER);
	completion_put(ctrlr->unregistered);
}

/* The device has written what it caches, and uses no memory any more. */
static void
part(struct nvme_ctrlr *ctrlr)
{
	struct errmsg err;

	if (atomic_load(&ctrlr->transport->gone) || ctrlr->info.state == NVME_GONE) {
		nvme_admin_close(ctrlr, -ENODEV);
		return;
	}
	if (ctrlr->admin.open && ctrlr->info.state == NVME_LIVE)
		delete_queues(ctrlr);
	nvme_admin_close(ctrlr, -ECANCELED);
	if (ctrlr->has_identity && !ctrlr->has_failed)
		nvme_ctrlr_shut_down(ctrlr);
	if (ctrlr->running && nvme_ctrlr_turn_off(ctrlr, &err) != 0)
		ctrlr_log(warn, ctrlr, "%s", nvme_ctrlr_reason(ctrlr, &err));
}

/* Whatever there is of it. [waits] */
static void
take_down(struct nvme_ctrlr *ctrlr)
{
	ctrlr->parting = true;
	if (ctrlr->registered)
		unregister(ctrlr);
	if (ctrlr->transport != NULL)
		part(ctrlr);
	/* Its owner may be in the middle of being told something, and use it there. */
	while (ctrlr->teller_runs)
		coroutine_sleep(NO_MEMORY_US);
	if (ctrlr->transport != NULL) {
		for (uint32_t i = 0; ctrlr->qpairs != NULL && i < ctrlr->qpair_count; i++) {
			nvme_interrupt_settle(&ctrlr->qpairs[i]);
			nvme_qpair_free(&ctrlr->qpairs[i]);
		}
		nvme_admin_free(ctrlr);
		transport_dma_free(ctrlr->transport, ctrlr->dbbuf, 2 * NVME_PAGE_SIZE);
		ctrlr->ops->close(ctrlr->transport);
	}
	/* A wake-up may be under way. */
	while (atomic_load(&ctrlr->wake_sent))
		coroutine_sleep(NO_MEMORY_US);
}

static void
destroy(struct nvme_ctrlr *ctrlr)
{
	TAILQ_REMOVE(&ctrlrs, ctrlr, link);
	pthread_mutex_destroy(&ctrlr->lock);
	free(ctrlr->namespaces);
	free(ctrlr->qpairs);
	free(ctrlr->vectors);
	free(ctrlr->id);
	free(ctrlr->traddr);
	free(ctrlr);
}

/* ---- keeping ---- */

static void
send_keep_alive(struct nvme_ctrlr *ctrlr)
{
	struct nvme_admin_call call = {.command = {.opcode = nvme_admin_keep_alive}};

	ctrlr->keep_alive_at = nvme_deadline(ctrlr->keep_alive_us);
	nvme_admin_call(ctrlr, &call);
}

static bool
is_due(uint64_t deadline)
{
	return deadline != 0 && nvme_us_until(deadline) == 0;
}

/* What time brings. */
static void
serve_time(struct nvme_ctrlr *ctrlr)
{
	if (is_due(ctrlr->look_at)) {
		nvme_ctrlr_tell_pending(ctrlr);
		ctrlr->look_at = nvme_deadline(LOOK_US);
		nvme_ctrlr_look(ctrlr);
		if (nvme_admin_is_overdue(ctrlr))
			nvme_ctrlr_work(ctrlr, NVME_WORK_RESET);
	}
	if (ctrlr->info.state == NVME_LIVE && ctrlr->keep_alive_us != 0 &&
	    is_due(ctrlr->keep_alive_at))
		send_keep_alive(ctrlr);
	if (ctrlr->info.state == NVME_LIVE && is_due(ctrlr->health_at))
		nvme_health_serve(ctrlr);
	if (ctrlr->info.state == NVME_LIVE && is_due(ctrlr->scan_at)) {
		nvme_ctrlr_limit_commands(ctrlr, 1);
		nvme_namespaces_serve(ctrlr);
		nvme_ctrlr_limit_commands(ctrlr, 0);
	}
	if (!is_due(ctrlr->retry_at))
		return;
	ctrlr->retry_at = 0;
	nvme_ctrlr_work(ctrlr,
			ctrlr->info.state == NVME_FAILED ? NVME_WORK_RESET : NVME_WORK_QPAIRS);
}

/* What others have left, the most pressing first. Some of it leaves more. */
static void
serve(struct nvme_ctrlr *ctrlr)
{
	uint32_t work = atomic_exchange(&ctrlr->work, 0);
	struct errmsg err = {""};

	if ((work & NVME_WORK_GONE) != 0)
		nvme_ctrlr_lose(ctrlr);
	if ((work & NVME_WORK_LEAVE) != 0)
		nvme_ctrlr_leave(ctrlr);
	if ((work & NVME_WORK_RESET) != 0 &&
	    (ctrlr->info.state == NVME_LIVE || ctrlr->info.state == NVME_FAILED))
		nvme_ctrlr_recover(ctrlr, &err);
	nvme_orders_serve(ctrlr);
	if ((work & NVME_WORK_QPAIRS) != 0)
		nvme_qpairs_serve(ctrlr);
	if (ctrlr->info.state == NVME_LIVE)
		nvme_events_serve(ctrlr);
}

/* How long there is nothing to do, in µs. */
static uint64_t
time_to_next(struct nvme_ctrlr *ctrlr, bool aborts)
{
	uint64_t next = nvme_us_until(ctrlr->look_at);

	if (aborts)
		return ABORT_LOOK_US;
	if (ctrlr->retry_at != 0 && nvme_us_until(ctrlr->retry_at) < next)
		next = nvme_us_until(ctrlr->retry_at);
	if (ctrlr->keep_alive_us != 0 && nvme_us_until(ctrlr->keep_alive_at) < next)
		next = nvme_us_until(ctrlr->keep_alive_at);
	return next;
}

static void
keep(struct nvme_ctrlr *ctrlr)
{
	ctrlr->look_at = nvme_deadline(LOOK_US);
	while (!is_to_go(ctrlr)) {
		bool aborts;

		/* Its users wait for their requests, which would wait for it to be enabled. */
		if (ctrlr->detaching != NULL && ctrlr->info.state == NVME_DISABLED) {
			nvme_ctrlr_set_state(ctrlr, NVME_FAILED);
			nvme_qpairs_settle(ctrlr);
		}
		serve(ctrlr);
		serve_time(ctrlr);
		aborts = ctrlr->info.state == NVME_LIVE && nvme_aborts_serve(ctrlr);
		if (!is_to_go(ctrlr))
			wait_for_work(ctrlr, time_to_next(ctrlr, aborts));
	}
}

/* One controller, from the beginning to the end. */
static void
keeper_run(void *arg)
{
	struct nvme_ctrlr *ctrlr = arg;
	struct nvme_order *order = ctrlr->attaching;
	struct errmsg err = {""};
	int rc;

	ctrlr->keeper = coroutine_current();
	rc = attach(ctrlr, &err);
	if (rc == 0 && !nvme_order_is_abandoned(order)) {
		const struct nvme_ctrlr_info *info = &ctrlr->info;

		ctrlr_log(notice, ctrlr,
			  "%s, serial number %s, firmware %s: %u namespaces, %u queues",
			  info->model, info->serial, info->firmware, ctrlr->namespace_count,
			  info->io_queues);
		ctrlr->attaching = NULL;
		nvme_order_finish(order, 0, NULL);
		keep(ctrlr);
		order = ctrlr->detaching;
	}
	nvme_orders_refuse(ctrlr);
	take_down(ctrlr);
	destroy(ctrlr);
	nvme_order_finish(order, rc, &err);
}

/* ---- for the controller's user ---- */

static const struct nvme_transport_ops *
find_transport(const char *trtype)
{
	for (size_t i = 0; nvme_transports[i] != NULL; i++) {
		if (strcasecmp(nvme_transports[i]->name, trtype) == 0)
			return nvme_transports[i];
	}
	return NULL;
}

static bool
is_attached(const struct nvme_transport_ops *ops, const char *traddr)
{
	struct nvme_ctrlr *ctrlr;

	TAILQ_FOREACH (ctrlr, &ctrlrs, link) {
		if (ctrlr->ops == ops && strcmp(ctrlr->traddr, traddr) == 0)
			return true;
	}
	return false;
}

static struct nvme_ctrlr *
create(const struct nvme_opts *opts, const struct nvme_transport_ops *ops)
{
	struct nvme_ctrlr *ctrlr = calloc(1, sizeof(*ctrlr));
	uint32_t queues = opts->io_queues != 0 ? opts->io_queues : NVME_MAX_QUEUES;

	if (ctrlr == NULL)
		return NULL;
	ctrlr->id = calloc(2, sizeof(ctrlr->id[0]));
	ctrlr->traddr = strdup(opts->traddr);
	ctrlr->attaching = nvme_order_create(NULL);
	if (ctrlr->id == NULL || ctrlr->traddr == NULL || ctrlr->attaching == NULL) {
		free(ctrlr->id);
		free(ctrlr->traddr);
		nvme_order_drop(ctrlr->attaching);
		free(ctrlr);
		return NULL;
	}
	snprintf(ctrlr->name, sizeof(ctrlr->name), "%s", opts->name);
	ctrlr->ops = ops;
	ctrlr->app = thread_current();
	ctrlr->info.trtype = ops->name;
	ctrlr->info.traddr = ctrlr->traddr;
	ctrlr->interrupts = opts->interrupts;
	ctrlr->qpair_count = queues < NVME_MAX_QUEUES ? queues : NVME_MAX_QUEUES;
	ctrlr->queue_size = opts->queue_size != 0 ? opts->queue_size : NVME_QUEUE_SIZE;
	if (ctrlr->queue_size < QUEUE_SIZE_MIN)
		ctrlr->queue_size = QUEUE_SIZE_MIN;
	pthread_mutex_init(&ctrlr->lock, NULL);
	TAILQ_INIT(&ctrlr->orders);
	nvme_tune(ctrlr, &opts->tuning);
	TAILQ_INSERT_TAIL(&ctrlrs, ctrlr, link);
	return ctrlr;
}

int
nvme_attach(const struct nvme_opts *opts, nvme_event_fn event, void *ctx,
	    struct nvme_ctrlr **result, struct errmsg *err)
{
	const struct nvme_transport_ops *ops = find_transport(opts->trtype);
	struct nvme_ctrlr *ctrlr;
	struct nvme_order *order;
	int rc;

	if (ops == NULL)
		return err_set(err, -EINVAL, "nvme %s: there is no transport '%s'", opts->name,
			       opts->trtype);
	if (is_attached(ops, opts->traddr))
		return err_set(err, -EEXIST, "nvme %s: %s is attached already", opts->name,
			       opts->traddr);
	ctrlr = create(opts, ops);
	if (ctrlr == NULL)
		return err_set(err, -ENOMEM, "nvme %s: %s", opts->name, strerror(ENOMEM));
	ctrlr->event = event;
	ctrlr->event_ctx = ctx;
	order = ctrlr->attaching;
	rc = coroutine_start(ctrlr->app, "nvme", keeper_run, ctrlr);
	if (rc != 0) {
		nvme_order_drop(order);
		destroy(ctrlr);
		return err_set(err, rc, "nvme %s: %s", opts->name, strerror(-rc));
	}
	rc = nvme_order_wait(order, err);
	if (rc == 0)
		*result = ctrlr;
	return rc;
}

void
nvme_detach(struct nvme_ctrlr *ctrlr)
{
	struct nvme_order *order;

	assert(ctrlr->detaching == NULL);
	while ((order = nvme_order_create(NULL)) == NULL)
		coroutine_sleep(NO_MEMORY_US);
	pthread_mutex_lock(&ctrlr->lock);
	ctrlr->closing = true;
	pthread_mutex_unlock(&ctrlr->lock);
	ctrlr->detaching = order;
	nvme_ctrlr_work(ctrlr, NVME_WORK_ORDERS);
	nvme_order_wait(order, NULL);
}

void
nvme_tune(struct nvme_ctrlr *ctrlr, const struct nvme_tuning *tuning)
{
	uint64_t ticks = 0;

	ctrlr->tuning = *tuning;
	if (tuning->io_timeout_us != 0)
		ticks = nvme_deadline(tuning->io_timeout_us) - env_ticks();
	atomic_store(&ctrlr->io_timeout_ticks, ticks);
	/* A request counts them in 8 bits. */
	atomic_store(&ctrlr->retries,
		     tuning->retries < NVME_RETRIES_MAX ? tuning->retries : NVME_RETRIES_MAX);
	atomic_store(&ctrlr->action, (uint8_t)tuning->action);
}

void
nvme_ctrlr_set_state(struct nvme_ctrlr *ctrlr, enum nvme_state state)
{
	if (ctrlr->info.state == state)
		return;
	ctrlr->info.state = state;
	nvme_ctrlr_tell(ctrlr, NVME_EVENT_STATE);
}

const struct nvme_ctrlr_info *
nvme_get_info(struct nvme_ctrlr *ctrlr)
{
	ctrlr->info.io_queues_used = count_used(ctrlr);
	ctrlr->info.timeouts = atomic_load(&ctrlr->timeouts);
	return &ctrlr->info;
}

struct dma_space *
nvme_dma_space(struct nvme_ctrlr *ctrlr)
{
	return ctrlr->dma;
}
