/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that a module cannot take as they are: split where there are too many iovecs or bytes,
 * or at the device's boundaries; copied through an aligned buffer where the iovecs are misaligned
 * (SeaBIOS, OVMF, and some guests with O_DIRECT files). The pieces of a request are done one after
 * the other, and only some requests of a channel at a time, so that their memory is bounded.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_core.h"

#define BUFFER_MAX  (1u << 20) /* bytes */
#define RUNNING_MAX 16         /* requests of one channel */

/* A request that is done in pieces. */
struct pieces {
	struct bdev_request *parent;
	uint64_t done;      /* bytes of the parent */
	uint32_t iov_index; /* where `done` is in the parent's iovecs */
	size_t iov_skip;
	void *buffer;    /* NULL until a piece needs it */
	bool bounced;    /* the piece under way uses the buffer */
	bool submitting; /* the loop in `run` is on the stack */
	bool under_way;  /* a piece is with the module */
	int status;
	uint32_t max_iovs;
	struct bdev_request piece; /* and its max_iovs iovecs */
};

static void piece_done(struct bdev_request *piece, int status);
static void start_waiting(struct bdev_thread_channel *thread_channel);

static uint64_t
min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool
has_data(const struct bdev_request *rq)
{
	return rq->type <= BDEV_WRITE;
}

/* ---- how long a piece may be ---- */

/* In whole blocks, from offset on. */
static uint64_t
piece_room(const struct bdev_channel *channel, uint8_t type, uint64_t offset)
{
	uint64_t max = channel->max_length[type];

	if (type != BDEV_DISCARD)
		max = min_u64(max, bdev_boundary_room(channel, offset));
	return max & ~(uint64_t)channel->block_mask;
}

/* ---- position and copying ---- */

enum copy_direction {
	COPY_NONE,
	COPY_TO_BUFFER,
	COPY_FROM_BUFFER,
};

/* Moves the position on by length bytes, and copies them on the way. */
static void
advance(struct pieces *pieces, uint64_t length, enum copy_direction direction)
{
	uint8_t *buffer = pieces->buffer;

	pieces->done += length;
	while (length > 0) {
		const struct iovec *iov = &pieces->parent->iov[pieces->iov_index];
		size_t n = min_u64(length, iov->iov_len - pieces->iov_skip);
		uint8_t *data = (uint8_t *)iov->iov_base + pieces->iov_skip;

		if (n > 0 && direction != COPY_NONE) {
			memcpy(direction == COPY_TO_BUFFER ? buffer : data,
			       direction == COPY_TO_BUFFER ? data : buffer, n);
			buffer += n;
		}
		length -= n;
		pieces->iov_skip += n;
		if (pieces->iov_skip == iov->iov_len) {
			pieces->iov_index++;
			pieces->iov_skip = 0;
		}
	}
}

/* ---- one piece ---- */

/* Drops what exceeds length from the end of the piece's iovecs. */
static void
trim(struct bdev_request *piece, uint64_t length)
{
	while (piece->length - piece->iov[piece->iovcnt - 1].iov_len >= length)
		piece->length -= piece->iov[--piece->iovcnt].iov_len;
	piece->iov[piece->iovcnt - 1].iov_len -= piece->length - length;
	piece->length = length;
}

/*
 * Takes as many of the parent's iovecs as are aligned and fit, in whole blocks; at most
 * piece->length bytes, which becomes what it is. False, and it is as it was: not even one block;
 * the piece must be bounced.
 */
static bool
prepare_direct(struct pieces *pieces, const struct bdev_channel *channel)
{
	const struct bdev_request *parent = pieces->parent;
	struct bdev_request *piece = &pieces->piece;
	uint64_t max = piece->length;
	size_t skip = pieces->iov_skip;
	uint64_t fit;

	piece->iovcnt = 0;
	piece->length = 0;
	for (uint32_t i = pieces->iov_index;
	     piece->length < max && piece->iovcnt < pieces->max_iovs; i++) {
		uint8_t *base = (uint8_t *)parent->iov[i].iov_base + skip;
		size_t length = parent->iov[i].iov_len - skip;

		skip = 0;
		if (length == 0)
			continue;
		if (((uintptr_t)base | length) & channel->alignment_mask)
			break;
		piece->iov[piece->iovcnt++] = (struct iovec){.iov_base = base, .iov_len = length};
		piece->length += length;
	}
	fit = min_u64(piece->length, max) & ~(uint64_t)channel->block_mask;
	if (fit == 0) {
		piece->length = max;
		return false;
	}
	trim(piece, fit);
	return true;
}

/* As long as this piece and all later ones can be. */
static void *
buffer_new(const struct pieces *pieces, const struct bdev_channel *channel)
{
	size_t alignment = channel->alignment_mask + 1 < 64 ? 64 : channel->alignment_mask + 1;
	uint64_t left = pieces->parent->length - pieces->done;
	/* At a boundary there is the most room. */
	uint64_t most = piece_room(channel, pieces->piece.type, 0);

	return aligned_alloc(alignment, min_u64(min_u64(left, most), BUFFER_MAX));
}

