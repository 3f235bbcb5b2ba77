/* SPDX-License-Identifier: BSD-3-Clause */
/* I/O commands (NVMe 1.4 §6). */
#include <string.h>

#include "device.h"

#define FUA         (1U << 30) /* CDW12 */
#define DNR(status) ((uint16_t)((status) | NVME_SC_DNR))

static uint64_t
first_block(const struct nvme_sqe *sqe)
{
	return (uint64_t)sqe->cdw11 << 32 | sqe->cdw10;
}

static uint32_t
block_count(const struct nvme_sqe *sqe)
{
	return (sqe->cdw12 & 0xffff) + 1;
}

/* The namespace of a command on a range of blocks that is within it; 0 or a status. */
static uint16_t
find_range(struct device *dev, const struct nvme_sqe *sqe, struct nvme_ns **found)
{
	struct nvme_ns *ns = namespace_find(dev, sqe->nsid);
	uint64_t first = first_block(sqe);

	*found = ns;
	if (ns == NULL)
		return DNR(NVME_SC_INVALID_NS);
	if (first >= ns->blocks || block_count(sqe) > ns->blocks - first)
		return DNR(NVME_SC_LBA_RANGE);
	return 0;
}

/* NVMe 1.4 §5.15.2.1: slower, and not forbidden. */
static void
count_crossing(struct device *dev, const struct nvme_sqe *sqe)
{
	uint64_t first = first_block(sqe), boundary = dev->settings.noiob;

	if (boundary != 0 && first / boundary != (first + block_count(sqe) - 1) / boundary)
		dev->statistics.crossings++;
}

/* The same for a command with data, whose memory is mapped. */
static uint16_t
find_data(struct device *dev, const struct nvme_sqe *sqe, uint32_t flags, struct nvme_ns **found)
{
	uint16_t status = find_range(dev, sqe, found);
	uint64_t length;

	if (status != 0)
		return status;
	count_crossing(dev, sqe);
	length = (uint64_t)block_count(sqe) << (*found)->shift;
	if (dev->settings.mdts != 0 && length > (uint64_t)PAGE << dev->settings.mpsmin
							       << dev->settings.mdts) {
		violation(dev, V_COMMAND, "%llu bytes in one command, more than MDTS allows",
			  (unsigned long long)length);
		return DNR(NVME_SC_INVALID_FIELD);
	}
	return transfer_map(dev, sqe, length, flags);
}

static uint16_t
not_offered(struct device *dev, const char *name)
{
	violation(dev, V_COMMAND, "%s is used, but not offered", name);
	return DNR(NVME_SC_INVALID_OPCODE);
}

static uint16_t
io_read(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct nvme_ns *ns;
	uint16_t status = find_data(dev, sqe, VFIO_USER_DMA_WRITEABLE, &ns);
	const uint8_t *data;

	(void)sq;
	(void)dw0;
	if (status != 0 || ns->kind == NAMESPACE_NULL)
		return status;
	data = ns->current + (first_block(sqe) << ns->shift);
	for (uint32_t i = 0; i < dev->transfer.count; i++) {
		const struct iovec *segment = &dev->transfer.segments[i];

		memcpy(segment->iov_base, data, segment->iov_len);
		data += segment->iov_len;
	}
	dev->statistics.blocks_read += (uint64_t)block_count(sqe) << (ns->shift - 9);
	return 0;
}

static uint16_t
io_write(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct nvme_ns *ns;
	uint16_t status = find_data(dev, sqe, VFIO_USER_DMA_READABLE, &ns);
	uint8_t *data;

	(void)sq;
	(void)dw0;
	if (status != 0 || ns->kind == NAMESPACE_NULL)
		return status;
	data = ns->current + (first_block(sqe) << ns->shift);
	for (uint32_t i = 0; i < dev->transfer.count; i++) {
		const struct iovec *segment = &dev->transfer.segments[i];

		memcpy(data, segment->iov_base, segment->iov_len);
		data += segment->iov_len;
	}
	dev->statistics.blocks_written += (uint64_t)block_count(sqe) << (ns->shift - 9);
	namespace_written(dev, ns, first_block(sqe), block_count(sqe), (sqe->cdw12 & FUA) != 0);
	return 0;
}

static uint16_t
io_compare(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct nvme_ns *ns;
	uint16_t status;
	const uint8_t *data;

	(void)sq;
	(void)dw0;
	if ((dev->settings.oncs & NVME_CTRL_ONCS_COMPARE) == 0)
		return not_offered(dev, "compare");
	status = find_data(dev, sqe, VFIO_USER_DMA_READABLE, &ns);
	if (status != 0 || ns->kind == NAMESPACE_NULL)
		return status;
	data = ns->current + (first_block(sqe) << ns->shift);
	for (uint32_t i = 0; i < dev->transfer.count; i++) {
		const struct iovec *segment = &dev->transfer.segments[i];

		if (memcmp(data, segment->iov_base, segment->iov_len) != 0)
			return DNR(STATUS(NVME_SCT_MEDIA, NVME_SC_COMPARE_FAILED));
		data += segment->iov_len;
	}
	return 0;
}

