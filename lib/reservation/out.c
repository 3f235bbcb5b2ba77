/* SPDX-License-Identifier: BSD-3-Clause */
/* PERSISTENT RESERVE OUT (SPC-4 §5.13 and §6.16), and what nexuses may do then. */
#include "reservation.h"

#include <string.h>

enum service_action {
	REGISTER,
	RESERVE,
	RELEASE,
	CLEAR,
	PREEMPT,
	PREEMPT_AND_ABORT,
	REGISTER_AND_IGNORE_EXISTING_KEY,
	REGISTER_AND_MOVE,
	SERVICE_ACTIONS,
};

enum code {
	PARAMETER_LIST_LENGTH_ERROR = 0x1a00,
	INVALID_FIELD_IN_CDB = 0x2400,
	INVALID_FIELD_IN_PARAMETER_LIST = 0x2600,
	INVALID_RELEASE_OF_PERSISTENT_RESERVATION = 0x2604,
	INSUFFICIENT_REGISTRATION_RESOURCES = 0x5504,
};

/* Places in the parameter list; most are the same in both formats (SPC-4 tables 214, 215, 217). */
enum {
	KEY = 0,
	ACTION_KEY = 8,
	BASIC_FLAGS = 20,
	BASIC_RESERVED = 21,
	BASIC_SIZE = 24,
	IDS_LENGTH = 24,
	IDS = 28,
	MOVE_RESERVED = 16,
	MOVE_FLAGS = 17,
	MOVE_TARGET_PORT = 18,
	MOVE_ID_LENGTH = 20,
	MOVE_ID = 24,
};
#define SPEC_I_PT (1u << 3)
#define ALL_TG_PT (1u << 2)
#define UNREG     (1u << 1)
#define APTPL     (1u << 0)

/* What each type keeps others from. */
enum actor {
	STRANGER,
	REGISTRANT,
	HOLDER,
	ACTORS,
};
#define NO_WRITES   (1u << SCSI_ACCESS_WRITE)
#define NO_ACCESSES (NO_WRITES | 1u << SCSI_ACCESS_READ)

static const uint8_t conflicts[RESERVATION_EXCLUSIVE_ACCESS_ALL + 1][ACTORS] = {
	[RESERVATION_WRITE_EXCLUSIVE] = {NO_WRITES, NO_WRITES, 0},
	[RESERVATION_EXCLUSIVE_ACCESS] = {NO_ACCESSES, NO_ACCESSES, 0},
	[RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS] = {NO_WRITES, 0, 0},
	[RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS] = {NO_ACCESSES, 0, 0},
	[RESERVATION_WRITE_EXCLUSIVE_ALL] = {NO_WRITES, 0, 0},
	[RESERVATION_EXCLUSIVE_ACCESS_ALL] = {NO_ACCESSES, 0, 0},
};

/* One command, parsed. */
struct command {
	struct scsi_reservations *reservations;
	struct scsi_reserve_result *result;
	struct scsi_nexus_id nexus;
	enum service_action action;
	uint8_t scope, type;
	uint64_t key, action_key;
	uint8_t flags; /* of its format */
	const uint8_t *list;
	uint32_t ids_length;       /* bytes of TransportIDs at IDS; 0 without SPEC_I_PT */
	struct scsi_nexus_id dest; /* REGISTER AND MOVE */
};

static uint64_t
big_endian(const uint8_t *bytes, unsigned int count)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < count; i++)
		value = value << 8 | bytes[i];
	return value;
}

/* ---- how a command ends ---- */

static enum scsi_reserve_status
refuse(struct command *command, enum code code)
{
	command->result->code = code;
	return SCSI_RESERVE_REFUSED;
}

/* bit: the most significant one of the field in that byte; -1: the field begins with the byte. */
static enum scsi_reserve_status
refuse_field(struct command *command, enum code code, uint16_t field, int8_t bit)
{
	command->result->field_valid = true;
	command->result->field_in_cdb = code == INVALID_FIELD_IN_CDB;
	command->result->field = field;
	command->result->field_bit = bit;
	return refuse(command, code);
}

static enum scsi_reserve_status
refuse_parameter(struct command *command, uint16_t field)
{
	return refuse_field(command, INVALID_FIELD_IN_PARAMETER_LIST, field, -1);
}

/* Refuses the most significant one, if any, of those bits of a byte. */
static enum scsi_reserve_status
check_bits(struct command *command, uint16_t field, uint8_t bits)
{
	if (bits == 0)
		return SCSI_RESERVE_GOOD;
	return refuse_field(command, INVALID_FIELD_IN_PARAMETER_LIST, field,
			    31 - __builtin_clz(bits));
}

