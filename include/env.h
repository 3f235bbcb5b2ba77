/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * env: the ground that the other rooms stand on. DPDK's EAL (started without hugepages, PCI scan
 * or shared configuration unless asked for), time, and the cores that run reactors.
 */
#ifndef VHOSTD_ENV_H
#define VHOSTD_ENV_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpumask.h"
#include "errmsg.h"

/*
 * What DPDK's vhost library takes for some hundred queues. Without hugepages only what is touched
 * is used.
 */
#define ENV_MEMORY_MB 256

struct env_opts {
	const char *name;    /* program name, for the EAL and the log; borrowed */
	struct cpumask cpus; /* CPUs that get a reactor; empty: the first CPU the process may use */
	unsigned int
		memory_mb; /* size of the EAL's heap in MiB; it cannot grow. 0: ENV_MEMORY_MB */
	bool hugepages;    /* take the heap from reserved hugepages; default: from 4 KiB pages */
};

/*
 * Starts the EAL. Call once, from the main thread, before any other room. It leaves no file behind.
 * The caller's CPU affinity, and so that of threads created later by anyone but the EAL, is left as
 * it was before the call; a thread that is created on a reactor inherits the reactor's core, and
 * should call env_pin_to_housekeeping(). Returns 0 or a negative errno: -EINVAL (a CPU that does
 * not exist or that the process may not use), -ENOMEM, -EIO (the EAL refused; its own words are in
 * the log).
 */
int env_init(const struct env_opts *opts, struct errmsg *err);

/* Ends the EAL. After it nothing of DPDK may be called. */
void env_fini(void);

/*
 * Time stamp counter; any thread. A unit test may define both functions itself to own the time:
 * they are alone in their object file.
 */
uint64_t env_ticks(void);
uint64_t env_ticks_hz(void); /* ticks in a second, constant; valid without env_init too */

/* Any thread; rounded down. UINT64_MAX for more than fits. A division of 128 bits: not for each I/O. */
static inline uint64_t
env_us_to_ticks(uint64_t us)
{
	unsigned __int128 ticks = (unsigned __int128)us * env_ticks_hz() / 1000000;

	return ticks < UINT64_MAX ? (uint64_t)ticks : UINT64_MAX;
}

static inline uint64_t
env_ticks_to_us(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * 1000000 / env_ticks_hz());
}

#define ENV_NO_CORE UINT32_MAX

/* The cores (EAL lcores, numbered like their CPUs) in ascending order, ENV_NO_CORE at the end. */
uint32_t env_core_count(void);
uint32_t env_core_first(void);
uint32_t env_core_next(uint32_t core);
uint32_t env_core_main(void);
/* The core that the calling OS thread is the EAL thread of, or ENV_NO_CORE. */
uint32_t env_core_current(void);

/* Runs fn(arg) on the EAL thread of core, which must not be the main core. 0 or -EBUSY. */
int env_core_launch(uint32_t core, int (*fn)(void *arg), void *arg);
/* Waits until what env_core_launch() started on each core has returned. Main core only. */
void env_core_wait_all(void);
/*
 * Calls fn(arg) on the main thread, pinned to the main core meanwhile. Returns what fn did, or a
 * negative errno.
 */
int env_core_run_main(int (*fn)(void *arg), void *arg);

/*
 * The CPUs for OS threads that may block (work pool, io_uring's workers): those the process may use
 * that have no reactor, or all of them where every one has. Valid after env_init().
 */
const struct cpumask *env_housekeeping_cpus(void);

/* Pins the calling OS thread to the housekeeping CPUs. Returns 0 or a negative errno. */
int env_pin_to_housekeeping(void);

/*
 * What OS threads that do not handle signals block: all but those that the processor raises. Of a
 * blocked one the kernel would end the process without its handler (mapping.h has one for SIGBUS).
 * Threads inherit the mask, those of libraries too.
 */
void env_fill_sigset(sigset_t *set);
/* pthread_create() of an OS thread that blocks those; pthread_join() it. 0 or a negative errno. */
int env_start_os_thread(pthread_t *os_thread, void *(*fn)(void *arg), void *arg);

#endif
