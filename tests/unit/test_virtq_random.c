/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * Random rings of both kinds, most of them nearly right, against a model that says the same in a
 * slow and simple way. Queues stop and go on at their base, die and go on with their in-flight
 * region, and are reset when they broke. The seed of a failing round is printed;
 * VIRTQ_SEED=<seed> runs that round alone.
 */
#include "virtq_packed_rig.h"

#include <stdio.h>

/* Of each kind. Mapping memory takes the thread sanitizer long, and there is one thread here. */
#ifdef __SANITIZE_THREAD__
#define ROUNDS 50
#else
#define ROUNDS 500
#endif
#define STEPS         150
#define MAX_SIZE      256
#define MAX_SEGMENTS  300
#define MAX_POP       40
#define TABLE_ENTRIES 20
#define TABLE_BYTES   (TABLE_ENTRIES * 16)
#define TABLES        4
#define MAX_IOVS      (MAX_SEGMENTS + GUEST_MEM_MAX_REGIONS)

enum state {
	FREE,
	IN_FLIGHT, /* popped */
	PUSHED,    /* but not published; only where requests are tracked */
	WAITING,   /* to be popped again */
};

/* A chain by its id: the index of its head, or a packed ring's buffer id. */
struct request {
	enum state state;
	uint64_t order;      /* of the first time it was popped */
	uint16_t ring_descs; /* packed */
	struct vring_desc descs[MAX_SIZE];

	/* What the slot should be. */
	bool valid;
	uint32_t readable_count, writable_count;
	uint64_t readable_bytes, writable_bytes;
	struct iovec iov[MAX_IOVS];
};

/* A chain that was pushed and is not published yet. */
struct used {
	uint16_t id;
	uint16_t ring_descs;
	uint32_t len;
};

struct model {
	struct packed_rig packed; /* its rig alone for split rings */
	struct rig *rig;
	const struct kind *kind;
	uint8_t *inflight; /* NULL: not tracked */
	uint64_t random;
	uint32_t nastiness; /* one field in so many is wild; 0: none */
	uint32_t max_chain;
	uint64_t tables[TABLES];

	/* the driver's */
	bool offered[MAX_SIZE]; /* and not taken back yet */

	/* the device's: indexes or positions, as in the rigs */
	uint16_t avail;
	uint16_t used;
	uint64_t order;
	struct request requests[MAX_SIZE];
	struct used pushed[MAX_SIZE];
	uint32_t pushed_count;
};

enum verdict {
	NONE, /* no chain is available */
	BAD,
	GOOD,
};

/* What the two kinds of rings differ in. */
struct kind {
	/* Another ring, with nothing in it, in the same place. */
	void (*reset)(struct model *model, uint16_t place);
	/* Offers a chain of that id, or none: there is no room. */
	void (*offer)(struct model *model, uint16_t id);
	/* What is next in the ring: its id, and for packed rings also its descriptors. */
	enum verdict (*look)(const struct model *model, uint32_t *id, struct request *request);
	/* All descriptors with a buffer of a chain, in order; their number, or -1. */
	int (*collect)(const struct model *model, uint32_t id, const struct request *request,
		       struct vring_desc *chain);
	/* The driver takes what was used, which must be that; it has used nothing else. */
	void (*expect_used)(struct model *model, const struct used *used);
	void (*expect_nothing_used)(const struct model *model);
	/* Asks for notifications somehow; whether one is wanted for what is pushed. */
	bool (*ask)(struct model *model);
	uint32_t (*base)(const struct model *model);
};

static uint64_t running_seed; /* 0: none */

/* xorshift64* */
static uint32_t
pick(struct model *model, uint32_t below)
{
	model->random ^= model->random >> 12;
	model->random ^= model->random << 25;
	model->random ^= model->random >> 27;
	return (uint32_t)((model->random * 0x2545f4914f6cdd1dULL) >> 33) % below;
}

static bool
is_nasty(struct model *model)
{
	return model->nastiness && pick(model, model->nastiness) == 0;
}

/* ---- what the driver writes ---- */

static uint64_t
pick_gpa(struct model *model)
{
	static const uint64_t wild[] = {0, A_GPA - 1, C_END - 1, C_END, UINT64_MAX, BIG_GPA - 1};

	if (is_nasty(model))
		return wild[pick(model, ARRAY_SIZE(wild))];
	switch (pick(model, 4)) {
	case 0:
		return B_GPA - pick(model, 100);
	case 1:
		return D_GPA + pick(model, D_SIZE - 200);
	case 2:
		return BIG_GPA + pick(model, 1u << 30);
	default:
		return A_GPA + pick(model, A_SIZE - 200);
	}
}

