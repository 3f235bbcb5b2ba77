/* SPDX-License-Identifier: BSD-3-Clause */
/* The vfio-user server: one client at a time. A message is answered before the next one is read. */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "device.h"

#define MAX_MESSAGE  65536u
#define MAX_FDS      MAX_VECTORS
#define MAX_TRANSFER 4096u /* of one REGION_READ or REGION_WRITE */
#define RECEIVE_S    2     /* a message that has begun has to end */
#define REGION_MSIX  4     /* BAR 4 */
#define ACCESS_MAX   (MAX_TRANSFER + sizeof(struct vfio_user_region_access))

struct message {
	struct vfio_user_header header;
	uint32_t size; /* of the payload */
	_Alignas(8) uint8_t payload[MAX_MESSAGE];
	int fds[MAX_FDS];
	uint32_t fd_count;
	/* the answer */
	uint32_t reply_size;
	uint8_t reply[ACCESS_MAX];
	int reply_fd; /* -1: none */
};

/* ---- listening ---- */

static int
listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 4) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

bool
server_listen(struct device *dev)
{
	if (dev->listener < 0)
		dev->listener = listen_at(dev->socket_path);
	return dev->listener >= 0;
}

bool
control_listen(struct device *dev)
{
	dev->control_listener = listen_at(dev->control_path);
	return dev->control_listener >= 0;
}

void
server_stop_listening(struct device *dev)
{
	if (dev->listener < 0)
		return;
	close(dev->listener);
	dev->listener = -1;
	unlink(dev->socket_path);
}

