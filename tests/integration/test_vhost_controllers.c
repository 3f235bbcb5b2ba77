/* SPDX-License-Identifier: BSD-3-Clause */
/* Controllers made and deleted while guests come, work and go; their sockets and their names. */
/* links: client testlib */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "vhost_rig.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static int
create(const char *name, const char *bdev)
{
	return daemon_create_blk(&rig_daemon, name, bdev, false);
}

static bool
exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static int
listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

/* ---- what is refused ---- */

static void
test_names(void **state)
{
	static const char *const bad[] = {
		"",
		"a/b",
		"/",
		".",
		"..",
		".hidden",
		"a\nb",
		"tab\t",
		"0123456789012345678901234567890123456789012345678901234567890123"};
	static const char *const good[] = {"a", "with space", "d\xc3\xa4mon", "a.b", "x:y-z_1"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int rc = create(bad[i], "disk");

		/* Too long for the method, or not a name. */
		if (rc != -EINVAL && rc != -32602)
			fail_msg("'%s': %d", bad[i], rc);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(create(good[i], "disk"), 0);
		assert_true(exists(rig_socket(good[i])));
		assert_int_equal(create(good[i], "disk"), -EEXIST);
		assert_int_equal(rig_delete_controller(good[i]), 0);
		assert_false(exists(rig_socket(good[i])));
	}
}

static void
test_refusals(void **state)
{
	json_t *params = json_pack("{s:s, s:s, s:s}", "ctrlr", "new", "dev_name", "disk", "cpumask",
				   "0x8000000000");

	(void)state;
	assert_int_equal(create("disk", "disk"), -EEXIST);
	assert_int_equal(create("new", "nothing"), -ENODEV);
	assert_int_equal(rig_delete_controller("nothing"), -ENODEV);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_blk_controller", params), -EINVAL);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_get_controllers",
				     json_pack("{s:s}", "name", "nothing")),
			 -ENODEV);
	/* The block device is in use. */
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_malloc_delete", json_pack("{s:s}", "name", "disk")),
		-EBUSY);
	/* After a refusal the name is free. */
	assert_int_equal(create("new", "disk"), 0);
	assert_int_equal(rig_delete_controller("new"), 0);
}

static void
test_read_only_device(void **state)
{
	char path[DAEMON_PATH];
	struct guest guest;

	(void)state;
	assert_int_equal(daemon_create_file(&rig_daemon, "writable", 1 << 20), 0);
	assert_int_equal(daemon_call(&rig_daemon, "bdev_uring_delete",
				     json_pack("{s:s}", "name", "writable")),
			 0);
	daemon_path(&rig_daemon, "writable.img", path);
	assert_int_equal(daemon_call(&rig_daemon, "bdev_aio_create",
				     json_pack("{s:s, s:s, s:i, s:b}", "name", "rofile", "filename",
					       path, "block_size", 512, "readonly", 1)),
			 0);
	assert_int_equal(create("rofile", "rofile"), -EROFS);
	assert_int_equal(daemon_create_blk(&rig_daemon, "rofile", "rofile", true), 0);
	guest_start(&guest, "rofile", NULL);
	assert_true(guest.device.offered_features & RIG_BIT(VIRTIO_BLK_F_RO));
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("rofile"), 0);
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_aio_delete", json_pack("{s:s}", "name", "rofile")),
		0);
}

/* ---- sockets ---- */

static void
test_stale_socket(void **state)
{
	struct guest guest;

	(void)state;
	close(listen_at(rig_socket("stale")));
	assert_true(exists(rig_socket("stale")));
	assert_int_equal(create("stale", "disk"), 0);
	guest_start(&guest, "stale", NULL);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("stale"), 0);
}

static void
test_live_socket(void **state)
{
	int fd = listen_at(rig_socket("live"));

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(create("live", "disk"), -EADDRINUSE);
	assert_true(exists(rig_socket("live")));
	close(fd);
	assert_int_equal(create("live", "disk"), 0);
	assert_int_equal(rig_delete_controller("live"), 0);
}

static void
test_not_a_socket(void **state)
{
	(void)state;
	assert_int_equal(mkdir(rig_socket("folder"), 0755), 0);
	assert_int_equal(create("folder", "disk"), -EADDRINUSE);
	assert_true(exists(rig_socket("folder")));
	assert_int_equal(create("log", "disk"), -EADDRINUSE);
	assert_true(exists(rig_socket("log")));
	assert_int_equal(rmdir(rig_socket("folder")), 0);
}

static void
test_missing_folder(void **state)
{
	char away[DAEMON_PATH / 2 + 8];

	(void)state;
	snprintf(away, sizeof(away), "%s-away", rig_daemon.folder);
	assert_int_equal(rename(rig_daemon.folder, away), 0);
	/* The RPC socket moved with it. */
	snprintf(rig_daemon.rpc_socket, sizeof(rig_daemon.rpc_socket), "%s/rpc.sock", away);
	assert_int_equal(create("new", "disk"), -ENOENT);
	assert_int_equal(rename(away, rig_daemon.folder), 0);
	daemon_path(&rig_daemon, "rpc.sock", rig_daemon.rpc_socket);
	assert_int_equal(create("new", "disk"), 0);
	assert_int_equal(rig_delete_controller("new"), 0);
}

