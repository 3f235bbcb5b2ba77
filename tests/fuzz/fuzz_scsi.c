/* SPDX-License-Identifier: BSD-3-Clause */
/* links: scsi reservation bdev testlib thread env */
/*
 * SCSI commands from the table of commands, right ones and any others, with any buffers and
 * parameter lists, from two initiators with three LUNs on two disks, with task management, resets
 * and changes of size in between. Whatever comes, each command ends once; nothing is written
 * outside of its buffers or behind what it says that it transferred; what a block device's memory
 * allocator or the compiler left behind is not in an answer; a command that ends in ILLEGAL REQUEST
 * has written nothing to a disk, and no disk was written at all while it was alone; and what is read
 * and written by commands that are alone is what is on the disk. How many commands there were is said
 * at the end.
 */
#include <errno.h>

#include "bdev.h"
#include "by_hand.h"
#include "coroutine.h"
#include "input.h"
#include "log.h"
#include "scsi.h"
#include "scsi/internal.h"
#include "thread.h"

#define DISK_BYTES   (128u << 10)
#define MAX_OPS      64
#define BURST        64  /* commands */
#define BURST_BYTES  256 /* of a command in it, at most */
#define MAX_PARTS    4   /* iovecs of a buffer */
#define MAX_LIST     255
#define ROUNDS_MAX   100000
#define UNTOUCHED    0xc3 /* in data-in before */
#define MALLOC_FILL  0xbe /* what AddressSanitizer puts into new memory … */
#define STACK_FILL   0xaa /* -ftrivial-auto-var-init=pattern puts into variables … */
#define LEAK         8    /* … and how much of that is no accident: inputs have none */
#define WRITER_TYPES (1u << BDEV_WRITE | 1u << BDEV_WRITE_ZEROES | 1u << BDEV_DISCARD)

enum { IO_THREADS = 2 };

struct disk {
	const char *name;
	uint32_t block_size;
	struct bdev *bdev;
	bool dirty;
	uint8_t memory[DISK_BYTES];
};

static struct disk disks[] = {{.name = "small", .block_size = 512},
			      {.name = "large", .block_size = 4096}};
#define DISKS ARRAY_SIZE(disks)

/* Who sends, to where. */
struct path {
	const char *initiator;
	unsigned int thread;
	int disk; /* -1: none */
	uint16_t number;
	bool well_known;
	struct scsi_target *target;
	struct scsi_lun *lun;
	struct scsi_channel *channel;
};

static struct path paths[] = {
	{.initiator = "a", .thread = 0, .disk = 0, .number = 0},
	{.initiator = "b", .thread = 1, .disk = 0, .number = 0},
	{.initiator = "a", .thread = 0, .disk = 1, .number = 300},
	{.initiator = "a", .thread = 0, .disk = -1},
	{.initiator = "a", .thread = 1, .disk = -1, .well_known = true},
};
#define PATHS ARRAY_SIZE(paths)

struct buffer {
	struct iovec iov[MAX_PARTS];
	struct iovec parts[MAX_PARTS]; /* the same, not modified by the library */
	uint32_t count;
	uint32_t bytes;
};

struct command {
	const struct path *path;
	struct buffer in, out;
	unsigned int finishes, writes;
	unsigned long writes_before; /* of all */
	bool alone;                  /* from beginning to end */
	bool resized;                /* a disk, meanwhile */
	struct scsi_task *task;
};

struct management {
	struct scsi_tmf tmf; /* first */
	unsigned int finishes;
};

static struct {
	struct thread *app, *io[IO_THREADS];
	struct input in;
	bool delayed;
	struct waiting {
		struct bdev_request *rq;
		struct disk *disk;
		struct thread *thread;
	} waiting[4096];
	unsigned int first_waiting, last_waiting;
	struct command commands[MAX_OPS + BURST];
	struct management managements[MAX_OPS];
	unsigned int command_count, management_count, live;
	unsigned int rows; /* of the table of commands */
	unsigned long writes, cdbs;
	uint8_t fresh[DISK_BYTES]; /* what is on a disk at the beginning */
} world;

/* ---- the disks ---- */

