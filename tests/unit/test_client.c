/* SPDX-License-Identifier: BSD-3-Clause */
/* links: client */
/* The test front-end itself: what it puts on the wire, and what it makes of bad answers. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "waiting.h"

#define SHORT_MS 20
#define ANY_FD   STDERR_FILENO

struct pair {
	struct client front; /* under test */
	struct client back;  /* the other end, driven by hand */
};

static unsigned int
count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static int
pair_open(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));
	int fds[2];

	assert_non_null(pair);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	client_attach(&pair->front, fds[0], DEADLINE_MS);
	client_attach(&pair->back, fds[1], DEADLINE_MS);
	*state = pair;
	return 0;
}

static int
pair_close(void **state)
{
	struct pair *pair = *state;

	client_close(&pair->front);
	client_close(&pair->back);
	free(pair);
	return 0;
}

static void
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
	assert_int_equal(client_send(back, &message), 0);
}

static void
reply_u64(struct client *back, uint32_t request, uint64_t value)
{
	reply(back, request, &value, sizeof(value), -1);
}

/* ---- requests ---- */

static struct client_memory memory;
static const uint8_t config_byte = 0xa5;
static const struct client_vring_addr vring_addr = {1, 1, 0x1000, 0x2000, 0x3000, 0x4000};
static struct client_inflight inflight = {0x1000, 0x200, 2, 128, ANY_FD};

static int
send_features(struct client *c, bool need_reply)
{
	return client_set_features(c, 0x123456789abcdefULL, need_reply);
}

static int
send_protocol_features(struct client *c, bool need_reply)
{
	return client_set_protocol_features(c, 0x122b, need_reply);
}

static int
send_mem_table(struct client *c, bool need_reply)
{
	return client_set_mem_table(c, &memory, need_reply);
}

static int
send_num(struct client *c, bool need_reply)
{
	return client_set_vring_num(c, 1, 256, need_reply);
}

static int
send_base(struct client *c, bool need_reply)
{
	return client_set_vring_base(c, 1, 77, need_reply);
}

static int
send_addr(struct client *c, bool need_reply)
{
	return client_set_vring_addr(c, &vring_addr, need_reply);
}

static int
send_kick(struct client *c, bool need_reply)
{
	return client_set_vring_kick(c, 3, ANY_FD, need_reply);
}

static int
send_call(struct client *c, bool need_reply)
{
	return client_set_vring_call(c, 3, ANY_FD, need_reply);
}

static int
send_err(struct client *c, bool need_reply)
{
	return client_set_vring_err(c, 3, ANY_FD, need_reply);
}

static int
send_no_kick(struct client *c, bool need_reply)
{
	return client_set_vring_kick(c, 3, -1, need_reply);
}

static int
send_enable(struct client *c, bool need_reply)
{
	return client_set_vring_enable(c, 1, true, need_reply);
}

static int
send_config(struct client *c, bool need_reply)
{
	return client_set_config(c, 32, 1, &config_byte, need_reply);
}

static int
send_inflight(struct client *c, bool need_reply)
{
	return client_set_inflight_fd(c, &inflight, need_reply);
}

static int
send_backend_fd(struct client *c, bool need_reply)
{
	return client_set_backend_fd(c, need_reply);
}

static const struct request_case {
	int (*send)(struct client *c, bool need_reply);
	uint32_t request;
	uint32_t size;
	unsigned int fd_count;
	uint64_t word; /* the payload's first 8 bytes, when it has them */
} request_cases[] = {
	{send_features, CLIENT_SET_FEATURES, 8, 0, 0x123456789abcdefULL},
	{send_protocol_features, CLIENT_SET_PROTOCOL_FEATURES, 8, 0, 0x122b},
	{client_set_owner, CLIENT_SET_OWNER, 0, 0, 0},
	{client_reset_owner, CLIENT_RESET_OWNER, 0, 0, 0},
	{send_mem_table, CLIENT_SET_MEM_TABLE, 8 + 3 * 32, 3, 3},
	{send_num, CLIENT_SET_VRING_NUM, 8, 0, 256ULL << 32 | 1},
	{send_base, CLIENT_SET_VRING_BASE, 8, 0, 77ULL << 32 | 1},
	{send_addr, CLIENT_SET_VRING_ADDR, 40, 0, 1ULL << 32 | 1},
	{send_kick, CLIENT_SET_VRING_KICK, 8, 1, 3},
	{send_call, CLIENT_SET_VRING_CALL, 8, 1, 3},
	{send_err, CLIENT_SET_VRING_ERR, 8, 1, 3},
	{send_no_kick, CLIENT_SET_VRING_KICK, 8, 0, 3 | 0x100},
	{send_enable, CLIENT_SET_VRING_ENABLE, 8, 0, 1ULL << 32 | 1},
	{send_config, CLIENT_SET_CONFIG, 12 + 1, 0, 1ULL << 32 | 32},
	{send_inflight, CLIENT_SET_INFLIGHT_FD, 24, 1, 0x1000},
	{send_backend_fd, CLIENT_SET_BACKEND_REQ_FD, 0, 1, 0},
};
#define REQUEST_CASES (sizeof(request_cases) / sizeof(request_cases[0]))

