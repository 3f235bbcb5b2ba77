/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_modules: how block devices come to be. All calls: app thread, in a coroutine [waits];
 * strings are copied.
 */
#ifndef VHOSTD_BDEV_MODULES_H
#define VHOSTD_BDEV_MODULES_H

#include <stdbool.h>
#include <stdint.h>

#include "bdev.h"

/* Data goes nowhere: writes succeed, reads leave the buffer as it is. */
struct bdev_null_opts {
	const char *name;
	const char *uuid; /* NULL: random */
	uint64_t num_blocks;
	uint32_t block_size; /* 512 … 65536, a power of two */
};
int bdev_null_create(const struct bdev_null_opts *opts, struct bdev **bdev, struct errmsg *err);
/*
 * Does not wait. Running guests see the new size. -ENODEV: no null bdev of that name; -EINVAL:
 * smaller than it is, which would take blocks from under guests, or too large.
 */
int bdev_null_resize(const char *name, uint64_t size_mib, struct errmsg *err);

/* Memory of the daemon, zeroed, gone when it ends. */
struct bdev_malloc_opts {
	const char *name; /* NULL: the first free "Malloc<n>" */
	const char *uuid;
	uint64_t num_blocks;
	uint32_t block_size;
};
int bdev_malloc_create(const struct bdev_malloc_opts *opts, struct bdev **bdev, struct errmsg *err);

/*
 * A regular file or block device through io_uring. Direct I/O where the file system allows it.
 * Writable ones are locked (OFD lock) against a second daemon and QEMU; read-only ones share with
 * other readers. Errors, each naming the file: -ENOENT, -EACCES, -EISDIR, -EINVAL (FIFO or other
 * kind, empty, size not a multiple of the block size), -EAGAIN (locked), -EBUSY (a block device
 * that the system uses, e.g. mounted), -EROFS, … The two that may pass when the kernel is done with
 * a killed daemon are answered after a second.
 */
struct bdev_uring_opts {
	const char *name;
	const char *filename; /* made absolute in the configuration */
	const char *uuid;
	/* "bdev_uring_create" or "bdev_aio_create": what the saved configuration calls */
	const char *method;
	uint32_t block_size; /* 0: the device's logical block size, 512 for files */
	bool read_only;
	/*
	 * A kernel thread takes the requests out of the rings, so that nobody makes a system call
	 * while there is work: one thread per bdev, on a CPU without a reactor if there is one,
	 * which spins until sqpoll_idle_ms after the last request.
	 */
	bool sqpoll;
	uint32_t sqpoll_idle_ms; /* with sqpoll; 0: BDEV_URING_SQPOLL_IDLE_MS */
};
#define BDEV_URING_SQPOLL_IDLE_MS 10
int bdev_uring_create(const struct bdev_uring_opts *opts, struct bdev **bdev, struct errmsg *err);
/*
 * Looks at the file's size again and resizes the bdev; running guests see the new size. -ENODEV: no
 * uring bdev of that name; -EBUSY: the file is smaller, and the bdev open: its size stays, since
 * its users count on it.
 */
int bdev_uring_rescan(const char *name, struct errmsg *err);

#endif
