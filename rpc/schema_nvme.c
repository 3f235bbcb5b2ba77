/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define ROOM      "NVMe"
#define NO_EFFECT "accepted for clients that send it, and without effect"
#define ONE_PATH  NO_EFFECT ": there is one path to each controller"

/* ---- attach and detach ---- */

#define ATTACH(member) offsetof(struct rpc_nvme_attach, member)
#define FABRICS(param)                                                                             \
	{                                                                                          \
		.name = #param, .type = RPC_STRING, .offset = ATTACH(param),                       \
		.help = NO_EFFECT ": of network transports"                                        \
	}
#define FABRICS_FLAG(param)                                                                        \
	{                                                                                          \
		.name = #param, .type = RPC_BOOL, .offset = ATTACH(param),                         \
		.help = NO_EFFECT ": of network transports"                                        \
	}
#define PROTECTION(param)                                                                          \
	{                                                                                          \
		.name = #param, .type = RPC_BOOL, .offset = ATTACH(param),                         \
		.help = NO_EFFECT ": namespaces with protection information are not served"        \
	}
#define RECONNECT(param)                                                                           \
	{                                                                                          \
		.name = #param, .type = RPC_INT, .min = -1, .max = INT32_MAX,                      \
		.offset = ATTACH(param),                                                           \
		.help = NO_EFFECT ": what has disappeared is tried again for ever, every 3 s"      \
	}
static const struct rpc_param attach_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = ATTACH(name),
	 .help = "of the controller, 1 to 63 bytes, no '/' and no control characters; its block "
		 "devices are called <name>n<namespace>"},
	{.name = "trtype",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = ATTACH(trtype),
	 .max = 64,
	 .help = "\"PCIe\": a device of this machine; \"VFIOUSER\": a controller in another "
		 "process"},
	{.name = "traddr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = ATTACH(traddr),
	 .help = "PCI address; or the absolute path of a vfio-user socket, or of the folder where "
		 "it is called cntrl"},
	{.name = "subnqn",
	 .type = RPC_STRING,
	 .offset = ATTACH(subnqn),
	 .max = 223,
	 .help = "the subsystem that the controller must be of; default: any"},
	{.name = "hostnqn",
	 .type = RPC_STRING,
	 .offset = ATTACH(hostnqn),
	 .max = 223,
	 .help = "only said again by bdev_nvme_get_controllers"},
	{.name = "num_io_queues",
	 .type = RPC_INT,
	 .offset = ATTACH(num_io_queues),
	 .min = 0,
	 .max = 65536,
	 .help = "how many queue pairs, and so threads, may use it; 0: as many as the device "
		 "has"},
	{.name = "multipath",
	 .type = RPC_STRING,
	 .offset = ATTACH(multipath),
	 .help = "\"disable\" and nothing else: there is one path to each controller"},
	FABRICS(adrfam),
	FABRICS(trsvcid),
	FABRICS(priority),
	FABRICS(hostaddr),
	FABRICS(hostsvcid),
	PROTECTION(prchk_reftag),
	PROTECTION(prchk_guard),
	FABRICS_FLAG(hdgst),
	FABRICS_FLAG(ddgst),
	{.name = "fabrics_connect_timeout_us",
	 .type = RPC_INT,
	 .offset = ATTACH(fabrics_connect_timeout_us),
	 .min = 0,
	 .max = INT64_MAX,
	 .help = NO_EFFECT ": of network transports"},
	RECONNECT(ctrlr_loss_timeout_sec),
	RECONNECT(reconnect_delay_sec),
	RECONNECT(fast_io_fail_timeout_sec),
	{.name = "max_bdevs",
	 .type = RPC_INT,
	 .offset = ATTACH(max_bdevs),
	 .min = 0,
	 .max = UINT32_MAX,
	 .help = NO_EFFECT ": all of them are answered"},
};

#define DETACH(param)                                                                              \
	{                                                                                          \
		.name = #param, .type = RPC_STRING,                                                \
		.offset = offsetof(struct rpc_nvme_detach, param), .help = ONE_PATH                \
	}
static const struct rpc_param detach_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_nvme_detach, name),
	 .help = "of the controller"},
	DETACH(trtype),
	DETACH(traddr),
	DETACH(adrfam),
	DETACH(trsvcid),
	DETACH(subnqn),
	DETACH(hostaddr),
	DETACH(hostsvcid),
};

static const struct rpc_param get_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "of one controller; default: all of them"},
};

static const struct rpc_param name_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "of the controller"},
};

static const struct rpc_param controller_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_nvme_controller, name),
	 .help = "of the controller"},
	{.name = "cntlid",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_nvme_controller, cntlid),
	 .min = 0,
	 .max = UINT16_MAX,
	 .help = ONE_PATH},
};

/* ---- options ---- */

