/* SPDX-License-Identifier: BSD-3-Clause */
/* links: scsi reservation bdev testlib thread env */
/* ldflags: -liscsi */
/*
 * libiscsi's conformance suite on a SCSI disk here, without a guest: iscsi-test-cu runs with
 * sg_socket.so, so that its /dev/sg are sockets to this test. What it skips is listed, and why in
 * docs/scsi.md.
 */
#include <fnmatch.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "../preload/sg_socket.h"
#include "scsi_rig.h"

#define NAME_MAX_BYTES 128

extern char **environ;

static const struct run {
	const char *tests; /* fnmatch patterns */
	uint32_t physical_block_size;
	int paths;
	bool read_only;
	unsigned int passed, skipped;
} runs[] = {
	/*
	 * One physical block of 256 logical ones: the suite takes no other number (docs/scsi.md).
	 */
	{"ALL", 131072, 1, false, 171, 59},
	{"ALL", 512, 1, false, 167, 63},
	{"ALL.MultipathIO.*", 4096, 2, false, 2, 2},
	/* All passes but UNMAP, which a read-only block device has not. */
	{"ALL.ReadOnly.*", 4096, 1, true, 0, 1},
	/* OverwriteReserved is not there: on what is no iSCSI disk it crashes. */
	{"ALL.Sanitize.BlockErase*,ALL.Sanitize.CryptoErase*,ALL.Sanitize.ExitFailureMode,"
	 "ALL.Sanitize.InvalidServiceAction,ALL.Sanitize.Overwrite,ALL.Sanitize.Re*",
	 4096, 1, false, 0, 10},
};

/* The numbers above say how many of them. */
static const char *const skips[] = {
	"CompareAndWrite.InvalidDataOutSize", /* iSCSI */
	"PreventAllow.*",                     /* a removable medium */
	"ProutReserve.Access*",               /* iSCSI */
	"ProutReserve.Ownership*",            /* iSCSI */
	"ProutPreempt.RemoveRegistration",    /* iSCSI */
	"ReadOnly.ReadOnlySBC",               /* a disk that is read-only */
	"Reserve6.*",                         /* RESERVE(6), and iSCSI */
	"Sanitize.*",                         /* --allow-sanitize */
	"StartStopUnit.Simple",               /* a removable medium */
	"WriteSame1?.UnmapUnaligned",         /* several logical blocks per physical one */
	"WriteSame1?.InvalidDataOutSize",     /* the same */
	"iSCSI*",                             /* iSCSI */
	"MultipathIO.*",                      /* a second path */
};

struct score {
	unsigned int passed, skipped, failed, unexpected;
};

static bool
may_skip(const char *name)
{
	for (size_t i = 0; i < sizeof(skips) / sizeof(skips[0]); i++) {
		if (fnmatch(skips[i], name, 0) == 0)
			return true;
	}
	return false;
}

/* A test ends where the next one begins. */
static void
count(struct score *score, const char *name, bool failed, bool skipped)
{
	if (name[0] == '\0')
		return;
	score->failed += failed;
	score->skipped += skipped && !failed;
	score->passed += !skipped && !failed;
	if (failed || (skipped && !may_skip(name))) {
		print_message("%s: %s\n", name, failed ? "failed" : "skipped");
		score->unexpected++;
	}
}

static struct score
read_score(FILE *output)
{
	char line[4096], suite[64] = "", name[NAME_MAX_BYTES] = "", test[64];
	bool failed = false, skipped = false;
	struct score score = {0};

	rewind(output);
	while (fgets(line, sizeof(line), output) != NULL && strncmp(line, "Run Summary", 11) != 0) {
		if (sscanf(line, "Suite: %63s", suite) == 1)
			continue;
		if (sscanf(line, "  Test: %63s ...", test) == 1) {
			count(&score, name, failed, skipped);
			snprintf(name, sizeof(name), "%s.%s", suite, test);
			failed = skipped = false;
		}
		failed |= strstr(line, "FAILED") != NULL;
		skipped |= strstr(line, "[SKIPPED]") != NULL;
	}
	count(&score, name, failed, skipped);
	return score;
}

