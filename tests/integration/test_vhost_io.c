/* SPDX-License-Identifier: BSD-3-Clause */
/* A guest that behaves: data, configuration, queues started and stopped, changes under load. */
/* links: client testlib */
#include "vhost_rig.h"

/* ---- requests ---- */

#define RING_FEATURES (RIG_BIT(VIRTIO_F_RING_PACKED) | RIG_BIT(VIRTIO_RING_F_EVENT_IDX))

static void
test_round_trips(void **state)
{
	static const uint32_t sizes[] = {512, 1024, 4096, 65536, RIG_BOUNCE};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (unsigned int round = 0; round < 20; round++)
			guest_round_trip(&guest, 0, round * 300 + i, sizes[i], round);
	}
	/* The last sectors. */
	guest_round_trip(&guest, 0, RIG_SECTORS - 8, 4096, 99);
	guest_end(&guest);
}

/* Header, data and status over buffers in each way, direct and indirect. */
static void
test_layouts(void **state)
{
	static const uint32_t pieces[] = {1, 7, 16, 17, 100, 511, 512, 513, 2048, 4096 + 17};
	struct guest guest;
	uint8_t data[4096], back[4096];
	uint64_t out, in;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_memory_alloc(&guest.device.memory, 8192, 16, &out), 0);
	assert_int_equal(client_memory_alloc(&guest.device.memory, 8192, 16, &in), 0);
	for (size_t p = 0; p < 2 * sizeof(pieces) / sizeof(pieces[0]); p++) {
		uint32_t piece = pieces[p / 2], total = 16 + sizeof(data);
		bool indirect = p % 2;
		struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = p * 8};
		struct client_ring *ring = &guest.device.rings[0];
		struct client_segment segments[600];
		unsigned int count = 0;
		struct client_used used;

		/* So many that they do not all fit in the queue. */
		if (total / piece + 2 > 126)
			piece = total / 120 + 1;
		rig_fill(data, sizeof(data), (unsigned int)p);
		client_memory_write(&guest.device.memory, out, &header, sizeof(header));
		client_memory_write(&guest.device.memory, out + 16, data, sizeof(data));
		for (uint32_t done = 0; done < total; done += piece) {
			uint32_t length = total - done < piece ? total - done : piece;

			segments[count++] = (struct client_segment){out + done, length, false};
		}
		segments[count++] = (struct client_segment){in, 1, true};
		assert_int_equal(client_ring_add(ring, segments, count, indirect, 1), 0);
		client_ring_publish(ring);
		assert_int_equal(client_ring_kick(ring), 0);
		assert_int_equal(client_ring_wait(ring, DEADLINE_MS), 0);
		assert_int_equal(client_ring_pop(ring, &used), 1);
		assert_int_equal(used.len, 1);
		assert_int_equal(*(uint8_t *)client_memory_ptr(&guest.device.memory, in, 1),
				 VIRTIO_BLK_S_OK);

		/* And back, with the status merged into the last piece. */
		header.type = VIRTIO_BLK_T_IN;
		client_memory_write(&guest.device.memory, out, &header, sizeof(header));
		memset(client_memory_ptr(&guest.device.memory, in, 8192), 0xee, 8192);
		segments[0] = (struct client_segment){out, 5, false};
		segments[1] = (struct client_segment){out + 5, 11, false};
		count = 2;
		total = sizeof(data) + 1;
		for (uint32_t done = 0; done < total; done += piece) {
			uint32_t length = total - done < piece ? total - done : piece;

			segments[count++] = (struct client_segment){in + done, length, true};
		}
		assert_int_equal(client_ring_add(ring, segments, count, indirect, 2), 0);
		client_ring_publish(ring);
		assert_int_equal(client_ring_kick(ring), 0);
		assert_int_equal(client_ring_wait(ring, DEADLINE_MS), 0);
		assert_int_equal(client_ring_pop(ring, &used), 1);
		assert_int_equal(used.len, sizeof(data) + 1);
		client_memory_read(&guest.device.memory, in, back, sizeof(back));
		assert_memory_equal(back, data, sizeof(data));
		assert_int_equal(
			*(uint8_t *)client_memory_ptr(&guest.device.memory, in + sizeof(data), 2),
			VIRTIO_BLK_S_OK);
	}
	guest_end(&guest);
}