/* ---- coming and going ---- */

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
server_accept(struct device *dev)
{
	struct timeval timeout = {.tv_sec = RECEIVE_S};

	dev->client.socket = accept4(dev->listener, NULL, NULL, SOCK_CLOEXEC);
	if (dev->client.socket < 0)
		return;
	setsockopt(dev->client.socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(dev->client.socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	dev->client.negotiated = false;
	dev->statistics.connections++;
}

void
server_disconnect(struct device *dev)
{
	struct client *client = &dev->client;

	if (client->socket < 0)
		return;
	queues_check_doorbells(dev);
	if (dev->controller.csts != 0 && !dev->controller.shut_down)
		dev->statistics.unsafe_shutdowns++;
	controller_reset(dev, true);
	for (uint32_t i = 0; i < MAX_VECTORS; i++)
		close_fd(&client->vectors[i]);
	close_fd(&client->request);
	close_fd(&client->socket);
	dma_clear(&dev->dma);
}

/* ---- messages ---- */

static int
protocol_error(struct device *dev, int error, const char *what)
{
	violation(dev, V_PROTOCOL, "%s", what);
	return error;
}

/* The payload as a struct of at least size bytes, or NULL. */
static const void *
payload_of(const struct message *message, size_t size)
{
	return message->size >= size ? message->payload : NULL;
}

static void
reply_with(struct message *message, const void *data, size_t size)
{
	memcpy(message->reply + message->reply_size, data, size);
	message->reply_size += (uint32_t)size;
}

static int
handle_version(struct device *dev, struct message *message)
{
	const struct vfio_user_version *asked = payload_of(message, sizeof(*asked));
	struct vfio_user_version answer = {0};
	size_t length = message->size - sizeof(*asked);
	char json[256];

	if (asked == NULL || dev->client.negotiated)
		return protocol_error(dev, EINVAL, "VERSION: too short, or a second time");
	if (asked->major != 0)
		return ENOTSUP;
	if (length > 0) {
		json_t *data =
			asked->json[length - 1] == '\0' ? json_loads(asked->json, 0, NULL) : NULL;

		if (!json_is_object(data)) {
			json_decref(data);
			return protocol_error(dev, EINVAL, "VERSION: the data is no JSON object");
		}
		json_decref(data);
	}
	dev->client.negotiated = true;
	answer.minor = asked->minor < 1 ? asked->minor : 1;
	snprintf(json, sizeof(json),
		 "{\"capabilities\": {\"max_msg_fds\": %u, \"max_data_xfer_size\": %u, "
		 "\"max_dma_maps\": %u, \"pgsizes\": %u}}",
		 MAX_FDS, MAX_TRANSFER, MAX_MAPS, PAGE);
	reply_with(message, &answer, sizeof(answer));
	reply_with(message, json, strlen(json) + 1);
	return 0;
}

static int
handle_dma_map(struct device *dev, struct message *message)
{
	const struct vfio_user_dma_map *map = payload_of(message, sizeof(*map));
	int error;

	if (map == NULL || map->argsz < sizeof(*map) || message->fd_count > 1 ||
	    (map->flags & ~(VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE)) != 0)
		return protocol_error(dev, EINVAL, "DMA_MAP: not as it has to be");
	/* No DMA_READ and DMA_WRITE here. */
	if (message->fd_count == 0)
		return EOPNOTSUPP;
	error = dma_add(&dev->dma, map, message->fds[0]);
	if (error == EINVAL)
		return protocol_error(dev, error, "DMA_MAP: address, size or offset");
	if (error == EEXIST)
		return protocol_error(dev, error, "DMA_MAP: over another one");
	return error;
}

static int
handle_dma_unmap(struct device *dev, struct message *message)
{
	const struct vfio_user_dma_unmap *unmap = payload_of(message, sizeof(*unmap));

	if (unmap == NULL || unmap->argsz < sizeof(*unmap) || unmap->flags != 0)
		return protocol_error(dev, EINVAL, "DMA_UNMAP: not as it has to be");
	queues_check_unmap(dev, unmap->address, unmap->size);
	if (dma_remove(&dev->dma, unmap->address, unmap->size) != 0)
		return protocol_error(dev, ENOENT, "DMA_UNMAP: not a mapping");
	reply_with(message, unmap, sizeof(*unmap));
	return 0;
}

static int
handle_device_info(struct device *dev, struct message *message)
{
	const struct vfio_user_device_info *asked = payload_of(message, sizeof(*asked));
	struct vfio_user_device_info info = {
		.argsz = sizeof(info),
		.flags = VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI,
		.num_regions = VFIO_PCI_NUM_REGIONS,
		.num_irqs = VFIO_PCI_NUM_IRQS,
	};

	if (asked == NULL || asked->argsz < sizeof(*asked))
		return protocol_error(dev, EINVAL, "DEVICE_GET_INFO: too short");
	reply_with(message, &info, sizeof(info));
	return 0;
}

static uint32_t
region_size(uint32_t region)
{
	switch (region) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		return BAR0_SIZE;
	case REGION_MSIX:
		return PAGE;
	case VFIO_PCI_CONFIG_REGION_INDEX:
		return pci_config_size();
	default:
		return 0;
	}
}

static int
handle_region_info(struct device *dev, struct message *message)
{
	const struct vfio_region_info *asked = payload_of(message, sizeof(*asked));
	struct vfio_region_info info = {.argsz = sizeof(info)};
	struct {
		struct vfio_region_info_cap_sparse_mmap cap;
		struct vfio_region_sparse_mmap_area area;
	} sparse = {
		.cap = {.header = {.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1},
			.nr_areas = 1},
		.area = {.offset = NVME_DOORBELLS, .size = BAR0_SIZE - NVME_DOORBELLS},
	};

	if (asked == NULL || asked->argsz < sizeof(*asked) || asked->index >= VFIO_PCI_NUM_REGIONS)
		return protocol_error(dev, EINVAL, "DEVICE_GET_REGION_INFO: not as it has to be");
	info.index = asked->index;
	info.size = region_size(asked->index);
	info.flags = info.size != 0 ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
	if (asked->index != VFIO_PCI_BAR0_REGION_INDEX) {
		reply_with(message, &info, sizeof(info));
		return 0;
	}
	info.flags |= VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
	info.argsz += sizeof(sparse);
	if (asked->argsz < info.argsz) {
		reply_with(message, &info, sizeof(info));
		return 0;
	}
	info.cap_offset = sizeof(info);
	reply_with(message, &info, sizeof(info));
	reply_with(message, &sparse, sizeof(sparse));
	message->reply_fd = dev->bar0_fd;
	return 0;
}

static int
handle_irq_info(struct device *dev, struct message *message)
{
	const struct vfio_irq_info *asked = payload_of(message, sizeof(*asked));
	struct vfio_irq_info info = {.argsz = sizeof(info)};

	if (asked == NULL || asked->argsz < sizeof(*asked) || asked->index >= VFIO_PCI_NUM_IRQS)
		return protocol_error(dev, EINVAL, "DEVICE_GET_IRQ_INFO: not as it has to be");
	info.index = asked->index;
	if (asked->index == VFIO_PCI_MSIX_IRQ_INDEX)
		info.count = (uint32_t)dev->settings.vectors;
	if (asked->index == VFIO_PCI_REQ_IRQ_INDEX)
		info.count = 1;
	info.flags = info.count > 0 ? VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE : 0;
	reply_with(message, &info, sizeof(info));
	return 0;
}

static void
set_eventfds(int *eventfds, uint32_t start, uint32_t count, struct message *message)
{
	for (uint32_t i = 0; i < count; i++) {
		close_fd(&eventfds[start + i]);
		if (i >= message->fd_count)
			continue;
		eventfds[start + i] = message->fds[i];
		message->fds[i] = -1;
	}
}

static int
handle_set_irqs(struct device *dev, struct message *message)
{
	const struct vfio_irq_set *set = payload_of(message, sizeof(*set));
	bool msix = set != NULL && set->index == VFIO_PCI_MSIX_IRQ_INDEX;
	uint32_t available = msix ? (uint32_t)dev->settings.vectors : 1;
	int *eventfds = msix ? dev->client.vectors : &dev->client.request;

	if (set == NULL || (!msix && set->index != VFIO_PCI_REQ_IRQ_INDEX) ||
	    set->start > available || set->count > available - set->start ||
	    (set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) != VFIO_IRQ_SET_ACTION_TRIGGER)
		return protocol_error(dev, EINVAL, "DEVICE_SET_IRQS: not as it has to be");
	switch (set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
	case VFIO_IRQ_SET_DATA_EVENTFD:
		if (message->fd_count != set->count && message->fd_count != 0)
			return protocol_error(dev, EINVAL, "DEVICE_SET_IRQS: eventfds");
		set_eventfds(eventfds, set->start, set->count, message);
		return 0;
	case VFIO_IRQ_SET_DATA_NONE:
		if (set->count == 0)
			set_eventfds(eventfds, 0, available, message);
		for (uint32_t i = 0; i < set->count && msix; i++)
			interrupt(dev, (uint16_t)(set->start + i));
		return 0;
	default:
		return protocol_error(dev, EINVAL, "DEVICE_SET_IRQS: flags");
	}
}

/* ---- regions ---- */

static void
access_bar0(struct device *dev, const struct vfio_user_region_access *access, uint8_t *data,
	    bool write)
{
	uint64_t value = 0;

	if (access->offset >= NVME_DOORBELLS) {
		uint8_t *at = dev->bar0 + access->offset;

		memcpy(write ? at : data, write ? data : at, access->count);
		return;
	}
	if (write) {
		memcpy(&value, data, access->count < 8 ? access->count : 8);
		controller_write(dev, (uint32_t)access->offset, access->count, value);
		return;
	}
	value = controller_read(dev, (uint32_t)access->offset, access->count);
	memcpy(data, &value, access->count < 8 ? access->count : 8);
}

static void
access_region(struct device *dev, const struct vfio_user_region_access *access, uint8_t *data,
	      bool write)
{
	if (dev->removed) {
		if (!write)
			memset(data, 0xff, access->count);
		return;
	}
	switch (access->region) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		access_bar0(dev, access, data, write);
		return;
	case REGION_MSIX:
		memcpy(write ? dev->msix_table + access->offset : data,
		       write ? data : dev->msix_table + access->offset, access->count);
		return;
	default:
		if (write)
			pci_config_write(dev, (uint32_t)access->offset, access->count, data);
		else
			pci_config_read(dev, (uint32_t)access->offset, access->count, data);
	}
}

