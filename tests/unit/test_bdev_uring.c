/* SPDX-License-Identifier: BSD-3-Clause */
/* The data path of files through io_uring, on tmpfs and on a disk. */
/* links: bdev thread env testlib */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "bdev_rig.h"

#define FILE_SIZE (8u << 20)
#define DEPTH     64
#define MAX_IOVS  20

/*
 * Where the files are: in memory, and on a disk that most likely has direct I/O; and who submits.
 */
static const struct place {
	const char *folder;
	bool sqpoll;
} places[] = {{"/dev/shm", false}, {"/var/tmp", false}, {"/var/tmp", true}};
static const struct place *place;
static char folder[128], path[160];
static struct bdev *disk;
static struct bdev_desc *desc;
static struct bdev_channel *channel;
static struct rig_request *request;
static uint8_t *data;

/* ---- set-up ---- */

static void
make_file(const char *name, uint64_t size)
{
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void
open_disk(bool read_only)
{
	struct bdev_uring_opts opts = {.name = "disk",
				       .filename = path,
				       .method = "bdev_aio_create",
				       .read_only = read_only,
				       .sqpoll = place->sqpoll};

	assert_int_equal(rig_create_uring(&opts, &disk), 0);
	desc = rig_open("disk", !read_only);
	channel = rig_channel(desc, rig_io[0]);
	request = rig_request_new(disk);
}

static void
close_disk(void)
{
	free(request);
	rig_channel_put(channel, rig_io[0]);
	rig_close(desc);
	assert_int_equal(rig_delete("disk", "uring"), 0);
}

static int
setup(void **state)
{
	rig_setup(state);
	snprintf(folder, sizeof(folder), "%s/test_bdev_uring_XXXXXX", place->folder);
	assert_non_null(mkdtemp(folder));
	make_file("file", FILE_SIZE);
	data = aligned_alloc(4096, FILE_SIZE + 8192);
	assert_non_null(data);
	return 0;
}

static int
teardown(void **state)
{
	rig_teardown(state);
	free(data);
	unlink(path);
	return rmdir(folder);
}

static uint32_t
random_below(uint32_t *seed, uint32_t limit)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % limit;
}

static void
fill(uint8_t *bytes, size_t length, uint32_t seed)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)random_below(&seed, 256);
}

static int
transfer(uint8_t type, uint64_t offset, void *bytes, uint64_t length)
{
	rig_request_set(request, type, offset, bytes, length);
	return rig_do(channel, rig_io[0], request);
}

static void
read_file(uint8_t *bytes, uint64_t offset, size_t length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, bytes, length, (off_t)offset), length);
	close(fd);
}

