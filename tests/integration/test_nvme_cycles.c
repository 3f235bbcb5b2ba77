/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A controller that is attached and detached over and over, with a guest now and then, leaves
 * nothing behind: no I/O addresses, file descriptors, threads or memory. $VHOSTD_ATTACH_CYCLES says
 * how often; `make test` asks for 100.
 */
/* links: client testlib */
#include <dirent.h>

#include "nvme_guest_rig.h"

#define CYCLES     20
#define WARM_UP    10 /* cycles in which pools and caches grow */
#define GUEST_EACH 5
#define GROWTH_KIB 2048 /* at most, of all cycles together */

static unsigned int
cycles(void)
{
	const char *text = getenv("VHOSTD_ATTACH_CYCLES");

	return text != NULL ? (unsigned int)strtoul(text, NULL, 10) : CYCLES;
}

/* ---- what the daemon has ---- */

struct belongings {
	unsigned int fds;
	unsigned int threads;
	unsigned int mappings;
	unsigned long resident_kib;
};

static unsigned int
count_entries(const char *name)
{
	unsigned int count = 0;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)rig.daemon.pid, name);
	folder = opendir(path);
	assert_non_null(folder);
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

/* Lines of a file of the daemon's in /proc; *number is what follows key. */
static unsigned int
read_lines(const char *name, const char *key, unsigned long *number)
{
	unsigned int count = 0;
	char path[64], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)rig.daemon.pid, name);
	file = fopen(path, "r");
	assert_non_null(file);
	for (; fgets(line, sizeof(line), file) != NULL; count++) {
		if (strncmp(line, key, strlen(key)) == 0)
			*number = strtoul(line + strlen(key), NULL, 10);
	}
	fclose(file);
	return count;
}

static struct belongings
belongings(void)
{
	struct belongings all = {.fds = count_entries("fd"), .threads = count_entries("task")};
	unsigned long none;

	all.mappings = read_lines("maps", "-", &none);
	read_lines("status", "VmRSS:", &all.resident_kib);
	return all;
}

static bool
is_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return true;
#else
	return false;
#endif
}

/* Sanitizers keep memory that was freed; what is lost they report at the end. */
static bool
has_grown(const struct belongings *before, const struct belongings *now)
{
	bool memory = now->resident_kib > before->resident_kib + GROWTH_KIB ||
		      now->mappings > before->mappings + 8;

	return now->fds > before->fds || now->threads > before->threads ||
	       (memory && !is_sanitized());
}

/* ---- cycles ---- */

static void
run_guest(unsigned int cycle)
{
	create_vm();
	start_load_on(cycle % 2 == 0);
	work(300);
	/* The guest goes first, or the device is taken from under it. */
	if (cycle / GUEST_EACH % 2 == 0) {
		end_load();
		return;
	}
	rig.load.may_fail = true;
	rpc("bdev_nvme_detach_controller", "{s:s}", "name", "nvme0");
	assert_int_equal(workload_drain(&rig.load, DEADLINE_MS), 0);
	workload_close(&rig.load);
}

static void
run_cycle(unsigned int cycle)
{
	bool has_guest = cycle % GUEST_EACH == 0;

	/* All zeroes, as a new guest believes. */
	control("ns remove 1");
	control(NAMESPACE);
	attach();
	if (has_guest)
		run_guest(cycle);
	if (is_there("nvme0n1"))
		rpc("bdev_nvme_detach_controller", "{s:s}", "name", "nvme0");
	if (has_guest)
		rpc("vhost_delete_controller", "{s:s}", "ctrlr", "vm");
	assert_int_equal(stat_of("maps"), 0);
}

static void
test_cycles(void **state)
{
	struct belongings before, after;

	(void)state;
	start_device(NAMESPACE, "ns add 2 memory 1024 4096");
	assert_int_equal(daemon_start(&rig.daemon, NULL), 0);
	for (unsigned int i = 0; i < WARM_UP; i++)
		run_cycle(i);
	before = belongings();
	for (unsigned int i = 0; i < cycles(); i++)
		run_cycle(i);
	after = belongings();
	/* Threads that wait for more work end by themselves, after a while. */
	for (unsigned int tries = 0; has_grown(&before, &after) && tries < 60; tries++) {
		usleep(500000);
		after = belongings();
	}
	fprintf(stderr,
		"# file descriptors %u -> %u, threads %u -> %u, maps %u -> %u, KiB %lu -> %lu\n",
		before.fds, after.fds, before.threads, after.threads, before.mappings,
		after.mappings, before.resident_kib, after.resident_kib);
	assert_false(has_grown(&before, &after));
	assert_int_equal(stat_of("shutdowns"), WARM_UP + cycles());
	assert_int_equal(stat_of("unsafe_shutdowns"), 0);
	assert_int_equal(daemon_log_count(&rig.daemon, "ERROR"), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_cycles)};

	return cmocka_run_group_tests_name("nvme_cycles", tests, NULL, NULL);
}
