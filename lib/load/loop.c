/* SPDX-License-Identifier: BSD-3-Clause */
/* The loop that is measured, for split and packed rings; everything else is set up before. */
#include "load.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPINS_PER_CHECK 1024

#define INLINE static inline __attribute__((always_inline))

/* What a pass over a queue adds; packed: the first descriptor waits for the publish. */
struct batch {
	struct packed_words *first;
	uint64_t first_rest;
	uint16_t old_index;
	uint16_t descriptors;
};

INLINE unsigned int
bucket_of(uint64_t ticks)
{
	unsigned int shift = 63 - __builtin_clzll(ticks | 1 << BUCKET_BITS) - BUCKET_BITS;

	return (shift << BUCKET_BITS) + (ticks >> shift);
}

INLINE uint64_t
next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

INLINE void
set_sector(const struct queue *q, struct slot *slot, uint64_t sector)
{
	struct scsi_request *scsi = slot->request;
	struct blk_request *blk = slot->request;
	uint32_t lba = htobe32((uint32_t)sector);

	if (q->scsi)
		memcpy(scsi->command.cdb + 2, &lba, sizeof(lba));
	else
		blk->header.sector = sector;
}

INLINE bool
has_failed(const struct queue *q, const struct slot *slot)
{
	const struct scsi_request *scsi = slot->request;
	const struct blk_request *blk = slot->request;

	if (q->scsi)
		return scsi->response.response != VIRTIO_SCSI_S_OK || scsi->response.status != 0;
	return blk->status != VIRTIO_BLK_S_OK;
}

INLINE void
next_request(struct queue *q, struct slot *slot)
{
	struct blk_request *blk = slot->request;
	uint64_t random, block;

	if (q->random) {
		random = next_random(&q->rng);
		/* A multiplication maps 32 random bits to [0, blocks) without a division. */
		block = (random >> 32) * q->blocks >> 32;
		if (q->mixed) {
			blk->header.type = random & 1 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
			*slot->data_flags = q->data_flags[random & 1];
		}
	} else {
		block = q->next_block;
		q->next_block = block == q->last_block ? q->first_block : block + 1;
	}
	set_sector(q, slot, block * q->sectors_per_block);
}

/* ---- adding and publishing ---- */

INLINE void
add_split(struct queue *q, uint16_t head)
{
	q->avail->ring[q->avail_index++ & (q->size - 1)] = head;
}

INLINE void
add_packed(struct queue *q, const struct slot *slot, struct batch *batch)
{
	struct packed_words *place;
	uint64_t rest;
	uint16_t i;

	for (i = 0; i < q->descriptors; i++) {
		place = &q->ring[q->avail_index];
		rest = slot->chain[i].rest ^ q->avail_bits;
		place->addr = slot->chain[i].addr;
		if (batch->first) {
			place->rest = rest;
		} else {
			batch->first = place;
			batch->first_rest = rest;
		}
		if (++q->avail_index == q->size) {
			q->avail_index = 0;
			q->avail_bits ^= PACKED_AVAIL | PACKED_USED;
		}
	}
	batch->descriptors += q->descriptors;
}

