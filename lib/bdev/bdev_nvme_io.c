/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data path of NVMe disks: a bdev_request becomes an nvme_request in its own room; a DISCARD of
 * many ranges several, one after the other. Each thread's channel is its queue pair, which all
 * namespaces of a controller share. Channel's thread only, unless said otherwise.
 */
#include <errno.h>
#include <string.h>

#include "bdev_nvme.h"
#include "dma.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* What is in the driver's memory for SGLs and PRPs, of any layout. */
#define MAX_IOVS 128

struct nvme_channel {
	struct nvme_qpair *qpair;
	uint32_t nsid;
	uint32_t block_shift;
	struct nvme_disk *disk;
};

/* In rq->ctx. */
struct nvme_io {
	struct nvme_request request;
	/* DISCARD */
	struct nvme_channel *channel;
	uint64_t next, left; /* blocks that no command has yet */
	struct iovec iov;
	struct nvme_dsm_range ranges[BDEV_NVME_DSM_RANGES];
};

/* RESET, in the same place. */
struct nvme_reset {
	struct nvme_ctrlr *ctrlr;
	struct thread *thread;
	struct thread_msg msg;
	int rc;
};

static struct nvme_io *
request_io(struct bdev_request *rq)
{
	return (struct nvme_io *)rq->ctx;
}

static struct bdev_request *
bdev_request_of(void *ctx)
{
	return (struct bdev_request *)((uint8_t *)ctx - offsetof(struct bdev_request, ctx));
}

static void
io_done(struct nvme_request *request, int rc)
{
	bdev_complete(bdev_request_of(request), rc);
}

/* Its number may be another namespace's now. */
static bool
is_replaced(const struct nvme_disk *disk)
{
	return unlikely(atomic_load_explicit(&disk->replaced, memory_order_relaxed));
}

/* ---- READ, WRITE, WRITE_ZEROES, FLUSH ---- */

/* With bits of CDW12, the upper half (NVMe 1.4 §6.15, §6.17). */
static void
submit_range(struct nvme_channel *channel, struct bdev_request *rq, uint8_t opcode,
	     uint16_t control)
{
	struct nvme_request *request = &request_io(rq)->request;

	nvme_command_range(&request->command, opcode, channel->nsid,
			   rq->offset >> channel->block_shift,
			   (uint32_t)(rq->length >> channel->block_shift), control);
	request->done = io_done;
	request->revoked = &channel->disk->replaced;
	nvme_qpair_submit(channel->qpair, request);
}

static void
submit_write_zeroes(struct nvme_channel *channel, struct bdev_request *rq)
{
	uint16_t control = rq->flags & BDEV_FUA ? NVME_IO_FUA : 0;

	if ((rq->flags & BDEV_UNMAP) && channel->disk->can_write_zeroes_unmap)
		control |= NVME_IO_DEAC;
	request_io(rq)->request.length = 0;
	request_io(rq)->request.iovcnt = 0;
	submit_range(channel, rq, nvme_cmd_write_zeroes, control);
}

static void
submit_flush(struct nvme_channel *channel, struct bdev_request *rq)
{
	struct nvme_request *request = &request_io(rq)->request;

	request->command = (struct nvme_command){.opcode = nvme_cmd_flush, .nsid = channel->nsid};
	request->length = 0;
	request->iovcnt = 0;
	request->done = io_done;
	request->revoked = &channel->disk->replaced;
	nvme_qpair_submit(channel->qpair, request);
}

/* ---- DISCARD ---- */

static void discard_done(struct nvme_request *request, int rc);

/* As many ranges as one command takes (NVMe 1.4 §6.7). */
static void
submit_ranges(struct nvme_io *io)
{
	const struct nvme_disk *disk = io->channel->disk;
	uint32_t count = 0;

	while (io->left > 0 && count < disk->dsm_ranges) {
		uint64_t blocks = io->left < disk->dsm_blocks ? io->left : disk->dsm_blocks;

		io->ranges[count++] =
			(struct nvme_dsm_range){.nlb = (uint32_t)blocks, .slba = io->next};
		io->next += blocks;
		io->left -= blocks;
	}
	io->iov = (struct iovec){.iov_base = io->ranges, .iov_len = count * sizeof(io->ranges[0])};
	io->request.command = (struct nvme_command){.opcode = nvme_cmd_dsm,
						    .nsid = disk->nsid,
						    .cdw10 = count - 1,
						    .cdw11 = NVME_DSMGMT_AD};
	io->request.length = (uint32_t)io->iov.iov_len;
	io->request.iov = &io->iov;
	io->request.iovcnt = 1;
	io->request.done = discard_done;
	io->request.revoked = &disk->replaced;
	nvme_qpair_submit(io->channel->qpair, &io->request);
}

static void
discard_done(struct nvme_request *request, int rc)
{
	struct nvme_io *io = (struct nvme_io *)request;

	if (rc == 0 && io->left > 0 && is_replaced(io->channel->disk))
		rc = -ENODEV;
	if (rc != 0 || io->left == 0) {
		bdev_complete(bdev_request_of(io), rc);
		return;
	}
	submit_ranges(io);
	nvme_qpair_flush(io->channel->qpair);
}

