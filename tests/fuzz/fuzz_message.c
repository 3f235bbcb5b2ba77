/* SPDX-License-Identifier: BSD-3-Clause */
/* links: vhost virtio bdev event testlib thread env */
/*
 * Front-ends that send anything: vhost-user messages in any order, with any payload and any file
 * descriptors, from several connections to controllers that come and go, over memory that is
 * written and truncated meanwhile, while requests take their time. Afterwards no file descriptor,
 * thread, session or request may be left, and a front-end that keeps the rules must be served.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <dirent.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "vhost_rig.h"

#define MAX_OPS      256
#define QUEUES       3 /* that the rings have places for */
#define PEERS        4
#define DISK_BYTES   65536
#define MEMORY_BYTES 0x10000
#define GPA          0x100000ULL
#define USER         0x7e0000000000ULL
/* From the beginning of a queue's quarter of memory. */
#define QUEUE_BYTES       0x4000
#define AVAIL_AT          0x1000
#define USED_AT           0x2000
#define BUFFER_AT         0x3000
#define RING_SIZE         16
#define PROTOCOL_FEATURES (1ULL << 30)

/* What the disk does with requests. */
enum pace { AT_ONCE, WHEN_AWAITED, WHEN_TOLD, PACES };

/* In a request, for the slow disk. */
struct slow_request {
	TAILQ_ENTRY(slow_request) link;
	struct thread *thread;
};

static struct {
	struct input in;
	int vids[PEERS]; /* of who is connected, or -1 */
	unsigned int who;
	int memory_fd;
	uint64_t memory_size; /* now */
	uint32_t requests_held;
	TAILQ_HEAD(, slow_request) held;
	enum pace pace;
	uint8_t disk[DISK_BYTES];
	int inflight_fd; /* the region that GET_INFLIGHT_FD answered last, or -1 */
	bool deleting;   /* a coroutine is at it */
	char paths[2][PATH_MAX + 16];
} world;

/* ---- a disk that takes its time ---- */

static struct bdev_request *
request_of(struct slow_request *slow)
{
	return (struct bdev_request *)((uint8_t *)slow - offsetof(struct bdev_request, ctx));
}

static void
serve_request(struct bdev_request *rq)
{
	uint8_t *at = world.disk + rq->offset;

	for (uint32_t i = 0; i < rq->iovcnt; i++) {
		if (rq->type == BDEV_READ)
			memcpy(rq->iov[i].iov_base, at, rq->iov[i].iov_len);
		else
			memcpy(at, rq->iov[i].iov_base, rq->iov[i].iov_len);
		at += rq->iov[i].iov_len;
	}
	bdev_complete(rq, 0);
}

static void
slow_submit(void *channel, struct bdev_request *rq)
{
	struct slow_request *slow = (struct slow_request *)rq->ctx;

	(void)channel;
	if (world.pace == AT_ONCE && rq->type != BDEV_RESET) {
		serve_request(rq);
		return;
	}
	slow->thread = thread_current();
	TAILQ_INSERT_TAIL(&world.held, slow, link);
	world.requests_held++;
}

static bool
complete_one(void)
{
	struct slow_request *slow = TAILQ_FIRST(&world.held);
	struct thread *before = thread_current();

	if (slow == NULL)
		return false;
	TAILQ_REMOVE(&world.held, slow, link);
	world.requests_held--;
	thread_set_current(slow->thread);
	serve_request(request_of(slow));
	thread_set_current(before);
	return true;
}

static void
on_idle(void)
{
	if (world.pace == WHEN_AWAITED)
		complete_one();
}

static const struct bdev_ops slow_ops = {
	.module = "slow",
	.submit = slow_submit,
	.request_ctx_size = sizeof(struct slow_request),
	.buffer_alignment = 1,
};

/* ---- file descriptors ---- */

static unsigned int
count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	require(dir != NULL);
	while (readdir(dir) != NULL)
		count++;
	closedir(dir);
	return count;
}