static void
add_effect(struct command *command, struct scsi_nexus_id nexus, uint16_t attention, bool abort)
{
	struct scsi_reserve_result *result = command->result;

	if (attention == SCSI_RESERVE_NO_ATTENTION && !abort)
		return;
	result->effects[result->effect_count++] =
		(struct scsi_reserve_effect){nexus, attention, abort};
}

/* ---- the state ---- */

static bool
is_type(uint8_t type)
{
	return type <= RESERVATION_EXCLUSIVE_ACCESS_ALL && conflicts[type][STRANGER] != 0;
}

/* "All registrants" */
static bool
is_shared(uint8_t type)
{
	return type >= RESERVATION_WRITE_EXCLUSIVE_ALL;
}

static bool
is_registrants_only(uint8_t type)
{
	return type == RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS ||
	       type == RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS;
}

bool
scsi_registration_holds(const struct scsi_reservations *reservations,
			const struct scsi_registration *registration)
{
	return is_shared(reservations->type) || registration->holder;
}

bool
scsi_reservation_fits(int64_t type, uint32_t registrations, uint32_t holders)
{
	if (type == RESERVATION_NONE)
		return holders == 0;
	if (type < 0 || type > UINT8_MAX || !is_type(type))
		return false;
	return is_shared(type) ? holders == 0 && registrations > 0 : holders == 1;
}

static struct scsi_registration *
find(const struct scsi_reservations *reservations, struct scsi_nexus_id nexus)
{
	for (uint32_t i = 0; i < reservations->count; i++) {
		if (scsi_nexus_is_same(reservations->registrations[i].nexus, nexus))
			return (struct scsi_registration *)&reservations->registrations[i];
	}
	return NULL;
}

/* There is room. */
static void
add(struct command *command, struct scsi_nexus_id nexus)
{
	struct scsi_reservations *reservations = command->reservations;

	reservations->registrations[reservations->count++] =
		(struct scsi_registration){.key = command->action_key, .nexus = nexus};
	command->result->changed = true;
}

static void
set_key(struct command *command, struct scsi_registration *registration)
{
	command->result->changed |= registration->key != command->action_key;
	registration->key = command->action_key;
}

/* With its holder, or the last one, goes the reservation (SPC-4 §5.13.10). */
static void
remove_at(struct command *command, uint32_t index)
{
	struct scsi_reservations *reservations = command->reservations;
	struct scsi_registration *registration = &reservations->registrations[index];

	if (registration->holder || reservations->count == 1)
		reservations->type = RESERVATION_NONE;
	reservations->count--;
	memmove(registration, registration + 1,
		(reservations->count - index) * sizeof(*registration));
	command->result->changed = true;
}

static void
set_reservation(struct command *command, uint8_t type, struct scsi_nexus_id holder)
{
	struct scsi_reservations *reservations = command->reservations;

	for (uint32_t i = 0; i < reservations->count; i++)
		reservations->registrations[i].holder = false;
	reservations->type = type;
	if (type != RESERVATION_NONE && !is_shared(type))
		find(reservations, holder)->holder = true;
	command->result->changed = true;
}

static void
set_aptpl(struct command *command)
{
	bool aptpl = command->flags & APTPL;

	command->result->changed |= command->reservations->aptpl != aptpl;
	command->reservations->aptpl = aptpl;
}

static void
attend_others(struct command *command, uint16_t attention)
{
	const struct scsi_reservations *reservations = command->reservations;

	for (uint32_t i = 0; i < reservations->count; i++) {
		struct scsi_nexus_id nexus = reservations->registrations[i].nexus;

		if (!scsi_nexus_is_same(nexus, command->nexus))
			add_effect(command, nexus, attention, false);
	}
}

/* ---- service actions ---- */

static enum scsi_reserve_status
unregister(struct command *command, struct scsi_registration *own)
{
	struct scsi_reservations *reservations = command->reservations;
	uint8_t type = reservations->type;

	remove_at(command, own - reservations->registrations);
	if (is_registrants_only(type) && reservations->type == RESERVATION_NONE)
		attend_others(command, RESERVATIONS_RELEASED);
	return SCSI_RESERVE_GOOD;
}

