/* SPDX-License-Identifier: BSD-3-Clause */
/* One guest's queues over two reactors, and threads that move between them while it works. */
/* links: client testlib */
#include <sched.h>
#include <sys/socket.h>

#include "vhost_rig.h"

#define QUEUES 4

/* ---- two reactors ---- */

static unsigned int cpus[2];
static bool two_cpus;

static int
group_setup(void **state)
{
	char list[32];
	const char *const args[] = {"--cpus", list, NULL};
	unsigned int found = 0;
	cpu_set_t set;

	(void)state;
	sched_getaffinity(0, sizeof(set), &set);
	for (unsigned int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
		if (CPU_ISSET(cpu, &set))
			cpus[found++] = cpu;
	}
	two_cpus = found == 2;
	snprintf(list, sizeof(list), two_cpus ? "%u,%u" : "%u", cpus[0], cpus[1]);
	if (daemon_start(&rig_daemon, args) != 0)
		return -1;
	rig_create_disk("bystander");
	guest_start(&rig_bystander, "bystander", NULL);
	return 0;
}

struct placed {
	int64_t id;
	unsigned int core;
};

/* The threads of the controller "disk", in the order of their creation; how many. */
static unsigned int
find_threads(struct placed *found, unsigned int max)
{
	json_t *result = daemon_rpc(&rig_daemon, "framework_get_reactors", NULL, NULL);
	json_t *reactor, *thread;
	unsigned int count = 0;
	size_t i, j;

	assert_non_null(result);
	json_array_foreach (json_object_get(result, "reactors"), i, reactor) {
		json_array_foreach (json_object_get(reactor, "lw_threads"), j, thread) {
			const char *name = json_string_value(json_object_get(thread, "name"));
			struct placed placed = {json_integer_value(json_object_get(thread, "id")),
						(unsigned int)json_integer_value(
							json_object_get(reactor, "lcore"))};
			unsigned int at = count;

			if (strncmp(name, "vhost.disk", strlen("vhost.disk")) != 0)
				continue;
			assert_true(count < max);
			for (; at > 0 && found[at - 1].id > placed.id; at--)
				found[at] = found[at - 1];
			found[at] = placed;
			count++;
		}
	}
	json_decref(result);
	return count;
}

static void
pin(int64_t id, unsigned int cpu_mask)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%lx",
		 (cpu_mask & 1 ? 1ul << cpus[0] : 0) | (cpu_mask & 2 ? 1ul << cpus[1] : 0));
	assert_int_equal(
		daemon_call(&rig_daemon, "thread_set_cpumask",
			    json_pack("{s:I, s:s}", "id", (json_int_t)id, "cpumask", text)),
		0);
}

/* ---- a guest with a worker for each queue ---- */

static struct guest guest_at_work;

static struct worker {
	unsigned int queue;
	unsigned int rounds;
	int failure;
	struct rig_thread *thread;
} workers[QUEUES];

/* Writes its own part of the disk and reads it back, again and again. */
static void
work(struct rig_thread *thread, void *arg)
{
	struct worker *worker = arg;
	struct client_blk *blk = &guest_at_work.blk[worker->queue];
	uint64_t first = worker->queue * (RIG_SECTORS / CLIENT_MAX_QUEUES);
	uint8_t out[16384], in[sizeof(out)];

	do {
		uint64_t sector = first + worker->rounds % 30 * (sizeof(out) / 512);

		rig_fill(out, sizeof(out), worker->rounds * 64 + worker->queue);
		if (client_blk_write(blk, sector, out, sizeof(out)) != VIRTIO_BLK_S_OK ||
		    client_blk_read(blk, sector, in, sizeof(in)) != VIRTIO_BLK_S_OK ||
		    memcmp(in, out, sizeof(in)) != 0)
			worker->failure = -EIO;
		worker->rounds++;
	} while (!thread->stop && worker->failure == 0);
}

