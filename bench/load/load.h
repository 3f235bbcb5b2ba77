/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of vhost_load: what is measured (loop.c), how it is set up (setup.c), and the rest. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

#include "client.h"

#define STALL_SECONDS 10 /* without any completion: give up */
#define MAX_THREADS   64

/* Log-linear: 32 buckets for each power of two, 3 % wide. */
#define BUCKET_BITS 5
#define BUCKETS     (((64 - BUCKET_BITS) << BUCKET_BITS) + (1 << BUCKET_BITS))

struct options {
	const char *socket;
	const char *rw;
	const char *indirect_mode;
	const char *pingpong;
	const char *wake;
	const char *cpu_list;
	unsigned int block_size;
	unsigned int depth;
	unsigned int queues;
	unsigned int threads;
	unsigned int rate;
	unsigned int count;
	double seconds;
	double ramp;
	bool packed;
	bool event_idx;
	bool inflight;
	bool poll;
	bool verify;
	bool recover;
	bool copy;
	bool json;
	bool help;

	/* of rw */
	bool reads;
	bool writes;
	bool random;

	/* of cpu_list; 0: any */
	unsigned int cpu_count;
	unsigned int cpus[MAX_THREADS];
};

/* A descriptor of a packed ring as two words: the second is length, buffer id and flags. */
struct packed_words {
	uint64_t addr;
	uint64_t rest;
};

#define PACKED_ID_SHIFT    32
#define PACKED_FLAGS_SHIFT 48
#define PACKED_AVAIL       (1ULL << (PACKED_FLAGS_SHIFT + VRING_PACKED_DESC_F_AVAIL))
#define PACKED_USED        (1ULL << (PACKED_FLAGS_SHIFT + VRING_PACKED_DESC_F_USED))
#define PACKED_WRAP        (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

struct slot {
	struct virtio_blk_outhdr *header; /* the status byte follows; NULL: no chain starts here */
	uint16_t *data_flags;             /* of the descriptor of the data */
	struct packed_words *chain;       /* packed: what is copied to the ring, without wrap */
	uint64_t started;                 /* TSC */
};

struct queue {
	/* set once */
	struct vring_used *used;
	struct vring_avail *avail;
	struct packed_words *ring;
	struct vring_packed_desc_event *driver_event, *device_event;
	struct slot *slots;               /* by head descriptor; packed: by buffer id */
	struct packed_words *chains;      /* of all slots */
	uint64_t blocks;                  /* of the disk, below 2^32 */
	uint64_t first_block, last_block; /* of this queue's part, for sequential work */
	uint32_t sectors_per_block;
	uint16_t size;          /* a power of two */
	uint16_t descriptors;   /* of the ring, per request */
	uint16_t data_flags[2]; /* of a read, of a write */
	bool random;
	bool mixed;
	bool event_idx;
	int kick_fd, call_fd;

	/* changing */
	uint64_t rng;
	uint64_t next_block;
	uint64_t avail_bits,
		used_bits;   /* packed: what the AVAIL and USED bits are this time round */
	uint16_t used_index; /* packed: positions */
	uint16_t avail_index;
	uint16_t outstanding;
} __attribute__((aligned(64)));

struct stats {
	uint64_t ios;
	uint64_t ticks; /* sum of latencies */
	uint64_t errors;
	uint64_t kicks;
	uint64_t buckets[BUCKETS];
};

/* One thread of the front-end, with queues that no other thread touches. */
struct worker {
	/* set once */
	const struct options *options;
	struct queue *queues;
	unsigned int queue_count;
	unsigned int index;
	int socket; /* of the connection, to see whether it is there */
	double tsc_hz;
	pthread_t thread;

	/* its thread only, until that has ended */
	struct stats stats;
	uint64_t last_completion; /* TSC */
	uint64_t total_ios;       /* ramp and drain included */
	double seconds;
	int rc;       /* of the measurement */
	int drain_rc; /* of what came after it */
} __attribute__((aligned(64)));

struct load {
	struct options options;
	struct client_device device;
	struct queue *queues;
	struct worker *workers;
	bool indirect;
	double tsc_hz;
};

static inline uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Restricts the calling thread to one CPU. */
int load_pin(unsigned int cpu);

/*
 * Connects to options.socket; -ENOTSUP where the back-end does not offer what the options ask for.
 */
int load_open(struct load *load);

/* Builds the requests of one queue of the started device. */
int load_prepare_queue(struct load *load, unsigned int index);

/* Submits, runs for the ramp and the measured time, and drains. The worker's own thread. */
void load_measure(struct worker *worker);

/* Writes the whole disk, reads it back, compares and reports. -EIO where it differs. */
int load_verify(struct load *load);

/* Loses the back-end, finds it again and reports when I/O went on. -ETIMEDOUT: it did not. */
int load_recover(struct load *load);

/* Connects options->count guests, which then do nothing. -ECONNRESET: the back-end went away. */
int load_idle(const struct options *options);

/* Measures and reports what copying blocks from and to much memory costs. */
int load_copy(const struct options *options);

/* Measures and reports what waking a thread on another CPU costs, its sleep included. */
int load_wake(const struct options *options);

/* Measures and reports the way of a cache line between two CPUs. */
int load_pingpong(const struct options *options);

#endif
