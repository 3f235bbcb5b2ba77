/* SPDX-License-Identifier: BSD-3-Clause */
/* dispatch: a request becomes an answer, as JSON-RPC 2.0 says. */
#include <errno.h>
#include <stdio.h>
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
 * Clients look for the words of an errno ("File exists", "No such device"): they follow the sentence that
 * names the object, unless it has them already.
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

/* *answer stays NULL for a notification. */
static int
answer_request(json_t *request, json_t **answer)
{
	const char *method = json_string_value(json_object_get(request, "method"));
	json_t *id = json_object_get(request, "id");
	struct errmsg err = {0};
	json_t *result = NULL;
	int rc;

	if (id != NULL && !is_valid_id(id)) {
		id = NULL;
		rc = err_set(&err, JSONRPC_INVALID_REQUEST,
			     "Invalid request: id must be a string, a number or null");
	} else {
		rc = jsonrpc_call(request, true, &result, &err);
	}
	if (rc != 0)
		*answer = failure(id, method, rc, &err);
	else
		*answer = json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id",
				    id != NULL ? id : json_null(), "result", result);
	if (*answer == NULL)
		return -ENOMEM;
	/* What is no request cannot be a notification. */
	if (json_object_get(request, "id") == NULL && rc != JSONRPC_INVALID_REQUEST) {
		json_decref(*answer);
		*answer = NULL;
	}
	return 0;
}

static int
answer_batch(json_t *batch, json_t **answer)
{
	json_t *answers = json_array();
	json_t *request;
	size_t i;
	int rc = answers != NULL ? 0 : -ENOMEM;

	json_array_foreach (batch, i, request) {
		json_t *one = NULL;

		if (rc != 0)
			break;
		rc = answer_request(request, &one);
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
