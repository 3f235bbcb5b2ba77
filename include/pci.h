/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pci: what sysfs says about PCI devices. Part of the room env; any OS thread. root is put in front
 * of /sys, for tests; "" is this machine.
 */
#ifndef VHOSTD_PCI_H
#define VHOSTD_PCI_H

#include <stdbool.h>
#include <stddef.h>

#define PCI_ADDRESS_SIZE 13 /* "0000:01:00.0" and its NUL */
#define PCI_NAME_MAX     64 /* of a driver or group, with its NUL */

/*
 * Takes "0000:01:00.0" and "01:00.0", hexadecimal; gives the long form in lower case. 0 or -EINVAL.
 */
int pci_parse_address(const char *text, char address[PCI_ADDRESS_SIZE]);

/*
 * The first line of a file of that device, cut to size. 0 or a negative errno (-ENOENT: no such
 * device, or file).
 */
int pci_read(const char *root, const char *address, const char *file, char *text, size_t size);
/*
 * The last part of what a link of that device points to: its "driver", its "iommu_group". The same;
 * -ENOENT: it has none.
 */
int pci_link(const char *root, const char *address, const char *link, char name[PCI_NAME_MAX]);

/* Whether the kernel has that PCI driver. */
bool pci_has_driver(const char *root, const char *driver);

/*
 * The other devices of the IOMMU group that keep it from programs, as "0000:01:00.1 (nvme), …", cut
 * to size: those that are bound to drivers which use DMA. True: there are some.
 */
bool pci_group_busy(const char *root, const char *address, const char *group, char *text,
		    size_t size);

#endif