static uint16_t
io_flush(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	(void)sq;
	(void)dw0;
	if (sqe->nsid != NVME_NSID_ALL && namespace_find(dev, sqe->nsid) == NULL)
		return DNR(NVME_SC_INVALID_NS);
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++) {
		struct nvme_ns *ns = &dev->namespaces[i];

		if (ns->kind != NAMESPACE_NONE &&
		    (sqe->nsid == NVME_NSID_ALL || sqe->nsid == ns->nsid))
			namespace_flush(ns);
	}
	return 0;
}

static void
write_zeroes(struct device *dev, struct nvme_ns *ns, uint64_t first, uint64_t count, bool fua)
{
	if (ns->kind == NAMESPACE_NULL)
		return;
	memset(ns->current + (first << ns->shift), 0, count << ns->shift);
	namespace_written(dev, ns, first, count, fua);
}

static uint16_t
io_write_zeroes(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct nvme_ns *ns;
	uint16_t status;

	(void)sq;
	(void)dw0;
	if ((dev->settings.oncs & NVME_CTRL_ONCS_WRITE_ZEROES) == 0)
		return not_offered(dev, "write zeroes");
	status = find_range(dev, sqe, &ns);
	if (status == 0)
		write_zeroes(dev, ns, first_block(sqe), block_count(sqe), (sqe->cdw12 & FUA) != 0);
	return status;
}

static uint16_t
io_verify(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	struct nvme_ns *ns;

	(void)sq;
	(void)dw0;
	if ((dev->settings.oncs & NVME_CTRL_ONCS_VERIFY) == 0)
		return not_offered(dev, "verify");
	return find_range(dev, sqe, &ns);
}

/* The ranges, copied: the client may change them. */
static void
copy_ranges(const struct transfer *transfer, struct nvme_dsm_range *ranges)
{
	uint8_t *to = (uint8_t *)ranges;

	for (uint32_t i = 0; i < transfer->count; i++) {
		memcpy(to, transfer->segments[i].iov_base, transfer->segments[i].iov_len);
		to += transfer->segments[i].iov_len;
	}
}

static uint16_t
io_dataset_management(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0)
{
	static struct nvme_dsm_range ranges[256];
	struct nvme_ns *ns = namespace_find(dev, sqe->nsid);
	uint32_t count = (sqe->cdw10 & 0xff) + 1;
	uint16_t status;

	(void)sq;
	(void)dw0;
	if ((dev->settings.oncs & NVME_CTRL_ONCS_DSM) == 0)
		return not_offered(dev, "dataset management");
	if (ns == NULL)
		return DNR(NVME_SC_INVALID_NS);
	status = transfer_map(dev, sqe, count * sizeof(*ranges), VFIO_USER_DMA_READABLE);
	if (status != 0)
		return status;
	copy_ranges(&dev->transfer, ranges);
	for (uint32_t i = 0; i < count; i++) {
		if (ranges[i].slba > ns->blocks || ranges[i].nlb > ns->blocks - ranges[i].slba)
			return DNR(NVME_SC_LBA_RANGE);
	}
	for (uint32_t i = 0; i < count && (sqe->cdw11 & NVME_DSMGMT_AD) != 0; i++)
		write_zeroes(dev, ns, ranges[i].slba, ranges[i].nlb, false);
	return 0;
}

/*
 * CDW12: 15:0 NLB, 23:20 directive, 25 DEAC, 29:26 PRINFO, 30 FUA, 31 LR. CDW13: 7:0 DSM, 31:16
 * directive.
 */
const struct command_rule io_commands[256] = {
	[nvme_cmd_flush] = {"flush", io_flush, false, true, {~0u, ~0u, ~0u, ~0u, ~0u, ~0u}},
	[nvme_cmd_write] = {"write", io_write, true, true, {0, 0, 0x030f0000, 0x0000ff00, 0, 0}},
	[nvme_cmd_read] = {"read", io_read, true, true, {0, 0, 0x03ff0000, 0xffffff00, 0, 0}},
	[nvme_cmd_compare] = {"compare", io_compare, true, true, {0, 0, 0x03ff0000, ~0u, 0, 0}},
	[nvme_cmd_write_zeroes] =
		{"write zeroes", io_write_zeroes, false, true, {0, 0, 0x01ff0000, ~0u, 0, 0}},
	[nvme_cmd_dsm] = {"dataset management",
			  io_dataset_management,
			  true,
			  true,
			  {0xffffff00, 0xfffffff8, ~0u, ~0u, ~0u, ~0u}},
	[nvme_cmd_verify] = {"verify", io_verify, false, true, {0, 0, 0x03ff0000, ~0u, 0, 0}},
};
