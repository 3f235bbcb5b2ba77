/* SPDX-License-Identifier: BSD-3-Clause */
/* links: vhost virtio bdev event testlib thread env */
/*
 * A guest's virtio-blk requests, right ones and any others, on a queue of a real session. Beside
 * the daemon's code a slow device executes the same chains on a copy of the guest's memory and of
 * the disk, and both copies must stay equal byte for byte: so nothing outside the writable buffers
 * and the ring changes, every request ends once, with the right status, length and data, and a
 * queue breaks if and only if a rule was broken. Buffers may lie over each other and over the
 * rings; where it depends on the order of requests that are under way together what comes of it,
 * which is nobody's to know, all that is left to see is that nothing worse happens.
 */
#include <linux/virtio_config.h>

#include "blk_model.h"
#include "vhost/memory.h"
#include "vhost_rig.h"

#define MAX_OPS               256
#define MAX_BATCHES           512 /* in a row; memory may make new requests for ever */
#define MAX_SEGMENTS          128 /* descriptors that virtio-blk takes in any queue */
#define USER                  0x700000000000ULL
#define PROTOCOL_FEATURES_BIT 30

#define RING_GPA 0x10000ULL

/* Neighbours, one that is no whole page, and one that shows the same memory again. */
static const struct vhost_mem_region regions[] = {
	{.gpa = RING_GPA, .size = 0x1000, .user_addr = USER, .mmap_offset = 0},
	{.gpa = 0x20000, .size = 0x1000, .user_addr = USER + 0x10000, .mmap_offset = 0x1000},
	{.gpa = 0x21000, .size = 0x1800, .user_addr = USER + 0x20000, .mmap_offset = 0x2000},
	{.gpa = 0x40000, .size = 0x800, .user_addr = USER + 0x30000, .mmap_offset = 0x3800},
	{.gpa = 0x50000, .size = 0x1000, .user_addr = USER + 0x40000, .mmap_offset = 0x1000},
};
#define REGIONS ARRAY_SIZE(regions)

static const struct blk_disk disks[] = {
	{"vm0", "disk-with-a-long-name-of-more-than-20-bytes", 512, false, false},
	{"vm1", "disk4096", 4096, false, false},
	{"vm2", "readonly", 512, true, false},
	{"vm3", "null", 512, false, true},
};
#define DISKS ARRAY_SIZE(disks)

static struct {
	struct bdev_desc *descs[DISKS];
	struct bdev_channel *channels[DISKS];
	bool dirty[DISKS];
	int memory_fd;

	struct input in;
	unsigned int which; /* disk */
	int vid;
	uint64_t features;
	uint16_t next_desc; /* the driver's */
} world;

/* ---- memory ---- */

static void
guest_write(uint32_t offset, const void *data, size_t size)
{
	if (offset >= MEMORY_BYTES)
		return;
	if (size > MEMORY_BYTES - offset)
		size = MEMORY_BYTES - offset;
	memcpy(model.memory + offset, data, size);
	memcpy(model.shadow + offset, data, size);
}

static void
guest_write_u16(uint32_t offset, uint16_t value)
{
	guest_write(offset, &value, sizeof(value));
}

/* Where a guest address is in memory; MEMORY_BYTES: nowhere. */
static uint32_t
offset_of(uint64_t gpa)
{
	uint64_t left;
	const uint8_t *at = model_at(&model.ring, gpa, &left);

	return at != NULL ? (uint32_t)(at - model.shadow) : MEMORY_BYTES;
}

static void
guest_write_gpa(uint64_t gpa, const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		guest_write(offset_of(gpa + i), (const uint8_t *)data + i, 1);
}

/* ---- both ---- */

/*
 * Where the device asks for kicks is its own affair; a buffer there holds what it has written last.
 */
