/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "bdev.h"
#include "bdev_modules.h"
#include "coroutine.h"
#include "env.h"
#include "params.h"
#include "rpc.h"
#include "rpc_bdev.h"
#include "scsi.h"

#define APPEAR_POLL_US 10000

int
rpc_no_such_bdev(const char *name, struct errmsg *err)
{
	return err_set(err, -ENODEV, "bdev: none is called '%.64s'", name);
}

/* ---- bdev_get_bdevs ---- */

static json_t *
describe_io_types(const struct bdev_info *info)
{
	static const struct {
		const char *name;
		int type; /* BDEV_IO_TYPES: one that we do not know */
	} names[] = {
		{"read", BDEV_READ},        {"write", BDEV_WRITE},
		{"unmap", BDEV_DISCARD},    {"write_zeroes", BDEV_WRITE_ZEROES},
		{"flush", BDEV_FLUSH},      {"reset", BDEV_RESET},
		{"compare", BDEV_IO_TYPES}, {"compare_and_write", BDEV_IO_TYPES},
		{"abort", BDEV_IO_TYPES},   {"nvme_admin", BDEV_IO_TYPES},
		{"nvme_io", BDEV_IO_TYPES},
	};
	json_t *types = json_object();

	for (size_t i = 0; i < RPC_COUNT(names); i++) {
		bool supported =
			names[i].type < BDEV_IO_TYPES && (info->io_types >> names[i].type & 1);

		json_object_set_new(types, names[i].name, json_boolean(supported));
	}
	return types;
}

static json_t *
describe_bdev(struct bdev *bdev)
{
	const struct bdev_info *info = bdev_get_info(bdev);
	json_t *specific = bdev_driver_specific(bdev);

	return json_pack(
		"{s:s, s:[s], s:s, s:I, s:I, s:s, s:b, s:b, s:o, s:o, s:o}", "name", info->name,
		"aliases", info->uuid, "product_name", info->product_name, "block_size",
		(json_int_t)info->block_size, "num_blocks", (json_int_t)info->num_blocks, "uuid",
		info->uuid, "claimed", bdev_is_open(bdev), "zoned", false, "assigned_rate_limits",
		rpc_bdev_describe_rates(bdev), "supported_io_types", describe_io_types(info),
		"driver_specific", specific != NULL ? specific : json_object());
}

/* [waits] until the block device is there, the time is over, or the daemon stops. */
static struct bdev *
wait_for_bdev(const char *name, int64_t timeout_ms)
{
	uint64_t deadline = env_ticks() + (uint64_t)timeout_ms * (env_ticks_hz() / 1000);
	struct bdev *bdev;

	while ((bdev = bdev_by_name(name)) == NULL && env_ticks() < deadline &&
	       jsonrpc_get_state() != 0) {
		if (coroutine_sleep(APPEAR_POLL_US) != 0)
			return NULL;
	}
	return bdev;
}

static int
get_bdevs(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_get_bdevs *params = arg;
	struct bdev *bdev;
	int rc = 0;

	if (params->name == NULL && params->timeout_ms > 0)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "bdev_get_bdevs: parameter 'timeout' goes with a name");
	if (params->name != NULL) {
		bdev = wait_for_bdev(params->name, params->timeout_ms);
		if (bdev == NULL)
			return rpc_no_such_bdev(params->name, err);
		*result = json_pack("[o]", describe_bdev(bdev));
		return *result != NULL ? 0 : -ENOMEM;
	}
	*result = json_array();
	for (bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev))
		rc |= json_array_append_new(*result, describe_bdev(bdev));
	return rc == 0 ? 0 : -ENOMEM;
}

/* ---- create, rescan, delete ---- */

int
rpc_answer_bdev(const struct bdev *bdev, json_t **result)
{
	*result = json_string(bdev_get_info(bdev)->name);
	return *result != NULL ? 0 : -ENOMEM;
}

static int
malloc_create(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_memory_create *params = arg;
	struct bdev_malloc_opts opts = {
		.name = params->name,
		.uuid = params->uuid,
		.num_blocks = params->num_blocks,
		.block_size = params->block_size,
		.physical_block_size = params->physical_block_size,
	};
	struct bdev *bdev;
	int rc = bdev_malloc_create(&opts, &bdev, err);

	return rc == 0 ? rpc_answer_bdev(bdev, result) : rc;
}

static int
null_create(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_memory_create *params = arg;
	struct bdev_null_opts opts = {
		.name = params->name,
		.uuid = params->uuid,
		.num_blocks = params->num_blocks,
		.block_size = params->block_size,
	};
	struct bdev *bdev;
	int rc = bdev_null_create(&opts, &bdev, err);

	return rc == 0 ? rpc_answer_bdev(bdev, result) : rc;
}

static int
file_create(const struct rpc_bdev_file_create *params, const char *method, json_t **result,
	    struct errmsg *err)
{
	struct bdev_uring_opts opts = {
		.name = params->name,
		.filename = params->filename,
		.uuid = params->uuid,
		.method = method,
		.block_size = params->block_size,
		.read_only = params->readonly,
		.sqpoll = params->sqpoll,
		.sqpoll_idle_ms = params->sqpoll_idle_ms,
	};
	struct bdev *bdev;
	int rc;

