/* SPDX-License-Identifier: BSD-3-Clause */
/* links: client */
/* The test front-end's device against a back-end that only records: order of messages and state. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "client.h"
#include "waiting.h"

#define MAX_MESSAGES  128
#define INFLIGHT_SIZE 8192
#define PACKED        (1ULL << VIRTIO_F_RING_PACKED)
#define EVENT_IDX     (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define INITIAL_BASE  0x80008000u

struct recorded {
	uint32_t request;
	bool need_reply;
	uint64_t word; /* first 8 bytes of the payload */
	ino_t file;    /* of the first descriptor, 0 if there was none */
};

struct recorder {
	/* set once, before the thread runs */
	char dir[32];
	char path[64];
	int listener;
	unsigned int connections; /* that will come */
	pthread_t thread;

	/* the thread's, until it has ended */
	struct recorded messages[MAX_MESSAGES];
	unsigned int count;
	struct client_inflight given; /* the last in-flight region */
	ino_t given_files[4];
	unsigned int given_count;
	bool failed;
};

static bool
reply(struct client *back, uint32_t request, const void *payload, uint32_t size, int fd)
{
	struct client_message message = {
		.request = request,
		.flags = CLIENT_VERSION | CLIENT_REPLY,
		.size = size,
		.fds = {fd},
		.fd_count = fd >= 0 ? 1 : 0,
	};

	if (size > 0)
		memcpy(&message.payload, payload, size);
	return client_send(back, &message) == 0;
}

static bool
reply_u64(struct client *back, uint32_t request, uint64_t value)
{
	return reply(back, request, &value, sizeof(value), -1);
}

static ino_t
inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static bool
give_region(struct recorder *r, struct client *c, const struct client_wire_inflight *wanted)
{
	struct client_wire_inflight wire = *wanted;
	bool sent;

	if (client_inflight_create(&r->given, INFLIGHT_SIZE, wire.num_queues, wire.queue_size) < 0)
		return false;
	wire.mmap_size = INFLIGHT_SIZE;
	r->given_files[r->given_count++ % 4] = inode_of(r->given.fd);
	sent = reply(c, CLIENT_GET_INFLIGHT_FD, &wire, sizeof(wire), r->given.fd);
	close(r->given.fd);
	return sent;
}

static bool
answer(struct recorder *r, struct client *c, const struct client_message *message)
{
	switch (message->request) {
	case CLIENT_GET_FEATURES:
		return reply_u64(c, message->request, CLIENT_DEFAULT_FEATURES | PACKED | EVENT_IDX);
	case CLIENT_GET_PROTOCOL_FEATURES:
		return reply_u64(c, message->request, CLIENT_DEFAULT_PROTOCOL_FEATURES);
	case CLIENT_GET_QUEUE_NUM:
		return reply_u64(c, message->request, 4);
	case CLIENT_SET_LOG_BASE:
	case CLIENT_GET_CONFIG:
		return reply(c, message->request, &message->payload, message->size, -1);
	case CLIENT_GET_VRING_BASE:
		return reply(c, message->request,
			     &(struct client_vring_state){message->payload.state.index, 0x12345678},
			     sizeof(struct client_vring_state), -1);
	case CLIENT_GET_INFLIGHT_FD:
		return give_region(r, c, &message->payload.inflight);
	default:
		return !(message->flags & CLIENT_NEED_REPLY) || reply_u64(c, message->request, 0);
	}
}

static void
serve(struct recorder *r, struct client *c)
{
	struct client_message message;

	while (client_receive(c, &message, DEADLINE_MS) == 0) {
		if (r->count == MAX_MESSAGES) {
			r->failed = true;
			return;
		}
		r->messages[r->count++] = (struct recorded){
			.request = message.request,
			.need_reply = message.flags & CLIENT_NEED_REPLY,
			.word = message.size >= 8 ? message.payload.u64 : 0,
			.file = message.fd_count > 0 ? inode_of(message.fds[0]) : 0,
		};
		client_message_close_fds(&message);
		if (!answer(r, c, &message))
			r->failed = true;
	}
}

static void *
record(void *arg)
{
	struct recorder *r = arg;
	struct client c;
	unsigned int i;

	for (i = 0; i < r->connections; i++) {
		client_attach(&c, accept(r->listener, NULL, NULL), DEADLINE_MS);
		serve(r, &c);
		client_close(&c);
	}
	return NULL;
}

