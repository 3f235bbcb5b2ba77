/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * Virtqueues of any kind under a driver that does anything. The input is a script: how a queue is
 * made, what the driver and the front-end write into shared memory, and what the device does
 * meanwhile. Checked against virtq_model.h: what is popped is what the descriptors say, a queue
 * breaks if and only if a rule was broken, nothing but the device's own fields is written, used
 * entries are right, and every chain that was popped can be pushed.
 */
#include <errno.h>

#include "virtq.h"
#include "virtq_model.h"

#define MAX_OPS      512
#define MAX_CHECKED  256 /* entries; rings of more are only created */
#define MAX_POP      40
#define MAX_SPINS    70000 /* chains that are not looked at: both counters of a ring wrap */
#define INDIRECT_GPA (C_GPA + 512)

/* A, B and C touch each other; D ends with the address space. */
#define A_GPA  0x1000ULL
#define A_SIZE 1024
#define B_GPA  (A_GPA + A_SIZE)
#define B_SIZE 24
#define C_GPA  (B_GPA + B_SIZE)
#define C_SIZE 1024
#define D_SIZE 256
#define D_GPA  (0 - (uint64_t)D_SIZE)

enum area_index { DESC, AVAIL, USED, INFLIGHT, A, B, C, D, AREAS };

/* Shared memory: of its exact size, and what the driver thinks is there. */
struct area {
	uint8_t *bytes;
	uint8_t *shadow;
	size_t size;
	bool device_writes;
};

struct held {
	struct virtq_slot *slot;
	struct model_chain *chain; /* as it was popped */
};

static struct {
	struct input in;
	struct area areas[AREAS];
	struct guest_mem_region regions[4];
	struct guest_mem *mem;
	struct virtq_opts opts;
	struct virtq *vq; /* NULL: it could not be made */
	struct model_ring ring;
	bool checked; /* the model may be asked */

	struct held held[MAX_CHECKED];
	uint32_t held_count;
	struct held batch[MAX_CHECKED]; /* pushed, not published */
	uint32_t batch_count;
	uint32_t batch_pushed; /* all of them */
	uint32_t batch_descs;  /* packed */
	uint16_t used_next;    /* split: what used->idx will be */
	uint16_t place;        /* packed: where the driver makes the next one available */
	uint32_t spins;
} world;

/* ---- shared memory ---- */

static void
area_resize(enum area_index index, size_t size)
{
	struct area *area = &world.areas[index];

	if (area->bytes != NULL && area->size == size)
		return;
	free(area->bytes);
	free(area->shadow);
	area->bytes = calloc(1, size);
	area->shadow = calloc(1, size);
	area->size = size;
	require(area->bytes != NULL && area->shadow != NULL);
}

static void
driver_write(enum area_index index, size_t offset, const void *data, size_t size)
{
	struct area *area = &world.areas[index];

	if (area->bytes == NULL || offset >= area->size)
		return;
	if (size > area->size - offset)
		size = area->size - offset;
	memcpy(area->bytes + offset, data, size);
	memcpy(area->shadow + offset, data, size);
}

static void
driver_write_u16(enum area_index index, size_t offset, uint16_t value)
{
	driver_write(index, offset, &value, sizeof(value));
}

static uint16_t
load_u16(enum area_index index, size_t offset)
{
	uint16_t value;

	memcpy(&value, world.areas[index].bytes + offset, sizeof(value));
	return value;
}

static void
check_memory(void)
{
	for (int i = 0; i < AREAS; i++) {
		struct area *area = &world.areas[i];

		if (area->bytes == NULL || area->device_writes)
			continue;
		require(memcmp(area->bytes, area->shadow, area->size) == 0);
	}
}

static void
make_memory(void)
{
	static const uint64_t gpas[] = {A_GPA, B_GPA, C_GPA, D_GPA};
	static const size_t sizes[] = {A_SIZE, B_SIZE, C_SIZE, D_SIZE};

	for (int i = 0; i < 4; i++) {
		area_resize(A + i, sizes[i]);
		world.regions[i] = (struct guest_mem_region){
			.gpa = gpas[i], .size = sizes[i], .hva = world.areas[A + i].bytes};
	}
	require(guest_mem_create(world.regions, 4, &world.mem) == 0);
}

