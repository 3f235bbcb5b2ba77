/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_transport: how the NVMe driver reaches a controller: its registers, its doorbells, memory
 * that it can read and write, and its interrupts. Part of the room nvme; `pcie` (VFIO, lib/env) and
 * `vfio_user` (a socket) implement it, and unit tests do.
 *
 * All functions but read, write and switch_interrupt are called by the controller's control path:
 * on the app thread, where they may wait [waits] if they are in a coroutine and block if not (as
 * tests and small programs do).
 */
#ifndef VHOSTD_NVME_TRANSPORT_H
#define VHOSTD_NVME_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "dma.h"
#include "errmsg.h"

struct nvme_transport;

#define NVME_REGISTERS_SIZE 0x1000u /* below the doorbells (NVMe over PCIe Transport 1.0, 3.1) */
#define NVME_GONE_US        100000u

/* The device is gone or wanted back, see struct nvme_transport. */
typedef void (*nvme_gone_fn)(void *ctx);

struct nvme_transport_ops {
	const char *name; /* trtype in JSON-RPC: "PCIe", "VFIOUSER" */
	/*
	 * traddr: a PCI address; or a vfio-user socket, or a folder with one called cntrl in it.
	 * Claims the device, maps its registers, makes it a bus master, makes its dma_space. 0,
	 * -ENODEV (nothing there), -EBUSY (in use, not bound to vfio-pci: err says how to),
	 * -EACCES, -EINVAL (not an NVMe device), … gone is called once, on this thread, from a
	 * poller, at most NVME_GONE_US after the device disappeared or was wanted back; it must not
	 * close. That a vfio-user server lives on without its device is seen only when a register
	 * is read.
	 */
	int (*open)(const char *traddr, nvme_gone_fn gone, void *ctx,
		    struct nvme_transport **transport, struct errmsg *err);
	/*
	 * No queue is in use; memory that is still mapped is unmapped. gone is not called any more.
	 */
	void (*close)(struct nvme_transport *transport);
	/*
	 * Registers of BAR 0 below the doorbells; size 4 or 8, offset a multiple of it. Any thread.
	 * Registers that are not mapped (vfio_user) take a round trip: it waits in a coroutine
	 * [waits] and blocks elsewhere, for a few seconds at worst. A device that is gone reads as
	 * all ones (and ignores writes), and a read that finds it gone makes it so.
	 */
	uint64_t (*read)(struct nvme_transport *transport, uint32_t offset, uint32_t size);
	void (*write)(struct nvme_transport *transport, uint32_t offset, uint32_t size,
		      uint64_t value);
	/*
	 * Eventfds for MSI-X vectors 0 … count - 1, non-blocking, the transport's, valid until the
	 * next call or close; count 0: none. -ENOSPC: the device has fewer vectors. On failure
	 * there are none. Before the queues that use them are made, the admin queue too: QEMU's
	 * model (7.2) signals no vector that was off when its completion queue was made.
	 */
	int (*set_interrupts)(struct nvme_transport *transport, uint32_t count, int *fds);
	/*
	 * Whether vector, one of those, signals its eventfd. Any OS thread; may block. NULL: it is
	 * always on. 0 or a negative errno: it is as before.
	 */
	int (*switch_interrupt)(struct nvme_transport *transport, uint32_t vector, bool on);
	/*
	 * Whether the device may read and write memory; open() lets it. For one that does not stop
	 * in another way; false also for one that is gone: its registers may read as all ones
	 * because it hangs, while its DMA goes on. 0 or a negative errno; a vfio_user server that
	 * is not to use memory any more is gone.
	 */
	int (*set_bus_master)(struct nvme_transport *transport, bool on);
	/*
	 * Function-level reset; the registers are as after power-on, interrupts stay set, and
	 * bus mastering as it was.
	 * -EOPNOTSUPP: it has none.
	 */
	int (*reset)(struct nvme_transport *transport);
};

/* The beginning of each transport's own struct. */
struct nvme_transport {
	/* set once by open */
	const struct nvme_transport_ops *ops;
	struct dma_space *dma;
	/* BAR 0 from offset 0x1000 on: a doorbell is one 32-bit store there. Data path. */
	volatile uint32_t *doorbells;
	uint32_t doorbells_size; /* bytes that are mapped; queues beyond cannot be used */
	uint32_t vectors;        /* MSI-X vectors that there are */

	/* any thread: set once the device has disappeared, or broke the transport's rules */
	_Atomic bool gone;
	/* any thread: the kernel, or the server, waits for it to be closed; it still works */
	_Atomic bool wanted_back;
};

extern const struct nvme_transport_ops nvme_transport_pcie;
extern const struct nvme_transport_ops nvme_transport_vfio_user;

#endif
