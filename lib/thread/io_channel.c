/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io_devices and each thread's channels to them. A channel is found in its thread's hash table
 * without a lock; the registry lock is taken when channels come and go, and by walks.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "thread.h"

#define DEVICE_NAME_MAX 64

struct io_device {
	/* set once */
	void *dev;
	int (*create)(void *dev, void *channel_ctx);
	void (*destroy)(void *dev, void *channel_ctx);
	size_t ctx_size;
	char name[DEVICE_NAME_MAX];

	atomic_bool unregistered; /* set under the registry lock */

	/* under the registry lock */
	RB_ENTRY(io_device) node;
	LIST_HEAD(, io_channel) channels;
	unsigned int users; /* channels, those being made too, and walks */

	/* the thread that unregistered it */
	void (*done)(void *dev);
	struct thread *done_thread; /* NULL: nobody wants to know */
	struct thread_msg msg;
};

struct io_channel {
	/* set once */
	struct io_device *device;
	struct thread *thread;

	/* its thread only */
	LIST_ENTRY(io_channel) bucket_link;
	uint32_t refs;
	bool destroy_sent;
	struct thread_msg destroy_msg;

	/* under the registry lock */
	LIST_ENTRY(io_channel) device_link;

	/* whoever holds it, on its thread */
	_Alignas(64) char ctx[];
};

static int
compare_devices(const struct io_device *a, const struct io_device *b)
{
	return (uintptr_t)a->dev < (uintptr_t)b->dev ? -1 : (uintptr_t)a->dev > (uintptr_t)b->dev;
}
RB_PROTOTYPE(device_registry, io_device, node, compare_devices)
RB_GENERATE(device_registry, io_device, node, compare_devices)

/* ---- devices ---- */

int
io_device_register(void *dev, int (*create)(void *dev, void *channel_ctx),
		   void (*destroy)(void *dev, void *channel_ctx), size_t ctx_size, const char *name)
{
	struct io_device *device = calloc(1, sizeof(*device));
	struct io_device *other;

	if (device == NULL)
		return -ENOMEM;
	device->dev = dev;
	device->create = create;
	device->destroy = destroy;
	device->ctx_size = ctx_size;
	snprintf(device->name, sizeof(device->name), "%s", name);
	LIST_INIT(&device->channels);
	pthread_mutex_lock(&thread_lib.registry_lock);
	other = RB_INSERT(device_registry, &thread_lib.devices, device);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	if (other != NULL) {
		free(device);
		return -EEXIST;
	}
	return 0;
}

static void
device_done(void *ctx)
{
	struct io_device *device = ctx;

	device->done_thread->returns_due--;
	device->done(device->dev);
	free(device);
}

/* One user less. With the last one an unregistered device goes. Takes the registry lock. */
static void
device_release(struct io_device *device)
{
	bool last;

	pthread_mutex_lock(&thread_lib.registry_lock);
	last = --device->users == 0 && device->unregistered;
	if (last)
		RB_REMOVE(device_registry, &thread_lib.devices, device);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	if (!last)
		return;
	if (device->done_thread != NULL)
		thread_send(device->done_thread, &device->msg, device_done, device);
	else
		free(device);
}

/*
 * Counts the caller as a user, or NULL when dev is not registered or going away. Takes the registry
 * lock.
 */
static struct io_device *
device_use(void *dev)
{
	struct io_device *device;

	pthread_mutex_lock(&thread_lib.registry_lock);
	device = RB_FIND(device_registry, &thread_lib.devices, &(struct io_device){.dev = dev});
	if (device != NULL && device->unregistered)
		device = NULL;
	if (device != NULL)
		device->users++;
	pthread_mutex_unlock(&thread_lib.registry_lock);
	return device;
}

void
io_device_unregister(void *dev, void (*done)(void *dev))
{
	struct thread *thread = thread_current();
	struct io_device *device = device_use(dev);

	assert(thread != NULL);
	assert(device != NULL);
	device->done = done;
	if (done != NULL) {
		device->done_thread = thread;
		thread->returns_due++;
	}
	pthread_mutex_lock(&thread_lib.registry_lock);
	device->unregistered = true;
	pthread_mutex_unlock(&thread_lib.registry_lock);
	device_release(device);
}

/* ---- channels ---- */

static struct channel_bucket *
bucket_of(struct thread *thread, const void *dev)
{
	static_assert(CHANNEL_BUCKETS == 64, "six bits of the product");
	return &thread->channels[(uint64_t)(uintptr_t)dev * 0x9e3779b97f4a7c15 >> 58];
}

static struct io_channel *
channel_find(struct thread *thread, const void *dev)
{
	struct io_channel *channel;

	LIST_FOREACH (channel, bucket_of(thread, dev), bucket_link) {
		if (channel->device->dev == dev)
			return channel;
	}
	return NULL;
}

static struct io_channel *
channel_create(struct thread *thread, struct io_device *device, int *rc)
{
	size_t align = alignof(struct io_channel);
	size_t size = (sizeof(struct io_channel) + device->ctx_size + align - 1) & ~(align - 1);
	struct io_channel *channel = aligned_alloc(align, size);

	if (channel == NULL) {
		*rc = -ENOMEM;
		return NULL;
	}
	memset(channel, 0, size);
	channel->device = device;
	channel->thread = thread;
	channel->refs = 1;
	*rc = device->create(device->dev, channel->ctx);
	if (*rc != 0) {
		free(channel);
		return NULL;
	}
	LIST_INSERT_HEAD(bucket_of(thread, device->dev), channel, bucket_link);
	thread->channel_count++;
	pthread_mutex_lock(&thread_lib.registry_lock);
	LIST_INSERT_HEAD(&device->channels, channel, device_link);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	return channel;
}

