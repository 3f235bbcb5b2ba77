/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"
#include "vhost.h"

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
	 .help = "the block device that the guest sees, or its UUID"},
	{.name = "readonly",
	 .type = RPC_BOOL,
	 .offset = CREATE(readonly),
	 .help = "the guest may not write"},
	{.name = "packed_ring",
	 .type = RPC_BOOL,
	 .offset = CREATE(packed_ring),
	 .help = "offer packed virtqueues"},
	{.name = "writeback",
	 .type = RPC_BOOL,
	 .offset = CREATE(writeback),
	 .preset = 1,
	 .help = "writes may be volatile until the guest flushes. A guest may change it: this is "
		 "what it finds, and what it chose last is kept"},
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

static const struct rpc_param ctrlr_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_ctrlr, ctrlr),
	 .help = "name of the controller"},
};

static const struct rpc_param coalescing_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_set_coalescing, ctrlr),
	 .help = "name of the controller"},
	{.name = "delay_base_us",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_set_coalescing, delay_base_us),
	 .min = 0,
	 .max = VHOST_COALESCING_DELAY_MAX,
	 .help = "longest time in µs that a call waits; 0: none waits"},
	{.name = "iops_threshold",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_set_coalescing, iops_threshold),
	 .min = VHOST_COALESCING_THRESHOLD_MIN,
	 .max = UINT32_MAX,
	 .help = "requests per second of one queue up to which its calls do not wait"},
};

static const struct rpc_param slow_threshold_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_set_slow_threshold, ctrlr),
	 .help = "name of the controller"},
	{.name = "threshold_us",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_set_slow_threshold, threshold_us),
	 .min = 0,
	 .max = VHOST_SLOW_MAX_US,
	 .help = "time in µs from which on a request is kept; 0: every one is. A new controller "
		 "has 10000"},
};

static const struct rpc_param slow_requests_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_vhost_get_slow_requests, ctrlr),
	 .help = "name of the controller"},
	{.name = "count",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_vhost_get_slow_requests, count),
	 .preset = 1000,
	 .min = 1,
	 .max = VHOST_SLOW_REQUESTS_MAX,
	 .help = "at most so many of the newest"},
};

static const struct rpc_param stats_params[] = {
	{.name = "ctrlr",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_vhost_get_stats, ctrlr),
	 .help = "of one controller; default: all of them"},
	{.name = "per_queue",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct rpc_vhost_get_stats, per_queue),
	 .help = "each queue's, too"},
};

static const struct rpc_param create_transport_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "of the transport"},
};

