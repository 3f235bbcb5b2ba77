/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a memory disk cannot go below: copies of 4 KiB between a buffer of 256 MiB that no cache
 * holds, at random places, and a few buffers that are used again and again, as a guest's are.
 */
#include "probes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define DISK_BYTES  (256u << 20)
#define BLOCK       4096u
#define BUFFERS     32u
#define COPY_NS     250000000ULL
#define COPY_ROUNDS 1024

static uint64_t
next_block(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (*state >> 33) % (DISK_BYTES / BLOCK);
}

/* Ticks of the TSC for one copy, the mean. */
static double
measure(uint8_t *disk, uint8_t *buffers, bool to_disk)
{
	uint64_t end = now_ns() + COPY_NS;
	uint64_t ticks = __rdtsc(), random = 1, copies = 0;

	do {
		for (unsigned int i = 0; i < COPY_ROUNDS; i++) {
			uint8_t *block = disk + next_block(&random) * BLOCK;
			uint8_t *buffer = buffers + i % BUFFERS * BLOCK;

			memcpy(to_disk ? block : buffer, to_disk ? buffer : block, BLOCK);
			/* Each copy is one of its own: none may be left out. */
			__asm__ volatile("" ::: "memory");
		}
		copies += COPY_ROUNDS;
	} while (now_ns() < end);
	return (double)(__rdtsc() - ticks) / copies;
}

int
probe_copy(const struct options *options)
{
	size_t bytes = DISK_BYTES + BUFFERS * BLOCK;
	uint8_t *memory;
	double read, write;
	int rc = 0;

	if (options->load.cpu_count > 0)
		rc = load_pin(options->load.cpus[0]);
	if (rc < 0)
		return rc;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	memset(memory, 0x5a, bytes);
	read = measure(memory, memory + DISK_BYTES, false);
	write = measure(memory, memory + DISK_BYTES, true);
	munmap(memory, bytes);
	printf(options->json ? "{\"read_cycles\": %.1f, \"write_cycles\": %.1f}\n"
			     : "4 KiB from memory: %.1f cycles; to memory: %.1f cycles\n",
	       read, write);
	return 0;
}
