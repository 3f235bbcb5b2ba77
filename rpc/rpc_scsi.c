/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev.h"
#include "params.h"
#include "rpc.h"
#include "rpc_bdev.h"
#include "scsi.h"

static int
set_disk_state(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_scsi_set_disk_state *params = arg;
	const struct bdev *bdev = bdev_by_name(params->name);
	struct bdev_info disk;
	struct scsi_kept_opts opts = {
		.uuid = disk.uuid,
		.name = disk.name,
		.boot = params->boot_id,
		.modes = params->modes,
		.reservations = params->reservations,
	};
	int rc;

	(void)result;
	if (params->uuid == NULL && bdev == NULL)
		return rpc_no_such_bdev(params->name, err);
	rc = bdev_info_init(&disk, params->name,
			    params->uuid != NULL ? params->uuid : bdev_get_info(bdev)->uuid, err);
	return rc == 0 ? scsi_kept_restore(&opts, err) : rc;
}

const struct rpc_method rpc_scsi_methods[RPC_SCSI_METHODS + 1] = {
	{&rpc_scsi_schemas[RPC_SCSI_SET_DISK_STATE], set_disk_state},
};
