/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_uring: what the control path and the data path of the module share. Private to lib/bdev. */
#ifndef VHOSTD_BDEV_URING_H
#define VHOSTD_BDEV_URING_H

#include <stdatomic.h>

#include "bdev.h"
#include "bdev_uring_file.h"

struct uring_disk {
	/* Set once. */
	struct uring_file file;
	struct bdev_ops ops;
	struct bdev *bdev;
	char *method;
	/* Any thread: what the file system turned out not to know. */
	_Atomic bool no_punch_hole;
	_Atomic bool no_zero_range;
	/* Any thread: why the page cache lost data, which no later flush may hide; 0: it did not. */
	_Atomic int lost;
};

/* The data path's part of bdev_ops; limits that depend on the file are not set. */
extern const struct bdev_ops uring_io_ops;

/* Whether the kernel gives us a ring that can do what we need. 0 or a negative errno. Any thread. */
int uring_io_probe(void);

#endif
