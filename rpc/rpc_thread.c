/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "app.h"
#include "coroutine.h"
#include "env.h"
#include "event.h"
#include "params.h"
#include "rpc.h"
#include "thread.h"

#define WALK_TIMEOUT_US 5000000

/*
 * A walk over all threads that adds an object for each. It goes from thread to thread by message,
 * so one OS thread at a time has it. When the waiting call gives up first, the walk frees itself at
 * its end.
 */
struct walk {
	json_t *threads;
	json_t *(*describe)(struct thread *thread);
	bool failed; /* no memory */
	/* app thread only */
	bool abandoned;
	struct completion *done;
};

static void
walk_free(struct walk *walk)
{
	json_decref(walk->threads);
	free(walk);
}

static void
walk_visit(void *ctx)
{
	struct walk *walk = ctx;

	if (json_array_append_new(walk->threads, walk->describe(thread_current())) != 0)
		walk->failed = true;
}

static void
walk_done(void *ctx)
{
	struct walk *walk = ctx;

	completion_signal(walk->done, walk->failed ? -ENOMEM : 0);
	if (walk->abandoned)
		walk_free(walk);
}

static int
walk_wait(struct walk *walk, json_t **threads, struct errmsg *err)
{
	struct completion *done = completion_create();
	int rc;

	walk->done = done;
	walk->threads = json_array();
	if (done == NULL || walk->threads == NULL ||
	    for_each_thread(walk_visit, walk, walk_done) != 0) {
		completion_drop(done);
		rc = -ENOMEM;
	} else {
		rc = completion_wait(done, WALK_TIMEOUT_US);
		completion_put(done);
		walk->abandoned = rc == -ETIMEDOUT || rc == -ECANCELED;
	}
	if (walk->abandoned)
		return err_set(err, rc, "a thread does not answer");
	if (rc == 0)
		*threads = json_incref(walk->threads);
	walk_free(walk);
	return rc;
}

/* [waits] An array with what describe() makes of each thread, on that thread. */
static int
describe_threads(json_t *(*describe)(struct thread *thread), json_t **threads, struct errmsg *err)
{
	struct walk *walk = calloc(1, sizeof(*walk));

	*threads = NULL;
	if (walk == NULL)
		return -ENOMEM;
	walk->describe = describe;
	return walk_wait(walk, threads, err);
}

/* The answer of the thread_get_* methods. */
static int
answer_threads(json_t *(*describe)(struct thread *thread), json_t **result, struct errmsg *err)
{
	json_t *threads;
	int rc = describe_threads(describe, &threads, err);

	if (rc != 0)
		return rc;
	*result = json_pack("{s:I, s:o}", "tick_rate", (json_int_t)env_ticks_hz(), "threads",
			    threads);
	return *result != NULL ? 0 : -ENOMEM;
}

/* A thread that names no core may use each that has a reactor. */
static const char *
format_cpumask(const struct thread *thread, char text[CPUMASK_TEXT_MAX])
{
	struct cpumask cores = {0};

	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		cpumask_set(&cores, core);
	if (!cpumask_is_empty(thread_cpumask(thread)))
		cpumask_and(&cores, thread_cpumask(thread));
	return cpumask_format(&cores, text);
}

static json_t *
describe_stats(struct thread *thread)
{
	char cpumask[CPUMASK_TEXT_MAX];
	struct thread_stats stats;

	thread_get_stats(thread, &stats);
	return json_pack("{s:s, s:I, s:s, s:I, s:I, s:i, s:i, s:i}", "name", thread_name(thread),
			 "id", (json_int_t)thread_id(thread), "cpumask",
			 format_cpumask(thread, cpumask), "busy", (json_int_t)stats.busy_ticks,
			 "idle", (json_int_t)stats.idle_ticks, "active_pollers_count",
			 (int)stats.active_pollers, "timed_pollers_count", (int)stats.timed_pollers,
			 "paused_pollers_count", 0);
}

static int
get_stats(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	return answer_threads(describe_stats, result, err);
}

struct poller_lists {
	json_t *active, *timed;
};

static void
describe_poller(void *ctx, const struct poller_info *info)
{
	struct poller_lists *lists = ctx;
	json_t *poller = json_pack("{s:s, s:s, s:I, s:I}", "name", info->name, "state", "waiting",
				   "run_count", (json_int_t)info->runs, "busy_count",
				   (json_int_t)info->busy_runs);

	if (info->period_us == 0) {
		json_array_append_new(lists->active, poller);
		return;
	}
	json_object_set_new(
		poller, "period_ticks",
		json_integer((json_int_t)(info->period_us * (env_ticks_hz() / 1000000))));
	json_array_append_new(lists->timed, poller);
}

static json_t *
describe_pollers(struct thread *thread)
{
	struct poller_lists lists = {json_array(), json_array()};

	thread_for_each_poller(thread, describe_poller, &lists);
	return json_pack("{s:s, s:I, s:o, s:o, s:[]}", "name", thread_name(thread), "id",
			 (json_int_t)thread_id(thread), "active_pollers", lists.active,
			 "timed_pollers", lists.timed, "paused_pollers");
}

static int
get_pollers(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	return answer_threads(describe_pollers, result, err);
}

static void
describe_channel(void *ctx, const struct io_channel_info *info)
{
	json_array_append_new(ctx,
			      json_pack("{s:s, s:i}", "name", info->name, "ref", (int)info->refs));
}