static void
copy_device_events(void)
{
	size_t avail_event = USED_AT + 4 + model.ring.size * sizeof(struct vring_used_elem);

	memcpy(model.shadow + USED_AT, model.memory + USED_AT, model.packed ? 4 : 2);
	if (model.event_idx && !model.packed)
		memcpy(model.shadow + avail_event, model.memory + avail_event, 2);
}

static void
settle(void)
{
	int batches;

	copy_device_events();
	for (batches = 0; batches < MAX_BATCHES && rig_poll(); batches++)
		;
	model.lost |= batches == MAX_BATCHES;
	for (batches = 0; batches < MAX_BATCHES && model_poll(); batches++)
		;
	model.lost |= batches == MAX_BATCHES;
	copy_device_events();
	if (!model.lost)
		require(memcmp(model.memory, model.shadow, MEMORY_BYTES) == 0);
}

/* ---- messages ---- */

struct exchange {
	struct vhost_message message;
	bool failed; /* refused */
};

static void
exchange_on_events(void *arg)
{
	struct exchange *exchange = arg;

	exchange->message.header.flags = 1 | VHOST_MSG_NEED_REPLY;
	exchange->failed = rig_send(world.vid, &exchange->message) == RTE_VHOST_MSG_RESULT_ERR;
}

/* Whether it was taken; the answer's payload replaces the message's. fd: or -1. */
static bool
say(uint32_t request, void *payload, uint32_t size, int fd)
{
	struct exchange exchange = {.message.header = {.request = request, .size = size}};

	memcpy(exchange.message.payload, payload, size);
	if (fd >= 0) {
		exchange.message.fds[0] = fd;
		exchange.message.fd_num = 1;
	}
	rig_run(rig.events, exchange_on_events, &exchange);
	memcpy(payload, exchange.message.payload, size);
	return !exchange.failed;
}

static void
say_mem_table(void *arg)
{
	struct vhost_msg_memory table = {.count = REGIONS};
	struct vhost_message message = {
		.header = {.request = VHOST_MSG_SET_MEM_TABLE, .flags = 1 | VHOST_MSG_NEED_REPLY}};

	(void)arg;
	memcpy(table.regions, regions, sizeof(regions));
	message.header.size = sizeof(table) - sizeof(table.regions) + sizeof(regions);
	memcpy(message.payload, &table, sizeof(table));
	message.fd_num = REGIONS;
	for (size_t i = 0; i < REGIONS; i++)
		message.fds[i] = dup(world.memory_fd);
	require(rig_send(world.vid, &message) == RTE_VHOST_MSG_RESULT_OK);
}

static bool
say_state(uint32_t request, uint32_t number)
{
	struct vhost_msg_state state = {.num = number};

	return say(request, &state, sizeof(state), -1);
}

static void
start_queue(uint32_t size, uint32_t base)
{
	struct vhost_msg_addr addr = {
		.desc = USER + DESC_AT, .avail = USER + AVAIL_AT, .used = USER + USED_AT};
	uint64_t features = world.features, kick = 0, call = VHOST_MSG_VRING_NO_FD;

	require(say(VHOST_MSG_SET_FEATURES, &features, sizeof(features), -1));
	require(say_state(VHOST_MSG_SET_VRING_NUM, size));
	require(say_state(VHOST_MSG_SET_VRING_BASE, base));
	require(say(VHOST_MSG_SET_VRING_ADDR, &addr, sizeof(addr), -1));
	require(say(VHOST_MSG_SET_VRING_CALL, &call, sizeof(call), -1));
	require(say(VHOST_MSG_SET_VRING_KICK, &kick, sizeof(kick),
		    eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)));
	require(say_state(VHOST_MSG_SET_VRING_ENABLE, 1));
}

/* Stops it and says where it stands. */
static uint32_t
stop_queue(void)
{
	struct vhost_msg_state state = {0};

	require(say(VHOST_MSG_GET_VRING_BASE, &state, sizeof(state), -1));
	return state.num;
}

/* ---- the driver ---- */