static uint32_t
pick_len(struct model *model)
{
	if (is_nasty(model))
		return pick(model, 2) ? UINT32_MAX : 70000;
	return pick(model, 8) == 0 ? 0 : pick(model, 200);
}

/*
 * Readable and writable ones by turns of four, so that many ways through the table are right. The
 * last one of a turn ends the chain.
 */
static struct vring_desc
pick_desc(struct model *model, uint32_t i, uint32_t count)
{
	struct vring_desc desc = {
		.addr = pick_gpa(model),
		.len = pick_len(model),
		.flags = i % 8 >= 4 ? WRITE : 0,
		.next = i + 1,
	};

	if (i % 8 != 7 && i + 1 < count && pick(model, 8) != 0)
		desc.flags |= NEXT;
	if (is_nasty(model))
		desc.flags ^= 1 << pick(model, 16);
	if (is_nasty(model))
		desc.next = pick(model, 2) ? pick(model, count) : pick(model, 65536);
	return desc;
}

/* Whether the i-th descriptor of a turn refers to a table; where there is room for one. */
static bool
is_indirect(struct model *model, uint32_t i)
{
	bool allowed = model->rig->opts.indirect && model->max_chain >= TABLE_ENTRIES + 8;

	return i % 8 <= 4 && pick(model, 6) == 0 && (allowed || is_nasty(model));
}

/* One that refers to a table with `least` entries or more, and at most `most`. */
static struct vring_desc
pick_indirect(struct model *model, uint32_t least, uint32_t most)
{
	struct vring_desc desc = {
		.addr = model->tables[pick(model, TABLES)],
		.len = (least + pick(model, most - least + 1)) * sizeof(desc),
		.flags = INDIRECT | (pick(model, 2) ? WRITE : 0),
	};

	if (is_nasty(model))
		desc.len = pick(model, 2) ? pick(model, 1000) : 0x100000;
	if (is_nasty(model))
		desc.flags |= NEXT;
	if (is_nasty(model))
		desc.addr = pick_gpa(model);
	return desc;
}

static void
place_tables(struct model *model)
{
	uint32_t i;

	for (i = 0; i < TABLES; i++)
		model->tables[i] = B_GPA - 50 + i * (TABLE_BYTES + 80) + pick(model, 80);
}

static void
fill_tables(struct model *model)
{
	bool packed = model->rig->opts.packed;
	uint32_t i, j;

	for (i = 0; i < TABLES; i++) {
		for (j = 0; j < TABLE_ENTRIES; j++) {
			struct vring_desc desc = pick_desc(model, j, TABLE_ENTRIES);
			struct vring_packed_desc as_packed = {
				.addr = desc.addr,
				.len = desc.len,
				.id = desc.next,
				.flags = desc.flags,
			};

			rig_write(model->rig, model->tables[i] + j * sizeof(desc),
				  packed ? (void *)&as_packed : &desc, sizeof(desc));
		}
	}
}

/* ---- what the device should find ---- */

/* Reads a table whose every byte must be in memory. */
static bool
read_table(const struct model *model, uint64_t gpa, uint32_t count, struct vring_desc *table)
{
	uint8_t *to = (uint8_t *)table;
	uint64_t i;

	for (i = 0; i < count * sizeof(*table); i++) {
		const uint8_t *from = rig_pointer(model->rig, gpa + i);

		if (!from || gpa + i < gpa)
			return false;
		to[i] = *from;
	}
	return true;
}

/* Whether the table that desc refers to may come after so many descriptors; then reads it. */
static bool
read_indirect(const struct model *model, const struct vring_desc *desc, struct vring_desc *table)
{
	return !(desc->flags & NEXT) && desc->len != 0 && desc->len % 16 == 0 &&
	       desc->len / 16 <= model->max_chain && model->rig->opts.indirect &&
	       read_table(model, desc->addr, desc->len / 16, table);
}

