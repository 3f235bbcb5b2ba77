/* SPDX-License-Identifier: BSD-3-Clause */
/* INQUIRY and the VPD pages: who the disk is, and what it can do. On the task's thread. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

#define PAGE_MAX  512
#define NO_DEVICE 0x7f /* peripheral qualifier 011b, type 1Fh: SPC-4 §6.6.2 */
#define W_LUN     0x1e /* well-known logical unit */
#define VENDOR    'V', 'H', 'O', 'S', 'T', 'D', ' ', ' '

/* ---- names ---- */

/* Printable ASCII, which it is, filled up with blanks (SPC-4 §4.3.1). */
static void
put_text(uint8_t *bytes, size_t length, const char *text)
{
	memset(bytes, ' ', length);
	memcpy(bytes, text, strnlen(text, length));
}

/* SPC-4 §7.8.6: a designation descriptor. */
static size_t
put_designator(uint8_t *data, uint8_t code_set, uint8_t type, const void *designator, size_t length)
{
	data[0] = code_set;
	data[1] = type;
	data[2] = 0;
	data[3] = (uint8_t)length;
	memcpy(data + 4, designator, length);
	return 4 + length;
}

static size_t
put_target_port(const struct scsi_task *task, uint8_t *data)
{
	uint8_t port[4] = {0};

	put_be16(port + 2, task->target->nexus.target_port);
	return put_designator(data, 1, 0x14, port, sizeof(port));
}

/* Those of the logical unit, from the block device's UUID. */
static size_t
put_unit(const struct scsi_unit *unit, uint8_t *data)
{
	uint8_t vendor[8 + BDEV_UUID_TEXT - 1] = {VENDOR}, uuid[18] = {0x10}, naa[8];
	const char *text = unit->info.uuid;
	size_t length;

	for (int i = 2; i < 18; i++, text += 2) {
		text += *text == '-';
		sscanf(text, "%2hhx", &uuid[i]);
	}
	/* NAA 3h, locally assigned: the UUID's last 60 bits (SPC-4 §7.8.6.6.4). */
	memcpy(naa, uuid + 10, sizeof(naa));
	naa[0] = (uint8_t)(0x30 | (naa[0] & 0x0f));
	put_text(vendor + 8, sizeof(vendor) - 8, unit->info.uuid);
	length = put_designator(data, 1, 0x03, naa, sizeof(naa));
	length += put_designator(data + length, 2, 0x01, vendor, sizeof(vendor));
	/* SPC-5 §7.7.6.11 */
	return length + put_designator(data + length, 1, 0x0a, uuid, sizeof(uuid));
}

bool
scsi_unit_is_designated(const struct scsi_unit *unit, const uint8_t *designator)
{
	uint8_t own[PAGE_MAX];
	size_t length = put_unit(unit, own);

	for (size_t at = 0; at < length; at += 4u + own[at + 3]) {
		if (own[at + 3] <= 20 && memcmp(designator, own + at, 4u + own[at + 3]) == 0)
			return true;
	}
	return false;
}

/* ---- standard data, SPC-4 §6.6.2 ---- */

static bool
standard_inquiry(struct scsi_task *task, uint64_t allocation)
{
	/*
	 * SPC-4; HISUP: hierarchical LUNs; response data format 2; 3PC; CMDQUE. Versions: SAM-5,
	 * SPC-4, SBC-3 (SPC-4 table 153). No transport: virtio has no code.
	 */
	/* clang-format off */
	static const uint8_t standard[96] = {
		0, 0, 0x06, 0x12, sizeof(standard) - 5, 0x08, 0, 0x02, VENDOR,
		[58] = 0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0,
	};
	/* clang-format on */
	const struct scsi_channel *channel = task->channel;
	uint8_t data[sizeof(standard)];

	memcpy(data, standard, sizeof(data));
	if (channel == NULL)
		data[0] = task->lun != NULL ? W_LUN : NO_DEVICE;
	put_text(data + 16, 16, channel != NULL ? channel->unit->info.product_name : "");
	put_text(data + 32, 4, VHOSTD_VERSION);
	return scsi_data_in(task, data, sizeof(data), allocation);
}

/* ---- VPD pages: what follows the four bytes of the header; returns its length ---- */

static size_t page_list(const struct scsi_task *task, uint8_t *data);

static size_t
unit_serial_number(const struct scsi_task *task, uint8_t *data)
{
	put_text(data, BDEV_UUID_TEXT - 1, task->lun->unit->info.uuid);
	return BDEV_UUID_TEXT - 1;
}

static size_t
device_identification(const struct scsi_task *task, uint8_t *data)
{
	size_t length = task->channel != NULL ? put_unit(task->channel->unit, data) : 0;

	return length + put_target_port(task, data + length);
}

static size_t
extended_inquiry(const struct scsi_task *task, uint8_t *data)
{
	data[2] = task->lun->unit->info.write_cache ? 0x01 : 0; /* V_SUP */
	return 0x3c;
}

/* SPC-4 §7.8.15: the one port that this initiator knows. */
static size_t
scsi_ports(const struct scsi_task *task, uint8_t *data)
{
	size_t length = put_target_port(task, data + 12);

	put_be16(data + 2, task->target->nexus.target_port);
	put_be16(data + 10, (uint16_t)length);
	return 12 + length;
}

