/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_uring: what the control path and the data path of the module share. Private to lib/bdev. */
#ifndef VHOSTD_BDEV_URING_H
#define VHOSTD_BDEV_URING_H

#include <liburing.h>
#include <stdatomic.h>

#include "bdev.h"
#include "bdev_uring_file.h"

struct uring_disk {
	/* Set once. */
	struct uring_file file;
	struct bdev_ops ops;
	struct bdev *bdev;
	char *method;
	bool sqpoll;
	uint32_t sqpoll_idle_ms;
	struct io_uring
		sqpoll_ring; /* the channels' rings share its kernel thread; ring_fd -1: none */
	bool tracks_syncs;   /* see sync_done() */
	/* Any thread: what the file system turned out not to know. */
	_Atomic bool no_punch_hole;
	_Atomic bool no_zero_range;
	/*
	 * Any thread: why the page cache lost data, which no later flush may hide; 0: it did not.
	 */
	_Atomic int lost;
	/*
	 * Any thread, with tracks_syncs: syncs in rings, and those that were good but wait for
	 * others.
	 */
	_Atomic uint32_t syncs;
	_Atomic uint32_t syncs_held;
};

/* The data path's part of bdev_ops; limits that depend on the file are not set. */
extern const struct bdev_ops uring_io_ops;

/* ---- bdev_uring_ring.c ---- */

/*
 * Whether the kernel gives us a ring that can do what we need. 0 or a negative errno. Any thread.
 */
int uring_ring_probe(void);
/*
 * Work pool: starts the kernel thread that polls the disk's rings, and ends it (does nothing when
 * there is none). 0 or a negative errno.
 */
int uring_ring_start_sqpoll(struct uring_disk *disk);
void uring_ring_stop_sqpoll(struct uring_disk *disk);

struct uring_ring {
	struct io_uring ring;
	/* What entries name the disk's file by. */
	int fd;
	uint8_t fd_flags; /* IOSQE_* */
};
/*
 * Any thread: a ring for a channel of the disk, with so many places for entries and completions. 0
 * or a negative errno.
 */
int uring_ring_create(struct uring_ring *ring, const struct uring_disk *disk, uint32_t entries,
		      uint32_t completions);
void uring_ring_destroy(struct uring_ring *ring);
/*
 * After something was submitted. The kernel's workers belong to the OS thread that submits; they
 * are not to run where reactors spin. Costs nothing but for the first time on each OS thread.
 */
void uring_ring_place_workers(struct uring_ring *ring);

#endif
