/* SPDX-License-Identifier: BSD-3-Clause */
/* rpc_bdev: what the files of the block devices' methods share. Private to rpc/. */
#ifndef VHOSTD_RPC_BDEV_H
#define VHOSTD_RPC_BDEV_H

#include "jsonrpc.h"

/* Sets err and returns -ENODEV. */
int rpc_no_such_bdev(const char *name, struct errmsg *err);

/* ---- rpc_bdev_stat.c: handlers ---- */

int rpc_bdev_get_iostat(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_reset_iostat(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_enable_histogram(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_get_histogram(const void *arg, json_t **result, struct errmsg *err);

#endif
