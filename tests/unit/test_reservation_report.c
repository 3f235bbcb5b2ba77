/* SPDX-License-Identifier: BSD-3-Clause */
/* links: reservation env */
/* ldflags: -liscsi */
/* PERSISTENT RESERVE IN, and reservations that survive a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "reservation_rig.h"

static int
setup(void **unused)
{
	(void)unused;
	scsi_reservations_init(&state, true);
	return 0;
}

/* Three registered, the second of them holds. */
static void
begin(unsigned int type, bool aptpl)
{
	scsi_reservations_init(&state, true);
	for (unsigned int who = 0; who < 3; who++)
		assert_int_equal(send_basic(who, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0,
					    (struct scsi_persistent_reserve_out_basic){
						    .service_action_reservation_key = ~0ul - who,
						    .aptpl = aptpl}),
				 SCSI_RESERVE_GOOD);
	if (type != 0)
		assert_int_equal(send_out(1, SCSI_PERSISTENT_RESERVE_RESERVE, type, ~0ul - 1, 0),
				 SCSI_RESERVE_GOOD);
}

static void
test_read_keys(void **unused)
{
	struct scsi_persistent_reserve_in_read_keys *keys;
	struct scsi_task *task = read_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, 8);

	(void)unused;
	keys = scsi_datain_unmarshall(task);
	assert_int_equal(keys->prgeneration, 0);
	assert_int_equal(keys->additional_length, 0);
	scsi_free_scsi_task(task);
	begin(0, false);
	/* The same key twice is listed twice. */
	assert_int_equal(send_out(3, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, ~0ul),
			 SCSI_RESERVE_GOOD);
	task = read_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, 1000);
	keys = scsi_datain_unmarshall(task);
	assert_int_equal(task->datain.size, 8 + 4 * 8);
	assert_int_equal(keys->prgeneration, 4);
	assert_int_equal(keys->additional_length, 32);
	assert_int_equal(keys->num_keys, 4);
	for (unsigned int who = 0; who < 4; who++)
		assert_int_equal(keys->keys[who], who == 3 ? ~0ul : ~0ul - who);
	scsi_free_scsi_task(task);
}

static void
test_capabilities(void **unused)
{
	(void)unused;
	for (unsigned int aptpl = 0; aptpl < 2; aptpl++) {
		struct scsi_persistent_reserve_in_report_capabilities *capabilities;
		struct scsi_task *task;

		begin(0, aptpl);
		task = read_in(SCSI_PERSISTENT_RESERVE_REPORT_CAPABILITIES, 64);
		capabilities = scsi_datain_unmarshall(task);
		assert_int_equal(task->datain.size, 8);
		assert_int_equal(capabilities->length, 8);
		assert_int_equal(capabilities->crh, 0);
		assert_int_equal(!!capabilities->sip_c, 1);
		assert_int_equal(capabilities->atp_c, 0);
		assert_int_equal(!!capabilities->ptpl_c, 1);
		/* libiscsi 1.19 does not decode PTPL_A. */
		assert_int_equal(task->datain.data[3] & 1, aptpl);
		assert_int_equal(!!capabilities->tmv, 1);
		assert_int_equal(capabilities->allow_commands, 4);
		assert_int_equal(capabilities->persistent_reservation_type_mask,
				 SCSI_PR_TYPE_MASK_ALL);
		scsi_free_scsi_task(task);
	}
	scsi_reservations_init(&state, false);
	{
		struct scsi_task *task = read_in(SCSI_PERSISTENT_RESERVE_REPORT_CAPABILITIES, 8);

		assert_int_equal(task->datain.data[2], 0x08);
		scsi_free_scsi_task(task);
	}
}

static void
test_full_status(void **unused)
{
	static const uint8_t types[] = {0, 1, 3, 5, 6, 7, 8};
	struct full_status list[4];
	uint32_t generation;

	(void)unused;
	for (unsigned int i = 0; i < sizeof(types); i++) {
		begin(types[i], false);
		assert_int_equal(read_full(list, &generation), 3);
		assert_int_equal(generation, 3);
		for (unsigned int who = 0; who < 3; who++) {
			bool holds = types[i] >= 7 || (types[i] != 0 && who == 1);

			assert_int_equal(list[who].key, ~0ul - who);
			assert_int_equal(list[who].address, FIRST_ADDRESS + who);
			assert_int_equal(list[who].target_port, 1);
			assert_int_equal(list[who].holder, holds);
			assert_int_equal(list[who].type, holds ? types[i] : 0);
		}
	}
}

