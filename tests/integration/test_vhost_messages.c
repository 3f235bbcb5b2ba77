/* SPDX-License-Identifier: BSD-3-Clause */
/* Front-ends that say the wrong thing, in the wrong order, to the wrong end, or nothing at all. */
/* links: client testlib */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "vhost_rig.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static void
connect_to(struct client *c, const char *name)
{
	assert_int_equal(client_connect(c, rig_socket(name), DEADLINE_MS), 0);
}

/* Whether a new front-end finds the disk in order. */
static void
check_disk(const char *name)
{
	struct guest guest;

	guest_start(&guest, name, NULL);
	guest_round_trip(&guest, 0, 7, 4096, 42);
	guest_end(&guest);
}

/* ---- bad messages ---- */

enum fd_kind {
	NO_FD,
	EVENT_FD,
	PIPE_FD,
	MEMORY_FD, /* 64 KiB */
	TWO_FDS,
};

static unsigned int
make_fds(enum fd_kind kind, int fds[2])
{
	int ends[2];

	switch (kind) {
	case NO_FD:
		return 0;
	case EVENT_FD:
		fds[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		return 1;
	case PIPE_FD:
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		close(ends[0]);
		fds[0] = ends[1];
		return 1;
	case MEMORY_FD:
		fds[0] = memfd_create("table", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fds[0], 65536), 0);
		return 1;
	case TWO_FDS:
		fds[0] = eventfd(0, EFD_CLOEXEC);
		fds[1] = eventfd(0, EFD_CLOEXEC);
		return 2;
	}
	return 0;
}

#define TABLE(n, ...)                                                                              \
	.size = 8 + 32 * (n), .payload.memory = {.count = (n), .regions = {__VA_ARGS__}}

#define INFLIGHT(size, offset, queues, entries)                                                    \
	.payload.inflight = {(size), (offset), (queues), (entries)}

