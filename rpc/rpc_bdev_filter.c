/* SPDX-License-Identifier: BSD-3-Clause */
/* Block devices on top of others: error and delay. */
#include "bdev_modules.h"
#include "params.h"
#include "rpc.h"
#include "rpc_bdev.h"

int
rpc_bdev_error_create(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_error_create *params = arg;
	const struct bdev_error_opts opts = {
		.name = params->name,
		.uuid = params->uuid,
		.base = params->base_name,
	};
	struct bdev *bdev;
	int rc = bdev_error_create(&opts, &bdev, err);

	return rc == 0 ? rpc_answer_bdev(bdev, result) : rc;
}

int
rpc_bdev_error_inject_error(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_error_inject_error *params = arg;
	const struct bdev_error_injection injection = {
		.io_type = params->io_type,
		.error_type = params->error_type,
		.count = (uint32_t)params->num,
		.queue_depth = (uint32_t)params->queue_depth,
		.corrupt_offset = (uint64_t)params->corrupt_offset,
		.corrupt_value = (uint8_t)params->corrupt_value,
	};

	(void)result;
	return bdev_error_inject(params->name, &injection, err);
}

int
rpc_bdev_error_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_error_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return rpc_delete_bdev(params->name, "error", creates, err);
}

int
rpc_bdev_delay_create(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_delay_create *params = arg;
	const struct bdev_delay_opts opts = {
		.name = params->name,
		.uuid = params->uuid,
		.base = params->base_bdev_name,
		.latency_us =
			{
				[BDEV_DELAY_AVG_READ] = (uint64_t)params->avg_read_latency,
				[BDEV_DELAY_P99_READ] = (uint64_t)params->p99_read_latency,
				[BDEV_DELAY_AVG_WRITE] = (uint64_t)params->avg_write_latency,
				[BDEV_DELAY_P99_WRITE] = (uint64_t)params->p99_write_latency,
			},
	};
	struct bdev *bdev;
	int rc = bdev_delay_create(&opts, &bdev, err);

	return rc == 0 ? rpc_answer_bdev(bdev, result) : rc;
}

int
rpc_bdev_delay_update_latency(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_delay_update_latency *params = arg;

	(void)result;
	return bdev_delay_update(params->delay_bdev_name, params->latency_type,
				 (uint64_t)params->latency_us, err);
}

int
rpc_bdev_delay_delete(const void *arg, json_t **result, struct errmsg *err)
{
	static const char *const creates[] = {"bdev_delay_create", NULL};
	const struct rpc_name *params = arg;

	(void)result;
	return rpc_delete_bdev(params->name, "delay", creates, err);
}
