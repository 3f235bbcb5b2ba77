/* SPDX-License-Identifier: BSD-3-Clause */
#include "env.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>

#include "eal_log.h"

_Static_assert(LCORE_ID_ANY == ENV_NO_CORE, "core numbers are lcore ids");
_Static_assert(CPUMASK_CPUS <= CPU_SETSIZE, "a cpu_set_t holds every CPU of a cpumask");

/* What runs on the EAL thread of a core. */
static struct core_job {
	/* set by the main core before the launch */
	int (*fn)(void *arg);
	void *arg;
	/* The EAL has a state of its own for this; that one is invisible to thread sanitizers. */
	_Atomic bool running;
} jobs[RTE_MAX_LCORE];

/* Set once, by env_init(). */
static struct cpumask housekeeping;
static uint32_t first_core;
static uint32_t next_core[RTE_MAX_LCORE];

static void
cpumask_to_set(const struct cpumask *mask, cpu_set_t *set)
{
	CPU_ZERO(set);
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS; cpu++) {
		if (cpumask_test(mask, cpu))
			CPU_SET(cpu, set);
	}
}

static int
pin(const struct cpumask *mask)
{
	cpu_set_t set;

	cpumask_to_set(mask, &set);
	return -pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* Fills cpus from opts, or with the first of `allowed`. */
static int
choose_cpus(const struct env_opts *opts, const cpu_set_t *allowed, struct cpumask *cpus,
	    struct errmsg *err)
{
	*cpus = opts->cpus;
	if (cpumask_is_empty(cpus)) {
		for (uint32_t cpu = 0; cpu < CPUMASK_CPUS && cpumask_is_empty(cpus); cpu++) {
			if (CPU_ISSET(cpu, allowed))
				cpumask_set(cpus, cpu);
		}
	}
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS; cpu++) {
		if (!cpumask_test(cpus, cpu))
			continue;
		if (cpu >= RTE_MAX_LCORE)
			return err_set(err, -EINVAL, "CPU %u: this build takes CPUs 0 to %d", cpu,
				       RTE_MAX_LCORE - 1);
		if (!CPU_ISSET(cpu, allowed))
			return err_set(err, -EINVAL,
				       "CPU %u does not exist, or this process may not use it",
				       cpu);
	}
	return 0;
}

static void
choose_housekeeping(const struct cpumask *cpus, const cpu_set_t *allowed)
{
	struct cpumask all = {{0}}, rest = {{0}};

	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS; cpu++) {
		if (!CPU_ISSET(cpu, allowed))
			continue;
		cpumask_set(&all, cpu);
		if (!cpumask_test(cpus, cpu))
			cpumask_set(&rest, cpu);
	}
	housekeeping = cpumask_is_empty(&rest) ? all : rest;
}

/* "0,2,3", as --lcores takes it. */
static void
format_list(const struct cpumask *cpus, char text[CPUMASK_CPUS * 4])
{
	size_t length = 0;

	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS; cpu++) {
		if (cpumask_test(cpus, cpu))
			length +=
				(size_t)sprintf(text + length, "%s%u", length > 0 ? "," : "", cpu);
	}
}

static int
start_eal(const struct env_opts *opts, const struct cpumask *cpus, struct errmsg *err)
{
	unsigned int memory_mb = opts->memory_mb > 0 ? opts->memory_mb : ENV_MEMORY_MB;
	char name[64], prefix[64], lcores[CPUMASK_CPUS * 4], memory[16], pages[16];
	char *argv[] = {
		name,
		(char[]){"--no-shconf"},
		prefix,
		(char[]){"--no-pci"},
		(char[]){"--no-telemetry"},
		(char[]){"--iova-mode=va"},
		/* Errors only: the rest is about each message of each front-end. */
		(char[]){"--log-level=lib.vhost.*:4"},
		(char[]){"--lcores"},
		lcores,
		(char[]){"-m"},
		memory,
		pages,
		NULL,
	};
	int argc = (int)(sizeof(argv) / sizeof(argv[0])) - 1;
	int rc;

	snprintf(name, sizeof(name), "%s", opts->name);
	snprintf(prefix, sizeof(prefix), "--file-prefix=vhostd-%d", getpid());
	/* --in-memory: hugepages without files; DPDK does not take it together with --no-huge. */
	snprintf(pages, sizeof(pages), "%s", opts->hugepages ? "--in-memory" : "--no-huge");
	snprintf(memory, sizeof(memory), "%u", memory_mb);
	format_list(cpus, lcores);
	rc = rte_eal_init(argc, argv);
	/* DPDK makes its folder even where nothing will be put into it. */
	rmdir(rte_eal_get_runtime_dir());
	if (rc >= 0)
		return 0;
	if (rte_errno == ENOMEM)
		return err_set(err, -ENOMEM, "DPDK gets no heap of %u MiB%s", memory_mb,
			       opts->hugepages ? " from hugepages: reserve more, or do without them"
					       : "");
	return err_set(err, -EIO, "DPDK does not start: %s; its own words are in the log",
		       rte_strerror(rte_errno));
}