static const struct bad_message {
	const char *what;
	uint32_t request;
	uint32_t size;
	enum fd_kind fds;
	union {
		uint64_t u64;
		struct client_vring_state state;
		struct client_vring_addr addr;
		struct client_wire_memory memory;
		struct client_wire_config config;
		struct client_wire_inflight inflight; /* size, offset, queues, entries */
	} payload;
} bad_messages[] = {
	{.what = "no request", .request = 0, .size = 8},
	{.what = "unknown", .request = 99, .size = 8},
	{.what = "unknown with fds", .request = 99, .size = 8, .fds = TWO_FDS},
	{.what = "the largest number", .request = UINT32_MAX},
	{.what = "SET_LOG_BASE, not negotiated", .request = 6, .size = 16, .fds = MEMORY_FD},
	{.what = "SET_LOG_FD", .request = 7, .size = 8, .fds = EVENT_FD},
	{.what = "SEND_RARP", .request = 19, .size = 8},
	{.what = "NET_SET_MTU", .request = 20, .size = 8},
	{.what = "IOTLB_MSG", .request = 22, .size = 40},
	{.what = "POSTCOPY_ADVISE", .request = 28},
	{.what = "POSTCOPY_LISTEN", .request = 29},
	{.what = "GET_INFLIGHT_FD of 19 bytes", .request = 31, .size = 19},
	{.what = "GET_INFLIGHT_FD of 25 bytes", .request = 31, .size = 25, INFLIGHT(0, 0, 1, 128)},
	{.what = "GET_INFLIGHT_FD for no queue", .request = 31, .size = 24, INFLIGHT(0, 0, 0, 128)},
	{.what = "GET_INFLIGHT_FD for 65 queues",
	 .request = 31,
	 .size = 24,
	 INFLIGHT(0, 0, 65, 128)},
	{.what = "GET_INFLIGHT_FD for no entry", .request = 31, .size = 24, INFLIGHT(0, 0, 1, 0)},
	{.what = "GET_INFLIGHT_FD for 65535 entries",
	 .request = 31,
	 .size = 24,
	 INFLIGHT(0, 0, 1, 65535)},
	{.what = "GET_INFLIGHT_FD with an fd",
	 .request = 31,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(0, 0, 1, 128)},
	{.what = "SET_INFLIGHT_FD without fd",
	 .request = 32,
	 .size = 24,
	 INFLIGHT(65536, 0, 1, 128)},
	{.what = "SET_INFLIGHT_FD with two fds",
	 .request = 32,
	 .size = 24,
	 .fds = TWO_FDS,
	 INFLIGHT(65536, 0, 1, 128)},
	{.what = "SET_INFLIGHT_FD of 8 bytes",
	 .request = 32,
	 .size = 8,
	 .fds = MEMORY_FD,
	 INFLIGHT(65536, 0, 1, 128)},
	{.what = "SET_INFLIGHT_FD for no queue",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(65536, 0, 0, 128)},
	{.what = "SET_INFLIGHT_FD for 65 queues",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(65536, 0, 65, 8)},
	{.what = "SET_INFLIGHT_FD for 65535 queues",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(65536, 0, 65535, 128)},
	{.what = "an in-flight region of an eventfd",
	 .request = 32,
	 .size = 24,
	 .fds = EVENT_FD,
	 INFLIGHT(65536, 0, 1, 128)},
	{.what = "an in-flight region of a pipe",
	 .request = 32,
	 .size = 24,
	 .fds = PIPE_FD,
	 INFLIGHT(65536, 0, 1, 128)},
	{.what = "an in-flight region larger than its file",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(65537, 0, 1, 128)},
	{.what = "an in-flight region behind its file",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(4096, 65536, 1, 128)},
	{.what = "an in-flight region that wraps",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(4096, UINT64_MAX - 4095, 1, 128)},
	{.what = "an in-flight region that is too small",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(4096, 0, 4, 128)},
	{.what = "an in-flight region at an odd place",
	 .request = 32,
	 .size = 24,
	 .fds = MEMORY_FD,
	 INFLIGHT(4096, 1, 1, 128)},
	{.what = "SET_STATUS", .request = 39, .size = 8},
	{.what = "SET_FEATURES of no bytes", .request = CLIENT_SET_FEATURES},
	{.what = "SET_FEATURES of 4 bytes", .request = CLIENT_SET_FEATURES, .size = 4},
	{.what = "SET_FEATURES of 16 bytes", .request = CLIENT_SET_FEATURES, .size = 16},
	{.what = "SET_FEATURES with an fd",
	 .request = CLIENT_SET_FEATURES,
	 .size = 8,
	 .fds = EVENT_FD},
	{.what = "a foreign feature",
	 .request = CLIENT_SET_FEATURES,
	 .size = 8,
	 .payload.u64 = 1ULL << 34},
	{.what = "LOG_ALL", .request = CLIENT_SET_FEATURES, .size = 8, .payload.u64 = 1ULL << 26},
	{.what = "a foreign protocol feature",
	 .request = CLIENT_SET_PROTOCOL_FEATURES,
	 .size = 8,
	 .payload.u64 = 1ULL << 11},
	{.what = "no region", .request = CLIENT_SET_MEM_TABLE, TABLE(0)},
	{.what = "no region with an fd",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(0)},
	{.what = "a region without fd",
	 .request = CLIENT_SET_MEM_TABLE,
	 TABLE(1, {0, 4096, 0x10000, 0})},
	{.what = "two fds for one region",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = TWO_FDS,
	 TABLE(1, {0, 4096, 0x10000, 0})},
	{.what = "one fd for two regions",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(2, {0, 4096, 0x10000, 0}, {8192, 4096, 0x20000, 0})},
	{.what = "a region larger than its file",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(1, {0, 65537, 0x10000, 0})},
	{.what = "a region behind its file",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(1, {0, 4096, 0x10000, 65536})},
	{.what = "an empty region",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(1, {0, 0, 0x10000, 0})},
	{.what = "a region that wraps",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(1, {UINT64_MAX - 100, 4096, 0x10000, 0})},
	{.what = "a region that wraps in its file",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = MEMORY_FD,
	 TABLE(1, {0, 4096, 0x10000, UINT64_MAX - 4095})},
	{.what = "memory that is a pipe",
	 .request = CLIENT_SET_MEM_TABLE,
	 .fds = PIPE_FD,
	 TABLE(1, {0, 4096, 0x10000, 0})},
	{.what = "nine regions",
	 .request = CLIENT_SET_MEM_TABLE,
	 .size = 8 + 8 * 32,
	 .fds = MEMORY_FD,
	 .payload.memory.count = 9},
	{.what = "very many regions",
	 .request = CLIENT_SET_MEM_TABLE,
	 .size = 40,
	 .fds = MEMORY_FD,
	 .payload.memory.count = UINT32_MAX},
	{.what = "less than it says",
	 .request = CLIENT_SET_MEM_TABLE,
	 .size = 40,
	 .fds = TWO_FDS,
	 .payload.memory.count = 2},
	{.what = "queue 64 has a size",
	 .request = CLIENT_SET_VRING_NUM,
	 .size = 8,
	 .payload.state = {64, 128}},
	{.what = "queue 255 has a size",
	 .request = CLIENT_SET_VRING_NUM,
	 .size = 8,
	 .payload.state = {255, 128}},
	{.what = "queue 2^32 - 1",
	 .request = CLIENT_SET_VRING_NUM,
	 .size = 8,
	 .payload.state = {UINT32_MAX, 128}},
	{.what = "size 0", .request = CLIENT_SET_VRING_NUM, .size = 8, .payload.state = {0, 0}},
	{.what = "size 100", .request = CLIENT_SET_VRING_NUM, .size = 8, .payload.state = {0, 100}},
	{.what = "size 32768",
	 .request = CLIENT_SET_VRING_NUM,
	 .size = 8,
	 .payload.state = {0, 32768}},
	{.what = "size 2^31",
	 .request = CLIENT_SET_VRING_NUM,
	 .size = 8,
	 .payload.state = {0, 1u << 31}},
	{.what = "half a SET_VRING_NUM", .request = CLIENT_SET_VRING_NUM, .size = 4},
	{.what = "base 65536",
	 .request = CLIENT_SET_VRING_BASE,
	 .size = 8,
	 .payload.state = {0, 65536}},
	{.what = "queue 255 has a base",
	 .request = CLIENT_SET_VRING_BASE,
	 .size = 8,
	 .payload.state = {255, 0}},
	{.what = "queue 255 is kicked",
	 .request = CLIENT_SET_VRING_KICK,
	 .size = 8,
	 .fds = EVENT_FD,
	 .payload.u64 = 255},
	{.what = "kick without fd", .request = CLIENT_SET_VRING_KICK, .size = 8},
	{.what = "kick with two fds", .request = CLIENT_SET_VRING_KICK, .size = 8, .fds = TWO_FDS},
	{.what = "kick with fd and bit 8",
	 .request = CLIENT_SET_VRING_KICK,
	 .size = 8,
	 .fds = EVENT_FD,
	 .payload.u64 = 0x100},
	{.what = "kick by a pipe", .request = CLIENT_SET_VRING_KICK, .size = 8, .fds = PIPE_FD},
	{.what = "kick by a file", .request = CLIENT_SET_VRING_KICK, .size = 8, .fds = MEMORY_FD},
	{.what = "call without fd", .request = CLIENT_SET_VRING_CALL, .size = 8},
	{.what = "call of a pipe", .request = CLIENT_SET_VRING_CALL, .size = 8, .fds = PIPE_FD},
	{.what = "call with unknown bits",
	 .request = CLIENT_SET_VRING_CALL,
	 .size = 8,
	 .fds = EVENT_FD,
	 .payload.u64 = 1ULL << 40},
	{.what = "queue 200 has an error fd",
	 .request = CLIENT_SET_VRING_ERR,
	 .size = 8,
	 .fds = EVENT_FD,
	 .payload.u64 = 200},
	{.what = "error fd is a file",
	 .request = CLIENT_SET_VRING_ERR,
	 .size = 8,
	 .fds = MEMORY_FD},
	{.what = "queue 255 is enabled",
	 .request = CLIENT_SET_VRING_ENABLE,
	 .size = 8,
	 .payload.state = {255, 1}},
	{.what = "enabled 2",
	 .request = CLIENT_SET_VRING_ENABLE,
	 .size = 8,
	 .payload.state = {0, 2}},
	{.what = "queue 255 has addresses",
	 .request = CLIENT_SET_VRING_ADDR,
	 .size = 40,
	 .payload.addr.index = 255},
	{.what = "queue 2^31 has addresses",
	 .request = CLIENT_SET_VRING_ADDR,
	 .size = 40,
	 .payload.addr.index = 1u << 31},
	{.what = "a log that was not negotiated",
	 .request = CLIENT_SET_VRING_ADDR,
	 .size = 40,
	 .payload.addr.flags = 1},
	{.what = "half a SET_VRING_ADDR", .request = CLIENT_SET_VRING_ADDR, .size = 24},
	{.what = "no channel", .request = CLIENT_SET_BACKEND_REQ_FD},
	{.what = "a channel that is a file",
	 .request = CLIENT_SET_BACKEND_REQ_FD,
	 .fds = MEMORY_FD},
	{.what = "a channel that is an eventfd",
	 .request = CLIENT_SET_BACKEND_REQ_FD,
	 .fds = EVENT_FD},
	{.what = "SET_CONFIG of the capacity",
	 .request = CLIENT_SET_CONFIG,
	 .size = 20,
	 .payload.config = {.offset = 0, .size = 8}},
	{.what = "SET_CONFIG outside",
	 .request = CLIENT_SET_CONFIG,
	 .size = 13,
	 .payload.config = {.offset = UINT32_MAX, .size = 1}},
	{.what = "SET_CONFIG of more than there is",
	 .request = CLIENT_SET_CONFIG,
	 .size = 13,
	 .payload.config = {.offset = 32, .size = 200}},
	{.what = "SET_CONFIG of 2^32 - 1 bytes",
	 .request = CLIENT_SET_CONFIG,
	 .size = 13,
	 .payload.config = {.offset = 32, .size = UINT32_MAX}},
};

