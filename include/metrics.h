/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * metrics: what the daemon counts, for Prometheus and for JSON-RPC. One table (lib/metrics/table.c)
 * says what there is; both forms come from it.
 *
 * The counters belong to reactors. They are collected on the app thread, in a coroutine that asks
 * each owner in turn, and the result is handed over whole to who writes it out: no reactor does
 * that, nor waits for a client.
 */
#ifndef VHOSTD_METRICS_H
#define VHOSTD_METRICS_H

#include <jansson.h>
#include <stddef.h>

#include "errmsg.h"
#include "thread.h"

/*
 * App thread, in a coroutine [waits]. New: the records that metrics_text() and metrics_json() read,
 * an array for each group of the table. What goes away meanwhile is left out. NULL: no memory.
 */
json_t *metrics_collect(void);

/*
 * Any OS thread that has the records to itself; they stay the caller's. New: the text exposition
 * format of Prometheus, version 0.0.4, and its length in bytes. NULL: no memory.
 */
char *metrics_text(const json_t *records, size_t *length);
#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"
/* The same as an array of {name, type, help, samples}. NULL: no memory. */
json_t *metrics_json(const json_t *records);

/* ---- over HTTP ---- */

struct metrics_server_opts {
	const char *address;   /* "unix:PATH" or "127.0.0.1:PORT" */
	struct thread *thread; /* the app thread */
	/* What is answered: metrics_collect(). On thread, in a coroutine. */
	json_t *(*collect)(void);
};
/* Whether an address has one of these forms: 0 or -EINVAL. Pure. */
int metrics_address_check(const char *address);
/*
 * App thread. Answers GET /metrics from now on, on an OS thread of its own. The owner and the group
 * of a socket file may connect to it. A connection gets one answer, and METRICS_CONNECTION_MS for
 * all of it; there are METRICS_CONNECTIONS_MAX at a time, and others wait. However many ask,
 * METRICS_FRESH_MS is between two collections, and one that takes longer than METRICS_COLLECT_MS is
 * answered by an error. 0, -EINVAL, -EALREADY, -ENOMEM, or why it cannot listen there.
 */
#define METRICS_CONNECTIONS_MAX 128
#define METRICS_CONNECTION_MS   10000
#define METRICS_COLLECT_MS      5000
#define METRICS_FRESH_MS        100
int metrics_server_start(const struct metrics_server_opts *opts, struct errmsg *err);
/*
 * App thread, in a coroutine [waits], for at most METRICS_COLLECT_MS. Nothing happens when none was
 * started.
 */
void metrics_server_stop(void);

#endif