/* Unless this command has done so already; before: how many there were when it came. */
static enum scsi_reserve_status
register_one(struct command *command, struct scsi_nexus_id nexus, uint16_t before, uint16_t field)
{
	struct scsi_reservations *reservations = command->reservations;
	const struct scsi_registration *known = find(reservations, nexus);

	if (known != NULL)
		return known - reservations->registrations < before
			       ? refuse_parameter(command, field)
			       : SCSI_RESERVE_GOOD;
	if (reservations->count == SCSI_REGISTRATIONS_MAX)
		return refuse(command, INSUFFICIENT_REGISTRATION_RESOURCES);
	add(command, nexus);
	return SCSI_RESERVE_GOOD;
}

/* And each initiator port of the list, or none at all (SPC-4 table 67 and §6.16.3). */
static enum scsi_reserve_status
register_new(struct command *command)
{
	uint16_t before = command->reservations->count;
	struct scsi_nexus_id nexus = command->nexus;
	enum scsi_reserve_status status = register_one(command, nexus, before, 0);

	for (uint32_t at = 0; at < command->ids_length && status == SCSI_RESERVE_GOOD;
	     at += SCSI_TRANSPORT_ID_SIZE) {
		if (command->ids_length - at < SCSI_TRANSPORT_ID_SIZE)
			status = refuse_parameter(command, IDS_LENGTH);
		else if (!scsi_transport_id_get(command->list + IDS + at, &nexus.initiator))
			status = refuse_parameter(command, IDS + at);
		else
			status = register_one(command, nexus, before, IDS + at);
	}
	if (status != SCSI_RESERVE_GOOD)
		command->reservations->count = before;
	return status;
}

static enum scsi_reserve_status
do_register(struct command *command, struct scsi_registration *own)
{
	enum scsi_reserve_status status = SCSI_RESERVE_GOOD;

	if (own == NULL) {
		if (command->action == REGISTER && command->key != 0)
			return SCSI_RESERVE_CONFLICT;
		if (command->action_key == 0)
			return SCSI_RESERVE_GOOD;
		status = register_new(command);
	} else {
		if (command->action == REGISTER && command->key != own->key)
			return SCSI_RESERVE_CONFLICT;
		status = check_bits(command, BASIC_FLAGS, command->flags & SPEC_I_PT);
		if (status != SCSI_RESERVE_GOOD)
			return status;
		if (command->action_key == 0)
			status = unregister(command, own);
		else
			set_key(command, own);
	}
	if (status != SCSI_RESERVE_GOOD)
		return status;
	set_aptpl(command);
	command->reservations->generation++;
	return SCSI_RESERVE_GOOD;
}

/* SCOPE and TYPE, where they count. */
static enum scsi_reserve_status
check_type(struct command *command)
{
	if (command->scope != 0)
		return refuse_field(command, INVALID_FIELD_IN_CDB, 2, 7);
	if (!is_type(command->type))
		return refuse_field(command, INVALID_FIELD_IN_CDB, 2, 3);
	return SCSI_RESERVE_GOOD;
}

static enum scsi_reserve_status
do_reserve(struct command *command, struct scsi_registration *own)
{
	struct scsi_reservations *reservations = command->reservations;
	enum scsi_reserve_status status = check_type(command);

	if (status != SCSI_RESERVE_GOOD)
		return status;
	if (reservations->type == RESERVATION_NONE) {
		set_reservation(command, command->type, command->nexus);
		return SCSI_RESERVE_GOOD;
	}
	if (!scsi_registration_holds(reservations, own) || reservations->type != command->type)
		return SCSI_RESERVE_CONFLICT;
	return SCSI_RESERVE_GOOD;
}

static enum scsi_reserve_status
do_release(struct command *command, struct scsi_registration *own)
{
	struct scsi_reservations *reservations = command->reservations;
	uint8_t type = reservations->type;

	if (type == RESERVATION_NONE || !scsi_registration_holds(reservations, own))
		return SCSI_RESERVE_GOOD;
	if (command->scope != 0 || command->type != type)
		return refuse(command, INVALID_RELEASE_OF_PERSISTENT_RESERVATION);
	set_reservation(command, RESERVATION_NONE, command->nexus);
	if (is_registrants_only(type) || is_shared(type))
		attend_others(command, RESERVATIONS_RELEASED);
	return SCSI_RESERVE_GOOD;
}

static enum scsi_reserve_status
do_clear(struct command *command, struct scsi_registration *own)
{
	(void)own;
	attend_others(command, RESERVATIONS_PREEMPTED);
	set_reservation(command, RESERVATION_NONE, command->nexus);
	command->reservations->count = 0;
	command->reservations->generation++;
	return SCSI_RESERVE_GOOD;
}

