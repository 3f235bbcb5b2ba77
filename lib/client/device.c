/* SPDX-License-Identifier: BSD-3-Clause */
/* Plug, start, stop and reconnect: the messages in the order in which QEMU 7.2 sends them. */
#include "client.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define BIT(n) (1ULL << (n))

const uint64_t CLIENT_DEFAULT_FEATURES =
	BIT(CLIENT_F_PROTOCOL_FEATURES) | BIT(VIRTIO_F_VERSION_1) |
	BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) |
	BIT(VIRTIO_BLK_F_GEOMETRY) | BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
	BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |
	BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);

const uint64_t CLIENT_DEFAULT_PROTOCOL_FEATURES =
	BIT(CLIENT_PROTOCOL_F_MQ) | BIT(CLIENT_PROTOCOL_F_LOG_SHMFD) |
	BIT(CLIENT_PROTOCOL_F_REPLY_ACK) | BIT(CLIENT_PROTOCOL_F_BACKEND_REQ) |
	BIT(CLIENT_PROTOCOL_F_CONFIG) | BIT(CLIENT_PROTOCOL_F_INFLIGHT_SHMFD);

static bool
has_protocol(const struct client_device *device, int bit)
{
	return device->protocol_features & BIT(bit);
}

static bool
may_need_reply(const struct client_device *device)
{
	return has_protocol(device, CLIENT_PROTOCOL_F_REPLY_ACK);
}

static bool
queue_is_used(const struct client_device *device, unsigned int queue)
{
	return queue >= 64 || device->options.start_mask & BIT(queue);
}

static void
fill_options(struct client_options *options)
{
	if (options->queues == 0)
		options->queues = 1;
	if (options->start_mask == 0)
		options->start_mask = UINT64_MAX;
	if (options->queue_size == 0)
		options->queue_size = 128;
	if (options->indirect_max == 0)
		options->indirect_max = 128;
	if (options->features == 0)
		options->features = CLIENT_DEFAULT_FEATURES;
	if (options->protocol_features == 0)
		options->protocol_features = CLIENT_DEFAULT_PROTOCOL_FEATURES;
	if (options->config_size == 0)
		options->config_size = offsetof(struct virtio_blk_config, max_secure_erase_sectors);
	if (options->timeout_ms == 0)
		options->timeout_ms = 5000;
	if (!options->layout) {
		options->layout = client_default_layout;
		options->layout_count = client_default_layout_count;
	}
}

static int
negotiate_protocol(struct client_device *device)
{
	struct client *c = &device->client;
	uint64_t offered;
	int rc;

	device->protocol_features = 0;
	device->max_queues = 1;
	if (!(device->features & BIT(CLIENT_F_PROTOCOL_FEATURES)))
		return 0;
	rc = client_get_protocol_features(c, &offered);
	if (rc < 0)
		return rc;
	device->protocol_features = offered & device->options.protocol_features;
	rc = client_set_protocol_features(c, device->protocol_features, false);
	if (rc == 0 && has_protocol(device, CLIENT_PROTOCOL_F_MQ))
		rc = client_get_queue_num(c, &device->max_queues);
	if (rc == 0 && has_protocol(device, CLIENT_PROTOCOL_F_BACKEND_REQ))
		rc = client_set_backend_fd(c, may_need_reply(device));
	return rc;
}

static int
set_calls(struct client_device *device)
{
	unsigned int i;
	int rc = 0;

	for (i = 0; i < device->options.queues && rc == 0; i++)
		rc = client_set_vring_call(&device->client, i, device->rings[i].call_fd, false);
	return rc;
}

static int
set_errs(struct client_device *device)
{
	unsigned int i;
	int rc = 0;

	for (i = 0; i < device->options.queues && rc == 0; i++)
		rc = client_set_vring_err(&device->client, i, device->rings[i].err_fd, false);
	return rc;
}

/* What is negotiated before the rings exist. */
static int
introduce(struct client_device *device)
{
	struct client *c = &device->client;
	int rc;

	rc = client_get_features(c, &device->offered_features);
	if (rc < 0)
		return rc;
	device->features = device->offered_features & device->options.features;
	rc = negotiate_protocol(device);
	if (rc < 0)
		return rc;
	if (device->options.queues > device->max_queues)
		return -ERANGE;
	rc = client_set_owner(c, false);
	if (rc < 0)
		return rc;
	return client_get_features(c, &device->offered_features);
}