/* ---- the driver's writes ---- */

static uint64_t
pick_gpa(void)
{
	static const uint64_t gpas[] = {A_GPA, B_GPA - 8, C_GPA, D_GPA};
	static const uint64_t wild[] = {0,          A_GPA - 1,          C_GPA + C_SIZE,
					UINT64_MAX, C_GPA + C_SIZE - 1, D_GPA - 1,
					B_GPA,      C_GPA - 1};
	uint8_t kind = input_u8(&world.in);

	if (kind < 0xe0)
		return gpas[kind & 3] + (uint64_t)(kind >> 2) * (kind & 3 ? 2 : 16);
	if (kind < 0xf0)
		return A_GPA + input_u16(&world.in) % (A_SIZE + B_SIZE + C_SIZE);
	if (kind < 0xf8)
		return wild[kind & 7];
	return input_u64(&world.in);
}

static uint32_t
pick_len(void)
{
	uint8_t kind = input_u8(&world.in);

	if (kind < 0xf0)
		return kind;
	return kind < 0xf8 ? input_u16(&world.in) : input_u32(&world.in);
}

/* Table entries for a chain that is mostly right: readable ones, then writable ones. */
static void
fill_table(uint8_t *table, uint32_t count)
{
	uint32_t readable = input_u8(&world.in) % (count + 1);

	for (uint32_t i = 0; i < count; i++) {
		struct vring_desc desc = {.addr = pick_gpa(), .len = pick_len()};
		struct vring_packed_desc packed = {.addr = desc.addr, .len = desc.len};

		desc.flags = i < readable ? 0 : VRING_DESC_F_WRITE;
		desc.next = (uint16_t)(i + 1);
		if (i + 1 < count)
			desc.flags |= VRING_DESC_F_NEXT;
		packed.flags = desc.flags & ~VRING_DESC_F_NEXT;
		memcpy(table + i * sizeof(desc), world.opts.packed ? (void *)&packed : &desc,
		       sizeof(desc));
	}
}

/* An indirect table; returns the descriptor that refers to it. */
static struct vring_desc
write_table(void)
{
	uint32_t count = 1 + input_u8(&world.in) % 12;
	uint64_t gpa = INDIRECT_GPA + input_u8(&world.in);
	uint8_t table[12 * sizeof(struct vring_desc)];

	fill_table(table, count);
	driver_write(C, gpa - C_GPA, table, count * sizeof(struct vring_desc));
	return (struct vring_desc){.addr = gpa,
				   .len = (uint32_t)(count * sizeof(struct vring_desc)),
				   .flags = VRING_DESC_F_INDIRECT};
}

/* Descriptors of a chain, direct or (the last one) indirect, without ring positions. */
static uint32_t
make_chain(struct vring_desc descs[8])
{
	uint8_t kind = input_u8(&world.in);
	uint32_t count = 1 + (kind & 7), readable = (kind >> 3) & 7;

	if (count > world.opts.size)
		count = world.opts.size;
	for (uint32_t i = 0; i < count; i++)
		descs[i] = (struct vring_desc){.addr = pick_gpa(),
					       .len = pick_len(),
					       .flags = i < readable ? 0 : VRING_DESC_F_WRITE};
	if (kind & 0x40)
		descs[count - 1] = write_table();
	return count;
}

static void
offer_split(const struct vring_desc *descs, uint32_t count, uint16_t head)
{
	uint16_t mask = world.opts.size - 1, index = load_u16(AVAIL, 2);

	for (uint32_t i = 0; i < count; i++) {
		struct vring_desc desc = descs[i];
		uint16_t at = (head + i) & mask;

		desc.next = (at + 1) & mask;
		if (i + 1 < count)
			desc.flags |= VRING_DESC_F_NEXT;
		driver_write(DESC, at * sizeof(desc), &desc, sizeof(desc));
	}
	driver_write_u16(AVAIL, 4 + 2 * (size_t)(index & mask), head & mask);
	driver_write_u16(AVAIL, 2, index + 1);
}

