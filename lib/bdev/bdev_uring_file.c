/* SPDX-License-Identifier: BSD-3-Clause */
/* Opens and examines the files behind uring bdevs. On the work pool. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "bdev_uring_file.h"
#include "log.h"

#define FILE_BLOCK_SIZE 512
#define MAX_ALIGNMENT   4096 /* of direct I/O, where nobody says it */

/* ---- opening ---- */

static int
open_error(const struct uring_file *file, int rc, struct errmsg *err)
{
	static const struct {
		int rc;
		const char *text;
	} texts[] = {
		{-ENOENT, "does not exist; create it first, e.g. with truncate -s 10G"},
		{-EACCES, "may not be opened by this user; change its owner or mode"},
		{-EPERM, "may not be opened by this user; change its owner or mode"},
		{-EROFS, "cannot be written (a read-only device or file system); use it read-only"},
		{-EISDIR, "is a folder; name a file or a block device"},
		{-EBUSY, "is in use by the system (mounted, swap, RAID or LVM?)"},
		{-ETXTBSY, "is in use as a program or swap"},
		{-ENXIO, "has no device behind it"},
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (texts[i].rc == rc)
			return err_set(err, rc, "%s %s", file->path, texts[i].text);
	}
	return err_set(err, rc, "%s cannot be opened: %s", file->path, strerror(-rc));
}

static const char *
kind_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFIFO:
		return "a FIFO";
	case S_IFSOCK:
		return "a socket";
	case S_IFCHR:
		return "a character device";
	default:
		return "of an unknown kind";
	}
}

static int
check_kind(struct uring_file *file, const struct stat *status, struct errmsg *err)
{
	file->block_device = S_ISBLK(status->st_mode);
	if (file->block_device || S_ISREG(status->st_mode))
		return 0;
	if (S_ISDIR(status->st_mode))
		return open_error(file, -EISDIR, err);
	return err_set(err, -EINVAL, "%s is %s; name a file or a block device", file->path,
		       kind_name(status->st_mode));
}

/*
 * Opening other kinds of files may block or have side effects, so the kind is looked at first.
 * O_NONBLOCK is for the case that it changes in between; it goes away, since io_uring would fail
 * requests with EAGAIN instead of waiting. O_EXCL keeps block devices that are mounted from being
 * written.
 */
static int
open_fd(struct uring_file *file, struct errmsg *err)
{
	int flags = (file->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	struct stat status;
	int rc, read_only;

	if (stat(file->path, &status) != 0)
		return open_error(file, -errno, err);
	rc = check_kind(file, &status, err);
	if (rc != 0)
		return rc;
	if (file->block_device && !file->read_only)
		flags |= O_EXCL;
	file->fd = open(file->path, flags);
	for (int i = 1; file->fd < 0 && errno == EBUSY && i < URING_FILE_TRIES; i++) {
		usleep(URING_FILE_TRY_US);
		file->fd = open(file->path, flags);
	}
	if (file->fd < 0 || fstat(file->fd, &status) != 0)
		return open_error(file, -errno, err);
	rc = check_kind(file, &status, err);
	if (rc != 0)
		return rc;
	/* Not each driver minds it when opened. */
	if (file->block_device && !file->read_only && ioctl(file->fd, BLKROGET, &read_only) == 0 &&
	    read_only)
		return open_error(file, -EROFS, err);
	return fcntl(file->fd, F_SETFL, 0) == 0 ? 0 : open_error(file, -errno, err);
}

/* ---- size ---- */

int
uring_file_get_size(const struct uring_file *file, uint64_t *size, struct errmsg *err)
{
	struct stat status;
	int rc =
		file->block_device ? ioctl(file->fd, BLKGETSIZE64, size) : fstat(file->fd, &status);

	if (rc != 0) {
		rc = -errno;
		return err_set(err, rc, "%s: its size cannot be read: %s", file->path,
			       strerror(-rc));
	}
	if (!file->block_device)
		*size = (uint64_t)status.st_size;
	if (*size == 0)
		return err_set(err, -EINVAL,
			       "%s is empty; give it a size first, e.g. with truncate -s 10G",
			       file->path);
	if (*size % file->block_size != 0)
		return err_set(err, -EINVAL,
			       "%s: its size of %lu bytes is not a multiple of the block size %u",
			       file->path, *size, file->block_size);
	return 0;
}

/* A wrong one is refused with the other properties of the bdev. */
static int
choose_block_size(struct uring_file *file, struct errmsg *err)
{
	unsigned int physical = 0;
	int logical = 0;
	struct stat status;

	if (file->block_device && (ioctl(file->fd, BLKSSZGET, &logical) != 0 ||
				   ioctl(file->fd, BLKPBSZGET, &physical) != 0))
		return open_error(file, -errno, err);
	if (!file->block_device && fstat(file->fd, &status) == 0)
		physical = (unsigned int)status.st_blksize;
	if (file->block_size == 0)
		file->block_size = file->block_device ? (uint32_t)logical : FILE_BLOCK_SIZE;
	if (file->block_size < (uint32_t)logical)
		return err_set(err, -EINVAL,
			       "%s: the block size must be at least the device's, %d bytes, not %u",
			       file->path, logical, file->block_size);
	file->physical_block_size = file->block_size;
	if (physical > file->block_size && physical <= 65536 && (physical & (physical - 1)) == 0)
		file->physical_block_size = physical;
	return 0;
}

/* ---- direct I/O ---- */

/* What the file system (Linux 6.1 and later) or the device says; 0: nothing. */
static uint32_t
known_alignment(const struct uring_file *file)
{
	struct statx status;
	int logical;

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
	    (status.stx_mask & STATX_DIOALIGN) && status.stx_dio_offset_align != 0)
		return status.stx_dio_mem_align > status.stx_dio_offset_align
			       ? status.stx_dio_mem_align
			       : status.stx_dio_offset_align;
	if (file->block_device && ioctl(file->fd, BLKSSZGET, &logical) == 0)
		return (uint32_t)logical;
	return 0;
}