/* One buffer over the border of two regions that touch in the guest and not in the front-end. */
static void
test_buffer_over_regions(void **state)
{
	const struct client_region_layout *last =
		&client_default_layout[client_default_layout_count - 1];
	const uint64_t border = last->gpa + last->size;
	const struct client_region_layout more = {
		.gpa = border, .user_addr = 0x7d0000000000, .size = 1 << 20, .file = 9};
	uint8_t data[8192], back[8192] = {0};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_memory_add(&guest.device.memory, &more), 0);
	assert_int_equal(client_set_mem_table(&guest.device.client, &guest.device.memory, true), 0);
	rig_fill(data, sizeof(data), 5);
	for (int write = 1; write >= 0; write--) {
		struct client_segment segment = {border - 4096, 8192, !write};
		struct client_blk_request request = {.type = write ? VIRTIO_BLK_T_OUT
								   : VIRTIO_BLK_T_IN,
						     .sector = 64,
						     .segments = &segment,
						     .segment_count = 1};

		assert_int_equal(client_memory_write(&guest.device.memory, segment.gpa,
						     write ? data : back, sizeof(data)),
				 0);
		assert_int_equal(client_blk_execute(&guest.blk[0], &request, NULL),
				 VIRTIO_BLK_S_OK);
	}
	assert_int_equal(
		client_memory_read(&guest.device.memory, border - 4096, back, sizeof(back)), 0);
	assert_memory_equal(back, data, sizeof(data));
	guest_end(&guest);
}

