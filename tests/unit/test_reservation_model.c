/* SPDX-License-Identifier: BSD-3-Clause */
/* links: reservation env */
/* ldflags: -liscsi */
/*
 * Random PERSISTENT RESERVE OUT commands, next to a reference that is written as differently as
 * possible: sets of nexuses as bits, rules as sentences of SPC-4 one after the other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "reservation_rig.h"

#define WHO      6
#define KEYS     4 /* 0, which is none, and three */
#define COMMANDS 100000
#define ALL      ((1u << WHO) - 1)

/* ---- the reference ---- */

struct reference {
	uint64_t keys[WHO];                  /* 0: not registered */
	unsigned int type, scope_of_holders; /* the latter as bits: the holder, or all registered */
	uint32_t generation;
	bool aptpl;
};

/* What it expects of a command. */
struct expected {
	enum scsi_reserve_status status;
	unsigned int code;
	unsigned int attention[WHO];
	unsigned int aborted; /* bits */
};

static struct reference reference;

static unsigned int
registered(void)
{
	unsigned int bits = 0;

	for (unsigned int who = 0; who < WHO; who++)
		bits |= (reference.keys[who] != 0) << who;
	return bits;
}

static unsigned int
with_key(uint64_t key)
{
	unsigned int bits = 0;

	for (unsigned int who = 0; who < WHO; who++)
		bits |= (reference.keys[who] == key) << who;
	return bits & registered();
}

static unsigned int
holders(void)
{
	if (reference.type == 7 || reference.type == 8)
		return registered();
	return reference.type == 0 ? 0 : reference.scope_of_holders;
}

static void
forget(unsigned int whom)
{
	for (unsigned int who = 0; who < WHO; who++) {
		if (whom >> who & 1)
			reference.keys[who] = 0;
	}
}

static void
attend(struct expected *expected, unsigned int whom, unsigned int attention)
{
	for (unsigned int who = 0; who < WHO; who++) {
		if (whom >> who & 1)
			expected->attention[who] = attention;
	}
}

static struct expected
refused(unsigned int code)
{
	return (struct expected){.status = SCSI_RESERVE_REFUSED, .code = code};
}

static bool
valid_type(unsigned int type)
{
	return type == 1 || type == 3 || (type >= 5 && type <= 8);
}

/* One command as it was drawn. */
struct drawn {
	unsigned int who, action, scope, type, dest;
	uint64_t key, action_key;
	bool aptpl, unreg, spec_i_pt;
	unsigned int listed; /* bits: who is in the list with SPEC_I_PT */
};

static struct expected
expect_register(const struct drawn *drawn)
{
	struct expected good = {.status = SCSI_RESERVE_GOOD};
	uint64_t *own = &reference.keys[drawn->who];
	unsigned int held;

	if (drawn->action == 6 && drawn->spec_i_pt)
		return refused(0x2600);
	if (drawn->action == 0 && drawn->key != *own)
		return (struct expected){.status = SCSI_RESERVE_CONFLICT};
	if (*own != 0 && drawn->spec_i_pt)
		return refused(0x2600);
	if (*own == 0 && drawn->action_key == 0)
		return good;
	if (drawn->spec_i_pt && (drawn->listed & registered()) != 0)
		return refused(0x2600);
	held = holders();
	reference.generation++;
	reference.aptpl = drawn->aptpl;
	*own = drawn->action_key;
	for (unsigned int who = 0; who < WHO && drawn->spec_i_pt; who++) {
		if (drawn->listed >> who & 1)
			reference.keys[who] = drawn->action_key;
	}
	/* The holder unregistered: was it the only one? */
	if (*own == 0 && held == 1u << drawn->who) {
		if (reference.type == 5 || reference.type == 6)
			attend(&good, registered(), 0x2a04);
		reference.type = 0;
	}
	return good;
}

static struct expected
expect_preempt(const struct drawn *drawn)
{
	struct expected good = {.status = SCSI_RESERVE_GOOD};
	unsigned int self = 1u << drawn->who, others = ALL & ~self;
	unsigned int victims = with_key(drawn->action_key), old = reference.type;
	bool all = old >= 7;

	if (old != 0 && !all && drawn->action_key == 0)
		return refused(0x2600);
	if (all && drawn->action_key == 0)
		victims = registered();
	if (victims == 0)
		return (struct expected){.status = SCSI_RESERVE_CONFLICT};
	if (old != 0 && (all ? drawn->action_key == 0 : (victims & holders()) != 0)) {
		if (drawn->scope != 0 || !valid_type(drawn->type))
			return refused(0x2400);
		forget(victims & others);
		if (drawn->type != old)
			attend(&good, registered() & others, 0x2a04);
		reference.type = drawn->type;
		reference.scope_of_holders = self;
	} else {
		forget(victims);
		if (registered() == 0)
			reference.type = 0;
	}
	attend(&good, victims & others, 0x2a05);
	if (drawn->action == 5)
		good.aborted = victims;
	reference.generation++;
	return good;
}

