/* SPDX-License-Identifier: BSD-3-Clause */
/* links: env */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "errmsg.h"

static void
test_returns_rc(void **state)
{
	struct errmsg err = {""};

	(void)state;
	assert_int_equal(err_set(&err, -EBUSY, "bdev %s: %d", "disk0", 7), -EBUSY);
	assert_string_equal(err.text, "bdev disk0: 7");
	assert_int_equal(err_set(NULL, -ENOENT, "nobody reads %s", "this"), -ENOENT);
}

static void
test_may_quote_itself(void **state)
{
	struct errmsg err = {""};

	(void)state;
	err_set(&err, -EIO, "no such file");
	err_set(&err, -EIO, "disk0: %s", err.text);
	assert_string_equal(err.text, "disk0: no such file");
}

static void
test_is_utf8(void **state)
{
	static const struct {
		const char *in;
		const char *out;
	} cases[] = {
		{"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
		 "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
		{"\xff/\xc3", "?/?"},         /* never a byte; cut off */
		{"\xc3(", "?("},              /* no continuation */
		{"\x80", "?"},                /* stray continuation */
		{"\xc0\xaf", "??"},           /* overlong '/' */
		{"\xe0\x80\xaf", "???"},      /* overlong '/' */
		{"\xed\xa0\x80", "???"},      /* surrogate */
		{"\xf4\x90\x80\x80", "????"}, /* above U+10FFFF */
		{"\xf5\x80\x80\x80", "????"},
		{"a line\n", "a line"},
		{"\n", ""},
	};
	struct errmsg err;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		err_set(&err, -EINVAL, "%s", cases[i].in);
		assert_string_equal(err.text, cases[i].out);
	}
}

static void
test_is_cut(void **state)
{
	char wide[ERRMSG_MAX * 3];
	struct errmsg err;

	(void)state;
	memset(wide, 'x', sizeof(wide));
	wide[sizeof(wide) - 1] = '\0';
	err_set(&err, -EINVAL, "%s", wide);
	assert_int_equal(strlen(err.text), ERRMSG_MAX - 1);
	/* The last character that fits only in part is not left as half of one. */
	memcpy(wide + ERRMSG_MAX - 2, "\xc3\xbc", 2);
	err_set(&err, -EINVAL, "%s", wide);
	assert_int_equal(strlen(err.text), ERRMSG_MAX - 1);
	assert_int_equal(err.text[ERRMSG_MAX - 2], '?');
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_returns_rc),
		cmocka_unit_test(test_may_quote_itself),
		cmocka_unit_test(test_is_utf8),
		cmocka_unit_test(test_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
