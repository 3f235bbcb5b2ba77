/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

static const struct rpc_param get_params[] = {
	{.name = "format",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_metrics_get, format),
	 .help = "\"json\" (default), or \"text\" as Prometheus reads it"},
};

const struct rpc_schema rpc_metrics_schemas[RPC_METRICS_METHODS + 1] = {
	[RPC_METRICS_GET] =
		{
			.name = "metrics_get",
			.room = "Metrics",
			.flags = RPC_RUNTIME,
			.params = get_params,
			.param_count = RPC_COUNT(get_params),
			.params_size = sizeof(struct rpc_metrics_get),
			.help = "Answers what --metrics serves: an array of {name, type, help, "
				"samples}, in which samples is an array of {labels, value}, or of "
				"{labels, count, sum, buckets[{le, count}]} where type is "
				"\"histogram\". With the format \"text\" it is one string, the "
				"text "
				"exposition format of Prometheus.",
		},
};