/* At most piece->length bytes, which becomes what it is. 0 or -ENOMEM. */
static int
prepare_bounced(struct pieces *pieces, const struct bdev_channel *channel)
{
	struct bdev_request *piece = &pieces->piece;

	if (pieces->buffer == NULL)
		pieces->buffer = buffer_new(pieces, channel);
	if (pieces->buffer == NULL)
		return -ENOMEM;
	piece->length = min_u64(piece->length, BUFFER_MAX);
	piece->iov[0] = (struct iovec){.iov_base = pieces->buffer, .iov_len = piece->length};
	piece->iovcnt = 1;
	return 0;
}

/* The next piece. 0 or -ENOMEM. */
static int
prepare(struct pieces *pieces)
{
	const struct bdev_request *parent = pieces->parent;
	const struct bdev_channel *channel = parent->channel;
	struct bdev_request *piece = &pieces->piece;

	piece->offset = parent->offset + pieces->done;
	piece->length = min_u64(parent->length - pieces->done,
				piece_room(channel, piece->type, piece->offset));
	if (!has_data(piece)) {
		pieces->done += piece->length;
		return 0;
	}
	pieces->bounced = !prepare_direct(pieces, channel);
	if (pieces->bounced) {
		int rc = prepare_bounced(pieces, channel);

		if (rc != 0)
			return rc;
	}
	if (!pieces->bounced)
		advance(pieces, piece->length, COPY_NONE);
	else if (piece->type == BDEV_WRITE)
		advance(pieces, piece->length, COPY_TO_BUFFER);
	return 0;
}

/* ---- all pieces ---- */

static void
finish(struct pieces *pieces)
{
	struct bdev_request *parent = pieces->parent;
	int status = pieces->status;

	parent->channel->thread_channel->pieces_running--;
	free(pieces->buffer);
	free(pieces);
	bdev_complete(parent, status);
}

/*
 * A loop and not a recursion, since the module may complete at once. Returns whether a piece is
 * under way.
 */
static bool
run(struct pieces *pieces)
{
	const struct bdev_channel *channel = pieces->parent->channel;

	pieces->submitting = true;
	while (!pieces->under_way && pieces->status == 0 && pieces->done < pieces->parent->length) {
		pieces->status = prepare(pieces);
		if (pieces->status != 0)
			break;
		pieces->under_way = true;
		pieces->piece.core_next = piece_done;
		channel->submit(channel->thread_channel->module_ctx, &pieces->piece);
	}
	pieces->submitting = false;
	if (pieces->under_way)
		return true;
	finish(pieces);
	return false;
}

static void
piece_done(struct bdev_request *piece, int status)
{
	struct pieces *pieces = piece->core_ctx;
	struct bdev_thread_channel *thread_channel = piece->channel->thread_channel;

	pieces->under_way = false;
	pieces->status = status;
	if (status == 0 && pieces->bounced && piece->type == BDEV_READ)
		advance(pieces, piece->length, COPY_FROM_BUFFER);
	if (pieces->submitting)
		return;
	if (!run(pieces))
		start_waiting(thread_channel);
	bdev_thread_channel_flush(thread_channel);
}

struct bdev_request *
bdev_pieces_parent(struct bdev_request *rq)
{
	return rq->core_next == piece_done ? ((struct pieces *)rq->core_ctx)->parent : rq;
}

static struct pieces *
pieces_new(struct bdev_request *parent)
{
	const struct bdev_channel *channel = parent->channel;
	uint32_t max_iovs =
		has_data(parent) ? (uint32_t)min_u64(channel->max_iovs, parent->iovcnt) : 0;
	size_t piece_end = offsetof(struct pieces, piece) + bdev_request_size(channel->bdev);
	struct pieces *pieces = malloc(piece_end + max_iovs * sizeof(struct iovec));

	if (pieces == NULL)
		return NULL;
	*pieces = (struct pieces){.parent = parent, .max_iovs = max_iovs};
	pieces->piece.type = parent->type;
	pieces->piece.flags = parent->flags;
	pieces->piece.channel = parent->channel;
	pieces->piece.iov = (struct iovec *)((uint8_t *)pieces + piece_end);
	pieces->piece.core_ctx = pieces;
	return pieces;
}

static void
start(struct bdev_request *parent)
{
	struct pieces *pieces = pieces_new(parent);

	if (pieces == NULL) {
		bdev_complete(parent, -ENOMEM);
		return;
	}
	parent->start_ticks = thread_now(parent->channel->thread);
	parent->channel->thread_channel->pieces_running++;
	run(pieces);
}

/* What is started may end at once and come back here; only the outermost call goes on. */
static void
start_waiting(struct bdev_thread_channel *thread_channel)
{
	struct bdev_request *parent;

	if (thread_channel->pieces_starting)
		return;
	thread_channel->pieces_starting = true;
	while (thread_channel->pieces_running < RUNNING_MAX &&
	       (parent = request_fifo_pop(&thread_channel->pieces_waiting)) != NULL)
		start(parent);
	thread_channel->pieces_starting = false;
}

void
bdev_pieces_submit(struct bdev_request *rq)
{
	struct bdev_thread_channel *thread_channel = rq->channel->thread_channel;

	request_fifo_push(&thread_channel->pieces_waiting, rq);
	start_waiting(thread_channel);
}
