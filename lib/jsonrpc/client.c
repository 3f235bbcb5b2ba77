/* SPDX-License-Identifier: BSD-3-Clause */
#include "client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "jsonrpc.h"

#define READ_SIZE      (64u << 10)
#define READS_IN_A_ROW 16           /* then it is others' turn */
#define BUFFER_KEPT    (256u << 10) /* an empty buffer that is larger is given back */

/* ---- buffers ---- */

/* Makes room for size bytes after end. */
static int
buffer_reserve(struct buffer *buffer, size_t size)
{
	size_t used = buffer->end - buffer->begin;
	size_t capacity = buffer->capacity > 0 ? buffer->capacity : READ_SIZE;
	char *data;

	if (buffer->capacity - buffer->end >= size)
		return 0;
	if (buffer->begin > 0 && used <= buffer->begin && buffer->capacity - used >= size) {
		memcpy(buffer->data, buffer->data + buffer->begin, used);
		buffer->begin = 0;
		buffer->end = used;
		return 0;
	}
	while (capacity - buffer->end < size)
		capacity *= 2;
	data = realloc(buffer->data, capacity);
	if (data == NULL)
		return -ENOMEM;
	buffer->data = data;
	buffer->capacity = capacity;
	return 0;
}

static void
buffer_consume(struct buffer *buffer, size_t size)
{
	buffer->begin += size;
	if (buffer->begin < buffer->end)
		return;
	buffer->begin = buffer->end = 0;
	if (buffer->capacity > BUFFER_KEPT) {
		free(buffer->data);
		*buffer = (struct buffer){0};
	}
}

/* ---- life ---- */

struct client *
client_create(int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (client == NULL)
		return NULL;
	client->fd = fd;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		client->pid = peer.pid;
	return client;
}

void
client_free(struct client *client)
{
	close(client->fd);
	free(client->in.data);
	free(client->out.data);
	free(client);
}

/* ---- input ---- */

static enum client_input
read_some(struct client *client)
{
	struct buffer *in = &client->in;
	ssize_t n;

	if (buffer_reserve(in, READ_SIZE) != 0)
		return CLIENT_EOF;
	n = TEMP_FAILURE_RETRY(recv(client->fd, in->data + in->end, READ_SIZE, MSG_DONTWAIT));
	if (n > 0) {
		in->end += n;
		return CLIENT_BUSY;
	}
	return n < 0 && errno == EAGAIN ? CLIENT_WAIT : CLIENT_EOF;
}

static const char *
framing_problem(int rc)
{
	if (rc == -EMSGSIZE)
		return "more than 4 MiB in one request";
	return rc == -ELOOP ? "nested too deep" : "this is not JSON";
}

/* What is in the buffer already. CLIENT_WAIT: no whole document. */
static enum client_input
take_document(struct client *client, json_t **document, struct errmsg *problem)
{
	struct buffer *in = &client->in;
	json_error_t error;
	const char *start;
	size_t used;
	int rc;

	if (in->begin == in->end)
		return CLIENT_WAIT;
	start = in->data + in->begin;
	rc = framing_scan(&client->framing, start + client->scanned,
			  in->end - in->begin - client->scanned, &used);
	client->scanned += used;
	if (rc < 0) {
		err_set(problem, 0, "Parse error: %s", framing_problem(rc));
		return CLIENT_MALFORMED;
	}
	if (rc == 0) {
		if (client->framing.size == 0) { /* white space only */
			buffer_consume(in, client->scanned);
			client->scanned = 0;
		}
		return CLIENT_WAIT;
	}
	*document = json_loadb(start, client->scanned, JSON_REJECT_DUPLICATES, &error);
	buffer_consume(in, client->scanned);
	client->scanned = 0;
	if (*document != NULL)
		return CLIENT_DOCUMENT;
	err_set(problem, 0, "Parse error: %s", error.text);
	return CLIENT_MALFORMED;
}

enum client_input
client_next_document(struct client *client, json_t **document, struct errmsg *problem)
{
	enum client_input input = take_document(client, document, problem);

	for (int i = 0; input == CLIENT_WAIT; i++) {
		if (client->eof)
			return CLIENT_EOF;
		if (i == READS_IN_A_ROW)
			return CLIENT_BUSY;
		input = read_some(client);
		if (input == CLIENT_EOF)
			client->eof = true;
		if (input != CLIENT_BUSY)
			return input;
		input = take_document(client, document, problem);
	}
	return input;
}

enum client_input
client_discard(struct client *client)
{
	enum client_input input = CLIENT_BUSY;

	for (int i = 0; i < READS_IN_A_ROW && input == CLIENT_BUSY; i++) {
		buffer_consume(&client->in, client->in.end - client->in.begin);
		input = read_some(client);
	}
	return input;
}

/* ---- output ---- */

static int
append(const char *data, size_t size, void *arg)
{
	struct buffer *out = arg;

	if (buffer_reserve(out, size) != 0)
		return -1;
	memcpy(out->data + out->end, data, size);
	out->end += size;
	return 0;
}

int
client_answer(struct client *client, json_t *answer)
{
	if (client->write_failed)
		return 0;
	if (client->out.end - client->out.begin > JSONRPC_MAX_BACKLOG)
		return -ENOBUFS;
	if (json_dump_callback(answer, append, &client->out, JSON_COMPACT) != 0 ||
	    append("\n", 1, &client->out) != 0)
		return -ENOMEM;
	return 0;
}

void
client_write(struct client *client)
{
	struct buffer *out = &client->out;

	while (out->begin < out->end) {
		ssize_t n = TEMP_FAILURE_RETRY(send(client->fd, out->data + out->begin,
						    out->end - out->begin,
						    MSG_DONTWAIT | MSG_NOSIGNAL));

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			client->write_failed = true;
			n = out->end - out->begin;
		}
		buffer_consume(out, n);
	}
}

bool
client_has_output(const struct client *client)
{
	return client->out.begin < client->out.end;
}