static void
serve(struct disk *disk, struct bdev_request *rq)
{
	uint8_t *at = disk->memory + rq->offset;

	require(rq->type == BDEV_FLUSH || rq->offset + rq->length <= DISK_BYTES);
	disk->dirty |= WRITER_TYPES >> rq->type & 1;
	for (uint32_t i = 0; i < rq->iovcnt && rq->type <= BDEV_WRITE; i++) {
		if (rq->iov[i].iov_len == 0)
			continue;
		if (rq->type == BDEV_READ)
			memcpy(rq->iov[i].iov_base, at, rq->iov[i].iov_len);
		else
			memcpy(at, rq->iov[i].iov_base, rq->iov[i].iov_len);
		at += rq->iov[i].iov_len;
	}
	if (rq->type == BDEV_WRITE_ZEROES)
		memset(at, 0, rq->length);
	bdev_complete(rq, 0);
}

static void
note_writer(const struct bdev_request *rq)
{
	const char *at = (const char *)rq;

	world.writes += WRITER_TYPES >> rq->type & 1;
	for (unsigned int i = 0; i < world.command_count; i++) {
		struct command *command = &world.commands[i];
		const char *task = (const char *)command->task;

		if (at > task && at < task + scsi_task_size())
			command->writes += WRITER_TYPES >> rq->type & 1;
	}
}

/* Each disk has its module's own ops, so that a request finds its way. */
static void
submit_to(struct disk *disk, struct bdev_request *rq)
{
	note_writer(rq);
	if (rq->type == BDEV_RESET) {
		bdev_drain(rq);
	} else if (!world.delayed) {
		serve(disk, rq);
	} else {
		world.waiting[world.last_waiting++ % ARRAY_SIZE(world.waiting)] =
			(struct waiting){rq, disk, thread_current()};
		require(world.last_waiting - world.first_waiting <= ARRAY_SIZE(world.waiting));
	}
}

static void
submit_small(void *channel_ctx, struct bdev_request *rq)
{
	(void)channel_ctx;
	submit_to(&disks[0], rq);
}

static void
submit_large(void *channel_ctx, struct bdev_request *rq)
{
	(void)channel_ctx;
	submit_to(&disks[1], rq);
}

static const struct bdev_ops disk_ops[DISKS] = {
	{.module = "fuzz", .submit = submit_small, .buffer_alignment = 1},
	{.module = "fuzz", .submit = submit_large, .buffer_alignment = 1},
};

static void
complete_one(void)
{
	const struct waiting *waiting;

	if (world.first_waiting == world.last_waiting)
		return;
	waiting = &world.waiting[world.first_waiting++ % ARRAY_SIZE(world.waiting)];
	thread_set_current(waiting->thread);
	serve(waiting->disk, waiting->rq);
	thread_set_current(NULL);
}

/* ---- threads ---- */

static int
poll_all(void)
{
	int rc = poll_once(world.app);

	for (unsigned int i = 0; i < IO_THREADS; i++)
		rc |= poll_once(world.io[i]);
	return rc;
}

static void
settle(void)
{
	for (unsigned int round = 0; poll_all() != POLLER_IDLE; round++)
		require(round < ROUNDS_MAX);
}

static void
settle_all(void)
{
	world.delayed = false;
	do {
		settle();
		complete_one();
	} while (world.first_waiting != world.last_waiting || poll_all() != POLLER_IDLE);
}

static void
on_app(void (*fn)(void *arg), void *arg)
{
	require(coroutine_start(world.app, "fuzz", fn, arg) == 0);
	settle();
}

/* ---- what has to be so when a command ends ---- */

/* The bytes of a buffer one behind the other: at most size. */
static size_t
gather(const struct buffer *buffer, uint8_t *to, size_t size)
{
	size_t length = 0;

	for (uint32_t i = 0; i < buffer->count && length < size; i++) {
		size_t part = buffer->parts[i].iov_len;

		if (part > size - length)
			part = size - length;
		memcpy(to + length, buffer->parts[i].iov_base, part);
		length += part;
	}
	return length;
}

