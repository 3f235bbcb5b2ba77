/* SPDX-License-Identifier: BSD-3-Clause */
/* A call to another thread whose caller may give up: message and argument are the callee's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "coroutine.h"

struct timed_call {
	struct thread_msg msg;
	int (*fn)(void *arg);
	struct completion *completion;
	_Alignas(max_align_t) char arg[];
};

static void
run(void *ctx)
{
	struct timed_call *call = ctx;

	completion_signal(call->completion, call->fn(call->arg));
	free(call);
}

int
thread_call_within(struct thread *thread, uint64_t timeout_us, int (*fn)(void *arg),
		   const void *arg, size_t size)
{
	struct timed_call *call = malloc(sizeof(*call) + size);
	struct completion *completion = completion_create();
	int rc;

	if (call == NULL || completion == NULL) {
		free(call);
		completion_drop(completion);
		return -ENOMEM;
	}
	call->fn = fn;
	call->completion = completion;
	memcpy(call->arg, arg, size);
	thread_send(thread, &call->msg, run, call);
	rc = completion_wait(completion, timeout_us);
	completion_put(completion);
	return rc;
}
