/* SPDX-License-Identifier: BSD-3-Clause */
/* by_hand: lightweight threads polled by the test itself, without reactors. */
#ifndef VHOSTD_TESTLIB_BY_HAND_H
#define VHOSTD_TESTLIB_BY_HAND_H

#include <stddef.h>

#include "thread.h"

/* One thread_poll() at the present time. */
int poll_once(struct thread *thread);
/* Polls these threads in turn until none has anything to do; a bound on the rounds is asserted. */
void poll_until_idle(struct thread *const *threads, size_t count);
/* Tells it to exit, polls it until it has (asserted, within a bound), and destroys it. */
void thread_finish(struct thread *thread);

#endif