static void
test_request_types(void **state)
{
	uint8_t data[4096], zeroes[4096] = {0};
	char id[VIRTIO_BLK_ID_BYTES + 1];
	struct guest guest;
	struct client_blk *blk = &guest.blk[0];
	struct client_blk_request unknown = {.type = 99};

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_blk_flush(blk), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_get_id(blk, id), VIRTIO_BLK_S_OK);
	assert_string_equal(id, "disk");
	rig_fill(data, sizeof(data), 3);
	assert_int_equal(client_blk_write(blk, 8, data, sizeof(data)), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_write_zeroes(blk, 8, 8, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_read(blk, 8, data, sizeof(data)), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, zeroes, sizeof(data));
	assert_int_equal(client_blk_write_zeroes(blk, 8, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_discard(blk, 0, 128), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_execute(blk, &unknown, NULL), VIRTIO_BLK_S_UNSUPP);
	/* Outside. */
	assert_int_equal(client_blk_read(blk, RIG_SECTORS, data, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_read(blk, RIG_SECTORS - 1, data, 1024), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_write(blk, UINT64_MAX, data, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_discard(blk, RIG_SECTORS - 1, 2), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_write_zeroes(blk, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_write_zeroes(blk, 0, 1, 0x80), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(client_blk_write(blk, 0, data, 512), VIRTIO_BLK_S_OK);
	guest_end(&guest);
}

static void
test_read_only(void **state)
{
	uint8_t data[512] = {0};
	struct guest guest;

	(void)state;
	assert_int_equal(daemon_create_blk(&rig_daemon, "ro", "disk", true), 0);
	guest_start(&guest, "ro", NULL);
	assert_true(guest.device.features & RIG_BIT(VIRTIO_BLK_F_RO));
	assert_false(guest.device.features & RIG_BIT(VIRTIO_BLK_F_DISCARD));
	assert_int_equal(client_blk_write(&guest.blk[0], 0, data, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_discard(&guest.blk[0], 0, 8), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_write_zeroes(&guest.blk[0], 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(client_blk_read(&guest.blk[0], 0, data, 512), VIRTIO_BLK_S_OK);
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("ro"), 0);
}

/* ---- configuration ---- */

static void
test_config_sizes(void **state)
{
	uint8_t whole[CLIENT_CONFIG_SPACE], part[CLIENT_CONFIG_SPACE];
	struct virtio_blk_config *config = (struct virtio_blk_config *)whole;
	struct guest guest;
	struct client *c = &guest.device.client;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_get_config(c, 0, sizeof(whole), whole), 0);
	assert_int_equal(config->capacity, RIG_SECTORS);
	assert_int_equal(config->blk_size, 512);
	assert_true(config->seg_max > 0 && config->seg_max <= 126);
	assert_true(config->num_queues > 1);
	assert_int_equal(config->wce, 1);
	for (size_t i = sizeof(*config); i < sizeof(whole); i++)
		assert_int_equal(whole[i], 0);
	for (uint32_t size = 57; size <= 256; size++) {
		assert_int_equal(client_get_config(c, 0, size, part), 0);
		assert_memory_equal(part, whole, size);
	}
	assert_int_equal(client_get_config(c, 8, 8, part), 0);
	assert_memory_equal(part, whole + 8, 8);
	guest_end(&guest);
}

/*
 * The driver may choose its cache, and the choice stays when its front-end comes back. Durability
 * itself: tests/unit/test_vhost_blk.c.
 */
static void
test_cache_mode(void **state)
{
	const uint32_t wce = offsetof(struct virtio_blk_config, wce);
	uint8_t value = 0, data[512] = {0};
	struct guest guest;
	struct client *c = &guest.device.client;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_set_config(c, wce, 1, &value, true), 0);
	value = 9;
	assert_int_equal(client_get_config(c, wce, 1, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(client_blk_write(&guest.blk[0], 0, data, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(client_set_config(c, 0, 1, &value, true), -EREMOTEIO);
	assert_int_equal(client_set_config(c, wce, 2, data, true), -EREMOTEIO);
	value = 7;
	assert_int_equal(client_set_config(c, wce, 1, &value, true), -EREMOTEIO);
	guest_end(&guest);
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_get_config(c, wce, 1, &value), 0);
	assert_int_equal(value, 0);
	value = 1;
	assert_int_equal(client_set_config(c, wce, 1, &value, true), 0);
	assert_int_equal(client_blk_flush(&guest.blk[0]), VIRTIO_BLK_S_OK);
	guest_end(&guest);
}

static void
test_negotiation(void **state)
{
	struct guest guest;
	struct client *c = &guest.device.client;
	uint64_t queues;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_true(guest.device.offered_features & RIG_BIT(VIRTIO_F_VERSION_1));
	assert_true(guest.device.offered_features & RIG_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	assert_true(guest.device.offered_features & RIG_BIT(VIRTIO_BLK_F_MQ));
	assert_true(guest.device.offered_features & RIG_BIT(VIRTIO_RING_F_EVENT_IDX));
	assert_int_equal(guest.device.offered_features & RIG_BIT(VIRTIO_F_RING_PACKED),
			 rig_ring_features & RIG_BIT(VIRTIO_F_RING_PACKED));
	assert_int_equal(guest.device.features & RING_FEATURES, rig_ring_features);
	/* What would be needed for migration. */
	assert_false(guest.device.offered_features & RIG_BIT(VIRTIO_F_IN_ORDER));
	assert_false(guest.device.offered_features & RIG_BIT(CLIENT_F_LOG_ALL));
	assert_int_equal(guest.device.protocol_features,
			 RIG_BIT(CLIENT_PROTOCOL_F_MQ) | RIG_BIT(CLIENT_PROTOCOL_F_REPLY_ACK) |
				 RIG_BIT(CLIENT_PROTOCOL_F_BACKEND_REQ) |
				 RIG_BIT(CLIENT_PROTOCOL_F_CONFIG) |
				 RIG_BIT(CLIENT_PROTOCOL_F_INFLIGHT_SHMFD));
	assert_int_equal(client_get_queue_num(c, &queues), 0);
	assert_true(queues >= 16);
	guest_end(&guest);
}

/* ---- queues ---- */

static void
test_many_queues(void **state)
{
	struct client_options options = {.queues = 16, .queue_size = 32, .indirect_max = 34};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	for (unsigned int round = 0; round < 10; round++) {
		for (unsigned int queue = 0; queue < 16; queue++)
			guest_round_trip(&guest, queue, queue * 100 + round, 4096,
					 queue * 10 + round);
	}
	guest_end(&guest);
}

/* Firmware: one queue of many, one request at a time, no protocol features, no VERSION_1. */
static void
test_firmware(void **state)
{
	struct client_options options = {
		.queues = 4, .start_mask = 1, .queue_size = 128, .indirect_max = 8};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	assert_int_equal(client_device_stop(&guest.device), 0);
	guest_end(&guest);
	options.features = RIG_BIT(VIRTIO_BLK_F_SEG_MAX) | RIG_BIT(VIRTIO_BLK_F_BLK_SIZE);
	options.queues = 1;
	guest_start(&guest, "disk", &options);
	guest_round_trip(&guest, 0, 0, 4096, 2);
	guest_end(&guest);
}

/*
 * A queue that was stopped stands behind all that was asked of it: so many chains, or where the
 * driver is.
 */
static void
check_base(struct guest *guest, unsigned int queue, uint64_t chains)
{
	struct client_ring *ring = &guest->device.rings[queue];
	uint32_t expected = ring->packed ? client_ring_resume_base(ring) : (uint16_t)chains;

	assert_int_equal(guest->device.bases[queue], expected);
}

/* Stop and start are exact: each request is served once, whatever the index. */
static void
test_stop_and_start(void **state)
{
	struct client_options options = {.queues = 2, .queue_size = 16, .indirect_max = 8};
	struct guest guest;
	unsigned int served[2] = {0, 0};

	(void)state;
	options.start_mask = 3;
	guest_start(&guest, "disk", &options);
	guest.blk[0].segment_size = guest.blk[1].segment_size = RIG_BOUNCE;
	for (unsigned int cycle = 0; cycle < 20; cycle++) {
		for (unsigned int i = 0; i < 13; i++)
			guest_round_trip(&guest, i % 2, i, 512, cycle + i);
		served[0] += 7;
		served[1] += 6;
		assert_int_equal(client_device_stop(&guest.device), 0);
		check_base(&guest, 0, 2 * served[0]);
		check_base(&guest, 1, 2 * served[1]);
		assert_int_equal(client_device_start(&guest.device), 0);
	}
	/* The guest reboots. */
	for (unsigned int boot = 0; boot < 5; boot++) {
		assert_int_equal(client_device_stop(&guest.device), 0);
		client_device_reset(&guest.device);
		assert_int_equal(client_device_start(&guest.device), 0);
		guest_round_trip(&guest, 0, 3, 4096, boot);
		guest_round_trip(&guest, 1, 3, 4096, boot);
	}
	guest_end(&guest);
}

/* 65,536 requests and more: indices wrap. */
static void
test_index_wrap(void **state)
{
	struct guest guest;
	uint8_t data[512];

	(void)state;
	guest_start(&guest, "disk", NULL);
	for (unsigned int i = 0; i < 70000; i += 64) {
		struct client_segment segment = {guest.blk[0].bounce_gpa, 512, true};
		struct client_blk_request request = {
			.type = VIRTIO_BLK_T_IN, .segments = &segment, .segment_count = 1};
		struct client_blk_completion completion;

		for (unsigned int j = 0; j < 64; j++)
			assert_int_equal(client_blk_prepare(&guest.blk[0], &request), 0);
		client_ring_publish(&guest.device.rings[0]);
		assert_int_equal(client_ring_kick(&guest.device.rings[0]), 0);
		for (unsigned int j = 0; j < 64; j++) {
			assert_int_equal(client_blk_wait(&guest.blk[0], &completion, DEADLINE_MS),
					 0);
			assert_int_equal(completion.status, VIRTIO_BLK_S_OK);
		}
	}
	assert_int_equal(client_blk_read(&guest.blk[0], 0, data, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(client_device_stop(&guest.device), 0);
	check_base(&guest, 0, 70016 + 1);
	guest_end(&guest);
}

/*
 * No kick is lost, however the queue goes to sleep: each request is alone, after pauses of all
 * lengths.
 */
static void
test_kicks(void **state)
{
	struct guest guest;
	uint8_t data[512];

	(void)state;
	guest_start(&guest, "disk", NULL);
	for (unsigned int i = 0; i < 5000; i++) {
		assert_int_equal(client_blk_read(&guest.blk[0], i, data, 512), VIRTIO_BLK_S_OK);
		if (i % 4 == 0) {
			struct timespec pause = {.tv_nsec = (i % 300) * 1000};

			nanosleep(&pause, NULL);
		}
	}
	guest_end(&guest);
}

/* ---- changes under load ---- */

/* A guest, and a thread that works for it. */
static struct load {
	struct guest guest;
	struct rig_thread *thread;
	/* the thread's until it is stopped */
	uint64_t requests;
	int failure;
} load;

/* Keeps requests outstanding until told to stop. */
static void
load_run(struct rig_thread *thread, void *arg)
{
	struct client_blk *blk = &load.guest.blk[0];
	struct client_ring *ring = blk->ring;
	struct client_segment segment = {blk->bounce_gpa, 4096, true};
	struct client_blk_request request = {
		.type = VIRTIO_BLK_T_IN, .segments = &segment, .segment_count = 1};
	struct client_blk_completion completion;

	(void)arg;
	while (load.failure == 0) {
		bool stop = thread->stop && load.requests > 0;

		while (!stop && ring->outstanding < 16 && load.failure == 0) {
			request.sector = load.requests % 1000;
			load.failure = client_blk_prepare(blk, &request);
		}
		if (load.failure != 0 || ring->outstanding == 0)
			break;
		client_ring_publish(ring);
		client_ring_kick(ring);
		load.failure = client_ring_wait(ring, DEADLINE_MS);
		while (load.failure == 0 && client_blk_reap(blk, &completion) == 1) {
			load.requests++;
			if (completion.status != VIRTIO_BLK_S_OK || completion.used_len != 4097)
				load.failure = -EIO;
		}
	}
}

static void
load_start(void)
{
	memset(&load, 0, sizeof(load));
	guest_start(&load.guest, "disk", NULL);
	load.thread = rig_thread_start(load_run, NULL);
}

static void
load_stop(void)
{
	rig_thread_stop(load.thread);
	assert_int_equal(load.failure, 0);
	assert_true(load.requests > 0);
}

/* Memory hot-plug, without KICK or ADDR after it. */
static void
test_memory_changes_under_load(void **state)
{
	static const struct client_region_layout more = {
		.gpa = 32ULL << 30, .user_addr = 0x7d0000000000, .size = 16 << 20, .file = 7};
	struct client_memory memory;
	struct client *c = &load.guest.device.client;

	(void)state;
	load_start();
	/* The other thread goes on with the regions that both have. */
	memory = load.guest.device.memory;
	for (unsigned int i = 0; i < 50; i++) {
		assert_int_equal(client_memory_add(&memory, &more), 0);
		assert_int_equal(client_set_mem_table(c, &memory, true), 0);
		assert_int_equal(client_memory_remove(&memory), 0);
		assert_int_equal(client_set_mem_table(c, &memory, true), 0);
		/* An identical one. */
		assert_int_equal(client_set_mem_table(c, &memory, true), 0);
	}
	load_stop();
	guest_round_trip(&load.guest, 0, 5, 4096, 1);
	assert_int_equal(client_device_stop(&load.guest.device), 0);
	check_base(&load.guest, 0, load.requests + 2);
	guest_end(&load.guest);
}

/* The call eventfd is replaced again and again; no completion is missed. */
static void
test_call_changes_under_load(void **state)
{
	struct client *c = &load.guest.device.client;

	(void)state;
	load_start();
	for (unsigned int i = 0; i < 1000; i++) {
		int other = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

		/* What QEMU does when it masks a vector, and unmasks it. */
		assert_int_equal(client_set_vring_call(c, 0, other, true), 0);
		assert_int_equal(
			client_set_vring_call(c, 0, load.guest.device.rings[0].call_fd, true), 0);
		close(other);
	}
	load_stop();
	guest_end(&load.guest);
}

/* A migration that begins says where the rings are again. (The log itself is not offered.) */
static void
test_addresses_again_under_load(void **state)
{
	struct client_vring_addr addr;
	struct client *c = &load.guest.device.client;

	(void)state;
	load_start();
	client_ring_addr(&load.guest.device.rings[0], 0, &addr);
	for (unsigned int i = 0; i < 200; i++) {
		assert_int_equal(client_set_vring_addr(c, &addr, true), 0);
		assert_int_equal(client_set_features(c, load.guest.device.features, true), 0);
	}
	addr.used_addr = 0x1000;
	assert_int_equal(client_set_vring_addr(c, &addr, true), -EREMOTEIO);
	load_stop();
	guest_end(&load.guest);
}

/* Disabled and enabled queues lose nothing. */
static void
test_enable_under_load(void **state)
{
	struct client *c = &load.guest.device.client;

	(void)state;
	load_start();
	for (unsigned int i = 0; i < 200; i++) {
		assert_int_equal(client_set_vring_enable(c, 0, false, true), 0);
		assert_int_equal(client_set_vring_enable(c, 0, true, true), 0);
	}
	load_stop();
	guest_end(&load.guest);
}

/* A driver that polls, and one that has no call eventfd. */
static void
test_without_calls(void **state)
{
	struct guest guest;
	struct client_blk_request flush = {.type = VIRTIO_BLK_T_FLUSH};
	struct client_blk_completion completion;

	(void)state;
	guest_start(&guest, "disk", NULL);
	client_ring_suppress_calls(&guest.device.rings[0], true);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	client_ring_suppress_calls(&guest.device.rings[0], false);
	assert_int_equal(client_set_vring_call(&guest.device.client, 0, -1, true), 0);
	assert_int_equal(client_blk_submit(&guest.blk[0], &flush), 0);
	assert_int_equal(client_ring_poll(&guest.device.rings[0], DEADLINE_MS), 0);
	assert_int_equal(client_blk_reap(&guest.blk[0], &completion), 1);
	guest_end(&guest);
}

/* Bit 8 of SET_VRING_KICK: no eventfd, the back-end polls. */
static void
test_without_kicks(void **state)
{
	struct guest guest;
	struct client_blk_request flush = {.type = VIRTIO_BLK_T_FLUSH};
	struct client_blk_completion completion;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_set_vring_kick(&guest.device.client, 0, -1, true), 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(client_blk_prepare(&guest.blk[0], &flush), 0);
		client_ring_publish(&guest.device.rings[0]);
		assert_int_equal(client_ring_wait(&guest.device.rings[0], DEADLINE_MS), 0);
		assert_int_equal(client_blk_reap(&guest.blk[0], &completion), 1);
	}
	guest_end(&guest);
}

/* A file: what was written is there for the next guest, and FLUSH and discard reach it. */
static void
test_file(void **state)
{
	struct guest guest;
	uint8_t data[4096], back[4096];

	(void)state;
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 8 << 20), 0);
	assert_int_equal(daemon_create_blk(&rig_daemon, "file", "file", false), 0);
	guest_start(&guest, "file", NULL);
	for (unsigned int i = 0; i < 100; i++)
		guest_round_trip(&guest, 0, i * 16, 65536, i);
	rig_fill(data, sizeof(data), 77);
	assert_int_equal(client_blk_write(&guest.blk[0], 16000, data, sizeof(data)),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_flush(&guest.blk[0]), VIRTIO_BLK_S_OK);
	guest_end(&guest);
	guest_start(&guest, "file", NULL);
	assert_int_equal(client_blk_read(&guest.blk[0], 16000, back, sizeof(back)),
			 VIRTIO_BLK_S_OK);
	assert_memory_equal(back, data, sizeof(data));
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("file"), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_uring_delete", json_pack("{s:s}", "name", "file")),
		0);
}

/* Every test with each kind of ring. */
int
main(void)
{
	static const struct variant {
		const char *name;
		uint64_t ring_features;
	} variants[] = {
		{"vhost_io, split", 0},
		{"vhost_io, split with EVENT_IDX", RIG_BIT(VIRTIO_RING_F_EVENT_IDX)},
		{"vhost_io, packed", RIG_BIT(VIRTIO_F_RING_PACKED)},
		{"vhost_io, packed with EVENT_IDX", RING_FEATURES},
	};
	int failed = 0;

	const struct CMUnitTest tests[] = {
		RIG_TEST(test_round_trips),
		RIG_TEST(test_layouts),
		RIG_TEST(test_buffer_over_regions),
		RIG_TEST(test_request_types),
		RIG_TEST(test_read_only),
		RIG_TEST(test_config_sizes),
		RIG_TEST(test_cache_mode),
		RIG_TEST(test_negotiation),
		RIG_TEST(test_many_queues),
		RIG_TEST(test_firmware),
		RIG_TEST(test_stop_and_start),
		RIG_TEST(test_index_wrap),
		RIG_TEST(test_kicks),
		RIG_TEST(test_memory_changes_under_load),
		RIG_TEST(test_call_changes_under_load),
		RIG_TEST(test_addresses_again_under_load),
		RIG_TEST(test_enable_under_load),
		RIG_TEST(test_without_calls),
		RIG_TEST(test_without_kicks),
		RIG_TEST(test_file),
		cmocka_unit_test(rig_test_end),
	};

	for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		rig_ring_features = variants[i].ring_features;
		failed += cmocka_run_group_tests_name(variants[i].name, tests, rig_group_setup,
						      rig_group_teardown);
	}
	return failed;
}
