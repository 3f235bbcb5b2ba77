/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "app.h"
#include "params.h"
#include "rpc.h"
#include "rpc_vhost.h"
#include "vhost.h"

#define TRANSPORT "vhost_user_blk"

static int
create_blk_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_create_blk_controller *params = arg;
	struct vhost_blk_opts opts = {
		.name = params->ctrlr,
		.bdev = params->dev_name,
		.read_only = params->readonly,
		.packed_ring = params->packed_ring,
		.write_through = !params->writeback,
		.cpumask = cpumask_is_empty(&params->cpumask) ? NULL : &params->cpumask,
	};

	(void)result;
	if (params->transport != NULL && strcmp(params->transport, TRANSPORT) != 0)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "vhost %.64s: transport '%.64s' is not " TRANSPORT, params->ctrlr,
			       params->transport);
	return vhost_blk_create(&opts, err);
}

static int
get_controllers(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	*result = vhost_controllers_json(params->name);
	if (*result == NULL && params->name != NULL)
		return err_set(err, -ENODEV, "vhost: no controller is called '%.64s'",
			       params->name);
	return *result != NULL ? 0 : -ENOMEM;
}

static bool
give_up_creation(const char *ctrlr)
{
	return app_give_up("vhost_create_blk_controller", ctrlr) ||
	       app_give_up("vhost_create_scsi_controller", ctrlr);
}

static void
give_up_rest(const char *ctrlr)
{
	app_give_up("vhost_controller_set_coalescing", ctrlr);
	app_give_up("vhost_controller_set_slow_threshold", ctrlr);
	rpc_vhost_scsi_give_up_targets(ctrlr);
}

static int
delete_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_ctrlr *params = arg;
	int rc = vhost_controller_delete(params->ctrlr, err);

	(void)result;
	/*
	 * One that the state names and that could not be made, and what would have been set on it.
	 */
	if (rc == -ENODEV && give_up_creation(params->ctrlr))
		rc = 0;
	if (rc == 0)
		give_up_rest(params->ctrlr);
	return rc;
}

static int
set_coalescing(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_set_coalescing *params = arg;

	int rc = vhost_controller_set_coalescing(params->ctrlr, (uint32_t)params->delay_base_us,
						 (uint32_t)params->iops_threshold, err);

	(void)result;
	if (rc == 0)
		app_give_up("vhost_controller_set_coalescing", params->ctrlr);
	return rc;
}

static int
set_slow_threshold(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_set_slow_threshold *params = arg;
	int rc = vhost_controller_set_slow_threshold(params->ctrlr, (uint32_t)params->threshold_us,
						     err);

	(void)result;
	if (rc == 0)
		app_give_up("vhost_controller_set_slow_threshold", params->ctrlr);
	return rc;
}

static int
get_slow_requests(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_get_slow_requests *params = arg;
	int rc;

	*result = vhost_slow_requests_json(params->ctrlr, (uint32_t)params->count, &rc, err);
	return *result != NULL ? 0 : rc;
}

static int
resize_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_ctrlr *params = arg;

	(void)result;
	return vhost_controller_resize(params->ctrlr, err);
}

static int
get_stats(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_get_stats *params = arg;
	int rc;

	*result = vhost_stats_json(params->ctrlr, params->per_queue, &rc, err);
	return *result != NULL ? 0 : rc;
}

/* ---- transports of virtio-blk: there is one ---- */

static int
create_transport(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	(void)result;
	if (strcmp(params->name, TRANSPORT) == 0)
		return err_set(err, -EEXIST, "virtio_blk transport " TRANSPORT ": File exists");
	return err_set(err, -EINVAL, "virtio_blk transport '%.64s': only " TRANSPORT " is known",
		       params->name);
}

static int
get_transports(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	if (params->name != NULL && strcmp(params->name, TRANSPORT) != 0)
		return err_set(err, -ENODEV, "virtio_blk transport '%.64s': No such device",
			       params->name);
	*result = json_pack("[{s:s}]", "name", TRANSPORT);
	return *result != NULL ? 0 : -ENOMEM;
}

const struct rpc_method rpc_vhost_methods[RPC_VHOST_METHODS + 1] = {
	{&rpc_vhost_schemas[RPC_VHOST_CREATE_BLK_CONTROLLER], create_blk_controller},
	{&rpc_vhost_schemas[RPC_VHOST_GET_CONTROLLERS], get_controllers},
	{&rpc_vhost_schemas[RPC_VHOST_DELETE_CONTROLLER], delete_controller},
	{&rpc_vhost_schemas[RPC_VHOST_CONTROLLER_SET_COALESCING], set_coalescing},
	{&rpc_vhost_schemas[RPC_VHOST_CONTROLLER_SET_SLOW_THRESHOLD], set_slow_threshold},
	{&rpc_vhost_schemas[RPC_VHOST_CONTROLLER_RESIZE], resize_controller},
	{&rpc_vhost_schemas[RPC_VHOST_GET_STATS], get_stats},
	{&rpc_vhost_schemas[RPC_VHOST_GET_SLOW_REQUESTS], get_slow_requests},
	{&rpc_vhost_schemas[RPC_VIRTIO_BLK_CREATE_TRANSPORT], create_transport},
	{&rpc_vhost_schemas[RPC_VIRTIO_BLK_GET_TRANSPORTS], get_transports},
};