static void
offer_packed(const struct vring_desc *descs, uint32_t count, uint16_t id)
{
	for (uint32_t i = 0; i < count; i++) {
		struct vring_packed_desc desc = {.addr = descs[i].addr,
						 .len = descs[i].len,
						 .id = id & (world.opts.size - 1),
						 .flags = descs[i].flags};

		desc.flags |= world.place & MODEL_WRAP ? MODEL_AVAIL : MODEL_USED;
		if (i + 1 < count)
			desc.flags |= VRING_DESC_F_NEXT;
		driver_write(DESC, (world.place & (MODEL_WRAP - 1)) * sizeof(desc), &desc,
			     sizeof(desc));
		world.place = model_next_place(&world.ring, world.place, 1);
	}
}

static void
offer(const struct vring_desc *descs, uint32_t count, uint16_t id)
{
	if (world.opts.packed)
		offer_packed(descs, count, id);
	else
		offer_split(descs, count, id);
}

/* ---- the device ---- */

static bool
is_held(const struct held *list, uint32_t count, const struct virtq_slot *slot)
{
	for (uint32_t i = 0; i < count; i++) {
		if (list[i].slot == slot)
			return true;
	}
	return false;
}

/* Whether a chain of that head or id may not come now. */
static bool
is_busy(uint16_t id)
{
	struct virtq_slot *slot = virtq_slot_at(world.vq, id);

	return is_held(world.held, world.held_count, slot) ||
	       (world.opts.inflight != NULL && is_held(world.batch, world.batch_count, slot));
}

static bool
is_inside_memory(const struct iovec *iov)
{
	for (int i = 0; i < 4; i++) {
		uint64_t offset = (uint64_t)((uint8_t *)iov->iov_base - world.regions[i].hva);

		if (offset < world.regions[i].size)
			return iov->iov_len <= world.regions[i].size - offset;
	}
	return false;
}

/* What holds for any chain. */
static void
check_slot(const struct virtq_slot *slot)
{
	uint64_t readable = 0, writable = 0;

	for (uint32_t i = 0; i < slot->readable_count + slot->writable_count; i++) {
		require(is_inside_memory(&slot->iov[i]));
		if (i < slot->readable_count)
			readable += slot->iov[i].iov_len;
		else
			writable += slot->iov[i].iov_len;
	}
	require(readable == slot->readable_bytes && writable == slot->writable_bytes);
	require(readable + writable <= 1ULL << 32);
	require(slot->head < world.opts.size);
	require(slot == virtq_slot_at(world.vq, slot->head));
}

static bool
slot_is_chain(const struct virtq_slot *slot, const struct model_chain *chain)
{
	return slot->head == chain->id && slot->readable_bytes == chain->readable_bytes &&
	       slot->writable_bytes == chain->writable_bytes &&
	       model_same_bytes(slot->iov, slot->readable_count, chain->iov,
				chain->readable_count) &&
	       model_same_bytes(slot->iov + slot->readable_count, slot->writable_count,
				chain->iov + chain->readable_count,
				chain->count - chain->readable_count);
}

static void
hold(struct virtq_slot *slot, const struct model_chain *chain)
{
	size_t bytes = offsetof(struct model_chain, iov) + chain->count * sizeof(struct iovec);
	struct held *held = &world.held[world.held_count++];

	require(world.held_count <= world.opts.size);
	held->slot = slot;
	held->chain = malloc(bytes);
	require(held->chain != NULL);
	memcpy(held->chain, chain, bytes);
}

/* One from the in-flight region: its descriptors are as they came from there. */
static void
hold_resubmitted(struct virtq_slot *slot)
{
	static struct model_chain chain;

	memset(&chain, 0, offsetof(struct model_chain, iov));
	chain.id = slot->head;
	chain.ring_descs = slot->ring_descs;
	chain.readable_bytes = slot->readable_bytes;
	chain.writable_bytes = slot->writable_bytes;
	chain.readable_count = slot->readable_count;
	chain.count = slot->readable_count + slot->writable_count;
	require(chain.count <= MODEL_IOVS);
	memcpy(chain.iov, slot->iov, chain.count * sizeof(chain.iov[0]));
	require(!is_busy(slot->head));
	hold(slot, &chain);
}

