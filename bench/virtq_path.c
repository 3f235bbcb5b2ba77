/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio env */
/*
 * What a request costs in the virtqueue alone: one thread plays the driver, which is not measured,
 * and the device, which pops, pushes and publishes. Also fit for counting instructions: valgrind
 * --tool=callgrind virtq_path 1000
 */
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
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
	_Alignas(4096) uint8_t data[MAX_DEPTH][DATA_BYTES];
};

struct layout {
	const char *name;
	bool indirect;
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

/* A 4 KiB read. */
static void
driver_add(struct guest *guest, const struct layout *layout, uint16_t i, uint16_t avail_idx)
{
	uint16_t head = i * CHAIN_DESCS;
	uint16_t first = layout->indirect ? 0 : head;
	struct vring_desc *descs = layout->indirect ? guest->tables[i] : &guest->desc[head];

	write_desc(&descs[0], address_in(guest, guest->requests[i].header),
		   sizeof(guest->requests[i].header), VRING_DESC_F_NEXT, first + 1);
	write_desc(&descs[1], address_in(guest, guest->data[i]), DATA_BYTES,
		   VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, first + 2);
	write_desc(&descs[2], address_in(guest, &guest->requests[i].status), 1, VRING_DESC_F_WRITE,
		   0);
	if (layout->indirect)
		write_desc(&guest->desc[head], address_in(guest, descs),
			   CHAIN_DESCS * sizeof(*descs), VRING_DESC_F_INDIRECT, 0);
	guest->avail[2 + avail_idx % QUEUE_SIZE] = head;
}

static void
run_batch(struct guest *guest, struct virtq *vq, uint32_t depth, struct cost *cost)
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
	if (count != depth || guest->used[1] != guest->avail[1]) {
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

static void
measure(struct guest *guest, const struct guest_mem *mem, const struct layout *layout,
	uint32_t depth, uint32_t batches)
{
	struct virtq_opts opts = {
		.size = QUEUE_SIZE,
		.desc = guest->desc,
		.avail = guest->avail,
		.used = guest->used,
		.mem = mem,
		.ctx_size = REQUEST_CTX,
		.indirect = true,
		.last_avail = guest->avail[1],
	};
	uint64_t overhead = clock_cost() * batches;
	struct cost cost = {0};
	struct virtq *vq;
	double chains = (double)batches * depth;
	uint32_t n, i;

	if (virtq_create(&opts, &vq) < 0) {
		fprintf(stderr, "virtq_path: no memory\n");
		exit(1);
	}
	virtq_disable_kicks(vq);
	for (n = 0; n < batches; n++) {
		uint16_t avail_idx = guest->avail[1];

		for (i = 0; i < depth; i++)
			driver_add(guest, layout, i, avail_idx + i);
		__atomic_store_n(&guest->avail[1], avail_idx + depth, __ATOMIC_SEQ_CST);
		run_batch(guest, vq, depth, &cost);
	}
	printf("%-8s %5u %8.1f %8.1f %8.1f\n", layout->name, depth,
	       (double)(int64_t)(cost.pop - overhead) / chains,
	       (double)(int64_t)(cost.push - overhead) / chains,
	       (double)(int64_t)(cost.pop + cost.push - 2 * overhead) / chains);
	virtq_destroy(vq);
}

int
main(int argc, char **argv)
{
	static const struct layout layouts[] = {{"direct", false}, {"indirect", true}};
	static const uint32_t depths[] = {1, MAX_DEPTH};
	uint32_t batches = argc > 1 ? strtoul(argv[1], NULL, 10) : DEFAULT_BATCHES;
	struct guest_mem_region region = {.size = MEMORY_BYTES};
	struct guest_mem *mem;
	size_t i, j;

	region.hva = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	if (region.hva == MAP_FAILED || guest_mem_create(&region, 1, &mem) < 0) {
		fprintf(stderr, "virtq_path: no memory\n");
		return 1;
	}
	printf("cycles of the time stamp counter per chain of %d descriptors, %u batches\n"
	       "%-8s %5s %8s %8s %8s\n",
	       CHAIN_DESCS, batches, "layout", "depth", "pop", "push", "total");
	for (i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		for (j = 0; j < sizeof(depths) / sizeof(depths[0]); j++)
			measure((struct guest *)region.hva, mem, &layouts[i], depths[j], batches);
	guest_mem_destroy(mem);
	munmap(region.hva, MEMORY_BYTES);
	return 0;
}
