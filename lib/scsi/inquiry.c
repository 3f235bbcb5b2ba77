/* SPDX-License-Identifier: BSD-3-Clause */
/* INQUIRY and the VPD pages: who the disk is, and what it can do. On the task's thread. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

#define VENDOR         "VHOSTD  "
#define INQUIRY_LENGTH 96
#define PAGE_MAX       512
#define NO_DEVICE      0x7f /* peripheral qualifier 011b, type 1Fh: SPC-4 §6.6.2 */

/* ---- names ---- */

/* The block device's UUID as 16 bytes; what is no hexadecimal digit is skipped. */
static void
uuid_bytes(const struct scsi_unit *unit, uint8_t bytes[16])
{
	unsigned int digits = 0;

	memset(bytes, 0, 16);
	for (const char *c = unit->info.uuid; *c != '\0' && digits < 32; c++) {
		unsigned int value;

		if (*c >= '0' && *c <= '9')
			value = (unsigned int)(*c - '0');
		else if ((*c | 0x20) >= 'a' && (*c | 0x20) <= 'f')
			value = (unsigned int)((*c | 0x20) - 'a' + 10);
		else
			continue;
		bytes[digits / 2] |= (uint8_t)(value << (digits % 2 == 0 ? 4 : 0));
		digits++;
	}
}

/* Printable ASCII, filled up with blanks (SPC-4 §4.3.1). */
static void
put_text(uint8_t *bytes, size_t length, const char *text)
{
	size_t used = strnlen(text, length);

	memset(bytes, ' ', length);
	for (size_t i = 0; i < used; i++)
		bytes[i] = text[i] >= ' ' && text[i] <= '~' ? (uint8_t)text[i] : '_';
}

/* ---- standard data, SPC-4 §6.6.2 ---- */

static void
standard_inquiry(struct scsi_task *task, uint64_t allocation)
{
	/* SAM-5, SPC-4, SBC-3: SPC-4 table 153. No transport: virtio has no code. */
	static const uint16_t versions[] = {0x00a0, 0x0460, 0x04c0};
	uint8_t data[INQUIRY_LENGTH] = {0};

	data[0] = task->lun != NULL ? 0x00 : NO_DEVICE;
	data[2] = 0x06; /* SPC-4 */
	data[3] = 0x12; /* HISUP: hierarchical LUNs; response data format 2 */
	data[4] = INQUIRY_LENGTH - 5;
	data[7] = 0x02; /* CMDQUE */
	put_text(data + 8, 8, VENDOR);
	put_text(data + 16, 16, task->lun != NULL ? task->lun->unit->info.product_name : "");
	put_text(data + 32, 4, VHOSTD_VERSION);
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		put_be16(data + 58 + 2 * i, versions[i]);
	scsi_data_in(task, data, sizeof(data), allocation);
}

/* ---- VPD pages: what follows the four bytes of the header; its length ---- */

static size_t page_list(const struct scsi_task *task, uint8_t *data);

static size_t
unit_serial_number(const struct scsi_task *task, uint8_t *data)
{
	size_t length = strlen(task->lun->unit->info.uuid);

	put_text(data, length, task->lun->unit->info.uuid);
	return length;
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

static size_t
device_identification(const struct scsi_task *task, uint8_t *data)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint8_t vendor[8 + BDEV_UUID_TEXT - 1], uuid[18] = {0x10}, naa[8];
	size_t length = 0;

	uuid_bytes(unit, uuid + 2);
	/* NAA 3h, locally assigned: the UUID's last 60 bits (SPC-4 §7.8.6.6.4). */
	memcpy(naa, uuid + 10, sizeof(naa));
	naa[0] = (uint8_t)(0x30 | (naa[0] & 0x0f));
	put_text(vendor, 8, VENDOR);
	put_text(vendor + 8, sizeof(vendor) - 8, unit->info.uuid);
	length += put_designator(data + length, 1, 0x03, naa, sizeof(naa));
	length += put_designator(data + length, 2, 0x01, vendor, sizeof(vendor));
	/* SPC-5 §7.7.6.11 */
	length += put_designator(data + length, 1, 0x0a, uuid, sizeof(uuid));
	length += put_target_port(task, data + length);
	return length;
}

