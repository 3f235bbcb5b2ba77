/* SPDX-License-Identifier: BSD-3-Clause */
#include "patience.h"

#include "coroutine.h"
#include "waiting.h"

#define SECOND       1000000u /* in us; what waits for less does not give up, but sleeps */
#define IMPATIENT_US 20000u

atomic_bool impatient;

int __real_completion_wait(struct completion *completion, uint64_t timeout_us);
int __wrap_completion_wait(struct completion *completion, uint64_t timeout_us);

int
__wrap_completion_wait(struct completion *completion, uint64_t timeout_us)
{
	if (timeout_us >= SECOND && timeout_us != WAIT_FOREVER)
		timeout_us = atomic_load(&impatient) ? IMPATIENT_US : DEADLINE_S * SECOND;
	return __real_completion_wait(completion, timeout_us);
}
