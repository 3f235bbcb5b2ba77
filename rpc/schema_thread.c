/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define ROOM "Reactors and threads"

const struct rpc_schema rpc_thread_schemas[RPC_THREAD_METHODS + 1] = {
	[RPC_FRAMEWORK_GET_REACTORS] =
		{
			.name = "framework_get_reactors",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers {tick_rate, pid, reactors}: for each reactor its core, "
				"mode, busy and idle ticks, and the "
				"threads placed on it.",
			.columns = "reactors:lcore,mode,busy,idle,in_interrupt,threads=lw_threads."
				   "name",
		},
	[RPC_THREAD_GET_STATS] =
		{
			.name = "thread_get_stats",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers {tick_rate, threads}: for each thread its busy and idle "
				"ticks and how many pollers it has.",
			.columns = "threads:id,name,cpumask,busy,idle,active_pollers=active_"
				   "pollers_count,timed_pollers=timed_pollers_count",
		},
	[RPC_THREAD_GET_POLLERS] =
		{
			.name = "thread_get_pollers",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers {tick_rate, threads}: the pollers of each thread, how "
				"often they ran and found work.",
			.columns = "threads:id,name,active=active_pollers.name,timed=timed_pollers."
				   "name",
		},
	[RPC_THREAD_GET_IO_CHANNELS] =
		{
			.name = "thread_get_io_channels",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers {tick_rate, threads}: the I/O channels of each thread and "
				"their references.",
			.columns = "threads:id,name,io_channels=io_channels.name,references=io_"
				   "channels.ref",
		},
};