static void
test_request_on_the_wire(void **state)
{
	struct pair *pair = *state;
	const struct request_case *rc;
	struct client_message message;

	assert_int_equal(client_memory_create(&memory, client_default_layout, 3), 0);
	for (rc = request_cases; rc < request_cases + REQUEST_CASES; rc++) {
		assert_int_equal(rc->send(&pair->front, false), 0);
		assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), 0);
		assert_int_equal(message.request, rc->request);
		assert_int_equal(message.flags, CLIENT_VERSION);
		assert_int_equal(message.size, rc->size);
		assert_int_equal(message.fd_count, rc->fd_count);
		if (message.size >= 8)
			assert_int_equal(message.payload.u64, rc->word);
		client_message_close_fds(&message);
	}
	client_memory_destroy(&memory);
}

static void
test_request_acknowledged(void **state)
{
	struct pair *pair = *state;
	const struct request_case *rc;
	struct client_message message;

	assert_int_equal(client_memory_create(&memory, client_default_layout, 3), 0);
	for (rc = request_cases; rc < request_cases + REQUEST_CASES; rc++) {
		reply_u64(&pair->back, rc->request, 0);
		assert_int_equal(rc->send(&pair->front, true), 0);
		reply_u64(&pair->back, rc->request, 1);
		assert_int_equal(rc->send(&pair->front, true), -EREMOTEIO);
		reply_u64(&pair->back, rc->request + 1, 0);
		assert_int_equal(rc->send(&pair->front, true), -EPROTO);
		while (client_receive(&pair->back, &message, 0) == 0) {
			assert_int_equal(message.flags, CLIENT_VERSION | CLIENT_NEED_REPLY);
			client_message_close_fds(&message);
		}
	}
	client_memory_destroy(&memory);
}

static void
test_request_without_answer(void **state)
{
	struct pair *pair = *state;

	pair->front.timeout_ms = SHORT_MS;
	assert_int_equal(client_set_owner(&pair->front, true), -ETIMEDOUT);
	client_close(&pair->back);
	assert_int_equal(client_set_owner(&pair->front, true), -ECONNRESET);
	assert_int_equal(client_wait_closed(&pair->front, DEADLINE_MS), 0);
}

static void
test_reply_of_wrong_form(void **state)
{
	struct pair *pair = *state;
	struct client_message message = {
		.request = CLIENT_GET_FEATURES,
		.flags = CLIENT_VERSION, /* not marked as a reply */
		.size = 8,
	};
	uint64_t features;

	assert_int_equal(client_send(&pair->back, &message), 0);
	assert_int_equal(client_get_features(&pair->front, &features), -EPROTO);
	reply(&pair->back, CLIENT_GET_FEATURES, "1234", 4, -1);
	assert_int_equal(client_get_features(&pair->front, &features), -EPROTO);
	reply_u64(&pair->back, CLIENT_GET_FEATURES, 42);
	assert_int_equal(client_get_features(&pair->front, &features), 0);
	assert_int_equal(features, 42);
}

static void
test_get_vring_base(void **state)
{
	struct pair *pair = *state;
	struct client_vring_state vring = {.index = 2, .num = 4711};
	uint32_t base = 0;

	reply(&pair->back, CLIENT_GET_VRING_BASE, &vring, sizeof(vring), -1);
	assert_int_equal(client_get_vring_base(&pair->front, 2, &base), 0);
	assert_int_equal(base, 4711);
	reply(&pair->back, CLIENT_GET_VRING_BASE, &vring, sizeof(vring), -1);
	assert_int_equal(client_get_vring_base(&pair->front, 1, &base), -EPROTO);
}

