/* SPDX-License-Identifier: BSD-3-Clause */
/* Guests that break the rules of the ring: only their queue stops, and only until it is reset. */
/* links: client testlib */
#include <fcntl.h>

#include "vhost_rig.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#define NEXT     VRING_DESC_F_NEXT
#define WRITE    VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* Where the damage is done: a page for header and data, and one for an indirect table. */
struct place {
	struct client_ring *ring;
	uint64_t header;
	uint8_t *page; /* where it is */
	uint64_t table;
	struct vring_desc *entries; /* of the table */
};

static void
set_desc(struct vring_desc *desc, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*desc = (struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next};
}

/* A good flush: header in 0, status in 1. */
static void
good_chain(const struct place *place)
{
	struct vring_desc *desc = place->ring->desc;

	set_desc(&desc[0], place->header, 16, NEXT, 1);
	set_desc(&desc[1], place->header + 64, 1, WRITE, 0);
}

static void
offer(const struct place *place, uint16_t head)
{
	client_ring_put_head(place->ring, head);
	client_ring_publish(place->ring);
}

/* ---- the damages ---- */

static void
head_outside(const struct place *place)
{
	offer(place, place->ring->size);
}

static void
head_far_outside(const struct place *place)
{
	offer(place, 0xffff);
}

static void
loop_of_one(const struct place *place)
{
	set_desc(&place->ring->desc[0], place->header, 16, NEXT, 0);
	offer(place, 0);
}

static void
loop_of_two(const struct place *place)
{
	good_chain(place);
	set_desc(&place->ring->desc[1], place->header, 16, NEXT, 0);
	offer(place, 0);
}

static void
next_outside(const struct place *place)
{
	set_desc(&place->ring->desc[0], place->header, 16, NEXT, 0x7fff);
	offer(place, 0);
}

static void
avail_jumps(const struct place *place)
{
	client_ring_set_avail_index(place->ring,
				    (uint16_t)(place->ring->avail_index + place->ring->size + 1));
}

static void
avail_jumps_far(const struct place *place)
{
	client_ring_set_avail_index(place->ring, (uint16_t)(place->ring->avail_index + 0x8000));
}

static void
avail_goes_back(const struct place *place)
{
	client_ring_set_avail_index(place->ring, (uint16_t)(place->ring->avail_index - 1));
}

static void
buffer_outside(const struct place *place)
{
	good_chain(place);
	place->ring->desc[0].addr = 0xdead00000000;
	offer(place, 0);
}

static void
buffer_at_zero(const struct place *place)
{
	good_chain(place);
	place->ring->desc[1].addr = 0;
	offer(place, 0);
}

static void
buffer_wraps(const struct place *place)
{
	good_chain(place);
	set_desc(&place->ring->desc[1], UINT64_MAX - 10, 100, WRITE, 0);
	offer(place, 0);
}

static void
buffer_too_long(const struct place *place)
{
	good_chain(place);
	set_desc(&place->ring->desc[1], place->header + 64, UINT32_MAX, WRITE, 0);
	offer(place, 0);
}

static void
many_huge_buffers(const struct place *place)
{
	for (uint16_t i = 0; i < place->ring->size; i++)
		set_desc(&place->ring->desc[i], place->header, 0xfffffff0, NEXT, (uint16_t)(i + 1));
	offer(place, 0);
}

static void
writable_first(const struct place *place)
{
	good_chain(place);
	set_desc(&place->ring->desc[0], place->header + 64, 1, WRITE | NEXT, 1);
	set_desc(&place->ring->desc[1], place->header, 16, 0, 0);
	offer(place, 0);
}

static void
no_status_byte(const struct place *place)
{
	set_desc(&place->ring->desc[0], place->header, 16, 0, 0);
	offer(place, 0);
}

static void
table_of_odd_size(const struct place *place)
{
	set_desc(&place->ring->desc[0], place->table, 40, INDIRECT, 0);
	offer(place, 0);
}

