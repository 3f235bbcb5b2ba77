/* SPDX-License-Identifier: BSD-3-Clause */
#include <linux/virtio_scsi.h>

#include "params.h"
#include "rpc.h"
#include "vhost.h"

#define ROOM "vhost"

#define CREATE(member) offsetof(struct rpc_vhost_create_scsi_controller, member)
#define ADD(member)    offsetof(struct rpc_vhost_scsi_add_target, member)
#define REMOVE(member) offsetof(struct rpc_vhost_scsi_remove_target, member)

static const struct rpc_param create_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = CREATE(ctrlr),
	 .help = "name of the controller; its socket is <socket dir>/<ctrlr>"},
	{.name = "cpumask",
	 .type = RPC_CPUMASK,
	 .offset = CREATE(cpumask),
	 .help = "where it may run: \"0x3\" or \"[0,2-3]\"; default: on any reactor"},
	{.name = "delay",
	 .type = RPC_BOOL,
	 .offset = CREATE(delay),
	 .help = "the socket listens when vhost_start_scsi_controller is called"},
	{.name = "sense_size",
	 .type = RPC_INT,
	 .offset = CREATE(sense_size),
	 .preset = VIRTIO_SCSI_SENSE_DEFAULT_SIZE,
	 .min = 0,
	 .max = VHOST_SCSI_SENSE_MAX,
	 .help = "bytes, as the driver has chosen that was there before and goes on"},
	{.name = "cdb_size",
	 .type = RPC_INT,
	 .offset = CREATE(cdb_size),
	 .preset = VIRTIO_SCSI_CDB_DEFAULT_SIZE,
	 .min = 1,
	 .max = VHOST_SCSI_CDB_MAX,
	 .help = "bytes, as the driver has chosen that was there before and goes on"},
};

static const struct rpc_param start_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_ctrlr, ctrlr),
	 .help = "name of the controller"},
};

static const struct rpc_param add_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = ADD(ctrlr),
	 .help = "name of the controller"},
	{.name = "scsi_target_num",
	 .type = RPC_INT,
	 .required = true,
	 .offset = ADD(scsi_target_num),
	 .min = VHOST_SCSI_ANY_NUMBER,
	 .max = VHOST_SCSI_MAX_TARGET,
	 .help = "number of the target; -1: the first that is free"},
	{.name = "bdev_name",
	 .type = RPC_NAMES,
	 .required = true,
	 .offset = ADD(bdev_name),
	 .help = "the block device of LUN 0, or an array of those of LUN 0, 1, ..."},
};

static const struct rpc_param remove_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = REMOVE(ctrlr),
	 .help = "name of the controller"},
	{.name = "scsi_target_num",
	 .type = RPC_INT,
	 .required = true,
	 .offset = REMOVE(scsi_target_num),
	 .min = 0,
	 .max = VHOST_SCSI_MAX_TARGET,
	 .help = "number of the target"},
};

const struct rpc_schema rpc_vhost_scsi_schemas[RPC_VHOST_SCSI_METHODS + 1] = {
	[RPC_VHOST_CREATE_SCSI_CONTROLLER] =
		{
			.name = "vhost_create_scsi_controller",
			.alias = "construct_vhost_scsi_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = create_params,
			.param_count = RPC_COUNT(create_params),
			.params_size = sizeof(struct rpc_vhost_create_scsi_controller),
			.help = "Makes a virtio-scsi controller without targets, and its socket. "
				"Answers true.\n"
				"Errors: -17 (File exists: the name is taken), -22 (a bad name or "
				"CPU mask), -36 (the socket's path is too long), -98 (somebody "
				"listens on the socket).",
		},
	[RPC_VHOST_START_SCSI_CONTROLLER] =
		{
			.name = "vhost_start_scsi_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = start_params,
			.param_count = RPC_COUNT(start_params),
			.params_size = sizeof(struct rpc_vhost_ctrlr),
			.help = "Listens on the socket of a virtio-scsi controller that was made "
				"with delay. Answers true.\n"
				"Errors: -19 (No such device), -114 (it listens already), -16 (it "
				"is being deleted), -98 (somebody listens on the socket).",
		},
	[RPC_VHOST_SCSI_ADD_TARGET] =
		{
			.name = "vhost_scsi_controller_add_target",
			.alias = "add_vhost_scsi_lun",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = add_params,
			.param_count = RPC_COUNT(add_params),
			.params_size = sizeof(struct rpc_vhost_scsi_add_target),
			.help = "Adds a target with a LUN on each of the block devices, also while "
				"a guest runs, which is told of it. A target whose block devices "
				"are all gone keeps its number until it is removed. Answers the "
				"target's number.\n"
				"Errors: -17 (File exists: the number is taken), -28 (no number is "
				"free), -19 (No such device: no such controller or block device), "
				"-16 (one of them is being deleted, or written by others that know "
				"nothing of reservations: a virtio-blk controller or a block "
				"device on top), -22 (not 1 to 64 block devices; or no SCSI "
				"controller).",
		},
	[RPC_VHOST_SCSI_REMOVE_TARGET] =
		{
			.name = "vhost_scsi_controller_remove_target",
			.alias = "remove_vhost_scsi_target",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = remove_params,
			.param_count = RPC_COUNT(remove_params),
			.params_size = sizeof(struct rpc_vhost_scsi_remove_target),
			.help = "Removes a target when its requests are done (a guest that has it "
				"is told, and loses its disks), or gives up one that the state "
				"names and that could not be made. Answers true.\n"
				"Errors: -19 (No such device: no such controller or target), -16 "
				"(the controller is being deleted), -110 (a block device does not "
				"finish its requests: the target takes nothing new; remove it "
				"again later).",
		},
};