static struct expected
expect_move(const struct drawn *drawn)
{
	if (reference.type == 0)
		return refused(0x2400);
	if (reference.type >= 7 || reference.scope_of_holders != 1u << drawn->who)
		return (struct expected){.status = SCSI_RESERVE_CONFLICT};
	if (drawn->action_key == 0 || drawn->dest == drawn->who)
		return refused(0x2600);
	reference.keys[drawn->dest] = drawn->action_key;
	reference.scope_of_holders = 1u << drawn->dest;
	reference.aptpl = drawn->aptpl;
	reference.generation++;
	if (drawn->unreg)
		forget(1u << drawn->who);
	return (struct expected){.status = SCSI_RESERVE_GOOD};
}

static struct expected
expect(const struct drawn *drawn)
{
	struct expected good = {.status = SCSI_RESERVE_GOOD};
	struct expected conflict = {.status = SCSI_RESERVE_CONFLICT};
	unsigned int self = 1u << drawn->who;
	unsigned int old = reference.type;

	if (drawn->action == 0 || drawn->action == 6)
		return expect_register(drawn);
	if (drawn->spec_i_pt && drawn->action != 7)
		return refused(0x2600);
	if ((registered() & self) == 0 || reference.keys[drawn->who] != drawn->key)
		return conflict;
	if (drawn->action == 4 || drawn->action == 5)
		return expect_preempt(drawn);
	if (drawn->action == 7)
		return expect_move(drawn);
	if (drawn->action == 3) {
		attend(&good, registered() & ~self, 0x2a03);
		forget(ALL);
		reference.type = 0;
		reference.generation++;
		return good;
	}
	if (drawn->action == 1) {
		if (drawn->scope != 0 || !valid_type(drawn->type))
			return refused(0x2400);
		if (old != 0)
			return (holders() & self) && old == drawn->type ? good : conflict;
		reference.type = drawn->type;
		reference.scope_of_holders = self;
		return good;
	}
	if ((holders() & self) == 0)
		return good;
	if (drawn->scope != 0 || drawn->type != old)
		return refused(0x2604);
	if (old >= 5)
		attend(&good, registered() & ~self, 0x2a04);
	reference.type = 0;
	return good;
}

/* ---- the comparison ---- */

static void
send_drawn(const struct drawn *drawn)
{
	struct scsi_persistent_reserve_out_basic basic = {
		.reservation_key = drawn->key,
		.service_action_reservation_key = drawn->action_key,
		.spec_i_pt = drawn->spec_i_pt,
		.aptpl = drawn->aptpl,
	};
	uint8_t list[SPEC_LIST_MAX];
	struct move_list move;
	size_t length;

	if (drawn->action == 7) {
		move = make_move(drawn->key, drawn->action_key, drawn->dest, drawn->unreg);
		move.flags |= drawn->aptpl;
		send_list(drawn->who, move_cdb, &move, sizeof(move));
	} else if (drawn->action == 0 && drawn->spec_i_pt) {
		uint64_t key = htobe64(drawn->key);

		make_spec_list(list, drawn->action_key, 0, 0);
		memcpy(list, &key, 8);
		list[20] |= drawn->aptpl;
		length = 28;
		for (unsigned int who = 0; who < WHO; who++) {
			if ((drawn->listed >> who & 1) == 0)
				continue;
			make_transport_id(list + length, FIRST_ADDRESS + who);
			length += 24;
		}
		list[27] = length - 28;
		send_list(drawn->who, register_cdb, list, length);
	} else {
		send_basic(drawn->who, drawn->action, drawn->scope, drawn->type, basic);
	}
}

