/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files behind uring bdevs: what is refused and why, locks, configuration, rescan, block devices.
 */
/* links: bdev thread env testlib */
/* ldflags: -Wl,--wrap=usleep,--wrap=ioctl */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "bdev_rig.h"

#define MIB    (1u << 20)
#define NOBODY 65534

extern char **environ;

static char folder[64], path[128];

/* ---- what the tests change in the system ---- */

int __real_usleep(useconds_t us);
int __wrap_usleep(useconds_t us);
int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

/* At the n-th wait for a file in use this process is killed, or this file closed; n = 0: never. */
static _Atomic int waits_to_end;
static _Atomic pid_t killed_later; /* 0: none */
static _Atomic int closed_later;
/* Discards wait; how many there are now, and were at most. */
static _Atomic bool discards_blocked;
static _Atomic int discards, most_discards;

static void
stop_process(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* The waits for a file that stays in use take no time. */
int
__wrap_usleep(useconds_t us)
{
	if (us < 10000)
		return __real_usleep(us);
	if (atomic_load(&waits_to_end) == 0 || atomic_fetch_sub(&waits_to_end, 1) > 1)
		return 0;
	if (atomic_load(&killed_later) != 0)
		stop_process(atomic_exchange(&killed_later, 0));
	else
		close(atomic_load(&closed_later));
	return 0;
}

int
__wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (request == BLKDISCARD) {
		int now = atomic_fetch_add(&discards, 1) + 1;

		if (now > atomic_load(&most_discards))
			atomic_store(&most_discards, now);
		while (atomic_load(&discards_blocked))
			__real_usleep(100);
		atomic_fetch_sub(&discards, 1);
	}
	return __real_ioctl(fd, request, arg);
}

/* ---- set-up ---- */

static int
setup(void **state)
{
	rig_setup(state);
	strcpy(folder, "/var/tmp/test_bdev_file_XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/file", folder);
	return 0;
}

static int
teardown(void **state)
{
	rig_teardown(state);
	unlink(path);
	return rmdir(folder);
}

