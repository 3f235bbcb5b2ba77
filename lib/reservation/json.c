/* SPDX-License-Identifier: BSD-3-Clause */
/* Persistent reservations in the state journal. */
#include "reservation.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keys and addresses are 64 bits without a sign, which JSON's integers are not. */
static void
format_number(char text[19], uint64_t value)
{
	snprintf(text, 19, "0x%016" PRIx64, value);
}

/* Not 0, and in no other form than the above. */
static bool
parse_number(const json_t *json, uint64_t *value)
{
	const char *text = json_string_value(json);

	if (text == NULL || json_string_length(json) != 18 || memcmp(text, "0x", 2) != 0 ||
	    strspn(text + 2, "0123456789abcdef") != 16)
		return false;
	*value = strtoull(text + 2, NULL, 16);
	return *value != 0;
}

json_t *
scsi_reservations_to_json(const struct scsi_reservations *reservations)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < reservations->count; i++) {
		const struct scsi_registration *registration = &reservations->registrations[i];
		char initiator[19], key[19];

		format_number(initiator, registration->nexus.initiator);
		format_number(key, registration->key);
		if (json_array_append_new(
			    list, json_pack("{s:s, s:i, s:s, s:b}", "initiator", initiator,
					    "target_port", registration->nexus.target_port, "key",
					    key, "holder", registration->holder)) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return json_pack("{s:i, s:b, s:I, s:o}", "type", reservations->type, "aptpl",
			 reservations->aptpl, "generation", (json_int_t)reservations->generation,
			 "registrations", list);
}

static bool
parse_registration(const json_t *json, struct scsi_registration *registration)
{
	const json_t *port = json_object_get(json, "target_port");
	const json_t *holder = json_object_get(json, "holder");
	json_int_t number = json_integer_value(port);

	registration->nexus.target_port = number;
	registration->holder = json_is_true(holder);
	return json_object_size(json) == 4 && json_is_boolean(holder) && number > 0 &&
	       number <= UINT16_MAX &&
	       parse_number(json_object_get(json, "initiator"), &registration->nexus.initiator) &&
	       parse_number(json_object_get(json, "key"), &registration->key);
}

static bool
is_known(const struct scsi_reservations *reservations, struct scsi_nexus_id nexus)
{
	for (uint32_t i = 0; i < reservations->count; i++) {
		const struct scsi_nexus_id *other = &reservations->registrations[i].nexus;

		if (other->initiator == nexus.initiator && other->target_port == nexus.target_port)
			return true;
	}
	return false;
}

/* The members besides the list; those that are missing are as they were before they were saved. */
static bool
parse_head(const json_t *json, struct scsi_reservations *reservations)
{
	const json_t *type = json_object_get(json, "type");
	const json_t *aptpl = json_object_get(json, "aptpl");
	const json_t *generation = json_object_get(json, "generation");
	json_int_t number = json_integer_value(generation);

	reservations->aptpl = aptpl == NULL || json_is_true(aptpl);
	reservations->generation = (uint32_t)number;
	return json_object_size(json) == 2u + (aptpl != NULL) + (generation != NULL) &&
	       json_is_integer(type) && json_is_array(json_object_get(json, "registrations")) &&
	       (aptpl == NULL || json_is_boolean(aptpl)) &&
	       (generation == NULL || json_is_integer(generation)) && number >= 0 &&
	       number <= UINT32_MAX;
}

int
scsi_reservations_from_json(struct scsi_reservations *reservations, const json_t *json,
			    struct errmsg *err)
{
	json_int_t type = json_integer_value(json_object_get(json, "type"));
	const json_t *list = json_object_get(json, "registrations");
	struct scsi_reservations next = {.can_persist = reservations->can_persist};
	uint32_t holders = 0;

	if (!parse_head(json, &next))
		return err_set(err, -EINVAL,
			       "reservations: not {\"type\", \"aptpl\", \"generation\", "
			       "\"registrations\"}");
	if (json_array_size(list) > SCSI_REGISTRATIONS_MAX)
		return err_set(err, -EINVAL, "reservations: more than %u registrations",
			       SCSI_REGISTRATIONS_MAX);
	for (size_t i = 0; i < json_array_size(list); i++) {
		struct scsi_registration registration;

		if (!parse_registration(json_array_get(list, i), &registration))
			return err_set(err, -EINVAL, "reservations: registration %zu is damaged",
				       i);
		if (is_known(&next, registration.nexus))
			return err_set(err, -EINVAL,
				       "reservations: registration %zu is twice there", i);
		next.registrations[next.count++] = registration;
		holders += registration.holder;
	}
	if (!scsi_reservation_fits(type, next.count, holders))
		return err_set(err, -EINVAL,
			       "reservations: no reservation of type %" JSON_INTEGER_FORMAT
			       " has %u of %u registrations as holder",
			       type, holders, next.count);
	next.type = (uint8_t)type;
	*reservations = next;
	return 0;
}
