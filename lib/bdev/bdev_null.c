/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk that forgets: what all the rest costs, without a device. */
#include <errno.h>
#include <stdlib.h>

#include "bdev_config.h"
#include "bdev_modules.h"

#define MODULE "null"
#define MIB    (1u << 20)

struct null_disk {
	struct bdev *bdev;
};

static void
null_submit(void *channel_ctx, struct bdev_request *rq)
{
	(void)channel_ctx;
	if (rq->type == BDEV_RESET)
		bdev_drain(rq);
	else
		bdev_complete(rq, 0);
}

static json_t *
null_config(void *bdev_ctx)
{
	const struct null_disk *disk = bdev_ctx;

	return bdev_config_of_size(disk->bdev, "bdev_null_create");
}

static const struct bdev_ops null_ops = {
	.module = MODULE,
	.submit = null_submit,
	.destroy = free,
	.config = null_config,
	.buffer_alignment = 1,
};

int
bdev_null_create(const struct bdev_null_opts *opts, struct bdev **bdev, struct errmsg *err)
{
	struct null_disk *disk;
	struct bdev_info info;
	int rc;

	rc = bdev_info_init(&info, opts->name, opts->uuid, err);
	if (rc != 0)
		return rc;
	info.product_name = "Null disk";
	info.block_size = opts->block_size;
	info.num_blocks = opts->num_blocks;
	info.io_types = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_DISCARD |
			1u << BDEV_WRITE_ZEROES | 1u << BDEV_RESET;
	disk = malloc(sizeof(*disk));
	if (disk == NULL)
		return err_set(err, -ENOMEM, "no memory for block device %s", info.name);
	rc = bdev_register(&info, &null_ops, disk, &disk->bdev, err);
	if (rc != 0) {
		free(disk);
		return rc;
	}
	*bdev = disk->bdev;
	return 0;
}

int
bdev_null_resize(const char *name, uint64_t size_mib, struct errmsg *err)
{
	struct bdev *bdev = bdev_by_name(name);
	const struct bdev_info *info;
	uint64_t num_blocks;

	if (bdev == NULL || bdev_module_ctx(bdev, MODULE) == NULL)
		return err_set(err, -ENODEV, "there is no " MODULE " block device %s", name);
	info = bdev_get_info(bdev);
	num_blocks = size_mib * (MIB / info->block_size);
	if (size_mib > UINT64_MAX / MIB || num_blocks < info->num_blocks)
		return err_set(err, -EINVAL,
			       "block device %s has %lu bytes: it can only grow, not become %lu "
			       "MiB",
			       name, info->size, size_mib);
	if (bdev_resize(bdev, num_blocks) != 0)
		return err_set(err, -EINVAL, "block device %s cannot have %lu MiB", name, size_mib);
	return 0;
}
