/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transport to a controller of this machine, through VFIO. Registers and doorbells are mapped:
 * nothing here blocks but opening.
 */
#include <errno.h>
#include <linux/vfio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "transport.h"
#include "vfio.h"

struct pcie_transport {
	struct nvme_transport transport;

	/* set once */
	struct vfio_device *device;
	volatile uint32_t *registers;

	/* app thread */
	struct transport_watch watch;
	struct transport_eventfds interrupts;
};

static struct pcie_transport *
of(struct nvme_transport *transport)
{
	return (struct pcie_transport *)transport;
}

/* ---- registers ---- */

static void
lose(struct nvme_transport *transport, const char *reason)
{
	if (!atomic_exchange(&transport->gone, true))
		log_warn("nvme PCIe: the device is gone: %s", reason);
}

/* A register may be all ones by right; two are not. */
static uint32_t
read_32(struct pcie_transport *self, uint32_t offset)
{
	uint32_t value = self->registers[offset / 4];

	if (value == UINT32_MAX && self->registers[NVME_REGISTER_VS / 4] == UINT32_MAX)
		lose(&self->transport, "its registers read as all ones");
	return value;
}

static uint64_t
transport_read(struct nvme_transport *transport, uint32_t offset, uint32_t size)
{
	struct pcie_transport *self = of(transport);
	uint64_t value = UINT32_MAX, high = UINT32_MAX;

	/* In halves, the lower first: not each controller takes 64 bits at once. */
	if (!atomic_load(&transport->gone)) {
		value = read_32(self, offset);
		high = size == 8 ? read_32(self, offset + 4) : 0;
	}
	return size == 8 ? high << 32 | value : value;
}

static void
transport_write(struct nvme_transport *transport, uint32_t offset, uint32_t size, uint64_t value)
{
	struct pcie_transport *self = of(transport);

	if (atomic_load(&transport->gone))
		return;
	self->registers[offset / 4] = (uint32_t)value;
	if (size == 8)
		self->registers[offset / 4 + 1] = (uint32_t)(value >> 32);
}

/* ---- opening ---- */

static int
map_registers(struct pcie_transport *self)
{
	uint64_t length = 0, doorbells_length = 0;
	void *registers = NULL, *doorbells = NULL;
	int rc = vfio_map(self->device, VFIO_PCI_BAR0_REGION_INDEX, 0, &registers, &length);

	if (rc == 0 && length < NVME_REGISTERS_SIZE)
		rc = -EOPNOTSUPP;
	if (rc == 0)
		rc = vfio_map(self->device, VFIO_PCI_BAR0_REGION_INDEX, NVME_REGISTERS_SIZE,
			      &doorbells, &doorbells_length);
	if (rc != 0)
		return rc;
	self->registers = registers;
	self->transport.doorbells = doorbells;
	self->transport.doorbells_size =
		doorbells_length < UINT32_MAX ? (uint32_t)doorbells_length : UINT32_MAX & ~3u;
	return 0;
}

struct opening {
	const char *traddr;
	struct pcie_transport *self;
	struct errmsg *err;
};

/* May block. */
static int
open_device(void *arg)
{
	struct opening *opening = arg;
	struct pcie_transport *self = opening->self;
	int rc = vfio_open(opening->traddr, NVME_PCI_CLASS, &self->device, opening->err);

	if (rc != 0)
		return rc;
	self->transport.dma = vfio_dma_space(self->device);
	self->transport.vectors = vfio_msix_count(self->device);
	rc = map_registers(self);
	if (rc != 0)
		return err_set(opening->err, rc, "%s: cannot map its registers: %s",
			       opening->traddr, strerror(-rc));
	if (read_32(self, NVME_REGISTER_VS) == UINT32_MAX)
		return err_set(opening->err, -ENODEV,
			       "%s: does not answer: its registers read as "
			       "all ones",
			       opening->traddr);
	return 0;
}

