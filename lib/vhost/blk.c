/* SPDX-License-Identifier: BSD-3-Clause */
#include "blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev.h"
#include "controller.h"
#include "coroutine.h"
#include "iov.h"
#include "log.h"
#include "queue.h"
#include "threads.h"
#include "trace.h"

#define SECTOR_SHIFT  9
#define FEATURE(name) (1ULL << VIRTIO_BLK_F_##name)

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/*
 * With header and status a chain has 128 descriptors at most, the size of most queues
 * (virtio 1.2 §2.7.5.3.1: no chain is longer than its queue).
 */
#define SEG_MAX      126
#define MAX_SEGMENTS 128
/* Ranges in one DISCARD or WRITE_ZEROES, and how much each may be. */
#define MAX_RANGES        16
#define MAX_DISCARD_BYTES (2u << 30)
/* Changes of the cache mode in one session that are each brought to the disk. */
#define MAX_SAVES 16
/* Devices that write the zeroes themselves should not keep others waiting. */
#define MAX_WRITE_ZEROES_BYTES (32u << 20)

struct vhost_blk {
	/* set once */
	bool read_only;
	bool packed_ring;
	char bdev_name[BDEV_NAME_MAX + 1];
	/* As it was asked for: by its UUID it is no other one of that name after a restart. */
	char given_name[BDEV_NAME_MAX + 1];
	struct bdev_info info; /* as it was at creation */
	uint64_t features;
	size_t request_size;

	/*
	 * app thread only; the controller's threads read it while removed is not set, and
	 * vhost-events while it counts as a mapper
	 */
	struct bdev_desc *desc; /* NULL: the device is gone */
	uint32_t refs;

	/* any thread */
	_Atomic uint64_t size;      /* bytes */
	_Atomic bool writeback;     /* the driver's choice (CONFIG_WCE): see blk_set_features() */
	_Atomic bool cannot_flush;  /* writeback is off because of this, not by choice */
	_Atomic bool write_through; /* each write must be durable when it completes */
	_Atomic bool removed;       /* the device is gone: requests fail; those in flight end */
	_Atomic uint32_t mappers;   /* who uses desc to map memory; it is not closed meanwhile */

	/* vhost-events thread only */
	uint64_t negotiated;
	uint32_t saves; /* in this session */
};

/* What is in a slot. */
struct blk_request {
	/* set once */
	struct vhost_queue *queue;

	uint8_t *status;
	uint32_t written; /* bytes for the used ring when all goes well */
	/* DISCARD, WRITE_ZEROES: ranges to come, read from the driver's memory one by one */
	struct iovec *ranges;
	uint32_t range_iovs;
	uint32_t range_count;
	uint64_t ranges_seen, ranges_waited; /* ticks: when, and how long since */
	struct bdev_request rq;              /* last: the module's part follows */
};

/* ---- parsing ---- */

/* The first buffer of nearly every driver is the header and nothing else. */
static void
take_header(struct vhost_blk_command *command, struct virtio_blk_outhdr *header)
{
	if (unlikely(command->out->iov_len != sizeof(*header))) {
		vhost_iov_take(&command->out, &command->out_count, header, sizeof(*header));
		return;
	}
	memcpy(header, command->out->iov_base, sizeof(*header));
	/* The compiler must not look at the driver's memory again instead of at the copy. */
	atomic_signal_fence(memory_order_seq_cst);
	command->out++;
	command->out_count--;
}

enum vhost_blk_parsed
vhost_blk_parse(struct virtq_slot *slot, struct vhost_blk_command *command)
{
	struct virtio_blk_outhdr header;
	struct iovec *last;

	if (unlikely(slot->writable_bytes == 0))
		return VHOST_BLK_NO_STATUS;
	command->in = slot->iov + slot->readable_count;
	command->in_count = slot->writable_count;
	command->in_bytes = slot->writable_bytes - 1;
	last = &command->in[command->in_count - 1];
	last->iov_len--;
	command->status = (uint8_t *)last->iov_base + last->iov_len;
	if (last->iov_len == 0)
		command->in_count--;

	command->out = slot->iov;
	command->out_count = slot->readable_count;
	if (unlikely(slot->readable_bytes < sizeof(header)))
		return VHOST_BLK_NO_HEADER;
	command->out_bytes = slot->readable_bytes - sizeof(header);
	take_header(command, &header);
	command->type = header.type;
	command->sector = header.sector;
	return VHOST_BLK_PARSED;
}

