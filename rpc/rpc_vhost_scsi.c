/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-scsi controllers and their targets. */
#include <errno.h>

#include "app.h"
#include "params.h"
#include "rpc.h"
#include "vhost.h"

#define ADD_TARGET "vhost_scsi_controller_add_target"

/* Forgets what the state wanted that target to be, and what could not be made. */
static bool
give_up_target(const char *ctrlr, int64_t number)
{
	json_t *params = json_pack("{s:s, s:I}", "ctrlr", ctrlr, "scsi_target_num", number);
	bool found = params != NULL && app_give_up_where(ADD_TARGET, params);

	json_decref(params);
	return found;
}

static int
create_scsi_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_create_scsi_controller *params = arg;
	struct vhost_scsi_opts opts = {
		.name = params->ctrlr,
		.cpumask = cpumask_is_empty(&params->cpumask) ? NULL : &params->cpumask,
		.delay = params->delay,
	};
	int rc = vhost_scsi_create(&opts, err);

	(void)result;
	/* Who makes it anew wants none of the old one's targets. */
	if (rc == 0 && !app_is_replaying()) {
		app_give_up(ADD_TARGET, params->ctrlr);
		app_give_up("vhost_start_scsi_controller", params->ctrlr);
	}
	return rc;
}

static int
start_scsi_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_ctrlr *params = arg;
	int rc;

	(void)result;
	/* A guest that goes on would lose a disk that only is late: it waits for the socket. */
	if (app_is_replaying() && app_has_failed(ADD_TARGET, params->ctrlr))
		return err_set(err, -ENODEV,
			       "vhost controller %s: not all of its targets are there; it listens "
			       "when they are, or the others are removed, or it is started by hand",
			       params->ctrlr);
	rc = vhost_scsi_start(params->ctrlr, err);
	if (rc == 0)
		app_give_up("vhost_start_scsi_controller", params->ctrlr);
	return rc;
}

static int
add_target(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_scsi_add_target *params = arg;
	int rc = vhost_scsi_add_target(params->ctrlr, (int)params->scsi_target_num,
				       params->bdev_name.items, params->bdev_name.count, err);

	if (rc < 0)
		return rc;
	give_up_target(params->ctrlr, rc);
	*result = json_integer(rc);
	return *result != NULL ? 0 : -ENOMEM;
}

static int
remove_target(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_scsi_remove_target *params = arg;
	int rc = vhost_scsi_remove_target(params->ctrlr, (uint32_t)params->scsi_target_num, err);

	(void)result;
	if (rc != -ENODEV || !give_up_target(params->ctrlr, params->scsi_target_num))
		return rc;
	/* The controller may have waited for that one. */
	app_retry_failed();
	return 0;
}

const struct rpc_method rpc_vhost_scsi_methods[RPC_VHOST_SCSI_METHODS + 1] = {
	{&rpc_vhost_scsi_schemas[RPC_VHOST_CREATE_SCSI_CONTROLLER], create_scsi_controller},
	{&rpc_vhost_scsi_schemas[RPC_VHOST_START_SCSI_CONTROLLER], start_scsi_controller},
	{&rpc_vhost_scsi_schemas[RPC_VHOST_SCSI_ADD_TARGET], add_target},
	{&rpc_vhost_scsi_schemas[RPC_VHOST_SCSI_REMOVE_TARGET], remove_target},
};
