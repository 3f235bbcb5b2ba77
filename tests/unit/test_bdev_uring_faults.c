/* SPDX-License-Identifier: BSD-3-Clause */
/* Files through io_uring when the kernel fails, does a part only, or knows less than ours. */
/* links: bdev thread env testlib */
/* ldflags: -Wl,--wrap=fcntl,--wrap=io_uring_submit,--wrap=io_uring_peek_batch_cqe,--wrap=io_uring_get_probe_ring,--wrap=fdatasync,--wrap=io_uring_register_files */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "bdev/bdev_uring.h"
#include "bdev_rig.h"

#define FILE_SIZE (1u << 20)

static char folder[64], path[96];
static struct bdev *disk;
static struct bdev_desc *desc;
static struct bdev_channel *channel;
static struct rig_request *request;
static uint8_t *data;

/* ---- what the tests change in the system ---- */

int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
unsigned __real_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count);
struct io_uring_probe *__real_io_uring_get_probe_ring(struct io_uring *ring);
struct io_uring_probe *__wrap_io_uring_get_probe_ring(struct io_uring *ring);

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

static _Atomic unsigned int syncs; /* outside of the ring */

int
__wrap_fdatasync(int fd)
{
	syncs++;
	return __real_fdatasync(fd);
}

int __real_io_uring_register_files(struct io_uring *ring, const int *files, unsigned count);
int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned count);

static _Atomic bool no_registered_files;

int
__wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned count)
{
	if (atomic_load(&no_registered_files))
		return -ENOMEM;
	return __real_io_uring_register_files(ring, files, count);
}

static struct {
	_Atomic bool no_direct; /* the file system has none */
	_Atomic int missing_op; /* of the kernel; -1: none */
	/* The next so many completions of this type have these results. */
	uint8_t type;
	unsigned int count;
	int results[16];
	unsigned int submits_failing; /* with EAGAIN, EBUSY and EINTR in turn */
} fault;

int
__wrap_fcntl(int fd, int cmd, ...)
{
	va_list list;
	void *arg;

	va_start(list, cmd);
	arg = va_arg(list, void *);
	va_end(list);
	if (cmd == F_SETFL && ((uintptr_t)arg & O_DIRECT) && atomic_load(&fault.no_direct)) {
		errno = EINVAL;
		return -1;
	}
	return __real_fcntl(fd, cmd, arg);
}

int
__wrap_io_uring_submit(struct io_uring *ring)
{
	static const int errors[] = {-EAGAIN, -EBUSY, -EINTR};

	if (fault.submits_failing > 0)
		return errors[--fault.submits_failing % 3];
	return __real_io_uring_submit(ring);
}

/* A positive result is a short transfer: what comes after it was done too, and is done again. */
unsigned
__wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count)
{
	unsigned int got = __real_io_uring_peek_batch_cqe(ring, cqes, count);

	for (unsigned int i = 0; i < got && fault.count > 0; i++) {
		struct bdev_request *rq = io_uring_cqe_get_data(cqes[i]);

		if (rq->type == fault.type)
			cqes[i]->res = fault.results[--fault.count];
	}
	return got;
}

struct io_uring_probe *
__wrap_io_uring_get_probe_ring(struct io_uring *ring)
{
	struct io_uring_probe *probe = __real_io_uring_get_probe_ring(ring);
	int op = atomic_load(&fault.missing_op);

	if (op >= 0)
		probe->ops[op].flags = 0;
	return probe;
}

static void
set_results(uint8_t type, unsigned int count, int result)
{
	fault.type = type;
	fault.count = count;
	for (unsigned int i = 0; i < count; i++)
		fault.results[i] = result;
}

/* ---- set-up ---- */

static int
create_disk(void)
{
	struct bdev_uring_opts opts = {
		.name = "disk", .filename = path, .method = "bdev_aio_create"};

	return rig_create_uring(&opts, &disk);
}

