/* SPDX-License-Identifier: BSD-3-Clause */
/* Files and block devices through io_uring: the control path. App thread, in coroutines. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev_modules.h"
#include "bdev_uring.h"
#include "coroutine.h"
#include "log.h"
#include "utf8.h"

#define MODULE "uring"

/* ---- description ---- */

/* Clients know two modules for files. */
static bool
is_aio(const struct uring_disk *disk)
{
	return strcmp(disk->method, "bdev_aio_create") == 0;
}

static json_t *
uring_describe(void *bdev_ctx)
{
	struct uring_disk *disk = bdev_ctx;

	return json_pack("{s:{s:s, s:b, s:b, s:b, s:b}}", is_aio(disk) ? "aio" : MODULE, "filename",
			 disk->file.path, "readonly", disk->file.read_only, "block_device",
			 disk->file.block_device, "direct", disk->file.direct, "sqpoll",
			 disk->sqpoll);
}

static json_t *
uring_config(void *bdev_ctx)
{
	struct uring_disk *disk = bdev_ctx;
	const struct bdev_info *info = bdev_get_info(disk->bdev);
	json_t *params =
		json_pack("{s:s, s:s, s:i, s:s}", "name", info->name, "filename", disk->file.path,
			  "block_size", (int)info->block_size, "uuid", info->uuid);

	if (disk->file.read_only)
		json_object_set_new(params, "readonly", json_true());
	if (disk->sqpoll) {
		json_object_set_new(params, "sqpoll", json_true());
		json_object_set_new(params, "sqpoll_idle_ms", json_integer(disk->sqpoll_idle_ms));
	}
	return json_pack("{s:s, s:o}", "method", disk->method, "params", params);
}

/* ---- beginning and end ---- */

static void
disk_free(struct uring_disk *disk)
{
	free(disk->file.path);
	free(disk->method);
	free(disk);
}

static int
close_file(void *arg)
{
	struct uring_disk *disk = arg;

	uring_ring_stop_sqpoll(disk);
	uring_file_close(&disk->file);
	return 0;
}

/* Closing writes back what the page cache has. */
static void
uring_destroy(void *bdev_ctx)
{
	struct uring_disk *disk = bdev_ctx;

	coroutine_blocking(close_file, disk);
	close_file(disk); /* what the work pool could not take */
	disk_free(disk);
}

static char *
absolute_path(const char *path)
{
	char *folder, *absolute = NULL;

	if (path[0] == '/')
		return strdup(path);
	folder = getcwd(NULL, 0);
	if (folder != NULL && asprintf(&absolute, "%s/%s", folder, path) < 0)
		absolute = NULL;
	free(folder);
	return absolute;
}

/* It becomes part of JSON documents. */
static bool
is_utf8(const char *text)
{
	while (*text != '\0') {
		size_t length = utf8_length(text);

		if (length == 0)
			return false;
		text += length;
	}
	return true;
}

static struct uring_disk *
disk_new(const struct bdev_uring_opts *opts)
{
	struct uring_disk *disk = calloc(1, sizeof(*disk));

	if (disk == NULL)
		return NULL;
	disk->file.fd = -1;
	disk->file.path = absolute_path(opts->filename);
	disk->file.read_only = opts->read_only;
	disk->file.block_size = opts->block_size;
	disk->sqpoll = opts->sqpoll;
	disk->sqpoll_idle_ms =
		opts->sqpoll_idle_ms != 0 ? opts->sqpoll_idle_ms : BDEV_URING_SQPOLL_IDLE_MS;
	disk->sqpoll_ring.ring_fd = -1;
	disk->method = strdup(opts->method);
	if (disk->file.path == NULL || disk->method == NULL) {
		disk_free(disk);
		return NULL;
	}
	return disk;
}

/* ---- rescan ---- */

struct sizing {
	const struct uring_file *file;
	uint64_t size;
	struct errmsg *err;
};

static int
get_size(void *arg)
{
	struct sizing *sizing = arg;

	return uring_file_get_size(sizing->file, &sizing->size, sizing->err);
}

static int
uring_rescan(void *ctx, uint64_t *num_blocks, struct errmsg *err)
{
	struct uring_disk *disk = ctx;
	struct sizing sizing = {.file = &disk->file, .err = err};
	int rc = coroutine_blocking(get_size, &sizing);

	*num_blocks = sizing.size / disk->file.block_size;
	return rc;
}

