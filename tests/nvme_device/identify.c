/* SPDX-License-Identifier: BSD-3-Clause */
/* Identify (NVMe 1.4 §5.15), and the bytes of it that tests replace. */
#include <string.h>

#include "device.h"

#define KEEP_ALIVE_UNITS 1 /* of 100 ms */

struct field {
	const char *name;
	uint32_t offset;
	uint32_t size;
};

#define FIELD(type, name)                                                                          \
	{                                                                                          \
#name, offsetof(struct type, name), sizeof(((struct type *)0)->name)               \
	}

static const struct field controller_fields[] = {
	FIELD(nvme_id_ctrl, vid),
	FIELD(nvme_id_ctrl, mdts),
	FIELD(nvme_id_ctrl, cntlid),
	FIELD(nvme_id_ctrl, ver),
	FIELD(nvme_id_ctrl, rtd3e),
	FIELD(nvme_id_ctrl, cntrltype),
	FIELD(nvme_id_ctrl, oacs),
	FIELD(nvme_id_ctrl, acl),
	FIELD(nvme_id_ctrl, aerl),
	FIELD(nvme_id_ctrl, kas),
	FIELD(nvme_id_ctrl, sqes),
	FIELD(nvme_id_ctrl, cqes),
	FIELD(nvme_id_ctrl, nn),
	FIELD(nvme_id_ctrl, oncs),
	FIELD(nvme_id_ctrl, fuses),
	FIELD(nvme_id_ctrl, vwc),
	FIELD(nvme_id_ctrl, awun),
	FIELD(nvme_id_ctrl, awupf),
	FIELD(nvme_id_ctrl, sgls),
	FIELD(nvme_id_ctrl, maxcmd),
	FIELD(nvme_id_ctrl, cmic),
	{"mn", 24, 8},
	{"sn", 4, 8},
};

static const struct field namespace_fields[] = {
	FIELD(nvme_id_ns, nsze),
	FIELD(nvme_id_ns, ncap),
	FIELD(nvme_id_ns, nuse),
	FIELD(nvme_id_ns, nsfeat),
	FIELD(nvme_id_ns, nlbaf),
	FIELD(nvme_id_ns, flbas),
	FIELD(nvme_id_ns, dps),
	FIELD(nvme_id_ns, nmic),
	FIELD(nvme_id_ns, dlfeat),
	FIELD(nvme_id_ns, noiob),
	FIELD(nvme_id_ns, npwg),
	FIELD(nvme_id_ns, nawupf),
	FIELD(nvme_id_ns, nabspf),
	{"lbads", offsetof(struct nvme_id_ns, lbaf[0].ds), 1},
	{"ms", offsetof(struct nvme_id_ns, lbaf[0].ms), 2},
};

const char *
patch_field(const char *name, bool controller, struct patch *patch)
{
	const struct field *fields = controller ? controller_fields : namespace_fields;
	size_t count = controller ? sizeof(controller_fields) / sizeof(*fields)
				  : sizeof(namespace_fields) / sizeof(*fields);

	for (size_t i = 0; i < count; i++) {
		if (strcmp(fields[i].name, name) != 0)
			continue;
		patch->offset = fields[i].offset;
		patch->size = fields[i].size < 8 ? fields[i].size : 8;
		return fields[i].name;
	}
	return NULL;
}

static void
apply_patches(const struct device *dev, uint32_t nsid, void *data)
{
	for (uint32_t i = 0; i < dev->patch_count; i++) {
		const struct patch *patch = &dev->patches[i];

		if (patch->nsid == nsid)
			memcpy((uint8_t *)data + patch->offset, &patch->value, patch->size);
	}
}

static void
fill(char *field, size_t size, const char *text)
{
	memset(field, ' ', size);
	memcpy(field, text, strlen(text) < size ? strlen(text) : size);
}

static uint16_t
answer(struct device *dev, const struct nvme_sqe *sqe, const void *data, size_t length)
{
	return transfer_answer(dev, sqe, data, length, NVME_IDENTIFY_DATA_SIZE);
}

