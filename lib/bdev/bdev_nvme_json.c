/* SPDX-License-Identifier: BSD-3-Clause */
/* What clients are told of NVMe controllers, and what makes them again. App thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bdev_nvme.h"

#define KELVIN 273

static const char *const action_names[] = {
	[NVME_TIMEOUT_NONE] = "none",
	[NVME_TIMEOUT_ABORT] = "abort",
	[NVME_TIMEOUT_RESET] = "reset",
};

int
bdev_nvme_parse_action(const char *text, enum nvme_timeout_action *action)
{
	for (size_t i = 0; i < sizeof(action_names) / sizeof(action_names[0]); i++) {
		if (strcmp(text, action_names[i]) != 0)
			continue;
		*action = (enum nvme_timeout_action)i;
		return 0;
	}
	return -EINVAL;
}

/* ---- block devices ---- */

static json_t *
trid_json(const struct nvme_controller *controller)
{
	return json_pack("{s:s, s:s}", "trtype", controller->trtype, "traddr", controller->traddr);
}

static json_t *
version_json(uint32_t version)
{
	char text[32];

	snprintf(text, sizeof(text), version & 0xff ? "%u.%u.%u" : "%u.%u", version >> 16,
		 version >> 8 & 0xff, version & 0xff);
	return json_pack("{s:s}", "nvme_version", text);
}

static json_t *
ctrlr_data_json(const struct nvme_ctrlr_info *info)
{
	char vendor[16];

	snprintf(vendor, sizeof(vendor), "0x%04x", info->vendor_id);
	return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s}", "cntlid", (int)info->cntlid, "vendor_id",
			 vendor, "model_number", info->model, "serial_number", info->serial,
			 "firmware_revision", info->firmware, "subnqn", info->subnqn);
}

json_t *
bdev_nvme_describe(void *ctx)
{
	const struct nvme_disk *disk = ctx;
	const struct nvme_controller *controller = disk->controller;
	const struct nvme_ctrlr_info *info = nvme_get_info(disk->ctrlr);
	json_t *device =
		json_pack("{s:s, s:o, s:o, s:o, s:{s:I}}", "controller", controller->name, "trid",
			  trid_json(controller), "ctrlr_data", ctrlr_data_json(info), "vs",
			  version_json(info->version), "ns_data", "id", (json_int_t)disk->nsid);

	if (strcmp(controller->trtype, "PCIe") == 0)
		json_object_set_new(device, "pci_address", json_string(controller->traddr));
	return json_pack("{s:[o]}", "nvme", device);
}

/* Without those that are being removed. */
static json_t *
disks_json(const struct nvme_controller *controller)
{
	json_t *array = json_array();
	struct nvme_disk *disk;

	TAILQ_FOREACH (disk, &controller->disks, link) {
		const char *name = bdev_get_info(disk->bdev)->name;

		if (bdev_by_name(name) == disk->bdev)
			json_array_append_new(array, json_string(name));
	}
	return array;
}

json_t *
bdev_nvme_names_json(const char *name)
{
	const struct nvme_controller *controller = bdev_nvme_find(name);

	return controller != NULL ? disks_json(controller) : NULL;
}

/* ---- controllers ---- */

static const char *
state_name(const struct nvme_controller *controller)
{
	/* As clients know them; one that is gone is about to be "reconnect_is_delayed". */
	static const char *const names[] = {
		[NVME_LIVE] = "enabled",
		[NVME_RESETTING] = "resetting",
		[NVME_DISABLED] = "disabled",
		[NVME_FAILED] = "failed",
		[NVME_GONE] = "reconnect_is_delayed",
	};

	if (controller->ending)
		return "deleting";
	if (controller->ctrlr == NULL)
		return "reconnect_is_delayed";
	return names[nvme_get_info(controller->ctrlr)->state];
}

