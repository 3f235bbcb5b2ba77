/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe controllers by name: how they come, stay and go. App thread, in coroutines. */
#include "bdev_nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "log.h"
#include "notify.h"
#include "pci.h"

#define POLL_US  1000     /* for what ends by itself, soon */
#define START_US 10000000 /* how long who keeps trying waits for the first time */

static const char *const transports[] = {"PCIe", "VFIOUSER"};

struct nvme_controllers bdev_nvme_controllers = TAILQ_HEAD_INITIALIZER(bdev_nvme_controllers);

static struct bdev_nvme_settings settings = {
	.tuning =
		{
			.action = NVME_TIMEOUT_ABORT,
			.io_timeout_us = NVME_IO_TIMEOUT_US,
			.admin_timeout_us = NVME_ADMIN_TIMEOUT_US,
			.retries = NVME_RETRIES,
		},
	.queue_size = NVME_QUEUE_SIZE,
};

/* ---- finding ---- */

struct nvme_controller *
bdev_nvme_find(const char *name)
{
	struct nvme_controller *controller;

	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (strcmp(controller->name, name) == 0 && !controller->ending)
			return controller;
	}
	return NULL;
}

struct nvme_controller *
bdev_nvme_at(const char *trtype, const char *traddr)
{
	struct nvme_controller *controller;

	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (strcmp(controller->trtype, trtype) == 0 &&
		    strcmp(controller->traddr, traddr) == 0)
			return controller;
	}
	return NULL;
}

static bool
is_name_taken(const char *name)
{
	struct nvme_controller *controller;

	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (strcmp(controller->name, name) == 0)
			return true;
	}
	return false;
}

struct nvme_controller *
bdev_nvme_hold(const char *name, int *rc, struct errmsg *err)
{
	struct nvme_controller *controller = bdev_nvme_find(name);

	if (controller == NULL) {
		*rc = err_set(err, -ENODEV, "there is no NVMe controller %s", name);
		return NULL;
	}
	if (controller->ctrlr == NULL) {
		*rc = err_set(err, -ENODEV, "NVMe controller %s is not there: %.200s", name,
			      controller->error.text);
		return NULL;
	}
	controller->users++;
	return controller;
}

void
bdev_nvme_release(struct nvme_controller *controller)
{
	controller->users--;
}

/* ---- the keeper: waking it ---- */

static void
wake(struct nvme_controller *controller)
{
	if (controller->wake != NULL)
		completion_signal(controller->wake, 0);
	controller->wake = NULL;
}

/* [waits] until there is something to do, or it is time to. */
static void
wait_for_news(struct nvme_controller *controller)
{
	struct completion *news;

	if (controller->news != 0 || controller->ending)
		return;
	news = completion_create();
	if (news == NULL) {
		coroutine_sleep(BDEV_NVME_RETRY_US);
		return;
	}
	controller->wake = news;
	completion_wait(news, controller->ctrlr != NULL ? WAIT_FOREVER : BDEV_NVME_RETRY_US);
	wake(controller);
	completion_put(news);
}

static void
end(struct nvme_controller *controller)
{
	controller->ending = true;
	if (controller->attaching != NULL)
		coroutine_cancel(controller->attaching);
	wake(controller);
}

/* In a coroutine of the driver's. */
static void
on_event(void *ctx, enum nvme_event event)
{
	struct nvme_controller *controller = ctx;

	if (event == NVME_EVENT_CHANGING) {
		bdev_nvme_stop_replaced(controller);
		return;
	}
	controller->news |= 1u << event;
	wake(controller);
}

/* ---- the keeper: attaching ---- */

/* In a coroutine of its own, which can be cancelled without the keeper. */
struct attempt {
	struct nvme_controller *controller;
	struct completion *done;
	struct nvme_ctrlr *ctrlr;
	struct errmsg err;
};

