/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transport to a controller in another process, over vfio-user: registers by messages,
 * doorbells in memory that both share, our memory by file descriptors. What the server says is
 * checked, and it is gone when it lies.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mapping.h"
#include "transport.h"
#include "vfio_user.h"

#define PAGE            4096u
#define SOCKET_NAME     "cntrl" /* in a folder */
#define ADDRESS_BITS    47      /* of IOVAs: a server has no IOMMU to ask */
#define DOORBELLS_MAX   (1u << 30)
#define REGION_INFO_MAX 4096u
#define VECTORS_MAX     2048u /* MSI-X has no more */

struct vfio_user_transport {
	struct nvme_transport transport;

	/* set once */
	struct vfio_user *connection;
	struct mapping doorbells;
	bool has_reset;
	uint32_t irqs;   /* kinds of interrupts */
	int wanted_back; /* eventfd; -1: the server cannot ask */

	/* app thread */
	struct transport_watch watch;
	struct transport_eventfds interrupts;

	/* any thread: the server has shortened the doorbells' file */
	atomic_bool doorbells_lost;
};

static struct vfio_user_transport *
of(struct nvme_transport *transport)
{
	return (struct vfio_user_transport *)transport;
}

/* A request whose reply is a structure of reply_size bytes. */
static int
request(struct vfio_user *connection, uint16_t command, const void *payload, uint32_t size,
	void *reply, uint32_t reply_size)
{
	struct vfio_user_call call = {.command = command,
				      .request = payload,
				      .request_size = size,
				      .reply = reply,
				      .reply_max = reply_size};
	int rc = vfio_user_call(connection, &call);

	if (rc != 0)
		return rc;
	return call.reply_size == reply_size ? 0 : -EPROTO;
}

/* ---- regions by messages ---- */

struct access {
	struct vfio_user *connection;
	uint32_t region, offset, size;
	uint64_t value;
};

static int
region_read(void *arg)
{
	struct access *access = arg;
	struct vfio_user_region_access wanted = {access->offset, access->region, access->size};
	char reply[sizeof(wanted) + sizeof(access->value)];
	int rc;

	access->value = 0;
	rc = request(access->connection, VFIO_USER_REGION_READ, &wanted, sizeof(wanted), reply,
		     (uint32_t)sizeof(wanted) + access->size);
	if (rc == 0 && memcmp(reply, &wanted, sizeof(wanted)) != 0)
		rc = -EPROTO;
	if (rc == 0)
		memcpy(&access->value, reply + sizeof(wanted), access->size);
	return rc;
}

static int
region_write(void *arg)
{
	struct access *access = arg;
	struct vfio_user_region_access wanted = {access->offset, access->region, access->size};
	char message[sizeof(wanted) + sizeof(access->value)];
	struct vfio_user_region_access reply;
	struct vfio_user_call call = {.command = VFIO_USER_REGION_WRITE,
				      .request = message,
				      .request_size = (uint32_t)sizeof(wanted) + access->size,
				      .reply = &reply,
				      .reply_max = sizeof(reply)};

	memcpy(message, &wanted, sizeof(wanted));
	memcpy(message + sizeof(wanted), &access->value, access->size);
	return vfio_user_call(access->connection, &call);
}

/* A server that does not answer as it must is of no use. */
static void
lose(struct vfio_user_transport *self, const char *reason)
{
	vfio_user_give_up(self->connection, reason);
	atomic_store(&self->transport.gone, true);
}

/* 0 or a negative errno, and then the device is gone. */
static int
read_register(struct vfio_user_transport *self, uint32_t offset, uint32_t size, uint64_t *value)
{
	struct access access = {self->connection, VFIO_PCI_BAR0_REGION_INDEX, offset, size, 0};
	int rc = transport_blocking(region_read, &access);

	if (rc != 0)
		lose(self, "it does not let its registers be read");
	*value = access.value;
	return rc;
}

static uint64_t
transport_read(struct nvme_transport *transport, uint32_t offset, uint32_t size)
{
	struct vfio_user_transport *self = of(transport);
	const uint64_t all_ones = size == 8 ? UINT64_MAX : UINT32_MAX;
	uint64_t value, version;

	if (atomic_load(&transport->gone) || read_register(self, offset, size, &value) != 0)
		return all_ones;
	/* As behind a PCIe slot: a device that was taken away, while its server lives on. */
	if (value == all_ones &&
	    read_register(self, NVME_REGISTER_VS, sizeof(uint32_t), &version) == 0 &&
	    version == UINT32_MAX)
		lose(self, "its registers read as all ones");
	return value;
}

