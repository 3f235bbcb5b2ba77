/* SPDX-License-Identifier: BSD-3-Clause */
/* transport: what the transports share. Private to lib/nvme. */
#ifndef VHOSTD_NVME_TRANSPORT_COMMON_H
#define VHOSTD_NVME_TRANSPORT_COMMON_H

#include "nvme_transport.h"
#include "thread.h"

#define NVME_REGISTER_VS 0x8u /* version: never all ones (NVMe base 2.0, 3.1.3.2) */

#define NVME_PCI_CLASS 0x010802 /* mass storage, non-volatile memory, NVM Express */

/* All that there are; NULL ends them. */
extern const struct nvme_transport_ops *const nvme_transports[];

/* Tells the driver when its device is gone. App thread. */
struct transport_watch {
	struct nvme_transport *transport;
	/* looks for what nobody else notices; sets gone or wanted_back. Must not block. */
	void (*look)(struct nvme_transport *transport);
	nvme_gone_fn gone;
	void *ctx;
	struct poller *poller;
};
/* transport, look, gone and ctx are set. 0 or a negative errno. */
int transport_watch_start(struct transport_watch *watch);
void transport_watch_stop(struct transport_watch *watch);

/*
 * [waits] Runs fn(arg), which may block, always and once: on the work pool in a coroutine; here
 * elsewhere, where there is no pool, and in a coroutine that is cancelled. What it returned.
 */
int transport_blocking(int (*fn)(void *arg), void *arg);

/* [waits] dma_alloc() and dma_free() in the transport's space. */
void *transport_dma_alloc(struct nvme_transport *transport, size_t size, uint64_t *iova,
			  struct errmsg *err);
/* memory NULL: nothing happens. */
void transport_dma_free(struct nvme_transport *transport, void *memory, size_t size);

/* The interrupts' eventfds. */
struct transport_eventfds {
	uint32_t count;
	int *fds;
};
/* Non-blocking ones. 0 or a negative errno; then there are none. */
int transport_eventfds_create(struct transport_eventfds *eventfds, uint32_t count);
void transport_eventfds_close(struct transport_eventfds *eventfds);

#endif
