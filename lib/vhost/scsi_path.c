/* SPDX-License-Identifier: BSD-3-Clause */
/* Each thread's way to the LUNs: where a LUN field leads, and how that changes while guests run. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhost_scsi.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Byte 0 of a LUN field that names a target. */
#define SINGLE_LEVEL 0x01

/* ---- LUN fields ---- */

/*
 * virtio 1.2 §5.6.6.1: 1, the target, and a LUN of one level (SAM-5 §4.7.5) in peripheral device
 * (00b, bus 0) or flat space addressing (01b).
 */
bool
vhost_scsi_decode_lun(const uint8_t bytes[8], struct vhost_scsi_address *address)
{
	uint64_t field;
	uint32_t lun;

	memcpy(&field, bytes, sizeof(field));
	field = be64toh(field);
	lun = field >> 32 & 0xffff;
	address->lun = VHOST_SCSI_NO_LUN;
	if (unlikely(field >> 56 != SINGLE_LEVEL)) {
		address->target = VHOST_SCSI_ANY_TARGET;
		address->lun = SCSI_LUN_REPORT_LUNS;
		return field == (uint64_t)SCSI_LUN_REPORT_LUNS << 48;
	}
	address->target = field >> 48 & 0xff;
	if (unlikely((uint32_t)field != 0))
		return true;
	if (likely(lun >> 8 == 0))
		address->lun = lun;
	else if (lun >> 14 == 1)
		address->lun = lun & 0x3fff;
	else if (lun == SCSI_LUN_REPORT_LUNS)
		address->lun = lun;
	return true;
}

static struct vhost_scsi_paths *
first_paths(const struct vhost_scsi_channel *channel)
{
	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		if (channel->targets[i] != NULL)
			return channel->targets[i];
	}
	return NULL;
}

struct vhost_scsi_path *
vhost_scsi_find_path(const struct vhost_scsi_channel *channel, const uint8_t field[8])
{
	struct vhost_scsi_address address;
	struct vhost_scsi_paths *paths;

	if (unlikely(!vhost_scsi_decode_lun(field, &address)))
		return NULL;
	if (likely(address.target != VHOST_SCSI_ANY_TARGET))
		paths = channel->targets[address.target];
	else
		paths = first_paths(channel);
	if (unlikely(paths == NULL))
		return NULL;
	if (likely(address.lun < paths->lun_count && paths->luns[address.lun].lun != NULL))
		return &paths->luns[address.lun];
	return address.lun == SCSI_LUN_REPORT_LUNS ? &paths->report_luns : &paths->none;
}

/* ---- one path; its thread ---- */

/* See device.h. */
static bool
release_path(struct vhost_scsi_path *path)
{
	return path->in_flight > 0 && path->channel != NULL &&
	       scsi_channel_release_held(path->channel);
}

/* 0, or -EAGAIN while something is in flight, which does not wait for any limit then. */
static int
end_path(struct vhost_scsi_path *path)
{
	path->lun = NULL;
	release_path(path);
	if (path->in_flight > 0)
		return -EAGAIN;
	if (path->channel != NULL)
		scsi_channel_put(path->channel);
	path->channel = NULL;
	return 0;
}

static void
name_path(struct vhost_scsi_path *path, const struct vhost_scsi_target *target, uint32_t number)
{
	path->target = target->target;
	path->target_number = target->number;
	path->lun_number = (uint16_t)number;
}

/* A disk that is gone is no LUN any more. */
static int
start_path(struct vhost_scsi_path *path, struct scsi_lun *lun)
{
	if (lun == NULL)
		return 0;
	path->channel = scsi_channel_get(lun);
	if (path->channel == NULL)
		return errno == ENODEV ? 0 : -errno;
	path->lun = lun;
	return 0;
}

/* ---- those of a target; its thread ---- */

/* Frees them when nothing is in flight. 0 or -EAGAIN. */
static int
end_paths(struct vhost_scsi_paths *paths)
{
	int rc = end_path(&paths->none) | end_path(&paths->report_luns);

	for (uint32_t i = 0; i < paths->lun_count; i++)
		rc |= end_path(&paths->luns[i]);
	if (rc != 0)
		return -EAGAIN;
	LIST_REMOVE(paths, link);
	free(paths);
	return 0;
}

static void
leave(struct vhost_scsi_channel *channel, struct vhost_scsi_paths *paths)
{
	channel->targets[paths->owner->number] = NULL;
	LIST_INSERT_HEAD(&channel->leaving, paths, link);
}

