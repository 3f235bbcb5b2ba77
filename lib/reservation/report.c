/* SPDX-License-Identifier: BSD-3-Clause */
/* PERSISTENT RESERVE IN (SPC-4 §6.15), and the names of initiator ports. */
#include "reservation.h"

#include <string.h>

/* ---- names ---- */

#define PROTOCOL_SAS   0x6 /* and FORMAT CODE 00b: SPC-4 table 507 */
#define SAS_ADDRESS    4
#define PROTOCOL_BYTES 0xcf /* FORMAT CODE and PROTOCOL IDENTIFIER; the rest of it is reserved */

static void
put_big_endian(uint8_t *bytes, uint64_t value, unsigned int count)
{
	while (count-- > 0) {
		bytes[count] = value;
		value >>= 8;
	}
}

void
scsi_transport_id_put(uint8_t id[SCSI_TRANSPORT_ID_SIZE], uint64_t initiator)
{
	memset(id, 0, SCSI_TRANSPORT_ID_SIZE);
	id[0] = PROTOCOL_SAS;
	put_big_endian(id + SAS_ADDRESS, initiator, 8);
}

bool
scsi_transport_id_get(const uint8_t id[SCSI_TRANSPORT_ID_SIZE], uint64_t *initiator)
{
	*initiator = 0;
	for (unsigned int i = 0; i < 8; i++)
		*initiator = *initiator << 8 | id[SAS_ADDRESS + i];
	return (id[0] & PROTOCOL_BYTES) == PROTOCOL_SAS && *initiator != 0;
}

/* ---- answers ---- */

enum service_action {
	READ_KEYS,
	READ_RESERVATION,
	REPORT_CAPABILITIES,
	READ_FULL_STATUS,
	SERVICE_ACTIONS,
};

/* What of an answer has room; the rest of it is dropped. */
struct answer {
	uint8_t *data;
	size_t size;
	size_t length;
};

static void
append(struct answer *answer, const uint8_t *bytes, size_t count)
{
	size_t room = answer->size - answer->length;

	if (count > room)
		count = room;
	if (count > 0)
		memcpy(answer->data + answer->length, bytes, count);
	answer->length += count;
}

static void
append_number(struct answer *answer, uint64_t value, unsigned int count)
{
	uint8_t bytes[8];

	put_big_endian(bytes, value, count);
	append(answer, bytes, count);
}

/* PRgeneration and the additional length. */
static void
append_header(struct answer *answer, const struct scsi_reservations *reservations, uint32_t length)
{
	append_number(answer, reservations->generation, 4);
	append_number(answer, length, 4);
}

static void
read_keys(struct answer *answer, const struct scsi_reservations *reservations)
{
	append_header(answer, reservations, reservations->count * 8u);
	for (uint32_t i = 0; i < reservations->count; i++)
		append_number(answer, reservations->registrations[i].key, 8);
}

/* SPC-4 tables 203 and 204. With all registrants as holders, the key is 0. */
static void
read_reservation(struct answer *answer, const struct scsi_reservations *reservations)
{
	uint8_t descriptor[16] = {0};

	if (reservations->type == RESERVATION_NONE) {
		append_header(answer, reservations, 0);
		return;
	}
	append_header(answer, reservations, sizeof(descriptor));
	for (uint32_t i = 0; i < reservations->count; i++) {
		if (reservations->registrations[i].holder)
			put_big_endian(descriptor, reservations->registrations[i].key, 8);
	}
	descriptor[13] = reservations->type;
	append(answer, descriptor, sizeof(descriptor));
}

#define SIP_C          (1u << 3)
#define PTPL_C         (1u << 0)
#define TMV            (1u << 7)
#define ALLOW_COMMANDS (4u << 4) /* as enum scsi_access has it: SPC-4 table 208 */
#define PTPL_A         (1u << 0)
#define ALL_TYPES      0xea01 /* SPC-4 table 209 */

static void
report_capabilities(struct answer *answer, const struct scsi_reservations *reservations)
{
	append_number(answer, 8, 2);
	append_number(answer, SIP_C | (reservations->can_persist ? PTPL_C : 0), 1);
	append_number(answer, TMV | ALLOW_COMMANDS | (reservations->aptpl ? PTPL_A : 0), 1);
	append_number(answer, ALL_TYPES, 2);
	append_number(answer, 0, 2);
}

/* SPC-4 table 211 */
static void
read_full_status(struct answer *answer, const struct scsi_reservations *reservations)
{
	uint8_t descriptor[24 + SCSI_TRANSPORT_ID_SIZE];

	append_header(answer, reservations, reservations->count * sizeof(descriptor));
	for (uint32_t i = 0; i < reservations->count; i++) {
		const struct scsi_registration *registration = &reservations->registrations[i];

		memset(descriptor, 0, sizeof(descriptor));
		put_big_endian(descriptor, registration->key, 8);
		if (scsi_registration_holds(reservations, registration)) {
			descriptor[12] = 1; /* R_HOLDER */
			descriptor[13] = reservations->type;
		}
		put_big_endian(descriptor + 18, registration->nexus.target_port, 2);
		put_big_endian(descriptor + 20, SCSI_TRANSPORT_ID_SIZE, 4);
		scsi_transport_id_put(descriptor + 24, registration->nexus.initiator);
		append(answer, descriptor, sizeof(descriptor));
	}
}

static void (*const actions[SERVICE_ACTIONS])(struct answer *, const struct scsi_reservations *) = {
	[READ_KEYS] = read_keys,
	[READ_RESERVATION] = read_reservation,
	[REPORT_CAPABILITIES] = report_capabilities,
	[READ_FULL_STATUS] = read_full_status,
};

size_t
scsi_reserve_in(const struct scsi_reservations *reservations, const uint8_t cdb[10], uint8_t *data,
		size_t size, struct scsi_reserve_result *result)
{
	uint8_t action = cdb[1] & 0x1f;
	size_t allocation = cdb[7] << 8 | cdb[8];
	struct answer answer = {data, size < allocation ? size : allocation, 0};

	memset(result, 0, sizeof(*result));
	if (action >= SERVICE_ACTIONS) {
		result->status = SCSI_RESERVE_REFUSED;
		result->code = 0x2400; /* INVALID FIELD IN CDB */
		result->field_valid = result->field_in_cdb = true;
		result->field = 1;
		result->field_bit = 4;
		return 0;
	}
	actions[action](&answer, reservations);
	return answer.length;
}