static void
run_attempt(void *arg)
{
	struct attempt *attempt = arg;
	struct nvme_controller *controller = attempt->controller;
	struct nvme_opts opts = {
		.name = controller->name,
		.trtype = controller->trtype,
		.traddr = controller->traddr,
		.io_queues = controller->io_queues,
		.queue_size = settings.queue_size,
		.interrupts = controller->interrupts,
		.tuning = settings.tuning,
	};
	int rc = -ECANCELED;

	controller->attaching = coroutine_current();
	if (!controller->ending)
		rc = nvme_attach(&opts, on_event, controller, &attempt->ctrlr, &attempt->err);
	controller->attaching = NULL;
	completion_signal(attempt->done, rc);
}

static int
attempt_to_attach(struct nvme_controller *controller, struct errmsg *err)
{
	struct attempt attempt = {.controller = controller, .done = completion_create()};
	int rc = -ENOMEM;

	if (attempt.done == NULL)
		return err_set(err, rc, "no memory");
	rc = coroutine_start(thread_current(), "nvme_attach", run_attempt, &attempt);
	if (rc != 0) {
		completion_drop(attempt.done);
		return err_set(err, rc, "%s", strerror(-rc));
	}
	rc = completion_wait(attempt.done, WAIT_FOREVER);
	completion_put(attempt.done);
	if (rc == 0) {
		controller->ctrlr = attempt.ctrlr;
		nvme_tune(controller->ctrlr, &settings.tuning); /* they may have changed */
		return 0;
	}
	*err = attempt.err;
	if (err->text[0] == '\0')
		err_set(err, rc, "%s", strerror(-rc));
	return rc;
}

/* Another device at that address must not take the place of one that somebody counts on. */
static int
check_subsystem(struct nvme_controller *controller, struct errmsg *err)
{
	const struct nvme_ctrlr_info *info = nvme_get_info(controller->ctrlr);

	if (controller->subnqn[0] == '\0' || strcmp(controller->subnqn, info->subnqn) == 0)
		return 0;
	return err_set(err, -EINVAL, "the controller at %s is of subsystem %s, not %s",
		       controller->traddr, info->subnqn, controller->subnqn);
}

/* [waits] Its block devices are gone, and so is the controller. */
static void
let_go(struct nvme_controller *controller)
{
	struct errmsg err;

	if (controller->ctrlr == NULL)
		return;
	/* Requests that wait for it should end by being done. */
	if (nvme_get_info(controller->ctrlr)->state == NVME_DISABLED &&
	    !TAILQ_EMPTY(&controller->disks))
		nvme_enable(controller->ctrlr, &err);
	bdev_nvme_remove_disks(controller);
	while (controller->users > 0)
		coroutine_sleep(POLL_US);
	nvme_detach(controller->ctrlr);
	controller->ctrlr = NULL;
	controller->news = 0;
	controller->unhealthy = false;
}

static void
tell_missing(struct nvme_controller *controller, const struct errmsg *err)
{
	/* Once for each reason. */
	if (strcmp(controller->error.text, err->text) != 0 && !controller->ending) {
		log_err("nvme %s: not there: %s; it is tried again every %u s", controller->name,
			err->text, BDEV_NVME_RETRY_US / 1000000);
		notify_send(NOTIFY_NVME_CONTROLLER_STATE, "%s: missing: %s", controller->name,
			    err->text);
	}
	controller->error = *err;
}

/* strict: a block device that cannot be made is a failure of all. */
static int
attach(struct nvme_controller *controller, bool strict, struct errmsg *err)
{
	int rc;

	controller->news = 0;
	rc = attempt_to_attach(controller, err);
	if (rc != 0)
		return rc;
	rc = check_subsystem(controller, err);
	if (rc == 0)
		rc = bdev_nvme_scan(controller, strict, err);
	if (rc != 0) {
		let_go(controller);
		return rc;
	}
	if (controller->error.text[0] != '\0')
		notify_send(NOTIFY_NVME_CONTROLLER_STATE, "%s: enabled", controller->name);
	controller->error.text[0] = '\0';
	return 0;
}

/* ---- the keeper: events ---- */

