/* SPDX-License-Identifier: BSD-3-Clause */
/* nvme list, bind, unbind: this machine's NVMe devices, without the daemon. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pci.h"
#include "vhostctl.h"
#include "vhostctl_nvme.h"

#define VFIO_DRIVER    "vfio-pci"
#define PROBE_WAIT_MS  2000
#define PROBE_PAUSE_MS 10

/* ---- list ---- */

static bool
is_nvme(const char *root, const char *address)
{
	char text[32];

	return pci_read(root, address, "class", text, sizeof(text)) == 0 &&
	       strtoul(text, NULL, 16) == NVME_PCI_CLASS;
}

/* As the nvme driver has read it; else the numbers of the vendor and the device. */
static void
read_model(const char *root, const char *address, char *model, size_t size)
{
	char path[PATH_MAX], vendor[16] = "", device[16] = "";
	struct dirent *entry;
	DIR *folder;
	int rc = -ENOENT;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/nvme", root, address);
	folder = opendir(path);
	while (rc != 0 && folder != NULL && (entry = readdir(folder)) != NULL) {
		char file[sizeof("nvme//model") + sizeof(entry->d_name)];

		snprintf(file, sizeof(file), "nvme/%s/model", entry->d_name);
		if (entry->d_name[0] != '.')
			rc = pci_read(root, address, file, model, size);
	}
	if (folder != NULL)
		closedir(folder);
	if (rc == 0) {
		/* A device may say anything; JSON takes UTF-8 only. */
		for (char *c = model; *c != '\0'; c++)
			if (*c < ' ' || *c > '~')
				*c = '?';
		for (size_t end = strlen(model); end > 0 && model[end - 1] == ' '; end--)
			model[end - 1] = '\0';
		return;
	}
	pci_read(root, address, "vendor", vendor, sizeof(vendor));
	pci_read(root, address, "device", device, sizeof(device));
	snprintf(model, size, "%s:%s", vendor, device);
}

static json_t *
describe(const char *root, const char *address)
{
	char model[64] = "", driver[PCI_NAME_MAX] = "", group[PCI_NAME_MAX] = "";

	read_model(root, address, model, sizeof(model));
	pci_link(root, address, "driver", driver);
	pci_link(root, address, "iommu_group", group);
	return json_pack("{s:s, s:s, s:s, s:s, s:o}", "address", address, "model", model, "driver",
			 driver, "iommu_group", group, "uses", nvme_uses(root, address));
}

static enum vhostctl_status
list(const struct vhostctl_opts *opts, const char *root, const char *address, struct errmsg *err)
{
	static const struct rpc_schema schema = {.columns =
							 "address,model,driver,iommu_group,uses"};
	json_t *devices = json_array();
	struct dirent **entries;
	char path[PATH_MAX];
	int count;

	(void)address;
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices", root);
	count = scandir(path, &entries, NULL, alphasort);
	if (count < 0) {
		json_decref(devices);
		return err_set(err, STATUS_FAILED, "%s: %s", path, strerror(errno));
	}
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.' && is_nvme(root, entries[i]->d_name))
			json_array_append_new(devices, describe(root, entries[i]->d_name));
		free(entries[i]);
	}
	free(entries);
	if (opts->json)
		ctl_print_json(devices);
	else
		ctl_print_result(&schema, devices);
	json_decref(devices);
	return STATUS_OK;
}

/* ---- bind, unbind ---- */

/* 0 or a negative errno. */
static int
write_sysfs(const char *root, const char *file, const char *text)
{
	char path[PATH_MAX];
	int rc = 0, fd;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/%s", root, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		rc = -errno;
	if (close(fd) != 0 && rc == 0)
		rc = -errno;
	return rc;
}

static int
override_driver(const char *root, const char *address, const char *driver)
{
	char file[64];

	snprintf(file, sizeof(file), "devices/%s/driver_override", address);
	return write_sysfs(root, file, driver);
}

/*
 * Waits for another driver than `previous`; some are bound asynchronously. Empty: there is none in
 * time.
 */
static void
wait_for_driver(const char *root, const char *address, const char *previous,
		char driver[PCI_NAME_MAX])
{
	const struct timespec pause = {.tv_nsec = PROBE_PAUSE_MS * 1000000};

	for (int waited = 0; waited < PROBE_WAIT_MS; waited += PROBE_PAUSE_MS) {
		if (pci_link(root, address, "driver", driver) == 0 && strcmp(driver, previous) != 0)
			return;
		nanosleep(&pause, NULL);
	}
	driver[0] = '\0';
}

/*
 * Takes the device from its driver, if it has one, and lets the kernel choose anew, by
 * driver_override.
 */
static int
rebind(const char *root, const char *address, const char *override, char driver[PCI_NAME_MAX])
{
	char file[64], previous[PCI_NAME_MAX] = "";
	int rc = override_driver(root, address, override);

	snprintf(file, sizeof(file), "devices/%s/driver/unbind", address);
	if (rc == 0 && pci_link(root, address, "driver", previous) == 0)
		rc = write_sysfs(root, file, address);
	if (rc == 0)
		rc = write_sysfs(root, "drivers_probe", address);
	if (rc == 0)
		wait_for_driver(root, address, previous, driver);
	return rc;
}

