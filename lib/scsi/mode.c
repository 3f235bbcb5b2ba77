/* SPDX-License-Identifier: BSD-3-Clause */
/* Mode pages, MODE SENSE and MODE SELECT: in the unit's coroutine on the app thread. */
#include <string.h>

#include "internal.h"

#define PAGES        5
#define ALL_PAGES    0x3f
#define ALL_SUBPAGES 0xff

enum page_control {
	CURRENT_VALUES,
	CHANGEABLE_VALUES,
	DEFAULT_VALUES,
	SAVED_VALUES,
};

/* Bytes of all pages, where the changeable bits have names. */
enum {
	ERROR_RECOVERY_AT = 0,
	CACHING_AT = ERROR_RECOVERY_AT + 12,
	CONTROL_AT = CACHING_AT + 20,
	CONTROL_EXTENSION_AT = CONTROL_AT + 12,
	EXCEPTIONS_AT = CONTROL_EXTENSION_AT + 32,
	MODE_BYTES = EXCEPTIONS_AT + 12,
};
_Static_assert(MODE_BYTES <= SCSI_MODE_BYTES, "room for all pages");

#define WCE     0x04 /* caching, byte 2 */
#define D_SENSE 0x04 /* control, byte 2 */
#define SWP     0x08 /* control, byte 4 */

/* In the order of MODE SENSE: page codes, then subpages. */
static const struct mode_page {
	uint8_t code, subpage, at, length;
} pages[PAGES] = {
	{0x01, 0, ERROR_RECOVERY_AT, 12}, {0x08, 0, CACHING_AT, 20},
	{0x0a, 0, CONTROL_AT, 12},        {0x0a, 1, CONTROL_EXTENSION_AT, 32},
	{0x1c, 0, EXCEPTIONS_AT, 12},
};

static const struct scsi_modes defaults = {{
	[ERROR_RECOVERY_AT] = 0x01,
	10,
	0xc0, /* AWRE, ARRE: below us */
	[CACHING_AT] = 0x08,
	18,
	WCE, /* where there is a cache */
	[CONTROL_AT] = 0x0a,
	10,
	0x02, /* GLTSD: no log parameters are saved */
	0x10, /* commands may be reordered; QERR 0: an error concerns its own command only */
	0,
	0x00,
	0,
	0,
	0xff,
	0xff, /* busy for as long as it takes */
	[CONTROL_EXTENSION_AT] = 0x4a,
	0x01,
	0,
	28,
	0,
	0,
	SCSI_SENSE_MAX,
	[EXCEPTIONS_AT] = 0x1c,
	10,
	0x08, /* DEXCPT: there are none to report */
}};

static const struct scsi_modes changeable = {{
	[ERROR_RECOVERY_AT] = 0x01,
	10,
	[CACHING_AT] = 0x08,
	18,
	WCE,
	[CONTROL_AT] = 0x0a,
	10,
	D_SENSE,
	0,
	SWP,
	[CONTROL_EXTENSION_AT] = 0x4a,
	0x01,
	0,
	28,
	[EXCEPTIONS_AT] = 0x1c,
	10,
}};

/* What this unit has of defaults and of changeable: no cache, no WCE. */
static struct scsi_modes
modes_of(const struct scsi_unit *unit, const struct scsi_modes *modes)
{
	struct scsi_modes own = *modes;

	if (!unit->info.write_cache)
		own.bytes[CACHING_AT + 2] &= (uint8_t)~WCE;
	return own;
}

/* Makes what pages say count. Commands that were submitted before are not concerned. */
static void
apply(struct scsi_unit *unit, const struct scsi_modes *modes)
{
	unit->modes = *modes;
	atomic_store(&unit->descriptor_sense, (modes->bytes[CONTROL_AT + 2] & D_SENSE) != 0);
	atomic_store(&unit->write_protected,
		     unit->read_only || (modes->bytes[CONTROL_AT + 4] & SWP) != 0);
	scsi_unit_alert(unit, SCSI_ALERT_PROTECTED, atomic_load(&unit->write_protected));
	atomic_store(&unit->write_through,
		     unit->info.write_cache && !(modes->bytes[CACHING_AT + 2] & WCE));
}

void
scsi_modes_init(struct scsi_unit *unit)
{
	struct scsi_modes modes = modes_of(unit, &defaults);

	apply(unit, &modes);
}

/* ---- MODE SENSE, SPC-4 §6.11 ---- */

