/* SPDX-License-Identifier: BSD-3-Clause */
#include "crash.h"
#include "waiting.h"

#include <linux/virtio_config.h>
#include <string.h>
#include <time.h>

#define DISK         "disk"
#define MAX_REQUESTS 1000 /* between two kills */

static uint64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int
create_disk(const struct daemon *daemon, bool packed)
{
	int rc = daemon_create_file(daemon, DISK, WORKLOAD_DISK_BYTES);

	if (rc != 0)
		return rc;
	return daemon_call(daemon, "vhost_create_blk_controller",
			   json_pack("{s:s, s:s, s:b}", "ctrlr", DISK, "dev_name", DISK,
				     "packed_ring", packed));
}

int
crash_open(struct crash *crash, bool packed, uint64_t seed)
{
	char socket[DAEMON_PATH];
	int rc;

	rc = daemon_start(&crash->daemon, NULL);
	if (rc < 0)
		return rc;
	daemon_path(&crash->daemon, DISK, socket);
	rc = create_disk(&crash->daemon, packed);
	if (rc == 0)
		rc = workload_open(&crash->load, socket,
				   1ULL << VIRTIO_RING_F_EVENT_IDX |
					   (uint64_t)packed << VIRTIO_F_RING_PACKED,
				   seed);
	if (rc != 0)
		daemon_end(&crash->daemon);
	return rc;
}

int
crash_close(struct crash *crash)
{
	int rc, end;

	rc = workload_drain(&crash->load, DEADLINE_MS);
	if (rc == 0)
		rc = workload_verify(&crash->load);
	workload_close(&crash->load);
	end = daemon_end(&crash->daemon);
	return rc != 0 ? rc : end;
}

static int
work(struct crash *crash)
{
	return workload_run(&crash->load, workload_random(&crash->load, MAX_REQUESTS), DEADLINE_MS);
}

int
crash_round(struct crash *crash, uint64_t *us)
{
	uint64_t begin;
	int rc;

	rc = work(crash);
	if (rc < 0)
		return rc;
	begin = now_us();
	daemon_kill(&crash->daemon);
	/* What the dead daemon has completed. */
	rc = workload_reap(&crash->load);
	if (rc < 0)
		return rc;
	daemon_launch(&crash->daemon, NULL);
	rc = client_device_reconnect(&crash->load.device);
	/* The dead one may have completed everything. */
	if (rc == 0)
		rc = workload_run(&crash->load, 1, DEADLINE_MS);
	*us = now_us() - begin;
	return rc;
}

int
crash_disconnect(struct crash *crash)
{
	int rc = work(crash);

	return rc < 0 ? rc : client_device_reconnect(&crash->load.device);
}
