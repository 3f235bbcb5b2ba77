/* SPDX-License-Identifier: BSD-3-Clause */
/* In-flight regions in sessions: their messages, what is done again, and regions that lie. */
/* links: vhost virtio bdev event testlib thread env client */
/* ldflags: -Wl,--wrap=log_write,--wrap=completion_wait */
#include "vhost_inflight_rig.h"

/* ---- the region ---- */

static void
test_new_region(void **state)
{
	struct vhost_inflight_layout wanted = {.num_queues = 3, .queue_size = RING_SIZE};
	uint8_t content[4096];
	int fd;

	(void)state;
	fd = vhost_session_get_inflight(session, &wanted);
	assert_true(fd >= 0);
	assert_int_equal(wanted.mmap_size,
			 3 * virtq_inflight_size((features & PACKED) != 0, RING_SIZE));
	assert_int_equal(wanted.mmap_offset, 0);
	assert_int_equal(wanted.num_queues, 3);
	assert_int_equal(wanted.queue_size, RING_SIZE);
	/* Exactly as large, all zero, and it stays as large. */
	assert_int_equal(pread(fd, content, sizeof(content), 0), wanted.mmap_size);
	for (size_t i = 0; i < wanted.mmap_size; i++)
		assert_int_equal(content[i], 0);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
	for (int i = 0; i < 4; i++) {
		static const uint16_t bad[4][2] = {
			{0, RING_SIZE},
			{QUEUES + 1, RING_SIZE},
			{1, 0},
			{1, VHOST_MAX_RING_SIZE + 1},
		};

		wanted.num_queues = bad[i][0];
		wanted.queue_size = bad[i][1];
		assert_int_equal(vhost_session_get_inflight(session, &wanted), -EINVAL);
	}
}

/* QEMU < 5.1: the kind of rings is not known when the region is made. */
static void
test_region_before_features(void **state)
{
	struct vhost_inflight_layout wanted = {.num_queues = 1, .queue_size = RING_SIZE};
	int fd;

	(void)state;
	assert_int_equal(vhost_session_set_features(session, 0), 0);
	fd = vhost_session_get_inflight(session, &wanted);
	assert_true(fd >= 0);
	assert_int_equal(wanted.mmap_size, virtq_inflight_size(true, RING_SIZE));
	assert_int_equal(vhost_session_set_inflight(session, &wanted, fd), 0);
	close(fd);
	assert_int_equal(vhost_session_set_features(session, features), 0);
	start();
	do_some(3);
}

static void
test_bad_regions(void **state)
{
	struct client_inflight good = new_region(), bad;
	const uint64_t size = good.mmap_size;
	int event = eventfd(0, EFD_CLOEXEC), ends[2];

	(void)state;
#define TRY(expected, ...)                                                                         \
	do {                                                                                       \
		bad = good;                                                                        \
		__VA_ARGS__;                                                                       \
		assert_int_equal(give_region(&bad), expected);                                     \
		assert_null(session->inflight);                                                    \
	} while (0)
	TRY(-EINVAL, bad.num_queues = 0);
	TRY(-EINVAL, bad.num_queues = QUEUES + 1);
	TRY(-EINVAL, bad.num_queues = UINT16_MAX);
	TRY(-EINVAL, bad.queue_size = 0);
	TRY(-EINVAL, bad.queue_size = VHOST_MAX_RING_SIZE + 1);
	TRY(-EINVAL, bad.queue_size = VHOST_MAX_RING_SIZE);
	TRY(-EINVAL, bad.mmap_size = 0);
	TRY(-EINVAL, bad.mmap_size = QUEUES * virtq_inflight_size(false, RING_SIZE) - 1);
	TRY(-EINVAL, bad.mmap_size = UINT64_MAX);
	TRY(-EINVAL, bad.mmap_offset = 4);
	TRY(-ERANGE, bad.mmap_size = size + 1);
	TRY(-ERANGE, bad.mmap_offset = 64);
	TRY(-ERANGE, bad.mmap_offset = UINT64_MAX - 63);
	TRY(-EINVAL, bad.fd = event);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	TRY(-EINVAL, bad.fd = ends[0]);
	close(ends[0]);
	close(ends[1]);
	close(event);
	assert_int_equal(give_region(&good), 0);
	start();
	/* Not under a queue's feet. */
	assert_int_equal(give_region(&good), -EBUSY);
	do_some(1);
	close(good.fd);
}