static uint64_t
pick_gpa(void)
{
	uint8_t kind = input_u8(&world.in);

	if (kind < 0x40)
		return 0x20000 + kind * 64;
	if (kind < 0x80)
		return 0x21000 + (kind - 0x40) * 64;
	if (kind < 0xa0)
		return 0x40000 + (kind - 0x80) * 64;
	if (kind < 0xc0)
		return 0x50000 + (kind - 0xa0) * 128;
	if (kind < 0xd0)
		return 0x20ff0 + kind; /* over the border */
	if (kind < 0xe0)
		return RING_GPA + input_u16(&world.in) % 0x1000;
	if (kind < 0xf8)
		return 0x20000 + input_u16(&world.in) % 0x2800;
	return input_u64(&world.in);
}

static uint32_t
pick_len(void)
{
	uint8_t kind = input_u8(&world.in);

	if (kind < 0x60)
		return kind % 9 * SECTOR;
	if (kind < 0xf0)
		return kind - 0x60;
	return kind < 0xfa ? input_u16(&world.in) : input_u32(&world.in);
}

static void
put_desc(uint32_t at, struct vring_desc desc, uint16_t id)
{
	struct vring_packed_desc packed = {
		.addr = desc.addr, .len = desc.len, .id = id, .flags = desc.flags};

	if (model.packed)
		guest_write(DESC_AT + at * sizeof(packed), &packed, sizeof(packed));
	else
		guest_write(DESC_AT + at * sizeof(desc), &desc, sizeof(desc));
}

static void
offer_split(struct vring_desc *descs, uint32_t count)
{
	uint16_t mask = model.ring.size - 1, head = world.next_desc & mask;
	uint16_t index = shadow_u16(AVAIL_AT + 2);

	for (uint32_t i = 0; i < count; i++) {
		descs[i].next = (head + i + 1) & mask;
		put_desc((head + i) & mask, descs[i], 0);
	}
	world.next_desc += count;
	guest_write_u16(AVAIL_AT + 4 + 2 * (index & mask), head);
	guest_write_u16(AVAIL_AT + 2, index + 1);
}

/* At the first place behind the device's that is not available yet. */
static void
offer_packed(struct vring_desc *descs, uint32_t count)
{
	struct vring_packed_desc desc;
	uint16_t place = model.avail, id = world.next_desc++ & (model.ring.size - 1);

	for (uint32_t i = 0; i < model.ring.size && model_load_packed(&model.ring, place, &desc);
	     i++)
		place = model_next_place(&model.ring, place, 1);
	for (uint32_t i = 0; i < count; i++) {
		descs[i].flags |= place & MODEL_WRAP ? MODEL_AVAIL : MODEL_USED;
		put_desc(place & 0x7fff, descs[i], id);
		place = model_next_place(&model.ring, place, 1);
	}
}

/* Descriptors of one chain, in the ring or in a table. */
static void
offer(struct vring_desc *descs, uint32_t count, bool indirect)
{
	uint64_t table = 0x21000 + input_u8(&world.in) * 8;

	for (uint32_t i = 0; i + 1 < count; i++)
		descs[i].flags |= VRING_DESC_F_NEXT;
	if (indirect || count > model.ring.size) {
		for (uint32_t i = 0; i < count; i++) {
			struct vring_desc entry = descs[i];

			entry.next = (uint16_t)(i + 1);
			if (model.packed) {
				entry.next = entry.flags & VRING_DESC_F_WRITE;
				entry.flags = 0;
			}
			/* In a packed table id and flags are the other way round. */
			guest_write_gpa(table + i * sizeof(entry), &entry, sizeof(entry));
		}
		descs[0] = (struct vring_desc){.addr = table,
					       .len = (uint32_t)(count * sizeof(descs[0])),
					       .flags = VRING_DESC_F_INDIRECT};
		count = 1;
	}
	if (model.packed)
		offer_packed(descs, count);
	else
		offer_split(descs, count);
}

