/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * Random rings, most of them nearly right, against a model that says the same in a slow and simple
 * way. The seed of a failing round is printed; VIRTQ_SEED=<seed> runs that round alone.
 */
#include "virtq_rig.h"

#include <stdio.h>

#define ROUNDS        300
#define STEPS         100
#define MAX_SIZE      256
#define MAX_SEGMENTS  300
#define MAX_POP       40
#define TABLE_ENTRIES 20
#define TABLES        4
#define MAX_IOVS      (MAX_SEGMENTS + GUEST_MEM_MAX_REGIONS)

struct expectation {
	bool valid;
	bool in_flight;
	uint32_t readable_count, writable_count;
	uint64_t readable_bytes, writable_bytes;
	struct iovec iov[MAX_IOVS];
};

struct model {
	struct rig rig;
	struct expectation slots[MAX_SIZE];
	uint64_t random;
	uint32_t nastiness; /* one field in so many is wild; 0: none */
	uint32_t max_chain;
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

/* Readable and writable ones by turns of four, so that many ways through the table are right. */
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

static void
fill_rings(struct model *model)
{
	uint32_t size = model->rig.opts.size;
	uint64_t tables[TABLES];
	uint32_t i, j;

	for (i = 0; i < TABLES; i++) {
		tables[i] = C_GPA - B_SIZE - 50 + pick(model, 600);
		for (j = 0; j < TABLE_ENTRIES; j++) {
			struct vring_desc desc = pick_desc(model, j, TABLE_ENTRIES);

			rig_write(&model->rig, tables[i] + j * sizeof(desc), &desc, sizeof(desc));
		}
	}
	for (i = 0; i < size; i++) {
		struct vring_desc *desc = &model->rig.desc[i];

		*desc = pick_desc(model, i, size);
		if (pick(model, 6) != 0)
			continue;
		desc->addr = tables[pick(model, TABLES)];
		desc->len = (1 + pick(model, TABLE_ENTRIES)) * sizeof(*desc);
		desc->flags = INDIRECT | (pick(model, 2) ? WRITE : 0);
		if (is_nasty(model))
			desc->len = pick(model, 2) ? pick(model, 1000) : 0x100000;
		if (is_nasty(model))
			desc->flags |= NEXT;
		if (is_nasty(model))
			desc->addr = pick_gpa(model);
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
		const uint8_t *from = rig_pointer(&model->rig, gpa + i);

		if (!from || gpa + i < gpa)
			return false;
		to[i] = *from;
	}
	return true;
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

/* All descriptors with a buffer, in order, or -1. */
static int
collect(const struct model *model, uint32_t head, struct vring_desc *chain)
{
	static struct vring_desc table[MAX_SEGMENTS];
	struct vring_desc last;
	int direct, indirect;

	direct = follow(model->rig.desc, model->rig.opts.size, head, chain, &last);
	if (direct < 0 || !(last.flags & INDIRECT))
		return direct;
	if ((last.flags & NEXT) || last.len == 0 || last.len % 16 != 0 ||
	    last.len / 16 > model->max_chain || !model->rig.opts.indirect)
		return -1;
	if (!read_table(model, last.addr, last.len / 16, table))
		return -1;
	indirect = follow(table, last.len / 16, 0, chain + direct, &last);
	if (indirect < 0 || (last.flags & INDIRECT))
		return -1;
	return direct + indirect;
}

/* Adds a buffer, cut at the ends of regions. */
static bool
add_buffer(const struct model *model, struct expectation *expected, const struct vring_desc *desc)
{
	uint64_t gpa = desc->addr, left = desc->len;

	while (left > 0) {
		uint32_t count = expected->readable_count + expected->writable_count;
		const struct guest_mem_region *region = model->rig.regions;
		uint64_t part;

		while (region < model->rig.regions + RIG_REGIONS &&
		       (gpa < region->gpa || gpa > region->gpa + (region->size - 1)))
			region++;
		if (region == model->rig.regions + RIG_REGIONS ||
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

static void
expect_chain(const struct model *model, uint32_t head, struct expectation *expected)
{
	static struct vring_desc chain[MAX_SIZE + MAX_SEGMENTS];
	bool writable = false;
	int count, i;

	memset(expected, 0, sizeof(*expected));
	count = collect(model, head, chain);
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

/* ---- both side by side ---- */

static bool
slot_is_as_expected(const struct virtq_slot *slot, const struct expectation *expected)
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

/* Offers some chains and pops them. Returns false when the queue broke, as it should have. */
static bool
pop_some(struct model *model)
{
	struct virtq_slot *slots[MAX_POP];
	struct rig *rig = &model->rig;
	uint32_t want = 1 + pick(model, rig->opts.size < MAX_POP ? rig->opts.size : MAX_POP);
	uint16_t start = rig->avail->idx;
	uint32_t got, i;

	fill_rings(model);
	for (i = 0; i < want; i++) {
		uint32_t head = pick(model, rig->opts.size);
		uint32_t tries = rig->opts.size;

		while (model->slots[head].in_flight && tries-- > 0 && !is_nasty(model))
			head = (head + 1) % rig->opts.size;
		rig_offer(rig, is_nasty(model) ? head + pick(model, 65536 - head) : head);
	}
	got = virtq_pop(rig->vq, slots, want);
	for (i = 0; i < want; i++) {
		uint16_t head = rig->avail->ring[(uint16_t)(start + i) % rig->opts.size];
		struct expectation *expected = &model->slots[head % MAX_SIZE];

		if (head >= rig->opts.size || expected->in_flight)
			break;
		expect_chain(model, head, expected);
		if (!expected->valid)
			break;
		expected->in_flight = true;
		assert_in_range(i, 0, got - 1);
		assert_int_equal(slots[i]->head, head);
		assert_true(slot_is_as_expected(slots[i], expected));
	}
	assert_int_equal(got, i);
	assert_int_equal(virtq_last_avail(rig->vq), (uint16_t)(start + i));
	if (i < want)
		assert_non_null(virtq_broken(rig->vq));
	else
		assert_null(virtq_broken(rig->vq));
	return i == want;
}

/* Pushes some of what is in flight; each must be as it was when it was popped. */
static void
push_some(struct model *model, uint32_t one_in)
{
	struct rig *rig = &model->rig;
	uint32_t i, len, first = pick(model, rig->opts.size);
	uint16_t at = rig->used_seen;
	uint32_t lens[MAX_SIZE], heads[MAX_SIZE], count = 0;

	for (i = 0; i < rig->opts.size; i++) {
		uint32_t head = (first + i) % rig->opts.size;
		struct virtq_slot *slot = virtq_slot_at(rig->vq, head);

		if (!model->slots[head].in_flight || pick(model, one_in) != 0)
			continue;
		assert_true(slot_is_as_expected(slot, &model->slots[head]));
		model->slots[head].in_flight = false;
		len = pick(model, 1u << 20);
		heads[count] = head;
		lens[count++] = len;
		virtq_push(rig->vq, slot, len);
	}
	assert_int_equal(rig->used->idx, at);
	assert_int_equal(virtq_publish(rig->vq), count > 0);
	for (i = 0; i < count; i++)
		rig_expect_used(rig, heads[i], lens[i]);
	assert_int_equal(rig->used_seen, rig->used->idx);
}

static void
run_round(struct model *model, uint64_t seed)
{
	static const uint16_t sizes[] = {1, 2, 4, 16, 64, 256};
	static const uint32_t segments[] = {0, 8, 64, MAX_SEGMENTS};
	static const uint32_t nastiness[] = {0, 5000, 1000, 100};
	struct virtq_opts opts = {.ctx_size = 16};
	int step;

	memset(model, 0, sizeof(*model));
	model->random = seed * 0x9e3779b97f4a7c15ULL | 1;
	opts.size = sizes[pick(model, ARRAY_SIZE(sizes))];
	opts.max_segments = segments[pick(model, ARRAY_SIZE(segments))];
	opts.indirect = pick(model, 8) != 0;
	model->max_chain = opts.max_segments > opts.size ? opts.max_segments : opts.size;
	model->nastiness = nastiness[pick(model, ARRAY_SIZE(nastiness))];
	rig_open_with(&model->rig, &opts, (uint16_t)pick(model, 65536));
	for (step = 0; step < STEPS; step++) {
		bool alive = true;

		if (virtq_in_flight(model->rig.vq) < opts.size)
			alive = pop_some(model);
		push_some(model, alive ? 1 + pick(model, 3) : 1);
		assert_true(alive || virtq_in_flight(model->rig.vq) == 0);
		if (!alive)
			rig_restart(&model->rig, (uint16_t)pick(model, 65536));
	}
	rig_close(&model->rig);
}

static void
test_random_rings(void **state)
{
	struct model *model = malloc(sizeof(*model));
	const char *chosen = getenv("VIRTQ_SEED");
	uint64_t first = chosen ? strtoull(chosen, NULL, 0) : 1;
	uint64_t end = first + (chosen ? 1 : ROUNDS);

	(void)state;
	assert_non_null(model);
	for (running_seed = first; running_seed < end; running_seed++)
		run_round(model, running_seed);
	running_seed = 0;
	free(model);
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
		cmocka_unit_test_teardown(test_random_rings, print_failing_seed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