static void
recorder_start(struct recorder *r, unsigned int connections)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memset(r, 0, sizeof(*r));
	r->connections = connections;
	strcpy(r->dir, "/tmp/test-client-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/socket", r->dir);
	strcpy(addr.sun_path, r->path);
	r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(r->listener, 1), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, record, r), 0);
}

static void
recorder_stop(struct recorder *r)
{
	pthread_join(r->thread, NULL);
	close(r->listener);
	unlink(r->path);
	rmdir(r->dir);
	assert_false(r->failed);
}

/* The next message of that kind, from position *at on, which moves behind it. */
static const struct recorded *
next_message(const struct recorder *r, unsigned int *at, uint32_t request)
{
	while (*at < r->count)
		if (r->messages[(*at)++].request == request)
			return &r->messages[*at - 1];
	return NULL;
}

static unsigned int
count_messages(const struct recorder *r, uint32_t request)
{
	unsigned int at = 0, count = 0;

	while (next_message(r, &at, request))
		count++;
	return count;
}

#define NR 0x100 /* with NEED_REPLY */

static const uint32_t order_of_qemu[] = {
	/* plug */
	CLIENT_GET_FEATURES, CLIENT_GET_PROTOCOL_FEATURES, CLIENT_SET_PROTOCOL_FEATURES,
	CLIENT_GET_QUEUE_NUM, CLIENT_SET_BACKEND_REQ_FD | NR, CLIENT_SET_OWNER, CLIENT_GET_FEATURES,
	CLIENT_SET_VRING_CALL, CLIENT_SET_VRING_CALL, CLIENT_SET_VRING_ERR, CLIENT_SET_VRING_ERR,
	CLIENT_GET_CONFIG,
	/* start, queue 1 unused */
	CLIENT_SET_FEATURES, CLIENT_GET_INFLIGHT_FD, CLIENT_SET_INFLIGHT_FD, CLIENT_SET_VRING_CALL,
	CLIENT_SET_VRING_CALL, CLIENT_SET_FEATURES, CLIENT_SET_MEM_TABLE | NR, CLIENT_SET_VRING_NUM,
	CLIENT_SET_VRING_BASE, CLIENT_SET_VRING_ADDR, CLIENT_SET_VRING_KICK,
	CLIENT_SET_VRING_ENABLE, CLIENT_SET_VRING_ENABLE,
	/* a migration starts and is cancelled */
	CLIENT_SET_LOG_BASE, CLIENT_SET_FEATURES | NR, CLIENT_SET_VRING_ADDR | NR,
	CLIENT_SET_FEATURES | NR, CLIENT_SET_VRING_ADDR | NR,
	/* stop */
	CLIENT_SET_VRING_ENABLE, CLIENT_SET_VRING_ENABLE, CLIENT_GET_VRING_BASE};
#define ORDER_LENGTH (sizeof(order_of_qemu) / sizeof(order_of_qemu[0]))

static void
test_device_order(void **state)
{
	struct client_options options = {.queues = 2, .start_mask = 1};
	struct client_device device;
	struct recorder r;
	unsigned int i;

	(void)state;
	recorder_start(&r, 1);
	assert_int_equal(client_device_open(&device, r.path, &options), 0);
	assert_int_equal(device.max_queues, 4);
	assert_int_equal(client_device_start(&device), 0);
	assert_int_equal(client_device_start_log(&device, STDERR_FILENO, 4096), 0);
	assert_int_equal(client_device_stop_log(&device), 0);
	assert_int_equal(client_device_stop(&device), 0);
	client_device_close(&device);
	recorder_stop(&r);
	assert_int_equal(r.count, ORDER_LENGTH);
	for (i = 0; i < ORDER_LENGTH; i++)
		assert_int_equal(r.messages[i].request | (r.messages[i].need_reply ? NR : 0),
				 order_of_qemu[i]);
}

/* ---- rings and their bases ---- */

static void
device_open(struct client_device *device, const struct recorder *r, uint64_t more_features,
	    uint64_t less_protocol)
{
	struct client_options options = {
		.features = CLIENT_DEFAULT_FEATURES | more_features,
		.protocol_features = CLIENT_DEFAULT_PROTOCOL_FEATURES & ~less_protocol,
	};

	assert_int_equal(client_device_open(device, r->path, &options), 0);
}