/* The EAL's own walk asks for each of its 128 lcores whether it is in use. */
static void
link_cores(void)
{
	uint32_t *link = &first_core;
	uint32_t core;

	RTE_LCORE_FOREACH (core) {
		*link = core;
		link = &next_core[core];
	}
	*link = ENV_NO_CORE;
}

int
env_init(const struct env_opts *opts, struct errmsg *err)
{
	struct cpumask cpus;
	cpu_set_t allowed;
	int rc;

	rc = -pthread_getaffinity_np(pthread_self(), sizeof(allowed), &allowed);
	if (rc != 0)
		return err_set(err, rc, "this process's CPUs: %s", strerror(-rc));
	rc = choose_cpus(opts, &allowed, &cpus, err);
	if (rc != 0)
		return rc;
	choose_housekeeping(&cpus, &allowed);
	rc = eal_log_open();
	if (rc != 0)
		return err_set(err, rc, "out of memory");
	rc = start_eal(opts, &cpus, err);
	/* rte_eal_init() pinned this thread to the main core, whether it succeeded or not. */
	pthread_setaffinity_np(pthread_self(), sizeof(allowed), &allowed);
	if (rc != 0) {
		eal_log_close();
		return rc;
	}
	link_cores();
	return 0;
}

void
env_fini(void)
{
	rte_eal_cleanup();
	eal_log_close();
}

uint32_t
env_core_count(void)
{
	return rte_lcore_count();
}

uint32_t
env_core_first(void)
{
	return first_core;
}

uint32_t
env_core_next(uint32_t core)
{
	return next_core[core];
}

uint32_t
env_core_main(void)
{
	return rte_get_main_lcore();
}

uint32_t
env_core_current(void)
{
	return rte_lcore_id();
}

static int
run_job(void *arg)
{
	struct core_job *job = arg;
	int rc = job->fn(job->arg);

	atomic_store_explicit(&job->running, false, memory_order_release);
	return rc;
}

int
env_core_launch(uint32_t core, int (*fn)(void *arg), void *arg)
{
	struct core_job *job = &jobs[core];

	if (atomic_load_explicit(&job->running, memory_order_acquire))
		return -EBUSY;
	rte_eal_wait_lcore(core);
	job->fn = fn;
	job->arg = arg;
	atomic_store_explicit(&job->running, true, memory_order_release);
	return rte_eal_remote_launch(run_job, job, core);
}

void
env_core_wait_all(void)
{
	uint32_t core;

	rte_eal_mp_wait_lcore();
	RTE_LCORE_FOREACH_WORKER (core)
		while (atomic_load_explicit(&jobs[core].running, memory_order_acquire))
			sched_yield();
}

int
env_core_run_main(int (*fn)(void *arg), void *arg)
{
	struct cpumask core = {{0}};
	cpu_set_t before;
	int rc;

	rc = -pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	if (rc != 0)
		return rc;
	cpumask_set(&core, env_core_main());
	rc = pin(&core);
	if (rc != 0)
		return rc;
	rc = fn(arg);
	pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	return rc;
}

const struct cpumask *
env_housekeeping_cpus(void)
{
	return &housekeeping;
}

int
env_pin_to_housekeeping(void)
{
	return pin(&housekeeping);
}
