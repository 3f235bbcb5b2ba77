/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "coroutine.h"
#include "metrics.h"
#include "params.h"
#include "rpc.h"

/* What the coroutine has while it runs, and a worker while the coroutine waits for it. */
struct format_job {
	const json_t *records;
	bool as_text;
	json_t *result;
};

/* On a worker: there may be many thousand samples. */
static int
format(void *arg)
{
	struct format_job *job = arg;
	size_t length;
	char *text;

	if (!job->as_text) {
		job->result = metrics_json(job->records);
	} else {
		text = metrics_text(job->records, &length);
		job->result = text != NULL ? json_stringn(text, length) : NULL;
		free(text);
	}
	return job->result != NULL ? 0 : -ENOMEM;
}

static int
metrics_get(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_metrics_get *params = arg;
	const char *name = params->format != NULL ? params->format : "json";
	struct format_job job = {.as_text = strcmp(name, "text") == 0};
	json_t *records;
	int rc;

	if (!job.as_text && strcmp(name, "json") != 0)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "metrics_get: parameter 'format' must be \"json\" or \"text\"");
	records = metrics_collect();
	if (records == NULL)
		return -ENOMEM;
	job.records = records;
	rc = coroutine_blocking(format, &job);
	*result = job.result;
	json_decref(records);
	return rc;
}

const struct rpc_method rpc_metrics_methods[RPC_METRICS_METHODS + 1] = {
	{&rpc_metrics_schemas[RPC_METRICS_GET], metrics_get},
};
