/* SPDX-License-Identifier: BSD-3-Clause */
/* links: reservation env */
/* ldflags: -liscsi */
/*
 * Persistent reservations: each service action, by whom, under which reservation, with what effect.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "reservation_rig.h"

enum {
	GOOD = SCSI_RESERVE_GOOD,
	CONFLICT = SCSI_RESERVE_CONFLICT,
	REFUSED = SCSI_RESERVE_REFUSED,
};
enum {
	REGISTER,
	RESERVE,
	RELEASE,
	CLEAR,
	PREEMPT,
	PREEMPT_AND_ABORT,
	REGISTER_AND_IGNORE,
};
enum { WE = 1, EA = 3, WE_RO = 5, EA_RO = 6, WE_AR = 7, EA_AR = 8 };
static const uint8_t types[] = {WE, EA, WE_RO, EA_RO, WE_AR, EA_AR};
#define TYPES (sizeof(types) / sizeof(types[0]))
#define for_each_type(type)                                                                        \
	for (unsigned int type##_at = 0, type; type##_at < TYPES && (type = types[type##_at]) > 0; \
	     type##_at++)

/* Who they are, and their keys in most of the tests. */
enum { A, B, C, D };
#define KEY(who) (0xabcdef0123456700 + (who))

static int
setup(void **unused)
{
	(void)unused;
	scsi_reservations_init(&state, true);
	return 0;
}

static void
register_as(unsigned int who, uint64_t key)
{
	assert_int_equal(send_out(who, REGISTER, 0, 0, key), GOOD);
}

/* A, B and C registered, A holds; D is a stranger. */
static void
begin(unsigned int type)
{
	scsi_reservations_init(&state, true);
	for (unsigned int who = A; who <= C; who++)
		register_as(who, KEY(who));
	assert_int_equal(send_out(A, RESERVE, type, KEY(A), 0), GOOD);
}

static bool
is_shared(unsigned int type)
{
	return type == WE_AR || type == EA_AR;
}

static uint64_t
key_of(unsigned int who)
{
	struct full_status list[SCSI_REGISTRATIONS_MAX];
	uint32_t generation;
	unsigned int count = read_full(list, &generation);

	for (unsigned int i = 0; i < count; i++) {
		if (list[i].address == FIRST_ADDRESS + who)
			return list[i].key;
	}
	return 0;
}

static uint32_t
generation_now(void)
{
	struct full_status list[SCSI_REGISTRATIONS_MAX];
	uint32_t generation;

	read_full(list, &generation);
	return generation;
}

/* 0 when there is none; the holder's key through *key. */
static unsigned int
reserved_type(uint64_t *key)
{
	struct scsi_task *task = read_in(SCSI_PERSISTENT_RESERVE_READ_RESERVATION, 64);
	struct scsi_persistent_reserve_in_read_reservation *decoded = scsi_datain_unmarshall(task);
	unsigned int type = 0;

	assert_non_null(decoded);
	*key = 0;
	if (decoded->reserved) {
		assert_int_equal(task->datain.size, 24);
		assert_int_equal(decoded->pr_scope, 0);
		*key = decoded->reservation_key;
		type = decoded->pr_type;
	} else {
		assert_int_equal(task->datain.size, 8);
	}
	scsi_free_scsi_task(task);
	return type;
}

static void
expect_reservation(unsigned int type, uint64_t key)
{
	uint64_t holder;

	assert_int_equal(reserved_type(&holder), type);
	assert_int_equal(holder, is_shared(type) ? 0 : key);
}

/* The effect on one nexus: attention, or 1 for none, and 0x10000 when its tasks are aborted. */
#define ABORTED 0x10000u
static unsigned int
effect_on(unsigned int who)
{
	unsigned int found = 0;

	for (uint32_t i = 0; i < result.effect_count; i++) {
		const struct scsi_reserve_effect *effect = &result.effects[i];

		if (effect->nexus.initiator != FIRST_ADDRESS + who)
			continue;
		assert_int_equal(found, 0);
		assert_int_equal(effect->nexus.target_port, 1);
		found = effect->attention | (effect->abort ? ABORTED : 0);
	}
	return found;
}