static void
channel_destroy(void *ctx)
{
	struct io_channel *channel = ctx;
	struct io_device *device = channel->device;

	channel->destroy_sent = false;
	if (channel->refs > 0) /* used again since the message was sent */
		return;
	LIST_REMOVE(channel, bucket_link);
	pthread_mutex_lock(&thread_lib.registry_lock);
	LIST_REMOVE(channel, device_link);
	pthread_mutex_unlock(&thread_lib.registry_lock);
	device->destroy(device->dev, channel->ctx);
	channel->thread->channel_count--;
	free(channel);
	device_release(device);
}

struct io_channel *
io_channel_get(void *dev)
{
	struct thread *thread = thread_current();
	struct io_channel *channel;
	struct io_device *device;
	int rc;

	assert(thread != NULL);
	if (thread_is_exiting(thread)) {
		errno = ECANCELED;
		return NULL;
	}
	channel = channel_find(thread, dev);
	if (channel != NULL && !channel->device->unregistered) {
		channel->refs++;
		return channel;
	}
	device = channel == NULL ? device_use(dev) : NULL;
	if (device == NULL) {
		errno = ENODEV;
		return NULL;
	}
	channel = channel_create(thread, device, &rc);
	if (channel == NULL) {
		device_release(device);
		errno = -rc;
	}
	return channel;
}

void
io_channel_put(struct io_channel *channel)
{
	assert(channel->thread == thread_current());
	assert(channel->refs > 0);
	if (--channel->refs > 0 || channel->destroy_sent)
		return;
	channel->destroy_sent = true;
	thread_send(channel->thread, &channel->destroy_msg, channel_destroy, channel);
}

void *
io_channel_ctx(struct io_channel *channel)
{
	return channel->ctx;
}

struct thread *
io_channel_thread(const struct io_channel *channel)
{
	return channel->thread;
}

void
thread_for_each_channel(struct thread *thread,
			void (*fn)(void *ctx, const struct io_channel_info *info), void *ctx)
{
	for (size_t i = 0; i < CHANNEL_BUCKETS; i++) {
		struct io_channel *channel;

		LIST_FOREACH (channel, &thread->channels[i], bucket_link) {
			fn(ctx, &(struct io_channel_info){
					.name = channel->device->name,
					.refs = channel->refs,
				});
		}
	}
}

/* ---- for_each_channel ---- */

struct io_channel_iter {
	/* set once */
	struct io_device *device;
	struct thread *origin;
	io_channel_visit_fn visit;
	void *ctx;
	void (*done)(void *ctx, int status);

	/* the thread that the walk is on */
	struct io_channel *channel; /* being visited, referenced */
	uint64_t last_id;           /* of the thread visited last */
	int status;
	struct thread_msg msg;
};

static void iter_next(struct io_channel_iter *iter);

static void
iter_visit(void *ctx)
{
	struct io_channel_iter *iter = ctx;
	struct io_channel *channel = channel_find(thread_current(), iter->device->dev);

	if (channel == NULL) { /* destroyed while the message was under way */
		iter_next(iter);
		return;
	}
	channel->refs++;
	iter->channel = channel;
	iter->visit(iter);
}

static void
iter_done(void *ctx)
{
	struct io_channel_iter *iter = ctx;

	iter->origin->returns_due--;
	if (iter->done != NULL)
		iter->done(iter->ctx, iter->status);
	device_release(iter->device);
	free(iter);
}

/*
 * Threads are visited in the order of their ids: one that gets a channel behind the walk is not
 * visited.
 */
static void
iter_next(struct io_channel_iter *iter)
{
	struct thread *next = NULL;
	struct io_channel *channel;

	pthread_mutex_lock(&thread_lib.registry_lock);
	LIST_FOREACH (channel, &iter->device->channels, device_link) {
		if (channel->thread->id > iter->last_id &&
		    (next == NULL || channel->thread->id < next->id))
			next = channel->thread;
	}
	if (next != NULL && iter->status >= 0) {
		iter->last_id = next->id;
		thread_send(next, &iter->msg, iter_visit, iter);
		next = NULL;
		iter = NULL;
	}
	pthread_mutex_unlock(&thread_lib.registry_lock);
	if (iter != NULL)
		thread_send(iter->origin, &iter->msg, iter_done, iter);
}

int
for_each_channel(void *dev, io_channel_visit_fn visit, void *ctx,
		 void (*done)(void *ctx, int status))
{
	struct thread *origin = thread_current();
	struct io_channel_iter *iter;
	struct io_device *device;

	assert(origin != NULL);
	iter = calloc(1, sizeof(*iter));
	if (iter == NULL)
		return -ENOMEM;
	device = device_use(dev);
	if (device == NULL) {
		free(iter);
		return -ENODEV;
	}
	iter->device = device;
	iter->origin = origin;
	iter->visit = visit;
	iter->ctx = ctx;
	iter->done = done;
	origin->returns_due++;
	iter_next(iter);
	return 0;
}

void
for_each_channel_continue(struct io_channel_iter *iter, int status)
{
	struct io_channel *channel = iter->channel;

	iter->status = status;
	iter->channel = NULL;
	io_channel_put(channel);
	iter_next(iter);
}

struct io_channel *
io_channel_iter_channel(const struct io_channel_iter *iter)
{
	return iter->channel;
}

void *
io_channel_iter_ctx(const struct io_channel_iter *iter)
{
	return iter->ctx;
}