static json_t *
path_json(const struct nvme_controller *controller)
{
	const struct nvme_ctrlr_info *info =
		controller->ctrlr != NULL ? nvme_get_info(controller->ctrlr) : NULL;

	return json_pack("{s:s, s:o, s:i, s:{s:s, s:s, s:s}}", "state", state_name(controller),
			 "trid", trid_json(controller), "cntlid",
			 info != NULL ? (int)info->cntlid : 0, "host", "nqn", controller->hostnqn,
			 "addr", "", "svcid", "");
}

static void
add_info(json_t *object, const struct nvme_ctrlr_info *info)
{
	json_t *more = json_pack(
		"{s:s, s:s, s:s, s:s, s:I, s:b, s:I, s:I, s:b, s:b, s:I, s:I, s:I}", "model_number",
		info->model, "serial_number", info->serial, "firmware_revision", info->firmware,
		"subnqn", info->subnqn, "max_transfer", (json_int_t)info->max_transfer,
		"write_cache", info->write_cache, "io_queues", (json_int_t)info->io_queues,
		"io_queues_used", (json_int_t)info->io_queues_used, "sgl", info->sgl,
		"shadow_doorbells", info->shadow_doorbells, "resets", (json_int_t)info->resets,
		"timeouts", (json_int_t)info->timeouts, "aborts", (json_int_t)info->aborts);

	json_object_update(object, more);
	json_decref(more);
}

static json_t *
controller_json(struct nvme_controller *controller)
{
	json_t *object = json_pack("{s:s, s:[o], s:b, s:b}", "name", controller->name, "ctrlrs",
				   path_json(controller), "interrupts", controller->interrupts,
				   "configured", controller->configured);

	json_object_set_new(object, "bdevs", disks_json(controller));
	if (controller->ctrlr != NULL)
		add_info(object, nvme_get_info(controller->ctrlr));
	else
		json_object_set_new(object, "error", json_string(controller->error.text));
	return object;
}

json_t *
bdev_nvme_controllers_json(const char *name)
{
	struct nvme_controller *controller;
	json_t *array = json_array();

	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (name == NULL || strcmp(controller->name, name) == 0)
			json_array_append_new(array, controller_json(controller));
	}
	if (name == NULL || json_array_size(array) > 0)
		return array;
	json_decref(array);
	return NULL;
}

/* ---- health ---- */

const char *
bdev_nvme_warning_text(uint8_t warning, char *text, size_t size)
{
	static const char *const names[8] = {
		"spare capacity is low",
		"temperature",
		"reliability is degraded",
		"the media are read-only",
		"the backup of volatile memory failed",
		"the persistent memory region is unreliable",
	};
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < 8; i++) {
		int length;

		if (!(warning >> i & 1))
			continue;
		length = snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "",
				  names[i] != NULL ? names[i] : "unknown");
		if (length < 0 || (size_t)length >= size - used)
			break;
		used += (size_t)length;
	}
	return text;
}

/* 128 bits, of which JSON's integers have 63. */
static json_t *
counter(const uint8_t bytes[16])
{
	uint64_t low, high;

	memcpy(&low, bytes, 8);
	memcpy(&high, bytes + 8, 8);
	return json_integer(high != 0 || low > INT64_MAX ? INT64_MAX : (json_int_t)low);
}