/* Sends it; the descriptors stay here. */
static int
send_bad(struct client *c, const struct bad_message *bad, bool need_reply)
{
	struct client_message message = {
		.request = bad->request,
		.flags = CLIENT_VERSION | (need_reply ? CLIENT_NEED_REPLY : 0),
		.size = bad->size,
	};
	int rc;

	memcpy(&message.payload, &bad->payload, sizeof(bad->payload));
	message.fd_count = make_fds(bad->fds, message.fds);
	rc = client_send(c, &message);
	client_message_close_fds(&message);
	return rc;
}

/*
 * Refused with a negative acknowledgement, after which the connection goes on; or by the end of it.
 */
static void
test_bad_messages(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad_messages); i++) {
		const struct bad_message *bad = &bad_messages[i];
		struct client_message reply;
		struct client c;
		uint64_t features;
		int rc;

		connect_to(&c, "disk");
		assert_int_equal(client_get_features(&c, &features), 0);
		assert_int_equal(send_bad(&c, bad, true), 0);
		rc = client_receive(&c, &reply, DEADLINE_MS);
		if (rc == 0) {
			if (reply.payload.u64 == 0)
				fail_msg("%s: accepted", bad->what);
			assert_int_equal(client_get_features(&c, &features), 0);
		} else if (rc != -ECONNRESET) {
			fail_msg("%s: %d", bad->what, rc);
		}
		client_close(&c);

		connect_to(&c, "disk");
		assert_int_equal(client_get_features(&c, &features), 0);
		assert_int_equal(send_bad(&c, bad, false), 0);
		rc = client_wait_closed(&c, DEADLINE_MS);
		if (rc != 0)
			fail_msg("%s: not closed: %d", bad->what, rc);
		client_close(&c);
	}
	check_disk("disk");
}

