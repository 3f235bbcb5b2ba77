/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "app.h"
#include "bdev_modules.h"
#include "env.h"
#include "event.h"
#include "params.h"
#include "rpc.h"

#define ATTACH "bdev_nvme_attach_controller"

/* Whether some reactor sleeps: where all of them spin, interrupts would only cost. */
static bool
wants_interrupts(void)
{
	struct reactor_info info;

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		if (reactor_get_info(core, &info) == 0 && info.mode != REACTOR_POLL)
			return true;
	}
	return false;
}

static int
attach_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_attach *params = arg;
	struct bdev_nvme_opts opts = {
		.name = params->name,
		.trtype = params->trtype,
		.traddr = params->traddr,
		.subnqn = params->subnqn,
		.hostnqn = params->hostnqn,
		.io_queues = (uint32_t)params->num_io_queues,
		.interrupts = wants_interrupts(),
		.keep_trying = app_is_replaying(),
	};
	int rc;

	if (params->multipath != NULL && strcmp(params->multipath, "disable") != 0)
		return err_set(
			err, -EOPNOTSUPP,
			"NVMe controller %.64s: multipath '%.32s': there is one path to each "
			"controller",
			params->name, params->multipath);
	rc = bdev_nvme_attach(&opts, err);
	if (rc != 0)
		return rc;
	*result = bdev_nvme_names_json(params->name);
	return *result != NULL ? 0 : -ENODEV; /* somebody has detached it meanwhile */
}

static int
detach_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_detach *params = arg;
	int rc = bdev_nvme_detach(params->name, err);

	(void)result;
	/* One that the state names and that could not be made. */
	if (rc == -ENODEV && app_give_up(ATTACH, params->name))
		rc = 0;
	return rc;
}

static int
get_controllers(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	*result = bdev_nvme_controllers_json(params->name);
	return *result != NULL
		       ? 0
		       : err_set(err, -ENODEV, "there is no NVMe controller %.64s", params->name);
}

/* -1: as it is. */
static uint64_t
choose(int64_t value, uint64_t present)
{
	return value >= 0 ? (uint64_t)value : present;
}

static int
set_options(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_set_options *params = arg;
	struct bdev_nvme_settings settings;

	(void)result;
	bdev_nvme_get_settings(&settings);
	if (params->action_on_timeout != NULL &&
	    bdev_nvme_parse_action(params->action_on_timeout, &settings.tuning.action) != 0)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "bdev_nvme_set_options: parameter 'action_on_timeout' must be "
			       "\"none\", \"abort\" or \"reset\"");
	settings.tuning.io_timeout_us = choose(params->timeout_us, settings.tuning.io_timeout_us);
	settings.tuning.admin_timeout_us =
		choose(params->timeout_admin_us, settings.tuning.admin_timeout_us);
	if (settings.tuning.admin_timeout_us == 0)
		settings.tuning.admin_timeout_us = NVME_ADMIN_TIMEOUT_US;
	settings.tuning.retries =
		(uint32_t)choose(params->transport_retry_count, settings.tuning.retries);
	settings.queue_size = (uint32_t)choose(params->io_queue_requests, settings.queue_size);
	if (settings.queue_size == 0)
		settings.queue_size = NVME_QUEUE_SIZE;
	bdev_nvme_set_settings(&settings);
	app_give_up("bdev_nvme_set_options", NULL);
	return 0;
}

static int
set_hotplug(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_set_hotplug *params = arg;
	int rc = bdev_nvme_set_hotplug(params->enable, (uint64_t)params->period_us,
				       wants_interrupts(), err);

	(void)result;
	if (rc == 0)
		app_give_up("bdev_nvme_set_hotplug", NULL);
	return rc;
}

static int
reset_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_controller *params = arg;

	(void)result;
	return bdev_nvme_reset(params->name, err);
}

static int
enable_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_controller *params = arg;

	(void)result;
	return bdev_nvme_enable(params->name, err);
}

static int
disable_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_nvme_controller *params = arg;

	(void)result;
	return bdev_nvme_disable(params->name, err);
}

static int
get_health(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;
	int rc;

	*result = bdev_nvme_health_json(params->name, &rc, err);
	return rc;
}

const struct rpc_method rpc_nvme_methods[RPC_NVME_METHODS + 1] = {
	{&rpc_nvme_schemas[RPC_NVME_ATTACH_CONTROLLER], attach_controller},
	{&rpc_nvme_schemas[RPC_NVME_DETACH_CONTROLLER], detach_controller},
	{&rpc_nvme_schemas[RPC_NVME_GET_CONTROLLERS], get_controllers},
	{&rpc_nvme_schemas[RPC_NVME_SET_OPTIONS], set_options},
	{&rpc_nvme_schemas[RPC_NVME_SET_HOTPLUG], set_hotplug},
	{&rpc_nvme_schemas[RPC_NVME_RESET_CONTROLLER], reset_controller},
	{&rpc_nvme_schemas[RPC_NVME_ENABLE_CONTROLLER], enable_controller},
	{&rpc_nvme_schemas[RPC_NVME_DISABLE_CONTROLLER], disable_controller},
	{&rpc_nvme_schemas[RPC_NVME_GET_CONTROLLER_HEALTH_INFO], get_health},
};