static void
put_header(uint64_t gpa, uint8_t kind)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,          VIRTIO_BLK_T_IN,
		VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_FLUSH,        VIRTIO_BLK_T_GET_ID,
		VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES,
	};
	struct virtio_blk_outhdr header = {.type = types[kind & 7]};

	header.sector = input_u8(&world.in);
	if (header.sector >= 0xf0) {
		header.type = input_u32(&world.in) & 0xf;
		header.sector = input_u64(&world.in);
	}
	guest_write_gpa(gpa, &header, sizeof(header));
}

static uint32_t
put_ranges(uint64_t gpa)
{
	uint32_t count = input_u8(&world.in) % (MAX_RANGES + 2);

	for (uint32_t i = 0; i < count; i++) {
		struct virtio_blk_discard_write_zeroes range = {
			.sector = input_u8(&world.in), .num_sectors = input_u8(&world.in) & 0x3f};

		range.flags = range.sector >> 6;
		range.sector &= 0x3f;
		guest_write_gpa(gpa + i * sizeof(range), &range, sizeof(range));
	}
	return count * (uint32_t)sizeof(struct virtio_blk_discard_write_zeroes);
}

/* A request that is mostly right. */
static void
op_request(void)
{
	uint8_t kind = input_u8(&world.in), count = 0, data = (kind >> 3) & 3;
	bool out = (kind & 1) && (kind & 7) < 4, ranges = (kind & 7) >= 6;
	struct vring_desc descs[8];
	uint64_t gpa = pick_gpa();

	put_header(gpa, kind);
	descs[count++] = (struct vring_desc){.addr = gpa, .len = 16};
	if (kind & 0x20) {
		/* A header in two parts. */
		descs[0].len = 5;
		descs[count++] = (struct vring_desc){.addr = gpa + 5, .len = 11};
	}
	if (ranges) {
		gpa = pick_gpa();
		descs[count++] = (struct vring_desc){.addr = gpa, .len = put_ranges(gpa)};
		data = 0;
	}
	for (uint32_t i = 0; i < data; i++) {
		descs[count++] = (struct vring_desc){.addr = pick_gpa(),
						     .len = pick_len(),
						     .flags = out ? 0 : VRING_DESC_F_WRITE};
	}
	descs[count++] = (struct vring_desc){.addr = pick_gpa(),
					     .len = kind & 0x40 ? pick_len() : 1,
					     .flags = VRING_DESC_F_WRITE};
	offer(descs, count, kind & 0x80);
}

static void
op_write(void)
{
	uint16_t offset = input_u16(&world.in);
	uint8_t length = input_u8(&world.in);
	size_t size;
	const uint8_t *data = input_take(&world.in, 1 + length % 32, &size);

	guest_write(offset % MEMORY_BYTES, data, size);
}

static void
op_desc(void)
{
	struct vring_desc desc = {.addr = pick_gpa(), .len = pick_len()};
	uint8_t at = input_u8(&world.in);

	desc.flags = input_u16(&world.in);
	desc.next = input_u8(&world.in);
	put_desc(at & (model.ring.size - 1u), desc, desc.next);
}

static void
op_offer(void)
{
	uint16_t index = shadow_u16(AVAIL_AT + 2);

	if (model.packed)
		return;
	guest_write_u16(AVAIL_AT + 4 + 2 * (index & (model.ring.size - 1)), input_u8(&world.in));
	guest_write_u16(AVAIL_AT + 2, index + 1);
}

static void
op_settle(void)
{
	settle();
}

static void
op_arm(void)
{
	rig_arm_and_disarm();
	settle();
}