/* Adds a buffer, cut at the ends of regions. */
static bool
add_buffer(const struct model *model, struct request *expected, const struct vring_desc *desc)
{
	uint64_t gpa = desc->addr, left = desc->len;

	while (left > 0) {
		uint32_t count = expected->readable_count + expected->writable_count;
		const struct guest_mem_region *region = model->rig->regions;
		uint64_t part;

		while (region < model->rig->regions + RIG_REGIONS &&
		       (gpa < region->gpa || gpa > region->gpa + (region->size - 1)))
			region++;
		if (region == model->rig->regions + RIG_REGIONS ||
		    count == model->max_chain + GUEST_MEM_MAX_REGIONS)
			return false;
		part = region->size - (gpa - region->gpa);
		if (part > left)
			part = left;
		expected->iov[count].iov_base = region->hva + (gpa - region->gpa);
		expected->iov[count].iov_len = part;
		if (desc->flags & WRITE)
			expected->writable_count++;
		else
			expected->readable_count++;
		left -= part;
		gpa += part;
		if (gpa == 0 && left > 0)
			return false;
	}
	return true;
}

/* What the slot of a chain should be as its descriptors are now. */
static void
expect_chain(const struct model *model, uint32_t id, struct request *expected)
{
	static struct vring_desc chain[MAX_SIZE + MAX_SEGMENTS];
	bool writable = false;
	int count, i;

	expected->valid = false;
	expected->readable_count = 0;
	expected->writable_count = 0;
	expected->readable_bytes = 0;
	expected->writable_bytes = 0;
	count = model->kind->collect(model, id, expected, chain);
	if (count < 0 || (uint32_t)count > model->max_chain)
		return;
	for (i = 0; i < count; i++) {
		if (writable && !(chain[i].flags & WRITE))
			return;
		writable = chain[i].flags & WRITE;
		if (!add_buffer(model, expected, &chain[i]))
			return;
		if (writable)
			expected->writable_bytes += chain[i].len;
		else
			expected->readable_bytes += chain[i].len;
	}
	expected->valid = expected->readable_bytes + expected->writable_bytes <= 1ULL << 32;
}

/* ---- split rings ---- */

/* Fills the whole table, whatever is in flight there. */
static void
split_fill(struct model *model)
{
	uint32_t size = model->rig->opts.size, i;

	for (i = 0; i < size; i++)
		model->rig->desc[i] = is_indirect(model, i) ? pick_indirect(model, 8, TABLE_ENTRIES)
							    : pick_desc(model, i, size);
}

static void
split_reset(struct model *model, uint16_t place)
{
	split_fill(model);
	rig_restart(model->rig, place);
}

static void
split_offer(struct model *model, uint16_t id)
{
	struct rig *rig = model->rig;

	if ((uint16_t)(rig->avail->idx - rig->used_seen) == rig->opts.size)
		return;
	if (pick(model, MAX_POP) == 0)
		split_fill(model);
	rig_offer(rig, id);
}

static enum verdict
split_look(const struct model *model, uint32_t *id, struct request *request)
{
	(void)request;
	if (model->avail == model->rig->avail->idx)
		return NONE;
	*id = model->rig->avail->ring[model->avail % model->rig->opts.size];
	return GOOD;
}

/*
 * Follows one table. Returns the number of descriptors, or -1. *last is an indirect one, not
 * counted, if the table ends in it.
 */
static int
follow(const struct vring_desc *table, uint32_t count, uint32_t i, struct vring_desc *chain,
       struct vring_desc *last)
{
	uint32_t n = 0;

	for (;;) {
		if (i >= count || n == count)
			return -1;
		*last = table[i];
		if (last->flags & INDIRECT)
			return (int)n;
		chain[n++] = table[i];
		if (!(last->flags & NEXT))
			return (int)n;
		i = last->next;
	}
}

static int
split_collect(const struct model *model, uint32_t id, const struct request *request,
	      struct vring_desc *chain)
{
	static struct vring_desc table[MAX_SEGMENTS];
	struct vring_desc last;
	int direct, indirect;

	(void)request;
	direct = follow(model->rig->desc, model->rig->opts.size, id, chain, &last);
	if (direct < 0 || !(last.flags & INDIRECT))
		return direct;
	if (!read_indirect(model, &last, table))
		return -1;
	indirect = follow(table, last.len / 16, 0, chain + direct, &last);
	if (indirect < 0 || (last.flags & INDIRECT))
		return -1;
	return direct + indirect;
}