static void
workers_start(void)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		workers[i] = (struct worker){.queue = i};
		workers[i].thread = rig_thread_start(work, &workers[i]);
	}
}

static void
workers_stop(bool may_fail)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		rig_thread_stop(workers[i].thread);
		if (!may_fail)
			assert_int_equal(workers[i].failure, 0);
	}
}

/* ---- tests ---- */

/* One queue is served by one thread; with more there is one on each core. */
static void
test_spread(void **state)
{
	struct client_options options = {.queues = QUEUES, .start_mask = 1};
	struct placed threads[3];
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	assert_int_equal(find_threads(threads, 3), 1);
	guest_end(&guest);
	options.start_mask = 0;
	guest_start(&guest, "disk", &options);
	for (unsigned int i = 0; i < QUEUES; i++)
		guest_round_trip(&guest, i, i * 8, 4096, i);
	assert_int_equal(find_threads(threads, 3), two_cpus ? 2 : 1);
	if (two_cpus)
		assert_int_not_equal(threads[0].core, threads[1].core);
	guest_end(&guest);
}

/* A controller that may use one core only has one thread. */
static void
test_cpumask(void **state)
{
	struct client_options options = {.queues = QUEUES};
	struct placed threads[3];
	struct guest guest;
	char mask[24];

	(void)state;
	snprintf(mask, sizeof(mask), "[%u]", cpus[0]);
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_blk_controller",
				     json_pack("{s:s, s:s, s:s}", "ctrlr", "disk.pinned",
					       "dev_name", "disk", "cpumask", mask)),
			 0);
	guest_start(&guest, "disk.pinned", &options);
	for (unsigned int i = 0; i < QUEUES; i++)
		guest_round_trip(&guest, i, i * 8, 4096, i);
	/* Its own, and that of "disk", which nobody uses. */
	assert_int_equal(find_threads(threads, 3), 2);
	assert_int_equal(threads[1].core, cpus[0]);
	guest_end(&guest);
	assert_int_equal(rig_delete_controller("disk.pinned"), 0);
	/* Cores that do not run. */
	assert_int_equal(daemon_call(&rig_daemon, "vhost_create_blk_controller",
				     json_pack("{s:s, s:s, s:s}", "ctrlr", "nowhere", "dev_name",
					       "disk", "cpumask", "[255]")),
			 -EINVAL);
}

