/* SPDX-License-Identifier: BSD-3-Clause */
#include "notify.h"
#include "params.h"
#include "rpc.h"

#define ROOM "General"

static const struct rpc_param get_notifications_params[] = {
	{.name = "id",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_notify_get_notifications, id),
	 .min = 0,
	 .max = INT64_MAX,
	 .help = "the first one wanted; default: the oldest that is kept"},
	{.name = "max",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_notify_get_notifications, max),
	 .min = 0,
	 .max = INT64_MAX,
	 .preset = NOTIFY_EVENTS,
	 .help = "how many at most"},
};

const struct rpc_schema rpc_system_schemas[RPC_SYSTEM_METHODS + 1] = {
	[RPC_FRAMEWORK_GET_STATE] =
		{
			.name = "framework_get_state",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers {state, state_file, saved, failed}: \"startup\" (before "
				"framework_start_init), \"starting\", \"running\" or \"stopping\"; "
				"the file in which the configuration is kept (null: none), whether "
				"the last change is in it, and an array of {subsystem, method, "
				"name}: what could not be made again at the start.",
		},
	[RPC_FRAMEWORK_GET_PCI_DEVICES] =
		{
			.name = "framework_get_pci_devices",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers an array of {address, type, driver, config_space}: the "
				"PCI devices of this machine, as the kernel lists them. type is "
				"\"nvme\" or \"other\"; driver, the kernel's, may be null; "
				"config_space is hexadecimal, as much of it as the daemon may "
				"read.",
			.columns = "address,type,driver",
		},
	[RPC_NOTIFY_GET_TYPES] =
		{
			.name = "notify_get_types",
			.alias = "get_notification_types",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers an array of the types that notify_get_notifications may "
				"tell of.",
		},
	[RPC_NOTIFY_GET_NOTIFICATIONS] =
		{
			.name = "notify_get_notifications",
			.alias = "get_notifications",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.params = get_notifications_params,
			.param_count = RPC_COUNT(get_notifications_params),
			.params_size = sizeof(struct rpc_notify_get_notifications),
			.help = "Answers an array of {type, ctx, id}: what has happened, oldest "
				"first. ctx names the object; ids ascend from 1 without a gap. "
				"The last 1024 are kept: a client that asks often enough, each "
				"time from the last id it has seen plus 1, misses none.",
			.columns = "id,type,ctx",
		},
};