/* Each allocation length gives the beginning of the whole answer, with the whole's length in it. */
static void
test_allocation_lengths(void **unused)
{
	(void)unused;
	begin(5, true);
	for (unsigned int action = 0; action < 4; action++) {
		struct scsi_task *whole = read_in(action, UINT16_MAX);

		for (int allocation = 0; allocation <= whole->datain.size + 1; allocation++) {
			struct scsi_task *part = read_in(action, allocation);

			assert_int_equal(part->datain.size, allocation < whole->datain.size
								    ? allocation
								    : whole->datain.size);
			assert_memory_equal(part->datain.data, whole->datain.data,
					    part->datain.size);
			scsi_free_scsi_task(part);
		}
		scsi_free_scsi_task(whole);
	}
	/* The room may be larger or smaller than what was asked for. */
	for (size_t size = 0; size < 40; size++) {
		const uint8_t cdb[10] = {0x5e, 0, 0, 0, 0, 0, 0, 0, 20};
		uint8_t *room = malloc(size);

		assert_int_equal(scsi_reserve_in(&state, cdb, room, size, &result),
				 size < 20 ? size : 20);
		free(room);
	}
}

static void
test_full_house(void **unused)
{
	struct scsi_task *task;

	(void)unused;
	for (unsigned int who = 0; who < SCSI_REGISTRATIONS_MAX; who++)
		send_out(who, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, who + 1);
	task = read_in(SCSI_PERSISTENT_RESERVE_READ_FULL_STATUS, UINT16_MAX);
	assert_int_equal(task->datain.size, SCSI_RESERVE_IN_MAX);
	scsi_free_scsi_task(task);
	task = read_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, UINT16_MAX);
	assert_int_equal(task->datain.size, 8 + 256 * 8);
	scsi_free_scsi_task(task);
}

static void
test_no_such_action(void **unused)
{
	uint8_t data[64];

	(void)unused;
	for (uint8_t action = 4; action < 32; action++) {
		const uint8_t cdb[10] = {0x5e, action, 0, 0, 0, 0, 0, 0, 64};

		assert_int_equal(scsi_reserve_in(&state, cdb, data, sizeof(data), &result), 0);
		assert_int_equal(result.status, SCSI_RESERVE_REFUSED);
		assert_int_equal(result.code, 0x2400);
		assert_true(result.field_valid && result.field_in_cdb);
		assert_int_equal(result.field, 1);
		assert_int_equal(result.field_bit, 4);
	}
}

static void
test_transport_id(void **unused)
{
	uint8_t id[24], expected[24];
	uint64_t address;

	(void)unused;
	scsi_transport_id_put(id, 0x3123456789abcdef);
	make_transport_id(expected, 0x3123456789abcdef);
	assert_memory_equal(id, expected, 24);
	assert_true(scsi_transport_id_get(id, &address));
	assert_int_equal(address, 0x3123456789abcdef);
	make_transport_id(id, 0);
	assert_false(scsi_transport_id_get(id, &address));
}

/* ---- APTPL ---- */

static void
expect_same(const struct scsi_reservations *a, const struct scsi_reservations *b)
{
	assert_int_equal(a->can_persist, b->can_persist);
	assert_int_equal(a->aptpl, b->aptpl);
	assert_int_equal(a->type, b->type);
	assert_int_equal(a->count, b->count);
	for (unsigned int i = 0; i < a->count; i++) {
		const struct scsi_registration *one = &a->registrations[i];
		const struct scsi_registration *other = &b->registrations[i];

		assert_int_equal(one->key, other->key);
		assert_int_equal(one->nexus.initiator, other->nexus.initiator);
		assert_int_equal(one->nexus.target_port, other->nexus.target_port);
		assert_int_equal(one->holder, other->holder);
	}
}

static void
test_round_trip(void **unused)
{
	static const uint8_t types[] = {0, 1, 3, 5, 6, 7, 8};

	(void)unused;
	for (unsigned int i = 0; i < sizeof(types); i++) {
		struct scsi_reservations after;
		struct errmsg err;
		json_t *json, *again;
		char *text;

		begin(types[i], i % 2 == 0);
		state.generation = UINT32_MAX - i;
		json = scsi_reservations_to_json(&state);
		text = json_dumps(json, 0);
		again = json_loads(text, 0, NULL);
		scsi_reservations_init(&after, true);
		after.generation = 77;
		assert_int_equal(scsi_reservations_from_json(&after, again, &err), 0);
		expect_same(&state, &after);
		assert_int_equal(after.generation, state.generation);
		for (unsigned int who = 0; who < 4; who++)
			assert_int_equal(scsi_reservation_view(&state, nexus_of(who)).conflicts,
					 scsi_reservation_view(&after, nexus_of(who)).conflicts);
		free(text);
		json_decref(json);
		json_decref(again);
	}
}

