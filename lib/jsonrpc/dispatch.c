/* SPDX-License-Identifier: BSD-3-Clause */
/* dispatch: a request becomes an answer, as JSON-RPC 2.0 says. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonrpc.h"
#include "log.h"
#include "registry.h"

#define BATCH_MAX   1024 /* requests: each takes two bytes to send and a hundred to answer */
#define ERRNO_MAX   4095
#define MESSAGE_MAX (ERRMSG_MAX + 128)

static const char *
standard_message(int code)
{
	switch (code) {
	case JSONRPC_PARSE_ERROR:
		return "Parse error";
	case JSONRPC_INVALID_REQUEST:
		return "Invalid request";
	case JSONRPC_METHOD_NOT_FOUND:
		return "Method not found";
	case JSONRPC_INVALID_PARAMS:
		return "Invalid parameters";
	case JSONRPC_INTERNAL_ERROR:
		return "Internal error";
	default:
		return strerror(-code);
	}
}

/*
 * Clients look for the words of an errno ("File exists", "No such device"): they follow the
 * sentence that names the object, unless it has them already.
 */
static void
compose_message(int code, const struct errmsg *err, char message[MESSAGE_MAX])
{
	const char *standard = standard_message(code);
	bool is_errno = code < 0 && code >= -ERRNO_MAX && code != JSONRPC_INVALID_STATE;

	if (err->text[0] == '\0')
		snprintf(message, MESSAGE_MAX, "%s", standard);
	else if (is_errno && strcasestr(err->text, standard) == NULL)
		snprintf(message, MESSAGE_MAX, "%s: %s", err->text, standard);
	else
		snprintf(message, MESSAGE_MAX, "%s", err->text);
}

json_t *
dispatch_error(json_t *id, int code, const char *message)
{
	return json_pack("{s:s, s:O, s:{s:i, s:s}}", "jsonrpc", "2.0", "id",
			 id != NULL ? id : json_null(), "error", "code", code, "message", message);
}

static json_t *
failure(json_t *id, const char *method, int code, const struct errmsg *err)
{
	char message[MESSAGE_MAX];

	if (code > 0)
		code = JSONRPC_INTERNAL_ERROR;
	compose_message(code, err, message);
	log_notice("rpc: %s: %s (%d)", method != NULL ? method : "request", message, code);
	return dispatch_error(id, code, message);
}

static bool
is_valid_id(json_t *id)
{
	return json_is_string(id) || json_is_number(id) || json_is_null(id);
}

/* What a request has come to. */
struct outcome {
	bool changed; /* its change is to be made durable */
	int rc;
	json_t *result;
	struct errmsg err;
};

static void
run_request(json_t *request, struct outcome *outcome)
{
	json_t *id = json_object_get(request, "id");

	if (id == NULL || is_valid_id(id))
		outcome->rc =
			registry_call(request, &outcome->changed, &outcome->result, &outcome->err);
	else
		outcome->rc = err_set(&outcome->err, JSONRPC_INVALID_REQUEST,
				      "Invalid request: id must be a string, a number or null");
}

/* Once for all of them: until then none of them has been answered. */
static void
commit_changes(struct outcome *outcomes, size_t count)
{
	struct errmsg problem = {0};
	bool changed = false;
	int rc;

	for (size_t i = 0; i < count; i++)
		changed |= outcomes[i].changed;
	rc = changed ? registry_commit(&problem) : 0;
	for (size_t i = 0; i < count && rc != 0; i++) {
		if (outcomes[i].changed) {
			outcomes[i].rc = rc;
			outcomes[i].err = problem;
		}
	}
}

/* *answer stays NULL for a notification. */
static int
compose_answer(json_t *request, const struct outcome *outcome, json_t **answer)
{
	json_t *id = json_object_get(request, "id");
	const char *method = json_string_value(json_object_get(request, "method"));
	bool is_notification = id == NULL && outcome->rc != JSONRPC_INVALID_REQUEST;

	if (!is_valid_id(id))
		id = NULL;
	if (outcome->rc != 0)
		*answer = failure(id, method, outcome->rc, &outcome->err);
	else
		*answer = json_pack("{s:s, s:O, s:O}", "jsonrpc", "2.0", "id",
				    id != NULL ? id : json_null(), "result", outcome->result);
	if (*answer == NULL)
		return -ENOMEM;
	/* What is no request cannot be a notification. */
	if (is_notification) {
		json_decref(*answer);
		*answer = NULL;
	}
	return 0;
}

static int
answer_request(json_t *request, json_t **answer)
{
	struct outcome outcome = {0};
	int rc;

	run_request(request, &outcome);
	commit_changes(&outcome, 1);
	rc = compose_answer(request, &outcome, answer);
	json_decref(outcome.result);
	return rc;
}

static int
compose_answers(json_t *batch, const struct outcome *outcomes, json_t **answer)
{
	json_t *answers = json_array();
	json_t *request;
	size_t i;
	int rc = answers != NULL ? 0 : -ENOMEM;

	json_array_foreach (batch, i, request) {
		json_t *one = NULL;

		if (rc == 0)
			rc = compose_answer(request, &outcomes[i], &one);
		if (one != NULL && json_array_append_new(answers, one) != 0)
			rc = -ENOMEM;
	}
	if (rc != 0 || json_array_size(answers) == 0) {
		json_decref(answers);
		return rc;
	}
	*answer = answers;
	return 0;
}

static int
answer_batch(json_t *batch, json_t **answer)
{
	size_t count = json_array_size(batch);
	struct outcome *outcomes = calloc(count, sizeof(*outcomes));
	int rc;

	if (outcomes == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		run_request(json_array_get(batch, i), &outcomes[i]);
	commit_changes(outcomes, count);
	rc = compose_answers(batch, outcomes, answer);
	for (size_t i = 0; i < count; i++)
		json_decref(outcomes[i].result);
	free(outcomes);
	return rc;
}

int
dispatch_document(json_t *document, json_t **answer)
{
	const char *problem = NULL;

	*answer = NULL;
	if (!json_is_array(document))
		return answer_request(document, answer);
	if (json_array_size(document) == 0)
		problem = "Invalid request: an empty batch";
	else if (json_array_size(document) > BATCH_MAX)
		problem = "Invalid request: a batch of more than 1024 requests";
	if (problem == NULL)
		return answer_batch(document, answer);
	*answer = dispatch_error(NULL, JSONRPC_INVALID_REQUEST, problem);
	return *answer != NULL ? 0 : -ENOMEM;
}
