/* SPDX-License-Identifier: BSD-3-Clause */
/* The scheduler's decision, as a pure function. */
#ifndef VHOSTD_LIB_EVENT_SCHEDULER_H
#define VHOSTD_LIB_EVENT_SCHEDULER_H

#include <stdint.h>

#include "cpumask.h"

#define SCHEDULER_MOVES_MAX 4 /* in one period: what a move changes is seen before the next ones */

struct scheduler_thread {
	uint64_t id;
	uint64_t busy; /* ticks in the period */
	uint32_t core;
	uint32_t target;        /* out: where it shall go; else its core */
	struct cpumask cpumask; /* empty: anywhere */
};

/*
 * Which threads to move so that no core is busier than it needs to be. cores: those that run;
 * period in ticks. Only moves that take a tenth of the period or more off the busier of the two
 * cores are made, the best ones first: each move costs the thread its caches, and what is even
 * enough stays as it is. Returns how many there are. Pure.
 */
uint32_t scheduler_decide(struct scheduler_thread *threads, uint32_t count,
			  const struct cpumask *cores, uint64_t period);

#endif