static void
transport_write(struct nvme_transport *transport, uint32_t offset, uint32_t size, uint64_t value)
{
	struct vfio_user_transport *self = of(transport);
	struct access access = {self->connection, VFIO_PCI_BAR0_REGION_INDEX, offset, size, value};
	int rc;

	if (atomic_load(&transport->gone))
		return;
	rc = transport_blocking(region_write, &access);
	if (rc != 0)
		lose(self, "it does not let its registers be written");
}

/* ---- memory ---- */

static int
dma_map_file(void *ctx, void *addr, uint64_t length, uint64_t iova, int fd, uint64_t fd_offset)
{
	struct vfio_user_transport *self = ctx;
	struct vfio_user_dma_map map = {.argsz = sizeof(map),
					.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
					.offset = fd_offset,
					.address = iova,
					.size = length};
	struct vfio_user_call call = {.command = VFIO_USER_DMA_MAP,
				      .request = &map,
				      .request_size = sizeof(map),
				      .fds = &fd,
				      .fd_count = 1};

	(void)addr;
	return vfio_user_call(self->connection, &call);
}

static void
dma_unmap_file(void *ctx, uint64_t iova, uint64_t length)
{
	struct vfio_user_transport *self = ctx;
	struct vfio_user_dma_unmap unmap = {
		.argsz = sizeof(unmap), .address = iova, .size = length};
	struct vfio_user_dma_unmap reply;
	int rc;

	/* A connection that has ended has no mappings. */
	if (atomic_load(&self->transport.gone))
		return;
	rc = request(self->connection, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), &reply,
		     sizeof(reply));
	/* It may still write there. */
	if (rc != 0)
		lose(self, "it does not let go of memory");
}

static const struct dma_space_ops space_ops = {
	.map = dma_map_file, .unmap = dma_unmap_file, .needs_fd = true};

/* ---- interrupts ---- */

/* count 0: switches all off. */
static int
set_irqs(struct vfio_user *connection, uint32_t index, uint32_t start, uint32_t count,
	 const int *fds)
{
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.flags = VFIO_IRQ_SET_ACTION_TRIGGER |
			 (count > 0 ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
		.index = index,
		.start = start,
		.count = count};
	struct vfio_user_call call = {.command = VFIO_USER_DEVICE_SET_IRQS,
				      .request = &set,
				      .request_size = sizeof(set),
				      .fds = fds,
				      .fd_count = count};

	return vfio_user_call(connection, &call);
}

/* How many interrupts there are that signal eventfds. */
static int
count_irqs(struct vfio_user_transport *self, uint32_t index, uint32_t max, uint32_t *count)
{
	struct vfio_irq_info info = {.argsz = sizeof(info), .index = index};
	int rc = request(self->connection, VFIO_USER_DEVICE_GET_IRQ_INFO, &info, sizeof(info),
			 &info, sizeof(info));

	if (rc != 0)
		return rc;
	if (info.index != index || info.count > max)
		return -EPROTO;
	*count = (info.flags & VFIO_IRQ_INFO_EVENTFD) != 0 ? info.count : 0;
	return 0;
}

/* Hears when the server wants to take the device away. It need not be able to say so. */
static int
listen_for_request(struct vfio_user_transport *self)
{
	uint32_t count;
	int rc = count_irqs(self, VFIO_PCI_REQ_IRQ_INDEX, 1, &count);

	if (rc != 0 || count == 0)
		return rc;
	self->wanted_back = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (self->wanted_back < 0)
		return -errno;
	return set_irqs(self->connection, VFIO_PCI_REQ_IRQ_INDEX, 0, 1, &self->wanted_back);
}

/* ---- opening ---- */

struct opening {
	const char *traddr;
	struct vfio_user_transport *self;
	struct errmsg *err;
};

/* The socket of traddr. 0 or a negative errno. */
static int
find_socket(const char *traddr, char *path, size_t size)
{
	struct stat st;
	int length;

	if (stat(traddr, &st) != 0)
		return errno == ENOENT || errno == ENOTDIR ? -ENODEV : -errno;
	length = snprintf(path, size, "%s%s", traddr, S_ISDIR(st.st_mode) ? "/" SOCKET_NAME : "");
	return length < (int)size ? 0 : -ENAMETOOLONG;
}

