/* SPDX-License-Identifier: BSD-3-Clause */
/* links: client */
/*
 * The test front-end against qemu-storage-daemon: a back-end that is not ours says whether the
 * front-end is right, before the front-end says whether vhostd is. Skipped where it is missing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "waiting.h"

#define PROGRAM   "qemu-storage-daemon"
#define DISK_SIZE (16u << 20)
#define QUEUES    2

struct peer {
	char dir[40];
	char socket[64];
	char file[64];
	pid_t pid;
};

static bool
is_installed(void)
{
	return system("command -v " PROGRAM " >/dev/null 2>&1") == 0;
}

static void
peer_run(struct peer *peer)
{
	char blockdev[160], export[200];

	snprintf(blockdev, sizeof(blockdev), "driver=file,node-name=n0,filename=%s,discard=unmap",
		 peer->file);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e0,node-name=n0,addr.type=unix,addr.path=%s,writable=on,"
		 "num-queues=%d",
		 peer->socket, QUEUES);
	unlink(peer->socket);
	peer->pid = fork();
	assert_true(peer->pid >= 0);
	if (peer->pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execlp(PROGRAM, PROGRAM, "--blockdev", blockdev, "--export", export, NULL);
	_exit(127);
}

static void
peer_kill(struct peer *peer)
{
	kill(peer->pid, SIGKILL);
	waitpid(peer->pid, NULL, 0);
}

static int
setup(void **state)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	int fd;

	assert_non_null(peer);
	strcpy(peer->dir, "/tmp/test-client-qsd-XXXXXX");
	assert_non_null(mkdtemp(peer->dir));
	snprintf(peer->socket, sizeof(peer->socket), "%s/socket", peer->dir);
	snprintf(peer->file, sizeof(peer->file), "%s/disk", peer->dir);
	fd = open(peer->file, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	peer_run(peer);
	*state = peer;
	return 0;
}

static int
teardown(void **state)
{
	struct peer *peer = *state;

	peer_kill(peer);
	unlink(peer->socket);
	unlink(peer->file);
	rmdir(peer->dir);
	free(peer);
	return 0;
}

#define EVENT_IDX (1ULL << VIRTIO_RING_F_EVENT_IDX)

static void
device_open_with(struct client_device *device, const struct peer *peer, uint64_t more_features)
{
	struct client_options options = {
		.queues = QUEUES,
		.timeout_ms = DEADLINE_MS,
		.features = CLIENT_DEFAULT_FEATURES | more_features,
	};

	assert_int_equal(client_device_open(device, peer->socket, &options), 0);
	assert_int_equal(device->features & more_features, more_features);
	assert_int_equal(client_device_start(device), 0);
}

static void
device_open(struct client_device *device, const struct peer *peer)
{
	device_open_with(device, peer, 0);
}

static void
fill(uint8_t *data, size_t size, uint32_t seed)
{
	size_t i;

	for (i = 0; i < size; i++)
		data[i] = (seed = seed * 1103515245 + 12345) >> 16;
}

static void
test_config(void **state)
{
	struct client_device device;
	uint64_t capacity = 0;

	device_open(&device, *state);
	assert_int_equal(device.max_queues, QUEUES);
	assert_int_equal(device.config.capacity, DISK_SIZE / CLIENT_SECTOR);
	assert_int_equal(device.config.num_queues, QUEUES);
	assert_int_equal(client_get_config(&device.client, 0, 8, &capacity), 0);
	assert_int_equal(capacity, DISK_SIZE / CLIENT_SECTOR);
	client_device_close(&device);
}

/* Segments of odd sizes: the number and the layout must not matter. */
static void
write_and_read(struct client_device *device, const struct peer *peer, unsigned int queue,
	       uint32_t segment_size, bool indirect)
{
	static uint8_t data[65536], back[65536];
	struct client_blk blk;
	int fd;

	assert_int_equal(client_blk_create(&blk, &device->rings[queue], sizeof(data), segment_size,
					   indirect),
			 0);
	blk.timeout_ms = DEADLINE_MS;
	fill(data, sizeof(data), segment_size + queue);
	assert_int_equal(client_blk_write(&blk, 64, data, sizeof(data)), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_read(&blk, 64, back, sizeof(back)), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, back, sizeof(data));
	fd = open(peer->file, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, back, sizeof(back), 64 * CLIENT_SECTOR), sizeof(back));
	assert_memory_equal(data, back, sizeof(data));
	close(fd);
	client_blk_destroy(&blk);
}

