/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio_user_rig: a small vfio-user server on an OS thread of the test, which lies where it is told
 * to.
 */
#ifndef VHOSTD_UNIT_VFIO_USER_RIG_H
#define VHOSTD_UNIT_VFIO_USER_RIG_H

#include <errno.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "nvme/vfio_user.h"

#define RIG_BAR_SIZE  0x4000u
#define RIG_DOORBELLS 0x1000u
#define RIG_FILE_SIZE 0x8000u
#define RIG_BAR_AT    0x2000u /* in its file */
#define RIG_VECTORS   40u
#define RIG_MAPS      8

enum lie {
	LIE_NONE,
	LIE_HANG,         /* no reply */
	LIE_HANG_UP,      /* before the reply */
	LIE_HANG_UP_HALF, /* in its middle */
	LIE_SHORT_HEADER, /* a size below the header's */
	LIE_TOO_LONG,     /* a size above what was asked for */
	LIE_HUGE,         /* 4 GiB */
	LIE_OTHER_ID,
	LIE_OTHER_COMMAND,
	LIE_OTHER_TYPE,
	LIE_ERROR,         /* EACCES */
	LIE_ERROR_0,       /* which it does not tell */
	LIE_ERROR_HUGE,    /* no errno */
	LIE_ERROR_PAYLOAD, /* with a payload */
	LIE_SHORT,         /* half of the payload */
	LIE_MANY_FDS,      /* more than anybody takes */
	LIE_ENDLESS,       /* commands of its own and never a reply */
	/* from here on what a server may do */
	LIE_IN_BYTES,      /* one by one */
	LIE_COMMAND_FIRST, /* a command of its own, in between */
	LIE_FDS,           /* some that nobody asked for */
	LIES,
};

struct rig_map {
	struct vfio_user_dma_map map;
	int fd;
};

/* The server. What tests change, they change while no call is under way. */
static struct rig {
	pthread_t thread;
	int listener;
	_Atomic int connection; /* written by the server's thread */
	char folder[64], path[96];

	/* what it says */
	char version[5000];
	uint32_t version_size;
	struct vfio_user_device_info device;
	struct vfio_irq_info irq, request_irq;
	_Alignas(8) char region[4096]; /* a struct vfio_region_info, and capabilities */
	uint32_t region_size;
	int region_fds[VFIO_USER_MAX_FDS];
	uint32_t region_fd_count;
	uint64_t access_offset; /* added in replies */
	int bar_fd;

	/* how it lies, in the reply to that command */
	_Atomic enum lie lie;
	_Atomic uint16_t lie_to;

	/* what it was told */
	uint8_t bar[RIG_DOORBELLS], config[256];
	struct rig_map maps[RIG_MAPS];
	uint32_t map_count;
	int irqs[RIG_VECTORS], request;
	unsigned int looked;
	bool vectors_go_off; /* one by one */
	uint32_t largest_irq_batch;
	unsigned int resets, refused;
	unsigned int calls[32];
} rig;

static inline bool
rig_send(const void *data, size_t size, const int *fds, uint32_t fd_count)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(64 * sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count > 0) {
		message.msg_control = control.space;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
	}
	return sendmsg(rig.connection, &message, MSG_NOSIGNAL) == (ssize_t)size;
}

static inline bool
rig_receive(void *data, size_t size, int *fds, uint32_t *fd_count)
{
	size_t done = 0;

	while (done < size) {
		char control[CMSG_SPACE(64 * sizeof(int))];
		struct iovec iov = {(char *)data + done, size - done};
		struct msghdr message = {.msg_iov = &iov,
					 .msg_iovlen = 1,
					 .msg_control = control,
					 .msg_controllen = sizeof(control)};
		ssize_t got = recvmsg(rig.connection, &message, MSG_CMSG_CLOEXEC);
		struct cmsghdr *header;

		if (got <= 0)
			return false;
		done += (size_t)got;
		header = CMSG_FIRSTHDR(&message);
		if (header == NULL)
			continue;
		*fd_count = (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(header), *fd_count * sizeof(int));
	}
	return true;
}

/* ---- what a good server does: a reply's payload, its size, or a negative errno ---- */

struct rig_request {
	struct vfio_user_header header;
	_Alignas(8) char payload[8192];
	uint32_t size;
	int fds[64];
	uint32_t fd_count;
};

static inline int
rig_dma_map(struct rig_request *request)
{
	struct rig_map *map = &rig.maps[rig.map_count];

	if (rig.map_count == RIG_MAPS || request->fd_count != 1 || request->size != 32)
		return -EINVAL;
	memcpy(&map->map, request->payload, sizeof(map->map));
	map->fd = request->fds[0];
	request->fd_count = 0;
	rig.map_count++;
	return 0;
}

