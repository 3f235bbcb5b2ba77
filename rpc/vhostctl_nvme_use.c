/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mounts, swap, holders (LVM, RAID, encryption) and programs that use a controller's disks and
 * their partitions.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pci.h"
#include "vhostctl_nvme.h"

struct look {
	const char *root;
	json_t *uses;
};

static void add(struct look *look, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
add(struct look *look, const char *format, ...)
{
	char text[2 * PATH_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	json_array_append_new(look->uses, json_string(text));
}

/* Calls fn for each name in a folder. A folder that is not there is empty. */
static void
each_in(struct look *look, const char *folder, const char *arg,
	void (*fn)(struct look *look, const char *name, const char *arg))
{
	DIR *stream = opendir(folder);
	struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL)
		if (entry->d_name[0] != '.')
			fn(look, entry->d_name, arg);
	if (stream != NULL)
		closedir(stream);
}

static bool exists(const char *root, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool
exists(const char *root, const char *format, ...)
{
	char path[PATH_MAX], part[PATH_MAX / 2];
	va_list args;

	va_start(args, format);
	vsnprintf(part, sizeof(part), format, args);
	va_end(args);
	snprintf(path, sizeof(path), "%s%s", root, part);
	return access(path, F_OK) == 0;
}

static const char *
last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

/* ---- one block device: a disk or a partition ---- */

/* Those of file systems with device numbers of their own (btrfs) name it as their source. */
static void
look_at_mounts(struct look *look, const char *name, const char *number)
{
	char path[PATH_MAX], *line = NULL;
	size_t size = 0;
	FILE *stream;

	snprintf(path, sizeof(path), "%s/proc/self/mountinfo", look->root);
	stream = fopen(path, "re");
	/*
	 * 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue (proc(5))
	 */
	while (stream != NULL && getline(&line, &size, stream) > 0) {
		char device[32], target[PATH_MAX], source[PATH_MAX] = "";
		const char *rest = strstr(line, " - ");

		if (sscanf(line, "%*s %*s %31s %*s %4095s", device, target) != 2)
			continue;
		if (rest != NULL)
			sscanf(rest, " - %*s %4095s", source);
		if (strcmp(device, number) == 0 || strcmp(last_part(source), name) == 0)
			add(look, "%s is mounted on %s", name, target);
	}
	free(line);
	if (stream != NULL)
		fclose(stream);
}

static void
look_at_swap(struct look *look, const char *name)
{
	char path[PATH_MAX], line[PATH_MAX], file[PATH_MAX];
	FILE *stream;

	snprintf(path, sizeof(path), "%s/proc/swaps", look->root);
	stream = fopen(path, "re");
	while (stream != NULL && fgets(line, sizeof(line), stream) != NULL)
		if (sscanf(line, "%4095s", file) == 1 && strcmp(last_part(file), name) == 0)
			add(look, "%s is swap", name);
	if (stream != NULL)
		fclose(stream);
}

static void
look_at_holder(struct look *look, const char *holder, const char *name)
{
	add(look, "%s is held by %s", name, holder);
}

static void
look_at_block(struct look *look, const char *name)
{
	char path[PATH_MAX], number[32] = "";
	const size_t before = json_array_size(look->uses);
	FILE *stream;
	int fd;

	snprintf(path, sizeof(path), "%s/sys/class/block/%s/dev", look->root, name);
	stream = fopen(path, "re");
	if (stream != NULL && fscanf(stream, "%31s", number) != 1)
		number[0] = '\0';
	if (stream != NULL)
		fclose(stream);
	look_at_mounts(look, name, number);
	look_at_swap(look, name);
	snprintf(path, sizeof(path), "%s/sys/class/block/%s/holders", look->root, name);
	each_in(look, path, name, look_at_holder);
	if (json_array_size(look->uses) > before)
		return;
	/* Whoever else has it for itself: a mount in another namespace, a program. */
	snprintf(path, sizeof(path), "%s/dev/%s", look->root, name);
	fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd < 0 && errno == EBUSY)
		add(look, "%s is in use", name);
	if (fd >= 0)
		close(fd);
}

/* ---- a controller ---- */

static void
look_at_partition(struct look *look, const char *name, const char *disk)
{
	if (exists(look->root, "/sys/class/block/%s/%s/partition", disk, name))
		look_at_block(look, name);
}

/* Disks are the controller's, or its subsystem's (multipath). */
static void
look_at_disk(struct look *look, const char *name, const char *controller)
{
	char path[PATH_MAX], target[PATH_MAX];
	ssize_t length;
	const char *owner;

	snprintf(path, sizeof(path), "%s/sys/class/block/%s/device", look->root, name);
	length = readlink(path, target, sizeof(target) - 1);
	if (length <= 0)
		return;
	target[length] = '\0';
	owner = last_part(target);
	if (strcmp(owner, controller) != 0 &&
	    !exists(look->root, "/sys/class/nvme-subsystem/%.100s/%.100s", owner, controller))
		return;
	look_at_block(look, name);
	snprintf(path, sizeof(path), "%s/sys/class/block/%s", look->root, name);
	each_in(look, path, name, look_at_partition);
}

static void
look_at_controller(struct look *look, const char *name, const char *arg)
{
	char path[PATH_MAX];

	(void)arg;
	snprintf(path, sizeof(path), "%s/sys/class/block", look->root);
	each_in(look, path, name, look_at_disk);
}

/* A group can be opened once. */
static void
look_at_vfio(struct look *look, const char *address)
{
	char path[PATH_MAX], group[PCI_NAME_MAX], driver[PCI_NAME_MAX];
	int fd;

	if (pci_link(look->root, address, "driver", driver) != 0 ||
	    strcmp(driver, "vfio-pci") != 0 ||
	    pci_link(look->root, address, "iommu_group", group) != 0)
		return;
	snprintf(path, sizeof(path), "%s/dev/vfio/%s", look->root, group);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == EBUSY)
		add(look, "a program has it (IOMMU group %s)", group);
	if (fd >= 0)
		close(fd);
}

json_t *
nvme_uses(const char *root, const char *address)
{
	struct look look = {root, json_array()};
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/nvme", root, address);
	if (look.uses != NULL) {
		each_in(&look, path, NULL, look_at_controller);
		look_at_vfio(&look, address);
	}
	return look.uses;
}