static void
test_get_config(void **state)
{
	struct pair *pair = *state;
	struct client_wire_config config = {.offset = 8, .size = 4, .data = "abcd"};
	struct client_message message;
	char data[4];

	reply(&pair->back, CLIENT_GET_CONFIG, &config, 16, -1);
	assert_int_equal(client_get_config(&pair->front, 8, 4, data), 0);
	assert_memory_equal(data, "abcd", 4);
	assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), 0);
	assert_int_equal(message.size, 16);
	assert_int_equal(message.payload.config.offset, 8);
	assert_int_equal(message.payload.config.size, 4);

	reply(&pair->back, CLIENT_GET_CONFIG, NULL, 0, -1);
	assert_int_equal(client_get_config(&pair->front, 8, 4, data), -EREMOTEIO);
	reply(&pair->back, CLIENT_GET_CONFIG, &config, 15, -1);
	assert_int_equal(client_get_config(&pair->front, 8, 4, data), -EPROTO);
	assert_int_equal(client_get_config(&pair->front, 0, 257, data), -EINVAL);
}

static void
test_get_inflight_fd(void **state)
{
	struct pair *pair = *state;
	struct client_wire_inflight wire = {.mmap_size = 4096, .mmap_offset = 64};
	struct client_inflight got = {.num_queues = 2, .queue_size = 128};
	struct client_message message;

	reply(&pair->back, CLIENT_GET_INFLIGHT_FD, &wire, sizeof(wire), ANY_FD);
	assert_int_equal(client_get_inflight_fd(&pair->front, &got), 0);
	assert_int_equal(got.mmap_size, 4096);
	assert_int_equal(got.mmap_offset, 64);
	assert_true(got.fd >= 0);
	close(got.fd);
	assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), 0);
	assert_int_equal(message.payload.inflight.num_queues, 2);
	assert_int_equal(message.payload.inflight.queue_size, 128);

	reply(&pair->back, CLIENT_GET_INFLIGHT_FD, &wire, sizeof(wire), -1);
	assert_int_equal(client_get_inflight_fd(&pair->front, &got), -EPROTO);
	assert_int_equal(got.fd, -1);
}

static void
test_set_log_base(void **state)
{
	struct pair *pair = *state;
	struct client_message message;

	reply(&pair->back, CLIENT_SET_LOG_BASE, NULL, 0, -1);
	assert_int_equal(client_set_log_base(&pair->front, ANY_FD, 0x8000, 0x1000), 0);
	assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), 0);
	assert_int_equal(message.payload.log.mmap_size, 0x8000);
	assert_int_equal(message.payload.log.mmap_offset, 0x1000);
	assert_int_equal(message.fd_count, 1);
	client_message_close_fds(&message);
}

static void
test_config_change_is_answered(void **state)
{
	struct pair *pair = *state;
	struct client_message message;
	struct client channel;

	assert_int_equal(client_set_backend_fd(&pair->front, false), 0);
	assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), 0);
	assert_int_equal(message.fd_count, 1);
	client_attach(&channel, message.fds[0], DEADLINE_MS);
	assert_int_equal(client_backend_wait_config_change(&pair->front, SHORT_MS), -ETIMEDOUT);

	message = (struct client_message){
		.request = CLIENT_BACKEND_CONFIG_CHANGE,
		.flags = CLIENT_VERSION | CLIENT_NEED_REPLY,
	};
	assert_int_equal(client_send(&channel, &message), 0);
	assert_int_equal(client_backend_wait_config_change(&pair->front, DEADLINE_MS), 0);
	assert_int_equal(client_receive(&channel, &message, DEADLINE_MS), 0);
	assert_int_equal(message.request, CLIENT_BACKEND_CONFIG_CHANGE);
	assert_int_equal(message.flags, CLIENT_VERSION | CLIENT_REPLY);
	assert_int_equal(message.payload.u64, 0);

	message.flags = CLIENT_VERSION;
	message.request = CLIENT_BACKEND_CONFIG_CHANGE + 1;
	assert_int_equal(client_send(&channel, &message), 0);
	assert_int_equal(client_backend_wait_config_change(&pair->front, DEADLINE_MS), -EPROTO);
	client_close(&channel);
}