/* ---- creation ---- */

struct opening {
	struct uring_disk *disk;
	struct errmsg *err;
};

static int
open_file(void *arg)
{
	struct opening *opening = arg;
	struct uring_disk *disk = opening->disk;
	int rc = uring_ring_probe();

	if (rc != 0)
		return err_set(opening->err, rc,
			       "io_uring is not available (%s); it takes Linux 5.11 and the sysctl "
			       "kernel.io_uring_disabled=0",
			       strerror(-rc));
	rc = uring_file_open(&disk->file, opening->err);
	if (rc != 0 || !disk->sqpoll)
		return rc;
	rc = uring_ring_start_sqpoll(disk);
	if (rc != 0)
		err_set(opening->err, rc,
			"%s: the kernel cannot poll for requests (%s); it takes Linux 5.11, or "
			"leave sqpoll off",
			disk->file.path, strerror(-rc));
	return rc;
}

static void
describe_file(const struct uring_file *file, struct bdev_info *info)
{
	info->block_size = file->block_size;
	info->physical_block_size = file->physical_block_size;
	info->num_blocks = file->size / file->block_size;
	info->read_only = file->read_only;
	info->write_cache = !file->read_only;
	info->io_types = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH |
			 1u << BDEV_WRITE_ZEROES | 1u << BDEV_RESET;
	if (file->can_discard)
		info->io_types |= 1u << BDEV_DISCARD;
	info->discard_granularity = file->discard_granularity;
}

static int
disk_register(struct uring_disk *disk, struct bdev_info *info, struct errmsg *err)
{
	describe_file(&disk->file, info);
	info->product_name = is_aio(disk) ? "AIO disk" : "URING bdev";
	disk->ops = uring_io_ops;
	disk->ops.module = MODULE;
	disk->ops.destroy = uring_destroy;
	disk->ops.rescan = uring_rescan;
	disk->ops.describe = uring_describe;
	disk->ops.config = uring_config;
	disk->ops.buffer_alignment = disk->file.alignment;
	/* Syncs of a page cache must all be seen as such: see sync_done(). */
	disk->ops.fua = disk->file.direct;
	disk->tracks_syncs = !disk->file.direct && !disk->file.in_memory;
	return bdev_register(info, &disk->ops, disk, &disk->bdev, err);
}

int
bdev_uring_create(const struct bdev_uring_opts *opts, struct bdev **bdev, struct errmsg *err)
{
	struct uring_disk *disk;
	struct opening opening;
	struct bdev_info info;
	int rc;

	rc = bdev_info_init(&info, opts->name, opts->uuid, err);
	if (rc != 0)
		return rc;
	/* Before the file: its lock would be in the way, and a worse answer. */
	if (bdev_by_name(opts->name) != NULL)
		return err_set(err, -EEXIST, "there is a block device %s already", opts->name);
	if (opts->filename == NULL || opts->filename[0] == '\0')
		return err_set(err, -EINVAL,
			       "block device %s: the name of its file must not be empty",
			       opts->name);
	disk = disk_new(opts);
	if (disk == NULL)
		return err_set(err, -ENOMEM, "no memory for block device %s", opts->name);
	if (!is_utf8(disk->file.path)) {
		disk_free(disk);
		return err_set(err, -EINVAL, "block device %s: the path of its file must be UTF-8",
			       opts->name);
	}
	opening = (struct opening){.disk = disk, .err = err};
	rc = coroutine_blocking(open_file, &opening);
	if (rc == 0)
		rc = disk_register(disk, &info, err);
	if (rc != 0) {
		uring_destroy(disk);
		return rc;
	}
	log_notice("bdev %s: %s, %lu bytes, %s I/O%s", info.name, disk->file.path, disk->file.size,
		   disk->file.direct ? "direct" : "buffered",
		   disk->file.read_only ? ", read-only" : "");
	*bdev = disk->bdev;
	return 0;
}

int
bdev_uring_rescan(const char *name, struct errmsg *err)
{
	struct bdev *bdev = bdev_by_name(name);

	if (bdev == NULL || bdev_module_ctx(bdev, MODULE) == NULL)
		return err_set(err, -ENODEV, "there is no " MODULE " block device %s", name);
	return bdev_rescan(name, err);
}
