/* SPDX-License-Identifier: BSD-3-Clause */
/* links: path bdev nvme event thread env */
/* ldflags: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign */
/*
 * What an NVMe disk does without guests: one reactor keeps so many requests of 4 KiB in flight,
 * through the block device core. Each that is done is sent again at once.
 *
 *     nvme_perf --socket PATH --qd 32 --cpu 0     the software device there (tests/nvme_device)
 *     nvme_perf --qd 32                           one within the bench, which is not counted
 *     valgrind --tool=callgrind --collect-atstart=no nvme_perf
 *                                                 the same: instructions, one dump for each case
 *
 * It fails when requests' data was copied, or memory allocated for them.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bdev_modules.h"
#include "coroutine.h"
#include "env.h"
#include "event.h"
#include "log.h"
#include "path/allocations.h"
#include "path/counting.h"
#include "path/nvme_device.h"
#include "path/path.h"
#include "work.h"

#define MAX_DEPTH   128
#define LOOK_US     1000
#define NAME        "nvme"
#define BDEV        NAME "n1"
#define WARM_UP_PER 10  /* parts of what is counted */
#define WARM_UP_S   0.3 /* with a socket; until then the driver has switched its interrupts off */

const struct nvme_transport_ops *const nvme_transports[] = {
	&path_nvme_transport,
	&nvme_transport_vfio_user,
	NULL,
};

static struct {
	const char *socket; /* NULL: the device within the bench */
	struct cpumask cpus;
	unsigned int depth; /* 0: each of 1, 32 and 128 */
	unsigned int ios;
	double seconds; /* with a socket */
	bool write;
	bool interrupts;
	bool json;
} options = {.ios = 20000, .seconds = 1};

struct tag {
	struct iovec iov;
	struct bdev_request *rq;
};

/* All of it: the app thread's, on the one reactor that there is. */
static struct {
	struct bdev_desc *desc;
	struct bdev_channel *channel;
	uint8_t *data;
	uint64_t blocks;
	struct tag tags[MAX_DEPTH];

	/* a case */
	char name[64];
	unsigned int depth;
	uint32_t nvme_queues;
	uint64_t random;
	uint64_t done;
	uint64_t outstanding;
	bool stopping;
	struct poller *turn;
	struct completion *end;

	/* what is counted */
	bool counting;
	uint64_t first_done, begin, busy_before, allocations_before;
	uint64_t left, ticks; /* when the last turn ended; between turns */
} bench;

/* ---- requests ---- */

static void
submit(struct bdev_request *rq)
{
	bench.random = bench.random * 6364136223846793005ULL + 1442695040888963407ULL;
	rq->offset = (bench.random >> 32) % bench.blocks * PATH_BLOCK;
	bdev_submit(bench.channel, rq);
}

static void
on_done(struct bdev_request *rq, int status)
{
	if (status != 0)
		path_fail("request", status);
	bench.done++;
	if (bench.stopping)
		bench.outstanding--;
	else
		submit(rq);
}

/* ---- counting ---- */

static uint64_t
busy_ticks(void)
{
	struct reactor_info info;

	reactor_get_info(env_core_first(), &info);
	return info.busy_ticks;
}

static void
begin_counting(void)
{
	CALLGRIND_ZERO_STATS;
	bench.counting = true;
	bench.first_done = bench.done;
	bench.allocations_before = path_allocations;
	bench.busy_before = busy_ticks();
	bench.ticks = 0;
	bench.begin = env_ticks();
}

static void
report(void)
{
	const uint64_t ios = bench.done - bench.first_done;
	const double seconds = (double)(env_ticks() - bench.begin) / (double)env_ticks_hz();
	const uint64_t busy =
		options.socket != NULL ? busy_ticks() - bench.busy_before : bench.ticks;
	const uint64_t allocations = path_allocations - bench.allocations_before;

	CALLGRIND_DUMP_STATS_AT(bench.name);
	if (options.json)
		printf("{\"name\": \"%s\", \"qd\": %u, \"rw\": \"%s\", \"ios\": %lu, \"iops\": "
		       "%.0f, \"avg_us\": %.3f, \"cycles_per_io\": %.1f, \"allocations\": %lu, "
		       "\"copied\": %lu}\n",
		       bench.name, bench.depth, options.write ? "write" : "read", ios,
		       (double)ios / seconds, bench.depth * seconds * 1e6 / (double)ios,
		       (double)busy / (double)ios, allocations, path_nvme_copied());
	else
		printf("%-24s %10.0f IOPS, %6.2f us, %6.1f cycles per I/O\n", bench.name,
		       (double)ios / seconds, bench.depth * seconds * 1e6 / (double)ios,
		       (double)busy / (double)ios);
	fflush(stdout);
	if (path_nvme_copied() != 0)
		path_fail("data was copied", -EINVAL);
	if (path_allocates(allocations, ios))
		path_fail("there are allocations within requests", -EINVAL);
}