/* The bases sent with SET_VRING_BASE, one after the other. */
static void
check_bases(const struct recorder *r, const uint32_t *bases, unsigned int count)
{
	const struct recorded *message;
	unsigned int i, at = 0;

	for (i = 0; i < count; i++) {
		message = next_message(r, &at, CLIENT_SET_VRING_BASE);
		assert_non_null(message);
		assert_int_equal(message->word >> 32, bases[i]);
	}
	assert_null(next_message(r, &at, CLIENT_SET_VRING_BASE));
}

static void
test_ring_format_is_negotiated(void **state)
{
	static const uint64_t features[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
	struct client_device device;
	struct recorder r;
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++) {
		recorder_start(&r, 1);
		device_open(&device, &r, features[i], 0);
		assert_int_equal(!!device.rings[0].packed, !!(features[i] & PACKED));
		assert_int_equal(!!device.rings[0].desc, !(features[i] & PACKED));
		assert_int_equal(device.rings[0].event_idx, !!(features[i] & EVENT_IDX));
		assert_int_equal(client_device_start(&device), 0);
		client_device_close(&device);
		recorder_stop(&r);
		check_bases(&r, &(uint32_t){features[i] & PACKED ? INITIAL_BASE : 0}, 1);
	}
}

/* Start, stop, start from what was answered, and after a reboot from the beginning. */
static void
test_packed_bases(void **state)
{
	static const uint32_t bases[] = {INITIAL_BASE, 0x12345678, INITIAL_BASE};
	struct client_device device;
	struct recorder r;
	unsigned int i;

	(void)state;
	recorder_start(&r, 1);
	device_open(&device, &r, PACKED, 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(client_device_start(&device), 0);
		assert_int_equal(client_device_stop(&device), 0);
		assert_int_equal(device.bases[0], 0x12345678);
		if (i == 1)
			client_device_reset(&device);
	}
	client_device_close(&device);
	recorder_stop(&r);
	check_bases(&r, bases, 3);
}

/* As if the device had used one chain of two descriptors, not popped yet. */
static void
use_one(struct client_ring *ring)
{
	struct client_segment segments[2] = {{0x1000, 16, false}, {0x2000, 1, true}};

	assert_int_equal(client_ring_add(ring, segments, 2, false, 0), 0);
	client_ring_publish(ring);
	if (ring->packed)
		ring->packed[0].flags |= 1 << VRING_PACKED_DESC_F_USED;
	else
		ring->used->idx++;
}

static const struct reconnect_case {
	uint64_t features;
	uint64_t less_protocol;
	uint32_t bases[2];
} reconnect_cases[] = {
	{0, 0, {0, 1}},
	{0, 1 << CLIENT_PROTOCOL_F_INFLIGHT_SHMFD, {0, 1}},
	/* Stale, as QEMU's: the region knows. */
	{PACKED, 0, {INITIAL_BASE, INITIAL_BASE}},
	{PACKED, 1 << CLIENT_PROTOCOL_F_INFLIGHT_SHMFD, {INITIAL_BASE, 0x80028002}},
};

static void
test_base_after_reconnect(void **state)
{
	const struct reconnect_case *c;
	struct client_device device;
	struct recorder r;

	(void)state;
	for (c = reconnect_cases; c < reconnect_cases + 4; c++) {
		recorder_start(&r, 2);
		device_open(&device, &r, c->features, c->less_protocol);
		assert_int_equal(client_device_start(&device), 0);
		use_one(&device.rings[0]);
		assert_int_equal(client_device_reconnect(&device), 0);
		client_device_close(&device);
		recorder_stop(&r);
		check_bases(&r, c->bases, 2);
	}
}

/* ---- in-flight ---- */

