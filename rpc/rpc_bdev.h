/* SPDX-License-Identifier: BSD-3-Clause */
/* rpc_bdev: what the files of the block devices' methods share. Private to rpc/. */
#ifndef VHOSTD_RPC_BDEV_H
#define VHOSTD_RPC_BDEV_H

#include "bdev.h"
#include "jsonrpc.h"

/* Sets err and returns -ENODEV. */
int rpc_no_such_bdev(const char *name, struct errmsg *err);

/* Answers the name. */
int rpc_answer_bdev(const struct bdev *bdev, json_t **result);
/*
 * creates: NULL-terminated; what may have made such a block device. One that the state names and
 * that could not be made is given up. [waits]
 */
int rpc_delete_bdev(const char *name, const char *module, const char *const *creates,
		    struct errmsg *err);

/* ---- rpc_bdev_stat.c: handlers ---- */

int rpc_bdev_get_iostat(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_reset_iostat(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_enable_histogram(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_get_histogram(const void *arg, json_t **result, struct errmsg *err);

/* ---- rpc_bdev_rate.c ---- */

/* assigned_rate_limits: a new object. */
json_t *rpc_bdev_describe_rates(const struct bdev *bdev);
int rpc_bdev_set_qos_limit(const void *arg, json_t **result, struct errmsg *err);

/* ---- rpc_bdev_filter.c: handlers ---- */

int rpc_bdev_error_create(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_error_inject_error(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_error_delete(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_delay_create(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_delay_update_latency(const void *arg, json_t **result, struct errmsg *err);
int rpc_bdev_delay_delete(const void *arg, json_t **result, struct errmsg *err);

#endif
