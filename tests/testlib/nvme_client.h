/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_client: a small vfio-user client with an NVMe driver that does what it is told, right or
 * wrong, for the tests of the software NVMe device. Functions return 0 or a negative errno, unless
 * they say otherwise; every wait has a deadline.
 */
#ifndef TESTLIB_NVME_CLIENT_H
#define TESTLIB_NVME_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvme_device/layout.h"
#include "waiting.h"

#define NVME_CLIENT_IOVA   0x40000000ULL
#define NVME_CLIENT_MEMORY (16u << 20)
#define NVME_CLIENT_QUEUES 8
#define NVME_CLIENT_FDS    8

struct nvme_client_queue {
	uint16_t id;
	uint32_t size;
	struct nvme_sqe *submissions;
	volatile struct nvme_cqe *completions;
	uint64_t submissions_iova;
	uint64_t completions_iova;
	uint32_t tail;
	uint32_t head;
	bool phase;
	uint16_t next_cid;
};

struct nvme_client {
	int socket;
	uint16_t next_message;
	uint8_t *memory; /* mapped at NVME_CLIENT_IOVA */
	int memory_fd;
	size_t memory_used;
	uint8_t *doorbells; /* BAR 0 from 0x1000 on */
	size_t doorbells_size;
	struct nvme_client_queue queues[NVME_CLIENT_QUEUES];
};

/* ---- vfio-user ---- */

/* Connects, agrees on the version, maps BAR 0 and memory. */
int nvme_client_open(struct nvme_client *client, const char *path);
void nvme_client_close(struct nvme_client *client);
/*
 * One message and its answer. fds: sent with it. reply (may be NULL): at most reply_size bytes of
 * the answer's payload, the rest is zeroes. reply_fd (may be NULL): a file descriptor that came
 * back, or -1. The negative errno of the answer; -EPIPE: the connection is gone.
 */
int nvme_client_message(struct nvme_client *client, uint16_t command, const void *payload,
			size_t size, const int *fds, size_t fd_count, void *reply,
			size_t reply_size, int *reply_fd);
int nvme_client_map(struct nvme_client *client, uint64_t iova, uint64_t size, int fd,
		    uint64_t offset);
int nvme_client_unmap(struct nvme_client *client, uint64_t iova, uint64_t size);
int nvme_client_access(struct nvme_client *client, uint32_t region, uint64_t offset, void *data,
		       uint32_t size, bool write);
/* Registers; all ones when that fails, too. */
uint64_t nvme_client_read(struct nvme_client *client, uint32_t offset, uint32_t size);
int nvme_client_write(struct nvme_client *client, uint32_t offset, uint32_t size, uint64_t value);
int nvme_client_set_interrupt(struct nvme_client *client, uint32_t vector, int eventfd);

/* ---- NVMe ---- */

/* Memory of whole pages, zeroed, that is never given back. */
void *nvme_client_alloc(struct nvme_client *client, size_t size, uint64_t *iova);
/* Address of memory. */
uint64_t nvme_client_iova(const struct nvme_client *client, const void *memory);

/*
 * Makes the admin queues and enables the controller; -ETIMEDOUT: it is not ready after timeout_ms.
 * -EIO: CSTS.CFS.
 */
int nvme_client_enable(struct nvme_client *client, int timeout_ms);
int nvme_client_disable(struct nvme_client *client);
/* Creates an I/O queue pair; vector -1: without interrupts. As nvme_client_run(). */
int nvme_client_create_queue(struct nvme_client *client, uint16_t id, uint32_t size, int vector);

/*
 * Writes it into the queue, with an identifier of its own unless keep_cid; the doorbell rings at
 * nvme_client_ring(). Returns the identifier.
 */
uint16_t nvme_client_put(struct nvme_client *client, uint16_t queue, struct nvme_sqe sqe,
			 bool keep_cid);
void nvme_client_ring(struct nvme_client *client, uint16_t queue);
void nvme_client_set_doorbell(struct nvme_client *client, uint16_t queue, bool completion,
			      uint32_t value);
/* The next completion; -ETIMEDOUT. */
int nvme_client_wait(struct nvme_client *client, uint16_t queue, int timeout_ms,
		     struct nvme_cqe *cqe);
/* Submits, waits. The status (SCT << 8 | SC, 0x4000: do not retry), or a negative errno. */
int nvme_client_run(struct nvme_client *client, uint16_t queue, struct nvme_sqe sqe, uint32_t *dw0);

#endif
