/* SPDX-License-Identifier: BSD-3-Clause */
/* links: path vhost scsi reservation bdev nvme event client thread virtio env */
/* ldflags: -Xlinker --wrap=accept -Xlinker --wrap=recvmsg */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign */
/*
 * What one I/O costs the daemon, from the avail ring to the used ring, as exactly as it can be
 * told: a reactor runs everything on one OS thread, the front-end too, as a poller that is not
 * counted. So each iteration finds all the requests of the queue depth, nothing depends on the
 * caches of other cores, and two runs count the same.
 *
 *     path_bench                             ticks of the time stamp counter
 *     valgrind --tool=callgrind --fair-sched=yes --collect-atstart=no path_bench
 *                                            instructions: one dump for each case
 *     path_bench --cpus 0,1 --queues 4       a reactor and a front-end on each of two CPUs
 *
 * bench/path.py does the second and shows the instructions by stage. The sockets, messages and
 * features are those of the daemon: a case that it does not offer is reported as not available.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bdev_modules.h"
#include "env.h"
#include "event.h"
#include "log.h"
#include "path/allocations.h"
#include "path/nvme_device.h"
#include "path/path.h"
#include "work.h"

#define MAX_IDLE    256
#define MAX_DRIVERS 16

/* -1: both, or all */
static struct {
	unsigned int ios; /* per driver */
	unsigned int idle;
	unsigned int queues;
	struct cpumask cpus;
	int depth;
	int packed;
	int write;
	int event_idx;
	int inflight;
	bool scsi;
	bool direct;
	bool json;
} options = {
	.ios = 20000,
	.queues = 1,
	.depth = -1,
	.packed = -1,
	.write = -1,
	.event_idx = -1,
	.inflight = -1,
};

/* The one that is within the bench. */
const struct nvme_transport_ops *const nvme_transports[] = {&path_nvme_transport, NULL};

/* What the guest's disk is on. */
static const struct device {
	const char *option;
	const char *bdev; /* its name */
	void (*create)(struct errmsg *err);
	bool nvme;
} * device;

static struct path_front_end front_end, idle[MAX_IDLE];
static char folder[VHOST_SOCKET_PATH_MAX - 32]; /* of the sockets */

/* ---- cases; the coroutine on the app thread ---- */

/*
 * One for each reactor; with one reactor it is the app thread, so that nothing is there but the
 * daemon.
 */
static struct path_driver drivers[MAX_DRIVERS];
static unsigned int driver_count;

static void
name_case(char *name, size_t size, const struct path_shape *shape, unsigned int depth, bool write)
{
	int length = snprintf(name, size, "%s%s-%s-qd%u-%s%s%s%s", options.scsi ? "scsi-" : "",
			      device->option, shape->packed ? "packed" : "split", depth,
			      write ? "write" : "read", shape->event_idx ? "-event_idx" : "",
			      shape->inflight ? "-inflight" : "", shape->direct ? "-direct" : "");

	if (options.idle > 0)
		length += snprintf(name + length, size - (size_t)length, "-idle%u", options.idle);
	if (options.queues > 1)
		snprintf(name + length, size - (size_t)length, "-queues%u", options.queues);
}

static void
report(const char *name, const struct path_shape *shape, unsigned int depth, bool write)
{
	double ticks = 0, rate = 0;
	uint64_t ios = 0, iterations = 0, allocations = 0;

	for (unsigned int i = 0; i < driver_count; i++) {
		const struct path_driver *driver = &drivers[i];

		ios += driver->ios;
		iterations += driver->iterations;
		allocations += driver->allocations;
		ticks += (double)driver->ticks;
		rate += (double)driver->ios * (double)env_ticks_hz() / (double)driver->elapsed;
	}
	if (options.json)
		printf("{\"name\": \"%s\", \"device\": \"%s\", \"ring\": \"%s\", \"qd\": %u, "
		       "\"rw\": \"%s\", \"event_idx\": %s, \"inflight\": %s, \"direct\": %s, "
		       "\"idle\": %u, \"queues\": %u, \"reactors\": %u, \"ios\": %lu, "
		       "\"iterations\": %lu, \"iops\": %.0f, \"cycles_per_io\": %.1f, "
		       "\"allocations\": %lu}\n",
		       name, device->option, shape->packed ? "packed" : "split", depth,
		       write ? "write" : "read", shape->event_idx ? "true" : "false",
		       shape->inflight ? "true" : "false", shape->direct ? "true" : "false",
		       options.idle, options.queues, driver_count, ios, iterations, rate,
		       ticks / (double)ios, allocations);
	else
		printf("%-44s %8.1f cycles per I/O, %5.3f iterations; with the front-end %10.0f "
		       "IOPS\n",
		       name, ticks / (double)ios, (double)iterations / (double)ios, rate);
	fflush(stdout);
	if (path_allocates(allocations, ios))
		path_fail("there are allocations within requests", -EINVAL);
}