/* READ and WRITE: where in the CDB the address and the number of blocks are (SBC-3 §5.7, §5.32). */
static const struct transfer {
	uint8_t opcode;
	bool writes;
	uint8_t lba, lba_bytes, blocks, blocks_bytes;
} transfers[] = {
	{0x28, false, 2, 4, 7, 2}, {0xa8, false, 2, 4, 6, 4}, {0x88, false, 2, 8, 10, 4},
	{0x2a, true, 2, 4, 7, 2},  {0xaa, true, 2, 4, 6, 4},  {0x8a, true, 2, 8, 10, 4},
};

static uint64_t
number(const uint8_t *bytes, unsigned int count)
{
	uint64_t value = 0;

	while (count-- > 0)
		value = value << 8 | *bytes++;
	return value;
}

static void
check_disk(const struct command *command)
{
	static uint8_t data[DISK_BYTES];
	const struct scsi_task *task = command->task;
	const struct transfer *transfer = transfers;
	const struct disk *disk;
	uint64_t offset;
	size_t length;

	while (transfer < transfers + ARRAY_SIZE(transfers) && transfer->opcode != task->cdb[0])
		transfer++;
	if (transfer == transfers + ARRAY_SIZE(transfers))
		return;
	disk = &disks[command->path->disk];
	offset = number(task->cdb + transfer->lba, transfer->lba_bytes) * disk->block_size;
	length = number(task->cdb + transfer->blocks, transfer->blocks_bytes) * disk->block_size;
	require(offset + length <= DISK_BYTES);
	require((transfer->writes ? task->transferred_out : task->transferred_in) == length);
	if (!command->alone)
		return;
	require(gather(transfer->writes ? &command->out : &command->in, data, length) == length);
	require(memcmp(data, disk->memory + offset, length) == 0);
}

static bool
is_read(uint8_t opcode)
{
	return opcode == 0x08 || opcode == 0x28 || opcode == 0xa8 || opcode == 0x88;
}

static void
check_no_leak(const uint8_t *data, size_t length)
{
	size_t run = 0;

	for (size_t i = 0; i < length; i++) {
		bool goes_on = run == 0 || data[i] == data[i - 1];

		run = data[i] == MALLOC_FILL || data[i] == STACK_FILL ? goes_on * run + 1 : 0;
		require(run < LEAK);
	}
}

static void
check_data_in(const struct command *command)
{
	static uint8_t data[DISK_BYTES];
	size_t length = gather(&command->in, data, sizeof(data));
	const struct scsi_task *task = command->task;

	require(task->transferred_in <= command->in.bytes);
	if (!is_read(task->cdb[0]))
		check_no_leak(data, length);
	check_no_leak(task->sense, task->sense_length);
	/* One that was aborted on its way may have got its data. */
	for (size_t i = task->transferred_in; i < length; i++)
		require(data[i] == UNTOUCHED || task->outcome >= SCSI_ABORTED);
}

/* It has done nothing to any disk. A disk that shrinks makes a right command wrong on its way. */
static void
check_no_writes(const struct command *command)
{
	require(command->writes == 0 || command->resized);
	require(world.writes == command->writes_before || !command->alone || command->resized);
}

static void
check_end(const struct command *command)
{
	const struct scsi_task *task = command->task;
	bool checked = task->outcome == SCSI_COMPLETE && task->status == SCSI_CHECK_CONDITION;

	require(task->outcome <= SCSI_RESET);
	require(task->sense_length <= SCSI_SENSE_MAX);
	require(task->transferred_out <= command->out.bytes);
	require(task->outcome >= SCSI_ABORTED || checked == (task->sense_length != 0));
	if (task->outcome == SCSI_OVERRUN)
		check_no_writes(command);
	if (checked) {
		uint8_t key = task->sense[0] >= 0x72 ? task->sense[1] : task->sense[2] & 0xf;

		require(task->sense[0] == 0x70 || task->sense[0] == 0xf0 || task->sense[0] == 0x72);
		if (key == SCSI_KEY_ILLEGAL_REQUEST)
			check_no_writes(command);
	}
	check_data_in(command);
	if (task->outcome == SCSI_COMPLETE && task->status == SCSI_GOOD)
		check_disk(command);
}

static void
command_done(struct scsi_task *task)
{
	unsigned int i = 0;

	while (world.commands[i].task != task)
		i++;
	world.commands[i].finishes++;
	world.live--;
	check_end(&world.commands[i]);
}