/* Whom the service action reservation key names; 0 names all when all hold the reservation. */
static bool
is_preempted(const struct command *command, const struct scsi_registration *registration)
{
	return registration->key == command->action_key || command->action_key == 0;
}

/* Takes the registrations away; that of the command's nexus only when nothing takes its place. */
static void
preempt(struct command *command, bool replace)
{
	struct scsi_reservations *reservations = command->reservations;
	bool abort = command->action == PREEMPT_AND_ABORT;
	bool other_type = reservations->type != command->type;
	struct scsi_registration *registration = reservations->registrations;

	while (registration < reservations->registrations + reservations->count) {
		bool self = scsi_nexus_is_same(registration->nexus, command->nexus);
		uint16_t attention = SCSI_RESERVE_NO_ATTENTION;

		if (!is_preempted(command, registration)) {
			if (!self && replace && other_type)
				attention = RESERVATIONS_RELEASED;
			add_effect(command, registration->nexus, attention, false);
			registration++;
			continue;
		}
		if (!self)
			attention = REGISTRATIONS_PREEMPTED;
		add_effect(command, registration->nexus, attention, abort);
		if (self && replace)
			registration++;
		else
			remove_at(command, registration - reservations->registrations);
	}
	if (replace)
		set_reservation(command, command->type, command->nexus);
	reservations->generation++;
}

/* SPC-4 table 72 and figure 9 */
static enum scsi_reserve_status
do_preempt(struct command *command, struct scsi_registration *own)
{
	const struct scsi_reservations *reservations = command->reservations;
	bool shared = is_shared(reservations->type);
	bool found = false, replace = shared && command->action_key == 0;
	enum scsi_reserve_status status;

	(void)own;
	if (reservations->type != RESERVATION_NONE && !shared && command->action_key == 0)
		return refuse_parameter(command, ACTION_KEY);
	for (uint32_t i = 0; i < reservations->count; i++) {
		const struct scsi_registration *registration = &reservations->registrations[i];

		if (registration->key == command->action_key) {
			found = true;
			replace |= registration->holder;
		}
	}
	if (!found && !replace)
		return SCSI_RESERVE_CONFLICT;
	if (replace) {
		status = check_type(command);
		if (status != SCSI_RESERVE_GOOD)
			return status;
	}
	preempt(command, replace);
	return SCSI_RESERVE_GOOD;
}

/* SPC-4 §5.13.8 */
static enum scsi_reserve_status
do_move(struct command *command, struct scsi_registration *own)
{
	struct scsi_reservations *reservations = command->reservations;
	struct scsi_registration *dest;

	if (reservations->type == RESERVATION_NONE)
		return refuse_field(command, INVALID_FIELD_IN_CDB, 1, 4);
	if (!own->holder)
		return SCSI_RESERVE_CONFLICT;
	if (command->action_key == 0)
		return refuse_parameter(command, ACTION_KEY);
	if (command->dest.target_port == 0)
		return refuse_parameter(command, MOVE_TARGET_PORT);
	if (!scsi_transport_id_get(command->list + MOVE_ID, &command->dest.initiator) ||
	    command->dest.initiator == command->nexus.initiator)
		return refuse_parameter(command, MOVE_ID);
	dest = find(reservations, command->dest);
	if (dest == NULL && reservations->count == SCSI_REGISTRATIONS_MAX)
		return refuse(command, INSUFFICIENT_REGISTRATION_RESOURCES);

	set_aptpl(command);
	if (dest != NULL)
		set_key(command, dest);
	else
		add(command, command->dest);
	set_reservation(command, reservations->type, command->dest);
	if (command->flags & UNREG)
		remove_at(command, own - reservations->registrations);
	reservations->generation++;
	return SCSI_RESERVE_GOOD;
}

/* ---- the command ---- */

static enum scsi_reserve_status
parse_basic(struct command *command, size_t length)
{
	const uint8_t *list = command->list;
	uint8_t refused = 0xf2;
	enum scsi_reserve_status status;

	command->flags = list[BASIC_FLAGS];
	if (command->action == REGISTER || command->action == REGISTER_AND_IGNORE_EXISTING_KEY)
		refused |= ALL_TG_PT | (command->reservations->can_persist ? 0 : APTPL);
	if (command->action != REGISTER)
		refused |= SPEC_I_PT;
	if (command->flags & SPEC_I_PT & ~refused) {
		if (length < IDS || big_endian(list + IDS_LENGTH, 4) != length - IDS)
			return refuse(command, PARAMETER_LIST_LENGTH_ERROR);
		command->ids_length = length - IDS;
	} else if (length != BASIC_SIZE && (command->flags & SPEC_I_PT) == 0) {
		return refuse(command, PARAMETER_LIST_LENGTH_ERROR);
	}
	status = check_bits(command, BASIC_FLAGS, command->flags & refused);
	if (status == SCSI_RESERVE_GOOD)
		status = check_bits(command, BASIC_RESERVED, list[BASIC_RESERVED]);
	return status;
}

