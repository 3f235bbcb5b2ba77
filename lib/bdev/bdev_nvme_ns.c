/* SPDX-License-Identifier: BSD-3-Clause */
/* Namespaces as block devices. In the keeper of their controller. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_nvme.h"
#include "log.h"

#define POLL_US            1000
#define PHYSICAL_BLOCK_MAX (1u << 16) /* more than anybody could do something with */
#define COMMAND_BLOCKS     65536u     /* NLB has 16 bits (NVMe 1.4 §6.17) */

/* ---- uuids ---- */

static bool
is_zero(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != 0)
			return false;
	}
	return true;
}

static void
format_uuid(const uint8_t b[16], char uuid[BDEV_UUID_TEXT])
{
	snprintf(uuid, BDEV_UUID_TEXT,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		 b[15]);
}

/* RFC 9562 §5.8 (version 8, variant 1) of a hash: FNV-1a with 128 bits. */
static void
hash_to_uuid(const char *text, char uuid[BDEV_UUID_TEXT])
{
	const unsigned __int128 prime = (unsigned __int128)1 << 88 | 0x13b;
	unsigned __int128 hash = (unsigned __int128)0x6c62272e07bb0142 << 64 | 0x62b821756295c58d;
	uint8_t bytes[16];

	for (; *text != '\0'; text++)
		hash = (hash ^ (uint8_t)*text) * prime;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(hash >> (120 - 8 * i));
	bytes[6] = (bytes[6] & 0x0f) | 0x80;
	bytes[8] = (bytes[8] & 0x3f) | 0x80;
	format_uuid(bytes, uuid);
}

/* The same for the same namespace, in whatever machine. */
static void
uuid_of(const struct nvme_ctrlr_info *info, const struct nvme_ns *ns, char uuid[BDEV_UUID_TEXT])
{
	char text[sizeof(info->subnqn) + sizeof(info->serial) + 32];
	const uint8_t *eui = ns->eui64;

	if (!is_zero(ns->uuid, sizeof(ns->uuid))) {
		format_uuid(ns->uuid, uuid);
		return;
	}
	if (!is_zero(ns->nguid, sizeof(ns->nguid))) {
		format_uuid(ns->nguid, uuid);
		return;
	}
	if (!is_zero(eui, sizeof(ns->eui64)))
		snprintf(text, sizeof(text), "eui.%02x%02x%02x%02x%02x%02x%02x%02x", eui[0], eui[1],
			 eui[2], eui[3], eui[4], eui[5], eui[6], eui[7]);
	else
		snprintf(text, sizeof(text), "%s %s %u", info->subnqn, info->serial, ns->nsid);
	hash_to_uuid(text, uuid);
}

/* ---- the end ---- */

/* The last user is gone. */
static void
disk_destroy(void *ctx)
{
	struct nvme_disk *disk = ctx;

	TAILQ_REMOVE(&disk->controller->disks, disk, link);
	free(disk);
}

static struct nvme_disk *
find_disk(struct nvme_controller *controller, uint32_t nsid)
{
	struct nvme_disk *disk;

	TAILQ_FOREACH (disk, &controller->disks, link) {
		if (disk->nsid == nsid)
			return disk;
	}
	return NULL;
}

static void
remove_disk(struct nvme_disk *disk)
{
	struct nvme_controller *controller = disk->controller;
	uint32_t nsid = disk->nsid;

	bdev_remove(disk->bdev);
	/* Where somebody else removes it already. */
	while (find_disk(controller, nsid) == disk)
		coroutine_sleep(POLL_US);
}

void
bdev_nvme_remove_disks(struct nvme_controller *controller)
{
	while (!TAILQ_EMPTY(&controller->disks))
		remove_disk(TAILQ_FIRST(&controller->disks));
}

/* ---- the beginning ---- */