/* What is taken is marked until it is back. */
static void
test_marks(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(5);
	device.hold = true;
	offer(3);
	wait_for_handled(8);
	assert_int_equal(marks(&region, 0), 3);
	assert_int_equal(marks(&region, 1), 0);
	complete(2);
	expect_used(2, &seen);
	complete(1);
	expect_used(1, &seen);
	device.hold = false;
	get_base();
	assert_int_equal(marks(&region, 0), 0);
	close(region.fd);
}

/* ---- another session goes on ---- */

static void
complete_message(void *arg)
{
	complete_held(arg);
}

/* When the poller will find both: that requests complete, and that the front-end is gone. */
static void *
resume_poller(void *arg)
{
	(void)arg;
	while (messages_sent < 2)
		sched_yield();
	poller_paused = false;
	return NULL;
}

/* Completes count requests, and the front-end is gone before the next poll. */
static void
complete_and_die(unsigned int count)
{
	unsigned int rounds = poller_rounds;
	pthread_t thread;

	poller_paused = true;
	while (poller_rounds < rounds + 2)
		sched_yield();
	messages_sent = 0;
	assert_int_equal(thread_send_msg(vhost_main_thread(controller), complete_message, &count),
			 0);
	assert_int_equal(pthread_create(&thread, NULL, resume_poller, NULL), 0);
	die();
	pthread_join(thread, NULL);
}

/*
 * The front-end comes back while its requests are still in the device. Of the seven, one is seen to
 * complete, two complete and are not published any more, two complete when it is gone, and two when
 * the next session is there. The six are done again, when the last of them is over, and each is
 * used once.
 */
static void
test_disconnect(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(5);
	device.hold = true;
	offer(7);
	wait_for_handled(12);
	complete(1);
	expect_used(1, &seen);
	complete_and_die(2);
	complete(2);
	expect_none();
	assert_int_equal(marks(&region, 0), 6);

	open_session();
	assert_int_equal(give_region(&region), 0);
	repeat_base();
	start();
	/* What the driver adds meanwhile waits, too. */
	offer(1);
	expect_none();
	assert_int_equal(device.handled, 12);
	/* The first session's last ones. */
	complete(2);
	wait_for_handled(19);
	expect_none();
	/* Nothing of the first session is behind the one that is used now. */
	complete(1);
	expect_used(1, &seen);
	expect_none();
	complete(6);
	expect_used(6, &seen);
	assert_int_equal(seen, 0xff);
	expect_none();
	device.hold = false;
	do_some(3);
	assert_int_equal(device.handled, 22);
	get_base();
	assert_int_equal(marks(&region, 0), 0);
	close(region.fd);
}

/* Again and again, with whatever is under way. */
static void
test_many_disconnects(void **state)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;
	unsigned int used = 0;

	(void)state;
	device.hold = true;
	for (unsigned int i = 0; i < 48; i++) {
		unsigned int held =
			(unsigned int)thread_call(vhost_main_thread(controller), count_held, NULL);
		unsigned int ready = i % 3;

		if (i > 0)
			open_session();
		assert_int_equal(give_region(&region), 0);
		repeat_base();
		device.handled = 0;
		start();
		offer(1);
		/*
		 * When those of the last session are over: all that are not used yet, and the new
		 * one.
		 */
		complete(held);
		wait_for_handled(next_tag - used);
		if (next_tag - used < 5)
			ready = 0;
		complete(ready);
		expect_used(ready, &seen);
		used += ready;
		complete_and_die(i % 2);
	}
	complete(UINT32_MAX);
	device.hold = false;
	open_session();
	assert_int_equal(give_region(&region), 0);
	repeat_base();
	start();
	expect_used((unsigned int)next_tag - used, &seen);
	assert_int_equal(seen, (1ULL << next_tag) - 1);
	expect_none();
	close(region.fd);
}

static void *
let_go_later(void *arg)
{
	usleep(20000); /* it is waited for by then, most likely */
	device.hold = false;
	complete(UINT32_MAX);
	return arg;
}