static void
pick_ring(void)
{
	uint8_t flags = input_u8(&world.in);

	model.packed = (flags & 1) && world.which == 0;
	model.event_idx = flags & 2;
	model.ring.indirect = !(flags & 4);
	model.ring.size = (uint16_t)(1u << (flags >> 4) % 7);
	model.ring.max_chain = model.ring.size > MAX_SEGMENTS ? model.ring.size : MAX_SEGMENTS;
	world.features = 1ULL << PROTOCOL_FEATURES_BIT | 1ULL << VIRTIO_F_VERSION_1;
	world.features |= (uint64_t)model.packed << VIRTIO_F_RING_PACKED |
			  (uint64_t)model.event_idx << VIRTIO_RING_F_EVENT_IDX |
			  (uint64_t)model.ring.indirect << VIRTIO_RING_F_INDIRECT_DESC |
			  (uint64_t)(flags >> 3 & 1) << VIRTIO_BLK_F_CONFIG_WCE;
}

/* A ring that nobody has used, in memory that is as it was. */
static void
reset_ring(void)
{
	static const uint8_t zeroes[0x1000];
	uint16_t index;

	pick_ring();
	guest_write(0, zeroes, sizeof(zeroes));
	model.broken = false;
	if (model.packed) {
		model.avail = model.used = MODEL_WRAP;
		start_queue(model.ring.size, VIRTQ_PACKED_BASE_NEW);
		return;
	}
	index = input_u16(&world.in);
	guest_write_u16(AVAIL_AT + 2, index);
	guest_write_u16(USED_AT + 2, index);
	model.avail = model.used = index;
	start_queue(model.ring.size, index);
}

static uint32_t
model_base(void)
{
	return model.packed ? model.avail | (uint32_t)model.used << 16 : model.avail;
}

static void
op_reset(void)
{
	uint32_t base;

	settle();
	base = stop_queue();
	if (!model.lost)
		require(base == model_base());
	reset_ring();
}

/* Stops and goes on; a guest that has changed the used index meanwhile gets what it asked for. */
static void
op_stop(void)
{
	uint32_t base;

	settle();
	base = stop_queue();
	if (!model.lost)
		require(base == model_base());
	start_queue(model.ring.size, base);
	model.broken = false;
	if (!model.packed)
		model.used = shadow_u16(USED_AT + 2);
	settle();
}

static void
op_wce(void)
{
	struct vhost_msg_config config = {.offset = 32, .size = 1};
	uint8_t payload[VHOST_MSG_CONFIG_HEADER + 1];

	config.data[0] = input_u8(&world.in) & 1;
	memcpy(payload, &config, sizeof(payload));
	/* Refused without the feature; so many refusals end a connection. */
	if (!(world.features >> VIRTIO_BLK_F_CONFIG_WCE & 1))
		return;
	settle();
	require(say(VHOST_MSG_SET_CONFIG, payload, sizeof(payload), -1));
	settle();
}

static void (*const ops[])(void) = {
	op_request, op_settle, op_write, op_desc,    op_request, op_settle,
	op_offer,   op_stop,   op_arm,   op_request, op_wce,     op_reset,
};

/* ---- the world ---- */

static void
transferred(struct bdev_request *rq, int status)
{
	(void)rq;
	require(status == 0);
}

/* The whole disk, in one request, which a memory disk completes at once. */
static void
transfer_disk(unsigned int which, uint8_t type, uint8_t *data)
{
	static _Alignas(16) uint8_t space[4096];
	struct bdev_request *rq = (struct bdev_request *)space;
	struct iovec iov = {.iov_base = data, .iov_len = DISK_BYTES};

	require(bdev_request_size(bdev_desc_bdev(world.descs[which])) <= sizeof(space));
	memset(space, 0, sizeof(space));
	rq->type = type;
	rq->iov = &iov;
	rq->iovcnt = 1;
	rq->length = DISK_BYTES;
	rq->done = transferred;
	thread_set_current(rig.app);
	bdev_submit(world.channels[which], rq);
	bdev_flush_submissions(world.channels[which]);
	thread_set_current(NULL);
}

static void
fill_disk(uint8_t *disk)
{
	for (uint32_t i = 0; i < DISK_BYTES; i++)
		disk[i] = (uint8_t)(i * 7 + i / SECTOR);
}