static void
open_disk(void)
{
	assert_int_equal(create_disk(), 0);
	desc = rig_open("disk", true);
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
	int fd;

	rig_setup(state);
	memset(&fault, 0, sizeof(fault));
	atomic_store(&fault.missing_op, -1);
	strcpy(folder, "/var/tmp/test_bdev_faults_XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/file", folder);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, FILE_SIZE), 0);
	close(fd);
	data = aligned_alloc(4096, 2 * FILE_SIZE);
	assert_non_null(data);
	for (size_t i = 0; i < FILE_SIZE; i++)
		data[i] = (uint8_t)(i * 31 + i / 509);
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

static int
transfer(uint8_t type, uint8_t flags, void *bytes, uint64_t length)
{
	rig_request_set(request, type, 0, bytes, length);
	request->rq.flags = flags;
	return rig_do(channel, rig_io[0], request);
}

static void
check_file(const uint8_t *expected, size_t length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, data + FILE_SIZE, length, 0), length);
	close(fd);
	assert_memory_equal(data + FILE_SIZE, expected, length);
}

/* ---- FLUSH ---- */

/* The kernel says once that the page cache lost something; we say it to everybody, and for good. */
static void
test_flush_error_stays(void **state)
{
	struct bdev_channel *other;

	(void)state;
	atomic_store(&fault.no_direct, true);
	open_disk();
	other = rig_channel(desc, rig_io[1]);
	assert_int_equal(transfer(BDEV_WRITE, BDEV_FUA, data, 4096), 0);
	set_results(BDEV_FLUSH, 2, -EINTR);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	set_results(BDEV_FLUSH, 1, -ENOSPC);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), -ENOSPC);
	assert_int_equal(fault.count, 0);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), -ENOSPC);
	rig_request_set(request, BDEV_FLUSH, 0, NULL, 0);
	assert_int_equal(rig_do(other, rig_io[1], request), -ENOSPC);
	assert_int_equal(transfer(BDEV_WRITE, BDEV_FUA, data, 4096), -ENOSPC);
	assert_int_equal(transfer(BDEV_WRITE_ZEROES, BDEV_FUA, NULL, 4096), -ENOSPC);
	assert_int_equal(transfer(BDEV_WRITE, 0, data, 4096), 0);
	assert_int_equal(transfer(BDEV_READ, 0, data, 4096), 0);
	rig_channel_put(other, rig_io[1]);
	close_disk();
	open_disk();
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	close_disk();
}

/* A FUA write to the page cache is synced as a FLUSH is, so that its error is known as such. */
static void
test_fua_error_stays(void **state)
{
	(void)state;
	atomic_store(&fault.no_direct, true);
	open_disk();
	set_results(BDEV_FLUSH, 1, -EIO);
	assert_int_equal(transfer(BDEV_WRITE, BDEV_FUA, data, 4096), -EIO);
	assert_int_equal(fault.count, 0);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), -EIO);
	close_disk();
}

static void
test_flush_error_passes(void **state)
{
	(void)state;
	open_disk();
	if (bdev_get_info(disk)->block_size != 512) {
		close_disk();
		skip();
	}
	set_results(BDEV_FLUSH, 1, -EIO);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), -EIO);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	close_disk();
}

/*
 * The kernel tells one of two who sync at the same time. The other one may be answered first, but
 * not before it is known what the first was told.
 */
static void
test_flush_error_beside_another(void **state)
{
	struct rig_request *late, *later;
	struct bdev_channel *other;
	struct uring_disk *uring;

	(void)state;
	atomic_store(&fault.no_direct, true);
	for (int rc = -ENOSPC; rc <= 0; rc += ENOSPC) {
		open_disk();
		uring = bdev_module_ctx(disk, "uring");
		other = rig_channel(desc, rig_io[1]);
		late = rig_request_new(disk);
		later = rig_request_new(disk);
		rig_request_set(request, BDEV_FLUSH, 0, NULL, 0);
		rig_request_set(late, BDEV_FLUSH, 0, NULL, 0);
		rig_request_set(later, BDEV_FLUSH, 0, NULL, 0);
		rig_submit(channel, rig_io[0], request);
		rig_submit(other, rig_io[1], late);
		while (atomic_load(&uring->syncs_held) == 0)
			poll_once(rig_io[1]);
		rig_submit(other, rig_io[1], later);
		for (int i = 0; i < 10; i++)
			poll_once(rig_io[1]);
		assert_false(thread_arm(rig_io[1]));
		assert_false(late->finished || later->finished);
		assert_int_equal(atomic_load(&uring->syncs), 1);
		set_results(BDEV_FLUSH, 1, rc);
		while (!request->finished)
			poll_once(rig_io[0]);
		assert_int_equal(request->status, rc);
		rig_wait(&later->finished);
		assert_true(late->finished);
		assert_int_equal(late->status, rc);
		assert_int_equal(later->status, rc);
		assert_int_equal(atomic_load(&uring->syncs), 0);
		assert_int_equal(atomic_load(&uring->syncs_held), 0);
		free(late);
		free(later);
		rig_channel_put(other, rig_io[1]);
		close_disk();
	}
}

