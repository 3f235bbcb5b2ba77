/* SPDX-License-Identifier: BSD-3-Clause */
/* links: client */
/* The test front-end's rings, split and packed, against a device that only knows the standard. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client.h"
#include "reference_device.h"
#include "waiting.h"

#define SHORT_MS     20
#define MAX_SIZE     64
#define MAX_SEGMENTS 6
#define INITIAL_BASE 0x80008000u
#define AVAIL        (1 << 7)
#define USED         (1 << 15)

#define PACKED    (1ULL << VIRTIO_F_RING_PACKED)
#define EVENT_IDX (1ULL << VIRTIO_RING_F_EVENT_IDX)

static const struct format {
	uint64_t features;
	uint16_t size;
} formats[] = {
	{0, 16},     {EVENT_IDX, 16},         {PACKED, 16},       {PACKED | EVENT_IDX, 16},
	{PACKED, 7}, {PACKED | EVENT_IDX, 7}, {PACKED, MAX_SIZE}, {EVENT_IDX, MAX_SIZE},
};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

struct pair {
	struct client_memory memory;
	struct client_ring ring;
	struct reference_device device;
};

static void
pair_open(struct pair *pair, uint16_t size, uint64_t features)
{
	memset(pair, 0, sizeof(*pair));
	assert_int_equal(client_memory_create(&pair->memory, client_default_layout, 3), 0);
	assert_int_equal(
		client_ring_create_with(&pair->ring, &pair->memory, size, MAX_SEGMENTS, features),
		0);
	reference_init(&pair->device, &pair->memory, pair->ring.area_gpas, size,
		       !!(features & PACKED), !!(features & EVENT_IDX));
}

static void
pair_close(struct pair *pair)
{
	client_ring_destroy(&pair->ring);
	client_memory_destroy(&pair->memory);
}

static uint32_t seed;

static uint32_t
random_below(uint32_t limit)
{
	seed = seed * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)seed * limit) >> 32);
}

/* ---- random work, one thread ---- */

/* The chain with this tag; nothing but the tag is needed to make it again. */
static unsigned int
make_segments(uint64_t tag, struct client_segment *segments)
{
	unsigned int count = 1 + tag * 7 % MAX_SEGMENTS;
	unsigned int i;

	for (i = 0; i < count; i++)
		segments[i] = (struct client_segment){
			.gpa = tag << 16 | i << 8,
			.len = 1 + (tag * 31 + i) % 5000,
			.device_writes = (tag + i) % 3 == 0,
		};
	return count;
}

static uint64_t
check_chain(const struct reference_chain *chain)
{
	struct client_segment segments[MAX_SEGMENTS];
	uint64_t tag = chain->segments[0].gpa >> 16;
	unsigned int i;

	assert_int_equal(make_segments(tag, segments), chain->count);
	for (i = 0; i < chain->count; i++) {
		assert_int_equal(chain->segments[i].gpa, segments[i].gpa);
		assert_int_equal(chain->segments[i].len, segments[i].len);
		assert_int_equal(chain->segments[i].device_writes, segments[i].device_writes);
	}
	return tag;
}

struct random_run {
	struct pair pair;
	uint64_t added, published, taken, popped;
	struct reference_chain held[MAX_SIZE];
	unsigned int held_count;
	bool in_flight[MAX_SIZE]; /* by tag modulo MAX_SIZE */
};

static void
add_one(struct random_run *run)
{
	struct client_segment segments[MAX_SEGMENTS];
	unsigned int count = make_segments(run->added, segments);
	bool indirect = run->added % 5 < 2;
	int rc;

	if (run->in_flight[run->added % MAX_SIZE])
		return;
	rc = client_ring_add(&run->pair.ring, segments, count, indirect, run->added);
	if (rc == -ENOSPC) {
		assert_in_range(run->pair.ring.free_count, 0, indirect ? 0 : count - 1);
		return;
	}
	assert_int_equal(rc, 0);
	run->in_flight[run->added++ % MAX_SIZE] = true;
}

static void
take_all(struct random_run *run)
{
	struct reference_chain *chain = &run->held[run->held_count];

	for (; reference_take(&run->pair.device, chain); chain++) {
		/* In order, and nothing before it was published. */
		assert_int_equal(check_chain(chain), run->taken++);
		run->held_count++;
	}
	assert_int_equal(run->taken, run->published);
}

static void
use_one(struct random_run *run)
{
	unsigned int i;

	if (run->held_count == 0)
		return;
	i = random_below(run->held_count);
	reference_use(&run->pair.device, &run->held[i], check_chain(&run->held[i]) % 4000);
	run->held[i] = run->held[--run->held_count];
}