/* The same on a guest at work, which goes on where the connection does. */
static void
test_bad_messages_at_work(void **state)
{
	struct guest guest;
	bool running = false;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad_messages); i++) {
		struct client_message reply;

		if (!running)
			guest_start(&guest, "disk", NULL);
		running = true;
		guest_round_trip(&guest, 0, i, 4096, (unsigned int)i);
		assert_int_equal(send_bad(&guest.device.client, &bad_messages[i], true), 0);
		if (client_receive(&guest.device.client, &reply, DEADLINE_MS) == 0 && i % 10 != 9) {
			guest_round_trip(&guest, 0, i, 4096, (unsigned int)i);
		} else {
			guest_end(&guest);
			running = false;
		}
	}
	if (running)
		guest_end(&guest);
}

/* Somebody who never stops is shown the door. */
static void
test_failures_are_bounded(void **state)
{
	struct bad_message bad = {.request = 99, .size = 8};
	struct client_message reply;
	struct client c;
	int count, rc = 0;

	(void)state;
	connect_to(&c, "disk");
	for (count = 0; count < 100 && rc == 0; count++) {
		rc = send_bad(&c, &bad, true);
		if (rc == 0)
			rc = client_receive(&c, &reply, DEADLINE_MS);
	}
	assert_int_equal(rc, -ECONNRESET);
	assert_true(count > 1 && count < 50);
	client_close(&c);
}

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