static void
table_of_nothing(const struct place *place)
{
	set_desc(&place->ring->desc[0], place->table, 0, INDIRECT, 0);
	offer(place, 0);
}

static void
table_too_long(const struct place *place)
{
	for (unsigned int i = 0; i < 4096; i++)
		set_desc(&place->entries[i], place->header, 1, NEXT, (uint16_t)(i + 1));
	set_desc(&place->ring->desc[0], place->table, 4096 * 16, INDIRECT, 0);
	offer(place, 0);
}

static void
table_huge(const struct place *place)
{
	set_desc(&place->ring->desc[0], place->table, 0xfffffff0, INDIRECT, 0);
	offer(place, 0);
}

static void
table_outside(const struct place *place)
{
	set_desc(&place->ring->desc[0], 0xdead00000000, 32, INDIRECT, 0);
	offer(place, 0);
}

static void
table_in_table(const struct place *place)
{
	set_desc(&place->entries[0], place->table, 32, INDIRECT, 0);
	set_desc(&place->ring->desc[0], place->table, 32, INDIRECT, 0);
	offer(place, 0);
}

static void
table_and_next(const struct place *place)
{
	set_desc(&place->entries[0], place->header, 16, NEXT, 1);
	set_desc(&place->entries[1], place->header + 64, 1, WRITE, 0);
	set_desc(&place->ring->desc[0], place->table, 32, INDIRECT | NEXT, 1);
	set_desc(&place->ring->desc[1], place->header + 64, 1, WRITE, 0);
	offer(place, 0);
}

static void
loop_in_table(const struct place *place)
{
	set_desc(&place->entries[0], place->header, 16, NEXT, 1);
	set_desc(&place->entries[1], place->header, 16, NEXT, 0);
	set_desc(&place->ring->desc[0], place->table, 32, INDIRECT, 0);
	offer(place, 0);
}

static void
next_outside_table(const struct place *place)
{
	set_desc(&place->entries[0], place->header, 16, NEXT, 2);
	set_desc(&place->ring->desc[0], place->table, 32, INDIRECT, 0);
	offer(place, 0);
}

static const struct damage {
	const char *what;
	void (*do_it)(const struct place *place);
} damages[] = {
#define DAMAGE(name)                                                                               \
	{                                                                                          \
#name, name                                                                        \
	}
	DAMAGE(head_outside),      DAMAGE(head_far_outside), DAMAGE(loop_of_one),
	DAMAGE(loop_of_two),       DAMAGE(next_outside),     DAMAGE(avail_jumps),
	DAMAGE(avail_jumps_far),   DAMAGE(avail_goes_back),  DAMAGE(buffer_outside),
	DAMAGE(buffer_at_zero),    DAMAGE(buffer_wraps),     DAMAGE(buffer_too_long),
	DAMAGE(many_huge_buffers), DAMAGE(writable_first),   DAMAGE(no_status_byte),
	DAMAGE(table_of_odd_size), DAMAGE(table_of_nothing), DAMAGE(table_too_long),
	DAMAGE(table_huge),        DAMAGE(table_outside),    DAMAGE(table_in_table),
	DAMAGE(table_and_next),    DAMAGE(loop_in_table),    DAMAGE(next_outside_table),
};

static void
find_place(struct guest *guest, unsigned int queue, struct place *place)
{
	struct virtio_blk_outhdr flush = {.type = VIRTIO_BLK_T_FLUSH};

	place->ring = &guest->device.rings[queue];
	assert_int_equal(client_memory_alloc(&guest->device.memory, 4096, 4096, &place->header), 0);
	assert_int_equal(client_memory_alloc(&guest->device.memory, 65536, 4096, &place->table), 0);
	place->entries = client_memory_ptr(&guest->device.memory, place->table, 65536);
	place->page = client_memory_ptr(&guest->device.memory, place->header, 4096);
	assert_non_null(place->entries);
	assert_non_null(place->page);
	client_memory_write(&guest->device.memory, place->header, &flush, sizeof(flush));
}