static void
expect_effects(unsigned int on_a, unsigned int on_b, unsigned int on_c)
{
	assert_int_equal(effect_on(A), on_a);
	assert_int_equal(effect_on(B), on_b);
	assert_int_equal(effect_on(C), on_c);
	assert_int_equal(result.effect_count, (on_a != 0) + (on_b != 0) + (on_c != 0));
}

static void
expect_refusal(unsigned int code, bool in_cdb, unsigned int field, int bit)
{
	assert_int_equal(result.status, REFUSED);
	assert_int_equal(result.code, code);
	assert_true(result.field_valid);
	assert_int_equal(result.field_in_cdb, in_cdb);
	assert_int_equal(result.field, field);
	assert_int_equal(result.field_bit, bit);
	assert_false(result.changed || result.effect_count > 0);
}

static void
expect_code(unsigned int code)
{
	assert_int_equal(result.status, REFUSED);
	assert_int_equal(result.code, code);
	assert_false(result.field_valid || result.changed || result.effect_count > 0);
}

static void
test_register(void **unused)
{
	(void)unused;
	/* SPC-4 table 67: not registered */
	assert_int_equal(send_out(A, REGISTER, 0, 0, 0), GOOD);
	assert_false(result.changed);
	assert_int_equal(generation_now(), 0);
	assert_int_equal(send_out(A, REGISTER, 0, 5, 7), CONFLICT);
	assert_int_equal(send_out(A, REGISTER, 0, 5, 0), CONFLICT);
	assert_int_equal(send_out(A, REGISTER, 0, 0, 7), GOOD);
	assert_true(result.changed);
	assert_int_equal(key_of(A), 7);
	assert_int_equal(generation_now(), 1);
	/* Registered. */
	assert_int_equal(send_out(A, REGISTER, 0, 0, 8), CONFLICT);
	assert_int_equal(send_out(A, REGISTER, 0, 8, 8), CONFLICT);
	assert_int_equal(key_of(A), 7);
	assert_int_equal(send_out(A, REGISTER, 0, 7, 8), GOOD);
	assert_int_equal(key_of(A), 8);
	assert_int_equal(send_out(A, REGISTER, 0, 8, 8), GOOD);
	assert_false(result.changed);
	assert_int_equal(generation_now(), 3);
	assert_int_equal(send_out(A, REGISTER, 0, 7, 0), CONFLICT);
	assert_int_equal(send_out(A, REGISTER, 0, 8, 0), GOOD);
	assert_int_equal(key_of(A), 0);
	assert_int_equal(generation_now(), 4);
	/* SCOPE and TYPE are ignored. */
	assert_int_equal(send_basic(A, REGISTER, 9, 15,
				    (struct scsi_persistent_reserve_out_basic){
					    .service_action_reservation_key = 1}),
			 GOOD);
}

static void
test_register_and_ignore(void **unused)
{
	(void)unused;
	/* SPC-4 table 68 */
	assert_int_equal(send_out(A, REGISTER_AND_IGNORE, 0, 99, 0), GOOD);
	assert_int_equal(generation_now(), 0);
	assert_int_equal(send_out(A, REGISTER_AND_IGNORE, 0, 99, 7), GOOD);
	assert_int_equal(key_of(A), 7);
	assert_int_equal(send_out(A, REGISTER_AND_IGNORE, 0, 99, 8), GOOD);
	assert_int_equal(key_of(A), 8);
	assert_int_equal(send_out(A, REGISTER_AND_IGNORE, 0, 99, 0), GOOD);
	assert_int_equal(key_of(A), 0);
	assert_int_equal(generation_now(), 3);
}

