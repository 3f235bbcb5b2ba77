/* SPDX-License-Identifier: BSD-3-Clause */
/* Mode pages, MODE SENSE and MODE SELECT: in the unit's coroutine on the app thread. */
#include <string.h>

#include "internal.h"

#define PAGE_MAX     20 /* bytes */
#define ALL_PAGES    0x3f
#define ALL_SUBPAGES 0xff

#define WCE     0x04 /* caching, byte 2 */
#define D_SENSE 0x04 /* control, byte 2 */
#define SWP     0x08 /* control, byte 4 */

enum page_control { CURRENT_VALUES, CHANGEABLE_VALUES, DEFAULT_VALUES, SAVED_VALUES };

enum { ERROR_RECOVERY, CACHING, CONTROL, EXCEPTIONS, PAGES };

/* In the order of MODE SENSE. Behind the bytes that are here there are zeroes. */
static const struct mode_page {
	uint8_t length, bytes[12];
} pages[] = {
	/* AWRE, ARRE: below us */
	[ERROR_RECOVERY] = {12, {0x01, 10, 0xc0}},
	/* WCE where there is a cache */
	[CACHING] = {20, {0x08, 18, WCE}},
	/*
	 * TST 0: one task set for all. GLTSD: no log parameters are saved. Commands may be
	 * reordered; QERR 0: an error concerns its own command only. Busy for as long as it takes.
	 */
	[CONTROL] = {12, {0x0a, 10, 0x02, 0x10, [8] = 0xff, 0xff}},
	/* DEXCPT: there are none to report */
	[EXCEPTIONS] = {12, {0x1c, 10, 0x08}},
};

/* The bits that may change, as enum scsi_mode_change has them. */
static const struct {
	uint8_t page, byte, bit;
} changes[SCSI_MODE_CHANGES] = {{CACHING, 2, WCE}, {CONTROL, 2, D_SENSE}, {CONTROL, 4, SWP}};

/* data: PAGE_MAX zeroes. */
static void
get_page(const struct scsi_unit *unit, int i, enum page_control control, uint8_t *data)
{
	const uint8_t flips[SAVED_VALUES] = {
		[CURRENT_VALUES] = unit->kept->modes, [CHANGEABLE_VALUES] = 0xff};

	memcpy(data, pages[i].bytes, control == CHANGEABLE_VALUES ? 2 : sizeof(pages[i].bytes));
	for (int change = 0; change < SCSI_MODE_CHANGES; change++) {
		if (changes[change].page == i && flips[control] >> change & 1)
			data[changes[change].byte] ^= changes[change].bit;
	}
	if (i == CACHING && !unit->info.write_cache)
		data[2] &= (uint8_t)~WCE;
}

void
scsi_modes_apply(struct scsi_unit *unit)
{
	uint8_t modes = unit->kept->modes;

	atomic_store(&unit->descriptor_sense, (modes & SCSI_MODE_DESCRIPTOR_SENSE) != 0);
	atomic_store(&unit->write_through,
		     unit->info.write_cache && modes & SCSI_MODE_WRITE_THROUGH);
	unit->write_protected = unit->read_only || modes & SCSI_MODE_WRITE_PROTECTED;
	scsi_unit_alert(unit, NULL, unit->write_protected ? SCSI_ALERT_PROTECTED : 0,
			unit->write_protected ? 0 : SCSI_ALERT_PROTECTED);
}

/* ---- MODE SENSE, SPC-4 §6.11 ---- */

/* SBC-3 §6.5.2: short or long; its length. */
static size_t
put_block_descriptor(const struct scsi_unit *unit, bool is_long, uint8_t *data)
{
	uint64_t blocks = atomic_load(&unit->blocks);

	if (is_long) {
		put_be64(data, blocks);
		put_be32(data + 12, unit->info.block_size);
		return 16;
	}
	put_be32(data, blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX);
	put_be32(data + 4, unit->info.block_size);
	return 8;
}

bool
scsi_run_mode_sense(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->channel->unit;
	const uint8_t *cdb = task->cdb;
	bool ten = task->command->length == 10, is_long = ten && cdb[1] & 0x10;
	size_t header = ten ? 8 : 4, descriptor = 0, length;
	uint8_t specific = unit->write_protected ? 0x90 : 0x10; /* WP, DPOFUA */
	uint8_t data[8 + 16 + (PAGES + 1) * PAGE_MAX] = {0}, code = cdb[2] & ALL_PAGES;

	if (cdb[2] >> 6 == SAVED_VALUES)
		return scsi_illegal(task, SCSI_CODE_SAVING_NOT_SUPPORTED);
	if (cdb[3] != 0 && cdb[3] != ALL_SUBPAGES)
		return scsi_refuse_cdb(task, 3, -1);
	if (!(cdb[1] & 0x08))
		descriptor = put_block_descriptor(unit, is_long, data + header);
	length = header + descriptor;
	for (int i = 0; i < PAGES; i++) {
		if (code != ALL_PAGES && code != pages[i].bytes[0])
			continue;
		get_page(unit, i, cdb[2] >> 6, data + length);
		length += pages[i].length;
	}
	if (length == header + descriptor)
		return scsi_refuse_cdb(task, 2, 5);
	data[header - 1] = (uint8_t)descriptor;
	if (!ten) {
		data[0] = (uint8_t)(length - 1);
		data[2] = specific;
		return scsi_data_in(task, data, length, cdb[4]);
	}
	put_be16(data, (uint16_t)(length - 2));
	data[3] = specific;
	data[4] = is_long && descriptor != 0; /* LONGLBA */
	return scsi_data_in(task, data, length, get_be16(cdb + 7));
}