static inline int
rig_dma_unmap(struct rig_request *request, char *reply)
{
	struct vfio_user_dma_unmap unmap;

	memcpy(&unmap, request->payload, sizeof(unmap));
	for (uint32_t i = 0; i < rig.map_count; i++) {
		if (rig.maps[i].map.address != unmap.address || rig.maps[i].map.size != unmap.size)
			continue;
		close(rig.maps[i].fd);
		rig.maps[i] = rig.maps[--rig.map_count];
		memcpy(reply, &unmap, sizeof(unmap));
		return sizeof(unmap);
	}
	return -ENOENT;
}

static inline int
rig_set_irqs(struct rig_request *request)
{
	struct vfio_irq_set set;

	memcpy(&set, request->payload, sizeof(set));
	if (set.index == VFIO_PCI_REQ_IRQ_INDEX && set.count == 1 && request->fd_count == 1) {
		rig.request = request->fds[0];
		request->fd_count = 0;
		return 0;
	}
	if (set.index != VFIO_PCI_MSIX_IRQ_INDEX || set.start + set.count > RIG_VECTORS)
		return -EINVAL;
	if (set.flags == (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)) {
		for (uint32_t i = 0; i < RIG_VECTORS; i++) {
			if (rig.irqs[i] >= 0)
				close(rig.irqs[i]);
			rig.irqs[i] = -1;
		}
		return 0;
	}
	if (request->fd_count == 0 && set.count == 1 && rig.vectors_go_off) {
		close(rig.irqs[set.start]);
		rig.irqs[set.start] = -1;
		return 0;
	}
	if (request->fd_count != set.count)
		return -EINVAL;
	if (rig.largest_irq_batch < set.count)
		rig.largest_irq_batch = set.count;
	memcpy(&rig.irqs[set.start], request->fds, set.count * sizeof(int));
	request->fd_count = 0;
	return 0;
}

static inline int
rig_access(struct rig_request *request, char *reply, bool write)
{
	struct vfio_user_region_access access;
	uint8_t *bytes;
	size_t size;

	memcpy(&access, request->payload, sizeof(access));
	bytes = access.region == VFIO_PCI_CONFIG_REGION_INDEX ? rig.config : rig.bar;
	size = access.region == VFIO_PCI_CONFIG_REGION_INDEX ? sizeof(rig.config) : sizeof(rig.bar);
	if (access.offset + access.count > size)
		return -EINVAL;
	if (write)
		memcpy(bytes + access.offset, request->payload + sizeof(access), access.count);
	else
		memcpy(reply + sizeof(access), bytes + access.offset, access.count);
	access.offset += rig.access_offset;
	memcpy(reply, &access, sizeof(access));
	return (int)(sizeof(access) + (write ? 0 : access.count));
}

static inline int
rig_copy(char *reply, const void *data, size_t size)
{
	memcpy(reply, data, size);
	return (int)size;
}

static inline int
rig_irq_info(struct rig_request *request, char *reply)
{
	struct vfio_irq_info info;

	memcpy(&info, request->payload, sizeof(info));
	return rig_copy(reply, info.index == VFIO_PCI_REQ_IRQ_INDEX ? &rig.request_irq : &rig.irq,
			sizeof(info));
}