/*
 * A session that ends, or whose queue is stopped, before it has done what the one before left: that
 * stays in the region, given again or not.
 */
static void
check_waiting_queue_stops(bool again)
{
	struct client_inflight region = new_region();
	uint64_t seen = 0;
	pthread_t later;

	assert_int_equal(give_region(&region), 0);
	repeat_base();
	start();
	device.hold = true;
	offer(3);
	wait_for_handled(3);
	for (int i = 0; i < 2; i++) {
		die();
		open_session();
		assert_int_equal(give_region(&region), 0);
		repeat_base();
		start();
	}
	assert_int_equal(pthread_create(&later, NULL, let_go_later, NULL), 0);
	get_base();
	pthread_join(later, NULL);
	expect_none();
	if (again)
		assert_int_equal(give_region(&region), 0);
	start();
	expect_used(3, &seen);
	expect_none();
	do_some(2);
	close(region.fd);
}

static void
test_waiting_queue_stops(void **state)
{
	(void)state;
	check_waiting_queue_stops(false);
}

static void
test_waiting_queue_stops_region_again(void **state)
{
	(void)state;
	check_waiting_queue_stops(true);
}

/*
 * The place of a packed ring is nowhere but in the region: front-ends repeat the base of the last
 * start, or none at all.
 */
static void
test_place_of_the_region(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (int i = 0; i < 20; i++) {
		if (i % 2 == 1)
			repeat_base();
		start();
		do_some(7);
		die();
		open_session();
		assert_int_equal(give_region(&region), 0);
	}
	close(region.fd);
}

/* A new queue, with and without a region. */
static void
test_no_base(void **state)
{
	(void)state;
	start();
	do_some(RING_SIZE + 1);
	assert_int_equal(get_base(), features & PACKED ? 0x80028002 : RING_SIZE + 1);
}

static void
overwrite(const struct client_inflight *region, off_t offset, uint64_t value, size_t size)
{
	assert_int_equal(pwrite(region->fd, &value, size, offset), size);
}

/* ---- what the front-end says counts, after a stop in order ---- */

static void
test_guest_reset(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (int i = 0; i < 20; i++) {
		start();
		do_some(5);
		get_base();
		/* Go on. */
		start();
		do_some(1);
		get_base();
		/*
		 * Firmware, then a kernel: nobody gives a new region. What is in it does not count,
		 * be it from a ring of another kind.
		 */
		overwrite(&region, 8, 7, 2);
		client_ring_reset(&ring);
		repeat_base();
		if (i % 2 == 1)
			assert_int_equal(give_region(&region), 0);
	}
	start();
	do_some(3);
	/* A table of memory, a new address, and on and off are no reset. */
	assert_int_equal(send_mem_table(), 0);
	do_some(1);
	assert_int_equal(send_ring(0, &ring), 0);
	do_some(1);
	assert_int_equal(vhost_session_set_vring_enable(session, 0, false), 0);
	assert_int_equal(vhost_session_set_vring_enable(session, 0, true), 0);
	do_some(1);
	close(region.fd);
}

/* RESET_OWNER stops in order, too; the driver begins anew, wherever the ring was. */
static void
test_reset_owner(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (unsigned int i = 1; i < 20; i++) {
		start();
		do_some(i);
		assert_int_equal(vhost_session_reset(session), 0);
		client_ring_reset(&ring);
		if (i % 2 == 1)
			assert_int_equal(give_region(&region), 0);
		if (i % 3 == 0)
			repeat_base();
	}
	close(region.fd);
}

/*
 * The daemon dies between a stop in order and the next start. The front-end was told the place, or
 * the ring begins anew meanwhile: what it says counts.
 */
static void
test_death_after_a_stop(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (unsigned int i = 1; i < 20; i++) {
		uint32_t base;

		start();
		do_some(i);
		base = get_base();
		die();
		open_session();
		assert_int_equal(give_region(&region), 0);
		if (i % 2 == 0)
			client_ring_reset(&ring);
		if (i % 2 == 0)
			repeat_base();
		else
			assert_int_equal(vhost_session_set_vring_base(session, 0, base), 0);
	}
	start();
	do_some(1);
	close(region.fd);
}

