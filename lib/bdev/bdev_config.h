/* SPDX-License-Identifier: BSD-3-Clause */
/* bdev_config: how what has a name and a size is saved. Private to lib/bdev. */
#ifndef VHOSTD_BDEV_CONFIG_H
#define VHOSTD_BDEV_CONFIG_H

#include "bdev.h"

/* {method, params} that makes it again: a new object, or NULL. App thread. */
static inline json_t *
bdev_config_of_size(const struct bdev *bdev, const char *method)
{
	const struct bdev_info *info = bdev_get_info(bdev);

	return json_pack("{s:s, s:{s:s, s:I, s:I, s:s}}", "method", method, "params", "name",
			 info->name, "num_blocks", (json_int_t)info->num_blocks, "block_size",
			 (json_int_t)info->block_size, "uuid", info->uuid);
}

#endif