/* What is to be done: so many I/Os, or with a socket so long, and one at the least. */
static bool
has_lasted(uint64_t first_done, unsigned int ios, double seconds)
{
	if (options.socket == NULL)
		return bench.done - first_done >= ios;
	return bench.done > first_done &&
	       (double)(env_ticks() - bench.begin) >= seconds * (double)env_ticks_hz();
}

static void
next_phase(void)
{
	if (bench.stopping) {
		if (bench.outstanding == 0) {
			poller_unregister(&bench.turn);
			completion_signal(bench.end, 0);
		}
	} else if (!bench.counting) {
		if (has_lasted(0, options.ios / WARM_UP_PER, WARM_UP_S))
			begin_counting();
	} else if (has_lasted(bench.first_done, options.ios, options.seconds)) {
		report();
		bench.counting = false;
		bench.stopping = true;
	}
}

/* Now and then; with the device within the bench, in each iteration. */
static int
take_turn(void *arg)
{
	const bool toggled = options.socket == NULL;

	(void)arg;
	if (toggled && bench.counting) {
		CALLGRIND_TOGGLE_COLLECT;
		bench.ticks += env_ticks() - bench.left;
	}
	if (toggled) {
		if (!bench.counting)
			bench.nvme_queues = path_nvme_queues_here();
		path_nvme_turn(bench.nvme_queues);
	}
	next_phase();
	if (toggled && bench.counting) {
		bench.left = env_ticks();
		CALLGRIND_TOGGLE_COLLECT;
	}
	return POLLER_IDLE;
}

/* ---- cases; the coroutine on the app thread ---- */

static void
run_case(unsigned int depth)
{
	snprintf(bench.name, sizeof(bench.name), "nvme-alone-qd%u-%s", depth,
		 options.write ? "write" : "read");
	bench.depth = depth;
	bench.outstanding = depth;
	bench.stopping = false;
	bench.done = 0;
	bench.end = completion_create();
	bench.begin = env_ticks();
	bench.turn = poller_register(take_turn, NULL, options.socket == NULL ? 0 : LOOK_US, "turn");
	if (bench.end == NULL || bench.turn == NULL)
		path_fail("poller", -ENOMEM);
	for (unsigned int i = 0; i < depth; i++)
		submit(bench.tags[i].rq);
	bdev_flush_submissions(bench.channel);
	completion_wait(bench.end, WAIT_FOREVER);
	completion_put(bench.end);
}

