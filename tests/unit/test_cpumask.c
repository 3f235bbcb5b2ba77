/* SPDX-License-Identifier: BSD-3-Clause */
/* links: env */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cpumask.h"

static const struct {
	const char *text;
	const char *mask; /* NULL: refused */
} spellings[] = {
	{"0x1", "0x1"},
	{"0X3", "0x3"},
	{"0xF0", "0xf0"},
	{"0x0000000000000000000000000000000000000000000000000000000000000000000000003", "0x3"},
	{"0x10000000000000000", "0x10000000000000000"},
	{"0x8000000000000000000000000000000000000000000000000000000000000000",
	 "0x8000000000000000000000000000000000000000000000000000000000000000"},
	{"0", "0x1"},
	{"3", "0x8"},
	{"0,2-3", "0xd"},
	{"[0,2-3]", "0xd"},
	{"[7]", "0x80"},
	{"1-1", "0x2"},
	{"3,1,3", "0xa"},
	{"60-67", "0xff000000000000000"},
	{"255", "0x8000000000000000000000000000000000000000000000000000000000000000"},
	{"", NULL},
	{"0x", NULL},
	{"0x0", NULL},
	{"0xg", NULL},
	{"0x1 ", NULL},
	{"0x10000000000000000000000000000000000000000000000000000000000000000", NULL},
	{"[]", NULL},
	{"[0", NULL},
	{"0]", NULL},
	{"[0]]", NULL},
	{"a", NULL},
	{"-1", NULL},
	{"1-", NULL},
	{"3-1", NULL},
	{"1,", NULL},
	{",1", NULL},
	{"1,,2", NULL},
	{"1-2-3", NULL},
	{" 1", NULL},
	{"256", NULL},
	{"0-256", NULL},
	{"4294967296", NULL},
	{"99999999999999999999999", NULL},
};

static void
test_parse(void **state)
{
	char text[CPUMASK_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
		struct cpumask mask = {{0x5a}};
		int rc = cpumask_parse(&mask, spellings[i].text);

		if (spellings[i].mask == NULL) {
			assert_int_equal(rc, -EINVAL);
			assert_string_equal(cpumask_format(&mask, text), "0x5a"); /* left alone */
			continue;
		}
		assert_int_equal(rc, 0);
		assert_string_equal(cpumask_format(&mask, text), spellings[i].mask);
	}
}

static void
test_format_is_parsed_again(void **state)
{
	struct cpumask mask = {{0}}, again;
	char text[CPUMASK_TEXT_MAX];

	(void)state;
	assert_string_equal(cpumask_format(&mask, text), "0x0");
	for (uint32_t cpu = 0; cpu < CPUMASK_CPUS; cpu++) {
		cpumask_set(&mask, cpu);
		assert_true(cpumask_test(&mask, cpu));
		assert_int_equal(cpumask_count(&mask), cpu + 1);
		assert_int_equal(cpumask_parse(&again, cpumask_format(&mask, text)), 0);
		assert_true(cpumask_equal(&mask, &again));
	}
	assert_int_equal(strlen(text), CPUMASK_TEXT_MAX - 1);
	assert_false(cpumask_test(&mask, CPUMASK_CPUS));
	assert_false(cpumask_test(&mask, UINT32_MAX));
}

static void
test_and(void **state)
{
	struct cpumask a = {{0}}, b = {{0}};

	(void)state;
	assert_true(cpumask_is_empty(&a));
	cpumask_set(&a, 1);
	cpumask_set(&a, 200);
	cpumask_set(&b, 200);
	assert_false(cpumask_equal(&a, &b));
	assert_true(cpumask_and(&a, &b));
	assert_true(cpumask_equal(&a, &b));
	assert_false(cpumask_is_empty(&a));
	b = (struct cpumask){{0}};
	assert_false(cpumask_and(&a, &b));
	assert_true(cpumask_is_empty(&a));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_format_is_parsed_again),
		cmocka_unit_test(test_and),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
