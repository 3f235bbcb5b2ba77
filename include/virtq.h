/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtq: the device side of a virtqueue (virtio 1.2 §2.7 and §2.8: split and packed rings, with
 * indirect descriptors and event suppression), and the in-flight region of the vhost-user
 * specification, by which another process can go on where this one was killed. Part of the room
 * virtio: pure, knows no socket and no DPDK.
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

#define VIRTQ_MAX_SIZE    32768 /* virtio 1.2 §2.7, §2.8.10.1: maximum queue size */
#define VIRTQ_INLINE_IOVS 8

/* virtq_opts.base of a packed ring that nobody has used: both places 0, both wrap counters 1. */
#define VIRTQ_PACKED_BASE_NEW 0x80008000u

struct virtq_opts {
	/*
	 * Entries, 1 … VIRTQ_MAX_SIZE, a power of two. Packed rings may have any size (virtio 1.2
	 * §2.8.10.1); others are refused, as no driver is known that makes them: QEMU and Linux
	 * take the size that the device offers.
	 */
	uint16_t size;
	bool packed; /* VIRTIO_F_RING_PACKED was negotiated */
	/* VIRTIO_F_EVENT_IDX was negotiated. */
	bool event_idx;
	bool indirect; /* VIRTIO_F_INDIRECT_DESC was negotiated; else it breaks the queue */
	/*
	 * The three parts, mapped, whole and aligned as virtq_layout() says (alignment is checked).
	 * In a packed ring `avail` is the driver's event suppression structure and `used` the
	 * device's.
	 */
	void *desc, *avail, *used;
	const struct guest_mem *mem; /* borrowed; must outlive the queue */
	/* Where to go on, as in SET_VRING_BASE: see virtq_base(). */
	union {
		uint32_t base;
		uint16_t last_avail; /* the whole of it in a split ring */
	};
	/*
	 * Longest chain accepted, in descriptors, at most VIRTQ_MAX_SIZE; `size` if that is more.
	 */
	uint32_t max_segments;
	size_t ctx_size; /* user bytes in each slot */
	/*
	 * The queue's part of the in-flight region, aligned to 8, or NULL: no tracking. Mapped as
	 * long as the queue lives. If it is new (all zeroes) it is initialised, and the queue
	 * begins at `base`. If not, the queue goes on behind what is in flight there, whatever
	 * `base` is: a front-end whose back-end died may not know better.
	 */
	void *inflight;
	size_t inflight_size; /* bytes that are there, at least virtq_inflight_size() */
	/*
	 * Nothing in the region belongs to the ring as it is now: the queue was stopped in order
	 * (GET_VRING_BASE was answered, with nothing in flight and nothing to resubmit), so `base`
	 * is the truth, also after a reset of the guest.
	 */
	bool inflight_reset;
};

/* A popped chain. */
struct virtq_slot {
	uint16_t head;           /* split: its index in the descriptor table; packed: buffer id */
	uint16_t ring_descs;     /* virtq's own: what it takes of a packed ring */
	uint16_t inflight_entry; /* virtq's own: its first entry in a packed in-flight region, */
	uint16_t inflight_last;  /* and its last one */
	uint32_t readable_count; /* iovecs that the device reads, from iov[0] on */
	uint32_t writable_count; /* iovecs that the device writes, from iov[readable_count] on */
	uint8_t state;           /* virtq's own */
	uint64_t readable_bytes;
	uint64_t writable_bytes;
	struct iovec *iov; /* inline_iov, or a part of the queue's pool until it is pushed */
	struct iovec inline_iov[VIRTQ_INLINE_IOVS];
	_Alignas(16) uint8_t ctx[]; /* the user's; zeroed at creation only */
};

/* What a queue's three parts take in memory. */
struct virtq_part {
	uint32_t bytes;
	uint32_t align; /* bytes */
};

struct virtq_layout {
	struct virtq_part desc, avail, used; /* as in virtq_opts */
};

