/* SPDX-License-Identifier: BSD-3-Clause */
/* registry: what the server needs of the room's other half. Private to the room jsonrpc. */
#ifndef VHOSTD_JSONRPC_REGISTRY_H
#define VHOSTD_JSONRPC_REGISTRY_H

#include <jansson.h>

#include "errmsg.h"

/* What jsonrpc_call() runs after a method that changes the configuration; NULL: nothing. App thread. */
void registry_set_commit(int (*commit)(struct errmsg *err));

/*
 * Answers a request, or a batch of them. App thread, in a coroutine [waits]. Returns 0 and sets *answer, which shares
 * values with document (NULL: notifications only, nothing to answer), or -ENOMEM.
 */
int dispatch_document(json_t *document, json_t **answer);

/* A new {"jsonrpc", "id", "error"}; id is borrowed, NULL stands for null. Any OS thread. NULL: no memory. */
json_t *dispatch_error(json_t *id, int code, const char *message);

#endif
