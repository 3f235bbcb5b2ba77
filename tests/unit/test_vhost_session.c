/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sessions without sockets: the test is the vhost-events thread, another OS thread polls the
 * controller's, and the device keeps requests for as long as the test wants.
 */
/* links: vhost virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=completion_wait */
#include <linux/virtio_config.h>

#include "vhost_session_rig.h"

/* ---- messages ---- */

static int
send_mem_table(void)
{
	struct vhost_mem_region region = {.gpa = GPA, .size = MEMORY_SIZE, .user_addr = USER};

	return vhost_session_set_mem_table(session, &region, &memory_fd, 1);
}

static int
send_num(void)
{
	return vhost_session_set_vring_num(session, 0, RING_SIZE);
}

static int
send_addr(void)
{
	struct vhost_ring_addr addr = {
		.desc = USER + DESC, .avail = USER + AVAIL, .used = USER + USED};

	return vhost_session_set_vring_addr(session, 0, &addr);
}

static int
send_kick(void)
{
	kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return vhost_session_set_vring_kick(session, 0, kick_fd);
}

static int
send_enable(void)
{
	return vhost_session_set_vring_enable(session, 0, true);
}

static int
send_features(void)
{
	return vhost_session_set_features(session, FEATURES);
}

typedef int (*send_fn)(void);
static const send_fn start_messages[] = {send_mem_table, send_num, send_addr, send_kick,
					 send_enable};
#define START_MESSAGES (sizeof(start_messages) / sizeof(start_messages[0]))

static void
send_call(void)
{
	call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(vhost_session_set_vring_call(session, 0, dup(call_fd)), 0);
}

static void
start(void)
{
	assert_int_equal(send_features(), 0);
	for (size_t i = 0; i < START_MESSAGES; i++)
		assert_int_equal(start_messages[i](), 0);
	assert_true(session->vrings[0].running);
}

static uint32_t
get_base(void)
{
	uint32_t base = 0xdead;

	assert_int_equal(vhost_session_get_vring_base(session, 0, &base), 0);
	assert_false(session->vrings[0].running);
	return base;
}

/* ---- the driver ---- */

static void
offer(void)
{
	struct vring_desc *desc = (struct vring_desc *)(memory + DESC);
	struct vring_avail *avail = (struct vring_avail *)(memory + AVAIL);
	uint16_t slot = avail_index % RING_SIZE;

	desc[slot] =
		(struct vring_desc){.addr = GPA + BUFFER, .len = 16, .flags = VRING_DESC_F_WRITE};
	avail->ring[slot] = slot;
	__atomic_store_n(&avail->idx, ++avail_index, __ATOMIC_RELEASE);
}

static uint16_t
used_index(void)
{
	return __atomic_load_n(&((struct vring_used *)(memory + USED))->idx, __ATOMIC_ACQUIRE);
}

static bool
wait_for_used(uint16_t index, uint64_t timeout_ms)
{
	uint64_t end = now_ms() + timeout_ms;

	while (used_index() != index) {
		if (now_ms() > end)
			return false;
		sched_yield();
	}
	return true;
}

static void
wait_for_handled(unsigned int count)
{
	uint64_t end = now_ms() + DEADLINE_MS;

	while (device.handled != count) {
		assert_true(now_ms() < end);
		sched_yield();
	}
}

static void
do_one(void)
{
	offer();
	assert_true(wait_for_used(avail_index, DEADLINE_MS));
}

static uint64_t
read_eventfd(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	uint64_t value = 0;

	if (poll(&pollfd, 1, DEADLINE_MS) == 1)
		assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
	return value;
}

/* ---- starting ---- */

static void
reset_rings(void)
{
	memset(memory, 0, BUFFER);
	avail_index = 0;
}

/* The k-th order of n things. */
static void
nth_order(unsigned int k, unsigned int order[START_MESSAGES])
{
	bool taken[START_MESSAGES] = {false};

	for (unsigned int i = 0; i < START_MESSAGES; i++) {
		unsigned int left = START_MESSAGES - i, skip = k % left, candidate = 0;

		k /= left;
		while (taken[candidate] || skip > 0) {
			if (!taken[candidate])
				skip--;
			candidate++;
		}
		taken[candidate] = true;
		order[i] = candidate;
	}
}