/* A nexus is both ports. */
static void
test_target_ports(void **unused)
{
	uint8_t list[24] = {[15] = 7};
	struct scsi_nexus_id other = {FIRST_ADDRESS + A, 2};
	struct full_status full[4];
	uint32_t generation;

	(void)unused;
	register_as(A, 7);
	scsi_reserve_out(&state, other, register_cdb, list, 24, &result);
	assert_int_equal(result.status, GOOD);
	assert_int_equal(read_full(full, &generation), 2);
	assert_int_equal(full[0].target_port, 1);
	assert_int_equal(full[1].target_port, 2);
	assert_int_equal(send_out(A, RESERVE, WE, 7, 0), GOOD);
	assert_false(scsi_reservation_conflicts(scsi_reservation_view(&state, nexus_of(A)),
						SCSI_ACCESS_WRITE));
	assert_true(scsi_reservation_conflicts(scsi_reservation_view(&state, other),
					       SCSI_ACCESS_WRITE));
}

static void
test_reserve(void **unused)
{
	(void)unused;
	for_each_type(held)
	{
		begin(held);
		assert_true(result.changed);
		expect_reservation(held, KEY(A));
		for_each_type(type)
		{
			bool again = type == held;

			assert_int_equal(send_out(A, RESERVE, type, KEY(A), 0),
					 again ? GOOD : CONFLICT);
			assert_false(result.changed);
			assert_int_equal(send_out(B, RESERVE, type, KEY(B), 0),
					 again && is_shared(held) ? GOOD : CONFLICT);
			assert_int_equal(send_out(D, RESERVE, type, 0, 0), CONFLICT);
			assert_int_equal(send_out(A, RESERVE, type, KEY(B), 0), CONFLICT);
		}
		expect_reservation(held, KEY(A));
		assert_int_equal(generation_now(), 3);
	}
	setup(NULL);
	assert_int_equal(send_out(A, RESERVE, WE, 0, 0), CONFLICT);
	register_as(A, 1);
	for (unsigned int type = 0; type < 16; type++) {
		if (memchr(types, type, TYPES) != NULL)
			continue;
		send_out(A, RESERVE, type, 1, 0);
		expect_refusal(0x2400, true, 2, 3);
	}
	send_basic(A, RESERVE, 1, WE,
		   (struct scsi_persistent_reserve_out_basic){.reservation_key = 1});
	expect_refusal(0x2400, true, 2, 7);
	expect_reservation(0, 0);
}

static void
test_release(void **unused)
{
	(void)unused;
	for_each_type(held)
	{
		unsigned int released = held == WE || held == EA ? 0 : RESERVATIONS_RELEASED;

		begin(held);
		assert_int_equal(send_out(D, RELEASE, held, 0, 0), CONFLICT);
		assert_int_equal(send_out(A, RELEASE, held, KEY(B), 0), CONFLICT);
		if (!is_shared(held)) {
			assert_int_equal(send_out(B, RELEASE, held, KEY(B), 0), GOOD);
			assert_int_equal(send_out(B, RELEASE, 15, KEY(B), 0), GOOD);
			assert_false(result.changed);
		}
		for_each_type(type)
		{
			if (type == held)
				continue;
			assert_int_equal(send_out(A, RELEASE, type, KEY(A), 0), REFUSED);
			expect_code(0x2604);
		}
		send_basic(A, RELEASE, 2, held,
			   (struct scsi_persistent_reserve_out_basic){.reservation_key = KEY(A)});
		expect_code(0x2604);
		expect_reservation(held, KEY(A));
		assert_int_equal(send_out(A, RELEASE, held, KEY(A), 0), GOOD);
		expect_effects(0, released, released);
		expect_reservation(0, 0);
		assert_int_equal(key_of(A), KEY(A));
		assert_int_equal(send_out(A, RELEASE, held, KEY(A), 0), GOOD);
		assert_int_equal(result.effect_count, 0);
		assert_int_equal(generation_now(), 3);
	}
	/* Any of the holders may. */
	begin(EA_AR);
	assert_int_equal(send_out(C, RELEASE, EA_AR, KEY(C), 0), GOOD);
	expect_effects(RESERVATIONS_RELEASED, RESERVATIONS_RELEASED, 0);
}

