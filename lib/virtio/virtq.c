/* SPDX-License-Identifier: BSD-3-Clause */
/* What does not depend on the ring's format: making a queue, slots, room for long chains. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "virtq_chain.h"
#include "virtq_inflight.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian");
_Static_assert(sizeof(struct vring_desc) == 16, "virtio 1.2 §2.7.5");
_Static_assert(offsetof(struct vring_desc, next) == 14, "virtio 1.2 §2.7.5");
_Static_assert(offsetof(struct vring_avail, ring) == 4, "virtio 1.2 §2.7.6");
_Static_assert(offsetof(struct vring_used, ring) == 4, "virtio 1.2 §2.7.8");
_Static_assert(sizeof(struct vring_used_elem) == 8, "virtio 1.2 §2.7.8");

/*
 * Iovecs for long chains, in all slots together: 8 MiB of address space a queue. With any sane
 * queue this is enough for every slot; else chains wait for each other (VIRTQ_MAX_SIZE of the
 * longest would be 16 GiB).
 */
#define POOL_IOVS (512u * 1024)

struct virtq_layout
virtq_layout(uint16_t size, bool packed, bool event_idx)
{
	uint32_t event = event_idx ? sizeof(uint16_t) : 0;

	if (packed)
		return (struct virtq_layout){
			/* virtio 1.2 §2.8.10.1 */
			.desc = {size * sizeof(struct vring_packed_desc), 16},
			.avail = {sizeof(struct vring_packed_desc_event), 4},
			.used = {sizeof(struct vring_packed_desc_event), 4},
		};
	return (struct virtq_layout){
		/* virtio 1.2 §2.7 */
		.desc = {size * sizeof(struct vring_desc), VRING_DESC_ALIGN_SIZE},
		.avail = {sizeof(struct vring_avail) + size * sizeof(uint16_t) + event,
			  VRING_AVAIL_ALIGN_SIZE},
		.used = {sizeof(struct vring_used) + size * sizeof(struct vring_used_elem) + event,
			 VRING_USED_ALIGN_SIZE},
	};
}

static bool
part_is_valid(const void *part, const struct virtq_part *layout)
{
	return part && (uintptr_t)part % layout->align == 0;
}

static bool
opts_are_valid(const struct virtq_opts *opts)
{
	struct virtq_layout layout = virtq_layout(opts->size, opts->packed, opts->event_idx);

	return opts->size != 0 && opts->size <= VIRTQ_MAX_SIZE &&
	       (opts->size & (opts->size - 1)) == 0 && opts->max_segments <= VIRTQ_MAX_SIZE &&
	       opts->mem && part_is_valid(opts->desc, &layout.desc) &&
	       part_is_valid(opts->avail, &layout.avail) && part_is_valid(opts->used, &layout.used);
}

/* Zeroed, and taken from the machine page by page when touched; NULL: no memory. */
static void *
map_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* With one more, which packed rings need: see guess_slot() in virtq_packed.c. */
static size_t
slots_bytes(const struct virtq *vq)
{
	return (vq->size + 1) * vq->slot_stride;
}

static size_t
pool_bytes(const struct virtq *vq)
{
	return (size_t)vq->part_count * vq->part_iovs * sizeof(struct iovec);
}

static size_t
scratch_bytes(const struct virtq *vq)
{
	return vq->max_chain * sizeof(struct vring_desc);
}

static void
unmap_memory(void *memory, size_t size)
{
	if (memory)
		munmap(memory, size);
}

static void
free_slots(struct virtq *vq)
{
	unmap_memory(vq->scratch, scratch_bytes(vq));
	unmap_memory(vq->part_pool, pool_bytes(vq));
	unmap_memory(vq->slots, slots_bytes(vq));
}

static int
alloc_slots(struct virtq *vq)
{
	uint32_t i;

	vq->slots = map_memory(slots_bytes(vq));
	vq->part_pool = map_memory(pool_bytes(vq));
	vq->scratch = map_memory(scratch_bytes(vq));
	if (!vq->slots || !vq->part_pool || !vq->scratch) {
		free_slots(vq);
		return -ENOMEM;
	}
	for (i = 0; i < vq->part_count; i++)
		vq->free_parts[i] =
			vq->part_pool + (size_t)(vq->part_count - 1 - i) * vq->part_iovs;
	vq->free_count = vq->part_count;
	return 0;
}

