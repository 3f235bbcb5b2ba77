/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-scsi requests: taking chains of any layout apart, and what LUN fields name. */
/* links: vhost scsi reservation bdev virtio thread env */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vhost/vhost_scsi.h"

/* ---- in place of the control queue ---- */

void
vhost_scsi_control_init(struct vhost_queue *queue, struct virtq_slot *slot)
{
	(void)queue;
	(void)slot;
}

void
vhost_scsi_handle_control(struct vhost_queue *queue, struct virtq_slot *slot)
{
	(void)queue;
	(void)slot;
}

/* ---- chains ---- */

#define BYTES   4096 /* of each direction */
#define MAX_IOV 128

static struct chain {
	struct virtq_slot *slot;
	struct iovec iov[MAX_IOV];
	uint8_t out[BYTES], in[BYTES];
	struct vhost_scsi_request *request;
} chain;

static uint32_t seed;

static uint32_t
random_below(uint32_t limit)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % limit;
}

static int
setup(void **state)
{
	(void)state;
	seed = 1;
	chain.slot = calloc(1, sizeof(*chain.slot));
	chain.request = calloc(1, sizeof(*chain.request) + scsi_task_size());
	return chain.slot != NULL && chain.request != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	(void)state;
	free(chain.slot);
	free(chain.request);
	return 0;
}

/* Cuts bytes at random places; returns how many pieces. */
static uint32_t
cut(struct iovec *iov, uint8_t *bytes, uint32_t length, uint32_t longest)
{
	uint32_t count = 0;

	while (length > 0 && count < MAX_IOV / 2 - 1) {
		uint32_t part = 1 + random_below(longest);

		if (part > length)
			part = length;
		iov[count++] = (struct iovec){bytes, part};
		bytes += part;
		length -= part;
	}
	if (length > 0)
		iov[count++] = (struct iovec){bytes, length};
	return count;
}

static void
make_chain(uint32_t out, uint32_t in, uint32_t longest)
{
	struct virtq_slot *slot = chain.slot;

	slot->iov = chain.iov;
	slot->readable_count = cut(chain.iov, chain.out, out, longest);
	slot->writable_count = cut(chain.iov + slot->readable_count, chain.in, in, longest);
	slot->readable_bytes = out;
	slot->writable_bytes = in;
}

/* The iovecs are those bytes, one after the other. */
static void
expect_bytes(const struct iovec *iov, uint32_t count, const uint8_t *bytes, uint64_t length)
{
	for (uint32_t i = 0; i < count; i++) {
		assert_ptr_equal(iov[i].iov_base, bytes);
		assert_true(iov[i].iov_len > 0 && iov[i].iov_len <= length);
		bytes += iov[i].iov_len;
		length -= iov[i].iov_len;
	}
	assert_int_equal(length, 0);
}

static void
check_one(uint32_t cdb_size, uint32_t sense_size, uint32_t out_data, uint32_t in_data,
	  uint32_t longest)
{
	uint32_t header = 19 + cdb_size, response = 12 + sense_size;
	const struct scsi_task *task = &chain.request->task;
	uint8_t expected[12 + VHOST_SCSI_SENSE_MAX];
	uint64_t lun;
	uint32_t kept = cdb_size < 32 ? cdb_size : 32;
	uint8_t answer[12 + VHOST_SCSI_SENSE_MAX];
	uint64_t tag;

	for (uint32_t i = 0; i < BYTES; i++)
		chain.out[i] = (uint8_t)random_below(256);
	make_chain(header + out_data, response + in_data, longest);
	assert_true(vhost_scsi_parse(chain.slot, cdb_size, sense_size, chain.request, &lun));
	assert_memory_equal(&lun, chain.out, 8);
	memcpy(&tag, chain.out + 8, 8);
	assert_int_equal(task->tag, tag);
	assert_int_equal(task->attribute, chain.out[16]);
	assert_int_equal(task->cdb_length, kept);
	assert_memory_equal(task->cdb, chain.out + 19, kept);
	for (uint32_t i = kept; i < SCSI_CDB_MAX; i++)
		assert_int_equal(task->cdb[i], 0);
	assert_int_equal(task->out_bytes, out_data);
	assert_int_equal(task->in_bytes, in_data);
	expect_bytes(task->out, task->out_count, chain.out + header, out_data);
	expect_bytes(task->in, task->in_count, chain.in + response, in_data);

	/* What is put there comes where it belongs, and nowhere else. */
	memset(chain.in, 0xee, BYTES);
	for (uint32_t i = 0; i < response; i++)
		answer[i] = (uint8_t)(i + 1);
	vhost_scsi_put_response(&chain.request->response, answer, 12, false);
	assert_memory_equal(chain.in, answer, 12);
	for (uint32_t i = 12; i < BYTES; i++)
		assert_int_equal(chain.in[i], 0xee);
	memset(expected, 0, sizeof(expected));
	memcpy(expected, answer, 12);
	vhost_scsi_put_response(&chain.request->response, answer, 12, true);
	assert_memory_equal(chain.in, expected, response);
	assert_int_equal(chain.in[response], 0xee);
	vhost_scsi_put_response(&chain.request->response, answer, response, false);
	assert_memory_equal(chain.in, answer, response);
	assert_int_equal(chain.in[response], 0xee);
}