static void
test_unregister(void **unused)
{
	(void)unused;
	for_each_type(held)
	{
		unsigned int released = held == WE_RO || held == EA_RO ? RESERVATIONS_RELEASED : 0;

		begin(held);
		assert_int_equal(send_out(C, REGISTER, 0, KEY(C), 0), GOOD);
		assert_int_equal(result.effect_count, 0);
		expect_reservation(held, KEY(A));
		assert_int_equal(send_out(A, REGISTER_AND_IGNORE, 0, 0, 0), GOOD);
		expect_effects(0, released, 0);
		expect_reservation(is_shared(held) ? held : 0, 0);
		assert_int_equal(send_out(B, REGISTER, 0, KEY(B), 0), GOOD);
		assert_int_equal(result.effect_count, 0);
		expect_reservation(0, 0);
		assert_int_equal(generation_now(), 6);
	}
	/* A new key changes nothing else. */
	begin(EA);
	assert_int_equal(send_out(A, REGISTER, 0, KEY(A), 5), GOOD);
	expect_reservation(EA, 5);
}

static void
test_clear(void **unused)
{
	(void)unused;
	for_each_type(held)
	{
		begin(held);
		assert_int_equal(send_out(D, CLEAR, 0, 0, 0), CONFLICT);
		assert_int_equal(send_out(B, CLEAR, 0, KEY(A), 0), CONFLICT);
		assert_int_equal(send_basic(B, CLEAR, 15, 15,
					    (struct scsi_persistent_reserve_out_basic){
						    .reservation_key = KEY(B)}),
				 GOOD);
		expect_effects(RESERVATIONS_PREEMPTED, 0, RESERVATIONS_PREEMPTED);
		expect_reservation(0, 0);
		assert_int_equal(state.count, 0);
		assert_int_equal(generation_now(), 4);
	}
}

/* SPC-4 table 72: B preempts the holder A. */
static void
test_preempt_holder(void **unused)
{
	(void)unused;
	for (unsigned int action = PREEMPT; action <= PREEMPT_AND_ABORT; action++) {
		unsigned int abort = action == PREEMPT_AND_ABORT ? ABORTED : 0;

		for_each_type(held)
		{
			for_each_type(type)
			{
				begin(held);
				assert_int_equal(send_out(B, action, type, KEY(B),
							  is_shared(held) ? 0 : KEY(A)),
						 GOOD);
				if (is_shared(held))
					expect_effects(REGISTRATIONS_PREEMPTED | abort, abort,
						       REGISTRATIONS_PREEMPTED | abort);
				else
					expect_effects(REGISTRATIONS_PREEMPTED | abort, 0,
						       type == held ? 0 : RESERVATIONS_RELEASED);
				expect_reservation(type, KEY(B));
				assert_int_equal(key_of(A), 0);
				assert_int_equal(key_of(B), KEY(B));
				assert_int_equal(key_of(C), is_shared(held) ? 0 : KEY(C));
				assert_int_equal(generation_now(), 4);
			}
			if (!is_shared(held)) {
				begin(held);
				send_out(B, action, WE, KEY(B), 0);
				expect_refusal(0x2600, false, 8, -1);
			}
			begin(held);
			assert_int_equal(send_out(D, action, WE, 0, KEY(A)), CONFLICT);
			assert_int_equal(send_out(B, action, WE, KEY(A), KEY(A)), CONFLICT);
			assert_int_equal(send_out(B, action, WE, KEY(B), 12345), CONFLICT);
			send_out(B, action, 4, KEY(B), is_shared(held) ? 0 : KEY(A));
			expect_refusal(0x2400, true, 2, 3);
			expect_reservation(held, KEY(A));
			assert_int_equal(generation_now(), 3);
		}
	}
}

