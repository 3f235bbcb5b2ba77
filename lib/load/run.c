/* SPDX-License-Identifier: BSD-3-Clause */
/* A whole run: the device, the threads, and what they found together. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the threads ---- */

static double
measure_tsc_hz(void)
{
	uint64_t ns = now_ns();
	uint64_t tsc = __rdtsc();
	uint64_t elapsed;

	do {
		elapsed = now_ns() - ns;
	} while (elapsed < 50000000);
	return (double)(__rdtsc() - tsc) * 1e9 / elapsed;
}

static void
run_worker(struct worker *worker)
{
	const struct load_options *options = worker->options;

	worker->rc = 0;
	if (options->cpu_count > 0)
		worker->rc = load_pin(options->cpus[worker->index % options->cpu_count]);
	if (worker->rc == 0)
		load_run_worker(worker);
}

static void *
worker_main(void *arg)
{
	run_worker(arg);
	return NULL;
}

/* The queues are shared out evenly, neighbours together. */
static void
set_worker(struct load *load, unsigned int index)
{
	const struct load_options *options = &load->options;
	unsigned int first = options->queues * index / options->threads;
	unsigned int end = options->queues * (index + 1) / options->threads;
	struct worker *worker = &load->workers[index];

	worker->options = options;
	worker->stop = &load->stop;
	worker->index = index;
	worker->queues = &load->queues[first];
	worker->queue_count = end - first;
	worker->socket = load->device.client.fd;
	worker->tsc_hz = load->tsc_hz;
}

/* The first worker is the calling thread. The ramp covers that they do not start at once. */
static int
run_workers(struct load *load)
{
	unsigned int i, started;
	int rc = 0;

	for (i = 0; i < load->options.threads; i++)
		set_worker(load, i);
	for (started = 1; started < load->options.threads && rc == 0; started++)
		rc = -pthread_create(&load->workers[started].thread, NULL, worker_main,
				     &load->workers[started]);
	if (rc < 0)
		started--;
	else
		run_worker(&load->workers[0]);
	for (i = 1; i < started; i++)
		pthread_join(load->workers[i].thread, NULL);
	for (i = 0; i < load->options.threads && rc == 0; i++)
		rc = load->workers[i].rc;
	return rc;
}

/* ---- the result ---- */

static void
add_result(struct load_result *sum, const struct worker *worker)
{
	unsigned int i;

	sum->stats.ios += worker->stats.ios;
	sum->stats.ticks += worker->stats.ticks;
	sum->stats.errors += worker->stats.errors;
	sum->stats.kicks += worker->stats.kicks;
	for (i = 0; i < BUCKETS; i++)
		sum->stats.buckets[i] += worker->stats.buckets[i];
	sum->iops += worker->stats.ios / worker->seconds;
	sum->total_ios += worker->total_ios;
	if (worker->seconds > sum->seconds)
		sum->seconds = worker->seconds;
}

double
load_percentile_us(const struct load_result *result, double percent)
{
	const struct load_stats *stats = &result->stats;
	uint64_t wanted = stats->ios * percent / 100;
	uint64_t seen = 0;
	unsigned int i, shift;
	uint64_t middle;

	if (stats->ios == 0)
		return 0;
	if (wanted == stats->ios)
		wanted--;
	for (i = 0; i < BUCKETS - 1; i++) {
		seen += stats->buckets[i];
		if (seen > wanted)
			break;
	}
	if (i < 2 << BUCKET_BITS)
		return i * 1e6 / result->tsc_hz;
	shift = (i >> BUCKET_BITS) - 1;
	middle = ((uint64_t)(i - (shift << BUCKET_BITS)) << shift) + (1ULL << shift) / 2;
	return middle * 1e6 / result->tsc_hz;
}

int
load_measure(struct load *load, struct load_result *result)
{
	unsigned int i;
	int rc = 0;

	memset(result, 0, sizeof(*result));
	if (load->options.scsi)
		rc = load_scsi_begin(load);
	else if (load->options.writes && (load->device.features & 1ULL << VIRTIO_BLK_F_RO))
		rc = -EROFS;
	else
		load->sectors = load->device.config.capacity;
	load->tsc_hz = measure_tsc_hz();
	for (i = 0; i < load->options.queues && rc == 0; i++)
		rc = load_prepare_queue(load, i);
	if (rc == 0)
		rc = run_workers(load);
	if (rc < 0)
		return rc;
	result->tsc_hz = load->tsc_hz;
	for (i = 0; i < load->options.threads; i++) {
		add_result(result, &load->workers[i]);
		if (rc == 0)
			rc = load->workers[i].drain_rc;
	}
	if (result->stats.ios > 0)
		result->average_us = result->stats.ticks * 1e6 / load->tsc_hz / result->stats.ios;
	return rc == 0 && result->stats.errors > 0 ? -EIO : rc;
}

uint64_t
load_progress(const struct load *load)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < load->options.threads; i++)
		sum += atomic_load_explicit(&load->workers[i].progress, memory_order_relaxed);
	return sum;
}

/* ---- the device ---- */

static int
allocate(struct load *load)
{
	size_t queues = load->options.queues * sizeof(*load->queues);
	size_t workers = load->options.threads * sizeof(*load->workers);

	load->queues = aligned_alloc(64, queues);
	load->workers = aligned_alloc(64, workers);
	if (!load->queues || !load->workers)
		return -ENOMEM;
	memset(load->queues, 0, queues);
	memset(load->workers, 0, workers);
	return 0;
}

int
load_open(struct load *load)
{
	int rc;

	/* Closing a device that was never opened is nothing. */
	load->device.client.fd = load->device.client.backend_fd = load->device.inflight.fd = -1;
	rc = allocate(load);
	return rc == 0 ? load_connect(load) : rc;
}

void
load_close(struct load *load)
{
	unsigned int i;

	client_device_close(&load->device);
	for (i = 0; load->queues && i < load->options.queues; i++) {
		free(load->queues[i].slots);
		free(load->queues[i].chains);
	}
	free(load->queues);
	free(load->workers);
}
