/* SPDX-License-Identifier: BSD-3-Clause */
/* The control path of block devices: registry, opening, events, the end. App thread only. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bdev_core.h"
#include "log.h"
#include "notify.h"

LOG_FLAG(bdev)

static struct thread *g_app_thread;
static void (*g_on_arrival)(void);
/* In the order of creation. */
static TAILQ_HEAD(bdev_list, bdev) g_bdevs = TAILQ_HEAD_INITIALIZER(g_bdevs);

/* ---- finding ---- */

static struct bdev *
find(const char *name)
{
	struct bdev *bdev;

	TAILQ_FOREACH (bdev, &g_bdevs, link) {
		if (strcmp(bdev->info.name, name) == 0 || strcasecmp(bdev->info.uuid, name) == 0)
			return bdev;
	}
	return NULL;
}

struct bdev *
bdev_by_name(const char *name)
{
	struct bdev *bdev = find(name);

	return bdev == NULL || bdev->removing ? NULL : bdev;
}

struct bdev *
bdev_next(struct bdev *bdev)
{
	bdev = bdev == NULL ? TAILQ_FIRST(&g_bdevs) : TAILQ_NEXT(bdev, link);
	while (bdev != NULL && bdev->removing)
		bdev = TAILQ_NEXT(bdev, link);
	return bdev;
}

const struct bdev_info *
bdev_get_info(const struct bdev *bdev)
{
	return &bdev->info;
}

size_t
bdev_request_size(const struct bdev *bdev)
{
	return (sizeof(struct bdev_request) + bdev->ops->request_ctx_size + 15) & ~(size_t)15;
}

void *
bdev_module_ctx(const struct bdev *bdev, const char *module)
{
	return strcmp(bdev->ops->module, module) == 0 ? bdev->ctx : NULL;
}

json_t *
bdev_driver_specific(const struct bdev *bdev)
{
	return bdev->ops->describe == NULL ? NULL : bdev->ops->describe(bdev->ctx);
}

static void
append_settings(json_t *array, const struct bdev *bdev)
{
	const uint64_t *rates = bdev->rates.per_second;

	if (bdev_has_histogram(bdev))
		json_array_append_new(array, json_pack("{s:s, s:{s:s, s:b}}", "method",
						       "bdev_enable_histogram", "params", "name",
						       bdev->info.name, "enable", true));
	if (atomic_load(&bdev->rates.on))
		json_array_append_new(
			array,
			json_pack("{s:s, s:{s:s, s:I, s:I, s:I, s:I}}", "method",
				  "bdev_set_qos_limit", "params", "name", bdev->info.name,
				  "rw_ios_per_sec", (json_int_t)rates[BDEV_RATE_IOS],
				  "rw_mbytes_per_sec", (json_int_t)(rates[BDEV_RATE_BYTES] >> 20),
				  "r_mbytes_per_sec",
				  (json_int_t)(rates[BDEV_RATE_READ_BYTES] >> 20),
				  "w_mbytes_per_sec",
				  (json_int_t)(rates[BDEV_RATE_WRITE_BYTES] >> 20)));
}

static void
append_all_settings(json_t *array, bool have_entries)
{
	for (struct bdev *bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev)) {
		if ((bdev->ops->config != NULL) == have_entries)
			append_settings(array, bdev);
	}
}

json_t *
bdev_config_json(void)
{
	json_t *array = json_array();

	for (struct bdev *bdev = bdev_next(NULL); bdev != NULL; bdev = bdev_next(bdev)) {
		json_t *entry = bdev->ops->config == NULL ? NULL : bdev->ops->config(bdev->ctx);

		if (entry != NULL)
			json_array_append_new(array, entry);
	}
	/*
	 * After all of them: one entry may make several. Those of disks whose entries are others'
	 * (of controllers) and come before ours are there first at the next start, too: so the
	 * order is the same again.
	 */
	append_all_settings(array, false);
	append_all_settings(array, true);
	return array;
}

/* ---- opening ---- */

/* One that cannot write beside the user, or that the user cannot write beside; or NULL. */
static const struct bdev_desc *
find_rival(const struct bdev *bdev, const struct bdev_desc *except, enum bdev_use use,
	   const char *user)
{
	const struct bdev_desc *desc;

	TAILQ_FOREACH (desc, &bdev->descs, link) {
		if (desc != except && desc->use != BDEV_READS &&
		    (use == BDEV_WRITES_ALONE || desc->alone != 0) && strcmp(desc->user, user) != 0)
			return desc;
	}
	return NULL;
}

