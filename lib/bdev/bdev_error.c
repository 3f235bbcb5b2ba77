/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk that fails as told, on top of one that does not. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev_filter.h"
#include "bdev_modules.h"
#include "request_fifo.h"

#define MODULE "error"

enum error_kind {
	ERROR_FAILURE,
	ERROR_PENDING,
	ERROR_CORRUPT,
	ERROR_NOMEM,
	ERROR_KINDS,
};

/* What the next requests of a type get. */
struct injection {
	enum error_kind kind;
	uint32_t queue_depth;
	uint64_t corrupt_offset; /* bytes from the request's first one */
	uint8_t corrupt_value;
};

struct error_disk {
	struct bdev_filter filter;
	/*
	 * A mutex and not messages: all threads count down the same numbers. Held for some
	 * instructions, and only while something is injected.
	 */
	pthread_mutex_t lock;
	/* Under lock; `left` is looked at without it first. */
	struct injection injections[BDEV_IO_TYPES];
	_Atomic uint32_t left[BDEV_IO_TYPES]; /* requests */
};

struct error_channel {
	struct bdev_filter_channel filter;
	uint32_t below; /* requests that the lower one has */
	struct request_fifo pending;
};

/* A write with one other byte. The guest's own must stay as it is: the driver may read it. */
struct corrupt_write {
	uint8_t byte;
	struct iovec iov[];
};

struct error_request {
	struct error_channel *channel;
	struct corrupt_write *write; /* or NULL */
	uint8_t *byte;               /* to spoil when it was read, or NULL */
	uint8_t value;
	_Alignas(16) struct bdev_request lower;
};

/* ---- the data path ---- */

static struct error_request *
request_of(struct bdev_request *upper)
{
	return (struct error_request *)upper->ctx;
}

/* Whether an error is due; counts it. */
static bool
take(struct error_disk *disk, uint8_t type, uint32_t below, struct injection *injection)
{
	bool found;

	if (atomic_load_explicit(&disk->left[type], memory_order_relaxed) == 0)
		return false;
	pthread_mutex_lock(&disk->lock);
	*injection = disk->injections[type];
	found = disk->left[type] > 0 && below >= injection->queue_depth;
	if (found)
		disk->left[type]--;
	pthread_mutex_unlock(&disk->lock);
	return found;
}

static void
on_lower_done(struct bdev_request *lower, int status)
{
	struct bdev_request *rq = bdev_filter_upper(lower, struct error_request);
	struct error_request *request = request_of(rq);

	request->channel->below--;
	free(request->write);
	if (request->byte != NULL && status == 0)
		*request->byte ^= request->value;
	bdev_complete(rq, status);
}

static void
pass(struct error_channel *channel, struct bdev_request *rq)
{
	struct error_request *request = request_of(rq);

	channel->below++;
	bdev_filter_submit(&channel->filter, rq, &request->lower, on_lower_done);
}

static void
inject_failure(struct error_channel *channel, struct bdev_request *rq,
	       const struct injection *injection)
{
	(void)channel;
	(void)injection;
	bdev_complete(rq, -EIO);
}

static void
inject_nomem(struct error_channel *channel, struct bdev_request *rq,
	     const struct injection *injection)
{
	(void)channel;
	(void)injection;
	bdev_complete(rq, -ENOMEM);
}

static void
inject_pending(struct error_channel *channel, struct bdev_request *rq,
	       const struct injection *injection)
{
	(void)injection;
	request_fifo_push(&channel->pending, rq);
}

/* The iovec that has byte `offset`, which becomes what it is from there; iovcnt: none has. */
static uint32_t
find_byte(const struct bdev_request *rq, uint64_t *offset)
{
	uint32_t i = 0;

	while (i < rq->iovcnt && *offset >= rq->iov[i].iov_len)
		*offset -= rq->iov[i++].iov_len;
	return i;
}

/* The iovecs of rq with one byte from elsewhere. NULL: no memory. */
static struct corrupt_write *
corrupt_write_new(const struct bdev_request *rq, uint32_t index, uint64_t skip, uint8_t value)
{
	struct corrupt_write *write =
		malloc(sizeof(*write) + ((size_t)rq->iovcnt + 2) * sizeof(struct iovec));
	uint8_t *base = rq->iov[index].iov_base;
	size_t length = rq->iov[index].iov_len;

	if (write == NULL)
		return NULL;
	write->byte = base[skip] ^ value;
	memcpy(write->iov, rq->iov, index * sizeof(struct iovec));
	write->iov[index] = (struct iovec){base, skip};
	write->iov[index + 1] = (struct iovec){&write->byte, 1};
	write->iov[index + 2] = (struct iovec){base + skip + 1, length - skip - 1};
	memcpy(&write->iov[index + 3], &rq->iov[index + 1],
	       (rq->iovcnt - index - 1) * sizeof(struct iovec));
	return write;
}

