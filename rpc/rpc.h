/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rpc: the methods of the daemon. Each room has a table of schemas (pure data) and one of methods
 * (their handlers).
 */
#ifndef VHOSTD_RPC_H
#define VHOSTD_RPC_H

#include <stdbool.h>

#include "jsonrpc.h"

/*
 * Every method, for jsonrpc_register(): a NULL-terminated list of tables, each ended by a NULL
 * schema.
 */
extern const struct rpc_method *const rpc_all_methods[];
/* What they are called and take: a NULL-terminated list of tables, each ended by a NULL name. */
extern const struct rpc_schema *const rpc_all_schemas[];

/*
 * Whether a target of the state that could not be made has that block device: for
 * scsi_kept_start(). App thread.
 */
bool rpc_vhost_scsi_wants(const char *name, const char *uuid);

#endif