/* The requested pages behind each other; 0: there is no such page. */
static size_t
put_pages(const struct scsi_modes *modes, uint8_t code, uint8_t subpage, uint8_t *data)
{
	size_t length = 0;

	for (int i = 0; i < PAGES; i++) {
		const struct mode_page *page = &pages[i];

		if ((code != ALL_PAGES && code != page->code) ||
		    (subpage != ALL_SUBPAGES && subpage != page->subpage))
			continue;
		memcpy(data + length, modes->bytes + page->at, page->length);
		length += page->length;
	}
	return length;
}

/* SBC-3 §6.5.2: short or long; its length. */
static size_t
put_block_descriptor(const struct scsi_unit *unit, bool is_long, uint8_t *data)
{
	uint64_t blocks = atomic_load(&unit->blocks);

	if (is_long) {
		put_be64(data, blocks);
		put_be32(data + 12, unit->block_size);
		return 16;
	}
	put_be32(data, blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX);
	put_be32(data + 4, unit->block_size);
	return 8;
}

static struct scsi_modes
modes_to_show(const struct scsi_unit *unit, enum page_control control)
{
	if (control == CHANGEABLE_VALUES)
		return modes_of(unit, &changeable);
	return control == DEFAULT_VALUES ? modes_of(unit, &defaults) : unit->modes;
}

bool
scsi_run_mode_sense(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->channel->unit;
	const uint8_t *cdb = task->cdb;
	bool ten = task->command->length == 10, is_long = ten && cdb[1] & 0x10;
	size_t header = ten ? 8 : 4, descriptor = 0, length;
	uint8_t specific = atomic_load(&unit->write_protected) ? 0x90 : 0x10; /* WP, DPOFUA */
	uint8_t data[8 + 16 + SCSI_MODE_BYTES] = {0};
	struct scsi_modes modes = modes_to_show(unit, cdb[2] >> 6);

	if (cdb[2] >> 6 == SAVED_VALUES)
		return scsi_refuse(task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_SAVING_NOT_SUPPORTED);
	if (!(cdb[1] & 0x08))
		descriptor = put_block_descriptor(unit, is_long, data + header);
	length = put_pages(&modes, cdb[2] & ALL_PAGES, cdb[3], data + header + descriptor);
	if (length == 0)
		return scsi_refuse_cdb(task, cdb[3] != 0 ? 3 : 2, cdb[3] != 0 ? -1 : 5);
	length += header + descriptor;
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
	return !scsi_refuse(list->task, SCSI_KEY_ILLEGAL_REQUEST, SCSI_CODE_PARAMETER_LIST_LENGTH);
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

static const struct mode_page *
find_page(const uint8_t *bytes)
{
	bool has_subpage = bytes[0] & 0x40;

	for (int i = 0; i < PAGES; i++) {
		if (pages[i].code == (bytes[0] & 0x3f) &&
		    pages[i].subpage == (has_subpage ? bytes[1] : 0) &&
		    (pages[i].subpage != 0) == has_subpage)
			return &pages[i];
	}
	return NULL;
}

/* One page into modes; only bits that may change may differ. */
static bool
take_page(struct mode_list *list, const struct scsi_modes *may_change, struct scsi_modes *modes)
{
	static const uint8_t none[4];
	const uint8_t *bytes = list->bytes + list->at;
	const struct mode_page *page;
	uint8_t *own;
	uint32_t header;

	/* The length, behind the codes, is that of the page here. */
	header = bytes[0] & 0x40 ? 4 : 2;
	if (list->length - list->at < header)
		return refuse_length(list);
	page = find_page(bytes);
	if (page == NULL)
		return !scsi_refuse_list(list->task, (uint16_t)list->at, 5);
	own = modes->bytes + page->at;
	if (!take_bytes(list, own, none, header) ||
	    !take_bytes(list, own + header, may_change->bytes + page->at + header,
			page->length - header))
		return false;
	memcpy(own, bytes, page->length);
	return true;
}

bool
scsi_run_mode_select(struct scsi_task *task)
{
	struct scsi_unit *unit = task->channel->unit;
	struct scsi_modes may_change = modes_of(unit, &changeable), modes = unit->modes;
	struct mode_list list = {.task = task, .length = task->cdb[4]};
	bool good;

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
		good = take_page(&list, &may_change, &modes);
	if (good && memcmp(&modes, &unit->modes, sizeof(modes)) != 0) {
		apply(unit, &modes);
		scsi_unit_attention(unit, task->lun, SCSI_UA_MODE_CHANGED);
	}
	return true;
}