static void
split_expect_used(struct model *model, const struct used *used)
{
	rig_expect_used(model->rig, used->id, used->len);
	model->used++;
}

static void
split_expect_nothing_used(const struct model *model)
{
	assert_int_equal(model->rig->used_seen, model->rig->used->idx);
}

static bool
split_ask(struct model *model)
{
	uint16_t event = model->used + pick(model, MAX_POP) - pick(model, MAX_POP);
	struct rig *rig = model->rig;

	rig->avail->flags = pick(model, 2);
	if (!rig->opts.event_idx)
		return model->pushed_count > 0 && rig->avail->flags == 0;
	rig->avail->ring[rig->opts.size] = event;
	return (uint16_t)(event - model->used) < model->pushed_count;
}

static uint32_t
split_base(const struct model *model)
{
	return model->avail;
}

static const struct kind split_kind = {
	.reset = split_reset,
	.offer = split_offer,
	.look = split_look,
	.collect = split_collect,
	.expect_used = split_expect_used,
	.expect_nothing_used = split_expect_nothing_used,
	.ask = split_ask,
	.base = split_base,
};

/* ---- packed rings ---- */

static void
packed_reset(struct model *model, uint16_t place)
{
	packed_age(&model->packed, place);
	packed_restart(&model->packed, place);
}

static void
packed_offer(struct model *model, uint16_t id)
{
	struct packed_rig *packed = &model->packed;
	uint32_t room = packed->rig.opts.size - (uint16_t)(packed->next - packed->used);
	uint32_t max = room < 8 ? room : 8, i = 0;
	struct vring_desc desc;

	if (room == 0)
		return;
	do {
		uint16_t not_the_last = pick(model, 3) ? id : pick(model, 65536);

		desc = is_indirect(model, i) ? pick_indirect(model, 1, 8)
					     : pick_desc(model, i, max);
		desc.flags &= ~(PACKED_AVAIL | PACKED_USED);
		/* The other wrap counter; anything else would look used. */
		if (is_nasty(model))
			desc.flags |= PACKED_AVAIL | PACKED_USED;
		packed_put(packed, desc.addr, desc.len, desc.flags,
			   desc.flags & NEXT ? not_the_last : id);
	} while (++i < max && (desc.flags & NEXT));
}

static enum verdict
packed_look(const struct model *model, uint32_t *id, struct request *request)
{
	const struct packed_rig *packed = &model->packed;
	uint16_t size = packed->rig.opts.size, place = model->avail, count = 0;
	const struct vring_packed_desc *desc;

	do {
		uint16_t room = size - (uint16_t)(place - model->used);

		desc = &packed->ring[place % size];
		if ((desc->flags & (PACKED_AVAIL | PACKED_USED)) !=
		    packed_avail_flags(packed, place))
			return count == 0 ? NONE : BAD;
		if (room == 0)
			return BAD;
		request->descs[count].addr = desc->addr;
		request->descs[count].len = desc->len;
		request->descs[count].flags = desc->flags;
		count++;
		place++;
	} while (desc->flags & NEXT);
	*id = desc->id;
	request->ring_descs = count;
	return GOOD;
}

static int
packed_collect(const struct model *model, uint32_t id, const struct request *request,
	       struct vring_desc *chain)
{
	struct vring_packed_desc table[MAX_SEGMENTS];
	uint32_t count, i;

	(void)id;
	for (count = 0; count < request->ring_descs; count++) {
		chain[count] = request->descs[count];
		if (chain[count].flags & INDIRECT)
			break;
	}
	if (count == request->ring_descs)
		return (int)count;
	if (!read_indirect(model, &request->descs[count], (struct vring_desc *)table))
		return -1;
	for (i = 0; i < request->descs[count].len / 16; i++)
		chain[count + i] = (struct vring_desc){
			.addr = table[i].addr,
			.len = table[i].len,
			.flags = table[i].flags,
		};
	return (int)(count + i);
}

static void
packed_expect(struct model *model, const struct used *used)
{
	packed_expect_used(&model->packed, used->id, used->len, used->ring_descs);
	model->used += used->ring_descs;
}

static void
packed_expect_nothing_used(const struct model *model)
{
	assert_false(packed_is_used(&model->packed, model->packed.used));
}