/* ---- MODE SELECT, SPC-4 §6.9; false: the task has its status ---- */

struct mode_list {
	struct scsi_task *task;
	const uint8_t *bytes;
	uint32_t length;
	uint32_t at; /* where the next part begins */
};

static bool
refuse_length(const struct mode_list *list)
{
	return !scsi_illegal(list->task, SCSI_CODE_PARAMETER_LIST_LENGTH);
}

/* The next bytes are as expected, but for bits that may be anything. */
static bool
take_bytes(struct mode_list *list, const uint8_t *expected, const uint8_t *any, uint32_t count)
{
	if (list->length - list->at < count)
		return refuse_length(list);
	for (uint32_t i = 0; i < count; i++, list->at++) {
		uint8_t wrong = (list->bytes[list->at] ^ expected[i]) & (uint8_t)~any[i];

		if (wrong != 0)
			return !scsi_refuse_list(list->task, (uint16_t)list->at,
						 31 - __builtin_clz(wrong));
	}
	return true;
}

/*
 * Mode parameter header and block descriptor (SPC-4 §7.5.5). The disk's size and block size are what
 * they are: a descriptor may only say so (or 0 blocks).
 */
static bool
take_header(struct mode_list *list)
{
	static const uint8_t any_6[] = {0xff, 0, 0xff, 0}, none[16];
	static const uint8_t any_10[] = {0xff, 0xff, 0, 0xff, 0x01, 0, 0, 0};
	bool ten = list->task->command->length == 10, is_long;
	uint32_t header = ten ? 8 : 4, size, count;
	uint8_t expected[16] = {0};

	if (list->length < header)
		return refuse_length(list);
	is_long = ten && list->bytes[4] & 0x01;
	size = is_long ? 16 : 8;
	count = size / 2;
	if (list->bytes[header - 1] != 0)
		expected[header - 1] = (uint8_t)size;
	if (!take_bytes(list, expected, ten ? any_10 : any_6, header))
		return false;
	if (expected[header - 1] == 0)
		return true;
	memset(expected, 0, sizeof(expected));
	put_block_descriptor(list->task->channel->unit, is_long, expected);
	if (list->length - list->at >= count && memcmp(list->bytes + list->at, none, count) == 0)
		memset(expected, 0, count);
	return take_bytes(list, expected, none, size);
}

/* One page into modes; only bits that may change may differ. */
static bool
take_page(struct mode_list *list, uint8_t *modes)
{
	const struct scsi_unit *unit = list->task->channel->unit;
	const uint8_t *bytes = list->bytes + list->at;
	uint8_t first[PAGE_MAX] = {0}, any[PAGE_MAX] = {0};
	int i = 0;

	while (i < PAGES && bytes[0] != pages[i].bytes[0])
		i++;
	if (i == PAGES)
		return !scsi_refuse_list(list->task, (uint16_t)list->at, 7);
	get_page(unit, i, DEFAULT_VALUES, first);
	get_page(unit, i, CHANGEABLE_VALUES, any);
	/* The length, behind the code, is that of the page here. */
	memset(any, 0, 2);
	if (!take_bytes(list, first, any, pages[i].length))
		return false;
	for (int change = 0; change < SCSI_MODE_CHANGES; change++) {
		uint8_t byte = changes[change].byte, mask = (uint8_t)(1u << change);
		bool set = (bytes[byte] ^ first[byte]) & changes[change].bit;

		if (changes[change].page == i)
			*modes = (uint8_t)((*modes & ~mask) | (set ? mask : 0));
	}
	return true;
}

static bool
is_write(const struct scsi_walk *walk, const struct scsi_task *task)
{
	(void)walk;
	return task->command->flags & SCSI_CMD_WRITES && !task->in_line;
}

bool
scsi_run_mode_select(struct scsi_task *task)
{
	struct scsi_unit *unit = task->channel->unit;
	struct mode_list list = {.task = task, .length = task->cdb[4]};
	struct scsi_kept next = *unit->kept;
	bool cached = !load(unit->write_through), good;

	if (task->command->length == 10)
		list.length = get_be16(task->cdb + 7);
	if (task->cdb[1] & 0x01) /* SP: nothing is saved */
		return scsi_refuse_cdb(task, 1, 0);
	if (!(task->cdb[1] & 0x10)) /* PF: there are standard pages only */
		return scsi_refuse_cdb(task, 1, 4);
	if (list.length == 0 || !scsi_take_data_out(task, list.length, 0))
		return true;
	list.bytes = task->buffer;
	good = take_header(&list);
	while (good && list.at < list.length)
		good = take_page(&list, &next.modes);
	if (!good || next.modes == unit->kept->modes || !scsi_keep(task, &next))
		return true;
	scsi_modes_apply(unit);
	/* What is cached, or on its way there, is to be durable with this command. */
	if (cached && load(unit->write_through)) {
		scsi_unit_walk(unit, &(struct scsi_walk){.waits_for = is_write});
		scsi_run_to_its_end(task);
	}
	scsi_unit_alert(unit, task->lun, 1u << SCSI_UA_MODE_CHANGED, 0);
	return true;
}