static void
test_raw_bytes(void **state)
{
	struct pair *pair = *state;
	struct client_header header = {CLIENT_SET_OWNER, CLIENT_VERSION, 100};
	struct client_message message;
	int fds[12];
	unsigned int before = count_fds();
	unsigned int i;

	for (i = 0; i < 12; i++)
		fds[i] = ANY_FD;
	/* Half a header, then the rest; more descriptors than a message may have. */
	assert_int_equal(client_send_raw(&pair->front, &header, 5, fds, 12), 0);
	assert_int_equal(client_receive(&pair->back, &message, SHORT_MS), -ETIMEDOUT);
	assert_int_equal(count_fds(), before);
	assert_int_equal(client_send_raw(&pair->front, &header, sizeof(header), NULL, 0), 0);
	client_close(&pair->front);
	assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), -ECONNRESET);
}

static void
test_oversized_message(void **state)
{
	struct pair *pair = *state;
	struct client_header header = {1, CLIENT_VERSION, CLIENT_MAX_PAYLOAD + 1};
	struct client_message message;
	unsigned int before = count_fds();
	int fds[1] = {ANY_FD};

	assert_int_equal(client_send_raw(&pair->front, &header, sizeof(header), fds, 1), 0);
	assert_int_equal(client_receive(&pair->back, &message, DEADLINE_MS), -EPROTO);
	assert_int_equal(count_fds(), before);
}

static void
test_connect_deadline(void **state)
{
	char path[200];
	struct client c;

	(void)state;
	assert_int_equal(client_connect(&c, "/nonexistent/socket", SHORT_MS), -ENOENT);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = 0;
	assert_int_equal(client_connect(&c, path, SHORT_MS), -ENAMETOOLONG);
	client_close(&c);
}

/* ---- guest memory ---- */

#define PAGE 4096ULL

static const struct client_region_layout adjacent_layout[] = {
	{.gpa = 0x10000, .user_addr = 0x500000, .size = 2 * PAGE, .mmap_offset = PAGE, .file = 0},
	{.gpa = 0x12000, .user_addr = 0x900000, .size = PAGE, .mmap_offset = 5 * PAGE, .file = 0},
	{.gpa = 0x20000, .user_addr = 0x700000, .size = PAGE, .mmap_offset = 0, .file = 1},
};

static int
memory_setup(void **state)
{
	*state = &memory;
	return client_memory_create(&memory, adjacent_layout, 3);
}

static int
memory_teardown(void **state)
{
	client_memory_destroy(*state);
	return 0;
}

static void
test_memory_lookup(void **state)
{
	struct client_memory *mem = *state;

	assert_ptr_equal(client_memory_ptr(mem, 0x10010, 16), mem->regions[0].data + 16);
	assert_null(client_memory_ptr(mem, 0x11ff8, 9));
	assert_non_null(client_memory_ptr(mem, 0x11ff8, 8));
	assert_null(client_memory_ptr(mem, 0x13000, 1));
	assert_null(client_memory_ptr(mem, 0xffff, 1));
	assert_null(client_memory_ptr(mem, 0x10000, UINT64_MAX));
	assert_int_equal(client_memory_user_addr(mem, 0x12008), 0x900008);
	assert_int_equal(client_memory_user_addr(mem, 0x13000), 0);
}

static void
test_memory_copy_over_border(void **state)
{
	struct client_memory *mem = *state;
	char data[8];

	assert_int_equal(client_memory_write(mem, 0x11ffc, "12345678", 8), 0);
	assert_memory_equal(mem->regions[0].data + 2 * PAGE - 4, "1234", 4);
	assert_memory_equal(mem->regions[1].data, "5678", 4);
	assert_int_equal(client_memory_read(mem, 0x11ffc, data, 8), 0);
	assert_memory_equal(data, "12345678", 8);
	assert_int_equal(client_memory_write(mem, 0x12ffc, data, 8), -EFAULT);
	assert_int_equal(client_memory_read(mem, 0x12ffc, data, 8), -EFAULT);
}

static void
test_memory_file_offset(void **state)
{
	struct client_memory *mem = *state;
	char data[4];

	assert_int_equal(client_memory_write(mem, 0x12000, "abcd", 4), 0);
	assert_int_equal(pread(mem->regions[0].fd, data, 4, 5 * PAGE), 4);
	assert_memory_equal(data, "abcd", 4);
}