/* There is no network that the disk is managed through. */
static size_t
management_addresses(const struct scsi_task *task, uint8_t *data)
{
	(void)task;
	(void)data;
	return 0;
}

static size_t
extended_inquiry(const struct scsi_task *task, uint8_t *data)
{
	(void)task;
	data[1] = 0x01;                                         /* SIMPSUP */
	data[2] = task->lun->unit->info.write_cache ? 0x01 : 0; /* V_SUP */
	data[3] = 0x01; /* LUICLR: a power-on is each nexus' own */
	data[9] = SCSI_SENSE_MAX;
	return 0x3c;
}

/* SPC-4 §7.8.10: all pages and subpages are shared by all nexuses. */
static size_t
mode_page_policy(const struct scsi_task *task, uint8_t *data)
{
	(void)task;
	data[0] = 0x3f;
	data[1] = 0xff;
	return 4;
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

/* SBC-3 §6.6.4 */
static size_t
block_limits(const struct scsi_task *task, uint8_t *data)
{
	const struct scsi_unit *unit = task->lun->unit;
	uint8_t shift = unit->block_shift;

	data[0] = 0x01; /* WSNZ */
	data[1] = (uint8_t)scsi_compare_blocks(unit);
	put_be16(data + 2, (uint16_t)(unit->info.physical_block_size >> shift));
	if (unit->can_discard) {
		uint32_t granularity = unit->info.discard_granularity >> shift;

		put_be32(data + 16, UINT32_MAX);
		put_be32(data + 20, SCSI_UNMAP_DESCRIPTORS);
		put_be32(data + 24, granularity != 0 ? granularity : 1);
		put_be32(data + 28, 0x80000000); /* UGAVALID: aligned to block 0 */
	}
	put_be64(data + 32, SCSI_WRITE_SAME_MAX_BYTES >> shift);
	return 0x3c;
}

static size_t
block_characteristics(const struct scsi_task *task, uint8_t *data)
{
	(void)task;
	put_be16(data, 1); /* does not rotate */
	return 0x3c;
}

/* SBC-3 §6.6.7 */
static size_t
block_provisioning(const struct scsi_task *task, uint8_t *data)
{
	const struct scsi_unit *unit = task->lun->unit;

	if (!unit->can_discard)
		return 4;
	data[1] = 0x80; /* LBPU */
	if (unit->can_zero)
		data[1] |= 0x60; /* LBPWS, LBPWS10 */
	data[2] = 0x02;          /* thin */
	return 4;
}

static const struct {
	uint8_t code;
	size_t (*fill)(const struct scsi_task *task, uint8_t *data);
} pages[] = {
	{0x00, page_list},
	{0x80, unit_serial_number},
	{0x83, device_identification},
	{0x85, management_addresses},
	{0x86, extended_inquiry},
	{0x87, mode_page_policy},
	{0x88, scsi_ports},
	{0xb0, block_limits},
	{0xb1, block_characteristics},
	{0xb2, block_provisioning},
};
#define PAGES (sizeof(pages) / sizeof(pages[0]))

static size_t
page_list(const struct scsi_task *task, uint8_t *data)
{
	(void)task;
	for (size_t i = 0; i < PAGES; i++)
		data[i] = pages[i].code;
	return PAGES;
}

static void
vpd_page(struct scsi_task *task, uint8_t code, uint64_t allocation)
{
	uint8_t data[PAGE_MAX] = {0};

	for (size_t i = 0; i < PAGES && task->lun != NULL; i++) {
		size_t length;

		if (pages[i].code != code)
			continue;
		length = pages[i].fill(task, data + 4);
		data[1] = code;
		put_be16(data + 2, (uint16_t)length);
		scsi_data_in(task, data, 4 + length, allocation);
		return;
	}
	scsi_refuse_cdb(task, 2, -1);
}

void
scsi_run_inquiry(struct scsi_task *task)
{
	uint16_t allocation = get_be16(task->cdb + 3);

	if (task->cdb[1] & 0x01)
		vpd_page(task, task->cdb[2], allocation);
	else if (task->cdb[2] != 0)
		scsi_refuse_cdb(task, 2, -1);
	else
		standard_inquiry(task, allocation);
	scsi_finish(task);
}