/* The guest's driver resets the device. */
static void
reset(struct guest *guest)
{
	assert_int_equal(client_device_stop(&guest->device), 0);
	client_device_reset(&guest->device);
	assert_int_equal(client_device_start(&guest->device), 0);
	for (unsigned int i = 0; i < guest->device.options.queues; i++) {
		for (unsigned int j = 0; j < guest->device.rings[i].size; j++)
			guest->blk[i].slots[j].busy = false;
	}
}

/*
 * Each damage: the error eventfd says it, one line names queue and reason, the other queue goes on,
 * a reset heals.
 */
static void
test_damages(void **state)
{
	struct client_options options = {.queues = 2, .queue_size = 64};
	struct guest guest;
	struct place place;

	(void)state;
	guest_start(&guest, "disk", &options);
	find_place(&guest, 1, &place);
	for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
		unsigned int lines = daemon_log_count(&rig_daemon, "vhost disk: queue 1: broken");

		guest_round_trip(&guest, 0, i, 4096, (unsigned int)i);
		guest_round_trip(&guest, 1, i, 4096, (unsigned int)i);
		damages[i].do_it(&place);
		assert_int_equal(client_ring_kick_always(place.ring), 0);
		if (client_ring_wait_error(place.ring, DEADLINE_MS) != 0)
			fail_msg("%s: not noticed", damages[i].what);
		guest_round_trip(&guest, 0, i, 4096, (unsigned int)i + 100);
		rig_check();
		/* Kicks change nothing. */
		assert_int_equal(client_ring_kick_always(place.ring), 0);
		rig_wait_for_log("vhost disk: queue 1: broken", lines);
		assert_int_equal(daemon_log_count(&rig_daemon, "vhost disk: queue 1: broken"),
				 lines + 1);
		reset(&guest);
	}
	guest_round_trip(&guest, 1, 0, 4096, 1);
	guest_end(&guest);
}

/* Requests before the damage are answered. */
static void
test_good_before_bad(void **state)
{
	struct guest guest;
	struct place place;
	uint16_t *status;

	(void)state;
	guest_start(&guest, "disk", NULL);
	find_place(&guest, 0, &place);
	status = client_memory_ptr(&guest.device.memory, place.header + 64, 1);
	memset(status, 0xff, 2);
	good_chain(&place);
	client_ring_put_head(place.ring, 0);
	client_ring_put_head(place.ring, 0x1234);
	client_ring_publish(place.ring);
	assert_int_equal(client_ring_kick_always(place.ring), 0);
	assert_int_equal(client_ring_wait_error(place.ring, DEADLINE_MS), 0);
	assert_int_equal(client_ring_wait(place.ring, DEADLINE_MS), 0);
	assert_int_equal(*(uint8_t *)status, VIRTIO_BLK_S_OK);
	reset(&guest);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
}

/* INDIRECT_DESC was not negotiated. */
static void
test_table_not_negotiated(void **state)
{
	struct client_options options = {.features = CLIENT_DEFAULT_FEATURES &
						     ~RIG_BIT(VIRTIO_RING_F_INDIRECT_DESC)};
	struct guest guest;
	struct place place;

	(void)state;
	guest_start(&guest, "disk", &options);
	find_place(&guest, 0, &place);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	set_desc(&place.entries[0], place.header, 16, NEXT, 1);
	set_desc(&place.entries[1], place.header + 64, 1, WRITE, 0);
	set_desc(&place.ring->desc[0], place.table, 32, INDIRECT, 0);
	offer(&place, 0);
	assert_int_equal(client_ring_kick_always(place.ring), 0);
	assert_int_equal(client_ring_wait_error(place.ring, DEADLINE_MS), 0);
	guest_end(&guest);
}