static void
make_file(uint64_t size)
{
	int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static int
create(const char *name, const char *filename, bool read_only)
{
	struct bdev_uring_opts opts = {.name = name,
				       .filename = filename,
				       .method = "bdev_aio_create",
				       .read_only = read_only};

	return rig_create_uring(&opts, NULL);
}

static bool
says(const char *text)
{
	return strstr(rig_err.text, text) != NULL;
}

/* ---- what is refused ---- */

static void
test_missing(void **state)
{
	(void)state;
	assert_int_equal(create("a", path, false), -ENOENT);
	assert_true(says(path) && says("does not exist"));
	assert_int_equal(create("a", "", false), -EINVAL);
	assert_int_equal(create("a", NULL, false), -EINVAL);
	assert_int_equal(create("a/b", path, false), -EINVAL);
	assert_null(bdev_next(NULL));
}

static void
test_folder(void **state)
{
	(void)state;
	assert_int_equal(create("a", folder, false), -EISDIR);
	assert_true(says(folder) && says("folder"));
	assert_int_equal(create("a", folder, true), -EISDIR);
}

/* Opening it would wait for a writer. */
static void
test_fifo(void **state)
{
	(void)state;
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(create("a", path, false), -EINVAL);
	assert_true(says(path) && says("FIFO"));
	assert_int_equal(create("a", path, true), -EINVAL);
}

static void
test_character_device(void **state)
{
	(void)state;
	assert_int_equal(create("a", "/dev/zero", false), -EINVAL);
	assert_true(says("character device"));
}

static void
test_sizes(void **state)
{
	struct bdev_uring_opts opts = {
		.name = "a", .filename = path, .method = "bdev_uring_create"};

	(void)state;
	make_file(0);
	assert_int_equal(create("a", path, false), -EINVAL);
	assert_true(says("empty"));
	make_file(1000);
	assert_int_equal(create("a", path, false), -EINVAL);
	assert_true(says("1000") && says("512"));
	make_file(5 * 512);
	opts.block_size = 4096;
	assert_int_equal(rig_create_uring(&opts, NULL), -EINVAL);
	assert_true(says("2560") && says("4096"));
	make_file(MIB);
	for (size_t i = 0; i < 4; i++) {
		opts.block_size = (uint32_t[]){1, 256, 131072, 768}[i];
		assert_int_equal(rig_create_uring(&opts, NULL), -EINVAL);
	}
	opts.block_size = 4096;
	assert_int_equal(rig_create_uring(&opts, NULL), 0);
	assert_int_equal(bdev_get_info(bdev_by_name("a"))->num_blocks, 256);
}

static void
test_permission(void **state)
{
	bool root = geteuid() == 0;

	(void)state;
	make_file(MIB);
	chmod(path, 0400);
	if (root) { /* whom nothing stops: become somebody else */
		assert_int_equal(chown(folder, NOBODY, NOBODY), 0);
		assert_int_equal(chown(path, NOBODY, NOBODY), 0);
		assert_int_equal(seteuid(NOBODY), 0);
	}
	assert_int_equal(create("a", path, false), -EACCES);
	assert_true(says(path) && says("owner or mode"));
	assert_int_equal(create("a", path, true), 0);
	if (root)
		assert_int_equal(seteuid(0), 0);
}

static void
test_twice(void **state)
{
	(void)state;
	make_file(MIB);
	assert_int_equal(create("a", path, false), 0);
	assert_int_equal(create("a", path, false), -EEXIST);
	assert_int_equal(create("b", path, false), -EAGAIN);
	assert_true(says("locked"));
	/* The lock ends with the bdev, at once. */
	for (int i = 0; i < 20; i++) {
		assert_int_equal(rig_delete("a", "uring"), 0);
		assert_int_equal(create("a", path, false), 0);
	}
}

/* ---- locks ---- */

static void
test_readers(void **state)
{
	(void)state;
	make_file(MIB);
	assert_int_equal(create("a", path, true), 0);
	assert_int_equal(create("b", path, true), 0);
	assert_int_equal(create("c", path, false), -EAGAIN);
	assert_int_equal(rig_delete("a", "uring"), 0);
	assert_int_equal(create("c", path, false), -EAGAIN);
	assert_int_equal(rig_delete("b", "uring"), 0);
	assert_int_equal(create("c", path, false), 0);
	assert_int_equal(create("a", path, true), -EAGAIN);
}

/* Another process that holds a lock on one byte. */
static pid_t
start_locker(short type, off_t byte)
{
	int ready[2];
	pid_t pid;
	char answer;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct flock lock = {
			.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
		int fd = open(path, O_RDWR | O_CLOEXEC);

		answer = fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) == 0;
		if (write(ready[1], &answer, 1) == 1)
			pause();
		_exit(0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &answer, 1), 1);
	close(ready[0]);
	assert_int_equal(answer, 1);
	return pid;
}

/* Its lock goes a while later than the process that was killed. */
static void
test_killed_before(void **state)
{
	static const short types[] = {F_RDLCK, F_WRLCK};

	(void)state;
	make_file(MIB);
	for (int i = 0; i < 2; i++) {
		atomic_store(&killed_later, start_locker(types[i], 101));
		atomic_store(&waits_to_end, 3);
		assert_int_equal(create("a", path, i == 1), 0);
		assert_int_equal(atomic_load(&waits_to_end), 0);
		assert_int_equal(rig_delete("a", "uring"), 0);
	}
}

/* The bytes that QEMU locks, and who may have the file open beside it. */
static void
test_locks_of_others(void **state)
{
	static const struct {
		short type;
		off_t byte;
		int writer, reader;
	} rows[] = {
		{F_RDLCK, 100, -EAGAIN, 0},       /* reads */
		{F_RDLCK, 200, -EAGAIN, -EAGAIN}, /* shares no reading */
		{F_RDLCK, 101, -EAGAIN, -EAGAIN}, /* writes */
		{F_RDLCK, 201, -EAGAIN, 0},       /* shares no writing */
		{F_RDLCK, 102, -EAGAIN, 0},       /* writes what is there already */
		{F_RDLCK, 103, -EAGAIN, -EAGAIN}, /* resizes */
		{F_RDLCK, 203, -EAGAIN, 0},       /* shares no resizing */
		{F_WRLCK, 201, -EAGAIN, -EAGAIN},
	};

	(void)state;
	make_file(MIB);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		pid_t pid = start_locker(rows[i].type, rows[i].byte);

		assert_int_equal(create("w", path, false), rows[i].writer);
		assert_int_equal(create("r", path, true), rows[i].reader);
		stop_process(pid);
		if (rows[i].reader == 0)
			assert_int_equal(rig_delete("r", "uring"), 0);
		assert_int_equal(create("w", path, false), 0);
		assert_int_equal(rig_delete("w", "uring"), 0);
	}
}