/* SPC-4 §7.8.17: commands, parameters, descriptors, identifiers, operations. */
static size_t
third_party_copy(const struct scsi_task *task, uint8_t *data)
{
	/* clang-format off */
	static const uint8_t page[96] = {
		0x00, 0x01, 0, 8, 7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03,
		0x00, 0x04, 0, 28, 0, 0, 0, 0, 0, SCSI_CSCDS_MAX, 0, SCSI_SEGMENTS_MAX,
		0, 0, SCSI_COPY_LIST_MAX >> 8, SCSI_COPY_LIST_MAX & 0xff,
		[44] = 0x00, 0x08, 0, 4, 2, 0x02, 0xe4, 0,
		0x00, 0x0c, 0, 4, 0, 0, 0, 0,
		0x80, 0x01, 0, 32, 0, 0, 0, 1, 0, 0, 0, 1, [76] = 9,
	};
	/* clang-format on */

	(void)task;
	memcpy(data, page, sizeof(page));
	return sizeof(page);
}

/* SBC-4 §6.6.4 */
static size_t
block_limits(const struct scsi_task *task, uint8_t *data)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint8_t shift = unit->block_shift;

	data[1] = unit->compare_blocks;
	put_be16(data + 2, (uint16_t)(unit->info.physical_block_size >> shift));
	/* More than there can be data for; but a limit has to be there where there is one of
	 * atomic writes. */
	put_be32(data + 4, INT32_MAX);
	if (unit->can_discard) {
		uint32_t granularity = unit->info.discard_granularity >> shift;

		put_be32(data + 16, UINT32_MAX);
		put_be32(data + 20, SCSI_UNMAP_DESCRIPTORS);
		put_be32(data + 24, granularity != 0 ? granularity : 1);
		put_be32(data + 28, 0x80000000); /* UGAVALID: aligned to block 0 */
	}
	put_be64(data + 32, SCSI_WRITE_SAME_MAX_BYTES >> shift);
	put_be32(data + 40, unit->atomic_blocks);
	return 0x3c;
}

/* SBC-3 §6.6.7 */
static size_t
block_provisioning(const struct scsi_task *task, uint8_t *data)
{
	const struct scsi_unit *unit = task->lun->unit;

	if (unit->can_discard) {
		data[1] = unit->can_zero ? 0xe0 : 0x80; /* LBPU, LBPWS, LBPWS10 */
		data[2] = 0x02;                         /* thin */
	}
	return 4;
}

static const struct page {
	uint8_t code;
	bool anywhere;  /* also at the well-known logical unit */
	uint8_t length; /* of those without fill() */
	size_t (*fill)(const struct scsi_task *task, uint8_t *data);
	uint8_t bytes[16];
} pages[] = {
	{0x00, true, .fill = page_list},
	{0x80, .fill = unit_serial_number},
	{0x83, true, .fill = device_identification},
	/* There is no network that the disk is managed through. */
	{0x85, .length = 0},
	/* HEADSUP, ORDSUP, SIMPSUP; LUICLR: a power-on is each nexus' own. */
	{0x86, .fill = extended_inquiry, .bytes = {0, 0x07, 0, 0x01, [9] = SCSI_SENSE_MAX}},
	/* SPC-4 §7.8.10: all pages and subpages are shared by all nexuses. */
	{0x87, .length = 4, .bytes = {0x3f, 0xff}},
	{0x88, .fill = scsi_ports},
	{0x8f, .fill = third_party_copy},
	{0xb0, .fill = block_limits},
	{0xb1, .length = 0x3c, .bytes = {0, 1}}, /* does not rotate */
	{0xb2, .fill = block_provisioning},
};
#define PAGES (sizeof(pages) / sizeof(pages[0]))

static size_t
page_list(const struct scsi_task *task, uint8_t *data)
{
	size_t length = 0;

	for (size_t i = 0; i < PAGES; i++) {
		if (task->channel != NULL || pages[i].anywhere)
			data[length++] = pages[i].code;
	}
	return length;
}

static bool
vpd_page(struct scsi_task *task, uint8_t code, uint64_t allocation)
{
	uint8_t data[PAGE_MAX] = {0};
	const struct page *page = pages;
	size_t length;

	while (page < pages + PAGES && page->code != code)
		page++;
	if (page == pages + PAGES || task->lun == NULL ||
	    (task->channel == NULL && !page->anywhere))
		return scsi_refuse_cdb(task, 2, -1);
	data[0] = task->channel == NULL ? W_LUN : 0;
	data[1] = code;
	memcpy(data + 4, page->bytes, sizeof(page->bytes));
	length = page->fill != NULL ? page->fill(task, data + 4) : page->length;
	put_be16(data + 2, (uint16_t)length);
	return scsi_data_in(task, data, 4 + length, allocation);
}

bool
scsi_run_inquiry(struct scsi_task *task)
{
	uint16_t allocation = get_be16(task->cdb + 3);

	if (task->cdb[1] & 0x01)
		return vpd_page(task, task->cdb[2], allocation);
	return task->cdb[2] == 0 ? standard_inquiry(task, allocation)
				 : scsi_refuse_cdb(task, 2, -1);
}
