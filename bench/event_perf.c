/* SPDX-License-Identifier: BSD-3-Clause */
/* links: event thread env */
/*
 * Events per second around a ring of cores: each event, when it runs, sends itself on to the next
 * core.
 */
#include "perf.h"

static void
pass_on(void *arg1, void *arg2)
{
	uint32_t core = env_core_next(env_core_current());

	event_call(core != ENV_NO_CORE ? core : env_core_first(), pass_on, arg1, arg2);
}

static void
start(struct perf *perf)
{
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		for (unsigned int i = 0; i < perf->count; i++)
			event_call(core, pass_on, NULL, NULL);
	}
}

static uint64_t
counted(uint32_t core)
{
	struct reactor_info info = {0};

	reactor_get_info(core, &info);
	return info.events;
}

int
main(int argc, char **argv)
{
	struct perf perf = {
		.name = "event_perf",
		.unit = "events",
		.count_help = "events under way for each core",
		.start = start,
		.counted = counted,
		.seconds = 3,
		.count = 512,
	};

	return perf_main(&perf, argc, argv);
}
