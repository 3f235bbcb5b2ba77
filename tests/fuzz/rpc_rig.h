/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon behind its JSON-RPC methods, all of it in one OS thread, for fuzz targets: vhost_rig.h
 * and the rest of the rooms, with the parts of lib/app/app.c that methods call. It touches no file
 * but those in its folder: block devices of files get one of two that are there.
 */
#ifndef VHOSTD_FUZZ_RPC_RIG_H
#define VHOSTD_FUZZ_RPC_RIG_H

#include <signal.h>
#include <stdarg.h>

#include "app.h"
#include "app/config.h"
#include "app/internal.h"
#include "bdev/bdev_uring_file.h"
#include "bdev_modules.h"
#include "event.h"
#include "jsonrpc.h"
#include "nvme_fake.h"
#include "rpc.h"
#include "vfio.h"
#include "vhost_rig.h"

#define RIG_FILE_BYTES 65536
#define RIG_IDLES_MAX  300 /* rounds that a method may wait before the daemon is told to stop */

static unsigned int rig_idles;

/* ---- what must not happen outside ---- */

int __wrap_kill(pid_t pid, int number);
int __wrap_usleep(useconds_t us);
int __wrap_fsync(int fd);
int __wrap_uring_file_open(struct uring_file *file, struct errmsg *err);
int __real_uring_file_open(struct uring_file *file, struct errmsg *err);
void __wrap_log_write(enum log_level level, struct log_site *site, const char *format, ...);

int
__wrap_kill(pid_t pid, int number)
{
	require(pid == getpid() && number == SIGKILL);
	return 0;
}

int
__wrap_usleep(useconds_t us)
{
	(void)us;
	return 0;
}

int
__wrap_fsync(int fd)
{
	(void)fd;
	return 0;
}

/* Whatever the name, it is that of one of two files: by its last letter. */
int
__wrap_uring_file_open(struct uring_file *file, struct errmsg *err)
{
	size_t length = strlen(file->path);
	char path[PATH_MAX + 8];

	require(length > 0);
	snprintf(path, sizeof(path), "%s/file%d", rig.folder, file->path[length - 1] & 1);
	free(file->path);
	file->path = strdup(path);
	require(file->path != NULL);
	return __real_uring_file_open(file, err);
}

/* Formatted, as hostile names go into lines, but not printed. */
void
__wrap_log_write(enum log_level level, struct log_site *site, const char *format, ...)
{
	char text[1024];
	va_list args;

	(void)level;
	(void)site;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
}

/* ---- in place of app.c ---- */

static inline json_t *
rig_bdev_config(void)
{
	json_t *array = bdev_nvme_config_json();
	json_t *bdevs = bdev_config_json();

	json_array_extend(array, bdevs);
	json_decref(bdevs);
	return array;
}

static const struct app_subsystem rig_bdev = {.name = "bdev", .config = rig_bdev_config};
static const struct app_subsystem rig_vhost = {.name = "vhost", .config = vhost_config_json};
static const struct app_subsystem *const rig_subsystems[] = {&rig_bdev, &rig_vhost, NULL};
static struct app_opts rig_opts = {.name = "fuzz", .subsystems = rig_subsystems};
static bool rig_stopping;

const struct app_opts *
app_get_opts(void)
{
	return &rig_opts;
}

struct thread *
app_thread(void)
{
	return rig.app;
}

json_t *
app_state_json(void)
{
	return config_state_json();
}

void
app_stop(int rc)
{
	(void)rc;
	rig_stopping = true;
	jsonrpc_set_state(0);
}

bool
app_is_stopping(void)
{
	return rig_stopping;
}

int
app_start_subsystems(struct errmsg *err)
{
	if (jsonrpc_get_state() == RPC_RUNTIME)
		return err_set(err, -EALREADY, "started already");
	jsonrpc_set_state(RPC_RUNTIME);
	return 0;
}

int
app_wait_subsystems(void)
{
	return rig_stopping ? -ECANCELED : 0;
}

void
app_retry_failed(void)
{
	config_want_retry(true);
}

/* ---- beginning and end ---- */

static inline void
rig_make_file(int number)
{
	char path[PATH_MAX + 8];
	int fd;

	snprintf(path, sizeof(path), "%s/file%d", rig.folder, number);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	require(fd >= 0 && ftruncate(fd, RIG_FILE_BYTES) == 0);
	close(fd);
}

static inline void
rig_remove_files(void)
{
	static const char *const names[] = {"file0", "file1", "state.json", "state.json.lock",
					    "state.json.tmp"};
	char path[PATH_MAX + 32];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", rig.folder, names[i]);
		unlink(path);
	}
}

/* Whoever waits for ever waits for the daemon to stop. */
static inline void
rig_count_idles(void)
{
	if (++rig_idles > RIG_IDLES_MAX)
		app_stop(0);
}

static struct bdev_nvme_settings rig_nvme_settings; /* as at the start */

static inline void
rig_start_rpc(void)
{
	rig_start();
	bdev_nvme_get_settings(&rig_nvme_settings);
	vfio_set_root(rig.folder); /* a machine without devices */
	/* Before the folder is removed. */
	atexit(rig_remove_files);
	rig_make_file(0);
	rig_make_file(1);
	rig.on_idle = rig_count_idles;
	for (const struct rpc_method *const *table = rpc_all_methods; *table != NULL; table++) {
		size_t count = 0;

		while ((*table)[count].schema != NULL)
			count++;
		require(jsonrpc_register(*table, count) == 0);
	}
}

static inline void
rig_remove_all(void *arg)
{
	(void)arg;
	scheduler_stop();
	vhost_lib_fini();
	bdev_nvme_fini();
	bdev_nvme_set_settings(&rig_nvme_settings);
	bdev_lib_fini();
	rig_init_vhost(NULL);
}

/* Deletes all disks and controllers. */
static inline void
rig_clear(void)
{
	rig_run(rig.app, rig_remove_all, NULL);
	rig_settle();
	rig_stopping = false;
	rig_idles = 0;
	jsonrpc_set_state(RPC_RUNTIME);
}

#endif