/* The path is one byte too long; with one byte less it works. The folder is made by the daemon. */
static void
test_long_path(void **state)
{
	char folder[80], name[64];
	const char *args[] = {"-S", folder, NULL};
	struct daemon daemon;
	size_t room;

	(void)state;
	memset(folder, '0', sizeof(folder));
	memcpy(folder, rig_daemon.folder, strlen(rig_daemon.folder));
	folder[sizeof(folder) - 1] = '\0';
	room = 107 - strlen(folder) - 1;
	assert_true(room + 1 < sizeof(name));
	assert_int_equal(daemon_start(&daemon, args), 0);
	assert_int_equal(daemon_create_null(&daemon, "null", 2048, 512), 0);
	memset(name, 'n', sizeof(name));
	name[room + 1] = '\0';
	assert_int_equal(daemon_create_blk(&daemon, name, "null", false), -ENAMETOOLONG);
	name[room] = '\0';
	assert_int_equal(daemon_create_blk(&daemon, name, "null", false), 0);
	assert_int_equal(daemon_end(&daemon), 0);
	assert_int_equal(rmdir(folder), 0);
}

/* ---- with guests ---- */

static void
test_shape(void **state)
{
	json_t *controller = rig_controller("disk"), *session;
	struct guest guest;
	char socket_path[DAEMON_PATH];

	(void)state;
	daemon_path(&rig_daemon, "disk", socket_path);
	assert_string_equal(json_string_value(json_object_get(controller, "ctrlr")), "disk");
	assert_string_equal(json_string_value(json_object_get(controller, "socket")), socket_path);
	assert_int_equal(
		strncmp(json_string_value(json_object_get(controller, "cpumask")), "0x", 2), 0);
	assert_int_equal(json_integer_value(json_object_get(controller, "delay_base_us")), 0);
	assert_int_equal(json_integer_value(json_object_get(controller, "iops_threshold")), 60000);
	assert_string_equal(
		json_string_value(json_object_get(
			json_object_get(json_object_get(controller, "backend_specific"), "block"),
			"bdev")),
		"disk");
	assert_int_equal(json_array_size(json_object_get(controller, "sessions")), 0);
	json_decref(controller);

	guest_start(&guest, "disk", NULL);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	controller = rig_controller("disk");
	session = json_array_get(json_object_get(controller, "sessions"), 0);
	assert_true(json_is_true(json_object_get(session, "started")));
	assert_int_equal(json_integer_value(json_object_get(session, "max_queues")),
			 guest.device.max_queues);
	assert_int_equal(json_integer_value(json_object_get(session, "inflight_task_cnt")), 0);
	json_decref(controller);
	guest_end(&guest);
	rig_wait_for_sessions("disk", 0);
}

struct worker {
	struct guest guest;
	struct rig_thread *thread;
};

/* Reads until the connection, and with it the queue, is gone. */
static void
work(struct rig_thread *thread, void *arg)
{
	struct worker *worker = arg;
	struct client_blk *blk = &worker->guest.blk[0];
	struct client_segment segment = {blk->bounce_gpa, 65536, true};
	struct client_blk_request request = {
		.type = VIRTIO_BLK_T_IN, .segments = &segment, .segment_count = 1};
	struct client_blk_completion completion;

	while (!thread->stop) {
		while (blk->ring->outstanding < 32 && client_blk_prepare(blk, &request) == 0)
			;
		client_ring_publish(blk->ring);
		client_ring_kick(blk->ring);
		client_ring_wait(blk->ring, 10);
		while (client_blk_reap(blk, &completion) == 1)
			;
	}
}

/* Deleted under load; the front-end sees the end, the next controller of that name begins anew. */
static void
delete_under_load(const char *bdev)
{
	static struct worker worker;

	for (int i = 0; i < 10; i++) {
		assert_int_equal(create("busy", bdev), 0);
		guest_start(&worker.guest, "busy", NULL);
		worker.thread = rig_thread_start(work, &worker);
		usleep(20000);
		assert_int_equal(rig_delete_controller("busy"), 0);
		assert_false(exists(rig_socket("busy")));
		assert_int_equal(client_wait_closed(&worker.guest.device.client, DEADLINE_MS), 0);
		rig_thread_stop(worker.thread);
		guest_end(&worker.guest);
	}
}

static void
test_delete_under_load(void **state)
{
	(void)state;
	delete_under_load("disk");
	assert_int_equal(daemon_create_file(&rig_daemon, "file", 8 << 20), 0);
	delete_under_load("file");
	assert_int_equal(
		daemon_call(&rig_daemon, "bdev_uring_delete", json_pack("{s:s}", "name", "file")),
		0);
}