/* ---- commands ---- */

/* Small ones to the byte, larger ones in sectors. */
static uint32_t
pick_bytes(void)
{
	uint8_t value = input_u8(&world.in);

	return value < 128 ? value : (value - 128u) % 33 * 512;
}

static void
buffer_make(struct buffer *buffer, uint32_t bytes)
{
	uint8_t shape = input_u8(&world.in);

	buffer->count = bytes != 0 ? 1 + shape % MAX_PARTS : 0;
	buffer->bytes = bytes;
	for (uint32_t i = 0; i < buffer->count; i++) {
		uint32_t part = bytes * (shape >> 2) / 64;

		if (i + 1 == buffer->count)
			part = bytes;
		bytes -= part;
		buffer->parts[i] = (struct iovec){malloc(part), part};
		require(buffer->parts[i].iov_base != NULL || part == 0);
		if (part != 0)
			memset(buffer->parts[i].iov_base, UNTOUCHED, part);
	}
	memcpy(buffer->iov, buffer->parts, sizeof(buffer->iov));
}

/* The beginning from the input, and then a pattern that goes on from there. */
static void
buffer_fill(struct buffer *buffer)
{
	uint8_t list[MAX_LIST], pattern, length = input_u8(&world.in);
	size_t at = 0;

	length = length < MAX_LIST ? length : MAX_LIST;
	input_bytes(&world.in, list, length);
	pattern = length > 0 ? list[length - 1] : 0;
	for (uint32_t i = 0; i < buffer->count; i++) {
		uint8_t *bytes = buffer->parts[i].iov_base;

		for (size_t j = 0; j < buffer->parts[i].iov_len; j++, at++) {
			bytes[j] = at < length ? list[at] : pattern;
			if (bytes[j] == MALLOC_FILL || bytes[j] == STACK_FILL)
				bytes[j]++;
		}
	}
}

static void
buffer_free(struct buffer *buffer)
{
	for (uint32_t i = 0; i < buffer->count; i++)
		free(buffer->parts[i].iov_base);
}

/* Of the row's bytes, those that a mask names; bits that are not looked at only if wild. */
static void
make_cdb(struct scsi_task *task)
{
	const struct scsi_command *row = scsi_command_next(NULL);
	uint8_t which = input_u8(&world.in), wild = input_u8(&world.in);
	uint16_t mask = input_u16(&world.in);

	for (which %= world.rows; which > 0; which--)
		row = scsi_command_next(row);
	memset(task->cdb, 0, sizeof(task->cdb));
	for (int i = 1; i < 16; i++) {
		if (mask >> i & 1)
			task->cdb[i] = input_u8(&world.in);
		if (!(wild & 1))
			task->cdb[i] &= i < row->length ? row->usage[i] : 0;
	}
	task->cdb[0] = wild & 2 ? input_u8(&world.in) : row->opcode;
	if (row->flags & SCSI_CMD_ACTION)
		task->cdb[1] = (uint8_t)((task->cdb[1] & 0xe0) | row->action);
	task->cdb_length = wild & 4 ? input_u8(&world.in) % (SCSI_CDB_MAX + 1) : row->length;
}

static void
op_command(void)
{
	struct command *command = &world.commands[world.command_count];
	struct scsi_task *task;
	uint8_t how = input_u8(&world.in);

	*command = (struct command){.path = &paths[how % PATHS], .writes_before = world.writes};
	task = command->task = aligned_alloc(64, scsi_task_size());
	require(task != NULL);
	memset(task, 0xa5, scsi_task_size());
	make_cdb(task);
	buffer_make(&command->out, pick_bytes());
	buffer_fill(&command->out);
	buffer_make(&command->in, pick_bytes());
	task->target = command->path->target;
	task->lun = command->path->lun;
	task->channel = command->path->channel;
	task->tag = how >> 4;
	task->out = command->out.iov;
	task->in = command->in.iov;
	task->out_count = command->out.count;
	task->in_count = command->in.count;
	task->out_bytes = command->out.bytes;
	task->in_bytes = command->in.bytes;
	task->attribute = how >> 6;
	task->done = command_done;
	command->alone = world.live++ == 0;
	for (unsigned int i = 0; i < world.command_count && !command->alone; i++)
		world.commands[i].alone = false;
	world.command_count++;
	world.cdbs++;
	thread_set_current(world.io[command->path->thread]);
	scsi_submit(task);
	if (task->channel != NULL)
		scsi_channel_flush(task->channel);
	thread_set_current(NULL);
}