/* What the next chain is, behind `done` others of this pop. *place is where it begins. */
static enum model_verdict
next_chain(uint32_t *place, uint16_t avail_index, uint32_t *room, struct model_chain *chain)
{
	enum model_verdict verdict;
	uint16_t available;

	if (world.opts.packed) {
		verdict = model_packed(&world.ring, (uint16_t)*place, *room, chain);
		*place = model_next_place(&world.ring, (uint16_t)*place, chain->ring_descs);
		*room -= chain->ring_descs < *room ? chain->ring_descs : *room;
		return verdict;
	}
	available = avail_index - (uint16_t)*place;
	if (available == 0)
		return MODEL_NONE;
	if (available > world.opts.size)
		return MODEL_BROKEN;
	verdict = model_split(&world.ring,
			      load_u16(AVAIL, 4 + 2 * (*place & (world.opts.size - 1u))), chain);
	*place = (uint16_t)(*place + 1);
	return verdict;
}

/* The new ones of a pop, from base on; limited: it was not free to take more. */
static void
check_popped(struct virtq_slot **slots, uint32_t count, uint32_t base, bool limited)
{
	static struct model_chain chain;
	uint32_t place = base & 0xffff, room = 0;
	uint16_t avail_index = world.opts.packed ? 0 : load_u16(AVAIL, 2);
	enum model_verdict verdict;

	if (world.opts.packed)
		room = world.opts.size - model_distance(&world.ring, base >> 16, base & 0xffff);
	for (uint32_t i = 0; i < count; i++) {
		verdict = next_chain(&place, avail_index, &room, &chain);
		require(verdict == MODEL_CHAIN || verdict == MODEL_EITHER);
		require(!is_busy(chain.id));
		if (verdict == MODEL_CHAIN)
			require(slot_is_chain(slots[i], &chain));
		else
			hold_resubmitted(slots[i]);
		if (verdict == MODEL_CHAIN)
			hold(slots[i], &chain);
	}
	require((virtq_base(world.vq) & 0xffff) == place);
	if (limited)
		return;
	verdict = next_chain(&place, avail_index, &room, &chain);
	if (verdict == MODEL_CHAIN && is_busy(chain.id))
		verdict = MODEL_BROKEN;
	if (verdict != MODEL_EITHER)
		require((virtq_broken(world.vq) != NULL) == (verdict == MODEL_BROKEN));
	require(verdict != MODEL_CHAIN);
}

static void
device_pop(uint32_t max)
{
	struct virtq_slot *slots[MAX_POP];
	bool was_broken = virtq_broken(world.vq) != NULL;
	uint32_t waiting = virtq_waiting(world.vq), base = virtq_base(world.vq);
	uint32_t count = virtq_pop(world.vq, slots, max), old;

	require(count <= max);
	require(!was_broken || count == 0);
	for (uint32_t i = 0; i < count; i++)
		check_slot(slots[i]);
	old = waiting - virtq_waiting(world.vq);
	require(old <= count);
	for (uint32_t i = 0; i < old; i++)
		hold_resubmitted(slots[i]);
	if (virtq_waiting(world.vq) > 0) {
		require(count == old);
		require(was_broken || count == max || virtq_broken(world.vq) != NULL);
	} else {
		check_popped(slots + old, count - old, base, was_broken || count == max);
	}
	require(virtq_in_flight(world.vq) == world.held_count);
}

static void
check_used_split(const struct held *held, uint32_t written)
{
	uint16_t at = world.used_next & (world.opts.size - 1);
	struct vring_used_elem element;

	memcpy(&element, world.areas[USED].bytes + 4 + at * sizeof(element), sizeof(element));
	require(element.id == held->chain->id && element.len == written);
}

static void
device_push(uint32_t which, uint32_t written)
{
	struct held held = world.held[which];

	require(slot_is_chain(held.slot, held.chain));
	virtq_push(world.vq, held.slot, written);
	world.held[which] = world.held[--world.held_count];
	if (!world.opts.packed)
		check_used_split(&held, written);
	world.used_next++;
	world.batch_pushed++;
	world.batch_descs += held.chain->ring_descs;
	free(held.chain);
	held.chain = NULL;
	if (world.batch_count < MAX_CHECKED)
		world.batch[world.batch_count++] = held;
	require(virtq_in_flight(world.vq) == world.held_count);
}