	if (params->sqpoll_idle_ms != 0 && !params->sqpoll)
		return err_set(err, JSONRPC_INVALID_PARAMS,
			       "%s: parameter 'sqpoll_idle_ms' goes with sqpoll", method);
	rc = bdev_uring_create(&opts, &bdev, err);
	return rc == 0 ? rpc_answer_bdev(bdev, result) : rc;
}

static int
aio_create(const void *params, json_t **result, struct errmsg *err)
{
	return file_create(params, "bdev_aio_create", result, err);
}

static int
uring_create(const void *params, json_t **result, struct errmsg *err)
{
	return file_create(params, "bdev_uring_create", result, err);
}

static int
uring_rescan(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	(void)result;
	return bdev_uring_rescan(params->name, err);
}

static int
null_resize(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_null_resize *params = arg;

	(void)result;
	return bdev_null_resize(params->name, (uint64_t)params->new_size, err);
}

int
rpc_delete_bdev(const char *name, const char *module, const char *const *creates,
		struct errmsg *err)
{
	const struct bdev *bdev = bdev_by_name(name);
	char uuid[BDEV_UUID_TEXT] = "";
	bool given_up = false;
	int rc;

	if (bdev != NULL)
		memcpy(uuid, bdev_get_info(bdev)->uuid, sizeof(uuid));
	rc = bdev_delete(name, module, err);
	for (; rc == -ENODEV && *creates != NULL; creates++)
		given_up |= app_give_up(*creates, name);
	if (rc == 0 || given_up) {
		app_give_up("bdev_enable_histogram", name);
		app_give_up("bdev_set_qos_limit", name);
		scsi_kept_forget(name);
		scsi_kept_forget(uuid);
	}
	return given_up ? 0 : rc;
}

static int
malloc_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_malloc_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return rpc_delete_bdev(params->name, "malloc", creates, err);
}

static int
null_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_null_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return rpc_delete_bdev(params->name, "null", creates, err);
}

static int
uring_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_aio_create", "bdev_uring_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return rpc_delete_bdev(params->name, "uring", creates, err);
}

/* ---- what other targets have and clients call ---- */

/* There is nothing to set: see the help of its parameters. */
static int
set_options(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)result;
	(void)err;
	return 0;
}

static int
wait_for_examine(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)result;
	(void)err;
	return 0;
}

static int
examine(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_name *params = arg;

	(void)result;
	return bdev_by_name(params->name) != NULL ? 0 : rpc_no_such_bdev(params->name, err);
}

const struct rpc_method rpc_bdev_methods[RPC_BDEV_METHODS + 1] = {
	{&rpc_bdev_schemas[RPC_BDEV_GET_BDEVS], get_bdevs},
	{&rpc_bdev_schemas[RPC_BDEV_GET_IOSTAT], rpc_bdev_get_iostat},
	{&rpc_bdev_schemas[RPC_BDEV_RESET_IOSTAT], rpc_bdev_reset_iostat},
	{&rpc_bdev_schemas[RPC_BDEV_ENABLE_HISTOGRAM], rpc_bdev_enable_histogram},
	{&rpc_bdev_schemas[RPC_BDEV_GET_HISTOGRAM], rpc_bdev_get_histogram},
	{&rpc_bdev_schemas[RPC_BDEV_SET_QOS_LIMIT], rpc_bdev_set_qos_limit},
	{&rpc_bdev_schemas[RPC_BDEV_SET_OPTIONS], set_options},
	{&rpc_bdev_schemas[RPC_BDEV_WAIT_FOR_EXAMINE], wait_for_examine},
	{&rpc_bdev_schemas[RPC_BDEV_EXAMINE], examine},
	{&rpc_bdev_schemas[RPC_BDEV_MALLOC_CREATE], malloc_create},
	{&rpc_bdev_schemas[RPC_BDEV_MALLOC_DELETE], malloc_delete},
	{&rpc_bdev_schemas[RPC_BDEV_NULL_CREATE], null_create},
	{&rpc_bdev_schemas[RPC_BDEV_NULL_RESIZE], null_resize},
	{&rpc_bdev_schemas[RPC_BDEV_NULL_DELETE], null_delete},
	{&rpc_bdev_schemas[RPC_BDEV_AIO_CREATE], aio_create},
	{&rpc_bdev_schemas[RPC_BDEV_AIO_RESCAN], uring_rescan},
	{&rpc_bdev_schemas[RPC_BDEV_AIO_DELETE], uring_delete},
	{&rpc_bdev_schemas[RPC_BDEV_URING_CREATE], uring_create},
	{&rpc_bdev_schemas[RPC_BDEV_URING_RESCAN], uring_rescan},
	{&rpc_bdev_schemas[RPC_BDEV_URING_DELETE], uring_delete},
	{&rpc_bdev_schemas[RPC_BDEV_ERROR_CREATE], rpc_bdev_error_create},
	{&rpc_bdev_schemas[RPC_BDEV_ERROR_INJECT_ERROR], rpc_bdev_error_inject_error},
	{&rpc_bdev_schemas[RPC_BDEV_ERROR_DELETE], rpc_bdev_error_delete},
	{&rpc_bdev_schemas[RPC_BDEV_DELAY_CREATE], rpc_bdev_delay_create},
	{&rpc_bdev_schemas[RPC_BDEV_DELAY_UPDATE_LATENCY], rpc_bdev_delay_update_latency},
	{&rpc_bdev_schemas[RPC_BDEV_DELAY_DELETE], rpc_bdev_delay_delete},
};