static void
pop_all(struct random_run *run)
{
	struct client_used used;

	while (client_ring_pop(&run->pair.ring, &used) == 1) {
		assert_true(run->in_flight[used.tag % MAX_SIZE]);
		assert_in_range(used.tag, 0, run->added - 1);
		assert_int_equal(used.len, used.tag % 4000);
		run->in_flight[used.tag % MAX_SIZE] = false;
		run->popped++;
	}
}

static void
finish_random(struct random_run *run)
{
	client_ring_publish(&run->pair.ring);
	run->published = run->added;
	take_all(run);
	while (run->held_count > 0)
		use_one(run);
	pop_all(run);
	assert_int_equal(run->popped, run->added);
	assert_int_equal(run->pair.ring.outstanding, 0);
	assert_int_equal(run->pair.ring.free_count, run->pair.ring.size);
}

static void
test_random(void **state)
{
	static struct random_run run;
	const struct format *format;
	unsigned int step;

	(void)state;
	/* Over the wrap of 16 bits. */
	for (format = formats; format < formats + FORMATS; format++) {
		memset(&run, 0, sizeof(run));
		seed = format - formats;
		pair_open(&run.pair, format->size, format->features);
		for (step = 0; run.added < 70000; step++) {
			assert_in_range(step, 0, 2000000);
			switch (random_below(6)) {
			case 0:
			case 1:
				add_one(&run);
				break;
			case 2:
				client_ring_publish(&run.pair.ring);
				run.published = run.added;
				break;
			case 3:
				take_all(&run);
				break;
			case 4:
				use_one(&run);
				break;
			case 5:
				pop_all(&run);
				break;
			}
		}
		finish_random(&run);
		pair_close(&run.pair);
	}
}

/* ---- what exactly a packed ring holds ---- */

static const struct client_segment three[] = {
	{0x1000, 16, false}, {0x2000, 512, true}, {0x3000, 1, true}};