/*
 * Whether reads into memory that is aligned so, and not better, work. A medium error says nothing
 * against it.
 */
static bool
try_alignment(const struct uring_file *file, uint32_t alignment)
{
	uint8_t *memory = aligned_alloc(2UL * alignment, 2UL * alignment);
	bool works;

	if (memory == NULL)
		return false;
	works = pread(file->fd, memory + alignment, alignment, 0) >= 0 || errno != EINVAL;
	free(memory);
	return works;
}

/* 0: direct I/O does not work, or not with this block size. */
static uint32_t
find_alignment(const struct uring_file *file)
{
	uint32_t known = known_alignment(file), first = known != 0 ? known : 1,
		 last = known != 0 ? known : MAX_ALIGNMENT;

	for (uint32_t alignment = first; alignment <= last && alignment <= file->block_size;
	     alignment *= 2) {
		if (try_alignment(file, alignment))
			return alignment;
	}
	return 0;
}

/*
 * Without direct I/O the page cache does it. A file system that takes any alignment (tmpfs since
 * Linux 6.6) only pretends.
 */
static void
set_direct(struct uring_file *file)
{
	uint32_t alignment = fcntl(file->fd, F_SETFL, O_DIRECT) == 0 ? find_alignment(file) : 0;

	file->direct = alignment > 1;
	file->alignment = file->direct ? alignment : 1;
	if (!file->direct)
		fcntl(file->fd, F_SETFL, 0);
}

static void
set_in_memory(struct uring_file *file)
{
	struct statfs status;

	file->in_memory = !file->block_device && fstatfs(file->fd, &status) == 0 &&
			  (status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC);
}

/* ---- discard ---- */

/* A number of the device's queue; partitions have that of their disk. 0: unknown. */
static uint64_t
queue_limit(const struct uring_file *file, const char *limit)
{
	static const char *const formats[] = {
		"/sys/dev/block/%u:%u/queue/%s",
		"/sys/dev/block/%u:%u/../queue/%s",
	};
	unsigned long value = 0;
	struct stat status;
	char path[128];

	if (fstat(file->fd, &status) != 0)
		return 0;
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		FILE *stream;
		int fields;

		snprintf(path, sizeof(path), formats[i], major(status.st_rdev),
			 minor(status.st_rdev), limit);
		stream = fopen(path, "re");
		if (stream == NULL)
			continue;
		fields = fscanf(stream, "%lu", &value);
		fclose(stream);
		return fields == 1 ? value : 0;
	}
	return 0;
}

static void
find_discard(struct uring_file *file)
{
	struct stat status;

	if (file->read_only)
		return;
	if (file->block_device) {
		file->can_discard = queue_limit(file, "discard_max_bytes") != 0;
		file->discard_granularity = (uint32_t)queue_limit(file, "discard_granularity");
		return;
	}
	/* A hole behind the end of the file changes nothing. */
	file->can_discard = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      (off_t)file->size, file->block_size) == 0;
	if (file->can_discard && fstat(file->fd, &status) == 0)
		file->discard_granularity = (uint32_t)status.st_blksize;
}

/* ---- all of it ---- */

int
uring_file_open(struct uring_file *file, struct errmsg *err)
{
	int rc;

	file->fd = -1;
	rc = open_fd(file, err);
	if (rc == 0)
		rc = choose_block_size(file, err);
	if (rc == 0)
		rc = uring_file_get_size(file, &file->size, err);
	if (rc == 0)
		rc = uring_file_lock(file, err);
	if (rc != 0) {
		uring_file_close(file);
		return rc;
	}
	set_direct(file);
	set_in_memory(file);
	find_discard(file);
	return 0;
}

void
uring_file_close(struct uring_file *file)
{
	if (file->fd < 0)
		return;
	if (!file->read_only && fdatasync(file->fd) != 0)
		log_err("%s: what was written last may be lost: %s", file->path, strerror(errno));
	uring_file_unlock(file);
	close(file->fd);
	file->fd = -1;
}