/* The device is an NVMe device that nobody uses. */
static enum vhostctl_status
check_device(const char *root, const char *address, struct errmsg *err)
{
	enum vhostctl_status status = STATUS_OK;
	char class[32];
	json_t *uses;

	if (pci_read(root, address, "class", class, sizeof(class)) != 0)
		return err_set(err, STATUS_FAILED, "%s: there is no such PCI device", address);
	if (!is_nvme(root, address))
		return err_set(err, STATUS_FAILED, "%s: is no NVMe device: its PCI class is %s",
			       address, class);
	uses = nvme_uses(root, address);
	if (json_array_size(uses) > 0)
		status = err_set(err, STATUS_FAILED, "%s: is in use: %s%s", address,
				 json_string_value(json_array_get(uses, 0)),
				 json_array_size(uses) > 1 ? ", …" : "");
	json_decref(uses);
	return status;
}

static enum vhostctl_status
explain(const char *address, int rc, struct errmsg *err)
{
	return err_set(err, STATUS_FAILED, "%s: %s%s", address, strerror(-rc),
		       rc == -EACCES || rc == -EPERM ? ": this needs root" : "");
}

static enum vhostctl_status
bind_device(const struct vhostctl_opts *opts, const char *root, const char *address,
	    struct errmsg *err)
{
	char driver[PCI_NAME_MAX] = "", group[PCI_NAME_MAX], others[ERRMSG_MAX / 2];
	enum vhostctl_status status;
	int rc;

	(void)opts;
	if (pci_link(root, address, "driver", driver) == 0 && strcmp(driver, VFIO_DRIVER) == 0) {
		printf("%s is bound to " VFIO_DRIVER " already\n", address);
		return STATUS_OK;
	}
	status = check_device(root, address, err);
	if (status != STATUS_OK)
		return status;
	if (pci_link(root, address, "iommu_group", group) != 0)
		return err_set(err, STATUS_FAILED,
			       "%s: the machine has no IOMMU, or it is off: enable VT-d or AMD-Vi "
			       "in the firmware, and intel_iommu=on among the kernel's parameters",
			       address);
	if (pci_group_busy(root, address, group, others, sizeof(others)))
		return err_set(
			err, STATUS_FAILED,
			"%s: other devices of its IOMMU group %s belong to other drivers: %s",
			address, group, others);
	if (!pci_has_driver(root, VFIO_DRIVER))
		return err_set(err, STATUS_FAILED,
			       "the driver " VFIO_DRIVER
			       " is not in the kernel: modprobe " VFIO_DRIVER);
	rc = rebind(root, address, VFIO_DRIVER, driver);
	if (rc == 0 && strcmp(driver, VFIO_DRIVER) == 0) {
		printf("%s is bound to " VFIO_DRIVER "; who shall use it needs /dev/vfio/%s\n",
		       address, group);
		return STATUS_OK;
	}
	/* As it was. */
	if (rc != -EACCES)
		rebind(root, address, "\n", driver);
	if (rc != 0)
		return explain(address, rc, err);
	return err_set(err, STATUS_FAILED, "%s: " VFIO_DRIVER " does not take it; see dmesg",
		       address);
}

static enum vhostctl_status
unbind_device(const struct vhostctl_opts *opts, const char *root, const char *address,
	      struct errmsg *err)
{
	char driver[PCI_NAME_MAX] = "no driver";
	enum vhostctl_status status = check_device(root, address, err);
	int rc;

	(void)opts;
	if (status != STATUS_OK)
		return status;
	if (pci_link(root, address, "driver", driver) != 0 || strcmp(driver, VFIO_DRIVER) != 0)
		return err_set(err, STATUS_FAILED, "%s: is bound to %s, not to " VFIO_DRIVER,
			       address, driver);
	rc = rebind(root, address, "\n", driver);
	if (rc != 0)
		return explain(address, rc, err);
	printf("%s is bound to %s\n", address, driver[0] != '\0' ? driver : "no driver");
	return STATUS_OK;
}

/* ---- arguments ---- */

static const struct {
	const char *name;
	bool takes_address;
	enum vhostctl_status (*run)(const struct vhostctl_opts *opts, const char *root,
				    const char *address, struct errmsg *err);
} verbs[] = {
	{"list", false, list},
	{"bind", true, bind_device},
	{"unbind", true, unbind_device},
};

enum vhostctl_status
ctl_nvme(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	char address[PCI_ADDRESS_SIZE] = "";
	const char *root = "";

	if (args[0] != NULL && args[1] != NULL && strcmp(args[0], "--root") == 0) {
		root = args[1];
		args += 2;
	}
	for (size_t i = 0; args[0] != NULL && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(args[0], verbs[i].name) != 0 ||
		    (args[1] != NULL) != verbs[i].takes_address ||
		    (args[1] != NULL && args[2] != NULL))
			continue;
		if (args[1] != NULL && pci_parse_address(args[1], address) != 0)
			return err_set(err, STATUS_USAGE,
				       "'%s' is no PCI address like 0000:01:00.0", args[1]);
		return verbs[i].run(opts, root, address, err);
	}
	return err_set(err, STATUS_USAGE,
		       "usage: vhostctl nvme [--root FOLDER] list | bind ADDRESS | unbind ADDRESS");
}