INLINE bool
split_wants_kick(const struct queue *q, const struct batch *batch)
{
	const uint16_t *avail_event = (const uint16_t *)&q->used->ring[q->size];

	if (q->event_idx)
		return vring_need_event(__atomic_load_n(avail_event, __ATOMIC_SEQ_CST),
					q->avail_index, batch->old_index);
	return !(__atomic_load_n(&q->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY);
}

INLINE bool
packed_wants_kick(const struct queue *q, const struct batch *batch)
{
	uint32_t word = __atomic_load_n((const uint32_t *)q->device_event, __ATOMIC_SEQ_CST);
	uint16_t flags = word >> 16;
	uint16_t event = word & (PACKED_WRAP - 1);

	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (!(word & PACKED_WRAP) != !(q->avail_bits & PACKED_AVAIL))
		event -= q->size;
	return vring_need_event(event, q->avail_index, q->avail_index - batch->descriptors);
}

/* The store comes before the look whether the device sleeps: both sequentially consistent. */
INLINE void
publish(struct queue *q, const struct batch *batch, struct load_stats *stats, bool packed)
{
	const uint64_t one = 1;

	if (packed)
		__atomic_store_n(&batch->first->rest, batch->first_rest, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&q->avail->idx, q->avail_index, __ATOMIC_SEQ_CST);
	if (packed ? !packed_wants_kick(q, batch) : !split_wants_kick(q, batch))
		return;
	stats->kicks++;
	if (write(q->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		perror("load: kick");
}

/* ---- reaping ---- */

INLINE void
count_request(struct load_stats *stats, const struct queue *q, const struct slot *slot,
	      uint64_t now)
{
	uint64_t ticks = now - slot->started;

	stats->ticks += ticks;
	stats->buckets[bucket_of(ticks)]++;
	stats->errors += has_failed(q, slot);
}

INLINE int
service_split(struct queue *q, struct worker *worker, bool resubmit)
{
	uint16_t published = __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE);
	uint16_t count = published - q->used_index;
	struct batch batch = {.old_index = q->avail_index};
	struct slot *slot;
	uint64_t now;
	uint32_t id;

	if (count == 0)
		return 0;
	if (count > q->outstanding)
		return -EPROTO;
	now = __rdtsc();
	worker->last_completion = now;
	while (q->used_index != published) {
		id = q->used->ring[q->used_index++ & (q->size - 1)].id;
		if (id >= q->size || !q->slots[id].request)
			return -EPROTO;
		slot = &q->slots[id];
		count_request(&worker->stats, q, slot, now);
		if (!resubmit)
			continue;
		slot->started = now;
		next_request(q, slot);
		add_split(q, id);
	}
	if (resubmit)
		publish(q, &batch, &worker->stats, false);
	return count;
}

INLINE bool
is_used(const struct queue *q, uint64_t rest)
{
	return (rest & (PACKED_AVAIL | PACKED_USED)) == q->used_bits;
}

INLINE uint64_t
next_used(const struct queue *q)
{
	return __atomic_load_n(&q->ring[q->used_index].rest, __ATOMIC_ACQUIRE);
}

/* What is added on the way stays behind the first one, which the device does not see yet. */
INLINE int
service_packed(struct queue *q, struct worker *worker, bool resubmit)
{
	struct batch batch = {0};
	uint64_t rest = next_used(q);
	struct slot *slot;
	uint64_t now;
	int count = 0;
	uint16_t id;

	if (!is_used(q, rest))
		return 0;
	now = __rdtsc();
	worker->last_completion = now;
	do {
		id = rest >> PACKED_ID_SHIFT;
		if (id >= q->size || !q->slots[id].request || count == q->outstanding)
			return -EPROTO;
		slot = &q->slots[id];
		count++;
		count_request(&worker->stats, q, slot, now);
		q->used_index += q->descriptors;
		if (q->used_index >= q->size) {
			q->used_index -= q->size;
			q->used_bits ^= PACKED_AVAIL | PACKED_USED;
		}
		if (resubmit) {
			slot->started = now;
			next_request(q, slot);
			add_packed(q, slot, &batch);
		}
		rest = next_used(q);
	} while (is_used(q, rest));
	if (resubmit)
		publish(q, &batch, &worker->stats, true);
	return count;
}

/* Reaps what is used and, while running, sends it again. Returns the number, or -EPROTO. */
INLINE int
service(struct queue *q, struct worker *worker, bool resubmit, bool packed)
{
	int count =
		packed ? service_packed(q, worker, resubmit) : service_split(q, worker, resubmit);

	if (count <= 0)
		return count;
	worker->stats.ios += count;
	if (!resubmit)
		q->outstanding -= count;
	return count;
}

/* ---- waiting ---- */

/* With EVENT_IDX, asks for a call at the next used entry. Returns whether one is there already. */
static bool
arm(struct queue *q, bool packed)
{
	uint16_t wrap = q->used_bits ? PACKED_WRAP : 0;

	if (!q->event_idx)
		return false;
	if (packed) {
		__atomic_store_n(&q->driver_event->off_wrap, q->used_index | wrap,
				 __ATOMIC_SEQ_CST);
		return is_used(q, __atomic_load_n(&q->ring[q->used_index].rest, __ATOMIC_SEQ_CST));
	}
	__atomic_store_n(&q->avail->ring[q->size], q->used_index, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&q->used->idx, __ATOMIC_SEQ_CST) != q->used_index;
}

/* Waits for a call on any queue, a tenth of a second at most. */
static void
wait_for_call(struct worker *worker)
{
	struct pollfd pfds[CLIENT_MAX_QUEUES];
	unsigned int i;
	uint64_t count;

	for (i = 0; i < worker->queue_count; i++) {
		if (arm(&worker->queues[i], worker->options->packed))
			return;
		pfds[i] = (struct pollfd){.fd = worker->queues[i].call_fd, .events = POLLIN};
	}
	if (poll(pfds, worker->queue_count, 100) <= 0)
		return;
	for (i = 0; i < worker->queue_count; i++)
		if (pfds[i].revents && read(pfds[i].fd, &count, sizeof(count)) < 0)
			perror("load: call");
}

/* Nothing to reap: is anybody there? Called rarely. */
static int
check_alive(struct worker *worker, uint64_t now)
{
	uint64_t stalled = now - worker->last_completion;
	char byte;

	if (stalled < worker->tsc_hz / 10)
		return 0;
	if (recv(worker->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		return -ECONNRESET;
	return stalled > LOAD_STALL_SECONDS * worker->tsc_hz ? -ETIMEDOUT : 0;
}

static unsigned int
count_outstanding(const struct worker *worker)
{
	unsigned int i, count = 0;

	for (i = 0; i < worker->queue_count; i++)
		count += worker->queues[i].outstanding;
	return count;
}

/* ---- the loop ---- */

/* Runs until the TSC passes end, or with resubmit false until nothing is outstanding. */
INLINE int
run(struct worker *worker, uint64_t end, bool resubmit, bool packed)
{
	unsigned int i, spins = 0;
	uint64_t now;
	int done, rc;

	for (;;) {
		done = 0;
		for (i = 0; i < worker->queue_count; i++) {
			rc = service(&worker->queues[i], worker, resubmit, packed);
			if (rc < 0)
				return rc;
			done += rc;
		}
		if (done > 0) {
			if (resubmit ? worker->last_completion >= end
				     : count_outstanding(worker) == 0)
				return 0;
			continue;
		}
		if (!worker->options->poll)
			wait_for_call(worker);
		else if (++spins % SPINS_PER_CHECK)
			continue;
		now = __rdtsc();
		rc = check_alive(worker, now);
		if (rc < 0 || (resubmit && now >= end))
			return rc;
	}
}

/* One compiled loop for each kind of ring. */
static int
run_load(struct worker *worker, uint64_t end)
{
	return worker->options->packed ? run(worker, end, true, true)
				       : run(worker, end, true, false);
}

/* What comes after the measurement does not count in it, except where a request fails. */
static void
drain(struct worker *worker)
{
	struct load_stats measured = worker->stats;

	worker->drain_rc = worker->options->packed ? run(worker, 0, false, true)
						   : run(worker, 0, false, false);
	worker->total_ios += worker->stats.ios;
	measured.errors = worker->stats.errors;
	worker->stats = measured;
}

static void
submit_all(struct worker *worker, struct queue *q)
{
	struct batch batch = {.old_index = q->avail_index};
	bool packed = worker->options->packed;
	unsigned int i, id;

	for (i = 0; i < worker->options->depth; i++) {
		id = packed ? i : i * q->descriptors;
		next_request(q, &q->slots[id]);
		q->slots[id].started = __rdtsc();
		if (packed)
			add_packed(q, &q->slots[id], &batch);
		else
			add_split(q, id);
	}
	q->outstanding = worker->options->depth;
	worker->last_completion = __rdtsc();
	publish(q, &batch, &worker->stats, packed);
}

static bool
is_told_to_stop(const struct worker *worker)
{
	return atomic_load_explicit(worker->stop, memory_order_relaxed);
}

/* ---- so many requests a second, one at a time ---- */

static void
sleep_until(uint64_t ns)
{
	struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* For so long; one that is late is not made up for. */
static int
run_paced(struct worker *worker, double seconds)
{
	uint64_t period = 1000000000 / worker->options->rate;
	uint64_t next = now_ns(), end = next + (uint64_t)(seconds * 1e9);
	int rc = 0;

	while (rc == 0 && next < end && !is_told_to_stop(worker)) {
		sleep_until(next);
		submit_all(worker, worker->queues);
		rc = worker->options->packed ? run(worker, 0, false, true)
					     : run(worker, 0, false, false);
		do {
			next += period;
		} while (next < now_ns());
	}
	return rc;
}

static void
measure_paced(struct worker *worker)
{
	uint64_t start;

	worker->rc = run_paced(worker, worker->options->ramp);
	worker->total_ios = worker->stats.ios;
	memset(&worker->stats, 0, sizeof(worker->stats));
	start = now_ns();
	if (worker->rc == 0)
		worker->rc = run_paced(worker, worker->options->seconds);
	worker->seconds = (now_ns() - start) / 1e9;
	worker->total_ios += worker->stats.ios;
}

/*
 * For so many ticks from start, unless it is told to stop. What is on its way between two slices
 * stays there.
 */
static int
run_slices(struct worker *worker, uint64_t start, uint64_t ticks, bool measured)
{
	uint64_t slice = worker->tsc_hz * LOAD_SLICE_MS / 1000;
	uint64_t done = 0;
	int rc = 0;

	while (rc == 0 && done < ticks && !is_told_to_stop(worker)) {
		rc = run_load(worker, start + (done + slice < ticks ? done + slice : ticks));
		done = __rdtsc() - start;
		if (measured)
			atomic_store_explicit(&worker->progress, worker->stats.ios,
					      memory_order_relaxed);
	}
	return rc;
}

void
load_run_worker(struct worker *worker)
{
	const struct load_options *options = worker->options;
	uint64_t start;
	unsigned int i;

	if (options->rate > 0) {
		measure_paced(worker);
		return;
	}
	for (i = 0; i < worker->queue_count; i++)
		submit_all(worker, &worker->queues[i]);
	worker->rc = run_slices(worker, __rdtsc(), options->ramp * worker->tsc_hz, false);
	if (worker->rc < 0)
		return;
	worker->total_ios = worker->stats.ios;
	memset(&worker->stats, 0, sizeof(worker->stats));
	start = __rdtsc();
	worker->rc = run_slices(worker, start, options->seconds * worker->tsc_hz, true);
	if (worker->rc < 0)
		return;
	worker->seconds = (__rdtsc() - start) / worker->tsc_hz;
	drain(worker);
}