static void
test_preempt_registrations(void **unused)
{
	(void)unused;
	for (unsigned int action = PREEMPT; action <= PREEMPT_AND_ABORT; action++) {
		unsigned int abort = action == PREEMPT_AND_ABORT ? ABORTED : 0;

		for_each_type(held)
		{
			/* The type is ignored, even one that does not exist. */
			begin(held);
			assert_int_equal(send_out(B, action, 15, KEY(B), KEY(C)), GOOD);
			expect_effects(0, 0, REGISTRATIONS_PREEMPTED | abort);
			expect_reservation(held, KEY(A));
			assert_int_equal(key_of(C), 0);
			assert_int_equal(generation_now(), 4);
			/* Its own registration, without attention for itself. */
			assert_int_equal(send_out(B, action, held, KEY(B), KEY(B)), GOOD);
			expect_effects(0, abort, 0);
			assert_int_equal(key_of(B), 0);
			expect_reservation(held, KEY(A));
			assert_int_equal(generation_now(), 5);
		}
	}
	/* With all registrants as holders, the reservation goes with the last one. */
	begin(WE_AR);
	assert_int_equal(send_out(A, PREEMPT, WE, KEY(A), KEY(B)), GOOD);
	assert_int_equal(send_out(A, PREEMPT, WE, KEY(A), KEY(C)), GOOD);
	expect_reservation(WE_AR, 0);
	assert_int_equal(send_out(A, PREEMPT, WE, KEY(A), KEY(A)), GOOD);
	expect_reservation(0, 0);
	assert_int_equal(state.count, 0);
	/* Without a reservation. */
	register_as(A, KEY(A));
	register_as(B, KEY(B));
	assert_int_equal(send_out(A, PREEMPT, WE, KEY(A), 0), CONFLICT);
	assert_int_equal(send_out(A, PREEMPT, WE, KEY(A), KEY(B)), GOOD);
	expect_effects(0, REGISTRATIONS_PREEMPTED, 0);
	expect_reservation(0, 0);
}

static void
test_preempt_oneself(void **unused)
{
	(void)unused;
	for_each_type(held)
	{
		for_each_type(type)
		{
			unsigned int changed = type == held ? 0 : RESERVATIONS_RELEASED;

			if (is_shared(held))
				continue;
			begin(held);
			assert_int_equal(send_out(A, PREEMPT, type, KEY(A), KEY(A)), GOOD);
			expect_effects(0, changed, changed);
			expect_reservation(type, KEY(A));
			assert_int_equal(send_out(A, PREEMPT_AND_ABORT, type, KEY(A),
						  is_shared(type) ? 0 : KEY(A)),
					 GOOD);
			assert_int_equal(effect_on(A), ABORTED);
		}
	}
}

/* Several nexuses with the same key. */
static void
test_preempt_same_keys(void **unused)
{
	(void)unused;
	for (unsigned int who = A; who <= D; who++)
		register_as(who, who == D ? 8 : 7);
	assert_int_equal(send_out(B, RESERVE, WE_RO, 7, 0), GOOD);
	assert_int_equal(send_out(D, PREEMPT_AND_ABORT, EA_RO, 8, 7), GOOD);
	expect_effects(REGISTRATIONS_PREEMPTED | ABORTED, REGISTRATIONS_PREEMPTED | ABORTED,
		       REGISTRATIONS_PREEMPTED | ABORTED);
	expect_reservation(EA_RO, 8);
	assert_int_equal(state.count, 1);
	/* C is not the holder, but has its key: it takes over and stays. */
	setup(NULL);
	for (unsigned int who = A; who <= C; who++)
		register_as(who, 7);
	assert_int_equal(send_out(A, RESERVE, WE, 7, 0), GOOD);
	assert_int_equal(send_out(C, PREEMPT, EA, 7, 7), GOOD);
	expect_effects(REGISTRATIONS_PREEMPTED, REGISTRATIONS_PREEMPTED, 0);
	expect_reservation(EA, 7);
	assert_int_equal(key_of(C), 7);
}