/* Of the bdev, and of all that it is made of. */
static int
check_writers(const struct bdev *bdev, enum bdev_use use, const char *user, struct errmsg *err)
{
	const struct bdev_desc *via = NULL, *rival;

	while (bdev != NULL && use != BDEV_READS) {
		rival = find_rival(bdev, via, use, user);
		if (rival != NULL)
			return err_set(err, -EBUSY,
				       "block device %s is in use by %s: it and %s cannot both "
				       "write it",
				       bdev->info.name, rival->user, user);
		via = bdev->lower;
		bdev = via != NULL ? via->bdev : NULL;
	}
	return 0;
}

/* Its users write alone, or don't any more, and so they do through all that it is made of. */
static void
count_alone(struct bdev_desc *desc, uint32_t by)
{
	for (; desc != NULL; desc = desc->bdev->lower)
		desc->alone += by;
}

static int
check_open(const struct bdev *bdev, const char *name, bool write, struct errmsg *err)
{
	if (bdev == NULL)
		return err_set(err, -ENODEV, "there is no block device %s", name);
	if (bdev->removing)
		return err_set(err, -EBUSY, "block device %s is being deleted", name);
	if (write && bdev->info.read_only)
		return err_set(err, -EROFS, "block device %s is read-only", name);
	return 0;
}

int
bdev_open(const char *name, enum bdev_use use, const char *user, bdev_event_fn event, void *ctx,
	  struct bdev_desc **result, struct errmsg *err)
{
	struct bdev *bdev = find(name);
	struct bdev_desc *desc;
	int rc;

	rc = check_open(bdev, name, use != BDEV_READS, err);
	if (rc == 0)
		rc = check_writers(bdev, use, user, err);
	if (rc != 0)
		return rc;
	desc = calloc(1, sizeof(*desc));
	if (desc == NULL || (desc->user = strdup(user)) == NULL) {
		free(desc);
		return err_set(err, -ENOMEM, "block device %s: no memory to open it", name);
	}
	desc->bdev = bdev;
	desc->use = use;
	desc->event = event;
	desc->event_ctx = ctx;
	desc->last_event = bdev->events;
	bdev_get(bdev);
	TAILQ_INSERT_TAIL(&bdev->descs, desc, link);
	count_alone(desc, use == BDEV_WRITES_ALONE);
	*result = desc;
	log_debug(bdev, "bdev %s: opened by %s", name, user);
	return 0;
}

void
bdev_close(struct bdev_desc *desc)
{
	struct bdev *bdev = desc->bdev;

	if (atomic_load(&desc->channels) != 0) {
		log_err("bdev %s: closed by %s with open channels", bdev->info.name, desc->user);
		abort();
	}
	TAILQ_REMOVE(&bdev->descs, desc, link);
	count_alone(desc, -(uint32_t)(desc->use == BDEV_WRITES_ALONE));
	log_debug(bdev, "bdev %s: closed by %s", bdev->info.name, desc->user);
	free(desc->user);
	free(desc);
	bdev_put(bdev);
}

struct bdev *
bdev_desc_bdev(const struct bdev_desc *desc)
{
	return desc->bdev;
}

bool
bdev_is_open(const struct bdev *bdev)
{
	return !TAILQ_EMPTY(&bdev->descs);
}

/* ---- events ---- */

/*
 * The first one that was not told yet: callbacks may open and close any desc, so the list is
 * searched anew after each.
 */
static struct bdev_desc *
next_to_tell(struct bdev *bdev, uint64_t number)
{
	struct bdev_desc *desc;

	TAILQ_FOREACH (desc, &bdev->descs, link) {
		if (desc->last_event < number)
			return desc;
	}
	return NULL;
}

static void
tell_users(struct bdev *bdev, enum bdev_event event)
{
	uint64_t number = ++bdev->events;
	struct bdev_desc *desc;

	while ((desc = next_to_tell(bdev, number)) != NULL) {
		desc->last_event = number;
		if (desc->event != NULL)
			desc->event(desc->event_ctx, event);
	}
}

int
bdev_resize(struct bdev *bdev, uint64_t num_blocks)
{
	uint64_t size;

	if (!bdev_size_is_valid(num_blocks, bdev->info.block_size, &size))
		return -EINVAL;
	if (num_blocks == bdev->info.num_blocks)
		return 0;
	bdev->info.num_blocks = num_blocks;
	bdev->info.size = size;
	atomic_store_explicit(&bdev->size, size, memory_order_relaxed);
	log_notice("bdev %s: its size is %lu bytes now", bdev->info.name, size);
	notify_send(NOTIFY_BDEV_RESIZE, "%s", bdev->info.name);
	bdev_get(bdev);
	tell_users(bdev, BDEV_EVENT_RESIZE);
	bdev_put(bdev);
	return 0;
}

/*
 * A device in use does not shrink: requests in flight, and what users know of it, would be in the
 * way.
 */
