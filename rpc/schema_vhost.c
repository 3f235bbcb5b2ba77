/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define ROOM           "vhost"
#define CREATE(member) offsetof(struct rpc_vhost_create_blk_controller, member)

static const struct rpc_param create_blk_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = CREATE(ctrlr),
	 .help = "name of the controller; its socket is <socket dir>/<ctrlr>"},
	{.name = "dev_name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = CREATE(dev_name),
	 .help = "the block device that the guest sees"},
	{.name = "readonly",
	 .type = RPC_BOOL,
	 .offset = CREATE(readonly),
	 .help = "the guest may not write"},
	{.name = "packed_ring",
	 .type = RPC_BOOL,
	 .offset = CREATE(packed_ring),
	 .help = "offer packed virtqueues"},
	{.name = "cpumask",
	 .type = RPC_CPUMASK,
	 .offset = CREATE(cpumask),
	 .help = "where it may run: \"0x3\" or \"[0,2-3]\"; default: on any reactor"},
	{.name = "transport",
	 .type = RPC_STRING,
	 .offset = CREATE(transport),
	 .help = "\"vhost_user_blk\" (default) and no other"},
};

static const struct rpc_param get_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "of one controller; default: all of them"},
};

static const struct rpc_param delete_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_delete_controller, ctrlr),
	 .help = "name of the controller"},
};

const struct rpc_schema rpc_vhost_schemas[RPC_VHOST_METHODS + 1] = {
	[RPC_VHOST_CREATE_BLK_CONTROLLER] =
		{
			.name = "vhost_create_blk_controller",
			.alias = "construct_vhost_blk_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = create_blk_params,
			.param_count = RPC_COUNT(create_blk_params),
			.params_size = sizeof(struct rpc_vhost_create_blk_controller),
			.help = "Makes a virtio-blk controller and its socket. Answers true.\n"
				"Errors: -17 (File exists: the name is taken), -19 (No such "
				"device: no such block device), "
				"-22 (a bad name or CPU mask), -30 (the block device is "
				"read-only), -36 (the socket's path is too "
				"long), -98 (somebody listens on the socket).",
		},
	[RPC_VHOST_GET_CONTROLLERS] =
		{
			.name = "vhost_get_controllers",
			.alias = "get_vhost_controllers",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = get_params,
			.param_count = RPC_COUNT(get_params),
			.params_size = sizeof(struct rpc_name),
			.help = "Answers an array of controllers, with the sessions of their "
				"front-ends.\n"
				"Errors: -19 (No such device).",
			.columns = "ctrlr,cpumask,bdev=backend_specific.block.bdev,readonly="
				   "backend_specific.block.readonly,sessions=sessions.name,socket",
		},
	[RPC_VHOST_DELETE_CONTROLLER] =
		{
			.name = "vhost_delete_controller",
			.alias = "remove_vhost_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = delete_params,
			.param_count = RPC_COUNT(delete_params),
			.params_size = sizeof(struct rpc_vhost_delete_controller),
			.help = "Deletes a controller when its requests are done (a guest that has "
				"it loses its disk), or gives up one that the state names and that "
				"could not be made. Answers true.\n"
				"Errors: -19 (No such device), -16 (it is being deleted), -110 "
				"(the block device does not finish "
				"its requests).",
		},
};
