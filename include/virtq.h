/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtq: the device side of a virtqueue (virtio 1.2 §2.7, split rings with indirect descriptors).
 * Part of the room virtio: pure, knows no socket and no DPDK.
 *
 * The control thread makes a queue (virtq_create), the queue's thread uses it (everything else),
 * and the control thread frees it when the queue's thread has let go of it.
 *
 * Each chain that is popped is in a slot until it is pushed back. A slot holds the chain's buffers
 * as iovecs, readable ones first, and opts.ctx_size bytes for the user (its request), so that the
 * data path allocates nothing. Descriptors are copied once out of shared memory; only the copy is
 * checked and used. A chain that breaks a rule breaks the queue: `broken` says why, and nothing is
 * popped from it any more, while requests in flight may still be pushed.
 */
#ifndef VHOSTD_VIRTQ_H
#define VHOSTD_VIRTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_mem.h"

#define VIRTQ_MAX_SIZE    32768 /* virtio 1.2 §2.7: maximum queue size of a split ring */
#define VIRTQ_INLINE_IOVS 8

struct virtq_opts {
	uint16_t size;               /* entries; a power of two, 1 … VIRTQ_MAX_SIZE */
	void *desc, *avail, *used;   /* mapped, whole and aligned to 16, 2 and 4 (checked) */
	const struct guest_mem *mem; /* borrowed; must outlive the queue */
	uint16_t last_avail;         /* where to go on in the avail ring */
	/*
	 * Longest chain accepted, in descriptors, at most VIRTQ_MAX_SIZE; `size` if that is more.
	 */
	uint32_t max_segments;
	size_t ctx_size; /* user bytes in each slot */
	bool indirect;   /* VIRTIO_F_INDIRECT_DESC was negotiated; else it breaks the queue */
};

/* A popped chain. */
struct virtq_slot {
	uint16_t head;           /* its index in the descriptor table */
	bool in_flight;          /* virtq's own */
	uint32_t readable_count; /* iovecs that the device reads, from iov[0] on */
	uint32_t writable_count; /* iovecs that the device writes, from iov[readable_count] on */
	uint64_t readable_bytes;
	uint64_t writable_bytes;
	struct iovec *iov; /* inline_iov, or a part of the queue's pool until it is pushed */
	struct iovec inline_iov[VIRTQ_INLINE_IOVS];
	_Alignas(16) uint8_t ctx[]; /* the user's; zeroed at creation only */
};

struct virtq; /* laid out in lib/virtio/virtq_internal.h */

/*
 * 0, -EINVAL (size, max_segments, alignment, a ring or mem missing) or -ENOMEM. Control thread. On
 * success the slots are allocated, and the rings not written until used. The device goes on in the
 * used ring where used->idx is: it is read once, here, and any value is safe; chains between it and
 * last_avail that were never pushed are lost to the driver.
 */
int virtq_create(const struct virtq_opts *opts, struct virtq **vq);
/* Control thread; nobody may use the queue or its slots any more. */
void virtq_destroy(struct virtq *vq);

/*
 * Pops up to max chains. Returns how many, 0 when there is none or the queue is broken. The avail
 * index is read once (acquire). A valid chain stays valid when a later one breaks the queue.
 * last_avail stops at the chain that does, so that a queue made anew finds it again.
 *
 * All long chains (more than VIRTQ_INLINE_IOVS iovecs) of a queue share a bounded pool. Where a
 * queue is so large that it could be exhausted, a chain that finds no room stays in the avail ring
 * until others have been pushed.
 */
uint32_t virtq_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max);

/*
 * Gives a slot's chain back with the number of bytes that were written to its writable part. The
 * driver sees it after the next virtq_publish(). The slot, its iovecs and ctx may be reused by the
 * next pop.
 */
void virtq_push(struct virtq *vq, struct virtq_slot *slot, uint32_t written);

/*
 * Makes all pushed entries visible (one release store). Returns whether the driver wants to be
 * notified about them (virtio 1.2 §2.7.10); false when nothing was pushed since the last call.
 */
bool virtq_publish(struct virtq *vq);

/* Why the queue is broken (a constant string, e.g. "descriptor loop"), or NULL. */
const char *virtq_broken(const struct virtq *vq);
/* Breaks it by hand: for rules that only the device type knows. */
void virtq_break(struct virtq *vq, const char *reason);

/* Asks the driver not to kick (a hint). */
void virtq_disable_kicks(struct virtq *vq);
/*
 * Asks the driver to kick, and then looks once more: returns true when kicks are on and no chain
 * waits, so that the caller may sleep; false (kicks off again) when there is one. A broken queue is
 * never in the way of sleep: true, and kicks are left as they are.
 */
bool virtq_enable_kicks(struct virtq *vq);

/* Chains popped and not pushed. */
uint32_t virtq_in_flight(const struct virtq *vq);
/* The index of the next avail entry to pop: what GET_VRING_BASE answers. */
uint16_t virtq_last_avail(const struct virtq *vq);
/* The slot whose ctx that is. */
static inline struct virtq_slot *
virtq_slot_from_ctx(void *ctx)
{
	return (struct virtq_slot *)((uint8_t *)ctx - offsetof(struct virtq_slot, ctx));
}

/*
 * The i-th slot (0 … size - 1), to prepare its ctx once after creation. Control thread, before the
 * queue is used.
 */
struct virtq_slot *virtq_slot_at(struct virtq *vq, uint32_t i);

#endif
