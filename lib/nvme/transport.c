/* SPDX-License-Identifier: BSD-3-Clause */
#include "transport.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "coroutine.h"

static int
watch_poll(void *arg)
{
	struct transport_watch *watch = arg;

	if (!atomic_load(&watch->transport->gone))
		watch->look(watch->transport);
	if (!atomic_load(&watch->transport->gone))
		return POLLER_IDLE;
	/* Once. */
	poller_unregister(&watch->poller);
	watch->gone(watch->ctx);
	return POLLER_BUSY;
}

int
transport_watch_start(struct transport_watch *watch)
{
	watch->poller = poller_register(watch_poll, watch, NVME_GONE_US, "nvme_gone");
	return watch->poller != NULL ? 0 : -errno;
}

void
transport_watch_stop(struct transport_watch *watch)
{
	poller_unregister(&watch->poller);
}

int
transport_blocking(int (*fn)(void *arg), void *arg)
{
	return coroutine_current() != NULL ? coroutine_blocking(fn, arg) : fn(arg);
}

int
transport_eventfds_create(struct transport_eventfds *eventfds, uint32_t count)
{
	int rc = 0;

	eventfds->count = 0;
	eventfds->fds = calloc(count, sizeof(eventfds->fds[0]));
	if (eventfds->fds == NULL && count > 0)
		return -ENOMEM;
	while (rc == 0 && eventfds->count < count) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd >= 0)
			eventfds->fds[eventfds->count++] = fd;
		else
			rc = -errno;
	}
	if (rc != 0)
		transport_eventfds_close(eventfds);
	return rc;
}

void
transport_eventfds_close(struct transport_eventfds *eventfds)
{
	for (uint32_t i = 0; i < eventfds->count; i++)
		close(eventfds->fds[i]);
	free(eventfds->fds);
	eventfds->fds = NULL;
	eventfds->count = 0;
}