/* ---- the rest of what happens ---- */

static void
management_done(struct scsi_tmf *tmf)
{
	((struct management *)tmf)->finishes++;
	require(tmf->response <= SCSI_INCORRECT_LUN);
}

static void
op_management(void)
{
	struct management *management = &world.managements[world.management_count++];
	uint8_t how = input_u8(&world.in);
	const struct path *path = &paths[how % PATHS];

	*management = (struct management){.tmf = {.function = input_u8(&world.in) % 10,
						  .target = path->target,
						  .lun = path->lun,
						  .tag = how >> 4,
						  .done = management_done}};
	for (unsigned int i = 0; i < world.command_count; i++)
		world.commands[i].alone = false;
	thread_set_current(world.io[path->thread]);
	scsi_tmf_submit(&management->tmf);
	thread_set_current(NULL);
	require(management->finishes == 0);
}

static void
op_poll(void)
{
	poll_all();
}

static void
op_settle(void)
{
	settle();
}

static void
op_delay(void)
{
	world.delayed = input_u8(&world.in) & 1;
}

static void
op_reset(void)
{
	thread_set_current(world.app);
	scsi_target_reset(paths[input_u8(&world.in) % PATHS].target);
	thread_set_current(NULL);
}

/* Smaller and larger again; commands under way then may be behind the end. */
static void
op_resize(void)
{
	struct disk *disk = &disks[input_u8(&world.in) % DISKS];
	uint64_t blocks = DISK_BYTES / disk->block_size >> input_u8(&world.in) % 4;

	for (unsigned int i = 0; i < world.command_count; i++)
		world.commands[i].resized = true;
	thread_set_current(world.app);
	require(bdev_resize(disk->bdev, blocks) == 0);
	thread_set_current(NULL);
}

/* Each has ended, and once. */
static void
end_commands(void)
{
	settle_all();
	for (unsigned int i = 0; i < world.command_count; i++) {
		require(world.commands[i].finishes == 1);
		buffer_free(&world.commands[i].in);
		buffer_free(&world.commands[i].out);
		free(world.commands[i].task);
	}
	for (unsigned int i = 0; i < world.management_count; i++)
		require(world.managements[i].finishes == 1);
	require(world.live == 0);
	world.command_count = world.management_count = 0;
}

/* splitmix64 */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* What op_command() reads, most of it small, so that ranges fit. */
static size_t
make_random(uint64_t *state, uint8_t bytes[BURST_BYTES])
{
	for (size_t i = 0; i < BURST_BYTES; i++) {
		uint64_t random = next_random(state);

		bytes[i] = (uint8_t)(random >> 8 & (random & 3 ? random & 4 ? 0x03 : 0 : 0xff));
	}
	bytes[0] = (uint8_t)next_random(state);     /* who */
	bytes[1] = (uint8_t)next_random(state);     /* the row */
	bytes[2] &= (uint8_t)(0 - (bytes[2] >> 7)); /* few are wild */
	bytes[3] |= (uint8_t)next_random(state);    /* bytes of the CDB that are not 0 */
	return BURST_BYTES;
}

/* Many commands of few bytes of the input, which go on from a seed. */
static void
op_burst(void)
{
	uint64_t state = input_u16(&world.in);
	bool each = input_u8(&world.in) & 1; /* is alone */
	struct input rest = world.in;
	uint8_t bytes[BURST_BYTES];

	for (int i = 0; i < BURST; i++) {
		world.in = (struct input){bytes, make_random(&state, bytes)};
		op_command();
		if (each)
			settle_all();
	}
	world.in = rest;
	end_commands();
}

static void (*const ops[])(void) = {
	op_command, op_command, op_command,   op_command, op_settle,     op_settle,
	op_poll,    op_delay,   complete_one, op_reset,   op_management, op_resize,
};
#define OP_BURST 0xe0 /* and more */