static bool
packed_ask(struct model *model)
{
	struct packed_rig *packed = &model->packed;
	uint16_t descs = 0, flags = pick(model, 4), i;
	uint16_t event = model->used + pick(model, MAX_POP) - pick(model, MAX_POP);

	for (i = 0; i < model->pushed_count; i++)
		descs += model->pushed[i].ring_descs;
	packed->driver_event->flags = flags;
	packed->driver_event->off_wrap =
		is_nasty(model) ? pick(model, 65536) : packed_place(packed, event);
	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE || descs == 0)
		return false;
	if (!packed->rig.opts.event_idx || flags != VRING_PACKED_EVENT_FLAG_DESC ||
	    (packed->driver_event->off_wrap & ~PACKED_WRAP) >= packed->rig.opts.size)
		return true;
	for (i = 0; i < descs; i++)
		if (packed_place(packed, model->used + i) == packed->driver_event->off_wrap)
			return true;
	return false;
}

static uint32_t
packed_base(const struct model *model)
{
	return packed_place(&model->packed, model->avail) |
	       (uint32_t)packed_place(&model->packed, model->used) << 16;
}

static const struct kind packed_kind = {
	.reset = packed_reset,
	.offer = packed_offer,
	.look = packed_look,
	.collect = packed_collect,
	.expect_used = packed_expect,
	.expect_nothing_used = packed_expect_nothing_used,
	.ask = packed_ask,
	.base = packed_base,
};

/* ---- both side by side ---- */

static uint32_t
count_state(const struct model *model, enum state state)
{
	uint32_t i, count = 0;

	for (i = 0; i < model->rig->opts.size; i++)
		count += model->requests[i].state == state;
	return count;
}

static bool
slot_is_as_expected(const struct virtq_slot *slot, const struct request *expected)
{
	uint32_t i;

	if (slot->readable_count != expected->readable_count ||
	    slot->writable_count != expected->writable_count ||
	    slot->readable_bytes != expected->readable_bytes ||
	    slot->writable_bytes != expected->writable_bytes)
		return false;
	for (i = 0; i < slot->readable_count + slot->writable_count; i++)
		if (slot->iov[i].iov_base != expected->iov[i].iov_base ||
		    slot->iov[i].iov_len != expected->iov[i].iov_len)
			return false;
	return true;
}

static void
offer_some(struct model *model)
{
	uint32_t size = model->rig->opts.size, count = 1 + pick(model, MAX_POP);

	fill_tables(model);
	for (; count > 0; count--) {
		uint32_t id = pick(model, size), tries = size;

		while (model->offered[id] && tries > 0) {
			id = (id + 1) % size;
			tries--;
		}
		if (model->nastiness && pick(model, 200) == 0)
			id = pick(model, 3) ? pick(model, size) : pick(model, 65536);
		else if (tries == 0)
			return;
		if (id < size)
			model->offered[id] = true;
		model->kind->offer(model, id);
	}
}

/* Of the chains that come again the one that came first; NULL: there is none. */
static struct request *
oldest_waiting(struct model *model)
{
	struct request *oldest = NULL;
	uint32_t i;

	for (i = 0; i < model->rig->opts.size; i++) {
		struct request *request = &model->requests[i];

		if (request->state == WAITING && (!oldest || request->order < oldest->order))
			oldest = request;
	}
	return oldest;
}

/* What the next pop should find; its request is in flight then. */
static enum verdict
expect_next(struct model *model, struct request **request)
{
	static struct request seen;
	enum verdict verdict;
	uint32_t id;

	*request = oldest_waiting(model);
	if (*request) {
		expect_chain(model, (uint32_t)(*request - model->requests), *request);
		if ((*request)->valid)
			(*request)->state = IN_FLIGHT;
		return (*request)->valid ? GOOD : BAD;
	}
	verdict = model->kind->look(model, &id, &seen);
	if (verdict != GOOD)
		return verdict;
	if (id >= model->rig->opts.size || model->requests[id].state != FREE)
		return BAD;
	*request = &model->requests[id];
	(*request)->ring_descs = seen.ring_descs;
	memcpy((*request)->descs, seen.descs, seen.ring_descs * sizeof(seen.descs[0]));
	expect_chain(model, id, *request);
	if (!(*request)->valid)
		return BAD;
	(*request)->state = IN_FLIGHT;
	(*request)->order = model->order++;
	model->avail += model->rig->opts.packed ? (*request)->ring_descs : 1;
	return GOOD;
}

