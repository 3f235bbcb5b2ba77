/* SPDX-License-Identifier: BSD-3-Clause */
/* links: vhost bdev event client thread virtio env */
/* ldflags: -Xlinker --wrap=accept */
/*
 * What one I/O costs the daemon, from the avail ring to the used ring, as exactly as it can be
 * told: one reactor runs everything on one OS thread, the front-end too, as a poller that is not
 * counted. So each iteration finds all the requests of the queue depth, nothing depends on the
 * caches of other cores, and two runs count the same.
 *
 *     path_bench                             ticks of the time stamp counter
 *     valgrind --tool=callgrind --collect-atstart=no path_bench
 *                                            instructions: one dump for each case
 *
 * bench/path.py does the latter and shows the instructions by stage. The sockets, messages and
 * features are those of the daemon: a case that it does not offer is reported as not available.
 */
#include <errno.h>
#include <getopt.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <x86intrin.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name) (void)(name)
#endif

#include "bdev_modules.h"
#include "client.h"
#include "coroutine.h"
#include "env.h"
#include "event.h"
#include "log.h"
#include "vhost.h"
#include "work.h"

#define BLOCK        4096u
#define DISK_BYTES   (64u << 20)
#define MAX_DEPTH    128
#define MAX_IDLE     256
#define QUEUE_SIZE   512 /* three descriptors for each of MAX_DEPTH */
#define GUEST_MEMORY (16u << 20)
#define IDLE_MEMORY  (1u << 20)
#define GUEST_GPA    0x100000000ULL
#define USER_ADDR    0x7f0000000000ULL
#define BIT(n)       (1ULL << (n))

/* ---- what is measured ---- */

static struct {
	unsigned int ios; /* per case */
	unsigned int idle;
	int depth; /* -1: all of them; and so on */
	int packed;
	int write;
	int event_idx;
	int inflight;
	const char *device;
	bool direct;
	bool json;
} options = {
	.ios = 20000,
	.depth = -1,
	.packed = -1,
	.write = -1,
	.event_idx = -1,
	.inflight = -1,
	.device = "null",
};

/* What a front-end negotiates. */
struct shape {
	bool packed;
	bool event_idx;
	bool inflight;
};

enum phase {
	WARM_UP,
	COUNTED,
	DRAINED,
};

/* One case, while it runs; app thread only. */
struct run {
	const struct shape *shape;
	unsigned int depth;
	bool write;
	struct completion *done;
	struct poller *poller;
	enum phase phase;
	unsigned int outstanding;
	uint64_t reaped;
	uint64_t ios;        /* counted */
	uint64_t iterations; /* counted */
	uint64_t ticks;      /* counted */
	uint64_t left;       /* when the front-end's turn ended */
	uint64_t random;
	char name[64];
};

/* ---- front-ends ---- */

struct front_end {
	struct client_device device;
	struct client_blk blk;
	uint64_t buffers[MAX_DEPTH]; /* guest-physical */
	const struct shape *shape;
	char path[VHOST_SOCKET_PATH_MAX + 1];
};

static struct front_end front_end, idle[MAX_IDLE];
static char folder[VHOST_SOCKET_PATH_MAX - 32]; /* of the sockets */

static int
open_device(struct front_end *front, uint64_t memory)
{
	const struct client_region_layout layout = {
		.gpa = GUEST_GPA, .user_addr = USER_ADDR, .size = memory};
	const struct shape *shape = front->shape;
	uint64_t wanted = (shape->packed ? BIT(VIRTIO_F_RING_PACKED) : 0) |
			  (shape->event_idx ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0);
	uint64_t inflight = BIT(CLIENT_PROTOCOL_F_INFLIGHT_SHMFD);
	struct client_options opts = {
		.queue_size = memory == IDLE_MEMORY ? 128 : QUEUE_SIZE,
		.indirect_max = 4,
		.features = CLIENT_DEFAULT_FEATURES | wanted,
		.protocol_features = (CLIENT_DEFAULT_PROTOCOL_FEATURES & ~inflight) |
				     (shape->inflight ? inflight : 0),
		.layout = &layout,
		.layout_count = 1,
	};
	int rc;

	rc = client_device_open(&front->device, front->path, &opts);
	if (rc < 0)
		return rc;
	if ((front->device.features & wanted) != wanted ||
	    (shape->inflight && !(front->device.protocol_features & inflight))) {
		client_device_close(&front->device);
		return -ENOTSUP;
	}
	rc = client_device_start(&front->device);
	if (rc < 0)
		client_device_close(&front->device);
	return rc;
}