/* A queue runs as soon as everything is known, in whatever order it came. */
static void
test_any_order(void **state)
{
	(void)state;
	for (unsigned int k = 0; k < 120; k++) {
		unsigned int order[START_MESSAGES];

		reset_rings();
		assert_int_equal(send_features(), 0);
		nth_order(k, order);
		for (unsigned int i = 0; i < START_MESSAGES; i++) {
			assert_false(session->vrings[0].running);
			assert_int_equal(start_messages[order[i]](), 0);
		}
		assert_true(session->vrings[0].running);
		do_one();
		assert_int_equal(get_base(), 1);
		assert_int_equal(vhost_session_reset(session), 0);
		vhost_session_release(session);
		assert_int_equal(vhost_session_create(controller, 0, &session), 0);
	}
}

/* Without protocol features there is no SET_VRING_ENABLE. */
static void
test_no_protocol_features(void **state)
{
	(void)state;
	for (size_t i = 0; i < START_MESSAGES - 1; i++)
		assert_int_equal(start_messages[i](), 0);
	assert_true(session->vrings[0].running);
	do_one();
}

static void
test_stop_and_go_on(void **state)
{
	(void)state;
	start();
	for (int i = 0; i < 40; i++)
		do_one();
	assert_int_equal(get_base(), 40);
	/* Offered while it does not run: it is there when it runs again. */
	offer();
	assert_false(wait_for_used(41, 20));
	assert_int_equal(send_kick(), 0);
	assert_true(wait_for_used(41, DEADLINE_MS));
	/* Disabled and enabled. */
	assert_int_equal(vhost_session_set_vring_enable(session, 0, false), 0);
	assert_false(session->vrings[0].running);
	offer();
	assert_false(wait_for_used(42, 20));
	assert_int_equal(send_enable(), 0);
	assert_true(wait_for_used(42, DEADLINE_MS));
	assert_int_equal(get_base(), 42);
	/* An index of the front-end's choice, near the wrap of 16 bits. */
	memset(memory, 0, BUFFER);
	((struct vring_used *)(memory + USED))->idx = 65530;
	((struct vring_avail *)(memory + AVAIL))->idx = 65530;
	avail_index = 65530;
	assert_int_equal(vhost_session_set_vring_base(session, 0, 65530), 0);
	assert_int_equal(send_kick(), 0);
	for (int i = 0; i < 20; i++)
		do_one();
	assert_int_equal(get_base(), (uint16_t)(65530 + 20));
}

static void
test_reset(void **state)
{
	(void)state;
	start();
	do_one();
	assert_int_equal(vhost_session_reset(session), 0);
	assert_false(session->vrings[0].running);
	assert_int_equal(session->vrings[0].size, 0);
	assert_int_equal(session->vrings[0].kick_fd, -1);
}

/* ---- what is refused ---- */