/* One region until the guest reboots: over stop and start, and over a reconnect. */
static void
test_inflight_is_kept(void **state)
{
	struct client_device device;
	const struct recorded *message;
	unsigned int i, at = 0;
	struct recorder r;

	(void)state;
	recorder_start(&r, 2);
	device_open(&device, &r, 0, 0);
	assert_int_equal(client_device_start(&device), 0);
	assert_int_equal(device.inflight.queue_size, device.options.queue_size);
	assert_int_equal(client_device_stop(&device), 0);
	assert_int_equal(client_device_start(&device), 0);
	assert_int_equal(client_device_reconnect(&device), 0);
	assert_int_equal(client_device_stop(&device), 0);
	client_device_reset(&device);
	assert_int_equal(device.inflight.fd, -1);
	assert_int_equal(client_device_start(&device), 0);
	client_device_close(&device);
	recorder_stop(&r);
	assert_int_equal(r.given_count, 2);
	assert_int_not_equal(r.given_files[0], r.given_files[1]);
	for (i = 0; i < 4; i++) {
		message = next_message(&r, &at, CLIENT_SET_INFLIGHT_FD);
		assert_non_null(message);
		assert_int_equal(message->file, r.given_files[i / 3]);
	}
	assert_null(next_message(&r, &at, CLIENT_SET_INFLIGHT_FD));
}

static void
test_no_inflight(void **state)
{
	struct client_device device;
	struct recorder r;

	(void)state;
	recorder_start(&r, 1);
	device_open(&device, &r, 0, 1 << CLIENT_PROTOCOL_F_INFLIGHT_SHMFD);
	assert_int_equal(client_device_start(&device), 0);
	client_device_close(&device);
	recorder_stop(&r);
	assert_int_equal(count_messages(&r, CLIENT_GET_INFLIGHT_FD), 0);
	assert_int_equal(count_messages(&r, CLIENT_SET_INFLIGHT_FD), 0);
}

static void
test_inflight_map(void **state)
{
	struct client_inflight inflight;
	struct client_inflight_packed *packed;
	struct client_inflight_split *split;
	struct client_inflight_map map;
	uint16_t word;

	(void)state;
	assert_int_equal(client_inflight_create(&inflight, 8192, 2, 128), 0);
	assert_int_equal(client_inflight_map(&map, &inflight), 0);
	split = client_inflight_split(&map, 1, 128);
	assert_ptr_equal(split, map.data + 4096);
	split->version = 1;
	split->desc[127].inflight = 1;
	split->desc[3].inflight = 1;
	assert_int_equal(client_inflight_count_split(split, 128), 2);
	assert_int_equal(pread(inflight.fd, &word, 2, 4096 + 8), 2);
	assert_int_equal(word, 1);
	packed = client_inflight_packed(&map, 0, 127);
	assert_ptr_equal(packed, map.data);
	packed->desc[126].inflight = 1;
	packed->used_wrap_counter = 1;
	assert_int_equal(client_inflight_count_packed(packed, 127), 1);
	assert_int_equal(pread(inflight.fd, &word, 2, 20), 2);
	assert_int_equal(word, 1);
	assert_null(client_inflight_packed(&map, 0, 128)); /* 32 + 128 * 32 > 4096 */
	assert_null(client_inflight_split(&map, 2, 1));
	assert_null(client_inflight_split(&map, 0, 256));
	client_inflight_unmap(&map);
	close(inflight.fd);
}

static void
test_inflight_bad_regions(void **state)
{
	struct client_inflight_map map;
	struct client_inflight inflight;

	(void)state;
	assert_int_equal(client_inflight_create(&inflight, 8192, 2, 128), 0);
	inflight.mmap_offset = 100; /* need not be a multiple of the page size */
	inflight.mmap_size = 8092;
	assert_int_equal(client_inflight_map(&map, &inflight), 0);
	assert_ptr_equal(map.data, (uint8_t *)map.mapping + 100);
	client_inflight_unmap(&map);
	inflight.mmap_size = 8093;
	assert_int_equal(client_inflight_map(&map, &inflight), -EPROTO);
	inflight.mmap_offset = UINT64_MAX;
	assert_int_equal(client_inflight_map(&map, &inflight), -EPROTO);
	inflight.num_queues = 0;
	assert_int_equal(client_inflight_map(&map, &inflight), -EINVAL);
	close(inflight.fd);
	inflight.fd = -1;
	assert_int_equal(client_inflight_map(&map, &inflight), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_device_order),
		cmocka_unit_test(test_ring_format_is_negotiated),
		cmocka_unit_test(test_packed_bases),
		cmocka_unit_test(test_base_after_reconnect),
		cmocka_unit_test(test_inflight_is_kept),
		cmocka_unit_test(test_no_inflight),
		cmocka_unit_test(test_inflight_map),
		cmocka_unit_test(test_inflight_bad_regions),
	};

	return cmocka_run_group_tests_name("client device", tests, NULL, NULL);
}
