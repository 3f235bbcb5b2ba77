/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-scsi controllers: making and ending, configuration space and features. */
#include "vhost_scsi.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "controller.h"
#include "log.h"

#define FEATURE(name) (1ULL << VIRTIO_SCSI_F_##name)

/*
 * With header and response a chain has 128 descriptors at most, the size of most queues
 * (virtio 1.2 §2.7.5.3.1: no chain is longer than its queue).
 */
#define SEG_MAX      126
#define MAX_SEGMENTS 128
/* In sectors of 512 bytes, and commands: what QEMU says of its own devices. */
#define MAX_SECTORS 65535
#define CMD_PER_LUN 128
/* Changes of the sizes in one session that are each brought to the disk. */
#define MAX_SAVES 16

/* ---- configuration space and features; vhost-events thread ---- */

static uint64_t
scsi_features(void *device)
{
	(void)device;
	return FEATURE(HOTPLUG) | FEATURE(CHANGE) | 1ULL << VIRTIO_F_RING_PACKED;
}

static void
scsi_set_features(void *device, uint64_t features)
{
	struct vhost_scsi *scsi = device;

	/* A new front-end may yet go on with the driver of the last one. */
	if (features != 0)
		atomic_store(&scsi->negotiated, features);
	else
		scsi->saves = 0;
}

static void
scsi_get_config(void *device, uint8_t *bytes)
{
	struct vhost_scsi *scsi = device;
	const struct virtio_scsi_config config = {
		.num_queues = VHOST_MAX_QUEUES,
		.seg_max = SEG_MAX,
		.max_sectors = MAX_SECTORS,
		.cmd_per_lun = CMD_PER_LUN,
		.event_info_size = sizeof(struct virtio_scsi_event),
		.sense_size = atomic_load(&scsi->sense_size),
		.cdb_size = atomic_load(&scsi->cdb_size),
		.max_target = VHOST_SCSI_MAX_TARGET,
		.max_lun = SCSI_LUN_NUMBERS - 1,
	};

	memcpy(bytes, &config, sizeof(config));
}

/*
 * The next process must know them: a front-end that comes back does not repeat them, and its driver
 * goes on. One that does nothing but change its mind keeps no disk busy: it alone loses by that.
 */
static void
set_sizes(struct vhost_scsi *scsi, uint32_t sense_size, uint32_t cdb_size)
{
	bool changed = atomic_exchange(&scsi->sense_size, sense_size) != sense_size;

	changed |= atomic_exchange(&scsi->cdb_size, cdb_size) != cdb_size;
	if (!changed || scsi->saves > MAX_SAVES)
		return;
	if (scsi->saves++ < MAX_SAVES)
		vhost_controllers_save();
	else
		log_warn("vhost %s: the driver changes sense_size and cdb_size again and again: "
			 "they are not saved any more",
			 scsi->name);
}

/* virtio 1.2 §5.6.4.1: sense_size and cdb_size, one of them or both, and nothing else. */
static int
scsi_set_config(void *device, uint32_t offset, uint32_t size, const uint8_t *data)
{
	const uint32_t first = offsetof(struct virtio_scsi_config, sense_size);
	struct vhost_scsi *scsi = device;
	uint32_t sizes[2] = {atomic_load(&scsi->sense_size), atomic_load(&scsi->cdb_size)};

	_Static_assert(offsetof(struct virtio_scsi_config, cdb_size) ==
			       offsetof(struct virtio_scsi_config, sense_size) + sizeof(uint32_t),
		       "they are neighbours");
	if (offset < first || size == 0 || offset % sizeof(uint32_t) != 0 ||
	    size % sizeof(uint32_t) != 0 || size > sizeof(sizes) ||
	    offset - first > sizeof(sizes) - size)
		return -EINVAL;
	memcpy((uint8_t *)sizes + (offset - first), data, size);
	if (sizes[0] > VHOST_SCSI_SENSE_MAX || sizes[1] == 0 || sizes[1] > VHOST_SCSI_CDB_MAX)
		return -EINVAL;
	atomic_store(&scsi->sizes_chosen, true);
	set_sizes(scsi, sizes[0], sizes[1]);
	return 0;
}

static int
power_on_on_app(void *arg)
{
	vhost_scsi_power_on(*(struct vhost_scsi **)arg);
	return 0;
}

/*
 * virtio 1.2 §5.6.4.2: the sizes are the defaults again, unless the driver that begins has chosen
 * already. The controller, and its device, stay: an endpoint with a session keeps it.
 */
static void
scsi_begin(void *device)
{
	struct vhost_scsi *scsi = device;

	if (!atomic_exchange(&scsi->sizes_chosen, false))
		set_sizes(scsi, VIRTIO_SCSI_SENSE_DEFAULT_SIZE, VIRTIO_SCSI_CDB_DEFAULT_SIZE);
	vhost_scsi_events_forget(scsi);
	thread_call_within(scsi->app, VHOST_ANSWER_US, power_on_on_app, &scsi, sizeof(scsi));
}

static size_t
scsi_request_size(void *device)
{
	size_t request = offsetof(struct vhost_scsi_request, task) + scsi_task_size();
	size_t control = vhost_scsi_control_size();

	(void)device;
	return request > control ? request : control;
}

/* ---- channels; the controller's threads ---- */