/* Exit status of qemu-io with one command on the file, or -1 if there is no qemu-io. */
static int
qemu_io(bool read_only, const char *command)
{
	char *argv[] = {"qemu-io",       "-f", "raw", read_only ? "-r" : "-n", "-c",
			(char *)command, path, NULL};
	posix_spawn_file_actions_t actions;
	int status;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	status = posix_spawnp(&pid, "qemu-io", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (status != 0)
		return -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) && WEXITSTATUS(status) != 127 ? WEXITSTATUS(status) : -1;
}

static void
test_qemu(void **state)
{
	(void)state;
	make_file(MIB);
	if (qemu_io(false, "write 0 4k") != 0) {
		print_message("qemu-io is not installed\n");
		skip();
	}
	assert_int_equal(create("w", path, false), 0);
	assert_int_equal(qemu_io(false, "write 0 4k"), 1);
	assert_int_equal(qemu_io(true, "read 0 4k"), 1);
	assert_int_equal(rig_delete("w", "uring"), 0);
	assert_int_equal(create("r", path, true), 0);
	assert_int_equal(qemu_io(false, "write 0 4k"), 1);
	assert_int_equal(qemu_io(true, "read 0 4k"), 0);
}

/* QEMU has it open first. */
static void
test_qemu_first(void **state)
{
	static const struct {
		char *mode;
		int writer, reader;
	} rows[] = {{"-n", -EAGAIN, -EAGAIN}, {"-r", -EAGAIN, 0}};

	(void)state;
	make_file(MIB);
	if (qemu_io(false, "write 0 4k") != 0) {
		print_message("qemu-io is not installed\n");
		skip();
	}
	for (size_t i = 0; i < 2; i++) {
		/* It ends when its input does, and prints its prompt when the file is open. */
		char *argv[] = {"qemu-io", "-f", "raw", rows[i].mode, path, NULL};
		posix_spawn_file_actions_t actions;
		int in[2], out[2];
		char prompt;
		pid_t pid;

		assert_int_equal(pipe2(in, O_CLOEXEC), 0);
		assert_int_equal(pipe2(out, O_CLOEXEC), 0);
		posix_spawn_file_actions_init(&actions);
		posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
		posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
		assert_int_equal(posix_spawnp(&pid, "qemu-io", &actions, NULL, argv, environ), 0);
		posix_spawn_file_actions_destroy(&actions);
		close(out[1]);
		assert_int_equal(read(out[0], &prompt, 1), 1);
		assert_int_equal(create("w", path, false), rows[i].writer);
		assert_int_equal(create("r", path, true), rows[i].reader);
		if (rows[i].reader == 0)
			assert_int_equal(rig_delete("r", "uring"), 0);
		stop_process(pid);
		close(in[0]);
		close(in[1]);
		close(out[0]);
	}
}

/* ---- configuration ---- */

static void
test_config(void **state)
{
	static const char uuid[] = "01234567-89ab-cdef-0123-456789abcdef";
	struct bdev_uring_opts opts = {.name = "a",
				       .filename = path,
				       .uuid = uuid,
				       .method = "bdev_aio_create",
				       .block_size = 4096};
	json_t *config, *expected;

	(void)state;
	make_file(MIB);
	for (int read_only = 0; read_only < 2; read_only++) {
		opts.read_only = read_only;
		assert_int_equal(rig_create_uring(&opts, NULL), 0);
		expected = json_pack("[{s:s, s:{s:s, s:s, s:i, s:s}}]", "method", "bdev_aio_create",
				     "params", "name", "a", "filename", path, "block_size", 4096,
				     "uuid", uuid);
		if (read_only)
			json_object_set_new(json_object_get(json_array_get(expected, 0), "params"),
					    "readonly", json_true());
		config = bdev_config_json();
		assert_true(json_equal(config, expected));
		json_decref(config);
		json_decref(expected);
		assert_int_equal(rig_delete("a", "uring"), 0);
	}
}

