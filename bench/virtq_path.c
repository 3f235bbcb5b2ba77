/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio env */
/*
 * What a request costs in the virtqueue alone: one thread plays the driver, which is not measured,
 * and the device, which pops, pushes and publishes.
 *
 *     virtq_path [--packed] [--event-idx] [--inflight] [BATCHES]
 *
 * Also fit for counting instructions: valgrind --tool=callgrind --toggle-collect=run_batch
 * --dump-before=measure virtq_path 1000 leaves a file for each line that is printed; divide the
 * summary in it by batches and depth.
 */
#include <getopt.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "env.h"
#include "virtq.h"

#define QUEUE_SIZE      256
#define MAX_DEPTH       32
#define REQUEST_CTX     256 /* bytes, about what a block request takes */
#define CHAIN_DESCS     3   /* header, data, status */
#define DATA_BYTES      4096
#define MEMORY_BYTES    (4 << 20)
#define DEFAULT_BATCHES 100000

/* The guest's memory from address 0 on. */
struct guest {
	struct vring_desc desc[QUEUE_SIZE];
	struct vring_desc tables[MAX_DEPTH][4];
	struct {
		uint8_t header[16];
		uint8_t status;
	} requests[MAX_DEPTH];
	_Alignas(64) uint16_t avail[3 + QUEUE_SIZE];
	_Alignas(64) uint16_t used[3 + 4 * QUEUE_SIZE];
	_Alignas(64) struct vring_packed_desc_event driver_event, device_event;
	_Alignas(64) uint8_t inflight[1 << 14];
	_Alignas(4096) uint8_t data[MAX_DEPTH][DATA_BYTES];
};

struct layout {
	const char *name;
	bool indirect;
};

static int packed, event_idx, inflight; /* options */

/* The driver's side of the queue. */
struct driver {
	struct guest *guest;
	uint16_t next; /* split: avail index; packed: free-running position */
};

struct cost {
	uint64_t pop;  /* ticks */
	uint64_t push; /* and publish */
};

static uint64_t
address_in(const struct guest *guest, const void *pointer)
{
	return (uint64_t)((const uint8_t *)pointer - (const uint8_t *)guest);
}

/*
 * Whole words, as the device reads them: a store that must be put together from smaller ones would
 * be measured too.
 */
static void
write_desc(struct vring_desc *desc, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	uint64_t *words = (uint64_t *)desc;

	__atomic_store_n(&words[0], addr, __ATOMIC_RELAXED);
	__atomic_store_n(&words[1], len | (uint64_t)flags << 32 | (uint64_t)next << 48,
			 __ATOMIC_RELAXED);
}

/* What makes a packed descriptor available at that position. */
static uint16_t
packed_flags(uint16_t position)
{
	return position & QUEUE_SIZE ? 1u << VRING_PACKED_DESC_F_USED
				     : 1u << VRING_PACKED_DESC_F_AVAIL;
}

/* The last two fields of a descriptor are flags and next, or in packed rings id and flags. */
static void
write_packed(struct vring_desc *desc, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
	write_desc(desc, addr, len, id, flags);
}

/* A 4 KiB read: three descriptors to `descs`, which follow one another in a ring or a table. */
static void
write_chain(struct guest *guest, struct vring_desc *descs[CHAIN_DESCS], uint16_t i,
	    const uint16_t more_flags[CHAIN_DESCS], const uint16_t next[CHAIN_DESCS])
{
	void (*write)(struct vring_desc *, uint64_t, uint32_t, uint16_t, uint16_t) =
		packed ? write_packed : write_desc;

	write(descs[0], address_in(guest, guest->requests[i].header),
	      sizeof(guest->requests[i].header), VRING_DESC_F_NEXT | more_flags[0], next[0]);
	write(descs[1], address_in(guest, guest->data[i]), DATA_BYTES,
	      VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | more_flags[1], next[1]);
	write(descs[2], address_in(guest, &guest->requests[i].status), 1,
	      VRING_DESC_F_WRITE | more_flags[2], next[2]);
}

static void
add_split(struct driver *driver, const struct layout *layout, uint16_t i)
{
	static const uint16_t no_flags[CHAIN_DESCS];
	struct guest *guest = driver->guest;
	uint16_t head = i * CHAIN_DESCS, first = layout->indirect ? 0 : head;
	struct vring_desc *table = layout->indirect ? guest->tables[i] : &guest->desc[head];
	struct vring_desc *descs[] = {&table[0], &table[1], &table[2]};
	uint16_t next[] = {first + 1, first + 2, 0};

	write_chain(guest, descs, i, no_flags, next);
	if (layout->indirect)
		write_desc(&guest->desc[head], address_in(guest, table),
			   CHAIN_DESCS * sizeof(*table), VRING_DESC_F_INDIRECT, 0);
	guest->avail[2 + driver->next++ % QUEUE_SIZE] = head;
}

static void
add_packed(struct driver *driver, const struct layout *layout, uint16_t i)
{
	struct guest *guest = driver->guest;
	struct vring_desc *table = guest->tables[i], *descs[CHAIN_DESCS];
	uint16_t flags[CHAIN_DESCS] = {0}, ids[CHAIN_DESCS] = {i, i, i};
	uint16_t place, n;

	for (n = 0; n < CHAIN_DESCS; n++) {
		place = driver->next + n;
		descs[n] = layout->indirect ? &table[n] : &guest->desc[place % QUEUE_SIZE];
		flags[n] = layout->indirect ? 0 : packed_flags(place);
	}
	write_chain(guest, descs, i, flags, ids);
	if (layout->indirect)
		write_packed(&guest->desc[driver->next % QUEUE_SIZE], address_in(guest, table),
			     CHAIN_DESCS * sizeof(*table),
			     VRING_DESC_F_INDIRECT | packed_flags(driver->next), i);
	driver->next += layout->indirect ? 1 : CHAIN_DESCS;
}

