/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * jsonrpc: a JSON-RPC 2.0 server on a Unix stream socket, and the tables that describe its methods.
 *
 * Sockets, parsing and writing are the work of one OS thread of its own (a hostile or slow client
 * costs no reactor anything); each request then runs as a coroutine on the app thread. Requests of
 * one connection run one after the other and are answered in order; connections do not wait for
 * each other.
 */
#ifndef VHOSTD_JSONRPC_H
#define VHOSTD_JSONRPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpumask.h"
#include "errmsg.h"
#include "thread.h"

/* JSON-RPC 2.0 §5.1. Other error codes are negative errnos. */
enum jsonrpc_error {
	JSONRPC_PARSE_ERROR = -32700,
	JSONRPC_INVALID_REQUEST = -32600,
	JSONRPC_METHOD_NOT_FOUND = -32601,
	JSONRPC_INVALID_PARAMS = -32602,
	JSONRPC_INTERNAL_ERROR = -32603,
	JSONRPC_INVALID_STATE = -1, /* what clients know: "Method may only be called ..." */
};

#define JSONRPC_MAX_REQUEST (4u << 20) /* bytes of one request or batch */
#define JSONRPC_MAX_DEPTH   32
#define JSONRPC_MAX_CLIENTS 128
#define JSONRPC_MAX_BACKLOG                                                                        \
	(16u << 20) /* unread answer bytes after which a slow client is dropped */

/*
 * ---- schema: what a method is called and takes; pure data, shared by the server, vhostctl and the
 * documentation ----
 */

enum rpc_type {
	RPC_STRING,  /* const char *   */
	RPC_BOOL,    /* bool           */
	RPC_INT,     /* int64_t        */
	RPC_CPUMASK, /* struct cpumask; a string, as cpumask_parse() reads it */
	RPC_STRINGS, /* struct rpc_strings; an array of strings */
	RPC_NAMES,   /* struct rpc_strings; one string, or an array of strings */
	RPC_JSON,    /* json_t *; any value, borrowed */
};

#define RPC_STRINGS_MAX 64
struct rpc_strings {
	uint32_t count;
	const char *items[RPC_STRINGS_MAX];
};

struct rpc_param {
	const char *name;
	enum rpc_type type;
	bool required;
	size_t offset; /* of the member in the method's parameter struct, which is zeroed first */
	int64_t min,
		max;    /* RPC_INT: inclusive; RPC_STRING: max is the longest in bytes (0: 4096) */
	int64_t preset; /* RPC_INT, RPC_BOOL: the value when absent; documented as default */
	const char *help; /* one line */
};

enum rpc_flags {
	RPC_STARTUP = 1 << 0, /* may be called before framework_start_init */
	RPC_RUNTIME = 1 << 1, /* may be called after it */
	/*
	 * Changes the configuration: the state is committed before it answers success, -EEXIST or
	 * -ENODEV. When that fails, the change is made all the same, and the answer is the error.
	 */
	RPC_CHANGES = 1 << 2,
};

struct rpc_schema {
	const char *name;
	const char *alias; /* an old name that clients use, or NULL */
	const char *room;  /* heading in the documentation: "General", "Block devices", "vhost" */
	unsigned int flags;
	const struct rpc_param *params;
	size_t param_count;
	size_t params_size; /* of the parameter struct */
	const char *help;   /* what it does, and what it answers */
	/* For vhostctl's tables: "name,block_size,blocks=num_blocks" (rpc/params.h); NULL: none. */
	const char *columns;
};

/* ---- methods ---- */

/*
 * Runs in a coroutine on the app thread [waits]. params is the filled parameter struct, valid for
 * the call. On success sets *result (a new value that nobody else keeps: another OS thread will
 * write it out) or leaves it NULL for `true`, and returns 0. Otherwise a negative errno or enum
 * jsonrpc_error, with the sentence in err (empty: strerror's).
 */
typedef int (*rpc_handler)(const void *params, json_t **result, struct errmsg *err);

struct rpc_method {
	const struct rpc_schema *schema;
	rpc_handler handler;
};

/*
 * Before or while the server runs, on the app thread. The array must outlive the server. 0, -EEXIST
 * or -ENOMEM.
 */
int jsonrpc_register(const struct rpc_method *methods, size_t count);
/* The first method, or the one after method (by name); NULL at the end. App thread. */
const struct rpc_method *jsonrpc_method_next(const struct rpc_method *method);

/*
 * Runs one method as a request would, without a socket. App thread, in a coroutine [waits]. request
 * is {"method", "params"}; the checks of parameters and state are the same. Sets *result on
 * success. With `commit` false, an RPC_CHANGES method does not commit (replaying a state).
 */
int jsonrpc_call(json_t *request, bool commit, json_t **result, struct errmsg *err);

/*
 * RPC_STARTUP or RPC_RUNTIME; starts as RPC_STARTUP. 0: stopping, no method may be called; calls
 * that wait for something should end. App thread.
 */
void jsonrpc_set_state(unsigned int state);
unsigned int jsonrpc_get_state(void);

/*
 * Fills `out` (schema->params_size bytes) from a JSON object (NULL: no parameters). Pure. 0, or
 * JSONRPC_INVALID_PARAMS with the parameter named in err. Strings in out belong to params.
 */
int rpc_params_decode(const struct rpc_schema *schema, json_t *params, void *out,
		      struct errmsg *err);

/* ---- server ---- */

struct jsonrpc_server_opts {
	/* Of the socket; at most 107 bytes. Replaces a stale file; a live one is -EADDRINUSE. */
	const char *path;
	unsigned int mode;     /* permissions of the socket file: 0600 */
	struct thread *thread; /* the app thread */
	/*
	 * Makes a change durable before its method answers. In the method's coroutine [waits]. May
	 * be NULL.
	 */
	int (*commit)(struct errmsg *err);
};
/* App thread, in a coroutine [waits]. 0 or a negative errno. */
int jsonrpc_server_start(const struct jsonrpc_server_opts *opts, struct errmsg *err);
/*
 * App thread, in a coroutine [waits]: sets the state to 0; no new requests; waits for running ones
 * (at most 5 s), closes and removes the socket.
 */
void jsonrpc_server_stop(void);

#endif