/* Field names as those clients know that read them of SPDK's target. */
static json_t *
health_json(const struct nvme_controller *controller, const struct nvme_smart_log *health)
{
	const struct nvme_ctrlr_info *info = nvme_get_info(controller->ctrlr);
	int kelvin = health->temperature[0] | health->temperature[1] << 8;
	char warning[192];

	return json_pack(
		"{s:s, s:s, s:s, s:s, s:i, s:s, s:i, s:i, s:i, s:i, "
		"s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I}",
		"model_number", info->model, "serial_number", info->serial, "firmware_revision",
		info->firmware, "traddr", controller->traddr, "critical_warning",
		(int)health->critical_warning, "critical_warnings",
		bdev_nvme_warning_text(health->critical_warning, warning, sizeof(warning)),
		"temperature_celsius", kelvin - KELVIN, "available_spare_percentage",
		(int)health->avail_spare, "available_spare_threshold_percentage",
		(int)health->spare_thresh, "percentage_used", (int)health->percent_used,
		"data_units_read", counter(health->data_units_read), "data_units_written",
		counter(health->data_units_written), "host_read_commands",
		counter(health->host_reads), "host_write_commands", counter(health->host_writes),
		"controller_busy_time", counter(health->ctrl_busy_time), "power_cycles",
		counter(health->power_cycles), "power_on_hours", counter(health->power_on_hours),
		"unsafe_shutdowns", counter(health->unsafe_shutdowns), "media_errors",
		counter(health->media_errors), "num_err_log_entries",
		counter(health->num_err_log_entries), "warning_temperature_time_minutes",
		(json_int_t)health->warning_temp_time,
		"critical_composite_temperature_time_minutes",
		(json_int_t)health->critical_comp_time);
}

json_t *
bdev_nvme_health_json(const char *name, int *rc, struct errmsg *err)
{
	struct nvme_controller *controller = bdev_nvme_hold(name, rc, err);
	struct nvme_smart_log health;
	json_t *object = NULL;

	if (controller == NULL)
		return NULL;
	*rc = nvme_get_health(controller->ctrlr, &health);
	if (*rc == 0)
		object = health_json(controller, &health);
	else
		err_set(err, *rc, "NVMe controller %s: its SMART data cannot be read: %s", name,
			strerror(-*rc));
	bdev_nvme_release(controller);
	if (*rc == 0 && object == NULL)
		*rc = -ENOMEM;
	return object;
}

/* ---- configuration ---- */

static json_t *
settings_config(void)
{
	struct bdev_nvme_settings settings;

	bdev_nvme_get_settings(&settings);
	if (settings.tuning.action == NVME_TIMEOUT_ABORT &&
	    settings.tuning.io_timeout_us == NVME_IO_TIMEOUT_US &&
	    settings.tuning.admin_timeout_us == NVME_ADMIN_TIMEOUT_US &&
	    settings.tuning.retries == NVME_RETRIES && settings.queue_size == NVME_QUEUE_SIZE)
		return NULL;
	return json_pack("{s:s, s:{s:s, s:I, s:I, s:I, s:I}}", "method", "bdev_nvme_set_options",
			 "params", "action_on_timeout", action_names[settings.tuning.action],
			 "timeout_us", (json_int_t)settings.tuning.io_timeout_us,
			 "timeout_admin_us", (json_int_t)settings.tuning.admin_timeout_us,
			 "transport_retry_count", (json_int_t)settings.tuning.retries,
			 "io_queue_requests", (json_int_t)settings.queue_size);
}

static json_t *
controller_config(const struct nvme_controller *controller)
{
	json_t *params = json_pack("{s:s, s:s, s:s}", "name", controller->name, "trtype",
				   controller->trtype, "traddr", controller->traddr);

	if (controller->subnqn[0] != '\0')
		json_object_set_new(params, "subnqn", json_string(controller->subnqn));
	if (controller->hostnqn[0] != '\0')
		json_object_set_new(params, "hostnqn", json_string(controller->hostnqn));
	if (controller->io_queues != 0)
		json_object_set_new(params, "num_io_queues", json_integer(controller->io_queues));
	return json_pack("{s:s, s:o}", "method", "bdev_nvme_attach_controller", "params", params);
}

/* Options come before what they are for. */
json_t *
bdev_nvme_config_json(void)
{
	struct nvme_controller *controller;
	json_t *array = json_array();

	json_array_append_new(array, settings_config());
	TAILQ_FOREACH (controller, &bdev_nvme_controllers, link) {
		if (controller->configured && !controller->ending)
			json_array_append_new(array, controller_config(controller));
	}
	json_array_append_new(array, bdev_nvme_hotplug_config());
	return array;
}