/* Nothing is lost and nothing is mixed up, however often the threads move. */
static void
test_moves_under_load(void **state)
{
	struct client_options options = {.queues = QUEUES};
	struct placed threads[3];
	struct guest *guest = &guest_at_work;
	unsigned int count;

	(void)state;
	guest_start(guest, "disk", &options);
	count = find_threads(threads, 3);
	workers_start();
	for (unsigned int i = 0; i < 1000; i++) {
		pin(threads[i % count].id, i / 3 % 2 && two_cpus ? 2 : 1);
		if (i % 20 == 0)
			assert_int_equal(client_set_mem_table(&guest->device.client,
							      &guest->device.memory, true),
					 0);
	}
	workers_stop(false);
	assert_int_equal(client_device_stop(&guest->device), 0);
	assert_int_equal(client_device_start(&guest->device), 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		guest_round_trip(guest, i, i * 8, 4096, i);
	guest_end(guest);
}

/* The front-end dies while threads move, and the next one is served at once. */
static void
test_death_while_moving(void **state)
{
	struct client_options options = {.queues = QUEUES};

	(void)state;
	for (unsigned int round = 0; round < 10; round++) {
		struct placed threads[3];
		struct guest *guest = &guest_at_work;
		unsigned int count;

		guest_start(guest, "disk", &options);
		count = find_threads(threads, 3);
		for (unsigned int i = 0; i < QUEUES; i++)
			guest->blk[i].timeout_ms = 500;
		workers_start();
		for (unsigned int i = 0; i < 10 + round; i++)
			pin(threads[i % count].id, i / 3 % 2 && two_cpus ? 2 : 1);
		/* Workers still use the rings, and wait for a moment: only the connection ends. */
		shutdown(guest->device.client.fd, SHUT_RDWR);
		for (unsigned int i = 0; i < 10; i++)
			pin(threads[i % count].id, i / 3 % 2 && two_cpus ? 2 : 1);
		workers_stop(true);
		guest_end(guest);
	}
}

static json_int_t
requests_so_far(void)
{
	json_t *array = daemon_rpc(&rig_daemon, "vhost_get_stats",
				   json_pack("{s:s}", "ctrlr", "disk"), NULL);
	json_int_t requests =
		json_integer_value(json_object_get(json_array_get(array, 0), "requests"));

	assert_int_equal(json_array_size(array), 1);
	json_decref(array);
	return requests;
}

/* Counters go up only, and each request counts once, whatever starts, stops and moves meanwhile. */
static void
test_statistics(void **state)
{
	struct client_options options = {.queues = QUEUES};
	struct placed threads[3];
	struct guest *guest = &guest_at_work;
	unsigned int count;
	json_int_t last = 0, expected = 0;

	(void)state;
	guest_start(guest, "disk", &options);
	count = find_threads(threads, 3);
	workers_start();
	for (unsigned int i = 0; i < 200; i++) {
		json_int_t now = requests_so_far();

		assert_true(now >= last);
		last = now;
		pin(threads[i % count].id, i / 3 % 2 && two_cpus ? 2 : 1);
		assert_int_equal(
			client_set_mem_table(&guest->device.client, &guest->device.memory, true),
			0);
	}
	workers_stop(false);
	for (unsigned int i = 0; i < QUEUES; i++)
		expected += 2 * workers[i].rounds;
	assert_int_equal(requests_so_far(), expected);
	assert_int_equal(client_device_stop(&guest->device), 0);
	assert_int_equal(requests_so_far(), expected);
	guest_end(guest);
	rig_wait_for_sessions("disk", 0);
	assert_int_equal(requests_so_far(), expected);
}

static void
delete_disk(struct rig_thread *thread, void *arg)
{
	(void)thread;
	*(int *)arg = rig_delete_controller("short");
}

/* Deleted while its queues start on both cores, and under load. */
static void
test_delete_while_starting(void **state)
{
	struct client_options options = {.queues = QUEUES};

	(void)state;
	for (unsigned int round = 0; round < 20; round++) {
		struct rig_thread *deleter;
		static int deleted;
		struct guest guest;

		assert_int_equal(daemon_create_blk(&rig_daemon, "short", "disk", false), 0);
		guest_start(&guest, "short", &options);
		assert_int_equal(client_device_stop(&guest.device), 0);
		deleter = rig_thread_start(delete_disk, &deleted);
		while (client_device_start(&guest.device) == 0 &&
		       client_device_stop(&guest.device) == 0)
			;
		rig_thread_stop(deleter);
		assert_int_equal(deleted, 0);
		guest_end(&guest);
	}
}

/* As many queues as there can be, of whatever size: more than threads. */
static void
test_64_queues(void **state)
{
	struct client_options options = {.queues = 64, .queue_size = 16, .indirect_max = 34};
	struct placed threads[3];
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	assert_int_equal(guest.device.max_queues, 64);
	assert_int_equal(guest.device.config.num_queues, 64);
	for (unsigned int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i < 64; i++)
			guest_round_trip(&guest, i, i * 64 + round * 8, 4096, i + round);
	}
	assert_int_equal(find_threads(threads, 3), two_cpus ? 2 : 1);
	guest_end(&guest);
}

/* The smallest ring: one request at a time, in a table; each is the last entry, and the first. */
static void
test_one_entry(void **state)
{
	struct client_options options = {.queues = 2, .queue_size = 1, .indirect_max = 8};
	struct guest guest;

	(void)state;
	guest_start(&guest, "disk", &options);
	for (unsigned int i = 0; i < 100; i++)
		guest_round_trip(&guest, i % 2, i, 4096, i);
	/* It goes on where it was. */
	assert_int_equal(client_device_stop(&guest.device), 0);
	assert_int_equal(client_device_start(&guest.device), 0);
	guest_round_trip(&guest, 0, 0, 4096, 1);
	guest_end(&guest);
}