static void
test_description(void **state)
{
	static const struct {
		const char *method, *key, *product;
	} rows[] = {{"bdev_aio_create", "aio", "AIO disk"},
		    {"bdev_uring_create", "uring", "URING bdev"}};

	(void)state;
	make_file(MIB);
	for (size_t i = 0; i < 2; i++) {
		struct bdev_uring_opts opts = {
			.name = "a", .filename = path, .method = rows[i].method};
		json_t *description, *filename;

		assert_int_equal(rig_create_uring(&opts, NULL), 0);
		description = bdev_driver_specific(bdev_by_name("a"));
		filename = json_object_get(json_object_get(description, rows[i].key), "filename");
		assert_string_equal(json_string_value(filename), path);
		json_decref(description);
		assert_string_equal(bdev_get_info(bdev_by_name("a"))->product_name,
				    rows[i].product);
		assert_int_equal(rig_delete("a", "uring"), 0);
	}
}

/* What is not the default is saved. */
static void
test_sqpoll_config(void **state)
{
	struct bdev_uring_opts opts = {.name = "a",
				       .filename = path,
				       .method = "bdev_uring_create",
				       .sqpoll = true,
				       .sqpoll_idle_ms = 7};
	json_t *config, *params, *description;

	(void)state;
	make_file(MIB);
	assert_int_equal(rig_create_uring(&opts, NULL), 0);
	config = bdev_config_json();
	params = json_object_get(json_array_get(config, 0), "params");
	assert_true(json_is_true(json_object_get(params, "sqpoll")));
	assert_int_equal(json_integer_value(json_object_get(params, "sqpoll_idle_ms")), 7);
	json_decref(config);
	description = bdev_driver_specific(bdev_by_name("a"));
	assert_true(json_is_true(json_object_get(json_object_get(description, "uring"), "sqpoll")));
	json_decref(description);
	assert_int_equal(rig_delete("a", "uring"), 0);
	opts.sqpoll = false;
	assert_int_equal(rig_create_uring(&opts, NULL), 0);
	config = bdev_config_json();
	params = json_object_get(json_array_get(config, 0), "params");
	assert_null(json_object_get(params, "sqpoll"));
	assert_null(json_object_get(params, "sqpoll_idle_ms"));
	json_decref(config);
}

static void
test_relative(void **state)
{
	char *old = getcwd(NULL, 0);
	json_t *config, *params;

	(void)state;
	make_file(MIB);
	assert_int_equal(chdir(folder), 0);
	assert_int_equal(create("a", "file", false), 0);
	assert_int_equal(chdir(old), 0);
	free(old);
	config = bdev_config_json();
	params = json_object_get(json_array_get(config, 0), "params");
	assert_string_equal(json_string_value(json_object_get(params, "filename")), path);
	json_decref(config);
	assert_int_equal(create("b", "\xff", false), -EINVAL);
}

/* ---- rescan ---- */

struct rescan {
	const char *name;
	int rc;
};

static void
rescan_run(void *arg)
{
	struct rescan *rescan = arg;

	rescan->rc = bdev_uring_rescan(rescan->name, &rig_err);
}

static int
rescan(const char *name)
{
	struct rescan call = {.name = name};

	rig_run(rescan_run, &call);
	return call.rc;
}