static void
test_bad_values(void **state)
{
	static const uint32_t sizes[] = {0, 3, 100, 2 * VHOST_MAX_RING_SIZE, 65536, UINT32_MAX};

	(void)state;
	assert_int_equal(vhost_session_set_features(session, 1ULL << 34), -EINVAL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_int_equal(vhost_session_set_vring_num(session, 0, sizes[i]), -EINVAL);
	assert_int_equal(vhost_session_set_vring_num(session, 0, VHOST_MAX_RING_SIZE), 0);
	assert_int_equal(vhost_session_set_vring_base(session, 0, 65536), -EINVAL);
	start();
	do_one();
	assert_int_equal(vhost_session_set_vring_num(session, 0, 2 * RING_SIZE), -EBUSY);
	assert_int_equal(vhost_session_set_vring_num(session, 0, RING_SIZE), 0);
	assert_int_equal(vhost_session_set_vring_base(session, 0, 5), -EBUSY);
	assert_int_equal(vhost_session_set_features(session, PROTOCOL_FEATURES), -EBUSY);
	assert_int_equal(vhost_session_set_features(session, FEATURES), 0);
	do_one();
}

/* What is asked of a queue that never ran is where a new one begins, and is good to begin with. */
static void
test_base_of_a_new_queue(void **state)
{
	const uint64_t packed = 1ULL << VIRTIO_F_RING_PACKED;
	uint32_t base;

	(void)state;
	controller->features |= packed;
	assert_int_equal(get_base(), 0);
	assert_int_equal(vhost_session_set_features(session, FEATURES | packed), 0);
	base = get_base();
	assert_int_equal(base, VIRTQ_PACKED_BASE_NEW);
	assert_int_equal(vhost_session_set_vring_base(session, 0, base), 0);
	assert_int_equal(get_base(), VIRTQ_PACKED_BASE_NEW);
}

static int
try_addr(uint64_t desc, uint64_t avail, uint64_t used)
{
	struct vhost_ring_addr addr = {.desc = desc, .avail = avail, .used = used};

	return vhost_session_set_vring_addr(session, 0, &addr);
}

/*
 * Each part must be inside memory to its last byte, and aligned; a queue that runs is not
 * disturbed.
 */
static void
test_ring_addresses(void **state)
{
	const uint64_t end = USER + MEMORY_SIZE;

	(void)state;
	start();
	do_one();
	assert_int_equal(try_addr(end - 16 * RING_SIZE + 16, USER + AVAIL, USER + USED), -EFAULT);
	assert_int_equal(try_addr(USER + DESC, end - 2 * RING_SIZE - 2, USER + USED), -EFAULT);
	assert_int_equal(try_addr(USER + DESC, USER + AVAIL, end - 8 * RING_SIZE), -EFAULT);
	assert_int_equal(try_addr(0, USER + AVAIL, USER + USED), -EFAULT);
	assert_int_equal(try_addr(USER + DESC, UINT64_MAX - 1, USER + USED), -EFAULT);
	assert_int_equal(try_addr(USER + DESC, USER + AVAIL, USER - 4), -EFAULT);
	assert_int_equal(try_addr(USER + DESC + 8, USER + AVAIL, USER + USED), -EINVAL);
	assert_int_equal(try_addr(USER + DESC, USER + AVAIL + 1, USER + USED), -EINVAL);
	assert_int_equal(try_addr(USER + DESC, USER + AVAIL, USER + USED + 2), -EINVAL);
	do_one();
	/* The same again, as QEMU sends it when a migration begins. */
	assert_int_equal(send_addr(), 0);
	do_one();
	assert_int_equal(get_base(), 3);
	/* Up to the very end is fine. */
	assert_int_equal(try_addr(USER + DESC, USER + AVAIL, end - 4 - 8 * RING_SIZE), 0);
}

/* ADDR before MEM_TABLE cannot be checked; the start says it. */
static void
test_bad_address_first(void **state)
{
	(void)state;
	assert_int_equal(send_features(), 0);
	assert_int_equal(send_num(), 0);
	assert_int_equal(try_addr(USER + MEMORY_SIZE, USER, USER), 0);
	assert_int_equal(send_enable(), 0);
	assert_int_equal(send_mem_table(), 0);
	assert_int_equal(send_kick(), -EFAULT);
	assert_false(session->vrings[0].running);
	assert_int_equal(send_addr(), 0);
	assert_true(session->vrings[0].running);
	do_one();
}

/* ---- memory ---- */

static void
test_mem_table_while_idle(void **state)
{
	(void)state;
	start();
	for (int i = 0; i < 50; i++) {
		do_one();
		assert_int_equal(send_mem_table(), 0);
		assert_true(session->vrings[0].running);
	}
	assert_int_equal(get_base(), 50);
}

static void *
let_go_later(void *arg)
{
	(void)arg;
	usleep(50000);
	thread_call(main_thread(), device_let_go, NULL);
	return NULL;
}

/* Requests finish in the old memory before it goes. */
static void
test_mem_table_waits(void **state)
{
	pthread_t thread;

	(void)state;
	start();
	device.hold = true;
	offer();
	offer();
	wait_for_handled(2);
	assert_int_equal(pthread_create(&thread, NULL, let_go_later, NULL), 0);
	assert_int_equal(send_mem_table(), 0);
	assert_int_equal(used_index(), 2);
	pthread_join(thread, NULL);
	do_one();
	assert_int_equal(get_base(), 3);
}

static void
test_bad_mem_table(void **state)
{
	struct vhost_mem_region regions[2] = {
		{.gpa = GPA, .size = 2 * MEMORY_SIZE, .user_addr = USER},
		{.gpa = GPA, .size = MEMORY_SIZE, .user_addr = USER + (1 << 30)},
	};
	int fds[2] = {memory_fd, memory_fd};

	(void)state;
	start();
	do_one();
	/* Larger than its file: nothing changes. */
	assert_int_equal(vhost_session_set_mem_table(session, regions, fds, 1), -ERANGE);
	do_one();
	/* Without the rings: taken, but the queue stops until there is a better one. */
	assert_int_equal(vhost_session_set_mem_table(session, regions + 1, fds, 1), -EFAULT);
	assert_false(session->vrings[0].running);
	offer();
	assert_false(wait_for_used(3, 20));
	assert_int_equal(send_mem_table(), 0);
	assert_true(wait_for_used(3, DEADLINE_MS));
	assert_int_equal(get_base(), 3);
}

/* ---- eventfds ---- */

static void
test_call_swap(void **state)
{
	int old;

	(void)state;
	send_call();
	start();
	/* Told once at the start: something may have happened before. */
	assert_int_equal(read_eventfd(call_fd), 1);
	do_one();
	assert_int_equal(read_eventfd(call_fd), 1);
	old = call_fd;
	send_call();
	assert_int_equal(read_eventfd(call_fd), 1);
	do_one();
	assert_int_equal(read_eventfd(call_fd), 1);
	assert_int_equal(close(old), 0);
	close(call_fd);
	/* None at all: nobody is told, and it works. */
	assert_int_equal(vhost_session_set_vring_call(session, 0, -1), 0);
	do_one();
}

static void
test_error_eventfd(void **state)
{
	struct vring_avail *avail = (struct vring_avail *)(memory + AVAIL);

	(void)state;
	err_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(vhost_session_set_vring_err(session, 0, dup(err_fd)), 0);
	start();
	do_one();
	avail->ring[avail_index % RING_SIZE] = RING_SIZE;
	__atomic_store_n(&avail->idx, ++avail_index, __ATOMIC_RELEASE);
	assert_int_equal(read_eventfd(err_fd), 1);
	assert_int_equal(used_index(), 1);
	/* It is reset by a stop. */
	get_base();
	reset_rings();
	assert_int_equal(vhost_session_set_vring_base(session, 0, 0), 0);
	assert_int_equal(send_kick(), 0);
	do_one();
	close(err_fd);
}

static void
test_truncated_memory(void **state)
{
	(void)state;
	assert_int_equal(mapping_guard_install(), 0);
	err_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(vhost_session_set_vring_err(session, 0, dup(err_fd)), 0);
	start();
	do_one();
	assert_int_equal(ftruncate(memory_fd, 0), 0);
	assert_int_equal(read_eventfd(err_fd), 1);
	get_base();
	assert_int_equal(send_kick(), 0);
	assert_int_equal(read_eventfd(err_fd), 1);
	close(err_fd);
}

/* ---- requests that do not end ---- */

/*
 * GET_VRING_BASE gives up; the session lives until its request is done, and the next one's queue
 * does not run before that: a late write must not overtake newer ones. The request is served again,
 * since the used index that the next session begins with does not count it, and must not be counted
 * twice.
 */
static void
test_stuck_request(void **state)
{
	uint32_t base;

	(void)state;
	start();
	device.hold = true;
	offer();
	wait_for_handled(1);
	impatient = true;
	assert_int_equal(vhost_session_get_vring_base(session, 0, &base), -ETIMEDOUT);
	impatient = false;
	vhost_session_release(session);

	assert_int_equal(vhost_session_create(controller, 1, &session), 0);
	device.hold = false;
	assert_int_equal(vhost_session_set_vring_base(session, 0, used_index()), 0);
	start();
	offer();
	assert_false(wait_for_used(1, 50));
	assert_int_equal(device.handled, 1);
	thread_call(main_thread(), device_let_go, NULL);
	assert_true(wait_for_used(2, DEADLINE_MS));
	assert_int_equal(device.handled, 3);
	assert_int_equal(get_base(), 2);
	assert_int_equal(used_index(), 2);
}

/*
 * A queue that waits for another session can be stopped, and so can its session. Who is told that
 * it has stopped may use the guest's memory, so not as long as that session's requests do.
 */
static void
test_waiting_queue_stops(void **state)
{
	uint32_t base;
	pthread_t later;

	(void)state;
	start();
	device.hold = true;
	offer();
	wait_for_handled(1);
	vhost_session_release(session);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(vhost_session_create(controller, i, &session), 0);
		assert_int_equal(vhost_session_set_vring_base(session, 0, 1), 0);
		start();
		if (i == 3)
			break;
		impatient = true;
		if (i == 1)
			assert_int_equal(vhost_session_get_vring_base(session, 0, &base),
					 -ETIMEDOUT);
		if (i == 2)
			assert_int_equal(vhost_session_reset(session), -ETIMEDOUT);
		impatient = false;
		vhost_session_release(session);
	}
	assert_int_equal(pthread_create(&later, NULL, let_go_later, NULL), 0);
	assert_int_equal(get_base(), 1);
	assert_int_equal(device.held_count, 0);
	pthread_join(later, NULL);
}