/* The largest ring, full. */
static void
test_1024_entries(void **state)
{
	struct client_options options = {.queues = 2, .queue_size = 1024, .indirect_max = 8};
	struct guest guest;
	struct client_blk *blk = &guest.blk[1];

	(void)state;
	guest_start(&guest, "disk", &options);
	for (unsigned int round = 0; round < 5; round++) {
		struct client_segment segment = {blk->bounce_gpa, 512, true};
		struct client_blk_request request = {
			.type = VIRTIO_BLK_T_IN, .segments = &segment, .segment_count = 1};
		struct client_blk_completion completion;

		for (unsigned int i = 0; i < 1024; i++) {
			request.sector = i;
			assert_int_equal(client_blk_prepare(blk, &request), 0);
		}
		client_ring_publish(blk->ring);
		assert_int_equal(client_ring_kick(blk->ring), 0);
		for (unsigned int i = 0; i < 1024; i++) {
			assert_int_equal(client_blk_wait(blk, &completion, DEADLINE_MS), 0);
			assert_int_equal(completion.status, VIRTIO_BLK_S_OK);
		}
	}
	guest_end(&guest);
}

/* A request of as many segments as seg_max says, in one indirect table. */
static void
test_longest_chain(void **state)
{
	struct client_options options = {.queues = 2, .queue_size = 128, .indirect_max = 130};
	static uint8_t out[RIG_BOUNCE], in[RIG_BOUNCE];
	struct client_segment segments[128];
	struct guest guest;
	struct client_blk *blk = &guest.blk[1];
	uint32_t count;

	(void)state;
	guest_start(&guest, "disk", &options);
	count = guest.device.config.seg_max;
	assert_int_equal(count, 126);
	rig_fill(out, count * 512, 7);
	assert_int_equal(client_blk_write(blk, 64, out, count * 512), VIRTIO_BLK_S_OK);
	for (uint32_t i = 0; i < count; i++)
		segments[i] = (struct client_segment){blk->bounce_gpa + i * 1024, 512, true};
	assert_int_equal(client_blk_execute(blk,
					    &(struct client_blk_request){.type = VIRTIO_BLK_T_IN,
									 .sector = 64,
									 .segments = segments,
									 .segment_count = count},
					    NULL),
			 VIRTIO_BLK_S_OK);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(client_memory_read(&guest.device.memory, segments[i].gpa,
						    in + i * 512, 512),
				 0);
	assert_memory_equal(in, out, count * 512);
	guest_end(&guest);
}

int
main(void)
{
	static const struct variant {
		const char *name;
		uint64_t ring_features;
	} variants[] = {
		{"vhost_queues, split", 0},
		{"vhost_queues, packed with EVENT_IDX",
		 RIG_BIT(VIRTIO_F_RING_PACKED) | RIG_BIT(VIRTIO_RING_F_EVENT_IDX)},
	};
	const struct CMUnitTest tests[] = {
		RIG_TEST(test_spread),
		RIG_TEST(test_cpumask),
		RIG_TEST(test_moves_under_load),
		RIG_TEST(test_statistics),
		RIG_TEST(test_death_while_moving),
		RIG_TEST(test_delete_while_starting),
		RIG_TEST(test_64_queues),
		RIG_TEST(test_one_entry),
		RIG_TEST(test_1024_entries),
		RIG_TEST(test_longest_chain),
		cmocka_unit_test(rig_test_end),
	};
	int failed = 0;

	for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		rig_ring_features = variants[i].ring_features;
		failed += cmocka_run_group_tests_name(variants[i].name, tests, group_setup,
						      rig_group_teardown);
	}
	return failed;
}
