/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors that a front-end sends and that are not good to have: closing one can take as long as
 * its owner likes. Neither other front-ends nor guests wait for that.
 */
/* links: client testlib */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "vhost_rig.h"

/* ---- sockets that linger ---- */

#define MANY (CLIENT_MAX_FDS + 2)

static int peers[16];
static unsigned int peer_count;

/*
 * A TCP socket with data that nobody reads: whoever closes it last waits until it is read, for a
 * day if need be.
 */
static int
make_lingering(void)
{
	static const struct linger linger = {.l_onoff = 1, .l_linger = 86400};
	static const char data[65536];
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_true(peer_count < sizeof(peers) / sizeof(peers[0]));
	peers[peer_count] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(peers[peer_count++] >= 0);
	close(listener);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	return fd;
}

static int
close_peers(void **state)
{
	while (peer_count > 0)
		close(peers[--peer_count]);
	return rig_teardown(state);
}

/* With a socket that lingers. The daemon stands still until it alone has a descriptor of that. */
static void
send_lingering(struct client *c, uint32_t request, uint32_t size)
{
	uint8_t bytes[sizeof(struct client_header) + 64] = {0};
	struct client_header header = {
		.request = request, .flags = CLIENT_VERSION | CLIENT_NEED_REPLY, .size = size};
	int fd = make_lingering();

	memcpy(bytes, &header, sizeof(header));
	assert_int_equal(kill(rig_daemon.pid, SIGSTOP), 0);
	assert_int_equal(client_send_raw(c, bytes, sizeof(header) + size, &fd, 1), 0);
	close(fd);
	assert_int_equal(kill(rig_daemon.pid, SIGCONT), 0);
}

static void
send_with(struct client *c, const struct client_header *header, const int *fds, int count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(MANY * sizeof(int))] = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)header, .iov_len = sizeof(*header)};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = CMSG_SPACE(count * sizeof(int))};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	assert_int_equal(sendmsg(c->fd, &message, MSG_NOSIGNAL), sizeof(*header));
}

/* More of them than any message may have, of which the last ones linger. */
static void
test_too_many(void **state)
{
	const struct client_header header = {.request = CLIENT_GET_FEATURES,
					     .flags = CLIENT_VERSION};
	int fds[MANY];
	struct client c;

	(void)state;
	for (int i = 0; i < MANY - 2; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
	fds[MANY - 2] = make_lingering();
	fds[MANY - 1] = make_lingering();
	assert_int_equal(client_connect(&c, rig_socket("disk"), DEADLINE_MS), 0);
	assert_int_equal(kill(rig_daemon.pid, SIGSTOP), 0);
	send_with(&c, &header, fds, MANY);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	assert_int_equal(kill(rig_daemon.pid, SIGCONT), 0);
	assert_int_equal(client_wait_closed(&c, DEADLINE_MS), 0);
	client_close(&c);
}

/* By an answer, or the end of the connection. */
static void
expect_refusal(struct client *c)
{
	struct client_message reply;
	int rc = client_receive(c, &reply, DEADLINE_MS);

	if (rc == 0)
		assert_int_not_equal(reply.payload.u64, 0);
	else
		assert_int_equal(rc, -ECONNRESET);
}

/* Where it is not wanted, and where the wrong one came. */
static void
test_refused(void **state)
{
	static const struct {
		uint32_t request, size;
	} messages[] = {
		{CLIENT_SET_FEATURES, 8},  {CLIENT_SET_VRING_KICK, 8},   {CLIENT_SET_VRING_CALL, 8},
		{CLIENT_SET_VRING_ERR, 8}, {CLIENT_SET_INFLIGHT_FD, 24}, {99, 0},
	};
	struct client c;

	(void)state;
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
		assert_int_equal(client_connect(&c, rig_socket("disk"), DEADLINE_MS), 0);
		send_lingering(&c, messages[i].request, messages[i].size);
		expect_refusal(&c);
		client_close(&c);
	}
}

/*
 * Nor is it taken for our own requests, of which the main thread sends some: it is closed when
 * another one comes.
 */
static void
test_back_end_socket(void **state)
{
	struct client c;

	(void)state;
	assert_int_equal(client_connect(&c, rig_socket("disk"), DEADLINE_MS), 0);
	for (int i = 0; i < 2; i++)
		send_lingering(&c, CLIENT_SET_BACKEND_REQ_FD, 0);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_controller_resize",
				     json_pack("{s:s}", "ctrlr", "disk")),
			 0);
	rig_check();
	for (int i = 0; i < 2; i++)
		expect_refusal(&c);
	client_close(&c);
}

#define LINGER_TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, close_peers)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		LINGER_TEST(test_refused),
		LINGER_TEST(test_too_many),
		LINGER_TEST(test_back_end_socket),
		cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_descriptors", tests, rig_group_setup,
					   rig_group_teardown);
}
