/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A daemon that is killed in the middle of reads and writes on four queues, and starts again: every
 * request is completed once, and every block is what it must be. $VHOSTD_KILL_ROUNDS says how
 * often; `make test` asks for 50.
 */
/* links: client testlib */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <linux/virtio_blk.h>

#include "crash.h"

#define ROUNDS      4
#define DISCONNECTS 15 /* for each kill */

static unsigned int
rounds(void)
{
	const char *text = getenv("VHOSTD_KILL_ROUNDS");

	return text != NULL ? (unsigned int)strtoul(text, NULL, 10) : ROUNDS;
}

static void
check_kills(bool packed)
{
	static struct crash crash;
	uint64_t us;

	assert_int_equal(crash_open(&crash, packed, rounds()), 0);
	for (unsigned int i = 0; i < rounds(); i++)
		assert_int_equal(crash_round(&crash, &us), 0);
	assert_int_equal(crash_close(&crash), 0);
}

static void
test_kills_split(void **state)
{
	(void)state;
	check_kills(false);
}

static void
test_kills_packed(void **state)
{
	(void)state;
	check_kills(true);
}

/*
 * The front-end comes and goes while its requests are in the device, the daemon stays, and then it
 * does not.
 */
static void
check_disconnects(bool packed)
{
	static struct crash crash;
	uint64_t us;

	assert_int_equal(crash_open(&crash, packed, rounds() + 1), 0);
	for (int i = 0; i < 2; i++) {
		for (unsigned int j = 0; j < DISCONNECTS; j++)
			assert_int_equal(crash_disconnect(&crash), 0);
		assert_int_equal(crash_round(&crash, &us), 0);
	}
	assert_int_equal(crash_close(&crash), 0);
}

/*
 * A driver that has chosen write-through sends no flushes, and its front-end does not repeat the
 * choice: the next daemon must know of it. Durability itself: tests/unit/test_vhost_blk.c.
 */
static void
test_cache_mode(void **state)
{
	const uint32_t wce = offsetof(struct virtio_blk_config, wce);
	static struct crash crash;
	uint64_t us;

	(void)state;
	assert_int_equal(crash_open(&crash, false, 1), 0);
	for (int i = 0; i < 4; i++) {
		struct client *c = &crash.load.device.client;
		uint8_t value = (uint8_t)(i % 2), kept = 9;

		assert_int_equal(client_set_config(c, wce, 1, &value, true), 0);
		assert_int_equal(crash_round(&crash, &us), 0);
		assert_int_equal(client_get_config(c, wce, 1, &kept), 0);
		assert_int_equal(kept, value);
	}
	assert_int_equal(crash_close(&crash), 0);
}

static void
test_disconnects_split(void **state)
{
	(void)state;
	check_disconnects(false);
}

static void
test_disconnects_packed(void **state)
{
	(void)state;
	check_disconnects(true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kills_split),        cmocka_unit_test(test_kills_packed),
		cmocka_unit_test(test_cache_mode),         cmocka_unit_test(test_disconnects_split),
		cmocka_unit_test(test_disconnects_packed),
	};

	return cmocka_run_group_tests_name("vhost_kill", tests, NULL, NULL);
}
