/* SPDX-License-Identifier: BSD-3-Clause */
#include "sense.h"

#include <string.h>

#include "internal.h"

#define FIXED_LENGTH 18

/* SPC-4 §4.5.2.4.2: SKSV, C/D, BPV and bit pointer, field pointer. */
static void
put_field_pointer(const struct scsi_sense *sense, uint8_t *bytes)
{
	bytes[0] = 0x80 | (sense->field_in_cdb ? 0x40 : 0);
	if (sense->field_bit >= 0)
		bytes[0] |= 0x08 | (uint8_t)sense->field_bit;
	put_be16(bytes + 1, sense->field);
}

/* SPC-4 §4.5.2 */
static size_t
put_descriptor(const struct scsi_sense *sense, uint8_t *bytes)
{
	size_t length = 8;

	bytes[0] = 0x72;
	bytes[1] = sense->key;
	put_be16(bytes + 2, sense->code);
	if (sense->has_information) {
		bytes[length] = 0x00;
		bytes[length + 1] = 0x0a;
		bytes[length + 2] = 0x80;
		put_be64(bytes + length + 4, sense->information);
		length += 12;
	}
	if (sense->has_field) {
		bytes[length] = 0x02;
		bytes[length + 1] = 0x06;
		put_field_pointer(sense, bytes + length + 4);
		length += 8;
	}
	bytes[7] = (uint8_t)(length - 8);
	return length;
}

/* SPC-4 §4.5.3 */
static size_t
put_fixed(const struct scsi_sense *sense, uint8_t *bytes)
{
	bytes[0] = 0x70;
	bytes[2] = sense->key;
	bytes[7] = FIXED_LENGTH - 8;
	if (sense->has_information && sense->information <= UINT32_MAX) {
		bytes[0] |= 0x80;
		put_be32(bytes + 3, (uint32_t)sense->information);
	}
	put_be16(bytes + 12, sense->code);
	if (sense->has_field)
		put_field_pointer(sense, bytes + 15);
	return FIXED_LENGTH;
}

size_t
scsi_sense_put(const struct scsi_sense *sense, bool descriptor, uint8_t *bytes)
{
	memset(bytes, 0, SCSI_SENSE_MAX);
	return descriptor ? put_descriptor(sense, bytes) : put_fixed(sense, bytes);
}
