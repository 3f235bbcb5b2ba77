/* SPDX-License-Identifier: BSD-3-Clause */
/* Telling a front-end of a new configuration: one message on its channel, and never a wait. */
/* links: vhost virtio bdev event thread env */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "vhost/controller.h"

static struct vhost_controller controller;
static int peer;

static int
setup(void **state)
{
	int fds[2];

	(void)state;
	memset(&controller, 0, sizeof(controller));
	strcpy(controller.name, "test");
	controller.endpoint.controller = &controller;
	controller.endpoint.backend_fd = -1;
	pthread_mutex_init(&controller.endpoint.backend_lock, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	peer = fds[0];
	vhost_user_set_backend_fd(&controller.endpoint, fds[1]);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	vhost_user_set_backend_fd(&controller.endpoint, -1);
	if (peer >= 0)
		close(peer);
	pthread_mutex_destroy(&controller.endpoint.backend_lock);
	return 0;
}

static void
test_message(void **state)
{
	static const uint32_t expected[3] = {2 /* CONFIG_CHANGE */, 1 /* version */, 0 /* size */};
	uint32_t header[4];

	(void)state;
	vhost_controller_config_changed(&controller);
	assert_int_equal(recv(peer, header, sizeof(header), MSG_DONTWAIT), sizeof(expected));
	assert_memory_equal(header, expected, sizeof(expected));
}

/* Nobody reads: the call returns all the same. */
static void
test_full_channel(void **state)
{
	(void)state;
	for (int i = 0; i < 1000; i++)
		vhost_controller_config_changed(&controller);
}

/* Neither a signal nor an error for the caller. */
static void
test_closed_channel(void **state)
{
	(void)state;
	close(peer);
	peer = -1;
	vhost_controller_config_changed(&controller);
	vhost_user_set_backend_fd(&controller.endpoint, -1);
	vhost_controller_config_changed(&controller);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_message, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_channel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_channel, setup, teardown),
	};

	return cmocka_run_group_tests_name("vhost_config_change", tests, NULL, NULL);
}