static void
tell_state(struct nvme_controller *controller)
{
	static const char *const names[] = {
		[NVME_LIVE] = "enabled",      [NVME_RESETTING] = "resetting",
		[NVME_DISABLED] = "disabled", [NVME_FAILED] = "failed",
		[NVME_GONE] = "gone",
	};
	enum nvme_state state = nvme_get_info(controller->ctrlr)->state;

	if (state == NVME_FAILED)
		log_err("nvme %s: it does not work any more: requests fail; it is tried again now "
			"and then",
			controller->name);
	notify_send(NOTIFY_NVME_CONTROLLER_STATE, "%s: %s", controller->name, names[state]);
}

static void
tell_health(struct nvme_controller *controller)
{
	struct nvme_smart_log health;
	char text[128];

	if (nvme_get_health(controller->ctrlr, &health) != 0)
		return;
	if (health.critical_warning != 0) {
		bdev_nvme_warning_text(health.critical_warning, text, sizeof(text));
		log_err("nvme %s: critical warning: %s", controller->name, text);
		notify_send(NOTIFY_NVME_HEALTH, "%s: critical warning: %s", controller->name, text);
	} else if (controller->unhealthy) {
		log_notice("nvme %s: no critical warning any more", controller->name);
		notify_send(NOTIFY_NVME_HEALTH, "%s: no critical warning", controller->name);
	}
	controller->unhealthy = health.critical_warning != 0;
}

static bool
take_news(struct nvme_controller *controller, enum nvme_event event)
{
	bool is_news = controller->news >> event & 1;

	controller->news &= ~(1u << event);
	return is_news;
}

static void
lose(struct nvme_controller *controller)
{
	struct errmsg err;

	err_set(&err, 0, "%s %s has disappeared", controller->trtype, controller->traddr);
	if (controller->found) {
		bdev_nvme_hotplug_let_go(controller->traddr);
		controller->ending = true;
	} else {
		tell_missing(controller, &err);
	}
	let_go(controller);
}

static void
look_at_news(struct nvme_controller *controller)
{
	struct errmsg err = {""};

	if (take_news(controller, NVME_EVENT_GONE)) {
		lose(controller);
		return;
	}
	if (take_news(controller, NVME_EVENT_STATE))
		tell_state(controller);
	if (take_news(controller, NVME_EVENT_NAMESPACES)) {
		bdev_nvme_scan(controller, false, &err);
		bdev_arrived();
	}
	if (take_news(controller, NVME_EVENT_HEALTH))
		tell_health(controller);
}

/* ---- the keeper ---- */

static void
controller_free(struct nvme_controller *controller)
{
	free(controller->traddr);
	free(controller->subnqn);
	free(controller->hostnqn);
	free(controller);
}

static void
start(struct nvme_controller *controller, bool keep_trying)
{
	struct errmsg err = {""};
	int rc = attach(controller, !keep_trying, &err);

	if (rc != 0 && keep_trying)
		tell_missing(controller, &err);
	else if (rc != 0)
		controller->error = err; /* for who waits */
	if (rc == 0 && (controller->found || controller->late))
		bdev_arrived();
	if (rc != 0 && controller->found)
		log_err("nvme %s: %s", controller->name, err.text);
	if (rc != 0 && !keep_trying)
		controller->ending = true;
	controller->start_rc = keep_trying ? 0 : rc;
	controller->configured = !controller->found && !controller->ending;
	if (controller->started != NULL)
		completion_signal(controller->started, 0);
	controller->started = NULL;
}

static void
keep(struct nvme_controller *controller, bool keep_trying)
{
	start(controller, keep_trying);
	while (!controller->ending) {
		struct errmsg err = {""};

		wait_for_news(controller);
		if (controller->ending)
			break;
		if (controller->ctrlr != NULL)
			look_at_news(controller);
		else if (attach(controller, false, &err) == 0)
			bdev_arrived();
		else
			tell_missing(controller, &err);
	}
	let_go(controller);
	TAILQ_REMOVE(&bdev_nvme_controllers, controller, link);
	while (controller->waiters > 0)
		coroutine_sleep(POLL_US);
	if (controller->ended != NULL)
		completion_signal(controller->ended, 0);
	controller_free(controller);
}

static void
run_keeper(void *arg)
{
	keep(arg, false);
}

