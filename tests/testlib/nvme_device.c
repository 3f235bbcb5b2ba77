/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_device.h"
#include "waiting.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS  64
#define FD_LIMIT  16 /* folders that are open at once while one is removed */
#define PATH_ROOM 4096

static void
sleep_1_ms(void)
{
	struct timespec time = {.tv_nsec = 1000000};

	nanosleep(&time, NULL);
}

/* ---- the process ---- */

static void
program_path(char path[PATH_ROOM])
{
	const char *given = getenv("VHOSTD_BUILD");
	ssize_t length;

	if (given != NULL) {
		snprintf(path, PATH_ROOM, "%s/bin/nvme_device", given);
		return;
	}
	length = readlink("/proc/self/exe", path, PATH_ROOM - 64);
	path[length > 0 ? length : 0] = '\0';
	for (int i = 0; i < 2 && strrchr(path, '/') != NULL; i++)
		*strrchr(path, '/') = '\0';
	strcat(path, "/bin/nvme_device");
}

static void
exec_device(const struct nvme_device *device, const char *const *args)
{
	char program[PATH_ROOM];
	const char *argv[MAX_ARGS] = {program, "--socket", device->socket, "--control",
				      device->control};
	int count = 5;
	int log = open(device->log, O_WRONLY | O_CREAT | O_APPEND, 0644);

	program_path(program);
	for (; args != NULL && *args != NULL && count < MAX_ARGS - 1; args++)
		argv[count++] = *args;
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execv(program, (char *const *)argv);
	fprintf(stderr, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

static void
print_log(const struct nvme_device *device)
{
	FILE *file = fopen(device->log, "r");
	char line[1024];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		fprintf(stderr, "# nvme_device: %s", line);
	if (file != NULL)
		fclose(file);
}

/* Its exit status (128 + a signal) once it has ended, or -1 after timeout_ms. */
static int
wait_for_end(struct nvme_device *device, uint64_t timeout_ms)
{
	uint64_t end = now_ms() + timeout_ms;
	int status;

	while (waitpid(device->pid, &status, WNOHANG) != device->pid) {
		if (now_ms() >= end)
			return -1;
		sleep_1_ms();
	}
	device->pid = 0;
	if (device->control_fd >= 0)
		close(device->control_fd);
	device->control_fd = -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int
connect_control(struct nvme_device *device)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = DEADLINE_S};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, device->control,
	       strnlen(device->control, sizeof(address.sun_path) - 1));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		close(fd);
		return -ECONNREFUSED;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	device->control_fd = fd;
	return 0;
}

int
nvme_device_restart(struct nvme_device *device, const char *const *args)
{
	uint64_t end = now_ms() + DEADLINE_MS;

	device->pid = fork();
	if (device->pid == 0)
		exec_device(device, args);
	while (connect_control(device) != 0) {
		if (now_ms() >= end || wait_for_end(device, 0) >= 0) {
			print_log(device);
			nvme_device_kill(device);
			return -ETIMEDOUT;
		}
		sleep_1_ms();
	}
	return 0;
}

int
nvme_device_start(struct nvme_device *device, const char *const *args)
{
	const char *tmp = getenv("TMPDIR");

	*device = (struct nvme_device){.control_fd = -1};
	snprintf(device->folder, sizeof(device->folder), "%s/nvme-XXXXXX",
		 tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(device->folder) == NULL)
		return -errno;
	snprintf(device->socket, sizeof(device->socket), "%s/nvme.sock", device->folder);
	snprintf(device->control, sizeof(device->control), "%s/control.sock", device->folder);
	snprintf(device->log, sizeof(device->log), "%s/log", device->folder);
	return nvme_device_restart(device, args);
}

int
nvme_device_stop(struct nvme_device *device)
{
	int status;

	kill(device->pid, SIGTERM);
	status = wait_for_end(device, DEADLINE_MS);
	if (status < 0) {
		nvme_device_kill(device);
		return -ETIMEDOUT;
	}
	if (status != 0 && status != NVME_DEVICE_VIOLATIONS)
		print_log(device);
	return status;
}

void
nvme_device_kill(struct nvme_device *device)
{
	if (device->pid == 0)
		return;
	kill(device->pid, SIGKILL);
	wait_for_end(device, DEADLINE_MS);
}

static int
remove_entry(const char *path, const struct stat *stat, int type, struct FTW *walk)
{
	(void)stat;
	(void)type;
	(void)walk;
	return remove(path);
}

int
nvme_device_end(struct nvme_device *device)
{
	int status = device->pid != 0 ? nvme_device_stop(device) : 0;

	nftw(device->folder, remove_entry, FD_LIMIT, FTW_DEPTH | FTW_PHYS);
	return status;
}

/* ---- the control socket ---- */

static int
read_line(int fd, char line[NVME_DEVICE_ANSWER])
{
	size_t length = 0;

	while (length < NVME_DEVICE_ANSWER - 1) {
		ssize_t got = recv(fd, line + length, NVME_DEVICE_ANSWER - 1 - length, 0);

		if (got <= 0)
			return got == 0 ? -EPIPE : -errno;
		length += (size_t)got;
		if (line[length - 1] != '\n')
			continue;
		line[length - 1] = '\0';
		return 0;
	}
	return -EMSGSIZE;
}

int
nvme_device_control(struct nvme_device *device, char answer[NVME_DEVICE_ANSWER], const char *format,
		    ...)
{
	char line[1024], own[NVME_DEVICE_ANSWER];
	char *reply = answer != NULL ? answer : own;
	va_list arguments;
	int length, rc;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	line[length++] = '\n';
	if (send(device->control_fd, line, (size_t)length, MSG_NOSIGNAL) != length)
		return -EPIPE;
	rc = read_line(device->control_fd, reply);
	if (rc != 0)
		return rc;
	if (strncmp(reply, "ok", 2) != 0) {
		fprintf(stderr, "# nvme_device: %.*s: %s\n", length - 1, line, reply);
		return -EINVAL;
	}
	memmove(reply, reply + 2 + (reply[2] == ' '), strlen(reply + 2 + (reply[2] == ' ')) + 1);
	return 0;
}

static int64_t
find_key(struct nvme_device *device, const char *line, const char *key)
{
	char answer[NVME_DEVICE_ANSWER], name[64];
	int rc = nvme_device_control(device, answer, "%s", line);
	const char *found;

	if (rc != 0)
		return rc;
	snprintf(name, sizeof(name), "%s=", key);
	for (found = strstr(answer, name); found != NULL; found = strstr(found + 1, name)) {
		if (found == answer || found[-1] == ' ')
			return strtoll(found + strlen(name), NULL, 10);
	}
	return 0;
}

int64_t
nvme_device_stat(struct nvme_device *device, const char *key)
{
	return find_key(device, "stats", key);
}

int64_t
nvme_device_violations(struct nvme_device *device, const char *name)
{
	return find_key(device, "violations", name);
}