/* Of before they had both members: what was saved had come with APTPL. */
static void
test_old_form(void **unused)
{
	struct scsi_reservations after;
	struct errmsg err;
	json_t *json;

	(void)unused;
	begin(5, true);
	json = scsi_reservations_to_json(&state);
	json_object_del(json, "aptpl");
	json_object_del(json, "generation");
	scsi_reservations_init(&after, true);
	assert_int_equal(scsi_reservations_from_json(&after, json, &err), 0);
	expect_same(&state, &after);
	assert_int_equal(after.generation, 0);
	json_decref(json);
}

/* What is said to have changed: APTPL as well. */
static void
test_changed(void **unused)
{
	struct scsi_persistent_reserve_out_basic basic = {.service_action_reservation_key = 1};
	struct move_list move = make_move(1, 2, 1, false);

	(void)unused;
	send_basic(0, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, basic);
	assert_true(result.changed && !state.aptpl);
	send_out(0, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 1, 0);
	assert_true(result.changed);
	basic = (struct scsi_persistent_reserve_out_basic){1, 1, 0, 0, 1};
	send_basic(0, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, basic);
	assert_true(result.changed && state.aptpl);
	send_basic(0, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, basic);
	assert_false(result.changed);
	/* Other service actions ignore APTPL. */
	send_out(0, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 1, 0);
	assert_false(result.changed);
	send_out(0, SCSI_PERSISTENT_RESERVE_RELEASE, 1, 1, 0);
	assert_true(result.changed && state.aptpl);
	send_out(0, SCSI_PERSISTENT_RESERVE_RESERVE, 1, 1, 0);
	assert_true(result.changed && state.aptpl);
	send_list(0, move_cdb, &move, sizeof(move));
	assert_true(result.status == SCSI_RESERVE_GOOD && result.changed && !state.aptpl);
	move = make_move(2, 3, 0, false);
	move.flags = 1;
	send_list(1, move_cdb, &move, sizeof(move));
	assert_true(result.status == SCSI_RESERVE_GOOD && result.changed && state.aptpl);
	send_out(0, SCSI_PERSISTENT_RESERVE_CLEAR, 0, 3, 0);
	assert_true(result.status == SCSI_RESERVE_GOOD && result.changed && state.aptpl);
	/* What does nothing does not turn it off either. */
	send_out(0, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, 0);
	assert_true(result.status == SCSI_RESERVE_GOOD && !result.changed && state.aptpl);
}

#define ONE(holder)                                                                                \
	"{\"initiator\": \"0x3000000000000001\", \"target_port\": 1, "                             \
	"\"key\": \"0x0000000000000007\", \"holder\": " holder "}"
#define TWO(holder)                                                                                \
	"{\"initiator\": \"0x3000000000000001\", \"target_port\": 2, "                             \
	"\"key\": \"0x0000000000000007\", \"holder\": " holder "}"
#define STATE(type, list) "{\"type\": " type ", \"registrations\": [" list "]}"
#define WITH(initiator, port, key)                                                                 \
	STATE("0", "{\"initiator\": " initiator ", \"target_port\": " port ", \"key\": " key       \
		   ", \"holder\": false}")
#define ADDRESS "\"0x3000000000000001\""
#define A_KEY   "\"0x0000000000000007\""