static int
plug_queues(struct client_device *device)
{
	int rc;

	rc = set_calls(device);
	if (rc == 0)
		rc = set_errs(device);
	if (rc == 0 && has_protocol(device, CLIENT_PROTOCOL_F_CONFIG))
		rc = client_get_config(&device->client, 0, device->options.config_size,
				       &device->config);
	return rc;
}

static int
create_rings(struct client_device *device)
{
	const struct client_options *options = &device->options;
	bool indirect = device->features & BIT(VIRTIO_RING_F_INDIRECT_DESC);
	unsigned int i;
	int rc;

	device->rings = aligned_alloc(_Alignof(struct client_ring),
				      options->queues * sizeof(*device->rings));
	if (!device->rings)
		return -ENOMEM;
	memset(device->rings, 0, options->queues * sizeof(*device->rings));
	device->bases = calloc(options->queues, sizeof(*device->bases));
	if (!device->bases)
		return -ENOMEM;
	for (i = 0; i < options->queues; i++)
		device->rings[i].kick_fd = device->rings[i].call_fd = device->rings[i].err_fd = -1;
	for (i = 0; i < options->queues; i++) {
		rc = client_ring_create_with(
			&device->rings[i], &device->memory, options->queue_size,
			indirect ? options->indirect_max : 0, device->features);
		if (rc < 0)
			return rc;
		device->bases[i] = client_ring_resume_base(&device->rings[i]);
	}
	return 0;
}

int
client_device_open(struct client_device *device, const char *path,
		   const struct client_options *options)
{
	int rc;

	memset(device, 0, sizeof(*device));
	device->client.fd = device->client.backend_fd = -1;
	device->inflight.fd = -1;
	if (options)
		device->options = *options;
	fill_options(&device->options);
	if (device->options.queues > CLIENT_MAX_QUEUES ||
	    device->options.config_size > sizeof(device->config))
		return -EINVAL;
	device->path = strdup(path);
	if (!device->path)
		return -ENOMEM;
	rc = client_memory_create(&device->memory, device->options.layout,
				  device->options.layout_count);
	if (rc == 0)
		rc = client_connect(&device->client, path, device->options.timeout_ms);
	if (rc == 0)
		rc = introduce(device);
	if (rc == 0)
		rc = create_rings(device);
	if (rc == 0)
		rc = plug_queues(device);
	if (rc < 0)
		client_device_close(device);
	return rc;
}

static void
forget_inflight(struct client_device *device)
{
	if (device->inflight.fd >= 0)
		close(device->inflight.fd);
	device->inflight = (struct client_inflight){.fd = -1};
}

void
client_device_close(struct client_device *device)
{
	unsigned int i;

	client_close(&device->client);
	forget_inflight(device);
	for (i = 0; device->rings && i < device->options.queues; i++)
		client_ring_destroy(&device->rings[i]);
	client_memory_destroy(&device->memory);
	free(device->rings);
	free(device->bases);
	free(device->path);
	device->rings = NULL;
	device->bases = NULL;
	device->path = NULL;
	device->started = false;
}

static int
give_inflight(struct client_device *device)
{
	struct client_inflight *inflight = &device->inflight;
	int rc;

	if (!has_protocol(device, CLIENT_PROTOCOL_F_INFLIGHT_SHMFD))
		return 0;
	if (inflight->fd < 0) {
		inflight->num_queues = device->options.queues;
		inflight->queue_size = device->options.queue_size;
		rc = client_get_inflight_fd(&device->client, inflight);
		if (rc < 0)
			return rc;
	}
	return client_set_inflight_fd(&device->client, inflight, false);
}

