/* SPDX-License-Identifier: BSD-3-Clause */
/* links: client */
/*
 * vhost_load: drives a vhost-user-blk back-end as a guest would, as fast as one core can.
 *
 * The library of tests/client sets the device up; the loop here is its own and does only what a
 * measurement needs. Each queue has qd request slots whose descriptor chains are built once: one
 * indirect table each (as Linux sends them where INDIRECT_DESC is negotiated), or three
 * descriptors. A pass over a queue takes all used entries, writes a new sector into each header,
 * and publishes the slots again with one store; it kicks only if the device asks for it. Time is
 * read once a pass, so a latency runs from the pass that sent the request to the pass that found
 * it done: average latency times IOPS is the queue depth.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "client.h"

#define HEADER_SIZE      ((uint32_t)sizeof(struct virtio_blk_outhdr))
#define SLOT_SIZE        64 /* header and status in one cache line, as in Linux */
#define CHAIN_LENGTH     3  /* header, data, status */
#define MAX_QUEUE_DEPTH  4096
#define MAX_BLOCK_SIZE   (16u << 20)
#define STALL_SECONDS    10 /* without any completion: give up */
#define SPINS_PER_CHECK  1024
#define PINGPONG_NS      500000000ULL
#define PINGPONG_ROUNDS  1000
#define ANY_CPU          UINT32_MAX
#define MEMORY_GPA       0x100000000ULL
#define MEMORY_USER_ADDR 0x7f0000000000ULL

/* Log-linear: 32 buckets for each power of two, 3 % wide. */
#define BUCKET_BITS 5
#define BUCKETS     ((64 - BUCKET_BITS) << BUCKET_BITS) + (1 << BUCKET_BITS)

struct options {
	const char *socket;
	const char *rw;
	const char *indirect_mode;
	const char *pingpong;
	unsigned int block_size;
	unsigned int depth;
	unsigned int queues;
	unsigned int cpu;
	double seconds;
	double ramp;
	bool poll;
	bool verify;
	bool json;
	bool help;

	/* of rw */
	bool reads;
	bool writes;
	bool random;
};

struct slot {
	struct virtio_blk_outhdr *header; /* the status byte follows; NULL: no chain starts here */
	struct vring_desc *data;
	uint64_t started; /* TSC */
};

struct queue {
	/* set once */
	struct vring_used *used;
	struct vring_avail *avail;
	struct slot *slots;               /* by head */
	uint64_t blocks;                  /* of the disk, below 2^32 */
	uint64_t first_block, last_block; /* of this queue's part, for sequential work */
	uint32_t sectors_per_block;
	uint16_t mask;
	bool random;
	bool mixed;
	int kick_fd, call_fd;

	/* changing */
	uint64_t rng;
	uint64_t next_block;
	uint16_t used_index;
	uint16_t avail_index;
	uint16_t outstanding;
};

struct stats {
	uint64_t ios;
	uint64_t ticks; /* sum of latencies */
	uint64_t errors;
	uint64_t kicks;
	uint64_t buckets[BUCKETS];
};

struct load {
	struct options options;
	struct client_device device;
	struct queue *queues;
	bool indirect;
	struct stats stats;
	double tsc_hz;
	uint64_t last_completion; /* TSC */
	uint64_t total_ios;       /* ramp and drain included */
};

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

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

static int
pin(unsigned int cpu)
{
	cpu_set_t set;

	if (cpu == ANY_CPU)
		return 0;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}

/* ---- the hot loop ---- */

static inline unsigned int
bucket_of(uint64_t ticks)
{
	unsigned int shift = 63 - __builtin_clzll(ticks | 1 << BUCKET_BITS) - BUCKET_BITS;

	return (shift << BUCKET_BITS) + (ticks >> shift);
}

static inline uint64_t
next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