/* The rings on top of each other, and of the buffers: nonsense, but only for this guest. */
static void
test_rings_overlap(void **state)
{
	struct guest guest;
	struct client_vring_addr addr;

	(void)state;
	guest_start(&guest, "disk", NULL);
	client_ring_addr(&guest.device.rings[0], 0, &addr);
	addr.used_addr = addr.desc_addr;
	addr.avail_addr = addr.desc_addr;
	client_set_vring_addr(&guest.device.client, &addr, true);
	for (int i = 0; i < 100; i++) {
		client_ring_set_avail_index(&guest.device.rings[0], (uint16_t)i);
		client_ring_kick_always(&guest.device.rings[0]);
		usleep(100);
	}
	rig_check();
	guest_end(&guest);
}

/* ---- eventfds that nobody could write ---- */

/*
 * The front-end shares our open file description: what the daemon has set there, it takes back, and
 * then it fills the counter.
 */
static void
make_blocking_and_full(int fd)
{
	const uint64_t nearly = UINT64_MAX - 1;
	uint64_t count;

	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	if (read(fd, &count, sizeof(count)) < 0)
		assert_int_equal(errno, EAGAIN);
	assert_int_equal(write(fd, &nearly, sizeof(nearly)), sizeof(nearly));
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
}

static void
make_usable(int fd)
{
	uint64_t count;

	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
}

/*
 * As many flushes, without reading the call eventfd. The bystander, on the same reactor, is served
 * between any two.
 */
static void
flush_by_polling(struct client_blk *blk, unsigned int count)
{
	const struct client_blk_request flush = {.type = VIRTIO_BLK_T_FLUSH};
	struct client_blk_completion completion;

	for (unsigned int i = 0; i < count; i++) {
		assert_int_equal(client_blk_submit(blk, &flush), 0);
		rig_check();
		assert_int_equal(client_ring_poll(blk->ring, DEADLINE_MS), 0);
		assert_int_equal(client_blk_reap(blk, &completion), 1);
		assert_int_equal(completion.status, VIRTIO_BLK_S_OK);
	}
}

static void
test_full_call_eventfd(void **state)
{
	struct guest guest;
	struct client_ring *ring;
	unsigned int lines;

	(void)state;
	guest_start(&guest, "disk", NULL);
	ring = &guest.device.rings[0];
	guest_round_trip(&guest, 0, 0, 4096, 1);
	lines = daemon_log_count(&rig_daemon, "vhost disk");
	make_blocking_and_full(ring->call_fd);
	flush_by_polling(&guest.blk[0], 20);
	/* Told of a new eventfd, which is no better. */
	assert_int_equal(client_set_vring_call(&guest.device.client, 0, ring->call_fd, true), 0);
	make_blocking_and_full(ring->call_fd);
	flush_by_polling(&guest.blk[0], 20);
	assert_int_equal(daemon_log_count(&rig_daemon, "vhost disk"), lines);
	/* Nothing has stopped for good: calls come again. */
	make_usable(ring->call_fd);
	guest_round_trip(&guest, 0, 0, 4096, 2);
	guest_end(&guest);
}

/*
 * The same while the queue stops and starts, which tells the driver, too; and of the eventfd for
 * errors.
 */
static void
test_full_error_eventfd(void **state)
{
	unsigned int lines = daemon_log_count(&rig_daemon, "vhost disk: queue 0: broken");
	struct guest guest;
	struct place place;

	(void)state;
	guest_start(&guest, "disk", NULL);
	find_place(&guest, 0, &place);
	make_blocking_and_full(place.ring->err_fd);
	head_outside(&place);
	assert_int_equal(client_ring_kick_always(place.ring), 0);
	rig_wait_for_log("vhost disk: queue 0: broken", lines);
	rig_check();
	make_blocking_and_full(place.ring->call_fd);
	assert_int_equal(client_device_stop(&guest.device), 0);
	make_usable(place.ring->err_fd);
	client_device_reset(&guest.device);
	make_blocking_and_full(place.ring->call_fd);
	assert_int_equal(client_device_start(&guest.device), 0);
	rig_check();
	make_usable(place.ring->call_fd);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
}

