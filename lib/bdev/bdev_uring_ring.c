/* SPDX-License-Identifier: BSD-3-Clause */
/* How rings are made, and on which CPUs the kernel works for them. */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

#include "bdev_uring.h"
#include "env.h"

/* Whether this OS thread's kernel workers have got their CPUs. */
static __thread bool workers_are_placed;

int
uring_ring_probe(void)
{
	static const uint8_t needed[] = {IORING_OP_READ,   IORING_OP_WRITE, IORING_OP_READV,
					 IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
	struct io_uring_probe *probe;
	struct io_uring ring;
	int rc = io_uring_queue_init(1, &ring, 0);

	if (rc != 0)
		return rc;
	probe = io_uring_get_probe_ring(&ring);
	for (size_t i = 0; i < sizeof(needed); i++) {
		if (probe == NULL || !io_uring_opcode_supported(probe, needed[i]))
			rc = -ENOSYS;
	}
	io_uring_free_probe(probe);
	io_uring_queue_exit(&ring);
	return rc;
}

/* ---- CPUs ---- */

/* Linux 5.14 and later. */
static void
place_workers(struct io_uring *ring)
{
	const struct cpumask *mask = env_housekeeping_cpus();
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS && cpu < CPU_SETSIZE; cpu++) {
		if (cpumask_test(mask, cpu))
			CPU_SET(cpu, &cpus);
	}
	if (CPU_COUNT(&cpus) > 0)
		io_uring_register_iowq_aff(ring, sizeof(cpus), &cpus);
}

void
uring_ring_place_workers(struct uring_ring *ring)
{
	if (workers_are_placed || (ring->ring.flags & IORING_SETUP_SQPOLL))
		return;
	workers_are_placed = true;
	place_workers(&ring->ring);
}

/* One after the other of the CPUs without a reactor. False: every CPU has one. */
static bool
pick_cpu(uint32_t *picked)
{
	static _Atomic uint32_t turn;
	const struct cpumask *mask = env_housekeeping_cpus();
	uint32_t count = cpumask_count(mask), skip;

	if (count == 0 || cpumask_test(mask, env_core_first()))
		return false;
	skip = atomic_fetch_add(&turn, 1) % count;
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS; cpu++) {
		if (cpumask_test(mask, cpu) && skip-- == 0) {
			*picked = cpu;
			return true;
		}
	}
	return false;
}

/* ---- a kernel thread that submits ---- */

int
uring_ring_start_sqpoll(struct uring_disk *disk)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL,
					 .sq_thread_idle = disk->sqpoll_idle_ms};
	int rc;

	if (pick_cpu(&params.sq_thread_cpu))
		params.flags |= IORING_SETUP_SQ_AFF;
	rc = io_uring_queue_init_params(1, &disk->sqpoll_ring, &params);
	if (rc != 0) {
		disk->sqpoll_ring.ring_fd = -1;
		return rc;
	}
	place_workers(&disk->sqpoll_ring);
	return 0;
}

void
uring_ring_stop_sqpoll(struct uring_disk *disk)
{
	if (disk->sqpoll_ring.ring_fd < 0)
		return;
	io_uring_queue_exit(&disk->sqpoll_ring);
	disk->sqpoll_ring.ring_fd = -1;
}

/* ---- rings of channels ---- */

int
uring_ring_create(struct uring_ring *ring, const struct uring_disk *disk, uint32_t entries,
		  uint32_t completions)
{
	/*
	 * A lightweight thread may move to another OS thread: not SINGLE_ISSUER (nor DEFER_TASKRUN,
	 * which needs it), and not COOP_TASKRUN, with which what was submitted before a move would
	 * complete only when the old OS thread makes its next system call.
	 */
	struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE, .cq_entries = completions};
	int rc;

	if (disk->sqpoll) {
		params.flags |= IORING_SETUP_SQPOLL | IORING_SETUP_ATTACH_WQ;
		params.wq_fd = (uint32_t)disk->sqpoll_ring.ring_fd;
		params.sq_thread_idle = disk->sqpoll_idle_ms;
	}
	rc = io_uring_queue_init_params(entries, &ring->ring, &params);
	if (rc != 0)
		return rc;
	/* Saves some 60 ns of counting references per request. */
	ring->fd = disk->file.fd;
	ring->fd_flags = 0;
	if (io_uring_register_files(&ring->ring, &disk->file.fd, 1) == 0) {
		ring->fd = 0;
		ring->fd_flags = IOSQE_FIXED_FILE;
	}
	uring_ring_place_workers(ring);
	return 0;
}

void
uring_ring_destroy(struct uring_ring *ring)
{
	io_uring_queue_exit(&ring->ring);
}
