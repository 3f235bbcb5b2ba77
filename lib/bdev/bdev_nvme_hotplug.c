/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe devices of this machine that are bound to vfio-pci while the daemon runs: the kernel tells
 * of them (uevents), sysfs says which there are. App thread, but for what the work pool does.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bdev_nvme.h"
#include "log.h"
#include "pci.h"
#include "vfio.h"

#define KERNEL_EVENTS  1 /* multicast group: what the kernel sends, before udev */
#define EVENT_MAX      8192
#define EVENTS_A_POLL  64
#define DEVICES_MAX    256
#define NVME_CLASS     "0x010802"
#define NVME_CLASS_KEY "PCI_CLASS=10802"
#define SLOT_KEY       "PCI_SLOT_NAME="
#define VFIO_DRIVER    "vfio-pci"

/* udev makes the group's file accessible some time after the kernel's event. */
static const uint64_t scan_delays_us[] = {0, 1000000, 3000000};

static struct {
	bool enabled;
	bool interrupts;
	uint64_t period_us;
	int socket;
	struct poller *poller;
	bool scanning;          /* a coroutine is at it, or about to be */
	struct coroutine *scan; /* which; NULL: about to be */
	bool again;             /* something has happened since it began */
} hotplug = {.socket = -1};

struct listing {
	char addresses[DEVICES_MAX][PCI_ADDRESS_SIZE];
	uint32_t count;
};

/* ---- what was let go ---- */

/*
 * Somebody else shall have those, who may not have come for them yet: not taken again as long as
 * they stay bound as they are.
 */
static struct listing let_go;

static uint32_t
find(const struct listing *listing, const char *address)
{
	uint32_t i = 0;

	while (i < listing->count && strcmp(listing->addresses[i], address) != 0)
		i++;
	return i;
}

static void
forget(uint32_t index)
{
	memcpy(let_go.addresses[index], let_go.addresses[--let_go.count], PCI_ADDRESS_SIZE);
}

/* Those that are bound to another driver by now. */
static void
forget_others(const struct listing *bound)
{
	for (uint32_t i = let_go.count; i-- > 0;) {
		if (find(bound, let_go.addresses[i]) == bound->count)
			forget(i);
	}
}

void
bdev_nvme_hotplug_let_go(const char *address)
{
	if (hotplug.enabled && let_go.count < DEVICES_MAX && find(&let_go, address) == let_go.count)
		snprintf(let_go.addresses[let_go.count++], PCI_ADDRESS_SIZE, "%s", address);
}

/* ---- events ---- */

bool
bdev_nvme_uevent_is_bind(const char *event, size_t length)
{
	static const char *const wanted[] = {"ACTION=bind", ("DRIVER=" VFIO_DRIVER),
					     NVME_CLASS_KEY};
	size_t found = 0;

	while (length > 0) {
		size_t size = strnlen(event, length);

		for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
			found += strlen(wanted[i]) == size && memcmp(event, wanted[i], size) == 0;
		if (size < length)
			size++;
		event += size;
		length -= size;
	}
	return found == sizeof(wanted) / sizeof(wanted[0]);
}

/* The device that it is about was bound anew. */
static void
take_again(const char *event, size_t length)
{
	char address[PCI_ADDRESS_SIZE], text[sizeof(SLOT_KEY) + PCI_ADDRESS_SIZE];

	while (length > 0) {
		size_t size = strnlen(event, length);

		snprintf(text, sizeof(text), "%.*s", (int)size, event);
		if (strncmp(text, SLOT_KEY, strlen(SLOT_KEY)) == 0 &&
		    pci_parse_address(text + strlen(SLOT_KEY), address) == 0 &&
		    find(&let_go, address) < let_go.count)
			forget(find(&let_go, address));
		if (size < length)
			size++;
		event += size;
		length -= size;
	}
}

static void start_scan(void);

bool
bdev_nvme_hotplug_event(const char *event, size_t length)
{
	if (!bdev_nvme_uevent_is_bind(event, length))
		return false;
	take_again(event, length);
	start_scan();
	return true;
}

/* Whether there was one that counts, or some got lost. */
static bool
read_events(void)
{
	char event[EVENT_MAX];
	bool counts = false;

	for (int i = 0; i < EVENTS_A_POLL; i++) {
		struct sockaddr_nl sender = {0};
		socklen_t size = sizeof(sender);
		ssize_t length = recvfrom(hotplug.socket, event, sizeof(event), MSG_DONTWAIT,
					  (struct sockaddr *)&sender, &size);

		if (length < 0 && errno == ENOBUFS) {
			start_scan();
			counts = true;
		} else if (length < 0) {
			break;
		} else if (sender.nl_pid == 0) { /* the kernel's own */
			counts |= bdev_nvme_hotplug_event(event, (size_t)length);
		}
	}
	return counts;
}

/* ---- devices ---- */