#define OPTION(member) offsetof(struct rpc_nvme_set_options, member)
#define UNUSED(param, why)                                                                         \
	{                                                                                          \
		.name = #param, .type = RPC_INT, .min = -1, .max = INT64_MAX,                      \
		.offset = OPTION(param), .help = NO_EFFECT ": " why                                \
	}
#define UNUSED_FLAG(param, why)                                                                    \
	{                                                                                          \
		.name = #param, .type = RPC_BOOL, .offset = OPTION(param),                         \
		.help = NO_EFFECT ": " why                                                         \
	}
#define UNUSED_LIST(param, why)                                                                    \
	{                                                                                          \
		.name = #param, .type = RPC_STRINGS, .offset = OPTION(param),                      \
		.help = NO_EFFECT ": " why                                                         \
	}
#define NETWORK  "of network transports"
#define ARBITER  "all queues have the same priority"
#define ALWAYS   "what has disappeared is tried again for ever, every 3 s"
#define PATHS    "there is one path to each controller"
#define AS_IT_IS "; -1: as it is"
static const struct rpc_param set_options_params[] = {
	{.name = "action_on_timeout",
	 .type = RPC_STRING,
	 .offset = OPTION(action_on_timeout),
	 .help = "what becomes of a command that the device does not end in time: \"none\": a line "
		 "in the log; \"abort\" (at first): Abort, and a reset when that does not help; "
		 "\"reset\". Default: as it is"},
	{.name = "timeout_us",
	 .type = RPC_INT,
	 .offset = OPTION(timeout_us),
	 .min = -1,
	 .max = INT64_MAX / 1000000,
	 .preset = -1,
	 .help = "of I/O commands; 0: none; at first 30 s" AS_IT_IS},
	{.name = "timeout_admin_us",
	 .type = RPC_INT,
	 .offset = OPTION(timeout_admin_us),
	 .min = -1,
	 .max = INT64_MAX / 1000000,
	 .preset = -1,
	 .help = "of admin commands; 0: 10 s, as at first" AS_IT_IS},
	{.name = "transport_retry_count",
	 .type = RPC_INT,
	 .offset = OPTION(transport_retry_count),
	 .min = -1,
	 .max = 255,
	 .preset = -1,
	 .help = "how often a request is sent again, after a reset or a status that says that it "
		 "may work then; at first 4" AS_IT_IS},
	{.name = "io_queue_requests",
	 .type = RPC_INT,
	 .offset = OPTION(io_queue_requests),
	 .min = -1,
	 .max = 65535,
	 .preset = -1,
	 .help = "how many requests of a thread the device may have at a time, at most what it "
		 "can; for controllers that are attached later; 0: 256, as at first" AS_IT_IS},
	UNUSED(keep_alive_timeout_ms, "controllers behind PCIe and vfio-user need none"),
	UNUSED(retry_count, "the old name of transport_retry_count, with another meaning"),
	UNUSED(bdev_retry_count, "transport_retry_count counts all"),
	UNUSED(arbitration_burst, ARBITER),
	UNUSED(low_priority_weight, ARBITER),
	UNUSED(medium_priority_weight, ARBITER),
	UNUSED(high_priority_weight, ARBITER),
	UNUSED(nvme_adminq_poll_period_us, "the driver knows when to look"),
	UNUSED(nvme_ioq_poll_period_us, "see framework_set_mode"),
	UNUSED_FLAG(delay_cmd_submit, "commands of one poll are always told to the device at once"),
	UNUSED(ctrlr_loss_timeout_sec, ALWAYS),
	UNUSED(reconnect_delay_sec, ALWAYS),
	UNUSED(fast_io_fail_timeout_sec, ALWAYS),
	UNUSED_FLAG(disable_auto_failback, PATHS),
	UNUSED_FLAG(io_path_stat, PATHS),
	UNUSED_FLAG(generate_uuids, "a namespace without one always gets one"),
	UNUSED_FLAG(nvme_error_stat, "the log names each kind of error"),
	UNUSED_FLAG(allow_accel_sequence, "data is not changed on its way"),
	UNUSED(transport_ack_timeout, NETWORK),
	UNUSED(transport_tos, NETWORK),
	UNUSED(rdma_srq_size, NETWORK),
	UNUSED(rdma_max_cq_size, NETWORK),
	UNUSED(rdma_cm_event_timeout_ms, NETWORK),
	UNUSED_LIST(dhchap_digests, NETWORK),
	UNUSED_LIST(dhchap_dhgroups, NETWORK),
};

static const struct rpc_param set_hotplug_params[] = {
	{.name = "enable",
	 .type = RPC_BOOL,
	 .required = true,
	 .offset = offsetof(struct rpc_nvme_set_hotplug, enable),
	 .help = "attach the NVMe devices that are bound to vfio-pci, now and later"},
	{.name = "period_us",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_nvme_set_hotplug, period_us),
	 .min = 0,
	 .max = 10000000,
	 .help = "how often the kernel's events are looked at; 0: 100000"},
};