static void
run_case(const struct path_shape *shape, unsigned int depth, bool write)
{
	char name[96];

	name_case(name, sizeof(name), shape, depth, write);
	for (unsigned int i = 0; i < driver_count; i++)
		drivers[i] = (struct path_driver){
			.front = &front_end,
			.thread = drivers[i].thread,
			.first = i,
			.stride = driver_count,
			.depth = depth,
			.write = write,
			.nvme = device->nvme,
			.wanted = options.ios,
			.name = name,
			.random = i,
		};
	path_drive(drivers, driver_count);
	report(name, shape, depth, write);
}

/* ---- each driver on the reactor of the thread that serves its queues ---- */

#define BUSY_THREAD "vhost.busy" /* the first; the others are .1, .2 and so on */

static uint32_t busy_cores[MAX_DRIVERS];

static void
note_core(void *ctx)
{
	const char *name = thread_name(thread_current());
	size_t length = strlen(BUSY_THREAD);
	unsigned int index;

	(void)ctx;
	if (strncmp(name, BUSY_THREAD, length) != 0)
		return;
	index = name[length] == '.' ? (unsigned int)atoi(name + length + 1) : 0;
	if (index < MAX_DRIVERS)
		busy_cores[index] = thread_core(thread_current());
}

static void
cores_noted(void *ctx)
{
	struct completion *done = ctx;

	completion_signal(done, 0);
}

static int
go_to_core(void *core)
{
	return thread_move(*(uint32_t *)core);
}

static void
place_drivers(void)
{
	struct completion *done = completion_create();

	if (done == NULL || for_each_thread(note_core, done, cores_noted) != 0)
		path_fail("threads", -ENOMEM);
	completion_wait(done, WAIT_FOREVER);
	completion_put(done);
	for (unsigned int i = 0; i < driver_count; i++)
		if (thread_call(drivers[i].thread, go_to_core, &busy_cores[i]) != 0)
			path_fail("front-end's core", -EINVAL);
}

static bool
chosen(int option, int value)
{
	return option < 0 || option == value;
}

/* Every depth and direction that is asked for, on one connection. */
static void
run_shape(const struct path_shape *shape)
{
	static const int depths[] = {1, 32, 128};
	int rc;

	front_end.shape = shape;
	front_end.queue_count = options.queues;
	rc = coroutine_blocking(path_front_end_open, &front_end);
	if (rc == -ENOTSUP) {
		fprintf(stderr, "path_bench: not available: %s%s%s\n",
			shape->packed ? "packed" : "split", shape->event_idx ? " event_idx" : "",
			shape->inflight ? " inflight" : "");
		return;
	}
	if (rc < 0)
		path_fail("front-end", rc);
	if (driver_count > 1)
		place_drivers();
	for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++)
		for (int write = 0; write <= 1; write++)
			if (chosen(options.depth, depths[i]) && chosen(options.write, write))
				run_case(shape, (unsigned int)depths[i], write);
	rc = coroutine_blocking(path_front_end_close, &front_end);
	if (rc < 0)
		path_fail("front-end's end", rc);
}

static void
run_shapes(void)
{
	for (int i = 0; i < 8; i++) {
		struct path_shape shape = {.packed = i & 4,
					   .event_idx = i & 1,
					   .inflight = i & 2,
					   .direct = options.direct};

		if (chosen(options.packed, shape.packed) &&
		    chosen(options.event_idx, shape.event_idx) &&
		    chosen(options.inflight, shape.inflight))
			run_shape(&shape);
	}
}

/* ---- the daemon ---- */

static void
create_null(struct errmsg *err)
{
	const struct bdev_null_opts opts = {
		.name = "null", .num_blocks = PATH_DISK_BYTES / 512, .block_size = 512};
	struct bdev *bdev;
	int rc = bdev_null_create(&opts, &bdev, err);

	if (rc != 0)
		path_fail(err->text, rc);
}