static int
map_data(void *arg)
{
	struct bdev_memory **memory = arg;
	struct errmsg err = {""};
	int fd = memfd_create("data", MFD_CLOEXEC);
	int rc = fd < 0 || ftruncate(fd, MAX_DEPTH * PATH_BLOCK) != 0 ? -errno : 0;

	if (rc == 0) {
		bench.data = mmap(NULL, MAX_DEPTH * PATH_BLOCK, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_POPULATE, fd, 0);
		rc = bench.data == MAP_FAILED
			     ? -errno
			     : bdev_memory_map(bench.desc, bench.data, MAX_DEPTH * PATH_BLOCK, fd,
					       0, memory, &err);
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int
unmap_data(void *arg)
{
	bdev_memory_unmap(arg);
	munmap(bench.data, MAX_DEPTH * PATH_BLOCK);
	return 0;
}

static void
create_requests(void)
{
	const size_t size = bdev_request_size(bdev_desc_bdev(bench.desc));

	for (unsigned int i = 0; i < MAX_DEPTH; i++) {
		struct tag *tag = &bench.tags[i];

		tag->iov = (struct iovec){bench.data + i * PATH_BLOCK, PATH_BLOCK};
		tag->rq = aligned_alloc(64, (size + 63) / 64 * 64);
		if (tag->rq == NULL)
			path_fail("requests", -ENOMEM);
		memset(tag->rq, 0, size);
		tag->rq->type = options.write ? BDEV_WRITE : BDEV_READ;
		tag->rq->iov = &tag->iov;
		tag->rq->iovcnt = 1;
		tag->rq->length = PATH_BLOCK;
		tag->rq->done = on_done;
	}
}

static void
run_cases(void)
{
	static const unsigned int depths[] = {1, 32, 128};

	for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
		if (options.depth == 0 || options.depth == depths[i])
			run_case(depths[i]);
	}
}

static void
bench_main(void *arg)
{
	const struct bdev_nvme_opts opts = {
		.name = NAME,
		.trtype = options.socket != NULL ? "VFIOUSER" : "PCIe",
		.traddr = options.socket != NULL ? options.socket : PATH_NVME_ADDRESS,
		.interrupts = options.interrupts,
	};
	struct bdev_memory *memory = NULL;
	struct errmsg err = {""};
	int rc = bdev_lib_init();

	(void)arg;
	if (rc != 0)
		path_fail("block devices", rc);
	path_nvme_attach(&opts);
	rc = bdev_open(BDEV, BDEV_WRITES, "nvme_perf", NULL, NULL, &bench.desc, &err);
	if (rc != 0)
		path_fail(err.text, rc);
	bench.blocks = bdev_get_info(bdev_desc_bdev(bench.desc))->size / PATH_BLOCK;
	rc = coroutine_blocking(map_data, &memory);
	bench.channel = bdev_channel_get(bench.desc);
	if (rc != 0 || bench.channel == NULL)
		path_fail("memory", rc != 0 ? rc : -errno);
	create_requests();
	run_cases();
	bdev_channel_put(bench.channel);
	coroutine_blocking(unmap_data, memory);
	for (unsigned int i = 0; i < MAX_DEPTH; i++)
		free(bench.tags[i].rq);
	bdev_close(bench.desc);
	bdev_nvme_fini();
	bdev_lib_fini();
	reactors_stop();
}

static int
run_reactor(void)
{
	struct env_opts env = {.name = "nvme_perf", .cpus = options.cpus};
	struct errmsg err = {""};
	struct thread *app;
	int rc;

	log_set_print_level(LOG_LEVEL_WARNING);
	rc = env_init(&env, &err);
	if (rc == 0)
		rc = work_pool_start(NULL);
	if (rc == 0)
		rc = reactors_init(options.interrupts ? REACTOR_ADAPTIVE : REACTOR_POLL, &err);
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

/* ---- command line ---- */

static void
usage(FILE *to)
{
	fputs("usage: nvme_perf [options]\n"
	      "  --socket PATH  of a software device (one within the bench)\n"
	      "  --cpu N        the reactor's\n"
	      "  --qd N         1, 32 or 128 (all of them)\n"
	      "  --rw read|write (read)\n"
	      "  --interrupts   the device signals them, as for a reactor that may sleep\n"
	      "  --seconds S    counted, with --socket (1)\n"
	      "  --ios N        I/Os counted, without (20000)\n"
	      "  --json         a line of JSON for each case\n",
	      to);
}

static bool
set_option(int option, const char *text)
{
	switch (option) {
	case 's':
		options.socket = text;
		return text[0] == '/';
	case 'c':
		return cpumask_parse(&options.cpus, text) == 0;
	case 'q':
		options.depth = (unsigned int)atoi(text);
		return options.depth == 1 || options.depth == 32 || options.depth == 128;
	case 'w':
		options.write = strcmp(text, "write") == 0;
		return options.write || strcmp(text, "read") == 0;
	case 't':
		options.seconds = atof(text);
		return options.seconds > 0;
	case 'n':
		options.ios = (unsigned int)atoi(text);
		return options.ios >= WARM_UP_PER && options.ios <= 1u << 30;
	case 'i':
		options.interrupts = true;
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
		{"socket", required_argument, NULL, 's'},  {"cpu", required_argument, NULL, 'c'},
		{"qd", required_argument, NULL, 'q'},      {"rw", required_argument, NULL, 'w'},
		{"seconds", required_argument, NULL, 't'}, {"interrupts", no_argument, NULL, 'i'},
		{"ios", required_argument, NULL, 'n'},     {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},          {0},
	};
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
	return run_reactor() != 0;
}