/* The front-end goes after each message, with and without requests under way. */
static void
test_release_anywhere(void **state)
{
	(void)state;
	for (int held = 0; held < 2; held++) {
		for (unsigned int messages = 0; messages <= START_MESSAGES; messages++) {
			unsigned int handled = device.handled;

			reset_rings();
			assert_int_equal(send_features(), 0);
			device.hold = held;
			for (unsigned int i = 0; i < messages; i++)
				assert_int_equal(start_messages[i](), 0);
			if (messages == START_MESSAGES) {
				offer();
				wait_for_handled(handled + 1);
			}
			vhost_session_release(session);
			thread_call(main_thread(), device_let_go, NULL);
			assert_int_equal(vhost_session_create(controller, 0, &session), 0);
		}
	}
}

/* Nothing starts when the controller is being deleted, and what runs can be stopped. */
static int
close_controller(void *arg)
{
	(void)arg;
	controller->closing = true;
	return (int)vhost_session_stop_all(session);
}

static void
test_closing(void **state)
{
	(void)state;
	start();
	do_one();
	thread_call(main_thread(), close_controller, NULL);
	assert_int_equal(get_base(), 1);
	assert_int_equal(send_kick(), -ESHUTDOWN);
}

/* ---- a thread that does not answer ---- */

static unsigned int
count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(folder);
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

