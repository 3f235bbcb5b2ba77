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

#define APPEAR_POLL_US 10000

static int
no_such_bdev(const char *name, struct errmsg *err)
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
		"{s:s, s:[s], s:s, s:I, s:I, s:s, s:b, s:b, s:{s:i, s:i, s:i, s:i}, s:o, s:o}",
		"name", info->name, "aliases", info->uuid, "product_name", info->product_name,
		"block_size", (json_int_t)info->block_size, "num_blocks",
		(json_int_t)info->num_blocks, "uuid", info->uuid, "claimed", bdev_is_open(bdev),
		"zoned", false, "assigned_rate_limits", "rw_ios_per_sec", 0, "rw_mbytes_per_sec", 0,
		"r_mbytes_per_sec", 0, "w_mbytes_per_sec", 0, "supported_io_types",
		describe_io_types(info), "driver_specific",
		specific != NULL ? specific : json_object());
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
			return no_such_bdev(params->name, err);
		*result = json_pack("[o]", describe_bdev(bdev));
		return *result != NULL ? 0 : -ENOMEM;
	}
	*result = json_array();
	for (bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev))
		rc |= json_array_append_new(*result, describe_bdev(bdev));
	return rc == 0 ? 0 : -ENOMEM;
}

/* ---- bdev_get_iostat ---- */

#define COUNTER(key, member, type)                                                                 \
	{                                                                                          \
		key, offsetof(struct bdev_io_stat, member[type])                                   \
	}
#define LATENCIES(key, type)                                                                       \
	COUNTER(key "_latency_ticks", latency_ticks, type),                                        \
		COUNTER("max_" key "_latency_ticks", max_latency_ticks, type),                     \
		COUNTER("min_" key "_latency_ticks", min_latency_ticks, type)

static const struct {
	const char *name;
	size_t offset;
} counters[] = {
	COUNTER("bytes_read", bytes, BDEV_READ),
	COUNTER("num_read_ops", ops, BDEV_READ),
	COUNTER("bytes_written", bytes, BDEV_WRITE),
	COUNTER("num_write_ops", ops, BDEV_WRITE),
	COUNTER("bytes_unmapped", bytes, BDEV_DISCARD),
	COUNTER("num_unmap_ops", ops, BDEV_DISCARD),
	COUNTER("bytes_zeroed", bytes, BDEV_WRITE_ZEROES),
	COUNTER("num_write_zeroes_ops", ops, BDEV_WRITE_ZEROES),
	COUNTER("num_flush_ops", ops, BDEV_FLUSH),
	LATENCIES("read", BDEV_READ),
	LATENCIES("write", BDEV_WRITE),
	LATENCIES("unmap", BDEV_DISCARD),
	LATENCIES("flush", BDEV_FLUSH),
	COUNTER("num_read_errors", errors, BDEV_READ),
	COUNTER("num_write_errors", errors, BDEV_WRITE),
	COUNTER("num_unmap_errors", errors, BDEV_DISCARD),
	COUNTER("num_write_zeroes_errors", errors, BDEV_WRITE_ZEROES),
	COUNTER("num_flush_errors", errors, BDEV_FLUSH),
};

static int
add_counters(json_t *entry, const struct bdev_io_stat *stat)
{
	int rc = 0;

	for (size_t i = 0; i < RPC_COUNT(counters); i++) {
		uint64_t value;

		memcpy(&value, (const char *)stat + counters[i].offset, sizeof(value));
		rc |= json_object_set_new(entry, counters[i].name, json_integer((json_int_t)value));
	}
	return rc == 0 ? 0 : -ENOMEM;
}

/* [waits] */
static int
add_channels(json_t *entry, struct bdev *bdev)
{
	json_t *channels = json_array();
	struct bdev_channel_stat *stats;
	uint32_t count;
	int rc = bdev_get_channel_stats(bdev, &stats, &count);

	if (rc != 0) {
		json_decref(channels);
		return rc;
	}
	for (uint32_t i = 0; i < count; i++) {
		json_t *channel = json_pack("{s:I}", "thread_id", (json_int_t)stats[i].thread_id);

		rc |= add_counters(channel, &stats[i].stat);
		rc |= json_array_append_new(channels, channel);
	}
	free(stats);
	rc |= json_object_set_new(entry, "channels", channels);
	return rc == 0 ? 0 : -ENOMEM;
}

/* [waits]. The bdev may go away meanwhile: -ENODEV. */
static int
add_iostat(json_t *entry, const char *name, const struct rpc_bdev_get_iostat *params)
{
	bool reset = params->reset_mode != NULL && strcmp(params->reset_mode, "all") == 0;
	struct bdev *bdev = bdev_by_name(name);
	struct bdev_io_stat stat;
	int rc = 0;

	if (bdev == NULL)
		return -ENODEV;
	if (json_object_set_new(entry, "name", json_string(bdev_get_info(bdev)->name)) != 0)
		return -ENOMEM;
	if (params->per_channel) {
		rc = add_channels(entry, bdev);
		bdev = bdev_by_name(name);
	}
	if (rc == 0 && (!params->per_channel || reset))
		rc = bdev != NULL ? bdev_get_stat(bdev, reset, &stat) : -ENODEV;
	if (rc == 0 && !params->per_channel)
		rc = add_counters(entry, &stat);
	return rc;
}

