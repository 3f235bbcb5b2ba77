/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight regions over the socket: what the daemon gives, and what front-ends bring that must not
 * be believed.
 */
/* links: client testlib */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "vhost_rig.h"

#define QUEUES     4
#define QUEUE_SIZE 128
#define ROUNDS     60

static int
count_fds(void)
{
	char path[64];
	DIR *folder;
	int count = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)rig_daemon.pid);
	folder = opendir(path);
	assert_non_null(folder);
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static void
start_guest(struct guest *guest)
{
	struct client_options options = {.queues = QUEUES};

	guest_start(guest, "disk", &options);
	assert_true(guest->device.inflight.fd >= 0);
}

static bool
is_packed(const struct guest *guest)
{
	return guest->device.features & RIG_BIT(VIRTIO_F_RING_PACKED);
}

static unsigned int
marks(const struct guest *guest, unsigned int queue)
{
	struct client_inflight_map map;
	unsigned int count;

	assert_int_equal(client_inflight_map(&map, &guest->device.inflight), 0);
	if (is_packed(guest))
		count = client_inflight_count_packed(
			client_inflight_packed(&map, queue, QUEUE_SIZE), QUEUE_SIZE);
	else
		count = client_inflight_count_split(client_inflight_split(&map, queue, QUEUE_SIZE),
						    QUEUE_SIZE);
	client_inflight_unmap(&map);
	return count;
}

/* ---- messages ---- */

/* Each answer is a region of its own, and its descriptor is the front-end's alone. */
static void
test_answers(void **state)
{
	enum { COUNT = 100 };
	struct client_inflight regions[COUNT];
	struct client_inflight_map maps[2];
	uint64_t features;
	struct client c;
	int before;

	(void)state;
	assert_int_equal(client_connect(&c, rig_socket("disk"), DEADLINE_MS), 0);
	assert_int_equal(client_get_features(&c, &features), 0);
	before = count_fds();
	for (int i = 0; i < COUNT; i++) {
		regions[i] = (struct client_inflight){.num_queues = 64, .queue_size = 1024};
		assert_int_equal(client_get_inflight_fd(&c, &regions[i]), 0);
		assert_true(regions[i].mmap_size >= 64 * (16 + 16 * 1024));
	}
	assert_true(count_fds() <= before + 1);
	assert_int_equal(client_inflight_map(&maps[0], &regions[0]), 0);
	assert_int_equal(client_inflight_map(&maps[1], &regions[1]), 0);
	maps[0].data[5] = 1;
	assert_int_equal(maps[1].data[5], 0);
	client_inflight_unmap(&maps[0]);
	client_inflight_unmap(&maps[1]);
	/* One after the other is fine, as long as no queue runs. */
	for (int i = 0; i < COUNT; i++) {
		assert_int_equal(client_set_inflight_fd(&c, &regions[i], true), 0);
		close(regions[i].fd);
	}
	assert_true(count_fds() <= before + 1);
	client_close(&c);
}

/* The message of 20 bytes, without the padding that QEMU sends. */
static void
test_short_messages(void **state)
{
	struct client_message message = {.request = CLIENT_GET_INFLIGHT_FD,
					 .flags = CLIENT_VERSION,
					 .size = 20,
					 .payload.inflight = {.num_queues = 2, .queue_size = 64}};
	struct client c;

	(void)state;
	assert_int_equal(client_connect(&c, rig_socket("disk"), DEADLINE_MS), 0);
	assert_int_equal(client_send(&c, &message), 0);
	assert_int_equal(client_receive(&c, &message, DEADLINE_MS), 0);
	assert_int_equal(message.size, 20);
	assert_int_equal(message.fd_count, 1);
	assert_true(message.payload.inflight.mmap_size >= 2 * (16 + 16 * 64));
	message.request = CLIENT_SET_INFLIGHT_FD;
	message.flags = CLIENT_VERSION | CLIENT_NEED_REPLY;
	assert_int_equal(client_send(&c, &message), 0);
	client_message_close_fds(&message);
	assert_int_equal(client_receive(&c, &message, DEADLINE_MS), 0);
	assert_int_equal(message.payload.u64, 0);
	client_close(&c);
}

/* ---- going on ---- */

/*
 * The front-end goes and comes back, with its region and with a new one, after a reset, and after a
 * stop.
 */
static void
test_reconnects(void **state)
{
	struct guest guest;

	(void)state;
	start_guest(&guest);
	for (unsigned int i = 0; i < 20; i++) {
		for (unsigned int queue = 0; queue < QUEUES; queue++) {
			guest_round_trip(&guest, queue, i * 8, 4096, i + queue);
			assert_int_equal(marks(&guest, queue), 0);
		}
		if (i % 4 == 1) {
			assert_int_equal(client_device_stop(&guest.device), 0);
			assert_int_equal(client_device_start(&guest.device), 0);
		} else if (i % 4 == 2) {
			assert_int_equal(client_device_stop(&guest.device), 0);
			client_device_reset(&guest.device);
			assert_int_equal(client_device_start(&guest.device), 0);
		} else if (i % 4 == 3) {
			/* A fresh region, in the middle of the ring's life. */
			close(guest.device.inflight.fd);
			guest.device.inflight.fd = -1;
			assert_int_equal(client_device_reconnect(&guest.device), 0);
		} else {
			assert_int_equal(client_device_reconnect(&guest.device), 0);
		}
	}
	guest_end(&guest);
}