/* The front-end has closed its own: nobody listens. */
static void
test_closed_eventfds(void **state)
{
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	close(guest.device.rings[0].call_fd);
	close(guest.device.rings[0].err_fd);
	guest.device.rings[0].call_fd = guest.device.rings[0].err_fd = -1;
	flush_by_polling(&guest.blk[0], 20);
	guest_end(&guest);
}

/* ---- kicks without end ---- */

struct flood {
	struct guest guest;
	struct place place;
	atomic_uint kicks;
};

static void
kick_on_and_on(struct rig_thread *thread, void *arg)
{
	struct flood *flood = arg;

	while (!thread->stop) {
		client_ring_kick_always(flood->place.ring);
		flood->kicks++;
	}
}

/*
 * On the same reactor are the bystander, who is served, and the RPC server, which answers. So is
 * the queue itself as long as it is in order; when it is not, kicks find it asleep each time.
 */
static void
test_kick_flood(void **state)
{
	static struct flood flood;
	struct rig_thread *thread;

	(void)state;
	guest_start(&flood.guest, "disk", NULL);
	find_place(&flood.guest, 0, &flood.place);
	flood.kicks = 0;
	thread = rig_thread_start(kick_on_and_on, &flood);
	WAIT_UNTIL(flood.kicks > 1000);
	for (unsigned int i = 0; i < 50; i++) {
		guest_round_trip(&flood.guest, 0, i, 4096, i);
		rig_check();
	}
	head_outside(&flood.place);
	assert_int_equal(client_ring_wait_error(flood.place.ring, DEADLINE_MS), 0);
	for (unsigned int i = 0; i < 50; i++)
		rig_check();
	assert_int_equal(rig_sessions("disk"), 1);
	rig_thread_stop(thread);
	reset(&flood.guest);
	guest_round_trip(&flood.guest, 0, 0, 4096, 1);
	guest_end(&flood.guest);
}

/* ---- memory that changes under our eyes ---- */

struct scribbler {
	struct guest guest;
	struct place place;
};

static uint32_t
next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Flips descriptors of the queue and of the table between good and bad. */
static void
scribble(struct rig_thread *thread, void *arg)
{
	static const uint32_t lengths[] = {16, 1, 0, 17, 512, UINT32_MAX, 0x10000};
	struct scribbler *scribbler = arg;
	const struct place *place = &scribbler->place;
	uint32_t seed = 1;

	while (!thread->stop) {
		uint32_t random = next_random(&seed);
		struct vring_desc *desc =
			random & 1 ? &place->ring->desc[random % 4] : &place->entries[random % 4];

		switch (random >> 4 & 7) {
		case 0:
			__atomic_store_n(&desc->len, lengths[random % ARRAY_SIZE(lengths)],
					 __ATOMIC_RELAXED);
			break;
		case 1:
			__atomic_store_n(&desc->addr, random % 3 ? place->header : 0xdead0000,
					 __ATOMIC_RELAXED);
			break;
		case 2:
			__atomic_store_n(&desc->flags, (uint16_t)(random % 8), __ATOMIC_RELAXED);
			break;
		case 3:
			__atomic_store_n(&desc->next, (uint16_t)(random % 5), __ATOMIC_RELAXED);
			break;
		default:
			set_desc(&place->entries[0], place->header, 16, NEXT, 1);
			set_desc(&place->entries[1], place->header + 64, 1, WRITE, 0);
			set_desc(&place->ring->desc[0], place->table, 32, INDIRECT, 0);
			good_chain(place);
		}
	}
}

static void
test_changing_descriptors(void **state)
{
	struct client_options options = {.queue_size = 16, .indirect_max = 8};
	static struct scribbler scribbler;

	(void)state;
	for (int round = 0; round < 30; round++) {
		struct rig_thread *thread;

		guest_start(&scribbler.guest, "disk", &options);
		find_place(&scribbler.guest, 0, &scribbler.place);
		good_chain(&scribbler.place);
		thread = rig_thread_start(scribble, &scribbler);
		for (int i = 0; i < 3000; i++) {
			client_ring_put_head(scribbler.place.ring, (uint16_t)(i % 4));
			client_ring_publish(scribbler.place.ring);
			client_ring_kick_always(scribbler.place.ring);
			if (i % 16 == 15 && client_ring_wait_error(scribbler.place.ring, 0) == 0)
				break;
		}
		rig_thread_stop(thread);
		rig_check();
		guest_end(&scribbler.guest);
	}
}