static int
make_pipe(void)
{
	int fds[2];

	require(pipe2(fds, O_CLOEXEC) == 0);
	close(fds[0]);
	return fds[1];
}

static int
make_socket(int type)
{
	int fds[2];

	require(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) == 0);
	close(fds[0]);
	return fds[1];
}

static int
make_full_eventfd(void)
{
	uint64_t most = UINT64_MAX - 1;
	int fd = eventfd(0, EFD_CLOEXEC);

	require(write(fd, &most, sizeof(most)) == sizeof(most));
	return fd;
}

static int
make_memfd(off_t size)
{
	int fd = memfd_create("other", MFD_CLOEXEC);

	require(fd >= 0 && ftruncate(fd, size) == 0);
	return fd;
}

/* Of all kinds, the right ones first. */
static int
make_fd(uint8_t kind)
{
	switch (kind % 12) {
	case 0:
	case 1:
		return eventfd(kind & 1, EFD_CLOEXEC | EFD_NONBLOCK);
	case 2:
	case 3:
		return fcntl(world.memory_fd, F_DUPFD_CLOEXEC, 0);
	case 4:
		return make_full_eventfd();
	case 5:
		return make_memfd(4096 * (kind / 12 % 4));
	case 6:
		return make_pipe();
	case 7:
		return make_socket(SOCK_STREAM);
	case 8:
		return make_socket(SOCK_SEQPACKET);
	case 9:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 10:
		return epoll_create1(EPOLL_CLOEXEC);
	default:
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
}

/* ---- messages; all of the script runs on rig.events, as vhost-events ---- */

/* What is true of each answer. */
static void
check_answer(const struct vhost_message *question, const struct vhost_message *answer)
{
	uint32_t size = answer->header.size;

	require(answer->header.request == question->header.request);
	switch (question->header.request) {
	case VHOST_MSG_GET_FEATURES:
	case VHOST_MSG_GET_PROTOCOL_FEATURES:
	case VHOST_MSG_GET_QUEUE_NUM:
		require(size == 8);
		break;
	case VHOST_MSG_GET_VRING_BASE:
		require(size == 8 && memcmp(answer->payload, question->payload, 4) == 0);
		break;
	case VHOST_MSG_GET_CONFIG:
		require(size == 0 || size == question->header.size);
		break;
	case VHOST_MSG_GET_INFLIGHT_FD:
		require(size == question->header.size && answer->fd_num == 1);
		return;
	}
	require(answer->fd_num == 0);
}

static void
keep_inflight_fd(int fd)
{
	if (world.inflight_fd >= 0)
		close(world.inflight_fd);
	world.inflight_fd = fd;
}

/* From the one whose turn it is, if it is connected. */
static bool
send_message(struct vhost_message *message)
{
	struct vhost_message question = *message;
	int vid = world.vids[world.who];
	enum rte_vhost_msg_result result;

	if (vid < 0 || rig.connections[vid].ops == NULL) {
		rig_close_answer_fds(message);
		return false;
	}
	result = rig_send(vid, message);
	if (rig.connections[vid].socket == NULL)
		world.vids[world.who] = -1;
	if (result == RTE_VHOST_MSG_RESULT_REPLY) {
		check_answer(&question, message);
		if (message->fd_num > 0)
			keep_inflight_fd(message->fds[0]);
	}
	return result != RTE_VHOST_MSG_RESULT_ERR;
}

static bool
say(uint32_t request, const void *payload, uint32_t size, int fd)
{
	struct vhost_message message = {
		.header = {.request = request, .flags = 1 | VHOST_MSG_NEED_REPLY, .size = size}};

	if (size > 0)
		memcpy(message.payload, payload, size);
	if (fd >= 0)
		message.fds[message.fd_num++] = fd;
	return send_message(&message);
}

static bool
say_state(uint32_t request, uint32_t index, uint32_t number)
{
	struct vhost_msg_state state = {.index = index, .num = number};

	return say(request, &state, sizeof(state), -1);
}

static bool
say_u64(uint32_t request, uint64_t value, int fd)
{
	return say(request, &value, sizeof(value), fd);
}

static bool
say_addr(uint32_t index)
{
	uint64_t at = USER + (uint64_t)index % QUEUES * QUEUE_BYTES;
	struct vhost_msg_addr addr = {
		.index = index, .desc = at, .avail = at + AVAIL_AT, .used = at + USED_AT};

	return say(VHOST_MSG_SET_VRING_ADDR, &addr, sizeof(addr), -1);
}

/* The whole memory in `count` regions. */
static bool
say_mem_table(uint32_t count)
{
	struct vhost_message message = {
		.header = {.request = VHOST_MSG_SET_MEM_TABLE, .flags = 1 | VHOST_MSG_NEED_REPLY}};
	struct vhost_msg_memory table = {.count = count};

	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = (uint64_t)i * MEMORY_BYTES / count;

		table.regions[i] = (struct vhost_mem_region){.gpa = GPA + at,
							     .size = MEMORY_BYTES / count,
							     .user_addr = USER + at,
							     .mmap_offset = at};
		message.fds[i] = fcntl(world.memory_fd, F_DUPFD_CLOEXEC, 0);
	}
	message.header.size = (uint32_t)(offsetof(struct vhost_msg_memory, regions) +
					 count * sizeof(table.regions[0]));
	memcpy(message.payload, &table, sizeof(table));
	message.fd_num = (int)count;
	return send_message(&message);
}