static void
test_rescan(void **state)
{
	const struct bdev_info *info;
	struct bdev_desc *desc;

	(void)state;
	assert_int_equal(rescan("a"), -ENODEV);
	make_file(MIB);
	assert_int_equal(create("a", path, false), 0);
	info = bdev_get_info(bdev_by_name("a"));
	make_file(2 * MIB);
	assert_int_equal(info->size, MIB);
	assert_int_equal(rescan("a"), 0);
	assert_int_equal(info->size, 2 * MIB);
	desc = rig_open("a", false);
	make_file(MIB / 2); /* under the feet of who uses it */
	assert_int_equal(rescan("a"), -EBUSY);
	assert_non_null(strstr(rig_err.text, "block device a is in use"));
	assert_int_equal(info->size, 2 * MIB);
	make_file(3 * MIB);
	assert_int_equal(rescan("a"), 0);
	assert_int_equal(info->size, 3 * MIB);
	rig_close(desc);
	make_file(MIB / 2);
	assert_int_equal(rescan("a"), 0);
	assert_int_equal(info->size, MIB / 2);
	make_file(MIB / 2 + 1);
	assert_int_equal(rescan("a"), -EINVAL);
	make_file(0);
	assert_int_equal(rescan("a"), -EINVAL);
	assert_int_equal(info->size, MIB / 2);
	assert_false(bdev_is_open(bdev_by_name("a")));
}

/* ---- block devices ---- */

/*
 * A loop device on the file, which goes away when it is closed for the last time. -1: not possible
 * here.
 */
static int
open_loop(uint32_t block_size, uint32_t flags, char device[32])
{
	struct loop_config config = {.block_size = block_size,
				     .info.lo_flags = LO_FLAGS_AUTOCLEAR | flags};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file, loop = -1, number;

	if (control < 0)
		return -1;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0)
		return -1;
	snprintf(device, 32, "/dev/loop%d", number);
	file = open(path, O_RDWR | O_CLOEXEC);
	loop = open(device, O_RDWR | O_CLOEXEC);
	config.fd = (uint32_t)file;
	if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) != 0) {
		close(loop);
		loop = -1;
	}
	close(file);
	return loop;
}

static void
check_zero(const char *device, uint64_t offset, size_t length, bool zero)
{
	uint8_t *bytes = malloc(length);
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	size_t sum = 0;

	assert_int_equal(pread(fd, bytes, length, (off_t)offset), length);
	for (size_t i = 0; i < length; i++)
		sum += bytes[i];
	assert_true(zero ? sum == 0 : sum != 0);
	close(fd);
	free(bytes);
}

static void
use_block_device(const char *device)
{
	struct bdev_desc *desc = rig_open("a", true);
	struct bdev_channel *channel = rig_channel(desc, rig_io[0]);
	struct rig_request *request = rig_request_new(bdev_desc_bdev(desc));
	uint8_t *data = aligned_alloc(4096, MIB);

	memset(data, 0x5a, MIB);
	rig_request_set(request, BDEV_WRITE, 0, data, MIB);
	assert_int_equal(rig_do(channel, rig_io[0], request), 0);
	rig_request_set(request, BDEV_FLUSH, 0, NULL, 0);
	assert_int_equal(rig_do(channel, rig_io[0], request), 0);
	rig_request_set(request, BDEV_DISCARD, 0, NULL, 64 * 1024);
	assert_int_equal(rig_do(channel, rig_io[0], request), 0);
	for (uint8_t flags = 0; flags <= BDEV_UNMAP; flags += BDEV_UNMAP) {
		rig_request_set(request, BDEV_WRITE_ZEROES, 64 * 1024 * (1 + flags), NULL,
				64 * 1024);
		request->rq.flags = flags;
		assert_int_equal(rig_do(channel, rig_io[0], request), 0);
		check_zero(device, 64 * 1024 * (1 + flags), 64 * 1024, true);
	}
	check_zero(device, 0, 64 * 1024, true); /* a loop device discards by punching a hole */
	check_zero(device, 512 * 1024, 4096, false);
	free(data);
	free(request);
	rig_channel_put(channel, rig_io[0]);
	rig_close(desc);
}

