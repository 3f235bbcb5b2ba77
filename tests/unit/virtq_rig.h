/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest made by hand for tests of virtq: some regions of memory, one queue, and the driver's side
 * of its rings. Rings and regions are allocated one by one and no larger than they must be, so that
 * the address sanitizer sees each access that is outside.
 */
#ifndef VHOSTD_VIRTQ_RIG_H
#define VHOSTD_VIRTQ_RIG_H

#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest_mem.h"
#include "virtq.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#define NEXT     VRING_DESC_F_NEXT
#define WRITE    VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* A, B and C touch each other in the guest; D ends with the address space; BIG reads as zeroes. */
#define A_GPA    0x10000ULL
#define A_SIZE   0x10000ULL
#define B_GPA    (A_GPA + A_SIZE)
#define B_SIZE   24ULL
#define C_GPA    (B_GPA + B_SIZE)
#define C_SIZE   0x10000ULL
#define C_END    (C_GPA + C_SIZE)
#define BIG_GPA  0x100000000ULL
#define BIG_SIZE 0x200000000ULL
#define D_GPA    (0 - 0x1000ULL)
#define D_SIZE   0x1000ULL

#define RIG_REGIONS 5

struct rig {
	struct virtq *vq;
	struct virtq_opts opts;
	struct guest_mem *mem;
	struct guest_mem_region regions[RIG_REGIONS];
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t used_seen; /* the driver's place in the used ring */
};