/* Not where its limit is less than a block. */
static bool
can_write_zeroes(const struct nvme_ctrlr_info *info, const struct nvme_ns *ns)
{
	return (info->oncs & NVME_CTRL_ONCS_WRITE_ZEROES) != 0 &&
	       (info->max_write_zeroes == 0 || info->max_write_zeroes >= ns->block_size);
}

static void
describe_limits(struct nvme_disk *disk, const struct nvme_ctrlr_info *info,
		const struct nvme_ns *ns)
{
	uint64_t zeroes = (uint64_t)COMMAND_BLOCKS * ns->block_size;

	if (can_write_zeroes(info, ns) && info->max_write_zeroes != 0 &&
	    info->max_write_zeroes < zeroes)
		zeroes = info->max_write_zeroes;
	disk->ops = bdev_nvme_io_ops;
	disk->ops.destroy = disk_destroy;
	disk->ops.describe = bdev_nvme_describe;
	disk->ops.max_transfer = info->max_transfer;
	disk->ops.max_write_zeroes = zeroes;
	disk->ops.boundary = ns->boundary;
	disk->nsid = ns->nsid;
	disk->block_size = ns->block_size;
	disk->block_shift = (uint32_t)__builtin_ctz(ns->block_size);
	disk->dsm_ranges = info->max_dsm_ranges;
	if (disk->dsm_ranges == 0 || disk->dsm_ranges > BDEV_NVME_DSM_RANGES)
		disk->dsm_ranges = BDEV_NVME_DSM_RANGES;
	disk->dsm_blocks = info->max_dsm_blocks;
	if (disk->dsm_blocks == 0 || disk->dsm_blocks > UINT32_MAX)
		disk->dsm_blocks = UINT32_MAX;
	disk->can_write_zeroes_unmap = ns->can_write_zeroes_unmap;
}

static void
describe_namespace(const struct nvme_ctrlr_info *info, const struct nvme_ns *ns,
		   struct bdev_info *bdev)
{
	uint32_t physical = ns->physical_block_size;

	bdev->product_name = "NVMe disk";
	bdev->block_size = ns->block_size;
	if ((physical & (physical - 1)) == 0 && physical >= ns->block_size &&
	    physical <= PHYSICAL_BLOCK_MAX)
		bdev->physical_block_size = physical;
	bdev->num_blocks = ns->blocks;
	bdev->read_only = ns->read_only;
	bdev->write_cache = info->write_cache;
	bdev->discard_granularity = ns->discard_granularity;
	bdev->io_types = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_RESET;
	if (info->oncs & NVME_CTRL_ONCS_DSM)
		bdev->io_types |= 1u << BDEV_DISCARD;
	if (can_write_zeroes(info, ns))
		bdev->io_types |= 1u << BDEV_WRITE_ZEROES;
}

/* Some models have one for all (Linux: NVME_QUIRK_BOGUS_NID), or it is a second way to it. */
static void
choose_another_uuid(const struct nvme_disk *disk, struct bdev_info *info)
{
	const struct nvme_controller *controller = disk->controller;
	char text[512];

	log_warn("bdev %s: there is a block device with its UUID %s already: the same namespace, "
		 "or a device without one of its own",
		 info->name, disk->uuid);
	snprintf(text, sizeof(text), "%s %s %.400s %u", disk->uuid, controller->trtype,
		 controller->traddr, disk->nsid);
	hash_to_uuid(text, info->uuid);
}

static void
insert_disk(struct nvme_disk *disk)
{
	struct nvme_disk *next;

	TAILQ_FOREACH (next, &disk->controller->disks, link) {
		if (next->nsid > disk->nsid)
			break;
	}
	if (next != NULL)
		TAILQ_INSERT_BEFORE(next, disk, link);
	else
		TAILQ_INSERT_TAIL(&disk->controller->disks, disk, link);
}

static int
disk_register(struct nvme_disk *disk, const struct nvme_ctrlr_info *info, const struct nvme_ns *ns,
	      struct errmsg *err)
{
	char name[BDEV_NAME_MAX + 1];
	struct bdev_info bdev;
	int rc;