/* The same on one thread, whichever of the two was told. */
static void
test_flush_error_of_two(void **state)
{
	struct rig_request *second;

	(void)state;
	atomic_store(&fault.no_direct, true);
	for (unsigned int told = 0; told < 2; told++) {
		open_disk();
		second = rig_request_new(disk);
		rig_request_set(request, BDEV_FLUSH, 0, NULL, 0);
		rig_request_set(second, BDEV_FLUSH, 0, NULL, 0);
		rig_submit(channel, rig_io[0], request);
		rig_submit(channel, rig_io[0], second);
		set_results(BDEV_FLUSH, 2, 0);
		fault.results[told] = -EIO;
		rig_wait(&request->finished);
		rig_wait(&second->finished);
		assert_int_equal(fault.count, 0);
		assert_int_equal(request->status, -EIO);
		assert_int_equal(second->status, -EIO);
		free(second);
		close_disk();
	}
}

/* ---- results ---- */

static void
test_again(void **state)
{
	(void)state;
	open_disk();
	set_results(BDEV_WRITE, 16, -EAGAIN);
	assert_int_equal(transfer(BDEV_WRITE, BDEV_FUA, data, 65536), 0);
	assert_int_equal(fault.count, 0);
	check_file(data, 65536);
	set_results(BDEV_WRITE, 16, -EINTR);
	assert_int_equal(transfer(BDEV_WRITE, 0, data, 65536), 0);
	for (int i = 0; i < 2; i++) { /* not for ever */
		set_results(BDEV_READ, 16, -EAGAIN);
		request->finishes = 0;
		rig_request_set(request, BDEV_READ, 0, data + FILE_SIZE, 4096);
		rig_submit(channel, rig_io[0], request);
		while (!request->finished) {
			fault.count = i == 0 ? fault.count : 16;
			poll_once(rig_io[0]);
		}
		fault.count = 0;
		assert_int_equal(request->status, i == 0 ? 0 : -EIO);
	}
	close_disk();
}

static void
test_short(void **state)
{
	static const int parts[] = {512, 4096, 1024, 512, 8192, 512};
	struct iovec iov[8];

	(void)state;
	open_disk();
	for (uint8_t type = BDEV_READ; type <= BDEV_WRITE; type++) {
		uint8_t *bytes = type == BDEV_WRITE ? data : data + FILE_SIZE;

		for (unsigned int i = 0; i < 8; i++)
			iov[i] = (struct iovec){.iov_base = bytes + 8192 * i, .iov_len = 8192};
		assert_int_equal(transfer(BDEV_WRITE, 0, data, 65536), 0);
		memset(data + FILE_SIZE, 0, 65536);
		rig_request_set(request, type, 0, NULL, 65536);
		request->rq.iov = iov;
		request->rq.iovcnt = 8;
		set_results(type, 6, 0);
		memcpy(fault.results, parts, sizeof(parts));
		assert_int_equal(rig_do(channel, rig_io[0], request), 0);
		assert_int_equal(fault.count, 0);
		if (type == BDEV_READ)
			assert_memory_equal(data + FILE_SIZE, data, 65536);
		check_file(data, 65536);
	}
	set_results(BDEV_WRITE, 1, 100); /* direct I/O cannot go on from there */
	assert_int_equal(transfer(BDEV_WRITE, 0, data, 65536), -EIO);
	close_disk();
}

