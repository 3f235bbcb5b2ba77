/* SPDX-License-Identifier: BSD-3-Clause */
/* What coroutine.c and completion.c share. */
#ifndef VHOSTD_LIB_THREAD_COROUTINE_INTERNAL_H
#define VHOSTD_LIB_THREAD_COROUTINE_INTERNAL_H

#include "fiber.h"
#include "internal.h"

#define COROUTINE_STACK_SIZE (256 * 1024) /* guard page included */

struct coroutine {
	/* set once */
	char *base; /* of its mapping */
	struct thread *thread;
	const char *name;
	void (*fn)(void *arg);
	void *arg;

	/* its thread only */
	LIST_ENTRY(coroutine) link; /* thread->coroutines; when free: among the kept stacks */
	struct fiber self;
	struct fiber caller; /* the OS thread that resumed it */
	struct thread_msg msg;
	struct thread_timer timer;
	bool parked;    /* in coroutine_park() */
	bool wake_sent; /* msg is under way; only it may resume the coroutine */
	bool timed_out;
	bool cancelled;
	bool returned;
	struct coroutine *next_waiter; /* in a coroutine_mutex */
};

/*
 * The running coroutine gives way until it is resumed, at the latest at `deadline` (env_ticks(),
 * UINT64_MAX: never). Returns whether that was the reason. Callers check in a loop what they wait
 * for: coroutine_cancel() resumes too.
 */
bool coroutine_park(struct coroutine *coroutine, uint64_t deadline);
/* Resumes a parked coroutine now. From a message or a timer of its thread, not from a coroutine. */
void coroutine_ready(struct coroutine *coroutine);

#endif
