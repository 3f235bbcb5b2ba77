/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_info: checks what is to become a bdev's description. Private to lib/bdev; pure. */
#ifndef VHOSTD_BDEV_INFO_H
#define VHOSTD_BDEV_INFO_H

#include "bdev.h"

#define BDEV_WRITE_TYPES (1u << BDEV_WRITE | 1u << BDEV_DISCARD | 1u << BDEV_WRITE_ZEROES)

/*
 * Copies given to info, checks it, and fills in what follows from the rest: size, a missing uuid or
 * physical block size, no write types when read-only. 0 or -EINVAL.
 */
int bdev_info_complete(struct bdev_info *info, const struct bdev_info *given, struct errmsg *err);
/* Whether num_blocks of that size can be addressed; sets *size to the bytes. */
bool bdev_size_is_valid(uint64_t num_blocks, uint32_t block_size, uint64_t *size);

#endif