static void
connect_to(unsigned int controller)
{
	if (world.vids[world.who] < 0)
		world.vids[world.who] = rig_connect(world.paths[controller]);
}

static void
disconnect(void)
{
	int vid = world.vids[world.who];

	/* Its controller may have been deleted under it. */
	if (vid >= 0 && rig.connections[vid].socket != NULL)
		rig_disconnect(vid);
	world.vids[world.who] = -1;
}

/* ---- a guest ---- */

static void
guest_write(uint64_t offset, const void *data, size_t size)
{
	if (offset + size <= world.memory_size)
		require(pwrite(world.memory_fd, data, size, (off_t)offset) == (ssize_t)size);
}

static void
guest_read(uint64_t offset, void *data, size_t size)
{
	memset(data, 0, size);
	require(pread(world.memory_fd, data, size, (off_t)offset) >= 0);
}

/* A request of one block, in a split ring. Returns what the used index will be. */
static uint16_t
offer_request(uint32_t queue, uint32_t type)
{
	uint64_t at = queue * QUEUE_BYTES, buffer = GPA + at + BUFFER_AT;
	struct virtio_blk_outhdr header = {.type = type, .sector = queue};
	struct vring_desc descs[] = {
		{.addr = buffer, .len = 16, .flags = VRING_DESC_F_NEXT, .next = 1},
		{.addr = buffer + 512, .len = 512, .flags = VRING_DESC_F_NEXT, .next = 2},
		{.addr = buffer + 16, .len = 1, .flags = VRING_DESC_F_WRITE},
	};
	uint16_t index, head;

	guest_read(at + AVAIL_AT + 2, &index, sizeof(index));
	head = index % (RING_SIZE / 4) * 4;
	if (type == VIRTIO_BLK_T_IN)
		descs[1].flags |= VRING_DESC_F_WRITE;
	for (uint16_t i = 0; i < ARRAY_SIZE(descs); i++)
		descs[i].next += head;
	guest_write(at + head * sizeof(descs[0]), descs, sizeof(descs));
	guest_write(at + BUFFER_AT, &header, sizeof(header));
	guest_write(at + AVAIL_AT + 4 + index % RING_SIZE * 2u, &head, sizeof(head));
	index++;
	guest_write(at + AVAIL_AT + 2, &index, sizeof(index));
	return index;
}

static void
reset_rings(void)
{
	static const uint8_t zeroes[MEMORY_BYTES];

	require(ftruncate(world.memory_fd, MEMORY_BYTES) == 0);
	world.memory_size = MEMORY_BYTES;
	guest_write(0, zeroes, sizeof(zeroes));
}