static void
look(struct nvme_transport *transport)
{
	struct pcie_transport *self = of(transport);

	if (vfio_is_wanted_back(self->device))
		atomic_store(&transport->wanted_back, true);
	else
		read_32(self, NVME_REGISTER_VS);
}

static int
release(void *arg)
{
	vfio_close(arg);
	return 0;
}

static void
transport_close(struct nvme_transport *transport)
{
	struct pcie_transport *self = of(transport);

	transport_watch_stop(&self->watch);
	transport_blocking(release, self->device);
	transport_eventfds_close(&self->interrupts);
	free(self);
}

static int
transport_open(const char *traddr, nvme_gone_fn gone, void *ctx, struct nvme_transport **transport,
	       struct errmsg *err)
{
	struct pcie_transport *self = calloc(1, sizeof(*self));
	struct opening opening = {traddr, self, err};
	int rc;

	if (self == NULL)
		return err_set(err, -ENOMEM, "%s: %s", traddr, strerror(ENOMEM));
	self->transport.ops = &nvme_transport_pcie;
	self->watch = (struct transport_watch){
		.transport = &self->transport, .look = look, .gone = gone, .ctx = ctx};
	rc = transport_blocking(open_device, &opening);
	if (rc == 0) {
		rc = transport_watch_start(&self->watch);
		if (rc != 0)
			err_set(err, rc, "%s: %s", traddr, strerror(-rc));
	}
	if (rc != 0)
		transport_close(&self->transport);
	else
		*transport = &self->transport;
	return rc;
}

/* ---- interrupts and reset ---- */

static int
apply_interrupts(void *arg)
{
	struct pcie_transport *self = arg;

	return vfio_set_msix(self->device, self->interrupts.fds, self->interrupts.count);
}

static int
transport_set_interrupts(struct nvme_transport *transport, uint32_t count, int *fds)
{
	struct pcie_transport *self = of(transport);
	struct transport_eventfds previous = self->interrupts;
	int rc;

	if (atomic_load(&transport->gone))
		return -ENODEV;
	if (count > transport->vectors)
		return -ENOSPC;
	rc = transport_eventfds_create(&self->interrupts, count);
	if (rc == 0)
		rc = transport_blocking(apply_interrupts, self);
	/* The kernel holds what it still uses. */
	transport_eventfds_close(&previous);
	if (rc != 0)
		transport_eventfds_close(&self->interrupts);
	else if (count > 0)
		memcpy(fds, self->interrupts.fds, count * sizeof(fds[0]));
	return rc;
}

static int
transport_switch_interrupt(struct nvme_transport *transport, uint32_t vector, bool on)
{
	struct pcie_transport *self = of(transport);

	return vfio_switch_msix(self->device, vector, on ? self->interrupts.fds[vector] : -1);
}

static int
set_bus_master(void *device)
{
	return vfio_set_bus_master(device, true);
}

static int
clear_bus_master(void *device)
{
	return vfio_set_bus_master(device, false);
}

static int
transport_set_bus_master(struct nvme_transport *transport, bool on)
{
	/*
	 * One whose registers read as all ones may be out of its slot, or out of its mind: a root
	 * port answers for a device that does not, while that goes on with DMA.
	 */
	if (on && atomic_load(&transport->gone))
		return -ENODEV;
	return transport_blocking(on ? set_bus_master : clear_bus_master, of(transport)->device);
}

static int
reset_device(void *arg)
{
	return vfio_reset(arg);
}

static int
transport_reset(struct nvme_transport *transport)
{
	if (atomic_load(&transport->gone))
		return -ENODEV;
	return transport_blocking(reset_device, of(transport)->device);
}

const struct nvme_transport_ops nvme_transport_pcie = {
	.name = "PCIe",
	.open = transport_open,
	.close = transport_close,
	.read = transport_read,
	.write = transport_write,
	.set_interrupts = transport_set_interrupts,
	.switch_interrupt = transport_switch_interrupt,
	.set_bus_master = transport_set_bus_master,
	.reset = transport_reset,
};
