/* SPDX-License-Identifier: BSD-3-Clause */
/* What an administrator chose at run time, and the configuration that this is. */
#include <errno.h>

#include "internal.h"

/* App thread only. A mode that was chosen is kept as the number after it: 0 is none. */
static struct {
	int mode;                    /* of all reactors */
	int core_mode[CPUMASK_CPUS]; /* of one, chosen after that */
	bool scheduler;
} chosen;

static int
set_mode_of_all(enum reactor_mode mode)
{
	for (uint32_t core = 0; core < CPUMASK_CPUS; core++) {
		chosen.core_mode[core] = 0;
		reactor_set_mode(core, mode);
	}
	chosen.mode = (int)mode + 1;
	return 0;
}

int
event_choose_mode(int64_t core, enum reactor_mode mode)
{
	int rc;

	if (core == EVENT_ALL_CORES)
		return set_mode_of_all(mode);
	rc = reactor_set_mode((uint32_t)core, mode);
	if (rc == 0)
		chosen.core_mode[core] = (int)mode + 1;
	return rc;
}

int
event_choose_scheduler(const char *name)
{
	int rc = scheduler_set(name);

	if (rc == 0)
		chosen.scheduler = true;
	return rc;
}

static json_t *
mode_json(int64_t core, int mode)
{
	json_t *params =
		json_pack("{s:s}", "mode", reactor_mode_name((enum reactor_mode)(mode - 1)));

	if (core != EVENT_ALL_CORES)
		json_object_set_new(params, "core", json_integer(core));
	return json_pack("{s:s, s:o}", "method", "framework_set_mode", "params", params);
}

json_t *
event_config_json(void)
{
	json_t *array = json_array();

	if (chosen.scheduler)
		json_array_append_new(array, json_pack("{s:s, s:{s:s}}", "method",
						       "framework_set_scheduler", "params", "name",
						       scheduler_name()));
	if (chosen.mode != 0)
		json_array_append_new(array, mode_json(EVENT_ALL_CORES, chosen.mode));
	for (uint32_t core = 0; core < CPUMASK_CPUS; core++) {
		if (chosen.core_mode[core] != 0)
			json_array_append_new(array, mode_json(core, chosen.core_mode[core]));
	}
	return array;
}