/* A thread makes what it calls with at its first call. */
static int
first_notification(void *arg)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	(void)arg;
	vhost_notify(fd);
	return close(fd);
}

static int
no_sessions(void *arg)
{
	(void)arg;
	return TAILQ_EMPTY(&controller->sessions);
}

/* Until the session is gone, and a worker has closed what it had. */
static void
wait_until_gone(unsigned int fds)
{
	WAIT_UNTIL(thread_call(main_thread(), no_sessions, NULL) && count_fds() == fds);
}

static int
hanging_call(void)
{
	return vhost_session_set_vring_call(session, 0, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

static int
hanging_base(void)
{
	uint32_t base;

	return vhost_session_get_vring_base(session, 0, &base);
}

static int
hanging_reset(void)
{
	return vhost_session_reset(session);
}

static int
hanging_start(void)
{
	return vhost_session_set_vring_enable(session, 1, true);
}

/* A second queue that has all it needs but for the last message. */
static void
prepare_start(void)
{
	struct vhost_ring_addr addr = {.desc = USER + 65536 + DESC,
				       .avail = USER + 65536 + AVAIL,
				       .used = USER + 65536 + USED};

	assert_int_equal(vhost_session_set_vring_num(session, 1, RING_SIZE), 0);
	assert_int_equal(vhost_session_set_vring_addr(session, 1, &addr), 0);
	assert_int_equal(
		vhost_session_set_vring_kick(session, 1, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
		0);
}

/*
 * Each message that asks the controller's threads gives up, and so does the end of the session: the
 * vhost-events thread has others to serve. What was asked happens later, and nothing is lost.
 */
static void
test_thread_hangs(void **state)
{
	static const send_fn messages[] = {hanging_call, hanging_base, hanging_reset, hanging_start,
					   send_addr,    send_kick,    send_mem_table};
	unsigned int fds;

	(void)state;
	vhost_session_release(session);
	thread_call(main_thread(), first_notification, NULL);
	fds = count_fds();
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
		assert_int_equal(vhost_session_create(controller, (int)i, &session), 0);
		avail_index = 0;
		memset(memory, 0, MEMORY_SIZE);
		start();
		prepare_start();
		send_call();
		close(call_fd);
		do_one();
		hang();
		assert_int_equal(messages[i](), -ETIMEDOUT);
		vhost_session_release(session);
		session = NULL;
		go_on();
		wait_until_gone(fds);
	}
}

static void
test_thread_hangs_at_the_beginning(void **state)
{
	struct vhost_session *another = NULL;
	unsigned int fds;

	(void)state;
	vhost_session_release(session);
	session = NULL;
	fds = count_fds();
	for (int closing = 0; closing < 2; closing++) {
		hang();
		controller->closing = closing;
		assert_int_equal(vhost_session_create(controller, 0, &another), -ETIMEDOUT);
		assert_null(another);
		go_on();
		wait_until_gone(fds);
	}
	assert_int_equal(vhost_session_create(controller, 0, &another), -ESHUTDOWN);
}

/*
 * Whether a driver begins is known when its first queue starts, by all that was said of the others:
 * the first one may never have been used.
 */
static void
test_beginning(void **state)
{
	uint32_t base;

	(void)state;
	beginnings = 0;
	assert_int_equal(vhost_session_set_vring_base(session, 1, 5), 0);
	start();
	assert_int_equal(beginnings, 0);
	get_base();
	/* Where it stopped is no sign: a driver that begins does not care. */
	assert_int_equal(vhost_session_get_vring_base(session, 1, &base), 0);
	assert_int_equal(base, 5);
	assert_int_equal(vhost_session_set_vring_base(session, 0, 0), 0);
	assert_int_equal(send_kick(), 0);
	assert_true(session->vrings[0].running);
	assert_int_equal(beginnings, 1);
	get_base();
	assert_int_equal(vhost_session_set_vring_base(session, 1, 5), 0);
	assert_int_equal(vhost_session_set_vring_base(session, 0, 0), 0);
	assert_int_equal(send_kick(), 0);
	assert_int_equal(beginnings, 1);
	get_base();
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_any_order),
		TEST(test_no_protocol_features),
		TEST(test_stop_and_go_on),
		TEST(test_reset),
		TEST(test_bad_values),
		TEST(test_base_of_a_new_queue),
		TEST(test_ring_addresses),
		TEST(test_bad_address_first),
		TEST(test_mem_table_while_idle),
		TEST(test_mem_table_waits),
		TEST(test_bad_mem_table),
		TEST(test_call_swap),
		TEST(test_error_eventfd),
		TEST(test_truncated_memory),
		TEST(test_stuck_request),
		TEST(test_waiting_queue_stops),
		TEST(test_release_anywhere),
		TEST(test_closing),
		TEST(test_thread_hangs),
		TEST(test_thread_hangs_at_the_beginning),
		TEST(test_beginning),
	};

	return cmocka_run_group_tests_name("vhost_session", tests, NULL, NULL);
}