/* Ways to zero that the file system does not know, in the one word or the other. */
static void
test_zeroes_by_writing(void **state)
{
	static const int errors[] = {-EOPNOTSUPP, -EINVAL};
	static uint8_t zeroes[65536];

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		open_disk();
		assert_int_equal(transfer(BDEV_WRITE, 0, data, 65536 + 512), 0);
		set_results(BDEV_WRITE_ZEROES, 2, errors[i]);
		assert_int_equal(transfer(BDEV_WRITE_ZEROES, BDEV_UNMAP | BDEV_FUA, NULL, 65536),
				 0);
		assert_int_equal(fault.count, 0);
		check_file(zeroes, 65536);
		set_results(BDEV_WRITE_ZEROES, 1, -EIO);
		assert_int_equal(transfer(BDEV_WRITE_ZEROES, 0, NULL, 65536), -EIO);
		close_disk();
	}
}

/* ---- submitting ---- */

static void
test_submit_fails(void **state)
{
	enum { COUNT = 1500 };
	static struct rig_request *requests[COUNT];

	(void)state;
	open_disk();
	fault.submits_failing = 30;
	for (unsigned int i = 0; i < COUNT; i++) {
		requests[i] = rig_request_new(disk);
		rig_request_set(requests[i], BDEV_WRITE, 512 * i, data + 512 * i, 512);
		rig_submit(channel, rig_io[0], requests[i]);
		fault.submits_failing += i % 100 == 0;
	}
	thread_set_current(rig_io[0]);
	fault.submits_failing += 1;
	bdev_flush_submissions(channel);
	thread_set_current(NULL);
	for (unsigned int i = 0; i < COUNT; i++) {
		rig_wait(&requests[i]->finished);
		assert_int_equal(requests[i]->status, 0);
		assert_int_equal(requests[i]->finishes, 1);
		free(requests[i]);
	}
	assert_int_equal(fault.submits_failing, 0);
	check_file(data, 512 * COUNT);
	close_disk();
}

/* A daemon that stops leaves no write in the page cache. */
static void
test_close_syncs(void **state)
{
	struct bdev_uring_opts opts = {
		.name = "disk", .filename = path, .method = "bdev_aio_create", .read_only = true};

	(void)state;
	open_disk();
	assert_int_equal(transfer(BDEV_WRITE, 0, data, 4096), 0);
	syncs = 0;
	close_disk();
	assert_int_equal(syncs, 1);
	assert_int_equal(rig_create_uring(&opts, &disk), 0);
	assert_int_equal(rig_delete("disk", "uring"), 0);
	assert_int_equal(syncs, 1);
}

/* A ring that takes no files is served with descriptors. */
static void
test_no_registered_files(void **state)
{
	(void)state;
	atomic_store(&no_registered_files, true);
	open_disk();
	assert_int_equal(transfer(BDEV_WRITE, 0, data, 65536), 0);
	assert_int_equal(transfer(BDEV_FLUSH, 0, NULL, 0), 0);
	check_file(data, 65536);
	close_disk();
	atomic_store(&no_registered_files, false);
}

static void
test_old_kernel(void **state)
{
	static const int ops[] = {IORING_OP_READ, IORING_OP_WRITEV, IORING_OP_FALLOCATE};

	(void)state;
	for (unsigned int i = 0; i < 3; i++) {
		atomic_store(&fault.missing_op, ops[i]);
		assert_int_equal(create_disk(), -ENOSYS);
		assert_non_null(strstr(rig_err.text, "io_uring"));
	}
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_flush_error_stays),
		test(test_fua_error_stays),
		test(test_flush_error_passes),
		test(test_flush_error_beside_another),
		test(test_flush_error_of_two),
		test(test_again),
		test(test_short),
		test(test_zeroes_by_writing),
		test(test_submit_fails),
		test(test_close_syncs),
		test(test_no_registered_files),
		test(test_old_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