static json_t *
describe_channels(struct thread *thread)
{
	json_t *channels = json_array();

	thread_for_each_channel(thread, describe_channel, channels);
	return json_pack("{s:s, s:I, s:o}", "name", thread_name(thread), "id",
			 (json_int_t)thread_id(thread), "io_channels", channels);
}

static int
get_io_channels(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	return answer_threads(describe_channels, result, err);
}

static int
change_cpumask(void *arg)
{
	return thread_set_cpumask(arg);
}

static int
set_cpumask(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_thread_set_cpumask *params = arg;
	struct cpumask cpumask = params->cpumask;
	char text[CPUMASK_TEXT_MAX];
	int rc = thread_call_by_id((uint64_t)params->id, change_cpumask, &cpumask);

	(void)result;
	if (rc == -ENODEV)
		return err_set(err, rc, "no thread has the id %" PRIi64, params->id);
	if (rc == -EINVAL)
		return err_set(err, rc, "thread %" PRIi64 ": no reactor runs on a core of %s",
			       params->id, cpumask_format(&cpumask, text));
	return rc;
}

/* ---- reactors ---- */

/* What a reactor lists of a thread, and for us the core it is on. */
static json_t *
describe_placed(struct thread *thread)
{
	char cpumask[CPUMASK_TEXT_MAX];
	struct thread_stats stats;

	thread_get_stats(thread, &stats);
	return json_pack("{s:I, s:{s:s, s:I, s:s, s:I}}", "core", (json_int_t)thread_core(thread),
			 "thread", "name", thread_name(thread), "id", (json_int_t)thread_id(thread),
			 "cpumask", format_cpumask(thread, cpumask), "elapsed",
			 (json_int_t)(stats.busy_ticks + stats.idle_ticks));
}

static json_t *
describe_reactor(const struct reactor_info *info, json_t *threads)
{
	json_t *placed = json_array();
	json_t *entry;
	size_t i;

	json_array_foreach (threads, i, entry) {
		if (json_integer_value(json_object_get(entry, "core")) == info->core)
			json_array_append(placed, json_object_get(entry, "thread"));
	}
	return json_pack("{s:i, s:I, s:I, s:b, s:s, s:o}", "lcore", (int)info->core, "busy",
			 (json_int_t)info->busy_ticks, "idle", (json_int_t)info->idle_ticks,
			 "in_interrupt", info->mode == REACTOR_INTERRUPT, "mode",
			 reactor_mode_name(info->mode), "lw_threads", placed);
}

static int
get_reactors(const void *params, json_t **result, struct errmsg *err)
{
	json_t *reactors = json_array();
	json_t *threads;
	int rc = describe_threads(describe_placed, &threads, err);

	(void)params;
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE && rc == 0;
	     core = env_core_next(core)) {
		struct reactor_info info;

		if (reactor_get_info(core, &info) == 0)
			rc = json_array_append_new(reactors, describe_reactor(&info, threads));
	}
	json_decref(threads);
	if (rc != 0) {
		json_decref(reactors);
		return rc;
	}
	*result = json_pack("{s:I, s:i, s:o}", "tick_rate", (json_int_t)env_ticks_hz(), "pid",
			    (int)getpid(), "reactors", reactors);
	return *result != NULL ? 0 : -ENOMEM;
}

static int
set_mode(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_framework_set_mode *params = arg;
	enum reactor_mode mode;

	(void)result;
	if (reactor_mode_parse(params->mode, &mode) != 0)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "mode '%.64s' is not poll, adaptive or interrupt", params->mode);
	if (event_choose_mode(params->core, mode) != 0)
		return err_set(err, -ENODEV, "no reactor runs on core %" PRIi64, params->core);
	/* What the state names of cores that have no reactor now. */
	if (params->core == EVENT_ALL_CORES)
		app_give_up("framework_set_mode", NULL);
	return 0;
}

static int
get_scheduler(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)err;
	*result = json_pack("{s:s, s:i}", "scheduler_name", scheduler_name(), "scheduler_period",
			    SCHEDULER_PERIOD_US);
	return *result != NULL ? 0 : -ENOMEM;
}

static int
set_scheduler(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;
	int rc = event_choose_scheduler(params->name);

	(void)result;
	if (rc == -EINVAL)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "scheduler '%.64s' is not static or dynamic", params->name);
	if (rc == 0)
		app_give_up("framework_set_scheduler", NULL);
	return rc;
}

const struct rpc_method rpc_thread_methods[RPC_THREAD_METHODS + 1] = {
	{&rpc_thread_schemas[RPC_FRAMEWORK_GET_REACTORS], get_reactors},
	{&rpc_thread_schemas[RPC_THREAD_GET_STATS], get_stats},
	{&rpc_thread_schemas[RPC_THREAD_GET_POLLERS], get_pollers},
	{&rpc_thread_schemas[RPC_THREAD_GET_IO_CHANNELS], get_io_channels},
	{&rpc_thread_schemas[RPC_THREAD_SET_CPUMASK], set_cpumask},
	{&rpc_thread_schemas[RPC_FRAMEWORK_SET_MODE], set_mode},
	{&rpc_thread_schemas[RPC_FRAMEWORK_GET_SCHEDULER], get_scheduler},
	{&rpc_thread_schemas[RPC_FRAMEWORK_SET_SCHEDULER], set_scheduler},
};
