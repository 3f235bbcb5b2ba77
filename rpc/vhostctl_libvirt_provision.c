/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * provision: a file, a block device on it, a controller on that, a disk of a domain. What has been
 * made is taken back, last first, when a later step fails or somebody interrupts.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost.h"
#include "vhostctl_libvirt.h"

#define DEFAULT_DIR "/var/lib/vhostd"
#define BLOCK_SIZE  512

struct disk {
	const struct vhostctl_opts *opts;
	const struct libvirt_args *args;
	int64_t size; /* bytes */
	char *file;   /* absolute; NULL: not made */
	struct libvirt_domain domain;
	json_t *ctrlr;
	char *target;
};

/* "10G": binary units, and whole blocks. Bytes, or -EINVAL. */
static int64_t
parse_size(const char *text)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	int shift = 0;
	int64_t count;

	errno = 0;
	count = strtoll(text, &end, 10);
	unit = *end != '\0' ? strchr(units, *end) : NULL;
	if (unit != NULL) {
		shift = 10 * (int)(unit - units + 1);
		end++;
	}
	if (errno != 0 || end == text || *end != '\0' || *text < '0' || *text > '9' ||
	    count > INT64_MAX >> shift || count == 0 || (count << shift) % BLOCK_SIZE != 0)
		return -EINVAL;
	return count << shift;
}

static enum vhostctl_status
read_args(struct disk *disk, struct errmsg *err)
{
	const struct libvirt_args *args = disk->args;

	if (args->size == NULL || args->domain == NULL || args->ctrlr == NULL)
		return err_set(err, STATUS_USAGE,
			       "provision needs --size, --domain and --name; see vhostctl --help");
	disk->size = parse_size(args->size);
	if (disk->size < 0)
		return err_set(
			err, STATUS_USAGE,
			"--size: '%s' is not a number of bytes, in blocks of %d, or one with "
			"K, M, G or T behind it",
			args->size, BLOCK_SIZE);
	if (strchr(args->ctrlr, '/') != NULL || args->ctrlr[0] == '.' ||
	    strlen(args->ctrlr) > VHOST_NAME_MAX)
		return err_set(err, STATUS_USAGE,
			       "--name: '%s' has a '/', begins with '.' or is longer than %d bytes",
			       args->ctrlr, VHOST_NAME_MAX);
	return STATUS_OK;
}

/* ---- steps, each with what takes it back ---- */

/* Calls a method whose answer says nothing; takes params. */
static enum vhostctl_status
call(const struct disk *disk, const char *method, json_t *params, struct errmsg *err)
{
	enum vhostctl_status status;
	json_t *result;

	if (params == NULL)
		return err_set(err, STATUS_FAILED, "%s: a name is not UTF-8, or no memory", method);
	status = ctl_call(disk->opts, method, params, &result, err);
	json_decref(params);
	json_decref(result);
	return status;
}

/* That it is there, before anything is made. */
static enum vhostctl_status
look_at_daemon(struct disk *disk, struct errmsg *err)
{
	return call(disk, "spdk_get_version", json_object(), err);
}

static enum vhostctl_status
look_at_domain(struct disk *disk, struct errmsg *err)
{
	enum vhostctl_status status = libvirt_open(disk->args, &disk->domain, err);
	bool shared;

	if (status != STATUS_OK)
		return status;
	shared = (disk->domain.live == NULL || libvirt_memory_is_shared(disk->domain.live)) &&
		 (disk->domain.config == NULL || libvirt_memory_is_shared(disk->domain.config));
	if (!shared)
		return err_set(err, STATUS_FAILED,
			       "domain %s: its memory is not shared; see vhostctl libvirt check %s",
			       disk->domain.name, disk->domain.name);
	return STATUS_OK;
}

/* The daemon's user is the owner of its socket: nobody else may connect there. */
static int
fill_file(const struct disk *disk, int fd)
{
	struct stat daemon;

	if (geteuid() == 0 && stat(disk->opts->socket, &daemon) == 0 &&
	    fchown(fd, daemon.st_uid, daemon.st_gid) != 0)
		return -errno;
	return ftruncate(fd, disk->size) == 0 && fsync(fd) == 0 ? 0 : -errno;
}

/* The daemon's state is about to name the file: after a power cut it must be there. */
static int
sync_folder(const char *folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return -errno;
	rc = fsync(fd) == 0 ? 0 : -errno;
	close(fd);
	return rc;
}

