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

	struct nvme_transport *transport = watch->transport;

	if (!atomic_load(&transport->gone))
		watch->look(transport);
	if (!atomic_load(&transport->gone) && !atomic_load(&transport->wanted_back))
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

struct blocking_call {
	int (*fn)(void *arg);
	void *arg;
	bool has_run;
	int rc;
};

static int
run_call(void *arg)
{
	struct blocking_call *call = arg;

	call->rc = call->fn(call->arg);
	call->has_run = true;
	return 0;
}

int
transport_blocking(int (*fn)(void *arg), void *arg)
{
	struct blocking_call call = {.fn = fn, .arg = arg};

	if (coroutine_current() != NULL)
		coroutine_blocking(run_call, &call);
	if (!call.has_run)
		run_call(&call);
	return call.rc;
}

struct allocation {
	struct nvme_transport *transport;
	void *memory;
	size_t size;
	uint64_t *iova;
	struct errmsg *err;
};

static int
allocate(void *arg)
{
	struct allocation *allocation = arg;

	allocation->memory = dma_alloc(allocation->transport->dma, allocation->size,
				       allocation->iova, allocation->err);
	return 0;
}

void *
transport_dma_alloc(struct nvme_transport *transport, size_t size, uint64_t *iova,
		    struct errmsg *err)
{
	struct allocation allocation = {
		.transport = transport, .size = size, .iova = iova, .err = err};

	transport_blocking(allocate, &allocation);
	return allocation.memory;
}

static int
release(void *arg)
{
	struct allocation *allocation = arg;

	dma_free(allocation->transport->dma, allocation->memory, allocation->size);
	return 0;
}

void
transport_dma_free(struct nvme_transport *transport, void *memory, size_t size)
{
	struct allocation allocation = {.transport = transport, .memory = memory, .size = size};

	if (memory != NULL)
		transport_blocking(release, &allocation);
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
