/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "coroutine.h"
#include "notify.h"
#include "params.h"
#include "rpc.h"

#define PCI_FOLDER       "/sys/bus/pci/devices"
#define PCI_CONFIG_BYTES 4096 /* PCI Express: the extended configuration space */
/* Base class and sub-class in a class code of three bytes: mass storage, non-volatile memory. */
#define PCI_CLASS_NVME 0x0108

static int
get_state(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)err;
	*result = app_state_json();
	return *result != NULL ? 0 : -ENOMEM;
}

/* ---- PCI devices; on the work pool ---- */

/* The class is in bytes 9 to 11 of the configuration space, the least significant one first. */
static const char *
pci_type(const uint8_t *config, size_t length)
{
	if (length < 12)
		return "other";
	return (config[11] << 8 | config[10]) == PCI_CLASS_NVME ? "nvme" : "other";
}

static size_t
read_config_space(const char *address, uint8_t config[PCI_CONFIG_BYTES])
{
	char path[PATH_MAX];
	size_t length = 0;
	ssize_t got = 0;
	int fd;

	snprintf(path, sizeof(path), PCI_FOLDER "/%s/config", address);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	while (length < PCI_CONFIG_BYTES &&
	       (got = read(fd, config + length, PCI_CONFIG_BYTES - length)) > 0)
		length += (size_t)got;
	close(fd);
	return length;
}

/* The name of the kernel's driver, or NULL. */
static const char *
pci_driver(const char *address, char target[PATH_MAX])
{
	char path[PATH_MAX];
	ssize_t length;
	char *slash;

	snprintf(path, sizeof(path), PCI_FOLDER "/%s/driver", address);
	length = readlink(path, target, PATH_MAX - 1);
	if (length < 0)
		return NULL;
	target[length] = '\0';
	slash = strrchr(target, '/');
	return slash != NULL ? slash + 1 : target;
}

static json_t *
pci_device_json(const char *address)
{
	uint8_t config[PCI_CONFIG_BYTES];
	char hex[2 * PCI_CONFIG_BYTES + 1] = "";
	char driver[PATH_MAX];
	size_t length = read_config_space(address, config);

	for (size_t i = 0; i < length; i++)
		sprintf(hex + 2 * i, "%02x", config[i]);
	return json_pack("{s:s, s:s, s:s?, s:s}", "address", address, "type",
			 pci_type(config, length), "driver", pci_driver(address, driver),
			 "config_space", hex);
}

static int
is_address(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* A machine without PCI has no such folder, and no devices. */
static int
list_pci_devices(void *arg)
{
	struct dirent **entries;
	json_t *array = arg;
	int count, rc = 0;

	count = scandir(PCI_FOLDER, &entries, is_address, alphasort);
	if (count < 0)
		return errno == ENOENT ? 0 : -errno;
	for (int i = 0; i < count; i++) {
		rc |= json_array_append_new(array, pci_device_json(entries[i]->d_name));
		free(entries[i]);
	}
	free(entries);
	return rc == 0 ? 0 : -ENOMEM;
}

static int
get_pci_devices(const void *params, json_t **result, struct errmsg *err)
{
	json_t *array = json_array();
	int rc;

	(void)params;
	rc = array != NULL ? coroutine_blocking(list_pci_devices, array) : -ENOMEM;
	if (rc == 0) {
		*result = array;
		return 0;
	}
	json_decref(array);
	return err_set(err, rc, PCI_FOLDER ": %s", strerror(-rc));
}

/* ---- notifications ---- */

static int
get_types(const void *params, json_t **result, struct errmsg *err)
{
	int rc = 0;

	(void)params;
	(void)err;
	*result = json_array();
	for (int type = 0; type < NOTIFY_TYPES; type++)
		rc |= json_array_append_new(*result,
					    json_string(notify_type_name((enum notify_type)type)));
	return rc == 0 ? 0 : -ENOMEM;
}

static int
get_notifications(const void *arg, json_t **result, struct errmsg *err)
{
	const struct rpc_notify_get_notifications *params = arg;
	uint64_t id = (uint64_t)params->id;
	int64_t left = params->max < NOTIFY_EVENTS ? params->max : NOTIFY_EVENTS;
	struct notification event;
	int rc = 0;

	(void)err;
	*result = json_array();
	for (; left > 0 && notify_next(id, &event); left--) {
		rc |= json_array_append_new(
			*result, json_pack("{s:s, s:s, s:I}", "type", notify_type_name(event.type),
					   "ctx", event.ctx, "id", (json_int_t)event.id));
		id = event.id + 1;
	}
	return rc == 0 ? 0 : -ENOMEM;
}

const struct rpc_method rpc_system_methods[RPC_SYSTEM_METHODS + 1] = {
	{&rpc_system_schemas[RPC_FRAMEWORK_GET_STATE], get_state},
	{&rpc_system_schemas[RPC_FRAMEWORK_GET_PCI_DEVICES], get_pci_devices},
	{&rpc_system_schemas[RPC_NOTIFY_GET_TYPES], get_types},
	{&rpc_system_schemas[RPC_NOTIFY_GET_NOTIFICATIONS], get_notifications},
};
