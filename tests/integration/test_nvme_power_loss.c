/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Power is lost at a random moment, with random writes and flushes under way on two queues. Then
 * each block must hold what was in it when the last flush was asked for that completed, or
 * something that was written later; with write-through: what the last write that completed put
 * there, or later. $VHOSTD_POWER_CUTS says how often power is lost; `make test` asks for 200.
 *
 * What ends at a cut, in turns: the machine (the device loses what it caches; the daemon and the
 * guest are gone, sooner or a little later), the same at a certain command, the device's process
 * (killed: what it cached is gone) and all others, the daemon alone, or daemon and device, while
 * the guest stays and finds its requests done.
 */
/* links: client testlib */
#include <linux/virtio_blk.h>
#include <poll.h>

#include "nvme_guest_rig.h"

#define CUTS             15
#define QUEUES           2
#define DEPTH            16 /* of each queue; the last one is for flushes */
#define FLUSH_SLOT       (DEPTH - 1)
#define DISK_BLOCKS      256
#define BLOCK            4096u
#define SECTORS          (BLOCK / CLIENT_SECTOR)
#define MAX_REQUESTS     400 /* between two cuts */
#define FLUSH_ODDS       40  /* one flush for so many writes */
#define MACHINE_DIES_MS  3   /* the daemon sees the device go, for at most so long */
#define VERSIONS_OF_DISK (DISK_BLOCKS * sizeof(uint32_t))

struct slot {
	uint8_t *data;
	uint64_t gpa;
	uint32_t block;
	uint32_t version;
	bool busy;
	bool across_cut; /* under way when the device lost power */
};

struct queue {
	struct client_blk blk;
	struct slot slots[DEPTH];
	uint32_t at_flush[DISK_BLOCKS]; /* done, when the flush under way was asked for */
};

static struct {
	struct client_device guest;
	struct queue queues[QUEUES];
	/* By block: versions count from 1; the disk begins with zeroes. */
	uint32_t sent[DISK_BLOCKS];
	uint32_t sent_before[DISK_BLOCKS]; /* when all blocks were read; and what was there then */
	uint32_t read_before[DISK_BLOCKS];
	uint32_t done[DISK_BLOCKS];
	uint32_t durable[DISK_BLOCKS];
	bool locked[DISK_BLOCKS];
	bool write_through;
	bool dying; /* requests may fail */
	uint64_t completed, flushes, lost_blocks, random;
} load;

static unsigned int
cuts(void)
{
	const char *text = getenv("VHOSTD_POWER_CUTS");

	return text != NULL ? (unsigned int)strtoul(text, NULL, 10) : CUTS;
}

static uint32_t
random_below(uint32_t below)
{
	load.random = load.random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(load.random >> 33) % below;
}

/* ---- what a block holds ---- */

static uint64_t
word_of(uint32_t block, uint32_t version)
{
	return version == 0 ? 0 : (uint64_t)version << 32 | block;
}

static void
fill_block(uint8_t *data, uint32_t block, uint32_t version)
{
	const uint64_t word = word_of(block, version);

	for (uint32_t at = 0; at < BLOCK; at += sizeof(word))
		memcpy(data + at, &word, sizeof(word));
}

/* The lowest and the highest version in a block: not the same in one that was written in part. */
static void
versions_in(const uint8_t *data, uint32_t block, uint32_t *low, uint32_t *high)
{
	*low = UINT32_MAX;
	*high = 0;
	for (uint32_t at = 0; at < BLOCK; at += sizeof(uint64_t)) {
		uint32_t version;
		uint64_t word;

		memcpy(&word, data + at, sizeof(word));
		version = (uint32_t)(word >> 32);
		assert_int_equal(word, word_of(block, version));
		*low = version < *low ? version : *low;
		*high = version > *high ? version : *high;
	}
}

/* ---- requests ---- */

static int
submit(struct queue *queue, unsigned int tag, uint32_t type)
{
	struct slot *slot = &queue->slots[tag];
	struct client_segment segment = {.gpa = slot->gpa, .len = BLOCK};
	struct client_blk_request request = {.type = type,
					     .sector = (uint64_t)slot->block * SECTORS,
					     .segments = &segment,
					     .segment_count = type == VIRTIO_BLK_T_OUT,
					     .tag = tag};

	slot->busy = true;
	slot->across_cut = false;
	return client_blk_prepare(&queue->blk, &request);
}

