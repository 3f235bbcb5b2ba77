/* SPDX-License-Identifier: BSD-3-Clause */
/* links: testlib */
/*
 * How fast the software NVMe device is: reads of 4 KiB per second at queue depths of 1, 32 and 128,
 * by a driver that does nothing but submit and take completions. The device is on the first CPU
 * that there is for us, the driver on the second. What it says is the limit of every measurement
 * with that device.
 *
 *     nvme_device_perf [--json] [null|memory [SECONDS]]
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nvme_client.h"
#include "nvme_device.h"
#include "waiting.h"

#define QUEUE   256
#define BLOCK   4096u
#define BLOCKS  16384u
#define BATCH   32 /* completions before their doorbell */
#define DEPTHS  3
#define MAX_CPU 1024

static struct nvme_device device;

struct load {
	struct nvme_client client;
	uint64_t data; /* IOVA */
	uint32_t depth;
	uint64_t done;
};

static void
fail(const char *what)
{
	fprintf(stderr, "nvme_device_perf: %s\n", what);
	nvme_device_end(&device);
	exit(1);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Onto the number-th CPU of those that we may use; the only one if there are no more. */
static void
use_cpu(const cpu_set_t *all, int number)
{
	cpu_set_t one;
	int cpu = 0;

	CPU_ZERO(&one);
	for (int seen = number % CPU_COUNT(all); cpu < MAX_CPU; cpu++) {
		if (CPU_ISSET(cpu, all) && seen-- == 0)
			break;
	}
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void
submit(struct load *load, uint16_t cid)
{
	struct nvme_client_queue *queue = &load->client.queues[1];
	struct nvme_sqe *sqe = &queue->submissions[queue->tail];

	sqe->cid = cid;
	sqe->prp1 = load->data + cid * BLOCK;
	queue->tail = queue->tail + 1 == QUEUE ? 0 : queue->tail + 1;
}

/* The completions that are there, each followed by another command. */
static void
poll_once(struct load *load)
{
	struct nvme_client_queue *queue = &load->client.queues[1];
	uint32_t count = 0;

	while (count < BATCH) {
		volatile struct nvme_cqe *entry = &queue->completions[queue->head];
		uint16_t status = entry->status;

		if ((status & 1) != queue->phase)
			break;
		if (status >> 1 != 0)
			fail("a command failed");
		atomic_signal_fence(memory_order_acquire);
		submit(load, entry->cid);
		if (++queue->head == QUEUE) {
			queue->head = 0;
			queue->phase = !queue->phase;
		}
		count++;
	}
	if (count == 0)
		return;
	load->done += count;
	nvme_client_set_doorbell(&load->client, 1, true, queue->head);
	nvme_client_set_doorbell(&load->client, 1, false, queue->tail);
}

static void
prepare(struct load *load)
{
	struct nvme_client_queue *queue = &load->client.queues[1];

	for (uint32_t i = 0; i < QUEUE; i++)
		queue->submissions[i] = (struct nvme_sqe){
			.opcode = nvme_cmd_read, .nsid = 1, .cdw10 = i * 37 % BLOCKS};
	for (uint16_t i = 0; i < load->depth; i++)
		submit(load, i);
	nvme_client_ring(&load->client, 1);
}

static void
report(const struct load *load, double seconds, bool json)
{
	const double iops = (double)load->done / seconds;
	const double avg_us = 1e6 * load->depth / iops;

	if (json)
		printf("{\"qd\": %u, \"iops\": %.0f, \"avg_us\": %.3f}\n", load->depth, iops,
		       avg_us);
	else
		printf("queue depth %3u: %8.0f k IOPS, %6.2f us\n", load->depth, iops / 1000,
		       avg_us);
}

static void
measure(uint32_t depth, double seconds, bool json)
{
	static struct load load;
	double start, end;

	memset(&load, 0, sizeof(load));
	load.depth = depth;
	if (nvme_client_open(&load.client, device.socket) != 0 ||
	    nvme_client_enable(&load.client, DEADLINE_MS) != 0 ||
	    nvme_client_create_queue(&load.client, 1, QUEUE, -1) != 0)
		fail("the device does not start");
	nvme_client_alloc(&load.client, (size_t)depth * BLOCK, &load.data);
	prepare(&load);
	start = now();
	while (load.done == 0 && now() - start < DEADLINE_MS / 1000.0)
		poll_once(&load);
	if (load.done == 0)
		fail("nothing is completed");
	load.done = 0;
	start = now();
	do {
		for (int i = 0; i < 1000; i++)
			poll_once(&load);
		end = now();
	} while (end - start < seconds);
	report(&load, end - start, json);
	nvme_client_close(&load.client);
}

int
main(int argc, char **argv)
{
	static const uint32_t depths[DEPTHS] = {1, 32, 128};
	const bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
	char **words = argv + json;
	const char *kind = argc - json > 1 ? words[1] : "null";
	double seconds = argc - json > 2 ? atof(words[2]) : 1;
	char line[128];
	const char *const args[] = {"--spin", "-c", line, NULL};
	cpu_set_t all;
	int rc;

	snprintf(line, sizeof(line), "ns add 1 %s %u %u", kind, BLOCKS, BLOCK);
	sched_getaffinity(0, sizeof(all), &all);
	use_cpu(&all, 0);
	rc = nvme_device_start(&device, args);
	if (rc != 0) {
		fprintf(stderr, "nvme_device_perf: %s\n", strerror(-rc));
		return 1;
	}
	use_cpu(&all, 1);
	for (int i = 0; i < DEPTHS; i++)
		measure(depths[i], seconds, json);
	return nvme_device_end(&device) == 0 ? 0 : 1;
}