static void
test_memory_alloc(void **state)
{
	struct client_memory *mem = *state;
	uint64_t gpa;

	assert_int_equal(client_memory_alloc(mem, 10, 1, &gpa), 0);
	assert_int_equal(gpa, 0x10000);
	assert_int_equal(client_memory_alloc(mem, 10, 1, &gpa), 0);
	assert_int_equal(gpa, 0x12000);
	assert_int_equal(client_memory_alloc_in(mem, 0, 16, 64, &gpa), 0);
	assert_int_equal(gpa, 0x10040);
	assert_int_equal(client_memory_alloc(mem, PAGE, 1, &gpa), 0);
	assert_int_equal(gpa, 0x20000);
	assert_int_equal(client_memory_alloc(mem, 2 * PAGE, 1, &gpa), -ENOMEM);
	assert_int_equal(client_memory_alloc_in(mem, 3, 1, 1, &gpa), -EINVAL);
}

static void
test_memory_plug(void **state)
{
	struct client_memory *mem = *state;
	struct client_region_layout layout = {.gpa = 0x40000, .size = PAGE, .file = 7};

	assert_int_equal(client_memory_add(mem, &layout), 0);
	assert_non_null(client_memory_ptr(mem, 0x40000, PAGE));
	assert_int_equal(client_memory_remove(mem), 0);
	assert_null(client_memory_ptr(mem, 0x40000, 1));
	while (mem->count < CLIENT_MAX_REGIONS)
		assert_int_equal(client_memory_add(mem, &layout), 0);
	assert_int_equal(client_memory_add(mem, &layout), -ENOSPC);
}

/* ---- ring, with the device's side played by hand ---- */

#define RING_SIZE 8

struct ring_test {
	struct client_memory memory;
	struct client_ring ring;
};

static int
ring_setup(void **state)
{
	struct ring_test *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	assert_int_equal(client_memory_create(&t->memory, client_default_layout, 3), 0);
	assert_int_equal(client_ring_create(&t->ring, &t->memory, RING_SIZE, 4), 0);
	*state = t;
	return 0;
}

static int
ring_teardown(void **state)
{
	struct ring_test *t = *state;

	client_ring_destroy(&t->ring);
	client_memory_destroy(&t->memory);
	free(t);
	return 0;
}

/* The device's turn. */
static void
use(struct client_ring *ring, uint32_t id, uint32_t len)
{
	ring->used->ring[ring->used->idx % RING_SIZE] = (struct vring_used_elem){id, len};
	ring->used->idx++;
}

static const struct client_segment three[] = {
	{0x1000, 16, false}, {0x2000, 512, true}, {0x3000, 1, true}};