/* False: the other side has gone. */
static bool
serve(int who, int fd)
{
	struct sg_command sent;
	struct command *command;
	struct sg_result result;
	uint8_t *data;
	bool good;

	if (!sg_receive(fd, &sent, sizeof(sent)))
		return false;
	data = malloc(sent.out_bytes + 1);
	good = sg_receive(fd, data, sent.out_bytes);
	command =
		command_start(who, sent.cdb, sent.cdb_length, data, sent.out_bytes, sent.in_bytes);
	command->task->cdb_length = (uint8_t)sent.cdb_length;
	command_submit(who, command);
	command_wait(command);
	result = (struct sg_result){
		.status = command->task->status,
		.failed = command->task->outcome != SCSI_COMPLETE,
		.sense_length = command->task->sense_length,
		.transferred_in = (uint32_t)command->task->transferred_in,
		.transferred_out = (uint32_t)command->task->transferred_out,
	};
	memcpy(result.sense, command->task->sense, sizeof(result.sense));
	good = good && sg_send(fd, &result, sizeof(result)) &&
	       sg_send(fd, command->in, result.transferred_in);
	command_free(command);
	free(data);
	return good;
}

static void
serve_all(const int fds[INITIATORS])
{
	uint64_t deadline = now_ms() + DEADLINE_MS;
	bool open = true;

	while (open) {
		struct pollfd polled[INITIATORS] = {{fds[A], POLLIN, 0}, {fds[B], POLLIN, 0}};

		assert_true(now_ms() < deadline);
		if (poll(polled, INITIATORS, rig_poll() == POLLER_IDLE ? 1 : 0) <= 0)
			continue;
		for (int who = 0; who < INITIATORS && open; who++)
			open = polled[who].revents == 0 || serve(who, fds[who]);
	}
}

static char *
preload(void)
{
	char path[4096] = "", *value;
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);

	assert_true(length > 0);
	*strrchr(path, '/') = '\0';
	assert_true(asprintf(&value, "LD_PRELOAD=%s/../preload/sg_socket.so", path) > 0);
	return value;
}

/* fds: of the other side. */
static pid_t
start_suite(const struct run *run, const int fds[INITIATORS], const int own[INITIATORS],
	    FILE *output)
{
	char device[INITIATORS][32], *value = preload();
	const char *argv[] = {"iscsi-test-cu", "--dataloss", "--allow-sanitize", "--test",
			      run->tests,      device[A],    device[B],          NULL};
	char *envp[] = {value, NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid;

	if (strcmp(run->tests, "ALL") == 0)
		argv[2] = "--dataloss";
	if (run->paths == 1)
		argv[6] = NULL;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fileno(output), STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, fileno(output), STDERR_FILENO);
	for (int who = 0; who < INITIATORS; who++) {
		snprintf(device[who], sizeof(device[who]), "/dev/sg%d", fds[who]);
		posix_spawn_file_actions_addclose(&actions, own[who]);
	}
	assert_int_equal(posix_spawnp(&pid, argv[0], &actions, NULL, (char **)argv, envp), 0);
	posix_spawn_file_actions_destroy(&actions);
	free(value);
	return pid;
}

static void
run_suite(const struct run *run)
{
	FILE *output = tmpfile();
	int own[INITIATORS], other[INITIATORS], pair[2], status;
	struct score score;
	pid_t pid;

	assert_non_null(output);
	for (int who = 0; who < INITIATORS; who++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		own[who] = pair[0];
		other[who] = pair[1];
	}
	pid = start_suite(run, other, own, output);
	close(other[A]);
	close(other[B]);
	serve_all(own);
	close(own[A]);
	close(own[B]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	score = read_score(output);
	fclose(output);
	print_message("%s: %u passed, %u skipped\n", run->tests, score.passed, score.skipped);
	assert_int_equal(status, 0);
	assert_int_equal(score.failed, 0);
	assert_int_equal(score.unexpected, 0);
	assert_int_equal(score.passed, run->passed);
	assert_int_equal(score.skipped, run->skipped);
}

static void
test_suite(void **state)
{
	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		struct bdev_info info;

		fake_setup(state);
		info = fake_info("disk");
		info.physical_block_size = runs[i].physical_block_size;
		info.discard_granularity = runs[i].physical_block_size;
		info.atomic_write_bytes = 1u << 20;
		info.read_only = runs[i].read_only;
		disk_start(&info);
		run_suite(&runs[i]);
		disk_teardown(state);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_suite)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