static inline void
next_request(struct queue *q, struct slot *slot)
{
	uint64_t random, block;

	if (q->random) {
		random = next_random(&q->rng);
		/* A multiplication maps 32 random bits to [0, blocks) without a division. */
		block = (random >> 32) * q->blocks >> 32;
		if (q->mixed) {
			slot->header->type = random & 1 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
			slot->data->flags = random & 1 ? VRING_DESC_F_NEXT
						       : VRING_DESC_F_NEXT | VRING_DESC_F_WRITE;
		}
	} else {
		block = q->next_block;
		q->next_block = block == q->last_block ? q->first_block : block + 1;
	}
	slot->header->sector = block * q->sectors_per_block;
}

static inline void
publish(struct queue *q, struct stats *stats)
{
	const uint64_t one = 1;

	/* In this order: the device must see the index before we look whether it sleeps. */
	__atomic_store_n(&q->avail->idx, q->avail_index, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&q->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY)
		return;
	stats->kicks++;
	if (write(q->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		perror("vhost_load: kick");
}

/* Reaps what is used and, while running, sends it again. Returns the number, or -EPROTO. */
static inline __attribute__((always_inline)) int
service(struct queue *q, struct stats *stats, uint64_t *last_completion, bool resubmit)
{
	uint16_t published = __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE);
	uint16_t count = published - q->used_index;
	uint64_t now, ticks;
	struct slot *slot;
	uint32_t id;

	if (count == 0)
		return 0;
	if (count > q->outstanding)
		return -EPROTO;
	now = __rdtsc();
	*last_completion = now;
	while (q->used_index != published) {
		id = q->used->ring[q->used_index++ & q->mask].id;
		if (id > q->mask || !q->slots[id].header)
			return -EPROTO;
		slot = &q->slots[id];
		ticks = now - slot->started;
		stats->ticks += ticks;
		stats->buckets[bucket_of(ticks)]++;
		stats->errors += *(uint8_t *)(slot->header + 1) != VIRTIO_BLK_S_OK;
		if (!resubmit)
			continue;
		slot->started = now;
		next_request(q, slot);
		q->avail->ring[q->avail_index++ & q->mask] = id;
	}
	stats->ios += count;
	if (resubmit)
		publish(q, stats);
	else
		q->outstanding -= count;
	return count;
}

/* Waits for a call on any queue, a tenth of a second at most. */
static void
wait_for_call(struct load *load)
{
	struct pollfd pfds[CLIENT_MAX_QUEUES];
	unsigned int i;
	uint64_t count;

	for (i = 0; i < load->options.queues; i++)
		pfds[i] = (struct pollfd){.fd = load->queues[i].call_fd, .events = POLLIN};
	if (poll(pfds, load->options.queues, 100) <= 0)
		return;
	for (i = 0; i < load->options.queues; i++)
		if (pfds[i].revents && read(pfds[i].fd, &count, sizeof(count)) < 0)
			perror("vhost_load: call");
}

/* Nothing to reap: is anybody there? Called rarely. */
static int
check_alive(struct load *load, uint64_t now)
{
	uint64_t stalled = now - load->last_completion;
	char byte;

	if (stalled < load->tsc_hz / 10)
		return 0;
	if (recv(load->device.client.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		return -ECONNRESET;
	return stalled > STALL_SECONDS * load->tsc_hz ? -ETIMEDOUT : 0;
}

static unsigned int
count_outstanding(const struct load *load)
{
	unsigned int i, count = 0;

	for (i = 0; i < load->options.queues; i++)
		count += load->queues[i].outstanding;
	return count;
}

/* Runs until the TSC passes end, or with resubmit false until nothing is outstanding. */
static inline __attribute__((always_inline)) int
run(struct load *load, uint64_t end, bool resubmit)
{
	unsigned int queues = load->options.queues;
	unsigned int i, spins = 0;
	uint64_t now;
	int done, rc;

	for (;;) {
		done = 0;
		for (i = 0; i < queues; i++) {
			rc = service(&load->queues[i], &load->stats, &load->last_completion,
				     resubmit);
			if (rc < 0)
				return rc;
			done += rc;
		}
		if (done > 0) {
			if (resubmit ? load->last_completion >= end : count_outstanding(load) == 0)
				return 0;
			continue;
		}
		if (!load->options.poll)
			wait_for_call(load);
		else if (++spins % SPINS_PER_CHECK)
			continue;
		now = __rdtsc();
		rc = check_alive(load, now);
		if (rc < 0 || (resubmit && now >= end))
			return rc;
	}
}

static int
run_load(struct load *load, uint64_t end)
{
	return run(load, end, true);
}

static int
run_drain(struct load *load)
{
	return count_outstanding(load) == 0 ? 0 : run(load, 0, false);
}

/* ---- set-up ---- */

static uint16_t
descriptors_per_request(const struct load *load)
{
	return load->indirect ? 1 : CHAIN_LENGTH;
}

/* At least 128, as QEMU's default is. */
static uint16_t
ring_size(const struct load *load)
{
	unsigned int needed = load->options.depth * CHAIN_LENGTH;
	uint16_t size = 128;

	while (size < needed)
		size *= 2;
	return size;
}

static void
fill_chain(struct vring_desc *desc, uint16_t first, uint64_t header, uint64_t data,
	   const struct options *options)
{
	uint16_t direction = options->reads ? VRING_DESC_F_WRITE : 0;

	desc[0] = (struct vring_desc){header, HEADER_SIZE, VRING_DESC_F_NEXT, first + 1};
	desc[1] = (struct vring_desc){data, options->block_size, VRING_DESC_F_NEXT | direction,
				      first + 2};
	desc[2] = (struct vring_desc){header + HEADER_SIZE, 1, VRING_DESC_F_WRITE, 0};
}

static int
prepare_slot(struct load *load, struct client_ring *ring, struct queue *q, uint16_t head)
{
	struct client_memory *memory = &load->device.memory;
	uint32_t block_size = load->options.block_size;
	struct vring_desc *chain = &ring->desc[head];
	struct slot *slot = &q->slots[head];
	uint64_t header = 0, data = 0, table = 0;
	uint16_t first = head;
	int rc;

	rc = client_memory_alloc(memory, SLOT_SIZE, SLOT_SIZE, &header);
	if (rc == 0)
		rc = client_memory_alloc(memory, block_size, 4096, &data);
	if (rc == 0 && load->indirect)
		rc = client_memory_alloc(memory, CHAIN_LENGTH * sizeof(*chain), SLOT_SIZE, &table);
	if (rc < 0)
		return rc;
	if (load->indirect) {
		*chain = (struct vring_desc){table, CHAIN_LENGTH * sizeof(*chain),
					     VRING_DESC_F_INDIRECT, 0};
		chain = client_memory_ptr(memory, table, CHAIN_LENGTH * sizeof(*chain));
		first = 0;
	}
	fill_chain(chain, first, header, data, &load->options);
	memset(client_memory_ptr(memory, data, block_size), 0x5a, block_size);
	slot->header = client_memory_ptr(memory, header, SLOT_SIZE);
	slot->header->type = load->options.reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	slot->data = &chain[1];
	return 0;
}

static int
prepare_queue(struct load *load, unsigned int index)
{
	struct client_ring *ring = &load->device.rings[index];
	const struct options *options = &load->options;
	struct queue *q = &load->queues[index];
	unsigned int i;
	int rc;

	q->used = ring->used;
	q->avail = ring->avail;
	q->mask = ring->size - 1;
	q->kick_fd = ring->kick_fd;
	q->call_fd = ring->call_fd;
	q->random = options->random;
	q->mixed = options->reads && options->writes;
	q->sectors_per_block = options->block_size / CLIENT_SECTOR;
	q->blocks = load->device.config.capacity / q->sectors_per_block;
	if (q->blocks > UINT32_MAX)
		q->blocks = UINT32_MAX;
	if (q->blocks < options->queues)
		return -ENOSPC;
	q->first_block = q->blocks * index / options->queues;
	q->last_block = q->blocks * (index + 1) / options->queues - 1;
	q->next_block = q->first_block;
	q->rng = 0x9e3779b97f4a7c15ULL * (index + 1);
	q->slots = calloc(ring->size, sizeof(*q->slots));
	if (!q->slots)
		return -ENOMEM;
	client_ring_suppress_calls(ring, options->poll);
	for (i = 0; i < options->depth; i++) {
		rc = prepare_slot(load, ring, q, i * descriptors_per_request(load));
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int
open_device(struct load *load)
{
	const struct options *options = &load->options;
	uint64_t slot = SLOT_SIZE * 2 + ((options->block_size + 4095ULL) & ~4095ULL) + 4096;
	uint64_t ring = 64ULL * ring_size(load) + 65536;
	struct client_region_layout layout = {
		.gpa = MEMORY_GPA,
		.user_addr = MEMORY_USER_ADDR,
		.size = (options->queues * (slot * options->depth + ring) + 4095) & ~4095ULL,
	};
	struct client_options client_options = {
		.queues = options->queues,
		.queue_size = ring_size(load),
		.indirect_max = 1, /* the tables are ours */
		.layout = &layout,
		.layout_count = 1,
	};
	bool negotiated;
	int rc;

	rc = client_device_open(&load->device, options->socket, &client_options);
	if (rc < 0)
		return rc;
	negotiated = load->device.features & (1ULL << VIRTIO_RING_F_INDIRECT_DESC);
	load->indirect = negotiated && strcmp(options->indirect_mode, "off");
	return !negotiated && !strcmp(options->indirect_mode, "on") ? -ENOTSUP : 0;
}

static void
submit_all(struct load *load, struct queue *q)
{
	uint16_t step = descriptors_per_request(load);
	unsigned int i;

	for (i = 0; i < load->options.depth; i++) {
		next_request(q, &q->slots[i * step]);
		q->slots[i * step].started = __rdtsc();
		q->avail->ring[q->avail_index++ & q->mask] = i * step;
	}
	q->outstanding = load->options.depth;
	load->last_completion = __rdtsc();
	publish(q, &load->stats);
}

/* ---- what is done with a running device ---- */

static int
measure(struct load *load)
{
	uint64_t start;
	unsigned int i;
	int rc;

	for (i = 0; i < load->options.queues; i++)
		submit_all(load, &load->queues[i]);
	start = __rdtsc();
	rc = run_load(load, start + load->options.ramp * load->tsc_hz);
	if (rc < 0)
		return rc;
	load->total_ios = load->stats.ios;
	memset(&load->stats, 0, sizeof(load->stats));
	start = __rdtsc();
	rc = run_load(load, start + load->options.seconds * load->tsc_hz);
	load->options.seconds = (__rdtsc() - start) / load->tsc_hz;
	load->total_ios += load->stats.ios + count_outstanding(load);
	return rc;
}

/* Depth 0: a connected guest that does nothing. */
static int
stay_idle(struct load *load)
{
	int rc = client_wait_closed(&load->device.client, load->options.seconds * 1000);

	return rc == -ETIMEDOUT ? 0 : -ECONNRESET;
}

static double
percentile_us(const struct load *load, double percent)
{
	const struct stats *stats = &load->stats;
	uint64_t wanted = stats->ios * percent / 100;
	uint64_t seen = 0;
	unsigned int i, shift;
	uint64_t middle;

	for (i = 0; i < BUCKETS - 1; i++) {
		seen += stats->buckets[i];
		if (seen > wanted)
			break;
	}
	if (i < 2 << BUCKET_BITS)
		return i * 1e6 / load->tsc_hz;
	shift = (i >> BUCKET_BITS) - 1;
	middle = ((uint64_t)(i - (shift << BUCKET_BITS)) << shift) + (1ULL << shift) / 2;
	return middle * 1e6 / load->tsc_hz;
}

static void
report(const struct load *load)
{
	const struct options *o = &load->options;
	const struct stats *stats = &load->stats;
	double iops = stats->ios / o->seconds;
	double average = stats->ios ? stats->ticks * 1e6 / load->tsc_hz / stats->ios : 0;
	const char *format =
		o->json ? "{\"rw\": \"%s\", \"bs\": %u, \"qd\": %u, \"queues\": %u, \"iops\": "
			  "%.0f, "
			  "\"mb_per_s\": %.1f, \"avg_us\": %.3f, \"p50_us\": %.3f, \"p99_us\": "
			  "%.3f, "
			  "\"p999_us\": %.3f, \"errors\": %lu, \"kicks\": %lu, \"ios\": %lu, "
			  "\"ios_total\": %lu, \"seconds\": %.3f}\n"
			: "%s bs %u qd %u queues %u: %.0f IOPS, %.1f MB/s, latency us avg %.2f p50 "
			  "%.2f "
			  "p99 %.2f p99.9 %.2f; errors %lu, kicks %lu, I/Os %lu of %lu in %.2f s\n";

	printf(format, o->rw, o->block_size, o->depth, o->queues, iops, iops * o->block_size / 1e6,
	       average, percentile_us(load, 50), percentile_us(load, 99), percentile_us(load, 99.9),
	       stats->errors, stats->kicks, stats->ios, load->total_ios, o->seconds);
}

/* ---- verification ---- */

struct verify {
	struct load *load;
	struct client_blk *blks;         /* by queue */
	struct client_segment *segments; /* by queue and slot */
	uint64_t *blocks;                /* which block a slot holds */
	uint64_t seed;
	uint64_t wrong;
};

static uint64_t
pattern(const struct verify *v, uint64_t block, uint32_t word)
{
	return (block * (v->load->options.block_size / 8) + word) * 0x9e3779b97f4a7c15ULL ^ v->seed;
}

static void
fill_pattern(struct verify *v, unsigned int slot)
{
	uint32_t size = v->load->options.block_size;
	uint64_t *data = client_memory_ptr(&v->load->device.memory, v->segments[slot].gpa, size);
	uint32_t i;

	for (i = 0; i < size / 8; i++)
		data[i] = pattern(v, v->blocks[slot], i);
}

static void
compare_pattern(struct verify *v, unsigned int slot)
{
	uint32_t size = v->load->options.block_size;
	uint64_t *data = client_memory_ptr(&v->load->device.memory, v->segments[slot].gpa, size);
	uint32_t i;

	for (i = 0; i < size / 8; i++) {
		if (data[i] == pattern(v, v->blocks[slot], i))
			continue;
		fprintf(stderr, "vhost_load: block %lu differs at byte %u\n", v->blocks[slot],
			i * 8);
		v->wrong++;
		return;
	}
}

static int
verify_submit(struct verify *v, unsigned int slot, uint64_t block, bool write)
{
	const struct options *options = &v->load->options;
	struct client_blk_request request = {
		.type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.sector = block * (options->block_size / CLIENT_SECTOR),
		.segments = &v->segments[slot],
		.segment_count = 1,
		.tag = slot,
	};

	v->blocks[slot] = block;
	v->segments[slot].device_writes = !write;
	if (write)
		fill_pattern(v, slot);
	return client_blk_submit(&v->blks[slot / options->depth], &request);
}

/* Writes, or reads and compares, the whole disk; each queue at its depth. */
static int
verify_pass(struct verify *v, uint64_t blocks, bool write)
{
	const struct options *options = &v->load->options;
	unsigned int slots = options->queues * options->depth;
	struct client_blk_completion completion;
	uint64_t issued = 0, done = 0;
	uint64_t deadline = now_ns() + STALL_SECONDS * 1000000000ULL;
	unsigned int i;
	int rc = 0;

	while (issued < slots && issued < blocks && rc == 0) {
		rc = verify_submit(v, issued, issued, write);
		issued++;
	}
	for (i = 0; done < blocks && rc >= 0; i = (i + 1) % options->queues) {
		rc = client_blk_reap(&v->blks[i], &completion);
		if (rc == 0 && now_ns() > deadline)
			return -ETIMEDOUT;
		if (rc <= 0)
			continue;
		deadline = now_ns() + STALL_SECONDS * 1000000000ULL;
		done++;
		if (completion.status != VIRTIO_BLK_S_OK)
			v->wrong++;
		else if (!write)
			compare_pattern(v, completion.tag);
		if (issued < blocks)
			rc = verify_submit(v, completion.tag, issued++, write);
	}
	return rc < 0 ? rc : 0;
}

static int
verify(struct load *load)
{
	const struct options *options = &load->options;
	unsigned int slots = options->queues * options->depth;
	uint64_t blocks = load->device.config.capacity / (options->block_size / CLIENT_SECTOR);
	struct verify v = {.load = load, .seed = now_ns()};
	unsigned int i;
	int rc = 0;

	v.blks = calloc(options->queues, sizeof(*v.blks));
	v.segments = calloc(slots, sizeof(*v.segments));
	v.blocks = calloc(slots, sizeof(*v.blocks));
	if (!v.blks || !v.segments || !v.blocks)
		rc = -ENOMEM;
	for (i = 0; i < options->queues && rc == 0; i++)
		rc = client_blk_create(&v.blks[i], &load->device.rings[i], 0, 0, false);
	for (i = 0; i < slots && rc == 0; i++) {
		v.segments[i].len = options->block_size;
		rc = client_memory_alloc(&load->device.memory, options->block_size, 4096,
					 &v.segments[i].gpa);
	}
	if (rc == 0)
		rc = verify_pass(&v, blocks, true);
	if (rc == 0)
		rc = verify_pass(&v, blocks, false);
	if (rc == 0)
		printf(options->json ? "{\"blocks\": %lu, \"wrong\": %lu}\n"
				     : "verified %lu blocks, %lu wrong\n",
		       blocks, v.wrong);
	for (i = 0; v.blks && i < options->queues; i++)
		client_blk_destroy(&v.blks[i]);
	free(v.blks);
	free(v.segments);
	free(v.blocks);
	return rc == 0 && v.wrong > 0 ? -EIO : rc;
}

/* ---- cache-line round trip between two cores ---- */

/* Answers each odd number with the next even one, until 0 comes. */
static void *
pong(void *arg)
{
	uint64_t *line = arg;
	uint64_t seen = 2;
	uint64_t now;

	while ((now = __atomic_load_n(line, __ATOMIC_ACQUIRE)) != 0)
		if (now != seen)
			__atomic_store_n(line, seen = now + 1, __ATOMIC_RELEASE);
	return NULL;
}

static int
start_pong(pthread_t *thread, unsigned int cpu, uint64_t *line)
{
	pthread_attr_t attr;
	cpu_set_t set;
	int rc;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	rc = -pthread_create(thread, &attr, pong, line);
	pthread_attr_destroy(&attr);
	return rc;
}

static uint64_t
measure_round_trips(uint64_t *line, uint64_t first)
{
	uint64_t start = now_ns();
	uint64_t i;

	for (i = first; i < first + 2 * PINGPONG_ROUNDS; i += 2) {
		__atomic_store_n(line, i, __ATOMIC_RELEASE);
		while (__atomic_load_n(line, __ATOMIC_ACQUIRE) != i + 1)
			;
	}
	return now_ns() - start;
}

/* The best of many short runs: other programs on the two CPUs can only make it slower. */
static int
run_pingpong(const struct options *options)
{
	static uint64_t line __attribute__((aligned(64))) = 2;
	uint64_t end, elapsed, i, best = UINT64_MAX;
	unsigned int cpus[2];
	pthread_t thread;
	int rc;

	if (sscanf(options->pingpong, "%u,%u", &cpus[0], &cpus[1]) != 2 || cpus[0] == cpus[1])
		return -EINVAL;
	rc = pin(cpus[0]);
	if (rc == 0)
		rc = start_pong(&thread, cpus[1], &line);
	if (rc != 0)
		return rc;
	end = now_ns() + PINGPONG_NS;
	for (i = 3; now_ns() < end; i += 2 * PINGPONG_ROUNDS) {
		elapsed = measure_round_trips(&line, i);
		if (elapsed < best)
			best = elapsed;
	}
	printf(options->json ? "{\"round_trip_ns\": %.1f}\n" : "cache line round trip: %.1f ns\n",
	       (double)best / PINGPONG_ROUNDS);
	__atomic_store_n(&line, 0, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	return 0;
}

/* ---- command line ---- */

static const struct workload {
	const char *name;
	bool reads, writes, random;
} workloads[] = {
	{"read", true, false, false},    {"write", false, true, false},
	{"randread", true, false, true}, {"randwrite", false, true, true},
	{"randrw", true, true, true},
};

static int
set_workload(struct options *options)
{
	const struct workload *w;

	for (w = workloads; w < workloads + sizeof(workloads) / sizeof(workloads[0]); w++) {
		if (strcmp(options->rw, w->name))
			continue;
		options->reads = w->reads;
		options->writes = w->writes;
		options->random = w->random;
		return 0;
	}
	return -EINVAL;
}

/* The command line: what an option is called, which field it fills, what it means. */
static const struct parameter {
	const char *name;
	enum { TEXT, NUMBER, SECONDS, FLAG } kind;
	size_t offset; /* in struct options */
	const char *help;
} parameters[] = {
#define FIELD(field) offsetof(struct options, field)
	{"socket", TEXT, FIELD(socket), "PATH  vhost-user-blk socket"},
	{"rw", TEXT, FIELD(rw), "KIND  read, write, randread (default), randwrite, randrw"},
	{"bs", NUMBER, FIELD(block_size), "BYTES  block size, a multiple of 512 (4096)"},
	{"qd", NUMBER, FIELD(depth), "N  requests outstanding per queue (32); 0 stays idle"},
	{"queues", NUMBER, FIELD(queues), "N  queues, all driven by one thread (1)"},
	{"seconds", SECONDS, FIELD(seconds), "S  measured time (5)"},
	{"ramp", SECONDS, FIELD(ramp), "S  time before it (0.5)"},
	{"cpu", NUMBER, FIELD(cpu), "N  run on this CPU"},
	{"poll", FLAG, FIELD(poll), " never wait for a call, and ask for none"},
	{"indirect", TEXT, FIELD(indirect_mode), "MODE  on, off, or auto: where it is offered"},
	{"verify", FLAG, FIELD(verify), " write the whole disk, read it back and compare"},
	{"json", FLAG, FIELD(json), " one line of JSON"},
	{"help", FLAG, FIELD(help), " this"},
	{"pingpong", TEXT, FIELD(pingpong), "A,B  only measure a cache line's way between CPUs"},
#undef FIELD
};
#define PARAMETERS (sizeof(parameters) / sizeof(parameters[0]))

static void
print_usage(FILE *stream)
{
	const struct parameter *p;

	fputs("usage: vhost_load --socket PATH [options]\n", stream);
	for (p = parameters; p < parameters + PARAMETERS; p++)
		fprintf(stream, "  --%s %s\n", p->name, p->help);
}

static int
set_parameter(struct options *options, const struct parameter *p, const char *value)
{
	void *field = (char *)options + p->offset;
	char *end = "";

	switch (p->kind) {
	case TEXT:
		*(const char **)field = value;
		break;
	case NUMBER:
		*(unsigned int *)field = strtoul(value, &end, 0);
		break;
	case SECONDS:
		*(double *)field = strtod(value, &end);
		break;
	case FLAG:
		*(bool *)field = true;
		break;
	}
	return *end ? -EINVAL : 0;
}

static bool
options_valid(const struct options *options)
{
	if (options->pingpong || options->help)
		return true;
	if (strcmp(options->indirect_mode, "auto") && strcmp(options->indirect_mode, "on") &&
	    strcmp(options->indirect_mode, "off"))
		return false;
	return options->socket && options->block_size > 0 &&
	       options->block_size <= MAX_BLOCK_SIZE && options->block_size % CLIENT_SECTOR == 0 &&
	       options->depth <= MAX_QUEUE_DEPTH && options->queues > 0 &&
	       options->queues <= CLIENT_MAX_QUEUES && options->seconds > 0 && options->ramp >= 0 &&
	       !(options->verify && options->depth == 0);
}

static int
parse_options(struct options *options, int argc, char **argv)
{
	struct option long_options[PARAMETERS + 1] = {0};
	unsigned int i;
	int index, c;

	*options = (struct options){
		.rw = "randread",
		.block_size = 4096,
		.depth = 32,
		.queues = 1,
		.seconds = 5,
		.ramp = 0.5,
		.cpu = ANY_CPU,
		.indirect_mode = "auto",
	};
	for (i = 0; i < PARAMETERS; i++) {
		long_options[i].name = parameters[i].name;
		long_options[i].has_arg =
			parameters[i].kind == FLAG ? no_argument : required_argument;
	}
	while ((c = getopt_long(argc, argv, "", long_options, &index)) == 0)
		if (set_parameter(options, &parameters[index], optarg) < 0)
			return -EINVAL;
	return c != -1 || optind < argc || !options_valid(options) ? -EINVAL
								   : set_workload(options);
}

/* Between start and stop of the device. */
static int
use_device(struct load *load)
{
	unsigned int i;
	int rc;

	if (load->options.depth == 0)
		return stay_idle(load);
	if (load->options.verify)
		return verify(load);
	for (i = 0; i < load->options.queues; i++) {
		rc = prepare_queue(load, i);
		if (rc < 0)
			return rc;
	}
	rc = measure(load);
	if (rc < 0)
		return rc;
	report(load);
	return run_drain(load);
}

static int
run_device(struct load *load)
{
	unsigned int i;
	int rc;

	load->tsc_hz = measure_tsc_hz();
	load->queues = calloc(load->options.queues, sizeof(*load->queues));
	if (!load->queues)
		return -ENOMEM;
	rc = open_device(load);
	if (rc == 0)
		rc = client_device_start(&load->device);
	if (rc == 0)
		rc = use_device(load);
	if (rc == 0)
		rc = client_device_stop(&load->device);
	for (i = 0; i < load->options.queues; i++)
		free(load->queues[i].slots);
	free(load->queues);
	client_device_close(&load->device);
	return rc == 0 && load->stats.errors > 0 ? -EIO : rc;
}

int
main(int argc, char **argv)
{
	static struct load load;
	int rc;

	if (parse_options(&load.options, argc, argv) < 0) {
		print_usage(stderr);
		return 2;
	}
	if (load.options.help) {
		print_usage(stdout);
		return 0;
	}
	if (load.options.pingpong) {
		rc = run_pingpong(&load.options);
	} else {
		rc = pin(load.options.cpu);
		if (rc == 0)
			rc = run_device(&load);
	}
	if (rc < 0)
		fprintf(stderr, "vhost_load: %s: %s\n",
			load.options.socket ? load.options.socket : "pingpong", strerror(-rc));
	return rc < 0;
}