static void
test_ring_chain(void **state)
{
	struct client_ring *ring = &((struct ring_test *)*state)->ring;
	struct client_used used;

	assert_int_equal(client_ring_add(ring, three, 3, false, 99), 0);
	assert_int_equal(ring->avail->idx, 0);
	client_ring_publish(ring);
	assert_int_equal(ring->avail->idx, 1);
	assert_int_equal(ring->avail->ring[0], 0);
	assert_int_equal(ring->desc[0].addr, 0x1000);
	assert_int_equal(ring->desc[0].flags, VRING_DESC_F_NEXT);
	assert_int_equal(ring->desc[0].next, 1);
	assert_int_equal(ring->desc[1].len, 512);
	assert_int_equal(ring->desc[1].flags, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
	assert_int_equal(ring->desc[2].flags, VRING_DESC_F_WRITE);

	assert_int_equal(client_ring_add(ring, three, 3, false, 100), 0);
	assert_int_equal(client_ring_add(ring, three, 3, false, 101), -ENOSPC);
	assert_int_equal(ring->avail->ring[1], 3);
	assert_int_equal(client_ring_pop(ring, &used), 0);
	use(ring, 3, 1);
	use(ring, 0, 513);
	assert_int_equal(client_ring_pop(ring, &used), 1);
	assert_int_equal(used.tag, 100);
	assert_int_equal(client_ring_pop(ring, &used), 1);
	assert_int_equal(used.tag, 99);
	assert_int_equal(used.len, 513);
	assert_int_equal(ring->free_count, RING_SIZE);
}

static void
test_ring_indirect(void **state)
{
	struct ring_test *t = *state;
	struct client_ring *ring = &t->ring;
	struct vring_desc *table;

	assert_int_equal(client_ring_add(ring, three, 3, true, 1), 0);
	assert_int_equal(ring->desc[0].flags, VRING_DESC_F_INDIRECT);
	assert_int_equal(ring->desc[0].len, 48);
	assert_int_equal(ring->free_count, RING_SIZE - 1);
	table = client_memory_ptr(&t->memory, ring->desc[0].addr, 48);
	assert_int_equal(table[1].addr, 0x2000);
	assert_int_equal(table[1].next, 2);
	assert_int_equal(table[2].flags, VRING_DESC_F_WRITE);
	assert_int_equal(client_ring_add(ring, three, 0, true, 1), -EINVAL);
	ring->indirect_max = 2;
	assert_int_equal(client_ring_add(ring, three, 3, true, 1), -EINVAL);
}

/* Over the wrap of the 16-bit indices, with chains of changing length, out of order. */
static void
test_ring_wrap(void **state)
{
	struct client_ring *ring = &((struct ring_test *)*state)->ring;
	struct client_used used;
	uint16_t first, second;
	uint32_t i;

	for (i = 0; i < 70000; i++) {
		first = ring->free_head;
		assert_int_equal(client_ring_add(ring, three, 1 + i % 3, false, i), 0);
		second = ring->free_head;
		assert_int_equal(client_ring_add(ring, three, 3, i & 1 ? true : false, ~i), 0);
		client_ring_publish(ring);
		use(ring, second, 0);
		use(ring, first, 0);
		assert_int_equal(client_ring_pop(ring, &used), 1);
		assert_int_equal(used.tag, (uint64_t)~i);
		assert_int_equal(client_ring_pop(ring, &used), 1);
		assert_int_equal(used.tag, i);
	}
	assert_int_equal(ring->free_count, RING_SIZE);
	assert_int_equal(ring->outstanding, 0);
}

static void
test_ring_wrong_used_entries(void **state)
{
	struct client_ring *ring = &((struct ring_test *)*state)->ring;
	struct client_used used;

	assert_int_equal(client_ring_add(ring, three, 3, false, 1), 0);
	use(ring, 1, 0); /* the middle of a chain */
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
	ring->used->ring[0].id = 0x10000;
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
	use(ring, 0, 0); /* more entries than chains */
	ring->used->ring[0].id = 0;
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
	ring->used->idx--;
	assert_int_equal(client_ring_pop(ring, &used), 1);
	use(ring, 0, 0); /* completed twice */
	assert_int_equal(client_ring_pop(ring, &used), -EPROTO);
}

static void
test_ring_notifications(void **state)
{
	struct client_ring *ring = &((struct ring_test *)*state)->ring;
	struct client_used used;
	uint64_t count;

	assert_int_equal(client_ring_add(ring, three, 3, false, 1), 0);
	client_ring_publish(ring);
	ring->used->flags = VRING_USED_F_NO_NOTIFY;
	assert_int_equal(client_ring_kick(ring), 0);
	assert_int_equal(read(ring->kick_fd, &count, sizeof(count)), -1);
	ring->used->flags = 0;
	assert_int_equal(client_ring_kick(ring), 0);
	assert_int_equal(read(ring->kick_fd, &count, sizeof(count)), sizeof(count));

	assert_int_equal(client_ring_wait(ring, SHORT_MS), -ETIMEDOUT);
	assert_int_equal(client_ring_poll(ring, SHORT_MS), -ETIMEDOUT);
	assert_int_equal(eventfd_write(ring->call_fd, 1), 0);
	assert_int_equal(client_ring_wait(ring, SHORT_MS), -ETIMEDOUT); /* a call for nothing */
	use(ring, 0, 0);
	assert_int_equal(client_ring_wait(ring, SHORT_MS), 0);
	assert_int_equal(client_ring_pop(ring, &used), 1);
	client_ring_suppress_calls(ring, true);
	assert_int_equal(ring->avail->flags, VRING_AVAIL_F_NO_INTERRUPT);

	assert_int_equal(client_ring_wait_error(ring, 0), -ETIMEDOUT);
	assert_int_equal(eventfd_write(ring->err_fd, 1), 0);
	assert_int_equal(client_ring_wait_error(ring, 0), 0);
	assert_int_equal(client_ring_wait_error(ring, 0), -ETIMEDOUT);
}

static void
test_ring_sizes(void **state)
{
	struct ring_test *t = *state;
	struct client_ring ring;

	assert_int_equal(client_ring_create(&ring, &t->memory, 0, 0), -EINVAL);
	assert_int_equal(client_ring_create(&ring, &t->memory, 12, 0), -EINVAL);
	assert_int_equal(client_ring_create(&ring, &t->memory, 32768, 0), 0);
	client_ring_destroy(&ring);
	assert_int_equal(client_ring_create(&ring, &t->memory, 32768, 1024), -ENOMEM);
}

static void
test_blk_request(void **state)
{
	struct ring_test *t = *state;
	struct client_blk_request request = {.type = VIRTIO_BLK_T_OUT, .sector = 7, .tag = 5};
	struct client_blk_completion completion;
	struct client_ring *ring = &t->ring;
	struct virtio_blk_outhdr *header;
	struct client_blk blk;
	uint8_t *status;
	char data[1024] = {0};

	assert_int_equal(client_blk_create(&blk, ring, 1024, 512, false), 0);
	request.segments = &three[0];
	request.segment_count = 1;
	assert_int_equal(client_blk_submit(&blk, &request), 0);
	header = client_memory_ptr(&t->memory, ring->desc[0].addr, 16);
	assert_int_equal(header->type, VIRTIO_BLK_T_OUT);
	assert_int_equal(header->sector, 7);
	assert_int_equal(ring->desc[1].addr, 0x1000);
	assert_int_equal(ring->desc[2].len, 1);
	assert_int_equal(ring->desc[2].flags, VRING_DESC_F_WRITE);
	assert_int_equal(client_blk_flush(&blk), -EBUSY);
	status = client_memory_ptr(&t->memory, ring->desc[2].addr, 1);
	*status = VIRTIO_BLK_S_UNSUPP;
	use(ring, 0, 1);
	assert_int_equal(client_blk_wait(&blk, &completion, DEADLINE_MS), 0);
	assert_int_equal(completion.tag, 5);
	assert_int_equal(completion.status, VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(completion.used_len, 1);

	/* A used entry that is there already, and a status byte that nobody writes. */
	use(ring, 0, 0);
	assert_int_equal(client_blk_read(&blk, 0, data, 1024), 0xff);
	assert_int_equal(client_blk_write(&blk, 0, data, 1536), -EINVAL);
	blk.timeout_ms = SHORT_MS;
	assert_int_equal(client_blk_flush(&blk), -ETIMEDOUT);
	client_blk_destroy(&blk);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_request_on_the_wire, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_request_acknowledged, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_request_without_answer, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_reply_of_wrong_form, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_get_vring_base, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_get_config, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_get_inflight_fd, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_set_log_base, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_config_change_is_answered, pair_open,
						pair_close),
		cmocka_unit_test_setup_teardown(test_raw_bytes, pair_open, pair_close),
		cmocka_unit_test_setup_teardown(test_oversized_message, pair_open, pair_close),
		cmocka_unit_test(test_connect_deadline),
		cmocka_unit_test_setup_teardown(test_memory_lookup, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_memory_copy_over_border, memory_setup,
						memory_teardown),
		cmocka_unit_test_setup_teardown(test_memory_file_offset, memory_setup,
						memory_teardown),
		cmocka_unit_test_setup_teardown(test_memory_alloc, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_memory_plug, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_ring_chain, ring_setup, ring_teardown),
		cmocka_unit_test_setup_teardown(test_ring_indirect, ring_setup, ring_teardown),
		cmocka_unit_test_setup_teardown(test_ring_wrap, ring_setup, ring_teardown),
		cmocka_unit_test_setup_teardown(test_ring_wrong_used_entries, ring_setup,
						ring_teardown),
		cmocka_unit_test_setup_teardown(test_ring_notifications, ring_setup, ring_teardown),
		cmocka_unit_test_setup_teardown(test_ring_sizes, ring_setup, ring_teardown),
		cmocka_unit_test_setup_teardown(test_blk_request, ring_setup, ring_teardown),
	};

	return cmocka_run_group_tests_name("client", tests, NULL, NULL);
}