/* Whether the driver asked to hear of what is published now, in a split ring. */
static bool
wants_call_split(uint16_t old)
{
	if (!world.opts.event_idx)
		return !(load_u16(AVAIL, 0) & VRING_AVAIL_F_NO_INTERRUPT);
	return vring_need_event(load_u16(AVAIL, 4 + 2 * (size_t)world.opts.size), world.used_next,
				old);
}

/* In a packed ring; what makes no sense asks for it, too. */
static bool
wants_call_packed(uint16_t place)
{
	uint16_t event = load_u16(AVAIL, 0), flags = load_u16(AVAIL, 2) & 3;

	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (!world.opts.event_idx || flags != VRING_PACKED_EVENT_FLAG_DESC ||
	    (event & (MODEL_WRAP - 1)) >= world.opts.size)
		return true;
	for (uint32_t i = 0; i < world.batch_descs; i++) {
		if (place == event)
			return true;
		place = model_next_place(&world.ring, place, 1);
	}
	return false;
}

/* The batch's first used descriptor, which the driver waits for, and the place behind it. */
static void
check_used_packed(uint16_t place)
{
	uint16_t bits = MODEL_AVAIL | MODEL_USED;
	struct vring_packed_desc desc;

	memcpy(&desc, world.areas[DESC].bytes + (place & (MODEL_WRAP - 1)) * sizeof(desc),
	       sizeof(desc));
	require((desc.flags & bits) == (place & MODEL_WRAP ? bits : 0));
	require(virtq_base(world.vq) >> 16 ==
		model_next_place(&world.ring, place, (uint16_t)world.batch_descs));
}

static void
device_publish(void)
{
	uint16_t place = (uint16_t)(virtq_base(world.vq) >> 16);
	uint16_t old = world.used_next - (uint16_t)world.batch_pushed;
	bool notify = virtq_publish(world.vq);

	if (world.batch_count == 0) {
		require(!notify);
		return;
	}
	if (world.opts.packed) {
		check_used_packed(place);
		require(notify == wants_call_packed(place));
	} else {
		require(load_u16(USED, 2) == world.used_next);
		require(notify == wants_call_split(old));
	}
	world.batch_count = 0;
	world.batch_pushed = 0;
	world.batch_descs = 0;
}

static void
device_kicks(bool enable)
{
	static struct model_chain chain;
	uint32_t base = virtq_base(world.vq), place = base & 0xffff, room = 1;
	bool quiet;

	if (!enable) {
		virtq_disable_kicks(world.vq);
		return;
	}
	quiet = virtq_enable_kicks(world.vq);
	if (virtq_broken(world.vq) != NULL)
		require(quiet);
	else if (virtq_waiting(world.vq) > 0)
		require(!quiet);
	else if (world.opts.packed)
		require(quiet ==
			(model_packed(&world.ring, (uint16_t)place, room, &chain) == MODEL_NONE));
	else
		require(quiet == (load_u16(AVAIL, 2) == (uint16_t)place));
}

/* ---- making queues ---- */

static void
forget_chains(void)
{
	while (world.held_count > 0)
		free(world.held[--world.held_count].chain);
	world.batch_count = 0;
	world.batch_pushed = 0;
	world.batch_descs = 0;
}

static uint16_t
pick_size(void)
{
	static const uint16_t odd[] = {0, 3, 0xffff, 1024, 32768, 0xfff, 512, 0x8001};
	uint8_t kind = input_u8(&world.in);

	return kind < 0xf8 ? (uint16_t)(1u << kind % 9) : odd[kind & 7];
}