static void
create_malloc(struct errmsg *err)
{
	const struct bdev_malloc_opts opts = {
		.name = "malloc", .num_blocks = PATH_DISK_BYTES / 512, .block_size = 512};
	struct bdev *bdev;
	int rc = bdev_malloc_create(&opts, &bdev, err);

	if (rc != 0)
		path_fail(err->text, rc);
}

static void
create_nvme(struct errmsg *err)
{
	const struct bdev_nvme_opts opts = {
		.name = "nvme", .trtype = "PCIe", .traddr = PATH_NVME_ADDRESS};

	(void)err;
	path_nvme_attach(&opts);
}

static const struct device devices[] = {
	{"null", "null", create_null, false},
	{"malloc", "malloc", create_malloc, false},
	{"nvme", "nvmen1", create_nvme, true},
};

static bool
choose_device(const char *option)
{
	device = NULL;
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		if (strcmp(devices[i].option, option) == 0)
			device = &devices[i];
	}
	return device != NULL;
}

static int
create_blk(const char *name, struct errmsg *err)
{
	const struct vhost_blk_opts opts = {
		.name = name, .bdev = device->bdev, .packed_ring = true};

	return vhost_blk_create(&opts, err);
}

static int
create_scsi(const char *name, struct errmsg *err)
{
	const struct vhost_scsi_opts opts = {.name = name};
	int rc = vhost_scsi_create(&opts, err);

	return rc == 0 ? vhost_scsi_add_target(name, 0, NULL, &device->bdev, 1, err) : rc;
}

static void
create_controller(struct path_front_end *front, const char *name, struct errmsg *err)
{
	int rc = options.scsi ? create_scsi(name, err) : create_blk(name, err);

	front->scsi = options.scsi;
	if (rc != 0)
		path_fail(err->text, rc);
	snprintf(front->path, sizeof(front->path), "%s/%s", folder, name);
}

static void
connect_idle(struct errmsg *err)
{
	static const struct path_shape plain;
	char name[32];
	int rc;

	for (unsigned int i = 0; i < options.idle; i++) {
		snprintf(name, sizeof(name), "idle%u", i);
		create_controller(&idle[i], name, err);
		idle[i].shape = &plain;
		rc = coroutine_blocking(path_front_end_open, &idle[i]);
		if (rc < 0)
			path_fail("idle front-end", rc);
	}
}

static void
disconnect_idle(void)
{
	for (unsigned int i = 0; i < options.idle; i++)
		coroutine_blocking(path_front_end_close, &idle[i]);
}

static void
exit_thread(void *ctx)
{
	thread_exit(ctx);
}

static void
create_drivers(void)
{
	driver_count = env_core_count();
	if (driver_count > MAX_DRIVERS || driver_count > options.queues)
		path_fail("more reactors than queues", -EINVAL);
	if (driver_count == 1) {
		drivers[0].thread = thread_current();
		return;
	}
	for (unsigned int i = 0; i < driver_count; i++) {
		drivers[i].thread = thread_create("front_end", NULL);
		if (drivers[i].thread == NULL)
			path_fail("front-end's thread", -errno);
	}
}

static void
end_drivers(void)
{
	for (unsigned int i = 0; i < driver_count && driver_count > 1; i++)
		if (thread_send_msg(drivers[i].thread, exit_thread, drivers[i].thread) != 0)
			path_fail("message", -ENOMEM);
}

static void
bench_main(void *arg)
{
	struct errmsg err = {""};
	int rc;

	(void)arg;
	rc = bdev_lib_init();
	if (rc == 0)
		rc = vhost_lib_init(folder, &err);
	if (rc != 0)
		path_fail(err.text, rc);
	device->create(&err);
	create_controller(&front_end, "busy", &err);
	connect_idle(&err);
	create_drivers();
	run_shapes();
	end_drivers();
	disconnect_idle();
	if (device->nvme && path_nvme_copied() != 0)
		path_fail("data was copied on its way to the NVMe device", -EINVAL);
	vhost_lib_fini();
	bdev_nvme_fini();
	bdev_lib_fini();
	reactors_stop();
}