static const struct rpc_param get_transports_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "of one transport; default: all of them"},
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
			.help = "Makes a virtio-blk controller and its socket. Several may have "
				"one "
				"block device, but none that writes one that is a SCSI disk. "
				"Answers true.\n"
				"Errors: -17 (File exists: the name is taken), -19 (No such "
				"device: no such block device), -16 (a SCSI disk writes it, also "
				"through block devices on top; or it is being deleted), "
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
				   "backend_specific.block.readonly,luns=backend_specific.scsi."
				   "luns.bdev_name,sessions=sessions.name,socket",
		},
	[RPC_VHOST_DELETE_CONTROLLER] =
		{
			.name = "vhost_delete_controller",
			.alias = "remove_vhost_controller",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = ctrlr_params,
			.param_count = RPC_COUNT(ctrlr_params),
			.params_size = sizeof(struct rpc_vhost_ctrlr),
			.help = "Deletes a controller when its requests are done (a guest that has "
				"it loses its disk), or gives up one that the state names and that "
				"could not be made. Answers true.\n"
				"Errors: -19 (No such device), -16 (it is being deleted), -110 "
				"(the block device does not finish "
				"its requests).",
		},
	[RPC_VHOST_CONTROLLER_SET_COALESCING] =
		{
			.name = "vhost_controller_set_coalescing",
			.alias = "set_vhost_controller_coalescing",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = coalescing_params,
			.param_count = RPC_COUNT(coalescing_params),
			.params_size = sizeof(struct rpc_vhost_set_coalescing),
			.help = "Lets several requests share a call (interrupt) to the guest, also "
				"while it runs. Of a queue with a rate over iops_threshold the "
				"calls are at least delay_base_us * (rate / iops_threshold - 1) "
				"apart, and at most delay_base_us. A call that waits goes out "
				"within that time, and before the queue stops. Answers "
				"true.\n"
				"Errors: -19 (No such device), -16 (it is being deleted).",
		},
	[RPC_VHOST_CONTROLLER_SET_SLOW_THRESHOLD] =
		{
			.name = "vhost_controller_set_slow_threshold",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = slow_threshold_params,
			.param_count = RPC_COUNT(slow_threshold_params),
			.params_size = sizeof(struct rpc_vhost_set_slow_threshold),
			.help = "Says which requests vhost_get_slow_requests keeps, also while the "
				"guest runs. Answers true.\n"
				"Errors: -19 (No such device), -16 (it is being deleted).",
		},
	[RPC_VHOST_CONTROLLER_RESIZE] =
		{
			.name = "vhost_controller_resize",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = ctrlr_params,
			.param_count = RPC_COUNT(ctrlr_params),
			.params_size = sizeof(struct rpc_vhost_ctrlr),
			.help = "Looks at the size of the controller's block device again (of a "
				"file that has grown, for one) and tells the guest to do so. "
				"Answers true.\n"
				"Errors: -19 (No such device), -16 (it is being deleted), or why "
				"the size cannot be read.",
		},
	[RPC_VHOST_GET_STATS] =
		{
			.name = "vhost_get_stats",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = stats_params,
			.param_count = RPC_COUNT(stats_params),
			.params_size = sizeof(struct rpc_vhost_get_stats),
			.help = "Answers an array of {ctrlr, connected, connections, "
				"running_queues, broken_queues, inflight, requests, bytes_read, "
				"bytes_written, errors, sleeps, kicks, "
				"calls, calls_suppressed, calls_coalesced, breaks}, and with "
				"per_queue a member queues: an array of {queue, running, broken} "
				"and the same counters, of each queue that was ever used. They "
				"count from the controller's creation, over all front-ends: "
				"how many have connected, and whether one is there now; "
				"requests given back to the guest, the bytes written to and read "
				"from its memory for them (headers and status bytes included), "
				"requests answered with an error, times that a queue began to wait "
				"for a kick, kicks that ended that, calls (interrupts) sent, "
				"completions of which the "
				"guest did not want to be told, calls that went into a later one "
				"(vhost_controller_set_coalescing), and times that a queue was "
				"stopped because its guest broke a rule.\n"
				"Errors: -19 (No such device), -16 (it is being deleted).",
			.columns = "ctrlr,queues=running_queues,inflight,requests,read=bytes_read,"
				   "written=bytes_written,errors,calls,suppressed="
				   "calls_suppressed,coalesced=calls_coalesced,sleeps,kicks,breaks",
		},
	[RPC_VHOST_GET_SLOW_REQUESTS] =
		{
			.name = "vhost_get_slow_requests",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = slow_requests_params,
			.param_count = RPC_COUNT(slow_requests_params),
			.params_size = sizeof(struct rpc_vhost_get_slow_requests),
			.help = "Answers {ctrlr, threshold_us, recorded, requests}: the last "
				"requests that took threshold_us or longer until the block device "
				"was done, 256 for each thread of the controller, the newest last, "
				"and how many there were since it was made. Each is {time, thread, "
				"number, queue, type, tag, lba, blocks, queue_us, device_us, "
				"completion_us, total_us, status}, of a virtio-scsi controller "
				"with opcode, target and lun. time is when the device was done "
				"(UTC), number counts those of the thread, queue is the "
				"virtqueue's index, tag the driver's of a SCSI command or the "
				"head of the chain; lba and blocks are those of 512 bytes, or of "
				"the LUN's blocks. queue_us passed from the poll that found the "
				"request until the block device's driver got it (rate limits, "
				"others that were done in pieces, ranges of SCSI commands that "
				"exclude each other), device_us until the poll that found it "
				"done, completion_us until the guest was shown that, and called "
				"if it wanted to be.\n"
				"Errors: -19 (No such device), -16 (it is being deleted).",
			.columns = "requests:time,queue,type,target,lun,lba,blocks,total_us,"
				   "queue_us,device_us,completion_us,status",
		},
	[RPC_VIRTIO_BLK_CREATE_TRANSPORT] =
		{
			.name = "virtio_blk_create_transport",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = create_transport_params,
			.param_count = RPC_COUNT(create_transport_params),
			.params_size = sizeof(struct rpc_name),
			.help = "For clients that make the transport of their controllers "
				"themselves. The only one, \"vhost_user_blk\", is always there.\n"
				"Errors: -17 (File exists), -22 (no such transport can be made).",
		},
	[RPC_VIRTIO_BLK_GET_TRANSPORTS] =
		{
			.name = "virtio_blk_get_transports",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.params = get_transports_params,
			.param_count = RPC_COUNT(get_transports_params),
			.params_size = sizeof(struct rpc_name),
			.help = "Answers an array of {name}.\n"
				"Errors: -19 (No such device).",
			.columns = "name",
		},
};