/* Memory is gone when a queue is to start: who looks there first is no reactor. */
static void
test_truncated_before_start(void **state)
{
	const struct client_options options = {.queues = 2, .start_mask = 1};
	struct client_vring_addr addr;
	struct guest guest;
	struct client_device *device = &guest.device;
	struct client_ring *ring;

	(void)state;
	guest_start(&guest, "disk", &options);
	ring = &device->rings[1];
	client_ring_addr(ring, 1, &addr);
	assert_int_equal(client_set_vring_num(&device->client, 1, ring->size, true), 0);
	assert_int_equal(client_set_vring_base(&device->client, 1, 0, true), 0);
	assert_int_equal(client_set_vring_addr(&device->client, &addr, true), 0);
	for (unsigned int i = 0; i < device->memory.count; i++)
		assert_int_equal(ftruncate(device->memory.regions[i].fd, 0), 0);
	/* Whether it is taken does not matter. */
	client_set_vring_kick(&device->client, 1, ring->kick_fd, true);
	rig_check();
	guest_end(&guest);
}

/* ---- random rings ---- */

static void
random_rings(const struct place *place, uint32_t *seed)
{
	static const uint32_t lengths[] = {0, 1, 16, 20, 512, 4096, 65536, 0x7fffffff, UINT32_MAX};

	for (unsigned int i = 0; i < place->ring->size + 64u; i++) {
		struct vring_desc *desc = i < place->ring->size
						  ? &place->ring->desc[i]
						  : &place->entries[i - place->ring->size];
		uint32_t random = next_random(seed);
		uint64_t addr = random % 8 == 0 ? (uint64_t)next_random(seed) << 16
						: place->header + random % 4096;

		if (random % 16 == 1)
			addr = place->table;
		set_desc(desc, addr, lengths[next_random(seed) % ARRAY_SIZE(lengths)],
			 (uint16_t)(next_random(seed) % 8),
			 (uint16_t)(next_random(seed) % place->ring->size));
	}
	/* Requests of all kinds wherever one may begin. */
	for (unsigned int i = 0; i < 4096; i += sizeof(struct virtio_blk_outhdr)) {
		struct virtio_blk_outhdr header = {.type = next_random(seed) % 15,
						   .sector = next_random(seed) % 70000};

		memcpy(place->page + i, &header, sizeof(header));
	}
}

static void
test_random_rings(void **state)
{
	struct client_options options = {.queue_size = 32, .indirect_max = 8};
	uint32_t seed = 2024;
	struct guest guest;
	struct place place;

	(void)state;
	guest_start(&guest, "disk", &options);
	find_place(&guest, 0, &place);
	for (int round = 0; round < 300; round++) {
		random_rings(&place, &seed);
		for (int i = 0; i < 32; i++)
			client_ring_put_head(place.ring, (uint16_t)(next_random(&seed) % 33));
		client_ring_publish(place.ring);
		client_ring_kick_always(place.ring);
		client_ring_wait_error(place.ring, 2);
		reset(&guest);
		if (round % 10 == 0)
			rig_check();
	}
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_damages),
		RIG_TEST(test_good_before_bad),
		RIG_TEST(test_table_not_negotiated),
		RIG_TEST(test_rings_overlap),
		RIG_TEST(test_full_call_eventfd),
		RIG_TEST(test_full_error_eventfd),
		RIG_TEST(test_closed_eventfds),
		RIG_TEST(test_kick_flood),
		RIG_TEST(test_changing_descriptors),
		RIG_TEST(test_truncated_before_start),
		RIG_TEST(test_random_rings),
		cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_hostile", tests, rig_group_setup,
					   rig_group_teardown);
}