/* All that a front-end says to start a queue. */
static bool
set_up(uint64_t features, uint32_t queue)
{
	return say_u64(VHOST_MSG_SET_FEATURES, features, -1) && say_mem_table(1) &&
	       say_state(VHOST_MSG_SET_VRING_NUM, queue, RING_SIZE) &&
	       say_state(VHOST_MSG_SET_VRING_BASE, queue, 0) && say_addr(queue) &&
	       say_u64(VHOST_MSG_SET_VRING_CALL, queue, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) &&
	       say_u64(VHOST_MSG_SET_VRING_KICK, queue, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) &&
	       say_state(VHOST_MSG_SET_VRING_ENABLE, queue, 1);
}

/* ---- the script ---- */

static void
op_raw(void)
{
	uint8_t flags = input_u8(&world.in);
	struct vhost_message message = {.header = {.request = input_u8(&world.in) & 63,
						   .flags = 1 | (flags & VHOST_MSG_NEED_REPLY)}};
	uint32_t size = flags & 16 ? input_u16(&world.in) % VHOST_MSG_PAYLOAD : input_u8(&world.in);

	/* DPDK has a payload as long as the header says, or ends the connection. */
	message.header.size = size;
	input_bytes(&world.in, message.payload, size);
	message.fd_num = flags >> 5;
	if (message.fd_num == 7)
		message.fd_num = VHOST_MSG_MAX_FDS;
	for (int i = 0; i < message.fd_num; i++)
		message.fds[i] = make_fd(input_u8(&world.in));
	send_message(&message);
}

static uint32_t
pick_queue(void)
{
	uint8_t value = input_u8(&world.in);

	if (value < 0xf0)
		return value % QUEUES;
	return value < 0xf8 ? 60u + (value & 7) : input_u32(&world.in);
}

static uint64_t
pick_features(void)
{
	uint8_t kind = input_u8(&world.in);
	uint64_t features = 1ULL << VIRTIO_F_VERSION_1;

	if (kind >= 0xf8)
		return input_u64(&world.in);
	features |= kind & 1 ? PROTOCOL_FEATURES : 0;
	features |= kind & 2 ? 1ULL << VIRTIO_RING_F_EVENT_IDX : 0;
	features |= kind & 4 ? 1ULL << VIRTIO_RING_F_INDIRECT_DESC : 0;
	features |= kind & 8 ? 1ULL << VIRTIO_F_RING_PACKED : 0;
	features |= kind & 16 ? 1ULL << VIRTIO_BLK_F_FLUSH | 1ULL << VIRTIO_BLK_F_CONFIG_WCE : 0;
	return features;
}

static void
op_features(void)
{
	say_u64(VHOST_MSG_SET_FEATURES, pick_features(), -1);
}

static void
op_mem_table(void)
{
	say_mem_table(1 + input_u8(&world.in) % VHOST_MEM_MAX_REGIONS);
}

static void
op_state(void)
{
	static const uint32_t requests[] = {VHOST_MSG_SET_VRING_NUM, VHOST_MSG_SET_VRING_BASE,
					    VHOST_MSG_GET_VRING_BASE, VHOST_MSG_SET_VRING_ENABLE};
	static const uint32_t sizes[] = {RING_SIZE, 1, 8, 1024, 0, 3, 2048, 32768};
	uint8_t kind = input_u8(&world.in);
	uint32_t queue = pick_queue(), number = kind >> 2;

	if ((kind & 3) == 0)
		number = sizes[number % 8];
	else if ((kind & 3) == 1 && number >= 32)
		number = input_u32(&world.in);
	else
		number &= 1;
	say_state(requests[kind & 3], queue, number);
}