static void
submit_discard(struct nvme_channel *channel, struct bdev_request *rq)
{
	struct nvme_io *io = request_io(rq);

	io->channel = channel;
	io->next = rq->offset >> channel->block_shift;
	io->left = rq->length >> channel->block_shift;
	submit_ranges(io);
}

/* ---- RESET ---- */

/* What was under way has been sent again: the reset ends when all of that has. */
static void
reset_done(void *arg)
{
	struct bdev_request *rq = arg;
	int rc = ((struct nvme_reset *)rq->ctx)->rc;

	if (rc == 0)
		bdev_drain(rq);
	else
		bdev_complete(rq, rc == -ENODEV ? rc : -EIO);
}

/* A coroutine on the app thread. The request keeps the channel, and so the controller. */
static void
run_reset(void *arg)
{
	struct bdev_request *rq = arg;
	struct nvme_reset *reset = (struct nvme_reset *)rq->ctx;
	struct errmsg err = {""};

	reset->rc = nvme_reset(reset->ctrlr, &err);
	thread_send(reset->thread, &reset->msg, reset_done, rq);
}

static void
submit_reset(struct nvme_channel *channel, struct bdev_request *rq)
{
	struct nvme_reset *reset = (struct nvme_reset *)rq->ctx;

	reset->ctrlr = channel->disk->ctrlr;
	reset->thread = thread_current();
	if (coroutine_start(channel->disk->app, "nvme_reset", run_reset, rq) != 0)
		bdev_complete(rq, -ENOMEM);
}

/* ---- bdev_ops ---- */

static void
nvme_submit(void *channel_ctx, struct bdev_request *rq)
{
	static void (*const rare[BDEV_IO_TYPES])(struct nvme_channel *, struct bdev_request *) = {
		[BDEV_FLUSH] = submit_flush,
		[BDEV_DISCARD] = submit_discard,
		[BDEV_WRITE_ZEROES] = submit_write_zeroes,
		[BDEV_RESET] = submit_reset,
	};
	struct nvme_channel *channel = channel_ctx;
	struct nvme_request *request = &request_io(rq)->request;

	if (is_replaced(channel->disk)) {
		bdev_complete(rq, -ENODEV);
		return;
	}
	if (unlikely(rq->type > BDEV_WRITE)) {
		rare[rq->type](channel, rq);
		return;
	}
	request->length = (uint32_t)rq->length;
	request->iovcnt = rq->iovcnt;
	request->iov = rq->iov;
	if (rq->type == BDEV_READ)
		submit_range(channel, rq, nvme_cmd_read, 0);
	else
		submit_range(channel, rq, nvme_cmd_write, rq->flags & BDEV_FUA ? NVME_IO_FUA : 0);
}

static void
nvme_flush_submissions(void *channel_ctx)
{
	struct nvme_channel *channel = channel_ctx;

	nvme_qpair_flush(channel->qpair);
}

static int
nvme_channel_create(void *bdev_ctx, void *channel_ctx)
{
	struct nvme_channel *channel = channel_ctx;
	struct nvme_disk *disk = bdev_ctx;

	channel->disk = disk;
	channel->nsid = disk->nsid;
	channel->block_shift = disk->block_shift;
	channel->qpair = nvme_qpair_get(disk->ctrlr);
	return channel->qpair != NULL ? 0 : -errno;
}

static void
nvme_channel_destroy(void *bdev_ctx, void *channel_ctx)
{
	struct nvme_channel *channel = channel_ctx;

	(void)bdev_ctx;
	nvme_qpair_put(channel->qpair);
}

/* ---- memory; any OS thread that may block ---- */

/* Namespaces of one controller share its space, which counts. */
static int
nvme_memory_map(void *bdev_ctx, void *addr, uint64_t length, int fd, uint64_t fd_offset,
		struct errmsg *err)
{
	struct nvme_disk *disk = bdev_ctx;

	return dma_map(nvme_dma_space(disk->ctrlr), addr, length, fd, fd_offset, err);
}

static void
nvme_memory_unmap(void *bdev_ctx, void *addr, uint64_t length)
{
	struct nvme_disk *disk = bdev_ctx;

	dma_unmap(nvme_dma_space(disk->ctrlr), addr, length);
}

const struct bdev_ops bdev_nvme_io_ops = {
	.module = NVME_MODULE,
	.channel_create = nvme_channel_create,
	.channel_destroy = nvme_channel_destroy,
	.submit = nvme_submit,
	.flush_submissions = nvme_flush_submissions,
	.memory_map = nvme_memory_map,
	.memory_unmap = nvme_memory_unmap,
	.channel_ctx_size = sizeof(struct nvme_channel),
	.request_ctx_size = sizeof(struct nvme_io),
	.buffer_alignment = 1,
	.max_iovs = MAX_IOVS,
	.fua = true,
};