static void
run_stubborn_keeper(void *arg)
{
	keep(arg, true);
}

/* ---- attaching ---- */

static int
check_name(const char *name, struct errmsg *err)
{
	struct bdev_info info;
	int rc = bdev_info_init(&info, name, NULL, err);

	if (rc != 0)
		return rc;
	if (strlen(name) > NVME_NAME_MAX)
		return err_set(err, -EINVAL,
			       "the name of an NVMe controller must not be longer than %d bytes",
			       NVME_NAME_MAX);
	if (is_name_taken(name))
		return err_set(err, -EEXIST, "there is an NVMe controller %s already", name);
	return 0;
}

/* The one way to write an address; *traddr is the caller's. */
static int
check_address(const struct bdev_nvme_opts *opts, const char **trtype, char **traddr,
	      struct errmsg *err)
{
	char address[PCI_ADDRESS_SIZE];
	const char *text = opts->traddr;

	*trtype = NULL;
	for (size_t i = 0; i < sizeof(transports) / sizeof(transports[0]); i++) {
		if (strcasecmp(opts->trtype, transports[i]) == 0)
			*trtype = transports[i];
	}
	if (*trtype == NULL)
		return err_set(err, -EINVAL,
			       "NVMe controller %s: transport '%.32s' is not served; PCIe and "
			       "VFIOUSER are",
			       opts->name, opts->trtype);
	if (*trtype == transports[0]) {
		if (pci_parse_address(opts->traddr, address) != 0)
			return err_set(err, -EINVAL,
				       "NVMe controller %s: '%.64s' is not a PCI address such as "
				       "0000:01:00.0",
				       opts->name, opts->traddr);
		text = address;
	} else if (opts->traddr[0] != '/') {
		return err_set(err, -EINVAL, "NVMe controller %s: '%.64s' is not an absolute path",
			       opts->name, opts->traddr);
	}
	if (bdev_nvme_at(*trtype, text) != NULL)
		return err_set(err, -EEXIST, "%s %s is attached already, as NVMe controller %s",
			       *trtype, text, bdev_nvme_at(*trtype, text)->name);
	*traddr = strdup(text);
	return *traddr != NULL ? 0 : err_set(err, -ENOMEM, "no memory");
}

static int
controller_new(const struct bdev_nvme_opts *opts, bool found, struct nvme_controller **result,
	       struct errmsg *err)
{
	struct nvme_controller *controller;
	const char *trtype;
	char *traddr;
	int rc;

	rc = check_name(opts->name, err);
	if (rc == 0)
		rc = check_address(opts, &trtype, &traddr, err);
	if (rc != 0)
		return rc;
	controller = calloc(1, sizeof(*controller));
	if (controller == NULL) {
		free(traddr);
		return err_set(err, -ENOMEM, "no memory for NVMe controller %s", opts->name);
	}
	strcpy(controller->name, opts->name);
	controller->trtype = trtype;
	controller->traddr = traddr;
	controller->subnqn = strdup(opts->subnqn != NULL ? opts->subnqn : "");
	controller->hostnqn = strdup(opts->hostnqn != NULL ? opts->hostnqn : "");
	controller->io_queues = opts->io_queues;
	controller->interrupts = opts->interrupts;
	controller->found = found;
	TAILQ_INIT(&controller->disks);
	if (controller->subnqn == NULL || controller->hostnqn == NULL) {
		controller_free(controller);
		return err_set(err, -ENOMEM, "no memory for NVMe controller %s", opts->name);
	}
	*result = controller;
	return 0;
}

static int
start_keeper(struct nvme_controller *controller, bool keep_trying, struct errmsg *err)
{
	int rc = coroutine_start(thread_current(), "nvme_keeper",
				 keep_trying ? run_stubborn_keeper : run_keeper, controller);

	if (rc != 0) {
		err_set(err, rc, "no memory for NVMe controller %s", controller->name);
		controller_free(controller);
		return rc;
	}
	TAILQ_INSERT_TAIL(&bdev_nvme_controllers, controller, link);
	return 0;
}