uint8_t
vhost_blk_status(int status)
{
	if (status == 0)
		return VIRTIO_BLK_S_OK;
	return status == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* ---- executing; the queue's thread ---- */

static bool
is_removed(const struct vhost_blk *blk)
{
	return atomic_load_explicit(&blk->removed, memory_order_relaxed);
}

/* At the end of each request: the compiler would make a call of it. */
static __always_inline void
finish(struct blk_request *request, uint8_t status)
{
	*request->status = status;
	if (unlikely(status != VIRTIO_BLK_S_OK))
		request->queue->counters[VHOST_ERRORS]++;
	vhost_queue_complete(request->queue, virtq_slot_from_ctx(request),
			     status == VIRTIO_BLK_S_OK ? request->written : 1);
}

/* Out of line, so that the others do without its registers. */
static __attribute__((noinline)) void
finish_slow(struct blk_request *request, uint64_t seen, uint64_t waited, int status)
{
	static const char *const types[BDEV_IO_TYPES] = {
		[BDEV_READ] = "read",
		[BDEV_WRITE] = "write",
		[BDEV_FLUSH] = "flush",
		[BDEV_DISCARD] = "discard",
		[BDEV_WRITE_ZEROES] = "write_zeroes",
	};
	struct vhost_trace_record *record = vhost_trace_add(request->queue, seen, seen + waited);

	record->type = types[request->rq.type];
	record->status = status == 0 ? "OK" : strerrorname_np(-status);
	record->tag = virtq_slot_from_ctx(request)->head;
	record->lba = request->rq.offset >> SECTOR_SHIFT;
	record->blocks = request->rq.length >> SECTOR_SHIFT;
	finish(request, vhost_blk_status(status));
}

/* It was submitted in the poll that found it. */
static void
on_done(struct bdev_request *rq, int status)
{
	struct blk_request *request =
		(struct blk_request *)((char *)rq - offsetof(struct blk_request, rq));

	if (unlikely(vhost_queue_is_slow(request->queue, rq->submit_ticks)))
		finish_slow(request, rq->submit_ticks, bdev_request_waited(rq), status);
	else
		finish(request, vhost_blk_status(status));
}

/* 0, or -EIO for addresses that no device can have. */
static int
set_range(struct bdev_request *rq, uint64_t sector, uint64_t bytes)
{
	if (unlikely(sector >> (64 - SECTOR_SHIFT) != 0))
		return -EIO;
	rq->offset = sector << SECTOR_SHIFT;
	rq->length = bytes;
	return 0;
}

static int
start_in(struct vhost_queue *queue, struct blk_request *request, struct vhost_blk_command *command)
{
	struct bdev_request *rq = &request->rq;

	/* The used ring has 32 bits for the length. */
	if (unlikely(command->in_bytes == 0 || command->in_bytes >= UINT32_MAX ||
		     set_range(rq, command->sector, command->in_bytes) != 0))
		return -EIO;
	request->written = (uint32_t)command->in_bytes + 1;
	rq->type = BDEV_READ;
	rq->flags = 0;
	rq->iov = command->in;
	rq->iovcnt = command->in_count;
	rq->done = on_done;
	bdev_submit(queue->channel, rq);
	return 0;
}

static uint8_t
write_flags(const struct vhost_blk *blk)
{
	return atomic_load_explicit(&blk->write_through, memory_order_relaxed) ? BDEV_FUA : 0;
}

static int
start_out(struct vhost_queue *queue, struct blk_request *request, struct vhost_blk_command *command)
{
	const struct vhost_blk *blk = queue->device;
	struct bdev_request *rq = &request->rq;

	if (unlikely(command->out_bytes == 0 || blk->read_only ||
		     set_range(rq, command->sector, command->out_bytes) != 0))
		return -EIO;
	rq->type = BDEV_WRITE;
	rq->flags = write_flags(blk);
	rq->iov = command->out;
	rq->iovcnt = command->out_count;
	rq->done = on_done;
	bdev_submit(queue->channel, rq);
	return 0;
}

static int
start_flush(struct vhost_queue *queue, struct blk_request *request,
	    struct vhost_blk_command *command)
{
	struct bdev_request *rq = &request->rq;

	(void)command;
	rq->type = BDEV_FLUSH;
	rq->flags = 0;
	rq->iov = NULL;
	rq->iovcnt = 0;
	rq->offset = 0;
	rq->length = 0;
	rq->done = on_done;
	bdev_submit(queue->channel, rq);
	return 0;
}

/* virtio 1.2 §5.2.6: the serial number, padded with zeroes; no NUL when it is 20 bytes long. */
static int
start_get_id(struct vhost_queue *queue, struct blk_request *request,
	     struct vhost_blk_command *command)
{
	const struct vhost_blk *blk = queue->device;
	char id[VIRTIO_BLK_ID_BYTES] = {0};
	size_t length = strnlen(blk->bdev_name, sizeof(id));
	size_t offset = 0;

	memcpy(id, blk->bdev_name, length);
	for (uint32_t i = 0; i < command->in_count && offset < sizeof(id); i++) {
		size_t part = command->in[i].iov_len;

		if (part > sizeof(id) - offset)
			part = sizeof(id) - offset;
		memcpy(command->in[i].iov_base, id + offset, part);
		offset += part;
	}
	request->written = (uint32_t)offset + 1;
	finish(request, VIRTIO_BLK_S_OK);
	return 0;
}

static int submit_range(struct blk_request *request);

static void
on_range_done(struct bdev_request *rq, int status)
{
	struct blk_request *request =
		(struct blk_request *)((char *)rq - offsetof(struct blk_request, rq));
	bool more = status == 0 && request->range_count > 0;

	request->ranges_waited += bdev_request_waited(rq);
	if (more)
		status = submit_range(request);
	if (more && status == 0)
		return;
	if (vhost_queue_is_slow(request->queue, request->ranges_seen))
		finish_slow(request, request->ranges_seen, request->ranges_waited, status);
	else
		finish(request, vhost_blk_status(status));
}

/* The next range of a DISCARD or WRITE_ZEROES. virtio 1.2 §5.2.6.2 says which flags are refused. */
static int
submit_range(struct blk_request *request)
{
	const struct vhost_blk *blk = request->queue->device;
	struct virtio_blk_discard_write_zeroes range;
	struct bdev_request *rq = &request->rq;
	bool discard = rq->type == BDEV_DISCARD;
	uint32_t max = discard ? MAX_DISCARD_BYTES : MAX_WRITE_ZEROES_BYTES;

	if (is_removed(blk))
		return -EIO;
	request->range_count--;
	vhost_iov_take(&request->ranges, &request->range_iovs, &range, sizeof(range));
	if (range.flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return -EOPNOTSUPP;
	if (discard && blk->info.max_discard_bytes != 0)
		max = blk->info.max_discard_bytes;
	if (range.num_sectors > max >> SECTOR_SHIFT ||
	    set_range(rq, range.sector, (uint64_t)range.num_sectors << SECTOR_SHIFT) != 0)
		return -EIO;
	rq->flags = discard ? 0 : write_flags(blk);
	if (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
		rq->flags |= BDEV_UNMAP;
	bdev_submit(request->queue->channel, rq);
	return 0;
}

static int
start_ranges(struct vhost_queue *queue, struct blk_request *request,
	     struct vhost_blk_command *command, enum bdev_io_type type, uint64_t feature)
{
	const struct vhost_blk *blk = queue->device;
	struct bdev_request *rq = &request->rq;
	uint64_t count = command->out_bytes / sizeof(struct virtio_blk_discard_write_zeroes);

	if (blk->read_only)
		return -EIO;
	if (!(blk->features & feature))
		return -EOPNOTSUPP;
	if (command->out_bytes % sizeof(struct virtio_blk_discard_write_zeroes) != 0 ||
	    count == 0 || count > MAX_RANGES)
		return -EIO;
	request->ranges = command->out;
	request->range_iovs = command->out_count;
	request->range_count = (uint32_t)count;
	request->ranges_seen = *queue->clock;
	request->ranges_waited = 0;
	rq->type = type;
	rq->iov = NULL;
	rq->iovcnt = 0;
	rq->done = on_range_done;
	return submit_range(request);
}

static int
start_discard(struct vhost_queue *queue, struct blk_request *request,
	      struct vhost_blk_command *command)
{
	return start_ranges(queue, request, command, BDEV_DISCARD, FEATURE(DISCARD));
}

static int
start_write_zeroes(struct vhost_queue *queue, struct blk_request *request,
		   struct vhost_blk_command *command)
{
	return start_ranges(queue, request, command, BDEV_WRITE_ZEROES, FEATURE(WRITE_ZEROES));
}

/* 0 when it has taken the request; a negative errno that it is to be answered with. */
typedef int (*start_fn)(struct vhost_queue *queue, struct blk_request *request,
			struct vhost_blk_command *command);

static const start_fn starts[] = {
	[VIRTIO_BLK_T_IN] = start_in,           [VIRTIO_BLK_T_OUT] = start_out,
	[VIRTIO_BLK_T_FLUSH] = start_flush,     [VIRTIO_BLK_T_GET_ID] = start_get_id,
	[VIRTIO_BLK_T_DISCARD] = start_discard, [VIRTIO_BLK_T_WRITE_ZEROES] = start_write_zeroes,
};
#define TYPE_COUNT (sizeof(starts) / sizeof(starts[0]))

static void
blk_start(struct vhost_blk *blk, struct vhost_queue *queue, struct virtq_slot *slot)
{
	struct blk_request *request = (struct blk_request *)slot->ctx;
	struct vhost_blk_command command;
	enum vhost_blk_parsed parsed = vhost_blk_parse(slot, &command);
	int rc;

	if (unlikely(parsed == VHOST_BLK_NO_STATUS)) {
		vhost_queue_complete(queue, slot, 0);
		virtq_break(queue->setup.vq, "request without a status byte");
		return;
	}
	request->status = command.status;
	request->written = 1;
	if (unlikely(parsed == VHOST_BLK_NO_HEADER || is_removed(blk)))
		rc = -EIO;
	else if (unlikely(command.type >= TYPE_COUNT || starts[command.type] == NULL))
		rc = -EOPNOTSUPP;
	else
		rc = starts[command.type](queue, request, &command);
	if (unlikely(rc != 0))
		finish(request, vhost_blk_status(rc));
}

static void
blk_handle(struct vhost_queue *queue, struct virtq_slot **slots, uint32_t count)
{
	struct vhost_blk *blk = queue->device;

	for (uint32_t i = 0; i < count; i++)
		blk_start(blk, queue, slots[i]);
	if (likely(queue->channel != NULL))
		bdev_flush_submissions(queue->channel);
}

static int
blk_channel_get(void *device, const char *label, void **channel)
{
	struct vhost_blk *blk = device;

	*channel = NULL;
	if (atomic_load(&blk->removed))
		return 0;
	*channel = bdev_channel_get(blk->desc);
	if (*channel == NULL)
		return -errno;
	bdev_channel_set_label(*channel, label);
	return 0;
}

static void
blk_channel_put(void *device, void *channel)
{
	(void)device;
	bdev_channel_put(channel);
}

static bool
blk_release_held(void *channel)
{
	return bdev_release_held(channel);
}

/* ---- memory; vhost-events thread ---- */

/*
 * Who takes the device away sets `removed` first and looks for mappers afterwards, and here it is
 * the other way round. Both are sequentially consistent, so that one of the two sides sees the
 * other. What a device that is gone says is no error: nobody will need the map.
 */
static int
blk_memory_map(void *device, void *addr, uint64_t length, int fd, uint64_t fd_offset, void **memory,
	       struct errmsg *err)
{
	struct vhost_blk *blk = device;
	struct bdev_memory *mapped = NULL;
	int rc = 0;

	atomic_fetch_add(&blk->mappers, 1);
	if (!atomic_load(&blk->removed))
		rc = bdev_memory_map(blk->desc, addr, length, fd, fd_offset, &mapped, err);
	atomic_fetch_sub(&blk->mappers, 1);
	*memory = mapped;
	return atomic_load(&blk->removed) ? 0 : rc;
}

/* Any OS thread that may block; blk may be gone. */
static void
blk_memory_unmap(void *memory)
{
	bdev_memory_unmap(memory);
}

/* ---- configuration space and features; vhost-events thread ---- */

static uint64_t
blk_features(void *device)
{
	return ((struct vhost_blk *)device)->features;
}

/* virtio 1.2 §5.2.6.2: which writes may be volatile when they complete. */
static void
update_write_through(struct vhost_blk *blk)
{
	bool volatile_writes = blk->negotiated & FEATURE(CONFIG_WCE)
				       ? atomic_load(&blk->writeback)
				       : (blk->negotiated & FEATURE(FLUSH)) != 0;

	atomic_store(&blk->write_through, !volatile_writes);
}

/*
 * The driver's choice outlives the session, and the process (blk_config()). A front-end that comes
 * back after a lost connection does not repeat it, and its driver goes on without flushes if it has
 * chosen write-through; one that comes anew reads it. Only what no driver has chosen goes with its
 * reason.
 */
static void
blk_set_features(void *device, uint64_t features)
{
	struct vhost_blk *blk = device;
	bool cannot_flush = features & FEATURE(CONFIG_WCE) && !(features & FEATURE(FLUSH));

	blk->negotiated = features;
	if (features == 0)
		blk->saves = 0;
	if (blk->cannot_flush && !cannot_flush)
		atomic_store(&blk->writeback, true);
	/* virtio 1.2 §5.2.5: who takes CONFIG_WCE without FLUSH starts with write-through. */
	blk->cannot_flush = cannot_flush && (blk->cannot_flush || atomic_load(&blk->writeback));
	if (cannot_flush)
		atomic_store(&blk->writeback, false);
	update_write_through(blk);
}

static void
blk_get_config(void *device, uint8_t *bytes)
{
	struct vhost_blk *blk = device;
	const struct bdev_info *info = &blk->info;
	uint32_t per_block = info->physical_block_size / info->block_size;
	uint32_t discard =
		info->max_discard_bytes != 0 ? info->max_discard_bytes : MAX_DISCARD_BYTES;
	uint32_t alignment = info->discard_granularity > info->block_size
				     ? info->discard_granularity
				     : info->block_size;
	struct virtio_blk_config config = {
		.capacity = atomic_load(&blk->size) >> SECTOR_SHIFT,
		.seg_max = SEG_MAX,
		.blk_size = info->block_size,
		.physical_block_exp = (uint8_t)__builtin_ctz(per_block),
		.min_io_size = (uint16_t)per_block,
		.wce = atomic_load(&blk->writeback),
		.num_queues = VHOST_MAX_QUEUES,
	};

	if (blk->features & FEATURE(DISCARD)) {
		config.max_discard_sectors = discard >> SECTOR_SHIFT;
		config.max_discard_seg = MAX_RANGES;
		config.discard_sector_alignment = alignment >> SECTOR_SHIFT;
	}
	if (blk->features & FEATURE(WRITE_ZEROES)) {
		config.max_write_zeroes_sectors = MAX_WRITE_ZEROES_BYTES >> SECTOR_SHIFT;
		config.max_write_zeroes_seg = MAX_RANGES;
		config.write_zeroes_may_unmap = (blk->features & FEATURE(DISCARD)) != 0;
	}
	memcpy(bytes, &config, sizeof(config));
}

static int
blk_set_config(void *device, uint32_t offset, uint32_t size, const uint8_t *data)
{
	struct vhost_blk *blk = device;
	bool changed;

	if (offset != offsetof(struct virtio_blk_config, wce) || size != 1 || data[0] > 1 ||
	    !(blk->negotiated & FEATURE(CONFIG_WCE)))
		return -EINVAL;
	changed = atomic_exchange(&blk->writeback, data[0] == 1) != (data[0] == 1);
	changed |= atomic_exchange(&blk->cannot_flush, false);
	update_write_through(blk);
	/*
	 * Before the driver relies on it: the next process must know. One that does nothing but
	 * change its mind keeps no disk busy: from some time on write-through stays saved.
	 */
	if (changed && (data[0] == 0 || blk->saves < MAX_SAVES)) {
		blk->saves++;
		vhost_controllers_save();
	}
	return 0;
}

static size_t
blk_request_size(void *device)
{
	return ((struct vhost_blk *)device)->request_size;
}

static void
blk_request_init(struct vhost_queue *queue, struct virtq_slot *slot)
{
	struct blk_request *request = (struct blk_request *)slot->ctx;

	request->queue = queue;
}

/* ---- making and ending; app thread ---- */

static void
blk_put(struct vhost_blk *blk)
{
	if (--blk->refs == 0)
		free(blk);
}

static void
blk_close(struct vhost_blk *blk)
{
	if (blk->desc != NULL)
		bdev_close(blk->desc);
	blk->desc = NULL;
}

static void
blk_destroy(void *device)
{
	blk_close(device);
	blk_put(device);
}

/* The device is gone: requests in flight end, new ones fail, the controller stays. */
static void
remove_bdev(void *arg)
{
	struct vhost_blk *blk = arg;

	while (blk->desc != NULL) {
		struct vhost_controller *controller = vhost_controller_of_device(blk);

		if (controller != NULL &&
		    vhost_threads_call(controller, vhost_thread_put_channels, NULL) == 0 &&
		    atomic_load(&blk->mappers) == 0)
			blk_close(blk);
		else if (coroutine_sleep(1000) != 0)
			break;
	}
	blk_put(blk);
}

static void
on_bdev_event(void *ctx, enum bdev_event event)
{
	struct vhost_blk *blk = ctx;
	struct vhost_controller *controller = vhost_controller_of_device(blk);

	switch (event) {
	case BDEV_EVENT_RESIZE:
		atomic_store(&blk->size, bdev_get_info(bdev_desc_bdev(blk->desc))->size);
		if (controller != NULL)
			vhost_controller_config_changed(controller);
		return;
	case BDEV_EVENT_REMOVE:
		log_warn("vhost: block device %s is gone: its guests' requests fail",
			 blk->bdev_name);
		/* A busy guest would never be without requests. */
		atomic_store(&blk->removed, true);
		blk->refs++;
		if (coroutine_start(thread_current(), "vhost_blk_remove", remove_bdev, blk) != 0)
			blk_put(blk);
		return;
	case BDEV_EVENT_MEDIA_MANAGEMENT:
		return;
	}
}

/* The block device tells of a new size by itself; of one that is not new nobody would. */
static int
blk_resize(void *device, struct errmsg *err)
{
	struct vhost_blk *blk = device;
	uint64_t before = atomic_load(&blk->size);
	struct vhost_controller *controller;
	int rc;

	if (blk->desc == NULL)
		return err_set(err, -ENODEV, "block device %s is gone", blk->bdev_name);
	blk->refs++;
	rc = bdev_rescan(blk->bdev_name, err);
	controller = vhost_controller_of_device(blk);
	if (rc == 0 && controller != NULL && atomic_load(&blk->size) == before)
		vhost_controller_config_changed(controller);
	blk_put(blk);
	return rc;
}

static json_t *
blk_describe(void *device)
{
	struct vhost_blk *blk = device;

	return json_pack("{s:{s:b, s:s, s:s}}", "block", "readonly", blk->read_only, "bdev",
			 blk->bdev_name, "transport", "vhost_user_blk");
}

static json_t *
blk_config(void *device)
{
	struct vhost_blk *blk = device;
	bool writeback = atomic_load(&blk->writeback) || atomic_load(&blk->cannot_flush);

	return json_pack("{s:s, s:{s:s, s:b, s:b, s:b}}", "method", "vhost_create_blk_controller",
			 "params", "dev_name", blk->given_name, "readonly", blk->read_only,
			 "packed_ring", blk->packed_ring, "writeback", writeback);
}

static const struct vhost_device_ops blk_ops = {
	.name = "vhost-user-blk",
	.max_segments = MAX_SEGMENTS,
	.features = blk_features,
	.set_features = blk_set_features,
	.get_config = blk_get_config,
	.set_config = blk_set_config,
	.request_size = blk_request_size,
	.request_init = blk_request_init,
	.memory_map = blk_memory_map,
	.memory_unmap = blk_memory_unmap,
	.channel_get = blk_channel_get,
	.channel_put = blk_channel_put,
	.handle = blk_handle,
	.release_held = blk_release_held,
	.resize = blk_resize,
	.destroy = blk_destroy,
	.describe = blk_describe,
	.config = blk_config,
};

static uint64_t
offered_features(const struct vhost_blk *blk)
{
	const struct bdev_info *info = &blk->info;
	uint64_t features = FEATURE(SEG_MAX) | FEATURE(BLK_SIZE) | FEATURE(TOPOLOGY) | FEATURE(MQ);

	if (blk->packed_ring)
		features |= 1ULL << VIRTIO_F_RING_PACKED;
	if (info->io_types & 1u << BDEV_FLUSH)
		features |= FEATURE(FLUSH) | FEATURE(CONFIG_WCE);
	if (blk->read_only)
		return features | FEATURE(RO);
	if (info->io_types & 1u << BDEV_DISCARD)
		features |= FEATURE(DISCARD);
	if (info->io_types & 1u << BDEV_WRITE_ZEROES)
		features |= FEATURE(WRITE_ZEROES);
	return features;
}

/* Everything of blk that comes from the block device, which is open. */
static void
adopt_bdev(struct vhost_blk *blk)
{
	struct bdev *bdev = bdev_desc_bdev(blk->desc);

	blk->info = *bdev_get_info(bdev);
	memcpy(blk->bdev_name, blk->info.name, sizeof(blk->bdev_name));
	atomic_init(&blk->size, blk->info.size);
	atomic_init(&blk->write_through, true);
	blk->features = offered_features(blk);
	blk->request_size = offsetof(struct blk_request, rq) + bdev_request_size(bdev);
}

int
vhost_blk_create(const struct vhost_blk_opts *opts, struct errmsg *err)
{
	struct vhost_controller_opts controller = {
		.name = opts->name, .cpumask = opts->cpumask, .ops = &blk_ops};
	char user[VHOST_NAME_MAX + sizeof("vhost controller ")];
	struct vhost_blk *blk;
	int rc;

	rc = vhost_controller_check_name(opts->name, err);
	if (rc != 0)
		return rc;
	blk = calloc(1, sizeof(*blk));
	if (blk == NULL)
		return err_set(err, -ENOMEM, "vhost controller %s: no memory", opts->name);
	blk->read_only = opts->read_only;
	blk->packed_ring = opts->packed_ring;
	atomic_init(&blk->writeback, !opts->write_through);
	blk->refs = 1;
	snprintf(blk->given_name, sizeof(blk->given_name), "%s", opts->bdev);
	snprintf(user, sizeof(user), "vhost controller %s", opts->name);
	rc = bdev_open(opts->bdev, opts->read_only ? BDEV_READS : BDEV_WRITES, user, on_bdev_event,
		       blk, &blk->desc, err);
	if (rc != 0) {
		free(blk);
		return rc;
	}
	adopt_bdev(blk);
	controller.device = blk;
	rc = vhost_controller_create(&controller, err);
	if (rc != 0)
		blk_destroy(blk);
	return rc;
}
