/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mapping: a part of a file of another process in our memory: guest memory, an in-flight region,
 * the doorbells of a device in that process. Part of the room env.
 *
 * The other process can truncate its file at any time; who touches what is cut off then would get a
 * SIGBUS. Behind the mappings made here there are zeroed pages of ours instead, and a flag that
 * says so. A device to which the pages were mapped before (dma.h) keeps the ones that were cut off:
 * what it writes then is seen by nobody, which is all that such a peer may expect.
 */
#ifndef VHOSTD_MAPPING_H
#define VHOSTD_MAPPING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Whether pages of the file are there without the help of another process or of a network: 0 for
 * memfd, tmpfs, hugetlbfs, ramfs and local file systems, else -EMEDIUMTYPE (FUSE, NFS, …; overlayfs
 * too, which may have any of these below it), -EINVAL (not a regular file), or what fstatfs() said.
 * With others a page fault, for instance of a reactor, may take as long as that process likes, and
 * nothing interrupts it. Any OS thread; asks a server of such a file system, and so may take its
 * time.
 */
int mapping_check_file_system(int fd);
/* What to tell people of -EMEDIUMTYPE. */
#define MAPPING_NOT_LOCAL                                                                          \
	"it is on a file system whose pages another process or a network may hold back (FUSE, "    \
	"NFS, overlay, ...); use a memfd, tmpfs, hugetlbfs or a local file system"

struct mapping {
	uint8_t *data; /* the first byte that was asked for */
	void *base;    /* of the mapping, which is aligned to the file's pages; NULL: none */
	size_t length;
};

/*
 * Maps size bytes (not 0) of the file from offset on, for reading and writing. fd stays the
 * caller's. *lost becomes true when what was touched behind the file's end is memory of ours; it
 * must outlive the mapping. Any OS thread. 0, -EINVAL (not a regular file), -ERANGE (larger than
 * its file), -ENOSPC (too many are mapped by all), or what mmap() said.
 */
int mapping_create(struct mapping *mapping, int fd, uint64_t offset, uint64_t size,
		   atomic_bool *lost);
/* Any OS thread; nobody may use it any more. Ignored if there is none. */
void mapping_destroy(struct mapping *mapping);

/*
 * Makes SIGBUS in a mapping harmless; a second call does no harm. Before the first mapping. Any OS
 * thread. 0 or a negative errno.
 */
int mapping_guard_install(void);

#endif