/* What a queue is made of, as SET_VRING_* and the features would say it. */
static void
pick_opts(void)
{
	static const uint32_t segments[] = {0, 8, 64, 300};
	struct virtq_opts *opts = &world.opts;
	uint8_t flags;

	memset(opts, 0, sizeof(*opts));
	opts->size = pick_size();
	flags = input_u8(&world.in);
	opts->packed = flags & 1;
	opts->event_idx = flags & 2;
	opts->indirect = !(flags & 4);
	opts->max_segments = segments[flags >> 6];
	opts->ctx_size = 16;
	opts->mem = world.mem;
	opts->base = opts->packed ? VIRTQ_PACKED_BASE_NEW : 0;
	if (flags & 8)
		opts->base = input_u32(&world.in);
	if (flags & 16) {
		opts->inflight_size = virtq_inflight_size(opts->packed, opts->size);
		opts->inflight_reset = input_u8(&world.in) == 1;
	}
}

static void
make_areas(void)
{
	struct virtq_layout layout =
		virtq_layout(world.opts.size, world.opts.packed, world.opts.event_idx);

	area_resize(DESC, layout.desc.bytes);
	area_resize(AVAIL, layout.avail.bytes);
	area_resize(USED, layout.used.bytes);
	/* What the device has written there so far is the driver's now. */
	memcpy(world.areas[DESC].shadow, world.areas[DESC].bytes, layout.desc.bytes);
	world.areas[DESC].device_writes = world.opts.packed;
	world.areas[USED].device_writes = true;
	world.areas[INFLIGHT].device_writes = true;
	world.opts.desc = world.areas[DESC].bytes;
	world.opts.avail = world.areas[AVAIL].bytes;
	world.opts.used = world.areas[USED].bytes;
	if (world.opts.inflight_size == 0)
		return;
	area_resize(INFLIGHT, world.opts.inflight_size);
	world.opts.inflight = world.areas[INFLIGHT].bytes;
}

/* A driver that goes on where the device does. */
static void
follow_device(void)
{
	uint32_t base = virtq_base(world.vq);

	world.place = (uint16_t)base;
	if (world.opts.packed)
		return;
	world.used_next = load_u16(USED, 2);
}

/*
 * On the rings and the region as they are: that of a process that was killed, or of a guest that
 * was reset.
 */
static void
create_queue(void)
{
	bool size_is_valid = world.opts.size != 0 && (world.opts.size & (world.opts.size - 1)) == 0;
	int rc;

	forget_chains();
	virtq_destroy(world.vq);
	world.vq = NULL;
	make_areas();
	world.checked = size_is_valid && world.opts.size <= MAX_CHECKED;
	world.ring = (struct model_ring){
		.size = world.opts.size,
		.indirect = world.opts.indirect,
		.max_chain = world.opts.max_segments > world.opts.size ? world.opts.max_segments
								       : world.opts.size,
		.desc = world.opts.desc,
		.regions = world.regions,
		.region_count = 4,
	};
	rc = virtq_create(&world.opts, &world.vq);
	check_memory();
	if (rc != 0) {
		world.vq = NULL;
		require(rc == -EINVAL || (rc == -EPROTO && world.opts.inflight != NULL));
		require(rc == -EPROTO || !size_is_valid || world.opts.packed);
		return;
	}
	require(size_is_valid);
	require(virtq_waiting(world.vq) <= world.opts.size);
	require(virtq_waiting(world.vq) == 0 || !world.opts.inflight_reset);
	if (world.checked)
		follow_device();
}

/* ---- the script ---- */

static void
op_write(void)
{
	uint8_t index = input_u8(&world.in);
	uint16_t offset = input_u16(&world.in);
	size_t size;
	const uint8_t *data = input_take(&world.in, 1 + (index >> 3), &size);

	driver_write(index & 7, offset, data, size);
}

static void
op_desc(void)
{
	uint16_t at = input_u16(&world.in);
	struct vring_desc desc = {.addr = pick_gpa(), .len = pick_len()};

	desc.flags = input_u16(&world.in);
	desc.next = input_u16(&world.in);
	if (input_u8(&world.in) & 1) {
		desc = write_table();
		desc.next = at;
	}
	driver_write(DESC, (at & (world.opts.size - 1u)) * sizeof(desc), &desc, sizeof(desc));
}

static void
op_chain(void)
{
	struct vring_desc descs[8];
	uint16_t id = input_u8(&world.in);
	uint32_t count = make_chain(descs);

	offer(descs, count, id);
}

