/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_uring_file: finds out what a file can do. Private to lib/bdev. The calls may block: work
 * pool.
 */
#ifndef VHOSTD_BDEV_URING_FILE_H
#define VHOSTD_BDEV_URING_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "errmsg.h"

/*
 * The kernel takes the ring of a killed process down some time after the process is gone, and keeps
 * the file locked and open until then: which is right, since its writes may still be under way, but
 * must not fail the daemon that takes its place. So what is in use is tried for a second.
 */
#define URING_FILE_TRIES  100
#define URING_FILE_TRY_US 10000

struct uring_file {
	int fd;     /* -1: not open */
	char *path; /* absolute */
	bool read_only;
	bool block_device;
	bool direct;    /* O_DIRECT */
	bool in_memory; /* the file system has no device: I/O is copying */
	bool can_discard;
	uint32_t alignment; /* of buffers and lengths; 1: any */
	uint32_t block_size;
	uint32_t physical_block_size;
	uint32_t discard_granularity; /* 0: unknown */
	uint64_t size;                /* bytes */
};

/*
 * Opens file->path (read-only if file->read_only), locks it and fills in the rest. A block_size of
 * 0 becomes the device's own. 0 or a negative errno as bdev_uring_create(); nothing is left open
 * then.
 */
int uring_file_open(struct uring_file *file, struct errmsg *err);
/*
 * Makes what was written durable, so that a daemon that stops leaves nothing behind (may block),
 * and unlocks at once, even if the kernel's last reference to the file goes later.
 */
void uring_file_close(struct uring_file *file);
/* The present size, if it is a possible one. 0 or a negative errno. */
int uring_file_get_size(const struct uring_file *file, uint64_t *size, struct errmsg *err);

/* ---- bdev_uring_lock.c ---- */

/*
 * 0, or -EAGAIN when somebody else has the file open in a way that excludes this one, for a second
 * at least.
 */
int uring_file_lock(const struct uring_file *file, struct errmsg *err);
void uring_file_unlock(const struct uring_file *file);

#endif