static void
test_move(void **unused)
{
	struct move_list list;

	(void)unused;
	for_each_type(held)
	{
		begin(held);
		assert_int_equal(send_move(D, 0, 5, D, false), CONFLICT);
		assert_int_equal(send_move(B, KEY(B), 5, D, false), CONFLICT);
		assert_int_equal(send_move(A, KEY(B), 5, D, false), CONFLICT);
		if (is_shared(held)) {
			assert_int_equal(send_move(A, KEY(A), 5, D, false), CONFLICT);
			continue;
		}
		send_move(A, KEY(A), 0, D, false);
		expect_refusal(0x2600, false, 8, -1);
		send_move(A, KEY(A), 5, A, false);
		expect_refusal(0x2600, false, 24, -1);
		list = make_move(KEY(A), 5, D, false);
		list.target_port = 0;
		send_list(A, move_cdb, &list, sizeof(list));
		expect_refusal(0x2600, false, 18, -1);
		list = make_move(KEY(A), 5, D, false);
		list.id[0] = 0x05;
		send_list(A, move_cdb, &list, sizeof(list));
		expect_refusal(0x2600, false, 24, -1);
		assert_int_equal(generation_now(), 3);
		/* To a stranger, back to one that is registered, and away. */
		assert_int_equal(send_move(A, KEY(A), 5, D, false), GOOD);
		assert_int_equal(result.effect_count, 0);
		expect_reservation(held, 5);
		assert_int_equal(key_of(A), KEY(A));
		assert_int_equal(key_of(D), 5);
		assert_int_equal(send_move(D, 5, 6, A, false), GOOD);
		expect_reservation(held, 6);
		assert_int_equal(key_of(A), 6);
		assert_int_equal(send_move(A, 6, 9, B, true), GOOD);
		assert_int_equal(result.effect_count, 0);
		expect_reservation(held, 9);
		assert_int_equal(key_of(A), 0);
		assert_int_equal(key_of(B), 9);
		assert_int_equal(generation_now(), 6);
	}
	setup(NULL);
	register_as(A, 1);
	send_move(A, 1, 5, D, false);
	expect_refusal(0x2400, true, 1, 4);
}

static void
test_spec_i_pt(void **unused)
{
	uint8_t list[SPEC_LIST_MAX];
	size_t length = make_spec_list(list, 7, B, 2);

	(void)unused;
	assert_int_equal(send_list(A, register_cdb, list, length), GOOD);
	for (unsigned int who = A; who <= C; who++)
		assert_int_equal(key_of(who), 7);
	assert_int_equal(generation_now(), 1);
	/* One of them is registered: nobody else is. */
	length = make_spec_list(list, 8, C, 3);
	send_list(20, register_cdb, list, length);
	expect_refusal(0x2600, false, 28, -1);
	length = make_spec_list(list, 8, A, 1);
	make_transport_id(list + 28, FIRST_ADDRESS + D);
	make_transport_id(list + 28 + 24, FIRST_ADDRESS + C);
	list[27] = 48;
	send_list(20, register_cdb, list, length + 24);
	expect_refusal(0x2600, false, 28 + 24, -1);
	assert_int_equal(state.count, 3);
	assert_int_equal(key_of(D), 0);
	/* From one that is registered, whatever is in it. */
	length = make_spec_list(list, 8, D, 1);
	list[7] = 7;
	send_list(A, register_cdb, list, length);
	expect_refusal(0x2600, false, 20, 3);
	list[15] = 0;
	send_list(A, register_cdb, list, length);
	expect_refusal(0x2600, false, 20, 3);
	/* Oneself and others twice, and none. */
	setup(NULL);
	length = make_spec_list(list, 8, A, 2);
	memcpy(list + length, list + 28, 48);
	list[27] = 96;
	assert_int_equal(send_list(A, register_cdb, list, length + 48), GOOD);
	assert_int_equal(state.count, 2);
	length = make_spec_list(list, 8, 0, 0);
	assert_int_equal(send_list(C, register_cdb, list, length), GOOD);
	assert_int_equal(state.count, 3);
	/* TransportIDs of others, and one that is cut off. */
	for (unsigned int protocol = 0; protocol < 256; protocol++) {
		length = make_spec_list(list, 8, 10, 2);
		list[28 + 24] = protocol;
		if ((protocol & 0xcf) == 6)
			continue;
		send_list(D, register_cdb, list, length);
		expect_refusal(0x2600, false, 28 + 24, -1);
	}
	length = make_spec_list(list, 8, 10, 2);
	list[27] = 47;
	send_list(D, register_cdb, list, length - 1);
	expect_refusal(0x2600, false, 24, -1);
	assert_int_equal(state.count, 3);
	/* A key of 0 registers nobody. */
	length = make_spec_list(list, 0, 10, 2);
	assert_int_equal(send_list(D, register_cdb, list, length), GOOD);
	assert_int_equal(state.count, 3);
}