static inline void
rig_make_memory(struct rig *rig)
{
	static const struct guest_mem_region layout[RIG_REGIONS] = {
		{.gpa = A_GPA, .size = A_SIZE},     {.gpa = B_GPA, .size = B_SIZE},
		{.gpa = C_GPA, .size = C_SIZE},     {.gpa = D_GPA, .size = D_SIZE},
		{.gpa = BIG_GPA, .size = BIG_SIZE},
	};
	int i;

	memcpy(rig->regions, layout, sizeof(layout));
	for (i = 0; i < RIG_REGIONS; i++) {
		struct guest_mem_region *region = &rig->regions[i];

		if (region->gpa == BIG_GPA)
			region->hva = mmap(NULL, BIG_SIZE, PROT_READ,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		else
			region->hva = calloc(1, region->size);
		assert_non_null(region->hva);
		assert_ptr_not_equal(region->hva, MAP_FAILED);
	}
	assert_int_equal(guest_mem_create(rig->regions, RIG_REGIONS, &rig->mem), 0);
}

/* A new in-flight region for the queue with these options. The caller frees opts->inflight. */
static inline void
rig_track(struct virtq_opts *opts)
{
	opts->inflight_size = virtq_inflight_size(opts->packed, opts->size);
	opts->inflight = aligned_alloc(64, opts->inflight_size);
	assert_non_null(opts->inflight);
	memset(opts->inflight, 0, opts->inflight_size);
}

/* Makes another queue on the same rings; indices start at `index`. */
static inline void
rig_restart(struct rig *rig, uint16_t index)
{
	virtq_destroy(rig->vq);
	rig->vq = NULL;
	rig->avail->idx = index;
	rig->avail->flags = 0;
	rig->used->idx = index;
	rig->used->flags = 0;
	rig->used_seen = index;
	rig->opts.last_avail = index;
	assert_int_equal(virtq_create(&rig->opts, &rig->vq), 0);
}

static inline void
rig_open_with(struct rig *rig, const struct virtq_opts *opts, uint16_t index)
{
	struct virtq_layout layout = virtq_layout(opts->size, false, opts->event_idx);

	memset(rig, 0, sizeof(*rig));
	rig_make_memory(rig);
	rig->desc = aligned_alloc(16, layout.desc.bytes);
	rig->avail = calloc(1, layout.avail.bytes);
	rig->used = calloc(1, layout.used.bytes);
	assert_true(rig->desc && rig->avail && rig->used);
	memset(rig->desc, 0, layout.desc.bytes);
	rig->opts = *opts;
	rig->opts.desc = rig->desc;
	rig->opts.avail = rig->avail;
	rig->opts.used = rig->used;
	rig->opts.mem = rig->mem;
	rig_restart(rig, index);
}

static inline void
rig_open(struct rig *rig, uint16_t size)
{
	struct virtq_opts opts = {.size = size, .indirect = true, .ctx_size = 64};

	rig_open_with(rig, &opts, 0);
}

static inline void
rig_close(struct rig *rig)
{
	int i;

	virtq_destroy(rig->vq);
	guest_mem_destroy(rig->mem);
	for (i = 0; i < RIG_REGIONS; i++) {
		if (rig->regions[i].gpa == BIG_GPA)
			munmap(rig->regions[i].hva, BIG_SIZE);
		else
			free(rig->regions[i].hva);
	}
	free(rig->desc);
	free(rig->avail);
	free(rig->used);
}

/* Where gpa is here; NULL outside. Knows nothing of guest_mem. */
static inline uint8_t *
rig_pointer(const struct rig *rig, uint64_t gpa)
{
	int i;

	for (i = 0; i < RIG_REGIONS; i++)
		if (gpa >= rig->regions[i].gpa && gpa - rig->regions[i].gpa < rig->regions[i].size)
			return rig->regions[i].hva + (gpa - rig->regions[i].gpa);
	return NULL;
}

static inline void
rig_write(const struct rig *rig, uint64_t gpa, const void *data, size_t bytes)
{
	const uint8_t *from = data;
	size_t i;

	for (i = 0; i < bytes; i++)
		*rig_pointer(rig, gpa + i) = from[i];
}

static inline void
rig_desc(struct rig *rig, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	rig->desc[i] = (struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next};
}

/* The i-th entry of an indirect table, which may lie anywhere. */
static inline void
rig_table_desc(struct rig *rig, uint64_t table, uint32_t i, uint64_t addr, uint32_t len,
	       uint16_t flags, uint16_t next)
{
	struct vring_desc desc = {.addr = addr, .len = len, .flags = flags, .next = next};

	rig_write(rig, table + i * sizeof(desc), &desc, sizeof(desc));
}

static inline void
rig_offer(struct rig *rig, uint16_t head)
{
	rig->avail->ring[rig->avail->idx % rig->opts.size] = head;
	__atomic_store_n(&rig->avail->idx, rig->avail->idx + 1, __ATOMIC_RELEASE);
}

/* One readable byte at A_GPA, the smallest chain there is. */
static inline void
rig_offer_small(struct rig *rig, uint16_t head)
{
	rig_desc(rig, head, A_GPA, 1, 0, 0);
	rig_offer(rig, head);
}

static inline struct virtq_slot *
rig_pop(struct rig *rig)
{
	struct virtq_slot *slot = NULL;
	uint32_t count = virtq_pop(rig->vq, &slot, 1);

	if (virtq_broken(rig->vq))
		fail_msg("broken: %s", virtq_broken(rig->vq));
	assert_int_equal(count, 1);
	assert_non_null(slot);
	return slot;
}

/* The driver takes the next used entry, which must be this. */
static inline void
rig_expect_used(struct rig *rig, uint32_t id, uint32_t len)
{
	const struct vring_used_elem *elem = &rig->used->ring[rig->used_seen % rig->opts.size];

	assert_int_not_equal(rig->used_seen, __atomic_load_n(&rig->used->idx, __ATOMIC_ACQUIRE));
	assert_int_equal(elem->id, id);
	assert_int_equal(elem->len, len);
	rig->used_seen++;
}

static inline void
rig_expect_iov(const struct rig *rig, const struct iovec *iov, uint64_t gpa, size_t len)
{
	assert_ptr_equal(iov->iov_base, rig_pointer(rig, gpa));
	assert_int_equal(iov->iov_len, len);
}

#endif
