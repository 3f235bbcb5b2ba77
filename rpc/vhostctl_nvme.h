/* SPDX-License-Identifier: BSD-3-Clause */
/* vhostctl_nvme: what this machine's NVMe devices are used for. Private to rpc/. */
#ifndef VHOSTD_VHOSTCTL_NVME_H
#define VHOSTD_VHOSTCTL_NVME_H

#include <jansson.h>

#define NVME_PCI_CLASS 0x010802ul

/*
 * An array (a new reference) of sentences, each of which says what uses the device at that address,
 * or NULL: no memory. root is put in front of /sys, /proc and /dev.
 */
json_t *nvme_uses(const char *root, const char *address);

#endif