static uint64_t
allocated(void)
{
	struct stat status;

	assert_int_equal(stat(path, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

/* ---- data ---- */

static void
test_transfer(void **state)
{
	(void)state;
	open_disk(false);
	fill(data, 65536, 1);
	assert_int_equal(transfer(BDEV_WRITE, 4096, data, 65536), 0);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	read_file(data + 65536, 4096, 65536);
	assert_memory_equal(data, data + 65536, 65536);
	memset(data + 65536, 0, 65536);
	assert_int_equal(transfer(BDEV_READ, 4096, data + 65536, 65536), 0);
	assert_memory_equal(data, data + 65536, 65536);
	rig_request_set(request, BDEV_WRITE, 0, data + 512, 512);
	request->rq.flags = BDEV_FUA;
	assert_int_equal(rig_do(channel, rig_io[0], request), 0);
	assert_int_equal(transfer(BDEV_RESET, 0, NULL, 0), 0);
	assert_int_equal(transfer(BDEV_READ, FILE_SIZE, data, 512), -EINVAL);
	close_disk();
}

/* Many requests of any shape at a time, each in a slice of its own, against a copy in memory. */
struct shape {
	struct rig_request *request;
	struct iovec iov[MAX_IOVS];
	uint8_t *buffer;
	uint64_t offset, length;
	bool write;
};

#define SLICE (FILE_SIZE / DEPTH)

static void
shape_start(struct shape *shape, unsigned int slice, uint32_t *seed)
{
	uint32_t granularity = (uint32_t[]){512, 512, 4096, 1, 16}[random_below(seed, 5)];
	uint8_t *position =
		shape->buffer + (random_below(seed, 4) == 0 ? random_below(seed, 512) : 0);
	uint64_t left;
	uint32_t count = 0;

	shape->write = random_below(seed, 2) != 0;
	shape->length = 512 * (uint64_t)(1 + random_below(seed, 128));
	shape->offset = slice * SLICE + 512 * (uint64_t)random_below(seed, SLICE / 512 - 128);
	for (left = shape->length; left > 0; count++) {
		uint64_t n = granularity * (uint64_t)(1 + random_below(seed, 16));

		if (n > left || count == MAX_IOVS - 1)
			n = left;
		shape->iov[count] = (struct iovec){.iov_base = position, .iov_len = n};
		position += n;
		left -= n;
	}
	rig_request_set(shape->request, shape->write ? BDEV_WRITE : BDEV_READ, shape->offset, NULL,
			shape->length);
	shape->request->rq.iov = shape->iov;
	shape->request->rq.iovcnt = count;
	if (shape->write)
		fill(shape->iov[0].iov_base, shape->length, *seed);
	thread_set_current(rig_io[0]);
	bdev_submit(channel, &shape->request->rq);
	thread_set_current(NULL);
}

static void
shape_finish(struct shape *shape)
{
	rig_wait(&shape->request->finished);
	assert_int_equal(shape->request->status, 0);
	if (shape->write)
		memcpy(data + shape->offset, shape->iov[0].iov_base, shape->length);
	else
		assert_memory_equal(data + shape->offset, shape->iov[0].iov_base, shape->length);
}

static void
test_random(void **state)
{
	static struct shape shapes[DEPTH];
	uint32_t seed = 4711;

	(void)state;
	open_disk(false);
	memset(data, 0, FILE_SIZE);
	for (unsigned int i = 0; i < DEPTH; i++) {
		shapes[i].request = rig_request_new(disk);
		shapes[i].buffer = aligned_alloc(4096, 128 * 1024);
	}
	for (unsigned int round = 0; round < 30; round++) {
		for (unsigned int i = 0; i < DEPTH; i++)
			shape_start(&shapes[i], i, &seed);
		thread_set_current(rig_io[0]);
		bdev_flush_submissions(channel);
		thread_set_current(NULL);
		for (unsigned int i = 0; i < DEPTH; i++)
			shape_finish(&shapes[i]);
	}
	for (unsigned int i = 0; i < DEPTH; i++) {
		free(shapes[i].request);
		free(shapes[i].buffer);
	}
	close_disk();
}

/* More than the submission and completion queues hold. */
static void
test_deep(void **state)
{
	enum { COUNT = 5000 };
	struct rig_request **requests = calloc(COUNT, sizeof(*requests));

	(void)state;
	open_disk(false);
	fill(data, FILE_SIZE, 9);
	assert_int_equal(transfer(BDEV_WRITE, 0, data, FILE_SIZE), 0);
	memset(data, 0, FILE_SIZE);
	thread_set_current(rig_io[0]);
	for (unsigned int i = 0; i < COUNT; i++) {
		requests[i] = rig_request_new(disk);
		rig_request_set(requests[i], BDEV_READ, 512 * (uint64_t)i, data + 512 * i, 512);
		bdev_submit(channel, &requests[i]->rq);
	}
	bdev_flush_submissions(channel);
	thread_set_current(NULL);
	for (unsigned int i = 0; i < COUNT; i++) {
		rig_wait(&requests[i]->finished);
		assert_int_equal(requests[i]->status, 0);
		assert_int_equal(requests[i]->finishes, 1);
		free(requests[i]);
	}
	free(requests);
	read_file(data + 4 * 1024 * 1024, 0, 512 * COUNT);
	assert_memory_equal(data, data + 4 * 1024 * 1024, 512 * COUNT);
	close_disk();
}

/* More iovecs than one system call takes. */
static void
test_many_iovs(void **state)
{
	enum { COUNT = 3000 };
	struct iovec *iov = calloc(COUNT, sizeof(*iov));

	(void)state;
	open_disk(false);
	fill(data, COUNT * 512, 10);
	rig_request_set(request, BDEV_WRITE, 512, NULL, COUNT * 512);
	for (unsigned int i = 0; i < COUNT; i++)
		iov[i] = (struct iovec){.iov_base = data + 512 * (COUNT - 1 - i), .iov_len = 512};
	request->rq.iov = iov;
	request->rq.iovcnt = COUNT;
	assert_int_equal(rig_do(channel, rig_io[0], request), 0);
	read_file(data + (4 << 20), 512, COUNT * 512);
	for (unsigned int i = 0; i < COUNT; i++)
		assert_memory_equal(data + (4 << 20) + 512 * i, iov[i].iov_base, 512);
	free(iov);
	close_disk();
}

/* Several threads, a ring each. */
static void
test_two_threads(void **state)
{
	struct bdev_channel *other;
	struct rig_request *second;

	(void)state;
	open_disk(false);
	other = rig_channel(desc, rig_io[1]);
	second = rig_request_new(disk);
	fill(data, 8192, 3);
	rig_request_set(request, BDEV_WRITE, 0, data, 4096);
	rig_request_set(second, BDEV_WRITE, 4096, data + 4096, 4096);
	rig_submit(channel, rig_io[0], request);
	rig_submit(other, rig_io[1], second);
	rig_wait(&request->finished);
	rig_wait(&second->finished);
	read_file(data + 8192, 0, 8192);
	assert_memory_equal(data, data + 8192, 8192);
	free(second);
	rig_channel_put(other, rig_io[1]);
	close_disk();
}

/* ---- errors ---- */

static void
test_truncated_under_us(void **state)
{
	(void)state;
	open_disk(false);
	assert_int_equal(truncate(path, 8192 + 100), 0);
	assert_int_equal(transfer(BDEV_READ, 0, data, 8192), 0);
	assert_int_equal(transfer(BDEV_READ, 4096, data, 65536), -EIO);
	assert_int_equal(transfer(BDEV_READ, 65536, data, 4096), -EIO);
	assert_int_equal(transfer(BDEV_READ, 8192, data + 1, 4096), -EIO); /* bounced */
	close_disk();
}

/*
 * A limit on the size of files stands for a full disk: a write up to it is short, and the next one
 * fails.
 */
static void
test_no_space(void **state)
{
	struct rlimit old, limit;

	(void)state;
	open_disk(false);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = (struct rlimit){.rlim_cur = 1 << 20, .rlim_max = old.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	fill(data, 65536, 12);
	assert_int_equal(transfer(BDEV_WRITE, 2 << 20, data, 4096), -ENOSPC);
	assert_int_equal(transfer(BDEV_WRITE, (1 << 20) - 4096, data, 65536), -ENOSPC);
	assert_int_equal(transfer(BDEV_WRITE, (1 << 20) - 65536, data, 65536), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(transfer(BDEV_WRITE, 2 << 20, data, 4096), 0);
	close_disk();
}

static void
test_read_only(void **state)
{
	(void)state;
	assert_int_equal(chmod(path, 0400), 0);
	open_disk(true);
	assert_true(bdev_get_info(disk)->read_only);
	assert_int_equal(transfer(BDEV_READ, 0, data, 4096), 0);
	assert_int_equal(transfer(BDEV_WRITE, 0, data, 4096), -EROFS);
	assert_int_equal(transfer(BDEV_DISCARD, 0, NULL, 4096), -EROFS);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	close_disk();
}

/* ---- discard and zeroes ---- */

static void
assert_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		assert_int_equal(bytes[i], 0);
}

static void
write_all(void)
{
	memset(data, 0xab, FILE_SIZE);
	assert_int_equal(transfer(BDEV_WRITE, 0, data, FILE_SIZE), 0);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	assert_true(allocated() >= FILE_SIZE);
}

static void
test_discard(void **state)
{
	(void)state;
	open_disk(false);
	if (!(bdev_get_info(disk)->io_types & 1u << BDEV_DISCARD)) {
		print_message("no holes on %s\n", place->folder);
		close_disk();
		skip();
	}
	write_all();
	assert_int_equal(transfer(BDEV_DISCARD, 1 << 20, NULL, 4 << 20), 0);
	assert_true(allocated() <= FILE_SIZE - (4 << 20) + 65536);
	read_file(data, 0, FILE_SIZE);
	assert_zero(data + (1 << 20), 4 << 20);
	assert_int_equal(data[(1 << 20) - 1], 0xab);
	assert_int_equal(data[5 << 20], 0xab);
	close_disk();
}

/* With and without permission to deallocate, aligned to nothing but blocks, durable or not. */
static void
test_write_zeroes(void **state)
{
	static const uint8_t flags[] = {0, BDEV_UNMAP, BDEV_FUA, BDEV_UNMAP | BDEV_FUA};

	(void)state;
	open_disk(false);
	for (size_t i = 0; i < sizeof(flags); i++) {
		uint64_t offset = 512 * 3, length = (3 << 20) + 512 * 5;

		write_all();
		rig_request_set(request, BDEV_WRITE_ZEROES, offset, NULL, length);
		request->rq.flags = flags[i];
		assert_int_equal(rig_do(channel, rig_io[0], request), 0);
		read_file(data, 0, FILE_SIZE);
		assert_zero(data + offset, length);
		assert_int_equal(data[offset - 1], 0xab);
		assert_int_equal(data[offset + length], 0xab);
		if (flags[i] & BDEV_UNMAP)
			assert_true(allocated() < FILE_SIZE - (2 << 20));
		else
			assert_true(allocated() >=
				    FILE_SIZE); /* still its space: a later write cannot fail */
	}
	close_disk();
}

/* ---- sleeping ---- */

static void
start_read(void)
{
	rig_request_set(request, BDEV_READ, 0, data, 512 * 1024); /* too long to copy on the spot */
	thread_set_current(rig_io[0]);
	bdev_submit(channel, &request->rq);
	thread_set_current(NULL);
}

static bool
wait_readable(int fd, int timeout_ms)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	int ready;

	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
	ready = epoll_wait(epoll, &event, 1, timeout_ms);
	while (ready < 0 && errno == EINTR)
		ready = epoll_wait(epoll, &event, 1, timeout_ms);
	close(epoll);
	return ready == 1;
}

/*
 * Each completion wakes the thread, whether it was seen by a poll before or after, and nothing is
 * lost.
 */
static void
test_sleep(void **state)
{
	(void)state;
	open_disk(false);
	rig_settle();
	assert_true(thread_arm(rig_io[0]));
	thread_disarm(rig_io[0]);
	for (int round = 0; round < 200; round++) {
		start_read();
		assert_false(thread_arm(rig_io[0])); /* not submitted */
		thread_set_current(rig_io[0]);
		bdev_flush_submissions(channel);
		thread_set_current(NULL);
		while (!request->finished) {
			if (thread_arm(rig_io[0])) {
				assert_true(wait_readable(thread_wait_fd(rig_io[0]), DEADLINE_MS));
				thread_disarm(rig_io[0]);
			}
			poll_once(rig_io[0]);
		}
		assert_int_equal(request->status, 0);
	}
	close_disk();
}

/* A worker of the kernel completes while the thread is armed. */
static void
test_sleep_worker(void **state)
{
	bool slept = false;

	(void)state;
	open_disk(false);
	for (int round = 0; round < 20; round++) {
		write_all(); /* so that deallocating it takes its time */
		rig_settle();
		rig_request_set(request, BDEV_WRITE_ZEROES, 0, NULL, FILE_SIZE);
		request->rq.flags = BDEV_UNMAP;
		rig_submit(channel, rig_io[0], request);
		while (!request->finished) {
			if (thread_arm(rig_io[0])) {
				slept = true;
				assert_true(wait_readable(thread_wait_fd(rig_io[0]), DEADLINE_MS));
				thread_disarm(rig_io[0]);
			}
			poll_once(rig_io[0]);
		}
	}
	assert_true(slept);
	close_disk();
}

static void
find_poller(void *ctx, const struct poller_info *info)
{
	uint64_t *runs = ctx;

	assert_string_equal(info->name, "bdev_uring");
	assert_true(info->can_sleep);
	runs[0] += info->runs;
	runs[1] += info->busy_runs;
}

/* The poller is busy only when it finds something. */
static void
test_idle(void **state)
{
	uint64_t runs[2] = {0};

	(void)state;
	open_disk(false);
	for (int i = 0; i < 1000; i++)
		poll_once(rig_io[0]);
	thread_set_current(rig_io[0]);
	thread_for_each_poller(rig_io[0], find_poller, runs);
	thread_set_current(NULL);
	assert_true(runs[0] >= 1000);
	assert_int_equal(runs[1], 0);
	close_disk();
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_transfer),     test(test_random),      test(test_deep),
		test(test_many_iovs),    test(test_two_threads), test(test_truncated_under_us),
		test(test_no_space),     test(test_read_only),   test(test_discard),
		test(test_write_zeroes), test(test_sleep),       test(test_sleep_worker),
		test(test_idle),
	};
	int failed = 0;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		place = &places[i];
		print_message("on %s%s:\n", place->folder, place->sqpoll ? ", sqpoll" : "");
		failed += cmocka_run_group_tests_name(place->folder, tests, NULL, NULL);
	}
	return failed;
}