	snprintf(name, sizeof(name), "%sn%u", disk->controller->name, ns->nsid);
	rc = bdev_info_init(&bdev, name, disk->uuid, err);
	if (rc != 0)
		return rc;
	describe_limits(disk, info, ns);
	describe_namespace(info, ns, &bdev);
	if (bdev_by_name(disk->uuid) != NULL)
		choose_another_uuid(disk, &bdev);
	return bdev_register(&bdev, &disk->ops, disk, &disk->bdev, err);
}

static int
add_disk(struct nvme_controller *controller, const struct nvme_ns *ns, struct errmsg *err)
{
	const struct nvme_ctrlr_info *info = nvme_get_info(controller->ctrlr);
	struct nvme_disk *disk = calloc(1, sizeof(*disk));
	int rc;

	if (disk == NULL)
		return err_set(err, -ENOMEM, "nvme %s: no memory for namespace %u",
			       controller->name, ns->nsid);
	disk->controller = controller;
	disk->ctrlr = controller->ctrlr;
	disk->app = thread_current();
	uuid_of(info, ns, disk->uuid);
	rc = disk_register(disk, info, ns, err);
	if (rc != 0) {
		free(disk);
		return rc;
	}
	insert_disk(disk);
	log_notice("bdev %sn%u: namespace of %s %s, %lu blocks of %u bytes%s%s", controller->name,
		   ns->nsid, controller->trtype, controller->traddr, ns->blocks, ns->block_size,
		   ns->read_only ? ", read-only" : "", info->write_cache ? ", write cache" : "");
	return 0;
}

/* ---- changes ---- */

/* Whether what the disk was made of is not there any more. */
static bool
is_stale(const struct nvme_disk *disk)
{
	const struct nvme_ns *ns = nvme_ns_next(disk->ctrlr, disk->nsid - 1);
	char uuid[BDEV_UUID_TEXT];

	if (ns == NULL || ns->nsid != disk->nsid || ns->block_size != disk->block_size)
		return true;
	uuid_of(nvme_get_info(disk->ctrlr), ns, uuid);
	return strcmp(uuid, disk->uuid) != 0;
}

void
bdev_nvme_stop_replaced(struct nvme_controller *controller)
{
	struct nvme_disk *disk;

	TAILQ_FOREACH (disk, &controller->disks, link) {
		if (is_stale(disk))
			atomic_store(&disk->replaced, true);
	}
}

static struct nvme_disk *
find_replaced(struct nvme_controller *controller)
{
	struct nvme_disk *disk;

	bdev_nvme_stop_replaced(controller);
	TAILQ_FOREACH (disk, &controller->disks, link) {
		if (atomic_load(&disk->replaced))
			return disk;
	}
	return NULL;
}

static int
adopt_namespace(struct nvme_controller *controller, const struct nvme_ns *ns, struct errmsg *err)
{
	struct nvme_disk *disk = find_disk(controller, ns->nsid);
	int rc;

	if (disk == NULL)
		return add_disk(controller, ns, err);
	rc = bdev_resize(disk->bdev, ns->blocks);
	return rc == 0 ? 0
		       : err_set(err, rc, "nvme %s: namespace %u cannot have %lu blocks",
				 controller->name, ns->nsid, ns->blocks);
}

int
bdev_nvme_scan(struct nvme_controller *controller, bool strict, struct errmsg *err)
{
	const struct nvme_ns *ns = NULL;
	struct nvme_disk *replaced;

	while ((replaced = find_replaced(controller)) != NULL)
		remove_disk(replaced);
	/* From here on nothing waits. */
	while ((ns = nvme_ns_next(controller->ctrlr, ns != NULL ? ns->nsid : 0)) != NULL) {
		int rc = adopt_namespace(controller, ns, err);

		if (rc != 0 && strict)
			return rc;
		if (rc != 0)
			log_err("%s", err->text);
	}
	return 0;
}