static int
take_size(const struct bdev_desc *desc, uint64_t num_blocks, struct errmsg *err)
{
	struct bdev *bdev = desc->bdev;
	bool used_by_others = TAILQ_FIRST(&bdev->descs) != desc || TAILQ_NEXT(desc, link) != NULL;

	if (num_blocks < bdev->info.num_blocks && used_by_others)
		return err_set(err, -EBUSY,
			       "block device %s is in use and keeps its %lu blocks, but only %lu "
			       "are there: enlarge what is behind it, or delete its controllers "
			       "first",
			       bdev->info.name, bdev->info.num_blocks, num_blocks);
	return bdev_resize(bdev, num_blocks);
}

int
bdev_rescan(const char *name, struct errmsg *err)
{
	struct bdev_desc *desc; /* keeps it from being deleted meanwhile */
	uint64_t num_blocks;
	struct bdev *bdev;
	int rc;

	rc = bdev_open(name, BDEV_READS, "its rescan", NULL, NULL, &desc, err);
	if (rc != 0)
		return rc;
	bdev = desc->bdev;
	if (bdev->ops->rescan != NULL) {
		rc = bdev->ops->rescan(bdev->ctx, &num_blocks, err);
		if (rc == 0 && bdev->removing)
			rc = err_set(err, -ENODEV, "block device %s is gone", name);
		if (rc == 0)
			rc = take_size(desc, num_blocks, err);
	}
	bdev_close(desc);
	return rc;
}

/* ---- beginning ---- */

static int
check_unique(const struct bdev_info *info, struct errmsg *err)
{
	if (find(info->name) != NULL)
		return err_set(err, -EEXIST, "there is a block device %s already", info->name);
	if (find(info->uuid) != NULL)
		return err_set(err, -EEXIST, "block device %s: %s has the uuid %s already",
			       info->name, find(info->uuid)->info.name, info->uuid);
	return 0;
}

/* Each piece has one block at least. */
static bool
is_limit(uint64_t bytes, const struct bdev_info *info)
{
	return bytes == 0 || bytes >= info->block_size;
}

static int
check_ops(const struct bdev_info *info, const struct bdev_ops *ops, struct errmsg *err)
{
	uint32_t alignment = ops->buffer_alignment;

	if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > info->block_size ||
	    !is_limit(ops->max_transfer, info) || !is_limit(ops->max_write_zeroes, info) ||
	    !is_limit(info->max_discard_bytes, info) || ops->boundary % info->block_size != 0)
		return err_set(err, -EINVAL,
			       "block device %s: a block size of %u bytes is not possible here",
			       info->name, info->block_size);
	return 0;
}

int
bdev_register(const struct bdev_info *info, const struct bdev_ops *ops, void *ctx,
	      struct bdev **result, struct errmsg *err)
{
	struct bdev *bdev = aligned_alloc(_Alignof(struct bdev), sizeof(*bdev));
	int rc;

	if (bdev == NULL)
		return err_set(err, -ENOMEM, "no memory for a block device");
	*bdev = (struct bdev){0};
	rc = bdev_info_complete(&bdev->info, info, err);
	if (rc == 0)
		rc = check_unique(&bdev->info, err);
	if (rc == 0)
		rc = check_ops(&bdev->info, ops, err);
	if (rc != 0)
		goto out;
	bdev->ops = ops;
	bdev->ctx = ctx;
	atomic_init(&bdev->size, bdev->info.size);
	bdev->users = 1; /* until the end begins */
	TAILQ_INIT(&bdev->descs);
	bdev_ended_init(&bdev->ended);
	bdev_ended_init(&bdev->ended_later);
	rc = bdev_memories_create(ops, ctx, &bdev->memories);
	if (rc == 0)
		rc = io_device_register(bdev, bdev_thread_channel_create,
					bdev_thread_channel_destroy,
					sizeof(struct bdev_thread_channel) + ops->channel_ctx_size,
					bdev->info.name);
	if (rc != 0) {
		err_set(err, rc, "no memory for block device %s", bdev->info.name);
		goto out;
	}
	TAILQ_INSERT_TAIL(&g_bdevs, bdev, link);
	notify_send(NOTIFY_BDEV_REGISTER, "%s", bdev->info.name);
	*result = bdev;
	return 0;
out:
	bdev_memories_put(bdev->memories);
	free(bdev);
	return rc;
}

/* ---- the end ---- */

static void
signal_quiet(void *ctx)
{
	struct bdev *bdev = ctx;

	completion_signal(bdev->quiet, 0);
}

/*
 * The counters of channels that ended are on their way to this thread by message: one more message
 * to itself arrives after all of them.
 */
static void
unregistered(void *dev)
{
	struct bdev *bdev = dev;

	thread_send(g_app_thread, &bdev->quiet_msg, signal_quiet, bdev);
}