/* Neither messages nor their descriptors leave anything behind. */
static void
test_no_fd_leaks(void **state)
{
	int before;

	check_disk("disk");
	rig_wait_for_sessions("disk", 0);
	before = count_fds();
	test_bad_messages(state);
	for (int i = 0; i < 20; i++)
		check_disk("disk");
	rig_wait_for_sessions("disk", 0);
	/* A worker closes the last ones. */
	WAIT_UNTIL(count_fds() <= before);
}

/* A message with more descriptors than any may have leaves none behind. */
static void
test_too_many_fds(void **state)
{
	enum { FDS = 9, COUNT = 20 };
	uint32_t header[3] = {CLIENT_GET_FEATURES, CLIENT_VERSION, 0};
	struct iovec iov = {.iov_base = header, .iov_len = sizeof(header)};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(FDS * sizeof(int))] = {0};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	int fd = eventfd(0, EFD_CLOEXEC), before;

	(void)state;
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(FDS * sizeof(int));
	for (size_t i = 0; i < FDS; i++)
		memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &fd, sizeof(fd));
	check_disk("disk");
	rig_wait_for_sessions("disk", 0);
	before = count_fds();
	for (int i = 0; i < COUNT; i++) {
		struct client c;

		connect_to(&c, "disk");
		assert_int_equal(sendmsg(c.fd, &message, MSG_NOSIGNAL), sizeof(header));
		assert_int_equal(client_wait_closed(&c, DEADLINE_MS), 0);
		client_close(&c);
	}
	close(fd);
	check_disk("disk");
	rig_wait_for_sessions("disk", 0);
	WAIT_UNTIL(count_fds() <= before);
}

/* Queue numbers make DPDK allocate: its heap must get it back. */
static void
test_high_queue_numbers(void **state)
{
	(void)state;
	for (int i = 0; i < 300; i++) {
		struct client c;

		connect_to(&c, "disk");
		assert_int_equal(client_set_vring_enable(&c, 255, true, false), 0);
		assert_int_equal(client_wait_closed(&c, DEADLINE_MS), 0);
		client_close(&c);
	}
	check_disk("disk");
}

static void
test_bad_config_reads(void **state)
{
	static const struct {
		uint32_t offset, size, message_size;
	} reads[] = {{0, 257, 12 + 256},
		     {256, 1, 13},
		     {UINT32_MAX, 8, 20},
		     {0, 60, 12},
		     {0, 8, 12 + 256}};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(reads); i++) {
		struct client_message message = {.request = CLIENT_GET_CONFIG,
						 .flags = CLIENT_VERSION,
						 .size = reads[i].message_size};

		message.payload.config.offset = reads[i].offset;
		message.payload.config.size = reads[i].size;
		assert_int_equal(client_send(&guest.device.client, &message), 0);
		assert_int_equal(client_receive(&guest.device.client, &message, DEADLINE_MS), 0);
		assert_int_equal(message.size, 0);
	}
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
}

