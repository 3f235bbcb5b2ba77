/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_client.h"
#include "waiting.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE        4096u
#define ADMIN_SIZE  32
#define CC_ENABLE   (6u << NVME_CC_IOSQES_SHIFT | 4u << NVME_CC_IOCQES_SHIFT | 1)
#define FATAL       (1u << NVME_CSTS_CFS_SHIFT)
#define INFO_ROOM   256
#define BOTH        (VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE)
#define STATUS_MASK 0x7fff

/* ---- vfio-user ---- */

static int
send_message(struct nvme_client *client, uint16_t command, const void *payload, size_t size,
	     const int *fds, size_t fd_count)
{
	struct vfio_user_header header = {.id = ++client->next_message,
					  .command = command,
					  .size = (uint32_t)(sizeof(header) + size)};
	struct iovec parts[2] = {{&header, sizeof(header)}, {(void *)payload, size}};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(NVME_CLIENT_FDS * sizeof(int))];
	} ancillary = {0};
	struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};

	if (fd_count > 0) {
		msg.msg_control = ancillary.room;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		ancillary.header.cmsg_level = SOL_SOCKET;
		ancillary.header.cmsg_type = SCM_RIGHTS;
		ancillary.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(&ancillary.header), fds, fd_count * sizeof(int));
	}
	return sendmsg(client->socket, &msg, MSG_NOSIGNAL) == (ssize_t)header.size ? 0 : -EPIPE;
}

static int
receive_reply(struct nvme_client *client, void *reply, size_t reply_size, int *reply_fd)
{
	static char payload[65536];
	struct vfio_user_header header;
	struct iovec part = {&header, sizeof(header)};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} ancillary;
	struct msghdr msg = {.msg_iov = &part,
			     .msg_iovlen = 1,
			     .msg_control = ancillary.room,
			     .msg_controllen = sizeof(ancillary.room)};
	const struct cmsghdr *fds;
	uint32_t size;

	if (recvmsg(client->socket, &msg, MSG_WAITALL) != sizeof(header))
		return -EPIPE;
	fds = CMSG_FIRSTHDR(&msg);
	if (reply_fd != NULL)
		*reply_fd = fds != NULL ? *(const int *)CMSG_DATA(fds) : -1;
	size = header.size - (uint32_t)sizeof(header);
	if (size > sizeof(payload) ||
	    (size > 0 && recv(client->socket, payload, size, MSG_WAITALL) != (ssize_t)size))
		return -EPIPE;
	if (reply != NULL) {
		memset(reply, 0, reply_size);
		memcpy(reply, payload, size < reply_size ? size : reply_size);
	}
	return (header.flags & VFIO_USER_ERROR) != 0 ? -(int)header.error : 0;
}

int
nvme_client_message(struct nvme_client *client, uint16_t command, const void *payload, size_t size,
		    const int *fds, size_t fd_count, void *reply, size_t reply_size, int *reply_fd)
{
	int rc = send_message(client, command, payload, size, fds, fd_count);

	return rc != 0 ? rc : receive_reply(client, reply, reply_size, reply_fd);
}

int
nvme_client_map(struct nvme_client *client, uint64_t iova, uint64_t size, int fd, uint64_t offset)
{
	struct vfio_user_dma_map map = {.argsz = sizeof(map),
					.flags = BOTH,
					.offset = offset,
					.address = iova,
					.size = size};

	return nvme_client_message(client, VFIO_USER_DMA_MAP, &map, sizeof(map), &fd, fd >= 0, NULL,
				   0, NULL);
}

int
nvme_client_unmap(struct nvme_client *client, uint64_t iova, uint64_t size)
{
	struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .address = iova, .size = size};

	return nvme_client_message(client, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0,
				   NULL, 0, NULL);
}

int
nvme_client_access(struct nvme_client *client, uint32_t region, uint64_t offset, void *data,
		   uint32_t size, bool write)
{
	struct {
		struct vfio_user_region_access access;
		uint8_t data[64];
	} message = {.access = {.offset = offset, .region = region, .count = size}}, reply;
	int rc;

	if (write)
		memcpy(message.data, data, size);
	rc = nvme_client_message(client, write ? VFIO_USER_REGION_WRITE : VFIO_USER_REGION_READ,
				 &message, sizeof(message.access) + (write ? size : 0), NULL, 0,
				 &reply, sizeof(reply), NULL);
	if (rc == 0 && !write)
		memcpy(data, reply.data, size);
	return rc;
}

uint64_t
nvme_client_read(struct nvme_client *client, uint32_t offset, uint32_t size)
{
	uint64_t value = 0;

	if (nvme_client_access(client, VFIO_PCI_BAR0_REGION_INDEX, offset, &value, size, false) !=
	    0)
		return UINT64_MAX;
	return value;
}