/* False: the queue broke, as it should have. */
static bool
pop_some(struct model *model)
{
	struct virtq_slot *slots[MAX_POP];
	uint32_t max = 1 + pick(model, MAX_POP), got, i;
	enum verdict verdict = GOOD;

	got = virtq_pop(model->rig->vq, slots, max);
	for (i = 0; i < max; i++) {
		struct request *request;

		verdict = expect_next(model, &request);
		if (verdict != GOOD)
			break;
		assert_true(i < got);
		assert_int_equal(slots[i]->head, request - model->requests);
		assert_ptr_equal(slots[i], virtq_slot_at(model->rig->vq, slots[i]->head));
		assert_true(slot_is_as_expected(slots[i], request));
	}
	assert_int_equal(got, i);
	assert_int_equal(virtq_broken(model->rig->vq) != NULL, verdict == BAD);
	assert_int_equal(virtq_base(model->rig->vq), model->kind->base(model));
	return verdict != BAD;
}

/* Pushes one of so many that are in flight; each must be as it was when it was popped. */
static void
push_some(struct model *model, uint32_t one_in)
{
	uint32_t size = model->rig->opts.size, first = pick(model, size), i;

	for (i = 0; i < size; i++) {
		uint32_t id = (first + i) % size;
		struct request *request = &model->requests[id];
		struct virtq_slot *slot = virtq_slot_at(model->rig->vq, id);
		struct used *used = &model->pushed[model->pushed_count];

		if (request->state != IN_FLIGHT || pick(model, one_in) != 0)
			continue;
		assert_true(model->pushed_count < size);
		assert_true(slot_is_as_expected(slot, request));
		used->id = id;
		used->len = pick(model, 3) == 0 ? 0 : pick(model, 1u << 20);
		used->ring_descs = request->ring_descs;
		model->pushed_count++;
		request->state = model->inflight ? PUSHED : FREE;
		virtq_push(model->rig->vq, slot, used->len);
	}
	model->kind->expect_nothing_used(model);
}

static void
publish(struct model *model)
{
	bool wanted = model->kind->ask(model);
	uint32_t i;

	assert_int_equal(virtq_publish(model->rig->vq), wanted);
	for (i = 0; i < model->pushed_count; i++) {
		struct used *used = &model->pushed[i];

		model->kind->expect_used(model, used);
		model->offered[used->id] = false;
		if (model->requests[used->id].state == PUSHED)
			model->requests[used->id].state = FREE;
	}
	model->pushed_count = 0;
	model->kind->expect_nothing_used(model);
}

static void
finish(struct model *model)
{
	push_some(model, 1);
	publish(model);
	assert_int_equal(virtq_in_flight(model->rig->vq), 0);
}

static void
kicks_on_or_off(struct model *model)
{
	static struct request unused;
	bool idle;
	uint32_t id;

	if (pick(model, 2)) {
		virtq_disable_kicks(model->rig->vq);
		return;
	}
	idle = !oldest_waiting(model) && model->kind->look(model, &id, &unused) == NONE;
	assert_int_equal(virtq_enable_kicks(model->rig->vq), idle);
}

static void
expect_going_on(const struct model *model)
{
	assert_int_equal(virtq_base(model->rig->vq), model->kind->base(model));
	assert_int_equal(virtq_waiting(model->rig->vq), count_state(model, WAITING));
	assert_int_equal(virtq_in_flight(model->rig->vq), 0);
	model->kind->expect_nothing_used(model);
}

/* In order: nothing is in flight, though a chain may never have been popped again. */
static void
stop_and_go_on(struct model *model)
{
	struct virtq_opts *opts = &model->rig->opts;

	finish(model);
	opts->base = virtq_base(model->rig->vq);
	opts->inflight_reset = virtq_waiting(model->rig->vq) == 0 && pick(model, 2);
	virtq_destroy(model->rig->vq);
	model->rig->vq = NULL;
	assert_int_equal(virtq_create(opts, &model->rig->vq), 0);
	opts->inflight_reset = false;
	expect_going_on(model);
}

/* The front-end may know where the queue was, or only where it began. */
static void
die_and_go_on(struct model *model)
{
	struct virtq_opts *opts = &model->rig->opts;
	uint32_t i;

	virtq_destroy(model->rig->vq);
	model->rig->vq = NULL;
	if (pick(model, 2))
		opts->base = model->kind->base(model);
	for (i = 0; i < opts->size; i++)
		if (model->requests[i].state != FREE)
			model->requests[i].state = WAITING;
	model->pushed_count = 0;
	assert_int_equal(virtq_create(opts, &model->rig->vq), 0);
	expect_going_on(model);
}