/* It dies before the answer is out: nobody but the region knows the place. */
static void
test_death_before_the_answer(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	assert_int_equal(give_region(&region), 0);
	for (unsigned int i = 1; i < 20; i++) {
		start();
		do_some(i);
		assert_int_equal(vhost_session_get_vring_base(session, 0, &(uint32_t){0}), 0);
		die();
		open_session();
		assert_int_equal(give_region(&region), 0);
		repeat_base();
	}
	close(region.fd);
}

/*
 * What a region had from another process counts, although the queue was stopped in order on this
 * one's.
 */
static void
test_region_of_another(void **state)
{
	struct client_inflight old = new_region(), mine = new_region();
	struct client_ring saved;
	uint64_t seen = 0;

	(void)state;
	assert_int_equal(give_region(&old), 0);
	start();
	do_some(9);
	device.hold = true;
	offer(4);
	wait_for_handled(13);
	die();
	device.hold = false;
	complete(UINT32_MAX);

	saved = ring;
	assert_int_equal(client_ring_create_with(&ring, &memory, RING_SIZE, 0, features), 0);
	open_session();
	assert_int_equal(give_region(&mine), 0);
	start();
	do_some(2);
	get_base();
	client_ring_destroy(&ring);
	ring = saved;
	assert_int_equal(give_region(&old), 0);
	repeat_base();
	start();
	expect_used(4, &seen);
	expect_none();
	close(old.fd);
	close(mine.fd);
}

/* ---- regions that lie ---- */

static void
check_refused(const struct client_inflight *region, unsigned int lines)
{
	assert_int_equal(give_region(region), 0);
	assert_int_equal(try_start(0, &ring), 0);
	assert_false(session->vrings[0].running);
	assert_int_equal(read_eventfd(ring.err_fd), 1);
	assert_int_equal(log_capture_count(), lines + 1);
	assert_non_null(strstr(log_capture_last(), "vhost test: queue 0: "));
	/* Told once. */
	assert_int_equal(vhost_session_set_vring_enable(session, 0, false), 0);
	assert_int_equal(vhost_session_set_vring_enable(session, 0, true), 0);
	assert_int_equal(log_capture_count(), lines + 1);
	get_base();
}

/* Sense or nonsense: the queue runs or is refused, and a region that is all right serves it. */
static void
test_hostile_content(void **state)
{
	struct client_inflight region = new_region();

	(void)state;
	log_capture_reset();
	/*
	 * A version of the future; that of today with another one's features; a size that is too
	 * large.
	 */
	overwrite(&region, 8, 2, 2);
	check_refused(&region, 0);
	overwrite(&region, 8, 1, 2);
	overwrite(&region, 0, 1, 8);
	check_refused(&region, 1);
	overwrite(&region, 0, 0, 8);
	overwrite(&region, 10, UINT16_MAX, 2);
	check_refused(&region, 2);
	/* Right but for a mark that is none. */
	overwrite(&region, 10, RING_SIZE, 2);
	overwrite(&region, features & PACKED ? 32 : 16, 2, 1);
	check_refused(&region, 3);
	/* Random, all over. */
	srandom(1);
	for (int i = 0; i < 2000; i++) {
		for (off_t at = 0; at < (off_t)region.mmap_size; at += 8)
			overwrite(&region, at, (uint64_t)(random() % 4 ? random() % 17 : random()),
				  8);
		overwrite(&region, 0, 0, 8);
		overwrite(&region, 8, 1 | RING_SIZE << 16, 4);
		assert_int_equal(try_start(0, &ring), 0);
		get_base();
		client_ring_reset(&ring);
		assert_int_equal(give_region(&region), 0);
	}
	close(region.fd);

	region = new_region();
	client_ring_reset(&ring);
	repeat_base();
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(4);
	close(region.fd);
}

