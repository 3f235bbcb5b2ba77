/* SPDX-License-Identifier: BSD-3-Clause */
#include "drain.h"

#include <errno.h>
#include <stdlib.h>

#include "controller.h"
#include "coroutine.h"
#include "log.h"
#include "session.h"

int
vhost_drain_wait(struct vhost_session *session, vhost_queue_set mask, thread_fn begin)
{
	struct vhost_drain *drain = calloc(1, sizeof(*drain));
	struct completion *completion = completion_create();
	int rc;

	if (drain == NULL || completion == NULL) {
		free(drain);
		completion_drop(completion);
		return -ENOMEM;
	}
	drain->session = session;
	drain->mask = mask;
	drain->completion = completion;
	thread_send(vhost_main_thread(session->controller), &drain->msg, begin, drain);
	rc = completion_wait(completion, VHOST_DRAIN_US);
	completion_put(completion);
	if (rc == -ETIMEDOUT)
		log_err("vhost %s: requests of a queue do not end within %llu s",
			vhost_session_name(session), VHOST_DRAIN_US / 1000000);
	return rc;
}

void
vhost_drain_end(struct vhost_drain **list)
{
	struct vhost_drain *drain = *list;

	*list = drain->next;
	completion_signal(drain->completion, 0);
	free(drain);
}
