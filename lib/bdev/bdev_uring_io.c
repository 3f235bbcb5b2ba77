/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data path of files: one ring per thread's channel. Requests become submission entries; while
 * there are any, a poller hands them to the kernel, together, and looks for completions.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bdev_uring.h"
#include "log.h"
#include "request_fifo.h"
#include "work.h"

#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define SQ_ENTRIES  256
#define REAP_BATCH  32
#define MAX_RETRIES 16
#define MAX_IOVS    1024 /* IOV_MAX */
/* No more requests are in the ring at a time, so that it cannot overflow. */
#define CQ_ENTRIES 1024
/* Below the kernel's MAX_RW_COUNT and the 32 bits of an entry's length. */
#define MAX_TRANSFER (1ULL << 30)

/* DISCARDs of a channel that the work pool, which serves all others too, has at a time. */
#define DISCARDS_MAX 4

/* Bytes that are copied on the spot where the file is in memory: some 10 µs. */
#define COPY_MAX (128u * 1024)

struct uring_channel {
	struct uring_disk *disk;
	struct thread *thread;
	struct poller *poller;
	uint32_t active; /* requests here: in the ring, waiting or with the work pool */
	uint32_t in_ring;
	uint32_t unsubmitted;        /* in the ring, but the kernel was not told */
	struct request_fifo waiting; /* for a place in the ring */
	/* See sync_done(). */
	struct request_fifo syncs_waiting;
	struct request_fifo syncs_held;
	uint32_t discards; /* with the work pool */
	struct request_fifo discards_waiting;
	bool submit_failed; /* said in the log */
	struct uring_ring ring;
};

/* What a request is doing in the ring. */
enum step {
	STEP_READ,
	STEP_WRITE,
	STEP_SYNC,
	STEP_PUNCH_HOLE,
	STEP_ZERO_RANGE,
	STEP_WRITE_ZEROES, /* where the file system does not know the other ways */
};

/* In rq->ctx. */
struct uring_request {
	uint8_t step;
	uint8_t retries;
	bool durable;  /* FUA */
	uint64_t done; /* bytes that were transferred; more than 0 only after a short transfer */
	uint32_t iov_index; /* where `done` is in the iovecs */
	size_t iov_skip;
	struct iovec rest; /* of the iovec in which a short transfer ended */
	/* DISCARD of block devices. */
	struct uring_channel *channel;
	struct work work;
	struct thread_msg msg;
	int rc;
};

static uint8_t zeroes[64 * 1024] __attribute__((aligned(4096))); /* never written */
#define ZERO_IOVS 16
static const struct iovec zero_iovs[ZERO_IOVS] = {
	[0 ... ZERO_IOVS - 1] = {.iov_base = zeroes, .iov_len = sizeof(zeroes)},
};

static struct uring_request *
request_ctx(struct bdev_request *rq)
{
	return (struct uring_request *)rq->ctx;
}

/* ---- the end of a request ---- */