static inline int
rig_handle(struct rig_request *request, char *reply)
{
	switch (request->header.command) {
	case VFIO_USER_VERSION:
		return rig_copy(reply, rig.version, rig.version_size);
	case VFIO_USER_DEVICE_GET_INFO:
		return rig_copy(reply, &rig.device, sizeof(rig.device));
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		return rig_copy(reply, rig.region, rig.region_size);
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		return rig_irq_info(request, reply);
	case VFIO_USER_DMA_MAP:
		return rig_dma_map(request);
	case VFIO_USER_DMA_UNMAP:
		return rig_dma_unmap(request, reply);
	case VFIO_USER_DEVICE_SET_IRQS:
		return rig_set_irqs(request);
	case VFIO_USER_REGION_READ:
		return rig_access(request, reply, false);
	case VFIO_USER_REGION_WRITE:
		return rig_access(request, reply, true);
	case VFIO_USER_DEVICE_RESET:
		rig.resets++;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

/* ---- and how it answers ---- */

/* A command in the client's way, which it must refuse; false: it did not. */
static inline bool
rig_command(uint16_t id)
{
	struct {
		struct vfio_user_header header;
		uint64_t address, count;
		char rest[2000];
	} command = {.header = {.id = id,
				.command = VFIO_USER_DMA_READ,
				.size = sizeof(command),
				.flags = VFIO_USER_COMMAND}};

	return rig_send(&command, sizeof(command), &rig.bar_fd, 1);
}

static inline bool
rig_take_refusal(uint16_t id)
{
	struct vfio_user_header header;
	uint32_t fd_count = 0;
	int fds[64];

	if (!rig_receive(&header, sizeof(header), fds, &fd_count) || header.id != id ||
	    header.flags != (VFIO_USER_REPLY | VFIO_USER_ERROR) || header.error != EOPNOTSUPP)
		return false;
	rig.refused++;
	return true;
}

static inline void
rig_lie(enum lie lie, struct vfio_user_header *header, uint32_t *size)
{
	const uint32_t payload = *size - (uint32_t)sizeof(*header);

	switch (lie) {
	case LIE_SHORT_HEADER:
		header->size = 15;
		break;
	case LIE_TOO_LONG:
		header->size = *size = 8192;
		break;
	case LIE_HUGE:
		header->size = UINT32_MAX;
		break;
	case LIE_OTHER_ID:
		header->id++;
		break;
	case LIE_OTHER_COMMAND:
		header->command++;
		break;
	case LIE_OTHER_TYPE:
		header->flags = 2;
		break;
	case LIE_ERROR:
	case LIE_ERROR_0:
	case LIE_ERROR_HUGE:
		header->flags |= VFIO_USER_ERROR;
		header->error = lie == LIE_ERROR ? EACCES : lie == LIE_ERROR_0 ? 0 : 0x80000001;
		header->size = *size = sizeof(*header);
		break;
	case LIE_ERROR_PAYLOAD:
		header->flags |= VFIO_USER_ERROR;
		header->size = *size = sizeof(*header) + 8;
		break;
	case LIE_SHORT:
		header->size = *size = (uint32_t)sizeof(*header) + payload / 2;
		break;
	default:
		break;
	}
}

/* False: it hangs up. */
static inline bool
rig_answer(struct rig_request *request)
{
	enum lie lie = rig.lie_to == request->header.command ? rig.lie : LIE_NONE;
	_Alignas(8) char reply[16 + 8192] = {0};
	struct vfio_user_header header = request->header;
	int fds[VFIO_USER_MAX_FDS + 4], size = rig_handle(request, reply + sizeof(header));
	uint32_t length = (uint32_t)(sizeof(header) + (size > 0 ? (uint32_t)size : 0));
	uint32_t fd_count = 0;

	header.flags = VFIO_USER_REPLY | (size < 0 ? VFIO_USER_ERROR : 0);
	header.error = size < 0 ? (uint32_t)-size : 0;
	header.size = length;
	if (header.command == VFIO_USER_DEVICE_GET_REGION_INFO && size >= 0) {
		fd_count = rig.region_fd_count;
		memcpy(fds, rig.region_fds, fd_count * sizeof(int));
	}
	if (lie == LIE_HANG)
		return true;
	if (lie == LIE_HANG_UP)
		return false;
	if (lie == LIE_ENDLESS) {
		while (rig_command(99))
			;
		return false;
	}
	if (lie == LIE_COMMAND_FIRST && (!rig_command(7) || !rig_take_refusal(7)))
		return false;
	if (lie == LIE_MANY_FDS || (lie == LIE_FDS && fd_count == 0))
		for (fd_count = 0; fd_count < (lie == LIE_FDS ? 2 : VFIO_USER_MAX_FDS + 4);)
			fds[fd_count++] = rig.bar_fd;
	rig_lie(lie, &header, &length);
	memcpy(reply, &header, sizeof(header));
	if (lie == LIE_HANG_UP_HALF) {
		rig_send(reply, length / 2, fds, fd_count);
		return false;
	}
	for (uint32_t i = 0; lie == LIE_IN_BYTES && i < length - 1; i++) {
		if (!rig_send(reply + i, 1, fds, i == 0 ? fd_count : 0))
			return false;
	}
	if (lie == LIE_IN_BYTES)
		return rig_send(reply + length - 1, 1, NULL, 0);
	return rig_send(reply, length, fds, fd_count);
}

/* The test looks at none of the connection's file descriptors from now on. */
static inline void
rig_looked(void)
{
	__atomic_fetch_add(&rig.looked, 1, __ATOMIC_SEQ_CST);
}

/* The client has hung up, after rig_looked(): sanitizers see no order in sockets. */
static inline void
rig_forget(void)
{
	__atomic_load_n(&rig.looked, __ATOMIC_SEQ_CST);
	if (rig.request >= 0)
		close(rig.request);
	rig.request = -1;
	while (rig.map_count > 0)
		close(rig.maps[--rig.map_count].fd);
	for (uint32_t i = 0; i < RIG_VECTORS; i++) {
		if (rig.irqs[i] >= 0)
			close(rig.irqs[i]);
		rig.irqs[i] = -1;
	}
}

/* One client after the other, until the listener is shut down. */
static inline void *
rig_main(void *arg)
{
	struct rig_request *request = malloc(sizeof(*request));

	(void)arg;
	while ((rig.connection = accept4(rig.listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		for (;;) {
			request->fd_count = 0;
			if (!rig_receive(&request->header, sizeof(request->header), request->fds,
					 &request->fd_count))
				break;
			request->size = request->header.size - (uint32_t)sizeof(request->header);
			if (request->size > sizeof(request->payload) ||
			    !rig_receive(request->payload, request->size, request->fds,
					 &request->fd_count))
				break;
			if (request->header.command < 32)
				__atomic_fetch_add(&rig.calls[request->header.command], 1,
						   __ATOMIC_SEQ_CST);
			if (!rig_answer(request))
				break;
			while (request->fd_count > 0)
				close(request->fds[--request->fd_count]);
		}
		close(rig.connection);
		rig_forget();
	}
	free(request);
	return NULL;
}

/* ---- for tests ---- */

static inline void
rig_set_version(uint16_t major, uint16_t minor, const char *json)
{
	struct vfio_user_version version = {major, minor};

	memcpy(rig.version, &version, sizeof(version));
	strcpy(rig.version + sizeof(version), json);
	rig.version_size = (uint32_t)(sizeof(version) + strlen(json) + 1);
}

/* BAR 0 whose doorbells alone are mappable. */
static inline void
rig_set_region(void)
{
	struct {
		struct vfio_region_info info;
		struct {
			struct vfio_info_cap_header header;
			uint32_t nr_areas, reserved;
			struct vfio_region_sparse_mmap_area areas[1];
		} sparse;
	} region = {.info = {.argsz = sizeof(region),
			     .flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
				      VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
			     .cap_offset = sizeof(region.info),
			     .size = RIG_BAR_SIZE,
			     .offset = RIG_BAR_AT},
		    .sparse = {.header = {VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0},
			       .nr_areas = 1,
			       .areas = {{RIG_DOORBELLS, RIG_BAR_SIZE - RIG_DOORBELLS}}}};

	memcpy(rig.region, &region, sizeof(region));
	rig.region_size = sizeof(region);
	rig.region_fds[0] = rig.bar_fd;
	rig.region_fd_count = 1;
}

static inline void
rig_start(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(&rig, 0, sizeof(rig));
	for (uint32_t i = 0; i < RIG_VECTORS; i++)
		rig.irqs[i] = -1;
	snprintf(rig.folder, sizeof(rig.folder), "%s/vfio-user-XXXXXX",
		 getenv("TMPDIR") != NULL && strlen(getenv("TMPDIR")) < 40 ? getenv("TMPDIR")
									   : "/tmp");
	assert_non_null(mkdtemp(rig.folder));
	snprintf(rig.path, sizeof(rig.path), "%s/cntrl", rig.folder);
	strcpy(address.sun_path, rig.path);
	rig.bar_fd = memfd_create("bar", MFD_CLOEXEC);
	assert_int_equal(ftruncate(rig.bar_fd, RIG_FILE_SIZE), 0);
	rig_set_version(0, 1, "{\"capabilities\":{\"max_msg_fds\":8}}");
	rig_set_region();
	rig.device = (struct vfio_user_device_info){
		16, VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET, 9, 5};
	rig.irq = (struct vfio_irq_info){16, VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX,
					 RIG_VECTORS};
	rig.request_irq =
		(struct vfio_irq_info){16, VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_REQ_IRQ_INDEX, 1};
	rig.request = -1;
	memcpy(rig.config + 8, &(uint32_t){0x01080202}, 4);
	rig.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(rig.listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(rig.listener, 4), 0);
	assert_int_equal(pthread_create(&rig.thread, NULL, rig_main, NULL), 0);
}

/* No client may be connected. */
static inline void
rig_stop(void)
{
	shutdown(rig.listener, SHUT_RDWR);
	assert_int_equal(pthread_join(rig.thread, NULL), 0);
	close(rig.listener);
	close(rig.bar_fd);
	unlink(rig.path);
	assert_int_equal(rmdir(rig.folder), 0);
}

#endif