/* The same chain twice: a descriptor that is in flight two times over, or in two chains. */
static void
test_marked_twice(void **state)
{
	struct client_inflight region = new_region();
	struct client_inflight_map map;

	(void)state;
	assert_int_equal(give_region(&region), 0);
	start();
	device.hold = true;
	offer(4);
	wait_for_handled(4);
	die();
	device.hold = false;
	complete(UINT32_MAX);
	open_session();
	assert_int_equal(client_inflight_map(&map, &region), 0);
	if (features & PACKED) {
		/* The second chain's first entry is the first one's last. */
		struct client_inflight_packed *queue = client_inflight_packed(&map, 0, RING_SIZE);

		queue->desc[0].next = 2;
		queue->desc[0].last = 2;
	} else {
		/* The list of the last batch goes round. */
		struct client_inflight_split *queue = client_inflight_split(&map, 0, RING_SIZE);

		queue->used_idx -= 2;
		queue->last_batch_head = 3;
		queue->desc[3].next = 3;
	}
	client_inflight_unmap(&map);
	log_capture_reset();
	check_refused(&region, 0);
	close(region.fd);
}

/* A queue that the region has no room for. */
static void
test_no_room(void **state)
{
	struct vhost_inflight_layout small = {.num_queues = 2, .queue_size = RING_SIZE / 2};
	struct client_inflight region = {.fd = -1};

	(void)state;
	region.fd = vhost_session_get_inflight(session, &small);
	region.mmap_size = small.mmap_size;
	region.num_queues = 2;
	region.queue_size = RING_SIZE / 2;
	assert_int_equal(give_region(&region), 0);
	log_capture_reset();
	assert_int_equal(try_start(0, &ring), -ERANGE);
	assert_false(session->vrings[0].running);
	assert_int_equal(log_capture_count(), 1);
	assert_non_null(strstr(log_capture_last(), "has no room"));
	close(region.fd);
	/* The right size, but too few of them. */
	assert_int_equal(vhost_session_reset(session), 0);
	small = (struct vhost_inflight_layout){.num_queues = 2, .queue_size = RING_SIZE};
	region.fd = vhost_session_get_inflight(session, &small);
	region.mmap_size = small.mmap_size;
	region.queue_size = RING_SIZE;
	assert_int_equal(give_region(&region), 0);
	assert_int_equal(try_start(2, &ring), -ERANGE);
	assert_int_equal(try_start(3, &ring), -ERANGE);
	assert_int_equal(vhost_session_reset(session), 0);
	start();
	do_some(2);
	close(region.fd);
}

/* A region of somebody else's making can shrink at any time: its queue breaks, and nothing else. */
static void
test_truncated_region(void **state)
{
	struct client_inflight region;

	(void)state;
	assert_int_equal(mapping_guard_install(), 0);
	assert_int_equal(client_inflight_create(&region, 65536, QUEUES, RING_SIZE), 0);
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(3);
	log_capture_reset();
	assert_int_equal(ftruncate(region.fd, 0), 0);
	offer(1);
	assert_int_equal(read_eventfd(ring.err_fd), 1);
	get_base();
	assert_non_null(strstr(log_capture_last(), "truncated"));
	/* It does not start again, and cannot be given again. */
	assert_int_equal(try_start(0, &ring), 0);
	assert_false(session->vrings[0].running);
	assert_int_equal(read_eventfd(ring.err_fd), 1);
	assert_int_equal(log_capture_count(), 2);
	get_base();
	assert_int_equal(give_region(&region), -ERANGE);
	close(region.fd);

	region = new_region();
	client_ring_reset(&ring);
	repeat_base();
	assert_int_equal(give_region(&region), 0);
	start();
	do_some(3);
	close(region.fd);
}

int
main(void)
{
#define TEST(name)                                                                                 \
	{#name " (split)", name, setup_split, teardown, NULL},                                     \
	{                                                                                          \
#name " (packed)", name, setup_packed, teardown, NULL                              \
	}
	const struct CMUnitTest tests[] = {
		TEST(test_new_region),          TEST(test_region_before_features),
		TEST(test_bad_regions),         TEST(test_marks),
		TEST(test_disconnect),          TEST(test_many_disconnects),
		TEST(test_waiting_queue_stops), TEST(test_waiting_queue_stops_region_again),
		TEST(test_place_of_the_region), TEST(test_no_base),
		TEST(test_guest_reset),         TEST(test_reset_owner),
		TEST(test_death_after_a_stop),  TEST(test_death_before_the_answer),
		TEST(test_region_of_another),   TEST(test_hostile_content),
		TEST(test_marked_twice),        TEST(test_no_room),
		TEST(test_truncated_region),
	};

	return cmocka_run_group_tests_name("vhost_inflight", tests, NULL, NULL);
}