static enum vhostctl_status
make_file(struct disk *disk, struct errmsg *err)
{
	const char *dir = disk->args->dir != NULL ? disk->args->dir : DEFAULT_DIR;
	char folder[PATH_MAX];
	char *file;
	int fd, rc;

	if (realpath(dir, folder) == NULL)
		return err_set(err, STATUS_FAILED, "%s: %s (--dir says where images are)", dir,
			       strerror(errno));
	if (asprintf(&file, "%s/%s.img", folder, disk->args->ctrlr) < 0)
		return err_set(err, STATUS_FAILED, "%s: %s", dir, strerror(ENOMEM));
	fd = open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		err_set(err, STATUS_FAILED, "%s: %s", file, strerror(errno));
		free(file);
		return STATUS_FAILED;
	}
	disk->file = file;
	rc = fill_file(disk, fd);
	close(fd);
	if (rc == 0)
		rc = sync_folder(folder);
	if (rc != 0)
		return err_set(err, STATUS_FAILED, "%s: %s", file, strerror(-rc));
	return STATUS_OK;
}

static enum vhostctl_status
remove_file(struct disk *disk, struct errmsg *err)
{
	if (disk->file != NULL && unlink(disk->file) != 0)
		return err_set(err, STATUS_FAILED, "%s: %s", disk->file, strerror(errno));
	return STATUS_OK;
}

/*
 * Sets *object to what a method lists under our name (a new reference; NULL: nothing). Fails when
 * the daemon does not say.
 */
static enum vhostctl_status
look_up(const struct disk *disk, const char *method, const char *key, json_t **object,
	struct errmsg *err)
{
	json_t *all, *one;
	enum vhostctl_status status = ctl_call(disk->opts, method, NULL, &all, err);
	size_t i;

	*object = NULL;
	json_array_foreach (all, i, one) {
		const char *name = json_string_value(json_object_get(one, key));

		if (name != NULL && strcmp(name, disk->args->ctrlr) == 0 && *object == NULL)
			*object = json_incref(one);
	}
	json_decref(all);
	return status;
}

static enum vhostctl_status
make_bdev(struct disk *disk, struct errmsg *err)
{
	return call(disk, "bdev_uring_create",
		    json_pack("{s:s, s:s, s:i}", "name", disk->args->ctrlr, "filename", disk->file,
			      "block_size", BLOCK_SIZE),
		    err);
}

/*
 * Also after a call without an answer, which may have had its effect: what has our name is ours
 * when our file is in it.
 */
static enum vhostctl_status
remove_bdev(struct disk *disk, struct errmsg *err)
{
	const char *file = NULL;
	json_t *bdev;
	enum vhostctl_status status = look_up(disk, "bdev_get_bdevs", "name", &bdev, err);

	json_unpack(bdev, "{s:{s:{s:s}}}", "driver_specific", "uring", "filename", &file);
	if (file != NULL && strcmp(file, disk->file) == 0)
		status = call(disk, "bdev_uring_delete",
			      json_pack("{s:s}", "name", disk->args->ctrlr), err);
	json_decref(bdev);
	return status;
}

static enum vhostctl_status
make_ctrlr(struct disk *disk, struct errmsg *err)
{
	const char *name = disk->args->ctrlr;
	enum vhostctl_status status =
		call(disk, "vhost_create_blk_controller",
		     json_pack("{s:s, s:s}", "ctrlr", name, "dev_name", name), err);

	if (status == STATUS_OK)
		status = libvirt_find_ctrlr(disk->opts, name, &disk->ctrlr, err);
	return status;
}

/* One of our name on our block device. */
static enum vhostctl_status
remove_ctrlr(struct disk *disk, struct errmsg *err)
{
	const char *name = disk->args->ctrlr, *bdev = NULL;
	json_t *ctrlr;
	enum vhostctl_status status = look_up(disk, "vhost_get_controllers", "ctrlr", &ctrlr, err);

	json_unpack(ctrlr, "{s:{s:{s:s}}}", "backend_specific", "block", "bdev", &bdev);
	if (bdev != NULL && strcmp(bdev, name) == 0)
		status = call(disk, "vhost_delete_controller", json_pack("{s:s}", "ctrlr", name),
			      err);
	json_decref(ctrlr);
	return status;
}

static enum vhostctl_status
attach(struct disk *disk, struct errmsg *err)
{
	/* Nobody knows then whether the domain has the disk, or gets it yet. */
	libvirt_limit(disk->opts, "; everything may be left behind");
	return libvirt_attach(disk->args, &disk->domain, disk->ctrlr, disk->domain.config != NULL,
			      &disk->target, err);
}

