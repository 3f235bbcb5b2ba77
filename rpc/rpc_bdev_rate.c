/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "app.h"
#include "params.h"
#include "rpc.h"
#include "rpc_bdev.h"

#define MIB_SHIFT 20

/* Clients' names and units. */
static const struct {
	const char *name;
	size_t offset;
	unsigned int shift;
} limits[BDEV_RATES] = {
	[BDEV_RATE_IOS] = {"rw_ios_per_sec",
			   offsetof(struct rpc_bdev_set_qos_limit, rw_ios_per_sec), 0},
	[BDEV_RATE_BYTES] = {"rw_mbytes_per_sec",
			     offsetof(struct rpc_bdev_set_qos_limit, rw_mbytes_per_sec), MIB_SHIFT},
	[BDEV_RATE_READ_BYTES] = {"r_mbytes_per_sec",
				  offsetof(struct rpc_bdev_set_qos_limit, r_mbytes_per_sec),
				  MIB_SHIFT},
	[BDEV_RATE_WRITE_BYTES] = {"w_mbytes_per_sec",
				   offsetof(struct rpc_bdev_set_qos_limit, w_mbytes_per_sec),
				   MIB_SHIFT},
};

json_t *
rpc_bdev_describe_rates(const struct bdev *bdev)
{
	json_t *object = json_object();
	uint64_t rates[BDEV_RATES];

	bdev_get_rates(bdev, rates);
	for (int i = 0; i < BDEV_RATES; i++)
		json_object_set_new(object, limits[i].name,
				    json_integer((json_int_t)(rates[i] >> limits[i].shift)));
	return object;
}

/* [waits] */
int
rpc_bdev_set_qos_limit(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_bdev_set_qos_limit *params = arg;
	struct bdev *bdev = bdev_by_name(params->name);
	uint64_t rates[BDEV_RATES] = {0};
	bool given = false, limited = false;
	int rc;

	(void)result;
	if (bdev != NULL)
		bdev_get_rates(bdev, rates);
	for (int i = 0; i < BDEV_RATES; i++) {
		int64_t rate = *(const int64_t *)((const char *)params + limits[i].offset);

		given |= rate >= 0;
		if (rate >= 0)
			rates[i] = (uint64_t)rate << limits[i].shift;
		limited |= rates[i] != 0;
	}
	if (!given)
		return err_set(err, -EINVAL, "bdev %s: no limit is given", params->name);
	/* What the state names, and could not be done. */
	if ((bdev != NULL || !limited) && app_give_up("bdev_set_qos_limit", params->name) &&
	    bdev == NULL)
		return 0;
	if (bdev == NULL)
		return rpc_no_such_bdev(params->name, err);
	rc = bdev_set_rates(bdev, rates);
	return rc == -ENODEV ? rpc_no_such_bdev(params->name, err) : rc;
}