static int
check_device(struct vfio_user_transport *self)
{
	struct vfio_user_device_info info = {.argsz = sizeof(info)};
	struct access class = {self->connection, VFIO_PCI_CONFIG_REGION_INDEX, PCI_CLASS_REVISION,
			       4, 0};
	int rc = request(self->connection, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), &info,
			 sizeof(info));

	if (rc != 0)
		return rc;
	if ((info.flags & VFIO_DEVICE_FLAGS_PCI) == 0 ||
	    info.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX)
		return -EINVAL;
	self->has_reset = (info.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
	self->irqs = info.num_irqs;
	rc = region_read(&class);
	if (rc == 0 && class.value >> 8 != NVME_PCI_CLASS)
		rc = -EINVAL;
	return rc;
}

static int
enable_bus_master(struct vfio_user_transport *self)
{
	struct access command = {self->connection, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, 2, 0};
	int rc = region_read(&command);

	command.value |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	return rc == 0 ? region_write(&command) : rc;
}

/* A reply with region info: the structure, its capabilities, and fds. */
struct region {
	struct vfio_region_info info;
	struct vfio_user_call call;
	_Alignas(8) char reply[REGION_INFO_MAX];
};

/* The capability of that id and at least that size; NULL: there is none. */
static const void *
find_capability(const struct region *region, uint16_t id, uint32_t size)
{
	uint32_t offset = region->info.cap_offset, previous = 0;

	if ((region->info.flags & VFIO_REGION_INFO_FLAG_CAPS) == 0)
		return NULL;
	/* Each further on than the one before, so that the list ends. */
	while (offset > previous && offset % 8 == 0 && offset >= sizeof(region->info) &&
	       offset <= region->call.reply_size - sizeof(struct vfio_info_cap_header)) {
		const struct vfio_info_cap_header *header = (const void *)(region->reply + offset);

		if (header->id == id)
			return size <= region->call.reply_size - offset ? header : NULL;
		previous = offset;
		offset = header->next;
	}
	return NULL;
}

/*
 * The part of the region, and of the fds, that can be mapped and has the first doorbell. 0,
 * -EPROTO, -EOPNOTSUPP (there is none).
 */
static int
find_doorbells(const struct region *region, struct vfio_region_sparse_mmap_area *area,
	       uint32_t *fd_index)
{
	const struct vfio_region_info_cap_sparse_mmap *sparse = find_capability(
		region, VFIO_REGION_INFO_CAP_SPARSE_MMAP, (uint32_t)sizeof(*sparse));
	uint32_t room;

	*fd_index = 0;
	if ((region->info.flags & VFIO_REGION_INFO_FLAG_MMAP) == 0 ||
	    region->call.reply_fd_count == 0)
		return -EOPNOTSUPP;
	*area = (struct vfio_region_sparse_mmap_area){0, region->info.size};
	if (sparse == NULL)
		return 0;
	room = region->call.reply_size - (uint32_t)((const char *)sparse->areas - region->reply);
	if (sparse->nr_areas > room / sizeof(sparse->areas[0]))
		return -EPROTO;
	for (uint32_t i = 0; i < sparse->nr_areas; i++) {
		*area = sparse->areas[i];
		if (area->offset > NVME_REGISTERS_SIZE ||
		    area->size <= NVME_REGISTERS_SIZE - area->offset)
			continue;
		/* One fd for all areas, or one for each. */
		*fd_index = region->call.reply_fd_count > 1 ? i : 0;
		return area->offset <= region->info.size &&
				       area->size <= region->info.size - area->offset &&
				       *fd_index < region->call.reply_fd_count
			       ? 0
			       : -EPROTO;
	}
	return -EOPNOTSUPP;
}

static int
map_doorbells(struct vfio_user_transport *self, const struct region *region)
{
	struct vfio_region_sparse_mmap_area area;
	uint64_t skip, size, offset;
	uint32_t fd_index;
	int rc;

	/* At least those of the admin queue and one I/O queue, in one page. */
	if (region->info.index != VFIO_PCI_BAR0_REGION_INDEX ||
	    region->info.size < NVME_REGISTERS_SIZE + PAGE)
		return -EPROTO;
	rc = find_doorbells(region, &area, &fd_index);
	if (rc != 0)
		return rc;
	skip = NVME_REGISTERS_SIZE - area.offset;
	size = area.size - skip;
	if (__builtin_add_overflow(region->info.offset, (uint64_t)NVME_REGISTERS_SIZE, &offset) ||
	    offset % PAGE != 0 || size < PAGE)
		return -EPROTO;
	if (size > DOORBELLS_MAX)
		size = DOORBELLS_MAX;
	rc = mapping_create(&self->doorbells, region->call.reply_fds[fd_index], offset, size,
			    &self->doorbells_lost);
	if (rc != 0)
		return rc;
	self->transport.doorbells = (volatile uint32_t *)(void *)self->doorbells.data;
	self->transport.doorbells_size = (uint32_t)size;
	return 0;
}