static void
pass_corrupt_write(struct error_channel *channel, struct bdev_request *rq)
{
	struct error_request *request = request_of(rq);
	struct bdev_request changed = *rq;

	changed.iov = request->write->iov;
	changed.iovcnt = rq->iovcnt + 2;
	channel->below++;
	bdev_filter_submit(&channel->filter, &changed, &request->lower, on_lower_done);
}

static void
inject_corrupt(struct error_channel *channel, struct bdev_request *rq,
	       const struct injection *injection)
{
	struct error_request *request = request_of(rq);
	uint64_t skip = injection->corrupt_offset;
	uint32_t index = find_byte(rq, &skip);

	if (index == rq->iovcnt) { /* it is shorter */
		pass(channel, rq);
		return;
	}
	if (rq->type == BDEV_READ) {
		request->byte = (uint8_t *)rq->iov[index].iov_base + skip;
		request->value = injection->corrupt_value;
		pass(channel, rq);
		return;
	}
	request->write = corrupt_write_new(rq, index, skip, injection->corrupt_value);
	if (request->write == NULL)
		bdev_complete(rq, -ENOMEM);
	else
		pass_corrupt_write(channel, rq);
}

static const struct {
	const char *name;
	void (*inject)(struct error_channel *channel, struct bdev_request *rq,
		       const struct injection *injection);
} kinds[ERROR_KINDS] = {
	[ERROR_FAILURE] = {"failure", inject_failure},
	[ERROR_PENDING] = {"pending", inject_pending},
	[ERROR_CORRUPT] = {"corrupt_data", inject_corrupt},
	[ERROR_NOMEM] = {"nomem", inject_nomem},
};

static void
error_submit(void *channel_ctx, struct bdev_request *rq)
{
	struct error_channel *channel = channel_ctx;
	struct error_disk *disk = (struct error_disk *)channel->filter.filter;
	struct error_request *request = request_of(rq);
	struct injection injection;

	if (rq->type == BDEV_RESET) {
		bdev_drain(rq);
		return;
	}
	request->channel = channel;
	request->write = NULL;
	request->byte = NULL;
	if (!atomic_load_explicit(&disk->filter.going, memory_order_relaxed) &&
	    take(disk, rq->type, channel->below, &injection))
		kinds[injection.kind].inject(channel, rq, &injection);
	else
		pass(channel, rq);
}

static void
end_pending(struct error_channel *channel, int status)
{
	struct request_fifo all = channel->pending;
	struct bdev_request *rq;

	channel->pending.first = NULL;
	while ((rq = request_fifo_pop(&all)) != NULL)
		bdev_complete(rq, status);
}

static void
error_end_held(void *channel_ctx)
{
	end_pending(channel_ctx, -ECANCELED);
}

static int
error_channel_create(void *bdev_ctx, void *channel_ctx)
{
	struct error_channel *channel = channel_ctx;

	return bdev_filter_channel_create(bdev_ctx, &channel->filter);
}

static void
error_channel_destroy(void *bdev_ctx, void *channel_ctx)
{
	struct error_channel *channel = channel_ctx;

	(void)bdev_ctx;
	bdev_filter_channel_destroy(&channel->filter);
}

/* ---- the control path ---- */

static json_t *
error_describe(void *bdev_ctx)
{
	const struct error_disk *disk = bdev_ctx;

	return json_pack("{s:{s:s}}", "error_disk", "base_bdev", bdev_filter_base(&disk->filter));
}

/* What is injected is not kept. */
static json_t *
error_config(void *bdev_ctx)
{
	const struct error_disk *disk = bdev_ctx;
	const struct bdev_info *info = bdev_get_info(disk->filter.bdev);

	return json_pack("{s:s, s:{s:s, s:s, s:s}}", "method", "bdev_error_create", "params",
			 "base_name", bdev_filter_base(&disk->filter), "name", info->name, "uuid",
			 info->uuid);
}

static void
error_destroy(void *bdev_ctx)
{
	struct error_disk *disk = bdev_ctx;

	pthread_mutex_destroy(&disk->lock);
	bdev_filter_destroy(&disk->filter);
}

static const struct bdev_ops error_ops = {
	.module = MODULE,
	.channel_create = error_channel_create,
	.channel_destroy = error_channel_destroy,
	.submit = error_submit,
	.end_held = error_end_held,
	.destroy = error_destroy,
	.describe = error_describe,
	.config = error_config,
	.channel_ctx_size = sizeof(struct error_channel),
	.request_ctx_size = offsetof(struct error_request, lower),
};