/* ---- beginning and end ---- */

static void
register_disks(void *arg)
{
	struct errmsg err;

	(void)arg;
	for (unsigned int i = 0; i < DISKS; i++) {
		struct bdev_info info;
		char uuid[BDEV_UUID_TEXT];

		snprintf(uuid, sizeof(uuid), "00000000-0000-4000-8000-00000000000%u", i + 1);
		require(bdev_info_init(&info, disks[i].name, uuid, &err) == 0);
		info.product_name = "Fuzzed disk";
		info.block_size = disks[i].block_size;
		info.num_blocks = DISK_BYTES / disks[i].block_size;
		info.io_types = (1u << BDEV_IO_TYPES) - 1;
		info.write_cache = i == 0;
		info.atomic_write_bytes = i == 0 ? 8192 : 0;
		require(bdev_register(&info, &disk_ops[i], &disks[i], &disks[i].bdev, &err) == 0);
	}
}

static int
commit(void)
{
	return 0;
}

/* For run.py, which sums it up. */
static void
say_count(void)
{
	fprintf(stderr, "# fuzz_scsi: %lu CDBs\n", world.cdbs);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_print_level(LOG_LEVEL_DISABLED);
	thread_lib_init(&(struct thread_lib_ops){0});
	world.app = thread_create("app", NULL);
	for (unsigned int i = 0; i < IO_THREADS; i++)
		world.io[i] = thread_create("io", NULL);
	thread_set_current(world.app);
	require(bdev_lib_init() == 0);
	scsi_kept_start("boot", commit, NULL);
	thread_set_current(NULL);
	on_app(register_disks, NULL);
	disks[0].dirty = disks[1].dirty = true;
	for (size_t i = 0; i < DISK_BYTES; i++)
		world.fresh[i] = (uint8_t)(i / 512 % 64 + i % 64);
	for (const struct scsi_command *row = NULL; (row = scsi_command_next(row)) != NULL;)
		world.rows++;
	atexit(say_count);
	return 0;
}

static void
begin(void *arg)
{
	struct errmsg err;

	(void)arg;
	for (unsigned int i = 0; i < PATHS; i++) {
		struct path *path = &paths[i];
		struct scsi_lun_opts opts = {.number = path->number};

		path->target = scsi_target_create(path->initiator, (uint16_t)(i + 1));
		require(path->target != NULL);
		path->lun = path->well_known ? scsi_lun_well_known() : NULL;
		if (path->disk < 0)
			continue;
		opts.bdev = disks[path->disk].name;
		require(scsi_lun_add(path->target, &opts, &path->lun, &err) == 0);
	}
}

static void
end(void *arg)
{
	(void)arg;
	for (unsigned int i = 0; i < PATHS; i++) {
		if (paths[i].disk >= 0)
			scsi_lun_remove(paths[i].lun);
		scsi_target_destroy(paths[i].target);
	}
	scsi_kept_forget(NULL);
}

static void
use_channels(bool get)
{
	for (unsigned int i = 0; i < PATHS; i++) {
		if (paths[i].disk < 0)
			continue;
		thread_set_current(world.io[paths[i].thread]);
		if (get)
			paths[i].channel = scsi_channel_get(paths[i].lun);
		else
			scsi_channel_put(paths[i].channel);
		require(paths[i].channel != NULL);
	}
	thread_set_current(NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	world.in = (struct input){data, size};
	for (unsigned int i = 0; i < DISKS; i++) {
		if (disks[i].dirty)
			memcpy(disks[i].memory, world.fresh, DISK_BYTES);
		disks[i].dirty = false;
		thread_set_current(world.app);
		require(bdev_resize(disks[i].bdev, DISK_BYTES / disks[i].block_size) == 0);
		thread_set_current(NULL);
	}
	on_app(begin, NULL);
	use_channels(true);
	for (int i = 0; i < MAX_OPS && world.in.size > 0; i++) {
		uint8_t op = input_u8(&world.in);

		if (op >= OP_BURST)
			op_burst();
		else
			ops[op % ARRAY_SIZE(ops)]();
	}
	end_commands();
	use_channels(false);
	on_app(end, NULL);
	return 0;
}