static void
op_addr(void)
{
	uint8_t kind = input_u8(&world.in);
	struct vhost_msg_addr addr;

	if (kind < 0xc0) {
		say_addr(pick_queue());
		return;
	}
	addr = (struct vhost_msg_addr){.index = pick_queue(), .flags = kind & 1};
	addr.desc = USER + input_u16(&world.in);
	addr.used = USER + input_u16(&world.in);
	addr.avail = kind < 0xe0 ? USER + input_u16(&world.in) : input_u64(&world.in);
	say(VHOST_MSG_SET_VRING_ADDR, &addr, sizeof(addr), -1);
}

static void
op_vring_fd(void)
{
	static const uint32_t requests[] = {VHOST_MSG_SET_VRING_KICK, VHOST_MSG_SET_VRING_CALL,
					    VHOST_MSG_SET_VRING_ERR, VHOST_MSG_SET_VRING_KICK};
	uint8_t kind = input_u8(&world.in);
	uint64_t queue = pick_queue();

	if (kind & 4)
		say_u64(requests[kind & 3], queue | VHOST_MSG_VRING_NO_FD, -1);
	else
		say_u64(requests[kind & 3], queue, make_fd(kind >> 3));
}

static void
op_config(void)
{
	struct vhost_msg_config config = {.offset = input_u8(&world.in),
					  .size = input_u8(&world.in)};
	uint8_t kind = input_u8(&world.in);

	if (kind & 2)
		config.offset = 32, config.size = 1;
	config.data[0] = kind >> 3;
	say(kind & 1 ? VHOST_MSG_SET_CONFIG : VHOST_MSG_GET_CONFIG, &config,
	    VHOST_MSG_CONFIG_HEADER + config.size, -1);
}

static void
op_simple(void)
{
	static const uint32_t requests[] = {
		VHOST_MSG_GET_FEATURES,          VHOST_MSG_SET_OWNER,
		VHOST_MSG_GET_PROTOCOL_FEATURES, VHOST_MSG_GET_QUEUE_NUM,
		VHOST_MSG_RESET_OWNER,           VHOST_MSG_SET_PROTOCOL_FEATURES,
		VHOST_MSG_SET_BACKEND_REQ_FD,    VHOST_MSG_GET_FEATURES,
	};
	uint32_t request = requests[input_u8(&world.in) % ARRAY_SIZE(requests)];

	if (request == VHOST_MSG_SET_PROTOCOL_FEATURES)
		say_u64(request, 1ULL << VHOST_PROTOCOL_F_MQ | 1ULL << VHOST_PROTOCOL_F_CONFIG, -1);
	else if (request == VHOST_MSG_SET_BACKEND_REQ_FD)
		say(request, NULL, 0, make_fd(input_u8(&world.in)));
	else
		say(request, NULL, 0, -1);
}

static struct vhost_inflight_layout
pick_layout(void)
{
	static const uint16_t sizes[] = {RING_SIZE, 1, 1024, 2048};
	struct vhost_inflight_layout layout = {.num_queues = QUEUES, .queue_size = RING_SIZE};
	uint8_t kind = input_u8(&world.in);

	if (kind & 0x80)
		layout.num_queues = kind & 0x7f;
	if (kind & 0x40)
		layout.queue_size = sizes[kind & 3];
	layout.mmap_size = layout.num_queues * virtq_inflight_size(kind & 1, layout.queue_size);
	if (kind & 0x20)
		layout.mmap_size = input_u32(&world.in);
	if (kind & 0x10)
		layout.mmap_offset = input_u16(&world.in);
	return layout;
}

static void
op_get_inflight(void)
{
	struct vhost_inflight_layout layout = pick_layout();

	say(VHOST_MSG_GET_INFLIGHT_FD, &layout, sizeof(layout), -1);
}

/* The region that was answered, one of the guest's own, or something else. */
static void
op_set_inflight(void)
{
	struct vhost_inflight_layout layout = pick_layout();
	uint8_t kind = input_u8(&world.in);
	int fd = world.inflight_fd;

	if (fd < 0 || kind >= 0xe0)
		fd = make_fd(kind);
	else
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	say(VHOST_MSG_SET_INFLIGHT_FD, &layout, sizeof(layout), fd);
}