void
bdev_get(struct bdev *bdev)
{
	bdev->users++;
}

void
bdev_put(struct bdev *bdev)
{
	if (--bdev->users == 0)
		io_device_unregister(bdev, unregistered);
}

/* A coroutine of its own, so that the end comes also when who asked for it is cancelled. */
static void
end(void *arg)
{
	struct bdev *bdev = arg;
	struct completion *gone = bdev->gone;

	completion_wait(bdev->quiet, WAIT_FOREVER);
	completion_put(bdev->quiet);
	bdev_memories_end(bdev->memories);
	if (bdev->ops->destroy != NULL)
		bdev->ops->destroy(bdev->ctx);
	log_info("bdev %s: deleted", bdev->info.name);
	notify_send(NOTIFY_BDEV_UNREGISTER, "%s", bdev->info.name);
	TAILQ_REMOVE(&g_bdevs, bdev, link);
	free(bdev->ended.tally);
	free(bdev);
	completion_signal(gone, 0);
}

/*
 * gone is signalled when the bdev is freed, which waits for its users. 0 or -ENOMEM, and nothing
 * has changed.
 */
static int
start_end(struct bdev *bdev, struct completion **gone)
{
	int rc = -ENOMEM;

	bdev->quiet = completion_create();
	bdev->gone = completion_create();
	if (bdev->quiet != NULL && bdev->gone != NULL)
		rc = coroutine_start(g_app_thread, "bdev_end", end, bdev);
	if (rc != 0) {
		completion_drop(bdev->quiet);
		completion_drop(bdev->gone);
		return rc;
	}
	*gone = bdev->gone;
	bdev->removing = true;
	return 0;
}

static int
wait_gone(struct completion *gone)
{
	int rc = completion_wait(gone, WAIT_FOREVER);

	completion_put(gone);
	return rc;
}

int
bdev_delete(const char *name, const char *module, struct errmsg *err)
{
	struct bdev *bdev = find(name);
	struct completion *gone;
	int rc;

	if (bdev == NULL || strcmp(bdev->ops->module, module) != 0)
		return err_set(err, -ENODEV, "there is no %s block device %s", module, name);
	if (bdev->removing)
		return err_set(err, -EBUSY, "block device %s is being deleted already", name);
	if (bdev_is_open(bdev))
		return err_set(err, -EBUSY, "block device %s is in use by %s", name,
			       TAILQ_FIRST(&bdev->descs)->user);
	rc = start_end(bdev, &gone);
	if (rc != 0)
		return err_set(err, rc, "block device %s: no memory to delete it", name);
	bdev_put(bdev);
	return wait_gone(gone);
}

void
bdev_remove(struct bdev *bdev)
{
	struct completion *gone;
	int rc;

	if (bdev->removing)
		return;
	bdev_get(bdev); /* others may delete it while this sleeps */
	while ((rc = bdev->removing ? -EBUSY : start_end(bdev, &gone)) == -ENOMEM) {
		log_err("bdev %s: no memory to remove it; trying again", bdev->info.name);
		if (coroutine_sleep(100 * 1000) != 0)
			break;
	}
	if (rc == 0) {
		log_notice("bdev %s: removed", bdev->info.name);
		tell_users(bdev, BDEV_EVENT_REMOVE);
		bdev_rates_end(bdev);
		bdev_put(bdev);
	}
	bdev_put(bdev);
	if (rc == 0)
		wait_gone(gone);
}

/* ---- start and stop ---- */

struct thread *
bdev_app_thread(void)
{
	return g_app_thread;
}

int
bdev_lib_init(void)
{
	g_app_thread = thread_current();
	return g_app_thread == NULL ? -EINVAL : 0;
}

void
bdev_on_arrival(void (*fn)(void))
{
	g_on_arrival = fn;
}

void
bdev_arrived(void)
{
	if (g_on_arrival != NULL)
		g_on_arrival();
}

/* The last one that can be deleted or is on its way; NULL: none. */
static struct bdev *
last_deletable(void)
{
	struct bdev *bdev;

	bdev = TAILQ_LAST(&g_bdevs, bdev_list);
	while (bdev != NULL && bdev_is_open(bdev))
		bdev = TAILQ_PREV(bdev, bdev_list, link);
	return bdev;
}

void
bdev_lib_fini(void)
{
	struct bdev *bdev;

	while ((bdev = last_deletable()) != NULL) {
		int rc = bdev->removing ? coroutine_sleep(1000)
					: bdev_delete(bdev->info.name, bdev->ops->module, NULL);

		if (rc != 0)
			break;
	}
	TAILQ_FOREACH (bdev, &g_bdevs, link)
		log_err("bdev %s: left behind at the end", bdev->info.name);
}