/* On a worker: it waits for the daemon's answers. */
static int
open_front_end(void *arg)
{
	struct front_end *front = arg;
	int rc;

	rc = open_device(front, GUEST_MEMORY);
	if (rc < 0)
		return rc;
	client_ring_suppress_calls(&front->device.rings[0], true);
	rc = client_blk_create(&front->blk, &front->device.rings[0], 0, 0, !options.direct);
	for (unsigned int i = 0; i < MAX_DEPTH && rc == 0; i++)
		rc = client_memory_alloc(&front->device.memory, BLOCK, BLOCK, &front->buffers[i]);
	return rc;
}

static int
close_front_end(void *arg)
{
	struct front_end *front = arg;
	int rc;

	client_blk_destroy(&front->blk);
	rc = client_device_stop(&front->device);
	client_device_close(&front->device);
	return rc;
}

static int
open_idle(void *arg)
{
	return open_device(arg, IDLE_MEMORY);
}

static int
close_idle(void *arg)
{
	struct front_end *front = arg;

	client_device_close(&front->device);
	return 0;
}

/* ---- the front-end's turn in each iteration ---- */

static void
fail(const char *what, int rc)
{
	fprintf(stderr, "path_bench: %s: %s\n", what, strerror(-rc));
	exit(1);
}

static void
send_request(struct run *run, uint64_t tag)
{
	struct client_segment segment = {front_end.buffers[tag], BLOCK, !run->write};
	struct client_blk_request request = {
		.type = run->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.segments = &segment,
		.segment_count = 1,
		.tag = tag,
	};
	int rc;

	run->random = run->random * 6364136223846793005ULL + 1442695040888963407ULL;
	request.sector = (run->random >> 32) % (DISK_BYTES / BLOCK) * (BLOCK / CLIENT_SECTOR);
	rc = client_blk_prepare(&front_end.blk, &request);
	if (rc < 0)
		fail("request", rc);
	run->outstanding++;
}

static void
publish(void)
{
	client_ring_publish(&front_end.device.rings[0]);
	client_ring_kick(&front_end.device.rings[0]);
}

/* Takes what is done and, unless the case is over, sends it again. */
static void
reap(struct run *run)
{
	struct client_blk_completion done;
	uint64_t before = run->reaped;
	int rc;

	while ((rc = client_blk_reap(&front_end.blk, &done)) > 0) {
		if (done.status != VIRTIO_BLK_S_OK)
			fail("status", -EIO);
		run->reaped++;
		run->outstanding--;
		if (run->phase != DRAINED)
			send_request(run, done.tag);
	}
	if (rc < 0)
		fail("used ring", rc);
	if (run->reaped > before && run->phase != DRAINED)
		publish();
}

static void
next_phase(struct run *run)
{
	switch (run->phase) {
	case WARM_UP:
		if (run->reaped < options.ios / 10)
			return;
		CALLGRIND_ZERO_STATS;
		run->reaped = 0;
		run->phase = COUNTED;
		return;
	case COUNTED:
		if (run->reaped < options.ios)
			return;
		CALLGRIND_DUMP_STATS_AT(run->name);
		run->ios = run->reaped;
		run->phase = DRAINED;
		return;
	case DRAINED:
		if (run->outstanding == 0 && run->done != NULL) {
			completion_signal(run->done, 0);
			run->done = NULL;
		}
	}
}