int
nvme_client_write(struct nvme_client *client, uint32_t offset, uint32_t size, uint64_t value)
{
	return nvme_client_access(client, VFIO_PCI_BAR0_REGION_INDEX, offset, &value, size, true);
}

int
nvme_client_set_interrupt(struct nvme_client *client, uint32_t vector, int eventfd)
{
	struct vfio_irq_set set = {.argsz = sizeof(set),
				   .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
				   .index = VFIO_PCI_MSIX_IRQ_INDEX,
				   .start = vector,
				   .count = 1};

	return nvme_client_message(client, VFIO_USER_DEVICE_SET_IRQS, &set, sizeof(set), &eventfd,
				   eventfd >= 0, NULL, 0, NULL);
}

/* ---- connecting ---- */

static int
agree_on_version(struct nvme_client *client)
{
	struct {
		struct vfio_user_version version;
		char json[64];
	} message = {.version = {.minor = 1}, .json = "{\"capabilities\": {\"max_msg_fds\": 8}}"};

	return nvme_client_message(client, VFIO_USER_VERSION, &message,
				   sizeof(message.version) + strlen(message.json) + 1, NULL, 0,
				   NULL, 0, NULL);
}

static int
map_doorbells(struct nvme_client *client)
{
	struct vfio_region_info asked = {.argsz = INFO_ROOM, .index = VFIO_PCI_BAR0_REGION_INDEX};
	struct {
		struct vfio_region_info info;
		struct vfio_region_info_cap_sparse_mmap sparse;
		struct vfio_region_sparse_mmap_area area;
	} reply;
	int fd = -1;
	int rc = nvme_client_message(client, VFIO_USER_DEVICE_GET_REGION_INFO, &asked,
				     sizeof(asked), NULL, 0, &reply, sizeof(reply), &fd);

	if (rc != 0)
		return rc;
	client->doorbells_size = reply.area.size;
	client->doorbells = mmap(NULL, reply.area.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
				 (off_t)(reply.info.offset + reply.area.offset));
	close(fd);
	return client->doorbells != MAP_FAILED ? 0 : -errno;
}

int
nvme_client_open(struct nvme_client *client, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = DEADLINE_S};
	int rc;

	*client = (struct nvme_client){.doorbells = MAP_FAILED};
	client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(client->socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	client->memory_fd = memfd_create("client", MFD_CLOEXEC);
	if (ftruncate(client->memory_fd, NVME_CLIENT_MEMORY) != 0)
		return -errno;
	client->memory = mmap(NULL, NVME_CLIENT_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED,
			      client->memory_fd, 0);
	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (connect(client->socket, (struct sockaddr *)&address, sizeof(address)) != 0)
		return -errno;
	rc = agree_on_version(client);
	if (rc == 0)
		rc = map_doorbells(client);
	if (rc == 0)
		rc = nvme_client_map(client, NVME_CLIENT_IOVA, NVME_CLIENT_MEMORY,
				     client->memory_fd, 0);
	return rc;
}

void
nvme_client_close(struct nvme_client *client)
{
	close(client->socket);
	munmap(client->memory, NVME_CLIENT_MEMORY);
	close(client->memory_fd);
	if (client->doorbells != MAP_FAILED)
		munmap(client->doorbells, client->doorbells_size);
}

/* ---- NVMe ---- */

void *
nvme_client_alloc(struct nvme_client *client, size_t size, uint64_t *iova)
{
	void *memory = client->memory + client->memory_used;

	client->memory_used += (size + PAGE - 1) / PAGE * PAGE;
	memset(memory, 0, size);
	if (iova != NULL)
		*iova = nvme_client_iova(client, memory);
	return memory;
}

uint64_t
nvme_client_iova(const struct nvme_client *client, const void *memory)
{
	return NVME_CLIENT_IOVA + (uint64_t)((const uint8_t *)memory - client->memory);
}

static struct nvme_client_queue *
init_queue(struct nvme_client *client, uint16_t id, uint32_t size)
{
	struct nvme_client_queue *queue = &client->queues[id];
	void *submissions = queue->submissions;
	void *completions = (void *)queue->completions;

	/* One that is made again has its old memory, if that is enough. */
	if (queue->size < size) {
		submissions = nvme_client_alloc(client, size * sizeof(struct nvme_sqe), NULL);
		completions = nvme_client_alloc(client, size * sizeof(struct nvme_cqe), NULL);
	}
	memset(submissions, 0, size * sizeof(struct nvme_sqe));
	memset(completions, 0, size * sizeof(struct nvme_cqe));
	*queue = (struct nvme_client_queue){
		.id = id,
		.size = size,
		.submissions = submissions,
		.completions = completions,
		.submissions_iova = nvme_client_iova(client, submissions),
		.completions_iova = nvme_client_iova(client, completions),
		.phase = true,
	};
	return queue;
}

