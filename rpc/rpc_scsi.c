/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"
#include "scsi.h"

static int
set_reservations(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_scsi_set_reservations *params = arg;

	(void)result;
	return scsi_reservations_restore(params->name, params->reservations, err);
}

const struct rpc_method rpc_scsi_methods[RPC_SCSI_METHODS + 1] = {
	{&rpc_scsi_schemas[RPC_SCSI_SET_RESERVATIONS], set_reservations},
};