/* A poller of the app thread. What runs on the reactor from its end to its begin is the daemon. */
static int
take_turn(void *arg)
{
	struct run *run = arg;

	if (run->phase == COUNTED) {
		CALLGRIND_TOGGLE_COLLECT;
		run->ticks += __rdtsc() - run->left;
		run->iterations++;
	}
	reap(run);
	next_phase(run);
	if (run->phase == COUNTED) {
		run->left = __rdtsc();
		CALLGRIND_TOGGLE_COLLECT;
	}
	return POLLER_BUSY;
}

/* ---- cases; the coroutine on the app thread ---- */

static void
name_case(struct run *run)
{
	snprintf(run->name, sizeof(run->name), "%s-%s-qd%u-%s%s%s%s", options.device,
		 run->shape->packed ? "packed" : "split", run->depth, run->write ? "write" : "read",
		 run->shape->event_idx ? "-event_idx" : "", run->shape->inflight ? "-inflight" : "",
		 options.direct ? "-direct" : "");
	if (options.idle > 0)
		snprintf(run->name + strlen(run->name), sizeof(run->name) - strlen(run->name),
			 "-idle%u", options.idle);
}

static void
report(const struct run *run)
{
	double cycles = (double)run->ticks / (double)run->ios;
	double iterations = (double)run->iterations / (double)run->ios;

	if (options.json)
		printf("{\"name\": \"%s\", \"device\": \"%s\", \"ring\": \"%s\", \"qd\": %u, "
		       "\"rw\": \"%s\", \"event_idx\": %s, \"inflight\": %s, \"direct\": %s, "
		       "\"idle\": %u, \"ios\": %lu, \"iterations\": %lu, \"cycles_per_io\": "
		       "%.1f}\n",
		       run->name, options.device, run->shape->packed ? "packed" : "split",
		       run->depth, run->write ? "write" : "read",
		       run->shape->event_idx ? "true" : "false",
		       run->shape->inflight ? "true" : "false", options.direct ? "true" : "false",
		       options.idle, run->ios, run->iterations, cycles);
	else
		printf("%-44s %8.1f cycles per I/O, %5.3f iterations\n", run->name, cycles,
		       iterations);
	fflush(stdout);
}

static void
run_case(const struct shape *shape, unsigned int depth, bool write)
{
	static struct run run;
	struct completion *done = completion_create();

	run = (struct run){
		.shape = shape, .depth = depth, .write = write, .done = done, .random = depth};
	if (done == NULL)
		fail("completion", -ENOMEM);
	name_case(&run);
	for (unsigned int i = 0; i < depth; i++)
		send_request(&run, i);
	publish();
	run.poller = poller_register(take_turn, &run, 0, "front_end");
	if (run.poller == NULL)
		fail("poller", -ENOMEM);
	completion_wait(done, WAIT_FOREVER);
	completion_put(done);
	poller_unregister(&run.poller);
	report(&run);
}

static bool
chosen(int option, int value)
{
	return option < 0 || option == value;
}

/* Every depth and direction that is asked for, on one connection. */
static void
run_shape(const struct shape *shape)
{
	static const int depths[] = {1, 32, 128};
	int rc;

	front_end.shape = shape;
	rc = coroutine_blocking(open_front_end, &front_end);
	if (rc == -ENOTSUP) {
		fprintf(stderr, "path_bench: not available: %s%s%s\n",
			shape->packed ? "packed" : "split", shape->event_idx ? " event_idx" : "",
			shape->inflight ? " inflight" : "");
		return;
	}
	if (rc < 0)
		fail("front-end", rc);
	for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++)
		for (int write = 0; write <= 1; write++)
			if (chosen(options.depth, depths[i]) && chosen(options.write, write))
				run_case(shape, (unsigned int)depths[i], write);
	rc = coroutine_blocking(close_front_end, &front_end);
	if (rc < 0)
		fail("front-end's end", rc);
}