static int
open_registers(struct vfio_user_transport *self)
{
	struct vfio_region_info wanted = {.argsz = REGION_INFO_MAX,
					  .index = VFIO_PCI_BAR0_REGION_INDEX};
	struct region *region = calloc(1, sizeof(*region));
	int rc;

	if (region == NULL)
		return -ENOMEM;
	region->call = (struct vfio_user_call){.command = VFIO_USER_DEVICE_GET_REGION_INFO,
					       .request = &wanted,
					       .request_size = sizeof(wanted),
					       .reply = region->reply,
					       .reply_max = sizeof(region->reply),
					       .wants_fds = true};
	rc = vfio_user_call(self->connection, &region->call);
	if (rc == 0) {
		memcpy(&region->info, region->reply, sizeof(region->info));
		rc = region->call.reply_size >= sizeof(region->info) ? map_doorbells(self, region)
								     : -EPROTO;
		for (uint32_t i = 0; i < region->call.reply_fd_count; i++)
			close(region->call.reply_fds[i]);
	}
	free(region);
	return rc;
}

static int
explain(const char *traddr, int rc, struct errmsg *err)
{
	switch (rc) {
	case -EPROTO:
	case -ERANGE:
		return err_set(err, -EPROTO, "%s: the server contradicts the vfio-user protocol",
			       traddr);
	case -ENODEV:
		return err_set(err, rc, "%s: the server went away", traddr);
	case -EINVAL:
		return err_set(err, rc, "%s: is not an NVMe controller", traddr);
	case -EOPNOTSUPP:
		return err_set(err, rc, "%s: the server does not share its doorbells", traddr);
	default:
		return err_set(err, rc, "%s: %s", traddr, strerror(-rc));
	}
}

/* May block. */
static int
open_device(void *arg)
{
	const struct dma_range range = {0, (1ull << ADDRESS_BITS) - 1};
	struct opening *opening = arg;
	struct vfio_user_transport *self = opening->self;
	char path[4096];
	int rc = find_socket(opening->traddr, path, sizeof(path));

	if (rc == -ENODEV)
		return err_set(opening->err, rc, "%s: there is no such socket or folder",
			       opening->traddr);
	if (rc != 0)
		return explain(opening->traddr, rc, opening->err);
	rc = vfio_user_connect(path, &self->connection, opening->err);
	if (rc != 0)
		return rc;
	rc = check_device(self);
	if (rc == 0)
		rc = open_registers(self);
	if (rc == 0)
		rc = count_irqs(self, VFIO_PCI_MSIX_IRQ_INDEX, VECTORS_MAX,
				&self->transport.vectors);
	if (rc == 0 && self->irqs > VFIO_PCI_REQ_IRQ_INDEX)
		rc = listen_for_request(self);
	if (rc == 0)
		rc = dma_space_create(&space_ops, self, &range, 1, &self->transport.dma);
	if (rc == 0)
		rc = enable_bus_master(self);
	return rc == 0 ? 0 : explain(opening->traddr, rc, opening->err);
}

/* What nobody else notices. */
static void
look(struct nvme_transport *transport)
{
	struct vfio_user_transport *self = of(transport);

	eventfd_t count;

	if (self->wanted_back >= 0 && eventfd_read(self->wanted_back, &count) == 0)
		atomic_store(&transport->wanted_back, true);
	else if (atomic_load(&self->doorbells_lost))
		lose(self, "it cut its doorbells off");
	else if (vfio_user_is_gone(self->connection))
		atomic_store(&transport->gone, true);
}

static int
release(void *arg)
{
	struct vfio_user_transport *self = arg;

	/* The server lets go of everything when we hang up: no message for each mapping. */
	atomic_store(&self->transport.gone, true);
	dma_space_destroy(self->transport.dma);
	mapping_destroy(&self->doorbells);
	vfio_user_close(self->connection);
	if (self->wanted_back >= 0)
		close(self->wanted_back);
	return 0;
}

static void
transport_close(struct nvme_transport *transport)
{
	struct vfio_user_transport *self = of(transport);

	transport_watch_stop(&self->watch);
	transport_blocking(release, self);
	transport_eventfds_close(&self->interrupts);
	free(self);
}

