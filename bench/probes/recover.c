/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How soon a guest's I/O goes on when its back-end was killed and started again: keeps requests
 * outstanding, connects again when the connection breaks, and says when the first one is done.
 */
#include "probes.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>

#define WARM_UP_IOS 1000
#define POLLS       1024 /* between two looks at the connection */

struct guest {
	struct load *load;
	struct client_blk blk;
	uint64_t buffer; /* of all requests: nobody looks at what is read */
	uint64_t done;
};

static int
send_request(struct guest *guest)
{
	const struct load_options *options = &guest->load->options;
	struct client_segment segment = {guest->buffer, options->block_size, options->reads};
	struct client_blk_request request = {
		.type = options->reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
		.segments = &segment,
		.segment_count = 1,
	};

	return client_blk_submit(&guest->blk, &request);
}

static bool
is_broken(const struct guest *guest)
{
	char byte;

	return recv(guest->load->device.client.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* Reaps and sends again until `ios` more are done. -ECONNRESET, -EIO, -EPROTO, -ETIMEDOUT. */
static int
run_until(struct guest *guest, uint64_t ios, uint64_t deadline)
{
	struct client_blk_completion completion;
	uint64_t end = guest->done + ios;
	unsigned int polls = 0;
	int rc;

	while (guest->done < end) {
		rc = client_blk_reap(&guest->blk, &completion);
		if (rc < 0)
			return rc;
		if (rc > 0) {
			guest->done++;
			if (completion.status != VIRTIO_BLK_S_OK)
				return -EIO;
			rc = send_request(guest);
			if (rc < 0)
				return rc;
		} else if (++polls % POLLS == 0) {
			sched_yield();
			if (is_broken(guest))
				return -ECONNRESET;
			if (now_ns() > deadline)
				return -ETIMEDOUT;
		}
	}
	return 0;
}

/* A back-end that is just starting may close the connection once more. */
static int
reconnect(struct guest *guest, uint64_t deadline)
{
	int rc;

	do {
		guest->load->device.started = true; /* also if a start failed half way */
		rc = client_device_reconnect(&guest->load->device);
	} while (rc < 0 && now_ns() < deadline);
	return rc;
}

static int
recover(struct guest *guest, uint64_t deadline)
{
	int rc = 0;

	for (unsigned int i = 0; i < guest->load->options.depth && rc == 0; i++)
		rc = send_request(guest);
	if (rc == 0)
		rc = run_until(guest, WARM_UP_IOS, deadline);
	if (rc < 0)
		return rc;
	printf("{\"running\": true}\n");
	fflush(stdout);
	rc = run_until(guest, UINT64_MAX - guest->done, deadline);
	if (rc != -ECONNRESET)
		return rc;
	rc = reconnect(guest, deadline);
	if (rc == 0)
		rc = client_ring_kick_always(&guest->load->device.rings[0]);
	if (rc == 0)
		rc = run_until(guest, 1, deadline);
	if (rc < 0)
		return rc;
	printf("{\"first_io_s\": %.6f}\n", now_ns() / 1e9);
	fflush(stdout);
	return run_until(guest, WARM_UP_IOS, deadline);
}

int
probe_recover(struct load *load)
{
	struct guest guest = {.load = load};
	uint64_t deadline = now_ns() + (uint64_t)(load->options.seconds * 1e9);
	int rc;

	rc = client_memory_alloc(&load->device.memory, load->options.block_size, 4096,
				 &guest.buffer);
	if (rc == 0)
		rc = client_blk_create(&guest.blk, &load->device.rings[0], 0, 0, false);
	if (rc < 0)
		return rc;
	client_ring_suppress_calls(&load->device.rings[0], true);
	rc = recover(&guest, deadline);
	client_blk_destroy(&guest.blk);
	return rc;
}
