/* SPDX-License-Identifier: BSD-3-Clause */
#include "by_hand.h"

#include <assert.h>

#include "env.h"

#define ROUNDS_MAX 10000

int
poll_once(struct thread *thread)
{
	return thread_poll(thread, env_ticks());
}

void
poll_until_idle(struct thread *const *threads, size_t count)
{
	int rc = POLLER_BUSY;

	for (unsigned int round = 0; rc != POLLER_IDLE; round++) {
		assert(round < ROUNDS_MAX);
		rc = POLLER_IDLE;
		for (size_t i = 0; i < count; i++)
			rc |= poll_once(threads[i]);
	}
}

void
thread_finish(struct thread *thread)
{
	thread_set_current(thread);
	thread_exit(thread);
	thread_set_current(NULL);
	for (unsigned int round = 0; !thread_is_exited(thread); round++) {
		assert(round < ROUNDS_MAX);
		poll_once(thread);
	}
	thread_destroy(thread);
}