/* RESET_OWNER stops everything, and everything can be said anew. */
static void
test_reset_owner(void **state)
{
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	assert_int_equal(client_reset_owner(&guest.device.client, true), 0);
	client_device_reset(&guest.device);
	assert_int_equal(client_device_start(&guest.device), 0);
	guest_round_trip(&guest, 0, 0, 4096, 2);
	guest_end(&guest);
}

/* GET_VRING_BASE of queues that never ran, or that have been stopped. */
static void
test_bases_of_stopped_queues(void **state)
{
	struct guest guest;
	uint32_t base;

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_get_vring_base(&guest.device.client, 5, &base), 0);
	assert_int_equal(base, 0);
	assert_int_equal(client_set_vring_base(&guest.device.client, 5, 1234, true), 0);
	assert_int_equal(client_get_vring_base(&guest.device.client, 5, &base), 0);
	assert_int_equal(base, 1234);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(client_get_vring_base(&guest.device.client, 0, &base), 0);
		assert_int_equal(base, 2);
	}
	guest_end(&guest);
}

/* ---- who is served ---- */

static void
test_second_front_end(void **state)
{
	struct guest guest;
	struct client c;
	uint64_t features;

	(void)state;
	guest_start(&guest, "disk", NULL);
	for (int i = 0; i < 5; i++) {
		connect_to(&c, "disk");
		guest_round_trip(&guest, 0, 0, 4096, 1);
		assert_int_equal(client_get_features(&c, &features), -ECONNRESET);
		client_close(&c);
		connect_to(&c, "disk");
		assert_int_equal(client_set_features(&c, 0, true), -ECONNRESET);
		client_close(&c);
	}
	guest_round_trip(&guest, 0, 0, 4096, 2);
	assert_int_equal(rig_sessions("disk"), 1);
	guest_end(&guest);
	check_disk("disk");
}

/* A front-end that closes and comes again at once is not its own rival. */
static void
test_quick_reconnects(void **state)
{
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", NULL);
	for (unsigned int i = 0; i < 200; i++) {
		guest_round_trip(&guest, 0, i, 512, i);
		assert_int_equal(client_device_reconnect(&guest.device), 0);
	}
	guest_round_trip(&guest, 0, 1, 4096, 1);
	guest_end(&guest);
}

/* Connections that say nothing cannot take all the room. */
static void
test_silent_connections(void **state)
{
	struct client c[64];
	struct guest guest;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(c); i++)
		connect_to(&c[i], "disk");
	/* The last ones are turned away, and other sockets are not concerned. */
	assert_int_equal(client_wait_closed(&c[ARRAY_SIZE(c) - 1], DEADLINE_MS), 0);
	check_disk("bystander-2");
	for (size_t i = 0; i < ARRAY_SIZE(c); i++)
		client_close(&c[i]);
	rig_wait_for_log("there are too many", 0);
	/* Until the ends of all are seen, a new one may be turned away as well. */
	WAIT_UNTIL(guest_try_start(&guest, "disk", NULL) == 0);
	guest_end(&guest);
}

/* ---- front-ends that stop in the middle ---- */

/* A header without its payload holds up everybody for a moment only; the connection ends. */
static void
test_stalled_message(void **state)
{
	static const struct client_header header = {
		.request = CLIENT_SET_FEATURES, .flags = CLIENT_VERSION, .size = 8};
	struct client c;

	(void)state;
	connect_to(&c, "disk");
	assert_int_equal(client_send_raw(&c, &header, sizeof(header), NULL, 0), 0);
	check_disk("bystander-2");
	rig_check();
	assert_int_equal(client_wait_closed(&c, DEADLINE_MS), 0);
	client_close(&c);
	/* Half a header, and half a payload. */
	for (size_t size = 5; size <= 16; size += 11) {
		uint8_t bytes[20] = {0};

		memcpy(bytes, &header, sizeof(header));
		connect_to(&c, "disk");
		assert_int_equal(client_send_raw(&c, bytes, size, NULL, 0), 0);
		check_disk("bystander-2");
		assert_int_equal(client_wait_closed(&c, DEADLINE_MS), 0);
		client_close(&c);
	}
	check_disk("disk");
}