/* The guest's driver begins anew; the region is cleared, or was not told. */
static void
reset(struct model *model)
{
	struct virtq_opts *opts = &model->rig->opts;
	uint16_t place = pick(model, 65536);
	uint32_t i;

	for (i = 0; i < opts->size; i++)
		model->requests[i].state = FREE;
	memset(model->offered, 0, sizeof(model->offered));
	model->avail = place;
	model->used = place;
	place_tables(model);
	fill_tables(model);
	opts->inflight_reset = pick(model, 2);
	if (model->inflight && !opts->inflight_reset)
		memset(model->inflight, 0, opts->inflight_size);
	model->kind->reset(model, place);
	opts->inflight_reset = false;
	expect_going_on(model);
}

static void
run_step(struct model *model)
{
	switch (pick(model, 12)) {
	case 0:
	case 1:
		offer_some(model);
		break;
	case 2:
	case 3:
	case 4:
		if (!pop_some(model)) {
			finish(model);
			reset(model);
		}
		break;
	case 5:
	case 6:
	case 7:
		push_some(model, 1 + pick(model, 4));
		break;
	case 8:
		publish(model);
		break;
	case 9:
		kicks_on_or_off(model);
		break;
	case 10:
		stop_and_go_on(model);
		break;
	default:
		if (model->inflight)
			die_and_go_on(model);
	}
	assert_int_equal(virtq_in_flight(model->rig->vq), count_state(model, IN_FLIGHT));
}

static void
open_model(struct model *model, bool packed)
{
	static const uint16_t sizes[] = {1, 2, 4, 16, 64, MAX_SIZE};
	static const uint32_t segments[] = {0, 8, 64, MAX_SEGMENTS};
	static const uint32_t nastiness[] = {0, 20000, 1000, 50};
	struct virtq_opts opts = {.packed = packed, .ctx_size = 16};

	opts.size = sizes[pick(model, ARRAY_SIZE(sizes))];
	opts.max_segments = segments[pick(model, ARRAY_SIZE(segments))];
	opts.indirect = pick(model, 8) != 0;
	opts.event_idx = pick(model, 2);
	model->kind = packed ? &packed_kind : &split_kind;
	model->rig = &model->packed.rig;
	model->max_chain = opts.max_segments > opts.size ? opts.max_segments : opts.size;
	model->nastiness = nastiness[pick(model, ARRAY_SIZE(nastiness))];
	if (pick(model, 2)) {
		rig_track(&opts);
		model->inflight = opts.inflight;
	}
	if (packed)
		packed_open_with(&model->packed, &opts, 0);
	else
		rig_open_with(model->rig, &opts, 0);
	reset(model);
}

static void
run_round(uint64_t seed, bool packed)
{
	struct model *model = calloc(1, sizeof(*model));
	int step;

	assert_non_null(model);
	model->random = seed * 0x9e3779b97f4a7c15ULL | 1;
	open_model(model, packed);
	for (step = 0; step < STEPS; step++)
		run_step(model);
	/* What is in the ring comes to an end, if it is right. */
	while (!virtq_broken(model->rig->vq) && pop_some(model) &&
	       virtq_in_flight(model->rig->vq) > 0)
		finish(model);
	packed_close(&model->packed);
	free(model->inflight);
	free(model);
}

static void
run_rounds(bool packed)
{
	const char *chosen = getenv("VIRTQ_SEED");
	uint64_t first = chosen ? strtoull(chosen, NULL, 0) : 1;
	uint64_t end = first + (chosen ? 1 : ROUNDS);

	for (running_seed = first; running_seed < end; running_seed++)
		run_round(running_seed, packed);
	running_seed = 0;
}

static void
test_random_split_rings(void **state)
{
	(void)state;
	run_rounds(false);
}

static void
test_random_packed_rings(void **state)
{
	(void)state;
	run_rounds(true);
}

static int
print_failing_seed(void **state)
{
	(void)state;
	if (running_seed)
		print_error("VIRTQ_SEED=%lu\n", running_seed);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_random_split_rings, print_failing_seed),
		cmocka_unit_test_teardown(test_random_packed_rings, print_failing_seed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
