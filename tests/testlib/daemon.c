/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon.h"
#include "waiting.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS 32

static void
sleep_ms(long ms)
{
	struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

void
daemon_path(const struct daemon *daemon, const char *name, char path[DAEMON_PATH])
{
	snprintf(path, DAEMON_PATH, "%s/%s", daemon->folder, name);
}

/* ---- the process ---- */

static void
program_path(char path[4096])
{
	const char *given = getenv("VHOSTD_BIN");
	ssize_t length;

	/* Absolute: the daemon has a working folder of its own. */
	if (given != NULL && realpath(given, path) != NULL)
		return;
	length = readlink("/proc/self/exe", path, 4000);
	path[length > 0 ? length : 0] = '\0';
	for (int i = 0; i < 2 && strrchr(path, '/') != NULL; i++)
		*strrchr(path, '/') = '\0';
	strcat(path, "/bin/vhostd");
}

static void
exec_daemon(const struct daemon *daemon, const char *const *args)
{
	char program[4096], state[DAEMON_PATH];
	const char *argv[MAX_ARGS] = {program,   "-S", daemon->folder, "-r", daemon->rpc_socket,
				      "--state", state};
	int count = 7;
	int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
	int null = open("/dev/null", O_RDONLY);
	const struct rlimit no_limit = {RLIM_INFINITY, RLIM_INFINITY};

	program_path(program);
	/* For print_stacks(): the kernel writes "core" where the process is. */
	if (chdir(daemon->folder) == 0)
		setrlimit(RLIMIT_CORE, &no_limit);
	daemon_path(daemon, "state.json", state);
	for (; args != NULL && *args != NULL && count < MAX_ARGS - 1; args++)
		argv[count++] = *args;
	dup2(null, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execv(program, (char *const *)argv);
	fprintf(stderr, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

void
daemon_print_log(const struct daemon *daemon)
{
	FILE *file = fopen(daemon->log, "r");
	char line[1024];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		fprintf(stderr, "# vhostd: %s", line);
	if (file != NULL)
		fclose(file);
}

/* Where every thread was, if the kernel wrote a core file and there is a debugger. */
static void
print_stacks(const struct daemon *daemon)
{
	char program[4096], command[3 * sizeof(program)], core[DAEMON_PATH];

	daemon_path(daemon, "core", core);
	if (access(core, R_OK) != 0)
		return;
	program_path(program);
	snprintf(command, sizeof(command),
		 "gdb -batch -nx -ex 'thread apply all bt' '%s' '%s' 2>&1 | sed 's/^/# gdb: /' >&2",
		 program, core);
	if (system(command) != 0)
		fprintf(stderr, "# no stacks of vhostd: gdb does not run\n");
}

/* Nobody asked it to end like this. */
static void
report_end(const struct daemon *daemon, int status)
{
	if (WIFSIGNALED(status))
		fprintf(stderr, "# vhostd: killed by SIG%s\n", sigabbrev_np(WTERMSIG(status)));
	else
		fprintf(stderr, "# vhostd: exit status %d\n", WEXITSTATUS(status));
	daemon_print_log(daemon);
	print_stacks(daemon);
}

/* The process's status once it has ended, or -1 after timeout_ms. */
static int
wait_for_end(struct daemon *daemon, uint64_t timeout_ms)
{
	uint64_t end = now_ms() + timeout_ms;
	int status;

	while (waitpid(daemon->pid, &status, WNOHANG) != daemon->pid) {
		if (now_ms() >= end)
			return -1;
		sleep_ms(1);
	}
	daemon->pid = 0;
	return status;
}

bool
daemon_is_alive(struct daemon *daemon)
{
	int status;

	if (daemon->pid == 0)
		return false;
	status = wait_for_end(daemon, 0);
	if (status != -1)
		report_end(daemon, status);
	return status == -1;
}

void
daemon_kill(struct daemon *daemon)
{
	if (daemon->pid == 0)
		return;
	kill(daemon->pid, SIGKILL);
	wait_for_end(daemon, DEADLINE_MS);
}

void
daemon_launch(struct daemon *daemon, const char *const *args)
{
	daemon->pid = fork();
	if (daemon->pid == 0)
		exec_daemon(daemon, args);
}

int
daemon_restart(struct daemon *daemon, const char *const *args)
{
	uint64_t end = now_ms() + DEADLINE_MS;

	daemon_launch(daemon, args);
	while (daemon_is_alive(daemon) && now_ms() < end) {
		if (daemon_call(daemon, "framework_wait_init", NULL) == 0)
			return 0;
		sleep_ms(5);
	}
	if (daemon->pid != 0)
		daemon_print_log(daemon);
	daemon_kill(daemon);
	return -ETIMEDOUT;
}

int
daemon_start(struct daemon *daemon, const char *const *args)
{
	const char *base = getenv("TMPDIR");

	memset(daemon, 0, sizeof(*daemon));
	snprintf(daemon->folder, sizeof(daemon->folder), "%s/vd-XXXXXX",
		 base != NULL ? base : "/tmp");
	if (mkdtemp(daemon->folder) == NULL)
		return -errno;
	daemon_path(daemon, "rpc.sock", daemon->rpc_socket);
	daemon_path(daemon, "log", daemon->log);
	return daemon_restart(daemon, args);
}

int
daemon_stop(struct daemon *daemon)
{
	int status;

	if (daemon->pid == 0)
		return -ESRCH;
	kill(daemon->pid, SIGTERM);
	status = wait_for_end(daemon, DEADLINE_MS);
	if (status == 0)
		return 0;
	if (status == -1) {
		fprintf(stderr, "# vhostd: does not end\n");
		daemon_print_log(daemon);
		daemon_kill(daemon);
	} else {
		report_end(daemon, status);
	}
	return -EPROTO;
}

static int
remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int
daemon_end(struct daemon *daemon)
{
	int rc = daemon->pid != 0 ? daemon_stop(daemon) : 0;

	nftw(daemon->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	return rc;
}

unsigned int
daemon_log_count(const struct daemon *daemon, const char *text)
{
	FILE *file = fopen(daemon->log, "r");
	unsigned int count = 0;
	char line[1024];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		count += strstr(line, text) != NULL;
	if (file != NULL)
		fclose(file);
	return count;
}

/* ---- JSON-RPC ---- */

static int
connect_rpc(const struct daemon *daemon)
{
	struct timeval timeout = {.tv_sec = DEADLINE_S};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", daemon->rpc_socket);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -EIO;
}

/* The answer object, or NULL. */
static json_t *
exchange(int fd, const json_t *request)
{
	char *text = json_dumps(request, JSON_COMPACT);
	size_t length = text != NULL ? strlen(text) : 0;
	json_t *answer = NULL;

	if (length > 0 && send(fd, text, length, MSG_NOSIGNAL) == (ssize_t)length)
		answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, NULL);
	free(text);
	return answer;
}

json_t *
daemon_rpc(const struct daemon *daemon, const char *method, json_t *params, int *code)
{
	json_t *request = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", 1, "method",
				    method, "params", params);
	int fd = connect_rpc(daemon), error = -EIO;
	json_t *answer, *result;

	answer = fd >= 0 ? exchange(fd, request) : NULL;
	if (fd >= 0)
		close(fd);
	json_decref(request);
	result = json_incref(json_object_get(answer, "result"));
	if (json_object_get(answer, "error") != NULL)
		error = (int)json_integer_value(
			json_object_get(json_object_get(answer, "error"), "code"));
	if (code != NULL)
		*code = result != NULL ? 0 : error;
	json_decref(answer);
	return result;
}

int
daemon_call(const struct daemon *daemon, const char *method, json_t *params)
{
	int code;

	json_decref(daemon_rpc(daemon, method, params, &code));
	return code;
}

void
daemon_print_state(const struct daemon *daemon)
{
	static const char *const methods[] = {"vhost_get_controllers", "vhost_get_stats",
					      "bdev_get_iostat", "bdev_nvme_get_controllers",
					      "framework_get_reactors"};

	daemon_print_log(daemon);
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		json_t *answer = daemon_rpc(daemon, methods[i], NULL, NULL);
		char *text = answer != NULL ? json_dumps(answer, JSON_COMPACT) : NULL;

		fprintf(stderr, "# %s: %s\n", methods[i], text != NULL ? text : "no answer");
		free(text);
		json_decref(answer);
	}
}

static int
create_memory_bdev(const struct daemon *daemon, const char *method, const char *name, long blocks,
		   long block_size)
{
	return daemon_call(daemon, method,
			   json_pack("{s:s, s:I, s:I}", "name", name, "num_blocks",
				     (json_int_t)blocks, "block_size", (json_int_t)block_size));
}

int
daemon_create_malloc(const struct daemon *daemon, const char *name, long blocks, long block_size)
{
	return create_memory_bdev(daemon, "bdev_malloc_create", name, blocks, block_size);
}

int
daemon_create_null(const struct daemon *daemon, const char *name, long blocks, long block_size)
{
	return create_memory_bdev(daemon, "bdev_null_create", name, blocks, block_size);
}

int
daemon_create_file(const struct daemon *daemon, const char *name, long bytes)
{
	char path[DAEMON_PATH];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.img", daemon->folder, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, bytes) != 0) {
		close(fd);
		return -errno;
	}
	close(fd);
	return daemon_call(daemon, "bdev_uring_create",
			   json_pack("{s:s, s:s}", "name", name, "filename", path));
}

int
daemon_create_blk(const struct daemon *daemon, const char *name, const char *bdev, bool read_only)
{
	return daemon_call(daemon, "vhost_create_blk_controller",
			   json_pack("{s:s, s:s, s:b}", "ctrlr", name, "dev_name", bdev, "readonly",
				     read_only));
}
