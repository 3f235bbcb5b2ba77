/* SPDX-License-Identifier: BSD-3-Clause */
#include "event.h"
#include "params.h"
#include "rpc.h"

#define ROOM "Reactors and threads"

static const struct rpc_param set_cpumask_params[] = {
	{.name = "id",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct rpc_thread_set_cpumask, id),
	 .min = 1,
	 .max = INT64_MAX,
	 .help = "of the thread, as thread_get_stats lists it"},
	{.name = "cpumask",
	 .type = RPC_CPUMASK,
	 .required = true,
	 .offset = offsetof(struct rpc_thread_set_cpumask, cpumask),
	 .help = "where it may run: \"0x3\" or \"[0,2-3]\""},
};

static const struct rpc_param set_mode_params[] = {
	{.name = "core",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_framework_set_mode, core),
	 .min = EVENT_ALL_CORES,
	 .max = CPUMASK_CPUS - 1,
	 .preset = EVENT_ALL_CORES,
	 .help = "of the reactor; -1: all of them"},
	{.name = "mode",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_framework_set_mode, mode),
	 .help = "\"poll\": spin; \"adaptive\": spin while busy; \"interrupt\": sleep when idle"},
};

static const struct rpc_param set_scheduler_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "\"static\": threads stay where they were placed; \"dynamic\": they are moved "
		 "to even the load"},
};

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
	[RPC_THREAD_SET_CPUMASK] =
		{
			.name = "thread_set_cpumask",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.params = set_cpumask_params,
			.param_count = RPC_COUNT(set_cpumask_params),
			.params_size = sizeof(struct rpc_thread_set_cpumask),
			.help = "Changes where a thread may run, until it ends, and moves it if it "
				"is elsewhere; its work goes on. Answers true.\n"
				"Errors: -19 (No such device: no such thread), -22 (no reactor "
				"runs on one of these cores).",
		},
	[RPC_FRAMEWORK_SET_MODE] =
		{
			.name = "framework_set_mode",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = set_mode_params,
			.param_count = RPC_COUNT(set_mode_params),
			.params_size = sizeof(struct rpc_framework_set_mode),
			.help = "Changes what reactors do when there is no work, also after a "
				"restart. Answers true.\n"
				"Errors: -19 (No such device: no reactor runs on that core).",
		},
	[RPC_FRAMEWORK_GET_SCHEDULER] =
		{
			.name = "framework_get_scheduler",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			.help = "Answers {scheduler_name, scheduler_period}: the period, in "
				"microseconds, is how often a scheduler other than static looks "
				"at the threads.",
		},
	[RPC_FRAMEWORK_SET_SCHEDULER] =
		{
			.name = "framework_set_scheduler",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = set_scheduler_params,
			.param_count = RPC_COUNT(set_scheduler_params),
			.params_size = sizeof(struct rpc_name),
			.help = "Chooses who decides where threads run, within their CPU masks, "
				"also after a restart. The default is \"dynamic\". Answers true.",
		},
};
