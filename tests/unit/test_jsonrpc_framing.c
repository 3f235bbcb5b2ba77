/* SPDX-License-Identifier: BSD-3-Clause */
/* links: jsonrpc env */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "jsonrpc.h"
#include "jsonrpc/framing.h"

/*
 * Feeds data in pieces of at most `piece` bytes; returns the last result and sets *taken to the
 * bytes used.
 */
static int
scan_in_pieces(const char *data, size_t len, size_t piece, size_t *taken)
{
	struct framing framing = {0};
	int rc = 0;

	*taken = 0;
	while (*taken < len && rc == 0) {
		size_t n = len - *taken < piece ? len - *taken : piece;
		size_t used;

		rc = framing_scan(&framing, data + *taken, n, &used);
		assert_true(used <= n);
		if (rc == 0)
			assert_int_equal(used, n);
		*taken += used;
	}
	return rc;
}

static void
test_ends_of_documents(void **state)
{
	static const char *const documents[] = {
		"{}",
		"[]",
		" \n\t\r{\"a\":1}",
		"{\"a\":{\"b\":[1,2,{\"c\":null}]},\"d\":-1.5e+3}",
		"{\"brackets\":\"}]{[\"}",
		"{\"quote\":\"\\\"}\"}",
		"{\"backslash\":\"\\\\\"}",
		"{\"\\\\\\\"\":true}",
		"[{\"id\":1},{\"id\":\"\xc3\xa9\"}]",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(documents) / sizeof(documents[0]); i++) {
		size_t len = strlen(documents[i]);
		char *followed;

		assert_true(asprintf(&followed, "%s%s", documents[i], "{\"next\":1}") > 0);
		for (size_t piece = 1; piece <= len + 3; piece++) {
			size_t taken;

			assert_int_equal(scan_in_pieces(followed, strlen(followed), piece, &taken),
					 1);
			assert_int_equal(taken, len);
		}
		free(followed);
	}
}

static void
test_no_document_is_complete_early(void **state)
{
	static const char document[] = "[{\"a\":\"}\\\"\"},[[]],{}]";
	size_t taken;

	(void)state;
	for (size_t len = 0; len < strlen(document); len++)
		assert_int_equal(scan_in_pieces(document, len, 4096, &taken), 0);
	assert_int_equal(scan_in_pieces(document, strlen(document), 4096, &taken), 1);
}

static void
test_refuses_what_is_not_json(void **state)
{
	static const char *const bad[] = {
		"x",
		"1",
		"\"text\"",
		"null",
		"]",
		"}",
		"GET / HTTP/1.1\r\n",
		"{\"a\":1]",
		"[1}",
		"{'a':1}",
		"{\"a\":\x01}",
		"{\"a\n\":1}",
		"{\"a\":\x80}",
		"[\"\x1f\"]",
		"<xml/>",
		"{;}",
		"\xef\xbb\xbf{}",
	};
	size_t taken;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(scan_in_pieces(bad[i], strlen(bad[i]), 1, &taken), -EINVAL);
	assert_int_equal(scan_in_pieces("{\"a\":\0}", 7, 16, &taken), -EINVAL);
	assert_int_equal(scan_in_pieces("\0", 1, 16, &taken), -EINVAL);
	assert_int_equal(scan_in_pieces("[\"\0\"]", 5, 16, &taken), -EINVAL);
}

static void
test_depth(void **state)
{
	char text[2 * JSONRPC_MAX_DEPTH + 4];
	size_t taken;

	(void)state;
	memset(text, '[', JSONRPC_MAX_DEPTH);
	memset(text + JSONRPC_MAX_DEPTH, ']', JSONRPC_MAX_DEPTH);
	assert_int_equal(scan_in_pieces(text, 2 * JSONRPC_MAX_DEPTH, 7, &taken), 1);
	memset(text, '[', JSONRPC_MAX_DEPTH + 1);
	assert_int_equal(scan_in_pieces(text, JSONRPC_MAX_DEPTH + 1, 7, &taken), -ELOOP);
	/* Not the depth counts but how many are open at once. */
	memset(text, ' ', sizeof(text));
	text[0] = '[';
	for (int i = 1; i < 2 * JSONRPC_MAX_DEPTH; i += 2)
		memcpy(text + i, "[]", 2);
	text[2 * JSONRPC_MAX_DEPTH + 2] = ']';
	assert_int_equal(scan_in_pieces(text, sizeof(text), 3, &taken), 1);
}

static void
test_size(void **state)
{
	size_t size = JSONRPC_MAX_REQUEST + 64;
	char *text = malloc(size);
	size_t taken;

	(void)state;
	memset(text, 'a', size);
	memcpy(text, "[\"", 2);
	memcpy(text + JSONRPC_MAX_REQUEST - 2, "\"]", 2);
	assert_int_equal(scan_in_pieces(text, size, 4096, &taken), 1);
	assert_int_equal(taken, JSONRPC_MAX_REQUEST);
	memset(text + 2, 'a', size - 2);
	assert_int_equal(scan_in_pieces(text, size, 4096, &taken), -EMSGSIZE);
	assert_int_equal(taken, JSONRPC_MAX_REQUEST + 1);
	/* White space before a document is nobody's. */
	memset(text, ' ', size);
	assert_int_equal(scan_in_pieces(text, size, 4096, &taken), 0);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ends_of_documents),
		cmocka_unit_test(test_no_document_is_complete_early),
		cmocka_unit_test(test_refuses_what_is_not_json),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_size),
	};

	return cmocka_run_group_tests_name("jsonrpc framing", tests, NULL, NULL);
}