/* Any thread. */
struct virtq_layout virtq_layout(uint16_t size, bool packed, bool event_idx);
/*
 * Bytes of one queue's part of an in-flight region (vhost-user, "Inflight I/O tracking"), a
 * multiple of 64: queue i begins at i times that. Any thread.
 */
size_t virtq_inflight_size(bool packed, uint16_t size);

/*
 * Makes a queue's part of an in-flight region a new one. No queue uses it, and nothing is in flight
 * there. Any thread.
 */
void virtq_inflight_forget(void *inflight);
/* Whether it is a new one. Any thread. */
bool virtq_inflight_is_new(const void *inflight);

struct virtq; /* laid out in lib/virtio/virtq_internal.h */

/*
 * 0, -ENOMEM, -EINVAL (size, max_segments, alignment, a ring or mem missing, a packed base that is
 * none, an in-flight region that is too small) or -EPROTO (an in-flight region whose contents
 * contradict themselves). Control thread. On success the slots are allocated, and the rings not
 * written until used; the in-flight region is repaired.
 *
 * In a split ring the device goes on where used->idx is: it is read once, here, and any value is
 * safe; chains between it and last_avail that were never pushed are lost to the driver, unless the
 * in-flight region has them.
 */
int virtq_create(const struct virtq_opts *opts, struct virtq **vq);
/* Control thread; nobody may use the queue or its slots any more. */
void virtq_destroy(struct virtq *vq);

/*
 * Pops up to max chains, first of all those that the in-flight region had (virtq_waiting()), in the
 * order in which they once came. Returns how many, 0 when there is none or the queue is broken. The
 * avail index of a split ring is read once (acquire). A valid chain stays valid when a later one
 * breaks the queue. last_avail stops at the chain that does, so that a queue made anew finds it
 * again.
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
 * notified about them (virtio 1.2 §2.7.10, §2.8.10); false when nothing was pushed since the last
 * call. Each answer is about the chains of this call: a caller that puts a notification off has to
 * remember it.
 */
bool virtq_publish(struct virtq *vq);

/*
 * From now on nothing shared is touched any more: neither the rings nor the in-flight region, which
 * stay as they are. Chains that were popped are pushed as before, to free their slots; what was
 * pushed and not published is in flight still to all others. For a front-end that is gone, and may
 * give both to somebody else.
 */
void virtq_abandon(struct virtq *vq);

/* Why the queue is broken (a constant string, e.g. "descriptor loop"), or NULL. */
const char *virtq_broken(const struct virtq *vq);
/* Breaks it by hand: for rules that only the device type knows. */
void virtq_break(struct virtq *vq, const char *reason);

/*
 * Asks the driver not to kick (a hint). Returns whether it has kicked since virtq_enable_kicks(), or
 * is about to: a chain waits.
 */
bool virtq_disable_kicks(struct virtq *vq);
/*
 * Asks the driver to kick, and then looks once more: returns true when kicks are on and no chain
 * waits, so that the caller may sleep; false (kicks off again) when there is one. A broken queue is
 * never in the way of sleep: true, and kicks are left as they are.
 */
bool virtq_enable_kicks(struct virtq *vq);

/* Entries: no more chains than that are there at a time. */
uint32_t virtq_size(const struct virtq *vq);
/* Chains popped and not pushed. */
uint32_t virtq_in_flight(const struct virtq *vq);
/* Chains that the in-flight region had and that are yet to be popped again. */
uint32_t virtq_waiting(const struct virtq *vq);
/*
 * Where the queue stands: what GET_VRING_BASE answers. Split: the index of the next avail entry to
 * pop. Packed: the next descriptor to pop in bits 0 – 14, its wrap counter in bit 15, and the same
 * of the next one to use (after what was published) in bits 16 – 31.
 */
uint32_t virtq_base(const struct virtq *vq);
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