static int
transport_open(const char *traddr, nvme_gone_fn gone, void *ctx, struct nvme_transport **transport,
	       struct errmsg *err)
{
	struct vfio_user_transport *self = calloc(1, sizeof(*self));
	struct opening opening = {traddr, self, err};
	int rc = self != NULL ? mapping_guard_install() : -ENOMEM;

	if (rc != 0) {
		free(self);
		return explain(traddr, rc, err);
	}
	self->transport.ops = &nvme_transport_vfio_user;
	self->wanted_back = -1;
	self->watch = (struct transport_watch){
		.transport = &self->transport, .look = look, .gone = gone, .ctx = ctx};
	rc = transport_blocking(open_device, &opening);
	if (rc == 0) {
		rc = transport_watch_start(&self->watch);
		if (rc != 0)
			explain(traddr, rc, err);
	}
	if (rc != 0)
		transport_close(&self->transport);
	else
		*transport = &self->transport;
	return rc;
}

/* ---- interrupts and reset, for the driver ---- */

/* May block. */
static int
apply_interrupts(void *arg)
{
	struct vfio_user_transport *self = arg;
	uint32_t max = vfio_user_max_fds(self->connection);
	int rc = set_irqs(self->connection, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, NULL);

	for (uint32_t i = 0; rc == 0 && i < self->interrupts.count; i += max) {
		uint32_t left = self->interrupts.count - i;

		rc = set_irqs(self->connection, VFIO_PCI_MSIX_IRQ_INDEX, i, left < max ? left : max,
			      &self->interrupts.fds[i]);
	}
	if (rc != 0)
		set_irqs(self->connection, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, NULL);
	return rc;
}

static int
transport_set_interrupts(struct nvme_transport *transport, uint32_t count, int *fds)
{
	struct vfio_user_transport *self = of(transport);
	struct transport_eventfds previous = self->interrupts;
	int rc;

	if (atomic_load(&transport->gone))
		return -ENODEV;
	if (count > transport->vectors)
		return -ENOSPC;
	rc = transport_eventfds_create(&self->interrupts, count);
	if (rc == 0)
		rc = transport_blocking(apply_interrupts, self);
	/* The server has let go of them, or is gone. */
	transport_eventfds_close(&previous);
	if (rc != 0)
		transport_eventfds_close(&self->interrupts);
	else if (count > 0)
		memcpy(fds, self->interrupts.fds, count * sizeof(fds[0]));
	return rc;
}

/* Without an eventfd the vector has none any more; servers that do not know that refuse. */
static int
transport_switch_interrupt(struct nvme_transport *transport, uint32_t vector, bool on)
{
	struct vfio_user_transport *self = of(transport);
	struct vfio_irq_set set = {.argsz = sizeof(set),
				   .flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD,
				   .index = VFIO_PCI_MSIX_IRQ_INDEX,
				   .start = vector,
				   .count = 1};
	struct vfio_user_call call = {.command = VFIO_USER_DEVICE_SET_IRQS,
				      .request = &set,
				      .request_size = sizeof(set),
				      .fds = &self->interrupts.fds[vector],
				      .fd_count = on};

	return atomic_load(&transport->gone) ? -ENODEV : vfio_user_call(self->connection, &call);
}

static int
transport_set_bus_master(struct nvme_transport *transport, bool on)
{
	/* Its word is all that we would have: it gets no memory when the connection ends. */
	if (!on)
		lose(of(transport), "it does not stop");
	return atomic_load(&transport->gone) ? -ENODEV : 0;
}

static int
reset_device(void *arg)
{
	struct vfio_user_call call = {.command = VFIO_USER_DEVICE_RESET};

	return vfio_user_call(arg, &call);
}

static int
transport_reset(struct nvme_transport *transport)
{
	struct vfio_user_transport *self = of(transport);

	if (atomic_load(&transport->gone))
		return -ENODEV;
	return self->has_reset ? transport_blocking(reset_device, self->connection) : -EOPNOTSUPP;
}

const struct nvme_transport_ops nvme_transport_vfio_user = {
	.name = "VFIOUSER",
	.open = transport_open,
	.close = transport_close,
	.read = transport_read,
	.write = transport_write,
	.set_interrupts = transport_set_interrupts,
	.switch_interrupt = transport_switch_interrupt,
	.set_bus_master = transport_set_bus_master,
	.reset = transport_reset,
};
