/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks against a second daemon and QEMU. QEMU (block/file-posix.c) takes shared OFD locks on
 * single bytes: 100 + n for each permission n that it uses, 200 + n for each one that it does not
 * share with others, and then looks whether somebody holds the opposite. A writer here locks the
 * whole file exclusively, which conflicts with all of these; a reader speaks QEMU's language.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "bdev_uring_file.h"
#include "log.h"

#define QEMU_USED       100
#define QEMU_NOT_SHARED 200

/* QEMU's BLK_PERM_*, as bit numbers. */
enum qemu_permission {
	QEMU_CONSISTENT_READ = 0,
	QEMU_WRITE = 1,
	QEMU_RESIZE = 3,
};

/* A reader uses CONSISTENT_READ and shares neither WRITE nor RESIZE. */
static const off_t reader_locks[] = {
	QEMU_USED + QEMU_CONSISTENT_READ,
	QEMU_NOT_SHARED + QEMU_WRITE,
	QEMU_NOT_SHARED + QEMU_RESIZE,
};
static const off_t reader_conflicts[] = {
	QEMU_NOT_SHARED + QEMU_CONSISTENT_READ,
	QEMU_USED + QEMU_WRITE,
	QEMU_USED + QEMU_RESIZE,
};

static int
set_lock(int fd, short type, off_t start, off_t length)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

static int
check_unlocked(int fd, off_t start)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
		return -errno;
	return lock.l_type == F_UNLCK ? 0 : -EAGAIN;
}

static int
lock_for_reading(int fd)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(reader_locks) / sizeof(reader_locks[0]); i++)
		rc = set_lock(fd, F_RDLCK, reader_locks[i], 1);
	for (size_t i = 0; rc == 0 && i < sizeof(reader_conflicts) / sizeof(reader_conflicts[0]);
	     i++)
		rc = check_unlocked(fd, reader_conflicts[i]);
	return rc;
}

static int
try_lock(const struct uring_file *file)
{
	return file->read_only ? lock_for_reading(file->fd) : set_lock(file->fd, F_WRLCK, 0, 0);
}

int
uring_file_lock(const struct uring_file *file, struct errmsg *err)
{
	int rc = try_lock(file);

	for (int i = 1; rc == -EAGAIN && i < URING_FILE_TRIES; i++) {
		usleep(URING_FILE_TRY_US);
		rc = try_lock(file);
	}
	if (rc == -EAGAIN)
		return err_set(
			err, rc,
			"%s is locked: another vhostd or a QEMU has it open%s; end that one first",
			file->path, file->read_only ? " for writing" : "");
	if (rc != 0)
		log_warn("%s: its file system has no locks (%s); nothing keeps others from writing "
			 "to it",
			 file->path, strerror(-rc));
	return 0;
}

void
uring_file_unlock(const struct uring_file *file)
{
	set_lock(file->fd, F_UNLCK, 0, 0);
}