/* What the kernel says, in the words of bdev.h. */
static int
to_status(int res)
{
	switch (-res) {
	case 0:
	case ENODATA:
	case EILSEQ:
	case EOPNOTSUPP:
	case ENOSPC:
	case EROFS:
	case ETIMEDOUT:
	case ENODEV:
	case ENOMEM:
		return res;
	case EDQUOT:
	case EFBIG:
		return -ENOSPC;
	case ENXIO:
		return -ENODEV;
	case ENOSYS:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

static void
end_request(struct uring_channel *channel, struct bdev_request *rq, int res)
{
	channel->active--;
	bdev_complete(rq, to_status(res));
}

/* ---- into the ring ---- */

/* The part that is not done yet, in *iov and the returned count. */
static uint32_t
remaining_iovs(struct bdev_request *rq, struct uring_request *ctx, const struct iovec **iov)
{
	const struct iovec *first = &rq->iov[ctx->iov_index];

	if (ctx->iov_skip == 0) {
		*iov = first;
		return rq->iovcnt - ctx->iov_index;
	}
	ctx->rest.iov_base = (uint8_t *)first->iov_base + ctx->iov_skip;
	ctx->rest.iov_len = first->iov_len - ctx->iov_skip;
	*iov = &ctx->rest;
	return 1;
}

static uint32_t
zero_iovs_for(uint64_t length, struct uring_request *ctx, const struct iovec **iov)
{
	if (length >= sizeof(zeroes)) {
		*iov = zero_iovs;
		return length / sizeof(zeroes) < ZERO_IOVS ? (uint32_t)(length / sizeof(zeroes))
							   : ZERO_IOVS;
	}
	ctx->rest = (struct iovec){.iov_base = zeroes, .iov_len = length};
	*iov = &ctx->rest;
	return 1;
}

static void
prepare_transfer(struct io_uring_sqe *sqe, int fd, struct bdev_request *rq,
		 struct uring_request *ctx)
{
	uint64_t offset = rq->offset + ctx->done;
	const struct iovec *iov;
	uint32_t count;

	if (ctx->step == STEP_WRITE_ZEROES)
		count = zero_iovs_for(rq->length - ctx->done, ctx, &iov);
	else
		count = remaining_iovs(rq, ctx, &iov);
	if (ctx->step == STEP_READ) {
		if (count == 1)
			io_uring_prep_read(sqe, fd, iov->iov_base, (unsigned int)iov->iov_len,
					   offset);
		else
			io_uring_prep_readv(sqe, fd, iov, count, offset);
		return;
	}
	if (count == 1)
		io_uring_prep_write(sqe, fd, iov->iov_base, (unsigned int)iov->iov_len, offset);
	else
		io_uring_prep_writev(sqe, fd, iov, count, offset);
	if (ctx->durable)
		sqe->rw_flags = RWF_DSYNC;
}

static void
prepare(struct io_uring_sqe *sqe, const struct uring_ring *ring, struct bdev_request *rq)
{
	struct uring_request *ctx = request_ctx(rq);
	off_t offset = (off_t)rq->offset, length = (off_t)rq->length;

	if (ctx->step == STEP_SYNC)
		io_uring_prep_fsync(sqe, ring->fd, IORING_FSYNC_DATASYNC);
	else if (ctx->step == STEP_PUNCH_HOLE)
		io_uring_prep_fallocate(sqe, ring->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					offset, length);
	else if (ctx->step == STEP_ZERO_RANGE)
		io_uring_prep_fallocate(sqe, ring->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
					offset, length);
	else
		prepare_transfer(sqe, ring->fd, rq, ctx);
	sqe->flags = ring->fd_flags;
	/* A kernel worker may wait where the submitting thread got EAGAIN. */
	if (ctx->retries > 0)
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data(sqe, rq);
}

static bool
put_into_ring(struct uring_channel *channel, struct bdev_request *rq)
{
	struct io_uring_sqe *sqe =
		channel->in_ring < CQ_ENTRIES ? io_uring_get_sqe(&channel->ring.ring) : NULL;

	if (sqe == NULL)
		return false;
	prepare(sqe, &channel->ring, rq);
	channel->in_ring++;
	channel->unsubmitted++;
	return true;
}

static void
enqueue(struct uring_channel *channel, struct bdev_request *rq)
{
	if (channel->waiting.first != NULL || !put_into_ring(channel, rq))
		request_fifo_push(&channel->waiting, rq);
}

static void
enqueue_waiting(struct uring_channel *channel)
{
	while (channel->waiting.first != NULL && put_into_ring(channel, channel->waiting.first))
		request_fifo_pop(&channel->waiting);
}

/*
 * One system call, or with a polling kernel thread none while that is awake, for all that users
 * submitted since the last poll.
 */
static void
submit_entries(struct uring_channel *channel)
{
	while (channel->unsubmitted > 0) {
		int rc = io_uring_submit(&channel->ring.ring);

		if (rc > 0 || (rc == 0 && channel->disk->sqpoll)) {
			/* The polling thread may have taken some already; it takes the rest. */
			channel->unsubmitted -=
				channel->disk->sqpoll ? channel->unsubmitted : (uint32_t)rc;
			uring_ring_place_workers(&channel->ring);
			enqueue_waiting(channel);
			continue;
		}
		/* The entries stay, and the poller tries again. */
		if (rc != -EAGAIN && rc != -EBUSY && rc != -EINTR && !channel->submit_failed) {
			log_err("%s: the kernel takes no requests: %s", channel->disk->file.path,
				strerror(-rc));
			channel->submit_failed = true;
		}
		return;
	}
}

/* ---- out of the ring ---- */

static void
go_on(struct uring_channel *channel, struct bdev_request *rq, enum step step)
{
	request_ctx(rq)->step = step;
	enqueue(channel, rq);
}

static void
advance(struct bdev_request *rq, struct uring_request *ctx, uint64_t length)
{
	while (length > 0) {
		uint64_t left = rq->iov[ctx->iov_index].iov_len - ctx->iov_skip;

		if (length < left) {
			ctx->iov_skip += length;
			return;
		}
		length -= left;
		ctx->iov_index++;
		ctx->iov_skip = 0;
	}
}

/* Short: at a full disk (the next try says so), or because the file became shorter than it was. */
static void
transfer_done(struct uring_channel *channel, struct bdev_request *rq, int res)
{
	struct uring_request *ctx = request_ctx(rq);

	if (res <= 0) {
		end_request(channel, rq, res == 0 ? -EIO : res);
		return;
	}
	ctx->done += (uint32_t)res;
	if (ctx->done >= rq->length) {
		end_request(channel, rq, 0);
		return;
	}
	if (((uint32_t)res & (channel->disk->ops.buffer_alignment - 1)) != 0) {
		end_request(channel, rq, -EIO); /* direct I/O cannot go on from here */
		return;
	}
	if (ctx->step != STEP_WRITE_ZEROES)
		advance(rq, ctx, (uint32_t)res);
	enqueue(channel, rq);
}

/*
 * The page cache drops what it could not write, and tells only one of those who sync (errseq_t);
 * the next sync succeeds. But nobody may believe that his writes are there, so the error stays, as
 * in QEMU (block/file-posix.c, page_cache_inconsistent). With direct I/O nothing is dropped.
 *
 * A good sync proves nothing while another one is under way on any thread, which may have been the
 * one that was told. It is held until there was a moment without any; new ones wait meanwhile, so
 * that the moment comes.
 */
static void
sync_done(struct uring_channel *channel, struct bdev_request *rq, int res)
{
	struct uring_disk *disk = channel->disk;

	if (res < 0 && !disk->file.direct && atomic_exchange(&disk->lost, res) == 0)
		log_err("%s: written data could not be brought to the disk (%s) and may be lost; "
			"all flushes fail until its bdev is deleted and created again",
			disk->file.path, strerror(-res));
	if (disk->tracks_syncs && atomic_fetch_sub(&disk->syncs, 1) > 1 && res == 0) {
		atomic_fetch_add(&disk->syncs_held, 1);
		request_fifo_push(&channel->syncs_held, rq);
		return;
	}
	if (res == 0)
		res = atomic_load(&disk->lost);
	end_request(channel, rq, res);
}

static void
start_sync(struct uring_channel *channel, struct bdev_request *rq)
{
	struct uring_disk *disk = channel->disk;

	if (!disk->tracks_syncs) {
		enqueue(channel, rq);
	} else if (atomic_load(&disk->syncs_held) > 0) {
		request_fifo_push(&channel->syncs_waiting, rq);
	} else {
		atomic_fetch_add(&disk->syncs, 1);
		enqueue(channel, rq);
	}
}

static bool
has_idle_syncs(const struct uring_channel *channel)
{
	return channel->syncs_held.first != NULL || channel->syncs_waiting.first != NULL;
}

static void
continue_syncs(struct uring_channel *channel)
{
	struct uring_disk *disk = channel->disk;
	struct request_fifo held = channel->syncs_held, waiting;
	struct bdev_request *rq;

	if (held.first != NULL && atomic_load(&disk->syncs) == 0) {
		channel->syncs_held.first = NULL;
		while ((rq = request_fifo_pop(&held)) != NULL) {
			atomic_fetch_sub(&disk->syncs_held, 1);
			end_request(channel, rq, atomic_load(&disk->lost));
		}
	}
	waiting = channel->syncs_waiting;
	channel->syncs_waiting.first = NULL;
	while ((rq = request_fifo_pop(&waiting)) != NULL)
		start_sync(channel, rq);
}

/*
 * WRITE_ZEROES and DISCARD: tries the next way where the file system does not know this one; some
 * (GPFS) call the mode invalid.
 */
static void
fallocate_done(struct uring_channel *channel, struct bdev_request *rq, int res)
{
	bool punched = request_ctx(rq)->step == STEP_PUNCH_HOLE;

	if (rq->type == BDEV_WRITE_ZEROES && (res == -EOPNOTSUPP || res == -EINVAL)) {
		atomic_store_explicit(punched ? &channel->disk->no_punch_hole
					      : &channel->disk->no_zero_range,
				      true, memory_order_relaxed);
		go_on(channel, rq, punched ? STEP_ZERO_RANGE : STEP_WRITE_ZEROES);
		return;
	}
	if (rq->type == BDEV_WRITE_ZEROES && res == 0 && request_ctx(rq)->durable) {
		go_on(channel, rq, STEP_SYNC);
		return;
	}
	end_request(channel, rq, res);
}

static void
step_done(struct uring_channel *channel, struct bdev_request *rq, int res)
{
	static void (*const done[])(struct uring_channel *, struct bdev_request *, int) = {
		[STEP_READ] = transfer_done,
		[STEP_WRITE] = transfer_done,
		[STEP_SYNC] = sync_done,
		[STEP_PUNCH_HOLE] = fallocate_done,
		[STEP_ZERO_RANGE] = fallocate_done,
		[STEP_WRITE_ZEROES] = transfer_done,
	};
	struct uring_request *ctx = request_ctx(rq);

	if ((res == -EAGAIN || res == -EINTR) && ctx->retries < MAX_RETRIES) {
		ctx->retries++;
		enqueue(channel, rq);
		return;
	}
	done[ctx->step](channel, rq, res);
}

/*
 * Entries are copied before anything is completed, since users and the core submit and flush from
 * there.
 */
static uint32_t
reap(struct uring_channel *channel)
{
	struct io_uring_cqe *cqes[REAP_BATCH];
	struct bdev_request *requests[REAP_BATCH];
	int results[REAP_BATCH];
	uint32_t count = io_uring_peek_batch_cqe(&channel->ring.ring, cqes, REAP_BATCH);

	for (uint32_t i = 0; i < count; i++) {
		requests[i] = io_uring_cqe_get_data(cqes[i]);
		results[i] = cqes[i]->res;
	}
	io_uring_cq_advance(&channel->ring.ring, count);
	channel->in_ring -= count;
	for (uint32_t i = 0; i < count; i++)
		step_done(channel, requests[i], results[i]);
	return count;
}

static int
poll_ring(void *arg)
{
	struct uring_channel *channel = arg;
	uint32_t reaped = 0, count;

	if (channel->active == 0)
		return POLLER_IDLE;
	submit_entries(channel);
	do {
		count = reap(channel);
		reaped += count;
	} while (count == REAP_BATCH && reaped < CQ_ENTRIES);
	if (unlikely(has_idle_syncs(channel)))
		continue_syncs(channel);
	enqueue_waiting(channel);
	submit_entries(channel);
	return reaped > 0 ? POLLER_BUSY : POLLER_IDLE;
}

/*
 * The ring's descriptor is readable when a completion comes. Nothing says that the last of the
 * other threads' syncs is done.
 */
static bool
arm(void *arg)
{
	struct uring_channel *channel = arg;

	return channel->unsubmitted == 0 && !has_idle_syncs(channel) &&
	       io_uring_cq_ready(&channel->ring.ring) == 0;
}

/* ---- DISCARD of block devices: an ioctl that blocks ---- */

static void start_discards(struct uring_channel *channel);

static void
discard_done(void *arg)
{
	struct bdev_request *rq = arg;
	struct uring_request *ctx = request_ctx(rq);

	ctx->channel->discards--;
	start_discards(ctx->channel);
	end_request(ctx->channel, rq, ctx->rc);
}

static void
discard_work(struct work *work)
{
	struct uring_request *ctx =
		(struct uring_request *)((uint8_t *)work - offsetof(struct uring_request, work));
	struct bdev_request *rq =
		(struct bdev_request *)((uint8_t *)ctx - offsetof(struct bdev_request, ctx));
	uint64_t range[2] = {rq->offset, rq->length};

	ctx->rc = ioctl(ctx->channel->disk->file.fd, BLKDISCARD, range) == 0 ? 0 : -errno;
	thread_send(ctx->channel->thread, &ctx->msg, discard_done, rq);
}

static void
start_discards(struct uring_channel *channel)
{
	struct bdev_request *rq;

	while (channel->discards < DISCARDS_MAX &&
	       (rq = request_fifo_pop(&channel->discards_waiting)) != NULL) {
		request_ctx(rq)->channel = channel;
		if (work_submit(&request_ctx(rq)->work, discard_work) == 0)
			channel->discards++;
		else
			end_request(channel, rq, -EIO);
	}
}

static void
discard_blocks(struct uring_channel *channel, struct bdev_request *rq)
{
	request_fifo_push(&channel->discards_waiting, rq);
	start_discards(channel);
}

/* ---- files in memory ---- */

/*
 * tmpfs and ramfs do not know IOCB_NOWAIT, so that the ring hands each request to a kernel worker,
 * which costs several times what the copy does.
 */
static bool
is_copy(const struct uring_disk *disk, const struct bdev_request *rq)
{
	return disk->file.in_memory &&
	       (rq->type == BDEV_FLUSH || (rq->type <= BDEV_WRITE && rq->length <= COPY_MAX));
}

static void
copy(struct uring_channel *channel, struct bdev_request *rq)
{
	int fd = channel->disk->file.fd;
	ssize_t rc;

	if (rq->type == BDEV_READ)
		rc = preadv(fd, rq->iov, (int)rq->iovcnt, (off_t)rq->offset);
	else if (rq->type == BDEV_WRITE)
		rc = pwritev(fd, rq->iov, (int)rq->iovcnt, (off_t)rq->offset);
	else
		rc = fdatasync(fd);
	step_done(channel, rq, rc < 0 ? -errno : (int)rc);
}

/* ---- beginning of a request ---- */

static enum step
first_step(const struct uring_disk *disk, const struct bdev_request *rq)
{
	static const uint8_t steps[BDEV_IO_TYPES] = {
		[BDEV_READ] = STEP_READ,
		[BDEV_WRITE] = STEP_WRITE,
		[BDEV_FLUSH] = STEP_SYNC,
		[BDEV_DISCARD] = STEP_PUNCH_HOLE,
	};

	if (rq->type != BDEV_WRITE_ZEROES)
		return steps[rq->type];
	if ((rq->flags & BDEV_UNMAP) &&
	    !atomic_load_explicit(&disk->no_punch_hole, memory_order_relaxed))
		return STEP_PUNCH_HOLE;
	if (!atomic_load_explicit(&disk->no_zero_range, memory_order_relaxed))
		return STEP_ZERO_RANGE;
	return STEP_WRITE_ZEROES;
}

static void
uring_submit(void *channel_ctx, struct bdev_request *rq)
{
	struct uring_channel *channel = channel_ctx;
	struct uring_request *ctx = request_ctx(rq);

	if (rq->type == BDEV_RESET) {
		bdev_drain(rq);
		return;
	}
	channel->active++;
	ctx->step = (uint8_t)first_step(channel->disk, rq);
	ctx->retries = 0;
	ctx->durable = (rq->flags & BDEV_FUA) && channel->disk->ops.fua;
	ctx->done = 0;
	ctx->iov_index = 0;
	ctx->iov_skip = 0;
	if (is_copy(channel->disk, rq))
		copy(channel, rq);
	else if (rq->type == BDEV_DISCARD && channel->disk->file.block_device)
		discard_blocks(channel, rq);
	else if (ctx->step == STEP_SYNC)
		start_sync(channel, rq);
	else
		enqueue(channel, rq);
}

/* ---- channels ---- */

static int
uring_channel_create(void *bdev_ctx, void *channel_ctx)
{
	static const struct poller_sleep_ops sleep_ops = {.arm = arm};
	struct uring_channel *channel = channel_ctx;
	int rc;

	channel->disk = bdev_ctx;
	channel->thread = thread_current();
	rc = uring_ring_create(&channel->ring, channel->disk, SQ_ENTRIES, CQ_ENTRIES);
	if (rc != 0)
		return rc;
	channel->poller = poller_register(poll_ring, channel, 0, "bdev_uring");
	rc = channel->poller == NULL ? -ENOMEM
				     : poller_add_fd(channel->poller, channel->ring.ring.ring_fd);
	if (rc != 0) {
		if (channel->poller != NULL)
			poller_unregister(&channel->poller);
		uring_ring_destroy(&channel->ring);
		return rc;
	}
	poller_set_sleep_ops(channel->poller, &sleep_ops);
	return 0;
}

static void
uring_channel_destroy(void *bdev_ctx, void *channel_ctx)
{
	struct uring_channel *channel = channel_ctx;

	(void)bdev_ctx;
	poller_unregister(&channel->poller);
	uring_ring_destroy(&channel->ring);
}

/* No flush_submissions: the poller submits once for all users of the thread's channel. */
const struct bdev_ops uring_io_ops = {
	.channel_create = uring_channel_create,
	.channel_destroy = uring_channel_destroy,
	.submit = uring_submit,
	.channel_ctx_size = sizeof(struct uring_channel),
	.request_ctx_size = sizeof(struct uring_request),
	.max_iovs = MAX_IOVS,
	.max_transfer = MAX_TRANSFER,
};