/* Under the lock. */
static int
start_paths(struct vhost_scsi_channel *channel, struct vhost_scsi_target *target)
{
	struct vhost_scsi_paths *paths;
	int rc = 0;

	if (channel->targets[target->number] != NULL)
		return 0;
	paths = calloc(1, sizeof(*paths) + target->lun_count * sizeof(paths->luns[0]));
	if (paths == NULL)
		return -ENOMEM;
	paths->owner = target;
	paths->lun_count = target->lun_count;
	name_path(&paths->none, target, UINT16_MAX);
	name_path(&paths->report_luns, target, SCSI_LUN_REPORT_LUNS);
	paths->report_luns.lun = scsi_lun_well_known();
	channel->targets[target->number] = paths;
	for (uint32_t i = 0; i < target->lun_count && rc == 0; i++) {
		name_path(&paths->luns[i], target, i);
		rc = start_path(&paths->luns[i], target->luns[i].lun);
	}
	return rc;
}

static struct vhost_scsi_paths *
find_leaving(const struct vhost_scsi_channel *channel, const struct vhost_scsi_target *target)
{
	struct vhost_scsi_paths *paths;

	LIST_FOREACH (paths, &channel->leaving, link) {
		if (paths->owner == target)
			return paths;
	}
	return NULL;
}

static bool
release_paths(struct vhost_scsi_paths *paths)
{
	bool found = false;

	for (uint32_t i = 0; i < paths->lun_count; i++)
		found |= release_path(&paths->luns[i]);
	return found;
}

bool
vhost_scsi_release_held(void *ctx)
{
	struct vhost_scsi_channel *channel = ctx;
	struct vhost_scsi_paths *paths;
	bool found = false;

	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		if (channel->targets[i] != NULL)
			found |= release_paths(channel->targets[i]);
	}
	LIST_FOREACH (paths, &channel->leaving, link)
		found |= release_paths(paths);
	return found;
}

/* ---- from the app thread ---- */

int
vhost_scsi_paths_add(struct vhost_thread *thread, void *arg)
{
	struct vhost_scsi_channel *channel = thread->channel;
	struct vhost_scsi_target *target = arg;
	int rc;

	if (channel == NULL)
		return 0;
	pthread_mutex_lock(&target->scsi->lock);
	rc = start_paths(channel, target);
	pthread_mutex_unlock(&target->scsi->lock);
	return rc;
}

int
vhost_scsi_paths_remove(struct vhost_thread *thread, void *arg)
{
	struct vhost_scsi_channel *channel = thread->channel;
	struct vhost_scsi_target *target = arg;
	struct vhost_scsi_paths *paths;

	if (channel == NULL)
		return 0;
	paths = channel->targets[target->number];
	if (paths != NULL && paths->owner == target)
		leave(channel, paths);
	paths = find_leaving(channel, target);
	return paths != NULL ? end_paths(paths) : 0;
}

int
vhost_scsi_path_remove(struct vhost_thread *thread, void *arg)
{
	struct vhost_scsi_channel *channel = thread->channel;
	struct vhost_scsi_lun *lun = arg;
	struct vhost_scsi_paths *paths;

	if (channel == NULL)
		return 0;
	paths = channel->targets[lun->target->number];
	if (paths == NULL || paths->owner != lun->target)
		paths = find_leaving(channel, lun->target);
	return paths != NULL ? end_path(&paths->luns[lun->number]) : 0;
}

/* ---- channels ---- */

int
vhost_scsi_channel_create(void *dev, void *channel_ctx)
{
	struct vhost_scsi_channel *channel = channel_ctx;
	struct vhost_scsi *scsi = dev;
	int rc = 0;

	LIST_INIT(&channel->leaving);
	pthread_mutex_lock(&scsi->lock);
	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS && rc == 0; i++) {
		if (scsi->shown[i] != NULL)
			rc = start_paths(channel, scsi->shown[i]);
	}
	pthread_mutex_unlock(&scsi->lock);
	if (rc != 0)
		vhost_scsi_channel_destroy(dev, channel);
	return rc;
}

/* Nothing is in flight. */
void
vhost_scsi_channel_destroy(void *dev, void *channel_ctx)
{
	struct vhost_scsi_channel *channel = channel_ctx;
	struct vhost_scsi_paths *paths;

	(void)dev;
	for (uint32_t i = 0; i < VHOST_SCSI_TARGETS; i++) {
		if (channel->targets[i] != NULL)
			leave(channel, channel->targets[i]);
	}
	while ((paths = LIST_FIRST(&channel->leaving)) != NULL)
		end_paths(paths);
}
