/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Persistent reserve commands as somebody else encodes and decodes them: libiscsi for what it
 * knows, this file for TransportIDs and the full status.
 */
#ifndef VHOSTD_TESTS_RESERVATION_RIG_H
#define VHOSTD_TESTS_RESERVATION_RIG_H

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "reservation.h"

#define FIRST_ADDRESS UINT64_C(0x3000000000000001)

static struct scsi_reservations state;
static struct scsi_reserve_result result;

static inline struct scsi_nexus_id
nexus_of(unsigned int who)
{
	return (struct scsi_nexus_id){FIRST_ADDRESS + who, 1};
}

/* Sends a parameter list from memory of exactly that size. */
static inline enum scsi_reserve_status
send_list(unsigned int who, const uint8_t *cdb, const void *list, size_t length)
{
	uint8_t *copy = malloc(length);

	assert(copy != NULL || length == 0);
	if (length > 0)
		memcpy(copy, list, length);
	scsi_reserve_out(&state, nexus_of(who), cdb, copy, length, &result);
	free(copy);
	return result.status;
}

static inline enum scsi_reserve_status
send_basic(unsigned int who, unsigned int action, unsigned int scope, unsigned int type,
	   struct scsi_persistent_reserve_out_basic basic)
{
	struct scsi_task *task = scsi_cdb_persistent_reserve_out(action, scope, type, &basic);
	enum scsi_reserve_status status;

	assert(task->cdb_size == 10 && task->iovector_out.iov[0].iov_len == 24);
	status = send_list(who, task->cdb, task->iovector_out.iov[0].iov_base, 24);
	scsi_free_scsi_task(task);
	return status;
}

static inline enum scsi_reserve_status
send_out(unsigned int who, unsigned int action, unsigned int type, uint64_t key,
	 uint64_t action_key)
{
	return send_basic(
		who, action, 0, type,
		(struct scsi_persistent_reserve_out_basic){
			.reservation_key = key, .service_action_reservation_key = action_key});
}

/* SPC-4 table 507 */
static inline void
make_transport_id(uint8_t id[24], uint64_t address)
{
	uint64_t big = htobe64(address);

	memset(id, 0, 24);
	id[0] = 0x06;
	memcpy(id + 4, &big, 8);
}

/* SPC-4 table 217 */
struct move_list {
	uint64_t key, action_key;
	uint8_t reserved, flags;
	uint16_t target_port;
	uint32_t id_length;
	uint8_t id[24];
} __attribute__((packed));

static inline struct move_list
make_move(uint64_t key, uint64_t action_key, unsigned int dest, bool unreg)
{
	struct move_list list = {
		.key = htobe64(key),
		.action_key = htobe64(action_key),
		.flags = unreg ? 2 : 0,
		.target_port = htobe16(1),
		.id_length = htobe32(24),
	};

	make_transport_id(list.id, FIRST_ADDRESS + dest);
	return list;
}

static const uint8_t move_cdb[10] = {0x5f, 7, 0, 0, 0, 0, 0, 0, 48, 0};

static inline enum scsi_reserve_status
send_move(unsigned int who, uint64_t key, uint64_t action_key, unsigned int dest, bool unreg)
{
	struct move_list list = make_move(key, action_key, dest, unreg);

	return send_list(who, move_cdb, &list, sizeof(list));
}

/* SPC-4 table 215, with count TransportIDs of dest, dest + 1, … */
#define SPEC_LIST_MAX (28 + 300 * 24)
static inline size_t
make_spec_list(uint8_t list[SPEC_LIST_MAX], uint64_t action_key, unsigned int dest,
	       unsigned int count)
{
	uint64_t big = htobe64(action_key);
	uint32_t length = htobe32(count * 24);

	memset(list, 0, SPEC_LIST_MAX);
	memcpy(list + 8, &big, 8);
	list[20] = 8;
	memcpy(list + 24, &length, 4);
	for (unsigned int i = 0; i < count; i++)
		make_transport_id(list + 28 + i * 24, FIRST_ADDRESS + dest + i);
	return 28 + count * 24;
}

static const uint8_t register_cdb[10] = {0x5f};

/* The answer in memory of exactly its size (free()), which the task has to decode. */
static inline struct scsi_task *
read_in(unsigned int action, uint16_t allocation)
{
	struct scsi_task *task = scsi_cdb_persistent_reserve_in(action, allocation);
	uint8_t *room = malloc(allocation);
	struct scsi_reserve_result of_in;

	task->datain.size = scsi_reserve_in(&state, task->cdb, room, allocation, &of_in);
	assert(of_in.status == SCSI_RESERVE_GOOD && of_in.effect_count == 0);
	task->datain.data = room;
	return task;
}

/* One full status descriptor (SPC-4 table 211). */
struct full_status {
	uint64_t key, address;
	uint16_t target_port;
	uint8_t holder, type;
};

static inline uint64_t
number_at(const uint8_t *bytes, unsigned int count)
{
	uint64_t value = 0;

	while (count-- > 0)
		value = value * 256 + *bytes++;
	return value;
}

static inline unsigned int
read_full(struct full_status *list, uint32_t *generation)
{
	struct scsi_task *task = read_in(3, UINT16_MAX);
	const uint8_t *data = task->datain.data;
	unsigned int count = 0, at = 8;

	*generation = number_at(data, 4);
	assert(number_at(data + 4, 4) + 8 == (unsigned int)task->datain.size);
	while (at < (unsigned int)task->datain.size) {
		const uint8_t *one = data + at;

		list[count++] = (struct full_status){
			.key = number_at(one, 8),
			.address = number_at(one + 28, 8),
			.target_port = number_at(one + 18, 2),
			.holder = one[12],
			.type = one[13],
		};
		assert(number_at(one + 20, 4) == 24 && one[24] == 0x06);
		at += 48;
	}
	scsi_free_scsi_task(task);
	return count;
}

#endif
