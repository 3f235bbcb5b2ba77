/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "app.h"
#include "params.h"
#include "rpc.h"
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

static int
delete_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_delete_controller *params = arg;
	int rc = vhost_controller_delete(params->ctrlr, err);

	(void)result;
	/* One that the state names and that could not be made. */
	if (rc == -ENODEV && app_give_up("vhost_create_blk_controller", params->ctrlr))
		return 0;
	return rc;
}

const struct rpc_method rpc_vhost_methods[RPC_VHOST_METHODS + 1] = {
	{&rpc_vhost_schemas[RPC_VHOST_CREATE_BLK_CONTROLLER], create_blk_controller},
	{&rpc_vhost_schemas[RPC_VHOST_GET_CONTROLLERS], get_controllers},
	{&rpc_vhost_schemas[RPC_VHOST_DELETE_CONTROLLER], delete_controller},
};
