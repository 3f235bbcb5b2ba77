/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Namespaces: which there are (NVMe 1.4 §5.15.2.2), and what each is like. What a device says is
 * believed only where it makes sense.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "start.h"

#define NAMESPACES_MAX        1024u
#define LBADS_MIN             9
#define LBADS_MAX             16
#define PHYSICAL_MAX          (1u << 20) /* bytes; larger is no physical block */
#define FORMATS_OF_FOUR_BITS  16
#define FLBAS_HIGH_SHIFT      5
#define NSATTR_PROTECTED      1
#define VERSION(major, minor) ((major) << 16 | (minor) << 8)

struct scan {
	struct nvme_known_ns *list; /* of NAMESPACES_MAX */
	uint32_t count;
	bool incomplete; /* there are some that cannot be read now */
};

static const struct nvme_known_ns *
find(const struct nvme_ctrlr *ctrlr, uint32_t nsid)
{
	for (uint32_t i = 0; i < ctrlr->namespace_count; i++) {
		if (ctrlr->namespaces[i].ns.nsid == nsid)
			return &ctrlr->namespaces[i];
	}
	return NULL;
}

/* ---- one ---- */

static bool
is_power_of_two(uint64_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

/* Blocks, counted from 0, as bytes; block_size when they make no sense. */
static uint32_t
physical_size(uint32_t last, uint32_t block_size)
{
	uint64_t size = ((uint64_t)last + 1) * block_size;

	return is_power_of_two(size) && size <= PHYSICAL_MAX ? (uint32_t)size : block_size;
}

static void
note_hints(const struct nvme_ctrlr *ctrlr, const struct nvme_id_ns *id, struct nvme_ns *ns)
{
	bool hints = (id->nsfeat & NVME_NS_FEAT_IO_OPT) != 0;
	uint32_t physical = ctrlr->id->awupf;

	if ((id->nsfeat & NVME_NS_FEAT_NATOMIC) != 0 && id->nawupf != 0)
		physical = id->nawupf;
	/* Guests take it for what a loss of power leaves whole. */
	if (id->nabo != 0)
		physical = 0;
	if (hints && id->npwg < physical)
		physical = id->npwg;
	ns->physical_block_size = physical_size(physical, ns->block_size);
	ns->discard_granularity = hints ? (id->npdg + 1u) * ns->block_size : 0;
	ns->boundary = (uint64_t)id->noiob * ns->block_size;
	ns->read_only = (id->nsattr & NSATTR_PROTECTED) != 0;
	ns->zeroes_after_discard = (id->dlfeat & NVME_NS_DLFEAT_RB) == NVME_NS_DLFEAT_RB_ALL_0S;
	ns->can_write_zeroes_unmap = (id->dlfeat & NVME_NS_DLFEAT_WRITE_ZEROES) != 0;
	memcpy(ns->eui64, id->eui64, sizeof(ns->eui64));
	memcpy(ns->nguid, id->nguid, sizeof(ns->nguid));
}

/* NULL, or why it cannot be used. */
static const char *
parse(const struct nvme_ctrlr *ctrlr, const struct nvme_id_ns *id, struct nvme_ns *ns)
{
	uint32_t format = id->flbas & NVME_NS_FLBAS_LOWER_MASK;
	uint32_t formats = id->nlbaf + 1u;
	const uint32_t known = sizeof(id->lbaf) / sizeof(id->lbaf[0]);

	if (formats > FORMATS_OF_FOUR_BITS)
		format |= (uint32_t)(id->flbas >> FLBAS_HIGH_SHIFT & 3) << 4;
	if (formats > known || format >= formats)
		return "its format (FLBAS) is beyond the formats that there are (NLBAF)";
	if (id->lbaf[format].ds < LBADS_MIN || id->lbaf[format].ds > LBADS_MAX)
		return "its block size (LBADS) is not one of 512 to 65536 bytes";
	if (id->lbaf[format].ms != 0)
		return "its format has metadata";
	if (id->nsze > (uint64_t)INT64_MAX >> id->lbaf[format].ds)
		return "its size (NSZE) is absurd";
	ns->block_size = 1u << id->lbaf[format].ds;
	ns->blocks = id->nsze;
	if (ns->block_size > ctrlr->info.max_transfer)
		return "its blocks are larger than what the controller can transfer (MDTS)";
	note_hints(ctrlr, id, ns);
	return NULL;
}

/* NVMe 1.4 §5.15.2.4. Returns the command set: NVME_CSI_NVM when it does not say. */
static uint8_t
parse_descriptors(const uint8_t *data, size_t size, struct nvme_ns *ns)
{
	uint8_t command_set = NVME_CSI_NVM;
	size_t at = 0;

	while (at + sizeof(struct nvme_ns_id_desc) <= size) {
		uint8_t type = data[at], length = data[at + 1];
		const uint8_t *value = data + at + sizeof(struct nvme_ns_id_desc);

		at += sizeof(struct nvme_ns_id_desc) + length;
		if (length == 0 || at > size)
			break;
		if (type == NVME_NIDT_EUI64 && length == sizeof(ns->eui64))
			memcpy(ns->eui64, value, length);
		else if (type == NVME_NIDT_NGUID && length == sizeof(ns->nguid))
			memcpy(ns->nguid, value, length);
		else if (type == NVME_NIDT_UUID && length == sizeof(ns->uuid))
			memcpy(ns->uuid, value, length);
		else if (type == NVME_NIDT_CSI && length == NVME_NIDT_CSI_LEN)
			command_set = value[0];
	}
	return command_set;
}

static int
identify(struct nvme_ctrlr *ctrlr, uint8_t structure, uint32_t nsid, void *data, uint16_t *status,
	 struct errmsg *err)
{
	struct nvme_admin_call call = {
		.command = {.opcode = nvme_admin_identify, .nsid = nsid, .cdw10 = structure},
		.data = data,
		.length = NVME_IDENTIFY_DATA_SIZE};
	int rc = nvme_admin_call_named(ctrlr, &call, "Identify Namespace", err);

	*status = call.status;
	return rc;
}

union identify_data {
	struct nvme_id_ns id;
	uint8_t bytes[NVME_IDENTIFY_DATA_SIZE];
};

/* What is usable by the first data: and by its descriptors. [waits] 0 or a negative errno. */
static int
read_descriptors(struct nvme_ctrlr *ctrlr, const struct nvme_known_ns *before,
		 union identify_data *data, struct nvme_ns *ns, const char **problem,
		 struct errmsg *err)
{
	uint16_t status;
	int rc = identify(ctrlr, NVME_IDENTIFY_CNS_NS_DESC_LIST, ns->nsid, data, &status, err);

	if (rc == 0 && parse_descriptors(data->bytes, sizeof(*data), ns) != NVME_CSI_NVM)
		*problem = "it has another command set than NVM";
	/* A device that does not say it now has not taken it back. */
	if (rc != 0 && before != NULL)
		memcpy(ns->uuid, before->ns.uuid, sizeof(ns->uuid));
	return status != 0 ? 0 : rc;
}

/*
 * Identify has failed with a status. A namespace that was there is gone only if the device means
 * it; but before requests go there after a reset, it must be known to be the same.
 */
static int
keep_unknown(struct nvme_ctrlr *ctrlr, struct scan *scan, uint32_t nsid,
	     const struct nvme_known_ns *before, uint16_t status, int rc)
{
	if (nvme_status_is_final(status))
		return 0;
	scan->incomplete = true;
	if (before == NULL) {
		if (ctrlr->scan_at == 0)
			ctrlr_log(warn, ctrlr, "namespace %u is not used as yet: Identify: %s",
				  nsid, nvme_status_name(status));
		return 0;
	}
	if (ctrlr->starting)
		return rc;
	scan->list[scan->count++] = *before;
	return 0;
}

/* Adds it, if it is there. -errno: none will. [waits] */
static int
scan_one(struct nvme_ctrlr *ctrlr, struct scan *scan, uint32_t nsid, struct errmsg *err)
{
	struct nvme_known_ns *known = &scan->list[scan->count];
	const struct nvme_known_ns *before = find(ctrlr, nsid);
	union identify_data data;
	const char *problem;
	uint16_t status;
	int rc = identify(ctrlr, NVME_IDENTIFY_CNS_NS, nsid, &data, &status, err);

	if (rc != 0)
		return status != 0 ? keep_unknown(ctrlr, scan, nsid, before, status, rc) : rc;
	/* One that has gone in this moment. */
	if (data.id.nsze == 0)
		return 0;
	scan->count++;
	known->ns.nsid = nsid;
	problem = parse(ctrlr, &data.id, &known->ns);
	if (problem == NULL && ctrlr->info.version >= VERSION(1, 3)) {
		rc = read_descriptors(ctrlr, before, &data, &known->ns, &problem, err);
		if (rc != 0)
			return rc;
	}
	known->usable = problem == NULL;
	if (problem != NULL && (before == NULL || before->usable))
		ctrlr_log(warn, ctrlr, "namespace %u is not used: %s", nsid, problem);
	return 0;
}

/* ---- all ---- */

/* Controllers before NVMe 1.1 have no list. */
static int
scan_all_numbers(struct nvme_ctrlr *ctrlr, struct scan *scan, struct errmsg *err)
{
	uint32_t last = ctrlr->id->nn < NAMESPACES_MAX ? ctrlr->id->nn : NAMESPACES_MAX;
	int rc = 0;

	for (uint32_t nsid = 1; nsid <= last && rc == 0; nsid++)
		rc = scan_one(ctrlr, scan, nsid, err);
	return rc;
}

/* One page of the list, of numbers above *nsid. 0; 1: it was the last; -errno. */
static int
scan_page(struct nvme_ctrlr *ctrlr, struct scan *scan, const struct nvme_ns_list *list,
	  uint32_t *nsid, struct errmsg *err)
{
	for (uint32_t i = 0; i < NVME_ID_NS_LIST_MAX; i++) {
		int rc;

		if (list->ns[i] == 0)
			return 1;
		if (list->ns[i] <= *nsid || list->ns[i] >= NVME_NSID_ALL - 1)
			return ctrlr_err(ctrlr, err, -EINVAL,
					 "its list of namespaces makes no sense: %u after %u",
					 list->ns[i], *nsid);
		*nsid = list->ns[i];
		if (scan->count == NAMESPACES_MAX) {
			ctrlr_log(warn, ctrlr, "only %u namespaces are used", NAMESPACES_MAX);
			return 1;
		}
		rc = scan_one(ctrlr, scan, *nsid, err);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int
scan_list(struct nvme_ctrlr *ctrlr, struct scan *scan, struct errmsg *err)
{
	struct nvme_ns_list list;
	uint32_t nsid = 0;
	uint16_t status;
	int rc;

	/* Ascending: it ends. */
	do {
		rc = identify(ctrlr, NVME_IDENTIFY_CNS_NS_ACTIVE_LIST, nsid, &list, &status, err);
		if (rc != 0 && status != 0 && nsid == 0)
			return scan_all_numbers(ctrlr, scan, err);
		if (rc == 0)
			rc = scan_page(ctrlr, scan, &list, &nsid, err);
	} while (rc == 0);
	return rc < 0 ? rc : 0;
}

/* Both were zeroed before, gaps too. */
static bool
is_as_before(const struct nvme_ctrlr *ctrlr, const struct scan *scan)
{
	return scan->count == ctrlr->namespace_count &&
	       (scan->count == 0 ||
		memcmp(scan->list, ctrlr->namespaces, scan->count * sizeof(scan->list[0])) == 0);
}

int
nvme_namespaces_scan(struct nvme_ctrlr *ctrlr, struct errmsg *err)
{
	struct scan scan = {.list = calloc(NAMESPACES_MAX, sizeof(scan.list[0]))};
	struct nvme_known_ns *list;
	size_t size;
	int rc;

	if (scan.list == NULL)
		return ctrlr_err(ctrlr, err, -ENOMEM, "%s", strerror(ENOMEM));
	if (ctrlr->info.version >= VERSION(1, 1))
		rc = scan_list(ctrlr, &scan, err);
	else
		rc = scan_all_numbers(ctrlr, &scan, err);
	ctrlr->scan_at = scan.incomplete ? nvme_deadline(nvme_retry_ms * 1000ull) : 0;
	if (rc != 0 || is_as_before(ctrlr, &scan)) {
		free(scan.list);
		return rc;
	}
	size = scan.count * sizeof(scan.list[0]);
	list = realloc(scan.list, size + 1);
	free(ctrlr->namespaces);
	ctrlr->namespaces = list != NULL ? list : scan.list;
	ctrlr->namespace_count = scan.count;
	if (ctrlr->event != NULL && ctrlr->attaching == NULL)
		ctrlr->event(ctrlr->event_ctx, NVME_EVENT_CHANGING);
	nvme_ctrlr_tell(ctrlr, NVME_EVENT_NAMESPACES);
	return 0;
}

const struct nvme_ns *
nvme_ns_next(struct nvme_ctrlr *ctrlr, uint32_t nsid)
{
	for (uint32_t i = 0; i < ctrlr->namespace_count; i++) {
		const struct nvme_known_ns *known = &ctrlr->namespaces[i];

		if (known->ns.nsid > nsid && known->usable)
			return &known->ns;
	}
	return NULL;
}
