/* SPDX-License-Identifier: BSD-3-Clause */
/* PCI configuration space: an NVMe controller with MSI-X, whose table is BAR 4. */
#include <linux/pci_regs.h>
#include <string.h>

#include "device.h"

#define CAP_MSIX    0x40
#define CAP_EXPRESS 0x50
#define BAR_MSIX    4
#define MSIX_PBA    0x800 /* in BAR 4 */

uint32_t
pci_config_size(void)
{
	return PAGE;
}

static void
put(struct device *dev, uint32_t offset, uint32_t size, uint32_t value)
{
	memcpy(dev->config + offset, &value, size);
}

void
pci_config_init(struct device *dev)
{
	memset(dev->config, 0, sizeof(dev->config));
	put(dev, PCI_VENDOR_ID, 2, 0x1b36);
	put(dev, PCI_DEVICE_ID, 2, 0x0010);
	put(dev, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	put(dev, PCI_CLASS_REVISION, 4, 0x01080202); /* NVM Express */
	put(dev, PCI_BASE_ADDRESS_0, 4, PCI_BASE_ADDRESS_MEM_TYPE_64);
	put(dev, PCI_SUBSYSTEM_VENDOR_ID, 2, 0x1af4);
	put(dev, PCI_SUBSYSTEM_ID, 2, 0x1100);
	put(dev, PCI_CAPABILITY_LIST, 1, CAP_MSIX);
	put(dev, CAP_MSIX, 1, PCI_CAP_ID_MSIX);
	put(dev, CAP_MSIX + PCI_CAP_LIST_NEXT, 1, CAP_EXPRESS);
	put(dev, CAP_MSIX + PCI_MSIX_FLAGS, 2,
	    dev->settings.vectors > 0 ? (uint32_t)dev->settings.vectors - 1 : 0);
	put(dev, CAP_MSIX + PCI_MSIX_TABLE, 4, BAR_MSIX);
	put(dev, CAP_MSIX + PCI_MSIX_PBA, 4, MSIX_PBA | BAR_MSIX);
	put(dev, CAP_EXPRESS, 1, PCI_CAP_ID_EXP);
	put(dev, CAP_EXPRESS + PCI_EXP_FLAGS, 2, 2);
	put(dev, CAP_EXPRESS + PCI_EXP_DEVCAP, 4, PCI_EXP_DEVCAP_FLR);
}

void
pci_config_read(struct device *dev, uint32_t offset, uint32_t count, uint8_t *data)
{
	memcpy(data, dev->config + offset, count);
}

/* Bits that a driver may change. */
static uint8_t
writable_bits(uint32_t offset)
{
	switch (offset) {
	case PCI_COMMAND:
		return PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	case PCI_COMMAND + 1:
		return PCI_COMMAND_INTX_DISABLE >> 8;
	case PCI_BASE_ADDRESS_0 + 1:
		return (uint8_t) ~((BAR0_SIZE - 1) >> 8);
	case PCI_BASE_ADDRESS_0 + 2 ... PCI_BASE_ADDRESS_0 + 7:
		return 0xff;
	case PCI_BASE_ADDRESS_4 + 1:
		return (uint8_t) ~((PAGE - 1) >> 8);
	case PCI_BASE_ADDRESS_4 + 2 ... PCI_BASE_ADDRESS_4 + 3:
		return 0xff;
	case PCI_INTERRUPT_LINE:
		return 0xff;
	case CAP_MSIX + PCI_MSIX_FLAGS + 1:
		return (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
	default:
		return 0;
	}
}

void
pci_config_write(struct device *dev, uint32_t offset, uint32_t count, const uint8_t *data)
{
	for (uint32_t i = 0; i < count; i++) {
		uint8_t bits = writable_bits(offset + i);
		uint8_t *at = &dev->config[offset + i];

		*at = (uint8_t)((*at & ~bits) | (data[i] & bits));
	}
	if (offset <= CAP_EXPRESS + PCI_EXP_DEVCTL + 1 &&
	    offset + count > CAP_EXPRESS + PCI_EXP_DEVCTL + 1 &&
	    (data[CAP_EXPRESS + PCI_EXP_DEVCTL + 1 - offset] & PCI_EXP_DEVCTL_BCR_FLR >> 8) != 0)
		controller_reset(dev, true);
}