/* What is in the descriptors already. */
static void
op_offer(void)
{
	uint16_t index = world.opts.packed ? 0 : load_u16(AVAIL, 2), value = input_u16(&world.in);
	uint8_t count = input_u8(&world.in);

	if (!world.opts.packed) {
		driver_write_u16(AVAIL, 4 + 2 * (size_t)(index & (world.opts.size - 1)), value);
		driver_write_u16(AVAIL, 2, index + (count < 0xf0 ? 1 : count));
		return;
	}
	for (uint32_t i = 0; i <= count % 8u; i++) {
		size_t at = (world.place & (MODEL_WRAP - 1)) * sizeof(struct vring_packed_desc);

		driver_write_u16(DESC, at + offsetof(struct vring_packed_desc, flags),
				 (value & ~(MODEL_AVAIL | MODEL_USED)) |
					 (world.place & MODEL_WRAP ? MODEL_AVAIL : MODEL_USED));
		world.place = model_next_place(&world.ring, world.place, 1);
	}
}

static void
op_pop(void)
{
	device_pop(input_u8(&world.in) % (MAX_POP + 1));
}

static void
op_push(void)
{
	uint8_t which = input_u8(&world.in);
	uint32_t written = input_u16(&world.in);

	if (world.held_count > 0)
		device_push(which % world.held_count, written);
}

static void
op_push_all(void)
{
	while (world.held_count > 0)
		device_push(0, 1);
	device_publish();
}

static void
op_publish(void)
{
	device_publish();
}

static void
op_kicks(void)
{
	device_kicks(input_u8(&world.in) & 1);
}

/* Many chains, one after the other, so that every counter goes round. */
static void
op_spin(void)
{
	uint8_t kind = input_u8(&world.in);
	uint32_t count = kind == 0xff ? MAX_SPINS / 3 : kind;
	uint16_t length = 1 + input_u8(&world.in) % 3;
	struct vring_desc descs[3];

	for (int i = 0; i < 3; i++)
		descs[i] = (struct vring_desc){.addr = A_GPA, .len = 8};
	if (length > world.opts.size)
		length = world.opts.size;
	op_push_all();
	for (; count > 0 && world.spins < MAX_SPINS; count--, world.spins++) {
		struct virtq_slot *slot;

		offer(descs, length, (uint16_t)count);
		if (virtq_pop(world.vq, &slot, 1) == 0)
			break;
		virtq_push(world.vq, slot, 0);
		virtq_publish(world.vq);
		world.used_next++;
	}
}

/* When the driver wants to be called. */
static void
op_event(void)
{
	uint8_t kind = input_u8(&world.in);
	uint16_t value = input_u8(&world.in);

	if (kind >= 0xf0)
		value = input_u16(&world.in);
	else if (!world.opts.packed)
		value += world.used_next - 8;
	else
		value = (value & (world.opts.size - 1)) | (kind & 8 ? MODEL_WRAP : 0);
	if (world.opts.packed) {
		driver_write_u16(AVAIL, 0, value);
		driver_write_u16(AVAIL, 2, kind & 3);
	} else {
		driver_write_u16(AVAIL, 0, kind & 1);
		driver_write_u16(AVAIL, 4 + 2 * (size_t)world.opts.size, value);
	}
}

/* Fields of the in-flight region that say how far a publish had come, and marks. */
static void
op_region(void)
{
	uint8_t kind = input_u8(&world.in), value = input_u8(&world.in);
	uint16_t mask = world.opts.size - 1, entry_bytes = world.opts.packed ? 32 : 16;

	if (world.opts.inflight == NULL)
		return;
	if (kind & 4) {
		kind &= 1;
		driver_write(INFLIGHT, (world.opts.packed ? 32 : 16) + (value & mask) * entry_bytes,
			     &kind, 1);
	} else if (world.opts.packed) {
		driver_write_u16(INFLIGHT, kind & 1 ? 16 : 18, value & mask);
		driver_write_u16(INFLIGHT, 20, (kind >> 4 & 1) | (kind >> 5 & 1) << 8);
	} else {
		driver_write_u16(INFLIGHT, 14, world.used_next - (value & 7));
		driver_write_u16(INFLIGHT, 12, value >> 3 & mask);
	}
}