static int
wait_status(struct nvme_client *client, uint32_t ready, int timeout_ms)
{
	uint64_t end = now_ms() + (uint64_t)timeout_ms;

	for (;;) {
		uint64_t status = nvme_client_read(client, NVME_REG_CSTS, 4);

		if (status == UINT64_MAX)
			return -EPIPE;
		if ((status & FATAL) != 0)
			return -EIO;
		if ((status & NVME_CSTS_RDY_MASK) == ready)
			return 0;
		if (now_ms() >= end)
			return -ETIMEDOUT;
	}
}

int
nvme_client_enable(struct nvme_client *client, int timeout_ms)
{
	const struct nvme_client_queue *admin = init_queue(client, 0, ADMIN_SIZE);

	nvme_client_write(client, NVME_REG_AQA, 4, (ADMIN_SIZE - 1) << 16 | (ADMIN_SIZE - 1));
	nvme_client_write(client, NVME_REG_ASQ, 8, admin->submissions_iova);
	nvme_client_write(client, NVME_REG_ACQ, 8, admin->completions_iova);
	nvme_client_write(client, NVME_REG_CC, 4, CC_ENABLE);
	return wait_status(client, 1, timeout_ms);
}

int
nvme_client_disable(struct nvme_client *client)
{
	nvme_client_write(client, NVME_REG_CC, 4, CC_ENABLE & ~1u);
	return wait_status(client, 0, DEADLINE_MS);
}

int
nvme_client_create_queue(struct nvme_client *client, uint16_t id, uint32_t size, int vector)
{
	const struct nvme_client_queue *queue = init_queue(client, id, size);
	struct nvme_sqe sqe = {
		.opcode = nvme_admin_create_cq,
		.prp1 = queue->completions_iova,
		.cdw10 = (size - 1) << 16 | id,
		.cdw11 = 1 | (vector >= 0 ? 2u | (uint32_t)vector << 16 : 0),
	};
	int rc = nvme_client_run(client, 0, sqe, NULL);

	if (rc != 0)
		return rc;
	sqe.opcode = nvme_admin_create_sq;
	sqe.prp1 = queue->submissions_iova;
	sqe.cdw11 = 1 | (uint32_t)id << 16;
	return nvme_client_run(client, 0, sqe, NULL);
}

uint16_t
nvme_client_put(struct nvme_client *client, uint16_t id, struct nvme_sqe sqe, bool keep_cid)
{
	struct nvme_client_queue *queue = &client->queues[id];

	if (!keep_cid)
		sqe.cid = queue->next_cid++;
	queue->submissions[queue->tail] = sqe;
	queue->tail = (queue->tail + 1) % queue->size;
	return sqe.cid;
}

void
nvme_client_set_doorbell(struct nvme_client *client, uint16_t queue, bool completion,
			 uint32_t value)
{
	_Atomic uint32_t *doorbell =
		(_Atomic uint32_t *)(client->doorbells + (2 * queue + completion) * 4);

	atomic_store_explicit(doorbell, value, memory_order_release);
}

void
nvme_client_ring(struct nvme_client *client, uint16_t queue)
{
	nvme_client_set_doorbell(client, queue, false, client->queues[queue].tail);
}

int
nvme_client_wait(struct nvme_client *client, uint16_t id, int timeout_ms, struct nvme_cqe *cqe)
{
	struct nvme_client_queue *queue = &client->queues[id];
	volatile struct nvme_cqe *entry = &queue->completions[queue->head];
	uint64_t end = now_ms() + (uint64_t)timeout_ms;

	while ((__atomic_load_n(&entry->status, __ATOMIC_ACQUIRE) & 1) != queue->phase) {
		if (now_ms() >= end)
			return -ETIMEDOUT;
		usleep(20);
	}
	*cqe = *(const struct nvme_cqe *)entry;
	if (++queue->head == queue->size) {
		queue->head = 0;
		queue->phase = !queue->phase;
	}
	nvme_client_set_doorbell(client, id, true, queue->head);
	return 0;
}

int
nvme_client_run(struct nvme_client *client, uint16_t queue, struct nvme_sqe sqe, uint32_t *dw0)
{
	uint16_t cid = nvme_client_put(client, queue, sqe, false);
	struct nvme_cqe cqe;
	int rc;

	nvme_client_ring(client, queue);
	rc = nvme_client_wait(client, queue, DEADLINE_MS, &cqe);
	if (rc != 0)
		return rc;
	if (cqe.cid != cid || cqe.sqid != queue)
		return -EBADMSG;
	if (dw0 != NULL)
		*dw0 = cqe.dw0;
	return cqe.status >> 1 & STATUS_MASK;
}