/* Allocates the queue itself, with its numbers set. */
static int
alloc_queue(const struct virtq_opts *opts, struct virtq **vq)
{
	uint32_t max_chain, part_iovs, part_count;
	struct virtq *new_vq;
	size_t bytes;

	max_chain = opts->max_segments > opts->size ? opts->max_segments : opts->size;
	/* Buffers may cross region borders; those that do not overlap cross each only once. */
	part_iovs = max_chain + GUEST_MEM_MAX_REGIONS;
	part_count = POOL_IOVS / part_iovs;
	if (part_count > opts->size)
		part_count = opts->size;
	bytes = sizeof(*new_vq) + part_count * sizeof(new_vq->free_parts[0]);
	bytes = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	new_vq = aligned_alloc(CACHE_LINE, bytes);
	if (!new_vq)
		return -ENOMEM;
	memset(new_vq, 0, bytes);
	new_vq->size = opts->size;
	new_vq->mask = opts->size - 1;
	new_vq->max_chain = max_chain;
	new_vq->part_iovs = part_iovs;
	new_vq->part_count = part_count;
	new_vq->slot_stride = sizeof(struct virtq_slot) + opts->ctx_size;
	new_vq->slot_stride = (new_vq->slot_stride + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	*vq = new_vq;
	return 0;
}

/* Sets what depends on the format, and where the queue goes on. */
static int
init_rings(struct virtq *vq, const struct virtq_opts *opts)
{
	bool inflight = opts->inflight != NULL;

	vq->mem = opts->mem;
	vq->packed = opts->packed;
	vq->event_idx = opts->event_idx;
	vq->indirect = opts->indirect;
	vq->kicks_enabled = true;
	if (opts->packed) {
		vq->ops = virtq_packed_ops[opts->event_idx][inflight];
		vq->ring = opts->desc;
		vq->ring_end = vq->ring + vq->size;
		vq->driver_event = opts->avail;
		vq->device_event = opts->used;
		return virtq_packed_init(vq, opts->base);
	}
	vq->ops = virtq_split_ops[opts->event_idx][inflight];
	vq->desc = opts->desc;
	vq->avail = opts->avail;
	vq->used = opts->used;
	return virtq_split_init(vq, opts->base);
}

int
virtq_create(const struct virtq_opts *opts, struct virtq **vq)
{
	struct virtq *new_vq;
	int rc;

	if (!opts_are_valid(opts))
		return -EINVAL;
	if (opts->ctx_size > SIZE_MAX / 2 / VIRTQ_MAX_SIZE)
		return -ENOMEM;
	rc = alloc_queue(opts, &new_vq);
	if (rc < 0)
		return rc;
	rc = alloc_slots(new_vq);
	if (rc < 0)
		goto free_queue;
	rc = init_rings(new_vq, opts);
	if (rc == 0)
		rc = virtq_inflight_start(new_vq, opts);
	if (rc < 0)
		goto free_slots;
	*vq = new_vq;
	return 0;

free_slots:
	free_slots(new_vq);
free_queue:
	free(new_vq);
	return rc;
}

void
virtq_destroy(struct virtq *vq)
{
	if (!vq)
		return;
	virtq_inflight_stop(vq);
	free_slots(vq);
	free(vq);
}

/* ---- chains ---- */

bool
virtq_stop(struct virtq *vq, const char *reason)
{
	virtq_break(vq, reason);
	return false;
}

/* Moves the chain's iovecs to a part of the pool. */
static bool
take_part(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain)
{
	size_t count = chain->next - slot->iov;

	if (slot->iov != slot->inline_iov)
		return virtq_stop(vq, "chain of too many buffers");
	if (vq->free_count == 0)
		return false;
	slot->iov = vq->free_parts[--vq->free_count];
	memcpy(slot->iov, slot->inline_iov, count * sizeof(*slot->iov));
	chain->next = slot->iov + count;
	chain->end = slot->iov + vq->part_iovs;
	return true;
}

void
virtq_release_part(struct virtq *vq, struct virtq_slot *slot)
{
	if (slot->iov == slot->inline_iov)
		return;
	vq->free_parts[vq->free_count++] = slot->iov;
	slot->iov = slot->inline_iov;
}

void
virtq_push_long(struct virtq *vq, struct virtq_slot *slot, uint32_t written)
{
	virtq_release_part(vq, slot);
	vq->ops.push(vq, slot, written);
}

bool
virtq_chain_add_slowly(struct virtq *vq, struct virtq_slot *slot, struct virtq_chain *chain,
		       uint64_t gpa, uint32_t len)
{
	uint32_t region = 0;
	int count;

	for (;;) {
		count = guest_mem_map_split(vq->mem, &region, gpa, len, chain->next,
					    (uint32_t)(chain->end - chain->next));
		if (count != -ENOBUFS)
			break;
		if (!take_part(vq, slot, chain))
			return false;
	}
	if (count < 0)
		return virtq_stop(vq, "buffer outside guest memory");
	chain->next += count;
	if (count > 0)
		vq->buffer_region = vq->mem->regions[region];
	return true;
}

/* Of as many bytes as the table has. Each byte is read once. */
static void
copy_table(struct virtq *vq, const struct iovec *parts, int count)
{
	uint8_t *to = (uint8_t *)vq->scratch;
	size_t i;

	for (; count > 0; count--, parts++)
		for (i = 0; i < parts->iov_len; i++)
			*to++ = __atomic_load_n((const uint8_t *)parts->iov_base + i,
						__ATOMIC_RELAXED);
}

bool
virtq_find_table_slowly(struct virtq *vq, uint64_t gpa, struct virtq_table *table)
{
	uint32_t bytes = (uint32_t)(table->count * sizeof(struct vring_desc)), region = 0;
	struct iovec parts[GUEST_MEM_MAX_REGIONS];
	int count;

	count = guest_mem_map_split(vq->mem, &region, gpa, bytes, parts, GUEST_MEM_MAX_REGIONS);
	if (count < 0)
		return virtq_stop(vq, "indirect table outside guest memory");
	if (count == 1 && (uintptr_t)parts->iov_base % sizeof(uint64_t) == 0) {
		vq->table_region = vq->mem->regions[region];
		table->words = parts->iov_base;
		return true;
	}
	copy_table(vq, parts, count);
	table->words = vq->scratch;
	return true;
}

/* ---- a queue without rings ---- */

static uint32_t
pop_nothing(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	(void)vq;
	(void)slots;
	(void)max;
	return 0;
}

static void
push_nowhere(struct virtq *vq, struct virtq_slot *slot, uint32_t written)
{
	(void)written;
	virtq_release_part(vq, slot);
	slot->state = SLOT_FREE;
	vq->in_flight--;
}

static bool
publish_nothing(struct virtq *vq)
{
	(void)vq;
	return false;
}

static bool
leave_kicks(struct virtq *vq)
{
	(void)vq;
	return false;
}

static bool
have_kicks(struct virtq *vq)
{
	(void)vq;
	return true;
}

void
virtq_abandon(struct virtq *vq)
{
	vq->ops = (struct virtq_ops){pop_nothing, push_nowhere, publish_nothing, leave_kicks,
				     have_kicks};
}

/* ---- the public functions ---- */

uint32_t
virtq_pop(struct virtq *vq, struct virtq_slot **slots, uint32_t max)
{
	return vq->ops.pop(vq, slots, max);
}

void
virtq_push(struct virtq *vq, struct virtq_slot *slot, uint32_t written)
{
	vq->ops.push(vq, slot, written);
}

bool
virtq_publish(struct virtq *vq)
{
	return vq->ops.publish(vq);
}

const char *
virtq_broken(const struct virtq *vq)
{
	return vq->broken;
}

void
virtq_break(struct virtq *vq, const char *reason)
{
	if (!vq->broken)
		vq->broken = reason;
}

bool
virtq_disable_kicks(struct virtq *vq)
{
	return vq->ops.disable_kicks(vq);
}

bool
virtq_enable_kicks(struct virtq *vq)
{
	if (vq->broken)
		return true;
	if (virtq_waiting(vq) > 0) {
		vq->ops.disable_kicks(vq);
		return false;
	}
	return vq->ops.enable_kicks(vq);
}

uint32_t
virtq_size(const struct virtq *vq)
{
	return vq->size;
}

uint32_t
virtq_in_flight(const struct virtq *vq)
{
	return vq->in_flight;
}

uint32_t
virtq_waiting(const struct virtq *vq)
{
	return vq->inflight ? virtq_inflight_waiting(vq) : 0;
}

uint32_t
virtq_base(const struct virtq *vq)
{
	if (!vq->packed)
		return vq->last_avail;
	return virtq_off_wrap(vq, vq->last_avail) | (uint32_t)virtq_off_wrap(vq, vq->used_published)
							    << 16;
}

struct virtq_slot *
virtq_slot_at(struct virtq *vq, uint32_t i)
{
	assert(i < vq->size);
	return virtq_slot_of(vq, i);
}