static void
test_no_room(void **unused)
{
	uint8_t list[SPEC_LIST_MAX];
	size_t length = make_spec_list(list, 7, 1, 254);

	(void)unused;
	assert_int_equal(send_list(0, register_cdb, list, length), GOOD);
	assert_int_equal(state.count, 255);
	length = make_spec_list(list, 7, 301, 1);
	send_list(300, register_cdb, list, length);
	expect_code(0x5504);
	assert_int_equal(state.count, 255);
	register_as(300, 7);
	assert_int_equal(send_out(301, REGISTER, 0, 0, 7), REFUSED);
	expect_code(0x5504);
	assert_int_equal(send_out(301, REGISTER_AND_IGNORE, 0, 0, 7), REFUSED);
	expect_code(0x5504);
	assert_int_equal(send_out(0, RESERVE, WE_RO, 7, 0), GOOD);
	assert_int_equal(send_move(0, 7, 7, 301, true), REFUSED);
	expect_code(0x5504);
	assert_int_equal(send_move(0, 7, 9, 1, false), GOOD);
	assert_int_equal(send_out(1, PREEMPT_AND_ABORT, WE, 9, 7), GOOD);
	assert_int_equal(result.effect_count, 255);
	assert_int_equal(state.count, 1);
	/* More than there could ever be. */
	setup(NULL);
	length = make_spec_list(list, 7, 1, 257);
	send_list(0, register_cdb, list, length);
	expect_code(0x1a00);
	scsi_reserve_out(&state, nexus_of(0), register_cdb, NULL, UINT32_MAX, &result);
	expect_code(0x1a00);
}

/* Each length but the right one, of each service action. */
static void
test_truncated(void **unused)
{
	uint8_t list[SPEC_LIST_MAX];
	struct move_list move = make_move(KEY(A), 5, D, false);
	size_t length = make_spec_list(list, 7, 10, 3);

	(void)unused;
	begin(WE);
	for (size_t cut = 0; cut < length; cut++) {
		send_list(D, register_cdb, list, cut);
		expect_code(0x1a00);
	}
	send_list(D, register_cdb, list, length + 1);
	expect_code(0x1a00);
	for (size_t cut = 0; cut < sizeof(move); cut++) {
		send_list(A, move_cdb, &move, cut);
		expect_code(0x1a00);
	}
	move.id_length = htobe32(20);
	send_list(A, move_cdb, &move, sizeof(move));
	expect_code(0x1a00);
	move.id_length = htobe32(UINT32_MAX - 23);
	send_list(A, move_cdb, &move, sizeof(move));
	expect_code(0x1a00);
	move.id_length = htobe32(23);
	send_list(A, move_cdb, &move, sizeof(move) - 1);
	expect_refusal(0x2600, false, 20, -1);
	memset(list, 0, sizeof(list));
	for (uint8_t action = REGISTER; action <= REGISTER_AND_IGNORE; action++) {
		for (size_t cut = 0; cut < 64; cut++) {
			const uint8_t cdb[10] = {0x5f, action, WE};

			if (cut == 24)
				continue;
			send_list(A, cdb, list, cut);
			expect_code(0x1a00);
		}
	}
	assert_int_equal(generation_now(), 3);
}