/* libvirt may have done a part of it, if it came to that. */
static enum vhostctl_status
undo_attach(struct disk *disk, struct errmsg *err)
{
	const char *socket = libvirt_socket_of(disk->ctrlr);
	enum vhostctl_status status;
	json_t *live, *config;

	/* What the domain has on that socket is not ours. */
	if (disk->target == NULL)
		return STATUS_OK;
	libvirt_close(&disk->domain);
	status = libvirt_open(disk->args, &disk->domain, err);
	live = libvirt_disks(disk->domain.live);
	config = libvirt_disks(disk->domain.config);
	if (libvirt_disk_on(live, socket) != NULL || libvirt_disk_on(config, socket) != NULL)
		status = libvirt_detach(&disk->domain, socket, disk->opts->timeout_s, err);
	json_decref(live);
	json_decref(config);
	return status;
}

static const struct {
	enum vhostctl_status (*make)(struct disk *disk, struct errmsg *err);
	enum vhostctl_status (*undo)(struct disk *disk, struct errmsg *err);
	const char *left; /* when it cannot be undone */
} steps[] = {
	{look_at_daemon, NULL, NULL},
	{look_at_domain, NULL, NULL},
	{make_file, remove_file, "the file"},
	{make_bdev, remove_bdev, "the file and the block device"},
	{make_ctrlr, remove_ctrlr, "the file, the block device and the controller"},
	{attach, undo_attach, "everything"},
};

#define STEP_COUNT (int)(sizeof(steps) / sizeof(steps[0]))

/* Takes back step `last`, as far as it got, and those before it. Adds to err what is left. */
static void
roll_back(struct disk *disk, int last, struct errmsg *err)
{
	struct errmsg reason = *err, problem = {0};

	for (int i = last; i >= 0; i--) {
		if (steps[i].undo == NULL || steps[i].undo(disk, &problem) == STATUS_OK)
			continue;
		err_set(err, STATUS_FAILED, "%.240s; %s may be left behind: %.160s", reason.text,
			steps[i].left, problem.text);
		return;
	}
}

/* ---- all of it ---- */

/*
 * What ends us, and waits once there is something to take back: each step is done or undone. An
 * answer that does not come holds it up for --timeout.
 */
static void
fill_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGINT);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGHUP);
}

static bool
is_interrupted(const sigset_t *signals)
{
	sigset_t pending;

	sigpending(&pending);
	for (int number = 1; number < NSIG; number++) {
		if (sigismember(signals, number) == 1 && sigismember(&pending, number) == 1)
			return true;
	}
	return false;
}

static void
print_disk(const struct disk *disk)
{
	const char *name = disk->args->ctrlr;
	json_t *object;

	if (!disk->opts->json) {
		printf("%s has %s (%s, %" PRId64 " bytes) as %s%s\n", disk->domain.name, name,
		       disk->file, disk->size, disk->target,
		       disk->domain.live == NULL ? " from its next start on" : "");
		return;
	}
	object = json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:s}", "domain", disk->domain.name,
			   "ctrlr", name, "bdev", name, "file", disk->file, "size",
			   (json_int_t)disk->size, "target", disk->target, "socket",
			   libvirt_socket_of(disk->ctrlr));
	ctl_print_json(object);
	json_decref(object);
}

enum vhostctl_status
libvirt_provision(const struct vhostctl_opts *opts, const struct libvirt_args *args,
		  struct errmsg *err)
{
	struct disk disk = {.opts = opts, .args = args};
	enum vhostctl_status status = read_args(&disk, err);
	sigset_t signals;

	if (status != STATUS_OK)
		return status;
	fill_signals(&signals);
	for (int i = 0; status == STATUS_OK && i < STEP_COUNT; i++) {
		if (steps[i].undo != NULL)
			sigprocmask(SIG_BLOCK, &signals, NULL);
		status = steps[i].make(&disk, err);
		if (status == STATUS_OK && is_interrupted(&signals))
			status = err_set(err, STATUS_FAILED, "provision: interrupted");
		if (status != STATUS_OK)
			roll_back(&disk, i, err);
	}
	if (status == STATUS_OK)
		print_disk(&disk);
	libvirt_close(&disk.domain);
	json_decref(disk.ctrlr);
	free(disk.target);
	free(disk.file);
	return status;
}
