/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client: one connection: its bytes in, its documents, its bytes out. Private to the room jsonrpc;
 * all of it on the server's OS thread.
 */
#ifndef VHOSTD_JSONRPC_CLIENT_H
#define VHOSTD_JSONRPC_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "errmsg.h"
#include "framing.h"

struct call;

/* Bytes [begin, end) of data wait to be taken. */
struct buffer {
	char *data;
	size_t begin, end, capacity;
};

struct client {
	LIST_ENTRY(client) link;
	int fd;
	pid_t pid;              /* of who connected, for the log */
	struct call *call;      /* the one that runs for it, or NULL */
	struct framing framing; /* of the document that begins at in.begin */
	size_t scanned;         /* bytes from in.begin that framing has seen */
	struct buffer in;
	struct buffer out;
	bool eof;             /* it sends nothing more */
	bool refused;         /* it sent what cannot be understood: the rest of it is thrown away */
	bool write_failed;    /* it reads nothing more */
	bool said_goodbye;    /* refused: our side is shut down */
	uint64_t deadline_ms; /* refused: how long it may go on sending */
	bool dead;            /* to be closed and freed */
};

/* What a step of input came to. */
enum client_input {
	CLIENT_DOCUMENT, /* *document is a new reference */
	CLIENT_WAIT,     /* nothing more to read now: an event will tell */
	CLIENT_EOF,
	CLIENT_BUSY,      /* it has sent a lot; others first */
	CLIENT_MALFORMED, /* no way to go on; problem says why */
};

/* NULL: no memory. Takes fd. */
struct client *client_create(int fd);
void client_free(struct client *client);

/* The next document, read from the socket if need be. */
enum client_input client_next_document(struct client *client, json_t **document,
				       struct errmsg *problem);
/* Reads and forgets: CLIENT_WAIT, CLIENT_EOF or CLIENT_BUSY. */
enum client_input client_discard(struct client *client);

/*
 * Adds an answer (borrowed) to what is to be written. 0, -ENOMEM, or -ENOBUFS: the client does not
 * read its answers.
 */
int client_answer(struct client *client, json_t *answer);
/* Writes what the socket takes. */
void client_write(struct client *client);
bool client_has_output(const struct client *client);

#endif