/* The names that are asked for, for the list of bdevs may change while the call waits. */
static json_t *
wanted_names(const struct rpc_bdev_get_iostat *params)
{
	json_t *names = json_array();

	for (uint32_t i = 0; i < params->names.count; i++)
		json_array_append_new(names, json_string(params->names.items[i]));
	if (params->name != NULL)
		json_array_append_new(names, json_string(params->name));
	if (params->name != NULL || params->names.count > 0)
		return names;
	for (struct bdev *bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev))
		json_array_append_new(names, json_string(bdev_get_info(bdev)->name));
	return names;
}

static bool
is_reset_mode(const char *mode)
{
	return mode == NULL || strcmp(mode, "all") == 0 || strcmp(mode, "none") == 0;
}

/* [waits]. Without names, a block device that goes away meanwhile is left out. */
static int
list_iostat(json_t *bdevs, const struct rpc_bdev_get_iostat *params, struct errmsg *err)
{
	bool asked = params->name != NULL || params->names.count > 0;
	json_t *names = wanted_names(params);
	json_t *name;
	size_t i;
	int rc = 0;

	json_array_foreach (names, i, name) {
		json_t *entry = json_object();

		rc = add_iostat(entry, json_string_value(name), params);
		if (rc == 0 && json_array_append(bdevs, entry) != 0)
			rc = -ENOMEM;
		json_decref(entry);
		if (rc == -ENODEV && asked)
			rc = no_such_bdev(json_string_value(name), err);
		else if (rc == -ENODEV)
			rc = 0;
		if (rc != 0)
			break;
	}
	json_decref(names);
	return rc;
}

/* Clients expect the channels of one block device beside tick_rate, and the list "bdevs" otherwise. */
static int
get_iostat(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_get_iostat *params = arg;
	const char *name = params->name != NULL ? params->name : params->names.items[0];
	json_t *bdevs = json_array();
	int rc;

	*result = json_pack("{s:I, s:I, s:o}", "tick_rate", (json_int_t)env_ticks_hz(), "ticks",
			    (json_int_t)env_ticks(), "bdevs", bdevs);
	if (*result == NULL)
		return -ENOMEM;
	if (!is_reset_mode(params->reset_mode))
		return err_set(
			err, JSONRPC_INVALID_PARAMS,
			"bdev_get_iostat: parameter 'reset_mode' must be \"none\" or \"all\"");
	if (!params->per_channel)
		return list_iostat(bdevs, params, err);
	if ((params->name != NULL) + params->names.count != 1)
		return err_set(err, -EINVAL,
			       "bdev_get_iostat: per_channel goes with the name of one block "
			       "device");
	json_object_del(*result, "bdevs");
	rc = add_iostat(*result, name, params);
	return rc == -ENODEV ? no_such_bdev(name, err) : rc;
}

/* ---- create, rescan, delete ---- */

static int
answer_name(const struct bdev *bdev, json_t **result)
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
	};
	struct bdev *bdev;
	int rc = bdev_malloc_create(&opts, &bdev, err);

	return rc == 0 ? answer_name(bdev, result) : rc;
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

	return rc == 0 ? answer_name(bdev, result) : rc;
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
	};
	struct bdev *bdev;
	int rc = bdev_uring_create(&opts, &bdev, err);

	return rc == 0 ? answer_name(bdev, result) : rc;
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

/* creates: NULL-terminated; what may have made such a block device. One that the state names and that could not be made is given up. */
static int
delete_bdev(const char *name, const char *module, const char *const *creates, struct errmsg *err)
{
	int rc = bdev_delete(name, module, err);
	bool given_up = false;

	for (; rc == -ENODEV && *creates != NULL; creates++)
		given_up |= app_give_up(*creates, name);
	return given_up ? 0 : rc;
}

static int
malloc_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_malloc_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return delete_bdev(params->name, "malloc", creates, err);
}

static int
null_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_null_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return delete_bdev(params->name, "null", creates, err);
}

static int
uring_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_aio_create", "bdev_uring_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return delete_bdev(params->name, "uring", creates, err);
}

const struct rpc_method rpc_bdev_methods[RPC_BDEV_METHODS + 1] = {
	{&rpc_bdev_schemas[RPC_BDEV_GET_BDEVS], get_bdevs},
	{&rpc_bdev_schemas[RPC_BDEV_GET_IOSTAT], get_iostat},
	{&rpc_bdev_schemas[RPC_BDEV_MALLOC_CREATE], malloc_create},
	{&rpc_bdev_schemas[RPC_BDEV_MALLOC_DELETE], malloc_delete},
	{&rpc_bdev_schemas[RPC_BDEV_NULL_CREATE], null_create},
	{&rpc_bdev_schemas[RPC_BDEV_NULL_DELETE], null_delete},
	{&rpc_bdev_schemas[RPC_BDEV_AIO_CREATE], aio_create},
	{&rpc_bdev_schemas[RPC_BDEV_AIO_RESCAN], uring_rescan},
	{&rpc_bdev_schemas[RPC_BDEV_AIO_DELETE], uring_delete},
	{&rpc_bdev_schemas[RPC_BDEV_URING_CREATE], uring_create},
	{&rpc_bdev_schemas[RPC_BDEV_URING_RESCAN], uring_rescan},
	{&rpc_bdev_schemas[RPC_BDEV_URING_DELETE], uring_delete},
};
