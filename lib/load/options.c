/* SPDX-License-Identifier: BSD-3-Clause */
#include "load.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RATE 1000000 /* a second */

const struct load_options load_default_options = {
	.rw = "randread",
	.indirect_mode = "auto",
	.block_size = 4096,
	.depth = 32,
	.queues = 1,
	.threads = 1,
	.seconds = 5,
	.ramp = 0.5,
};

static const struct workload {
	const char *name;
	bool reads, writes, random;
} workloads[] = {
	{"read", true, false, false},    {"write", false, true, false},
	{"randread", true, false, true}, {"randwrite", false, true, true},
	{"randrw", true, true, true},
};

int
load_set_workload(struct load_options *options)
{
	const struct workload *w;

	for (w = workloads; w < workloads + sizeof(workloads) / sizeof(workloads[0]); w++) {
		if (strcmp(options->rw, w->name) || (options->scsi && w->reads && w->writes))
			continue;
		options->reads = w->reads;
		options->writes = w->writes;
		options->random = w->random;
		return 0;
	}
	return -EINVAL;
}

int
load_set_cpus(struct load_options *options)
{
	const char *p = options->cpu_list;
	char *end;

	while (p && options->cpu_count < LOAD_MAX_THREADS) {
		options->cpus[options->cpu_count++] = strtoul(p, &end, 10);
		if (end == p || (*end && *end != ','))
			return -EINVAL;
		p = *end ? end + 1 : NULL;
	}
	return p ? -EINVAL : 0;
}

bool
load_options_valid(const struct load_options *options)
{
	if (options->rate > 0 && options->queues > 1)
		return false;
	if (strcmp(options->indirect_mode, "auto") && strcmp(options->indirect_mode, "on") &&
	    strcmp(options->indirect_mode, "off"))
		return false;
	return options->socket && options->block_size > 0 &&
	       options->block_size <= LOAD_MAX_BLOCK_SIZE &&
	       options->block_size % CLIENT_SECTOR == 0 && options->depth > 0 &&
	       options->depth <= LOAD_MAX_DEPTH && options->queues > 0 &&
	       options->queues <= CLIENT_MAX_QUEUES - CLIENT_SCSI_REQUESTS &&
	       options->threads > 0 && options->threads <= LOAD_MAX_THREADS &&
	       options->threads <= options->queues && options->rate <= MAX_RATE &&
	       options->seconds > 0 && options->ramp >= 0;
}

int
load_pin(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}