static int
handle_region_access(struct device *dev, struct message *message)
{
	const struct vfio_user_region_access *asked = payload_of(message, sizeof(*asked));
	struct vfio_user_region_access answer;
	bool write = message->header.command == VFIO_USER_REGION_WRITE;
	uint8_t data[MAX_TRANSFER] = {0};
	uint32_t size = asked != NULL ? region_size(asked->region) : 0;

	if (asked == NULL || asked->count > MAX_TRANSFER || asked->count == 0 ||
	    asked->offset > size || asked->count > size - asked->offset ||
	    (write && message->size - sizeof(*asked) < asked->count))
		return protocol_error(dev, EINVAL, "REGION_READ or REGION_WRITE: a wrong range");
	answer = *asked;
	if (write)
		memcpy(data, asked->data, asked->count);
	access_region(dev, asked, data, write);
	answer.count = write ? 0 : asked->count;
	reply_with(message, &answer, sizeof(answer));
	reply_with(message, data, answer.count);
	return 0;
}

static int
handle_reset(struct device *dev, struct message *message)
{
	(void)message;
	if (dev->removed)
		return ENODEV;
	dev->statistics.resets++;
	controller_reset(dev, true);
	return 0;
}

static int (*const handlers[])(struct device *, struct message *) = {
	[VFIO_USER_VERSION] = handle_version,
	[VFIO_USER_DMA_MAP] = handle_dma_map,
	[VFIO_USER_DMA_UNMAP] = handle_dma_unmap,
	[VFIO_USER_DEVICE_GET_INFO] = handle_device_info,
	[VFIO_USER_DEVICE_GET_REGION_INFO] = handle_region_info,
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = handle_irq_info,
	[VFIO_USER_DEVICE_SET_IRQS] = handle_set_irqs,
	[VFIO_USER_REGION_READ] = handle_region_access,
	[VFIO_USER_REGION_WRITE] = handle_region_access,
	[VFIO_USER_DEVICE_RESET] = handle_reset,
};