static void
submit_write(struct queue *queue, unsigned int tag)
{
	struct slot *slot = &queue->slots[tag];

	do {
		slot->block = random_below(DISK_BLOCKS);
	} while (load.locked[slot->block]);
	load.locked[slot->block] = true;
	slot->version = ++load.sent[slot->block];
	fill_block(slot->data, slot->block, slot->version);
	assert_int_equal(submit(queue, tag, VIRTIO_BLK_T_OUT), 0);
}

static void
submit_flush(struct queue *queue)
{
	queue->slots[FLUSH_SLOT].block = 0;
	memcpy(queue->at_flush, load.done, VERSIONS_OF_DISK);
	assert_int_equal(submit(queue, FLUSH_SLOT, VIRTIO_BLK_T_FLUSH), 0);
}

static void
make_durable(uint32_t block, uint32_t version)
{
	if (load.durable[block] < version)
		load.durable[block] = version;
}

static void
finish(struct queue *queue, const struct client_blk_completion *completion)
{
	struct slot *slot = &queue->slots[completion->tag];

	assert_true(slot->busy);
	slot->busy = false;
	load.completed++;
	if (completion->tag != FLUSH_SLOT)
		load.locked[slot->block] = false;
	if (completion->status != VIRTIO_BLK_S_OK) {
		assert_true(load.dying);
		return;
	}
	if (completion->tag != FLUSH_SLOT) {
		load.done[slot->block] = slot->version;
		if (load.write_through)
			make_durable(slot->block, slot->version);
		return;
	}
	load.flushes++;
	for (uint32_t block = 0; block < DISK_BLOCKS && !slot->across_cut; block++)
		make_durable(block, queue->at_flush[block]);
}

static unsigned int
reap(void)
{
	struct client_blk_completion completion;
	unsigned int count = 0;
	int rc;

	for (unsigned int i = 0; i < QUEUES; i++) {
		while ((rc = client_blk_reap(&load.queues[i].blk, &completion)) == 1) {
			finish(&load.queues[i], &completion);
			count++;
		}
		assert_int_equal(rc, 0);
	}
	return count;
}

static void
fill_queue(struct queue *queue)
{
	for (unsigned int tag = 0; tag < FLUSH_SLOT; tag++) {
		if (queue->slots[tag].busy)
			continue;
		submit_write(queue, tag);
		if (random_below(FLUSH_ODDS) == 0 && !queue->slots[FLUSH_SLOT].busy)
			submit_flush(queue);
	}
	client_ring_publish(queue->blk.ring);
	assert_int_equal(client_ring_kick(queue->blk.ring), 0);
}

/* A daemon that had no CPU for some seconds has given the connection up. */
static void
come_back(void)
{
	struct pollfd socket = {.fd = load.guest.client.fd, .events = POLLRDHUP};

	if (poll(&socket, 1, 0) > 0)
		assert_int_equal(client_device_reconnect(&load.guest), 0);
}

static void
run(uint32_t requests)
{
	const uint64_t target = load.completed + requests, deadline = now_ms() + DEADLINE_MS;

	while (load.completed < target && !load.dying) {
		reap();
		for (unsigned int i = 0; i < QUEUES; i++)
			fill_queue(&load.queues[i]);
		come_back();
		IN_TIME(deadline);
	}
}

static void
drain(void)
{
	const uint64_t deadline = now_ms() + DEADLINE_MS;

	while (load.queues[0].blk.ring->outstanding + load.queues[1].blk.ring->outstanding > 0) {
		reap();
		come_back();
		IN_TIME(deadline);
	}
}

/* ---- the guest ---- */