static uint16_t
identify_controller(struct device *dev, const struct nvme_sqe *sqe)
{
	const struct settings *settings = &dev->settings;
	struct nvme_id_ctrl id = {
		.vid = 0x1b36,
		.ssvid = 0x1af4,
		.rab = 6,
		.mdts = (uint8_t)settings->mdts,
		.ver = 0x10400,
		.oaes = NVME_CTRL_OAES_NA,
		.cntrltype = 1,
		.oacs = settings->dbbuf ? NVME_CTRL_OACS_DBBUF_CFG : 0,
		.acl = 3,
		.aerl = EVENT_REQUESTS - 1,
		.frmw = 1 << 1 | NVME_CTRL_FRMW_1ST_RO,
		.lpa = NVME_CTRL_LPA_EXTENDED,
		.elpe = ERROR_ENTRIES - 1,
		.wctemp = 343,
		.cctemp = 373,
		.kas = KEEP_ALIVE_UNITS,
		.sqes = 0x66,
		.cqes = 0x44,
		.nn = MAX_NAMESPACES,
		.oncs = (uint16_t)settings->oncs,
		.fuses = settings->fused ? NVME_CTRL_FUSES_COMPARE_AND_WRITE : 0,
		/* Flush of all namespaces is carried out. */
		.vwc = 3 << 1 | (settings->cache ? NVME_CTRL_VWC_PRESENT : 0),
		.acwu = 0,
		.sgls = settings->sgl ? 1 : 0,
	};

	fill(id.sn, sizeof(id.sn), "SOFTWARE-0001");
	fill(id.mn, sizeof(id.mn), "vhostd software NVMe device");
	fill(id.fr, sizeof(id.fr), "1.0");
	strcpy(id.subnqn, "nqn.2014-08.org.nvmexpress:uuid:7a2b6f0e-5b5d-4a53-9d2a-0d6f1c1e0001");
	apply_patches(dev, 0, &id);
	return answer(dev, sqe, &id, sizeof(id));
}

/* One that there is not: zeroes. */
static uint16_t
identify_namespace(struct device *dev, const struct nvme_sqe *sqe)
{
	const struct nvme_ns *ns = namespace_find(dev, sqe->nsid);
	struct nvme_id_ns id = {.dlfeat = 1 | 1 << 3};

	if (sqe->nsid == 0 || sqe->nsid > MAX_NAMESPACES)
		return NVME_SC_INVALID_NS | NVME_SC_DNR;
	if (ns == NULL)
		return answer(dev, sqe, &id, 0);
	id.nsze = ns->blocks;
	id.ncap = ns->blocks;
	id.nuse = ns->blocks;
	id.noiob = (uint16_t)dev->settings.noiob;
	id.lbaf[0].ds = (uint8_t)ns->shift;
	memcpy(id.nguid, "vhostd\0\0\0\0\0\0\0\0\0", sizeof(id.nguid));
	id.nguid[15] = (uint8_t)ns->nsid;
	apply_patches(dev, ns->nsid, &id);
	return answer(dev, sqe, &id, sizeof(id));
}

static uint16_t
identify_active_list(struct device *dev, const struct nvme_sqe *sqe)
{
	struct nvme_ns_list list = {0};
	uint32_t count = 0;

	if (sqe->nsid >= NVME_NSID_ALL - 1)
		return NVME_SC_INVALID_NS | NVME_SC_DNR;
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++) {
		if (dev->namespaces[i].kind != NAMESPACE_NONE && i + 1 > sqe->nsid)
			list.ns[count++] = i + 1;
	}
	return answer(dev, sqe, &list, sizeof(list));
}

static uint16_t
identify_descriptors(struct device *dev, const struct nvme_sqe *sqe)
{
	uint8_t data[64] = {NVME_NIDT_UUID,
			    NVME_NIDT_UUID_LEN,
			    0,
			    0,
			    0x7a,
			    0x2b,
			    0x6f,
			    0x0e,
			    0x5b,
			    0x5d,
			    0x4a,
			    0x53,
			    0x9d,
			    0x2a,
			    0x0d,
			    0x6f,
			    0x1c,
			    0x1e,
			    0,
			    0};

	if (namespace_find(dev, sqe->nsid) == NULL)
		return NVME_SC_INVALID_NS | NVME_SC_DNR;
	data[19] = (uint8_t)sqe->nsid;
	return answer(dev, sqe, data, sizeof(data));
}

uint16_t
identify(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	static const struct {
		uint8_t cns;
		uint16_t (*run)(struct device *, const struct nvme_sqe *);
	} structures[] = {
		{NVME_IDENTIFY_CNS_NS, identify_namespace},
		{NVME_IDENTIFY_CNS_CTRL, identify_controller},
		{NVME_IDENTIFY_CNS_NS_ACTIVE_LIST, identify_active_list},
		{NVME_IDENTIFY_CNS_NS_DESC_LIST, identify_descriptors},
	};

	(void)sq;
	(void)dw0;
	for (size_t i = 0; i < sizeof(structures) / sizeof(*structures); i++) {
		if (structures[i].cns == (sqe->cdw10 & 0xff))
			return structures[i].run(dev, sqe);
	}
	return NVME_SC_INVALID_FIELD | NVME_SC_DNR;
}