/* ---- sending and receiving ---- */

static bool
send_reply(struct device *dev, struct message *message, int error)
{
	struct vfio_user_header header = {
		.id = message->header.id,
		.command = message->header.command,
		.size = (uint32_t)sizeof(header) + (error == 0 ? message->reply_size : 0),
		.flags = VFIO_USER_REPLY | (error != 0 ? VFIO_USER_ERROR : 0),
		.error = (uint32_t)error,
	};
	struct iovec parts[2] = {{&header, sizeof(header)},
				 {message->reply, error == 0 ? message->reply_size : 0}};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} ancillary = {0};
	struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};

	if (error == 0 && message->reply_fd >= 0) {
		msg.msg_control = ancillary.room;
		msg.msg_controllen = sizeof(ancillary.room);
		ancillary.header.cmsg_level = SOL_SOCKET;
		ancillary.header.cmsg_type = SCM_RIGHTS;
		ancillary.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&ancillary.header), &message->reply_fd, sizeof(int));
	}
	return sendmsg(dev->client.socket, &msg, MSG_NOSIGNAL) == (ssize_t)header.size;
}

static void
take_fds(struct message *message, struct msghdr *msg)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(msg); part != NULL;
	     part = CMSG_NXTHDR(msg, part)) {
		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		message->fd_count = (uint32_t)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(message->fds, CMSG_DATA(part), message->fd_count * sizeof(int));
	}
}

/* Header and payload, with all fds. */
static bool
receive(struct device *dev, struct message *message)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} ancillary;
	struct iovec part = {&message->header, sizeof(message->header)};
	struct msghdr msg = {.msg_iov = &part,
			     .msg_iovlen = 1,
			     .msg_control = ancillary.room,
			     .msg_controllen = sizeof(ancillary.room)};
	int fd = dev->client.socket;
	ssize_t length = recvmsg(fd, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC);

	if (length <= 0)
		return false;
	take_fds(message, &msg);
	if (length != sizeof(message->header) || message->header.size < sizeof(message->header) ||
	    message->header.size - sizeof(message->header) > MAX_MESSAGE ||
	    (message->header.flags & ~VFIO_USER_NO_REPLY) != 0) {
		protocol_error(dev, 0, "a header that is none");
		return false;
	}
	message->size = message->header.size - (uint32_t)sizeof(message->header);
	return message->size == 0 ||
	       recv(fd, message->payload, message->size, MSG_WAITALL) == (ssize_t)message->size;
}

static bool
answer(struct device *dev, struct message *message)
{
	uint32_t command = message->header.command;
	bool known = command < sizeof(handlers) / sizeof(*handlers) && handlers[command] != NULL;
	int error = ENOSYS;

	if (!dev->client.negotiated && command != VFIO_USER_VERSION) {
		protocol_error(dev, 0, "a message before VERSION");
		return false;
	}
	if (known)
		error = handlers[command](dev, message);
	if ((message->header.flags & VFIO_USER_NO_REPLY) == 0 && !send_reply(dev, message, error))
		return false;
	return command != VFIO_USER_VERSION || error == 0;
}

void
server_receive(struct device *dev)
{
	static struct message message;
	bool stays;

	message.fd_count = 0;
	message.reply_size = 0;
	message.reply_fd = -1;
	stays = receive(dev, &message) && answer(dev, &message);
	for (uint32_t i = 0; i < message.fd_count; i++)
		close_fd(&message.fds[i]);
	if (!stays)
		server_disconnect(dev);
}