/*
 * A daemon that died between the used index and the marks of a whole batch: in a split ring the
 * used index leads the region's. None of the batch is done again.
 */
static void
test_batch_was_published(void **state)
{
	enum { BATCH = 5 };
	struct client_inflight_split *queue;
	struct client_inflight_map map;
	struct client_blk_request flush = {.type = VIRTIO_BLK_T_FLUSH};
	struct client_blk_completion completion;
	uint64_t end = now_ms() + DEADLINE_MS;
	struct guest guest;
	uint16_t last;

	(void)state;
	start_guest(&guest);
	assert_false(is_packed(&guest));
	for (int i = 0; i < BATCH; i++)
		assert_int_equal(client_blk_prepare(&guest.blk[0], &flush), 0);
	client_ring_publish(&guest.device.rings[0]);
	assert_int_equal(client_ring_kick(&guest.device.rings[0]), 0);
	while (__atomic_load_n(&guest.device.rings[0].used->idx, __ATOMIC_ACQUIRE) != BATCH)
		assert_true(now_ms() < end);
	assert_int_equal(client_device_stop(&guest.device), 0);
	client_close(&guest.device.client);

	assert_int_equal(client_inflight_map(&map, &guest.device.inflight), 0);
	queue = client_inflight_split(&map, 0, QUEUE_SIZE);
	assert_int_equal(queue->used_idx, BATCH);
	queue->used_idx = 0;
	last = queue->last_batch_head;
	for (int i = 0; i < BATCH; i++, last = queue->desc[last].next)
		queue->desc[last].inflight = 1;
	client_inflight_unmap(&map);
	assert_int_equal(marks(&guest, 0), BATCH);
	/*
	 * As many new ones, of other heads, so that the region is not taken for one of another
	 * time.
	 */
	for (int i = 0; i < BATCH; i++)
		assert_int_equal(client_blk_prepare(&guest.blk[0], &flush), 0);
	client_ring_publish(&guest.device.rings[0]);
	guest.device.started = true;
	assert_int_equal(client_device_reconnect(&guest.device), 0);
	/* Used entries of requests that the driver has back already would be an error here. */
	for (int i = 0; i < 2 * BATCH; i++)
		assert_int_equal(client_blk_wait(&guest.blk[0], &completion, DEADLINE_MS), 0);
	for (int i = 0; i < 2 * BATCH; i++)
		guest_round_trip(&guest, 0, 0, 4096, (unsigned int)i);
	assert_int_equal(marks(&guest, 0), 0);
	guest_end(&guest);
}

/* ---- hostile ---- */

static void
scribble(const struct guest *guest, bool headers)
{
	struct client_inflight_map map;

	assert_int_equal(client_inflight_map(&map, &guest->device.inflight), 0);
	for (uint64_t i = 0; i < map.size / 8; i++) {
		uint64_t value = random() % 4 ? (uint64_t)random() % (2 * QUEUE_SIZE)
					      : (uint64_t)random() << 32 | random();

		if (headers || (i * 8) % map.queue_size >= 32)
			memcpy(map.data + i * 8, &value, 8);
	}
	client_inflight_unmap(&map);
}

/*
 * The region turns to nonsense while the queue works, which does not look at it: nothing happens
 * before the next start.
 */
static void
test_scribbled_at_work(void **state)
{
	struct guest guest;

	(void)state;
	srandom(2);
	start_guest(&guest);
	/* They run when they have done something. */
	for (unsigned int queue = 0; queue < QUEUES; queue++)
		guest_round_trip(&guest, queue, 0, 4096, queue);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		scribble(&guest, true);
		guest_round_trip(&guest, i % QUEUES, 0, 4096, i);
	}
	guest_end(&guest);
}

/*
 * A region of nonsense at the start: the queue is refused, or does requests that nobody asked for
 * in the guest's own memory. Others are not disturbed, and the guest gets well with a new region.
 */
static void
test_scribbled_before(void **state)
{
	struct client_options options = {.queues = QUEUES};
	unsigned int before = daemon_log_count(&rig_daemon, "in-flight region makes no sense");

	(void)state;
	srandom(3);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct guest guest;

		guest_start(&guest, "disk", &options);
		guest_round_trip(&guest, 0, 0, 4096, i);
		client_close(&guest.device.client);
		scribble(&guest, i % 2);
		assert_int_equal(client_device_reconnect(&guest.device), 0);
		if (i % 10 == 0)
			rig_check();
		assert_int_equal(client_device_stop(&guest.device), 0);
		client_device_reset(&guest.device);
		for (unsigned int queue = 0; queue < QUEUES; queue++)
			memset(guest.blk[queue].slots, 0,
			       guest.device.rings[queue].size * sizeof(guest.blk[queue].slots[0]));
		guest_end(&guest);
	}
	assert_true(daemon_log_count(&rig_daemon, "in-flight region makes no sense") > before);
}