#define TAKES(table, type)                                                                         \
	.params = table, .param_count = RPC_COUNT(table), .params_size = sizeof(type)
#define NOT_THERE "-19 (No such device: none of that name, or it has disappeared)"

const struct rpc_schema rpc_nvme_schemas[RPC_NVME_METHODS + 1] = {
	[RPC_NVME_ATTACH_CONTROLLER] =
		{
			.name = "bdev_nvme_attach_controller",
			.alias = "construct_nvme_bdev",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(attach_params, struct rpc_nvme_attach),
			.help = "Takes an NVMe controller, and makes a block device of each of its "
				"namespaces. Answers an array of their names. Namespaces that the "
				"controller gets or loses later, and a controller that disappears "
				"and comes back, are followed by themselves; one that is not there "
				"when the daemon starts is tried again until it is.\n"
				"Errors: -17 (File exists: the name or the address is taken), -22 "
				"(a bad name or address, or not an NVMe controller), -19 (No such "
				"device), -16 (not bound to vfio-pci, or used by another process), "
				"-13 (no permission), -110 (it is not ready in time), -95 (more "
				"than one path).",
		},
	[RPC_NVME_DETACH_CONTROLLER] =
		{
			.name = "bdev_nvme_detach_controller",
			.alias = "delete_nvme_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(detach_params, struct rpc_nvme_detach),
			.help = "Removes the block devices of a controller, also those that guests "
				"use, whose requests fail from then on; shuts the controller down "
				"and lets it go. Answers true.\n"
				"Errors: -19 (No such device), -16 (it is being detached already).",
		},
	[RPC_NVME_GET_CONTROLLERS] =
		{
			.name = "bdev_nvme_get_controllers",
			.alias = "get_nvme_controllers",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(get_params, struct rpc_name),
			.help = "Answers an array of controllers: {name, ctrlrs[{state, "
				"trid{trtype, traddr}, cntlid, host{nqn, addr, svcid}}], bdevs, "
				"interrupts, configured (false: found by hotplug), ...}. The "
				"state is enabled, resetting, disabled, failed (requests fail, and "
				"it is tried again), reconnect_is_delayed (it is not there: error "
				"says why; it is tried again) or deleting.\n"
				"Errors: -19 (No such device).",
			.columns = "name,state=ctrlrs.state,traddr=ctrlrs.trid.traddr,model="
				   "model_number,serial=serial_number,firmware=firmware_revision,"
				   "queues=io_queues_used,resets,bdevs,error",
		},
	[RPC_NVME_SET_OPTIONS] =
		{
			.name = "bdev_nvme_set_options",
			.alias = "set_bdev_nvme_options",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME | RPC_CHANGES,
			TAKES(set_options_params, struct rpc_nvme_set_options),
			.help = "Sets what holds for all controllers, those that are attached, "
				"too. Answers true.",
		},
	[RPC_NVME_SET_HOTPLUG] =
		{
			.name = "bdev_nvme_set_hotplug",
			.alias = "set_bdev_nvme_hotplug",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(set_hotplug_params, struct rpc_nvme_set_hotplug),
			.help = "Whether NVMe devices of this machine are attached by themselves "
				"when they are bound to vfio-pci, as nvme-<PCI address>. They are "
				"not part of the configuration: when one disappears, it is "
				"forgotten. Answers true.\n"
				"Errors: a negative errno (the kernel tells of no events).",
		},
	[RPC_NVME_RESET_CONTROLLER] =
		{
			.name = "bdev_nvme_reset_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(controller_params, struct rpc_nvme_controller),
			.help = "Resets a controller; requests that it has are sent again. Answers "
				"true when it is back.\n"
				"Errors: " NOT_THERE ", -16 (it is disabled), or why it did not "
				"come back.",
		},
	[RPC_NVME_ENABLE_CONTROLLER] =
		{
			.name = "bdev_nvme_enable_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(controller_params, struct rpc_nvme_controller),
			.help = "Enables a controller that was disabled. Answers true.\n"
				"Errors: " NOT_THERE ", -114 (it is enabled).",
		},
	[RPC_NVME_DISABLE_CONTROLLER] =
		{
			.name = "bdev_nvme_disable_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(controller_params, struct rpc_nvme_controller),
			.help = "Disables a controller, until it is enabled or the daemon ends: "
				"requests wait for it, or time out. Answers true.\n"
				"Errors: " NOT_THERE ", -114 (it is disabled).",
		},
	[RPC_NVME_GET_CONTROLLER_HEALTH_INFO] =
		{
			.name = "bdev_nvme_get_controller_health_info",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(name_params, struct rpc_name),
			.help = "Answers the SMART data of a controller.\n"
				"Errors: " NOT_THERE ", or what the command ended with.",
		},
};
