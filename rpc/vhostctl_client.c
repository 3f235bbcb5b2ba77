/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connection for each call: the request, end of input, the answer, end of output. Each wait ends
 * at the deadline.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vhostctl.h"

#define READ_SIZE        65536
#define ANSWER_MAX       (256u << 20)
#define CONNECT_RETRY_MS 10

static long
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* 0 when fd is ready; -ETIMEDOUT at the deadline. */
static int
wait_ready(int fd, short events, long deadline)
{
	struct pollfd pollfd = {.fd = fd, .events = events};
	long left = deadline - now_ms();
	int n = left > 0 ? poll(&pollfd, 1, (int)left) : 0;

	if (n < 0 && errno != EINTR)
		return -errno;
	return n == 0 ? -ETIMEDOUT : 0;
}

/* The daemon's queue of connections may be full for a moment. */
static int
connect_until(int fd, const struct sockaddr_un *address, long deadline)
{
	while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		if (errno != EAGAIN)
			return -errno;
		if (now_ms() >= deadline)
			return -ETIMEDOUT;
		poll(NULL, 0, CONNECT_RETRY_MS);
	}
	return 0;
}

static int
open_socket(const char *path, long deadline)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = connect_until(fd, &address, deadline);
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

static int
write_all(int fd, const char *data, size_t size, long deadline)
{
	while (size > 0) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		int rc = 0;

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n < 0)
			rc = wait_ready(fd, POLLOUT, deadline);
		if (rc != 0)
			return rc;
		if (n > 0) {
			data += n;
			size -= n;
		}
	}
	return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

/* *data is malloc()ed also when this fails. */
static int
read_all(int fd, char **data, size_t *size, long deadline)
{
	size_t capacity = 0;

	for (*size = 0; *size <= ANSWER_MAX;) {
		ssize_t n;
		int rc;

		if (capacity - *size < READ_SIZE) {
			char *larger = realloc(*data, capacity * 2 + READ_SIZE);

			if (larger == NULL)
				return -ENOMEM;
			capacity = capacity * 2 + READ_SIZE;
			*data = larger;
		}
		n = recv(fd, *data + *size, READ_SIZE, 0);
		if (n == 0)
			return 0;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		rc = n < 0 ? wait_ready(fd, POLLIN, deadline) : 0;
		if (rc != 0)
			return rc;
		*size += n > 0 ? n : 0;
	}
	return -EMSGSIZE;
}

static int
exchange(const char *path, const char *request, long deadline, char **answer, size_t *size)
{
	int fd = open_socket(path, deadline);
	int rc;

	if (fd < 0)
		return fd;
	rc = write_all(fd, request, strlen(request), deadline);
	/* A request that is refused half-way is answered all the same. */
	if (rc == 0 || rc == -EPIPE || rc == -ECONNRESET)
		rc = read_all(fd, answer, size, deadline);
	close(fd);
	return rc;
}

static enum vhostctl_status
take_result(const char *method, json_t *answer, json_t **result, struct errmsg *err)
{
	json_t *error = json_object_get(answer, "error");
	const char *message = json_string_value(json_object_get(error, "message"));
	json_int_t code;

	*result = json_incref(json_object_get(answer, "result"));
	if (*result != NULL)
		return STATUS_OK;
	if (message == NULL)
		return err_set(err, STATUS_FAILED, "%s: the answer is no JSON-RPC answer", method);
	code = json_integer_value(json_object_get(error, "code"));
	return err_set(err, STATUS_FAILED, "%s: %s (%" JSON_INTEGER_FORMAT ")%s", method, message,
		       code,
		       code == JSONRPC_METHOD_NOT_FOUND && ctl_find_schema(method) != NULL
			       ? ": is the daemon older than vhostctl " VHOSTD_VERSION "?"
			       : "");
}

/* Sends a request or a batch, which it takes (NULL: no memory), and reads the answer. */
static enum vhostctl_status
ask(const struct vhostctl_opts *opts, const char *method, json_t *request, json_t **answer,
    struct errmsg *err)
{
	char *text = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
	char *answer_text = NULL;
	size_t size = 0;
	int rc = -ENOMEM;

	if (text != NULL)
		rc = exchange(opts->socket, text, now_ms() + opts->timeout_s * 1000, &answer_text,
			      &size);
	free(text);
	json_decref(request);
	if (rc != 0) {
		free(answer_text);
		return err_set(err, STATUS_FAILED, "%s: %s%s", opts->socket, strerror(-rc),
			       rc == -ENOENT || rc == -ECONNREFUSED ? " (does vhostd run?)" : "");
	}
	*answer = size > 0 ? json_loadb(answer_text, size, 0, NULL) : NULL;
	free(answer_text);
	if (*answer == NULL)
		return err_set(err, STATUS_FAILED, "%s: %s", method,
			       size == 0 ? "the daemon closed the connection without an answer"
					 : "the answer is not JSON");
	return STATUS_OK;
}

static json_t *
make_request(const char *method, json_t *params)
{
	return json_pack("{s:s, s:i, s:s, s:O*}", "jsonrpc", "2.0", "id", 1, "method", method,
			 "params", params);
}

enum vhostctl_status
ctl_call(const struct vhostctl_opts *opts, const char *method, json_t *params, json_t **result,
	 struct errmsg *err)
{
	json_t *answer;
	enum vhostctl_status status = ask(opts, method, make_request(method, params), &answer, err);

	*result = NULL;
	if (status != STATUS_OK)
		return status;
	status = take_result(method, answer, result, err);
	json_decref(answer);
	return status;
}

enum vhostctl_status
ctl_call_each(const struct vhostctl_opts *opts, const char *method, json_t *params_of_each,
	      json_t **results, struct errmsg *err)
{
	json_t *batch = json_array();
	enum vhostctl_status status;
	json_t *params, *answers;
	size_t i;

	*results = json_array();
	json_array_foreach (params_of_each, i, params)
		json_array_append_new(batch, make_request(method, params));
	status = ask(opts, method, batch, &answers, err);
	if (status != STATUS_OK)
		return status;
	for (i = 0; status == STATUS_OK && i < json_array_size(params_of_each); i++) {
		json_t *result;

		status = take_result(method, json_array_get(answers, i), &result, err);
		json_array_append_new(*results, result);
	}
	json_decref(answers);
	return status;
}

enum vhostctl_status
ctl_call_all(const struct vhostctl_opts *opts, const struct ctl_question *questions, size_t count,
	     json_t **results, struct errmsg *err)
{
	json_t *batch = json_array();
	enum vhostctl_status status;
	json_t *answers;
	size_t i;

	for (i = 0; i < count; i++) {
		results[i] = NULL;
		json_array_append_new(batch,
				      make_request(questions[i].method, questions[i].params));
	}
	status = ask(opts, questions[0].method, batch, &answers, err);
	if (status != STATUS_OK)
		return status;
	if (json_array_size(answers) == count) {
		for (i = 0; i < count; i++)
			results[i] =
				json_incref(json_object_get(json_array_get(answers, i), "result"));
	} else {
		status = err_set(err, STATUS_FAILED, "%s: the answer is no JSON-RPC answer",
				 opts->socket);
	}
	json_decref(answers);
	return status;
}