int
bdev_nvme_attach(const struct bdev_nvme_opts *opts, struct errmsg *err)
{
	struct nvme_controller *controller;
	struct completion *started;
	int rc;

	rc = controller_new(opts, false, &controller, err);
	if (rc != 0)
		return rc;
	started = controller->started = completion_create();
	if (started == NULL) {
		controller_free(controller);
		return err_set(err, -ENOMEM, "no memory for NVMe controller %s", opts->name);
	}
	controller->waiters++;
	rc = start_keeper(controller, opts->keep_trying, err);
	if (rc != 0) {
		completion_drop(started);
		return rc;
	}
	rc = completion_wait(started, opts->keep_trying ? START_US : WAIT_FOREVER);
	completion_put(started);
	controller->late = rc == -ETIMEDOUT;
	if (rc == 0 || controller->late)
		rc = controller->start_rc;
	if (rc != 0)
		err_set(err, rc, "NVMe controller %s: %.300s", opts->name, controller->error.text);
	controller->waiters--;
	return rc;
}

int
bdev_nvme_found(const char *address, bool interrupts)
{
	char name[NVME_NAME_MAX + 1];
	struct bdev_nvme_opts opts = {
		.name = name, .trtype = transports[0], .traddr = address, .interrupts = interrupts};
	struct nvme_controller *controller;
	struct errmsg err;
	int rc;

	snprintf(name, sizeof(name), "nvme-%s", address);
	rc = controller_new(&opts, true, &controller, &err);
	return rc == 0 ? start_keeper(controller, false, &err) : rc;
}

/* ---- detaching ---- */

int
bdev_nvme_detach(const char *name, struct errmsg *err)
{
	struct nvme_controller *controller = bdev_nvme_find(name);
	struct completion *ended;
	int rc;

	if (controller == NULL && is_name_taken(name))
		return err_set(err, -EBUSY, "NVMe controller %s is being detached already", name);
	if (controller == NULL)
		return err_set(err, -ENODEV, "there is no NVMe controller %s", name);
	ended = completion_create();
	if (ended == NULL)
		return err_set(err, -ENOMEM, "NVMe controller %s: no memory to detach it", name);
	controller->ended = ended;
	if (controller->trtype == transports[0])
		bdev_nvme_hotplug_let_go(controller->traddr);
	end(controller);
	rc = completion_wait(ended, WAIT_FOREVER);
	completion_put(ended);
	return rc;
}

void
bdev_nvme_fini(void)
{
	struct nvme_controller *controller;

	bdev_nvme_hotplug_stop();
	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (!controller->ending)
			end(controller);
	}
	while (!TAILQ_EMPTY(&bdev_nvme_controllers) && coroutine_sleep(POLL_US) == 0)
		continue;
}

/* ---- what is asked of a controller ---- */

static int
call(const char *name, int (*fn)(struct nvme_ctrlr *ctrlr, struct errmsg *err), struct errmsg *err)
{
	struct nvme_controller *controller;
	int rc;

	controller = bdev_nvme_hold(name, &rc, err);
	if (controller == NULL)
		return rc;
	rc = fn(controller->ctrlr, err);
	bdev_nvme_release(controller);
	if (rc != 0 && err->text[0] == '\0')
		err_set(err, rc, "NVMe controller %s: %s", name, strerror(-rc));
	return rc;
}

int
bdev_nvme_reset(const char *name, struct errmsg *err)
{
	return call(name, nvme_reset, err);
}

int
bdev_nvme_enable(const char *name, struct errmsg *err)
{
	return call(name, nvme_enable, err);
}

int
bdev_nvme_disable(const char *name, struct errmsg *err)
{
	return call(name, nvme_disable, err);
}

/* ---- settings ---- */

void
bdev_nvme_get_settings(struct bdev_nvme_settings *copy)
{
	*copy = settings;
}

void
bdev_nvme_set_settings(const struct bdev_nvme_settings *chosen)
{
	struct nvme_controller *controller;

	settings = *chosen;
	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (controller->ctrlr != NULL)
			nvme_tune(controller->ctrlr, &settings.tuning);
	}
}
