/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blk_check SOCKET MODE: a front-end for a vhost-user-blk controller whose disk has at least 8
 * MiB. Runs in a guest, next to the daemon (qemu-tests/test_nvme.py).
 *
 *   verify   random reads and writes on all queues of a disk that is all zeroes then, flush, write
 *            zeroes and discard, each followed by reads that know what must be there
 *   zeroes   what was discarded, and zeroed with leave to discard, reads as zeroes
 *   tables   reads and writes while memory is plugged and unplugged
 *   load     reads and writes until the first error, which the disk's removal makes: then each
 *            request that is under way must end, too
 *
 * It prints what it does, and "done" when all was right.
 */
/* links: testlib client */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "workload.h"

#define REQUESTS     4000
#define WAIT_MS      60000
#define DEPTH        16
#define TABLES       60
#define AREA         (WORKLOAD_DISK_BYTES / CLIENT_SECTOR) /* the sectors behind the workload */
#define AREA_BYTES   (64u * WORKLOAD_BLOCK)
#define AREA_SECTORS (AREA_BYTES / CLIENT_SECTOR)

static void __attribute__((format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list arguments;

	printf("FAILED: ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	exit(1);
}

static void
must(int rc, const char *what)
{
	if (rc != 0)
		fail("%s: %d (%s)", what, rc, rc < 0 ? strerror(-rc) : "status");
	printf("%s\n", what);
	fflush(stdout);
}

/* ---- verify ---- */

static void
expect_area(struct client_blk *blk, int byte, const char *what)
{
	static uint8_t data[WORKLOAD_BLOCK];

	for (uint32_t at = 0; at < AREA_BYTES; at += WORKLOAD_BLOCK) {
		int rc = client_blk_read(blk, AREA + at / CLIENT_SECTOR, data, sizeof(data));

		if (rc != 0)
			fail("%s: read at %u: %d", what, at, rc);
		for (uint32_t i = 0; i < sizeof(data); i++)
			if (data[i] != byte)
				fail("%s: byte %u is %#x instead of %#x", what, at + i, data[i],
				     (unsigned int)byte);
	}
}

static void
write_area(struct client_blk *blk, int byte)
{
	static uint8_t data[WORKLOAD_BLOCK];

	memset(data, byte, sizeof(data));
	for (uint32_t at = 0; at < AREA_BYTES; at += WORKLOAD_BLOCK) {
		int rc = client_blk_write(blk, AREA + at / CLIENT_SECTOR, data, sizeof(data));

		if (rc != 0)
			fail("write at %u: %d", at, rc);
	}
}

static void
verify(const char *socket)
{
	static struct workload load;
	struct client_blk *blk = &load.queues[0].blk;

	must(workload_open(&load, socket, 0, 1), "open");
	printf("sectors %llu, block size %u\n", (unsigned long long)load.device.config.capacity,
	       load.device.config.blk_size);
	must(client_blk_write_zeroes(blk, 0, AREA, 0), "all zeroes");
	must(workload_run(&load, REQUESTS, WAIT_MS), "random reads and writes");
	must(workload_drain(&load, WAIT_MS), "drained");
	must(workload_verify(&load), "verified");

	write_area(blk, 0x5a);
	must(client_blk_flush(blk), "flush");
	expect_area(blk, 0x5a, "written");
	must(client_blk_write_zeroes(blk, AREA, AREA_SECTORS, 0), "write zeroes");
	expect_area(blk, 0, "zeroed");
	write_area(blk, 0xa5);
	must(client_blk_discard(blk, AREA, AREA_SECTORS), "discard");
	write_area(blk, 0xc3);
	expect_area(blk, 0xc3, "written after the discard");
	must(workload_verify(&load), "verified again");
	workload_close(&load);
}

/* ---- zeroes ---- */

static void
check_zeroes(const char *socket)
{
	static struct workload load;
	struct client_blk *blk = &load.queues[0].blk;

	must(workload_open(&load, socket, 0, 1), "open");
	write_area(blk, 0x5a);
	must(client_blk_discard(blk, AREA, AREA_SECTORS), "discard");
	expect_area(blk, 0, "discarded");
	write_area(blk, 0xa5);
	must(client_blk_write_zeroes(blk, AREA, AREA_SECTORS, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
	     "write zeroes");
	expect_area(blk, 0, "zeroed");
	workload_close(&load);
}

/* ---- tables ---- */

static void
change_memory(struct client_device *device, unsigned int regions)
{
	static const struct client_region_layout more = {
		.gpa = 20ULL << 30, .user_addr = 0x7d0000000000, .size = 1 << 20, .file = 9};
	struct client_memory *memory = &device->memory;
	int rc = memory->count == regions ? client_memory_add(memory, &more)
					  : client_memory_remove(memory);

	if (rc == 0)
		rc = client_set_mem_table(&device->client, memory, true);
	if (rc != 0)
		fail("a table of %u regions: %d", memory->count, rc);
}

static void
change_tables(const char *socket)
{
	static struct workload load;
	unsigned int regions;

	must(workload_open(&load, socket, 0, 1), "open");
	must(client_blk_write_zeroes(&load.queues[0].blk, 0, AREA, 0), "all zeroes");
	regions = load.device.memory.count;
	for (unsigned int i = 0; i < TABLES; i++) {
		int rc = workload_run(&load, 50, WAIT_MS);

		if (rc != 0)
			fail("requests with table %u: %d", i, rc);
		change_memory(&load.device, regions);
	}
	must(workload_drain(&load, WAIT_MS), "drained");
	must(workload_verify(&load), "verified");
	workload_close(&load);
}

/* ---- load ---- */

static void
prepare(struct workload *load, uint64_t tag)
{
	struct workload_slot *slot = &load->queues[0].slots[tag];
	struct client_segment segment = {.gpa = slot->gpa, .len = WORKLOAD_BLOCK};
	struct client_blk_request request = {.type = VIRTIO_BLK_T_OUT,
					     .sector = tag * (WORKLOAD_BLOCK / CLIENT_SECTOR),
					     .segments = &segment,
					     .segment_count = 1,
					     .tag = tag};
	int rc = client_blk_submit(&load->queues[0].blk, &request);

	if (rc != 0)
		fail("submit: %d", rc);
}

static void
load_until_error(const char *socket)
{
	static struct workload load;
	struct client_blk_completion completion;
	struct client_blk *blk = &load.queues[0].blk;
	unsigned int under_way = DEPTH, failed = 0;
	uint64_t done = 0;

	must(workload_open(&load, socket, 0, 1), "open");
	for (uint64_t tag = 0; tag < DEPTH; tag++)
		prepare(&load, tag);
	printf("loading\n");
	fflush(stdout);
	while (under_way > 0) {
		int rc = client_blk_wait(blk, &completion, WAIT_MS);

		if (rc != 0)
			fail("wait, with %u under way: %d", under_way, rc);
		done++;
		under_way--;
		if (completion.status != VIRTIO_BLK_S_OK)
			failed++;
		if (failed > 0)
			continue;
		prepare(&load, completion.tag);
		under_way++;
	}
	printf("%llu requests, %u failed\n", (unsigned long long)done, failed);
	if (client_blk_flush(blk) <= VIRTIO_BLK_S_OK)
		fail("a flush of a disk that is gone");
	workload_close(&load);
}

int
main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(const char *socket);
	} modes[] = {
		{"verify", verify},
		{"zeroes", check_zeroes},
		{"tables", change_tables},
		{"load", load_until_error},
	};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (argc == 3 && strcmp(argv[2], modes[i].name) == 0) {
			modes[i].run(argv[1]);
			printf("done\n");
			return 0;
		}
	}
	fail("usage: blk_check SOCKET verify|zeroes|tables|load");
}