static int
run_reactor(void)
{
	struct env_opts env = {.name = "path_bench", .cpus = options.cpus};
	struct rlimit files;
	struct errmsg err = {""};
	struct thread *app;
	int rc;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	log_set_print_level(LOG_LEVEL_WARNING);
	rc = env_init(&env, &err);
	if (rc == 0)
		rc = work_pool_start(NULL);
	if (rc == 0)
		rc = reactors_init(REACTOR_POLL, &err);
	if (rc != 0)
		path_fail(err.text, rc);
	app = thread_create("app", NULL);
	if (app == NULL || coroutine_start(app, "bench", bench_main, NULL) != 0)
		path_fail("app thread", -ENOMEM);
	rc = reactors_run();
	reactors_fini();
	work_pool_stop();
	env_fini();
	return rc;
}

/* Also where a failure has left sockets in it. */
static void
remove_folder(void)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL)
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	rmdir(folder);
}

/* ---- command line ---- */

static void
usage(FILE *to)
{
	fputs("usage: path_bench [options]; a case for each combination that they leave open\n"
	      "  --ring split|packed\n"
	      "  --qd 1|32|128\n"
	      "  --rw read|write\n"
	      "  --event-idx on|off\n"
	      "  --inflight on|off\n"
	      "  --device null|malloc|nvme (null)\n"
	      "  --scsi                virtio-scsi controllers instead of virtio-blk ones\n"
	      "  --direct              chains of three descriptors instead of indirect tables\n"
	      "  --cpus LIST           a reactor on each of these CPUs (the first one)\n"
	      "  --queues N            of the busy controller (1)\n"
	      "  --idle N              controllers with an idle front-end beside the busy one (0)\n"
	      "  --ios N               I/Os counted in each case, by each reactor (20000)\n"
	      "  --json                a line of JSON for each case\n",
	      to);
}

/* 0 or 1; -1 with an error's message for another word. */
static bool
set_choice(int *option, const char *const words[2], const char *text)
{
	for (int i = 0; i < 2; i++) {
		if (strcmp(text, words[i]) == 0) {
			*option = i;
			return true;
		}
	}
	return false;
}

static bool
set_option(int option, const char *text)
{
	static const char *const rings[] = {"split", "packed"};
	static const char *const directions[] = {"read", "write"};
	static const char *const switches[] = {"off", "on"};

	switch (option) {
	case 'r':
		return set_choice(&options.packed, rings, text);
	case 'w':
		return set_choice(&options.write, directions, text);
	case 'e':
		return set_choice(&options.event_idx, switches, text);
	case 'f':
		return set_choice(&options.inflight, switches, text);
	case 'q':
		options.depth = atoi(text);
		return options.depth == 1 || options.depth == 32 || options.depth == 128;
	case 'd':
		return choose_device(text);
	case 'i':
		options.idle = (unsigned int)atoi(text);
		return options.idle <= MAX_IDLE;
	case 'c':
		return cpumask_parse(&options.cpus, text) == 0;
	case 'Q':
		options.queues = (unsigned int)atoi(text);
		return options.queues >= 1 && options.queues <= PATH_MAX_QUEUES;
	case 'n':
		options.ios = (unsigned int)atoi(text);
		return options.ios >= 10 && options.ios <= 1u << 30;
	case 'D':
		options.direct = true;
		return true;
	case 's':
		options.scsi = true;
		return true;
	case 'j':
		options.json = true;
		return true;
	}
	return false;
}

int
main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{"ring", required_argument, NULL, 'r'},
		{"qd", required_argument, NULL, 'q'},
		{"rw", required_argument, NULL, 'w'},
		{"event-idx", required_argument, NULL, 'e'},
		{"inflight", required_argument, NULL, 'f'},
		{"device", required_argument, NULL, 'd'},
		{"cpus", required_argument, NULL, 'c'},
		{"queues", required_argument, NULL, 'Q'},
		{"idle", required_argument, NULL, 'i'},
		{"ios", required_argument, NULL, 'n'},
		{"direct", no_argument, NULL, 'D'},
		{"scsi", no_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *tmpdir = getenv("TMPDIR");
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == 'h') {
			usage(stdout);
			return 0;
		}
		if (!set_option(option, optarg)) {
			usage(stderr);
			return 2;
		}
	}
	if (device == NULL)
		choose_device("null");
	snprintf(folder, sizeof(folder), "%s/path_bench-XXXXXX", tmpdir != NULL ? tmpdir : "/tmp");
	if (mkdtemp(folder) == NULL)
		path_fail(folder, -errno);
	atexit(remove_folder);
	return run_reactor() != 0;
}