static void
read_and_write_all(const struct peer *peer, uint64_t more_features)
{
	static const uint32_t segment_sizes[] = {65536, 4096, 1000};
	struct client_device device;
	unsigned int i, queue;

	device_open_with(&device, peer, more_features);
	for (i = 0; i < 3; i++) {
		for (queue = 0; queue < QUEUES; queue++) {
			write_and_read(&device, peer, queue, segment_sizes[i], false);
			write_and_read(&device, peer, queue, segment_sizes[i], true);
		}
	}
	client_device_close(&device);
}

static void
test_read_write(void **state)
{
	read_and_write_all(*state, 0);
}

static void
test_read_write_event_idx(void **state)
{
	read_and_write_all(*state, EVENT_IDX);
}

static void
test_other_requests(void **state)
{
	uint8_t data[4096], zeroes[4096] = {0};
	char id[VIRTIO_BLK_ID_BYTES + 1];
	struct client_device device;
	struct client_blk blk;

	device_open(&device, *state);
	assert_int_equal(client_blk_create(&blk, &device.rings[0], 4096, 0, true), 0);
	fill(data, sizeof(data), 1);
	assert_int_equal(client_blk_get_id(&blk, id), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_flush(&blk), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_write(&blk, 8, data, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_write_zeroes(&blk, 8, 8, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_read(&blk, 8, data, 4096), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, zeroes, 4096);
	assert_int_equal(client_blk_discard(&blk, 0, 64), VIRTIO_BLK_S_OK);
	assert_int_equal(client_blk_read(&blk, DISK_SIZE / CLIENT_SECTOR, data, 512),
			 VIRTIO_BLK_S_IOERR);
	client_blk_destroy(&blk);
	client_device_close(&device);
}

enum { DEPTH = 32 };

/* Many requests at once, each with its own sectors and buffer; completed by calls. */
static void
run_deep_queue(const struct peer *peer, unsigned int rounds, uint64_t more_features)
{
	struct client_device device;
	struct client_segment segments[DEPTH];
	struct client_blk_completion completion;
	struct client_blk_request request;
	struct client_blk blk;
	unsigned int i, round;
	uint64_t seen;

	device_open_with(&device, peer, more_features);
	assert_int_equal(client_blk_create(&blk, &device.rings[1], 0, 0, false), 0);
	for (i = 0; i < DEPTH; i++) {
		segments[i] = (struct client_segment){.len = 4096};
		assert_int_equal(client_memory_alloc(&device.memory, 4096, 512, &segments[i].gpa),
				 0);
	}
	for (round = 0; round < rounds; round++) {
		for (i = 0; i < DEPTH; i++) {
			segments[i].device_writes = round & 1;
			request = (struct client_blk_request){
				.type = round & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
				.sector = i * 8,
				.segments = &segments[i],
				.segment_count = 1,
				.tag = i,
			};
			assert_int_equal(client_blk_prepare(&blk, &request), 0);
		}
		client_ring_publish(&device.rings[1]);
		assert_int_equal(client_ring_kick(&device.rings[1]), 0);
		for (i = 0, seen = 0; i < DEPTH; i++) {
			assert_int_equal(client_blk_wait(&blk, &completion, DEADLINE_MS), 0);
			assert_int_equal(completion.status, VIRTIO_BLK_S_OK);
			seen |= 1ULL << completion.tag;
		}
		assert_int_equal(seen, (1ULL << DEPTH) - 1);
	}
	client_blk_destroy(&blk);
	client_device_close(&device);
}

static void
test_deep_queue(void **state)
{
	run_deep_queue(*state, 50, 0);
}

/* Over the wrap of the indices, with kicks and calls only where the event indices ask for them. */
static void
test_deep_queue_event_idx(void **state)
{
	run_deep_queue(*state, 65536 / DEPTH + 10, EVENT_IDX);
}

/* The device polls nothing: a kick that is saved by mistake is a request that never ends. */
static void
test_single_requests_event_idx(void **state)
{
	struct client_device device;
	struct client_blk blk;
	uint64_t calls;
	int i;

	device_open_with(&device, *state, EVENT_IDX);
	assert_int_equal(client_blk_create(&blk, &device.rings[0], 0, 0, true), 0);
	for (i = 0; i < 200; i++) {
		client_ring_suppress_calls(&device.rings[0], i % 10 == 9);
		assert_int_equal(client_blk_flush(&blk), VIRTIO_BLK_S_OK);
	}
	/* Drained by the last wait; a suppressed request leaves no call behind. */
	client_ring_suppress_calls(&device.rings[0], true);
	while (read(device.rings[0].call_fd, &calls, sizeof(calls)) > 0)
		;
	assert_int_equal(client_blk_flush(&blk), VIRTIO_BLK_S_OK);
	assert_int_equal(client_device_stop(&device), 0);
	assert_int_equal(read(device.rings[0].call_fd, &calls, sizeof(calls)), -1);
	assert_int_equal(device.bases[0], 201);
	client_blk_destroy(&blk);
	client_device_close(&device);
}

static void
test_stop_and_restart(void **state)
{
	struct client_device device;
	struct client_blk blk;
	int i;

	device_open(&device, *state);
	assert_int_equal(client_blk_create(&blk, &device.rings[0], 0, 0, false), 0);
	for (i = 1; i <= 5; i++) {
		assert_int_equal(client_blk_flush(&blk), VIRTIO_BLK_S_OK);
		assert_int_equal(client_device_stop(&device), 0);
		assert_int_equal(device.bases[0], i);
		assert_int_equal(device.bases[1], 0);
		assert_int_equal(client_device_start(&device), 0);
	}
	assert_int_equal(client_device_stop(&device), 0);
	client_device_reset(&device);
	assert_int_equal(client_device_start(&device), 0);
	assert_int_equal(client_blk_flush(&blk), VIRTIO_BLK_S_OK);
	assert_int_equal(client_device_stop(&device), 0);
	assert_int_equal(device.bases[0], 1);
	client_blk_destroy(&blk);
	client_device_close(&device);
}

static void
test_reconnect(void **state)
{
	struct peer *peer = *state;
	struct client_device device;
	struct client_blk blk;
	uint8_t data[512];

	device_open(&device, peer);
	assert_int_equal(client_blk_create(&blk, &device.rings[0], 512, 0, true), 0);
	fill(data, sizeof(data), 7);
	assert_int_equal(client_blk_write(&blk, 3, data, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(client_device_reconnect(&device), 0);
	assert_int_equal(client_blk_flush(&blk), VIRTIO_BLK_S_OK);

	peer_kill(peer);
	assert_int_equal(client_wait_closed(&device.client, DEADLINE_MS), 0);
	assert_int_equal(client_set_owner(&device.client, true), -ECONNRESET);
	peer_run(peer);
	assert_int_equal(client_device_reconnect(&device), 0);
	assert_int_equal(client_blk_read(&blk, 3, data, 512), VIRTIO_BLK_S_OK);
	client_blk_destroy(&blk);
	client_device_close(&device);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_config, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deep_queue, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_write_event_idx, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deep_queue_event_idx, setup, teardown),
		cmocka_unit_test_setup_teardown(test_single_requests_event_idx, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_and_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reconnect, setup, teardown),
	};

	if (!is_installed()) {
		print_message("skipped: " PROGRAM " is not installed\n");
		return 0;
	}
	return cmocka_run_group_tests_name("client against " PROGRAM, tests, NULL, NULL);
}
