/* SPDX-License-Identifier: BSD-3-Clause */
/* Notifications: numbered without a gap, bounded, and harmless whatever their context says. */
/* links: env */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "notify.h"

#define THREADS 4

static uint64_t
last_id(void)
{
	struct notification event;
	uint64_t id = 0;

	while (notify_next(id + 1, &event))
		id = event.id;
	return id;
}

static const char *
sent_as(const char *ctx)
{
	static struct notification event;
	uint64_t id = last_id() + 1;

	notify_send(NOTIFY_BDEV_REGISTER, "%s", ctx);
	assert_true(notify_next(id, &event));
	assert_int_equal(event.id, id);
	return event.ctx;
}

static void
test_order(void **state)
{
	struct notification event;

	(void)state;
	assert_false(notify_next(0, &event));
	notify_send(NOTIFY_BDEV_REGISTER, "%s", "a");
	notify_send(NOTIFY_VHOST_CONTROLLER_CREATE, "%s.%d", "b", 7);
	assert_true(notify_next(0, &event));
	assert_int_equal(event.id, 1);
	assert_int_equal(event.type, NOTIFY_BDEV_REGISTER);
	assert_string_equal(event.ctx, "a");
	assert_true(notify_next(2, &event));
	assert_int_equal(event.id, 2);
	assert_int_equal(event.type, NOTIFY_VHOST_CONTROLLER_CREATE);
	assert_string_equal(event.ctx, "b.7");
	assert_false(notify_next(3, &event));
	assert_false(notify_next(UINT64_MAX, &event));
}

static void
test_names(void **state)
{
	(void)state;
	for (int i = 0; i < NOTIFY_TYPES; i++) {
		for (int j = 0; j < i; j++)
			assert_string_not_equal(notify_type_name(i), notify_type_name(j));
	}
	assert_string_equal(notify_type_name(NOTIFY_BDEV_REGISTER), "bdev_register");
}

static void
test_oldest_is_forgotten(void **state)
{
	struct notification event;
	uint64_t first = last_id() + 1;

	(void)state;
	for (int i = 0; i < NOTIFY_EVENTS + 10; i++)
		notify_send(NOTIFY_BDEV_RESIZE, "%d", i);
	assert_true(notify_next(first, &event));
	assert_int_equal(event.id, first + 10);
	assert_string_equal(event.ctx, "10");
	for (int i = 11; i < NOTIFY_EVENTS + 10; i++) {
		char expected[16];

		snprintf(expected, sizeof(expected), "%d", i);
		assert_true(notify_next(event.id + 1, &event));
		assert_string_equal(event.ctx, expected);
	}
	assert_false(notify_next(event.id + 1, &event));
}

static void
test_contexts(void **state)
{
	char text[NOTIFY_CTX_MAX + 10];

	(void)state;
	assert_string_equal(sent_as(""), "");
	assert_string_equal(sent_as("\x1b[31m\n\x7f"), "?[31m??");
	assert_string_equal(sent_as("\xc3\xa4\xff\xe2\x82\xac"), "\xc3\xa4?\xe2\x82\xac");
	memset(text, 'x', sizeof(text));
	text[NOTIFY_CTX_MAX] = '\0';
	assert_int_equal(strlen(sent_as(text)), NOTIFY_CTX_MAX);
	text[NOTIFY_CTX_MAX] = 'x';
	text[NOTIFY_CTX_MAX + 1] = '\0';
	assert_int_equal(strlen(sent_as(text)), NOTIFY_CTX_MAX);
	/* Cut in the middle of a character. */
	memcpy(text + NOTIFY_CTX_MAX - 2, "\xe2\x82\xac", 4);
	assert_int_equal(strlen(sent_as(text)), NOTIFY_CTX_MAX - 2);
	memcpy(text + NOTIFY_CTX_MAX - 3, "\xe2\x82\xacx", 5);
	assert_int_equal(strlen(sent_as(text)), NOTIFY_CTX_MAX);
}

static void *
send_many(void *arg)
{
	for (int i = 0; i < NOTIFY_EVENTS / THREADS; i++)
		notify_send(NOTIFY_BDEV_RESIZE, "%d", *(int *)arg);
	return NULL;
}

static void
test_threads(void **state)
{
	static int numbers[THREADS];
	pthread_t threads[THREADS];
	int seen[THREADS] = {0};
	struct notification event;
	uint64_t id = last_id();

	(void)state;
	for (int i = 0; i < THREADS; i++) {
		numbers[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, send_many, &numbers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < NOTIFY_EVENTS; i++) {
		assert_true(notify_next(id + 1, &event));
		assert_int_equal(event.id, id + 1);
		id = event.id;
		seen[event.ctx[0] - '0']++;
	}
	assert_false(notify_next(id + 1, &event));
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(seen[i], NOTIFY_EVENTS / THREADS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order), /* first: it sees the beginning */
		cmocka_unit_test(test_names),    cmocka_unit_test(test_oldest_is_forgotten),
		cmocka_unit_test(test_contexts), cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
