/* SPDX-License-Identifier: BSD-3-Clause */
/* sense: sense data (SPC-4 §4.5). Pure. Private to the room scsi. */
#ifndef VHOSTD_SCSI_SENSE_H
#define VHOSTD_SCSI_SENSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scsi_sense_key {
	SCSI_KEY_NO_SENSE = 0x0,
	SCSI_KEY_NOT_READY = 0x2,
	SCSI_KEY_MEDIUM_ERROR = 0x3,
	SCSI_KEY_HARDWARE_ERROR = 0x4,
	SCSI_KEY_ILLEGAL_REQUEST = 0x5,
	SCSI_KEY_UNIT_ATTENTION = 0x6,
	SCSI_KEY_DATA_PROTECT = 0x7,
	SCSI_KEY_COPY_ABORTED = 0xa,
	SCSI_KEY_ABORTED_COMMAND = 0xb,
	SCSI_KEY_MISCOMPARE = 0xe,
};

/* Additional sense code << 8 | qualifier. */
enum scsi_sense_code {
	SCSI_CODE_NONE = 0x0000,
	SCSI_CODE_OPERATION_IN_PROGRESS = 0x0016,
	SCSI_CODE_COPY_TARGET_UNREACHABLE = 0x0804,
	SCSI_CODE_WRITE_ERROR = 0x0c00,
	SCSI_CODE_THIRD_PARTY_FAILURE = 0x0d01,
	SCSI_CODE_COPY_DEVICE_UNREACHABLE = 0x0d02,
	SCSI_CODE_PROTECTION_ERROR = 0x1001,
	SCSI_CODE_UNRECOVERED_READ_ERROR = 0x1100,
	SCSI_CODE_PARAMETER_LIST_LENGTH = 0x1a00,
	SCSI_CODE_MISCOMPARE = 0x1d00,
	SCSI_CODE_INVALID_OPCODE = 0x2000,
	SCSI_CODE_LBA_OUT_OF_RANGE = 0x2100,
	SCSI_CODE_INVALID_FIELD_IN_CDB = 0x2400,
	SCSI_CODE_LUN_NOT_SUPPORTED = 0x2500,
	SCSI_CODE_INVALID_FIELD_IN_LIST = 0x2600,
	SCSI_CODE_TOO_MANY_CSCDS = 0x2606,
	SCSI_CODE_CSCD_TYPE = 0x2607,
	SCSI_CODE_TOO_MANY_SEGMENTS = 0x2608,
	SCSI_CODE_SEGMENT_TYPE = 0x2609,
	SCSI_CODE_INEXACT_SEGMENT = 0x260a,
	SCSI_CODE_INLINE_DATA = 0x260b,
	SCSI_CODE_WRITE_PROTECTED = 0x2700,
	SCSI_CODE_SPACE_ALLOCATION_FAILED = 0x2707,
	SCSI_CODE_CAPACITY_CHANGED = 0x2a09,
	SCSI_CODE_SAVING_NOT_SUPPORTED = 0x3900,
	SCSI_CODE_INTERNAL_TARGET_FAILURE = 0x4400,
	SCSI_CODE_COMMAND_TIMEOUT = 0x2e02,
	SCSI_CODE_INSUFFICIENT_RESOURCES = 0x5503,
	SCSI_CODE_INSUFFICIENT_REGISTRATION = 0x5504,
};

struct scsi_sense {
	uint8_t key;
	uint16_t code;
	bool has_information;
	uint64_t information;
	/* ILLEGAL REQUEST: the sense key specific field pointer (SPC-4 §4.5.2.4.2). */
	bool has_field, field_in_cdb;
	uint16_t field;
	int8_t field_bit; /* -1: the whole byte */
};

/*
 * Writes the sense data; returns the bytes, at most SCSI_SENSE_MAX. Fixed format has room for 32
 * bits of information; more than that is left out.
 */
size_t scsi_sense_put(const struct scsi_sense *sense, bool descriptor, uint8_t *bytes);

#endif
