/* SPDX-License-Identifier: BSD-3-Clause */
#include "pci.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where each 'h' stands for a hexadecimal digit, and '0' for one up to 7. */
static bool
has_form(const char *text, const char *form)
{
	for (; *form != '\0'; text++, form++) {
		bool fits = *form == 'h'   ? isxdigit((unsigned char)*text) != 0
			    : *form == '0' ? *text >= '0' && *text <= '7'
					   : *text == *form;
		if (!fits)
			return false;
	}
	return *text == '\0';
}

int
pci_parse_address(const char *text, char address[PCI_ADDRESS_SIZE])
{
	if (has_form(text, "hhhh:hh:hh.0"))
		snprintf(address, PCI_ADDRESS_SIZE, "%s", text);
	else if (has_form(text, "hh:hh.0"))
		snprintf(address, PCI_ADDRESS_SIZE, "0000:%s", text);
	else
		return -EINVAL;
	for (char *c = address; *c != '\0'; c++)
		*c = (char)tolower((unsigned char)*c);
	return 0;
}

int
pci_read(const char *root, const char *address, const char *file, char *text, size_t size)
{
	char path[PATH_MAX];
	FILE *stream;
	int rc = 0;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/%s", root, address, file);
	stream = fopen(path, "re");
	if (stream == NULL)
		return -errno;
	text[0] = '\0';
	if (fgets(text, (int)size, stream) == NULL && ferror(stream))
		rc = -EIO;
	fclose(stream);
	text[strcspn(text, "\n")] = '\0';
	return rc;
}

int
pci_link(const char *root, const char *address, const char *link, char name[PCI_NAME_MAX])
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *last;
	ssize_t length;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/%s", root, address, link);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return -errno;
	target[length] = '\0';
	last = strrchr(target, '/');
	last = last != NULL ? last + 1 : target;
	if (strlen(last) >= PCI_NAME_MAX)
		return -ENAMETOOLONG;
	strcpy(name, last);
	return 0;
}

bool
pci_has_driver(const char *root, const char *driver)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/sys/bus/pci/drivers/%s", root, driver);
	return access(path, F_OK) == 0;
}

/* Drivers that leave DMA to others: the kernel takes a group with them for viable. */
static bool
is_harmless(const char *driver)
{
	static const char *const drivers[] = {"vfio-pci", "pci-stub", "pcieport"};

	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (strcmp(driver, drivers[i]) == 0)
			return true;
	return false;
}

bool
pci_group_busy(const char *root, const char *address, const char *group, char *text, size_t size)
{
	char path[PATH_MAX], driver[PCI_NAME_MAX];
	size_t length = 0;
	bool busy = false;
	struct dirent *entry;
	DIR *folder;

	text[0] = '\0';
	snprintf(path, sizeof(path), "%s/sys/kernel/iommu_groups/%s/devices", root, group);
	folder = opendir(path);
	while (folder != NULL && (entry = readdir(folder)) != NULL) {
		if (entry->d_name[0] == '.' || strcmp(entry->d_name, address) == 0 ||
		    pci_link(root, entry->d_name, "driver", driver) != 0 || is_harmless(driver))
			continue;
		if (length < size)
			length += (size_t)snprintf(text + length, size - length, "%s%s (%s)",
						   busy ? ", " : "", entry->d_name, driver);
		busy = true;
	}
	if (folder != NULL)
		closedir(folder);
	return busy;
}
