/* SPDX-License-Identifier: BSD-3-Clause */
/* registry: what the server needs of the room's other half. Private to the room jsonrpc. */
#ifndef VHOSTD_JSONRPC_REGISTRY_H
#define VHOSTD_JSONRPC_REGISTRY_H

#include <jansson.h>
#include <stdbool.h>

#include "errmsg.h"

/* What makes changes of the configuration durable; NULL: nothing. App thread. */
void registry_set_commit(int (*commit)(struct errmsg *err));
/* 0 or a negative errno. App thread, in a coroutine [waits]. */
int registry_commit(struct errmsg *err);
/* jsonrpc_call() without commit; *changed: registry_commit() is due before the answer is given. */
int registry_call(json_t *request, bool *changed, json_t **result, struct errmsg *err);

/*
 * Answers a request, or a batch of them. App thread, in a coroutine [waits]. Returns 0 and sets
 * *answer, which shares values with document (NULL: notifications only, nothing to answer), or
 * -ENOMEM.
 */
int dispatch_document(json_t *document, json_t **answer);

/*
 * A new {"jsonrpc", "id", "error"}; id is borrowed, NULL stands for null. Any OS thread. NULL: no
 * memory.
 */
json_t *dispatch_error(json_t *id, int code, const char *message);

#endif
