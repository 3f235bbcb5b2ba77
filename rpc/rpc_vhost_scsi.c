/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-scsi controllers and their targets. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "app.h"
#include "params.h"
#include "rpc.h"
#include "rpc_vhost.h"
#include "scsi.h"
#include "vhost.h"

#define ADD_TARGET "vhost_scsi_controller_add_target"
#define START      "vhost_start_scsi_controller"

/* Of a target that could not be made: what initiators have made of its disks goes with it. */
static void
release_disks(json_t *params)
{
	json_t *bdevs = json_object_get(params, "bdev_name");
	json_t *bdev;
	size_t i;

	if (json_is_string(bdevs))
		scsi_kept_release(json_string_value(bdevs));
	json_array_foreach (bdevs, i, bdev) {
		if (json_is_string(bdev))
			scsi_kept_release(json_string_value(bdev));
	}
}

static bool
names_disk(json_t *bdev, const char *name, const char *uuid)
{
	const char *text = json_string_value(bdev);

	return text != NULL && (strcmp(text, name) == 0 || strcasecmp(text, uuid) == 0);
}

bool
rpc_vhost_scsi_wants(const char *name, const char *uuid)
{
	json_t *failed = app_failed_params(ADD_TARGET, NULL);
	bool wanted = failed == NULL; /* no memory: nothing is lost */
	json_t *params, *bdev;
	size_t i, j;

	json_array_foreach (failed, i, params) {
		json_t *bdevs = json_object_get(params, "bdev_name");

		wanted |= names_disk(bdevs, name, uuid);
		json_array_foreach (bdevs, j, bdev)
			wanted |= names_disk(bdev, name, uuid);
	}
	json_decref(failed);
	return wanted;
}

/* The number of a target of the state; -1 where it has none. */
static int64_t
target_number(json_t *params)
{
	json_t *number = json_object_get(params, "scsi_target_num");

	return json_is_integer(number) ? json_integer_value(number) : VHOST_SCSI_ANY_NUMBER;
}

/* Forgets what the state wanted targets of that number to be, and what could not be made. */
static bool
give_up_target(const char *ctrlr, int64_t number)
{
	json_t *wanted = json_pack("{s:s, s:I}", "ctrlr", ctrlr, "scsi_target_num", number);
	json_t *failed = app_failed_params(ADD_TARGET, ctrlr);
	bool found = wanted != NULL && app_give_up_where(ADD_TARGET, wanted);
	json_t *params;
	size_t i;

	json_array_foreach (failed, i, params) {
		if (found && target_number(params) == number)
			release_disks(params);
	}
	json_decref(failed);
	json_decref(wanted);
	return found;
}

void
rpc_vhost_scsi_give_up_targets(const char *ctrlr)
{
	json_t *failed = app_failed_params(ADD_TARGET, ctrlr);
	json_t *params;
	size_t i;

	app_give_up(ADD_TARGET, ctrlr);
	app_give_up(START, ctrlr);
	json_array_foreach (failed, i, params)
		release_disks(params);
	json_decref(failed);
}

static int
create_scsi_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_create_scsi_controller *params = arg;
	struct vhost_scsi_opts opts = {
		.name = params->ctrlr,
		.cpumask = cpumask_is_empty(&params->cpumask) ? NULL : &params->cpumask,
		.delay = params->delay,
		.sense_size = (uint32_t)params->sense_size,
		.cdb_size = (uint32_t)params->cdb_size,
	};
	int rc = vhost_scsi_create(&opts, err);

	(void)result;
	/* Who makes it anew wants none of the old one's targets. */
	if (rc == 0 && !app_is_replaying())
		rpc_vhost_scsi_give_up_targets(params->ctrlr);
	return rc;
}

/* Targets that the state names and that could not be made, up to now. */
static bool
lacks_targets(const char *ctrlr)
{
	json_t *failed = app_failed_params(ADD_TARGET, ctrlr);
	bool lacks = failed == NULL || json_array_size(failed) > 0;

	json_decref(failed);
	return lacks;
}

static int
start_scsi_controller(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_ctrlr *params = arg;
	int rc;

	(void)result;
	/* A guest that goes on would lose a disk that only is late: it waits for the socket. */
	if (app_is_replaying() && lacks_targets(params->ctrlr))
		return err_set(err, -ENODEV,
			       "vhost controller %s: not all of its targets are there; it listens "
			       "when they are, or the others are removed, or it is started by hand",
			       params->ctrlr);
	rc = vhost_scsi_start(params->ctrlr, err);
	if (rc == 0)
		app_give_up(START, params->ctrlr);
	return rc;
}

/* Guests know the missing ones by their numbers, which nobody else gets unless he asks for them. */
static int
reserve_numbers(const char *ctrlr, bool reserved[VHOST_SCSI_MAX_TARGET + 1])
{
	json_t *failed = app_failed_params(ADD_TARGET, ctrlr);
	json_t *params;
	size_t i;

	json_array_foreach (failed, i, params) {
		int64_t number = target_number(params);

		if (number >= 0 && number <= VHOST_SCSI_MAX_TARGET)
			reserved[number] = true;
	}
	json_decref(failed);
	return failed != NULL ? 0 : -ENOMEM;
}

static int
add_target(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_scsi_add_target *params = arg;
	bool reserved[VHOST_SCSI_MAX_TARGET + 1] = {false};
	int rc = reserve_numbers(params->ctrlr, reserved);

	if (rc == 0)
		rc = vhost_scsi_add_target(params->ctrlr, (int)params->scsi_target_num, reserved,
					   params->bdev_name.items, params->bdev_name.count, err);
	if (rc < 0)
		return rc;
	/* The controller may have waited for that one. */
	if (give_up_target(params->ctrlr, rc))
		app_retry_failed();
	*result = json_integer(rc);
	return *result != NULL ? 0 : -ENOMEM;
}

static int
remove_target(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_vhost_scsi_remove_target *params = arg;
	int rc = vhost_scsi_remove_target(params->ctrlr, (uint32_t)params->scsi_target_num, err);

	(void)result;
	if (rc != -ENODEV || !give_up_target(params->ctrlr, params->scsi_target_num))
		return rc;
	app_retry_failed();
	return 0;
}

const struct rpc_method rpc_vhost_scsi_methods[RPC_VHOST_SCSI_METHODS + 1] = {
	{&rpc_vhost_scsi_schemas[RPC_VHOST_CREATE_SCSI_CONTROLLER], create_scsi_controller},
	{&rpc_vhost_scsi_schemas[RPC_VHOST_START_SCSI_CONTROLLER], start_scsi_controller},
	{&rpc_vhost_scsi_schemas[RPC_VHOST_SCSI_ADD_TARGET], add_target},
	{&rpc_vhost_scsi_schemas[RPC_VHOST_SCSI_REMOVE_TARGET], remove_target},
};