static void
compare_state(void)
{
	struct full_status full[SCSI_REGISTRATIONS_MAX];
	uint32_t generation;
	unsigned int count = read_full(full, &generation), seen = 0;

	assert_int_equal(generation, reference.generation);
	assert_int_equal(state.aptpl, reference.aptpl);
	for (unsigned int i = 0; i < count; i++) {
		unsigned int who = full[i].address - FIRST_ADDRESS;

		assert_true(who < WHO && (seen >> who & 1) == 0);
		seen |= 1u << who;
		assert_int_equal(full[i].key, reference.keys[who]);
		assert_int_equal(full[i].holder, holders() >> who & 1);
		assert_int_equal(full[i].type, full[i].holder ? reference.type : 0);
	}
	assert_int_equal(seen, registered());
	assert_int_equal(state.type, reference.type);
}

/* SPC-4 table 65 in words. */
static void
compare_views(void)
{
	bool registrants = reference.type >= 5;
	bool only_writes = reference.type == 1 || reference.type == 5 || reference.type == 7;

	for (unsigned int who = 0; who < WHO; who++) {
		struct scsi_reservation_view view = scsi_reservation_view(&state, nexus_of(who));
		unsigned int may = registrants ? registered() : holders();
		bool shut_out = reference.type != 0 && (may >> who & 1) == 0;

		assert_int_equal(scsi_reservation_conflicts(view, SCSI_ACCESS_WRITE), shut_out);
		assert_int_equal(scsi_reservation_conflicts(view, SCSI_ACCESS_READ),
				 shut_out && !only_writes);
		assert_false(scsi_reservation_conflicts(view, SCSI_ACCESS_ALWAYS));
	}
}

static void
compare_result(const struct expected *expected)
{
	unsigned int aborted = 0, effects = 0;

	assert_int_equal(result.status, expected->status);
	assert_int_equal(result.code, expected->code);
	for (uint32_t i = 0; i < result.effect_count; i++) {
		const struct scsi_reserve_effect *effect = &result.effects[i];
		unsigned int who = effect->nexus.initiator - FIRST_ADDRESS;

		assert_true(who < WHO && (effects >> who & 1) == 0);
		effects |= 1u << who;
		assert_true(effect->attention != 0 || effect->abort);
		assert_int_equal(effect->attention, expected->attention[who]);
		aborted |= (unsigned int)effect->abort << who;
	}
	assert_int_equal(aborted, expected->aborted);
	for (unsigned int who = 0; who < WHO; who++) {
		if (expected->attention[who] != 0)
			assert_true(effects >> who & 1);
	}
}

static uint64_t random_state;

static unsigned int
draw(unsigned int below)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (random_state >> 33) % below;
}

static struct drawn
draw_command(void)
{
	static const unsigned int likely_types[] = {1, 3, 5, 6, 7, 8};
	struct drawn drawn = {
		.who = draw(WHO),
		.action = draw(8),
		.scope = draw(40) == 0,
		.type = draw(20) == 0 ? draw(16) : likely_types[draw(6)],
		.dest = draw(WHO),
		.action_key = draw(KEYS),
		.aptpl = draw(2),
		.unreg = draw(2),
		.spec_i_pt = draw(20) == 0,
		.listed = draw(ALL + 1),
	};

	/* Mostly what can succeed: the own key, the type that there is, few who are all gone. */
	drawn.key = draw(5) == 0 ? draw(KEYS) : reference.keys[drawn.who];
	if (drawn.action == 2 && draw(2) == 0)
		drawn.type = reference.type;
	if (drawn.action == 3 && draw(3) != 0)
		drawn.action = 6;
	return drawn;
}

static void
test_random(void **unused)
{
	unsigned int good[8] = {0};
	const char *seed = getenv("SEED");

	(void)unused;
	random_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
	scsi_reservations_init(&state, true);
	for (unsigned int i = 0; i < COMMANDS; i++) {
		struct drawn drawn = draw_command();
		struct reference before = reference;
		struct scsi_reservations was = state;
		struct expected expected = expect(&drawn);

		send_drawn(&drawn);
		compare_result(&expected);
		compare_state();
		compare_views();
		good[drawn.action] += result.status == SCSI_RESERVE_GOOD;
		if (result.status != SCSI_RESERVE_GOOD)
			assert_memory_equal(&before, &reference, sizeof(before));
		/* What is said to be as before is, but for the generation. */
		was.generation = state.generation;
		if (!result.changed) {
			assert_int_equal(was.count, state.count);
			assert_int_equal(was.type, state.type);
			assert_int_equal(was.aptpl, state.aptpl);
			assert_memory_equal(was.registrations, state.registrations,
					    was.count * sizeof(was.registrations[0]));
		}
	}
	for (unsigned int action = 0; action < 8; action++)
		assert_true(good[action] > COMMANDS / 400);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