static bool
is_candidate(const char *root, const char *address)
{
	char text[PCI_NAME_MAX];

	return pci_read(root, address, "class", text, sizeof(text)) == 0 &&
	       strcmp(text, NVME_CLASS) == 0 && pci_link(root, address, "driver", text) == 0 &&
	       strcmp(text, VFIO_DRIVER) == 0;
}

/* On the work pool. */
static int
list_devices(void *arg)
{
	const char *root = vfio_get_root();
	struct listing *listing = arg;
	struct dirent *entry;
	char path[PATH_MAX];
	DIR *folder;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices", root);
	folder = opendir(path);
	if (folder == NULL)
		return errno == ENOENT ? 0 : -errno;
	while (listing->count < DEVICES_MAX && (entry = readdir(folder)) != NULL) {
		char *address = listing->addresses[listing->count];

		if (pci_parse_address(entry->d_name, address) == 0 && is_candidate(root, address))
			listing->count++;
	}
	closedir(folder);
	return 0;
}

static void
attach_devices(const struct listing *listing)
{
	forget_others(listing);
	for (uint32_t i = 0; i < listing->count; i++) {
		const char *address = listing->addresses[i];

		if (find(&let_go, address) == let_go.count &&
		    bdev_nvme_at("PCIe", address) == NULL &&
		    bdev_nvme_found(address, hotplug.interrupts) == 0)
			log_notice("nvme: %s is bound to " VFIO_DRIVER ": attaching it", address);
	}
}

static void
scan_once(void)
{
	struct listing *listing = calloc(1, sizeof(*listing));
	int rc = -ENOMEM;

	if (listing != NULL)
		rc = coroutine_blocking(list_devices, listing);
	if (rc == 0 && hotplug.enabled)
		attach_devices(listing);
	else if (rc != 0 && hotplug.enabled)
		log_warn("nvme hotplug: this machine's devices are not known: %s", strerror(-rc));
	free(listing);
}

static void
scan_now_and_later(void)
{
	for (size_t i = 0; i < sizeof(scan_delays_us) / sizeof(scan_delays_us[0]); i++) {
		if (!hotplug.enabled || coroutine_sleep(scan_delays_us[i]) != 0)
			return;
		scan_once();
	}
}

static void
scan(void *arg)
{
	(void)arg;
	hotplug.scan = coroutine_current();
	do {
		hotplug.again = false;
		scan_now_and_later();
	} while (hotplug.again && hotplug.scan == coroutine_current());
	if (hotplug.scan != coroutine_current())
		return; /* cancelled; another one may be at it */
	hotplug.scan = NULL;
	hotplug.scanning = false;
}

static void
start_scan(void)
{
	hotplug.again = true;
	if (!hotplug.scanning)
		hotplug.scanning =
			coroutine_start(thread_current(), "nvme_hotplug", scan, NULL) == 0;
}

static int
poll_events(void *arg)
{
	(void)arg;
	return read_events() ? POLLER_BUSY : POLLER_IDLE;
}

/* ---- on and off ---- */

void
bdev_nvme_hotplug_stop(void)
{
	poller_unregister(&hotplug.poller);
	if (hotplug.socket >= 0)
		close(hotplug.socket);
	hotplug.socket = -1;
	hotplug.enabled = false;
	if (hotplug.scan != NULL)
		coroutine_cancel(hotplug.scan);
	hotplug.scan = NULL;
	hotplug.scanning = false;
	let_go.count = 0;
}

static int
open_socket(struct errmsg *err)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_EVENTS};
	int rc = 0;

	hotplug.socket = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
				NETLINK_KOBJECT_UEVENT);
	if (hotplug.socket < 0 ||
	    bind(hotplug.socket, (struct sockaddr *)&address, sizeof(address)) != 0)
		rc = -errno;
	return rc == 0 ? 0
		       : err_set(err, rc, "nvme hotplug: no events from the kernel: %s",
				 strerror(-rc));
}

static int
begin(struct errmsg *err)
{
	int rc = open_socket(err);

	if (rc != 0)
		return rc;
	hotplug.poller = poller_register(poll_events, NULL, hotplug.period_us, "nvme_hotplug");
	if (hotplug.poller == NULL)
		return err_set(err, -errno, "nvme hotplug: %s", strerror(errno));
	hotplug.enabled = true;
	start_scan(); /* those that are there */
	return 0;
}

int
bdev_nvme_set_hotplug(bool enable, uint64_t period_us, bool interrupts, struct errmsg *err)
{
	int rc;

	bdev_nvme_hotplug_stop();
	if (!enable)
		return 0;
	hotplug.period_us = period_us != 0 ? period_us : BDEV_NVME_HOTPLUG_US;
	hotplug.interrupts = interrupts;
	rc = begin(err);
	if (rc != 0)
		bdev_nvme_hotplug_stop();
	return rc;
}

json_t *
bdev_nvme_hotplug_config(void)
{
	if (!hotplug.enabled)
		return NULL;
	return json_pack("{s:s, s:{s:b, s:I}}", "method", "bdev_nvme_set_hotplug", "params",
			 "enable", true, "period_us", (json_int_t)hotplug.period_us);
}