static void
op_inflight_write(void)
{
	uint16_t offset = input_u16(&world.in);
	size_t size;
	const uint8_t *data = input_take(&world.in, 1 + input_u8(&world.in) % 16, &size);
	struct stat st;

	if (world.inflight_fd < 0 || fstat(world.inflight_fd, &st) != 0 ||
	    (off_t)(offset + size) > st.st_size)
		return;
	require(pwrite(world.inflight_fd, data, size, offset) == (ssize_t)size);
}

static void
op_set_up(void)
{
	uint32_t queue = input_u8(&world.in) % QUEUES;

	connect_to(0);
	set_up(pick_features(), queue);
}

static void
op_request(void)
{
	uint8_t kind = input_u8(&world.in);

	offer_request(kind % QUEUES, kind & 0x80 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
}

static void
op_guest_write(void)
{
	uint16_t offset = input_u16(&world.in);
	size_t size;
	const uint8_t *data = input_take(&world.in, 1 + input_u8(&world.in) % 32, &size);

	guest_write(offset, data, size);
}

/* A moment in which the other threads go on. */
static void
op_pause(void)
{
	coroutine_sleep(input_u8(&world.in) * 1000u);
}

static void
op_who(void)
{
	world.who = input_u8(&world.in) % PEERS;
}

static void
op_connect(void)
{
	connect_to(input_u8(&world.in) & 1);
}

static void
op_disconnect(void)
{
	disconnect();
}

/* The front-end's end goes first; we are told later. */
static void
op_hang_up(void)
{
	int vid = world.vids[world.who];

	if (vid < 0 || rig.connections[vid].socket == NULL || rig.connections[vid].peer < 0)
		return;
	close(rig.connections[vid].peer);
	rig.connections[vid].peer = -1;
}

static void
op_pace(void)
{
	world.pace = input_u8(&world.in) % PACES;
}

static void
op_complete(void)
{
	complete_one();
}

static void
op_truncate(void)
{
	uint64_t size = (input_u8(&world.in) & 31) * 4096u;

	if (size > MEMORY_BYTES)
		size = MEMORY_BYTES;
	require(ftruncate(world.memory_fd, (off_t)size) == 0);
	world.memory_size = size;
}

static void
create_second(void)
{
	struct vhost_blk_opts opts = {.name = "vm1", .bdev = "slow", .packed_ring = true};
	struct errmsg err = {""};
	int rc = vhost_blk_create(&opts, &err);

	require(rc == 0 || rc == -EEXIST);
}

static void
delete_second(void *arg)
{
	struct errmsg err = {""};

	(void)arg;
	if (vhost_controller_delete("vm1", &err) == 0)
		create_second();
	world.deleting = false;
}

/* While the script goes on. */
static void
op_delete(void)
{
	if (world.deleting)
		return;
	world.deleting = true;
	require(coroutine_start(rig.app, "delete", delete_second, NULL) == 0);
}

/* arg is a number. */
static void
set_coalescing(void *arg)
{
	uint32_t delay = (uint32_t)(uintptr_t)arg * 16;
	struct errmsg err = {""};

	require(vhost_controller_set_coalescing("vm0", delay, VHOST_COALESCING_THRESHOLD_MIN,
						&err) == 0);
}

static void
op_coalescing(void)
{
	require(coroutine_start(rig.app, "coalescing", set_coalescing,
				(void *)(uintptr_t)input_u8(&world.in)) == 0);
}

static void (*const ops[])(void) = {
	op_raw,          op_features,     op_mem_table,      op_state,
	op_addr,         op_vring_fd,     op_state,          op_vring_fd,
	op_config,       op_simple,       op_set_up,         op_request,
	op_pause,        op_request,      op_set_up,         op_guest_write,
	op_who,          op_connect,      op_disconnect,     op_hang_up,
	op_pace,         op_complete,     op_truncate,       op_delete,
	op_get_inflight, op_set_inflight, op_inflight_write, op_coalescing,
};

/* ---- the world ---- */

static void
forget_deleted(void)
{
	for (unsigned int i = 0; i < PEERS; i++) {
		if (world.vids[i] >= 0 && rig.connections[world.vids[i]].socket == NULL)
			world.vids[i] = -1;
	}
}

static void
run_script(void *arg)
{
	(void)arg;
	world.who = 0;
	connect_to(0);
	for (int i = 0; i < MAX_OPS && world.in.size > 0; i++) {
		ops[input_u8(&world.in) % ARRAY_SIZE(ops)]();
		forget_deleted();
	}
	for (world.who = 0; world.who < PEERS; world.who++)
		disconnect();
	keep_inflight_fd(-1);
}

/* A front-end that keeps the rules. */
static void
expect_service(void *arg)
{
	static const uint64_t features = PROTOCOL_FEATURES | 1ULL << VIRTIO_F_VERSION_1;
	uint8_t written[512], status = 0xff;
	uint16_t used = 0, expected;

	(void)arg;
	reset_rings();
	world.who = 0;
	connect_to(0);
	require(set_up(features, 1));
	memset(written, 0x5a, sizeof(written));
	guest_write(QUEUE_BYTES + BUFFER_AT + 512, written, sizeof(written));
	expected = offer_request(1, VIRTIO_BLK_T_OUT);
	guest_write(QUEUE_BYTES + BUFFER_AT + 16, &status, 1);
	coroutine_sleep(1000);
	guest_read(QUEUE_BYTES + USED_AT + 2, &used, sizeof(used));
	guest_read(QUEUE_BYTES + BUFFER_AT + 16, &status, 1);
	require(used == expected && status == VIRTIO_BLK_S_OK);
	require(memcmp(world.disk + 512, written, sizeof(written)) == 0);
	require(say_state(VHOST_MSG_GET_VRING_BASE, 1, 0));
	disconnect();
}

/* On the app thread. */
static void
create_all(void *arg)
{
	struct vhost_blk_opts opts = {.name = "vm0", .bdev = "slow", .packed_ring = true};
	struct errmsg err = {""};
	struct bdev_info info;
	struct bdev *bdev;

	(void)arg;
	require(bdev_info_init(&info, "slow", NULL, &err) == 0);
	info.product_name = "slow";
	info.block_size = 512;
	info.num_blocks = DISK_BYTES / 512;
	info.io_types = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH;
	info.write_cache = true;
	require(bdev_register(&info, &slow_ops, &world, &bdev, &err) == 0);
	require(vhost_blk_create(&opts, &err) == 0);
	create_second();
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	TAILQ_INIT(&world.held);
	rig_start();
	rig.on_idle = on_idle;
	world.memory_fd = memfd_create("guest", MFD_CLOEXEC);
	require(world.memory_fd >= 0);
	reset_rings();
	for (unsigned int i = 0; i < PEERS; i++)
		world.vids[i] = -1;
	world.inflight_fd = -1;
	for (int i = 0; i < 2; i++)
		snprintf(world.paths[i], sizeof(world.paths[i]), "%s/vm%d", rig.folder, i);
	rig_run(rig.app, create_all, NULL);
	rig_run(rig.events, expect_service, NULL);
	return 0;
}

static void
wait_for_rest(void *arg)
{
	(void)arg;
	while (world.deleting || world.requests_held > 0)
		coroutine_sleep(RIG_WAIT_US);
	set_coalescing(NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned int fds = count_fds(), threads = rig.thread_count;

	world.in = (struct input){data, size};
	world.pace = AT_ONCE;
	reset_rings();
	rig_run(rig.events, run_script, NULL);
	world.pace = WHEN_AWAITED;
	rig_run(rig.app, wait_for_rest, NULL);
	rig_settle();
	world.pace = AT_ONCE;
	require(rig.thread_count == threads);
	require(count_fds() == fds);
	rig_run(rig.events, expect_service, NULL);
	rig_settle();
	return 0;
}