/* Offers `depth` requests and asks to be told of the last one. */
static void
drive(struct driver *driver, const struct layout *layout, uint32_t depth)
{
	struct guest *guest = driver->guest;
	uint32_t i;

	for (i = 0; i < depth; i++) {
		if (packed)
			add_packed(driver, layout, i);
		else
			add_split(driver, layout, i);
	}
	if (!packed)
		__atomic_store_n(&guest->avail[1], driver->next, __ATOMIC_SEQ_CST);
	guest->avail[2 + QUEUE_SIZE] = driver->next - 1;
	guest->driver_event.off_wrap =
		(driver->next % QUEUE_SIZE) | (driver->next & QUEUE_SIZE ? 0 : 1u << 15);
	guest->driver_event.flags = event_idx ? VRING_PACKED_EVENT_FLAG_DESC : 0;
}

static __attribute__((noinline)) void
run_batch(struct virtq *vq, uint32_t depth, struct cost *cost)
{
	struct virtq_slot *slots[MAX_DEPTH];
	uint64_t start, popped, end;
	uint32_t i, count;

	start = env_ticks();
	count = virtq_pop(vq, slots, depth);
	popped = env_ticks();
	for (i = 0; i < count; i++)
		virtq_push(vq, slots[i], DATA_BYTES + 1);
	virtq_publish(vq);
	end = env_ticks();
	if (count != depth) {
		fprintf(stderr, "virtq_path: %u of %u chains: %s\n", count, depth,
			virtq_broken(vq));
		exit(1);
	}
	cost->pop += popped - start;
	cost->push += end - popped;
}

/* What reading the time twice costs by itself. */
static uint64_t
clock_cost(void)
{
	uint64_t least = UINT64_MAX;
	int i;

	for (i = 0; i < 1000; i++) {
		uint64_t start = env_ticks();
		uint64_t ticks = env_ticks() - start;

		if (ticks < least)
			least = ticks;
	}
	return least;
}

static __attribute__((noinline)) void
measure(struct guest *guest, const struct guest_mem *mem, const struct layout *layout,
	uint32_t depth, uint32_t batches)
{
	struct virtq_opts opts = {
		.size = QUEUE_SIZE,
		.packed = packed,
		.event_idx = event_idx,
		.indirect = true,
		.desc = guest->desc,
		.avail = packed ? (void *)&guest->driver_event : guest->avail,
		.used = packed ? (void *)&guest->device_event : guest->used,
		.mem = mem,
		.base = packed ? VIRTQ_PACKED_BASE_NEW : 0,
		.ctx_size = REQUEST_CTX,
		.inflight = inflight ? guest->inflight : NULL,
		.inflight_size = sizeof(guest->inflight),
	};
	struct driver driver = {.guest = guest};
	uint64_t overhead = clock_cost() * batches;
	struct cost cost = {0};
	struct virtq *vq;
	double chains = (double)batches * depth;
	uint32_t n;

	memset(guest, 0, sizeof(*guest));
	if (virtq_create(&opts, &vq) < 0) {
		fprintf(stderr, "virtq_path: no memory\n");
		exit(1);
	}
	virtq_disable_kicks(vq);
	for (n = 0; n < batches; n++) {
		drive(&driver, layout, depth);
		run_batch(vq, depth, &cost);
	}
	printf("%-8s %5u %8.1f %8.1f %8.1f\n", layout->name, depth,
	       (double)(int64_t)(cost.pop - overhead) / chains,
	       (double)(int64_t)(cost.push - overhead) / chains,
	       (double)(int64_t)(cost.pop + cost.push - 2 * overhead) / chains);
	virtq_destroy(vq);
}

/* The number of batches, or -1. */
static long
parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"packed", no_argument, &packed, 1},
		{"event-idx", no_argument, &event_idx, 1},
		{"inflight", no_argument, &inflight, 1},
		{0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (option != 0)
			return -1;
	return optind < argc ? strtol(argv[optind], NULL, 10) : DEFAULT_BATCHES;
}

int
main(int argc, char **argv)
{
	static const struct layout layouts[] = {{"direct", false}, {"indirect", true}};
	static const uint32_t depths[] = {1, MAX_DEPTH};
	long batches = parse_options(argc, argv);
	struct guest_mem_region region = {.size = MEMORY_BYTES};
	struct guest_mem *mem;
	size_t i, j;

	if (batches <= 0) {
		fprintf(stderr,
			"usage: virtq_path [--packed] [--event-idx] [--inflight] [BATCHES]\n");
		return 2;
	}
	region.hva = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	if (region.hva == MAP_FAILED || guest_mem_create(&region, 1, &mem) < 0) {
		fprintf(stderr, "virtq_path: no memory\n");
		return 1;
	}
	printf("cycles of the time stamp counter per chain of %d descriptors, %ld batches\n"
	       "%-8s %5s %8s %8s %8s\n",
	       CHAIN_DESCS, batches, "layout", "depth", "pop", "push", "total");
	for (i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		for (j = 0; j < sizeof(depths) / sizeof(depths[0]); j++)
			measure((struct guest *)region.hva, mem, &layouts[i], depths[j],
				(uint32_t)batches);
	guest_mem_destroy(mem);
	munmap(region.hva, MEMORY_BYTES);
	return 0;
}