static void
run_shapes(void)
{
	for (int i = 0; i < 8; i++) {
		struct shape shape = {.packed = i & 4, .event_idx = i & 1, .inflight = i & 2};

		if (chosen(options.packed, shape.packed) &&
		    chosen(options.event_idx, shape.event_idx) &&
		    chosen(options.inflight, shape.inflight))
			run_shape(&shape);
	}
}

/* ---- the daemon ---- */

static void
create_disk(struct errmsg *err)
{
	const struct bdev_null_opts null = {
		.name = "null", .num_blocks = DISK_BYTES / 512, .block_size = 512};
	const struct bdev_malloc_opts malloc_opts = {
		.name = "malloc", .num_blocks = DISK_BYTES / 512, .block_size = 512};
	struct bdev *bdev;
	int rc;

	rc = strcmp(options.device, "malloc") == 0 ? bdev_malloc_create(&malloc_opts, &bdev, err)
						   : bdev_null_create(&null, &bdev, err);
	if (rc != 0)
		fail(err->text, rc);
}

static void
create_controller(struct front_end *front, const char *name, struct errmsg *err)
{
	const struct vhost_blk_opts opts = {
		.name = name, .bdev = options.device, .packed_ring = true};
	int rc = vhost_blk_create(&opts, err);

	if (rc != 0)
		fail(err->text, rc);
	snprintf(front->path, sizeof(front->path), "%s/%s", folder, name);
}

static void
connect_idle(struct errmsg *err)
{
	static const struct shape plain;
	char name[32];
	int rc;

	for (unsigned int i = 0; i < options.idle; i++) {
		snprintf(name, sizeof(name), "idle%u", i);
		create_controller(&idle[i], name, err);
		idle[i].shape = &plain;
		rc = coroutine_blocking(open_idle, &idle[i]);
		if (rc < 0)
			fail("idle front-end", rc);
	}
}

static void
disconnect_idle(void)
{
	for (unsigned int i = 0; i < options.idle; i++)
		coroutine_blocking(close_idle, &idle[i]);
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
		fail(err.text, rc);
	create_disk(&err);
	create_controller(&front_end, "busy", &err);
	connect_idle(&err);
	run_shapes();
	disconnect_idle();
	vhost_lib_fini();
	bdev_lib_fini();
	reactors_stop();
}

static int
run_reactor(void)
{
	struct env_opts env = {.name = "path_bench"};
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
		fail(err.text, rc);
	app = thread_create("app", NULL);
	if (app == NULL || coroutine_start(app, "bench", bench_main, NULL) != 0)
		fail("app thread", -ENOMEM);
	rc = reactors_run();
	reactors_fini();
	work_pool_stop();
	env_fini();
	return rc;
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
	      "  --device null|malloc  (null)\n"
	      "  --direct              chains of three descriptors instead of indirect tables\n"
	      "  --idle N              controllers with an idle front-end beside the busy one (0)\n"
	      "  --ios N               I/Os counted in each case (20000)\n"
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
		options.device = text;
		return strcmp(text, "null") == 0 || strcmp(text, "malloc") == 0;
	case 'i':
		options.idle = (unsigned int)atoi(text);
		return options.idle <= MAX_IDLE;
	case 'n':
		options.ios = (unsigned int)atoi(text);
		return options.ios >= 10 && options.ios <= 1u << 30;
	case 'D':
		options.direct = true;
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
		{"idle", required_argument, NULL, 'i'},
		{"ios", required_argument, NULL, 'n'},
		{"direct", no_argument, NULL, 'D'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *tmpdir = getenv("TMPDIR");
	int option, rc;

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
	snprintf(folder, sizeof(folder), "%s/path_bench-XXXXXX", tmpdir != NULL ? tmpdir : "/tmp");
	if (mkdtemp(folder) == NULL)
		fail(folder, -errno);
	rc = run_reactor();
	rmdir(folder);
	return rc != 0;
}