/* Nor does one that never reads its answers: it sends until the connection ends. */
static void
test_unread_answers(void **state)
{
	static const struct client_header header = {
		.request = CLIENT_GET_CONFIG, .flags = CLIENT_VERSION, .size = 268};
	struct client_wire_config config = {.size = 256};
	uint8_t message[280];
	struct client c;
	int rc;

	(void)state;
	memcpy(message, &header, sizeof(header));
	memcpy(message + sizeof(header), &config, sizeof(config));
	connect_to(&c, "disk");
	do {
		rc = client_send_raw(&c, message, sizeof(message), NULL, 0);
	} while (rc == 0);
	assert_int_equal(rc, -ECONNRESET);
	check_disk("bystander-2");
	client_close(&c);
	check_disk("disk");
}

static void
test_too_large(void **state)
{
	static const uint32_t sizes[] = {633, 4096, 1u << 20, 1u << 31, UINT32_MAX};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct client_header header = {
			.request = CLIENT_SET_FEATURES, .flags = CLIENT_VERSION, .size = sizes[i]};
		struct client c;

		connect_to(&c, "disk");
		assert_int_equal(client_send_raw(&c, &header, sizeof(header), NULL, 0), 0);
		assert_int_equal(client_wait_closed(&c, DEADLINE_MS), 0);
		client_close(&c);
	}
}

/* ---- disconnects ---- */

typedef int (*step_fn)(struct client_device *device);

static int
step_features(struct client_device *device)
{
	return client_set_features(&device->client, device->features, true);
}

static int
step_call(struct client_device *device)
{
	return client_set_vring_call(&device->client, 0, device->rings[0].call_fd, true);
}

static int
step_memory(struct client_device *device)
{
	return client_set_mem_table(&device->client, &device->memory, true);
}

static int
step_num(struct client_device *device)
{
	return client_set_vring_num(&device->client, 0, device->rings[0].size, true);
}

static int
step_base(struct client_device *device)
{
	return client_set_vring_base(&device->client, 0, 0, true);
}

static int
step_addr(struct client_device *device)
{
	struct client_vring_addr addr;

	client_ring_addr(&device->rings[0], 0, &addr);
	return client_set_vring_addr(&device->client, &addr, true);
}

static int
step_kick(struct client_device *device)
{
	return client_set_vring_kick(&device->client, 0, device->rings[0].kick_fd, true);
}

static int
step_enable(struct client_device *device)
{
	return client_set_vring_enable(&device->client, 0, true, true);
}

/* A full queue of requests, with nobody who waits for them. */
static int
step_requests(struct client_device *device)
{
	struct client_blk_request request = {.type = VIRTIO_BLK_T_IN};
	struct client_segment segment;
	struct client_blk blk;
	int rc;

	rc = client_blk_create(&blk, &device->rings[0], 65536, 0, true);
	segment = (struct client_segment){blk.bounce_gpa, 65536, true};
	request.segments = &segment;
	request.segment_count = 1;
	for (unsigned int i = 0; i < device->rings[0].size && rc == 0; i++)
		rc = client_blk_prepare(&blk, &request);
	client_ring_publish(&device->rings[0]);
	client_ring_kick(&device->rings[0]);
	client_blk_destroy(&blk);
	return rc;
}

static int
step_memory_again(struct client_device *device)
{
	return client_set_mem_table(&device->client, &device->memory, false);
}

static int
step_disable(struct client_device *device)
{
	return client_set_vring_enable(&device->client, 0, false, false);
}

static int
step_stop(struct client_device *device)
{
	uint32_t base;

	return client_get_vring_base(&device->client, 0, &base);
}

static const step_fn steps[] = {step_features, step_call,         step_memory,   step_num,
				step_base,     step_addr,         step_kick,     step_enable,
				step_requests, step_memory_again, step_requests, step_disable,
				step_stop};