static void
open_queue(unsigned int index)
{
	struct queue *queue = &load.queues[index];
	struct client_memory *memory = &load.guest.memory;

	assert_int_equal(
		client_blk_create(&queue->blk, &load.guest.rings[index], BLOCK, 0, index == 0), 0);
	queue->blk.timeout_ms = DEADLINE_MS;
	for (unsigned int i = 0; i < DEPTH; i++) {
		struct slot *slot = &queue->slots[i];

		*slot = (struct slot){.gpa = 0};
		assert_int_equal(client_memory_alloc(memory, BLOCK, BLOCK, &slot->gpa), 0);
		slot->data = client_memory_ptr(memory, slot->gpa, BLOCK);
	}
}

static void
boot(void)
{
	struct client_options options = {.queues = QUEUES,
					 .features = CLIENT_DEFAULT_FEATURES |
						     1ULL << VIRTIO_RING_F_EVENT_IDX,
					 .timeout_ms = DEADLINE_MS};
	uint8_t writeback;
	char path[DAEMON_PATH];

	options.features |= (uint64_t)random_below(2) << VIRTIO_F_RING_PACKED;
	daemon_path(&rig.daemon, "vm", path);
	assert_int_equal(client_device_open(&load.guest, path, &options), 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		open_queue(i);
	assert_int_equal(client_device_start(&load.guest), 0);
	memset(load.locked, 0, sizeof(load.locked));
	load.dying = false;
	load.write_through = random_below(3) == 0;
	writeback = !load.write_through;
	assert_int_equal(client_set_config(&load.guest.client,
					   offsetof(struct virtio_blk_config, wce), 1, &writeback,
					   true),
			 0);
}

static void
die(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		client_blk_destroy(&load.queues[i].blk);
	client_device_close(&load.guest);
}

/* ---- what must be on the disk ---- */

enum loss {
	LOSES_NOTHING,
	LOSES_BLOCKS,
	LOSES_ANYWHERE, /* in the middle of a block, too */
};

/* What was read before need not be durable: a later flush may have, or not, done that. */
static void
check_block(uint32_t block, uint32_t version)
{
	bool is_old = version <= load.read_before[block];
	bool is_new = version > load.sent_before[block] && version <= load.sent[block];

	if ((!is_old && !is_new) || version < load.durable[block])
		print_error("block %u: version %u, durable was %u, sent up to %u; before %u, %u\n",
			    block, version, load.durable[block], load.sent[block],
			    load.read_before[block], load.sent_before[block]);
	assert_true((is_old || is_new) && version >= load.durable[block]);
}

/* One that was written in part. */
static void
write_again(uint32_t block)
{
	uint8_t data[BLOCK];

	load.done[block] = ++load.sent[block];
	fill_block(data, block, load.done[block]);
	assert_int_equal(
		client_blk_write(&load.queues[0].blk, (uint64_t)block * SECTORS, data, BLOCK), 0);
}

/* Nothing is under way. */
static void
check_disk(enum loss loss)
{
	uint8_t data[BLOCK];

	for (uint32_t block = 0; block < DISK_BLOCKS; block++) {
		struct client_blk *blk = &load.queues[block % QUEUES].blk;
		uint32_t low, high;

		assert_int_equal(client_blk_read(blk, (uint64_t)block * SECTORS, data, BLOCK), 0);
		versions_in(data, block, &low, &high);
		check_block(block, low);
		check_block(block, high);
		load.lost_blocks += low < load.done[block];
		if (loss == LOSES_NOTHING)
			assert_int_equal(low, load.done[block]);
		if (loss != LOSES_ANYWHERE)
			assert_int_equal(low, high);
		load.sent_before[block] = load.sent[block];
		load.read_before[block] = load.done[block] = high;
		if (low != high)
			write_again(block);
	}
}

/* After a power loss what can be read is durable. */
static void
check_disk_after_loss(enum loss loss)
{
	check_disk(loss);
	assert_int_equal(client_blk_flush(&load.queues[0].blk), 0);
	memcpy(load.durable, load.done, VERSIONS_OF_DISK);
}

/* The device has nothing in its cache that the guest believes durable. */
static void
check_cache(void)
{
	drain();
	if (!load.write_through) {
		assert_int_equal(client_blk_flush(&load.queues[random_below(QUEUES)].blk), 0);
		memcpy(load.durable, load.done, VERSIONS_OF_DISK);
	}
	control("expect-durable");
}

/* ---- cuts ---- */

/*
 * It outlives the device's process, and no more is needed: in memory, since the device must not
 * wait for a disk that others keep busy.
 */
static const char *
disk_path(void)
{
	static char path[64];

	snprintf(path, sizeof(path), "/dev/shm/vhostd-power-loss-%d", (int)getpid());
	return path;
}

static void
add_disk(void)
{
	control("ns add 1 file %u 512 %s", DISK_BLOCKS * SECTORS, disk_path());
}

static int
remove_disk(void **state)
{
	unlink(disk_path());
	return teardown(state);
}

/* The guest has seen what was completed until then. */
static void
kill_daemon(void)
{
	daemon_kill(&rig.daemon);
	reap();
}

/* All of the machine is started again. */
static void
start_machine(enum loss loss)
{
	die();
	control("fault-clear");
	daemon_launch(&rig.daemon, NULL);
	boot();
	check_disk_after_loss(loss);
}

static void
cut_power(void)
{
	uint64_t end;

	load.dying = true;
	control("power-loss");
	end = now_ms() + random_below(MACHINE_DIES_MS);
	do {
		reap();
	} while (now_ms() < end);
	kill_daemon();
	start_machine(LOSES_BLOCKS);
}

static void
cut_power_at_command(void)
{
	int64_t connections = stat_of("connections");
	uint64_t deadline = now_ms() + DEADLINE_MS;

	control("fault power-loss queue=io nth=%u", 1 + random_below(MAX_REQUESTS));
	load.dying = true;
	for (uint64_t seen = 0;
	     stat_of("connected") == 1 && stat_of("connections") == connections;) {
		IN_TIME(deadline);
		seen += reap();
		for (unsigned int i = 0; i < QUEUES; i++)
			fill_queue(&load.queues[i]);
	}
	kill_daemon();
	start_machine(LOSES_BLOCKS);
}

static void
kill_device(void)
{
	assert_int_equal(nvme_device_violations(&rig.device, "total"), 0);
	load.dying = true;
	nvme_device_kill(&rig.device);
	kill_daemon();
	assert_int_equal(nvme_device_restart(&rig.device, NULL), 0);
	add_disk();
	start_machine(LOSES_ANYWHERE);
}

static void
restart_daemon(void)
{
	daemon_launch(&rig.daemon, NULL);
	assert_int_equal(client_device_reconnect(&load.guest), 0);
	drain();
}

/* What was under way is done by the next daemon. */
static void
kill_daemon_alone(void)
{
	kill_daemon();
	restart_daemon();
	check_disk(LOSES_NOTHING);
}

/*
 * The same, but the device has forgotten. Flushes that were asked for before say nothing about what
 * was lost then: no back-end can know.
 */
static void
cut_power_under_guest(void)
{
	kill_daemon();
	control("power-loss");
	for (unsigned int i = 0; i < QUEUES; i++)
		load.queues[i].slots[FLUSH_SLOT].across_cut = true;
	restart_daemon();
	check_disk(LOSES_BLOCKS);
}

static void (*const cut_kinds[])(void) = {
	cut_power,   cut_power_at_command, cut_power,
	kill_device, kill_daemon_alone,    cut_power_under_guest,
};

/* ---- the test ---- */

static void
test_cuts(void **state)
{
	(void)state;
	memset(&load, 0, sizeof(load));
	load.random = 11;
	assert_int_equal(nvme_device_start(&rig.device, NULL), 0);
	add_disk();
	start_daemon_on_two_cores();
	boot();
	for (unsigned int i = 0; i < cuts(); i++) {
		run(random_below(MAX_REQUESTS));
		if (random_below(4) == 0) {
			check_cache();
			run(random_below(MAX_REQUESTS));
		}
		cut_kinds[i % (sizeof(cut_kinds) / sizeof(cut_kinds[0]))]();
	}
	drain();
	die();
	fprintf(stderr, "# %lu requests, %lu flushes, %lu blocks lost what was not durable\n",
		load.completed, load.flushes, load.lost_blocks);
	/* Else nothing was tried. */
	assert_true(load.flushes > 0 && load.lost_blocks > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cuts, setup, remove_disk)};

	return cmocka_run_group_tests_name("nvme_power_loss", tests, NULL, NULL);
}