static void
test_hostile_json(void **unused)
{
	static const char *const bad[] = {
		"[]", "{}", "3", "null", "{\"type\": 0}", "{\"registrations\": []}",
		"{\"type\": 0, \"registrations\": {}}", "{\"type\": \"0\", \"registrations\": []}",
		"{\"type\": 0.0, \"registrations\": []}",
		"{\"type\": 0, \"registrations\": [], \"more\": 1}",
		"{\"type\": 0, \"registrations\": [], \"aptpl\": 1}",
		"{\"type\": 0, \"registrations\": [], \"aptpl\": null}",
		"{\"type\": 0, \"registrations\": [], \"generation\": \"1\"}",
		"{\"type\": 0, \"registrations\": [], \"generation\": 1.0}",
		"{\"type\": 0, \"registrations\": [], \"generation\": -1}",
		"{\"type\": 0, \"registrations\": [], \"generation\": 4294967296}",
		"{\"registrations\": [], \"generation\": 1}",
		/* types that do not exist, or do not go with the holders */
		STATE("2", ONE("true")), STATE("4", ONE("true")), STATE("9", ONE("true")),
		STATE("-1", ONE("true")), STATE("257", ONE("true")),
		STATE("4294967297", ONE("true")), STATE("0", ONE("true")), STATE("1", ONE("false")),
		STATE("1", ""), STATE("7", ""), STATE("7", ONE("true")),
		STATE("1", ONE("true") "," TWO("true")), STATE("1", ONE("true") "," ONE("false")),
		/* registrations */
		STATE("0", "3"), STATE("0", "{}"), STATE("0", "[]"), STATE("0", ONE("0")),
		STATE("0", ONE("null")), STATE("0", ONE("false, \"more\": 1")),
		WITH("1", "1", A_KEY), WITH("null", "1", A_KEY), WITH("\"\"", "1", A_KEY),
		WITH("\"0x0000000000000000\"", "1", A_KEY),
		WITH("\"0x300000000000000\"", "1", A_KEY),
		WITH("\"0x30000000000000011\"", "1", A_KEY),
		WITH("\"0x3000000000000001\\u0000\"", "1", A_KEY),
		WITH("\"0x-000000000000001\"", "1", A_KEY),
		WITH("\"0X3000000000000001\"", "1", A_KEY),
		WITH("\"0x 000000000000001\"", "1", A_KEY), WITH(ADDRESS, "0", A_KEY),
		WITH(ADDRESS, "65536", A_KEY), WITH(ADDRESS, "-1", A_KEY),
		WITH(ADDRESS, "\"1\"", A_KEY), WITH(ADDRESS, "1.0", A_KEY), WITH(ADDRESS, "1", "7"),
		WITH(ADDRESS, "1", "\"0x0000000000000000\""), WITH(ADDRESS, "1", "\"7\"")};
	static const char *const good[] = {STATE("0", ""),
					   "{\"type\": 0, \"registrations\": [], \"aptpl\": false, "
					   "\"generation\": 4294967295}",
					   STATE("1", ONE("true")),
					   STATE("8", ONE("false")),
					   STATE("6", ONE("false") "," TWO("true")),
					   WITH(ADDRESS, "65535", A_KEY)};
	struct scsi_reservations before;
	struct errmsg err;
	json_t *json;

	(void)unused;
	begin(5, true);
	before = state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.text[0] = '\0';
		json = json_loads(bad[i], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		assert_non_null(json);
		if (scsi_reservations_from_json(&state, json, &err) != -EINVAL)
			fail_msg("taken: %s", bad[i]);
		assert_string_not_equal(err.text, "");
		assert_memory_equal(&state, &before, sizeof(state));
		json_decref(json);
	}
	assert_int_equal(scsi_reservations_from_json(&state, NULL, &err), -EINVAL);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		json = json_loads(good[i], 0, NULL);
		if (scsi_reservations_from_json(&state, json, &err) != 0)
			fail_msg("refused: %s", good[i]);
		json_decref(json);
	}
}

static void
test_too_many(void **unused)
{
	struct errmsg err;
	json_t *list = json_array(),
	       *json = json_pack("{s:i, s:o}", "type", 0, "registrations", list);

	(void)unused;
	for (unsigned int i = 0; i <= SCSI_REGISTRATIONS_MAX; i++) {
		char address[32];

		if (i > 0)
			assert_int_equal(scsi_reservations_from_json(&state, json, &err), 0);
		snprintf(address, sizeof(address), "0x%016x", i + 1);
		json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:b}", "initiator", address,
						      "target_port", 1, "key", "0x0000000000000001",
						      "holder", 0));
	}
	assert_int_equal(scsi_reservations_from_json(&state, json, &err), -EINVAL);
	assert_int_equal(state.count, SCSI_REGISTRATIONS_MAX);
	json_decref(json);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_read_keys, setup),
		cmocka_unit_test_setup(test_capabilities, setup),
		cmocka_unit_test_setup(test_full_status, setup),
		cmocka_unit_test_setup(test_allocation_lengths, setup),
		cmocka_unit_test_setup(test_full_house, setup),
		cmocka_unit_test_setup(test_no_such_action, setup),
		cmocka_unit_test_setup(test_transport_id, setup),
		cmocka_unit_test_setup(test_round_trip, setup),
		cmocka_unit_test_setup(test_old_form, setup),
		cmocka_unit_test_setup(test_changed, setup),
		cmocka_unit_test_setup(test_hostile_json, setup),
		cmocka_unit_test_setup(test_too_many, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