/* Killed while it published: the ring is new, and of the region only the beginning. */
static void
op_torn_publish(void)
{
	struct area *region = &world.areas[INFLIGHT];
	size_t size = world.opts.inflight_size;
	size_t cut = input_u16(&world.in) % (size + 1) & ~(size_t)7;
	uint8_t *before;

	if (world.opts.inflight == NULL || world.batch_count == 0)
		return;
	before = malloc(size);
	require(before != NULL);
	memcpy(before, region->bytes, size);
	device_publish();
	memcpy(region->bytes + cut, before + cut, size - cut);
	free(before);
	world.opts.inflight_reset = false;
	create_queue();
}

static void
op_break(void)
{
	virtq_break(world.vq, "the device type says so");
}

/* The driver's view of where things are, as after a reset. */
static void
op_resync(void)
{
	world.place = (uint16_t)virtq_base(world.vq);
	if (!world.opts.packed)
		driver_write_u16(AVAIL, 2, world.place);
}

/* Killed and started again, in the same rings or as another kind of queue. */
static void
op_restart(void)
{
	pick_opts();
	create_queue();
}

/* Killed and started again as it was. */
static void
op_revive(void)
{
	world.opts.inflight_reset = false;
	create_queue();
}

/* Stopped in order, and started again where it was. */
static void
op_stop(void)
{
	op_push_all();
	world.opts.base = virtq_base(world.vq);
	world.opts.inflight_reset = true;
	create_queue();
	/* An in-flight region of a version that nobody knows is refused in any case. */
	require(world.vq != NULL || world.opts.inflight != NULL);
	require(world.vq == NULL || virtq_base(world.vq) == world.opts.base);
}

/* The front-end is gone; the next one finds all as it was then. */
static void
op_abandon(void)
{
	struct virtq_slot *slots[1];

	virtq_abandon(world.vq);
	for (int i = 0; i < AREAS; i++)
		if (world.areas[i].bytes != NULL)
			memcpy(world.areas[i].shadow, world.areas[i].bytes, world.areas[i].size);
	require(virtq_pop(world.vq, slots, 1) == 0);
	for (uint32_t i = 0; i < world.held_count; i++)
		virtq_push(world.vq, world.held[i].slot, 1);
	require(!virtq_publish(world.vq) && virtq_in_flight(world.vq) == 0);
	virtq_disable_kicks(world.vq);
	for (int i = 0; i < AREAS; i++)
		require(world.areas[i].bytes == NULL ||
			memcmp(world.areas[i].shadow, world.areas[i].bytes, world.areas[i].size) ==
				0);
	op_revive();
}

static void (*const ops[])(void) = {
	op_chain,    op_pop,     op_push,  op_publish, op_write,        op_desc,    op_offer,
	op_push_all, op_kicks,   op_chain, op_break,   op_resync,       op_stop,    op_revive,
	op_spin,     op_restart, op_event, op_region,  op_torn_publish, op_abandon,
};

static void
run_op(uint8_t code)
{
	void (*op)(void) = ops[code % ARRAY_SIZE(ops)];

	/*
	 * Without a queue, or with one too large for the model, memory may change and another queue
	 * be made.
	 */
	if ((world.vq == NULL || !world.checked) && op != op_write && op != op_restart)
		return;
	op();
	check_memory();
}

static void
end_world(void)
{
	if (world.vq != NULL && world.checked) {
		op_push_all();
		require(virtq_in_flight(world.vq) == 0);
	}
	forget_chains();
	virtq_destroy(world.vq);
	guest_mem_destroy(world.mem);
	for (int i = 0; i < AREAS; i++) {
		free(world.areas[i].bytes);
		free(world.areas[i].shadow);
	}
	memset(&world, 0, sizeof(world));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	world.in = (struct input){data, size};
	make_memory();
	pick_opts();
	create_queue();
	for (int i = 0; i < MAX_OPS && world.in.size > 0; i++)
		run_op(input_u8(&world.in));
	end_world();
	return 0;
}