static void
test_block_device(void **state)
{
	struct bdev_uring_opts opts = {.name = "a", .method = "bdev_aio_create", .block_size = 512};
	char device[32];
	int loop;

	(void)state;
	make_file(MIB);
	loop = open_loop(4096, 0, device);
	if (loop < 0) {
		print_message("no loop devices here\n");
		skip();
	}
	opts.filename = device;
	assert_int_equal(rig_create_uring(&opts, NULL), -EINVAL);
	assert_true(says("4096"));
	assert_int_equal(create("a", device, false), 0);
	close(loop);
	assert_int_equal(bdev_get_info(bdev_by_name("a"))->block_size, 4096);
	assert_true(bdev_get_info(bdev_by_name("a"))->size == MIB);
	assert_int_equal(create("b", device, false), -EBUSY); /* exclusive */
	use_block_device(device);
	assert_int_equal(rig_delete("a", "uring"), 0);
}

/* The kernel is not yet done with a killed daemon's. */
static void
test_busy_device(void **state)
{
	char device[32];
	int loop;

	(void)state;
	make_file(MIB);
	loop = open_loop(512, 0, device);
	if (loop < 0) {
		print_message("no loop devices here\n");
		skip();
	}
	atomic_store(&closed_later, open(device, O_RDWR | O_EXCL | O_CLOEXEC));
	assert_true(atomic_load(&closed_later) >= 0);
	assert_int_equal(create("a", device, false), -EBUSY);
	atomic_store(&waits_to_end, 3);
	assert_int_equal(create("a", device, false), 0);
	assert_int_equal(rig_delete("a", "uring"), 0);
	close(loop);
}

/* A driver that lets it be opened for writing all the same. */
static void
test_read_only_device(void **state)
{
	char device[32];
	int loop;

	(void)state;
	make_file(MIB);
	loop = open_loop(512, LO_FLAGS_READ_ONLY, device);
	if (loop < 0) {
		print_message("no loop devices here\n");
		skip();
	}
	assert_int_equal(create("a", device, false), -EROFS);
	assert_true(says(device) && says("read-only"));
	assert_int_equal(create("a", device, true), 0);
	assert_int_equal(rig_delete("a", "uring"), 0);
	close(loop);
}

/* They block, and leave workers to all the others. */
static void
discard_many(void)
{
	enum { COUNT = 64 };
	struct bdev_desc *desc = rig_open("a", true);
	struct bdev_channel *channel = rig_channel(desc, rig_io[0]);
	struct rig_request *requests[COUNT];
	struct work_pool_stats stats;

	atomic_store(&discards_blocked, true);
	for (unsigned int i = 0; i < COUNT; i++) {
		requests[i] = rig_request_new(bdev_desc_bdev(desc));
		rig_request_set(requests[i], BDEV_DISCARD, 4096 * i, NULL, 4096);
		rig_submit(channel, rig_io[0], requests[i]);
	}
	work_pool_get_stats(&stats);
	atomic_store(&discards_blocked, false);
	for (unsigned int i = 0; i < COUNT; i++) {
		rig_wait(&requests[i]->finished);
		assert_int_equal(requests[i]->status, 0);
		assert_int_equal(requests[i]->finishes, 1);
		free(requests[i]);
	}
	assert_int_equal(stats.busy + stats.queued, 4);
	assert_true(atomic_load(&most_discards) <= 4);
	rig_channel_put(channel, rig_io[0]);
	rig_close(desc);
}

static void
test_many_discards(void **state)
{
	char device[32];
	int loop;

	(void)state;
	make_file(MIB);
	loop = open_loop(512, 0, device);
	if (loop < 0) {
		print_message("no loop devices here\n");
		skip();
	}
	assert_int_equal(create("a", device, false), 0);
	close(loop);
	discard_many();
	assert_int_equal(rig_delete("a", "uring"), 0);
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_missing),       test(test_folder),
		test(test_fifo),          test(test_character_device),
		test(test_sizes),         test(test_permission),
		test(test_twice),         test(test_readers),
		test(test_killed_before), test(test_locks_of_others),
		test(test_qemu),          test(test_qemu_first),
		test(test_config),        test(test_description),
		test(test_sqpoll_config), test(test_relative),
		test(test_rescan),        test(test_block_device),
		test(test_busy_device),   test(test_read_only_device),
		test(test_many_discards),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