/* In each state, on each kind of disk; the next front-end comes at once and finds all well. */
static void
disconnect_everywhere(const char *name)
{
	struct client_options options = {.queue_size = 64, .indirect_max = 8};

	for (size_t count = 0; count <= ARRAY_SIZE(steps); count++) {
		struct client_device device;

		options.timeout_ms = DEADLINE_MS;
		assert_int_equal(client_device_open(&device, rig_socket(name), &options), 0);
		for (size_t i = 0; i < count; i++) {
			/* The second half of the requests finds a full queue. */
			if (i == 10)
				client_device_reset(&device);
			assert_int_equal(steps[i](&device), 0);
		}
		client_device_close(&device);
		check_disk(name);
	}
}

static void
test_disconnects(void **state)
{
	(void)state;
	disconnect_everywhere("disk");
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 16 << 20), 0);
	assert_int_equal(daemon_create_blk(&rig_daemon, "file", "file", false), 0);
	disconnect_everywhere("file");
	assert_int_equal(rig_delete_controller("file"), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_uring_delete", json_pack("{s:s}", "name", "file")),
		0);
}

/* A front-end cuts off its memory while the daemon uses it. */
static void
test_truncated_memory(void **state)
{
	(void)state;
	for (int i = 0; i < 5; i++) {
		struct guest guest;

		guest_start(&guest, "disk", NULL);
		guest_round_trip(&guest, 0, 0, 4096, 1);
		for (unsigned int region = 0; region < guest.device.memory.count; region++)
			assert_int_equal(ftruncate(guest.device.memory.regions[region].fd, 0), 0);
		assert_int_equal(client_ring_kick_always(&guest.device.rings[0]), 0);
		assert_int_equal(client_ring_wait_error(&guest.device.rings[0], DEADLINE_MS), 0);
		rig_check();
		guest_end(&guest);
	}
	check_disk("disk");
}

/* A call eventfd that is full, and would block, holds up nobody. */
static void
test_full_call_eventfd(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	struct guest guest;
	int fd = eventfd(0, EFD_CLOEXEC);

	(void)state;
	guest_start(&guest, "disk", NULL);
	assert_int_equal(client_set_vring_call(&guest.device.client, 0, fd, true), 0);
	/* There is one from the change already. */
	assert_int_equal(eventfd_write(fd, full - 1), 0);
	for (int i = 0; i < 10; i++) {
		struct client_blk_request flush = {.type = VIRTIO_BLK_T_FLUSH};
		struct client_blk_completion completion;

		assert_int_equal(client_blk_submit(&guest.blk[0], &flush), 0);
		assert_int_equal(client_ring_poll(&guest.device.rings[0], DEADLINE_MS), 0);
		assert_int_equal(client_blk_reap(&guest.blk[0], &completion), 1);
		rig_check();
	}
	close(fd);
	guest_end(&guest);
}

static int
group_setup(void **state)
{
	int rc = rig_group_setup(state);

	if (rc == 0)
		rig_create_disk("bystander-2");
	return rc;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_bad_messages),
		RIG_TEST(test_bad_messages_at_work),
		RIG_TEST(test_failures_are_bounded),
		RIG_TEST(test_no_fd_leaks),
		RIG_TEST(test_too_many_fds),
		RIG_TEST(test_high_queue_numbers),
		RIG_TEST(test_bad_config_reads),
		RIG_TEST(test_reset_owner),
		RIG_TEST(test_bases_of_stopped_queues),
		RIG_TEST(test_second_front_end),
		RIG_TEST(test_quick_reconnects),
		RIG_TEST(test_silent_connections),
		RIG_TEST(test_stalled_message),
		RIG_TEST(test_unread_answers),
		RIG_TEST(test_too_large),
		RIG_TEST(test_disconnects),
		RIG_TEST(test_truncated_memory),
		RIG_TEST(test_full_call_eventfd),
		cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_messages", tests, group_setup,
					   rig_group_teardown);
}