static void
test_layouts(void **state)
{
	static const uint32_t cdb_sizes[] = {32, 32, 6, 16, 1, 255, 256};
	static const uint32_t sense_sizes[] = {96, 96, 0, 1, 18, 256};

	(void)state;
	for (unsigned int i = 0; i < 20000; i++) {
		uint32_t out = random_below(3) == 0 ? random_below(1024) : 0;
		uint32_t in = random_below(2) == 0 ? random_below(1024) : 0;

		check_one(cdb_sizes[random_below(7)], sense_sizes[random_below(6)], out, in,
			  1 + random_below(2) * 8 + random_below(400));
	}
}

/* As nearly every driver has it: a buffer for each part. */
static void
test_usual(void **state)
{
	(void)state;
	for (uint32_t bytes = 51 + 108; bytes <= 51 + 108 + 512; bytes += 512) {
		struct virtq_slot *slot = chain.slot;
		uint64_t lun;

		make_chain(51, 108, 1000);
		chain.iov[2] = (struct iovec){chain.in + 108, 512};
		slot->writable_count = bytes > 51 + 108 ? 2 : 1;
		slot->writable_bytes = bytes - 51;
		assert_true(vhost_scsi_parse(slot, 32, 96, chain.request, &lun));
		assert_int_equal(chain.request->response.whole_count, 0);
		assert_ptr_equal(chain.request->response.rest, chain.in);
		assert_int_equal(chain.request->task.in_count, bytes > 51 + 108);
		assert_int_equal(chain.request->task.out_count, 0);
	}
}

static void
test_too_short(void **state)
{
	uint64_t lun;

	(void)state;
	for (uint32_t longest = 1; longest < 200; longest += 7) {
		for (uint32_t i = 0; i < 51; i++) {
			make_chain(i, 108, longest);
			assert_false(vhost_scsi_parse(chain.slot, 32, 96, chain.request, &lun));
		}
		for (uint32_t i = 0; i < 108; i++) {
			make_chain(51, i, longest);
			assert_false(vhost_scsi_parse(chain.slot, 32, 96, chain.request, &lun));
		}
	}
}

/* ---- LUN fields ---- */

static void
test_lun_fields(void **state)
{
	static const struct {
		uint8_t field[8];
		bool valid;
		uint32_t target, lun;
	} cases[] = {
		{{1, 7, 0, 9}, true, 7, 9},
		{{1, 255, 0, 255}, true, 255, 255},
		{{1, 7, 0x40, 9}, true, 7, 9},
		{{1, 7, 0x41, 9}, true, 7, 265},
		{{1, 7, 0x7f, 0xff}, true, 7, 16383},
		{{1, 7, 1, 9}, true, 7, VHOST_SCSI_NO_LUN},
		{{1, 7, 0x80, 9}, true, 7, VHOST_SCSI_NO_LUN},
		{{1, 7, 0xc1, 1}, true, 7, SCSI_LUN_REPORT_LUNS},
		{{1, 7, 0xc1, 2}, true, 7, VHOST_SCSI_NO_LUN},
		{{1, 7, 0, 9, 1}, true, 7, VHOST_SCSI_NO_LUN},
		{{1, 7, 0, 9, 0, 0, 0, 1}, true, 7, VHOST_SCSI_NO_LUN},
		{{0xc1, 1}, true, VHOST_SCSI_ANY_TARGET, SCSI_LUN_REPORT_LUNS},
		{{0xc1, 1, 0, 0, 0, 0, 0, 1}, false, 0, 0},
		{{0xc1, 2}, false, 0, 0},
		{{0}, false, 0, 0},
		{{2, 7}, false, 0, 0},
		{{0x41, 7}, false, 0, 0},
	};
	struct vhost_scsi_address address;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(vhost_scsi_decode_lun(cases[i].field, &address), cases[i].valid);
		if (!cases[i].valid)
			continue;
		assert_int_equal(address.target, cases[i].target);
		assert_int_equal(address.lun, cases[i].lun);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_layouts),
		TEST(test_usual),
		TEST(test_too_short),
		TEST(test_lun_fields),
	};

	return cmocka_run_group_tests_name("vhost_scsi_parse", tests, NULL, NULL);
}