/* The connection goes on, so that the guest can be reset; and the driver is told. */
static void
test_refused_queue(void **state)
{
	struct client_inflight_map map;
	struct guest guest;

	(void)state;
	start_guest(&guest);
	client_close(&guest.device.client);
	assert_int_equal(client_inflight_map(&map, &guest.device.inflight), 0);
	map.data[8] = 9; /* the version */
	client_inflight_unmap(&map);
	assert_int_equal(client_device_reconnect(&guest.device), 0);
	assert_int_equal(client_ring_wait_error(&guest.device.rings[0], DEADLINE_MS), 0);
	/* The other queues are all right. */
	guest_round_trip(&guest, 1, 0, 4096, 1);
	assert_int_equal(client_device_stop(&guest.device), 0);
	client_device_reset(&guest.device);
	assert_int_equal(client_device_start(&guest.device), 0);
	for (unsigned int queue = 0; queue < QUEUES; queue++)
		guest_round_trip(&guest, queue, 0, 4096, queue);
	guest_end(&guest);
}

/* An error eventfd that is full, and would block, holds up nobody. */
static void
test_refused_queue_full_eventfd(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	struct client_inflight_map map;
	struct guest guest;
	int fd;

	(void)state;
	start_guest(&guest);
	client_close(&guest.device.client);
	rig_wait_for_sessions("disk", 0); /* nobody else writes to the eventfd */
	assert_int_equal(client_inflight_map(&map, &guest.device.inflight), 0);
	map.data[8] = 9; /* the version */
	client_inflight_unmap(&map);
	fd = guest.device.rings[0].err_fd;
	assert_int_equal(eventfd_write(fd, full), 0);
	/* Plug, and undo what the daemon did to the eventfd, before the queue starts. */
	guest.device.started = false;
	assert_int_equal(client_device_reconnect(&guest.device), 0);
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	assert_int_equal(client_device_start(&guest.device), 0);
	guest_round_trip(&guest, 1, 0, 4096, 1);
	rig_check();
	guest_end(&guest);
}

/* A region of the front-end's own making, which shrinks under load. */
static void
test_truncated(void **state)
{
	struct guest guest;
	struct client_inflight own;

	(void)state;
	start_guest(&guest);
	assert_int_equal(client_device_stop(&guest.device), 0);
	client_device_reset(&guest.device);
	assert_int_equal(client_inflight_create(&own, 1 << 20, QUEUES, QUEUE_SIZE), 0);
	guest.device.inflight = own;
	assert_int_equal(client_device_start(&guest.device), 0);
	for (unsigned int queue = 0; queue < QUEUES; queue++)
		guest_round_trip(&guest, queue, 0, 4096, queue);
	assert_int_equal(ftruncate(own.fd, 0), 0);
	for (unsigned int queue = 0; queue < QUEUES; queue++) {
		struct client_blk_request flush = {.type = VIRTIO_BLK_T_FLUSH};

		assert_int_equal(client_blk_submit(&guest.blk[queue], &flush), 0);
		assert_int_equal(client_ring_wait_error(&guest.device.rings[queue], DEADLINE_MS),
				 0);
	}
	rig_check();
	assert_int_equal(client_device_stop(&guest.device), 0);
	guest_end(&guest);
	start_guest(&guest);
	guest_round_trip(&guest, 0, 0, 4096, 9);
	guest_end(&guest);
}

int
main(void)
{
	const struct CMUnitTest split[] = {
		RIG_TEST(test_answers),           RIG_TEST(test_short_messages),
		RIG_TEST(test_reconnects),        RIG_TEST(test_batch_was_published),
		RIG_TEST(test_scribbled_at_work), RIG_TEST(test_scribbled_before),
		RIG_TEST(test_refused_queue),     RIG_TEST(test_refused_queue_full_eventfd),
		RIG_TEST(test_truncated),         cmocka_unit_test(rig_test_end),
	};
	const struct CMUnitTest packed[] = {
		RIG_TEST(test_reconnects),       RIG_TEST(test_scribbled_at_work),
		RIG_TEST(test_scribbled_before), RIG_TEST(test_refused_queue),
		RIG_TEST(test_truncated),        cmocka_unit_test(rig_test_end),
	};
	int failed;

	failed = cmocka_run_group_tests_name("vhost_inflight, split", split, rig_group_setup,
					     rig_group_teardown);
	rig_ring_features = RIG_BIT(VIRTIO_F_RING_PACKED) | RIG_BIT(VIRTIO_RING_F_EVENT_IDX);
	failed += cmocka_run_group_tests_name("vhost_inflight, packed", packed, rig_group_setup,
					      rig_group_teardown);
	return failed;
}
