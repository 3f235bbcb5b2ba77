/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhostctl: the command-line client. It shares the schemas with the daemon and nothing else.
 * Private to rpc/.
 */
#ifndef VHOSTD_VHOSTCTL_H
#define VHOSTD_VHOSTCTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "errmsg.h"
#include "jsonrpc.h"

#define DEFAULT_SOCKET    "/run/vhostd/rpc.sock"
#define SOCKET_ENV        "VHOSTD_RPC_SOCKET"
#define DEFAULT_TIMEOUT_S 60

/* Exit statuses. */
enum vhostctl_status {
	STATUS_OK = 0,
	STATUS_FAILED = 1, /* the daemon says no, or is not there */
	STATUS_USAGE = 2,
};

struct vhostctl_opts {
	const char *socket;
	bool json;
	long timeout_s; /* for one call, from connecting to its answer */
};

/*
 * Calls one method; params is borrowed, NULL: none. Sets *result (a new reference) or says in err
 * why not.
 */
enum vhostctl_status ctl_call(const struct vhostctl_opts *opts, const char *method, json_t *params,
			      json_t **result, struct errmsg *err);

/*
 * Calls one method once with each of an array of params (borrowed, not empty), all in one batch:
 * nothing comes between them. Sets *results to an array in the same order (a new reference, also on
 * failure).
 */
enum vhostctl_status ctl_call_each(const struct vhostctl_opts *opts, const char *method,
				   json_t *params_of_each, json_t **results, struct errmsg *err);

struct ctl_question {
	const char *method;
	json_t *params; /* borrowed; NULL: none */
};

/*
 * Calls several methods in one batch. Sets results[] to what each answered (a new reference), or to
 * NULL where that was an error: the daemon may be older or newer. Fails as a whole, all of them
 * NULL, only if there is no daemon that answers.
 */
enum vhostctl_status ctl_call_all(const struct vhostctl_opts *opts,
				  const struct ctl_question *questions, size_t count,
				  json_t **results, struct errmsg *err);

/*
 * Makes params of "--name value" arguments; checks them as the daemon will. *params: a new
 * reference, or NULL: none.
 */
enum vhostctl_status ctl_parse_args(const struct rpc_schema *schema, char **args, json_t **params,
				    struct errmsg *err);
/* The method of that name or old name in the tables; NULL: none. */
const struct rpc_schema *ctl_find_schema(const char *name);
/* Whether two names are the same but for '-' and '_'. */
bool ctl_same_name(const char *a, const char *b);

/*
 * What a device, a guest or the daemon named must not move the cursor: control characters (C0, DEL,
 * C1), and what is not UTF-8, become '?', in place. Returns text, which may be NULL.
 */
char *ctl_make_printable(char *text);

/* Prints an answer for people: a table where schema (may be NULL) names columns. */
void ctl_print_result(const struct rpc_schema *schema, json_t *result);
void ctl_print_json(json_t *value);

void ctl_print_usage(FILE *file);
void ctl_print_help(void);
void ctl_print_method_usage(FILE *file, const struct rpc_schema *schema);
void ctl_print_method_help(const struct rpc_schema *schema);
/* docs/rpc.md */
void ctl_print_markdown(void);

/* args: what follows the command, NULL-terminated. */
enum vhostctl_status ctl_save_config(const struct vhostctl_opts *opts, char **args,
				     struct errmsg *err);
enum vhostctl_status ctl_nvme(const struct vhostctl_opts *opts, char **args, struct errmsg *err);
enum vhostctl_status ctl_libvirt(const struct vhostctl_opts *opts, char **args, struct errmsg *err);
enum vhostctl_status ctl_provision(const struct vhostctl_opts *opts, char **args,
				   struct errmsg *err);
enum vhostctl_status ctl_top(const struct vhostctl_opts *opts, char **args, struct errmsg *err);
enum vhostctl_status ctl_trace(const struct vhostctl_opts *opts, char **args, struct errmsg *err);
enum vhostctl_status ctl_bench(const struct vhostctl_opts *opts, char **args, struct errmsg *err);
enum vhostctl_status ctl_doctor(const struct vhostctl_opts *opts, char **args, struct errmsg *err);
enum vhostctl_status ctl_load_config(const struct vhostctl_opts *opts, char **args,
				     struct errmsg *err);

#endif