int
bdev_error_create(const struct bdev_error_opts *opts, struct bdev **bdev, struct errmsg *err)
{
	char default_name[BDEV_NAME_MAX + 8];
	struct bdev_filter_opts filter = {
		.name = opts->name,
		.uuid = opts->uuid,
		.base = opts->base,
		.product_name = "Error Injection Disk",
		.ops = &error_ops,
	};
	struct error_disk *disk;
	int rc;

	snprintf(default_name, sizeof(default_name), "EE_%s", opts->base);
	if (filter.name == NULL)
		filter.name = default_name;
	disk = calloc(1, sizeof(*disk));
	if (disk == NULL)
		return err_set(err, -ENOMEM, "no memory for block device %s", filter.name);
	pthread_mutex_init(&disk->lock, NULL);
	rc = bdev_filter_register(&disk->filter, &filter, err);
	if (rc != 0) {
		pthread_mutex_destroy(&disk->lock);
		free(disk);
		return rc;
	}
	*bdev = disk->filter.bdev;
	return 0;
}

#define TYPE_CLEAR 0
#define TYPE_DATA  (1u << BDEV_READ | 1u << BDEV_WRITE)
#define TYPE_ALL   (TYPE_DATA | 1u << BDEV_FLUSH | 1u << BDEV_DISCARD | 1u << BDEV_WRITE_ZEROES)

static const struct {
	const char *name;
	uint32_t types;
} io_types[] = {
	{"read", 1u << BDEV_READ},
	{"write", 1u << BDEV_WRITE},
	{"flush", 1u << BDEV_FLUSH},
	{"unmap", 1u << BDEV_DISCARD},
	{"write_zeroes", 1u << BDEV_WRITE_ZEROES},
	{"all", TYPE_ALL},
	{"clear", TYPE_CLEAR},
};

/* 0 or -EINVAL. */
static int
parse(const struct bdev_error_injection *given, uint32_t *types, struct injection *injection,
      struct errmsg *err)
{
	size_t i = 0, kind = 0;

	while (i < sizeof(io_types) / sizeof(io_types[0]) &&
	       strcmp(given->io_type, io_types[i].name) != 0)
		i++;
	while (kind < ERROR_KINDS && strcmp(given->error_type, kinds[kind].name) != 0)
		kind++;
	if (i == sizeof(io_types) / sizeof(io_types[0]))
		return err_set(err, -EINVAL,
			       "an io_type is read, write, flush, unmap, write_zeroes, all or "
			       "clear, not '%.32s'",
			       given->io_type);
	if (kind == ERROR_KINDS)
		return err_set(err, -EINVAL,
			       "an error_type is failure, pending, corrupt_data or nomem, not "
			       "'%.32s'",
			       given->error_type);
	*types = io_types[i].types;
	*injection = (struct injection){
		.kind = (enum error_kind)kind,
		.queue_depth = given->queue_depth,
		.corrupt_offset = given->corrupt_offset,
		.corrupt_value = given->corrupt_value,
	};
	if (kind != ERROR_CORRUPT || *types == TYPE_CLEAR)
		return 0;
	*types &= TYPE_DATA;
	if (*types == 0 || given->corrupt_value == 0)
		return err_set(err, -EINVAL,
			       "corrupt_data is for reads and writes, and needs a corrupt_value "
			       "from 1 to 255");
	return 0;
}

static void
store(struct error_disk *disk, uint32_t types, const struct injection *injection, uint32_t count)
{
	pthread_mutex_lock(&disk->lock);
	for (int type = 0; type < BDEV_IO_TYPES; type++) {
		if (!(types & 1u << type))
			continue;
		disk->injections[type] = *injection;
		disk->left[type] = count;
	}
	pthread_mutex_unlock(&disk->lock);
}

static void
visit_fail_pending(void *channel_ctx)
{
	end_pending(channel_ctx, -EIO);
}

int
bdev_error_inject(const char *name, const struct bdev_error_injection *given, struct errmsg *err)
{
	struct bdev *bdev = bdev_by_name(name);
	struct error_disk *disk = bdev == NULL ? NULL : bdev_module_ctx(bdev, MODULE);
	struct injection injection;
	uint32_t types = TYPE_CLEAR;
	int rc = parse(given, &types, &injection, err);

	if (rc != 0)
		return rc;
	if (disk == NULL)
		return err_set(err, -ENODEV, "there is no " MODULE " block device %s", name);
	if (types != TYPE_CLEAR) {
		store(disk, types, &injection, given->count);
		return 0;
	}
	store(disk, TYPE_ALL, &injection, 0);
	return bdev_visit_channels(bdev, visit_fail_pending);
}