static void
test_refused_bits(void **unused)
{
	uint8_t list[24] = {[15] = 7};
	struct move_list move;

	(void)unused;
	for (uint8_t action = REGISTER; action <= REGISTER_AND_IGNORE; action++) {
		const uint8_t cdb[10] = {0x5f, action, WE};
		bool registers = action == REGISTER || action == REGISTER_AND_IGNORE;

		for (int bit = 0; bit < 8; bit++) {
			setup(NULL);
			list[20] = 1 << bit;
			send_list(A, cdb, list, 24);
			list[20] = 0;
			if (bit == 0 || (bit == 2 && !registers))
				assert_int_equal(result.status, registers ? GOOD : CONFLICT);
			else if (bit == 3 && action == REGISTER)
				expect_code(0x1a00);
			else
				expect_refusal(0x2600, false, 20, bit);
			list[21] = 1 << bit;
			send_list(A, cdb, list, 24);
			list[21] = 0;
			expect_refusal(0x2600, false, 21, bit);
		}
		/* APTPL where there is nothing to keep it. */
		scsi_reservations_init(&state, false);
		list[20] = 1;
		send_list(A, cdb, list, 24);
		list[20] = 0;
		if (registers)
			expect_refusal(0x2600, false, 20, 0);
		else
			assert_int_equal(result.status, CONFLICT);
	}
	for (int bit = 0; bit < 8; bit++) {
		begin(WE);
		move = make_move(KEY(A), 5, D, false);
		move.flags = 1 << bit;
		send_list(A, move_cdb, &move, sizeof(move));
		if (bit < 2)
			assert_int_equal(result.status, GOOD);
		else
			expect_refusal(0x2600, false, 17, bit);
		begin(WE);
		move = make_move(KEY(A), 5, D, false);
		move.reserved = 1 << bit;
		send_list(A, move_cdb, &move, sizeof(move));
		expect_refusal(0x2600, false, 16, bit);
	}
	begin(WE);
	state.can_persist = false;
	move = make_move(KEY(A), 5, D, false);
	move.flags = 1;
	send_list(A, move_cdb, &move, sizeof(move));
	expect_refusal(0x2600, false, 17, 0);
	for (uint8_t action = 8; action < 32; action++) {
		const uint8_t cdb[10] = {0x5f, action};

		send_list(A, cdb, list, 24);
		expect_refusal(0x2400, true, 1, 4);
	}
}

/* SPC-4 table 65: read and write commands of the holder, of others registered, of strangers. */
static void
test_conflicts(void **unused)
{
	static const struct {
		uint8_t type;
		bool read[3], write[3]; /* may */
	} table[] = {
		{WE, {true, true, true}, {true, false, false}},
		{EA, {true, false, false}, {true, false, false}},
		{WE_RO, {true, true, true}, {true, true, false}},
		{EA_RO, {true, true, false}, {true, true, false}},
		{WE_AR, {true, true, true}, {true, true, false}},
		{EA_AR, {true, true, false}, {true, true, false}},
	};
	static const unsigned int actors[] = {A, B, D};

	(void)unused;
	for (unsigned int i = 0; i < TYPES; i++) {
		begin(table[i].type);
		for (unsigned int j = 0; j < 3; j++) {
			struct scsi_reservation_view view =
				scsi_reservation_view(&state, nexus_of(actors[j]));

			assert_false(scsi_reservation_conflicts(view, SCSI_ACCESS_ALWAYS));
			assert_int_equal(scsi_reservation_conflicts(view, SCSI_ACCESS_READ),
					 !table[i].read[j]);
			assert_int_equal(scsi_reservation_conflicts(view, SCSI_ACCESS_WRITE),
					 !table[i].write[j]);
		}
		assert_int_equal(send_out(A, RELEASE, table[i].type, KEY(A), 0), GOOD);
		for (unsigned int j = 0; j < 3; j++)
			assert_int_equal(
				scsi_reservation_view(&state, nexus_of(actors[j])).conflicts, 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_register, setup),
		cmocka_unit_test_setup(test_register_and_ignore, setup),
		cmocka_unit_test_setup(test_target_ports, setup),
		cmocka_unit_test_setup(test_reserve, setup),
		cmocka_unit_test_setup(test_release, setup),
		cmocka_unit_test_setup(test_unregister, setup),
		cmocka_unit_test_setup(test_clear, setup),
		cmocka_unit_test_setup(test_preempt_holder, setup),
		cmocka_unit_test_setup(test_preempt_registrations, setup),
		cmocka_unit_test_setup(test_preempt_oneself, setup),
		cmocka_unit_test_setup(test_preempt_same_keys, setup),
		cmocka_unit_test_setup(test_move, setup),
		cmocka_unit_test_setup(test_spec_i_pt, setup),
		cmocka_unit_test_setup(test_no_room, setup),
		cmocka_unit_test_setup(test_truncated, setup),
		cmocka_unit_test_setup(test_refused_bits, setup),
		cmocka_unit_test_setup(test_conflicts, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