static int
scsi_device_channel_get(void *device, const char *label, void **channel)
{
	struct io_channel *io = io_channel_get(device);
	struct vhost_scsi_channel *own;

	(void)label; /* its queues share it */
	*channel = NULL;
	if (io == NULL)
		return -errno;
	own = io_channel_ctx(io);
	own->io = io;
	*channel = own;
	return 0;
}

static void
scsi_device_channel_put(void *device, void *channel)
{
	(void)device;
	io_channel_put(((struct vhost_scsi_channel *)channel)->io);
}

/* ---- making and ending; app thread ---- */

void
vhost_scsi_put(struct vhost_scsi *scsi)
{
	if (--scsi->refs > 0)
		return;
	if (scsi->event_fd >= 0)
		close(scsi->event_fd);
	if (scsi->memory != NULL)
		vhost_scsi_memory_put(scsi->memory);
	pthread_mutex_destroy(&scsi->lock);
	free(scsi);
}

static void
on_channels_gone(void *dev)
{
	struct vhost_scsi *scsi = dev;

	completion_signal(scsi->channels_gone, 0);
}

static void
scsi_destroy(void *device)
{
	struct vhost_scsi *scsi = device;
	struct completion *gone;

	while ((gone = completion_create()) == NULL)
		coroutine_sleep(1000);
	scsi->channels_gone = gone;
	io_device_unregister(scsi, on_channels_gone);
	completion_wait(gone, WAIT_FOREVER);
	completion_put(gone);
	vhost_scsi_remove_all(scsi);
	vhost_scsi_put(scsi);
}

static json_t *
scsi_config(void *device)
{
	struct vhost_scsi *scsi = device;

	/* It listens when its targets are there: a guest that waits for it must not miss any. */
	return json_pack("{s:s, s:{s:b, s:I, s:I}}", "method", "vhost_create_scsi_controller",
			 "params", "delay", true, "sense_size",
			 (json_int_t)atomic_load(&scsi->sense_size), "cdb_size",
			 (json_int_t)atomic_load(&scsi->cdb_size));
}

const struct vhost_device_ops vhost_scsi_ops = {
	.name = "vhost-user-scsi",
	.max_segments = MAX_SEGMENTS,
	.light_queues = VHOST_SCSI_REQUEST_QUEUES,
	.features = scsi_features,
	.set_features = scsi_set_features,
	.get_config = scsi_get_config,
	.set_config = scsi_set_config,
	.begin = scsi_begin,
	.request_size = scsi_request_size,
	.request_init = vhost_scsi_request_init,
	.memory_map = vhost_scsi_memory_map,
	.memory_unmap = vhost_scsi_memory_unmap,
	.channel_get = scsi_device_channel_get,
	.channel_put = scsi_device_channel_put,
	.handle = vhost_scsi_handle,
	.release_held = vhost_scsi_release_held,
	.event_queue = VHOST_SCSI_EVENT_QUEUE,
	.event_fd = vhost_scsi_event_fd,
	.wants_buffers = vhost_scsi_wants_buffers,
	.fill = vhost_scsi_fill,
	.resize = vhost_scsi_resize,
	.destroy = scsi_destroy,
	.describe = vhost_scsi_describe,
	.config = scsi_config,
	.config_more = vhost_scsi_config_more,
};

static int
prepare(struct vhost_scsi *scsi, const struct vhost_scsi_opts *opts, struct errmsg *err)
{
	const char *name = opts->name;
	bool chosen = opts->cdb_size != 0;
	int rc;

	memcpy(scsi->name, name, strlen(name) + 1);
	pthread_mutex_init(&scsi->lock, NULL);
	scsi->app = thread_current();
	scsi->refs = 1;
	atomic_init(&scsi->sense_size, chosen ? opts->sense_size : VIRTIO_SCSI_SENSE_DEFAULT_SIZE);
	atomic_init(&scsi->cdb_size, chosen ? opts->cdb_size : VIRTIO_SCSI_CDB_DEFAULT_SIZE);
	scsi->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	scsi->memory = vhost_scsi_memory_create();
	if (scsi->memory == NULL)
		return err_set(err, -ENOMEM, "vhost controller %s: no memory", name);
	if (scsi->event_fd < 0)
		return err_set(err, -errno, "vhost controller %s: no eventfd: %s", name,
			       strerror(errno));
	rc = io_device_register(scsi, vhost_scsi_channel_create, vhost_scsi_channel_destroy,
				sizeof(struct vhost_scsi_channel), scsi->name);
	return rc == 0 ? 0 : err_set(err, rc, "vhost controller %s: no memory", name);
}

int
vhost_scsi_create(const struct vhost_scsi_opts *opts, struct errmsg *err)
{
	struct vhost_controller_opts controller = {.name = opts->name,
						   .cpumask = opts->cpumask,
						   .ops = &vhost_scsi_ops,
						   .delay = opts->delay};
	struct vhost_scsi *scsi;
	int rc;

	rc = vhost_controller_check_name(opts->name, err);
	if (rc != 0)
		return rc;
	scsi = calloc(1, sizeof(*scsi));
	if (scsi == NULL)
		return err_set(err, -ENOMEM, "vhost controller %s: no memory", opts->name);
	rc = prepare(scsi, opts, err);
	if (rc != 0) {
		vhost_scsi_put(scsi);
		return rc;
	}
	controller.device = scsi;
	rc = vhost_controller_create(&controller, err);
	if (rc != 0)
		scsi_destroy(scsi);
	return rc;
}