static enum scsi_reserve_status
parse_move(struct command *command, size_t length)
{
	const uint8_t *list = command->list;
	uint64_t id_length = big_endian(list + MOVE_ID_LENGTH, 4);
	uint8_t refused = 0xfc | (command->reservations->can_persist ? 0 : APTPL);
	enum scsi_reserve_status status;

	command->flags = list[MOVE_FLAGS];
	command->dest.target_port = big_endian(list + MOVE_TARGET_PORT, 2);
	if (id_length != length - MOVE_ID)
		return refuse(command, PARAMETER_LIST_LENGTH_ERROR);
	if (id_length != SCSI_TRANSPORT_ID_SIZE)
		return refuse_parameter(command, MOVE_ID_LENGTH);
	status = check_bits(command, MOVE_RESERVED, list[MOVE_RESERVED]);
	if (status == SCSI_RESERVE_GOOD)
		status = check_bits(command, MOVE_FLAGS, command->flags & refused);
	return status;
}

static const struct {
	enum scsi_reserve_status (*execute)(struct command *command, struct scsi_registration *own);
	enum scsi_reserve_status (*parse)(struct command *command, size_t length);
	/* Who is not registered may, own is NULL then; the key was not checked. */
	bool registers;
} actions[SERVICE_ACTIONS] = {
	[REGISTER] = {do_register, parse_basic, true},
	[RESERVE] = {do_reserve, parse_basic, false},
	[RELEASE] = {do_release, parse_basic, false},
	[CLEAR] = {do_clear, parse_basic, false},
	[PREEMPT] = {do_preempt, parse_basic, false},
	[PREEMPT_AND_ABORT] = {do_preempt, parse_basic, false},
	[REGISTER_AND_IGNORE_EXISTING_KEY] = {do_register, parse_basic, true},
	[REGISTER_AND_MOVE] = {do_move, parse_move, false},
};

static enum scsi_reserve_status
run(struct command *command, const uint8_t cdb[10], size_t length)
{
	struct scsi_registration *own = find(command->reservations, command->nexus);
	uint8_t action = cdb[1] & 0x1f;
	enum scsi_reserve_status status;

	if (action >= SERVICE_ACTIONS)
		return refuse_field(command, INVALID_FIELD_IN_CDB, 1, 4);
	if (length < BASIC_SIZE || length > SCSI_RESERVE_OUT_MAX)
		return refuse(command, PARAMETER_LIST_LENGTH_ERROR);
	command->action = action;
	command->scope = cdb[2] >> 4;
	command->type = cdb[2] & 0xf;
	command->key = big_endian(command->list + KEY, 8);
	command->action_key = big_endian(command->list + ACTION_KEY, 8);
	status = actions[action].parse(command, length);
	if (status != SCSI_RESERVE_GOOD)
		return status;
	if (!actions[action].registers && (own == NULL || own->key != command->key))
		return SCSI_RESERVE_CONFLICT;
	return actions[action].execute(command, own);
}

void
scsi_reserve_out(struct scsi_reservations *reservations, struct scsi_nexus_id nexus,
		 const uint8_t cdb[10], const uint8_t *list, size_t length,
		 struct scsi_reserve_result *result)
{
	struct command command = {
		.reservations = reservations,
		.result = result,
		.nexus = nexus,
		.list = list,
	};

	memset(result, 0, sizeof(*result));
	result->status = run(&command, cdb, length);
	if (result->status != SCSI_RESERVE_GOOD)
		result->changed = false;
}

void
scsi_reservations_init(struct scsi_reservations *reservations, bool can_persist)
{
	*reservations = (struct scsi_reservations){.can_persist = can_persist};
}

struct scsi_reservation_view
scsi_reservation_view(const struct scsi_reservations *reservations, struct scsi_nexus_id nexus)
{
	const struct scsi_registration *own = find(reservations, nexus);
	enum actor actor = STRANGER;

	if (own != NULL)
		actor = scsi_registration_holds(reservations, own) ? HOLDER : REGISTRANT;
	return (struct scsi_reservation_view){conflicts[reservations->type][actor]};
}