static int
start_queue(struct client_device *device, unsigned int queue)
{
	struct client_ring *ring = &device->rings[queue];
	struct client *c = &device->client;
	struct client_vring_addr addr;
	int rc;

	client_ring_addr(ring, queue, &addr);
	rc = client_set_vring_num(c, queue, ring->size, false);
	if (rc == 0)
		rc = client_set_vring_base(c, queue, device->bases[queue], false);
	if (rc == 0)
		rc = client_set_vring_addr(c, &addr, false);
	if (rc == 0)
		rc = client_set_vring_kick(c, queue, ring->kick_fd, false);
	return rc;
}

static int
enable_queues(struct client_device *device, bool enable)
{
	unsigned int i;
	int rc = 0;

	if (!(device->features & BIT(CLIENT_F_PROTOCOL_FEATURES)))
		return 0;
	for (i = 0; i < device->options.queues && rc == 0; i++)
		rc = client_set_vring_enable(&device->client, i, enable, false);
	return rc;
}

int
client_device_start(struct client_device *device)
{
	struct client *c = &device->client;
	unsigned int i;
	int rc;

	rc = client_set_features(c, device->features, false);
	if (rc == 0)
		rc = give_inflight(device);
	if (rc == 0)
		rc = set_calls(device);
	if (rc == 0)
		rc = client_set_features(c, device->features, false);
	if (rc == 0)
		rc = client_set_mem_table(c, &device->memory, may_need_reply(device));
	for (i = 0; i < device->options.queues && rc == 0; i++)
		if (queue_is_used(device, i))
			rc = start_queue(device, i);
	if (rc == 0)
		rc = enable_queues(device, true);
	device->started = rc == 0;
	return rc;
}

int
client_device_stop(struct client_device *device)
{
	unsigned int i;
	int rc;

	device->started = false;
	rc = enable_queues(device, false);
	for (i = 0; i < device->options.queues && rc == 0; i++)
		if (queue_is_used(device, i))
			rc = client_get_vring_base(&device->client, i, &device->bases[i]);
	return rc;
}

void
client_device_reset(struct client_device *device)
{
	unsigned int i;

	for (i = 0; i < device->options.queues; i++) {
		client_ring_reset(&device->rings[i]);
		device->bases[i] = client_ring_resume_base(&device->rings[i]);
	}
	forget_inflight(device);
}

/* Whether the ring says where the device was, see client_device_reconnect(). */
static bool
may_resume_by_ring(const struct client_device *device)
{
	bool packed = device->features & BIT(VIRTIO_F_RING_PACKED);

	return !packed || device->inflight.fd < 0;
}

int
client_device_reconnect(struct client_device *device)
{
	bool was_started = device->started;
	unsigned int i;
	int rc;

	client_close(&device->client);
	device->started = false;
	rc = client_connect(&device->client, device->path, device->options.timeout_ms);
	if (rc == 0)
		rc = introduce(device);
	if (rc == 0)
		rc = plug_queues(device);
	if (rc < 0 || !was_started)
		return rc;
	for (i = 0; i < device->options.queues && may_resume_by_ring(device); i++)
		device->bases[i] = client_ring_resume_base(&device->rings[i]);
	return client_device_start(device);
}

/* Tells running queues anew where they are, with or without "log what you write". */
static int
set_addrs(struct client_device *device, uint32_t flags)
{
	struct client_vring_addr addr;
	unsigned int i;
	int rc = 0;

	for (i = 0; i < device->options.queues && rc == 0; i++) {
		if (!queue_is_used(device, i))
			continue;
		client_ring_addr(&device->rings[i], i, &addr);
		addr.flags = flags;
		rc = client_set_vring_addr(&device->client, &addr, may_need_reply(device));
	}
	return rc;
}

int
client_device_start_log(struct client_device *device, int fd, uint64_t size)
{
	int rc;

	rc = client_set_log_base(&device->client, fd, size, 0);
	if (rc == 0)
		rc = client_set_features(&device->client, device->features | BIT(CLIENT_F_LOG_ALL),
					 may_need_reply(device));
	if (rc == 0)
		rc = set_addrs(device, CLIENT_VRING_ADDR_LOG);
	return rc;
}

int
client_device_stop_log(struct client_device *device)
{
	int rc;

	rc = client_set_features(&device->client, device->features, may_need_reply(device));
	if (rc == 0)
		rc = set_addrs(device, 0);
	return rc;
}