static void
test_packed_chain(void **state)
{
	struct client_ring *ring;
	struct pair pair;

	(void)state;
	pair_open(&pair, 4, PACKED);
	ring = &pair.ring;
	assert_int_equal(client_ring_add(ring, three, 3, false, 9), 0);
	assert_int_equal(ring->packed[0].flags, 0);
	assert_int_equal(ring->packed[1].flags, AVAIL | VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
	assert_int_equal(ring->packed[2].flags, AVAIL | VRING_DESC_F_WRITE);
	assert_int_equal(ring->packed[2].addr, 0x3000);
	assert_int_equal(ring->packed[2].len, 1);
	client_ring_publish(ring);
	assert_int_equal(ring->packed[0].flags, AVAIL | VRING_DESC_F_NEXT);
	assert_int_equal(ring->avail_index, 3);
	assert_true(ring->avail_wrap);
	assert_int_equal(client_ring_add(ring, three, 2, false, 9), -ENOSPC);
	assert_int_equal(client_ring_add(ring, three, 1, false, 9), 0);
	assert_int_equal(ring->packed[3].id, 1);
	assert_int_equal(ring->avail_index, 0);
	assert_false(ring->avail_wrap);
	pair_close(&pair);
}

static void
test_packed_wrap(void **state)
{
	struct reference_chain chain;
	struct client_used used;
	struct client_ring *ring;
	struct pair pair;

	(void)state;
	pair_open(&pair, 4, PACKED);
	ring = &pair.ring;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(client_ring_add(ring, three, 3, false, 9), 0);
		client_ring_publish(ring);
		if (i == 1)
			break;
		assert_true(reference_take(&pair.device, &chain));
		reference_use(&pair.device, &chain, 0);
		assert_int_equal(client_ring_pop(ring, &used), 1);
	}
	/* The second chain lies on both sides of the end. */
	assert_int_equal(ring->packed[3].flags, AVAIL | VRING_DESC_F_NEXT);
	assert_int_equal(ring->packed[0].flags, USED | VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
	assert_int_equal(ring->packed[1].flags, USED | VRING_DESC_F_WRITE);
	pair_close(&pair);
}

static void
test_packed_indirect(void **state)
{
	struct vring_packed_desc *table;
	struct client_ring *ring;
	struct pair pair;

	(void)state;
	pair_open(&pair, 4, PACKED);
	ring = &pair.ring;
	assert_int_equal(client_ring_add(ring, three, 3, true, 1), 0);
	client_ring_publish(ring);
	assert_int_equal(ring->packed[0].flags, AVAIL | VRING_DESC_F_INDIRECT);
	assert_int_equal(ring->packed[0].len, 48);
	assert_int_equal(ring->free_count, 3);
	table = client_memory_ptr(&pair.memory, ring->packed[0].addr, 48);
	assert_int_equal(table[0].flags, 0);
	assert_int_equal(table[1].addr, 0x2000);
	assert_int_equal(table[1].len, 512);
	assert_int_equal(table[1].flags, VRING_DESC_F_WRITE);
	assert_int_equal(client_ring_add(ring, three, 0, true, 1), -EINVAL);
	ring->indirect_max = 2;
	assert_int_equal(client_ring_add(ring, three, 3, true, 1), -EINVAL);
	pair_close(&pair);
}

static void
test_packed_wrong_used_entries(void **state)
{
	struct reference_chain chain;
	struct client_used used;
	struct client_ring *ring;
	struct pair pair;

	(void)state;
	pair_open(&pair, 8, PACKED);
	ring = &pair.ring;
	assert_int_equal(client_ring_add(ring, three, 3, false, 1), 0);
	assert_int_equal(client_ring_add(ring, three, 1, false, 2), 0);
	client_ring_publish(ring);
	assert_int_equal(client_ring_pop(ring, &used), 0);
	assert_true(reference_take(&pair.device, &chain));
	chain.id = 8;
	reference_use(&pair.device, &chain, 5);
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
	ring->packed[0].id = 2; /* not outstanding */
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
	ring->packed[0].id = 0;
	ring->packed[0].flags ^= AVAIL; /* only half used */
	assert_int_equal(client_ring_pop(ring, &used), 0);
	ring->packed[0].flags ^= AVAIL;
	assert_int_equal(client_ring_pop(ring, &used), 1);
	assert_int_equal(used.len, 5);
	assert_int_equal(used.tag, 1);
	chain.id = 0; /* completed twice */
	reference_use(&pair.device, &chain, 5);
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
	pair_close(&pair);
}

/* Descriptors as they are, with bits of AVAIL and USED turned over. */
static void
test_packed_faults(void **state)
{
	struct vring_packed_desc desc = {.addr = 0x5000, .len = 7, .id = 0xffff};
	struct client_ring *ring;
	struct pair pair;
	int i;

	(void)state;
	pair_open(&pair, 4, PACKED);
	ring = &pair.ring;
	for (i = 0; i < 2; i++) {
		desc.flags = VRING_DESC_F_NEXT | (i == 1 ? AVAIL : 0);
		client_ring_put_descriptor(ring, &desc);
	}
	assert_int_equal(ring->packed[0].flags, 0);
	client_ring_publish(ring);
	assert_int_equal(ring->packed[0].flags, AVAIL | VRING_DESC_F_NEXT);
	assert_int_equal(ring->packed[1].flags, VRING_DESC_F_NEXT);
	assert_int_equal(ring->packed[1].id, 0xffff);
	for (i = 0; i < 3; i++)
		client_ring_put_descriptor(ring, &desc);
	assert_int_equal(ring->packed[0].flags, USED | AVAIL | VRING_DESC_F_NEXT);
	client_ring_reset(ring);
	assert_int_equal(ring->packed[0].flags, 0);
	assert_int_equal(client_ring_resume_base(ring), INITIAL_BASE);
	pair_close(&pair);
}

static void
test_resume_base(void **state)
{
	struct reference_chain chains[2];
	struct client_used used;
	struct pair pair;
	int i;

	(void)state;
	assert_int_equal(client_packed_base(3, false, 0x7fff, true), 0xffff0003);
	assert_int_equal(client_packed_base(3, true, 2, false), 0x00028003);
	pair_open(&pair, 8, PACKED);
	assert_int_equal(client_ring_resume_base(&pair.ring), INITIAL_BASE);
	for (i = 0; i < 2; i++)
		assert_int_equal(client_ring_add(&pair.ring, three, 3, false, 0), 0);
	client_ring_publish(&pair.ring);
	assert_int_equal(client_ring_resume_base(&pair.ring), INITIAL_BASE);
	for (i = 0; i < 2; i++)
		assert_true(reference_take(&pair.device, &chains[i]));
	reference_use(&pair.device, &chains[1], 0);
	assert_int_equal(client_ring_resume_base(&pair.ring), 0x80038003);
	reference_use(&pair.device, &chains[0], 0);
	assert_int_equal(client_ring_resume_base(&pair.ring), 0x80068006);
	assert_int_equal(client_ring_pop(&pair.ring, &used), 1);
	assert_int_equal(client_ring_resume_base(&pair.ring), 0x80068006);
	assert_int_equal(client_ring_pop(&pair.ring, &used), 1);
	/* On the other side of the end the wrap counters are 0. */
	assert_int_equal(client_ring_add(&pair.ring, three, 3, false, 0), 0);
	client_ring_publish(&pair.ring);
	assert_true(reference_take(&pair.device, &chains[0]));
	reference_use(&pair.device, &chains[0], 0);
	assert_int_equal(client_ring_resume_base(&pair.ring), 0x00010001);
	pair_close(&pair);
}

/* ---- notifications ---- */

static bool
was_kicked(struct client_ring *ring)
{
	uint64_t count;

	assert_int_equal(client_ring_kick(ring), 0);
	return read(ring->kick_fd, &count, sizeof(count)) == sizeof(count);
}

static void
add_single(struct client_ring *ring, int count)
{
	while (count-- > 0)
		assert_int_equal(client_ring_add(ring, three, 1, false, 0), 0);
	client_ring_publish(ring);
}

static void
turn_over(struct pair *pair)
{
	struct reference_chain chain;
	struct client_used used;

	while (reference_take(&pair->device, &chain)) {
		reference_use(&pair->device, &chain, 0);
		assert_int_equal(client_ring_pop(&pair->ring, &used), 1);
	}
}

static void
test_kicks(void **state)
{
	const struct format *format;
	struct pair pair;
	int round;

	(void)state;
	for (format = formats; format < formats + FORMATS; format++) {
		pair_open(&pair, format->size, format->features);
		/* Over the end of the ring, at every position. */
		for (round = 0; round < 200; round++) {
			reference_set_kicks(&pair.device, KICKS_NEVER);
			add_single(&pair.ring, 1 + round % 3);
			assert_false(was_kicked(&pair.ring));
			turn_over(&pair);
			reference_set_kicks(&pair.device, KICKS_AT_NEXT);
			add_single(&pair.ring, 3);
			assert_true(was_kicked(&pair.ring));
			/* EVENT_IDX asks for one kick only; without it there are more. */
			add_single(&pair.ring, 2);
			assert_int_equal(was_kicked(&pair.ring), !(format->features & EVENT_IDX));
			turn_over(&pair);
			if (format->features == EVENT_IDX)
				continue;
			reference_set_kicks(&pair.device, KICKS_ALWAYS);
			add_single(&pair.ring, 1);
			assert_true(was_kicked(&pair.ring));
			turn_over(&pair);
		}
		pair_close(&pair);
	}
}

/* What the device has asked for counts from the last decision, not from the last chain. */
static void
test_kick_for_several_publishes(void **state)
{
	const struct format *format;
	struct pair pair;

	(void)state;
	for (format = formats; format < formats + FORMATS; format++) {
		pair_open(&pair, format->size, format->features);
		reference_set_kicks(&pair.device, KICKS_AT_NEXT);
		add_single(&pair.ring, 1);
		add_single(&pair.ring, 1);
		add_single(&pair.ring, format->size - 2); /* the whole ring */
		assert_true(was_kicked(&pair.ring));
		turn_over(&pair);
		pair_close(&pair);
	}
}

static void
test_calls(void **state)
{
	struct reference_chain chain[3];
	const struct format *format;
	struct client_used used;
	struct pair pair;
	int round, i;

	(void)state;
	for (format = formats; format < formats + FORMATS; format++) {
		pair_open(&pair, format->size, format->features);
		for (round = 0; round < 200; round++) {
			client_ring_suppress_calls(&pair.ring, round & 1);
			add_single(&pair.ring, 3);
			for (i = 0; i < 3; i++)
				assert_true(reference_take(&pair.device, &chain[i]));
			for (i = 0; i < 3; i++) {
				reference_use(&pair.device, &chain[i], 0);
				/* One that was not popped yet needs no second call. */
				assert_int_equal(
					reference_wants_call(&pair.device),
					!(round & 1) && (i < 1 || !(format->features & EVENT_IDX)));
			}
			for (i = 0; i < 3; i++)
				assert_int_equal(client_ring_pop(&pair.ring, &used), 1);
		}
		pair_close(&pair);
	}
}

static void
test_wait(void **state)
{
	struct reference_chain chain;
	const struct format *format;
	struct client_used used;
	struct pair pair;

	(void)state;
	for (format = formats; format < formats + FORMATS; format++) {
		pair_open(&pair, format->size, format->features);
		add_single(&pair.ring, 1);
		assert_true(reference_take(&pair.device, &chain));
		assert_int_equal(eventfd_write(pair.ring.call_fd, 1), 0); /* for nothing */
		assert_int_equal(client_ring_wait(&pair.ring, SHORT_MS), -ETIMEDOUT);
		assert_int_equal(client_ring_poll(&pair.ring, SHORT_MS), -ETIMEDOUT);
		reference_use(&pair.device, &chain, 0);
		assert_int_equal(client_ring_wait(&pair.ring, SHORT_MS), 0);
		assert_int_equal(client_ring_pop(&pair.ring, &used), 1);
		pair_close(&pair);
	}
}

/* ---- two threads: a notification that is lost ends in a deadline ---- */

#define REQUESTS 20000

struct device_thread {
	struct pair *pair;
	unsigned int done;
	int rc;
};

static int
sleep_for_kick(struct pair *pair)
{
	struct pollfd pfd = {.fd = pair->ring.kick_fd, .events = POLLIN};
	uint64_t count;

	if (poll(&pfd, 1, DEADLINE_MS) <= 0)
		return -ETIMEDOUT;
	return read(pfd.fd, &count, sizeof(count)) < 0 ? -errno : 0;
}

static void *
run_device(void *arg)
{
	struct device_thread *thread = arg;
	struct reference_device *device = &thread->pair->device;
	struct reference_chain chain;
	bool asked = false;

	while (thread->done < REQUESTS && thread->rc == 0) {
		if (reference_take(device, &chain)) {
			if (asked)
				reference_set_kicks(device, KICKS_NEVER);
			asked = false;
			reference_use(device, &chain, 0);
			thread->done++;
			if (reference_wants_call(device))
				eventfd_write(thread->pair->ring.call_fd, 1);
		} else if (!asked) {
			reference_set_kicks(device, KICKS_AT_NEXT);
			asked = true;
		} else {
			thread->rc = sleep_for_kick(thread->pair);
		}
	}
	return NULL;
}

static void
run_driver(struct client_ring *ring)
{
	struct client_segment segments[MAX_SEGMENTS];
	uint64_t added = 0, popped = 0;
	struct client_used used;
	unsigned int batch;

	while (popped < REQUESTS) {
		for (batch = added % 5; added < REQUESTS; added++, batch--) {
			unsigned int count = make_segments(added, segments);

			if (batch == 0 && added > popped)
				break;
			if (client_ring_add(ring, segments, count, added & 1, added) < 0)
				break;
		}
		client_ring_publish(ring);
		assert_int_equal(client_ring_kick(ring), 0);
		assert_int_equal(client_ring_wait(ring, DEADLINE_MS), 0);
		while (client_ring_pop(ring, &used) == 1)
			assert_int_equal(used.tag, popped++);
	}
}

static void
test_two_threads(void **state)
{
	struct device_thread thread;
	const struct format *format;
	struct pair pair;
	pthread_t id;

	(void)state;
	for (format = formats; format < formats + FORMATS; format++) {
		pair_open(&pair, format->size, format->features);
		thread = (struct device_thread){.pair = &pair};
		assert_int_equal(pthread_create(&id, NULL, run_device, &thread), 0);
		run_driver(&pair.ring);
		assert_int_equal(pthread_join(id, NULL), 0);
		assert_int_equal(thread.rc, 0);
		assert_int_equal(thread.done, REQUESTS);
		pair_close(&pair);
	}
}

static void
test_sizes(void **state)
{
	struct client_memory memory;
	struct client_ring ring;

	(void)state;
	assert_int_equal(client_memory_create(&memory, client_default_layout, 3), 0);
	assert_int_equal(client_ring_create_with(&ring, &memory, 12, 0, EVENT_IDX), -EINVAL);
	assert_int_equal(client_ring_create_with(&ring, &memory, 0, 0, PACKED), -EINVAL);
	assert_int_equal(client_ring_create_with(&ring, &memory, 32769, 0, PACKED), -EINVAL);
	assert_int_equal(client_ring_create_with(&ring, &memory, 1, 0, PACKED), 0);
	client_ring_destroy(&ring);
	assert_int_equal(client_ring_create_with(&ring, &memory, 32768, 0, PACKED), 0);
	client_ring_destroy(&ring);
	client_memory_destroy(&memory);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_packed_chain),
		cmocka_unit_test(test_packed_wrap),
		cmocka_unit_test(test_packed_indirect),
		cmocka_unit_test(test_packed_wrong_used_entries),
		cmocka_unit_test(test_packed_faults),
		cmocka_unit_test(test_resume_base),
		cmocka_unit_test(test_kicks),
		cmocka_unit_test(test_kick_for_several_publishes),
		cmocka_unit_test(test_calls),
		cmocka_unit_test(test_wait),
		cmocka_unit_test(test_two_threads),
		cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests_name("client rings", tests, NULL, NULL);
}