/* Front-ends in the middle of the handshake when the controller goes. */
static void
test_delete_during_handshake(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct client c[3];
		uint64_t features;

		assert_int_equal(create("shy", "disk"), 0);
		for (size_t j = 0; j < ARRAY_SIZE(c); j++)
			assert_int_equal(client_connect(&c[j], rig_socket("shy"), DEADLINE_MS), 0);
		if (i % 2)
			assert_int_equal(client_get_features(&c[0], &features), 0);
		assert_int_equal(rig_delete_controller("shy"), 0);
		for (size_t j = 0; j < ARRAY_SIZE(c); j++) {
			assert_int_equal(client_wait_closed(&c[j], DEADLINE_MS), 0);
			client_close(&c[j]);
		}
	}
}

/*
 * Each new socket is served, also when vhost-events sleeps. (Without the poke this takes up to a
 * second for each; the time is only printed, since a busy machine may need as long.)
 */
static void
test_served_at_once(void **state)
{
	uint64_t begin = now_ms();
	struct guest guest;

	(void)state;
	for (int i = 0; i < 20; i++) {
		assert_int_equal(create("quick", "disk"), 0);
		guest_start(&guest, "quick", NULL);
		guest_end(&guest);
		assert_int_equal(rig_delete_controller("quick"), 0);
	}
	print_message("# 20 controllers made, used and deleted in %lu ms\n", now_ms() - begin);
}

/* Somebody is in the way of the poke: without it a controller is served all the same. */
static void
test_without_poke(void **state)
{
	char name[32];
	struct guest guest;

	(void)state;
	snprintf(name, sizeof(name), ".vhostd-%d", (int)rig_daemon.pid);
	assert_int_equal(mkdir(rig_socket(name), 0700), 0);
	assert_int_equal(create("unpoked", "disk"), 0);
	assert_int_equal(rmdir(rig_socket(name)), 0);
	guest_start(&guest, "unpoked", NULL);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("unpoked"), 0);
}

static void
test_many_controllers(void **state)
{
	enum { COUNT = 64 };
	struct guest *guests = calloc(COUNT, sizeof(*guests));
	char name[16];

	(void)state;
	assert_non_null(guests);
	for (int i = 0; i < COUNT; i++) {
		snprintf(name, sizeof(name), "many-%d", i);
		assert_int_equal(create(name, "disk"), 0);
		guest_start(&guests[i], name, NULL);
	}
	for (int i = 0; i < COUNT; i++)
		guest_round_trip(&guests[i], 0, (uint64_t)i * 8, 4096, (unsigned int)i);
	for (int i = 0; i < COUNT; i++) {
		if (i % 2)
			guest_end(&guests[i]);
		snprintf(name, sizeof(name), "many-%d", i);
		assert_int_equal(rig_delete_controller(name), 0);
		if (i % 2 == 0)
			guest_end(&guests[i]);
	}
	free(guests);
}

/* ---- the daemon's end and return ---- */

/*
 * With a guest at work; SIGTERM and SIGKILL; the configuration comes back, and the guest goes on.
 */
static void
test_restart(void **state)
{
	struct daemon daemon;
	struct client_device device;
	struct client_options options = {.timeout_ms = DEADLINE_MS};
	struct client_blk blk;
	char path[DAEMON_PATH];
	uint8_t out[4096], in[4096];

	(void)state;
	assert_int_equal(daemon_start(&daemon, NULL), 0);
	assert_int_equal(daemon_create_file(&daemon, "file", 8 << 20), 0);
	assert_int_equal(daemon_create_blk(&daemon, "vm", "file", false), 0);
	daemon_path(&daemon, "vm", path);
	assert_int_equal(client_device_open(&device, path, &options), 0);
	assert_int_equal(client_blk_create(&blk, &device.rings[0], 4096, 0, true), 0);
	assert_int_equal(client_device_start(&device), 0);
	for (unsigned int i = 0; i < 4; i++) {
		rig_fill(out, sizeof(out), i);
		assert_int_equal(client_blk_write(&blk, i * 8, out, sizeof(out)), VIRTIO_BLK_S_OK);
		if (i % 2)
			daemon_kill(&daemon);
		else
			assert_int_equal(daemon_stop(&daemon), 0);
		assert_int_equal(daemon_restart(&daemon, NULL), 0);
		assert_int_equal(client_device_reconnect(&device), 0);
		assert_int_equal(client_blk_read(&blk, i * 8, in, sizeof(in)), VIRTIO_BLK_S_OK);
		assert_memory_equal(in, out, sizeof(in));
	}
	client_blk_destroy(&blk);
	client_device_close(&device);
	assert_int_equal(daemon_end(&daemon), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_names),
		RIG_TEST(test_refusals),
		RIG_TEST(test_read_only_device),
		RIG_TEST(test_stale_socket),
		RIG_TEST(test_live_socket),
		RIG_TEST(test_not_a_socket),
		RIG_TEST(test_missing_folder),
		RIG_TEST(test_long_path),
		RIG_TEST(test_shape),
		RIG_TEST(test_delete_under_load),
		RIG_TEST(test_delete_during_handshake),
		RIG_TEST(test_served_at_once),
		RIG_TEST(test_many_controllers),
		RIG_TEST(test_without_poke),
		RIG_TEST(test_restart),
		cmocka_unit_test(rig_test_end),
	};

	return cmocka_run_group_tests_name("vhost_controllers", tests, rig_group_setup,
					   rig_group_teardown);
}