static int
create_bdev(const struct blk_disk *disk, struct errmsg *err)
{
	struct bdev_malloc_opts memory = {.name = disk->bdev,
					  .num_blocks = DISK_BYTES / disk->block_size,
					  .block_size = disk->block_size};
	struct bdev_null_opts null = {.name = disk->bdev,
				      .num_blocks = DISK_BYTES / disk->block_size,
				      .block_size = disk->block_size};
	struct bdev *bdev;

	return disk->is_null ? bdev_null_create(&null, &bdev, err)
			     : bdev_malloc_create(&memory, &bdev, err);
}

/* On the app thread. */
static void
create_disks(void *arg)
{
	struct errmsg err = {""};

	(void)arg;
	for (size_t i = 0; i < DISKS; i++) {
		struct vhost_blk_opts opts = {.name = disks[i].controller,
					      .bdev = disks[i].bdev,
					      .read_only = disks[i].read_only,
					      .packed_ring = true};

		require(create_bdev(&disks[i], &err) == 0);
		require(vhost_blk_create(&opts, &err) == 0);
		require(bdev_open(disks[i].bdev, BDEV_WRITES, "fuzz", NULL, NULL, &world.descs[i],
				  &err) == 0);
		world.channels[i] = bdev_channel_get(world.descs[i]);
		require(world.channels[i] != NULL);
	}
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static struct guest_mem_region map[REGIONS];

	(void)argc;
	(void)argv;
	rig_start();
	rig_run(rig.app, create_disks, NULL);
	world.memory_fd = memfd_create("guest", MFD_CLOEXEC);
	require(ftruncate(world.memory_fd, MEMORY_BYTES) == 0);
	model.memory =
		mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, world.memory_fd, 0);
	require(model.memory != MAP_FAILED);
	for (size_t i = 0; i < REGIONS; i++)
		map[i] = (struct guest_mem_region){.gpa = regions[i].gpa,
						   .size = regions[i].size,
						   .hva = model.shadow + regions[i].mmap_offset};
	model.ring = (struct model_ring){
		.desc = model.shadow + DESC_AT, .regions = map, .region_count = REGIONS};
	for (size_t i = 0; i < DISKS; i++)
		world.dirty[i] = !disks[i].is_null;
	return 0;
}

static void
connect_on_events(void *arg)
{
	char path[PATH_MAX + VHOST_NAME_MAX];

	(void)arg;
	snprintf(path, sizeof(path), "%s/%s", rig.folder, disks[world.which].controller);
	world.vid = rig_connect(path);
	require(world.vid >= 0);
}

static void
disconnect_on_events(void *arg)
{
	(void)arg;
	rig_disconnect(world.vid);
}

static void
begin(void)
{
	world.which = input_u8(&world.in) % DISKS;
	model.device = &disks[world.which];
	model.lost = false;
	model.dirty = false;
	world.next_desc = 0;
	fill_disk(model.disk);
	if (world.dirty[world.which])
		transfer_disk(world.which, BDEV_WRITE, model.disk);
	world.dirty[world.which] = false;
	memset(model.memory, 0, MEMORY_BYTES);
	memset(model.shadow, 0, MEMORY_BYTES);
	rig_run(rig.events, connect_on_events, NULL);
	rig_run(rig.events, say_mem_table, NULL);
	reset_ring();
}

static void
end(void)
{
	static uint8_t found[DISK_BYTES];

	settle();
	rig_run(rig.events, disconnect_on_events, NULL);
	while (rig_poll())
		;
	if (disks[world.which].is_null)
		return;
	transfer_disk(world.which, BDEV_READ, found);
	if (!model.lost)
		require(memcmp(found, model.disk, DISK_BYTES) == 0);
	world.dirty[world.which] |= model.lost || model.dirty;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	world.in = (struct input){data, size};
	begin();
	for (int i = 0; i < MAX_OPS && world.in.size > 0; i++)
		ops[input_u8(&world.in) % ARRAY_SIZE(ops)]();
	end();
	return 0;
}
